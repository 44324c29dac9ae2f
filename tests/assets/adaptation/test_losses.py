"""Every formula against a reference: numpy, scipy, finite differences, another implementation, or by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from assets.adaptation.losses import (
    coral_loss,
    domain_loss,
    pixel_loss,
    reversed_gradient,
    self_information,
    swapped_amplitudes,
)
from assets.experiments.fourier import LowFrequencies
from assets.experiments.operators import SetStatistics
from resources.datasets.base import IGNORE


def test_coral_is_the_distance_of_covariances():
    rng = np.random.default_rng(0)
    source, target = rng.normal(0, 1, (2, 5, 6, 7)), rng.normal(0.3, 2, (3, 5, 6, 7))
    rows = [features.transpose(1, 0, 2, 3).reshape(5, -1) for features in (source, target)]
    expected = np.linalg.norm(np.cov(rows[0]) - np.cov(rows[1]), "fro") ** 2 / (4 * 25)
    found = coral_loss(torch.tensor(source), torch.tensor(target))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(coral_loss(torch.tensor(source), torch.tensor(source + 3))) == pytest.approx(0, abs=1e-9)


def test_a_reversed_gradient_is_the_negative_of_finite_differences():
    weight = torch.tensor([0.7, -1.2], dtype=torch.float64)

    def value(x):
        return ((x * weight) ** 2).sum()

    point = torch.tensor([0.4, 1.5], dtype=torch.float64, requires_grad=True)
    through = reversed_gradient(point, 0.25)
    assert torch.equal(through, point)
    value(through).backward()
    step = 1e-6
    for i in range(2):
        moved = [point.detach().clone() for _ in range(2)]
        moved[0][i] += step
        moved[1][i] -= step
        slope = (value(moved[0]) - value(moved[1])) / (2 * step)
        assert float(point.grad[i]) == pytest.approx(-0.25 * float(slope), rel=1e-5)


def test_self_information_sums_to_the_normalised_entropy():
    logits = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    found = self_information(logits).sum(1).numpy()
    expected = entropy(logits.softmax(1).numpy(), base=4, axis=1)
    assert found == pytest.approx(expected, rel=1e-4)
    assert self_information(torch.zeros(1, 4, 1, 1)).sum().item() == pytest.approx(1)


@pytest.mark.parametrize("beta", [0.02, 0.1])
def test_swapped_amplitudes_are_those_of_the_experiments_operator(beta):
    generator = torch.Generator().manual_seed(1)
    pictures, style = (0.3 + 0.4 * torch.rand(2, 3, 64, 96, generator=generator) for _ in range(2))
    found = swapped_amplitudes(pictures, style, beta)
    for i in range(2):
        own = style[i : i + 1]
        destination = SetStatistics(np.ones((3, 256), np.int64), None, lambda own=own: own)
        operator = LowFrequencies(beta)
        expected = operator.apply(pictures[i : i + 1], operator.fit(destination, destination))
        assert torch.allclose(found[i : i + 1], expected, atol=2e-4)
    assert torch.allclose(swapped_amplitudes(pictures, pictures, beta), pictures, atol=1e-5)


def test_the_pixel_loss_is_torchs_mean_over_labelled_pixels():
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(2))
    labels = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(3))
    labels[0, :2] = IGNORE
    expected = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE)
    assert float(pixel_loss(logits, labels)) == pytest.approx(float(expected), rel=1e-6)
    assert float(pixel_loss(logits, torch.full_like(labels, IGNORE))) == 0


def test_a_discriminator_that_knows_nothing_loses_log_two():
    scores = torch.zeros(2, 1, 3, 3)
    for source in (True, False):
        assert float(domain_loss(scores, source=source)) == pytest.approx(np.log(2))
    assert float(domain_loss(scores + 5, source=True)) < 0.01
    assert float(domain_loss(scores + 5, source=False)) > 4
