"""Gap scores against brute force in float64, what they are compared with, and what is computed again."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from assets.inference.latents import EMBEDDING_SCHEMA, vectors
from assets.ingestion.manifest import MANIFEST_SCHEMA
from assets.scoring.neighbours import SCORES_SCHEMA, latents_of, reference_latents, update_scores
from assets.scoring.sets import index_summary
from resources.config import IndexConfig
from resources.sample_store import SampleTable

WIDTH, K = 24, 4


def embedded(prefix: str, count: int, *, seed: int, shift: float = 0.0, version: str = "1") -> pl.DataFrame:
    """Embeddings of positive latents; `shift` turns them away from the others."""
    draws = np.random.default_rng(seed)
    latents = np.abs(draws.normal(1, 1, (count, WIDTH)))
    latents[:, 0] += shift
    rows = [
        {"sample_id": f"{prefix}{i:02d}", "fingerprint": f"{prefix}{i} {version}", "latent": latent.tolist()}
        for i, latent in enumerate(latents)
    ]
    return pl.DataFrame(rows, schema=EMBEDDING_SCHEMA)


def manifest_of(*parts: tuple[pl.DataFrame, str]) -> pl.DataFrame:
    rows = [
        {"sample_id": name, "part": part, "group": "g", "unit": f"u{i % 5}", "report_half": i % 2 == 0}
        for frame, part in parts
        for i, name in enumerate(frame["sample_id"])
    ]
    return pl.DataFrame(rows, schema=MANIFEST_SCHEMA)


REFERENCE, HOLDOUT, UNUSED = embedded("ref", 30, seed=0), embedded("hold", 12, seed=1), embedded("not", 5, seed=2)
SOURCE = pl.concat([HOLDOUT, UNUSED, REFERENCE])
SOURCE_MANIFEST = manifest_of((REFERENCE, "reference"), (HOLDOUT, "holdout"), (UNUSED, "unused"))


def target_of(frame: pl.DataFrame) -> pl.DataFrame:
    return latents_of(frame, manifest_of((frame, "target")), "target")


def brute_force(frame: pl.DataFrame, k: int = K):
    """Distances and ids of the k nearest reference latents, float64."""
    unit = [vectors(part).astype(np.float64) for part in (frame, REFERENCE)]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in unit]
    distances = np.linalg.norm(unit[0][:, None] - unit[1][None], axis=2)
    order = np.argsort(distances, axis=1)[:, :k]
    names = REFERENCE["sample_id"].to_list()
    return np.take_along_axis(distances, order, 1), [[names[i] for i in row] for row in order]


@pytest.fixture
def reference(tmp_path):
    return reference_latents(SOURCE, SOURCE_MANIFEST, K, tmp_path / "index")


@pytest.fixture
def table(tmp_path):
    return SampleTable(str(tmp_path / "scores"))


def test_latents_of_a_part_are_its_rows_with_unit_and_half():
    shuffled = SOURCE.sample(fraction=1, shuffle=True, seed=0)
    found = latents_of(shuffled, SOURCE_MANIFEST, "holdout")
    assert found["sample_id"].to_list() == HOLDOUT["sample_id"].to_list()
    assert found.columns[-3:] == ["group", "unit", "report_half"]
    assert np.array_equal(vectors(found), vectors(HOLDOUT))


def test_scores_equal_brute_force(reference, table):
    target = embedded("t", 25, seed=3)
    update_scores(target_of(target), reference, K, table, code="c")
    rows = table.read()
    distances, names = brute_force(target)
    assert dict(rows.schema) == SCORES_SCHEMA
    assert rows["sample_id"].to_list() == target["sample_id"].to_list()
    np.testing.assert_allclose(rows["gap_score"], distances[:, -1], rtol=1e-5)
    np.testing.assert_allclose(np.array(rows["distances"].to_list()), distances, rtol=1e-5)
    assert rows["neighbours"].to_list() == names


def test_conformal_p_values_are_ranks_among_the_holdout_s_scores(reference, table):
    target = embedded("t", 25, seed=3, shift=1.5)
    update_scores(target_of(target), reference, K, table, code="c")
    holdout, scores = brute_force(HOLDOUT)[0][:, -1], brute_force(target)[0][:, -1]
    np.testing.assert_allclose(reference.holdout_scores, holdout, rtol=1e-5)
    assert reference.holdout_ids == HOLDOUT["sample_id"].to_list()
    expected = [(1 + (holdout >= score).sum()) / 13 for score in scores]
    np.testing.assert_allclose(table.read()["conformal_p"], expected)


def test_a_target_far_away_is_strange_throughout(reference, table):
    target = embedded("t", 10, seed=3, shift=50)
    update_scores(target_of(target), reference, K, table, code="c")
    assert table.read()["conformal_p"].unique().to_list() == [1 / 13]


def test_a_sample_that_the_reference_holds_is_no_stranger(reference, table):
    target = REFERENCE.head(3).with_columns(sample_id=pl.Series(["a", "b", "c"]))
    update_scores(target_of(target), reference, 1, table, code="c")
    rows = table.read()
    assert rows["neighbours"].to_list() == [[name] for name in REFERENCE["sample_id"].head(3)]
    assert rows["gap_score"].max() < 1e-3
    assert rows["conformal_p"].to_list() == [1, 1, 1]


def test_more_neighbours_than_there_are_samples(tmp_path, table):
    found = reference_latents(SOURCE, SOURCE_MANIFEST, 100, tmp_path / "index")
    update_scores(target_of(embedded("t", 2, seed=3)), found, 100, table, code="c")
    assert table.read()["neighbours"].list.len().to_list() == [30, 30]


def test_the_index_is_kept_while_the_reference_stays(tmp_path):
    folder = tmp_path / "index"
    first = reference_latents(SOURCE, SOURCE_MANIFEST, K, folder)
    (path,) = folder.glob("*.faiss")
    before = path.stat().st_mtime_ns
    second = reference_latents(SOURCE, SOURCE_MANIFEST, K, folder)
    assert path.stat().st_mtime_ns == before
    assert second.version == first.version
    assert np.array_equal(second.holdout_scores, first.holdout_scores)


def test_another_reference_has_another_index_and_the_older_one_goes(tmp_path):
    folder = tmp_path / "index"
    first = reference_latents(SOURCE, SOURCE_MANIFEST, K, folder)
    before = {path.name for path in folder.iterdir()}
    smaller = SOURCE.filter(pl.col("sample_id") != "ref00")
    second = reference_latents(smaller, SOURCE_MANIFEST, K, folder)
    after = {path.name for path in folder.iterdir()}
    assert len(before) == len(after) == 3
    assert not before & after
    assert second.version != first.version
    assert len(second.index.ids) == 29


def test_another_reference_updates_the_index_that_is_kept(tmp_path):
    """An approximate index shows it: what is built anew is trained on as many rows as there are."""
    many, approximate = embedded("ref", 1_200, seed=0), IndexConfig(exact_up_to=1_000)
    manifest = manifest_of((many, "reference"), (HOLDOUT, "holdout"))

    def found(reference):
        return reference_latents(pl.concat([HOLDOUT, reference]), manifest, K, tmp_path / "index", approximate)

    first, fewer = found(many), found(many.head(1_100))
    assert [one.index.card.trained_rows for one in (first, fewer)] == [1_200, 1_200]
    assert sorted(fewer.index.ids) == sorted(many["sample_id"].head(1_100))
    assert first.index.card.recall >= 0.95 <= fewer.index.card.recall
    assert (first.index.card.queries, first.version != fewer.version) == (12, True)
    assert index_summary(fewer)["kind"] == "ivf"


def test_a_broken_index_is_built_anew(tmp_path):
    folder = tmp_path / "index"
    first = reference_latents(SOURCE, SOURCE_MANIFEST, K, folder)
    for path in folder.glob("*.faiss"):
        path.write_bytes(b"cut off")
    again = reference_latents(SOURCE, SOURCE_MANIFEST, K, folder)
    assert np.array_equal(again.holdout_scores, first.holdout_scores)


def test_the_version_names_reference_holdout_and_k(tmp_path):
    def version(source, k=K):
        return reference_latents(source, SOURCE_MANIFEST, k, tmp_path / "index").version

    plain = version(SOURCE)
    newer = pl.concat([SOURCE.filter(pl.col("sample_id") != "hold03"), embedded("hold", 4, seed=9, version="2")[3:]])
    assert version(SOURCE.filter(~pl.col("sample_id").str.starts_with("not"))) == plain  # unused samples don't count
    assert len({plain, version(newer), version(SOURCE, k=K - 1)}) == 3


def test_a_new_target_sample_costs_one_row(reference, table):
    target = embedded("t", 10, seed=3)
    assert update_scores(target_of(target.head(9)), reference, K, table, code="c").counts()["new"] == 9
    before = table.read()
    change = update_scores(target_of(target), reference, K, table, code="c")
    assert (change.new, change.changed, change.kept) == (["t09"], [], 9)
    after = table.read()
    assert after.head(9).equals(before)
    np.testing.assert_allclose(after["gap_score"], brute_force(target)[0][:, -1], rtol=1e-5)


def test_changed_and_removed_target_samples(reference, table):
    target = embedded("t", 6, seed=3)
    update_scores(target_of(target), reference, K, table, code="c")
    newer = pl.concat([target[1:5], embedded("t", 6, seed=4, version="2")[5:]])
    change = update_scores(target_of(newer), reference, K, table, code="c")
    assert (change.new, change.changed, change.removed, change.kept) == ([], ["t05"], ["t00"], 4)
    np.testing.assert_allclose(table.read()["gap_score"], brute_force(newer)[0][:, -1], rtol=1e-5)


def test_another_source_another_k_and_other_code_make_all_stale(tmp_path, reference, table):
    target = target_of(embedded("t", 5, seed=3))
    update_scores(target, reference, K, table, code="c")
    assert update_scores(target, reference, K, table, code="c").stale == []
    fewer = reference_latents(SOURCE.filter(pl.col("sample_id") != "hold00"), SOURCE_MANIFEST, K, tmp_path / "index")
    assert len(update_scores(target, fewer, K, table, code="c").changed) == 5
    other_k = reference_latents(SOURCE, SOURCE_MANIFEST, 2, tmp_path / "index")
    assert len(update_scores(target, other_k, 2, table, code="c").changed) == 5
    assert table.read()["neighbours"].list.len().to_list() == [2] * 5
    assert len(update_scores(target, other_k, 2, table, code="d").changed) == 5
