"""Figures of adaptation say what their rows say."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from assets.report.adaptation_figures import closed_against_cost, learning_curve
from assets.report.assemble import adaptations
from assets.report.document import AdaptationRow

BASE = {"paper": "–", "reason": "r"}


def row(method: str = "fda", closed: float | None = 0.3, **changes) -> AdaptationRow:
    found = {"method": method, "variant": "v", "title": f"<b>{method}</b>", "verdict": "confirmed", **BASE,
             "gap_closed": closed, "ci95": (0.2, 0.5), "mean_gap_closed": closed, "side_effect": 0.1}  # fmt: skip
    return AdaptationRow(**found | changes)


def test_marks_stand_at_price_and_share():
    figure = closed_against_cost([row(), row("coral", -0.1, ci95=(-0.3, 0.0), verdict="refuted"), row("tent", None)])
    first, second = ElementTree.fromstring(figure).iter("circle")
    assert (first.get("data-value"), second.get("data-value")) == ("0.3", "-0.1")
    assert (first.get("class"), second.get("class")) == ("after", "open")
    assert float(first.get("cy")) < float(second.get("cy")), "what closes more stands higher"
    assert first.find("title").text == "<b>fda</b>: closes 30%, source +0.100" and "<b>" not in figure
    assert closed_against_cost([row(closed=None)]) is None


def test_a_line_a_scope_over_the_share_of_labels():
    rows = [row("fine_tuning", 0.1 * share, scope=scope, label_share=share) for scope in ("head", "all")
            for share in (25, 1, 5)]  # fmt: skip
    figure = learning_curve([*rows, row()])
    root = ElementTree.fromstring(f"<div>{figure}</div>")
    assert [path.get("class") for path in root.iter("path")] == ["step scope-head", "step scope-all"]
    marks = [(float(mark.get("cx")[:-1]), float(mark.get("data-value"))) for mark in root.iter("circle")][:3]
    assert [value for _, value in marks] == pytest.approx([0.1, 0.5, 2.5]) and marks == sorted(marks)
    assert learning_curve(rows[:1]) is None


def test_stored_judgements_become_fields():
    assert adaptations(None) == {}
    stored = {
        "rows": [{"method": "fda", "variant": "default", "title": "FDA", "verdict": "skipped", **BASE, "per_seed": []}],
        "hard_data": None,
        "skipped": None,
    }
    found = adaptations(stored)
    assert found["adaptations"][0].verdict == "skipped"
    assert found["hard_data"] is None
