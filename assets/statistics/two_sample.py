"""Two-sample tests on vectors whose null permutes set labels over whole units.

Belongs here: the kernel (MMD) test and the classifier two-sample test. Does not: plain distances (distances), the
nearest-neighbour test (neighbourhoods), one-dimensional traits (shifts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assets.statistics.distances import Floats, matrix_pair, row_blocks
from assets.statistics.kernel_sums import UnitKernelSums
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


def mmd_tests(
    sums: Sequence[UnitKernelSums], second: ArrayLike, permutations: int, rng: np.random.Generator
) -> list[MmdTest]:
    """Kernel two-sample tests (Gretton et al. 2012): p = (1 + #{permuted ≥ observed}) / (permutations + 1).

    `distance_kernel` makes it the energy test, `polynomial_kernel` the KID test. All kernels see the same permutations
    of whole units, by their sums alone.

    Args:
        sums: of each kernel over the same units, of both sets (`resampling.pooled_units`).
        second: (U,) True for units of the second set.
        permutations: how many.
        rng: source of randomness.
    """
    observed = np.asarray(second, dtype=np.bool_)
    permuted = permute_units(observed, sums[0].units, permutations, rng)
    labels = np.concatenate([observed[None], permuted]).astype(np.float64)
    found = []
    for one in sums:
        values = one.mmd(1 - labels, labels)
        above = int(np.count_nonzero(values[1:] >= values[0] - TIE))
        found.append(MmdTest(float(values[0]), (1 + above) / (permutations + 1)))
    return found


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
    tests = [folds == fold for fold in range(int(folds.max()) + 1)]
    narrow = vectors.shape[1] <= len(vectors) - max(np.count_nonzero(test) for test in tests)
    middle = vectors.mean(axis=0)
    products = [_products(vectors[test] - middle) for test in tests] if narrow else []
    for fold, test in enumerate(tests):
        if test.all():
            continue
        mean, spread = vectors[~test].mean(axis=0), vectors[~test].std(axis=0)
        varies = spread > TIE * np.maximum(np.abs(mean), 1e-300)
        features, seen = ((vectors[rows][:, varies] - mean[varies]) / spread[varies] for rows in (~test, test))
        gram = None
        if narrow:  # the products of all but this fold are the sum of the other folds' products
            shift, scale = (mean - middle)[varies], spread[varies]
            others = np.sum(products[:fold] + products[fold + 1 :], axis=0)[np.ix_(varies, varies)]
            gram = (others - len(features) * np.outer(shift, shift)) / np.outer(scale, scale)
        decisions[:, test] = _decisions(features, seen, labels[:, ~test], gram)
    return decisions


def _products(vectors: Floats) -> Floats:
    products: Floats = vectors.T @ vectors
    return products


def _decisions(features: Floats, seen: Floats, labels: Floats, gram: Floats | None) -> Floats:
    """Decisions (B, t) on standardised vectors `seen` (t, d), learned from standardised `features` (n, d).

    Standardised features sum to 0, so that the coded targets of a labelling reach them through its sum of ones alone.
    """
    ones = labels.sum(axis=1, keepdims=True)
    zeros = labels.shape[1] - ones
    both = (ones > 0) & (zeros > 0)
    ones, zeros = np.maximum(ones, 1), np.maximum(zeros, 1)
    if gram is None:
        directions = _ridge_by_rows(features, labels / ones - (1 - labels) / zeros)
        sums = labels @ features
    else:
        sums = labels @ features
        directions = _ridge(gram, sums * (1 / ones + 1 / zeros), len(features))
    middle = (directions * sums).sum(axis=1, keepdims=True) * (1 / ones - 1 / zeros) / 2
    decisions: Floats = (directions @ seen.T - middle) * both
    return decisions


def _ridge(gram: Floats, moments: Floats, rows: int) -> Floats:
    """Ridge coefficients (B, d) from the features' products (d, d) and theirs with the targets (B, d)."""
    from scipy.linalg import solve

    penalised = gram + RIDGE * rows * np.eye(len(gram))
    return np.asarray(solve(penalised, moments.T, assume_a="pos").T, dtype=np.float64)


def _ridge_by_rows(features: Floats, targets: Floats) -> Floats:
    """Ridge coefficients (B, d) for targets (B, n) of fewer rows than features, by the rows' products."""
    from scipy.linalg import solve

    gram = features @ features.T + RIDGE * len(features) * np.eye(len(features))
    return np.asarray(solve(gram, targets.T, assume_a="pos").T @ features, dtype=np.float64)


def _auc_rows(decisions: Floats, labels: Floats) -> Floats:
    """AUROC per row, mid-ranks for ties."""
    from scipy.stats import rankdata

    areas = np.empty(len(labels))
    for rows in row_blocks(*labels.shape):
        ones = labels[rows].sum(axis=1)
        zeros = labels.shape[1] - ones
        ranked = (rankdata(decisions[rows], axis=1) * labels[rows]).sum(axis=1)
        areas[rows] = (ranked - ones * (ones + 1) / 2) / (ones * zeros)
    return areas
