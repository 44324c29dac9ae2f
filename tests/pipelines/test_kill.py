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
import torch
from polars.testing import assert_frame_equal
from safetensors.torch import save_file

from resources.config import ModelConfig
from resources.datasets.streets import STREETS_CLASSES
from resources.model import build_network

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")]

SCRIPT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import world; "
    "outcome = world.World(Path(sys.argv[2])).run(); sys.exit(bool(outcome.failed))"
)
PICTURES = 60
TABLES = [(key, name) for key in ("source", "dark") for name in ("manifest", "embeddings", "evaluation", "traits")]


def start(root: Path) -> subprocess.Popen[bytes]:
    here = str(Path(__file__).parent)
    return subprocess.Popen([sys.executable, "-c", SCRIPT, here, str(root)], stderr=subprocess.DEVNULL)


def rows_so_far(world, key: str, name: str) -> int:
    table = world.store.table(key, name)
    return table.scan().select(pl.len()).collect().item() if table.exists else 0


@pytest.fixture
def pair(worlds, tmp_path):
    """Two worlds of the same pictures and weights, which need no training for that."""
    settings = {**worlds.NETWORK, "input_size": list(worlds.INPUT_SIZE), "checkpoint": str(tmp_path / "w.safetensors")}
    torch.manual_seed(0)
    network = build_network(ModelConfig(**settings | {"checkpoint": None}), len(STREETS_CLASSES), pretrained=True)
    save_file(network.state_dict(), settings["checkpoint"])
    undisturbed = worlds.build_world(tmp_path / "undisturbed", city=PICTURES, dark=30)
    made = undisturbed, undisturbed.copy(tmp_path / "killed")
    for one in made:
        one.write_config(
            model=settings, compute={"batch_size": 2}, targets=[worlds.folder("dark")],
            experiments={"modules": ["own_experiments"], "only": ["brighten"]},
        )  # fmt: skip
    return made


def test_killed_forward_pass_resumes(pair):
    undisturbed, killed = pair
    assert not undisturbed.run().failed

    process = start(killed.root)
    while not 0 < rows_so_far(killed, "source", "embeddings") < PICTURES:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = set(killed.rows("source", "embeddings")["sample_id"])
    assert 0 < len(before) < PICTURES

    assert not killed.run().failed
    for key, name in TABLES:
        drop = [column for column in ("image", "mask", "fingerprint") if name == "manifest"]
        left, right = (made.rows(key, name).drop(drop) for made in (killed, undisturbed))
        assert_frame_equal(left, right, check_exact=False, abs_tol=1e-4)
    figures = [
        made.store.read_json("reports", "dark", "report.json")["performance_gap"] for made in (killed, undisturbed)
    ]
    assert figures[0]["loss_gap"] == pytest.approx(figures[1]["loss_gap"], abs=1e-5)
