"""Archives of `torch.export.save` (.pt2): their graph, run operation by operation.

Belongs here: reading graph and weights, evaluating nodes. Does not: any other format. `torch.export.load` unpickles and
evaluates what an archive holds; here only tables and raw tensors are read, and only torch's own operations run.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor

from resources.config import ModelConfig
from resources.errors import ModelError
from resources.exported.deepest import DeepestActivation
from resources.exported.program import Opened, no_feature_map, pick_logits, unknown_layer

SCHEMA = 8
"""The major version of the archive's schema that is understood."""

_DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
_MEMORY = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
_KEYWORD = 2
_TENSOR_OPERATION = re.compile(r"torch\.ops\.aten\.(?!from_file\b)(\w+)\.(\w+)")
_OF_SIZES: dict[str, Callable[..., Any]] = {
    **{f"_operator.{name}": getattr(operator, name) for name in (
        "add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "eq", "ne", "lt", "le", "gt", "ge", "getitem",
    )},
    "math.ceil": math.ceil, "math.floor": math.floor, "math.trunc": math.trunc,
    "torch.sym_int": int, "torch.sym_float": float, "torch.sym_max": max, "torch.sym_min": min,
    "torch.sym_not": operator.not_,
}  # fmt: skip
"""What a graph computes from sizes."""

Values = dict[str, Any]


def open_file(path: Path, config: ModelConfig, classes: int, device: str) -> Opened:
    """An archive on a device; `embedding_layer` is a node of the graph, or a module of the network that was exported.

    Raises ModelError for another layout of archive, an operation that is not torch's own, and pickled content.
    """
    with ZipFile(path) as archive:
        program, constants = _read(path, archive, torch.device(device))
    graph = program["graph_module"]["graph"]
    given, picture = _inputs(path, program["graph_module"]["signature"], constants)
    sides = [value.get("as_int") for value in graph["tensor_values"][picture]["sizes"]]
    if len(sides) != 4 or sides[1] not in (3, None):  # noqa: PLR2004
        raise ModelError(
            f"model.checkpoint: {path}: expected an input (pictures, 3, height, width), found {picture!r} of shape "
            f"{sides}"
        )
    nodes = [_Node(path, node, torch.device(device)) for node in graph["nodes"]]
    layer = config.embedding_layer
    latent = None if layer is None else _find(path, nodes, layer)
    results = [output["as_tensor"]["name"] for output in graph["outputs"] if "as_tensor" in output]
    last_uses = _last_uses(nodes, {*given, *results})

    def run(batch: Tensor) -> tuple[Tensor, Tensor]:
        values: Values = {**given, picture: batch}
        kept: Tensor | None = None
        with DeepestActivation(batch, classes) as seen:
            for node, done in zip(nodes, last_uses, strict=True):
                node.evaluate(values)
                if latent in node.outputs:
                    kept = values[latent].clone()  # operations in place may follow
                for name in done:
                    del values[name]
        outputs = {name: values[name] for name in results}
        found = seen.latent if latent is None else kept
        if found is None:
            raise no_feature_map(path)
        return pick_logits(path, outputs, latent), found

    return Opened(run, sides[0], (sides[2], sides[3]))


class _Node:
    """One operation of the graph."""

    def __init__(self, path: Path, node: Mapping[str, Any], device: torch.device) -> None:
        self.outputs: list[str] = []
        self._call = _operation(path, node["target"])
        self._inputs = [(entry, _decoded(path, entry["arg"], device)) for entry in node["inputs"]]
        self._structure = [_names(output) for output in node["outputs"]]
        for names in self._structure:
            self.outputs += [names] if isinstance(names, str) else names or []
        stack = node["metadata"].get("nn_module_stack", "").split(";")
        self.modules = [entry.split(",")[1] for entry in stack if entry.count(",") >= 2]  # noqa: PLR2004

    @property
    def inputs(self) -> set[str]:
        """Names of the values that the node reads."""
        return {name for _, (names, _) in self._inputs for name in names}

    def evaluate(self, values: Values) -> None:
        """Run on what earlier nodes left and leave the results."""
        positional, named = [], {}
        for entry, (_, build) in self._inputs:
            if entry.get("kind") == _KEYWORD:
                named[entry["name"]] = build(values)
            else:
                positional.append(build(values))
        result = self._call(*positional, **named)
        several = len(self._structure) > 1
        for names, value in zip(self._structure, result if several else [result], strict=False):
            if isinstance(names, str):
                values[names] = value
            elif names:
                values.update(zip(names, value, strict=True))


def _operation(path: Path, target: str) -> Callable[..., Any]:
    if target in _OF_SIZES:
        return _OF_SIZES[target]
    matched = _TENSOR_OPERATION.fullmatch(target)
    if matched is None:
        raise ModelError(f"model.checkpoint: {path}: {target!r} is not an operation of torch's own; export without it")
    return getattr(getattr(torch.ops.aten, matched[1]), matched[2])  # type: ignore[no-any-return]


