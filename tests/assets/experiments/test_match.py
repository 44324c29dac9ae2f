"""Graded operators move their trait one way from a neutral point, and the matcher finds the θ that was planted."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.experiments.imitate import Blur, LowResolution
from assets.experiments.jpeg import Deblock, Jpeg
from assets.experiments.match import TOLERANCE, Graded, Matched, bare, measure_of, medians, search
from assets.experiments.noise import Denoise, Noise
from assets.experiments.normalise import Contrast, Exposure, Haze, Saturation, Vignette
from assets.experiments.operators import NotApplicable, PictureOperator
from assets.traits.measure import PICTURE_TRAITS, measure_pictures

LEVEL = 1 / 255


class Gain:
    """x → θ·x, clipped at white: the plainest operator with one parameter."""

    bounds = (0.2, 5.0)
    neutral = 1.0

    def at(self, theta):
        return {"gain": theta}

    def apply(self, batch, parameters):
        return (batch * parameters["gain"]).clamp(0, 1)


# operator, its trait, θ in the order in which the trait rises
RISING = [
    (Gain(), "brightness", (0.3, 0.6, 1.0, 1.2, 1.6)),
    (Contrast(), "contrast", (0.2, 0.6, 1.0, 1.4, 2.0)),
    (Saturation(), "saturation", (0.0, 0.5, 1.0, 1.5, 2.5)),
    (Haze(), "dark_channel", (2.0, 1.5, 1.0, 0.8, 0.5, 0.3)),
    (Vignette(), "vignette", (-1.0, -0.3, 0.0, 0.3, 1.0)),
    (Blur(), "sharpness", (3.0, 2.0, 1.0, 0.6, 0.0)),
    (LowResolution(), "sharpness", (0.1, 0.25, 0.5, 0.8, 1.0)),
    (Noise(), "noise_sigma", (0.0, 0.02, 0.05, 0.1, 0.2)),
    (Denoise(), "noise_sigma", (0.3, 0.1, 0.05, 0.02, 0.0)),
    (Jpeg(), "noise_sigma", (10, 30, 60, 100)),
    (Deblock(), "noise_sigma", (10, 30, 60, 100)),
]
# what a match should find again
PLANTED = [
    (Gain(), "brightness", 0.7), (Contrast(), "contrast", 0.6), (Saturation(), "saturation", 0.4),
    (Haze(), "dark_channel", 0.6), (Vignette(), "vignette", -0.7), (Blur(), "sharpness", 1.3),
    (LowResolution(), "sharpness", 0.5), (Noise(), "noise_sigma", 0.1),
]  # fmt: skip
# the planted ones with an inverse: what takes the trait back
INVERTIBLE = [case for case in PLANTED if type(case[0]) in (Gain, Contrast, Saturation, Haze, Vignette)]


def named(value: object) -> str:
    return type(value).__name__ if isinstance(value, Graded) else ""


@pytest.mark.parametrize(("operator", "trait", "thetas"), RISING, ids=named)
def test_the_trait_rises_with_the_parameter(scenes, operator, trait, thetas):
    measure = measure_of(trait)
    pictures = scenes(4, seed=1).clamp(0.05, 0.95)
    levels = [np.median(measure(operator.apply(pictures, operator.at(theta)))) for theta in thetas]
    assert all(np.diff(levels) > 0), levels
    assert operator.bounds[0] <= min(thetas) and max(thetas) <= operator.bounds[1]


@pytest.mark.parametrize("operator", [case[0] for case in RISING], ids=named)
def test_neutral_changes_nothing(scenes, operator):
    pictures = Blur().apply(scenes(3, seed=2), {"sigma": 1.0})
    difference = (operator.apply(pictures, operator.at(operator.neutral)) - pictures).abs()
    # the best quality of JPEG still rounds to grey levels and halves the resolution of colours
    assert difference.mean() < {Jpeg: 3 * LEVEL, Deblock: LEVEL}.get(type(operator), 1e-6)


@pytest.mark.parametrize("operator", [case[0] for case in RISING], ids=named)
@pytest.mark.parametrize("size", [(64, 96), (61, 83)], ids=str)
def test_results_are_pictures_and_do_not_hang_on_the_batch(scenes, operator, size):
    pictures = scenes(3, seed=3, size=size)
    before = pictures.clone()
    for theta in operator.bounds:
        parameters = json.loads(json.dumps(operator.at(theta), allow_nan=False))
        changed = operator.apply(pictures, parameters)
        assert changed.shape == pictures.shape and changed.dtype == torch.float32
        assert changed.min() >= 0 and changed.max() <= 1
        single = torch.cat([operator.apply(pictures[i : i + 1], parameters) for i in range(3)])
        # a value between two steps of a quantisation may fall to either side
        close = (single - changed).abs() < 1e-5
        assert close.float().mean() > 0.999 if isinstance(operator, Jpeg | Deblock) else close.all()
    assert torch.equal(pictures, before), "the input was changed in place"


@pytest.mark.parametrize(("operator", "trait", "theta"), PLANTED, ids=named)
def test_a_match_finds_what_was_planted(scenes, statistics_of, operator, trait, theta):
    source = scenes(10, seed=4)
    target = operator.apply(source, operator.at(theta))
    found = Matched(operator, trait).fit(statistics_of(target), statistics_of(source))
    key = next(iter(found))
    planted, neutral = operator.at(theta)[key], operator.at(operator.neutral)[key]
    # resolution blurs in steps: whole ratios of rows more than those beside them
    share = 0.2 if isinstance(operator, LowResolution) else 0.05
    assert np.abs(np.subtract(found[key], planted)).max() < share * np.abs(np.subtract(planted, neutral)).max() + 0.01


@pytest.mark.parametrize(("operator", "trait", "theta"), INVERTIBLE, ids=named)
def test_normalising_brings_the_trait_back(scenes, statistics_of, operator, trait, theta):
    source, other = scenes(12, seed=5), scenes(12, seed=6)
    target = operator.apply(other, operator.at(theta))
    wanted, present = statistics_of(source), statistics_of(target)
    matched = Matched(operator, trait)
    after = measure_pictures(matched.apply(target, matched.fit(wanted, present)))[trait]
    before = abs(np.median(present.trait(trait)) - np.median(wanted.trait(trait)))
    assert abs(np.median(after) - np.median(wanted.trait(trait))) < 0.1 * before


def test_few_pictures_tell_the_change_of_many(scenes, statistics_of):
    """The set's median is known from all samples: the few pictures at hand may lie off it."""
    operator, source = Gain(), scenes(40, seed=7)
    source = source * torch.linspace(0.5, 1, 40)[:, None, None, None]
    target = operator.apply(source, operator.at(0.85))
    order = torch.argsort(-source.mean((1, 2, 3)))[:16]
    few = statistics_of(source[order])
    shifted = few.traits["brightness"].median() - statistics_of(source).traits["brightness"].median()
    assert shifted > 0.02, "the few pictures are brighter than the set"
    origin = replace(statistics_of(source), load_pictures=lambda: source[order])
    found = Matched(operator, "brightness").fit(statistics_of(target), origin)["gain"]
    unpaired = 0.85 * origin.traits["brightness"].median() / few.traits["brightness"].median()
    assert abs(found - 0.85) < 0.3 * abs(unpaired - 0.85)


