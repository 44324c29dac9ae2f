"""Shares of the gap: what each confirmed family is worth, alone and beside the others, so that shares add up.

Belongs here: losses under stacks of operators, the coalitions of families, their Shapley shares with intervals.
Does not: verdicts on single causes, the recipe, the Shapley formula (`statistics/shapley.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.experiments.operators import LabelOperator, PictureOperator
from assets.experiments.recipe import Stack, gain_of, picture_losses, rake, recipe_steps, stack_greedily
from assets.experiments.registry import Experiment
from assets.experiments.reweight import ClassShare
from assets.experiments.trial import TRIAL_SCHEMA, FitSets, Predictor, Side
from assets.experiments.verdict import GapDraws, pair
from assets.inference.estimation import Calibration
from assets.inference.losses import list_column
from assets.statistics.resampling import bootstrap_weights, percentile_interval
from assets.statistics.shapley import coalitions, shapley_values
from resources.engine import Notes
from resources.fingerprint import fingerprint
from resources.pictures import Batch
from resources.progress import track
from resources.sample_store import SampleTable

if TYPE_CHECKING:
    from assets.experiments.campaign import Campaign

Floats = NDArray[np.float64]
Coalition = frozenset[str]

MOST_FAMILIES = 6
"""Every family doubles the coalitions, each of which costs a pass over half of the target."""
LAST = "model_statistics"
CAMERA = ("haze", "geometry", "vignette", "sharpness", "exposure", "noise", "colour", "contrast", "saturation",
          "compression")  # fmt: skip
"""The order in which light, lens, sensor and file leave their marks: imitations are laid on in it."""
SEED = 7


@dataclass(frozen=True)
class StackRows:
    """The computation of a pass. Notes: row id and fingerprint of each row of a sample that is due, by stack's place.

    Losses of pictures without a label are estimated by the calibration.
    """

    predictors: list[Predictor]
    calibration: Calibration | None

    def __call__(self, batch: Batch, notes: Notes) -> pl.DataFrame:
        """The due rows of all stacks."""
        rows = []
        for place, predictor in enumerate(self.predictors):
            pictures = [picture for picture in batch.pictures if place in notes[picture.sample_id]]
            found = picture_losses(predictor, pictures, self.calibration) if pictures else ()
            for name, loss, pixels in found:
                row_id, mark = notes[name][place]
                rows.append(_row(row_id, mark, name, loss, pixels))
        return pl.DataFrame(rows, schema=TRIAL_SCHEMA)


class StackLosses:
    """Losses of target and holdout under stacks of operators, one table row a side, stack and sample.

    A row is computed once and kept while its sample, the stack's parameters, the model and the code stay the same.
    """

    def __init__(self, campaign: Campaign, sets: FitSets, table: SampleTable, code: str) -> None:
        self.campaign, self.sets, self.table, self.code = campaign, sets, table, code
        self._kept = table.read() if table.exists else pl.DataFrame(schema=TRIAL_SCHEMA)
        if self._kept.schema != pl.Schema(TRIAL_SCHEMA):
            self._kept = pl.DataFrame(schema=TRIAL_SCHEMA)
        self._asked: set[str] = set()

    def rows(self, side: Side, stack: Stack, *, report: bool) -> pl.DataFrame:
        """Rows of one half of a side under a stack, role 'normalised'; the untouched evaluation for an empty one."""
        if not stack.steps:
            return self._untouched(side, report=report)
        self.bring(side, [stack], report=report)
        wanted = pl.DataFrame({"row_id": list(self._wanted(side, stack, report=report))})
        return self._kept.join(wanted, on="row_id", how="semi").sort("sample_id")

    def bring(self, side: Side, stacks: Iterable[Stack], *, report: bool) -> None:
        """Compute what some stacks' rows lack, every picture decoded once."""
        known = dict(self._kept.select("row_id", "fingerprint").iter_rows())
        due: dict[str, tuple[Predictor, dict[str, tuple[str, str]]]] = {}
        for stack in stacks:
            wanted = self._wanted(side, stack, report=report) if stack.steps else {}
            self._asked |= wanted.keys()
            lacking = {row: (name, mark) for row, (name, mark) in wanted.items() if known.get(row) != mark}
            if lacking and self._key(side, stack) not in due:
                predictor = stack.predictor(self.campaign.model, self.sets.target_fit)
                due[self._key(side, stack)] = predictor, {name: (row, mark) for row, (name, mark) in lacking.items()}
        if due:
            for rows in self._computed(side, list(due.values())):
                self.table.upsert(rows, new=set(rows["row_id"]) - known.keys())
                self._kept = pl.concat([self._kept.join(rows, on="row_id", how="anti"), rows])

    def on_fit_half(self, stack: Stack) -> tuple[Floats, list[str]]:
        """Loss of each of the target's fit samples under a stack, and its unit."""
        rows = self.rows("target", stack, report=False)
        units = dict(self.campaign.samples("target", report=False).select("sample_id", "unit").iter_rows())
        return rows["loss"].to_numpy().astype(np.float64), [units[name] for name in rows["sample_id"]]

    def finish(self) -> None:
        """Remove the rows of stacks that nothing asks for any more."""
        if not self.table.exists:
            self.table.upsert(pl.DataFrame(schema=TRIAL_SCHEMA))
        self.table.remove([row for row in self.table.keys()["row_id"] if row not in self._asked])
        self.table.finish()

    def _computed(self, side: Side, due: list[tuple[Predictor, dict[str, tuple[str, str]]]]) -> Iterator[pl.DataFrame]:
        notes: dict[str, dict[int, tuple[str, str]]] = {}
        for place, (_, lacking) in enumerate(due):
            for name, row in lacking.items():
                notes.setdefault(name, {})[place] = row
        computation = StackRows([predictor for predictor, _ in due], self.campaign.sides.estimated_by)
        found = self.campaign.run(side, sorted(notes), computation, notes)
        what = f"{self.campaign.key}: causes together ({side})"
        for done in track(found, what, len(notes), size=lambda done: len(done.ids)):
            yield done.result

    def _key(self, side: Side, stack: Stack) -> str:
        codes = [step.experiment.code for step in stack.steps]
        return fingerprint(recipe_steps(stack), codes, self.campaign.version(side), self.code)

    def _wanted(self, side: Side, stack: Stack, *, report: bool) -> dict[str, tuple[str, str]]:
        """Sample id and fingerprint of every row that a stack's half should have, by row id."""
        key = self._key(side, stack)
        columns = ("sample_id", "image_hash", "mask_hash", "labels_version")
        samples = self.campaign.samples(side, report=report).select(columns).iter_rows()
        return {f"{side}:{key}:{name}": (name, fingerprint(content, key)) for name, *content in samples}

    def _untouched(self, side: Side, *, report: bool) -> pl.DataFrame:
        evaluation = self.campaign.sides.target if side == "target" else self.campaign.sides.holdout
        rows = evaluation.filter(pl.col("report_half") == report)
        if rows.is_empty():
            return pl.DataFrame(schema=TRIAL_SCHEMA)
        sums = zip(rows["sample_id"], list_column(rows, "loss_sum"), list_column(rows, "class_pixels"), strict=True)
        return pl.DataFrame([_row(name, "", name, loss, pixels) for name, loss, pixels in sums], schema=TRIAL_SCHEMA)


