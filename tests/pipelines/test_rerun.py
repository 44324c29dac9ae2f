"""What a killed run leaves behind in the instance is cleared; what belongs to a living process stays."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from pipelines.home import open_instance
from pipelines.rerun import release_dead_runs
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
