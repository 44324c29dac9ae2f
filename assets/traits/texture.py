"""Sharpness, noise, spectrum, stretch, vignette and haze of pictures as the model sees them.

Belongs here: traits of neighbourhoods and places in the picture.
Does not: traits of pixel values alone (colour.py), of the label mask (layout.py), of one class's region (regional.py),
or of JPEG (compression.py): its 8×8 grid is gone once the picture is resized to the model's input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from assets.traits.colour import luma, smallest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

EDGE = 0.1
"""Luma step per pixel that counts as an edge (25 of 255 grey levels)."""

PATCH = 15
"""Side of the dark channel's patches in pixels (He, Sun, Tang 2009)."""

BANDS = {"spectral_low": (0.0, 1 / 16), "spectral_mid": (1 / 16, 1 / 4), "spectral_high": (1 / 4, 1 / 2)}
"""Spatial frequency bands in cycles per pixel: lower end excluded, upper end included."""

_SLOPE_BINS = 12
_SLOPE_FROM = 1 / 32
_SMALLEST_SPECTRUM = 32
_MAD_OF_NORMAL = 0.67448975
_MASK_GAIN = 6.0
_LEAST_VARIANCE = 1e-8
_LEAST_POWER = 1e-10
_LEAST_GRADIENT = 1e-5
_GREY_LEVEL = 1 / 255
_CORNER_FROM = 0.85
_CENTRE_TO = 0.3


