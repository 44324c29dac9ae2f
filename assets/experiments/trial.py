"""Trials: an experiment's roles (normalised, sham, control, imitated) fitted, run in shared passes, stored as rows.

Belongs here: fitting operators on fit halves, predictors, the pass over report halves.
Does not: operators themselves, judging (`verdict.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.experiments.geometry import cut, stitch
from assets.experiments.imitate import trait_residual
from assets.experiments.operators import (
    LabelOperator,
    ModelOperator,
    NotApplicable,
    Parameters,
    PictureOperator,
    ReweightOperator,
    SetStatistics,
    Window,
    WindowOperator,
)
from assets.experiments.registry import Experiment
from assets.experiments.reweight import recomposed_losses
from assets.inference.estimation import Calibration, estimated_sums, strided_pixels
from assets.inference.losses import at_label_pixels, list_column, pixel_sums
from assets.traits.measure import PICTURE_TRAITS, measure_pictures
from resources.commits import committing
from resources.datasets.base import IGNORE
from resources.engine import Computation, Computed, Notes, Result, Streams
from resources.fingerprint import fingerprint
from resources.model import SegmentationModel
from resources.pictures import Batch, Picture
from resources.progress import track
from resources.sample_store import Change, SampleTable

if TYPE_CHECKING:
    from torch import Tensor

Role = Literal["normalised", "sham", "control", "imitated", "plain", "baseline", "sham_baseline"]
Side = Literal["target", "holdout"]
SIDES: dict[str, Side] = {
    "normalised": "target",
    "sham": "target",
    "control": "holdout",
    "imitated": "holdout",
    "plain": "holdout",
    "baseline": "holdout",
    "sham_baseline": "holdout",
}
"""Whose report half each role is measured on; `plain` is the untouched picture where an imitation crops it, `baseline`
the holdout under the rule on labels that `normalised` puts the target under, `sham_baseline` that of the sham."""

SHAM_ROUNDS = 4
"""How often a sham is made stronger for what clipping takes from it."""
EMPTY_HALF = "a half has no labelled sample to fit on"

TRIAL_SCHEMA: dict[str, Any] = {
    "row_id": pl.String,
    "fingerprint": pl.String,
    "sample_id": pl.String,
    "role": pl.String,
    "loss": pl.Float64,
    "loss_sum": pl.List(pl.Float64),
    "class_pixels": pl.List(pl.Float64),
    "latent": pl.List(pl.Float32),
    "traits": pl.List(pl.Float64),
}


@dataclass(frozen=True)
class FitSets:
    """The sets that fits are made from: the source's reference and holdout halves, the target's fit half.

    `pixels` holds the labelled pixels by class (n, C) of the same sets, `class_losses` their mean loss by class (C,),
    under the same names; a set without labelled samples is missing. `evaluations` holds the evaluation rows of the fit
    halves that rules on labels are fitted on.
    """

    reference: SetStatistics
    holdout_fit: SetStatistics
    holdout_report: SetStatistics
    target_fit: SetStatistics
    pixels: dict[str, NDArray[np.float64]]
    class_losses: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    evaluations: dict[str, pl.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """An experiment with what its fits learned, by role; `reasons` says why a role is missing."""

    experiment: Experiment
    parameters: dict[str, Parameters]
    reasons: dict[str, str]
    residual_before: float | None = None
    residual_after: float | None = None

    def summary(self) -> dict[str, Any]:
        """What is stored beside the rows."""
        return {
            "id": self.experiment.id,
            "parameters": self.parameters,
            "reasons": self.reasons,
            "residual_before": self.residual_before,
            "residual_after": self.residual_after,
        }


@dataclass(frozen=True)
class Predictor:
    """How a picture gets its prediction: windows cut, pictures mapped, a model run, predictions mapped back.

    `change` maps a batch at the model's input; `ids` go with it, since a sham draws per sample. `relabel` puts scores
    and mask under one rule on labels or several, whose losses are averaged.
    """

    model: SegmentationModel
    change: Callable[[Tensor, list[str]], Tensor] | None = None
    windows: Callable[[int, int], list[Window]] | None = None
    keep_plain: bool = False
    relabel: Callable[[Tensor, NDArray[np.uint8]], list[tuple[Tensor, NDArray[np.uint8]]]] | None = None


@dataclass(frozen=True)
class Trial:
    """One role of one experiment: what to run on which samples, and where its rows go."""

    fitted: Fitted
    role: Role
    predictor: Predictor
    table: SampleTable
    prints: dict[str, str]
    change: Change = field(repr=False)

    @property
    def side(self) -> Side:
        """Whose samples it needs."""
        return SIDES[self.role]

    @property
    def stale(self) -> set[str]:
        """Ids of the samples whose rows are missing or old."""
        prefix = f"{self.role}:"
        return {row.removeprefix(prefix) for row in self.change.stale if row.startswith(prefix)}


def fit_experiment(experiment: Experiment, sets: FitSets) -> Fitted:
    """Fit every role that applies. Normalisations lead to the reference, imitations to the target's fit half."""
    parameters: dict[str, Parameters] = {}
    reasons: dict[str, str] = {}
    operator, imitation = experiment.operator, experiment.imitation
    try:
        parameters.update(_fit_operator(operator, sets))
    except NotApplicable as reason:
        reasons["normalised"] = str(reason)
    if isinstance(operator, ReweightOperator):
        parameters.update(_fit_mirrored(operator, sets, reasons))
    before = after = None
    if isinstance(imitation, PictureOperator | WindowOperator):
        try:
            parameters["imitated"] = _between(imitation, sets.target_fit, sets.holdout_fit)
        except NotApplicable as reason:
            reasons["imitated"] = str(reason)
        else:
            before, after = _residuals(imitation, parameters["imitated"], sets)
    return Fitted(experiment, parameters, reasons, before, after)


