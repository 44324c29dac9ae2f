"""Labels as a cause: another convention of labelling, wrong labels, and what tells either from pictures that are hard.

A model that errs on hard pictures doubts: its errors are most frequent where it is least sure, and it is less often
sure. Labels that are wrong, or that follow another convention, leave it as sure as before and contradict it whether it
is sure or not. Where a convention holds in some pictures only (several annotators, rules that changed midway), the
labels of a picture contradict nearly all of what the model calls a class, or hardly more than the source's do. Belongs
here: that comparison between target and holdout from evaluation rows, the hypotheses on labels, the list of samples
whose labels are worth a look. Does not: measuring per sample (inference), what other labels would change
(experiments/labels.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.diagnosis.hypotheses import HYPOTHESES_SCHEMA, SUPPORT, Hypothesis
from assets.inference.losses import list_column
from assets.statistics.multiplicity import holm
from assets.statistics.resampling import paired_cluster_test, two_sample_cluster_test

Floats = NDArray[np.float64]

VOID = -1
"""Stands for 'no label' where a label is meant."""
TOP = 20
"""Samples of a set that are listed to be checked."""
FEWEST_UNITS = 3
"""Fewer independent groups on a side say nothing about a pair of classes."""
KEPT = 1 / 4
"""Of a class, the most that labels may keep in those pictures where a convention holds in some."""


def label_hypotheses() -> list[Hypothesis]:
    """Hypotheses on the labels rather than on the pictures; `label_evidence` says whether they are worth a trial."""
    return [
        Hypothesis("label_policy", "label_policy", "label policy",
                   "The target labels as one class what the source labels as another, or as none, and that costs loss.",
                   ("labelled",)),
        Hypothesis("label_errors", "label_policy", "wrong labels",
                   "More of the target's labels are wrong than of the source's, and that costs loss.",
                   ()),
    ]  # fmt: skip


@dataclass(frozen=True)
class LabelSums:
    """What evaluation rows say of one set's labels; n samples, C classes.

    `counts`, `confidence`, `loss` (n, C, C) over labelled pixels, rows label, columns prediction. `predicted` (n, C)
    over all pixels. `bins` and `disputes` (n, B): labelled pixels by the model's confidence, and those of them whose
    label is another than it predicts. `doubt` (n,): 1 − mean confidence over all pixels, which no label enters: the
    share of pixels that it expects to get wrong.
    """

    units: list[str]
    counts: Floats
    confidence: Floats
    loss: Floats
    predicted: Floats
    bins: Floats
    disputes: Floats
    doubt: Floats

    def only(self, kept: NDArray[np.bool_]) -> LabelSums:
        """The sums of some samples, `kept` (n,)."""
        sums = {field.name: getattr(self, field.name)[kept] for field in fields(self) if field.name != "units"}
        return LabelSums([unit for unit, keep in zip(self.units, kept, strict=True) if keep], **sums)

    @property
    def void(self) -> Floats:
        """Pixels without a label by prediction, (n, C)."""
        unlabelled: Floats = self.predicted - self.counts.sum(1)
        return unlabelled


@dataclass(frozen=True)
class PairShift:
    """Pixels that the labels call `label` (VOID: nothing) and the model calls `prediction`, on both sides.

    `source_share`, `target_share`: their mean share of a sample's pixels that the model calls `prediction`. A
    convention moves it from almost none to almost all, however rare the class is among the pixels labelled `label`.
    `confidence`: the target's mean over them (NaN for VOID). `cost`: their share of the target's summed loss.
    `objection` says why they are no convention; None where they are one. `held_in`: where that is judged by a part of
    the target's pictures, how many these are, and how many show the pair or the class; None where by all.
    """

    label: int
    prediction: int
    source_share: float
    target_share: float
    q_value: float
    confidence: float
    cost: float
    objection: str | None = None
    held_in: tuple[int, int] | None = None


@dataclass(frozen=True)
class LabelEvidence:
    """What speaks for one hypothesis on labels."""

    supported: bool
    reason: str
    evidence: list[str]


def label_sums(rows: pl.DataFrame) -> LabelSums:
    """Sums of labelled evaluation rows with their units."""
    stacked = {name: list_column(rows, name) for name in ("confusion", "pair_confidence", "pair_loss")}
    counts, confidence, loss = (_square(values) for values in stacked.values())
    bins = list_column(rows, "bin_count")
    return LabelSums(
        units=rows["unit"].to_list(), counts=counts, confidence=confidence, loss=loss,
        predicted=list_column(rows, "predicted_pixels"), bins=bins, disputes=bins - list_column(rows, "bin_correct"),
        doubt=1 - rows["confidence"].to_numpy().astype(np.float64),
    )  # fmt: skip


def pair_shifts(holdout: LabelSums, target: LabelSums) -> list[PairShift]:
    """Pairs of label and prediction that the target has more of than the holdout at q ≤ 0.05, the costliest first.

    Tested by unit and corrected (Holm) over all ordered pairs of classes, and over void as a label. A pair is a
    convention where, beyond that, the labels contradict most of what the model calls `prediction`, the model is as sure
    there as where it is right, and the labels have lost most of the class, but the model has not. Where they have not
    throughout the target, but do in a part of its pictures and hardly in the others, that part alone is judged.
    """
    classes = target.counts.shape[1]
    pairs = [(a, b) for a in [*range(classes), VOID] for b in range(classes) if a != b]
    tests = [_more(_shares(holdout, *pair), holdout.units, _shares(target, *pair), target.units) for pair in pairs]
    adjusted = holm(np.array([p for _, p in tests]))
    found = [
        _pair_shift(pair, rise, float(q), holdout, target)
        for pair, (rise, _), q in zip(pairs, tests, adjusted, strict=True)
        if q <= SUPPORT
    ]
    return sorted(found, key=lambda shift: (-shift.cost, shift.label, shift.prediction))


def conventions(shifts: Sequence[PairShift]) -> list[PairShift]:
    """The pairs that are conventions."""
    return [shift for shift in shifts if shift.objection is None]


def label_evidence(holdout: pl.DataFrame, target: pl.DataFrame, class_names: Sequence[str]) -> dict[str, LabelEvidence]:
    """Evidence on both hypotheses from labelled evaluation rows, by hypothesis id."""
    source, other = label_sums(holdout), label_sums(target)
    shifts = pair_shifts(source, other)
    policy = _policy_evidence(shifts, class_names)
    return {"label_policy": policy, "label_errors": _error_evidence(source, other, explained=policy.supported)}


def with_label_evidence(ranked: pl.DataFrame, evidence: dict[str, LabelEvidence]) -> pl.DataFrame:
    """Ranked hypotheses with what is known of those on labels.

    A supported one ranks first: it names labels that contradict a model that does not doubt, which no trait does.
    """
    rows = ranked.to_dicts()
    for row in rows:
        found = evidence.get(row["id"])
        if found is not None:
            row |= {"supported": found.supported, "reason": found.reason, "evidence": found.evidence}
    rows.sort(key=lambda row: (not row["supported"], row["id"] not in evidence, row["rank"]))
    ordered = [{**row, "rank": rank} for rank, row in enumerate(rows, start=1)]
    return pl.DataFrame(ordered, schema=HYPOTHESES_SCHEMA)


def label_errors(rows: pl.DataFrame, class_names: Sequence[str], most: int = TOP) -> list[dict[str, Any]]:
    """The samples with suspected pixels, those whose labels the model trusts least first: evaluation rows -> JSON.

    `suspect_share` of the labelled pixels at the model's resolution, `suspect_pixels` by label, and the pair of label
    and prediction over which most confidence is lost.
    """
    suspected = pl.col("label_quality").is_not_null() & (pl.col("suspect_pixels").list.sum() > 0)
    known = rows.filter(suspected).sort("label_quality", "sample_id").head(most)
    return [_listed(row, class_names) for row in known.iter_rows(named=True)]


def _listed(row: dict[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    confidence = np.reshape(row["pair_confidence"], (len(class_names), len(class_names))).astype(np.float64)
    counts = np.reshape(row["confusion"], confidence.shape)
    np.fill_diagonal(confidence, 0.0)
    label, prediction = divmod(int(confidence.argmax()), len(class_names))
    pixels = int(counts[label, prediction]) if confidence.any() else 0
    return {
        "sample_id": row["sample_id"],
        "label_quality": row["label_quality"],
        "suspect_share": sum(row["suspect_pixels"]) / sum(row["judged_pixels"]),
        "suspect_pixels": {
            name: count for name, count in zip(class_names, row["suspect_pixels"], strict=True) if count
        },
        "disputed_label": class_names[label] if pixels else None,
        "disputed_as": class_names[prediction] if pixels else None,
        "disputed_pixels": pixels,
        "disputed_confidence": float(confidence[label, prediction] / pixels) if pixels else None,
    }


def _pair_shift(pair: tuple[int, int], rise: float, q_value: float, holdout: LabelSums, target: LabelSums) -> PairShift:
    label, prediction = pair
    surely = _confidence(target, label, prediction)
    lost = 0.0 if label == VOID else target.loss[:, label, prediction].sum() + target.loss[:, prediction, label].sum()
    source = float(np.nanmean(_shares(holdout, label, prediction)))
    shift = PairShift(
        label, prediction, source, source + rise, q_value, surely, float(lost / target.loss.sum()),
    )  # fmt: skip
    return _judged(shift, holdout, target)


def _judged(shift: PairShift, holdout: LabelSums, target: LabelSums) -> PairShift:
    """The pair with what speaks against a convention: throughout the target, else in the pictures that it holds in."""
    kept = _kept(shift, holdout, target)
    if kept is None:
        return replace(shift, objection=_unsure(shift, holdout, target) or _moved(shift, holdout, target))
    held = _split(shift, holdout, target)
    if held is None:
        return replace(shift, objection=kept)
    part = target.only(held)
    shown = np.count_nonzero(_pair_of(target, shift)[1])
    objection = _unsure(shift, holdout, part) or _differ(shift, holdout, part)
    return replace(shift, objection=objection, held_in=(int(held.sum()), int(shown)))


def _kept(shift: PairShift, holdout: LabelSums, target: LabelSums) -> str | None:
    """What the labels keep of a class throughout the target, if that speaks against a convention."""
    pairs, both = _pair_of(target, shift)
    margin = paired_cluster_test(2 * pairs - both, target.units)
    if not margin.ci95[0] > 0:
        return "most of what the model calls so is still labelled so"
    said_before, said = (_share_of(sums.counts.sum(2), shift.prediction) for sums in (holdout, target))
    if said > said_before / 2:
        return f"the labels still have most of the class: {said:.1%} of pixels, {said_before:.1%} in the source"
    return None


def _unsure(shift: PairShift, holdout: LabelSums, target: LabelSums) -> str | None:
    """Whether the model doubts where the labels say otherwise; of void nothing is known."""
    right, wrong = _confidence_when(holdout, shift.prediction)
    surely = _confidence(target, shift.label, shift.prediction)
    if surely < (right + wrong) / 2:
        return (
            f"the model is unsure there ({surely:.2f}; in the source it has {right:.2f} where it is right "
            f"and {wrong:.2f} where it is wrong)"
        )
    return None


def _moved(shift: PairShift, holdout: LabelSums, target: LabelSums) -> str | None:
    """Whether the model's own share of a class moved as much as the labels'."""
    said_before, said = (_share_of(sums.counts.sum(2), shift.prediction) for sums in (holdout, target))
    seen_before, seen = (_share_of(sums.predicted, shift.prediction) for sums in (holdout, target))
    if abs(seen - seen_before) >= said_before - said:
        return (
            f"the model's own share moved from {seen_before:.1%} to {seen:.1%}, the labels' from {said_before:.1%} to "
            f"{said:.1%}: the pictures differ"
        )
    return None


def _split(shift: PairShift, holdout: LabelSums, target: LabelSums) -> NDArray[np.bool_] | None:
    """The pictures in which the labels contradict the model as a convention does, (n,); None unless it is all or none.

    Of what the model calls `prediction` and the labels either side of the pair, they are those with more of `label`
    than halfway from the source's share to all. Some pictures are, whatever the cause. So what they have beyond the
    source's others must be more than what the target's others have beyond those, and more than 1/`KEPT` times what
    they keep of the class, both together, tested by unit. Shares that are spread evenly, or as an arcsine, fail.
    """
    (pairs_before, both_before), (pairs, both) = (_pair_of(sums, shift) for sums in (holdout, target))
    halfway = (1 + _part_of(pairs_before, both_before)) / 2
    others, held = pairs_before <= halfway * both_before, pairs > halfway * both
    beyond = pairs - _part_of(pairs_before[others], both_before[others]) * both
    margin = np.where(held, beyond - (both - pairs) / KEPT, -beyond)
    return held if paired_cluster_test(margin, target.units).ci95[0] > 0 else None


def _pair_of(sums: LabelSums, shift: PairShift) -> tuple[Floats, Floats]:
    """Pixels of each sample that the model calls so: those with the pair's label, and with either label, (n,), (n,)."""
    pairs = _pixels(sums, shift.label, shift.prediction)
    return pairs, pairs + sums.counts[:, shift.prediction, shift.prediction]


