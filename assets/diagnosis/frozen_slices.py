"""Slice tests frozen in a file of the user's: every night they are run on the samples as they are then.

Belongs here: the file, what a frozen test says of a table. Does not: making tests of slices (`slice_tests.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from assets.diagnosis.slice_tests import run_slice_test, slice_rows
from resources.errors import ConfigError

NEEDED = ("name", "conditions", "fewest_samples", "highest_mean_loss", "highest_share")
LONGEST_NAME = 80

Test = Mapping[str, Any]


@dataclass(frozen=True)
class FrozenOutcome:
    """What a night's run of a test found.

    `share` of all samples and `mean_loss` in nats of those with a label (None without any); `failing`: sample_id and
    loss of the slice's samples that cost more than the test allows, the worst first, where it failed.
    """

    passed: bool
    samples: int
    share: float
    mean_loss: float | None
    detail: str
    failing: pl.DataFrame


def frozen_text(tests: Mapping[str, Sequence[Test]]) -> str:
    """The file of frozen tests by target."""
    return json.dumps({"targets": {name: list(found) for name, found in tests.items()}}, indent=1) + "\n"


def read_frozen(path: Path, target: str) -> dict[str, Test]:
    """A target's frozen tests, each under a name that Dagster takes. Raises ConfigError for another kind of file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["targets"].get(target, [])
        missing = [name for test in found for name in NEEDED if name not in test]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"checks.slice_tests: {path}: expected what 'domain-gap export slice-tests' writes "
            f"({type(error).__name__}: {' '.join(str(error).split())})"
        ) from None
    if missing:
        raise ConfigError(f"checks.slice_tests: {path}: a test of {target} has no {missing[0]!r}; export it anew")
    named: dict[str, Test] = {}
    for test in found:
        name = plain = "slice_" + re.sub(r"[^a-z0-9]+", "_", test["name"].lower()).strip("_")[:LONGEST_NAME]
        while name in named:
            name = f"{plain}_{len(named)}"
        named[name] = test
    return named


def run_frozen(test: Test, traits: pl.DataFrame, evaluation: pl.DataFrame) -> FrozenOutcome:
    """Run a frozen test on a target as it is: its share of all samples, and its mean loss where there are labels.

    A slice of fewer samples than `fewest_samples` passes: it says nothing.

    Args:
        test: as exported, thresholds perhaps edited.
        traits: the target's traits table.
        evaluation: its evaluation, with `loss`.

    Raises:
        ValueError: the traits table lacks a trait of the test.
    """
    rows = traits.join(evaluation.select("sample_id", "loss"), on="sample_id", how="left").sort("sample_id")
    inside = slice_rows(test, rows)
    share = inside.height / rows.height if rows.height else 0.0
    loss = run_slice_test(test, rows)
    if inside.height < test["fewest_samples"]:
        detail = f"says nothing: {inside.height} samples are in the slice, it takes {test['fewest_samples']}"
        return FrozenOutcome(True, inside.height, share, loss.mean_loss, detail, _costly(inside, test).clear())
    grown = share > test["highest_share"]
    passed = not grown and loss.passed is not False
    detail = f"{share:.1%} of all samples (at most {test['highest_share']:.1%}), " + _loss_told(test, loss.mean_loss)
    failing = _costly(inside, test)
    return FrozenOutcome(passed, inside.height, share, loss.mean_loss, detail, failing.clear() if passed else failing)


def _loss_told(test: Test, mean_loss: float | None) -> str:
    if mean_loss is None:
        return "no loss without labels"
    return f"mean loss {mean_loss:.3f} (at most {test['highest_mean_loss']:.3f})"


def _costly(inside: pl.DataFrame, test: Test) -> pl.DataFrame:
    """The slice's samples above the loss that it may have; all of it where none is: then it is their number."""
    costly = inside.filter(pl.col("loss") > test["highest_mean_loss"])
    found = costly if not costly.is_empty() else inside
    return found.select("sample_id", "loss").sort("loss", "sample_id", descending=[True, False], nulls_last=True)
