"""The world `streets`: the same always, sides that share no block, a network that has learned and is trained once."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gapbench import damage, method, streets_world
from gapbench.__main__ import run
from gapbench.cases import cases
from gapbench.results import markdown, summary
from gapbench.streets_world import FRAMES, INPUT_SIZE, POOL_DRIVES, STREETS_CLASSES, TRAINED_DRIVES, drawn, streets
from gapbench.world import World
from scipy.stats import f_oneway

from assets.inference.losses import pixel_sums
from assets.statistics.segmentation import mean_iou
from resources.datasets.base import IGNORE


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def world(cache) -> Iterator[World]:
    """As the bench has it, but trained for a tenth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streets_world, "EPOCHS", 2)
        patch.setattr(streets_world, "TRAINED_DRIVES", range(26, 38))
        yield streets(cache)


def test_pictures_are_the_same_always_and_differ_from_each_other():
    first, again = drawn(range(1)), drawn(range(1))
    for one, other in zip(first, again, strict=True):
        assert one.sample_id == other.sample_id
        assert np.array_equal(one.image, other.image) and np.array_equal(one.mask, other.mask)
    assert len({item.image.tobytes() for item in first}) == FRAMES


def test_pictures_have_the_input_s_size_and_known_classes():
    for item in drawn(range(3), each=4):
        assert item.image.shape == (*INPUT_SIZE, 3) and item.mask.shape == INPUT_SIZE
        assert set(np.unique(item.mask)) <= {*range(len(STREETS_CLASSES)), IGNORE}
        assert (item.mask == IGNORE).mean() < 0.05


def test_nothing_was_trained_on_that_is_in_the_pool():
    assert not {*POOL_DRIVES} & {*TRAINED_DRIVES}
    assert len(POOL_DRIVES) >= 24
    assert {"vegetation", "car", "sky", "building"} <= {*STREETS_CLASSES}


@pytest.mark.slow
class TestWorld:
    def test_a_block_is_a_whole_drive_that_lies_on_one_side(self, world):
        assert Counter(item.block for item in world.pool) == {f"drive{drive:02d}": FRAMES for drive in POOL_DRIVES}
        assert all(item.block == item.drive for item in world.pool)
        assert not {item.block for item in world.reference} & {item.block for item in world.pool}

    def test_pictures_of_a_block_are_alike(self, world):
        colour = np.array([item.image.mean(axis=(0, 1)) for item in world.pool]).reshape(-1, FRAMES, 3)
        warmth = colour[..., 0] - colour[..., 2]
        assert f_oneway(*warmth).pvalue < 1e-6

    def test_network_is_better_than_chance(self, world):
        assert np.nanmean(list(world.untouched.values())) < 0.5 * math.log(len(STREETS_CLASSES))
        confusion = sum(
            pixel_sums(logits, picture.mask).confusion
            for batch in world.batches(world.pool)
            for logits, picture in zip(world.model(batch.reduced).logits, batch.pictures, strict=True)
        )
        assert mean_iou(confusion) > 0.25

    def test_second_start_trains_nothing_and_is_the_same_world(self, world, cache, monkeypatch):
        monkeypatch.setattr(streets_world, "train_on", None)
        monkeypatch.setattr("resources.model._loaded", {})
        again = streets(cache)
        assert again.model.fingerprint == world.model.fingerprint
        assert [item.sample_id for item in again.reference] == [item.sample_id for item in world.reference]
        assert np.array_equal(again.losses(again.pool[:8]), list(world.untouched.values())[:8])


@pytest.mark.slow
def test_a_few_cases_are_asked_and_answered_right(world, tmp_path, monkeypatch):
    monkeypatch.setattr(damage, "PICTURES", 12)
    monkeypatch.setattr(method, "PROBE_EACH", 24)
    monkeypatch.setattr("gapbench.cases.SIDE", 64)
    known = {case.name: case for case in cases("tune", world.config.class_names)}
    names = ["tune/null/blocks/000", "tune/single/contrast/grey/0.50", "tune/single/noise/gauss/0.50"]
    run(world, [known[name] for name in names], tmp_path, math.inf)
    rows = {
        row["case"]: row for row in map(json.loads, (tmp_path / "answers-tune-1of1.jsonl").read_text().splitlines())
    }
    assert rows[names[0]]["answer"]["causes"] == []
    assert rows[names[1]]["answer"]["detected"] and rows[names[1]]["answer"]["named"]
    assert rows[names[2]]["answer"]["causes"] == ["noise"]
    assert all(len(row["baselines"]) >= 8 for row in rows.values())
    results = summary("streets", "tune", tmp_path, set(names))
    assert results["answered"] == 3 and "| top-1 cause, single plants, damage ≥ 10% |" in markdown(results)
