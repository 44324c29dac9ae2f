"""The report as data: the schema of `report.json`, versioned.

Belongs here: what a report says, as numbers and short texts, and how it is checked and written.
Does not: pictures and markup (`gallery.py`, `figures.py`, `templates/`), computing any figure.
"""

from __future__ import annotations

from typing import Any, Literal

from assets.report.next_document import NextSamples, RecipeForm
from assets.report.parts_document import ModelPartsRow
from assets.report.schema import Interval, Number, Part

SCHEMA_VERSION = "1.9"

Verdict = Literal["confirmed", "refuted", "inconclusive", "skipped"]
Direction = Literal["normalise", "imitate", "reweight", "model"]


class DatasetSummary(Part):
    """A data set as the report names it."""

    name: str
    reader: str
    samples: int
    labelled: int
    quarantined: int
    groups: int
    parts: dict[str, int]


class ModelSummary(Part):
    """The model under test."""

    architecture: str
    encoder: str
    fingerprint: str
    trained_here: bool
    classes: list[str]
    input_size: tuple[int, int]


class ClassGap(Part):
    """One class on both sides; shares are of labelled pixels, losses are means over the class's pixels."""

    name: str
    source_iou: Number
    target_iou: Number
    source_loss: Number
    target_loss: Number
    source_share: Number
    target_share: Number
    composition: Number
    within: Number


class EstimatedPerformance(Part):
    """How a target without labels was estimated.

    `error`: standard deviation of the logarithm of true over estimated mean loss, on labelled pictures under imitations
    that the fit did not know. Accuracy is the share of pixels that are right, mean over pictures: `accuracy` by average
    thresholded confidence at `threshold`, `accuracy_by_entropy` by the negative entropy instead; `source_accuracy` is
    measured. A picture's loss is `scale` times its expected loss at `temperature`, to the `power`.
    """

    accuracy: Number
    accuracy_ci95: Interval = None
    accuracy_by_entropy: Number
    source_accuracy: Number
    threshold: Number
    temperature: Number
    scale: Number
    power: Number
    error: Number


class PerformanceGap(Part):
    """The loss gap: target against source holdout, per-image mean loss; `reason` says why there is none.

    Accuracy is the share of labelled pixels that are right, mean over pictures. Where the target has no labels,
    `estimated` is true: what is said of its loss is estimated, as `estimation` says.
    """

    reason: str | None = None
    estimated: bool = False
    estimation: EstimatedPerformance | None = None
    source_loss: Number = None
    target_loss: Number = None
    loss_gap: Number = None
    ci95: Interval = None
    p_value: Number = None
    detected: bool | None = None
    source_pixel_loss: Number = None
    target_pixel_loss: Number = None
    reference_loss: Number = None
    source_accuracy: Number = None
    target_accuracy: Number = None
    source_miou: Number = None
    target_miou: Number = None
    source_ece: Number = None
    target_ece: Number = None
    composition: Number = None
    within: Number = None
    per_class: list[ClassGap] = []


class MeasurementRow(Part):
    """One distance between the two sets, with its interval, permutation p-value and noise floor."""

    value: Number
    ci95: Interval = None
    p_value: Number = None
    noise_floor: Number = None


class IndexRow(Part):
    """The index that nearest reference samples were searched in; recall: the share of true neighbours that it finds."""

    kind: Literal["exact", "ivf", "ivf_pq"]
    rows: int
    recall: Number = None
    queries: int = 0
    """Samples that recall was measured on; 0 for exact search."""
    probes: int = 0


class RegionGap(Part):
    """The latent gap of one class's regions."""

    name: str
    source_samples: int
    target_samples: int
    measurements: dict[str, MeasurementRow]


class StageGap(Part):
    """The latent gap of one encoder stage, on its channels' means over the picture; stage 1 is the shallowest."""

    stage: int
    channels: int
    source_samples: int
    target_samples: int
    measurements: dict[str, MeasurementRow]


