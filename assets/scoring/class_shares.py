"""How far the mix of classes in the target lies from the holdout's: Jensen–Shannon divergence of their class shares.

Belongs here: class counts of samples, their divergence with interval, p-value and noise floor.
Does not: the divergence itself (statistics), what a class's share costs (diagnosis), latents (latent_gap).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from assets.inference.losses import list_column
from assets.scoring.latent_gap import SMALLEST_SET, UNKNOWN, Measurement
from assets.statistics.effect_sizes import jensen_shannon, jensen_shannon_rows
from assets.statistics.resampling import (
    Names,
    bootstrap_weights,
    equal_draws,
    even_units,
    percentile_interval,
    permute_units,
    pooled_units,
)

Floats = NDArray[np.float64]

TIE = 1e-12


@dataclass(frozen=True)
class ClassCounts:
    """Samples of one set: `counts` (n, C), which a class's share is the sum of, and the dependence unit of each."""

    counts: Floats
    units: list[str]


def labelled_pixels(evaluation: pl.DataFrame, manifest: pl.DataFrame, part: str) -> ClassCounts:
    """Labelled pixels of each class, of the samples of one part that have any: shares are of all labelled pixels."""
    labelled = evaluation.filter(pl.col("labelled") & (pl.col("pixels") > 0))
    return _class_counts(labelled, manifest, part, "class_pixels")


def predicted_shares(evaluation: pl.DataFrame, manifest: pl.DataFrame, part: str) -> ClassCounts:
    """Share of each class in each picture's prediction: every picture counts alike, whatever size it was judged at."""
    found = _class_counts(evaluation, manifest, part, "predicted_pixels")
    return ClassCounts(found.counts / found.counts.sum(axis=1, keepdims=True), found.units)


def class_share_gap(
    holdout: ClassCounts, target: ClassCounts, *, permutations: int, bootstrap: int, floor_draws: int, seed: int
) -> Measurement:
    """Jensen–Shannon divergence of the class shares in bits: 0 for the same mix of classes, 1 for none in common.

    A set's shares are the sums of its counts. Few units lift the divergence above 0 without any gap, so read it against
    its floor: the 95% point between halves of the holdout that share no unit, at most half as large as the smaller set.
    The interval resamples whole units and is centred on the value (a resampled unit repeats, which lifts the divergence
    once more) and cut at 0. The p-value permutes set labels over units thinned to even sizes (`even_units`):
    (1 + #{permuted ≥ observed}) / (permutations + 1).

    Args:
        holdout: class counts of the source's holdout.
        target: class counts of the target.
        permutations: of the test.
        bootstrap: draws of the interval.
        floor_draws: draws of the noise floor.
        seed: of all randomness.

    Returns:
        The divergence; NaN where a side has no counts; the value alone below 8 samples or 2 units on a side.

    Raises:
        ValueError: sides with different numbers of classes.
    """
    sides = (holdout, target)
    if any(not len(side.units) for side in sides):
        return UNKNOWN
    value = jensen_shannon(holdout.counts.sum(axis=0), target.counts.sum(axis=0))
    if any(len(side.units) < SMALLEST_SET or len(set(side.units)) < 2 for side in sides):  # noqa: PLR2004
        return Measurement(value, None, None, None)
    rng = np.random.default_rng(seed)
    return Measurement(
        value,
        _interval(holdout, target, value, bootstrap, rng),
        _p_value(holdout, target, permutations, rng),
        _noise_floor(holdout, target.units, floor_draws, rng),
    )


def _class_counts(evaluation: pl.DataFrame, manifest: pl.DataFrame, part: str, column: str) -> ClassCounts:
    members = manifest.filter(pl.col("part") == part).select("sample_id", "unit")
    rows = evaluation.select("sample_id", column).join(members, on="sample_id", how="inner").sort("sample_id")
    if rows.is_empty():
        return ClassCounts(np.empty((0, 0)), [])
    return ClassCounts(list_column(rows, column), rows["unit"].to_list())


def _interval(
    holdout: ClassCounts, target: ClassCounts, value: float, bootstrap: int, rng: np.random.Generator
) -> tuple[float, float]:
    resampled = (bootstrap_weights(side.units, bootstrap, rng) @ side.counts for side in (holdout, target))
    draws = jensen_shannon_rows(*resampled)
    low, high = percentile_interval(draws - np.nanmean(draws) + value)
    return max(low, 0.0), high


def _p_value(holdout: ClassCounts, target: ClassCounts, permutations: int, rng: np.random.Generator) -> float:
    observed = np.repeat([False, True], [len(holdout.units), len(target.units)])
    permuted = permute_units(observed, pooled_units(holdout.units, target.units), permutations, rng)
    even = even_units(holdout.units, target.units)
    labels = np.concatenate([observed[None], permuted])[:, even].astype(np.float64)
    counts = np.concatenate([holdout.counts, target.counts])[even]
    found = jensen_shannon_rows((1 - labels) @ counts, labels @ counts)
    return (1 + int(np.count_nonzero(found[1:] >= found[0] - TIE))) / (permutations + 1)


def _noise_floor(holdout: ClassCounts, target_units: Names, count: int, rng: np.random.Generator) -> float | None:
    draws = equal_draws(holdout.units, target_units, count, rng, len(holdout.units))
    halves = ((draw.holdout, draw.other_holdout) for draw in draws)
    floors = [jensen_shannon(_total(holdout, one), _total(holdout, other)) for one, other in halves]
    floor = float(np.quantile(floors, 0.95))
    return floor if math.isfinite(floor) else None


def _total(side: ClassCounts, samples: ArrayLike) -> Floats:
    summed: Floats = side.counts[np.asarray(samples)].sum(axis=0)
    return summed
