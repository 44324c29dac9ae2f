"""Trials end to end on small data on disk: rows of all roles, resumed, never computed twice, exact to the pixel."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import polars as pl
import pytest
import torch

from assets.diagnosis.hypotheses import Hypothesis
from assets.experiments.campaign import run_experiments
from assets.experiments.geometry import AspectCrop, AspectWindows, Letterbox
from assets.experiments.imitate import Blur
from assets.experiments.model_side import BatchNormReestimation
from assets.experiments.normalise import ChannelStatistics, Exposure, HistogramMatching, Sharpness
from assets.experiments.operators import NotApplicable
from assets.experiments.registry import Experiment
from assets.experiments.reweight import ClassShare
from assets.experiments.trial import SIDES, build_predictors, fit_experiment, loss_sums, predict, run_trials
from resources.datasets.base import IGNORE
from resources.engine import Engine
from resources.pictures import Batch

PLACES = count()
ROLES = ["normalised", "sham", "control", "imitated"]


def experiment(operator, imitation=None, name: str = "mine", traits=("mean_red", "sharpness")) -> Experiment:
    return Experiment(Hypothesis(name, "colour", "title", "statement", traits), operator, imitation)


COLOURS = experiment(ChannelStatistics(), ChannelStatistics(), "colours")
BLUR = experiment(Sharpness(), Blur(), "blur")
SHARE = experiment(ClassShare(2), None, "share")
NORMS = experiment(BatchNormReestimation(), None, "norms")
ASPECT = experiment(AspectWindows(), AspectCrop(), "aspect")


@pytest.fixture(scope="module")
def dusk(lay_out, network_model):
    """A darker target of another shape, seen by the untrained network."""
    return lay_out(network_model, change=lambda picture: picture**1.3 * [0.7, 0.6, 0.5], target_size=(40, 100))


@pytest.fixture(scope="module")
def wide(lay_out, colour_model):
    """A target of another shape and the source's colours, seen by a model that is exact per pixel."""
    return lay_out(colour_model, target_size=(40, 120))


@pytest.fixture
def tables(dusk):
    """Empty tables for some experiments, new for every test."""
    place = f"test{next(PLACES)}"

    def make(*experiments: Experiment):
        return {each.id: dusk.store.table(place, each.id, id_column="row_id") for each in experiments}

    return make


def run(world, experiments, found):
    return run_experiments(world.campaign, experiments, found, "test")


def samples(world, role: str) -> list[str]:
    return world.campaign.samples(SIDES[role], report=True)["sample_id"].to_list()


def pictures_of(world, side: str, ids: list[str]) -> list:
    return [picture for batch in world.campaign.load(side, ids) for picture in batch.pictures]


def naive_loss(model, batch: torch.Tensor, mask: np.ndarray) -> float:
    logits = torch.nn.functional.interpolate(model(batch).logits, mask.shape, mode="bilinear", align_corners=False)
    labels = torch.from_numpy(mask.astype(np.int64))[None]
    return float(torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE))


def test_every_role_gets_a_row_a_sample_and_a_second_run_computes_nothing(dusk, tables):
    kinds = [COLOURS, BLUR, SHARE, NORMS]
    found = tables(*kinds)
    first = run(dusk, kinds, found)
    for each in kinds:
        rows, (fitted, counts) = found[each.id].read(), first[each.id]
        roles = set(fitted.parameters)
        assert {"normalised", "sham"} <= roles
        expected = {f"{role}:{name}" for role in roles for name in samples(dusk, role)}
        assert set(rows["row_id"]) == expected and rows.height == len(expected)
        assert rows["loss"].is_finite().all()
        assert counts["new"] == len(expected)
        assert counts["forwards"] == (0 if each is SHARE else len(expected))
    assert set(first["colours"][0].parameters) == set(ROLES)
    assert set(first["norms"][0].parameters) == set(ROLES[:3])
    second = run(dusk, kinds, found)
    for each in kinds:
        assert (second[each.id][1]["forwards"], second[each.id][1]["new"], second[each.id][1]["changed"]) == (0, 0, 0)
        assert second[each.id][1]["kept"] == found[each.id].read().height


