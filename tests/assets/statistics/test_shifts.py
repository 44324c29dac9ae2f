"""Trait tests: the right size under dependence, power under a shift, one table equal to single tests."""

import math

import numpy as np
import pytest
from scipy import stats

from assets.statistics import effect_sizes
from assets.statistics.resampling import even_units, permute_units, pooled_units
from assets.statistics.shifts import shift_table, shift_test, spearman_association


def grouped(rng: np.random.Generator, units: int, size: int, traits: int = 1) -> np.ndarray:
    """(units · size, traits) with an intra-unit correlation of one half."""
    return (rng.standard_normal((units, 1, traits)) + rng.standard_normal((units, size, traits))).reshape(-1, traits)


def names(units: int, size: int) -> list[str]:
    return [f"u{index}" for index in range(units) for _ in range(size)]


@pytest.mark.parametrize("sizes", [(8, 8), (12, 4)])
def test_shift_test_holds_its_size_under_dependence(sizes: tuple[int, int]):
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(300):
        source, target = grouped(rng, 10, sizes[0])[:, 0], grouped(rng, 10, sizes[1])[:, 0]
        p_values.append(shift_test(source, names(10, sizes[0]), target, names(10, sizes[1]), 99, rng))
    rejected = np.sum(np.asarray(p_values) <= 0.05)
    assert rejected <= stats.binom.ppf(0.9995, 300, 0.05)
    if sizes[0] == sizes[1]:
        assert stats.kstest(p_values, "uniform").pvalue > 0.001
    naive = [stats.ks_2samp(grouped(rng, 10, 8)[:, 0], grouped(rng, 10, 8)[:, 0]).pvalue for _ in range(100)]
    assert np.mean(np.asarray(naive) <= 0.05) > 0.2


def test_table_equals_single_tests():
    rng = np.random.default_rng(1)
    source, target = grouped(rng, 9, 6, 4), grouped(rng, 7, 5, 4) + np.array([0, 0.3, 1, 3])
    source[5:12, 1] = np.nan
    units = names(9, 6), names(7, 5)
    table = shift_table(source, target, *units, 199, np.random.default_rng(2))
    for trait in range(4):
        x, y = source[:, trait], target[:, trait]
        assert table.ks[trait] == pytest.approx(effect_sizes.ks(x, y))
        assert table.hedges_g[trait] == effect_sizes.hedges_g(y, x)
        assert table.cliffs_delta[trait] == effect_sizes.cliffs_delta(y, x)
        assert table.wasserstein[trait] == effect_sizes.wasserstein_1(x, y)
        assert table.psi[trait] == effect_sizes.psi(x, y)
        p = shift_test(x, units[0], y, units[1], 199, np.random.default_rng(2))
        assert table.p_value[trait] == p
    assert table.p_value[3] == pytest.approx(0.005)
    assert table.psi_p_value[3] == pytest.approx(0.005)


@pytest.mark.parametrize("digits", [0, 1, 9])
def test_psi_p_value_counts_permuted_psis(digits: int):
    """Deciles are those of each permuted source, over units thinned to even sizes; ties and gaps included."""
    rng = np.random.default_rng(3)
    source, target = grouped(rng, 7, 5).round(digits), grouped(rng, 6, 9).round(digits) + 0.3
    target[4:6] = np.nan
    units = names(7, 5), names(6, 9)
    found = shift_table(source, target, *units, 60, np.random.default_rng(4)).psi_p_value[0]
    kept = even_units(*units)
    pooled, labels = np.concatenate([source, target])[kept, 0], np.repeat([False, True], [35, 54])
    permuted = permute_units(labels, pooled_units(*units), 60, np.random.default_rng(4))[:, kept]
    labels = labels[kept]
    observed = effect_sizes.psi(pooled[~labels], pooled[labels])
    above = sum(effect_sizes.psi(pooled[~row], pooled[row]) >= observed - 1e-12 for row in permuted)
    assert found == (1 + above) / 61


def test_psi_of_independent_samples_has_the_null_of_yurdakul_and_naranjo():
    """PSI/(1/n + 1/m) ~ χ²(9): its p-values are those of permuted samples; the folklore threshold of 0.1 alarms."""
    rng = np.random.default_rng(1)
    source, target = rng.standard_normal((300, 60)), rng.standard_normal((200, 60))
    alone = [str(i) for i in range(300)], [str(i) for i in range(200)]
    table = shift_table(source, target, *alone, 499, rng)
    expected = stats.chi2.sf(table.psi / (1 / 300 + 1 / 200), 9)
    assert np.abs(table.psi_p_value - expected).max() < 0.08
    assert np.corrcoef(table.psi_p_value, expected)[0, 1] > 0.99
    assert (table.psi > 0.1).mean() > 0.1


