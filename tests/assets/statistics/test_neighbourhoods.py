"""Neighbour statistics against prdc, scikit-learn and brute force."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prdc import compute_prdc
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from assets.statistics import distances
from assets.statistics.distances import pairs_of
from assets.statistics.neighbourhoods import (
    auroc,
    conformal_p_values,
    knn_two_sample,
    kth_distances,
    kth_distances_within,
    prdc,
    prdc_of,
    same_set_share,
    weighted_auroc,
)

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((90, 8)), 0.8 * rng.standard_normal((60, 8)) + 0.3
scores = st.lists(st.integers(0, 9), min_size=1, max_size=25)


def singles(count: int) -> list[str]:
    return [str(index) for index in range(count)]


@pytest.fixture(params=[500, 4_000_000])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "BLOCK_VALUES", request.param)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_prdc_agrees_with_its_authors(k: int, blocks: None):
    ours, theirs = prdc(X, Y, k), compute_prdc(X, Y, k)
    assert ours.__dict__ == pytest.approx(theirs)
    assert prdc_of(pairs_of(X, Y).distances, 90, k) == ours


def test_kth_distances_agree_with_brute_force(blocks: None):
    assert kth_distances(Y, X, 5) == pytest.approx(np.sort(cdist(Y, X), axis=1)[:, 4])
    assert kth_distances_within(X, 5) == pytest.approx(np.sort(cdist(X, X), axis=1)[:, 5])


def test_knn_two_sample_agrees_with_brute_force(blocks: None):
    pooled, labels = np.concatenate([X, Y]), np.repeat([0, 1], [90, 60])
    nearest = np.argsort(cdist(pooled, pooled), axis=1)[:, 1:5]
    result = knn_two_sample(X, singles(90), Y, singles(60), 4, 99, np.random.default_rng(0))
    assert result.statistic == pytest.approx((labels[nearest] == labels[:, None]).mean())
    assert result.shares.mean() == pytest.approx(result.statistic)
    assert same_set_share(pairs_of(X, Y).distances, 90, 4) == pytest.approx(result.statistic)
    apart = knn_two_sample(X, singles(90), Y + 3, singles(60), 4, 99, np.random.default_rng(0))
    assert apart.p_value == pytest.approx(0.01)


def test_knn_two_sample_null():
    generator = np.random.default_rng(0)
    results = []
    for _ in range(250):
        x, y = generator.standard_normal((24, 3)), generator.standard_normal((40, 3))
        results.append(knn_two_sample(x, singles(24), y, singles(40), 3, 39, generator))
    statistics = np.array([result.statistic for result in results])
    assert statistics.mean() == pytest.approx(results[0].null_mean, abs=4 * statistics.std() / math.sqrt(250))
    rejected = sum(result.p_value <= 0.05 for result in results)
    low, high = stats.binom.interval(0.999, 250, 0.05)
    assert low <= rejected <= high


@given(scores, scores)
def test_auroc_agrees_with_scikit_learn(positive: list[int], negative: list[int]):
    labels = [1] * len(positive) + [0] * len(negative)
    assert auroc(positive, negative) == pytest.approx(roc_auc_score(labels, positive + negative))
    assert auroc(positive, negative) == pytest.approx(1 - auroc(negative, positive))


@given(scores, scores, st.integers(0, 1000))
def test_weighted_auroc_is_auroc_of_repeated_scores(positive: list[int], negative: list[int], seed: int):
    generator = np.random.default_rng(seed)
    wp, wn = generator.integers(0, 3, (4, len(positive))), generator.integers(0, 3, (4, len(negative)))
    expected = [auroc(np.repeat(positive, p), np.repeat(negative, n)) for p, n in zip(wp, wn, strict=True)]
    assert weighted_auroc(positive, wp, negative, wn) == pytest.approx(np.array(expected), nan_ok=True)


def test_conformal_p_values():
    assert conformal_p_values([5, 2, -1], [1, 2, 3]) == pytest.approx([1 / 4, 3 / 4, 1])
    generator = np.random.default_rng(0)
    p = np.concatenate([conformal_p_values(s[:1], s[1:]) for s in generator.standard_normal((2000, 40))])
    assert (p <= 0.1).mean() <= 0.12


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"1\.\.59"):
        prdc(X, Y, 60)
    with pytest.raises(ValueError, match=r"1\.\.90"):
        kth_distances(Y, X, 0)
    assert math.isnan(auroc([], [1]))