def texture_traits(
    batch: Tensor, grey: Tensor | None = None, wanted: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Traits of neighbourhoods, each of shape (B,).

    `batch` is float (B, 3, h, w) in 0..1; `grey` its `luma`, where the caller has it already. All are finite, constant
    pictures included, but for pictures too small: below 3×3 pixels `sharpness` and `noise_sigma` are NaN, below 2×2
    `gradient_ratio` and `edge_density`, below 32×32 the spectral traits.

    - `sharpness`: log10 of the variance of luma's 4-neighbour Laplacian (Pech-Pacheco 2000), floored at 1e-8; -8..1.
    - `noise_sigma`: median absolute response to Immerkær's (1996) mask over 6·0.6745 (Donoho's estimator), mean of the
      three channels; in units of 0..1. The median leaves out edges; fine texture that fills a picture counts as noise.
    - `edge_density`: share of pixels at which luma's gradient exceeds 0.1 per pixel, 0..1.
    - `gradient_ratio`: ln of mean absolute vertical over horizontal step of luma; stretching a picture vertically by k
      lowers it by about ln k.
    - `spectral_slope`: slope of log10 power over log10 frequency between 1/32 and 1/2 cycles per pixel; about -2..-3
      for sharp natural scenes (Field 1987), 0 for white noise.
    - `spectral_low`, `spectral_mid`, `spectral_high`: log10 of the mean power up to 1/16, 1/4 and 1/2 cycles per pixel;
      power is scaled so that white noise of deviation s has s² everywhere; floored at 1e-10.
    - `vignette`: ln of mean luma in the four corners over mean luma in the centre; negative where corners are dark.
    - `dark_channel`: mean of the smallest channel value within 15×15 pixels (He, Sun, Tang 2009), 0..1; haze raises it.

    Those that share no work with a `wanted` one are left out; None wants all.
    """
    batch = batch.float()
    grey = luma(batch) if grey is None else grey
    values: dict[str, Tensor] = {}
    for names, part in _PARTS:
        if wanted is None or not names.isdisjoint(wanted):
            values.update(part(batch, grey))
    return values


def sharpness(grey: Tensor) -> Tensor:
    """The trait `sharpness` alone, of grey pictures (B, h, w) in 0..1: (B,), NaN below 3×3 pixels."""
    if min(grey.shape[1:]) < 3:  # noqa: PLR2004
        return _missing(grey)
    centre = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    response = around.sub_(centre, alpha=4)
    response -= response.mean(dim=(1, 2), keepdim=True)  # var() takes several times as long on a processor
    return response.square_().mean(dim=(1, 2)).clamp(min=_LEAST_VARIANCE).log10()


def noise_sigma(batch: Tensor) -> Tensor:
    """The trait `noise_sigma` alone of pictures (B, 3, h, w), (B,)."""
    if min(batch.shape[2:]) < 3:  # noqa: PLR2004
        return _missing(batch)
    # Every second row and column: a quarter of the responses gives the median to well below 1%.
    rows = batch[:, :, :-2:2] - 2 * batch[:, :, 1:-1:2] + batch[:, :, 2::2]
    response = rows[..., :-2:2] - 2 * rows[..., 1:-1:2] + rows[..., 2::2]
    response = response.abs_().flatten(2)
    middle = smallest(response.flatten(0, 1), (response.shape[2] + 1) // 2).reshape(response.shape[:2])
    return middle.mean(dim=1) / (_MASK_GAIN * _MAD_OF_NORMAL)


def _gradients(grey: Tensor) -> dict[str, Tensor]:
    import torch

    if min(grey.shape[1:]) < 2:  # noqa: PLR2004
        return {"edge_density": _missing(grey), "gradient_ratio": _missing(grey)}
    down = grey[:, 1:, :-1] - grey[:, :-1, :-1]
    right = grey[:, :-1, 1:] - grey[:, :-1, :-1]
    vertical, horizontal = down.abs().mean(dim=(1, 2)), right.abs().mean(dim=(1, 2))
    return {
        "edge_density": (torch.hypot(down, right) > EDGE).float().mean(dim=(1, 2)),
        "gradient_ratio": ((vertical + _LEAST_GRADIENT) / (horizontal + _LEAST_GRADIENT)).log(),
    }


def _spectrum(grey: Tensor) -> dict[str, Tensor]:
    import torch

    height, width = grey.shape[1:]
    if min(height, width) < _SMALLEST_SPECTRUM:
        return dict.fromkeys(["spectral_slope", *BANDS], _missing(grey))
    plan = _spectral_plan(height, width, str(grey.device))
    centred = grey - (grey * plan.window).sum(dim=(1, 2), keepdim=True) / plan.window.sum()
    power = torch.fft.rfft2(centred * plan.window).abs().square() / plan.window.square().sum()
    rings = power.flatten(1)[:, plan.order].split(plan.ring_sizes, dim=1)
    sums = torch.stack([ring.sum(dim=1) for ring in rings], dim=1)
    slope_levels = (sums @ plan.bins_from_rings).clamp(min=_LEAST_POWER).log10()
    band_levels = (sums @ plan.bands_from_rings).clamp(min=_LEAST_POWER).log10()
    return {"spectral_slope": slope_levels @ plan.slope_weights, **dict(zip(BANDS, band_levels.unbind(1), strict=True))}


@dataclass(frozen=True)
class _SpectralPlan:
    """What the spectrum of one picture size needs: coefficients sorted into rings, rings averaged into bins and bands.

    Rings are the coarsest division of frequencies of which every slope bin and every band is a union. Half a plane is
    kept, each pair of conjugate coefficients once, without the mean.
    """

    window: Tensor
    order: Tensor
    ring_sizes: list[int]
    bins_from_rings: Tensor
    bands_from_rings: Tensor
    slope_weights: Tensor


@lru_cache(maxsize=8)
def _spectral_plan(height: int, width: int, device: str) -> _SpectralPlan:
    import numpy as np
    import torch

    down, right = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(down, right)
    frequency[(right == 0) & (down <= 0)] = np.inf
    frequency[:, np.isclose(right[0], 0.5)] = np.inf

    slope_edges = np.geomspace(_SLOPE_FROM, 0.5, _SLOPE_BINS + 1)
    band_edges = np.array([low for low, _ in BANDS.values()] + [0.5])
    edges = np.unique(np.concatenate([slope_edges, band_edges]).round(12))
    ring = np.digitize(frequency.ravel().round(12), edges, right=True) - 1
    rings = len(edges) - 1
    order = np.argsort(ring, kind="stable")
    order = order[ring[order] < rings]
    sizes = np.bincount(ring[order], minlength=rings)
    log_sums = np.bincount(ring[order], np.log10(frequency.ravel()[order]), minlength=rings)

    bins = _unions(edges, slope_edges, sizes)
    bins = bins[:, bins.any(axis=0)]
    level = log_sums @ bins
    deviation = level - level.mean()

    def tensor(values: NDArray[np.float64]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    return _SpectralPlan(
        window=tensor(np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])),
        order=torch.tensor(order, device=device),
        ring_sizes=sizes.tolist(),
        bins_from_rings=tensor(bins),
        bands_from_rings=tensor(_unions(edges, band_edges, sizes)),
        slope_weights=tensor(deviation / np.square(deviation).sum()),
    )


def _unions(edges: NDArray[np.float64], coarse: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Matrix (rings, intervals) that turns sums over rings into means over the intervals of `coarse` (0 if empty)."""
    import numpy as np

    owner = np.digitize((edges[:-1] + edges[1:]) / 2, coarse) - 1
    member = owner[:, None] == np.arange(len(coarse) - 1)
    counts = (sizes[:, None] * member).sum(axis=0)
    means: NDArray[np.float64] = member * (counts > 0) / np.maximum(counts, 1)
    return means


