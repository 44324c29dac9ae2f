"""The worst target samples and what they have in common.

Belongs here: choosing them, clustering them in latent space, naming clusters by traits. Does not: pictures (report).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.inference.latents import vectors
from assets.traits.registry import Trait

Floats = NDArray[np.float64]

WORST_SHARE = 0.2
FEWEST_WORST = 6
MOST_CLUSTERS = 4
TRAITS_NAMED = 3
NOTABLE = 0.8
"""Robust z-score beyond which a trait sets a cluster apart from the other target samples."""


@dataclass(frozen=True)
class WorstCluster:
    """Samples of high loss that lie together in latent space; `traits` says how they differ from the other samples."""

    name: str
    samples: list[str]
    mean_loss: float
    traits: list[str]


def worst_clusters(
    losses: pl.DataFrame, embeddings: pl.DataFrame, traits: pl.DataFrame, catalogue: dict[str, Trait], seed: int
) -> list[WorstCluster]:
    """Cluster the worst fifth of the labelled target samples (k-means, k by silhouette), worst cluster first.

    `losses`: sample_id, loss. Fewer than `FEWEST_WORST` samples make no clusters.
    """
    ranked = losses.sort("loss", descending=True)
    worst = ranked.head(max(FEWEST_WORST, round(WORST_SHARE * ranked.height)))
    joined = worst.join(embeddings.select("sample_id", "latent"), on="sample_id").sort("sample_id")
    if joined.height < FEWEST_WORST:
        return []
    labels = _cluster(vectors(joined).astype(np.float64), seed)
    scores = standing_out(traits, catalogue)
    clusters = [_describe(joined.filter(pl.Series(labels == label)), scores, catalogue) for label in np.unique(labels)]
    return sorted(clusters, key=lambda cluster: -cluster.mean_loss)


def standing_out(traits: pl.DataFrame, catalogue: dict[str, Trait]) -> pl.DataFrame:
    """Robust z-scores of every trait among the target's samples: (x − median) / (1.4826·MAD); null without spread."""
    names = [name for name in catalogue if name in traits.columns]
    values = [pl.col(name).fill_nan(None) for name in names]
    centred = traits.select("sample_id", *(value - value.median() for value in values))
    spreads = [1.4826 * pl.col(name).abs().median() for name in names]
    return centred.select(
        "sample_id",
        *(
            pl.when(spread > 0).then(pl.col(name) / spread).alias(name)
            for name, spread in zip(names, spreads, strict=True)
        ),
    )


def describe(scores: dict[str, float | None], catalogue: dict[str, Trait], most: int = TRAITS_NAMED) -> list[str]:
    """The traits that stand out most, in words: 'high saturation', 'low share of sky'."""
    notable = {name: score for name, score in scores.items() if score is not None and abs(score) >= NOTABLE}
    strongest = sorted(notable, key=lambda name: -abs(notable[name]))[:most]
    return [f"{'high' if notable[name] > 0 else 'low'} {catalogue[name].label}" for name in strongest]


def _cluster(latents: Floats, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    best, best_score = np.zeros(len(latents), np.int64), 0.1  # below this a split says nothing
    distinct = len(np.unique(latents, axis=0))
    for count in range(2, min(MOST_CLUSTERS, len(latents) // 3, distinct) + 1):
        labels = KMeans(count, n_init=10, random_state=seed).fit_predict(latents)
        score = silhouette_score(latents, labels)
        if score > best_score:
            best, best_score = labels.astype(np.int64), score
    return best


def _describe(members: pl.DataFrame, scores: pl.DataFrame, catalogue: dict[str, Trait]) -> WorstCluster:
    ids = members["sample_id"].to_list()
    means = scores.filter(pl.col("sample_id").is_in(ids)).drop("sample_id").mean().row(0, named=True)
    words = describe(means, catalogue)
    ordered = members.sort("loss", descending=True)["sample_id"].to_list()
    mean_loss = float(members["loss"].to_numpy().mean())
    return WorstCluster(" and ".join(words[:2]) or "nothing in common", ordered, mean_loss, words)
