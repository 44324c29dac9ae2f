"""The page: `report.html`, one file that opens offline.

Belongs here: how numbers are worded, what the page says about a document, rendering the templates safely.
Does not: drawing (`figures.py`), gathering (`gallery.py`), computing any figure.

Every text from the data is escaped by Jinja or as JSON; the page's own scripts and style sheet are the only ones that
its Content-Security-Policy lets run, and nothing is loaded from anywhere.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from assets.report import TEMPLATES, adaptation_figures, figures
from assets.report.document import (
    ExperimentRow,
    ExplanationStep,
    HypothesisRow,
    MeasurementRow,
    PerformanceGap,
    RegionGap,
    ReportDocument,
    SliceRow,
    StageGap,
    TraitShift,
)
from assets.report.evidence import Evidence
from assets.report.explorer import explorer_data
from assets.report.parts_figures import parts_figure

SMALL_P = 0.001
SMALL, LARGE = 1e-3, 1e6  # beyond these, numbers are written with an exponent
SIGNIFICANT = 0.05
HALF = 0.5
TOP_TRAITS = 6
SHOWN_VALUES = 8
SHOWN_QUARANTINED = 100
FEW_SHARED = 10
"""Effective samples below which a split by what both sets share rests on too little."""
SCRIPTS = ("explorer.js", "tables.js", "report.js")
UNDEFINED = "–"
HEX_COLOUR = re.compile("#[0-9a-fA-F]{6}")


# --- numbers as text -------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 3) -> str:
    """A plain number, as losses are written."""
    return UNDEFINED if value is None or not math.isfinite(value) else _minus(f"{value:z,.{digits}f}")


def signed(value: float | None, digits: int = 3) -> str:
    """A difference: always with its sign."""
    return UNDEFINED if value is None or not math.isfinite(value) else _minus(f"{value:+,.{digits}f}")


def compact(value: float | None) -> str:
    """Three significant digits, for quantities whose scale isn't known."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    if value != 0 and not SMALL <= abs(value) < LARGE:
        return _minus(f"{value:.2e}")
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return _minus(f"{value:,.{digits}f}")


def percent(value: float | None, digits: int = 0) -> str:
    """A share."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    return _minus(f"{100 * value:z,.{digits}f}%")


def p_value(value: float | None) -> str:
    """A p- or q-value."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    return "< 0.001" if value < SMALL_P else f"{value:.3f}"


def p_equals(value: float | None, name: str = "p") -> str:
    """A p- or q-value within a sentence."""
    text = p_value(value)
    return f"{name} not defined" if text == UNDEFINED else f"{name} {text}" if text[0] == "<" else f"{name} = {text}"


def interval(bounds: tuple[float, float] | None, digits: int = 3) -> str:
    """An interval of losses, in brackets."""
    return UNDEFINED if bounds is None else f"[{number(bounds[0], digits)}, {number(bounds[1], digits)}]"


def signed_interval(bounds: tuple[float, float] | None, digits: int = 3) -> str:
    """An interval of differences, in brackets: both ends with their sign."""
    return UNDEFINED if bounds is None else f"[{signed(bounds[0], digits)}, {signed(bounds[1], digits)}]"


def percent_interval(bounds: tuple[float, float] | None) -> str:
    """An interval of shares, in brackets."""
    return UNDEFINED if bounds is None else f"[{percent(bounds[0])}, {percent(bounds[1])}]"


