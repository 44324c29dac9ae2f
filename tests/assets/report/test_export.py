"""Exports read back: the samples in the order of the choice, masks pixel for pixel, no picture copied unless asked."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from assets.inference.losses import encode_classes
from assets.report.coco import compressed, run_lengths
from assets.report.export import export_samples, new_folder
from assets.report.selection import COLUMNS, read_samples, select_samples
from resources.datasets.base import IGNORE
from resources.errors import ConfigError
from resources.sample_store import SampleStore

CLASSES = ("road", "sky", "car")
SIZE = (12, 20)
NAMES = ["drive/a", "=b()", "c d", "é", "plain"]


class Masks:
    """Masks on disk that hold class indices already."""

    def read_mask(self, path: Path) -> np.ndarray:
        return np.asarray(Image.open(path))


def classes_of(i: int, size=SIZE) -> np.ndarray:
    found = np.random.default_rng(i).choice(np.array([0, 1, 2, IGNORE], np.uint8), size)
    found[:4] = i % 3
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> SampleStore:
    """What a run leaves of a target of five samples, the last without a label."""
    root = tmp_path_factory.mktemp("exports")
    store, rng = SampleStore(str(root / "store")), np.random.default_rng(0)
    rows, evaluated = [], []
    for i, name in enumerate(NAMES):
        image, mask = root / f"picture{i}.PNG", root / f"mask{i}.png"
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(image)
        Image.fromarray(classes_of(i)).save(mask)
        labelled = i < 4
        rows.append({
            "sample_id": name, "fingerprint": "f", "image": str(image), "mask": str(mask) if labelled else None,
            "split": "", "group": f"g{i % 2}", "part": "target", "height": SIZE[0], "width": SIZE[1],
            "labelled": labelled, "quarantined": False,
        })  # fmt: skip
        evaluated.append({
            "sample_id": name, "fingerprint": "f", "loss": [0.3, 0.9, 0.1, 0.5, None][i], "entropy": 0.2,
            "confidence": 0.75, "label_quality": [0.9, 0.2, 0.1, 0.5, None][i],
            "suspect_pixels": [[0, 2, 0], [3, 0, 0], [0, 0, 9], [0, 0, 0], None][i], "judged_pixels": [80, 80, 80],
            "prediction": encode_classes(classes_of(i + 10, (6, 10)) % 3),
        })  # fmt: skip
    schema = {"loss": pl.Float64, "label_quality": pl.Float64, "suspect_pixels": pl.List(pl.Int64)}
    store.table("away", "manifest").upsert(pl.DataFrame(rows))
    store.table("away", "evaluation").upsert(pl.DataFrame(evaluated, schema_overrides=schema))
    store.table("away", "gap_scores").upsert(pl.DataFrame({
        "sample_id": NAMES, "fingerprint": NAMES, "gap_score": [0.1, 0.2, 0.3, 0.4, 0.5], "conformal_p": [0.5] * 5,
        "neighbours": [["r1", "r2"]] * 5, "distances": [[0.1, 0.2]] * 5,
    }))  # fmt: skip
    store.table("away", "traits").upsert(pl.DataFrame({
        "sample_id": NAMES, "fingerprint": NAMES, "brightness": [0.1, 0.2, 0.3, 0.4, 0.5],
    }))  # fmt: skip
    low = {"name": "low brightness", "where": "brightness <= 0.2"}
    many = {"name": "high share of suspected labels", "where": "suspect_share >= 0.02"}
    store.write_json({"slices": [low], "suspect_slice": many}, "diagnosis", "away.json")
    store.write_json({"chosen": [{"sample_id": "plain"}, {"sample_id": "c d"}]}, "next_samples", "away.json")
    return store


def exported(store: SampleStore, folder: Path, kind: str, *, select: str = "all", copy=False, predictions=True) -> Path:
    rows = select_samples(store, "away", select)
    samples = read_samples(store, "away", rows, Masks(), predictions=predictions)
    assert export_samples(rows, samples, CLASSES, new_folder(folder), kind, copy=copy) == rows.height
    return folder


# --- selections ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("all", sorted(NAMES)),
        ("worst", ["=b()", "é", "drive/a", "c d"]),
        ("suspects", ["c d", "=b()", "drive/a"]),
        ("next", ["plain", "c d"]),
        ("slice:low brightness", ["=b()", "drive/a"]),
        ("slice: high share of suspected labels", ["c d"]),
    ],
)
def test_each_word_means_its_samples_in_their_order(store, select, expected):
    rows = select_samples(store, "away", select)
    assert rows["sample_id"].to_list() == expected
    assert rows.columns == list(COLUMNS)
    assert select_samples(store, "away", select, most=1)["sample_id"].to_list() == expected[:1]


def test_ids_of_a_file_keep_its_order(store, tmp_path):
    (tmp_path / "ids.txt").write_text("é\n\n drive/a \né\n", encoding="utf-8")
    assert select_samples(store, "away", str(tmp_path / "ids.txt"))["sample_id"].to_list() == ["é", "drive/a"]
    (tmp_path / "ids.txt").write_text("nobody\n")
    with pytest.raises(ConfigError, match=r"ids\.txt: no usable sample 'nobody'"):
        select_samples(store, "away", str(tmp_path / "ids.txt"))


def test_unknown_words_and_slices_are_named(store):
    with pytest.raises(ConfigError, match="--select wurst: expected worst, next, suspects, all, slice:<name>"):
        select_samples(store, "away", "wurst")
    with pytest.raises(ConfigError, match="away has no such slice; there are low brightness; high share"):
        select_samples(store, "away", "slice:dark")


# --- formats ---------------------------------------------------------------------------------------------------------


def test_csv_lists_figures_and_files(store, tmp_path):
    folder = exported(store, tmp_path / "out", "csv", select="worst")
    rows = list(csv.DictReader((folder / "samples.csv").open(encoding="utf-8")))
    assert [row["sample_id"] for row in rows] == ["'=b()", "é", "drive/a", "c d"]
    assert (rows[0]["loss"], rows[0]["nearest_reference"]) == ("0.9", "r1")
    assert [path.name for path in folder.iterdir()] == ["samples.csv"]


def decoded(segmentation: dict) -> np.ndarray:
    """A mask from its runs, by COCO's definition alone."""
    counts = segmentation["counts"]
    counts = uncompressed(counts) if isinstance(counts, str) else counts
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    return flat.reshape(segmentation["size"], order="F").astype(bool)


