"""Normalisations of pictures: maps that take one set's colours, exposure or sharpness to another's.

Belongs here: picture operators that can be inverted in the statistical sense (fit either way round), and graded ones
for the matcher. Their `apply` uses torch alone, since the recipe carries its source text. Does not: geometry, the
model, noise and compression (`noise.py`, `jpeg.py`), the search for a parameter (`match.py`), trials.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from assets.experiments.match import Matched
from assets.experiments.operators import NotApplicable, Parameters, SetStatistics

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_DEVIATION = 1e-3
SAME_CAST = 0.01
"""Relative gain of a channel below which two sets have one colour cast: two grey levels at white."""


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

    bounds: ClassVar[tuple[float, float]] = (-0.95, 4.0)
    neutral: ClassVar[float] = 0.0

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """The amount at which the origin's pictures are as sharp as the destination's. Raises NotApplicable."""
        return Matched(self, "sharpness").fit(destination, origin)

    def at(self, theta: float) -> Parameters:
        """θ is the amount."""
        return {"amount": theta}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Add the detail that a Gaussian of one pixel removes, times the amount."""
        from torchvision.transforms.functional import gaussian_blur

        sharpened: Tensor = batch + parameters["amount"] * (batch - gaussian_blur(batch, [5, 5], [1.0, 1.0]))
        return sharpened.clamp(0, 1)


class ExposurePerImage:
    """x → x^γ with a γ of each picture's own, so that its trait `gamma_estimate` becomes the destination's median."""

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:  # noqa: ARG002
        """The destination's median of `gamma_estimate`."""
        return {"gamma_estimate": round(float(np.median(destination.trait("gamma_estimate"))), 6)}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Raise to the ratio of what is wanted to the picture's own, within 1/4..4."""
        grey = 0.299 * batch[:, 0] + 0.587 * batch[:, 1] + 0.114 * batch[:, 2]
        own = grey.clamp(1 / 255, 254 / 255).log().mean((1, 2)) / -0.6931472
        gamma = (parameters["gamma_estimate"] / own).clamp(0.25, 4.0)
        exposed: Tensor = batch.clamp(0, 1) ** gamma[:, None, None, None]
        return exposed


class WhiteBalance:
    """Gains of red and blue against green that bring the set's mean colour to the destination's (relative grey world).

    Mean luma stays. Gains apply to the values as they are stored, not to linear light.
    """

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """Gains of the three channels, in closed form from channel means. Raises NotApplicable for sets of one cast."""
        wanted = np.maximum(destination.channel_mean, SMALLEST_DEVIATION)
        present = np.maximum(origin.channel_mean, SMALLEST_DEVIATION)
        gain = (wanted / wanted[1]) / (present / present[1])
        if np.abs(gain - 1).max() < SAME_CAST:
            raise NotApplicable(f"the sets' mean colours agree (gains of red {gain[0]:.3f} and blue {gain[2]:.3f})")
        weights = np.array([0.299, 0.587, 0.114])
        return {"gain": _rounded(gain * (weights @ present) / (weights @ (gain * present)))}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Scale the channels."""
        return (batch * batch.new_tensor(parameters["gain"])[:, None, None]).clamp(0, 1)


class WhiteBalancePerImage:
    """Gains of red and blue against green that bring each picture's mean colour to the destination's; luma stays."""

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:  # noqa: ARG002
        """The destination's mean colour, green 1: the average of its pictures' mean channels."""
        means = np.array([destination.trait(f"mean_{name}").mean() for name in ("red", "green", "blue")])
        return {"colour": _rounded(means / max(means[1], SMALLEST_DEVIATION))}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Scale each picture's channels, gains within 1/4..4."""
        weights = batch.new_tensor([0.299, 0.587, 0.114])
        means = batch.mean((2, 3)).clamp(min=1e-3)
        gain = (batch.new_tensor(parameters["colour"]) / (means / means[:, 1:2])).clamp(0.25, 4.0)
        gain = gain * (means @ weights / ((gain * means) @ weights))[:, None]
        return (batch * gain[:, :, None, None]).clamp(0, 1)


