"""Whole sets against each other: the latent gap of the picture and of each class region, as plain values to store.

Belongs here: putting tables into `latent_gap` and its answer into JSON values. Does not: the statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from assets.inference.latents import region_latents, vectors
from assets.scoring.latent_gap import Measurement, exceeds_floor, latent_gap
from assets.scoring.neighbours import ReferenceLatents, latents_of, reference_latents
from resources.config import StatisticsConfig
from resources.sample_store import SampleStore

REGION_STATISTICS = ("knn_auroc", "mmd", "frechet", "c2st_auc", "precision", "recall")
"""What is reported of every class region."""
SMALLEST_REGION = 12
"""A class must occur in this many pictures of each part to be compared."""
REGION_PERMUTATIONS = 199
REGION_DRAWS = 20

Measured = dict[str, Any]


def score_sets(
    embeddings: pl.DataFrame,
    manifest: pl.DataFrame,
    target: pl.DataFrame,
    reference: ReferenceLatents,
    scores: pl.DataFrame,
    settings: StatisticsConfig,
) -> dict[str, Measured]:
    """The latent gap of whole pictures by statistic: value, ci95, p_value, noise_floor, exceeds_floor."""
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
        reference_ids, reference_vectors = region_latents(known, index)
        (held_ids, held), (target_ids, other) = region_latents(holdout, index), region_latents(target, index)
        if min(len(reference_ids), len(held_ids), len(target_ids)) < SMALLEST_REGION:
            continue
        measured = latent_gap(
            reference_vectors,
            held,
            _units(holdout, held_ids),
            other,
            _units(target, target_ids),
            k=settings.neighbours,
            permutations=min(settings.permutations, REGION_PERMUTATIONS),
            bootstrap=settings.bootstrap,
            floor_draws=min(settings.noise_floor_draws, REGION_DRAWS),
            seed=settings.seed,
        )
        found.append(
            {
                "name": name,
                "source_samples": len(held_ids),
                "target_samples": len(target_ids),
                "measurements": {key: _plain(key, measured[key]) for key in REGION_STATISTICS},
            }
        )
    return found


def holdout_scores(store: SampleStore, settings: StatisticsConfig) -> pl.DataFrame:
    """Gap scores of the source's holdout: sample_id, gap_score."""
    embeddings, manifest = store.table("source", "embeddings").read(), store.table("source", "manifest").read()
    reference = reference_latents(embeddings, manifest, settings.neighbours, index_folder(store))
    return pl.DataFrame({"sample_id": reference.holdout_ids, "gap_score": reference.holdout_scores})


def index_folder(store: SampleStore) -> Path:
    """Where the reference's index is kept."""
    return store.path("index", "reference").parent


def _units(frame: pl.DataFrame, ids: list[str]) -> list[str]:
    units = dict(frame.select("sample_id", "unit").iter_rows())
    return [units[name] for name in ids]


def _plain(name: str, measurement: Measurement) -> Measured:
    values = {key: _finite(value) for key, value in asdict(measurement).items()}
    return {**values, "exceeds_floor": exceeds_floor(name, measurement)}


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, tuple | list):
        return None if any(_finite(item) is None for item in value) else [float(item) for item in value]
    return float(value) if value is not None and math.isfinite(value) else None
