"""The one pass: samples in, embeddings and evaluation out, each row computed once.

Belongs here: which samples a pass needs, their fingerprints, and the loop over batches.
Does not: what is measured on outputs (`latents.py`, `losses.py`), experiments' own passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
from resources.fingerprint import fingerprint
from resources.model import Outputs, SegmentationModel
from resources.pictures import Batch, Picture, SamplePaths, to_input_mask
from resources.progress import track
from resources.sample_store import Change, SampleTable
from resources.streams import in_order

Batches = Callable[[list[SamplePaths]], Iterator[Batch]]
"""Where batches of samples come from."""


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


def run_pass(
    model: SegmentationModel,
    manifest: pl.DataFrame,
    batches: Batches,
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
    todo = [paths[sample_id] for sample_id in sorted(set[str]().union(*(change.stale for change in changes.values())))]
    stale = {name: (frozenset(change.stale), frozenset(change.new)) for name, change in changes.items()}

    def measured(batch: Batch) -> tuple[int, dict[str, pl.DataFrame]]:
        outputs = model(batch.reduced)
        rows = {name: _ROWS[name](batch, outputs, own) for name, own in prints.items()}
        return len(batch.pictures), rows

    with committing() as commits:
        done = in_order(measured, pieces(batches(todo), model), model.streams)
        for _, rows in track(done, what, len(todo), size=lambda one: one[0]):
            for name, frame in rows.items():
                own, new = stale[name]
                due = frame.filter(pl.Series([sample_id in own for sample_id in frame["sample_id"]], dtype=pl.Boolean))
                commits.put(asked[name][0], due, new=new)
    for name, (table, _) in asked.items():
        table.remove(changes[name].removed)
        table.finish()
    return changes


def pieces(batches: Iterable[Batch], model: SegmentationModel) -> Iterator[Batch]:
    """Batches in the parts that a model's streams take: on a processor they share a batch, so that memory stays."""
    count = model.streams if model.device.type == "cpu" else 1  # now: while streams run, there is one thread each
    return (piece for batch in batches for piece in batch.pieces(count))


def _embedding_rows(batch: Batch, outputs: Outputs, prints: dict[str, str]) -> pl.DataFrame:
    rows = embedding_rows(outputs, batch.ids, [prints[name] for name in batch.ids])
    return pl.DataFrame(rows, schema=EMBEDDING_SCHEMA)


def _evaluation_rows(batch: Batch, outputs: Outputs, prints: dict[str, str]) -> pl.DataFrame:
    rows = [
        evaluate_picture(picture, outputs, i).row(
            picture.sample_id, prints[picture.sample_id], prediction_png(outputs, i)
        )
        | label_columns(picture, outputs, i)
        | estimation_columns(outputs.logits[i])
        for i, picture in enumerate(batch.pictures)
    ]
    return pl.DataFrame(rows, schema=EVALUATION_SCHEMA)


_ROWS = {"embeddings": _embedding_rows, "evaluation": _evaluation_rows}


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
