"""What to label next: uncovered samples alone, within the bounds of theory of the best choice, always the same."""

from __future__ import annotations

import csv
import io
import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.scoring import next_samples as module
from assets.scoring.next_samples import COLUMNS, NEARLY, k_centres, next_list, next_samples


def unit(rows) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def points(seed: int, n: int, d: int = 3) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(n, d)))


def apart(latents: np.ndarray) -> np.ndarray:
    return np.linalg.norm(latents[:, None] - latents[None], axis=2)


def left_by(latents, covered, weights, chosen) -> float:
    """The largest weighted distance that a choice leaves."""
    nearest = np.minimum(covered, apart(latents)[:, list(chosen)].min(1)) if len(chosen) else covered
    return float((weights * nearest).max())


def smallest_left(latents, covered, weights, k) -> float:
    """Brute force over all choices of k."""
    return min(left_by(latents, covered, weights, c) for c in itertools.combinations(range(len(latents)), k))


def one_group(n: int) -> np.ndarray:
    return np.array(["g"] * n)


@pytest.mark.parametrize("seed", range(8))
def test_equal_weights_leave_at_most_twice_the_smallest_radius(seed, monkeypatch):
    monkeypatch.setattr(module, "NEARLY", 1.0)
    latents, n = points(seed, 11), 11
    covered = np.random.default_rng(seed + 100).uniform(0.2, 1.5, n)
    for k in (1, 2, 3, 4):
        found = k_centres(latents, covered, np.ones(n), one_group(n), k)
        best = smallest_left(latents, covered, np.ones(n), k)
        assert found.radius[-1] == pytest.approx(left_by(latents, covered, np.ones(n), found.chosen))
        assert best <= found.radius[-1] <= 2 * best + 1e-12


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 9), k=st.integers(1, 4), groups=st.integers(1, 3))
def test_weights_groups_and_duplicates_keep_the_bound(seed, n, k, groups):
    rng = np.random.default_rng(seed)
    latents = points(seed, n)[rng.integers(0, n, n)]
    covered, weights = rng.uniform(0.3, 1.5, n), rng.uniform(0.5, 2.0, n)
    names = np.array([f"g{i}" for i in rng.integers(0, groups, n)])
    found = k_centres(latents, covered, weights, names, k)
    distinct = len(np.unique(latents, axis=0))
    assert len(found.chosen) == len(set(found.chosen.tolist())) == min(k, distinct)
    assert found.stands_for.sum() == n and (found.stands_for >= 1).all()
    assert (np.diff(found.radius) <= 1e-12).all(), "each step covers more"
    best = smallest_left(latents, covered, weights, min(k, n))
    bound = (1 + weights.max() / weights.min()) / NEARLY
    assert left_by(latents, covered, weights, found.chosen) <= bound * best + 1e-9
    shorter = k_centres(latents, covered, weights, names, max(k - 1, 1))
    assert shorter.chosen.tolist() == found.chosen[: len(shorter.chosen)].tolist(), "the list serves every budget"


def test_the_farthest_from_the_reference_comes_first_and_loss_counts():
    latents = unit([[1, 0], [0, 1], [-1, 0.1]])
    covered = np.array([0.5, 1.0, 0.6])
    assert k_centres(latents, covered, np.ones(3), one_group(3), 1).chosen.tolist() == [1]
    assert k_centres(latents, covered, np.array([1, 0.5, 1.0]), one_group(3), 1).chosen.tolist() == [2]


def test_of_samples_as_good_the_group_chosen_least_comes_first():
    angles = np.radians([0, 90, 180, 270])
    latents, covered = np.stack([np.cos(angles), np.sin(angles)], 1), np.array([1.4, 1.39, 1.38, 1.37])
    same = k_centres(latents, covered, np.ones(4), one_group(4), 4)
    assert same.chosen.tolist() == [0, 1, 2, 3]
    spread = k_centres(latents, covered, np.ones(4), np.array(["a", "a", "b", "b"]), 4)
    assert spread.chosen.tolist() == [0, 2, 1, 3]


def test_ties_go_by_index_and_without_samples_nothing_is_chosen():
    latents, covered = np.eye(3), np.ones(3)
    assert k_centres(latents, covered, np.ones(3), one_group(3), 2).chosen.tolist() == [0, 1]
    nothing = k_centres(np.zeros((0, 3)), np.zeros(0), np.zeros(0), one_group(0), 3)
    assert nothing.chosen.tolist() == [] and nothing.stands_for.tolist() == []


# --- the list --------------------------------------------------------------------------------------------------------


