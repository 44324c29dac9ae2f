"""How well the model does on one sample: sums from which every aggregate is rebuilt exactly.

Belongs here: per-pixel loss, confusion, confidence, calibration bins, measured at the label's own pixels.
Does not: aggregates over samples (diagnosis), forwards.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from assets.inference.estimation import ESTIMATION_SCHEMA
from assets.inference.label_quality import LABEL_QUALITY_SCHEMA
from resources.datasets.base import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

ECE_BINS = 15
LISTS = {"loss_sum": pl.Float64, "class_pixels": pl.Int64, "confusion": pl.Int64, "predicted_pixels": pl.Int64,
         "pair_loss": pl.Float64, "pair_confidence": pl.Float64}  # fmt: skip
BINS = {"bin_count": pl.Int64, "bin_confidence": pl.Float64, "bin_correct": pl.Int64}

EVALUATION_SCHEMA: dict[str, Any] = {
    "sample_id": pl.String,
    "fingerprint": pl.String,
    "labelled": pl.Boolean,
    "loss": pl.Float64,
    "pixels": pl.Int64,
    "confidence": pl.Float64,
    "entropy": pl.Float64,
    **{name: pl.List(kind) for name, kind in {**LISTS, **BINS}.items()},
    **LABEL_QUALITY_SCHEMA,
    **ESTIMATION_SCHEMA,
    "prediction": pl.Binary,
}


@dataclass(frozen=True, slots=True)
class PixelSums:
    """Sums over the labelled pixels of one sample, by true class c: all that its losses and IoU need.

    `loss_sum` (C,) nats; `class_pixels` (C,); `confusion` (C, C) rows true, columns predicted.
    """

    loss_sum: NDArray[np.float64]
    class_pixels: NDArray[np.int64]
    confusion: NDArray[np.int64]

    @property
    def loss(self) -> float:
        """Mean cross-entropy over labelled pixels; NaN where there is none."""
        pixels = self.class_pixels.sum()
        return float(self.loss_sum.sum() / pixels) if pixels else float("nan")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One sample's evaluation. Confidence and entropy are means over all pixels, the bins over labelled ones.

    `pair_loss`, `pair_confidence` (C, C): loss, and the predicted class's confidence, summed over the labelled pixels
    of each label (rows) and prediction (columns).
    """

    sums: PixelSums
    confidence: float
    entropy: float
    predicted_pixels: NDArray[np.int64]
    pair_loss: NDArray[np.float64]
    pair_confidence: NDArray[np.float64]
    bin_count: NDArray[np.int64]
    bin_confidence: NDArray[np.float64]
    bin_correct: NDArray[np.int64]
    labelled: bool

    def row(self, sample_id: str, fingerprint: str, prediction: bytes) -> dict[str, Any]:
        """The sample's row of the evaluation table."""
        return {
            "sample_id": sample_id,
            "fingerprint": fingerprint,
            "labelled": self.labelled,
            "loss": self.sums.loss if self.labelled and self.sums.class_pixels.any() else None,
            "pixels": int(self.sums.class_pixels.sum()),
            "confidence": self.confidence,
            "entropy": self.entropy,
            "loss_sum": self.sums.loss_sum.tolist(),
            "class_pixels": self.sums.class_pixels.tolist(),
            "confusion": self.sums.confusion.ravel().tolist(),
            "predicted_pixels": self.predicted_pixels.tolist(),
            "pair_loss": self.pair_loss.ravel().tolist(),
            "pair_confidence": self.pair_confidence.ravel().tolist(),
            "bin_count": self.bin_count.tolist(),
            "bin_confidence": self.bin_confidence.tolist(),
            "bin_correct": self.bin_correct.tolist(),
            "prediction": prediction,
        }


