"""The search for causes: what imitations do, the shift that they are to reproduce, the best sets of them.

Belongs here: responses between measured settings, the misfit's metric, fitting given causes, comparing sets of them,
how sure their strengths are.
Does not: when a cause is worth adding (`explain.py`), measuring responses (`responses.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FLOOR = 0.1
"""Differences below this share of a trait's deviation are nothing to explain: half of a 'small' effect."""
RELATIVE = 0.15
"""An imitation is another implementation than the cause: it may miss by this share of a trait's difference."""
SHRUNK = 0.3
"""How far the covariance of sampling is shrunk to its diagonal: a few dozen units say nothing of most directions."""
CLOSE = 0.03
"""Once the causes are chosen their strengths are found by a closer metric, with this for `RELATIVE`: what may be missed
would else draw them towards nothing."""
REDRAWN = 40
"""Times that strengths are found anew, with other units and half of the traits."""
PLAUSIBLE = (0.05, 0.275, 0.5, 0.725, 0.95)
"""Quantiles of these strengths that are kept."""
FINER = {1: 8, 2: 3}
"""Settings tried between two that were measured, by number of parameters; changes are linear in between."""
ZOOMS = 3
ZOOMED = 5
"""The best setting is sought anew among that many about it, each time within a smaller reach."""
SWEEPS = 3
EXHAUSTIVE = 2
"""Sets of up to that many causes are all compared; larger ones grow from the best and swap members."""


@dataclass(frozen=True, eq=False)
class Response:
    """What an experiment's imitation does to the source's traits.

    `axes`: measured values of each parameter, ascending. `changes` (k₁, …, k_p, T): mean change of each trait.
    `parameters` are their names.
    """

    experiment: str
    axes: tuple[Floats, ...]
    changes: Floats
    parameters: tuple[str, ...] = ()

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

    def whitening(self, difference: Floats, relative: float) -> Floats:
        """(K, K) matrix M with ‖M·(d − c)‖² the misfit, over known traits.

        Its inverse covariance is that of sampling whole units, plus what an imitation may miss. Scenes move many traits
        at once, and differ by chance: in those directions a difference weighs little.
        """
        known = self.known
        missed = (FLOOR * self.spread[known]) ** 2 + (relative * difference[known]) ** 2
        sampled = self.scatter[known] @ self.scatter[known].T
        variance = missed + SHRUNK * np.diag(sampled)
        lower = np.linalg.cholesky(np.diag(variance) + (1 - SHRUNK) * sampled)
        found: Floats = np.linalg.solve(lower, np.eye(len(lower)))
        return found


@dataclass(frozen=True)
class Fit:
    """Some candidates (indices), each at its best place beside the others, and the misfit that they leave."""

    members: tuple[int, ...]
    places: tuple[tuple[float, ...], ...]
    misfit: float


