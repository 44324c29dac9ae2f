"""Does a trait differ between two sets, and does it go with the loss: tests that treat units as wholes.

Belongs here: p-values for one number per sample (one trait, or a table of traits that share their permutations).
Does not: the effect sizes themselves (effect_sizes), correction over traits (multiplicity), latents (two_sample).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assets.statistics.effect_sizes import (
    SMALLEST_SHARE,
    cliffs_delta,
    hedges_g,
    ks,
    psi,
    standardised_wasserstein,
    wasserstein_1,
)
from assets.statistics.resampling import Names, even_units, permute_units, pooled_units

Floats = NDArray[np.float64]

TIE = 1e-12
"""Statistics closer than this are equal: their order would be rounding."""
UNITS_FOR_SIGN_FLIPS = 7
"""Below this many units there are too few sign patterns (2^U) for a p-value of 0.05 with room to spare."""
BLOCK_VALUES = 100_000
"""Values of the largest temporary array: it stays in a processor's cache, which halves the time."""
DECILES = np.linspace(0, 1, 11)[1:-1]


@dataclass(frozen=True)
class ShiftTable:
    """Shift of every trait from source to target; each field is (T,). Positive: the target is higher."""

    hedges_g: Floats
    cliffs_delta: Floats
    ks: Floats
    wasserstein: Floats
    standardised_wasserstein: Floats
    psi: Floats
    p_value: Floats
    """Of the Kolmogorov–Smirnov statistic."""
    psi_p_value: Floats


def shift_test(
    source: ArrayLike,
    source_units: Names,
    target: ArrayLike,
    target_units: Names,
    permutations: int,
    rng: np.random.Generator,
) -> float:
    """p-value of the Kolmogorov–Smirnov statistic of one trait, set labels permuted over units.

    p = (1 + #{permuted ≥ observed}) / (permutations + 1), of units thinned to even sizes (`even_units`): a set of few
    samples has a larger statistic. NaN are left out; an empty side gives NaN.

    Args:
        source: (n,) trait.
        source_units: (n,) unit of each.
        target: (m,) trait.
        target_units: (m,) unit of each.
        permutations: how many.
        rng: source of randomness.

    Raises:
        ValueError: values and units of different length.
    """
    a, b = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    return float(shift_table(a[:, None], b[:, None], source_units, target_units, permutations, rng).p_value[0])


def shift_table(
    source: ArrayLike,
    target: ArrayLike,
    source_units: Names,
    target_units: Names,
    permutations: int,
    rng: np.random.Generator,
) -> ShiftTable:
    """Effect sizes and permutation p-values of many traits that share one set of unit permutations.

    `p_value` is that of `shift_test`. `psi_p_value` counts the same permutations and takes the deciles of each permuted
    source anew; PSI's usual null, PSI/(1/n + 1/m) ~ χ²(9) (Yurdakul & Naranjo 2020), holds for independent samples
    alone. NaN are left out trait by trait.

    Args:
        source: (n, T) traits.
        target: (m, T) traits.
        source_units: (n,) unit of each source sample.
        target_units: (m,) unit of each target sample.
        permutations: how many.
        rng: source of randomness.

    Raises:
        ValueError: shapes that do not fit together.
    """
    a, b = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:  # noqa: PLR2004
        raise ValueError(f"traits must be (n, T) and (m, T), got {a.shape} and {b.shape}")
    labels = _set_labels(source_units, target_units, permutations, rng)
    pooled = np.concatenate([a, b])
    if len(pooled) != labels.shape[1]:
        raise ValueError(f"{len(pooled)} values but {labels.shape[1]} units")
    even = even_units(source_units, target_units)
    labels, pooled = labels[:, even], pooled[even]
    p_values = np.array([_p_values(column, labels) for column in pooled.T]).reshape(-1, 2)
    pairs = list(zip(b.T, a.T, strict=True))
    return ShiftTable(
        hedges_g=np.array([hedges_g(y, x) for y, x in pairs]),
        cliffs_delta=np.array([cliffs_delta(y, x) for y, x in pairs]),
        ks=np.array([ks(y, x) for y, x in pairs]),
        wasserstein=np.array([wasserstein_1(y, x) for y, x in pairs]),
        standardised_wasserstein=np.array([standardised_wasserstein(y, x) for y, x in pairs]),
        psi=np.array([psi(x, y) for y, x in pairs]),
        p_value=p_values[:, 0],
        psi_p_value=p_values[:, 1],
    )


