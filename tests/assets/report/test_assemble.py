"""The document says what the stages found: the headline, every figure in its place, nothing that JSON can't hold."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from assets.diagnosis.gather import Sides, gap_between
from assets.diagnosis.hypotheses import rank_hypotheses
from assets.diagnosis.loss_gap import LossGap, loss_gap
from assets.diagnosis.shifts import SHIFTS_SCHEMA
from assets.diagnosis.worst_samples import WorstCluster
from assets.experiments.pricing import Price, Priced
from assets.experiments.registry import Experiment, load_experiments
from assets.experiments.verdict import Figures, verdict_rows
from assets.experiments.verdict import Rules as VerdictRules
from assets.inference.estimation import Calibration, estimation_columns
from assets.inference.losses import EVALUATION_SCHEMA, evaluate
from assets.report.assemble import assemble, headline
from assets.report.document import Estimate, ExplanationStep, MeasurementRow, PerformanceGap, Recipe, ReportDocument
from assets.report.figures_logged import logged_metrics, logged_params
from assets.traits.registry import all_traits
from resources.config import GapConfig

CLASSES = ("road", "sky", "car")
NAN = math.nan


@pytest.fixture(scope="module")
def config() -> GapConfig:
    return GapConfig.model_validate({
        "classes": list(CLASSES), "source": {"name": "home", "reader": "streets"},
        "targets": [{"name": "away", "reader": "streets"}],
    })  # fmt: skip


@pytest.fixture(scope="module")
def experiments(config) -> dict[str, Experiment]:
    return load_experiments(config, all_traits(CLASSES, []))


def manifest(parts: dict[str, int], prefix: str) -> pl.DataFrame:
    rows = []
    for part, count in parts.items():
        for i in range(count):
            bad = part == "unused" and i == 0
            rows.append({
                "sample_id": f"{prefix}{part}{i:03d}", "part": part, "group": f"g{i // 2}", "unit": f"g{i // 2}",
                "report_half": bool(i // 2 % 2), "labelled": not bad, "quarantined": bad,
                "reason": "truncated" if bad else None,
            })  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={"reason": pl.String})


def evaluations(frame: pl.DataFrame, sharpness: float, seed: int, labelled: bool = True) -> pl.DataFrame:
    """Evaluation rows of a model that is right to a degree; the class 'car' never occurs."""
    rng = np.random.default_rng(seed)
    rows = []
    for name in frame["sample_id"]:
        mask = rng.integers(0, 2, (8, 12)).astype(np.uint8)
        logits = torch.tensor(rng.normal(0, 1, (3, 8, 12)), dtype=torch.float32)
        logits += sharpness * torch.nn.functional.one_hot(torch.tensor(mask).long(), 3).permute(2, 0, 1)
        found = evaluate(logits, mask if labelled else None).row(name, "f", b"")
        rows.append(found | estimation_columns(logits))
    return pl.DataFrame(rows, schema=EVALUATION_SCHEMA).drop("prediction")


def sides_of(target_sharpness: float = 1.0, labelled: bool = True, samples: int = 24) -> Sides:
    source = manifest({"reference": 30, "holdout": 24, "unused": 3}, "s")
    target = manifest({"target": samples}, "t").with_columns(labelled=pl.lit(labelled))
    return Sides(source, target, evaluations(source, 3.0, 1), evaluations(target, target_sharpness, 2, labelled))


def gap_of(sides: Sides) -> LossGap | None:
    return None if sides.without_gap else loss_gap(sides.holdout, sides.target, draws=200, seed=0)


def shift_rows() -> pl.DataFrame:
    base = dict.fromkeys(SHIFTS_SCHEMA)
    base |= {"kind": "picture"}
    numbers = {name: 0.5 for name, kind in SHIFTS_SCHEMA.items() if kind == pl.Float64}
    return pl.DataFrame([
        {**base, **numbers, "name": "mean_red", "label": "mean red", "family": "colour", "q_value": 0.01},
        {**base, **numbers, "name": "sharpness", "label": "sharpness", "family": "sharpness",
         "effect_size": NAN, "loss_association": NAN, "q_value": 0.6},
    ], schema=SHIFTS_SCHEMA)  # fmt: skip


def stored_of(experiments: dict[str, Experiment], causes: list[str]) -> dict[str, Any]:
    """What the stages' files hold, as JSON would give it back."""
    figures = [
        Figures("channel_statistics", samples=12, units=6, loss_before=1.2, loss_after=0.9, difference=-0.3,
                difference_ci95=(-0.4, -0.2), gap_closed=0.6, ci95=(0.4, 0.8), p_value=0.0001,
                control_delta=0.0, control_ci95=(-0.1, 0.1), sham_delta=0.01, sham_ci95=(-0.1, 0.1),
                beats_sham=(0.1, 0.5), per_class=(-0.2, -0.4, NAN)),
        Figures("sharpness", samples=12, units=6, imitated_delta=0.15, imitated_ci95=(0.05, 0.25), gap_induced=0.3,
                induced_ci95=(0.1, 0.5), induced_p_value=0.002),
    ]  # fmt: skip
    judged = verdict_rows(figures, 0.5, VerdictRules(0.05, 0.05, 100, 0))
    judged.append({"experiment": "exposure", "verdict": "skipped", "reason": "no trait differs"})
    measured = {"value": 0.8, "ci95": [0.7, 0.9], "p_value": 0.002, "noise_floor": 0.6, "exceeds_floor": True}
    undefined = {"value": None, "ci95": None, "p_value": None, "noise_floor": None, "exceeds_floor": None}
    shifts = shift_rows()
    price = Price("channel_statistics", (0.1, 0.0), 0.3, (0.2, 0.4), 0.6, (0.4, 0.8), 0.001, 0.002, "confirmed", "said")
    priced = Priced([price], 0.3, (0.2, 0.4), 0.6, (0.4, 0.8))
    ranked = rank_hypotheses([experiments[name].hypothesis for name in ("channel_statistics", "sharpness")], shifts)
    return {
        "model": {"fingerprint": "abc", "trained_here": True, "classes": list(CLASSES)},
        "scores": {"whole": {"knn_auroc": measured, "frechet": undefined}, "regions": [
            {"name": "sky", "source_samples": 20, "target_samples": 18, "measurements": {"knn_auroc": measured}}],
            "stages": [{"stage": 1, "channels": 32, "source_samples": 24, "target_samples": 24,
                        "measurements": {"kid": measured, "energy": undefined}}],
            "class_shares": {"basis": "labels", "source_samples": 24, "target_samples": 24,
                             "jensen_shannon": measured}},
        "diagnosis": {
            "shifts": shifts.to_dicts(), "hypotheses": ranked.to_dicts(),
            "disde": {"shared_inputs": {"value": 0.1, "ci95": [0.0, 0.2]},
                      "outcome": {"value": 0.2, "ci95": [NAN, NAN]},
                      "unseen_inputs": {"value": 0.3, "ci95": [0.2, 0.4]}, "total": 0.6,
                      "effective_samples": [11.5, 9.25]},
            "slices": [{"name": "low mean red", "where": "mean_red <= 0.2", "samples": 8, "units": 4, "share": 0.3,
                        "mean_loss": 1.4, "difference": 0.5, "p_value": 0.01,
                        "conditions": [{"trait": "mean_red", "label": "mean red", "side": "<=", "threshold": 0.2}]}],
            "suspect_slice": {"name": "high share of suspected labels", "where": "suspect_share >= 0.1", "samples": 8,
                              "units": 4, "share": 0.3, "mean_loss": 1.4, "difference": 0.5, "p_value": None,
                              "conditions": [{"trait": "suspect_share", "label": "share of suspected labels",
                                              "side": ">=", "threshold": 0.1}]},
            "label_errors": {side: [{
                "sample_id": name, "label_quality": 0.1, "suspect_share": 0.2, "suspect_pixels": {"sky": 12},
                "disputed_label": "sky", "disputed_as": "car", "disputed_pixels": 40, "disputed_confidence": 0.9}]
                for side, name in (("source", "s3"), ("target", "t4"))},
        },
        "next_samples": {"samples": 24, "uncovered": 3, "threshold": 0.05, "radius_before": 0.8, "chosen": [
            {"rank": i + 1, "sample_id": f"t{i}", "group": "g", "expected_loss": 0.4, "loss_is": "loss",
             "gap_score": 0.9, "conformal_p": 0.02, "stands_for": 1, "radius": 0.1, "nearest_reference": "s1",
             "distance": 0.7, "image": "/d/t.png"} for i in range(30)]},
        "recipe_forms": [{"name": "recipe.onnx", "written": True, "note": "float32"}],
        "explanation": {
            "steps": [{"experiment": "channel_statistics", "setting": [0.1, 0.0],
                       "plausible": [[0.05, -0.01], [0.2, 0.0]], "parameters": ["red offset", "blue offset"],
                       "gain": 60.0, "p_value": 0.004, "rivals": ["sharpness"]}],
            "misfit": 80.0, "remaining": 20.0, "noise": 30.0, "alone": {"channel_statistics": 60.0},
        },
        "causes": json.loads(json.dumps(priced.as_values())),
        "verdicts": {
            "experiments": judged, "root_causes": causes, "unexplained": {"value": 0.4, "ci95": [0.2, 0.6]},
            "attribution": [{"family": "colour", "hypotheses": ["channel_statistics"], "share": 0.6,
                             "ci95": [0.4, 0.8], "induced": False}] if causes else [],
            "not_attributed": ["geometry"] if causes else [],
            "recipe": {"steps": [{"hypothesis": "channel_statistics", "title": "t", "parameters": {"gain": [1.0]}}],
                       "gap_closed": 0.6, "ci95": [0.4, 0.8], "loss_after": 0.9},
        },
        "fits": {"channel_statistics": {"parameters": {"normalised": {"gain": [1.2, NAN]}}, "residual_before": 0.8,
                                        "residual_after": 0.3},
                 "sharpness": {"parameters": {}}, "exposure": {"skipped": "no trait differs"}},
        "quality": {"home": [{"name": "masks_fit", "passed": True, "severity": "ERROR", "detail": "all"}], "away": []},
    }  # fmt: skip


