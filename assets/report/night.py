"""One night as data: what a check found of a target, as its history keeps it.

Belongs here: the form of a history's entry, and its figures read off a report. Does not: the table (`history.py`),
comparing nights (`changes.py`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from assets.report.document import Estimate, MeasurementRow, QualityResult, ReportDocument, Verdict
from assets.report.figures import leading_experiment, share_of_gap
from assets.report.schema import Interval, Number

Outcome = Literal["reported", "unchanged", "failed"]
VERDICTS: tuple[Verdict, ...] = ("confirmed", "inconclusive", "refuted", "skipped")
"""The verdict that speaks for a cause that was tried in several ways comes first."""


class Entry(BaseModel):
    """Base of an entry's parts. What a later version of the product no longer knows is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class CauseFigure(Entry):
    """A suspected cause: its verdict, and the share of the gap that it costs, closes or induces.

    `root`: the report names it a root cause. A confirmed one that is none is a remedy: it closes the gap.
    """

    id: str
    title: str
    family: str
    verdict: Verdict
    root: bool
    share: Number = None
    ci95: Interval = None


class NightFigures(Entry):
    """A report's figures: the gap (loss, target minus holdout), latent distances, causes, shares by family."""

    headline: str
    source: str
    target: str
    schema_version: str
    reason: str | None = None
    estimated: bool = False
    source_loss: Number = None
    target_loss: Number = None
    loss_gap: Number = None
    ci95: Interval = None
    p_value: Number = None
    detected: bool | None = None
    source_miou: Number = None
    target_miou: Number = None
    unexplained: Estimate
    recipe_closes: Estimate
    latent_gap: dict[str, MeasurementRow] = {}
    causes: list[CauseFigure] = []
    shares: dict[str, Estimate] = {}
    traits_beyond_chance: int = 0

    @property
    def roots(self) -> list[CauseFigure]:
        """The root causes."""
        return [cause for cause in self.causes if cause.root]


class SetCounts(Entry):
    """A data set on one night, and what came, went or changed since the night before, the first few by name."""

    name: str
    samples: int
    labelled: int
    quarantined: int
    added: int = 0
    removed: int = 0
    changed: int = 0
    names: dict[str, list[str]] = {}

    @property
    def moved(self) -> int:
        """How many samples came, went or changed."""
        return self.added + self.removed + self.changed


class FigureChange(Entry):
    """A figure against that of the night before.

    `rule`: 'resampled' where the interval of the difference comes from both nights' samples, drawn together;
    'combined' from the intervals of both nights, as if they shared no sample. Null where there are too few groups.
    """

    key: str
    label: str
    before: float
    after: float
    difference: float
    ci95: Interval = None
    rule: Literal["resampled", "combined"]

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.ci95 is not None and not self.ci95[0] <= 0 <= self.ci95[1]


class Flip(Entry):
    """A cause whose verdict, or place among the root causes, is another than the night before."""

    id: str
    title: str
    before: Verdict | None
    after: Verdict | None
    root_before: bool
    root_after: bool
    share_before: Number = None
    share_after: Number = None
    share_moved: bool | None = None
    """Whether the share moved beyond its noise; None where a night has none."""


class Contribution(Entry):
    """Mean loss of the target's samples that were added, removed, changed or kept since the night before."""

    kind: Literal["added", "removed", "changed", "kept"]
    samples: int
    loss_before: Number = None
    loss_after: Number = None


class Night(Entry):
    """One check of a target.

    `outcome`: 'reported' with new figures; 'unchanged' where the check found nothing to do; 'failed' where it could not
    make a report, so that the figures are those of the last one. `commits`: states of the tables behind the figures;
    `manifests`: those of the manifests that the check saw.
    """

    time: datetime
    outcome: Outcome
    problem: str = ""
    fingerprint: str = ""
    figures: NightFigures | None = None
    source: SetCounts
    target: SetCounts
    failed_checks: list[QualityResult] = []
    commits: dict[str, str] = {}
    manifests: dict[str, str] = {}
    changes: list[FigureChange] = []
    flips: list[Flip] = []
    contributions: list[Contribution] = []

    @property
    def id(self) -> str:
        """Its place in time, as text that sorts."""
        return self.time.isoformat(timespec="milliseconds")


def night_figures(document: ReportDocument) -> NightFigures:
    """What a night keeps of a report."""
    gap = document.performance_gap
    shown = ("reason", "estimated", "source_loss", "target_loss", "loss_gap", "ci95", "p_value", "detected",
             "source_miou", "target_miou")  # fmt: skip
    return NightFigures(
        headline=document.headline, source=document.source.name, target=document.target.name,
        schema_version=document.schema_version, **{name: getattr(gap, name) for name in shown},
        unexplained=document.unexplained, recipe_closes=Estimate(
            value=document.recipe.gap_closed, ci95=document.recipe.ci95, estimated=document.recipe.estimated),
        latent_gap=document.latent_gap, causes=_causes(document),
        shares={row.family: Estimate(value=row.share, ci95=row.ci95, estimated=row.estimated)
                for row in document.attribution},
        traits_beyond_chance=sum(t.q_value is not None and t.q_value <= SIGNIFICANT for t in document.traits),
    )  # fmt: skip


SIGNIFICANT = 0.05


def _causes(document: ReportDocument) -> list[CauseFigure]:
    """Every suspected cause that has an experiment or a price, in the hypotheses' order."""
    priced = {step.experiment: step for step in document.explanation.steps} if document.explanation else {}
    tried = dict.fromkeys([*(row.hypothesis for row in document.experiments), *priced])
    families = {row.id: row.family for row in document.hypotheses}
    found = []
    for name in tried:
        rows = [row for row in document.experiments if row.hypothesis == name]
        row = leading_experiment(document, name) or min(
            rows, key=lambda one: VERDICTS.index(one.verdict), default=None
        )  # fmt: skip
        step = priced.get(name)
        share, bounds, _ = share_of_gap(row) if row is not None else (None, None, "")
        verdict = row.verdict if row is not None else "inconclusive"
        if step is not None and step.verdict is not None:
            share, bounds, verdict = step.gap_share, step.gap_share_ci95, step.verdict
        found.append(CauseFigure(
            id=name, title=row.title if row is not None else step.title if step is not None else name,
            family=row.family if row is not None else families.get(name, "other"), verdict=verdict,
            root=name in document.root_causes, share=share, ci95=bounds,
        ))  # fmt: skip
    return found
