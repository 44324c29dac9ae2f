"""Where passes over pictures run.

Belongs here: engines that turn lists of samples into batches for a stage's loop. Does not: what a pass computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from resources.config import GapConfig
from resources.datasets import open_reader
from resources.pictures import Batch, SamplePaths, load_batches


@dataclass(frozen=True)
class LocalEngine:
    """Passes run in this process: decoding in threads ahead of the model.

    `config` gives batch size, workers and the model's input size.
    """

    config: GapConfig

    def batches(self, key: str, samples: list[SamplePaths], *, batch_size: int | None = None) -> Iterator[Batch]:
        """Decoded batches of a data set ('source' or a target's name), in order."""
        compute = self.config.compute
        return load_batches(
            open_reader(self.config, self.config.dataset(key)),
            samples,
            self.config.model.input_size,
            batch_size=batch_size or compute.batch_size,
            workers=compute.workers,
        )
