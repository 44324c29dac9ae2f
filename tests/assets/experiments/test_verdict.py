"""Verdicts on planted losses: what is a cause is confirmed, what is none is not, and the reason names the objection."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, ttest_1samp
from statsmodels.stats.multitest import multipletests

from assets.experiments.trial import TRIAL_SCHEMA
from assets.experiments.verdict import (
    Figures,
    Rules,
    correct,
    gap_draws,
    judge,
    latent_gap_after,
    measure,
    pair,
    verdict_rows,
)
from assets.inference.estimation import Calibration

RULES = Rules(smallest_effect=0.05, alpha=0.05, draws=400, seed=0)


def evaluation(losses: np.ndarray, prefix: str, per_unit: int = 3) -> pl.DataFrame:
    """Labelled evaluation rows with these losses, all of the report half, two classes of 100 pixels each."""
    count = len(losses)
    return pl.DataFrame({
        "sample_id": [f"{prefix}{i:04d}" for i in range(count)],
        "loss": losses,
        "loss_sum": [[100 * loss * 0.5, 100 * loss * 1.5] for loss in losses],
        "class_pixels": [[100, 100]] * count,
        "unit": [f"{prefix}u{i // per_unit}" for i in range(count)],
        "report_half": [True] * count,
    })  # fmt: skip


def trial(role: str, before: pl.DataFrame, after: np.ndarray) -> pl.DataFrame:
    rows = [
        {"row_id": f"{role}:{name}", "fingerprint": "f", "sample_id": name, "role": role, "loss": float(loss),
         "loss_sum": [100 * loss * 0.5, 100 * loss * 1.5], "class_pixels": [100.0, 100.0], "latent": [], "traits": []}
        for name, loss in zip(before["sample_id"], after, strict=True)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=TRIAL_SCHEMA)


class World:
    """A target that loses 0.4 on average against its holdout, and experiments planted on it."""

    def __init__(self, seed: int = 0, samples: int = 60, per_unit: int = 3) -> None:
        self.rng = np.random.default_rng(seed)
        shared = np.repeat(self.rng.normal(0, 0.05, samples), per_unit)[:samples]
        self.target = evaluation(0.9 + shared + self.rng.normal(0, 0.05, samples), "t", per_unit)
        self.holdout = evaluation(0.5 + self.rng.normal(0, 0.05, samples), "h", per_unit)
        self.gap = gap_draws(self.target, self.holdout, RULES)

    def after(self, side: pl.DataFrame, change: float, noise: float = 0.03) -> np.ndarray:
        return side["loss"].to_numpy() + change + self.rng.normal(0, noise, side.height)

    def rows(self, *, normalised: float | None = None, sham: float | None = None, control: float | None = None,
             imitated: float | None = None) -> pl.DataFrame:  # fmt: skip
        """Rows of the roles that are given a mean change of loss."""
        sides = {"normalised": self.target, "sham": self.target, "control": self.holdout, "imitated": self.holdout}
        changes = {"normalised": normalised, "sham": sham, "control": control, "imitated": imitated}
        found = [trial(role, sides[role], self.after(sides[role], change))
                 for role, change in changes.items() if change is not None]  # fmt: skip
        return pl.concat(found) if found else pl.DataFrame(schema=TRIAL_SCHEMA)

    def figures(self, **roles: float | None) -> Figures:
        return measure("x", self.rows(**roles), self.target, self.holdout, self.gap, RULES)

    def verdict(self, others: int = 7, **roles: float | None) -> tuple[str, str]:
        """The verdict of one experiment among others that do nothing."""
        figures = [self.figures(**roles), *(self.figures(normalised=0.0) for _ in range(others))]
        first = verdict_rows(figures, self.gap.value, RULES)[0]
        return first["verdict"], first["reason"]


CAUSE = {"normalised": -0.25, "sham": 0.02, "control": 0.0, "imitated": 0.2}


def test_a_true_cause_is_confirmed():
    word, reason = World().verdict(**CAUSE)
    assert word == "confirmed"
    assert "closes 6" in reason and "induces" in reason and "a sham of the same size does not do as well" in reason


def test_a_cause_that_only_an_imitation_shows_is_confirmed():
    word, reason = World().verdict(imitated=0.25)
    assert word == "confirmed"
    assert "it induces 6" in reason


def test_an_effect_below_what_is_worth_acting_on_is_refuted():
    word, reason = World(samples=120).verdict(normalised=-0.004, sham=0.0, control=0.0)
    assert word == "refuted"
    assert "below the smallest effect worth acting on (5%)" in reason
    assert World().verdict(normalised=0.2)[0] == "refuted", "a change that makes it worse"


@pytest.mark.parametrize(("change", "objection"), [
    ({"control": 0.1}, "it harms the control by 0.1"),
    ({"sham": -0.25}, "a sham of the same size does as well"),
    ({"sham": -0.4}, "a sham of the same size does as well"),
    ({"imitated": -0.05}, "so the directions disagree"),
    ({"imitated": 0.0}, "so the directions disagree"),
])  # fmt: skip
def test_one_objection_makes_it_inconclusive_and_is_named(change, objection):
    word, reason = World().verdict(**{**CAUSE, **change})
    assert word == "inconclusive"
    assert objection in reason
    assert reason.count(";") == 0, f"other objections beside the planted one: {reason}"


def test_harm_to_the_control_below_the_smallest_effect_is_no_objection():
    world = World()
    assert world.verdict(**{**CAUSE, "control": 0.9 * RULES.smallest_effect * world.gap.value})[0] == "confirmed"


@pytest.mark.parametrize(("units", "word"), [(1, "inconclusive"), (2, "inconclusive"), (20, "confirmed")])
@pytest.mark.parametrize("change", [-0.25, 0.2])
def test_few_groups_are_too_few_to_judge_by(units, word, change):
    world = World(samples=60, per_unit=60 // units)
    found, reason = world.verdict(**{**CAUSE, "normalised": change, "imitated": None})
    expected = word if change < 0 or units < 3 else "refuted"
    assert found == expected
    assert (f"{units} independent groups are too few" in reason) == (units < 3)


def test_few_groups_leave_a_large_effect_short_of_the_correction():
    world = World(samples=60, per_unit=15)
    after = world.after(world.target, -0.2) + np.repeat([0.1, -0.05, -0.05, 0.0], 15)
    figures = [measure("x", trial("normalised", world.target, after), world.target, world.holdout, world.gap, RULES)]
    assert judge(correct(figures)[0], world.gap.value, RULES)[0] == "confirmed"
    figures += [world.figures(normalised=0.0) for _ in range(13)]
    word, reason = judge(correct(figures)[0], world.gap.value, RULES)
    assert word == "inconclusive"
    assert "after correction, from 4 independent groups" in reason


def test_noise_that_reaches_zero_is_inconclusive():
    world = World(samples=24)
    noisy = trial("normalised", world.target, world.after(world.target, -0.05, noise=0.4))
    figures = measure("x", noisy, world.target, world.holdout, world.gap, RULES)
    word, reason = judge(correct([figures])[0], world.gap.value, RULES)
    assert word == "inconclusive"
    assert "the interval reaches 0" in reason


def test_without_rows_it_is_skipped():
    world = World()
    figures = world.figures()
    assert not figures.tried
    assert judge(figures, world.gap.value, RULES) == ("skipped", "no direction could be tried")
    only_control = world.figures(control=0.0)
    assert judge(only_control, world.gap.value, RULES)[0] == "skipped"


def test_the_correction_is_holms_over_all_that_were_tried():
    world = World(samples=30)
    figures = [world.figures(normalised=change) for change in (-0.02, -0.005, 0.0, -0.01)]
    figures += [world.figures(imitated=0.01), world.figures()]
    p = [f.p_value for f in figures[:4]] + [figures[4].induced_p_value]
    expected = multipletests(p, method="holm")[1]
    found = [f.q_value for f in correct(figures)]
    assert found[:5] == pytest.approx(expected)
    assert math.isnan(found[5])
    # the more is tried, the less a small p counts
    alone = correct([figures[0]])[0].q_value
    assert alone == pytest.approx(p[0]) and found[0] > alone


def test_of_eight_experiments_without_effect_any_is_confirmed_at_most_as_often_as_asked_for():
    simulations, false, uncorrected = 300, 0, 0
    world = World(seed=1000, samples=24, per_unit=2)
    for _ in range(simulations):
        # frames of one unit move together; the mean change is nought
        drifts = [np.repeat(world.rng.normal(0, 0.05, 12), 2) for _ in range(8)]
        after = [world.after(world.target, 0.0) + drift for drift in drifts]
        by_unit = [(each - world.target["loss"].to_numpy()).reshape(12, 2).mean(1) for each in after]
        if ttest_1samp(by_unit, 0, axis=1).pvalue.min() > RULES.alpha:
            continue  # saves time: without any correction none would be confirmed
        rows = [trial("normalised", world.target, each) for each in after]
        figures = [measure("x", each, world.target, world.holdout, world.gap, RULES) for each in rows]
        uncorrected += any(figure.p_value <= RULES.alpha and figure.gap_closed > 0 for figure in figures)
        false += any(row["verdict"] == "confirmed" for row in verdict_rows(figures, world.gap.value, RULES))
    assert uncorrected / simulations > 0.1, "without a correction this would happen often"
    # the lower end of the exact 95% interval of the rate must not lie above alpha
    lower = beta.ppf(0.025, false, simulations - false + 1) if false else 0.0
    assert lower <= RULES.alpha
    assert false / simulations <= RULES.alpha


def test_gap_closed_and_its_interval_agree_with_a_naive_bootstrap():
    world = World(samples=45)
    rows = world.rows(normalised=-0.2)
    figures = measure("x", rows, world.target, world.holdout, world.gap, replace(RULES, draws=4000))
    before, after = world.target["loss"].to_numpy(), rows.sort("sample_id")["loss"].to_numpy()
    source = world.holdout["loss"].to_numpy()
    assert figures.gap_closed == pytest.approx((before - after).mean() / (before.mean() - source.mean()))
    assert figures.loss_before == pytest.approx(before.mean())
    assert figures.loss_after == pytest.approx(after.mean())
    assert figures.difference == pytest.approx(after.mean() - before.mean())
    rng, draws = np.random.default_rng(9), []
    blocks = np.arange(45).reshape(15, 3)
    for _ in range(4000):
        target, home = (blocks[rng.integers(0, 15, 15)].ravel() for _ in range(2))
        draws.append((before - after)[target].mean() / (before[target].mean() - source[home].mean()))
    assert figures.ci95 == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)


def test_gap_induced_is_the_holdouts_loss_added():
    world = World(samples=45)
    rows = world.rows(imitated=0.2)
    figures = measure("x", rows, world.target, world.holdout, world.gap, RULES)
    added = rows.sort("sample_id")["loss"].to_numpy() - world.holdout["loss"].to_numpy()
    assert figures.gap_induced == pytest.approx(added.mean() / world.gap.value)
    low, high = figures.induced_ci95
    assert low < figures.gap_induced < high
    assert figures.ci95 is None


def test_where_an_imitation_crops_it_is_compared_with_the_same_pixels():
    world = World()
    plain = trial("plain", world.holdout, world.after(world.holdout, 0.3, noise=0))
    rows = pl.concat([plain, trial("imitated", world.holdout, world.after(world.holdout, 0.5, noise=0))])
    figures = measure("x", rows, world.target, world.holdout, world.gap, RULES)
    assert figures.gap_induced == pytest.approx(0.2 / world.gap.value)


@given(seed=st.integers(0, 1000), drop=st.sets(st.integers(0, 59), max_size=40))
def test_samples_without_a_loss_after_are_left_out_and_the_others_stay_paired(seed, drop):
    world = World(seed)
    rows = pl.concat([world.rows(normalised=-0.2), world.rows(sham=0.0)])
    gone = [f"normalised:t{i:04d}" for i in drop]
    holed = rows.with_columns(loss=pl.when(pl.col("row_id").is_in(gone)).then(math.nan).otherwise("loss"))
    figures = measure(
        "x", holed.sample(fraction=1, shuffle=True, seed=seed), world.target, world.holdout, world.gap, RULES
    )
    left = [i for i in range(60) if i not in drop]
    after = rows.filter(role="normalised")["loss"].to_numpy()[left]
    assert figures.samples == len(left)
    assert figures.difference == pytest.approx((after - world.target["loss"].to_numpy()[left]).mean())
    assert figures.ci95[0] < figures.gap_closed < figures.ci95[1]
    sham = rows.filter(role="sham")["loss"].to_numpy()[left]
    assert np.mean(figures.beats_sham) == pytest.approx((sham - after).mean()) or len(left) < 4


def test_pairs_are_of_the_same_samples_and_know_each_classs_change():
    world = World(samples=9)
    rows = trial("normalised", world.target, world.target["loss"].to_numpy() - 0.2).sample(9, shuffle=True, seed=1)
    found = pair(rows, "normalised", world.target)
    assert found.gain == pytest.approx(0.2)
    assert found.units == world.target["unit"].to_list()
    assert found.class_delta == pytest.approx([-0.1, -0.3])
    assert pair(rows, "sham", world.target) is None


def test_the_latent_gap_after_looks_at_normalised_pictures_alone():
    schema = {**TRIAL_SCHEMA}
    rows = pl.DataFrame([
        {**dict.fromkeys(schema), "role": role, "latent": [value, value]}
        for role, value in (("normalised", 1.0), ("normalised", 3.0), ("sham", 9.0))
    ], schema=schema)  # fmt: skip
    assert latent_gap_after(rows, lambda latents: latents.sum(1), lambda scores: float(scores.sum())) == 8
    bare = rows.with_columns(latent=pl.lit([], pl.List(pl.Float32)))
    assert math.isnan(latent_gap_after(bare, lambda latents: latents, lambda _: 0.0))


def test_a_reweighting_can_harm_nobody():
    shown = {"difference_ci95": (-0.2, -0.1), "gap_closed": 0.5, "ci95": (0.3, 0.7), "q_value": 0.01, "units": 8}
    found = Figures("share", control_delta=0.1, control_ci95=(0.05, 0.15), **shown)
    rules = Rules(smallest_effect=0.05, alpha=0.05, draws=100, seed=0)
    assert judge(found, 0.2, rules)[0] == "inconclusive"
    assert judge(replace(found, can_harm=False), 0.2, rules)[0] == "confirmed"


# --- estimated losses ------------------------------------------------------------------------------------------------


def estimated_verdict(**roles: float | None) -> tuple[str, str]:
    """The verdict of one experiment on a target whose losses are estimated."""
    world = World()
    figures = [replace(world.figures(**roles), estimated=True)]
    first = verdict_rows(figures, world.gap.value, RULES)[0]
    assert first["estimated"]
    return first["verdict"], first["reason"]


def test_estimated_loss_confirms_where_an_imitation_bears_it_out():
    word, reason = estimated_verdict(**CAUSE)
    assert word == "confirmed" and "of the estimated gap" in reason


def test_estimated_loss_alone_confirms_nothing():
    """A change that only makes the model surer of itself lowers the estimate as well."""
    word, reason = estimated_verdict(normalised=-0.25, sham=0.02, control=0.0)
    assert word == "inconclusive" and "by estimated loss alone" in reason
    assert World().verdict(others=0, normalised=-0.25, sham=0.02, control=0.0)[0] == "confirmed"
    assert estimated_verdict(normalised=-0.25, sham=0.02, control=0.0, imitated=0.0)[0] == "inconclusive"


def test_an_imitation_alone_is_measured_and_needs_nothing_else():
    assert estimated_verdict(imitated=0.25)[0] == "confirmed"


def test_estimated_loss_refutes_unless_an_imitation_costs_loss():
    assert estimated_verdict(normalised=0.1, sham=0.0, control=0.0)[0] == "refuted"
    word, reason = estimated_verdict(normalised=0.1, sham=0.0, control=0.0, imitated=0.2)
    assert word == "inconclusive" and "done to the source it costs loss" in reason
    assert World().verdict(others=0, normalised=0.1, sham=0.0, control=0.0, imitated=0.2)[0] == "refuted"


def test_the_estimator_s_error_widens_the_gap_s_draws():
    world = World()
    calibration = Calibration(step=6, scale=1.0, power=1.0, missed=(-0.3, 0.3), spread=0.0)
    unsure = gap_draws(world.target, world.holdout, RULES, calibration)
    assert unsure.value == world.gap.value and unsure.gaps.std() > 3 * world.gap.gaps.std()
    np.testing.assert_array_equal(gap_draws(world.target, world.holdout, RULES).gaps, world.gap.gaps)
    gain = np.full(len(unsure.ids), 0.2)
    assert unsure.shares(gain, unsure.ids).std() > world.gap.shares(gain, world.gap.ids).std()


# --- an estimated gap that may be nothing ----------------------------------------------------------------------------


def undetected_verdict(others: int = 0, **roles: float | None) -> dict[str, object]:
    """The verdict row of one experiment where the estimated gap is not beyond the estimator's error."""
    world = World()
    figures = [world.figures(**roles), *(world.figures(normalised=0.0) for _ in range(others))]
    figures = [replace(one, estimated=True).without_shares() for one in figures]
    return verdict_rows(figures, world.gap.value, RULES)[0]


