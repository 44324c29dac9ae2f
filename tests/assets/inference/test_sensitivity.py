"""Maps of sensitivity: the closed form of a linear network, by class, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assets.inference.sensitivity import loss_sensitivity
from resources.config import ModelConfig
from resources.datasets.base import IGNORE
from resources.errors import ModelError
from resources.model import SegmentationModel

SIZE = (32, 40)
CLASSES = 3


class Linear(torch.nn.Module):
    """Features are a mix of the channels, scores a mix of the features, pixel by pixel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = torch.nn.Conv2d(3, 4, 1)
        self.head = torch.nn.Conv2d(4, CLASSES, 1)

    def forward(self, batch):
        return self.head(self.features(batch))


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    config = ModelConfig(input_size=SIZE, embedding_layer="features", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    network = Linear()
    for weights in network.parameters():
        weights.requires_grad_(False)  # as of a network that came frozen
    return SegmentationModel(network, config, CLASSES, "linear", "cpu")


@pytest.fixture(scope="module")
def scene() -> tuple[torch.Tensor, np.ndarray]:
    random = np.random.default_rng(0)
    mask = random.integers(0, 2, SIZE).astype(np.uint8)  # class 2 is not in it
    mask[0] = IGNORE
    return torch.from_numpy(random.random((3, *SIZE), dtype=np.float32)), mask


def closed_form(model: SegmentationModel, picture: torch.Tensor, mask: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """dL/dA_k(p) = Σ_c (softmax_c(p) − [y_p = c]) W_ck / |M| on M, 0 elsewhere."""
    network = model.network
    mean, std = (np.array(values)[:, None, None] for values in (model.config.mean, model.config.std))
    fed = (picture.numpy().astype(np.float64) - mean) / std
    first, head = (layer.weight.numpy()[:, :, 0, 0].astype(np.float64) for layer in (network.features, network.head))
    features = np.einsum("kc,chw->khw", first, fed) + network.features.bias.numpy()[:, None, None]
    scores = np.einsum("ck,khw->chw", head, features) + network.head.bias.numpy()[:, None, None]
    shares = np.exp(scores) / np.exp(scores).sum(0)
    residual = (shares - (mask == np.arange(CLASSES)[:, None, None])) * counted / counted.sum()
    gradient = np.einsum("ck,chw->khw", head, residual)
    return np.maximum(np.einsum("k,khw->hw", gradient.mean((1, 2)), features), 0)


def test_maps_of_a_linear_network_are_their_closed_form(model, scene):
    picture, mask = scene
    whole, first, second, absent = loss_sensitivity(model, picture, mask, [None, 0, 1, 2])
    assert absent is None
    for found, counted in ((whole, mask != IGNORE), (first, mask == 0), (second, mask == 1)):
        expected = closed_form(model, picture, mask, counted)
        assert expected.max() > 0
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)
    assert not np.allclose(first, second), "classes have maps of their own"


def test_a_picture_without_labelled_pixels_has_no_map(model, scene):
    assert loss_sensitivity(model, scene[0], np.full(SIZE, IGNORE, np.uint8), [None]) == [None]


def test_encoders_are_led_back_to_their_deepest_stage():
    from resources.model import build_network

    config = ModelConfig(architecture="Unet", encoder="resnet18", input_size=(64, 64))
    model = SegmentationModel(build_network(config, CLASSES), config, CLASSES, "unet", "cpu")
    mask = np.zeros((64, 64), np.uint8)
    found = loss_sensitivity(model, torch.rand(3, 64, 64), mask, [None])[0]
    assert found.shape == (2, 2) and (found >= 0).all()


def test_exported_networks_have_no_gradients(model, scene):
    exported = SegmentationModel(object(), model.config, CLASSES, "exported", "cpu")
    with pytest.raises(ModelError, match="no gradients"):
        loss_sensitivity(exported, *scene, [None])
