"""Rerun only what changed, on a real Dagster instance and real tables. The tests of this module run in order.

So does a run with an exported network beside the first one: the world is trained once, in one file.
"""

from __future__ import annotations

import json
import os
import shutil

import polars as pl
import pytest
import torch
from deltalake import DeltaTable
from typer.testing import CliRunner

from assets.report.history import read_history
from assets.statistics.effect_sizes import jensen_shannon
from pipelines.cli import app
from resources.model import load_model

PER_SAMPLE = ("manifest", "embeddings", "evaluation", "traits", "gap_scores")

STATISTICS = """
from assets.diagnosis.hypotheses import Hypothesis
from assets.experiments.model_side import BatchNormReestimation
from assets.experiments.registry import Experiment, register

DARK = Hypothesis("statistics", "model_statistics", "statistics", "The target is too dark for them.", ("brightness",))
register(Experiment(DARK, BatchNormReestimation()))
"""

pytestmark = pytest.mark.slow


def names(keys) -> set[str]:
    return {"/".join(key.path) for key in keys}


def versions(world) -> dict[str, int]:
    """Delta version of every per-sample table: it moves with each commit."""
    tables = {
        (key, name) for key in ("source", "dark") for name in PER_SAMPLE if (key, name) != ("source", "gap_scores")
    }
    return {f"{key}/{name}": DeltaTable(world.store.table(key, name).url).version() for key, name in tables}


def test_first_run_makes_everything(world):
    assert not world.first.failed and not world.first.blocked
    made = names(world.first.ran)
    assert {"source/model", "dark/gap_report", "bare/gap_report", "dark/experiments/brighten"} <= made
    assert world.rows("source", "embeddings").height == 110
    assert world.rows("dark", "evaluation")["loss"].null_count() == 0


def test_report_is_whole_and_says_what_the_tables_say(world):
    from assets.report.document import ReportDocument

    text = world.store.read("reports", "dark", "report.json").decode()
    document = ReportDocument.model_validate_json(text)
    losses = world.rows("dark", "evaluation")["loss"]
    assert document.performance_gap.target_loss == pytest.approx(losses.mean())
    assert document.performance_gap.detected
    assert {row.id for row in document.experiments} == {"exposure", "channel_statistics", "brighten"}
    shares = [row.target_share for row in document.performance_gap.per_class]
    source = [row.source_share for row in document.performance_gap.per_class]
    assert document.class_shares.jensen_shannon.value == pytest.approx(jensen_shannon(source, shares))
    assert sum(row.channels for row in document.latent_gap_stages) == len(
        world.rows("dark", "embeddings")["stage_mean"][0]
    )
    assert all(row.measurements["kid"].p_value is not None for row in document.latent_gap_stages)
    assert {row.psi_p_value is None for row in document.traits if row.psi is not None} == {False}
    assert "<script" in world.store.read("reports", "dark", "report.html").decode()


def test_lists_beside_the_report_work_on_the_tables(world):
    from assets.diagnosis.slice_tests import run_slice_test
    from assets.diagnosis.slices import slice_table

    stored = json.loads(world.store.read("reports", "dark", "slice_tests.json").decode())
    rows = slice_table(world.rows("dark", "evaluation"), pl.read_delta(str(world.root / "store" / stored["table"])))
    for test in stored["tests"]:
        outcome = run_slice_test(test, rows)
        assert outcome.samples == test["found"]["samples"] and outcome.passed is False
    listed = pl.read_csv(world.store.read("reports", "dark", "label_errors.csv"))
    document = json.loads(world.store.read("reports", "dark", "report.json").decode())
    for side in ("target", "holdout"):
        shown = [row["sample_id"] for row in document["label_errors"] if row["side"] == side]
        assert listed.filter(side=side)["sample_id"].to_list()[: len(shown)] == shown
    share = document["suspect_slice"]["conditions"][0]["threshold"]
    assert rows.filter(pl.col("suspect_share") >= share).height == document["suspect_slice"]["samples"]


