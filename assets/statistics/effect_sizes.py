"""How much two samples of one number differ, without asking whether that could be chance.

Belongs here: standardised differences and distances between two one-dimensional samples or class shares.
Does not: tests that know about units (shifts), distances between latents (distances). NaN are left out everywhere.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

RELATIVE_ZERO = 1e-12
"""A spread this small against the values themselves is rounding."""
SMALLEST_SHARE = 1e-4
"""Bin shares are clipped here before their logarithm is taken."""


def hedges_g(x: ArrayLike, y: ArrayLike) -> float:
    """(mean x − mean y) / pooled sd · (1 − 3/(4N − 9)) (Hedges 1981).

    Without spread: 0 for equal means, else ±∞. Fewer than two values on a side: NaN.

    Args:
        x: (n,) numbers.
        y: (m,) numbers.
    """
    a, b = _present(x), _present(y)
    spread = pooled_sd(a, b)
    if math.isnan(spread):
        return math.nan
    difference = float(a.mean() - b.mean())
    if spread == 0:
        return 0.0 if abs(difference) <= _rounding(a, b) else math.copysign(math.inf, difference)
    return difference / spread * (1 - 3 / (4 * (len(a) + len(b)) - 9))


def pooled_sd(x: ArrayLike, y: ArrayLike) -> float:
    """√(((n−1)s²ₓ + (m−1)s²ᵧ)/(n+m−2)); 0 where only rounding is left, NaN below two values on a side."""
    a, b = _present(x), _present(y)
    if min(len(a), len(b)) < 2:  # noqa: PLR2004
        return math.nan
    squares = float(((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum())
    spread = math.sqrt(squares / (len(a) + len(b) - 2))
    return spread if spread > _rounding(a, b) else 0.0


def cliffs_delta(x: ArrayLike, y: ArrayLike) -> float:
    """P(x > y) − P(x < y), −1 to 1 (Cliff 1993); equals 2U/(nm) − 1. An empty side: NaN.

    Args:
        x: (n,) numbers.
        y: (m,) numbers.
    """
    a, b = _present(x), np.sort(_present(y))
    if min(len(a), len(b)) == 0:
        return math.nan
    above = np.searchsorted(b, a, side="left").sum()
    below = (len(b) - np.searchsorted(b, a, side="right")).sum()
    return float(above - below) / (len(a) * len(b))


def ks(x: ArrayLike, y: ArrayLike) -> float:
    """Kolmogorov–Smirnov statistic: the largest distance between the two empirical CDFs. An empty side: NaN.

    Args:
        x: (n,) numbers.
        y: (m,) numbers.
    """
    a, b = np.sort(_present(x)), np.sort(_present(y))
    if min(len(a), len(b)) == 0:
        return math.nan
    points = np.concatenate([a, b])
    gap = np.searchsorted(a, points, side="right") / len(a) - np.searchsorted(b, points, side="right") / len(b)
    return float(np.abs(gap).max())


def wasserstein_1(x: ArrayLike, y: ArrayLike) -> float:
    """W₁ = ∫|Fₓ − Fᵧ|, in the unit of the numbers. An empty side: NaN.

    Args:
        x: (n,) numbers.
        y: (m,) numbers.
    """
    a, b = np.sort(_present(x)), np.sort(_present(y))
    if min(len(a), len(b)) == 0:
        return math.nan
    points = np.sort(np.concatenate([a, b]))
    left = points[:-1]
    gap = np.searchsorted(a, left, side="right") / len(a) - np.searchsorted(b, left, side="right") / len(b)
    return float(np.abs(gap) @ np.diff(points))


def standardised_wasserstein(x: ArrayLike, y: ArrayLike) -> float:
    """W₁ over the pooled sd. Without spread: 0 for equal values, else ∞. Fewer than two values on a side: NaN.

    Args:
        x: (n,) numbers.
        y: (m,) numbers.
    """
    spread, distance = pooled_sd(x, y), wasserstein_1(x, y)
    if math.isnan(spread):
        return math.nan
    if spread == 0:
        return 0.0 if distance <= _rounding(_present(x), _present(y)) else math.inf
    return distance / spread


def psi(source: ArrayLike, target: ArrayLike, bins: int = 10) -> float:
    """Population stability index Σ(q − p)·ln(q/p) over source quantile bins with open ends.

    Bins are closed on the right and equal quantiles are merged; shares are clipped at 1e-4. An empty side: NaN. A value
    shares its bin with all below it: of a source that sits at its upper end nearly always, PSI sees no fall; KS does.

    Args:
        source: (n,) numbers that define the bins.
        target: (m,) numbers.
        bins: quantile bins before merging.
    """
    p, q = _bin_shares(source, target, bins)
    p, q = np.maximum(p, SMALLEST_SHARE), np.maximum(q, SMALLEST_SHARE)
    return float(((q - p) * np.log(q / p)).sum()) if p.size else math.nan


def jensen_shannon(p: ArrayLike, q: ArrayLike) -> float:
    """½KL(p‖m) + ½KL(q‖m) with m = (p + q)/2, in bits: 0 for equal shares, 1 for disjoint ones (Lin 1991).

    Args:
        p: (C,) non-negative shares or counts; normalised here.
        q: (C,) the same of the other side.

    Returns:
        0..1; NaN where a side is all zero.

    Raises:
        ValueError: different lengths or a negative share.
    """
    a, b = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    return float(jensen_shannon_rows(a[None], b[None])[0])


def jensen_shannon_rows(p: ArrayLike, q: ArrayLike) -> Floats:
    """`jensen_shannon` of many pairs of shares at once: a bootstrap's or a permutation's.

    Args:
        p: (B, C) non-negative shares or counts; every row is normalised here.
        q: (B, C) the same of the other side.

    Returns:
        (B,) 0..1; NaN where a side is all zero.

    Raises:
        ValueError: different shapes or a negative share.
    """
    a, b = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if a.shape != b.shape or (a < 0).any() or (b < 0).any():
        raise ValueError("shares must be non-negative and of equal length")
    a, b = _normalised(a), _normalised(b)
    divergence: Floats = (_divergence_from_middle(a, b) + _divergence_from_middle(b, a)) / 2
    return divergence


def _present(values: ArrayLike) -> Floats:
    numbers = np.asarray(values, dtype=np.float64).ravel()
    return numbers[~np.isnan(numbers)]


def _rounding(a: Floats, b: Floats) -> float:
    return RELATIVE_ZERO * float(max(np.abs(a).max(), np.abs(b).max()))


def _bin_shares(source: ArrayLike, target: ArrayLike, bins: int) -> tuple[Floats, Floats]:
    """Shares of both sides per source quantile bin; both empty where a side is."""
    a, b = _present(source), _present(target)
    if min(len(a), len(b)) == 0:
        return np.empty(0), np.empty(0)
    edges = np.unique(np.quantile(a, np.linspace(0, 1, bins + 1)[1:-1]))
    counts = [np.bincount(np.searchsorted(edges, side, side="left"), minlength=len(edges) + 1) for side in (a, b)]
    return counts[0] / len(a), counts[1] / len(b)


def _normalised(rows: Floats) -> Floats:
    totals = rows.sum(axis=1, keepdims=True)
    shares: Floats = np.divide(rows, totals, out=np.full_like(rows, math.nan), where=totals > 0)
    return shares


def _divergence_from_middle(p: Floats, q: Floats) -> Floats:
    held = ~(p <= 0)  # NaN stay
    ratio = np.divide(2 * p, p + q, out=np.ones_like(p), where=held)
    divergence: Floats = (p * np.log2(ratio)).sum(axis=1)
    return divergence
