"""Fixtures of the report's tests: a store whose nights are written by hand, without a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from assets.report import document as d
from assets.report.history import record_check, record_report
from assets.report.night import Night
from assets.statistics.resampling import two_sample_cluster_test
from resources.config import GapConfig
from resources.sample_store import SampleStore

FIRST = datetime(2026, 7, 1, 2, 0, tzinfo=UTC)
AUROC = (0.55, (0.48, 0.62))


@dataclass
class Street:
    """Two data sets as a dictionary of (drive, loss, content), and the tables and reports that come of them."""

    config: GapConfig
    store: SampleStore
    holdout: dict[str, tuple[str, float, str]] = field(default_factory=dict)
    target: dict[str, tuple[str, float, str]] = field(default_factory=dict)

    def write(self) -> None:
        for key, part, rows in (("source", "holdout", self.holdout), ("dusk", "target", self.target)):
            manifest = pl.DataFrame([
                {"sample_id": name, "fingerprint": content, "image_hash": content, "mask_hash": "m",
                 "labels_version": "1", "part": part, "group": drive, "unit": drive, "report_half": True,
                 "labelled": True, "quarantined": False}
                for name, (drive, _, content) in rows.items()
            ])  # fmt: skip
            evaluation = pl.DataFrame([
                {"sample_id": name, "fingerprint": f"{content}/{loss}", "loss": loss}
                for name, (_, loss, content) in rows.items()
            ])  # fmt: skip
            for name, frame in (("manifest", manifest), ("evaluation", evaluation)):
                self.store.table(key, name).update(
                    frame.select("sample_id", "fingerprint"),
                    lambda ids, frame=frame: iter([frame.filter(pl.col("sample_id").is_in(ids))]),
                )

    def document(self, causes: dict[str, tuple[str, float]], auroc: tuple[Any, Any] = AUROC) -> d.ReportDocument:
        """A report of what the tables hold. `causes`: id -> (verdict, share)."""
        sides = [[np.array([row[place] for row in rows.values()]) for place in (1, 0)]
                 for rows in (self.target, self.holdout)]  # fmt: skip
        test = two_sample_cluster_test(sides[0][0], sides[0][1], sides[1][0], sides[1][1])
        gap = d.PerformanceGap(
            source_loss=float(sides[1][0].mean()), target_loss=float(sides[0][0].mean()), loss_gap=test.mean,
            ci95=test.ci95, p_value=test.p_value, detected=test.ci95[0] > 0,
        )  # fmt: skip
        roots = [name for name, (verdict, _) in causes.items() if verdict == "confirmed"]
        experiments = [
            d.ExperimentRow(
                id=name, hypothesis=name, family=name, title=name.replace("_", " ").capitalize(), direction="normalise",
                verdict=verdict, reason="told", gap_closed=share, ci95=(share - 0.1, share + 0.1),
            )
            for name, (verdict, share) in causes.items()
        ]  # fmt: skip
        counts = {"labelled": 0, "quarantined": 0, "groups": 6, "parts": {}}
        return d.ReportDocument(
            headline=f"The loss is {gap.target_loss:.3f} on dusk against {gap.source_loss:.3f} on day's holdout.",
            source=d.DatasetSummary(name="day", reader="folder", samples=len(self.holdout), **counts),
            target=d.DatasetSummary(name="dusk", reader="folder", samples=len(self.target), **counts),
            model=d.ModelSummary(architecture="PSPNet", encoder="e", fingerprint="f", trained_here=True,
                                 classes=["road", "sky"], input_size=(32, 32)),
            performance_gap=gap, latent_gap={"knn_auroc": d.MeasurementRow(value=auroc[0], ci95=auroc[1])},
            traits=[], hypotheses=[], experiments=experiments, root_causes=roots,
            unexplained=d.Estimate(value=1.0 - sum(causes[name][1] for name in roots), ci95=(0.0, 1.0)),
            recipe=d.Recipe(gap_closed=sum(causes[name][1] for name in roots), ci95=(0.0, 0.9)), counts={},
        )  # fmt: skip

    def night(self, number: int, causes: dict[str, tuple[str, float]] | None = None, **changes: Any) -> Night:
        """The tables written, the report recorded `number` days after the first."""
        self.write()
        document = self.document(causes or {"exposure": ("inconclusive", 0.1)}, **changes)
        return record_report(self.config, self.store, "dusk", document, self.time(number))

    def quiet(self, number: int, problem: str = "") -> None:
        """A check that found nothing to do, or could not do it."""
        record_check(self.config, self.store, "dusk", self.time(number), self.time(number), problem)

    @staticmethod
    def time(number: int) -> datetime:
        return FIRST + timedelta(days=number)


def drives(prefix: str, count: int, each: int, mean: float, rng: np.random.Generator) -> dict[str, Any]:
    """Pictures of some drives with losses around a mean, drives differing among themselves."""
    found = {}
    for drive in range(count):
        level = mean + rng.normal(0, 0.04)
        for i in range(each):
            name = f"{prefix}_{drive}_{i:03d}"
            found[name] = (f"{prefix}_{drive}", float(level + rng.normal(0, 0.08)), f"content of {name}")
    return found


@pytest.fixture(scope="session")
def make_street() -> Callable[[Path], Street]:
    """Gives a source of 8 drives and a target of 8 that loses a little more, with a store; nothing is recorded."""

    def make(folder: Path) -> Street:
        config = GapConfig.model_validate({
            "store": str(folder / "store"), "classes": ["road", "sky"], "source": {"name": "day", "reader": "streets"},
            "targets": [{"name": "dusk", "reader": "streets"}], "statistics": {"bootstrap": 400},
        })  # fmt: skip
        rng = np.random.default_rng(5)
        holdout, target = drives("day", 8, 12, 0.4, rng), drives("dusk", 8, 10, 0.46, rng)
        return Street(config, SampleStore(config.store), holdout, target)

    return make


@pytest.fixture
def street(make_street: Callable[[Path], Street], tmp_path: Path) -> Street:
    """A street of the test's own."""
    return make_street(tmp_path)