def test_what_to_do_next_lies_beside_the_report(world, tmp_path):
    from assets.report.export import export_samples, new_folder
    from assets.report.selection import read_samples, select_samples
    from resources.datasets import open_reader

    for key in ("dark", "bare"):
        document = json.loads(world.store.read("reports", key, "report.json").decode())
        listed = pl.read_csv(world.store.read("reports", key, "next_samples.csv"))
        assert listed.height == document["next_samples"]["listed"] <= document["next_samples"]["uncovered"]
        assert sum(map(int, listed["stands_for"])) == document["next_samples"]["uncovered"]
        assert [row["sample_id"] for row in document["next_samples"]["chosen"]] == listed["sample_id"].to_list()[:24]
        forms = {row["name"]: row for row in document["recipe_forms"]}
        assert bool(forms) == bool(document["recipe"]["steps"])
        for name in ("recipe_torchvision.py", "recipe_albumentations.py", "recipe.onnx"):
            assert world.store.exists("reports", key, name) == (name in forms and forms[name]["written"])
        config, rows = world.config, select_samples(world.store, key, "worst", 3)
        samples = read_samples(world.store, key, rows, open_reader(config, config.dataset(key)), predictions=True)
        count = export_samples(rows, samples, config.class_names, new_folder(tmp_path / key), "coco", copy=False)
        content = json.loads((tmp_path / key / "annotations.json").read_text())
        assert count == len(content["images"]) == 3 and bool(content["annotations"]) == (key == "dark")


def test_unlabelled_target_is_answered_by_estimates_that_are_marked(world):
    document = json.loads(world.store.read("reports", "bare", "report.json").decode())
    gap = document["performance_gap"]
    assert gap["estimated"] and gap["reason"] is None and gap["target_miou"] is None and gap["per_class"] == []
    assert gap["loss_gap"] == pytest.approx(gap["target_loss"] - gap["source_loss"])
    assert gap["ci95"][0] < gap["loss_gap"] < gap["ci95"][1] and 0 < gap["estimation"]["accuracy"] < 1
    assert "estimate" in document["headline"] and document["unexplained"]["estimated"]
    assert 'class="estimated"' in world.store.read("reports", "bare", "report.html").decode()
    assert world.store.read_json("calibration", "bare.json")["calibration"]["missed"]

    labelled = world.store.read("reports", "dark", "report.json").decode()
    assert '"estimated": true' not in labelled and json.loads(labelled)["performance_gap"]["estimation"] is None
    assert 'class="estimated"' not in world.store.read("reports", "dark", "report.html").decode()
    assert world.store.read_json("calibration", "dark.json") == {"calibration": None}
    assert document["latent_gap"]["knn_auroc"]["value"] is not None
    assert document["class_shares"]["basis"] == "predictions"
    assert document["class_shares"]["jensen_shannon"]["value"] > 0
    assert not gap["detected"] and not document["root_causes"]
    assert all(row["verdict"] != "confirmed" and row["gap_closed"] is None for row in document["experiments"])
    assert all("no loss gap" not in row["reason"] for row in document["experiments"]), "it is no reason to skip"
    assert world.rows("bare", "traits")["share_road"].is_not_nan().all()  # from predictions

    command = ["agreement", "-c", str(world.config_path), "--target", "dark", "--hidden", "bare", "--json"]
    compared = json.loads(CliRunner().invoke(app, command).stdout)
    figures = {row["name"]: row for row in compared["figures"]}
    assert figures["loss gap"]["estimated"] == gap["loss_gap"]
    assert figures["accuracy"]["true"] == json.loads(labelled)["performance_gap"]["target_accuracy"]
    assert sum(row["experiments"] for row in compared["verdicts"]) == len(document["experiments"])