def sentence(text: str) -> str:
    """A reason as a sentence of its own."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", ":")) or not text else ".")


def parameter(value: Any) -> str:
    """A fitted parameter, however it is nested; long lists are cut and say so."""
    if isinstance(value, float):
        return compact(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {parameter(item)}" for key, item in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        shown = ", ".join(parameter(item) for item in value[:SHOWN_VALUES])
        return f"{shown}, … ({len(value)} values)" if len(value) > SHOWN_VALUES else shown
    return "not set" if value is None else str(value)


def _minus(text: str) -> str:
    return text.replace("-", "−")


# --- words -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distance:
    """How a latent distance is named and read; `shrinks`: it falls, not rises, as the sets move apart."""

    label: str
    sentence: str
    shrinks: bool = False


DISTANCES = {
    "knn_auroc": Distance(
        "k-NN AUROC",
        "How well the distance to the nearest reference samples tells target from holdout: 0.5 not at all, 1 always.",
    ),
    "knn_two_sample": Distance(
        "k-NN two-sample",
        "Share of a sample's nearest neighbours that come from its own set: high where the sets don’t mix.",
    ),
    "frechet": Distance(
        "Fréchet distance",
        "Distance between two Gaussians fitted to the latents; it depends on the number of samples, so compare it "
        "with its noise floor only.",
    ),
    "kid": Distance("KID", "Kernel distance with a cubic kernel; unbiased, so 0 is expected where there is no gap."),
    "mmd": Distance("MMD (RBF)", "Kernel distance at the median scale of the latents; sensitive to any difference."),
    "energy": Distance("Energy distance", "Mean distance between the sets beyond the mean distance within them."),
    "sliced_wasserstein": Distance(
        "Sliced Wasserstein", "Mean squared transport distance over random directions in the latent space."
    ),
    "c2st_auc": Distance("Classifier AUC", "Cross-validated AUC of a linear classifier of target against holdout."),
    "c2st_accuracy": Distance("Classifier accuracy", "Cross-validated accuracy of that classifier; 0.5 is chance."),
    "proxy_a_distance": Distance("Proxy A-distance", "2 (1 − 2 × classifier error): 0 no gap, 2 fully separable."),
    "precision": Distance("Precision", "Share of target samples that lie where source samples lie.", shrinks=True),
    "recall": Distance("Recall", "Share of source samples that lie where target samples lie.", shrinks=True),
    "density": Distance("Density", "How densely source samples surround target samples; 1 is even.", shrinks=True),
    "coverage": Distance("Coverage", "Share of source samples with a target sample close by.", shrinks=True),
}
DISTANCES |= {
    "energy_distance": DISTANCES["energy"],
    "pad": DISTANCES["proxy_a_distance"],
    "c2st_acc": DISTANCES["c2st_accuracy"],
}


def distance(key: str) -> Distance:
    """How a latent distance is read; an unknown one keeps its name."""
    return DISTANCES.get(key) or Distance(key.replace("_", " "), "Distance between the latents of the two sets.")


def exceeds_floor(key: str, row: MeasurementRow) -> bool | None:
    """Whether a distance lies beyond what two halves of the source holdout show; None where that isn't known."""
    if row.value is None or row.noise_floor is None:
        return None
    return row.value < row.noise_floor if distance(key).shrinks else row.value > row.noise_floor


WHAT_HELPS = {
    "content": "collect and label target scenes of the kind that is missing; no picture transform can add them",
    "label_policy": "align the label definitions of the two sets before training on, or judging by, either",
    "sharpness": "detail is lost and can’t be put back: train with this degradation as augmentation, or fix focus",
    "noise": "train with this noise as augmentation, or denoise at the sensor",
    "compression": "train with this compression as augmentation, or raise the quality at which pictures are stored",
    "haze": "train with this haze as augmentation",
    "geometry": "match the field of view and the resolution: crop or resize the target to the source’s",
    "model_statistics": "re-estimate the normalisation statistics on the target, with the guard on the source",
}


REMEDY = ("normalise", "model")
"""Directions of experiments that can be applied to a target; imitations and re-weightings can't."""


@dataclass(frozen=True)
class Advice:
    """One thing to do next."""

    title: str
    text: str


def advice(document: ReportDocument) -> list[Advice]:
    """What to do next, from what the document says and nothing else; the first is the most important."""
    gap = document.performance_gap
    failed = [check for check in document.quality if not check.passed and check.severity.lower() == "error"]
    steps = []
    if failed:
        steps.append(
            Advice(
                "Fix the data first",
                f"{_count(len(failed), 'data quality check')} failed; figures from unsound data mislead.",
            )
        )
    if gap.reason is not None:
        return [*steps, *_advice_without_loss(document)]
    if gap.estimated:
        steps.append(LABEL_SOME)
    if gap.estimated and not gap.detected:
        return [*steps, *(_advice_on_cause(document, cause) for cause in document.root_causes)]
    if not gap.detected:
        return [*steps, *_advice_without_gap(document)]
    return [*steps, *_advice_on_causes(document)]


LABEL_SOME = Advice(
    "Label some target pictures",
    "All that is said of the target’s loss is estimated from the model’s own outputs, which are wrong where the model "
    "is sure and mistaken. A few dozen labels over several drives, the worst samples below first, settle it.",
)


