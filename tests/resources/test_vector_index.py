"""Nearest neighbours among unit vectors, against brute force, and what is kept on disk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.vector_index import VectorIndex, normalised


def brute_force(rows, queries):
    """(queries, rows) Euclidean distances between unit vectors, float64."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows.astype(float), queries.astype(float))]
    return np.linalg.norm(unit[1][:, None] - unit[0][None], axis=2)


def names(count):
    return [f"s{i:03d}" for i in range(count)]


@given(st.integers(1, 60), st.integers(1, 30), st.integers(2, 40), st.integers(1, 8), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_search_equals_brute_force(count, queries, width, k, seed):
    draws = np.random.default_rng(seed)
    rows, asked = draws.normal(size=(count, width)), draws.normal(size=(queries, width))
    distances, neighbours = VectorIndex.build(names(count), rows).search(asked, k)
    exact, few = brute_force(rows, asked), min(k, count)
    assert distances.shape == (queries, few)
    np.testing.assert_allclose(distances, np.sort(exact, axis=1)[:, :few], atol=2e-3)  # float32 near distance 0
    for found, row, true in zip(neighbours, distances, exact, strict=True):
        assert len(set(found)) == few
        np.testing.assert_allclose([true[int(name[1:])] for name in found], row, atol=2e-3)


def test_near_neighbours_of_wide_latents_are_exact_to_a_millionth():
    draws = np.random.default_rng(1)
    centre = np.abs(draws.normal(size=320))
    rows, asked = (centre + 0.05 * draws.normal(size=(count, 320)) for count in (200, 50))
    distances, _ = VectorIndex.build(names(200), rows).search(asked, 5)
    np.testing.assert_allclose(distances, np.sort(brute_force(rows, asked), axis=1)[:, :5], rtol=1e-5)


def test_length_does_not_count_only_direction():
    rows = np.eye(3)
    index = VectorIndex.build(["x", "y", "z"], rows * [[1e-3], [1.0], [1e4]])
    distances, neighbours = index.search(np.array([[5e5, 0.0, 1.0]]), 3)
    assert neighbours[0][0] == "x"
    assert distances[0, 0] == pytest.approx(0, abs=1e-3)
    assert distances[0, 1:] == pytest.approx([np.sqrt(2)] * 2, abs=1e-3)


def test_a_row_finds_itself():
    rows = np.random.default_rng(0).normal(size=(30, 8))
    distances, neighbours = VectorIndex.build(names(30), rows).search(rows, 1)
    assert [row[0] for row in neighbours] == names(30)
    assert distances.max() < 1e-3


def test_normalised_leaves_zeros_and_the_given_array_alone():
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]])
    found = normalised(rows)
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-6)
    assert found.dtype == np.float32
    assert rows[0, 1] == 4
    same = np.array([[3.0, 4.0]], np.float32)
    normalised(same)
    assert same.tolist() == [[3.0, 4.0]]


def test_what_is_saved_is_loaded(tmp_path):
    draws = np.random.default_rng(2)
    ids = ["ü/漢字", "with 'quotes'", *names(20)]
    index = VectorIndex.build(ids, draws.normal(size=(22, 6)))
    index.save(tmp_path / "reference-0.1.faiss")
    again = VectorIndex.load(tmp_path / "reference-0.1.faiss")
    assert again.ids == ids
    asked = draws.normal(size=(7, 6))
    for one, other in zip(index.search(asked, 4), again.search(asked, 4), strict=True):
        assert np.array_equal(one, other)
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_saving_again_replaces(tmp_path):
    path = tmp_path / "a.faiss"
    VectorIndex.build(["old", "older"], np.eye(2)).save(path)
    VectorIndex.build(["new"], np.eye(3)[:1]).save(path)
    again = VectorIndex.load(path)
    assert again.ids == ["new"]
    assert again.search(np.eye(3)[:1], 5)[1] == [["new"]]
