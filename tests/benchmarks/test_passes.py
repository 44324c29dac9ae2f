"""What passes cost over the bare model, and a run when nothing changed: ratios of paired runs, no seconds."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import naive_traits
import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp

from assets.diagnosis.hypotheses import Hypothesis
from assets.experiments.normalise import ChannelStatistics, Exposure, HistogramMatching
from assets.experiments.operators import SetStatistics
from assets.experiments.registry import Experiment
from assets.experiments.trial import Fitted, Trial, build_predictors, run_trials
from assets.inference.forward import PassTables, run_pass, sample_paths
from assets.scoring.latent_gap import latent_gap
from assets.statistics.neighbourhoods import kth_distances
from assets.statistics.shifts import shift_table
from assets.traits.colour import channel_histogram
from assets.traits.measure import measure_layout, measure_pictures
from resources.config import CAMVID11, DatasetConfig, GapConfig
from resources.datasets.folder import FolderReader
from resources.engine import LocalEngine
from resources.model import SegmentationModel, build_network
from resources.sample_store import Change, SampleStore

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


def paired(first, second, clock=time.perf_counter) -> float:
    """Median over rounds of the ratio of two calls' durations, run in turn; by processor time on a busy machine."""
    ratios = []
    for _ in range(ROUNDS):
        durations = []
        for call in (first, second):
            started = clock()
            call()
            durations.append(clock() - started)
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
    benchmark.extra_info["whole_pass_over_bare_forward_processor"] = paired(whole, bare, time.process_time)
    benchmark.pedantic(whole, rounds=1)


def test_experiments_over_as_many_bare_forwards(engine, model, tmp_path, benchmark):
    """The normalised half of some experiments together, decoded once, over a forward each on batches in memory."""
    operators = {"exposure": Exposure(), "channels": ChannelStatistics(), "histogram": HistogramMatching()}
    samples = list(sample_paths(manifest(engine)).values())
    batches = [batch.reduced for batch in engine.batches("source", samples)]
    names, turns = [sample.sample_id for sample in samples], iter(range(10_000))
    fits = [_fitted(name, operator, batches) for name, operator in operators.items()]

    def run(_side, _ids, computation, notes):
        return engine.map_batches("source", samples, computation, notes)

    def together() -> None:
        store, turn = SampleStore(str(tmp_path)), str(next(turns))
        prints = {f"normalised:{name}": "1" for name in names}
        change = Change(list(prints), [], [], 0)
        trials = [
            Trial(fitted, "normalised", build_predictors(fitted, model, None)["normalised"],
                  store.table(turn, fitted.experiment.id, id_column="row_id"), prints, change)
            for fitted in fits
        ]  # fmt: skip
        run_trials(trials, run, what="bench")

    def bare() -> None:
        for _ in fits:
            for batch in batches:
                model(batch)

    together(), bare()
    benchmark.extra_info["experiments_over_bare_forwards"] = paired(together, bare)
    benchmark.extra_info["experiments_over_bare_forwards_processor"] = paired(together, bare, time.process_time)
    benchmark.pedantic(together, rounds=1)


def _fitted(name: str, operator, batches: list[torch.Tensor]) -> Fitted:
    def statistics_of(pictures: torch.Tensor) -> SetStatistics:
        histogram = channel_histogram(pictures).sum(0).numpy().astype(np.int64)
        return SetStatistics(histogram, pl.DataFrame(measure_pictures(pictures)), lambda: pictures)

    hypothesis = Hypothesis(name, "colour", "title", "statement", ("mean_red", "brightness"))
    parameters = operator.fit(statistics_of(batches[0] ** 2), statistics_of(batches[1]))
    return Fitted(Experiment(hypothesis, operator, None), {"normalised": parameters}, {})


def test_traits_over_bare_forward(model, benchmark):
    """All picture traits of a batch, over its forward."""
    batch = torch.rand(8, 3, *SIZE)
    measure_pictures(batch)
    benchmark.extra_info["traits_over_bare_forward"] = paired(lambda: measure_pictures(batch), lambda: model(batch))
    benchmark.pedantic(measure_pictures, args=(batch,), rounds=3)


