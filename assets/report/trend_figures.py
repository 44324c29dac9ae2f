"""Charts of a target's nights: where every mark of the trend page's drawings stands.

Belongs here: geometry in pixels of the drawing. Does not: markup and colours (`templates/`), words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from assets.report.night import Night

LEFT, RIGHT, TOP, BOTTOM = 52.0, 10.0, 12.0, 26.0
LABEL_WIDTH = 58.0
LONG_PAUSE = 1.5
"""A pause this many times the usual one holds a night that was missed."""
WIDEST_BAR = 26.0


@dataclass(frozen=True)
class Tick:
    """A place on an axis, with its label."""

    at: float
    label: str


@dataclass(frozen=True)
class GapMark:
    """One night's gap: its place, its interval's ends, and whether a report was made of it that night."""

    x: float
    y: float
    low: float | None
    high: float | None
    outcome: str
    title: str


@dataclass(frozen=True)
class VolumeMark:
    """One night's pictures as stacked bars (y, height): kept, changed, added, and removed below the axis."""

    x: float
    parts: list[tuple[str, float, float]]
    title: str


@dataclass(frozen=True)
class Chart:
    """A drawing: size, axes, the pauses in which a night was missed, and its marks."""

    width: float
    height: float
    zero: float
    nights: list[Tick]
    values: list[Tick]
    pauses: list[float]
    bar: float
    gaps: list[GapMark]
    volumes: list[VolumeMark]

    @property
    def line(self) -> str:
        """The path through all gaps."""
        return "M" + "L".join(f"{mark.x:.1f} {mark.y:.1f}" for mark in self.gaps) if self.gaps else ""

    @property
    def band(self) -> str:
        """The outline of the intervals, for nights that have one."""
        known = [mark for mark in self.gaps if mark.low is not None and mark.high is not None]
        if len(known) < 2:  # noqa: PLR2004
            return ""
        there = [f"{mark.x:.1f} {mark.high:.1f}" for mark in known]
        back = [f"{mark.x:.1f} {mark.low:.1f}" for mark in reversed(known)]
        return f"M{'L'.join(there + back)}Z"


def gap_chart(nights: Sequence[Night], width: float, height: float = 220.0) -> Chart | None:
    """The loss gap with its interval, night by night; None where no night has one."""
    known = [(place, night.figures) for place, night in enumerate(nights) if night.figures is not None
             and night.figures.loss_gap is not None]  # fmt: skip
    if not known:
        return None
    ends = [bound for _, figures in known for bound in (figures.loss_gap, *(figures.ci95 or ())) if bound is not None]
    scale = _Scale(min(0.0, *ends), max(0.0, *ends), height)
    places = _places(len(nights), width)
    marks = [
        GapMark(
            places[place], scale.at(figures.loss_gap or 0.0),
            scale.at(figures.ci95[0]) if figures.ci95 else None, scale.at(figures.ci95[1]) if figures.ci95 else None,
            nights[place].outcome, f"{nights[place].time:%Y-%m-%d %H:%M}: {figures.loss_gap:+.3f}".replace("-0", "−0"),
        )
        for place, figures in known
    ]  # fmt: skip
    return _chart(nights, places, scale, width, gaps=marks)


def volume_chart(nights: Sequence[Night], width: float, height: float = 190.0) -> Chart:
    """The target's pictures, night by night: what was kept, changed, added, and (downwards) removed."""
    counts = [night.target for night in nights]
    scale = _Scale(-max(row.removed for row in counts), max(1, *(row.samples for row in counts)), height)
    places = _places(len(nights), width)
    marks = []
    for place, night in zip(places, nights, strict=True):
        row = night.target
        parts, level = [], 0
        for kind, count in (("kept", row.samples - row.added - row.changed), ("changed", row.changed),
                            ("added", row.added)):  # fmt: skip
            parts.append((kind, scale.at(level + count), scale.at(level) - scale.at(level + count)))
            level += count
        parts.append(("removed", scale.at(0), scale.at(-row.removed) - scale.at(0)))
        title = (
            f"{night.time:%Y-%m-%d %H:%M}: {row.samples:,} pictures, {row.added} added, {row.removed} removed, "
            f"{row.changed} changed"
        )
        marks.append(VolumeMark(place, [part for part in parts if part[2] > 0], title))
    return _chart(nights, places, scale, width, volumes=marks)


class _Scale:
    """Values to pixels, upwards, between round ticks."""

    def __init__(self, low: float, high: float, height: float) -> None:
        step = _round_step((high - low) / 4 or 0.25)
        self.low, self.high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        self.step, self.height = step, height

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return TOP + (1 - share) * (self.height - TOP - BOTTOM)

    def ticks(self, *, signs: bool) -> list[Tick]:
        """Round values; without `signs`, what stands below the axis is a count, too."""
        digits = max(0, -math.floor(math.log10(self.step) + 1e-9))
        count = round((self.high - self.low) / self.step)
        values = [self.low + place * self.step for place in range(count + 1)]
        shown = values if signs else [abs(value) for value in values]
        labels = [f"{value:z,.{digits}f}".replace("-", "−") for value in shown]
        return [Tick(self.at(value), label) for value, label in zip(values, labels, strict=True)]


def _round_step(rough: float) -> float:
    """The smallest of 1, 2, 2.5, 5 and 10 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))


def _places(count: int, width: float) -> list[float]:
    room = (width - LEFT - RIGHT) / count
    return [LEFT + (place + 0.5) * room for place in range(count)]


def _chart(
    nights: Sequence[Night], places: list[float], scale: _Scale, width: float, *, gaps: list[GapMark] | None = None,
    volumes: list[VolumeMark] | None = None,
) -> Chart:  # fmt: skip
    room = (width - LEFT - RIGHT) / len(nights)
    every = math.ceil(LABEL_WIDTH / room)
    labelled = [place for place in range(len(nights)) if (len(nights) - 1 - place) % every == 0]
    pauses = [(later.time - earlier.time).total_seconds() for earlier, later in pairwise(nights)]
    usual = median(pauses) if pauses else 0.0
    long = [(places[i] + places[i + 1]) / 2 for i, pause in enumerate(pauses) if pause > LONG_PAUSE * usual]
    return Chart(
        width, scale.height, scale.at(0.0), [Tick(places[place], f"{nights[place].time:%-d %b}") for place in labelled],
        scale.ticks(signs=gaps is not None), long, min(WIDEST_BAR, 0.66 * room), gaps or [], volumes or [],
    )  # fmt: skip
