"""Colour, exposure, contrast and saturation of pictures as the model sees them.

Belongs here: traits of pixel values regardless of where the pixels are, and the channel histogram.
Does not: traits of neighbourhoods (texture.py), decoding, resizing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Rec. 601 weights of red, green and blue."""

DARK = 5 / 255
BRIGHT = 250 / 255
PIXELS_AT_ONCE = 1 << 14
"""Of a picture on a processor: what is between them and their Lab stays in its cache."""
_BINS = 256
_SMALLEST = 1 / 255

# Linear sRGB to XYZ under D65 (IEC 61966-2-1), and the white point that CIE Lab is relative to (2° observer).
_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)
_SRGB_KNEE = 0.04045
_LAB_KNEE = 0.008856


def luma(batch: Tensor) -> Tensor:
    """Rec. 601 luma: (B, 3, h, w) in 0..1 to (B, h, w) in 0..1."""
    red, green, blue = LUMA_WEIGHTS
    return red * batch[:, 0] + green * batch[:, 1] + blue * batch[:, 2]


def lab(batch: Tensor) -> Tensor:
    """CIE 1976 L*a*b* (D65, 2°) of sRGB pictures: (B, 3, h, w), L in 0..100, a and b in about -110..110.

    Values outside 0..1 are clipped first. Powers are taken by log and exp: half of the time of torch.pow.
    """
    import torch

    matrix = torch.tensor(_XYZ_FROM_RGB, device=batch.device) / torch.tensor(_WHITE, device=batch.device)[:, None]
    found = torch.empty(batch.shape, device=batch.device).flatten(2)
    size = PIXELS_AT_ONCE if batch.device.type == "cpu" else max(1, found.shape[2])
    for part, into in zip(torch.split(batch.float().flatten(2), size, 2), torch.split(found, size, 2), strict=True):
        clipped = part.clamp(0, 1)
        curved = clipped.add(0.055).div_(1.055).log_().mul_(2.4).exp_()
        xyz = matrix @ torch.where(clipped > _SRGB_KNEE, curved, clipped.div_(12.92))
        roots = xyz.clamp(min=_LAB_KNEE).log_().div_(3).exp_()
        x, y, z = torch.where(xyz > _LAB_KNEE, roots, xyz.mul(7.787).add_(16 / 116)).unbind(1)
        torch.sub(y.mul(116), 16, out=into[:, 0])
        torch.mul(x - y, 500, out=into[:, 1])
        torch.mul(y - z, 200, out=into[:, 2])
    return found.reshape(batch.shape)


