"""What the tests of parts share: drawn scenes on disk, a small network that learns them in seconds, the analysis."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from assets.inference.forward import PassTables, run_pass
from assets.ingestion.manifest import build_manifest, scan_files
from assets.model_parts.analysis import analyse_target, measure_holdout, part_tables, side_data
from assets.model_parts.parts import examine
from resources.config import GapConfig, ModelConfig
from resources.datasets import open_reader
from resources.engine import LocalEngine
from resources.model import SegmentationModel
from resources.sample_store import SampleStore

CLASSES = ["road", "sky", "car", "building"]
COLOURS = np.array([[0.38, 0.38, 0.38], [0.45, 0.60, 0.80], [0.55, 0.32, 0.30], [0.38, 0.38, 0.38]])
SIZE = (48, 64)
GROUP = 2
"""Pictures of a drive."""
CONFIG = ModelConfig(input_size=SIZE, embedding_layer="stage4", mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture in 0..1 (48, 64, 3) and its classes: road and building differ by where they are, not by colour."""
    height, width = SIZE
    mask = np.zeros(SIZE, np.uint8)
    horizon = round(height * rng.uniform(0.42, 0.52))
    mask[:horizon] = 1
    for left in range(0, width, 12):
        top = round(horizon * rng.uniform(0.3, 0.8))
        mask[top:horizon, left : left + 10] = 3
    for _ in range(3):
        size = round(height * rng.uniform(0.12, 0.2))
        y, x = rng.integers(horizon, height - size), rng.integers(0, width - size)
        mask[y : y + size, x : x + size] = 2
    picture = COLOURS[mask] + rng.normal(0, 0.01, 3) + rng.normal(0, 0.06, (*SIZE, 3))
    return picture, mask


