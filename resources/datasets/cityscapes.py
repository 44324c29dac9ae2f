"""Cityscapes: leftImg8bit/<split>/<city>/… with gtFine/<split>/<city>/… beside it.

Belongs here: that layout, its label ids, its vehicle and camera files. Does not: what all readers share.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resources.config import DatasetConfig
from resources.datasets.base import SampleFile
from resources.datasets.label_map import LabelMap, Table
from resources.datasets.layout import arranged, find_files, root_of
from resources.datasets.metadata import flat, metadata_of, read_json
from resources.errors import DatasetError

LABEL_IDS: Table = {
    -1: "license plate", 0: "unlabeled", 1: "ego vehicle", 2: "rectification border", 3: "out of roi", 4: "static",
    5: "dynamic", 6: "ground", 7: "road", 8: "sidewalk", 9: "parking", 10: "rail track", 11: "building", 12: "wall",
    13: "fence", 14: "guard rail", 15: "bridge", 16: "tunnel", 17: "pole", 18: "polegroup", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 29: "caravan", 30: "trailer", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
"""What `labelIds` masks hold; the 19 train classes are those that `classes: cityscapes19` names."""


class CityscapesReader:
    """Samples are named '<split>/<city>/<city>_<sequence>_<frame>'; cities are the groups.

    The test split counts as unlabelled: its public masks hold nothing but 'out of roi'.
    """

    def __init__(self, dataset: DatasetConfig, class_names: Sequence[str]) -> None:
        self._dataset = dataset
        self._root = root_of(dataset)
        self._labels = LabelMap.for_dataset(dataset, LABEL_IDS, class_names)

    def scan(self) -> list[SampleFile]:
        """See `Reader`."""
        images = find_files(self._root / "leftImg8bit", "_leftImg8bit.png")
        masks = find_files(self._root / "gtFine", "_gtFine_labelIds.png")
        if not images:
            raise DatasetError(
                f"{self._dataset.name}: {self._root}: no pictures; expected "
                "leftImg8bit/<split>/<city>/*_leftImg8bit.png (and gtFine/<split>/<city>/*_gtFine_labelIds.png); "
                "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip there"
            )
        return arranged([_sample(key, image, masks.get(key)) for key, image in images.items()], self._dataset)

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        """See `Reader`."""
        return self._labels.read(path)

    def metadata(self, samples: list[SampleFile]) -> dict[str, dict[str, float | str]]:
        """See `Reader`: the numbers of `vehicle/` and `camera/` where the set has them, and the config's own table."""
        table = metadata_of(self._dataset.metadata, samples)
        for kind in ("vehicle", "camera"):
            for sample in samples:
                path = self._root / kind / f"{sample.sample_id}_{kind}.json"
                if path.exists():
                    table[sample.sample_id] = flat(read_json(path), kind) | table[sample.sample_id]
        return table


def _sample(key: str, image: Path, mask: Path | None) -> SampleFile:
    split, _, below = key.partition("/")
    city = below.partition("/")[0] if "/" in below else ""
    return SampleFile(key, image, None if split == "test" else mask, split, city)
