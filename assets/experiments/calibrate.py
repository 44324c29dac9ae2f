"""Labelled pictures under imitations: what estimates of the loss without labels are fitted to, and judged by.

Belongs here: which imitations, their losses and label-free sums on a few pictures of the holdout.
Does not: fitting a calibration (`diagnosis/estimated.py`), what explains a target (`explain.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from assets.diagnosis.estimated import Shifted, expected_losses
from assets.experiments.explanation import probed_ids
from assets.experiments.responses import Setting, probes
from assets.inference.estimation import ESTIMATION_SCHEMA, estimation_columns
from assets.inference.forward import sample_paths
from assets.inference.losses import at_label_pixels, pixel_sums
from resources.engine import MapBatches, Notes, Streams
from resources.fingerprint import fingerprint
from resources.model import SegmentationModel
from resources.pictures import Batch
from resources.progress import track
from resources.sample_store import SampleTable

if TYPE_CHECKING:
    from torch import Tensor

IMITATED: dict[str, tuple[Setting, ...]] = {
    "exposure": ((1.6, 0.8), (2.5, 0.6), (0.5, 1.1)),
    "white_balance": ((0.7, 1.3), (1.3, 0.6)),
    "contrast": ((0.6,), (0.35,)),
    "saturation": ((0.3, 0.0), (2.2, 0.0)),
    "haze": ((0.6,), (0.4,)),
    "vignette": ((-1.5, 1.5), (-3.0, 3.0)),
    "noise": ((0.04, 0.02), (0.1, 0.06)),
    "compression": ((12.0,), (6.0,)),
    "sharpness": ((1.2, 1.2), (2.5, 2.5)),
    "resolution": ((0.4, 0.0), (0.2, 0.0)),
}
"""Settings of each imitation: one that costs some loss, one that costs much."""
UNTOUCHED = "untouched"

IMITATED_SCHEMA: dict[str, Any] = {
    "row_id": pl.String,
    "fingerprint": pl.String,
    "sample_id": pl.String,
    "imitation": pl.String,
    "setting": pl.Int64,
    "loss": pl.Float64,
    **ESTIMATION_SCHEMA,
}

Change = Callable[["Tensor"], "Tensor"]


@dataclass(frozen=True)
class Imitated:
    """The computation of the pass. Notes: the fingerprint of each row of a sample that is due, by row id."""

    model: SegmentationModel

    @property
    def streams(self) -> Streams:
        """What the model allows."""
        return Streams.of(self.model)

    def __call__(self, batch: Batch, notes: Notes) -> pl.DataFrame:
        """The due rows of a batch under every imitation."""
        rows = [row for key, change in _changes().items() for row in _rows(self.model, batch, key, change, notes)]
        return pl.DataFrame(rows, schema=IMITATED_SCHEMA).filter(pl.col("fingerprint").is_not_null())


def measure_imitated(
    model: SegmentationModel, manifest: pl.DataFrame, run: MapBatches, table: SampleTable, *, code: str
) -> pl.DataFrame:
    """Bring the table of a few holdout pictures under every imitation up to date, and return its rows.

    `manifest`: the source's. A picture is decoded once for all imitations; rows are committed batch by batch.
    """
    samples = manifest.filter(pl.col("sample_id").is_in(probed_ids(manifest))).sort("sample_id")
    content = samples.select("sample_id", "image_hash", "mask_hash", "labels_version").rows()
    pairs = [
        (f"{name}@{place}:{sample}", fingerprint(of_sample, model.fingerprint, code))
        for name, place in _changes()
        for sample, *of_sample in content
    ]
    wanted = pl.DataFrame(pairs, schema={"row_id": pl.String, "fingerprint": pl.String}, orient="row")
    stale, prints = table.diff(wanted), dict(pairs)
    notes: dict[str, dict[str, str]] = {}
    for row in stale.stale:
        notes.setdefault(row.partition(":")[2], {})[row] = prints[row]
    paths = sample_paths(samples)
    todo = [paths[name] for name in sorted(notes)]
    found = run(todo, Imitated(model), notes)
    for done in track(found, "source: imitations", len(todo), size=lambda done: len(done.ids)):
        table.upsert(done.result, new=stale.new)
    table.remove(stale.removed)
    table.finish()
    return table.read()


def shifted_sets(rows: pl.DataFrame) -> tuple[Shifted, list[Shifted]] | None:
    """The untouched pictures, and those under each imitation, from the table's rows; None where there are none."""
    known = rows.filter(pl.col("loss").is_not_nan()).sort("imitation", "setting", "sample_id")
    sets = [
        Shifted(str(key[0]), group["loss"].to_numpy().astype(np.float64), expected_losses(group))
        for key, group in known.group_by("imitation", "setting", maintain_order=True)
    ]
    untouched = next((one for one in sets if one.name == UNTOUCHED), None)
    if untouched is None:
        return None
    return untouched, [one for one in sets if one.name != UNTOUCHED]


def _changes() -> dict[tuple[str, int], Change | None]:
    found: dict[tuple[str, int], Change | None] = {(UNTOUCHED, 0): None}
    for probe in probes(IMITATED):
        change = probe.change
        assert change is not None
        for place, setting in enumerate(IMITATED[probe.experiment]):
            found[probe.experiment, place] = _at(change, setting)
    return found


def _at(change: Callable[[Tensor, Setting], Tensor], setting: Setting) -> Change:
    return lambda batch: change(batch, setting)


def _rows(
    model: SegmentationModel, batch: Batch, key: tuple[str, int], change: Change | None, notes: Notes
) -> Iterator[dict[str, Any]]:
    outputs = model(batch.reduced if change is None else change(batch.reduced))
    for i, picture in enumerate(batch.pictures):
        if picture.mask is None:
            raise ValueError(f"{picture.sample_id}: calibrating needs labels")
        logits, row_id = outputs.logits[i], f"{key[0]}@{key[1]}:{picture.sample_id}"
        scores = at_label_pixels(logits, (picture.mask.shape[0], picture.mask.shape[1]))
        yield {
            "row_id": row_id, "fingerprint": notes[picture.sample_id].get(row_id), "sample_id": picture.sample_id,
            "imitation": key[0], "setting": key[1], "loss": pixel_sums(scores, picture.mask).loss,
            **estimation_columns(logits),
        }  # fmt: skip
