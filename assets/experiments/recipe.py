"""The recipe: confirmed normalisations stacked while each next one still helps, and what all causes leave unexplained.

Belongs here: greedy stacking on the fit half, the one measurement on the report half, the recipe as a file.
Does not: verdicts on single causes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.experiments.match import bare
from assets.experiments.operators import (
    LabelOperator,
    ModelOperator,
    NotApplicable,
    Parameters,
    PictureOperator,
    SetStatistics,
    WindowOperator,
)
from assets.experiments.registry import Experiment
from assets.experiments.reweight import ClassShare, mean_class_losses, recomposed_losses
from assets.experiments.trial import FitSets, Predictor, loss_sums, predict
from assets.experiments.verdict import GapDraws, pair
from assets.inference.estimation import Calibration
from assets.inference.losses import list_column
from assets.statistics.resampling import paired_cluster_test, percentile_interval
from resources.model import SegmentationModel
from resources.pictures import Picture

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
RAKING_ROUNDS = 20


@dataclass(frozen=True)
class Step:
    """One operator of the stack with its fitted parameters."""

    experiment: Experiment
    parameters: Parameters


@dataclass(frozen=True)
class Stack:
    """Operators in the order in which they apply: windows outermost, maps of pictures, the model, rules on labels."""

    steps: list[Step] = field(default_factory=list)

    def predictor(self, model: SegmentationModel, fit_set: SetStatistics) -> Predictor:
        """The stack as one predictor; model operators, and they alone, look at the fit set's pictures, changed."""
        predictor = Predictor(model)
        for step in self.steps:
            operator = step.experiment.operator
            if isinstance(operator, WindowOperator):
                predictor = replace(predictor, windows=_windows(operator, step.parameters))
        maps = self.maps()
        if maps:
            predictor = replace(predictor, change=lambda batch, _ids: _apply(maps, batch))
        for step in self.steps:
            if isinstance(step.experiment.operator, ModelOperator):
                adapted = step.experiment.operator.adapt(predictor.model, _apply(maps, fit_set.pictures))
                predictor = replace(predictor, model=adapted)
        rules = [(s.experiment.operator, s.parameters) for s in self.steps
                 if isinstance(s.experiment.operator, LabelOperator)]  # fmt: skip
        if rules:
            predictor = replace(predictor, relabel=lambda scores, mask: [_ruled(rules, scores, mask)])
        return predictor

    def maps(self) -> list[tuple[PictureOperator, Parameters]]:
        """The picture operators in order."""
        return [
            (bare(step.experiment.operator), step.parameters)
            for step in self.steps
            if isinstance(step.experiment.operator, PictureOperator)
        ]

    def fit_next(self, experiment: Experiment, sets: FitSets) -> Stack | None:
        """The stack with one more operator, fitted on what the present ones leave; None where it does not apply."""
        operator = experiment.operator
        kinds = [type(step.experiment.operator) for step in self.steps]
        if isinstance(operator, ModelOperator):
            return Stack([*self.steps, Step(experiment, {"fitted_on": sets.target_fit.version})])
        if isinstance(operator, WindowOperator) and any(issubclass(kind, WindowOperator) for kind in kinds):
            return None  # windows within windows have no meaning
        if isinstance(operator, LabelOperator):
            return self._with_rule(experiment, operator, sets)
        if not isinstance(operator, PictureOperator | WindowOperator):
            return None
        origin = changed_statistics(sets.target_fit, self.maps())
        try:
            return Stack([*self.steps, Step(experiment, operator.fit(sets.reference, origin))])
        except NotApplicable:
            return None

    def _with_rule(self, experiment: Experiment, operator: LabelOperator, sets: FitSets) -> Stack | None:
        """The stack with a rule on labels, which is fitted on the untouched evaluation."""
        if any(isinstance(step.experiment.operator, LabelOperator) for step in self.steps):
            return None  # a rule counts labels as the data set has them
        try:
            fitted = operator.fit(sets.evaluations["holdout_fit"], sets.evaluations["target_fit"])
        except (NotApplicable, KeyError):
            return None
        return Stack([*self.steps, Step(experiment, fitted)])