def _part_of(part: Floats, whole: Floats) -> float:
    return float(part.sum() / whole.sum()) if whole.any() else 0.0


def _differ(shift: PairShift, holdout: LabelSums, part: LabelSums) -> str | None:
    """Whether pictures chosen by their labels show another amount of the class than the source's that show it.

    Pictures without the class, in which all that the model calls so is a mistake, are chosen as well, so that labels
    without it say nothing. The model must see it as in the source, give or take half of what the labels have lost.
    Pictures weigh by what the model sees of the class, so that those of neither set that don't show it don't count.
    """
    seen_before, seen = (_typical(sums, sums.predicted, shift.prediction) for sums in (holdout, part))
    said_before, said = (_typical(sums, sums.counts.sum(2), shift.prediction) for sums in (holdout, part))
    if said > KEPT * said_before:
        return f"the labels still have the class there: {said:.1%} of pixels, {said_before:.1%} in the source"
    if abs(seen - seen_before) >= (said_before - said) / 2:
        return (
            f"the model sees {seen:.1%} of the class there, {seen_before:.1%} in the source's pictures that show "
            "it: the pictures differ"
        )
    return None


def _typical(sums: LabelSums, pixels: Floats, class_index: int) -> float:
    """A class's share of a picture's pixels (n, C), mean over pictures by what the model sees of the class."""
    seen = sums.predicted[:, class_index]
    if not seen.sum():
        return 0.0
    return float((seen * pixels[:, class_index] / sums.predicted.sum(1)).sum() / seen.sum())


