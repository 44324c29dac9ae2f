"""A target's experiments as a whole: fit sets from tables, stale rows run together, figures gathered.

Belongs here: what the doors call, between the store and the plain functions of trials, verdicts and recipe.
Does not: operators, statistics, Dagster.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.diagnosis.gather import Sides
from assets.experiments.operators import ModelOperator, NotApplicable, ReweightOperator, SetStatistics
from assets.experiments.recipe import Stack, joint_effect, recipe_source, recipe_steps, stack_greedily
from assets.experiments.registry import Experiment
from assets.experiments.reweight import mean_class_losses
from assets.experiments.shares import Attribution, StackLosses, attribute
from assets.experiments.trial import (
    SIDES,
    TRIAL_SCHEMA,
    FitSets,
    Fitted,
    Role,
    Side,
    Trial,
    build_predictors,
    fit_experiment,
    reweighted_rows,
    run_trials,
    wanted_rows,
)
from assets.experiments.verdict import GapDraws, Rules, gap_draws, latent_gap_after, measure, verdict_rows
from assets.inference.forward import sample_paths
from assets.inference.losses import list_column
from assets.scoring.neighbours import ReferenceLatents
from assets.statistics.neighbourhoods import auroc
from assets.traits.table import histogram_of
from resources.engine import Computation, Computed, Engine, Notes, Result
from resources.fingerprint import fingerprint
from resources.model import SegmentationModel
from resources.pictures import Batch
from resources.sample_store import SampleTable

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
PICTURES = 32
"""Pictures of a set that fits without sufficient statistics look at."""


@dataclass(frozen=True)
class Campaign:
    """Everything that a target's experiments share."""

    key: str
    sides: Sides
    source_traits: pl.DataFrame
    target_traits: pl.DataFrame
    engine: Engine
    model: SegmentationModel

    def version(self, side: Side) -> str:
        """What decides a side's losses besides picture and label: the model, and what reads them without labels."""
        calibration = self.sides.estimated_by
        version = self.model.fingerprint
        if side == "holdout" or calibration is None:  # the source's losses are measured
            return version
        return fingerprint(version, calibration.as_values())

    def samples(self, side: Side, *, report: bool) -> pl.DataFrame:
        """Manifest rows of the usable samples of one half of target or holdout that have a loss."""
        manifest = self.sides.target_manifest if side == "target" else self.sides.source_manifest
        part = pl.col("part") == side
        estimated = side == "target" and self.sides.estimated_by is not None
        usable = part & (pl.col("labelled") | pl.lit(estimated)) & ~pl.col("quarantined")
        return manifest.filter(usable & (pl.col("report_half") == report)).sort("sample_id")

    def reference(self) -> pl.DataFrame:
        """Manifest rows of the usable reference."""
        manifest = self.sides.source_manifest
        return manifest.filter((pl.col("part") == "reference") & ~pl.col("quarantined")).sort("sample_id")

    def load(self, side: Side, ids: Sequence[str]) -> Iterator[Batch]:
        """Decoded batches of some samples of a side."""
        key, manifest = self._of(side)
        paths = sample_paths(manifest)
        return self.engine.batches(key, [paths[name] for name in ids])

    def run(
        self, side: Side, ids: Sequence[str], computation: Computation[Result], notes: Notes
    ) -> Iterator[Computed[Result]]:
        """What a computation gives for each batch of some samples of a side."""
        key, manifest = self._of(side)
        paths = sample_paths(manifest)
        return self.engine.map_batches(key, [paths[name] for name in ids], computation, notes)

    def _of(self, side: Side) -> tuple[str, pl.DataFrame]:
        """Key and manifest of the data set that a side belongs to."""
        return (self.key, self.sides.target_manifest) if side == "target" else ("source", self.sides.source_manifest)

    def fit_sets(self) -> FitSets:
        """Statistics of the sets that fits may use; pictures are decoded when a fit asks for them."""
        members = {
            "reference": ("holdout", self.reference()),
            "holdout_fit": ("holdout", self.samples("holdout", report=False)),
            "holdout_report": ("holdout", self.samples("holdout", report=True)),
            "target_fit": ("target", self.samples("target", report=False)),
        }
        statistics = {name: self._statistics(side, rows) for name, (side, rows) in members.items()}  # type: ignore[arg-type]
        pixels = {name: list_column(rows, "class_pixels") for name, (_, rows) in members.items() if rows.height}
        evaluations = {"holdout": self.sides.holdout, "target": self.sides.target}
        losses = {
            name: _class_losses(evaluations[side], rows)
            for name, (side, rows) in members.items()
            if name != "reference" and rows.height
        }
        halves = {name: evaluations[side] for name, side in (("holdout_fit", "holdout"), ("target_fit", "target"))}
        fit_rows = {name: rows.filter(~pl.col("report_half")) for name, rows in halves.items()}
        return FitSets(**statistics, pixels=pixels, class_losses=losses, evaluations=fit_rows)

    def _statistics(self, side: Side, rows: pl.DataFrame) -> SetStatistics:
        traits = self.target_traits if side == "target" else self.source_traits
        chosen = sorted(rows["sample_id"], key=lambda name: blake2b(name.encode(), digest_size=8).digest())
        ordered = pl.DataFrame({"sample_id": chosen}, schema={"sample_id": pl.String})
        own = ordered.join(traits, on="sample_id", how="inner", maintain_order="left")

        def load_pictures() -> Tensor:
            import torch

            loaded = [batch.reduced for batch in self.load(side, own["sample_id"].to_list()[:PICTURES])]
            if not loaded:
                raise NotApplicable("no picture to fit on")
            return torch.cat(loaded)

        return SetStatistics(histogram_of(own), own, load_pictures)


