"""What passes cost over the bare model, and a run when nothing changed: ratios of paired runs, no seconds."""

from __future__ import annotations

import os
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp

from assets.inference.forward import PassTables, run_pass
from assets.scoring.latent_gap import latent_gap
from assets.statistics.neighbourhoods import kth_distances
from assets.statistics.shifts import shift_table
from assets.traits.measure import measure_pictures
from resources.config import CAMVID11, DatasetConfig, GapConfig
from resources.datasets.folder import FolderReader
from resources.engine import LocalEngine
from resources.model import SegmentationModel, build_network
from resources.sample_store import SampleStore

SIZE = (160, 256)
PICTURES = 48
ROUNDS = 5


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    folder = tmp_path_factory.mktemp("bench")
    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for i in range(PICTURES):
        Image.fromarray(random.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(folder / "images" / f"{i:03}.png")
        Image.fromarray(random.integers(0, 9, SIZE, dtype=np.uint8)).save(folder / "masks" / f"{i:03}.png")
    data = {"reader": "folder", "root": folder, "group_blocks": 8}
    config = GapConfig.model_validate(
        {"store": str(folder / "store"), "classes": [f"class {i}" for i in range(9)], "model": {"input_size": SIZE},
         "source": {"name": "bench", **data}, "targets": [{"name": "other", **data}]}
    )  # fmt: skip
    return LocalEngine(config)


@pytest.fixture(scope="module")
def model(engine: LocalEngine) -> SegmentationModel:
    torch.manual_seed(0)
    return SegmentationModel(build_network(engine.config.model, 9), engine.config.model, 9, "bench", "cpu")


def manifest(engine: LocalEngine) -> pl.DataFrame:
    root = engine.config.source.root or Path()
    names = [f"{i:03}" for i in range(PICTURES)]
    return pl.DataFrame(
        {"sample_id": names, "image": [str(root / "images" / f"{n}.png") for n in names],
         "mask": [str(root / "masks" / f"{n}.png") for n in names], "image_hash": names, "mask_hash": names,
         "labels_version": "1", "quarantined": False, "part": "target"}
    )  # fmt: skip


def paired(first, second) -> float:
    """Median over rounds of the ratio of two calls' durations, run in turn."""
    ratios = []
    for _ in range(ROUNDS):
        durations = []
        for call in (first, second):
            started = time.perf_counter()
            call()
            durations.append(time.perf_counter() - started)
        ratios.append(durations[0] / durations[1])
    return statistics.median(ratios)


def test_pass_over_bare_forward(engine, model, tmp_path, benchmark):
    """Embeddings and evaluation with decoding and writing, over the model's forward on the same batches in memory."""
    rows, turns = manifest(engine), iter(range(10_000))
    batches = [torch.rand(8, 3, *SIZE) for _ in range(PICTURES // 8)]

    def whole() -> None:
        store = SampleStore(str(tmp_path / str(next(turns))))
        tables = PassTables(store.table("source", "embeddings"), store.table("source", "evaluation"))
        run_pass(model, rows, partial(engine.map_batches, "source"), tables, code="1", what="bench")

    def bare() -> None:
        for batch in batches:
            model(batch)

    bare()
    benchmark.extra_info["whole_pass_over_bare_forward"] = paired(whole, bare)
    benchmark.pedantic(whole, rounds=1)


def test_traits_over_bare_forward(model, benchmark):
    """All picture traits of a batch, over its forward."""
    batch = torch.rand(8, 3, *SIZE)
    measure_pictures(batch)
    benchmark.extra_info["traits_over_bare_forward"] = paired(lambda: measure_pictures(batch), lambda: model(batch))
    benchmark.pedantic(measure_pictures, args=(batch,), rounds=3)


def test_diff_of_ten_thousand_rows(tmp_path, benchmark):
    """What a second run asks of each table."""
    names = [f"sample_{i:05}" for i in range(10_000)]
    rows = pl.DataFrame({"sample_id": names, "fingerprint": names})
    table = SampleStore(str(tmp_path)).table("source", "manifest")
    table.upsert(rows)
    change = benchmark(table.diff, rows)
    assert change.kept == 10_000


def test_scan_of_ten_thousand_pairs_over_listing_them(tmp_path, benchmark):
    """Finding and pairing pictures and masks, over a bare listing of both folders."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for i in range(10_000):
            (tmp_path / folder / f"{i:05d}.png").touch()
    reader = FolderReader(DatasetConfig(name="many", reader="folder", root=tmp_path), CAMVID11)

    def listing() -> None:
        for folder in ("images", "masks"):
            sorted(entry.name for entry in os.scandir(tmp_path / folder) if entry.is_file())

    benchmark.extra_info["scan_over_listing"] = paired(reader.scan, listing)
    benchmark.pedantic(reader.scan, rounds=1)


def test_shift_table_over_its_kolmogorov_smirnov_statistics(benchmark):
    """Sixty traits with 500 permutations of units, over as many of scipy's bare statistics (300 are timed)."""
    random = np.random.default_rng(0)
    source, target = random.standard_normal((2, 300, 60))
    units = [f"unit {i // 10}" for i in range(300)]

    def table() -> None:
        shift_table(source, target, units, units, 500, random)

    def bare() -> None:
        for column in range(6):
            for _ in range(50):
                ks_2samp(source[:, column], target[:, column], method="asymp")

    benchmark.extra_info["table_over_as_many_bare_statistics"] = paired(table, bare) * 300 / 30_000
    benchmark.pedantic(table, rounds=1)


def test_latent_gap_over_one_search(benchmark):
    """Every statistic with floor, interval and p-value, over one exact kNN search of the same sets."""
    random = np.random.default_rng(0)
    reference, holdout, target = random.standard_normal((3, 300, 320))
    units = [f"unit {i // 10}" for i in range(300)]

    def whole() -> None:
        latent_gap(reference, holdout, units, target, units, k=10, permutations=500, bootstrap=500, floor_draws=50,
                   seed=0)  # fmt: skip

    benchmark.extra_info["latent_gap_over_a_search"] = paired(whole, lambda: kth_distances(target, reference, 10))
    benchmark.pedantic(whole, rounds=1)
