"""What runs in Ray's workers: a pass unpacked, pictures decoded, batches computed.

Belongs here: how a pass travels to a worker, the actor, the check that both run the same code.
Does not: the cluster and the stream of results (`ray_engine.py`), what a pass computes.
"""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import io
import pickle
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from ray import cloudpickle

from resources.config import ComputeConfig, ModelConfig
from resources.datasets.base import Reader
from resources.engine import Computation, Notes, computed
from resources.errors import ConfigError, DomainGapError
from resources.fingerprint import file_digest, fingerprint
from resources.model import SegmentationModel, pick_device
from resources.pictures import SamplePaths, load_batches

if TYPE_CHECKING:
    from torch import nn

    from resources.exported.network import ExportedNetwork

PACKAGES = ("assets", "resources")
"""Our packages, whose code decides what a worker computes."""
LIBRARIES = ("numpy", "pillow", "polars", "torch", "torchvision")
"""Other packages whose version may show in a row."""

WORK, DONE = "work", "done"
"""Columns of what goes to a worker and comes back: one row a batch, pickled."""


@dataclass(frozen=True)
class Pass:
    """All that a worker needs to know of a pass; models in it travel apart."""

    reader: Reader
    input_size: tuple[int, int]
    batch_size: int
    workers: int
    computation: Computation[Any]


@dataclass(frozen=True)
class Work:
    """One batch's samples, and the notes on them."""

    samples: list[SamplePaths]
    notes: Notes


@dataclass(frozen=True)
class Packed:
    """A pass as bytes, and what a worker must have to unpack it: folders of modules, the sender's installation."""

    folders: list[str]
    installed: dict[str, str]
    models: bytes
    content: bytes


@dataclass(frozen=True)
class _Portable:
    """A model as it travels: its network in main memory, or the file that it is opened from."""

    network: nn.Module | Path
    config: ModelConfig
    class_count: int
    version: str
    compute: ComputeConfig

    @classmethod
    def of(cls, model: SegmentationModel) -> _Portable:
        from torch import nn

        network = model.network
        kept: nn.Module | Path
        if not isinstance(network, nn.Module):
            kept = network.path
        else:
            kept = network if model.device.type == "cpu" else copy.deepcopy(network).cpu()
        return cls(kept, model.config, model.class_count, model.fingerprint, model.compute)

    def on(self, device: str) -> SegmentationModel:
        from resources.exported.network import open_exported

        network: nn.Module | ExportedNetwork
        if isinstance(self.network, Path):
            network = open_exported(self.network, self.config, self.class_count, device)
        else:
            network = self.network
        return SegmentationModel(network, self.config, self.class_count, self.version, device, self.compute)


class _Packer(cloudpickle.Pickler):
    """Puts models aside, each once, so that the receiver opens them on a device of its own."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)  # type: ignore[no-untyped-call]
        self.models: list[SegmentationModel] = []

    def persistent_id(self, obj: object) -> int | None:
        if not isinstance(obj, SegmentationModel):
            return None
        for place, model in enumerate(self.models):
            if model is obj:
                return place
        self.models.append(obj)
        return len(self.models) - 1


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, models: list[SegmentationModel]) -> None:
        super().__init__(file)
        self.models = models

    def persistent_load(self, pid: int) -> SegmentationModel:
        return self.models[pid]


def pack(what: Pass) -> tuple[Packed, bool]:
    """A pass for sending, and whether there is a model in it."""
    file = io.BytesIO()
    packer = _Packer(file)
    packer.dump(what)  # type: ignore[no-untyped-call]
    models = cloudpickle.dumps([_Portable.of(model) for model in packer.models])
    return Packed(list(sys.path), installation(), models, file.getvalue()), bool(packer.models)


def unpack(packed: Packed, device: str) -> Pass:
    """A pass with its models on a device. Raises ConfigError where this process runs other code than the sender."""
    own = installation()
    differing = sorted(name for name in packed.installed if own.get(name) != packed.installed[name])
    if differing:
        listed = ", ".join(f"{name} {own.get(name)} for {packed.installed[name]}" for name in differing)
        raise ConfigError(
            f"compute.engine: a Ray worker on {platform.node()} has another installation ({listed}); "
            "install the same versions on every node"
        )
    sys.path.extend(folder for folder in packed.folders if folder not in sys.path)  # the user's own modules
    models = [portable.on(device) for portable in cloudpickle.loads(packed.models)]
    found: Pass = _Unpacker(io.BytesIO(packed.content), models).load()
    return found


@cache
def installation() -> dict[str, str]:
    """What must be the same on both sides for the same rows: our code by content, libraries by version."""
    files: list[tuple[str, str]] = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            root = Path(folder)
            files += [(f"{package}/{path.relative_to(root)}", file_digest(path)) for path in root.rglob("*.py")]
    return {
        "domain-gap's code": fingerprint(sorted(files))[:8],
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


class Worker:
    """A model actor: holds one pass with its own copy of the model, decodes and computes pieces of the data set.

    Errors that are meant for the user go back as results, so that they are raised in their place in the order.
    """

    def __init__(self, packed: Packed, device: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._failure: DomainGapError | None = None
        try:
            self._pass = unpack(packed, pick_device(device))
        except DomainGapError as error:
            self._failure = error

    def __call__(self, piece: pa.Table) -> Iterator[pa.Table]:
        """Results of a piece's batches."""
        work = [cloudpickle.loads(row) for row in piece.column(WORK).to_pylist()]
        for found in self._results(work):
            yield pa.table({DONE: pa.array([cloudpickle.dumps(found)], pa.large_binary())})

    def _results(self, work: list[Work]) -> Iterator[Any]:
        if self._failure is not None:
            yield self._failure
            return
        task = self._pass
        samples = [sample for batch in work for sample in batch.samples]
        notes = {name: note for batch in work for name, note in batch.notes.items()}
        loaded = load_batches(
            task.reader, samples, task.input_size, batch_size=task.batch_size, workers=task.workers
        )  # fmt: skip
        try:
            yield from computed(loaded, task.computation, notes)
        except DomainGapError as error:
            yield error