def list_column(rows: pl.DataFrame, column: str) -> NDArray[np.float64]:
    """A list column of the evaluation, of equal lengths, as an array (n, k)."""
    width = rows[column].list.len()[0]
    return np.asarray(rows[column].list.to_array(width).to_numpy(), dtype=np.float64)


def at_label_pixels(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring one sample's logits (C, H, W) to the label's own pixels (C, h, w), bilinear."""
    from torch.nn import functional

    if tuple(logits.shape[-2:]) == size:
        return logits
    return functional.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]


def pixel_sums(logits: Tensor, mask: NDArray[np.uint8]) -> PixelSums:
    """Loss and confusion of one sample; logits (C, h, w) at the mask's pixels (h, w)."""
    scores, labels = _labelled(logits, mask)
    losses = scores.logsumexp(0) - scores.gather(0, labels[None])[0]
    # max() over the class axis is several times faster than argmax() on a processor
    return _sums(losses, labels, scores.max(0).indices, logits.shape[0])


def evaluate(logits: Tensor, mask: NDArray[np.uint8] | None) -> Evaluation:
    """All figures of one sample; logits (C, h, w) at the mask's pixels, or at any size without a mask."""
    import torch

    classes = logits.shape[0]
    if mask is None:
        mask = np.full(tuple(logits.shape[-2:]), IGNORE, np.uint8)
        labelled = False
    else:
        labelled = True
    flat = logits.reshape(classes, -1)
    peak, predicted = flat.max(0)
    normaliser = flat.logsumexp(0)
    confidence = (peak - normaliser).exp()
    entropy = normaliser - ((flat - normaliser).exp() * flat).sum(0)
    labels = torch.from_numpy(mask).to(logits.device).reshape(-1).long()
    valid = (labels != IGNORE).nonzero()[:, 0]
    labels, hit_confidence, hit_prediction = labels[valid], confidence[valid], predicted[valid]
    losses = normaliser[valid] - flat.index_select(1, valid).gather(0, labels[None])[0]
    bins = (hit_confidence * ECE_BINS).long().clamp_(0, ECE_BINS - 1)
    correct = hit_prediction == labels
    pairs = labels * classes + hit_prediction
    return Evaluation(
        sums=_sums(losses, labels, hit_prediction, classes),
        confidence=float(confidence.double().mean()),
        entropy=float(entropy.double().mean()),
        predicted_pixels=_count(predicted, classes),
        pair_loss=_weigh(pairs, losses, classes * classes).reshape(classes, classes),
        pair_confidence=_weigh(pairs, hit_confidence, classes * classes).reshape(classes, classes),
        bin_count=_count(bins, ECE_BINS),
        bin_confidence=_weigh(bins, hit_confidence, ECE_BINS),
        bin_correct=_count(bins[correct], ECE_BINS),
        labelled=labelled,
    )


def encode_classes(prediction: NDArray[np.uint8]) -> bytes:
    """A class map as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(prediction).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def decode_classes(png: bytes) -> NDArray[np.uint8]:
    """The class map of `encode_classes`."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def _labelled(logits: Tensor, mask: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    import torch

    labels = torch.from_numpy(mask).to(logits.device).reshape(-1).long()
    valid = (labels != IGNORE).nonzero()[:, 0]
    return logits.reshape(logits.shape[0], -1).index_select(1, valid), labels[valid]


def _sums(losses: Tensor, labels: Tensor, predicted: Tensor, classes: int) -> PixelSums:
    return PixelSums(
        loss_sum=_weigh(labels, losses, classes),
        class_pixels=_count(labels, classes),
        confusion=_count(labels * classes + predicted, classes * classes).reshape(classes, classes),
    )


def _count(index: Tensor, length: int) -> NDArray[np.int64]:
    import torch

    return torch.bincount(index, minlength=length).cpu().numpy()


def _weigh(index: Tensor, weights: Tensor, length: int) -> NDArray[np.float64]:
    import torch

    return torch.bincount(index, weights.double(), minlength=length).cpu().numpy()
