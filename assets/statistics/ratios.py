"""Ratios of two means, for tests that take one number a sample.

Belongs here: the linearised ratio. Does not: the tests that it goes into (resampling).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def linearised_ratio(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """Numbers whose mean is mean(x) / mean(y), and whose variance of the mean is that of the ratio to first order.

    zᵢ = r + (xᵢ − r·yᵢ) / mean(y), with r = mean(x) / mean(y) (Cochran 1977, 6.3). A cluster test of z is one of the
    ratio.

    Args:
        numerator: (n,) x.
        denominator: (n,) y, of another mean than 0.

    Returns:
        (n,) z.

    Raises:
        ValueError: unequal lengths, or a mean of y that is 0.
    """
    x, y = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if x.shape != y.shape:
        raise ValueError(f"{x.shape} numerators but {y.shape} denominators")
    whole = float(y.mean())
    if whole == 0:
        raise ValueError("the denominators' mean is 0, there is no ratio")
    ratio = float(x.mean()) / whole
    return np.asarray(ratio + (x - ratio * y) / whole, dtype=np.float64)
