"""Alerts that are about no target's figures: a failed run, and a test, are told to whom the config names.

Belongs here: the run failure sensor, the test alert. Does not: sending (resources/notifications.py), rules on a
target's nights (the report's stage).
"""

import dagster as dg

from resources.config import GapConfig
from resources.errors import ConfigError
from resources.notifications import Notifier
from resources.sample_store import SampleStore


def failure_sensor(config: GapConfig) -> dg.SensorDefinition:
    """Sends one sentence when a run fails; off without `alerts.notify`."""
    urls = config.alerts.addresses

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


def send_test(config: GapConfig, store: SampleStore) -> list[int]:
    """Send a test alert to every address alone; the places (from 1) of those that took it.

    Raises ConfigError where the config names none.
    """
    from assets.report.telling import trend_link

    addresses = config.alerts.addresses
    if not addresses:
        raise ConfigError("alerts.notify: no address to send a test to; expected apprise URLs, such as mailto://…")
    body = f"This is a test: alerts arrive, and link to {trend_link(store, config.targets[0].name, config.alerts)}"
    return [place for place, url in enumerate(addresses, 1) if Notifier((url,)).send("Domain Gap: a test alert", body)]
