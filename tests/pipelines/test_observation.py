"""Folders are looked at without a Dagster run, without opening a picture, and recorded where they moved."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from pipelines.definitions import build_defs
from pipelines.home import open_instance
from pipelines.rerun import Rerun
from resources.config import GapConfig
from resources.errors import DatasetError
from resources.sample_store import SampleStore

SOURCES = {"source/images", "dusk/images"}


@pytest.fixture
def root(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("day", "dusk"):
        for kind, shape in (("images", (20, 24, 3)), ("masks", (20, 24))):
            (tmp_path / name / kind).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(rng.integers(0, 2, shape, dtype=np.uint8)).save(tmp_path / name / kind / f"{i}.png")
    return tmp_path


@pytest.fixture
def defs(root) -> dg.Definitions:
    sets = [{"name": name, "reader": "folder", "root": root / name, "group_blocks": 1} for name in ("day", "dusk")]
    config = {"store": str(root / "store"), "classes": ["a", "b"], "source": sets[0], "targets": sets[1:]}
    return build_defs(GapConfig.model_validate(config))


@pytest.fixture
def instance(root):
    with open_instance(SampleStore(str(root / "store"))) as found:
        yield found


def records(instance: dg.DagsterInstance) -> dict[str, int]:
    keys = [dg.AssetKey(name.split("/")) for name in SOURCES]
    return {"/".join(key.path): len(instance.fetch_observations(key, limit=10).records) for key in keys}


def test_what_did_not_move_is_recorded_once_and_opened_once(defs, instance, opened_pictures):
    Rerun(defs, instance).observe()
    assert len(opened_pictures) == 16, "each file is hashed"
    opened_pictures.clear()
    Rerun(defs, instance).observe()
    assert opened_pictures == []
    assert records(instance) == dict.fromkeys(SOURCES, 1)
    assert instance.get_runs_count() == 0


def test_a_record_is_that_of_a_dagster_run_of_the_source(defs, instance):
    Rerun(defs, instance).observe()
    keys = [dg.AssetKey(name.split("/")) for name in SOURCES]
    job = defs.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=instance, asset_selection=keys).success
    for key in keys:
        ours, its = (row.asset_observation for row in instance.fetch_observations(key, limit=2, ascending=True).records)
        assert ours.data_version == its.data_version
        assert ours.metadata["samples"] == its.metadata["samples"] and ours.metadata.keys() == its.metadata.keys()
    Rerun(defs, instance).observe()
    assert records(instance) == dict.fromkeys(SOURCES, 2), "what a run in the UI recorded is not recorded again"


def test_content_that_moved_is_recorded_and_a_time_alone_is_not(root, defs, instance):
    Rerun(defs, instance).observe()
    os.utime(root / "dusk" / "images" / "0.png", ns=(1, 1))
    Rerun(defs, instance).observe()
    assert records(instance) == dict.fromkeys(SOURCES, 1)
    shutil.copy(root / "dusk" / "images" / "1.png", root / "dusk" / "images" / "0.png")
    Rerun(defs, instance).observe()
    assert records(instance) == {"source/images": 1, "dusk/images": 2}


def test_a_version_that_moved_reruns_what_reads_it(instance):
    def defs(version: str) -> dg.Definitions:
        @dg.observable_source_asset(key=["source", "images"])
        def images() -> dg.DataVersion:
            return dg.DataVersion(version)

        @dg.asset(key=["source", "manifest"], deps=[["source", "images"]])
        def manifest() -> None: ...

        return dg.Definitions([images, manifest])

    assert len(Rerun(defs("1"), instance).run().ran) == 1
    loop = Rerun(defs("2"), instance)
    assert loop.statuses()[dg.AssetKey(["source", "manifest"])].state == "fresh"
    assert len(loop.run().ran) == 1, "what was asked before the look is asked again after it"
    assert Rerun(defs("2"), instance).run().ran == []


def test_a_folder_that_is_gone_is_said_in_the_readers_words(root, defs, instance):
    shutil.rmtree(root / "dusk" / "images")
    with pytest.raises(DatasetError, match="no pictures"):
        Rerun(defs, instance).observe()
