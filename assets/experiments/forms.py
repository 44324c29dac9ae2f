"""Forms that one cause takes: what explanations imitate with two parameters, since cameras differ in how, too.

Belongs here: changes of pictures by strength and form, for probes and prices. Does not: operators of experiments, which
have one parameter (`imitate.py`, `noise.py`, `normalise.py`). Where a form is such an operator, it is called; not the
other way about, since an experiment's version and the recipe rest on the source text of its operator alone.

All take pictures (B, 3, h, w) in 0..1 and give them back clipped to that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from assets.experiments.imitate import LowResolution
from assets.experiments.normalise import Saturation

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 0.05
"""A Gaussian narrower than that, in pixels, leaves all as it is."""
LARGEST_SEED = 2**31


def blurred(batch: Tensor, down: float, across: float) -> Tensor:
    """Gaussian blur of those deviations in pixels: equal for a lens out of focus, unequal for a camera that moves."""
    from torch.nn import functional

    for axis, sigma in ((2, down), (3, across)):
        if sigma < SMALLEST:
            continue
        weights = _gaussian(sigma, batch.shape[axis] - 1)
        reach = len(weights) // 2
        padding = [reach, reach, 0, 0] if axis == 3 else [0, 0, reach, reach]  # noqa: PLR2004
        padded, length = functional.pad(batch, padding, mode="reflect"), batch.shape[axis]
        total = weights[0] * padded.narrow(axis, 0, length)
        for offset in range(1, len(weights)):
            total.add_(padded.narrow(axis, offset, length), alpha=weights[offset])
        batch = total
    return batch.clamp(0, 1)


def noisy(batch: Tensor, grey: float, colour: float) -> Tensor:
    """Gaussian noise of those deviations in 0..1: in all channels alike, and between them.

    `grey` moves all channels of a pixel by one number, `colour` each by its own less their mean. Noise that is
    independent in every value, of deviation s, has `grey` s/√3 and `colour` s. The same picture always gets the same,
    drawn by a seed that is a sum over its grey levels.
    """
    import torch

    levels = (batch.flatten(1) * 255).round().to(torch.int64)
    places = torch.arange(levels.shape[1], device=batch.device) % 65521 + 1
    drawn = []
    for seed in (levels * places).sum(1).tolist():
        generator = torch.Generator().manual_seed(seed % LARGEST_SEED)
        own = torch.randn(batch.shape[1:], generator=generator)
        common = torch.randn(batch.shape[2:], generator=generator)
        drawn.append(grey * common + colour * (own - own.mean(0)))
    return (batch + torch.stack(drawn).to(batch.device)).clamp(0, 1)


def coarse(batch: Tensor, share: float, blocks: float) -> Tensor:
    """That share of rows and columns is left, shown smoothly (`blocks` 0), as blocks (1), or as a mean of both."""
    from torch.nn import functional

    height, width = batch.shape[2:]
    if share >= 1:
        return batch
    smooth = LowResolution().apply(batch, {"share": share})
    size = [max(1, round(side * share)) for side in (height, width)]
    small = functional.interpolate(batch, size=size, mode="bilinear", antialias=True)
    hard = functional.interpolate(small, size=(height, width), mode="nearest-exact")
    return smooth.lerp(hard, blocks).clamp(0, 1)


def vivid(batch: Tensor, factor: float, hsv: float) -> Tensor:
    """Distance from grey times a factor: about each pixel's luma (`hsv` 0), about its largest channel (1), or between.

    The latter scales HSV's saturation, which is at most 1.
    """
    by_luma = Saturation().apply(batch, {"factor": factor})
    value, least = batch.amax(1, keepdim=True), batch.amin(1, keepdim=True)
    most = value / (value - least).clamp(min=1e-6)  # the factor at which the smallest channel is 0
    by_value = value + most.clamp(max=factor) * (batch - value)
    return by_luma.lerp(by_value, hsv).clamp(0, 1)


def shaded(batch: Tensor, corners: float, power: float) -> Tensor:
    """x → x·e^(c·rᵖ), r the distance from the centre, 1 in the corners: the higher p, the nearer the edge it begins."""
    import torch

    down, right = (torch.linspace(-1, 1, side, device=batch.device) for side in batch.shape[2:])
    radius = torch.hypot(down[:, None], right) / math.sqrt(2)
    return (batch * (corners * radius**power).exp()).clamp(0, 1)


def _gaussian(sigma: float, longest: int) -> list[float]:
    """Weights of a Gaussian out to 3σ, at most `longest` to either side."""
    reach = min(math.ceil(3 * sigma), longest)
    weights = [math.exp(-(place**2) / (2 * sigma**2)) for place in range(-reach, reach + 1)]
    return [weight / sum(weights) for weight in weights]
