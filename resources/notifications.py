"""Telling somebody: one sentence to the apprise URLs of the config.

Belongs here: sending. Does not: deciding when (pipelines), secrets in logs (URLs are never printed).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notifier:
    """Sends to all URLs; without any it is silent."""

    urls: tuple[str, ...] = field(default=(), repr=False)

    def send(self, title: str, body: str) -> bool:
        """Send one message; False (and a warning without the URLs) where any service refused it."""
        if not self.urls:
            return True
        import apprise

        service = apprise.Apprise()
        with _silent_libraries():
            try:
                accepted = [service.add(url) for url in self.urls]
                told = any(accepted) and bool(service.notify(title=title, body=body))
            except Exception as error:  # a plugin's own; its text may hold the address, and no run fails for an alert
                _log.warning("alert not sent: %s in apprise", type(error).__name__)
                return False
        sent = all(accepted) and told
        if not sent:
            refused = [number for number, fine in enumerate(accepted, start=1) if not fine]
            where = f"entries {refused} of alerts.notify are no apprise URLs" if refused else "a service refused it"
            _log.warning("alert not sent: %s", where)
        return sent


_TALKATIVE = ("apprise", "urllib3.connectionpool", "urllib3.util.retry", "requests")
"""apprise logs addresses that it can't use as they are, urllib3 the paths that it asks for: both hold secrets."""


@contextmanager
def _silent_libraries() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, was in zip(loggers, before, strict=True):
            logger.disabled = was
