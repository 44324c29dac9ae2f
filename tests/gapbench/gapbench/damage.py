"""How strong a plant must be: severities are set by equal damage to the loss, not by equal parameter.

Belongs here: the loss under a plant as a function of its level, and its inverse. Does not: plants, cases.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gapbench.plants import Plant
from gapbench.world import Item, World

SEVERITIES = (0.05, 0.10, 0.25, 0.50, 1.00)
"""Rise of the loss as a share of the holdout's."""
HARMLESS = 0.01
"""Rise of the loss up to which a shift counts as harmless."""
LEVELS = (0.0, 0.02, 0.05, 0.1, 0.18, 0.3, 0.45, 0.65, 1.0)
FINER = 3
"""Halvings of the two levels between which a severity lies."""
PICTURES = 48
"""Pictures, spread evenly over the pool, on which damage is measured."""


@dataclass(frozen=True)
class Curve:
    """Mean loss of the spread pictures by level, ascending."""

    losses: dict[float, float]

    @property
    def risen(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Levels, and the highest rise of the loss up to each as a share of the untouched."""
        levels = np.array(sorted(self.losses))
        losses = np.array([self.losses[level] for level in levels.tolist()])
        return levels, np.maximum.accumulate(losses) / losses[0] - 1

    def bracket(self, damage: float) -> tuple[float, float] | None:
        """The neighbouring levels between which the loss rises by that share; None where the plant never does."""
        levels, risen = self.risen
        above = np.flatnonzero(risen >= damage)
        return (float(levels[above[0] - 1]), float(levels[above[0]])) if len(above) and above[0] else None

    def level(self, damage: float) -> float:
        """The lowest level at which the loss has risen by that share; NaN where the plant never does as much."""
        levels, risen = self.risen
        above = np.flatnonzero(risen >= damage)
        if not len(above) or above[0] == 0:
            return math.nan
        right = int(above[0])
        span = risen[right] - risen[right - 1]
        part = (damage - risen[right - 1]) / span if span > 0 else 1.0
        return float(levels[right - 1] + part * (levels[right] - levels[right - 1]))

    def harmless(self) -> float:
        """The highest measured level up to which the loss rises by no more than `HARMLESS`."""
        levels, risen = self.risen
        return float(levels[risen <= HARMLESS].max())


def planted(items: Sequence[Item], plant: Plant, parameter: float) -> list[Item]:
    """The items with a plant of that parameter."""
    found = []
    for item in items:
        image, mask = plant.apply(item.sample_id, item.image, item.mask, parameter)
        found.append(replace(item, image=image, mask=mask))
    return found


def measure_curve(world: World, plant: Plant) -> Curve:
    """The plant's damage at each level, and at levels between those where a severity is crossed."""
    spread = world.pool[:: max(1, len(world.pool) // PICTURES)][:PICTURES]

    def loss(level: float) -> float:
        return float(np.nanmean(world.losses(planted(spread, plant, plant.at(level)))))

    curve = Curve({level: loss(level) for level in LEVELS})
    for damage in (HARMLESS, *SEVERITIES):
        for _ in range(FINER):
            between = curve.bracket(damage)
            if between is not None:
                middle = sum(between) / 2
                curve = Curve({**curve.losses, middle: loss(middle)})
    return curve


def curves(world: World, plants: Sequence[Plant], cache: Path) -> dict[str, Curve]:
    """All plants' curves, each measured once and kept in `cache`, which several processes may share."""
    missing = [plant for plant in plants if plant.name not in _kept(cache)]
    random.Random(os.getpid()).shuffle(missing)  # processes that run side by side begin with different ones
    for plant in missing:
        if plant.name not in _kept(cache):
            losses = sorted(measure_curve(world, plant).losses.items())
            cache.parent.mkdir(parents=True, exist_ok=True)
            written = cache.with_suffix(f".{os.getpid()}")
            written.write_text(json.dumps(_kept(cache) | {plant.name: losses}, indent=1))
            written.replace(cache)
    known = _kept(cache)
    return {plant.name: Curve(dict(known[plant.name])) for plant in plants}


def _kept(cache: Path) -> dict[str, list[tuple[float, float]]]:
    return json.loads(cache.read_text()) if cache.exists() else {}
