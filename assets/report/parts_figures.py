"""The chart of the model's parts: what each is worth on both sides, and how far its activations shift.

Belongs here: one chart. Does not: markup, computing what it shows.
"""

from __future__ import annotations

from markupsafe import Markup

from assets.report import charts
from assets.report.parts_document import EffectRow, ModelPartsRow, PartRow

ROW = 42
SPLIT = 60.0
"""Per cent of the width that losses take, where they were compared."""


def parts_figure(found: ModelPartsRow | None) -> Markup | None:
    """The chart; None without parts. Without losses its left half stays away."""
    if found is None or not found.parts:
        return None
    parts = found.parts
    effects = [effect for part in parts for side in SIDES if (effect := part.effect("mean", side)) is not None]
    left = SPLIT + 4 if effects else 0.0
    shifts = charts.scale([0.0, *(part.gap.shift or 0.0 for part in parts)], left, 99.0)
    foot = ROW * len(parts) + 4
    axes = [charts.axis_across(shifts, foot, 0, charts.labelled(shifts.ticks(3)), "shift, deviations")]
    drawn = [_shift(part, shifts, ROW * i) for i, part in enumerate(parts)]
    if effects:
        bounds = [bound for effect in effects for bound in _interval(effect)]
        losses = charts.scale([0.0, *bounds], 1.0, SPLIT - 2, around=0.03)
        axes.append(charts.axis_across(losses, foot, 0, charts.labelled(losses.ticks(4)), "loss that the part saves"))
        drawn += [_worth(part, side, losses, ROW * i) for i, part in enumerate(parts) for side in SIDES]
    names = [charts.text(0, ROW * i + 13, charts.shortened(part.name, 40)) for i, part in enumerate(parts)]
    label = "For each part: the loss that it saves on holdout and target, and the shift of its activations"
    return charts.chart("parts", label, foot + 40, *axes, *drawn, *names)


SIDES = {"holdout": 22.0, "target": 33.0}
"""Both sides' marks, in pixels below the top of a part's row."""


def _worth(part: PartRow, side: str, places: charts.Scale, top: float) -> Markup:
    effect = part.effect("mean", side)
    if effect is None or effect.loss_change is None:
        return Markup()
    low, high = _interval(effect)
    y = top + SIDES[side]
    title = f"{part.name}, {side}: {effect.loss_change:+.3f} [{low:+.3f}, {high:+.3f}]"
    mark = charts.square if side == "holdout" else charts.dot
    return charts.join([
        charts.whisker_across(places(low), places(high), y, f"whisker {side}"),
        mark(places(effect.loss_change), y, side, effect.loss_change, title),
    ])  # fmt: skip


def _shift(part: PartRow, places: charts.Scale, top: float) -> Markup:
    shift = part.gap.shift or 0.0
    grows = part.grows and part.counts
    return charts.bar(places(0.0), places(shift), top + 20, 14, "target" if grows else "grey", shift,
                      f"{part.name}: {shift:.2f} deviations")  # fmt: skip


def _interval(effect: EffectRow) -> tuple[float, float]:
    """Where too few units make an interval endless, the mark stands alone."""
    value = effect.loss_change or 0.0
    low, high = effect.ci95 or (value, value)
    return (low, high) if high - low < GREATEST else (value, value)


GREATEST = 1.0e3
"""Beyond this an interval says nothing: too few units for one."""
