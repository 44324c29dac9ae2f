"""Estimates without labels: against brute force and scipy, unbiased on the source, right about planted errors."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from assets.diagnosis.estimated import (
    Shifted,
    accuracy_by_threshold,
    best_step,
    estimated_differences,
    estimated_gap,
    estimated_rows,
    expected_losses,
    fit_calibration,
)
from assets.inference.estimation import CONFIDENCE_EDGES, TEMPERATURES, Calibration, estimation_columns
from assets.inference.losses import EVALUATION_SCHEMA, evaluate

CLASSES, SIDE = 4, 32
EXACT = Calibration(step=6, scale=1.0, power=1.0, missed=(0.0,), spread=0.0)


def rows_of(seed: int, count: int, *, signal: float = 3.0, too_sure: float = 1.0, prefix: str = "h") -> pl.DataFrame:
    """Evaluation rows of a model whose probabilities are those of the labels, then sharpened by `too_sure`.

    A sample's `signal` (how far the best class stands out) varies from unit to unit of two samples.
    """
    rng = np.random.default_rng([seed, *prefix.encode()])
    rows = []
    for i in range(count):
        own = signal * math.exp(0.3 * np.random.default_rng([seed, i // 2, *prefix.encode()]).normal())
        scores = rng.normal(0, own, (CLASSES, SIDE, SIDE))
        uniform = rng.random((SIDE, SIDE))
        mask = (softmax(scores, 0).cumsum(0) < uniform).sum(0).clip(0, CLASSES - 1).astype(np.uint8)
        logits = torch.from_numpy((too_sure * scores).astype(np.float32))
        name = f"{prefix}{i:03d}"
        rows.append(evaluate(logits, mask).row(name, "f", b"") | estimation_columns(logits))
    frame = pl.DataFrame(rows, schema=EVALUATION_SCHEMA)
    units = [f"{prefix}{i // 2}" for i in range(count)]
    return frame.with_columns(unit=pl.Series(units), group=pl.Series(units), report_half=pl.lit(True))


def hidden(rows: pl.DataFrame, calibration: Calibration) -> pl.DataFrame:
    """The rows as those of a target whose labels nobody sees."""
    described = rows.select("sample_id", "unit", "group", "report_half").with_columns(
        part=pl.lit("target"), quarantined=pl.lit(False)
    )
    bare = rows.drop("unit", "group", "report_half").with_columns(loss=pl.lit(None, pl.Float64))
    return estimated_rows(bare, described, calibration)


def accuracy(rows: pl.DataFrame) -> float:
    square = np.array(rows["confusion"].to_list(), float).reshape(-1, CLASSES, CLASSES)
    return float(np.mean(np.trace(square, axis1=1, axis2=2) / square.sum((1, 2))))


def test_thresholded_confidence_is_that_of_brute_force():
    rng = np.random.default_rng(0)
    holdout, target, right = rng.normal(4, 2, 50_000), rng.normal(3, 2.5, 40_000), 0.87
    threshold = np.quantile(holdout, 1 - right)
    counts = [np.histogram(np.clip(scores, -5.9, 17.9), CONFIDENCE_EDGES)[0] for scores in (holdout, target)]
    found, share = accuracy_by_threshold(counts[0].astype(float), right, counts[1].astype(float))
    assert CONFIDENCE_EDGES[0] + 0.2 * found == pytest.approx(threshold, abs=0.02)
    assert share == pytest.approx((target > threshold).mean(), abs=0.003)


def test_thresholded_confidence_gives_the_source_its_own_accuracy():
    counts = np.random.default_rng(1).integers(0, 1000, len(CONFIDENCE_EDGES) - 1).astype(float)
    for right in (0.2, 0.55, 0.93):
        assert accuracy_by_threshold(counts, right, counts)[1] == pytest.approx(right)


@pytest.mark.parametrize("too_sure", [0.6, 1.0, 2.4])
def test_the_temperature_is_the_one_that_scipy_minimises_the_loss_at(too_sure):
    rng = np.random.default_rng(2)
    scores = rng.normal(0, 2.5, (CLASSES, 40_000))
    labels = (softmax(scores, 0).cumsum(0) < rng.random(40_000)).sum(0).clip(0, CLASSES - 1)
    logits = too_sure * scores

    def loss(temperature: float) -> float:
        return -float(log_softmax(logits / temperature, 0)[labels, np.arange(40_000)].mean())

    best = minimize_scalar(loss, bounds=(0.3, 8), method="bounded").x
    columns = estimation_columns(torch.from_numpy(logits.reshape(CLASSES, 200, 200)[:, :64, :64].copy()))
    part = (
        labels.reshape(200, 200)[:64, :64].ravel(),
        logits.reshape(CLASSES, 200, 200)[:, :64, :64].reshape(CLASSES, -1),
    )
    own = -log_softmax(part[1], 0)[part[0], np.arange(64 * 64)].mean()
    sums = [
        np.array(columns[name]).reshape(len(TEMPERATURES), -1).sum(1) for name in ("expected_loss", "expected_pixels")
    ]
    found = TEMPERATURES[best_step(np.array([own]), (sums[0] / sums[1])[None])]
    assert abs(math.log(found / best)) < 1.6 * math.log(TEMPERATURES[1] / TEMPERATURES[0])
    assert best == pytest.approx(too_sure, rel=0.05)


def test_a_calibration_is_exact_on_its_holdout():
    holdout = rows_of(3, 12, too_sure=1.8)
    shifted = [Shifted(name, holdout["loss"].to_numpy() * 1.4, expected_losses(holdout) * 1.2) for name in ("a", "b")]
    found = fit_calibration(
        holdout, Shifted("untouched", holdout["loss"].to_numpy(), expected_losses(holdout)), shifted
    )
    assert hidden(holdout, found)["loss"].mean() == pytest.approx(holdout["loss"].mean(), rel=1e-9)
    assert found.temperature == pytest.approx(1.8, rel=0.2)
    gap = estimated_gap(holdout, hidden(holdout, found), found, draws=200, seed=0)
    assert gap.value == pytest.approx(0, abs=1e-9) and not gap.detected
    assert gap.accuracy.target == pytest.approx(accuracy(holdout)) == pytest.approx(gap.accuracy.source)


def test_the_power_is_the_one_that_imitations_follow():
    holdout = rows_of(4, 8)
    loss, expected = holdout["loss"].to_numpy(), expected_losses(holdout)
    even = np.ones_like(expected)
    untouched = Shifted("untouched", np.full(8, loss.mean()), expected.mean() * even)
    shifted = [Shifted(str(k), loss.mean() * np.full(8, k**1.6), k * expected.mean() * even) for k in (1.3, 1.8, 2.5)]
    found = fit_calibration(holdout, untouched, shifted)
    assert found.power == pytest.approx(1.6, abs=1e-3)
    np.testing.assert_allclose(found.missed, 0, atol=1e-3)
    off = [*shifted, Shifted("other", loss.mean() * np.full(8, 3.0), expected.mean() * even)]
    assert fit_calibration(holdout, untouched, off).missed[-1] == pytest.approx(math.log(3), abs=1e-3)


def test_a_planted_error_is_seen_with_the_labels_hidden():
    holdout = rows_of(5, 20, too_sure=2.0)
    target = rows_of(5, 20, signal=2.0, too_sure=2.0, prefix="t")
    untouched = Shifted("untouched", holdout["loss"].to_numpy(), expected_losses(holdout))
    calibration = fit_calibration(holdout, untouched, [])
    calibration = Calibration(calibration.step, calibration.scale, calibration.power, (0.0,), calibration.spread)
    assert target["loss"].mean() > 1.2 * holdout["loss"].mean() and accuracy(target) < accuracy(holdout) - 0.07
    gap = estimated_gap(holdout, hidden(target, calibration), calibration, draws=400, seed=0)
    assert gap.target_loss == pytest.approx(target["loss"].mean(), rel=0.08)
    assert gap.accuracy.target == pytest.approx(accuracy(target), abs=0.03)
    assert gap.accuracy.ci95 is not None and gap.accuracy.ci95[0] < gap.accuracy.target < gap.accuracy.ci95[1]
    assert gap.detected and gap.p_value < 0.05
    unsure = Calibration(calibration.step, calibration.scale, calibration.power, (-0.6, 0.0, 0.6), calibration.spread)
    wider = estimated_gap(holdout, hidden(target, unsure), unsure, draws=400, seed=0)
    assert wider.ci95[0] < gap.ci95[0] and wider.ci95[1] > gap.ci95[1] and not wider.detected


def bare_rows(losses: np.ndarray, prefix: str) -> pl.DataFrame:
    """Rows with these losses in units of two, and scores that say nothing."""
    count = len(losses)
    return pl.DataFrame({
        "sample_id": [f"{prefix}{i}" for i in range(count)], "unit": [f"{prefix}{i // 2}" for i in range(count)],
        "loss": losses, "loss_sum": [[loss, 0.0] for loss in losses], "class_pixels": [[1, 0]] * count,
        "confusion": [[1, 0, 0, 1]] * count, "bin_count": [[1]] * count, "bin_confidence": [[0.9]] * count,
        "bin_correct": [[1]] * count, "confidence_bins": [[1] * 120] * count, "entropy_bins": [[1] * 120] * count,
    })  # fmt: skip


def test_two_halves_of_one_law_have_no_estimated_gap():
    """Nominal 95%; resampling 30 units gives about 94. The estimator's errors only widen it."""
    rng = np.random.default_rng(6)
    covered, wider = [], []
    unsure = Calibration(6, 1.0, 1.0, (-0.2, 0.0, 0.3), 0.02)
    units = [[f"{side}{i // 2}" for i in range(60)] for side in "ht"]
    for _ in range(400):
        means = np.repeat(rng.normal(0.5, 0.1, 60), 2)
        true = means[:60] + rng.normal(0, 0.05, 60)
        guessed = means[60:] + rng.normal(0, 0.08, 60)  # another error on every sample, none on average
        sides = [pl.DataFrame({"loss": loss, "unit": own}) for loss, own in zip((true, guessed), units, strict=True)]
        for calibration, found in ((EXACT, covered), (unsure, wider)):
            low, high = np.quantile(estimated_differences(*sides, calibration, 200, rng), [0.025, 0.975])
            found.append(low <= 0 <= high)
    assert 0.90 <= np.mean(covered) <= 0.98
    assert np.mean(wider) >= 0.98


def test_a_single_unit_decides_nothing():
    one = bare_rows(np.full(2, 0.5), "t")
    gap = estimated_gap(bare_rows(np.linspace(0.1, 0.2, 8), "h"), one, EXACT, draws=100, seed=0)
    assert gap.ci95 == (-math.inf, math.inf) and not gap.detected and gap.accuracy.ci95 is None