class ClassShareGap(Part):
    """Jensen–Shannon divergence of class shares in bits, of labelled pixels or, where a side has none, of predictions.

    0: the same mix of classes; 1: no class in common.
    """

    basis: Literal["labels", "predictions"]
    source_samples: int
    target_samples: int
    jensen_shannon: MeasurementRow


class TraitShift(Part):
    """How one trait differs, and how it goes with the loss inside the target.

    `p_value` and `q_value` are of the Kolmogorov–Smirnov statistic. `psi` is the population stability index over the
    source's deciles; `psi_p_value` permutes whole units, as `p_value` does.
    """

    name: str
    label: str
    family: str
    source_mean: Number
    target_mean: Number
    effect_size: Number
    ks: Number
    wasserstein: Number
    psi: Number = None
    psi_p_value: Number = None
    p_value: Number
    q_value: Number
    loss_association: Number
    loss_association_p: Number
    estimated: bool = False
    """Whether the loss that `loss_association` speaks of is estimated."""
    artefact: str | None = None


class HypothesisRow(Part):
    """A statement 'trait T differs and costs loss', with what speaks for it before any experiment."""

    id: str
    family: str
    statement: str
    traits: list[str]
    evidence: list[str]
    rank: int
    supported: bool


class ExperimentRow(Part):
    """What an experiment found, on the report half.

    Shares of the gap are parts of 1, and null where an estimated gap is not detected; `difference`, `imitated_delta`
    (of the source), `control_delta`, `sham_delta` and `per_class` are loss after minus before, so that below 0 is
    better. `ci95` is that of gap closed (of gap induced where only that ran).
    """

    id: str
    hypothesis: str
    family: str
    title: str
    direction: Direction
    verdict: Verdict
    reason: str
    parameters: dict[str, Any] = {}
    samples: int = 0
    loss_before: Number = None
    loss_after: Number = None
    difference: Number = None
    difference_ci95: Interval = None
    gap_closed: Number = None
    ci95: Interval = None
    p_value: Number = None
    q_value: Number = None
    imitated_delta: Number = None
    imitated_ci95: Interval = None
    gap_induced: Number = None
    induced_ci95: Interval = None
    induced_p_value: Number = None
    latent_gap_before: Number = None
    latent_gap_after: Number = None
    control_delta: Number = None
    control_ci95: Interval = None
    sham_delta: Number = None
    sham_ci95: Interval = None
    residual_before: Number = None
    residual_after: Number = None
    per_class: dict[str, Number] = {}
    estimated: bool = False
    """Whether the target's losses are estimated (those of the source never are): then so are its figures and its word.
    """


class Cluster(Part):
    """A cluster of the worst target samples, named by the traits that set it apart."""

    name: str
    samples: list[str]
    mean_loss: float
    traits: list[str]
    estimated: bool = False


class RecipeStep(Part):
    """One confirmed normalisation of the recipe, with its fitted parameters."""

    hypothesis: str
    title: str
    parameters: dict[str, Any]


class Recipe(Part):
    """The confirmed normalisations that help one after another; effect measured once, on the report half."""

    steps: list[RecipeStep] = []
    gap_closed: Number = None
    ci95: Interval = None
    loss_after: Number = None
    estimated: bool = False


class Estimate(Part):
    """A number with its 95% interval. `estimated`: it rests on losses that are, since the target has no labels."""

    value: Number
    ci95: Interval = None
    estimated: bool = False


class AttributionRow(Part):
    """A confirmed family's Shapley share of the gap; all families' sum to what they do together.

    `hypotheses`: what was confirmed of it. `induced`: measured by what imitating it does to the source, as the price of
    an explained cause is, and whatever cannot be taken away from pictures.
    """

    family: str
    hypotheses: list[str]
    share: Number
    ci95: Interval = None
    induced: bool = False
    estimated: bool = False


