"""A network whose right answer is known, fed rightly and wrongly: each mistake is told, and none that was not made."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from assets.inference.sanity import FEWEST, examine, prior_entropy, sign_test, variants
from resources.config import ModelConfig
from resources.model import SegmentationModel
from resources.pictures import Picture, to_input

SIZE = (32, 32)


class ByColour(nn.Module):
    """Says of every pixel which of its normalised channels is the largest, in some order of the output."""

    def __init__(self, order=(0, 1, 2), sureness=8.0):
        super().__init__()
        self.layer = nn.Identity()
        self.order, self.sureness = list(order), sureness

    def forward(self, batch):
        return self.sureness * self.layer(batch)[:, self.order]


def model(network: nn.Module, **config) -> SegmentationModel:
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), **config}
    settings = ModelConfig(factory="own:network", embedding_layer="layer", input_size=SIZE, **plain)
    return SegmentationModel(network, settings, 3, "", "cpu")


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    """Blocks of red, green and blue, and which they are; red is rarest."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(12):
        mask = rng.choice(3, (8, 8), p=(0.2, 0.3, 0.5)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
        image = np.full((*SIZE, 3), 40, np.uint8)
        np.put_along_axis(image, mask[..., None].astype(int), 220, axis=2)
        found.append(Picture(str(i), image, mask, to_input(image, SIZE)))
    return found


def settings_told(found) -> set[str]:
    return {one.variant.setting for one in found.better}


class TestExamine:
    def test_a_good_model_is_left_in_peace(self, pictures):
        found = examine(model(ByColour()), pictures, seconds=60)
        assert found.pictures == 12 and found.accuracy == 1 and found.miou == 1
        assert found.loss < 0.1 < found.prior < found.uniform == pytest.approx(math.log(3))
        assert found.order is None
        assert "colours" not in settings_told(found) and "input_size" not in settings_told(found)

    def test_colours_in_the_other_order(self, pictures):
        found = examine(model(ByColour(order=(2, 1, 0))), pictures, seconds=60)
        swapped = next(one for one in found.compared if one.variant.setting == "colours")
        assert swapped in found.better and swapped.lower == 12
        assert swapped.loss < 0.1 < found.loss

    def test_classes_in_another_order(self, pictures):
        found = examine(model(ByColour(order=(1, 2, 0))), pictures, seconds=60)
        assert found.order == [1, 2, 0], "channel 0 says green"
        assert found.order_accuracy == 1 and found.accuracy < 0.1

    def test_another_normalisation(self, pictures):
        """Trained on ImageNet's constants with a bias by channel, so that only they bring the channels level."""

        class Imagenet(ByColour):
            def forward(self, batch):
                mean, std = (
                    torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
                )
                return self.sureness * (self.layer(batch) * std + mean).clamp(0, 1)

        found = examine(model(Imagenet()), pictures, seconds=60)
        best = next(one for one in found.better if one.variant.setting == "mean, std")
        assert best.variant.value == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def test_an_untrained_model_is_no_better_than_chance(self, pictures):
        found = examine(model(ByColour(sureness=0.0)), pictures, seconds=60)
        assert found.loss == pytest.approx(found.uniform)
        assert found.loss > found.prior
        assert not found.better and found.order is None

    def test_little_time_means_fewer_pictures_and_no_variants(self, pictures):
        found = examine(model(ByColour()), pictures, seconds=0)
        assert found.compared == []
        assert 6 <= found.pictures <= FEWEST


def test_variants_leave_out_what_is_configured():
    imagenet = [one.setting for one in variants(ModelConfig(input_size=(64, 64)))]
    assert imagenet.count("mean, std") == 3 and imagenet.count("colours") == 1 and imagenet.count("input_size") == 2


@pytest.mark.parametrize(("lower", "count"), [(0, 5), (5, 5), (19, 24), (12, 24)])
def test_sign_test_is_the_binomial_one(lower, count):
    assert sign_test(lower, count) == pytest.approx(binomtest(lower, count, 0.5, alternative="greater").pvalue)


def test_entropy_of_shares():
    assert prior_entropy(np.array([5, 5, 0])) == pytest.approx(math.log(2))
    assert prior_entropy(np.array([7, 0, 0])) == 0