def spearman_association(
    trait: ArrayLike, loss: ArrayLike, units: Names, permutations: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Spearman's ρ between a trait and the loss, and its two-sided p-value.

    ρ is a mean of products of standardised ranks. Without an association a unit's sum of products is as likely
    positive as negative, so the null flips the signs of whole units: p = (1 + #{|flipped| ≥ |ρ|}) / (permutations + 1)
    (the wild cluster bootstrap of Cameron, Gelbach & Miller 2008). It holds its size for units of unequal sizes, where
    reordering the units as blocks does not. Below seven units there are too few signs; there t = ρ/se with the
    cluster-robust error of the mean product and U − 2 degrees of freedom. Below three units p = 1. A constant side:
    ρ = 0, p = 1.

    Args:
        trait: (n,) numbers; pairs with a NaN are left out.
        loss: (n,) numbers.
        units: (n,) unit of each sample.
        permutations: sign patterns drawn.
        rng: source of randomness.

    Returns:
        (ρ, p); NaN for ρ below three pairs.

    Raises:
        ValueError: different lengths.
    """
    x, y, names = np.asarray(trait, np.float64), np.asarray(loss, np.float64), np.asarray(units, np.str_)
    if not x.shape == y.shape == names.shape:
        raise ValueError(f"trait {x.shape}, loss {y.shape} and units {names.shape} differ in length")
    present = ~(np.isnan(x) | np.isnan(y))
    if present.sum() < 3:  # noqa: PLR2004
        return math.nan, 1.0
    _, index = np.unique(names[present], return_inverse=True)
    ranks_x, ranks_y = _standard_ranks(x[present]), _standard_ranks(y[present])
    products = ranks_x * ranks_y
    rho, count = float(products.mean()), int(index.max()) + 1
    if count < 3 or not products.any():  # noqa: PLR2004
        return rho, 1.0
    if count < UNITS_FOR_SIGN_FLIPS:
        return rho, _clustered_p(products, index, count)
    sums = np.bincount(index, weights=products)
    flipped = np.abs(rng.choice([-1.0, 1.0], (permutations, count)) @ sums)
    above = int(np.count_nonzero(flipped >= abs(sums.sum()) - TIE * len(products)))
    return rho, (1 + above) / (permutations + 1)


def _set_labels(source_units: Names, target_units: Names, permutations: int, rng: np.random.Generator) -> Floats:
    """Row 0: the observed labels (1 = target); the other rows: permuted. (permutations + 1, n + m)."""
    observed = np.repeat([False, True], [len(source_units), len(target_units)])
    permuted = permute_units(observed, pooled_units(source_units, target_units), permutations, rng)
    return np.concatenate([observed[None], permuted]).astype(np.float64)


def _p_values(pooled: Floats, labels: Floats) -> tuple[float, float]:
    """p-values of KS and PSI of the labels in row 0 among those of the other rows."""
    order = np.argsort(pooled, kind="stable")
    order = order[: np.count_nonzero(~np.isnan(pooled))]  # NaN sort last
    if not 0 < labels[0, order].sum() < len(order):
        return math.nan, math.nan
    values, block = pooled[order], max(1, BLOCK_VALUES // len(order))
    starts = range(0, len(labels), block)
    counts = (np.cumsum(labels[start : start + block][:, order], axis=1) for start in starts)
    found = np.concatenate([[_ks_of_counts(target, values), _psi_of_counts(target, values)] for target in counts], 1)
    above = np.count_nonzero(found[:, 1:] >= found[:, :1] - TIE, axis=1)
    return (1 + int(above[0])) / len(labels), (1 + int(above[1])) / len(labels)


def _ks_of_counts(target: Floats, values: Floats) -> Floats:
    """KS statistic per row of counts of target samples up to each sorted value; a row with one set only counts as 1."""
    source = np.arange(1, len(values) + 1) - target
    ends = np.append(np.diff(values) > 0, True)  # CDFs are compared behind ties only
    gap = target / np.maximum(target[:, -1:], 1) - source / np.maximum(source[:, -1:], 1)
    result: Floats = np.abs(gap[:, ends]).max(axis=1)
    return result


def _psi_of_counts(target: Floats, values: Floats) -> Floats:
    """PSI per row of counts of target samples up to each sorted value; ∞ for a row with one set only.

    As `psi`, without merging equal deciles: the bin between them holds nothing on either side and adds 0.
    """
    held = target[:, -1]
    both = (held > 0) & (held < len(values))
    if not both.all():
        result = np.full(len(both), math.inf)
        result[both] = _psi_of_counts(target[both], values)
        return result
    last = np.searchsorted(values, _source_deciles(target, values), side="right")  # samples up to each decile
    up_to = np.where(last > 0, np.take_along_axis(target, np.maximum(last - 1, 0), axis=1), 0.0)
    p, q = (
        np.maximum(np.diff(counts, axis=1, prepend=0, append=total[:, None]) / total[:, None], SMALLEST_SHARE)
        for counts, total in ((last - up_to, len(values) - held), (up_to, held))
    )
    indices: Floats = ((q - p) * np.log(q / p)).sum(axis=1)
    return indices


def _source_deciles(target: Floats, values: Floats) -> Floats:
    """The source's deciles per row of the target's counts, as `numpy.quantile` interpolates. (B, N), (N,) → (B, 9)."""
    rows, count = target.shape
    row = np.arange(rows)[:, None]
    ranked = (np.arange(1, count + 1) + row * (count + 1) - target).ravel()  # source counts, sorted; rows stay apart
    most = count - target[:, -1:] - 1
    place = most * DECILES
    below = np.floor(place)
    low, high = (
        values[np.searchsorted(ranked, rank + 1 + row * (count + 1)) - row * count]
        for rank in (below, np.minimum(below + 1, most))
    )
    share, step = place - below, high - low
    deciles: Floats = np.where(share < 0.5, low + step * share, high - step * (1 - share))  # noqa: PLR2004
    return deciles


def _standard_ranks(values: Floats) -> Floats:
    """Mid-ranks with mean 0 and mean square 1; all zero for a constant."""
    from scipy.stats import rankdata

    ranks = np.asarray(rankdata(values), dtype=np.float64)
    ranks -= ranks.mean()
    scale = math.sqrt(float(np.mean(ranks**2)))
    return ranks / scale if scale > 0 else np.zeros_like(ranks)


def _clustered_p(products: Floats, index: NDArray[np.intp], count: int) -> float:
    from scipy.stats import t

    rho = products.mean()
    sums = np.bincount(index, weights=products - rho, minlength=count)
    error = math.sqrt(count / (count - 1) * float(sums @ sums)) / len(products)
    if error <= TIE:
        return 1.0
    return float(2 * t.sf(abs(rho) / error, count - 2))