def _confidence(sums: LabelSums, label: int, prediction: int) -> float:
    """The model's mean confidence over a pair's pixels; NaN for void, of which no confidence is kept."""
    if label == VOID:
        return math.nan
    return float(sums.confidence[:, label, prediction].sum() / sums.counts[:, label, prediction].sum())


def _confidence_when(holdout: LabelSums, prediction: int) -> tuple[float, float]:
    """The holdout's mean confidence in a class where it is right, and where it is wrong (0 where it never is)."""
    counts, confidence = holdout.counts[:, :, prediction].sum(0), holdout.confidence[:, :, prediction].sum(0)
    others = np.arange(len(counts)) != prediction
    right = confidence[prediction] / counts[prediction] if counts[prediction] else math.nan
    wrong = confidence[others].sum() / counts[others].sum() if counts[others].sum() else 0.0
    return float(right), float(wrong)


def _share_of(pixels: Floats, class_index: int) -> float:
    """A class's share of all pixels (n, C)."""
    return float(pixels[:, class_index].sum() / pixels.sum())


def _policy_evidence(shifts: Sequence[PairShift], class_names: Sequence[str]) -> LabelEvidence:
    named = conventions(shifts)
    evidence = [_described(shift, class_names) for shift in shifts]
    if named:
        return LabelEvidence(True, "; ".join(_named(shift, class_names) for shift in named), evidence)
    if shifts:
        return LabelEvidence(False, f"{_named(shifts[0], class_names)}, but {shifts[0].objection}", evidence)
    return LabelEvidence(False, "no pair of label and prediction is more frequent than in the source", evidence)


