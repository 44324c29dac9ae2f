"""Labels as a cause: planted conventions and wrong labels are named, hard pictures are not, nulls stay silent.

Pixels have a true class and a feature drawn around it; the model is the Bayes rule of the source's law, so that it is
calibrated there. Darkness shrinks the features towards what all classes share, which the model does not know of. Some
tests let pixels look like another class than they are, or like nothing that the model knows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.diagnosis.hypotheses import HYPOTHESES_SCHEMA, Hypothesis, rank_hypotheses
from assets.diagnosis.label_policy import (
    VOID,
    conventions,
    label_errors,
    label_evidence,
    label_hypotheses,
    label_sums,
    pair_shifts,
    with_label_evidence,
)
from assets.diagnosis.shifts import SHIFTS_SCHEMA
from assets.inference.label_quality import label_quality
from assets.inference.losses import EVALUATION_SCHEMA, evaluate
from resources.datasets.base import IGNORE

CLASSES = ["road", "sidewalk", "building", "car", "sky"]
ROAD, SIDEWALK, BUILDING, CAR, SKY = range(5)
CENTRES = np.array([[0, 0, 0], [2.2, 0, 0], [0, 5, 0], [3, 4, 3], [0, 4, 5]], dtype=float)
WET_ROAD = 5
LOOKS = np.vstack([CENTRES, [1.1, 0, 0]])
"""What pixels look like: the classes, and road that looks half like a sidewalk."""
SIZE = (20, 30)

Relabel = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def unchanged(_rng, mask):
    return mask


def as_road(_rng, mask):
    return np.where(mask == SIDEWALK, ROAD, mask)


def cars_as_building(_rng, mask):
    return np.where(mask == CAR, BUILDING, mask)


def some_of_cars_as_building(rng, mask, share: float = 0.4):
    return np.where((mask == CAR) & (rng.random(SIZE) < share), BUILDING, mask)


def a_part_of_cars_as_building(rng, mask):
    return np.where((mask == CAR) & (rng.random(SIZE) < rng.random()), BUILDING, mask)


def without_cars(_rng, mask):
    return np.where(mask == CAR, IGNORE, mask)


def scattered(rng, mask, share: float = 0.06):
    return np.where(rng.random(mask.shape) < share, rng.integers(0, len(CLASSES), mask.shape), mask)


def in_blocks(rng, mask, share: float = 0.08):
    blocks = (rng.random((SIZE[0] // 5, SIZE[1] // 5)) < share).repeat(5, 0).repeat(5, 1)
    other = rng.integers(0, len(CLASSES), (SIZE[0] // 5, SIZE[1] // 5)).repeat(5, 0).repeat(5, 1)
    return np.where(blocks, other, mask)


def truth(rng) -> np.ndarray:
    mask = np.full(SIZE, ROAD, np.uint8)
    horizon = rng.integers(7, 12)
    mask[:horizon] = BUILDING
    mask[: horizon - rng.integers(2, 6)] = SKY
    mask[horizon:, : rng.integers(4, 9)] = SIDEWALK
    left = rng.integers(10, 22)
    mask[horizon + 1 : horizon + 5, left : left + 7] = CAR
    return mask


def rows_of(seed: int, count: int = 48, *, relabel: Relabel = unchanged, look: Relabel = unchanged,
            light: float = 1.0, blur: float = 0.0):  # fmt: skip
    """Evaluation rows of drawn samples, four to a unit; each unit has its own tint."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        if i % 4 == 0:
            tint = rng.normal(0, 0.25, 3)
        mask = truth(rng)
        features = light * (LOOKS[look(rng, mask)] + tint) + rng.normal(0, 1 + blur, (*SIZE, 3))
        scores = features @ CENTRES.T - (CENTRES**2).sum(1) / 2
        logits = torch.from_numpy(scores.astype(np.float32)).permute(2, 0, 1).contiguous()
        labels = relabel(rng, mask).astype(np.uint8)
        name = f"{seed}-{i:03d}"
        rows.append(evaluate(logits, labels).row(name, "f", b"") | label_quality(logits, labels).row())
        rows[-1]["unit"] = f"{seed}-{i // 4}"
    return pl.DataFrame(rows, schema={**EVALUATION_SCHEMA, "unit": pl.String})


