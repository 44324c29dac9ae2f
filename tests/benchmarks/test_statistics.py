"""Statistics of large sets: what the whole report costs, and the same work by public packages in the same run.

Ratios of processor time, both sides in turn, medians; above 1 the peer costs more. `GAP_BENCH_ROWS` sets the rows of
each set (2,000 by default; the goal is stated for 10,000). Peers that aren't installed are skipped.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from assets.scoring.latent_gap import l2_normalised, latent_gap
from assets.statistics.distances import (
    distance_kernel,
    frechet_distance,
    kernel_distance,
    median_distance,
    mmd_rbf,
    polynomial_kernel,
    rbf_kernel,
)
from assets.statistics.kernel_sums import unit_kernel_sums
from assets.statistics.neighbourhoods import prdc
from assets.statistics.resampling import pooled_units
from assets.statistics.two_sample import c2st, mmd_tests

ROWS = int(os.environ.get("GAP_BENCH_ROWS", "2000"))
WIDTH = 512
K = 5
ROUNDS = 3


def latents(seed: int, shift: float = 0.0) -> np.ndarray:
    """Unit vectors, positive and correlated as pooled activations are. (ROWS, WIDTH) float64."""
    draws, basis = np.random.default_rng(seed), np.random.default_rng(99).standard_normal((32, WIDTH))
    factors = draws.standard_normal((ROWS, 32))
    factors[:, 0] += shift
    return l2_normalised(np.maximum(factors @ basis + draws.standard_normal((ROWS, WIDTH)) + 1, 0))


REFERENCE, HOLDOUT, TARGET = latents(0), latents(1), latents(2, shift=0.3)
UNITS = [f"drive {index // 20}" for index in range(ROWS)]


def cost(call: Callable[[], object]) -> float:
    """Processor seconds of a call, all threads together; what it prints is swallowed."""
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        call()
    return time.process_time() - started


def paired(peer: Callable[[], object], ours: Callable[[], object]) -> float:
    """Median over rounds of the peer's processor time over ours, run in turn."""
    return statistics.median(cost(peer) / cost(ours) for _ in range(ROUNDS))


def frechet() -> float:
    moments = [(side.mean(axis=0), np.cov(side, rowvar=False)) for side in (HOLDOUT, TARGET)]
    return frechet_distance(*moments[0], *moments[1])


def kernel_tests(permutations: int) -> float:
    """KID, MMD and energy with their p-values."""
    sigma = median_distance(HOLDOUT, TARGET)
    kernels = [polynomial_kernel(1), rbf_kernel(sigma), distance_kernel]
    sums = unit_kernel_sums(np.concatenate([HOLDOUT, TARGET]), pooled_units(UNITS, UNITS), kernels)
    second = [unit.startswith("1/") for unit in sums[0].units]
    return mmd_tests(sums, second, permutations, np.random.default_rng(0))[1].mmd


def evidently_drift():
    """Evidently's drift methods for embeddings; with pandas 3 its first import fails, and the second one does not."""
    name = "evidently.legacy.metrics.data_drift.embedding_drift_methods"
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
    return pytest.importorskip(name, exc_type=ImportError)


