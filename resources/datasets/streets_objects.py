"""What stands in a street: buildings, trees, hedges, poles, signs, cars, people; each is drawn and given its class.

Belongs here: one small dataclass per kind of thing, with a random draw of its looks and how it is painted.
Does not: where things stand (`streets_render`).
"""

# ruff: noqa: PLR2004  shapes are drawn by their measures, in metres or shares of the thing

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resources.datasets.streets_canvas import Array, Canvas, Window, colour, faded, jitter, noise, overlay
from resources.datasets.streets_scenes import STREETS_CLASSES

ROAD, SIDEWALK, BUILDING, VEGETATION, SKY, POLE, SIGN, CAR, PERSON = range(len(STREETS_CLASSES))

_WALLS = (
    colour(0.34, 0.13, 0.08),  # brick
    colour(0.52, 0.42, 0.26),  # ochre plaster
    colour(0.55, 0.52, 0.45),  # cream
    colour(0.3, 0.3, 0.3),  # concrete
    colour(0.2, 0.21, 0.24),  # slate
    colour(0.45, 0.27, 0.2),  # terracotta
    colour(0.28, 0.34, 0.4),  # pale blue
    colour(0.24, 0.3, 0.2),  # green plaster
)
_DEPTH = 9.0
"""How far buildings reach back from the street, metres."""

_LEAVES = (
    colour(0.06, 0.14, 0.03),  # leaf green
    colour(0.11, 0.17, 0.04),  # yellow green
    colour(0.035, 0.08, 0.035),  # conifer
    colour(0.2, 0.13, 0.04),  # autumn
    colour(0.14, 0.1, 0.06),  # bare twigs
)
_CLOTHES = (
    colour(0.03, 0.03, 0.04),
    colour(0.05, 0.07, 0.2),
    colour(0.35, 0.05, 0.05),
    colour(0.4, 0.38, 0.34),
    colour(0.1, 0.2, 0.12),
    colour(0.5, 0.35, 0.08),
)
_PAINTS = (
    colour(0.55, 0.55, 0.55),
    colour(0.02, 0.02, 0.025),
    colour(0.2, 0.2, 0.21),
    colour(0.4, 0.03, 0.03),
    colour(0.04, 0.08, 0.3),
    colour(0.3, 0.3, 0.28),
    colour(0.06, 0.16, 0.1),
)
_METAL = (colour(0.16, 0.17, 0.18), colour(0.05, 0.06, 0.06), colour(0.25, 0.25, 0.25), colour(0.15, 0.1, 0.06))
_RED, _WHITE, _BLUE, _YELLOW = (
    colour(0.5, 0.03, 0.03), colour(0.75, 0.75, 0.75), colour(0.03, 0.1, 0.45), colour(0.7, 0.5, 0.03),
)  # fmt: skip
_SKIN = (colour(0.5, 0.3, 0.2), colour(0.3, 0.16, 0.09), colour(0.12, 0.06, 0.035))


def _choice(rng: np.random.Generator, items: tuple[Array, ...]) -> Array:
    return items[int(rng.integers(len(items)))]


def _side(x: float) -> float:
    return -1.0 if x < 0 else 1.0


def leaf_colour(rng: np.random.Generator, season: float) -> Array:
    """A foliage colour; `season` (0 spring .. 1 late autumn) favours brown and bare ones."""
    brown = rng.random() < season
    return jitter(rng, _choice(rng, _LEAVES[3:] if brown else _LEAVES[:3]), 0.3, 0.15)


def _foliage(leaf: Array, along: Array, y: Array, phase: float) -> Array:
    """Colour (height, width, 3) of leaves on an upright face: of a hedge as of creepers on a house."""
    clumps = noise(1.2, y * 10 + phase, along * 10 + phase)
    leaves = noise(0.4, y * 20, along * 20 + phase)
    light: Array = np.clip(0.8 + 0.25 * clumps + 0.35 * leaves, 0.12, 2.5)
    return leaf * light[..., None]


