"""The recipe in the forms that other tools load: torchvision v2, Albumentations, ONNX.

Belongs here: what stands in those files, and what is said where a form can't hold the recipe. Does not: which maps the
recipe is made of and `recipe.py` itself (`recipe.py`).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from assets.experiments.operators import ModelOperator, Parameters, PictureOperator, WindowOperator
from assets.experiments.recipe import Stack, recipe_source

if TYPE_CHECKING:
    from torch import Tensor

Maps = Sequence[tuple[PictureOperator, Parameters]]

AGREEMENT = 1e-5
"""Largest difference of a value in 0..1 between the product's own map and a written graph."""
CHECKED_PICTURES = 2
SMALLEST_SIDE = 16
"""Least height and width of a graph for pictures of any size."""
ONE_SIZE: dict[int, dict[str, Any]] = {0: {"name": "batch"}}
ANY_SIZE = ONE_SIZE | {axis: {"name": name, "min": SMALLEST_SIDE} for axis, name in ((2, "height"), (3, "width"))}
"""Axes of a graph's pictures that are free, as `torch.export.Dim` takes them."""
ONNX_PACKAGES = ("onnx", "onnxscript")
TORCHVISION, ALBUMENTATIONS, ONNX = "recipe_torchvision.py", "recipe_albumentations.py", "recipe.onnx"
RECIPE_FORMS = (TORCHVISION, ALBUMENTATIONS, ONNX)
"""Names of the files beside `recipe.py`."""


class NotExpressible(Exception):
    """ONNX can't hold these maps; the message says why."""


class OtherPixels(NotExpressible):
    """A graph gives other pixels than the maps that it was written of."""


@dataclass(frozen=True)
class RecipeFile:
    """One form of the recipe; `content` is None where it can't be written, and `note` says why."""

    name: str
    content: str | bytes | None
    note: str

    def row(self) -> dict[str, Any]:
        """What the report says of it."""
        return {"name": self.name, "written": self.content is not None, "note": self.note}


def recipe_files(stack: Stack, target: str, size: tuple[int, int]) -> list[RecipeFile]:
    """All forms of a recipe; none of a recipe without steps.

    Args:
        stack: the recipe.
        target: the data set that it is for.
        size: (height, width) of the model's input, which maps of pictures were fitted at.
    """
    if not stack.steps:
        return []
    source = recipe_source(stack, target)
    files = [RecipeFile("recipe.py", source, _contents(stack))]
    if not stack.maps():
        why = "the recipe changes no pixel of a picture by itself; see recipe.py"
        return files + [RecipeFile(name, None, why) for name in RECIPE_FORMS]
    rest = " " + _left_out(stack) if _left_out(stack) else ""
    return [
        *files,
        RecipeFile(TORCHVISION, source + _TORCHVISION, f"TorchvisionRecipe: torchvision.transforms.v2.{rest}"),
        RecipeFile(ALBUMENTATIONS, source + _ALBUMENTATIONS, f"AlbumentationsRecipe: albumentations.Compose.{rest}"),
        _onnx_file(stack.maps(), size, rest),
    ]  # fmt: skip


