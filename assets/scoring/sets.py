"""Whole sets against each other: latent gap of pictures, class regions and encoder stages; gap of class shares.

Belongs here: putting tables into `latent_gap` and `class_share_gap`, and their answers into plain values to store.
Does not: the statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.inference.latents import region_latents, vectors
from assets.scoring.class_shares import class_share_gap, labelled_pixels, predicted_shares
from assets.scoring.latent_gap import Measurement, exceeds_floor, latent_gap
from assets.scoring.neighbours import ReferenceLatents, latents_of, reference_latents
from resources.config import ComputeConfig, IndexConfig, StatisticsConfig
from resources.model import pick_device
from resources.sample_store import SampleStore

PART_STATISTICS = ("knn_auroc", "knn_two_sample", "c2st_auc", "kid", "mmd", "energy", "sliced_wasserstein", "frechet",
                   "precision", "recall")  # fmt: skip
"""What is reported of every class region and encoder stage."""
SMALLEST_PART = 12
"""A class or stage must be seen in this many pictures of each set to be compared."""
PART_PERMUTATIONS = 199
PART_DRAWS = 20
LARGEST_PART = 2_000
"""Samples of a class region or an encoder stage: there are many of them, and each has its own kernel matrix."""

INDEX = ("index",)
"""The store's folder of the reference's index."""

Measured = dict[str, Any]


def score_sets(
    embeddings: pl.DataFrame,
    manifest: pl.DataFrame,
    target: pl.DataFrame,
    reference: ReferenceLatents,
    scores: pl.DataFrame,
    settings: StatisticsConfig,
    device: str = "cpu",
) -> dict[str, Measured]:
    """The latent gap of whole pictures by statistic: value, ci95, p_value, noise_floor, exceeds_floor.

    `device`: torch device of the blocks over all pairs.
    """
    known, holdout = (latents_of(embeddings, manifest, part) for part in ("reference", "holdout"))
    ordered = target.select("sample_id").join(scores, on="sample_id", how="left", maintain_order="left")
    measured = latent_gap(
        vectors(known),
        vectors(holdout),
        holdout["unit"].to_list(),
        vectors(target),
        target["unit"].to_list(),
        k=settings.neighbours,
        permutations=settings.permutations,
        bootstrap=settings.bootstrap,
        floor_draws=settings.noise_floor_draws,
        seed=settings.seed,
        target_scores=ordered["gap_score"].to_numpy(),
        holdout_scores=reference.holdout_scores,
        device=device,
    )
    return {name: _plain(name, measurement) for name, measurement in measured.items()}


def score_regions(
    embeddings: pl.DataFrame,
    manifest: pl.DataFrame,
    target: pl.DataFrame,
    class_names: Sequence[str],
    settings: StatisticsConfig,
) -> list[dict[str, Any]]:
    """The latent gap of each class's regions, for classes that occur often enough on both sides."""
    known, holdout = (latents_of(embeddings, manifest, part) for part in ("reference", "holdout"))
    found = []
    for index, name in enumerate(class_names):
        parts = [_region(rows, index) for rows in (known, holdout, target)]
        if min(len(part.units) for part in parts) >= SMALLEST_PART:
            found.append({"name": name, **_part_gap(parts, settings)})
    return found


def score_stages(
    embeddings: pl.DataFrame, manifest: pl.DataFrame, target: pl.DataFrame, settings: StatisticsConfig
) -> list[dict[str, Any]]:
    """The latent gap of each encoder stage, shallow to deep, on its channels' means over the picture.

    The deepest stage is the latent of the whole picture. Nothing where a set is too small, or where the model gives one
    feature map alone (`embedding_layer`).
    """
    sides = [latents_of(embeddings, manifest, part) for part in ("reference", "holdout")] + [target]
    if min(side.height for side in sides) < SMALLEST_PART:
        return []
    channels = target["stage_channels"][0].to_list()
    if len(channels) == 1:
        return []
    ends = np.cumsum(channels)
    means = [vectors(side, "stage_mean") for side in sides]
    units = [side["unit"].to_list() for side in sides]
    found = []
    for number, (width, end) in enumerate(zip(channels, ends, strict=True), 1):
        parts = [_Part(rows[:, end - width : end], names) for rows, names in zip(means, units, strict=True)]
        found.append({"stage": number, "channels": width, **_part_gap(parts, settings)})
    return found


