"""Imitations: the source's holdout moved towards the target.

Belongs here: operators that destroy information, and the residual of the whole trait vector by which imitations are
chosen and judged. Does not: maps that can be fitted either way round (`normalise.py`), noise and compression with what
takes them off (`noise.py`, `jpeg.py`), the search for a trait (`match.py`), trials.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from assets.experiments.operators import Floats, NotApplicable, Parameters, SetStatistics
from assets.statistics.effect_sizes import hedges_g

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_EFFECT = 10.0
"""Effect sizes are cut here, so that one trait without spread does not decide alone."""


class Blur:
    """Gaussian blur; its width is the one that leaves the smallest residual over all picture traits."""

    WIDTHS = (0.4, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2, 3.0)
    bounds: ClassVar[tuple[float, float]] = (0.0, 3.0)
    neutral: ClassVar[float] = 0.0

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """The width in pixels of the model's input. Raises NotApplicable where no width brings the sets closer."""
        pictures = origin.pictures
        plain = trait_residual(pictures, destination)
        residuals = [trait_residual(self.apply(pictures, {"sigma": width}), destination) for width in self.WIDTHS]
        best = int(np.argmin(residuals))
        if residuals[best] >= plain:
            raise NotApplicable(
                f"no blur of the source comes closer to the target's traits (mean effect {plain:.2f} without, "
                f"{residuals[best]:.2f} at best)"
            )
        return self.at(self.WIDTHS[best])

    def at(self, theta: float) -> Parameters:
        """θ is the width in pixels; a hundredth of one leaves all as it is."""
        return {"sigma": max(theta, 0.01)}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Blur each channel, rows and columns one after the other; borders are mirrored."""
        import torch
        from torch.nn import functional

        sigma = parameters["sigma"]
        reach = math.ceil(3 * sigma)
        kernel = torch.exp(-(torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2) / (2 * sigma**2))
        weights = (kernel / kernel.sum()).tolist()
        blurred = functional.pad(batch, (reach, reach, reach, reach), mode="reflect")
        for axis in (2, 3):  # sums of shifted pictures take a fifth of the time of torchvision's convolution
            length = batch.shape[axis]
            total = weights[0] * blurred.narrow(axis, 0, length)
            for offset in range(1, len(weights)):
                total.add_(blurred.narrow(axis, offset, length), alpha=weights[offset])
            blurred = total
        return blurred.clamp(0, 1)


@dataclass(frozen=True)
class LowResolution:
    """Downsampled with antialiasing and upsampled again, both bilinear; θ is the share of the side that is left."""

    bounds: ClassVar[tuple[float, float]] = (0.1, 1.0)
    neutral: ClassVar[float] = 1.0

    def at(self, theta: float) -> Parameters:
        """θ is the share of rows and columns."""
        return {"share": theta}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Resize down and up."""
        from torch.nn import functional

        height, width = batch.shape[2:]
        size = [max(1, round(side * parameters["share"])) for side in (height, width)]
        small = functional.interpolate(batch, size=size, mode="bilinear", antialias=True)
        coarse: Tensor = functional.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
        return coarse.clamp(0, 1)


def trait_residual(pictures: Tensor, destination: SetStatistics) -> float:
    """Mean absolute effect size (Hedges' g) over all picture traits between some pictures and a set.

    What an imitation leaves of the target's whole trait vector; the smaller, the better it explains the shift.
    """
    from assets.traits.measure import measure_pictures

    measured = measure_pictures(pictures)
    effects: Floats = np.array([hedges_g(values, destination.trait(name)) for name, values in measured.items()])
    effects = np.minimum(np.abs(effects[~np.isnan(effects)]), LARGEST_EFFECT)
    return float(effects.mean()) if effects.size else float("nan")
