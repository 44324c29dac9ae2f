"""Normalisations of pictures: maps that take one set's colours, exposure or sharpness to another's.

Belongs here: picture operators that can be inverted in the statistical sense (fit either way round). Their `apply`
uses torch alone, since the recipe carries its source text. Does not: geometry, the model, trials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from assets.experiments.operators import NotApplicable, Parameters, SetStatistics

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_DEVIATION = 1e-3


class ChannelStatistics:
    """x → (x − μ_o)·σ_d/σ_o + μ_d per channel, moments of whole sets (origin o, destination d)."""

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """Gain and offset of each channel."""
        gain = destination.channel_std / np.maximum(origin.channel_std, SMALLEST_DEVIATION)
        offset = destination.channel_mean - gain * origin.channel_mean
        return {"gain": _rounded(gain), "offset": _rounded(offset)}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Scale and shift the channels."""
        gain = batch.new_tensor(parameters["gain"])[:, None, None]
        offset = batch.new_tensor(parameters["offset"])[:, None, None]
        return (batch * gain + offset).clamp(0, 1)


class ChannelStatisticsPerImage:
    """Each picture's own channel moments are brought to the destination set's mean moments."""

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:  # noqa: ARG002
        """The destination's mean picture: means and deviations of its channels, averaged over pictures."""
        channels = ("red", "green", "blue")
        return {
            "mean": _rounded(np.array([destination.trait(f"mean_{name}").mean() for name in channels])),
            "std": _rounded(np.array([destination.trait(f"std_{name}").mean() for name in channels])),
        }

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Whiten each picture's channels and give them the learned moments."""
        mean = batch.new_tensor(parameters["mean"])[:, None, None]
        std = batch.new_tensor(parameters["std"])[:, None, None]
        own_mean = batch.mean((2, 3), keepdim=True)
        own_std = batch.std((2, 3), keepdim=True, correction=0).clamp(min=1e-3)
        return ((batch - own_mean) / own_std * std + mean).clamp(0, 1)


class HistogramMatching:
    """Each channel's values are mapped so that the set's cumulative histogram becomes the destination's.

    The map is F_d⁻¹∘F_o on the 256 grey levels (Gonzalez & Woods), linear between levels.
    """

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """A table of 256 values a channel."""
        return {"table": [_rounded(_match(o, d)) for o, d in zip(origin.histogram, destination.histogram, strict=True)]}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Look every value up in its channel's table, linear between grey levels."""
        table = batch.new_tensor(parameters["table"])
        position = batch.clamp(0, 1) * (table.shape[1] - 1)
        low = position.floor().long().clamp(max=table.shape[1] - 2)
        rows = table[:, None, None].expand(*batch.shape[1:], -1).expand(batch.shape[0], -1, -1, -1, -1)
        below, above = (rows.gather(-1, index[..., None])[..., 0] for index in (low, low + 1))
        mapped: Tensor = below + (above - below) * (position - low)
        return mapped


class Exposure:
    """x → gain·x^γ, one curve for all channels, so that the sets' median and 95% point agree."""

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """γ and gain from two quantiles; γ within 1/4..4."""
        middle_o, high_o = np.log(np.clip([origin.quantile(0.5), origin.quantile(0.95)], 0.02, 0.98))
        middle_d, high_d = np.log(np.clip([destination.quantile(0.5), destination.quantile(0.95)], 0.02, 0.98))
        if abs(high_o - middle_o) < SMALLEST_DEVIATION:
            raise NotApplicable("the pictures have no tonal range to fit a curve on")
        gamma = float(np.clip((high_d - middle_d) / (high_o - middle_o), 0.25, 4))
        return {"gamma": round(gamma, 6), "gain": round(float(np.exp(middle_d - gamma * middle_o)), 6)}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Raise to γ and scale."""
        exposed: Tensor = batch.clamp(0, 1) ** parameters["gamma"] * parameters["gain"]
        return exposed.clamp(0, 1)


class Sharpness:
    """x → x + a·(x − blur(x)): unsharp mask for a > 0, softening for a < 0; a matches the sharpness trait's median."""

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """The amount at which the origin's pictures are as sharp as the destination's, found by bounded search."""
        from scipy.optimize import minimize_scalar

        from assets.traits.colour import luma
        from assets.traits.texture import sharpness

        wanted = float(np.median(destination.trait("sharpness")))
        pictures = origin.pictures

        def miss(amount: float) -> float:
            reached = sharpness(luma(self.apply(pictures, {"amount": amount})))
            return abs(float(reached.median()) - wanted)

        found = minimize_scalar(miss, bounds=(-0.95, 4.0), method="bounded", options={"xatol": 0.02, "maxiter": 16})
        return {"amount": round(float(found.x), 4)}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Add the detail that a Gaussian of one pixel removes, times the amount."""
        from torchvision.transforms.functional import gaussian_blur

        sharpened: Tensor = batch + parameters["amount"] * (batch - gaussian_blur(batch, [5, 5], [1.0, 1.0]))
        return sharpened.clamp(0, 1)


def _match(origin: NDArray[np.int64], destination: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values in 0..1 for the grey levels 0..255 of the origin: the destination's quantiles at the same ranks.

    Levels that do not occur have no rank of their own: their values lie on the line between their neighbours'.
    """
    levels = np.arange(256) / 255
    cumulative_o = (np.cumsum(origin) - origin / 2) / max(origin.sum(), 1)
    cumulative_d = (np.cumsum(destination) - destination / 2) / max(destination.sum(), 1)
    occurs_o, occurs_d = origin > 0, destination > 0
    matched = np.interp(cumulative_o[occurs_o], cumulative_d[occurs_d], levels[occurs_d])
    table: NDArray[np.float64] = np.interp(levels, levels[occurs_o], matched)
    return table


def _rounded(values: NDArray[np.float64]) -> list[float]:
    """Six digits: enough for 8-bit pictures, and equal on every machine."""
    return [round(float(value), 6) for value in values]
