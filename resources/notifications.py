"""Telling somebody: one sentence to the apprise URLs of the config.

Belongs here: sending. Does not: deciding when (pipelines), secrets in logs (URLs are never printed).
"""

from __future__ import annotations

import logging
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
        accepted = [service.add(url) for url in self.urls]
        sent = all(accepted) and bool(service.notify(title=title, body=body))
        if not sent:
            refused = [number for number, fine in enumerate(accepted, start=1) if not fine]
            where = f"entries {refused} of alerts.notify are no apprise URLs" if refused else "a service refused it"
            _log.warning("alert not sent: %s", where)
        return sent