@pytest.fixture(scope="module")
def document(config, experiments) -> ReportDocument:
    sides = sides_of()
    clusters = [WorstCluster("low sky", ["t1", "t2"], 2.5, ["low sky"])]
    causes = ["channel_statistics"]
    return assemble(config, "away", sides, gap_of(sides), stored_of(experiments, causes), experiments, clusters)


def test_the_document_survives_its_own_json(document):
    text = document.model_dump_json()
    assert "NaN" not in text and "Infinity" not in text
    again = ReportDocument.model_validate_json(text)
    assert again.model_dump_json() == text
    assert again.headline == document.headline


def test_logged_figures_are_the_documents(document):
    metrics, params = logged_metrics(document), logged_params(document)
    gap = document.performance_gap
    assert (metrics["loss_gap"], metrics["loss_gap_low"]) == (gap.loss_gap, gap.ci95[0])
    assert metrics["latent/knn_auroc"] == 0.8 and metrics["latent/frechet"] is None
    assert metrics["share/colour"] == 0.6 and metrics["unexplained"] == 0.4 and metrics["uncovered_samples"] == 3
    verdicts = {name: count for name, count in metrics.items() if name.startswith("verdicts/")}
    assert sum(verdicts.values()) == len(document.experiments) and verdicts["verdicts/skipped"] == 1
    assert (params["source"], params["target"]) == (document.source.name, document.target.name)
    assert params["causes"] == "channel_statistics" and params["model_fingerprint"] == "abc"
    recipes = [json.loads(value) for name, value in params.items() if name.startswith("recipe_")]
    assert recipes == [step.parameters for step in document.recipe.steps]


