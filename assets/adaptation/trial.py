"""Trials of adapted models: loss of every sample of both report halves, kept as rows.

Belongs here: the passes of finished runs and their table. Does not: training, judging.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl

from assets.adaptation.registry import Variant
from assets.adaptation.runs import WEIGHTS, MethodRuns, Record
from assets.experiments.campaign import Campaign
from assets.inference.losses import at_label_pixels, pixel_sums
from resources.fingerprint import fingerprint
from resources.model import SegmentationModel
from resources.pictures import Picture
from resources.progress import track
from resources.sample_store import Change, SampleTable

Role = Literal["target", "source"]
SIDES: dict[Role, Literal["target", "holdout"]] = {"target": "target", "source": "holdout"}
"""Whose report half each role is measured on."""

ADAPTED_SCHEMA: dict[str, Any] = {
    "row_id": pl.String,
    "fingerprint": pl.String,
    "variant": pl.String,
    "seed": pl.Int64,
    "role": pl.String,
    "sample_id": pl.String,
    "loss": pl.Float64,
    "loss_sum": pl.List(pl.Float64),
    "class_pixels": pl.List(pl.Float64),
    "confusion": pl.List(pl.Float64),
}
TRIAL_CODE = ("assets.adaptation.trial", "assets.inference.losses", "resources.model", "resources.pictures")


def measure_runs(
    runs: MethodRuns, records: Sequence[Record], campaign: Campaign, table: SampleTable, code: str, what: str
) -> Change:
    """Bring the rows of all finished runs up to date: new and changed samples alone are run, rows of other runs go."""
    wanted = wanted_rows(records, campaign, code)
    change, prints = table.diff(wanted), dict(wanted.iter_rows())
    stale = set(change.stale)
    variants = {variant.id: variant for variant in runs.method.variants}
    for record in records:
        prefix = run_prefix(record)
        own = {row for row in stale if row.startswith(prefix)}
        if own:
            variant = variants[record.variant]
            model = adapted_model(campaign.model, runs.place(variant, record.seed) / WEIGHTS, record.digest)
            _measure(model, record, own, prints, campaign, table, change, f"{what} {_label(variant, record.seed)}")
    table.remove(change.removed)
    if not table.exists:
        table.upsert(pl.DataFrame(schema=ADAPTED_SCHEMA))
    table.finish()
    return change


def _label(variant: Variant, seed: int) -> str:
    return " ".join(part for part in (variant.title, f"seed {seed}") if part)


def run_prefix(record: Record) -> str:
    """How ids of a run's rows begin."""
    return f"{record.variant}/seed-{record.seed}/"


def wanted_rows(records: Sequence[Record], campaign: Campaign, code: str) -> pl.DataFrame:
    """Row ids and fingerprints: content of the sample, weights, code."""
    pairs = []
    for role, side in SIDES.items():
        columns = campaign.samples(side, report=True).select("sample_id", "image_hash", "mask_hash", "labels_version")
        contents = [(name, content) for name, *content in columns.iter_rows()]
        for record in records:
            decides = (record.digest, campaign.model.fingerprint, code, role)
            pairs += [
                (f"{run_prefix(record)}{role}:{name}", fingerprint(content, decides)) for name, content in contents
            ]
    return pl.DataFrame(pairs, schema={"row_id": pl.String, "fingerprint": pl.String}, orient="row")


def adapted_model(source: SegmentationModel, weights: Path, digest: str) -> SegmentationModel:
    """The model with adapted weights."""
    import copy

    from safetensors.torch import load_file

    network = copy.deepcopy(source.network)
    network.load_state_dict(load_file(weights))  # type: ignore[union-attr]
    version = fingerprint(source.fingerprint, digest)
    return SegmentationModel(network, source.config, source.class_count, version, str(source.device), source.compute)


def _measure(
    model: SegmentationModel, record: Record, stale: set[str], prints: dict[str, str], campaign: Campaign,
    table: SampleTable, change: Change, what: str,
) -> None:  # fmt: skip
    for role, side in SIDES.items():
        prefix = f"{run_prefix(record)}{role}:"
        ids = sorted(row.removeprefix(prefix) for row in stale if row.startswith(prefix))
        batches = campaign.load(side, ids)
        for batch in track(batches, f"{what} ({role})", len(ids), size=lambda done: len(done.pictures)):
            logits = model(batch.reduced).logits
            rows = [
                _row(picture, scores, record, role, prints)
                for picture, scores in zip(batch.pictures, logits, strict=True)
            ]
            table.upsert(pl.DataFrame(rows, schema=ADAPTED_SCHEMA), new=change.new)


def _row(picture: Picture, logits: Any, record: Record, role: str, prints: dict[str, str]) -> dict[str, Any]:
    mask = picture.mask
    if mask is None:
        raise ValueError(f"{picture.sample_id}: trials need labels")
    sums = pixel_sums(at_label_pixels(logits, (mask.shape[0], mask.shape[1])), mask)
    row_id = f"{run_prefix(record)}{role}:{picture.sample_id}"
    return {
        "row_id": row_id, "fingerprint": prints[row_id], "variant": record.variant, "seed": record.seed, "role": role,
        "sample_id": picture.sample_id, "loss": sums.loss, "loss_sum": sums.loss_sum.tolist(),
        "class_pixels": sums.class_pixels.astype(float).tolist(),
        "confusion": sums.confusion.ravel().astype(float).tolist(),
    }  # fmt: skip
