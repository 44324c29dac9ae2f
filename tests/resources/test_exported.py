"""Exported networks: what runs, what is refused and in which words, and that nothing in a file is unpickled."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resources.config import EXPORTED, GapConfig, ModelConfig
from resources.errors import ModelError
from resources.exported.deepest import STRIDES, feature_stride
from resources.exported.network import open_exported
from resources.fingerprint import file_digest
from resources.model import load_model, model_fingerprint, open_checkpoint, read_checkpoint, save_model

SIZE = (64, 96)
CLASSES = ("road", "sky", "car", "tree")
FORMATS = [
    pytest.param(".onnx", marks=pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="no onnx")),
    ".pt2",
    ".torchscript",
]


class Small(nn.Module):
    """Stride 8 inside, a pooled context vector, logits at the pictures' size; sizes are computed in the graph."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=4, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 10, 3, stride=2, padding=1), nn.Hardtanh(inplace=True),
        )  # fmt: skip
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Conv2d(10, classes, 1)

    def forward(self, pictures):
        features = self.encoder(pictures)
        wide = nn.functional.interpolate(features, scale_factor=2.0)
        logits = self.head(wide.chunk(2, 1)[0].repeat(1, 2, 1, 1) + wide * self.pool(features))
        return nn.functional.interpolate(logits, size=pictures.shape[-2:], mode="bilinear")


class Coarse(Small):
    """Its classifier works at the encoder's stride and its output stays there, as a Segformer's."""

    def forward(self, pictures):
        return self.head(self.encoder(pictures))


class Both(Small):
    """Puts the latent out beside the logits."""

    def forward(self, pictures):
        return {"latent": self.encoder(pictures), "logits": super().forward(pictures)}


class Cold(nn.Module):
    """No feature map anywhere: logits at the pictures' size alone."""

    def forward(self, pictures):
        return pictures.repeat(1, 2, 1, 1)[:, :4]