def test_a_run_with_an_exported_network(world, worlds, tmp_path):
    """It ends in the report of a run with the network; what it can't do is skipped there."""
    store = world.store
    trained = load_model(store.local_copy("models", "current"), world.config)
    pictures = torch.rand(2, 3, *trained.input_size)
    program = torch.export.export(trained.network, (pictures,), dynamic_shapes=({0: torch.export.Dim("n")},))
    other = world.copy(tmp_path / "w")
    (other.root / "exported_experiments.py").write_text(STATISTICS)
    torch.export.save(program, other.root / "network.pt2")
    other.write_config(
        model={"checkpoint": "network.pt2", "embedding_layer": "encoder", "input_size": list(trained.input_size)},
        experiments={"modules": ["exported_experiments"], "only": ["exposure", "statistics"]},
        targets=[worlds.folder("dark")],
    )
    assert not other.run().failed
    for key in ("source", "dark"):
        expected, found = (one.rows(key, "evaluation")["loss"].to_numpy() for one in (world, other))
        assert found == pytest.approx(expected, rel=1e-3)
    documents = [
        json.loads(one.store.read("reports", "dark", "report.json").decode()) for one in (world, other)
    ]  # fmt: skip
    gaps = [document["performance_gap"]["loss_gap"] for document in documents]
    assert gaps[1] == pytest.approx(gaps[0], rel=1e-3)
    assert documents[1]["model"]["architecture"] == "network.pt2"
    experiments = {row["id"]: row for row in documents[1]["experiments"]}
    assert experiments["statistics"]["verdict"] == "skipped"
    assert experiments["statistics"]["reason"].startswith("a torch.export archive runs as it was exported")
    assert experiments["exposure"]["verdict"] != "skipped"


def test_second_run_computes_nothing_and_opens_no_picture(world, opened_pictures):
    before = versions(world)
    outcome = world.run()
    assert outcome.ran == [] and not outcome.failed
    assert versions(world) == before
    assert opened_pictures == []


def test_touched_picture_changes_nothing(world):
    before = versions(world)
    picture = sorted((world.root / "dark" / "images").iterdir())[3]
    os.utime(picture, ns=(1, 1))
    assert world.run().ran == []
    assert versions(world) == before


def test_one_picture_added_is_one_row_in_each_table(world):
    before = {name: world.rows("dark", name).select("sample_id", "fingerprint") for name in PER_SAMPLE}
    for kind in ("images", "masks"):
        source = sorted((world.root / "dark" / kind).iterdir())[-1]
        frame = f"{source.stem.rsplit('_', 1)[0]}_99999{source.suffix}"
        if kind == "masks":
            shutil.copy(source, source.with_name(frame))
        else:
            _brightened(source, source.with_name(frame))
    outcome = world.run()
    assert not outcome.failed
    for name in PER_SAMPLE:
        after = world.rows("dark", name).select("sample_id", "fingerprint")
        new = after.join(before[name], on="sample_id", how="anti")
        assert new.height == 1, name
        kept = after.join(before[name], on=["sample_id", "fingerprint"], how="inner")
        assert kept.height == before[name].height, f"{name}: rows of other samples were computed again"
    night = read_history(world.store, "dark")[-1]
    assert (night.target.added, night.target.removed, night.target.changed, night.source.moved) == (1, 0, 0, 0)
    assert night.changes[0].rule == "resampled" and not night.changes[0].beyond_noise
    assert [row.kind for row in night.contributions] == ["added", "kept"]
    assert read_history(world.store, "bare")[-1].time < night.time, "another target's history is left alone"
    assert not any(key.path[0] == "source" for key in outcome.ran)
    assert not any(key.path[0] == "bare" for key in outcome.ran)


def test_deleted_picture_is_gone_everywhere(world):
    for kind in ("images", "masks"):
        [picture] = (world.root / "dark" / kind).glob("*_99999.*")
        picture.unlink()
    assert not world.run().failed
    for name in PER_SAMPLE:
        assert world.rows("dark", name).filter(pl.col("sample_id").str.ends_with("_99999")).is_empty()
    assert world.rows("dark", "experiments", "exposure").filter(pl.col("sample_id").str.ends_with("_99999")).is_empty()


