"""The rules on a part, one by one; what names where the damage is; the sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from assets.model_parts.activations import PartGap
from assets.model_parts.conclusion import (
    Effect,
    Measures,
    Worth,
    conclude,
    effects,
    listed,
    origin,
    sentence,
    worths,
)
from assets.model_parts.parts import Part

PARTS = [
    Part("encoder stage 1", "e1", (), 4),
    Part("encoder stage 2", "e2", (), 4, ("encoder stage 1",)),
    Part("low", "low", (), 4, ("encoder stage 1",)),
    Part("head", "head", (), 4, ("encoder stage 2", "low")),
]
FLAT = PartGap(1.5, 0.01, 0.05, 0.5, 0.3, 0.1, 0.3, 0.0, (-0.1, 0.1), 1.0, 0.3, 0.1)
GROWN = replace(FLAT, shift=0.9, rise=0.6, rise_ci95=(0.4, 0.8), rise_q=0.001)


def effect(change: float, q_value: float = 0.001) -> Effect:
    return Effect(change, (change - 0.1, change + 0.1), q_value, q_value, 40)


def worth(holdout: float, target: float, q_value: float) -> Worth:
    return Worth(holdout, target, target - holdout, (-1, 1), q_value, q_value)


def measures(shares: dict[str, Worth], gaps: dict[str, PartGap] | None = None, noise: tuple[str, ...] = ()) -> Measures:
    means = {
        (name, "mean"): {
            "holdout": effect(share.holdout),
            "target": effect(share.target, 0.6 if name in noise else 0.001),
        }
        for name, share in shares.items()
    }
    return Measures({part.name: FLAT for part in PARTS} | (gaps or {}), means, shares, 1.0)


def concluded(found: Measures):
    return {part.name: conclude(part, found, 0.05, 0.05) for part in PARTS}


KEPT, LESS, LOST = worth(0.6, 0.55, 0.4), worth(0.6, 0.45, 0.001), worth(0.6, 0.2, 0.001)


@pytest.mark.parametrize(
    ("share", "noise", "expected"),
    [
        (KEPT, False, "transfers"),
        (LESS, False, "transfers in part"),
        (LOST, False, "does not transfer"),
        (LESS, True, "does not transfer"),
        (worth(0.6, 0.2, 0.3), True, "unclear"),
        (worth(-0.1, 0.3, 0.001), False, "unclear"),
    ],
    ids=["kept", "significantly less", "below half", "less, and nothing beyond noise", "wide", "not worth it at home"],
)
def test_transfer(share, noise, expected):
    found = measures({"head": share}, noise=("head",) if noise else ())
    assert conclude(PARTS[-1], found, 0.05, 0.05).transfer == expected


@pytest.mark.parametrize(
    ("gap", "expected"),
    [(GROWN, True), (replace(GROWN, rise_q=0.2), False), (replace(GROWN, entering=0.7), False),
     (replace(GROWN, shift_floor=1.0), False)],
    ids=["grown", "within noise", "not by half", "below the floor"],
)  # fmt: skip
def test_growth_needs_size_significance_and_more_than_the_floor(gap, expected):
    found = measures({part.name: KEPT for part in PARTS}, {"head": gap})
    assert conclude(PARTS[-1], found, 0.05, 0.05).grows is expected


def test_statistics_that_do_not_fit_help_the_target_alone_and_by_enough():
    found = measures({"head": KEPT})
    for target, holdout, expected in ((-0.2, 0.0, True), (-0.2, -0.2, False), (-0.01, 0.0, False), (0.2, 0.0, False)):
        found.effects["head", "statistics"] = {
            "target": effect(target),
            "holdout": effect(holdout, 1.0 if holdout == 0 else 0.001),
        }
        assert conclude(PARTS[-1], found, 0.05, 0.05).misfit is expected


def test_damage_lies_where_the_gap_grows_most_on_the_way_to_lost_worth():
    shares = {"encoder stage 1": KEPT, "encoder stage 2": LESS, "low": KEPT, "head": LESS}
    found = measures(shares, {"encoder stage 2": GROWN, "low": replace(GROWN, shift=0.6)})
    assert origin(PARTS, concluded(found), found) == "encoder stage 2"
    harmless = measures({part.name: KEPT for part in PARTS}, {"encoder stage 2": GROWN})
    assert origin(PARTS, concluded(harmless), harmless) is None


def test_without_growth_it_lies_at_the_first_part_that_loses():
    shares = {"encoder stage 1": KEPT, "encoder stage 2": KEPT, "low": LOST, "head": worth(0.9, 0.1, 0.001)}
    found = measures(shares)
    assert origin(PARTS, concluded(found), found) == "low"


def test_sentences():
    found = measures({"encoder stage 1": KEPT, "encoder stage 2": KEPT, "low": LOST, "head": LESS})
    told = sentence("kitti", PARTS, concluded(found), found, None)
    assert told == (
        "kitti: encoder stages 1 to 2 transfer; head transfers in part; low does not transfer. "
        "Most is lost at ‘low’, worth 20% where it was 60%."
    )
    kept = measures({part.name: KEPT for part in PARTS})
    assert (
        sentence("kitti", PARTS, concluded(kept), kept, None) == "kitti: every part that is worth something transfers."
    )
    wide = measures({part.name: KEPT for part in PARTS}, noise=("low",))
    assert sentence("kitti", PARTS, concluded(wide), wide, None) == (
        "kitti: encoder stages 1 to 2 and head transfer; of low it can't be told."
    )
    bare = Measures({part.name: FLAT for part in PARTS} | {"low": GROWN}, {}, {})
    told = sentence("bare", PARTS, concluded(bare), bare, "the target has no labels")
    assert told == (
        "bare: what the parts are worth is not known (the target has no labels); "
        "the shift grows most at ‘low’, from 0.30 deviations to 0.90."
    )


def test_names_are_listed_as_a_reader_would():
    assert listed(["encoder stage 1", "encoder stage 2", "encoder stage 4", "head"]) == (
        "encoder stages 1 to 2, encoder stage 4 and head"
    )
    assert listed(["ASPP branch, rate 12", "head"]) == "ASPP branch, rate 12; and head"


def rows_of(changes: dict[str, dict[str, float]], rng: np.random.Generator, count: int = 60) -> tuple:
    """Losses before, and rows of 'mean' whose losses are higher by the changes, in units of three samples."""
    before, rows = {}, []
    for side in ("holdout", "target"):
        untouched = rng.uniform(0.3, 0.6, count)
        names = [f"{side}{i}" for i in range(count)]
        before[side] = pl.DataFrame(
            {"sample_id": names, "loss": untouched, "unit": [f"u{i // 3}" for i in range(count)]}
        )
        for part, by_side in changes.items():
            noise = np.repeat(rng.normal(0, 0.05, count // 3), 3) + rng.normal(0, 0.02, count)
            after = untouched + by_side[side] + noise
            rows += [
                {
                    "sample_id": name,
                    "side": side,
                    "part": part,
                    "intervention": "mean",
                    "loss": float(loss),
                    "steps": None,
                }
                for name, loss in zip(names, after, strict=True)
            ]
    return pl.DataFrame(rows), before


def test_effects_and_worths_are_the_planted_ones():
    changes = {"encoder stage 1": {"holdout": 1.0, "target": 0.2}, "head": {"holdout": 1.55, "target": 1.55}}
    rows, before = rows_of(changes, np.random.default_rng(0))
    found, shares = effects(rows, before, PARTS), worths(rows, before, PARTS)
    assert found["encoder stage 1", "mean"]["holdout"].loss_change == pytest.approx(1.0, abs=0.05)
    assert shares["encoder stage 1"].holdout == pytest.approx(0.5, abs=0.03)
    assert shares["encoder stage 1"].target == pytest.approx(0.1, abs=0.03)
    assert shares["encoder stage 1"].q_value < 0.001
    assert shares["head"].q_value > 0.05


def test_nothing_planted_is_found_as_often_as_alpha_says():
    rng, named = np.random.default_rng(3), 0
    for _ in range(100):
        changes = {
            name: {"holdout": 0.4, "target": 0.4} for name in ("encoder stage 1", "encoder stage 2", "low", "head")
        }
        rows, before = rows_of(changes, rng, 30)
        named += min(share.q_value for share in worths(rows, before, PARTS).values()) <= 0.05
    assert named <= 11, "5 of 100 are expected; 12 have a chance below 1%"
