"""Shares of the gap: families valued over all coalitions, on pictures whose causes are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from assets.diagnosis.hypotheses import Hypothesis
from assets.experiments.campaign import together, unexplained
from assets.experiments.geometry import AspectCrop
from assets.experiments.operators import NotApplicable
from assets.experiments.registry import Experiment
from assets.experiments.reweight import ClassShare
from assets.experiments.shares import MOST_FAMILIES, StackLosses, attribute, group_families
from assets.experiments.verdict import Rules, gap_draws
from assets.statistics.shapley import coalitions

RULES = Rules(smallest_effect=0.05, alpha=0.05, draws=200, seed=0)
CAST = np.array([0.55, 1.0, 0.7])


@dataclass(frozen=True)
class ChannelGain:
    """Brings one channel's mean to the destination's."""

    channel: int

    def fit(self, destination, origin):
        gain = float(destination.channel_mean[self.channel] / origin.channel_mean[self.channel])
        if abs(gain - 1) < 0.05:
            raise NotApplicable("the means agree")
        return {"gain": round(gain, 3)}

    def apply(self, batch, parameters):
        scale = torch.ones(3, 1, 1)
        scale[self.channel] = parameters["gain"]
        return (batch * scale).clamp(0, 1)


class Worsen(ChannelGain):
    def fit(self, _destination, _origin):
        return {"gain": 0.5}


def tried(name: str, operator=None, imitation=None, family: str | None = None) -> Experiment:
    return Experiment(Hypothesis(name, family or name, f"the {name}", "statement", ("mean_red",)), operator, imitation)


@pytest.fixture(scope="module")
def world(lay_out, colour_model):
    """A target whose red and blue are too weak, seen by a model that reads colours."""
    return lay_out(colour_model, change=lambda picture: picture * CAST, samples=24)


@pytest.fixture(scope="module")
def gap(world):
    return gap_draws(world.campaign.sides.target, world.campaign.sides.holdout, RULES)


@pytest.fixture
def losses(world, request):
    campaign = world.campaign
    table = world.store.table(request.node.name.replace("[", "_").rstrip("]"), "recipe", id_column="row_id")
    return StackLosses(campaign, campaign.fit_sets(), table, "code")


def loss_of(world, side: str, change: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Mean loss of a side's report half by torch alone."""
    found = []
    ids = world.campaign.samples(side, report=True)["sample_id"].to_list()
    for batch in world.campaign.load(side, ids):
        logits = world.campaign.model(change(batch.reduced)).logits
        for picture, scores in zip(batch.pictures, logits, strict=True):
            at_label = torch.nn.functional.interpolate(scores[None], picture.mask.shape, mode="bilinear")
            labels = torch.from_numpy(picture.mask.astype(np.int64))[None]
            found.append(float(torch.nn.functional.cross_entropy(at_label, labels)))
    return float(np.mean(found))


def by_name(found) -> dict[str, float]:
    return {share.family: share.share for share in found.shares}


def test_two_causes_share_what_they_close_over_both_orders(world, gap, losses):
    causes = [tried("red", ChannelGain(0)), tried("blue", ChannelGain(2))]
    found = attribute(causes, [], gap, losses)
    fits = {e.id: e.operator.fit(losses.sets.reference, losses.sets.target_fit) for e in causes}
    value = {}
    for members in coalitions(["red", "blue"]):
        inside = [e for e in causes if e.id in members]

        def change(batch, inside=inside):
            for e in inside:
                batch = e.operator.apply(batch, fits[e.id])
            return batch

        value[members] = (gap.before.mean() - loss_of(world, "target", change)) / gap.value
    red, blue, both = (value[frozenset(names)] for names in (["red"], ["blue"], ["red", "blue"]))
    assert by_name(found) == pytest.approx({"red": (red + both - blue) / 2, "blue": (blue + both - red) / 2}, abs=0.005)
    assert abs(both - red - blue) > 0.02, "the two do not just add up, or this tests nothing"
    assert found.joint == pytest.approx(both, abs=0.005)
    assert sum(by_name(found).values()) == pytest.approx(found.joint)
    for share in found.shares:
        assert share.ci95[0] < share.share < share.ci95[1]


def test_two_families_that_undo_the_same_thing_share_it_evenly(gap, losses):
    found = by_name(attribute([tried("red", ChannelGain(0)), tried("twin", ChannelGain(0))], [], gap, losses))
    alone = attribute([tried("red", ChannelGain(0))], [], gap, losses).joint
    assert found["red"] == pytest.approx(found["twin"])
    assert sum(found.values()) == pytest.approx(alone)


def test_within_a_family_what_undoes_the_same_thing_counts_once(gap, losses):
    one = attribute([tried("red", ChannelGain(0))], [], gap, losses)
    both = attribute([tried("red", ChannelGain(0)), tried("again", ChannelGain(0), family="red")], [], gap, losses)
    assert both.shares[0].hypotheses == ["red", "again"]
    assert both.joint == pytest.approx(one.joint)


