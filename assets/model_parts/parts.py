"""The parts of a network: found by watching one forward, named for a reader, in the order in which data flow.

Belongs here: which module's output is a part's, which layers are its own, what feeds it, hooks on it.
Does not: what is measured at a part (`activations.py`) or done to it (`ablation.py`, `recovery.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from resources.model import SegmentationModel

if TYPE_CHECKING:
    from torch import Tensor, nn

MOST_PARTS = 20
"""A network that is not of segmentation_models_pytorch is opened up until it has about this many parts."""
PROBE_SIDE = 128
"""Pixels of the square that a network is watched on; one that refuses it is watched at its input's size."""
TOKENS, MAP = 3, 4
"""Dimensions of (pictures, tokens, channels) and (pictures, channels, height, width)."""

DECODERS = {
    "DeepLabV3PlusDecoder": {"aspp": "ASPP projection", "block1": "low-level branch", "block2": "fusion"},
    "DeepLabV3Decoder": {"aspp": "ASPP projection"},
}
"""What the children of known decoders are called in the field."""


class NoParts(Exception):
    """The network has no parts that can be looked at; the message says why."""


@dataclass(frozen=True)
class Part:
    """A part of the network: the module whose output is the part's, the layers that are its own, what feeds it.

    `fed_by`: names of the parts whose outputs reach it by no other part; none for one that reads the picture.
    """

    name: str
    output: str
    layers: tuple[str, ...]
    channels: int
    fed_by: tuple[str, ...] = ()


@dataclass
class Trace:
    """What one forward did: how often each module ran, when it began and ended, what went in and came out.

    `whole` holds outputs as they are, `made` the tensor, or the first of several.
    """

    calls: Counter[str] = field(default_factory=Counter)
    began: dict[str, int] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    whole: dict[str, Any] = field(default_factory=dict)
    several: set[str] = field(default_factory=set)
    """Modules that gave more than one tensor, or anything around it."""


@dataclass(frozen=True)
class Examined:
    """A model with its parts in data-flow order, and what a forward through it did.

    `settled`: by part, the modules whose outputs can be replayed while the part is changed.
    """

    model: SegmentationModel
    parts: list[Part]
    trace: Trace
    settled: dict[str, list[str]] = field(default_factory=dict)


def examine(model: SegmentationModel) -> Examined:
    """Find the parts: encoder stages, ASPP branches, the decoder's children, the head; of other networks their blocks.

    Raises NoParts for an exported network, and for one that has no module to look at.
    """
    from torch import nn

    network = model.network
    if not isinstance(network, nn.Module):
        raise NoParts(
            f"{network.kind} runs as it was exported, so its parts can't be looked at; "
            "give the network and its state dict"
        )
    probe = _probe(model)
    trace = traced(model, probe)
    if model.config.embedding_layer is None:
        found = [*_encoder_stages(model, trace, probe), *_decoder(model, trace)]
        head = _block(network, trace, ("segmentation_head",), "segmentation head")
        found += [head] if head is not None else []
    else:
        found = _blocks(network, trace)
    found.sort(key=lambda part: trace.ended[part.output])
    if not found:
        raise NoParts("no module of the network runs once a forward and gives a feature map")
    parts = _with_feeds(model, found, probe)
    return Examined(model, parts, trace, {part.name: _replayable(model, trace, part, probe) for part in parts})


@contextmanager
def replaced(network: nn.Module, path: str, change: Callable[[Tensor, Tensor | None], Tensor]) -> Iterator[None]:
    """While it lasts, a module's output (the first of several) goes through `change(output, input)`."""

    def hook(_module: Any, given: Any, made: Any) -> Any:
        return _with_first(made, change(_first(made), _first(given)))

    handle = network.get_submodule(path).register_forward_hook(hook, prepend=True)  # before what else reads it
    try:
        yield
    finally:
        handle.remove()


