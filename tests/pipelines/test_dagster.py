"""How the project sits in Dagster: jobs, schedule, automation, staleness, the instance in the store."""

from __future__ import annotations

import dagster as dg
import pytest

from pipelines.automation import RERUN_CHANGED
from pipelines.home import dagster_home
from pipelines.jobs import NIGHTLY
from pipelines.staleness import resolve
from resources.sample_store import SampleStore


@pytest.fixture
def letters():
    """Two assets of our condition: b reads a, whose code and data version are given."""

    def build(code: str, data: str) -> dg.Definitions:
        @dg.asset(code_version=code, automation_condition=RERUN_CHANGED)
        def a() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(data))

        @dg.asset(deps=[a], code_version="1", automation_condition=RERUN_CHANGED)
        def b() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(f"b of {data}"))

        return dg.Definitions([a, b])

    return build


def requested(defs: dg.Definitions, instance: dg.DagsterInstance, cursor=None):
    result = dg.evaluate_automation_conditions(defs, instance=instance, cursor=cursor)
    keys = {key for key in (dg.AssetKey("a"), dg.AssetKey("b")) if result.get_num_requested(key)}
    return {key.path[0] for key in keys}, result.cursor


def materialise(defs: dg.Definitions, instance: dg.DagsterInstance, *names: str) -> None:
    job = defs.resolve_implicit_global_asset_job_def()
    job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey(name) for name in names])


def test_automation_starts_at_the_root_and_follows(letters):
    instance, defs = dg.DagsterInstance.ephemeral(), letters("1", "x")
    _, cursor = requested(defs, instance)  # the first evaluation only sets the baseline
    asked, cursor = requested(defs, instance, cursor)
    assert asked == {"a", "b"}, "a child may go with its parent in one run"
    materialise(defs, instance, "a", "b")
    asked, _ = requested(defs, instance, cursor)
    assert asked == set()


def test_automation_reruns_changed_code_and_stops_where_the_data_are_the_same(letters):
    instance, defs = dg.DagsterInstance.ephemeral(), letters("1", "x")
    _, cursor = requested(defs, instance)
    materialise(defs, instance, "a", "b")
    _, cursor = requested(defs, instance, cursor)
    recoded = letters("2", "x")
    asked, cursor = requested(recoded, instance, cursor)
    assert "a" in asked
    materialise(recoded, instance, "a")
    asked, cursor = requested(recoded, instance, cursor)
    assert asked == set(), "the parent reran and came out the same: nothing below may rerun"


def test_automation_reruns_a_child_of_changed_data(letters):
    instance, defs = dg.DagsterInstance.ephemeral(), letters("1", "x")
    _, cursor = requested(defs, instance)
    materialise(defs, instance, "a", "b")
    _, cursor = requested(defs, instance, cursor)
    changed = letters("2", "y")
    _, cursor = requested(changed, instance, cursor)
    materialise(changed, instance, "a")
    asked, _ = requested(changed, instance, cursor)
    assert "b" in asked


def test_staleness_names_its_reason(letters):
    instance, defs = dg.DagsterInstance.ephemeral(), letters("1", "x")
    keys = [dg.AssetKey("a"), dg.AssetKey("b")]
    assert {status.state for status in resolve(instance, defs.resolve_asset_graph(), keys).values()} == {"missing"}
    materialise(defs, instance, "a", "b")
    assert {status.state for status in resolve(instance, defs.resolve_asset_graph(), keys).values()} == {"fresh"}
    recoded = resolve(instance, letters("2", "x").resolve_asset_graph(), keys)
    assert recoded[keys[0]].state == "stale" and recoded[keys[0]].reasons == ("has a new code version",)
    assert recoded[keys[1]].state == "fresh", "staleness reaches one hop"


def test_home_of_a_store_is_quiet_and_limited(tmp_path):
    home = dagster_home(SampleStore(str(tmp_path)))
    text = (home / "dagster.yaml").read_text()
    (home / "dagster.yaml").write_text(text + "\n# mine\n")
    assert dagster_home(SampleStore(str(tmp_path))) == home
    assert (home / "dagster.yaml").read_text().endswith("# mine\n"), "the user's edits stay"
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert not instance.telemetry_enabled
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1


def test_jobs_and_schedule_of_the_demo():
    from pipelines.definitions import build_defs
    from resources.config import DEMO_CONFIG, load_config

    config = load_config(DEMO_CONFIG)
    repository = build_defs(config).get_repository_def()
    jobs = {job.name for job in repository.get_all_jobs()}
    names = [target.name for target in config.targets]
    assert {"gap_check", NIGHTLY, *(f"{job}_{name}" for job in ("gap_check", "experiments") for name in names)} <= jobs
    [schedule] = repository.schedule_defs
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    assert {sensor.default_status for sensor in repository.sensor_defs} == {dg.DefaultSensorStatus.STOPPED}
    groups = {spec.group_name for spec in build_defs(config).resolve_all_asset_specs()}
    assert groups == {"source", *names, *(f"{name}_{part}" for name in names for part in ("experiments", "report"))}
    of_job = repository.get_job(f"experiments_{names[0]}").asset_layer.executable_asset_keys
    assert {key.path[1] for key in of_job} == {"experiments", "verdicts", "recipe_files", "gap_report"}
    assert {key.path[0] for key in of_job} == {names[0]}
    whole = repository.get_job(f"gap_check_{names[0]}").asset_layer.executable_asset_keys
    assert {key.path[0] for key in whole} == {"source", names[0]}
