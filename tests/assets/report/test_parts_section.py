"""The section on the model's parts: its chart, its table, what it says without losses, and hostile names."""

from __future__ import annotations

from typing import Any

import jinja2
import plotly.graph_objects as go
import pytest

from assets.report import page
from assets.report.figures import DARK, LIGHT
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
    environment: jinja2.Environment = page._environment()
    template = environment.get_template("model_parts.html.j2")
    doc = type("Doc", (), {"model_parts": found})
    from assets.report.parts_figures import parts_height

    return template.render(doc=doc, evidence=None, significant=0.05, parts_height=parts_height)


def test_the_chart_shows_both_sides_and_the_shift():
    figure = parts_figure(section())["parts"]
    go.Figure(figure)
    holdout, target, shift = figure["data"]
    assert (holdout["x"], target["x"], shift["x"]) == ([0.4, 0.4], [0.1, 0.1], [0.8, 0.8])
    assert holdout["error_x"]["array"] == pytest.approx([0.1, 0.1])
    assert shift["marker"]["color"] == [LIGHT["plain"], LIGHT["target"]]
    assert {holdout["marker"]["color"], target["marker"]["color"]} <= set(LIGHT.values())
    assert LIGHT.keys() == DARK.keys()


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
    assert len(parts_figure(bare)["parts"]["data"]) == 1
    text = rendered(bare)
    assert "No loss is compared: the target has no labels." in text
    assert "losses are of" not in text


def test_a_skipped_network_is_a_reason_and_no_chart():
    skipped = section(skipped="an ONNX file", sentence="kitti: the parts were not looked at: an ONNX file.", parts=[])
    assert parts_figure(skipped) == {} and parts_figure(None) == {}
    text = rendered(skipped)
    assert "the parts were not looked at" in text.lower() and "<table" not in text


def test_names_are_escaped():
    hostile = section(parts=[part(HOSTILE, reasons=[HOSTILE], output=HOSTILE)], sentence=HOSTILE)
    assert HOSTILE not in rendered(hostile)
    assert "<" not in parts_figure(hostile)["parts"]["layout"]["yaxis"]["ticktext"][0]
