"""Imitations: the source's holdout moved towards the target, chosen by the whole trait vector.

Belongs here: operators that destroy information, and the residual by which an imitation is chosen.
Does not: maps that can be fitted either way round (`normalise.py`), trials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
        return {"sigma": self.WIDTHS[best]}

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Blur each channel."""
        from torchvision.transforms.functional import gaussian_blur

        sigma = parameters["sigma"]
        size = 2 * int(np.ceil(3 * sigma)) + 1
        blurred: Tensor = gaussian_blur(batch, [size, size], [sigma, sigma])
        return blurred


def trait_residual(pictures: Tensor, destination: SetStatistics) -> float:
    """Mean absolute effect size (Hedges' g) over all picture traits between some pictures and a set.

    What an imitation leaves of the target's whole trait vector; the smaller, the better it explains the shift.
    """
    from assets.traits.measure import measure_pictures

    measured = measure_pictures(pictures)
    effects: Floats = np.array([hedges_g(values, destination.trait(name)) for name, values in measured.items()])
    effects = np.minimum(np.abs(effects[~np.isnan(effects)]), LARGEST_EFFECT)
    return float(effects.mean()) if effects.size else float("nan")
