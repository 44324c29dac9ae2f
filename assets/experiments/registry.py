"""Which experiment tries which hypothesis: a hypothesis is data, an experiment adds the operators that try it.

Belongs here: the catalogue, registration of the user's own, what an experiment's code version covers.
Does not: operators, running trials.
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType
from typing import Any, Literal

from assets.diagnosis.hypotheses import (
    FDA_SHARES,
    Hypothesis,
    appearance_hypotheses,
    content_hypotheses,
    horizon_traits,
    model_hypotheses,
)
from assets.diagnosis.label_policy import label_hypotheses
from assets.experiments import fourier, geometry, imitate, jpeg, labels, model_side, noise, normalise
from assets.experiments.match import Graded, Matched
from assets.experiments.operators import (
    LabelOperator,
    ModelOperator,
    Operator,
    PictureOperator,
    ReweightOperator,
    WindowOperator,
)
from assets.experiments.reweight import ClassShare, recomposed_losses
from assets.inference.label_quality import self_confidence
from assets.traits.layout import slug
from assets.traits.registry import Trait
from resources.config import GapConfig
from resources.errors import ConfigError
from resources.fingerprint import code_version, definition_version, fingerprint

Direction = Literal["normalise", "imitate", "reweight", "model"]

SHARED_CODE = (
    "assets.experiments.match",
    "assets.experiments.operators",
    "assets.experiments.trial",
    "assets.inference.estimation",
    "assets.inference.losses",
    "assets.inference.latents",
    "assets.traits.colour",
    "assets.traits.measure",
    "assets.traits.texture",
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
        if isinstance(self.operator, ReweightOperator | LabelOperator):
            return "reweight"
        return "model" if isinstance(self.operator, ModelOperator) else "normalise"

    @cached_property
    def code(self) -> str:
        """Version of all that decides its rows: operators, their settings, shared code.

        Read once, when the definitions load: a file that is edited while a run goes on changes the next load's rows.
        """
        operators = [operator for operator in (self.operator, self.imitation) if operator is not None]
        parts = [([definition_version(part) for part in _code_of(each)], _settings(each)) for each in operators]
        return fingerprint(parts, self.hypothesis.traits, code_version(*SHARED_CODE))


@dataclass
class _Registered:
    """Experiments of one module; `load` tells a fresh import or a reload from the one before."""

    load: Any
    experiments: dict[str, Experiment]


_registered: dict[str, _Registered] = {}


def register(experiment: Experiment) -> Experiment:
    """Add an experiment of the user's own; for modules that `experiments.modules` names.

    It belongs to the module that calls this, whatever module its operators are of. Raises ConfigError for an id that
    is no asset key, or that the module has registered already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", experiment.id):
        raise ConfigError(
            f"experiments.modules: hypothesis id {experiment.id!r}: use lower-case letters, digits and '_', "
            "a letter first"
        )
    caller = sys._getframe(1).f_globals
    module, load = caller["__name__"], caller.get("__spec__")
    if module not in _registered or _registered[module].load is not load:
        _registered[module] = _Registered(load, {})  # what an earlier import has left does not count
    own = _registered[module].experiments
    if experiment.id in own:
        raise ConfigError(f"experiments.modules: {module!r} registers hypothesis {experiment.id!r} twice; rename one")
    own[experiment.id] = experiment
    return experiment


def load_experiments(config: GapConfig, traits: dict[str, Trait]) -> dict[str, Experiment]:
    """All experiments of a config by id: built-in ones, then the user's; `experiments.only` narrows them.

    Raises ConfigError for a module that can't be imported or registers nothing, an id taken twice, or an unknown name
    under `only`.
    """
    found = {experiment.id: experiment for experiment in built_in(config.class_names, traits)}
    owners = dict.fromkeys(found, "a built-in hypothesis")
    for module in dict.fromkeys(config.experiments.modules):
        for owner, experiment in _of_module(module):
            name = experiment.id
            if found.get(name) is experiment:
                continue  # a package and its submodule are both named
            if name in found:
                raise ConfigError(
                    f"experiments.modules: hypothesis id {name!r} of {owner!r} is taken by {owners[name]}; "
                    "choose another"
                )
            found[name], owners[name] = experiment, f"one of {owner!r}"
    return _narrowed(found, config.experiments.only)


def _of_module(module: str) -> list[tuple[str, Experiment]]:
    """What a module and its submodules register, each with the module that does. Raises ConfigError."""
    try:
        importlib.import_module(module)
    except ConfigError:
        raise
    except Exception as error:  # a user's module may fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"experiments.modules: {module!r} can't be imported ({reason}); expected a dotted module name that Python "
            "finds (installed, beside the config, or its folder on PYTHONPATH)"
        ) from error
    owners = [owner for owner in _registered if f"{owner}.".startswith(f"{module}.")]
    added = [(owner, experiment) for owner in owners for experiment in _registered[owner].experiments.values()]
    if not added:
        raise ConfigError(
            f"experiments.modules: {module!r} registers no experiment; call register(Experiment(…)) from "
            "assets.experiments.registry in it, or name the module that does"
        )
    return added


