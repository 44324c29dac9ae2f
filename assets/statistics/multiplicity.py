"""Adjusted p-values for many questions asked at once.

Belongs here: Benjamini–Hochberg (over traits) and Holm (over verdicts).
Does not: the tests that yield the p-values. NaN stays NaN and does not count as a question.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """p-values adjusted for the false discovery rate: min over j ≥ i of p₍ⱼ₎·n/j (Benjamini & Hochberg 1995).

    Args:
        p: (n,) p-values; NaN allowed.

    Returns:
        (n,) adjusted p-values, NaN where p is.

    Raises:
        ValueError: a p-value outside 0..1.
    """
    values, present, order = _ranked(p)
    count = len(order)
    scaled = values[present][order] * (count / np.arange(1, count + 1))
    adjusted = np.minimum.accumulate(scaled[::-1])[::-1]
    return _restored(values, present, order, adjusted)


def holm(p: ArrayLike) -> Floats:
    """p-values adjusted for the family-wise error: max over j ≤ i of p₍ⱼ₎·(n − j + 1) (Holm 1979).

    Args:
        p: (n,) p-values; NaN allowed.

    Returns:
        (n,) adjusted p-values, NaN where p is.

    Raises:
        ValueError: a p-value outside 0..1.
    """
    values, present, order = _ranked(p)
    scaled = values[present][order] * np.arange(len(order), 0, -1)
    return _restored(values, present, order, np.maximum.accumulate(scaled))


def _ranked(p: ArrayLike) -> tuple[Floats, NDArray[np.bool_], NDArray[np.intp]]:
    values = np.asarray(p, dtype=np.float64)
    present = ~np.isnan(values)
    known = values[present]
    if ((known < 0) | (known > 1)).any():
        raise ValueError("p-values must lie in 0..1")
    return values, present, np.argsort(known, kind="stable")


def _restored(values: Floats, present: NDArray[np.bool_], order: NDArray[np.intp], adjusted: Floats) -> Floats:
    known = np.empty(len(order))
    known[order] = np.minimum(adjusted, 1.0)
    result = np.full(values.shape, np.nan)
    result[present] = known
    return result
