"""Figures of adaptation: what each method closes against what it costs the source, what more labels buy.

Belongs here: Plotly figures of the document's rows. Does not: markup, figures of anything else (`figures.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from assets.report.document import AdaptationRow
from assets.report.figures import LIGHT, Figure, escaped, plain_layout, rounded

SCOPES = {"head": ("dot", "head"), "decoder": ("dash", "decoder and head"), "all": ("solid", "all weights")}


def closed_against_cost(rows: Sequence[AdaptationRow]) -> Figure | None:
    """One mark a variant that ran: the source's change of loss across, the worst seed's share of the gap closed up."""
    shown = [row for row in rows if row.gap_closed is not None and row.side_effect is not None]
    if not shown:
        return None
    drawn: list[dict[str, Any]] = []
    for row in shown:
        confirmed = row.verdict == "confirmed"
        low, high = row.ci95 or (row.gap_closed, row.gap_closed)
        closed = row.gap_closed or 0.0
        drawn.append({
            "type": "scatter", "mode": "markers", "x": [rounded(row.side_effect or 0.0)], "y": [rounded(closed)],
            "error_y": {"type": "data", "symmetric": False, "array": [rounded(max(0.0, (high or 0.0) - closed))],
                        "arrayminus": [rounded(max(0.0, closed - (low or 0.0)))], "thickness": 1, "width": 3,
                        "color": LIGHT["plain"]},
            "marker": {"size": 9, "color": LIGHT["after" if confirmed else "plain"],
                       "symbol": "circle" if confirmed else "circle-open"},
            "text": [escaped(row.title)],
            "hovertemplate": "%{text}<br>closes %{y:.0%}, source %{x:+.3f}<extra></extra>",
        })  # fmt: skip
    layout = plain_layout(height=320, margin={"l": 52, "r": 12, "t": 8, "b": 44})
    layout["xaxis"] |= {"title": {"text": "source loss, change", "standoff": 8}, "zeroline": True}
    layout["yaxis"] |= {"title": {"text": "gap closed, worst seed"}, "zeroline": True, "tickformat": ".0%"}
    return {"data": drawn, "layout": layout}


def learning_curve(rows: Sequence[AdaptationRow]) -> Figure | None:
    """Gap closed by fine-tuning over the share of labels, a line a scope; None with fewer than two shares."""
    tuned = [row for row in rows if row.method == "fine_tuning" and row.gap_closed is not None and row.label_share]
    if len({row.label_share for row in tuned}) < 2:  # noqa: PLR2004
        return None
    drawn = []
    for scope, (dash, name) in SCOPES.items():
        own = sorted((row for row in tuned if row.scope == scope), key=lambda row: row.label_share or 0)
        if own:
            drawn.append({
                "type": "scatter", "mode": "lines+markers", "name": name, "x": [row.label_share for row in own],
                "y": [rounded(row.mean_gap_closed or 0.0) for row in own],
                "line": {"dash": dash, "color": LIGHT["after"]}, "marker": {"size": 7},
                "hovertemplate": f"{name}: %{{x}}% of the labels close %{{y:.0%}}<extra></extra>",
            })  # fmt: skip
    layout = plain_layout(height=320, margin={"l": 52, "r": 12, "t": 8, "b": 44})
    shares = sorted({row.label_share for row in tuned if row.label_share})
    layout["xaxis"] |= {"title": {"text": "share of the fit half’s labels", "standoff": 8}, "type": "log",
                        "tickvals": shares, "ticktext": [f"{share}%" for share in shares]}  # fmt: skip
    layout["yaxis"] |= {"title": {"text": "gap closed, mean of the seeds"}, "zeroline": True, "tickformat": ".0%"}
    layout |= {"showlegend": True, "legend": {"orientation": "h", "y": 1.1, "x": 0}}
    return {"data": drawn, "layout": layout}
