"""Telling what broke a rule: once, then not again until its cool-down is over.

Belongs here: which alerts are due, the message, and when each was sent, kept in the store. Does not: the rules
(`alerts.py`), sending (`resources/notifications.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from urllib.parse import urlsplit, urlunsplit

from assets.report.alerts import Alert, found_alerts
from assets.report.changes import changes_between
from assets.report.history import read_history
from assets.report.night import FigureChange, Night
from resources.config import AlertsConfig, GapConfig
from resources.notifications import Notifier
from resources.sample_store import SampleStore, StoreError


def tell_alerts(config: GapConfig, store: SampleStore, key: str, notifier: Notifier, now: datetime) -> list[Alert]:
    """All rules that a target breaks; those that are due are sent in one message."""
    nights = read_history(store, key)

    def differ(before: Night, after: Night) -> list[FigureChange]:
        return changes_between(store, key, before, after, config.statistics)[0]

    found = found_alerts(nights, config.alerts, now, differ)
    sent = _sent(store, key)
    due = due_alerts(found, sent, config.alerts, now)
    if due and notifier.urls and notifier.send(f"Domain Gap: {key}", message(store, key, nights, due, config.alerts)):
        store.write_json(sent | {alert.key: now.isoformat() for alert in due}, "alerts", f"{key}.json")
    return found


def due_alerts(found: Sequence[Alert], sent: dict[str, str], rules: AlertsConfig, now: datetime) -> list[Alert]:
    """Alerts whose cool-down is over. `sent`: when each was last told, by its key."""
    return [
        alert for alert in found
        if alert.key not in sent
        or now - datetime.fromisoformat(sent[alert.key]) >= timedelta(hours=rules.cooldown(alert.rule))
    ]  # fmt: skip


def message(store: SampleStore, key: str, nights: Sequence[Night], due: Sequence[Alert], rules: AlertsConfig) -> str:
    """The report's headline, what broke a rule, and where to read on."""
    figures = nights[-1].figures
    told = "; ".join(alert.text for alert in due)
    return "\n".join([*([figures.headline] if figures is not None else []), told, trend_link(store, key, rules)])


def trend_link(store: SampleStore, key: str, rules: AlertsConfig) -> str:
    """Where a target's trend page is: under the config's `link`, else in the store; without credentials."""
    if rules.link is not None:
        return f"{rules.link.rstrip('/')}/{key}/trend.html"
    address = f"{store.url}/reports/{key}/trend.html"
    if "://" not in address:
        return address
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _sent(store: SampleStore, key: str) -> dict[str, str]:
    try:
        return dict(store.read_json("alerts", f"{key}.json"))
    except StoreError:
        return {}
