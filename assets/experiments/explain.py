"""Which few causes, and how strong, reproduce the target's whole shift of traits: before any loss is asked.

Belongs here: the misfit between a shift and what imitations do to the source, the choice of causes one by one, the
noise that a choice must beat. Does not: measuring what an imitation does (`responses.py`), losses, verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from assets.statistics.resampling import Names, permute_units, pooled_units

Floats = NDArray[np.float64]

FLOOR = 0.1
"""Differences below this share of a trait's deviation are nothing to explain: half of a 'small' effect."""
RELATIVE = 0.15
"""An imitation is another implementation than the cause: it may miss by this share of a trait's difference."""
CLOSE = 0.03
"""Once the causes are chosen their strengths are found by a metric that lets large differences count for more: what may
be missed would else draw them towards nothing."""
LEVEL = 0.01
"""Chance at which a step of pure noise is taken for a cause. A test of 5% a target would name causes too often."""
LEAST_SHARE = 0.1
"""A further cause must take away at least this share of the whole misfit, however little noise there is."""
MOST_CAUSES = 4
SWEEPS = 3
FINER = {1: 8, 2: 3}
"""Settings tried between two that were measured, by number of parameters; changes are linear in between."""
ZOOMS = 3
ZOOMED = 5
"""The best setting is sought anew among that many about it, each time within a smaller reach."""
FEWEST_UNITS = 3
SMALLEST_GAIN = 0.1


@dataclass(frozen=True, eq=False)
class Response:
    """What an experiment's imitation does to the source's traits.

    `axes`: measured values of each parameter, ascending. `changes` (k₁, …, k_p, T): mean change of each trait.
    """

    experiment: str
    axes: tuple[Floats, ...]
    changes: Floats

    @cached_property
    def grid(self) -> tuple[Floats, Floats]:
        """Places (S, p), in steps of the axes, with values in between, and their changes (S, T)."""
        times = FINER[len(self.axes)]
        lines = [np.linspace(0, len(axis) - 1, times * (len(axis) - 1) + 1) for axis in self.axes]
        places = np.array(list(product(*lines)))
        return places, self.at(places)

    def at(self, places: Floats) -> Floats:
        """Changes (S, T) at places (S, p) in steps of the axes: linear in between."""
        left = [
            np.clip(column.astype(np.intp), 0, len(axis) - 2) for column, axis in zip(places.T, self.axes, strict=True)
        ]
        part = [column - low for column, low in zip(places.T, left, strict=True)]
        found = np.zeros((len(places), self.changes.shape[-1]))
        for corner in product((0, 1), repeat=len(self.axes)):
            weight = np.prod([share if upper else 1 - share for share, upper in zip(part, corner, strict=True)], axis=0)
            found += weight[:, None] * self.changes[tuple(low + upper for low, upper in zip(left, corner, strict=True))]
        return found

    def setting(self, place: Floats) -> tuple[float, ...]:
        """The parameters at a place (p,)."""
        return tuple(
            float(np.interp(step, np.arange(len(axis)), axis)) for step, axis in zip(place, self.axes, strict=True)
        )

    def around(self, place: Floats, reach: float) -> Floats:
        """Places (S, p) about one, up to `reach` steps away on each axis and within the axes."""
        lines = [
            np.clip(step + np.linspace(-reach, reach, ZOOMED), 0, len(axis) - 1)
            for step, axis in zip(place, self.axes, strict=True)
        ]
        return np.array(list(product(*lines)))


