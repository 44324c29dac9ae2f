"""What is stored of whole sets: class regions, encoder stages and class shares, from the tables that hold them."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from assets.inference.latents import EMBEDDING_SCHEMA
from assets.inference.losses import EVALUATION_SCHEMA
from assets.ingestion.manifest import MANIFEST_SCHEMA
from assets.scoring.latent_gap import latent_gap
from assets.scoring.neighbours import latents_of
from assets.scoring.sets import PART_STATISTICS, SMALLEST_PART, score_class_shares, score_regions, score_stages
from assets.statistics.effect_sizes import jensen_shannon
from resources.config import StatisticsConfig

SETTINGS = StatisticsConfig(permutations=99, bootstrap=100, noise_floor_draws=10)
CLASSES, CHANNELS = ("road", "sky", "car"), (4, 6, 8)
UNIT = 6


def embedded(prefix: str, count: int, seed: int, channels: tuple[int, ...] = CHANNELS, **moved: float) -> pl.DataFrame:
    """Embeddings: `stage1` … move one stage, `road` … one class's regions; only the first pictures show a car."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        stages = [np.abs(rng.normal(1, 0.5, width)) for width in channels]
        for number, stage in enumerate(stages, 1):
            stage[0] += moved.get(f"stage{number}", 0.0)
        shown = [0, 1, 2] if i < SMALLEST_PART - 1 else [0, 1]
        regions = np.abs(rng.normal(1, 0.5, (len(shown), channels[-1])))
        regions[:, 0] += [moved.get(CLASSES[index], 0.0) for index in shown]
        rows.append({
            "sample_id": f"{prefix}{i:03d}", "fingerprint": "f", "latent": stages[-1].tolist(),
            "region_classes": shown, "region_vectors": regions.ravel().tolist(), "stage_channels": list(channels),
            "stage_mean": np.concatenate(stages).tolist(), "stage_std": [1.0] * sum(channels),
        })  # fmt: skip
    return pl.DataFrame(rows, schema=EMBEDDING_SCHEMA)


def manifest_of(**parts: pl.DataFrame) -> pl.DataFrame:
    rows = [
        {"sample_id": name, "part": part, "group": "g", "unit": f"u{i // UNIT}", "report_half": True}
        for part, frame in parts.items()
        for i, name in enumerate(frame["sample_id"])
    ]
    return pl.DataFrame(rows, schema=MANIFEST_SCHEMA)


REFERENCE, HOLDOUT = embedded("r", 60, 0), embedded("h", 60, 1)
SOURCE, SOURCE_MANIFEST = pl.concat([HOLDOUT, REFERENCE]), manifest_of(reference=REFERENCE, holdout=HOLDOUT)


def target_rows(frame: pl.DataFrame) -> pl.DataFrame:
    return latents_of(frame, manifest_of(target=frame), "target")


def test_a_gap_of_one_stage_is_found_there_alone():
    found = score_stages(SOURCE, SOURCE_MANIFEST, target_rows(embedded("t", 48, 2, stage2=2.0)), SETTINGS)
    assert [(row["stage"], row["channels"]) for row in found] == [(1, 4), (2, 6), (3, 8)]
    assert [(row["source_samples"], row["target_samples"]) for row in found] == [(60, 48)] * 3
    for name in ("kid", "energy", "sliced_wasserstein", "mmd", "c2st_auc"):
        assert [row["measurements"][name]["exceeds_floor"] for row in found] == [False, True, False], name
    for name in ("kid", "energy", "knn_two_sample"):
        p_values = [row["measurements"][name]["p_value"] for row in found]
        assert p_values[1] == 0.01 and min(p_values[0], p_values[2]) > 0.05, name


def test_a_stage_has_the_statistics_of_its_own_channels():
    target = target_rows(embedded("t", 48, 2, stage2=2.0))
    second = score_stages(SOURCE, SOURCE_MANIFEST, target, SETTINGS)[1]["measurements"]
    columns = [np.array(frame["stage_mean"].to_list(), np.float32)[:, 4:10] for frame in (REFERENCE, HOLDOUT, target)]
    units = [f"u{i // UNIT}" for i in range(60)], [f"u{i // UNIT}" for i in range(48)]
    expected = latent_gap(columns[0], columns[1], units[0], columns[2], units[1], k=5, permutations=99, bootstrap=100,
                          floor_draws=10, seed=0)  # fmt: skip
    assert tuple(second) == PART_STATISTICS
    assert {name: row["value"] for name, row in second.items()} == {n: expected[n].value for n in PART_STATISTICS}


def test_a_model_of_one_feature_map_has_no_stages():
    parts = {part: embedded(part[0], 30, seed, (8,)) for seed, part in enumerate(("reference", "holdout", "target"))}
    source = pl.concat([parts["reference"], parts["holdout"]])
    manifest = manifest_of(reference=parts["reference"], holdout=parts["holdout"])
    assert score_stages(source, manifest, target_rows(parts["target"]), SETTINGS) == []


@pytest.mark.parametrize("count", [0, SMALLEST_PART - 1])
def test_a_small_set_has_no_stages(count: int):
    assert score_stages(SOURCE, SOURCE_MANIFEST, target_rows(embedded("t", count, 2)), SETTINGS) == []


def test_a_gap_of_one_class_is_found_in_its_regions_alone():
    target = target_rows(embedded("t", 48, 2, sky=2.0))
    found = score_regions(SOURCE, SOURCE_MANIFEST, target, CLASSES, SETTINGS)
    assert [(row["name"], row["source_samples"], row["target_samples"]) for row in found] == [
        ("road", 60, 48), ("sky", 60, 48),
    ]  # fmt: skip
    for name in ("kid", "energy", "sliced_wasserstein", "knn_two_sample"):
        assert [row["measurements"][name]["exceeds_floor"] for row in found] == [False, True], name
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def evaluated(frame: pl.DataFrame, pixels: tuple[int, ...], predicted: tuple[int, ...], labelled: bool) -> pl.DataFrame:
    rows = [
        {
            "sample_id": name, "labelled": labelled, "pixels": sum(pixels) if labelled else 0,
            "class_pixels": list(pixels) if labelled else [0] * len(pixels), "predicted_pixels": list(predicted),
        }
        for name in frame["sample_id"]
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=EVALUATION_SCHEMA)


@pytest.mark.parametrize(("labelled", "basis"), [(True, "labels"), (False, "predictions")])
def test_class_shares_compare_like_with_like(labelled: bool, basis: str):
    target = embedded("t", 48, 2)
    source = evaluated(SOURCE, (50, 30, 20), (60, 40, 0), True), SOURCE_MANIFEST
    other = evaluated(target, (20, 30, 50), (30, 40, 30), labelled), manifest_of(target=target)
    found = score_class_shares(source, other, SETTINGS)
    expected = jensen_shannon((50, 30, 20), (20, 30, 50)) if labelled else jensen_shannon((60, 40, 0), (30, 40, 30))
    assert (found["basis"], found["source_samples"], found["target_samples"]) == (basis, 60, 48)
    assert found["jensen_shannon"]["value"] == pytest.approx(expected)
    assert found["jensen_shannon"]["p_value"] == 0.01 and found["jensen_shannon"]["exceeds_floor"]
