"""Samples in FiftyOne's `ImageSegmentationDirectory` layout.

Belongs here: that layout, as FiftyOne documents its import. Does not: which samples, copying pictures (`export.py`).

`data.json` maps names to pictures where they lie, so that none is copied (`data/` holds them where they are);
`labels/` and `predictions/` have a PNG a sample; `mask_targets.json` says what its values mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from assets.report.selection import Mask, Sample
from resources.datasets.base import IGNORE


def write_fiftyone(samples: Iterable[Sample], class_names: Sequence[str], folder: Path, *, data: bool) -> int:
    """Write labels, predictions and, where pictures are not in `data/` already, `data.json`; returns how many samples.

    A mask's value is the class's place in the list plus 1: to FiftyOne, 0 is background, here what no class covers.
    """
    places: dict[str, str] = {}
    for sample in samples:
        places[sample.file] = str(sample.image.resolve())
        for name, classes in (("labels", sample.mask), ("predictions", sample.prediction)):
            if classes is not None:
                (folder / name).mkdir(exist_ok=True)
                Image.fromarray(_values(classes)).save(folder / name / f"{sample.stem}.png")
    if not data:
        _write(folder / "data.json", places)
    _write(folder / "mask_targets.json", {str(i): name for i, name in enumerate(class_names, 1)})
    return len(places)


def _values(classes: Mask) -> Mask:
    return np.where(classes == IGNORE, 0, classes + 1).astype(np.uint8)


def _write(path: Path, value: dict[str, str]) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
