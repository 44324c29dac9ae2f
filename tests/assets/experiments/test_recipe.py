"""The recipe: stacked while it helps, refitted on what is left, and a file that runs without the product."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from assets.diagnosis.hypotheses import Hypothesis
from assets.experiments.campaign import together, unexplained
from assets.experiments.geometry import AspectWindows, Letterbox, ObjectScale
from assets.experiments.model_side import BatchNormReestimation
from assets.experiments.normalise import (
    ChannelStatistics,
    ChannelStatisticsPerImage,
    Exposure,
    HistogramMatching,
    Sharpness,
)
from assets.experiments.operators import NotApplicable, SetStatistics
from assets.experiments.recipe import (
    Stack,
    Step,
    changed_statistics,
    joint_effect,
    rake,
    recipe_source,
    recipe_steps,
    stack_greedily,
)
from assets.experiments.registry import Experiment
from assets.experiments.reweight import ClassShare
from assets.experiments.trial import predict
from assets.experiments.verdict import Rules, gap_draws
from resources.pictures import Picture, to_input

RULES = Rules(smallest_effect=0.05, alpha=0.05, draws=200, seed=0)


def experiment(operator, name: str | None = None) -> Experiment:
    name = name or type(operator).__name__.lower()
    return Experiment(Hypothesis(name, "colour", f"the {name}", "statement", ("mean_red",)), operator)


@pytest.fixture(scope="module")
def dusk(lay_out, colour_model):
    """A darker target of another shape, seen by a model that reads colours."""
    return lay_out(colour_model, change=lambda picture: picture * [0.75, 0.7, 0.6], target_size=(40, 100))


@pytest.fixture(scope="module")
def sets(dusk):
    return dusk.campaign.fit_sets()


class Scale:
    """Multiplies by a factor that no fit decides."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def fit(self, _destination, _origin):
        return {"factor": self.factor}

    def apply(self, batch, parameters):
        return (batch * parameters["factor"]).clamp(0, 1)


class Never(Scale):
    def fit(self, _destination, _origin):
        raise NotApplicable("never")


# --- stacking --------------------------------------------------------------------------------------------------------


def test_the_next_operator_is_fitted_on_what_the_present_ones_leave(sets):
    alone = Stack().fit_next(experiment(Exposure()), sets).steps[0].parameters
    after = Stack().fit_next(experiment(HistogramMatching()), sets).fit_next(experiment(Exposure()), sets)
    left = after.steps[1].parameters
    strength = [abs(np.log(p["gain"])) + abs(np.log(p["gamma"])) for p in (alone, left)]
    assert strength[0] > 0.2
    assert strength[1] < 0.25 * strength[0]


def test_statistics_after_maps_are_those_of_the_changed_pictures(sets):
    maps = [(Scale(0.5), {"factor": 0.5}), (Scale(0.8), {"factor": 0.8})]
    changed = changed_statistics(sets.target_fit, maps)
    few = sets.target_fit.pictures
    assert torch.allclose(changed.pictures, few * 0.4, atol=1e-6)
    assert changed.channel_mean == pytest.approx((few * 0.4).mean((0, 2, 3)).numpy(), abs=1 / 255)
    assert changed.trait("brightness").mean() == pytest.approx(
        0.4 * sets.target_fit.trait("brightness").mean(), rel=0.02
    )
    assert changed_statistics(sets.target_fit, []) is sets.target_fit


def test_maps_of_colours_leave_shapes_and_layout_as_they_were(sets):
    changed = changed_statistics(sets.target_fit, [(Scale(0.5), {"factor": 0.5})])
    for name in ("aspect_ratio", "median_size_car", "share_sky"):
        assert changed.trait(name).tolist() == sets.target_fit.trait(name).tolist()
    scale = experiment(ObjectScale(("median_size_car",)))
    alone = Stack().fit_next(scale, sets)
    after = Stack().fit_next(experiment(ChannelStatistics()), sets).fit_next(scale, sets)
    assert after.steps[1].parameters == alone.steps[0].parameters


def test_what_can_not_be_stacked_is_left_out(sets):
    windows = Stack().fit_next(experiment(AspectWindows()), sets)
    assert windows.steps[0].parameters["aspect"] == 1.5
    assert windows.fit_next(experiment(Letterbox()), sets) is None, "windows within windows"
    assert Stack().fit_next(experiment(Never(1)), sets) is None
    assert Stack().fit_next(experiment(ClassShare(1)), sets) is None