def test_what_is_not_defined_is_null(document):
    content = json.loads(document.model_dump_json())
    by_class = {row["name"]: row for row in content["performance_gap"]["per_class"]}
    assert by_class["car"]["source_loss"] is None and by_class["car"]["target_loss"] is None
    assert by_class["road"]["source_loss"] > 0
    assert content["traits"][1]["effect_size"] is None
    assert content["latent_gap"]["frechet"] == {"value": None, "ci95": None, "p_value": None, "noise_floor": None}
    rows = {row["id"]: row for row in content["experiments"]}
    assert rows["channel_statistics"]["per_class"] == {"road": -0.2, "sky": -0.4, "car": None}
    assert rows["channel_statistics"]["parameters"] == {"normalised": {"gain": [1.2, None]}}
    assert rows["sharpness"]["gap_closed"] is None


def test_figures_stand_where_they_belong(document, experiments):
    sides = sides_of()
    gap = document.performance_gap
    target, holdout = sides.target["loss"].mean(), sides.holdout["loss"].mean()
    assert (gap.target_loss, gap.source_loss) == pytest.approx((target, holdout))
    assert gap.loss_gap == pytest.approx(target - holdout)
    confusion = np.array(sides.target["confusion"].to_list(), float).reshape(sides.target.height, 3, 3)
    right = np.trace(confusion, axis1=1, axis2=2) / confusion.sum((1, 2))
    assert gap.target_accuracy == pytest.approx(right.mean())
    assert gap.detected and gap.ci95[0] > 0 and gap.reason is None
    assert gap.reference_loss == pytest.approx(sides.reference["loss"].mean())
    assert gap.composition + gap.within == pytest.approx(gap.target_pixel_loss - gap.source_pixel_loss)
    assert sum(row.target_share for row in gap.per_class) == pytest.approx(1)
    assert document.source.samples == 54 and document.source.parts == {"holdout": 24, "reference": 30}
    assert document.target.samples == 24 and document.target.labelled == 24
    assert [(row.dataset, row.reason) for row in document.quarantined] == [("home", "truncated")]
    assert document.quality[0].severity == "error" and document.quality[0].dataset == "home"
    assert document.root_causes == ["channel_statistics"]
    assert document.unexplained == Estimate(value=0.4, ci95=(0.2, 0.6))
    assert [(row.family, row.share) for row in document.attribution] == [("colour", 0.6)]
    assert document.attribution[0].share + document.unexplained.value == pytest.approx(1)
    assert document.not_attributed == ["geometry"]
    [step] = document.explanation.steps
    assert step.share == 0.75 and step.rivals == [experiments["sharpness"].hypothesis.title]
    assert step.told == f"{step.title} or {experiments['sharpness'].hypothesis.title}"
    assert (step.cost, step.cost_ci95, step.gap_share, step.gap_share_ci95) == (0.3, (0.2, 0.4), 0.6, (0.4, 0.8))
    assert (step.p_value, step.q_value, step.verdict, step.reason) == (0.004, 0.002, "confirmed", "said")
    assert document.explanation.confirmed == [step]
    assert (document.next_samples.listed, len(document.next_samples.chosen)) == (30, 24)
    assert [form.name for form in document.recipe_forms] == ["recipe.onnx"]
    assert document.explanation.explained == 0.75 and not document.explanation.beyond_noise
    assert document.disde.total == 0.6 and document.disde.outcome == Estimate(value=0.2)
    assert document.slices[0].conditions[0].side == "<=" and document.slices[0].where == "mean_red <= 0.2"
    assert document.suspect_slice.p_value is None and document.suspect_slice.samples == 8
    assert [(row.side, row.sample_id) for row in document.label_errors] == [("target", "t4"), ("holdout", "s3")]
    assert document.label_errors[0].suspect_pixels == {"sky": 12}
    assert document.recipe.steps[0].hypothesis == "channel_statistics"
    assert document.worst_clusters[0].samples == ["t1", "t2"]
    assert document.latent_gap["knn_auroc"].value == 0.8
    assert document.latent_gap_regions[0].measurements["knn_auroc"].noise_floor == 0.6
    [stage] = document.latent_gap_stages
    assert (stage.stage, stage.channels, stage.measurements["kid"].value) == (1, 32, 0.8)
    assert stage.measurements["energy"].value is None
    assert (document.class_shares.basis, document.class_shares.jensen_shannon.ci95) == ("labels", (0.7, 0.9))
    assert (document.traits[0].psi, document.traits[0].psi_p_value) == (0.5, 0.5)
    assert document.skipped == []


