"""The list of suspected label errors as a file to work through: `label_errors.csv`.

Belongs here: its columns and how they are written. Does not: what is suspected (inference, diagnosis), the page.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from assets.diagnosis.gather import Sides
from assets.diagnosis.label_policy import label_errors

COLUMNS = ("side", "sample_id", "label_quality", "suspect_share", "suspect_pixels", "labelled", "probably",
           "confidence", "image", "mask", "checked")  # fmt: skip
DIGITS = 4
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet runs a cell that begins so."""


def label_list(sides: Sides, class_names: Sequence[str]) -> str:
    """Every labelled sample of target and holdout with suspected pixels as CSV: the target's first, the worst first.

    `label_quality` 0 (bad) to 1 (good); `suspect_share` of the labelled pixels, `suspect_pixels` their number at the
    model's resolution; `labelled`, `probably`: the pair of classes over which most confidence is lost, and the model's
    mean `confidence` there; `checked` is left to the reader. A text that a spreadsheet would run gets an apostrophe.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for side, rows, manifest in (
        ("target", sides.labelled_target, sides.target_manifest), ("holdout", sides.holdout, sides.source_manifest),
    ):  # fmt: skip
        for cells in _cells(rows, manifest, class_names):
            writer.writerow({"side": side, **{name: _safe(value) for name, value in cells.items()}})
    return buffer.getvalue()


def _cells(rows: pl.DataFrame, manifest: pl.DataFrame, class_names: Sequence[str]) -> Iterator[dict[str, Any]]:
    files = {name: paths for name, *paths in manifest.select("sample_id", "image", "mask").iter_rows()}
    for row in label_errors(rows, class_names, most=rows.height):
        image, mask = files[row["sample_id"]]
        yield {
            "sample_id": row["sample_id"], "label_quality": row["label_quality"],
            "suspect_share": row["suspect_share"], "suspect_pixels": sum(row["suspect_pixels"].values()),
            "labelled": row["disputed_label"], "probably": row["disputed_as"],
            "confidence": row["disputed_confidence"], "image": image, "mask": mask, "checked": "",
        }  # fmt: skip


def _safe(value: Any) -> Any:
    """A cell: floats to a few digits, texts that no spreadsheet takes for a formula."""
    if isinstance(value, float):
        return round(value, DIGITS)
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
