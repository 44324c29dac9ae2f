"""Small plots for an asset's page in Dagster: a PNG of a few kilobytes each.

Belongs here: the figure that such plots are drawn on, its PNG, histograms and intervals of plain numbers.
Does not: what one stage alone draws, the report's charts, Dagster.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PNG_BYTES, SMALL_PNG_BYTES = 100_000, 10_000
WIDTH, HEIGHT, TOP, MARGIN, DPI = 480, 200, 34, 28, 100
ROW, LABELS, LONGEST_LABEL = 20, 190, 30
BINS = 32
INK, GREY, BLUE, ORANGE = "#333333", "#bbbbbb", "#2a6fb0", "#d9822b"
COLOURS = {"confirmed": ORANGE, "refuted": BLUE, "inconclusive": "#888888"}

Row = tuple[str, float, tuple[float, float], str]
"""A label, a value, its interval, and the word that gives its colour."""


def canvas(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure of so many pixels, drawn without a display. `layout` None: axes are placed by hand."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure, most: int = MAX_PNG_BYTES) -> bytes:
    """The figure as a PNG, in fewer colours where it would be larger than `most` bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    for colours in (256, 64, 16):
        if buffer.tell() < most:
            break
        image = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB").quantize(colours)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def histogram(values: ArrayLike, title: str) -> bytes | None:
    """A histogram of finite numbers with their mean as a line; None where there is none."""
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return None
    figure = canvas(WIDTH, HEIGHT)
    axes = figure.subplots()
    axes.hist(numbers, bins=min(BINS, max(4, numbers.size)), color=BLUE, rwidth=0.95)
    axes.axvline(numbers.mean(), color=ORANGE, linewidth=2)
    axes.set_title(title, fontsize=9, color=INK, loc="left", parse_math=False)
    axes.set_xlabel(f"mean {numbers.mean():.3g}, n = {numbers.size}", fontsize=8, color=INK)
    axes.set_yticks([])
    axes.tick_params(labelsize=8)
    axes.spines[["top", "left", "right"]].set_visible(False)
    return png(figure, SMALL_PNG_BYTES)


def intervals(rows: Sequence[Row], title: str) -> bytes | None:
    """Values with their intervals, one below the other, on one axis that holds 0; None without rows."""
    if not rows:
        return None
    tall = ROW * len(rows)
    height = TOP + tall + MARGIN
    figure = canvas(WIDTH, height, layout=None)
    axes = figure.add_axes((LABELS / WIDTH, MARGIN / height, (WIDTH - LABELS - MARGIN) / WIDTH, tall / height))
    axes.axvline(0, color=GREY, linewidth=1)
    for place, (_, value, bounds, word) in enumerate(rows):
        colour = COLOURS.get(word, GREY)
        axes.plot(bounds, (place, place), color=colour, linewidth=1.5)
        axes.plot(value, place, "o", color=colour, markersize=6)
    axes.set_yticks(range(len(rows)), [label[:LONGEST_LABEL] for label, *_ in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(labelsize=8, length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    figure.text(8 / WIDTH, 1 - 8 / height, title, fontsize=9, color=INK, va="top", parse_math=False)
    return png(figure, SMALL_PNG_BYTES)
