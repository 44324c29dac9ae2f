"""The contract of operators: what can be done to a picture, its geometry or the model, and what a fit may use.

Belongs here: the protocols and the statistics of a set that fits are made from.
Does not: particular operators (`normalise.py`, `imitate.py`, `geometry.py`, `model_side.py`, `reweight.py`,
`labels.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from resources.fingerprint import fingerprint

if TYPE_CHECKING:
    from torch import Tensor

    from resources.model import SegmentationModel

Floats = NDArray[np.float64]
Parameters = dict[str, Any]
"""What a fit learned: JSON values only, so that it can be hashed, stored and exported."""


class NotApplicable(Exception):
    """A fit found nothing to do; the message says why and becomes the reason for skipping."""


@dataclass(frozen=True)
class SetStatistics:
    """What fits know of a set of samples: sufficient statistics that add up, and a few pictures where those don't do.

    `histogram`: (3, 256) pooled 8-bit counts of the pictures at the model's input. `traits`: one row a sample.
    `load_pictures`: decodes the first `PICTURES` samples by hash, float32 (n, 3, H, W) in 0..1; called when needed.
    """

    histogram: NDArray[np.int64]
    traits: pl.DataFrame
    load_pictures: Callable[[], Tensor] = field(repr=False)

    @cached_property
    def pictures(self) -> Tensor:
        """A few pictures of the set, decoded once."""
        return self.load_pictures()

    @property
    def version(self) -> str:
        """Names the set's content: for fits that learn nothing that could be stored."""
        return fingerprint(self.histogram.tolist())

    @property
    def channel_mean(self) -> Floats:
        """Mean of each channel in 0..1, (3,)."""
        levels = np.arange(256) / 255
        mean: Floats = self.histogram @ levels / self.histogram.sum(1)
        return mean

    @property
    def channel_std(self) -> Floats:
        """Deviation of each channel over all pixels of the set, (3,)."""
        levels = np.arange(256) / 255
        squares = self.histogram @ levels**2 / self.histogram.sum(1)
        deviation: Floats = np.sqrt(np.maximum(squares - self.channel_mean**2, 0))
        return deviation

    def quantile(self, level: float) -> float:
        """Quantile of all channel values together, in 0..1, linear within a grey level."""
        counts = self.histogram.sum(0)
        cumulative = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
        edges = np.clip((np.arange(257) - 0.5) / 255, 0, 1)
        return float(np.interp(level, cumulative, edges))

    def trait(self, name: str) -> Floats:
        """One trait of every sample, NaN left out."""
        values = self.traits[name].to_numpy()
        return np.asarray(values[~np.isnan(values)], dtype=np.float64)


@runtime_checkable
class PictureOperator(Protocol):
    """A map of pictures: fitted between two sets, applied to batches float32 (n, 3, H, W) in 0..1 on any device."""

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """Learn the map that takes the origin's pictures towards the destination. Raises NotApplicable."""
        ...

    def apply(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Map a batch; the result is clipped to 0..1."""
        ...


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of a picture in pixels, end exclusive; parts outside the picture are padded."""

    top: int
    left: int
    bottom: int
    right: int


@runtime_checkable
class WindowOperator(Protocol):
    """A change of geometry: the windows of a picture that pass the model in its place.

    Predictions are mapped back to the picture's own pixels, so that loss is always measured there.
    """

    def fit(self, destination: SetStatistics, origin: SetStatistics) -> Parameters:
        """Learn the windows' shape. Raises NotApplicable."""
        ...

    def windows(self, height: int, width: int, parameters: Parameters) -> list[Window]:
        """Windows of one picture of that size."""
        ...

    def sham(self, parameters: Parameters) -> Parameters:
        """Parameters of windows of the same kind that are not aimed at the trait."""
        ...


@runtime_checkable
class ModelOperator(Protocol):
    """A change of the model: fitted on pictures of the set it is meant for (float32 (n, 3, H, W) in 0..1)."""

    def adapt(self, model: SegmentationModel, fit_pictures: Tensor, *, sham: bool = False) -> SegmentationModel:
        """A changed copy of the model; `sham` makes a change of the same size that is not aimed."""
        ...


@runtime_checkable
class ReweightOperator(Protocol):
    """A change of composition: labelled pixels of each sample weighted anew, by class; no forward.

    `pixels` (n, C) labelled pixels of each sample and class.
    """

    def fit(self, destination: Floats, origin: Floats) -> Parameters:
        """Learn weights by class that bring the origin's shares to the destination's. Raises NotApplicable."""
        ...

    def weights(self, class_count: int, parameters: Parameters) -> Floats:
        """Weight of a pixel of each class, (C,)."""
        ...

    def shams(self, destination: Floats, origin: Floats) -> list[Parameters]:
        """Parameters that move as much mass between other classes."""
        ...


@runtime_checkable
class LabelOperator(Protocol):
    """A change of what labels say, applied to target and holdout alike; fitted on evaluation rows, no forward.

    `holdout`, `target`: labelled evaluation rows of the fit halves, with their units.
    """

    def fit(self, holdout: pl.DataFrame, target: pl.DataFrame) -> Parameters:
        """Learn the rule. Raises NotApplicable."""
        ...

    def shams(self, parameters: Parameters, holdout: pl.DataFrame, target: pl.DataFrame) -> list[Parameters]:
        """Rules that change as many pixels and are not aimed; empty where there is none."""
        ...

    def relabel(
        self, scores: Tensor, mask: NDArray[np.uint8], parameters: Parameters
    ) -> tuple[Tensor, NDArray[np.uint8]]:
        """Scores (C, h, w) and mask (h, w) of one sample under the rule."""
        ...


Operator = PictureOperator | WindowOperator | ModelOperator | ReweightOperator | LabelOperator