def losses_of(gains: dict[str, float]):
    """A stand-in for the fit half: every operator of the stack lowers the loss by its gain."""
    rng = np.random.default_rng(0)
    start, units = 1 + rng.normal(0, 0.1, 24), [f"u{i // 3}" for i in range(24)]
    asked = []

    def loss_with(stack: Stack):
        names = [step.experiment.id for step in stack.steps]
        asked.append(names)
        noise = np.random.default_rng(len(names)).normal(0, 0.005, 24)
        return start - sum(gains[name] for name in names) + noise * bool(names), units

    return loss_with, asked


def test_the_stack_takes_what_helps_most_first_and_stops_when_nothing_helps(sets):
    gains = {"small": 0.05, "large": 0.3, "harm": -0.2, "nothing": 0.0}
    candidates = [experiment(Scale(0.9), name) for name in gains]
    loss_with, asked = losses_of(gains)
    stack = stack_greedily(candidates, sets, loss_with)
    assert [step.experiment.id for step in stack.steps] == ["large", "small"]
    assert not any("large" in names and names.count("large") > 1 for names in asked)


def test_where_nothing_helps_the_stack_is_empty(sets):
    loss_with, _ = losses_of({"harm": -0.1, "nothing": 0.0})
    candidates = [experiment(Scale(0.9), "harm"), experiment(Scale(0.9), "nothing"), experiment(Never(1), "never")]
    assert stack_greedily(candidates, sets, loss_with) == Stack()
    assert stack_greedily([experiment(Never(1), "never")], sets, loss_with) == Stack()
    assert stack_greedily([], sets, loss_with) == Stack()


def test_operators_apply_in_the_order_of_the_stack(sets, colour_model):
    steps = [Step(experiment(ChannelStatistics()), {"gain": [0.5] * 3, "offset": [0.3] * 3}),
             Step(experiment(Scale(0.5)), {"factor": 0.5})]  # fmt: skip
    batch = torch.full((1, 3, 4, 4), 0.4)
    predictor = Stack(steps).predictor(colour_model, sets.target_fit)
    assert predictor.change(batch, ["a"]).unique().item() == pytest.approx((0.4 * 0.5 + 0.3) * 0.5)


def test_a_model_operator_adapts_to_the_changed_pictures(sets, network_model):
    norms = experiment(BatchNormReestimation(1.0))
    stack = Stack([Step(experiment(Scale(0.5)), {"factor": 0.5})]).fit_next(norms, sets)
    adapted = stack.predictor(network_model, sets.target_fit).model
    expected = BatchNormReestimation(1.0).adapt(network_model, sets.target_fit.pictures * 0.5)
    assert adapted.fingerprint == expected.fingerprint
    other = replace(sets, target_fit=replace(sets.target_fit, histogram=sets.target_fit.histogram[:, ::-1]))
    again = Stack().fit_next(norms, other)
    assert again.steps[0].parameters != Stack().fit_next(norms, sets).steps[0].parameters, "rows follow the pictures"


# --- together --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gap(dusk):
    return gap_draws(dusk.campaign.sides.target, dusk.campaign.sides.holdout, RULES)


def outcome_of(dusk, gap, confirmed, name):
    return together(dusk.campaign, confirmed, gap, dusk.store.table(name, "recipe", id_column="row_id"), "code")


def test_the_recipe_closes_what_it_says_and_the_rest_is_unexplained(dusk, gap):
    confirmed = [experiment(ChannelStatistics()), experiment(Scale(0.5), "harm")]
    outcome = outcome_of(dusk, gap, confirmed, "one")
    assert [step["hypothesis"] for step in outcome.recipe["steps"]] == ["channelstatistics"]
    operator, parameters = outcome.stack.maps()[0]
    ids = dusk.campaign.samples("target", report=True)["sample_id"].to_list()
    after = []
    for batch in dusk.campaign.load("target", ids):
        logits = dusk.campaign.model(operator.apply(batch.reduced, parameters)).logits
        for picture, scores in zip(batch.pictures, logits, strict=True):
            at_label = torch.nn.functional.interpolate(scores[None], picture.mask.shape, mode="bilinear")
            labels = torch.from_numpy(picture.mask.astype(np.int64))[None]
            after.append(float(torch.nn.functional.cross_entropy(at_label, labels)))
    closed = (gap.before.mean() - np.mean(after)) / gap.value
    assert outcome.recipe["loss_after"] == pytest.approx(np.mean(after), rel=1e-4)
    assert outcome.recipe["gap_closed"] == pytest.approx(closed, rel=1e-3)
    assert closed > 0.5
    assert unexplained(outcome.attribution)["value"] == pytest.approx(1 - closed, abs=1e-3)
    low, high = outcome.recipe["ci95"]
    assert unexplained(outcome.attribution)["ci95"] == pytest.approx((1 - high, 1 - low))
    assert "class Recipe" in outcome.source and outcome.changed_model is None


