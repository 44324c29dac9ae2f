"""Alerts about runs: a failed run is told to whom the config names.

Belongs here: the run failure sensor. Does not: sending (resources/notifications.py), thresholds (report's checks).
"""

import dagster as dg

from resources.config import GapConfig
from resources.notifications import Notifier


def failure_sensor(config: GapConfig) -> dg.SensorDefinition:
    """Sends one sentence when a run fails; off without `alerts.notify`."""
    urls = tuple(url.get_secret_value() for url in config.alerts.notify)

    @dg.run_failure_sensor(
        name="tell_run_failure", description="Tells the alert addresses of the config that a run failed.",
        default_status=dg.DefaultSensorStatus.RUNNING if urls else dg.DefaultSensorStatus.STOPPED,
    )  # fmt: skip
    def tell_run_failure(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        Notifier(urls).send(
            "Domain Gap: a run failed", f"{run.job_name} ({run.run_id}): {context.failure_event.message}"
        )

    return tell_run_failure
