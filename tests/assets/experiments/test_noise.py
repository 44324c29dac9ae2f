"""Noise has the deviation it says and is the same for the same picture; denoising nears the picture before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from assets.experiments.noise import STRENGTH, Denoise, Noise
from assets.experiments.operators import NotApplicable
from assets.traits.measure import measure_pictures


@pytest.fixture(scope="module")
def smooth() -> torch.Tensor:
    """Pictures without noise of their own, with edges, (4, 3, 96, 128)."""
    rng = np.random.default_rng(1)
    planes = ndimage.gaussian_filter(rng.normal(size=(4, 3, 96, 128)), (0, 0, 8, 8), mode="wrap")
    values = np.clip(0.5 + 2 * planes + 0.15 * np.sign(planes[:, :1]), 0.2, 0.8)
    return torch.tensor(values, dtype=torch.float32)


def test_the_noise_is_white_of_its_deviation_and_differs_between_pictures(smooth):
    added = Noise().apply(smooth, {"sigma": 0.05}) - smooth
    assert added.std().item() == pytest.approx(0.05, rel=0.02)
    assert abs(added.mean().item()) < 0.001
    flat = added.flatten(1)
    assert torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.05
    assert abs(torch.corrcoef(torch.stack([added[..., 1:].flatten(), added[..., :-1].flatten()]))[0, 1]) < 0.02


def test_the_same_picture_gets_the_same_noise_wherever_it_stands(smooth):
    alone = Noise().apply(smooth[2:3], {"sigma": 0.1})
    assert torch.equal(Noise().apply(smooth.flip(0), {"sigma": 0.1})[1], alone[0])
    nearly = smooth[2:3].clone()
    nearly[0, 0, 5, 7] += 2 / 255
    other = Noise().apply(nearly, {"sigma": 0.1}) - nearly
    assert (other - (alone - smooth[2:3])).abs().mean() > 0.05, "another picture, another draw"


@pytest.mark.parametrize("sigma", [0.03, 0.08])
def test_denoising_takes_planted_noise_off(smooth, statistics_of, sigma):
    noisy = Noise().apply(smooth, {"sigma": sigma})
    operator = Denoise()
    found = operator.fit(statistics_of(smooth), statistics_of(noisy))
    assert found["strength"] == pytest.approx(STRENGTH * sigma, rel=0.15)
    restored = operator.apply(noisy, found)
    assert (restored - smooth).square().mean() < 0.4 * (noisy - smooth).square().mean()
    levels = [np.median(measure_pictures(batch)["noise_sigma"]) for batch in (smooth, restored, noisy)]
    assert levels[1] - levels[0] < 0.4 * (levels[2] - levels[0])


def test_edges_stay_where_noise_goes():
    step = torch.full((1, 3, 32, 32), 0.2)
    step[..., 16:] = 0.8
    restored = Denoise().apply(Noise().apply(step, {"sigma": 0.02}), {"strength": 0.05})
    assert (restored[..., 16:].mean() - restored[..., :16].mean()).item() == pytest.approx(0.6, abs=0.01)
    assert (restored[..., 16] - restored[..., 15]).mean() > 0.5


def test_a_set_with_less_noise_is_left_alone(smooth, statistics_of):
    noisy = statistics_of(Noise().apply(smooth, {"sigma": 0.05}))
    with pytest.raises(NotApplicable, match="no noise to take off"):
        Denoise().fit(noisy, statistics_of(smooth))
    with pytest.raises(NotApplicable, match="noise_sigma agrees already"):
        Denoise().fit(noisy, noisy)
