"""Whether a figure differs between two points in time, where both rest largely on the same samples.

Belongs here: intervals of such differences. Does not: which figures are compared, what is said of them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assets.statistics.resampling import Names

Floats = NDArray[np.float64]
Interval = tuple[float, float]
ALPHA = 0.05


def combined_interval(
    before: float, before_ci95: Interval, after: float, after_ci95: Interval, comparisons: int = 1
) -> Interval:
    """95% interval of after − before from the intervals of both, taken to be independent.

    L = d − √((a − a_low)² + (b_high − b)²), and the mirror image above (Zou & Donner 2008, the MOVER). Figures over
    samples that both share go up and down together, so for them the interval is too wide: it misses changes, and calls
    none by chance. With `comparisons`, both distances are stretched from the normal quantile of 95% to that of
    1 − 0.05 / comparisons (Bonferroni).

    Raises:
        ValueError: no comparison.
    """
    from scipy.stats import norm

    if comparisons < 1:
        raise ValueError(f"expected one comparison or more, got {comparisons}")
    stretch = float(norm.isf(ALPHA / 2 / comparisons) / norm.isf(ALPHA / 2))
    low = math.hypot(after - after_ci95[0], before_ci95[1] - before)
    high = math.hypot(after_ci95[1] - after, before - before_ci95[0])
    difference = after - before
    return difference - stretch * low, difference + stretch * high


def mean_difference_draws(
    before: ArrayLike, before_units: Names, after: ArrayLike, after_units: Names, draws: int, rng: np.random.Generator
) -> Floats:
    """Bootstrap draws of mean(after) − mean(before), for sets that may share units and samples.

    Units of both sets are pooled by name and resampled once for both means, so what did not change cancels in every
    draw, and two equal sets differ by exactly 0. A change within one or two units is in few draws: it stays within the
    noise, however large.

    Args:
        before: (n,) values.
        before_units: (n,) unit of each; equal names in both sets are one unit.
        after: (m,) values.
        after_units: (m,) unit of each.
        draws: number of draws.
        rng: source of randomness.

    Returns:
        (draws,) differences; NaN where a draw holds no sample of one of the sets.
    """
    names, index = np.unique(np.asarray([*before_units, *after_units], np.str_), return_inverse=True)
    count = len(names)
    if count == 0:
        return np.full(draws, math.nan)
    split = len(before_units)
    picked = rng.multinomial(count, np.full(count, 1.0 / count), size=draws).astype(np.float64)
    means = []
    for values, place in ((before, index[:split]), (after, index[split:])):
        sums = np.bincount(place, weights=np.asarray(values, np.float64), minlength=count)
        sizes = np.bincount(place, minlength=count).astype(np.float64)
        total = picked @ sizes
        means.append(np.divide(picked @ sums, total, out=np.full(draws, math.nan), where=total > 0))
    return np.asarray(means[1] - means[0], np.float64)


def expanded_level(units: int) -> float:
    """The level of a percentile interval at which it holds 95% with few units: 1 − 2 Φ(−√(n/(n−1)) t₀.₉₇₅, n−1).

    Percentiles of a bootstrap are too narrow by the factor of the plug-in variance and by that of t over the normal
    (Hesterberg 2015, the expanded percentile interval).

    Raises:
        ValueError: fewer than two units.
    """
    from scipy.stats import norm, t

    if units < 2:  # noqa: PLR2004
        raise ValueError(f"expected two units or more, got {units}")
    reach = math.sqrt(units / (units - 1)) * float(t(units - 1).isf(ALPHA / 2))
    return float(1 - 2 * norm.sf(reach))
