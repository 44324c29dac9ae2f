"""Tiny pictures with masks, their manifest and a tiny network, for tests of inference."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from assets.ingestion.manifest import build_manifest, scan_files
from resources.config import GapConfig
from resources.datasets.folder import FolderReader
from resources.model import SegmentationModel, build_network
from resources.pictures import load_batches
from resources.sample_store import SampleTable

CLASSES = ["road", "sky", "car"]
SIZE = (64, 96)


class Scenes:
    """A folder of pictures, `labelled` of them with a mask: sky above, road below, a car on it."""

    def __init__(self, root: Path):
        self.root = root
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True)
        place = {"reader": "folder", "root": root}
        self.config = GapConfig.model_validate(
            {
                "classes": CLASSES,
                "model": {"input_size": SIZE, "training": {"batch_size": 4, "epochs": 2}},
                "source": {"name": "other", **place},
                "targets": [{"name": "here", **place}],
                "compute": {"device": "cpu", "batch_size": 2},
            }
        )
        self.reader = FolderReader(self.config.targets[0], self.config.class_names)

    def add(self, name: str, *, seed: int = 0, masked: bool = True, shape=(80, 120)) -> None:
        draws = np.random.default_rng([seed, *name.encode()])
        mask = np.zeros(shape, np.uint8)
        mask[: shape[0] // 2] = 1
        mask[-20:, 10:40] = 2
        colours = np.array([[70, 70, 75], [150, 190, 240], [200, 30, 30]])
        image = np.clip(colours[mask] + draws.normal(0, 12, (*shape, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(self.root / "images" / f"{name}.png")
        if masked:
            mask[draws.random(shape) < 0.1] = 255
            Image.fromarray(mask).save(self.root / "masks" / f"{name}.png")

    def remove(self, name: str) -> None:
        for folder in ("images", "masks"):
            (self.root / folder / f"{name}.png").unlink(missing_ok=True)

    def manifest(self):
        """The manifest of what is there now."""
        dataset = self.config.targets[0]
        files, table = (SampleTable(str(self.root.parent / "tables" / name)) for name in ("files", "manifest"))
        samples, _ = scan_files(self.reader, files)
        build_manifest(self.reader, samples, files.read(), self.config, dataset, table, code="code")
        return table.read()

    def batches(self, model, batch_size: int = 2, workers: int = 0):
        return partial(load_batches, self.reader, input_size=model.input_size, batch_size=batch_size, workers=workers)


@pytest.fixture
def scenes(tmp_path):
    """Five pictures, the last without a mask and of another shape."""
    found = Scenes(tmp_path / "scenes")
    for name in ("a", "b", "c", "d"):
        found.add(name)
    found.add("e", masked=False, shape=(70, 130))
    return found


@pytest.fixture(scope="session")
def model():
    """An untrained network as a model."""
    from resources.config import ModelConfig

    torch.manual_seed(0)
    config = ModelConfig(input_size=SIZE)
    return SegmentationModel(build_network(config, len(CLASSES)), config, len(CLASSES), "version 1", "cpu")
