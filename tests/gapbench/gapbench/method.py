"""The product asked one case: its own functions over its own tables, from pictures to confirmed causes.

Belongs here: laying a case out as manifests and tables, calling diagnosis, explanation, experiments and verdicts, and
reading the answer. Does not: what the truth is; nothing here sees a case's name or its plants.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.diagnosis.gather import Sides
from assets.diagnosis.hypotheses import rank_hypotheses
from assets.diagnosis.label_policy import label_evidence, with_label_evidence
from assets.diagnosis.loss_gap import loss_gap
from assets.diagnosis.shifts import joined_traits, shifts
from assets.experiments.assets import RESPONSE_CODE
from assets.experiments.campaign import Campaign, run_experiments
from assets.experiments.explanation import explained, responses_as_values, traits_of_part
from assets.experiments.operators import LabelOperator
from assets.experiments.pricing import Priced, causes_of, price, root_causes
from assets.experiments.registry import load_experiments
from assets.experiments.responses import KINDS, measure_responses, trait_names
from assets.experiments.shares import StackLosses
from assets.experiments.verdict import Rules, gap_draws, measure, verdict_rows
from assets.inference.forward import PassTables, run_pass
from assets.ingestion.manifest import MANIFEST_SCHEMA
from assets.statistics.resampling import dependence_units, halves
from assets.traits.table import catalogue, update_traits
from gapbench.baselines import CaseTables
from gapbench.world import Item, World
from resources.engine import Engine
from resources.fingerprint import code_version, fingerprint
from resources.pictures import Batch, SamplePaths
from resources.sample_store import SampleStore

CODE = "gapbench"
PROBE_EACH = 5
"""Each so many pictures of the pool are probed: some 20 of a holdout."""


@dataclass(frozen=True)
class Answer:
    """What the product says of a case.

    `relative_gap`: in units of the holdout's loss. `named`: what explains the traits' shift, the weightiest first.
    `causes`: root causes, costliest first. `shares`: share of the gap of every explained cause, with its interval;
    `costs`: in units of the holdout's loss. `unexplained`: the rest, with its interval. `misfit`: that of the shift
    before and after the explanation, and what chance makes of it. `words`: verdicts by cause.
    """

    gap: float
    relative_gap: float
    detected: bool
    named: list[str]
    causes: list[str]
    shares: dict[str, tuple[float, float, float]]
    costs: dict[str, float]
    unexplained: tuple[float, float, float]
    misfit: tuple[float, float, float]
    words: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """A case's tables: manifests and evaluation of both sides, their traits, the manifest of the holdout alone."""

    sides: Sides
    source_traits: pl.DataFrame
    target_traits: pl.DataFrame
    held: pl.DataFrame


@dataclass(frozen=True)
class _Pictures(Engine):
    """An engine over items in memory."""

    world: World
    items: dict[str, Item]

    def batches(self, _key: str, samples: list[SamplePaths], *, batch_size: int | None = None) -> Iterator[Batch]:
        del batch_size
        return self.world.batches([self.items[sample.sample_id] for sample in samples])


