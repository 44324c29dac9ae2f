"""The gap of class shares: its value, its null under dependence, its floor and interval, and how it gives up."""

import math

import numpy as np
import polars as pl
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from assets.inference.losses import EVALUATION_SCHEMA
from assets.ingestion.manifest import MANIFEST_SCHEMA
from assets.scoring.class_shares import ClassCounts, class_share_gap, labelled_pixels, predicted_shares
from assets.scoring.latent_gap import Measurement, exceeds_floor
from assets.statistics.effect_sizes import jensen_shannon

PARAMETERS = {"permutations": 99, "bootstrap": 200, "floor_draws": 40, "seed": 0}
BASE, OTHER = np.array([0.4, 0.25, 0.2, 0.1, 0.05]), np.array([0.25, 0.25, 0.2, 0.1, 0.2])


def counts(units: int, size: int, rng: np.random.Generator, shares: np.ndarray = BASE) -> ClassCounts:
    """Drives with a mix of classes of their own, and pictures that vary around it."""
    mixes = np.repeat(rng.dirichlet(10 * shares, units), size, axis=0)
    rows = np.array([rng.multinomial(400, rng.dirichlet(60 * mix + 1e-3)) for mix in mixes])
    return ClassCounts(rows.astype(float), [f"u{unit}" for unit in range(units) for _ in range(size)])


def measure(holdout: ClassCounts, target: ClassCounts, **changes: int) -> Measurement:
    return class_share_gap(holdout, target, **{**PARAMETERS, **changes})


def test_the_value_is_the_divergence_of_summed_counts():
    rng = np.random.default_rng(0)
    holdout, target = counts(8, 5, rng), counts(9, 4, rng, OTHER)
    expected = jensenshannon(holdout.counts.sum(0), target.counts.sum(0), base=2) ** 2
    assert measure(holdout, target).value == pytest.approx(expected)


def test_another_mix_of_classes_is_found():
    rng = np.random.default_rng(1)
    found = measure(counts(15, 6, rng), counts(15, 6, rng, OTHER[::-1]))
    assert exceeds_floor("jensen_shannon", found)
    assert found.p_value == 0.01
    assert found.ci95[0] > found.noise_floor / 4 and found.ci95[0] <= found.value <= found.ci95[1]


@pytest.mark.parametrize(("holdout_units", "target_units"), [((12, 6), (12, 6)), ((20, 12), (10, 3))])
def test_the_same_mix_is_no_gap_however_large_the_drives(holdout_units, target_units):
    rng = np.random.default_rng(2)
    p_values, beyond = [], 0
    for seed in range(200):
        found = measure(counts(*holdout_units, rng), counts(*target_units, rng), bootstrap=9, seed=seed)
        p_values.append(found.p_value)
        beyond += exceeds_floor("jensen_shannon", found)
    assert np.sum(np.asarray(p_values) <= 0.05) <= stats.binom.ppf(0.9995, 200, 0.05)
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
    assert beyond <= stats.binom.ppf(0.9995, 200, 0.05)


def test_intervals_cover_the_worlds_divergence():
    rng = np.random.default_rng(3)
    found = [measure(counts(25, 4, rng), counts(25, 4, rng, OTHER), seed=seed).ci95 for seed in range(60)]
    covered = sum(low <= jensen_shannon(BASE, OTHER) <= high for low, high in found)
    assert covered >= stats.binom.ppf(0.001, 60, 0.92)  # the divergence is biased upwards for few drives
    assert min(low for low, _ in found) >= 0


def test_the_seed_decides_everything():
    rng = np.random.default_rng(4)
    sides = counts(8, 5, rng), counts(8, 5, rng)
    assert measure(*sides) == measure(*sides)
    assert measure(*sides) != measure(*sides, seed=1)


def test_too_little_is_a_value_without_a_verdict():
    rng = np.random.default_rng(5)
    one_drive = measure(counts(8, 5, rng), counts(1, 20, rng))
    assert one_drive.value > 0 and one_drive.ci95 is one_drive.p_value is one_drive.noise_floor is None
    nothing = measure(counts(8, 5, rng), ClassCounts(np.empty((0, 0)), []))
    assert math.isnan(nothing.value) and nothing.p_value is None


def test_counts_come_from_the_tables():
    rows = [
        {"sample_id": "a", "labelled": True, "pixels": 10, "class_pixels": [6, 4], "predicted_pixels": [9, 3]},
        {"sample_id": "b", "labelled": True, "pixels": 0, "class_pixels": [0, 0], "predicted_pixels": [1, 1]},
        {"sample_id": "c", "labelled": False, "pixels": 0, "class_pixels": [0, 0], "predicted_pixels": [0, 40]},
        {"sample_id": "d", "labelled": True, "pixels": 7, "class_pixels": [7, 0], "predicted_pixels": [7, 0]},
    ]
    evaluation = pl.DataFrame(rows, schema=EVALUATION_SCHEMA)
    parts = [("c", "target"), ("a", "target"), ("b", "target"), ("d", "unused")]
    manifest = pl.DataFrame(
        [{"sample_id": name, "part": part, "unit": f"u{name}"} for name, part in parts], schema=MANIFEST_SCHEMA
    )
    labels, predictions = (read(evaluation, manifest, "target") for read in (labelled_pixels, predicted_shares))
    assert (labels.counts.tolist(), labels.units) == ([[6, 4]], ["ua"])
    assert predictions.counts.tolist() == [[0.75, 0.25], [0.5, 0.5], [0, 1]]  # each picture counts alike
    assert predictions.units == ["ua", "ub", "uc"]
    assert labelled_pixels(evaluation, manifest, "holdout").units == []
    assert predicted_shares(evaluation, manifest, "holdout").units == []
