"""What changed from one night to the next: which figures moved beyond their noise, which verdicts flipped.

The rule, for every figure that has an interval: it changed where the 95% interval of the difference leaves 0 out.
The loss gap's comes from the samples of both nights, whose drives are resampled together, so what both nights share
cancels. Other figures have only an interval a night; the two are combined as if the nights shared no sample, which is
too wide where they do, and stretched for the number of such figures (Bonferroni).

Belongs here: comparing two nights. Does not: keeping them (`history.py`), saying it in words
(`changes_told.py`), alerts (`alerts.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from assets.diagnosis.loss_gap import labelled_rows
from assets.report.document import Estimate, MeasurementRow
from assets.report.night import CauseFigure, Contribution, FigureChange, Flip, Night, NightFigures
from assets.report.page import distance
from assets.statistics.differences import Floats, combined_interval, expanded_level, mean_difference_draws
from assets.statistics.resampling import dependence_units, percentile_interval
from resources.config import StatisticsConfig
from resources.sample_store import SampleStore, StoreError

MINIMUM_UNITS = 2
GAP = "loss_gap"


@dataclass(frozen=True)
class Losses:
    """Losses of one night: sample_id, group, loss, content (a hash that moves with picture or label)."""

    holdout: pl.DataFrame
    target: pl.DataFrame


def losses_at(store: SampleStore, key: str, night: Night) -> Losses | None:
    """The measured losses behind a night's figures; None where they are estimated, or no longer to be had."""
    if night.figures is None or night.figures.estimated or night.figures.loss_gap is None:
        return None
    try:
        return Losses(_losses(store, "source", "holdout", night), _losses(store, key, "target", night))
    except StoreError:
        return None


def _losses(store: SampleStore, side: str, part: str, night: Night) -> pl.DataFrame:
    commits = [night.commits.get(f"{side}/{name}", "") for name in ("evaluation", "manifest")]
    evaluation = store.table(side, "evaluation").read_at(commits[0], ["loss"])
    manifest = store.table(side, "manifest").read_at(
        commits[1], ["part", "group", "unit", "report_half", "image_hash", "mask_hash", "labels_version"]
    )
    content = pl.concat_str("image_hash", "mask_hash", "labels_version", separator="/", ignore_nulls=True)
    rows = labelled_rows(evaluation, manifest, part).select("sample_id", "group", "loss")
    return rows.join(manifest.select("sample_id", content.alias("content")), on="sample_id").sort("sample_id")


# --- figures ---------------------------------------------------------------------------------------------------------


Rule = Literal["resampled", "combined"]


def figure_changes(
    before: Night, after: Night, losses: tuple[Losses, Losses] | None, settings: StatisticsConfig
) -> list[FigureChange]:
    """Every figure that has an interval on both nights, the loss gap first."""
    if before.figures is None or after.figures is None:
        return []
    pairs = list(_pairs(before.figures, after.figures))
    others = sum(pair.key != GAP for pair in pairs)
    found = []
    for pair in pairs:
        if pair.key == GAP and losses is not None:
            bounds = gap_difference_interval(*losses, draws=settings.bootstrap, seed=settings.seed)
            found.append(pair.change(bounds, "resampled"))
        else:
            found.append(pair.change(pair.combined(1 if pair.key == GAP else others), "combined"))
    return found


def changes_between(
    store: SampleStore, key: str, before: Night, after: Night, settings: StatisticsConfig
) -> tuple[list[FigureChange], tuple[Losses, Losses] | None]:
    """Every figure that has an interval on both nights, and the losses behind them where both nights' are there."""
    earlier, later = losses_at(store, key, before), losses_at(store, key, after)
    pair = (earlier, later) if earlier is not None and later is not None else None
    return figure_changes(before, after, pair, settings), pair


def gap_difference_interval(before: Losses, after: Losses, *, draws: int, seed: int) -> tuple[float, float] | None:
    """95% interval of the loss gap's change, drives (or blocks) of both nights resampled together on each side.

    None where a side has too few of them.
    """
    rng = np.random.default_rng(seed)
    sides = [(before.target, after.target), (before.holdout, after.holdout)]
    units = [_units(*side) for side in sides]
    fewest = min(len(set(names.values())) for names in units)
    if fewest < MINIMUM_UNITS:
        return None
    target, holdout = (_draws(*side, names, draws, rng) for side, names in zip(sides, units, strict=True))
    return percentile_interval(target - holdout, expanded_level(fewest))


def _units(before: pl.DataFrame, after: pl.DataFrame) -> dict[str, str]:
    """The unit of each sample of either night, cut as one set."""
    names = pl.concat([after, before]).unique("sample_id", keep="first", maintain_order=True).sort("sample_id")
    return dict(zip(names["sample_id"], map(str, dependence_units(names["group"].to_list())), strict=True))