@dataclass(frozen=True, slots=True)
class Building:
    """A house along the street at x (its front), from depth `near` to `far`, `height` metres to the eaves."""

    x: float
    near: float
    far: float
    height: float
    roof: float
    wall: Array
    trim: Array
    tiles: Array
    window: tuple[float, float, float, float]
    floor: float
    shop: bool
    ivy: float
    leaf: Array
    phase: float
    sun: tuple[float, float]

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        *,
        x: float,
        near: float,
        far: float,
        height: float,
        ivy: float,
        leaf: Array,
        sun: float,
    ) -> Building:
        """A building with random looks; `ivy` is how overgrown it is (0..1) by `leaf`, `sun` lights its front."""
        low = height < 10  # a house with a pitched roof, not a block
        return cls(
            x=x, near=near, far=far, height=height,
            roof=float(rng.uniform(2.5, 5.0)) if low and rng.random() < 0.85 else 0.0,
            wall=jitter(rng, _choice(rng, _WALLS), 0.25, 0.08),
            trim=jitter(rng, colour(0.5, 0.48, 0.45), 0.4, 0.05),
            tiles=jitter(rng, colour(0.22, 0.1, 0.07) if rng.random() < 0.6 else colour(0.1, 0.1, 0.11), 0.3, 0.1),
            window=(float(rng.uniform(1.8, 3.6)), float(rng.uniform(0.35, 0.7)), float(rng.uniform(0.4, 0.65)),
                    float(rng.uniform(0.04, 0.12))),
            floor=float(rng.uniform(2.7, 3.6)),
            shop=not low and bool(rng.random() < 0.5),
            ivy=ivy, leaf=leaf, phase=float(rng.uniform(0, 400)), sun=(sun, float(rng.uniform(0.55, 0.9))),
        )  # fmt: skip

    def paint(self, canvas: Canvas) -> None:
        """Paint the end wall that faces the eye, the roof, then the front."""
        self._paint_end(canvas)
        if self.roof:
            self._paint_roof(canvas)
        left, right = sorted((canvas.column(self.x, self.near), canvas.column(self.x, self.far)))
        window = canvas.window(left, right, canvas.row(self.height, self.near), canvas.row(0, self.near))
        if window is not None:
            z, y = canvas.along(window, self.x)
            inside = (y >= 0) & (y <= self.height) & (z >= self.near) & (z <= self.far)
            canvas.paint(window, inside, self._wall(z, y) * self.sun[0], BUILDING, z=z)

    def _paint_end(self, canvas: Canvas) -> None:
        back = self.x + _side(self.x) * _DEPTH
        left, right = sorted((canvas.column(self.x, self.near), canvas.column(back, self.near)))
        window = canvas.window(left, right, canvas.row(self.height + self.roof, self.near), canvas.row(0, self.near))
        if window is None:
            return
        across, y = canvas.upright(window, self.x, self.near)
        across = np.abs(across)
        gable = self.height + self.roof * (1 - np.abs(2 * across / _DEPTH - 1))
        inside = (y >= 0) & (y <= gable) & (across <= _DEPTH)
        canvas.paint(window, inside, self._wall(across, y) * self.sun[1], BUILDING, z=self.near)

    def _paint_roof(self, canvas: Canvas) -> None:
        """The slope from the eaves up to the ridge, where the eye is above its plane."""
        side, slope = _side(self.x), self.roof / (_DEPTH / 2)
        above = canvas.eye - self.height + slope * abs(self.x)
        ridge = self.x + side * _DEPTH / 2
        edges = [canvas.column(x, z) for x in (self.x, ridge) for z in (self.near, self.far)]
        top = min(canvas.row(self.height + self.roof, z) for z in (self.near, self.far))
        bottom = max(canvas.row(self.height, z) for z in (self.near, self.far))
        window = canvas.window(min(edges), max(edges), top, bottom)
        if window is None or above <= 0:
            return
        fall = (window.v - canvas.horizon) + slope * side * (window.u - canvas.centre)
        z = canvas.focal * above / np.maximum(fall, np.float32(1e-3))
        out = side * (window.u - canvas.centre) * (z / canvas.focal) - abs(self.x)
        inside = (z >= self.near) & (z <= self.far) & (out >= 0) & (out <= _DEPTH / 2)
        rows = 1 + 0.22 * np.sin(out * 14) + 0.12 * noise(0.7, out * 9, z * 9 + self.phase)
        canvas.paint(window, inside, self.tiles * rows[..., None] * self.sun[0], BUILDING, z=z)

    def _wall(self, along: Array, y: Array) -> Array:
        """Colour (height, width, 3) of a wall at metres along it and above the ground: plaster, windows, creepers."""
        period, width, height, frame = self.window
        texture = noise(0.7, y * 9 + self.phase, along * 9 + self.phase)
        painted: Array = self.wall * (1 + 0.13 * texture + 0.05 * np.sin(y * 2.1))[..., None]
        across = np.abs((along / period + self.phase) % 1 - 0.5)
        storeys = y / self.floor
        up = np.abs(storeys % 1 - 0.55)
        opening = (y < self.height - 0.4) & ((y > self.floor) | (not self.shop))
        casing = opening & (across < width / 2 + frame) & (up < height / 2 + frame)
        pane = opening & (across < width / 2) & (up < height / 2)
        if self.shop:
            pane |= (y < self.floor - 0.5) & (y > 0.5) & (across < 0.42)
        lit = noise(0.0, storeys + self.phase, along / period + 3 * self.phase)
        glass = colour(0.07, 0.09, 0.12) * np.exp(0.5 * lit + 0.35 * texture)[..., None]
        overlay(painted, self.trim, casing)
        overlay(painted, np.clip(glass, 0, 0.6), pane)
        if self.ivy:
            creeper = noise(1.2, y * 7 + 2 * self.phase, along * 7) > 2.2 - 3.4 * self.ivy + 0.12 * y
            overlay(painted, _foliage(self.leaf, along, y, self.phase), creeper & (~pane | (self.ivy > 0.75)))
        return painted


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree at (x, z): a trunk under a ragged crown through which what is behind it shows."""

    x: float
    z: float
    trunk: float
    radius: float
    reach: float
    taper: float
    cover: float
    ragged: float
    leaf: Array
    phase: tuple[float, float]
    sun: float

    @classmethod
    def draw(cls, rng: np.random.Generator, x: float, z: float, season: float, sun: float) -> Tree:
        """A tree with random looks; `season` thins its crown."""
        size = float(np.exp(0.3 * rng.normal()))
        return cls(
            x=x, z=z, trunk=2.2 * size, radius=float(rng.uniform(1.3, 2.6)) * size,
            reach=float(rng.uniform(1.5, 3.2)) * size, taper=float(rng.random() < 0.25),
            cover=float(np.clip(rng.normal(1.6 - 1.6 * season, 0.5), -0.1, 2.5)), ragged=float(rng.uniform(0.15, 0.4)),
            leaf=leaf_colour(rng, season), phase=(float(rng.uniform(0, 512)), float(rng.uniform(0, 512))), sun=sun,
        )  # fmt: skip

    def paint(self, canvas: Canvas) -> None:
        """Paint trunk and crown."""
        half, top = self.radius * 1.3, self.trunk + 2 * self.reach * 1.15
        window = canvas.window(
            canvas.column(self.x - half, self.z), canvas.column(self.x + half, self.z),
            canvas.row(top, self.z), canvas.row(0, self.z),
        )  # fmt: skip
        if window is None:
            return
        across, y = canvas.upright(window, self.x, self.z)
        clumps = noise(1.2, y * 14 + self.phase[0], across * 14 + self.phase[1])
        leaves = noise(0.4, y * 20 + self.phase[1], across * 20 + self.phase[0])
        stem = (np.abs(across) < 0.07 * self.trunk) & (y >= 0) & (y < self.trunk + self.reach)
        bark = colour(0.09, 0.07, 0.05) * (1 + 0.3 * leaves)[..., None] * self.sun
        canvas.paint(window, stem, bark, VEGETATION, z=self.z)
        up = (y - self.trunk - self.reach) / self.reach
        slim = 1 - self.taper * 0.45 * (1 + np.clip(up, -1, 1))
        crown = (across / (self.radius * slim)) ** 2 + up**2 + self.ragged * clumps < 1
        crown &= 0.7 * leaves + 0.7 * clumps < self.cover
        light = np.clip(0.8 + 0.35 * up + 0.3 * clumps + 0.35 * leaves, 0.12, 2.5)
        canvas.paint(window, crown, self.leaf * light[..., None] * self.sun, VEGETATION, z=self.z)


@dataclass(frozen=True, slots=True)
class Hedge:
    """A hedge along the street at x from depth `near` to `far`."""

    x: float
    near: float
    far: float
    height: float
    leaf: Array
    phase: float
    sun: float

    def paint(self, canvas: Canvas) -> None:
        """Paint its front and its near end."""
        for window, along, y, z in self._faces(canvas):
            ragged = self.height + 0.3 * noise(1.2, y * 10 + self.phase, along * 10 + self.phase)
            inside = (y >= 0) & (y < ragged) & (z >= self.near) & (z <= self.far)
            canvas.paint(window, inside, _foliage(self.leaf, along, y, self.phase) * self.sun, VEGETATION, z=z)

    def _faces(self, canvas: Canvas) -> list[tuple[Window, Array, Array, Array]]:
        top, bottom = canvas.row(self.height * 1.5, self.near), canvas.row(0, self.near)
        outer = self.x + _side(self.x) * 1.2
        faces = []
        left, right = sorted((canvas.column(self.x, self.near), canvas.column(outer, self.near)))
        end = canvas.window(left, right, top, bottom)
        if end is not None:
            along, y = canvas.upright(end, self.x, self.near)
            faces.append((end, along, y, np.full_like(along, self.near)))
        left, right = sorted((canvas.column(self.x, self.near), canvas.column(self.x, self.far)))
        front = canvas.window(left, right, top, bottom)
        if front is not None:
            z, y = canvas.along(front, self.x)
            faces.append((front, z, y, z))
        return faces


@dataclass(frozen=True, slots=True)
class Car:
    """A car whose near end is at depth z, its middle at x; seen from behind, or from the front when `oncoming`."""

    x: float
    z: float
    body: Array
    length: float
    height: float
    oncoming: bool
    sun: float

    @classmethod
    def draw(cls, rng: np.random.Generator, x: float, z: float, oncoming: bool, sun: float) -> Car:
        """A car with random looks."""
        van = rng.random() < 0.15
        return cls(
            x=x, z=z, body=jitter(rng, _choice(rng, _PAINTS), 0.25, 0.06),
            length=float(rng.uniform(3.7, 4.8)) + van, height=float(rng.uniform(1.38, 1.6)) + 0.5 * van,
            oncoming=oncoming, sun=sun,
        )  # fmt: skip

    def paint(self, canvas: Canvas) -> None:
        """Paint its shadow, the side that is in view and its near end."""
        canvas.shade(
            canvas.column(self.x - 1.2, self.z), canvas.column(self.x + 1.2, self.z),
            canvas.row(0, self.z + self.length), canvas.row(-0.12, self.z), 0.4,
        )  # fmt: skip
        side = self.x - _side(self.x) * 0.88
        if side * self.x > 0:
            self._paint_side(canvas, side)
        self._paint_end(canvas)

    def _paint_side(self, canvas: Canvas, x: float) -> None:
        left, right = sorted((canvas.column(x, self.z), canvas.column(x, self.z + self.length)))
        window = canvas.window(left, right, canvas.row(self.height, self.z), canvas.row(0, self.z))
        if window is None:
            return
        z, y = canvas.along(window, x)
        share = (z - self.z) / self.length
        cabin = np.clip(np.minimum(share / 0.16, (0.86 - share) / 0.22), 0, 1)
        top = 0.58 * self.height + 0.42 * self.height * cabin
        wheels = np.minimum(np.abs(share - 0.2), np.abs(share - 0.8)) * self.length
        tyre = wheels**2 + (y - 0.31) ** 2 < 0.31**2
        body = (y > 0.24) & (y < top)
        glass = body & (y > 0.6 * self.height) & (y < top - 0.1) & (np.abs(share - 0.45) > 0.015)
        paint = self.body * (0.75 + 0.3 * y / self.height)[..., None] * self.sun
        painted = np.where(glass[..., None], colour(0.04, 0.05, 0.06), paint)
        painted = np.where(tyre[..., None], colour(0.015, 0.015, 0.015), painted)
        inside = (body | tyre) & (share >= 0) & (share <= 1)
        canvas.paint(window, inside, painted.astype(np.float32), CAR, z=z)

    def _paint_end(self, canvas: Canvas) -> None:
        window = canvas.window(
            canvas.column(self.x - 0.95, self.z), canvas.column(self.x + 0.95, self.z),
            canvas.row(self.height, self.z), canvas.row(0, self.z),
        )  # fmt: skip
        if window is None:
            return
        across, y = canvas.upright(window, self.x, self.z)
        across = np.abs(across)
        share = y / self.height
        half = 0.9 - 0.28 * np.clip((share - 0.58) / 0.42, 0, 1) ** 1.5
        tyre = (y < 0.4) & (across > 0.62) & (across < 0.86)
        body = (y > 0.22) & (y < self.height) & (across < half)
        glass = (share > 0.62) & (share < 0.92) & (across < half - 0.12)
        lamps = (np.abs(share - 0.48) < 0.07) & (across > 0.58)
        plate = (np.abs(share - 0.36) < 0.045) & (across < 0.26)
        painted = np.broadcast_to(self.body * (0.7 + 0.35 * share)[..., None] * self.sun, (*body.shape, 3)).copy()
        overlay(painted, colour(0.05, 0.06, 0.075), glass)
        overlay(painted, colour(0.8, 0.78, 0.7) if self.oncoming else colour(0.4, 0.02, 0.02), lamps)
        overlay(painted, colour(0.55, 0.55, 0.5), plate)
        overlay(painted, colour(0.015, 0.015, 0.015), (tyre | (share < 0.2)))
        canvas.paint(window, body | (tyre & (y >= 0)), painted, CAR, z=self.z)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody on foot at (x, z)."""

    x: float
    z: float
    height: float
    stride: float
    shirt: Array
    trousers: Array
    skin: Array
    sun: float

    @classmethod
    def draw(cls, rng: np.random.Generator, x: float, z: float, sun: float) -> Person:
        """A person with random looks."""
        return cls(
            x=x, z=z, height=float(rng.uniform(1.55, 1.9)), stride=float(rng.uniform(0.02, 0.3)),
            shirt=jitter(rng, _choice(rng, _CLOTHES), 0.3, 0.15),
            trousers=jitter(rng, _choice(rng, _CLOTHES[:2]), 0.4, 0.1),
            skin=_choice(rng, _SKIN), sun=sun,
        )  # fmt: skip

    def paint(self, canvas: Canvas) -> None:
        """Paint legs, body, head."""
        canvas.shade(
            canvas.column(self.x - 0.4, self.z), canvas.column(self.x + 0.4, self.z),
            canvas.row(0, self.z + 0.5), canvas.row(-0.1, self.z), 0.6,
        )  # fmt: skip
        window = canvas.window(
            canvas.column(self.x - 0.45, self.z), canvas.column(self.x + 0.45, self.z),
            canvas.row(self.height, self.z), canvas.row(0, self.z),
        )  # fmt: skip
        if window is None:
            return
        across, y = canvas.upright(window, self.x, self.z)
        across, y = np.broadcast_arrays(np.abs(across), y / self.height)
        hip = np.clip(0.5 - y, 0, 1) * 2
        legs = (y >= 0) & (y < 0.52) & (np.abs(across - 0.09 - self.stride * hip) < 0.1)
        body = (y > 0.46) & (y < 0.84) & (across < 0.2 + 0.1 * np.clip((y - 0.5) / 0.3, 0, 1))
        head = (across / 0.12) ** 2 + ((y - 0.92) * self.height / 0.15) ** 2 < 1
        painted = np.where((y > 0.48)[..., None], self.shirt, self.trousers)
        painted = np.where((y > 0.84)[..., None], self.skin, painted)
        painted = np.where((y > 0.965)[..., None], colour(0.05, 0.035, 0.02), painted) * self.sun
        canvas.paint(window, legs | body | head, painted.astype(np.float32), PERSON, z=self.z)


