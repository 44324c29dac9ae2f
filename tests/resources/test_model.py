"""The model: what loads, what is refused and in which words, and that one forward yields logits and stages."""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from resources.config import ComputeConfig, GapConfig, ModelConfig
from resources.errors import ModelError
from resources.model import (
    SegmentationModel,
    build_network,
    load_model,
    load_weights,
    model_fingerprint,
    pick_device,
    precise_version,
    read_checkpoint,
    save_model,
    seed_everything,
)
from resources.streams import in_order

SIZE = (64, 96)
CONFIG = ModelConfig(input_size=SIZE)
CLASSES = ("road", "sky", "car", "tree")
FACTORY = """
import torch
from torch import nn


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=4, padding=1)
        self.layer = nn.Conv2d(6, 10, 3, stride=2, padding=1)

    def forward(self, x):
        return {"out": self.layer(self.stem(x))}


class Dictionary(nn.Module):  # as torchvision's segmentation networks
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.classifier = nn.Conv2d(10, 4, 1)
        self.unused = nn.Conv2d(10, 4, 1)

    def forward(self, x):
        logits = self.classifier(self.backbone(x)["out"])
        return {"out": nn.functional.interpolate(logits, size=x.shape[-2:], mode="bilinear"), "aux": None}


class Coarse(Dictionary):
    def forward(self, x):
        return self.classifier(self.backbone(x)["out"])


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = Coarse()

    def forward(self, x):
        return self.module(x)


def dictionary():
    torch.manual_seed(3)
    return Dictionary()


def coarse():
    torch.manual_seed(3)
    return Coarse()


def wrapped():
    torch.manual_seed(3)
    return Wrapped()


def needs_an_argument(something):
    return something


def breaks():
    raise RuntimeError("no weights\\nin this folder")
"""


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network(CONFIG, len(CLASSES))


@pytest.fixture(scope="module")
def pretrained():
    """A network that starts like `network`, then takes the bundled encoder weights."""
    torch.manual_seed(0)
    return build_network(CONFIG, len(CLASSES), pretrained=True)


@pytest.fixture(scope="module")
def batch():
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """A module of the user's own with networks in it."""
    (tmp_path / "own_networks.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    importlib.invalidate_caches()
    yield "own_networks"
    sys.modules.pop("own_networks", None)


@pytest.fixture
def whole(tmp_path):
    """A config around a model config."""

    def config(model: ModelConfig = CONFIG, classes=CLASSES) -> GapConfig:
        place = {"reader": "folder", "root": tmp_path}
        return GapConfig.model_validate(
            {
                "classes": list(classes),
                "model": model,
                "source": {"name": "here", **place},
                "targets": [{"name": "there", **place}],
                "compute": {"device": "cpu"},
            }
        )

    return config


def own_factory(factory, function, layer="backbone.layer"):
    return ModelConfig(factory=f"{factory}:{function}", embedding_layer=layer, input_size=SIZE)


def refusal(*arguments, by=load_weights):
    with pytest.raises(ModelError) as caught:
        by(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) < 600
    return message


def refused_weights(network, state, classes=CLASSES):
    return refusal(network, state, Path("weights.pt"), classes)


# Networks


def test_one_forward_gives_logits_and_stages(network, batch):
    outputs = SegmentationModel(network, CONFIG, 4, "v", "cpu")(batch)
    assert tuple(outputs.logits.shape) == (2, 4, *SIZE)
    assert outputs.latent is outputs.stages[-1]
    assert [stage.shape[2] for stage in outputs.stages] == sorted((s.shape[2] for s in outputs.stages), reverse=True)
    assert all(stage.shape[1] > 0 and stage.dtype == torch.float32 for stage in outputs.stages)
    with torch.no_grad():
        mean, std = (torch.tensor(values)[:, None, None] for values in (CONFIG.mean, CONFIG.std))
        plain = network((batch - mean) / std)
    torch.testing.assert_close(outputs.logits, plain, atol=1e-5, rtol=1e-5)
    assert not outputs.logits.requires_grad


def test_the_model_is_in_evaluation_mode(network, batch):
    model = SegmentationModel(network.train(), CONFIG, 4, "v", "cpu")
    torch.testing.assert_close(model(batch).logits[:1], model(batch[:1]).logits, atol=1e-4, rtol=1e-4)


def test_the_bundled_encoder_weights_change_the_encoder_and_nothing_else(pretrained):
    torch.manual_seed(0)
    plain, loaded = build_network(CONFIG, 4).state_dict(), pretrained.state_dict()
    moved = {name for name, tensor in plain.items() if not torch.equal(tensor, loaded[name])}
    encoder = {name for name in plain if name.startswith("encoder.") and "num_batches" not in name}
    assert moved == encoder


def test_the_bundled_encoder_sees_more_than_chance(network, pretrained):
    """Trained filters: first-layer kernels of neighbouring pixels go together, which random ones' do not."""

    def smoothness(network):
        kernels = network.encoder.model.conv_stem.weight.detach()
        one, next_to_it = kernels[..., :-1].flatten(), kernels[..., 1:].flatten()
        return float(torch.corrcoef(torch.stack([one, next_to_it]))[0, 1])

    assert smoothness(network) < 0.2 < smoothness(pretrained)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "DeepLab3"}, "DeepLab3"),
        ({"encoder": "resnet7"}, "resnet7"),
        ({"encoder": "tu-no_such_model"}, "tu-no_such_model"),
    ],
)
def test_an_unknown_network_is_named(changes, words):
    assert words in refusal(ModelConfig(input_size=SIZE, **changes), 4, by=build_network)


