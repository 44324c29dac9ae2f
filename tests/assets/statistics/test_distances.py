"""Distances against torch-fidelity, torchmetrics, POT, statsmodels and closed forms."""

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import rbf_kernel as sklearn_rbf
from statsmodels.stats.dist_dependence_measures import distance_statistics

from assets.statistics import distances
from assets.statistics.distances import (
    energy_distance,
    energy_of,
    frechet_distance,
    kernel_distance,
    median_distance,
    mmd_of,
    mmd_rbf,
    pairs_of,
    polynomial_kernel,
    rbf_kernel,
    sliced_wasserstein,
    squared_distances,
    unit_directions,
)

rng = np.random.default_rng(0)
X = rng.standard_normal((70, 12)) @ rng.standard_normal((12, 12))
Y = rng.standard_normal((45, 12)) @ rng.standard_normal((12, 12)) + 0.5
DIRECTIONS = unit_directions(12, 40, rng)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(axis=0), np.cov(x, rowvar=False)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that every sum goes through several uneven blocks."""
    monkeypatch.setattr(distances, "BLOCK_VALUES", 500)


def test_frechet_agrees_with_torch_fidelity_and_pot():
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric  # slow to import

    (mean_a, cov_a), (mean_b, cov_b) = moments(X), moments(Y)
    ours = frechet_distance(mean_a, cov_a, mean_b, cov_b)
    theirs = fid_statistics_to_metric({"mu": mean_a, "sigma": cov_a}, {"mu": mean_b, "sigma": cov_b}, verbose=False)
    assert ours == pytest.approx(theirs[KEY_METRIC_FID])
    assert ours == pytest.approx(ot.gaussian.bures_wasserstein_distance(mean_a, mean_b, cov_a, cov_b) ** 2)
    assert ours == pytest.approx(frechet_distance(mean_b, cov_b, mean_a, cov_a))


def test_frechet_closed_forms():
    eye = np.eye(3)
    assert frechet_distance([0, 0, 0], eye, [1, 2, 2], eye) == pytest.approx(9)
    assert frechet_distance([0, 0, 0], 4 * eye, [0, 0, 0], 9 * eye) == pytest.approx(3)
    assert frechet_distance([1], 4, [3], 1) == pytest.approx(4 + 1)
    singular = np.diag([1.0, 0, 0])
    assert frechet_distance([0, 0, 0], singular, [0, 0, 0], singular) == pytest.approx(0)


def test_kid_agrees_with_torchmetrics(small_blocks: None):
    from torchmetrics.image.kid import poly_mmd  # slow to import

    equal = X[: len(Y)]  # torchmetrics takes sets of equal size only
    assert kernel_distance(equal, Y) == pytest.approx(float(poly_mmd(torch.tensor(equal), torch.tensor(Y))))


@pytest.mark.parametrize("sigma", [None, 2.5])
def test_mmd_agrees_with_the_formula_on_scikit_learns_kernel(sigma: float | None, small_blocks: None):
    pooled = np.concatenate([X, Y])
    width = sigma or float(np.median(cdist(pooled, pooled)[np.triu_indices(len(pooled), 1)]))
    kernel = sklearn_rbf(pooled, gamma=1 / (2 * width**2))
    n, m = len(X), len(Y)
    within_x, within_y = ((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel[:n, :n], kernel[n:, n:]))
    assert median_distance(X, Y) == pytest.approx(width) or sigma
    assert mmd_rbf(X, Y, sigma) == pytest.approx(within_x + within_y - 2 * kernel[:n, n:].sum() / (n * m))


def test_energy_agrees_with_statsmodels_distance_covariance():
    """Energy is the distance covariance of vectors with the set that they are of (Sejdinovic et al. 2013)."""
    pooled, label = np.concatenate([X, Y]), np.repeat([0.0, 1.0], [len(X), len(Y)])
    shares = len(X) * len(Y) / len(pooled) ** 2
    theirs = distance_statistics(pooled, label).distance_covariance ** 2 / (2 * shares**2)
    assert energy_distance(X, Y) == pytest.approx(theirs)


def test_energy_agrees_with_the_formula(small_blocks: None):
    expected = 2 * cdist(X, Y).mean() - cdist(X, X).mean() - cdist(Y, Y).mean()
    assert energy_distance(X, Y) == pytest.approx(expected)
    assert energy_distance(X, X) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("rows", [45, 70, 35])
def test_sliced_wasserstein_agrees_with_pot(rows: int):
    theirs = ot.sliced_wasserstein_distance(X[:rows], Y, projections=DIRECTIONS) ** 2
    assert sliced_wasserstein(X[:rows], Y, DIRECTIONS) == pytest.approx(theirs)


def test_a_translation_costs_its_square_over_the_dimension():
    directions = unit_directions(12, 20_000, np.random.default_rng(0))
    assert sliced_wasserstein(X, X + 2, directions) == pytest.approx(4 * 12 / 12, rel=0.03)
    assert np.linalg.norm(directions, axis=0) == pytest.approx(np.ones(20_000))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 20), st.integers(2, 20), st.floats(-5, 5))
def test_symmetry_and_translation(seed: int, n: int, m: int, shift: float):
    generator = np.random.default_rng(seed)
    x, y = generator.standard_normal((n, 4)), generator.standard_normal((m, 4))
    directions = unit_directions(4, 8, generator)

    def all_distances(a: np.ndarray, b: np.ndarray) -> list[float]:
        return [mmd_rbf(a, b), energy_distance(a, b), sliced_wasserstein(a, b, directions)]

    assert all_distances(x, y) == pytest.approx(all_distances(y, x))
    assert all_distances(x, y) == pytest.approx(all_distances(x + shift, y + shift), abs=1e-6)
    assert kernel_distance(x, y) == pytest.approx(kernel_distance(y, x))
    assert energy_distance(x, y) >= -1e-12


def test_unbiased_distances_average_to_zero_for_one_law():
    generator = np.random.default_rng(0)
    values = []
    for _ in range(300):
        x, y = generator.standard_normal((2, 20, 5))
        values.append([kernel_distance(x, y), mmd_rbf(x, y, 2.0)])
    mean, error = np.mean(values, axis=0), np.std(values, axis=0) / np.sqrt(300)
    assert (np.abs(mean) < 4 * error).all()


def test_equal_vectors_are_no_distance():
    same = np.full((5, 3), 0.1)
    assert median_distance(same, same) == mmd_rbf(same, same) == 0
    assert energy_distance(same, same) == pytest.approx(0, abs=1e-7)
    mostly = np.concatenate([same, same, same + 1])
    assert median_distance(mostly[:10], mostly) > 0


def test_squared_distances_agree_with_scipy():
    assert squared_distances(X, Y) == pytest.approx(cdist(X, Y, "sqeuclidean"))


def test_all_pairs_of_small_sets_serve_every_distance():
    pairs = pairs_of(X, Y)
    assert pairs.distances == pytest.approx(cdist(*[np.concatenate([X, Y])] * 2))
    assert energy_of(pairs.distances, pairs.first) == pytest.approx(energy_distance(X, Y))
    rbf, poly = (kernel(pairs.products, pairs.squares) for kernel in (rbf_kernel(2.0), polynomial_kernel(12)))
    assert mmd_of(rbf, pairs.first) == pytest.approx(mmd_rbf(X, Y, 2.0))
    assert mmd_of(poly, pairs.first) == pytest.approx(kernel_distance(X, Y))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="expected"):
        energy_distance(X, Y[:, :3])
    with pytest.raises(ValueError, match="at least 2 rows"):
        mmd_rbf(X[:1], Y)
    with pytest.raises(ValueError, match="NaN"):
        energy_distance(np.full((3, 2), np.nan), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="moments"):
        frechet_distance([0, 0], np.eye(2), [0], np.eye(1))
