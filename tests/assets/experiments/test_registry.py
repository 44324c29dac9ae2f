"""The catalogue of experiments, the user's own ones, and what each one's code version covers."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from assets.diagnosis.hypotheses import Hypothesis
from assets.experiments import fourier, geometry, jpeg, noise, normalise, registry
from assets.experiments.imitate import Blur
from assets.experiments.match import Matched
from assets.experiments.noise import Noise
from assets.experiments.normalise import Haze, Vignette
from assets.experiments.operators import (
    LabelOperator,
    ModelOperator,
    PictureOperator,
    ReweightOperator,
    WindowOperator,
)
from assets.experiments.recipe import Stack, Step, recipe_source
from assets.experiments.registry import Experiment, built_in, load_experiments, register
from assets.experiments.reweight import ClassShare
from assets.traits.registry import all_traits
from resources.config import CAMVID11, CITYSCAPES19, GapConfig
from resources.errors import ConfigError

LISTS = {"cityscapes19": CITYSCAPES19, "camvid11": CAMVID11}
NUMBERS = count()
ROOT = Path(__file__).resolve().parents[3]


def config(**experiments) -> GapConfig:
    return GapConfig.model_validate({
        "classes": "camvid11", "experiments": experiments, "source": {"name": "home", "reader": "streets"},
        "targets": [{"name": "away", "reader": "streets"}],
    })  # fmt: skip


def load(**experiments) -> dict[str, Experiment]:
    return load_experiments(config(**experiments), all_traits(CAMVID11, []))


HEAD = """
from assets.diagnosis.hypotheses import Hypothesis
from assets.experiments.normalise import ChannelStatistics
from assets.experiments.registry import Experiment, register

def hypothesis(name):
    return Hypothesis(name, "colour", "mine", "Mine differs.", ("mean_red",))
"""
OPERATOR = """
class Mine:
    def fit(self, destination, origin):
        return {"gain": strength()}

    def apply(self, batch, parameters):
        return batch

def strength():
    return 1

class Other(Mine):
    pass
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of the user's own under a new name and returns the name."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(text: str, name: str = "") -> str:
        name = name or f"mine_{next(NUMBERS)}"
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(HEAD + text)
        importlib.invalidate_caches()
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("classes", LISTS.values(), ids=LISTS)
def test_built_in_experiments_have_unique_ids_that_are_asset_keys(classes):
    traits = all_traits(classes, [])
    found = built_in(classes, traits)
    names = [experiment.id for experiment in found]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)
    assert {"channel_statistics", "sharpness", "content_sky", "object_scale", "batch_norm"} <= set(names)
    for experiment in found:
        unknown = set(experiment.hypothesis.traits) - set(traits) - {"gap_score"}
        assert not unknown, f"{experiment.id} speaks of {unknown}"
        assert experiment.direction in ("normalise", "imitate", "reweight", "model")


def test_the_catalogue_has_both_directions_where_both_make_sense():
    found = {each.id: each for each in built_in(CAMVID11, all_traits(CAMVID11, []))}
    both = {name for name, each in found.items() if each.operator is not None and each.imitation is not None}
    assert both >= {"lab", "white_balance", "contrast", "saturation", "haze", "noise", "compression", "vignette",
                    "fda_b01", "fda_b05", "fda_b09", "field_of_view", "exposure", "sharpness"}  # fmt: skip
    assert found["resolution"].operator is None and found["resolution"].direction == "imitate"
    assert all(found[name].imitation is None for name in found if name.endswith("_per_image"))
    assert "field_of_view" not in {each.id for each in built_in(["car", "tree"], all_traits(["car", "tree"], []))}


