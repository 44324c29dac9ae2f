"""Answers against the truth: each gate's figure with its interval, beside what the baselines make of the same cases.

Belongs here: what counts as right, rates, errors and their intervals, the gates. Does not: running cases, layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from gapbench.damage import HARMLESS
from gapbench.plants import same_cause

CAUSE_OF = {
    "exposure": "gamma", "exposure_per_image": "gamma", "white_balance_per_image": "white_balance",
    "channel_statistics": "colour_cast", "channel_statistics_per_image": "colour_cast", "histogram": "colour_cast",
    "lab": "colour_cast", "lab_per_image": "colour_cast", "fda_b01": "colour_cast", "fda_b05": "colour_cast",
    "fda_b09": "colour_cast", "sharpness": "blur", "resolution": "low_resolution", "aspect_windows": "aspect",
    "aspect_letterbox": "aspect", "object_scale": "field_of_view", "label_errors": "label_policy",
}  # fmt: skip
"""The truth's name for a hypothesis of the product; the same name where it is not listed."""
STRONG = 0.0999
"""Damage from which a single plant counts for the gates."""
POWER_AT = 0.1
MOSTLY = 0.5
"""Share of the gap below which confirmed causes leave it unexplained."""
DRAWS = 2000

Row = dict[str, Any]


@dataclass(frozen=True)
class Rate:
    """Hits of trials, with the exact 95% interval of Clopper and Pearson (1934)."""

    hits: int
    trials: int

    @property
    def value(self) -> float:
        """The share; NaN without trials."""
        return self.hits / self.trials if self.trials else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound."""
        low = stats.beta.ppf(0.025, self.hits, self.trials - self.hits + 1) if self.hits else 0.0
        high = stats.beta.ppf(0.975, self.hits + 1, self.trials - self.hits) if self.hits < self.trials else 1.0
        return float(low), float(high)

    def __str__(self) -> str:
        return f"{self.hits}/{self.trials}"


@dataclass(frozen=True)
class Figure:
    """One line of the table. `count` says of how many cases; `gate` what is asked, `met` whether it holds."""

    name: str
    value: float
    interval: tuple[float, float]
    count: str
    gate: str = ""
    met: bool | None = None


def figures(rows: Iterable[Row]) -> list[Figure]:
    """The table: the gates first, then what explains them, then the baselines."""
    answered = [row for row in rows if row["answer"] is not None]
    null = [row for row in answered if not row["causes"]]
    unknown = [row for row in answered if row["causes"] == ["unknown"]]
    planted = [_with_damage(row) for row in answered if row["causes"] and row not in unknown]
    single, mixed = ([row for row in planted if (len(row["causes"]) > 1) == many] for many in (False, True))
    strong = [row for row in single if row["damage"] >= STRONG]
    weakest = [row for row in strong if abs(row["damage"] - POWER_AT) < 1e-6]
    distracted = [row for row in single if row["distractor"] and _harmless(row)]
    errors, covered = _share_errors(planted)
    ours = _rate(strong, lambda row: _right(first_answer(row), row))
    alarm = _rate(null, lambda row: bool(row["answer"]["causes"]))
    baselines = _baselines(strong)
    best = max((figure.value for figure in baselines), default=math.nan)
    return [
        Figure("false alarm at the null", alarm.value, alarm.interval, str(alarm), "upper bound ≤ 0.05",
               alarm.interval[1] <= 0.05),
        _gate("top-1 cause, single plants, damage ≥ 10%", ours, 0.9),
        _mean_gate("mixed: F1 of the confirmed set", mixed, _f1, 0.8),
        _mean_gate("mixed: Kendall τ of shares", mixed, _tau, 0.7),
        _gate("distractor rejection", _rate(distracted, _rejected), 0.95),
        _gate("'unexplained' on unknown causes", _rate(unknown, _unexplained), 0.8),
        _mean_gate("share of the gap: mean absolute error", errors, np.mean, 0.1, below=True),
        _between("share of the gap: interval coverage", Rate(sum(covered), len(covered)), 0.9, 0.98),
        _mean_gate("severity against damage, Spearman within a plant", _by_plant(single), _spearman, 0.9),
        _gate("power at damage 10%", _rate(weakest, _found), 0.8),
        Figure("top-1 beyond the best baseline", ours.value - best, (math.nan, math.nan), str(ours), "≥ 0.15",
               ours.value - best >= 0.15),
        *_details(answered, single, strong, mixed, unknown),
        *baselines,
    ]  # fmt: skip


def named(hypothesis: str) -> str:
    """A hypothesis in the truth's words."""
    return CAUSE_OF.get(hypothesis, hypothesis)