def _class_losses(evaluation: pl.DataFrame, members: pl.DataFrame) -> Floats:
    own = evaluation.filter(pl.col("sample_id").is_in(members["sample_id"].to_list()))
    return mean_class_losses(list_column(own, "loss_sum"), list_column(own, "class_pixels"))


def run_experiments(
    campaign: Campaign, experiments: Sequence[Experiment], tables: dict[str, SampleTable], what: str
) -> dict[str, tuple[Fitted, dict[str, int]]]:
    """Bring the rows of some experiments up to date; all stale ones share one decode pass a side.

    Returns each experiment's fit and row counts (with `forwards`).
    """
    sets = campaign.fit_sets()
    sides: tuple[Side, ...] = ("target", "holdout")
    samples = {side: campaign.samples(side, report=True) for side in sides}
    versions = {side: campaign.version(side) for side in sides}
    fits = {experiment.id: fit_experiment(experiment, sets) for experiment in experiments}
    trials: list[Trial] = []
    counts: dict[str, dict[str, int]] = {}
    for experiment in experiments:
        fitted, table = fits[experiment.id], tables[experiment.id]
        roles = [role for role in SIDES if role in fitted.parameters or (role == "plain" and _crops(fitted))]
        wanted = wanted_rows(fitted, samples, versions, experiment.code, roles)
        change, prints = table.diff(wanted), dict(wanted.iter_rows())
        counts[experiment.id] = change.counts()
        if isinstance(experiment.operator, ReweightOperator):
            _reweight(fitted, table, change.stale, prints, campaign)
        elif change.stale:
            try:
                predictors = build_predictors(fitted, campaign.model, sets)
            except NotApplicable as reason:  # what only a look at the model or the pictures can tell
                fits[experiment.id] = Fitted(experiment, {}, {"normalised": str(reason)})
                change = table.diff(wanted.clear())
                counts[experiment.id] = change.counts()
            else:
                trials += [Trial(fitted, role, made, table, prints, change) for role, made in predictors.items()]
        table.remove(change.removed)
    run_trials(trials, campaign.run, what=what, calibration=campaign.sides.estimated_by)
    for trial_id, table in tables.items():
        if not table.exists:
            table.upsert(pl.DataFrame(schema=TRIAL_SCHEMA))
        table.finish()
        counts[trial_id]["forwards"] = sum(
            len(trial.stale) for trial in trials if trial.fitted.experiment.id == trial_id
        )
    return {name: (fitted, counts[name]) for name, fitted in fits.items()}


def _crops(fitted: Fitted) -> bool:
    return "imitated" in fitted.parameters and hasattr(fitted.experiment.imitation, "windows")


