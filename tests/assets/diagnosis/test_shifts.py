"""Trait shifts: planted ones are found, artefacts of collection are flagged, side information joins in."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest

from assets.diagnosis.shifts import SHIFTS_SCHEMA, artefact, joined_traits, shifts
from assets.traits.registry import Trait

COUNT, UNITS = 48, 12


def trait(name: str, kind: str = "picture", family: str = "colour") -> Trait:
    return Trait(name, kind, family, f"label of {name}", "", "")


CATALOGUE = {
    item.name: item
    for item in (trait("moved"), trait("same"), trait("costly"), trait("shape", "shape"), trait("share", "layout"))
}


def side(prefix: str, *, seed: int, moved: float = 0.0, metadata=None, score: float = 0.0, **columns):
    """What `joined_traits` gives: a frame of traits with unit and gap score, and metadata by sample id."""
    draws = np.random.default_rng(seed)
    ids = [f"{prefix}{i:02d}" for i in range(COUNT)]
    values = {
        "moved": draws.normal(moved, 1, COUNT), "same": draws.normal(0, 1, COUNT),
        "costly": draws.normal(0, 1, COUNT), "shape": draws.normal(0, 1, COUNT), "share": draws.random(COUNT),
        "gap_score": draws.normal(score, 1, COUNT), **columns,
    }  # fmt: skip
    frame = pl.DataFrame({"sample_id": ids, "unit": [f"u{i % UNITS}" for i in range(COUNT)], **values})
    entries = metadata if metadata is not None else [{}] * COUNT
    return frame, dict(zip(ids, entries, strict=True))


def table(holdout, target, losses=None, **changes):
    found = shifts(CATALOGUE, holdout, target, losses or {}, **{"permutations": 199, "seed": 0, **changes})
    assert dict(found.schema) == SHIFTS_SCHEMA
    return {row["name"]: row for row in found.iter_rows(named=True)}


def test_a_planted_shift_is_found_and_named_first():
    found = table(side("h", seed=1), side("t", seed=2, moved=2.0))
    assert next(iter(found)) == "moved"
    moved = found["moved"]
    assert moved["q_value"] <= 0.05
    assert moved["effect_size"] == pytest.approx(2, abs=0.6)
    assert moved["target_mean"] - moved["source_mean"] == pytest.approx(2, abs=0.5)
    assert 0.5 < moved["ks"] <= 1
    assert (moved["label"], moved["family"], moved["kind"], moved["artefact"]) == (
        "label of moved", "colour", "picture", None,
    )  # fmt: skip
    others = {name: row["q_value"] for name, row in found.items() if name != "moved"}
    assert set(others) == {"same", "costly", "shape", "share", "gap_score"}
    assert min(others.values()) > 0.05


def test_a_shift_downwards_has_a_negative_effect():
    assert table(side("h", seed=1), side("t", seed=2, moved=-2.0))["moved"]["effect_size"] < -1.4


def test_the_gap_score_is_a_trait_of_the_model():
    row = table(side("h", seed=1), side("t", seed=2, score=3.0))["gap_score"]
    assert row["q_value"] <= 0.05
    assert row["family"] == "model_statistics"


def test_whole_units_are_permuted():
    """Units that differ among themselves are no shift of the set."""

    def by_unit(seed):
        return np.random.default_rng(seed).normal(0, 3, 4)[np.arange(COUNT) % 4]

    holdout, target = (
        (frame.with_columns(unit=pl.Series([f"u{i % 4}" for i in range(COUNT)]), moved=by_unit(seed)), entries)
        for seed, (frame, entries) in ((5, side("h", seed=1)), (6, side("t", seed=2)))
    )
    assert table(holdout, target)["moved"]["p_value"] > 0.02  # 8 units have 70 arrangements at the most


def test_association_with_the_loss_inside_the_target():
    target = side("t", seed=2)
    frame = target[0]
    losses = dict(zip(frame["sample_id"], frame["costly"] * 2 + 5, strict=True))
    found = table(side("h", seed=1), target, losses)
    assert found["costly"]["loss_association"] == pytest.approx(1)
    assert found["costly"]["loss_association_p"] <= 0.02
    assert abs(found["same"]["loss_association"]) < 0.5
    reduced = dict(list(losses.items())[:30])  # samples without a loss are left out
    assert table(side("h", seed=1), target, reduced)["costly"]["loss_association"] == pytest.approx(1)


def test_without_labels_there_is_no_association():
    found = table(side("h", seed=1), side("t", seed=2))
    assert all(math.isnan(row["loss_association"]) for row in found.values())


def test_missing_values_are_left_out():
    gaps = np.where(np.arange(COUNT) % 4 == 0, math.nan, 1.0)
    holdout, target = side("h", seed=1), side("t", seed=2, moved=2.0)
    with_gaps = (target[0].with_columns(moved=pl.col("moved") * gaps), target[1])
    row = table(holdout, with_gaps)["moved"]
    assert row["artefact"] is None
    kept = target[0]["moved"].to_numpy()[~np.isnan(gaps)]
    assert row["target_mean"] == pytest.approx(kept.mean())
    nulls = (with_gaps[0].with_columns(moved=pl.col("moved").fill_nan(None)), target[1])
    again = table(holdout, nulls)["moved"]
    assert all(again[key] == row[key] for key in ("source_mean", "target_mean", "effect_size", "ks", "p_value"))


def test_artefacts_come_last_and_leave_the_correction():
    target = side("t", seed=2, moved=2.0, same=np.full(COUNT, 9.0))
    found = table(side("h", seed=1), target)
    assert list(found)[-1] == "same"
    assert found["same"]["artefact"] == "constant in the target"
    assert math.isnan(found["same"]["q_value"])
    assert found["same"]["p_value"] <= 0.05
    tested = [row["p_value"] for row in found.values() if row["artefact"] is None]
    from scipy.stats import false_discovery_control

    assert [row["q_value"] for row in found.values() if row["artefact"] is None] == pytest.approx(
        false_discovery_control(tested)
    )


VARIED, FLAT, GONE = np.arange(10.0), np.full(10, 3.0), np.full(10, math.nan)
HALF = np.where(np.arange(10) < 5, math.nan, np.arange(10.0))
MOSTLY = np.where(np.arange(10) < 7, math.nan, np.arange(10.0))


@pytest.mark.parametrize(
    ("kind", "source", "target", "expected"),
    [
        ("picture", VARIED, VARIED, None),
        ("picture", FLAT, VARIED, "constant in the source"),
        ("picture", VARIED, FLAT, "constant in the target"),
        ("metadata", FLAT, FLAT + 1, "constant in both sets"),
        ("metadata", VARIED, GONE, "missing in 100% of the target"),
        ("user", MOSTLY, VARIED, "missing in 70% of the source"),
        ("user", VARIED, HALF, None),
        ("shape", FLAT, FLAT + 1, None),  # a picture's shape is often constant, and can be undone
        ("original", FLAT, FLAT + 1, None),  # so is its compression, which can be imitated
        ("shape", FLAT, GONE, "missing in 100% of the target"),
        ("layout", FLAT, GONE, None),  # a class that one set lacks is content
        ("layout", FLAT, VARIED, None),
        ("picture", np.array([]), VARIED, "missing in 100% of the source"),
    ],
)
def test_what_tells_how_data_were_collected(kind, source, target, expected):
    assert artefact(trait("x", kind), source, target) == expected


def test_a_constant_trait_with_gaps_is_constant():
    assert artefact(trait("x"), np.where(np.arange(10) < 2, math.nan, 3.0), VARIED) == "constant in the source"


# Side information


def test_numbers_and_texts_of_side_information_become_traits():
    holdout = [{"speed": float(i % 7), "weather": "sun" if i % 3 else "fog"} for i in range(COUNT)]
    target = [{"speed": 10.0 + i % 7, "weather": "sun" if i % 2 else "rain"} for i in range(COUNT)]
    found = table(side("h", seed=1, metadata=holdout), side("t", seed=2, metadata=target))
    speed = found["metadata_speed"]
    assert (speed["source_mean"], speed["target_mean"]) == pytest.approx(
        (np.mean([i % 7 for i in range(COUNT)]), 10 + np.mean([i % 7 for i in range(COUNT)]))
    )
    assert (speed["kind"], speed["q_value"] <= 0.05) == ("metadata", True)
    sun = found["metadata_weather_sun"]
    assert (sun["label"], sun["source_mean"], sun["target_mean"]) == ("weather = sun", pytest.approx(2 / 3), 0.5)
    assert found["metadata_weather_fog"]["artefact"] == "constant in the target"


def test_a_key_that_one_set_lacks_is_an_artefact():
    target = [{"speed": float(i)} for i in range(COUNT)]
    found = table(side("h", seed=1), side("t", seed=2, metadata=target))
    assert found["metadata_speed"]["artefact"] == "missing in 100% of the source"


def test_texts_of_many_values_are_no_category():
    target = [{"file": f"name {i}"} for i in range(COUNT)]
    assert not [name for name in table(side("h", seed=1), side("t", seed=2, metadata=target)) if "file" in name]


def test_a_column_of_numbers_with_a_text_among_them_counts_the_numbers():
    entries = [{"speed": "n/a" if i % 6 == 0 else float(i)} for i in range(COUNT)]
    row = table(side("h", seed=1, metadata=entries), side("t", seed=2, metadata=entries))["metadata_speed"]
    assert row["source_mean"] == pytest.approx(np.mean([i for i in range(COUNT) if i % 6]))


def test_keys_that_read_alike_stay_two_traits_and_move_no_other():
    def entries(offset):
        return [{"Speed": float(i % 5), "speed": offset + i % 5, "zebra": 3 * offset + i % 4} for i in range(COUNT)]

    found = table(side("h", seed=1, metadata=entries(0.0)), side("t", seed=2, metadata=entries(50.0)))
    rows = {row["label"]: row for row in found.values() if row["kind"] == "metadata"}
    assert sorted(rows) == ["Speed", "speed", "zebra"]
    means = {label: round(row["target_mean"] - row["source_mean"]) for label, row in rows.items()}
    assert means == {"Speed": 0, "speed": 50, "zebra": 150}


def test_a_seed_decides_the_p_values():
    sides = side("h", seed=1), side("t", seed=2, moved=0.3)
    one, other, third = (table(*sides, seed=seed) for seed in (0, 0, 1))
    assert one == {name: pytest.approx(row, nan_ok=True) for name, row in other.items()}
    assert any(one[name]["p_value"] != third[name]["p_value"] for name in one)


def test_traits_are_joined_with_unit_score_and_side_information():
    traits = pl.DataFrame({"sample_id": ["b", "a", "c"], "moved": [2.0, 1.0, 3.0]})
    manifest = pl.DataFrame({
        "sample_id": ["a", "b", "c"], "part": ["target", "target", "unused"], "unit": ["u0", "u1", "u2"],
        "metadata": [json.dumps({"speed": 3.0}), "{}", "{}"],
    })  # fmt: skip
    scores = pl.DataFrame({"sample_id": ["a"], "gap_score": [0.5], "conformal_p": [0.1]})
    frame, metadata = joined_traits(traits, manifest, scores, "target")
    assert frame.select("sample_id", "moved", "unit", "gap_score").rows() == [
        ("a", 1.0, "u0", 0.5),
        ("b", 2.0, "u1", None),
    ]
    assert metadata == {"a": {"speed": 3.0}, "b": {}}
