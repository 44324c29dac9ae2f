"""Rules on labels: exact on scores and masks, alike on both sides, and no way to close a gap that isn't of labels."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from assets.diagnosis.label_policy import label_evidence, label_hypotheses
from assets.experiments.campaign import run_experiments
from assets.experiments.labels import LabelPolicy, WithoutSuspects
from assets.experiments.operators import (
    LabelOperator,
    NotApplicable,
    PictureOperator,
    ReweightOperator,
    WindowOperator,
)
from assets.experiments.registry import Experiment
from assets.experiments.verdict import Figures, Rules, correct, gap_draws, judge, measure
from assets.inference.losses import pixel_sums
from resources.datasets.base import IGNORE

CLASSES = ["road", "sky", "car", "building"]
ROAD, SKY, CAR, BUILDING = range(4)
RULES = Rules(smallest_effect=0.05, alpha=0.05, draws=300, seed=0)
EXPERIMENTS = {
    hypothesis.id: Experiment(hypothesis, operator)
    for hypothesis, operator in zip(label_hypotheses(), [LabelPolicy(), WithoutSuspects()], strict=True)
}


def sample(seed: int, classes: int = 5, shape=(13, 17), ignored: float = 0.2, scale: float = 3.0):
    draws = np.random.default_rng(seed)
    logits = torch.from_numpy(draws.normal(0, scale, (classes, *shape)).astype(np.float32))
    mask = draws.integers(0, classes, shape).astype(np.uint8)
    mask[draws.random(shape) < ignored] = IGNORE
    return logits, mask


# --- rules on scores and masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", [LabelPolicy(), WithoutSuspects()])
def test_they_are_operators_on_labels_and_no_other(operator):
    assert isinstance(operator, LabelOperator)
    assert not isinstance(operator, PictureOperator | WindowOperator | ReweightOperator)


def test_merged_classes_have_the_loss_of_their_summed_probability():
    logits, mask = sample(1)
    scores, merged = LabelPolicy().relabel(logits, mask, {"merge": [[0, 3]], "ignore": [2]})
    probabilities = logits.double().softmax(0).numpy()
    probabilities[0] += probabilities[3]
    expected = np.where(mask == 3, 0, np.where(mask == 2, IGNORE, mask))
    assert np.array_equal(merged, expected)
    kept = expected != IGNORE
    own = np.take_along_axis(probabilities, np.where(kept, expected, 0)[None], 0)[0]
    assert pixel_sums(scores, merged).loss == pytest.approx(-np.log(own[kept]).mean(), rel=1e-5)


@given(st.integers(0, 1000), st.permutations(range(5)))
@settings(max_examples=30, deadline=None)
def test_a_merge_never_raises_the_loss_and_touches_only_its_classes(seed, order):
    logits, mask = sample(seed)
    keep, drop, *others = order
    before = pixel_sums(logits, mask)
    after = pixel_sums(*LabelPolicy().relabel(logits, mask, {"merge": [[keep, drop]], "ignore": []}))
    assert after.loss <= before.loss + 1e-6
    np.testing.assert_allclose(after.loss_sum[others], before.loss_sum[others], rtol=1e-5)
    assert after.class_pixels[keep] == before.class_pixels[keep] + before.class_pixels[drop]
    assert after.confusion[drop].sum() == after.confusion[:, drop].sum() == 0


@given(st.integers(0, 1000), st.floats(0.5, 8))
@settings(max_examples=30, deadline=None)
def test_suspects_are_left_out_and_the_sham_leaves_out_as_many(seed, scale):
    logits, mask = sample(seed, scale=scale)
    rule = WithoutSuspects().fit(pl.DataFrame(), pl.DataFrame())
    (sham,) = WithoutSuspects().shams(rule, pl.DataFrame(), pl.DataFrame())
    _, left = WithoutSuspects().relabel(logits, mask, rule)
    _, shammed = WithoutSuspects().relabel(logits, mask, sham)
    losses = functional.cross_entropy(logits[None], torch.from_numpy(mask).long()[None], ignore_index=IGNORE,
                                      reduction="none")[0].numpy()  # fmt: skip
    assert np.array_equal(left == IGNORE, (mask == IGNORE) | (losses > -np.log(0.1)))
    assert (left == IGNORE).sum() == (shammed == IGNORE).sum()
    assert np.array_equal(shammed[shammed != IGNORE], mask[shammed != IGNORE])
    peaks = logits.softmax(0).amax(0).numpy()
    out = (shammed == IGNORE) & (mask != IGNORE)
    if out.any() and (shammed != IGNORE).any():
        assert peaks[out].max() <= peaks[shammed != IGNORE].min() + 1e-6


# --- end to end ------------------------------------------------------------------------------------------------------


def tried(world, name: str):
    """An experiment run, its fit, and its figures."""
    experiment, table = EXPERIMENTS[name], world.store.table("labels", name, id_column="row_id")
    fitted, _ = run_experiments(world.campaign, [experiment], {name: table}, "test")[name]
    target, holdout = world.campaign.sides.target, world.campaign.sides.holdout
    return fitted, measure(name, table.read(), target, holdout, gap_draws(target, holdout, RULES), RULES)


def word(world, figures) -> str:
    sides = world.campaign.sides
    return judge(corrected(figures), gap_draws(sides.target, sides.holdout, RULES).value, RULES)[0]


def corrected(figures: Figures) -> Figures:
    """With Holm's correction over this one alone."""
    return correct([figures])[0]


