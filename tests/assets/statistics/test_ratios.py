"""The linearised ratio has the ratio's mean, and the standard error that redrawn data show."""

from __future__ import annotations

import numpy as np
import pytest

from assets.statistics.ratios import linearised_ratio
from assets.statistics.resampling import paired_cluster_test


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    shared = np.repeat(rng.normal(0, 0.3, 40), 5)
    whole = 2 + shared + rng.normal(0, 0.2, 200)
    return 0.5 * whole + np.repeat(rng.normal(0, 0.2, 40), 5), whole


def test_mean_is_the_ratio_of_means():
    x, y = draw(np.random.default_rng(0))
    assert linearised_ratio(x, y).mean() == pytest.approx(x.mean() / y.mean(), rel=1e-12)


def test_cluster_error_is_the_spread_of_redrawn_ratios():
    units = np.repeat([f"u{i}" for i in range(40)], 5)
    rng = np.random.default_rng(1)
    ratios, errors = [], []
    for _ in range(400):
        x, y = draw(rng)
        ratios.append(x.mean() / y.mean())
        errors.append(paired_cluster_test(linearised_ratio(x, y), units).standard_error)
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.1)


def test_proportional_numbers_have_no_variance():
    y = np.array([1.0, 2.0, 5.0])
    assert linearised_ratio(0.3 * y, y) == pytest.approx([0.3, 0.3, 0.3])


def test_refuses_what_has_no_ratio():
    with pytest.raises(ValueError, match="denominators' mean is 0"):
        linearised_ratio([1.0, 2.0], [1.0, -1.0])
    with pytest.raises(ValueError, match="numerators but"):
        linearised_ratio([1.0, 2.0], [1.0])
