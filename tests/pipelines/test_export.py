"""`domain-gap export`: what it is asked for, what it refuses, and frozen slices that run every night."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from assets.diagnosis.slice_tests import slice_test
from assets.inference.losses import encode_classes
from pipelines.cli import app
from pipelines.definitions import build_defs
from pipelines.jobs import SLICE_TESTS
from pipelines.rerun import Rerun
from resources.config import load_config
from resources.errors import ConfigError
from resources.sample_store import SampleStore

COUNT = 12
SLICE = slice_test({
    "name": "low brightness", "where": "brightness <= 0.5", "samples": 6, "share": 0.5, "mean_loss": 2.0,
    "difference": 1.0, "p_value": 0.01,
    "conditions": [{"trait": "brightness", "label": "brightness", "side": "<=", "threshold": 0.5}],
})  # fmt: skip


def write_config(root: Path, **changes: object) -> Path:
    folder = {"reader": "folder", "root": "dusk"}
    raw = {
        "store": str(root / "store"), "classes": ["road", "sky"], "model": {"input_size": [32, 32]},
        "source": {"name": "day", **folder}, "targets": [{"name": "dusk", **folder}, {"name": "rain", **folder}],
        "experiments": {"only": ["exposure"]}, **changes,
    }  # fmt: skip
    (root / "gap.yaml").write_text(yaml.safe_dump(raw))
    return root / "gap.yaml"


@pytest.fixture
def root(tmp_path) -> Path:
    """A config, a target of twelve labelled pictures, and what the export reads of a run's store."""
    for kind in ("images", "masks"):
        (tmp_path / "dusk" / kind).mkdir(parents=True)
    rows = []
    for i in range(COUNT):
        mask = np.full((8, 10), i % 2, np.uint8)
        places = [tmp_path / "dusk" / kind / f"d_{i:02d}.png" for kind in ("images", "masks")]
        Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(places[0])
        Image.fromarray(mask).save(places[1])
        rows.append({
            "sample_id": f"d_{i:02d}", "fingerprint": "f", "image": str(places[0]), "mask": str(places[1]), "split": "",
            "group": "g", "part": "target", "height": 8, "width": 10, "labelled": True, "quarantined": False,
            "loss": 2.0 if i < 6 else 1.0, "entropy": 0.1, "confidence": 0.9, "label_quality": 0.5,
            "suspect_pixels": [0, 0], "judged_pixels": [40, 40], "prediction": encode_classes(mask), "gap_score": 0.1,
            "conformal_p": 0.5, "neighbours": ["r"], "distances": [0.1], "brightness": 0.1 if i < 6 else 0.9,
        })  # fmt: skip
    store, frame = SampleStore(str(tmp_path / "store")), pl.DataFrame(rows)
    for name in ("manifest", "evaluation", "gap_scores", "traits"):
        store.table("dusk", name).upsert(frame)
    for target in ("dusk", "rain"):
        tests = [SLICE] if target == "dusk" else []
        store.write_json({"table": f"tables/{target}/traits", "tests": tests}, "reports", target, "slice_tests.json")
    write_config(tmp_path)
    return tmp_path


def call(root: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["export", *arguments, "-c", str(root / "gap.yaml")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_samples_are_written_as_asked(root):
    said = call(root, "--target", "dusk", "--select", "worst", "--limit", "3", "--out", str(root / "worst"))
    assert "dusk: 3 samples in " in said
    assert pl.read_csv(root / "worst" / "samples.csv")["sample_id"].to_list() == ["d_00", "d_01", "d_02"]
    call(root, "--target", "dusk", "--select", "all", "--format", "coco", "--predictions", "--copy", "--out",
         str(root / "coco"))  # fmt: skip
    content = json.loads((root / "coco" / "annotations.json").read_text())
    assert len(content["images"]) == len(content["annotations"]) == COUNT
    assert len(list((root / "coco" / "images").iterdir())) == COUNT
    assert len(json.loads((root / "coco" / "predictions.json").read_text())) == COUNT


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["models"], "export models: expected 'samples' or 'slice-tests'"),
        (["--format", "yolo"], "--format yolo: expected csv, coco, fiftyone"),
        (["--out", "x"], "expected one --target and --out"),
        (["--target", "dusk"], "expected one --target and --out"),
        (["--target", "dawn", "--out", "x"], "--target dawn: not in the config"),
        (["--target", "dusk", "--select", "wurst", "--out", "x"], "--select wurst: expected worst, next"),
    ],
)
def test_bad_usage_is_one_error(root, arguments, said):
    with pytest.raises(ConfigError, match=said):
        call(root, *arguments)


def test_frozen_slices_run_every_night_although_nothing_has_changed(root):
    said = call(root, "slice-tests")
    assert "1 of dusk, 0 of rain" in said and "checks: {slice_tests: " in said
    with pytest.raises(ConfigError, match="already there; its thresholds may be yours"):
        call(root, "slice-tests")
    config = load_config(write_config(root, checks={"slice_tests": "slice_tests.json"}))
    defs, instance = build_defs(config), dg.DagsterInstance.ephemeral()
    Rerun(defs, instance).run_job(SLICE_TESTS)
    check = dg.AssetCheckKey(dg.AssetKey(["dusk", "traits"]), "slice_low_brightness")
    [record] = instance.event_log_storage.get_asset_check_execution_history(check, limit=5)
    assert record.evaluation.passed is False and record.evaluation.metadata["failing"].value == 6
    assert "mean loss 2.000 (at most 1.500)" in record.evaluation.description


def test_without_a_frozen_file_there_is_no_such_job(root):
    jobs = {job.name for job in build_defs(load_config(root / "gap.yaml")).resolve_all_job_defs()}
    assert SLICE_TESTS not in jobs


def test_a_file_that_is_not_there_is_named_with_the_way_out(root):
    path = write_config(root, checks={"slice_tests": "gone.json"})
    with pytest.raises(ConfigError, match=r"checks\.slice_tests: no such file .*gone\.json; leave the key out, run"):
        load_config(path)


def test_an_address_with_a_password_is_not_repeated(root):
    path = write_config(root, tracking={"mlflow": "ftp://me:secret@host"})
    with pytest.raises(ConfigError, match=r"tracking\.mlflow: expected the address of an MLflow server") as error:
        load_config(path)
    assert "secret" not in str(error.value)


def test_the_recipes_files_come_and_go_with_it(root, monkeypatch):
    monkeypatch.setattr("assets.experiments.recipe_files.find_spec", lambda _name: None)  # ONNX takes seconds
    config, store = load_config(root / "gap.yaml"), SampleStore(str(root / "store"))
    job, instance = build_defs(config).resolve_implicit_global_asset_job_def(), dg.DagsterInstance.ephemeral()
    folder = store.local_copy("reports", "dusk")

    def files_of(steps: list[dict]) -> dict[str, dict]:
        store.write_json({"recipe": {"steps": steps}, "recipe_source": f"{steps}"}, "verdicts", "dusk.json")
        job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey(["dusk", "recipe_files"])])
        return {row["name"]: row for row in store.read_json("recipe_files", "dusk.json")["files"]}

    exposure = {"hypothesis": "exposure", "title": "exposure", "parameters": {"gamma": 1.2, "gain": 1.1}}
    rows = files_of([exposure])
    assert rows["recipe.onnx"]["note"].startswith("not written: onnx and onnxscript not installed")
    assert "'gamma': 1.2" in (folder / "recipe_torchvision.py").read_text()
    assert (folder / "recipe_albumentations.py").exists() and not (folder / "recipe.onnx").exists()
    assert files_of([]) == {}
    assert not list(folder.glob("recipe_*"))
