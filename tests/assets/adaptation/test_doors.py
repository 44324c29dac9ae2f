"""The doors on a real instance and store: methods, the judgement, what loads afterwards, a target without labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import yaml

from assets.adaptation.assets import build
from assets.inference.losses import at_label_pixels, pixel_sums
from resources.config import load_config
from resources.engine import LocalEngine
from resources.model import load_model, open_checkpoint, save_model

METHODS = ["class_prior", "coral", "oracle"]


@pytest.fixture(scope="module")
def ready(trained, lay_out):
    """A world whose model lies in the store, and the config file that a user would have."""
    world = lay_out(trained, methods=METHODS, seeds=2, steps=4)
    raw = json.loads(world.config.model_dump_json(exclude_none=True))
    raw["model"] |= {"factory": "tests_tiny:build_tiny", "embedding_layer": "encoder.second"}
    path = world.root / "gap.yaml"
    network = str(Path(__file__).with_name("conftest.py"))
    (world.root / "tests_tiny.py").write_text(
        "import importlib.util, pathlib\n"
        f"spec = importlib.util.spec_from_file_location('tiny_conftest', {network!r})\n"
        "module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
        "build_tiny = module.build_tiny\n"
    )
    path.write_text(yaml.safe_dump(raw))
    world.path, world.raw = path, raw
    return world


def materialise(world, config, key="away"):
    definitions = build(config, key)
    names = {asset_key for definition in definitions for asset_key in definition.keys}
    resources = {"store": world.store, "engine": LocalEngine(config)}
    defs = dg.Definitions(assets=definitions, resources=resources, executor=dg.in_process_executor)
    job = defs.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=dg.DagsterInstance.ephemeral(), asset_selection=sorted(names))
    assert result.success


@pytest.mark.slow
def test_from_the_config_to_weights_that_load(ready, monkeypatch):
    monkeypatch.syspath_prepend(ready.root)
    config = load_config(ready.path)
    save_model(ready.store.local_copy("models", "current"), ready.campaign.model.network, config,
               trained_here=False)  # fmt: skip
    materialise(ready, config)
    content = ready.store.read_json("adaptations", "away.json")
    rows = {row["method"]: row for row in content["rows"]}
    assert set(rows) == set(METHODS) and content["skipped"] is None
    assert [rows[name]["seeds"] for name in METHODS] == [1, 2, 2]
    assert content["hard_data"]["labelled"] == len(ready.campaign.samples("target", report=False))
    table = ready.store.table("away", "adaptation", "coral", id_column="row_id").read()
    report = sum(len(ready.campaign.samples(side, report=True)) for side in ("target", "holdout"))
    assert table.height == 2 * report

    weights = ready.root / "store" / rows["oracle"]["weights"]
    assert (weights.parent / "README.md").exists()
    assert json.loads((weights.parent / "card.json").read_text())["method"]["id"] == "oracle"
    raw = ready.raw | {"model": ready.raw["model"] | {"checkpoint": str(weights)}, "store": str(ready.root / "other")}
    (ready.root / "adapted.yaml").write_text(yaml.safe_dump(raw))
    adapted = load_config(ready.root / "adapted.yaml")
    folder = ready.root / "other-model"
    save_model(folder, open_checkpoint(adapted), adapted, trained_here=False)
    model = load_model(folder, adapted)
    sample = table_of(ready, "oracle").filter((pl.col("role") == "target") & (pl.col("seed") == 0)).row(0, named=True)
    assert loss_of(model, ready, sample["sample_id"]) == pytest.approx(sample["loss"], rel=1e-4)

    written = weights.stat().st_mtime_ns
    materialise(ready, config)
    assert weights.stat().st_mtime_ns == written, "nothing is trained twice"
    assert ready.store.read_json("adaptations", "away.json") == content


def table_of(world, name):
    return world.store.table("away", "adaptation", name, id_column="row_id").read()


def loss_of(model, world, sample_id):
    (batch,) = world.campaign.load("target", [sample_id])
    mask = batch.pictures[0].mask
    return pixel_sums(at_label_pixels(model(batch.reduced).logits[0], mask.shape), mask).loss


def test_a_target_without_a_gap_is_left_alone(trained, lay_out):
    world = lay_out(trained, change=lambda picture: picture, methods=["fda"], samples=40)
    materialise(world, world.config)
    content = world.store.read_json("adaptations", "away.json")
    assert content["skipped"].startswith("no loss gap")
    assert [row["verdict"] for row in content["rows"]] == ["skipped"]
    assert content["hard_data"] is None


def test_a_target_without_labels_says_why_nothing_is_tried(trained, lay_out):
    world = lay_out(trained, methods=["tent", "oracle"])
    evaluation = world.store.table("away", "evaluation")
    rows = evaluation.read().with_columns(loss=pl.lit(None, pl.Float64))
    shutil.rmtree(evaluation.url)
    evaluation.upsert(rows)
    materialise(world, world.config)
    content = world.store.read_json("adaptations", "away.json")
    assert "the target has no labels" in content["skipped"] and "adaptation moves it" in content["skipped"]


def test_without_methods_there_are_no_assets(world):
    assert build(world.config, "away") == []
