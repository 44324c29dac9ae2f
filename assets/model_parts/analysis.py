"""The analysis of one side or one target as a whole: which pictures, what is measured, what is stored.

Belongs here: what the doors call, between the store and the plain functions of activations, ablation, recovery and
conclusion. Does not: those functions, Dagster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from hashlib import blake2b
from typing import Any

import polars as pl

from assets.diagnosis.loss_gap import labelled_rows
from assets.inference.forward import sample_paths
from assets.model_parts.ablation import (
    INTERVENTIONS,
    SIDES,
    Ablation,
    Side,
    measure_losses,
    plan_ablations,
    wanted_losses,
)
from assets.model_parts.activations import (
    Activations,
    activation_gaps,
    read_activations,
    update_activations,
    wanted_activations,
)
from assets.model_parts.conclusion import (
    RECOVERY,
    Concluded,
    Measures,
    conclude,
    effects,
    origin,
    sentence,
    worths,
)
from assets.model_parts.parts import Examined, Part
from assets.model_parts.recovery import BATCH, STEPS, Tuned, tune_part, tuned
from resources.config import ExperimentsConfig, GapConfig, ModelPartsConfig
from resources.engine import Engine
from resources.fingerprint import fingerprint
from resources.pictures import Batch
from resources.sample_store import SampleStore, SampleTable


@dataclass(frozen=True)
class SideData:
    """One side: its manifest, its labelled evaluation rows (empty without labels), where its pictures come from.

    `key`: 'source' or the target's name.
    """

    key: str
    side: Side
    manifest: pl.DataFrame
    evaluation: pl.DataFrame
    engine: Engine

    def members(self, count: int) -> pl.DataFrame:
        """Manifest rows of at most so many usable pictures, half of them from each half of the set, sorted by id."""
        usable = self.manifest.filter((pl.col("part") == self.side) & ~pl.col("quarantined"))
        halves = [picked(usable.filter(pl.col("report_half") == report), count // 2) for report in (False, True)]
        return pl.concat(halves).sort("sample_id")

    def compared(self, count: int, *, report: bool) -> pl.DataFrame:
        """Evaluation rows of at most so many labelled pictures of one half, picked likewise, with their content."""
        half = self.evaluation.filter(pl.col("report_half") == report)
        content = self.manifest.select("sample_id", "image_hash", "mask_hash", "labels_version")
        return picked(half.select("sample_id", "loss", "unit").join(content, on="sample_id"), count)

    def fit_ids(self, count: int) -> list[str]:
        """Ids of the members that lie in the fit half."""
        return [str(name) for name in self.members(count).filter(~pl.col("report_half"))["sample_id"]]

    def units(self, ids: Sequence[str]) -> list[str]:
        """The unit of dependence of each."""
        of = dict(self.manifest.select("sample_id", "unit").iter_rows())
        return [str(of[name]) for name in ids]

    def load(self, ids: Sequence[str]) -> Iterator[Batch]:
        """Decoded batches of some of its pictures."""
        return self.load_batches(ids, None)

    def load_batches(self, ids: Sequence[str], batch_size: int | None) -> Iterator[Batch]:
        """Decoded batches of a size of some of its pictures."""
        paths = sample_paths(self.manifest)
        return self.engine.batches(self.key, [paths[name] for name in ids], batch_size=batch_size)


@dataclass(frozen=True)
class PartTables:
    """What is kept of one side: moments by picture, losses by picture and intervention."""

    activations: SampleTable
    losses: SampleTable

    def version(self) -> str:
        """Data version of both."""
        return fingerprint(self.activations.version(), self.losses.version())


def picked(rows: pl.DataFrame, count: int) -> pl.DataFrame:
    """At most so many rows, by a hash of the id, so that they stay picked as others come and go; sorted by id."""
    order = [blake2b(str(name).encode(), digest_size=8).hexdigest() for name in rows["sample_id"]]
    ranked = rows.with_columns(pl.Series("picked_by", order, dtype=pl.String)).sort("picked_by", "sample_id")
    return ranked.head(count).drop("picked_by").sort("sample_id")


def side_data(store: SampleStore, engine: Engine, key: str, side: Side) -> SideData:
    """Read one side from the store; predictions stay on disk."""
    manifest = store.table(key, "manifest").read()
    evaluation = store.table(key, "evaluation").read(["loss"])
    return SideData(key, side, manifest, labelled_rows(evaluation, manifest, side), engine)


def part_tables(store: SampleStore, key: str) -> PartTables:
    """The tables of 'source' or of a target."""
    activations, losses = ("model_parts", "activations"), ("model_parts", "losses")
    return PartTables(store.table(key, *activations), store.table(key, *losses, id_column="row_id"))


def measure_holdout(
    examined: Examined, holdout: SideData, tables: PartTables, settings: ModelPartsConfig, code: str
) -> int:
    """Bring the holdout's activations and losses up to date. Returns the number of forwards for losses (pictures)."""
    found = _activations(examined, holdout, tables.activations, settings, code)
    fit = found.of(holdout.fit_ids(settings.pictures))
    planned, _ = plan_ablations(examined, "holdout", fit, fit)
    return _losses(examined, [holdout], planned, tables.losses, settings, code)


