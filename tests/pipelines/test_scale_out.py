"""Past one machine, on loopback: a whole run on an S3 store, with PostgreSQL behind Dagster, on Dask's executor."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import dagster as dg
import psycopg2
import pytest
import yaml
from object_store import BUCKET, SECRET, object_store, options_of

from pipelines.definitions import build_defs
from pipelines.home import dagster_home, open_instance
from pipelines.rerun import HOST_TAG, PID_TAG, Rerun, release_dead_runs
from resources.config import load_config
from resources.sample_store import open_store

pytestmark = pytest.mark.slow
PAGE = Path(__file__).resolve().parents[2] / "docs" / "scale-out.md"
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
TRAINING = {"epochs": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def tiny(worlds, tmp_path_factory):
    """A world of one target and one experiment whose first run, on a local store, is done."""
    world = worlds.build_world(tmp_path_factory.mktemp("tiny") / "w", city=24, dark=12)
    settings = {"targets": [worlds.folder("dark")], "experiments": {"only": ["exposure"]}}
    settings["model"] = {**worlds.NETWORK, "input_size": list(worlds.INPUT_SIZE), "training": TRAINING}
    world.write_config(**settings)
    assert not world.run().failed
    return world


def changed(world, name: str, **keys: object) -> Path:
    """The world's config under another name, with some keys changed."""
    path = world.root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(world.config_path.read_text()) | keys))
    return path