def tables(n: int = 30, uncovered: int = 12, labelled: int | None = None) -> tuple[pl.DataFrame, ...]:
    """A target whose first samples lie off the reference."""
    rng, names = np.random.default_rng(2), [f"t{i:02d}" for i in range(n)]
    latents = points(3, n, 4)
    labelled = n if labelled is None else labelled
    embeddings = pl.DataFrame({
        "sample_id": names, "latent": latents.tolist(), "group": [f"drive{i % 3}" for i in range(n)],
        "image": [f"/d/{name}.png" for name in names],
    }, schema_overrides={"latent": pl.List(pl.Float32)})  # fmt: skip
    scores = pl.DataFrame({
        "sample_id": names, "fingerprint": names, "gap_score": [0.9 if i < uncovered else 0.1 for i in range(n)],
        "conformal_p": [0.02 if i < uncovered else 0.6 for i in range(n)],
        "neighbours": [["r1", "r2"]] * n, "distances": [[0.8, 0.9]] * n,
    })  # fmt: skip
    evaluation = pl.DataFrame({
        "sample_id": names, "loss": [float(v) if i < labelled else None for i, v in enumerate(rng.uniform(0.1, 2, n))],
        "entropy": [0.3] * n,
    }, schema_overrides={"loss": pl.Float64})  # fmt: skip
    return embeddings, scores, evaluation


def test_only_uncovered_samples_are_listed_with_what_they_stand_for():
    found = next_samples(*tables(), holdout=99, most=5)
    assert (found["samples"], found["uncovered"], len(found["chosen"])) == (30, 12, 5)
    assert {row["sample_id"] for row in found["chosen"]} <= {f"t{i:02d}" for i in range(12)}
    assert sum(row["stands_for"] for row in found["chosen"]) == 12
    assert [row["rank"] for row in found["chosen"]] == [1, 2, 3, 4, 5]
    assert {row["nearest_reference"] for row in found["chosen"]} == {"r1"}
    assert found["radius_before"] == pytest.approx(0.8)
    assert {row["group"] for row in found["chosen"][:3]} == {"drive0", "drive1", "drive2"}


def test_rows_in_another_order_give_the_same_list():
    plain = next_samples(*tables(), holdout=99)
    mixed = next_samples(*(frame.sample(fraction=1, shuffle=True, seed=i) for i, frame in enumerate(tables())), 99)
    assert mixed == plain


def test_without_a_label_the_models_own_expectation_counts():
    found = next_samples(*tables(labelled=0), holdout=99)
    assert {(row["loss_is"], row["expected_loss"]) for row in found["chosen"]} == {("entropy", 0.3)}
    mixed = next_samples(*tables(labelled=6), holdout=99)
    assert {row["loss_is"] for row in mixed["chosen"]} == {"loss", "entropy"}


def test_where_all_is_covered_the_list_is_empty():
    found = next_samples(*tables(uncovered=0), holdout=99)
    assert found["chosen"] == [] and found["uncovered"] == 0
    assert next_list(found) == ",".join(COLUMNS) + "\n"


def test_a_small_holdout_counts_what_lies_beyond_all_of_it():
    embeddings, scores, evaluation = tables()
    few = scores.with_columns(conformal_p=pl.when(pl.col("conformal_p") < 0.05).then(1 / 9).otherwise(0.6))
    assert next_samples(embeddings, few, evaluation, holdout=8)["uncovered"] == 12
    assert next_samples(embeddings, few, evaluation, holdout=40)["uncovered"] == 0


def test_duplicates_are_listed_once_and_losses_of_zero_do_no_harm():
    embeddings, scores, evaluation = tables(uncovered=30)
    same = embeddings.with_columns(latent=pl.lit([1.0, 0, 0, 0], dtype=pl.List(pl.Float32)))
    [row] = next_samples(same, scores, evaluation.with_columns(loss=0.0), holdout=99)["chosen"]
    assert row["stands_for"] == 30 and row["radius"] == 0


def test_the_file_opens_in_a_spreadsheet_without_running_anything():
    embeddings, scores, evaluation = (
        frame.with_columns(sample_id="=" + pl.col("sample_id")) for frame in tables(n=4, uncovered=4)
    )
    rows = list(csv.DictReader(io.StringIO(next_list(next_samples(embeddings, scores, evaluation, 99)))))
    assert len(rows) == 4 and all(row["sample_id"].startswith("'=t") for row in rows)
    assert rows[0]["rank"] == "1" and rows[0]["image"].startswith("/d/")
