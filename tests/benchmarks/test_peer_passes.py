"""The same pictures through the same network, by us and by others' tools; picture traits likewise. Ratios alone.

A peer that is not installed is skipped. FiftyOne's `compute_embeddings` is timed only where it finds its MongoDB.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from assets.inference.forward import PassTables, run_pass
from assets.inference.latents import vectors
from assets.statistics.distances import frechet_distance
from assets.traits.measure import measure_pictures
from resources.config import GapConfig, ModelConfig
from resources.engine import LocalEngine
from resources.model import SegmentationModel
from resources.pictures import to_input
from resources.sample_store import SampleStore

SIZE = (224, 224)
PICTURES = 24
ROUNDS = 3


class Network(torch.nn.Module):
    """A torchvision ResNet-18 whose deepest map is also scored, so that it passes for a segmentation network."""

    def __init__(self) -> None:
        import torchvision

        super().__init__()
        torch.manual_seed(0)
        self.classifier = torchvision.models.resnet18(weights=None).eval()
        self.body = torch.nn.Sequential(*list(self.classifier.children())[:-2])
        self.head = torch.nn.Conv2d(512, 2, 1)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(batch))


@pytest.fixture(scope="module")
def network() -> Network:
    return Network().eval()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("peers") / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    paths = [folder / f"{i:03}.jpg" for i in range(PICTURES)]
    for path in paths:
        coarse = Image.fromarray(random.integers(0, 255, (18, 24, 3), dtype=np.uint8))
        coarse.resize((480, 360), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


@pytest.fixture
def ours(network, pictures, tmp_path):
    """A call that brings a fresh embeddings table up to date and returns its latents."""
    root = pictures[0].parents[1]
    place = {"reader": "folder", "root": root}
    config = GapConfig.model_validate(
        {"classes": ["a", "b"], "model": {"input_size": SIZE}, "source": {"name": "here", **place},
         "targets": [{"name": "there", **place}]}
    )  # fmt: skip
    model = SegmentationModel(network, ModelConfig(input_size=SIZE, embedding_layer="body"), 2, "peers", "cpu")
    names = [path.stem for path in pictures]
    manifest = pl.DataFrame(
        {"sample_id": names, "image": [str(path) for path in pictures], "mask": None, "image_hash": names,
         "mask_hash": names, "labels_version": "1", "quarantined": False, "part": "target"},
        schema_overrides={"mask": pl.String},
    )  # fmt: skip
    engine, turns = LocalEngine(config), iter(range(10_000))

    def run() -> np.ndarray:
        table = SampleStore(str(tmp_path / str(next(turns)))).table("source", "embeddings")
        run_pass(model, manifest, partial(engine.map_batches, "source"), PassTables(table, None),
                 code="1", what="peers")  # fmt: skip
        return vectors(table.read())

    return run


def ratios(peer, own) -> dict[str, float]:
    """Medians of the peer's duration, and processor time, over ours, run in turn."""
    found: dict[str, list[float]] = {"wall": [], "processor": []}
    for _ in range(ROUNDS):
        spent = []
        for call in (peer, own):
            wall, processor = time.perf_counter(), time.process_time()
            call()
            spent.append((time.perf_counter() - wall, time.process_time() - processor))
        found["wall"].append(spent[0][0] / spent[1][0])
        found["processor"].append(spent[0][1] / spent[1][1])
    return {name: statistics.median(each) for name, each in found.items()}


def report(benchmark, peer, own) -> None:
    peer(), own()
    benchmark.extra_info["peer_over_ours"] = ratios(peer, own)
    benchmark.pedantic(own, rounds=1)


def test_dqm_ml_pytorch_embeddings(network, pictures, ours, benchmark):
    """Its processor over paths, features of the layer that we read."""
    pa = pytest.importorskip("pyarrow")
    embedding = pytest.importorskip("dqm_ml_pytorch.image_embedding")
    processor = embedding.ImageEmbeddingProcessor(
        config={"columns": {"input": ["path"]}, "infer": {"width": SIZE[1], "height": SIZE[0], "batch_size": 8},
                "model": {"arch": "resnet18", "n_layer_feature": -2}}
    )  # fmt: skip
    processor.model = network.classifier  # its own way to one is a download
    processor.feature_extractor = processor._make_extractor(network.classifier, "avgpool")
    processor._model_loaded = True
    batch = pa.record_batch({"path": [str(path) for path in pictures]})
    found = next(iter(processor.compute_features(batch).values()))
    theirs = np.array(found.to_pylist(), np.float32)
    # It resizes by Pillow before it divides by 255, we after; both antialias.
    assert np.corrcoef(theirs.ravel(), ours().ravel())[0, 1] > 0.999
    report(benchmark, lambda: processor.compute_features(batch), ours)


