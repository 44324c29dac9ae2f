"""Which target samples to collect or label next: few that stand for the region where the source has nothing.

Belongs here: what counts as uncovered, the weighted greedy k-centre, the list. Does not: scores and neighbours
(`neighbours.py`), labelling itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.inference.latents import vectors
from resources.csv_text import csv_text
from resources.vector_index import normalised

Floats = NDArray[np.float64]

UNCOVERED_BELOW = 0.05
"""Conformal p-value up to which a sample lies outside the radius that holds the source's own holdout."""
MOST_LISTED = 100
"""The list is in order: its first n are the choice of n, so that one list serves every budget."""
WEIGHT_RANGE = (0.5, 2.0)
"""Expected loss as a multiple of its median counts within these bounds, so that no outlier decides alone."""
NEARLY = 0.9
"""Samples worth this share of the best one are as good: the one of the group that was chosen least is taken."""
SAME_PLACE = 1e-6
"""Distance of unit vectors below which samples are duplicates."""

COLUMNS = ("rank", "sample_id", "group", "expected_loss", "loss_is", "gap_score", "conformal_p", "stands_for", "radius",
           "nearest_reference", "distance", "image")  # fmt: skip


@dataclass(frozen=True)
class Centres:
    """A choice of samples in order, as indices (k,).

    `radius` (k,): the largest distance from any sample to its nearest reference or chosen sample after each step.
    `stands_for` (k,): how many samples have each as their nearest chosen one; they sum to all of them.
    """

    chosen: NDArray[np.intp]
    radius: Floats
    stands_for: NDArray[np.int64]


def k_centres(latents: Floats, covered: Floats, weights: Floats, groups: NDArray[Any], k: int) -> Centres:
    """Greedy weighted k-centre: each step takes the sample of the largest weight times distance to the nearest centre.

    The reference samples are centres from the start (Sener & Savarese 2018). With equal weights and `NEARLY` 1, the
    largest distance left is at most twice the smallest possible (Gonzalez 1985); with weights, at most 1 + the ratio of
    the largest to the smallest (Dyer & Frieze 1985); `NEARLY` divides both. Among samples worth `NEARLY` the best, the
    group that was chosen least comes first, then the greater worth, then the lower index.

    Args:
        latents: (n, d) unit vectors.
        covered: (n,) distance of each to the nearest reference sample; infinite without a reference.
        weights: (n,) positive.
        groups: (n,) what makes samples alike, a drive, say.
        k: how many at most; fewer where all others are duplicates of those chosen.
    """
    nearest = np.array(covered, dtype=np.float64)
    to_chosen, owner = np.full(len(nearest), np.inf), np.zeros(len(nearest), dtype=np.intp)
    _, group = np.unique(groups, return_inverse=True)
    taken = np.zeros(group.max(initial=0) + 1, dtype=np.int64)
    chosen: list[int] = []
    radius: list[float] = []
    while len(chosen) < min(k, len(nearest)) and nearest.max() > SAME_PLACE:
        worth = np.where(nearest > SAME_PLACE, weights * nearest, -np.inf)
        good = np.flatnonzero(worth >= NEARLY * worth.max())
        best = int(good[np.lexsort((-worth[good], taken[group[good]]))[0]])
        distance = np.linalg.norm(latents - latents[best], axis=1)
        owner[distance < to_chosen] = len(chosen)
        to_chosen, nearest = np.minimum(to_chosen, distance), np.minimum(nearest, distance)
        taken[group[best]] += 1
        chosen.append(best)
        radius.append(float(nearest.max()))
    stands_for = np.bincount(owner, minlength=len(chosen)) if chosen else np.zeros(0, dtype=np.int64)
    return Centres(np.array(chosen, dtype=np.intp), np.array(radius), stands_for)


def expected_loss(evaluation: pl.DataFrame) -> pl.DataFrame:
    """sample_id, expected_loss (nats) and loss_is: the 'loss' where a label tells it, else the 'entropy'.

    The mean entropy of the predictions is the loss that the model itself expects: their cross-entropy with themselves.
    It is too low where the model is surer than it should be.
    """
    known = pl.col("loss").is_not_null()
    return evaluation.select(
        "sample_id", pl.coalesce("loss", "entropy").alias("expected_loss"),
        pl.when(known).then(pl.lit("loss")).otherwise(pl.lit("entropy")).alias("loss_is"),
    )  # fmt: skip


def next_samples(
    embeddings: pl.DataFrame, scores: pl.DataFrame, evaluation: pl.DataFrame, holdout: int, most: int = MOST_LISTED
) -> dict[str, Any]:
    """The list of samples to collect or label next, best first, as JSON values.

    A sample is uncovered where its conformal p-value is at most `UNCOVERED_BELOW`, or where it lies farther from the
    reference than every holdout sample (fewer than 19 of them give no smaller p-value).

    Args:
        embeddings: target rows with `latent`, `group` and `image`.
        scores: gap scores of the target.
        evaluation: `loss` and `entropy` of the target.
        holdout: samples of the source's holdout, whose scores the p-values come from.
        most: how many are listed.
    """
    threshold = max(UNCOVERED_BELOW, 1 / (holdout + 1))
    rows = embeddings.join(scores.drop("fingerprint"), on="sample_id").join(expected_loss(evaluation), on="sample_id")
    open_ones = rows.filter(pl.col("conformal_p") <= threshold).sort("sample_id")
    found = {"samples": rows.height, "uncovered": open_ones.height, "threshold": threshold, "radius_before": None}
    if open_ones.is_empty():
        return {**found, "chosen": []}
    distance = open_ones["distances"].list.first().to_numpy()
    centres = k_centres(
        normalised(vectors(open_ones)).astype(np.float64), distance, _weights(open_ones["expected_loss"].to_numpy()),
        open_ones["group"].fill_null("").to_numpy(), most,
    )  # fmt: skip
    listed = open_ones[centres.chosen.tolist()].with_columns(
        rank=pl.int_range(1, len(centres.chosen) + 1), radius=centres.radius, stands_for=centres.stands_for,
        nearest_reference=pl.col("neighbours").list.first(), distance=pl.col("distances").list.first(),
    )  # fmt: skip
    return {**found, "radius_before": float(distance.max()), "chosen": listed.select(COLUMNS).to_dicts()}


def next_list(found: dict[str, Any]) -> str:
    """The choice of `next_samples` as CSV."""
    return csv_text(COLUMNS, found["chosen"])


def _weights(losses: Floats) -> Floats:
    """Expected losses as multiples of their median within `WEIGHT_RANGE`; equal where no loss is above 0."""
    middle = float(np.median(losses))
    if middle <= 0:
        return np.ones(len(losses))
    weights: Floats = np.clip(losses / middle, *WEIGHT_RANGE)
    return weights