def _error_evidence(source: LabelSums, target: LabelSums, *, explained: bool) -> LabelEvidence:
    """Labels must contradict the model where it is sure, as often as where it is not, and it must be as sure as ever.

    Beyond the holdout's rate e of disputes at equal confidence, labels that are wrong at a rate ε whatever the picture
    shows are disputed at (e' − e)/(1 − e) ≈ ε in every bin of confidence. So this surplus must be higher in the top bin
    than half of what it is elsewhere, not lower than elsewhere, and doubt must not rise: each of these alone is what
    some hard pictures do, too. Wrong labels on pictures that are hard besides are not told apart.
    """
    usual = _usual_disputes(source)
    (sure_before, unsure_before), (sure, unsure) = _surplus(source, usual), _surplus(target, usual)
    _, p_sure = _more(sure_before - unsure_before / 2, source.units, sure - unsure / 2, target.units)
    _, p_hard = _more(unsure_before - sure_before, source.units, unsure - sure, target.units)
    doubt, p_doubt = _more(source.doubt, source.units, target.doubt, target.units)
    surplus = f"{np.nanmean(sure):+.1%} where the model is sure, {np.nanmean(unsure):+.1%} where it is not"
    disputed = (
        f"labels disputed beyond the source's rate at equal confidence: {surplus} (more than half as often where it is "
        f"sure: p = {p_sure:.3f}; more often where it is not: p = {p_hard:.3f})"
    )
    expected = (
        f"errors that the model expects of itself: {source.doubt.mean():.1%} in the source, {target.doubt.mean():.1%} "
        f"in the target (more: p = {p_doubt:.3f})"
    )
    evidence = [disputed, expected]
    if explained:
        reason = "another convention of labelling accounts for labels that contradict the model"
    elif p_hard <= SUPPORT:
        reason = f"disputes rise most where the model is unsure, as on hard pictures: {surplus}"
    elif p_doubt <= SUPPORT:
        reason = f"the model expects {doubt:+.1%} errors more than in the source: hard pictures dispute labels, too"
    elif p_sure > SUPPORT:
        reason = f"labels hardly contradict a sure model more than in the source: {surplus}"
    else:
        reason = f"labels contradict a model that doubts no more than in the source: {surplus}"
        return LabelEvidence(True, reason, evidence)
    return LabelEvidence(False, reason, evidence)