def _fit_operator(operator: object, sets: FitSets) -> dict[str, Parameters]:
    if isinstance(operator, ModelOperator):
        target, holdout = {"fitted_on": sets.target_fit.version}, {"fitted_on": sets.holdout_fit.version}
        return {"normalised": target, "sham": target, "control": holdout}
    if isinstance(operator, ReweightOperator):
        sides = _pixels(sets, "reference"), _pixels(sets, "target_fit")
        other = _other_losses(sets, "holdout_fit", "target_fit")
        return {"normalised": operator.fit(*sides) | other, "sham": {"shams": operator.shams(*sides)} | other}
    if isinstance(operator, LabelOperator):
        return _fit_labels(operator, sets)
    if not isinstance(operator, PictureOperator | WindowOperator):
        return {}
    aimed = _between(operator, sets.reference, sets.target_fit)
    # A picture's sham changes it as much as the normalisation does, so it rests on the same parameters.
    fitted = {"normalised": aimed, "sham": operator.sham(aimed) if isinstance(operator, WindowOperator) else aimed}
    # Where there is nothing to undo between two halves of one set, the control is unharmed by definition.
    with suppress(NotApplicable):
        fitted["control"] = _between(operator, sets.holdout_fit, sets.holdout_report)
    return fitted


def _between(
    operator: PictureOperator | WindowOperator, destination: SetStatistics, origin: SetStatistics
) -> Parameters:
    if destination.traits.is_empty() or origin.traits.is_empty():
        raise NotApplicable(EMPTY_HALF)
    return operator.fit(destination, origin)


def _fit_labels(operator: LabelOperator, sets: FitSets) -> dict[str, Parameters]:
    sides = [sets.evaluations.get(name, pl.DataFrame()) for name in ("holdout_fit", "target_fit")]
    if any(side.is_empty() for side in sides):
        raise NotApplicable(EMPTY_HALF)
    rule = operator.fit(*sides)
    fitted = {"normalised": rule, "baseline": rule}
    shams = operator.shams(rule, *sides)
    return fitted | ({"sham": {"shams": shams}, "sham_baseline": {"shams": shams}} if shams else {})


def _pixels(sets: FitSets, name: str) -> NDArray[np.float64]:
    if name not in sets.pixels:
        raise NotApplicable(EMPTY_HALF)
    return sets.pixels[name]


