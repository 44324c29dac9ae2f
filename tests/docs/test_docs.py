"""README and docs say what is so: every snippet is parsed, configs load, code runs, commands and links exist."""

import ast
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
import torch
import typer
import yaml

from assets.diagnosis.hypotheses import Hypothesis
from assets.experiments.match import Matched
from assets.experiments.normalise import Haze
from assets.experiments.operators import NotApplicable, PictureOperator, SetStatistics
from assets.experiments.recipe import Stack, Step, recipe_source
from assets.experiments.recipe_files import recipe_files
from assets.experiments.registry import Experiment, load_experiments
from assets.traits.registry import load_user_traits
from assets.traits.table import catalogue
from pipelines.cli import app
from resources.config import GapConfig, load_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def snippets(language: str) -> list[tuple[str, str]]:
    """(page, text) of every fenced block of a language."""
    fenced = re.compile(rf"^```{language}\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    return [(page.name, text) for page in PAGES for text in fenced.findall(page.read_text(encoding="utf-8"))]


def numbered(found: list[tuple[str, str]]) -> list:
    return [pytest.param(text, id=f"{page}-{i}") for i, (page, text) in enumerate(found)]


YAML, PYTHON, CONSOLE = (snippets(language) for language in ("yaml", "python", "console"))
LANGUAGES = ("yaml", "python", "console", "csv", "mermaid", "text", "ini")


def whole(snippet: dict, classes: list[str]) -> dict:
    """A config around a snippet: a data set becomes the source or a target, sections take their places."""
    plain = {"reader": "folder", "root": "plain"}
    base = {
        "classes": classes,
        "source": {"name": "plain_source", **plain},
        "targets": [{"name": "plain_target", **plain}],
    }
    if "reader" not in snippet:
        return base | snippet
    if snippet["reader"] in ("cityscapes", "kitti"):
        base["classes"] = "cityscapes19"
    return base | ({"source": snippet} if "holdout" in snippet else {"targets": [snippet]})


def make_files(raw: dict, folder: Path) -> None:
    """Everything that a config names on disk."""
    for dataset in [raw["source"], *raw["targets"]]:
        if "root" in dataset:
            (folder / dataset["root"]).mkdir(parents=True, exist_ok=True)
        if "metadata" in dataset:
            (folder / dataset["metadata"]).touch()
    if tests := raw.get("checks", {}).get("slice_tests"):
        (folder / tests).touch()
    if checkpoint := raw.get("model", {}).get("checkpoint"):
        (folder / checkpoint).parent.mkdir(parents=True, exist_ok=True)
        (folder / checkpoint).touch()


def loaded(text: str, folder: Path) -> GapConfig:
    raw = whole(yaml.safe_load(text), ["road", "sky", "car"])
    make_files(raw, folder)
    (folder / "gap.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    return load_config(folder / "gap.yaml")


def test_every_fence_is_of_a_known_language():
    for page in PAGES:
        opened = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(opened[::2]) <= set(LANGUAGES), page.name
        assert not any(opened[1::2]), f"{page.name}: a fence is not closed"
    assert YAML, PYTHON
    assert CONSOLE


@pytest.mark.parametrize("text", numbered(YAML))
def test_yaml_is_a_valid_config(text, tmp_path):
    config = loaded(text, tmp_path)
    assert isinstance(config, GapConfig)


def test_readme_has_a_whole_config():
    whole_ones = [text for page, text in YAML if page == "README.md" and "targets:" in text]
    assert whole_ones
    assert {"classes", "source", "targets"} <= yaml.safe_load(whole_ones[0]).keys()


@pytest.mark.parametrize("text", numbered(PYTHON))
def test_python_is_parsed(text):
    ast.parse(text)


class TestUserModules:
    """The modules of docs/traits-and-hypotheses.md, written beside a config and used as a run would use them."""

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        for _, text in PYTHON:
            if named := re.match(r"# ((?:my|night)_\w+)\.py\n", text):
                (tmp_path / f"{named[1]}.py").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        yield tmp_path
        for name in ("my_traits", "my_hypotheses", "night_traits", "night_hypotheses"):
            sys.modules.pop(name, None)

    @pytest.fixture
    def config(self, folder):
        text = next(text for _, text in YAML if "my_traits" in text)
        return loaded(text, folder)

    def test_the_trait_is_registered_and_measures(self, config):
        traits = catalogue(config).traits
        assert traits["road_contrast"].family == "contrast"
        assert traits["road_contrast"].statement.startswith("How much grey values vary on the road")
        measure = load_user_traits(config.traits.modules)["road_contrast"].function
        image = np.zeros((4, 4, 3), np.uint8)
        image[:, ::2] = 255
        assert measure(image, np.zeros((4, 4), np.uint8)) == pytest.approx(0.5)
        assert np.isnan(measure(image, None))

    def test_the_hypothesis_is_registered_beside_the_built_in_ones(self, config):
        experiments = load_experiments(config, catalogue(config).traits)
        assert {"veil_of_light", "exposure"} <= experiments.keys()
        experiment = experiments["veil_of_light"]
        assert set(experiment.hypothesis.traits) <= catalogue(config).traits.keys()
        assert isinstance(experiment.operator, PictureOperator)
        assert experiment.direction == "normalise"
        assert experiment.code == load_experiments(config, catalogue(config).traits)["veil_of_light"].code

    def test_its_operator_takes_the_dark_channel_where_it_should_go(self, config):
        operator = load_experiments(config, catalogue(config).traits)["veil_of_light"].operator
        hazy, clear = with_dark_channel(0.3), with_dark_channel(0.1)
        parameters = operator.fit(clear, hazy)
        moved = operator.apply(torch.full((1, 3, 8, 8), 0.3), parameters)
        assert moved.mean().item() == pytest.approx(0.1, abs=1e-5)
        back = operator.fit(hazy, clear)
        assert operator.apply(torch.full((1, 3, 8, 8), 0.1), back).mean().item() == pytest.approx(0.3, abs=1e-5)
        with pytest.raises(NotApplicable):
            operator.fit(clear, clear)

    def test_its_operator_can_be_carried_away_in_a_recipe(self, config):
        experiment = load_experiments(config, catalogue(config).traits)["veil_of_light"]
        module = ModuleType("recipe")
        source = recipe_source(Stack([Step(experiment, {"veil": 0.1})]), "ours")
        sys.modules["recipe"] = module  # dataclasses look their module up
        try:
            exec(compile(source, "recipe.py", "exec"), module.__dict__)
            picture = torch.rand(3, 8, 8)
            expected = experiment.operator.apply(picture[None], {"veil": 0.1})[0]
            assert torch.allclose(module.Recipe()(picture), expected)
        finally:
            del sys.modules["recipe"]

    def test_the_tutorials_trait_and_hypothesis_work_together(self, folder):
        config = loaded(next(text for _, text in YAML if "night_traits" in text), folder)
        experiment = load_experiments(config, catalogue(config).traits)["bloom"]
        measure = load_user_traits(config.traits.modules)["burnt_out"].function
        picture = np.full((4, 4, 3), 120, np.uint8)
        picture[:2] = 240
        lifted = experiment.imitation.apply(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255, {"lift": 8.0})
        assert measure(picture, None) == 0
        assert measure((lifted[0].permute(1, 2, 0) * 255).round().byte().numpy(), None) == 0.5
        assert experiment.imitation.measure(lifted) == pytest.approx([0.5])
        assert experiment.direction == "imitate"

    @pytest.mark.usefixtures("folder")
    def test_the_notebook_lines_run(self):
        lines = next(
            text for page, text in PYTHON if page == "traits-and-hypotheses.md" and text.startswith("import torch\n")
        )
        exec(compile(lines, "notebook", "exec"), {})

    def test_only_names_hypotheses_that_exist(self, tmp_path):
        config = loaded(next(text for _, text in YAML if "only:" in text), tmp_path)
        assert set(load_experiments(config, catalogue(config).traits)) == set(config.experiments.only)

    def test_a_larger_deployment_loads_the_readmes_config(self, tmp_path, monkeypatch):
        text = next(text for page, text in YAML if page == "README.md")
        config = loaded(text, tmp_path)
        monkeypatch.chdir(tmp_path)
        namespace: dict = {}
        exec(next(text for _, text in PYTHON if "load_definitions" in text), namespace)
        definitions = namespace["defs"]
        keys = {key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys()}
        assert {f"{target.name}/gap_report" for target in config.targets} <= keys
        jobs = {job.name for job in definitions.resolve_all_job_defs()}
        named = set(
            re.findall(r"`(gap_check\w*|experiments_\w+|nightly_gap_check)(?:_<target>)?`", page_text("dagster.md"))
        )
        assert named <= jobs
        assert [schedule.name for schedule in definitions.schedules] == ["nightly_gap_check_schedule"]
        assert {sensor.name for sensor in definitions.sensors} == {"rerun_changed", "tell_run_failure", "watch_nights"}


@pytest.mark.slow
def test_the_recipes_other_forms_run_as_shown(tmp_path, monkeypatch):
    hypothesis = Hypothesis("haze", "haze", "haze", "The target is hazy.", ("dark_channel",))
    stack = Stack([Step(Experiment(hypothesis, Matched(Haze(), "dark_channel")), Haze().at(1.2))])
    monkeypatch.setattr("assets.experiments.recipe_files.find_spec", lambda _name: None)  # ONNX takes seconds
    for file in recipe_files(stack, "ours", (64, 96)):
        if file.content is not None:
            (tmp_path / file.name).write_text(file.content, encoding="utf-8")
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("recipe_torchvision", "recipe_albumentations"):
        namespace: dict = {}
        try:
            exec(next(text for _, text in PYTHON if f"from {name} import" in text), namespace)
        finally:
            sys.modules.pop(name, None)
        shown = namespace.get("picture", namespace.get("changed"))
        assert sorted(shown.shape) == [3, 64, 96]


def with_dark_channel(value: float) -> SetStatistics:
    return SetStatistics(np.ones((3, 256), np.int64), pl.DataFrame({"dark_channel": [value] * 5}), torch.empty)


def page_text(name: str) -> str:
    return next(page.read_text(encoding="utf-8") for page in PAGES if page.name == name)


def commands() -> list:
    lines = [(page, line.split("#")[0].strip()) for page, text in CONSOLE for line in text.splitlines()]
    return [pytest.param(line, id=f"{page}: {line}") for page, line in lines if line]


@pytest.mark.parametrize("line", commands())
def test_commands_exist(line):
    program, *arguments = line.split()
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in arguments if "=" not in target)
    elif program == "domain-gap":
        group = typer.main.get_command(app)
        command = group if arguments[0].startswith("-") else group.commands[arguments[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in arguments if word.startswith("-")} <= known
    else:
        assert program in ("export", "dg", "dagster", "dagster-webserver", "dagster-daemon", ".")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page):
    text = page.read_text(encoding="utf-8")
    linked = [target for target in re.findall(r"(?<!!)\[[^]]*\]\(([^)#]+)\)", text) if "://" not in target]
    assert all((page.parent / target).exists() for target in linked), linked
    named = re.findall(r"`((?:assets|resources|pipelines)/[\w/]+(?:\.py|/))`", text)
    assert all((ROOT / path).exists() for path in named), named


def test_licence_is_whole():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "[name of copyright owner]" not in text
