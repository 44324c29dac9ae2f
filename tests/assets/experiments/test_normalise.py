"""Normalisations recover a planted inverse between two sets, and leave equal sets alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.exposure import match_histograms
from torchvision.transforms.functional import gaussian_blur

from assets.experiments import normalise
from assets.experiments.operators import NotApplicable, PictureOperator
from assets.traits.measure import measure_pictures

EVERY = [
    normalise.ChannelStatistics(),
    normalise.ChannelStatisticsPerImage(),
    normalise.HistogramMatching(),
    normalise.Exposure(),
    normalise.Sharpness(),
]
LEVEL = 1 / 255


def ids(operator: PictureOperator) -> str:
    return type(operator).__name__


def in_8_bits(batch: torch.Tensor) -> torch.Tensor:
    return (batch * 255).round() / 255


def test_channel_statistics_undo_an_affine_change(scenes, statistics_of):
    source = in_8_bits(scenes(6, seed=1))
    gain = torch.tensor([0.6, 0.8, 0.5])[:, None, None]
    offset = torch.tensor([0.2, 0.05, 0.3])[:, None, None]
    target = source * gain + offset
    operator = normalise.ChannelStatistics()
    found = operator.fit(statistics_of(source), statistics_of(target))
    assert found["gain"] == pytest.approx([1 / 0.6, 1 / 0.8, 1 / 0.5], rel=0.01)
    assert found["offset"] == pytest.approx([-0.2 / 0.6, -0.05 / 0.8, -0.3 / 0.5], abs=0.01)
    assert (operator.apply(target, found) - source).abs().max() < 3 * LEVEL


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(0.4, 1.0), offset=st.floats(0.0, 0.2), seed=st.integers(0, 50))
def test_channel_statistics_give_the_destinations_moments(scenes, statistics_of, gain, offset, seed):
    source, target = scenes(2, seed=seed, size=(32, 48)), scenes(2, seed=seed + 100, size=(32, 48)) * gain + offset
    operator = normalise.ChannelStatistics()
    wanted, present = statistics_of(source), statistics_of(target)
    found = operator.fit(wanted, present)
    # before clipping, the moments are exactly the destination's
    mapped = present.channel_mean * found["gain"] + found["offset"]
    assert mapped == pytest.approx(wanted.channel_mean, abs=1e-5)
    assert present.channel_std * found["gain"] == pytest.approx(wanted.channel_std, abs=1e-5)


def test_per_image_statistics_undo_what_differs_from_picture_to_picture(scenes, statistics_of):
    source = scenes(8, seed=2)
    gains = torch.linspace(0.5, 0.9, 8)[:, None, None, None]
    target = source * gains + 0.1 * (1 - gains)
    operator = normalise.ChannelStatisticsPerImage()
    wanted = statistics_of(source)
    mapped = operator.apply(target, operator.fit(wanted, statistics_of(target)))
    for index, channel in enumerate(("red", "green", "blue")):
        moments = mapped[:, index].flatten(1)
        assert moments.mean(1).numpy() == pytest.approx(np.full(8, wanted.trait(f"mean_{channel}").mean()), abs=5e-3)
        assert moments.std(1).numpy() == pytest.approx(np.full(8, wanted.trait(f"std_{channel}").mean()), abs=5e-3)
    whole_set = normalise.ChannelStatistics()
    one_map = whole_set.apply(target, whole_set.fit(wanted, statistics_of(target)))
    assert (mapped - source).abs().mean() < 0.5 * (one_map - source).abs().mean()


@pytest.mark.parametrize("curve", [lambda x: x**1.3, lambda x: 0.1 + 0.8 * x, lambda x: x**0.8])
def test_histogram_matching_agrees_with_scikit_image_within_a_grey_level(statistics_of, curve):
    rng = np.random.default_rng(3)
    source = in_8_bits(torch.tensor(rng.beta(2, 3, (1, 3, 200, 300)), dtype=torch.float32))
    target = in_8_bits(torch.tensor(curve(rng.beta(3, 2, (1, 3, 200, 300))), dtype=torch.float32))
    operator = normalise.HistogramMatching()
    mapped = operator.apply(target, operator.fit(statistics_of(source), statistics_of(target)))
    levels = [(batch[0].permute(1, 2, 0) * 255).round().numpy() for batch in (target, source)]
    difference = np.abs(mapped[0].permute(1, 2, 0).numpy() * 255 - match_histograms(*levels, channel_axis=-1))
    # scikit-image ranks a grey level by its end, not its middle: they differ by half a level's mass, more in the tails
    assert np.quantile(difference, 0.95) <= 1.0
    assert difference.mean() < 0.6


def test_histogram_matching_undoes_a_monotone_curve(scenes, statistics_of):
    source = in_8_bits(scenes(4, seed=5))
    target = in_8_bits(source**1.8 * 0.9)
    operator = normalise.HistogramMatching()
    mapped = operator.apply(target, operator.fit(statistics_of(source), statistics_of(target)))
    assert (mapped - source).abs().max() < 4 * LEVEL
    assert (mapped - source).abs().mean() < LEVEL


@pytest.mark.parametrize(("gamma", "gain"), [(2.0, 0.9), (0.6, 0.8), (1.0, 0.5)])
def test_exposure_recovers_gamma_and_gain(scenes, statistics_of, gamma, gain):
    source = scenes(6, seed=6).clamp(0.03, 0.97)
    target = gain * source**gamma
    operator = normalise.Exposure()
    found = operator.fit(statistics_of(source), statistics_of(target))
    assert found["gamma"] == pytest.approx(1 / gamma, rel=0.05)
    assert found["gain"] == pytest.approx(gain ** (-1 / gamma), rel=0.05)
    assert (operator.apply(target, found) - source).abs().max() < 0.03


def test_exposure_says_why_it_does_not_apply(statistics_of):
    black = torch.linspace(0, 0.01, 96).expand(2, 3, 64, 96)
    other = torch.linspace(0, 1, 96).expand(2, 3, 64, 96)
    with pytest.raises(NotApplicable, match="no tonal range"):
        normalise.Exposure().fit(statistics_of(other), statistics_of(black))


@pytest.mark.parametrize("sigma", [0.5, 0.7])
def test_sharpness_brings_blurred_pictures_to_the_sources_median(scenes, statistics_of, sigma):
    source = scenes(6, seed=7)
    target = gaussian_blur(scenes(6, seed=8), [7, 7], [sigma, sigma])
    operator = normalise.Sharpness()
    wanted, present = statistics_of(source), statistics_of(target)
    found = operator.fit(wanted, present)
    assert found["amount"] > 0.3
    reached = np.median(measure_pictures(operator.apply(target, found))["sharpness"])
    before, aim = np.median(present.trait("sharpness")), np.median(wanted.trait("sharpness"))
    assert abs(reached - aim) < 0.05 * abs(before - aim)


def test_sharpness_softens_what_is_too_sharp(scenes, statistics_of):
    source = gaussian_blur(scenes(5, seed=9), [5, 5], [0.8, 0.8])
    operator = normalise.Sharpness()
    wanted, present = statistics_of(source), statistics_of(scenes(5, seed=10))
    found = operator.fit(wanted, present)
    assert found["amount"] < 0
    reached = np.median(measure_pictures(operator.apply(present.pictures, found))["sharpness"])
    aim = np.median(wanted.trait("sharpness"))
    assert abs(reached - aim) < 0.5 * abs(np.median(present.trait("sharpness")) - aim)


@pytest.mark.parametrize("operator", [op for op in EVERY if not isinstance(op, normalise.ChannelStatisticsPerImage)],
                         ids=ids)  # fmt: skip
def test_between_equal_sets_nothing_changes(scenes, statistics_of, operator):
    pictures = scenes(4, seed=11)
    same = statistics_of(pictures)
    mapped = operator.apply(pictures, operator.fit(same, same))
    # linear interpolation between grey levels and the search's tolerance are all that may remain
    assert (mapped - pictures).abs().max() < (0.02 if isinstance(operator, normalise.Sharpness) else LEVEL)


def test_per_image_statistics_change_nothing_where_every_picture_has_the_mean_moments(scenes, statistics_of):
    picture = scenes(1, seed=11)
    mirrored = torch.cat([picture, picture.flip(3), picture.flip(2)])
    operator = normalise.ChannelStatisticsPerImage()
    mapped = operator.apply(mirrored, operator.fit(statistics_of(mirrored), statistics_of(scenes(2, seed=1))))
    assert (mapped - mirrored).abs().max() < LEVEL


@pytest.mark.parametrize("operator", EVERY, ids=ids)
def test_output_is_float32_in_0_to_1_and_a_batch_equals_its_pictures(scenes, statistics_of, operator):
    source, target = scenes(4, seed=12), (scenes(4, seed=13) * 1.6 - 0.2).clamp(0, 1)
    found = operator.fit(statistics_of(source), statistics_of(target))
    before = target.clone()
    mapped = operator.apply(target, found)
    assert mapped.dtype == torch.float32
    assert mapped.shape == target.shape
    assert mapped.min() >= 0 and mapped.max() <= 1
    assert torch.equal(target, before), "the input was changed in place"
    single = torch.cat([operator.apply(target[i : i + 1], found) for i in range(4)])
    assert torch.allclose(mapped, single, atol=1e-6)


@pytest.mark.parametrize("operator", EVERY, ids=ids)
def test_parameters_survive_json(scenes, statistics_of, operator):
    source, target = scenes(3, seed=14), scenes(3, seed=15) * 0.6
    found = operator.fit(statistics_of(source), statistics_of(target))
    stored = json.loads(json.dumps(found, allow_nan=False))
    assert torch.equal(operator.apply(target, stored), operator.apply(target, found))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), low=st.floats(0, 0.5), high=st.floats(0.5, 1))
def test_histogram_tables_never_fall(scenes, statistics_of, seed, low, high):
    source = scenes(1, seed=seed, size=(32, 48))
    target = source * (high - low) + low
    found = normalise.HistogramMatching().fit(statistics_of(source), statistics_of(target))
    assert all((np.diff(table) >= 0).all() for table in found["table"])
    assert all(table[0] >= 0 and table[-1] <= 1 for table in found["table"])
