"""A street picture from its number: what stands where, then ground, sky and things from far to near, then the camera.

Belongs here: composition of a scene and the camera's response. Does not: looks of single things (`streets_objects`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from resources.datasets.base import IGNORE
from resources.datasets.streets_canvas import Array, Canvas, colour, faded, jitter, noise
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

GENERATOR = 1
"""Version of the rendered pictures; goes up with every change that alters a byte of them."""

_FAR = 130.0
_NEAR = 4.0
_GRASS = (colour(0.08, 0.14, 0.04), colour(0.2, 0.18, 0.08), colour(0.16, 0.13, 0.1))


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
        densities = [
            density.draw(drive, rng)
            for density in (place.openness, place.vegetation, place.buildings, place.cars, place.people)
        ]
        overcast = float(np.clip(drive.beta(1.2, 1.2) + 0.08 * rng.normal(), 0, 1))
        level = float(np.exp(0.08 * drive.normal() + 0.05 * rng.normal()))
        season = float(np.clip(drive.beta(1.2, 2.0) + 0.1 * rng.normal(), 0, 1))
        half = float(drive.uniform(3.2, 5.0))
        contrast = 0.35 * (1 - overcast) * float(rng.choice([-1, 1]))
        return cls(
            rng, *densities, overcast, level, season,
            middle=-float(rng.uniform(0.2, 0.55)) * half, half=half,
            pavement=float(rng.uniform(1.5, 4.0)) * (1 - 0.6 * densities[1]),
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
        padded = np.pad(light, [(radius, radius) if axis == side else (0, 0) for side in range(3)], mode="edge")
        length = light.shape[axis]
        parts = (np.float32(tap) * padded.take(range(i, i + length), axis) for i, tap in enumerate(taps))
        light = np.sum(list(parts), axis=0, dtype=np.float32)
    return light


def _canvas(scene: Scene, street: _Street) -> Canvas:
    rng = street.rng
    shape = (scene.height, scene.width)
    grey = faded(colour(0.55, 0.63, 0.72), street.overcast)
    return Canvas(
        light=np.zeros((*shape, 3), np.float32), mask=np.full(shape, SKY, np.uint8),
        focal=scene.width / 2 / np.tan(np.radians(scene.camera.field_of_view / 2)),
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
        green = street.buildings + (1 - street.buildings) * (0.35 + 0.65 * street.vegetation)
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
    everywhere = np.ones(across.shape, bool)
    _paint_verges(canvas, street, lots)
    paved = (beside < street.pavement) | _paved_lots(z, across, lots)
    slabs = ((z % 1.2) < 0.08) | ((np.abs(across) % 1.2) < 0.08)  # noqa: PLR2004
    stone = jitter(rng, colour(0.29, 0.27, 0.25), 0.15, 0.04)
    texture = 1 + 0.12 * grain + 0.08 * patches - 0.25 * slabs * np.clip(1.5 - z / 14, 0, 1)
    kerb = np.where((beside < 0.22)[..., None], np.float32(1.3), np.float32(1.0))  # noqa: PLR2004
    canvas.paint(window, everywhere & paved, stone * texture[..., None] * kerb, SIDEWALK, z)
    asphalt = jitter(rng, colour(0.125, 0.125, 0.13), 0.15, 0.03) * (1 + 0.16 * grain + 0.12 * patches)[..., None]
    asphalt = np.where(
        _marks(street, z, across)[..., None], colour(0.5, 0.5, 0.47) * (1 + 0.1 * grain)[..., None], asphalt
    )
    canvas.paint(window, beside < 0, asphalt, ROAD, z)


def _paved_lots(z: Array, across: Array, lots: list[_Lot]) -> NDArray[np.bool_]:
    paved = np.zeros(across.shape, bool)
    for lot in lots:
        if lot.kind == "paved" or (lot.kind == "built" and lot.setback < 2.5):  # noqa: PLR2004
            paved |= (z >= lot.near) & (z < lot.far) & (across * lot.side > 0)
    return paved


def _paint_verges(canvas: Canvas, street: _Street, lots: list[_Lot]) -> None:
    """Grass, dry fields and bare soil where nothing is paved."""
    height, width = canvas.mask.shape
    window = canvas.window(0, width, canvas.horizon + 1, height)
    if window is None:
        return
    rng = street.rng
    z = canvas.focal * canvas.eye / (window.v - canvas.horizon)
    across = (window.u - canvas.centre) * (z / canvas.focal) - street.middle
    blades = noise(0.4, z * 20, across * 20)
    tufts = noise(1.2, z * 5 + rng.uniform(0, 512), across * 7)
    light = np.clip(1 + 0.3 * blades * np.clip(14 / z, 0.3, 1) + 0.25 * tufts, 0.2, 2.5)[..., None]
    base = np.empty((*across.shape, 3), np.float32)
    base[:] = jitter(rng, _GRASS[0], 0.2, 0.1)
    for lot in lots:
        kind = _GRASS[int(rng.choice(3, p=[0.5, 0.25, 0.25]))]
        where = (z >= lot.near) & (z < lot.far) & (across * lot.side > 0)
        np.copyto(base, jitter(rng, kind, 0.25, 0.12), where=where[..., None])
    canvas.paint(window, np.ones(across.shape, bool), base * light, VEGETATION, z)


def _marks(street: _Street, z: Array, across: Array) -> NDArray[np.bool_]:
    rng = street.rng
    dashes = (np.abs(across) < 0.09) & ((z + rng.uniform(0, 8)) % 8 < 3.5)  # noqa: PLR2004
    edges = (np.abs(np.abs(across) - street.half + 0.35) < 0.07) & (rng.random() < 0.6)  # noqa: PLR2004
    crossing = float(rng.uniform(7, 30)) if rng.random() < 0.25 else np.inf  # noqa: PLR2004
    zebra = (np.abs(z - crossing) < 1.6) & (across % 1.1 < 0.55)  # noqa: PLR2004
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
        ivy = float(rng.random()) if rng.random() < 0.2 + 0.3 * street.vegetation else 0.0
        margin = float(rng.uniform(0, 1 + 5 * street.openness))
        far = max(lot.far - margin, lot.near + 0.7 * (lot.far - lot.near))
        yield far, Building.draw(rng, x, lot.near, far, max(height, 3.2), ivy, street.light_at(x))


def _green(street: _Street, lots: list[_Lot]) -> Iterator[tuple[float, _Thing]]:
    rng = street.rng
    for side in (-1, 1):
        for _ in range(rng.poisson(5 * street.vegetation)):
            z = float(rng.uniform(6, 70))
            x = _edge(street, side, float(rng.uniform(0.5, 1.0)) * street.pavement)
            yield z, Tree.draw(rng, x, z, street.season, street.light_at(x))
    for lot in lots:
        planted = lot.kind == "green" or (lot.kind == "built" and lot.setback > 3)  # noqa: PLR2004
        if not planted:
            continue
        x = _edge(street, lot.side, street.pavement + 0.5)
        if rng.random() < 0.25 + 0.5 * street.vegetation:
            yield lot.far, Hedge(
                x, lot.near, lot.far, float(rng.uniform(0.7, 2.2)), leaf_colour(rng, street.season),
                float(rng.uniform(0, 512)), street.light_at(x),
            )  # fmt: skip
        if lot.kind == "green":
            for _ in range(rng.poisson(0.5 + 4 * street.vegetation)):
                z = float(rng.uniform(max(lot.near, 7), max(lot.far, 9)))
                beyond = _edge(street, lot.side, street.pavement + float(rng.uniform(1.5, 16)))
                yield z, Tree.draw(rng, beyond, z, street.season, street.light_at(x))


def _furniture(street: _Street) -> Iterator[tuple[float, _Thing]]:
    rng = street.rng
    for _ in range(2 + rng.poisson(2.5)):
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
        while z < 80:  # noqa: PLR2004
            if rng.random() < 0.7 * street.cars:
                x = street.middle + side * (street.half - 0.95)
                yield z, Car.draw(rng, x, z, side < 0, street.light_at(x))
            z += float(rng.uniform(5.5, 9))
    for _ in range(rng.poisson(2.5 * street.cars)):
        z = float(rng.uniform(9, 60))
        oncoming = bool(rng.random() < 0.5)  # noqa: PLR2004
        x = street.middle + (-1 if oncoming else 1) * street.half * 0.42
        yield z, Car.draw(rng, x, z, oncoming, street.light_at(x))


def _walkers(street: _Street) -> Iterator[tuple[float, _Thing]]:
    rng = street.rng
    for _ in range(rng.poisson(10 * street.people)):
        z = float(rng.uniform(4.5, 32))
        crossing = rng.random() < 0.12  # noqa: PLR2004
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
