"""What every opened file looks like, and the words for what can't be used.

Belongs here: types and messages that the formats share. Does not: formats.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Opened:
    """A file that runs: `run` maps float32 (n, 3, H, W) to logits and latent; sizes are None where the file leaves
    them free."""

    run: Callable[[Tensor], tuple[Tensor, Tensor]]
    batch_size: int | None = None
    input_size: tuple[int | None, int | None] = (None, None)


def unknown_layer(path: Path, layer: str, what: str, names: Iterable[str]) -> ModelError:
    """The error for an `embedding_layer` that the file does not have, with the nearest name that it has."""
    names = list(names)
    near = difflib.get_close_matches(layer, names, 1) or names[-1:]
    return ModelError(
        f"model.embedding_layer: {path} has no {what} {layer!r}"
        + (f"; it has {near[0]!r}" if near else "")
        + "; leave the key out for the deepest feature map"
    )


def no_feature_map(path: Path) -> ModelError:
    """The error for a file in which no activation looks like an encoder's."""
    return ModelError(
        f"model.embedding_layer: no feature map found in {path}; name the one whose values are the latent"
    )


def named_outputs(output: Any) -> dict[str, Tensor]:
    """A network's outputs by key, or by position ('0', '1', …); what is no tensor is left out."""
    import torch

    if isinstance(output, torch.Tensor):
        return {"0": output}
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(output, Mapping):
        pairs = output.items()
    elif isinstance(output, Sequence):
        pairs = enumerate(output)
    return {str(name): value for name, value in pairs if isinstance(value, torch.Tensor)}


def pick_logits(origin: Path | str, outputs: Mapping[str, Tensor], latent: str | None = None) -> Tensor:
    """The output 'out' or 'logits', else the first that is not the latent. Raises ModelError where there is none."""
    others = [name for name in outputs if name != latent]
    if not others:
        raise ModelError(f"model: {origin}: no output with logits beside the latent; found {list(outputs) or 'none'}")
    return outputs[next((name for name in ("out", "logits") if name in others), others[0])]


def one_line(error: BaseException) -> str:
    """An error's text on one line, shortened."""
    return " ".join(str(error).split())[:160] or type(error).__name__
