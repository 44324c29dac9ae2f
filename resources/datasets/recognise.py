"""A look at a folder: which reader fits it, where its pictures and masks are, what its masks hold.

Belongs here: recognising layouts, pairing files, ids or colours in a sample of the masks, naming them by known tables.
Does not: reading a data set (its reader does), the text of a config.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from resources.config import CAMVID11, CITYSCAPES19, DatasetConfig
from resources.datasets import camvid
from resources.datasets.base import Reader, SampleFile, decode, read_image
from resources.datasets.camvid import CamvidReader
from resources.datasets.cityscapes import CityscapesReader
from resources.datasets.class_files import class_tables
from resources.datasets.folder import FolderReader
from resources.datasets.kitti import KittiReader
from resources.datasets.known_labels import KNOWN_TABLES, concept
from resources.datasets.label_map import Table, stored_ids
from resources.datasets.layout import IMAGE_SUFFIXES, find_files
from resources.datasets.pairs import PairsReader, list_pictures
from resources.errors import DatasetError, UnreadableSample

Layout = Literal["cityscapes", "kitti", "camvid", "folder", "pairs"]

NATIVE: dict[Layout, str] = {
    "cityscapes": "the label ids of Cityscapes (KITTI, GTA5 and others use them too)",
    "kitti": "the label ids of Cityscapes (KITTI, GTA5 and others use them too)",
    "camvid": "the 11 ids of CamVid",
}  # fmt: skip
"""What the masks of a layout hold where nothing speaks against it: its reader's own table."""

MASKS_READ = 16
STEMS_PAIRED = 400
MOST_OF_ONE_NAME = 24
PAIRINGS_OPENED = 40
MOST_IDS = 254
MOST_COLOURS = 64
IGNORED_ID = 255
BLACK = "#000000"
LEAST_COLOURS = 3
"""Fewer colours than these besides black say nothing about whose palette they are of."""

SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "test", "testing")
PICTURE_WORDS = ("image", "img", "rgb", "picture", "photo", "frame", "raw", "left", "input", "jpeg", "camera")
MASK_WORDS = ("mask", "label", "annot", "gt", "seg", "truth", "trainid", "semantic")

PLACES = {"sky": (0.0, 0.45), "road": (0.55, 1.0), "sidewalk": (0.45, 1.0), "building": (0.1, 0.65),
          "vegetation": (0.1, 0.7), "car": (0.4, 0.9), "vehicle": (0.4, 0.9)}  # fmt: skip
"""Where a class lies in a street scene: bounds of the mean height of its pixels, 0 at the top, 1 at the bottom."""
ANCHORS = ("sky", "road")
LEAST_PLACED = 0.3
"""Share of the pixels that must lie where a table says, less the share that does not, to believe the table."""


@dataclass(frozen=True)
class Code:
    """One id or colour in the masks that were read: its share of the pixels, their mean height (0 top, 1 bottom)."""

    share: float
    height: float
    masks: int

    @property
    def place(self) -> str:
        """The height in words."""
        return "top" if self.height < 0.4 else "middle" if self.height < 0.6 else "bottom"  # noqa: PLR2004


@dataclass(frozen=True)
class Found:
    """A folder as far as a look at it goes.

    `images`, `masks` are the patterns of reader 'pairs'. `table` names the codes of the masks, `origin` says which
    table that is; both are empty where none fits.
    """

    root: Path
    layout: Layout
    images: str | None
    masks: str | None
    samples: list[SampleFile]
    codes: dict[int | str, Code]
    table: Table
    origin: str
    looked_at: int
    height: int
    width: int

    @property
    def labelled(self) -> int:
        """How many samples have a mask."""
        return sum(sample.mask is not None for sample in self.samples)

    def described(self) -> str:
        """Layout, counts and labels in one line."""
        where = f" ({self.images}, {self.masks or 'no masks'})" if self.images is not None else ""
        kind = "colours" if any(isinstance(own, str) for own in self.codes) else "ids"
        if not self.codes:
            labels = ""
        elif self.origin:
            labels = f"; {len(self.codes)} {kind}: {self.origin}"
        else:
            labels = f"; {len(self.codes)} {kind} that no known table names"
        return f"{self.layout}{where}, {len(self.samples):,} pictures, {self.labelled:,} with masks{labels}"


