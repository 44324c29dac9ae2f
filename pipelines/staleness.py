"""Which assets are stale, and why: Dagster's own answer, read through the one private class that gives it.

Belongs here: the only import of that class. Does not: deciding what to run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContext
from dagster._core.storage.event_log.base import AssetRecord

State = Literal["fresh", "stale", "missing"]


@dataclass(frozen=True)
class Status:
    """One asset's state with the reasons that Dagster gives."""

    key: dg.AssetKey
    state: State
    reasons: tuple[str, ...] = ()


class _Loading(LoadingContext):
    """What the resolver batches its look-ups through; one per resolution."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._loaders: dict[Any, Any] = {}

    @property
    def instance(self) -> dg.DagsterInstance:
        return self._instance

    @property
    def loaders(self) -> dict[Any, Any]:
        return self._loaders


def resolve(instance: dg.DagsterInstance, graph: Any, keys: Iterable[dg.AssetKey]) -> dict[dg.AssetKey, Status]:
    """States of some assets as of now; nothing is cached between calls, since every run moves them."""
    context = _Loading(instance)
    AssetRecord.blocking_get_many(context, graph.materializable_asset_keys)  # one query, where each would be its own
    resolver = CachingStaleStatusResolver(instance, graph, context)
    return {key: _status(resolver, key) for key in keys}


def _status(resolver: CachingStaleStatusResolver, key: dg.AssetKey) -> Status:
    state = resolver.get_status(key).value.lower()
    causes = resolver.get_stale_causes(key)
    reasons = dict.fromkeys(_reason(cause) for cause in causes)
    return Status(key, state, tuple(reasons))  # type: ignore[arg-type]


def _reason(cause: Any) -> str:
    dependency = cause.dependency_asset_key
    where = f" ({dependency.to_user_string()})" if dependency is not None else ""
    return f"{cause.reason}{where}"
