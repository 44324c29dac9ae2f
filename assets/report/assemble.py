"""The document assembled: every figure of the stages put where `report.json` says it.

Belongs here: reading the stages' results into `ReportDocument`, the headline. Does not: computing, pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import polars as pl

from assets.diagnosis.estimated import EstimatedGap
from assets.diagnosis.gather import Sides
from assets.diagnosis.loss_gap import LossGap, accuracies, performance
from assets.diagnosis.worst_samples import WorstCluster
from assets.experiments.registry import Experiment
from assets.report.document import (
    AdaptationRow,
    AttributionRow,
    ClassGap,
    ClassShareGap,
    Cluster,
    DatasetSummary,
    Disde,
    Estimate,
    EstimatedPerformance,
    ExperimentRow,
    ExplanationRow,
    ExplanationStep,
    HardData,
    HypothesisRow,
    LabelErrorRow,
    MeasurementRow,
    ModelSummary,
    PerformanceGap,
    QualityResult,
    Quarantined,
    Recipe,
    RegionGap,
    ReportDocument,
    SliceRow,
    StageGap,
    StrengthRow,
    TraitShift,
)
from assets.report.next_document import RecipeForm, next_part
from assets.report.parts_document import ModelPartsRow
from resources.config import DatasetConfig, GapConfig

NOT_ESTIMATED = (
    "loss and IoU by class, mIoU, calibration error, the splits of the gap (Kitagawa, DISDE), rules on labels and "
    "suspected labels: they need the target's labels, and the target has none"
)
MEASURED = ("value", "ci95", "p_value", "noise_floor")
SIDES: dict[Literal["holdout", "target"], str] = {"target": "target", "holdout": "source"}
"""Where the diagnosis keeps a side's list of suspected labels, in the report's order."""


def assemble(
    config: GapConfig, key: str, sides: Sides, gap: LossGap | EstimatedGap | None, stored: dict[str, Any],
    experiments: dict[str, Experiment], clusters: list[WorstCluster],
) -> ReportDocument:  # fmt: skip
    """The report of one target. `stored`: JSON values of the stages, by the names that are read below."""
    target, verdicts = config.dataset(key), stored["verdicts"]
    performance_gap = _performance(config, sides, gap)
    measured = {name: _measurement(row) for name, row in stored["scores"]["whole"].items()}
    estimated = performance_gap.estimated
    unexplained = Estimate(**verdicts["unexplained"], estimated=estimated)
    recipe = Recipe(**verdicts["recipe"], estimated=estimated)
    causes = verdicts["root_causes"]
    split, suspects = (stored["diagnosis"][name] for name in ("disde", "suspect_slice"))
    titles = {name: experiment.hypothesis.title for name, experiment in experiments.items()}
    explanation = _explanation(stored["explanation"], stored["causes"], titles, estimated=estimated)
    told = {step.experiment: step.told for step in explanation.steps} if explanation else {}
    return ReportDocument(
        headline=headline(config.source.name, target.name, performance_gap, measured,
                          [told.get(name, titles[name]) for name in causes], unexplained,
                          explanation.confirmed if explanation else [], recipe),
        source=_dataset(config.source, sides.source_manifest),
        target=_dataset(target, sides.target_manifest),
        model=ModelSummary(
            architecture=config.model.title[0], encoder=config.model.title[1],
            fingerprint=stored["model"]["fingerprint"], trained_here=stored["model"]["trained_here"],
            classes=list(config.class_names), input_size=config.model.input_size,
        ),
        performance_gap=performance_gap,
        latent_gap=measured,
        latent_gap_regions=[RegionGap(**_part(region)) for region in stored["scores"]["regions"]],
        latent_gap_stages=[StageGap(**_part(stage)) for stage in stored["scores"].get("stages", [])],
        class_shares=_class_shares(stored["scores"].get("class_shares")),
        traits=[
            TraitShift(**{k: v for k, v in row.items() if k != "kind"}, estimated=estimated)
            for row in stored["diagnosis"]["shifts"]
        ],
        hypotheses=[
            HypothesisRow(**{k: v for k, v in row.items() if k not in ("title", "reason")})
            for row in stored["diagnosis"]["hypotheses"]
        ],
        experiments=[_experiment(row, stored["fits"], experiments, config) for row in verdicts["experiments"]],
        root_causes=causes,
        attribution=[AttributionRow(**row, estimated=estimated) for row in verdicts["attribution"]],
        not_attributed=verdicts["not_attributed"],
        unexplained=unexplained,
        disde=Disde(**split) if split is not None else None,
        explanation=explanation,
        recipe=recipe,
        recipe_forms=[RecipeForm(**row) for row in stored.get("recipe_forms", [])],
        next_samples=next_part(stored["next_samples"]) if stored.get("next_samples") else None,
        model_parts=_model_parts(stored.get("model_parts")),
        **adaptations(stored.get("adaptations")),
        worst_clusters=[Cluster(**vars(cluster), estimated=estimated) for cluster in clusters],
        slices=[SliceRow(**row, estimated=estimated) for row in stored["diagnosis"]["slices"]],
        suspect_slice=SliceRow(**suspects) if suspects is not None else None,
        label_errors=[
            LabelErrorRow(side=side, **row)
            for side, name in SIDES.items() for row in stored["diagnosis"]["label_errors"][name]
        ],
        quality=_quality(stored["quality"]),
        quarantined=[*_quarantined(config.source.name, sides.source_manifest),
                     *_quarantined(target.name, sides.target_manifest)],
        skipped=[sides.without_gap] if sides.without_gap else [NOT_ESTIMATED] if performance_gap.estimated else [],
        counts=_counts(sides),
    )  # fmt: skip


def adaptations(stored: dict[str, Any] | None) -> dict[str, Any]:
    """The document's fields on adaptation; none where the config names no method."""
    if stored is None:
        return {}
    rows = [
        AdaptationRow(**{name: row[name] for name in AdaptationRow.model_fields if name in row})
        for row in stored["rows"]
    ]
    hard = HardData(**stored["hard_data"]) if stored["hard_data"] else None
    return {"adaptations": rows, "adaptations_skipped": stored["skipped"], "hard_data": hard}