def test_a_second_run_measures_nothing_anew(dusk, gap):
    confirmed = [experiment(ChannelStatistics())]
    first = outcome_of(dusk, gap, confirmed, "two")
    table = dusk.store.table("two", "recipe", id_column="row_id")
    version = table.version()
    assert outcome_of(dusk, gap, confirmed, "two").recipe == first.recipe
    assert table.version() == version
    outcome_of(dusk, gap, [], "two")
    assert table.version() != version, "another stack, other rows"


def test_without_a_confirmed_cause_all_of_the_gap_is_unexplained(dusk, gap):
    outcome = outcome_of(dusk, gap, [], "three")
    assert unexplained(outcome.attribution) == {"value": 1.0, "ci95": None}
    assert outcome.recipe == {"steps": [], "gap_closed": None, "ci95": None, "loss_after": None}
    assert outcome.source == ""


def test_content_counts_in_what_is_explained_but_not_in_the_recipe(dusk, gap):
    share = experiment(ClassShare(2))
    outcome = outcome_of(dusk, gap, [share], "four")
    sets, target = dusk.campaign.fit_sets(), dusk.campaign.sides.target.filter("report_half")
    weights = rake([ClassShare(2)], sets.pixels["reference"], sets.pixels["target_fit"])
    loss, pixels = (np.array(target[name].to_list(), float) for name in ("loss_sum", "class_pixels"))
    known = np.nan_to_num(sets.class_losses["holdout_fit"])
    moved = pixels * weights / (pixels @ weights)[:, None] - pixels / pixels.sum(1, keepdims=True)
    after = ((loss @ weights) / (pixels @ weights) + gap.before + moved @ known) / 2
    assert outcome.recipe["steps"] == [] and outcome.recipe["gap_closed"] is None
    assert unexplained(outcome.attribution)["value"] == pytest.approx(1 - (gap.before - after).mean() / gap.value)


def test_the_joint_effect_is_nothing_without_rows(dusk, gap):
    empty = pl.DataFrame(schema={"sample_id": pl.String, "role": pl.String, "loss": pl.Float64,
                                 "loss_sum": pl.List(pl.Float64), "class_pixels": pl.List(pl.Float64)})  # fmt: skip
    joint = joint_effect(empty, dusk.campaign.sides.target, gap)
    assert (joint.gap_closed, joint.ci95) == (0.0, None)


# --- the file --------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, importlib.util
import numpy as np, torch

class Toy(torch.nn.Module):
    def __init__(self, weight, bias):
        super().__init__()
        self.head = torch.nn.Conv2d(3, 4, 1)
        self.head.weight.data, self.head.bias.data = weight, bias
    def forward(self, batch):
        return self.head(batch)

given = np.load("given.npz")
batch, image = torch.tensor(given["batch"]), torch.tensor(given["image"]).permute(2, 0, 1).float() / 255
model = Toy(torch.tensor(given["weight"]), torch.tensor(given["bias"]))
found = {}
for name in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location(name, f"{name}.py")
    recipe = importlib.util.module_from_spec(spec)
    sys.modules[name] = recipe
    spec.loader.exec_module(recipe)
    with torch.no_grad():
        found[name] = recipe.Recipe()(batch).numpy()
        found[name + "_single"] = recipe.Recipe()(batch[0]).numpy()
        if hasattr(recipe, "WindowedModel"):
            moments = [tuple(given[key].tolist()) for key in ("mean", "std")]
            windowed = recipe.WindowedModel(model, (64, 96), *moments)
            found[name + "_scores"] = windowed(image).numpy()
