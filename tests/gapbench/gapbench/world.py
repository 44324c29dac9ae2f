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

from assets.inference.losses import at_label_pixels, pixel_sums
from resources.config import GapConfig, load_config
from resources.datasets import open_reader
from resources.datasets.base import read_image
from resources.model import SegmentationModel, build_network, load_weights, read_checkpoint
from resources.pictures import Batch, Picture, to_input

BLOCK = 8
"""Consecutive frames of a drive that stay together: what resampling and the division into sides move as one."""
CAMVID = Path(__file__).parents[4] / "shared" / "data" / "gap-camvid.yaml"
BATCH = 8


@dataclass(frozen=True)
class Item:
    """One picture (uint8 h, w, 3) with its classes (uint8 h, w), its drive and its block."""

    sample_id: str
    drive: str
    block: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]

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
    def by_id(self) -> dict[str, Item]:
        """The pool by name."""
        return {item.sample_id: item for item in self.pool}

    def batches(self, items: Sequence[Item]) -> Iterator[Batch]:
        """Batches at the model's input."""
        for start in range(0, len(items), BATCH):
            pictures = [item.picture(self.input_size) for item in items[start : start + BATCH]]
            yield Batch(pictures, torch.stack([picture.reduced for picture in pictures]))

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


def camvid(config_path: Path = CAMVID) -> World:
    """Two day drives that the weights have not seen; the reference are pictures that they have."""
    config = load_config(config_path)
    config = config.model_copy(update={"model": config.model.model_copy(update={"input_size": (240, 320)})})
    assert config.model.checkpoint is not None
    network = build_network(config.model, len(config.class_names))
    load_weights(network, read_checkpoint(config.model.checkpoint), config.model.checkpoint, config.class_names)
    model = SegmentationModel(network, config.model, len(config.class_names), "camvid-day", "cpu")
    source = config.dataset("source")
    reader = open_reader(config, source.model_copy(update={"select": None}))
    files = {file.sample_id: file for file in reader.scan()}
    pool, reference = [], []
    for name in sorted(files):
        drive = name.rsplit("_", 1)[0]
        if drive not in ("test_Seq05VD", "val_0016E5", "train_0016E5", "train_0006R0"):
            continue
        held = drive in ("test_Seq05VD", "val_0016E5")
        file = files[name]
        assert file.mask is not None
        item = _small(name, drive, read_image(file.image), reader.read_mask(file.mask), config.model.input_size)
        (pool if held else reference).append(item)
    return World("camvid", config, model, _blocked(pool), _blocked(reference[:: max(1, len(reference) // 96)]))


def _small(name: str, drive: str, image: NDArray[np.uint8], mask: NDArray[np.uint8], size: tuple[int, int]) -> Item:
    """The sample at the bench's resolution: plants act on these pixels."""
    wanted = (size[1], size[0])
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
