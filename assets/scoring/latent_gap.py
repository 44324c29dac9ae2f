"""The gap between target and source holdout in latent space: one measurement per statistic, each beside its floor.

Belongs here: which sets are compared, at which size, with which interval, p-value and noise floor.
Does not: the statistics themselves (statistics), nearest-neighbour search at scale (neighbours), the loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assets.statistics.distances import (
    Kernel,
    distance_kernel,
    energy_of,
    frechet_distance,
    median_distance,
    mmd_of,
    pairs_of,
    polynomial_kernel,
    rbf_kernel,
    sliced_wasserstein,
    unit_directions,
)
from assets.statistics.kernel_sums import UnitKernelSums, unit_kernel_sums
from assets.statistics.neighbourhoods import (
    auroc,
    knn_two_sample,
    kth_distances,
    prdc_of,
    same_set_share,
    weighted_auroc,
)
from assets.statistics.resampling import (
    Indices,
    Names,
    bootstrap_weights,
    by_units,
    equal_draws,
    even_units,
    percentile_interval,
    permute_units,
    pooled_units,
)
from assets.statistics.two_sample import c2st, mmd_tests

Floats = NDArray[np.float64]

STATISTICS = (
    "knn_auroc", "frechet", "kid", "mmd", "energy", "sliced_wasserstein", "precision", "recall", "density", "coverage",
    "c2st_auc", "proxy_a_distance", "knn_two_sample",
)  # fmt: skip
FALLS_WITH_GAP = frozenset({"precision", "recall", "density", "coverage"})
"""Statistics that a gap makes smaller: their floor is the 5% point, and a gap lies below it."""

SMALLEST_SET = 8
SMALLEST_DRAW = 4
SMALLEST_FRECHET_DRAW = 20
LARGEST_SET = 10_000
"""Larger sets are thinned to this many samples by whole units; only the kNN scores use all."""
LARGEST_UNITS = 2_500
"""And to this many units, because the sums of kernel values between units are held in memory."""
LARGEST_BASIS = 2_000
"""Reference samples that principal components are fitted on."""
LARGEST_DRAW = 500
DIRECTIONS = 128
TIE = 1e-12


@dataclass(frozen=True)
class Measurement:
    """One statistic of target against holdout."""

    value: float
    ci95: tuple[float, float] | None
    p_value: float | None
    noise_floor: float | None
    """The 95% point of the statistic between halves of the holdout; the 5% point for `FALLS_WITH_GAP`."""


UNKNOWN = Measurement(math.nan, None, None, None)


@dataclass(frozen=True)
class _Latents:
    """One data set: unit vectors, the dependence unit and the kNN score of each."""

    vectors: Floats
    units: NDArray[np.str_]
    scores: Floats

    def take(self, samples: Indices) -> _Latents:
        return _Latents(self.vectors[samples], self.units[samples], self.scores[samples])


@dataclass(frozen=True)
class _Settings:
    """What stays the same over all comparisons."""

    k: int
    sigma: float
    directions: Floats
    device: str
    basis: Floats
    """(d, c) principal components for the Fréchet distance; c = 0 where there are too few samples for it."""


def exceeds_floor(name: str, measurement: Measurement) -> bool:
    """Whether the value lies beyond its noise floor, in the direction of a gap. False without a floor or a value."""
    if measurement.noise_floor is None or math.isnan(measurement.value):
        return False
    if name in FALLS_WITH_GAP:
        return measurement.value < measurement.noise_floor
    return measurement.value > measurement.noise_floor


def latent_gap(
    reference: ArrayLike,
    holdout: ArrayLike,
    holdout_units: Names,
    target: ArrayLike,
    target_units: Names,
    *,
    k: int,
    permutations: int,
    bootstrap: int,
    floor_draws: int,
    seed: int,
    target_scores: ArrayLike | None = None,
    holdout_scores: ArrayLike | None = None,
    largest: int = LARGEST_SET,
    device: str = "cpu",
) -> dict[str, Measurement]:
    """Every statistic of `STATISTICS`, of the target against the holdout, on L2-normalised latents.

    Sizes: most of these statistics depend on the number of samples, so they are taken between sets of m₀ samples, m₀
    being half of the smaller set (at most 500), drawn `floor_draws` times by whole units. The value is the mean over
    the draws, the interval their percentiles (halves vary about as much as the whole does from sample to sample). The
    noise floor is the same statistic at the same m₀ between two halves of the holdout that share no unit. Only
    `knn_auroc`, `kid` and `mmd` do not depend on size: their values use all samples, their intervals are bootstraps
    of units (centred on the value for the two kernels, because a resampled unit repeats), their floors stay at m₀.

    p-values permute set labels over units, thinned to even sizes (`even_units`): of the AUROC (one-sided: the target is
    farther), of the kernels (`energy` through its distance kernel), of the classifier's AUC (for `proxy_a_distance`,
    too) and of the neighbours. Fréchet, sliced Wasserstein and precision … coverage have none: read them against their
    floor.

    `frechet` is taken on m₀/10 principal components fitted on the reference, and is NaN below m₀ = 20. `kid` scales
    unit vectors by √d, so that x·y/d is their cosine.

    Args:
        reference: (r, d) latents; used for the kNN scores and the principal components only.
        holdout: (n, d) latents.
        holdout_units: (n,) unit of each.
        target: (m, d) latents.
        target_units: (m,) unit of each.
        k: neighbour of all kNN statistics; less where a set is too small for it.
        permutations: per test.
        bootstrap: draws per bootstrap interval.
        floor_draws: draws per noise floor and per size-dependent value.
        seed: of all randomness.
        target_scores: (m,) distances to the k-th nearest reference latent, where an index has them already.
        holdout_scores: (n,) the same of the holdout.
        largest: samples that a set is thinned to, by whole units, for all but the kNN scores.
        device: torch device that kernel sums and neighbours are computed on.

    Returns:
        One measurement per name. All are unknown (NaN, no interval) where a side has fewer than 8 samples or 2 units,
        or where no draw of 4 samples exists.

    Raises:
        ValueError: shapes that do not fit together, values that are not finite, no floor draw or no bootstrap draw.
    """
    if min(floor_draws, bootstrap) < 1:
        raise ValueError(f"floor_draws ({floor_draws}) and bootstrap ({bootstrap}) must be at least 1")
    rng = np.random.default_rng(seed)
    unknown = dict.fromkeys(STATISTICS, UNKNOWN)
    known = l2_normalised(reference)
    sides = (
        _latents(known, holdout, holdout_units, holdout_scores, k),
        _latents(known, target, target_units, target_scores, k),
    )
    if any(len(side.units) < SMALLEST_SET or len(set(side.units)) < 2 for side in sides):  # noqa: PLR2004
        return unknown
    own, other = (side.take(_thinned(side.units, largest, rng)) for side in sides)
    draws = equal_draws(own.units, other.units, floor_draws, rng, LARGEST_DRAW)
    size = len(draws[0].target)
    if size < SMALLEST_DRAW:
        return unknown
    settings = _settings(known, own, other, size, k, rng, device)
    values = [_compare(own.take(draw.holdout), other.take(draw.target), settings, rng) for draw in draws]
    floors = [_compare(own.take(draw.holdout), own.take(draw.other_holdout), settings, rng) for draw in draws]
    measured = {name: _from_draws(name, values, floors) for name in STATISTICS}
    sums = _kernel_sums(own, other, settings)
    found = {"knn_auroc": _auroc_and_interval(*sides, bootstrap, rng)}
    found |= _mmds_and_intervals(sums, own.units, other.units, bootstrap, rng)
    for name, (value, interval) in found.items():
        measured[name] = replace(measured[name], value=value, ci95=interval)
    p_values = {"knn_auroc": _auroc_p_value(*_evened(*sides), permutations, rng)}
    p_values |= _vector_p_values(own, other, sums, settings, permutations, rng)
    return {name: replace(found, p_value=p_values.get(name)) for name, found in measured.items()}


def l2_normalised(vectors: ArrayLike) -> Floats:
    """Rows scaled to length 1; a row of zeros stays. (n, d) → (n, d) float64."""
    rows = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    scaled: Floats = rows / np.where(lengths > 0, lengths, 1)
    return scaled


def _latents(reference: Floats, vectors: ArrayLike, units: Names, scores: ArrayLike | None, k: int) -> _Latents:
    rows, names = l2_normalised(vectors), np.asarray(units, dtype=np.str_)
    if scores is not None:
        distances = np.asarray(scores, dtype=np.float64)
    elif len(rows):
        distances = kth_distances(rows, reference, min(k, len(reference)))
    else:
        distances = np.empty(0)
    if not len(rows) == len(names) == len(distances):
        raise ValueError(f"{len(rows)} vectors, {len(names)} units and {len(distances)} scores")
    return _Latents(rows, names, distances)


def _thinned(units: NDArray[np.str_], largest: int, rng: np.random.Generator) -> Indices:
    """At most `largest` samples of at most `LARGEST_UNITS` units, unit after unit in random order."""
    order = by_units(units, rng)[:largest]
    begins = np.concatenate([[True], units[order][1:] != units[order][:-1]])
    return order[np.cumsum(begins) <= LARGEST_UNITS]


def _settings(
    reference: Floats, own: _Latents, other: _Latents, size: int, k: int, rng: np.random.Generator, device: str
) -> _Settings:
    thinned = reference[:: math.ceil(len(reference) / LARGEST_BASIS)]
    components = size // 10 if size >= SMALLEST_FRECHET_DRAW else 0
    axes = np.linalg.svd(thinned - thinned.mean(axis=0), full_matrices=False)[2]
    return _Settings(
        k=min(k, size - 1),
        sigma=median_distance(own.vectors, other.vectors) or 1.0,  # all vectors equal: any width gives 0
        directions=unit_directions(reference.shape[1], DIRECTIONS, rng),
        device=device,
        basis=axes[: min(components, len(thinned) - 1)].T,
    )


def _compare(first: _Latents, second: _Latents, settings: _Settings, rng: np.random.Generator) -> dict[str, float]:
    """Every statistic of the second set against the first, for two sets of equal size."""
    a, b = first.vectors, second.vectors
    pairs = pairs_of(a, b)
    manifold = prdc_of(pairs.distances, pairs.first, settings.k)
    classifier = c2st(a, first.units, b, second.units, 0, rng)
    kid, mmd, _ = (kernel(pairs.products, pairs.squares) for kernel in _kernels(settings.sigma))
    return {
        "knn_auroc": auroc(second.scores, first.scores),
        "frechet": _frechet(a @ settings.basis, b @ settings.basis),
        "kid": mmd_of(kid, pairs.first),
        "mmd": mmd_of(mmd, pairs.first),
        "energy": energy_of(pairs.distances, pairs.first),
        "sliced_wasserstein": sliced_wasserstein(a, b, settings.directions),
        "precision": manifold.precision,
        "recall": manifold.recall,
        "density": manifold.density,
        "coverage": manifold.coverage,
        "c2st_auc": classifier.auc,
        "proxy_a_distance": classifier.pad,
        "knn_two_sample": same_set_share(pairs.distances, pairs.first, settings.k),
    }


def _frechet(a: Floats, b: Floats) -> float:
    if a.shape[1] == 0:
        return math.nan
    return frechet_distance(a.mean(axis=0), np.cov(a, rowvar=False), b.mean(axis=0), np.cov(b, rowvar=False))


def _kernels(sigma: float) -> tuple[Kernel, Kernel, Kernel]:
    """Of KID, MMD and energy, for unit vectors; KID's x·y/d is the cosine of vectors scaled by √d."""
    return polynomial_kernel(1), rbf_kernel(sigma), distance_kernel