def test_every_map_of_the_catalogue_runs_from_its_recipe_alone(scenes, statistics_of):
    """What a recipe carries is the text of `apply`: it may use nothing but torch and its parameters."""
    source = scenes(10, seed=1, size=(120, 160))
    tint = torch.tensor([0.75, 0.6, 0.5])[:, None, None]
    target = Noise().apply(Vignette().apply(Haze().apply(scenes(10, seed=2, size=(120, 160)) * tint,
                           Haze().at(0.7)), Vignette().at(-0.6)), Noise().at(0.03))  # fmt: skip
    quality = {"jpeg_quality": np.full(10, 95.0)}, {"jpeg_quality": np.full(10, 40.0)}
    sets = statistics_of(source, **quality[0]), statistics_of(target, **quality[1])
    maps = {each.id: each for each in load().values() if isinstance(each.operator, PictureOperator)}
    assert len(maps) >= 18
    for name, experiment in maps.items():
        parameters = experiment.operator.fit(*sets)
        text = recipe_source(Stack([Step(experiment, parameters)]), "ours")
        module = ModuleType("recipe")
        sys.modules["recipe"] = module  # dataclasses look their module up
        try:
            exec(compile(text, "recipe.py", "exec"), module.__dict__)
            found = module.Recipe()(target)
        finally:
            del sys.modules["recipe"]
        expected = experiment.operator.apply(target, parameters)
        assert torch.allclose(found, expected, atol=1e-6), name
        assert "assets" not in text, name
        assert (expected - target).abs().mean() > 1e-4, f"{name} does nothing here"


def test_the_documentation_lists_the_catalogue():
    page = (ROOT / "docs" / "traits-and-hypotheses.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([a-z0-9_]+)`", "".join(re.findall(r"^\| `.*?\|", page, re.MULTILINE))))
    ids = {each.id for each in built_in(CAMVID11, all_traits(CAMVID11, [])) if not each.id.startswith("content_")}
    assert ids <= listed, ids - listed


def test_a_class_share_weighs_the_class_that_it_names():
    found = {experiment.id: experiment for experiment in built_in(CAMVID11, all_traits(CAMVID11, []))}
    assert found["content_sky"].operator == ClassShare(CAMVID11.index("sky"))
    assert found["content_vehicle"].operator == ClassShare(CAMVID11.index("vehicle"))


def test_directions_follow_from_operators():
    by_direction = {experiment.direction: experiment.operator for experiment in load().values()}
    assert isinstance(by_direction["model"], ModelOperator)
    assert isinstance(by_direction["reweight"], ReweightOperator | LabelOperator)
    assert isinstance(by_direction["normalise"], PictureOperator | WindowOperator)
    idea = Hypothesis("haze", "haze", "haze", "Haze differs.", ("dark_channel",))
    assert Experiment(idea, None, Blur()).direction == "imitate"


def test_only_narrows_and_names_the_nearest():
    assert list(load(only=["exposure", "histogram"])) == ["histogram", "exposure"]
    with pytest.raises(ConfigError, match=r"experiments\.only: no hypothesis 'sharpnes'; did you mean 'sharpness'\?"):
        load(only=["sharpnes"])
    with pytest.raises(ConfigError, match="no hypothesis 'zzz'; there are channel_statistics, "):
        load(only=["zzz"])


def test_an_experiment_with_a_built_in_operator_belongs_to_the_module_that_registers_it(module):
    name = module("register(Experiment(hypothesis('red_alone'), ChannelStatistics()))")
    found = load(modules=[name])
    assert found["red_alone"].hypothesis.title == "mine"
    assert list(load(modules=[name], only=["red_alone"])) == ["red_alone"]
    assert "red_alone" not in load(), "a module that the config does not name has no say"
    assert "red_alone" in load(modules=[name]), "a second look at a module that is already imported"


def test_a_module_that_was_imported_before_counts(module):
    """`traits.modules` may name the same module and is read first."""
    name = module("register(Experiment(hypothesis('early'), ChannelStatistics()))")
    importlib.import_module(name)
    assert "early" in load(modules=[name])


def test_a_package_brings_what_its_submodules_register(module):
    package = f"pack_{next(NUMBERS)}"
    module(f"from {package} import ideas", f"{package}.__init__")
    submodule = module("register(Experiment(hypothesis('deep'), None, ChannelStatistics()))", f"{package}.ideas")
    assert load(modules=[package])["deep"].direction == "imitate"
    assert "deep" in load(modules=[package, submodule])


