"""Looking at what lies outside: folders and weights files, recorded in the instance where they moved.

Belongs here: asking sources for their data versions without a Dagster run for it. Does not: how a source finds its
version (its door), what follows from it (`rerun.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import dagster as dg

DATA_VERSION_TAG = "dagster/data_version"


def observe(instance: dg.DagsterInstance, defs: dg.Definitions, keys: Sequence[dg.AssetKey]) -> list[dg.AssetKey]:
    """Look at some observable sources; those whose data version moved are recorded and returned.

    The record is the one that a run of the source leaves; a source that came out the same adds nothing to the log.
    """
    sources = {asset.key: asset for asset in defs.assets or () if isinstance(asset, dg.SourceAsset)}
    moved = []
    for key in keys:
        found = _look(sources[key], defs.resources or {})
        if found.data_version is None or found.data_version.value != _recorded_version(instance, key):
            instance.report_runless_asset_event(_record(key, found))
            moved.append(key)
    return moved


def _look(source: dg.SourceAsset, resources: Any) -> dg.ObserveResult:
    look: Any = source.observe_fn
    found = look(**{name: resources[name] for name in inspect.signature(look).parameters})
    return dg.ObserveResult(data_version=found) if isinstance(found, dg.DataVersion) else found


def _recorded_version(instance: dg.DagsterInstance, key: dg.AssetKey) -> str | None:
    records = instance.fetch_observations(key, limit=1).records
    observation = records[0].asset_observation if records else None
    return observation.data_version if observation is not None else None


def _record(key: dg.AssetKey, found: dg.ObserveResult) -> dg.AssetObservation:
    version = {DATA_VERSION_TAG: found.data_version.value} if found.data_version is not None else {}
    return dg.AssetObservation(key, tags=version, metadata=found.metadata)