def built_in(class_names: Sequence[str], traits: dict[str, Trait]) -> list[Experiment]:
    """The catalogue of experiments for some classes."""
    sizes = tuple(f"median_size_{slug(name)}" for name in class_names if f"median_size_{slug(name)}" in traits)
    appearance = _appearance()
    experiments = [Experiment(hypothesis, *appearance[hypothesis.id]) for hypothesis in appearance_hypotheses()]
    for hypothesis in content_hypotheses(class_names, sizes):
        if hypothesis.id == "object_scale":
            experiments.append(Experiment(hypothesis, geometry.ObjectScale(sizes)))
        elif hypothesis.id == "field_of_view":
            view = sizes, horizon_traits(class_names)
            experiments.append(Experiment(hypothesis, geometry.FieldOfView(*view), geometry.FieldOfViewCrop(*view)))
        else:
            index = list(class_names).index(hypothesis.id.removeprefix("content_"))
            experiments.append(Experiment(hypothesis, ClassShare(index)))
    experiments += [Experiment(hypothesis, model_side.BatchNormReestimation()) for hypothesis in model_hypotheses()]
    rules: dict[str, Operator] = {"label_policy": labels.LabelPolicy(), "label_errors": labels.WithoutSuspects()}
    experiments += [Experiment(hypothesis, rules[hypothesis.id]) for hypothesis in label_hypotheses()]
    return experiments


def _appearance() -> dict[str, tuple[Operator | None, PictureOperator | WindowOperator | None]]:
    """Operator and imitation of each hypothesis on appearance; what can't be inverted is imitated alone."""
    contrast, saturation = Matched(normalise.Contrast(), "contrast"), Matched(normalise.Saturation(), "saturation")
    haze, vignette = Matched(normalise.Haze(), "dark_channel"), Matched(normalise.Vignette(), "vignette")
    return {
        "channel_statistics": (normalise.ChannelStatistics(), normalise.ChannelStatistics()),
        "channel_statistics_per_image": (normalise.ChannelStatisticsPerImage(), None),
        "histogram": (normalise.HistogramMatching(), normalise.HistogramMatching()),
        "exposure": (normalise.Exposure(), normalise.Exposure()),
        "exposure_per_image": (normalise.ExposurePerImage(), None),
        "lab": (normalise.Lab(), normalise.Lab()),
        "lab_per_image": (normalise.LabPerImage(), None),
        "white_balance": (normalise.WhiteBalance(), normalise.WhiteBalance()),
        "white_balance_per_image": (normalise.WhiteBalancePerImage(), None),
        "contrast": (contrast, contrast),
        "saturation": (saturation, saturation),
        "haze": (haze, haze),
        "vignette": (vignette, vignette),
        "noise": (noise.Denoise(), Matched(noise.Noise(), "noise_sigma")),
        "compression": (jpeg.Deblock(), jpeg.Jpeg()),
        "sharpness": (normalise.Sharpness(), imitate.Blur()),
        "resolution": (None, Matched(imitate.LowResolution(), "sharpness")),
        **{name: (fourier.LowFrequencies(beta), fourier.LowFrequencies(beta)) for name, beta in FDA_SHARES.items()},
        "aspect_windows": (geometry.AspectWindows(), geometry.AspectCrop()),
        "aspect_letterbox": (geometry.Letterbox(), None),
    }


def _narrowed(found: dict[str, Experiment], only: list[str] | None) -> dict[str, Experiment]:
    for name in only or []:
        if name not in found:
            near = difflib.get_close_matches(name, found, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(found)}"
            raise ConfigError(f"experiments.only: no hypothesis {name!r}; {hint}")
    return {name: experiment for name, experiment in found.items() if only is None or name in only}


def _code_of(operator: Operator | Graded) -> list[type | Callable[..., Any]]:
    """An operator's classes, and what trials do with operators of its kind."""
    code: list[type | Callable[..., Any]] = []
    code += [kind for kind in type(operator).__mro__ if kind.__module__ not in ("builtins", "typing", "abc")]
    if isinstance(operator, WindowOperator):
        code += [geometry.cut, geometry.stitch]
    if isinstance(operator, ReweightOperator):
        code.append(recomposed_losses)
    if isinstance(operator, Matched):
        code += [*_code_of(operator.operator), *([operator.measure] if operator.measure else [])]
    if isinstance(operator, LabelOperator):
        code.append(self_confidence)
    return code


def _settings(operator: Operator | Graded) -> str:
    if not hasattr(operator, "__dict__"):
        return repr(operator)
    return fingerprint(sorted((name, _setting(value)) for name, value in vars(operator).items()))


def _setting(value: object) -> object:
    """A setting as a value that is the same in every process: operators by their own settings, functions by name."""
    if isinstance(value, Graded):
        return type(value).__name__, _settings(value)
    return f"{value.__module__}.{value.__qualname__}" if isinstance(value, FunctionType) else value