@dataclass(frozen=True)
class Family:
    """The confirmed experiments of one family, strongest first. `induced`: its share is measured on the source."""

    name: str
    experiments: list[Experiment]
    induced: bool


@dataclass(frozen=True)
class Share:
    """A family's Shapley share of the gap."""

    family: str
    hypotheses: list[str]
    share: float
    ci95: tuple[float, float]
    induced: bool


@dataclass(frozen=True)
class Attribution:
    """The families' shares, which sum to `joint`, what they do together; `left_out` were confirmed and not counted."""

    shares: list[Share]
    joint: float
    ci95: tuple[float, float] | None
    left_out: list[str]

    def rows(self) -> list[dict[str, Any]]:
        """The shares as JSON values, largest first."""
        return [vars(share) for share in sorted(self.shares, key=lambda share: -share.share)]


def attribute(
    confirmed: Sequence[Experiment], induced: Collection[str], gap: GapDraws, losses: StackLosses
) -> Attribution:
    """Shapley shares of the confirmed families.

    A coalition's value is the share of the gap that its families close on the target's report half, their operators
    stacked (`closing_stack`) and their classes re-weighted. Families that were confirmed by an imitation alone cannot
    be taken away from pictures: their coalitions are valued by what they induce, stacked, on the holdout's report
    half, and what they close together with the others is taken to be the sum.

    Args:
        confirmed: experiments, strongest first.
        induced: ids of those that were confirmed by what they induce.
        gap: the gap's draws, which all shares' intervals use.
        losses: where rows come from.
    """
    families, left_out = group_families(confirmed, induced)
    closing, inducing = ([f for f in families if f.induced == kind] for kind in (False, True))
    worth: dict[str, Floats] = {}
    if closing:
        worth |= shapley_values([family.name for family in closing], _closed_values(closing, gap, losses))
    if inducing:
        worth |= shapley_values([family.name for family in inducing], _induced_values(inducing, gap, losses))
    if not worth:
        return Attribution([], 0.0, None, left_out)
    shares = [
        Share(family.name, [e.id for e in family.experiments], float(worth[family.name][0]),
              percentile_interval(worth[family.name][1:]), family.induced)
        for family in families
    ]  # fmt: skip
    joint = np.sum(list(worth.values()), axis=0)
    return Attribution(shares, float(joint[0]), percentile_interval(joint[1:]), left_out)


