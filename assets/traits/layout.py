"""Layout traits: what a label mask says about a scene: shares, counts and sizes of classes, horizons, clutter.

Belongs here: numbers from class-index masks alone, annotated or predicted.
Does not: pixels' values, of the whole picture or of a class (regional.py), resizing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COUNTABLE = frozenset(
    ["car", "vehicle", "van", "truck", "bus", "train", "person", "pedestrian", "rider", "cyclist", "bicycle", "bike",
     "motorcycle", "pole", "sign", "light"]
)  # fmt: skip
"""Words in a class name that say that its regions are objects, to be counted and measured."""

LEAST_AREA = 1e-4
"""Smallest object, as a share of the picture: smaller regions are specks of the mask."""

GRID = 8
"""Cells per side in which `layout_entropy` looks at classes."""

ROAD_WIDTH = 0.01
"""Share of a row that must be road for it to count as the topmost road row."""

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


def slug(class_name: str) -> str:
    """A class name as part of a trait's name: 'Traffic light' becomes 'traffic_light'."""
    return re.sub(r"\W+", "_", class_name.lower()).strip("_")


def is_countable(class_name: str) -> bool:
    """Whether regions of the class are objects: one of its words (or its singular) is in `COUNTABLE`."""
    words = slug(class_name).split("_")
    return any(word in COUNTABLE or word.removesuffix("s") in COUNTABLE for word in words)


def measure_layout(mask: NDArray[np.uint8], class_names: Sequence[str]) -> dict[str, float]:
    """Layout traits of one mask (height, width) of indices into `class_names`; other indices are ignored.

    - `labelled`: share of pixels that carry a class, 0..1.
    - `share_<class>`: share of the labelled pixels, 0..1; NaN where nothing is labelled.
    - `count_<class>`: 8-connected regions of at least 1/10,000 of the picture. Objects that touch count as one.
    - `median_size_<class>`, `largest_size_<class>`: root of a region's share of the picture, 0..1; NaN without one.
    - `sky_horizon`: median over columns that hold sky of its lower border, 0 top to 1 bottom; NaN without sky.
    - `road_horizon`: upper border of the topmost row that is road for at least 1% of its width; NaN without road.
    - `layout_entropy`: entropy of classes in bits within the cells of an 8×8 grid, mean over cells with labels; 0 where
      each cell holds one class, NaN where nothing is labelled.
    """
    known = mask < len(class_names)
    counts = np.bincount(mask[known], minlength=len(class_names))
    labelled = int(counts.sum())
    values = {"labelled": labelled / mask.size}
    for index, name in enumerate(class_names):
        key = slug(name)
        values[f"share_{key}"] = float(counts[index]) / labelled if labelled else math.nan
        if is_countable(name):
            values.update(_objects(key, mask == index, present=bool(counts[index])))
        if key == "sky":
            values["sky_horizon"] = _sky_horizon(mask == index)
        if key == "road":
            values["road_horizon"] = road_horizon(mask == index)
    values["layout_entropy"] = _layout_entropy(mask, known, len(class_names))
    return values


def _objects(key: str, member: NDArray[np.bool_], *, present: bool) -> dict[str, float]:
    sizes = np.sqrt(region_areas(member) / member.size) if present else np.empty(0)
    return {
        f"count_{key}": float(len(sizes)),
        f"median_size_{key}": float(np.median(sizes)) if len(sizes) else math.nan,
        f"largest_size_{key}": float(sizes.max()) if len(sizes) else math.nan,
    }


def bounds(member: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of the smallest window that holds all pixels of a mask that is not empty."""
    rows, columns = np.flatnonzero(member.any(axis=1)), np.flatnonzero(member.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def region_areas(member: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Pixels of each 8-connected region of a mask that is not empty, of those large enough to be an object."""
    from scipy import ndimage

    regions, _ = ndimage.label(member[bounds(member)], structure=EIGHT_NEIGHBOURS)
    areas: NDArray[np.int64] = np.bincount(regions.ravel())[1:]
    return areas[areas >= LEAST_AREA * member.size]


def _sky_horizon(sky: NDArray[np.bool_]) -> float:
    columns = sky[:, sky.any(axis=0)]
    if not columns.size:
        return math.nan
    border = len(sky) - np.argmax(columns[::-1], axis=0)
    return float(np.median(border)) / len(sky)


def road_horizon(road: NDArray[np.bool_]) -> float:
    """The trait `road_horizon` alone, of the road's pixels (height, width)."""
    rows = np.flatnonzero(road.sum(axis=1) >= max(1, ROAD_WIDTH * road.shape[1]))
    return float(rows[0]) / len(road) if len(rows) else math.nan


def _layout_entropy(mask: NDArray[np.uint8], known: NDArray[np.bool_], classes: int) -> float:
    height, width = mask.shape
    cell = (np.arange(height) * GRID // height)[:, None] * GRID + np.arange(width) * GRID // width
    counts = np.bincount(cell[known] * classes + mask[known], minlength=GRID * GRID * classes)
    counts = counts.reshape(-1, classes)
    counts = counts[counts.any(axis=1)]
    if not len(counts):
        return math.nan
    shares = counts / counts.sum(axis=1, keepdims=True)
    terms = np.zeros_like(shares)
    np.log2(shares, out=terms, where=shares > 0)
    return float(-(shares * terms).sum(axis=1).mean()) + 0.0