def analyse_target(
    examined: Examined, name: str, sides: dict[Side, SideData], tables: dict[Side, PartTables], config: GapConfig,
    code: str,
) -> dict[str, Any]:  # fmt: skip
    """Bring the target's side up to date and conclude; the holdout's is read as `measure_holdout` left it."""
    settings, statistics = config.model_parts, config.statistics
    holdout, target = sides["holdout"], sides["target"]
    there = read_activations(tables["holdout"].activations, examined.model, examined.parts)
    here = _activations(examined, target, tables["target"].activations, settings, code)
    units = [data.units(found.ids) for data, found in ((holdout, there), (target, here))]
    gaps = activation_gaps(examined, there, units[0], here, units[1], statistics)
    pictures = {"holdout": len(there.ids), "target": len(here.ids)}
    without = _without(sides)
    fits = [found.of(data.fit_ids(settings.pictures)) for data, found in ((holdout, there), (target, here))]
    planned, reasons = plan_ablations(examined, "target", *fits)
    if without is None:
        planned += _tuned(examined, target, settings, statistics.seed)
    wanted = planned if without is None else []
    _losses(examined, [holdout, target], wanted, tables["target"].losses, settings, code)
    if without is not None:
        return found_parts(
            examined, name, Found(Measures(gaps, {}, {}), reasons, without), pictures, config.experiments
        )
    rows = pl.concat([table.losses.read() for table in tables.values()])
    before = {side: data.compared(settings.pictures, report=True) for side, data in sides.items()}
    loss = float(before["target"]["loss"].to_numpy().mean())
    measures = Measures(gaps, effects(rows, before, examined.parts), worths(rows, before, examined.parts), loss)
    steps = dict(rows.filter(pl.col("intervention") == RECOVERY).select("part", "steps").iter_rows())
    pictures |= {f"{side}_compared": frame.height for side, frame in before.items()}
    return found_parts(examined, name, Found(measures, reasons, steps=steps), pictures, config.experiments)


def _without(sides: dict[Side, SideData]) -> str | None:
    """Why no loss is compared; None where both sides have labels in their report halves."""
    names: dict[Side, str] = {"holdout": "the source holdout", "target": "the target"}
    for side, data in sides.items():
        if not data.evaluation["report_half"].any():
            return f"{names[side]} has no labels"
    return None


def _activations(
    examined: Examined, data: SideData, table: SampleTable, settings: ModelPartsConfig, code: str
) -> Activations:
    wanted = wanted_activations(data.members(settings.pictures), examined.model, examined.parts, code)
    what = f"{data.key}: activations of the parts"
    update_activations(examined.model, examined.parts, wanted, data.load, table, what)
    return read_activations(table, examined.model, examined.parts)


def _losses(
    examined: Examined, sides: Sequence[SideData], planned: Sequence[Ablation], table: SampleTable,
    settings: ModelPartsConfig, code: str,
) -> int:  # fmt: skip
    by_side = {data.side: data for data in sides}
    samples = {side: data.compared(settings.pictures, report=True) for side, data in by_side.items()}
    wanted = wanted_losses(planned, samples, examined.model.fingerprint, code)
    what = f"{sides[-1].key}: losses without each part"
    return measure_losses(examined, planned, wanted, lambda side, ids: by_side[side].load(ids), table, what)


