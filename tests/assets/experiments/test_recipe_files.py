"""The recipe's other forms: the same pixels as the product's own maps, masks untouched, what can't be held said."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from assets.diagnosis.hypotheses import Hypothesis
from assets.experiments import fourier, geometry, jpeg, model_side, noise, normalise, recipe_files
from assets.experiments.match import Matched, bare
from assets.experiments.operators import PictureOperator
from assets.experiments.recipe import Stack, Step
from assets.experiments.recipe_files import NotExpressible, onnx_graph
from assets.experiments.registry import Experiment, built_in

SIZE = (48, 64)
TABLE = [(np.linspace(0, 1, 256) ** power).tolist() for power in (0.9, 1.0, 1.2)]
MAPS = {
    "ChannelStatistics": (normalise.ChannelStatistics(), {"gain": [1.1, 0.9, 1.0], "offset": [0.01, 0.02, -0.01]}),
    "ChannelStatisticsPerImage": (normalise.ChannelStatisticsPerImage(), {"mean": [0.4, 0.5, 0.5], "std": [0.2] * 3}),
    "HistogramMatching": (normalise.HistogramMatching(), {"table": TABLE}),
    "Exposure": (normalise.Exposure(), {"gamma": 1.2, "gain": 1.1}),
    "ExposurePerImage": (normalise.ExposurePerImage(), {"gamma_estimate": 0.9}),
    "Lab": (normalise.Lab(), {"mean": [55, 1, 2], "std": [20, 9, 9], "own_mean": [52, 2, 3], "own_std": [19, 9, 9]}),
    "LabPerImage": (normalise.LabPerImage(), {"mean": [55, 1, 2], "std": [20, 9, 9]}),
    "WhiteBalance": (normalise.WhiteBalance(), {"gain": [1.1, 0.95, 1.0]}),
    "WhiteBalancePerImage": (normalise.WhiteBalancePerImage(), {"colour": [1.1, 1.0, 0.9]}),
    "Contrast": (normalise.Contrast(), {"factor": 1.2}),
    "Saturation": (normalise.Saturation(), {"factor": 0.8}),
    "Haze": (normalise.Haze(), {"transmission": 1.2, "airlight": 0.9}),
    "Vignette": (normalise.Vignette(), {"corners": 0.3}),
    "Denoise": (noise.Denoise(), {"strength": 0.03}),
    "Deblock": (jpeg.Deblock(), jpeg.Deblock().at(40) | {"scale": 1.3}),
    "Sharpness": (normalise.Sharpness(), {"amount": 0.5}),
    "LowFrequencies": (fourier.LowFrequencies(0.05), None),
}
CHAINS = [
    ["ChannelStatistics", "Exposure", "WhiteBalance", "HistogramMatching", "Haze"],
    ["Lab", "Contrast", "Saturation", "Sharpness"],
    ["WhiteBalancePerImage", "ExposurePerImage", "LabPerImage", "ChannelStatisticsPerImage"],
    ["Vignette", "Denoise"],
]
QUANTISED = "Deblock"
FOURIER = "LowFrequencies"


def step(name: str) -> Step:
    operator, parameters = MAPS[name]
    parameters = parameters or operator.fit(FewPictures, FewPictures)
    operator = operator if isinstance(operator, PictureOperator) else Matched(operator, "contrast")
    return Step(Experiment(Hypothesis(name.lower(), "colour", name, "statement", ("mean_red",)), operator), parameters)


class FewPictures:
    pictures = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def changed(stack: Stack, batch: torch.Tensor) -> torch.Tensor:
    for operator, parameters in stack.maps():
        batch = operator.apply(batch, parameters)
    return batch


def test_every_map_that_can_be_in_a_recipe_is_tried_here():
    operators = [bare(e.operator) for e in built_in(["road", "car"], {}) if isinstance(e.operator, PictureOperator)]
    assert {type(operator).__name__ for operator in operators} == set(MAPS)
    assert {name for chain in CHAINS for name in chain} | {QUANTISED, FOURIER} == set(MAPS)


# --- ONNX ------------------------------------------------------------------------------------------------------------


def ran(graph: bytes, batch: torch.Tensor) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(["changed"], {"image": batch.numpy()})[0]


@pytest.mark.slow
@pytest.mark.parametrize("names", CHAINS, ids="+".join)
def test_a_graph_gives_the_same_pixels(names, scenes):
    stack = Stack([step(name) for name in names])
    graph, note = onnx_graph(stack.maps(), SIZE)
    any_size = "any size" in note
    assert "agrees" in note and (any_size or "Vignette" in names)
    for count, seed, size in ((1, 0, SIZE), (3, 1, (40, 90) if any_size else SIZE)):
        pictures = scenes(count, seed, size)
        assert np.abs(ran(graph, pictures) - changed(stack, pictures).numpy()).max() <= 1e-5


class Shade:
    """A gain of each pixel, which has the size of the pictures that it was fitted on."""

    def fit(self, _destination, _origin):
        return {"gain": np.linspace(0.5, 1, SIZE[0] * SIZE[1]).reshape(SIZE).tolist()}

    def apply(self, batch, parameters):
        return batch * batch.new_tensor(parameters["gain"])


@pytest.mark.slow
def test_a_graph_for_one_size_says_so(scenes):
    graph, note = onnx_graph([(Shade(), Shade().fit(None, None))], SIZE)
    assert "of 48 × 64 pixels" in note
    pictures = scenes(3, 2, SIZE)
    assert np.abs(ran(graph, pictures) - Shade().apply(pictures, Shade().fit(None, None)).numpy()).max() <= 1e-5


@pytest.mark.slow
def test_a_quantised_map_gives_the_same_pixels_but_where_a_step_falls_the_other_way(scenes, monkeypatch):
    """A coefficient halfway between two steps may be rounded either way by another runtime: few are."""
    monkeypatch.setattr(recipe_files, "find_spec", lambda name: None if name == "onnxruntime" else object())
    stack, pictures = Stack([step(QUANTISED)]), scenes(2, 3, SIZE)
    graph, note = onnx_graph(stack.maps(), SIZE)
    assert "not checked, since onnxruntime is not installed" in note and "of 48 × 64 pixels" in note
    apart = np.abs(ran(graph, pictures) - changed(stack, pictures).numpy())
    assert np.median(apart) <= 1e-5 and (apart > 1e-5).mean() < 0.05


@pytest.mark.slow
def test_a_fourier_transform_is_said_not_to_fit(monkeypatch):
    monkeypatch.setattr(recipe_files, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(NotExpressible, match="the exporter says"):
        onnx_graph(Stack([step(FOURIER)]).maps(), SIZE)


class Halved:
    """Another map to the exporter than to everybody else."""

    def fit(self, _destination, _origin):
        return {}

    def apply(self, batch, _parameters):
        return batch * 0.5 if torch.onnx.is_in_onnx_export() or torch.compiler.is_exporting() else batch


@pytest.mark.slow
def test_a_graph_that_gives_other_pixels_is_not_written():
    pytest.importorskip("onnxruntime")
    with pytest.raises(NotExpressible, match=r"the graph's pixels differ by up to 0\.5 from the map's"):
        onnx_graph([(Halved(), {})], SIZE)


class Drawn:
    """What no graph can hold: a decision by values."""

    def fit(self, _destination, _origin):
        return {}

    def apply(self, batch, _parameters):
        return batch if float(batch.mean()) > 0.5 else 1 - batch


def test_what_onnx_lacks_is_said_and_never_raised():
    drawn = Experiment(Hypothesis("drawn", "colour", "drawn", "statement", ("mean_red",)), Drawn())
    files = {file.name: file for file in recipe_files.recipe_files(Stack([Step(drawn, {})]), "dusk", SIZE)}
    assert files["recipe.onnx"].content is None
    assert files["recipe.onnx"].note.startswith("not written: the exporter says: ")
    assert len(files["recipe.onnx"].note) < 400
    assert files["recipe_torchvision.py"].content is not None


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(recipe_files, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(NotExpressible, match=r"onnxscript not installed; run: pip install 'domain-gap\[onnx\]'"):
        onnx_graph(Stack([step("Haze")]).maps(), SIZE)


# --- torchvision and albumentations ----------------------------------------------------------------------------------

SCRIPT = """
import importlib.util, json, sys
import numpy as np, torch
from PIL import Image