class Lab:
    """Reinhard et al. (2001) in CIE L*a*b*: (x − μ_o)·σ_d/σ_o + μ_d per channel, moments of whole sets.

    They used lαβ; CIE L*a*b* is as decorrelated, and the traits are measured in it.
    """

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """Means and deviations of both sets, pooled over their pictures' own."""
        (mean, std), (own_mean, own_std) = _lab_moments(destination), _lab_moments(origin)
        return {"mean": _rounded(mean), "std": _rounded(std), "own_mean": _rounded(own_mean),
                "own_std": _rounded(own_std)}  # fmt: skip

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """To L*a*b*, scale and shift, and back; without `own_mean` each picture's own moments are taken out."""
        import torch

        to_xyz = batch.new_tensor([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169],
                                   [0.019334, 0.119193, 0.950227]])  # fmt: skip
        to_xyz = to_xyz / batch.new_tensor([0.95047, 1.0, 1.08883])[:, None]
        to_rgb = batch.new_tensor(
            [
                [3.079980302, -1.537151516, -0.542821308],
                [-0.921247752, 1.875990001, 0.04524734],
                [0.052890461, -0.204041338, 1.151232012],
            ]
        )  # fmt: skip -- the inverse: ONNX has none
        srgb_knee, lab_knee = 0.0031308, 0.008856
        plain = batch.clamp(0, 1)
        linear = torch.where(plain > 12.92 * srgb_knee, ((plain + 0.055) / 1.055).log().mul(2.4).exp(), plain / 12.92)
        xyz = (to_xyz @ linear.flatten(2)).reshape(batch.shape)
        roots = torch.where(xyz > lab_knee, xyz.clamp(min=1e-6).log().div(3).exp(), 7.787 * xyz + 16 / 116)
        x, y, z = roots.unbind(1)
        lab = torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)

        if "own_mean" in parameters:
            own_mean, own_std = (batch.new_tensor(parameters[name])[:, None, None] for name in ("own_mean", "own_std"))
        else:
            own_mean, own_std = lab.mean((2, 3), keepdim=True), lab.std((2, 3), keepdim=True, correction=0)
        mean, std = (batch.new_tensor(parameters[name])[:, None, None] for name in ("mean", "std"))
        lab = (lab - own_mean) * (std / own_std.clamp(min=0.1)) + mean

        y = (lab[:, 0] + 16) / 116
        roots = torch.stack((y + lab[:, 1] / 500, y, y - lab[:, 2] / 200), dim=1)
        xyz = torch.where(roots > 7.787 * lab_knee + 16 / 116, roots**3, (roots - 16 / 116) / 7.787)
        linear = (to_rgb @ xyz.flatten(2)).reshape(batch.shape).clamp(0, 1)
        curved = linear.clamp(min=1e-6).log().div(2.4).exp() * 1.055 - 0.055
        return torch.where(linear > srgb_knee, curved, 12.92 * linear).clamp(0, 1)


class LabPerImage(Lab):
    """Reinhard et al. (2001) as published: each picture's own moments become the destination's mean moments."""

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:  # noqa: ARG002
        """Means and deviations of the destination's pictures, averaged over them."""
        return {kind: _rounded(np.array([destination.trait(f"lab_{axis}_{kind}").mean() for axis in "lab"]))
                for kind in ("mean", "std")}  # fmt: skip


@dataclass(frozen=True)
class Contrast:
    """x → m + θ·(x − m) with each picture's mean luma m: flatter below 1, stretched above."""

    bounds: ClassVar[tuple[float, float]] = (0.1, 4.0)
    neutral: ClassVar[float] = 1.0

    def at(self, theta: float) -> Parameters:
        """θ is the factor."""
        return {"factor": theta}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Stretch about the picture's mean luma."""
        grey = 0.299 * batch[:, 0] + 0.587 * batch[:, 1] + 0.114 * batch[:, 2]
        mean = grey.mean((1, 2))[:, None, None, None]
        stretched: Tensor = mean + parameters["factor"] * (batch - mean)
        return stretched.clamp(0, 1)


@dataclass(frozen=True)
class Saturation:
    """x → y + θ·(x − y) with each pixel's luma y: grey at 0, more vivid above 1."""

    bounds: ClassVar[tuple[float, float]] = (0.0, 4.0)
    neutral: ClassVar[float] = 1.0

    def at(self, theta: float) -> Parameters:
        """θ is the factor."""
        return {"factor": theta}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Scale the distance from grey."""
        grey = (0.299 * batch[:, 0] + 0.587 * batch[:, 1] + 0.114 * batch[:, 2])[:, None]
        coloured: Tensor = grey + parameters["factor"] * (batch - grey)
        return coloured.clamp(0, 1)


@dataclass(frozen=True)
class Haze:
    """x → t·x + A·(1 − t), the airlight A at 0.9: haze for a transmission t below 1, its inverse above.

    The physical model (Koschmieder) has a t of each pixel's depth; one t for the picture is its mean. θ is t; its
    bounds are the floor of He, Sun and Tang (2009) for dense haze: taking off more would multiply noise.
    """

    bounds: ClassVar[tuple[float, float]] = (0.2, 3.0)
    neutral: ClassVar[float] = 1.0

    def at(self, theta: float) -> Parameters:
        """θ is the transmission; 1/t takes off what t lays over."""
        return {"transmission": theta, "airlight": 0.9}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Mix with the airlight, or take it out."""
        veil = parameters["airlight"] * (1 - parameters["transmission"])
        mixed: Tensor = batch * parameters["transmission"] + veil
        return mixed.clamp(0, 1)


@dataclass(frozen=True)
class Vignette:
    """x → x·e^(θ·r²), r the distance from the centre, 1 in the corners: dark corners below 0, bright ones above."""

    bounds: ClassVar[tuple[float, float]] = (-2.0, 2.0)
    neutral: ClassVar[float] = 0.0

    def at(self, theta: float) -> Parameters:
        """θ is the logarithm of the gain in the corners; −θ is the inverse."""
        return {"corners": theta}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Scale by a gain of the distance from the centre."""
        import torch

        down, right = (torch.linspace(-1, 1, side, device=batch.device) for side in batch.shape[2:])
        gain = (parameters["corners"] * (down[:, None] ** 2 + right**2) / 2).exp()
        shaded: Tensor = batch * gain
        return shaded.clamp(0, 1)


def _lab_moments(side: SetStatistics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of L*, a* and b* over all pixels of a set, from each picture's own (all have one size)."""
    means = np.array([side.trait(f"lab_{axis}_mean") for axis in "lab"])
    deviations = np.array([side.trait(f"lab_{axis}_std") for axis in "lab"])
    return means.mean(1), np.sqrt((deviations**2).mean(1) + means.var(1))


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
