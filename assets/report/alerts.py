"""What is worth telling somebody about: a target's nights against the rules of the config.

Belongs here: the decision, as sentences. Does not: cool-downs and sending (`telling.py`), Dagster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from assets.report.changes import GAP
from assets.report.night import FigureChange, Night, NightFigures
from assets.report.page import number, signed
from resources.config import AlertsConfig, ChangeAlert

AUROC = "latent/knn_auroc"
Differ = Callable[[Night, Night], Sequence[FigureChange]]
"""The changes from one night to another, as `changes.figure_changes` gives them."""


@dataclass(frozen=True)
class Alert:
    """A rule that is broken. `subject` tells alerts of one rule apart; each has a cool-down of its own."""

    rule: str
    subject: str
    text: str

    @property
    def key(self) -> str:
        """What its cool-down is kept under."""
        return f"{self.rule}/{self.subject}" if self.subject else self.rule


def found_alerts(nights: Sequence[Night], rules: AlertsConfig, now: datetime, differ: Differ) -> list[Alert]:
    """Every rule that a target breaks at a time, by its nights, oldest first; figures not defined break none."""
    if not nights:
        return []
    tonight, earlier = nights[-1], nights[:-1]
    found = [*_late(tonight, rules, now), *_quality(tonight, rules)]
    if tonight.figures is None:
        return found
    found += [*_levels(tonight.figures, rules), *_closed_drop(tonight.figures, earlier, rules)]
    if rules.change is not None:
        found += _changed(tonight, earlier[-rules.change.nights :], rules.change, differ)
    return [*found, *_new_causes(tonight, rules)]


def _late(last: Night, rules: AlertsConfig, now: datetime) -> list[Alert]:
    hours = rules.no_check_hours
    if hours is None or now - last.time <= timedelta(hours=hours):
        return []
    age = (now - last.time) / timedelta(hours=1)
    return [Alert("no_check_hours", "", f"no check for {age:.0f} hours (at most {hours:g}): the last was at "
                                        f"{last.time:%Y-%m-%d %H:%M} UTC")]  # fmt: skip


def _quality(tonight: Night, rules: AlertsConfig) -> list[Alert]:
    failed = [check for check in tonight.failed_checks if check.severity == "ERROR"] if rules.quality else []
    return [
        Alert("quality", f"{check.dataset}/{check.name}",
              f"data check {check.name.replace('_', ' ')} fails on {check.dataset}: {check.detail.rstrip('.')}")
        for check in failed
    ]  # fmt: skip


def _levels(figures: NightFigures, rules: AlertsConfig) -> list[Alert]:
    found = []
    gap, estimated = figures.loss_gap, "estimated " if figures.estimated else ""
    if rules.loss_gap is not None and gap is not None and gap > rules.loss_gap:
        found.append(Alert("loss_gap", "", f"{estimated}loss gap {gap:.3f} is above {rules.loss_gap:.3f}"))
    row = figures.latent_gap.get("knn_auroc")
    if rules.knn_auroc is not None and row is not None and row.value is not None and row.value > rules.knn_auroc:
        found.append(Alert("knn_auroc", "", f"kNN AUROC {row.value:.3f} is above {rules.knn_auroc:.3f}"))
    return found


def _closed_drop(figures: NightFigures, earlier: Sequence[Night], rules: AlertsConfig) -> list[Alert]:
    before = earlier[-1].figures if earlier else None
    known = before.recipe_closes.value if before is not None else None
    if rules.gap_closed_drop is None or known is None:
        return []
    closed = figures.recipe_closes.value or 0.0
    if known - closed <= rules.gap_closed_drop:
        return []
    told = f"the recipe closes {closed:.0%} of the gap, {known - closed:.0%} less than before"
    return [Alert("gap_closed_drop", "", told)]


def _changed(tonight: Night, earlier: Sequence[Night], rule: ChangeAlert, differ: Differ) -> list[Alert]:
    """Against the night whose figure is the median of the last ones: a night of its own, with samples of its own."""
    found = []
    for key, name, least in ((GAP, "loss gap", rule.loss_gap), (AUROC, "kNN AUROC", rule.knn_auroc)):
        known = sorted(((value, place) for place, night in enumerate(earlier)
                        if (value := _figure(night, key)) is not None))  # fmt: skip
        value = _figure(tonight, key)
        if least is None or value is None or not known:
            continue
        before, place = known[(len(known) - 1) // 2]
        change = next((one for one in differ(earlier[place], tonight) if one.key == key), None)
        if change is not None and change.beyond_noise and abs(change.difference) > least:
            word = "rose" if change.difference > 0 else "fell"
            count = f"the last {len(known)} nights" if len(known) > 1 else "the night before"
            median = "a median of " if len(known) > 1 else ""
            found.append(
                Alert(
                    "change",
                    key,
                    f"{name} {word} from {median}{number(before)} over {count} to "
                    f"{number(value)} ({signed(change.difference)}, beyond its noise)",
                )
            )
    return found  # fmt: skip


def _figure(night: Night, key: str) -> float | None:
    if night.figures is None:
        return None
    if key == GAP:
        return night.figures.loss_gap
    row = night.figures.latent_gap.get(key.partition("/")[2])
    return row.value if row is not None else None


def _new_causes(tonight: Night, rules: AlertsConfig) -> list[Alert]:
    new = [flip for flip in tonight.flips if flip.root_after and not flip.root_before] if rules.new_cause else []
    return [Alert("new_cause", flip.id, f"new confirmed cause: {flip.title}") for flip in new]
