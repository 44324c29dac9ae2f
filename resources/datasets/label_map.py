"""Label maps: from a data set's own ids or colours to class indices of the config.

Belongs here: decoding of masks and their translation. Does not: the table of one data set (its reader has it).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resources.config import IGNORED_NAMES, MAX_LABEL_ID, DatasetConfig
from resources.datasets.base import IGNORE, Decoded, decode
from resources.errors import DatasetError, UnreadableSample

_UNKNOWN = -1
_SHOWN = 5
_STRETCHED = {"L;2": 85, "L;4": 17}
_INVERTED = re.compile(r"^[1L];[24]?I")

Table = Mapping[int | str, str | None]
"""A data set's own ids, or its colours '#RRGGBB', and what they are called; None is ignored."""


@dataclass(frozen=True)
class LabelMap:
    """Class index by code; a code is an id, or a colour packed into 24 bits.

    `codes` are sorted, `indices` parallel to them; `unlisted` is what every other code becomes.
    """

    codes: NDArray[np.int64]
    indices: NDArray[np.int16]
    of_colours: bool
    unlisted: int

    @classmethod
    def from_config(cls, labels: Mapping[int | str, str], class_names: Sequence[str]) -> LabelMap:
        """The map of a config's `labels`: what is not named there is ignored."""
        return _label_map(labels, class_names, unlisted=IGNORE)

    @classmethod
    def from_table(cls, table: Table, class_names: Sequence[str]) -> LabelMap:
        """The map of a data set's own table: names that the config's classes lack are ignored, other codes unknown.

        Raises DatasetError when no name of the table is a class.
        """
        named = {name for name in table.values() if name is not None and name not in IGNORED_NAMES}
        if not named & set(class_names):
            raise DatasetError(
                f"none of the set's classes is one of the config's; the set has {', '.join(sorted(named))}; "
                f"the config has {', '.join(class_names)}; give 'labels' to map one to the other"
            )
        return _label_map(table, class_names, unlisted=_UNKNOWN)

    @classmethod
    def for_dataset(cls, dataset: DatasetConfig, table: Table, class_names: Sequence[str]) -> LabelMap:
        """The map of the config's `labels` where it has any, else of the reader's own table."""
        if dataset.labels is not None:
            return cls.from_config(dataset.labels, class_names)
        try:
            return cls.from_table(table, class_names)
        except DatasetError as error:
            raise DatasetError(f"{dataset.name}: {error}") from None

    def read(self, path: Path) -> NDArray[np.uint8]:
        """A mask file as class indices of shape (height, width).

        Raises UnreadableSample, beginning with the file's name, for what can't be decoded or holds unknown codes.
        """
        mask = decode(path)
        try:
            _check_exact(mask)
            return self.apply(_colours(mask) if self.of_colours else stored_ids(mask))
        except UnreadableSample as error:
            raise UnreadableSample(f"{path.name}: {error}") from None

    def apply(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Class indices of ids (height, width), or of colours (height, width, 3).

        Raises UnreadableSample naming the unknown codes and how many pixels have them.
        """
        codes = _packed(pixels) if self.of_colours else pixels
        indices = self._by_table[codes] if codes.dtype in (np.uint8, np.uint16) else self._by_search(codes)
        unknown = indices == _UNKNOWN
        if unknown.any():
            raise UnreadableSample(self._unknown(codes[unknown]))
        return indices.astype(np.uint8)

    @cached_property
    def _by_table(self) -> NDArray[np.int16]:
        table = np.full(MAX_LABEL_ID + 1, self.unlisted, dtype=np.int16)
        table[self.codes] = self.indices
        return table

    def _by_search(self, codes: NDArray[Any]) -> NDArray[np.int16]:
        places = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        return np.where(self.codes[places] == codes, self.indices[places], np.int16(self.unlisted))

    def _unknown(self, codes: NDArray[Any]) -> str:
        values, counts = np.unique(codes, return_counts=True)
        most = np.argsort(-counts, kind="stable")[:_SHOWN]
        shown = [f"{self._show(int(values[i]))} ({counts[i]} pixels)" for i in most]
        more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
        return (
            f"unknown label {'colours' if self.of_colours else 'ids'} {', '.join(shown)}{more}; 'labels' can map them"
        )

    def _show(self, code: int) -> str:
        return f"#{code:06X}" if self.of_colours else str(code)


def stored_ids(mask: Decoded) -> NDArray[Any]:
    """Ids as they are stored: a palette's indices, not its colours; a one-bit mask's 0 and 1.

    Raises UnreadableSample for what holds no ids.
    """
    pixels, mode = np.asarray(mask.image), mask.image.mode
    if mode == "1":
        return pixels.astype(np.uint8)
    if mode in ("L", "P") or mode.startswith("I"):
        # Pillow stretches two and four bits of grey over 0..255; ids are what was stored.
        return pixels // _STRETCHED.get(mask.stored, 1)
    if mode in ("LA", "PA"):
        return pixels[..., 0]
    found = "floating-point values" if mode == "F" else f"a colour mask (mode {mode})"
    raise UnreadableSample(
        f"{found} where ids are expected: one 8- or 16-bit channel or a palette; map colours by '#RRGGBB' in 'labels'"
    )


def _label_map(table: Table, class_names: Sequence[str], *, unlisted: int) -> LabelMap:
    index_of = {name: index for index, name in enumerate(class_names) if name not in IGNORED_NAMES}
    indices = {_code(own): IGNORE if name is None else index_of.get(name, IGNORE) for own, name in table.items()}
    codes = sorted(indices)
    return LabelMap(
        codes=np.array(codes, dtype=np.int64),
        indices=np.array([indices[code] for code in codes], dtype=np.int16),
        of_colours=any(isinstance(own, str) for own in table),
        unlisted=unlisted,
    )


def _code(own: int | str) -> int:
    if isinstance(own, str):
        return int(own.removeprefix("#"), 16)
    return own if own >= 0 else own % 256  # Cityscapes' -1 is 255 in an 8-bit file


def _packed(colours: NDArray[np.uint8]) -> NDArray[np.int32]:
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue


def _check_exact(mask: Decoded) -> None:
    if mask.lossy:
        raise UnreadableSample("a mask under lossy compression, which mixes classes at every border; save it as PNG")
    if _INVERTED.search(mask.stored):
        raise UnreadableSample("a TIFF mask whose 0 is white, so that its ids are inverted; save it as PNG")
    if mask.orientation != 1:
        raise UnreadableSample(
            f"a mask that EXIF turns (orientation {mask.orientation}), as few programs do; save it upright"
        )


def _colours(mask: Decoded) -> NDArray[np.uint8]:
    mode = mask.image.mode
    if mode in ("1", "L", "LA", "F") or mode.startswith("I"):
        raise UnreadableSample(f"a mask of ids (mode {mode}) where colours are expected; map ids in 'labels'")
    return np.asarray(mask.image.convert("RGBA"))[..., :3]
