"""`label_errors.csv`: the worst first, files beside names, nothing that a spreadsheet would run."""

from __future__ import annotations

import csv
import io

import polars as pl
import pytest

from assets.diagnosis.gather import Sides
from assets.report.label_list import COLUMNS, label_list

CLASSES = ("road", "=sky()")
HOSTILE = ["=HYPERLINK(1)", 'a,"b"\nc', "@x", "plain"]


def evaluation(names: list[str], suspects: list[list[int]], labelled: bool = True) -> pl.DataFrame:
    """Rows of two classes: 100 pixels each, of which the model calls 30 of 'road' something else, at 0.9."""
    count = len(names)
    return pl.DataFrame({
        "sample_id": names, "loss": [0.5 if labelled else None] * count, "labelled": [labelled] * count,
        "label_quality": [0.1234567 * (i + 1) if labelled else None for i in range(count)],
        "suspect_pixels": suspects, "judged_pixels": [[100, 100]] * count, "confusion": [[70, 30, 0, 100]] * count,
        "pair_confidence": [[60.0, 27.0, 0.0, 90.0]] * count,
    }, schema_overrides={"loss": pl.Float64, "label_quality": pl.Float64})  # fmt: skip


def manifest(names: list[str], part: str) -> pl.DataFrame:
    same = {"part": part, "group": "g", "unit": "u", "report_half": True, "quarantined": False}
    rows = [{"sample_id": name, "image": f"/d/{name}.png", "mask": f"/d/{name}_m.png", **same} for name in names]
    return pl.DataFrame(rows)


def listed(labelled: bool = True) -> list[dict[str, str]]:
    sides = Sides(
        manifest(["s1", "s2"], "holdout"), manifest(HOSTILE, "target"), evaluation(["s1", "s2"], [[0, 0], [0, 3]]),
        evaluation(HOSTILE, [[20, 4], [1, 0], [0, 1], [0, 0]], labelled),
    )  # fmt: skip
    text = label_list(sides, CLASSES)
    assert text.splitlines()[0] == ",".join(COLUMNS)
    return list(csv.DictReader(io.StringIO(text)))


def test_samples_with_suspected_pixels_are_listed_the_worst_of_the_target_first():
    rows = listed()
    assert [row["side"] for row in rows] == ["target"] * 3 + ["holdout"]
    assert [float(row["label_quality"]) for row in rows] == pytest.approx([0.1235, 0.2469, 0.3704, 0.2469])
    first = rows[0]
    assert (first["suspect_pixels"], first["suspect_share"], first["confidence"]) == ("24", "0.12", "0.9")
    assert (first["labelled"], first["checked"]) == ("road", "")
    assert rows[3]["image"] == "/d/s2.png" and rows[3]["mask"] == "/d/s2_m.png"


def test_names_stay_whole_and_are_no_formulas():
    rows = listed()
    assert [row["sample_id"] for row in rows] == ["'=HYPERLINK(1)", HOSTILE[1], "'@x", "s2"]
    assert {row["probably"] for row in rows} == {"'=sky()"}
    assert not [value for row in rows for value in row.values() if value.startswith(("=", "+", "-", "@"))]


def test_a_target_without_labels_has_none_to_check():
    assert [row["sample_id"] for row in listed(labelled=False)] == ["s2"]
