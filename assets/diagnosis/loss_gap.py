"""How large the loss gap is, on which classes, and how much of it is composition.

Belongs here: aggregates of evaluation rows and their comparison between target and holdout.
Does not: per-sample evaluation (inference), causes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.inference.losses import list_column
from assets.statistics.resampling import bootstrap_weights, percentile_interval, two_sample_cluster_test
from assets.statistics.segmentation import expected_calibration_error, iou, kitagawa, mean_iou

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SetPerformance:
    """Aggregates of one set's labelled samples, rebuilt from per-sample sums.

    `loss` is the mean of per-image means, `pixel_loss` the mean over all labelled pixels: two numbers. `class_loss`
    is NaN for classes without pixels.
    """

    samples: int
    loss: float
    pixel_loss: float
    miou: float
    ece: float
    class_iou: Floats
    class_loss_sum: Floats
    class_pixels: Floats

    @property
    def class_loss(self) -> Floats:
        """Mean loss over each class's pixels."""
        nothing = np.full_like(self.class_loss_sum, math.nan)
        return np.divide(self.class_loss_sum, self.class_pixels, out=nothing, where=self.class_pixels > 0)

    @property
    def class_share(self) -> Floats:
        """Each class's share of all labelled pixels."""
        total = self.class_pixels.sum()
        return self.class_pixels / total if total else np.full_like(self.class_pixels, math.nan)


@dataclass(frozen=True)
class LossGap:
    """Target against source holdout. `detected` where the whole 95% interval lies above 0."""

    source: SetPerformance
    target: SetPerformance
    value: float
    ci95: tuple[float, float]
    p_value: float
    composition: Floats
    within: Floats

    @property
    def detected(self) -> bool:
        """Whether the target's loss is higher beyond its noise."""
        return self.ci95[0] > 0


def labelled_rows(evaluation: pl.DataFrame, manifest: pl.DataFrame, part: str) -> pl.DataFrame:
    """Evaluation rows with a loss, of one part, with group, unit and half; sorted by id."""
    members = manifest.filter(pl.col("part") == part).select("sample_id", "group", "unit", "report_half")
    rows = evaluation.filter(pl.col("loss").is_not_null()).join(members, on="sample_id", how="inner")
    return rows.sort("sample_id")


def performance(rows: pl.DataFrame) -> SetPerformance:
    """Aggregate labelled evaluation rows. Raises ValueError for none."""
    if rows.is_empty():
        raise ValueError("no labelled sample to aggregate")
    confusion = total(rows, "confusion")
    classes = math.isqrt(len(confusion))
    loss_sum, pixels = total(rows, "loss_sum"), total(rows, "class_pixels")
    square = confusion.reshape(classes, classes)
    return SetPerformance(
        samples=rows.height,
        loss=float(rows["loss"].mean()),  # type: ignore[arg-type]
        pixel_loss=float(loss_sum.sum() / pixels.sum()),
        miou=mean_iou(square),
        ece=expected_calibration_error(
            total(rows, "bin_count"), total(rows, "bin_confidence"), total(rows, "bin_correct")
        ),
        class_iou=iou(square),
        class_loss_sum=loss_sum,
        class_pixels=pixels,
    )


def loss_gap(holdout: pl.DataFrame, target: pl.DataFrame, *, draws: int, seed: int) -> LossGap:
    """Compare labelled rows of target and holdout; interval by unit bootstrap, p-value cluster-robust."""
    source, other = performance(holdout), performance(target)
    rng = np.random.default_rng(seed)
    losses = (target["loss"].to_numpy(), holdout["loss"].to_numpy())
    units = (target["unit"].to_list(), holdout["unit"].to_list())
    means = [weighted_means(values, names, draws, rng) for values, names in zip(losses, units, strict=True)]
    split = kitagawa(source.class_loss_sum, source.class_pixels, other.class_loss_sum, other.class_pixels)
    test = two_sample_cluster_test(losses[0], units[0], losses[1], units[1])
    few_units = min(len(set(names)) for names in units) < MINIMUM_UNITS
    return LossGap(
        source=source,
        target=other,
        value=other.loss - source.loss,
        ci95=(-math.inf, math.inf) if few_units else percentile_interval(means[0] - means[1]),
        p_value=test.p_value,
        composition=split.composition,
        within=split.within,
    )


MINIMUM_UNITS = 2
"""With a single unit on a side nothing is known about its spread."""


def accuracies(rows: pl.DataFrame) -> Floats:
    """Share of each sample's labelled pixels that are predicted right, (n,)."""
    confusion = list_column(rows, "confusion")
    classes = math.isqrt(confusion.shape[1])
    found: Floats = confusion[:, :: classes + 1].sum(1) / confusion.sum(1)
    return found


def weighted_means(values: Floats, units: list[str], draws: int, rng: np.random.Generator) -> Floats:
    """Bootstrap draws of a mean, whole units resampled: (draws,)."""
    weights = bootstrap_weights(units, draws, rng)
    means: Floats = weights @ values / weights.sum(axis=1)
    return means


def total(rows: pl.DataFrame, column: str) -> Floats:
    """Element-wise sum of a list column of equal lengths."""
    summed: Floats = list_column(rows, column).sum(0)
    return summed
