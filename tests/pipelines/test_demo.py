"""The demo from start to end: what was planted in each target is what its report says; the truth is here alone."""

from __future__ import annotations

import pytest

from assets.report.document import ReportDocument
from pipelines.definitions import build_defs
from pipelines.home import open_instance
from pipelines.rerun import Rerun
from resources.config import DEMO_CONFIG, load_config
from resources.sample_store import SampleStore

pytestmark = pytest.mark.slow

CAMERA = {"colour", "exposure", "contrast", "saturation", "sharpness", "noise", "compression", "haze", "vignette"}
PLACE = {"content", "geometry"}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ReportDocument]:
    config = load_config(DEMO_CONFIG, store=str(tmp_path_factory.mktemp("demo")))
    store = SampleStore(config.store)
    outcome = Rerun(build_defs(config), open_instance(store)).run()
    assert not outcome.failed and not outcome.blocked and not outcome.failed_checks
    return {
        target.name: ReportDocument.model_validate(store.read_json("reports", target.name, "report.json"))
        for target in config.targets
    }


def confirmed(report: ReportDocument) -> set[str]:
    return {row.family for row in report.experiments if row.verdict == "confirmed"}


def caused(report: ReportDocument) -> set[str]:
    """Families of the root causes."""
    return {row.family for row in report.experiments if row.id in report.root_causes}


def test_other_camera_is_colour_or_exposure_and_no_content(reports):
    report = reports["other_camera"]
    assert report.performance_gap.detected
    assert caused(report) & {"colour", "exposure"}
    assert not (caused(report) | confirmed(report)) & PLACE
    assert report.recipe.steps and report.recipe.gap_closed > 0.3


def test_countryside_is_content_and_no_camera(reports):
    report = reports["countryside"]
    assert report.performance_gap.detected
    assert "content" in caused(report)
    assert not (caused(report) | confirmed(report)) & CAMERA


def test_same_city_is_no_gap_and_nothing_is_confirmed(reports):
    report = reports["same_city"]
    assert not report.performance_gap.detected
    assert not confirmed(report) and not report.root_causes


def test_root_causes_are_priced_or_rules_on_labels_and_others_are_remedies(reports):
    for report in reports.values():
        proven = {row.id: row.family for row in report.experiments if row.verdict == "confirmed"}
        if report.explanation is not None and report.explanation.steps:
            priced = {step.experiment for step in report.explanation.confirmed}
            rules = {name for name, family in proven.items() if family == "label_policy"}
            assert set(report.root_causes) == priced | rules
        else:
            assert set(report.root_causes) == set(proven)


def test_every_explained_cause_has_a_price_and_a_share_where_there_is_a_gap(reports):
    for report in reports.values():
        for step in report.explanation.steps if report.explanation is not None else []:
            assert step.cost_ci95[0] <= step.cost <= step.cost_ci95[1] and step.verdict and step.reason
            assert (step.gap_share is not None) == report.performance_gap.detected
