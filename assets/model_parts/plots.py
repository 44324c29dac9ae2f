"""The plot of a target's parts for Dagster's page.

Belongs here: one small PNG. Does not: the report's figures (report/parts_figures.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from assets.small_plots import canvas, png

HOLDOUT, TARGET, PLAIN = "#1d5fae", "#c2410c", "#667085"


def png_parts(parts: Sequence[dict[str, Any]]) -> bytes:
    """What each part is worth on both sides (left) and how far its activations shift (right)."""
    figure = canvas(720, 90 + 28 * len(parts))
    worth, shift = figure.subplots(1, 2, sharey=True)
    for row, part in enumerate(parts):
        if part["worth"] is not None:
            worth.plot(part["worth"]["holdout"], row, "s", color=HOLDOUT, label="holdout" if row == 0 else None)
            worth.plot(part["worth"]["target"], row, "o", color=TARGET, label="target" if row == 0 else None)
        shift.barh(row, part["gap"]["shift"], color=TARGET if part["grows"] else PLAIN, height=0.6)
    worth.set_yticks(range(len(parts)), [part["name"] for part in parts], fontsize=8, parse_math=False)
    worth.invert_yaxis()
    worth.axvline(0, color=PLAIN, linewidth=0.8)
    worth.set_title("worth, share of the loss", fontsize=9, loc="left")
    shift.set_title("shift of activations, deviations", fontsize=9, loc="left")
    if worth.get_legend_handles_labels()[0]:
        worth.legend(frameon=False, fontsize=8)
    return png(figure)
