"""What every data set reader gives: a list of sample files, and decoders for its pictures and masks.

Belongs here: the reader's contract, and what all readers share (selection, decoding of pictures).
Does not: a particular layout on disk (one module each beside this one), hashing, tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

IGNORE = 255
"""Class index of pixels that no statistic counts."""


@dataclass(frozen=True, slots=True)
class SampleFile:
    """One picture on disk, found but not yet opened.

    `sample_id` is unique within its data set and stable: the picture's path below its image folder, without suffix,
    '/' between folders. `group` is '' where the set does not say what makes samples dependent; `split` is '' where
    it has none.
    """

    sample_id: str
    image: Path
    mask: Path | None
    split: str
    group: str


class Reader(Protocol):
    """A data set as its files. Scanning never opens a picture."""

    def scan(self) -> list[SampleFile]:
        """All samples that the config selects, sorted by sample_id.

        Raises DatasetError (folder, what was expected there, what to do) when there is none.
        """
        ...

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        """Class indices of the config's class list, shape (height, width), `IGNORE` where no class applies.

        Raises UnreadableSample for a file that can't be decoded or holds an id that the label map does not know.
        """
        ...

    def metadata(self, samples: list[SampleFile]) -> dict[str, dict[str, float | str]]:
        """Side information by sample_id (numbers and short texts), {} for samples without any."""
        ...
