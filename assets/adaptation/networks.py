"""A network to be trained further: its copy, its parts, and what it computes on the way, with gradients.

Belongs here: what all methods ask of any network. Does not: losses, loops, running the model under test
(`resources/model.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assets.experiments.model_side import is_batch_norm
from assets.experiments.operators import NotApplicable
from resources.model import SegmentationModel, at_input_pixels, forward_hooked

if TYPE_CHECKING:
    from torch import Tensor, nn

Chosen = Callable[[str], bool]
"""Which parameters are trained, by their names."""


@dataclass(frozen=True)
class Seen:
    """What a network computes of a batch, with gradients: logits (n, C, H, W) at the input's pixels and feature maps.

    `encoder` is the deepest feature map of the encoder; `decoder` what the last layers turn into logits. A network of
    the user's own has one feature map, that of `model.embedding_layer`, which stands for both.
    """

    logits: Tensor
    encoder: Tensor
    decoder: Tensor


def has_parts(network: nn.Module) -> bool:
    """Whether the network has an encoder, a decoder and a head that can be told apart."""
    return all(hasattr(network, name) for name in ("encoder", "decoder", "segmentation_head"))


def trainable_copy(model: SegmentationModel) -> nn.Module:
    """A copy of the model's network, weights and all. Raises NotApplicable for a network that came as one file."""
    from torch import nn

    if not isinstance(model.network, nn.Module):
        raise NotApplicable(
            f"{model.network.kind} runs as it was exported and can't be trained; give the network and its state dict"
        )
    return copy.deepcopy(model.network)


def everything(_name: str) -> bool:
    """All parameters."""
    return True


def starting_with(*prefixes: str) -> Chosen:
    """Parameters whose names start with any of some prefixes."""
    return lambda name: name.startswith(prefixes)


def normalisation_parameters(network: nn.Module) -> Chosen:
    """Scale and shift of all batch-norm layers. Raises NotApplicable for a network without."""
    names = {
        f"{prefix}.{name}" if prefix else name
        for prefix, layer in network.named_modules() if is_batch_norm(layer)
        for name, _ in layer.named_parameters()
    }  # fmt: skip
    if not names:
        raise NotApplicable("the network has no batch-norm layers with scale and shift")
    return lambda name: name in names


def make_trainable(network: nn.Module, chosen: Chosen) -> list[nn.Parameter]:
    """Let gradients reach the chosen parameters alone, and return them. Raises NotApplicable where there is none."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(chosen(name))
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not parameters:
        raise NotApplicable("the network has none of the parameters that this variant trains")
    return parameters


def training_mode(network: nn.Module) -> None:
    """Training mode with the statistics of batch norm as they are: those of a few pictures would replace the source's.

    Parts without a trained parameter stay in evaluation mode: their dropout would be noise alone.
    """
    network.train()
    for layer in network.modules():
        own = list(layer.parameters())
        if is_batch_norm(layer) or (own and not any(parameter.requires_grad for parameter in own)):
            layer.eval()


def look(network: nn.Module, batch: Tensor, embedding_layer: str | None) -> Seen:
    """Forward a normalised batch with gradients."""
    if embedding_layer is not None:
        logits, latent = forward_hooked(network, batch, embedding_layer)
        return Seen(logits.float(), latent, latent)
    parts: Any = network
    stages = list(parts.encoder(batch))
    features = parts.decoder(stages)
    return Seen(at_input_pixels(parts.segmentation_head(features).float(), batch), stages[-1], features)
