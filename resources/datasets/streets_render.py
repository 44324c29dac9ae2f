"""A street picture from its number: what stands where, then ground, sky and things from far to near, then the camera.

Belongs here: composition of a scene and the camera's response. Does not: looks of single things (`streets_objects`).
"""

# ruff: noqa: PLR2004  a street is laid out by measures, in metres and odds

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from resources.datasets.base import IGNORE
from resources.datasets.streets_canvas import Array, Canvas, Window, colour, faded, jitter, noise, overlay
from resources.datasets.streets_objects import (
    ROAD,
    SIDEWALK,
    SKY,
    VEGETATION,
    Building,
    Car,
    Hedge,
    Person,
    Pole,
    Sign,
    Tree,
    leaf_colour,
    skyline,
)
from resources.datasets.streets_scenes import FRAMES_PER_DRIVE, SCENES, Camera, Scene, generator

GENERATOR = 2
"""Version of the rendered pictures; goes up with every change that alters a byte of them."""

_FAR = 130.0
_NEAR = 4.0
_GRASS = (colour(0.08, 0.14, 0.04), colour(0.2, 0.18, 0.08), colour(0.2, 0.17, 0.14))


class _Thing(Protocol):
    def paint(self, canvas: Canvas) -> None: ...


@dataclass(frozen=True, slots=True)
class _Street:
    """One picture's draws: densities, weather and measures (metres, relative to the eye)."""

    rng: np.random.Generator
    openness: float
    vegetation: float
    buildings: float
    cars: float
    people: float
    overcast: float
    level: float
    season: float
    middle: float
    half: float
    pavement: float
    sun: tuple[float, float]

    @classmethod
    def draw(cls, scene: Scene, drive: np.random.Generator, rng: np.random.Generator) -> _Street:
        place = scene.place
        openness, vegetation = place.openness.draw(drive, rng), place.vegetation.draw(drive, rng)
        buildings = place.buildings.draw(drive, rng)
        cars, people = place.cars.draw(drive, rng), place.people.draw(drive, rng)
        overcast = float(np.clip(drive.beta(1.2, 1.2) + 0.08 * rng.normal(), 0, 1))
        level = float(np.exp(0.08 * drive.normal() + 0.05 * rng.normal()))
        season = float(np.clip(drive.beta(1.2, 2.0) + 0.1 * rng.normal(), 0, 1))
        half = float(drive.uniform(3.2, 5.0)) * (1 - 0.32 * vegetation)
        contrast = 0.35 * (1 - overcast) * float(rng.choice([-1, 1]))
        return cls(
            rng=rng, openness=openness, vegetation=vegetation, buildings=buildings, cars=cars, people=people,
            overcast=overcast, level=level, season=season,
            middle=-float(rng.uniform(0.2, 0.55)) * half, half=half,
            pavement=float(rng.uniform(1.5, 4.0)) * (1 - 0.75 * vegetation),
            sun=(0.95 + contrast, 0.95 - contrast),
        )  # fmt: skip

    def light_at(self, x: float) -> float:
        """Light on what faces the street at x."""
        return self.sun[int(x > 0)]


@dataclass(frozen=True, slots=True)
class _Lot:
    """A stretch along one side of the street: built on, green, or paved."""

    side: int
    near: float
    far: float
    kind: str
    setback: float


@dataclass(frozen=True, slots=True)
class _Ground:
    """Pixels below the horizon: depth `z` (height, 1), metres right of the road's middle `across` (height, width)."""

    window: Window
    z: Array
    across: Array

    def by_lot(self, lots: list[_Lot], values: Array) -> Array:
        """Each pixel's value, (height, width, channels), from its lot's, (lots, channels)."""
        sides = []
        for side in (-1, 1):
            mine = [index for index, lot in enumerate(lots) if lot.side == side]
            last = np.searchsorted([lots[index].near for index in mine], self.z[:, 0], side="right") - 1
            sides.append(values[mine][np.clip(last, 0, None)][:, None])
        return np.where((self.across < 0)[..., None], *sides)