def _advice_without_loss(document: ReportDocument) -> list[Advice]:
    beyond, known = floor_count(document)
    looks = (
        "The model does see the target as different, so don’t assume that it transfers."
        if beyond
        else "The model sees no difference, which is a good sign and no proof."
        if known
        else "Nor is there a latent distance to go by."
    )
    start = (
        "Start at the top of ‘What to label next’ below."
        if document.next_samples is not None and document.next_samples.chosen
        else "Start with the pictures with the highest gap scores below, over as many drives as you can."
    )
    return [
        Advice(
            "Label some target pictures",
            f"Without labels nobody knows what the gap costs. {looks} {start}",
        ),
        *(_advice_on_cause(document, cause) for cause in document.root_causes),
    ]


def _advice_without_gap(document: ReportDocument) -> list[Advice]:
    bound = document.performance_gap.ci95
    beyond, _ = floor_count(document)
    seen = " The model does see the target as different: watch it." if beyond else ""
    limit = "" if bound is None else f" The data rule out a mean loss gap above {signed(bound[1])}, not less."
    agree = f"Target and holdout cost the same within the uncertainty.{limit}"
    if document.root_causes:
        first = Advice("Don’t stop at the mean", f"{agree} On the same pictures, what follows costs loss all the same.")
    else:
        first = Advice("Nothing to close", agree)
    return [
        first,
        *(_advice_on_cause(document, cause) for cause in document.root_causes),
        Advice(
            "Look before you ship",
            f"A mean hides rare classes and rare scenes: read the table of classes and the worst target samples.{seen}",
        ),
    ]


def _advice_on_causes(document: ReportDocument) -> list[Advice]:
    recipe, unexplained, gap = document.recipe, document.unexplained.value, document.performance_gap
    steps = []
    if recipe.steps:
        titles = ", then ".join(step.title for step in recipe.steps)
        steps.append(
            Advice(
                "Use the recipe",
                f"{titles}: closes {percent(recipe.gap_closed)} {percent_interval(recipe.ci95)} of the gap, measured "
                "on pictures it wasn’t fitted on.",
            )
        )
    in_recipe = {step.hypothesis for step in recipe.steps}
    others = [cause for cause in document.root_causes if cause not in in_recipe]
    leading = [figures.leading_experiment(document, cause) for cause in others] if recipe.steps else []
    covered = [e for e in leading if e is not None and e.direction in REMEDY]
    if covered:  # the recipe was offered these, too, and found nothing left for them
        steps.append(
            Advice("Nothing more for these", f"Confirmed alone, they add nothing to the recipe: {_titles(covered)}.")
        )
    done = {experiment.hypothesis for experiment in covered}
    steps += [_advice_on_cause(document, cause) for cause in others if cause not in done]
    if not document.root_causes and remedies(document):
        steps.append(
            Advice("Ask what it cures", "What closes the gap is confirmed; what causes it isn’t, so it may come back.")
        )
    elif not document.root_causes:
        steps.append(
            Advice(
                "Don’t act on a hunch",
                "The gap is real, but no suspected cause passed its test. The surest way on is to fine-tune on "
                "labelled target pictures and to keep some back for testing.",
            )
        )
    if gap.composition is not None and gap.within is not None and abs(gap.composition) > abs(gap.within):
        steps.append(
            Advice("Mind the content", "Most of the gap is which classes are seen, not how well each is recognised.")
        )
    if document.root_causes and unexplained is not None and unexplained > HALF:
        steps.append(
            Advice(
                "Expect more causes",
                f"{percent(unexplained)} of the gap remains unexplained: look at the worst target samples.",
            )
        )
    return steps


def _advice_on_cause(document: ReportDocument, cause: str) -> Advice:
    """What helps against a cause that the recipe isn't made for."""
    title, family = _named(document, cause)
    aimed = "no step of the recipe is made for it; " if document.recipe.steps else ""
    return Advice(title, f"Confirmed: {WHAT_HELPS.get(family, f'{aimed}train with it as augmentation')}.")


def _named(document: ReportDocument, cause: str) -> tuple[str, str]:
    """A cause's title and family, from whatever tells of it."""
    tried = next((e for e in document.experiments if e.hypothesis == cause), None)
    if tried is not None:
        return tried.title, tried.family
    raised = next((h for h in document.hypotheses if h.id == cause), None)
    explained = document.explanation.steps if document.explanation is not None else []
    title = next((step.title for step in explained if step.experiment == cause), raised.statement if raised else cause)
    return title, raised.family if raised else ""


def _titles(experiments: list[ExperimentRow]) -> str:
    return "; ".join(experiment.title for experiment in experiments)


