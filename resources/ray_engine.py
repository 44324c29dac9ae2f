"""Passes on a Ray cluster: pieces of the data set go to a pool of model actors, results come back in order.

Belongs here: joining or starting the cluster, one Ray Data execution a pass, the order and the end of its results.
Does not: what happens in a worker (`ray_worker.py`), what a pass computes.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resources.config import GapConfig
from resources.datasets import open_reader
from resources.engine import Computation, Computed, Engine, LocalEngine, Notes, Result
from resources.errors import ConfigError, DomainGapError
from resources.pictures import Batch, SamplePaths

if TYPE_CHECKING:
    from ray.data import Dataset

PIECE = 4
"""Batches that a worker gets at once: it decodes ahead within them, and a lost worker loses no more."""
ANSWER = 10
"""Seconds that a cluster has to answer on its port."""
RETRIES = 3
"""How often a piece is given to another worker after the one that had it was lost."""
WIDE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Set to 0, Ray listens on 127.0.0.1 alone, as it does by default where it can't have more than one node."""


class LostWorkers(DomainGapError):
    """Ray gave up a pass; the message says why."""


@dataclass(frozen=True)
class RayEngine(Engine):
    """Passes run on a Ray cluster: the one at `compute.address`, else a local one.

    The cluster is joined or started when the first pass needs it. A local one ends with `close` or with the process.
    A process has one connection to Ray: where it has one already, that is used.
    """

    config: GapConfig

    def batches(self, key: str, samples: list[SamplePaths], *, batch_size: int | None = None) -> Iterator[Batch]:
        """See `Engine`."""
        return LocalEngine(self.config).batches(key, samples, batch_size=batch_size)

    def map_batches(
        self, key: str, samples: list[SamplePaths], computation: Computation[Result], notes: Notes
    ) -> Iterator[Computed[Result]]:
        """See `Engine`. Raises LostWorkers where workers die again and again, ConfigError where there is no cluster."""
        if not samples:
            return
        self.connect()
        from ray.exceptions import RayError

        dataset = self._dataset(key, samples, computation, notes)
        results = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
        while True:
            try:
                block = next(results, None)
            except RayError as error:
                raise _given_up(error) from None
            if block is None:
                return
            yield from _opened(block)

    def connect(self) -> None:
        """See `Engine`: join the cluster, or start a local one."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        compute = self.config.compute
        import ray
        import torch

        if ray.is_initialized():
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
        if compute.address is None:
            cpus = compute.actors and compute.actors * (compute.actor_cpus or torch.get_num_threads())
            with _on_loopback():
                ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
            return
        try:
            with _on_loopback() if _only_on_loopback(compute.address) else nullcontext():
                ray.init(compute.address, **quiet)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"compute.address: no Ray cluster at {compute.address!r} that this process can join ({_line(error)}); "
                "start one with 'ray start --head', or leave the key out for a local one"
            ) from None

    def close(self) -> None:
        """See `Engine`: a local cluster ends."""
        import ray

        ray.shutdown()

    def _dataset(self, key: str, samples: list[SamplePaths], computation: Computation[Any], notes: Notes) -> Dataset:
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        from resources.ray_worker import WORK, Pass, Work, Worker, pack

        compute = self.config.compute
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised, and said once
        context = DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        reader = open_reader(self.config, self.config.dataset(key))
        packed, with_model = pack(
            Pass(reader, self.config.model.input_size, compute.batch_size, compute.workers, computation)
        )
        rows = []
        for start in range(0, len(samples), compute.batch_size):
            chosen = samples[start : start + compute.batch_size]
            known = {one.sample_id: notes[one.sample_id] for one in chosen if one.sample_id in notes}
            rows.append({WORK: ray.cloudpickle.dumps(Work(chosen, known))})
        pieces, cpus = -(-len(rows) // PIECE), self._cpus()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*ray_remote_args.*")  # no other way to bound retries yet
            return ray.data.from_items(rows, override_num_blocks=pieces).map_batches(
                Worker,
                fn_constructor_args=(packed, compute.device, cpus),
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=min(self._actors(cpus), pieces)),
                num_cpus=cpus,
                num_gpus=self._gpus() if with_model else 0,
                max_restarts=-1,
                max_task_retries=RETRIES,
            )

    def _cpus(self) -> int:
        """Processors of one actor, and threads of its torch.

        As many as torch uses in this process, where the config does not say: sums over another number of threads
        round differently. Raises ConfigError where no node has as many.
        """
        import ray
        import torch

        given, here = self.config.compute.actor_cpus, torch.get_num_threads()
        if given is not None:
            return given
        largest = int(max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]))
        if largest < here:
            raise ConfigError(
                f"compute.actor_cpus: not given, and the cluster's largest node has fewer processors ({largest}) than "
                f"torch uses here ({here}); give a number"
            )
        return here

    def _actors(self, cpus: int) -> int:
        """Model actors at once: as many as the cluster has processors for, where the config does not say."""
        import ray

        return self.config.compute.actors or max(1, int(ray.cluster_resources().get("CPU", 0)) // cpus)

    def _gpus(self) -> float:
        """GPUs of one actor: one where the cluster has any and the device may be one, if the config does not say."""
        import ray

        compute = self.config.compute
        if compute.actor_gpus is not None:
            return compute.actor_gpus
        return float(compute.device in ("auto", "cuda") and ray.cluster_resources().get("GPU", 0) >= 1)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """What is started listens on 127.0.0.1; what is joined afterwards may be anywhere."""
    from ray._private import ray_constants

    before = os.environ.get(WIDE), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[WIDE], ray_constants.ENABLE_RAY_CLUSTER = "0", False  # Ray reads the variable when it is imported
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before[1]
        if before[0] is None:
            del os.environ[WIDE]
        else:
            os.environ[WIDE] = before[0]


def _only_on_loopback(address: str) -> bool:
    """Whether a cluster answers on this machine's loopback alone, which Ray takes for the machine's own address.

    Raises OSError where an address with a port does not answer: Ray itself goes on trying for minutes.
    """
    from ray.util import get_node_ip_address

    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return False
    _knock(host.strip("[]"), port)
    if host not in ("127.0.0.1", "localhost"):
        return False
    try:
        _knock(get_node_ip_address(), port)
    except OSError:
        return True
    return False


def _knock(host: str, port: str) -> None:
    socket.create_connection((host, int(port)), timeout=ANSWER).close()


def _opened(block: Any) -> Iterator[Any]:
    import ray

    from resources.ray_worker import DONE

    for row in block.column(DONE).to_pylist():
        found = ray.cloudpickle.loads(row)
        if isinstance(found, DomainGapError):
            raise found
        yield found


def _given_up(error: Exception) -> Exception:
    return LostWorkers(f"compute.engine: Ray gave a pass up: {_line(error)}")


def _line(error: BaseException) -> str:
    """What an error of Ray's comes down to: the last line of a remote traceback, else its first."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
    return (named or lines or [type(error).__name__])[-1 if named else 0][:300]
