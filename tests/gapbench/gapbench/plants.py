"""What is planted: the contract of operators on pictures and masks, and which causes no picture tells apart.

Belongs here: the contract and what both halves' operators are made with. Does not: the operators (`plants_tune.py`,
`plants_seen.py`, `plants_report.py`), which case plants what (`cases.py`), how strong a plant must be (`damage.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
"""(h, w, 3)."""
Mask = NDArray[np.uint8]
"""(h, w) class indices, 255 is ignored."""
IGNORE = 255

Change = Callable[[Picture, Mask, float, np.random.Generator], tuple[Picture, Mask]]


@dataclass(frozen=True)
class Plant:
    """One way to spoil a target.

    `cause` is the truth that an answer is compared with; `variant` tells implementations of one cause apart. The
    parameter runs from `weakest` (nothing to see) to `strongest`, both of which may be the larger number.
    """

    cause: str
    variant: str
    kind: str
    change: Change
    weakest: float
    strongest: float

    @property
    def name(self) -> str:
        """Cause and variant."""
        return f"{self.cause}/{self.variant}"

    def at(self, level: float) -> float:
        """The parameter at a level in 0..1."""
        return self.weakest + level * (self.strongest - self.weakest)

    def apply(self, sample_id: str, image: Picture, mask: Mask, parameter: float) -> tuple[Picture, Mask]:
        """The sample with the plant; what is drawn at random hangs on the sample's name alone."""
        seed = blake2b(f"{self.name}:{sample_id}".encode(), digest_size=8).digest()
        return self.change(image, mask, parameter, np.random.default_rng(int.from_bytes(seed, "big")))


def to_bytes(values: NDArray[np.float64]) -> Picture:
    """Values in 0..255, rounded and clipped."""
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def on_picture(change: Callable[[NDArray[np.float64], float, np.random.Generator], NDArray[np.float64]]) -> Change:
    """A change of pixels alone, on float values in 0..255."""

    def both(image: Picture, mask: Mask, parameter: float, rng: np.random.Generator) -> tuple[Picture, Mask]:
        return to_bytes(change(image.astype(np.float64), parameter, rng)), mask

    return both


def by_albumentations(name: str, settings: Callable[[float], dict[str, Any]]) -> Change:
    """A transform of albumentations that is always applied, its random parts drawn by the sample's generator."""

    def change(image: Picture, mask: Mask, parameter: float, rng: np.random.Generator) -> tuple[Picture, Mask]:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for its newest version
        import albumentations

        transform = getattr(albumentations, name)(**settings(parameter), p=1.0)
        seed = int(rng.integers(2**31))
        return albumentations.Compose([transform], seed=seed)(image=image)["image"], mask

    return change


def window(image: Picture, mask: Mask, rows: slice, columns: slice, *, back: bool) -> tuple[Picture, Mask]:
    """A part of the sample, at the whole sample's size where `back`."""
    part, labels = Image.fromarray(image[rows, columns]), Image.fromarray(mask[rows, columns])
    if back:
        size = (image.shape[1], image.shape[0])
        part, labels = part.resize(size, Image.Resampling.BILINEAR), labels.resize(size, Image.Resampling.NEAREST)
    return np.array(part), np.array(labels)


def middle(length: int, share: float) -> slice:
    """The middle part of an axis."""
    kept = max(16, round(length * share))
    start = (length - kept) // 2
    return slice(start, start + kept)


def label_plants(
    class_names: Sequence[str], merged: Sequence[tuple[str, str]], void: str, widen: Callable[[Mask, float], Mask]
) -> list[Plant]:
    """Other rules of labelling: a class merged into another in a share of the pictures, and wider void.

    `void` names the variant that widens.
    """
    found = []
    for one, other in merged:
        if {one, other} <= set(class_names):
            change = _merged(class_names.index(one), class_names.index(other))
            found.append(Plant("label_policy", f"{one}_as_{other}", "label", change, 0.0, 1.0))

    def wider(image: Picture, mask: Mask, reach: float, _rng: np.random.Generator) -> tuple[Picture, Mask]:
        return image, widen(mask, reach)

    return [*found, Plant("label_policy", void, "label", wider, 0.0, 6.0)]


def _merged(one: int, other: int) -> Change:
    def change(image: Picture, mask: Mask, share: float, rng: np.random.Generator) -> tuple[Picture, Mask]:
        return image, np.where((mask == one) & (rng.random() < share), other, mask).astype(np.uint8)

    return change


EQUIVALENT = (
    frozenset({"blur", "low_resolution"}),
    frozenset({"colour_cast", "white_balance"}),
)
"""Causes that no picture tells apart: naming the class is naming the cause."""


def same_cause(one: str, other: str) -> bool:
    """Whether two causes are the same or of one equivalence class."""
    return one == other or any({one, other} <= group for group in EQUIVALENT)
