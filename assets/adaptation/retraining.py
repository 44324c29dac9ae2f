"""Retraining on what stands for the target: restyled source pictures, the model's own confident predictions.

Belongs here: FDA and self-training. Does not: alignment of features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from assets.adaptation.losses import labelled_loss, pixel_loss, swapped_amplitudes
from assets.adaptation.networks import Chosen, everything, look
from assets.adaptation.streams import Material, side_by_side
from assets.adaptation.training import Descent
from assets.inference.training import augment, augmented
from resources.datasets.base import IGNORE
from resources.pictures import Batch

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

BETA = 0.01
"""Half-width of the window of amplitudes, as a share of the shorter side (Yang & Soatto 2020)."""
KEPT = 0.5
"""Share of each predicted class's pixels that become pseudo labels, the most confident first."""
BINS = 1000


class Restyled(Descent):
    """Cross-entropy on source pictures with the low-frequency amplitudes of target pictures."""

    def __init__(self, material: Material, seed: int) -> None:
        from torch import nn

        self.model, self.source, self.target = material.model, material.source(seed), material.target(seed)
        self.chosen: Chosen = everything
        self.beside = nn.Module()

    def batches(self, first: int, end: int) -> Iterator[tuple[Batch, Batch]]:
        """Labelled source pictures beside target pictures that lend their amplitudes."""
        return side_by_side(self.source, self.target, first, end)

    def loss(
        self, network: nn.Module, batch: tuple[Batch, Batch], progress: float, draws: torch.Generator,  # noqa: ARG002
    ) -> Tensor:  # fmt: skip
        """Cross-entropy on the restyled pictures."""
        pictures, labels = augmented(batch[0], draws)
        restyled = swapped_amplitudes(pictures, batch[1].reduced, BETA)
        seen = look(network, self.model.normalised(restyled), self.model.config.embedding_layer)
        return pixel_loss(seen.logits, labels)


class SelfTraining(Descent):
    """Cross-entropy on source labels and on pseudo labels, which the model that is adapted gave before the first step.

    A pixel counts where its confidence is at least its predicted class's threshold (Zou et al. 2018, class-balanced).
    """

    def __init__(self, material: Material, seed: int) -> None:
        import torch
        from torch import nn

        self.model, self.source, self.target = material.model, material.source(seed), material.target(seed)
        self.chosen: Chosen = everything
        self.beside = nn.Module()
        self.beside.register_buffer("thresholds", torch.ones(self.model.class_count))

    def prepare(self, network: nn.Module) -> None:  # noqa: ARG002
        """Thresholds of all classes, from one pass over the fit half."""
        import torch

        counts = torch.zeros(self.model.class_count, BINS)
        for batch in self.target.once():
            confidence, predicted = self._predictions(batch.reduced)
            counts += confidence_counts(confidence, predicted, self.model.class_count)
        self.beside.thresholds.copy_(class_thresholds(counts, KEPT))  # type: ignore[operator]

    def batches(self, first: int, end: int) -> Iterator[tuple[Batch, Batch]]:
        """Labelled source pictures beside unlabelled target ones."""
        return side_by_side(self.source, self.target, first, end)

    def loss(
        self, network: nn.Module, batch: tuple[Batch, Batch], progress: float, draws: torch.Generator,  # noqa: ARG002
    ) -> Tensor:  # fmt: skip
        """The sum of both cross-entropies."""
        import torch

        supervised, _ = labelled_loss(network, self.model, batch[0], draws)
        thresholds: Any = self.beside.thresholds
        labels = pseudo_labels(*self._predictions(batch[1].reduced), thresholds)
        pairs = [augment(*pair, draws) for pair in zip(batch[1].reduced, labels, strict=True)]
        pictures = self.model.normalised(torch.stack([picture for picture, _ in pairs]))
        seen = look(network, pictures, self.model.config.embedding_layer)
        return supervised + pixel_loss(seen.logits, torch.stack([label for _, label in pairs]))

    def _predictions(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        confidence, predicted = self.model(pictures).logits.softmax(1).max(1)
        return confidence.cpu(), predicted.cpu()


def confidence_counts(confidence: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Pixels (C, BINS) by predicted class and confidence in 0..1."""
    import torch

    bins = (confidence * BINS).long().clamp(0, BINS - 1)
    return torch.bincount((predicted * BINS + bins).flatten(), minlength=classes * BINS).reshape(classes, BINS).float()


def class_thresholds(counts: Tensor, kept: float) -> Tensor:
    """Per class the lower edge of the bin at which the most confident reach the share `kept`; 1 without any pixel."""
    import torch

    above = counts.double().flip(1).cumsum(1)
    wanted = kept * above[:, -1:]
    first = (above >= wanted).int().argmax(1)
    edges = (BINS - 1 - first) / BINS
    return torch.where(above[:, -1] > 0, edges, 1.0).float()


def pseudo_labels(confidence: Tensor, predicted: Tensor, thresholds: Tensor) -> Tensor:
    """Predicted classes (n, H, W) where the confidence reaches the class's threshold, IGNORE elsewhere."""
    return predicted.masked_fill(confidence < thresholds[predicted], IGNORE)
