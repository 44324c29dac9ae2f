"""What fine-tuning one part alone recovers, with the target's labels.

Belongs here: training one part's parameters on the target's labelled fit half. Does not: adapting the whole model,
measuring the loss afterwards (`ablation.py`'s pass does).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assets.adaptation.losses import labelled_loss
from assets.model_parts.parts import Part
from resources.model import SegmentationModel
from resources.pictures import Batch

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

STEPS = 60
BATCH = 4
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2


@dataclass(frozen=True)
class Tuned:
    """A part's parameters after training it alone, by path, and how many of the planned steps the budget allowed."""

    weights: dict[str, Tensor]
    steps: int
    planned: int = STEPS


def tune_part(
    model: SegmentationModel, part: Part, ids: Sequence[str], load: Callable[[list[str]], Iterator[Batch]],
    seconds: float, seed: int,
) -> Tuned:  # fmt: skip
    """Train the part's own parameters, everything else and all running statistics as they are.

    AdamW with a cosine rate, pixel cross-entropy, flips and zoom-in crops as in training from scratch. The same
    result always, unless `seconds` cut the planned steps short.
    """
    import torch

    network: Any = model.network
    draws = torch.Generator().manual_seed(seed)
    kept = {path: parameter.detach().clone() for path, parameter in _parameters(network, part).items()}
    wanted = {path: parameter.requires_grad for path, parameter in network.named_parameters()}
    for path, parameter in network.named_parameters():
        parameter.requires_grad_(path in kept)
    own = _parameters(network, part)
    optimiser = torch.optim.AdamW(own.values(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    deadline, done = time.monotonic() + seconds, 0
    try:
        for batch in load(_order(ids, draws)):
            if time.monotonic() > deadline:
                break
            _set_rate(optimiser, done)
            loss, _ = labelled_loss(network, model, batch, draws)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            done += 1
        return Tuned({path: parameter.detach().clone() for path, parameter in own.items()}, done)
    finally:
        for path, parameter in network.named_parameters():
            parameter.requires_grad_(wanted[path])
        _put(network, kept)


@contextmanager
def tuned(network: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """While it lasts, some parameters, by path, have other values."""
    kept = {path: network.get_parameter(path).detach().clone() for path in weights}
    _put(network, weights)
    try:
        yield
    finally:
        _put(network, kept)


def _parameters(network: nn.Module, part: Part) -> dict[str, Any]:
    return {
        f"{layer}.{name}": parameter
        for layer in part.layers
        for name, parameter in network.get_submodule(layer).named_parameters(recurse=False)
    }


def _put(network: nn.Module, weights: dict[str, Tensor]) -> None:
    import torch

    with torch.no_grad():
        for path, value in weights.items():
            network.get_parameter(path).copy_(value)


def _order(ids: Sequence[str], draws: torch.Generator) -> list[str]:
    """Ids of all steps, epoch after epoch in an order drawn anew."""
    import torch

    ordered: list[str] = []
    while len(ordered) < STEPS * BATCH:
        ordered += [ids[i] for i in torch.randperm(len(ids), generator=draws).tolist()]
    return ordered[: STEPS * BATCH]


def _set_rate(optimiser: torch.optim.Optimizer, step: int) -> None:
    for group in optimiser.param_groups:
        group["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
