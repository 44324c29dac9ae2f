"""KITTI semantics 2015: training/image_2 with training/semantic beside it, testing/image_2 without labels.

Belongs here: that layout and the mapping of pictures to drives. Does not: what all readers share.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resources.config import DatasetConfig
from resources.datasets.base import SampleFile
from resources.datasets.cityscapes import LABEL_IDS
from resources.datasets.label_map import LabelMap
from resources.datasets.layout import arranged, find_files, root_of
from resources.datasets.metadata import metadata_of
from resources.errors import DatasetError

SPLITS = ("training", "testing")
MAPPINGS = {
    "training": ("train_mapping.txt", "training_mapping.txt"),
    "testing": ("test_mapping.txt", "testing_mapping.txt"),
}
"""Names of the files whose line n says from which drive picture n was taken."""

_MAPPING_FOLDERS = ("", "mapping", "devkit/mapping", "devkit_semantics/mapping")
_MAPPING_FIELDS = 3


class KittiReader:
    """Samples are named '<split>/<number>_<frame>'; masks hold Cityscapes' label ids.

    Groups are the drives where a mapping file of the development kit lies in the root, its `mapping/` or `devkit/`;
    without one the groups are '': neighbouring names are often one place, so give `group_blocks`.
    """

    def __init__(self, dataset: DatasetConfig, class_names: Sequence[str]) -> None:
        self._dataset = dataset
        self._root = root_of(dataset)
        self._labels = LabelMap.for_dataset(dataset, LABEL_IDS, class_names)

    def scan(self) -> list[SampleFile]:
        """See `Reader`."""
        samples = [sample for split in SPLITS for sample in self._split(split)]
        if not samples:
            raise DatasetError(
                f"{self._dataset.name}: {self._root}: no pictures; expected training/image_2/*.png, "
                "training/semantic/*.png and testing/image_2/*.png; unpack data_semantics.zip there"
            )
        return arranged(samples, self._dataset)

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        """See `Reader`."""
        return self._labels.read(path)

    def metadata(self, samples: list[SampleFile]) -> dict[str, dict[str, float | str]]:
        """See `Reader`."""
        return metadata_of(self._dataset.metadata, samples)

    def _split(self, split: str) -> list[SampleFile]:
        images = find_files(self._root / split / "image_2", ".png")
        masks = find_files(self._root / split / "semantic", ".png")
        drives = self._drives(split)
        return [
            SampleFile(f"{split}/{name}", image, masks.get(name), split, drives.get(name.partition("_")[0], ""))
            for name, image in images.items()
        ]

    def _drives(self, split: str) -> dict[str, str]:
        """Drive by a picture's number as it is written in its name; a blank line leaves a picture without one."""
        paths = [self._root / folder / name for folder in (*_MAPPING_FOLDERS, split) for name in MAPPINGS[split]]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            return {}
        drives = {}
        for number, line in enumerate(_lines(path)):
            fields = line.split()
            if fields and len(fields) != _MAPPING_FIELDS:
                raise DatasetError(
                    f"{path}: line {number + 1}: expected 'date date_drive_nnnn_sync frame', got {line!r}"
                )
            if fields:
                drives[f"{number:06d}"] = fields[1]
        return drives


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: not readable as text: {error}; expected the development kit's mapping") from None