def _fit_mirrored(operator: ReweightOperator, sets: FitSets, reasons: dict[str, str]) -> dict[str, Parameters]:
    """Re-weighting runs the other way round, too, and between the holdout's halves."""
    fitted: dict[str, Parameters] = {}
    ways = {"imitated": ("target_fit", "holdout_fit"), "control": ("holdout_fit", "holdout_report")}
    for role, (destination, origin) in ways.items():
        try:
            weighted = operator.fit(_pixels(sets, destination), _pixels(sets, origin))
            fitted[role] = weighted | _other_losses(sets, destination, origin)
        except NotApplicable as reason:
            if role == "imitated":
                reasons[role] = str(reason)
    return fitted


def _other_losses(sets: FitSets, other: str, own: str) -> Parameters:
    """The other set's mean loss by class, as a parameter; nothing where the sets' losses were not given.

    A class that it lacks takes the own set's loss, or 0 where neither has it.
    """
    if other not in sets.class_losses or own not in sets.class_losses:
        return {}
    losses = sets.class_losses[other]
    known = np.where(np.isnan(losses), sets.class_losses[own], losses)
    return {"class_losses": [round(float(loss), 6) for loss in np.nan_to_num(known)]}


def _residuals(
    imitation: PictureOperator | WindowOperator, parameters: Parameters, sets: FitSets
) -> tuple[float | None, float | None]:
    if not isinstance(imitation, PictureOperator):
        return None, None
    pictures = sets.holdout_fit.pictures
    changed = imitation.apply(pictures, parameters)
    return trait_residual(pictures, sets.target_fit), trait_residual(changed, sets.target_fit)


def build_predictors(fitted: Fitted, model: SegmentationModel, sets: FitSets) -> dict[Role, Predictor]:
    """Predictors of all roles that were fitted; re-weighting has none, it needs no forward."""
    operator, imitation, parameters = fitted.experiment.operator, fitted.experiment.imitation, fitted.parameters
    found: dict[Role, Predictor] = {}
    if isinstance(operator, ModelOperator):
        found["normalised"] = Predictor(operator.adapt(model, sets.target_fit.pictures))
        found["sham"] = Predictor(operator.adapt(model, sets.target_fit.pictures, sham=True))
        found["control"] = Predictor(operator.adapt(model, sets.holdout_fit.pictures))
    elif isinstance(operator, LabelOperator):
        label_roles: tuple[Role, ...] = ("normalised", "baseline", "sham", "sham_baseline")
        for role in label_roles:
            if role in parameters:
                found[role] = Predictor(model, relabel=_relabelled(operator, parameters[role]))
    elif isinstance(operator, PictureOperator | WindowOperator):
        fitted_roles: tuple[Role, ...] = ("normalised", "sham", "control")
        for role in fitted_roles:
            if role in parameters:
                found[role] = _predictor(operator, role, parameters, model)
    if "imitated" in parameters and isinstance(imitation, PictureOperator | WindowOperator):
        found["imitated"] = _predictor(imitation, "imitated", parameters, model)
        if isinstance(imitation, WindowOperator):
            found["plain"] = replace(found["imitated"], keep_plain=True)
    return found


def _predictor(
    operator: PictureOperator | WindowOperator, role: Role, parameters: dict[str, Parameters], model: SegmentationModel
) -> Predictor:
    if isinstance(operator, WindowOperator):
        return Predictor(model, windows=_windows(operator, parameters[role]))
    if role == "sham":
        return Predictor(model, _sham(operator, parameters["normalised"]))
    return Predictor(model, _mapped(operator, parameters[role]))


def wanted_rows(
    fitted: Fitted, samples: dict[Side, pl.DataFrame], versions: dict[Side, str], code: str, roles: Sequence[str]
) -> pl.DataFrame:
    """Row ids and fingerprints of an experiment's table: content of the sample, the role's parameters, model, code.

    `versions`: what decides a side's losses besides these, as `Campaign.version` says.
    """
    pairs = []
    for role in roles:
        side = SIDES[role]
        decides = (fitted.parameters.get(role, fitted.parameters.get("imitated")), versions[side], code, role)
        columns = samples[side].select("sample_id", "image_hash", "mask_hash", "labels_version")
        pairs += [(f"{role}:{name}", fingerprint(content, decides)) for name, *content in columns.iter_rows()]
    return pl.DataFrame(pairs, schema={"row_id": pl.String, "fingerprint": pl.String}, orient="row")


