"""What search costs over FAISS' own, over scikit-learn's brute force, and an update over a new build.

Ratios of processor time, both sides in turn, medians. `GAP_BENCH_ROWS` sets the rows (10,000 by default).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.neighbors import NearestNeighbors

from assets.inference.latents import vectors
from assets.scoring.neighbours import ReferenceLatents, update_scores
from resources.config import IndexConfig
from resources.sample_store import SampleTable
from resources.vector_index import VectorIndex, normalised

ROWS = int(os.environ.get("GAP_BENCH_ROWS", "10000"))
WIDTH = 512
K = 5
ROUNDS = 5


def latents(seed: int, rows: int = ROWS, width: int = WIDTH) -> np.ndarray:
    draws, basis = np.random.default_rng(seed), np.random.default_rng(99).standard_normal((32, width))
    mixed = draws.standard_normal((rows, 32)) @ basis + draws.standard_normal((rows, width)) + 1
    return np.maximum(mixed, 0).astype(np.float32)


IDS = [f"{index:08d}" for index in range(ROWS)]
REFERENCE, QUERIES = normalised(latents(0)), normalised(latents(1))


def paired(first: Callable[[], object], second: Callable[[], object]) -> float:
    """Median over rounds of the first's processor time over the second's, run in turn."""
    ratios = []
    for _ in range(ROUNDS):
        spent = []
        for call in (first, second):
            started = time.process_time()
            call()
            spent.append(time.process_time() - started)
        ratios.append(spent[0] / spent[1])
    return statistics.median(ratios)


@pytest.fixture(scope="module")
def exact() -> VectorIndex:
    return VectorIndex.build(IDS, REFERENCE)


def test_raw_search_over_ours(exact, benchmark):
    """FAISS' own search over ours with normalising and names: 1 is no cost at all."""
    ratio = paired(lambda: exact.index.search(QUERIES, K), lambda: exact.search(QUERIES, K))
    benchmark.extra_info["raw_over_ours"] = ratio
    benchmark.pedantic(exact.search, args=(QUERIES, K), rounds=1)


def test_raw_search_over_scoring(exact, tmp_path: Path, benchmark):
    """FAISS' own search over a table of gap scores brought up to date from nothing, written to disk."""
    names = pl.Series("sample_id", IDS)
    rows = pl.DataFrame({"sample_id": names, "fingerprint": names, "latent": QUERIES}).cast(
        {"latent": pl.List(pl.Float32)}
    )
    reference = ReferenceLatents(exact, IDS[:100], np.linspace(0, 1, 100), "1")
    turns = iter(range(1_000))
    assert vectors(rows).shape == QUERIES.shape

    def scoring() -> None:
        update_scores(rows, reference, K, SampleTable(str(tmp_path / str(next(turns)))), code="1")

    benchmark.extra_info["raw_over_scoring"] = paired(lambda: exact.index.search(QUERIES, K), scoring)
    benchmark.pedantic(scoring, rounds=1)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_scikit_learn_over_exact_search(precision: str, exact, benchmark):
    brute = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(REFERENCE.astype(precision))
    asked = QUERIES.astype(precision)
    assert np.allclose(brute.kneighbors(asked[:50])[0], exact.search(QUERIES[:50], K)[0], atol=1e-3)
    ratio = paired(lambda: brute.kneighbors(asked), lambda: exact.search(QUERIES, K))
    benchmark.extra_info["peer_over_ours"] = ratio
    benchmark.pedantic(exact.search, args=(QUERIES, K), rounds=1)


def test_scikit_learn_over_lists(benchmark):
    """An approximate index at the recall that it measured; scikit-learn has exact search alone."""
    settings = IndexConfig(exact_up_to=1_000)
    lists = VectorIndex.build(IDS, REFERENCE, settings=settings)
    benchmark.extra_info["recall"] = lists.tune(IDS, REFERENCE, QUERIES, K, settings.recall)
    benchmark.extra_info["probes_of_lists"] = f"{lists.card.nprobe} of {lists.index.nlist}"
    brute = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(REFERENCE)
    ratio = paired(lambda: brute.kneighbors(QUERIES), lambda: lists.search(QUERIES, K))
    benchmark.extra_info["peer_over_ours"] = ratio
    benchmark.pedantic(lists.search, args=(QUERIES, K), rounds=1)


def test_update_over_build(benchmark):
    """A hundredth of the rows taken out and as many added, over an index of lists trained and filled anew."""
    settings = IndexConfig(exact_up_to=1_000)
    few = ROWS // 100
    night = latents(2, few)
    kept = VectorIndex.build(IDS, REFERENCE, settings=settings)
    turns = iter(range(1_000))

    def update() -> None:
        turn = next(turns)
        names = IDS[few:] + [f"night {turn} {index}" for index in range(few)]
        kept.update(names, np.concatenate([REFERENCE[few:], night]))

    benchmark.extra_info["update_over_build"] = paired(
        update, lambda: VectorIndex.build(IDS, REFERENCE, settings=settings)
    )
    benchmark.pedantic(update, rounds=1)