def test_a_run_on_an_object_store_ends_in_the_same_report(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("STORE_SECRET", SECRET)
    with object_store() as address:
        keys = {"store": f"s3://{BUCKET}/gap", "storage_options": options_of(address), "home": str(tmp_path / "home")}
        config = load_config(changed(tiny, "remote", **keys))
        store, instance = open_store(config), dg.DagsterInstance.ephemeral()
        first = Rerun(build_defs(config), instance).run()
        assert not first.failed
        assert store.read("reports", "dark", "report.json") == tiny.store.read("reports", "dark", "report.json")
        for name in ("report.html", "recipe.py", "next_samples.csv", "label_errors.csv", "slice_tests.json"):
            assert store.exists("reports", "dark", name), name
        second = Rerun(build_defs(config), instance).run()
        assert (second.ran, second.rows) == ([], {})

        # another machine, with no run in its instance: the source's stages are run again and find their rows there
        elsewhere = build_defs(config.model_copy(update={"home": tmp_path / "other"}))
        again = Rerun(elsewhere, dg.DagsterInstance.ephemeral(), targets=[]).run()
        assert again.ran and not again.failed and not any(again.rows.values())

        told = [
            str(record.event_log_entry)
            for record in instance.get_event_records(dg.EventRecordsFilter(dg.DagsterEventType.ASSET_MATERIALIZATION))
        ]
        assert told and not any(SECRET in text for text in told)
        kept = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
        assert kept and not any(SECRET.encode() in path.read_bytes() for path in kept)


class Cluster:
    """A PostgreSQL server of this test's own on a port of the loopback."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gap-postgres-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.started = False
        self.user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # it refuses to run as root
        (self.folder / "password").write_text("dagsters-word")
        if self.user:
            for path in (self.folder, self.folder / "password"):
                shutil.chown(path, "postgres")

    def start(self) -> None:
        self.call("initdb", "-D", "data", "-U", "dagster", "-A", "scram-sha-256", "--pwfile", "password", "--no-sync")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self.call("pg_ctl", "-D", "data", "-o", options, "-l", "log", "-w", "start")
        self.started = True
        connection = self.connect("postgres")
        connection.autocommit = True
        connection.cursor().execute("create database dagster")
        connection.close()

    def call(self, program: str, *arguments: str) -> None:
        command = [*self.user, str(POSTGRES / program), *arguments]
        subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, timeout=120)

    def connect(self, database: str = "dagster"):
        where = {"host": "127.0.0.1", "port": self.port, "user": "dagster", "password": "dagsters-word"}
        return psycopg2.connect(dbname=database, **where)

    def counted(self, table: str) -> int:
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"select count(*) from {table}")
            return cursor.fetchone()[0]

    def stop(self) -> None:
        if self.started:
            self.call("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.folder)


@pytest.fixture
def cluster():
    if POSTGRES is None or (os.getuid() == 0 and shutil.which("runuser") is None):
        pytest.skip("no PostgreSQL here that this user may start")
    made = Cluster()
    try:
        made.start()
        yield made
    finally:
        made.stop()


def uncommented(text: str) -> str:
    """dagster.yaml with its PostgreSQL block in use."""
    before, after = re.split(r"^(?=# storage:)", text, flags=re.MULTILINE)
    return before + re.sub(r"^# ", "", after, flags=re.MULTILINE)


def test_postgresql_holds_runs_and_events(tiny, tmp_path, monkeypatch, cluster):
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "dagsters-word")
    config = load_config(changed(tiny, "served", home=str(tmp_path / "home")))
    settings = dagster_home(open_store(config)) / "dagster.yaml"
    settings.write_text(uncommented(settings.read_text()).replace("5432", str(cluster.port)))
    with open_instance(open_store(config)) as instance:
        loop = Rerun(build_defs(config), instance, targets=[])
        outcome = loop.run()
        assert not outcome.failed and not any(outcome.rows.values()), "the store had every row"
        assert {status.state for status in loop.statuses().values()} == {"fresh"}
        assert cluster.counted("runs") == instance.get_runs_count() > 1
        assert cluster.counted("event_logs") > len(outcome.ran)
        assert cluster.counted("asset_keys") >= len(loop.keys)
    assert not list((tmp_path / "home").rglob("*.db")), "nothing is left to SQLite"
    with open_instance(open_store(config)) as instance:
        assert Rerun(build_defs(config), instance, targets=[]).run().ran == []


def test_runs_of_other_machines_that_share_an_instance_are_left_alone():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with dg.DagsterInstance.ephemeral() as instance:
        for host in (socket.gethostname(), "another-machine"):
            tags = {PID_TAG: str(gone.pid), HOST_TAG: host}
            instance.create_run_for_job(
                dg.GraphDefinition("job").to_job(), status=dg.DagsterRunStatus.STARTED, tags=tags
            )
        release_dead_runs(instance)
        states = {run.tags[HOST_TAG]: run.status for run in instance.get_runs()}
    assert states.pop("another-machine") == dg.DagsterRunStatus.STARTED
    assert list(states.values()) == [dg.DagsterRunStatus.FAILURE]


def snippet(language: str, first: str) -> str:
    """A block of docs/scale-out.md by its first line."""
    found = re.findall(rf"^```{language}\n({re.escape(first)}\n.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(found) == 1
    return found[0]


def test_steps_run_on_dask_as_shown(tiny, tmp_path):
    """The chain of one target, in worker processes of a local cluster; rows are in the store from the local run."""
    for name in ("gap.yaml", "own_experiments.py"):
        shutil.copy(tiny.root / name, tmp_path)
    for name in ("city", "dark"):
        (tmp_path / name).symlink_to(tiny.root / name)
    (tmp_path / "gap_on_dask.py").write_text(snippet("python", "# gap_on_dask.py"))
    shutil.copy(PAGE.with_suffix("") / "dask.yaml", tmp_path)
    home = tmp_path / "dagster"
    home.mkdir()
    root = str(PAGE.parents[1])
    environment = {**os.environ, "DAGSTER_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tmp_path}:{root}"}
    command = ["dagster", "job", "execute", "-m", "gap_on_dask", "-j", "gap_check_dark", "-c", "dask.yaml"]
    assert " ".join(command).replace("dark", "kitti") in PAGE.read_text()
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = next(iter(instance.get_runs()))
        assert run.status == dg.DagsterRunStatus.SUCCESS
        events = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS)
        assert {"dark__forward", "dark__gap_report"} <= {event.step_key for event in events}