@dataclass(frozen=True)
class Shift:
    """How the target's traits differ from the holdout's.

    `difference` (T,) of means; `spread` (T,) deviation over the holdout's samples; `scatter` (T, U): columns whose
    outer products add up to the covariance of the difference, one a unit; `null` (B, T) differences under permuted set
    labels of units, the shift itself taken out; `known` (T,) which traits count: measured on both sides, not constant.
    """

    difference: Floats
    spread: Floats
    scatter: Floats
    null: Floats
    known: NDArray[np.bool_]

    def whitening(self, difference: Floats, relative: float = RELATIVE) -> Floats:
        """(K, K) matrix M with ‖M·(d − c)‖² the misfit, over known traits.

        Its inverse covariance is that of sampling whole units, plus what an imitation may miss. Scenes move many traits
        at once, and differ by chance: in those directions a difference weighs little.
        """
        known = self.known
        missed = (FLOOR * self.spread[known]) ** 2 + (relative * difference[known]) ** 2
        covariance = np.diag(missed) + self.scatter[known] @ self.scatter[known].T
        lower = np.linalg.cholesky(covariance)
        found: Floats = np.linalg.solve(lower, np.eye(len(lower)))
        return found

    def misfit(self, change: Floats, difference: Floats, whitening: Floats) -> Floats:
        """‖difference − change‖² in units of what may be missed; `change` (…, T) -> (…)."""
        missed: Floats = (((difference - change)[..., self.known] @ whitening.T) ** 2).sum(-1)
        return missed


@dataclass(frozen=True)
class Step:
    """One cause: the imitation's setting, the misfit once it is added, and what would have done as well.

    `gain` is what it takes off the misfit, `p_value` how often noise alone offers as much; `rivals` are the
    experiments whose best is within the noise of this one's.
    """

    experiment: str
    setting: tuple[float, ...]
    misfit: float
    gain: float
    p_value: float
    rivals: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """The causes that reproduce a shift, in the order found; `misfit` before any, `remaining` after all of them.

    `alone` is what each candidate takes off the misfit as the only cause; `noise` the misfit that chance alone makes
    (its 95% point): what remains beyond it is a shift that no candidate explains.
    """

    steps: tuple[Step, ...]
    misfit: float
    remaining: float
    noise: float
    alone: dict[str, float]


def shift_between(
    holdout: Floats, holdout_units: Names, target: Floats, target_units: Names, *, permutations: int, seed: int
) -> Shift:
    """The shift of traits (n, T) and (m, T), NaN where missing.

    Its covariance is that of means over whole units (drives or blocks), since neighbouring frames are one observation.
    """
    units = pooled_units(holdout_units, target_units)
    labels = np.repeat([False, True], [len(holdout), len(target)])
    pooled = np.concatenate([holdout, target])
    drawn = permute_units(labels, units, permutations, np.random.default_rng(seed))
    sides = [_unit_means(holdout, holdout_units), _unit_means(target, target_units)]
    with np.errstate(invalid="ignore", divide="ignore"):
        own = _difference(pooled, labels[None])[0]
        spread = np.sqrt(_variance(holdout))
        centred = pooled - np.where(labels[:, None], own, 0)
        freedom = len(set(units)) / max(len(set(units)) - 2, 1)
        null = _difference(centred, drawn) * math.sqrt(freedom)
    enough = np.logical_and.reduce([np.isfinite(means).sum(0) >= FEWEST_UNITS for means in sides])
    known = enough & np.isfinite(own) & (spread > 0)
    scatter = np.concatenate([_scatter(means) for means in sides], axis=1)
    return Shift(own, spread, scatter, np.nan_to_num(null), known)


