"""Slices: a planted one is found, chance ones are not, and the exported condition selects the same samples."""

from __future__ import annotations

import itertools
import json

import numpy as np
import polars as pl
import pytest

from assets.diagnosis import slices
from assets.diagnosis.slices import (
    Condition,
    candidates,
    matching,
    mine_slices,
    permuted_losses,
    slice_table,
    suspect_slice,
)

NAMES = ("brightness", "share_car", "sharpness", "noise", "share_sky", "contrast")


def world(
    seed: int, units: int = 30, size: int = 8, traits: int = 6, unit_effect: float = 1.0, missing: float = 0.0
) -> tuple[pl.DataFrame, np.ndarray, list[str]]:
    """Traits and losses that both vary by unit and within it, and have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 2 * size, units) if size > 1 else np.ones(units, int)
    index = np.repeat(np.arange(units), sizes)

    def drawn() -> np.ndarray:
        return unit_effect * rng.standard_normal(units)[index] + rng.standard_normal(len(index))

    columns = {name: drawn() for name in NAMES[:traits]}
    for values in columns.values():
        values[rng.random(len(values)) < missing] = np.nan
    frame = pl.DataFrame({"sample_id": [f"s{i:04d}" for i in range(len(index))], **columns})
    return frame, 1 + 0.2 * drawn(), [f"u{i:02d}" for i in index]


def mined(frame, losses, units, permutations: int = 199, seed: int = 0):
    return mine_slices(frame, {name: name for name in frame.columns[1:]}, losses, units, permutations=permutations,
                       seed=seed)  # fmt: skip


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_planted_slice_is_found_first(parts):
    frame, losses, units = world(parts, units=120, size=4)
    planted = np.ones(frame.height, bool)
    for name in NAMES[:parts]:
        values = frame[name].to_numpy()
        planted &= values <= np.quantile(values, 1 / 3)
    found = mined(frame, losses + 1.0 * planted, units)[0]
    assert {condition.trait for condition in found.conditions} == set(NAMES[:parts])
    assert all(condition.side == "<=" for condition in found.conditions)
    assert found.p_value <= 0.02
    assert found.difference == pytest.approx(1.0, abs=0.3)
    assert found.name == " and ".join(f"low {condition.trait}" for condition in found.conditions)


def test_figures_are_those_of_the_samples_in_it():
    frame, losses, units = world(3, missing=0.1)
    for found in mined(frame, losses, units):
        inside = frame["sample_id"].is_in(matching(frame, found.where)).to_numpy()
        assert found.samples == inside.sum()
        assert found.share == pytest.approx(inside.mean())
        assert found.units == len({unit for unit, own in zip(units, inside, strict=True) if own})
        assert found.mean_loss == pytest.approx(losses[inside].mean())
        assert found.difference == pytest.approx(losses[inside].mean() - losses[~inside].mean())


@pytest.mark.parametrize(("unit_effect", "size"), [(0.0, 1), (1.0, 6)])  # independent frames; drives of many sizes
def test_chance_slices_are_rarely_called_real(unit_effect, size):
    """Family-wise error of the search at 0.05: at most 16 of 200 (more: P = 0.03 at exactly 5%)."""
    alarms = 0
    for seed in range(200):
        found = mined(*world(100 + seed, units=80 if size == 1 else 24, size=size, traits=4, unit_effect=unit_effect),
                      permutations=99, seed=seed)  # fmt: skip
        alarms += bool(found) and found[0].p_value <= 0.05
    assert alarms <= 16


def test_frames_taken_for_independent_would_raise_false_alarms():
    """What the permutation of whole units is for: the same worlds, every frame a unit of its own."""
    alarms = 0
    for seed in range(20):
        frame, losses, _ = world(100 + seed, units=12, size=12, traits=4, unit_effect=2.0)
        found = mined(frame, losses, frame["sample_id"].to_list(), permutations=99, seed=seed)
        alarms += bool(found) and found[0].p_value <= 0.05
    assert alarms >= 10


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_the_exported_condition_selects_the_candidate_s_samples(missing):
    frame, _, units = world(5, units=60, traits=4, missing=missing)
    frame = frame.rename({"share_car": "share car's \N{GREEK SMALL LETTER BETA}"}).with_columns(contrast=1.0)
    labels = {name: name for name in frame.columns[1:]}
    found = candidates(frame, labels, np.array(units))
    assert {len([part for part in parts if part >= 0]) for parts in found.parts} == {1, 2, 3}
    members = found.members(slice(0, len(found.parts)))
    for parts, own in list(zip(found.parts, members, strict=True))[:: max(1, len(members) // 80)]:
        where = " AND ".join(found.conditions[part].sql() for part in parts if part >= 0)
        assert matching(frame, where) == frame.filter(pl.Series(own))["sample_id"].to_list(), where


def test_an_open_end_is_written_as_one():
    assert Condition("share_car", "share of car", ">=", 0.1, can_miss=False).sql() == "share_car >= 0.1"
    assert Condition("share_car", "share of car", "<=", 0.1, can_miss=True).sql() == "share_car <= 0.1"
    guarded = Condition("share_car", "share of car", ">=", 0.1, can_miss=True).sql()
    assert guarded == "share_car >= 0.1 AND share_car <> CAST('NaN' AS DOUBLE)"
    values = pl.DataFrame({"sample_id": list("abcde"), "share_car": [0.1, np.inf, np.nan, None, 0.05]})
    assert matching(values, guarded) == ["a", "b"]


def test_candidates_are_all_supported_conjunctions_once():
    frame, _, units = world(6, traits=3)
    found = candidates(frame, {name: name for name in NAMES[:3]}, np.array(units))
    members = found.members(slice(0, len(found.parts)))
    expected = set()
    least = max(slices.FEWEST_SAMPLES, np.ceil(slices.LEAST_SHARE * frame.height))
    for size in (1, 2, 3):
        for names in itertools.combinations(NAMES[:3], size):
            for sides in itertools.product("<>", repeat=size):
                own = np.ones(frame.height, bool)
                for name, side in zip(names, sides, strict=True):
                    values = frame[name].to_numpy()
                    cut = float(f"{np.quantile(values, 1 / 3 if side == '<' else 2 / 3):.4g}")
                    own &= values <= cut if side == "<" else values >= cut
                enough = least <= own.sum() <= frame.height - least
                if enough and len({unit for unit, inside in zip(units, own, strict=True) if inside}) >= 3:
                    expected.add(own.tobytes())
    assert {own.tobytes() for own in members} == expected
    assert len(members) == len(expected)


def test_no_slice_repeats_a_better_one():
    frame, losses, units = world(7)
    twin = frame["brightness"] + 1e-3 * np.random.default_rng(0).standard_normal(frame.height)
    frame = frame.with_columns(twin=twin)
    found = mined(frame, losses - 0.5 * frame["brightness"].to_numpy(), units)
    assert all("twin" not in one.where for one in found), "the first of two traits that rank alike stands for both"
    chosen = [set(matching(frame, one.where)) for one in found]
    for one, other in itertools.combinations(chosen, 2):
        assert len(one & other) / len(one | other) <= slices.MOST_OVERLAP
    assert [one.p_value for one in found] == sorted(one.p_value for one in found)


def test_losses_stay_together_by_unit():
    units = np.array(list("aabbbcccc"))
    losses = np.array([1.0, 1, 2, 2, 2, 3, 3, 3, 3])
    permuted = permuted_losses(losses, units, 200, np.random.default_rng(0))
    for row in permuted:
        by_unit = [set(row[units == unit]) for unit in "abc"]
        assert all(len(values) == 1 for values in by_unit)
        assert sorted(value for values in by_unit for value in values) == [1, 2, 3]
    assert len({tuple(row) for row in permuted}) == 6


def test_within_units_losses_keep_their_order():
    units = np.repeat(["a", "b", "c"], 4)
    losses = np.arange(12.0)
    for row in permuted_losses(losses, units, 20, np.random.default_rng(1)):
        assert (np.diff(row.reshape(3, 4), axis=1) == 1).all()


def test_nothing_to_slice_gives_no_slices():
    frame, losses, units = world(8)
    assert mined(frame.select("sample_id"), losses, units) == []
    assert mined(frame.with_columns(pl.lit(2.0).alias(name) for name in NAMES), losses, units) == []
    assert mined(frame.head(8), losses[:8], units[:8]) == []
    assert mined(frame.with_columns(pl.lit(None, pl.Float64).alias(name) for name in NAMES), losses, units) == []


def test_a_slice_is_json_and_a_seed_decides_it():
    frame, losses, units = world(9, missing=0.1)
    one, other = (mined(frame, losses, units, seed=4) for _ in range(2))
    rows = [found.row() for found in one]
    assert json.loads(json.dumps(rows)) == rows == [found.row() for found in other]


def evaluated(count: int = 30, units: int = 10) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Evaluation rows whose suspected share rises with the id, the first one without a label; and their traits."""
    names = [f"s{i:03d}" for i in range(count)]
    rows = pl.DataFrame({
        "sample_id": names, "unit": [f"u{i % units}" for i in range(count)],
        "loss": [None, *(0.1 * i for i in range(1, count))],
        "suspect_pixels": [[i, i] for i in range(count)], "judged_pixels": [[100, 100]] * count,
    })  # fmt: skip
    return rows, pl.DataFrame({"sample_id": names, "brightness": np.linspace(1, 0, count)})


