"""Samples chosen for export, in order: the worst, the next to label, a slice's, suspected labels, all, or a file's ids.

Belongs here: which samples a word stands for, their figures and files, read one after another. Does not: the formats
that they are written in (`export.py`, `coco.py`, `fiftyone.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from assets.diagnosis.slices import matching, slice_table
from assets.inference.forward import usable
from assets.inference.losses import decode_classes
from resources.datasets.base import Reader
from resources.errors import ConfigError
from resources.sample_store import SampleStore

Mask = NDArray[np.uint8]

COLUMNS = ("sample_id", "group", "split", "height", "width", "labelled", "loss", "entropy", "confidence", "gap_score",
           "conformal_p", "nearest_reference", "label_quality", "image", "mask")  # fmt: skip
EVALUATED = ["loss", "entropy", "confidence", "label_quality", "suspect_pixels", "judged_pixels"]
WORDS = ("worst", "next", "suspects", "all")
SLICE = "slice:"
BLOCK = 64
"""Samples whose predictions are in memory at once."""


@dataclass(frozen=True)
class Sample:
    """One sample to export: a `stem` that is safe as a file name, its figures, its class maps (height, width).

    `mask` is None without a label, `prediction` where none was asked for; both have the picture's size.
    """

    stem: str
    row: dict[str, Any]
    mask: Mask | None
    prediction: Mask | None

    @property
    def image(self) -> Path:
        """The picture's file."""
        return Path(self.row["image"])

    @property
    def file(self) -> str:
        """The picture's name in an export."""
        return self.stem + self.image.suffix.lower()


def select_samples(store: SampleStore, key: str, select: str, most: int | None = None) -> pl.DataFrame:
    """The chosen samples with `COLUMNS`, in the order of the choice.

    Args:
        store: what a run has left.
        key: the target.
        select: one of `WORDS`, 'slice:' and the name of one of the target's slices, or a file with an id a line.
        most: keep no more than the first ones.

    Raises:
        ConfigError: there is no such word, slice or file, or the file names a sample that the target lacks.
    """
    rows = _table(store, key)
    if select.startswith(SLICE):
        ids = _of_slice(store, key, select.removeprefix(SLICE).strip())
    elif select == "next":
        ids = [row["sample_id"] for row in store.read_json("next_samples", f"{key}.json")["chosen"]]
    elif select in WORDS:
        ids = _ranked(rows, select)
    else:
        ids = _of_file(Path(select), set(rows["sample_id"]))
    order = pl.DataFrame({"sample_id": ids[:most]}, schema={"sample_id": pl.String})
    return order.join(rows, on="sample_id", how="left", maintain_order="left").select(COLUMNS)


def read_samples(
    store: SampleStore, key: str, rows: pl.DataFrame, reader: Reader, *, predictions: bool
) -> Iterator[Sample]:
    """The samples of `select_samples` with their class maps, one after another."""
    digits = len(str(rows.height))
    for start in range(0, rows.height, BLOCK):
        block = rows.slice(start, BLOCK)
        predicted = _predictions(store, key, block["sample_id"].to_list()) if predictions else {}
        for place, row in enumerate(block.iter_rows(named=True), start + 1):
            size = row["height"], row["width"]
            mask = _at_size(reader.read_mask(Path(row["mask"])), size) if row["labelled"] else None
            png = predicted.get(row["sample_id"])
            shown = _at_size(decode_classes(png), size) if png is not None else None
            yield Sample(f"{place:0{digits}d}", row, mask, shown)


def _table(store: SampleStore, key: str) -> pl.DataFrame:
    manifest = usable(store.table(key, "manifest").read())
    evaluation = store.table(key, "evaluation").read(EVALUATED)
    scores = store.table(key, "gap_scores").read(["gap_score", "conformal_p", "neighbours"])
    rows = manifest.join(evaluation, on="sample_id", how="left").join(scores, on="sample_id", how="left")
    return rows.with_columns(nearest_reference=pl.col("neighbours").list.first()).sort("sample_id")


def _ranked(rows: pl.DataFrame, select: str) -> list[str]:
    """Ids by a word: the worst by loss (by gap score without labels), the most doubtful labels first."""
    if select == "worst":
        by = "loss" if rows["loss"].is_not_null().any() else "gap_score"
        rows = rows.filter(pl.col(by).is_not_null()).sort(by, "sample_id", descending=[True, False])
    elif select == "suspects":
        rows = rows.filter(pl.col("suspect_pixels").list.sum() > 0).sort("label_quality", "sample_id")
    ids: list[str] = rows["sample_id"].to_list()
    return ids


def _of_slice(store: SampleStore, key: str, name: str) -> list[str]:
    diagnosis = store.read_json("diagnosis", f"{key}.json")
    slices = [*diagnosis["slices"], *([diagnosis["suspect_slice"]] if diagnosis["suspect_slice"] else [])]
    where = {row["name"]: row["where"] for row in slices}
    if name not in where:
        known = "; ".join(where) or "none: no slice was found"
        raise ConfigError(f"--select {SLICE}{name}: {key} has no such slice; there are {known}")
    evaluation = store.table(key, "evaluation").read(["loss", "suspect_pixels", "judged_pixels"])
    return matching(slice_table(evaluation, store.table(key, "traits").read()), where[name])


def _of_file(path: Path, known: set[str]) -> list[str]:
    if not path.is_file():
        raise ConfigError(
            f"--select {path}: expected {', '.join(WORDS)}, {SLICE}<name>, or a file with a sample id a line"
        )
    ids = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for name in ids:
        if name not in known:
            raise ConfigError(f"{path}: no usable sample {name!r} in the target; ids are those of its manifest")
    return list(dict.fromkeys(ids))


def _predictions(store: SampleStore, key: str, ids: list[str]) -> dict[str, bytes]:
    rows = store.table(key, "evaluation").scan().filter(pl.col("sample_id").is_in(ids))
    return dict(rows.select("sample_id", "prediction").collect().iter_rows())


def _at_size(classes: Mask, size: tuple[int, int]) -> Mask:
    """A class map at another size, each pixel from the nearest."""
    if classes.shape == size:
        return classes
    return np.asarray(Image.fromarray(classes).resize((size[1], size[0]), Image.Resampling.NEAREST))
