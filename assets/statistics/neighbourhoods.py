"""Statistics of nearest neighbours between two sets of vectors, and of the scores they yield.

Belongs here: k-th neighbour distances, precision/recall/density/coverage, the kNN two-sample test, AUROC and
conformal p-values. Does not: approximate search and indexes (FAISS belongs to the resources). Rows go in blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assets.statistics.distances import Floats, matrix_pair, row_blocks, squared_distances
from assets.statistics.kernel_sums import nearest_within
from assets.statistics.resampling import Names, permute_units, pooled_units


@dataclass(frozen=True)
class Prdc:
    """Fidelity and diversity of one set against another, all at their best at 1 (density can exceed it)."""

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True)
class KnnTwoSample:
    """Mean share of neighbours from the own set, what it is for exchangeable samples, and its p-value."""

    statistic: float
    null_mean: float
    p_value: float
    shares: Floats
    """(n + m,) share of every sample, x before y."""


def kth_distances(queries: ArrayLike, reference: ArrayLike, k: int) -> Floats:
    """Distance of every query to its k-th nearest reference (Sun et al. 2022, on L2-normalised latents).

    Args:
        queries: (n, d).
        reference: (r, d), r ≥ k; none of them a query (see `kth_distances_within`).
        k: neighbour, from 1.

    Returns:
        (n,) distances.

    Raises:
        ValueError: k outside 1..r; see also `distances.matrix_pair`.
    """
    a, b = matrix_pair(queries, reference)
    _check_k(k, len(b))
    result = np.empty(len(a))
    for rows in row_blocks(len(a), len(b)):
        result[rows] = np.partition(squared_distances(a[rows], b), k - 1, axis=1)[:, k - 1]
    return np.sqrt(result)


def kth_distances_within(x: ArrayLike, k: int) -> Floats:
    """Distance of every row to its k-th nearest other row: the kNN radii of a set.

    Args:
        x: (n, d), n > k.
        k: neighbour, from 1.

    Returns:
        (n,) radii.

    Raises:
        ValueError: k outside 1..n−1; see also `distances.matrix_pair`.
    """
    a, _ = matrix_pair(x, x)
    _check_k(k, len(a) - 1)
    result = np.empty(len(a))
    for rows in row_blocks(len(a), len(a)):
        result[rows] = np.partition(_squared_to_others(a, rows), k - 1, axis=1)[:, k - 1]
    return np.sqrt(result)


def prdc(real: ArrayLike, fake: ArrayLike, k: int) -> Prdc:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Radii are distances to the k-th nearest other sample of the same set; a sample lies in a ball when its distance is
    strictly below the radius; coverage: share of real samples whose nearest fake lies within their radius.

    Args:
        real: (n, d), n > k.
        fake: (m, d), m > k.
        k: neighbour that sets the radii.

    Raises:
        ValueError: k outside 1..min(n, m)−1; see also `distances.matrix_pair`.
    """
    a, b = matrix_pair(real, fake)
    radii_real, radii_fake = kth_distances_within(a, k), kth_distances_within(b, k)
    balls = np.zeros(len(b), dtype=np.int64)
    recalled, covered = 0, 0
    for rows in row_blocks(len(a), len(b)):
        distances = np.sqrt(squared_distances(a[rows], b))
        inside = distances < radii_real[rows, None]
        balls += inside.sum(axis=0)
        covered += int(inside.any(axis=1).sum())
        recalled += int((distances < radii_fake).any(axis=1).sum())
    return _prdc(balls, recalled, covered, len(a), k)


def prdc_of(distances: Floats, first: int, k: int) -> Prdc:
    """`prdc` of two sets from their pooled distances (n + m, n + m), 0 on the diagonal, n = `first`."""
    own, other = (_radii(distances[side, side], k) for side in (slice(first), slice(first, None)))
    cross = distances[:first, first:]
    inside = cross < own[:, None]
    recalled = np.count_nonzero((cross < other).any(axis=1))
    return _prdc(inside.sum(axis=0), int(recalled), int(np.count_nonzero(inside.any(axis=1))), first, k)


def same_set_share(distances: Floats, first: int, k: int) -> float:
    """The statistic of `knn_two_sample` from pooled distances (n + m, n + m), n = `first`."""
    others = distances.copy()
    np.fill_diagonal(others, np.inf)
    nearest = np.argpartition(others, k - 1, axis=1)[:, :k]
    labels = np.arange(len(distances)) < first
    return float((labels[nearest] == labels[:, None]).mean())


