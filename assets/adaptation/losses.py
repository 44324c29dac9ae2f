"""Losses that several methods share, and the formulas of the others: each checked against a reference.

Belongs here: functions of tensors. Does not: streams, loops.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from assets.adaptation.networks import Seen, look
from assets.inference.training import augmented
from resources.datasets.base import IGNORE
from resources.model import SegmentationModel
from resources.pictures import Batch

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SMALLEST = 1e-12


def labelled_loss(
    network: nn.Module, model: SegmentationModel, batch: Batch, draws: torch.Generator
) -> tuple[Tensor, Seen]:
    """Mean cross-entropy over the labelled pixels of an augmented batch, and what the network saw in it."""
    pictures, labels = augmented(batch, draws)
    seen = look(network, model.normalised(pictures), model.config.embedding_layer)
    return pixel_loss(seen.logits, labels), seen


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over labelled pixels; logits (n, C, H, W), labels (n, H, W); 0 where nothing is labelled."""
    from torch.nn import functional

    labels = labels.to(logits.device)
    total = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def coral_loss(source: Tensor, target: Tensor) -> Tensor:
    """‖C_s − C_t‖²_F / (4d²) of two feature maps (n, d, h, w), each pixel one row (Sun & Saenko 2016, deep CORAL)."""
    import torch

    rows = [features.transpose(0, 1).flatten(1).float() for features in (source, target)]
    first, second = (torch.cov(matrix) for matrix in rows)
    return ((first - second) ** 2).sum() / (4 * len(first) ** 2)


def reversed_gradient(features: Tensor, strength: float) -> Tensor:
    """The same values, whose gradient arrives multiplied by −strength (Ganin et al. 2016)."""
    same = features.view_as(features)
    if same.requires_grad:
        same.register_hook(lambda gradient: -strength * gradient)  # type: ignore[no-untyped-call]
    return same


def self_information(logits: Tensor) -> Tensor:
    """−p·log p / log C of every class and pixel (n, C, H, W); summed over classes, entropy in 0..1 (Vu et al. 2019)."""
    logs = logits.float().log_softmax(1)
    return -logs.exp() * logs / math.log(logits.shape[1])


def swapped_amplitudes(pictures: Tensor, style: Tensor, beta: float) -> Tensor:
    """Each picture's amplitudes in the window [c−b, c+b+1) around zero frequency become those of its style's picture.

    Phases stay (Yang & Soatto 2020, FDA); b = ⌊min(h, w)·β⌋. Both (n, 3, H, W) in 0..1, as the result.
    """
    import torch

    reach = math.floor(min(pictures.shape[2:]) * beta)
    spectrum, wanted = torch.fft.rfft2(pictures), torch.fft.rfft2(style).abs()
    for rows in (slice(-reach, None), slice(0, reach + 1)) if reach else (slice(0, 1),):
        present = spectrum[:, :, rows, : reach + 1]
        part = wanted[:, :, rows, : reach + 1]
        spectrum[:, :, rows, : reach + 1] = present / present.abs().clamp(min=SMALLEST) * part
    changed: Tensor = torch.fft.irfft2(spectrum, s=pictures.shape[2:])
    return changed.clamp(0, 1)


def domain_loss(scores: Tensor, *, source: bool) -> Tensor:
    """Binary cross-entropy of a discriminator's scores (any shape) against 1 for the source, 0 for the target."""
    from torch.nn import functional

    wanted = scores.new_full(scores.shape, float(source))
    return functional.binary_cross_entropy_with_logits(scores, wanted)