def explain(shift: Shift, responses: Sequence[Response]) -> Explanation:
    """Add causes one by one while each takes off more misfit than noise offers (p ≤ `LEVEL`).

    Changes of several causes add up (first order); after each addition all settings are found anew, and at the end once
    more by a closer metric. With permuted set
    labels, each candidate's gain has its own noise (another mix of scenes is easily mistaken for content, never for
    compression); a step's p-value is corrected over all candidates by the same permutations (max-T).
    """
    if not shift.known.any() or not responses:
        return Explanation((), 0.0, 0.0, 0.0, {})
    whitening = shift.whitening(shift.difference)
    nothing = float(shift.misfit(np.zeros_like(shift.difference), shift.difference, whitening))
    alone = _gains(shift, shift.difference, responses)
    noise, chance = _noise(shift, responses)
    steps: list[Step] = []
    chosen: list[_Part] = []
    misfit = nothing
    while len(chosen) < MOST_CAUSES:
        tried = list(_additions(shift, responses, chosen, whitening))
        if not tried:
            break
        gains = np.array([misfit - cost for cost, _ in tried])
        places = [responses.index(parts[-1].response) for _, parts in tried]
        p_values = _corrected(gains, noise[:, places])
        best = int(np.argmax(gains))
        if p_values[best] > LEVEL or gains[best] < LEAST_SHARE * nothing:
            break
        slack = float(np.quantile(noise.max(1), 1 - LEVEL))
        names = [parts[-1].response.experiment for _, parts in tried]
        rivals = tuple(name for i, name in enumerate(names) if i != best and gains[i] >= gains[best] - slack)
        misfit, chosen = tried[best]
        steps.append(Step(names[best], (), misfit, float(gains[best]), float(p_values[best]), rivals))
    if chosen:
        chosen = _settled(shift, chosen, shift.whitening(shift.difference, CLOSE))[1]
    settings = {part.response.experiment: part.response.setting(part.place) for part in chosen}
    found = tuple(replace(step, setting=settings[step.experiment]) for step in steps)
    names = [response.experiment for response in responses]
    return Explanation(found, nothing, misfit, float(np.quantile(chance, 0.95)), dict(zip(names, alone.tolist(), strict=True)))


def tilted(experiment: str, traits: Floats, share: Floats, wanted: Sequence[float]) -> Response:
    """What another mean share of a class would do to the traits, were samples drawn by it: exponential tilting.

    Samples of the holdout, `traits` (n, T) and the class's `share` (n,), are weighted by exp(λ·share) with λ such that
    the mean share is each of the wanted ones in turn. Shares that no weighting reaches are left out.
    """
    present = float(share.mean())
    reached, changes = [present], [np.zeros(traits.shape[1])]
    for mean in wanted:
        weights = tilt(share, mean)
        if weights is not None:
            reached.append(mean)
            changes.append(_weighted_mean(traits, weights) - _weighted_mean(traits, np.ones(len(share))))
    order = np.argsort(reached)
    return Response(experiment, (np.array(reached)[order],), np.nan_to_num(np.array(changes)[order]))


def tilt(share: Floats, wanted: float) -> Floats | None:
    """Weights exp(λ·share) of samples (n,) under which their mean share is the wanted one; None where none reaches it."""
    from scipy.optimize import brentq

    if not share.min() < wanted < share.max():
        return None
    spread = float(share.std())

    def weights(tilt: float) -> Floats:
        exponent = tilt * (share - share.mean()) / spread
        found: Floats = np.exp(exponent - exponent.max())
        return found

    def miss(tilt: float) -> float:
        return float(np.average(share, weights=weights(tilt)) - wanted)

    limit = 8.0
    if miss(-limit) * miss(limit) > 0:
        return None
    return weights(float(brentq(miss, -limit, limit)))


@dataclass(frozen=True, eq=False)
class _Part:
    """A candidate at one of its settings: its place on the axes and its change."""

    response: Response
    place: Floats
    change: Floats


def _additions(
    shift: Shift, responses: Sequence[Response], chosen: list[_Part], whitening: Floats
) -> Iterator[tuple[float, list[_Part]]]:
    """Each candidate that is not chosen yet added to the chosen ones, all settings found anew; the newest last."""
    taken = {part.response.experiment for part in chosen}
    for response in responses:
        if response.experiment not in taken:
            yield _settled(shift, [*chosen, _Part(response, np.zeros(0), np.zeros(0))], whitening)


def _settled(shift: Shift, parts: list[_Part], whitening: Floats) -> tuple[float, list[_Part]]:
    """Coordinate descent over settings, the newest part first."""
    parts = [*parts]
    cost = math.inf
    for _ in range(SWEEPS if len(parts) > 1 else 1):
        for i in reversed(range(len(parts))):
            rest = sum((part.change for j, part in enumerate(parts) if j != i), np.zeros_like(shift.spread))
            cost, parts[i] = _best_setting(shift, parts[i].response, rest, whitening)
    return cost, parts