def test_sets_that_agree_are_left_alone(scenes, statistics_of):
    pictures = scenes(8, seed=8)
    with pytest.raises(NotApplicable, match=r"contrast agrees already: 0\.\d+ against 0\.\d+"):
        Matched(Contrast(), "contrast").fit(statistics_of(pictures), statistics_of(pictures))


def test_what_is_out_of_reach_is_said_with_its_numbers(scenes, statistics_of):
    sharp, soft = scenes(6, seed=9), Blur().apply(scenes(6, seed=10), {"sigma": 1.0})
    with pytest.raises(NotApplicable, match=r"no LowResolution between 0.1 and 1 takes sharpness closer to -?\d"):
        Matched(LowResolution(), "sharpness").fit(statistics_of(sharp), statistics_of(soft))
    with pytest.raises(NotApplicable, match="lacking is not measured in both sets"):
        Matched(Gain(), "lacking").fit(statistics_of(sharp), statistics_of(soft))


def test_a_bound_is_taken_where_even_that_is_too_little(scenes, statistics_of):
    pictures = scenes(6, seed=11)
    found = Matched(Gain(), "brightness").fit(statistics_of(pictures * 0.02), statistics_of(pictures))
    assert found == {"gain": Gain.bounds[0]}


def test_a_trait_of_ones_own_is_matched_with_its_measure(scenes, statistics_of):
    def redness(batch):
        return batch[:, 0].amax((1, 2)).numpy().astype(float)

    source = scenes(6, seed=12) * 0.9
    known = statistics_of(source, redness=redness(source)), statistics_of(source * 0.5, redness=redness(source * 0.5))
    found = Matched(Gain(), "redness", redness).fit(known[1], known[0])
    assert found["gain"] == pytest.approx(0.5, abs=0.02)
    with pytest.raises(NotApplicable, match="redness can't be measured on changed pictures"):
        Matched(Gain(), "redness").fit(known[1], known[0])


