"""Experiments on a target whose labels are hidden: judged by estimated loss, which never falls for itself alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from assets.diagnosis.estimated import fit_calibration
from assets.diagnosis.gather import gap_between
from assets.experiments.calibrate import IMITATED, measure_imitated, shifted_sets
from assets.experiments.campaign import Campaign, judge_all, run_experiments
from assets.experiments.explanation import probed_ids
from assets.experiments.recipe import picture_losses
from assets.experiments.registry import built_in
from assets.experiments.trial import Predictor
from assets.experiments.verdict import Rules
from assets.scoring.neighbours import reference_latents
from assets.traits.table import catalogue
from resources.engine import in_process

RULES = Rules(0.05, 0.05, 200, 0)
CAST = np.array([0.85, 1.0, 1.12])


@pytest.fixture(scope="module")
def world(lay_out, colour_model):
    """A target with a cast of colour, its labels known."""
    return lay_out(colour_model, change=lambda picture: picture * CAST)


@pytest.fixture(scope="module")
def imitated(world):
    """The table of imitations, and what was measured."""
    table = world.store.table("source", "imitated", id_column="row_id")
    manifest = world.tables["source"]["manifest"]
    loaded: list[str] = []

    def batches(paths):
        loaded.extend(path.sample_id for path in paths)
        return world.campaign.engine.batches("source", paths)

    rows = measure_imitated(world.campaign.model, manifest, in_process(batches), table, code="1")
    again = measure_imitated(world.campaign.model, manifest, in_process(batches), table, code="1")
    assert again.equals(rows)
    return rows, loaded


@pytest.fixture(scope="module")
def campaign(world, imitated) -> Campaign:
    """The target's campaign with its labels hidden."""
    sides = world.campaign.sides
    sets = shifted_sets(imitated[0])
    assert sets is not None
    evaluation = sides.target_evaluation.with_columns(loss=pl.lit(None, pl.Float64), labelled=pl.lit(False))
    hidden = sides.target_manifest.with_columns(
        labelled=pl.lit(False), mask=pl.lit(None, pl.String), mask_hash=pl.lit("")
    )
    blind = replace(sides, target_manifest=hidden, target_evaluation=evaluation,
                    calibration=fit_calibration(sides.holdout, *sets))  # fmt: skip
    return replace(world.campaign, sides=blind)


def test_every_imitation_is_measured_once_on_few_labelled_pictures(world, imitated):
    rows, loaded = imitated
    probed = probed_ids(world.tables["source"]["manifest"])
    assert loaded == sorted(probed), "every picture is decoded once, and never again"
    settings = 1 + sum(map(len, IMITATED.values()))
    assert rows.height == settings * len(probed)
    evaluated = dict(world.tables["source"]["evaluation"].select("sample_id", "loss").iter_rows())
    plain = rows.filter(imitation="untouched")
    for name, loss in plain.select("sample_id", "loss").iter_rows():
        assert loss == pytest.approx(evaluated[name], rel=1e-4)


def test_without_labelled_pictures_nothing_is_calibrated(imitated):
    assert shifted_sets(imitated[0].clear()) is None


def test_losses_are_estimated_where_no_label_is_and_only_there(world, campaign):
    sides = campaign.sides
    assert world.campaign.sides.estimated_by is None and sides.estimated_by is not None
    seen = replace(world.campaign.sides, calibration=sides.calibration)
    assert seen.estimated_by is None and seen.target.equals(world.campaign.sides.target), "labels come first"
    assert sides.without_gap is None and sides.labelled_target.is_empty()
    assert sides.target.height == sides.target_manifest.height and sides.target["loss"].is_finite().all()
    gap = gap_between(sides, world.config.statistics)
    true = gap_between(world.campaign.sides, world.config.statistics)
    assert gap is not None and true is not None and true.detected
    assert gap.ci95[0] < true.value < gap.ci95[1]


def test_a_normalisation_is_judged_by_estimated_loss(world, campaign):
    experiments = {e.id: e for e in built_in(world.config.class_names, catalogue(world.config).traits)}
    chosen = [experiments["channel_statistics"], experiments["channel_statistics_per_image"]]
    tables = {e.id: world.store.table("blind", "experiments", e.id, id_column="row_id") for e in chosen}
    run_experiments(campaign, chosen, tables, "blind")
    rows = {name: table.read() for name, table in tables.items()}
    normalised = rows["channel_statistics"].filter(role="normalised")
    assert normalised.height == campaign.samples("target", report=True).height > 0
    before = campaign.sides.target.filter(pl.col("sample_id").is_in(normalised["sample_id"].to_list()))
    assert normalised["loss"].mean() < before["loss"].mean(), "a cast that is taken away leaves the model surer"

    latents = world.tables["source"]["embeddings"], campaign.sides.source_manifest
    reference = reference_latents(*latents, 3, world.store.local_copy("index"))
    scores = pl.DataFrame({"sample_id": before["sample_id"], "gap_score": np.zeros(before.height)})
    judged, gap = judge_all(campaign, rows, scores, reference, 3, RULES)
    by_id = {row["experiment"]: row for row in judged}
    assert all(row["estimated"] for row in judged) and len(set(gap.factors)) > 1
    assert "of the estimated gap" in by_id["channel_statistics"]["reason"]
    alone = by_id["channel_statistics_per_image"]
    assert alone["verdict"] != "confirmed" and alone["induced_ci95"] is None
    count = {name: campaign_rows.height for name, campaign_rows in rows.items()}
    run_experiments(campaign, chosen, tables, "blind")
    assert {name: table.read().height for name, table in tables.items()} == count


def test_what_changes_nothing_leaves_the_estimate_as_it_was(world, campaign):
    """Before comes from the evaluation, after from a trial: both must read the same pixels alike."""
    calibration = campaign.sides.estimated_by
    before = dict(campaign.sides.target.select("sample_id", "loss").iter_rows())
    for batch in campaign.load("target", sorted(before)[:4]):
        for name, loss, pixels in picture_losses(Predictor(campaign.model), batch.pictures, calibration):
            assert loss.sum() / pixels.sum() == pytest.approx(before[name], rel=1e-4)
    with pytest.raises(ValueError, match="no calibration to estimate its loss by"):
        list(picture_losses(Predictor(campaign.model), batch.pictures))