def floor_count(document: ReportDocument) -> tuple[int, int]:
    """How many latent distances exceed their noise floor, and of how many that is known."""
    known = [exceeds_floor(key, row) for key, row in document.latent_gap.items()]
    return sum(1 for value in known if value), sum(1 for value in known if value is not None)


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


# --- what the sections show ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cause:
    """A confirmed cause or remedy in the header; `effect`: what it does to the loss, in words."""

    title: str
    anchor: str
    effect: str


@dataclass(frozen=True)
class Trial:
    """An experiment and what is drawn beside it."""

    row: ExperimentRow
    anchor: str
    share: float | None
    interval: tuple[float, float] | None
    induced_interval: tuple[float, float] | None
    plots: list[tuple[Markup, str]]
    per_class: list[tuple[str, float | None]]


VERDICT_ORDER = ("confirmed", "inconclusive", "refuted", "skipped")


def causes(document: ReportDocument) -> list[Cause]:
    """The confirmed causes, the costliest first, by their price where they have one."""
    steps = enumerate(document.explanation.steps if document.explanation is not None else [], start=1)
    priced = {s.experiment: Cause(s.told, f"cause-{i}", _price(s)) for i, s in steps if s.verdict == "confirmed"}
    found = []
    for hypothesis in document.root_causes:
        experiment = figures.leading_experiment(document, hypothesis)
        if hypothesis in priced:
            found.append(priced[hypothesis])
        elif experiment is not None:
            found.append(Cause(experiment.title, _anchor(document, experiment), _effect(experiment)))
        else:
            found.append(Cause(_named(document, hypothesis)[0], "causes", ""))
    return found


def remedies(document: ReportDocument) -> list[Cause]:
    """The confirmed experiments that close the gap without being a root cause, those that close most first."""
    others = [e for e in document.experiments if e.verdict == "confirmed" and e.hypothesis not in document.root_causes]
    usable = [e for e in others if e.direction in REMEDY and e.gap_closed is not None]
    usable.sort(key=lambda e: -(e.gap_closed or 0.0))
    return [Cause(e.title, _anchor(document, e), _effect(e)) for e in usable]


def _effect(experiment: ExperimentRow) -> str:
    share, bounds, how = figures.share_of_gap(experiment)
    return f"{'closes' if how == 'closed' else 'induces'} {percent(share)} {percent_interval(bounds)}"


def _price(step: ExplanationStep) -> str:
    if step.gap_share is None:
        return f"{signed(step.cost)} loss {signed_interval(step.cost_ci95)}"
    return f"costs {percent(step.gap_share)} of the gap {percent_interval(step.gap_share_ci95)}"


def tested(document: ReportDocument) -> int:
    """How many suspected causes were tried by an experiment or priced."""
    tried = {e.hypothesis for e in document.experiments if e.verdict != "skipped"}
    priced = document.explanation.steps if document.explanation is not None else []
    return len(tried | {step.experiment for step in priced if step.verdict is not None})


def trials(document: ReportDocument, evidence: Evidence) -> list[Trial]:
    """The experiments that ran, root causes first."""
    labels = {trait.name: trait.label for trait in document.traits}
    rank = {cause: place for place, cause in enumerate(document.root_causes)}
    ran = [e for e in document.experiments if e.verdict != "skipped"]
    ran.sort(
        key=lambda e: (
            VERDICT_ORDER.index(e.verdict),
            rank.get(e.hypothesis, len(rank)),
            -(figures.share_of_gap(e)[0] or -math.inf),
        )
    )
    found = []
    for row in ran:
        changed = figures.traits_after(evidence, row.hypothesis)
        charts_of = [
            (_trait_chart(evidence, trait, labels.get(trait, trait), row.hypothesis), labels.get(trait, trait))
            for trait in changed
        ]
        plots = [(chart, label) for chart, label in charts_of if chart is not None]
        share, bounds, how = figures.share_of_gap(row)
        induced = row.induced_ci95 or (row.ci95 if how == "induced" else None)
        per_class = sorted(row.per_class.items(), key=lambda item: (item[1] is None, item[1] or 0.0))
        found.append(Trial(row, _anchor(document, row), share, bounds, induced, plots, per_class))
    return found


def _anchor(document: ReportDocument, experiment: ExperimentRow) -> str:
    return f"experiment-{document.experiments.index(experiment) + 1}"