def test_naive_traits_over_ours(benchmark):
    """Picture traits, histogram and layout at 512×256 as one would write them a picture at a time, over ours; one core.

    The figures agree: but for single pixels on a threshold, to what single precision gives.
    """
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.random((8, 3, 16, 32), dtype=np.float32))
    batch = torch.nn.functional.interpolate(coarse, size=(256, 512), mode="bicubic")
    batch = (batch + 0.05 * torch.from_numpy(random.standard_normal((8, 3, 256, 512), dtype=np.float32))).clamp(0, 1)
    images = [picture.permute(1, 2, 0).double().numpy() for picture in batch]
    masks = np.kron(random.integers(0, 11, (8, 16, 32)), np.ones((16, 16), np.uint8)).astype(np.uint8)

    def naive() -> list[dict[str, float]]:
        for image in images:
            naive_traits.histogram(image)
        layouts = [naive_traits.layout_traits(mask, list(CAMVID11)) for mask in masks]
        return [naive_traits.picture_traits(image) | one for image, one in zip(images, layouts, strict=True)]

    def ours() -> list[dict[str, float]]:
        channel_histogram(batch)
        found, layouts = measure_pictures(batch), [measure_layout(mask, CAMVID11) for mask in masks]
        return [{name: column[i] for name, column in found.items()} | one for i, one in enumerate(layouts)]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for expected, found in zip(naive(), ours(), strict=True):
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-3, nan_ok=True)
        benchmark.extra_info["naive_over_ours"] = paired(naive, ours)
        benchmark.extra_info["naive_over_ours_processor"] = paired(naive, ours, time.process_time)
        benchmark.pedantic(ours, rounds=1)
    finally:
        torch.set_num_threads(threads)


PASS_SCRIPT = """
import resource, sys
from pathlib import Path
from functools import partial
import polars as pl
from assets.inference.forward import PassTables, run_pass
from resources.config import GapConfig
from resources.engine import LocalEngine
from resources.model import SegmentationModel, build_network
from resources.sample_store import SampleStore
root, count = Path(sys.argv[1]), int(sys.argv[2])
data = {"reader": "folder", "root": root}
config = GapConfig.model_validate({"classes": ["a", "b"], "model": {"input_size": [96, 96]},
    "source": {"name": "here", **data}, "targets": [{"name": "there", **data}]})
model = SegmentationModel(build_network(config.model, 2), config.model, 2, "bench", "cpu")
names, there = [f"{i:05}" for i in range(count)], len(list((root / "images").iterdir()))
files = [{kind: str(root / kind / f"{i % there:03}.png") for kind in ("images", "masks")} for i in range(count)]
manifest = pl.DataFrame({"sample_id": names, "image": [f["images"] for f in files], "mask": [f["masks"] for f in files],
    "image_hash": names, "mask_hash": names, "labels_version": "1", "quarantined": False, "part": "target"})
engine, store = LocalEngine(config), SampleStore(sys.argv[3])
run_pass(model, manifest, partial(engine.map_batches, "source"),
    PassTables(store.table("source", "embeddings"), store.table("source", "evaluation")), code="1", what="bench")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_peak_memory_of_ten_times_the_pictures(tmp_path, benchmark):
    """The peak of a pass over 600 pictures over that of one over 60, in a process each."""
    random, turns = np.random.default_rng(0), iter(range(10))
    for kind, shape in (("images", (96, 96, 3)), ("masks", (96, 96))):
        (tmp_path / kind).mkdir()
        for i in range(20):
            values = random.integers(0, 255 if kind == "images" else 2, shape, dtype=np.uint8)
            Image.fromarray(values).save(tmp_path / kind / f"{i:03}.png")

    def peak(count: int) -> int:
        place = tmp_path / f"store {next(turns)}"
        command = [sys.executable, "-c", PASS_SCRIPT, str(tmp_path), str(count), str(place)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])

    benchmark.extra_info["peak_of_ten_times_over_once"] = peak(600) / peak(60)
    benchmark.pedantic(peak, args=(60,), rounds=1)


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
