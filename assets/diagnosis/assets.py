"""Door of diagnosis: the loss gap, trait shifts and ranked hypotheses of a target."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from assets import door
from assets.diagnosis.estimated import EstimatedGap
from assets.diagnosis.gather import Sides, gap_between, read_sides
from assets.diagnosis.hypotheses import HYPOTHESES_SCHEMA, Hypothesis, rank_hypotheses
from assets.diagnosis.label_policy import label_errors, label_evidence, with_label_evidence
from assets.diagnosis.loss_gap import LossGap
from assets.diagnosis.shifts import joined_traits, shifts
from assets.diagnosis.slices import mine_slices, slice_table, suspect_slice
from assets.inference.latents import vectors
from assets.scoring.sets import holdout_scores
from assets.statistics.disde import disde
from assets.traits.table import catalogue
from resources.config import GapConfig
from resources.fingerprint import code_version, fingerprint
from resources.sample_store import SampleStore

CODE = ("assets.diagnosis.estimated", "assets.diagnosis.gather", "assets.diagnosis.hypotheses",
        "assets.diagnosis.label_policy", "assets.diagnosis.loss_gap", "assets.diagnosis.shifts",
        "assets.diagnosis.slices", "assets.inference.estimation", "assets.statistics.disde",
        "assets.statistics.effect_sizes", "assets.statistics.multiplicity", "assets.statistics.resampling",
        "assets.statistics.segmentation", "assets.statistics.shifts")  # fmt: skip


def build(config: GapConfig, key: str, hypotheses: Sequence[Hypothesis]) -> list[Any]:
    """`hypotheses` of one target."""
    settings = config.statistics
    spec = door.spec(
        [key, "hypotheses"],
        description="The loss gap with its interval, how each trait differs, and what could be the cause, ranked.",
        code_version=fingerprint(code_version(*CODE), settings.model_dump(), [vars(h) for h in hypotheses]),
        kinds=["polars"], columns=HYPOTHESES_SCHEMA,
        deps=[[side, name] for side in ("source", key) for name in ("manifest", "evaluation", "traits", "embeddings")]
        + [[key, "gap_scores"], [key, "calibration"]],
    )  # fmt: skip

    @dg.multi_asset(name=f"{key}__hypotheses", specs=[spec])
    def ranked(store: dg.ResourceParam[SampleStore]) -> dg.MaterializeResult[Any]:
        sides = read_sides(store, key)
        gap = gap_between(sides, settings)
        table = _shifts(config, store, key, sides)
        estimated = sides.estimated_by is not None
        rows = rank_hypotheses(hypotheses, table, "estimated loss" if estimated else "loss")
        if isinstance(gap, LossGap):
            rows = with_label_evidence(rows, label_evidence(sides.holdout, sides.target, config.class_names))
        described = {"gap": _gap(gap), "without_gap": sides.without_gap,
                     "estimated": estimated, "shifts": table.to_dicts(),
                     "hypotheses": rows.to_dicts(), "label_errors": _label_errors(sides, config),
                     "disde": _disde(config, store, key, sides) if isinstance(gap, LossGap) else None,
                     **_slices(config, store, key, sides, table)}  # fmt: skip
        store.write_json(described, "diagnosis", f"{key}.json")
        figures = {**_gap(gap), "supported": int(rows["supported"].sum())}
        return door.result(
            [key, "hypotheses"], version=fingerprint(described, _rows_behind(store, key)), figures=figures,
            sample=rows.select("rank", "id", "family", "supported", "reason"),
        )  # fmt: skip

    return [ranked]


def _shifts(config: GapConfig, store: SampleStore, key: str, sides: Sides) -> pl.DataFrame:
    traits = catalogue(config).traits
    holdout = joined_traits(
        store.table("source", "traits").read(),
        sides.source_manifest,
        holdout_scores(store, config.statistics, config.index),
        "holdout",
    )
    target = joined_traits(
        store.table(key, "traits").read(), sides.target_manifest, store.table(key, "gap_scores").read(), "target"
    )
    losses = dict(sides.target.select("sample_id", "loss").iter_rows())
    settings = config.statistics
    return shifts(traits, holdout, target, losses, permutations=settings.permutations, seed=settings.seed)


def _disde(config: GapConfig, store: SampleStore, key: str, sides: Sides) -> dict[str, Any] | None:
    """The DISDE split on the latents of labelled samples; None where a side has a single unit."""
    if min(side["unit"].n_unique() for side in (sides.holdout, sides.target)) < DISDE_UNITS:
        return None
    latents = {name: store.table(name, "embeddings").read(["latent"]) for name in ("source", key)}
    source, target = (
        rows.join(latents[name], on="sample_id", how="inner").sort("sample_id")
        for name, rows in (("source", sides.holdout), (key, sides.target))
    )
    found = disde(
        vectors(source), source["loss"].to_numpy(), source["unit"].to_list(),
        vectors(target), target["loss"].to_numpy(), target["unit"].to_list(),
        draws=DISDE_DRAWS, rng=np.random.default_rng(config.statistics.seed),
    )  # fmt: skip
    return asdict(found)


def _slices(config: GapConfig, store: SampleStore, key: str, sides: Sides, shifted: pl.DataFrame) -> dict[str, Any]:
    """Slices of the labelled target; the traits that differ most from the source come first."""
    rows = slice_table(sides.target, store.table(key, "traits").read())
    if rows.is_empty():
        return {"slices": [], "suspect_slice": None}
    names = {name: label for name, label in shifted.select("name", "label").iter_rows() if name in rows.columns}
    settings = config.statistics
    found = mine_slices(rows, names, rows["loss"].to_numpy(), rows["unit"].to_list(),
                        permutations=settings.permutations, seed=settings.seed)  # fmt: skip
    suspects = suspect_slice(rows)
    return {"slices": [one.row() for one in found], "suspect_slice": suspects.row() if suspects else None}


DISDE_UNITS = 2
DISDE_DRAWS = 200
"""Each draw fits the classifier anew; the interval needs no more."""


def _label_errors(sides: Sides, config: GapConfig) -> dict[str, list[dict[str, Any]]]:
    return {
        side: label_errors(rows, config.class_names)
        for side, rows in (("source", sides.holdout), ("target", sides.labelled_target))
    }


def _rows_behind(store: SampleStore, key: str) -> list[str]:
    """Versions of the rows that experiments fit on: when these change, so do experiments, whatever the ranking says."""
    return [store.table(side, name).version() for side in ("source", key) for name in ("evaluation", "traits")]


def _gap(gap: LossGap | EstimatedGap | None) -> dict[str, Any]:
    if gap is None:
        return {"loss_gap": None, "detected": None}
    target_loss = gap.target.loss if isinstance(gap, LossGap) else gap.target_loss
    return {
        "source_loss": gap.source.loss, "target_loss": target_loss, "loss_gap": gap.value,
        "ci_low": gap.ci95[0], "ci_high": gap.ci95[1], "p_value": gap.p_value, "detected": gap.detected,
    }  # fmt: skip
