"""What the causes that explain a shift cost: their imitations laid on the holdout, at the strengths that explain it.

Belongs here: coalitions of explained causes, the holdout's losses under them, each cause's share of the gap with its
interval and its word. Does not: choosing causes (`explain.py`), what a normalisation closes (`verdict.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.experiments.explain import tilt
from assets.experiments.operators import LabelOperator, NotApplicable, Parameters, SetStatistics, Window
from assets.experiments.recipe import Stack, Step
from assets.experiments.registry import Experiment
from assets.experiments.responses import Probe, Setting, probes
from assets.experiments.search import PLAUSIBLE
from assets.experiments.shares import CAMERA, Attribution, Share, StackLosses
from assets.experiments.verdict import FEWEST_UNITS, Interval, Rules, Word
from assets.inference.estimation import Calibration
from assets.statistics.multiplicity import holm
from assets.statistics.resampling import bootstrap_weights, paired_cluster_test, percentile_interval
from assets.statistics.shapley import coalitions, shapley_values

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Coalition = frozenset[str]


@dataclass(frozen=True)
class Cause:
    """An explained cause: the experiment whose imitation it is, at the setting that explains the shift.

    `plausible`: settings that explain it as well, at the `PLAUSIBLE` quantiles; none where the setting is known.
    """

    experiment: Experiment
    setting: Setting
    plausible: tuple[Setting, ...] = ()

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

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:  # noqa: ARG002
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

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:  # noqa: ARG002
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

    def sham(self, parameters: Parameters) -> Parameters:  # noqa: ARG002
        """Windows of explained causes have no sham."""
        raise NotApplicable("an explained cause has no sham")


@dataclass(frozen=True)
class Price:
    """What a cause costs: `cost`, its Shapley value in loss, as `share` of the gap where there is one, and the word.

    `p_value` is of a cluster-robust test over the holdout's units that it costs nothing, `q_value` the same after
    Holm's correction over the causes.
    """

    experiment: str
    setting: Setting
    cost: float
    cost_ci95: Interval
    share: float | None
    ci95: Interval | None
    p_value: float
    q_value: float
    verdict: Word
    reason: str


@dataclass(frozen=True)
class Priced:
    """All explained causes; what the confirmed ones cost together, in loss and as a share of the gap.

    `families`: shares of the gap of the confirmed causes by family; none where there is no gap.
    """

    prices: list[Price] = field(default_factory=list)
    cost: float = 0.0
    cost_ci95: Interval | None = None
    share: float | None = None
    ci95: Interval | None = None
    families: list[Share] = field(default_factory=list)

    def as_values(self) -> dict[str, Any]:
        """Plain values to store."""
        return asdict(self)

    @classmethod
    def of_values(cls, stored: Mapping[str, Any]) -> Priced:
        """What `as_values` stored, even where JSON has made lists of tuples."""
        parts = {"prices": [Price(**_with_tuples(row)) for row in stored["prices"]],
                 "families": [Share(**{**row, "ci95": tuple(row["ci95"])}) for row in stored["families"]]}  # fmt: skip
        return cls(**{**_with_tuples(stored), **parts})


def _with_tuples(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}


@dataclass(frozen=True)
class _Worth:
    """What causes add to the holdout: to each sample's loss, (n,), and draws of what other strengths would add more."""

    values: Floats
    strength: Floats


@dataclass(frozen=True)
class _Scale:
    """What costs are held against: the gap, its draws and the holdout's, and the smallest cost worth acting on.

    That is a share of the gap or of the holdout's own loss, whichever is larger: a gap that is barely one would else
    make a cause of every trifle.
    """

    gap: float
    gaps: Floats
    holdout_weights: Floats
    smallest: float
    detected: bool

    def share(self, worth: _Worth) -> tuple[float | None, Interval | None]:
        if not self.detected:
            return None, None
        return float(worth.values.mean() / self.gap), percentile_interval(self._draws(worth) / self.gaps)

    def cost(self, worth: _Worth) -> tuple[float, Interval]:
        return float(worth.values.mean()), percentile_interval(self._draws(worth))

    def _draws(self, worth: _Worth) -> Floats:
        found: Floats = self.holdout_weights @ worth.values + worth.strength
        return found


def causes_of(steps: Sequence[dict[str, Any]], experiments: Mapping[str, Experiment]) -> list[Cause]:
    """The steps of a stored explanation as causes."""
    return [
        Cause(experiments[step["experiment"]], tuple(step["setting"]), tuple(map(tuple, step["plausible"])))
        for step in steps
    ]


