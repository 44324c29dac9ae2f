"""Which few causes, and how strong, reproduce the target's whole shift of traits: before any loss is asked.

Belongs here: the shift between two sets, how many causes it is worth, the noise that they must beat. Does not:
comparing sets of causes (`search.py`), measuring what an imitation does (`responses.py`), losses, verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assets.experiments.search import Fit, Floats, Response, Search, Shift, strengths
from assets.statistics.resampling import Names, permute_units, pooled_units

LEVEL = 0.01
"""Chance at which a step of pure noise is taken for a cause. A test of 5% a target would name causes too often."""
LEAST_SHARE = 0.04
LEAST_PART = 0.25
"""However little noise there is, a further cause must take away at least these shares of the whole misfit and of what
the others leave."""
MOST_CAUSES = 4
FEWEST_UNITS = 3
SMALLEST_GAIN = 0.1


@dataclass(frozen=True)
class Step:
    """One cause: the imitation's setting, and what would have done as well.

    `parameters` are the names of a setting's numbers; `plausible` the settings that fit as well when units and traits
    are drawn anew, weakest first. `gain` is the misfit that would be left without it, `p_value` how often noise alone
    offers as much; `rivals` are the experiments that could take its place within noise.
    """

    experiment: str
    setting: tuple[float, ...]
    plausible: tuple[tuple[float, ...], ...]
    gain: float
    p_value: float
    rivals: tuple[str, ...]
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """The causes that reproduce a shift, the weightiest first; `misfit` before any, `remaining` after all of them.

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


def explain(shift: Shift, responses: Sequence[Response], *, seed: int = 0) -> Explanation:
    """The best set of causes, one more as long as that takes off more misfit than noise offers (p ≤ `LEVEL`).

    Changes of several causes add up (first order). Two causes that look like a third together are told from it, since
    sets are compared and not only additions. With permuted set labels, each candidate's gain has its own noise (another
    mix of scenes is easily mistaken for content, never for compression); p-values are corrected over all candidates by
    the same permutations (max-T). Once the causes are chosen their strengths are found by a closer metric.
    """
    if not shift.known.any() or not responses:
        return Explanation((), 0.0, 0.0, 0.0, {})
    search = Search(shift, responses)
    noise, chance = _noise(shift, responses)
    names = [response.experiment for response in responses]
    best = search.fitted(())
    alone = search.singles()
    while len(best.members) < MOST_CAUSES:
        more = search.larger(best)
        if more is None or not _worth_more(best, more, search.nothing, noise):
            break
        best = more
    steps = _steps(search, best, noise, names, seed)
    gains = {names[fit.members[0]]: max(search.nothing - fit.misfit, 0.0) for fit in alone}
    return Explanation(steps, search.nothing, best.misfit, float(np.quantile(chance, 0.95)), gains)


def _worth_more(best: Fit, more: Fit, nothing: float, noise: Floats) -> bool:
    gain = best.misfit - more.misfit
    new = [member for member in more.members if member not in best.members]
    p_value = min(_corrected(gain, noise, member) for member in new)
    return p_value <= LEVEL and gain >= max(LEAST_SHARE * nothing, LEAST_PART * best.misfit)


def _steps(search: Search, best: Fit, noise: Floats, names: Sequence[str], seed: int) -> tuple[Step, ...]:
    """The members as steps, the one first without which most misfit would be left."""
    slack = float(np.quantile(noise.max(1), 1 - LEVEL))
    found_at = strengths(search.shift, search.responses, best.members, seed)
    found = []
    for place, member in enumerate(best.members):
        others = tuple(other for other in best.members if other != member)
        gain = search.fitted(others).misfit - best.misfit
        swapped = [fit for fit in search.additions(others) if fit.misfit <= best.misfit + slack]
        rivals = tuple(names[fit.members[-1]] for fit in swapped if fit.members[-1] != member)
        p_value = _corrected(gain, noise, member)
        setting, plausible = found_at.best[place], found_at.plausible[place]
        parameters = search.responses[member].parameters
        found.append(Step(names[member], setting, plausible, gain, p_value, rivals, parameters))
    return tuple(sorted(found, key=lambda step: -step.gain))


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
    return Response(experiment, (np.array(reached)[order],), np.nan_to_num(np.array(changes)[order]), ("mean share",))


def tilt(share: Floats, wanted: float) -> Floats | None:
    """Weights exp(λ·share) of samples (n,) under which their mean share is the wanted one; None where none are."""
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


def _corrected(gain: float, noise: Floats, member: int) -> float:
    """p-value of a candidate's gain by all candidates' noise (B, c) (Westfall and Young 1993, max-T).

    Gains are compared in units of the 95% point of their candidate's own noise.
    """
    scale = np.maximum(np.quantile(noise, 0.95, axis=0), SMALLEST_GAIN)
    largest = (noise / scale).max(1)
    return float((1 + (largest >= gain / scale[member]).sum()) / (len(noise) + 1))


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