@dataclass(frozen=True)
class Found:
    """What was measured of one target's parts, with what was left out and why.

    `reasons`: by part and intervention; `without`: why no loss was compared; `steps`: of a part's training alone.
    """

    measures: Measures
    reasons: dict[tuple[str, str], str]
    without: str | None = None
    steps: dict[str, int] = field(default_factory=dict)


def found_parts(
    examined: Examined, name: str, found: Found, pictures: dict[str, int], rules: ExperimentsConfig
) -> dict[str, Any]:
    """The target's parts as they are stored: what was measured, each part's conclusion, the sentence."""
    parts, measures = examined.parts, found.measures
    concluded = {part.name: conclude(part, measures, rules.alpha, rules.smallest_effect) for part in parts}
    return {
        "skipped": None,
        "without_losses": found.without,
        "sentence": sentence(name, parts, concluded, measures, found.without),
        "origin": origin(parts, concluded, measures),
        "pictures": pictures,
        "parts": [_part(examined, part, found, concluded[part.name]) for part in parts],
    }


def skipped_parts(name: str, reason: str) -> dict[str, Any]:
    """What is stored where the parts can't be looked at."""
    return {
        "skipped": reason, "without_losses": None, "sentence": f"{name}: the parts were not looked at: {reason}.",
        "origin": None, "pictures": {}, "parts": [],
    }  # fmt: skip


def _part(examined: Examined, part: Part, found: Found, concluded: Concluded) -> dict[str, Any]:
    network: Any = examined.model.network
    weights = sum(
        weight.numel() for layer in part.layers for weight in network.get_submodule(layer).parameters(recurse=False)
    )
    worth = found.measures.worths.get(part.name)
    return {
        "name": part.name, "output": part.output, "channels": part.channels, "parameters": weights,
        "fed_by": list(part.fed_by), "gap": asdict(found.measures.gaps[part.name]),
        "interventions": [_intervention(part, kind, found) for kind in (*INTERVENTIONS, RECOVERY)
                          if found.without is None and (kind != RECOVERY or found.steps)],
        "worth": None if worth is None else asdict(worth),
        "transfer": concluded.transfer, "grows": concluded.grows, "misfit": concluded.misfit,
        "reasons": concluded.reasons,
        "tuning_steps": found.steps.get(part.name), "planned_steps": STEPS if found.steps else None,
    }  # fmt: skip


def _intervention(part: Part, kind: str, found: Found) -> dict[str, Any]:
    sides = found.measures.effects.get((part.name, kind), {})
    holdout, target = (asdict(sides[side]) if side in sides else None for side in SIDES)
    return {"intervention": kind, "holdout": holdout, "target": target, "reason": found.reasons.get((part.name, kind))}


# --- fine-tuning of one part alone ------------------------------------------------------------------------------------


def _tuned(examined: Examined, target: SideData, settings: ModelPartsConfig, seed: int) -> list[Ablation]:
    """Each part trained alone on the target's labelled fit half, to be measured on both sides.

    A part is trained when a loss is asked for, once for both sides. None are planned without a budget.
    """
    fit = target.compared(settings.pictures, report=False)
    if settings.fine_tuning_minutes == 0 or fit.height < BATCH:
        return []
    decides = [STEPS, settings.fine_tuning_minutes, seed, fit.drop("loss", "unit").rows()]
    seconds = 60 * settings.fine_tuning_minutes / len(examined.parts)
    ids = fit["sample_id"].to_list()
    training = {part.name: _training(examined, part, target, ids, seconds, seed) for part in examined.parts}
    return [
        _tuned_ablation(examined, part, side, decides, training[part.name])
        for part in examined.parts for side in SIDES
    ]  # fmt: skip


def _training(
    examined: Examined, part: Part, target: SideData, ids: list[str], seconds: float, seed: int
) -> Callable[[], Tuned]:
    def load(order: list[str]) -> Iterator[Batch]:
        return target.load_batches(order, BATCH)

    return cache(lambda: tune_part(examined.model, part, ids, load, seconds, seed))


def _tuned_ablation(
    examined: Examined, part: Part, side: Side, decides: list[Any], training: Callable[[], Tuned]
) -> Ablation:
    network: Any = examined.model.network
    return Ablation(
        part, RECOVERY, side, decides, lambda: tuned(network, training().weights), lambda: training().steps
    )  # fmt: skip
