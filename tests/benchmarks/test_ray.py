"""What the engine 'ray' costs over 'local' on a set that is far too small for it: paired runs, a cluster that is up."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from assets.inference.forward import Forward
from resources.config import GapConfig
from resources.engine import Engine, LocalEngine, open_engine
from resources.model import SegmentationModel, build_network
from resources.pictures import SamplePaths

SIZE = (160, 256)
ROUNDS = 3


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> GapConfig:
    folder, random = tmp_path_factory.mktemp("bench"), np.random.default_rng(0)
    for i in range(48):
        Image.fromarray(random.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(folder / f"{i:03}.png")
    data = {"reader": "folder", "root": folder}
    return GapConfig.model_validate(
        {"store": str(folder / "store"), "classes": [f"class {i}" for i in range(9)], "model": {"input_size": SIZE},
         "source": {"name": "bench", **data}, "targets": [{"name": "other", **data}],
         "compute": {"engine": "ray", "device": "cpu"}}
    )  # fmt: skip


@pytest.mark.parametrize("pictures", [8, 48])
def test_ray_over_local(config, benchmark, pictures):
    """A pass for embeddings and evaluation by either engine, without commits."""
    torch.manual_seed(0)
    model = SegmentationModel(build_network(config.model, 9), config.model, 9, "bench", "cpu")
    root = config.source.root or Path()
    samples = [SamplePaths(f"{i:03}", root / f"{i:03}.png", None) for i in range(pictures)]
    notes = {one.sample_id: {"embeddings": "1", "evaluation": "1"} for one in samples}

    def seconds(engine: Engine) -> float:
        started = time.perf_counter()
        for _ in engine.map_batches("source", samples, Forward(model), notes):
            pass
        return time.perf_counter() - started

    engine, local = open_engine(config), LocalEngine(config)
    engine.connect()
    seconds(local)
    pairs = [(seconds(engine), seconds(local)) for _ in range(ROUNDS)]
    engine.close()
    benchmark.extra_info["ray_over_local"] = statistics.median(ray / here for ray, here in pairs)
    benchmark.pedantic(seconds, args=(local,), rounds=1)
