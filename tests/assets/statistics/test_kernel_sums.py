"""Sums of kernel values by unit against the whole matrix, and neighbours within one set."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import rbf_kernel as sklearn_rbf

from assets.statistics import distances, kernel_sums
from assets.statistics.distances import (
    Kernel,
    distance_kernel,
    kernel_distance,
    mmd_rbf,
    polynomial_kernel,
    rbf_kernel,
)
from assets.statistics.kernel_sums import nearest_within, unit_kernel_sums

rng = np.random.default_rng(0)
Z = rng.standard_normal((60, 6))


def matrix(z: np.ndarray, kernel: str) -> np.ndarray:
    """Off-diagonal kernel values by public implementations."""
    values = {"rbf": sklearn_rbf(z, gamma=1 / 8), "poly": (z @ z.T / 6 + 1) ** 3, "distance": -cdist(z, z)}[kernel]
    return values * (1 - np.eye(len(z)))


KERNELS: dict[str, Kernel] = {"rbf": rbf_kernel(2.0), "poly": polynomial_kernel(6), "distance": distance_kernel}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=60), st.integers(1, 400))
def test_sums_are_those_of_the_whole_matrix(owners: list[int], block: int):
    """Units in any order and of any size, cut by blocks anywhere."""
    units, z = [f"u{owner}" for owner in owners], Z[: len(owners)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "BLOCK_VALUES", block)
        found = unit_kernel_sums(z, units, list(KERNELS.values()))
    names = sorted(set(units))
    member = np.array([[unit == name for unit in units] for name in names], dtype=float)
    for name, sums in zip(KERNELS, found, strict=True):
        assert sums.units.tolist() == names
        assert sums.sizes == pytest.approx(member.sum(axis=1))
        assert sums.sums == pytest.approx(member @ matrix(z, name) @ member.T, abs=1e-6)


def test_mmd_of_labels_is_that_of_the_plain_distances():
    units = [f"u{index // 4:02d}" for index in range(60)]
    first = np.arange(15) < 9
    rbf, poly = unit_kernel_sums(Z, units, [KERNELS["rbf"], KERNELS["poly"]])
    labels = first[None].astype(float)
    assert rbf.mmd(labels, 1 - labels)[0] == pytest.approx(mmd_rbf(Z[:36], Z[36:], 2.0))
    assert poly.mmd(labels, 1 - labels)[0] == pytest.approx(kernel_distance(Z[:36], Z[36:]))
    assert np.isnan(rbf.mmd(labels, 0 * labels)[0])


def test_whole_weights_are_repeated_vectors():
    """Pairs of a vector with itself are left out, so repeats agree with the formula on off-diagonal pairs."""
    weights = np.array([[2.0, 1, 0, 3], [1, 1, 1, 1]])
    z = Z[:8]
    (sums,) = unit_kernel_sums(z, [str(index) for index in range(8)], [rbf_kernel(2.0)])
    p, q = np.hstack([weights, 0 * weights]), np.hstack([0 * weights, weights])
    values = matrix(z, "rbf")
    for row, value in enumerate(sums.mmd(p, q)):
        means = [
            a @ values @ b / (a.sum() * b.sum() - a @ b) for a, b in ((p[row],) * 2, (q[row],) * 2, (p[row], q[row]))
        ]
        assert value == pytest.approx(means[0] + means[1] - 2 * means[2])


def test_single_precision_moves_mmd_by_less_than_a_millionth(monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(0)
    z = np.abs(generator.standard_normal((1200, 64)))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    units = [f"{index // 600}/{index // 10}" for index in range(1200)]
    kernels = [polynomial_kernel(1), rbf_kernel(0.6), distance_kernel]
    double = unit_kernel_sums(z, units, kernels)
    monkeypatch.setattr(kernel_sums, "SINGLE_ABOVE", 100)
    single = unit_kernel_sums(z, units, kernels)
    labels = np.stack([generator.permutation(np.arange(120) < 60) for _ in range(20)]).astype(float)
    for exact, rounded in zip(double, single, strict=True):
        assert not np.array_equal(exact.sums, rounded.sums)
        assert rounded.mmd(labels, 1 - labels) == pytest.approx(exact.mmd(labels, 1 - labels), abs=1e-6)


def test_nearest_within_agrees_with_brute_force(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distances, "BLOCK_VALUES", 500)
    order = np.argsort(cdist(Z, Z), axis=1)[:, 1:5]
    assert np.array_equal(np.sort(nearest_within(Z, 4), axis=1), np.sort(order, axis=1))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="60 rows but 2 units"):
        unit_kernel_sums(Z, ["a", "b"], [distance_kernel])