@dataclass(frozen=True)
class Method:
    """The product, with what it keeps of a world between cases: the source's rows and the responses."""

    world: World
    folder: Path

    @cached_property
    def experiments(self) -> dict[str, Any]:
        """The product's whole catalogue."""
        return load_experiments(self.world.config, catalogue(self.world.config).traits)

    def responses(self, held: pl.DataFrame) -> dict[str, Any]:
        """What imitations do to the traits of a case's holdout: the mean over its probed pictures."""
        members = set(held["sample_id"])
        names, probed = self._probed["traits"], self._probed["pictures"]
        own = [found for name, found in probed.items() if name in members]
        rows = [
            {**row, "changes": np.mean([found[place]["changes"] for found in own], axis=0).tolist()}
            for place, row in enumerate(own[0])
        ]
        return {"traits": names, "responses": rows}

    @cached_property
    def _probed(self) -> dict[str, Any]:
        """Responses of every fifth picture of the pool, each measured once and kept for all cases and processes."""
        names = trait_names(catalogue(self.world.config).traits)
        classes = self.world.config.class_names
        kept = self.folder.parent / f"responses-{fingerprint(code_version(*RESPONSE_CODE), names)}.json"
        if not kept.exists():
            found = {
                item.sample_id: responses_as_values(
                    measure_responses(
                        list(self.experiments), [item.picture(self.world.input_size)], names, classes, item.sample_id
                    ),
                    names,
                )["responses"]
                for item in self.world.pool[::PROBE_EACH]
            }
            written = kept.with_suffix(f".{os.getpid()}")
            written.write_text(json.dumps({"traits": names, "pictures": found}))
            written.replace(kept)
        return json.loads(kept.read_text())  # type: ignore[no-any-return]

    @cached_property
    def source(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Evaluation and traits of the whole pool and the reference, untouched."""
        items = [*self.world.pool, *self.world.reference]
        return self._measured("source", items, _manifest(items, "holdout"))

    def measured(self, holdout: Sequence[Item], target: Sequence[Item], case: str) -> Measured:
        """The tables of a holdout (untouched pool pictures) and a target."""
        held, known = _manifest(holdout, "holdout"), _manifest(self.world.reference, "reference")
        target_manifest = _manifest(target, "target")
        pool = {id(item) for item in self.world.pool}
        if all(id(item) in pool for item in target):  # nothing was planted: its rows are the source's
            names = [item.sample_id for item in target]
            evaluation, traits = (rows.filter(pl.col("sample_id").is_in(names)) for rows in self.source)
        else:
            evaluation, traits = self._measured(case, target, target_manifest)
        sides = Sides(pl.concat([held, known]), target_manifest, self.source[0], evaluation)
        return Measured(sides, self.source[1], traits, held)

    def ask(self, tables: Measured, holdout: Sequence[Item], target: Sequence[Item], case: str) -> Answer:
        """The answer on some tables; experiments look at the pictures again."""
        settings, sides = self.world.config.statistics, tables.sides
        gap = loss_gap(sides.holdout, sides.target, draws=settings.bootstrap, seed=settings.seed)
        explanation = self._explained(tables)
        engine = _Pictures(self.world, {item.sample_id: item for item in [*holdout, *target, *self.world.reference]})
        campaign = Campaign("target", sides, tables.source_traits, tables.target_traits, engine, self.world.model)  # type: ignore[arg-type]
        store = SampleStore(str(self.folder / case))
        losses = StackLosses(campaign, campaign.fit_sets(), store.table("target", "causes", id_column="row_id"), CODE)
        steps = causes_of(explanation["steps"], self.experiments)
        priced = price(steps, losses, self.rules, detected=gap.detected)
        judged = self._judged(campaign, self._due(tables, explanation), case) if gap.detected else []
        causes = root_causes(priced, judged, self.experiments, gap.value)
        source_loss = float(np.nanmean(sides.holdout["loss"].to_numpy()))
        low, high = priced.ci95 or (0.0, 0.0)
        return Answer(
            gap=gap.value, relative_gap=gap.value / source_loss, detected=gap.detected,
            named=[cause.id for cause in steps], causes=causes, shares=_shares(priced, judged, causes),
            costs={found.experiment: found.cost / source_loss for found in priced.prices},
            unexplained=(1 - (priced.share or 0.0), 1 - high, 1 - low),
            misfit=(explanation["misfit"], explanation["remaining"], explanation["noise"]),
            words={row["experiment"]: row["verdict"] for row in judged}
            | {found.experiment: found.verdict for found in priced.prices},
        )  # fmt: skip

    def _explained(self, tables: Measured) -> dict[str, Any]:
        source, target = (
            traits_of_part(tables.source_traits, tables.held, "holdout"),
            traits_of_part(tables.target_traits, tables.sides.target_manifest, "target"),
        )
        known, settings = catalogue(self.world.config).traits, self.world.config.statistics
        return explained(self.responses(tables.held), known, source, target, list(self.experiments), settings)

    def case_tables(self, tables: Measured, seed: int) -> CaseTables:
        """The same tables as the baselines see them: whole traits, metadata and losses."""
        sides = [
            (traits_of_part(tables.source_traits, tables.held, "holdout"), tables.sides.holdout, tables.held),
            (traits_of_part(tables.target_traits, tables.sides.target_manifest, "target"), tables.sides.target,
             tables.sides.target_manifest),
        ]  # fmt: skip
        names = [name for name, trait in catalogue(self.world.config).traits.items() if trait.kind in KINDS]
        values, losses, units = zip(*(_with_metadata(*side, names) for side in sides), strict=True)
        metadata = [f"metadata_{key}" for key in json.loads(tables.sides.target_manifest["metadata"][0])]
        hypotheses = {name: experiment.hypothesis.traits for name, experiment in self.experiments.items()
                      if experiment.hypothesis.family not in ("label_policy", "model_statistics")}  # fmt: skip
        return CaseTables(*values, *losses, *units, [*names, *metadata], hypotheses, seed)

    @cached_property
    def rules(self) -> Rules:
        """The product's rules, at its defaults."""
        return Rules.of(self.world.config)

    def _due(self, tables: Measured, explanation: dict[str, Any]) -> list[Any]:
        """The experiments that could add a root cause: all where nothing explains the shift, else those on labels."""
        ranked = self._ranked(tables.sides, tables.source_traits, tables.target_traits)
        supported = [row["id"] for row in ranked.iter_rows(named=True) if row["supported"]]
        return [self.experiments[name] for name in supported
                if not explanation["steps"] or isinstance(self.experiments[name].operator, LabelOperator)]  # fmt: skip

    def _ranked(self, sides: Sides, source_traits: pl.DataFrame, traits: pl.DataFrame) -> pl.DataFrame:
        settings, config = self.world.config.statistics, self.world.config
        scores = pl.DataFrame(schema={"sample_id": pl.String, "gap_score": pl.Float64})
        table = shifts(
            catalogue(config).traits,
            joined_traits(source_traits, sides.source_manifest, scores, "holdout"),
            joined_traits(traits, sides.target_manifest, scores, "target"),
            dict(sides.target.select("sample_id", "loss").iter_rows()),
            permutations=settings.permutations, seed=settings.seed,
        )  # fmt: skip
        rows = rank_hypotheses([experiment.hypothesis for experiment in self.experiments.values()], table)
        return with_label_evidence(rows, label_evidence(sides.holdout, sides.target, config.class_names))

    def _judged(self, campaign: Campaign, due: list[Any], case: str) -> list[dict[str, Any]]:
        if not due:
            return []
        store = SampleStore(str(self.folder / case))
        tables = {experiment.id: store.table("target", experiment.id, id_column="row_id") for experiment in due}
        done = run_experiments(campaign, due, tables, case)
        tried = [name for name, (fitted, _) in done.items() if {"normalised", "imitated"} & set(fitted.parameters)]
        gap = gap_draws(campaign.sides.target, campaign.sides.holdout, self.rules)
        figures = [measure(name, tables[name].read(), campaign.sides.target, campaign.sides.holdout, gap, self.rules)
                   for name in tried]  # fmt: skip
        return verdict_rows(figures, gap.value, self.rules)

    def _measured(self, key: str, items: Sequence[Item], manifest: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Evaluation and traits of some items, kept in the case's folder: a case that was stopped goes on."""
        store = SampleStore(str(self.folder / key))
        engine = _Pictures(self.world, {item.sample_id: item for item in items})
        evaluation, traits = store.table(key, "evaluation"), store.table(key, "traits")
        run_pass(self.world.model, manifest, partial(engine.map_batches, key),
                 PassTables(None, evaluation), code=CODE, what=key)  # fmt: skip
        update_traits(manifest, None, partial(engine.map_batches, key), catalogue(self.world.config),
                      traits, input_size=self.world.input_size, code=CODE, what=key)  # fmt: skip
        return evaluation.read(), traits.read()


def _with_metadata(
    traits: pl.DataFrame, evaluation: pl.DataFrame, manifest: pl.DataFrame, names: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Traits with metadata (n, T), losses (n,) and units of one side's samples."""
    rows = traits.select("sample_id", "unit", *names).join(
        evaluation.filter(pl.col("loss").is_finite()).select("sample_id", "loss"), on="sample_id", how="inner"
    ).join(manifest.select("sample_id", "metadata"), on="sample_id", how="inner").sort("sample_id")  # fmt: skip
    extra = [list(json.loads(text).values()) for text in rows["metadata"]]
    values = np.concatenate([rows.select(names).to_numpy().astype(np.float64), np.array(extra, dtype=float)], axis=1)
    return values, rows["loss"].to_numpy().astype(np.float64), rows["unit"].to_list()


def _manifest(items: Sequence[Item], part: str) -> pl.DataFrame:
    """A manifest of items: units are their blocks, halves the product's."""
    units = dependence_units([item.block for item in items])
    rows = [
        {
            "sample_id": item.sample_id, "fingerprint": "", "image": item.sample_id, "mask": item.sample_id,
            "image_hash": _hash(item.image), "mask_hash": _hash(item.mask), "labels_version": "1", "split": "",
            "group": item.block, "part": part, "unit": str(unit), "report_half": bool(half), "metadata": item.metadata,
            "height": item.image.shape[0], "width": item.image.shape[1], "class_pixels": [], "labelled": True,
            "quarantined": False, "reason": "",
        }
        for item, unit, half in zip(items, units, halves(units), strict=True)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=MANIFEST_SCHEMA)


def _hash(array: np.ndarray) -> str:
    return blake2b(np.ascontiguousarray(array).tobytes(), digest_size=12).hexdigest()


def _shares(priced: Priced, judged: list[dict[str, Any]], causes: list[str]) -> dict[str, tuple[float, float, float]]:
    """Shares of the gap of all priced causes, and of root causes that experiments have confirmed."""
    found = {row["experiment"]: (_closed(row), *(row["ci95"] or row["induced_ci95"]))
             for row in judged if row["experiment"] in causes}  # fmt: skip
    return found | {
        one.experiment: (one.share, *one.ci95) for one in priced.prices if one.share is not None and one.ci95
    }


def _closed(row: dict[str, Any]) -> float:
    return float(row["gap_closed"] if row["ci95"] is not None else row["gap_induced"])