def headline(
    source: str, target: str, gap: PerformanceGap, measured: dict[str, MeasurementRow], causes: list[str],
    unexplained: Estimate, priced: Sequence[ExplanationStep] = (), recipe: Recipe | None = None,
) -> str:  # fmt: skip
    """The answer in a sentence or two. `causes`: titles of root causes; `priced`: those with a price in loss."""
    if gap.loss_gap is None:
        return _without_labels(source, target, gap, measured) + _costs(priced)
    if gap.estimated:
        return _by_estimate(source, target, gap, causes, unexplained, priced)
    size = f"{gap.target_loss:.3f} on {target} against {gap.source_loss:.3f} on {source}'s holdout"
    if gap.ci95 is None:
        told = f"The loss is {size} ({gap.loss_gap:+.3f}); too few independent groups to tell it from chance."
        return told + _costs(priced)
    interval = f"{gap.loss_gap:+.3f}, 95% interval {gap.ci95[0]:+.3f} to {gap.ci95[1]:+.3f}"
    if not gap.detected:
        return f"No loss gap detected between {source} and {target}: the loss is {size} ({interval}).{_costs(priced)}"
    if not causes:
        return f"The model loses on {target}: {size} ({interval}). No cause that was tried is confirmed."
    left = _left(unexplained.value, recipe)
    return f"The model loses on {target}: {size} ({interval}). Confirmed: {_listed(causes)}{left}."


def _by_estimate(
    source: str, target: str, gap: PerformanceGap, causes: list[str], unexplained: Estimate,
    priced: Sequence[ExplanationStep],
) -> str:  # fmt: skip
    """The answer where the target has no labels."""
    size = f"an estimated {gap.target_loss:.3f} on {target}, which has no labels, against {gap.source_loss:.3f} on "
    size += f"{source}'s holdout"
    if gap.ci95 is None:
        return f"The loss is {size}; too few independent groups to tell it from chance.{_costs(priced)}"
    interval = f"estimated gap {gap.loss_gap:+.3f}, 95% interval {gap.ci95[0]:+.3f} to {gap.ci95[1]:+.3f} with the "
    interval += "estimator's own error"
    if not gap.detected:
        told = f"The estimated gap is not beyond the estimator's own error: the loss is {size} ({interval})."
        return told + _costs(priced)
    if not causes:
        return f"The model is estimated to lose on {target}: {size} ({interval}). No cause that was tried is confirmed."
    left = (
        ""
        if unexplained.value is None
        else f"; an estimated {max(unexplained.value, 0):.0%} of the gap stays unexplained"
    )
    return f"The model is estimated to lose on {target}: {size} ({interval}). Confirmed: {_listed(causes)}{left}."


def _costs(priced: Sequence[ExplanationStep]) -> str:
    """What confirmed causes cost where no gap is known that they could have a share of."""
    if not priced:
        return ""
    if len(priced) == 1:
        return f" But {priced[0].title} alone adds {_cost(priced[0])} to the loss when done to the source."
    told = [f"{step.title} adds {_cost(step)}" for step in priced]
    return f" But done to the source, {_listed(told)} to the loss."


