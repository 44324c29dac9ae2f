"""Differences of figures that share samples: closed forms, and how often chance is called a change."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assets.statistics.differences import combined_interval, expanded_level, mean_difference_draws
from assets.statistics.resampling import percentile_interval


def test_symmetric_intervals_combine_as_the_root_of_squares():
    assert combined_interval(1.0, (0.7, 1.3), 2.0, (1.6, 2.4)) == pytest.approx((0.5, 1.5))


def test_uneven_intervals_give_their_facing_ends():
    low, high = combined_interval(1.0, (0.9, 1.4), 2.0, (1.7, 2.1))
    assert low == pytest.approx(1 - math.hypot(0.3, 0.4)) and high == pytest.approx(1 + math.hypot(0.1, 0.1))


def test_more_comparisons_stretch_to_the_normal_quantile():
    low, high = combined_interval(0.0, (-1.0, 1.0), 0.0, (0.0, 0.0), comparisons=10)
    assert high == pytest.approx(2.807034 / 1.959964, rel=1e-6) and low == -high
    with pytest.raises(ValueError, match="one comparison or more"):
        combined_interval(0, (0, 0), 0, (0, 0), comparisons=0)


def test_equal_sets_differ_by_exactly_nothing():
    values, units = [1.0, 2.0, 3.0, 5.0], ["a", "a", "b", "c"]
    draws = mean_difference_draws(values, units, values, units, 200, np.random.default_rng(0))
    assert np.nanmax(np.abs(draws)) == 0


def test_a_shift_of_every_sample_is_that_shift_in_every_draw():
    values, units = np.arange(12.0), [str(i // 2) for i in range(12)]
    draws = mean_difference_draws(values, units, values + 0.25, units, 200, np.random.default_rng(0))
    assert draws == pytest.approx(0.25)


def test_disjoint_sets_are_two_independent_means():
    """Spread of a difference of two means of independent units: √(s²/n + t²/m)."""
    rng = np.random.default_rng(2)
    before, after = rng.normal(0, 1, 150), rng.normal(0, 2, 250)
    names = [[f"{side}{i}" for i in range(len(values))] for side, values in (("b", before), ("a", after))]
    draws = mean_difference_draws(before, names[0], after, names[1], 4000, rng)
    assert np.std(draws) == pytest.approx(math.sqrt(before.var() / 150 + after.var() / 250), rel=0.05)


def test_shared_samples_narrow_the_difference_as_their_covariance_says():
    """With k of n samples shared, Var(difference) = 2 s²/n · (1 − k/n)."""
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, 500)
    names = [str(i) for i in range(500)]
    draws = mean_difference_draws(values[:400], names[:400], values[100:], names[100:], 4000, rng)
    assert np.std(draws) == pytest.approx(math.sqrt(2 / 400 * 100 / 400), rel=0.1)


def test_a_change_in_one_unit_leaves_zero_in():
    values, units = np.zeros(20), [str(i) for i in range(20)]
    later = np.where(np.arange(20) == 7, 9.0, values)
    low, high = percentile_interval(
        mean_difference_draws(values, units, later, units, 500, np.random.default_rng(1))
    )  # fmt: skip
    assert low == 0 < high


def test_no_sample_at_all_is_not_defined():
    assert np.isnan(mean_difference_draws([], [], [], [], 3, np.random.default_rng(0))).all()


def test_few_units_expand_the_level_as_published():
    """Hesterberg 2015, Table: for n = 10 the nominal 95% interval takes the quantiles 0.86% and 99.14%."""
    assert expanded_level(10) == pytest.approx(1 - 2 * 0.0086, abs=1e-4)
    assert expanded_level(10**6) == pytest.approx(0.95, abs=1e-5)
    with pytest.raises(ValueError, match="two units or more"):
        expanded_level(1)