def render(scene: str, seed: int, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Picture (height, width, 3), sRGB-like uint8, and mask (height, width), uint8 indices of `STREETS_CLASSES`.

    Depends on scene, seed and index alone. `IGNORE` marks the bonnet of the car that carries the camera.
    Raises KeyError for an unknown scene.
    """
    law = SCENES[scene]
    drive = generator(scene, seed, "drive", index // FRAMES_PER_DRIVE)
    rng = generator(scene, seed, index)
    street = _Street.draw(law, drive, rng)
    canvas = _canvas(law, street)
    lots = [lot for side in (-1, 1) for lot in _lots(street, side)]
    _paint_sky(canvas, street)
    _paint_ground(canvas, street, lots)
    skyline(canvas, rng, street.vegetation, street.buildings, leaf_colour(rng, street.season))
    things = [*_green(street, lots), *_houses(street, lots), *_furniture(street), *_traffic(street), *_walkers(street)]
    for _, thing in sorted(things, key=lambda item: -item[0]):
        thing.paint(canvas)
    _paint_bonnet(canvas)
    return photograph(canvas.light * np.float32(street.level), law.camera, rng), canvas.mask


def photograph(light: Array, camera: Camera, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What the camera makes of linear light (height, width, 3): uint8 of the same shape."""
    light = _blurred(light, camera.blur)
    sigma = camera.noise * np.sqrt(0.04 + light)
    light = np.maximum(light + sigma * rng.standard_normal(light.shape, dtype=np.float32), 0)
    gain = camera.exposure * np.array(camera.gain, np.float32)
    value = np.array(camera.offset, np.float32) + (gain * light) ** (1 / np.array(camera.gamma, np.float32))
    return (np.clip(value, 0, 1) * 255 + 0.5).astype(np.uint8)


def _blurred(light: Array, sigma: float) -> Array:
    """Gaussian blur of the picture's rows, then of its columns; edges repeat."""
    if sigma <= 0:
        return light
    radius = max(1, round(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        length = light.shape[axis]
        padded = np.pad(light, [(radius, radius) if axis == side else (0, 0) for side in range(3)], mode="edge")
        shifted = [padded[i : i + length] if axis == 0 else padded[:, i : i + length] for i in range(len(taps))]
        light = np.zeros_like(light)
        for tap, part in zip(taps, shifted, strict=True):
            light += np.float32(tap) * part
    return light


def _canvas(scene: Scene, street: _Street) -> Canvas:
    rng = street.rng
    shape = (scene.height, scene.width)
    grey = faded(colour(0.55, 0.63, 0.72), street.overcast)
    return Canvas(
        light=np.zeros((*shape, 3), np.float32), mask=np.full(shape, SKY, np.uint8),
        focal=scene.width / 2 / math.tan(math.radians(scene.camera.field_of_view / 2)),
        centre=scene.width * float(0.5 + 0.04 * rng.normal()),
        horizon=scene.height * float(scene.camera.horizon + 0.015 * rng.normal()),
        eye=float(rng.uniform(1.35, 1.6)), haze=grey, visibility=float(rng.uniform(250, 600)),
    )  # fmt: skip


def _lots(street: _Street, side: int) -> Iterator[_Lot]:
    rng = street.rng
    z = float(rng.uniform(-4, 4))
    while z < _FAR:
        width = float(rng.uniform(9, 24))
        draw = rng.random()
        green = street.buildings + (1 - street.buildings) * (0.4 + 0.6 * street.vegetation)
        kind = "built" if draw < street.buildings else "green" if draw < green else "paved"
        setback = float(rng.exponential(0.5 + 7 * street.openness**2)) if kind == "built" else 0.0
        yield _Lot(side, max(z, _NEAR), z + width, kind, setback)
        z += width


def _paint_sky(canvas: Canvas, street: _Street) -> None:
    window = canvas.window(0, canvas.mask.shape[1], 0, canvas.horizon + 2)
    if window is None:
        return
    rng = street.rng
    height = np.clip((canvas.horizon - window.v) / canvas.horizon, 0, 1)[..., None]
    zenith = faded(colour(0.2, 0.36, 0.68), 0.85 * street.overcast)
    base = canvas.haze * 1.15 + (zenith - canvas.haze * 1.15) * height**0.7
    far = 900 / (canvas.horizon - window.v + 25)
    clouds = noise(1.9, far * 6 + rng.uniform(0, 512), (window.u - canvas.centre) * far * 0.12 + rng.uniform(0, 512))
    cover = np.clip(0.35 * clouds + 1.2 * street.overcast - 0.45, 0, 1)[..., None]
    white = colour(0.78, 0.79, 0.8) * (1 - 0.12 * np.clip(clouds, -1, 2))[..., None]
    canvas.paint(window, np.ones(clouds.shape, bool), base + (white - base) * cover, SKY)


def _paint_ground(canvas: Canvas, street: _Street, lots: list[_Lot]) -> None:
    height, width = canvas.mask.shape
    window = canvas.window(0, width, canvas.horizon + 1, height)
    if window is None:
        return
    rng = street.rng
    z = canvas.focal * canvas.eye / (window.v - canvas.horizon)
    across = (window.u - canvas.centre) * (z / canvas.focal) - street.middle
    beside = np.abs(across) - street.half
    grain = noise(0.4, z * 25, across * 25) * np.clip(14 / z, 0.15, 1)
    patches = noise(1.2, z * 6 + rng.uniform(0, 512), across * 10 + rng.uniform(0, 512))
    ground = _Ground(window, z, across)
    _paint_verges(canvas, street, lots, ground)
    stony = np.array([[lot.kind == "paved" or (lot.kind == "built" and lot.setback < 2.5)] for lot in lots], np.float32)
    paved = (beside < street.pavement) | (ground.by_lot(lots, stony)[..., 0] > 0)
    slabs = ((z % 1.2) < 0.08) | ((np.abs(across) % 1.2) < 0.08)
    stone = jitter(rng, colour(0.29, 0.27, 0.25), 0.15, 0.04)
    texture = 1 + 0.12 * grain + 0.08 * patches - 0.25 * slabs * np.clip(1.5 - z / 14, 0, 1)
    kerb = np.where((beside < 0.22)[..., None], np.float32(1.3), np.float32(1.0))
    canvas.paint(window, paved, stone * texture[..., None] * kerb, SIDEWALK, z=z)
    asphalt = jitter(rng, colour(0.125, 0.125, 0.13), 0.15, 0.03) * (1 + 0.16 * grain + 0.12 * patches)[..., None]
    overlay(asphalt, colour(0.5, 0.5, 0.47) * (1 + 0.1 * grain)[..., None], _marks(street, z, across))
    canvas.paint(window, beside < 0, asphalt, ROAD, z=z)


def _paint_verges(canvas: Canvas, street: _Street, lots: list[_Lot], ground: _Ground) -> None:
    """Grass, dry fields and bare soil wherever nothing is paved."""
    rng, z, across = street.rng, ground.z, ground.across
    blades = noise(0.4, z * 20, across * 20)
    tufts = noise(1.2, z * 5 + rng.uniform(0, 512), across * 7)
    light = np.clip(1 + 0.3 * blades * np.clip(14 / z, 0.3, 1) + 0.25 * tufts, 0.2, 2.5)[..., None]
    grounds = np.stack([jitter(rng, _GRASS[int(rng.choice(3, p=[0.5, 0.2, 0.3]))], 0.25, 0.12) for _ in lots])
    base = ground.by_lot(lots, grounds)
    canvas.paint(ground.window, np.ones(across.shape, bool), base * light, VEGETATION, z=z)


def _marks(street: _Street, z: Array, across: Array) -> NDArray[np.bool_]:
    rng = street.rng
    dashes = (np.abs(across) < 0.09) & ((z + rng.uniform(0, 8)) % 8 < 3.5)
    edges = (np.abs(np.abs(across) - street.half + 0.35) < 0.07) & (rng.random() < 0.6)
    crossing = float(rng.uniform(7, 30)) if rng.random() < 0.25 else np.inf
    zebra = (np.abs(z - crossing) < 1.6) & (across % 1.1 < 0.55)
    marks: NDArray[np.bool_] = dashes | edges | zebra
    return marks


def _edge(street: _Street, side: int, beyond: float) -> float:
    """x of a line `beyond` metres outside the kerb on one side."""
    return street.middle + side * (street.half + beyond)


def _houses(street: _Street, lots: list[_Lot]) -> Iterator[tuple[float, _Thing]]:
    rng = street.rng
    for lot in lots:
        if lot.kind != "built" or lot.far <= lot.near + 1:
            continue
        x = _edge(street, lot.side, street.pavement + 0.3 + lot.setback)
        height = float(np.exp(rng.normal(np.log(15 - 11 * street.openness), 0.25)))
        ivy = float(rng.random()) if rng.random() < 0.3 else 0.0
        margin = float(rng.uniform(0, 1 + 5 * street.openness))
        far = max(lot.far - margin, lot.near + 0.7 * (lot.far - lot.near))
        house = Building.draw(
            rng, x=x, near=lot.near, far=far, height=max(height, 3.2),
            ivy=ivy, leaf=leaf_colour(rng, street.season), sun=street.light_at(x),
        )  # fmt: skip
        yield far, house


def _green(street: _Street, lots: list[_Lot]) -> Iterator[tuple[float, _Thing]]:
    rng = street.rng
    for side in (-1, 1):
        for _ in range(rng.poisson(5 * street.vegetation)):
            z = float(rng.uniform(6, 70))
            x = _edge(street, side, float(rng.uniform(0.5, 1.0)) * street.pavement)
            yield z, Tree.draw(rng, x, z, street.season, street.light_at(x))
    for lot in lots:
        planted = lot.kind == "green" or (lot.kind == "built" and lot.setback > 3)
        if not planted:
            continue
        x = _edge(street, lot.side, street.pavement + 0.5)
        if rng.random() < 0.25 + 0.5 * street.vegetation:
            yield lot.far, Hedge(
                x, lot.near, lot.far, float(rng.uniform(0.7, 3.3)), leaf_colour(rng, street.season),
                float(rng.uniform(0, 512)), street.light_at(x),
            )  # fmt: skip
        if lot.kind == "green":
            for _ in range(rng.poisson(0.5 + 7 * street.vegetation)):
                z = float(rng.uniform(max(lot.near, 7), max(lot.far, 9)))
                beyond = _edge(street, lot.side, street.pavement + float(rng.uniform(1.5, 16)))
                yield z, Tree.draw(rng, beyond, z, street.season, street.light_at(x))


def _furniture(street: _Street) -> Iterator[tuple[float, _Thing]]:
    rng = street.rng
    for _ in range(1 + rng.poisson(2.5)):
        z = float(rng.uniform(5.5, 40))
        x = _edge(street, int(rng.choice([-1, 1])), float(rng.uniform(0.3, 0.8)))
        yield z, Pole.draw(rng, x, z, street.light_at(x))
    for _ in range(1 + rng.poisson(1.5)):
        z = float(rng.uniform(5.5, 26))
        x = _edge(street, int(rng.choice([-1, 1])), float(rng.uniform(0.4, 1.2)))
        yield z, Sign.draw(rng, x, z, street.light_at(-x))


def _traffic(street: _Street) -> Iterator[tuple[float, _Thing]]:
    rng = street.rng
    for side in (-1, 1):
        z = float(rng.uniform(5, 12))
        while z < 80:
            if rng.random() < 0.85 * street.cars:
                x = street.middle + side * (street.half - 0.95)
                yield z, Car.draw(rng, x, z, side < 0, street.light_at(x))
            z += float(rng.uniform(5.5, 9))
    for _ in range(rng.poisson(2.5 * street.cars)):
        z = float(rng.uniform(9, 60))
        oncoming = bool(rng.random() < 0.5)
        x = street.middle + (-1 if oncoming else 1) * street.half * 0.42
        yield z, Car.draw(rng, x, z, oncoming, street.light_at(x))


def _walkers(street: _Street) -> Iterator[tuple[float, _Thing]]:
    rng = street.rng
    for _ in range(rng.poisson(11 * street.people)):
        z = float(rng.uniform(4.5, 25))
        crossing = rng.random() < 0.12
        side = int(rng.choice([-1, 1]))
        x = _edge(street, side, float(rng.uniform(0.3, 1.0)) * street.pavement)
        x = street.middle + float(rng.uniform(-1, 1)) * street.half if crossing else x
        yield z, Person.draw(rng, x, z, street.light_at(x))


def _paint_bonnet(canvas: Canvas) -> None:
    height, width = canvas.mask.shape
    window = canvas.window(0, width, height * 0.94, height)
    if window is None:
        return
    bulge = height * (0.955 + 0.1 * ((window.u - width / 2) / (width / 2)) ** 2)
    paint = colour(0.05, 0.055, 0.07) * np.clip(1.2 - 4 * (window.v / height - 0.95), 0.2, 2)[..., None]
    canvas.paint(window, window.v > bulge, paint, IGNORE)
