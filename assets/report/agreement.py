"""What estimates are worth: a target's report held against that of its twin, whose labels were hidden.

Belongs here: comparing two report documents, and two sets of pictures' losses. Does not: reading a store, printing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from assets.report.document import ExperimentRow, ReportDocument
from resources.errors import ConfigError

Bounds = tuple[float, float]
FEWEST_RANKED = 3
"""A rank correlation of fewer pairs says nothing."""


@dataclass(frozen=True)
class FigurePair:
    """A figure with labels and by estimate, each with its interval where it has one.

    `inside`: whether the true figure lies within the estimate's interval; None where either is missing.
    """

    name: str
    true: float | None
    true_ci95: Bounds | None
    estimated: float | None
    estimated_ci95: Bounds | None

    @property
    def inside(self) -> bool | None:
        """Whether the estimate's interval holds the true figure."""
        if self.true is None or self.estimated_ci95 is None:
            return None
        return self.estimated_ci95[0] <= self.true <= self.estimated_ci95[1]


@dataclass(frozen=True)
class ChangePair:
    """What one experiment does to the target's loss: measured and estimated, after minus before."""

    experiment: str
    true: float
    true_ci95: Bounds | None
    estimated: float
    estimated_ci95: Bounds | None


@dataclass(frozen=True)
class Agreement:
    """A target and its twin with hidden labels, compared.

    `verdicts` counts experiments by their word with labels and by estimate; `contradicted` are those that are
    confirmed by one and refuted by the other. `changes` are those that ran on both targets' pictures; `same_sign` of
    them move both losses the same way, and `change_rank` is Spearman's correlation of the two changes. `picture_rank`
    is that of single pictures' losses. Correlations are None for fewer than three pairs or where one side is constant.
    """

    target: str
    hidden: str
    figures: list[FigurePair]
    verdicts: dict[tuple[str, str], int]
    contradicted: list[str]
    changes: list[ChangePair]
    change_rank: float | None
    pictures: int
    picture_rank: float | None

    @property
    def same_word(self) -> int:
        """Experiments with one word on both sides."""
        return sum(count for (true, estimated), count in self.verdicts.items() if true == estimated)

    @property
    def same_sign(self) -> int:
        """Changes that both losses agree on the direction of."""
        return sum((change.true > 0) == (change.estimated > 0) for change in self.changes)

    def as_values(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "target": self.target, "hidden": self.hidden,
            "figures": [{**vars(pair), "inside": pair.inside} for pair in self.figures],
            "verdicts": [{"true": true, "estimated": estimated, "experiments": count}
                         for (true, estimated), count in sorted(self.verdicts.items())],
            "same_word": self.same_word, "contradicted": self.contradicted,
            "changes": [vars(change) for change in self.changes], "same_sign": self.same_sign,
            "change_rank": self.change_rank, "pictures": self.pictures, "picture_rank": self.picture_rank,
        }  # fmt: skip


def agreement(
    true: ReportDocument, estimated: ReportDocument, true_losses: pl.DataFrame, estimated_losses: pl.DataFrame
) -> Agreement:
    """Compare two reports on the same pictures.

    Args:
        true: the report of the target with its labels.
        estimated: that of its twin, whose labels were hidden.
        true_losses: `sample_id` and `loss` of the target's pictures.
        estimated_losses: the same of its twin's, estimated.

    Raises:
        ConfigError: the first has no measured gap, the second no estimated one, or their models differ.
    """
    _check(true, estimated)
    pairs = _pairs(true.experiments, estimated.experiments)
    changes = [
        ChangePair(a.id, a.difference, a.difference_ci95, b.difference, b.difference_ci95)
        for a, b in pairs
        if a.difference is not None and b.difference is not None
    ]
    losses = true_losses.join(estimated_losses, on="sample_id", how="inner", suffix="_estimated")
    losses = losses.filter(pl.col("loss").is_finite() & pl.col("loss_estimated").is_finite())
    return Agreement(
        target=true.target.name,
        hidden=estimated.target.name,
        figures=_figures(true, estimated),
        verdicts=dict(Counter((a.verdict, b.verdict) for a, b in pairs)),
        contradicted=[a.id for a, b in pairs if {a.verdict, b.verdict} == {"confirmed", "refuted"}],
        changes=changes,
        change_rank=rank_correlation([c.true for c in changes], [c.estimated for c in changes]),
        pictures=losses.height,
        picture_rank=rank_correlation(losses["loss"].to_list(), losses["loss_estimated"].to_list()),
    )


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's correlation; None for fewer than three pairs or where one side is constant."""
    from scipy.stats import spearmanr

    if len(a) < FEWEST_RANKED or min(len(set(a)), len(set(b))) == 1:
        return None
    found = float(spearmanr(a, b).statistic)
    return found if math.isfinite(found) else None


def _check(true: ReportDocument, estimated: ReportDocument) -> None:
    names = true.target.name, estimated.target.name
    if true.performance_gap.loss_gap is None or true.performance_gap.estimated:
        raise ConfigError(f"{names[0]}: its loss is not measured; name a target with labels")
    if not estimated.performance_gap.estimated:
        raise ConfigError(f"{names[1]}: its loss is not estimated; name its twin with 'use_labels: false'")
    if true.model.fingerprint != estimated.model.fingerprint:
        raise ConfigError(f"{names[0]} and {names[1]}: reports of different models; run: domain-gap run")


def _figures(true: ReportDocument, estimated: ReportDocument) -> list[FigurePair]:
    measured, guessed = true.performance_gap, estimated.performance_gap
    accuracy = guessed.estimation
    return [
        FigurePair("target loss", measured.target_loss, None, guessed.target_loss, None),
        FigurePair("loss gap", measured.loss_gap, measured.ci95, guessed.loss_gap, guessed.ci95),
        FigurePair("accuracy", measured.target_accuracy, None, *((accuracy.accuracy, accuracy.accuracy_ci95)
                                                                 if accuracy is not None else (None, None))),
    ]  # fmt: skip


def _pairs(
    true: Sequence[ExperimentRow], estimated: Sequence[ExperimentRow]
) -> list[tuple[ExperimentRow, ExperimentRow]]:
    """Experiments that both reports have, in the first one's order."""
    other = {row.id: row for row in estimated}
    return [(row, other[row.id]) for row in true if row.id in other]
