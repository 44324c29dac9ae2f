"""Nearest neighbours among unit vectors, against brute force, and what is kept on disk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.config import IndexConfig
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


APPROXIMATE = IndexConfig(exact_up_to=1_000, compress_above=20_000)


def clustered(count, width=16, seed=0):
    """Rows around forty centres, as latents of scenes are."""
    draws = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, width))
    return centres[draws.integers(0, 40, count)] + 0.5 * draws.normal(size=(count, width))


ROWS = clustered(400, 6)


@given(
    st.lists(st.sets(st.tuples(st.integers(0, 39), st.integers(0, 1)), max_size=30), min_size=1, max_size=5),
    st.integers(1, 6),
)
@settings(max_examples=40, deadline=None)
def test_an_updated_exact_index_equals_one_that_is_built_anew(nights, k):
    """Nights of samples that come, go and change (another version of the same id)."""

    def rows_of(night):
        latest = dict(sorted(night))
        ids = [f"s{number:02d}" for number in latest]
        return (
            ids,
            ROWS[[number * 10 + version for number, version in latest.items()]],
            [f"{number} {version}" for number, version in latest.items()],
        )

    ids, rows, prints = rows_of({(0, 0), (1, 0)})
    kept = VectorIndex.build(ids, rows, fingerprints=prints)
    for night in nights:
        before = set(zip(*kept.rows.select("sample_id", "fingerprint").get_columns(), strict=True))
        ids, rows, prints = rows_of(night | {(39, 0)})
        moved = kept.update(ids, rows, prints)
        assert moved == len(before ^ set(zip(ids, prints, strict=True)))
        anew = VectorIndex.build(ids, rows, fingerprints=prints)
        assert sorted(kept.ids) == sorted(ids)
        for one, other in zip(kept.search(ROWS[100:120], k), anew.search(ROWS[100:120], k), strict=True):
            if isinstance(one, np.ndarray):
                np.testing.assert_allclose(one, other, atol=1e-3)
            else:
                assert [set(row) for row in one] == [set(row) for row in other]


def recall(index, rows, queries, k):
    true = np.argsort(brute_force(rows, queries), axis=1)[:, :k]
    found = index.search(queries, k)[1]
    return np.mean(
        [len({names(len(rows))[i] for i in row} & set(own)) / k for row, own in zip(true, found, strict=True)]
    )


def test_an_approximate_index_has_the_recall_that_it_says():
    rows, queries = clustered(3_000), clustered(200, seed=1)
    index = VectorIndex.build(names(3_000), rows, settings=APPROXIMATE)
    assert (index.card.kind, index.card.recall) == ("ivf", None)
    measured = index.tune(names(3_000), rows, queries, 5, 0.95)
    assert measured == index.card.recall >= 0.95
    assert index.card.queries == 200
    assert 1 <= index.card.nprobe < index.index.nlist
    assert recall(index, rows, queries, 5) == pytest.approx(measured)
    assert recall(index, rows, clustered(200, seed=2), 5) >= 0.9


def test_an_approximate_index_follows_its_set(tmp_path):
    rows = clustered(3_200)
    ids, queries = [f"s{i:04d}" for i in range(3_200)], clustered(100, seed=1)
    index = VectorIndex.build(ids[:3_000], rows[:3_000], settings=APPROXIMATE)
    index.tune(ids[:3_000], rows[:3_000], queries, 5, 0.99)
    index.save(tmp_path / "a.faiss")
    index = VectorIndex.load(tmp_path / "a.faiss")
    assert index.update(ids[100:], rows[100:]) == 300
    assert sorted(index.ids) == ids[100:]
    assert index.tune(ids[100:], rows[100:], queries, 5, 0.99) >= 0.99
    distances, found = index.search(rows[3_100:], 1)
    assert [row[0] for row in found] == ids[3_100:]
    assert distances.max() < 1e-3
    gone = {name for row in index.search(rows[:100], 5)[1] for name in row} & set(ids[:100])
    assert not gone
    assert index.update(ids[100:], rows[100:]) == 0


def test_lists_beyond_memory_stay_on_disk(tmp_path):
    rows = clustered(3_200)
    ids, queries = names(3_200), clustered(50, seed=1)
    small = APPROXIMATE.model_copy(update={"memory_gb": 1e-6})
    index = VectorIndex.build(ids[:3_000], rows[:3_000], settings=small, folder=tmp_path)
    index.tune(ids[:3_000], rows[:3_000], queries, 5, 0.99)
    index.save(tmp_path / "one.faiss")
    assert (tmp_path / "one.faiss").stat().st_size < (tmp_path / "one.lists").stat().st_size
    index = VectorIndex.load(tmp_path / "one.faiss")
    in_memory = VectorIndex.build(ids[:3_000], rows[:3_000], settings=APPROXIMATE)
    in_memory.tune(ids[:3_000], rows[:3_000], queries, 5, 0.99)
    assert index.search(queries, 5)[1] == in_memory.search(queries, 5)[1]
    index.update(ids[100:], rows[100:])
    with pytest.raises(RuntimeError):  # a run that is killed here leaves nothing that looks whole
        VectorIndex.load(tmp_path / "one.faiss").search(queries, 5)
    in_memory.update(ids[100:], rows[100:])
    index.save(tmp_path / "two.faiss")
    assert VectorIndex.load(tmp_path / "two.faiss").search(queries, 5)[1] == in_memory.search(queries, 5)[1]


@pytest.mark.slow
def test_codes_take_over_above_their_size():
    rows, queries = clustered(20_500, 8), clustered(100, 8, seed=1)
    index = VectorIndex.build(names(20_500), rows, settings=APPROXIMATE)
    found = index.tune(names(20_500), rows, queries, 5, 0.95)
    assert (index.card.kind, index.card.recall) == ("ivf_pq", found)
    assert recall(index, rows, queries[:20], 5) == pytest.approx(found, abs=0.15)
    assert found > 0.6


def test_an_index_is_outgrown_when_its_kind_or_its_lists_no_longer_fit():
    exact = VectorIndex.build(names(50), clustered(50))
    assert not exact.outgrown(99_000, IndexConfig())
    assert exact.outgrown(100_001, IndexConfig())
    lists = VectorIndex.build(names(1_500), clustered(1_500), settings=APPROXIMATE)
    assert not lists.outgrown(2_900, APPROXIMATE)
    assert lists.outgrown(3_100, APPROXIMATE)
    assert lists.outgrown(1_000, APPROXIMATE)
