"""The list of suspected label errors as a file to work through: `label_errors.csv`.

Belongs here: its columns and rows. Does not: what is suspected (inference, diagnosis), the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from assets.diagnosis.gather import Sides
from assets.diagnosis.label_policy import label_errors
from resources.csv_text import csv_text

COLUMNS = ("side", "sample_id", "label_quality", "suspect_share", "suspect_pixels", "labelled", "probably",
           "confidence", "image", "mask", "checked")  # fmt: skip


def label_list(sides: Sides, class_names: Sequence[str]) -> str:
    """Every labelled sample of target and holdout with suspected pixels as CSV: the target's first, the worst first.

    `label_quality` 0 (bad) to 1 (good); `suspect_share` of the labelled pixels, `suspect_pixels` their number at the
    model's resolution; `labelled`, `probably`: the pair of classes over which most confidence is lost, and the model's
    mean `confidence` there; `checked` is left to the reader. A text that a spreadsheet would run gets an apostrophe.
    """
    sides_read = (
        ("target", sides.labelled_target, sides.target_manifest), ("holdout", sides.holdout, sides.source_manifest),
    )  # fmt: skip
    return csv_text(COLUMNS, (
        {"side": side, **cells} for side, rows, manifest in sides_read for cells in _cells(rows, manifest, class_names)
    ))  # fmt: skip


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
