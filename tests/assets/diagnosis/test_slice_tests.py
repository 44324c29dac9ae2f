"""Slices as data unit tests: the exported file selects the slice's samples, fails as found and passes once repaired."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from assets.diagnosis.slice_tests import SliceOutcome, run_slice_test, slice_test, slice_tests
from assets.diagnosis.slices import matching, mine_slices


@pytest.fixture
def table() -> pl.DataFrame:
    """120 samples of 30 units; dark ones with many cars cost 1 more; every tenth has no measured share of cars."""
    rng = np.random.default_rng(0)
    dark, cars = rng.random(120), rng.random(120)
    loss = 0.5 + 0.1 * rng.random(120) + ((dark < 1 / 3) & (cars > 2 / 3))
    cars[::10] = np.nan
    names = [f"s{i:03d}" for i in range(120)]
    return pl.DataFrame({"sample_id": names, "brightness": dark, "share car's \N{GREEK SMALL LETTER BETA}": cars,
                         "loss": loss})  # fmt: skip


@pytest.fixture
def tests(table) -> list[dict]:
    """The tests as the exported file gives them back."""
    traits = table.drop("loss")
    found = mine_slices(traits, {name: name for name in traits.columns[1:]}, table["loss"].to_numpy(),
                        [f"u{i // 4:02d}" for i in range(120)], permutations=199, seed=0)  # fmt: skip
    return json.loads(json.dumps(slice_tests(one.row() for one in found)))


def test_a_slice_fails_its_test_as_found(tests, table):
    outcome = run_slice_test(tests[0], table)
    inside = table.filter(pl.col("sample_id").is_in(matching(table, tests[0]["where"])))
    assert (outcome.name, outcome.samples) == (tests[0]["name"], inside.height)
    assert outcome.samples == tests[0]["found"]["samples"]
    assert outcome.mean_loss == pytest.approx(inside["loss"].mean())
    assert outcome.passed is False


def test_it_passes_once_more_than_half_of_the_excess_is_gone(tests, table):
    inside = pl.col("sample_id").is_in(matching(table, tests[0]["where"]))
    excess = tests[0]["found"]["mean_loss"] - tests[0]["found"]["mean_loss_elsewhere"]
    for part, passed in ((0.4, False), (0.6, True), (1.0, True)):
        repaired = table.with_columns(
            pl.when(inside).then(pl.col("loss") - part * excess).otherwise("loss").alias("loss")
        )
        assert run_slice_test(tests[0], repaired).passed is passed


def test_too_few_samples_say_nothing(tests, table):
    outside = table.filter(~pl.col("sample_id").is_in(matching(table, tests[0]["where"])))
    assert run_slice_test(tests[0], outside) == SliceOutcome(tests[0]["name"], 0, None, None)
    few = run_slice_test({**tests[0], "fewest_samples": 1000}, table)
    assert few.passed is None and few.samples > 0


def test_samples_without_a_trait_or_a_loss_are_not_in_it(tests, table):
    [condition, *_] = tests[0]["conditions"]
    every = {**tests[0], "conditions": [{**condition, "side": ">=", "threshold": -1e9}]}
    for missing in (None, float("nan")):
        for column in (condition["trait"], "loss"):
            holes = table.with_columns(pl.when(pl.int_range(pl.len()) < 20).then(pl.lit(missing, pl.Float64))
                                       .otherwise(pl.col(column)).alias(column))  # fmt: skip
            expected = table[20:].filter(pl.col(condition["trait"]).is_not_nan()).height
            assert run_slice_test(every, holes).samples == expected


def test_what_the_table_lacks_is_named(tests, table):
    with pytest.raises(ValueError, match="no column 'loss'"):
        run_slice_test(tests[0], table.drop("loss"))
    trait = tests[0]["conditions"][0]["trait"]
    with pytest.raises(ValueError, match=f"no column '{trait}'"):
        run_slice_test(tests[0], table.drop(trait))
    with pytest.raises(ValueError, match="side '='; expected"):
        run_slice_test({**tests[0], "conditions": [{"trait": trait, "side": "=", "threshold": 1}]}, table)


def test_only_slices_beyond_chance_become_tests():
    condition = {"trait": "a", "label": "A", "side": "<=", "threshold": 1.0}
    row = {"name": "n", "where": "a <= 1.0", "conditions": [condition],
           "samples": 8, "share": 0.2, "mean_loss": 2.0, "difference": 1.0}  # fmt: skip
    found = slice_tests([{**row, "p_value": p} for p in (0.05, 0.051, None)])
    assert found == [slice_test({**row, "p_value": 0.05})]
    assert found[0]["highest_share"] == 0.3
    assert found[0]["highest_mean_loss"] == 1.5 and found[0]["found"]["mean_loss_elsewhere"] == 1.0
