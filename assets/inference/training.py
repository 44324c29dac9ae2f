"""Training on the source's reference, for those who bring no checkpoint.

Belongs here: the training loop and its augmentation (flips and zoom-in crops: nothing that hides a domain gap).
Does not: building or saving networks (resources/model.py), adaptation to targets.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from resources.config import ModelConfig
from resources.datasets.base import IGNORE
from resources.engine import Batches
from resources.errors import ModelError
from resources.model import pick_device, seed_everything
from resources.pictures import Batch, SamplePaths, to_input_mask
from resources.progress import track

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SMALLEST_CROP = 0.6
WEIGHT_DECAY = 1e-2
WARM_UP = 0.11
"""Share of the steps; with 0.1 and ten steps OneCycleLR divides by the zero steps of its first phase."""


def train(
    network: nn.Module, batches: Batches, samples: list[SamplePaths], config: ModelConfig, *, device: str, what: str
) -> float:
    """Fit a network in place and return the last epoch's mean loss.

    AdamW with a one-cycle rate, pixel cross-entropy, batches drawn anew each epoch from a seeded order. Raises
    ModelError for fewer than two samples, or when the loss is no number.
    """
    import torch
    from torch.nn import functional

    settings = config.training
    steps = len(samples) // settings.batch_size or 1
    if len(samples) < 2:  # noqa: PLR2004
        raise ModelError(f"source: {len(samples)} labelled reference samples; training needs at least 2")
    draws = seed_everything(settings.seed)
    place = torch.device(pick_device(device))
    network.train().to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=steps * settings.epochs, pct_start=WARM_UP
    )
    mean = torch.tensor(config.mean, device=place)[:, None, None]
    std = torch.tensor(config.std, device=place)[:, None, None]
    loss_sum, drawn = 0.0, min(len(samples), max(2, steps * settings.batch_size))
    for _ in track(range(settings.epochs), what, settings.epochs):
        order = torch.randperm(len(samples), generator=draws).tolist()
        chosen = [samples[i] for i in order[:drawn]]
        loss_sum = 0.0
        for batch in batches(chosen):
            pictures, labels = augmented(batch, draws)
            logits = network(((pictures.to(place) - mean) / std).contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(logits.float(), labels.to(place), ignore_index=IGNORE)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if schedule.last_epoch < steps * settings.epochs:
                schedule.step()
            loss_sum += float(loss.detach()) * len(batch.pictures)
        if not math.isfinite(loss_sum):
            raise ModelError("training: the loss is no finite number; lower model.training.learning_rate")
    network.eval()
    return loss_sum / drawn


def augmented(batch: Batch, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, H, W) and labels (n, H, W) of a labelled batch at the model's input, changed at random."""
    import torch

    size = (batch.reduced.shape[2], batch.reduced.shape[3])
    masks = [to_input_mask(picture.mask, size) for picture in batch.pictures if picture.mask is not None]
    labels = torch.stack([torch.from_numpy(mask) for mask in masks]).long()
    pairs = [augment(picture, label, draws) for picture, label in zip(batch.reduced, labels, strict=True)]
    return torch.stack([picture for picture, _ in pairs]), torch.stack([label for _, label in pairs])


def augment(picture: Tensor, label: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror every second picture and zoom into a random crop of at least `SMALLEST_CROP` of its sides."""
    import torch
    from torch.nn import functional

    chance = torch.rand(4, generator=draws).tolist()
    if chance[0] < 1 / 2:
        picture, label = picture.flip(2), label.flip(1)
    height, width = label.shape
    share = SMALLEST_CROP + (1 - SMALLEST_CROP) * chance[1]
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    top, left = int(chance[2] * (height - rows + 1)), int(chance[3] * (width - columns + 1))
    crop = picture[None, :, top : top + rows, left : left + columns]
    marks = label[None, None, top : top + rows, left : left + columns].float()
    zoomed = functional.interpolate(crop, size=(height, width), mode="bilinear", align_corners=False)[0]
    return zoomed, functional.interpolate(marks, size=(height, width), mode="nearest")[0, 0].long()
