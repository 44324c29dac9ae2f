"""What street scenes are drawn on: a picture of linear light with its mask, under a pinhole camera above a plane.

Belongs here: projection, painting, noise textures. Does not: what is painted (`streets_objects`, `streets_render`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]
"""Numbers per pixel; float32 unless a numpy scalar makes them wider."""

_TILE = 512
_LUMA = np.array([0.3, 0.55, 0.15], np.float32)


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of the canvas; `u` (1, width) and `v` (height, 1) are its pixel centres."""

    rows: slice
    columns: slice
    u: Array
    v: Array


@dataclass(frozen=True, slots=True)
class Canvas:
    """Light (height, width, 3), linear float32, and mask (height, width), uint8, of one picture.

    World coordinates are metres: x to the right of the eye, y above the ground, z ahead.
    """

    light: Array
    mask: NDArray[np.uint8]
    focal: float
    centre: float
    horizon: float
    eye: float
    haze: Array
    visibility: float

    def column(self, x: float, z: float) -> float:
        """Where (x, ·, z) is seen, in pixels from the left."""
        return self.centre + self.focal * x / z

    def row(self, y: float, z: float) -> float:
        """Where (·, y, z) is seen, in pixels from the top."""
        return self.horizon + self.focal * (self.eye - y) / z

    def window(self, left: float, right: float, top: float, bottom: float) -> Window | None:
        """The part of the canvas between four edges in pixels; None where nothing of it is in view."""
        height, width = self.mask.shape
        first, last = max(int(left), 0), min(int(right) + 1, width)
        upper, lower = max(int(top), 0), min(int(bottom) + 1, height)
        if first >= last or upper >= lower:
            return None
        u = np.arange(first, last, dtype=np.float32)[None] + np.float32(0.5)
        v = np.arange(upper, lower, dtype=np.float32)[:, None] + np.float32(0.5)
        return Window(slice(upper, lower), slice(first, last), u, v)

    def upright(self, window: Window, x: float, z: float) -> tuple[Array, Array]:
        """Metres right of x (1, width) and above the ground (height, 1) on the plane at depth z that faces the eye."""
        return (window.u - self.column(x, z)) * (z / self.focal), self.eye - (window.v - self.horizon) * (
            z / self.focal
        )

    def along(self, window: Window, x: float) -> tuple[Array, Array]:
        """Depth (1, width) and metres above the ground (height, width) on the plane beside the street at x."""
        z = self.focal * x / (window.u - self.centre)
        return z, self.eye - (window.v - self.horizon) * (z / self.focal)

    def paint(
        self, window: Window, inside: NDArray[np.bool_], colour: Array, class_id: int, *, z: ArrayLike = 0.0
    ) -> None:
        """Set light and mask where `inside`; `colour` broadcasts to (height, width, 3), depth `z` adds haze."""
        clear = np.exp(-np.asarray(z, np.float32) / np.float32(self.visibility))
        light = self.light[window.rows, window.columns]
        for channel in range(3):
            seen = colour[..., channel] * clear + self.haze[channel] * (1 - clear)
            np.copyto(light[..., channel], seen, where=inside)
        np.copyto(self.mask[window.rows, window.columns], np.uint8(class_id), where=inside)

    def shade(self, left: float, right: float, top: float, bottom: float, factor: float) -> None:
        """Darken an ellipse, such as the shadow under a car; the mask stays."""
        window = self.window(left, right, top, bottom)
        if window is None:
            return
        across = (window.u - (left + right) / 2) / max((right - left) / 2, 1)
        down = (window.v - (top + bottom) / 2) / max((bottom - top) / 2, 1)
        cover = np.clip(1.6 * (1 - across**2 - down**2), 0, 1)[..., None]
        self.light[window.rows, window.columns] *= 1 - cover * np.float32(1 - factor)


def overlay(picture: Array, colour: Array, where: NDArray[np.bool_]) -> None:
    """Set pixels of a picture (height, width, 3) to a colour that broadcasts to it; channel by channel is fastest."""
    for channel in range(3):
        np.copyto(picture[..., channel], colour[..., channel], where=where)


@cache
def noise_tile(exponent: float) -> Array:
    """A periodic field (512, 512), mean 0 and σ 1, whose amplitude falls with frequency^exponent; the same always."""
    white = np.random.Generator(np.random.PCG64(7)).standard_normal((_TILE, _TILE))
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None]) * _TILE
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(white) / frequency**exponent, s=white.shape)
    tile: Array = (field / field.std()).astype(np.float32)
    return tile


def noise(exponent: float, rows: Array, columns: Array) -> Array:
    """The tile's values at coordinates in tile pixels, wrapped; rows and columns broadcast."""
    wrapped = rows.astype(np.int32) & (_TILE - 1), columns.astype(np.int32) & (_TILE - 1)
    values: Array = noise_tile(exponent)[wrapped]
    return values


def colour(*channels: float) -> Array:
    """A colour as an array of three."""
    return np.array(channels, np.float32)


def jitter(rng: np.random.Generator, base: Array, brightness: float, tint: float) -> Array:
    """A colour near `base`: log-normal in brightness (σ `brightness`) and per channel (σ `tint`)."""
    factors = np.exp(brightness * rng.normal() + tint * rng.normal(size=3))
    return np.clip(base * factors, 0.005, 0.9).astype(np.float32)


def faded(base: Array, amount: float) -> Array:
    """A colour moved towards grey of its own brightness by `amount` (0..1)."""
    return (base + amount * (float(base @ _LUMA) - base)).astype(np.float32)