def test_the_table_of_slices_has_labelled_samples_with_traits_and_suspected_share():
    rows, traits = evaluated()
    found = slice_table(rows.reverse(), traits)
    assert found.columns == ["sample_id", "unit", "loss", "suspect_share", "brightness"]
    assert found["sample_id"].to_list() == rows["sample_id"].to_list()[1:]
    assert found["suspect_share"].to_list() == pytest.approx([i / 100 for i in range(1, 30)])
    assert slice_table(rows.drop("unit"), traits).columns == ["sample_id", "loss", "suspect_share", "brightness"]
    nothing = rows.with_columns(judged_pixels=pl.lit([0, 0]), suspect_pixels=pl.lit([0, 0]))
    assert slice_table(nothing, traits)["suspect_share"].is_nan().all()


def test_suspected_labels_are_a_slice_of_their_own_without_a_p_value():
    table = slice_table(*evaluated())
    found = suspect_slice(table)
    inside = table.filter(pl.col("suspect_share") >= 0.1967)
    assert matching(table, found.where) == inside["sample_id"].to_list()
    assert (found.name, found.samples, found.p_value) == ("high share of suspected labels", inside.height, None)
    assert found.mean_loss == pytest.approx(inside["loss"].mean())
    assert json.loads(json.dumps(found.row())) == found.row()


def test_labels_that_nobody_suspects_are_no_slice():
    rows, traits = evaluated()
    for suspects in ([0, 0], [7, 0]):
        assert suspect_slice(slice_table(rows.with_columns(suspect_pixels=pl.lit(suspects)), traits)) is None
    assert suspect_slice(slice_table(rows.head(5), traits)) is None