def hypothesis_verdicts(document: ReportDocument) -> list[tuple[HypothesisRow, list[ExperimentRow]]]:
    """Every hypothesis in its rank's order, with its experiments."""
    ranked = sorted(document.hypotheses, key=lambda h: h.rank)
    return [(h, [e for e in document.experiments if e.hypothesis == h.id]) for h in ranked]


@dataclass(frozen=True)
class TraitPlot:
    """A trait's distributions; `after`: the experiment after which it was measured again, as far as one was tried."""

    trait: TraitShift
    chart: Markup
    after: ExperimentRow | None


def top_traits(document: ReportDocument, evidence: Evidence) -> list[TraitPlot]:
    """The traits that differ most and aren't artefacts, as far as they have values."""
    ranked = sorted(document.traits, key=lambda t: (t.artefact is not None, -abs(t.effect_size or 0.0)))
    found: list[TraitPlot] = []
    for trait in ranked:
        after = treated_by(document, evidence, trait.name)
        chart = _trait_chart(evidence, trait.name, trait.label, after.hypothesis if after is not None else None)
        if chart is not None and len(found) < TOP_TRAITS:
            found.append(TraitPlot(trait, chart, after))
    return found


def treated_by(document: ReportDocument, evidence: Evidence, trait: str) -> ExperimentRow | None:
    """The experiment that says most about a trait that it changed: confirmed before others, then what closes most."""
    rows = evidence.traits.filter(trait=trait)["set"].unique()
    changed = {str(name).removeprefix("after:") for name in rows if str(name).startswith("after:")}
    tried = [row for row in document.experiments if row.hypothesis in changed and row.verdict != "skipped"]
    return min(
        tried, key=lambda row: (VERDICT_ORDER.index(row.verdict), -(figures.share_of_gap(row)[0] or 0.0)), default=None
    )


def _trait_chart(evidence: Evidence, trait: str, label: str, after: str | None) -> Markup | None:
    series = figures.trait_series(evidence, trait, after)
    sets = "holdout, target and after the experiment" if after is not None else "holdout and target"
    return figures.distribution(f"trait-{trait}", f"Distribution of {label} in {sets}", series)


def sparklines(document: ReportDocument, evidence: Evidence) -> dict[str, Markup]:
    """Every trait's distributions, as small as a cell of the table; a trait without values has none."""
    series = {trait.name: figures.trait_series(evidence, trait.name) for trait in document.traits}
    labels = {trait.name: trait.label for trait in document.traits}
    drawn = {name: figures.sparkline(values, f"Distribution of {labels[name]}") for name, values in series.items()}
    return {name: chart for name, chart in drawn.items() if chart is not None}


def part_columns(parts: Sequence[RegionGap | StageGap]) -> list[tuple[str, bool]]:
    """The distances measured of class regions or encoder stages, and whether any of them has a p-value."""
    keys = dict.fromkeys(key for part in parts for key in part.measurements)
    tested = {key for part in parts for key, row in part.measurements.items() if row.p_value is not None}
    return [(key, key in tested) for key in keys]


def class_scale(gap: PerformanceGap) -> float:
    """The largest contribution of a class, which fills its bar."""
    values = [value for row in gap.per_class for value in (row.composition, row.within) if value is not None]
    return max(map(abs, values), default=0.0) or 1.0


def trial_scale(trial: Trial) -> float:
    """The largest effect on a class, which fills its bar."""
    return max([abs(value) for _, value in trial.per_class if value is not None], default=0.0) or 1.0


def swatch(colour: str) -> Markup:
    """A square in a class's colour; anything but '#RRGGBB' is left blank."""
    fill = colour if HEX_COLOUR.fullmatch(colour) else "none"
    return Markup('<svg class="swatch" viewBox="0 0 10 10" aria-hidden="true"><rect fill="{}"/></svg>').format(fill)


def conditions(row: SliceRow) -> str:
    """A slice's conditions by the columns of the traits table: 'brightness ≤ 0.21 and share_car ≥ 0.1'."""
    signs = {"<=": "≤", ">=": "≥"}
    return " and ".join(f"{one.trait} {signs[one.side]} {_minus(f'{one.threshold:g}')}" for one in row.conditions)


def forest_range(rows: Iterable[Trial]) -> tuple[float, float]:
    """The range of shares that the interval plots cover; what lies beyond is cut."""
    bounds = [bound for trial in rows for pair in (trial.interval, trial.induced_interval) if pair for bound in pair]
    return max(min([-0.25, *bounds]), -0.5), min(max([0.5, *bounds]), 1.25)


