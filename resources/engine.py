"""Where passes over pictures run.

Belongs here: the contract of engines, and the engine that runs passes in this process. Does not: what a pass computes,
running it elsewhere (`ray_engine.py`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from resources.config import GapConfig
from resources.datasets import open_reader
from resources.errors import ConfigError
from resources.pictures import Batch, SamplePaths, load_batches
from resources.streams import in_order

if TYPE_CHECKING:
    from resources.model import SegmentationModel

Result = TypeVar("Result")
Notes = Mapping[str, Any]
"""What a computation must know of single samples besides their pictures, by sample id; samples may be missing."""
Computation = Callable[[Batch, Notes], Result]
"""What a pass does with one batch and its samples' notes. It travels to workers as a pickle and keeps no state."""


@dataclass(frozen=True, slots=True)
class Streams:
    """How batches go through a computation: so many side by side, each cut into so many parts."""

    threads: int = 1
    parts: int = 1

    @classmethod
    def of(cls, *models: SegmentationModel) -> Streams:
        """What all of some models allow. On a processor streams share a batch, so that memory stays."""
        threads = min(model.streams for model in models)
        return cls(threads, threads if models[0].device.type == "cpu" else 1)


@runtime_checkable
class Streamed(Protocol):
    """A computation whose batches may run side by side; others run one after the other, in the caller's thread."""

    @property
    def streams(self) -> Streams:
        """How its batches go."""
        ...


@dataclass(frozen=True, slots=True)
class Computed(Generic[Result]):
    """What a computation gave for one batch, or a part of it, and the ids of its samples in order."""

    ids: list[str]
    result: Result


class Batches(Protocol):
    """Where decoded batches of samples come from."""

    def __call__(self, samples: list[SamplePaths], /) -> Iterator[Batch]:
        """Decoded batches, in the order of the samples."""
        ...


class MapBatches(Protocol):
    """A pass over one data set: samples in, what the computation gives for each batch out."""

    def __call__(
        self, samples: list[SamplePaths], computation: Computation[Result], notes: Notes, /
    ) -> Iterator[Computed[Result]]:
        """Results in the order of the samples."""
        ...


class Engine(Protocol):
    """Where passes run. `key` is 'source' or a target's name; batches are the same in every engine."""

    def connect(self) -> None:
        """Reach what passes run on; they do it themselves. Raises ConfigError where it can't be reached."""
        return

    def close(self) -> None:
        """Leave what passes run on."""
        return

    def batches(self, key: str, samples: list[SamplePaths], *, batch_size: int | None = None) -> Iterator[Batch]:
        """Decoded batches in this process, in order: for training and fits, which go from batch to batch."""
        ...

    def map_batches(
        self, key: str, samples: list[SamplePaths], computation: Computation[Result], notes: Notes
    ) -> Iterator[Computed[Result]]:
        """The computation of every batch, in order, as they are done: in this process, where an engine has no other.

        Raises UnreadableSample for a file that changed under the run.
        """
        return computed(self.batches(key, samples), computation, notes)


@dataclass(frozen=True)
class LocalEngine(Engine):
    """Passes run in this process: decoding in threads ahead of the model.

    `config` gives batch size, workers and the model's input size.
    """

    config: GapConfig

    def batches(self, key: str, samples: list[SamplePaths], *, batch_size: int | None = None) -> Iterator[Batch]:
        """See `Engine`."""
        compute = self.config.compute
        return load_batches(
            open_reader(self.config, self.config.dataset(key)),
            samples,
            self.config.model.input_size,
            batch_size=batch_size or compute.batch_size,
            workers=compute.workers,
        )


def computed(
    batches: Iterator[Batch], computation: Computation[Result], notes: Notes
) -> Iterator[Computed[Result]]:  # fmt: skip
    """Run a computation over batches in this process; results in order."""
    streams = computation.streams if isinstance(computation, Streamed) else Streams()
    parts = (part for batch in batches for part in batch.pieces(streams.parts))
    return in_order(lambda part: Computed(part.ids, computation(part, notes)), parts, streams.threads)


def in_process(batches: Batches) -> MapBatches:
    """A pass that runs here, over batches of whatever origin."""

    def run(samples: list[SamplePaths], computation: Computation[Result], notes: Notes) -> Iterator[Computed[Result]]:
        return computed(batches(samples), computation, notes)

    return run


def open_engine(config: GapConfig) -> Engine:
    """The engine that a config names; nothing is started yet. Raises ConfigError where it is not installed."""
    if config.compute.engine == "local":
        return LocalEngine(config)
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "compute.engine: 'ray' needs the package ray, which is not installed; "
            "pip install 'domain-gap[ray]', or use 'local'"
        )
    from resources.ray_engine import RayEngine

    return RayEngine(config)
