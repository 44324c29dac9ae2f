"""What diagnosis reads: both sides' tables joined into what its functions take.

Belongs here: reading and joining for `loss_gap`, `shifts` and `worst_samples`. Does not: computing figures.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from assets.diagnosis.loss_gap import labelled_rows
from resources.sample_store import SampleStore


@dataclass(frozen=True)
class Sides:
    """Manifest, evaluation and traits of source and target, and the labelled rows that losses come from."""

    source_manifest: pl.DataFrame
    target_manifest: pl.DataFrame
    source_evaluation: pl.DataFrame
    target_evaluation: pl.DataFrame

    @property
    def holdout(self) -> pl.DataFrame:
        """Labelled evaluation rows of the source holdout."""
        return labelled_rows(self.source_evaluation, self.source_manifest, "holdout")

    @property
    def reference(self) -> pl.DataFrame:
        """Labelled evaluation rows of the source reference."""
        return labelled_rows(self.source_evaluation, self.source_manifest, "reference")

    @property
    def target(self) -> pl.DataFrame:
        """Labelled evaluation rows of the target."""
        return labelled_rows(self.target_evaluation, self.target_manifest, "target")

    @property
    def without_gap(self) -> str | None:
        """Why there is no loss gap to speak of; None where both sides have labels."""
        if self.holdout.is_empty():
            return "the source holdout has no labels"
        return "the target has no labels" if self.target.is_empty() else None


def read_sides(store: SampleStore, key: str) -> Sides:
    """Read both sides of a target; predictions stay on disk."""
    tables = {name: store.table(name, "evaluation") for name in ("source", key)}
    columns = {
        name: [c for c in table.scan().collect_schema().names() if c != "prediction"] for name, table in tables.items()
    }
    return Sides(
        store.table("source", "manifest").read(),
        store.table(key, "manifest").read(),
        tables["source"].read(columns["source"]),
        tables[key].read(columns[key]),
    )
