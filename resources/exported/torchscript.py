"""TorchScript archives.

Belongs here: loading and running them. Does not: any other format. An archive is a program of tensor operations, part
of which runs when it is loaded; no Python is unpickled.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from resources.config import ModelConfig
from resources.exported.deepest import DeepestActivation
from resources.exported.program import Opened, named_outputs, no_feature_map, pick_logits, unknown_layer

if TYPE_CHECKING:
    from torch import Tensor


def open_file(path: Path, config: ModelConfig, classes: int, device: str) -> Opened:
    """An archive on a device; it says no sizes. `embedding_layer` is the key or position of an output."""
    import torch

    layer = config.embedding_layer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]

    def run(batch: Tensor) -> tuple[Tensor, Tensor]:
        if layer is None:
            with DeepestActivation(batch, classes) as seen:
                outputs = named_outputs(module(batch))
            if seen.latent is None:
                raise no_feature_map(path)
            return pick_logits(path, outputs), seen.latent
        outputs = named_outputs(module(batch))
        if layer not in outputs:
            raise unknown_layer(path, layer, "output", outputs)
        return pick_logits(path, outputs, layer), outputs[layer]

    return Opened(run)
