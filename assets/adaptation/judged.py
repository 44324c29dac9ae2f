"""Adaptations judged like experiments: gap closed by the worst seed, side effect on the source, a word and its reason.

Belongs here: figures from rows, the correction over all variants of a target, what the oracle says of hard data.
Does not: training, measuring, the rules for a word (`experiments/verdict.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from assets.adaptation.registry import Method, Variant
from assets.adaptation.runs import Record, Skipped
from assets.diagnosis.loss_gap import total
from assets.experiments.verdict import Figures, GapDraws, Interval, Rules, Word, correct, judge, pair
from assets.statistics.resampling import paired_cluster_test, percentile_interval
from assets.statistics.segmentation import mean_iou


@dataclass(frozen=True)
class SeedFigures:
    """One run on both report halves. `harm`: source loss after minus before, below 0 where the source gains."""

    seed: int
    samples: int
    units: int
    loss_before: float
    loss_after: float
    difference_ci95: Interval
    gap_closed: float
    ci95: Interval
    p_value: float
    harm: float
    harm_ci95: Interval
    miou_before: float
    miou_after: float
    source_miou_before: float
    source_miou_after: float


@dataclass(frozen=True)
class Tried:
    """A variant with its runs and their figures, seed by seed."""

    method: Method
    variant: Variant
    records: list[Record]
    seeds: list[SeedFigures]

    @property
    def name(self) -> str:
        """Method and variant."""
        return f"{self.method.id}/{self.variant.id}"

    @property
    def title(self) -> str:
        """Method and variant in words."""
        return f"{self.method.title}: {self.variant.title}" if self.variant.title else self.method.title

    @property
    def worst(self) -> SeedFigures:
        """The seed that closes least."""
        return min(self.seeds, key=lambda found: found.gap_closed)

    @property
    def best(self) -> SeedFigures:
        """The seed that closes most."""
        return max(self.seeds, key=lambda found: found.gap_closed)

    @property
    def most_harmful(self) -> SeedFigures:
        """The seed that costs the source most."""
        return max(self.seeds, key=lambda found: found.harm)


def seed_figures(
    seed: int, rows: pl.DataFrame, target: pl.DataFrame, holdout: pl.DataFrame, gap: GapDraws
) -> SeedFigures | None:
    """Figures of one run's rows; `target`, `holdout`: labelled evaluation rows. None where a side has no row."""
    closed, source = pair(rows, "target", target), pair(rows, "source", holdout)
    if closed is None or source is None:
        return None
    test, harm = closed.test(), paired_cluster_test(-source.gain, source.units)
    return SeedFigures(
        seed=seed, samples=len(closed.ids), units=len(set(closed.units)), loss_before=float(closed.before.mean()),
        loss_after=float(closed.after.mean()), difference_ci95=(-test.ci95[1], -test.ci95[0]),
        gap_closed=test.mean / gap.value,
        ci95=percentile_interval(gap.shares(closed.gain, closed.ids)), p_value=test.p_value, harm=harm.mean,
        harm_ci95=harm.ci95, miou_before=_miou(target, closed.ids), source_miou_before=_miou(holdout, source.ids),
        miou_after=_miou(rows.filter(pl.col("role") == "target"), closed.ids),
        source_miou_after=_miou(rows.filter(pl.col("role") == "source"), source.ids),
    )  # fmt: skip


def _miou(rows: pl.DataFrame, ids: list[str]) -> float:
    counts = total(rows.filter(pl.col("sample_id").is_in(ids)), "confusion")
    classes = math.isqrt(len(counts))
    return mean_iou(counts.reshape(classes, classes))


def tried_variants(
    method: Method, records: Sequence[Record], rows: pl.DataFrame, target: pl.DataFrame, holdout: pl.DataFrame,
    gap: GapDraws,
) -> list[Tried]:  # fmt: skip
    """All variants of a method that ran."""
    found = []
    for variant in method.variants:
        own = [record for record in records if record.variant == variant.id]
        seeds = []
        for record in own:
            mine = rows.filter((pl.col("variant") == record.variant) & (pl.col("seed") == record.seed))
            figures = seed_figures(record.seed, mine, target, holdout, gap)
            seeds += [figures] if figures is not None else []
        if seeds:
            found.append(Tried(method, variant, own, seeds))
    return found


def judged_rows(tried: Sequence[Tried], gap: GapDraws, rules: Rules) -> list[dict[str, Any]]:
    """Rows of all variants of a target, corrected together (Holm) on the p-values of their worst seeds."""
    corrected = correct([_as_figures(one, one.worst) for one in tried])
    return [_row(one, figures, gap, rules) for one, figures in zip(tried, corrected, strict=True)]


def skipped_row(method: Method, skipped: Skipped) -> dict[str, Any]:
    """The row of a variant that could not be tried."""
    variant = next((one for one in method.variants if one.id == skipped.variant), Variant(skipped.variant, ""))
    title = Tried(method, variant, [], []).title
    return {"method": method.id, "variant": variant.id, "title": title, "paper": method.paper, "verdict": "skipped",
            "reason": skipped.reason}  # fmt: skip


