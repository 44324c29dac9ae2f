"""What the causes that explain a shift cost: their imitations laid on the holdout, at the strengths that explain it.

Belongs here: coalitions of explained causes, the holdout's losses under them, each cause's share of the gap with its
interval and its word. Does not: choosing causes (`explain.py`), what a normalisation closes (`verdict.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.experiments.explain import tilt
from assets.experiments.operators import LabelOperator, NotApplicable, Parameters, SetStatistics, Window
from assets.experiments.recipe import Stack, Step
from assets.experiments.registry import Experiment
from assets.experiments.responses import Probe, Setting, probes
from assets.experiments.shares import CAMERA, StackLosses
from assets.experiments.verdict import FEWEST_UNITS, Rules, Word
from assets.statistics.multiplicity import holm
from assets.statistics.resampling import bootstrap_weights, paired_cluster_test, percentile_interval
from assets.statistics.shapley import coalitions, shapley_values

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Coalition = frozenset[str]


@dataclass(frozen=True)
class Cause:
    """An explained cause: the experiment whose imitation it is, at the setting that explains the shift."""

    experiment: Experiment
    setting: Setting

    @property
    def id(self) -> str:
        """The experiment's id."""
        return self.experiment.id

    @property
    def is_content(self) -> bool:
        """Whether samples are weighted instead of pictures changed; the setting is then the class's mean share."""
        return self.id.startswith("content_")


@dataclass(frozen=True)
class ProbedMap:
    """A probe's change of pictures, named by its experiment, as an operator; its setting is the only parameter."""

    name: str

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """There is nothing to fit: explanations choose the setting."""
        raise NotApplicable("an explained cause has its setting already")

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """The change at `parameters["setting"]`."""
        change = _probe(self.name).change
        assert change is not None
        return change(batch, tuple(parameters["setting"]))


@dataclass(frozen=True)
class ProbedWindow:
    """A probe's change of what the camera sees, or several within each other: one window of the picture."""

    names: tuple[str, ...]

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """There is nothing to fit: explanations choose the setting."""
        raise NotApplicable("an explained cause has its setting already")

    def windows(self, height: int, width: int, parameters: Parameters) -> list[Window]:
        """The part of a picture that is left to see."""
        top, left = 0, 0
        for name, setting in zip(self.names, parameters["settings"], strict=True):
            window = _probe(name).windows
            assert window is not None
            seen = window(height, width, tuple(setting))
            top, left = top + seen.top, left + seen.left
            height, width = seen.bottom - seen.top, seen.right - seen.left
        return [Window(top, left, top + height, left + width)]

    def sham(self, parameters: Parameters) -> Parameters:
        """Windows of explained causes have no sham."""
        raise NotApplicable("an explained cause has no sham")


@dataclass(frozen=True)
class Price:
    """What a cause costs: its Shapley share of the gap (`share`), in loss (`cost`), and the word on it.

    `p_value` is of a cluster-robust test over the holdout's units that it costs nothing, `q_value` the same after
    Holm's correction over the causes.
    """

    experiment: str
    setting: Setting
    cost: float
    share: float
    ci95: tuple[float, float]
    p_value: float
    q_value: float
    verdict: Word
    reason: str


@dataclass(frozen=True)
class Priced:
    """All explained causes with what they cost together: `joint` and its interval, None where there are none."""

    prices: list[Price]
    joint: float
    ci95: tuple[float, float] | None

    def as_values(self) -> dict[str, Any]:
        """Plain values to store."""
        return {"causes": [vars(price) for price in self.prices], "joint": self.joint, "ci95": self.ci95}


def causes_of(explanation: dict[str, Any], experiments: dict[str, Experiment]) -> list[Cause]:
    """The steps of a stored explanation."""
    return [Cause(experiments[step["experiment"]], tuple(step["setting"])) for step in explanation["steps"]]


def price(causes: Sequence[Cause], holdout_shares: pl.DataFrame, losses: StackLosses, rules: Rules) -> Priced:
    """Shapley shares of the gap of explained causes, by laying every coalition of them on the holdout.

    No loss went into the explanation, so that the whole holdout counts and not its report half alone; the gap is that
    of all labelled samples.

    Args:
        causes: at most a handful: 2^k coalitions are tried, each with a forward of the holdout.
        holdout_shares: `sample_id` and the traits of the holdout that content causes speak of (`share_<class>`).
        losses: where the losses under a coalition come from.
        rules: how many draws, and when a cause is confirmed or refuted.
    """
    if not causes:
        return Priced([], 0.0, None)
    sides = losses.campaign.sides
    holdout = sides.holdout.sort("sample_id")
    units, before = holdout["unit"].to_list(), holdout["loss"].to_numpy().astype(np.float64)
    values = {c: _values(c, causes, holdout, holdout_shares, losses) for c in coalitions([cause.id for cause in causes])}
    worth = shapley_values([cause.id for cause in causes], values)
    rng = np.random.default_rng(rules.seed)
    own = bootstrap_weights(units, rules.draws, rng)
    own = own / own.sum(1, keepdims=True)
    other = bootstrap_weights(sides.target["unit"].to_list(), rules.draws, rng)
    target = sides.target["loss"].to_numpy().astype(np.float64)
    gaps = other @ target / other.sum(1) - own @ before
    gap = float(target.mean() - before.mean())
    tests = {name: paired_cluster_test(value, units) for name, value in worth.items()}
    corrected = holm(np.array([tests[cause.id].p_value for cause in causes]))
    found = []
    for cause, q in zip(causes, corrected, strict=True):
        value, test = worth[cause.id], tests[cause.id]
        interval = percentile_interval((own @ value) / gaps)
        word, reason = _word(test.mean / gap, interval, float(q), len(set(units)), rules)
        found.append(Price(cause.id, cause.setting, test.mean, test.mean / gap, interval, test.p_value, float(q),
                           word, reason))  # fmt: skip
    together = np.sum(list(worth.values()), axis=0)
    return Priced(found, float(together.mean() / gap), percentile_interval((own @ together) / gaps))