def test_a_family_that_harms_beside_others_does_not_join_them(gap, losses):
    alone = attribute([tried("red", ChannelGain(0))], [], gap, losses).joint
    found = attribute([tried("red", ChannelGain(0)), tried("worse", Worsen(1))], [], gap, losses)
    assert found.joint == pytest.approx(alone)
    assert by_name(found)["worse"] < 0


def test_content_is_re_weighted_in_every_coalition_that_holds_it(gap, losses):
    red, content = tried("red", ChannelGain(0)), tried("content_sky", ClassShare(1), family="content")
    alone = [attribute([cause], [], gap, losses).joint for cause in (red, content)]
    found = attribute([red, content], [], gap, losses)
    shares = by_name(found)
    # either order: what both close beyond the other's own
    assert shares["red"] - shares["content"] == pytest.approx(alone[0] - alone[1])
    assert shares["red"] + shares["content"] == pytest.approx(found.joint)


def test_what_can_only_be_imitated_is_valued_by_what_it_induces(world, gap, losses):
    causes = [tried("noise", None, ChannelGain(0)), tried("compression", None, ChannelGain(2))]
    found = attribute(causes, ["noise", "compression"], gap, losses)
    target, holdout = losses.sets.target_fit, losses.sets.holdout_fit
    fits = [e.imitation.fit(target, holdout) for e in causes]
    plain = loss_of(world, "holdout", lambda batch: batch)

    def imitated(batch):
        return causes[1].imitation.apply(causes[0].imitation.apply(batch, fits[0]), fits[1])

    induced = (loss_of(world, "holdout", imitated) - plain) / gap.value
    assert found.joint == pytest.approx(induced, abs=0.005)
    assert found.joint > 0.5
    assert all(share.share > 0 and share.ci95[0] < share.share < share.ci95[1] for share in found.shares)
    both = attribute([*causes, tried("blue", ChannelGain(2))], ["noise", "compression"], gap, losses)
    closed = attribute([tried("blue", ChannelGain(2))], [], gap, losses)
    assert both.joint == pytest.approx(found.joint + closed.joint)


def test_no_more_families_than_can_be_measured_and_the_others_are_named():
    causes = [tried(f"f{i}", ChannelGain(0)) for i in range(MOST_FAMILIES + 2)]
    families, left_out = group_families(causes, [])
    assert [family.name for family in families] == [f"f{i}" for i in range(MOST_FAMILIES)]
    assert left_out == [f"f{MOST_FAMILIES}", f"f{MOST_FAMILIES + 1}"]
    crop = tried("crop", None, AspectCrop())
    assert group_families([crop, causes[0]], ["crop"])[1] == ["crop"]


def test_a_family_is_measured_the_way_its_strongest_experiment_was_confirmed():
    blur = tried("blur", None, ChannelGain(0), family="sharpness")
    sharpen = tried("sharpen", ChannelGain(0), family="sharpness")
    for order in ([blur, sharpen], [sharpen, blur]):
        (family,), _ = group_families(order, ["blur"])
        assert family.induced == (order[0] is blur)
        assert family.experiments == order[:1]


def test_without_a_cause_there_is_nothing_to_share(gap, losses):
    found = attribute([], [], gap, losses)
    assert (found.shares, found.joint, found.ci95, found.rows()) == ([], 0.0, None, [])


def test_a_second_time_nothing_is_measured_and_what_is_left_is_unexplained(world, gap, monkeypatch):
    causes = [tried("red", ChannelGain(0)), tried("blue", ChannelGain(2))]
    table = world.store.table("again", "recipe", id_column="row_id")
    first = together(world.campaign, causes, gap, table, "code")
    version, rows = table.version(), table.keys().height
    loaded: list[str] = []
    load = type(world.campaign).load

    def counted(self, side, ids):
        loaded.extend(ids)
        return load(self, side, ids)

    monkeypatch.setattr(type(world.campaign), "load", counted)
    second = together(world.campaign, causes, gap, table, "code")
    to_fit = world.campaign.samples("target", report=False)["sample_id"].to_list()
    assert sorted(loaded) == to_fit, "what fits look at, once"
    assert table.version() == version
    assert second.attribution == first.attribution
    assert [row["family"] for row in first.attribution.rows()] == sorted(
        by_name(first.attribution), key=lambda name: -by_name(first.attribution)[name]
    )
    left = unexplained(first.attribution)
    assert left["value"] == pytest.approx(1 - sum(by_name(first.attribution).values()))
    assert left["ci95"][0] <= left["value"] <= left["ci95"][1]
    together(world.campaign, causes[:1], gap, table, "code")
    assert set(loaded) <= set(to_fit), "one of two causes was measured with them"
    assert 0 < table.keys().height < rows, "rows that nothing asks for are gone"