def test_shift_test_holds_its_size_for_independent_frames_of_longer_drives():
    """Thirty drives of twelve frames against ten of four: permuted whole, a third would be rejected."""
    rng = np.random.default_rng(0)
    table = [
        shift_table(rng.standard_normal((360, 1)), rng.standard_normal((40, 1)), names(30, 12), names(10, 4), 99, rng)
        for _ in range(300)
    ]
    for p_values in ([one.p_value[0] for one in table], [one.psi_p_value[0] for one in table]):
        assert np.sum(np.asarray(p_values) <= 0.05) <= stats.binom.ppf(0.9995, 300, 0.05)


@pytest.mark.parametrize("sizes", [(8, 8), (12, 4)])
def test_psi_p_value_holds_its_size_under_dependence(sizes: tuple[int, int]):
    rng = np.random.default_rng(0)
    p_values, naive = [], []
    for _ in range(300):
        source, target = grouped(rng, 10, sizes[0]), grouped(rng, 10, sizes[1])
        table = shift_table(source, target, names(10, sizes[0]), names(10, sizes[1]), 99, rng)
        p_values.append(table.psi_p_value[0])
        naive.append(stats.chi2.sf(table.psi[0] / (1 / len(source) + 1 / len(target)), 9))
    assert np.sum(np.asarray(p_values) <= 0.05) <= stats.binom.ppf(0.9995, 300, 0.05)
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
    assert np.mean(np.asarray(naive) <= 0.05) > 0.2  # frames of a drive counted singly


def test_constant_empty_and_missing_traits_are_defined():
    source, target = np.zeros((6, 3)), np.zeros((8, 3))
    target[:, 1] = np.nan
    target[:, 2] = 5
    table = shift_table(source, target, list("aabbcc"), list("aabbccdd"), 50, np.random.default_rng(0))
    assert (table.ks[0], table.p_value[0], table.hedges_g[0]) == (0, 1, 0)
    assert math.isnan(table.ks[1])
    assert math.isnan(table.p_value[1])
    assert table.ks[2] == 1
    assert (table.psi[0], table.psi_p_value[0]) == (0, 1)
    assert math.isnan(table.psi[1])
    assert math.isnan(table.psi_p_value[1])
    assert table.psi[2] > 1
    empty = shift_table(source[:, :0], target[:, :0], list("aabbcc"), list("aabbccdd"), 5, np.random.default_rng(0))
    assert empty.ks.size == 0


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="traits must be"):
        shift_table(np.zeros((3, 2)), np.zeros((3, 1)), list("abc"), list("abc"), 5, np.random.default_rng(0))
    with pytest.raises(ValueError, match="units"):
        shift_test([1.0], ["a", "b"], [1.0], ["a"], 5, np.random.default_rng(0))


def test_spearman_agrees_with_scipy():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, 60).astype(float)
    y = x + 4 * rng.standard_normal(60)
    rho, p = spearman_association(x, y, [str(i) for i in range(60)], 1999, rng)
    reference = stats.spearmanr(x, y)
    assert rho == pytest.approx(reference.statistic)
    assert (p <= 0.05) == (reference.pvalue <= 0.05)
    assert spearman_association(x, -y, [str(i) for i in range(60)], 99, rng)[0] == pytest.approx(-rho)


@pytest.mark.parametrize("units", [5, 8, 20])
def test_spearman_holds_its_size_for_uneven_units(units: int):
    rng = np.random.default_rng(units)
    rejected, naive = 0, 0
    for _ in range(300):
        index = np.repeat(np.arange(units), rng.integers(3, 20, units))
        x, y = (rng.standard_normal(units)[index] + 0.7 * rng.standard_normal(len(index)) for _ in range(2))
        rejected += spearman_association(x, y, index.astype(str), 199, rng)[1] <= 0.05
        naive += stats.spearmanr(x, y).pvalue <= 0.05
    assert rejected <= stats.binom.ppf(0.999, 300, 0.06)
    assert naive > 2 * rejected


def test_spearman_degenerates_are_defined():
    rng = np.random.default_rng(0)
    assert spearman_association([1, 1, 1, 1], [1, 2, 3, 4], list("abcd"), 9, rng) == (0, 1)
    assert spearman_association([1, 2, 3, 4], [1, 2, 3, 4], list("aabb"), 9, rng) == (pytest.approx(1), 1)
    rho, p = spearman_association([1, np.nan, 3], [1, 2, 3], list("abc"), 9, rng)
    assert math.isnan(rho)
    assert p == 1
    with pytest.raises(ValueError, match="length"):
        spearman_association([1, 2], [1, 2, 3], list("abc"), 9, rng)
