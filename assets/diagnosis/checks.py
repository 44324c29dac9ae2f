"""Checks of slices: tests that the user froze in a file, run with the traits and every night; none blocks."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets import door
from assets.diagnosis.frozen_slices import FrozenOutcome, read_frozen, run_frozen
from resources.config import GapConfig
from resources.sample_store import SampleStore

SHOWN = 50


def build(config: GapConfig, key: str) -> list[dg.AssetChecksDefinition]:
    """The frozen slice tests of one target; nothing where the config names no file or the file no such target."""
    path = config.checks.slice_tests
    tests = read_frozen(path, key) if path is not None else {}
    if not tests:
        return []
    asset = dg.AssetKey([key, "traits"])
    specs = [
        dg.AssetCheckSpec(
            name, asset=asset, additional_deps=[dg.AssetKey([key, "evaluation"])], blocking=False,
            description=f"Slice test: {test['name']}.",
        )
        for name, test in tests.items()
    ]  # fmt: skip

    @dg.multi_asset_check(name=f"{key}__slices", specs=specs)
    def slices(store: dg.ResourceParam[SampleStore]) -> Iterator[dg.AssetCheckResult]:
        traits, evaluation = store.table(key, "traits").read(), store.table(key, "evaluation").read(["loss"])
        for name, test in tests.items():
            try:
                outcome = run_frozen(test, traits, evaluation)
            except ValueError as error:
                yield _result(name, asset, passed=False, description=str(error))
            else:
                yield _result(name, asset, outcome.passed, outcome.detail, outcome)

    return [slices]


def _result(
    name: str, asset: dg.AssetKey, passed: bool, description: str, outcome: FrozenOutcome | None = None
) -> dg.AssetCheckResult:
    """A result of severity WARN: what fails here is a slice that costs too much, not a broken run."""
    metadata: dict[str, Any] = {}
    if outcome is not None:
        figures = {"samples": outcome.samples, "share": outcome.share, "mean_loss": outcome.mean_loss}
        metadata |= {name: value for name, value in figures.items() if value is not None}
        if not outcome.failing.is_empty():
            metadata |= {"failing": outcome.failing.height, "rows": door.table(outcome.failing.head(SHOWN))}
    return dg.AssetCheckResult(
        check_name=name, asset_key=asset, passed=passed, severity=dg.AssetCheckSeverity.WARN, description=description,
        metadata=metadata,
    )  # fmt: skip
