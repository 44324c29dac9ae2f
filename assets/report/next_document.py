"""What the report says of what to do next, as data: which samples to label, in which files the recipe is.

Belongs here: parts of `report.json` on acting. Does not: the document that holds them (`document.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from assets.report.schema import Part

SHOWN = 24
"""Samples that the report lists; all are in `next_samples.csv`."""


class NextSample(Part):
    """A sample to label next, and what it stands for.

    `expected_loss` in nats: the known loss, or the predictions' mean entropy where there is no label (`loss_is`).
    `stands_for`: uncovered samples that have it as their nearest listed one. `radius`: the largest distance of any
    uncovered sample to its nearest reference or listed sample once it and all before it are in.
    """

    rank: int
    sample_id: str
    group: str
    expected_loss: float
    loss_is: Literal["loss", "entropy"]
    gap_score: float
    conformal_p: float
    stands_for: int
    radius: float
    nearest_reference: str
    distance: float


class NextSamples(Part):
    """The first of the samples to label next, of `listed` in all.

    `uncovered` of `samples` have a conformal p-value of `threshold` at most; before any is labelled, the farthest of
    them lies `radius_before` from the reference.
    """

    samples: int
    uncovered: int
    listed: int
    threshold: float
    radius_before: float | None
    chosen: list[NextSample]


class RecipeForm(Part):
    """One file of the recipe; where it was not `written`, `note` says why."""

    name: str
    written: bool
    note: str


def next_part(found: Mapping[str, Any]) -> NextSamples:
    """The list of `assets/scoring/next_samples.py` as the report has it."""
    rows = [{name: value for name, value in row.items() if name != "image"} for row in found["chosen"][:SHOWN]]
    return NextSamples(**{**found, "listed": len(found["chosen"]), "chosen": rows})
