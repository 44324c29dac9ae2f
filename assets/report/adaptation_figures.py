"""Figures of adaptation: what each method closes against what it costs the source, what more labels buy.

Belongs here: charts of the document's rows. Does not: markup, figures of anything else (`figures.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from assets.report import charts
from assets.report.document import AdaptationRow

SCOPES = {"head": "head", "decoder": "decoder and head", "all": "all weights"}
HEIGHT, TOP, FOOT = 300, 16, 260


def closed_against_cost(rows: Sequence[AdaptationRow]) -> Markup | None:
    """One mark a variant that ran: the source's change of loss across, the worst seed's share of the gap closed up."""
    shown = [(row, row.side_effect, row.gap_closed) for row in rows]
    ran = [(row, cost, closed) for row, cost, closed in shown if cost is not None and closed is not None]
    if not ran:
        return None
    across = charts.scale([0.0, *(cost for _, cost, _ in ran)], 3.0, 97.0, around=0.05)
    bounds = [bound for row, _, closed in ran for bound in (row.ci95 or (closed, closed))]
    up = charts.scale([0.0, *bounds], FOOT - 6, TOP)
    marks = []
    for row, cost, closed in ran:
        low, high = row.ci95 or (closed, closed)
        name = "after" if row.verdict == "confirmed" else "open"
        marks += [charts.whisker_up(across(cost), up(low), up(high), "whisker faint"),
                  charts.dot(across(cost), up(closed), name, closed,
                             f"{row.title}: closes {closed:.0%}, source {cost:+.3f}")]  # fmt: skip
    axes = [charts.axis_up(up, charts.labelled(up.ticks(5), "%", 100)),
            charts.axis_across(across, FOOT, TOP, charts.labelled(across.ticks(4)), "source loss, change")]  # fmt: skip
    label = "Gap closed in the worst seed against the price on the source; all figures are in the table"
    return charts.chart("adaptations", label, HEIGHT, *axes, *marks)


def learning_curve(rows: Sequence[AdaptationRow]) -> Markup | None:
    """Gap closed by fine-tuning over the share of labels, a line a scope; None with fewer than two shares."""
    tuned = [row for row in rows if row.method == "fine_tuning" and row.gap_closed is not None and row.label_share]
    shares = sorted({row.label_share for row in tuned if row.label_share})
    if len(shares) < 2:  # noqa: PLR2004
        return None
    across = charts.scale([math.log(share) for share in shares], 4.0, 96.0)
    up = charts.scale([0.0, *(row.mean_gap_closed or 0.0 for row in tuned)], FOOT - 6, TOP)
    lines, marks, entries = [], [], []
    for scope, name in SCOPES.items():
        own = sorted((row for row in tuned if row.scope == scope), key=lambda row: row.label_share or 0)
        places = [(across(math.log(row.label_share or 1)), up(row.mean_gap_closed or 0.0)) for row in own]
        if own:
            entries.append((f"scope-{scope}", name))
            lines.append(charts.path([(10 * x, y) for x, y in places], f"step scope-{scope}"))
            marks += [charts.dot(x, y, "after", row.mean_gap_closed or 0.0,
                                 f"{name}: {row.label_share}% of the labels close {row.mean_gap_closed or 0.0:.0%}")
                      for (x, y), row in zip(places, own, strict=True)]  # fmt: skip
    labels = [(math.log(share), f"{share}%") for share in shares]
    axes = [charts.axis_up(up, charts.labelled(up.ticks(5), "%", 100)),
            charts.axis_across(across, FOOT, TOP, labels, "share of the fit half’s labels")]  # fmt: skip
    label = "Mean gap closed by fine-tuning over the share of labels; all figures are in the table"
    field = charts.stretched(0, HEIGHT, lines)
    return charts.join([charts.legend(entries), charts.chart("learning-curve", label, HEIGHT, *axes, field, *marks)])
