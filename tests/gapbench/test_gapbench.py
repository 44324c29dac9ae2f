"""The bench itself: plants do what they say, severities are damage, halves share no operator, rates have bounds."""

from __future__ import annotations

import numpy as np
import pytest
from gapbench.cases import cases
from gapbench.damage import LEVELS, Curve
from gapbench.plants import IGNORE, geometric, photometric, same_cause, unknown
from gapbench.score import Rate, table
from statsmodels.stats.proportion import proportion_confint

PLANTS = [*photometric(), *geometric(), *unknown()]


@pytest.fixture(scope="module")
def sample() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.uniform(30, 220, (6, 8, 3)), np.ones((8, 8, 1)))
    image = np.clip(smooth + rng.normal(0, 6, (*smooth.shape[:2], 1)), 0, 255).astype(np.uint8)
    return image, np.repeat(np.arange(6, dtype=np.uint8), 8)[:, None].repeat(64, axis=1)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
class TestPlants:
    def test_strongest_does_at_least_twice_as_much_as_weakest(self, plant, sample):
        image, mask = sample
        weak, same = plant.apply("a", image, mask, plant.weakest)
        assert weak.shape == image.shape and weak.dtype == np.uint8 and same.dtype == np.uint8
        strong, _ = plant.apply("a", image, mask, plant.strongest)
        little = np.abs(weak.astype(float) - image).mean()
        assert strong.shape != image.shape or np.abs(strong.astype(float) - image).mean() > max(6, 2 * little)

    def test_random_parts_hang_on_the_name_alone(self, plant, sample):
        image, mask = sample
        parameter = plant.at(0.5)
        first, again = (plant.apply("a", image, mask, parameter)[0] for _ in range(2))
        assert np.array_equal(first, again)

    def test_picture_and_mask_keep_one_shape(self, plant, sample):
        image, labels = plant.apply("a", *sample, plant.at(0.6))
        assert image.shape[:2] == labels.shape
        assert set(np.unique(labels)) <= {*range(6), IGNORE}


def test_level_is_where_the_loss_has_risen_by_the_damage():
    curve = Curve(tuple(2 * (1 + level) for level in LEVELS))
    assert curve.level(0.25) == pytest.approx(0.25)
    assert np.isnan(curve.level(1.5))
    assert Curve((1.0, 0.9, *[2.0] * 7)).level(0.5) == pytest.approx(0.02 + 0.5 * 0.03, abs=1e-9)


def test_halves_share_no_operator_and_names_are_unique():
    found = cases()
    assert len({case.name for case in found}) == len(found)
    used = {half: {plant.name for case in found if case.half == half for plant in case.plants}
            for half in ("tune", "report")}  # fmt: skip
    assert used["tune"] and used["report"] and not used["tune"] & used["report"]
    assert all(len(case.plants) < 2 or not same_cause(*case.causes) for case in found)


@pytest.mark.parametrize(("hits", "trials"), [(0, 300), (3, 40), (40, 40), (17, 31)])
def test_bounds_are_clopper_and_pearsons(hits, trials):
    assert Rate(hits, trials).interval == pytest.approx(proportion_confint(hits, trials, method="beta"))


def test_answers_are_held_against_the_truth():
    def row(causes, answer, damage=0.25):
        given = {"detected": True, "causes": answer, "explained": answer}
        return {"causes": causes, "damage": damage, "answer": given}

    rates = table([
        row(["gamma"], ["exposure", "contrast"]), row(["gamma"], ["contrast"]), row([], []), row([], ["haze"]),
        row(["blur"], ["resolution"]), row(["unknown"], []), row(["gamma", "noise"], ["noise", "exposure"]),
        {"causes": ["haze"], "damage": 1.0, "answer": None},
    ])  # fmt: skip
    assert rates["top-1 confirmed cause, damage ≥ 10%"] == Rate(2, 3)
    assert rates["false alarm at the null"] == Rate(1, 2)
    assert rates["nothing confirmed on unknown causes"] == Rate(1, 1)
    assert rates["pairs: both explained, nothing else"] == Rate(1, 1)