@dataclass(frozen=True, slots=True)
class Pole:
    """A post at (x, z), `height` metres; `arm` metres of it reach over the street at the top (signed)."""

    x: float
    z: float
    height: float
    width: float
    arm: float
    metal: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, x: float, z: float, sun: float) -> Pole:
        """A lamp post or a plain post."""
        lamp = rng.random() < 0.6
        return cls(
            x=x, z=z, height=float(rng.uniform(5, 8) if lamp else rng.uniform(2.5, 5)),
            width=float(rng.uniform(0.2, 0.36)),
            arm=-_side(x) * 1.6 if lamp else 0.0, metal=jitter(rng, _choice(rng, _METAL), 0.2, 0.05) * sun,
        )  # fmt: skip

    def paint(self, canvas: Canvas) -> None:
        """Paint the post and its arm."""
        reach = abs(self.arm) + self.width
        window = canvas.window(
            canvas.column(self.x - reach, self.z), canvas.column(self.x + reach, self.z),
            canvas.row(self.height, self.z), canvas.row(0, self.z),
        )  # fmt: skip
        if window is None:
            return
        across, y = canvas.upright(window, self.x, self.z)
        width = max(self.width, 1.7 * self.z / canvas.focal)
        post = (np.abs(across) < width / 2) & (y >= 0) & (y <= self.height)
        along = across * _side(self.arm)
        arm = (along > 0) & (along < abs(self.arm)) & (y > self.height - width) & (y <= self.height)
        round_shade = 1.15 - 0.5 * across / width
        canvas.paint(window, post | arm, self.metal * np.clip(round_shade, 0.5, 1.6)[..., None], POLE, z=self.z)


