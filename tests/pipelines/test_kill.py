"""A run that is killed in the middle of its forward pass resumes, and ends where an undisturbed run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")]

SCRIPT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import world; "
    "outcome = world.World(Path(sys.argv[2])).run(); sys.exit(bool(outcome.failed))"
)
TABLES = [(key, name) for key in ("source", "dark") for name in ("manifest", "embeddings", "evaluation", "traits")]


def start(root: Path) -> subprocess.Popen[bytes]:
    here = str(Path(__file__).parent)
    return subprocess.Popen([sys.executable, "-c", SCRIPT, here, str(root)], stderr=subprocess.DEVNULL)


def rows_so_far(world, key: str, name: str) -> int:
    table = world.store.table(key, name)
    return table.scan().select(pl.len()).collect().item() if table.exists else 0


def test_killed_forward_pass_resumes(world, tmp_path):
    weights = world.store.path("models", "current", "weights.safetensors")
    model = {"input_size": [80, 128], "checkpoint": str(weights)}
    undisturbed, killed = world.copy(tmp_path / "undisturbed"), world.copy(tmp_path / "killed")
    for made in (undisturbed, killed):
        made.write_config(model=model, compute={"batch_size": 4})
    assert not undisturbed.run().failed

    process = start(killed.root)
    while not 0 < rows_so_far(killed, "source", "embeddings") < 110:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = set(killed.rows("source", "embeddings")["sample_id"])
    assert 0 < len(before) < 110

    assert not killed.run().failed
    for key, name in TABLES:
        drop = [column for column in ("image", "mask", "fingerprint") if name == "manifest"]
        left, right = (made.rows(key, name).drop(drop) for made in (killed, undisturbed))
        assert_frame_equal(left, right, check_exact=False, abs_tol=1e-4)
    figures = [
        made.store.read_json("reports", "dark", "report.json")["performance_gap"] for made in (killed, undisturbed)
    ]
    assert figures[0]["loss_gap"] == pytest.approx(figures[1]["loss_gap"], abs=1e-5)
