"""What the tests of experiments share: drawn pictures, statistics of them, a model that reads colours, data on disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from assets.experiments.operators import SetStatistics
from assets.traits.colour import channel_histogram
from assets.traits.measure import measure_pictures

CLASSES = ["road", "sky", "car", "building"]
COLOURS = np.array([[0.30, 0.32, 0.34], [0.45, 0.60, 0.80], [0.70, 0.20, 0.20], [0.55, 0.50, 0.35]])
INPUT = (64, 96)


def draw(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture in 0..1 and its classes: sky over buildings over road, cars in front, noise on all."""
    mask = np.zeros((height, width), np.uint8)
    horizon = round(height * rng.uniform(0.4, 0.55))
    mask[:horizon] = 1
    for left in range(0, width, max(4, width // 5)):
        top = round(horizon * rng.uniform(0.3, 0.9))
        mask[top:horizon, left : left + max(3, width // 6)] = 3
    for _ in range(3):
        size = max(3, round(height * rng.uniform(0.1, 0.2)))
        y, x = rng.integers(horizon, height - size), rng.integers(0, width - size)
        mask[y : y + size, x : x + size] = 2
    shade = rng.normal(0, 0.02, 3)
    picture = COLOURS[mask] + shade + rng.normal(0, 0.03, (height, width, 3))
    return np.clip(picture, 0, 1), mask


@pytest.fixture(scope="session")
def scenes() -> Callable[..., torch.Tensor]:
    """Makes batches of drawn pictures, float32 (n, 3, 64, 96)."""

    def make(count: int, seed: int, size: tuple[int, int] = INPUT) -> torch.Tensor:
        rng = np.random.default_rng(seed)
        stack = np.stack([draw(rng, *size)[0] for _ in range(count)])
        return torch.tensor(stack, dtype=torch.float32).permute(0, 3, 1, 2).contiguous()

    return make


@pytest.fixture(scope="session")
def statistics_of() -> Callable[..., SetStatistics]:
    """Makes the statistics of a set from its pictures, as the traits table would give them."""

    def make(pictures: torch.Tensor, aspect: float = 1.5, **traits: Any) -> SetStatistics:
        columns = {"aspect_ratio": np.full(len(pictures), aspect), **measure_pictures(pictures), **traits}
        histogram = channel_histogram(pictures).sum(0).numpy().astype(np.int64)
        return SetStatistics(histogram, pl.DataFrame(columns), lambda: pictures)

    return make


class ColourReader(torch.nn.Module):
    """Scores every pixel by how near its colour is to each class's: what shifts colours costs loss, nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Conv2d(3, len(COLOURS), 1)
        colours = torch.tensor(COLOURS, dtype=torch.float32)
        with torch.no_grad():
            self.head.weight.copy_(60 * colours[:, :, None, None])
            self.head.bias.copy_(-30 * (colours**2).sum(1))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.head(batch)


@pytest.fixture(scope="session")
def colour_model():
    """A model that is exact per pixel on the source's colours."""
    from resources.config import ModelConfig
    from resources.model import SegmentationModel

    config = ModelConfig(input_size=INPUT, embedding_layer="head", mean=(0, 0, 0), std=(1, 1, 1))
    return SegmentationModel(ColourReader(), config, len(CLASSES), "colours-1", "cpu")


@pytest.fixture(scope="session")
def network_model():
    """An untrained network with batch norm, its input 64 × 96, as the product builds it."""
    from resources.config import ModelConfig
    from resources.model import SegmentationModel, build_network

    torch.manual_seed(1)
    config = ModelConfig(architecture="PSPNet", encoder="resnet18", input_size=INPUT)
    network = build_network(config, len(CLASSES))
    return SegmentationModel(network, config, len(CLASSES), "untrained-1", "cpu")


def write_set(
    root: Path, count: int, seed: int, size: tuple[int, int], change: Callable[[np.ndarray], np.ndarray],
    per_group: int, relabel: Callable[[np.ndarray], np.ndarray] = lambda mask: mask,
) -> None:  # fmt: skip
    """A folder data set on disk: images/gNN_KK.png and masks/ with equal stems."""
    rng = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for i in range(count):
        picture, mask = draw(rng, *size)
        stem = f"g{i // per_group:02d}_{i:03d}.png"
        Image.fromarray(np.round(np.clip(change(picture), 0, 1) * 255).astype(np.uint8)).save(root / "images" / stem)
        Image.fromarray(relabel(mask)).save(root / "masks" / stem)


@pytest.fixture(scope="session")
def lay_out(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SimpleNamespace]:
    """Writes a source and a target, measures both with a model and returns all that experiments start from.

    `.campaign`, `.config`, `.store`, `.loads` (ids that were decoded, in order).
    """

    def make(
        model: Any, *, change: Callable[[np.ndarray], np.ndarray] = lambda picture: picture, samples: int = 20,
        target_size: tuple[int, int] = (56, 84), per_group: int = 2, batch_size: int = 4,
        relabel: Callable[[np.ndarray], np.ndarray] = lambda mask: mask,
    ) -> SimpleNamespace:  # fmt: skip
        from assets.diagnosis.gather import Sides
        from assets.experiments.campaign import Campaign
        from assets.inference.forward import PassTables, run_pass
        from assets.ingestion.manifest import build_manifest, scan_files
        from assets.traits.table import catalogue, update_traits
        from resources.config import GapConfig
        from resources.datasets import open_reader
        from resources.engine import LocalEngine
        from resources.sample_store import SampleStore

        root = tmp_path_factory.mktemp("sets")
        write_set(root / "home", 40, 1, (56, 84), lambda picture: picture, per_group)
        write_set(root / "away", samples, 2, target_size, change, per_group, relabel)
        config = GapConfig.model_validate({
            "classes": CLASSES, "store": str(root / "store"), "model": model.config.model_dump(),
            "source": {"name": "home", "reader": "folder", "root": root / "home", "group": "^(g[0-9]+)_",
                       "holdout_share": 0.5},
            "targets": [{"name": "away", "reader": "folder", "root": root / "away", "group": "^(g[0-9]+)_"}],
            "compute": {"device": "cpu", "batch_size": batch_size, "workers": 0},
        })  # fmt: skip
        store, engine = SampleStore(config.store), LocalEngine(config)
        tables: dict[str, dict[str, pl.DataFrame]] = {}
        for key in ("source", "away"):
            reader, dataset = open_reader(config, config.dataset(key)), config.dataset(key)
            names = ("files", "manifest", "embeddings", "evaluation", "traits")
            own = {name: store.table(key, name) for name in names}
            found, _ = scan_files(reader, own["files"])
            build_manifest(reader, found, own["files"].read(), config, dataset, own["manifest"], code="1")
            manifest = own["manifest"].read()

            run = partial(engine.map_batches, key)
            run_pass(model, manifest, run, PassTables(own["embeddings"], own["evaluation"]), code="1", what=key)
            update_traits(manifest, None, run, catalogue(config), own["traits"], input_size=INPUT, code="1",
                          what=key)  # fmt: skip
            tables[key] = {name: table.read() for name, table in own.items()}
        source, target = tables["source"], tables["away"]
        sides = Sides(source["manifest"], target["manifest"], source["evaluation"], target["evaluation"])
        campaign = Campaign("away", sides, source["traits"], target["traits"], engine, model)
        return SimpleNamespace(campaign=campaign, config=config, store=store, tables=tables)

    return make