@pytest.mark.parametrize("role", ["normalised", "control", "imitated"])
def test_losses_are_those_of_a_naive_recomputation(dusk, tables, role):
    found = tables(COLOURS)
    fitted, _ = run(dusk, [COLOURS], found)["colours"]
    rows = {row["sample_id"]: row for row in found["colours"].read().filter(role=role).iter_rows(named=True)}
    parameters = fitted.parameters[role]
    for picture in pictures_of(dusk, SIDES[role], samples(dusk, role)[:4]):
        gain, offset = (torch.tensor(parameters[key])[:, None, None] for key in ("gain", "offset"))
        changed = (picture.reduced * gain + offset).clamp(0, 1)[None]
        row = rows[picture.sample_id]
        assert row["loss"] == pytest.approx(naive_loss(dusk.campaign.model, changed, picture.mask), rel=1e-4)
        assert row["class_pixels"] == np.bincount(picture.mask.ravel(), minlength=4)[:4].tolist()
        assert row["loss"] == pytest.approx(sum(row["loss_sum"]) / sum(row["class_pixels"]))
        latent = dusk.campaign.model(changed).latent.mean((0, 2, 3))
        assert row["latent"] == pytest.approx(latent.tolist(), rel=1e-3, abs=1e-4)


def test_fits_see_the_fit_half_alone(dusk):
    sets = dusk.campaign.fit_sets()
    members = {
        "target_fit": set(dusk.campaign.samples("target", report=False)["sample_id"]),
        "holdout_fit": set(dusk.campaign.samples("holdout", report=False)["sample_id"]),
        "holdout_report": set(samples(dusk, "control")),
    }
    for name, ids in members.items():
        assert set(getattr(sets, name).traits["sample_id"]) == ids
    assert not members["target_fit"] & set(samples(dusk, "normalised"))
    fitted = fit_experiment(COLOURS, sets)
    assert fitted.parameters["normalised"] == ChannelStatistics().fit(sets.reference, sets.target_fit)
    assert fitted.parameters["control"] == ChannelStatistics().fit(sets.holdout_fit, sets.holdout_report)
    assert fitted.parameters["imitated"] == ChannelStatistics().fit(sets.target_fit, sets.holdout_fit)


def test_a_run_that_was_stopped_resumes_at_its_last_batch(dusk, tables):
    found = tables(COLOURS)
    loads = []

    def stopping(side, ids, computation, notes):
        for i, done in enumerate(dusk.campaign.run(side, ids, computation, notes)):
            if i == 1:
                raise KeyboardInterrupt
            yield done

    def counting(side, ids, computation, notes):
        loads.extend(ids)
        return dusk.campaign.run(side, ids, computation, notes)

    from assets.experiments.trial import Trial, wanted_rows

    def trials():
        fitted = fit_experiment(COLOURS, dusk.campaign.fit_sets())
        sides = {side: dusk.campaign.samples(side, report=True) for side in ("target", "holdout")}
        wanted = wanted_rows(fitted, sides, dict.fromkeys(sides, "model"), "code", list(fitted.parameters))
        change = found["colours"].diff(wanted)
        made = build_predictors(fitted, dusk.campaign.model, dusk.campaign.fit_sets())
        return [
            Trial(fitted, role, one, found["colours"], dict(wanted.iter_rows()), change) for role, one in made.items()
        ]

    with pytest.raises(KeyboardInterrupt):
        run_trials(trials(), stopping, what="test")
    stored = found["colours"].read()
    batch_size = dusk.config.compute.batch_size
    assert stored.height == 2 * batch_size, "the first batch, normalised and sham"
    forwards = run_trials(trials(), counting, what="test")
    total = sum(len(samples(dusk, role)) for role in ROLES)
    assert forwards == total - stored.height
    assert not set(stored["sample_id"]) & set(loads[: len(samples(dusk, "normalised")) - batch_size])
    assert found["colours"].read().height == total
    assert run_trials(trials(), counting, what="test") == 0


