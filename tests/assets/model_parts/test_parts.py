"""Parts are the modules whose outputs they are: replaced, they reach what reads them; names, order and readers fit."""

from __future__ import annotations

import pytest
import torch

from assets.model_parts.parts import (
    NoParts,
    batch_norms,
    channel_moments,
    constant,
    examine,
    replaced,
    replayed,
    traced,
)
from resources.config import ModelConfig
from resources.model import SegmentationModel, build_network

ASPP = [f"ASPP branch, {name}" for name in ("1 × 1", "rate 12", "rate 24", "rate 36", "image pooling")]
DEEPLAB = ["decoder: ASPP projection", "decoder: low-level branch", "decoder: fusion", "segmentation head"]


def built(architecture: str, encoder: str) -> SegmentationModel:
    torch.manual_seed(0)
    config = ModelConfig(architecture=architecture, encoder=encoder, input_size=(64, 96))
    return SegmentationModel(build_network(config, 4), config, 4, "v", "cpu")


@pytest.fixture(scope="module", params=[("DeepLabV3Plus", "tu-tf_efficientnet_lite0"), ("Unet", "resnet18"),
                                        ("DeepLabV3Plus", "mobilenet_v2"), ("Unet", "tu-resnet18")],
                ids="-".join)  # fmt: skip
def examined(request):
    return examine(built(*request.param))


@pytest.fixture(scope="module")
def batch():
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def test_names_in_the_order_of_the_data(examined):
    names = [part.name for part in examined.parts]
    stages = [f"encoder stage {i}" for i in range(1, 6)]
    decoder = [f"decoder: blocks.{i}" for i in range(5)]
    is_deeplab = type(examined.model.network).__name__ == "DeepLabV3Plus"
    assert names == stages + (ASPP + DEEPLAB if is_deeplab else [*decoder, "segmentation head"])


def test_a_replaced_stage_reaches_the_next_one_and_the_skip_connection(examined, batch):
    network, plain = examined.model.network, examined.model(batch)
    for i, part in enumerate(part for part in examined.parts if part.name.startswith("encoder")):
        mark = torch.linspace(0, 1, part.channels)
        with replaced(network, part.output, constant(mark)):
            stages = examined.model(batch).stages
        assert torch.allclose(stages[i], mark[None, :, None, None].expand_as(stages[i])), part.name
        assert all(torch.equal(a, b) for a, b in zip(stages[:i], plain.stages[:i], strict=True))
        if i + 1 < len(stages):
            assert not torch.equal(stages[i + 1], plain.stages[i + 1])
    assert torch.equal(examined.model(batch).logits, plain.logits), "hooks are gone"


def test_every_parameter_belongs_to_one_part(examined):
    layers = [layer for part in examined.parts for layer in part.layers]
    assert len(layers) == len(set(layers))
    network = examined.model.network
    held = sum(p.numel() for layer in layers for p in network.get_submodule(layer).parameters(recurse=False))
    assert held == sum(p.numel() for p in network.parameters())


def test_replaying_what_precedes_a_part_changes_nothing_and_computes_less(examined, batch):
    outputs, plain = traced(examined.model, batch).whole, examined.model(batch).logits
    for part in examined.parts:
        with replayed(examined.model.network, {path: outputs[path] for path in examined.settled[part.name]}):
            calls = traced(examined.model, batch).calls
            assert torch.equal(examined.model(batch).logits, plain), part.name
        assert sum(calls.values()) <= sum(examined.trace.calls.values())
    assert sum(calls.values()) < sum(examined.trace.calls.values()) / 4, "before the head, little is left to compute"


def test_who_feeds_whom_in_a_deeplab():
    parts = {part.name: set(part.fed_by) for part in examine(built("DeepLabV3Plus", "resnet18")).parts}
    assert parts["encoder stage 1"] == set()
    assert parts["encoder stage 3"] == {"encoder stage 2"}
    assert parts["ASPP branch, rate 24"] == {"encoder stage 5"}
    assert parts["decoder: ASPP projection"] == set(ASPP)
    assert parts["decoder: low-level branch"] == {"encoder stage 2"}
    assert parts["decoder: fusion"] == {"decoder: ASPP projection", "decoder: low-level branch"}


def test_blocks_of_a_network_of_ones_own(model):
    parts = examine(model).parts
    assert [part.name for part in parts] == ["stage1", "stage2", "stage3", "stage4", "low", "fusion", "head"]
    assert {part.name: part.fed_by for part in parts}["fusion"] == ("stage4", "low")
    assert [len(batch_norms(model.network, part)) for part in parts] == [1] * 6 + [0]


def test_torchvisions_deeplab_has_stages_and_branches():
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

    network = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    config = ModelConfig(factory="nets:deeplab", embedding_layer="backbone.16", input_size=(64, 96))
    names = [part.name for part in examine(SegmentationModel(network, config, 4, "v", "cpu")).parts]
    assert names[:2] == ["backbone.0 to 1", "backbone.2 to 3"]
    assert names[-6:] == [*ASPP, "classifier"]
    assert len(names) <= 20


def test_an_exported_network_is_refused_with_a_reason():
    class Exported:
        kind = "an ONNX file"

    config = ModelConfig(input_size=(64, 96))
    with pytest.raises(NoParts, match="an ONNX file runs as it was exported"):
        examine(SegmentationModel(Exported(), config, 4, "v", "cpu"))


def test_moments_of_maps_tokens_and_vectors():
    values = torch.rand(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    mean, variance = channel_moments(values)
    assert mean.numpy() == pytest.approx(values.double().numpy().mean((2, 3)))
    assert variance.numpy() == pytest.approx(values.double().numpy().var((2, 3)))
    tokens = values.flatten(2).transpose(1, 2)
    assert torch.allclose(channel_moments(tokens)[1], variance)
    assert channel_moments(values[:, :, 0, 0])[1].abs().max() == 0
