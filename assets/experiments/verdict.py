"""Verdicts: is it really the cause? Paired figures, intervals, controls, correction, and a word for it.

Belongs here: judging rows of trials against the evaluation. Does not: running trials, the recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.diagnosis.loss_gap import weighted_means
from assets.inference.estimation import Calibration
from assets.inference.losses import list_column
from assets.statistics.multiplicity import holm
from assets.statistics.resampling import (
    PairedTest,
    bootstrap_weights,
    paired_cluster_test,
    percentile_interval,
    two_sample_cluster_test,
)
from resources.config import GapConfig

Floats = NDArray[np.float64]
Interval = tuple[float, float]
Word = Literal["confirmed", "refuted", "inconclusive", "skipped"]


FEWEST_UNITS = 3
"""With fewer independent groups on the report half an interval says nothing about spread, for or against."""


@dataclass(frozen=True)
class Rules:
    """When a cause counts as confirmed or refuted."""

    smallest_effect: float
    alpha: float
    draws: int
    seed: int

    @classmethod
    def of(cls, config: GapConfig) -> Rules:
        """Those of a config."""
        settings = config.experiments
        return cls(settings.smallest_effect, settings.alpha, config.statistics.bootstrap, config.statistics.seed)


@dataclass(frozen=True)
class GapDraws:
    """The loss gap on the report half and its bootstrap draws, which all ratios share.

    `target_weights` (draws, n) resample the target's units; `gaps` (draws,) are the gap under them. Where the target's
    losses are estimated, `factors` (draws,) are what its true ones might be times as much.
    """

    ids: list[str]
    units: list[str]
    before: Floats
    value: float
    target_weights: Floats
    holdout_units: dict[str, str]
    gaps: Floats
    factors: Floats = field(default_factory=lambda: np.ones(1))

    def shares(self, gain: Floats, ids: list[str]) -> Floats:
        """Draws of the share of the gap that the mean gain of some of its samples is."""
        places = {name: place for place, name in enumerate(self.ids)}
        weights = self.target_weights[:, [places[name] for name in ids]]
        mass = weights.sum(1)
        means = np.divide(weights @ gain, mass, out=np.full(len(mass), math.nan), where=mass > 0)
        shares: Floats = means * self.factors / self.gaps
        return shares


@dataclass(frozen=True)
class Paired:
    """Losses of the same samples before and after a change."""

    ids: list[str]
    before: Floats
    after: Floats
    units: list[str]
    class_delta: Floats

    @property
    def gain(self) -> Floats:
        """Loss before minus after, per sample: positive where the change helps."""
        gain: Floats = self.before - self.after
        return gain

    def test(self) -> PairedTest:
        """Cluster-robust paired test of the mean gain."""
        return paired_cluster_test(self.gain, self.units)


@dataclass(frozen=True)
class Figures:
    """What an experiment found, before the correction over all of them.

    `difference` is of the target's loss, `imitated_delta` what the imitation adds to the holdout's, both after minus
    before; shares of the gap are the same, held against it.
    """

    experiment: str
    samples: int = 0
    units: int = 0
    loss_before: float = math.nan
    loss_after: float = math.nan
    difference: float = math.nan
    difference_ci95: Interval | None = None
    gap_closed: float = math.nan
    ci95: Interval | None = None
    p_value: float = math.nan
    q_value: float = math.nan
    imitated_delta: float = math.nan
    imitated_ci95: Interval | None = None
    gap_induced: float = math.nan
    induced_ci95: Interval | None = None
    induced_p_value: float = math.nan
    control_delta: float = math.nan
    control_ci95: Interval | None = None
    sham_delta: float = math.nan
    sham_ci95: Interval | None = None
    beats_sham: Interval | None = None
    latent_gap_before: float = math.nan
    latent_gap_after: float = math.nan
    per_class: tuple[float, ...] = ()
    can_harm: bool = True
    """False for a re-weighting, which alters neither picture nor model: between two halves of the holdout it moves the
    loss as far as their composition differs, and that harms nobody."""
    estimated: bool = False
    """Whether the target's losses are estimated; those of the source never are."""
    gap_detected: bool = True
    """False for an estimated gap that is not beyond the estimator's error: nothing has a share of it."""

    @property
    def closes(self) -> bool:
        """Whether the target was changed."""
        return self.difference_ci95 is not None

    @property
    def induces(self) -> bool:
        """Whether the source was."""
        return self.imitated_ci95 is not None

    @property
    def tried(self) -> bool:
        """Whether any direction ran."""
        return self.closes or self.induces

    def without_shares(self) -> Figures:
        """The same without shares of a gap that may be nothing."""
        return replace(
            self, gap_detected=False, gap_closed=math.nan, ci95=None, gap_induced=math.nan, induced_ci95=None
        )


