"""Low-frequency amplitudes are swapped as in the paper: against a float64 reference, and what must not change."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from assets.experiments.fourier import LowFrequencies
from assets.experiments.operators import NotApplicable

BETAS = (0.02, 0.05, 0.09)


def swapped(picture: np.ndarray, amplitude: np.ndarray, beta: float) -> np.ndarray:
    """FDA as published, on the centred spectrum, one picture (3, h, w); `amplitude` (3, h, w) is not centred."""
    height, width = picture.shape[1:]
    spectrum = np.fft.fft2(picture.astype(np.float64), axes=(1, 2))
    own, phase = np.abs(spectrum), np.angle(spectrum)
    own, other = (np.fft.fftshift(values, axes=(1, 2)) for values in (own, amplitude))
    b = int(np.floor(min(height, width) * beta))
    rows, columns = (slice(c - b, c + b + 1) for c in (height // 2, width // 2))
    own[:, rows, columns] = other[:, rows, columns]
    changed = np.fft.ifft2(np.fft.ifftshift(own, axes=(1, 2)) * np.exp(1j * phase), axes=(1, 2))
    assert np.abs(changed.imag).max() < 1e-9
    return np.clip(changed.real, 0, 1)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("size", [(64, 96), (63, 85)], ids=str)
def test_it_agrees_with_the_definition(scenes, statistics_of, beta, size):
    source, target = scenes(4, seed=1, size=size), scenes(3, seed=2, size=size) * 0.6 + 0.1
    operator = LowFrequencies(beta)
    found = json.loads(json.dumps(operator.fit(statistics_of(source), statistics_of(target)), allow_nan=False))
    amplitude = np.abs(np.fft.fft2(source.numpy().astype(np.float64), axes=(2, 3))).mean(0)
    expected = np.stack([swapped(picture, amplitude, beta) for picture in target.numpy()])
    assert np.abs(operator.apply(target, found).numpy() - expected).max() < 0.002


def test_the_destinations_mean_picture_is_reached_and_fine_detail_stays(scenes, statistics_of):
    source, target = scenes(6, seed=3), scenes(6, seed=4) * torch.tensor([0.5, 0.7, 0.9])[:, None, None]
    operator = LowFrequencies(0.05)
    changed = operator.apply(target, operator.fit(statistics_of(source), statistics_of(target)))
    assert changed.mean((0, 2, 3)).numpy() == pytest.approx(source.mean((0, 2, 3)).numpy(), abs=0.01)
    fine = [torch.fft.rfft2(batch).abs()[:, :, 10:30, 10:30] for batch in (changed, target)]
    assert (fine[0] / fine[1]).log().abs().median() < 0.05, "clipping alone touches the rest"


def test_amplitudes_of_the_same_picture_change_nothing(scenes, statistics_of):
    picture = scenes(1, seed=5)
    operator = LowFrequencies(0.09)
    assert torch.allclose(operator.apply(picture, operator.fit(statistics_of(picture), None)), picture, atol=1e-4)


def test_batches_range_and_flat_pictures(scenes, statistics_of):
    source, target = scenes(3, seed=6), scenes(3, seed=7)
    operator = LowFrequencies(0.05)
    found = operator.fit(statistics_of(source), statistics_of(target))
    changed = operator.apply(target, found)
    assert changed.shape == target.shape and changed.min() >= 0 and changed.max() <= 1
    assert torch.allclose(torch.cat([operator.apply(one[None], found) for one in target]), changed, atol=1e-5)
    assert torch.isfinite(operator.apply(torch.zeros(1, 3, 64, 96), found)).all()


def test_a_window_of_the_mean_alone_is_refused(scenes, statistics_of):
    pictures = statistics_of(scenes(2, seed=8))
    with pytest.raises(NotApplicable, match=r"β = 0\.01 leaves nothing of pictures of \(64, 96\) but means"):
        LowFrequencies(0.01).fit(pictures, pictures)
