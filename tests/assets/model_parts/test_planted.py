"""A stage broken on purpose is named; nothing broken, nothing named. The plant is never seen by the analysis."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow

STAGES = ("stage1", "stage2", "stage3", "stage4")


@pytest.mark.parametrize("target", ["alike", "dark"])
def test_an_intact_model_is_not_accused(model, analyse, target):
    content = analyse(model, target).content
    assert content["origin"] is None
    assert {part["transfer"] for part in content["parts"]} <= {"transfers", "unclear"}
    assert not any(part["grows"] for part in content["parts"])
    assert content["sentence"] == f"{target}: every part that is worth something transfers."


@pytest.mark.parametrize("how", ["output", "statistics"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_broken_stage_is_named(broken, analyse, stage, how):
    content = analyse(broken(stage, how), "dark").content
    assert content["origin"] == stage
    assert f"‘{stage}’" in content["sentence"]
