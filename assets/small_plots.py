"""Small plots for an asset's page: a few hundred bytes of PNG, drawn without a plotting package.

Belongs here: histograms and intervals of plain numbers. Does not: the report's figures, Dagster.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, MARGIN = 480, 200, 28
ROW, LABELS = 20, 190
BINS = 32
INK, GREY, BLUE, ORANGE = "#333333", "#bbbbbb", "#2a6fb0", "#d9822b"
COLOURS = {"confirmed": ORANGE, "refuted": BLUE, "inconclusive": "#888888"}

Row = tuple[str, float, tuple[float, float], str]
"""A label, a value, its interval, and the word that gives its colour."""


def histogram(values: ArrayLike, title: str) -> bytes | None:
    """A histogram of finite numbers with their mean as a line; None where there is none."""
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return None
    counts, edges = np.histogram(numbers, bins=min(BINS, max(4, numbers.size)))
    image, draw = _canvas(WIDTH, HEIGHT, title)
    floor, span = HEIGHT - MARGIN, WIDTH - 2 * MARGIN
    for i, count in enumerate(counts):
        left, right = (MARGIN + span * k / len(counts) for k in (i, i + 1))
        draw.rectangle((left, floor - count / counts.max() * (floor - 34), right - 1, floor), fill=BLUE)
    mean = MARGIN + span * (numbers.mean() - edges[0]) / max(edges[-1] - edges[0], 1e-12)
    draw.line((mean, 30, mean, floor), fill=ORANGE, width=2)
    draw.text((MARGIN, floor + 6), f"{edges[0]:.3g}", fill=INK)
    draw.text((WIDTH - MARGIN, floor + 6), f"{edges[-1]:.3g}", fill=INK, anchor="ra")
    draw.text((WIDTH / 2, floor + 6), f"mean {numbers.mean():.3g}, n = {numbers.size}", fill=INK, anchor="ma")
    return _png(image)


def intervals(rows: Sequence[Row], title: str) -> bytes | None:
    """Values with their intervals, one below the other, on one axis that holds 0; None without rows."""
    if not rows:
        return None
    image, draw = _canvas(WIDTH, 34 + ROW * len(rows) + MARGIN, title)
    low = min(0.0, *(bounds[0] for _, _, bounds, _ in rows))
    high = max(0.0, *(bounds[1] for _, _, bounds, _ in rows))
    span = WIDTH - LABELS - MARGIN

    def at(value: float) -> float:
        return LABELS + span * (value - low) / max(high - low, 1e-12)

    bottom = 34 + ROW * len(rows)
    draw.line((at(0), 30, at(0), bottom), fill=GREY)
    for i, (label, value, bounds, word) in enumerate(rows):
        y, colour = 34 + ROW * i + ROW / 2, COLOURS.get(word, GREY)
        draw.text((LABELS - 8, y), label[:30], fill=INK, anchor="rm")
        draw.line((at(bounds[0]), y, at(bounds[1]), y), fill=colour, width=2)
        draw.ellipse((at(value) - 4, y - 4, at(value) + 4, y + 4), fill=colour)
    for value in (low, high):
        draw.text((at(value), bottom + 6), f"{value:.2f}", fill=INK, anchor="ma")
    return _png(image)


def _canvas(width: int, height: int, title: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.font = ImageFont.load_default(12)
    draw.text((8, 8), title, fill=INK)
    return image, draw


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.quantize(16).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