def partly(plain: pl.DataFrame, planted: pl.DataFrame, share: float, seed: int = 0) -> pl.DataFrame:
    """Each picture from one of two tables of rows, the planted one with this probability."""
    drawn = np.random.default_rng(seed).random(plain.height) < share
    return pl.concat([plain.filter(~drawn), planted.filter(drawn)]).sort("sample_id")


@pytest.fixture(scope="module")
def holdout():
    return rows_of(1)


@pytest.fixture(scope="module")
def plain():
    """A target like the source; twice as many pictures, so that a fifth of them are enough."""
    return rows_of(2, 96)


@pytest.fixture(scope="module")
def merged():
    """The pictures of `plain`; cars are labelled as buildings."""
    return rows_of(2, 96, relabel=cars_as_building)


def supported(holdout: pl.DataFrame, target: pl.DataFrame) -> set[str]:
    return {name for name, found in label_evidence(holdout, target, CLASSES).items() if found.supported}


def test_sidewalk_labelled_as_road_is_a_convention_and_no_error(holdout):
    target = rows_of(2, relabel=as_road)
    assert supported(holdout, target) == {"label_policy"}
    (found,) = conventions(pair_shifts(label_sums(holdout), label_sums(target)))
    assert (found.label, found.prediction) == (ROAD, SIDEWALK)
    assert found.target_share > 0.99 and found.source_share < 0.5
    reason = label_evidence(holdout, target, CLASSES)["label_policy"].reason
    assert "of what the model calls sidewalk is labelled road" in reason


def test_a_class_without_labels_is_a_convention(holdout):
    target = rows_of(2, relabel=without_cars)
    assert supported(holdout, target) == {"label_policy"}
    (found,) = conventions(pair_shifts(label_sums(holdout), label_sums(target)))
    assert (found.label, found.prediction) == (VOID, CAR)


@pytest.mark.parametrize("noise", [scattered, in_blocks])
def test_random_labels_are_errors_and_no_convention(holdout, noise):
    assert supported(holdout, rows_of(2, relabel=noise)) == {"label_errors"}


@pytest.mark.parametrize("seed", range(3, 9))
def test_nothing_planted_is_neither(holdout, seed):
    assert supported(holdout, rows_of(seed)) == set()


@pytest.mark.parametrize("plant", [{"light": 0.8}, {"light": 0.5}, {"light": 0.2}, {"blur": 0.3}, {"blur": 1.0}])
def test_hard_pictures_are_neither(holdout, plant):
    target = rows_of(2, **plant)
    assert target["loss"].mean() > 1.1 * holdout["loss"].mean()
    assert supported(holdout, target) == set()


