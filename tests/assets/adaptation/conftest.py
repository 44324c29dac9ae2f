"""What the tests of adaptation share: a tiny network with encoder, decoder and head, and data sets on disk for it."""

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
from torch import nn

CLASSES = ["road", "sky", "car"]
COLOURS = np.array([[0.25, 0.25, 0.28], [0.45, 0.62, 0.85], [0.75, 0.15, 0.15]])
INPUT = (32, 48)


class Encoder(nn.Module):
    """Two stages after the picture itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU())

    def forward(self, batch: torch.Tensor) -> list[torch.Tensor]:
        first = self.first(batch)
        return [batch, first, self.second(first)]


class Decoder(nn.Module):
    """Deep features brought back to the input's pixels beside the shallow ones."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Conv2d(20, 8, 1), nn.ReLU(), nn.Dropout(0.2))

    def forward(self, stages: list[torch.Tensor]) -> torch.Tensor:
        deep = nn.functional.interpolate(stages[2], size=stages[1].shape[2:], mode="bilinear")
        return self.mix(torch.cat([stages[1], deep], 1))


class Tiny(nn.Module):
    """Named as networks of segmentation_models_pytorch are."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()
        self.segmentation_head = nn.Sequential(nn.Conv2d(8, len(CLASSES), 1))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.segmentation_head(self.decoder(self.encoder(batch)))


def build_tiny() -> Tiny:
    """What a config's `model.factory` names."""
    torch.manual_seed(3)
    return Tiny()


def draw(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture in 0..1 and its classes: sky over road, a car in front, noise on all."""
    mask = np.zeros((height, width), np.uint8)
    mask[: round(height * rng.uniform(0.35, 0.55))] = 1
    top, left = rng.integers(height // 2, height - 8), rng.integers(0, width - 10)
    mask[top : top + 7, left : left + 9] = 2
    return np.clip(COLOURS[mask] + rng.normal(0, 0.05, (height, width, 3)), 0, 1), mask


def dusk(picture: np.ndarray) -> np.ndarray:
    """What the target does to a picture."""
    return 0.45 * picture + np.array([0.22, 0.05, 0.0])


def write_set(root: Path, count: int, seed: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """A folder data set on disk, two pictures a group."""
    rng = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for i in range(count):
        picture, mask = draw(rng, 40, 60)
        stem = f"g{i // 2:02d}_{i:03d}.png"
        Image.fromarray(np.round(np.clip(change(picture), 0, 1) * 255).astype(np.uint8)).save(root / "images" / stem)
        Image.fromarray(mask).save(root / "masks" / stem)


@pytest.fixture(scope="session")
def trained():
    """The tiny model, trained by day."""
    from resources.config import ModelConfig
    from resources.model import SegmentationModel

    network = build_tiny()
    rng = np.random.default_rng(0)
    drawn = [draw(rng, *INPUT) for _ in range(16)]
    pictures = torch.tensor(np.stack([picture for picture, _ in drawn]), dtype=torch.float32).permute(0, 3, 1, 2)
    labels = torch.tensor(np.stack([mask for _, mask in drawn])).long()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    network.train()
    for _ in range(60):
        loss = nn.functional.cross_entropy(network(pictures), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    config = ModelConfig(input_size=INPUT, mean=(0, 0, 0), std=(1, 1, 1))
    return SegmentationModel(network, config, len(CLASSES), "tiny-1", "cpu")


@pytest.fixture(scope="session")
def lay_out(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SimpleNamespace]:
    """Writes a source and a target, measures both, and returns the campaign that adaptations start from."""

    def make(
        model: Any, *, change: Callable[[np.ndarray], np.ndarray] = dusk, samples: int = 24, **settings: Any
    ) -> SimpleNamespace:
        from assets.diagnosis.gather import read_sides
        from assets.experiments.campaign import Campaign
        from assets.inference.forward import PassTables, run_pass
        from assets.ingestion.manifest import build_manifest, scan_files
        from resources.config import GapConfig
        from resources.datasets import open_reader
        from resources.engine import LocalEngine
        from resources.sample_store import SampleStore

        root = tmp_path_factory.mktemp("sets")
        write_set(root / "home", 40, 1, lambda picture: picture)
        write_set(root / "away", samples, 2, change)
        config = GapConfig.model_validate({
            "classes": CLASSES, "store": str(root / "store"), "model": model.config.model_dump(),
            "source": {"name": "home", "reader": "folder", "root": root / "home", "group": "^(g[0-9]+)_",
                       "holdout_share": 0.5},
            "targets": [{"name": "away", "reader": "folder", "root": root / "away", "group": "^(g[0-9]+)_"}],
            "compute": {"device": "cpu", "batch_size": 4, "workers": 0},
            "statistics": {"bootstrap": 200},
            "adaptation": {"steps": 6, "minutes": 2, "learning_rate": 3e-3, **settings},
        })  # fmt: skip
        store, engine = SampleStore(config.store), LocalEngine(config)
        for key in ("source", "away"):
            reader, dataset = open_reader(config, config.dataset(key)), config.dataset(key)
            found, _ = scan_files(reader, store.table(key, "files"))
            build_manifest(
                reader, found, store.table(key, "files").read(), config, dataset, store.table(key, "manifest"), code="1"
            )
            run_pass(
                model, store.table(key, "manifest").read(), partial(engine.map_batches, key),
                PassTables(None, store.table(key, "evaluation")), code="1", what=key,
            )  # fmt: skip
        campaign = Campaign("away", read_sides(store, "away"), pl.DataFrame(), pl.DataFrame(), engine, model)
        return SimpleNamespace(campaign=campaign, config=config, store=store, root=root)

    return make


@pytest.fixture(scope="session")
def world(trained, lay_out):
    """A source by day and a target at dusk."""
    return lay_out(trained)
