"""The Dagster instance of a store: the command line and the UI share it.

Belongs here: where it lives and how it is opened. Does not: what runs in it.
"""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from resources.sample_store import SampleStore

TEMPLATE = Path(__file__).with_name("dagster.yaml")


def dagster_home(store: SampleStore) -> Path:
    """The folder, with a dagster.yaml (telemetry off, one step at a time on the device) where it had none."""
    path = store.path("dagster", "dagster.yaml")
    if not path.exists():
        store.write(TEMPLATE.read_text(), "dagster", "dagster.yaml")
    return path.parent


def open_instance(store: SampleStore) -> dg.DagsterInstance:
    """The store's instance."""
    return dg.DagsterInstance.from_config(str(dagster_home(store)))