def _reweight(
    fitted: Fitted, table: SampleTable, stale: list[str], prints: dict[str, str], campaign: Campaign
) -> None:  # fmt: skip
    evaluations = {"target": campaign.sides.target, "holdout": campaign.sides.holdout}
    roles: list[Role] = ["normalised", "sham", "control", "imitated"]
    for role in roles:
        ids = [row.removeprefix(f"{role}:") for row in stale if row.startswith(f"{role}:")]
        rows = evaluations[SIDES[role]].filter(pl.col("sample_id").is_in(ids))
        if role in fitted.parameters and not rows.is_empty():
            table.upsert(reweighted_rows(fitted, role, rows, prints))


def judge_all(
    campaign: Campaign, rows: dict[str, pl.DataFrame], scores: pl.DataFrame, reference: ReferenceLatents, k: int,
    rules: Rules, reweighted: Collection[str] = (), *, detected: bool = True,
) -> tuple[list[dict[str, Any]], GapDraws]:  # fmt: skip
    """Verdict rows of all experiments with rows, corrected together; `reweighted` names those that alter nothing.

    `detected`: whether there is a gap to have a share of; without one only estimated losses are judged.
    """
    target, holdout = campaign.sides.target, campaign.sides.holdout
    calibration = campaign.sides.estimated_by
    gap = gap_draws(target, holdout, rules, calibration)
    before = scores.filter(pl.col("sample_id").is_in(gap.ids))["gap_score"].to_numpy()

    def score(latents: Floats) -> Floats:
        return reference.index.search(latents, k)[0][:, -1]

    def separation(changed: Floats) -> float:
        return auroc(changed, reference.holdout_scores)

    figures = [measure(name, table, target, holdout, gap, rules) for name, table in rows.items()]
    estimated = calibration is not None
    figures = [replace(f, can_harm=f.experiment not in reweighted, estimated=estimated) for f in figures]
    figures = figures if detected else [f.without_shares() for f in figures]
    judged = verdict_rows(figures, gap.value, rules)
    for row in judged:
        row["latent_gap_after"] = latent_gap_after(rows[row["experiment"]], score, separation)
        row["latent_gap_before"] = separation(before) if not math.isnan(row["latent_gap_after"]) else math.nan
    return judged, gap


@dataclass(frozen=True)
class Outcome:
    """What all confirmed causes do together."""

    stack: Stack
    recipe: dict[str, Any]
    attribution: Attribution
    source: str
    changed_model: SegmentationModel | None


def together(
    campaign: Campaign, confirmed: Sequence[Experiment], gap: GapDraws, table: SampleTable, code: str,
    induced: Collection[str] = (),
) -> Outcome:  # fmt: skip
    """Stack the confirmed normalisations on the fit half, measure once on the report half, share out the gap.

    `confirmed`: strongest first; `induced` names those that were confirmed by what their imitation induces.
    """
    sets = campaign.fit_sets()
    losses = StackLosses(campaign, sets, table, code)
    candidates = [e for e in confirmed if e.direction in ("normalise", "model")]
    stack = stack_greedily(candidates, sets, losses.on_fit_half) if candidates else Stack()
    recipe = joint_effect(losses.rows("target", stack, report=True), campaign.sides.target, gap)
    attribution = attribute(confirmed, induced, gap, losses)
    losses.finish()
    model = None
    if any(isinstance(step.experiment.operator, ModelOperator) for step in stack.steps):
        model = stack.predictor(campaign.model, sets.target_fit).model
    steps = recipe_steps(stack)
    return Outcome(
        stack,
        {"steps": steps, "gap_closed": recipe.gap_closed if steps else None,
         "ci95": recipe.ci95 if steps else None, "loss_after": recipe.loss_after if steps else None},
        attribution,
        recipe_source(stack, campaign.key) if steps else "",
        model,
    )  # fmt: skip


def unexplained(attribution: Attribution) -> dict[str, Any]:
    """What is left of the gap, a share with its interval."""
    if attribution.ci95 is None:
        return {"value": 1.0, "ci95": None}
    return {"value": 1 - attribution.joint, "ci95": (1 - attribution.ci95[1], 1 - attribution.ci95[0])}
