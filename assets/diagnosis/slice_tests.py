"""Slices as data unit tests: plain values that say which samples, how many at least, and what they may cost.

Belongs here: a slice's test as JSON values, and running it on a table of traits and losses. Does not: mining slices and
the table to run on (`slices.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from assets.diagnosis.slices import FEWEST_SAMPLES

BEYOND_CHANCE = 0.05
"""Slices with a larger p-value are chance: a test of one would only be noise."""
MOST_SHARE = 1.5
"""A slice may grow by half before its test fails."""
DIGITS = 4


@dataclass(frozen=True)
class SliceOutcome:
    """What a test found: mean loss in nats of the samples in the slice (None without any).

    `passed` is None where fewer samples than the test asks for are in the slice: then it says nothing.
    """

    name: str
    samples: int
    mean_loss: float | None
    passed: bool | None


def slice_tests(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tests of those slices (`Slice.row`) that stand out beyond chance."""
    return [slice_test(row) for row in rows if row["p_value"] is not None and row["p_value"] <= BEYOND_CHANCE]


def slice_test(row: Mapping[str, Any]) -> dict[str, Any]:
    """A slice (`Slice.row`) as a test that fails today and passes once more than half of its excess loss is gone.

    `highest_mean_loss` lies halfway between the slice's mean loss and that of all other samples, in nats;
    `highest_share` of all samples is what a nightly check lets the slice grow to (`frozen_slices.py`). They and
    `fewest_samples` are there to be edited.
    """
    return {
        "name": row["name"],
        "where": row["where"],
        "conditions": [{name: one[name] for name in ("trait", "side", "threshold")} for one in row["conditions"]],
        "fewest_samples": FEWEST_SAMPLES,
        "highest_mean_loss": round(row["mean_loss"] - row["difference"] / 2, DIGITS),
        "highest_share": round(min(1.0, MOST_SHARE * row["share"]), DIGITS),
        "found": {
            "samples": row["samples"],
            "share": round(row["share"], DIGITS),
            "mean_loss": round(row["mean_loss"], DIGITS),
            "mean_loss_elsewhere": round(row["mean_loss"] - row["difference"], DIGITS),
            "p_value": row["p_value"],
        },
    }


def run_slice_test(test: Mapping[str, Any], rows: pl.DataFrame) -> SliceOutcome:
    """Run a test of `slice_test` on new losses.

    Args:
        test: the test; `conditions`, `fewest_samples` and `highest_mean_loss` decide, `where` does not.
        rows: a row a sample: `loss` in nats and a column a trait (`slice_table` makes it). A sample without the loss or
            a trait of the slice (null or NaN) is not in it.

    Raises:
        ValueError: `rows` lacks a column, or a condition has another side than '<=' and '>='.
    """
    losses = slice_rows(test, rows)["loss"].cast(pl.Float64).fill_nan(None).drop_nulls().to_numpy()
    mean = float(losses.mean()) if losses.size else None
    enough = mean is not None and losses.size >= test["fewest_samples"]
    return SliceOutcome(test["name"], losses.size, mean, mean <= test["highest_mean_loss"] if enough else None)


def slice_rows(test: Mapping[str, Any], rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that meet a test's conditions, with a loss or without. Raises ValueError as `run_slice_test`."""
    columns = ["loss", *(condition["trait"] for condition in test["conditions"])]
    missing = [name for name in columns if name not in rows.columns]
    if missing:
        raise ValueError(f"slice {test['name']!r}: the table has no column {', '.join(map(repr, missing))}")
    return rows.filter(*map(_met, test["conditions"]))


def _met(condition: Mapping[str, Any]) -> pl.Expr:
    value, threshold = pl.col(condition["trait"]).cast(pl.Float64).fill_nan(None), float(condition["threshold"])
    if condition["side"] not in ("<=", ">="):
        raise ValueError(f"condition on {condition['trait']!r}: side {condition['side']!r}; expected '<=' or '>='")
    return value <= threshold if condition["side"] == "<=" else value >= threshold