def look(folder: Path) -> Found:
    """Recognise a folder's layout, list its samples, open one picture and a few masks.

    Raises DatasetError, in one line that says what was looked for, for a folder without pictures in a known order.
    """
    layout, images, masks = _layout(folder)
    dataset = DatasetConfig(name="ours", reader=layout, root=folder.resolve(), images=images, masks=masks)
    samples = _scan(dataset)
    there = [sample.mask for sample in samples if sample.mask is not None]
    chosen = [there[i] for i in sorted({round(i) for i in np.linspace(0, len(there) - 1, MASKS_READ)})] if there else []
    codes = read_codes(folder, chosen)
    table, origin = find_table(codes, class_tables(folder))
    if layout in NATIVE and not table:
        of_colours = any(isinstance(own, str) for own in codes)
        origin = "the colours of CamVid" if layout == "camvid" and of_colours else NATIVE[layout]
        table = KNOWN_TABLES[origin]
    height, width = _first_size(samples)
    return Found(folder, layout, images, masks, samples, codes, table, origin, len(chosen), height, width)


def read_codes(folder: Path, masks: Sequence[Path]) -> dict[int | str, Code]:
    """Ids, or colours '#RRGGBB', in some masks, sorted.

    Raises DatasetError where these are no masks of classes: ids and colours in one set, or too many of them.
    """
    pixels: Counter[int] = Counter()
    rows: Counter[int] = Counter()
    seen: Counter[int] = Counter()
    kinds = set()
    for mask, of_colours in _decoded(masks):
        kinds.add(of_colours)
        values, places, counts = np.unique(mask, return_inverse=True, return_counts=True)
        heights = np.broadcast_to((np.arange(mask.shape[0])[:, None] + 0.5) / mask.shape[0], mask.shape)
        sums = np.bincount(places.ravel(), weights=heights.ravel())
        for value, count, total in zip(values.tolist(), counts.tolist(), sums.tolist(), strict=True):
            pixels[value] += count
            rows[value] += total
            seen[value] += 1
    if len(kinds) > 1:
        raise DatasetError(f"{folder}: some masks hold ids, some colours; expected one kind in a set")
    of_colours = True in kinds
    if len(pixels) > (MOST_COLOURS if of_colours else MOST_IDS):
        raise DatasetError(
            f"{folder}: {len(pixels)} different {'colours' if of_colours else 'ids'} in {len(masks)} masks; "
            "expected one id (or colour) a class, saved without loss as PNG"
        )
    area = pixels.total()
    return {
        f"#{own:06X}" if of_colours else own: Code(pixels[own] / area, rows[own] / pixels[own], seen[own])
        for own in sorted(pixels)
    }


def find_table(codes: Mapping[int | str, Code], own_tables: Mapping[str, Table]) -> tuple[Table, str]:
    """The table that names the codes of some masks, and what it is called: one beside the set, or a published one.

    A published one is believed where classes lie as in a street scene: sky on top, road at the bottom. Empty where
    none fits.
    """
    for origin, table in own_tables.items():
        if codes and codes.keys() - {IGNORED_ID, BLACK} <= table.keys():
            return table, origin
    scores = {origin: placed(codes, table) for origin, table in KNOWN_TABLES.items() if _is_of(codes, table)}
    best = max(scores, key=lambda origin: scores[origin], default="")
    return (KNOWN_TABLES[best], best) if best and scores[best] >= LEAST_PLACED else ({}, "")


def _is_of(codes: Mapping[int | str, Code], table: Table) -> bool:
    """Whether a published table could be meant: it has all codes, sky or road among them, and enough colours."""
    colours = {own for own in codes if isinstance(own, str)}
    few = bool(colours) and len(colours - {BLACK}) < LEAST_COLOURS
    anchored = any(concept(table.get(own) or "void") in ANCHORS for own in codes)
    return bool(codes) and codes.keys() <= table.keys() and anchored and not few


def placed(codes: Mapping[int | str, Code], table: Table) -> float:
    """Share of pixels in their class's place, less the share out of it; below 0 where sky or road is out of it."""
    score = 0.0
    for own, code in codes.items():
        meant = concept(table.get(own) or "void")
        if meant not in PLACES:
            continue
        low, high = PLACES[meant]
        inside = low <= code.height <= high
        if not inside and meant in ANCHORS:
            return -1.0
        score += code.share if inside else -code.share
    return score