def _cost(step: ExplanationStep) -> str:
    bounds = step.cost_ci95
    return f"{step.cost:+.3f}" + ("" if bounds is None else f" [{bounds[0]:+.3f}, {bounds[1]:+.3f}]")


def _listed(titles: list[str]) -> str:
    """Titles in one phrase; those that hold commas themselves are told apart by semicolons."""
    if len(titles) == 1:
        return titles[0]
    comma = any("," in title for title in titles)
    return f"{('; ' if comma else ', ').join(titles[:-1])}{'; and' if comma else ' and'} {titles[-1]}"


def _left(unexplained: float | None, recipe: Recipe | None) -> str:
    """What the causes leave. An imitation may be weaker than the cause: where the recipe closes more, both are told."""
    if unexplained is None:
        return ""
    if unexplained <= 0:
        return "; this accounts for the whole gap"
    left = f"; {unexplained:.0%} of the gap stays unexplained"
    if recipe is not None and recipe.gap_closed is not None and recipe.ci95 and recipe.ci95[0] > 1 - unexplained:
        left += f", and the recipe closes {recipe.gap_closed:.0%} of the gap"
    return left


def _without_labels(source: str, target: str, gap: PerformanceGap, measured: dict[str, MeasurementRow]) -> str:
    separation = measured.get("knn_auroc")
    if separation is None or separation.value is None:
        return f"No loss can be compared: {gap.reason}."
    apart = separation.p_value is not None and separation.p_value <= SIGNIFICANT
    said = "looks different from" if apart else "is not told apart from"
    tested = f", p = {separation.p_value:.3f}" if separation.p_value is not None else ""
    return (
        f"No loss can be compared ({gap.reason}); to the model, {target} {said} {source} "
        f"(kNN AUROC {separation.value:.2f}{tested})."
    )


SIGNIFICANT = 0.05


def _performance(config: GapConfig, sides: Sides, gap: LossGap | EstimatedGap | None) -> PerformanceGap:
    if gap is None:
        return PerformanceGap(reason=sides.without_gap)
    if isinstance(gap, EstimatedGap):
        return _estimated_performance(sides, gap)
    reference = sides.reference
    source, target = gap.source, gap.target
    per_class = [
        ClassGap(
            name=name, source_iou=source.class_iou[i], target_iou=target.class_iou[i],
            source_loss=source.class_loss[i], target_loss=target.class_loss[i],
            source_share=source.class_share[i], target_share=target.class_share[i],
            composition=gap.composition[i], within=gap.within[i],
        )
        for i, name in enumerate(config.class_names)
    ]  # fmt: skip
    return PerformanceGap(
        source_loss=source.loss, target_loss=target.loss, loss_gap=gap.value, ci95=gap.ci95, p_value=gap.p_value,
        detected=gap.detected, source_pixel_loss=source.pixel_loss, target_pixel_loss=target.pixel_loss,
        reference_loss=performance(reference).loss if not reference.is_empty() else None,
        source_accuracy=float(accuracies(sides.holdout).mean()),
        target_accuracy=float(accuracies(sides.target).mean()),
        source_miou=source.miou, target_miou=target.miou, source_ece=source.ece, target_ece=target.ece,
        composition=float(gap.composition.sum()), within=float(gap.within.sum()), per_class=per_class,
    )  # fmt: skip


def _estimated_performance(sides: Sides, gap: EstimatedGap) -> PerformanceGap:
    accuracy, calibration = gap.accuracy, gap.calibration
    return PerformanceGap(
        estimated=True, source_loss=gap.source.loss, target_loss=gap.target_loss, loss_gap=gap.value, ci95=gap.ci95,
        p_value=gap.p_value, detected=gap.detected, source_pixel_loss=gap.source.pixel_loss,
        reference_loss=performance(sides.reference).loss if not sides.reference.is_empty() else None,
        source_accuracy=accuracy.source, source_miou=gap.source.miou, source_ece=gap.source.ece,
        estimation=EstimatedPerformance(
            accuracy=accuracy.target, accuracy_ci95=accuracy.ci95, accuracy_by_entropy=accuracy.by_entropy,
            source_accuracy=accuracy.source, threshold=accuracy.threshold, temperature=calibration.temperature,
            scale=calibration.scale, power=calibration.power, error=calibration.error,
        ),
    )  # fmt: skip