def test_whole_report(benchmark):
    """Every statistic with 1,000 permutations, 1,000 bootstrap draws and 50 floors: processor seconds, peak memory."""

    def whole() -> None:
        latent_gap(REFERENCE, HOLDOUT, UNITS, TARGET, UNITS, k=K, permutations=1000, bootstrap=1000, floor_draws=50,
                   seed=0)  # fmt: skip

    benchmark.extra_info["processor_seconds"] = cost(whole)
    benchmark.extra_info["peak_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    benchmark.pedantic(whole, rounds=1)


def test_kernel_tests(benchmark):
    """Three kernels with 1,000 permutations over one plain MMD."""
    ratio = paired(lambda: kernel_tests(1000), lambda: mmd_rbf(HOLDOUT, TARGET, 0.6))
    benchmark.extra_info["three_tests_over_one_distance"] = ratio
    benchmark.pedantic(kernel_tests, args=(1000,), rounds=1)


def test_prdc_over_its_authors_package(benchmark):
    theirs = pytest.importorskip("prdc").compute_prdc
    assert theirs(HOLDOUT[:300], TARGET[:300], K) == pytest.approx(prdc(HOLDOUT[:300], TARGET[:300], K).__dict__)
    ratio = paired(lambda: theirs(HOLDOUT, TARGET, K), lambda: prdc(HOLDOUT, TARGET, K))
    benchmark.extra_info["peer_over_ours"] = ratio
    benchmark.pedantic(prdc, args=(HOLDOUT, TARGET, K), rounds=1)


def test_frechet_over_torch_fidelity(benchmark):
    fid = pytest.importorskip("torch_fidelity.metric_fid")

    def theirs() -> float:
        sides = [fid.fid_features_to_statistics(torch.from_numpy(side)) for side in (HOLDOUT, TARGET)]
        return fid.fid_statistics_to_metric(*sides, verbose=False)[fid.KEY_METRIC_FID]

    assert theirs() == pytest.approx(frechet(), rel=1e-3)
    benchmark.extra_info["peer_over_ours"] = paired(theirs, frechet)
    benchmark.pedantic(frechet, rounds=1)


def test_kid_over_torch_fidelity(benchmark):
    """Its mean over 100 subsets of 1,000, against KID of all rows, which has no sampling error."""
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    size = min(1000, ROWS // 2)
    sides = [torch.from_numpy(side) for side in (HOLDOUT, TARGET)]

    def theirs() -> None:
        kid.kid_features_to_metric(*sides, kid_subset_size=size, verbose=False)

    ratio = paired(theirs, lambda: kernel_distance(HOLDOUT, TARGET))
    benchmark.extra_info["peer_over_ours"] = ratio
    benchmark.pedantic(kernel_distance, args=(HOLDOUT, TARGET), rounds=1)


def test_precision_and_recall_over_torch_fidelity(benchmark):
    """Its precision and recall, against all four of ours."""
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    sides = [torch.from_numpy(side) for side in (HOLDOUT, TARGET)]

    def theirs() -> None:
        prc.prc_features_to_metric(*sides, prc_neighborhood=K, prc_batch_size=2000, verbose=False)

    benchmark.extra_info["peer_over_ours"] = paired(theirs, lambda: prdc(HOLDOUT, TARGET, K))
    benchmark.pedantic(prdc, args=(HOLDOUT, TARGET, K), rounds=1)


def test_mmd_over_evidently(benchmark):
    """Its bootstrap threshold takes 100 draws; ours are three kernels with 1,000 permutations each."""
    drift = evidently_drift()
    import pandas as pd

    holdout, target = pd.DataFrame(HOLDOUT), pd.DataFrame(TARGET)
    benchmark.extra_info["plain_peer_over_ours"] = paired(
        lambda: drift.mmd()(target, holdout), lambda: mmd_rbf(HOLDOUT, TARGET, 0.6)
    )
    benchmark.extra_info["tested_peer_over_ours"] = paired(
        lambda: drift.mmd(bootstrap=True)(target, holdout), lambda: kernel_tests(1000)
    )
    benchmark.pedantic(kernel_tests, args=(1000,), rounds=1)


def test_classifier_over_evidently(benchmark):
    """Its classifier on half of the rows without a p-value, against five folds of all rows and 100 permutations."""
    drift = evidently_drift()
    import pandas as pd

    holdout, target = pd.DataFrame(HOLDOUT), pd.DataFrame(TARGET)

    def ours(permutations: int) -> None:
        c2st(HOLDOUT, UNITS, TARGET, UNITS, permutations, np.random.default_rng(0))

    benchmark.extra_info["plain_peer_over_ours"] = paired(lambda: drift.model()(target, holdout), lambda: ours(0))
    benchmark.extra_info["plain_peer_over_ours_tested"] = paired(
        lambda: drift.model()(target, holdout), lambda: ours(100)
    )
    benchmark.pedantic(ours, args=(100,), rounds=1)


def test_domain_gap_over_dqm_ml(benchmark):
    """Its RBF and polynomial MMD, and its Fréchet distance through a matrix square root."""
    peer = pytest.importorskip("dqm_ml_pytorch.domain_gap")

    def frechet_theirs() -> None:
        means = [side.mean(axis=0) for side in (HOLDOUT, TARGET)]
        outer = [{"sum_outer": _fixed(side.T @ side)} for side in (HOLDOUT, TARGET)]
        peer.DomainGapProcessor._compute_fid(*means, *outer, ROWS, ROWS, 1e-6)

    benchmark.extra_info["frechet_peer_over_ours"] = paired(frechet_theirs, frechet)
    benchmark.extra_info["rbf_peer_over_ours"] = paired(
        lambda: peer._mmd_rbf(HOLDOUT, TARGET, 1.0), lambda: mmd_rbf(HOLDOUT, TARGET, 0.6)
    )
    benchmark.extra_info["polynomial_peer_over_ours"] = paired(
        lambda: peer._mmd_poly(HOLDOUT, TARGET, 3.0, 1 / WIDTH, 1.0), lambda: kernel_distance(HOLDOUT, TARGET)
    )
    benchmark.pedantic(frechet, rounds=1)


def test_proxy_a_distance_over_dqm_ml(benchmark):
    """Its support vector machine, judged on the rows that it was fitted on; 500 of each set: its cost is quadratic."""
    peer = pytest.importorskip("dqm_ml_pytorch.domain_gap")
    few = slice(0, ROWS, max(1, ROWS // 500))
    units = UNITS[few]

    def ours() -> None:
        c2st(HOLDOUT[few], units, TARGET[few], units, 0, np.random.default_rng(0))

    benchmark.extra_info["peer_over_ours"] = paired(lambda: peer._pad_distance(HOLDOUT[few], TARGET[few], "mse"), ours)
    benchmark.pedantic(ours, rounds=1)


def _fixed(matrix: np.ndarray):
    """A matrix as the one row of a fixed-size list array."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.size)