def gap_draws(
    target: pl.DataFrame, holdout: pl.DataFrame, rules: Rules, calibration: Calibration | None = None
) -> GapDraws:
    """The gap between rows of the target's report half and labelled ones of the holdout, with its draws.

    `calibration`: what the target's losses were estimated by, whose error is then in the draws.
    """
    report = target.filter(pl.col("report_half"))
    rng = np.random.default_rng(rules.seed)
    units = report["unit"].to_list()
    weights = bootstrap_weights(units, rules.draws, rng)
    before = report["loss"].to_numpy()
    source = weighted_means(holdout["loss"].to_numpy(), holdout["unit"].to_list(), rules.draws, rng)
    factors = np.ones(rules.draws) if calibration is None else calibration.factors(rules.draws, rng)
    gaps = weights @ before / weights.sum(1) * factors - source
    return GapDraws(
        ids=report["sample_id"].to_list(),
        units=units,
        before=before,
        value=float(before.mean() - holdout["loss"].to_numpy().mean()),
        target_weights=weights,
        holdout_units=dict(holdout.select("sample_id", "unit").iter_rows()),
        gaps=gaps,
        factors=factors,
    )


def measure(
    experiment: str, rows: pl.DataFrame, target: pl.DataFrame, holdout: pl.DataFrame, gap: GapDraws, rules: Rules
) -> Figures:
    """Figures of one experiment from its rows; `target` and `holdout` are labelled evaluation rows."""
    figures = Figures(experiment)
    normalised = pair(rows, "normalised", target)
    baseline = pair(rows, "baseline", holdout)
    if normalised is not None and baseline is not None:
        shams = pair(rows, "sham", target), pair(rows, "sham_baseline", holdout)
        figures = _closed_under_rule(figures, (normalised, baseline), shams, gap, rules)
    elif normalised is not None:
        figures = _closed(figures, normalised, pair(rows, "sham", target), gap)
    control = pair(rows, "control", holdout)
    if control is not None:
        harm = paired_cluster_test(-control.gain, control.units)
        figures = replace(figures, control_delta=harm.mean, control_ci95=harm.ci95)
    imitated = pair(rows, "imitated", _plain(rows, holdout))
    if imitated is not None:
        figures = _induced(figures, imitated, gap, rules)
    return figures


def _closed(figures: Figures, normalised: Paired, sham: Paired | None, gap: GapDraws) -> Figures:
    test = normalised.test()
    draws = gap.shares(normalised.gain, normalised.ids)
    figures = replace(
        figures, samples=len(normalised.gain), units=len(set(normalised.units)),
        loss_before=float(normalised.before.mean()), loss_after=float(normalised.after.mean()), difference=-test.mean,
        difference_ci95=_negated(test.ci95), gap_closed=test.mean / gap.value, ci95=percentile_interval(draws),
        p_value=test.p_value, per_class=tuple(normalised.class_delta.tolist()),
    )  # fmt: skip
    if sham is None:
        return figures
    against = paired_cluster_test(*_beyond(normalised, sham))
    shammed = paired_cluster_test(-sham.gain, sham.units)
    return replace(figures, sham_delta=shammed.mean, sham_ci95=shammed.ci95, beats_sham=against.ci95)


def _closed_under_rule(
    figures: Figures, ruled: tuple[Paired, Paired], shams: tuple[Paired | None, Paired | None], gap: GapDraws,
    rules: Rules,
) -> Figures:  # fmt: skip
    """Figures of a rule that both sides are put under: what the target gains beyond the holdout."""
    target, holdout = ruled
    test = two_sample_cluster_test(target.gain, target.units, holdout.gain, holdout.units)
    rng = np.random.default_rng(rules.seed + 2)
    common = weighted_means(holdout.gain, holdout.units, rules.draws, rng) / gap.gaps
    figures = replace(
        figures, samples=len(target.gain), units=min(len(set(side.units)) for side in ruled),
        loss_before=float(target.before.mean()), loss_after=float(target.after.mean()), difference=-test.mean,
        difference_ci95=_negated(test.ci95), gap_closed=test.mean / gap.value, p_value=test.p_value,
        ci95=percentile_interval(gap.shares(target.gain, target.ids) - common),
        per_class=tuple(target.class_delta.tolist()),
    )  # fmt: skip
    if shams[0] is None or shams[1] is None:
        return figures
    shammed = two_sample_cluster_test(shams[0].gain, shams[0].units, shams[1].gain, shams[1].units)
    beyond = [_beyond(side, sham) for side, sham in zip(ruled, shams, strict=True) if sham is not None]
    against = two_sample_cluster_test(*beyond[0], *beyond[1])
    return replace(figures, sham_delta=-shammed.mean, sham_ci95=_negated(shammed.ci95), beats_sham=against.ci95)


