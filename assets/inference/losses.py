"""How well the model does on one sample: sums from which every aggregate is rebuilt exactly.

Belongs here: per-pixel loss, confusion, confidence, calibration bins, measured at the label's own pixels.
Does not: aggregates over samples (diagnosis), forwards.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from assets.inference.estimation import ESTIMATION_SCHEMA
from assets.inference.label_quality import LABEL_QUALITY_SCHEMA

if TYPE_CHECKING:
    from torch import Tensor

ECE_BINS = 15
PIXELS_AT_ONCE = 1 << 14
"""Of a picture on a processor: their scores fit its cache."""
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
    import torch

    classes = logits.shape[0]
    cells = (classes + 1) * classes
    table = np.zeros((2, cells))
    for flat, labels in _blocks(logits, mask):
        pixels = _Pixels(flat)
        pairs = (labels * classes).add_(pixels.predicted)
        sums = torch.bincount(pairs, minlength=cells), _weigh(pairs, pixels.losses(labels), cells)
        table += torch.stack([one.double() for one in sums]).cpu().numpy()
    counts, losses = table.reshape(2, classes + 1, classes)[:, :classes]
    return _sums(counts, losses)


def evaluate(logits: Tensor, mask: NDArray[np.uint8] | None) -> Evaluation:
    """All figures of one sample; logits (C, h, w) at the mask's pixels, or at any size without a mask.

    Every sum is a margin of one table: counts, losses and confidences by label, prediction and calibration bin.
    """
    import torch

    classes = logits.shape[0]
    cells = (classes + 1) * classes * ECE_BINS
    table = np.zeros(3 * cells + 1)
    for flat, labels in _blocks(logits, mask):
        pixels = _Pixels(flat)
        losses, confidence = pixels.losses(labels), pixels.confidence()
        bins = (confidence * ECE_BINS).long().clamp_(0, ECE_BINS - 1)
        cell = labels.mul_(classes).add_(pixels.predicted).mul_(ECE_BINS).add_(bins)
        counts = torch.bincount(cell, minlength=cells).double()
        weighed = [_weigh(cell, one, cells) for one in (losses, confidence)]
        entropy = pixels.entropy().sum(dtype=torch.float64)[None]
        table += torch.cat([counts, *weighed, entropy]).cpu().numpy()  # one transfer from the device
    everything = table[:-1].reshape(3, classes + 1, classes, ECE_BINS)
    pixel_count = float(everything[0].sum())
    counts, losses, confidences = everything[:, :classes]
    return Evaluation(
        sums=_sums(counts.sum(2), losses.sum(2)),
        confidence=float(everything[2].sum()) / pixel_count,
        entropy=float(table[-1]) / pixel_count,
        predicted_pixels=everything[0].sum((0, 2)).astype(np.int64),
        pair_loss=losses.sum(2),
        pair_confidence=confidences.sum(2),
        bin_count=counts.sum((0, 1)).astype(np.int64),
        bin_confidence=confidences.sum((0, 1)),
        bin_correct=np.einsum("ccb->b", counts).astype(np.int64),
        labelled=mask is not None,
    )


def encode_classes(prediction: NDArray[np.uint8]) -> bytes:
    """A class map as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(prediction).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


def decode_classes(png: bytes) -> NDArray[np.uint8]:
    """The class map of `encode_classes`."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


class _Pixels:
    """What one softmax of scores (C, P) says of each pixel; read `losses` and `confidence` before `entropy`."""

    def __init__(self, scores: Tensor) -> None:
        # max() over the class axis is several times faster than argmax() on a processor
        peak, self.predicted = scores.max(0)
        self._shifted = scores - peak
        self._shares = self._shifted.exp()
        self._total = self._shares.sum(0)
        self._normaliser = self._total.log()

    def losses(self, labels: Tensor) -> Tensor:
        """Cross-entropy (P,) with labels (P,); of no meaning where the label is no class."""
        own = labels.clamp(max=self._shifted.shape[0] - 1)
        return self._normaliser - self._shifted.gather(0, own[None])[0]

    def confidence(self) -> Tensor:
        """Probability of the predicted class, (P,)."""
        return self._total.reciprocal()

    def entropy(self) -> Tensor:
        """Entropy of the prediction in nats, (P,); takes the shares apart."""
        return self._normaliser - self._shares.mul_(self._shifted).sum(0) / self._total


def _blocks(logits: Tensor, mask: NDArray[np.uint8] | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores (C, P) and labels (P,) a block at a time; a pixel without a label has the label C.

    On a processor a block's sums stay in its cache; a device takes the picture as one block.
    """
    import torch

    classes = logits.shape[0]
    flat = logits.reshape(classes, -1)
    size = PIXELS_AT_ONCE if logits.device.type == "cpu" else flat.shape[1]
    if mask is None:
        labels = torch.full((flat.shape[1],), classes, device=logits.device)
    else:
        labels = torch.from_numpy(mask).to(logits.device).reshape(-1).long().clamp_(max=classes)
    yield from zip(torch.split(flat, size, 1), torch.split(labels, size), strict=True)


def _sums(counts: NDArray[np.float64], losses: NDArray[np.float64]) -> PixelSums:
    """Of tables by label and prediction, (C, C)."""
    confusion = counts.astype(np.int64)
    return PixelSums(losses.sum(1), confusion.sum(1), confusion)


def _weigh(index: Tensor, weights: Tensor, length: int) -> Tensor:
    import torch

    return torch.bincount(index, weights.double(), minlength=length)
