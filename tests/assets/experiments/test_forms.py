"""Forms that causes take: against scipy, colorsys and plain formulas; nothing to see at the neutral strength."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from assets.experiments.forms import blurred, coarse, noisy, shaded, vivid

NEUTRAL = [(blurred, (0.0, 0.0)), (noisy, (0.0, 0.0)), (coarse, (1.0, 0.0)), (coarse, (1.0, 1.0)),
           (vivid, (1.0, 0.0)), (vivid, (1.0, 1.0)), (shaded, (0.0, 1.5)), (shaded, (0.0, 6.0))]  # fmt: skip
STRONG = [(blurred, (0.0, 4.0)), (noisy, (0.1, 0.3)), (coarse, (0.1, 1.0)), (vivid, (5.0, 0.5)), (shaded, (-3.0, 3.0))]


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(3, 3, 24, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("form", "setting"), NEUTRAL)
def test_nothing_to_see_at_the_neutral_strength(form, setting, pictures):
    assert torch.allclose(form(pictures, *setting), pictures, atol=1e-6)


@pytest.mark.parametrize(("form", "setting"), STRONG)
def test_values_stay_in_range_and_a_batch_is_its_pictures(form, setting, pictures):
    changed = form(pictures, *setting)
    assert changed.shape == pictures.shape and float(changed.min()) >= 0 and float(changed.max()) <= 1
    assert not torch.allclose(changed, pictures, atol=0.01)
    assert torch.allclose(changed[1:2], form(pictures[1:2], *setting), atol=1e-6)


@pytest.mark.parametrize(("down", "across"), [(1.5, 1.5), (0.0, 2.0), (2.0, 0.7)])
def test_blur_agrees_with_scipy(down, across, pictures):
    theirs = ndimage.gaussian_filter(pictures.numpy().astype(np.float64), (0, 0, down, across), mode="mirror",
                                     radius=(0, 0, math.ceil(3 * down), math.ceil(3 * across)))  # fmt: skip
    assert blurred(pictures, down, across).numpy() == pytest.approx(theirs, abs=1e-5)


def test_a_blur_wider_than_the_picture_is_cut_to_it(pictures):
    assert torch.isfinite(blurred(pictures, 40.0, 40.0)).all()


def test_noise_has_its_deviations_between_and_within_channels():
    grey = torch.full((1, 3, 200, 200), 0.5)
    added = noisy(grey, 0.02, 0.05)[0] - 0.5
    common = added.mean(0)
    assert float(common.std()) == pytest.approx(0.02, rel=0.03)
    assert float((added - common).square().sum(0).mean()) == pytest.approx(2 * 0.05**2, rel=0.03)


def test_independent_noise_is_grey_and_coloured_noise_in_a_known_proportion():
    grey = torch.full((1, 3, 300, 300), 0.5)
    added = (noisy(grey, 0.06 / math.sqrt(3), 0.06)[0] - 0.5).flatten(1)
    assert added.std(1).tolist() == pytest.approx([0.06] * 3, rel=0.03)
    assert np.abs(np.corrcoef(added.numpy()) - np.eye(3)).max() < 0.02


def test_coarse_pictures_are_blocks_or_smooth():
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    blocks = coarse(picture, 0.25, 1.0).reshape(1, 3, 8, 4, 8, 4)
    assert torch.allclose(blocks, blocks[:, :, :, :1, :, :1].expand_as(blocks))
    smooth, middle = coarse(picture, 0.25, 0.0), coarse(picture, 0.25, 0.5)
    assert torch.allclose(middle, (smooth + coarse(picture, 0.25, 1.0)) / 2, atol=1e-6)
    assert float(smooth.diff(dim=3).abs().max()) < float(coarse(picture, 0.25, 1.0).diff(dim=3).abs().max())


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.floats(0.02, 0.98)] * 3), st.floats(0, 4))
def test_saturation_about_the_largest_channel_is_that_of_hsv(colour, factor):
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    theirs = colorsys.hsv_to_rgb(hue, min(saturation * factor, 1.0), value)
    ours = vivid(torch.tensor(colour, dtype=torch.float64).reshape(1, 3, 1, 1), factor, 1.0)
    assert ours.flatten().tolist() == pytest.approx(theirs, abs=1e-5)


def test_saturation_about_luma_keeps_it(pictures):
    pale = vivid(pictures, 0.4, 0.0)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    assert torch.allclose((pale * weights).sum(1), (pictures * weights).sum(1), atol=1e-5)


@pytest.mark.parametrize("power", [1.5, 6.0])
def test_corners_have_the_gain_and_the_centre_none(power):
    white = torch.full((1, 3, 41, 61), 0.5)
    dark = shaded(white, -1.0, power)[0, 0]
    assert float(dark[0, 0]) == pytest.approx(0.5 * math.exp(-1), rel=1e-5)
    assert float(dark[20, 30]) == pytest.approx(0.5)
    assert float(shaded(white, -1.0, 6.0)[0, 0, 20, 50]) > float(shaded(white, -1.0, 1.5)[0, 0, 20, 50])