def test_all_stale_experiments_share_one_decode_of_each_side(dusk, tables):
    loads = []
    campaign = replace(dusk.campaign)
    original = campaign.engine.batches

    class Counting(Engine):
        config = campaign.engine.config

        def batches(self, key, paths, **settings):
            loads.append((key, [path.sample_id for path in paths]))
            return original(key, paths, **settings)

    campaign = replace(campaign, engine=Counting())
    run_experiments(
        campaign,
        [COLOURS, experiment(Exposure(), None, "light")],
        tables(COLOURS, experiment(None, None, "light")),
        "t",
    )
    fits, *passes = loads
    assert fits[0] == "source" and not set(fits[1]) & set(samples(dusk, "control")), "the residual of an imitation"
    assert passes == [("away", samples(dusk, "normalised")), ("source", samples(dusk, "control"))]


class Dim:
    """A map with a setting: another setting fits other parameters."""

    def __init__(self, gain: float) -> None:
        self.gain = gain

    def fit(self, _destination, _origin):
        return {"gain": self.gain}

    def apply(self, batch, parameters):
        return batch * parameters["gain"]


def test_changed_parameters_recompute_all_roles_that_rest_on_them(dusk, tables, monkeypatch):
    found = tables(experiment(Dim(0.9)))
    # the code version stays, so that parameters alone decide
    monkeypatch.setattr(Experiment, "code", lambda _: "code")
    run(dusk, [experiment(Dim(0.9))], found)
    before = found["mine"].read()
    _, counts = run(dusk, [experiment(Dim(0.5))], found)["mine"]
    assert counts["changed"] == before.height == counts["forwards"]
    after = found["mine"].read().join(before, on="row_id", suffix="_before")
    by_role = after.group_by("role").agg((pl.col("loss") - pl.col("loss_before")).abs().min().alias("change"))
    assert set(by_role["role"]) == {"normalised", "sham", "control"}
    assert by_role["change"].min() > 0, "the sham follows the normalisation that it stands beside"


def test_other_pictures_in_the_fit_half_adapt_the_model_anew(dusk, tables, monkeypatch):
    found = tables(NORMS)
    run(dusk, [NORMS], found)
    traits = dusk.campaign.target_traits
    histogram = pl.Series([values[::-1] for values in traits["channel_histogram"].to_list()], dtype=pl.List(pl.Int32))
    moved = replace(dusk.campaign, target_traits=traits.with_columns(channel_histogram=histogram))
    _, counts = run_experiments(moved, [NORMS], found, "test")["norms"]
    assert counts["changed"] == 2 * len(samples(dusk, "normalised")), "normalised and sham, not the control"


def test_rows_of_samples_that_are_gone_are_removed(dusk, tables):
    found = tables(COLOURS)
    run(dusk, [COLOURS], found)
    gone = samples(dusk, "normalised")[0]
    manifest = dusk.campaign.sides.target_manifest.filter(pl.col("sample_id") != gone)
    fewer = replace(dusk.campaign, sides=replace(dusk.campaign.sides, target_manifest=manifest))
    _, counts = run_experiments(fewer, [COLOURS], found, "test")["colours"]
    assert (counts["removed"], counts["forwards"]) == (2, 0)
    assert gone not in found["colours"].read().filter(pl.col("role").is_in(["normalised", "sham"]))["sample_id"]


