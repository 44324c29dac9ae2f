"""Networks that come as one file, weights and graph: opened, checked, and run as they were exported.

Belongs here: what all formats share. Does not: reading one format (its own module), state dicts (`resources/model.py`).
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from resources.config import EXPORTED, ModelConfig
from resources.errors import ModelError
from resources.exported.deepest import covers
from resources.exported.program import Opened, one_line

if TYPE_CHECKING:
    from torch import Tensor

_OPENERS = {".onnx": "onnx_file", ".pt2": "export_archive", ".torchscript": "torchscript"}


class ExportedNetwork:
    """An exported file that runs: normalised pictures to logits and latent. It can't be changed or trained.

    A file of a fixed batch size runs in batches of that size: the last one is padded and what was padded is cut off.
    """

    def __init__(self, path: Path, opened: Opened) -> None:
        self.path = path
        self.kind = EXPORTED[path.suffix]
        self._opened = opened

    def __call__(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, classes, h, w) and latent (n, d, h', w') of float32 (n, 3, H, W)."""
        import torch

        size = self._opened.batch_size
        if size is None:
            return self._opened.run(batch)
        parts = [self._padded(part, size) for part in torch.split(batch, size)]
        return torch.cat([logits for logits, _ in parts]), torch.cat([latent for _, latent in parts])

    def _padded(self, batch: Tensor, size: int) -> tuple[Tensor, Tensor]:
        there = len(batch)
        filled = batch.new_zeros(size, *batch.shape[1:])
        filled[:there] = batch
        logits, latent = self._opened.run(filled)
        return logits[:there], latent[:there]


def open_exported(path: Path, config: ModelConfig, class_count: int, device: str) -> ExportedNetwork:
    """Open an exported file and forward one blank picture.

    Raises ModelError that names the file, what was expected and what was found: a file that can't be read or run,
    another input size, another class count, no latent.
    """
    import torch

    opener = importlib.import_module(f"resources.exported.{_OPENERS[path.suffix]}")
    kind, height, width = EXPORTED[path.suffix], *config.input_size
    try:
        opened: Opened = opener.open_file(path, config, class_count, device)
    except ModelError:
        raise
    except Exception as error:  # each format's reader raises what the bytes lead it to
        raise ModelError(f"model.checkpoint: {path}: not readable as {kind}: {one_line(error)}") from None
    fixed = opened.input_size
    if any(side is not None and side != wanted for side, wanted in zip(fixed, config.input_size, strict=True)):
        found = [own or wanted for own, wanted in zip(fixed, config.input_size, strict=True)]
        raise ModelError(
            f"model.input_size: [{height}, {width}], but {path} takes pictures of {found[0]} × {found[1]} pixels; "
            f"set it to {found}, or export the file with that size"
        )
    network = ExportedNetwork(path, opened)
    try:
        with torch.inference_mode():
            logits, latent = network(torch.zeros(1, 3, height, width, device=device))
    except ModelError:
        raise
    except Exception as error:  # the file's own operations run here
        raise ModelError(
            f"model.checkpoint: {path}: does not run on pictures of {height} × {width} pixels "
            f"(model.input_size): {one_line(error)}"
        ) from None
    _check_outputs(path, logits, latent, config, class_count)
    return network


def _check_outputs(path: Path, logits: Tensor, latent: Tensor, config: ModelConfig, class_count: int) -> None:
    if logits.ndim != 4 or not covers((logits.shape[2], logits.shape[3]), config.input_size):  # noqa: PLR2004
        raise ModelError(
            f"model.checkpoint: {path}: expected logits (pictures, classes, height, width) over pictures of "
            f"{config.input_size[0]} × {config.input_size[1]} pixels, found an output of shape {list(logits.shape)}"
        )
    if logits.shape[1] != class_count:
        raise ModelError(
            f"classes: {class_count} names, but {path} has {logits.shape[1]} output channels; "
            "give the class list that the model was trained on, in its order"
        )
    if latent.ndim != 4:  # noqa: PLR2004
        raise ModelError(
            f"model.embedding_layer: {config.embedding_layer!r} of {path} is no feature map (pictures, channels, "
            f"height, width), found shape {list(latent.shape)}"
        )