def vignette(grey: Tensor) -> Tensor:
    """The trait `vignette` alone of luma (B, h, w), (B,)."""
    corner, centre = _corner_and_centre(grey.shape[1], grey.shape[2], str(grey.device))
    flat = grey.flatten(1)
    return ((flat @ corner + _GREY_LEVEL) / (flat @ centre + _GREY_LEVEL)).log()


@lru_cache(maxsize=8)
def _corner_and_centre(height: int, width: int, device: str) -> tuple[Tensor, Tensor]:
    """Averaging weights, flat, of the pixels in the corners and in the centre.

    The distance of a pixel from the centre is 0 there and 1 in the corners, whatever the picture's shape.
    """
    import torch

    down = torch.linspace(-1, 1, height) if height > 1 else torch.zeros(1)
    right = torch.linspace(-1, 1, width) if width > 1 else torch.zeros(1)
    distance = torch.hypot(down[:, None], right).flatten() / math.sqrt(2)
    corner = (distance >= min(_CORNER_FROM, float(distance.max()))).float()
    centre = (distance <= max(_CENTRE_TO, float(distance.min()))).float()
    return (corner / corner.sum()).to(device), (centre / centre.sum()).to(device)


def dark_channel(batch: Tensor) -> Tensor:
    """The trait `dark_channel` alone of pictures (B, 3, h, w), (B,)."""
    import torch

    padded = torch.nn.functional.pad(batch.amin(dim=1), [PATCH // 2] * 4, value=math.inf)
    return _running_minimum(_running_minimum(padded, 1), 2).mean(dim=(1, 2))


def _running_minimum(values: Tensor, dim: int) -> Tensor:
    """Smallest of every `PATCH` neighbours along an axis, by windows that double.

    max_pool2d of the negative does the same, and takes about fifty times as long on a processor.
    """
    import torch

    width = 1
    while width < PATCH:
        step = min(width, PATCH - width)
        length = values.shape[dim] - step
        values = torch.minimum(values.narrow(dim, 0, length), values.narrow(dim, step, length))
        width += step
    return values


def _missing(like: Tensor) -> Tensor:
    return like.new_full((like.shape[0],), math.nan)


_PARTS: tuple[tuple[frozenset[str], Callable[[Tensor, Tensor], dict[str, Tensor]]], ...] = (
    (frozenset({"sharpness"}), lambda _batch, grey: {"sharpness": sharpness(grey)}),
    (frozenset({"noise_sigma"}), lambda batch, _grey: {"noise_sigma": noise_sigma(batch)}),
    (frozenset({"edge_density", "gradient_ratio"}), lambda _batch, grey: _gradients(grey)),
    (frozenset({"spectral_slope", *BANDS}), lambda _batch, grey: _spectrum(grey)),
    (frozenset({"vignette"}), lambda _batch, grey: {"vignette": vignette(grey)}),
    (frozenset({"dark_channel"}), lambda batch, _grey: {"dark_channel": dark_channel(batch)}),
)
"""Traits that are computed together, and how."""
