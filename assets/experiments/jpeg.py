"""JPEG's traces laid over pictures, and smoothed away as far as that can be.

Belongs here: quantisation of the 8×8 cosine transform, as libjpeg does it and as a smoother. `apply` uses torch alone,
since the recipe carries its source text. Does not: the traits that tell of compression (traits/compression.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from assets.experiments.match import medians
from assets.experiments.operators import NotApplicable, Parameters, SetStatistics
from assets.traits.compression import ijg_luma_steps, ijg_steps

if TYPE_CHECKING:
    from torch import Tensor

# The table of ISO/IEC 10918-1, annex K, row by row.
CHROMA_TABLE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *([99] * 32),
)  # fmt: skip
LARGEST_SCALE = 2.0
"""Pictures are enlarged by no more before they are compressed: time grows with the square."""


@dataclass(frozen=True)
class Jpeg:
    """JPEG as libjpeg writes and reads it by default: standard tables, colour at half the size; no entropy coding.

    The quality is that of the destination's files, and pictures are compressed at the size of the origin's files. θ is
    the quality, 1..100.
    """

    bounds: ClassVar[tuple[float, float]] = (5.0, 100.0)
    neutral: ClassVar[float] = 100.0

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """The destination's quality. Raises NotApplicable where it is not known or not below the origin's."""
        quality = lower_quality(lower=destination, higher=origin)
        return self.at(quality) | {"scale": file_scale(origin)}

    def at(self, theta: float) -> Parameters:
        """The tables of that quality, 1..100; pictures of the size that is compressed."""
        return {
            "quality": round(theta), "luma": luma_table(theta), "chroma": chroma_table(theta), "scale": 1.0,
        }  # fmt: skip

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Quantise the 8×8 DCT of Y and of the halved Cb and Cr; results are 8-bit values."""
        import torch
        from torch.nn import functional

        place = torch.arange(8, dtype=batch.dtype, device=batch.device)
        basis = torch.cos(torch.pi * (2 * place + 1) * place[:, None] / 16) / 2
        basis[0] = 8**-0.5
        transform = torch.kron(basis, basis)  # 64 coefficients of 64 pixels

        def coded(planes: Tensor, table: list[int]) -> Tensor:
            steps = torch.tensor(table, dtype=batch.dtype, device=batch.device)
            split = (-1, planes.shape[2] // 8, 8, planes.shape[3] // 8, 8)
            blocks = planes.reshape(split).transpose(2, 3)
            coefficients = ((blocks.reshape(-1, 64) @ transform.T) / steps).round_() * steps
            values = (coefficients @ transform).round_().clamp_(-128, 127)
            return values.reshape(blocks.shape).transpose(2, 3).reshape(planes.shape)

        size = [max(1, round(side * parameters["scale"])) for side in batch.shape[2:]]
        large = functional.interpolate(batch, size=size, mode="bilinear", align_corners=False)
        padded = functional.pad(large, (0, -size[1] % 16, 0, -size[0] % 16), mode="replicate")
        red, green, blue = (padded * 255).round().unbind(1)
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        colour = torch.stack([(blue - grey) / 1.772, (red - grey) / 1.402], dim=1)
        half = coded(functional.avg_pool2d(colour, 2).round(), parameters["chroma"])
        whole = functional.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)
        cb, cr = whole.round().unbind(1)
        y = coded((grey.round() - 128)[:, None], parameters["luma"])[:, 0] + 128
        decoded = torch.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], dim=1)
        decoded = decoded[:, :, : size[0], : size[1]].round().clamp(0, 255) / 255
        small: Tensor = functional.interpolate(decoded, size=batch.shape[2:], mode="bilinear", antialias=True)
        return small.clamp(0, 1)


