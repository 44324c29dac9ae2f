"""Noise laid over pictures, and taken off as far as that can be.

Belongs here: graded operators on noise. `apply` uses torch alone, since the recipe carries its source text. Does not:
the trait (`assets/traits/texture.py`), the search for a parameter (`match.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from assets.experiments.match import medians
from assets.experiments.operators import NotApplicable, Parameters, SetStatistics

if TYPE_CHECKING:
    from torch import Tensor

STRENGTH = 1.75
"""θ of `Denoise` over the deviation of the noise."""


@dataclass(frozen=True)
class Noise:
    """Independent Gaussian noise on every value, clipped; the same picture always gets the same. θ is its deviation."""

    bounds: ClassVar[tuple[float, float]] = (0.0, 0.3)
    neutral: ClassVar[float] = 0.0

    def at(self, theta: float) -> Parameters:
        """θ is the deviation in 0..1."""
        return {"sigma": theta}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Add noise drawn by a seed that is a sum over the picture's grey levels, exact in integers."""
        import torch

        levels = (batch.flatten(1) * 255).round().to(torch.int64)
        places = torch.arange(levels.shape[1], device=batch.device) % 65521 + 1
        drawn = [
            torch.randn(batch.shape[1:], generator=torch.Generator().manual_seed(int(seed) % 2**31))
            for seed in (levels * places).sum(1)
        ]
        noisy: Tensor = batch + parameters["sigma"] * torch.stack(drawn).to(batch.device)
        return noisy.clamp(0, 1)


@dataclass(frozen=True)
class Denoise:
    """The self-guided filter of He, Sun and Tang (2013) on 5×5 windows, per channel, ε = θ².

    What varies by less than θ (in 0..1) within a window is averaged, what varies by more stays. Fine texture is taken
    for noise and goes with it, so θ is not driven until the trait `noise_sigma` agrees, but set to 1.75 times the noise
    in excess: of what was tried, that left the smallest squared error on street pictures with 0.01..0.12 of planted
    noise, where driving the trait to its aim left as large an error as the noise itself.
    """

    bounds: ClassVar[tuple[float, float]] = (0.0, 0.3)
    neutral: ClassVar[float] = 0.0

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """θ from the medians of `noise_sigma`. Raises NotApplicable where the origin is not the noisier set."""
        wanted, present = medians(destination, origin, "noise_sigma")
        if present < wanted:
            raise NotApplicable(f"no noise to take off: {present:.3g} against {wanted:.3g}")
        excess = math.sqrt(present**2 - wanted**2)
        return self.at(round(min(STRENGTH * excess, self.bounds[1]), 4))

    def at(self, theta: float) -> Parameters:
        """θ is the deviation below which variation counts as noise."""
        return {"strength": theta}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Replace each window by its best line through itself, flattened by ε; average the windows of a pixel."""
        from torch.nn import functional

        def mean(values: Tensor) -> Tensor:
            total = functional.pad(values, (2, 2, 2, 2), mode="reflect")
            for axis in (2, 3):  # sums of shifted pictures take a third of the time of avg_pool2d
                length = values.shape[axis]
                shifted = [total.narrow(axis, offset, length) for offset in range(5)]
                total = shifted[0] + shifted[1]
                for other in shifted[2:]:
                    total.add_(other)
            return total.div_(25)

        own = mean(batch)
        variance = (mean(batch * batch) - own * own).clamp(min=1e-9)
        slope = variance / (variance + parameters["strength"] ** 2)
        filtered: Tensor = mean(slope) * batch + mean(own - slope * own)
        return filtered.clamp(0, 1)
