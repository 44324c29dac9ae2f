"""Judging: figures against what rows were made with, the worst seed, the correction, the price, nulls, hard data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from statsmodels.stats.multitest import multipletests

from assets.adaptation.card import card, markdown
from assets.adaptation.judged import Tried, hard_data, judged_rows, tried_variants
from assets.adaptation.registry import METHODS
from assets.adaptation.runs import Record
from assets.adaptation.trial import ADAPTED_SCHEMA
from assets.experiments.verdict import Rules, gap_draws

RULES = Rules(smallest_effect=0.05, alpha=0.05, draws=400, seed=0)
GAP = 0.4


def evaluation(losses: np.ndarray, first: str) -> pl.DataFrame:
    """Labelled evaluation rows, four samples a unit, every second unit on the report half."""
    units = [f"{first}{i // 4}" for i in range(len(losses))]
    return pl.DataFrame({
        "sample_id": [f"{first}{i:03d}" for i in range(len(losses))], "unit": units, "loss": losses,
        "report_half": [(i // 4) % 2 == 0 for i in range(len(losses))],
        "loss_sum": [[10 * loss, 0.0] for loss in losses], "class_pixels": [[10.0, 0.0]] * len(losses),
        "confusion": [[6.0, 4.0, 0.0, 0.0]] * len(losses),
    })  # fmt: skip


@pytest.fixture
def sides():
    rng = np.random.default_rng(0)
    holdout = evaluation(0.3 + 0.05 * rng.random(64), "h")
    return evaluation(0.3 + GAP + 0.05 * rng.random(80), "t"), holdout


def rows_of(variant, seed, sides, closes, harm, noise=0.02):
    """Rows of one run that closes a share of the gap and harms the source by so much loss, give or take."""
    rng = np.random.default_rng(seed + 17)
    found = []
    for role, side, change in (("target", sides[0], -closes * GAP), ("source", sides[1], harm)):
        for name, loss in side.filter("report_half").select("sample_id", "loss").iter_rows():
            after = loss + change + noise * rng.normal()
            found.append({
                "row_id": f"{variant}/seed-{seed}/{role}:{name}", "fingerprint": "x", "variant": variant, "seed": seed,
                "role": role, "sample_id": name, "loss": after, "loss_sum": [10 * after, 0.0],
                "class_pixels": [10.0, 0.0], "confusion": [8.0, 2.0, 0.0, 0.0],
            })  # fmt: skip
    return pl.DataFrame(found, schema=ADAPTED_SCHEMA)


def record(variant, seed, **changes):
    base = Record(variant, seed, "v", "d", 9, 9, 60.0, 90.0, 0.2, False, "", {"target fit half, with labels": 40})
    return replace(base, **changes)


def tried(sides, runs, name="fda", **changes):
    """`runs`: (variant, seed, closes, harm)."""
    gap = gap_draws(*sides, RULES)
    rows = pl.concat([rows_of(variant, seed, sides, closes, harm) for variant, seed, closes, harm in runs])
    records = [record(variant, seed, **changes) for variant, seed, *_ in runs]
    return tried_variants(METHODS[name], records, rows, *sides, gap), gap


def test_the_worst_seed_is_shown_and_the_mean_beside_it(sides):
    found, gap = tried(sides, [("default", 0, 0.6, 0.0), ("default", 1, 0.3, 0.05), ("default", 2, 0.5, -0.05)])
    (row,) = judged_rows(found, gap, RULES)
    assert row["worst_seed"] == 1 and row["seeds"] == 3
    assert row["gap_closed"] == pytest.approx(0.3, abs=0.03)
    assert row["ci95"][0] < row["gap_closed"] < row["ci95"][1]
    assert row["mean_gap_closed"] == pytest.approx(1.4 / 3, abs=0.03)
    assert row["range_gap_closed"] == pytest.approx((0.3, 0.6), abs=0.03)
    assert row["side_effect"] == pytest.approx(0.05, abs=0.01), "the seed that costs the source most"
    assert row["verdict"] == "confirmed" and "worst of 3 seeds" in row["reason"]
    assert row["costs_the_source"] and "it costs the source +0.0" in row["reason"]
    assert (row["miou_before"], row["miou_after"]) == pytest.approx((0.3, 0.4))
    assert row["minutes"] == pytest.approx(3)


def test_what_does_nothing_is_refuted_and_chance_confirms_nothing(sides):
    runs = [(variant.id, 0, 0.0, 0.0) for variant in METHODS["fine_tuning"].variants]
    found, gap = tried(sides, runs, "fine_tuning")
    rows = judged_rows(found, gap, RULES)
    assert len(rows) == 12
    assert {row["verdict"] for row in rows} == {"refuted"}
    assert not any(row["costs_the_source"] for row in rows)


def test_p_values_are_corrected_over_all_variants(sides):
    one, gap = tried(sides, [("default", 0, 0.02, 0.0)])
    more, _ = tried(sides, [(variant.id, 0, 0.0, 0.0) for variant in METHODS["fine_tuning"].variants], "fine_tuning")
    rows = judged_rows([*one, *more], gap, RULES)
    expected = multipletests([row["p_value"] for row in rows], method="holm")[1]
    assert [row["q_value"] for row in rows] == pytest.approx(list(expected))
    assert rows[0]["q_value"] > rows[0]["p_value"]


def test_seeds_that_disagree_refute_nothing(sides):
    found, gap = tried(sides, [("default", 0, -0.5, 0.0), ("default", 1, 0.5, 0.0)])
    (row,) = judged_rows(found, gap, RULES)
    assert row["verdict"] == "inconclusive" and "hangs on chance" in row["reason"]


def test_a_cut_run_says_so(sides):
    found, gap = tried(sides, [("default", 0, 0.5, 0.0)], cut=True, steps=3)
    (row,) = judged_rows(found, gap, RULES)
    assert row["verdict"] == "confirmed" and "cut by its budget at 3 of 9 steps" in row["reason"]
    idle, _ = tried(sides, [("default", 0, 0.0, 0.0)], cut=True, steps=1)
    assert judged_rows(idle, gap, RULES)[0]["verdict"] == "inconclusive", "what was hardly tried is not refuted"


class TestHardData:
    def test_what_the_oracle_leaves(self, sides):
        found, _ = tried(sides, [("default", 0, 0.8, 0.0), ("default", 1, 0.6, 0.0)], "oracle")
        hard = hard_data(found, RULES)
        assert hard["left"] == pytest.approx(0.4, abs=0.03) and hard["mean_left"] == pytest.approx(0.3, abs=0.03)
        assert hard["ci95"][0] < hard["left"] < hard["ci95"][1]
        assert hard["found"] and "hard data" in hard["sentence"] and "40 labelled" in hard["sentence"]

    def test_an_oracle_that_closes_all(self, sides):
        found, _ = tried(sides, [("default", 0, 1.0, 0.0)], "oracle")
        hard = hard_data(found, RULES)
        assert not hard["found"] and "nothing speaks for hard data" in hard["sentence"]

    def test_an_oracle_that_was_cut_proves_nothing(self, sides):
        found, _ = tried(sides, [("default", 0, 0.2, 0.0)], "oracle", cut=True)
        hard = hard_data(found, RULES)
        assert not hard["found"] and "budget ended" in hard["sentence"]

    def test_without_an_oracle(self, sides):
        assert hard_data(tried(sides, [("default", 0, 0.2, 0.0)])[0], RULES) is None


def test_the_card_tells_all(sides):
    found, _ = tried(sides, [("default", 0, 0.5, 0.01)])
    one: Tried = found[0]
    told = card(one, one.records[0], one.seeds[0], {"source": "day", "target": "dusk", "model": "abc"})
    text = markdown(told)
    for part in ("`abc`", "trained on day", "adapted to dusk", "Yang & Soatto 2020", "40 pictures", "9 of 9 steps",
                 "checkpoint: weights.safetensors", "closes 5"):  # fmt: skip
        assert part in text, part
    assert told["figures"]["gap_closed"] == pytest.approx(0.5, abs=0.03)