@dataclass(frozen=True)
class Deblock:
    """Re-application of JPEG to shifted pictures, averaged (Nosratinia 2001): smooths blocks and ringing of luma.

    What compression took away does not come back: blocks and ringing become less visible, detail stays lost. Quality
    and grid are those of the files; pictures that were resized between compression and now have no grid that a shift
    could straddle, and are smoothed less aptly. θ is the quality, 1..100.
    """

    bounds: ClassVar[tuple[float, float]] = (5.0, 100.0)
    neutral: ClassVar[float] = 100.0

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """The origin's own quality. Raises NotApplicable where it is not known or not below the destination's."""
        quality = lower_quality(lower=origin, higher=destination)
        return self.at(quality) | {"scale": file_scale(origin)}

    def at(self, theta: float) -> Parameters:
        """The quantisation of luma at that quality; pictures of the size that was compressed."""
        return {"quality": round(theta), "luma": luma_table(theta), "scale": 1.0}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Quantise luma's 8×8 DCT on five grids and average; colour differences stay."""
        import torch
        from torch.nn import functional

        steps = torch.tensor(parameters["luma"], dtype=batch.dtype, device=batch.device)
        place = torch.arange(8, dtype=batch.dtype, device=batch.device)
        basis = torch.cos(torch.pi * (2 * place + 1) * place[:, None] / 16) / 2
        basis[0] = 8**-0.5
        transform = torch.kron(basis, basis)  # 64 coefficients of 64 pixels

        def quantised(plane: Tensor) -> Tensor:
            split = (-1, plane.shape[1] // 8, 8, plane.shape[2] // 8, 8)
            blocks = plane.reshape(split).transpose(2, 3)
            coefficients = ((blocks.reshape(-1, 64) @ transform.T) / steps).round_() * steps
            return (coefficients @ transform).reshape(blocks.shape).transpose(2, 3).reshape(plane.shape)

        grey = 255 * (0.299 * batch[:, 0] + 0.587 * batch[:, 1] + 0.114 * batch[:, 2]) - 128
        size = [max(1, round(side * parameters["scale"])) for side in grey.shape[1:]]
        large = functional.interpolate(grey[:, None], size=size, mode="bilinear", align_corners=False)
        height, width = size
        padded = functional.pad(large, (8, 8 + -width % 8, 8, 8 + -height % 8), mode="replicate")[:, 0]
        smooth = torch.zeros_like(large[:, 0])
        for down, right in ((0, 0), (4, 4), (2, 6), (6, 2), (4, 0)):
            kept = padded[:, down : padded.shape[1] - 8 + down, right : padded.shape[2] - 8 + right]
            smooth += quantised(kept)[:, 8 - down : 8 - down + height, 8 - right : 8 - right + width] / 5
        change = (smooth - large[:, 0])[:, None]
        change = functional.interpolate(change, size=grey.shape[1:], mode="bilinear", antialias=True)
        return (batch + change / 255).clamp(0, 1)


def luma_table(quality: float) -> list[int]:
    """Steps of luma's 64 coefficients at a quality of 1..100, as libjpeg scales them."""
    return [int(step) for step in ijg_luma_steps(_whole(quality)).ravel()]


def chroma_table(quality: float) -> list[int]:
    """The same of both colour differences."""
    return [int(step) for step in ijg_steps(CHROMA_TABLE, _whole(quality))]


def _whole(quality: float) -> int:
    return min(max(round(quality), 1), 100)


def lower_quality(*, lower: SetStatistics, higher: SetStatistics) -> float:
    """Median quality of the set that is compressed more. Raises NotApplicable where it is not."""
    low, high = medians(lower, higher, "jpeg_quality")
    if low > high:
        raise NotApplicable(f"compressed no more than the other set: JPEG quality {low:.0f} against {high:.0f}")
    return low


def file_scale(side: SetStatistics) -> float:
    """Side of a set's files over that of its pictures at the model's input, within 1..2; 1 where it is not known."""
    if "megapixels" not in side.traits.columns or not len(side.trait("megapixels")):
        return 1.0
    height, width = side.pictures.shape[2:]
    scale = math.sqrt(float(np.median(side.trait("megapixels"))) * 1e6 / (height * width))
    return round(min(max(scale, 1.0), LARGEST_SCALE), 2)