def supported(world) -> set[str]:
    sides = world.campaign.sides
    return {name for name, found in label_evidence(sides.holdout, sides.target, CLASSES).items() if found.supported}


def buildings_as_sky(mask: np.ndarray) -> np.ndarray:
    return np.where(mask == BUILDING, SKY, mask).astype(np.uint8)


def scattered(mask: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(int(mask.sum()))
    return np.where(rng.random(mask.shape) < 0.05, rng.integers(0, 4, mask.shape), mask).astype(np.uint8)


@pytest.fixture(scope="module")
def policy(lay_out, colour_model):
    """Buildings are labelled as sky."""
    return lay_out(colour_model, relabel=buildings_as_sky)


@pytest.fixture(scope="module")
def part(lay_out, colour_model):
    """Buildings are labelled as sky in about two pictures of five."""
    return lay_out(
        colour_model, samples=80, relabel=lambda mask: buildings_as_sky(mask) if mask.sum() % 5 < 2 else mask
    )


@pytest.fixture(scope="module")
def errors(lay_out, colour_model):
    """One label in twenty is drawn at random."""
    return lay_out(colour_model, relabel=scattered)


@pytest.fixture(scope="module")
def dark(lay_out, colour_model):
    """Pictures at less than their brightness; labels as they should be."""
    return lay_out(colour_model, change=lambda picture: picture * 0.75)


def test_a_convention_is_supported_fitted_and_confirmed(policy):
    assert supported(policy) == {"label_policy"}
    fitted, figures = tried(policy, "label_policy")
    assert fitted.parameters["normalised"] == {"merge": [[SKY, BUILDING]], "ignore": []}
    assert fitted.parameters["baseline"] == fitted.parameters["normalised"]
    shams = fitted.parameters["sham"]["shams"]
    assert shams and all({SKY, BUILDING} != set(pair) for sham in shams for pair in sham["merge"])
    assert figures.gap_closed == pytest.approx(1, abs=0.05)
    assert figures.beats_sham[0] > 0
    assert word(policy, figures) == "confirmed"


def test_a_convention_in_a_part_of_the_pictures_is_tried_on_all_of_both_sides(part):
    sides = part.campaign.sides
    assert supported(part) == {"label_policy"}
    assert "of 80 pictures" in label_evidence(sides.holdout, sides.target, CLASSES)["label_policy"].reason
    fitted, figures = tried(part, "label_policy")
    rule = {"merge": [[SKY, BUILDING]], "ignore": []}
    assert fitted.parameters["normalised"] == fitted.parameters["baseline"] == rule
    assert fitted.parameters["sham"] == fitted.parameters["sham_baseline"]
    shams = fitted.parameters["sham"]["shams"]
    assert shams and all(len(sham["merge"]) == 1 and {SKY, BUILDING} != set(sham["merge"][0]) for sham in shams)
    assert figures.gap_closed == pytest.approx(1, abs=0.05)
    assert figures.beats_sham[0] > 0
    assert word(part, figures) == "confirmed"


def test_wrong_labels_are_supported_and_confirmed(errors):
    assert supported(errors) == {"label_errors"}
    _, figures = tried(errors, "label_errors")
    assert figures.gap_closed == pytest.approx(1, abs=0.1)
    assert word(errors, figures) == "confirmed"
    with pytest.raises(NotApplicable, match="no convention"):
        LabelPolicy().fit(errors.campaign.sides.holdout, errors.campaign.sides.target)


def test_dark_pictures_support_neither(dark):
    sides = dark.campaign.sides
    assert sides.target["loss"].mean() > 2 * sides.holdout["loss"].mean()
    assert supported(dark) == set()


def test_losses_of_both_sides_are_those_of_a_naive_recomputation(policy):
    tried(policy, "label_policy")
    rows = policy.store.table("labels", "label_policy", id_column="row_id").read()
    assert set(rows["role"]) == {"normalised", "baseline", "sham", "sham_baseline"}
    for role, side in (("normalised", "target"), ("baseline", "holdout")):
        own = {row["sample_id"]: row for row in rows.filter(role=role).iter_rows(named=True)}
        ids = policy.campaign.samples(side, report=True)["sample_id"].to_list()
        assert set(own) == set(ids)
        for batch in policy.campaign.load(side, ids[:3]):
            for picture in batch.pictures:
                logits = policy.campaign.model(picture.reduced[None]).logits
                logits = functional.interpolate(logits, picture.mask.shape, mode="bilinear", align_corners=False)
                probabilities = logits[0].double().softmax(0)
                probabilities[SKY] += probabilities[BUILDING]
                labels = torch.from_numpy(np.where(picture.mask == BUILDING, SKY, picture.mask)).long()
                expected = -probabilities.gather(0, labels[None]).log().mean()
                assert own[picture.sample_id]["loss"] == pytest.approx(float(expected), rel=1e-4)


# --- judged ----------------------------------------------------------------------------------------------------------


def evaluated(losses: np.ndarray, prefix: str) -> pl.DataFrame:
    """Evaluation rows with these losses, three to a unit."""
    names = [f"{prefix}{i:03d}" for i in range(len(losses))]
    return pl.DataFrame({
        "sample_id": names, "loss": losses, "loss_sum": [[100 * loss] for loss in losses],
        "class_pixels": [[100]] * len(losses), "unit": [f"{prefix}{i // 3}" for i in range(len(losses))],
        "report_half": True,
    })  # fmt: skip


def ruled(role: str, before: pl.DataFrame, gain: float, rng: np.random.Generator) -> pl.DataFrame:
    losses = before["loss"].to_numpy() - gain + rng.normal(0, 0.02, before.height)
    return before.select(
        row_id=pl.lit(f"{role}:") + pl.col("sample_id"), sample_id="sample_id", role=pl.lit(role), loss=losses,
        loss_sum=pl.Series([[100 * loss] for loss in losses]), class_pixels="class_pixels",
    )  # fmt: skip


def under_rules(target_gain: float, holdout_gain: float, sham: tuple[float, float] = (0.0, 0.0), seed: int = 0):
    """Word and figures of a rule that takes so much from each side of a gap of 0.4."""
    rng = np.random.default_rng(seed)
    target, holdout = (evaluated(mean + rng.normal(0, 0.05, 60), name) for mean, name in ((0.9, "t"), (0.5, "h")))
    parts = {"normalised": (target, target_gain), "baseline": (holdout, holdout_gain), "sham": (target, sham[0]),
             "sham_baseline": (holdout, sham[1])}  # fmt: skip
    rows = pl.concat([ruled(role, side, gain, rng) for role, (side, gain) in parts.items()])
    gap = gap_draws(target, holdout, RULES)
    figures = corrected(measure("rule", rows, target, holdout, gap, RULES))
    return judge(figures, gap.value, RULES)[0], figures


def test_a_rule_closes_what_it_takes_from_the_target_beyond_the_holdout():
    word, figures = under_rules(0.3, 0.1)
    assert word == "confirmed"
    assert figures.gap_closed == pytest.approx(0.2 / 0.4, abs=0.05)
    assert figures.ci95[0] < figures.gap_closed < figures.ci95[1]
    assert figures.difference == pytest.approx(-0.2, abs=0.02)


@pytest.mark.parametrize("taken", [0.1, 0.3, 0.45])
def test_a_rule_that_takes_as_much_from_both_sides_is_refuted(taken):
    word, figures = under_rules(taken, taken)
    assert word == "refuted"
    assert figures.ci95[0] < 0 < figures.ci95[1]
    assert figures.loss_after < figures.loss_before - taken / 2


def test_a_sham_that_takes_as_much_beyond_the_holdout_is_an_objection():
    assert under_rules(0.3, 0.1, sham=(0.3, 0.3))[0] == "confirmed"
    word, figures = under_rules(0.3, 0.1, sham=(0.3, 0.1))
    assert word == "inconclusive"
    assert figures.sham_delta == pytest.approx(-0.2, abs=0.03)
    assert figures.beats_sham[0] < 0


def test_rules_without_effect_are_confirmed_no_more_often_than_asked_for():
    words = [under_rules(0.2, 0.2, seed=seed)[0] for seed in range(60)]
    assert words.count("confirmed") <= 3
