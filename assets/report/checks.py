"""Check of the report against the alert thresholds; a crossed one is told to whom the config names."""

import dagster as dg

from assets.report.alerts import breached
from assets.report.document import ReportDocument
from resources.config import GapConfig
from resources.notifications import Notifier
from resources.sample_store import SampleStore


def build(config: GapConfig, key: str) -> list[dg.AssetChecksDefinition]:
    """`within_alert_thresholds` of one target's report; passes where no threshold is set."""
    asset = dg.AssetKey([key, "gap_report"])

    @dg.asset_check(
        name="within_alert_thresholds", asset=asset, description="The report's figures against the config's alerts."
    )
    def within_alert_thresholds(
        context: dg.AssetCheckExecutionContext,
        store: dg.ResourceParam[SampleStore],
        notifier: dg.ResourceParam[Notifier],
    ) -> dg.AssetCheckResult:
        document = ReportDocument.model_validate_json(store.read("reports", key, "report.json"))
        found = breached(document, config.alerts, _previous_gap_closed(context.instance, asset))
        if found:
            notifier.send(f"Domain Gap: {key}", f"{document.headline}\n{'; '.join(found)}")
        return dg.AssetCheckResult(passed=not found, description="; ".join(found) or "within the thresholds")

    return [within_alert_thresholds]


def _previous_gap_closed(instance: dg.DagsterInstance, asset: dg.AssetKey) -> float | None:
    """What the recipe closed in the report before the latest."""
    records = instance.fetch_materializations(asset, limit=2).records
    if len(records) < 2 or records[1].asset_materialization is None:  # noqa: PLR2004
        return None
    value = records[1].asset_materialization.metadata.get("recipe_gap_closed")
    return float(value.value) if isinstance(value, dg.FloatMetadataValue) and value.value is not None else None