def _experiment(
    row: dict[str, Any], fits: dict[str, dict[str, Any]], experiments: dict[str, Experiment], config: GapConfig
) -> ExperimentRow:
    experiment = experiments[row["experiment"]]
    fit = fits[experiment.id]
    per_class = dict(zip(config.class_names, row.get("per_class") or (), strict=False))
    kept = {name: row[name] for name in ExperimentRow.model_fields if name in row and name != "per_class"}
    direction = experiment.direction
    if row.get("difference_ci95") is None and row.get("imitated_ci95") is not None:
        kept |= {"ci95": row["induced_ci95"], "p_value": row["induced_p_value"]}
        direction = "imitate" if direction == "normalise" else direction
    return ExperimentRow(
        **kept,
        id=experiment.id,
        hypothesis=experiment.id,
        family=experiment.hypothesis.family,
        title=experiment.hypothesis.title,
        direction=direction,
        parameters=fit.get("parameters", {}),
        residual_before=fit.get("residual_before"),
        residual_after=fit.get("residual_after"),
        per_class=per_class,
    )


def _explanation(
    stored: dict[str, Any] | None, priced: dict[str, Any] | None, titles: dict[str, str], *, estimated: bool
) -> ExplanationRow | None:
    if stored is None or not stored["misfit"]:
        return None
    prices = {} if priced is None else {row["experiment"]: _price(row) for row in priced["prices"]}
    steps = [
        ExplanationStep(
            experiment=step["experiment"], title=titles[step["experiment"]], setting=step["setting"],
            strength=_strength(step), share=step["gain"] / stored["misfit"], p_value=step["p_value"],
            rivals=[titles[name] for name in step["rivals"]], estimated=estimated, **prices.get(step["experiment"], {}),
        )
        for step in stored["steps"]
    ]  # fmt: skip
    explained = 1 - stored["remaining"] / stored["misfit"]
    return ExplanationRow(steps=steps, explained=explained, beyond_noise=stored["remaining"] > stored["noise"])


def _strength(step: dict[str, Any]) -> list[StrengthRow]:
    """Each parameter with the range of the settings that explain the shift as well."""
    ranges = zip(*[step["setting"], *step["plausible"]], strict=True)
    return [
        StrengthRow(name=name, value=values[0], low=min(values), high=max(values))
        for name, values in zip(step["parameters"], ranges, strict=True)
    ]


def _price(row: dict[str, Any]) -> dict[str, Any]:
    same = {name: row[name] for name in ("cost", "cost_ci95", "q_value", "verdict", "reason")}
    return {**same, "gap_share": row["share"], "gap_share_ci95": row["ci95"]}


def _model_parts(stored: dict[str, Any] | None) -> ModelPartsRow | None:
    return None if stored is None else ModelPartsRow.model_validate(stored)


def _measurement(row: dict[str, Any]) -> MeasurementRow:
    return MeasurementRow(**{name: row[name] for name in MEASURED})


def _part(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "measurements": {name: _measurement(found) for name, found in row["measurements"].items()}}


def _class_shares(row: dict[str, Any] | None) -> ClassShareGap | None:
    if row is None:
        return None
    return ClassShareGap(**{**row, "jensen_shannon": _measurement(row["jensen_shannon"])})


def _dataset(dataset: DatasetConfig, manifest: pl.DataFrame) -> DatasetSummary:
    used = manifest.filter(pl.col("part") != "unused")
    return DatasetSummary(
        name=dataset.name, reader=dataset.reader, samples=used.height, labelled=int(used["labelled"].sum()),
        quarantined=int(used["quarantined"].sum()), groups=used["group"].n_unique(),
        parts=dict(used.group_by("part").len().sort("part").iter_rows()),
    )  # fmt: skip


def _quality(stored: dict[str, list[dict[str, Any]]]) -> list[QualityResult]:
    return [
        QualityResult(
            dataset=dataset,
            name=row["name"],
            passed=row["passed"],
            severity=row["severity"].lower(),
            detail=row["detail"],
        )
        for dataset, rows in stored.items()
        for row in rows
    ]


def _quarantined(name: str, manifest: pl.DataFrame) -> list[Quarantined]:
    rows = manifest.filter("quarantined").select("sample_id", "reason").iter_rows()
    return [Quarantined(dataset=name, sample_id=sample_id, reason=reason) for sample_id, reason in rows]


def _counts(sides: Sides) -> dict[str, int]:
    source = sides.source_manifest.filter(pl.col("part") != "unused")
    return {
        "source_samples": source.height,
        "target_samples": sides.target_manifest.height,
        "target_labelled": int(sides.target_manifest["labelled"].sum()),
        "quarantined": int(source["quarantined"].sum()) + int(sides.target_manifest["quarantined"].sum()),
    }
