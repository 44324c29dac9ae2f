"""Colour, exposure, contrast and saturation of pictures as the model sees them.

Belongs here: traits of pixel values regardless of where the pixels are, and the channel histogram.
Does not: traits of neighbourhoods (texture.py), decoding, resizing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Rec. 601 weights of red, green and blue."""

DARK = 5 / 255
BRIGHT = 250 / 255
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

    clipped = batch.float().clamp(0, 1)
    curved = clipped.add(0.055).div_(1.055).log_().mul_(2.4).exp_()
    linear = torch.lerp(clipped / 12.92, curved, (clipped > _SRGB_KNEE).float())
    matrix = torch.tensor(_XYZ_FROM_RGB, device=batch.device) / torch.tensor(_WHITE, device=batch.device)[:, None]
    xyz = (matrix @ linear.flatten(2)).reshape(batch.shape)
    roots = xyz.clamp(min=_LAB_KNEE).log_().div_(3).exp_()
    x, y, z = torch.lerp(xyz.mul(7.787).add_(16 / 116), roots, (xyz > _LAB_KNEE).float()).unbind(1)
    return torch.stack((y.mul(116).sub_(16), (x - y).mul_(500), (y - z).mul_(200)), dim=1)


def colour_traits(batch: Tensor, grey: Tensor | None = None) -> dict[str, Tensor]:
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
    """
    import torch

    batch = batch.float()
    grey = luma(batch) if grey is None else grey
    values: dict[str, Tensor] = {}
    _moments(values, batch, ("mean_red", "mean_green", "mean_blue"), ("std_red", "std_green", "std_blue"))
    _moments(values, grey[:, None], ("brightness",), ("contrast",))
    values["gamma_estimate"] = grey.clamp(_SMALLEST, 1 - _SMALLEST).log().mean(dim=(1, 2)) / math.log(0.5)
    values["luma_p05"] = _percentile(grey, 0.05)
    values["luma_p95"] = _percentile(grey, 0.95)
    values["clipped_dark"] = (grey <= DARK).float().mean(dim=(1, 2))
    values["clipped_bright"] = (grey >= BRIGHT).float().mean(dim=(1, 2))
    values["saturation"] = (batch.amax(dim=1) - batch.amin(dim=1)).mean(dim=(1, 2))
    means, deviations = ("lab_l_mean", "lab_a_mean", "lab_b_mean"), ("lab_l_std", "lab_a_std", "lab_b_std")
    _moments(values, lab(batch), means, deviations)
    values["colour_cast"] = torch.hypot(values["lab_a_mean"], values["lab_b_mean"])
    return values


def channel_histogram(batch: Tensor) -> Tensor:
    """Pixels per 8-bit value and channel: int32 (B, 3, 256) of round(255·x), clipped to 0..255.

    The sufficient statistic of channel means, channel deviations and histogram matching: histograms add up over
    pictures, so that no fit has to decode pictures again. Exact for 8-bit pictures.
    """
    import torch

    size = batch.shape[0]
    levels = (batch.float() * 255).round().clamp(0, 255).to(torch.int64).flatten(2)
    rows = torch.arange(size * 3, device=batch.device).reshape(size, 3, 1)
    counts = torch.bincount((rows * _BINS + levels).flatten(), minlength=size * 3 * _BINS)
    return counts.reshape(size, 3, _BINS).to(torch.int32)


def _moments(values: dict[str, Tensor], planes: Tensor, means: tuple[str, ...], deviations: tuple[str, ...]) -> None:
    """Put mean and population deviation of each channel of (B, C, h, w) under the names given."""
    mean = planes.mean(dim=(2, 3), keepdim=True)
    deviation = (planes - mean).square_().mean(dim=(2, 3)).sqrt()
    values.update(zip(means, mean.flatten(1).unbind(1), strict=True))
    values.update(zip(deviations, deviation.unbind(1), strict=True))


def _percentile(grey: Tensor, share: float) -> Tensor:
    """Nearest-rank percentile per picture (torch.quantile refuses batches of more than 16 million values)."""
    flat = grey.flatten(1)
    return flat.kthvalue(max(1, math.ceil(share * flat.shape[1])), dim=1).values
