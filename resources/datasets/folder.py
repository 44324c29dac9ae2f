"""Any data set laid out as images/ and masks/ with equal stems.

Belongs here: that layout. Does not: what all readers share.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resources.config import DatasetConfig
from resources.datasets.base import SampleFile
from resources.datasets.label_map import LabelMap, Table
from resources.datasets.layout import IMAGE_SUFFIXES, arranged, find_files, root_of
from resources.datasets.metadata import metadata_of
from resources.errors import DatasetError


class FolderReader:
    """Samples are named by their path below images/, without suffix; folders within images/ recur within masks/.

    Masks are optional, as a folder and per picture; a mask without a picture is left aside. Without `labels` the ids
    0, 1, … are the config's classes in their order, and 255 is ignored. Splits and groups come from the config's
    patterns or blocks alone.
    """

    def __init__(self, dataset: DatasetConfig, class_names: Sequence[str]) -> None:
        self._dataset = dataset
        self._root = root_of(dataset)
        table: Table = {**dict(enumerate(class_names)), 255: "void"}
        self._labels = LabelMap.for_dataset(dataset, table, class_names)

    def scan(self) -> list[SampleFile]:
        """See `Reader`."""
        images = find_files(self._root / "images", *IMAGE_SUFFIXES)
        masks = find_files(self._root / "masks", *IMAGE_SUFFIXES)
        if not images:
            raise DatasetError(
                f"{self._dataset.name}: {self._root}: no pictures; expected images/ with {', '.join(IMAGE_SUFFIXES)} "
                "(and masks/ with equal stems, where there are labels)"
            )
        if masks and not masks.keys() & images.keys():
            raise DatasetError(
                f"{self._dataset.name}: {self._root}: none of {len(masks)} masks has the name of a picture; expected "
                f"equal stems, got masks such as {min(masks)!r} and pictures such as {min(images)!r}"
            )
        return arranged(
            [SampleFile(key, image, masks.get(key), "", "") for key, image in images.items()], self._dataset
        )

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        """See `Reader`."""
        return self._labels.read(path)

    def metadata(self, samples: list[SampleFile]) -> dict[str, dict[str, float | str]]:
        """See `Reader`."""
        return metadata_of(self._dataset.metadata, samples)