def test_scores_of_an_older_store_are_a_report_without_the_new_parts(config, experiments):
    sides, stored = sides_of(), stored_of(experiments, [])
    del stored["scores"]["stages"], stored["scores"]["class_shares"]
    stored["diagnosis"]["shifts"] = [
        {name: value for name, value in row.items() if not name.startswith("psi")}
        for row in stored["diagnosis"]["shifts"]
    ]
    stored["causes"] = None
    found = assemble(config, "away", sides, gap_of(sides), stored, experiments, [])
    [step] = found.explanation.steps
    assert (step.cost, step.gap_share, step.verdict, step.reason) == (None, None, None, None)
    assert found.explanation.confirmed == [] and step.share == 0.75
    assert found.latent_gap_stages == [] and found.class_shares is None and found.traits[0].psi is None


def test_an_experiment_carries_its_hypothesis_and_its_fit(document, experiments):
    rows = {row.id: row for row in document.experiments}
    row = rows["channel_statistics"]
    assert (row.verdict, row.direction, row.family) == ("confirmed", "normalise", "colour")
    assert (row.gap_closed, row.ci95, row.residual_before, row.residual_after) == (0.6, (0.4, 0.8), 0.8, 0.3)
    assert row.title == experiments["channel_statistics"].hypothesis.title
    assert (rows["exposure"].verdict, rows["exposure"].reason) == ("skipped", "no trait differs")
    assert rows["exposure"].gap_closed is None