@pytest.mark.parametrize("share", [0.2, 0.4, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_a_convention_in_a_part_of_the_pictures_is_found(holdout, plain, merged, share, seed):
    target = partly(plain, merged, share, seed)
    assert supported(holdout, target) == {"label_policy"}
    (found,) = conventions(pair_shifts(label_sums(holdout), label_sums(target)))
    assert (found.label, found.prediction) == (BUILDING, CAR)
    assert found.target_share == pytest.approx(0.8 * share, abs=0.1)  # the model errs in a fifth of what it calls car


def test_a_part_is_told_by_its_pictures_and_the_whole_is_not(holdout, plain, merged):
    drawn = int((np.random.default_rng(0).random(plain.height) < 0.4).sum())
    target = partly(plain, merged, 0.4)
    (found,) = conventions(pair_shifts(label_sums(holdout), label_sums(target)))
    assert found.held_in == (drawn, 96)
    evidence = label_evidence(holdout, target, CLASSES)["label_policy"]
    assert f"in {drawn} of 96 pictures most of what the model calls car is labelled building" in evidence.reason
    assert any(f"in {drawn} of 96 pictures" in line for line in evidence.evidence)
    (found,) = conventions(pair_shifts(label_sums(holdout), label_sums(merged)))
    assert found.held_in is None


def test_classes_that_the_model_confuses_do_not_hide_a_part(holdout):
    target = partly(rows_of(2, 96), rows_of(2, 96, relabel=as_road), 0.4)
    (found,) = conventions(pair_shifts(label_sums(holdout), label_sums(target)))
    assert (found.label, found.prediction) == (ROAD, SIDEWALK)
    assert found.held_in is not None and found.held_in[0] == pytest.approx(0.4 * 96, abs=10)


def test_a_class_without_labels_in_a_part_is_a_convention(holdout, plain):
    (found,) = conventions(pair_shifts(label_sums(holdout), label_sums(
        partly(plain, rows_of(2, 96, relabel=without_cars), 0.4))))  # fmt: skip
    assert (found.label, found.prediction) == (VOID, CAR)


@given(st.integers(24, 72), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_it_does_not_matter_which_pictures_follow_it_or_in_which_order(holdout, plain, merged, count, seed):
    chosen = np.random.default_rng(seed).permutation(plain["sample_id"].to_list())[:count].tolist()
    rows = pl.concat(
        [plain.filter(~pl.col("sample_id").is_in(chosen)), merged.filter(pl.col("sample_id").is_in(chosen))]
    )
    (found,) = conventions(pair_shifts(label_sums(holdout), label_sums(rows)))
    assert (found.label, found.prediction) == (BUILDING, CAR)
    assert found.held_in in (None, (count, 96))
    shuffled = rows.sample(fraction=1, shuffle=True, seed=seed)
    (again,) = conventions(pair_shifts(label_sums(holdout), label_sums(shuffled)))
    assert again.held_in == found.held_in and again.q_value == pytest.approx(found.q_value)


@pytest.mark.parametrize("relabel", [some_of_cars_as_building, a_part_of_cars_as_building])
def test_what_is_spread_within_pictures_is_no_convention(holdout, relabel):
    sums = label_sums(rows_of(2, 96, relabel=relabel))
    (shift,) = [shift for shift in pair_shifts(label_sums(holdout), sums) if shift.prediction == CAR]
    assert shift.objection is not None and shift.held_in is None


def test_pictures_that_follow_it_among_as_many_disputes_elsewhere_are_no_convention(holdout, merged):
    others = rows_of(2, 96, relabel=lambda rng, mask: some_of_cars_as_building(rng, mask, 0.25))
    target = partly(others, merged, 0.15)
    (shift,) = [shift for shift in pair_shifts(label_sums(holdout), label_sums(target)) if shift.prediction == CAR]
    assert shift.objection is not None and shift.held_in is None


@pytest.mark.parametrize("plant", [{"light": 0.5}, {"light": 0.2}, {"blur": 1.0}])
def test_hard_pictures_among_others_are_neither(holdout, plain, plant):
    for seed in range(3):
        target = partly(plain, rows_of(2, 96, **plant), 0.4, seed)
        assert target["loss"].mean() > 1.1 * holdout["loss"].mean()
        assert supported(holdout, target) == set()


def test_pictures_without_the_class_where_the_model_is_unsure_are_no_convention(holdout, plain):
    """All that is called sidewalk there is road, as where sidewalk is labelled so."""
    wet = rows_of(2, 96, relabel=as_road, look=lambda _, mask: np.where(mask == SIDEWALK, WET_ROAD, mask))
    shifts = pair_shifts(label_sums(holdout), label_sums(partly(plain, wet, 0.4)))
    assert (ROAD, SIDEWALK) in {(shift.label, shift.prediction) for shift in shifts}
    assert conventions(shifts) == []


def test_pictures_without_the_class_that_show_more_of_its_like_are_no_convention(holdout, plain):
    """All road looks like sidewalk there, so that the model is sure."""
    paved = rows_of(2, 96, relabel=as_road, look=lambda _, mask: np.where(mask == ROAD, SIDEWALK, mask))
    shifts = pair_shifts(label_sums(holdout), label_sums(partly(plain, paved, 0.4)))
    (shift,) = [shift for shift in shifts if (shift.label, shift.prediction) == (ROAD, SIDEWALK)]
    assert shift.held_in is not None
    assert "the pictures differ" in (shift.objection or "")


def test_pictures_whose_labels_have_the_class_elsewhere_are_no_convention(holdout, plain):
    """The model takes cars for road there, and a part of the sidewalk for a car; labels know better."""

    def look(_rng, mask):
        paved = (mask == SIDEWALK) & (np.arange(SIZE[1]) < 3)
        return np.where(mask == CAR, ROAD, np.where(paved, CAR, mask))

    shifts = pair_shifts(label_sums(holdout), label_sums(partly(plain, rows_of(2, 96, look=look), 0.4)))
    (shift,) = [shift for shift in shifts if (shift.label, shift.prediction) == (SIDEWALK, CAR)]
    assert shift.held_in is not None
    assert "the labels still have the class" in (shift.objection or "")


def test_pictures_of_two_groups_are_no_convention(holdout, plain, merged):
    """One drive, or two, may lack a class for reasons of their own."""
    units = plain["unit"].unique(maintain_order=True).to_list()
    for count, expected in ((2, 0), (10, 1)):
        own = pl.col("unit").is_in(units[:count])
        target = pl.concat([plain.filter(~own), merged.filter(own)])
        assert len(conventions(pair_shifts(label_sums(holdout), label_sums(target)))) == expected


def test_splits_of_one_set_show_no_convention():
    """The set is not all alike: units without cars, darker ones, blurred ones."""
    no_cars = rows_of(12, 48, look=lambda _, mask: np.where(mask == CAR, ROAD, mask),
                      relabel=lambda _, mask: np.where(mask == CAR, ROAD, mask))  # fmt: skip
    pool = pl.concat([rows_of(11, 96), no_cars, rows_of(13, 32, light=0.6), rows_of(14, 32, blur=0.4)])
    units, rng, alarms = pool["unit"].unique().sort().to_list(), np.random.default_rng(0), 0
    for _ in range(200):
        home = pl.col("unit").is_in(rng.permutation(units)[: len(units) // 2].tolist())
        shifts = pair_shifts(label_sums(pool.filter(home)), label_sums(pool.filter(~home)))
        alarms += bool(conventions(shifts))
    assert alarms <= 4


def test_two_groups_are_too_few_to_say_anything(holdout):
    few = rows_of(2, 8, relabel=as_road)
    assert supported(holdout, few) == set()
    assert pair_shifts(label_sums(holdout), label_sums(few)) == []


def test_the_evidence_ranks_first_and_leaves_the_others_in_order(holdout):
    other = Hypothesis("other", "colour", "t", "s", ("mean_red",))
    shift = {"name": "mean_red", "label": "mean red", "family": "colour", "kind": "picture", "source_mean": 0.1,
             "target_mean": 0.2, "effect_size": 0.5, "ks": 0.3, "wasserstein": 0.4, "p_value": 0.01, "q_value": 0.02,
             "loss_association": 0.0, "loss_association_p": 1.0, "artefact": None}  # fmt: skip
    ranked = rank_hypotheses([*label_hypotheses(), other], pl.DataFrame([shift], schema=SHIFTS_SCHEMA))
    assert ranked["id"].to_list()[0] == "other"
    evidence = label_evidence(holdout, rows_of(2, relabel=as_road), CLASSES)
    found = with_label_evidence(ranked, evidence)
    assert dict(found.schema) == HYPOTHESES_SCHEMA
    assert found["id"].to_list() == ["label_policy", "other", "label_errors"]
    assert found["rank"].to_list() == [1, 2, 3]
    assert found["supported"].to_list() == [True, True, False]
    assert "convention" in found["reason"][2]


def test_the_list_to_check_begins_with_the_worst_and_names_what_is_disputed(holdout):
    hidden = rows_of(1, relabel=lambda rng, mask: np.where(rng.random(mask.shape) < 0.001, SKY, mask))
    spoiled = rows_of(4, 1, relabel=lambda _, mask: np.where(mask == CAR, SKY, mask))
    listed = label_errors(pl.concat([hidden, spoiled]), CLASSES, most=5)
    assert len(listed) == 5
    scores = [row["label_quality"] for row in listed]
    assert scores == sorted(scores)
    (row,) = label_errors(spoiled, CLASSES)
    assert (row["disputed_label"], row["disputed_as"]) == ("sky", "car")
    assert row["disputed_pixels"] <= row["suspect_pixels"]["sky"] + 10
    assert 0.5 < row["disputed_confidence"] <= 1
    assert 0 < row["suspect_share"] < 1


def test_a_sample_without_labels_is_not_listed(holdout):
    bare = holdout.head(1).with_columns(label_quality=pl.lit(None, pl.Float64))
    assert label_errors(bare, CLASSES) == []
