"""The one pass: samples in, embeddings and evaluation out, each row computed once.

Belongs here: which samples a pass needs, their fingerprints, and the loop over batches.
Does not: what is measured on outputs (`latents.py`, `losses.py`), experiments' own passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from assets.inference.estimation import estimation_columns
from assets.inference.label_quality import label_quality
from assets.inference.latents import EMBEDDING_SCHEMA, embedding_rows
from assets.inference.losses import EVALUATION_SCHEMA, Evaluation, at_label_pixels, encode_classes, evaluate
from resources.commits import committing
from resources.engine import MapBatches, Notes, Streams
from resources.fingerprint import fingerprint
from resources.model import Outputs, SegmentationModel
from resources.pictures import Batch, Picture, SamplePaths, to_input_mask
from resources.progress import track
from resources.sample_store import Change, SampleTable


@dataclass(frozen=True)
class PassTables:
    """The tables that one pass fills; None for one that is not asked for."""

    embeddings: SampleTable | None
    evaluation: SampleTable | None


def sample_paths(manifest: pl.DataFrame) -> dict[str, SamplePaths]:
    """Paths of a manifest's samples by id."""
    rows = manifest.select("sample_id", "image", "mask").iter_rows()
    return {name: SamplePaths(name, Path(image), Path(mask) if mask else None) for name, image, mask in rows}


def usable(manifest: pl.DataFrame) -> pl.DataFrame:
    """The manifest without quarantined samples and those that no part selects."""
    return manifest.filter(~pl.col("quarantined") & (pl.col("part") != "unused"))


def embedding_fingerprints(manifest: pl.DataFrame, model_version: str, code: str) -> pl.DataFrame:
    """Wanted rows of the embeddings table: content of the picture, model, code."""
    return _wanted(manifest, ["image_hash"], model_version, code)


def evaluation_fingerprints(manifest: pl.DataFrame, model_version: str, code: str) -> pl.DataFrame:
    """Wanted rows of the evaluation table: content of picture and mask, label map, model, code."""
    return _wanted(manifest, ["image_hash", "mask_hash", "labels_version"], model_version, code)


def _wanted(manifest: pl.DataFrame, columns: list[str], *decides: str) -> pl.DataFrame:
    rows = manifest.select("sample_id", *columns).iter_rows()
    pairs = [(sample_id, fingerprint(content, decides)) for sample_id, *content in rows]
    return pl.DataFrame(pairs, schema={"sample_id": pl.String, "fingerprint": pl.String}, orient="row")


@dataclass(frozen=True)
class Forward:
    """The computation of the pass. Notes: the fingerprint of each row of a sample that is due, by table."""

    model: SegmentationModel

    @property
    def streams(self) -> Streams:
        """What the model allows."""
        return Streams.of(self.model)

    def __call__(self, batch: Batch, notes: Notes) -> dict[str, pl.DataFrame]:
        """The due rows of each table."""
        outputs = self.model(batch.reduced)
        due = {name: [notes[sample].get(name, "") for sample in batch.ids] for name in ("embeddings", "evaluation")}
        found: dict[str, pl.DataFrame] = {}
        if any(due["embeddings"]):
            rows = embedding_rows(outputs, batch.ids, due["embeddings"])
            found["embeddings"] = pl.DataFrame(rows, schema=EMBEDDING_SCHEMA)
        if any(due["evaluation"]):
            rows = _evaluation_rows(batch, outputs, due["evaluation"])
            found["evaluation"] = pl.DataFrame(rows, schema=EVALUATION_SCHEMA)
        return {name: rows.filter(pl.col("fingerprint") != "") for name, rows in found.items()}


def run_pass(
    model: SegmentationModel,
    manifest: pl.DataFrame,
    run: MapBatches,
    tables: PassTables,
    *,
    code: str,
    what: str,
) -> dict[str, Change]:
    """Bring the embeddings and evaluation tables up to date with one forward per sample that either needs.

    Rows are committed in the background as they are done, so that a killed pass resumes at its last commit.
    """
    samples = usable(manifest)
    wanted = {
        "embeddings": (tables.embeddings, embedding_fingerprints(samples, model.fingerprint, code)),
        "evaluation": (tables.evaluation, evaluation_fingerprints(samples, model.fingerprint, code)),
    }
    asked = {name: (table, rows) for name, (table, rows) in wanted.items() if table is not None}
    changes = {name: table.diff(rows) for name, (table, rows) in asked.items()}
    prints = {name: dict(rows.iter_rows()) for name, (_, rows) in asked.items()}
    paths = sample_paths(samples)
    notes: dict[str, dict[str, str]] = {}
    for name, change in changes.items():
        for sample_id in change.stale:
            notes.setdefault(sample_id, {})[name] = prints[name][sample_id]
    todo = [paths[sample_id] for sample_id in sorted(notes)]
    new = {name: frozenset(change.new) for name, change in changes.items()}
    found = run(todo, Forward(model), notes)
    with committing() as commits:
        for done in track(found, what, len(todo), size=lambda done: len(done.ids)):
            for name, rows in done.result.items():
                commits.put(asked[name][0], rows, new=new[name])
    for name, (table, _) in asked.items():
        table.remove(changes[name].removed)
        table.finish()
    return changes


def _evaluation_rows(batch: Batch, outputs: Outputs, prints: list[str]) -> list[dict[str, Any]]:
    return [
        evaluate_picture(picture, outputs, i).row(picture.sample_id, prints[i], prediction_png(outputs, i))
        | label_columns(picture, outputs, i)
        | estimation_columns(outputs.logits[i])
        for i, picture in enumerate(batch.pictures)
    ]


def evaluate_picture(picture: Picture, outputs: Outputs, index: int) -> Evaluation:
    """Evaluation of one picture of a batch, at the label's own pixels (at the model's without a label)."""
    logits = outputs.logits[index]
    if picture.mask is not None:
        logits = at_label_pixels(logits, (picture.mask.shape[0], picture.mask.shape[1]))
    return evaluate(logits, picture.mask)


def label_columns(picture: Picture, outputs: Outputs, index: int) -> dict[str, Any]:
    """What the model says of one picture's labels, at its own resolution; nothing without a label."""
    if picture.mask is None:
        return {}
    logits = outputs.logits[index]
    return label_quality(logits, to_input_mask(picture.mask, (logits.shape[1], logits.shape[2]))).row()


def prediction_png(outputs: Outputs, index: int) -> bytes:
    """The predicted classes of one picture at the model's resolution."""
    return encode_classes(outputs.logits[index].max(0).indices.cpu().numpy().astype(np.uint8))
