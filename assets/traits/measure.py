"""Measuring: all traits of a kind in one go.

Belongs here: putting the families of traits together, and the user's functions with their failures.
Does not: the traits themselves (colour.py, texture.py, layout.py), decoding, resizing, tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from assets.traits.layout import measure_layout
from assets.traits.registry import UserTrait, picture_traits

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PICTURE_TRAITS", "measure_layout", "measure_pictures", "measure_shape", "measure_user"]

PICTURE_TRAITS = tuple(trait.name for trait in picture_traits())
"""Names of the picture traits in the order of their columns."""

_PICTURES_AT_ONCE = 2


def measure_pictures(batch: Tensor, names: Sequence[str] = PICTURE_TRAITS) -> dict[str, NDArray[np.float64]]:
    """Picture traits of a batch (B ≥ 1, 3, h, w), float in 0..1, on any device: by name, each of shape (B,).

    The batch is the picture as the model sees it, before mean and deviation are taken out. Finite for pictures of at
    least 32×32 pixels; see `colour_traits` and `texture_traits` for definitions and smaller ones.
    """
    import torch

    # On a processor, two pictures at a time need less memory than a whole batch, and take no longer.
    parts = torch.split(batch, _PICTURES_AT_ONCE) if batch.device.type == "cpu" else (batch,)
    with torch.no_grad():
        table = torch.cat([_measure(part.float(), names) for part in parts], dim=1).cpu().numpy().astype(np.float64)
    return dict(zip(names, table, strict=True))


def _measure(batch: Tensor, names: Sequence[str]) -> Tensor:
    """Picture traits of a batch in the order of their names, (names, B)."""
    import torch

    from assets.traits.colour import colour_traits, luma
    from assets.traits.texture import texture_traits

    grey = luma(batch)
    values = colour_traits(batch, grey, names) | texture_traits(batch, grey, names)
    return torch.stack([values[name] for name in names])


def measure_shape(height: int, width: int) -> dict[str, float]:
    """Shape traits of a picture's original size in pixels: width over height, and millions of pixels."""
    return {"aspect_ratio": width / height, "megapixels": height * width / 1e6}


def measure_user(
    user_traits: Iterable[UserTrait], image: NDArray[np.uint8], mask: NDArray[np.uint8] | None
) -> tuple[dict[str, float], dict[str, str]]:
    """The user's traits of one sample of the original size, and why each one that failed did.

    Returns values by name (NaN where the function raised or returned no finite number) and reasons by name, of the
    failed ones alone. The functions get read-only views, so that none can change what the next one sees.
    """
    image, mask = _read_only(image), None if mask is None else _read_only(mask)
    values: dict[str, float] = {}
    failures: dict[str, str] = {}
    for added in user_traits:
        name = added.trait.name
        try:
            value = float(added.function(image, mask))
        except Exception as error:  # a user's function may fail in any way; the sample's other traits stand
            value, failures[name] = math.nan, f"{type(error).__name__}: {error}"
        if not math.isfinite(value):
            failures.setdefault(name, f"returned {value}, expected a finite number")
            value = math.nan
        values[name] = value
    return values, failures


def _read_only(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    view = array.view()
    view.setflags(write=False)
    return view
