"""How strong a plant must be: severities are set by equal damage to the loss, not by equal parameter.

Belongs here: the loss under a plant as a function of its level, and its inverse. Does not: plants, cases.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gapbench.plants import Plant
from gapbench.world import Item, World

SEVERITIES = (0.05, 0.10, 0.25, 0.50, 1.00)
"""Rise of the loss as a share of the holdout's."""
LEVELS = (0.0, 0.02, 0.05, 0.1, 0.18, 0.3, 0.45, 0.65, 1.0)
PICTURES = 24
"""Pictures, spread evenly over the pool, on which damage is measured."""


@dataclass(frozen=True)
class Curve:
    """Mean loss of the spread pictures at each of `LEVELS`."""

    losses: tuple[float, ...]

    def level(self, damage: float) -> float:
        """The lowest level at which the loss has risen by that share; NaN where the plant never does as much."""
        risen = np.maximum.accumulate(np.array(self.losses)) / self.losses[0] - 1
        above = np.flatnonzero(risen >= damage)
        if not len(above) or above[0] == 0:
            return math.nan
        right = int(above[0])
        span = risen[right] - risen[right - 1]
        part = (damage - risen[right - 1]) / span if span > 0 else 1.0
        return LEVELS[right - 1] + part * (LEVELS[right] - LEVELS[right - 1])


def planted(items: Sequence[Item], plant: Plant, parameter: float) -> list[Item]:
    """The items with a plant of that parameter."""
    found = []
    for item in items:
        image, mask = plant.apply(item.sample_id, item.image, item.mask, parameter)
        found.append(replace(item, image=image, mask=mask))
    return found


def measure_curve(world: World, plant: Plant) -> Curve:
    """The plant's damage at each level."""
    spread = world.pool[:: max(1, len(world.pool) // PICTURES)][:PICTURES]
    return Curve(tuple(float(np.nanmean(world.losses(planted(spread, plant, plant.at(level))))) for level in LEVELS))


def curves(world: World, plants: Sequence[Plant], cache: Path) -> dict[str, Curve]:
    """All plants' curves, each measured once and kept in `cache`."""
    known = json.loads(cache.read_text()) if cache.exists() else {}
    for plant in plants:
        if plant.name not in known:
            known[plant.name] = measure_curve(world, plant).losses
            cache.parent.mkdir(parents=True, exist_ok=True)
            cache.write_text(json.dumps(known, indent=1))
    return {plant.name: Curve(tuple(known[plant.name])) for plant in plants}
