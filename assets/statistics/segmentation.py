"""Figures of segmentation quality from what the forward pass sums up.

Belongs here: IoU, accuracy and calibration from counts, and the split of a loss gap into class mix and class loss.
Does not: making the counts (inference) or their intervals (resampling).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Kitagawa:
    """A pixel-weighted loss gap split by class; `total` is the sum of both parts."""

    composition: Floats
    """(C,) share of the gap from other pixel shares."""
    within: Floats
    """(C,) share of the gap from another loss on the same class."""
    total: float


def iou(confusion: ArrayLike) -> Floats:
    """Intersection over union per class from one confusion matrix over the data set.

    Args:
        confusion: (C, C) pixel counts, rows = label, columns = prediction, ignored pixels left out.

    Returns:
        (C,) IoU; NaN for a class that is neither labelled nor predicted.

    Raises:
        ValueError: not a square matrix.
    """
    counts = _square(confusion)
    hits = np.diag(counts)
    union = counts.sum(axis=0) + counts.sum(axis=1) - hits
    shares: Floats = np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
    return shares


def mean_iou(confusion: ArrayLike) -> float:
    """Mean IoU over the classes that are labelled or predicted anywhere; NaN without any.

    Args:
        confusion: (C, C) pixel counts, rows = label, columns = prediction.

    Raises:
        ValueError: not a square matrix.
    """
    values = iou(confusion)
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def expected_calibration_error(bin_count: ArrayLike, bin_confidence_sum: ArrayLike, bin_correct: ArrayLike) -> float:
    """Σ_b n_b/n · |accuracy_b − confidence_b| over bins of the maximum probability (Guo et al. 2017).

    Args:
        bin_count: (B,) pixels per bin.
        bin_confidence_sum: (B,) sum of their maximum probabilities.
        bin_correct: (B,) how many of them are predicted right.

    Returns:
        0..1; NaN without pixels.

    Raises:
        ValueError: different lengths.
    """
    count = np.asarray(bin_count, dtype=np.float64)
    confidence, correct = np.asarray(bin_confidence_sum, np.float64), np.asarray(bin_correct, np.float64)
    if not count.shape == confidence.shape == correct.shape:
        raise ValueError(f"bins differ in length: {count.shape}, {confidence.shape}, {correct.shape}")
    total = count.sum()
    return float(np.abs(correct - confidence).sum() / total) if total > 0 else math.nan


def kitagawa(loss_sum_a: ArrayLike, pixels_a: ArrayLike, loss_sum_b: ArrayLike, pixels_b: ArrayLike) -> Kitagawa:
    """Split of the pixel-weighted loss gap b − a (Kitagawa 1955): Σ_c Δw_c·ℓ̄_c + Σ_c w̄_c·Δℓ_c.

    w is a class's pixel share, ℓ its mean loss, bars are means of the two sides. A class that one side lacks has no
    loss there; it takes the other side's, so that all it adds counts as composition. Both parts sum exactly to the gap.

    Args:
        loss_sum_a: (C,) summed loss of the pixels of each class.
        pixels_a: (C,) pixels of each class.
        loss_sum_b: (C,) the same of the other side.
        pixels_b: (C,) the same of the other side.

    Returns:
        The split; all NaN where a side has no pixels.

    Raises:
        ValueError: different lengths.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (loss_sum_a, pixels_a, loss_sum_b, pixels_b)]
    if len({side.shape for side in sides}) != 1:
        raise ValueError(f"classes differ in number: {[side.shape for side in sides]}")
    sum_a, count_a, sum_b, count_b = sides
    if count_a.sum() == 0 or count_b.sum() == 0:
        unknown = np.full(sum_a.shape, np.nan)
        return Kitagawa(unknown, unknown.copy(), math.nan)
    share_a, share_b = count_a / count_a.sum(), count_b / count_b.sum()
    loss_a, loss_b = _class_loss(sum_a, count_a, sum_b, count_b), _class_loss(sum_b, count_b, sum_a, count_a)
    composition = (share_b - share_a) * (loss_a + loss_b) / 2
    within = (share_a + share_b) / 2 * (loss_b - loss_a)
    return Kitagawa(composition, within, float((composition + within).sum()))


def _square(confusion: ArrayLike) -> Floats:
    counts = np.asarray(confusion, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:  # noqa: PLR2004
        raise ValueError(f"a confusion matrix is square, got {counts.shape}")
    return counts


def _class_loss(loss_sum: Floats, pixels: Floats, other_sum: Floats, other_pixels: Floats) -> Floats:
    """Mean loss per class; the other side's where this side has no pixels, 0 where neither has."""
    total, count = np.where(pixels > 0, loss_sum, other_sum), np.where(pixels > 0, pixels, other_pixels)
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)
