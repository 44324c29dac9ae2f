"""How far each sample lies from the reference in latent space: kNN scores, conformal p-values, nearest samples.

Belongs here: rows of the gap scores table. Does not: the index itself (resources), distances of whole sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.inference.latents import vectors
from assets.statistics.neighbourhoods import conformal_p_values
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


def reference_latents(embeddings: pl.DataFrame, manifest: pl.DataFrame, k: int, folder: Path) -> ReferenceLatents:
    """The index over the reference's latents, loaded from `folder` when it was built for these rows, else built."""
    reference = latents_of(embeddings, manifest, "reference")
    holdout = latents_of(embeddings, manifest, "holdout")
    rows = reference.select("sample_id", "fingerprint").iter_rows()
    version = rows_version(rows)
    path = folder / f"reference-{version}.faiss"
    if path.exists():
        index = VectorIndex.load(path)
    else:
        index = VectorIndex.build(reference["sample_id"].to_list(), vectors(reference))
        folder.mkdir(parents=True, exist_ok=True)
        index.save(path)
        _remove_older(folder, version)
    distances, _ = index.search(vectors(holdout), k)
    holdout_version = rows_version(holdout.select("sample_id", "fingerprint").iter_rows())
    return ReferenceLatents(
        index, holdout["sample_id"].to_list(), distances[:, -1], fingerprint(version, holdout_version, k)
    )


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


def _remove_older(folder: Path, version: str) -> None:
    for old in folder.glob("reference-*"):
        if version not in old.name:
            old.unlink(missing_ok=True)
