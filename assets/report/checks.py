"""Checks of the report against the rules of the config's alerts, and of the nights against their schedule."""

import dagster as dg

from resources.clock import Clock
from resources.config import GapConfig
from resources.notifications import Notifier
from resources.sample_store import SampleStore


def build(config: GapConfig, key: str) -> list[dg.AssetChecksDefinition]:
    """`within_alert_thresholds` of one target's report; passes where no rule is set. What it finds due is sent."""

    @dg.asset_check(
        name="within_alert_thresholds", asset=dg.AssetKey([key, "gap_report"]),
        description="The report's figures against the config's alerts.",
    )  # fmt: skip
    def within_alert_thresholds(
        store: dg.ResourceParam[SampleStore], notifier: dg.ResourceParam[Notifier], clock: dg.ResourceParam[Clock]
    ) -> dg.AssetCheckResult:
        from assets.report.telling import tell_alerts

        found = [alert.text for alert in tell_alerts(config, store, key, notifier, clock.now())]
        return dg.AssetCheckResult(passed=not found, description="; ".join(found) or "within the thresholds")

    return [within_alert_thresholds]