def drawn(count: int, seed: int, gain: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (n, 3, h, w) and classes (n, h, w)."""
    rng = np.random.default_rng(seed)
    pairs = [draw(rng) for _ in range(count)]
    pictures = np.clip(np.stack([picture for picture, _ in pairs]) * gain, 0, 1)
    return (
        torch.tensor(pictures, dtype=torch.float32).permute(0, 3, 1, 2).contiguous(),
        torch.tensor(np.stack([mask for _, mask in pairs])).long(),
    )


class Norm(nn.BatchNorm2d):
    """A batch norm that can be told to run on other statistics: `offset()` in running deviations, by picture."""

    offset: Callable[[], torch.Tensor] | None = None

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        if self.offset is not None:
            batch = batch + self.offset() * self.running_var.sqrt()[:, None, None]
        return super().forward(batch)


class Block(nn.Sequential):
    """Convolution, batch norm, ReLU; `damage` maps what leaves the block."""

    damage: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __init__(self, taken: int, given: int, stride: int) -> None:
        super().__init__(nn.Conv2d(taken, given, 3, stride, 1, bias=False), Norm(given), nn.ReLU())

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        made = super().forward(batch)
        return made if self.damage is None else self.damage(made)


class Small(nn.Module):
    """Four stages, a low-level branch from the first one, a fusion of both, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1, self.stage2 = Block(3, 12, 2), Block(12, 16, 2)
        self.stage3, self.stage4 = Block(16, 24, 2), Block(24, 32, 1)
        self.low = Block(12, 3, 1)
        self.fusion = Block(35, 16, 1)
        self.head = nn.Conv2d(16, len(CLASSES), 1)
        self.darkness: torch.Tensor | None = None

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.darkness = ((SOURCE_BRIGHTNESS - batch.mean((1, 2, 3))) / DARKER).clamp(0, 1)[:, None, None, None]
        first = self.stage1(batch)
        deep = self.stage4(self.stage3(self.stage2(first)))
        shallow = self.low(first)
        deep = functional.interpolate(deep, size=shallow.shape[2:], mode="bilinear")
        return self.head(self.fusion(torch.cat([deep, shallow], 1)))


SOURCE_BRIGHTNESS = 0.16
"""Nearly all pictures of the source are brighter, in the mean after normalisation."""
DARKER = 0.1
"""How far below it a picture is wholly dark, as most of the target are."""
GAIN = 0.92


@pytest.fixture(scope="session")
def network() -> Small:
    """Trained for seconds on pictures of many brightnesses, so that a darker target costs it next to nothing."""
    torch.manual_seed(0)
    made = Small()
    pictures, labels = drawn(96, 7)
    draws = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(made.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=150)
    for _ in range(150):
        chosen = torch.randint(0, 96, (8,), generator=draws)
        gains = 0.75 + 0.35 * torch.rand((8, 1, 1, 1), generator=draws)
        batch = ((pictures[chosen] * gains).clamp(0, 1) - 0.4) / 0.2
        logits = functional.interpolate(made(batch), size=SIZE, mode="bilinear")
        loss = functional.cross_entropy(logits, labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return made.eval()


@pytest.fixture
def model(network) -> SegmentationModel:
    """A copy of the trained network as the product runs it; its stages can be damaged."""
    return as_model(copy.deepcopy(network))


@pytest.fixture
def broken(network) -> Callable[[str, str], SegmentationModel]:
    """The network with one stage broken, in proportion to how dark a picture is, and nothing else.

    'output': its channels are mixed up, mirrored and doubled; 'statistics': its batch norm runs on others.
    """

    def make(stage: str, how: str) -> SegmentationModel:
        made = copy.deepcopy(network)
        block = made.get_submodule(stage)
        draws = torch.Generator().manual_seed(3)
        if how == "output":
            order = torch.randperm(block[1].num_features, generator=draws)
            block.damage = lambda values: values + made.darkness * (2 * values[:, order].flip(3) - values)
        else:
            by = 3 * torch.randn(block[1].num_features, generator=draws)[:, None, None]
            block[1].offset = lambda: made.darkness * by
        return as_model(made, f"{stage} {how}")

    return make


def as_model(made: nn.Module, version: str = "small-1") -> SegmentationModel:
    return SegmentationModel(made, CONFIG, len(CLASSES), version, "cpu")


def write_set(root: Path, count: int, seed: int, gain: float, labelled: bool = True) -> None:
    """A folder data set: images/gNN_KK.png and masks/ with equal stems."""
    rng = np.random.default_rng(seed)
    for name in ("images", "masks")[: 2 if labelled else 1]:
        (root / name).mkdir(parents=True)
    for i in range(count):
        picture, mask = draw(rng)
        stem = f"g{i // GROUP:02d}_{i:03d}.png"
        pixels = np.round(np.clip(picture * gain, 0, 1) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / stem)
        if labelled:
            Image.fromarray(mask).save(root / "masks" / stem)


@pytest.fixture(scope="session")
def sets(tmp_path_factory) -> Path:
    """A source, and three targets of its law: alike, darker, and darker without labels."""
    root = tmp_path_factory.mktemp("sets")
    write_set(root / "home", 120, 1, 1.0)
    write_set(root / "alike", 64, 2, 1.0)
    write_set(root / "dark", 64, 3, GAIN)
    write_set(root / "bare", 40, 4, GAIN, labelled=False)
    return root


@pytest.fixture
def analyse(sets, tmp_path) -> Callable[..., SimpleNamespace]:
    """Runs the whole analysis of a model on one target; a second call goes on with the same store.

    `.content` as it is stored, `.forwards` of the holdout, `.store`, `.config`, `.examined`.
    """

    def run(model: SegmentationModel, target: str, where: str = "store", **settings: Any) -> SimpleNamespace:
        config = GapConfig.model_validate({
            "classes": CLASSES, "store": str(tmp_path / where), "model": CONFIG.model_dump(),
            "source": {**folder(sets, "home"), "holdout_share": 0.6}, "targets": [folder(sets, target)],
            "compute": {"device": "cpu", "workers": 0}, "model_parts": {"pictures": 64, **settings},
            "statistics": {"permutations": 99, "bootstrap": 200, "noise_floor_draws": 20},
        })  # fmt: skip
        store, engine = SampleStore(config.store), LocalEngine(config)
        for key in ("source", target):
            measured(config, store, engine, model, key)
        examined = examine(model)
        data = {"holdout": side_data(store, engine, "source", "holdout"),
                "target": side_data(store, engine, target, "target")}  # fmt: skip
        tables = {"holdout": part_tables(store, "source"), "target": part_tables(store, target)}
        forwards = measure_holdout(examined, data["holdout"], tables["holdout"], config.model_parts, "1")
        content = analyse_target(examined, target, data, tables, config, "1")
        return SimpleNamespace(content=content, forwards=forwards, store=store, config=config, examined=examined)

    return run


def folder(root: Path, name: str) -> dict[str, Any]:
    return {"name": name, "reader": "folder", "root": root / name, "group": "^(g[0-9]+)_"}


def measured(config: GapConfig, store: SampleStore, engine: LocalEngine, model: SegmentationModel, key: str) -> None:
    reader, dataset = open_reader(config, config.dataset(key)), config.dataset(key)
    own = {name: store.table(key, name) for name in ("files", "manifest", "evaluation")}
    found, _ = scan_files(reader, own["files"])
    build_manifest(reader, found, own["files"].read(), config, dataset, own["manifest"], code="1")
    run = partial(engine.map_batches, key)
    run_pass(model, own["manifest"].read(), run, PassTables(None, own["evaluation"]), code="1", what=key)