def changed_statistics(statistics: SetStatistics, maps: list[tuple[PictureOperator, Parameters]]) -> SetStatistics:
    """Statistics of a set's pictures after some maps, measured on its few decoded pictures.

    Traits of shape and layout stay those of all samples; picture traits of the others are NaN.
    """
    if not maps:
        return statistics
    from assets.traits.colour import channel_histogram
    from assets.traits.measure import measure_pictures

    pictures = _apply(maps, statistics.pictures)
    rest = np.full(statistics.traits.height - len(pictures), math.nan)
    measured = {name: np.append(values, rest) for name, values in measure_pictures(pictures).items()}
    traits = statistics.traits.with_columns(**{name: pl.Series(values) for name, values in measured.items()})
    histogram = channel_histogram(pictures).sum(0).cpu().numpy().astype(np.int64)
    return SetStatistics(histogram, traits, lambda: pictures)


def stack_greedily(
    candidates: Sequence[Experiment], sets: FitSets, loss_with: Callable[[Stack], tuple[Floats, list[str]]]
) -> Stack:
    """Add the candidate that lowers the fit half's loss most, while the gain's interval stays above 0."""
    stack = Stack()
    losses, units = loss_with(stack)
    remaining = list(candidates)
    while remaining:
        tried = [(experiment, stack.fit_next(experiment, sets)) for experiment in remaining]
        options = [(experiment, option, loss_with(option)[0]) for experiment, option in tried if option is not None]
        if not options:
            break
        best, option, after = min(options, key=lambda item: float(np.nanmean(item[2])))
        if paired_cluster_test(losses - after, units).ci95[0] <= 0:
            break
        stack, losses = option, after
        remaining = [experiment for experiment in remaining if experiment.id != best.id]
    return stack


def picture_losses(
    predictor: Predictor, pictures: list[Picture], calibration: Calibration | None = None
) -> Iterator[tuple[str, Floats, Floats]]:
    """Each picture's loss sums and labelled pixels by class under a predictor; estimated where it has no label."""
    for picture, scores, mask, _ in predict(predictor, pictures):
        ruled = predictor.relabel(scores, mask)[0] if predictor.relabel else (scores, mask)
        yield picture.sample_id, *loss_sums(picture, *ruled, calibration)


@dataclass(frozen=True)
class Joint:
    """What a set of causes closes together: share of the gap, interval, mean loss after."""

    gap_closed: float
    ci95: tuple[float, float] | None
    loss_after: float


def joint_effect(rows: pl.DataFrame, target: pl.DataFrame, gap: GapDraws) -> Joint:
    """Share of the gap that rows (role 'normalised') close; nothing where there are none."""
    paired = pair(rows, "normalised", target)
    if paired is None:
        return Joint(0.0, None, math.nan)
    draws = gap.shares(paired.gain, paired.ids)
    return Joint(float(paired.gain.mean() / gap.value), percentile_interval(draws), float(paired.after.mean()))


def gain_of(
    rows: pl.DataFrame, target: pl.DataFrame, weights: Floats | None, class_losses: Floats | None
) -> tuple[Floats, list[str]]:
    """What rows (role 'normalised') take from each sample's loss, pixels weighted by class where content counts.

    `class_losses`: the source's mean loss by class, which counts as much as the target's own.
    """
    paired = pair(rows, "normalised", target)
    if paired is None:
        return np.zeros(0), []
    if weights is None:
        return paired.gain, paired.ids
    ordered = rows.filter((pl.col("role") == "normalised") & pl.col("sample_id").is_in(paired.ids)).sort("sample_id")
    sums, pixels = list_column(ordered, "loss_sum"), list_column(ordered, "class_pixels")
    own = mean_class_losses(sums, pixels)
    other = None if class_losses is None else np.where(np.isnan(class_losses), np.nan_to_num(own), class_losses)
    return paired.before - recomposed_losses(sums, pixels, weights, other), paired.ids


def rake(operators: Sequence[ClassShare], destination: Floats, origin: Floats) -> Floats:
    """Weights by class that bring several classes' mean shares to the destination's at once (raking).

    `destination`, `origin`: labelled pixels (n, C). Each class is fitted in turn under the others' weights.
    """
    weights = np.ones(origin.shape[1])
    for _ in range(RAKING_ROUNDS):
        for operator in operators:
            try:
                fitted = operator.fit(destination, origin * weights)
            except NotApplicable:
                continue
            weights = weights * operator.weights(len(weights), fitted)
    return weights