def price(causes: Sequence[Cause], losses: StackLosses, rules: Rules, *, detected: bool) -> Priced:
    """Shapley costs of explained causes, by laying every coalition of them on the holdout.

    No loss went into the explanation, so that the whole holdout counts and not its report half alone. Scenes differ by
    chance from one set to the other, and the gap with them; a cause laid on the same pictures is free of that, so that
    its cost may be certain where the gap is not. Intervals hold what other plausible strengths would cost, each cause
    laid on alone.

    Args:
        causes: at most a handful: 2^k coalitions are tried, each with a forward of the holdout.
        losses: where the losses under a coalition come from.
        rules: how many draws, and when a cause is confirmed or refuted.
        detected: whether there is a gap, of which shares can be told.
    """
    holdout = losses.campaign.sides.holdout.sort("sample_id")
    before = holdout["loss"].to_numpy().astype(np.float64)
    if not causes:
        return Priced([])
    units, names = holdout["unit"].to_list(), [cause.id for cause in causes]
    sides = losses.campaign.sides
    scale = _scale(before, units, sides.target, sides.estimated_by, rules, detected)
    stacks = {c: laid_on([cause for cause in causes if cause.id in c and not cause.is_content])
              for c in coalitions(names)}  # fmt: skip
    others = {cause.id: [replace(cause, setting=setting) for setting in cause.plausible] for cause in causes}
    alone = [laid_on([other]) for found in others.values() for other in found if not other.is_content]
    for half in (False, True):  # every picture decoded once for all coalitions
        losses.bring("holdout", [*stacks.values(), *alone], report=half)
    values = {c: _values(c, stack, causes, holdout, losses) for c, stack in stacks.items()}
    worth = {
        name: _Worth(found, _strength_draws(name, values, others[name], holdout, losses, rules))
        for name, found in shapley_values(names, values).items()
    }
    tests = [paired_cluster_test(worth[name].values, units) for name in names]
    corrected = holm(np.array([test.p_value for test in tests])).tolist()
    prices = [
        _priced(cause, worth[cause.id], test.p_value, q, scale, rules, len(set(units)))
        for cause, test, q in zip(causes, tests, corrected, strict=True)
    ]
    confirmed = [cause for cause, found in zip(causes, prices, strict=True) if found.verdict == "confirmed"]
    if not confirmed:
        return Priced(prices)
    together = _together([worth[cause.id] for cause in confirmed])
    families = list(_families(confirmed, worth, scale)) if detected else []
    return Priced(prices, *scale.cost(together), *scale.share(together), families)


def _strength_draws(
    name: str, values: Mapping[Coalition, Floats], others: Sequence[Cause], holdout: pl.DataFrame, losses: StackLosses,
    rules: Rules,
) -> Floats:  # fmt: skip
    """What the cause alone would add to the mean loss at strengths drawn from the plausible ones, (draws,)."""
    if not others:
        return np.zeros(rules.draws)
    own = values[frozenset([name])].mean()
    found = [_values(frozenset([name]), laid_on([] if other.is_content else [other]), [other], holdout, losses).mean()
             for other in others]  # fmt: skip
    quantiles = np.random.default_rng([rules.seed, *name.encode()]).random(rules.draws)
    drawn: Floats = np.interp(quantiles, PLAUSIBLE, found) - own
    return drawn


def _together(worth: Sequence[_Worth]) -> _Worth:
    return _Worth(np.sum([one.values for one in worth], axis=0), np.sum([one.strength for one in worth], axis=0))


def _families(confirmed: Sequence[Cause], worth: Mapping[str, _Worth], scale: _Scale) -> Iterator[Share]:
    for name in dict.fromkeys(cause.experiment.hypothesis.family for cause in confirmed):
        members = [cause.id for cause in confirmed if cause.experiment.hypothesis.family == name]
        share, interval = scale.share(_together([worth[member] for member in members]))
        if share is not None and interval is not None:
            yield Share(name, members, share, interval, induced=True)


def _scale(
    before: Floats, units: list[str], target: pl.DataFrame, calibration: Calibration | None, rules: Rules,
    detected: bool,
) -> _Scale:  # fmt: skip
    rng = np.random.default_rng(rules.seed)
    own = bootstrap_weights(units, rules.draws, rng)
    own = own / own.sum(1, keepdims=True)
    source_loss = float(before.mean())
    if not detected:
        return _Scale(math.nan, np.zeros(0), own, rules.smallest_effect * source_loss, detected)
    other = bootstrap_weights(target["unit"].to_list(), rules.draws, rng)
    after = target["loss"].to_numpy().astype(np.float64)
    gap = float(after.mean()) - source_loss
    factors = np.ones(rules.draws) if calibration is None else calibration.factors(rules.draws, rng)
    gaps = other @ after / other.sum(1) * factors - own @ before
    return _Scale(gap, gaps, own, rules.smallest_effect * max(gap, source_loss), detected)