@dataclass(frozen=True, slots=True)
class Sign:
    """A traffic sign at (x, z): a plate of `radius` metres, its middle `height` metres above the ground."""

    x: float
    z: float
    height: float
    radius: float
    shape: int
    face: Array
    border: Array
    sun: float

    @classmethod
    def draw(cls, rng: np.random.Generator, x: float, z: float, sun: float) -> Sign:
        """One of: ring, triangle, mandatory disc, diamond, board."""
        shape = int(rng.integers(5))
        face, border = ((_WHITE, _RED), (_WHITE, _RED), (_BLUE, _WHITE), (_YELLOW, _WHITE), (_BLUE, _WHITE))[shape]
        return cls(
            x=x, z=z, height=float(rng.uniform(2.2, 3.0)), radius=float(rng.uniform(0.42, 0.62)), shape=shape,
            face=jitter(rng, face, 0.1, 0.05), border=jitter(rng, border, 0.1, 0.05), sun=sun,
        )  # fmt: skip

    def paint(self, canvas: Canvas) -> None:
        """Paint the post, then the plate."""
        Pole(self.x, self.z, self.height, 0.12, 0.0, colour(0.2, 0.2, 0.2) * self.sun).paint(canvas)
        reach = self.radius * 1.5
        window = canvas.window(
            canvas.column(self.x - reach, self.z), canvas.column(self.x + reach, self.z),
            canvas.row(self.height + reach, self.z), canvas.row(self.height - reach, self.z),
        )  # fmt: skip
        if window is None:
            return
        across, y = canvas.upright(window, self.x, self.z)
        rim = self._rim(across / self.radius, (y - self.height) / self.radius)
        painted = np.where((rim > 0.74)[..., None], self.border, self.face) * self.sun
        canvas.paint(window, rim <= 1, painted.astype(np.float32), SIGN, z=self.z)

    def _rim(self, across: Array, up: Array) -> Array:
        """How far out a point of the plate is: 0 in its middle, 1 at its edge."""
        rim: Array = np.hypot(across, up)
        if self.shape == 1:
            rim = np.maximum(np.abs(across) * 0.95 + (up + 0.45) * 0.5, -up * 1.4)
        elif self.shape == 3:
            rim = (np.abs(across) + np.abs(up)) * 0.85
        elif self.shape == 4:
            rim = np.maximum(np.abs(across) * 0.72, np.abs(up) * 1.05)
        return rim


def skyline(canvas: Canvas, rng: np.random.Generator, vegetation: float, buildings: float, leaf: Array) -> None:
    """Paint what closes the street far off: roofs and tree tops along the horizon."""
    window = canvas.window(0, canvas.mask.shape[1], canvas.horizon - 26, canvas.horizon + 3)
    if window is None:
        return
    start = np.array([[rng.uniform(0, 512)]], np.float32)
    for class_id, share, base, exponent, step in (
        (BUILDING, buildings, faded(jitter(rng, _WALLS[3], 0.2, 0.05), 0.5), 0.7, 0.12),
        (VEGETATION, vegetation, leaf, 1.2, 1.5),
    ):
        height = 5 + 5 * noise(exponent, start, np.floor(window.u * step + 40 * class_id)) + 10 * (share - 0.5)
        inside = (canvas.horizon - window.v < height) & (window.v < canvas.horizon + 2)
        texture = 1 + 0.3 * noise(0.7, window.v * 2, window.u * 2 + start)
        canvas.paint(window, inside, base * np.clip(texture, 0.2, 3)[..., None], class_id, z=150.0)