def _kernel_sums(own: _Latents, other: _Latents, settings: _Settings) -> list[UnitKernelSums]:
    vectors = np.concatenate([own.vectors, other.vectors])
    units = pooled_units(own.units, other.units)
    return unit_kernel_sums(vectors, units, _kernels(settings.sigma), settings.device)


def _from_draws(name: str, values: list[dict[str, float]], floors: list[dict[str, float]]) -> Measurement:
    drawn = np.array([draw[name] for draw in values])
    if np.isnan(drawn).any():
        return UNKNOWN
    point = 0.05 if name in FALLS_WITH_GAP else 0.95
    floor = float(np.quantile([draw[name] for draw in floors], point))
    return Measurement(float(drawn.mean()), percentile_interval(drawn), None, floor)


def _auroc_and_interval(
    own: _Latents, other: _Latents, bootstrap: int, rng: np.random.Generator
) -> tuple[float, tuple[float, float]]:
    draws = weighted_auroc(
        other.scores,
        bootstrap_weights(other.units, bootstrap, rng),
        own.scores,
        bootstrap_weights(own.units, bootstrap, rng),
    )
    return auroc(other.scores, own.scores), percentile_interval(draws)


def _evened(own: _Latents, other: _Latents) -> tuple[_Latents, _Latents]:
    """Both sides with their units thinned to even sizes, as permutations of units need."""
    kept = even_units(own.units, other.units)
    return own.take(np.flatnonzero(kept[: len(own.units)])), other.take(np.flatnonzero(kept[len(own.units) :]))