def _priced(
    cause: Cause, worth: _Worth, p_value: float, q_value: float, scale: _Scale, rules: Rules, units: int
) -> Price:  # fmt: skip
    cost, interval = scale.cost(worth)
    share, share_interval = scale.share(worth)
    shown = f"done to the source it adds {cost:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}] to the loss"
    if share is not None and share_interval is not None:
        shown += f", {share:.0%} of the gap [{share_interval[0]:.0%}, {share_interval[1]:.0%}]"
    word, objection = _word(cost, interval, q_value, units, scale.smallest, rules)
    reason = f"{shown}{objection}" if objection else f"{shown}, p = {q_value:.3f} after correction"
    return Price(cause.id, cause.setting, cost, interval, share, share_interval, p_value, q_value, word, reason)


def root_causes(
    priced: Priced, judged: Sequence[dict[str, Any]], experiments: Mapping[str, Experiment], gap: float
) -> list[str]:
    """Ids of the causes of the gap, the costliest first.

    What explains the shift of all traits and was confirmed by its price is a cause. What closes the gap besides is a
    remedy: maps of colour undo many a camera's fault, and re-estimated statistics most of them. A rule on labels shows
    in no picture, so that its experiment decides; so do experiments where nothing explains the shift.
    """
    found = {price.experiment: price.cost for price in priced.prices if price.verdict == "confirmed"}
    for row in judged:
        name = row["experiment"]
        if row["verdict"] == "confirmed" and name not in found and (_is_rule(experiments[name]) or not priced.prices):
            found[name] = gap * (row["gap_closed"] if row["ci95"] is not None else row["gap_induced"])
    return sorted(found, key=lambda name: -found[name])


def attribution(priced: Priced, closed: Attribution, experiments: Mapping[str, Experiment]) -> Attribution:
    """What the gap is made of: the causes by their prices, and rules on labels by what they close.

    Where no cause was confirmed by its price, what experiments close is all there is to share out. Intervals of prices
    and of rules come from other samples, so that their bounds are added.
    """
    if not priced.families or priced.share is None or priced.ci95 is None:
        return closed
    rules = [share for share in closed.shares if all(_is_rule(experiments[name]) for name in share.hypotheses)]
    counted = [*priced.families, *rules]
    left_out = [share.family for share in closed.shares if share.family not in {one.family for one in counted}]
    interval = (priced.ci95[0] + sum(rule.ci95[0] for rule in rules), priced.ci95[1] + sum(r.ci95[1] for r in rules))
    joint = priced.share + sum(rule.share for rule in rules)
    return Attribution(counted, joint, interval, [*left_out, *closed.left_out])


def _is_rule(experiment: Experiment) -> bool:
    return isinstance(experiment.operator, LabelOperator)


def _word(
    cost: float, interval: Interval, q_value: float, units: int, smallest: float, rules: Rules
) -> tuple[Word, str]:
    if units < FEWEST_UNITS:
        return "inconclusive", f", but {units} independent groups are too few to judge by"
    if interval[1] < smallest:
        return "refuted", f", below the smallest effect worth acting on ({smallest:.3f})"
    if interval[0] <= 0:
        return "inconclusive", ", but the interval reaches 0"
    if cost < smallest:
        return "inconclusive", f", less than the smallest effect worth acting on ({smallest:.3f})"
    if not q_value <= rules.alpha:
        return "inconclusive", f", but p = {q_value:.3f} after correction"
    return "confirmed", ""


def _values(
    coalition: Coalition, stack: Stack, causes: Sequence[Cause], holdout: pl.DataFrame, losses: StackLosses
) -> Floats:
    """What a coalition adds to each holdout sample's loss, weighted where content is among it; its mean is the cost."""
    rows = pl.concat([losses.rows("holdout", stack, report=half) for half in (False, True)])
    after = holdout.select("sample_id").join(rows.select("sample_id", "loss"), on="sample_id", how="left")
    before = holdout["loss"].to_numpy().astype(np.float64)
    loss = after.sort("sample_id")["loss"].to_numpy().astype(np.float64)
    loss = np.where(np.isnan(loss), before, loss)  # a window may leave a picture without labelled pixels
    middle = float(before.mean())
    weights = np.ones(len(before))
    for cause in causes:
        if cause.is_content and cause.id in coalition:
            weights = weights * _weights(cause, holdout, losses.campaign.source_traits)
    found: Floats = weights / weights.mean() * (loss - middle) - (before - middle)
    return found


def _weights(cause: Cause, holdout: pl.DataFrame, traits: pl.DataFrame) -> Floats:
    name = f"share_{cause.id.removeprefix('content_')}"
    column = holdout.select("sample_id").join(traits.select("sample_id", name), on="sample_id", how="left")
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
