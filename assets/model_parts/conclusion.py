"""Which parts transfer and where the shift does its damage: the rules, each part's reasons, one sentence.

Belongs here: effects from rows of losses, the rules on them, words. Does not: measuring (`activations.py`,
`ablation.py`, `recovery.py`).

The rules, and what was known when each was laid down, are in docs/model-parts.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from assets.model_parts.ablation import INTERVENTIONS, SIDES, Side
from assets.model_parts.activations import PartGap
from assets.model_parts.parts import Part
from assets.statistics.multiplicity import holm
from assets.statistics.ratios import linearised_ratio
from assets.statistics.resampling import PairedTest, paired_cluster_test, two_sample_cluster_test

Transfer = Literal["transfers", "transfers in part", "does not transfer", "unclear"]

HALF = 0.5
"""A part whose worth on the target is below this share of that on the holdout does not transfer."""
GROWTH = 1.5
"""A gap that leaves a part this much larger than it entered has grown there."""
RECOVERY = "fine-tuning"
"""The intervention under which the losses after training one part are kept."""


@dataclass(frozen=True)
class Effect:
    """What an intervention does to the loss of a side: after − before, its interval, p-value, and Holm's over parts."""

    loss_change: float
    ci95: tuple[float, float]
    p_value: float
    q_value: float
    samples: int

    def above(self, alpha: float) -> bool:
        """Whether the loss rises beyond noise."""
        return self.q_value <= alpha and self.loss_change > 0

    def below(self, alpha: float) -> bool:
        """Whether the loss falls beyond noise."""
        return self.q_value <= alpha and self.loss_change < 0


@dataclass(frozen=True)
class Worth:
    """The loss that a part saves, as a share of the loss of a prediction that is the same everywhere."""

    holdout: float
    target: float
    difference: float
    ci95: tuple[float, float]
    p_value: float
    q_value: float


@dataclass(frozen=True)
class Concluded:
    """What is said of one part. `grows`: the gap of its activations grows there; `misfit`: its statistics don't fit.

    `useful`: it is worth something on the holdout, beyond noise.
    """

    transfer: Transfer
    useful: bool
    grows: bool
    misfit: bool
    reasons: list[str]


Effects = dict[tuple[str, str], dict[Side, Effect]]
"""By part and intervention, then by side."""


def effects(rows: pl.DataFrame, before: Mapping[Side, pl.DataFrame], parts: Sequence[Part]) -> Effects:
    """Paired effects of every intervention; p-values are corrected over the parts, by intervention and side.

    `before`: untouched losses with columns sample_id, loss, unit.
    """
    found: Effects = {}
    for intervention in (*INTERVENTIONS, RECOVERY):
        for side in SIDES:
            tests: dict[str, tuple[PairedTest, int]] = {}
            for part in parts:
                pairs = paired(rows, before[side], part, intervention, side)
                if pairs.height:
                    change = (pairs["loss"] - pairs["before"]).to_numpy()
                    tests[part.name] = paired_cluster_test(change, pairs["unit"].to_list()), pairs.height
            corrected = holm([test.p_value for test, _ in tests.values()])
            for (name, (test, count)), q_value in zip(tests.items(), corrected, strict=True):
                effect = Effect(test.mean, test.ci95, test.p_value, float(q_value), count)
                found.setdefault((name, intervention), {})[side] = effect
    return found


def worths(rows: pl.DataFrame, before: Mapping[Side, pl.DataFrame], parts: Sequence[Part]) -> dict[str, Worth]:
    """What each part is worth on both sides, in shares of what there is to win there, and the difference tested.

    The unit is the loss with the last part replaced by its mean, a prediction that is the same everywhere: it says
    how hard a set's mix of classes is, whatever the network does there, so that one harder set does not accuse every
    part. Differences are corrected over the parts (Holm).
    """
    tests: dict[str, tuple[float, float, PairedTest]] = {}
    for part in parts:
        shares = [_share(rows, before[side], part, parts[-1], side) for side in SIDES]
        if all(len(values) for values, _ in shares):
            holdout, target = (float(values.mean()) for values, _ in shares)
            tests[part.name] = holdout, target, two_sample_cluster_test(*shares[1], *shares[0])
    corrected = holm([test.p_value for _, _, test in tests.values()])
    return {
        name: Worth(holdout, target, test.mean, test.ci95, test.p_value, float(q_value))
        for (name, (holdout, target, test)), q_value in zip(tests.items(), corrected, strict=True)
    }


