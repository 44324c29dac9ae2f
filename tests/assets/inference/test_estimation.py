"""Sums that need no label against scipy, and what a calibration reads from them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from assets.inference.estimation import (
    CONFIDENCE_EDGES,
    ENTROPY_EDGES,
    PIXELS,
    TEMPERATURES,
    Calibration,
    estimated_sums,
    estimation_columns,
    expected_sums,
    strided_pixels,
)

CALIBRATION = Calibration(step=4, scale=1.2, power=1.5, missed=(-0.1, 0.4), spread=0.05)


def logits(seed: int = 0, shape=(5, 17, 23), scale: float = 3.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.7])
def test_expected_sums_are_scipy_s_entropy_and_divergence(temperature):
    scores = logits().reshape(5, -1)
    loss, pixels = expected_sums(scores, temperature)
    p, q = softmax(scores.double().numpy(), 0), softmax(scores.double().numpy() / temperature, 0)
    assert loss.sum() == pytest.approx(float((entropy(q) + entropy(q, p)).sum()), rel=1e-5)
    np.testing.assert_allclose(pixels, q.sum(1), rtol=1e-5)
    np.testing.assert_allclose(loss, -(q * np.log(p)).sum(1), rtol=1e-5)


def test_at_temperature_one_the_expected_loss_is_the_entropy():
    scores = logits(1).reshape(5, -1)
    p = softmax(scores.double().numpy(), 0)
    assert expected_sums(scores, 1.0)[0].sum() == pytest.approx(float(entropy(p).sum()), rel=1e-5)


def test_columns_hold_every_temperature_and_every_pixel():
    columns = estimation_columns(logits(2))
    loss = np.array(columns["expected_loss"]).reshape(len(TEMPERATURES), 5)
    pixels = np.array(columns["expected_pixels"]).reshape(len(TEMPERATURES), 5)
    own = expected_sums(logits(2).reshape(5, -1), TEMPERATURES[7])
    np.testing.assert_allclose(loss[7], own[0])
    np.testing.assert_allclose(pixels.sum(1), 17 * 23, rtol=1e-5)
    p = softmax(logits(2).double().numpy().reshape(5, -1), 0)
    peak = p.max(0)
    assert columns["confidence_bins"] == np.histogram(np.log(peak / (1 - peak)), CONFIDENCE_EDGES)[0].tolist()
    assert columns["entropy_bins"] == np.histogram(-np.log(entropy(p)), ENTROPY_EDGES)[0].tolist()


def test_a_model_that_is_certain_falls_into_the_last_bin_and_expects_nothing():
    certain = torch.zeros(3, 4, 4)
    certain[1] = 200.0
    columns = estimation_columns(certain)
    assert columns["confidence_bins"][-1] == columns["entropy_bins"][-1] == 16
    assert np.isfinite(columns["expected_loss"]).all()
    loss, pixels = estimated_sums(certain.reshape(3, -1), CALIBRATION)
    assert loss.sum() == pytest.approx(0, abs=1e-6) and pixels.sum() == pytest.approx(16)


def test_a_large_picture_is_looked_at_in_every_column():
    columns = torch.arange(320.0).expand(2, 240, 320)
    seen = strided_pixels(columns)
    assert 0.7 * PIXELS < seen.shape[1] <= 1.1 * PIXELS
    assert len(seen[0].unique()) == 320


def test_a_calibration_scales_the_sums_of_classes_alike():
    scores = logits(3).reshape(5, -1)
    plain, pixels = expected_sums(scores, CALIBRATION.temperature)
    loss, same = estimated_sums(scores, CALIBRATION)
    np.testing.assert_allclose(same, pixels)
    assert loss.sum() / pixels.sum() == pytest.approx(1.2 * (plain.sum() / pixels.sum()) ** 1.5)
    np.testing.assert_allclose(loss / plain, (loss / plain)[0])


def test_errors_are_drawn_from_those_seen_and_calibrations_survive_their_file():
    factors = CALIBRATION.factors(20_000, np.random.default_rng(0))
    assert np.log(factors).mean() == pytest.approx(0.15, abs=0.01)
    assert np.sqrt(np.mean(np.log(factors) ** 2)) == pytest.approx(CALIBRATION.error, abs=0.01)
    assert Calibration.of_values(json.loads(json.dumps(CALIBRATION.as_values()))) == CALIBRATION
