"""Checks of the manifest, by Great Expectations; failures of severity ERROR block what comes after."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import polars as pl

from assets import door
from assets.ingestion.quality import CHECK_NAMES, WARNING_CHECKS, CheckResult, check_manifest, other_hashes
from resources.config import GapConfig
from resources.sample_store import SampleStore

SHOWN = 50
ROWS = ("sample_id", "reason", "part", "group", "width", "height", "image", "mask")


def build(config: GapConfig, key: str) -> list[dg.AssetChecksDefinition]:
    """Checks of one data set's manifest."""
    asset = dg.AssetKey([key, "manifest"])
    source = [] if key == "source" else [dg.AssetKey(["source", "manifest"])]
    specs = [
        dg.AssetCheckSpec(
            name, asset=asset, blocking=name not in WARNING_CHECKS, additional_deps=source,
            description=f"Great Expectations: {name.replace('_', ' ')}.",
        )
        for name in CHECK_NAMES
    ]  # fmt: skip

    @dg.multi_asset_check(name=f"{key}__quality", specs=specs)
    def quality(store: dg.ResourceParam[SampleStore]) -> Iterator[dg.AssetCheckResult]:
        manifest = store.table(key, "manifest").read()
        results = check_manifest(
            manifest, is_source=key == "source",
            max_quarantined=config.quality.max_quarantined, other_hashes=other_hashes(store, key),
        )  # fmt: skip
        store.write_json([vars(result) for result in results], "quality", f"{key}.json")
        for result in results:
            yield dg.AssetCheckResult(
                check_name=result.name, asset_key=asset, passed=result.passed,
                severity=dg.AssetCheckSeverity[result.severity], description=result.detail,
                metadata=_failing(manifest, result),
            )  # fmt: skip

    return [quality]


def _failing(manifest: pl.DataFrame, result: CheckResult) -> dict[str, Any]:
    """How many samples fail, and their rows of the manifest."""
    rows = manifest.filter(pl.col("sample_id").is_in(result.samples[:SHOWN])).select(ROWS)
    return {"failing": len(result.samples)} | ({} if rows.is_empty() else {"rows": door.table(rows)})
