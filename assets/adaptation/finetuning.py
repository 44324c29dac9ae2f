"""Training on target labels: fine-tuning of one scope on a share of them, and the oracle that has all.

Belongs here: these two objectives. Does not: methods without target labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from assets.adaptation.losses import labelled_loss
from assets.adaptation.networks import Chosen, everything, has_parts, starting_with
from assets.adaptation.registry import Variant
from assets.adaptation.streams import Material, labelled_share, side_by_side
from assets.adaptation.training import Descent
from assets.experiments.operators import NotApplicable
from resources.pictures import Batch

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class FineTuning(Descent):
    """Cross-entropy on some labelled pictures of the target's fit half."""

    def __init__(self, material: Material, network: nn.Module, variant: Variant, seed: int) -> None:
        from torch import nn

        self.model = material.model
        self.chosen = scope_of(network, variant.scope)
        self.samples = labelled_share(material.labelled_fit, variant.label_share, seed)
        self.stream = material.labelled_target(seed, self.samples)
        self.beside = nn.Module()

    def batches(self, first: int, end: int) -> Iterator[Batch]:
        """Labelled target pictures."""
        return self.stream.batches(first, end)

    def loss(self, network: nn.Module, batch: Batch, progress: float, draws: torch.Generator) -> Tensor:  # noqa: ARG002
        """Cross-entropy on the target."""
        return labelled_loss(network, self.model, batch, draws)[0]


class Oracle(Descent):
    """Cross-entropy on all labelled pictures of the fit half and on the source's reference, half and half."""

    def __init__(self, material: Material, seed: int) -> None:
        from torch import nn

        self.model = material.model
        self.chosen: Chosen = everything
        self.source = material.source(seed)
        self.target = material.labelled_target(seed, material.labelled_fit)
        self.beside = nn.Module()

    def batches(self, first: int, end: int) -> Iterator[tuple[Batch, Batch]]:
        """Labelled pictures of both."""
        return side_by_side(self.source, self.target, first, end)

    def loss(
        self, network: nn.Module, batch: tuple[Batch, Batch], progress: float, draws: torch.Generator,  # noqa: ARG002
    ) -> Tensor:  # fmt: skip
        """The mean of both cross-entropies."""
        source, target = (labelled_loss(network, self.model, part, draws)[0] for part in batch)
        return (source + target) / 2


def scope_of(network: nn.Module, scope: str) -> Chosen:
    """Which parameters a scope trains. Raises NotApplicable where the network has no parts to choose from."""
    if scope == "all":
        return everything
    if not has_parts(network):
        raise NotApplicable(f"the network has no {scope} that could be told from the rest; only scope 'all' is tried")
    prefixes = ("segmentation_head.",) if scope == "head" else ("decoder.", "segmentation_head.")
    return starting_with(*prefixes)
