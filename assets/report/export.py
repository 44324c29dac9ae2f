"""Export of chosen samples into a new folder: a CSV of their figures, and COCO or FiftyOne beside it.

Belongs here: the folder, copying pictures, what each format is given. Does not: which samples (`selection.py`), the
formats themselves (`coco.py`, `fiftyone.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import polars as pl

from assets.report.coco import write_coco
from assets.report.fiftyone import write_fiftyone
from assets.report.selection import COLUMNS, Sample
from resources.csv_text import csv_text
from resources.errors import ConfigError

FORMATS = ("csv", "coco", "fiftyone")
PICTURES = {"csv": "images", "coco": "images", "fiftyone": "data"}
"""Where copied pictures go."""


def new_folder(path: Path) -> Path:
    """A folder to write into. Raises ConfigError where something is there already."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"--out {path}: already there; expected a new folder")
    path.mkdir(parents=True, exist_ok=True)
    return path


def export_samples(
    rows: pl.DataFrame, samples: Iterable[Sample], class_names: Sequence[str], folder: Path, kind: str, *, copy: bool
) -> int:
    """Write chosen samples in one of `FORMATS` into `folder`; returns how many.

    `rows` and `samples` are those of `selection.py`. No picture is copied unless `copy`; then files are named by their
    place in the choice, since ids may hold anything.
    """
    copied: dict[str, str] = {}
    if copy:
        samples = _copied(samples, folder / PICTURES[kind], copied)
    if kind == "coco":
        count = write_coco(samples, class_names, folder, copied)
    elif kind == "fiftyone":
        count = write_fiftyone(samples, class_names, folder, data=copy)
    else:
        count = sum(1 for _ in samples)
    (folder / "samples.csv").write_text(csv_text(COLUMNS, rows.iter_rows(named=True)), encoding="utf-8")
    return count


def _copied(samples: Iterable[Sample], folder: Path, names: dict[str, str]) -> Iterator[Sample]:
    """The samples, each with its picture copied first; notes the copy's place below the export by stem."""
    folder.mkdir(exist_ok=True)
    for sample in samples:
        shutil.copyfile(sample.image, folder / sample.file)
        names[sample.stem] = f"{folder.name}/{sample.file}"
        yield sample
