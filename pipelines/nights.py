"""What every check of the folders ends in, whoever started it, and what watches that checks are made at all.

Belongs here: noting a check in each target's history and in Dagster, pages, alerts; the sensor for missed nights.
Does not: the loop (`rerun.py`), the history itself and the rules (the report's stage), when (`schedules.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from assets.report.assets import nights_spec
from pipelines.rerun import Outcome, Rerun
from pipelines.schedules import freshness, missed_after
from resources.clock import Clock
from resources.config import GapConfig
from resources.notifications import Notifier
from resources.sample_store import SampleStore, open_store

NO_MISSED_NIGHT = "no_missed_night"
WATCH_SECONDS = 3600


def night_specs(config: GapConfig) -> list[dg.AssetSpec]:
    """`nights` of every target, with the freshness that the schedule promises."""
    return [
        nights_spec(target.name).replace_attributes(freshness_policy=freshness(config)) for target in config.targets
    ]


def check(
    loop: Rerun, config: GapConfig, *, targets: Sequence[str] | None = None, everything: bool = False,
    clock: Clock | None = None,
) -> Outcome:  # fmt: skip
    """Observe the folders, rerun what changed (or everything), and note of each target what came of it."""
    time = clock or Clock()
    started = time.now()
    outcome = loop.run(everything=everything)
    finish_check(loop, config, outcome, targets or [target.name for target in config.targets], started, time.now())
    return outcome


def finish_check(
    loop: Rerun, config: GapConfig, outcome: Outcome, targets: Sequence[str], started: datetime, now: datetime
) -> None:
    """A night in every target's history, the pages over the store, the alerts that are due, an event for the UI."""
    from assets.report.history import record_check
    from assets.report.nights_page import write_nights_pages
    from assets.report.telling import tell_alerts

    store, notifier = open_store(config), Notifier(config.alerts.addresses)
    for key in targets:
        record_check(config, store, key, now, started, _problem(outcome, key))
    write_nights_pages(config, store)
    for key in targets:
        tell_alerts(config, store, key, notifier, now)
        if (found := night_metadata(config, store, key)) is not None:
            loop.instance.report_runless_asset_event(dg.AssetMaterialization(_nights(key), metadata=found))


def _problem(outcome: Outcome, key: str) -> str:
    """Why a target has no new report although one was due; empty where it has, or none was."""
    report = dg.AssetKey([key, "gap_report"])
    stopped = {**outcome.failed, **outcome.blocked}
    if report not in stopped:
        return ""
    checks = {name: why for name, why in outcome.failed_checks.items() if name.split("/")[0] in (key, "source")}
    errors = {"/".join(one.path): why for one, why in outcome.failed.items() if one.path[0] in (key, "source")}
    return "; ".join(f"{name}: {why}" for name, why in {**errors, **checks}.items()) or stopped[report]


def night_metadata(config: GapConfig, store: SampleStore, key: str) -> dict[str, Any] | None:
    """The latest night as Dagster's UI shows and plots it; None where there is none."""
    from assets.report.changes_told import told_changes
    from assets.report.history import read_history
    from assets.report.telling import trend_link

    nights = read_history(store, key)
    if not nights:
        return None
    last = nights[-1]
    figures, counts = last.figures, last.target
    numbers = {
        "loss_gap": figures.loss_gap, "target_loss": figures.target_loss, "root_causes": len(figures.roots),
    } if figures is not None else {}  # fmt: skip
    rows = {"samples": counts.samples, "added": counts.added, "removed": counts.removed, "changed": counts.changed}
    told = dg.MetadataValue.md("\n".join(f"- {text}" for text in told_changes(nights)))
    return {
        "outcome": last.outcome, "what_changed": told, "trend": trend_link(store, key, config.alerts),
        "failed_data_checks": len(last.failed_checks), **rows,
        **{name: value for name, value in numbers.items() if value is not None},
    }  # fmt: skip


def build_checks(config: GapConfig) -> list[dg.AssetChecksDefinition]:
    """`no_missed_night` of every target: whether its last check is young enough."""

    def of_target(key: str) -> dg.AssetChecksDefinition:
        @dg.asset_check(
            name=NO_MISSED_NIGHT, asset=_nights(key), description="Whether the last check is as young as the schedule "
            "promises; the sensor watch_nights evaluates it every hour.",
        )  # fmt: skip
        def no_missed_night(
            store: dg.ResourceParam[SampleStore], clock: dg.ResourceParam[Clock]
        ) -> dg.AssetCheckResult:
            passed, said = _in_time(store, key, missed_after(config), clock.now())
            return dg.AssetCheckResult(passed=passed, description=said)

        return no_missed_night

    return [of_target(target.name) for target in config.targets]


def watch_sensor(config: GapConfig) -> dg.SensorDefinition:
    """Looks every hour whether a night was missed, tells it, and shows it; on with the schedule."""

    @dg.sensor(
        name="watch_nights", minimum_interval_seconds=WATCH_SECONDS,
        description="Fails the check no_missed_night, and tells the alert addresses, when no check is made in time.",
        default_status=dg.DefaultSensorStatus.RUNNING if config.schedule.enabled else dg.DefaultSensorStatus.STOPPED,
    )  # fmt: skip
    def watch_nights() -> dg.SensorResult:
        from assets.report.telling import tell_alerts

        store, now, events = open_store(config), Clock().now(), []
        for target in config.targets:
            tell_alerts(config, store, target.name, Notifier(config.alerts.addresses), now)
            passed, said = _in_time(store, target.name, missed_after(config), now)
            events.append(dg.AssetCheckEvaluation(
                asset_key=_nights(target.name), check_name=NO_MISSED_NIGHT, passed=passed, description=said,
            ))  # fmt: skip
        return dg.SensorResult(asset_events=events)

    return watch_nights


def _in_time(store: SampleStore, key: str, limit: timedelta, now: datetime) -> tuple[bool, str]:
    from assets.report.history import read_history

    nights = read_history(store, key)
    if not nights:
        return False, "no check was ever made; run: domain-gap run"
    age = now - nights[-1].time
    return age <= limit, f"the last check was {_hours(age)} ago, at most {_hours(limit)} are allowed"


def _hours(age: timedelta) -> str:
    return f"{age / timedelta(hours=1):.1f} hours"


def _nights(key: str) -> dg.AssetKey:
    return dg.AssetKey([key, "nights"])
