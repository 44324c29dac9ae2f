"""What the command line shows beside its words: completion, lines of progress, the reports' server, small plots."""

from __future__ import annotations

import http.client
import io
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from assets.small_plots import histogram, intervals
from pipelines.console import _Lines
from pipelines.reports_server import HOST, ReportsHandler


def test_shells_complete_commands_and_targets(tmp_path):
    (tmp_path / "x").mkdir()
    plain = {"reader": "folder", "root": "x"}
    targets = [{"name": name, **plain} for name in ("kitti", "kyoto", "ours")]
    raw = {"classes": ["a", "b"], "source": {"name": "s", **plain}, "targets": targets}
    (tmp_path / "gap.yaml").write_text(yaml.safe_dump(raw))
    code = "import sys; sys.argv = ['domain-gap']; from pipelines.cli import app; app(prog_name='domain-gap')"

    def completed(words: str) -> list[str]:
        environment = {**os.environ, "_DOMAIN_GAP_COMPLETE": "complete_bash", "COMP_WORDS": words,
                       "COMP_CWORD": str(len(words.split(" ")) - 1), "PYTHONPATH": str(Path.cwd())}  # fmt: skip
        for name in ("GAP_CONFIG", "GAP_STORE"):
            environment.pop(name, None)
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        return run.stdout.split()

    assert {"init", "check", "run"} <= set(completed("domain-gap "))
    assert completed("domain-gap run --target k") == ["kitti", "kyoto"]


def test_lines_of_progress_have_rate_and_time_left(monkeypatch):
    now = iter([0.0, 10.0, 40.0, 50.0, 80.0])
    monkeypatch.setattr("pipelines.console.time.monotonic", lambda: next(now))
    out = io.StringIO()
    lines = _Lines(Console(file=out, width=200), "kitti: forward", 100)
    for done in (20, 20, 10, 50):
        lines.advance(done)
    assert out.getvalue() == "kitti: forward: 40 of 100, 1.0/s, 0:01:00 left\n"


@pytest.fixture
def server(tmp_path):
    (tmp_path / "kitti").mkdir()
    (tmp_path / "kitti/report.html").write_text("<h1>gap</h1>")
    with ThreadingHTTPServer((HOST, 0), partial(ReportsHandler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1:{}", 200), ("localhost:{}", 200), ("evil.example:{}", 403)])
def test_reports_are_for_this_machine_alone(server, host, status):
    connection = http.client.HTTPConnection(HOST, server, timeout=10)
    connection.request("GET", "/kitti/report.html", headers={"Host": host.format(server)})
    answer = connection.getresponse()
    assert answer.status == status
    assert (b"gap" in answer.read()) == (status == 200)


def test_small_plots_are_small_and_show_what_there_is():
    drawn = histogram(np.random.default_rng(0).normal(size=500), "loss")
    with Image.open(io.BytesIO(drawn)) as image:
        assert image.size == (480, 200)
    assert len(drawn) < 10_000
    assert histogram([np.nan], "nothing") is None
    assert intervals([], "nothing") is None
    rows = [("exposure", 0.4, (0.2, 0.6), "confirmed"), ("haze", -0.1, (-0.2, 0.0), "refuted")]
    with Image.open(io.BytesIO(intervals(rows, "closed"))) as image:
        colours = {image.convert("RGB").getpixel((x, y)) for x in range(200, 460) for y in (44, 64)}
    assert (217, 130, 43) in colours and (42, 111, 176) in colours
