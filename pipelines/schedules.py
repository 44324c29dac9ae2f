"""The schedule of the nightly check.

Belongs here: when. Does not: what (`jobs.py`).
"""

from __future__ import annotations

import dagster as dg

from pipelines.jobs import NIGHTLY
from resources.config import GapConfig


def nightly_schedule(config: GapConfig) -> dg.ScheduleDefinition:
    """Cron and timezone of the config; off until the config says `enabled: true` or the user switches it on."""
    on = config.schedule.enabled
    return dg.ScheduleDefinition(
        name=f"{NIGHTLY}_schedule", job_name=NIGHTLY, cron_schedule=config.schedule.cron,
        execution_timezone=config.schedule.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING if on else dg.DefaultScheduleStatus.STOPPED,
        description="Looks at the folders every night and reruns only what changed.",
    )  # fmt: skip