def uncompressed(text: str) -> list[int]:
    """The counts of COCO's compressed strings: groups of five bits, the sixth says that more follow."""
    counts, place = [], 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[place]) - 48
            value |= (bits & 31) << shift
            more, place, shift = bool(bits & 32), place + 1, shift + 5
            if not more and bits & 16:
                value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_run_lengths_are_the_mask(mask):
    counts = run_lengths(mask)
    assert sum(counts) == mask.size and sum(counts[1::2]) == mask.sum()
    assert np.array_equal(decoded({"size": mask.shape, "counts": counts}), mask)
    assert np.array_equal(decoded({"size": mask.shape, "counts": compressed(counts)}), mask)


@given(st.lists(st.integers(0, 2**31), max_size=20))
def test_compressed_counts_come_back(counts):
    assert uncompressed(compressed(counts)) == counts


def test_a_known_mask_has_cocos_string():
    """A 3 × 3 picture with one pixel in the middle: runs 4, 1, 4."""
    mask = np.zeros((3, 3), bool)
    mask[1, 1] = True
    assert run_lengths(mask) == [4, 1, 4] and compressed([4, 1, 4]) == "414"


def test_coco_gives_the_masks_back(store, tmp_path):
    folder = exported(store, tmp_path / "out", "coco")
    content = json.loads((folder / "annotations.json").read_text())
    assert [(row["id"], row["name"]) for row in content["categories"]] == [(1, "road"), (2, "sky"), (3, "car")]
    by_id = {row["id"]: row for row in content["images"]}
    assert [row["sample_id"] for row in content["images"]] == sorted(NAMES)
    assert len({row["id"] for row in content["annotations"]}) == len(content["annotations"])
    assert not list(folder.glob("**/*.PNG")) and all(Path(row["file_name"]).is_file() for row in by_id.values())
    for image_id, image in by_id.items():
        place = NAMES.index(image["sample_id"])
        rebuilt = np.full((image["height"], image["width"]), IGNORE, np.uint8)
        own = [row for row in content["annotations"] if row["image_id"] == image_id]
        for row in own:
            mask = decoded(row["segmentation"])
            rebuilt[mask] = row["category_id"] - 1
            x, y, width, height = row["bbox"]
            assert mask[y : y + height, x : x + width].sum() == mask.sum() == row["area"]
            assert mask[y].any() and mask[y + height - 1].any() and mask[:, x].any() and mask[:, x + width - 1].any()
            assert row["iscrowd"] == 1
        assert np.array_equal(rebuilt, classes_of(place)) if place < 4 else not own


