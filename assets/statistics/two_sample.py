"""Two-sample tests on vectors whose null permutes set labels over whole units.

Belongs here: the kernel (MMD) test and the classifier two-sample test. Does not: plain distances (distances), the
nearest-neighbour test (neighbourhoods), one-dimensional traits (shifts).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assets.statistics.distances import Floats, Kernel, matrix_pair, median_distance, rbf_kernel, row_blocks
from assets.statistics.resampling import Names, permute_units, pooled_units

FOLDS = 5
RIDGE = 0.1
"""Ridge penalty per training sample, on standardised features."""
TIE = 1e-12


@dataclass(frozen=True)
class MmdTest:
    """Unbiased MMD² and its permutation p-value."""

    mmd: float
    p_value: float


@dataclass(frozen=True)
class C2st:
    """How well a linear classifier tells the sets apart on units it has not seen."""

    accuracy: float
    """Balanced over the two sets; 0.5 = not at all."""
    auc: float
    pad: float
    """Proxy A-distance 2(1 − 2ε), clipped at 0 (Ben-David et al. 2007)."""
    p_value: float
    """Of the AUC."""
    decisions: Floats
    """(n + m,) out-of-fold decision values, x before y; above 0 means y."""


def mmd_test(
    x: ArrayLike,
    x_units: Names,
    y: ArrayLike,
    y_units: Names,
    permutations: int,
    rng: np.random.Generator,
    kernel: Kernel | None = None,
) -> MmdTest:
    """Kernel two-sample test (Gretton et al. 2012): p = (1 + #{permuted ≥ observed}) / (permutations + 1).

    Args:
        x: (n, d), n ≥ 2.
        x_units: (n,) unit of each row.
        y: (m, d), m ≥ 2.
        y_units: (m,) unit of each row.
        permutations: how many.
        rng: source of randomness.
        kernel: RBF at the median pooled distance when left out; `distance_kernel` makes it the energy test,
            `polynomial_kernel` the KID test. All vectors equal: MMD 0, p = 1.

    Raises:
        ValueError: units of another length; see also `distances.matrix_pair`.
    """
    a, b = matrix_pair(x, y, at_least=2)
    if kernel is None:
        sigma = median_distance(a, b)
        if sigma == 0:
            return MmdTest(0.0, 1.0)
        kernel = rbf_kernel(sigma)
    labels = _observed_and_permuted(len(a), len(b), pooled_units(x_units, y_units), permutations, rng)
    values = weighted_mmd(np.concatenate([a, b]), 1.0 - labels, labels, kernel)
    above = np.count_nonzero(values[1:] >= values[0] - TIE)
    return MmdTest(float(values[0]), (1 + int(above)) / (permutations + 1))


def weighted_mmd(vectors: ArrayLike, weights_x: ArrayLike, weights_y: ArrayLike, kernel: Kernel) -> Floats:
    """Unbiased MMD² between pairs of weightings of the same vectors, all by one pass over the kernel matrix.

    With p and q the weights of a row: Σ_{i≠j} pᵢpⱼkᵢⱼ / Σ_{i≠j} pᵢpⱼ, the same for q, minus twice
    Σ_{i≠j} pᵢqⱼkᵢⱼ / Σ_{i≠j} pᵢqⱼ. Zero-one weights are set labels, multiplicities a bootstrap. The kernel matrix is
    made in blocks of rows.

    Args:
        vectors: (N, d).
        weights_x: (B, N) non-negative.
        weights_y: (B, N) non-negative.
        kernel: see `distances.Kernel`.

    Returns:
        (B,); NaN where a side has fewer than two weighted vectors.
    """
    z = np.asarray(vectors, dtype=np.float64)
    p, q = np.asarray(weights_x, dtype=np.float64), np.asarray(weights_y, dtype=np.float64)
    sums = np.zeros((3, len(p)))
    for rows in row_blocks(len(z), len(z)):
        values = kernel(z[rows], z)
        np.fill_diagonal(values[:, rows], 0)
        to_p, to_q = p @ values.T, q @ values.T
        sums[0] += (p[:, rows] * to_p).sum(axis=1)
        sums[1] += (q[:, rows] * to_q).sum(axis=1)
        sums[2] += (p[:, rows] * to_q).sum(axis=1)
    pairs = np.stack([_pairs(p, p), _pairs(q, q), _pairs(p, q)])
    means = np.divide(sums, pairs, out=np.full_like(sums, np.nan), where=pairs > 0)
    result: Floats = means[0] + means[1] - 2 * means[2]
    return result


def c2st(
    x: ArrayLike,
    x_units: Names,
    y: ArrayLike,
    y_units: Names,
    permutations: int,
    rng: np.random.Generator,
) -> C2st:
    """Classifier two-sample test (Lopez-Paz & Oquab 2017) with a linear classifier.

    Ridge regression on standardised features against set labels coded to equal total weight (the direction of a
    regularised Fisher discriminant), thresholded midway between the training means; folds hold whole units and do not
    look at the labels, so that permuted labels go through the very same cross-validation. A fold whose training part
    holds one set only decides 0 for its samples. p = (1 + #{permuted AUC ≥ AUC}) / (permutations + 1).

    Args:
        x: (n, d).
        x_units: (n,) unit of each row.
        y: (m, d).
        y_units: (m,) unit of each row.
        permutations: how many; 0 gives p = 1.
        rng: source of randomness (folds, then permutations).

    Raises:
        ValueError: units of another length; see also `distances.matrix_pair`.
    """
    a, b = matrix_pair(x, y)
    units = pooled_units(x_units, y_units)
    folds = _unit_folds(units, rng)
    labels = _observed_and_permuted(len(a), len(b), units, permutations, rng)
    decisions = _out_of_fold_decisions(np.concatenate([a, b]), folds, labels)
    areas = _auc_rows(decisions, labels)
    accuracy = balanced_accuracy(decisions[0], np.ones(len(a) + len(b)), labels[0])
    above = int(np.count_nonzero(areas[1:] >= areas[0] - TIE))
    return C2st(
        accuracy=accuracy,
        auc=float(areas[0]),
        pad=proxy_a_distance(accuracy),
        p_value=(1 + above) / (permutations + 1),
        decisions=decisions[0],
    )


def balanced_accuracy(decisions: Floats, weights: Floats, labels: Floats) -> float:
    """Mean of the two sets' weighted shares of right decisions; a decision of exactly 0 is half right.

    Args:
        decisions: (N,) above 0 for label 1.
        weights: (N,) non-negative.
        labels: (N,) 0 or 1.
    """
    right = (1 + np.sign(decisions) * (2 * labels - 1)) / 2
    first, second = weights * (1 - labels), weights * labels
    return float(first @ right / first.sum() + second @ right / second.sum()) / 2


def proxy_a_distance(accuracy: float) -> float:
    """2(1 − 2ε) with ε = 1 − accuracy, clipped at 0: 0 for indistinguishable sets, 2 for separable ones."""
    return max(0.0, 2 * (1 - 2 * (1 - accuracy)))


def _pairs(p: Floats, q: Floats) -> Floats:
    pairs: Floats = p.sum(axis=1) * q.sum(axis=1) - (p * q).sum(axis=1)
    return pairs


def _observed_and_permuted(
    n: int, m: int, units: NDArray[np.str_], permutations: int, rng: np.random.Generator
) -> Floats:
    """Row 0: the observed labels (1 = second set); the others: permuted over units."""
    observed = np.repeat([False, True], [n, m])
    if len(units) != n + m:
        raise ValueError(f"{n + m} rows but {len(units)} units")
    permuted = permute_units(observed, units, permutations, rng)
    return np.concatenate([observed[None], permuted]).astype(np.float64)


def _unit_folds(units: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.intp]:
    """Fold of every sample: units, largest first and ties in random order, go to the fold with fewest samples."""
    distinct, index, sizes = np.unique(units, return_inverse=True, return_counts=True)
    count = min(FOLDS, len(distinct))
    order = rng.permutation(len(distinct))
    order = order[np.argsort(-sizes[order], kind="stable")]
    held = np.zeros(count)
    fold_of_unit = np.empty(len(distinct), dtype=np.intp)
    for unit in order:
        fold_of_unit[unit] = np.argmin(held)
        held[fold_of_unit[unit]] += sizes[unit]
    return fold_of_unit[index]


def _out_of_fold_decisions(vectors: Floats, folds: NDArray[np.intp], labels: Floats) -> Floats:
    """(B, N) decision values; one factorisation per fold serves all B labellings."""
    decisions = np.zeros_like(labels)
    for fold in range(int(folds.max()) + 1):
        test = folds == fold
        if not test.all():
            decisions[:, test] = _decisions(vectors[~test], vectors[test], labels[:, ~test])
    return decisions


def _decisions(train: Floats, test: Floats, labels: Floats) -> Floats:
    mean, spread = train.mean(axis=0), train.std(axis=0)
    varies = spread > TIE * np.maximum(np.abs(mean), 1e-300)
    features = (train[:, varies] - mean[varies]) / spread[varies]
    seen = (test[:, varies] - mean[varies]) / spread[varies]
    ones = labels.sum(axis=1, keepdims=True)
    zeros = labels.shape[1] - ones
    both = (ones > 0) & (zeros > 0)
    ones, zeros = np.maximum(ones, 1), np.maximum(zeros, 1)
    targets = labels / ones - (1 - labels) / zeros
    directions = _ridge(features, targets)
    fitted = directions @ features.T
    middle = ((fitted * labels).sum(axis=1) / ones[:, 0] + (fitted * (1 - labels)).sum(axis=1) / zeros[:, 0]) / 2
    decisions: Floats = (directions @ seen.T - middle[:, None]) * both
    return decisions


def _ridge(features: Floats, targets: Floats) -> Floats:
    """Ridge coefficients (B, d) for targets (B, n), through whichever Gram matrix is smaller."""
    n, d = features.shape
    penalty = RIDGE * n
    if d <= n:
        gram = features.T @ features
        gram[np.diag_indices(d)] += penalty
        return np.asarray(np.linalg.solve(gram, features.T @ targets.T).T, dtype=np.float64)
    gram = features @ features.T
    gram[np.diag_indices(n)] += penalty
    return np.asarray(np.linalg.solve(gram, targets.T).T @ features, dtype=np.float64)


def _auc_rows(decisions: Floats, labels: Floats) -> Floats:
    """AUROC per row, mid-ranks for ties."""
    from scipy.stats import rankdata

    ranks = rankdata(decisions, axis=1)
    ones = labels.sum(axis=1)
    zeros = labels.shape[1] - ones
    areas: Floats = ((ranks * labels).sum(axis=1) - ones * (ones + 1) / 2) / (ones * zeros)
    return areas