class RunSide(Protocol):
    """A pass over some samples of a side."""

    def __call__(
        self, side: Side, ids: Sequence[str], computation: Computation[Result], notes: Notes, /
    ) -> Iterator[Computed[Result]]:
        """What the computation gives for each batch, in order."""
        ...


@dataclass(frozen=True)
class Measured:
    """What a shared pass does for one trial: predict, and measure the named traits of the changed pictures."""

    role: Role
    predictor: Predictor
    traits: list[str]

    @classmethod
    def of(cls, trial: Trial) -> Measured:
        """What to do for a trial: the hypothesis's own picture traits count where pictures are changed."""
        changed = trial.role == "normalised" and trial.predictor.change is not None
        names = trial.fitted.experiment.hypothesis.traits if changed else ()
        return cls(trial.role, trial.predictor, [name for name in names if name in PICTURE_TRAITS])


@dataclass(frozen=True)
class TrialRows:
    """The computation of a shared pass. Notes: the fingerprint of each row of a sample that is due, by trial's place.

    Losses of pictures without a label are estimated by the calibration.
    """

    trials: list[Measured]
    calibration: Calibration | None

    @property
    def streams(self) -> Streams:
        """What all the trials' models allow."""
        return Streams.of(*(trial.predictor.model for trial in self.trials))

    def __call__(self, batch: Batch, notes: Notes) -> list[pl.DataFrame]:
        """The due rows of each trial, in their order."""
        return [pl.DataFrame(self._rows(place, batch, notes), schema=TRIAL_SCHEMA) for place in range(len(self.trials))]

    def _rows(self, place: int, batch: Batch, notes: Notes) -> list[dict[str, Any]]:
        due = [picture for picture in batch.pictures if place in notes[picture.sample_id]]
        prints = [notes[picture.sample_id][place] for picture in due]
        return list(_run(self.trials[place], due, prints, self.calibration)) if due else []


def run_trials(
    trials: list[Trial], run: RunSide, *, what: str, calibration: Calibration | None = None
) -> int:  # fmt: skip
    """Run all stale rows of all trials, each sample decoded once a side. Returns the number of forwards (pictures).

    Rows are committed in the background as they are done, so that a killed run resumes at its last commit.
    """
    forwards = 0
    for side in ("target", "holdout"):
        due = [trial for trial in trials if trial.side == side and trial.stale]
        notes: dict[str, dict[int, str]] = {}
        for place, trial in enumerate(due):
            for name in trial.stale:
                notes.setdefault(name, {})[place] = trial.prints[f"{trial.role}:{name}"]
        if not notes:
            continue
        computation = TrialRows([Measured.of(trial) for trial in due], calibration)
        found = run(side, sorted(notes), computation, notes)
        new = [frozenset(trial.change.new) for trial in due]
        with committing() as commits:
            for done in track(found, f"{what} ({side})", len(notes), size=lambda done: len(done.ids)):
                for trial, rows, known in zip(due, done.result, new, strict=True):
                    if not rows.is_empty():
                        commits.put(trial.table, rows, new=known)
                    forwards += rows.height
    return forwards


