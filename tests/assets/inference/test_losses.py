"""Figures of one sample against torch and torchmetrics, and aggregates of a set rebuilt from them exactly."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torchmetrics.classification import MulticlassCalibrationError, MulticlassConfusionMatrix, MulticlassJaccardIndex

from assets.inference.losses import (
    ECE_BINS,
    EVALUATION_SCHEMA,
    at_label_pixels,
    decode_classes,
    encode_classes,
    evaluate,
    pixel_sums,
)
from assets.statistics.segmentation import expected_calibration_error, iou
from resources.datasets.base import IGNORE
from resources.sample_store import SampleTable


def sample(seed: int, classes: int = 5, shape=(17, 23), ignored: float = 0.2, scale: float = 2.0):
    draws = np.random.default_rng(seed)
    logits = torch.from_numpy(draws.normal(0, scale, (classes, *shape)).astype(np.float32))
    mask = draws.integers(0, classes, shape).astype(np.uint8)
    mask[draws.random(shape) < ignored] = IGNORE
    return logits, mask


def labels(mask):
    return torch.from_numpy(mask).long()


@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(1, 12), st.integers(1, 12), st.floats(0, 0.9))
@settings(max_examples=60, deadline=None)
def test_the_loss_is_torch_s_over_labelled_pixels(seed, classes, height, width, ignored):
    logits, mask = sample(seed, classes, (height, width), ignored)
    found = evaluate(logits, mask)
    expected = functional.cross_entropy(logits[None].double(), labels(mask)[None], ignore_index=IGNORE)
    assert found.sums.loss == pytest.approx(float(expected), rel=1e-5, abs=1e-6, nan_ok=True)
    assert found.sums.class_pixels.tolist() == [int((mask == index).sum()) for index in range(classes)]
    for index in np.unique(mask[mask != IGNORE]):
        only = np.where(mask == index, mask, IGNORE)
        part = functional.cross_entropy(logits[None].double(), labels(only)[None], ignore_index=IGNORE, reduction="sum")
        assert found.sums.loss_sum[index] == pytest.approx(float(part), rel=1e-5, abs=1e-5)


@given(st.integers(0, 10_000), st.integers(2, 9))
@settings(max_examples=30, deadline=None)
def test_the_quick_sums_are_those_of_the_whole_evaluation(seed, classes):
    logits, mask = sample(seed, classes)
    quick, whole = pixel_sums(logits, mask), evaluate(logits, mask).sums
    np.testing.assert_allclose(quick.loss_sum, whole.loss_sum, rtol=1e-6)
    assert np.array_equal(quick.class_pixels, whole.class_pixels)
    assert np.array_equal(quick.confusion, whole.confusion)


def test_confusion_has_labels_in_rows_and_predictions_in_columns():
    logits = torch.zeros(3, 1, 4)
    logits[2] = 1
    found = evaluate(logits, np.array([[0, 0, 1, IGNORE]], np.uint8))
    assert found.sums.confusion.tolist() == [[0, 0, 2], [0, 0, 1], [0, 0, 0]]
    assert found.predicted_pixels.tolist() == [0, 0, 4]
    assert found.bin_correct.sum() == 0


def test_pair_sums_are_those_of_the_pixels_of_each_label_and_prediction():
    logits, mask = sample(5)
    found = evaluate(logits, mask)
    probabilities, predicted = logits.double().softmax(0).max(0)
    own = functional.cross_entropy(logits[None].double(), labels(mask)[None], ignore_index=IGNORE, reduction="none")[0]
    for label, prediction in np.ndindex(5, 5):
        chosen = torch.from_numpy(mask == label) & (predicted == prediction)
        assert found.pair_loss[label, prediction] == pytest.approx(float(own[chosen].sum()), rel=1e-5, abs=1e-6)
        expected = float(probabilities[chosen].sum())
        assert found.pair_confidence[label, prediction] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    row = found.row("a", "f", b"")
    assert np.sum(row["pair_loss"]) == pytest.approx(np.sum(row["loss_sum"]))
    assert np.sum(row["pair_confidence"]) == pytest.approx(np.sum(row["bin_confidence"]))


def test_a_set_s_iou_confusion_and_calibration_are_torchmetrics():
    classes = 6
    jaccard = MulticlassJaccardIndex(classes, average=None, ignore_index=IGNORE)
    matrix = MulticlassConfusionMatrix(classes, ignore_index=IGNORE)
    calibration = MulticlassCalibrationError(classes, n_bins=ECE_BINS, norm="l1", ignore_index=IGNORE)
    found = []
    for seed in range(8):
        logits, mask = sample(seed, classes, (20 + seed, 30), ignored=0.1 * (seed % 4), scale=1 + seed)
        found.append(evaluate(logits, mask))
        for metric in (jaccard, matrix):
            metric.update(logits[None], labels(mask)[None])
        calibration.update(logits[None].softmax(1), labels(mask)[None])
    confusion = sum(one.sums.confusion for one in found)
    assert np.array_equal(confusion, matrix.compute().numpy())
    np.testing.assert_allclose(iou(confusion), jaccard.compute().numpy(), rtol=1e-5)
    bins = [sum(getattr(one, name) for one in found) for name in ("bin_count", "bin_confidence", "bin_correct")]
    assert expected_calibration_error(*bins) == pytest.approx(float(calibration.compute()), abs=1e-5)


def test_confidence_and_entropy_are_over_all_pixels():
    logits, mask = sample(3, ignored=0.5)
    found = evaluate(logits, mask)
    probabilities = logits.double().softmax(0)
    assert found.confidence == pytest.approx(float(probabilities.amax(0).mean()), rel=1e-5)
    assert found.entropy == pytest.approx(float(-(probabilities * probabilities.log()).sum(0).mean()), rel=1e-4)
    assert found.bin_count.sum() == (mask != IGNORE).sum()


def test_a_sure_and_wrong_model_has_a_finite_loss_and_the_last_bin():
    logits = torch.zeros(3, 2, 2)
    logits[0] = 200
    found = evaluate(logits, np.array([[1, 1], [0, IGNORE]], np.uint8))
    assert found.sums.loss == pytest.approx(400 / 3)
    assert found.entropy == 0
    assert found.bin_count.tolist() == [0] * (ECE_BINS - 1) + [3]


def test_a_mask_of_ignored_pixels_has_no_loss():
    logits, mask = sample(0, ignored=1.1)
    found = evaluate(logits, mask)
    assert math.isnan(found.sums.loss)
    assert found.sums.confusion.sum() == found.bin_count.sum() == 0
    row = found.row("a", "f", b"")
    assert (row["loss"], row["pixels"], row["labelled"]) == (None, 0, True)
    assert 0 < row["confidence"] < 1


def test_without_a_mask_there_are_predictions_and_no_loss():
    logits, _ = sample(0)
    row = evaluate(logits, None).row("a", "f", b"")
    assert (row["loss"], row["pixels"], row["labelled"]) == (None, 0, False)
    assert row["predicted_pixels"] == torch.bincount(logits.argmax(0).flatten(), minlength=5).tolist()


def test_rows_that_went_through_the_store_rebuild_the_set_s_loss_exactly(tmp_path):
    table = SampleTable(str(tmp_path / "evaluation"))
    cases = [sample(seed, shape=(9 + seed, 14), ignored=0.15 * seed) for seed in range(6)]
    rows = [
        evaluate(logits, mask).row(f"s{i}", "f", encode_classes(logits.argmax(0).numpy().astype(np.uint8)))
        for i, (logits, mask) in enumerate(cases)
    ]
    table.upsert(pl.DataFrame(rows, schema=EVALUATION_SCHEMA))
    stored = table.read()
    assert dict(stored.schema) == EVALUATION_SCHEMA
    flat = torch.cat([logits.flatten(1) for logits, _ in cases], 1).T.double()
    everything = torch.cat([labels(mask).flatten() for _, mask in cases])
    by_pixel = functional.cross_entropy(flat, everything, ignore_index=IGNORE)
    summed = np.array(stored["loss_sum"].to_list()).sum(0)
    pixels = np.array(stored["class_pixels"].to_list()).sum(0)
    assert summed.sum() / pixels.sum() == pytest.approx(float(by_pixel), rel=1e-6)
    assert stored["pixels"].sum() == pixels.sum() == int((everything != IGNORE).sum())
    by_image = [
        float(functional.cross_entropy(logits[None].double(), labels(mask)[None], ignore_index=IGNORE))
        for logits, mask in cases
    ]
    assert stored["loss"].to_list() == pytest.approx(by_image, rel=1e-5)
    for (logits, _), png in zip(cases, stored["prediction"], strict=True):
        assert np.array_equal(decode_classes(png), logits.argmax(0).numpy())


def test_logits_are_brought_to_the_label_s_pixels():
    logits = torch.randn(4, 8, 12, generator=torch.Generator().manual_seed(0))
    assert at_label_pixels(logits, (8, 12)) is logits
    found = at_label_pixels(logits, (30, 50))
    expected = functional.interpolate(logits[None], size=(30, 50), mode="bilinear", align_corners=False)[0]
    assert torch.equal(found, expected)


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_class_maps_come_back_as_they_went_in(seed, height, width):
    classes = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    assert np.array_equal(decode_classes(encode_classes(classes)), classes)
