"""Is the data sound: Great Expectations over the manifest, each failure with the samples that it names.

Belongs here: expectations on manifests. Does not: finding or decoding files (`manifest.py`), Dagster's check results.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from resources.sample_store import SampleStore

SHOWN = 20
"""How many failing samples a check names."""


@dataclass(frozen=True)
class CheckResult:
    """One check of a manifest: what was expected, whether it holds, and the samples for which it does not."""

    name: str
    passed: bool
    severity: Literal["WARN", "ERROR"]
    detail: str
    samples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Expected:
    name: str
    severity: Literal["WARN", "ERROR"]
    says: str
    expectation: Any


CHECK_NAMES = ("unique_ids", "sizes", "readable", "quarantine_share", "labelled_classes", "parts", "no_leak")
WARNING_CHECKS = frozenset({"readable", "labelled_classes"})
"""Checks that warn; a failure of any other stops what comes after."""


def check_manifest(
    manifest: pl.DataFrame, *, is_source: bool, max_quarantined: float, other_hashes: Sequence[str]
) -> list[CheckResult]:
    """All checks of one manifest, in the order of `CHECK_NAMES`.

    `other_hashes`: content hashes of the pictures that must not occur here (the source's, for a target). A source is
    checked against itself: no picture in both reference and holdout.
    """
    frame = _frame(manifest, is_source=is_source, other_hashes=other_hashes)
    expected = _expectations(is_source=is_source, max_quarantined=max_quarantined)
    results = _validate(frame, [item.expectation for item in expected])
    return [_result(item, result) for item, result in zip(expected, results, strict=True)]


def other_hashes(store: SampleStore, key: str) -> list[str]:
    """Content hashes of the source's used pictures, which a target must not hold; none for the source itself."""
    table = store.table("source", "manifest")
    if key == "source" or not table.exists:
        return []
    used = table.read(["image_hash", "part", "quarantined"]).filter(
        (pl.col("part") != "unused") & ~pl.col("quarantined")
    )
    return [str(digest) for digest in used["image_hash"]]


def _frame(manifest: pl.DataFrame, *, is_source: bool, other_hashes: Sequence[str]) -> Any:
    used = manifest.filter(pl.col("part") != "unused")
    forbidden = set(other_hashes)
    if is_source:
        pictures = used.filter(~pl.col("quarantined"))  # two empty files are equal, and neither is used
        parts = {part: set(pictures.filter(pl.col("part") == part)["image_hash"]) for part in ("reference", "holdout")}
        forbidden = parts["reference"] & parts["holdout"]
    pixels = pl.col("class_pixels").list.sum()
    return used.select(
        "sample_id",
        "part",
        shorter_side=pl.min_horizontal("height", "width"),
        readable=~pl.col("quarantined"),
        quarantined=pl.col("quarantined").cast(pl.Float64),
        has_classes=~(pl.col("mask").is_not_null() & ~pl.col("quarantined") & (pixels == 0)),
        leaks=pl.col("image_hash").is_in(sorted(forbidden)) & ~pl.col("quarantined"),
    ).to_pandas()


def _expectations(*, is_source: bool, max_quarantined: float) -> list[_Expected]:
    gx = _great_expectations()
    parts = ["reference", "holdout"] if is_source else ["target"]
    other = "in both reference and holdout" if is_source else "also in the source"
    expect = gx.expectations
    return [
        _Expected("unique_ids", "ERROR", "every sample has its own id",
                  expect.ExpectColumnValuesToBeUnique(column="sample_id")),
        _Expected("sizes", "ERROR", "every readable picture has at least 16 pixels a side",
                  expect.ExpectColumnValuesToBeBetween(column="shorter_side", min_value=16)),
        _Expected("readable", "WARN", "every picture and mask can be used; those that can't are quarantined",
                  expect.ExpectColumnValuesToBeInSet(column="readable", value_set=[True])),
        _Expected("quarantine_share", "ERROR", f"at most {max_quarantined:.0%} of the samples are quarantined",
                  expect.ExpectColumnMeanToBeBetween(column="quarantined", max_value=max_quarantined)),
        _Expected("labelled_classes", "WARN", "every mask has pixels of the config's classes",
                  expect.ExpectColumnValuesToBeInSet(column="has_classes", value_set=[True])),
        _Expected("parts", "ERROR", f"there are samples in {' and '.join(parts)}",
                  expect.ExpectColumnDistinctValuesToContainSet(column="part", value_set=parts)),
        _Expected("no_leak", "ERROR", f"no picture (by content) is {other}",
                  expect.ExpectColumnValuesToBeInSet(column="leaks", value_set=[False])),
    ]  # fmt: skip


def _validate(frame: Any, expectations: list[Any]) -> list[Any]:
    gx = _great_expectations()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batch = (
        context.data_sources.add_pandas("manifest")
        .add_dataframe_asset("manifest")
        .add_batch_definition_whole_dataframe("all")
        .get_batch({"dataframe": frame})
    )
    details = {"result_format": "COMPLETE", "unexpected_index_column_names": ["sample_id"]}
    return [batch.validate(expectation, result_format=details) for expectation in expectations]


def _result(expected: _Expected, result: Any) -> CheckResult:
    failing = [entry["sample_id"] for entry in result.result.get("unexpected_index_list") or []]
    detail = expected.says
    if not result.success and result.exception_info.get("raised_exception"):
        detail = f"{detail}; the check itself failed: {result.exception_info.get('exception_message')}"
    elif not result.success and failing:
        more = f" and {len(failing) - SHOWN} more" if len(failing) > SHOWN else ""
        detail = f"{detail}; not so for {len(failing)}: {', '.join(failing[:SHOWN])}{more}"
    elif not result.success and (missing := result.result.get("partial_missing_list")):
        detail = f"{detail}; none in {' and '.join(missing)}"
    elif not result.success:
        detail = f"{detail}; found {result.result.get('observed_value')}"
    return CheckResult(expected.name, bool(result.success), expected.severity, detail, failing)


def _great_expectations() -> Any:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    return gx