def test_a_match_is_a_picture_operator_whose_map_is_the_graded_ones():
    matched = Matched(Haze(), "dark_channel")
    assert isinstance(matched, PictureOperator) and isinstance(matched.operator, Graded)
    assert bare(matched) is matched.operator
    exposure = Exposure()
    assert bare(exposure) is exposure


@pytest.mark.parametrize("trait", PICTURE_TRAITS)
def test_one_trait_is_measured_as_all_are(scenes, trait):
    pictures = scenes(3, seed=13)
    assert measure_of(trait)(pictures) == pytest.approx(measure_pictures(pictures)[trait], rel=1e-5, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(slope=st.floats(-3, 3).filter(lambda s: abs(s) > 0.05), bend=st.floats(0.3, 3), wanted=st.floats(-5, 5),
       neutral=st.sampled_from([-2.0, 0.0, 0.7, 3.0]))  # fmt: skip
def test_a_search_of_a_monotone_change_ends_at_its_root_or_at_the_bound(slope, bend, wanted, neutral):
    bounds = (-2.0, 3.0)

    def change(theta: float) -> float:
        away = theta - neutral
        return slope * math.copysign(abs(away) ** bend, away)

    theta = search(change, wanted, bounds, neutral)
    reachable = sorted(change(bound) for bound in bounds)
    if theta is None:
        within = abs(slope) * (2 * TOLERANCE * (bounds[1] - bounds[0])) ** bend  # reached nearer than a search looks
        reached = min(reachable) < wanted < 0 or 0 < wanted < max(reachable)
        assert not reached or abs(wanted) <= max(within, 0.01)
        return
    assert bounds[0] <= theta <= bounds[1]
    assert change(theta) * wanted > 0
    assert abs(change(theta) - wanted) < abs(wanted)
    if reachable[0] < wanted < reachable[1]:
        near = [change(theta + step) for step in (-0.3, 0.3)]
        assert min(near) <= wanted <= max(near)
    else:
        assert theta in bounds


def test_medians_of_constant_sets(statistics_of, scenes):
    pictures = scenes(2, seed=14)
    one, other = (statistics_of(pictures, fixed=np.full(2, value)) for value in (1.0, 2.0))
    assert medians(one, other, "fixed") == (1.0, 2.0)
    with pytest.raises(NotApplicable, match="agrees already"):
        medians(one, one, "fixed")
