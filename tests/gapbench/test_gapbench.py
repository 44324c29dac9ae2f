"""The bench itself: plants do what they say, severities are damage, halves share no operator, figures are right."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from gapbench import plants_report, plants_seen, plants_tune
from gapbench.cases import cases, plants_of
from gapbench.damage import HARMLESS, LEVELS, Curve
from gapbench.plants import IGNORE, same_cause
from gapbench.score import Figure, Rate, figures
from statsmodels.stats.proportion import proportion_confint

NAMES = ("road", "sidewalk", "building", "fence", "pole", "vegetation", "sky", "vehicle")
MODULES = (plants_tune, plants_seen, plants_report)
PLANTS = [plant for module in MODULES for plant in module.plants(NAMES)]
PIXELS = [plant for plant in PLANTS if plant.kind != "label"]


@pytest.fixture(scope="module")
def sample() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.uniform(30, 220, (6, 8, 3)), np.ones((8, 8, 1)))
    image = np.clip(smooth + rng.normal(0, 6, (*smooth.shape[:2], 1)), 0, 255).astype(np.uint8)
    return image, np.repeat(np.arange(6, dtype=np.uint8), 8)[:, None].repeat(64, axis=1)


@pytest.mark.parametrize("plant", PIXELS, ids=lambda plant: plant.name)
def test_strongest_does_at_least_twice_as_much_as_weakest(plant, sample):
    image, mask = sample
    weak, same = plant.apply("a", image, mask, plant.weakest)
    assert weak.shape == image.shape and weak.dtype == np.uint8 and same.dtype == np.uint8
    strong, _ = plant.apply("a", image, mask, plant.strongest)
    little = np.abs(weak.astype(float) - image).mean()
    assert strong.shape != image.shape or np.abs(strong.astype(float) - image).mean() > max(6, 2 * little)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
class TestPlants:
    def test_random_parts_hang_on_the_name_alone(self, plant, sample):
        image, mask = sample
        parameter = plant.at(0.5)
        first, again = (plant.apply("a", image, mask, parameter) for _ in range(2))
        assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])

    def test_picture_and_mask_keep_one_shape(self, plant, sample):
        image, labels = plant.apply("a", *sample, plant.at(0.6))
        assert image.shape[:2] == labels.shape
        assert set(np.unique(labels)) <= {*range(len(NAMES)), IGNORE}


@pytest.mark.parametrize("shape", [(96, 128), (96, 160)], ids=str)
@pytest.mark.parametrize("plant", plants_report.plants(NAMES), ids=lambda plant: plant.name)
class TestReportPlants:
    """At the sizes that the bench has."""

    def test_weakest_shows_nothing_and_severity_grows(self, plant, shape):
        image, mask = street(shape)
        changed = []
        for level in (0.0, 0.1, 0.3, 0.6, 1.0):
            picture, labels = plant.apply("b", image, mask, plant.at(level))
            assert picture.shape == image.shape and labels.shape == mask.shape
            assert picture.dtype == labels.dtype == np.uint8
            moved = (labels != mask).mean() if plant.kind == "label" else np.abs(picture.astype(float) - image).mean()
            changed.append(float(moved))
        assert changed[0] < 2.55 and changed[-1] > changed[0]
        assert all(after >= 0.9 * before for before, after in pairwise(changed))

    def test_the_given_arrays_are_left_alone(self, plant, shape):
        image, mask = street(shape)
        plant.apply("b", image, mask, plant.strongest)
        assert np.array_equal(image, street(shape)[0]) and np.array_equal(mask, street(shape)[1])


def street(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Bands of sky, building and road with a vehicle; colours vary softly."""
    height, width = shape
    mask = np.full(shape, NAMES.index("sky"), np.uint8)
    mask[height // 4 :], mask[height // 2 :] = NAMES.index("building"), NAMES.index("road")
    mask[height // 3 : height // 2, : width // 3] = NAMES.index("vegetation")
    mask[height // 2 : height * 2 // 3, width // 2 : width * 2 // 3] = NAMES.index("vehicle")
    colours = np.random.default_rng(1).uniform(40, 210, (len(NAMES), 3))
    waves = 12 * np.sin(np.arange(width) / 5)[None, :, None] + 12 * np.cos(np.arange(height) / 7)[:, None, None]
    return np.clip(colours[mask] + waves, 0, 255).astype(np.uint8), mask


@pytest.mark.parametrize("half", MODULES, ids=["tune", "seen", "report"])
def test_labels_are_merged_in_the_share_of_pictures_that_is_asked(half):
    for plant in (plant for plant in half.plants(NAMES) if plant.kind == "label" and "_as_" in plant.variant):
        one, other = (NAMES.index(name) for name in plant.variant.split("_as_"))
        mask, image = np.full((4, 4), one, np.uint8), np.zeros((4, 4, 3), np.uint8)
        changed = [plant.apply(str(i), image, mask, 0.3)[1][0, 0] == other for i in range(400)]
        assert np.mean(changed) == pytest.approx(0.3, abs=0.08)


def test_level_is_where_the_loss_has_risen_by_the_damage():
    curve = Curve({level: 2 * (1 + level) for level in LEVELS})
    assert curve.level(0.25) == pytest.approx(0.25)
    assert np.isnan(curve.level(1.5)) and curve.bracket(1.5) is None
    assert curve.bracket(0.25) == (0.18, 0.3)
    assert curve.harmless() == 0.0
    assert Curve({0.0: 1.0, 0.1: 1 + HARMLESS / 2, 0.2: 3.0}).harmless() == 0.1
    falls_first = Curve({0.0: 1.0, 0.02: 0.9, 0.05: 2.0})
    assert falls_first.level(0.25) == pytest.approx(0.02 + 0.25 * 0.03)


def test_halves_share_no_operator_and_names_are_unique():
    found = [case for half in ("tune", "report") for case in cases(half, NAMES)]
    assert len({case.name for case in found}) == len(found)
    used = {half: {plant.change for plant in plants_of(half, NAMES)} for half in ("tune", "report")}
    assert used["tune"] and used["report"] and not used["tune"] & used["report"]
    assert len({plant.name for plant in PLANTS}) == len(PLANTS)  # damage is kept by name, for both halves
    assert all(len(case.plants) < 2 or not same_cause(*case.causes[:2]) for case in found)
    assert all(case.distractor is None or case.distractor.cause not in case.causes for case in found)


def test_every_cause_of_pixels_has_one_operator_in_the_report_half():
    causes = Counter(plant.cause for plant in plants_report.plants(NAMES) if plant.kind != "label")
    assert causes.pop("unknown") == 4
    assert set(causes.values()) == {1}
    assert set(causes) == {plant.cause for plant in PIXELS} - {"unknown"}


def test_seen_operators_leave_the_first_ones_cases_as_they_were():
    first = {plant.name for plant in plants_tune.plants(NAMES)}
    drawn = {case.distractor.name for case in cases("tune", NAMES) if case.distractor is not None}
    assert drawn <= first


def test_every_half_has_the_cases_that_are_asked_for():
    report = cases("report", NAMES)
    kinds = [case.name.split("/")[1] for case in report]
    assert kinds.count("null") == 300
    sizes = [len(case.plants) for case in report if case.name.split("/")[1] == "mixed"]
    assert (sizes.count(2), sizes.count(3)) == (30, 10)
    single = [case for case in report if case.name.split("/")[1] == "single"]
    assert 0.4 < np.mean([case.distractor is not None for case in single]) < 0.6


@pytest.mark.parametrize(("hits", "trials"), [(0, 300), (3, 40), (40, 40), (17, 31)])
def test_bounds_are_clopper_and_pearsons(hits, trials):
    assert Rate(hits, trials).interval == pytest.approx(proportion_confint(hits, trials, method="beta"))


def row(truth: dict[str, float], found: dict[str, float], damage: float = 0.25, **more: object) -> dict[str, object]:
    """A case with a gap of 1.0 and a source loss of 2.0; `found` are root causes with their cost in loss."""
    answer = {
        "gap": 1.0, "relative_gap": 0.5, "detected": True, "named": list(found), "causes": list(found),
        "shares": {name: (cost, cost - 0.1, cost + 0.1) for name, cost in found.items()},
        "costs": {name: cost / 2 for name, cost in found.items()},
    }  # fmt: skip
    base = {"case": f"tune/single/{'+'.join(truth)}/x", "causes": list(truth), "truth": truth, "damage": damage,
            "distractor": None, "answer": answer, "baselines": {"always": ["haze"]}}  # fmt: skip
    return base | more


def by_name(rows: list[dict[str, object]]) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures(rows)}


def test_single_cases_are_held_against_the_truth():
    found = by_name([
        row({"gamma": 0.9}, {"exposure": 0.8, "contrast": 0.1}), row({"gamma": 0.5}, {"contrast": 0.5}),
        row({"blur": 1.0}, {"resolution": 1.0}, damage=0.1), row({"haze": 0.5}, {}, damage=0.05),
        {"case": "tune/single/haze/x", "causes": ["haze"], "damage": 1.0, "answer": None},
    ])  # fmt: skip
    top = found["top-1 cause, single plants, damage ≥ 10%"]
    assert (top.count, top.value) == ("2/3", pytest.approx(2 / 3)) and top.met is False
    assert found["power at damage 10%"].count == "1/1"
    assert found["share of the gap: mean absolute error"].value == pytest.approx((0.1 + 0.5 + 0 + 0.5) / 4)
    assert found["share of the gap: interval coverage"].count == "2/2"
    assert found["baseline always: top-1, damage ≥ 10%"].value == 0


def test_nulls_unknown_causes_and_distractors():
    distracted = {"distractor": "haze", "causes": ["gamma"]}
    harmless, costly = {"gamma": 0.9, "haze": 0.01}, {"gamma": 0.9, "haze": 0.3}
    found = by_name([
        row({}, {}), row({}, {"haze": 0.2}),
        row({"unknown": 1.0}, {"haze": 0.3}), row({"unknown": 1.0}, {"haze": 0.8}), row({"unknown": 1.0}, {}),
        row(harmless, {"exposure": 0.9}, **distracted),
        row(harmless, {"exposure": 0.8, "haze": 0.2}, **distracted),
        row(costly, {"exposure": 0.8, "haze": 0.2}, **distracted),
    ])  # fmt: skip
    assert found["false alarm at the null"].count == "1/2"
    assert found["'unexplained' on unknown causes"].count == "2/3"
    assert found["unknown causes: nothing confirmed at all"].count == "1/3"
    assert found["distractor rejection"].count == "1/2"


def test_mixed_cases_count_sets_and_the_order_of_shares():
    found = by_name([
        row({"gamma": 0.7, "noise": 0.3}, {"exposure": 0.6, "noise": 0.2}),
        row({"gamma": 0.7, "noise": 0.3}, {"noise": 0.6, "haze": 0.1}),
    ])  # fmt: skip
    # hits: 2 and 1, wrong: 0 and 1, missed: 0 and 1
    assert found["mixed: F1 of the confirmed set"].value == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert found["mixed: Kendall τ of shares"].value == pytest.approx(0.0)
    assert found["mixed: every planted cause confirmed, nothing else"].count == "1/2"


def test_severity_is_ranked_within_a_plant():
    rows = [
        row({"gamma": cost}, {"exposure": said}, case=f"tune/single/gamma/a/{cost}")
        for cost, said in ((0.1, 0.2), (0.3, 0.3), (0.5, 0.4), (0.9, 0.8))
    ]
    assert by_name(rows)["severity against damage, Spearman within a plant"].value == pytest.approx(1.0)
    assert math.isnan(by_name(rows[:2])["severity against damage, Spearman within a plant"].value)


def test_content_counts_by_the_damage_that_its_choice_does():
    small = row({"content_sky": 0.02}, {"content_sky": 0.02}, damage=0.0, case="tune/content/sky/0.25")
    large = row({"content_sky": 0.4}, {"content_sky": 0.4}, damage=0.0, case="tune/content/sky/0.40")
    found = by_name([small, large])
    assert found["top-1 cause, single plants, damage ≥ 10%"].count == "1/1"
    assert found["content by selection: top-1"].count == "2/2"