def group_families(confirmed: Sequence[Experiment], induced: Collection[str]) -> tuple[list[Family], list[str]]:
    """The families of confirmed experiments (strongest first), and the names of those that are not counted.

    A family is measured the way its strongest experiment was confirmed; what was confirmed the other way is left to
    it. At most `MOST_FAMILIES`, the strongest; an imitation that crops pictures has no place in a stack of them.
    """
    families: dict[str, Family] = {}
    for experiment in confirmed:
        name, by_imitation = experiment.hypothesis.family, experiment.id in induced
        family = families.setdefault(name, Family(name, [], by_imitation))
        if family.induced == by_imitation:
            family.experiments.append(experiment)
    counted = [f for f in families.values() if not f.induced or isinstance(f.experiments[0].imitation, PictureOperator)]
    kept = counted[:MOST_FAMILIES]
    return kept, [name for name in families if name not in {family.name for family in kept}]


def closing_stack(
    coalition: Coalition, families: Sequence[Family], losses: StackLosses, made: dict[Coalition, Stack]
) -> Stack:
    """The stack of a coalition: family after family, each fitted on what those before it leave.

    A family joins others only where it lowers the loss of the fit half: two that undo the same thing must not undo it
    twice. `made` remembers the stacks of smaller coalitions.
    """
    if coalition not in made:
        members = [family for family in families if family.name in coalition]
        if not members:
            made[coalition] = Stack()
            return made[coalition]
        base = closing_stack(coalition - {members[-1].name}, families, losses, made)
        option = base
        for experiment in _representatives(members[-1], losses):
            option = option.fit_next(experiment, losses.sets) or option
        helps = option is not base and (not base.steps or _mean_on_fit(losses, option) < _mean_on_fit(losses, base))
        made[coalition] = option if helps else base
    return made[coalition]


def _closed_values(families: Sequence[Family], gap: GapDraws, losses: StackLosses) -> dict[Coalition, Floats]:
    """Share of the gap closed by every coalition: the value, then its draws, (1 + draws,)."""
    ordered = sorted(families, key=lambda family: family.name == LAST)
    made: dict[Coalition, Stack] = {}
    stacks = {c: closing_stack(c, ordered, losses, made) for c in coalitions([family.name for family in families])}
    losses.bring("target", stacks.values(), report=True)
    return {c: _closed(stack, [f for f in families if f.name in c], gap, losses) for c, stack in stacks.items()}