def knn_two_sample(
    x: ArrayLike,
    x_units: Names,
    y: ArrayLike,
    y_units: Names,
    k: int,
    permutations: int,
    rng: np.random.Generator,
    device: str = "cpu",
) -> KnnTwoSample:
    """Mean share of same-set samples among the k nearest of the pooled set (Schilling 1986, Henze 1988).

    p = (1 + #{permuted ≥ observed}) / (permutations + 1) with set labels permuted over units. `null_mean` is the exact
    mean for exchangeable samples, Σ nᵢ(nᵢ−1)/(N(N−1)); dependence inside units lifts the statistic above it. It grows
    with the unevenness of the sets, so units must be about equally large in both (`resampling.even_units`).

    Args:
        x: (n, d).
        x_units: (n,) unit of each row.
        y: (m, d).
        y_units: (m,) unit of each row.
        k: neighbours, below n + m.
        permutations: how many; 0 gives p = 1.
        rng: source of randomness.
        device: torch device that neighbours are searched on.

    Raises:
        ValueError: k outside 1..n+m−1; units of another length; see also `distances.matrix_pair`.
    """
    a, b = matrix_pair(x, y)
    pooled, labels = np.concatenate([a, b]), np.repeat([False, True], [len(a), len(b)])
    total = len(pooled)
    _check_k(k, total - 1)
    neighbours = nearest_within(pooled, k, device)
    permuted = permute_units(labels, pooled_units(x_units, y_units), permutations, rng)
    shares = (labels[neighbours] == labels[:, None]).mean(axis=1)
    above = 0
    for rows in row_blocks(permutations, total):
        draws = permuted[rows]
        same = sum(np.count_nonzero(draws[:, column] == draws, axis=1) for column in neighbours.T)
        above += int(np.count_nonzero(same / (total * k) >= shares.mean() - 1e-12))
    null_mean = (len(a) * (len(a) - 1) + len(b) * (len(b) - 1)) / (total * (total - 1))
    return KnnTwoSample(float(shares.mean()), null_mean, (1 + above) / (permutations + 1), shares)


def auroc(scores_positive: ArrayLike, scores_negative: ArrayLike) -> float:
    """P(positive > negative) + ½P(equal), the area under the ROC curve. An empty side: NaN.

    Args:
        scores_positive: (m,) scores that should be higher.
        scores_negative: (n,) scores that should be lower.
    """
    positive = np.asarray(scores_positive, dtype=np.float64)
    negative = np.sort(np.asarray(scores_negative, dtype=np.float64))
    if min(len(positive), len(negative)) == 0:
        return math.nan
    below = np.searchsorted(negative, positive, side="left").sum()
    not_above = np.searchsorted(negative, positive, side="right").sum()
    return float(below + not_above) / (2 * len(positive) * len(negative))


def weighted_auroc(
    scores_positive: ArrayLike, weights_positive: ArrayLike, scores_negative: ArrayLike, weights_negative: ArrayLike
) -> Floats:
    """AUROC under many weightings of the same scores; zero-one weights are set labels, multiplicities a bootstrap.

    Args:
        scores_positive: (m,) scores that should be higher.
        weights_positive: (B, m) non-negative.
        scores_negative: (n,) scores that should be lower.
        weights_negative: (B, n) non-negative.

    Returns:
        (B,); NaN where a side has no weight.
    """
    positive, negative = np.asarray(scores_positive, np.float64), np.asarray(scores_negative, np.float64)
    weights_p, weights_n = np.asarray(weights_positive), np.asarray(weights_negative)
    order = np.argsort(negative, kind="stable")
    below = np.searchsorted(negative[order], positive, side="left")
    not_above = np.searchsorted(negative[order], positive, side="right")
    areas = np.full(len(weights_p), np.nan)
    for rows in row_blocks(len(weights_p), len(positive) + len(negative)):
        p, n = weights_p[rows], weights_n[rows][:, order]
        cumulated = np.concatenate([np.zeros((len(n), 1)), np.cumsum(n, axis=1, dtype=np.float64)], axis=1)
        won = (p * (cumulated[:, below] + cumulated[:, not_above])).sum(axis=1) / 2
        pairs = p.sum(axis=1) * cumulated[:, -1]
        np.divide(won, pairs, out=areas[rows], where=pairs > 0)
    return areas


def conformal_p_values(scores: ArrayLike, holdout_scores: ArrayLike) -> Floats:
    """(1 + #{holdout ≥ score}) / (n + 1): how unusual each score is among the holdout's (Vovk et al. 2005).

    Args:
        scores: (m,) scores, higher = stranger.
        holdout_scores: (n,) scores of samples that stand for the normal.

    Returns:
        (m,) p-values in (0, 1].
    """
    holdout = np.sort(np.asarray(holdout_scores, dtype=np.float64))
    at_least = len(holdout) - np.searchsorted(holdout, np.asarray(scores, dtype=np.float64), side="left")
    return np.asarray((1 + at_least) / (len(holdout) + 1), dtype=np.float64)


def _check_k(k: int, most: int) -> None:
    if not 1 <= k <= most:
        raise ValueError(f"k is {k}, but must lie in 1..{most}, the number of neighbours there are")


def _squared_to_others(x: Floats, rows: slice) -> Floats:
    """Squared distances of some rows to all, infinite to themselves."""
    squares = squared_distances(x[rows], x)
    np.fill_diagonal(squares[:, rows], np.inf)
    return squares


def _radii(distances: Floats, k: int) -> Floats:
    """Distance to the k-th nearest other row, where 0 on the diagonal is the row itself: one place further."""
    radii: Floats = np.partition(distances, k, axis=1)[:, k]
    return radii


def _prdc(balls: NDArray[np.int64], recalled: int, covered: int, real: int, k: int) -> Prdc:
    """From in how many real balls each fake lies, and how many real samples are recalled and covered."""
    return Prdc(float((balls > 0).mean()), recalled / real, float(balls.mean() / k), covered / real)