def _auroc_p_value(own: _Latents, other: _Latents, permutations: int, rng: np.random.Generator) -> float:
    scores = np.concatenate([own.scores, other.scores])
    labels = np.repeat([False, True], [len(own.scores), len(other.scores)])
    permuted = permute_units(labels, pooled_units(own.units, other.units), permutations, rng)
    areas = weighted_auroc(scores, permuted, scores, ~permuted)
    above = int(np.count_nonzero(areas >= auroc(other.scores, own.scores) - TIE))
    return (1 + above) / (permutations + 1)


def _mmds_and_intervals(
    sums: list[UnitKernelSums], own: Names, other: Names, bootstrap: int, rng: np.random.Generator
) -> dict[str, tuple[float, tuple[float, float]]]:
    """MMD² on all samples (row 0 of the weights) and a bootstrap interval of units that is centred on it."""
    first, second = (
        np.concatenate([np.ones((1, len(distinct))), bootstrap_weights(distinct, bootstrap, rng)])
        for distinct in (np.unique(own), np.unique(other))
    )
    found = {}
    for name, kernel in zip(("kid", "mmd"), sums, strict=False):
        # units are sorted, and pooling tags the first set's to come first
        values = kernel.mmd(np.hstack([first, np.zeros_like(second)]), np.hstack([np.zeros_like(first), second]))
        value, draws = float(values[0]), values[1:]
        found[name] = value, percentile_interval(draws - np.nanmean(draws) + value)
    return found


def _vector_p_values(
    own: _Latents,
    other: _Latents,
    sums: list[UnitKernelSums],
    settings: _Settings,
    permutations: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    even, even_other = _evened(own, other)
    if len(even.units) + len(even_other.units) < len(own.units) + len(other.units):
        sums = _kernel_sums(even, even_other, settings)
    second = np.arange(len(sums[0].units)) >= len(np.unique(even.units))
    kid, mmd, energy = mmd_tests(sums, second, permutations, rng)
    sets = even.vectors, even.units, even_other.vectors, even_other.units
    classifier = c2st(*sets, permutations, rng).p_value
    k = min(settings.k, len(even.units) + len(even_other.units) - 1)
    return {
        "kid": kid.p_value,
        "mmd": mmd.p_value,
        "energy": energy.p_value,
        "c2st_auc": classifier,
        "proxy_a_distance": classifier,
        "knn_two_sample": knn_two_sample(*sets, k, permutations, rng, settings.device).p_value,
    }