@pytest.mark.parametrize("roles", [CAUSE, {"imitated": 0.25}, {"normalised": -0.25}, {"normalised": 0.0}])
def test_nothing_is_confirmed_of_a_gap_that_may_be_nothing(roles):
    row = undetected_verdict(**roles)
    assert row["verdict"] == "inconclusive" and row["reason"].startswith("the estimated gap may be nothing; ")
    assert math.isnan(row["gap_closed"]) and math.isnan(row["gap_induced"])
    assert row["ci95"] is None and row["induced_ci95"] is None
    assert "%" not in row["reason"], "no share of it is told"


def test_what_a_change_does_to_the_estimated_loss_is_told():
    row = undetected_verdict(others=3, **CAUSE)
    low, high = row["difference_ci95"]
    assert low < row["difference"] < high < 0 < row["imitated_ci95"][0] < row["imitated_delta"]
    assert f"it changes the estimated loss by {row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]" in row["reason"]
    assert f"done to the source it adds {row['imitated_delta']:+.3f} " in row["reason"]
    assert f"p = {row['q_value']:.3f} after correction" in row["reason"] and row["q_value"] > row["p_value"]
    assert "done to the source" not in undetected_verdict(normalised=-0.25)["reason"]


def test_what_is_worse_by_estimate_is_refuted_whatever_the_gap():
    row = undetected_verdict(normalised=0.2, sham=0.0, control=0.0)
    assert row["verdict"] == "refuted" and row["reason"].endswith("worse, whatever the size of the gap")
    assert undetected_verdict(normalised=0.2, imitated=0.0)["verdict"] == "refuted"
    contradicted = undetected_verdict(normalised=0.2, imitated=0.2)
    assert contradicted["verdict"] == "inconclusive", "the same done to the source costs loss, which is measured"


def test_worse_by_chance_is_not_refuted():
    world = World(samples=24)
    noisy = trial("normalised", world.target, world.after(world.target, 0.05, noise=0.4))
    figures = measure("x", noisy, world.target, world.holdout, world.gap, RULES)
    assert figures.difference_ci95[0] < 0 < figures.difference_ci95[1]
    row = verdict_rows([replace(figures, estimated=True).without_shares()], world.gap.value, RULES)[0]
    assert row["verdict"] == "inconclusive"
    few = World(samples=60, per_unit=30)
    worse = replace(few.figures(normalised=0.2), estimated=True).without_shares()
    assert "2 independent groups are too few" in verdict_rows([worse], few.gap.value, RULES)[0]["reason"]


def test_the_difference_s_interval_is_that_of_a_clustered_t_test():
    world = World(samples=45)
    rows = world.rows(normalised=-0.2)
    figures = measure("x", rows, world.target, world.holdout, world.gap, RULES)
    by_unit = (rows.sort("sample_id")["loss"] - world.target["loss"]).to_numpy().reshape(15, 3).mean(1)
    expected = ttest_1samp(by_unit, 0).confidence_interval(0.95)
    assert figures.difference_ci95 == pytest.approx((expected.low, expected.high), abs=1e-9)
