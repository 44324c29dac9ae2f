"""The loss gap on planted data: its value, interval and parts, and when it is found."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch

from assets.diagnosis.loss_gap import labelled_rows, loss_gap, performance, total
from assets.inference.losses import EVALUATION_SCHEMA, evaluate

CLASSES = 4


def samples(units: int, size: int, *, seed: int, gap: float = 0.0, noise: float = 0.1, prefix: str = "s"):
    """Rows of evaluated samples with a mean loss that varies by unit; `gap` is added to every loss."""
    draws = np.random.default_rng(seed)
    rows = []
    for unit in range(units):
        level = 0.5 + gap + noise * draws.normal()
        for position in range(size):
            pixels = draws.integers(50, 150, CLASSES)
            loss = max(0.0, level + 0.02 * draws.normal())
            rows.append(
                {
                    "sample_id": f"{prefix}{unit:03d}_{position}", "fingerprint": "f", "labelled": True, "loss": loss,
                    "pixels": int(pixels.sum()), "loss_sum": (loss * pixels).tolist(),
                    "class_pixels": pixels.tolist(), "confusion": np.diag(pixels).ravel().tolist(),
                    "predicted_pixels": pixels.tolist(), "bin_count": [int(pixels.sum())] + [0] * 14,
                    "bin_confidence": [0.9 * float(pixels.sum())] + [0.0] * 14,
                    "bin_correct": [int(pixels.sum())] + [0] * 14, "unit": f"u{unit}", "confidence": 0.9,
                }
            )  # fmt: skip
    schema = {**EVALUATION_SCHEMA, "unit": pl.String}
    return pl.DataFrame(rows, schema=schema)


def test_aggregates_are_those_of_the_pixels():
    draws = np.random.default_rng(0)
    rows, logits, masks = [], [], []
    for i in range(5):
        scores = torch.tensor(draws.normal(0, 2, (CLASSES, 6 + i, 9)), dtype=torch.float32)
        mask = draws.integers(0, CLASSES - 1, (6 + i, 9)).astype(np.uint8)  # the last class has no pixel
        mask[draws.random(mask.shape) < 0.2] = 255
        rows.append(evaluate(scores, mask).row(f"s{i}", "f", b""))
        logits.append(scores)
        masks.append(torch.from_numpy(mask).long())
    found = performance(pl.DataFrame(rows, schema=EVALUATION_SCHEMA))
    losses = [float(torch.nn.functional.cross_entropy(a[None], b[None], ignore_index=255))
              for a, b in zip(logits, masks, strict=True)]  # fmt: skip
    flat, truth = torch.cat([a.flatten(1) for a in logits], 1), torch.cat([b.flatten() for b in masks])
    assert found.samples == 5
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-5)
    by_pixel = float(torch.nn.functional.cross_entropy(flat.T, truth, ignore_index=255))
    assert found.pixel_loss == pytest.approx(by_pixel, rel=1e-5)
    assert abs(found.pixel_loss - found.loss) > 1e-4  # two numbers
    shares = found.class_share
    assert shares.sum() == pytest.approx(1)
    assert (shares[:-1] * found.class_loss[:-1]).sum() == pytest.approx(by_pixel, rel=1e-5)
    assert math.isnan(found.class_loss[-1])
    valid = truth != 255
    hits = [((flat.argmax(0) == c) & (truth == c)).sum() for c in range(CLASSES)]
    unions = [(((flat.argmax(0) == c) & valid) | (truth == c)).sum() for c in range(CLASSES)]
    expected = [float(hit / union) for hit, union in zip(hits, unions, strict=True)]
    np.testing.assert_allclose(found.class_iou, expected, rtol=1e-6)
    assert found.miou == pytest.approx(np.mean(expected), rel=1e-6)


def test_nothing_can_not_be_aggregated():
    with pytest.raises(ValueError, match="no labelled sample"):
        performance(samples(1, 1, seed=0).clear())


def test_a_planted_gap_is_found_with_its_size():
    found = loss_gap(samples(20, 4, seed=1), samples(20, 4, seed=2, gap=0.4), draws=500, seed=0)
    assert found.detected
    assert found.value == pytest.approx(0.4, abs=0.1)
    assert found.ci95[0] < 0.4 < found.ci95[1]
    assert found.ci95[1] - found.ci95[0] < 0.3
    assert found.p_value < 1e-6
    assert found.value == pytest.approx(found.target.loss - found.source.loss)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    found = [
        loss_gap(samples(12, 3, seed=2 * i), samples(15, 3, seed=2 * i + 1, gap=0.2), draws=200, seed=i)
        for i in range(40)
    ]
    covered = np.mean([gap.ci95[0] <= 0.2 <= gap.ci95[1] for gap in found])
    assert covered >= 0.8  # 0.95 but for few units and 40 draws


def test_without_a_gap_it_is_rarely_found():
    found = [loss_gap(samples(12, 3, seed=200 + i), samples(12, 3, seed=300 + i), draws=200, seed=i) for i in range(40)]
    assert np.mean([gap.detected for gap in found]) <= 0.15  # one side of 0.05
    assert np.mean([gap.p_value <= 0.05 for gap in found]) <= 0.2


def test_frames_of_few_drives_are_not_taken_for_independent():
    wide = loss_gap(samples(4, 50, seed=1), samples(4, 50, seed=2, gap=0.05), draws=500, seed=0)
    as_frames = [
        rows.with_columns(unit=pl.col("sample_id"))
        for rows in (samples(4, 50, seed=1), samples(4, 50, seed=2, gap=0.05))
    ]
    narrow = loss_gap(*as_frames, draws=500, seed=0)
    assert wide.ci95[1] - wide.ci95[0] > 3 * (narrow.ci95[1] - narrow.ci95[0])


def test_a_better_target_is_no_gap():
    found = loss_gap(samples(20, 4, seed=1, gap=0.5), samples(20, 4, seed=2), draws=300, seed=0)
    assert found.value < 0
    assert found.ci95[1] < 0
    assert not found.detected


@pytest.mark.parametrize("units", [(1, 20), (20, 1)])
def test_a_single_unit_says_nothing_about_its_spread(units):
    found = loss_gap(samples(units[0], 10, seed=1), samples(units[1], 10, seed=2, gap=5.0), draws=100, seed=0)
    assert found.value > 4
    assert found.ci95 == (-math.inf, math.inf)
    assert found.p_value == 1
    assert not found.detected


def test_a_seed_decides_the_interval():
    sides = samples(8, 3, seed=1), samples(8, 3, seed=2, gap=0.1)
    one, other, third = (loss_gap(*sides, draws=100, seed=seed).ci95 for seed in (0, 0, 1))
    assert one == other != third


def test_composition_and_class_losses_sum_to_the_pixels_gap():
    holdout, target = samples(6, 3, seed=1), samples(6, 3, seed=2, gap=0.3)
    target = target.with_columns(class_pixels=pl.Series([[300, 10, 40, 5]] * target.height),
                                 loss_sum=pl.Series([[300 * 0.9, 8.0, 20.0, 1.0]] * target.height))  # fmt: skip
    found = loss_gap(holdout, target, draws=100, seed=0)
    pixels = found.target.pixel_loss - found.source.pixel_loss
    assert (found.composition + found.within).sum() == pytest.approx(pixels)


def test_labelled_rows_are_the_part_s_rows_with_a_loss():
    rows = samples(3, 2, seed=0).drop("unit").sample(fraction=1, shuffle=True, seed=1)
    rows = rows.with_columns(loss=pl.when(pl.col("sample_id") == "s001_0").then(None).otherwise("loss"))
    names = sorted(rows["sample_id"])
    manifest = pl.DataFrame({
        "sample_id": names, "part": ["holdout"] * 4 + ["reference"] * 2, "group": ["g"] * 6,
        "unit": [f"u{i}" for i in range(6)], "report_half": [True, False] * 3,
    })  # fmt: skip
    found = labelled_rows(rows, manifest, "holdout")
    assert found.select("sample_id", "unit").rows() == [("s000_0", "u0"), ("s000_1", "u1"), ("s001_1", "u3")]


def test_totals_are_sums_by_place():
    frame = pl.DataFrame({"x": [[1, 2], [10, 20], [100, 200]]})
    assert total(frame, "x").tolist() == [111.0, 222.0]