def test_where_only_an_imitation_ran_the_interval_is_that_of_gap_induced(document):
    row = next(row for row in document.experiments if row.id == "sharpness")
    assert (row.gap_induced, row.gap_closed) == (0.3, None)
    assert row.ci95 == row.induced_ci95 == (0.1, 0.5)
    assert (row.imitated_delta, row.difference) == (0.15, None)
    assert row.p_value == row.induced_p_value == 0.002
    assert row.direction == "imitate"


def test_without_labels_there_is_a_reason_and_no_figure(config, experiments):
    sides = sides_of(labelled=False)
    found = assemble(config, "away", sides, gap_of(sides), stored_of(experiments, []), experiments, [])
    assert found.performance_gap == PerformanceGap(reason="the target has no labels")
    assert found.skipped == ["the target has no labels"]
    assert found.headline.startswith("No loss can be compared (the target has no labels); to the model, away looks")
    text = found.model_dump_json()
    assert ReportDocument.model_validate_json(text).model_dump_json() == text
    assert found.counts["target_labelled"] == 0


def test_what_rests_on_estimated_losses_is_marked_and_nothing_else_is(config, experiments, document):
    calibration = Calibration(step=6, scale=1.1, power=1.2, missed=(-0.05, 0.1), spread=0.01)
    sides = replace(sides_of(labelled=False), calibration=calibration)
    stored = stored_of(experiments, ["channel_statistics"])
    stored["diagnosis"] |= {"disde": None, "suspect_slice": None, "label_errors": {"source": [], "target": []}}
    stored["verdicts"]["experiments"] = [{**row, "estimated": True} for row in stored["verdicts"]["experiments"]]
    clusters = [WorstCluster("low sky", ["t1"], 2.5, [])]
    gap = gap_between(sides, config.statistics)
    found = assemble(config, "away", sides, gap, stored, experiments, clusters)
    told = found.performance_gap
    assert told.estimated and told.reason is None and told.detected
    assert told.target_loss == pytest.approx(sides.target["loss"].mean())
    assert told.source_loss == pytest.approx(sides.holdout["loss"].mean())
    assert told.source_miou is not None and told.target_miou is None and told.per_class == []
    assert told.estimation is not None and 0 < told.estimation.accuracy < told.estimation.source_accuracy
    assert told.estimation.error == pytest.approx(calibration.error)
    marked = [*found.experiments, *found.attribution, *found.traits, *found.slices, *found.worst_clusters,
              *found.explanation.steps, found.recipe, found.unexplained]  # fmt: skip
    assert all(part.estimated for part in marked)
    assert found.headline.startswith("The model is estimated to lose on away: an estimated ")
    assert "estimated 40% of the gap stays unexplained" in found.headline
    assert "need the target's labels" in found.skipped[0]
    assert ReportDocument.model_validate_json(found.model_dump_json()) is not None
    assert '"estimated":true' not in document.model_dump_json()