def test_coco_results_are_the_predictions_at_the_pictures_size(store, tmp_path):
    folder = exported(store, tmp_path / "out", "coco", select="next")
    content = json.loads((folder / "annotations.json").read_text())
    results = json.loads((folder / "predictions.json").read_text())
    for image in content["images"]:
        rebuilt = np.full(SIZE, IGNORE, np.uint8)
        for row in results:
            if row["image_id"] == image["id"]:
                rebuilt[decoded(row["segmentation"])] = row["category_id"] - 1
        small = classes_of(NAMES.index(image["sample_id"]) + 10, (6, 10)) % 3
        assert np.array_equal(rebuilt, small.repeat(2, 0).repeat(2, 1))
    assert {row["score"] for row in results} == {0.75}
    plain = exported(store, tmp_path / "plain", "coco", predictions=False)
    assert not (plain / "predictions.json").exists()


def test_copies_are_named_by_place_and_equal_the_pictures(store, tmp_path):
    folder = exported(store, tmp_path / "out", "coco", select="worst", copy=True)
    content = json.loads((folder / "annotations.json").read_text())
    assert [row["file_name"] for row in content["images"]] == [f"images/{i}.png" for i in range(1, 5)]
    rows = list(csv.DictReader((folder / "samples.csv").open(encoding="utf-8")))
    for row, image in zip(rows, content["images"], strict=True):
        assert (folder / image["file_name"]).read_bytes() == Path(row["image"]).read_bytes()


@pytest.mark.parametrize("copy", [False, True])
def test_fiftyone_finds_pictures_labels_and_predictions_by_one_name(store, tmp_path, copy):
    folder = exported(store, tmp_path / "out", "fiftyone", copy=copy)
    if copy:
        places = {path.name: str(path) for path in (folder / "data").iterdir()}
        assert not (folder / "data.json").exists()
    else:
        places = json.loads((folder / "data.json").read_text())
        assert all(Path(path).is_absolute() and Path(path).is_file() for path in places.values())
    stems = {name.rsplit(".", 1)[0]: path for name, path in places.items()}
    assert len(stems) == len(NAMES)
    targets = json.loads((folder / "mask_targets.json").read_text())
    assert targets == {"1": "road", "2": "sky", "3": "car"}
    labels = {path.stem: np.asarray(Image.open(path)) for path in (folder / "labels").iterdir()}
    predictions = {path.stem: np.asarray(Image.open(path)) for path in (folder / "predictions").iterdir()}
    assert len(labels) == 4 and set(labels) < set(predictions) == set(stems)
    order = sorted(NAMES)
    for stem, mask in labels.items():
        expected = classes_of(NAMES.index(order[int(stem) - 1]))
        assert mask.dtype == np.uint8 and np.array_equal(mask, np.where(expected == IGNORE, 0, expected + 1))
    assert all(mask.shape == SIZE for mask in predictions.values())


def test_what_is_there_is_never_written_over(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for path in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        with pytest.raises(ConfigError, match="already there; expected a new folder"):
            new_folder(path)
    assert new_folder(tmp_path / "a" / "b").is_dir()
