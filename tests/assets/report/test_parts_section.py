"""The section on the model's parts: its chart, its table, what it says without losses, and hostile names."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import jinja2

from assets.report import page
from assets.report.parts_document import ModelPartsRow
from assets.report.parts_figures import parts_figure

EFFECT = {"loss_change": 0.4, "ci95": [0.3, 0.5], "p_value": 0.001, "q_value": 0.004, "samples": 60}
GAP = {"pad": 1.2, "pad_p": 0.01, "pad_q": 0.05, "pad_floor": 0.3, "shift": 0.8, "shift_floor": 0.1, "entering": 0.3,
       "rise": 0.5, "rise_ci95": [0.3, 0.7], "rise_q": 0.001, "norm_target": 0.6, "norm_holdout": 0.1}  # fmt: skip
HOSTILE = "<script>alert(1)</script>"


def part(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name, "output": f"net.{name}", "channels": 8, "parameters": 100, "fed_by": [], "gap": GAP,
        "interventions": [
            {"intervention": "mean", "holdout": EFFECT, "target": {**EFFECT, "loss_change": 0.1}, "reason": None},
            {"intervention": "statistics", "holdout": None, "target": None, "reason": "the part has no batch norm"},
        ],
        "worth": {"holdout": 0.6, "target": 0.2, "difference": -0.4, "ci95": [-0.5, -0.3], "p_value": 0.001,
                  "q_value": 0.002},
        "transfer": "does not transfer", "grows": True, "misfit": False, "reasons": ["it is worth 20%"],
        "tuning_steps": None, "planned_steps": None, **changes,
    }  # fmt: skip


def section(**changes: Any) -> ModelPartsRow:
    return ModelPartsRow.model_validate({
        "sentence": "kitti: encoder stage 1 transfers; low does not transfer.", "skipped": None,
        "without_losses": None, "origin": "low", "parts": [part("encoder stage 1", grows=False), part("low")],
        "pictures": {"holdout": 64, "target": 48, "holdout_compared": 60, "target_compared": 24}, **changes,
    })  # fmt: skip


def rendered(found: ModelPartsRow) -> str:
    """The section alone, with what the page gives its templates."""
    environment: jinja2.Environment = page.environment()
    template = environment.get_template("model_parts.html.j2")
    doc = type("Doc", (), {"model_parts": found})
    return template.render(doc=doc, evidence=None, significant=0.05, parts_chart=parts_figure(found))


def values(found: ModelPartsRow, tag: str) -> list[tuple[str | None, float]]:
    """Class and figure of a chart's marks."""
    root = ElementTree.fromstring(parts_figure(found) or "")
    return [(mark.get("class"), float(mark.get("data-value", ""))) for mark in root.iter(tag)]


def test_the_chart_shows_both_sides_and_the_shift():
    assert values(section(), "circle") == [("target", 0.1)] * 2
    assert values(section(), "rect") == [("grey", 0.8), ("target", 0.8), ("holdout", 0.4), ("holdout", 0.4)]


def test_a_shift_that_grows_where_nothing_depends_on_it_is_not_flagged():
    pooling = part("image pooling", transfer="unclear")
    idle = section(parts=[pooling])
    assert values(idle, "rect")[0] == ("grey", 0.8)
    text = rendered(idle)
    assert "without consequence" in text and "the shift grows here" not in text
    assert "the shift grows here" in rendered(section())
    unmeasured = section(parts=[part("image pooling", transfer="unclear", worth=None, interventions=[])])
    assert "the shift grows here" in rendered(unmeasured), "where no loss was compared, nobody knows what depends on it"


def test_the_section_says_the_sentence_and_every_part():
    text = rendered(section())
    assert "encoder stage 1 transfers; low does not transfer." in text
    assert "60%" in text and "20%" in text and "0.30 → 0.80" in text
    assert "losses are of 60 and 24 pictures" in text
    assert text.count('data-figure="parts"') == 1


def test_without_losses_the_shift_alone_is_shown():
    bare = section(
        without_losses="the target has no labels",
        parts=[part("low", interventions=[], worth=None, transfer="unclear")],
        pictures={"holdout": 64, "target": 48},
    )
    assert values(bare, "rect") == [("target", 0.8)] and values(bare, "circle") == []
    text = rendered(bare)
    assert "No loss is compared: the target has no labels." in text
    assert "losses are of" not in text


def test_a_skipped_network_is_a_reason_and_no_chart():
    skipped = section(skipped="an ONNX file", sentence="kitti: the parts were not looked at: an ONNX file.", parts=[])
    assert parts_figure(skipped) is None and parts_figure(None) is None
    text = rendered(skipped)
    assert "the parts were not looked at" in text.lower() and "<table" not in text


def test_names_are_escaped():
    hostile = section(parts=[part(HOSTILE, reasons=[HOSTILE], output=HOSTILE)], sentence=HOSTILE)
    assert HOSTILE not in rendered(hostile)
    assert "<script" not in str(parts_figure(hostile))
