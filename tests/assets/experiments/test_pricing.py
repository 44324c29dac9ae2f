"""Prices of explained causes: true costs on drawn pictures, coalitions on arrays, what is a cause and what a remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from scipy import stats
from scipy.optimize import brentq

from assets.experiments.campaign import unexplained
from assets.experiments.operators import Window
from assets.experiments.pricing import Cause, Price, Priced, ProbedWindow, attribution, causes_of, price, root_causes
from assets.experiments.registry import load_experiments
from assets.experiments.shares import Attribution, Share, StackLosses
from assets.experiments.verdict import Rules
from assets.traits.registry import all_traits

RULES = Rules(smallest_effect=0.05, alpha=0.05, draws=200, seed=0)
CAST, DARK = (0.55, 0.7), 0.8


@pytest.fixture(scope="module")
def world(lay_out, colour_model):
    """A target whose red and blue are too weak and that is dark, seen by a model that reads colours."""
    gain = DARK * np.array([CAST[0], 1.0, CAST[1]])
    return lay_out(colour_model, change=lambda picture: picture * gain, samples=24)


@pytest.fixture(scope="module")
def experiments(world):
    return load_experiments(world.config, all_traits(world.config.class_names, []))


@pytest.fixture
def losses(world, request):
    table = world.store.table(request.node.name, "causes", id_column="row_id")
    return StackLosses(world.campaign, world.campaign.fit_sets(), table, "code")


@pytest.fixture
def cause(experiments) -> Callable[..., Cause]:
    return lambda name, *setting: Cause(experiments[name], setting)


def white_balance(batch: torch.Tensor) -> torch.Tensor:
    return (batch * torch.tensor([CAST[0], 1.0, CAST[1]])[:, None, None]).clamp(0, 1)


def darker(batch: torch.Tensor) -> torch.Tensor:
    return (batch * DARK).clamp(0, 1)


def losses_of(world, change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
    """Loss of each of the holdout's pictures by torch alone."""
    ids = [name for half in (False, True) for name in world.campaign.samples("holdout", report=half)["sample_id"]]
    found = {}
    for batch in world.campaign.load("holdout", ids):
        logits = world.campaign.model(change(batch.reduced)).logits
        for picture, scores in zip(batch.pictures, logits, strict=True):
            at_label = torch.nn.functional.interpolate(scores[None], picture.mask.shape, mode="bilinear")
            labels = torch.from_numpy(picture.mask.astype(np.int64))[None]
            found[picture.sample_id] = float(torch.nn.functional.cross_entropy(at_label, labels))
    return found


