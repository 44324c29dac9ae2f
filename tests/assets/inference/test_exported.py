"""The project's own network, exported: its tables are those of the network itself."""

from __future__ import annotations

import importlib.util
from functools import cache

import numpy as np
import pytest
import torch

from assets.experiments.model_side import BatchNormReestimation
from assets.experiments.operators import NotApplicable
from assets.inference.forward import PassTables, run_pass
from assets.inference.latents import vectors
from resources.config import ModelConfig
from resources.engine import in_process
from resources.exported.network import open_exported
from resources.model import SegmentationModel
from resources.sample_store import SampleTable

SIZE = (64, 96)
NO_ONNX = importlib.util.find_spec("onnx") is None or importlib.util.find_spec("onnxruntime") is None
FORMATS = [
    pytest.param(".onnx", marks=pytest.mark.skipif(NO_ONNX, reason="pip install '.[onnx]'")), ".pt2", ".torchscript",
]  # fmt: skip


@pytest.fixture(scope="module")
def original():
    """A U-Net, whose encoder's end is the deepest feature map; its normalisations have seen no data, so they are set
    to what random pictures give."""
    from segmentation_models_pytorch import Unet

    torch.manual_seed(0)
    network = Unet("resnet18", encoder_weights=None, classes=3, decoder_channels=(32, 16, 16, 8, 8)).train()
    with torch.no_grad():
        for _ in range(5):
            network(torch.randn(4, 3, *SIZE))
    config = ModelConfig(architecture="Unet", encoder="resnet18", input_size=SIZE)
    return SegmentationModel(network, config, 3, "original", "cpu")


@pytest.fixture(scope="module")
def exported(original, tmp_path_factory):
    """The same network from a file, exported once a format."""

    @cache
    def model(suffix: str) -> SegmentationModel:
        path = tmp_path_factory.mktemp("files") / f"unet{suffix}"
        network, pictures = original.network, torch.randn(2, 3, *SIZE)
        shapes = ({0: torch.export.Dim("n")},)
        if suffix == ".onnx":
            torch.onnx.export(
                network, (pictures,), path, dynamic_shapes=shapes, external_data=False, verbose=False
            )  # fmt: skip
        elif suffix == ".pt2":
            torch.export.save(torch.export.export(network, (pictures,), dynamic_shapes=shapes), path)
        else:
            with torch.no_grad():
                torch.jit.trace(network, pictures).save(str(path))
        config = ModelConfig(checkpoint=path, input_size=SIZE)
        return SegmentationModel(open_exported(path, config, 3, "cpu"), config, 3, suffix, "cpu")

    return model


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_exported_network_fills_the_tables_as_the_network_does(scenes, original, exported, tmp_path, suffix):
    made = []
    for name, model in (("original", original), ("exported", exported(suffix))):
        tables = PassTables(*(SampleTable(str(tmp_path / name / table)) for table in ("embeddings", "evaluation")))
        run_pass(model, scenes.manifest(), in_process(scenes.batches(model)), tables, code="code", what="a pass")
        made.append((tables.embeddings.read(), tables.evaluation.read()))
    (embeddings, evaluation), (other_embeddings, other_evaluation) = made
    np.testing.assert_allclose(vectors(other_embeddings), vectors(embeddings), rtol=1e-3, atol=1e-4)
    assert vectors(embeddings).std(0).max() > 0.01  # the pictures differ
    assert other_evaluation["sample_id"].to_list() == evaluation["sample_id"].to_list()
    for column in ("loss", "confidence", "entropy", "label_quality"):
        np.testing.assert_allclose(
            other_evaluation[column].drop_nulls(), evaluation[column].drop_nulls(), rtol=1e-3, atol=1e-5
        )
    assert evaluation["loss"].drop_nulls().len() == 4
    assert len(other_embeddings["stage_channels"][0]) == 1


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_an_exported_network_can_not_do_is_said(exported, suffix):
    with pytest.raises(NotApplicable, match=r"runs as it was exported, its batch norm can't be re-estimated; give"):
        BatchNormReestimation().adapt(exported(suffix), torch.rand(8, 3, *SIZE))