@pytest.mark.parametrize(
    ("size", "proposed"), [((70, 100), (64, 96)), ((375, 1242), (368, 1248)), ((64, 97), (64, 96))]
)
def test_sizes_that_fit_are_proposed(size, proposed):
    message = refusal(ModelConfig(input_size=size), 4, by=build_network)
    assert f"[{size[0]}, {size[1]}]" in message
    assert f"try [{proposed[0]}, {proposed[1]}]" in message
    build_network(ModelConfig(input_size=proposed), 4)


def test_other_class_counts_show_at_the_first_forward(network, batch):
    assert "4 output channels, but 'classes' names 5" in refusal(
        batch, by=SegmentationModel(network, CONFIG, 5, "v", "cpu")
    )


# Checkpoints


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_are_read_as_they_were_written(network, tmp_path, suffix):
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    found = read_checkpoint(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("wrap", [{"state_dict": True}, {"model": True}])
def test_training_checkpoints_and_parallel_networks_are_unwrapped(network, tmp_path, wrap):
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({**dict.fromkeys(wrap, state), "epoch": 7, "optimizer": {"lr": 0.1}}, tmp_path / "a.pth")
    torch.manual_seed(9)
    other = build_network(CONFIG, 4)
    load_weights(other, read_checkpoint(tmp_path / "a.pth"), tmp_path / "a.pth", CLASSES)
    mine, theirs = network.state_dict(), other.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_another_class_count_is_said_in_both_numbers(network):
    state = build_network(CONFIG, 7).state_dict()
    message = refused_weights(network, state)
    assert "4 names" in message
    assert "weights.pt has 7 output channels" in message


def test_missing_unknown_and_misshapen_tensors_are_counted_and_named(network):
    state = dict(network.state_dict())
    one, other = sorted(state)[:2]
    lacking = {name: tensor for name, tensor in state.items() if name not in (one, other)}
    assert f"lacks 2 tensors, first '{one}'" in refused_weights(network, lacking)
    assert "has unknown 1 tensors, first 'extra'" in refused_weights(network, {**state, "extra": torch.zeros(1)})
    assert f"has another shape for 1 tensors, first '{one}'" in refused_weights(
        network, {**state, one: torch.zeros(3, 1)}
    )


def test_another_architecture_is_refused(network):
    state = build_network(ModelConfig(architecture="FPN", input_size=SIZE), 4).state_dict()
    message = refused_weights(network, state)
    assert "does not fit model.architecture and model.encoder" in message


def test_a_refused_checkpoint_leaves_the_network_as_it_was(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    refused_weights(network, {**state, "extra": torch.zeros(1)})
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_truncated_file_is_refused(network, tmp_path, suffix):
    state, path = network.segmentation_head.state_dict(), tmp_path / f"weights{suffix}"
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = refusal(path, by=read_checkpoint)
    assert f"{path}: not readable as weights" in message


@pytest.mark.parametrize(
    "content", [b"", b"hello world, not a model", b"<html>404 not found</html>", bytes(range(256))]
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    message = refusal(path, by=read_checkpoint)
    assert f"{path}: not readable as weights" in message
    assert not message.endswith(": ")


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("written_by", ["torch", "pickle", "old torch"])
def test_code_in_a_checkpoint_is_refused_and_never_run(network, tmp_path, written_by):
    path, trap = tmp_path / "evil.pt", tmp_path / "was_here"
    content = {"state_dict": network.segmentation_head.state_dict(), "callback": Trap(trap)}
    if written_by == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=written_by == "torch")
    message = refusal(path, by=read_checkpoint)
    assert not trap.exists()
    assert "weights_only" not in message  # no advice to run it all the same
    if written_by == "torch":
        assert "refused, it holds more than weights (io.open)" in message
        assert "save the state dict alone" in message
    torch.load(path, weights_only=False) if written_by != "pickle" else pickle.loads(path.read_bytes())
    assert trap.exists()  # the trap itself works


def test_a_whole_network_is_refused_with_its_class(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    assert "(torch.nn.modules.linear.Linear)" in refusal(tmp_path / "whole.pt", by=read_checkpoint)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {"a": torch.zeros(1), "b": 2}}, {1: 2}])
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    assert "expected a state dict" in refusal(tmp_path / "a.pt", by=read_checkpoint)