class Disde(Part):
    """The loss gap in three parts that sum to it exactly, by what the model sees (DISDE).

    `shared_inputs`: inputs of both sets in other proportions; `outcome`: another loss on the same inputs;
    `unseen_inputs`: inputs that the target alone has. `effective_samples`: how many source and target samples stand
    for what both share.
    """

    shared_inputs: Estimate
    outcome: Estimate
    unseen_inputs: Estimate
    total: Number
    effective_samples: tuple[float, float]


class StrengthRow(Part):
    """One parameter of an imitation: its value, and the least and the most that explain the shift as well."""

    name: str
    value: float
    low: float
    high: float


class ExplanationStep(Part):
    """A cause that takes a share off the misfit between the target's traits and the source's.

    `setting`: strength of its imitation, `strength` the same by name; `rivals`: experiments that do as well within
    noise; `p_value`: of the share. `cost` is the cause's Shapley value in loss, when all explained causes are imitated
    on the source's holdout at their settings; `gap_share` is that as a part of the loss gap, null where none is
    detected. `q_value` is of no cost, corrected over the causes. All of the price is null where it was not measured.
    """

    experiment: str
    title: str
    setting: tuple[float, ...]
    strength: list[StrengthRow] = []
    share: Number
    p_value: Number
    rivals: list[str] = []
    cost: Number = None
    cost_ci95: Interval = None
    gap_share: Number = None
    gap_share_ci95: Interval = None
    estimated: bool = False
    """Whether the gap that `gap_share` is of is estimated; costs are always measured, on the source."""
    q_value: Number = None
    verdict: Verdict | None = None
    reason: str | None = None

    @property
    def told(self) -> str:
        """The cause with those that no picture tells from it."""
        return " or ".join([self.title, *self.rivals])


class ExplanationRow(Part):
    """Which few causes reproduce the whole shift of traits, before any loss is asked.

    `explained` is the share of the misfit that all steps take off; `beyond_noise` whether what they leave is more than
    chance makes.
    """

    steps: list[ExplanationStep]
    explained: Number
    beyond_noise: bool

    @property
    def confirmed(self) -> list[ExplanationStep]:
        """The causes that their price confirms, the costliest first."""
        steps = [step for step in self.steps if step.verdict == "confirmed"]
        return sorted(steps, key=lambda step: -(step.cost or 0.0))


class NearReference(Part):
    """A reference sample near a target sample in the latent space."""

    sample_id: str
    distance: Number


class WorstRow(Part):
    """A target sample with high loss (without labels: high estimated loss), as the gallery shows it.

    `sensitive_to`: whose loss the page has a map of sensitivity of, the costliest class first.
    """

    sample_id: str
    group: str
    loss: Number
    gap_score: Number
    conformal_p: Number
    stands_out: list[str] = []
    neighbours: list[NearReference] = []
    sensitive_to: list[str] = []


class SliceCondition(Part):
    """One trait at or beyond a threshold."""

    trait: str
    label: str
    side: Literal["<=", ">="]
    threshold: float


class SliceRow(Part):
    """Target samples that meet at most three conditions and have a high loss.

    `where` is SQL over the target's traits table. `difference`: mean loss beyond that of all other samples. `p_value`
    is that of the best slice of the whole search; null where nothing was searched.
    """

    name: str
    where: str
    conditions: list[SliceCondition]
    samples: int
    units: int
    share: float
    mean_loss: Number
    difference: Number
    p_value: Number
    estimated: bool = False


class LabelErrorRow(Part):
    """A sample whose labels the model contradicts: a suspect, to be looked at.

    `label_quality`: cleanlab's score, 0 bad to 1 good. `suspect_pixels` by label, at the model's resolution, and their
    `suspect_share` of all labelled ones. The pair `disputed_label` and `disputed_as` is the one over which most
    confidence is lost: `disputed_pixels` at the label's own resolution are labelled the one and predicted the other,
    at a mean `disputed_confidence`.
    """

    side: Literal["holdout", "target"]
    sample_id: str
    label_quality: Number
    suspect_share: Number
    suspect_pixels: dict[str, int]
    disputed_label: str | None
    disputed_as: str | None
    disputed_pixels: int
    disputed_confidence: Number


