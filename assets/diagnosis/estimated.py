"""The gap of a target without labels: its loss and accuracy estimated, with the estimates' own errors.

Belongs here: fitting the calibration that losses are read by, average thresholded confidence, the estimated gap.
Does not: sums over pixels (`inference/estimation.py`), passes over imitations (`experiments/calibrate.py`), the
measured gap (`loss_gap.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.diagnosis.loss_gap import MINIMUM_UNITS, SetPerformance, accuracies, performance, weighted_means
from assets.inference.estimation import CONFIDENCE_EDGES, TEMPERATURES, Calibration, rescaled
from assets.inference.losses import list_column
from assets.statistics.resampling import bootstrap_weights, percentile_interval

Floats = NDArray[np.float64]
POWERS = (0.5, 4.0)
SCALE_DRAWS = 400


@dataclass(frozen=True)
class Shifted:
    """Labelled pictures under one imitation (or untouched): true loss (n,), expected loss (n, temperatures)."""

    name: str
    loss: Floats
    expected: Floats


@dataclass(frozen=True)
class EstimatedAccuracy:
    """Share of pixels that are right, by average thresholded confidence: mean over pictures.

    `threshold` is of the confidence, in its own scale; `by_entropy` the same estimate by negative entropy.
    """

    source: float
    target: float
    ci95: tuple[float, float] | None
    threshold: float
    by_entropy: float


@dataclass(frozen=True)
class EstimatedGap:
    """Estimated loss of the target against the measured one of the holdout.

    The interval holds the spread of units on both sides and the estimator's own error. `detected` where the whole of
    it lies above 0.
    """

    source: SetPerformance
    target_loss: float
    value: float
    ci95: tuple[float, float]
    p_value: float
    accuracy: EstimatedAccuracy
    calibration: Calibration

    @property
    def detected(self) -> bool:
        """Whether the target's loss is higher beyond its noise and the estimator's error."""
        return self.ci95[0] > 0


def estimated_rows(evaluation: pl.DataFrame, manifest: pl.DataFrame, calibration: Calibration) -> pl.DataFrame:
    """Evaluation rows of the target's samples with estimated losses, as `labelled_rows` gives measured ones.

    `loss_sum` and `class_pixels` are those that the calibrated probabilities lead one to expect.
    """
    members = manifest.filter((pl.col("part") == "target") & ~pl.col("quarantined"))
    rows = evaluation.join(members.select("sample_id", "group", "unit", "report_half"), on="sample_id", how="inner")
    rows = rows.sort("sample_id")
    if rows.is_empty():
        return rows
    loss, pixels = (
        list_column(rows, name).reshape(rows.height, len(TEMPERATURES), -1)[:, calibration.step]
        for name in ("expected_loss", "expected_pixels")
    )
    loss = rescaled(loss, pixels, calibration)
    return rows.with_columns(
        loss=pl.Series(loss.sum(1) / pixels.sum(1)), loss_sum=pl.Series(loss.tolist(), dtype=pl.List(pl.Float64)),
        class_pixels=pl.Series(pixels.tolist(), dtype=pl.List(pl.Float64)),
    )  # fmt: skip


def expected_losses(rows: pl.DataFrame) -> Floats:
    """Mean expected loss of evaluation rows at every temperature, (n, temperatures)."""
    loss, pixels = (
        list_column(rows, name).reshape(rows.height, len(TEMPERATURES), -1).sum(2)
        for name in ("expected_loss", "expected_pixels")
    )
    found: Floats = loss / pixels
    return found


def best_step(loss: Floats, expected: Floats) -> int:
    """The temperature at which labelled pictures' expected loss (n, temperatures) meets their true one (n,).

    That is where the temperature minimises their cross-entropy (Guo et al. 2017), by the minimum's first-order
    condition; void pixels, for which there is no cross-entropy, are in the expectation as they are in the target's.
    """
    return int(np.abs(np.log(expected.mean(0)) - math.log(loss.mean())).argmin())


def accuracy_by_threshold(holdout: Floats, accuracy: float, target: Floats) -> tuple[float, float]:
    """Average thresholded confidence (Garg et al. 2022): the threshold, and the target's estimated accuracy.

    `holdout`, `target`: counts of pixels by score, (bins,), ascending. The threshold (in bins, interpolated) is where
    the share of the holdout's pixels below it is its error; the target's accuracy is the share of its pixels above.
    """
    below = np.concatenate([[0.0], np.cumsum(holdout) / holdout.sum()])
    places = np.arange(len(below), dtype=np.float64)
    threshold = float(np.interp(1 - accuracy, below, places))
    share = np.concatenate([[0.0], np.cumsum(target) / target.sum()])
    return threshold, 1 - float(np.interp(threshold, places, share))


def fit_calibration(holdout: pl.DataFrame, untouched: Shifted, shifted: Sequence[Shifted]) -> Calibration:
    """The calibration of a source: exact on its holdout, bent to fit the holdout's labelled imitations.

    Temperature and scale make the mean estimate over `holdout` (labelled evaluation rows) its mean loss. Away from the
    source a model is surer of itself than it should be: the power is the one with which imitations' mean losses are
    met best, in logarithms, from the `untouched` pictures that they were made of. Errors are those of each imitation
    when the power is fitted without its kind (`Shifted.name`).
    """
    loss, expected = holdout["loss"].to_numpy().astype(np.float64), expected_losses(holdout)
    step = best_step(loss, expected)
    power = _power(step, untouched, shifted)
    powered = expected[:, step] ** power
    spread = _scale_spread(loss, powered, holdout["unit"].to_list())
    missed = [
        _missed(_power(step, untouched, [other for other in shifted if other.name != one.name]), step, untouched, one)
        for one in shifted
    ]
    return Calibration(step, float(loss.mean() / powered.mean()), power, tuple(missed), spread)


def estimated_gap(
    holdout: pl.DataFrame, target: pl.DataFrame, calibration: Calibration, *, draws: int, seed: int
) -> EstimatedGap:
    """Compare the estimated rows of a target with the holdout's labelled ones; units resampled on both sides.

    The p-value is the bootstrap's: twice the smaller share of draws on either side of 0.
    """
    source = performance(holdout)
    target_loss = float(target["loss"].to_numpy().mean())
    gaps = estimated_differences(holdout, target, calibration, draws, np.random.default_rng(seed))
    few_units = min(side["unit"].n_unique() for side in (holdout, target)) < MINIMUM_UNITS
    beyond = min(int((gaps <= 0).sum()), int((gaps >= 0).sum()))
    return EstimatedGap(
        source=source,
        target_loss=target_loss,
        value=target_loss - source.loss,
        ci95=(-math.inf, math.inf) if few_units else percentile_interval(gaps),
        p_value=min(1.0, 2 * (1 + beyond) / (1 + draws)),
        accuracy=estimated_accuracy(holdout, target, draws=draws, seed=seed),
        calibration=calibration,
    )


def estimated_differences(
    holdout: pl.DataFrame, target: pl.DataFrame, calibration: Calibration, draws: int, rng: np.random.Generator
) -> Floats:
    """Draws of the estimated gap, (draws,): units of both sides resampled, times what the estimator may be off."""
    means = [
        weighted_means(side["loss"].to_numpy().astype(np.float64), side["unit"].to_list(), draws, rng)
        for side in (target, holdout)
    ]
    found: Floats = means[0] * calibration.factors(draws, rng) - means[1]
    return found


def estimated_accuracy(holdout: pl.DataFrame, target: pl.DataFrame, *, draws: int, seed: int) -> EstimatedAccuracy:
    """Average thresholded confidence over two sets of evaluation rows, units of both resampled for the interval."""
    right = accuracies(holdout)
    scores = {name: [_shares(rows, name) for rows in (holdout, target)] for name in ("confidence_bins", "entropy_bins")}
    point = {
        name: accuracy_by_threshold(own.mean(0), float(right.mean()), other.mean(0))
        for name, (own, other) in scores.items()
    }
    rng = np.random.default_rng(seed)
    sides = [rows["unit"].to_list() for rows in (holdout, target)]
    weights = [bootstrap_weights(units, draws, rng) for units in sides]
    weights = [drawn / drawn.sum(1, keepdims=True) for drawn in weights]
    own, other = scores["confidence_bins"]
    drawn = [
        accuracy_by_threshold(here @ own, float(here @ right), there @ other)[1]
        for here, there in zip(*weights, strict=True)
    ]
    few_units = min(len(set(units)) for units in sides) < MINIMUM_UNITS
    threshold, accuracy = point["confidence_bins"]
    return EstimatedAccuracy(
        source=float(right.mean()), target=accuracy, ci95=None if few_units else percentile_interval(drawn),
        threshold=confidence_at(threshold), by_entropy=point["entropy_bins"][1],
    )  # fmt: skip


def confidence_at(place: float) -> float:
    """The confidence at a place among the bins of `confidence_bins`."""
    edges = CONFIDENCE_EDGES
    log_odds = np.interp(place, np.arange(len(edges)), edges)
    return float(1 / (1 + math.exp(-log_odds)))


def _shares(rows: pl.DataFrame, name: str) -> Floats:
    """Each sample's share of pixels by bin, (n, bins)."""
    counts = list_column(rows, name)
    found: Floats = counts / counts.sum(1, keepdims=True)
    return found


def _power(step: int, untouched: Shifted, shifted: Sequence[Shifted]) -> float:
    """The power with which imitations' mean losses are met best, least squares of logarithms; 1 without imitations."""
    from scipy.optimize import minimize_scalar

    if not shifted:
        return 1.0

    def miss(power: float) -> float:
        return float(np.mean([_missed(power, step, untouched, one) ** 2 for one in shifted]))

    return float(minimize_scalar(miss, bounds=POWERS, method="bounded").x)


def _missed(power: float, step: int, untouched: Shifted, shifted: Shifted) -> float:
    """Logarithm of an imitation's true mean loss over the one estimated from the untouched pictures."""
    grown = (shifted.expected[:, step] ** power).mean() / (untouched.expected[:, step] ** power).mean()
    return math.log(shifted.loss.mean() / untouched.loss.mean()) - math.log(grown)


def _scale_spread(loss: Floats, powered: Floats, units: Sequence[str]) -> float:
    """Standard deviation of the logarithm of the scale when the holdout's units are drawn anew."""
    weights = bootstrap_weights(units, SCALE_DRAWS, np.random.default_rng(0))
    return float(np.std(np.log(weights @ loss) - np.log(weights @ powered)))