# Networks of the user's own


@pytest.mark.parametrize("function", ["dictionary", "coarse"])
def test_a_factory_with_an_embedding_layer(factory, batch, function):
    config = own_factory(factory, function)
    network = build_network(config, 4)
    outputs = SegmentationModel(network, config, 4, "v", "cpu")(batch)
    assert tuple(outputs.logits.shape) == (2, 4, *SIZE)
    assert tuple(outputs.latent.shape) == (2, 10, SIZE[0] // 8, SIZE[1] // 8)
    with torch.no_grad():
        mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
        plain = network((batch - mean) / std)
        expected = network.backbone((batch - mean) / std)["out"]
    torch.testing.assert_close(outputs.latent, expected, atol=1e-5, rtol=1e-5)
    if function == "dictionary":
        torch.testing.assert_close(outputs.logits, plain["out"], atol=1e-5, rtol=1e-5)
    assert not network.backbone.layer._forward_hooks  # none is left behind


@pytest.mark.parametrize(
    ("name", "layer", "words"),
    [
        ("own_networks:nothing", "backbone", "own_networks:nothing"),
        ("no_such_module:x", "backbone", "no_such_module"),
        ("own_networks:needs_an_argument", "backbone", "needs_an_argument"),
        ("own_networks:breaks", "backbone", "no weights in this folder"),
        ("own_networks:coarse", "backbone.layer9", "layer9"),
    ],
)
def test_a_factory_that_can_not_be_used_is_refused(factory, name, layer, words):
    message = refusal(ModelConfig(factory=name, embedding_layer=layer, input_size=SIZE), 4, by=build_network)
    assert message.startswith("model.factory: ")
    assert words in message


@pytest.mark.parametrize("layer", ["backbone", "unused"])
def test_an_embedding_layer_without_a_feature_map_is_named(factory, batch, layer):
    config = own_factory(factory, "dictionary", layer)
    message = refusal(batch, by=SegmentationModel(build_network(config, 4), config, 4, "v", "cpu"))
    assert f"model.embedding_layer: '{layer}'" in message


@pytest.mark.parametrize("function", ["coarse", "wrapped"])
def test_a_network_of_ones_own_is_saved_and_loaded(factory, batch, tmp_path, whole, function):
    """Also one whose own tensors are named 'module.…', as those of a parallel network."""
    config = whole(
        own_factory(factory, function, "module.backbone.layer" if function == "wrapped" else "backbone.stem")
    )
    network = build_network(config.model, 4)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    version = save_model(tmp_path / "model", network, config, trained_here=False)
    again = load_model(tmp_path / "model", config)
    expected = SegmentationModel(network, config.model, 4, version, "cpu")(batch)
    assert torch.equal(again(batch).logits, expected.logits)


# Saved models


def test_a_saved_model_is_the_same_model(network, batch, tmp_path, whole):
    config = whole()
    version = save_model(tmp_path / "model", network, config, trained_here=True)
    expected = SegmentationModel(network, CONFIG, 4, version, "cpu")(batch)
    again = load_model(tmp_path / "model", config)
    assert again.fingerprint == version
    assert again.input_size == SIZE
    found = again(batch)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.latent, expected.latent)
    assert save_model(tmp_path / "again", again.network, config, trained_here=False) == version
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "weights.safetensors"]
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in (tmp_path / "model").iterdir()} == {(tmp_path / "plain").stat().st_mode}


def test_the_fingerprint_names_what_decides_an_output_and_nothing_else():
    def version(classes=CLASSES, digest="d", **changes):
        return model_fingerprint(ModelConfig(**{"input_size": SIZE, **changes}), classes, digest)

    plain = version()
    assert version(checkpoint="elsewhere.pt", training={"epochs": 3}) == plain
    changed = [
        version(digest="e"),
        version(classes=CLASSES[::-1]),
        version(mean=(0.5, 0.5, 0.5)),
        version(std=(0.5, 0.5, 0.5)),
        version(input_size=(96, 64)),
        version(encoder="resnet18"),
        version(architecture="FPN"),
    ]
    assert len({plain, *changed}) == 8