def _beyond(aimed: Paired, sham: Paired) -> tuple[Floats, list[str]]:
    """Loss under the sham minus loss under what is aimed, of the samples that have both, with their units."""
    both, own, others = np.intersect1d(aimed.ids, sham.ids, return_indices=True)
    units = dict(zip(aimed.ids, aimed.units, strict=True))
    return sham.after[others] - aimed.after[own], [units[name] for name in both]


def _negated(interval: Interval) -> Interval:
    return -interval[1], -interval[0]


def _induced(figures: Figures, imitated: Paired, gap: GapDraws, rules: Rules) -> Figures:
    test = imitated.test()
    rng = np.random.default_rng(rules.seed + 1)
    draws = weighted_means(-imitated.gain, imitated.units, rules.draws, rng) / gap.gaps
    return replace(
        figures,
        samples=figures.samples or len(imitated.gain),
        units=figures.units or len(set(imitated.units)),
        imitated_delta=-test.mean,
        imitated_ci95=_negated(test.ci95),
        gap_induced=-test.mean / gap.value,
        induced_ci95=percentile_interval(draws),
        induced_p_value=test.p_value,
    )


def pair(rows: pl.DataFrame, role: str, before: pl.DataFrame) -> Paired | None:
    """Rows of one role joined with the untouched losses of the same samples; None where there are none."""
    after = rows.filter((pl.col("role") == role) & pl.col("loss").is_not_nan() & pl.col("loss").is_not_null())
    kept = before.select("sample_id", "unit", "loss", "loss_sum", "class_pixels")
    joined = after.join(kept, on="sample_id", how="inner", suffix="_before").sort("sample_id")
    if joined.is_empty():
        return None
    return Paired(
        ids=joined["sample_id"].to_list(),
        before=joined["loss_before"].to_numpy(),
        after=joined["loss"].to_numpy(),
        units=joined["unit"].to_list(),
        class_delta=_class_loss(joined, "") - _class_loss(joined, "_before"),
    )


def _class_loss(joined: pl.DataFrame, suffix: str) -> Floats:
    loss = list_column(joined, f"loss_sum{suffix}").sum(0)
    pixels = list_column(joined, f"class_pixels{suffix}").sum(0)
    means: Floats = np.divide(loss, pixels, out=np.full_like(loss, math.nan), where=pixels > 0)
    return means


def _plain(rows: pl.DataFrame, holdout: pl.DataFrame) -> pl.DataFrame:
    """What an imitation is compared with: the untouched picture, on the same pixels where the imitation crops it."""
    plain = rows.filter(pl.col("role") == "plain").select("sample_id", "loss", "loss_sum", "class_pixels")
    if plain.is_empty():
        return holdout
    return plain.join(holdout.select("sample_id", "unit"), on="sample_id", how="inner")


def correct(figures: list[Figures]) -> list[Figures]:
    """Holm's correction over all experiments that ran, of the p-value of their first direction."""
    primary = [f.p_value if f.closes else f.induced_p_value for f in figures]
    return [replace(f, q_value=float(q)) for f, q in zip(figures, holm(np.array(primary)), strict=True)]


def judge(figures: Figures, gap: float, rules: Rules) -> tuple[Word, str]:
    """The word and its reasons.

    Of an estimated gap that is not detected nothing has a share: nothing is confirmed then, and refuted is only what
    makes things worse.
    """
    if not figures.tried:
        return "skipped", "no direction could be tried"
    return _judge_shares(figures, gap, rules) if figures.gap_detected else _judge_without_gap(figures, rules)