def root_causes(
    priced: Priced, judged: Sequence[dict[str, Any]], experiments: Mapping[str, Experiment]
) -> list[str]:
    """Ids of the causes of the gap, the largest share first.

    What explains the shift of all traits and was confirmed by its price is a cause. What closes the gap besides is a
    remedy: maps of colour undo many a camera's fault, and re-estimated statistics most of them. A rule on labels shows
    in no picture, so that its experiment decides; so do experiments where nothing explains the shift.
    """
    found = {price.experiment: price.share for price in priced.prices if price.verdict == "confirmed"}
    for row in judged:
        if row["verdict"] == "confirmed" and row["experiment"] not in found:
            rule = isinstance(experiments[row["experiment"]].operator, LabelOperator)
            if rule or not priced.prices:
                found[row["experiment"]] = row["gap_closed"] if row["ci95"] is not None else row["gap_induced"]
    return sorted(found, key=lambda name: -found[name])


def _word(share: float, interval: tuple[float, float], q: float, units: int, rules: Rules) -> tuple[Word, str]:
    low, high = interval
    shown = f"done to the source it costs {share:.0%} of the gap [{low:.0%}, {high:.0%}]"
    if units < FEWEST_UNITS:
        return "inconclusive", f"{shown}, but {units} independent groups are too few to judge by"
    if high < rules.smallest_effect:
        return "refuted", f"{shown}, below the smallest effect worth acting on ({rules.smallest_effect:.0%})"
    if low <= 0:
        return "inconclusive", f"{shown}, but the interval reaches 0"
    if not q <= rules.alpha:
        return "inconclusive", f"{shown}, but p = {q:.3f} after correction"
    return "confirmed", f"{shown}, p = {q:.3f} after correction"


def _values(
    coalition: Coalition, causes: Sequence[Cause], holdout: pl.DataFrame, shares: pl.DataFrame, losses: StackLosses
) -> Floats:
    """What a coalition adds to each holdout sample's loss, weighted where content is among it; its mean is the cost."""
    members = [cause for cause in causes if cause.id in coalition]
    stack = laid_on([cause for cause in members if not cause.is_content])
    rows = pl.concat([losses.rows("holdout", stack, report=half) for half in (False, True)])
    after = holdout.select("sample_id").join(rows.select("sample_id", "loss"), on="sample_id", how="left")
    before = holdout["loss"].to_numpy().astype(np.float64)
    loss = after.sort("sample_id")["loss"].to_numpy().astype(np.float64)
    loss = np.where(np.isnan(loss), before, loss)  # a window may leave a picture without labelled pixels
    middle = float(before.mean())
    weights = np.ones(len(before))
    for cause in members:
        if cause.is_content:
            weights = weights * _weights(cause, holdout, shares)
    found: Floats = weights / weights.mean() * (loss - middle) - (before - middle)
    return found


def _weights(cause: Cause, holdout: pl.DataFrame, shares: pl.DataFrame) -> Floats:
    name = f"share_{cause.id.removeprefix('content_')}"
    column = holdout.select("sample_id").join(shares.select("sample_id", name), on="sample_id", how="left")
    share = column.sort("sample_id")[name].to_numpy().astype(np.float64)
    share = np.where(np.isnan(share), np.nanmean(share), share)
    found = tilt(share, cause.setting[0])
    return np.ones(len(share)) if found is None else found


def laid_on(causes: Sequence[Cause]) -> Stack:
    """The stack that imitates some causes: what the camera sees first, then pictures in the camera's order."""
    windows = [cause for cause in causes if _probe(cause.id).windows is not None]
    steps = []
    if windows:
        operator = ProbedWindow(tuple(cause.id for cause in windows))
        seen = replace(windows[0].experiment, operator=operator, imitation=None)
        steps.append(Step(seen, {"settings": [list(cause.setting) for cause in windows]}))
    for cause in sorted((c for c in causes if c not in windows), key=_camera_place):
        imitation = replace(cause.experiment, operator=ProbedMap(cause.id), imitation=None)
        steps.append(Step(imitation, {"setting": list(cause.setting)}))
    return Stack(steps)


def _probe(name: str) -> Probe:
    return probes([name])[0]


def _camera_place(cause: Cause) -> tuple[int, str]:
    family = cause.experiment.hypothesis.family
    return (CAMERA.index(family) if family in CAMERA else len(CAMERA)), cause.id
