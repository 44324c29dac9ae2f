"""Endless batches of a set in a seeded order, from any step on: what training is fed with.

Belongs here: which samples a method may use and which of them a step sees. Does not: losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from assets.experiments.operators import NotApplicable
from assets.inference.training import augment
from resources.engine import Engine
from resources.model import SegmentationModel
from resources.pictures import Batch, SamplePaths

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STEPS_AHEAD = 100
"""Steps whose samples are drawn together, so that a long plan costs nothing before its first step."""
NO_REFERENCE = "the source's reference has no labelled picture"
NO_FIT = "the target's fit half has no picture"
NO_LABELLED_FIT = "the target's fit half has no labelled picture"


@dataclass(frozen=True)
class Stream:
    """Samples of one data set ('source' or a target's name), drawn epoch after epoch in an order that `seed` decides.

    The samples of a step depend on seed and step alone, so a stream that goes on at a step goes on as it would have.
    """

    engine: Engine
    key: str
    samples: Sequence[SamplePaths]
    batch_size: int
    seed: int

    def batches(self, first: int, end: int) -> Iterator[Batch]:
        """Batches of the steps first..end−1, decoded ahead; one may span the end of an epoch."""
        for start in range(first, end, STEPS_AHEAD):
            stop = min(end, start + STEPS_AHEAD)
            drawn = list(self.drawn(start * self.batch_size, stop * self.batch_size))
            yield from self.engine.batches(self.key, drawn, batch_size=self.batch_size)

    def once(self) -> Iterator[Batch]:
        """Every sample once, in order."""
        yield from self.engine.batches(self.key, list(self.samples), batch_size=self.batch_size)

    def drawn(self, first: int, end: int) -> Iterator[SamplePaths]:
        """The samples at places first..end−1 of all epochs one after another."""
        count = len(self.samples)
        epoch, order = -1, np.empty(0, np.intp)
        for place in range(first, end):
            if place // count != epoch:
                epoch = place // count
                order = np.random.default_rng((self.seed, epoch)).permutation(count)
            yield self.samples[order[place % count]]


def side_by_side(source: Stream, target: Stream, first: int, end: int) -> Iterator[tuple[Batch, Batch]]:
    """Batches of both for the steps first..end−1."""
    return zip(source.batches(first, end), target.batches(first, end), strict=True)


@dataclass(frozen=True)
class Material:
    """All that a method may use: the model, the source's labelled reference, the target's fit half, guarded pictures.

    `fit` comes without labels, `labelled_fit` with them. `guarded`: labelled holdout pictures of the fit half, which no
    figure is taken from. `reference_pixels` (C,): labelled pixels of the reference by class.
    """

    model: SegmentationModel
    engine: Engine
    key: str
    reference: Sequence[SamplePaths]
    fit: Sequence[SamplePaths]
    labelled_fit: Sequence[SamplePaths]
    guarded: Sequence[SamplePaths]
    reference_pixels: NDArray[np.float64]
    batch_size: int

    def source(self, seed: int) -> Stream:
        """Labelled reference pictures."""
        return Stream(self.engine, "source", _some(self.reference, NO_REFERENCE), self.batch_size, seed)

    def target(self, seed: int) -> Stream:
        """Pictures of the fit half, without labels."""
        return Stream(self.engine, self.key, _some(self.fit, NO_FIT), self.batch_size, seed + 1)

    def labelled_target(self, seed: int, samples: Sequence[SamplePaths]) -> Stream:
        """Some labelled pictures of the fit half."""
        return Stream(self.engine, self.key, _some(samples, NO_LABELLED_FIT), self.batch_size, seed + 1)


def _some(samples: Sequence[SamplePaths], reason: str) -> Sequence[SamplePaths]:
    if not samples:
        raise NotApplicable(reason)
    return samples


def labelled_share(samples: Sequence[SamplePaths], share: int, seed: int) -> list[SamplePaths]:
    """The first `share` per cent, at least one, in an order by hash and seed: smaller shares lie within larger ones."""
    order = sorted(samples, key=lambda sample: blake2b(f"{seed}\0{sample.sample_id}".encode(), digest_size=8).digest())
    return order[: max(1, round(len(order) * share / 100))]


def varied(batch: Batch, draws: torch.Generator) -> Tensor:
    """Pictures (n, 3, H, W) without their labels, changed at random as training changes labelled ones."""
    import torch

    blank = torch.zeros(batch.reduced.shape[2:], dtype=torch.long)
    return torch.stack([augment(picture, blank, draws)[0] for picture in batch.reduced])