def _judge_shares(figures: Figures, gap: float, rules: Rules) -> tuple[Word, str]:
    """The word where there is a gap to have a share of.

    Confirmed: gap closed (or induced) lies above 0 after correction, beats the sham, leaves the control unharmed, and
    both directions agree. Refuted: the whole interval lies below the smallest effect worth acting on. A loss that is
    estimated falls when a change only makes the model surer of itself: without an imitation on the source, whose loss
    is measured, what a normalisation closes is neither confirmed nor, against that imitation, refuted.
    """
    primary = figures.ci95 if figures.closes else figures.induced_ci95
    assert primary is not None
    what = "closes" if figures.closes else "induces"
    share = figures.gap_closed if figures.closes else figures.gap_induced
    gap_said = "the estimated gap" if figures.estimated else "the gap"
    shown = f"it {what} {share:.0%} of {gap_said} [{primary[0]:.0%}, {primary[1]:.0%}]"
    if figures.units < FEWEST_UNITS:
        return "inconclusive", f"{shown}, but {figures.units} independent groups are too few to judge by"
    if primary[1] < rules.smallest_effect:
        if figures.estimated and figures.closes and _costs_the_source(figures):
            return "inconclusive", f"{shown} by estimated loss, but done to the source it costs loss"
        return "refuted", f"{shown}, below the smallest effect worth acting on ({rules.smallest_effect:.0%})"
    against = _objections(figures, gap, rules, primary)
    if against:
        return "inconclusive", f"{shown}, but {'; '.join(against)}"
    return "confirmed", shown + _support(figures)


def _objections(figures: Figures, gap: float, rules: Rules, primary: Interval) -> list[str]:
    found = []
    if primary[0] <= 0:
        found.append("the interval reaches 0")
    if not figures.q_value <= rules.alpha:
        found.append(f"p = {figures.q_value:.3f} after correction, from {figures.units} independent groups")
    if figures.beats_sham is not None and figures.beats_sham[0] <= 0:
        found.append("a sham of the same size does as well")
    harmed = figures.can_harm and figures.control_ci95 is not None and figures.control_ci95[0] > 0
    if harmed and figures.control_delta > rules.smallest_effect * gap:
        found.append(f"it harms the control by {figures.control_delta:.3f}")
    if figures.estimated and not figures.induces:
        found.append(
            "that is by estimated loss alone: no imitation on the source, whose loss is measured, bears it out"
        )
    if figures.closes and figures.induced_ci95 is not None and figures.induced_ci95[0] <= 0:
        low, high = figures.induced_ci95
        found.append(
            f"done to the source it induces {figures.gap_induced:.0%} of the gap [{low:.0%}, {high:.0%}], "
            "so the directions disagree"
        )
    return found


def _judge_without_gap(figures: Figures, rules: Rules) -> tuple[Word, str]:
    """The word where the estimated gap may be nothing: what is worse by estimate is refuted, and no more is known."""
    done = []
    if figures.difference_ci95 is not None:
        done.append(f"it changes the estimated loss by {_delta(figures.difference, figures.difference_ci95)}")
    if figures.imitated_ci95 is not None:
        done.append(f"done to the source it adds {_delta(figures.imitated_delta, figures.imitated_ci95)} to the loss")
    shown = f"{'; '.join(done)}; p = {figures.q_value:.3f} after correction"
    if figures.units < FEWEST_UNITS:
        return "inconclusive", f"{shown}, but {figures.units} independent groups are too few to judge by"
    worse = figures.difference_ci95 is not None and figures.difference_ci95[0] > 0 and figures.q_value <= rules.alpha
    if worse and not _costs_the_source(figures):
        return "refuted", f"{shown}: worse, whatever the size of the gap"
    return "inconclusive", f"the estimated gap may be nothing; {shown}"


def _delta(value: float, interval: Interval) -> str:
    return f"{value:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]"


def _costs_the_source(figures: Figures) -> bool:
    """Whether the same done to the source adds to its loss, which is measured."""
    bounds = figures.induced_ci95 if figures.gap_detected else figures.imitated_ci95
    return bounds is not None and bounds[0] > 0


def _support(figures: Figures) -> str:
    text = f", p = {figures.q_value:.3f} after correction"
    if figures.beats_sham is not None:
        text += "; a sham of the same size does not do as well"
    if figures.closes and figures.induces:
        text += f"; done to the source it induces {figures.gap_induced:.0%} of the gap"
    return text


def latent_gap_after(rows: pl.DataFrame, score: Callable[[Floats], Floats], auroc: Callable[[Floats], float]) -> float:
    """kNN AUROC of the changed target pictures against the holdout; NaN where no picture was changed."""
    changed = rows.filter((pl.col("role") == "normalised") & (pl.col("latent").list.len() > 0))
    if changed.is_empty():
        return math.nan
    return auroc(score(list_column(changed, "latent")))


def verdict_rows(figures: list[Figures], gap: float, rules: Rules) -> list[dict[str, Any]]:
    """Corrected and judged figures as rows."""
    found = []
    for item in correct(figures):
        word, reason = judge(item, gap, rules)
        found.append({**vars(item), "verdict": word, "reason": reason})
    return found
