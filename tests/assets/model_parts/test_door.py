"""The doors in Dagster: both assets are made, written and described; off, there is nothing."""

from __future__ import annotations

import dagster as dg
import pytest

from assets.model_parts import assets
from resources.config import GapConfig
from resources.engine import LocalEngine


@pytest.mark.slow
def test_the_doors_write_what_the_report_reads(model, analyse, monkeypatch):
    ready = analyse(model, "alike", pictures=16)  # a store with manifests and evaluations
    monkeypatch.setattr(assets, "_model", lambda _config, _store: model)
    definitions = assets.build_source(ready.config) + assets.build(ready.config, "alike")
    resources = {"store": ready.store, "engine": LocalEngine(ready.config)}
    done = dg.materialize(definitions, resources=resources, instance=dg.DagsterInstance.ephemeral())
    assert done.success
    content = ready.store.read_json("model_parts", "alike.json")
    assert [part["name"] for part in content["parts"]][:2] == ["stage1", "stage2"]
    made = done.asset_materializations_for_node("alike__model_parts")[0]
    assert made.metadata["sentence"].value == content["sentence"]
    assert made.metadata["shift_of_stage1"].value == pytest.approx(content["parts"][0]["gap"]["shift"])
    assert "data:image/png" in made.metadata["parts"].value


def test_off_means_no_asset():
    config = GapConfig.model_validate({
        "classes": ["road", "sky"], "source": {"name": "home", "reader": "streets"},
        "targets": [{"name": "away", "reader": "streets"}], "model_parts": {"enabled": False},
    })  # fmt: skip
    assert assets.build_source(config) == assets.build(config, "away") == []