def test_torch_fidelity_features_and_frechet_distance(network, pictures, ours, benchmark):
    """Its data loader, features and distance between the two halves, against our pass and distance."""
    fidelity = pytest.importorskip("torch_fidelity")
    from torch_fidelity import metric_fid, utils

    class Extractor(fidelity.FeatureExtractorBase):
        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("512",)

        def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor]:
            scaled = (batch.float() / 255 - mean) / std
            resized = torch.nn.functional.interpolate(scaled, size=SIZE, mode="bilinear", antialias=True)
            return (network.body(resized).mean((2, 3)),)

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.from_numpy(np.array(Image.open(pictures[index]).convert("RGB"))).permute(2, 0, 1)

    mean, std = (torch.tensor(each)[:, None, None] for each in (ModelConfig().mean, ModelConfig().std))
    extractor = Extractor("resnet18", ["512"]).eval()
    half = PICTURES // 2

    def theirs() -> float:
        found = utils.get_featuresdict_from_dataset(Pictures(), extractor, 8, False, False, False)["512"]
        sides = [metric_fid.fid_features_to_statistics(part) for part in (found[:half], found[half:])]
        return float(metric_fid.fid_statistics_to_metric(*sides, False)["frechet_inception_distance"])

    def own() -> float:
        latents = ours().astype(np.float64)
        moments = [(part.mean(0), np.cov(part, rowvar=False)) for part in (latents[:half], latents[half:])]
        return frechet_distance(*moments[0], *moments[1])

    assert own() == pytest.approx(theirs(), rel=1e-2)
    report(benchmark, theirs, own)


def test_fiftyone_compute_embeddings(network, pictures, ours, benchmark):
    """Its `compute_embeddings` with a torch model of its own."""
    fiftyone = pytest.importorskip("fiftyone")
    from fiftyone.core.config import FiftyOneConfigError
    from fiftyone.utils.torch import TorchImageModel, TorchImageModelConfig

    try:
        dataset = fiftyone.Dataset()
    except FiftyOneConfigError as reason:
        pytest.skip(str(reason))
    dataset.add_samples([fiftyone.Sample(filepath=str(path)) for path in pictures])
    config = TorchImageModelConfig(
        {"model": network.classifier, "image_size": SIZE, "as_feature_extractor": True, "embeddings_layer": "avgpool",
         "image_mean": ModelConfig().mean, "image_std": ModelConfig().std}
    )  # fmt: skip
    model = TorchImageModel(config)
    report(benchmark, lambda: dataset.compute_embeddings(model, batch_size=8), ours)


def test_vigilcv_picture_traits(benchmark):
    """Its inspection of one picture (sharpness, entropy, exposure) against all our picture traits of it."""
    heuristics = pytest.importorskip("vigilcv.core.heuristics")
    random = np.random.default_rng(0)
    coarse = [random.integers(0, 255, (14, 14, 3), dtype=np.uint8) for _ in range(8)]
    arrays = [np.array(Image.fromarray(one).resize(SIZE, Image.Resampling.BICUBIC)) for one in coarse]
    batch = torch.stack([to_input(array, SIZE) for array in arrays])
    names = ["sharpness", "clipped_dark", "clipped_bright", "brightness", "contrast"]

    def theirs() -> None:
        for array in arrays:
            heuristics.inspect_image_quality(array)

    theirs(), measure_pictures(batch)
    benchmark.extra_info["peer_over_ours_all_31"] = ratios(theirs, lambda: measure_pictures(batch))
    benchmark.extra_info["peer_over_ours_same_traits"] = ratios(theirs, lambda: measure_pictures(batch, names))
    benchmark.pedantic(measure_pictures, args=(batch,), rounds=1)
