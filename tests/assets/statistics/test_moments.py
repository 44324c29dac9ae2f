"""Moments agree with numpy on all values, distances with POT and the closed form, and are 0 where nothing differs."""

from __future__ import annotations

import numpy as np
import ot
import pytest

from assets.statistics.moments import gaussian_wasserstein, moment_distance, pooled_moments, relative_shift


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """Twelve pictures of three channels with 50 values each."""
    rng = np.random.default_rng(0)
    return rng.normal([0.0, 5.0, 1e4], [1.0, 0.1, 3.0], (12, 50, 3)) + rng.normal(0, 2, (12, 1, 3))


def test_pooled_moments_are_those_of_all_values(values):
    mean, variance = pooled_moments(values.mean(1), values.var(1))
    flat = values.reshape(-1, 3)
    assert mean == pytest.approx(flat.mean(0), rel=1e-12)
    assert variance == pytest.approx(flat.var(0), rel=1e-9)


def test_weights_are_multiplicities(values):
    weights = np.array([[2, 0, 1] + [0] * 9, [1] * 12], dtype=float)
    means, variances = pooled_moments(values.mean(1), values.var(1), weights)
    repeated = values[[0, 0, 2]].reshape(-1, 3)
    assert means[0] == pytest.approx(repeated.mean(0), rel=1e-12)
    assert variances[0] == pytest.approx(repeated.var(0), rel=1e-7)
    assert means[1] == pytest.approx(values.reshape(-1, 3).mean(0), rel=1e-12)


@pytest.mark.parametrize(("a", "b"), [((0.0, 1.0), (3.0, 4.0)), ((1.0, 0.25), (1.0, 0.25)), ((-2.0, 0.0), (1.0, 9.0))])
def test_agrees_with_pot(a, b):
    expected = ot.gaussian.bures_wasserstein_distance(
        np.array([a[0]]), np.array([b[0]]), np.array([[a[1]]]), np.array([[b[1]]])
    )
    assert float(gaussian_wasserstein(*a, *b)) == pytest.approx(float(expected), abs=1e-6)


def test_is_the_transport_distance_of_sorted_samples():
    rng = np.random.default_rng(1)
    a, b = np.sort(rng.normal(0, 1, 200_000)), np.sort(rng.normal(1, 2, 200_000))
    assert float(gaussian_wasserstein(0, 1, 1, 4)) == pytest.approx(float(np.sqrt(((a - b) ** 2).mean())), rel=0.01)


def test_moment_distance_is_in_deviations_and_leaves_constant_channels_out():
    mean, variance = np.zeros(3), np.array([4.0, 1.0, 0.0])
    assert float(moment_distance(mean, variance, np.array([4.0, 3.0, 9.0]), variance)) == pytest.approx((2 + 3) / 2)
    assert np.isnan(float(moment_distance(mean, np.zeros(3), mean, variance)))


def test_relative_shift_weighs_channels_by_their_variance():
    mean, variance = np.zeros(2), np.array([9.0, 1e-8])
    found = relative_shift(mean, variance, np.array([3.0, 0.01]), variance)
    assert float(found) == pytest.approx(1.0, rel=1e-4)
    assert float(relative_shift(mean, variance, mean, variance)) == 0
    assert np.isnan(float(relative_shift(mean, np.zeros(2), mean, variance)))


def test_draws_go_through_together(values):
    means, variances = pooled_moments(values.mean(1), values.var(1), np.ones((4, 12)))
    one = pooled_moments(values.mean(1), values.var(1))
    found = relative_shift(means, variances, means + np.sqrt(variances), variances)
    assert found == pytest.approx(np.full(4, float(relative_shift(*one, one[0] + np.sqrt(one[1]), one[1]))))
