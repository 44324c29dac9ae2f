"""Batch norm by its formula, class shares by a known shift, TENT by what its guard lets pass."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from assets.adaptation import statistics
from assets.adaptation.material import material_of
from assets.adaptation.networks import trainable_copy
from assets.adaptation.statistics import (
    PRIOR_PICTURES,
    Tent,
    corrected_prior,
    estimated_prior,
    reestimated,
    sampled_pixels,
)
from assets.adaptation.training import Plan, train
from assets.experiments.operators import NotApplicable
from resources.config import ModelConfig
from resources.model import SegmentationModel


@pytest.fixture
def material(world):
    return material_of(world.campaign, world.config.adaptation)


def test_batch_norm_mixes_by_the_number_of_pictures():
    network = nn.Sequential(nn.BatchNorm2d(3))
    network[0].running_mean.copy_(torch.tensor([0.1, 0.5, 0.9]))
    network[0].running_var.copy_(torch.tensor([0.01, 0.02, 0.04]))
    source = copy.deepcopy(network[0])
    pictures = torch.rand(24, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    assert reestimated(network.eval(), pictures.split(8)) == 24
    parts = [part.transpose(0, 1).flatten(1) for part in pictures.split(8)]
    share = 24 / (24 + PRIOR_PICTURES)
    mean = torch.stack([part.mean(1) for part in parts]).mean(0)
    variance = torch.stack([part.var(1) for part in parts]).mean(0)
    assert torch.allclose(network[0].running_mean, share * mean + (1 - share) * source.running_mean, atol=1e-6)
    assert torch.allclose(network[0].running_var, share * variance + (1 - share) * source.running_var, atol=1e-6)


def test_batch_norm_needs_layers():
    with pytest.raises(NotApplicable, match="no batch-norm layers"):
        reestimated(nn.Sequential(nn.Conv2d(3, 4, 1)), [torch.rand(2, 3, 4, 4)])


class TestClassPrior:
    def test_em_finds_a_known_shift(self):
        """Two overlapping Gaussians, whose posteriors under the source's prior are exact."""
        rng = np.random.default_rng(0)
        source, target = np.array([0.5, 0.3, 0.2]), np.array([0.15, 0.25, 0.6])
        centres = np.array([-1.5, 0.5, 2.0])
        x = rng.normal(centres[rng.choice(3, 60_000, p=target)], 1)
        likelihood = np.exp(-((x[:, None] - centres) ** 2) / 2)
        posteriors = likelihood * source / (likelihood * source).sum(1, keepdims=True)
        naive = posteriors.mean(0)
        found = estimated_prior(posteriors, source)
        assert found == pytest.approx(target, abs=0.02)
        assert np.abs(naive - target).max() > 0.1, "counting posteriors alone does not find it"

    def test_without_a_shift_nothing_moves(self):
        rng = np.random.default_rng(1)
        source, centres = np.array([0.5, 0.5]), np.array([-1.0, 1.0])
        x = rng.normal(centres[rng.choice(2, 60_000, p=source)], 1)
        likelihood = np.exp(-((x[:, None] - centres) ** 2) / 2)
        posteriors = likelihood / likelihood.sum(1, keepdims=True)
        assert estimated_prior(posteriors, source) == pytest.approx(source, abs=0.02)

    def test_a_prior_keeps_rare_classes(self):
        posteriors = np.tile([0.989, 0.001, 0.01], (500, 1))
        prior = np.array([0.7, 0.2, 0.1])
        assert estimated_prior(posteriors, prior)[1:] == pytest.approx(0, abs=0.01)
        held = estimated_prior(posteriors, prior, 0.25)
        assert held.sum() == pytest.approx(1) and (held >= 0.25 * prior - 1e-9).all()
        assert estimated_prior(posteriors, prior, 1.0) == pytest.approx(prior)

    def test_a_class_that_the_source_lacks_stays_out(self):
        posteriors = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]])
        assert estimated_prior(posteriors, np.array([0.5, 0.5, 0.0]))[2] == 0

    def test_the_bias_shifts_the_logits_by_the_log_ratio(self, trained):
        network = trainable_copy(trained).eval()
        pictures = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(4))
        before = trained(pictures).logits
        pixels = [sampled_pixels(logits, 200) for logits in before]
        prior = np.array([0.5, 0.4, 0.1])
        shares = corrected_prior(network, trained, 1000 * prior, pixels, 2)
        changed = SegmentationModel(network, trained.config, 3, "changed", "cpu")
        shift = torch.tensor(np.log(np.maximum(shares, statistics.SMALLEST_SHARE) / prior), dtype=torch.float32)
        assert torch.allclose(changed(pictures).logits, before + shift[:, None, None], atol=1e-4)

    def test_a_network_without_such_a_bias_says_so(self, trained):
        network = trainable_copy(trained).eval()
        network.segmentation_head[0].bias = None
        with pytest.raises(NotApplicable, match="no convolution with a bias"):
            corrected_prior(network, trained, np.ones(3), [torch.zeros(4, 3)], 1)

    def test_a_bias_that_is_not_added_as_it_is_says_so(self):
        network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh())
        model = SegmentationModel(network, ModelConfig(input_size=(32, 32), embedding_layer="0"), 3, "tanh", "cpu")
        with pytest.raises(NotApplicable, match="not added to the logits"):
            corrected_prior(network, model, np.array([8.0, 1, 1]), [torch.zeros(4, 3)], 1)

    def test_sampled_pixels_are_spread(self):
        logits = torch.arange(2 * 60 * 80, dtype=torch.float32).reshape(2, 60, 80)
        found = sampled_pixels(logits, 300)
        assert 250 <= len(found) <= 400
        assert torch.allclose(found.exp().sum(1), torch.ones(len(found)), atol=1e-5)


class TestTent:
    def run(self, material, tmp_path, rate):
        network = trainable_copy(material.model)
        objective = Tent(material, network, 0)
        plan = Plan(objective.last, 60, rate, 0, "v")
        return network, train(network, objective, plan, tmp_path / "state", what="tent")

    def entropy(self, network, material):
        model = SegmentationModel(network, material.model.config, 3, "x", "cpu")
        logs = [model(batch.reduced).logits.log_softmax(1) for batch in material.target(0).once()]
        return float(torch.cat([-(one.exp() * one).sum(1).flatten() for one in logs]).mean())

    def test_it_lowers_entropy_by_scale_and_shift_alone(self, material, tmp_path):
        before = self.entropy(trainable_copy(material.model).eval(), material)
        network, run = self.run(material, tmp_path, 1e-3)
        assert not run.note and run.steps == -(-len(material.fit) // material.batch_size)
        assert self.entropy(network, material) < before
        source, after = material.model.network.state_dict(), network.state_dict()
        moved = {name for name in source if not torch.equal(source[name], after[name])}
        assert moved == {f"encoder.{stage}.1.{name}" for stage in ("first", "second") for name in ("weight", "bias")}

    def test_the_guard_goes_back(self, material, tmp_path):
        network, run = self.run(material, tmp_path, 5.0)
        assert "guard on the source stopped it" in run.note
        assert run.steps < -(-len(material.fit) // material.batch_size) or run.steps == 0
        source = material.model.network.state_dict()
        assert all(torch.equal(source[name], tensor) for name, tensor in network.state_dict().items())