def test_clashes_are_errors(module):
    taken = module("register(Experiment(hypothesis('exposure'), ChannelStatistics()))")
    with pytest.raises(ConfigError, match=f"'exposure' of '{taken}' is taken by a built-in hypothesis"):
        load(modules=[taken])
    first, second = (module("register(Experiment(hypothesis('same'), ChannelStatistics()))") for _ in range(2))
    with pytest.raises(ConfigError, match=f"'same' of '{second}' is taken by one of '{first}'"):
        load(modules=[first, second])
    twice = module("register(Experiment(hypothesis('twice'), ChannelStatistics()))\n" * 2)
    with pytest.raises(ConfigError, match=f"'{twice}' registers hypothesis 'twice' twice"):
        load(modules=[twice])


@pytest.mark.parametrize(("text", "reason"), [
    ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
    ("1 / 0", "ZeroDivisionError"),
    ("def broken(:", "SyntaxError"),
])  # fmt: skip
def test_a_module_that_fails_is_named_with_the_reason(module, text, reason):
    name = module(text)
    with pytest.raises(ConfigError, match=rf"experiments\.modules: '{name}' can't be imported \({reason}"):
        load(modules=[name])


def test_a_module_that_registers_nothing_is_an_error(module):
    with pytest.raises(ConfigError, match="registers no experiment; call register"):
        load(modules=[module("")])
    with pytest.raises(ConfigError, match="'no_such_module' can't be imported"):
        load(modules=["no_such_module"])


@pytest.mark.parametrize("name", ["My-Cause", "a b", "", "1st", "ünlit", "x/y"])
def test_ids_that_are_no_asset_keys_are_refused(name):
    with pytest.raises(ConfigError, match="use lower-case letters, digits and '_'"):
        register(Experiment(Hypothesis(name, "colour", "t", "s", ()), normalise.ChannelStatistics()))


def test_a_reload_replaces_what_the_module_registered(module, tmp_path):
    name = module("register(Experiment(hypothesis('old'), ChannelStatistics()))")
    assert "old" in load(modules=[name])
    path = tmp_path / f"{name}.py"
    path.write_text(HEAD + "register(Experiment(hypothesis('renewed'), ChannelStatistics()))\n# changed size\n")
    importlib.invalidate_caches()
    importlib.reload(sys.modules[name])
    found = load(modules=[name])
    assert "renewed" in found and "old" not in found
    importlib.reload(sys.modules[name])
    assert "renewed" in load(modules=[name])


# --- code versions ---------------------------------------------------------------------------------------------------


@pytest.fixture
def code_of(module):
    """The code version of an experiment with an operator class from a module of that text."""

    def code(text: str, kind: str = "Mine") -> str:
        operator = getattr(importlib.import_module(module(text)), kind)()
        return Experiment(Hypothesis("own", "colour", "t", "s", ("mean_red",)), operator).code

    return code


def test_the_code_version_follows_the_operators_code(code_of):
    before = code_of(OPERATOR)
    assert code_of(OPERATOR) == before
    assert (
        code_of("# a comment\n" + OPERATOR.replace("class Mine:", 'class Mine:\n    """Says what it does."""\n'))
        == before
    )
    assert code_of(OPERATOR + "\ndef unrelated():\n    return 7\n") == before
    assert code_of(OPERATOR.replace("return batch", "return batch * 2")) != before
    assert code_of(OPERATOR.replace("return 1", "return 2")) != before, "a helper of the operator's"


def test_the_code_version_follows_what_an_operator_inherits(code_of):
    assert code_of(OPERATOR, "Other") != code_of(OPERATOR.replace("return batch", "return batch * 2"), "Other")


def test_the_code_version_follows_a_base_class_of_another_module(module):
    def code(factor: int) -> str:
        base = module(OPERATOR.replace("return batch", f"return batch * {factor}"))
        own = module(f"import {base} as base\nclass Own(base.Mine):\n    pass\n")
        idea = Hypothesis("own", "colour", "t", "s", ())
        return Experiment(idea, importlib.import_module(own).Own()).code

    assert code(1) == code(1)
    assert code(1) != code(2)


def brightest(batch):
    return batch.amax((1, 2, 3)).numpy()


def darkest(batch):
    return batch.amin((1, 2, 3)).numpy()


