"""The latent gap: what it finds, what it does not, how its floors and intervals behave, and how it gives up."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from assets.scoring.latent_gap import FALLS_WITH_GAP, STATISTICS, Measurement, exceeds_floor, l2_normalised, latent_gap
from assets.statistics.distances import kernel_distance, mmd_rbf
from assets.statistics.neighbourhoods import kth_distances

PARAMETERS = {"k": 5, "permutations": 99, "bootstrap": 100, "floor_draws": 20, "seed": 0}


def latents(units: int, size: int, seed: int, shift: float = 0.0, width: int = 24) -> np.ndarray:
    """Positive, correlated and dependent within units, as pooled activations are."""
    generator, basis = np.random.default_rng(seed), np.random.default_rng(99).standard_normal((8, width))
    factors = 0.4 * generator.standard_normal((units, 1, 8)) + generator.standard_normal((units, size, 8))
    factors[..., 0] += shift
    noise = generator.standard_normal((units, size, width))
    return np.maximum(factors @ basis + noise + 1, 0).reshape(-1, width)


def names(units: int, size: int) -> list[str]:
    return [f"u{index}" for index in range(units) for _ in range(size)]


REFERENCE, HOLDOUT, UNITS = latents(20, 10, 1), latents(16, 8, 2), names(16, 8)


def measure(target: np.ndarray, units: list[str], **changes: object) -> dict[str, Measurement]:
    return latent_gap(REFERENCE, HOLDOUT, UNITS, target, units, **{**PARAMETERS, **changes})


@pytest.fixture(scope="module")
def shifted() -> dict[str, Measurement]:
    return measure(latents(14, 8, 3, shift=2.0), names(14, 8))


def test_every_statistic_is_measured(shifted: dict[str, Measurement]):
    assert tuple(shifted) == STATISTICS
    for name, found in shifted.items():
        assert math.isfinite(found.value), name
        assert found.ci95 is not None
        assert found.ci95[0] <= found.value <= found.ci95[1], name
        assert found.noise_floor is not None


def test_a_gap_is_found(shifted: dict[str, Measurement]):
    insensitive = {"precision", "density", "knn_auroc"}  # a shift along the data's own main direction
    assert {name for name, found in shifted.items() if exceeds_floor(name, found)} >= set(STATISTICS) - insensitive
    tested = {name: found.p_value for name, found in shifted.items() if found.p_value is not None}
    assert tested.keys() == set(STATISTICS) - FALLS_WITH_GAP - {"frechet", "sliced_wasserstein"}
    assert max(value for name, value in tested.items() if name != "knn_auroc") <= 0.05


def test_no_gap_is_found_where_there_is_none():
    exceeded, rejected, tests = 0, 0, 0
    for seed in range(8):
        found = measure(latents(14, 8, 100 + seed), names(14, 8), seed=seed)
        exceeded += sum(exceeds_floor(name, one) for name, one in found.items())
        p_values = [one.p_value for one in found.values() if one.p_value is not None]
        rejected, tests = rejected + sum(p <= 0.05 for p in p_values), tests + len(p_values)
    assert exceeded <= 0.15 * 8 * len(STATISTICS)
    assert rejected <= 0.2 * tests


def test_longer_drives_on_one_side_are_no_gap():
    """Set labels are permuted over drives of about one length: else sets of uneven size look unlike permuted ones."""
    p_values = []
    for seed in range(40):
        holdout = latents(16, 12, 300 + seed)
        found = latent_gap(REFERENCE, holdout, names(16, 12), latents(10, 3, 200 + seed), names(10, 3),
                           k=5, permutations=39, bootstrap=1, floor_draws=1, seed=seed)  # fmt: skip
        p_values.append([one.p_value for one in found.values() if one.p_value is not None])
    rejected = (np.asarray(p_values) <= 0.05).sum(axis=0)
    assert (rejected <= stats.binom.ppf(0.999, 40, 0.05)).all(), rejected


def test_a_few_long_drives_among_short_ones_do_not_fail():
    units = ["a", "b", "c", *["d"] * 40, *["e"] * 40]
    found = latent_gap(REFERENCE, latents(1, 83, 5), units, latents(2, 30, 6), names(2, 30), **{**PARAMETERS, "k": 20})
    assert 0 < found["knn_two_sample"].p_value <= 1


def test_values_that_do_not_depend_on_size_use_all_samples(shifted: dict[str, Measurement]):
    own, other = l2_normalised(HOLDOUT), l2_normalised(latents(14, 8, 3, shift=2.0))
    scores = [kth_distances(side, l2_normalised(REFERENCE), 5) for side in (own, other)]
    labels = [0] * len(own) + [1] * len(other)
    assert shifted["knn_auroc"].value == pytest.approx(roc_auc_score(labels, np.concatenate(scores)))
    assert shifted["mmd"].value == pytest.approx(mmd_rbf(own, other))
    scale = math.sqrt(own.shape[1])
    assert shifted["kid"].value == pytest.approx(kernel_distance(own * scale, other * scale))


def test_scores_of_an_index_are_used_as_they_are():
    target = latents(14, 8, 3)
    scores = [kth_distances(l2_normalised(side), l2_normalised(REFERENCE), 5) for side in (HOLDOUT, target)]
    given = measure(target, names(14, 8), holdout_scores=scores[0], target_scores=scores[1])
    assert given == measure(target, names(14, 8))
    assert measure(target, names(14, 8), target_scores=scores[1] + 10)["knn_auroc"].value == 1


def test_the_seed_decides_everything(shifted: dict[str, Measurement]):
    assert measure(latents(14, 8, 3, shift=2.0), names(14, 8)) == shifted


def test_lengths_of_the_vectors_do_not_matter(shifted: dict[str, Measurement]):
    doubled = measure(2 * latents(14, 8, 3, shift=2.0), names(14, 8))
    assert [one.value for one in doubled.values()] == pytest.approx([one.value for one in shifted.values()])


def test_frechet_needs_twenty_samples_a_draw():
    found = measure(latents(4, 8, 3), names(4, 8))
    assert math.isnan(found["frechet"].value)
    assert found["frechet"].noise_floor is None
    assert math.isfinite(found["energy"].value)


@pytest.mark.parametrize(("units", "size"), [(0, 1), (1, 20), (3, 2)])
def test_too_little_is_unknown(units: int, size: int):
    found = measure(latents(units, size, 3), names(units, size))
    assert tuple(found) == STATISTICS
    assert all(math.isnan(one.value) and one.ci95 is one.p_value is one.noise_floor is None for one in found.values())
    assert not any(exceeds_floor(name, one) for name, one in found.items())


def test_the_smallest_sets_and_equal_vectors_do_not_fail():
    assert math.isfinite(measure(latents(2, 4, 3), names(2, 4))["coverage"].value)
    flat = latent_gap(
        np.ones((9, 3)), np.ones((20, 3)), names(5, 4), np.ones((20, 3)), names(5, 4), **PARAMETERS
    )  # fmt: skip
    assert flat["knn_auroc"].value == 0.5
    assert flat["energy"].value == pytest.approx(0, abs=1e-6)
    assert not exceeds_floor("energy", flat["energy"])


def test_a_constant_direction_of_gap():
    assert exceeds_floor("coverage", Measurement(0.1, None, None, 0.5))
    assert not exceeds_floor("coverage", Measurement(0.9, None, None, 0.5))
    assert exceeds_floor("energy", Measurement(0.9, None, None, 0.5))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="units"):
        measure(latents(4, 8, 3), names(4, 7))
    with pytest.raises(ValueError, match="floor_draws"):
        measure(latents(4, 8, 3), names(4, 8), floor_draws=0)