def recipe_source(stack: Stack, target: str) -> str:
    """The recipe as a Python file that needs torch and torchvision alone: a transform, a model wrapper for windows."""
    maps = stack.maps()
    windows = [step for step in stack.steps if isinstance(step.experiment.operator, WindowOperator)]
    models = [step for step in stack.steps if isinstance(step.experiment.operator, ModelOperator)]
    parts = [_HEADER.format(target=target, model_note=_model_note(models))]
    kinds: list[Any] = list(dict.fromkeys(type(operator) for operator, _ in maps))
    parts += [f"class {kind.__name__}:\n{inspect.getsource(kind.apply)}" for kind in kinds]
    steps = ", ".join(f"({type(operator).__name__}(), {parameters!r})" for operator, parameters in maps)
    parts.append(_TRANSFORM.format(steps=f"[{steps}]"))
    if windows:
        from assets.experiments import geometry

        used: Any = type(windows[0].experiment.operator)
        helpers: list[Any] = [geometry._cover, geometry._starts, geometry._fitting, geometry._taper]
        parts += [f"OVERLAP = {geometry.OVERLAP}", *(inspect.getsource(helper) for helper in helpers)]
        parts.append(f"class {used.__name__}:\n{inspect.getsource(used.windows)}")
        parts.append(inspect.getsource(geometry.stitch))
        parts.append(_WRAPPER.format(name=used.__name__, parameters=repr(windows[0].parameters)))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def recipe_steps(stack: Stack) -> list[dict[str, Any]]:
    """The steps as data."""
    return [
        {
            "hypothesis": step.experiment.id,
            "title": step.experiment.hypothesis.title,
            "parameters": step.parameters,
        }
        for step in stack.steps
    ]


def _apply(maps: list[tuple[PictureOperator, Parameters]], batch: Tensor) -> Tensor:
    for operator, parameters in maps:
        batch = operator.apply(batch, parameters)
    return batch


def _ruled(
    rules: list[tuple[LabelOperator, Parameters]], scores: Tensor, mask: NDArray[np.uint8]
) -> tuple[Tensor, NDArray[np.uint8]]:
    for operator, parameters in rules:
        scores, mask = operator.relabel(scores, mask, parameters)
    return scores, mask


def _windows(operator: WindowOperator, parameters: Parameters) -> Callable[[int, int], list[Any]]:
    return lambda height, width: operator.windows(height, width, parameters)


def _model_note(models: list[Step]) -> str:
    if not models:
        return ""
    return (
        "\nThe recipe also changes the model: batch-norm statistics re-estimated on the target. The changed weights\n"
        "lie beside this file as recipe-model.safetensors.\n"
    )


_HEADER = '''"""Recipe that takes pictures of {target} towards the source, written by Domain Gap.

Recipe() is a torchvision-compatible transform for float images (3, H, W) or batches (n, 3, H, W) in 0..1: put it
before mean and deviation are taken out, in training and in inference.
{model_note}"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Parameters = dict


@dataclass(frozen=True)
class Window:
    top: int
    left: int
    bottom: int
    right: int
'''

_TRANSFORM = '''class Recipe(torch.nn.Module):
    """All maps of pictures in order."""

    STEPS = {steps}

    def forward(self, image: Tensor) -> Tensor:
        batch = image if image.ndim == 4 else image[None]
        for step, parameters in self.STEPS:
            batch = step.apply(batch, parameters)
        return batch if image.ndim == 4 else batch[0]
'''

_WRAPPER = '''class WindowedModel(torch.nn.Module):
    """A segmentation model that sees a picture through the recipe's windows; predictions are stitched.

    `model` maps normalised batches (n, 3, H, W) to logits (n, C, H, W); `input_size` is (H, W).
    """

    PARAMETERS = {parameters}

    def __init__(self, model: torch.nn.Module, input_size: tuple[int, int], mean: tuple, std: tuple) -> None:
        super().__init__()
        self.model, self.input_size = model, input_size
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.recipe = Recipe()

    def forward(self, image: Tensor) -> Tensor:
        """Log-probabilities (C, h, w) of one picture (3, h, w) in 0..1."""
        height, width = image.shape[-2:]
        windows = {name}().windows(height, width, self.PARAMETERS)
        cuts = torch.cat([self._cut(image, window) for window in windows])
        logits = self.model((self.recipe(cuts) - self.mean) / self.std)
        return stitch(logits, windows, (height, width))[0]

    def _cut(self, image: Tensor, window: Window) -> Tensor:
        height, width = image.shape[-2:]
        top, left, bottom, right = window.top, window.left, window.bottom, window.right
        inside = image[:, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
        padded = self.mean.expand(3, bottom - top, right - left).clone()
        rows, columns = slice(max(-top, 0), max(-top, 0) + inside.shape[1]), max(-left, 0)
        padded[:, rows, columns : columns + inside.shape[2]] = inside
        return torch.nn.functional.interpolate(padded[None], size=self.input_size, mode="bilinear", antialias=True)
'''