def _draws(
    before: pl.DataFrame, after: pl.DataFrame, units: dict[str, str], draws: int, rng: np.random.Generator
) -> Floats:
    """Draws of the change of a side's mean loss."""
    names = [[units[name] for name in rows["sample_id"]] for rows in (before, after)]
    return mean_difference_draws(before["loss"].to_numpy(), names[0], after["loss"].to_numpy(), names[1], draws, rng)


@dataclass(frozen=True)
class _Pair:
    key: str
    label: str
    before: float
    before_ci95: tuple[float, float]
    after: float
    after_ci95: tuple[float, float]

    def combined(self, comparisons: int) -> tuple[float, float]:
        return combined_interval(self.before, self.before_ci95, self.after, self.after_ci95, comparisons)

    def change(self, bounds: tuple[float, float] | None, rule: Rule) -> FigureChange:
        return FigureChange(key=self.key, label=self.label, before=self.before, after=self.after,
                            difference=self.after - self.before, ci95=bounds, rule=rule)  # fmt: skip


def _pairs(before: NightFigures, after: NightFigures) -> Iterator[_Pair]:
    """Figures with a value and an interval on both nights."""
    earlier, later = dict(_bounded(before)), dict(_bounded(after))
    for (key, label), (value, bounds) in later.items():
        if (key, label) in earlier:
            yield _Pair(key, label, *earlier[key, label], value, bounds)


def _bounded(figures: NightFigures) -> Iterator[tuple[tuple[str, str], tuple[float, tuple[float, float]]]]:
    gap = Estimate(value=figures.loss_gap, ci95=figures.ci95)
    named: list[tuple[str, str, Estimate | MeasurementRow | CauseFigure]] = [(GAP, "Loss gap", gap)]
    named += [(f"latent/{key}", distance(key).label, row) for key, row in figures.latent_gap.items()]
    named += [(f"share/{cause.id}", f"Share of {cause.title}", cause) for cause in figures.causes]
    named += [("unexplained", "Unexplained share", figures.unexplained)]
    named += [("recipe", "Share that the recipe closes", figures.recipe_closes)]
    for key, label, row in named:
        value = row.share if isinstance(row, CauseFigure) else row.value
        if value is not None and row.ci95 is not None:
            yield (key, label), (value, row.ci95)


# --- verdicts --------------------------------------------------------------------------------------------------------


def cause_flips(before: Night, after: Night, changes: list[FigureChange]) -> list[Flip]:
    """Causes whose verdict, or place among the root causes, is another; root causes first."""
    if before.figures is None or after.figures is None:
        return []
    earlier, later = ({cause.id: cause for cause in night.figures.causes} for night in (before, after) if night.figures)
    moved = {change.key: change.beyond_noise for change in changes}
    found = []
    for name in dict.fromkeys([*later, *earlier]):
        old, new = earlier.get(name), later.get(name)
        known = new or old
        if known is None or (_state(old) == _state(new)):
            continue
        found.append(Flip(
            id=name, title=known.title, before=old.verdict if old else None, after=new.verdict if new else None,
            root_before=bool(old and old.root), root_after=bool(new and new.root),
            share_before=old.share if old else None, share_after=new.share if new else None,
            share_moved=moved.get(f"share/{name}"),
        ))  # fmt: skip
    return sorted(found, key=lambda flip: not (flip.root_after or flip.root_before))


def _state(cause: CauseFigure | None) -> tuple[str, bool]:
    """What a flip is a change of; a cause that is not tried is as one that was skipped."""
    return ("skipped", False) if cause is None else (cause.verdict, cause.root)


# --- samples ---------------------------------------------------------------------------------------------------------


def contributions(before: Losses, after: Losses) -> list[Contribution]:
    """Mean losses of the target's samples by what became of them; kinds without a sample are left out."""
    both = before.target.join(after.target, on="sample_id", how="full", suffix="_after", coalesce=True)
    kind = (
        pl.when(pl.col("loss").is_null()).then(pl.lit("added")).when(pl.col("loss_after").is_null())
        .then(pl.lit("removed")).when(pl.col("content") != pl.col("content_after")).then(pl.lit("changed"))
        .otherwise(pl.lit("kept"))
    )  # fmt: skip
    means = both.group_by(kind.alias("kind")).agg(
        pl.len().alias("samples"), pl.col("loss").mean().alias("loss_before"), pl.col("loss_after").mean()
    )
    rows: dict[Any, Contribution] = {row["kind"]: Contribution(**row) for row in means.iter_rows(named=True)}
    return [rows[name] for name in ("added", "removed", "changed", "kept") if name in rows]