def reweighted_rows(fitted: Fitted, role: Role, evaluation: pl.DataFrame, prints: dict[str, str]) -> pl.DataFrame:
    """Rows of one role of a re-weighting, from the sums that the evaluation holds; no forward.

    A sham is the mean over as much mass moved between other classes.
    """
    operator = fitted.experiment.operator
    if not isinstance(operator, ReweightOperator):
        raise TypeError(f"{fitted.experiment.id} is no re-weighting")
    loss_sum, pixels = list_column(evaluation, "loss_sum"), list_column(evaluation, "class_pixels")
    classes = loss_sum.shape[1]
    parameters = fitted.parameters[role]
    options = parameters.get("shams", [parameters])
    weights = [operator.weights(classes, option) for option in options] or [np.ones(classes)]
    other = np.array(parameters["class_losses"]) if "class_losses" in parameters else None
    losses = np.mean([recomposed_losses(loss_sum, pixels, weight, other) for weight in weights], axis=0)
    shown = weights[0] if len(weights) == 1 else np.ones(classes)
    rows = [
        {
            "row_id": f"{role}:{name}", "fingerprint": prints[f"{role}:{name}"], "sample_id": name, "role": role,
            "loss": float(losses[i]), "loss_sum": (loss_sum[i] * shown).tolist(),
            "class_pixels": (pixels[i] * shown).tolist(), "latent": [], "traits": [],
        }
        for i, name in enumerate(evaluation["sample_id"])
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=TRIAL_SCHEMA)


def predict(
    predictor: Predictor, pictures: list[Picture]
) -> Iterator[tuple[Picture, Tensor, NDArray[np.uint8], Tensor]]:
    """For each picture: scores (C, h, w) at the label's pixels, the mask of what counts, the latent (d,).

    Without a label, scores are at the model's pixels (the picture's, through windows), and the mask is 0 where they
    count.
    """
    if predictor.windows is not None:
        for picture in pictures:
            yield _predict_windows(predictor, picture)
        return
    import torch

    batch = torch.stack([picture.reduced for picture in pictures])
    outputs = predictor.model(_changed(predictor, batch, [picture.sample_id for picture in pictures]))
    pooled = outputs.latent.mean((2, 3))
    for i, picture in enumerate(pictures):
        mask = _mask(picture, (outputs.logits.shape[2], outputs.logits.shape[3]))
        yield picture, at_label_pixels(outputs.logits[i], (mask.shape[0], mask.shape[1])), mask, pooled[i]