def test_an_estimated_gap_that_is_none_is_said_to_be_estimated(config, experiments):
    calibration = Calibration(step=6, scale=1.0, power=1.0, missed=(-0.9, 0.9), spread=0.1)
    sides = replace(sides_of(target_sharpness=3.0, labelled=False), calibration=calibration)
    found = assemble(config, "away", sides, gap_between(sides, config.statistics), stored_of(experiments, []),
                     experiments, [])  # fmt: skip
    assert not found.performance_gap.detected
    told = "The estimated gap is not beyond the estimator's own error: the loss is an estimated "
    assert found.headline.startswith(told)


def test_experiments_on_a_gap_that_may_be_nothing_have_no_share_of_it(config, experiments):
    stored = stored_of(experiments, [])
    figures = [
        Figures("channel_statistics", samples=12, units=6, difference=0.3, difference_ci95=(0.2, 0.4), gap_closed=-0.6,
                ci95=(-0.8, -0.4), p_value=0.0001, estimated=True),
        Figures("sharpness", samples=12, units=6, imitated_delta=0.15, imitated_ci95=(0.05, 0.25), gap_induced=0.3,
                induced_ci95=(0.1, 0.5), induced_p_value=0.002, estimated=True),
    ]  # fmt: skip
    rules = VerdictRules(0.05, 0.05, 100, 0)
    stored["verdicts"] |= {
        "experiments": verdict_rows([one.without_shares() for one in figures], 0.5, rules),
        "unexplained": {"value": None, "ci95": None}, "attribution": [], "not_attributed": [],
        "recipe": {"steps": [], "gap_closed": None, "ci95": None, "loss_after": None},
    }  # fmt: skip
    calibration = Calibration(step=6, scale=1.0, power=1.0, missed=(-0.9, 0.9), spread=0.1)
    sides = replace(sides_of(target_sharpness=3.0, labelled=False), calibration=calibration)
    found = assemble(config, "away", sides, gap_between(sides, config.statistics), stored, experiments, [])
    worse, imitated = found.experiments
    assert (worse.verdict, worse.difference, worse.difference_ci95) == ("refuted", 0.3, (0.2, 0.4))
    assert (imitated.verdict, imitated.imitated_delta, imitated.p_value) == ("inconclusive", 0.15, 0.002)
    for row in found.experiments:
        assert (row.gap_closed, row.ci95, row.gap_induced, row.induced_ci95) == (None, None, None, None)
    assert worse.direction == "normalise" and imitated.direction == "imitate"
    assert found.recipe.steps == [] and found.unexplained.value is None
    assert ReportDocument.model_validate_json(found.model_dump_json()) is not None


def test_a_single_group_leaves_the_gap_without_an_interval(config, experiments):
    sides = sides_of()
    one = replace(sides, target_manifest=sides.target_manifest.with_columns(unit=pl.lit("one")))
    found = assemble(config, "away", one, gap_of(one), stored_of(experiments, []), experiments, [])
    assert found.performance_gap.loss_gap > 0 and found.performance_gap.ci95 is None
    assert found.performance_gap.detected is False
    assert "too few independent groups" in found.headline
    assert "None" not in found.headline


# --- the headline ----------------------------------------------------------------------------------------------------

GAP = PerformanceGap(source_loss=0.4, target_loss=0.7, loss_gap=0.3, ci95=(0.2, 0.4), p_value=0.001, detected=True)
APART = {"knn_auroc": MeasurementRow(value=0.81, p_value=0.002)}
NOTHING = Estimate(value=None)


