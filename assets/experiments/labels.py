"""Changes of labels: the loss of both sets under one rule that makes their labels comparable.

Belongs here: label operators. Does not: what speaks for them (diagnosis/label_policy.py), trials.

A rule that leaves pixels out or merges classes lowers any set's loss. So it is applied to target and holdout alike, and
what it closes of the gap is what the target's loss falls by *more* than the holdout's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.diagnosis.label_policy import VOID, LabelSums, PairShift, conventions, label_sums, pair_shifts
from assets.experiments.operators import Floats, NotApplicable, Parameters
from assets.experiments.reweight import weighted_losses
from assets.inference.label_quality import SUSPECT_BELOW, self_confidence
from resources.datasets.base import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

SHAMS = 3
"""Other pairs of classes, nearest in pixels, that stand against a policy; their mean counts."""


@dataclass(frozen=True)
class LabelPolicy:
    """Classes merged, or a class left without a label, on both sides: what another convention can't tell apart.

    Labels of a pair become one class and its score is the log of the summed exponentials of both, so that its
    probability is the sum. `most` conventions at once, of different classes.
    """

    most: int = 2

    def fit(self, holdout: pl.DataFrame, target: pl.DataFrame) -> Parameters:
        """The conventions that close most between evaluation rows of two fit halves, by their sums: no forward.

        Raises NotApplicable where there is none, or none that closes anything.
        """
        source, other = label_sums(holdout), label_sums(target)
        gains = [
            (_mean(_gain(target, other, shift)) - _mean(_gain(holdout, source, shift)), shift)
            for shift in conventions(pair_shifts(source, other))
        ]
        gains.sort(key=lambda item: -item[0])
        if not gains:
            raise NotApplicable("the fit half shows no convention of labelling that differs")
        if gains[0][0] <= 0:
            raise NotApplicable("the conventions that differ do not cost the target more than the source")
        return _rule(_disjoint([shift for gain, shift in gains if gain > 0])[: self.most])

    def shams(self, parameters: Parameters, holdout: pl.DataFrame, target: pl.DataFrame) -> list[Parameters]:
        """As many other pairs merged, or other classes left out, with as many pixels as can be found."""
        counts = label_sums(holdout).counts.sum(0) + label_sums(target).counts.sum(0)
        pixels: Floats = counts.sum(0) + counts.sum(1)
        classes = [[index] for index in range(len(pixels))]
        pairs = [list(pair) for pair in combinations(range(len(pixels)), 2)]
        merged = [_nearest(pair, pairs, pixels) for pair in parameters["merge"]]
        ignored = [_nearest([index], classes, pixels) for index in parameters["ignore"]]
        rounds = min((len(options) for options in [*merged, *ignored]), default=0)
        return [
            {"merge": [options[i] for options in merged], "ignore": [options[i][0] for options in ignored]}
            for i in range(min(rounds, SHAMS))
        ]

    def relabel(
        self, scores: Tensor, mask: NDArray[np.uint8], parameters: Parameters
    ) -> tuple[Tensor, NDArray[np.uint8]]:
        """Scores (C, h, w) and mask (h, w) under the rule."""
        scores, mask = scores.clone(), mask.copy()
        for keep, drop in parameters["merge"]:
            scores[keep] = scores[[keep, drop]].logsumexp(0)
            scores[drop] = -float("inf")
            mask[mask == drop] = keep
        mask[np.isin(mask, parameters["ignore"])] = IGNORE
        return scores, mask


@dataclass(frozen=True)
class WithoutSuspects:
    """The loss of labels that are not suspected: those that the model gives a probability of at least `below`.

    The sham leaves out as many pixels of each sample, those of which the model is least sure whatever their label.
    """

    below: float = SUSPECT_BELOW

    def fit(self, holdout: pl.DataFrame, target: pl.DataFrame) -> Parameters:  # noqa: ARG002
        """Nothing is learned: the rule is the same for every set."""
        return {"below": self.below, "leave_out": "suspected"}

    def shams(self, parameters: Parameters, holdout: pl.DataFrame, target: pl.DataFrame) -> list[Parameters]:  # noqa: ARG002
        """As many doubtful pixels."""
        return [parameters | {"leave_out": "doubtful"}]

    def relabel(
        self, scores: Tensor, mask: NDArray[np.uint8], parameters: Parameters
    ) -> tuple[Tensor, NDArray[np.uint8]]:
        """The mask (h, w) without the pixels that the rule leaves out; scores (C, h, w) stay."""
        import torch

        flat = scores.reshape(scores.shape[0], -1)
        labels = torch.from_numpy(mask).to(scores.device).reshape(-1).long()
        valid = (labels != IGNORE).nonzero()[:, 0]
        flat, labels = flat.index_select(1, valid), labels[valid]
        out = self_confidence(flat, labels) < parameters["below"]
        if parameters["leave_out"] == "doubtful":
            doubtful = self_confidence(flat, flat.max(0).indices).argsort(stable=True)[: int(out.sum())]
            out = torch.zeros_like(out).index_fill(0, doubtful, value=True)
        left: NDArray[np.uint8] = mask.copy().reshape(-1)
        left[valid[out].cpu().numpy()] = IGNORE
        return scores, left.reshape(mask.shape)


def _gain(rows: pl.DataFrame, sums: LabelSums, shift: PairShift) -> Floats:
    """What a rule takes off each sample's loss, (n,).

    Exact for a class that is left out. A merged pair's pixels keep the loss of their mean confidence: an estimate that
    counts on the model giving the merged class no more than it gives the one that it predicts.
    """
    pixels = sums.counts.sum((1, 2))
    before = sums.loss.sum((1, 2)) / pixels
    if shift.label == VOID:
        kept = np.ones(sums.counts.shape[1])
        kept[shift.prediction] = 0
        left_out: Floats = before - weighted_losses(sums.loss.sum(2), sums.counts.sum(2), kept)
        return left_out
    gain = np.zeros(rows.height)
    for pair in ((shift.label, shift.prediction), (shift.prediction, shift.label)):
        count, confidence, loss = (part[:, *pair] for part in (sums.counts, sums.confidence, sums.loss))
        mean = np.divide(confidence, count, out=np.ones_like(count), where=count > 0)
        gain += loss + count * np.log(mean)
    gain /= pixels
    return gain


def _mean(values: Floats) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0


def _disjoint(shifts: Sequence[PairShift]) -> list[PairShift]:
    """The first of those that share a class."""
    found: list[PairShift] = []
    for shift in shifts:
        taken = {index for other in found for index in (other.label, other.prediction)} - {VOID}
        if not {shift.label, shift.prediction} & taken:
            found.append(shift)
    return found


def _rule(shifts: Sequence[PairShift]) -> Parameters:
    return {
        "merge": [[shift.label, shift.prediction] for shift in shifts if shift.label != VOID],
        "ignore": [shift.prediction for shift in shifts if shift.label == VOID],
    }


def _nearest(chosen: list[int], options: list[list[int]], pixels: Floats) -> list[list[int]]:
    """Options of other classes than all of the chosen ones, those with the nearest number of pixels first."""
    wanted = pixels[chosen].sum()
    others = [option for option in options if set(option) != set(chosen) and pixels[option].sum() > 0]
    return sorted(others, key=lambda option: abs(float(pixels[option].sum() - wanted)))
