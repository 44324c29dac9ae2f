"""Samples as a COCO data set: `annotations.json`, and predictions as COCO results.

Belongs here: COCO's fields and its run-length encoding. Does not: which samples, copying pictures (`export.py`).

A class's pixels in a picture are one annotation: a region, not an object, so `iscrowd` is 1 and the segmentation is
run-length encoded, as COCO defines both (https://cocodataset.org/#format-data).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.report.selection import Mask, Sample
from resources.datasets.base import IGNORE

FIGURES = ("sample_id", "group", "split", "loss", "entropy", "confidence", "gap_score", "conformal_p")
"""What is known of a sample goes into its image, under names that COCO leaves free."""


def write_coco(samples: Iterable[Sample], class_names: Sequence[str], folder: Path, names: dict[str, str]) -> int:
    """Write `annotations.json`, and `predictions.json` where samples have predictions; returns how many samples.

    Args:
        samples: read once, one after another.
        class_names: the category of class i has id i + 1.
        folder: where to write; it exists.
        names: what `file_name` is of a stem; the picture's own path where it has none.
    """
    categories = [{"id": i, "name": name, "supercategory": "class"} for i, name in enumerate(class_names, 1)]
    images: list[dict[str, Any]] = []
    with (
        (folder / "annotations.json").open("w", encoding="utf-8") as annotations,
        (folder / "predictions.json").open("w", encoding="utf-8") as results,
    ):
        annotations.write('{"annotations": [')
        results.write("[")
        annotated = predicted = 0
        for number, sample in enumerate(samples, 1):
            images.append(_image(number, sample, names))
            for row in _regions(sample.mask, number):
                _append(annotations, {"id": annotated + 1, "iscrowd": 1, **row}, first=annotated == 0)
                annotated += 1
            for row in _regions(sample.prediction, number):
                _append(results, _result(row, sample.row["confidence"]), first=predicted == 0)
                predicted += 1
        results.write("]\n")
        rest = {"info": {"description": "exported by Domain Gap", "version": "1.0"}, "licenses": [],
                "categories": categories, "images": images}  # fmt: skip
        annotations.write("], " + json.dumps(rest, allow_nan=False)[1:] + "\n")
    if not predicted:
        (folder / "predictions.json").unlink()
    return len(images)


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed counts of a mask (h, w): runs of 0 and 1 in turn, column by column, 0 first."""
    flat = np.asarray(mask, dtype=np.int8).ravel(order="F")
    ends = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])
    counts: list[int] = np.diff(ends).tolist()
    return [0, *counts] if flat[0] else counts


def compressed(counts: Sequence[int]) -> str:
    """COCO's compressed counts: differences to the run before last, five bits a character from '0' on (maskApi.c)."""
    text = []
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count  # noqa: PLR2004 -- the first three stand as they are
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr(48 + (bits | 32 if more else bits)))
    return "".join(text)


def _image(number: int, sample: Sample, names: dict[str, str]) -> dict[str, Any]:
    row = sample.row
    size = {"height": row["height"], "width": row["width"]}
    file_name = names.get(sample.stem, str(sample.image))
    return {"id": number, "file_name": file_name, **size, **{name: _finite(row[name]) for name in FIGURES}}


def _regions(classes: Mask | None, image_id: int) -> list[dict[str, Any]]:
    """One annotation for each class that is there: area in pixels, bbox x, y, width, height."""
    if classes is None:
        return []
    found = []
    for index in np.unique(classes[classes != IGNORE]).tolist():
        mask = classes == index
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top = int(columns[0]), int(rows[0])
        found.append({
            "image_id": image_id, "category_id": index + 1, "area": int(mask.sum()),
            "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
            "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
        })  # fmt: skip
    return found


def _result(row: dict[str, Any], confidence: float) -> dict[str, Any]:
    """A prediction as COCO's results have it: compressed, with a score (the picture's mean confidence)."""
    segmentation = {"size": row["segmentation"]["size"], "counts": compressed(row["segmentation"]["counts"])}
    return {"image_id": row["image_id"], "category_id": row["category_id"], "segmentation": segmentation,
            "score": confidence}  # fmt: skip


def _append(file: Any, row: dict[str, Any], *, first: bool) -> None:
    file.write(("" if first else ",\n") + json.dumps(row))


def _finite(value: Any) -> Any:
    return value if not isinstance(value, float) or np.isfinite(value) else None
