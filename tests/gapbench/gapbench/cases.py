"""The cases: which pictures are source and target, what is planted in the target, and what the right answer is.

Belongs here: the cases by seed, their division into a tuning and a report half, laying one out, the true shares.
Does not: plants, the method, scoring.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from assets.statistics.shapley import shapley_values
from gapbench import plants_report, plants_seen, plants_tune
from gapbench.damage import SEVERITIES, Curve, planted
from gapbench.plants import Plant, same_cause
from gapbench.world import Item, World

Half = Literal["tune", "report"]
Split = Literal["blocks", "unequal", "drives"]
SEED = 20_261
SIDE = 100
"""Pictures a side, to the nearest whole block."""
FEWER = 36
"""Pictures of the smaller side of an unequal split."""
NULLS: dict[Half, dict[str, int]] = {
    "tune": {"blocks": 40, "unequal": 20, "drives": 20, "harmless": 20},
    "report": {"blocks": 120, "unequal": 60, "drives": 60, "harmless": 60},
}
CONTENT = ("vegetation", "vehicle", "car", "sky", "building")
KEPT = (0.25, 0.4, 0.6)
"""Share of the target's pictures that a selection by content keeps."""
PAIRS, TRIPLES = 30, 10
MIXES = ((0.15, 0.4), (0.3, 0.2), (0.1, 0.5))
TRIPLE_MIXES = ((0.1, 0.2, 0.4), (0.15, 0.3, 0.3))


@dataclass(frozen=True)
class Case:
    """One question. `damages` are the plants' own; `selected` names a class that content is chosen by, `kept` how much.

    `distractor` is a shift that does no harm; where there is one, the pictures' metadata mislead as well.
    """

    name: str
    half: Half
    seed: int
    plants: tuple[Plant, ...] = ()
    damages: tuple[float, ...] = ()
    selected: str | None = None
    kept: float = 1.0
    distractor: Plant | None = None
    split: Split = "blocks"

    @property
    def causes(self) -> tuple[str, ...]:
        """The right answer; 'unknown' where no hypothesis speaks of it, nothing at the null."""
        return (f"content_{self.selected}",) if self.selected else tuple(plant.cause for plant in self.plants)

    @property
    def damage(self) -> float:
        """By how much the loss should rise, as a share of the holdout's."""
        return sum(self.damages)


@dataclass(frozen=True)
class Sides:
    """A case laid out. `shares`: true Shapley costs by cause, in loss, on the target's own pictures."""

    holdout: list[Item]
    target: list[Item]
    shares: dict[str, float]


def plants_of(half: Half, class_names: Sequence[str]) -> list[Plant]:
    """The half's plants in a world with those classes."""
    if half == "report":
        return plants_report.plants(class_names)
    return [*plants_tune.plants(class_names), *plants_seen.plants(class_names)]


def distractors_of(half: Half, class_names: Sequence[str]) -> list[Plant]:
    """The plants that distractors are drawn from; a list that grows would give older cases another distractor."""
    found = plants_tune.plants(class_names) if half == "tune" else plants_report.plants(class_names)
    return [plant for plant in found if plant.kind == "photometric"]


def cases(half: Half, class_names: Sequence[str]) -> list[Case]:
    """All cases of a half. No operator is in both halves; blocks are divided anew in each case."""
    plants = plants_of(half, class_names)
    pixels = [plant for plant in plants if plant.kind == "photometric"]
    harmless = distractors_of(half, class_names)
    return [
        *_singles(half, plants, harmless), *_nulls(half, harmless), *_contents(half, class_names),
        *_mixed(half, pixels, 2, PAIRS, MIXES), *_mixed(half, pixels, 3, TRIPLES, TRIPLE_MIXES),
    ]  # fmt: skip


def lay_out(case: Case, world: World, curves: dict[str, Curve]) -> Sides | None:
    """Holdout and target, of different blocks; None where a plant can't do as much damage."""
    levels = [curves[plant.name].level(damage) for plant, damage in zip(case.plants, case.damages, strict=True)]
    if not all(map(math.isfinite, levels)):
        return None
    rng = np.random.default_rng(case.seed)
    holdout, target = _divided(case, world, rng)
    if case.selected:
        return _chosen(world, holdout, target, case.selected, case.kept)
    strengths = {plant: plant.at(level) for plant, level in zip(case.plants, levels, strict=True)}
    if case.distractor is not None:
        harmless = case.distractor.at(curves[case.distractor.name].harmless())
        strengths = {case.distractor: harmless, **strengths}
        holdout, target = _mislabelled(holdout, rng, 0.0), _mislabelled(target, rng, 1.0)
    costs, target = _planted_with_truth(world, target, strengths)
    return Sides(holdout, target, {plant.cause: cost for plant, cost in costs.items()})


def _planted_with_truth(
    world: World, target: list[Item], strengths: dict[Plant, float]
) -> tuple[dict[Plant, float], list[Item]]:
    """The target with all plants, and each one's Shapley cost: every subset of them is planted and evaluated."""

    def with_plants(chosen: Collection[Plant]) -> list[Item]:
        items = target
        for plant, strength in strengths.items():  # always in the same order
            items = planted(items, plant, strength) if plant in chosen else items
        return items

    def loss(chosen: frozenset[Plant]) -> NDArray[np.float64]:
        if not chosen:
            return np.array(np.nanmean([world.untouched[item.sample_id] for item in target]))
        return np.array(np.nanmean(world.losses(with_plants(chosen))))

    worth = shapley_values(list(strengths), loss) if strengths else {}
    return {plant: float(cost) for plant, cost in worth.items()}, with_plants(strengths)


