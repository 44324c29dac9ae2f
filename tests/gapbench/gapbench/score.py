"""Answers against the truth: the gates as a table, each with its Clopper–Pearson interval.

Belongs here: what counts as right, rates and their intervals. Does not: running cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from scipy import stats

from gapbench.plants import same_cause

CAUSE_OF = {
    "exposure": "gamma", "exposure_per_image": "gamma", "white_balance": "white_balance",
    "white_balance_per_image": "white_balance", "channel_statistics": "colour_cast",
    "channel_statistics_per_image": "colour_cast", "lab": "colour_cast", "lab_per_image": "colour_cast",
    "sharpness": "blur", "resolution": "low_resolution", "aspect_windows": "aspect", "aspect_letterbox": "aspect",
}  # fmt: skip
"""The truth's name for a hypothesis of the product; the same name where it is not listed."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Rate:
    """Hits of trials, with the exact 95% interval of Clopper and Pearson (1934)."""

    hits: int
    trials: int

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound."""
        low = stats.beta.ppf(0.025, self.hits, self.trials - self.hits + 1) if self.hits else 0.0
        high = stats.beta.ppf(0.975, self.hits + 1, self.trials - self.hits) if self.hits < self.trials else 1.0
        return float(low), float(high)

    def __str__(self) -> str:
        if not self.trials:
            return "no case"
        low, high = self.interval
        return f"{self.hits}/{self.trials} = {self.hits / self.trials:.2f} [{low:.2f}, {high:.2f}]"


def named(hypothesis: str) -> str:
    """A hypothesis in the truth's words."""
    return CAUSE_OF.get(hypothesis, hypothesis)


def table(rows: Iterable[Row]) -> dict[str, Rate]:
    """Rates by figure."""
    answered = [row for row in rows if row["answer"] is not None]
    null = [row for row in answered if not row["causes"]]
    single = [row for row in answered if len(row["causes"]) == 1 and row["causes"] != ["unknown"]]
    planted = [row for row in single if not row["causes"][0].startswith("content_")]
    strong = [row for row in planted if row["damage"] >= 0.1]
    pairs = [row for row in answered if len(row["causes"]) > 1]
    unknown = [row for row in answered if row["causes"] == ["unknown"]]
    return {
        "false alarm at the null": _rate(null, lambda row: bool(row["answer"]["causes"])),
        "gap found, damage ≥ 10%": _rate(strong, lambda row: row["answer"]["detected"]),
        "first explanation of the shift, damage ≥ 10%": _rate(strong, lambda row: _first(row, "named")),
        "top-1 confirmed cause, damage ≥ 10%": _rate(strong, lambda row: _first(row, "causes")),
        "top-1 confirmed cause, where a gap was found": _rate(
            [row for row in strong if row["answer"]["detected"]], lambda row: _first(row, "causes")
        ),
        "content by selection, top-1": _rate(
            [row for row in single if row not in planted], lambda row: _first(row, "causes")
        ),
        "pairs: both explained, nothing else": _rate(pairs, _both),
        "nothing confirmed on unknown causes": _rate(unknown, lambda row: not row["answer"]["causes"]),
    }


def _rate(rows: list[Row], hit: Callable[[Row], bool]) -> Rate:
    return Rate(sum(hit(row) for row in rows), len(rows))


def _first(row: Row, field: str) -> bool:
    found = row["answer"][field]
    return bool(found) and same_cause(named(found[0]), row["causes"][0])


def _both(row: Row) -> bool:
    found = [named(name) for name in row["answer"]["named"]]
    return len(found) == len(row["causes"]) and all(
        any(same_cause(cause, name) for name in found) for cause in row["causes"]
    )
