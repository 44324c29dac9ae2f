"""The Dagster instance of a store: the command line and the UI share it.

Belongs here: where it lives and how it is opened. Does not: what runs in it.
"""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from resources.sample_store import SampleStore
from resources.store_files import replace_file

TEMPLATE = Path(__file__).with_name("dagster.yaml")


def dagster_home(store: SampleStore) -> Path:
    """The folder in the store's home; where it had none, with a dagster.yaml (telemetry off, one step a device)."""
    folder = store.home / "dagster"
    if not (folder / "dagster.yaml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "dagster.yaml", TEMPLATE.read_bytes())
    return folder


def open_instance(store: SampleStore) -> dg.DagsterInstance:
    """The store's instance."""
    return dg.DagsterInstance.from_config(str(dagster_home(store)))
