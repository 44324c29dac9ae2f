"""Training on source labels while something that the network computes on the target is drawn to the source's.

Belongs here: CORAL, domain-adversarial training, AdvEnt. Does not: their formulas (`losses.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from assets.adaptation.losses import coral_loss, domain_loss, labelled_loss, reversed_gradient, self_information
from assets.adaptation.networks import Chosen, Seen, everything, look
from assets.adaptation.streams import Material, side_by_side, varied
from assets.adaptation.training import Descent
from resources.pictures import Batch

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

REVERSAL = 0.1
"""Most that the reversed gradient counts for; it grows to this over the run as in Ganin et al. (2016)."""
ADVERSARIAL_WEIGHT = 1e-3
"""Of AdvEnt's adversarial loss, as in Vu et al. (2019)."""
HIDDEN = 64


class Aligned(Descent):
    """Cross-entropy on the source plus what `pull` makes of both sets' views."""

    def __init__(self, material: Material, seed: int) -> None:
        from torch import nn

        self.model, self.source, self.target = material.model, material.source(seed), material.target(seed)
        self.chosen: Chosen = everything
        self.beside: nn.Module = nn.Module()

    def batches(self, first: int, end: int) -> Iterator[tuple[Batch, Batch]]:
        """Labelled source pictures beside unlabelled target ones."""
        return side_by_side(self.source, self.target, first, end)

    def loss(self, network: nn.Module, batch: tuple[Batch, Batch], progress: float, draws: torch.Generator) -> Tensor:
        """Cross-entropy on the source and the method's own part."""
        supervised, source = labelled_loss(network, self.model, batch[0], draws)
        pictures = self.model.normalised(varied(batch[1], draws))
        target = look(network, pictures, self.model.config.embedding_layer)
        return supervised + self.pull(supervised, source, target, progress)

    def pull(self, supervised: Tensor, source: Seen, target: Seen, progress: float) -> Tensor:
        """The method's own loss."""
        raise NotImplementedError


class Coral(Aligned):
    """Covariances of decoder features; their loss starts as large as the cross-entropy."""

    def __init__(self, material: Material, seed: int) -> None:
        import torch

        super().__init__(material, seed)
        self.beside.register_buffer("weight", torch.tensor(math.nan))

    def pull(self, supervised: Tensor, source: Seen, target: Seen, progress: float) -> Tensor:  # noqa: ARG002
        """λ · CORAL."""
        distance = coral_loss(source.decoder, target.decoder)
        if math.isnan(float(self.beside.weight)):  # type: ignore[arg-type]
            weight = float(supervised.detach()) / max(float(distance.detach()), 1e-12)
            self.beside.weight.fill_(weight)  # type: ignore[operator]
        return float(self.beside.weight) * distance  # type: ignore[arg-type]


class Adversarial(Aligned):
    """A discriminator of deepest encoder features, place by place, whose gradient is reversed on its way to them."""

    def __init__(self, material: Material, network: nn.Module, seed: int) -> None:
        import torch
        from torch import nn

        super().__init__(material, seed)
        torch.manual_seed(seed)
        channels = encoder_channels(material, network)
        self.beside = nn.Sequential(
            nn.Conv2d(channels, HIDDEN, 1), nn.LeakyReLU(0.2), nn.Conv2d(HIDDEN, 1, 1)
        ).to(self.model.device)  # fmt: skip

    def pull(self, supervised: Tensor, source: Seen, target: Seen, progress: float) -> Tensor:  # noqa: ARG002
        """The discriminator's loss; the network is driven against it."""
        strength = REVERSAL * (2 / (1 + math.exp(-10 * progress)) - 1)
        scores = [self.beside(reversed_gradient(seen.encoder, strength)) for seen in (source, target)]
        return (domain_loss(scores[0], source=True) + domain_loss(scores[1], source=False)) / 2


class AdvEnt(Aligned):
    """A discriminator of maps of weighted self-information, which the target's are made to deceive."""

    def __init__(self, material: Material, seed: int) -> None:
        import torch
        from torch import nn

        super().__init__(material, seed)
        torch.manual_seed(seed)
        widths = (self.model.class_count, HIDDEN, 2 * HIDDEN, 4 * HIDDEN)
        layers: list[nn.Module] = []
        for width, wider in itertools.pairwise(widths):
            layers += [nn.Conv2d(width, wider, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.beside = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, stride=2, padding=2)).to(self.model.device)

    def pull(self, supervised: Tensor, source: Seen, target: Seen, progress: float) -> Tensor:  # noqa: ARG002
        """The network's part, through a discriminator that stays; the discriminator's, on maps that stay."""
        from torch.func import functional_call

        maps = [self_information(seen.logits) for seen in (source, target)]
        fixed = {name: parameter.detach() for name, parameter in self.beside.named_parameters()}
        deceiving = domain_loss(functional_call(self.beside, fixed, maps[1]), source=True)
        told = domain_loss(self.beside(maps[0].detach()), source=True)
        told = told + domain_loss(self.beside(maps[1].detach()), source=False)
        return ADVERSARIAL_WEIGHT * deceiving + told / 2


def encoder_channels(material: Material, network: nn.Module) -> int:
    """Channels of the deepest encoder features."""
    import torch

    height, width = material.model.input_size
    blank = material.model.normalised(torch.zeros(1, 3, height, width))
    with torch.no_grad():
        return int(look(network.eval(), blank, material.model.config.embedding_layer).encoder.shape[1])
