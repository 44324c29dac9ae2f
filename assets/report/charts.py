"""Charts as SVG in the page's markup: themed by its style sheet, the same on screen, on paper and without scripts.

Belongs here: scales, ticks, bars, steps, marks and whiskers. Does not: what they show (`figures.py`).

Places along an axis are percentages of the width, heights are pixels: a chart fills its column and its texts keep their
size, on a phone as well. Every mark that stands for a figure carries it as `data-value`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

RADIUS = 4.5
MOST_DIGITS = 6


@dataclass(frozen=True)
class Scale:
    """From values `low` to `high` to positions `start` to `end`; what lies beyond is cut."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int) -> list[float]:
        """Round values within the scale, about so many."""
        rough = (self.high - self.low) / max(about, 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scale(values: Iterable[float], start: float, end: float, *, around: float = 0.0) -> Scale:
    """A scale over all values, with a share `around` them left free on both sides."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    margin = around * (high - low)
    return Scale(low - margin, high + margin, start, end)


def chart(key: str, label: str, height: float, *parts: Markup) -> Markup:
    """The whole of a chart; `label` says to a screen reader what it shows."""
    return Markup(
        '<svg class="chart" data-figure="{}" role="img" aria-label="{}" width="100%" height="{:g}">{}</svg>'
    ).format(key, label, height, join(parts))


def join(parts: Iterable[Markup]) -> Markup:
    """Parts one after another."""
    return Markup("").join(parts)


def text(x: float, y: float, words: object, name: str = "", anchor: str = "start", shift: float = 0.0) -> Markup:
    """Words at x percent and y pixels, moved by `shift` pixels to the right."""
    return Markup('<text class="{}" x="{:.2f}%" y="{:.1f}" dx="{:g}" text-anchor="{}">{}</text>').format(
        name, x, y, shift, anchor, words
    )


def line(x1: float, y1: float, x2: float, y2: float, name: str) -> Markup:
    """A line between two points."""
    return Markup('<line class="{}" x1="{:.2f}%" y1="{:.1f}" x2="{:.2f}%" y2="{:.1f}"/>').format(name, x1, y1, x2, y2)


def bar(x1: float, x2: float, y: float, height: float, name: str, value: float, title: str) -> Markup:
    """A bar across from x1 to x2, whichever is less."""
    left, width = min(x1, x2), abs(x2 - x1)
    return Markup(
        '<rect class="{}" x="{:.2f}%" y="{:.1f}" width="{:.2f}%" height="{:g}" data-value="{}"><title>{}</title></rect>'
    ).format(name, left, y, width, height, shown(value), title)


def dot(x: float, y: float, name: str, value: float, title: str) -> Markup:
    """A round mark."""
    return Markup(
        '<circle class="{}" cx="{:.2f}%" cy="{:.1f}" r="{:g}" data-value="{}"><title>{}</title></circle>'
    ).format(name, x, y, RADIUS, shown(value), title)


def square(x: float, y: float, name: str, value: float, title: str) -> Markup:
    """A square mark."""
    return Markup(
        '<svg class="mark" x="{:.2f}%" y="{:.1f}"><rect class="{}" x="-4" y="-4" width="8" height="8" data-value="{}">'
        "<title>{}</title></rect></svg>"
    ).format(x, y, name, shown(value), title)


def whisker_across(x1: float, x2: float, y: float, name: str) -> Markup:
    """An interval along the x axis, with its ends."""
    ends = [line(x, y - 3.5, x, y + 3.5, name) for x in (x1, x2)]
    return join([line(x1, y, x2, y, name), *ends])


def whisker_up(x: float, y1: float, y2: float, name: str) -> Markup:
    """An interval along the y axis."""
    return line(x, y1, x, y2, name)


def stretched(y: float, height: float, parts: Iterable[Markup]) -> Markup:
    """A field of 1000 units across, whatever its width on the screen, and `height` pixels down."""
    return Markup(
        '<svg x="0" y="{:g}" width="100%" height="{:g}" viewBox="0 0 1000 {:g}" preserveAspectRatio="none">{}</svg>'
    ).format(y, height, height, join(parts))


def path(points: Sequence[tuple[float, float]], name: str, *, closed_at: float | None = None) -> Markup:
    """A line through points (in a stretched field), or the area between it and y = `closed_at`."""
    if closed_at is not None:
        points = [(points[0][0], closed_at), *points, (points[-1][0], closed_at)]
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return Markup('<path class="{}" d="M{}{}"/>').format(name, steps, "" if closed_at is None else "Z")


def axis_across(places: Scale, y: float, top: float, labels: Sequence[tuple[float, str]], title: str = "") -> Markup:
    """Grid lines from `top` down to y, labels below it, the axis' title below those."""
    drawn = []
    for value, label in labels:
        at = places(value)
        anchor = "start" if at < 2 else "end" if at > 98 else "middle"  # noqa: PLR2004 -- within the chart's edges
        drawn += [line(at, top, at, y, "zero" if value == 0 else "grid"), text(at, y + 15, label, "tick", anchor)]
    if title:
        drawn.append(text((places.start + places.end) / 2, y + 33, title, "title", "middle"))
    return join(drawn)


def axis_up(heights: Scale, labels: Sequence[tuple[float, str]]) -> Markup:
    """Grid lines across the chart, their labels on them at the left."""
    drawn = []
    for value, label in labels:
        at = heights(value)
        drawn += [line(0, at, 100, at, "zero" if value == 0 else "grid"), text(0, at - 3, label, "tick")]
    return join(drawn)


def labelled(values: Iterable[float], suffix: str = "", factor: float = 1.0) -> list[tuple[float, str]]:
    """Ticks with their values written out."""
    return [(value, f"{value * factor:.{MOST_DIGITS}g}".replace("-", "−") + suffix) for value in values]


def shown(value: float) -> str:
    """A figure with the digits that a test can compare."""
    return f"{value:.{MOST_DIGITS}g}"


def shortened(words: str, length: int) -> str:
    """On one line, cut with an ellipsis."""
    words = " ".join(words.split())
    return words if len(words) <= length else words[: length - 1] + "…"


def legend(entries: Iterable[tuple[str, str]]) -> Markup:
    """Names of what is drawn: (class of the mark, words)."""
    keys = join(Markup('<span class="key {}"><i></i>{}</span> ').format(name, words) for name, words in entries)
    return Markup('<p class="legend">{}</p>').format(keys)
