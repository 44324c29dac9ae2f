"""Frozen slice tests: the file comes back, a slice that grows or costs fails with its rows, all as Dagster checks."""

from __future__ import annotations

import json

import dagster as dg
import polars as pl
import pytest

from assets.diagnosis import checks
from assets.diagnosis.frozen_slices import frozen_text, read_frozen, run_frozen
from assets.diagnosis.slice_tests import slice_test
from resources.config import GapConfig
from resources.errors import ConfigError
from resources.sample_store import SampleStore

ROW = {
    "name": "low brightness and high κ", "where": "brightness <= 0.3", "samples": 12, "units": 4, "share": 0.2,
    "conditions": [{"trait": "brightness", "label": "brightness", "side": "<=", "threshold": 0.3}],
    "mean_loss": 2.0, "difference": 1.0, "p_value": 0.01,
}  # fmt: skip
TEST = slice_test(ROW)


def tables(dark: int = 12, loss: float | None = 2.0, n: int = 60) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Traits and evaluation of n samples, the first of them dark."""
    names = [f"s{i:02d}" for i in range(n)]
    traits = pl.DataFrame({"sample_id": names, "fingerprint": names,
                           "brightness": [0.1 if i < dark else 0.9 for i in range(n)]})  # fmt: skip
    losses = [None if loss is None else loss + i / 1000 if i < dark else 1.0 for i in range(n)]
    return traits, pl.DataFrame({"sample_id": names, "fingerprint": names, "loss": losses},
                                schema_overrides={"loss": pl.Float64})  # fmt: skip


def test_thresholds_are_those_of_the_day_of_the_export():
    assert (TEST["highest_share"], TEST["highest_mean_loss"]) == (0.3, 1.5)
    assert slice_test({**ROW, "share": 0.9})["highest_share"] == 1.0


def test_a_slice_that_costs_too_much_fails_with_its_rows():
    outcome = run_frozen(TEST, *tables())
    assert not outcome.passed
    assert (outcome.samples, outcome.share) == (12, 0.2)
    assert outcome.mean_loss == pytest.approx(2.0055)
    assert outcome.failing["sample_id"].to_list() == [f"s{i:02d}" for i in reversed(range(12))]
    assert outcome.detail == "20.0% of all samples (at most 30.0%), mean loss 2.006 (at most 1.500)"


def test_one_that_costs_less_passes_and_one_that_grows_fails():
    cheap = run_frozen(TEST, *tables(loss=1.2))
    assert cheap.passed and cheap.failing.is_empty()
    grown = run_frozen(TEST, *tables(dark=24, loss=1.2))
    assert not grown.passed and grown.share == 0.4
    assert grown.failing.height == 24, "no single one costs too much: their number is what failed"


def test_without_labels_the_share_is_tested_alone():
    assert run_frozen(TEST, *tables(loss=None)).passed
    grown = run_frozen(TEST, *tables(dark=24, loss=None))
    assert not grown.passed and grown.mean_loss is None and "no loss without labels" in grown.detail


def test_few_samples_say_nothing():
    outcome = run_frozen(TEST, *tables(dark=3, loss=9.0))
    assert outcome.passed and outcome.detail == "says nothing: 3 samples are in the slice, it takes 6"


def test_the_file_comes_back_under_names_that_dagster_takes(tmp_path):
    path = tmp_path / "slice_tests.json"
    path.write_text(frozen_text({"kitti": [TEST, TEST], "ours": []}))
    found = read_frozen(path, "kitti")
    assert list(found) == ["slice_low_brightness_and_high", "slice_low_brightness_and_high_1"]
    assert all(test == TEST for test in found.values())
    assert read_frozen(path, "ours") == {} == read_frozen(path, "new")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"targets": []}', '{"targets": {"kitti": 3}}'])
def test_another_kind_of_file_is_named(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ConfigError, match=r"checks\.slice_tests: .*t\.json: expected what 'domain-gap export"):
        read_frozen(tmp_path / "t.json", "kitti")


def test_a_test_without_a_threshold_is_named(tmp_path):
    bare = {name: value for name, value in TEST.items() if name != "highest_share"}
    (tmp_path / "t.json").write_text(frozen_text({"kitti": [bare]}))
    with pytest.raises(ConfigError, match="a test of kitti has no 'highest_share'; export it anew"):
        read_frozen(tmp_path / "t.json", "kitti")


# --- in Dagster ------------------------------------------------------------------------------------------------------


def config_of(path) -> GapConfig:
    plain = {"reader": "folder", "root": "."}
    return GapConfig.model_validate({
        "classes": ["road", "sky"], "source": {"name": "home", **plain}, "targets": [{"name": "away", **plain}],
        "checks": {"slice_tests": path},
    })  # fmt: skip


def evaluated(tmp_path, test: dict) -> dg.AssetCheckEvaluation:
    """The one check, run as the nightly job runs it: without its asset."""
    store, path = SampleStore(str(tmp_path / "store")), tmp_path / "slice_tests.json"
    for name, frame in zip(("traits", "evaluation"), tables(), strict=True):
        store.table("away", name).upsert(frame)
    path.write_text(frozen_text({"away": [test]}))
    found = checks.build(config_of(path), "away")
    job = dg.define_asset_job("slice_tests", selection=dg.AssetSelection.checks(*found))
    asset = dg.AssetSpec(dg.AssetKey(["away", "traits"]))
    defs = dg.Definitions(assets=[asset], asset_checks=found, jobs=[job], resources={"store": store})
    with dg.instance_for_test() as instance:
        result = defs.resolve_job_def("slice_tests").execute_in_process(instance=instance)
    [evaluation] = result.get_asset_check_evaluations()
    return evaluation


def test_a_failing_slice_warns_with_its_rows_and_blocks_nothing(tmp_path):
    evaluation = evaluated(tmp_path, TEST)
    assert not evaluation.passed and evaluation.severity == dg.AssetCheckSeverity.WARN
    assert evaluation.asset_key == dg.AssetKey(["away", "traits"])
    assert evaluation.metadata["failing"].value == 12
    rows = evaluation.metadata["rows"].records
    assert rows[0].data == {"sample_id": "s11", "loss": 2.011}
    spec = next(iter(checks.build(config_of(tmp_path / "slice_tests.json"), "away")[0].check_specs))
    assert not spec.blocking


def test_a_trait_that_is_gone_fails_the_check_alone(tmp_path):
    conditions = [{**TEST["conditions"][0], "trait": "gone"}]
    evaluation = evaluated(tmp_path, json.loads(json.dumps({**TEST, "conditions": conditions})))
    assert not evaluation.passed and "has no column 'gone'" in evaluation.description


def test_without_a_file_there_are_no_checks(tmp_path):
    assert checks.build(config_of(None), "away") == []
