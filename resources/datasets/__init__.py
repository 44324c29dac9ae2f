"""Data sets: one reader for each layout on disk, and the built-in streets.

Belongs here: choosing the reader that a config names. Does not: reading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resources.config import DatasetConfig, GapConfig
from resources.datasets.base import Reader, SampleFile
from resources.datasets.camvid import CamvidReader
from resources.datasets.cityscapes import CityscapesReader
from resources.datasets.folder import FolderReader
from resources.datasets.kitti import KittiReader
from resources.datasets.pairs import PairsReader
from resources.sample_store import open_store

STREETS_COUNT = 160

_READERS: dict[str, Callable[[DatasetConfig, Sequence[str]], Reader]] = {
    "cityscapes": CityscapesReader,
    "kitti": KittiReader,
    "camvid": CamvidReader,
    "folder": FolderReader,
    "pairs": PairsReader,
}


def open_reader(config: GapConfig, dataset: DatasetConfig) -> Reader:
    """The reader of one of the config's data sets. Raises DatasetError where its classes or its place don't fit."""
    reader = _streets(config, dataset) if dataset.reader == "streets" else _layout(config, dataset)
    return reader if dataset.use_labels else WithoutLabels(reader)


@dataclass(frozen=True)
class WithoutLabels:
    """A data set whose masks are left aside, so that it counts as unlabelled (`use_labels: false`)."""

    reader: Reader

    def scan(self) -> list[SampleFile]:
        """See `Reader`."""
        return [replace(sample, mask=None) for sample in self.reader.scan()]

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        """See `Reader`."""
        return self.reader.read_mask(path)

    def metadata(self, samples: list[SampleFile]) -> dict[str, dict[str, float | str]]:
        """See `Reader`."""
        return self.reader.metadata(samples)


def _layout(config: GapConfig, dataset: DatasetConfig) -> Reader:
    return _READERS[dataset.reader](dataset, config.class_names)


def _streets(config: GapConfig, dataset: DatasetConfig) -> Reader:
    from resources.datasets.streets import StreetsReader

    return StreetsReader(
        folder=open_store(config).home / "streets" / dataset.name,
        scene=dataset.scene or dataset.name,
        count=dataset.count or STREETS_COUNT,
        seed=dataset.seed or 0,
        select=dataset.select,
        limit=dataset.limit,
        classes=config.class_names,
    )
