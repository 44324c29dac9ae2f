"""Effect sizes against scipy, pingouin, cliffs_delta and feature-engine."""

import math

import numpy as np
import pandas as pd
import pingouin
import pytest
from cliffs_delta import cliffs_delta as reference_delta
from feature_engine.selection import DropHighPSIFeatures
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from assets.statistics.effect_sizes import (
    cliffs_delta,
    hedges_g,
    jensen_shannon,
    jensen_shannon_rows,
    ks,
    pooled_sd,
    psi,
    standardised_wasserstein,
    wasserstein_1,
)

rng = np.random.default_rng(0)
X, Y = rng.standard_normal(120), rng.gamma(2, size=75)
TIED_X, TIED_Y = rng.integers(0, 6, 90).astype(float), rng.integers(1, 8, 70).astype(float)
numbers = st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=25)


@pytest.mark.parametrize(("x", "y"), [(X, Y), (TIED_X, TIED_Y)])
def test_agrees_with_the_references(x: np.ndarray, y: np.ndarray):
    assert hedges_g(x, y) == pytest.approx(pingouin.compute_effsize(x, y, eftype="hedges"))
    assert cliffs_delta(x, y) == pytest.approx(reference_delta(list(x), list(y))[0])
    assert cliffs_delta(x, y) == pytest.approx(2 * stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)) - 1)
    assert ks(x, y) == pytest.approx(stats.ks_2samp(x, y).statistic)
    assert wasserstein_1(x, y) == pytest.approx(stats.wasserstein_distance(x, y))
    assert standardised_wasserstein(x, y) == pytest.approx(wasserstein_1(x, y) / pooled_sd(x, y))


@pytest.mark.parametrize(("x", "y"), [(X, Y), (X.round(), Y.round()), (X.round(1), Y.round(1))])
def test_psi_agrees_with_feature_engine(x: np.ndarray, y: np.ndarray):
    frame = pd.DataFrame({"trait": np.concatenate([x, y]), "set": [0] * len(x) + [1] * len(y)})
    reference = DropHighPSIFeatures(
        split_col="set", cut_off=0, bins=10, strategy="equal_frequency", min_pct_empty_bins=1e-4, threshold=10,
        variables=["trait"],
    )  # fmt: skip
    assert psi(x, y) == pytest.approx(reference.fit(frame).psi_values_["trait"])


def test_psi_is_both_divergences_of_the_shares():
    edges = np.quantile(X, np.linspace(0, 1, 11)[1:-1])
    p, q = (np.bincount(np.searchsorted(edges, side), minlength=10) / len(side) for side in (X, Y))
    p, q = np.maximum(p, 1e-4), np.maximum(q, 1e-4)
    assert psi(X, Y) == pytest.approx(stats.entropy(p, q) * p.sum() + stats.entropy(q, p) * q.sum(), abs=0.02)


shares = st.floats(0, 1, allow_subnormal=False)  # half of a smallest number is 0: scipy's answer is then inf


@given(st.lists(shares, min_size=2, max_size=12), st.data())
def test_jensen_shannon_agrees_with_scipy(p: list[float], data: st.DataObject):
    q = data.draw(st.lists(shares, min_size=len(p), max_size=len(p)))
    if sum(p) < 1e-3 or sum(q) < 1e-3:
        return
    assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-9)


def test_many_shares_at_once_are_each_pair_alone():
    p, q = rng.integers(0, 4, (30, 5)), rng.integers(0, 4, (30, 5))
    p[0] = 0
    found = jensen_shannon_rows(p, q)
    assert math.isnan(found[0])
    assert found[1:] == pytest.approx([jensenshannon(*pair, base=2) ** 2 for pair in zip(p[1:], q[1:], strict=True)])


@given(numbers, numbers)
def test_symmetry(x: list[float], y: list[float]):
    assert ks(x, y) == pytest.approx(ks(y, x))
    assert wasserstein_1(x, y) == pytest.approx(wasserstein_1(y, x))
    assert cliffs_delta(x, y) == pytest.approx(-cliffs_delta(y, x))
    assert hedges_g(x, y) == pytest.approx(-hedges_g(y, x))


@given(numbers, st.floats(0.125, 50))
def test_a_translation_is_its_own_distance(x: list[float], shift: float):
    assert wasserstein_1(x, np.asarray(x) + shift) == pytest.approx(shift)


def test_nan_are_left_out():
    holed = np.concatenate([X, [np.nan] * 5])
    for statistic in (hedges_g, cliffs_delta, ks, wasserstein_1, standardised_wasserstein, psi):
        assert statistic(holed, Y) == statistic(X, Y)
        assert math.isnan(statistic([np.nan], Y))


def test_constants_are_defined():
    same, other = [0.1] * 7, [0.3] * 9
    for statistic in (hedges_g, cliffs_delta, ks, wasserstein_1, standardised_wasserstein, psi):
        assert statistic(same, same) == 0
    assert hedges_g(other, same) == standardised_wasserstein(same, other) == math.inf
    assert (cliffs_delta(other, same), ks(other, same)) == (1, 1)
    assert psi(same, other) > 1


def test_shares_are_checked():
    assert math.isnan(jensen_shannon([0, 0], [1, 0]))
    assert jensen_shannon([1, 0], [0, 3]) == 1
    with pytest.raises(ValueError, match="equal length"):
        jensen_shannon([1, 0], [1, 0, 0])