def _closed(stack: Stack, members: Sequence[Family], gap: GapDraws, losses: StackLosses) -> Floats:
    sets, sides = losses.sets, losses.campaign.sides
    content = [e.operator for f in members for e in f.experiments if isinstance(e.operator, ClassShare)]
    weights = rake(content, sets.pixels["reference"], sets.pixels["target_fit"]) if content else None
    rows = losses.rows("target", stack, report=True)
    gain, ids = gain_of(rows, sides.target, weights, sets.class_losses.get("holdout_fit"))
    if not ids:
        return np.zeros(1 + len(gap.gaps))
    value = np.concatenate([[gain.mean() / gap.value], gap.shares(gain, ids)])
    rules = Stack([step for step in stack.steps if isinstance(step.experiment.operator, LabelOperator)])
    if rules.steps:  # a rule on labels lowers any loss: only what it takes from the target beyond the holdout counts
        value = value - _on_holdout(rules, gap, losses)
    return value


def _induced_values(families: Sequence[Family], gap: GapDraws, losses: StackLosses) -> dict[Coalition, Floats]:
    """Share of the gap induced by every coalition: the value, then its draws, (1 + draws,)."""
    mirrored = replace(losses.sets, reference=losses.sets.target_fit, target_fit=losses.sets.holdout_fit)
    stacks: dict[Coalition, Stack] = {}
    for coalition in coalitions([family.name for family in families]):
        stack = Stack()
        for family in sorted((f for f in families if f.name in coalition), key=_camera_place):
            strongest = family.experiments[0]  # others of the family imitate the same loss of information
            imitation = replace(strongest, operator=strongest.imitation, imitation=None)
            stack = stack.fit_next(imitation, mirrored) or stack
        stacks[coalition] = stack
    losses.bring("holdout", stacks.values(), report=True)
    return {coalition: -_on_holdout(stack, gap, losses) for coalition, stack in stacks.items()}


def _on_holdout(stack: Stack, gap: GapDraws, losses: StackLosses) -> Floats:
    """The mean loss that a stack takes from the holdout's report half, as a share of the gap: value, then draws."""
    paired = pair(losses.rows("holdout", stack, report=True), "normalised", losses.campaign.sides.holdout)
    if paired is None:
        return np.zeros(1 + len(gap.gaps))
    weights = bootstrap_weights(paired.units, len(gap.gaps), np.random.default_rng(SEED))
    draws = weights @ paired.gain / weights.sum(axis=1) / gap.gaps
    return np.concatenate([[paired.gain.mean() / gap.value], draws])


def _representatives(family: Family, losses: StackLosses) -> list[Experiment]:
    """The experiments that stand for a family in a stack: those that help one after another, one at least."""
    rules = [experiment for experiment in family.experiments if isinstance(experiment.operator, LabelOperator)]
    maps = [experiment for experiment in family.experiments if experiment.direction in ("normalise", "model")]
    if len(maps) > 1:
        chosen = [step.experiment for step in stack_greedily(maps, losses.sets, losses.on_fit_half).steps]
        maps = chosen or maps[:1]
    return [*maps, *rules]


def _mean_on_fit(losses: StackLosses, stack: Stack) -> float:
    return float(np.nanmean(losses.on_fit_half(stack)[0]))


def _camera_place(family: Family) -> int:
    return CAMERA.index(family.name) if family.name in CAMERA else len(CAMERA)


def _row(row_id: str, mark: str, name: str, loss: Floats, pixels: Floats) -> dict[str, Any]:
    return {
        "row_id": row_id, "fingerprint": mark, "sample_id": name, "role": "normalised",
        "loss": float(loss.sum() / pixels.sum()) if pixels.sum() else None,
        "loss_sum": loss.tolist(), "class_pixels": pixels.tolist(), "latent": [], "traits": [],
    }  # fmt: skip