# --- rendering -------------------------------------------------------------------------------------------------------


def data_uri(picture: bytes) -> str:
    """A picture as an address that needs no network; its type is read from its first bytes."""
    kind = "png" if picture.startswith(b"\x89PNG") else "webp" if picture[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def json_for_script(value: Any) -> Markup:
    """JSON that can't end its `<script>` element, whatever names are in it; ASCII, so U+2028 is escaped too."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 -- nothing that HTML reads is left in it


def security_policy(scripts: Iterable[str], style: str) -> str:
    """Only these scripts and this style sheet count, nothing is loaded, nothing is sent."""
    allowed = " ".join(_hash(text) for text in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def render_page(document: ReportDocument, evidence: Evidence) -> str:
    """The whole of `report.html`: one self-contained page.

    Shares (`gap_closed`, `gap_induced`, `unexplained`) are read as parts of 1; differences of loss (`difference`,
    `control_delta`, `sham_delta`, `per_class`) as after − before, so that below 0 is better.
    """
    from assets.inference.label_quality import SUSPECT_BELOW

    shown_trials = trials(document, evidence)
    columns = explorer_data(document, evidence, data_uri)
    style = own_file("report.css")
    scripts = [own_file(name) for name in SCRIPTS]
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            doc=document,
            evidence=evidence,
            gap=document.performance_gap,
            policy=security_policy(scripts, style),
            style=Markup(style),  # noqa: S704 -- our own file
            scripts=[Markup(script) for script in scripts],  # noqa: S704 -- our own files
            explorer_json=json_for_script(columns),
            explorer=columns,
            waterfall=figures.waterfall_steps(document),
            waterfall_chart=figures.gap_waterfall(document),
            class_steps=figures.class_steps(document),
            class_chart=figures.waterfall(figures.class_steps(document)),
            loss_chart=figures.loss_distribution(evidence),
            parts_chart=parts_figure(document.model_parts),
            adaptation_plots=_adaptation_plots(document),
            causes=causes(document),
            remedies=remedies(document),
            priced=document.explanation.confirmed if document.explanation is not None else [],
            tested=tested(document),
            advice=advice(document),
            floor_count=floor_count(document),
            trait_plots=top_traits(document, evidence),
            sparklines=sparklines(document, evidence),
            trials=shown_trials,
            forest=forest_range(shown_trials),
            skipped=[e for e in document.experiments if e.verdict == "skipped"],
            hypotheses=hypothesis_verdicts(document),
            class_scale=class_scale(document.performance_gap),
            ordered_traits=sorted(document.traits, key=lambda t: -abs(t.effect_size or 0.0)),
            trait_scale=max([abs(t.effect_size) for t in document.traits if t.effect_size is not None] or [1.0]) or 1.0,
            region_columns=part_columns(document.latent_gap_regions),
            stage_columns=part_columns(document.latent_gap_stages),
            shown_quarantined=SHOWN_QUARANTINED,
            few_shared=FEW_SHARED,
            significant=SIGNIFICANT,
            suspect_below=SUSPECT_BELOW,
        )
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # names from a file system may hold lone surrogates


def _adaptation_plots(document: ReportDocument) -> list[tuple[str, Markup]]:
    made = {
        "Gap closed against the price on the source": adaptation_figures.closed_against_cost(document.adaptations),
        "What more labels buy": adaptation_figures.learning_curve(document.adaptations),
    }
    return [(title, chart) for title, chart in made.items() if chart is not None]


def own_file(name: str) -> str:
    """A script or style sheet of the pages."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


@functools.cache
def environment() -> jinja2.Environment:
    """Where the pages' templates are found, with the filters that word numbers."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: UNDEFINED if value is None else value,
    )
    environment.filters |= {
        "exponential": math.exp,
        "number": number,
        "signed": signed,
        "compact": compact,
        "percent": percent,
        "p": p_value,
        "p_equals": p_equals,
        "ci": interval,
        "ci_signed": signed_interval,
        "ci_percent": percent_interval,
        "parameter": parameter,
        "sentence": sentence,
        "data_uri": data_uri,
    }
    environment.globals |= {"distance": distance, "exceeds_floor": exceeds_floor, "plural": _count}
    environment.globals |= {"swatch": swatch, "trial_scale": trial_scale, "conditions": conditions}
    return environment
