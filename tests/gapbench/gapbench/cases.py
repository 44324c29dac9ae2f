"""The cases: which pictures are source and target, what is planted in the target, and what the right answer is.

Belongs here: the list of cases by seed, their division into a tuning and a report half, laying one out.
Does not: plants, the method, scoring.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gapbench.damage import SEVERITIES, Curve, planted
from gapbench.plants import Plant, geometric, photometric, same_cause, unknown
from gapbench.world import Item, World

Half = Literal["tune", "report"]
SEED = 20_261
NULLS = 60
CONTENT = ("vegetation", "vehicle", "sky", "building")


@dataclass(frozen=True)
class Case:
    """One question. `causes` is the truth ('unknown' where no hypothesis speaks of it, nothing at the null)."""

    name: str
    half: Half
    seed: int
    plants: tuple[Plant, ...] = ()
    damage: float = 0.0
    selected: str | None = None

    @property
    def causes(self) -> tuple[str, ...]:
        """The right answer."""
        return (f"content_{self.selected}",) if self.selected else tuple(plant.cause for plant in self.plants)


def all_plants() -> list[Plant]:
    """Every plant of pictures."""
    return [*photometric(), *geometric(), *unknown()]


def cases() -> list[Case]:
    """All cases. The first implementation of a cause is for tuning, the second for the report, so that no operator is
    in both; blocks are divided anew in each case."""
    found: list[Case] = []
    by_cause: dict[str, list[Plant]] = {}
    for plant in all_plants():
        by_cause.setdefault(plant.cause, []).append(plant)
    halves: dict[Half, list[Plant]] = {"tune": [], "report": []}
    for plants in by_cause.values():
        for place, plant in enumerate(plants):
            halves["tune" if place % 2 == 0 else "report"].append(plant)
    for half, plants in halves.items():
        found += [
            Case(f"{half}/single/{plant.name}/{damage:.2f}", half, _seed(half, plant.name, damage), (plant,), damage)
            for plant in plants
            for damage in SEVERITIES
        ]
        found += [Case(f"{half}/null/{i:03d}", half, _seed(half, "null", i)) for i in range(NULLS)]
        found += [Case(f"{half}/content/{name}", half, _seed(half, name, 0), selected=name) for name in CONTENT]
        found += list(_pairs(half, [plant for plant in plants if plant.kind == "photometric"]))
    return found


def lay_out(case: Case, world: World, curves: dict[str, Curve]) -> tuple[list[Item], list[Item]] | None:
    """Holdout and target, of different blocks; None where a plant can't do as much damage."""
    rng = np.random.default_rng(case.seed)
    blocks = np.unique([item.block for item in world.pool])
    chosen = set(rng.permutation(blocks)[: len(blocks) // 2].tolist())
    holdout = [item for item in world.pool if item.block not in chosen]
    target = [item for item in world.pool if item.block in chosen]
    if case.selected:
        return holdout, _selected(target, list(world.config.class_names).index(case.selected))
    for plant in case.plants:
        level = curves[plant.name].level(case.damage / len(case.plants))
        if not math.isfinite(level):
            return None
        target = planted(target, plant, plant.at(level))
    return holdout, target


def _pairs(half: Half, plants: Sequence[Plant]) -> Iterator[Case]:
    rng = np.random.default_rng(_seed(half, "pairs", 0))
    seen: set[frozenset[str]] = set()
    while len(seen) < 15:
        one, other = (plants[int(place)] for place in rng.choice(len(plants), 2, replace=False))
        pair = frozenset({one.name, other.name})
        if pair in seen or same_cause(one.cause, other.cause):
            continue
        seen.add(pair)
        name = f"{half}/pair/{one.name}+{other.name}"
        yield Case(name, half, _seed(half, name, 0), (one, other), 0.5)


def _selected(items: list[Item], index: int) -> list[Item]:
    """The half of the pictures that show most of a class: content changes, no pixel does."""
    shares = [float((item.mask == index).mean()) for item in items]
    order = np.argsort(shares)[::-1][: len(items) // 2]
    return [items[place] for place in sorted(order.tolist())]


def _seed(*parts: object) -> int:
    return zlib.crc32(repr((SEED, *parts)).encode())
