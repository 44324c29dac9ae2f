"""Training: it lowers the loss, a seed decides it, and its schedule and its figure hold for any number of steps."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from assets.inference.forward import sample_paths
from assets.inference.training import train
from resources.config import ModelConfig, TrainingConfig
from resources.errors import ModelError
from resources.model import build_network
from resources.pictures import load_batches, to_input_mask

SIZE = (64, 96)


class Constant(nn.Module):
    """The same logits everywhere, one parameter a class."""

    def __init__(self, classes: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, pictures):
        return self.bias[None, :, None, None].expand(len(pictures), -1, *pictures.shape[-2:])


@pytest.fixture
def material(scenes):
    """Paths of ten labelled samples and where their batches come from, for a batch size."""
    for name in "fghijk":
        scenes.add(name)
    paths = list(sample_paths(scenes.manifest().filter("labelled")).values())

    def batches(size):
        return lambda chosen: load_batches(scenes.reader, chosen, SIZE, batch_size=size, workers=0)

    return paths, batches


def trained(network, material, count=8, **settings):
    """Train a copy of a network; returns it and the loss."""
    paths, batches = material
    config = ModelConfig(input_size=SIZE, training=TrainingConfig(**settings))
    network = copy.deepcopy(network)
    loss = train(network, batches(config.training.batch_size), paths[:count], config, device="cpu", what="training")
    return network, loss


@pytest.fixture(scope="module")
def pretrained():
    torch.manual_seed(0)
    return build_network(ModelConfig(input_size=SIZE), 3, pretrained=True)


def loss_in_training_mode(network, material, count=8):
    paths, batches = material
    (batch,) = batches(count)(paths[:count])
    config = ModelConfig(input_size=SIZE)
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    masks = torch.stack([torch.from_numpy(to_input_mask(picture.mask, SIZE)).long() for picture in batch.pictures])
    with torch.no_grad():
        logits = copy.deepcopy(network).train()((batch.reduced - mean) / std)
    return float(functional.cross_entropy(logits, masks, ignore_index=255))


def test_two_epochs_lower_the_loss(pretrained, material):
    before = loss_in_training_mode(pretrained, material)
    network, reported = trained(pretrained, material, epochs=2, batch_size=2, learning_rate=3e-3)
    after = loss_in_training_mode(network, material)
    assert after < 0.6 * before
    assert after < reported < before
    assert not network.training


def test_a_seed_decides_the_weights(pretrained, material):
    settings = {"count": 4, "epochs": 1, "batch_size": 4}
    one, other, third = (trained(pretrained, material, seed=seed, **settings)[0].state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[name], third[name]) for name in one)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_samples_are_refused(material, count):
    with pytest.raises(ModelError, match=f"{count} labelled reference samples; training needs at least 2"):
        trained(Constant(3), material, count=count)


@pytest.mark.parametrize(("count", "batch_size"), [(2, 2), (3, 2), (2, 8), (5, 8), (8, 8), (9, 4), (10, 4)])
def test_the_reported_loss_is_a_mean_over_pictures(material, count, batch_size):
    _, loss = trained(Constant(5), material, count=count, epochs=1, batch_size=batch_size, learning_rate=1e-12)
    assert loss == pytest.approx(math.log(5), rel=1e-5)


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 10, 20])
@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_steps_has_a_schedule(material, epochs, count):
    network, loss = trained(Constant(3), material, count=count, epochs=epochs, batch_size=2, learning_rate=0.05)
    assert loss < math.log(3) + 1e-6
    assert network.bias.abs().max() > 0


def test_a_constant_learns_the_shares_of_the_classes(material):
    network, _ = trained(Constant(4), material, epochs=25, batch_size=8, learning_rate=0.3)
    shares = network.bias.detach().softmax(0)
    assert shares[3] < 0.05  # a class that no mask holds
    assert shares[1] > shares[2]  # sky against car


def test_a_loss_that_is_no_number_is_refused_with_what_to_do(material):
    network = Constant(3)
    with torch.no_grad():
        network.bias[0] = math.nan
    with pytest.raises(ModelError, match=r"model\.training\.learning_rate"):
        trained(network, material, epochs=1, batch_size=4)


def test_labels_move_with_their_pictures(material):
    """A network that reads the class off the colour is right after flips and crops as well."""

    class Colour(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(40.0))

        def forward(self, pictures):
            config = ModelConfig()
            mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
            red, blue = (pictures * std + mean)[:, 0], (pictures * std + mean)[:, 2]
            return self.scale * torch.stack([0.5 - blue, blue - 0.5, 2 * (red - blue)], 1)

    _, loss = trained(Colour(), material, epochs=3, batch_size=4, learning_rate=1e-9)
    assert loss < 0.1