def loss_sums(
    picture: Picture, scores: Tensor, mask: NDArray[np.uint8], calibration: Calibration | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Loss and pixels by class, each (C,), of what `predict` yields: measured, or estimated where there is no label."""
    if picture.mask is not None:
        sums = pixel_sums(scores, mask)
        return sums.loss_sum, sums.class_pixels.astype(np.float64)
    if calibration is None:
        raise ValueError(f"{picture.sample_id}: has no label, and there is no calibration to estimate its loss by")
    import torch

    counted = torch.from_numpy(mask != IGNORE)[None].to(scores.device)
    kept = strided_pixels(scores)[:, strided_pixels(counted)[0]]
    return estimated_sums(kept, calibration)


def _predict_windows(predictor: Predictor, picture: Picture) -> tuple[Picture, Tensor, NDArray[np.uint8], Tensor]:
    import torch

    mask = _mask(picture, (picture.image.shape[0], picture.image.shape[1]))
    height, width = mask.shape
    windows = predictor.windows(height, width) if predictor.windows else []
    model = predictor.model
    if predictor.keep_plain:
        outputs = model(picture.reduced[None])
        scores = at_label_pixels(outputs.logits[0], (height, width))
        covered = torch.zeros((height, width), dtype=torch.bool)
        for window in windows:
            covered[max(window.top, 0) : window.bottom, max(window.left, 0) : window.right] = True
    else:
        cuts = torch.stack([cut(picture.image, window, model.input_size, model.config.mean) for window in windows])
        outputs = model(_changed(predictor, cuts, [picture.sample_id] * len(windows)))
        scores, covered = stitch(outputs.logits, windows, (height, width))
    counted = np.where(covered.cpu().numpy(), mask, IGNORE).astype(np.uint8)
    return picture, scores, counted, outputs.latent.mean((0, 2, 3))


def _run(
    trial: Measured, pictures: list[Picture], prints: list[str], calibration: Calibration | None
) -> Iterator[dict[str, Any]]:
    predictor = _changed_once(trial.predictor) if trial.predictor.windows is None else trial.predictor
    measured = _measured(trial, pictures, predictor)
    relabel = predictor.relabel
    for i, (picture, scores, mask, latent) in enumerate(predict(predictor, pictures)):
        ruled = relabel(scores, mask) if relabel else [(scores, mask)]
        found = [loss_sums(picture, *one, calibration) for one in ruled]
        row_id = f"{trial.role}:{picture.sample_id}"
        yield {
            "row_id": row_id, "fingerprint": prints[i], "sample_id": picture.sample_id,
            "role": trial.role, "loss": float(np.mean([_mean_loss(*sums) for sums in found])),
            "loss_sum": np.mean([loss for loss, _ in found], axis=0).tolist(),
            "class_pixels": np.mean([pixels for _, pixels in found], axis=0).tolist(),
            "latent": [] if relabel else latent.cpu().tolist(), "traits": measured[i],
        }  # fmt: skip


def _measured(trial: Measured, pictures: list[Picture], predictor: Predictor) -> list[list[float]]:
    """The trial's traits after the change."""
    if not trial.traits:
        return [[] for _ in pictures]
    import torch

    batch = torch.stack([picture.reduced for picture in pictures])
    values = measure_pictures(_changed(predictor, batch, [picture.sample_id for picture in pictures]), trial.traits)
    return np.column_stack([values[name] for name in trial.traits]).tolist()  # type: ignore[no-any-return]


def _changed_once(predictor: Predictor) -> Predictor:
    """The predictor of one batch: its change is made once, for traits and forward alike."""
    change = predictor.change
    if change is None:
        return predictor
    made: list[Tensor] = []

    def once(batch: Tensor, ids: list[str]) -> Tensor:
        if not made:
            made.append(change(batch, ids))
        return made[0]

    return replace(predictor, change=once)


def _changed(predictor: Predictor, batch: Tensor, ids: list[str]) -> Tensor:
    return predictor.change(batch, ids) if predictor.change is not None else batch


def _mask(picture: Picture, size: tuple[int, int]) -> NDArray[np.uint8]:
    return picture.mask if picture.mask is not None else np.zeros(size, np.uint8)


def _mean_loss(loss: NDArray[np.float64], pixels: NDArray[np.float64]) -> float:
    return float(loss.sum() / pixels.sum()) if pixels.sum() else float("nan")


def _relabelled(
    operator: LabelOperator, parameters: Parameters
) -> Callable[[Tensor, NDArray[np.uint8]], list[tuple[Tensor, NDArray[np.uint8]]]]:
    rules = parameters.get("shams", [parameters])
    return lambda scores, mask: [operator.relabel(scores, mask, rule) for rule in rules]


def _mapped(operator: PictureOperator, parameters: Parameters) -> Callable[[Tensor, list[str]], Tensor]:
    return lambda batch, _ids: operator.apply(batch, parameters)


def _windows(operator: WindowOperator, parameters: Parameters) -> Callable[[int, int], list[Window]]:
    return lambda height, width: operator.windows(height, width, parameters)


def _sham(operator: PictureOperator, parameters: Parameters) -> Callable[[Tensor, list[str]], Tensor]:
    """A smooth random field a sample, of the same mean absolute change as the operator makes, clipping included."""

    def apply(batch: Tensor, ids: list[str]) -> Tensor:
        wanted = _mean_change(batch, operator.apply(batch, parameters))
        field = _smooth_fields(batch, ids)
        strength = wanted / field.abs().mean((1, 2, 3), keepdim=True)
        for _ in range(SHAM_ROUNDS):
            reached = _mean_change(batch, (batch + field * strength).clamp(0, 1))
            strength = strength * wanted / reached.clamp(min=1e-6)
        return (batch + field * strength).clamp(0, 1)

    return apply


def _mean_change(batch: Tensor, changed: Tensor) -> Tensor:
    return (changed - batch).abs().mean((1, 2, 3), keepdim=True)


def _smooth_fields(batch: Tensor, ids: list[str]) -> Tensor:
    import torch
    from torch.nn import functional

    coarse = []
    for name in ids:
        seed = int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big")
        coarse.append(torch.randn((3, 4, 5), generator=torch.Generator().manual_seed(seed)))
    fields = functional.interpolate(torch.stack(coarse), size=batch.shape[2:], mode="bicubic", align_corners=False)
    return fields.to(batch.device)
