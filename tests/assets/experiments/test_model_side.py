"""Batch-norm statistics move towards the target's by the share asked for; the sham moves as far, elsewhere."""

from __future__ import annotations

import copy

import pytest
import torch

from assets.experiments.model_side import BatchNormReestimation
from assets.experiments.operators import ModelOperator, NotApplicable
from resources.config import ModelConfig
from resources.model import SegmentationModel


class Small(torch.nn.Module):
    """One batch norm right on the picture, so that its true statistics are the pictures' channel moments."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)
        self.norm.running_mean.copy_(torch.tensor([0.1, 0.5, 0.9]))
        self.norm.running_var.copy_(torch.tensor([0.01, 0.02, 0.04]))
        self.idle = copy.deepcopy(self.norm)
        self.head = torch.nn.Conv2d(3, 4, 1)

    def forward(self, batch):
        return self.head(self.norm(batch))


@pytest.fixture
def small():
    torch.manual_seed(0)
    config = ModelConfig(input_size=(64, 96), embedding_layer="norm", mean=(0, 0, 0), std=(1, 1, 1))
    return SegmentationModel(Small(), config, 4, "small-1", "cpu")


@pytest.fixture(scope="module")
def pictures(scenes):
    return scenes(16, seed=1) * torch.tensor([0.5, 1.0, 0.8])[:, None, None]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_statistics_move_by_the_share(small, pictures, share):
    source = copy.deepcopy(small.network.norm)
    changed = BatchNormReestimation(share).adapt(small, pictures).network.norm
    parts = [part.transpose(0, 1).flatten(1) for part in pictures.split(8)]
    target_mean = torch.stack([part.mean(1) for part in parts]).mean(0)
    target_var = torch.stack([part.var(1) for part in parts]).mean(0)
    assert changed.running_mean == pytest.approx((1 - share) * source.running_mean + share * target_mean, abs=1e-5)
    assert changed.running_var == pytest.approx((1 - share) * source.running_var + share * target_var, abs=1e-5)


def test_every_layer_of_a_real_network_moves_by_the_share(network_model, pictures):
    layers = lambda model: [m for m in model.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]  # noqa: E731
    full, third = (BatchNormReestimation(share).adapt(network_model, pictures) for share in (1.0, 0.3))
    moved = 0
    for source, whole, part in zip(layers(network_model), layers(full), layers(third), strict=True):
        expected = source.running_mean + 0.3 * (whole.running_mean - source.running_mean)
        assert torch.allclose(part.running_mean, expected, atol=1e-4, rtol=1e-3)
        moved += not torch.allclose(whole.running_mean, source.running_mean, atol=1e-3)
        assert not part.training
    assert moved > 10


def test_a_layer_that_no_forward_reaches_keeps_its_statistics(small, pictures):
    for sham in (False, True):
        changed = BatchNormReestimation().adapt(small, pictures, sham=sham).network
        assert torch.equal(changed.idle.running_mean, small.network.idle.running_mean)
        assert torch.equal(changed.idle.running_var, small.network.idle.running_var)
        assert not torch.equal(changed.norm.running_mean, small.network.norm.running_mean)


def test_the_model_that_was_given_stays_as_it_was(network_model, pictures):
    before = {name: tensor.clone() for name, tensor in network_model.network.state_dict().items()}
    outputs = network_model(pictures[:2]).logits
    changed = BatchNormReestimation().adapt(network_model, pictures)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network_model.network.state_dict().items())
    assert torch.equal(network_model(pictures[:2]).logits, outputs)
    assert not network_model.network.training
    assert not torch.allclose(changed(pictures[:2]).logits, outputs, atol=1e-3)
    assert changed.fingerprint != network_model.fingerprint
    weights = [name for name in before if "running" not in name and "num_batches" not in name]
    after = changed.network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in weights)


def test_the_sham_moves_as_far_but_is_not_aimed(network_model, pictures):
    operator = BatchNormReestimation()
    aimed, sham = operator.adapt(network_model, pictures), operator.adapt(network_model, pictures, sham=True)
    layers = lambda model: [m for m in model.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]  # noqa: E731
    differs = 0
    for source, one, other in zip(layers(network_model), layers(aimed), layers(sham), strict=True):
        spread = (source.running_var + source.eps).sqrt()
        steps = [((layer.running_mean - source.running_mean) / spread).sort().values for layer in (one, other)]
        assert torch.allclose(*steps, atol=1e-5, rtol=1e-4)
        differs += not torch.allclose(one.running_mean, other.running_mean, atol=1e-4)
    assert differs > 10
    assert sham.fingerprint not in (aimed.fingerprint, network_model.fingerprint)


def test_the_same_pictures_give_the_same_change(network_model, pictures):
    operator = BatchNormReestimation()
    first, second = (operator.adapt(network_model, pictures, sham=True) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first(pictures[:1]).logits, second(pictures[:1]).logits)
    assert operator.adapt(network_model, pictures * 0.9, sham=True).fingerprint != first.fingerprint


def test_reasons_for_not_applying(colour_model, small, pictures):
    operator = BatchNormReestimation()
    assert isinstance(operator, ModelOperator)
    with pytest.raises(NotApplicable, match="no batch-norm layers"):
        operator.adapt(colour_model, pictures)
    with pytest.raises(NotApplicable, match="5 pictures to re-estimate on, at least 8"):
        operator.adapt(small, pictures[:5])