def test_the_code_version_is_the_same_in_another_process():
    """Settings with an address in them would make every experiment stale at every start."""
    script = (
        "from assets.experiments.registry import built_in; from assets.traits.registry import all_traits; "
        "from resources.config import CAMVID11; "
        "print([each.code for each in built_in(CAMVID11, all_traits(CAMVID11, []))])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == str([each.code for each in built_in(CAMVID11, all_traits(CAMVID11, []))])


def test_settings_and_traits_count(code_of):
    idea = Hypothesis("own", "colour", "t", "s", ("mean_red",))
    scales = [Experiment(idea, geometry.ObjectScale(sizes)).code for sizes in (("a",), ("b",))]
    assert scales[0] != scales[1]
    shares = [Experiment(idea, ClassShare(index)).code for index in (0, 1)]
    assert shares[0] != shares[1]
    other = Hypothesis("own", "colour", "t", "s", ("mean_blue",))
    assert Experiment(idea, normalise.Exposure()).code != Experiment(other, normalise.Exposure()).code
    matches = [Matched(normalise.Contrast(), "brightness"), Matched(normalise.Contrast(), "contrast"),
               Matched(normalise.Saturation(), "brightness"), Matched(normalise.Contrast(), "brightness", brightest),
               Matched(normalise.Contrast(), "brightness", darkest)]  # fmt: skip
    assert len({Experiment(idea, match).code for match in matches}) == len(matches)
    assert (
        Experiment(idea, matches[3]).code
        == Experiment(idea, Matched(normalise.Contrast(), "brightness", brightest)).code
    )
    retold = Hypothesis("own", "colour", "t", "another statement", ("mean_red",))
    assert Experiment(idea, normalise.Exposure()).code == Experiment(retold, normalise.Exposure()).code


def rewritten(monkeypatch, tmp_path, original, old: str, new: str):
    """The operators' own module with one edit, in place of the original."""
    source = original.__loader__.get_source(original.__name__)
    assert old in source
    path = tmp_path / f"edited_{next(NUMBERS)}.py"
    path.write_text(source.replace(old, new))
    monkeypatch.syspath_prepend(tmp_path)
    edited = importlib.import_module(path.stem)
    name = original.__name__.rpartition(".")[2]
    monkeypatch.setattr(registry, name, edited)
    return {experiment.id: experiment.code for experiment in built_in(CAMVID11, all_traits(CAMVID11, []))}


@pytest.mark.parametrize(("original", "old", "new", "changed"), [
    (normalise, "batch * gain + offset", "batch * gain - offset", {"channel_statistics"}),
    (normalise, "0.25, 4))", "0.2, 5))", {"exposure"}),
    (normalise, "def _match(", "def _match(  # noqa\n    ", set()),
    (normalise, "levels = np.arange(256) / 255", "levels = np.arange(256) / 256", {"histogram"}),
    (geometry, "FEWEST_OBJECTS = 8", "FEWEST_OBJECTS = 9", {"object_scale", "field_of_view"}),
    (geometry, "SAME_HORIZON = 0.02", "SAME_HORIZON = 0.03", {"field_of_view"}),
    (geometry, ".softmax(0) * taper", ".softmax(0)",
     {"aspect_windows", "aspect_letterbox", "object_scale", "field_of_view"}),
    (normalise, '"airlight": 0.9', '"airlight": 0.8', {"haze"}),
    (normalise, "bounds: ClassVar[tuple[float, float]] = (0.1, 4.0)",
     "bounds: ClassVar[tuple[float, float]] = (0.1, 3.0)", {"contrast"}),
    (jpeg, "LARGEST_SCALE = 2.0", "LARGEST_SCALE = 1.5", {"compression"}),
    (noise, "STRENGTH = 1.75", "STRENGTH = 1.5", {"noise"}),
    (fourier, "norm=\"forward\").abs().mean(0)", "norm=\"forward\").abs().amax(0)", {"fda_b01", "fda_b05", "fda_b09"}),
])  # fmt: skip
def test_an_edit_changes_the_experiments_that_use_it_alone(monkeypatch, tmp_path, original, old, new, changed):
    before = rewritten(monkeypatch, tmp_path, original, "from __future__", "from __future__")
    after = rewritten(monkeypatch, tmp_path, original, old, new)
    assert {name for name in before if before[name] != after[name]} == changed
