"""Traits of single regions: how the road looks, how near the cars are, what stands by the road, how open the sky is.

Belongs here: numbers from a picture and its mask together, and those of the mask that need more than one class.
Does not: traits of the whole picture (colour.py, texture.py), shares and counts of each class (layout.py), resizing.

What the road looks like is the strongest control for content against camera. A picture with more vegetation is greener
and one with more sky is brighter without any change of the camera; the road is asphalt in both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from assets.traits.layout import EIGHT_NEIGHBOURS, LEAST_AREA, bounds, region_areas, road_horizon, slug

if TYPE_CHECKING:
    from torch import Tensor

LEAST_SHARE = 0.005
"""Share of the picture that a class must cover for its look to be measured."""

LOOK = ("brightness", "saturation", "tint_a", "tint_b", "sharpness")
"""What is measured of the road's look, in the order of the columns `road_<look>`."""

ROADSIDE = frozenset(["pole", "post", "sign", "light", "lamp", "bollard", "hydrant", "meter"])
"""Words in a class name that say that its regions are things that stand by the road."""

CARS = ("car", "vehicle")
"""The class of cars is the first of these that there is."""

MOST_PIXELS = 1 << 12
"""Pixels, evenly spaced, of which a region's mean look is taken."""

_LEAST_VARIANCE = 1e-8

Number = TypeVar("Number", bound=np.generic)


def class_of(class_names: Sequence[str], *wanted: str) -> int | None:
    """Index of the class of the first name in `wanted` that there is, in the singular or plural; None without one."""
    singulars = [slug(name).removesuffix("s") for name in class_names]
    return next((singulars.index(name) for name in wanted if name in singulars), None)


def roadside_classes(class_names: Sequence[str]) -> list[int]:
    """Indices of the classes whose regions are things that stand by the road."""
    words = [{word.removesuffix("s") for word in slug(name).split("_")} for name in class_names]
    return [index for index, found in enumerate(words) if found & ROADSIDE]


def measure_regions(picture: Tensor, mask: NDArray[np.uint8], class_names: Sequence[str]) -> dict[str, float]:
    """Traits of regions of one picture, float32 (3, H, W) in 0..1 on the processor, and its mask (H, W) of classes.

    Each is there only for `class_names` that have its class: `measure_road`'s, and of the mask alone

    - `nearest_car_size`: height of the car region (class car, else vehicle) whose lower border is lowest, as a share of
      the picture's; of regions of at least 1/10,000 of the picture, NaN without one. Cars that touch are one region.
    - `roadside_objects`: regions of poles, signs, lights and the like, all classes taken together, so that a sign on
      its pole is one; of at least 1/10,000 of the picture. NaN where nothing is labelled.
    - `sky_above_horizon`: share of sky in the labelled pixels above `road_horizon`, or above the middle of the picture
      where there is no road, or none below the top; NaN where nothing is labelled there.
    """
    values = measure_road(picture, mask, class_names)
    road, car, sky = class_of(class_names, "road"), class_of(class_names, *CARS), class_of(class_names, "sky")
    roadside = roadside_classes(class_names)
    if car is not None:
        values["nearest_car_size"] = _nearest_height(mask == car)
    if roadside:
        labelled = bool((mask < len(class_names)).any())
        values["roadside_objects"] = _count(np.isin(mask, roadside)) if labelled else math.nan
    if sky is not None:
        values["sky_above_horizon"] = _sky_above_horizon(mask, sky, road, len(class_names))
    return values


def measure_road(picture: Tensor, mask: NDArray[np.uint8], class_names: Sequence[str]) -> dict[str, float]:
    """The traits of regions that hang on the picture's pixels; {} where no class is road.

    - `road_brightness`, `road_saturation`, `road_tint_a`, `road_tint_b`: means of luma, of chroma (largest minus
      smallest channel) and of CIE Lab's a and b, over the road's pixels, or 4,096 of them evenly spaced.
    - `road_sharpness`: log10 of the variance of luma's 4-neighbour Laplacian over pixels whose neighbours are road as
      well, so that the road's outline does not count; floored at 1e-8. All five are NaN where fewer than 0.5% of the
      picture's pixels are road (for sharpness: have road around them).
    """
    road = class_of(class_names, "road")
    if road is None:
        return {}
    return {f"road_{name}": value for name, value in region_look(picture, mask == road).items()}


def region_look(picture: Tensor, member: NDArray[np.bool_]) -> dict[str, float]:
    """How the pixels `member` (H, W) of a picture (3, H, W) look, by the names in `LOOK`; see `measure_road`."""
    from assets.traits.colour import lab, luma

    least = max(1.0, LEAST_SHARE * member.size)
    if member.sum() < least:
        return dict.fromkeys(LOOK, math.nan)
    inside = np.flatnonzero(member)
    pixels = picture.flatten(1)[:, inside[:: math.ceil(len(inside) / MOST_PIXELS)]].float()[None, :, :, None]
    rows, columns = bounds(member)
    window = luma(picture[None, :, rows, columns].float())[0].numpy()
    _, tint_a, tint_b = lab(pixels)[0].mean(dim=(1, 2)).tolist()
    return {
        "brightness": float(luma(pixels).mean()),
        "saturation": float((pixels.amax(dim=1) - pixels.amin(dim=1)).mean()),
        "tint_a": tint_a,
        "tint_b": tint_b,
        "sharpness": _sharpness(window, member[rows, columns], least),
    }


def _sharpness(grey: NDArray[np.float32], member: NDArray[np.bool_], least: float) -> float:
    if min(grey.shape) < 3:  # noqa: PLR2004
        return math.nan
    centre, *around = _cross(member)
    inner = np.logical_and.reduce([centre, *around])
    if inner.sum() < least:
        return math.nan
    level, up, down, left, right = _cross(grey)
    laplacian = up + down + left + right - 4 * level
    return math.log10(max(_LEAST_VARIANCE, float(laplacian[inner].var())))


def _cross(plane: NDArray[Number]) -> list[NDArray[Number]]:
    """The plane without its margin, and the same shifted up, down, left and right."""
    return [plane[1:-1, 1:-1], plane[:-2, 1:-1], plane[2:, 1:-1], plane[1:-1, :-2], plane[1:-1, 2:]]


def _nearest_height(car: NDArray[np.bool_]) -> float:
    from scipy import ndimage

    if not car.any():
        return math.nan
    regions, _ = ndimage.label(car[bounds(car)], structure=EIGHT_NEIGHBOURS)
    areas = np.bincount(regions.ravel())[1:]
    spans = [rows for area, (rows, _) in zip(areas, ndimage.find_objects(regions), strict=True)
             if area >= LEAST_AREA * car.size]  # fmt: skip
    if not spans:
        return math.nan
    nearest = max(spans, key=lambda rows: (rows.stop, rows.stop - rows.start))
    return float(nearest.stop - nearest.start) / len(car)


def _count(member: NDArray[np.bool_]) -> float:
    return float(len(region_areas(member))) if member.any() else 0.0


def _sky_above_horizon(mask: NDArray[np.uint8], sky: int, road: int | None, classes: int) -> float:
    height = len(mask)
    horizon = road_horizon(mask == road) if road is not None else math.nan
    above = mask[: round(horizon * height) if horizon > 0 else height // 2]
    labelled = int((above < classes).sum())
    return float((above == sky).sum()) / labelled if labelled else math.nan
