"""What a night costs in which nothing changed, or one picture: processes as a user starts them, with their peak memory.

The first runs of both sizes are made here, and take minutes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
SIZE = 32
PAIRS, FEWER = 10_000, 1_000
ROUNDS = 3
COLOURS = np.array([[110, 110, 110], [90, 140, 220], [70, 140, 60], [150, 90, 70]], dtype=float)
PEAK = """
import atexit, pathlib
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: print(status.read_text().split("VmHWM:")[1].split()[0]))
"""
"""A program's last line: its peak memory in KiB. What `wait4` gives holds that of the process that started it."""
NETWORK = """
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
                                     nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(32, 4, 1), nn.Upsample(scale_factor=4))

    def forward(self, batch):
        return self.head(self.encoder(batch))


def build():
    torch.manual_seed(0)
    return Tiny()
"""


@dataclass(frozen=True)
class Spent:
    """One process: seconds on the clock and of the processor, peak memory in MiB, what it said."""

    wall: float
    cpu: float
    peak: float
    said: str


def spent(program: str, *arguments: str) -> Spent:
    command, started = [sys.executable, "-W", "ignore", "-c", PEAK + program, *arguments], time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    wall, peak = time.perf_counter() - started, int(said.splitlines()[-1]) / 1024
    return Spent(wall, usage.ru_utime + usage.ru_stime, peak, said)


def domain_gap(*arguments: str) -> Spent:
    return spent("from pipelines.cli import main; main()", *arguments)


def median(rounds: list[Spent]) -> dict[str, float]:
    names = ("wall", "cpu", "peak")
    return {name: round(statistics.median(getattr(one, name) for one in rounds), 2) for name in names}


def draw(folder: Path, stem: str, gain: float, random: np.random.Generator) -> None:
    """One picture of sky, vegetation, road and a house, and its mask."""
    mask = np.full((SIZE, SIZE), 2, np.uint8)
    mask[: 6 + random.integers(8)] = 1
    mask[SIZE - 8 - random.integers(8) :] = 0
    top, left = 8 + random.integers(10), random.integers(SIZE - 8)
    mask[top : top + 8, left : left + 8] = 3
    picture = (COLOURS[mask] + random.normal(0, 14, (SIZE, SIZE, 3)) + random.normal(0, 8)) * gain
    for kind, pixels in (("images", picture.clip(0, 255).astype(np.uint8)), ("masks", mask)):
        Image.fromarray(pixels).save(folder / kind / f"{stem}.png", compress_level=1)


def first_run(root: Path, pairs: int) -> Path:
    """A config over two sets of so many pairs together, whose first run is done."""
    random = np.random.default_rng(0)
    for name, gain in (("city", 1.0), ("dark", 0.55)):
        for kind in ("images", "masks"):
            (root / name / kind).mkdir(parents=True)
        for i in range(pairs // 2):
            draw(root / name, f"drive{i * 40 // (pairs // 2):02}_{i:06}", gain, random)
    (root / "tiny_network.py").write_text(NETWORK)
    sets = [{"name": name, "reader": "folder", "root": name, "group": "^(.*)_[0-9]+$"} for name in ("city", "dark")]
    settings = {
        "store": str(root / "store"), "classes": ["road", "sky", "vegetation", "building"],
        "model": {"factory": "tiny_network:build", "embedding_layer": "encoder", "input_size": [SIZE, SIZE],
                  "training": {"epochs": 1, "batch_size": 64, "learning_rate": 5e-3}},
        "source": {**sets[0], "holdout_share": 0.45}, "targets": sets[1:], "model_parts": {"enabled": False},
        "experiments": {"only": ["exposure"]}, "compute": {"workers": 0, "batch_size": 64},
        "statistics": {"permutations": 99, "bootstrap": 100, "noise_floor_draws": 10},
    }  # fmt: skip
    (root / "gap.yaml").write_text(yaml.safe_dump(settings))
    domain_gap("run", "-c", str(root / "gap.yaml"))
    return root / "gap.yaml"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_run(tmp_path_factory.mktemp("many") / "w", PAIRS)


@pytest.fixture(scope="module")
def fewer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_run(tmp_path_factory.mktemp("fewer") / "w", FEWER)


def unchanged(config: Path) -> list[Spent]:
    rounds = [domain_gap("run", "-c", str(config)) for _ in range(ROUNDS)]
    assert all("0 assets run; rows: none" in one.said for one in rounds)
    return rounds


def test_help_and_importing_the_definitions(benchmark):
    bare = median([spent("pass") for _ in range(ROUNDS)])
    benchmark.extra_info["interpreter"] = bare
    benchmark.extra_info["help"] = median([domain_gap("--help") for _ in range(ROUNDS)])
    load = "import pipelines.definitions"
    benchmark.extra_info["definitions"] = median([spent(load) for _ in range(ROUNDS)])
    benchmark.pedantic(domain_gap, args=("--help",), rounds=1)


def test_second_run_of_ten_thousand(many, benchmark):
    """Nothing changed: interpreter start, imports, folders, staleness; no picture is opened."""
    benchmark.extra_info["second_run"] = median(unchanged(many))
    benchmark.pedantic(unchanged, args=(many,), rounds=1)


def test_memory_of_a_second_run_of_ten_times_the_pictures(fewer, many, benchmark):
    peaks = [median(unchanged(config))["peak"] for config in (many, fewer)]
    benchmark.extra_info["peak_memory_over_a_tenth"] = peaks[0] / peaks[1]
    benchmark.pedantic(unchanged, args=(fewer,), rounds=1)


def test_one_new_picture_in_ten_thousand(many, benchmark):
    """The whole chain of one target, over a second run and one forward."""
    random, turns = np.random.default_rng(1), iter(range(90_000, 99_999))

    def one_more() -> Spent:
        draw(many.parent / "dark", f"drive39_{next(turns):06}", 0.55, random)
        return domain_gap("run", "-c", str(many))

    scope: dict = {}
    exec(NETWORK, scope)  # the text above
    network, picture = scope["build"]().eval(), torch.rand(1, 3, SIZE, SIZE)
    network(picture)
    started = time.process_time()
    network(picture)
    forward = time.process_time() - started
    idle, added = median(unchanged(many)), median([one_more() for _ in range(ROUNDS)])
    benchmark.extra_info["one_picture"] = added
    benchmark.extra_info["over_a_second_run_and_a_forward"] = added["cpu"] / (idle["cpu"] + forward)
    benchmark.pedantic(one_more, rounds=1)