def first_answer(row: Row) -> str | None:
    """The product's first answer: the costliest root cause, else the first that explains the shift."""
    found = row["answer"]["causes"] or row["answer"]["named"]
    return str(found[0]) if found else None


def _details(
    answered: list[Row], single: list[Row], strong: list[Row], mixed: list[Row], unknown: list[Row]
) -> list[Figure]:
    content = [row for row in answered if _content(row)]
    gap = [row for row in strong if row["answer"]["detected"]]
    causes = sorted({row["causes"][0] for row in single})
    return [
        _plain("top-1 confirmed cause, damage ≥ 10%",
               _rate(strong, lambda row: _right(_first(row["answer"]["causes"]), row))),
        _plain("the gap itself is significant, damage ≥ 10%", Rate(len(gap), len(strong))),
        _plain("top-1 cause where the gap is significant", _rate(gap, lambda row: _right(first_answer(row), row))),
        _plain("mixed: every planted cause confirmed, nothing else", _rate(mixed, lambda row: _f1([row]) == 1)),
        _plain("content by selection: top-1", _rate(content, lambda row: _right(first_answer(row), row))),
        _plain("unknown causes: nothing confirmed at all", _rate(unknown, lambda row: not row["answer"]["causes"])),
        *(_plain(f"  {cause}: top-1, damage ≥ 10%", _rate([row for row in strong if row["causes"] == [cause]],
                                                         lambda row: _right(first_answer(row), row)))
          for cause in causes),
    ]  # fmt: skip


def _baselines(strong: list[Row]) -> list[Figure]:
    names = sorted({name for row in strong for name in row.get("baselines", {})})
    return [
        _plain(f"baseline {name}: top-1, damage ≥ 10%",
               _rate(strong, lambda row, name=name: _right(_first(row["baselines"][name]), row)))  # type: ignore[misc]
        for name in names
    ]  # fmt: skip


def _with_damage(row: Row) -> Row:
    """Content can't be planted at will: its damage is what the choice of pictures has cost."""
    return row | {"damage": row["truth"][row["causes"][0]] / _source_loss(row)} if _content(row) else row


def _source_loss(row: Row) -> float:
    return float(row["answer"]["gap"] / row["answer"]["relative_gap"])


def _content(row: Row) -> bool:
    return len(row["causes"]) == 1 and row["causes"][0].startswith("content_")


def _first(found: Sequence[str]) -> str | None:
    return found[0] if found else None


def _right(answer: str | None, row: Row) -> bool:
    return answer is not None and any(same_cause(named(answer), cause) for cause in row["causes"])


def _found(row: Row) -> bool:
    return any(_right(name, row) for name in row["answer"]["causes"])


def _harmless(row: Row) -> bool:
    """Whether the distractor does no harm beside the plant, either: some plants make a harmless shift costly."""
    return bool(row["truth"][row["distractor"]] <= 2 * HARMLESS * _source_loss(row))


def _unexplained(row: Row) -> bool:
    """Whether the product leaves most of the gap unexplained: nothing confirmed, or less than half of it.

    A change that nobody has a name for still has nameable sides (rain brightens a picture), and these may cost.
    """
    answer = row["answer"]
    confirmed = sum(answer["shares"][name][0] for name in answer["causes"] if name in answer["shares"])
    return not answer["causes"] or (answer["detected"] and confirmed < MOSTLY)


def _rejected(row: Row) -> bool:
    return not any(same_cause(named(name), row["distractor"]) for name in row["answer"]["causes"])


def _rate(rows: Sequence[Row], hit: Callable[[Row], bool]) -> Rate:
    return Rate(sum(bool(hit(row)) for row in rows), len(rows))


