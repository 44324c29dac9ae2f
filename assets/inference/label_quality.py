"""How far a sample's labels can be trusted, by the model's own word: cleanlab's scores, a picture at a time.

Belongs here: the label-quality score and the suspected pixels of one sample, at the model's resolution.
Does not: comparisons between sets (diagnosis), losses without suspected pixels (experiments).

Both figures are `cleanlab.segmentation`'s (Lad & Mueller 2023): the softmin score of `get_label_quality_scores`, and
the pixels that `issues_from_scores` names at its default threshold. The other rule that cleanlab has,
`find_label_issues`, needs thresholds and a count over the whole data set before it can judge a pixel: a row would then
change with every other sample, and two passes would be needed. Ignored pixels, which cleanlab has no notion of, don't
count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from resources.datasets.base import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

TEMPERATURE = 0.1
"""Of the softmin: the lower, the more the worst pixels decide."""
SUSPECT_BELOW = 0.1
"""A pixel is suspected where the model gives its label less than this probability."""

LABEL_QUALITY_SCHEMA: dict[str, Any] = {
    "label_quality": pl.Float64,
    "suspect_pixels": pl.List(pl.Int64),
    "judged_pixels": pl.List(pl.Int64),
}


@dataclass(frozen=True, slots=True)
class LabelQuality:
    """One sample's labels judged at the model's resolution; `score` is None where nothing is labelled.

    `score` 0 (bad) to 1 (good); `suspects` and `judged` (C,): suspected and all labelled pixels by label.
    """

    score: float | None
    suspects: NDArray[np.int64]
    judged: NDArray[np.int64]

    def row(self) -> dict[str, Any]:
        """Its columns of the evaluation table."""
        return {
            "label_quality": self.score,
            "suspect_pixels": self.suspects.tolist(),
            "judged_pixels": self.judged.tolist(),
        }


def label_quality(logits: Tensor, mask: NDArray[np.uint8]) -> LabelQuality:
    """Judge the labels of one sample: logits (C, H, W) and the mask (H, W) at the same pixels.

    score = Σ sᵢ·wᵢ with w = softmax((1 − s)/T) over labelled pixels, s the probability of each pixel's own label.
    """
    import torch

    classes = logits.shape[0]
    labels = torch.from_numpy(mask).to(logits.device).reshape(-1).long()
    valid = labels != IGNORE
    own = self_confidence(logits.reshape(classes, -1), labels.clamp(max=classes - 1))[valid].double()
    labels = labels[valid]
    if not len(own):
        nothing = np.zeros(classes, np.int64)
        return LabelQuality(None, nothing, nothing.copy())
    weights = ((1 - own) / TEMPERATURE).softmax(0)
    return LabelQuality(
        score=float((own * weights).sum()),
        suspects=torch.bincount(labels[own < SUSPECT_BELOW], minlength=classes).cpu().numpy(),
        judged=torch.bincount(labels, minlength=classes).cpu().numpy(),
    )


def suspected_pixels(logits: Tensor, mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where the labels of one sample are suspected: logits (C, H, W) and mask (H, W) -> (H, W); never where ignored."""
    import torch

    labels = torch.from_numpy(np.where(mask == IGNORE, 0, mask)).to(logits.device).reshape(-1).long()
    own = self_confidence(logits.reshape(logits.shape[0], -1), labels).reshape(mask.shape)
    found: NDArray[np.bool_] = (own < SUSPECT_BELOW).cpu().numpy() & (mask != IGNORE)
    return found


def self_confidence(scores: Tensor, labels: Tensor) -> Tensor:
    """Probability that the model gives each pixel's own label: scores (C, n), labels (n,) -> (n,)."""
    return (scores.gather(0, labels[None])[0] - scores.logsumexp(0)).exp()
