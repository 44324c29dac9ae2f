"""The manifest: what changes a row, what is decoded, who is quarantined and why, parts, units and halves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from assets.ingestion.manifest import MANIFEST_SCHEMA, content_version, divide_by_group, labels_version, scan_files
from resources.datasets.base import SampleFile
from resources.datasets.folder import FolderReader
from resources.errors import DatasetError

ROOT = Path(__file__).parents[3]
GROUPS = st.lists(st.sampled_from([f"drive{i}" for i in range(9)]), min_size=2, max_size=40)


def scan(dataset, *, verify=False):
    config = dataset.config()
    return scan_files(FolderReader(config.targets[0], config.class_names), dataset.files, verify=verify)[1]


def files_version(dataset, metadata=None):
    scan(dataset)
    return content_version(dataset.files.read(), metadata)


def samples_of(groups):
    return [SampleFile(f"s{i:03d}", Path(f"s{i}"), None, "", group) for i, group in enumerate(groups)]


# Files


def test_files_are_hashed_when_size_or_time_moves(dataset):
    dataset.add("a", "b")
    assert scan(dataset).counts() == {"new": 2, "changed": 0, "removed": 0, "kept": 0}
    assert scan(dataset).counts() == {"new": 0, "changed": 0, "removed": 0, "kept": 2}
    before = dataset.files.read()
    os.utime(dataset.image("a"), ns=(1, 1))
    assert scan(dataset).changed == ["a"]
    after = dataset.files.read()
    assert after["image_hash"].to_list() == before["image_hash"].to_list()


def test_content_that_hides_behind_size_and_time_is_found_by_verify(dataset):
    dataset.add("a")
    scan(dataset)
    stat = dataset.image("a").stat()
    content = bytearray(dataset.image("a").read_bytes())
    content[-20] ^= 1
    dataset.image("a").write_bytes(content)
    os.utime(dataset.image("a"), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert scan(dataset).changed == []
    assert scan(dataset, verify=True).changed == ["a"]


def test_the_content_version_names_names_and_contents_alone(dataset, tmp_path):
    dataset.add("a", "b")
    first = files_version(dataset)
    os.utime(dataset.image("a"), ns=(1, 1))
    assert files_version(dataset) == first
    moved = tmp_path / "moved"
    shutil.move(dataset.root, moved)
    dataset.root = moved
    assert files_version(dataset) == first
    side = tmp_path / "side.csv"
    side.write_text("sample_id,x\na,1\n")
    with_side = files_version(dataset, side)
    dataset.add("a", seed=1, masked=False)
    versions = [first, with_side, files_version(dataset)]
    dataset.mask("b").unlink()
    versions.append(files_version(dataset))
    dataset.image("b").rename(dataset.image("c"))
    versions.append(files_version(dataset))
    assert len(set(versions)) == 5


# Rows


def test_a_row_says_what_the_files_hold(dataset):
    dataset.add("a")
    dataset.add("plain", masked=False, shape=(30, 40))
    change, rows = dataset.ingest()
    assert change.counts() == {"new": 2, "changed": 0, "removed": 0, "kept": 0}
    assert dict(dataset.table.read().schema) == MANIFEST_SCHEMA
    mask = np.asarray(Image.open(dataset.mask("a")))
    a, plain = rows["a"], rows["plain"]
    assert (a["height"], a["width"], a["labelled"], a["quarantined"], a["reason"]) == (20, 24, True, False, None)
    assert a["class_pixels"] == [int((mask == index).sum()) for index in range(3)]
    assert (a["image"], a["mask"]) == (str(dataset.image("a")), str(dataset.mask("a")))
    assert a["part"] == plain["part"] == "target"
    assert (plain["height"], plain["width"], plain["labelled"], plain["mask"]) == (30, 40, False, None)
    assert plain["class_pixels"] == [0, 0, 0]


def test_only_what_changed_is_read_and_written(dataset):
    dataset.add("a", "b", "c", "d")
    dataset.ingest()
    assert dataset.decoded == ["a", "b", "c", "d"]
    before = dataset.rows()
    dataset.add("b", seed=1)
    dataset.add("e")
    dataset.remove("c")
    change, after = dataset.ingest()
    assert (change.new, change.changed, change.removed, change.kept) == (["e"], ["b"], ["c"], 2)
    assert dataset.decoded == ["b", "e"]
    assert sorted(after) == ["a", "b", "d", "e"]
    assert after["a"] == before["a"]
    assert after["b"]["class_pixels"] != before["b"]["class_pixels"]
    assert dataset.ingest()[0].counts() == {"new": 0, "changed": 0, "removed": 0, "kept": 4}
    assert dataset.decoded == []


def test_a_touched_file_changes_no_row(dataset):
    dataset.add("a", "b")
    _, before = dataset.ingest()
    for path in (dataset.image("a"), dataset.mask("b")):
        os.utime(path, ns=(5, 5))
    change, after = dataset.ingest()
    assert change.stale == []
    assert after == before
    assert dataset.decoded == []


def test_new_code_writes_the_rows_anew_without_reading_the_same_content_again(dataset):
    dataset.add("a", "b")
    _, before = dataset.ingest()
    change, after = dataset.ingest(code="other")
    assert change.changed == ["a", "b"]
    assert dataset.decoded == []
    facts = ("height", "width", "class_pixels", "labelled", "quarantined", "reason")
    assert all(before[name][fact] == after[name][fact] for name in before for fact in facts)


def test_another_label_map_reads_the_masks_again(dataset):
    dataset.add("a")
    _, before = dataset.ingest()
    _, after = dataset.ingest(labels={0: "sky", 1: "road"})
    assert dataset.decoded == ["a"]
    road, sky, _ = before["a"]["class_pixels"]
    assert after["a"]["class_pixels"] == [sky, road, 0]


def test_another_class_list_reads_the_masks_again(dataset):
    dataset.add("a")
    _, before = dataset.ingest()
    _, after = dataset.ingest(classes=["car", "sky", "road", "tree"])
    assert dataset.decoded == ["a"]
    assert after["a"]["class_pixels"] == [*before["a"]["class_pixels"], 0]  # ids follow the list's order
    assert after["a"]["labels_version"] != before["a"]["labels_version"]


def test_the_code_that_decodes_is_part_of_the_labels_version(dataset, tmp_path):
    """Facts of known content are kept, so a mended decoder must make them unknown."""
    for package in ("assets", "resources"):
        shutil.copytree(ROOT / package, tmp_path / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "code" / "resources" / "datasets" / "label_map.py").open("a") as file:
        file.write("\nMENDED = True\n")
    config = dataset.config()
    saved = tmp_path / "config.json"
    saved.write_text(config.model_dump_json())
    program = (
        "from pathlib import Path; from resources.config import GapConfig; "
        "from assets.ingestion.manifest import labels_version; "
        f"config = GapConfig.model_validate_json(Path({str(saved)!r}).read_text()); "
        "print(labels_version(config, config.targets[0]))"
    )

    def version(folder):
        found = subprocess.run(
            [sys.executable, "-c", program], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return found.stdout.strip()

    assert labels_version(config, config.targets[0]) != version(tmp_path / "code")


def test_side_information_is_in_the_row_and_changes_it(dataset, tmp_path):
    dataset.add("a", "b")
    side = tmp_path / "side.csv"
    side.write_text("sample_id,weather,speed\na,fog,12.5\n")
    _, rows = dataset.ingest(metadata=side)
    assert json.loads(rows["a"]["metadata"]) == {"weather": "fog", "speed": 12.5}
    assert json.loads(rows["b"]["metadata"]) == {}
    side.write_text("sample_id,weather,speed\na,fog,13\n")
    assert dataset.ingest(metadata=side)[0].changed == ["a"]
    assert dataset.decoded == []


# Quarantine


def test_what_can_not_be_used_is_quarantined_with_its_reason(dataset):
    dataset.add("corrupt", "empty", "fine", "size", "text", "unknown")
    dataset.image("corrupt").write_bytes(dataset.image("corrupt").read_bytes()[:300])
    dataset.image("empty").write_bytes(b"")
    dataset.mask("text").write_text("no picture")
    Image.fromarray(np.zeros((10, 24), np.uint8)).save(dataset.mask("size"))
    Image.fromarray(np.full((20, 24), 9, np.uint8)).save(dataset.mask("unknown"))
    _, rows = dataset.ingest()
    words = {
        "corrupt": "corrupt.png: truncated or corrupt",
        "empty": "empty.png: empty file",
        "size": "mask is 24×10, its picture 24×20",
        "text": "text.png: not a picture",
        "unknown": "unknown label ids 9 (480 pixels)",
    }
    assert [name for name, row in rows.items() if not row["quarantined"]] == ["fine"]
    for name, expected in words.items():
        assert expected in rows[name]["reason"]
        assert not rows[name]["labelled"]
        assert rows[name]["class_pixels"] == [0, 0, 0]


def test_a_mended_file_leaves_quarantine_alone_and_the_others_are_not_read_again(dataset):
    dataset.add("a", "b", "c")
    dataset.image("b").write_bytes(b"")
    assert dataset.ingest()[1]["b"]["quarantined"]
    dataset.add("b", seed=2)
    change, rows = dataset.ingest()
    assert change.changed == ["b"]
    assert dataset.decoded == ["b"]
    assert not rows["b"]["quarantined"]


def test_a_mask_of_ignored_pixels_is_no_label(dataset):
    dataset.add("a")
    Image.fromarray(np.full((20, 24), 255, np.uint8)).save(dataset.mask("a"))
    _, rows = dataset.ingest()
    assert (rows["a"]["labelled"], rows["a"]["quarantined"]) == (False, False)


# Parts


def test_a_source_is_parted_as_selected(dataset):
    dataset.add("train_1", "train_2", "val_1", "test_1")
    _, rows = dataset.ingest(
        as_source=True, split="^([a-z]+)_", reference={"splits": ["train"]}, holdout={"splits": ["val"]}
    )
    assert {name: row["part"] for name, row in rows.items()} == {
        "train_1": "reference", "train_2": "reference", "val_1": "holdout", "test_1": "unused",
    }  # fmt: skip
    assert rows["test_1"]["split"] == "test"


def test_parts_that_overlap_are_refused_with_a_name(dataset):
    dataset.add("a_1", "a_2", "b_1")
    with pytest.raises(DatasetError, match=r"1 samples are in both 'reference' and 'holdout', first 'a_2'"):
        dataset.ingest(as_source=True, reference={"names": "a_*"}, holdout={"names": ["a_2", "b_1"]})


def test_a_source_of_one_group_can_not_be_divided(dataset):
    dataset.add("a", "b")
    with pytest.raises(DatasetError, match=r"1 group, so it can't be divided.*'group_blocks'"):
        dataset.ingest(as_source=True)


@pytest.mark.parametrize("given", ["reference", "holdout", None])
def test_one_selection_or_none_is_divided_by_group(dataset, given):
    dataset.add(*(f"{split}_d{i % 5}_{i}" for split in ("train", "val") for i in range(10)))
    choice = {given: {"splits": ["train"]}} if given else {}
    _, rows = dataset.ingest(as_source=True, split="^([a-z]+)_", group="_(d[0-9])_", **choice)
    parts = {part: {row["group"] for row in rows.values() if row["part"] == part} for part in ("reference", "holdout")}
    assert parts["reference"]
    assert parts["holdout"]
    assert not parts["reference"] & parts["holdout"]
    unused = {row["split"] for row in rows.values() if row["part"] == "unused"}
    assert unused == ({"val"} if given else set())


@given(GROUPS, st.floats(0.05, 0.95))
@settings(deadline=None)
def test_division_tears_no_group_and_leaves_both_parts(groups, share):
    samples = samples_of(groups)
    if len(set(groups)) == 1:
        with pytest.raises(DatasetError, match="1 group"):
            divide_by_group(samples, share, "name")
        return
    held = divide_by_group(samples, share, "name")
    of_holdout = {sample.group for sample in samples if sample.sample_id in held}
    assert held == {sample.sample_id for sample in samples if sample.group in of_holdout}
    assert 0 < len(of_holdout) < len(set(groups))
    assert len(of_holdout) == 1 or len(held) <= share * len(samples)


@given(GROUPS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_division_depends_on_groups_and_not_on_the_order_of_samples(groups, random):
    samples = samples_of(groups)
    if len(set(groups)) > 1:
        shuffled = random.sample(samples, len(samples))
        assert divide_by_group(samples, 0.3, "name") == divide_by_group(shuffled, 0.3, "name")


# Units and halves


def test_enough_groups_are_the_units_and_halves_keep_them_whole(dataset):
    dataset.add(*(f"d{i % 8}_{i:02d}" for i in range(24)))
    _, rows = dataset.ingest(group="^(d[0-9])_")
    assert all(row["unit"] == row["group"] for row in rows.values())
    halves = {unit: {row["report_half"] for row in rows.values() if row["unit"] == unit} for unit in ("d0", "d1", "d7")}
    assert all(len(half) == 1 for half in halves.values())
    report = {row["unit"] for row in rows.values() if row["report_half"]}
    assert 3 <= len(report) <= 5


def test_few_groups_are_cut_into_blocks_of_consecutive_names(dataset):
    dataset.add(*(f"d{i // 8}_{i:02d}" for i in range(16)))
    _, rows = dataset.ingest(group="^(d[0-9])_")
    units = [row["unit"] for _, row in sorted(rows.items())]
    assert units == [f"d{i // 8}#{i % 8 // 4}" for i in range(16)]


def test_units_of_one_part_do_not_depend_on_another(dataset):
    dataset.add(*(f"d{i % 8}_{i:02d}" for i in range(24)))
    _, together = dataset.ingest(as_source=True, group="^(d[0-9])_", reference={"groups": ["d0", "d1"]},
                                 holdout={"groups": ["d2", "d3", "d4", "d5", "d6", "d7"]})  # fmt: skip
    assert {row["unit"] for row in together.values() if row["part"] == "holdout"} == {f"d{i}" for i in range(2, 8)}
    assert all("#" in row["unit"] for row in together.values() if row["part"] == "reference")


def test_a_picture_added_to_a_known_group_moves_no_other(dataset):
    dataset.add(*(f"d{i % 8}_{i:02d}" for i in range(24)))
    dataset.ingest(group="^(d[0-9])_")
    dataset.add("d3_99")
    change, rows = dataset.ingest(group="^(d[0-9])_")
    assert (change.new, change.changed) == (["d3_99"], [])
    assert rows["d3_99"]["report_half"] == rows["d3_03"]["report_half"]