def test_one_experiments_code_changed_reruns_it_and_what_follows(world):
    module = world.root / "own_experiments.py"
    module.write_text(module.read_text().replace('return (batch * parameters["gain"]).clamp(0, 1)',
                                                 'return (batch * parameters["gain"] * 1.01).clamp(0, 1)'))  # fmt: skip
    outcome = _rerun_in_new_process(world)
    per_target = {"experiments/brighten", "verdicts", "recipe_files", "gap_report"}
    assert set(outcome["ran"]) <= {f"{target}/{name}" for target in ("dark", "bare") for name in per_target}
    assert {"dark/experiments/brighten", "dark/verdicts", "dark/gap_report"} <= set(outcome["ran"])


def test_comment_in_an_experiment_changes_nothing(world):
    module = world.root / "own_experiments.py"
    module.write_text(module.read_text() + "\n# a comment\n")
    assert _rerun_in_new_process(world)["ran"] == []


def test_failing_check_blocks_what_follows_and_repair_heals(world):
    images = sorted((world.root / "dark" / "images").iterdir())
    kept = {path: path.read_bytes() for path in images[:10]}
    for path in kept:
        path.write_bytes(b"not a picture")
    outcome = world.run()
    assert "dark/manifest: quarantine_share" in outcome.failed_checks
    assert "dark/manifest" in names(outcome.ran)
    assert "dark/embeddings" in names(outcome.blocked) and "dark/gap_report" in names(outcome.blocked)
    assert world.rows("dark", "manifest").filter("quarantined")["reason"].str.len_chars().min() > 0
    for path, content in kept.items():
        path.write_bytes(content)
    outcome = world.run()
    assert not outcome.failed and not outcome.blocked and not outcome.failed_checks


def test_lost_table_is_made_anew(world):
    picture = sorted((world.root / "dark" / "images").iterdir())[0]
    content = picture.read_bytes()
    shutil.rmtree(world.store.table("dark", "traits").url)
    picture.write_bytes(_other_picture(content))
    assert not world.run().failed
    assert world.rows("dark", "traits").height == 60
    picture.write_bytes(content)
    assert not world.run().failed


def test_failed_stage_stops_only_what_depends_on_it(world):
    module = world.root / "own_experiments.py"
    good = module.read_text()
    module.write_text(
        good.replace("def apply(self, batch, parameters):", "def apply(self, batch, parameters):\n        1 / 0")
    )
    outcome = _rerun_in_new_process(world)
    assert outcome["failed"] and "dark/verdicts" not in outcome["ran"]
    module.write_text(good)
    assert not _rerun_in_new_process(world)["failed"]


def _brightened(source, destination) -> None:
    from PIL import Image, ImageEnhance

    with Image.open(source) as image:
        ImageEnhance.Brightness(image).enhance(1.1).save(destination)


def _other_picture(content: bytes) -> bytes:
    import io

    from PIL import Image, ImageOps

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        ImageOps.mirror(image).save(buffer, "PNG")
    return buffer.getvalue()


def _rerun_in_new_process(world) -> dict:
    """Changed code is read by a new process, as it would be by the next run."""
    import subprocess
    import sys

    script = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import world; "
        "outcome = world.World(Path(sys.argv[2])).run(); "
        "print(json.dumps({'ran': ['/'.join(key.path) for key in outcome.ran], 'failed': len(outcome.failed)}))"
    )
    here = os.path.dirname(__file__)  # noqa: PTH120
    done = subprocess.run(
        [sys.executable, "-c", script, here, str(world.root)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_graph_has_no_dangling_key(world):
    graph = world.defs().resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description
        assert node.is_observable or (node.code_version and node.owners and node.kinds)
