"""Pictures on their way to the model: decoded ahead, resized to its input, batched.

Belongs here: decoding of a manifest's samples in the background, the one resize that everything shares.
Does not: the model, what is computed on a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resources.datasets.base import Reader, read_image

if TYPE_CHECKING:
    from torch import Tensor

AHEAD_BYTES = 512 << 20
"""Decoded pictures that wait for the model hold at most so much, but for one a worker."""


@dataclass(frozen=True, slots=True)
class SamplePaths:
    """Where one sample's picture and mask are."""

    sample_id: str
    image: Path
    mask: Path | None


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded sample: `image` uint8 (h, w, 3), `mask` uint8 classes (h, w) or None, `reduced` float32 (3, H, W).

    `reduced` is the picture as the model sees it, in 0..1 before normalisation by mean and deviation.
    """

    sample_id: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None
    reduced: Tensor

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        return self.image.nbytes + (0 if self.mask is None else self.mask.nbytes) + self.reduced.nbytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures that pass the model together; `reduced` is float32 (n, 3, H, W) in 0..1."""

    pictures: list[Picture]
    reduced: Tensor

    def pieces(self, count: int) -> list[Batch]:
        """The batch in `count` parts of about equal size, fewer where it has fewer pictures."""
        size = -(-len(self.pictures) // count)
        starts = range(0, len(self.pictures), size)
        return [Batch(self.pictures[i : i + size], self.reduced[i : i + size]) for i in starts]

    @property
    def ids(self) -> list[str]:
        """The samples' ids in order."""
        return [picture.sample_id for picture in self.pictures]


def to_input(image: NDArray[np.uint8], input_size: tuple[int, int]) -> Tensor:
    """Resize a picture to the model's input: uint8 (h, w, 3) -> float32 (3, H, W) in 0..1, bilinear, antialiased."""
    import torch
    from torch.nn import functional

    picture = torch.from_numpy(image).permute(2, 0, 1)[None].float().div_(255)
    if picture.shape[-2:] != input_size:
        picture = functional.interpolate(picture, size=input_size, mode="bilinear", antialias=True)
    return picture[0].clamp_(0, 1)


def to_input_mask(mask: NDArray[np.uint8], input_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a mask of class indices to the model's input, nearest pixel."""
    rows = ((np.arange(input_size[0]) + 0.5) * mask.shape[0] / input_size[0]).astype(np.intp)
    columns = ((np.arange(input_size[1]) + 0.5) * mask.shape[1] / input_size[1]).astype(np.intp)
    reduced: NDArray[np.uint8] = mask[rows[:, None], columns]
    return reduced


def load_picture(reader: Reader, paths: SamplePaths, input_size: tuple[int, int]) -> Picture:
    """Decode one sample. Raises UnreadableSample."""
    image = read_image(paths.image)
    mask = reader.read_mask(paths.mask) if paths.mask is not None else None
    return Picture(paths.sample_id, image, mask, to_input(image, input_size))


def load_batches(
    reader: Reader, samples: Sequence[SamplePaths], input_size: tuple[int, int], *, batch_size: int, workers: int
) -> Iterator[Batch]:
    """Decode samples in order, `workers` threads ahead by at most two batches and `AHEAD_BYTES`, and batch them.

    Raises UnreadableSample for a file that changed under the run.
    """
    import torch

    for chunk in _batched(_decode_ahead(reader, samples, input_size, 2 * batch_size, workers), batch_size):
        yield Batch(chunk, torch.stack([picture.reduced for picture in chunk]))


def _decode_ahead(
    reader: Reader, samples: Sequence[SamplePaths], input_size: tuple[int, int], ahead: int, workers: int
) -> Iterator[Picture]:
    if workers == 0:
        yield from (load_picture(reader, sample, input_size) for sample in samples)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        pending: deque[Future[Picture]] = deque()
        most = ahead
        try:
            for sample in samples:
                pending.append(pool.submit(load_picture, reader, sample, input_size))
                while len(pending) >= most:
                    picture = pending.popleft().result()
                    # pictures of one set are about as large as one another
                    most = min(ahead, max(workers, AHEAD_BYTES // picture.size))
                    yield picture
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _batched(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    chunk: list[Picture] = []
    for picture in pictures:
        chunk.append(picture)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
