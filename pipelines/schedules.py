"""The schedule of the nightly check, and how long after it a night counts as missed.

Belongs here: when. Does not: what (`jobs.py`), what follows from a missed night (`nights.py`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import dagster as dg
from dagster._utils.schedules import schedule_execution_time_iterator  # Dagster shows its own ticks nowhere else

from pipelines.jobs import NIGHTLY
from resources.config import GapConfig

TICKS = 64
SLACK = 1.25
"""A check takes its time: a night is missed once this many times the usual pause are over."""


def nightly_schedule(config: GapConfig) -> dg.ScheduleDefinition:
    """Cron and timezone of the config; off until the config says `enabled: true` or the user switches it on."""
    on = config.schedule.enabled
    return dg.ScheduleDefinition(
        name=f"{NIGHTLY}_schedule", job_name=NIGHTLY, cron_schedule=config.schedule.cron,
        execution_timezone=config.schedule.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING if on else dg.DefaultScheduleStatus.STOPPED,
        description="Looks at the folders every night and reruns only what changed.",
    )  # fmt: skip


def missed_after(config: GapConfig) -> timedelta:
    """How old the last check may be: `alerts.no_check_hours`, else the schedule's longest pause and a quarter of it."""
    if config.alerts.no_check_hours is not None:
        return timedelta(hours=config.alerts.no_check_hours)
    ticks = schedule_execution_time_iterator(
        datetime.now(UTC).timestamp(), config.schedule.cron, config.schedule.timezone
    )
    return SLACK * max(later - earlier for earlier, later in pairwise(islice(ticks, TICKS)))


def freshness(config: GapConfig) -> dg.FreshnessPolicy:
    """When Dagster's own daemon marks a target's nights as overdue."""
    return dg.FreshnessPolicy.time_window(fail_window=max(missed_after(config), timedelta(minutes=1)))