def onnx_graph(maps: Maps, size: tuple[int, int]) -> tuple[bytes, str]:
    """An ONNX file of some maps, and what it takes: 'image' float32 (n, 3, h, w) in 0..1 → 'changed', the same shape.

    Batch, height and width are free where the maps allow it; else height and width are `size`. Where onnxruntime is
    installed, the graph has been run beside the maps and agrees within `AGREEMENT`; unchecked ones have one size.

    Raises:
        NotExpressible: a package is missing, a map uses what ONNX lacks, or the graph gives other pixels.
    """
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise NotExpressible(f"{' and '.join(missing)} not installed; run: pip install 'domain-gap[onnx]'")
    tried = []
    for free in (ANY_SIZE, ONE_SIZE) if find_spec("onnxruntime") else (ONE_SIZE,):
        smaller = max(size[0] * 3 // 4, SMALLEST_SIDE), max(size[1] * 3 // 4, SMALLEST_SIDE)
        try:
            graph, checked = _agreeing(maps, free, [size, smaller] if free is ANY_SIZE else [size])
        except Exception as error:  # the exporter fails in many ways, each of which means that ONNX lacks something
            tried.append(error if isinstance(error, NotExpressible) else NotExpressible(_first_line(error)))
            continue
        any_size = f"of any size from {SMALLEST_SIDE} pixels"
        shape = any_size if free is ANY_SIZE else f"of {size[0]} × {size[1]} pixels"
        return graph, f"float32 (n, 3, height, width) in 0..1, {shape}; {checked}"
    raise tried[-1]


def tools_present() -> dict[str, bool]:
    """Which of the packages that ONNX files need, or are checked with, are installed."""
    return {name: find_spec(name) is not None for name in (*ONNX_PACKAGES, "onnxruntime")}


def _contents(stack: Stack) -> str:
    held = ["Recipe, a torch.nn.Module"] if stack.maps() else []
    held += ["WindowedModel, a model that sees a picture through windows"] if _has(stack, WindowOperator) else []
    weights = "Changed weights: recipe-model.safetensors." if _has(stack, ModelOperator) else ""
    return f"{', and '.join(held) or 'Recipe, which changes no pixel'}. {weights}".strip()


def _left_out(stack: Stack) -> str:
    """What of the recipe a map of pictures can't hold."""
    parts = ["the windows"] if _has(stack, WindowOperator) else []
    parts += ["the change of the model"] if _has(stack, ModelOperator) else []
    return f"Without {' and '.join(parts)} of the recipe: see recipe.py." if parts else ""


def _has(stack: Stack, kind: type) -> bool:
    return any(isinstance(step.experiment.operator, kind) for step in stack.steps)


def _onnx_file(maps: Maps, size: tuple[int, int], rest: str) -> RecipeFile:
    try:
        graph, note = onnx_graph(maps, size)
    except NotExpressible as error:
        return RecipeFile(ONNX, None, f"not written: {error}")
    return RecipeFile(ONNX, graph, f"{note}.{rest}")


def _agreeing(maps: Maps, free: dict[int, dict[str, Any]], sizes: list[tuple[int, int]]) -> tuple[bytes, str]:
    """A graph exported at the first size and checked at all: in double precision where single loses digits.

    A runtime may add up a picture's half a million pixels one by one.
    """
    graph = _exported(maps, sizes[0], free, "float32")
    try:
        return graph, _check(graph, maps, sizes)
    except OtherPixels:
        graph = _exported(maps, sizes[0], free, "float64")
        return graph, _check(graph, maps, sizes)


def _exported(
    maps: Maps, size: tuple[int, int], free: dict[int, dict[str, Any]], precision: Literal["float32", "float64"]
) -> bytes:
    """A graph float32 → float32 that computes in some precision."""
    import torch

    class Changed(torch.nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            batch = image.to(getattr(torch, precision))
            for operator, parameters in maps:
                batch = operator.apply(batch, parameters)
            return batch.to(torch.float32)

    shapes = {axis: torch.export.Dim(**bounds) for axis, bounds in free.items()}
    with _quiet_exporter():
        program = torch.onnx.export(
            Changed().eval(), (_pictures(size),), dynamo=True, dynamic_shapes=(shapes,), input_names=["image"],
            output_names=["changed"], verbose=False,
        )  # fmt: skip
    if program is None:
        raise NotExpressible("the exporter gave no graph")
    graph: bytes = program.model_proto.SerializeToString()
    return graph


def _check(graph: bytes, maps: Maps, sizes: list[tuple[int, int]]) -> str:
    """Run the graph beside the maps. Raises OtherPixels where they differ."""
    if find_spec("onnxruntime") is None:
        return "not checked, since onnxruntime is not installed"
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for size in sizes:
        for given in (_pictures(size), _pictures(size)[:1]):  # the exporter may have taken a free axis for a fixed one
            expected = given
            for operator, parameters in maps:
                expected = operator.apply(expected, parameters)
            found = session.run(None, {"image": given.numpy()})[0]
            furthest = float(np.abs(found - expected.numpy()).max())
            if not furthest <= AGREEMENT:
                raise OtherPixels(f"the graph's pixels differ by up to {furthest:.2g} from the map's, in 0..1")
    return f"agrees with the map within {AGREEMENT:g}"


def _pictures(size: tuple[int, int]) -> Tensor:
    """A few pictures of 8 bits: coarse patches of colour under fine noise, always the same."""
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(CHECKED_PICTURES, 3, 5, 7, generator=generator)
    noise = torch.randn(CHECKED_PICTURES, 3, *size, generator=generator)
    pictures: Tensor = functional.interpolate(coarse, size=size, mode="nearest") + 0.03 * noise
    return (pictures.clamp(0, 1) * 255).round() / 255


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns of every operator that it translates in a way of its own."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error: Exception) -> str:
    """What the exporter could not do, without its advice over many lines."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"the exporter says: {lines[0] if lines else type(error).__name__}"


_TORCHVISION = '''

import torchvision.transforms.v2
from torchvision import tv_tensors


class TorchvisionRecipe(torchvision.transforms.v2.Transform):
    """The recipe in a torchvision.transforms.v2.Compose: pictures are changed, masks and boxes stay.

    Takes tv_tensors.Image, PIL pictures and plain tensors (…, 3, H, W): floats in 0..1, or uint8, which is rounded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recipe = Recipe()

    def transform(self, inpt, params):
        if isinstance(inpt, tv_tensors.TVTensor) and not isinstance(inpt, tv_tensors.Image):
            return inpt
        if not isinstance(inpt, Tensor):
            return torchvision.transforms.v2.functional.to_pil_image(
                self.transform(torchvision.transforms.v2.functional.pil_to_tensor(inpt), params)
            )
        plain = inpt.as_subclass(Tensor)
        if plain.dtype == torch.uint8:
            changed = (self.recipe(plain.float() / 255) * 255).round().to(torch.uint8)
        else:
            changed = self.recipe(plain)
        return tv_tensors.wrap(changed, like=inpt) if isinstance(inpt, tv_tensors.Image) else changed
'''

_ALBUMENTATIONS = '''

import albumentations


class AlbumentationsRecipe(albumentations.ImageOnlyTransform):
    """The recipe in an albumentations.Compose: pictures (H, W, 3) are changed, masks and boxes stay.

    Takes float32 in 0..1, or uint8, which is rounded. It always applies unless `p` says otherwise.
    """

    def __init__(self, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.recipe = Recipe()

    def apply(self, img, **params):
        scale = 255 if img.dtype == np.uint8 else 1
        picture = torch.from_numpy(np.ascontiguousarray(img)).permute(2, 0, 1).float() / scale
        changed = self.recipe(picture).permute(1, 2, 0).numpy() * scale
        return np.ascontiguousarray(changed.round() if scale == 255 else changed).astype(img.dtype)
'''
