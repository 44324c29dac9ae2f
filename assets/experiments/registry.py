"""Which experiment tries which hypothesis: a hypothesis is data, an experiment adds the operators that try it.

Belongs here: the catalogue, registration of the user's own, what an experiment's code version covers.
Does not: operators, running trials.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from assets.diagnosis.hypotheses import (
    Hypothesis,
    appearance_hypotheses,
    content_hypotheses,
    model_hypotheses,
)
from assets.experiments import geometry, imitate, model_side, normalise
from assets.experiments.operators import (
    ModelOperator,
    Operator,
    PictureOperator,
    ReweightOperator,
    WindowOperator,
)
from assets.experiments.reweight import ClassShare
from assets.traits.layout import slug
from assets.traits.registry import Trait
from resources.config import GapConfig
from resources.errors import ConfigError
from resources.fingerprint import code_version, definition_version, fingerprint

Direction = Literal["normalise", "imitate", "reweight", "model"]

SHARED_CODE = (
    "assets.experiments.operators",
    "assets.experiments.trial",
    "assets.inference.losses",
    "assets.inference.latents",
    "resources.model",
    "resources.pictures",
)
"""What every experiment's figures rest on besides its own operators."""


@dataclass(frozen=True)
class Experiment:
    """A hypothesis and what tries it: `operator` on the target, `imitation` on the holdout; one may be missing."""

    hypothesis: Hypothesis
    operator: Operator | None
    imitation: PictureOperator | WindowOperator | None = None

    @property
    def id(self) -> str:
        """The hypothesis's id: one experiment a hypothesis."""
        return self.hypothesis.id

    @property
    def direction(self) -> Direction:
        """The direction that its first figures are of."""
        if self.operator is None:
            return "imitate"
        if isinstance(self.operator, ReweightOperator):
            return "reweight"
        return "model" if isinstance(self.operator, ModelOperator) else "normalise"

    def code(self) -> str:
        """Version of all that decides its rows: operators, their settings, shared code."""
        operators = [operator for operator in (self.operator, self.imitation) if operator is not None]
        parts = [(definition_version(type(operator)), _settings(operator)) for operator in operators]
        return fingerprint(parts, self.hypothesis.traits, code_version(*SHARED_CODE))


_registered: dict[str, Experiment] = {}


def register(experiment: Experiment) -> Experiment:
    """Add an experiment of the user's own, from a module that `experiments.modules` names."""
    _registered[experiment.id] = experiment
    return experiment


def load_experiments(config: GapConfig, traits: dict[str, Trait]) -> dict[str, Experiment]:
    """All experiments of a config by id: built-in ones, then the user's; `experiments.only` narrows them.

    Raises ConfigError for a module that can't be imported, an id taken twice, or an unknown name under `only`.
    """
    found = {experiment.id: experiment for experiment in built_in(config.class_names, traits)}
    for module in config.experiments.modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"experiments.modules: {module!r} can't be imported: {error}") from None
    for experiment in _registered.values():
        if type(experiment.operator or experiment.imitation).__module__ not in config.experiments.modules:
            continue
        if experiment.id in found:
            raise ConfigError(f"experiments.modules: hypothesis id {experiment.id!r} is taken; choose another")
        found[experiment.id] = experiment
    return _narrowed(found, config.experiments.only)


def built_in(class_names: Sequence[str], traits: dict[str, Trait]) -> list[Experiment]:
    """The first set of experiments."""
    sizes = tuple(f"median_size_{slug(name)}" for name in class_names if f"median_size_{slug(name)}" in traits)
    appearance: dict[str, tuple[Operator | None, PictureOperator | WindowOperator | None]] = {
        "channel_statistics": (normalise.ChannelStatistics(), normalise.ChannelStatistics()),
        "channel_statistics_per_image": (normalise.ChannelStatisticsPerImage(), None),
        "histogram": (normalise.HistogramMatching(), normalise.HistogramMatching()),
        "exposure": (normalise.Exposure(), normalise.Exposure()),
        "sharpness": (normalise.Sharpness(), imitate.Blur()),
        "aspect_windows": (geometry.AspectWindows(), geometry.AspectCrop()),
        "aspect_letterbox": (geometry.Letterbox(), None),
    }
    experiments = [Experiment(hypothesis, *appearance[hypothesis.id]) for hypothesis in appearance_hypotheses()]
    for hypothesis in content_hypotheses(class_names, sizes):
        if hypothesis.id == "object_scale":
            experiments.append(Experiment(hypothesis, geometry.ObjectScale(sizes)))
        else:
            index = list(class_names).index(hypothesis.id.removeprefix("content_"))
            experiments.append(Experiment(hypothesis, ClassShare(index)))
    experiments += [Experiment(hypothesis, model_side.BatchNormReestimation()) for hypothesis in model_hypotheses()]
    return experiments


def _narrowed(found: dict[str, Experiment], only: list[str] | None) -> dict[str, Experiment]:
    for name in only or []:
        if name not in found:
            near = difflib.get_close_matches(name, found, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(found)}"
            raise ConfigError(f"experiments.only: no hypothesis {name!r}; {hint}")
    return {name: experiment for name, experiment in found.items() if only is None or name in only}


def _settings(operator: Operator) -> str:
    return fingerprint(sorted(vars(operator).items())) if hasattr(operator, "__dict__") else repr(operator)