def colour_traits(
    batch: Tensor, grey: Tensor | None = None, wanted: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Traits of pixel values, each of shape (B,), finite for every picture of at least one pixel.

    `batch` is float (B, 3, h, w) in 0..1; `grey` its `luma`, where the caller has it already. Deviations are population
    deviations (ddof 0), so that `channel_histogram` reproduces them.

    - `mean_*`, `std_*`: per channel, 0..1.
    - `brightness`, `contrast`: mean and deviation of luma, 0..1.
    - `gamma_estimate`: mean of ln(luma) over ln(0.5), luma clipped to 1/255..254/255. 1 is mid-grey, 2 is as dark as
      mid-grey squared; raising a grey picture to the power g multiplies it by exactly g. About 0.006..8.
    - `luma_p05`, `luma_p95`: nearest-rank percentiles of luma, 0..1.
    - `clipped_dark`, `clipped_bright`: share of pixels with luma at most 5/255, at least 250/255.
    - `saturation`: mean chroma of HSV, that is largest minus smallest channel, 0..1. (HSV's own saturation divides by
      the largest channel, and is noise where a picture is dark.)
    - `lab_*`: mean and deviation in CIE L*a*b*; `colour_cast`: hypot(mean a, mean b), the distance from neutral.

    Those that share no work with a `wanted` one are left out; None wants all.
    """
    batch = batch.float()
    grey = luma(batch) if grey is None else grey
    values: dict[str, Tensor] = {}
    for names, part in _PARTS:
        if wanted is None or not names.isdisjoint(wanted):
            values.update(part(batch, grey))
    return values


def channel_histogram(batch: Tensor) -> Tensor:
    """Pixels per 8-bit value and channel: int32 (B, 3, 256) of round(255·x), clipped to 0..255.

    The sufficient statistic of channel means, channel deviations and histogram matching: histograms add up over
    pictures, so that no fit has to decode pictures again. Exact for 8-bit pictures.
    """
    import torch

    levels = (batch.float() * 255).round_().clamp_(0, 255).to(torch.uint8).flatten(2).flatten(0, 1)
    counts = torch.stack([torch.bincount(plane, minlength=_BINS) for plane in levels])
    return counts.reshape(*batch.shape[:2], _BINS).to(torch.int32)


def smallest(flat: Tensor, rank: int) -> Tensor:
    """The value of a rank (1: the smallest) in each row of (B, n), (B,)."""
    import numpy as np
    import torch

    if flat.device.type != "cpu":
        return flat.kthvalue(rank, dim=1).values
    # numpy's selection is several times as fast on a processor
    return torch.from_numpy(np.partition(flat.detach().numpy(), rank - 1, axis=1)[:, rank - 1].copy())


def _channels(batch: Tensor, _grey: Tensor) -> dict[str, Tensor]:
    return _moments(batch, ("mean_red", "mean_green", "mean_blue"), ("std_red", "std_green", "std_blue"))


def _greys(_batch: Tensor, grey: Tensor) -> dict[str, Tensor]:
    return _moments(grey[:, None], ("brightness",), ("contrast",))


def _midtones(_batch: Tensor, grey: Tensor) -> dict[str, Tensor]:
    return {"gamma_estimate": grey.clamp(_SMALLEST, 1 - _SMALLEST).log().mean(dim=(1, 2)) / math.log(0.5)}


def _ends(_batch: Tensor, grey: Tensor) -> dict[str, Tensor]:
    """Nearest-rank percentiles, and what is clipped."""
    flat = grey.flatten(1)
    low, high = (smallest(flat, max(1, math.ceil(share * flat.shape[1]))) for share in (0.05, 0.95))
    dark, bright = (far.float().mean(dim=(1, 2)) for far in (grey <= DARK, grey >= BRIGHT))
    return {"luma_p05": low, "luma_p95": high, "clipped_dark": dark, "clipped_bright": bright}


def _chroma(batch: Tensor, _grey: Tensor) -> dict[str, Tensor]:
    return {"saturation": (batch.amax(dim=1) - batch.amin(dim=1)).mean(dim=(1, 2))}


def _lab(batch: Tensor, _grey: Tensor) -> dict[str, Tensor]:
    import torch

    means, deviations = ("lab_l_mean", "lab_a_mean", "lab_b_mean"), ("lab_l_std", "lab_a_std", "lab_b_std")
    values = _moments(lab(batch), means, deviations)
    return values | {"colour_cast": torch.hypot(values["lab_a_mean"], values["lab_b_mean"])}


def _moments(planes: Tensor, means: tuple[str, ...], deviations: tuple[str, ...]) -> dict[str, Tensor]:
    """Mean and population deviation of each channel of (B, C, h, w) under the names given."""
    mean = planes.mean(dim=(2, 3), keepdim=True)
    deviation = (planes - mean).square_().mean(dim=(2, 3)).sqrt()
    values = dict(zip(means, mean.flatten(1).unbind(1), strict=True))
    return values | dict(zip(deviations, deviation.unbind(1), strict=True))


_PARTS: tuple[tuple[frozenset[str], Callable[[Tensor, Tensor], dict[str, Tensor]]], ...] = (
    (frozenset({"mean_red", "mean_green", "mean_blue", "std_red", "std_green", "std_blue"}), _channels),
    (frozenset({"brightness", "contrast"}), _greys),
    (frozenset({"gamma_estimate"}), _midtones),
    (frozenset({"luma_p05", "luma_p95", "clipped_dark", "clipped_bright"}), _ends),
    (frozenset({"saturation"}), _chroma),
    (frozenset({f"lab_{channel}_{what}" for channel in "lab" for what in ("mean", "std")} | {"colour_cast"}), _lab),
)
"""Traits that are computed together, and how."""
