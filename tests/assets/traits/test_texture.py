"""Neighbourhood traits against scipy, scikit-image and plain numpy, and under planted causes."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from assets.traits.colour import luma
from assets.traits.texture import BANDS, texture_traits

SPECTRAL = ("spectral_slope", *BANDS)


def one(batch, name):
    return float(texture_traits(batch)[name][0])


def blurred(batch, sigma):
    return torch.tensor(ndimage.gaussian_filter(batch.numpy(), (0, 0, sigma, sigma)))


def noisy(batch, sigma, seed=0):
    return batch + sigma * torch.randn(batch.shape, generator=torch.Generator().manual_seed(seed))


def test_sharpness_is_the_variance_of_scipys_laplacian(scene):
    laplacian = ndimage.laplace(luma(scene)[0].numpy().astype(np.float64))[1:-1, 1:-1]
    assert one(scene, "sharpness") == pytest.approx(np.log10(laplacian.var()), abs=1e-4)


def test_blur_lowers_every_trait_of_sharpness(scene):
    for name in ("sharpness", "spectral_slope", "spectral_high"):
        values = [one(blurred(scene, sigma), name) for sigma in (0, 0.7, 1.4, 2.8)]
        assert values == sorted(values, reverse=True), name
        assert values[0] > values[-1], name
    assert one(blurred(scene, 2.8), "edge_density") < 0.1 * one(scene, "edge_density")


@pytest.mark.parametrize("sigma", [0.01, 0.03, 0.08])
def test_noise_sigma_is_the_planted_one(sigma):
    ramp = torch.linspace(0.2, 0.8, 160).expand(1, 3, 120, 160)
    assert one(noisy(ramp, sigma), "noise_sigma") == pytest.approx(sigma, rel=0.04)


def test_noise_sigma_agrees_with_donohos_haar_estimate(scene):
    picture = noisy(blurred(scene, 1), 0.05)
    detail = (picture[..., ::2, ::2] - picture[..., 1::2, ::2] - picture[..., ::2, 1::2] + picture[..., 1::2, 1::2]) / 2
    reference = np.median(np.abs(detail[0].numpy().reshape(3, -1)), axis=1).mean() / 0.6745
    assert one(picture, "noise_sigma") == pytest.approx(reference, rel=0.1)


def test_noise_raises_noise_sigma_on_a_structured_picture(scene):
    values = [one(noisy(scene, sigma), "noise_sigma") for sigma in (0, 0.01, 0.03, 0.1)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(0.1, rel=0.15)


def test_edges_leave_noise_sigma_alone():
    steps = ((torch.arange(160) // 20) % 2).float().expand(1, 3, 120, 160)
    assert one(steps, "noise_sigma") == 0
    assert one(steps, "edge_density") == pytest.approx(7 / 159, abs=1e-6)


def spectrum_reference(grey):
    """Band levels and slope from the full plane in float64, without the module's rings."""
    height, width = grey.shape
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    centred = grey - np.average(grey, weights=window)
    power = np.abs(np.fft.fft2(centred * window)) ** 2 / (window**2).sum()
    down, right = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    radius = np.hypot(down, right)
    kept = ~np.isclose(np.abs(right), 0.5) & (radius > 0)

    def mean(values, low, high):
        inside = kept & (radius > low + 1e-9) & (radius <= high + 1e-9)
        return values[inside].mean() if inside.any() else math.nan

    edges = np.geomspace(1 / 32, 0.5, 13)
    bins = list(itertools.pairwise(edges))
    level = np.array([mean(power, *pair) for pair in bins])
    frequency = np.array([mean(np.log10(np.where(radius > 0, radius, 1)), *pair) for pair in bins])
    found = np.isfinite(level)
    slope = np.polyfit(frequency[found], np.log10(level[found]), 1)[0]
    return {"spectral_slope": slope} | {name: np.log10(mean(power, *pair)) for name, pair in BANDS.items()}


@pytest.mark.parametrize("shape", [(120, 160), (33, 47), (32, 32), (64, 200)])
def test_spectrum_is_the_full_planes(shape):
    grey = ndimage.gaussian_filter(np.random.default_rng(0).random(shape), 1)
    values = texture_traits(torch.tensor(grey, dtype=torch.float32).expand(1, 3, *shape))
    for name, reference in spectrum_reference(grey).items():
        assert float(values[name][0]) == pytest.approx(reference, abs=1e-3), name