class Search:
    """Sets of causes compared by the misfit that they leave of one shift.

    All is done in whitened traits, where the misfit is a squared length: `target` (K,), and each candidate's changes.
    """

    def __init__(self, shift: Shift, responses: Sequence[Response], relative: float = RELATIVE) -> None:
        self.shift, self.responses = shift, responses
        self._whitening = shift.whitening(shift.difference, relative)
        self._target = self._white(shift.difference[None])[0]
        self._grids = [(places, self._white(changes)) for places, changes in (r.grid for r in responses)]
        self._lengths = [(changes**2).sum(1) for _, changes in self._grids]
        self.nothing = float(self._target @ self._target)
        self._known: dict[tuple[int, ...], Fit] = {}

    def singles(self) -> list[Fit]:
        """Every candidate as the only cause."""
        return [self.fitted((member,)) for member in range(len(self.responses))]

    def additions(self, members: tuple[int, ...]) -> Iterator[Fit]:
        """Some causes with each of the other candidates, which stands last."""
        for member in range(len(self.responses)):
            if member not in members:
                yield self.fitted((*members, member))

    def larger(self, fit: Fit) -> Fit | None:
        """The best set with one cause more; None where there are no more candidates."""
        size = len(fit.members) + 1
        if size > len(self.responses):
            return None
        if size <= EXHAUSTIVE:
            return min(map(self.fitted, combinations(range(len(self.responses)), size)), key=_left)
        best = min(self.additions(fit.members), key=_left)
        while True:
            swapped = [option for gone in best.members
                       for option in self.additions(tuple(m for m in best.members if m != gone))]  # fmt: skip
            better = min(swapped, key=_left)
            if better.misfit >= best.misfit * (1 - 1e-9):
                return best
            best = better

    def fitted(self, members: tuple[int, ...]) -> Fit:
        """Given causes at the places that leave least, by coordinate descent, the last one first."""
        key = tuple(sorted(members))
        if key not in self._known:
            self._known[key] = self._descend(key)
        found = self._known[key]
        places = dict(zip(found.members, found.places, strict=True))
        return Fit(members, tuple(places[member] for member in members), found.misfit)

    def _white(self, changes: Floats) -> Floats:
        found: Floats = changes[:, self.shift.known] @ self._whitening.T
        return found

    def _descend(self, members: tuple[int, ...]) -> Fit:
        if not members:
            return Fit((), (), self.nothing)
        changes = {member: np.zeros_like(self._target) for member in members}
        places: dict[int, Floats] = {}
        misfit = math.inf
        for _ in range(SWEEPS if len(members) > 1 else 1):
            for member in reversed(members):
                rest = self._target - sum(
                    (change for other, change in changes.items() if other != member), np.zeros_like(self._target)
                )
                misfit, places[member], changes[member] = self._closest(member, rest)
        return Fit(members, tuple(tuple(places[member].tolist()) for member in members), misfit)

    def _closest(self, member: int, rest: Floats) -> tuple[float, Floats, Floats]:
        """The misfit, place (p,) and change (K,) at which a candidate leaves least of the rest.

        The best of its grid, then ever closer about it.
        """
        response, (places, changes) = self.responses[member], self._grids[member]
        costs = self._lengths[member] - 2 * changes @ rest
        reach = 1 / FINER[len(response.axes)]
        for zoom in range(ZOOMS):
            best = int(np.argmin(costs))
            places = response.around(places[best], reach * 2.0**-zoom)
            changes = self._white(response.at(places))
            costs = (changes**2).sum(1) - 2 * changes @ rest
        best = int(np.argmin(costs))
        return float(costs[best] + rest @ rest), places[best], changes[best]


@dataclass(frozen=True)
class Strengths:
    """Settings of chosen causes, in their order: the `best`, and each one's `plausible` ones.

    These are at the `PLAUSIBLE` quantiles, from the weakest effect to the strongest.
    """

    best: list[tuple[float, ...]]
    plausible: list[tuple[tuple[float, ...], ...]]


def strengths(shift: Shift, responses: Sequence[Response], members: tuple[int, ...], seed: int) -> Strengths:
    """How strong chosen causes are, and how sure that is.

    They are sought again with the difference redrawn from its sampling distribution over units, each time by half of
    the traits: where an imitation is not the cause, traits disagree on its strength (delete-half jackknife).
    """
    rng = np.random.default_rng(seed)
    places = [_places(shift, responses, members)]
    for _ in range(REDRAWN if members else 0):
        difference = shift.difference + shift.scatter @ rng.standard_normal(shift.scatter.shape[1])
        left_out = rng.permutation(np.flatnonzero(shift.known))[: shift.known.sum() // 2]
        known = shift.known.copy()
        known[left_out] = False
        places.append(_places(replace(shift, difference=difference, known=known), responses, members))
    chosen = [responses[member] for member in members]
    best = [response.setting(place) for response, place in zip(chosen, places[0], strict=True)]
    drawn = [np.array([found[i] for found in places[1:]]) for i in range(len(members))]
    return Strengths(best, [_plausible(shift, *pair) for pair in zip(chosen, drawn, strict=True)])


def _places(shift: Shift, responses: Sequence[Response], members: tuple[int, ...]) -> list[Floats]:
    """Places (p,) of some causes by the closer metric, in their order."""
    chosen = [responses[member] for member in members]
    found = Search(shift, chosen, CLOSE).fitted(tuple(range(len(chosen))))
    return [np.array(place) for place in found.places]


def _plausible(shift: Shift, response: Response, places: Floats) -> tuple[tuple[float, ...], ...]:
    """The settings at places (B, p) whose change is as large as the quantiles of all."""
    known = shift.known
    sizes = np.linalg.norm(response.at(places)[:, known] / shift.spread[known], axis=1)
    order = np.argsort(sizes)[np.round(np.array(PLAUSIBLE) * (len(places) - 1)).astype(int)]
    return tuple(response.setting(places[i]) for i in order)


def _left(fit: Fit) -> float:
    return fit.misfit