def export(network: nn.Module, path: Path, *, batch: int = 2, dynamic: bool = True) -> Path:
    """Write a network as the format of the path's suffix."""
    pictures = torch.rand(batch, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    shapes = ({0: torch.export.Dim("n")},) if dynamic else None
    network = network.eval()
    if path.suffix == ".onnx":
        torch.onnx.export(network, (pictures,), path, dynamic_shapes=shapes, external_data=False, verbose=False)
    elif path.suffix == ".pt2":
        torch.export.save(torch.export.export(network, (pictures,), dynamic_shapes=shapes), path)
    else:
        with torch.no_grad():
            torch.jit.trace(network, pictures, strict=False).save(str(path))
    return path


def small(kind: type[nn.Module] = Small, *arguments) -> nn.Module:
    torch.manual_seed(3)
    return kind(*arguments).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Each file that the tests share is exported once."""
    folder = tmp_path_factory.mktemp("exported")

    def made(suffix: str, kind: type[nn.Module] = Small, **options) -> Path:
        path = folder / f"{kind.__name__}{'-'.join(map(str, options.values()))}{suffix}"
        return path if path.exists() else export(small(kind), path, **options)

    return made


@pytest.fixture(scope="module")
def batch():
    return torch.rand(5, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def opened(path, layer=None, size=SIZE, classes=4):
    return open_exported(path, ModelConfig(input_size=size, embedding_layer=layer), classes, "cpu")


def refusal(path, **options) -> str:
    with pytest.raises(ModelError) as caught:
        opened(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 600
    return message


def outputs_of(network: nn.Module, pictures):
    with torch.no_grad():
        return network(pictures), network.encoder(pictures)


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


# The same outputs as the network


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_batches_of_any_size_give_what_the_network_gives(files, batch, suffix, count):
    close(opened(files(suffix))(batch[:count]), outputs_of(small(), batch[:count]))


@pytest.mark.parametrize("suffix", FORMATS)
def test_coarse_logits_are_not_taken_for_the_latent(files, batch, suffix):
    close(opened(files(suffix, Coarse))(batch), outputs_of(small(Coarse), batch))


@pytest.mark.parametrize("suffix", FORMATS[:2])
def test_a_fixed_batch_size_is_padded_and_cut(files, suffix):
    network, original = opened(files(suffix, batch=3, dynamic=False)), small()

    @settings(max_examples=12, deadline=None)
    @given(count=st.integers(1, 8), seed=st.integers(0, 99))
    def same(count, seed):
        pictures = torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(seed))
        close(network(pictures), outputs_of(original, pictures))

    same()


@pytest.mark.parametrize(
    ("suffix", "layer"),
    [(".onnx", "encoder"), (".pt2", "encoder"), (".pt2", "hardtanh_"), (".onnx", "latent"), (".torchscript", "latent")],
)
def test_a_named_latent_is_read(files, batch, suffix, layer):
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    kind = Both if layer == "latent" else Small
    path = files(suffix, kind)
    if (suffix, layer) == (".onnx", "latent"):
        import onnx

        layer = onnx.load(path).graph.output[0].name
    close(opened(path, layer)(batch), outputs_of(small(), batch))


def test_a_script_with_control_flow_runs(tmp_path, batch):
    class Branching(Small):
        def forward(self, pictures):
            features = self.encoder(pictures)
            if features.shape[0] > 3:
                features = features + 0
            return nn.functional.interpolate(self.head(features), scale_factor=8.0, mode="bilinear")

    network = small(Branching)
    torch.jit.script(network).save(str(tmp_path / "a.torchscript"))
    for count in (2, 5):
        close(opened(tmp_path / "a.torchscript")(batch[:count])[:1], [network(batch[:count]).detach()])


@given(stride=st.sampled_from(STRIDES), up=st.booleans(), height=st.integers(64, 900), width=st.integers(64, 900))
def test_a_map_at_a_stride_is_a_feature_map_and_a_vector_is_none(stride, up, height, width):
    rounded = math.ceil if up else math.floor
    shape = (2, 7, rounded(height / stride), rounded(width / stride))
    assert feature_stride(shape, (height, width), 4) == stride
    assert feature_stride(shape, (height, width), 7) is None
    assert feature_stride((2, 7, 1, 1), (height, width), 4) is None
    assert feature_stride((*shape[:2], shape[2] * shape[3]), (height, width), 4) is None
    assert feature_stride((2, 7, height, width), (height, width), 4) is None


# Refusals


@pytest.mark.parametrize("suffix", FORMATS)
def test_another_class_count_is_said_in_both_numbers(files, suffix):
    assert "5 names" in refusal(files(suffix), classes=5)
    assert "has 4 output channels" in refusal(files(suffix), classes=5)


@pytest.mark.parametrize("suffix", FORMATS[:2])
def test_another_input_size_is_said_with_the_one_to_set(files, suffix):
    message = refusal(files(suffix), size=(128, 96))
    assert message.startswith("model.input_size: [128, 96]")
    assert "64 × 96" in message
    assert "set it to [64, 96]" in message


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("content", ["empty", "text", "half"])
def test_a_corrupt_file_is_refused(files, tmp_path, suffix, content):
    whole, path = files(suffix), tmp_path / f"broken{suffix}"
    size = whole.stat().st_size
    path.write_bytes({"empty": b"", "text": b"<html>404</html>", "half": whole.read_bytes()[: size // 2]}[content])
    message = refusal(path)
    assert message.startswith("model.checkpoint: ")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_layer_that_is_not_there_is_named(files, suffix):
    message = refusal(files(suffix), layer="encoder7")
    assert message.startswith("model.embedding_layer: ")
    assert "'encoder7'" in message


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_network_without_a_feature_map_is_refused(files, suffix):
    assert "no feature map found" in refusal(files(suffix, Cold))


@pytest.mark.parametrize("layer", ["mean", "head"])
def test_a_latent_that_is_no_feature_map_is_refused(tmp_path, layer):
    class Vector(Small):
        def forward(self, pictures):
            return {"logits": super().forward(pictures), "mean": self.encoder(pictures).mean((2, 3))}

    path = export(small(Vector), tmp_path / "a.torchscript")
    message = refusal(path, layer=layer)
    assert "is no feature map" in message if layer == "mean" else "it has" in message


def test_what_is_not_logits_is_refused(tmp_path):
    network = nn.Sequential(small().encoder, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert "found an output of shape [1, 10]" in refusal(export(network, tmp_path / "a.torchscript"))


@pytest.mark.parametrize("suffix", FORMATS[:2])
def test_an_input_that_is_not_pictures_is_refused(tmp_path, suffix):
    class Channels(Small):
        def forward(self, pictures):
            return super().forward(pictures.permute(0, 3, 1, 2))

    path, pictures = tmp_path / f"a{suffix}", torch.rand(2, *SIZE, 3)
    if suffix == ".onnx":
        torch.onnx.export(small(Channels), (pictures,), path, external_data=False, verbose=False)
    else:
        torch.export.save(torch.export.export(small(Channels), (pictures,)), path)
    assert "(pictures, 3, height, width)" in refusal(path)


def test_onnx_weights_in_another_file_are_refused(files, tmp_path):
    onnx = pytest.importorskip("onnx")
    onnx.save(
        onnx.load(files(".onnx")), tmp_path / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0
    )
    assert "weights are in another file" in refusal(tmp_path / "a.onnx")


def test_a_whole_network_leaves_no_place_for_a_factory():
    with pytest.raises(ValueError, match=r"an ONNX file, a whole network: leave out 'factory'"):
        ModelConfig(checkpoint="a.onnx", factory="m:build", embedding_layer="x")


# Nothing is unpickled


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def rewritten(source: Path, path: Path, change) -> Path:
    """A copy of a zip archive whose entries pass `change(name, bytes)`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return path


def pickled(trap: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(Trap(trap), buffer)
    return buffer.getvalue()


def test_pickled_weights_of_an_archive_are_refused_and_never_run(files, tmp_path):
    trap = tmp_path / "was_here"

    def change(name, content):
        if name.endswith("/weight_0"):
            return pickled(trap)
        return content.replace(b'"use_pickle": false', b'"use_pickle": true') if name.endswith(".json") else content

    path = rewritten(files(".pt2"), tmp_path / "evil.pt2", change)
    assert "refused, 'encoder.0.weight' is pickled" in refusal(path)
    assert not trap.exists()
    with pytest.raises(Exception):  # noqa: B017
        torch.export.load(path)
    assert trap.exists()  # the trap itself works


def test_sample_inputs_and_guards_of_an_archive_are_not_read(files, tmp_path, batch):
    trap = tmp_path / "was_here"

    def change(name, content):
        if "sample_inputs" in name:
            return pickled(trap)
        if not name.endswith("models/model.json"):
            return content
        return json.dumps(json.loads(content) | {"guards_code": [f"open({str(trap)!r}, 'w')"]})

    path = rewritten(files(".pt2"), tmp_path / "evil.pt2", change)
    close(opened(path)(batch), outputs_of(small(), batch))
    assert not trap.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "builtins.eval",
        "torch.ops.aten.from_file.default",
        "torch.ops.mine.op.default",
        "_operator.call",
    ],
)
def test_operations_that_are_not_torch_s_own_are_refused(files, tmp_path, target):
    def change(name, content):
        own = b'"torch.ops.aten.hardtanh_.default"'
        return content.replace(own, f'"{target}"'.encode()) if name.endswith("models/model.json") else content

    path = rewritten(files(".pt2"), tmp_path / "evil.pt2", change)
    assert f"'{target}' is not an operation of torch's own" in refusal(path)