def paired(rows: pl.DataFrame, before: pl.DataFrame, part: Part, intervention: str, side: Side) -> pl.DataFrame:
    """Losses after and before of the same samples: sample_id, loss, before, unit."""
    own = rows.filter(
        (pl.col("part") == part.name) & (pl.col("intervention") == intervention) & (pl.col("side") == side)
    )
    untouched = before.select("sample_id", pl.col("loss").alias("before"), "unit")
    return own.select("sample_id", "loss").join(untouched, on="sample_id", how="inner").sort("sample_id")


def _share(
    rows: pl.DataFrame, before: pl.DataFrame, part: Part, last: Part, side: Side
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], list[str]]:
    own = paired(rows, before, part, "mean", side)
    whole = paired(rows, before, last, "mean", side).select("sample_id", pl.col("loss").alias("constant"))
    pairs = own.join(whole, on="sample_id", how="inner").sort("sample_id")
    if pairs.is_empty():
        return np.zeros(0), []
    saved = (pairs["loss"] - pairs["before"]).to_numpy()
    return linearised_ratio(saved, pairs["constant"].to_numpy()), pairs["unit"].to_list()


# --- rules ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measures:
    """All that was measured of one target's parts, by name; without losses only the gaps.

    `target_loss`: the untouched one of the samples that effects are measured on.
    """

    gaps: dict[str, PartGap]
    effects: Effects
    worths: dict[str, Worth]
    target_loss: float = math.nan


def conclude(part: Part, measures: Measures, alpha: float, smallest_effect: float) -> Concluded:
    """The rules on one part. Without losses (an unlabelled target) transfer is unclear and says so.

    `smallest_effect`: the share of the target's loss that re-estimated statistics must take off to be told.
    """
    gap, found, worth = measures.gaps[part.name], measures.effects, measures.worths.get(part.name)
    transfer, why = _transfer(found.get((part.name, "mean"), {}), worth, alpha)
    grows = gap.rise_q <= alpha and gap.shift > _or_zero(gap.shift_floor) and gap.shift >= GROWTH * gap.entering
    reasons = [why]
    if grows:
        reasons.append(f"its activations shift by {gap.shift:.2f} deviations where {gap.entering:.2f} enter")
    statistics = found.get((part.name, "statistics"), {})
    misfit = set(statistics) == set(SIDES) and statistics["target"].below(alpha)
    misfit = misfit and -statistics["target"].loss_change >= smallest_effect * measures.target_loss
    misfit = misfit and not statistics["holdout"].below(alpha)
    if misfit:
        change = statistics["target"].loss_change
        reasons.append(
            f"its own statistics re-estimated take {-change:.3f} off the target's loss, and none off the holdout's"
        )
    mean = found.get((part.name, "mean"), {})
    useful = "holdout" in mean and mean["holdout"].above(alpha)
    return Concluded(transfer, useful, grows, misfit, reasons)


def _transfer(help_: Mapping[Side, Effect], worth: Worth | None, alpha: float) -> tuple[Transfer, str]:
    if not help_ or worth is None:
        return "unclear", "no loss was compared"
    helps = {side: help_[side].above(alpha) for side in SIDES}
    told = f"it is worth {_percent(worth.target)} on the target, {_percent(worth.holdout)} on the holdout"
    if not helps["holdout"]:
        return "unclear", f"replacing it costs the holdout nothing beyond noise ({told})"
    less = worth.q_value <= alpha and worth.difference < 0
    if less and (worth.target < HALF * worth.holdout or not helps["target"]):
        return "does not transfer", told
    if less:
        return "transfers in part", told
    if helps["target"]:
        return "transfers", told
    return "unclear", f"what it is worth on the target is within noise ({told})"