@pytest.mark.parametrize("operator", [ChannelStatistics(), HistogramMatching(), Exposure()])
def test_the_sham_changes_pictures_by_as_much_as_the_normalisation(dusk, operator):
    sets = dusk.campaign.fit_sets()
    fitted = fit_experiment(experiment(operator), sets)
    made = build_predictors(fitted, dusk.campaign.model, sets)
    ids = samples(dusk, "normalised")
    batch = torch.stack([picture.reduced for picture in pictures_of(dusk, "target", ids)])
    aimed, sham = made["normalised"].change(batch, ids) - batch, made["sham"].change(batch, ids) - batch
    size = aimed.abs().mean((1, 2, 3))
    assert sham.abs().mean((1, 2, 3)).numpy() == pytest.approx(size.numpy(), rel=0.03)
    # not aimed: its direction has nothing to do with the normalisation's, and each sample has its own
    cosine = torch.nn.functional.cosine_similarity(aimed.flatten(1), sham.flatten(1))
    assert cosine.mean().abs() < 0.5
    assert not torch.allclose(sham[0] / size[0], sham[1] / size[1], atol=0.1)
    again = made["sham"].change(batch[[1, 0]], [ids[1], ids[0]]) - batch[[1, 0]]
    assert torch.allclose(again, sham[[1, 0]], atol=1e-6), "a sample's sham does not depend on its batch"


def test_shams_traits_and_latents_are_kept_where_they_say_something(dusk, tables):
    found = tables(COLOURS)
    run(dusk, [COLOURS], found)
    rows = found["colours"].read()
    fitted = fit_experiment(COLOURS, dusk.campaign.fit_sets())
    lengths = dict(rows.group_by("role").agg(pl.col("traits").list.len().max()).iter_rows())
    assert lengths == {"normalised": 2, "sham": 0, "control": 0, "imitated": 0}
    reference = dusk.campaign.fit_sets().reference.trait("mean_red").mean()
    after = rows.filter(role="normalised")["traits"].list.get(0).mean()
    before = dusk.campaign.target_traits["mean_red"].mean()
    assert abs(after - reference) < 0.2 * abs(before - reference)
    assert fitted.residual_after < fitted.residual_before


# --- windows ---------------------------------------------------------------------------------------------------------


def test_windows_measure_at_the_pictures_own_pixels(wide):
    """The model is exact per pixel and indifferent to shape: whichever windows it sees, the loss is that of colours."""
    found = {name: wide.store.table("x", name, id_column="row_id") for name in ("aspect", "box")}
    box = experiment(Letterbox(), None, "box")
    done = run_experiments(wide.campaign, [ASPECT, box], found, "test")
    assert set(done["aspect"][0].parameters) == {"normalised", "sham", "imitated"}, (
        "two halves of one shape: no control"
    )
    for table in found.values():
        rows = table.read()
        for role in ("normalised", "sham"):
            own = rows.filter(role=role)
            assert own.height == len(samples(wide, "normalised"))
            pixels = own["class_pixels"].list.sum()
            assert (pixels == 40 * 120).all(), "every labelled pixel counts once"
    before = wide.campaign.sides.target.select("sample_id", before="loss")
    joined = found["aspect"].read().filter(role="normalised").join(before, on="sample_id")
    # windows of 60 columns at the input's 96: finer than the whole 120 columns at 96
    assert (joined["loss"] < joined["before"]).mean() > 0.8


def test_windows_losses_are_those_of_a_naive_recomputation(dusk, tables):
    found = tables(ASPECT)
    fitted, _ = run(dusk, [ASPECT], found)["aspect"]
    rows = {row["sample_id"]: row for row in found["aspect"].read().filter(role="normalised").iter_rows(named=True)}
    model, operator = dusk.campaign.model, AspectWindows()
    for picture in pictures_of(dusk, "target", samples(dusk, "normalised")[:2]):
        height, width = picture.mask.shape
        windows = operator.windows(height, width, fitted.parameters["normalised"])
        summed, weight = torch.zeros(4, height, width), torch.zeros(height, width)
        for window in windows:
            rows_, columns = slice(window.top, window.bottom), slice(window.left, window.right)
            crop = torch.from_numpy(picture.image[rows_, columns].copy()).permute(2, 0, 1)[None].float() / 255
            crop = torch.nn.functional.interpolate(crop, model.input_size, mode="bilinear", antialias=True).clamp(0, 1)
            size = (window.bottom - window.top, window.right - window.left)
            logits = torch.nn.functional.interpolate(model(crop).logits, size, mode="bilinear")[0]
            taper = [
                np.clip((np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5) / max(1, 0.25 * n), 0.05, 1) for n in size
            ]
            weights = torch.tensor(np.outer(*taper), dtype=torch.float32)
            summed[:, rows_, columns] += logits.softmax(0) * weights
            weight[rows_, columns] += weights
        probability = (summed / weight).gather(0, torch.from_numpy(picture.mask.astype(np.int64))[None])
        assert rows[picture.sample_id]["loss"] == pytest.approx(float(-probability.log().mean()), rel=1e-3)


