"""No one let in: code that a config names can be switched off, secrets stay where they were put, nothing is sent."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
import yaml
from corpus import PICTURE, encoded

from pipelines import cli
from pipelines.definitions import allow_user_modules, build_defs, load_definitions
from pipelines.home import open_instance
from resources.config import find_config, load_config
from resources.datasets.base import read_image
from resources.datasets.layout import find_files
from resources.errors import ConfigError, DatasetError, UnreadableSample
from resources.notifications import Notifier
from resources.sample_store import SampleStore

ROOT = Path(__file__).parents[2]
TOKEN = "T0PS3CRET"
ADDRESS = f"json://user:{TOKEN}@127.0.0.1:9/{TOKEN}"


@pytest.fixture
def write(tmp_path):
    """Write a gap.yaml over two empty folders; a text is added as it is."""
    for name in ("day", "dusk"):
        (tmp_path / name / "images").mkdir(parents=True)

    def write(extra: str = "", **keys) -> Path:
        raw = {
            "store": str(tmp_path / "store"),
            "classes": ["road", "sky"],
            "source": {"name": "day", "reader": "folder", "root": "day"},
            "targets": [{"name": "dusk", "reader": "folder", "root": "dusk"}],
        }
        path = tmp_path / "gap.yaml"
        path.write_text(yaml.safe_dump({**raw, **keys}) + extra)
        return path

    return write


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """The command line in this process: exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GAP_USER_CODE", "1")

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["domain-gap", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return command


class TestUserCode:
    @pytest.fixture(params=["model.factory", "traits.modules", "experiments.modules", "onnx", "pt2", "torchscript"])
    def naming_code(self, request, write, tmp_path):
        """A config that names code in one place; the module would leave a file if it ran."""
        (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'was_here')!r}, 'w')\n")
        if request.param == "model.factory":
            return "model.factory", write(model={"factory": "mine:build", "embedding_layer": "layer"})
        if request.param.endswith("modules"):
            return request.param, write(**{request.param.split(".")[0]: {"modules": ["mine"]}})
        (tmp_path / f"net.{request.param}").touch()
        return "model.checkpoint", write(model={"checkpoint": f"net.{request.param}"})

    def test_it_is_allowed_by_default(self, naming_code, monkeypatch):
        monkeypatch.delenv("GAP_USER_CODE", raising=False)
        load_config(naming_code[1])

    @pytest.mark.parametrize("value", ["0", "false", "no", "", "perhaps"])
    def test_switched_off_it_is_refused_by_its_key(self, naming_code, monkeypatch, value):
        key, path = naming_code
        monkeypatch.setenv("GAP_USER_CODE", value)
        with pytest.raises(ConfigError, match=rf"gap\.yaml: {key}: names code .* user code is off"):
            load_config(path)

    def test_weights_alone_are_no_code(self, write, tmp_path, monkeypatch):
        monkeypatch.setenv("GAP_USER_CODE", "0")
        (tmp_path / "weights.safetensors").touch()
        load_config(write(model={"checkpoint": "weights.safetensors"}))

    def test_modules_beside_the_config_are_not_found(self, write, monkeypatch):
        path = write()
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setenv("GAP_USER_CODE", "0")
        allow_user_modules(path)
        assert str(path.parent) not in sys.path
        monkeypatch.setenv("GAP_USER_CODE", "1")
        allow_user_modules(path)
        assert str(path.parent) in sys.path

    @pytest.mark.parametrize("name", ["run", "check", "status", "report", "ui"])
    def test_the_command_line_refuses_with_one_line_and_runs_nothing(self, name, write, command, tmp_path):
        (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'was_here')!r}, 'w')\n")
        write(traits={"modules": ["mine"]})
        code, _, error = command(name, "--no-user-code")
        assert code == 2
        assert error.count("\n") == 1
        assert "traits.modules: names code (mine), and user code is off" in error
        assert not (tmp_path / "was_here").exists()

    def test_dagster_s_own_tools_refuse_it_too(self, write, tmp_path, monkeypatch):
        (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'was_here')!r}, 'w')\n")
        monkeypatch.setenv("GAP_CONFIG", str(write(experiments={"modules": ["mine"]})))
        monkeypatch.setenv("GAP_USER_CODE", "0")
        with pytest.raises(ConfigError, match=r"experiments\.modules: names code"):
            load_definitions(find_config())
        assert not (tmp_path / "was_here").exists()


