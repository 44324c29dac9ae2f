"""Runs of every method: what they save, what they don't do twice, what they share of a budget, what they can't do."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from assets.adaptation.material import runs_of
from assets.adaptation.networks import trainable_copy
from assets.adaptation.registry import METHODS, training_code
from assets.adaptation.runs import RECORD, STATE, WEIGHTS
from assets.adaptation.trial import adapted_model, measure_runs
from assets.experiments.operators import NotApplicable
from resources.config import ADAPTATIONS
from resources.fingerprint import code_version
from resources.model import SegmentationModel


def of(world, name, folder, **settings):
    changed = world.config.adaptation.model_copy(update=settings)
    return runs_of(METHODS[name], changed, world.campaign, folder, "1")


def mean_loss(world, runs, record, tmp_path):
    table = world.store.table("away", "adaptation", f"{tmp_path.name}", id_column="row_id")
    measure_runs(runs, [record], world.campaign, table, "1", "test")
    rows = table.read()
    return {role: rows.filter(rows["role"] == role)["loss"].mean() for role in ("target", "source")}


def test_config_and_registry_name_the_same_methods():
    assert tuple(METHODS) == ADAPTATIONS
    for method in METHODS.values():
        assert code_version(*training_code(method))
        assert method.paper and method.description.endswith(".")
    assert len(METHODS["fine_tuning"].variants) == 12


@pytest.mark.parametrize("name", [name for name in ADAPTATIONS if name != "fine_tuning"])
def test_every_method_changes_the_weights_it_should_and_loads(world, name, tmp_path):
    runs = of(world, name, tmp_path, seeds=1, steps=3)
    records, skipped = runs.run("test")
    assert not skipped and len(records) == 1
    place = runs.place(runs.method.variants[0], 0)
    assert (place / WEIGHTS).exists() and not (place / STATE).exists()
    source = world.campaign.model
    adapted = adapted_model(source, place / WEIGHTS, records[0].digest)
    before, after = source.network.state_dict(), adapted.network.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    kinds = {
        "batch_norm": lambda key: "running" in key or "num_batches" in key,
        "class_prior": lambda key: key == "segmentation_head.0.bias",
        "tent": lambda key: ".1." in key,
    }
    assert moved and all(kinds.get(name, lambda key: "running" not in key)(key) for key in moved)
    pictures = torch.rand(1, 3, 32, 48)
    assert not torch.equal(adapted(pictures).logits, source(pictures).logits)
    assert not adapted.network.training


def test_the_oracle_and_fine_tuning_close_a_gap_of_colours(world, tmp_path):
    sides = world.campaign.sides
    before = sides.target.filter("report_half")["loss"].mean()
    gap = before - sides.holdout["loss"].mean()
    assert gap > 0.1
    runs = of(world, "oracle", tmp_path / "oracle", seeds=1, steps=40)
    (record,), _ = runs.run("test")
    losses = mean_loss(world, runs, record, tmp_path)
    assert before - losses["target"] > 0.5 * gap
    assert losses["source"] < sides.holdout["loss"].mean() + 0.25 * gap


def test_finished_runs_are_not_trained_again(world, tmp_path):
    first, _ = of(world, "fda", tmp_path, seeds=1, steps=2).run("test")
    place = tmp_path / "default" / "seed-0"
    written = (place / WEIGHTS).stat().st_mtime_ns
    more, _ = of(world, "fda", tmp_path, seeds=3, steps=2).run("test")
    assert [record.seed for record in more] == [0, 1, 2]
    assert more[0] == first[0]
    assert (place / WEIGHTS).stat().st_mtime_ns == written
    assert len({record.digest for record in more}) == 3
    other, _ = of(world, "fda", tmp_path, seeds=1, steps=3).run("test")
    assert other[0].digest != first[0].digest


def test_the_same_run_gives_the_same_weights(world, tmp_path):
    digests = [of(world, "adversarial", tmp_path / f"{i}", seeds=1, steps=3).run("t")[0][0].digest for i in range(2)]
    assert digests[0] == digests[1]


def test_a_killed_run_of_a_method_ends_alike(world, tmp_path, monkeypatch):
    monkeypatch.setattr("assets.adaptation.training.SAVE_EVERY_S", 0.0)
    monkeypatch.setattr("assets.adaptation.training.SAVE_SHARE", float("inf"))
    whole, _ = of(world, "self_training", tmp_path / "whole", seeds=1, steps=6).run("test")
    from assets.adaptation.retraining import SelfTraining

    step, real = [0], SelfTraining.loss

    def interrupted(self, *arguments):
        step[0] += 1
        if step[0] == 5:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(SelfTraining, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        of(world, "self_training", tmp_path / "killed", seeds=1, steps=6).run("test")
    assert (tmp_path / "killed" / "default" / "seed-0" / STATE).exists()
    monkeypatch.setattr(SelfTraining, "prepare", lambda *_: pytest.fail("it is not prepared again"))
    resumed, _ = of(world, "self_training", tmp_path / "killed", seeds=1, steps=6).run("test")
    assert step[0] < 5 + 6, "it did not begin anew"
    assert resumed[0].digest == whole[0].digest


def test_a_method_keeps_its_budget_and_says_what_was_cut(world, tmp_path):
    """By a clock that every look at it moves on, so that a busy machine changes nothing."""
    looks = itertools.count()

    def timed(minutes):
        runs = of(world, "fda", tmp_path, seeds=3, steps=100_000, minutes=minutes)
        return replace(runs, clock=lambda: 0.5 * next(looks))

    records, _ = timed(1).run("test")
    assert sum(record.seconds for record in records) == pytest.approx(60, rel=0.1)
    assert all(record.cut and 0 < record.steps < record.planned for record in records)
    again, _ = timed(1).run("test")
    assert [record.digest for record in again] == [record.digest for record in records], "nothing is done twice"
    longer, _ = timed(1.5).run("test")
    assert sum(record.seconds for record in longer) == pytest.approx(90, rel=0.1)
    assert all(new.steps > old.steps for new, old in zip(longer, records, strict=True))


def test_a_new_picture_of_the_report_half_costs_itself_alone(world, tmp_path):
    runs = of(world, "batch_norm", tmp_path)
    records, _ = runs.run("test")
    table = world.store.table("away", "adaptation", "incremental", id_column="row_id")
    first = measure_runs(runs, records, world.campaign, table, "1", "test")
    assert first.kept == 0 and len(first.new) == table.read().height > 10
    again = measure_runs(runs, records, world.campaign, table, "1", "test")
    assert again.stale == [] and again.kept == len(first.new)
    table.remove(first.new[:1])
    assert measure_runs(runs, records, world.campaign, table, "1", "test").new == first.new[:1]
    gone = measure_runs(runs, [], world.campaign, table, "1", "test")
    assert len(gone.removed) == len(first.new) and table.read().is_empty()


class TestNotApplicable:
    def test_an_exported_network(self, world):
        model = SegmentationModel(
            SimpleNamespace(kind="an ONNX file"), world.campaign.model.config, 3, "exported", "cpu"
        )
        with pytest.raises(NotApplicable, match="runs as it was exported and can't be trained"):
            trainable_copy(model)

    def test_it_is_recorded_and_no_failure(self, world, tmp_path, monkeypatch):
        from assets.adaptation import runs as module

        def refused(_model):
            raise NotApplicable("an ONNX file runs as it was exported")

        monkeypatch.setattr(module, "trainable_copy", refused)
        records, skipped = of(world, "fine_tuning", tmp_path).run("test")
        assert records == []
        assert [one.variant for one in skipped] == [variant.id for variant in METHODS["fine_tuning"].variants]
        assert {one.reason for one in skipped} == {"an ONNX file runs as it was exported"}


def test_a_record_tells_what_was_used(world, tmp_path):
    of(world, "fine_tuning", tmp_path, seeds=1, steps=1).run("test")
    record = json.loads((tmp_path / "head_025" / "seed-0" / RECORD).read_text())
    labelled = len(world.campaign.samples("target", report=False))
    assert record["pictures"] == {"target fit half, with labels": max(1, round(labelled / 4))}
    shutil.rmtree(tmp_path / "head_025" / "seed-0")
    again, _ = of(world, "fine_tuning", tmp_path, seeds=1, steps=1).run("test")
    assert len(again) == 12
