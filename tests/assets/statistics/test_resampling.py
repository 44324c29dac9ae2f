"""Units, halves, intervals and cluster tests: stable where promised, and of the right size."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from assets.statistics.resampling import (
    bootstrap_weights,
    by_units,
    dependence_units,
    equal_draws,
    even_units,
    halves,
    paired_cluster_test,
    percentile_interval,
    permute_units,
    pooled_units,
    two_sample_cluster_test,
)


def correlated(rng: np.random.Generator, units: int, size: int) -> np.ndarray:
    """Noise with an intra-unit correlation of one half."""
    return (rng.standard_normal((units, 1)) + rng.standard_normal((units, size))).ravel()


def unit_names(units: int, size: int) -> list[str]:
    return [f"u{index}" for index in range(units) for _ in range(size)]


def test_enough_groups_are_the_units():
    groups = list("abcdef") * 3
    assert dependence_units(groups).tolist() == groups


def test_few_groups_are_cut_into_blocks_of_consecutive_samples():
    units = dependence_units(["a"] * 40 + ["b"] * 24)  # √64 = 8
    assert units[:8].tolist() == ["a#0"] * 8
    assert units[40:48].tolist() == ["b#0"] * 8
    assert len(set(units)) == 5 + 3


def test_block_length_stays_while_a_set_grows():
    before, after = dependence_units(["a"] * 50), dependence_units(["a"] * 100)
    assert np.array_equal(before, after[:50])


@pytest.mark.parametrize(("count", "length"), [(1, 1), (2, 2), (3, 2), (5, 2)])
def test_blocks_have_at_least_two_samples(count: int, length: int):
    assert np.count_nonzero(dependence_units(["a"] * count) == "a#0") == length


def test_no_samples_have_no_units():
    assert dependence_units([]).size == halves([]).size == 0


@given(st.lists(st.text(max_size=3), min_size=2, max_size=40, unique=True), st.data())
def test_halves_are_whole_units_balanced_and_stay_put(distinct: list[str], data: st.DataObject):
    extra = data.draw(st.lists(st.sampled_from(distinct), max_size=30))
    report = dict(zip(distinct, halves(distinct), strict=True))
    count = sum(report.values())
    assert abs(2 * count - len(distinct)) <= max(1, len(distinct) / 6)
    samples = data.draw(st.permutations(distinct + extra))
    assert halves(samples).tolist() == [report[unit] for unit in samples]


def test_halves_are_the_same_on_every_machine():
    assert halves([f"drive{index}" for index in range(6)]).tolist() == [True, True, True, False, False, False]


def test_one_unit_is_all_report():
    assert halves(["a", "a"]).all()


def test_bootstrap_weights_resample_whole_units():
    weights = bootstrap_weights(["a", "b", "a", "c"], 500, np.random.default_rng(0))
    assert np.array_equal(weights[:, 0], weights[:, 2])
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert weights.mean() == pytest.approx(1, abs=0.1)


def test_percentile_interval_leaves_nan_out():
    assert percentile_interval([*range(101), np.nan], 0.9) == pytest.approx((5, 95))
    assert all(math.isnan(end) for end in percentile_interval([np.nan]))


def test_paired_test_agrees_with_statsmodels():
    rng = np.random.default_rng(3)
    index = rng.integers(0, 9, 70)
    values = 0.4 + rng.standard_normal(9)[index] + rng.standard_normal(70)
    ours = paired_cluster_test(values, index.astype(str))
    theirs = sm.OLS(values, np.ones(70)).fit(cov_type="cluster", cov_kwds={"groups": index}, use_t=True)
    assert ours.mean == pytest.approx(theirs.params[0])
    assert ours.standard_error == pytest.approx(theirs.bse[0])
    assert ours.p_value == pytest.approx(theirs.pvalues[0])
    assert ours.ci95 == pytest.approx(tuple(theirs.conf_int()[0]))


def test_paired_test_is_the_t_test_for_single_sample_units():
    values = np.random.default_rng(0).standard_normal(30) + 0.3
    ours, theirs = paired_cluster_test(values, [str(i) for i in range(30)]), stats.ttest_1samp(values, 0)
    assert (ours.statistic, ours.p_value) == pytest.approx((theirs.statistic, theirs.pvalue))


def test_two_sample_test_is_welch_for_single_sample_units():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(20), 2 * rng.standard_normal(35) + 1
    names = [str(i) for i in range(35)]
    ours, theirs = two_sample_cluster_test(a, names[:20], b, names), stats.ttest_ind(a, b, equal_var=False)
    assert (ours.statistic, ours.p_value) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert ours.degrees_of_freedom == pytest.approx(theirs.df)


@pytest.mark.parametrize("units", [6, 20])
def test_cluster_tests_hold_their_size_where_the_plain_t_test_does_not(units: int):
    rng = np.random.default_rng(0)
    names, rejected = unit_names(units, 10), np.zeros(3)
    for _ in range(400):
        a, b = correlated(rng, units, 10), correlated(rng, units, 10)
        rejected += [
            paired_cluster_test(a, names).p_value <= 0.05,
            two_sample_cluster_test(a, names, b, names).p_value <= 0.05,
            stats.ttest_1samp(a, 0).pvalue <= 0.05,
        ]
    low, high = stats.binom.interval(0.999, 400, 0.05)
    assert low <= rejected[0] <= high
    assert low <= rejected[1] <= high
    assert rejected[2] > 2 * high


def test_degenerate_tests_are_defined():
    one = paired_cluster_test([1.0, 2.0], ["a", "a"])
    assert (one.mean, one.p_value, one.ci95) == (1.5, 1.0, (-math.inf, math.inf))
    assert paired_cluster_test([0.1] * 6, list("aabbcc")).p_value == 0
    zero = paired_cluster_test([0.0] * 6, list("aabbcc"))
    assert (zero.statistic, zero.p_value, zero.ci95) == (0, 1, (0, 0))
    assert math.isnan(paired_cluster_test([], []).mean)
    assert two_sample_cluster_test([1.0], ["a"], [1.0, 2.0], ["a", "b"]).p_value == 1
    assert two_sample_cluster_test([1.0, 1.0], ["a", "b"], [1.0, 1.0], ["a", "b"]).p_value == 1


def test_nan_are_left_out_and_lengths_are_checked():
    assert paired_cluster_test([1.0, np.nan, 3.0], list("abc")).mean == 2
    with pytest.raises(ValueError, match="units"):
        paired_cluster_test([1.0, 2.0], ["a"])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30))
def test_permuted_units_keep_one_label_and_their_number(samples: list[tuple[int, bool]]):
    units = [f"{flag}{unit}" for unit, flag in samples]
    labels = [flag for _, flag in samples]
    permuted = permute_units(labels, units, 20, np.random.default_rng(0))
    assert permuted.shape == (20, len(samples))
    distinct, first = np.unique(units, return_index=True)
    assert (permuted[:, first].sum(axis=1) == sum(name.startswith("True") for name in distinct)).all()
    for unit in distinct:
        columns = permuted[:, np.asarray(units) == unit]
        assert (columns == columns[:, :1]).all()


def test_a_unit_in_both_sets_is_refused():
    with pytest.raises(ValueError, match="pooled_units"):
        permute_units([True, False], ["a", "a"], 3, np.random.default_rng(0))
    assert len(set(pooled_units(["a"], ["a"]))) == 2


def test_units_stay_together_in_random_order():
    units = np.asarray(["b", "a", "b", "c", "a", "b"])
    order = by_units(units, np.random.default_rng(0))
    assert sorted(order) == list(range(6))
    assert np.count_nonzero(units[order][1:] != units[order][:-1]) == 2
    assert order[units[order] == "b"].tolist() == [0, 2, 5]


def test_draws_share_no_unit_and_have_one_size():
    units = np.asarray(unit_names(5, 7) + ["large"] * 20)
    for draw in equal_draws(units, unit_names(9, 6), 30, np.random.default_rng(0), largest=500):
        assert not set(units[draw.holdout]) & set(units[draw.other_holdout])
        assert len(draw.holdout) == len(draw.other_holdout) == len(draw.target) > 0
    assert len(equal_draws(units, unit_names(9, 6), 1, np.random.default_rng(0), largest=4)[0].target) == 4


def test_even_units_are_thinned_evenly_to_the_smaller_median():
    first, second = unit_names(3, 9), [*unit_names(2, 3), "short"]
    kept = even_units(first, second)
    assert kept[:27].reshape(3, 9).sum(axis=1).tolist() == [3, 3, 3]
    assert np.flatnonzero(kept[:9]).tolist() == [2, 5, 8]
    assert kept[27:].all()
    assert even_units(unit_names(4, 5), unit_names(2, 5)).all()
    assert even_units([], ["a", "a"]).all()
