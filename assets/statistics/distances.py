"""Distances between two sets of vectors, each a single number.

Belongs here: Fréchet, kernel (KID), RBF MMD, energy and sliced Wasserstein distances, and the blocks of pairwise
squared distances under them. Does not: their p-values (two_sample), their sums by unit (kernel_sums), neighbours
(neighbourhoods), which latents are compared at which size (scoring). Nothing holds an n × n matrix but `Pairs`, which
is for small sets: rows go through in blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Kernel = Callable[[Any, Any], Any]
"""Takes blocks (a, b) of x·y and of ‖x − y‖², numpy arrays or torch tensors alike, returns the kernel values."""

BLOCK_VALUES = 4_000_000
"""Values of the largest temporary matrix: 32 MB."""
MEDIAN_ROWS = 2_000
"""More rows than this are thinned evenly before the median of their distances is taken."""


def squared_distances(x: Floats, y: Floats) -> Floats:
    """‖xᵢ − yⱼ‖² by the binomial formula, never below 0.

    Args:
        x: (n, d) float64.
        y: (m, d) float64.

    Returns:
        (n, m). Callers with many rows pass them in blocks (`row_blocks`).
    """
    return _squares(np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", y, y), x @ y.T)


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices over `rows` such that slice × columns stays within `BLOCK_VALUES`."""
    step = max(1, BLOCK_VALUES // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def matrix_pair(x: ArrayLike, y: ArrayLike, at_least: int = 1) -> tuple[Floats, Floats]:
    """Both sets as float64 matrices.

    Raises:
        ValueError: not two matrices of equal width, fewer than `at_least` rows, or a value that is not finite.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:  # noqa: PLR2004
        raise ValueError(f"expected (n, d) and (m, d), got {a.shape} and {b.shape}")
    if min(len(a), len(b)) < at_least:
        raise ValueError(f"each set needs at least {at_least} rows, got {len(a)} and {len(b)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("vectors hold NaN or infinite values")
    return a, b


def frechet_distance(mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike) -> float:
    """‖Δμ‖² + tr(S₁ + S₂ − 2(S₁^½ S₂ S₁^½)^½), by symmetric eigendecomposition (Dowson & Landau 1982).

    Biased upwards ∝ 1/n when moments are estimated: compare at equal n only.

    Args:
        mean_a: (d,) mean.
        cov_a: (d, d) covariance, ddof 1.
        mean_b: (d,) mean.
        cov_b: (d, d) covariance, ddof 1.

    Raises:
        ValueError: shapes that do not fit together.
    """
    mu_a, mu_b = np.asarray(mean_a, dtype=np.float64), np.asarray(mean_b, dtype=np.float64)
    s_a, s_b = np.atleast_2d(np.asarray(cov_a, np.float64)), np.atleast_2d(np.asarray(cov_b, np.float64))
    width = mu_a.size
    if mu_a.shape != (width,) or mu_b.shape != (width,) or s_a.shape != (width, width) or s_b.shape != s_a.shape:
        raise ValueError(f"moments do not fit: {mu_a.shape}, {s_a.shape}, {mu_b.shape}, {s_b.shape}")
    values, vectors = np.linalg.eigh(s_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ s_b @ root), 0)).sum()
    difference = mu_a - mu_b
    distance = float(difference @ difference + np.trace(s_a) + np.trace(s_b) - 2 * cross)
    return max(distance, 0.0)


def polynomial_kernel(width: int) -> Kernel:
    """(x·y/width + 1)³, the kernel of KID at width = d (Bińkowski et al. 2018)."""

    def kernel(products: Any, squares: Any) -> Any:  # noqa: ARG001
        base = products / width + 1
        return base * base * base  # a power of 3 goes through logarithms

    return kernel


def rbf_kernel(sigma: float) -> Kernel:
    """exp(−‖x − y‖²/(2σ²))."""

    def kernel(products: Any, squares: Any) -> Any:  # noqa: ARG001
        exponents = squares / (-2 * sigma**2)
        return np.exp(exponents) if isinstance(exponents, np.ndarray) else exponents.exp()

    return kernel


def distance_kernel(products: Any, squares: Any) -> Any:  # noqa: ARG001
    """−‖x − y‖, the kernel whose MMD² is the energy distance (Sejdinovic et al. 2013)."""
    return -(squares**0.5)


@dataclass(frozen=True)
class Pairs:
    """All pairs of two small sets pooled, x before y, made once for every statistic of them; (n + m, n + m) each."""

    first: int
    """n, the rows of x."""
    products: Floats
    squares: Floats
    """‖zᵢ − zⱼ‖², 0 on the diagonal."""
    distances: Floats


def pairs_of(x: ArrayLike, y: ArrayLike) -> Pairs:
    """Products, squared distances and distances of the pooled sets.

    Raises:
        ValueError: see `matrix_pair`.
    """
    a, b = matrix_pair(x, y)
    pooled = np.concatenate([a, b])
    products = pooled @ pooled.T
    squares = _squares(np.diagonal(products), np.diagonal(products), products)
    np.fill_diagonal(squares, 0)  # the binomial formula leaves rounding there
    return Pairs(len(a), products, squares, np.sqrt(squares))


def mmd_of(values: Floats, first: int) -> float:
    """Unbiased MMD² of two sets from their pooled kernel matrix (n + m, n + m), n = `first`."""
    n, m = first, len(values) - first
    own, other = values[:n, :n], values[n:, n:]
    within = (own.sum() - np.trace(own)) / (n * (n - 1)) + (other.sum() - np.trace(other)) / (m * (m - 1))
    return float(within - 2 * values[:n, n:].mean())


def energy_of(distances: Floats, first: int) -> float:
    """`energy_distance` of two sets from their pooled distances (n + m, n + m), n = `first`."""
    cross, own, other = distances[:first, first:], distances[:first, :first], distances[first:, first:]
    return float(2 * cross.mean() - own.mean() - other.mean())


def kernel_distance(x: ArrayLike, y: ArrayLike) -> float:
    """KID: unbiased MMD² with k(x, y) = (x·y/d + 1)³ (Bińkowski et al. 2018). Can be negative.

    Args:
        x: (n, d), n ≥ 2.
        y: (m, d), m ≥ 2.

    Raises:
        ValueError: see `matrix_pair`.
    """
    a, b = matrix_pair(x, y, at_least=2)
    return _unbiased_mmd(a, b, polynomial_kernel(a.shape[1]))


def mmd_rbf(x: ArrayLike, y: ArrayLike, sigma: float | None = None) -> float:
    """Unbiased MMD² with k = exp(−‖x − y‖²/(2σ²)) (Gretton et al. 2012). Can be negative.

    Args:
        x: (n, d), n ≥ 2.
        y: (m, d), m ≥ 2.
        sigma: bandwidth; `median_distance(x, y)` when left out. All vectors equal: 0.

    Raises:
        ValueError: see `matrix_pair`.
    """
    a, b = matrix_pair(x, y, at_least=2)
    width = median_distance(a, b) if sigma is None else sigma
    return _unbiased_mmd(a, b, rbf_kernel(width)) if width > 0 else 0.0


def median_distance(x: ArrayLike, y: ArrayLike) -> float:
    """Median distance between different rows of the pooled sets, the usual RBF bandwidth.

    Where more than half of the pairs coincide: the mean of the positive distances; 0 if there is none. Above 2,000
    rows the pool is thinned evenly.

    Args:
        x: (n, d).
        y: (m, d).

    Raises:
        ValueError: see `matrix_pair`.
    """
    pooled = np.concatenate(matrix_pair(x, y))
    pooled = pooled[:: math.ceil(len(pooled) / MEDIAN_ROWS)]
    distances = np.sqrt(squared_distances(pooled, pooled)[np.triu_indices(len(pooled), 1)])
    scale = math.sqrt(float(np.einsum("ij,ij->i", pooled, pooled).max()))
    distances[distances <= 1e-7 * scale] = 0  # what the binomial formula leaves of equal rows
    median = float(np.median(distances))
    if median > 0:
        return median
    positive = distances[distances > 0]
    return float(positive.mean()) if positive.size else 0.0


def energy_distance(x: ArrayLike, y: ArrayLike) -> float:
    """2E‖X − Y‖ − E‖X − X′‖ − E‖Y − Y′‖ as a V-statistic, hence never negative (Székely & Rizzo 2013).

    Args:
        x: (n, d).
        y: (m, d).

    Raises:
        ValueError: see `matrix_pair`.
    """
    a, b = matrix_pair(x, y)
    return 2 * _mean_distance(a, b) - _mean_distance(a, a) - _mean_distance(b, b)


def unit_directions(width: int, count: int, rng: np.random.Generator) -> Floats:
    """Directions uniform on the unit sphere. (width, count)."""
    directions = rng.standard_normal((width, count))
    directions /= np.linalg.norm(directions, axis=0)
    return directions


def sliced_wasserstein(x: ArrayLike, y: ArrayLike, directions: ArrayLike) -> float:
    """SW₂²: the mean squared one-dimensional W₂ over unit directions (Bonneel et al. 2015).

    A translation by δ gives ‖δ‖²/d. Biased upwards for small sets: compare at equal n only.

    Args:
        x: (n, d).
        y: (m, d).
        directions: (d, p) unit columns, from `unit_directions`.

    Raises:
        ValueError: see `matrix_pair`.
    """
    a, b = matrix_pair(x, y)
    axes = np.asarray(directions, dtype=np.float64)
    a, b = np.sort(a @ axes, axis=0), np.sort(b @ axes, axis=0)
    # Both quantile functions are steps: between the joint breakpoints i/n and j/m both are constant. Integers in
    # units of 1/(nm) keep equal breakpoints equal.
    n, m = len(a), len(b)
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    widths = np.diff(ends, prepend=0) / (n * m)
    gaps = a[(ends - 1) // m] - b[(ends - 1) // n]
    return float((widths @ gaps**2).mean())


def _squares(norms_x: Floats, norms_y: Floats, products: Floats) -> Floats:
    squares: Floats = norms_x[:, None] + norms_y[None, :]
    squares -= 2 * products
    np.maximum(squares, 0, out=squares)
    return squares


def _values(x: Floats, y: Floats, kernel: Kernel) -> Floats:
    products = x @ y.T
    values: Floats = kernel(products, _squares(np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", y, y), products))
    return values


def _unbiased_mmd(x: Floats, y: Floats, kernel: Kernel) -> float:
    n, m = len(x), len(y)
    cross = sum(float(_values(x[rows], y, kernel).sum()) for rows in row_blocks(n, m))
    return _mean_off_diagonal(x, kernel) + _mean_off_diagonal(y, kernel) - 2 * cross / (n * m)


def _mean_off_diagonal(x: Floats, kernel: Kernel) -> float:
    total = 0.0
    for rows in row_blocks(len(x), len(x)):
        values = _values(x[rows], x, kernel)
        total += float(values.sum() - np.trace(values[:, rows]))
    return total / (len(x) * (len(x) - 1))


def _mean_distance(x: Floats, y: Floats) -> float:
    total = 0.0
    for rows in row_blocks(len(x), len(y)):
        squares = squared_distances(x[rows], y)
        if x is y:
            np.fill_diagonal(squares[:, rows], 0)  # the binomial formula leaves rounding there
        total += float(np.sqrt(squares).sum())
    return total / (len(x) * len(y))