def _f1(rows: Sequence[Row]) -> float:
    """Of all mixed cases together: causes of one equivalence class count once."""
    hits = wrong = missed = 0
    for row in rows:
        answers = _classes(named(name) for name in row["answer"]["causes"])
        truths = _classes(row["causes"])
        right = sum(any(same_cause(one, truth) for truth in truths) for one in answers)
        hits, wrong, missed = hits + right, wrong + len(answers) - right, missed + len(truths) - right
    return 2 * hits / (2 * hits + wrong + missed) if rows else math.nan


def _classes(causes: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for cause in causes:
        if not any(same_cause(cause, other) for other in kept):
            kept.append(cause)
    return kept


def _tau(rows: Sequence[Row]) -> float:
    """Mean over cases of τ-b between the true costs of the plants and what the product makes of them."""
    found = []
    for row in rows:
        truth = [row["truth"][cause] for cause in row["causes"]]
        given = [_cost(row, cause) for cause in row["causes"]]
        tau = stats.kendalltau(truth, given).statistic
        found.append(0.0 if math.isnan(tau) else tau)
    return float(np.mean(found)) if found else math.nan


def _cost(row: Row, cause: str) -> float:
    """What the product says that a cause costs, in units of the holdout's loss; 0 where it does not name it."""
    costs = row["answer"]["costs"]
    return float(sum(cost for name, cost in costs.items() if same_cause(named(name), cause)))


def _share_errors(rows: Sequence[Row]) -> tuple[list[float], list[bool]]:
    """Errors of the shares of planted causes, and whether the intervals hold the truth, where there is a gap.

    The truth is the plant's cost on the target's own pictures as a share of the gap that was measured.
    """
    errors, covered = [], []
    for row in rows:
        if not row["answer"]["detected"]:
            continue
        for cause in row["causes"]:
            truth = row["truth"][cause] / row["answer"]["gap"]
            matching = [found for name, found in row["answer"]["shares"].items() if same_cause(named(name), cause)]
            errors.append(abs(sum(found[0] for found in matching) - truth))
            if len(matching) == 1:
                covered.append(matching[0][1] <= truth <= matching[0][2])
    return errors, covered


def _by_plant(single: Sequence[Row]) -> list[list[Row]]:
    plants = sorted({row["case"].rsplit("/", 1)[0] for row in single})
    groups = [[row for row in single if row["case"].rsplit("/", 1)[0] == plant] for plant in plants]
    return [group for group in groups if len(group) > 2]


def _spearman(groups: Sequence[list[Row]]) -> float:
    """Mean over plants of the rank correlation between the true and the stated cost."""
    found = []
    for group in groups:
        truth = [row["truth"][row["causes"][0]] for row in group]
        given = [_cost(row, row["causes"][0]) for row in group]
        rho = stats.spearmanr(truth, given).statistic if len(set(given)) > 1 else 0.0
        found.append(float(rho))
    return float(np.mean(found)) if found else math.nan


def _gate(name: str, rate: Rate, least: float) -> Figure:
    return Figure(name, rate.value, rate.interval, str(rate), f"≥ {least:.2f}", rate.value >= least)


def _plain(name: str, rate: Rate) -> Figure:
    return Figure(name, rate.value, rate.interval, str(rate))


def _between(name: str, rate: Rate, low: float, high: float) -> Figure:
    return Figure(name, rate.value, rate.interval, str(rate), f"{low:.2f}–{high:.2f}", low <= rate.value <= high)


def _mean_gate(
    name: str, cases: Sequence[Any], figure: Callable[[Any], Any], bound: float, *, below: bool = False
) -> Figure:
    """A figure of cases with its percentile bootstrap interval over them."""
    if not cases:
        return Figure(name, math.nan, (math.nan, math.nan), "0", f"{'≤' if below else '≥'} {bound:.2f}", None)
    rng = np.random.default_rng(0)
    drawn = [figure([cases[place] for place in rng.integers(len(cases), size=len(cases))]) for _ in range(DRAWS)]
    value, (low, high) = float(figure(cases)), np.nanquantile(drawn, (0.025, 0.975))
    met = value <= bound if below else value >= bound
    return Figure(name, value, (float(low), float(high)), str(len(cases)), f"{'≤' if below else '≥'} {bound:.2f}", met)