def _usual_disputes(sums: LabelSums) -> Floats:
    """Share of disputed labels by confidence, (B,); 0 in bins without pixels."""
    return np.nan_to_num(_ratio(sums.disputes.sum(0), sums.bins.sum(0)))


def _surplus(sums: LabelSums, usual: Floats) -> tuple[Floats, Floats]:
    """(e' − e)/(1 − e) of each sample in the top bin of confidence and in all others together: (n,), (n,)."""
    expected = sums.bins * usual
    surplus, agreed = sums.disputes - expected, sums.bins - expected
    sure = _ratio(surplus[:, -1], agreed[:, -1])
    return sure, _ratio(surplus[:, :-1].sum(1), agreed[:, :-1].sum(1))


def _named(shift: PairShift, class_names: Sequence[str]) -> str:
    label = "left without a label" if shift.label == VOID else f"labelled {class_names[shift.label]}"
    seen = f"what the model calls {class_names[shift.prediction]}"
    if shift.held_in is None:
        return f"{shift.target_share:.0%} of {seen} is {label}"
    held, pictures = shift.held_in
    return f"in {held} of {pictures} pictures most of {seen} is {label}: over all {shift.target_share:.0%}"


def _described(shift: PairShift, class_names: Sequence[str]) -> str:
    text = f"{_named(shift, class_names)}, {shift.source_share:.1%} in the source (q = {shift.q_value:.3f})"
    if not math.isnan(shift.confidence):
        text += f", confidence {shift.confidence:.2f}"
    return f"{text}; no convention: {shift.objection}" if shift.objection else text


def _more(source: Floats, source_units: list[str], target: Floats, target_units: list[str]) -> tuple[float, float]:
    """How much higher the target's mean is, and the one-sided p-value by unit (1 with too few units)."""
    test = two_sample_cluster_test(target, target_units, source, source_units)
    if min(_units(source, source_units), _units(target, target_units)) < FEWEST_UNITS:
        return test.mean, 1.0
    return test.mean, test.p_value / 2 if test.mean > 0 else 1 - test.p_value / 2


def _units(values: Floats, units: list[str]) -> int:
    return len({unit for unit, value in zip(units, values, strict=True) if not math.isnan(value)})


def _shares(sums: LabelSums, label: int, prediction: int) -> Floats:
    """Share of each sample's pixels predicted `prediction` that are labelled `label`, (n,)."""
    return _ratio(_pixels(sums, label, prediction), sums.predicted[:, prediction])


def _pixels(sums: LabelSums, label: int, prediction: int) -> Floats:
    found: Floats = sums.void[:, prediction] if label == VOID else sums.counts[:, label, prediction]
    return found


def _ratio(part: Floats, whole: Floats) -> Floats:
    shares: Floats = np.divide(part, whole, out=np.full(len(whole), math.nan), where=whole > 0)
    return shares


def _square(values: Floats) -> Floats:
    classes = math.isqrt(values.shape[1])
    return values.reshape(len(values), classes, classes)