def _best_setting(shift: Shift, response: Response, rest: Floats, whitening: Floats) -> tuple[float, _Part]:
    """The setting that leaves least beside the rest: the best of the grid, then ever closer about it."""
    places, changes = response.grid
    reach = 1 / FINER[len(response.axes)]
    for zoom in range(ZOOMS + 1):
        costs = shift.misfit(rest + changes, shift.difference, whitening)
        best = int(np.argmin(costs))
        found = _Part(response, places[best], changes[best])
        places = response.around(found.place, reach * 2.0**-zoom)
        changes = response.at(places)
    return float(costs[best]), found


def _gains(shift: Shift, difference: Floats, responses: Sequence[Response]) -> Floats:
    """What each candidate alone takes off the misfit of a difference, (candidates,)."""
    whitening = shift.whitening(difference)
    nothing = float(shift.misfit(np.zeros_like(difference), difference, whitening))
    least = [float(shift.misfit(response.grid[1], difference, whitening).min()) for response in responses]
    return np.maximum(nothing - np.array(least), 0.0)


def _noise(shift: Shift, responses: Sequence[Response]) -> tuple[Floats, Floats]:
    """Under permuted set labels: what each candidate takes off the misfit, (B, candidates), and the misfit, (B,).

    One metric serves all permutations: of differences that chance makes, what an imitation may miss of them is nothing
    beside the floor, and without it chance is if anything overrated.
    """
    whitening = shift.whitening(shift.difference, 0.0)
    drawn = shift.null[:, shift.known] @ whitening.T
    misfit = (drawn**2).sum(1)
    gains = []
    for response in responses:
        change = response.grid[1][:, shift.known] @ whitening.T
        gains.append((2 * drawn @ change.T - (change**2).sum(1)).max(1))
    return np.maximum(np.array(gains).T, 0.0), misfit


def _corrected(gains: Floats, noise: Floats) -> Floats:
    """p-values of gains (c,) by their noise (B, c), corrected over candidates (Westfall and Young 1993, max-T).

    Gains are compared in units of the 95% point of their candidate's own noise.
    """
    scale = np.maximum(np.quantile(noise, 0.95, axis=0), SMALLEST_GAIN)
    largest = (noise / scale).max(1)
    corrected: Floats = (1 + (largest[:, None] >= gains / scale).sum(0)) / (len(noise) + 1)
    return corrected


def _difference(pooled: Floats, labels: NDArray[np.bool_]) -> Floats:
    """Mean of the labelled minus mean of the others, NaN left out; labels (B, n) -> (B, T)."""
    known = np.isfinite(pooled)
    values, weights = np.where(known, pooled, 0.0), known.astype(np.float64)
    of_target = labels.astype(np.float64)
    others = 1 - of_target
    found: Floats = (of_target @ values) / (of_target @ weights) - (others @ values) / (others @ weights)
    return found


def _variance(values: Floats) -> Floats:
    known = np.isfinite(values)
    count = known.sum(0)
    mean = np.where(known, values, 0).sum(0) / count
    found: Floats = (np.where(known, values - mean, 0) ** 2).sum(0) / count
    return found


def _unit_means(values: Floats, units: Names) -> Floats:
    """Mean of each unit's samples, (units, T)."""
    _, index = np.unique(np.asarray(units), return_inverse=True)
    known = np.isfinite(values)
    sums, weights = np.zeros((2, index.max() + 1, values.shape[1]))
    np.add.at(sums, index, np.where(known, values, 0))
    np.add.at(weights, index, known)
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Floats = sums / weights
    return means


def _scatter(means: Floats) -> Floats:
    """(T, U): deviations of units' means from their mean, scaled so that outer products sum to its covariance."""
    known = np.isfinite(means)
    count = known.sum(0)
    centre = np.where(known, means, 0).sum(0) / np.maximum(count, 1)
    scaled: Floats = np.where(known, means - centre, 0) / np.sqrt(np.maximum(count * (count - 1), 1))
    return scaled.T


def _weighted_mean(values: Floats, weights: Floats) -> Floats:
    known = np.isfinite(values)
    mass = weights @ known
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = (weights @ np.where(known, values, 0)) / mass
    return found
