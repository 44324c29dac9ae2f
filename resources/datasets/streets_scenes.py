"""The laws of the built-in street scenes: which classes, which camera, which place, and how a picture draws them.

Belongs here: the parameters of `streets` and the seeding of drives and pictures. Does not: drawing (`streets_render`),
files (`streets`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

STREETS_CLASSES = ("road", "sidewalk", "building", "vegetation", "sky", "pole", "sign", "car", "person")
"""Class names of `streets`; a class's id in a rendered mask is its index here."""

FRAMES_PER_DRIVE = 10
"""Consecutive pictures that share weather, light and season."""

_DRIVE_SHARE = 0.25
"""Share of a density's variance that a whole drive has in common."""


@dataclass(frozen=True, slots=True)
class Density:
    """A share between 0 and 1 that every picture draws anew: logit-normal, `spread` its σ in logits."""

    median: float
    spread: float = 0.9

    def draw(self, drive: np.random.Generator, frame: np.random.Generator) -> float:
        """One picture's share; part of its deviation comes from the drive's generator."""
        deviation = np.sqrt(_DRIVE_SHARE) * drive.normal() + np.sqrt(1 - _DRIVE_SHARE) * frame.normal()
        logit = np.log(self.median / (1 - self.median)) + self.spread * deviation
        return float(1 / (1 + np.exp(-logit)))


@dataclass(frozen=True, slots=True)
class Place:
    """What stands along the street. Spreads are wide, so pictures of different places overlap in every share."""

    openness: Density
    """How low buildings are and how far they stand back: how much sky is seen."""
    vegetation: Density
    """Trees, hedges, verges, fields."""
    buildings: Density
    """Share of lots that are built on."""
    cars: Density
    people: Density


@dataclass(frozen=True, slots=True)
class Camera:
    """How light becomes a picture: value = offset + (exposure · gain · light)^(1/gamma) per channel, clipped to 0..1.

    `gain`, `offset` and `gamma` are the colour response (red, green, blue). `blur` is the optics' Gaussian σ in
    pixels, `noise` the sensor's relative σ at unit light. `field_of_view` is horizontal, in degrees; `horizon` is
    the height of the horizon as a share of the picture's height, from the top.
    """

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gamma: tuple[float, float, float] = (2.2, 2.2, 2.2)
    exposure: float = 1.0
    blur: float = 0.6
    noise: float = 0.012
    field_of_view: float = 80.0
    horizon: float = 0.46


@dataclass(frozen=True, slots=True)
class Scene:
    """A law of pictures: a place seen by a camera."""

    place: Place
    camera: Camera
    width: int = 256
    height: int = 160


_CITY = Scene(
    place=Place(
        openness=Density(0.28, 1.1),
        vegetation=Density(0.2, 1.6),
        buildings=Density(0.86, 1.6),
        cars=Density(0.45),
        people=Density(0.45),
    ),
    camera=Camera(),
)
_OTHER_CAMERA = Camera(gain=(1.25, 0.9, 0.55), offset=(0.02, 0.0, 0.03), exposure=0.6)
_COUNTRYSIDE = Place(
    openness=Density(0.62, 1.1),
    vegetation=Density(0.84, 1.6),
    buildings=Density(0.18, 1.6),
    cars=Density(0.3),
    people=Density(0.3),
)

SCENES: dict[str, Scene] = {
    "city": _CITY,
    "same_city": _CITY,
    "other_camera": replace(_CITY, camera=_OTHER_CAMERA),
    "countryside": replace(_CITY, place=_COUNTRYSIDE),
}
"""`same_city` is the control (city's very law, other pictures); `other_camera` changes colour response and exposure
alone; `countryside` changes the place alone."""


def generator(*key: str | int) -> np.random.Generator:
    """A random generator that depends on the key alone."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def frame_name(index: int) -> str:
    """Stem of picture `index`: its drive and its number, e.g. `drive03_00034`."""
    return f"drive{index // FRAMES_PER_DRIVE:02d}_{index:05d}"