def load(name):
    spec = importlib.util.spec_from_file_location(name, f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

given = np.load("given.npz")
pictures, mask, found = given["pictures"], given["mask"], {}
for name in sys.argv[1:]:
    load(f"{name}_plain")
    assert "albumentations" not in sys.modules or name != sys.argv[1]
    vision = load(f"{name}_torchvision")
    from torchvision import tv_tensors
    from torchvision.transforms import v2
    many = v2.Compose([vision.TorchvisionRecipe(), v2.Identity()])
    floats, levels = torch.tensor(pictures[0]), (torch.tensor(pictures[0]) * 255).round().to(torch.uint8)
    image, same = many(tv_tensors.Image(floats), tv_tensors.Mask(mask))
    assert type(image) is tv_tensors.Image and torch.equal(same, torch.tensor(mask))
    sample = many({"image": tv_tensors.Image(levels), "mask": tv_tensors.Mask(mask), "label": torch.tensor(3)})
    assert sample["image"].dtype == torch.uint8 and sample["label"] == 3
    assert torch.equal(sample["mask"], torch.tensor(mask))
    pil = many(Image.fromarray(levels.permute(1, 2, 0).numpy()))
    assert torch.equal(v2.functional.pil_to_tensor(pil), sample["image"].as_subclass(torch.Tensor))
    found[f"{name}_vision"] = image.numpy()
    found[f"{name}_batch"] = many(torch.tensor(pictures)).numpy()
    found[f"{name}_levels"] = sample["image"].numpy()
    album = load(f"{name}_albumentations")
    import albumentations
    compose = albumentations.Compose([album.AlbumentationsRecipe()])
    one = compose(image=pictures[0].transpose(1, 2, 0), mask=mask)
    assert one["image"].dtype == np.float32 and np.array_equal(one["mask"], mask)
    found[f"{name}_album"] = one["image"].transpose(2, 0, 1)
    eight = compose(image=levels.permute(1, 2, 0).numpy(), mask=mask)["image"]
    assert eight.dtype == np.uint8
    found[f"{name}_album_levels"] = eight.transpose(2, 0, 1)
    never = albumentations.Compose([album.AlbumentationsRecipe(p=0.0)])(image=eight)["image"]
    assert np.array_equal(never, eight)
np.savez("found.npz", **found)
assert not [name for name in sys.modules if name.split(".")[0] in ("assets", "resources", "pipelines")]
"""


@pytest.mark.slow
def test_both_transforms_give_the_same_pixels_away_from_the_product(tmp_path, scenes, monkeypatch):
    monkeypatch.setattr(recipe_files, "find_spec", lambda _name: None)  # ONNX has its own tests
    stacks = {name: Stack([step(name)]) for name in MAPS} | {"every": Stack([step(name) for name in CHAINS[0]])}
    pictures = scenes(2, 4, SIZE)
    mask = np.random.default_rng(0).integers(0, 5, SIZE).astype(np.uint8)
    np.savez(tmp_path / "given.npz", pictures=pictures.numpy(), mask=mask)
    for name, stack in stacks.items():
        for file in recipe_files.recipe_files(stack, "dusk", SIZE):
            if file.content is not None:
                kind = file.name.removesuffix(".py").partition("_")[2] or "plain"
                (tmp_path / f"{name}_{kind}.py").write_text(file.content)
    (tmp_path / "run.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-I", "run.py", *stacks], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"NO_ALBUMENTATIONS_UPDATE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "found.npz")
    levels = (pictures[:1] * 255).round() / 255
    for name, stack in stacks.items():
        expected = changed(stack, pictures).numpy()
        assert np.abs(found[f"{name}_batch"] - expected).max() <= 1e-6, name
        for form in ("vision", "album"):
            one = changed(stack, pictures[:1])[0].numpy()
            assert np.abs(found[f"{name}_{form}"] - one).max() <= 1e-6, (name, form)
        rounded = (changed(stack, levels)[0] * 255).round().numpy()
        for form in ("levels", "album_levels"):
            assert np.array_equal(found[f"{name}_{form}"], rounded), (name, form)


# --- the list --------------------------------------------------------------------------------------------------------


def listed(*steps: Step) -> dict[str, dict]:
    rows = [file.row() for file in recipe_files.recipe_files(Stack(list(steps)), "dusk", SIZE)]
    assert json.loads(json.dumps(rows)) == rows
    return {row["name"]: row for row in rows}


def windows() -> Step:
    aspect = Experiment(Hypothesis("aspect", "geometry", "shape", "statement", ("aspect_ratio",)),
                        geometry.AspectWindows())  # fmt: skip
    return Step(aspect, {"aspect": 1.5, "present": 2.5})


def norms() -> Step:
    bn = Experiment(Hypothesis("bn", "model_statistics", "bn", "statement", ()), model_side.BatchNormReestimation())
    return Step(bn, {"fitted_on": "x"})


def test_an_empty_recipe_has_no_files():
    assert recipe_files.recipe_files(Stack(), "dusk", SIZE) == []


def test_windows_and_changed_models_are_said_where_a_form_leaves_them_out(monkeypatch):
    monkeypatch.setattr(recipe_files, "find_spec", lambda _name: None)
    rows = listed(windows(), step("Haze"), norms())
    assert "WindowedModel" in rows["recipe.py"]["note"] and "recipe-model.safetensors" in rows["recipe.py"]["note"]
    for name in ("recipe_torchvision.py", "recipe_albumentations.py"):
        assert "Without the windows and the change of the model" in rows[name]["note"]
    rows = listed(windows())
    assert [row["written"] for row in rows.values()] == [True, False, False, False]
    assert "changes no pixel" in rows["recipe.onnx"]["note"]