class AdaptationRow(Part):
    """A variant of an adaptation of the model, on the report halves of target and source holdout.

    `gap_closed`, `ci95`, `p_value` and `loss_after` are those of the worst of `seeds` seeds, `q_value` is corrected
    over all variants of the target, `side_effect` is the source's loss after minus before in the seed that costs it
    most. `weights`: path, within the store, of the first seed's. `minutes`: training of all seeds together.
    `label_share`: per cent of the labelled fit half, null where the method has no use for target labels.
    """

    method: str
    variant: str
    title: str
    paper: str
    verdict: Verdict
    reason: str
    scope: str | None = None
    label_share: int | None = None
    samples: int = 0
    seeds: int = 0
    loss_before: Number = None
    loss_after: Number = None
    gap_closed: Number = None
    ci95: Interval = None
    p_value: Number = None
    q_value: Number = None
    mean_gap_closed: Number = None
    range_gap_closed: Interval = None
    side_effect: Number = None
    side_effect_ci95: Interval = None
    costs_the_source: bool = False
    miou_before: Number = None
    miou_after: Number = None
    source_miou_before: Number = None
    source_miou_after: Number = None
    steps: int = 0
    planned_steps: int = 0
    cut: bool = False
    minutes: Number = None
    weights: str | None = None


class HardData(Part):
    """What the target-trained oracle leaves of the gap: the worst seed's share with its interval, the seeds' mean.

    `found`: the whole interval lies above the smallest effect worth acting on, and the oracle's plan was not cut.
    """

    left: Number
    ci95: Interval = None
    mean_left: Number = None
    labelled: int
    cut: bool
    found: bool
    sentence: str


class QualityResult(Part):
    """One data quality check."""

    dataset: str
    name: str
    passed: bool
    severity: str
    detail: str


class Quarantined(Part):
    """A sample that was found but can't be used."""

    dataset: str
    sample_id: str
    reason: str


class ReportDocument(Part):
    """The whole of `report.json`."""

    schema_version: str = SCHEMA_VERSION
    headline: str
    source: DatasetSummary
    target: DatasetSummary
    model: ModelSummary
    performance_gap: PerformanceGap
    latent_gap: dict[str, MeasurementRow]
    index: IndexRow | None = None
    latent_gap_regions: list[RegionGap] = []
    latent_gap_stages: list[StageGap] = []
    class_shares: ClassShareGap | None = None
    traits: list[TraitShift]
    hypotheses: list[HypothesisRow]
    experiments: list[ExperimentRow]
    root_causes: list[str]
    """Confirmed causes by id, the costliest first: what explains the shift and costs loss, and rules on labels; what
    experiments confirm, where nothing explains the shift."""
    attribution: list[AttributionRow] = []
    not_attributed: list[str] = []
    """Families with a confirmed experiment that the shares leave out."""
    unexplained: Estimate
    disde: Disde | None = None
    explanation: ExplanationRow | None = None
    recipe: Recipe
    recipe_forms: list[RecipeForm] = []
    next_samples: NextSamples | None = None
    adaptations: list[AdaptationRow] = []
    """Adaptations of the model, in the order of the config's methods; empty where none is asked for."""
    adaptations_skipped: str | None = None
    """Why no adaptation was tried on this target."""
    hard_data: HardData | None = None
    model_parts: ModelPartsRow | None = None
    """Null where the stage is off."""
    worst_samples: list[WorstRow] = []
    """The samples of the page's gallery, the worst first."""
    worst_clusters: list[Cluster] = []
    slices: list[SliceRow] = []
    suspect_slice: SliceRow | None = None
    """Target samples in the upper tercile of `suspect_share`, a column that the traits table lacks."""
    label_errors: list[LabelErrorRow] = []
    """The worst of both sides, the target's first; all are in `label_errors.csv`."""
    quality: list[QualityResult] = []
    quarantined: list[Quarantined] = []
    skipped: list[str] = []
    counts: dict[str, int]
