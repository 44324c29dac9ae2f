"""ONNX files, run by ONNX Runtime.

Belongs here: reading the graph, adding the latent to its outputs. Does not: any other format.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.config import ModelConfig
from resources.errors import ModelError
from resources.exported.deepest import feature_stride
from resources.exported.program import Opened, no_feature_map, pick_logits, unknown_layer

if TYPE_CHECKING:
    from torch import Tensor

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter writes the modules that a node was in."""


def open_file(path: Path, config: ModelConfig, classes: int, device: str) -> Opened:
    """A session on a device; `embedding_layer` is a value of the graph, or a module of the network that torch exported.

    Raises ModelError for missing packages, weights in other files, and graphs that do not take pictures.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise ModelError(f"model.checkpoint: {path}: ONNX needs onnx and onnxruntime; pip install '.[onnx]'") from None

    model = onnx.load(path, load_external_data=False)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ModelError(
            f"model.checkpoint: {path}: its weights are in another file; save it as one "
            "(torch.onnx.export(…, external_data=False))"
        )
    name, sides = _picture_input(path, model.graph)
    if config.embedding_layer is not None:
        latent = _find(path, model.graph, config.embedding_layer)
    else:
        size = (sides[2] or config.input_size[0], sides[3] or config.input_size[1])
        latent = _deepest(path, model, size, classes)
    outputs = [output.name for output in model.graph.output]
    if latent not in outputs:
        model.graph.output.append(onnx.ValueInfoProto(name=latent))
        outputs.append(latent)
    session = _session(onnxruntime, model.SerializeToString(), device)

    def run(batch: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        arrays = session.run(outputs, {name: batch.cpu().contiguous().numpy()})
        found = {key: torch.from_numpy(array).to(batch.device) for key, array in zip(outputs, arrays, strict=True)}
        return pick_logits(path, found, latent), found[latent]

    return Opened(run, sides[0], (sides[2], sides[3]))


def _session(runtime: Any, content: bytes, device: str) -> Any:
    import torch

    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    there = runtime.get_available_providers()
    wanted = ["CUDAExecutionProvider"] * (device == "cuda") + ["CPUExecutionProvider"]
    return runtime.InferenceSession(content, options, providers=[name for name in wanted if name in there])


def _picture_input(path: Path, graph: Any) -> tuple[str, list[int | None]]:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ModelError(
            f"model.checkpoint: {path}: expected an ONNX file with one input, found {len(inputs)}: "
            f"{[value.name for value in inputs][:4]}"
        )
    kind = inputs[0].type.tensor_type
    sides = [dim.dim_value or None for dim in kind.shape.dim]
    if kind.elem_type != 1 or len(sides) != 4 or sides[1] not in (3, None):  # noqa: PLR2004
        raise ModelError(
            f"model.checkpoint: {path}: expected an input of float32 (pictures, 3, height, width), found "
            f"{inputs[0].name!r} of ONNX type {kind.elem_type} and shape {sides}"
        )
    return inputs[0].name, sides


def _find(path: Path, graph: Any, layer: str) -> str:
    values = [name for node in graph.node for name in node.output if name]
    if layer in values:
        return layer
    scopes = {scope: node.output[0] for node in graph.node for scope in _scopes(node)}  # the last node of each
    if layer not in scopes:
        raise unknown_layer(path, layer, "value or module", [*values, *scopes])
    return str(scopes[layer])


def _scopes(node: Any) -> list[str]:
    text = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    return [scope for scope in ast.literal_eval(text) if scope]


def _deepest(path: Path, model: Any, size: tuple[int, int], classes: int) -> str:
    """The last feature map of the largest stride in the graph, by the shapes that it has for pictures of one size."""
    import onnx

    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    picture = next(value for value in sized.graph.input if value.name not in weights)
    for dim, side in zip(picture.type.tensor_type.shape.dim, (1, 3, *size), strict=True):
        dim.dim_value = dim.dim_value or side
    inferred = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    strides = {
        value.name: feature_stride([dim.dim_value for dim in value.type.tensor_type.shape.dim], size, classes)
        for value in (*inferred.value_info, *inferred.output)
    }
    found, largest = None, 0
    for name in (name for node in model.graph.node for name in node.output):
        stride = strides.get(name) or 0
        if stride and stride >= largest:
            found, largest = name, stride
    if found is None:
        raise no_feature_map(path)
    return str(found)
