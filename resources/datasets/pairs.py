"""Any data set whose pictures and masks are told by where they lie: two patterns with a '*' for the sample's name.

Belongs here: such patterns and their pairing. Does not: guessing them (`recognise.py`), what all readers share.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resources.config import DatasetConfig
from resources.datasets.base import SampleFile
from resources.datasets.label_map import LabelMap, Table
from resources.datasets.layout import IMAGE_SUFFIXES, arranged, find_files, root_of
from resources.datasets.metadata import metadata_of
from resources.errors import DatasetError


class PairsReader:
    """Samples are named by what the '*' of `images` stands for; several stars are joined by '/'.

    A '*' stands for any text, folders included, as short as can be; a pattern without a suffix takes every picture
    format. A picture without a mask is unlabelled, a mask without a picture is left aside. Without `labels` the ids
    0, 1, … are the config's classes in their order, and 255 is ignored.
    """

    def __init__(self, dataset: DatasetConfig, class_names: Sequence[str]) -> None:
        self._dataset = dataset
        self._root = root_of(dataset)
        table: Table = {**dict(enumerate(class_names)), 255: "void"}
        self._labels = LabelMap.for_dataset(dataset, table, class_names)

    def scan(self) -> list[SampleFile]:
        """See `Reader`."""
        name, wanted, masked = self._dataset.name, self._dataset.images or "", self._dataset.masks
        files = list_pictures(self._root, *(_suffixes(wanted) | (_suffixes(masked) if masked else set())))
        images, masks = divided(files, wanted, masked)
        if not images:
            raise DatasetError(
                f"{name}: {self._root}: no picture is at 'images': {wanted!r}; there are {len(files)} pictures"
                + (f", such as {', '.join(sorted(files)[:3])}" if files else "")
            )
        if masked is not None and not masks.keys() & images.keys():
            shown = f"masks such as {min(masks)!r}" if masks else "no mask"
            raise DatasetError(
                f"{name}: {self._root}: no mask at 'masks': {masked!r} belongs to a picture; expected equal names in "
                f"place of '*', got {shown} and pictures such as {min(images)!r}"
            )
        samples = [
            SampleFile(key, files[path], files[masks[key]] if key in masks else None, "", "")
            for key, path in images.items()
        ]
        return arranged(samples, self._dataset)

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        """See `Reader`."""
        return self._labels.read(path)

    def metadata(self, samples: list[SampleFile]) -> dict[str, dict[str, float | str]]:
        """See `Reader`."""
        return metadata_of(self._dataset.metadata, samples)


def list_pictures(root: Path, *suffixes: str) -> dict[str, Path]:
    """All files below a folder with one of some suffixes, by their path there ('/' between folders, suffix kept)."""
    return {f"{stem}{path.suffix}": path for suffix in suffixes for stem, path in find_files(root, suffix).items()}


def divided(paths: Iterable[str], images: str, masks: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """Paths of pictures and of masks by sample's name. What fits both patterns belongs to the longer one.

    Raises DatasetError for two files of one name.
    """
    found = [sample_names(paths, pattern) if pattern is not None else {} for pattern in (images, masks)]
    longer = int(len(masks or "") > len(images))
    rest = {path: name for path, name in found[1 - longer].items() if path not in found[longer]}
    found[1 - longer] = rest
    return _by_name(found[0], images), _by_name(found[1], masks)


def sample_names(paths: Iterable[str], pattern: str) -> dict[str, str]:
    """Sample's name by path, for the paths that a pattern fits."""
    *first, last = (re.escape(text) for text in pattern.split("*"))
    ends = "" if re.search(r"\.\w+$", pattern) else rf"(?:{'|'.join(re.escape(end) for end in IMAGE_SUFFIXES)})"
    fits = re.compile("(.+?)".join([*first, last]) + ends, re.IGNORECASE).fullmatch
    return {path: "/".join(match.groups()) for path in paths if (match := fits(path))}


def _suffixes(pattern: str) -> set[str]:
    found = re.search(r"\.\w+$", pattern)
    return {found[0]} if found else set(IMAGE_SUFFIXES)


def _by_name(named: Mapping[str, str], pattern: str | None) -> dict[str, str]:
    paths: dict[str, str] = {}
    for path, name in named.items():
        if name in paths:
            raise DatasetError(
                f"two files of one name at {pattern!r}: {paths[name]} and {path}; give the suffix or a longer pattern"
            )
        paths[name] = path
    return paths
