"""Normalisations recover a planted inverse between two sets, and leave equal sets alone."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import lab2rgb, rgb2lab
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


UNCHANGED = [normalise.ChannelStatistics(), normalise.HistogramMatching(), normalise.Exposure(), normalise.Lab()]


@pytest.mark.parametrize("operator", UNCHANGED, ids=ids)
def test_between_equal_sets_nothing_changes(scenes, statistics_of, operator):
    pictures = scenes(4, seed=11)
    same = statistics_of(pictures)
    mapped = operator.apply(pictures, operator.fit(same, same))
    # linear interpolation between grey levels is all that may remain
    assert (mapped - pictures).abs().max() < LEVEL


def test_equally_sharp_sets_are_left_alone(scenes, statistics_of):
    same = statistics_of(scenes(4, seed=11))
    with pytest.raises(NotApplicable, match="sharpness agrees already"):
        normalise.Sharpness().fit(same, same)


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


# --- tints -----------------------------------------------------------------------------------------------------------

TINTS = [normalise.Lab(), normalise.LabPerImage(), normalise.WhiteBalance(), normalise.WhiteBalancePerImage(),
         normalise.ExposurePerImage()]  # fmt: skip


def as_arrays(batch: torch.Tensor) -> np.ndarray:
    return batch.permute(0, 2, 3, 1).numpy().astype(np.float64)


def test_lab_agrees_with_scikit_image(scenes, statistics_of):
    source, target = scenes(4, seed=20), scenes(4, seed=21) * 0.7 + 0.1
    operator = normalise.Lab()
    found = operator.fit(statistics_of(source), statistics_of(target))
    there, here = (rgb2lab(as_arrays(batch)).reshape(-1, 3) for batch in (source, target))
    assert found["mean"] == pytest.approx(there.mean(0), abs=0.02)
    assert found["own_std"] == pytest.approx(here.std(0), rel=0.01)
    moved = (rgb2lab(as_arrays(target)) - here.mean(0)) / here.std(0) * there.std(0) + there.mean(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # colours outside of sRGB, which are clipped
        expected = lab2rgb(moved)
    assert np.abs(as_arrays(operator.apply(target, found)) - expected).max() < 0.5 * LEVEL


def test_lab_per_image_agrees_with_scikit_image(scenes, statistics_of):
    source, target = scenes(3, seed=22), scenes(3, seed=23) * torch.tensor([0.5, 0.7, 0.9])[:, None, None, None]
    operator = normalise.LabPerImage()
    found = operator.fit(statistics_of(source), statistics_of(target))
    pictures = rgb2lab(as_arrays(source))
    assert found["mean"] == pytest.approx(pictures.mean((0, 1, 2)), abs=0.02)
    assert found["std"] == pytest.approx(pictures.std((1, 2)).mean(0), rel=0.01)
    lab = rgb2lab(as_arrays(target))
    moved = (lab - lab.mean((1, 2), keepdims=True)) / lab.std((1, 2), keepdims=True) * found["std"] + found["mean"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = lab2rgb(moved)
    assert np.abs(as_arrays(operator.apply(target, found)) - expected).max() < 0.5 * LEVEL


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_lab_with_equal_moments_is_the_identity(seed):
    values = torch.rand((1, 3, 24, 32), generator=torch.Generator().manual_seed(seed))
    moments = {"mean": [50.0, 0, 0], "std": [20.0] * 3, "own_mean": [50.0, 0, 0], "own_std": [20.0] * 3}
    assert torch.allclose(normalise.Lab().apply(values, moments), values, atol=1e-3)


@pytest.mark.parametrize("gain", [(1.2, 1.0, 0.7), (0.8, 1.0, 1.1)])
def test_white_balance_takes_a_planted_tint_off(scenes, statistics_of, gain):
    source = scenes(8, seed=24) * 0.8
    target = source * torch.tensor(gain)[:, None, None]
    operator = normalise.WhiteBalance()
    wanted, present = statistics_of(source), statistics_of(target)
    found = np.array(operator.fit(wanted, present)["gain"])
    assert found[0] / found[1] == pytest.approx(1 / gain[0], rel=0.02)
    assert found[2] / found[1] == pytest.approx(1 / gain[2], rel=0.02)
    after = measure_pictures(operator.apply(target, operator.fit(wanted, present)))
    assert after["brightness"].mean() == pytest.approx(present.trait("brightness").mean(), rel=0.02)
    tint = [np.hypot(*(side[name].mean() - wanted.trait(name).mean() for name in ("lab_a_mean", "lab_b_mean")))
            for side in (after, present.traits)]  # fmt: skip
    assert tint[0] < 0.15 * tint[1]


def test_one_tint_leaves_nothing_to_balance(scenes, statistics_of):
    source = scenes(4, seed=25)
    with pytest.raises(NotApplicable, match=r"mean colours agree \(gains of red 1\.00\d and blue 1\.00\d\)"):
        normalise.WhiteBalance().fit(statistics_of(source), statistics_of(source * 0.6))


def test_white_balance_per_image_takes_off_what_differs_from_picture_to_picture(scenes, statistics_of):
    source = scenes(6, seed=26) * 0.7
    gains = torch.ones(6, 3, 1, 1)
    gains[:, 0, 0, 0], gains[:, 2, 0, 0] = torch.linspace(0.7, 1.4, 6), torch.linspace(1.3, 0.8, 6)
    operator = normalise.WhiteBalancePerImage()
    balanced = operator.apply(source * gains, operator.fit(statistics_of(source), statistics_of(source * gains)))
    ratios = [
        (batch.mean((2, 3))[:, [0, 2]] / batch.mean((2, 3))[:, 1:2]).std(0) for batch in (balanced, source * gains)
    ]
    assert (ratios[0] < 0.15 * ratios[1]).all()
    luma = [0.299 * b[:, 0] + 0.587 * b[:, 1] + 0.114 * b[:, 2] for b in (balanced, source * gains)]
    assert luma[0].mean((1, 2)).numpy() == pytest.approx(luma[1].mean((1, 2)).numpy(), rel=0.02)


def test_exposure_per_image_gives_every_picture_the_sources_gamma(scenes, statistics_of):
    source = scenes(6, seed=27).clamp(0.05, 0.95)
    target = source ** torch.linspace(0.6, 1.8, 6)[:, None, None, None]
    operator = normalise.ExposurePerImage()
    wanted = statistics_of(source)
    after = measure_pictures(operator.apply(target, operator.fit(wanted, statistics_of(target))))["gamma_estimate"]
    assert after == pytest.approx(np.full(6, np.median(wanted.trait("gamma_estimate"))), rel=0.03)


@pytest.mark.parametrize("operator", TINTS, ids=ids)
def test_tints_keep_the_contract_of_maps(scenes, statistics_of, operator):
    source, target = scenes(4, seed=28), scenes(4, seed=29) * torch.tensor([0.9, 0.7, 0.5])[:, None, None]
    found = operator.fit(statistics_of(source), statistics_of(target))
    before = target.clone()
    mapped = operator.apply(target, json.loads(json.dumps(found, allow_nan=False)))
    assert mapped.shape == target.shape and mapped.dtype == torch.float32
    assert mapped.min() >= 0 and mapped.max() <= 1
    assert torch.equal(target, before), "the input was changed in place"
    single = torch.cat([operator.apply(target[i : i + 1], found) for i in range(4)])
    assert torch.allclose(mapped, single, atol=1e-5)
    for flat in (torch.zeros(1, 3, 40, 40), torch.ones(1, 3, 40, 40)):
        assert torch.isfinite(operator.apply(flat, found)).all()
