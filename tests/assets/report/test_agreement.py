"""Reports with labels against reports without: figures, words, changes of loss and single pictures."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from assets.report.agreement import agreement, rank_correlation
from assets.report.document import (
    DatasetSummary,
    Estimate,
    EstimatedPerformance,
    ExperimentRow,
    ModelSummary,
    PerformanceGap,
    Recipe,
    ReportDocument,
)
from pipelines.console import print_agreement
from resources.errors import ConfigError

NONE = pl.DataFrame(schema={"sample_id": pl.String, "loss": pl.Float64})


def experiment(name: str, verdict: str, difference: float | None = None, **figures: Any) -> ExperimentRow:
    bounds = None if difference is None else (difference - 0.02, difference + 0.02)
    return ExperimentRow(
        id=name, hypothesis=name, family="colour", title=name, direction="normalise", verdict=verdict, reason="",
        difference=difference, difference_ci95=bounds, **figures,
    )  # fmt: skip


def document(name: str, gap: PerformanceGap, experiments: list[ExperimentRow], model: str = "abc") -> ReportDocument:
    summary = {"reader": "folder", "samples": 4, "labelled": 0, "groups": 2, "quarantined": 0, "parts": {}}
    return ReportDocument(
        headline="", source=DatasetSummary(name="day", **summary), target=DatasetSummary(name=name, **summary),
        model=ModelSummary(architecture="a", encoder="e", fingerprint=model, trained_here=False, classes=["road"],
                           input_size=(8, 8)),
        performance_gap=gap, latent_gap={}, traits=[], hypotheses=[], experiments=experiments, root_causes=[],
        unexplained=Estimate(value=None), recipe=Recipe(), counts={},
    )  # fmt: skip


TRUE = PerformanceGap(source_loss=0.4, target_loss=0.6, loss_gap=0.2, ci95=(0.1, 0.3), target_accuracy=0.79)
GUESSED = PerformanceGap(
    estimated=True, source_loss=0.4, target_loss=0.7, loss_gap=0.3, ci95=(-0.1, 1.0),
    estimation=EstimatedPerformance(accuracy=0.85, accuracy_ci95=(0.8, 0.9), accuracy_by_entropy=0.8,
                                    source_accuracy=0.9, threshold=0.5, temperature=1.0, scale=1.0, power=1.0,
                                    error=0.2),
)  # fmt: skip
WITH_LABELS = [
    experiment("a", "confirmed", -0.1),
    experiment("b", "refuted", 0.2),
    experiment("c", "refuted", 0.01),
    experiment("d", "inconclusive", -0.02),
    experiment("e", "skipped"),
    experiment("f", "inconclusive", imitated_delta=0.1),
    experiment("gone", "refuted", 1.0),
]
BY_ESTIMATE = [
    experiment("c", "confirmed", -0.03),
    experiment("a", "refuted", -0.2),
    experiment("b", "refuted", 0.3),
    experiment("d", "inconclusive", -0.01),
    experiment("e", "inconclusive", 0.5),
    experiment("f", "inconclusive", -0.3),
]


@pytest.fixture
def compared() -> tuple[ReportDocument, ReportDocument]:
    return document("dusk", TRUE, WITH_LABELS), document("dusk_hidden", GUESSED, BY_ESTIMATE)


def test_figures_are_held_against_the_estimates_intervals(compared):
    figures = {pair.name: pair for pair in agreement(*compared, NONE, NONE).figures}
    assert (figures["target loss"].true, figures["target loss"].estimated) == (0.6, 0.7)
    assert figures["target loss"].inside is None, "it has no interval of its own"
    assert figures["loss gap"].inside and figures["loss gap"].true_ci95 == (0.1, 0.3)
    assert figures["accuracy"].inside is False, "0.79 lies below [0.8, 0.9]"


def test_words_are_counted_and_contradictions_named(compared):
    found = agreement(*compared, NONE, NONE)
    assert found.verdicts == {
        ("confirmed", "refuted"): 1, ("refuted", "refuted"): 1, ("refuted", "confirmed"): 1,
        ("inconclusive", "inconclusive"): 2, ("skipped", "inconclusive"): 1,
    }  # fmt: skip
    assert found.same_word == 3
    assert found.contradicted == ["a", "c"]


def test_changes_are_those_of_experiments_that_both_ran(compared):
    found = agreement(*compared, NONE, NONE)
    assert [(c.experiment, c.true, c.estimated) for c in found.changes] == [
        ("a", -0.1, -0.2), ("b", 0.2, 0.3), ("c", 0.01, -0.03), ("d", -0.02, -0.01),
    ]  # fmt: skip
    assert found.same_sign == 3
    # ranks 1 4 3 2 against 1 4 2 3: one less six times two over four times fifteen
    assert found.change_rank == pytest.approx(1 - 6 * 2 / 60)


def test_single_pictures_are_ranked_where_both_have_a_loss(compared):
    true = pl.DataFrame({"sample_id": list("pqrst"), "loss": [0.1, 0.2, 0.3, 0.4, float("nan")]})
    guessed = pl.DataFrame({"sample_id": list("tsrqpx"), "loss": [9.0, 1.0, 2.0, 3.0, 4.0, 0.0]})
    found = agreement(*compared, true, guessed)
    assert found.pictures == 4 and found.picture_rank == pytest.approx(-1)
    assert agreement(*compared, true, NONE).picture_rank is None


def test_too_few_or_equal_numbers_have_no_rank_correlation():
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 2, 3], [5, 5, 5]) is None
    assert rank_correlation([1, 2, 3], [1, 4, 9]) == pytest.approx(1)


def test_it_says_which_report_is_the_wrong_one(compared):
    true, guessed = compared
    with pytest.raises(ConfigError, match="dusk_hidden: its loss is not measured"):
        agreement(guessed, guessed, NONE, NONE)
    with pytest.raises(ConfigError, match="dusk: its loss is not estimated"):
        agreement(true, true, NONE, NONE)
    with pytest.raises(ConfigError, match="different models"):
        agreement(true, document("dusk_hidden", GUESSED, [], model="other"), NONE, NONE)


def test_it_can_be_printed_and_stored(compared, capsys):
    found = agreement(*compared, NONE, NONE)
    stored = json.loads(json.dumps(found.as_values()))
    assert stored["same_word"] == 3 and stored["figures"][1]["inside"] is True
    assert {"true": "skipped", "estimated": "inconclusive", "experiments": 1} in stored["verdicts"]
    print_agreement(found)
    said = capsys.readouterr().out
    assert "contradicted: a, c" in said and "one sign: 3 of 4; rank correlation 0.80" in said
    assert "−0.100" in said and "over 0" in said
