"""Rows of the traits table: every trait of a sample, and the colour histogram that fits are made from.

Belongs here: which samples are measured, from label or prediction, and the loop over batches.
Does not: the traits themselves, comparisons between sets (diagnosis).
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from assets.inference.forward import sample_paths, usable
from assets.inference.losses import decode_classes
from assets.traits.colour import channel_histogram
from assets.traits.compression import measure_compression
from assets.traits.measure import measure_layout, measure_pictures, measure_shape, measure_user
from assets.traits.regional import measure_regions
from assets.traits.registry import Trait, UserTrait, all_traits, load_user_traits
from resources.config import GapConfig
from resources.datasets.base import IGNORE
from resources.engine import MapBatches, Notes
from resources.fingerprint import fingerprint
from resources.pictures import Batch, Picture, to_input_mask
from resources.progress import track
from resources.sample_store import Change, SampleTable

HISTOGRAM = "channel_histogram"
THUMBNAIL_WIDTH = 128


@dataclass(frozen=True)
class TraitCatalogue:
    """The traits that a config asks for: their columns in order, and the user's own functions."""

    traits: dict[str, Trait]
    user: dict[str, UserTrait]
    class_names: tuple[str, ...]

    @property
    def schema(self) -> dict[str, Any]:
        """Columns of the table."""
        return {
            "sample_id": pl.String,
            "fingerprint": pl.String,
            "from_label": pl.Boolean,
            HISTOGRAM: pl.List(pl.Int32),
            "thumbnail": pl.Binary,
            **dict.fromkeys(self.traits, pl.Float64),
        }


def catalogue(config: GapConfig) -> TraitCatalogue:
    """The traits that a config asks for. Raises ConfigError for modules that can't be used."""
    modules = config.traits.modules
    return TraitCatalogue(all_traits(config.class_names, modules), load_user_traits(modules), config.class_names)


@dataclass
class TraitFailures:
    """How often each of the user's traits failed, and why at first."""

    count: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def note(self, sample_id: str, reasons: dict[str, str]) -> None:
        """Add the failures of one sample."""
        for name, reason in reasons.items():
            self.count[name] += 1
            self.first.setdefault(name, f"{sample_id}: {reason}")


@dataclass(frozen=True)
class TraitNote:
    """What a row of traits needs besides the picture: its fingerprint, the prediction that stands in for a label."""

    fingerprint: str
    prediction: bytes | None


@dataclass(frozen=True)
class TraitRows:
    """The computation of the pass. Notes: a `TraitNote` of every sample."""

    catalogue: TraitCatalogue

    def __call__(self, batch: Batch, notes: Notes) -> tuple[pl.DataFrame, dict[str, dict[str, str]]]:
        """Rows of the table, and why which of the user's traits failed, by sample."""
        of_pictures = measure_pictures(batch.reduced)
        histograms = channel_histogram(batch.reduced).flatten(1).cpu().numpy()
        rows, failed = [], {}
        for i, picture in enumerate(batch.pictures):
            note: TraitNote = notes[picture.sample_id]
            mask = _classes(picture, note.prediction, (batch.reduced.shape[2], batch.reduced.shape[3]))
            user, failed[picture.sample_id] = measure_user(
                self.catalogue.user.values(), picture.image, picture.mask
            )  # fmt: skip
            values = {
                **{name: float(column[i]) for name, column in of_pictures.items()},
                **measure_shape(*picture.image.shape[:2]),
                **measure_compression(picture.image),
                **measure_layout(mask, self.catalogue.class_names),
                **measure_regions(picture.reduced, mask, self.catalogue.class_names),
                **user,
            }
            rows.append(
                {
                    "sample_id": picture.sample_id,
                    "fingerprint": note.fingerprint,
                    "from_label": picture.mask is not None,
                    HISTOGRAM: histograms[i].tolist(),
                    "thumbnail": thumbnail(picture.image),
                    **{name: values.get(name, math.nan) for name in self.catalogue.traits},
                }
            )
        return pl.DataFrame(rows, schema=self.catalogue.schema), failed


def update_traits(
    manifest: pl.DataFrame,
    predictions: pl.DataFrame | None,
    run: MapBatches,
    catalogue: TraitCatalogue,
    table: SampleTable,
    *,
    input_size: tuple[int, int],
    code: str,
    what: str,
) -> tuple[Change, TraitFailures]:
    """Measure new and changed samples; `predictions` (sample_id, fingerprint, prediction) stand in for labels."""
    samples = usable(manifest)
    predicted = {} if predictions is None else {row["sample_id"]: row for row in predictions.iter_rows(named=True)}
    wanted = _wanted(samples, predicted, (input_size, code))
    prints = dict(wanted.iter_rows())
    paths = sample_paths(samples)
    failures = TraitFailures()

    def compute(ids: list[str]) -> Iterator[pl.DataFrame]:
        notes = {name: TraitNote(prints[name], predicted.get(name, {}).get("prediction")) for name in ids}
        found = run([paths[name] for name in ids], TraitRows(catalogue), notes)
        for done in track(found, what, len(ids), size=lambda done: len(done.ids)):
            rows, reasons = done.result
            for name, failed in reasons.items():
                failures.note(name, failed)
            yield rows

    return table.update(wanted, compute), failures


def thumbnail(image: NDArray[np.uint8]) -> bytes:
    """A picture (h, w, 3) as a small JPEG, for maps and tables."""
    height, width = image.shape[:2]
    size = (THUMBNAIL_WIDTH, max(1, round(height * THUMBNAIL_WIDTH / width)))
    buffer = io.BytesIO()
    Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def histogram_of(table: pl.DataFrame) -> NDArray[np.int64]:
    """The set's pooled 8-bit histogram, (3, 256): the sufficient statistic of channel maps."""
    if table.is_empty():
        return np.zeros((3, 256), np.int64)
    stacked = table[HISTOGRAM].list.to_array(3 * 256).to_numpy()
    pooled: NDArray[np.int64] = np.asarray(stacked, dtype=np.int64).sum(0).reshape(3, 256)
    return pooled


def _wanted(samples: pl.DataFrame, predicted: dict[str, dict[str, Any]], decides: Sequence[Any]) -> pl.DataFrame:
    rows = samples.select("sample_id", "image_hash", "mask_hash", "labels_version").iter_rows()
    pairs = [
        (name, fingerprint(content, decides, "" if content[1] else predicted.get(name, {}).get("fingerprint", "")))
        for name, *content in rows
    ]
    return pl.DataFrame(pairs, schema={"sample_id": pl.String, "fingerprint": pl.String}, orient="row")


def _classes(picture: Picture, prediction: bytes | None, input_size: tuple[int, int]) -> NDArray[np.uint8]:
    """The sample's classes at the model's resolution: from its label, else from the prediction, else nothing."""
    if picture.mask is not None:
        return to_input_mask(picture.mask, input_size)
    if prediction is not None:
        return to_input_mask(decode_classes(prediction), input_size)
    return np.full(input_size, IGNORE, np.uint8)
