"""The factories that docs/own-data.md shows build networks that run, from their libraries without a download."""

import re
import sys
from pathlib import Path

import pytest
import torch

from resources.config import ModelConfig
from resources.model import SegmentationModel, build_network, load_weights

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own-data.md"
SIZE = (64, 96)
CLASSES = tuple(f"class {i}" for i in range(19))


@pytest.fixture
def build(tmp_path, monkeypatch):
    """The network of a function of the page, as a model that reads its latent where the page says."""
    monkeypatch.syspath_prepend(tmp_path)

    def built(function):
        modules = re.findall(r"^```python\n(# mynets\.py\n.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
        text = next(text for text in modules if f"def {function}()" in text)
        layer = re.search(rf"def {function}\(\):  # embedding_layer: ([\w.]+)", text)[1]
        (tmp_path / "mynets.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, "mynets", raising=False)
        config = ModelConfig(factory=f"mynets:{function}", embedding_layer=layer, input_size=SIZE)
        torch.manual_seed(0)
        return SegmentationModel(build_network(config, 19), config, 19, "v", "cpu")

    yield built
    sys.modules.pop("mynets", None)


@pytest.fixture(scope="module")
def batch():
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def test_torchvisions_deeplab(build, batch):
    model = build("deeplab")
    outputs = model(batch)
    with torch.no_grad():
        pictures = model.normalised(batch)
        expected, latent = model.network(pictures)["out"], model.network.backbone(pictures)["out"]
    torch.testing.assert_close(outputs.logits, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs.latent, latent, atol=1e-5, rtol=1e-4)
    assert tuple(outputs.logits.shape) == (2, 19, *SIZE)


def test_transformers_segformer(build, batch):
    transformers = pytest.importorskip("transformers", reason="pip install '.[transformers]'")
    model = build("segformer")
    outputs = model(batch)
    plain = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(num_labels=19)).eval()
    load_weights(plain, model.network.state_dict(), Path("segformer.safetensors"), CLASSES)  # checkpoints of it fit
    with torch.no_grad():
        found = plain(model.normalised(batch), output_hidden_states=True)
    expected = torch.nn.functional.interpolate(found.logits, size=SIZE, mode="bilinear")
    torch.testing.assert_close(outputs.logits, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs.latent, found.hidden_states[-1], atol=1e-5, rtol=1e-4)
    assert tuple(outputs.latent.shape[2:]) == (2, 3)
