"""The section on the model's parts, as data.

Belongs here: what `report.json` says under `model_parts`. Does not: markup, figures, computing.
"""

from __future__ import annotations

from typing import Literal

from assets.report.schema import Interval, Number, Part

Transfer = Literal["transfers", "transfers in part", "does not transfer", "unclear"]


class PartGapRow(Part):
    """The gap of a part's activations, holdout against target.

    `pad`: proxy A-distance of the outputs' means over each picture, `pad_p` of a permutation, `pad_q` corrected over
    the parts. `shift`: of the outputs' moments, in the holdout's deviations; `entering`: that of what feeds the part;
    `rise`: shift − entering. `norm_target`, `norm_holdout`: distance of what enters the batch norms from their running
    statistics, in running deviations; null without batch norm. Floors: 95% points between halves of the holdout.
    """

    pad: Number
    pad_p: Number
    pad_q: Number
    pad_floor: Number
    shift: Number
    shift_floor: Number
    entering: Number
    rise: Number
    rise_ci95: Interval = None
    rise_q: Number
    norm_target: Number
    norm_holdout: Number


class EffectRow(Part):
    """What an intervention does to the loss of one side, after − before, paired; `q_value`: corrected over parts."""

    loss_change: Number
    ci95: Interval = None
    p_value: Number
    q_value: Number
    samples: int


class InterventionRow(Part):
    """One intervention on a part: replaced by its mean, its statistics re-estimated, bypassed, or trained alone."""

    intervention: Literal["mean", "statistics", "bypass", "fine-tuning"]
    holdout: EffectRow | None = None
    target: EffectRow | None = None
    reason: str | None = None


class WorthRow(Part):
    """The loss that a part saves, as a share of the loss of a prediction that is the same everywhere.

    `difference`: target − holdout, with its interval and its p-value, corrected over the parts in `q_value`.
    """

    holdout: Number
    target: Number
    difference: Number
    ci95: Interval = None
    p_value: Number
    q_value: Number


class PartRow(Part):
    """One part of the model, in data-flow order.

    `output`: the module whose output is the part's; `grows`: the gap of its activations grows there; `misfit`: its
    statistics don't fit the target.
    """

    name: str
    output: str
    channels: int
    parameters: int
    fed_by: list[str]
    gap: PartGapRow
    interventions: list[InterventionRow]
    worth: WorthRow | None = None
    transfer: Transfer
    grows: bool
    misfit: bool
    reasons: list[str]
    tuning_steps: int | None = None
    planned_steps: int | None = None

    @property
    def counts(self) -> bool:
        """Whether a shift there can matter: not where the part was replaced and nothing beyond noise was lost by it."""
        return self.worth is None or self.transfer != "unclear"

    def effect(self, intervention: str, side: str) -> EffectRow | None:
        """What one intervention does on one side; None where it was not made."""
        found = next((row for row in self.interventions if row.intervention == intervention), None)
        return None if found is None else found.holdout if side == "holdout" else found.target


class ModelPartsRow(Part):
    """Which parts of the model transfer. `skipped`, `without_losses`: why all, or all losses, are missing.

    `origin`: the part at which the shift does its damage. `pictures`: looked at on each side, and those whose losses
    were compared.
    """

    sentence: str
    skipped: str | None = None
    without_losses: str | None = None
    origin: str | None = None
    pictures: dict[str, int] = {}
    parts: list[PartRow] = []