def added(world, change: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Mean loss that a change adds to the holdout."""
    return float(np.mean(list(losses_of(world, change).values())) - np.mean(list(losses_of(world, _same).values())))


def _same(batch: torch.Tensor) -> torch.Tensor:
    return batch


def test_a_planted_cause_has_its_true_cost_and_share(world, losses, cause):
    found = price([cause("white_balance", *CAST)], losses, RULES, detected=True)
    [one] = found.prices
    gap = world.campaign.sides.target["loss"].mean() - world.campaign.sides.holdout["loss"].mean()
    assert one.cost == pytest.approx(added(world, white_balance), abs=0.005)
    assert one.share == pytest.approx(one.cost / gap)
    assert one.cost_ci95[0] < one.cost < one.cost_ci95[1] and one.ci95[0] < one.share < one.ci95[1]
    assert one.verdict == "confirmed" and one.p_value == one.q_value < 0.01
    assert "done to the source it adds +" in one.reason and "of the gap [" in one.reason
    assert (found.cost, found.share) == (one.cost, one.share)


def test_an_unsure_strength_widens_the_interval_and_leaves_the_cost(world, losses, cause):
    known = cause("white_balance", *CAST)
    unsure = replace(known, plausible=tuple((1 - share * (1 - CAST[0]), 1 - share * (1 - CAST[1]))
                                            for share in (0.5, 0.8, 1.0, 1.2, 1.4)))  # fmt: skip
    [sure], [wide] = (price([one], losses, RULES, detected=True).prices for one in (known, unsure))
    assert (wide.cost, wide.share, wide.p_value) == (sure.cost, sure.share, sure.p_value)
    assert wide.cost_ci95[0] < sure.cost_ci95[0] and wide.cost_ci95[1] > sure.cost_ci95[1]
    half = torch.tensor([(1 + CAST[0]) / 2, 1.0, (1 + CAST[1]) / 2])[:, None, None]
    weakest = added(world, lambda batch: batch * half)
    assert wide.cost_ci95[0] < (weakest + sure.cost) / 2


def test_costs_of_two_causes_are_their_mean_over_both_orders_and_sum_to_what_both_do(world, losses, cause):
    causes = [cause("white_balance", *CAST), cause("exposure", 1.0, DARK)]
    found = price(causes, losses, RULES, detected=True)
    colour, light = (added(world, change) for change in (white_balance, darker))
    both = added(world, lambda batch: white_balance(darker(batch)))
    assert abs(both - colour - light) > 0.02, "the two do not just add up, or this tests nothing"
    costs = {one.experiment: one.cost for one in found.prices}
    expected = {"white_balance": (colour + both - light) / 2, "exposure": (light + both - colour) / 2}
    assert costs == pytest.approx(expected, abs=0.005)
    assert sum(costs.values()) == pytest.approx(found.cost)
    assert found.share == pytest.approx(1, abs=0.2), "what was planted is the whole gap, on other scenes"
    assert {share.family: share.hypotheses for share in found.families} == {
        "colour": ["white_balance"], "exposure": ["exposure"]}  # fmt: skip
    assert sum(share.share for share in found.families) == pytest.approx(found.share)
    assert all(share.induced for share in found.families)


def test_what_costs_nothing_is_refuted_and_takes_no_part(losses, cause):
    found = price([cause("white_balance", *CAST), cause("compression", 100.0)], losses, RULES, detected=True)
    harmful, harmless = found.prices
    assert (harmful.verdict, harmless.verdict) == ("confirmed", "refuted")
    assert "below the smallest effect" in harmless.reason
    assert found.cost == harmful.cost and [share.family for share in found.families] == ["colour"]


def test_content_costs_what_a_weighted_mean_says(world, losses, cause):
    holdout = world.campaign.sides.holdout.join(world.campaign.source_traits, on="sample_id").sort("sample_id")
    share, loss = holdout["share_sky"].to_numpy(), holdout["loss"].to_numpy()
    wanted = share.mean() + share.std() / 2
    slope = brentq(lambda s: np.average(share, weights=np.exp(s * share)) - wanted, -200, 200)
    weights = np.exp(slope * share)
    [one] = price([cause("content_sky", wanted)], losses, RULES, detected=False).prices
    assert one.cost == pytest.approx(np.average(loss, weights=weights) - loss.mean())

    found = price([cause("content_sky", wanted), cause("white_balance", *CAST)], losses, RULES, detected=False)
    changed = losses_of(world, white_balance)
    after = np.array([changed[name] for name in holdout["sample_id"]])
    together = np.average(after, weights=weights) - loss.mean()
    assert sum(one.cost for one in found.prices) == pytest.approx(together, abs=0.005)


def test_windows_lie_within_each_other():
    names = "aspect_windows", "field_of_view"
    [both] = ProbedWindow(names).windows(100, 200, {"settings": [[0.5], [0.5, 1.0]]})
    assert both == Window(50, 75, 100, 125), "the middle half, then the lower middle of that"
    [other] = ProbedWindow(names[::-1]).windows(100, 200, {"settings": [[0.5, 1.0], [0.5]]})
    assert other == both


def test_without_a_gap_there_are_costs_and_no_shares(losses, cause):
    found = price([cause("white_balance", *CAST)], losses, RULES, detected=False)
    [one] = found.prices
    assert one.verdict == "confirmed" and found.cost == one.cost > 0
    assert (one.share, one.ci95, found.share, found.ci95, found.families) == (None, None, None, None, [])
    assert "of the gap" not in one.reason


def test_a_target_without_labels_has_its_causes_priced_all_the_same(world, experiments):
    sides = world.campaign.sides
    bare = sides.target_manifest.with_columns(labelled=pl.lit(False))
    untouched = sides.target_evaluation.clear()
    campaign = replace(world.campaign, sides=replace(sides, target_manifest=bare, target_evaluation=untouched))
    assert campaign.sides.without_gap
    table = world.store.table("bare", "causes", id_column="row_id")
    causes = [Cause(experiments["white_balance"], CAST)]
    [one] = price(causes, StackLosses(campaign, campaign.fit_sets(), table, "code"), RULES, detected=False).prices
    assert one.verdict == "confirmed" and one.cost == pytest.approx(added(world, white_balance), abs=0.005)


def test_nothing_explained_costs_nothing(losses):
    assert price([], losses, RULES, detected=True) == Priced()


def test_prices_survive_their_file(losses, cause):
    causes = [cause("white_balance", *CAST), cause("exposure", 1.0, DARK)]
    found = price(causes, losses, RULES, detected=True)
    assert Priced.of_values(json.loads(json.dumps(found.as_values()))) == found
    assert Priced.of_values(json.loads(json.dumps(Priced().as_values()))) == Priced()


def test_steps_of_an_explanation_are_causes(experiments):
    [found] = causes_of(
        [{"experiment": "exposure", "setting": [1.6, 0.8], "plausible": [[1.5, 0.8], [1.7, 0.8]], "gain": 3.0}],
        experiments,
    )
    assert (found.id, found.setting, found.is_content) == ("exposure", (1.6, 0.8), False)
    assert Cause(experiments["content_sky"], (0.3,)).is_content


# --- what is a cause -------------------------------------------------------------------------------------------------


def priced_as(*costs: tuple[str, float, str]) -> Priced:
    return Priced([
        Price(name, (0.5,), cost, (cost - 0.1, cost + 0.1), None, None, 0.01, 0.01, word, "")  # type: ignore[arg-type]
        for name, cost, word in costs
    ])  # fmt: skip


def judged(name: str, closed: float | None, verdict: str = "confirmed", induced: float = 0.0) -> dict:
    return {"experiment": name, "verdict": verdict, "gap_closed": closed, "gap_induced": induced,
            "ci95": None if closed is None else (closed - 0.1, closed + 0.1)}  # fmt: skip


def test_causes_are_what_costs_and_rules_on_labels_the_costliest_first(experiments):
    priced = priced_as(("sharpness", 0.1, "confirmed"), ("noise", 0.3, "inconclusive"), ("exposure", 0.2, "confirmed"))
    tried = [judged("histogram", 0.9), judged("exposure", 0.4), judged("label_policy", 0.3), judged("noise", 0.8)]
    assert root_causes(priced, tried, experiments, 0.5) == ["exposure", "label_policy", "sharpness"]
    refused = [judged("label_policy", 0.3, "inconclusive")]
    assert root_causes(priced, refused, experiments, 0.5) == ["exposure", "sharpness"]


def test_where_nothing_explains_the_shift_experiments_decide(experiments):
    tried = [judged("histogram", 0.2), judged("sharpness", None, induced=0.6), judged("exposure", 0.9, "refuted")]
    assert root_causes(Priced(), tried, experiments, 0.5) == ["sharpness", "histogram"]
    named = priced_as(("noise", 0.3, "inconclusive"))
    assert root_causes(named, tried, experiments, 0.5) == [], "the shift is explained, and by none of these"


def test_the_gap_is_shared_out_among_priced_families_and_rules(experiments):
    families = [Share("colour", ["white_balance"], 0.5, (0.3, 0.7), True)]
    priced = Priced(cost=0.2, cost_ci95=(0.1, 0.3), share=0.5, ci95=(0.3, 0.7), families=families)
    closed = Attribution(
        [Share("colour", ["histogram"], 0.6, (0.5, 0.7), False), Share("contrast", ["contrast"], 0.1, (0, 0.2), False),
         Share("label_policy", ["label_policy"], 0.2, (0.1, 0.3), False)], 0.9, (0.7, 1.0), ["geometry"],
    )  # fmt: skip
    found = attribution(priced, closed, experiments)
    assert {share.family: share.hypotheses for share in found.shares} == {
        "colour": ["white_balance"], "label_policy": ["label_policy"]}  # fmt: skip
    assert found.joint == pytest.approx(sum(share.share for share in found.shares)) == pytest.approx(0.7)
    assert found.ci95 == pytest.approx((0.4, 1.0)) and found.left_out == ["contrast", "geometry"]
    left = unexplained(found)
    assert left["value"] == pytest.approx(0.3) and left["ci95"] == pytest.approx((0.0, 0.6))
    assert attribution(Priced(), closed, experiments) is closed


# --- by simulation ---------------------------------------------------------------------------------------------------

UNITS, PER_UNIT = 12, 4


@dataclass(frozen=True)
class Drawn:
    """Losses of a holdout under stacks as given arrays, in place of forwards; by the ids of what was done to it."""

    campaign: SimpleNamespace
    after: dict[frozenset[str], np.ndarray]

    def bring(self, side: str, stacks, *, report: bool) -> None:
        """All rows are there already."""

    def rows(self, side: str, stack, *, report: bool) -> pl.DataFrame:
        assert side == "holdout"
        own = self.campaign.sides.holdout
        loss = self.after[frozenset(step.experiment.id for step in stack.steps)]
        return own.with_columns(loss=pl.Series(loss)).filter(report_half=report).select("sample_id", "loss")


def drawn(rng: np.random.Generator, effects: dict[str, float]) -> Drawn:
    """A holdout whose loss and sky vary by unit; what is done to it adds its effect, and chance by unit."""
    count = UNITS * PER_UNIT
    units = np.repeat(np.arange(UNITS), PER_UNIT)

    def by_unit(scale: float) -> np.ndarray:
        return rng.normal(0, scale, UNITS)[units] + rng.normal(0, scale, count)

    loss = 1 + by_unit(0.2)
    frame = pl.DataFrame({"sample_id": [f"{i:03}" for i in range(count)], "unit": [f"u{u:02}" for u in units],
                          "report_half": units % 2 == 0, "loss": loss})  # fmt: skip
    traits = pl.DataFrame({"sample_id": frame["sample_id"], "share_sky": 0.4 + by_unit(0.04)})
    alone = {name: effect + by_unit(0.1) for name, effect in effects.items()}
    names = [frozenset(), *(frozenset([name]) for name in alone), frozenset(alone)]
    after = {members: loss + sum((alone[name] for name in members), np.zeros(count)) for members in names}
    sides = SimpleNamespace(holdout=frame, target=frame.with_columns(loss=pl.col("loss") + 0.5), estimated_by=None)
    return Drawn(SimpleNamespace(sides=sides, source_traits=traits), after)


@pytest.mark.parametrize("names", [("white_balance",), ("content_sky",), ("white_balance", "sharpness")])
def test_what_changes_nothing_in_expectation_is_significant_by_chance_alone(names, cause):
    """p-values of a cause are uniform; those of content, and the least of several causes', no smaller than that."""
    rng, runs, rules = np.random.default_rng(len(names)), 300, replace(RULES, draws=20)
    causes = [cause(name, *((0.42,) if name.startswith("content") else (0.9,))) for name in names]
    pictures = dict.fromkeys((name for name in names if not name.startswith("content")), 0.0)
    found = [price(causes, drawn(rng, pictures), rules, detected=True) for _ in range(runs)]
    smallest = np.array([min(one.q_value for one in priced.prices) for priced in found])
    assert (smallest <= 0.05).sum() <= stats.binom.ppf(0.999, runs, 0.05)
    alternative = "two-sided" if names == ("white_balance",) else "greater"
    assert stats.kstest(smallest, "uniform", alternative=alternative).pvalue > 0.001


def test_intervals_cover_the_true_cost(cause):
    rng, runs = np.random.default_rng(5), 200
    found = [price([cause("white_balance", 0.9, 0.9)], drawn(rng, {"white_balance": 0.1}), RULES, detected=True)
             for _ in range(runs)]  # fmt: skip
    covered = sum(one.prices[0].cost_ci95[0] <= 0.1 <= one.prices[0].cost_ci95[1] for one in found)
    assert covered >= stats.binom.ppf(0.001, runs, 0.9), "percentile intervals of twelve units are a little narrow"
    assert np.mean([one.cost for one in found if one.cost]) == pytest.approx(0.1, abs=0.01)