def test_other_weights_are_loaded_when_they_are_saved(network, batch, tmp_path, whole):
    config = whole()
    save_model(tmp_path, network, config, trained_here=True)
    first = load_model(tmp_path, config)
    assert load_model(tmp_path, config) is first
    torch.manual_seed(5)
    version = save_model(tmp_path, build_network(CONFIG, 4), config, trained_here=True)
    second = load_model(tmp_path, config)
    assert second.fingerprint == version != first.fingerprint
    assert not torch.equal(first(batch).logits, second(batch).logits)


def test_a_model_saved_under_other_settings_is_not_passed_off_as_this_one(network, tmp_path, whole):
    save_model(tmp_path, network, whole(), trained_here=True)
    load_model(tmp_path, whole())
    changed = whole(CONFIG.model_copy(update={"mean": (0.1, 0.1, 0.1)}))
    message = refusal(tmp_path, changed, by=load_model)
    assert "source/model" in message


def test_no_saved_model_is_said_with_what_makes_one(tmp_path, whole):
    assert "domain-gap run" in refusal(tmp_path, whole(), by=load_model)


# Devices and seeds


def test_auto_takes_what_is_there():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert pick_device("auto") == expected
    assert pick_device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("device", "there"), [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())]
)
def test_a_device_that_is_not_there_is_refused(device, there):
    if there:
        pytest.skip(f"{device} is there")
    assert f"compute.device: '{device}'" in refusal(device, by=pick_device)


def test_a_seed_decides_global_and_own_draws():
    first, a = seed_everything(3), torch.rand(2)
    second, b = seed_everything(3), torch.rand(2)
    assert torch.equal(a, b)
    assert torch.equal(torch.rand(2, generator=first), torch.rand(2, generator=second))
    assert not torch.equal(torch.rand(2, generator=seed_everything(4)), torch.rand(2, generator=seed_everything(3)))


class LastStage(nn.Module):
    """What a decoder of no layers hands to the head."""

    def forward(self, stages: list[torch.Tensor]) -> torch.Tensor:
        return stages[-1]


class Tiny(nn.Module):
    """The parts that a forward takes from a segmentation network, each of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.decoder = LastStage()
        self.segmentation_head = nn.Sequential(nn.Conv2d(8, 3, 1), nn.UpsamplingBilinear2d(scale_factor=2))

    def encoder(self, batch: torch.Tensor) -> list[torch.Tensor]:
        return [batch, self.stem(batch).relu()]

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.segmentation_head(self.decoder(self.encoder(batch)))


def tiny_model(**compute) -> SegmentationModel:
    torch.manual_seed(0)
    network = Tiny()
    config = ModelConfig(input_size=(32, 48))
    return SegmentationModel(network, config, 3, "tiny", "cpu", ComputeConfig(**compute))


def test_half_precision_is_what_the_config_says_and_comes_back_whole():
    batch = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    whole, auto, half = (tiny_model(precision=kind)(batch) for kind in ("float32", "auto", "bfloat16"))
    assert torch.equal(whole.logits, auto.logits)  # on a processor nothing is halved that was not asked for
    assert half.logits.dtype == half.latent.dtype == torch.float32
    assert 0 < float((half.logits - whole.logits).abs().max()) < 0.05


def test_a_named_precision_makes_figures_of_its_own():
    versions = {precise_version("weights", ComputeConfig(precision=kind)) for kind in ("auto", "float32", "bfloat16")}
    assert len(versions) == 3
    assert precise_version("weights", ComputeConfig(batch_size=3, compile=True)) == "weights"


@pytest.mark.slow
def test_a_compiled_model_gives_what_the_network_gives():
    batch = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    plain, compiled = tiny_model(), tiny_model(compile=True)
    torch.testing.assert_close(compiled(batch).logits, plain(batch).logits, rtol=1e-4, atol=1e-5)
    assert compiled.streams == 1
    assert not compiled.compute.compile  # models made from it are run as they are


def test_hooked_forwards_in_threads_keep_apart():
    config = ModelConfig(input_size=(32, 48), embedding_layer="stem")
    torch.manual_seed(0)
    network = Tiny()
    model = SegmentationModel(network, config, 3, "tiny", "cpu")
    batches = [torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(seed)) for seed in range(24)]
    alone = [model(batch).latent for batch in batches]
    for expected, found in zip(alone, in_order(lambda batch: model(batch).latent, batches, 4), strict=True):
        torch.testing.assert_close(found, expected)
