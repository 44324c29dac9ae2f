"""CamVid in its two forms: SegNet's folders with 11-class id masks, and the original 701 stills with colour masks.

Belongs here: the two layouts, their ids and colours. Does not: what all readers share.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resources.config import CAMVID11, DatasetConfig
from resources.datasets.base import SampleFile
from resources.datasets.label_map import LabelMap, Table
from resources.datasets.layout import arranged, find_files, root_of
from resources.datasets.metadata import metadata_of
from resources.errors import DatasetError

SPLITS = ("train", "val", "test")
STILLS, LABELS = "701_StillsRaw_full", "LabeledApproved_full"

SEGNET_IDS: Table = {**dict(enumerate(CAMVID11)), 11: "void"}

COLOURS: Table = {
    "#808080": "sky",          # Sky
    "#800000": "building",     # Building
    "#C00080": "building",     # Archway
    "#008040": "building",     # Bridge
    "#400040": "building",     # Tunnel
    "#C0C080": "pole",         # Column_Pole
    "#000040": "pole",         # TrafficCone
    "#804080": "road",         # Road
    "#8000C0": "road",         # LaneMkgsDriv
    "#C00040": "road",         # LaneMkgsNonDriv
    "#0000C0": "sidewalk",     # Sidewalk
    "#40C080": "sidewalk",     # ParkingBlock
    "#8080C0": "sidewalk",     # RoadShoulder
    "#808000": "vegetation",   # Tree
    "#C0C000": "vegetation",   # VegetationMisc
    "#C08080": "sign",         # SignSymbol
    "#808040": "sign",         # Misc_Text
    "#004040": "sign",         # TrafficLight
    "#404080": "fence",        # Fence
    "#40C000": "fence",        # Wall (in SegNet's masks too; some others count it as building)
    "#400080": "vehicle",      # Car
    "#4080C0": "vehicle",      # SUVPickupTruck
    "#C080C0": "vehicle",      # Truck_Bus
    "#C04080": "vehicle",      # Train
    "#804040": "vehicle",      # OtherMoving
    "#404000": "person",       # Pedestrian
    "#C08040": "person",       # Child
    "#4000C0": "person",       # CartLuggagePram
    "#408040": "person",       # Animal
    "#0080C0": "cyclist",      # Bicyclist
    "#C000C0": "cyclist",      # MotorcycleScooter
    "#000000": "void",         # Void
}  # fmt: skip
"""The 32 colours of the original masks, in the 11 classes that are commonly used."""


class CamvidReader:
    """Samples are named '<split>/<drive>_<frame>' (SegNet's form) or '<drive>_<frame>'; drives are the groups."""

    def __init__(self, dataset: DatasetConfig, class_names: Sequence[str]) -> None:
        self._dataset = dataset
        self._root = root_of(dataset)
        self._original = (self._root / STILLS).is_dir()
        self._labels = LabelMap.for_dataset(dataset, COLOURS if self._original else SEGNET_IDS, class_names)

    def scan(self) -> list[SampleFile]:
        """See `Reader`."""
        samples = self._stills() if self._original else [sample for split in SPLITS for sample in self._split(split)]
        if not samples:
            raise DatasetError(
                f"{self._dataset.name}: {self._root}: no pictures; expected train/, trainannot/, val/, valannot/, "
                f"test/ and testannot/ (SegNet's form), or {STILLS}/*.png and {LABELS}/*_L.png (the original); "
                "unpack one of the two there"
            )
        return arranged(samples, self._dataset)

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        """See `Reader`."""
        return self._labels.read(path)

    def metadata(self, samples: list[SampleFile]) -> dict[str, dict[str, float | str]]:
        """See `Reader`."""
        return metadata_of(self._dataset.metadata, samples)

    def _split(self, split: str) -> list[SampleFile]:
        images = find_files(self._root / split, ".png")
        masks = find_files(self._root / f"{split}annot", ".png")
        return [
            SampleFile(f"{split}/{name}", image, masks.get(name), split, _drive(name)) for name, image in images.items()
        ]

    def _stills(self) -> list[SampleFile]:
        images = find_files(self._root / STILLS, ".png")
        masks = find_files(self._root / LABELS, "_L.png")
        return [SampleFile(name, image, masks.get(name), "", _drive(name)) for name, image in images.items()]


def _drive(name: str) -> str:
    return name.rpartition("/")[2].partition("_")[0]
