"""The one-parameter matcher: any graded operator and any trait of pictures make a hypothesis that can be tried.

Belongs here: the contract of graded operators, the search for the parameter at which a trait agrees, measuring one
trait of some pictures. Does not: particular operators (`normalise.py`, `imitate.py`, `noise.py`), closed forms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import numpy as np

from assets.experiments.operators import Floats, NotApplicable, Parameters, PictureOperator, SetStatistics

if TYPE_CHECKING:
    from torch import Tensor

SAME = 0.1
"""Difference of medians, in pooled deviations of the trait, below which sets agree: half of a 'small' effect."""
PICTURES_TRIED = 16
"""How many of a set's few pictures a search looks at: the change is paired, so that few tell it well."""
STEPS = 10
"""Most evaluations of a search between neutral and a bound."""
TOLERANCE = 0.004
"""Where a search stops, as a share of the bounds' distance."""

Measure = Callable[["Tensor"], Floats]
"""A trait of a batch (n, 3, H, W) in 0..1: one number a picture, (n,)."""


@runtime_checkable
class Graded(Protocol):
    """A family of maps of pictures with one parameter θ, of which a trait is a monotone function.

    `bounds`: the smallest and the largest θ. `neutral`: the θ, within or at the bounds, that changes nothing.
    """

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest θ."""
        ...

    @property
    def neutral(self) -> float:
        """The θ that changes nothing."""
        ...

    def at(self, theta: float) -> Parameters:
        """What `apply` takes for that θ."""
        ...

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Map a batch float32 (n, 3, H, W) in 0..1; the result is within 0..1. Carried in recipes: torch alone."""
        ...


@dataclass(frozen=True)
class Matched:
    """A graded operator at the θ that takes the median of a trait to the destination's: a picture operator.

    `measure` tells the trait of pictures where it is none of `measure_pictures`.
    """

    operator: Graded
    trait: str
    measure: Measure | None = None

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """Parameters at the θ found.

        The origin's median after the map is estimated as its median over all samples plus the median change that the
        map makes on a few of its pictures. Raises NotApplicable where the sets agree already, or no θ comes closer.
        """
        wanted, present = medians(destination, origin, self.trait)
        pictures = origin.pictures[:PICTURES_TRIED]
        measure = self.measure or measure_of(self.trait)
        before = measure(pictures)

        def change(theta: float) -> float:
            return float(np.nanmedian(measure(self.operator.apply(pictures, self.operator.at(theta))) - before))

        theta = search(change, wanted - present, self.operator.bounds, self.operator.neutral)
        if theta is None:
            low, high = self.operator.bounds
            raise NotApplicable(
                f"no {type(self.operator).__name__} between {low:g} and {high:g} takes {self.trait} closer to "
                f"{wanted:.3g} (it is {present:.3g})"
            )
        return self.operator.at(round(theta, 4))

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Map a batch as the graded operator does."""
        return self.operator.apply(batch, parameters)


def bare(operator: PictureOperator) -> PictureOperator:
    """What maps pictures inside an operator: a matched one's graded operator. Recipes carry its source text."""
    return cast(PictureOperator, operator.operator) if isinstance(operator, Matched) else operator


def medians(destination: SetStatistics, origin: SetStatistics, trait: str) -> tuple[float, float]:
    """Medians of a trait in both sets. Raises NotApplicable where one lacks it or they agree already."""
    if not all(trait in side.traits.columns and len(side.trait(trait)) for side in (destination, origin)):
        raise NotApplicable(f"{trait} is not measured in both sets")
    there, here = destination.trait(trait), origin.trait(trait)
    wanted, present = float(np.median(there)), float(np.median(here))
    spread = math.sqrt((float(there.var()) + float(here.var())) / 2)
    if abs(wanted - present) <= SAME * spread:
        raise NotApplicable(f"{trait} agrees already: {wanted:.3g} against {present:.3g} (deviation {spread:.2g})")
    return wanted, present


def search(
    change: Callable[[float], float], wanted: float, bounds: tuple[float, float], neutral: float
) -> float | None:
    """The θ at which a monotone change from neutral is the one wanted; the bound where even that changes less.

    None where no bound changes anything in the direction that is wanted, or the best one misses by as much as neutral.
    """
    from scipy.optimize import brentq

    for bound in bounds:
        if bound == neutral:
            continue
        reached = change(bound)
        if not reached * wanted > 0:
            continue
        if abs(reached) <= abs(wanted):
            return bound
        found = brentq(
            lambda theta: -wanted if theta == neutral else change(theta) - wanted,
            neutral, bound, xtol=TOLERANCE * (bounds[1] - bounds[0]), maxiter=STEPS, full_output=True, disp=False,
        )[0]  # fmt: skip
        theta = float(found)
        return theta if abs(change(theta) - wanted) < abs(wanted) else None
    return None


def measure_of(trait: str) -> Measure:
    """How to measure one picture trait, without all others where that saves time. Raises NotApplicable otherwise."""
    from assets.traits import colour, texture
    from assets.traits.measure import PICTURE_TRAITS, measure_pictures

    def of_luma(trait_of: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda batch: trait_of(colour.luma(batch))

    quick: dict[str, Callable[[Tensor], Tensor]] = {
        "brightness": of_luma(lambda grey: grey.mean(dim=(1, 2))),
        "contrast": of_luma(lambda grey: grey.std(dim=(1, 2), correction=0)),
        "saturation": lambda batch: (batch.amax(dim=1) - batch.amin(dim=1)).mean(dim=(1, 2)),
        "sharpness": of_luma(texture.sharpness),
        "noise_sigma": texture.noise_sigma,
        "vignette": of_luma(texture.vignette),
        "dark_channel": texture.dark_channel,
        "lab_a_mean": lambda batch: colour.lab(batch)[:, 1].mean(dim=(1, 2)),
        "lab_b_mean": lambda batch: colour.lab(batch)[:, 2].mean(dim=(1, 2)),
    }
    if trait in quick:
        return lambda batch: quick[trait](batch).cpu().numpy().astype(np.float64)
    if trait not in PICTURE_TRAITS:
        raise NotApplicable(f"{trait} can't be measured on changed pictures; give the match a `measure`")
    return lambda batch: measure_pictures(batch, [trait])[trait]