def test_white_noise_has_a_flat_spectrum_of_its_variance():
    values = texture_traits(noisy(torch.full((24, 1, 120, 160), 0.5), 0.05).expand(24, 3, 120, 160))
    assert float(values["spectral_slope"].mean()) == pytest.approx(0, abs=0.05)
    for name in BANDS:
        assert float(values[name].mean()) == pytest.approx(2 * math.log10(0.05), abs=0.02)


@pytest.mark.parametrize("slope", [-1.0, -2.0, -3.0])
def test_spectral_slope_is_the_planted_one(slope):
    rng = np.random.default_rng(0)
    radius = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])
    radius[0, 0] = 1
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(256, 256))) * radius ** (slope / 2)).real
    grey = torch.tensor(0.5 + 0.1 * field / field.std(), dtype=torch.float32).expand(1, 3, 256, 256)
    assert one(grey, "spectral_slope") == pytest.approx(slope, abs=0.15)


@pytest.mark.parametrize("factor", [1.25, 1.65, 2.0])
def test_a_stretch_moves_the_gradient_ratio_by_its_logarithm(scene, factor):
    scene = blurred(scene, 1.5)
    size = (round(scene.shape[2] * factor), scene.shape[3])
    stretched = torch.nn.functional.interpolate(scene, size=size, mode="bilinear", antialias=True)
    fell = one(scene, "gradient_ratio") - one(stretched, "gradient_ratio")
    assert fell == pytest.approx(math.log(factor), abs=0.12)


def test_gradient_ratio_turns_its_sign_with_the_picture(scene):
    assert one(scene.transpose(2, 3), "gradient_ratio") == pytest.approx(-one(scene, "gradient_ratio"), abs=1e-3)


def test_dark_channel_is_scipys_minimum_filter(scene):
    smallest = scene[0].numpy().min(axis=0)
    reference = ndimage.minimum_filter(smallest, size=15, mode="constant", cval=np.inf).mean()
    assert one(scene, "dark_channel") == pytest.approx(reference, abs=1e-5)


def test_haze_raises_the_dark_channel_by_its_airlight(scene):
    clear = one(scene, "dark_channel")
    for transmission in (0.9, 0.6, 0.3):
        hazy = scene * transmission + 0.9 * (1 - transmission)
        expected = clear * transmission + 0.9 * (1 - transmission)
        assert one(hazy, "dark_channel") == pytest.approx(expected, abs=1e-5)


def test_a_vignette_lowers_corners_to_centre(scene):
    down, right = torch.linspace(-1, 1, 120)[:, None], torch.linspace(-1, 1, 160)
    distance = (down**2 + right**2) / 2
    values = [one(scene * (1 - strength * distance), "vignette") for strength in (0.0, 0.3, 0.6)]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[2] == pytest.approx(-math.log(1 - 0.6 * 0.86), abs=0.1)


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_constant_pictures_have_no_texture(level):
    values = {name: float(value[0]) for name, value in texture_traits(torch.full((1, 3, 48, 64), level)).items()}
    assert all(math.isfinite(value) for value in values.values())
    assert values["sharpness"] == pytest.approx(-8)
    assert values["spectral_high"] == pytest.approx(-10)
    for name in ("noise_sigma", "edge_density", "gradient_ratio", "spectral_slope", "vignette"):
        assert values[name] == pytest.approx(0, abs=1e-4), name
    assert values["dark_channel"] == pytest.approx(level)


@pytest.mark.parametrize(
    ("shape", "missing"),
    [
        ((1, 1), {"sharpness", "noise_sigma", "gradient_ratio", "edge_density", *SPECTRAL}),
        ((2, 9), {"sharpness", "noise_sigma", *SPECTRAL}),
        ((3, 3), set(SPECTRAL)),
        ((31, 200), set(SPECTRAL)),
        ((32, 32), set()),
    ],
)
def test_pictures_too_small_for_a_trait_have_none(shape, missing):
    values = texture_traits(torch.rand((2, 3, *shape), generator=torch.Generator().manual_seed(0)))
    assert {name for name, value in values.items() if bool(torch.isnan(value).any())} == missing
    assert all(value.shape == (2,) for value in values.values())