def test_a_crop_is_compared_with_the_untouched_picture_on_the_same_pixels(dusk, tables):
    found = tables(ASPECT)
    run(dusk, [ASPECT], found)
    rows = found["aspect"].read()
    plain, imitated = (rows.filter(role=role).sort("sample_id") for role in ("plain", "imitated"))
    assert plain["class_pixels"].to_list() == imitated["class_pixels"].to_list()
    assert (plain["class_pixels"].list.sum() < 56 * 84).all()
    picture = pictures_of(dusk, "holdout", plain["sample_id"].to_list()[:1])[0]
    (window,) = AspectCrop().windows(56, 84, fit_experiment(ASPECT, dusk.campaign.fit_sets()).parameters["imitated"])
    mask = np.full_like(picture.mask, IGNORE)
    inside = slice(window.top, window.bottom), slice(window.left, window.right)
    mask[inside] = picture.mask[inside]
    assert plain["loss"][0] == pytest.approx(naive_loss(dusk.campaign.model, picture.reduced[None], mask), rel=1e-4)


def test_maps_inside_windows_are_those_of_the_cuts(dusk):
    """A predictor with windows and a map gives what the map on every cut gives; a stack is made of these."""
    sets = dusk.campaign.fit_sets()
    windows = build_predictors(fit_experiment(ASPECT, sets), dusk.campaign.model, sets)["normalised"]
    both = replace(windows, change=lambda batch, _ids: batch * 0.5)
    picture = pictures_of(dusk, "target", samples(dusk, "normalised")[:1])[0]
    darker = replace(picture, image=np.round(picture.image * 0.5).astype(np.uint8))
    first = next(predict(both, [picture]))[1]
    second = next(predict(windows, [darker]))[1]
    assert torch.allclose(first, second, atol=0.02)


# --- what can't be tried ---------------------------------------------------------------------------------------------


def test_a_model_without_batch_norm_is_skipped_with_the_reason_and_stops_nothing_else(wide):
    found = {name: wide.store.table("y", name, id_column="row_id") for name in ("norms", "colours")}
    done = run_experiments(wide.campaign, [NORMS, COLOURS], found, "test")
    fitted, counts = done["norms"]
    assert fitted.parameters == {} and "no batch-norm layers" in fitted.reasons["normalised"]
    assert counts == {"new": 0, "changed": 0, "removed": 0, "kept": 0, "forwards": 0}
    assert found["norms"].read().is_empty()
    assert done["colours"][1]["forwards"] > 0


@pytest.mark.parametrize("each", [COLOURS, BLUR, SHARE, NORMS, ASPECT], ids=lambda each: each.id)
def test_without_a_labelled_sample_in_the_fit_half_it_is_skipped_with_the_reason(dusk, tables, each):
    manifest = dusk.campaign.sides.target_manifest
    bare = manifest.with_columns(labelled=pl.col("labelled") & pl.col("report_half"))
    campaign = replace(dusk.campaign, sides=replace(dusk.campaign.sides, target_manifest=bare))
    found = tables(each)
    fitted, counts = run_experiments(campaign, [each], found, "test")[each.id]
    assert not {"normalised", "imitated"} & set(fitted.parameters)
    assert (
        "no labelled sample" in fitted.reasons["normalised"] or "no picture to fit on" in fitted.reasons["normalised"]
    )
    assert counts["forwards"] == 0


