"""Latents of pictures, regions and stages against naive loops, and their way through the store."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional

from assets.inference.latents import EMBEDDING_SCHEMA, embedding_rows, latents, region_latents, vectors
from resources.model import Outputs
from resources.sample_store import SampleTable

IDS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def outputs():
    """Three pictures, four classes of which 'b' predicts one alone; stages of 5, 7 and 9 channels."""
    draws = torch.Generator().manual_seed(0)
    stages = [torch.randn(3, channels, side, 2 * side, generator=draws) for channels, side in ((5, 8), (7, 4), (9, 4))]
    coarse = torch.randn(3, 4, 4, 8, generator=draws) * 4
    logits = functional.interpolate(coarse, size=(32, 64), mode="bilinear")
    logits[1, 2] += 100
    return Outputs(logits, stages)


@pytest.fixture(scope="module")
def table(outputs, tmp_path_factory):
    """Rows of the three pictures, read back from a Delta table."""
    rows = embedding_rows(outputs, IDS, ["f1", "f2", "f3"])
    stored = SampleTable(str(tmp_path_factory.mktemp("store") / "embeddings"))
    stored.upsert(pl.DataFrame(rows, schema=EMBEDDING_SCHEMA))
    return stored.read()


def test_the_latent_is_the_mean_of_the_deepest_stage(outputs, table):
    expected = outputs.stages[-1].numpy().reshape(3, 9, -1).mean(2)
    np.testing.assert_allclose(latents(outputs), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(vectors(table), latents(outputs))
    assert vectors(table).dtype == np.float32


def test_region_vectors_are_means_over_predicted_regions(outputs, table):
    small = functional.interpolate(outputs.logits, size=(4, 8), mode="bilinear", align_corners=False).argmax(1).numpy()
    features = outputs.latent.numpy()
    for index in range(4):
        ids, found = region_latents(table, index)
        present = [i for i in range(3) if (small[i] == index).any()]
        assert ids == [IDS[i] for i in present]
        for row, i in zip(found, present, strict=True):
            cells = [features[i, :, y, x] for y, x in zip(*np.nonzero(small[i] == index), strict=True)]
            np.testing.assert_allclose(row, np.mean(cells, axis=0), rtol=1e-4, atol=1e-5)
    assert table["region_classes"][1].to_list() == [2]


def test_a_region_of_the_whole_picture_is_the_picture_s_latent(table):
    ids, found = region_latents(table, 2)
    np.testing.assert_allclose(found[ids.index("b")], vectors(table)[1], rtol=1e-5, atol=1e-6)


def test_a_class_that_nobody_predicts_has_no_vectors(table):
    ids, found = region_latents(table, 40)
    assert ids == []
    assert len(found) == 0


def test_stage_statistics_are_means_and_deviations_per_channel(outputs, table):
    assert table["stage_channels"][0].to_list() == [5, 7, 9]
    means, deviations = vectors(table, "stage_mean"), vectors(table, "stage_std")
    assert means.shape == deviations.shape == (3, 21)
    start = 0
    for stage in outputs.stages:
        flat = stage.numpy().reshape(3, stage.shape[1], -1)
        columns = slice(start, start + stage.shape[1])
        np.testing.assert_allclose(means[:, columns], flat.mean(2), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(deviations[:, columns], flat.std(2), rtol=1e-4, atol=1e-6)
        start = columns.stop


def test_a_stage_of_one_cell_has_no_deviation():
    outputs = Outputs(torch.zeros(2, 3, 8, 8), [torch.ones(2, 6, 1, 1)])
    row = embedding_rows(outputs, ["a", "b"], ["f", "f"])[0]
    assert row["stage_std"] == [0.0] * 6
    assert row["region_classes"] == [0]
    assert row["region_vectors"] == row["latent"] == [1.0] * 6


def test_rows_carry_their_ids_and_fingerprints(table):
    assert table.select("sample_id", "fingerprint").rows() == [("a", "f1"), ("b", "f2"), ("c", "f3")]


def test_an_empty_table_has_no_vectors():
    assert vectors(pl.DataFrame(schema=EMBEDDING_SCHEMA)).shape == (0, 0)