def test_an_archive_of_another_schema_is_refused(files, tmp_path):
    def change(name, content):
        return content.replace(b'{"major": 8', b'{"major": 9') if name.endswith(".json") else content

    assert "found schema 9" in refusal(rewritten(files(".pt2"), tmp_path / "new.pt2", change))
    torch.save({}, tmp_path / "weights.pt2")
    assert "found 0 programs" in refusal(tmp_path / "weights.pt2")


def test_a_torchscript_program_is_not_run_under_the_name_of_weights(files, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(files(".torchscript").read_bytes())
    with pytest.raises(ModelError, match=r"a TorchScript archive.*that you trust, and name it \.torchscript"):
        read_checkpoint(path)


# In the store


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_is_kept_in_the_store_and_named_by_its_bytes(files, tmp_path, batch, suffix):
    place = {"reader": "folder", "root": tmp_path}
    config = GapConfig.model_validate(
        {
            "classes": list(CLASSES),
            "model": {"checkpoint": files(suffix), "input_size": SIZE},
            "source": {"name": "here", **place},
            "targets": [{"name": "there", **place}],
            "compute": {"device": "cpu"},
        }
    )
    version = save_model(tmp_path / "model", open_checkpoint(config), config, trained_here=False)
    assert version == model_fingerprint(config.model, CLASSES, file_digest(files(suffix)))
    model = load_model(tmp_path / "model", config)
    assert model.fingerprint == version
    found = model(batch)
    close((found.logits, found.latent), outputs_of(small(), model.normalised(batch)))
    assert found.stages == [found.latent]
    assert config.model.title == (f"Small{suffix}", "latent: the deepest feature map")
    assert config.model.exported == EXPORTED[suffix]
    other = config.model_copy(update={"model": config.model.model_copy(update={"embedding_layer": "x"})})
    with pytest.raises(ModelError, match="saved under other settings"):
        load_model(tmp_path / "model", other)