def _layout(folder: Path) -> tuple[Layout, str | None, str | None]:
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; expected the folder of a data set")
    signs: dict[Layout, bool] = {
        "cityscapes": any((folder / "leftImg8bit" / split).is_dir() for split in SPLIT_FOLDERS),
        "kitti": any((folder / split / "image_2").is_dir() for split in ("training", "testing")),
        "camvid": (folder / camvid.STILLS).is_dir()
        or any((folder / split).is_dir() and (folder / f"{split}annot").is_dir() for split in camvid.SPLITS),
    }
    found = next((layout for layout, there_is in signs.items() if there_is), None)
    if found is not None:
        return found, None, None
    if _is_plain(folder):
        return "folder", None, None
    images, masks = find_pairs(folder)
    return "pairs", images, masks


def _is_plain(folder: Path) -> bool:
    """images/ with masks/ of equal stems, or images/ with no other folder that could hold masks."""
    if not (folder / "images").is_dir():
        return False
    beside = [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if "masks" not in beside:
        return beside == ["images"]
    stems = [find_files(folder / kind, *IMAGE_SUFFIXES).keys() for kind in ("images", "masks")]
    return bool(stems[0] & stems[1]) or not stems[1]


def find_pairs(folder: Path) -> tuple[str, str | None]:
    """Patterns of a folder's pictures and of their masks (None where there are none), for reader 'pairs'.

    Files are paired that differ in one run of folders, in the last words of the name, or in the suffix. Of several
    such pairings (colour masks beside ids, instances, depth) that one is taken which pairs most files, one side of
    which looks like masks when it is opened, ids before colours.
    """
    files = list_pictures(folder, *IMAGE_SUFFIXES)
    if not files:
        there = ", ".join(entry.name for entry in sorted(folder.iterdir()) if not entry.name.startswith("."))
        raise DatasetError(
            f"{folder}: no pictures in it; looked for leftImg8bit/ (cityscapes), training/image_2/ (kitti), "
            f"train/ with trainannot/ or {camvid.STILLS}/ (camvid), images/ with masks/ (folder), and any two files of "
            f"one name, a picture and its mask (pairs); found {there[:100] or 'nothing'}"
        )
    kinds = cache(lambda path: _kind(files[path]))
    found = []
    for pairing in _pairings(files):
        sides = [kinds(path) for path in pairing.example]
        for picture, mask in ((0, 1), (1, 0)):
            if sides[picture] in ("picture", "grey") and sides[mask] in ("ids", "colours"):
                told = (pairing.files, sides[picture] == "picture", sides[mask] == "ids")
                rank = (*told, _spoken(pairing, picture, mask), -pairing.cost)
                found.append((rank, pairing.pattern(picture), pairing.pattern(mask)))
    return max(found)[1:] if found else (_pictures_alone(files), None)


@dataclass(frozen=True)
class _Variant:
    """What tells one kind of file from another of the same sample: a run of folders, an ending, a suffix."""

    folders: tuple[str, ...]
    ending: str
    suffix: str


@dataclass(frozen=True)
class _Pairing:
    kinds: tuple[_Variant, _Variant]
    prefixes: frozenset[tuple[str, ...]]
    files: int
    example: tuple[str, str]

    @property
    def cost(self) -> int:
        """How much of the paths the two kinds take away from the sample's name."""
        return sum(10 * len(kind.folders) + len(kind.ending) for kind in self.kinds)

    def pattern(self, side: int) -> str:
        """The pattern of one kind of file."""
        kind = self.kinds[side]
        prefix = ["*"] if len(self.prefixes) > 1 else list(next(iter(self.prefixes)))
        return "/".join([*prefix, *kind.folders, f"*{kind.ending}{kind.suffix}"])


def _pairings(files: Mapping[str, Path]) -> list[_Pairing]:
    """Pairs of kinds that share samples, those with most files first; judged by a part of a large set."""
    samples: dict[tuple[tuple[str, ...], tuple[str, ...], str], list[tuple[_Variant, str]]] = defaultdict(list)
    for path in _some(files):
        *folders, name = path.split("/")
        stem, dot, suffix = name.rpartition(".")
        for ending in _endings(stem):
            for first in range(len(folders) + 1):
                for last in range(first, len(folders) + 1):
                    identity = (tuple(folders[:first]), tuple(folders[last:]), stem.removesuffix(ending))
                    samples[identity].append((_Variant(tuple(folders[first:last]), ending, dot + suffix), path))
    found: dict[tuple[_Variant, _Variant], list[tuple[tuple[str, ...], str, str]]] = defaultdict(list)
    for (prefix, below, _), kinds in samples.items():
        if len(kinds) > MOST_OF_ONE_NAME:  # numbers that start anew in every folder
            continue
        for (one, path), (other, other_path) in combinations(sorted(kinds, key=str), 2):
            told_by_folder = one.folders or other.folders
            if path != other_path and _apart(one, other) and (told_by_folder or not below):
                found[one, other].append((prefix, path, other_path))
    pairings = [
        _Pairing(kinds, frozenset(prefix for prefix, _, _ in pairs), len(pairs), pairs[0][1:])
        for kinds, pairs in found.items()
    ]
    return sorted(pairings, key=lambda pairing: (-pairing.files, pairing.cost))[:PAIRINGS_OPENED]


def _some(files: Iterable[str]) -> list[str]:
    """Paths of some samples, all kinds of each: those of a few names, spread over all."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in files:
        stem = path.rpartition("/")[2].rpartition(".")[0]
        by_name[stem.removesuffix(max(_endings(stem), key=len))].append(path)
    names = sorted(by_name)
    step = max(1, len(names) // STEMS_PAIRED)
    return [path for name in names[::step] for path in by_name[name]]


def _apart(one: _Variant, other: _Variant) -> bool:
    """Whether two kinds differ by no more than they must: no folder or word that both begin or end with."""
    if one.folders and other.folders and (one.folders[0] == other.folders[0] or one.folders[-1] == other.folders[-1]):
        return False
    return one != other


def _endings(stem: str) -> list[str]:
    """The empty ending, and the last one to three words of a name that hold no digit ('_gtFine_labelIds')."""
    found = [""]
    for first, words in ((r"[_\-.]?", 1), (r"[_\-.]", 2), (r"[_\-.]", 3)):
        match = re.search(rf"(?:{first}[A-Za-z]+){{{words}}}$", stem)
        if match and match.start() > 0:
            found.append(match[0])
    return list(dict.fromkeys(found))


def _spoken(pairing: _Pairing, picture: int, mask: int) -> int:
    """How clearly the names say which side is which."""
    texts = ["/".join([*kind.folders, kind.ending]).lower() for kind in pairing.kinds]
    return sum(word in texts[mask] for word in MASK_WORDS) + sum(word in texts[picture] for word in PICTURE_WORDS)


def _kind(path: Path) -> Literal["ids", "colours", "picture", "grey", "unreadable"]:
    """What a file looks like: a mask of ids or colours has few of them, a picture many."""
    for codes, of_colours in _decoded([path]):
        if len(np.unique(codes)) <= MOST_COLOURS:
            return "colours" if of_colours else "ids"
        return "picture" if of_colours else "grey"
    return "unreadable"


def _pictures_alone(files: Mapping[str, Path]) -> str:
    """The pattern of a set without masks: below the folder that all pictures share, one suffix where there is one."""
    folders = [path.split("/")[:-1] for path in files]
    shared = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    suffixes = {path.suffix for path in files.values()}
    return "/".join([*shared, f"*{next(iter(suffixes)) if len(suffixes) == 1 else ''}"])


def _decoded(masks: Sequence[Path]) -> Iterator[tuple[NDArray[np.int64], bool]]:
    """Codes (height, width) of each mask that can be read, and whether they are packed colours."""
    for path in masks:
        try:
            mask = decode(path)
            if mask.image.mode in ("RGB", "RGBA"):
                red, green, blue = (np.asarray(mask.image)[..., channel].astype(np.int64) for channel in range(3))
                yield red << 16 | green << 8 | blue, True
            else:
                yield stored_ids(mask).astype(np.int64), False
        except UnreadableSample:
            continue


def _scan(dataset: DatasetConfig) -> list[SampleFile]:
    readers: dict[str, Callable[[DatasetConfig, Sequence[str]], Reader]] = {
        "cityscapes": CityscapesReader,
        "kitti": KittiReader,
        "camvid": CamvidReader,
        "folder": FolderReader,
        "pairs": PairsReader,
    }
    own_names = CAMVID11 if dataset.reader == "camvid" else CITYSCAPES19
    return readers[dataset.reader](dataset, own_names).scan()


def _first_size(samples: Sequence[SampleFile]) -> tuple[int, int]:
    for sample in samples[:MASKS_READ]:
        try:
            height, width = read_image(sample.image).shape[:2]
        except UnreadableSample:
            continue
        return height, width
    raise DatasetError(f"{samples[0].image.parent}: none of the first pictures can be read; expected whole pictures")