class TestTheWebServer:
    def test_it_listens_on_this_machine_alone_and_tells_nobody(self, write, command, monkeypatch):
        started = {}

        def note(program, arguments, environment):
            started.update(arguments=arguments, environment=environment)

        monkeypatch.setattr(os, "execve", note)
        for name in ("GX_ANALYTICS_ENABLED", "DAGSTER_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
            monkeypatch.delenv(name, raising=False)
        assert command("ui", "-c", str(write()), "--no-user-code")[0] == 0
        arguments, environment = started["arguments"], started["environment"]
        assert arguments[arguments.index("-h") + 1] == "127.0.0.1"
        assert environment["GAP_USER_CODE"] == "0"
        assert environment["DAGSTER_DISABLE_TELEMETRY"] == "yes"
        assert environment["GX_ANALYTICS_ENABLED"] == "false"
        assert environment["PYTHONSAFEPATH"] == "1"


MALFORMED = {
    "a text in place of a list": f"alerts: {{notify: '{ADDRESS}'}}\n",
    "an address in place of the section": f"alerts: '{ADDRESS}'\n",
    "an address as a key": f"alerts:\n  ? '{ADDRESS}'\n  : x\n",
    "lists in a list": f"alerts: {{notify: [['{ADDRESS}']]}}\n",
    "a mapping in the list": f"alerts: {{notify: [{{'{ADDRESS}': x}}]}}\n",
    "a bare token": f"alerts: {{notify: {TOKEN}}}\n",
    "a token as a threshold": f"alerts: {{loss_gap: {TOKEN}}}\n",
    "a misspelt key": f"alerts: {{notfy: ['{ADDRESS}']}}\n",
    "a misspelt section": f"alert: {{notify: ['{ADDRESS}']}}\n",
    "an address under another key": f"schedule: '{ADDRESS}'\n",
    "an address as a number elsewhere": f"statistics: {{seed: '{ADDRESS}'}}\n",
    "a bracket that stays open": f"alerts: {{notify: ['{ADDRESS}'\n",
    "a wrong escape": f'alerts: {{notify: ["{ADDRESS}\\q"]}}\n',
    "an unknown alias after it": f"alerts: {{notify: ['{ADDRESS}', *x]}}\n",
    "a tab after it": f"alerts:\n\tnotify: ['{ADDRESS}']\n",
    "a tag before it": f"alerts: {{notify: [!secret '{ADDRESS}']}}\n",
    "the key twice": f"alerts: {{notify: ['{ADDRESS}'], notify: ['{ADDRESS}']}}\n",
}


class TestSecrets:
    @pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
    def test_an_error_of_the_config_does_not_quote_it(self, text, write):
        with pytest.raises(ConfigError) as caught:
            load_config(write(text))
        assert TOKEN not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__, "a traceback would show the parser's own text"

    def test_the_config_s_own_texts_hide_it(self, write):
        config = load_config(write(alerts={"notify": [ADDRESS]}))
        for text in (repr(config), str(config.alerts), config.model_dump_json(), repr(config.model_dump())):
            assert TOKEN not in text
        assert [url.get_secret_value() for url in config.alerts.notify] == [ADDRESS]
        assert TOKEN not in repr(Notifier((ADDRESS,)))

    def test_a_service_that_is_not_there_leaves_nothing_in_any_log(self, caplog, capfd):
        with caplog.at_level(logging.DEBUG):
            assert not Notifier((ADDRESS, f"slack://{TOKEN}/x", f"nosuch://{TOKEN}")).send("Gap", "text")
        said = capfd.readouterr()
        assert "alert not sent" in caplog.text
        assert TOKEN not in caplog.text + said.out + said.err

    def test_the_command_line_leaves_it_nowhere(self, write, command, tmp_path):
        """With folders in which there is nothing to find: errors, then the whole store."""
        write(alerts={"notify": [ADDRESS], "loss_gap": 0.1})
        for name in ("status", "check", "report"):
            _, output, error = command(name)
            assert TOKEN not in output + error
        left = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
        assert left, "the instance was opened"
        assert [path for path in left if TOKEN.encode() in path.read_bytes()] == []

    def test_the_run_failure_sensor_and_its_events_do_not_hold_it(self, write, tmp_path, caplog):
        config = load_config(write(alerts={"notify": [ADDRESS]}))
        with open_instance(SampleStore(str(tmp_path / "store"))) as instance:
            defs = build_defs(config)
            job = defs.resolve_implicit_global_asset_job_def()
            failed = job.execute_in_process(
                instance=instance, asset_selection=[dg.AssetKey(["dusk", "manifest"])], raise_on_error=False
            )
            assert not failed.success
            sensor = next(s for s in defs.sensors if s.name == "tell_run_failure")
            context = dg.build_run_status_sensor_context(
                sensor_name=sensor.name,
                dagster_instance=instance,
                dagster_run=failed.dagster_run,
                dagster_event=failed.get_run_failure_event(),
            ).for_run_failure()
            with caplog.at_level(logging.DEBUG):
                sensor(context)
            events = [str(entry) for entry in instance.all_logs(failed.run_id)]
        assert "alert not sent" in caplog.text
        assert TOKEN not in caplog.text + "".join(events)
        files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
        assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


def test_an_error_moves_no_cursor(write, command, tmp_path):
    write()
    for folder in ("day", "dusk"):
        for suffix in ("png", "jpg"):
            (tmp_path / folder / "images" / f"a\x1b[2J\n.{suffix}").touch()
    escaped = "two files of one stem: a\\x1b[2J\\n.jpg"
    code, _, error = command("run", "--dry-run")
    assert code == 2
    assert error.count("\n") == 1
    assert "\x1b" not in error
    assert escaped in error
    code, output, error = command("check")
    assert code == 2
    assert "\x1b" not in output + error
    assert output.count(escaped) == 2, "a finding of each set"


@contextmanager
def as_somebody_else():
    """Without root's right to read everything; as before where this is not root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_files_and_folders_without_permission(tmp_path):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for stem in ("open", "locked"):
            (folder / f"{stem}.png").write_bytes(encoded(PICTURE, "PNG"))
        (folder / "within").mkdir(mode=0)
        (folder / "locked.png").chmod(0)
        assert read_image(folder / "open.png").shape == PICTURE.shape
        with as_somebody_else():
            with pytest.raises(UnreadableSample, match=r"locked\.png: no permission to read it"):
                read_image(folder / "locked.png")
            with pytest.raises(DatasetError, match="within: can't be listed: Permission denied"):
                find_files(folder, ".png")


@pytest.mark.slow
def test_nothing_is_sent_by_checks_and_runs(tmp_path):
    """Great Expectations' checks and a run of Dagster's, in a process that would report every connection."""
    code = f"""
import sys
tried = []
sys.addaudithook(lambda event, details: tried.append((event, str(details)))
                 if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto") else None)
import polars as pl
from assets.ingestion.manifest import MANIFEST_SCHEMA
from assets.ingestion.quality import check_manifest
check_manifest(pl.DataFrame(schema=MANIFEST_SCHEMA), is_source=False, max_quarantined=0.1, other_hashes=[])
import dagster as dg
from pipelines.home import open_instance
from resources.sample_store import SampleStore
@dg.asset
def one():
    return None
with open_instance(SampleStore({str(tmp_path)!r})) as instance:
    assert dg.materialize([one], instance=instance).success
import time, json, socket
time.sleep(1)  # threads that report do it later
seen = [entry for entry in tried if "AF_UNIX" not in entry[1]]
try:
    socket.create_connection(("127.0.0.1", 9))
except OSError:
    assert len(tried) > len(seen), "the hook sees connections"
print(json.dumps(seen))
"""
    without = {name: value for name, value in os.environ.items() if not name.startswith(("GX_", "DAGSTER_", "DO_NOT"))}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=without, capture_output=True, text=True, timeout=180, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == []
