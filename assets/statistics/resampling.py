"""Which samples depend on one another, and inference that resamples, splits or permutes them together.

Frames of one drive are not independent: whatever is resampled, split or permuted here is a *unit*, never a frame.
Belongs here: units, halves, bootstrap weights, unit permutations, tests of means with cluster-robust errors.
Does not: the statistics that are put through them (distances, effect sizes, two-sample statistics).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Names = Sequence[str] | NDArray[np.str_]

RELATIVE_ZERO = 1e-12
"""A spread this small against the values themselves is rounding, not variance."""


@dataclass(frozen=True)
class PairedTest:
    """A two-sided t-test of a mean difference with cluster-robust errors."""

    mean: float
    standard_error: float
    statistic: float
    degrees_of_freedom: float
    p_value: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Draw:
    """Indices of samples, equally many in each: two sets of the holdout that share no unit, and one of the target."""

    holdout: Indices
    other_holdout: Indices
    target: Indices


def dependence_units(groups: Names, minimum: int = 6) -> NDArray[np.str_]:
    """The unit of dependence of each sample, for samples in name order.

    With at least `minimum` distinct groups the unit is the group. With fewer, every group is cut into blocks of
    consecutive samples of length 2^round(log2(√n)), at least 2; the power of two keeps the blocks where they are
    while n grows within a factor of about four.

    Args:
        groups: (n,) group of each sample.
        minimum: distinct groups needed for the group itself to be the unit.

    Returns:
        (n,) unit names: the group, or `group#index`.
    """
    names = [str(group) for group in groups]
    if len(set(names)) >= minimum or not names:
        return np.asarray(names, dtype=np.str_)
    length = max(2, 2 ** round(math.log2(math.sqrt(len(names)))))
    seen: dict[str, int] = {}
    units = []
    for name in names:
        position = seen.get(name, 0)
        seen[name] = position + 1
        units.append(f"{name}#{position // length}")
    return np.asarray(units, dtype=np.str_)


def halves(units: Names) -> NDArray[np.bool_]:
    """Which samples belong to the report half; the others belong to the fit half.

    A unit's half is a bit of blake2b(salt, unit), so it stays put when samples come and go inside known units. The
    salt is the smallest non-negative integer for which the halves' numbers of units differ by at most one, or by a
    sixth of all: few units must not be split 3 to 5. With fewer than two units all samples are in the report half.

    Args:
        units: (n,) unit of each sample.

    Returns:
        (n,) True for the report half.
    """
    names = [str(unit) for unit in units]
    distinct = sorted(set(names))
    if len(distinct) < 2:  # noqa: PLR2004
        return np.ones(len(names), dtype=np.bool_)
    report: dict[str, bool] = {}
    for salt in itertools.count():
        report = {unit: _bit(salt, unit) for unit in distinct}
        count = sum(report.values())
        if abs(2 * count - len(distinct)) <= max(1, len(distinct) / 6):
            break
    return np.asarray([report[name] for name in names], dtype=np.bool_)


def pooled_units(first: Names, second: Names) -> NDArray[np.str_]:
    """Units of two sets one after the other, tagged by set so that equal names stay two units. (n + m,)."""
    return np.asarray([f"0/{unit}" for unit in first] + [f"1/{unit}" for unit in second], dtype=np.str_)


def bootstrap_weights(units: Names, draws: int, rng: np.random.Generator) -> Floats:
    """How often each sample occurs when whole units are resampled with replacement.

    Any ratio of weighted sums can be bootstrapped with these: `weights @ values / weights.sum(axis=1)` for a mean.

    Args:
        units: (n,) unit of each sample.
        draws: number of bootstrap draws.
        rng: source of randomness.

    Returns:
        (draws, n) multiplicities.
    """
    distinct, index = np.unique(np.asarray(units, dtype=np.str_), return_inverse=True)
    count = len(distinct)
    if count == 0:
        return np.zeros((draws, 0))
    picked = rng.multinomial(count, np.full(count, 1.0 / count), size=draws)
    return picked[:, index].astype(np.float64)


def percentile_interval(draws: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of bootstrap draws; NaN draws are left out, and without any draw both ends are NaN."""
    values = np.asarray(draws, dtype=np.float64)
    values = values[~np.isnan(values)]
    if values.size == 0:
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_cluster_test(differences: ArrayLike, units: Names) -> PairedTest:
    """t-test of the mean of paired differences, with errors clustered by unit.

    Var(mean) = U/(U−1) · Σ_u (Σ_{i∈u} (dᵢ − mean))² / n², df = U − 1 (Liang & Zeger 1986; statsmodels OLS on a
    constant with `cov_type="cluster"`). Fewer than two units: p = 1 and an infinite interval. No variance: p = 1
    where the mean is 0, else 0.

    Args:
        differences: (n,) per-sample differences; NaN are left out.
        units: (n,) unit of each.

    Raises:
        ValueError: differences and units of different length.
    """
    mean, variance, count = _clustered_mean(differences, units)
    return _t_test(mean, variance, count - 1)


def two_sample_cluster_test(a: ArrayLike, units_a: Names, b: ArrayLike, units_b: Names) -> PairedTest:
    """t-test of mean(a) − mean(b) of two independent sets, errors clustered by unit, Welch–Satterthwaite df.

    Args:
        a: (n,) numbers; NaN are left out.
        units_a: (n,) unit of each.
        b: (m,) numbers; NaN are left out.
        units_b: (m,) unit of each.

    Raises:
        ValueError: values and units of different length.
    """
    mean_a, variance_a, count_a = _clustered_mean(a, units_a)
    mean_b, variance_b, count_b = _clustered_mean(b, units_b)
    if min(count_a, count_b) < 2:  # noqa: PLR2004
        return _t_test(mean_a - mean_b, math.nan, 0)
    spread = variance_a**2 / (count_a - 1) + variance_b**2 / (count_b - 1)
    freedom = (variance_a + variance_b) ** 2 / spread if spread > 0 else count_a + count_b - 2
    return _t_test(mean_a - mean_b, variance_a + variance_b, freedom)


def permute_units(labels: ArrayLike, units: Names, permutations: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Set labels permuted over whole units.

    Every unit keeps one label, so set sizes vary from one permutation to the next where unit sizes differ.

    Args:
        labels: (n,) which set each sample is of.
        units: (n,) unit of each sample (`pooled_units` for two sets).
        permutations: how many.
        rng: source of randomness.

    Returns:
        (permutations, n) permuted labels.

    Raises:
        ValueError: a unit holds samples of both sets.
    """
    flags = np.asarray(labels, dtype=np.bool_)
    _, first, index = np.unique(np.asarray(units, dtype=np.str_), return_index=True, return_inverse=True)
    unit_labels = flags[first]
    if not np.array_equal(unit_labels[index], flags):
        raise ValueError("a unit holds samples of both sets: tag the units by set first (pooled_units)")
    shuffled = rng.permuted(np.tile(unit_labels, (permutations, 1)), axis=1)
    return np.asarray(shuffled[:, index], dtype=np.bool_)


def even_units(first: Names, second: Names) -> NDArray[np.bool_]:
    """Which samples to keep so that the units of two sets are about equally large, as a permutation of units asks for.

    A statistic that depends on the number of samples gives small p-values without any difference where one set's units
    are larger than the other's, because permuted sets are then less uneven than the observed ones. Every unit is
    thinned evenly to at most as many samples as the median unit of either set, the smaller of the two, holds.

    Args:
        first: (n,) unit of each sample.
        second: (m,) unit of each sample.

    Returns:
        (n + m,) True for samples to keep, `first` before `second`; all of them where all units are of one size.
    """
    _, index, sizes = np.unique(pooled_units(first, second), return_inverse=True, return_counts=True)
    if not (len(first) and len(second)):
        return np.ones(len(index), dtype=np.bool_)
    medians = (np.median(sizes[np.unique(side)]) for side in (index[: len(first)], index[len(first) :]))
    kept = np.minimum(sizes, int(min(medians)))[index]
    order = np.argsort(index, kind="stable")
    place = np.empty_like(index)
    place[order] = np.arange(len(index)) - (np.cumsum(sizes) - sizes)[index[order]]
    return np.asarray((place + 1) * kept // sizes[index] > place * kept // sizes[index], dtype=np.bool_)


def by_units(units: Names, rng: np.random.Generator) -> Indices:
    """Indices of all samples, unit after unit in random order; within a unit they keep theirs. (n,)."""
    distinct, index = np.unique(np.asarray(units, dtype=np.str_), return_inverse=True)
    return np.argsort(rng.permutation(len(distinct))[index], kind="stable")


def equal_draws(holdout: Names, target: Names, count: int, rng: np.random.Generator, largest: int) -> list[Draw]:
    """Draws by whole units whose sets all have one size, for statistics that depend on the number of samples.

    The holdout is split in two that share no unit, as evenly as the random order of its units allows; the size is that
    of the smallest part over all draws, at most half of the target and `largest`.

    Args:
        holdout: (n,) unit of each sample, at least two distinct ones.
        target: (m,) unit of each sample.
        count: draws.
        rng: source of randomness.
        largest: most samples of a set.
    """
    splits = [split_by_units(holdout, rng) for _ in range(count)]
    size = min(*(len(part) for split in splits for part in split), len(target) // 2, largest)
    return [Draw(left[:size], right[:size], by_units(target, rng)[:size]) for left, right in splits]


def split_by_units(units: Names, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Two parts of a set that share no unit, as evenly as a random order of its units, at least two, allows."""
    names = np.asarray(units, dtype=np.str_)
    order = by_units(names, rng)
    cuts = 1 + np.flatnonzero(names[order][1:] != names[order][:-1])
    cut = cuts[np.argmin(np.abs(2 * cuts - len(names)))]
    return order[:cut], order[cut:]


def _bit(salt: int, unit: str) -> bool:
    return bool(blake2b(f"{salt}\0{unit}".encode(), digest_size=8).digest()[0] & 1)


def _clusters(values: ArrayLike, units: Names) -> tuple[Floats, NDArray[np.intp], int]:
    """Finite-or-infinite values, the unit index of each, and the number of units."""
    numbers = np.asarray(values, dtype=np.float64)
    names = np.asarray(units, dtype=np.str_)
    if numbers.shape != names.shape:
        raise ValueError(f"{numbers.shape} values but {names.shape} units")
    present = ~np.isnan(numbers)
    distinct, index = np.unique(names[present], return_inverse=True)
    return numbers[present], index, len(distinct)


def _clustered_mean(values: ArrayLike, units: Names) -> tuple[float, float, int]:
    """Mean, its cluster-robust variance (NaN below two units), number of units."""
    numbers, index, count = _clusters(values, units)
    if count == 0:
        return math.nan, math.nan, 0
    mean = float(numbers.mean())
    if count == 1:
        return mean, math.nan, 1
    sums = np.bincount(index, weights=numbers - mean, minlength=count)
    variance = count / (count - 1) * float(sums @ sums) / len(numbers) ** 2
    if math.sqrt(variance) <= RELATIVE_ZERO * float(np.abs(numbers).max()):
        variance = 0.0
    return mean, variance, count


def _t_test(mean: float, variance: float, freedom: float) -> PairedTest:
    from scipy.stats import t

    if freedom < 1 or math.isnan(variance):
        return PairedTest(mean, math.inf, 0.0, max(freedom, 0), 1.0, (-math.inf, math.inf))
    error = math.sqrt(variance)
    statistic = mean / error if error > 0 else math.copysign(math.inf, mean) if mean != 0 else 0.0
    distribution: Any = t(freedom)
    reach = float(distribution.ppf(0.975)) * error
    p_value = float(2 * distribution.sf(abs(statistic)))
    return PairedTest(mean, error, statistic, freedom, min(p_value, 1.0), (mean - reach, mean + reach))
