"""Telling somebody: one sentence to the apprise URLs of the config.

Belongs here: sending. Does not: deciding when (pipelines), secrets in logs (URLs are never printed).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notifier:
    """Sends to all URLs; without any it is silent."""

    urls: tuple[str, ...] = ()

    def send(self, title: str, body: str) -> bool:
        """Send one message; False (and a warning without the URLs) where any service refused it."""
        if not self.urls:
            return True
        import apprise

        service = apprise.Apprise()
        with _silent_library():
            accepted = [service.add(url) for url in self.urls]
            told = any(accepted) and bool(service.notify(title=title, body=body))
        sent = all(accepted) and told
        if not sent:
            refused = [number for number, fine in enumerate(accepted, start=1) if not fine]
            where = f"entries {refused} of alerts.notify are no apprise URLs" if refused else "a service refused it"
            _log.warning("alert not sent: %s", where)
        return sent


@contextmanager
def _silent_library() -> Iterator[None]:
    """apprise logs addresses that it can't use as they are, with the secrets in them."""
    library = logging.getLogger("apprise")
    before, library.disabled = library.disabled, True
    try:
        yield
    finally:
        library.disabled = before
