"""A target's adaptations as a whole: what they may use, what decides them, all of them judged and written down.

Belongs here: what the doors call, between the store and the plain functions. Does not: methods, statistics, Dagster.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from assets.adaptation.card import card, markdown
from assets.adaptation.judged import Tried, hard_data, judged_rows, skipped_row, tried_variants
from assets.adaptation.registry import METHODS, Method
from assets.adaptation.runs import WEIGHTS, MethodRuns, Record, Skipped
from assets.adaptation.streams import Material
from assets.diagnosis.gather import Sides, read_sides
from assets.diagnosis.loss_gap import loss_gap
from assets.experiments.campaign import Campaign
from assets.experiments.verdict import GapDraws, Rules, gap_draws
from assets.inference.forward import sample_paths
from assets.inference.losses import list_column
from resources.config import AdaptationConfig, GapConfig
from resources.engine import LocalEngine
from resources.fingerprint import fingerprint
from resources.pictures import SamplePaths
from resources.sample_store import SampleStore

CONTENT = ("sample_id", "image_hash", "mask_hash", "labels_version")


def open_campaign(config: GapConfig, store: SampleStore, engine: LocalEngine, key: str) -> Campaign:
    """What a target's adaptations share with its experiments; traits are none of theirs."""
    from resources.model import load_model

    model = load_model(store.path("models", "current", "model.json").parent, config)
    return Campaign(key, read_sides(store, key), pl.DataFrame(), pl.DataFrame(), engine, model)


def no_reason_to_adapt(sides: Sides, rules: Rules) -> str | None:
    """Why a target is not adapted to: nothing could tell whether it helped, or there is no gap to close."""
    if sides.without_gap:
        return (
            f"{sides.without_gap}, so no loss can be compared; confidence is no substitute, since adaptation moves it"
        )
    if sides.target.filter("report_half").is_empty() or sides.holdout.filter("report_half").is_empty():
        return "a report half has no labelled picture to judge by"
    gap = loss_gap(sides.holdout, sides.target, draws=rules.draws, seed=rules.seed)
    if not gap.detected:
        return f"no loss gap: {gap.value:+.3f} [{gap.ci95[0]:+.3f}, {gap.ci95[1]:+.3f}]"
    return None


def material_of(campaign: Campaign, settings: AdaptationConfig) -> Material:
    """What methods may use: nothing of any report half."""
    reference = campaign.reference().filter("labelled")
    pixels = list_column(reference, "class_pixels").sum(0) if reference.height else np.zeros(campaign.model.class_count)
    return Material(
        model=campaign.model, engine=campaign.engine, key=campaign.key,
        reference=list(sample_paths(reference).values()),
        fit=unlabelled(fit_half(campaign)),
        labelled_fit=list(sample_paths(campaign.samples("target", report=False)).values()),
        guarded=spread(list(sample_paths(campaign.samples("holdout", report=False)).values())),
        reference_pixels=pixels, batch_size=settings.batch_size,
    )  # fmt: skip


def fit_half(campaign: Campaign) -> pl.DataFrame:
    """Manifest rows of the target's fit half, labelled or not."""
    manifest = campaign.sides.target_manifest
    usable = (pl.col("part") == "target") & ~pl.col("quarantined") & ~pl.col("report_half")
    return manifest.filter(usable).sort("sample_id")


def unlabelled(manifest: pl.DataFrame) -> list[SamplePaths]:
    """Paths without masks: what is not to see labels can't."""
    return [SamplePaths(name, Path(image), None) for name, image in manifest.select("sample_id", "image").iter_rows()]


def spread(samples: list[SamplePaths]) -> list[SamplePaths]:
    """Samples by a hash of their names, so that the first few are not of one drive."""
    return sorted(samples, key=lambda sample: fingerprint(sample.sample_id))


def runs_of(method: Method, settings: AdaptationConfig, campaign: Campaign, folder: Path, code: str) -> MethodRuns:
    """A method's runs, keyed by content and code of all that it may use."""
    target = fit_half(campaign).select(CONTENT if method.target_labels else CONTENT[:2])
    reference = campaign.reference().select(CONTENT) if method.source_labels else None
    guarded = campaign.samples("holdout", report=False).select(CONTENT) if method.id == "tent" else None
    decides = fingerprint(
        method.id, code, campaign.model.fingerprint,
        *(None if part is None else part.rows() for part in (target, reference, guarded)),
    )  # fmt: skip
    return MethodRuns(method, settings, material_of(campaign, settings), folder, decides)


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
