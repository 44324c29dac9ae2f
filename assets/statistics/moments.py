"""Sets of pictures compared by the mean and the variance of each channel alone.

Belongs here: moments pooled over pictures, the transport distance between two Gaussians of one dimension.
Does not: distances between whole vectors (distances), which activations are compared (model_parts).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

RELATIVE_ZERO = 1e-6
"""A channel whose deviation is this small against the largest of its layer has no scale of its own."""


def pooled_moments(means: ArrayLike, variances: ArrayLike, weights: ArrayLike | None = None) -> tuple[Floats, Floats]:
    """Mean and variance of all values of a set of pictures, from those of each picture over equally many values.

    With weights wᵢ that sum to 1: μ = Σ wᵢμᵢ, σ² = Σ wᵢ(σᵢ² + μᵢ²) − μ², the law of total variance.

    Args:
        means: (n, c) mean of each picture and channel.
        variances: (n, c) variance of each (ddof 0).
        weights: (b, n) non-negative, or none for each picture once.

    Returns:
        Mean and variance (ddof 0), (c,) each, or (b, c) for weights.
    """
    m, v = np.asarray(means, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    if weights is None:
        mean = m.mean(axis=0)
        return mean, v.mean(axis=0) + m.var(axis=0)
    w = np.asarray(weights, dtype=np.float64)
    w = w / w.sum(axis=1, keepdims=True)
    centre = m.mean(axis=0)  # variances of large means would cancel
    shift = w @ (m - centre)
    variance = w @ (v + (m - centre) ** 2) - shift**2
    return centre + shift, np.maximum(variance, 0.0)


def gaussian_wasserstein(mean_a: ArrayLike, variance_a: ArrayLike, mean_b: ArrayLike, variance_b: ArrayLike) -> Floats:
    """2-Wasserstein distance √((μ_a − μ_b)² + (σ_a − σ_b)²) of one-dimensional Gaussians (Dowson & Landau 1982).

    Args:
        mean_a: (…, c).
        variance_a: (…, c) non-negative.
        mean_b: (…, c).
        variance_b: (…, c) non-negative.

    Returns:
        (…, c).
    """
    shift = np.asarray(mean_a, dtype=np.float64) - np.asarray(mean_b, dtype=np.float64)
    spread = np.sqrt(np.asarray(variance_a, dtype=np.float64)) - np.sqrt(np.asarray(variance_b, dtype=np.float64))
    return np.asarray(np.sqrt(shift**2 + spread**2), dtype=np.float64)


def moment_distance(mean: ArrayLike, variance: ArrayLike, other_mean: ArrayLike, other_variance: ArrayLike) -> Floats:
    """`gaussian_wasserstein` of each channel in units of the first set's deviation there, averaged over channels.

    Channels of the first set that don't vary have no unit and are left out; NaN where none varies.

    Args:
        mean: (c,) or (b, c), the set whose deviation is the unit.
        variance: the same shape.
        other_mean: (c,) or (b, c).
        other_variance: the same shape.

    Returns:
        A number, or (b,).
    """
    deviation = np.sqrt(np.asarray(variance, dtype=np.float64))
    varies = deviation > RELATIVE_ZERO * deviation.max(axis=-1, keepdims=True)
    distance = gaussian_wasserstein(mean, variance, other_mean, other_variance)
    units = np.divide(distance, deviation, out=np.zeros(np.broadcast(distance, deviation).shape), where=varies)
    count = varies.sum(axis=-1)
    return np.asarray(np.where(count > 0, units.sum(axis=-1) / np.maximum(count, 1), np.nan), dtype=np.float64)


def relative_shift(mean: ArrayLike, variance: ArrayLike, other_mean: ArrayLike, other_variance: ArrayLike) -> Floats:
    """√(Σ_c W₂²) / √(Σ_c σ²): `gaussian_wasserstein` of all channels together, in the first set's whole deviation.

    Channels that hardly vary in the first set weigh little, where the average of `moment_distance` has them dominate.
    NaN where none varies.

    Args:
        mean: (c,) or (b, c), the set whose deviation is the unit.
        variance: the same shape.
        other_mean: (c,) or (b, c).
        other_variance: the same shape.

    Returns:
        A number, or (b,).
    """
    distance = (gaussian_wasserstein(mean, variance, other_mean, other_variance) ** 2).sum(axis=-1)
    whole = np.asarray(variance, dtype=np.float64).sum(axis=-1)
    ratio = np.divide(distance, whole, out=np.full(np.broadcast(distance, whole).shape, np.nan), where=whole > 0)
    return np.asarray(np.sqrt(ratio), dtype=np.float64)
