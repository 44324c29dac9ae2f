"""What diagnosis reads: both sides' tables joined into what its functions take.

Belongs here: reading and joining for `loss_gap`, `estimated`, `shifts` and `worst_samples`, and which of the first two
speaks of a target. Does not: computing figures.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from assets.diagnosis.estimated import EstimatedGap, estimated_gap, estimated_rows
from assets.diagnosis.loss_gap import LossGap, labelled_rows, loss_gap
from assets.inference.estimation import Calibration
from resources.config import StatisticsConfig
from resources.sample_store import SampleStore


@dataclass(frozen=True)
class Sides:
    """Manifest and evaluation of source and target, and the rows that losses come from.

    `calibration`: how losses of a target without labels are estimated; None where it has labels, or nothing to fit on.
    """

    source_manifest: pl.DataFrame
    target_manifest: pl.DataFrame
    source_evaluation: pl.DataFrame
    target_evaluation: pl.DataFrame
    calibration: Calibration | None = None

    @property
    def holdout(self) -> pl.DataFrame:
        """Labelled evaluation rows of the source holdout."""
        return labelled_rows(self.source_evaluation, self.source_manifest, "holdout")

    @property
    def reference(self) -> pl.DataFrame:
        """Labelled evaluation rows of the source reference."""
        return labelled_rows(self.source_evaluation, self.source_manifest, "reference")

    @property
    def labelled_target(self) -> pl.DataFrame:
        """Labelled evaluation rows of the target."""
        return labelled_rows(self.target_evaluation, self.target_manifest, "target")

    @property
    def estimated_by(self) -> Calibration | None:
        """What the target's losses are estimated by; None where they are measured, or can't be estimated."""
        return self.calibration if self.labelled_target.is_empty() and not self.holdout.is_empty() else None

    @property
    def target(self) -> pl.DataFrame:
        """The target's evaluation rows with a loss: labelled ones, or all with estimated losses where none is."""
        if self.estimated_by is None:
            return self.labelled_target
        return estimated_rows(self.target_evaluation, self.target_manifest, self.estimated_by)

    @property
    def without_gap(self) -> str | None:
        """Why there is no loss gap to speak of; None where losses of both sides are measured or estimated."""
        if self.holdout.is_empty():
            return "the source holdout has no labels"
        return "the target has no labels" if self.target.is_empty() else None


def gap_between(sides: Sides, settings: StatisticsConfig) -> LossGap | EstimatedGap | None:
    """The target's loss gap, estimated where it has no labels; None where nothing is known of it."""
    if sides.without_gap:
        return None
    if sides.estimated_by is None:
        return loss_gap(sides.holdout, sides.target, draws=settings.bootstrap, seed=settings.seed)
    return estimated_gap(sides.holdout, sides.target, sides.estimated_by, draws=settings.bootstrap, seed=settings.seed)


def read_sides(store: SampleStore, key: str) -> Sides:
    """Read both sides of a target; predictions stay on disk."""
    tables = {name: store.table(name, "evaluation") for name in ("source", key)}
    columns = {
        name: [c for c in table.scan().collect_schema().names() if c != "prediction"] for name, table in tables.items()
    }
    kept = ("calibration", f"{key}.json")
    stored = store.read_json(*kept) if store.exists(*kept) else {}
    calibration = stored.get("calibration")
    return Sides(
        store.table("source", "manifest").read(),
        store.table(key, "manifest").read(),
        tables["source"].read(columns["source"]),
        tables[key].read(columns[key]),
        Calibration.of_values(calibration) if calibration else None,
    )
