"""The deepest feature map of a network that is known by its operations alone.

Belongs here: the rule by which an activation counts as deepest. Does not: formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

STRIDES = (32, 16, 8, 4, 2)


def feature_stride(shape: Sequence[int], size: tuple[int, int], classes: int) -> int | None:
    """The stride at which an activation (n, c, h, w) covers pictures of a size (H, W); None for no feature map.

    h × w is H/stride × W/stride, both rounded down or both up: pooled vectors, pyramids of fixed sizes and maps of
    attention are no feature maps, and neither is what has a channel for each class.
    """
    if len(shape) != 4 or shape[1] == classes or shape[2] * shape[3] <= 1:  # noqa: PLR2004
        return None
    return _stride((shape[2], shape[3]), size)


def _stride(sides: tuple[int, int], size: tuple[int, int]) -> int | None:
    height, width = size
    return next((s for s in STRIDES if sides in ((height // s, width // s), (-(-height // s), -(-width // s)))), None)


def covers(sides: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether an output of h × w pixels can be the whole picture of H × W, or it at a stride."""
    return sides == size or _stride(sides, size) is not None


class DeepestActivation(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records, among the operations of a forward, the last feature map of the largest stride that occurs.

    That is the end of the encoder for networks that only widen afterwards (U-Net, FPN), and the end of the context
    module for those that go on at the encoder's stride (DeepLab, PSPNet).
    """

    def __init__(self, batch: Tensor, classes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._pictures, self._classes = len(batch), classes
        self._size = (int(batch.shape[2]), int(batch.shape[3]))
        self._stride = 0
        self.latent: Tensor | None = None

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point() and result.shape[:1] == (self._pictures,):
            stride = feature_stride(result.shape, self._size, self._classes)
            if stride is not None and stride >= self._stride:
                self._stride, self.latent = stride, result
        return result