def score_class_shares(
    source: tuple[pl.DataFrame, pl.DataFrame], target: tuple[pl.DataFrame, pl.DataFrame], settings: StatisticsConfig
) -> dict[str, Any]:
    """Jensen–Shannon divergence of class shares; each side is its evaluation and its manifest.

    Labels are compared with labels; where a side has none, predictions with predictions.
    """
    basis = "labels"
    holdout, other = labelled_pixels(*source, "holdout"), labelled_pixels(*target, "target")
    if not (holdout.units and other.units):
        basis = "predictions"
        holdout, other = predicted_shares(*source, "holdout"), predicted_shares(*target, "target")
    measured = class_share_gap(
        holdout, other, permutations=settings.permutations, bootstrap=settings.bootstrap,
        floor_draws=settings.noise_floor_draws, seed=settings.seed,
    )  # fmt: skip
    return {
        "basis": basis, "source_samples": len(holdout.units), "target_samples": len(other.units),
        "jensen_shannon": _plain("jensen_shannon", measured),
    }  # fmt: skip


def index_summary(reference: ReferenceLatents) -> dict[str, Any]:
    """Kind and size of the index, and the share of true neighbours that it finds, measured on so many queries."""
    card = reference.index.card
    return {
        "kind": card.kind, "rows": reference.index.rows.height, "recall": card.recall, "queries": card.queries,
        "probes": card.nprobe,
    }  # fmt: skip


def block_device(compute: ComputeConfig) -> str:
    """Where blocks over all pairs are computed: CUDA where it is picked, else the processor (MPS has no float64)."""
    picked = pick_device(compute.device)
    return picked if picked.startswith("cuda") else "cpu"


def holdout_scores(store: SampleStore, settings: StatisticsConfig, index: IndexConfig) -> pl.DataFrame:
    """Gap scores of the source's holdout: sample_id, gap_score."""
    embeddings, manifest = store.table("source", "embeddings").read(), store.table("source", "manifest").read()
    with store.working_copy(*INDEX) as folder:
        reference = reference_latents(embeddings, manifest, settings.neighbours, folder, index)
    return pl.DataFrame({"sample_id": reference.holdout_ids, "gap_score": reference.holdout_scores})


@dataclass(frozen=True)
class _Part:
    """One class's regions, or one stage, of one set: (n, d) vectors and the unit of each."""

    latents: NDArray[np.float32]
    units: list[str]


def _region(rows: pl.DataFrame, class_index: int) -> _Part:
    ids, found = region_latents(rows, class_index)
    units = dict(rows.select("sample_id", "unit").iter_rows())
    return _Part(found, [units[name] for name in ids])


def _part_gap(parts: Sequence[_Part], settings: StatisticsConfig) -> dict[str, Any]:
    """Sizes and `PART_STATISTICS` of reference, holdout and target, with fewer draws than whole pictures get."""
    reference, holdout, target = parts
    measured = latent_gap(
        reference.latents, holdout.latents, holdout.units, target.latents, target.units,
        k=settings.neighbours, permutations=min(settings.permutations, PART_PERMUTATIONS),
        bootstrap=settings.bootstrap, floor_draws=min(settings.noise_floor_draws, PART_DRAWS), seed=settings.seed,
        largest=LARGEST_PART,
    )  # fmt: skip
    return {
        "source_samples": len(holdout.units), "target_samples": len(target.units),
        "measurements": {name: _plain(name, measured[name]) for name in PART_STATISTICS},
    }  # fmt: skip


def _plain(name: str, measurement: Measurement) -> Measured:
    values = {key: _finite(value) for key, value in asdict(measurement).items()}
    return {**values, "exceeds_floor": exceeds_floor(name, measurement)}


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, tuple | list):
        return None if any(_finite(item) is None for item in value) else [float(item) for item in value]
    return float(value) if value is not None and math.isfinite(value) else None