def test_unlabelled_and_quarantined_samples_take_no_part(dusk):
    manifest = dusk.campaign.sides.target_manifest
    first, second = samples(dusk, "normalised")[:2]
    marked = manifest.with_columns(
        labelled=pl.col("labelled") & (pl.col("sample_id") != first), quarantined=pl.col("sample_id") == second
    )
    campaign = replace(dusk.campaign, sides=replace(dusk.campaign.sides, target_manifest=marked))
    assert not {first, second} & set(campaign.samples("target", report=True)["sample_id"])


def test_trials_refuse_pictures_without_labels_where_nothing_estimates_their_loss(dusk):
    sets = dusk.campaign.fit_sets()
    made = build_predictors(fit_experiment(COLOURS, sets), dusk.campaign.model, sets)
    picture = replace(pictures_of(dusk, "target", samples(dusk, "normalised")[:1])[0], mask=None)
    _, scores, mask, _ = next(predict(made["normalised"], [picture]))
    assert scores.shape[1:] == mask.shape == picture.reduced.shape[1:] and not mask.any()
    with pytest.raises(ValueError, match="no calibration to estimate its loss by"):
        loss_sums(picture, scores, mask, None)


def test_re_weighted_rows_are_the_mean_of_both_sets_answers_from_the_evaluation_alone(dusk, tables):
    found = tables(SHARE)
    fitted, counts = run(dusk, [SHARE], found)["share"]
    rows = found["share"].read()
    weights = np.ones(4)
    weights[2] = fitted.parameters["normalised"]["odds"]
    evaluation = dusk.campaign.sides.target.filter("report_half").sort("sample_id")
    source = dusk.campaign.sides.holdout.filter(~pl.col("report_half"))
    source_loss, source_pixels = (np.sum(source[name].to_list(), axis=0) for name in ("loss_sum", "class_pixels"))
    source_loss = source_loss / source_pixels
    own = rows.filter(role="normalised").sort("sample_id")
    for row, before in zip(own.iter_rows(named=True), evaluation.iter_rows(named=True), strict=True):
        loss, pixels = np.array(before["loss_sum"]), np.array(before["class_pixels"])
        by_own = (loss * weights).sum() / (pixels * weights).sum()
        shares = pixels * weights / (pixels * weights).sum() - pixels / pixels.sum()
        by_other = before["loss"] + sum(shares * source_loss)
        assert row["loss"] == pytest.approx((by_own + by_other) / 2, abs=1e-5)
        assert row["class_pixels"] == pytest.approx(pixels * weights)
    assert counts["forwards"] == 0


def test_an_operator_that_learns_nothing_is_named(dusk, tables):
    class Never(Dim):
        def fit(self, _destination, _origin):
            raise NotApplicable("nothing to learn here")

    fitted, counts = run(dusk, [experiment(Never(1.0))], tables(experiment(None)))["mine"]
    assert fitted.reasons == {"normalised": "nothing to learn here"}
    assert fitted.summary()["parameters"] == {} and counts["forwards"] == 0


def test_batches_need_no_order(dusk, tables):
    """Rows are those of their samples, whichever way an engine batches them."""
    found = tables(COLOURS)
    run(dusk, [COLOURS], found)
    shuffled = dusk.store.table("shuffled", "colours", id_column="row_id")

    class Shuffled(Engine):
        config = dusk.campaign.engine.config

        def batches(self, key, paths):
            pictures = [p for batch in dusk.campaign.engine.batches(key, paths) for p in batch.pictures][::-1]
            for start in range(0, len(pictures), 3):
                part = pictures[start : start + 3]
                yield Batch(part, torch.stack([picture.reduced for picture in part]))

    run_experiments(replace(dusk.campaign, engine=Shuffled()), [COLOURS], {"colours": shuffled}, "test")
    first, second = found["colours"].read(), shuffled.read()
    assert first["row_id"].to_list() == second["row_id"].to_list()
    assert first["loss"].to_numpy() == pytest.approx(second["loss"].to_numpy(), rel=1e-4)