def constant(values: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
    """For `replaced`: the same values by channel (c,) at every place."""
    return lambda made, _given: spread_like(values, made).clone()


def spread_like(values: Tensor, output: Tensor) -> Tensor:
    """Values by channel (c,) at every place of an output: (n, c, h, w), (n, tokens, c) or (n, c)."""
    shaped = values.to(output)[:, None, None] if output.ndim == MAP else values.to(output)
    return shaped.expand_as(output)


def channel_moments(output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over the places of each picture's output, (n, c) each, in double precision."""
    values = output.double()
    places = values.flatten(2) if output.ndim == MAP else values.transpose(1, 2) if output.ndim == TOKENS else None
    if places is None:
        return values, values * 0
    return places.mean(2), places.var(2, correction=0)


def batch_norms(network: nn.Module, part: Part) -> dict[str, Any]:
    """The part's own batch-norm layers with running statistics, by path."""
    from torch.nn.modules.batchnorm import _BatchNorm

    layers = {path: network.get_submodule(path) for path in part.layers}
    return {
        path: layer for path, layer in layers.items() if isinstance(layer, _BatchNorm) and layer.track_running_stats
    }


def traced(model: SegmentationModel, batch: Tensor) -> Trace:
    """Watch one forward."""
    found = Trace()
    time = count()

    def begin(path: str) -> Callable[..., None]:
        def hook(_module: Any, _given: Any) -> None:
            found.began.setdefault(path, next(time))

        return hook

    def watch(path: str) -> Callable[..., None]:
        def hook(_module: Any, given: Any, made: Any) -> None:
            found.calls[path] += 1
            found.ended[path] = next(time)
            found.whole[path] = made
            found.given[path], found.made[path] = _first(given), _first(made)
            if found.made[path] is not made:
                found.several.add(path)

        return hook

    network: Any = model.network
    modules = [(path, module) for path, module in network.named_modules() if path]
    handles = [module.register_forward_hook(watch(path)) for path, module in modules]
    handles += [module.register_forward_pre_hook(begin(path)) for path, module in modules]
    try:
        model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def settled(trace: Trace, part: Part, read: str | None = None) -> list[str]:
    """The outermost modules that had ended before the part's own began: what they give, no change of it changes.

    None of them holds `read`, the module that a forward reads the latent from and must therefore run.
    """
    first = min(trace.began[layer] for layer in part.layers)
    done = {path for path, end in trace.ended.items() if end < first and trace.calls[path] == 1}
    done = {path for path in done if not (read or "").startswith(f"{path}.")}
    return [path for path in done if not any(path.startswith(f"{other}.") for other in done)]


@contextmanager
def replayed(network: nn.Module, outputs: Mapping[str, Any]) -> Iterator[None]:
    """While it lasts, modules give copies of outputs, by path, instead of computing them."""

    def give(made: Any) -> Callable[..., Any]:
        return lambda *_args, **_more: _copied(made)

    modules: list[Any] = [network.get_submodule(path) for path in outputs]
    try:
        for module, made in zip(modules, outputs.values(), strict=True):
            module.forward = give(made)
        yield
    finally:
        for module in modules:
            vars(module).pop("forward", None)


def _copied(made: Any) -> Any:
    """Later modules may change what they are given in place."""
    import torch

    if isinstance(made, torch.Tensor):
        return made.clone()
    return type(made)([_copied(value) for value in made]) if isinstance(made, tuple | list) else made


def _probe(model: SegmentationModel) -> Tensor:
    import torch

    noise = torch.Generator().manual_seed(0)
    for size in ((PROBE_SIDE, PROBE_SIDE), model.input_size):
        batch = torch.rand((1, 3, *size), generator=noise)
        with suppress(Exception):  # whatever a network raises that takes no other size than its own
            model(batch)
            return batch
    raise NoParts("the network can't be run on a picture of its own input size")


def _first(value: Any) -> Any:
    """The tensor of a module's input or output, or the first of several; None for anything else."""
    import torch

    while isinstance(value, tuple | list) and value:
        value = value[0]
    return value if isinstance(value, torch.Tensor) else None


def _with_first(value: Any, tensor: Tensor) -> Any:
    if isinstance(value, tuple | list):
        return type(value)([_with_first(value[0], tensor), *value[1:]])
    return tensor


def _runs_once(trace: Trace, path: str) -> bool:
    made = trace.made.get(path)
    return trace.calls[path] == 1 and made is not None and made.ndim <= MAP and made.is_floating_point()


def _channels(output: Tensor) -> int:
    return int(output.shape[1] if output.ndim == MAP else output.shape[-1])


def _state_layers(network: nn.Module, trace: Trace, path: str) -> list[str]:
    """The module itself or those within it that ran and hold parameters or buffers of their own."""
    root = network.get_submodule(path)
    named = [(f"{path}.{name}" if name else path, module) for name, module in root.named_modules()]
    return [
        name
        for name, module in named
        if trace.calls[name] and (module._parameters or module._buffers)  # what is its own, not its children's
    ]


# --- networks of segmentation_models_pytorch --------------------------------------------------------------------------


def _encoder_stages(model: SegmentationModel, trace: Trace, probe: Tensor) -> list[Part]:
    """One part a stage whose feature map a module gives; the layers of a stage that none gives go to the next one."""
    network: Any = model.network
    stages = model(probe).stages
    layers = sorted(_state_layers(network, trace, "encoder"), key=lambda path: trace.ended[path])
    found: list[Part] = []
    for index, stage in enumerate(stages):
        output = _stage_module(model, trace, probe, index, stage)
        if output is None:
            continue
        own = [path for path in layers if trace.ended[path] <= trace.ended[output]]
        layers = layers[len(own) :]
        if own:
            found.append(Part(f"encoder stage {index + 1}", output, tuple(own), stage.shape[1]))
    return found


def _stage_module(model: SegmentationModel, trace: Trace, probe: Tensor, index: int, stage: Tensor) -> str | None:
    """The outermost module of the encoder whose output, replaced, is what the encoder gives as that stage."""
    import torch

    network: Any = model.network
    equal = [
        path for path, made in trace.made.items()
        if path.startswith("encoder.") and _runs_once(trace, path) and path not in trace.several
        and made.shape == stage.shape and torch.equal(made.float(), stage)
    ]  # fmt: skip
    mark = torch.linspace(0.1, 0.9, stage.shape[1])
    for path in sorted(equal, key=lambda path: -trace.ended[path]):
        with replaced(network, path, constant(mark)):
            given = model(probe).stages[index]
        if torch.allclose(given, spread_like(mark, given), atol=1e-2):
            return path
    return None


def _decoder(model: SegmentationModel, trace: Trace) -> list[Part]:
    network: Any = model.network
    names = DECODERS.get(type(network.decoder).__name__, {})
    found = []
    for paths in _chains(network, trace, "decoder"):
        inner = paths[0].removeprefix("decoder.")
        name = f"decoder: {names.get(inner, _run_name([path.removeprefix('decoder.') for path in paths]))}"
        found += _with_branches(network, trace, paths, name)
    return found


# --- any network ------------------------------------------------------------------------------------------------------


def _blocks(network: nn.Module, trace: Trace) -> list[Part]:
    """The network's children, opened up, the largest first, while that leaves at most `MOST_PARTS`."""
    blocks = _chains(network, trace, "")
    while (larger := _opened(network, trace, blocks)) is not None:
        blocks = larger
    return [part for paths in blocks for part in _with_branches(network, trace, paths, _run_name(paths))]


def _opened(network: nn.Module, trace: Trace, blocks: list[tuple[str, ...]]) -> list[tuple[str, ...]] | None:
    """The blocks with one of them opened; None where none can be. One that gives no feature map must be."""
    for block in sorted(blocks, key=lambda paths: (_gives_map(trace, paths), -_size(network, paths))):
        inner = _chains(network, trace, block[0]) if len(block) == 1 and not _is_aspp(network, block[0]) else []
        must = not _gives_map(trace, block)
        if must or (len(inner) > 1 and len(blocks) - 1 + len(inner) <= MOST_PARTS):
            place = blocks.index(block)
            return [*blocks[:place], *inner, *blocks[place + 1 :]]
    return None


def _gives_map(trace: Trace, paths: Sequence[str]) -> bool:
    return _runs_once(trace, paths[-1])


def _size(network: nn.Module, paths: Sequence[str]) -> int:
    return sum(weight.numel() for path in paths for weight in network.get_submodule(path).parameters())


def _chains(network: nn.Module, trace: Trace, path: str) -> list[tuple[str, ...]]:
    """The children of a module that ran, those that follow one another at one shape taken together.

    Lists of modules stand for their members. Chains without parameters or buffers are left out.
    """
    chains: list[list[str]] = []
    for child in _children(network, trace, path):
        before = chains[-1][-1] if chains else None
        if before is not None and _follows(trace, before, child) and not _is_aspp(network, before):
            chains[-1].append(child)
        else:
            chains.append([child])
    return [tuple(chain) for chain in chains if any(_state_layers(network, trace, one) for one in chain)]


def _children(network: nn.Module, trace: Trace, path: str) -> list[str]:
    module = network.get_submodule(path)
    found = []
    for name, _ in module.named_children():
        child = f"{path}.{name}" if path else name
        found += [child] if trace.calls[child] else _children(network, trace, child)
    return sorted(found, key=lambda child: trace.ended[child])


def _follows(trace: Trace, before: str, child: str) -> bool:
    made, given, after = trace.made[before], trace.given[child], trace.made[child]
    whole = made is not None and given is not None and after is not None
    once = trace.calls[before] == 1 and trace.calls[child] == 1
    return bool(whole and once and given is made and after.shape == made.shape)


def _is_aspp(network: nn.Module, path: str) -> bool:
    from torch import nn

    return any(
        isinstance(getattr(module, "convs", None), nn.ModuleList) and hasattr(module, "project")
        for module in network.get_submodule(path).modules()
    )


def _with_branches(network: nn.Module, trace: Trace, paths: Sequence[str], name: str) -> list[Part]:
    """A block as one part; one that holds an ASPP as its branches and what is left of it."""
    from torch import nn

    branches = []
    for path in paths:
        for inner, module in network.get_submodule(path).named_modules():
            if isinstance(getattr(module, "convs", None), nn.ModuleList) and hasattr(module, "project"):
                place = f"{path}.{inner}.convs" if inner else f"{path}.convs"
                branches += [(f"{place}.{i}", branch) for i, branch in enumerate(module.convs)]
    found = [_block(network, trace, (path,), f"ASPP branch, {_branch_name(branch)}") for path, branch in branches]
    taken = {layer for part in found if part is not None for layer in part.layers}
    return [part for part in (*found, _block(network, trace, paths, name, taken)) if part is not None]


def _branch_name(branch: nn.Module) -> str:
    from torch import nn

    rates = [layer.dilation[0] for layer in branch.modules() if isinstance(layer, nn.Conv2d)]
    if any(isinstance(layer, nn.AdaptiveAvgPool2d) for layer in branch.modules()):
        return "image pooling"
    return f"rate {max(map(int, rates))}" if rates and max(map(int, rates)) > 1 else "1 × 1"


def _block(
    network: nn.Module, trace: Trace, paths: Sequence[str], name: str, taken: set[str] | None = None
) -> Part | None:
    own = [layer for path in paths for layer in _state_layers(network, trace, path) if layer not in (taken or ())]
    if not own or not _gives_map(trace, paths):
        return None
    return Part(name, paths[-1], tuple(own), _channels(trace.made[paths[-1]]))


def _run_name(paths: Sequence[str]) -> str:
    """'backbone.3' or, of several in a chain, 'backbone.3 to 5'."""
    return paths[0] if len(paths) == 1 else f"{paths[0]} to {paths[-1].rpartition('.')[2]}"


def _replayable(model: SegmentationModel, trace: Trace, part: Part, probe: Tensor) -> list[str]:
    """`settled`, where replaying it gives the very logits of the untouched forward; else nothing."""
    import torch

    network: Any = model.network
    paths = settled(trace, part, model.config.embedding_layer)
    plain = model(probe).logits
    with replayed(network, {path: trace.whole[path] for path in paths}):
        again = model(probe).logits
    return paths if torch.equal(plain, again) else []


# --- what feeds what --------------------------------------------------------------------------------------------------


def _with_feeds(model: SegmentationModel, parts: list[Part], probe: Tensor) -> list[Part]:
    """The parts with what feeds each, seen by replacing one output after the other."""
    import torch

    network: Any = model.network
    plain = traced(model, probe).made
    noise = torch.Generator().manual_seed(1)
    reached: dict[str, set[str]] = {}
    for part in parts:
        with replaced(network, part.output, constant(torch.rand(part.channels, generator=noise))):
            made = traced(model, probe).made
        reached[part.name] = {
            other.name for other in parts
            if other is not part and not torch.equal(made[other.output], plain[other.output])
        }  # fmt: skip
    return [_fed(part, reached) for part in parts]


def _fed(part: Part, reached: dict[str, set[str]]) -> Part:
    before = [name for name, after in reached.items() if part.name in after]
    direct = [name for name in before if not any(other in reached[name] for other in before)]
    return Part(part.name, part.output, part.layers, part.channels, tuple(direct))
