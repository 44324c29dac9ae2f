"""Where the bench's pictures come from: one law, drive blocks that never lie on both sides, a model that knows neither.

Belongs here: CamVid (real) and `streets` (built in) as lists of samples in memory, with their model.
Does not: plants, cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from assets.inference.losses import at_label_pixels, pixel_sums
from assets.inference.training import train
from resources.config import GapConfig, ModelConfig, load_config
from resources.datasets import open_reader
from resources.datasets.base import read_image
from resources.model import SegmentationModel, build_network, load_weights, read_checkpoint
from resources.pictures import Batch, Picture, SamplePaths, to_input

BLOCK = 8
"""Consecutive frames of a drive that stay together: what resampling and the division into sides move as one."""
CAMVID = Path(__file__).parents[4] / "shared" / "data" / "gap-camvid.yaml"
BATCH = 8
SIZE = (96, 128)
"""Height and width: a case costs seconds on one core, and the model is fine-tuned for it."""
DRIVES = ("Seq05VD", "0016E5", "0006R0")
UNSEEN = ("Seq05VD", "0016E5")
REFERENCE = 64
TRAINING = {"epochs": 12, "learning_rate": 5e-4, "batch_size": BATCH}


@dataclass(frozen=True)
class Item:
    """One picture (uint8 h, w, 3) with its classes (uint8 h, w), its drive, its block, its metadata as JSON."""

    sample_id: str
    drive: str
    block: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    metadata: str = "{}"

    def picture(self, input_size: tuple[int, int]) -> Picture:
        """As the product's passes take it."""
        return Picture(self.sample_id, self.image, self.mask, to_input(self.image, input_size))


@dataclass(frozen=True)
class World:
    """`pool`: unseen pictures of one law, divided between source holdout and target; `reference`: seen in training."""

    name: str
    config: GapConfig
    model: SegmentationModel
    pool: list[Item]
    reference: list[Item]

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the model's input."""
        return self.config.model.input_size

    @cached_property
    def untouched(self) -> dict[str, float]:
        """The pool's losses by name, evaluated once."""
        return dict(zip((item.sample_id for item in self.pool), self.losses(self.pool).tolist(), strict=True))

    def batches(self, items: Sequence[Item]) -> Iterator[Batch]:
        """Batches at the model's input."""
        return batches_of(items, self.input_size)

    def losses(self, items: Sequence[Item]) -> NDArray[np.float64]:
        """Mean pixel loss of each item, at the mask's own pixels."""
        found = []
        for batch in self.batches(items):
            logits = self.model(batch.reduced).logits
            for i, picture in enumerate(batch.pictures):
                mask = picture.mask
                assert mask is not None
                found.append(pixel_sums(at_label_pixels(logits[i], (mask.shape[0], mask.shape[1])), mask).loss)
        return np.array(found)


def camvid(cache: Path, config_path: Path = CAMVID) -> World:
    """Two day drives that the weights have not seen; the reference are pictures that they have.

    The weights are fine-tuned once at the bench's resolution, on the pictures that they were trained on, and kept in
    `cache`.
    """
    config = load_config(config_path)
    training = config.model.training.model_copy(update=TRAINING)
    changed = {"input_size": SIZE, "training": training}
    config = config.model_copy(update={"model": config.model.model_copy(update=changed)})
    source = config.dataset("source")
    reader = open_reader(config, source.model_copy(update={"select": None}))
    pool, seen = [], []
    for file in sorted(reader.scan(), key=lambda file: file.sample_id):
        split, drive = file.sample_id.split("_")[:2]
        if drive not in DRIVES or file.mask is None:
            continue
        item = _small(file.sample_id, f"{split}_{drive}", read_image(file.image), reader.read_mask(file.mask))
        if split == "train":
            seen.append(item)
        elif drive in UNSEEN:
            pool.append(item)
    model = _fine_tuned(config, seen, cache / "camvid-small.safetensors")
    reference = seen[:: max(1, len(seen) // REFERENCE)][:REFERENCE]
    return World("camvid", config, model, _blocked(pool), _blocked(reference))


def _fine_tuned(config: GapConfig, seen: list[Item], kept: Path) -> SegmentationModel:
    from safetensors.torch import save_file

    classes = config.class_names
    network = build_network(config.model, len(classes))
    origin = kept if kept.exists() else config.model.checkpoint
    assert origin is not None
    load_weights(network, read_checkpoint(origin), origin, classes)
    if origin is not kept:
        train_on(network, seen, config.model)
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, kept)
    return SegmentationModel(network, config.model, len(classes), "camvid-small", "cpu")


def train_on(network: nn.Module, items: Sequence[Item], config: ModelConfig) -> None:
    """The product's own training, on items in memory."""
    by_id = {item.sample_id: item for item in items}

    def batches(samples: list[SamplePaths]) -> Iterator[Batch]:
        return batches_of([by_id[sample.sample_id] for sample in samples], config.input_size)

    samples = [SamplePaths(name, Path(name), None) for name in by_id]
    train(network, batches, samples, config, device="cpu", what="gapbench: training")


def batches_of(items: Sequence[Item], size: tuple[int, int]) -> Iterator[Batch]:
    """Batches of items at a size."""
    for start in range(0, len(items), BATCH):
        pictures = [item.picture(size) for item in items[start : start + BATCH]]
        yield Batch(pictures, torch.stack([picture.reduced for picture in pictures]))


def _small(name: str, drive: str, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Item:
    """The sample at the bench's resolution: plants act on these pixels."""
    wanted = (SIZE[1], SIZE[0])
    picture = np.array(Image.fromarray(image).resize(wanted, Image.Resampling.LANCZOS))
    labels = np.array(Image.fromarray(mask).resize(wanted, Image.Resampling.NEAREST))
    return Item(name, drive, "", picture, labels)


def _blocked(items: list[Item]) -> list[Item]:
    """Items with their block: consecutive frames of one drive, `BLOCK` at a time."""
    seen: dict[str, int] = {}
    found = []
    for item in items:
        place = seen.get(item.drive, 0)
        seen[item.drive] = place + 1
        found.append(replace(item, block=f"{item.drive}#{place // BLOCK:02d}"))
    return found
