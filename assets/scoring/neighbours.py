"""How far each sample lies from the reference in latent space: kNN scores, conformal p-values, nearest samples.

Belongs here: rows of the gap scores table. Does not: the index itself (resources), distances of whole sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.inference.latents import vectors
from assets.statistics.neighbourhoods import conformal_p_values
from resources.config import IndexConfig
from resources.fingerprint import fingerprint, rows_version
from resources.sample_store import Change, SampleTable
from resources.vector_index import VectorIndex

SCORES_SCHEMA: dict[str, Any] = {
    "sample_id": pl.String,
    "fingerprint": pl.String,
    "gap_score": pl.Float64,
    "conformal_p": pl.Float64,
    "neighbours": pl.List(pl.String),
    "distances": pl.List(pl.Float64),
}


@dataclass(frozen=True)
class ReferenceLatents:
    """The source side of every score: the index over the reference and the holdout's scores, with their version."""

    index: VectorIndex
    holdout_ids: list[str]
    holdout_scores: NDArray[np.float64]
    version: str


def latents_of(embeddings: pl.DataFrame, manifest: pl.DataFrame, part: str) -> pl.DataFrame:
    """Embedding rows of one part (reference, holdout, target), sorted by id, with unit and half."""
    members = manifest.filter(pl.col("part") == part).select("sample_id", "group", "unit", "report_half")
    return embeddings.join(members, on="sample_id", how="inner").sort("sample_id")


def reference_latents(
    embeddings: pl.DataFrame, manifest: pl.DataFrame, k: int, folder: Path, settings: IndexConfig | None = None
) -> ReferenceLatents:
    """The index over the reference's latents: the one that `folder` keeps, updated to these rows, or a new one."""
    reference = latents_of(embeddings, manifest, "reference")
    holdout = latents_of(embeddings, manifest, "holdout")
    version = rows_version(reference.select("sample_id", "fingerprint").iter_rows())
    index = _index(reference, vectors(holdout), k, folder / f"reference-{version}.faiss", settings or IndexConfig())
    distances, _ = index.search(vectors(holdout), k)
    holdout_version = rows_version(holdout.select("sample_id", "fingerprint").iter_rows())
    whole = fingerprint(version, holdout_version, k)
    if index.card.kind != "exact":  # which neighbours it finds depends on its lists and on how many are probed
        whole = fingerprint(whole, asdict(index.card))
    return ReferenceLatents(index, holdout["sample_id"].to_list(), distances[:, -1], whole)


def _index(
    reference: pl.DataFrame, queries: NDArray[np.float32], k: int, path: Path, settings: IndexConfig
) -> VectorIndex:
    ids, latents = reference["sample_id"].to_list(), vectors(reference)
    fingerprints = reference["fingerprint"].to_list()
    index = _kept(path)
    if index is None or index.outgrown(len(ids), settings):
        index = VectorIndex.build(ids, latents, fingerprints=fingerprints, settings=settings, folder=path.parent)
    elif not index.update(ids, latents, fingerprints):
        return index
    index.tune(ids, latents, queries, k, settings.recall)
    path.parent.mkdir(parents=True, exist_ok=True)
    index.save(path)
    _remove_older(path)
    return index


def _kept(path: Path) -> VectorIndex | None:
    """The index under this name, else another one of the folder; none where there is no whole one."""
    for kept in (path, *path.parent.glob("reference-*.faiss")):
        try:
            return VectorIndex.load(kept)
        except (OSError, RuntimeError, ValueError, TypeError):  # missing, of older code, or left by a killed run
            continue
    return None


def update_scores(
    target: pl.DataFrame, reference: ReferenceLatents, k: int, table: SampleTable, *, code: str
) -> Change:
    """Bring the table of gap scores up to date.

    The score is the distance to the k-th nearest reference latent, L2-normalised (Sun et al. 2022); its conformal
    p-value is its rank among the holdout's scores; `neighbours` are the k nearest reference samples.
    """
    pairs = [(name, fingerprint(row, reference.version, code)) for name, row in _keys(target)]
    wanted = pl.DataFrame(pairs, schema={"sample_id": pl.String, "fingerprint": pl.String}, orient="row")

    def compute(ids: list[str]) -> Iterator[pl.DataFrame]:
        yield _score(target.filter(pl.col("sample_id").is_in(ids)), wanted, reference, k)

    return table.update(wanted, compute)


def _keys(frame: pl.DataFrame) -> Iterator[tuple[str, str]]:
    return frame.select("sample_id", "fingerprint").iter_rows()


def _score(rows: pl.DataFrame, wanted: pl.DataFrame, reference: ReferenceLatents, k: int) -> pl.DataFrame:
    distances, names = reference.index.search(vectors(rows), k)
    scored = pl.DataFrame(
        {
            "sample_id": rows["sample_id"],
            "gap_score": distances[:, -1],
            "conformal_p": conformal_p_values(distances[:, -1], reference.holdout_scores),
            "neighbours": names,
            "distances": distances.tolist(),
        }
    )
    return scored.join(wanted, on="sample_id").select(pl.col(name).cast(kind) for name, kind in SCORES_SCHEMA.items())


def _remove_older(path: Path) -> None:
    for old in path.parent.glob("reference-*"):
        if old.stem != path.stem:
            old.unlink(missing_ok=True)
