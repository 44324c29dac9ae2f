"""A blur is chosen where the target is blurred, by the whole trait vector, and refused where it is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import gaussian_blur

from assets.experiments.imitate import LARGEST_EFFECT, Blur, trait_residual
from assets.experiments.operators import NotApplicable
from assets.traits.measure import measure_pictures


@pytest.mark.parametrize("sigma", [0.7, 1.0, 1.9])
def test_the_width_is_near_the_planted_one(scenes, statistics_of, sigma):
    target = gaussian_blur(scenes(6, seed=2), [15, 15], [sigma, sigma])
    found = Blur().fit(statistics_of(target), statistics_of(scenes(6, seed=1)))
    nearest = sorted(Blur.WIDTHS, key=lambda width: abs(np.log(width / sigma)))[:2]
    assert found["sigma"] in nearest


@pytest.mark.parametrize("change", [
    lambda x: x, lambda x: x * 0.5, lambda x: (2 * x - gaussian_blur(x, [5, 5])).clamp(0, 1),
], ids=["the same", "darker", "sharper"])  # fmt: skip
def test_no_blur_where_the_target_is_not_blurred(scenes, statistics_of, change):
    target, source = change(scenes(6, seed=3)), scenes(6, seed=4)
    with pytest.raises(NotApplicable, match=r"no blur of the source comes closer .* without, .* at best"):
        Blur().fit(statistics_of(target), statistics_of(source))


def test_blurring_keeps_range_shape_and_flat_colours(scenes):
    batch = scenes(3, seed=5)
    blurred = Blur().apply(batch, {"sigma": 1.3})
    assert blurred.shape == batch.shape and blurred.dtype == torch.float32
    assert blurred.min() >= batch.min() - 1e-6 and blurred.max() <= batch.max() + 1e-6
    assert measure_pictures(blurred)["sharpness"].max() < measure_pictures(batch)["sharpness"].min()
    flat = torch.full((1, 3, 64, 96), 0.3)
    assert torch.allclose(Blur().apply(flat, {"sigma": 3.0}), flat, atol=1e-6)
    single = torch.cat([Blur().apply(batch[i : i + 1], {"sigma": 1.3}) for i in range(3)])
    assert torch.allclose(single, blurred, atol=1e-6)


def test_the_residual_is_small_within_a_law_and_grows_with_the_change(scenes, statistics_of):
    other = statistics_of(scenes(8, seed=6))
    same = scenes(8, seed=7)
    residuals = [trait_residual(change, other) for change in (same, same * 0.9, same * 0.6)]
    assert residuals[0] < residuals[1] < residuals[2]
    assert residuals[0] < 0.6


def test_the_residual_is_the_mean_of_cut_effect_sizes(scenes, statistics_of):
    pingouin = pytest.importorskip("pingouin")
    pictures, other = scenes(8, seed=8), statistics_of(scenes(9, seed=9) * 0.8)
    effects = []
    for name, values in measure_pictures(pictures).items():
        constant = np.ptp(np.concatenate([values, other.trait(name)])) == 0
        effects.append(0 if constant else abs(pingouin.compute_effsize(values, other.trait(name), eftype="hedges")))
    expected = np.minimum(effects, LARGEST_EFFECT).mean()
    # pingouin's small-sample correction is Hedges' exact one, ours the usual approximation
    assert trait_residual(pictures, other) == pytest.approx(expected, rel=0.01)
