"""What a killed run leaves behind in the instance is cleared; what belongs to a living process stays.

A check that never ran, because a step beside it failed, runs later.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from pipelines.home import open_instance
from pipelines.rerun import Rerun, release_dead_runs
from resources.sample_store import SampleStore

SCRIPT = """
import os, sys, time
from pathlib import Path
import dagster as dg
from pipelines.home import open_instance
from pipelines.rerun import PID_TAG
from resources.sample_store import SampleStore

store = SampleStore(sys.argv[1])

@dg.asset(pool="gpu")
def slow():
    Path(sys.argv[1], "begun").touch()
    time.sleep(300)

job = dg.Definitions([slow]).resolve_implicit_global_asset_job_def()
job.execute_in_process(instance=open_instance(store), tags={PID_TAG: str(os.getpid())})
"""


@dg.asset(pool="gpu")
def quick() -> None:
    """Needs the place in the pool that `slow` holds."""


@pytest.fixture
def busy(tmp_path):
    """A process in the middle of a step of the pool 'gpu', and the store's instance."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL) as process:
        try:
            while not (tmp_path / "begun").exists():
                assert process.poll() is None, "it ended before its step began"
                time.sleep(0.05)
            with open_instance(SampleStore(str(tmp_path))) as instance:
                yield process, instance
        finally:
            process.kill()


def status(instance: dg.DagsterInstance) -> dg.DagsterRunStatus:
    [run] = instance.get_runs()
    return run.status


def test_place_of_a_killed_run_is_free_again(busy):
    process, instance = busy
    process.kill()
    process.wait()
    assert status(instance) == dg.DagsterRunStatus.STARTED, "nobody has told the instance"
    assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 1

    release_dead_runs(instance)
    assert status(instance) == dg.DagsterRunStatus.FAILURE
    assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0
    job = dg.Definitions([quick]).resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=instance).success


def test_run_of_a_living_process_keeps_its_place(busy):
    _, instance = busy
    release_dead_runs(instance)
    assert status(instance) == dg.DagsterRunStatus.STARTED
    assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 1


def guarded(broken: bool) -> dg.Definitions:
    """Two data sets with a blocking check each, the target's looking at both; the source may be broken."""

    def data(name: str, fails: bool) -> list[object]:
        @dg.asset(key=[name, "manifest"], code_version=str(fails))
        def manifest() -> None:
            if fails:
                raise ValueError("no sample has splits [train]")

        other = [] if name == "source" else [dg.AssetKey(["source", "manifest"])]

        @dg.asset_check(asset=dg.AssetKey([name, "manifest"]), name="parts", blocking=True, additional_deps=other)
        def parts() -> dg.AssetCheckResult:
            return dg.AssetCheckResult(passed=True)

        return [manifest, parts]

    @dg.asset(key=["target", "report"], deps=[["source", "manifest"], ["target", "manifest"]])
    def report() -> None: ...

    found = [*data("source", broken), *data("target", False)]
    return dg.Definitions([*found[::2], report], asset_checks=found[1::2])


def names(keys) -> set[str]:
    return {"/".join(key.path) for key in keys}


def test_a_check_that_a_failure_kept_from_running_runs_later(tmp_path):
    with open_instance(SampleStore(str(tmp_path))) as instance:
        outcome = Rerun(guarded(True), instance).run()
        assert names(outcome.failed) == {"source/manifest"} and names(outcome.blocked) == {"target/report"}
        assert "splits [train]" in next(iter(outcome.failed.values()))
        again = Rerun(guarded(False), instance).run()
        assert not again.failed and not again.blocked and "target/report" in names(again.ran)
        assert not Rerun(guarded(False), instance).run().ran


def test_status_tells_of_a_check_that_has_not_run(tmp_path):
    defs = guarded(True)
    with open_instance(SampleStore(str(tmp_path))) as instance:
        defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance, raise_on_error=False)
        status = Rerun(defs, instance).statuses()[dg.AssetKey(["target", "manifest"])]
    assert status.state == "stale" and "its check parts has not run" in status.reasons


def test_a_check_that_never_runs_stops_what_depends_on_it(tmp_path):
    @dg.asset(key=["source", "manifest"])
    def manifest() -> None: ...

    @dg.asset_check(asset=dg.AssetKey(["source", "manifest"]), name="parts", blocking=True)
    def parts() -> dg.AssetCheckResult:
        raise RuntimeError("the check is broken")

    @dg.asset(key=["source", "model"], deps=[["source", "manifest"]])
    def model() -> None: ...

    with open_instance(SampleStore(str(tmp_path))) as instance:
        outcome = Rerun(dg.Definitions([manifest, model], asset_checks=[parts]), instance).run()
    assert "could not be run" in outcome.failed[dg.AssetKey(["source", "manifest"])]
    assert names(outcome.blocked) == {"source/model"}
