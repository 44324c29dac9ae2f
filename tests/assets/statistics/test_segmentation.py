"""Segmentation figures against torchmetrics and scikit-learn, and the exact Kitagawa split."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, jaccard_score
from statsmodels.stats.oaxaca import OaxacaBlinder
from torchmetrics.classification import MulticlassCalibrationError, MulticlassJaccardIndex

from assets.statistics.segmentation import expected_calibration_error, iou, kitagawa, mean_iou

rng = np.random.default_rng(0)
LABELS, PREDICTED = rng.integers(0, 5, 4000), rng.integers(0, 5, 4000)
PREDICTED[:2500] = LABELS[:2500]
CONFUSION = confusion_matrix(LABELS, PREDICTED, labels=range(5))
classes = st.lists(
    st.tuples(st.floats(0, 5), st.integers(0, 1000), st.floats(0, 5), st.integers(0, 1000)), min_size=1, max_size=19
)


def test_iou_agrees_with_torchmetrics_and_scikit_learn():
    metric = MulticlassJaccardIndex(5, average=None, ignore_index=255)
    holed, void = LABELS.copy(), rng.random(4000) < 0.1
    holed[void] = 255
    theirs = metric(torch.tensor(PREDICTED), torch.tensor(holed)).numpy()
    ours = iou(confusion_matrix(LABELS[~void], PREDICTED[~void], labels=range(5)))
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert iou(CONFUSION) == pytest.approx(jaccard_score(LABELS, PREDICTED, average=None))
    assert mean_iou(CONFUSION) == pytest.approx(jaccard_score(LABELS, PREDICTED, average="macro"))


def test_absent_classes_do_not_count():
    confusion = np.zeros((3, 3))
    confusion[0, 0], confusion[0, 1] = 3, 1
    assert iou(confusion) == pytest.approx(np.array([0.75, 0, math.nan]), nan_ok=True)
    assert mean_iou(confusion) == pytest.approx(0.375)
    assert math.isnan(mean_iou(np.zeros((2, 2))))
    with pytest.raises(ValueError, match="square"):
        iou(np.zeros((2, 3)))


def test_calibration_error_agrees_with_torchmetrics():
    probabilities = rng.dirichlet(np.full(5, 0.3), 4000)
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == LABELS
    bins = np.minimum((top * 15).astype(int), 14)
    sums = [np.bincount(bins, weights=values, minlength=15) for values in (np.ones(4000), top, right)]
    theirs = MulticlassCalibrationError(5, n_bins=15)(torch.tensor(probabilities), torch.tensor(LABELS))
    assert expected_calibration_error(*sums) == pytest.approx(float(theirs), abs=1e-5)
    assert math.isnan(expected_calibration_error([0], [0], [0]))
    with pytest.raises(ValueError, match="length"):
        expected_calibration_error([0], [0, 1], [0])


@given(classes)
def test_kitagawa_sums_exactly_to_the_gap(rows: list[tuple[float, int, float, int]]):
    loss_a, pixels_a, loss_b, pixels_b = map(np.array, zip(*rows, strict=True))
    split = kitagawa(loss_a * pixels_a, pixels_a, loss_b * pixels_b, pixels_b)
    if pixels_a.sum() == 0 or pixels_b.sum() == 0:
        assert math.isnan(split.total)
        return
    gap = (loss_b * pixels_b).sum() / pixels_b.sum() - (loss_a * pixels_a).sum() / pixels_a.sum()
    assert split.total == pytest.approx(gap, abs=1e-9)
    assert split.composition.sum() + split.within.sum() == pytest.approx(gap, abs=1e-9)
    back = kitagawa(loss_b * pixels_b, pixels_b, loss_a * pixels_a, pixels_a)
    assert back.composition == pytest.approx(-split.composition)
    assert back.within == pytest.approx(-split.within)


def test_kitagawa_tells_one_cause_from_the_other():
    loss = np.array([0.2, 1.0])
    mix = kitagawa(loss * [90, 10], [90, 10], loss * [50, 50], [50, 50])
    assert mix.within == pytest.approx([0, 0])
    assert mix.total == pytest.approx(0.32)
    harder = kitagawa(loss * [90, 10], [90, 10], (loss + 0.5) * [90, 10], [90, 10])
    assert harder.composition == pytest.approx([0, 0])
    assert harder.total == pytest.approx(0.5)


def test_a_class_that_one_side_lacks_is_composition():
    split = kitagawa([1.0, 0], [10, 0], [0.5, 2], [5, 1])
    assert split.within[1] == 0
    assert split.composition[1] == pytest.approx(1 / 6 * 2)


def test_kitagawa_agrees_with_oaxaca_blinder():
    """Regressing pixel losses on class dummies, pooled midway, makes Oaxaca–Blinder the Kitagawa split."""
    generator = np.random.default_rng(0)
    shares = {0: [0.6, 0.3, 0.1], 1: [0.3, 0.3, 0.4]}
    side = np.repeat([0, 1], 600)
    label = np.concatenate([generator.choice(3, 600, p=shares[0]), generator.choice(3, 600, p=shares[1])])
    loss = generator.exponential(size=1200) + label + 0.7 * side * (label == 2)
    sums = [
        np.bincount(label[side == s], weights=w[side == s], minlength=3) for s in (0, 1) for w in (loss, loss * 0 + 1)
    ]
    split = kitagawa(*sums)
    frame = np.column_stack([side, label == 0, label == 1, label == 2]).astype(float)
    reference = OaxacaBlinder(loss, frame, 0, hasconst=True, swap=False)
    endowment, coefficient, interaction, gap = reference.three_fold().params
    sign = math.copysign(1, gap * split.total)
    assert split.total == pytest.approx(sign * gap)
    assert split.composition.sum() == pytest.approx(sign * (endowment + interaction / 2))
    assert split.within.sum() == pytest.approx(sign * (coefficient + interaction / 2))
