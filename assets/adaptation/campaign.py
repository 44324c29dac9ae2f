"""A target's adaptations as a whole: what they may use, what decides them, all of them judged and written down.

Belongs here: what the doors call, between the store and the plain functions. Does not: methods, statistics, Dagster.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from assets.adaptation.card import card, markdown
from assets.adaptation.judged import Tried, hard_data, judged_rows, skipped_row, tried_variants
from assets.adaptation.registry import METHODS, Method
from assets.adaptation.runs import WEIGHTS, Record, Skipped
from assets.diagnosis.gather import Sides, read_sides
from assets.diagnosis.loss_gap import loss_gap
from assets.experiments.campaign import Campaign
from assets.experiments.verdict import GapDraws, Rules, gap_draws
from resources.config import GapConfig
from resources.engine import Engine
from resources.sample_store import SampleStore


def open_campaign(config: GapConfig, store: SampleStore, engine: Engine, key: str) -> Campaign:
    """What a target's adaptations share with its experiments; traits are none of theirs."""
    from resources.model import load_model

    model = load_model(store.local_copy("models", "current"), config)
    return Campaign(key, read_sides(store, key), pl.DataFrame(), pl.DataFrame(), engine, model)


def no_reason_to_adapt(sides: Sides, rules: Rules) -> str | None:
    """Why a target is not adapted to: nothing could tell whether it helped, or there is no gap to close."""
    reason = "the target has no labels" if sides.labelled_target.is_empty() else sides.without_gap
    if reason:
        return f"{reason}, so no loss can be compared; confidence is no substitute, since adaptation moves it"
    if sides.target.filter("report_half").is_empty() or sides.holdout.filter("report_half").is_empty():
        return "a report half has no labelled picture to judge by"
    gap = loss_gap(sides.holdout, sides.target, draws=rules.draws, seed=rules.seed)
    if not gap.detected:
        return f"no loss gap: {gap.value:+.3f} [{gap.ci95[0]:+.3f}, {gap.ci95[1]:+.3f}]"
    return None


def summary(method: Method, records: Sequence[Record], skipped: Sequence[Skipped]) -> dict[str, Any]:
    """What is stored of a method's runs."""
    return {"method": method.id, "runs": [asdict(record) for record in records],
            "skipped": [asdict(one) for one in skipped]}  # fmt: skip


def judge_target(config: GapConfig, store: SampleStore, key: str, sides: Sides, rules: Rules) -> dict[str, Any]:
    """All methods of a target judged together; writes a model card beside all weights."""
    stored = {name: store.read_json("adaptation", key, f"{name}.json") for name in config.adaptation.methods}
    reason = no_reason_to_adapt(sides, rules)
    skipped = [skipped_row(METHODS[name], Skipped(**one)) for name, found in stored.items() for one in found["skipped"]]
    if reason is not None:
        return {"rows": skipped, "hard_data": None, "skipped": reason}
    gap = gap_draws(sides.target, sides.holdout, rules)
    tried = [
        one for name, found in stored.items()
        for one in _tried(store, key, METHODS[name], found, sides, gap)
    ]  # fmt: skip
    rows = judged_rows(tried, gap, rules)
    model = store.read_json("models", "current", "model.json")["fingerprint"]
    named = {"source": config.source.name, "target": key, "model": model}
    for one, row in zip(tried, rows, strict=True):
        row["weights"] = _write_cards(store, key, one, named)
    return {"rows": rows + skipped, "hard_data": hard_data(tried, rules), "skipped": None}


def _tried(
    store: SampleStore, key: str, method: Method, found: dict[str, Any], sides: Sides, gap: GapDraws
) -> list[Tried]:
    table = store.table(key, "adaptation", method.id, id_column="row_id")
    records = [Record(**record) for record in found["runs"]]
    return tried_variants(method, records, table.read(), sides.target, sides.holdout, gap)


def _write_cards(store: SampleStore, key: str, one: Tried, named: dict[str, str]) -> str:
    """Cards of all runs; returns the path, within the store, of the first seed's weights, chosen before any figure."""
    records = {record.seed: record for record in one.records}
    for figures in one.seeds:
        folder = ("adaptation", key, one.method.id, one.variant.id, f"seed-{figures.seed}")
        found = card(one, records[figures.seed], figures, named)
        store.write(json.dumps(found, indent=1), *folder, "card.json")
        store.write(markdown(found), *folder, "README.md")
    return "/".join(("adaptation", key, one.method.id, one.variant.id, f"seed-{one.seeds[0].seed}", WEIGHTS))
