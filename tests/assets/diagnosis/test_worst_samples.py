"""The worst samples: which ones, how they fall into clusters, and the traits by which clusters are named."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from assets.diagnosis.worst_samples import FEWEST_WORST, describe, standing_out, worst_clusters
from assets.inference.latents import EMBEDDING_SCHEMA
from assets.traits.registry import Trait

CATALOGUE = {
    name: Trait(name, "picture", "colour", label, "", "")
    for name, label in (("brightness", "brightness"), ("saturation", "saturation"), ("share_sky", "share of sky"))
}
COUNT, WIDTH = 100, 8


def names(count=COUNT):
    return [f"s{i:03d}" for i in range(count)]


def embeddings(latents):
    rows = [
        {"sample_id": name, "fingerprint": "f", "latent": latent.tolist()}
        for name, latent in zip(names(len(latents)), latents, strict=True)
    ]
    return pl.DataFrame(rows, schema=EMBEDDING_SCHEMA)


def losses(values):
    return pl.DataFrame({"sample_id": names(len(values)), "loss": values})


@pytest.fixture(scope="module")
def planted():
    """100 samples; the worst are 12 dark ones (loss about 3) and 8 vivid ones without sky (about 2), far apart."""
    draws = np.random.default_rng(0)
    latents = draws.normal(0, 0.3, (COUNT, WIDTH))
    loss = draws.uniform(0.1, 0.5, COUNT)
    traits = {name: draws.normal(0, 1, COUNT) for name in CATALOGUE}
    dark, vivid = np.arange(10, 22), np.arange(50, 58)
    latents[dark, 0] += 10
    latents[vivid, 1] += 10
    loss[dark], loss[vivid] = draws.uniform(2.8, 3.2, 12), draws.uniform(1.8, 2.2, 8)
    traits["brightness"][dark] -= 6
    traits["saturation"][vivid] += 5
    traits["share_sky"][vivid] -= 3
    frame = pl.DataFrame({"sample_id": names(), **traits})
    shuffled = [table.sample(fraction=1, shuffle=True, seed=i) for i, table in
                enumerate((losses(loss), embeddings(latents), frame))]  # fmt: skip
    return *shuffled, {f"s{i:03d}" for i in dark}, {f"s{i:03d}" for i in vivid}


def test_planted_clusters_are_found_and_named_by_their_traits(planted):
    loss, latents, traits, dark, vivid = planted
    first, second = worst_clusters(loss, latents, traits, CATALOGUE, seed=0)
    assert (set(first.samples), set(second.samples)) == (dark, vivid)
    assert first.name == "low brightness"
    assert second.traits == ["high saturation", "low share of sky"]
    assert second.name == "high saturation and low share of sky"
    by_id = dict(loss.iter_rows())
    for cluster in (first, second):
        assert cluster.mean_loss == pytest.approx(np.mean([by_id[name] for name in cluster.samples]))
        assert cluster.samples == sorted(cluster.samples, key=lambda name: -by_id[name])


def test_the_same_again(planted):
    loss, latents, traits, *_ = planted
    found = [worst_clusters(loss.sort("loss"), latents, traits.sort("sample_id"), CATALOGUE, seed=0) for _ in range(2)]
    assert found[0] == found[1] == worst_clusters(loss, latents, traits, CATALOGUE, seed=0)


def test_worst_samples_that_lie_together_are_one_cluster():
    draws = np.random.default_rng(1)
    traits = pl.DataFrame({"sample_id": names(), **{name: draws.normal(0, 1, COUNT) for name in CATALOGUE}})
    latents = embeddings(draws.normal(0, 1, (COUNT, 60)))
    (only,) = worst_clusters(losses(np.arange(COUNT, dtype=float)), latents, traits, CATALOGUE, seed=0)
    assert only.samples == names()[:-21:-1]
    assert only.name == "nothing in common"
    assert only.traits == []


@pytest.mark.parametrize(("count", "expected"), [(FEWEST_WORST - 1, 0), (FEWEST_WORST, 1)])
def test_few_samples_make_no_clusters(count, expected):
    draws = np.random.default_rng(1)
    traits = pl.DataFrame({"sample_id": names(count), **{name: draws.normal(0, 1, count) for name in CATALOGUE}})
    latents = embeddings(draws.normal(0, 1, (count, 60)))
    found = worst_clusters(losses(draws.random(count)), latents, traits, CATALOGUE, seed=0)
    assert len(found) == expected


@pytest.mark.parametrize("different", [1, 2, 3])
@pytest.mark.filterwarnings("error")
def test_pictures_that_are_repeated_make_no_trouble(different):
    """A camera that stands still gives equal latents."""
    latents = np.eye(WIDTH)[np.arange(30) % different]
    traits = pl.DataFrame({"sample_id": names(30), **{name: np.ones(30) for name in CATALOGUE}})
    found = worst_clusters(losses(np.arange(30.0)), embeddings(latents), traits, CATALOGUE, seed=0)
    assert sum(len(cluster.samples) for cluster in found) == FEWEST_WORST


def test_scores_are_distances_from_the_median_in_robust_deviations():
    values = np.array([1.0, 2, 3, 4, 100])
    traits = pl.DataFrame({"sample_id": names(5), "brightness": values, "saturation": [7.0] * 5, "other": values})
    found = standing_out(traits, CATALOGUE)
    assert found.columns == ["sample_id", "brightness", "saturation"]
    np.testing.assert_allclose(found["brightness"], (values - 3) / 1.4826)
    assert found["saturation"].to_list() == [None] * 5  # without spread


def test_missing_values_do_not_stand_out():
    traits = pl.DataFrame({"sample_id": names(5), "brightness": [1.0, math.nan, 3.0, 4.0, None]})
    found = standing_out(traits, CATALOGUE)["brightness"].to_list()
    assert found[1] is found[4] is None
    assert [found[i] for i in (0, 2, 3)] == pytest.approx([-2 / 1.4826, 0, 1 / 1.4826])


def test_the_strongest_traits_are_put_into_words():
    scores = {"brightness": -0.9, "saturation": 4.0, "share_sky": 0.79}
    assert describe(scores, CATALOGUE) == ["high saturation", "low brightness"]
    assert describe(scores, CATALOGUE, most=1) == ["high saturation"]
    assert describe({"brightness": None, "saturation": 0.1}, CATALOGUE) == []
