"""Checks of a manifest: a sound one passes all, and each planted defect fails its check and names its samples."""

from __future__ import annotations

import polars as pl
import pytest

from assets.ingestion.manifest import MANIFEST_SCHEMA
from assets.ingestion.quality import CHECK_NAMES, SHOWN, WARNING_CHECKS, check_manifest, other_hashes
from resources.sample_store import SampleStore


def row(name: str, part: str, **changes):
    plain = {
        "sample_id": name, "fingerprint": name, "image": f"{name}.png", "mask": f"{name}_mask.png",
        "image_hash": f"hash of {name}", "mask_hash": "m", "labels_version": "l", "split": "", "group": "g",
        "part": part, "unit": "g", "report_half": True, "metadata": "{}", "height": 20, "width": 30,
        "class_pixels": [5, 7], "labelled": True, "quarantined": False, "reason": None,
    }  # fmt: skip
    return plain | changes


def broken(**changes):
    none = {"height": None, "width": None, "class_pixels": [0, 0], "labelled": False}
    return {**none, "quarantined": True, "reason": "empty file", **changes}


def manifest(is_source: bool = True, **defects):
    """Ten samples; keywords change the row of that name."""
    parts = ["reference"] * 6 + ["holdout"] * 4 if is_source else ["target"] * 10
    rows = [row(f"s{i}", part) | defects.get(f"s{i}", {}) for i, part in enumerate(parts)]
    return pl.DataFrame(rows, schema=MANIFEST_SCHEMA)


def checked(frame, *, is_source=True, max_quarantined=0.05, hashes=()):
    results = check_manifest(frame, is_source=is_source, max_quarantined=max_quarantined, other_hashes=hashes)
    assert tuple(result.name for result in results) == CHECK_NAMES
    for result in results:
        assert result.severity == ("WARN" if result.name in WARNING_CHECKS else "ERROR")
        assert "the check itself failed" not in result.detail
    return {result.name: result for result in results}


def failures(results):
    return {name: result.samples for name, result in results.items() if not result.passed}


@pytest.mark.parametrize("is_source", [True, False])
def test_a_sound_manifest_passes(is_source):
    assert failures(checked(manifest(is_source), is_source=is_source, hashes=["another"])) == {}


@pytest.mark.parametrize(
    ("defects", "expected"),
    [
        ({"s1": {"height": 15}}, {"sizes": ["s1"]}),
        ({"s1": {"width": 3}, "s9": {"height": 1}}, {"sizes": ["s1", "s9"]}),
        ({"s4": {"class_pixels": [0, 0], "labelled": False}}, {"labelled_classes": ["s4"]}),
        ({"s4": {"class_pixels": [0, 0], "labelled": False, "mask": None}}, {}),
        ({"s2": {"image_hash": "same"}, "s8": {"image_hash": "same"}}, {"no_leak": ["s2", "s8"]}),
        ({"s2": {"image_hash": "same"}, "s3": {"image_hash": "same"}}, {}),
        ({"s2": {"sample_id": "twice"}, "s3": {"sample_id": "twice"}}, {"unique_ids": ["twice", "twice"]}),
        ({f"s{i}": {"part": "reference"} for i in range(10)}, {"parts": []}),
        ({"s3": {"part": "unused", **broken(), "height": 1}}, {}),
    ],
)
def test_a_defect_fails_its_check_alone_and_names_its_samples(defects, expected):
    results = checked(manifest(**defects))
    assert failures(results) == expected
    for name, samples in expected.items():
        assert all(sample in results[name].detail for sample in samples)


def test_quarantined_samples_warn_until_their_share_is_too_large():
    frame = manifest(s3=broken())
    assert failures(checked(frame, max_quarantined=0.1)) == {"readable": ["s3"]}
    results = checked(frame, max_quarantined=0.09)
    assert failures(results) == {"readable": ["s3"], "quarantine_share": []}
    assert "at most 9%" in results["quarantine_share"].detail
    assert "0.1" in results["quarantine_share"].detail


def test_files_that_can_not_be_used_leak_nothing():
    """Two empty files are equal, but neither is a picture that the model saw."""
    empty = broken(image_hash="hash of nothing")
    assert failures(checked(manifest(s1=empty, s9=empty), max_quarantined=0.2)) == {"readable": ["s1", "s9"]}
    target = manifest(False, s1=empty)
    assert failures(checked(target, is_source=False, max_quarantined=0.2, hashes=["hash of nothing"])) == {
        "readable": ["s1"]
    }


def test_a_set_of_which_nothing_can_be_read_fails():
    frame = manifest(**{f"s{i}": broken() for i in range(10)})
    assert set(failures(checked(frame))) >= {"readable", "quarantine_share"}


def test_a_missing_part_is_named():
    detail = checked(manifest(**{f"s{i}": {"part": "holdout"} for i in range(6)}))["parts"].detail
    assert detail == "there are samples in reference and holdout; none in reference"


def test_a_target_must_not_hold_pictures_of_the_source():
    results = checked(manifest(False), is_source=False, hashes=["hash of s7", "another"])
    assert failures(results) == {"no_leak": ["s7"]}
    assert "also in the source" in results["no_leak"].detail


def test_many_failing_samples_are_counted_and_some_are_named():
    rows = [row(f"s{i:03d}", "reference" if i else "holdout", width=2) for i in range(SHOWN + 5)]
    result = checked(pl.DataFrame(rows, schema=MANIFEST_SCHEMA))["sizes"]
    assert len(result.samples) == SHOWN + 5
    assert f"not so for {SHOWN + 5}: s000, " in result.detail
    assert result.detail.endswith("and 5 more")


def test_the_source_s_hashes_are_those_of_its_used_pictures(tmp_path):
    store = SampleStore(str(tmp_path))
    assert other_hashes(store, "kitti") == []
    frame = manifest(s1={"part": "unused"}, s2=broken(image_hash="hash of nothing"))
    store.table("source", "manifest").upsert(frame)
    assert sorted(other_hashes(store, "kitti")) == [f"hash of s{i}" for i in range(10) if i not in (1, 2)]
    assert other_hashes(store, "source") == []


def test_an_ingested_folder_is_checked(dataset):
    dataset.add(*(f"p{i}" for i in range(6)))
    dataset.image("p2").write_bytes(b"")
    dataset.mask("p4").write_bytes(b"")
    dataset.ingest()
    results = checked(dataset.table.read(), is_source=False)
    assert failures(results) == {"readable": ["p2", "p4"], "quarantine_share": []}