@pytest.mark.parametrize(("causes", "unexplained", "ending"), [
    (["blur"], 0.35, "Confirmed: blur; 35% of the gap stays unexplained."),
    (["blur", "colour"], 0.1, "Confirmed: blur and colour; 10% of the gap stays unexplained."),
    (["colour"], -0.07, "Confirmed: colour; this accounts for the whole gap."),
    (["blur", "colour", "shape"], None, "Confirmed: blur, colour and shape."),
    (["blur", "colour, in Lab", "shape"], None, "Confirmed: blur; colour, in Lab; and shape."),
    ([], 1.0, "No cause that was tried is confirmed."),
])  # fmt: skip
def test_a_gap_is_named_with_its_size_and_causes(causes, unexplained, ending):
    text = headline("home", "away", GAP, APART, causes, Estimate(value=unexplained))
    assert text.startswith("The model loses on away: 0.700 on away against 0.400 on home's holdout")
    assert "(+0.300, 95% interval +0.200 to +0.400)" in text
    assert text.endswith(ending)


NO_GAP = GAP.model_copy(update={"detected": False, "ci95": (-0.1, 0.4)})


@pytest.mark.parametrize(("unexplained", "closed", "ci95", "told"), [
    (0.4, 1.07, (0.8, 1.3), "; 40% of the gap stays unexplained, and the recipe closes 107% of the gap."),
    (0.4, 0.7, (0.5, 0.9), "; 40% of the gap stays unexplained."),
    (0.4, None, None, "; 40% of the gap stays unexplained."),
    (-0.1, 1.4, (1.2, 1.6), "; this accounts for the whole gap."),
])  # fmt: skip
def test_where_the_recipe_closes_more_than_the_causes_cost_both_are_told(unexplained, closed, ci95, told):
    recipe = Recipe(gap_closed=closed, ci95=ci95)
    text = headline("home", "away", GAP, APART, ["blur"], Estimate(value=unexplained), [], recipe)
    assert text.endswith("blur" + told)


def priced(title: str, cost: float) -> ExplanationStep:
    return ExplanationStep(experiment=title, title=title, setting=(1.0,), share=0.5, p_value=0.01, cost=cost,
                           cost_ci95=(cost - 0.01, cost + 0.01), verdict="confirmed")  # fmt: skip


def test_no_gap_is_said_whatever_else_was_found():
    text = headline("home", "away", NO_GAP, APART, ["blur"], Estimate(value=0.5))
    assert text.startswith("No loss gap detected between home and away")
    assert "blur" not in text


def test_without_a_gap_what_causes_cost_on_the_source_is_said():
    told = [headline("home", "away", gap, APART, ["blur"], NOTHING, [priced("blur", 0.04)])
            for gap in (NO_GAP, PerformanceGap(reason="no labels"), GAP.model_copy(update={"ci95": None}))]  # fmt: skip
    assert all(text.endswith(" But blur alone adds +0.040 [+0.030, +0.050] to the loss when done to the source.")
               for text in told)  # fmt: skip
    two = [priced("blur", 0.04), priced("noise", 0.02)]
    text = headline("home", "away", NO_GAP, APART, ["blur", "noise"], NOTHING, two)
    assert text.endswith(" But done to the source, blur adds +0.040 [+0.030, +0.050]; and noise adds +0.020 "
                         "[+0.010, +0.030] to the loss.")  # fmt: skip
    assert "done to the source" not in headline("home", "away", GAP, APART, ["blur"], NOTHING, two)


@pytest.mark.parametrize(("measured", "says"), [
    (APART, "away looks different from home (kNN AUROC 0.81, p = 0.002)."),
    ({"knn_auroc": MeasurementRow(value=0.52, p_value=0.4)},
     "away is not told apart from home (kNN AUROC 0.52, p = 0.400)."),
    ({"knn_auroc": MeasurementRow(value=0.52)}, "away is not told apart from home (kNN AUROC 0.52)."),
    ({"knn_auroc": MeasurementRow(value=None)}, "No loss can be compared: no labels."),
    ({}, "No loss can be compared: no labels."),
])  # fmt: skip
def test_without_labels_the_headline_goes_by_the_latent_gap(measured, says):
    text = headline("home", "away", PerformanceGap(reason="no labels"), measured, [], NOTHING)
    assert text.endswith(says)