def _as_figures(one: Tried, seed: SeedFigures) -> Figures:
    return Figures(
        one.name, samples=seed.samples, units=seed.units, loss_before=seed.loss_before, loss_after=seed.loss_after,
        difference=seed.loss_after - seed.loss_before, difference_ci95=seed.difference_ci95,
        gap_closed=seed.gap_closed, ci95=seed.ci95, p_value=seed.p_value,
    )  # fmt: skip


def _row(one: Tried, figures: Figures, gap: GapDraws, rules: Rules) -> dict[str, Any]:
    word, reason = _word(one, figures, gap, rules)
    worst, harmful = one.worst, one.most_harmful
    shares = [seed.gap_closed for seed in one.seeds]
    costly = harmful.harm_ci95[0] > 0 and harmful.harm > rules.smallest_effect * gap.value
    steps = [record.steps for record in one.records]
    return {
        "method": one.method.id, "variant": one.variant.id, "title": one.title, "paper": one.method.paper,
        "scope": one.variant.scope, "label_share": one.variant.label_share if one.method.target_labels else None,
        "verdict": word, "reason": reason, "samples": worst.samples, "seeds": len(one.seeds), "worst_seed": worst.seed,
        "loss_before": worst.loss_before, "loss_after": worst.loss_after, "gap_closed": worst.gap_closed,
        "ci95": worst.ci95, "p_value": worst.p_value, "q_value": figures.q_value,
        "mean_gap_closed": float(np.mean(shares)), "range_gap_closed": (min(shares), max(shares)),
        "side_effect": harmful.harm, "side_effect_ci95": harmful.harm_ci95, "costs_the_source": costly,
        "miou_before": worst.miou_before, "miou_after": worst.miou_after,
        "source_miou_before": worst.source_miou_before, "source_miou_after": worst.source_miou_after,
        "steps": min(steps), "planned_steps": max(record.planned for record in one.records),
        "cut": any(record.cut for record in one.records),
        "minutes": sum(record.seconds for record in one.records) / 60,
        "notes": sorted({record.note for record in one.records if record.note}),
        "pictures": one.records[0].pictures, "per_seed": [asdict(seed) for seed in one.seeds],
    }  # fmt: skip


def _word(one: Tried, figures: Figures, gap: GapDraws, rules: Rules) -> tuple[Word, str]:
    """The worst seed's word; what only the worst seed refutes, or a run that its budget cut, is not refuted."""
    word, reason = judge(figures, gap.value, rules)
    if len(one.seeds) > 1:
        reason = f"in the worst of {len(one.seeds)} seeds {reason}"
    if word == "refuted" and judge(_as_figures(one, one.best), gap.value, rules)[0] != "refuted":
        word, reason = "inconclusive", f"{reason}; the best closes {one.best.gap_closed:.0%}, so it hangs on chance"
    harmful = one.most_harmful
    if harmful.harm_ci95[0] > 0 and harmful.harm > rules.smallest_effect * gap.value:
        low, high = harmful.harm_ci95
        reason += f"; it costs the source {harmful.harm:+.3f} [{low:+.3f}, {high:+.3f}]"
    if any(record.cut for record in one.records):
        word = "inconclusive" if word == "refuted" else word
        least = min(one.records, key=lambda record: record.steps / record.planned)
        reason += f"; cut by its budget at {least.steps} of {least.planned} steps"
    return word, reason


def hard_data(tried: Sequence[Tried], rules: Rules) -> dict[str, Any] | None:
    """The share of the gap that the oracle leaves, in the worst seed and on average, with the sentence; None without.

    `found`: whether the worst seed's whole interval lies above the smallest effect worth acting on.
    """
    oracle = next((one for one in tried if one.method.id == "oracle"), None)
    if oracle is None:
        return None
    worst = oracle.worst
    left, bounds = 1 - worst.gap_closed, (1 - worst.ci95[1], 1 - worst.ci95[0])
    mean = 1 - float(np.mean([seed.gap_closed for seed in oracle.seeds]))
    labelled = oracle.records[0].pictures["target fit half, with labels"]
    cut = any(record.cut for record in oracle.records)
    found = not cut and bounds[0] > rules.smallest_effect
    seeds = f"the worst of {len(oracle.seeds)} seeds" if len(oracle.seeds) > 1 else "its only seed"
    told = (
        f"Trained on all {labelled} labelled pictures of the target's fit half, too, the model leaves {left:.0%} of "
        f"the gap [{bounds[0]:.0%}, {bounds[1]:.0%}] in {seeds} ({mean:.0%} on average)"
    )
    if cut:
        told += ", but its budget ended before its plan: more minutes may close more"
    elif found:
        told += ": with that many labels, this much is hard data and no domain gap that a method could close"
    else:
        told += ": nothing speaks for hard data"
    return {"left": left, "ci95": bounds, "mean_left": mean, "labelled": labelled, "cut": cut, "found": found,
            "sentence": f"{told}."}  # fmt: skip
