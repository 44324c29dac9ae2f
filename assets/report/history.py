"""A target's history: one entry for every night, in a Delta table beside the tables of its stages.

Belongs here: recording a report or a check that found nothing to do, reading the entries. Does not: their form
(`night.py`), comparing them (`changes.py`), pages.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import polars as pl

from assets.ingestion.manifest import CONTENT
from assets.report.changes import cause_flips, changes_between, contributions
from assets.report.document import QualityResult, ReportDocument
from assets.report.night import Night, Outcome, SetCounts, night_figures
from resources.config import GapConfig
from resources.fingerprint import fingerprint
from resources.sample_store import SampleStore, SampleTable, StoreError

SHOWN_NAMES = 20
BEHIND = ("manifest", "evaluation")
"""Tables whose states an entry names: the losses of two nights can then be compared sample by sample."""

SCHEMA: dict[str, Any] = {
    "night": pl.String, "fingerprint": pl.String, "outcome": pl.String, "schema_version": pl.String,
    "loss_gap": pl.Float64, "gap_low": pl.Float64, "gap_high": pl.Float64, "detected": pl.Boolean,
    "source_loss": pl.Float64, "target_loss": pl.Float64, "root_causes": pl.String, "target_samples": pl.Int64,
    "added": pl.Int64, "removed": pl.Int64, "changed": pl.Int64, "failed_checks": pl.Int64, "entry": pl.String,
}  # fmt: skip
"""Columns for queries; `entry` holds the whole as JSON, so that a new figure never replaces the table."""


def history_table(store: SampleStore, key: str) -> SampleTable:
    """The table of a target's nights, one row each."""
    return store.table(key, "history", id_column="night")


def read_history(store: SampleStore, key: str) -> list[Night]:
    """A target's nights, oldest first; none where no check was made yet."""
    table = history_table(store, key)
    if not table.exists:
        return []
    return [Night.model_validate_json(text) for text in table.read(["entry"])["entry"]]


def record_report(config: GapConfig, store: SampleStore, key: str, document: ReportDocument, now: datetime) -> Night:
    """Add the night of a report; nothing is added where it says what the latest entry says."""
    known = read_history(store, key)
    version = fingerprint(document.model_dump_json())
    if known and known[-1].fingerprint == version and known[-1].outcome != "failed":
        return known[-1]
    commits = {f"{side}/{name}": store.table(side, name).commit() for side in ("source", key) for name in BEHIND}
    night = _seen(config, store, key, known, now).model_copy(
        update={"outcome": "reported", "figures": night_figures(document), "fingerprint": version, "commits": commits}
    )
    if before := _with_figures(known):
        night = _compared(config, store, key, before, night)
    return _write(store, key, night)


def record_check(config: GapConfig, store: SampleStore, key: str, now: datetime, since: datetime, problem: str) -> None:
    """Note that a check looked at a target, unless the check (begun at `since`) has recorded a report of it.

    `problem`: why the check could make no report; empty where there was none to make.
    """
    known = read_history(store, key)
    if known and known[-1].time >= since and not problem:
        return
    if not store.table(key, "manifest").exists or not store.table("source", "manifest").exists:
        return  # nothing was ever seen of it: there are no counts, and the run says what is wrong
    before = _with_figures(known)
    kept: dict[str, Any] = {"outcome": "failed" if problem else "unchanged", "problem": problem}
    if before is not None:
        kept |= {"figures": before.figures, "fingerprint": before.fingerprint, "commits": before.commits}
    _write(store, key, _seen(config, store, key, known, now).model_copy(update=kept))


def _with_figures(known: list[Night]) -> Night | None:
    return next((night for night in reversed(known) if night.figures is not None), None)


def _seen(config: GapConfig, store: SampleStore, key: str, known: list[Night], now: datetime) -> Night:
    """The data as a check sees them, without figures."""
    manifests = {side: store.table(side, "manifest").commit() for side in ("source", key)}
    earlier = known[-1].manifests if known else {}
    counts = {side: _counts(store, side, config.dataset(side).name, earlier.get(side)) for side in manifests}
    outcome: Outcome = "unchanged"
    return Night(time=now, outcome=outcome, source=counts["source"], target=counts[key], manifests=manifests,
                 failed_checks=[check for side in manifests
                                for check in _failed_checks(store, side, config.dataset(side).name)])  # fmt: skip


def _failed_checks(store: SampleStore, side: str, name: str) -> list[QualityResult]:
    try:
        results = store.read_json("quality", f"{side}.json")
    except StoreError:
        return []
    return [
        QualityResult(dataset=name, **{part: row[part] for part in ("name", "passed", "severity", "detail")})
        for row in results if not row["passed"]
    ]  # fmt: skip


def _counts(store: SampleStore, side: str, name: str, earlier: str | None) -> SetCounts:
    table = store.table(side, "manifest")
    rows = table.read([*CONTENT, "labelled", "quarantined"])
    moved = _moved(table, rows, earlier)
    return SetCounts(
        name=name, samples=rows.height, labelled=int(rows["labelled"].sum()),
        quarantined=int(rows["quarantined"].sum()), **{kind: len(ids) for kind, ids in moved.items()},
        names={kind: ids[:SHOWN_NAMES] for kind, ids in moved.items() if ids},
    )  # fmt: skip


def _moved(table: SampleTable, rows: pl.DataFrame, earlier: str | None) -> dict[str, list[str]]:
    """Ids that came, went or hold other content than at an earlier commit; empty lists without one to compare with."""
    try:
        before = table.read_at(earlier, CONTENT) if earlier is not None else None
    except StoreError:
        before = None
    if before is None:
        return {}
    return {
        "added": rows.join(before, on="sample_id", how="anti")["sample_id"].to_list(),
        "removed": before.join(rows, on="sample_id", how="anti")["sample_id"].to_list(),
        "changed": rows.join(before, on="sample_id", how="semi")
        .join(before, on=["sample_id", *CONTENT], how="anti", nulls_equal=True)["sample_id"].to_list(),
    }  # fmt: skip


def _compared(config: GapConfig, store: SampleStore, key: str, before: Night, night: Night) -> Night:
    changes, pair = changes_between(store, key, before, night, config.statistics)
    return night.model_copy(update={
        "changes": changes, "flips": cause_flips(before, night, changes),
        "contributions": contributions(*pair) if pair is not None else [],
    })  # fmt: skip


def _write(store: SampleStore, key: str, night: Night) -> Night:
    figures = night.figures
    low, high = (figures.ci95 if figures is not None else None) or (None, None)
    row = {
        "night": night.id, "fingerprint": night.fingerprint, "outcome": night.outcome, "gap_low": low, "gap_high": high,
        **{name: getattr(figures, name, None) for name in ("schema_version", "loss_gap", "detected", "source_loss",
                                                           "target_loss")},
        "root_causes": ", ".join(cause.id for cause in figures.roots) if figures is not None else None,
        "target_samples": night.target.samples,
        **{kind: getattr(night.target, kind) for kind in ("added", "removed", "changed")},
        "failed_checks": len(night.failed_checks), "entry": night.model_dump_json(),
    }  # fmt: skip
    table = history_table(store, key)
    table.upsert(pl.DataFrame([row], schema=SCHEMA))
    table.finish()
    return night
