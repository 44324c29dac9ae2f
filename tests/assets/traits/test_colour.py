"""Pixel-value traits against numpy, PIL and scikit-image, and what each must do when its cause is planted."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from skimage.color import rgb2lab

from assets.traits.colour import channel_histogram, colour_traits, lab, luma

pictures = arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 9), st.integers(1, 9)))


def one(batch, name):
    return float(colour_traits(batch)[name][0])


def test_luma_is_pillows():
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    ours = luma(torch.tensor(picture).permute(2, 0, 1)[None] / 255)[0] * 255
    np.testing.assert_allclose(ours, np.asarray(Image.fromarray(picture).convert("L")), atol=1)


def test_lab_is_scikit_images():
    levels = np.linspace(0, 1, 18, dtype=np.float32)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    colours = np.concatenate([colours, np.random.default_rng(0).random((1, 500, 3), dtype=np.float32) * 0.1], axis=1)
    ours = lab(torch.tensor(colours).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    np.testing.assert_allclose(ours, rgb2lab(colours.astype(np.float64)), atol=0.01)


def test_traits_are_what_numpy_says():
    batch = np.random.default_rng(1).random((3, 3, 31, 42)) ** 1.5
    batch[0, :, :10] = 0
    batch[1, :, :5] = 1
    values = colour_traits(torch.tensor(batch, dtype=torch.float32))
    grey = np.einsum("c,bchw->bhw", [0.299, 0.587, 0.114], batch)
    in_lab = rgb2lab(batch, channel_axis=1)
    expected = {
        "brightness": grey.mean((1, 2)),
        "contrast": grey.std((1, 2)),
        "saturation": (batch.max(1) - batch.min(1)).mean((1, 2)),
        "clipped_dark": (grey <= 5 / 255).mean((1, 2)),
        "clipped_bright": (grey >= 250 / 255).mean((1, 2)),
        "luma_p05": np.percentile(grey.reshape(3, -1), 5, axis=1, method="inverted_cdf"),
        "luma_p95": np.percentile(grey.reshape(3, -1), 95, axis=1, method="inverted_cdf"),
        "gamma_estimate": np.log2(1 / np.clip(grey, 1 / 255, 254 / 255)).mean((1, 2)),
        "colour_cast": np.sqrt(in_lab[:, 1].mean((1, 2)) ** 2 + in_lab[:, 2].mean((1, 2)) ** 2),
    }
    for channel, name in enumerate(("red", "green", "blue")):
        expected[f"mean_{name}"] = batch[:, channel].mean((1, 2))
        expected[f"std_{name}"] = batch[:, channel].std((1, 2))
    for channel, name in enumerate("lab"):
        expected[f"lab_{name}_mean"] = in_lab[:, channel].mean((1, 2))
        expected[f"lab_{name}_std"] = in_lab[:, channel].std((1, 2))
    assert values.keys() == expected.keys()
    for name, reference in expected.items():
        np.testing.assert_allclose(values[name], reference, rtol=1e-4, atol=1e-4, err_msg=name)


@given(power=st.floats(0.3, 3))
@settings(max_examples=25, deadline=None)
def test_a_planted_gamma_multiplies_the_estimate(power):
    grey = torch.linspace(0.2, 0.9, 600).reshape(1, 1, 20, 30).expand(1, 3, 20, 30)
    assert one(grey**power, "gamma_estimate") == pytest.approx(power * one(grey, "gamma_estimate"), rel=1e-4)


def test_mid_grey_has_gamma_one():
    assert one(torch.full((1, 3, 8, 8), 0.5), "gamma_estimate") == pytest.approx(1, abs=1e-5)


def test_fading_colours_lowers_saturation_in_proportion(scene):
    grey = luma(scene)[:, None]
    faded = grey + 0.25 * (scene - grey)
    assert one(faded, "saturation") == pytest.approx(0.25 * one(scene, "saturation"), rel=1e-4)
    assert one(faded, "brightness") == pytest.approx(one(scene, "brightness"), rel=1e-4)


def test_a_tint_is_a_cast_and_grey_is_none():
    grey = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0)).expand(1, 3, 20, 20)
    warm = grey * torch.tensor([1.0, 0.9, 0.7])[:, None, None]
    assert one(grey, "colour_cast") == pytest.approx(0, abs=0.05)
    assert one(warm, "colour_cast") > 5
    assert one(warm, "lab_b_mean") > 5


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_constant_and_single_pixel_pictures_are_finite(level):
    for shape in ((1, 3, 1, 1), (1, 3, 7, 1), (2, 3, 33, 40)):
        values = colour_traits(torch.full(shape, level))
        assert all(bool(torch.isfinite(value).all()) for value in values.values())
        assert float(values["contrast"][0]) == pytest.approx(0, abs=1e-6)


def test_values_outside_the_range_stay_finite():
    values = colour_traits(torch.linspace(-0.3, 1.4, 300).reshape(1, 3, 10, 10))
    assert all(math.isfinite(float(value[0])) for value in values.values())


@given(picture=pictures)
@settings(max_examples=50, deadline=None)
def test_the_histogram_gives_channel_means_and_deviations(picture):
    histogram = channel_histogram(torch.tensor(picture) / 255)
    assert histogram.dtype == torch.int32
    counts = histogram.numpy().astype(np.float64)
    pixels = picture.shape[2] * picture.shape[3]
    assert (counts.sum(-1) == pixels).all()
    levels = np.arange(256)
    mean = counts @ levels / pixels
    square = counts @ levels**2 / pixels
    np.testing.assert_array_equal(counts @ levels, picture.sum((2, 3), dtype=np.int64))
    np.testing.assert_allclose(np.sqrt(np.maximum(square - mean**2, 0)), picture.std((2, 3)), atol=1e-5)


def test_histograms_of_parts_add_up_and_count_each_level():
    picture = np.random.default_rng(5).integers(0, 256, (4, 3, 12, 15), dtype=np.uint8)
    histogram = channel_histogram(torch.tensor(picture) / 255)
    for channel in range(3):
        counts = np.bincount(picture[:, channel].ravel(), minlength=256)
        np.testing.assert_array_equal(histogram.sum(0)[channel], counts)


def test_histogram_clips_what_lies_outside():
    histogram = channel_histogram(torch.tensor([-0.5, 1.5]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2))
    assert histogram[0, :, 0].tolist() == histogram[0, :, 255].tolist() == [1, 1, 1]