def _divided(case: Case, world: World, rng: np.random.Generator) -> tuple[list[Item], list[Item]]:
    """Whole blocks to either side.

    'drives' gives each drive's first blocks to one side and its last to the other; where every drive is one block, the
    first drives and the last.
    """
    blocks = list(dict.fromkeys(item.block for item in world.pool))
    if case.split == "drives":
        runs = [list(dict.fromkeys(item.block for item in world.pool if item.drive == drive))
                for drive in dict.fromkeys(item.drive for item in world.pool)]  # fmt: skip
        runs = runs if min(map(len, runs)) > 1 else [blocks]
        first = [block for run in runs for block in run[: len(run) // 2]]
        sides = [first, [block for block in blocks if block not in first]]
        drawn = [rng.permutation(side).tolist() for side in (sides if rng.random() < 1 / 2 else sides[::-1])]
    else:
        shuffled = rng.permutation(blocks).tolist()
        size = len(world.pool) / len(blocks)
        held = round((FEWER if case.split == "unequal" else SIDE) / size)
        drawn = [shuffled[:held], shuffled[held:]]
        if case.split == "unequal" and rng.random() < 1 / 2:
            drawn = drawn[::-1]
    wanted = round(SIDE / max(case.kept, 0.5)) if case.selected else SIDE
    return _pictures(world, drawn[0], SIDE), _pictures(world, drawn[1], wanted)


def _pictures(world: World, blocks: list[str], wanted: int) -> list[Item]:
    """The pictures of whole blocks, as many blocks as give that number."""
    found: list[Item] = []
    for block in blocks:
        if len(found) >= wanted:
            break
        found += [item for item in world.pool if item.block == block]
    return sorted(found, key=lambda item: item.sample_id)


def _mislabelled(items: list[Item], rng: np.random.Generator, side: float) -> list[Item]:
    """Metadata that tell the sides apart and cause nothing: one constant on either side, one that merely goes along."""
    return [
        replace(item, metadata=json.dumps({"camera_id": side, "temperature": 12 + 6 * side + float(rng.normal())}))
        for item in items
    ]


def _singles(half: Half, plants: Sequence[Plant], harmless: Sequence[Plant]) -> Iterator[Case]:
    for plant in plants:
        for place, damage in enumerate(SEVERITIES):
            name = f"{half}/single/{plant.name}/{damage:.2f}"
            seed = _seed(name)
            others = [other for other in harmless if not same_cause(other.cause, plant.cause)]
            distractor = others[seed % len(others)] if (place + len(plant.name)) % 2 else None
            yield Case(name, half, seed, (plant,), (damage,), distractor=distractor)


def _nulls(half: Half, harmless: Sequence[Plant]) -> Iterator[Case]:
    for kind, count in NULLS[half].items():
        for place in range(count):
            name = f"{half}/null/{kind}/{place:03d}"
            split: Split = kind if kind != "harmless" else "blocks"  # type: ignore[assignment]
            distractor = harmless[place % len(harmless)] if kind == "harmless" else None
            yield Case(name, half, _seed(name), split=split, distractor=distractor)


def _contents(half: Half, class_names: Sequence[str]) -> Iterator[Case]:
    for selected in (name for name in CONTENT if name in class_names):
        for kept in KEPT:
            name = f"{half}/content/{selected}/{kept:.2f}"
            yield Case(name, half, _seed(name), selected=selected, kept=kept)


def _mixed(
    half: Half, plants: Sequence[Plant], size: int, count: int, mixes: Sequence[tuple[float, ...]]
) -> Iterator[Case]:
    rng = np.random.default_rng(_seed(f"{half}/mixed/{size}"))
    seen: set[frozenset[str]] = set()
    while len(seen) < count:
        chosen = [plants[int(place)] for place in rng.choice(len(plants), size, replace=False)]
        causes = [plant.cause for plant in chosen]
        key = frozenset(plant.name for plant in chosen)
        if key in seen or any(same_cause(a, b) for i, a in enumerate(causes) for b in causes[:i]):
            continue
        damages = mixes[len(seen) % len(mixes)]
        seen.add(key)
        name = f"{half}/mixed/{'+'.join(plant.name for plant in chosen)}"
        yield Case(name, half, _seed(name), tuple(chosen), damages)


def _chosen(world: World, holdout: list[Item], target: list[Item], selected: str, kept: float) -> Sides:
    """The target's pictures that show most of a class, or least, whichever costs more: no pixel changes."""
    index = list(world.config.class_names).index(selected)
    losses = np.array([world.untouched[item.sample_id] for item in target])
    order = np.argsort([float((item.mask == index).mean()) for item in target])
    count = round(len(target) * kept)
    most, least = order[-count:], order[:count]
    places = most if np.nanmean(losses[most]) > np.nanmean(losses[least]) else least
    cost = float(np.nanmean(losses[places]) - np.nanmean(losses))
    return Sides(holdout, [target[place] for place in sorted(places.tolist())], {f"content_{selected}": cost})


def _seed(name: str) -> int:
    return zlib.crc32(f"{SEED}:{name}".encode())