def origin(parts: Sequence[Part], found: Mapping[str, Concluded], measures: Measures) -> str | None:
    """The part at which the shift does its damage; None where it can't be told.

    Of the parts at which the gap grows, and that lose worth or reach one that does (where losses were compared), the
    one at which it grows most, in proportion to what enters. Where it grows at none of them: of the parts that do not
    transfer, the one that keeps the least of its worth among those that no losing part feeds.
    """
    worths, gaps = measures.worths, measures.gaps
    losing = {name for name, one in found.items() if one.transfer in ("does not transfer", "transfers in part")}
    grown = [part.name for part in parts if found[part.name].grows]
    if worths:
        grown = [name for name in grown if losing & {name, *_reached(parts, name)}]
    if grown:
        growth = {name: gaps[name].shift / gaps[name].entering if gaps[name].entering else math.inf for name in grown}
        return max(grown, key=lambda name: growth[name])
    inherited = {after for name in losing for after in _reached(parts, name)}
    lost = [part.name for part in parts if found[part.name].transfer == "does not transfer"]
    first = [name for name in lost if name not in inherited] or lost
    return min(first, key=lambda name: worths[name].target / worths[name].holdout, default=None)


def _reached(parts: Sequence[Part], name: str) -> set[str]:
    """Names of the parts that a part feeds, directly or not; parts are in data-flow order."""
    reached = {name}
    for part in parts:
        if reached & set(part.fed_by):
            reached.add(part.name)
    return reached - {name}


# --- words ------------------------------------------------------------------------------------------------------------


def sentence(
    target: str, parts: Sequence[Part], found: Mapping[str, Concluded], measures: Measures, without: str | None
) -> str:  # fmt: skip
    """The answer for one target. `without`: why no loss was compared."""
    where = _where(origin(parts, found, measures), found, measures)
    if without:
        return f"{target}: what the parts are worth is not known ({without}); {where or 'the shift grows at no part'}."
    words: list[Transfer] = ["transfers", "transfers in part", "does not transfer"]
    named = {word: [part.name for part in parts if found[part.name].transfer == word] for word in words}
    untold = [part.name for part in parts if found[part.name].transfer == "unclear" and found[part.name].useful]
    phrases = [f"{listed(names)} {_verb(word, names)}" for word, names in named.items() if names]
    if len(phrases) == 1 and named["transfers"] and not untold:
        phrases = ["every part that is worth something transfers"]
    if untold:
        phrases.append(f"of {listed(untold)} it can't be told")
    told = "; ".join(phrases) or "no part is worth anything on the holdout beyond noise"
    return f"{target}: {told}." + (f" {_capital(where)}." if where else "")


def _where(name: str | None, found: Mapping[str, Concluded], measures: Measures) -> str:
    if name is None:
        return ""
    gap = measures.gaps[name]
    if found[name].grows:
        return f"the shift grows most at {_the(name)}, from {gap.entering:.2f} deviations to {gap.shift:.2f}"
    worth = measures.worths[name]
    return f"most is lost at {_the(name)}, worth {_percent(worth.target)} where it was {_percent(worth.holdout)}"


def _the(name: str) -> str:
    return name if name.startswith("encoder stage") else f"‘{name}’"


def _verb(word: Transfer, names: Sequence[str]) -> str:
    plural = {"transfers": "transfer", "transfers in part": "transfer in part", "does not transfer": "do not transfer"}
    return word if len(names) == 1 else plural[word]


def listed(names: Sequence[str]) -> str:
    """Names in one phrase, stages of the encoder that follow one another taken together."""
    phrases: list[str] = []
    run: list[int] = []
    stage = "encoder stage "
    for name in [*names, ""]:
        number = int(name.removeprefix(stage)) if name.startswith(stage) else None
        if run and number != run[-1] + 1:
            phrases.append(f"{stage}{run[0]}" if len(run) == 1 else f"encoder stages {run[0]} to {run[-1]}")
            run = []
        if number is not None:
            run.append(number)
        elif name:
            phrases.append(name)
    comma = any("," in phrase for phrase in phrases)
    if len(phrases) < 2:  # noqa: PLR2004
        return "".join(phrases)
    return f"{('; ' if comma else ', ').join(phrases[:-1])}{'; and' if comma else ' and'} {phrases[-1]}"


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("-", "−")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