def _decoded(
    path: Path, argument: Mapping[str, Any], device: torch.device
) -> tuple[list[str], Callable[[Values], Any]]:
    """The values that an argument names, and how it is built from them."""
    (kind, value), *_ = argument.items()
    if kind in ("as_tensor", "as_tensors", "as_optional_tensors", "as_sym_int", "as_sym_ints", "as_sym_float",
                "as_sym_bool", "as_optional_tensor"):  # fmt: skip
        several = isinstance(value, list)
        parts = [_reference(part) for part in (value if several else [value])]
        names = [name for name, _ in parts if name is not None]
        return names, lambda values: _built(parts, values) if several else _built(parts, values)[0]
    literal = _literal(path, kind, value, device)
    return [], lambda _: literal


def _reference(part: Mapping[str, Any]) -> tuple[str | None, Any]:
    inner = part.get("as_tensor", part)
    name = inner.get("name", inner.get("as_name"))
    return name, None if name is not None else inner.get("as_int", inner.get("as_float", inner.get("as_bool")))


def _built(parts: list[tuple[str | None, Any]], values: Values) -> list[Any]:
    return [value if name is None else values[name] for name, value in parts]


def _literal(path: Path, kind: str, value: Any, device: torch.device) -> Any:
    if kind in ("as_int", "as_ints", "as_bool", "as_bools", "as_string"):
        return value
    meanings: dict[str, Callable[[Any], Any]] = {
        "as_float": float,  # infinities are written as text
        "as_floats": lambda numbers: [float(number) for number in numbers],
        "as_none": lambda _: None,
        "as_device": lambda _: device,
        "as_layout": lambda _: torch.strided,
        "as_scalar_type": _DTYPES.__getitem__,
        "as_memory_format": _MEMORY.__getitem__,
    }
    if kind not in meanings:
        raise ModelError(f"model.checkpoint: {path}: its graph has an argument that is not understood ({kind})")
    return meanings[kind](value)


def _names(output: Mapping[str, Any]) -> str | list[str] | None:
    (_, value), *_ = output.items()
    if isinstance(value, list):
        return [entry["name"] for entry in value]
    return value.get("name", value.get("as_name")) if isinstance(value, dict) else None


def _last_uses(nodes: list[_Node], kept: set[str]) -> list[list[str]]:
    """What can be forgotten after each node: a forward then holds no more than the network itself would."""
    seen, forgotten = set(kept), []
    for node in reversed(nodes):
        own = sorted((node.inputs | set(node.outputs)) - seen)
        seen.update(own)
        forgotten.append(own)
    return forgotten[::-1]


def _find(path: Path, nodes: list[_Node], layer: str) -> str:
    named = {name: name for node in nodes for name in node.outputs}
    modules = {module: node.outputs[0] for node in nodes for module in node.modules if module and node.outputs}
    found = named.get(layer) or modules.get(layer)  # the last node of a module
    if found is None:
        raise unknown_layer(path, layer, "node or module", [*named, *modules])
    return found


def _read(path: Path, archive: ZipFile, device: torch.device) -> tuple[dict[str, Any], dict[str, Tensor]]:
    entries = {name.partition("/")[2]: name for name in archive.namelist()}
    models = [name for name in entries if re.fullmatch(r"models/\w+\.json", name)]
    program = json.loads(archive.read(entries[models[0]])) if len(models) == 1 else {}
    found = program.get("schema_version", {}).get("major")
    if found != SCHEMA:
        raise ModelError(
            f"model.checkpoint: {path}: expected an archive of torch.export.save with one program of schema {SCHEMA}, "
            f"found {f'schema {found}' if found else f'{len(models)} programs'}; export it again with torch "
            f"{torch.__version__.partition('+')[0]}"
        )
    name = models[0].removeprefix("models/").removesuffix(".json")
    constants: dict[str, Tensor] = {}
    for folder in ("weights", "constants"):
        table = entries.get(f"data/{folder}/{name}_{folder}_config.json")
        described = json.loads(archive.read(table))["config"] if table else {}
        for key, entry in described.items():
            if entry.get("use_pickle") or not entry.get("tensor_meta"):
                raise ModelError(f"model.checkpoint: {path}: refused, {key!r} is pickled and not a plain tensor")
            content = archive.read(entries[f"data/{folder}/{entry['path_name']}"])
            constants[key] = _tensor(content, entry["tensor_meta"]).to(device)
    return program, constants


def _tensor(content: bytes, meta: Mapping[str, Any]) -> Tensor:
    sizes, strides = ([entry["as_int"] for entry in meta[key]] for key in ("sizes", "strides"))
    dtype = _DTYPES[meta["dtype"]]
    if not content:
        return torch.empty(sizes, dtype=dtype)
    flat = torch.frombuffer(bytearray(content), dtype=dtype)
    return flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"]).clone()


def _inputs(path: Path, signature: Mapping[str, Any], constants: Mapping[str, Tensor]) -> tuple[Values, str]:
    given: Values = {}
    pictures: list[str] = []
    for spec in signature["input_specs"]:
        (kind, entry), *_ = spec.items()
        if kind == "user_input" and "as_tensor" in entry["arg"]:
            pictures.append(entry["arg"]["as_tensor"]["name"])
        elif f"{kind}_name" in entry:
            given[entry["arg"]["name"]] = constants[entry[f"{kind}_name"]]
        elif kind != "user_input" or "as_none" not in entry["arg"]:
            raise ModelError(f"model.checkpoint: {path}: its graph has an input that is not understood ({kind})")
    if len(pictures) != 1:
        raise ModelError(f"model.checkpoint: {path}: expected a graph with one input, found {len(pictures)}")
    return given, pictures[0]
