"""The chart of the model's parts: what each is worth on both sides, and how far its activations shift.

Belongs here: one Plotly figure in the colours of `figures.py`. Does not: markup, computing what it shows.
"""

from __future__ import annotations

from assets.report.figures import LIGHT, Figure
from assets.report.parts_document import EffectRow, ModelPartsRow, PartRow

GREATEST = 1.0e3
"""Beyond this an interval is drawn no further: too few units for one."""


def parts_height(rows: int) -> int:
    """Pixels that a chart of so many parts takes."""
    return 86 + 30 * rows


def parts_figure(found: ModelPartsRow | None) -> dict[str, Figure]:
    """The chart under its key; nothing without parts. Without losses its left half stays away."""
    if found is None or not found.parts:
        return {}
    parts = found.parts
    compared = any(part.effect("mean", "holdout") is not None for part in parts)
    traces = [_help(parts, side, place) for side, place in (("holdout", -0.16), ("target", 0.16))] if compared else []
    traces.append(_shift(parts))
    height = parts_height(len(parts))
    left = 0.62 if compared else 0.0
    layout: Figure = {
        "height": height, "margin": {"l": 190, "r": 8, "t": 8, "b": 62}, "showlegend": False,
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"size": 12},
        "yaxis": {"tickvals": list(range(len(parts))), "ticktext": [_name(part) for part in parts],
                  "range": [len(parts) - 0.4, -0.6], "zeroline": False, "fixedrange": True, "showgrid": False},
        "xaxis": {"domain": [0, 0.56] if compared else [0, 0.001], "zeroline": True, "fixedrange": True,
                  "title": {"text": "loss that the part saves", "standoff": 8}, "visible": compared},
        "xaxis2": {"domain": [left, 1], "zeroline": True, "fixedrange": True, "rangemode": "tozero", "anchor": "y",
                   "title": {"text": "shift of its activations, deviations", "standoff": 8}},
    }  # fmt: skip
    return {"parts": {"data": traces, "layout": layout}}


def _help(parts: list[PartRow], side: str, place: float) -> Figure:
    rows = [(i, effect) for i, part in enumerate(parts) if (effect := part.effect("mean", side)) is not None]
    reach = [_reach(effect) for _, effect in rows]
    return {
        "type": "scatter", "mode": "markers", "name": side,
        "x": [_rounded(effect.loss_change or 0.0) for _, effect in rows], "y": [i + place for i, _ in rows],
        "marker": {"color": LIGHT[side], "size": 9, "symbol": "square" if side == "holdout" else "circle"},
        "error_x": {"type": "data", "array": reach, "color": LIGHT[side], "thickness": 1.4, "width": 3},
        "hovertemplate": "%{x:.3f}<extra>" + side + "</extra>",
    }  # fmt: skip


def _shift(parts: list[PartRow]) -> Figure:
    return {
        "type": "bar", "orientation": "h", "name": "target", "xaxis": "x2", "width": 0.5,
        "x": [_rounded(part.gap.shift or 0.0) for part in parts], "y": list(range(len(parts))),
        "marker": {"color": [LIGHT["target"] if part.grows else LIGHT["plain"] for part in parts]},
        "hovertemplate": "%{x:.2f} deviations<extra></extra>",
    }  # fmt: skip


def _reach(effect: EffectRow) -> float:
    if effect.ci95 is None or effect.loss_change is None:
        return 0.0
    return _rounded(min(effect.ci95[1] - effect.loss_change, GREATEST))


def _name(part: PartRow) -> str:
    text = part.name if len(part.name) <= 28 else f"{part.name[:27]}…"  # noqa: PLR2004
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
