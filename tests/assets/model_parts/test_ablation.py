"""Interventions do what they say and leave no trace; losses are kept by row, so that only what is new is computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assets.experiments.operators import NotApplicable
from assets.model_parts.ablation import (
    bypassable,
    bypassed,
    mean_replaced,
    mean_response,
    mixed_statistics,
    with_statistics,
)
from assets.model_parts.activations import PICTURE, Activations, _moments, norm_distance, read_activations
from assets.model_parts.parts import batch_norms, examine
from resources.config import ModelConfig
from resources.model import SegmentationModel, build_network


@pytest.fixture
def examined(model):
    return examine(model)


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(12, 3, 48, 64, generator=torch.Generator().manual_seed(0))


def moments_of(examined, batch) -> Activations:
    """As the table gives them."""
    means, variances = (array.astype(np.float64) for array in _moments(examined.model, examined.parts, batch))
    outputs, norms, place = {}, {}, 0
    widths = [(PICTURE, 3, outputs), *((part.name, part.channels, outputs) for part in examined.parts)]
    for part in examined.parts:
        layers = batch_norms(examined.model.network, part)
        widths += [(path, layer.num_features, norms) for path, layer in layers.items()]
    for name, width, found in widths:
        found[name] = means[:, place : place + width], variances[:, place : place + width]
        place += width
    return Activations([str(i) for i in range(len(batch))], outputs, norms)


def part_named(examined, name):
    return next(part for part in examined.parts if part.name == name)


def test_moments_are_those_of_the_outputs_and_of_what_enters_the_norms(examined, pictures):
    found = moments_of(examined, pictures)
    network = examined.model.network
    with torch.no_grad():
        entered = network.stage1[0](examined.model.normalised(pictures))
        left = torch.relu(network.stage1[1](entered))
    assert found.norms["stage1.1"][0] == pytest.approx(entered.mean((2, 3)).numpy(), abs=1e-4)
    assert found.outputs["stage1"][0] == pytest.approx(left.mean((2, 3)).numpy(), abs=1e-4)
    assert found.outputs["stage1"][1] == pytest.approx(left.var((2, 3), correction=0).numpy(), abs=1e-4)


def test_the_distance_from_running_statistics_is_the_closed_form(examined, pictures):
    part = part_named(examined, "stage1")
    layer = examined.model.network.stage1[1]
    found = moments_of(examined, pictures)
    layer.running_mean = torch.tensor(found.norms["stage1.1"][0].mean(0), dtype=torch.float32)
    mean, variance = found.norms["stage1.1"]
    layer.running_var = torch.tensor(variance.mean(0) + mean.var(0), dtype=torch.float32)
    assert norm_distance(examined.model, part, found) == pytest.approx(0, abs=1e-4)
    layer.running_mean = layer.running_mean - 2 * (layer.running_var + layer.eps).sqrt()
    assert norm_distance(examined.model, part, found) == pytest.approx(2, rel=1e-4)


def test_the_mean_is_said_of_every_place(examined, pictures):
    part, network = part_named(examined, "fusion"), examined.model.network
    values = mean_response(part, moments_of(examined, pictures))
    with mean_replaced(network, part, values):
        logits = examined.model(pictures).logits
    with torch.no_grad():
        expected = network.head(values[None, :, None, None])[0, :, 0, 0]
    assert torch.allclose(logits, expected[None, :, None, None].expand_as(logits), atol=1e-5)


def test_mixed_statistics_are_a_share_of_the_way_and_are_taken_back(examined, pictures):
    part, network = part_named(examined, "stage2"), examined.model.network
    plain, layer = examined.model(pictures).logits, network.stage2[1]
    before = layer.running_mean.clone()
    found = moments_of(examined, pictures)
    mixed = mixed_statistics(network, part, found)
    expected = 0.7 * before + 0.3 * torch.tensor(found.norms["stage2.1"][0].mean(0), dtype=torch.float32)
    assert torch.allclose(mixed["stage2.1"][0], expected, atol=1e-5)
    with with_statistics(network, mixed):
        assert torch.equal(layer.running_mean, mixed["stage2.1"][0])
        assert not torch.equal(examined.model(pictures).logits, plain)
    assert torch.equal(layer.running_mean, before)
    assert torch.equal(examined.model(pictures).logits, plain)


def test_blocks_that_keep_their_shape_are_bypassed():
    torch.manual_seed(0)
    config = ModelConfig(architecture="Unet", encoder="resnet18", input_size=(64, 64))
    examined = examine(SegmentationModel(build_network(config, 4), config, 4, "v", "cpu"))
    network, stage = examined.model.network, part_named(examined, "encoder stage 3")
    paths = bypassable(network, stage, examined.trace)
    assert paths == ["encoder.layer2.1"]
    batch = torch.rand(2, 3, 64, 64)
    with bypassed(network, paths):
        stages = examined.model(batch).stages
    with torch.no_grad():
        assert torch.equal(stages[2], network.encoder.layer2[0](stages[1]))
    with pytest.raises(NotApplicable, match="no block of the part"):
        bypassable(network, part_named(examined, "segmentation head"), examined.trace)


def test_reasons_for_not_intervening(examined, pictures):
    with pytest.raises(NotApplicable, match="the part has no batch norm"):
        mixed_statistics(examined.model.network, part_named(examined, "head"), moments_of(examined, pictures))
    with pytest.raises(NotApplicable, match="5 pictures in the fit half, at least 8"):
        mean_response(part_named(examined, "head"), moments_of(examined, pictures[:5]))


@pytest.mark.slow
def test_a_second_run_computes_nothing_and_a_bare_target_is_told_so(model, analyse):
    first = analyse(model, "alike", pictures=16)
    again = analyse(model, "alike", pictures=16)
    assert first.forwards > 0
    assert again.forwards == 0
    assert again.content == first.content
    table = first.store.table("source", "model_parts", "activations")
    assert len(read_activations(table, model, first.examined.parts).ids) == 16
    bare = analyse(model, "bare", pictures=16).content
    assert bare["without_losses"] == "the target has no labels"
    assert {part["transfer"] for part in bare["parts"]} == {"unclear"}
    assert all(part["interventions"] == [] and part["gap"]["shift"] > 0 for part in bare["parts"])
