"""Two-sample tests: exact statistics, size under dependence, Bayes accuracy."""

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from assets.statistics.distances import (
    Kernel,
    distance_kernel,
    kernel_distance,
    median_distance,
    mmd_rbf,
    polynomial_kernel,
    rbf_kernel,
    squared_distances,
)
from assets.statistics.kernel_sums import unit_kernel_sums
from assets.statistics.resampling import pooled_units
from assets.statistics.two_sample import (
    RIDGE,
    MmdTest,
    _out_of_fold_decisions,
    _unit_folds,
    balanced_accuracy,
    c2st,
    mmd_tests,
    proxy_a_distance,
)

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((40, 6)), rng.standard_normal((30, 6)) + 0.4


def names(units: int, size: int) -> list[str]:
    return [f"u{index}" for index in range(units) for _ in range(size)]


def grouped(generator: np.random.Generator, units: int, size: int, width: int) -> np.ndarray:
    noise = generator.standard_normal((units, 1, width)) + generator.standard_normal((units, size, width))
    return noise.reshape(-1, width)


def mmd_all(
    x: np.ndarray,
    x_units: list[str],
    y: np.ndarray,
    y_units: list[str],
    permutations: int,
    generator: np.random.Generator,
) -> tuple[MmdTest, ...]:
    """The RBF, KID and energy tests."""
    kernels: list[Kernel] = [rbf_kernel(median_distance(x, y) or 1), polynomial_kernel(x.shape[1]), distance_kernel]
    sums = unit_kernel_sums(np.concatenate([x, y]), pooled_units(x_units, y_units), kernels)
    second = [unit.startswith("1/") for unit in sums[0].units]
    return tuple(mmd_tests(sums, second, permutations, generator))


def test_mmd_tests_have_the_statistics_of_the_plain_distances():
    rbf, poly, energy = (one.mmd for one in mmd_all(X, names(40, 1), Y, names(30, 1), 9, rng))
    assert rbf == pytest.approx(mmd_rbf(X, Y))
    assert poly == pytest.approx(kernel_distance(X, Y))
    cross, own_x, own_y = (np.sqrt(squared_distances(*pair)) for pair in ((X, Y), (X, X), (Y, Y)))
    expected = 2 * cross.mean() - own_x.sum() / (40 * 39) - own_y.sum() / (30 * 29)
    assert energy == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("sizes", [(6, 6), (9, 3)])
def test_tests_hold_their_size_under_dependence(sizes: tuple[int, int]):
    generator = np.random.default_rng(1)
    units = names(10, sizes[0]), names(10, sizes[1])
    p_values = []
    for _ in range(250):
        x, y = grouped(generator, 10, sizes[0], 4), grouped(generator, 10, sizes[1], 4)
        mmds = [one.p_value for one in mmd_all(x, units[0], y, units[1], 59, generator)]
        p_values.append([*mmds, c2st(x, units[0], y, units[1], 59, generator).p_value])
    rejected = (np.asarray(p_values) <= 0.05).sum(axis=0)
    assert (rejected <= stats.binom.ppf(0.9995, 250, 0.05)).all()
    if sizes[0] == sizes[1]:
        assert (rejected >= stats.binom.ppf(0.0005, 250, 0.05)).all()


def test_tests_see_a_shift():
    units = names(40, 1), names(30, 1)
    assert mmd_all(X, units[0], Y + 1, units[1], 199, rng)[0].p_value == pytest.approx(0.005)
    assert c2st(X, units[0], Y + 1, units[1], 199, rng).p_value == pytest.approx(0.005)


@pytest.mark.parametrize("delta", [0.0, 1.0, 3.0])
def test_c2st_comes_to_the_bayes_accuracy(delta: float):
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((3000, 4)), generator.standard_normal((2000, 4))
    y[:, 0] += delta
    result = c2st(x, names(300, 10), y, names(200, 10), 0, generator)
    bayes = stats.norm.cdf(delta / 2)
    assert result.accuracy == pytest.approx(bayes, abs=0.025)
    assert result.auc == pytest.approx(stats.norm.cdf(delta / np.sqrt(2)), abs=0.025)
    assert result.pad == pytest.approx(max(0, 4 * result.accuracy - 2))
    assert result.auc == pytest.approx(roc_auc_score([0] * 3000 + [1] * 2000, result.decisions))


@pytest.mark.parametrize("width", [6, 80])
def test_decisions_agree_with_scikit_learns_ridge(width: int):
    generator = np.random.default_rng(0)
    z, labels = generator.standard_normal((50, width)), np.repeat([0.0, 1.0], [30, 20])
    folds = _unit_folds(np.asarray(names(10, 5)), generator)
    ours = _out_of_fold_decisions(z, folds, labels[None])[0]
    for fold in range(5):
        train, test = folds != fold, folds == fold
        mean, spread = z[train].mean(axis=0), z[train].std(axis=0)
        ones, zeros = labels[train].sum(), (1 - labels[train]).sum()
        model = Ridge(alpha=RIDGE * train.sum(), fit_intercept=False)
        model.fit((z[train] - mean) / spread, labels[train] / ones - (1 - labels[train]) / zeros)
        fitted = model.predict((z[train] - mean) / spread)
        middle = (fitted[labels[train] == 1].mean() + fitted[labels[train] == 0].mean()) / 2
        assert ours[test] == pytest.approx(model.predict((z[test] - mean) / spread) - middle)


def test_folds_hold_whole_units_of_about_equal_size():
    units = np.asarray(names(12, 5))
    folds = _unit_folds(units, np.random.default_rng(0))
    assert all(len(set(folds[units == unit])) == 1 for unit in set(units))
    assert np.ptp(np.bincount(folds)) <= 5


def test_memorised_units_do_not_help():
    """Frames of a unit are all but equal: folds over frames would separate the sets, folds over units do not."""
    generator = np.random.default_rng(0)
    accuracies = []
    for _ in range(20):
        x, y = (np.repeat(generator.standard_normal((10, 50)), 8, axis=0) for _ in range(2))
        accuracies.append(c2st(x, names(10, 8), y, names(10, 8), 0, generator).accuracy)
    assert np.mean(accuracies) < 0.6


def test_degenerates_are_defined():
    same = np.ones((6, 3))
    assert [one.p_value for one in mmd_all(same, names(3, 2), same, names(3, 2), 9, rng)] == [1, 1, 1]
    flat = c2st(same, names(3, 2), same, names(3, 2), 9, rng)
    assert (flat.accuracy, flat.auc, flat.pad, flat.p_value) == (0.5, 0.5, 0, 1)
    alone = c2st(X, ["a"] * 40, Y, ["a"] * 30, 9, rng)
    assert (alone.auc, alone.p_value) == (0.5, 1)
    with pytest.raises(ValueError, match="units"):
        c2st(X, names(3, 2), Y, names(3, 2), 9, rng)
    assert balanced_accuracy(np.array([-1.0, 1, 0]), np.array([1.0, 1, 2]), np.array([0.0, 0, 1])) == 0.5
    assert (proxy_a_distance(0.4), proxy_a_distance(1)) == (0, 2)