np.savez("found.npz", **found)
ours = sorted(name for name in sys.modules if name.split(".")[0] in ("assets", "resources", "pipelines"))
assert not ours, ours
"""
MAPS = [ChannelStatistics(), ChannelStatisticsPerImage(), HistogramMatching(), Exposure(), Sharpness()]
WINDOWS = {"windows": AspectWindows(), "box": Letterbox(), "near": ObjectScale(("s",)), "far": ObjectScale(("s",))}
WINDOW_PARAMETERS = {"windows": {"aspect": 1.5, "present": 2.5}, "box": {"aspect": 1.5, "present": 2.5},
                     "near": {"scale": 0.7}, "far": {"scale": 1.4}}  # fmt: skip


@pytest.fixture(scope="module")
def stacks(sets):
    """Stacks of every kind of step, by the name of their file."""
    every = Stack()
    for operator in MAPS:
        every = every.fit_next(experiment(operator), sets)
    found = {f"map{i}": Stack().fit_next(experiment(operator), sets) for i, operator in enumerate(MAPS)}
    found |= {"every": every, "twice": Stack([*found["map0"].steps, *found["map3"].steps, *found["map0"].steps])}
    for name, operator in WINDOWS.items():
        found[name] = Stack([Step(experiment(operator), WINDOW_PARAMETERS[name]), *found["map0"].steps])
    found["bare"] = Stack([Step(experiment(AspectWindows()), WINDOW_PARAMETERS["windows"])])
    found["model"] = Stack([Step(experiment(BatchNormReestimation()), {"fitted_on": "x"})])
    return found


@pytest.fixture(scope="module")
def executed(stacks, sets, tmp_path_factory):
    """What the written files give, run by a Python that sees torch and numpy, away from the product."""
    folder = tmp_path_factory.mktemp("recipes")
    rng = np.random.default_rng(5)
    torch.manual_seed(3)
    head = torch.nn.Conv2d(3, 4, 1)
    given = {
        "batch": sets.target_fit.pictures[:3].numpy(), "image": rng.integers(0, 256, (60, 150, 3)).astype(np.uint8),
        "weight": head.weight.detach().numpy() * 8, "bias": head.bias.detach().numpy(),
        "mean": np.array([0.4, 0.5, 0.6]), "std": np.array([0.2, 0.25, 0.3]),
    }  # fmt: skip
    np.savez(folder / "given.npz", **given)
    for name, stack in stacks.items():
        (folder / f"{name}.py").write_text(recipe_source(stack, "dusk"))
    (folder / "run.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-I", "run.py", *stacks], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return given, np.load(folder / "found.npz")


def test_the_written_file_gives_what_the_operators_give(executed, stacks):
    given, found = executed
    for name, stack in stacks.items():
        expected = torch.tensor(given["batch"])
        for operator, parameters in stack.maps():
            expected = operator.apply(expected, parameters)
        assert np.abs(found[name] - expected.numpy()).max() < 1e-6, name
        assert found[name].shape == given["batch"].shape
        assert np.abs(found[f"{name}_single"] - found[name][0]).max() < 1e-6, name


def test_the_windowed_model_gives_what_trials_measure(executed, stacks, colour_model):
    from resources.config import ModelConfig
    from resources.model import SegmentationModel

    given, found = executed

    class Toy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Conv2d(3, 4, 1)
            self.head.weight.data, self.head.bias.data = (torch.tensor(given[name]) for name in ("weight", "bias"))

        def forward(self, batch):
            return self.head(batch)

    config = ModelConfig(
        input_size=(64, 96), embedding_layer="head", mean=tuple(given["mean"]), std=tuple(given["std"])
    )
    model = SegmentationModel(Toy(), config, 4, "toy", "cpu")
    picture = Picture("a", given["image"], np.zeros((60, 150), np.uint8), to_input(given["image"], (64, 96)))
    unseen = SetStatistics(np.zeros((3, 256), np.int64), pl.DataFrame(), lambda: pytest.fail("nothing adapts to it"))
    for name in (*WINDOWS, "bare"):
        _, scores, _, _ = next(predict(stacks[name].predictor(model, unseen), [picture]))
        assert found[f"{name}_scores"].shape == (4, 60, 150)
        # padding is the mean itself here, a grey level of 8 bits there: only pixels at the border feel it
        difference = np.abs(np.exp(found[f"{name}_scores"]) - scores.exp().numpy())
        assert difference.max() < (0.02 if name in ("box", "far") else 1e-4), name
        assert "map0_scores" not in found


def test_the_file_needs_torch_and_numpy_alone_and_names_its_target(stacks):
    for name, stack in stacks.items():
        source = recipe_source(stack, "dusk")
        tree = ast.parse(source)
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        roots = {module.split(".")[0] for module in modules}
        assert roots <= {"__future__", "dataclasses", "math", "numpy", "torch", "torchvision"}, name
        assert "dusk" in ast.get_docstring(tree)
        assert ("recipe-model.safetensors" in source) == (name == "model")
        assert ("class WindowedModel" in source) == (name in (*WINDOWS, "bare"))


def test_parameters_of_any_json_kind_are_written_as_python(sets):
    class Choosy(Scale):
        def fit(self, _destination, _origin):
            return {"factor": 0.5, "flag": True, "nothing": None, "names": ["a'b", 'c"d']}

    stack = Stack().fit_next(experiment(Choosy(1)), sets)
    namespace: dict = {}
    exec(compile(recipe_source(stack, "dusk"), "recipe.py", "exec"), namespace)
    assert namespace["Recipe"].STEPS[0][1] == {"factor": 0.5, "flag": True, "nothing": None, "names": ["a'b", 'c"d']}


def test_steps_as_data(stacks):
    assert recipe_steps(stacks["map0"]) == [
        {"hypothesis": "channelstatistics", "title": "the channelstatistics",
         "parameters": stacks["map0"].steps[0].parameters}
    ]  # fmt: skip
