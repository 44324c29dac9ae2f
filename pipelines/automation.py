"""Automation: what reruns by itself while the daemon is on.

Belongs here: the condition of every asset and the sensor that evaluates it. Does not: schedules, the loop.
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from resources.config import GapConfig

CHANGED: Any = (
    dg.AutomationCondition.missing()
    | dg.AutomationCondition.code_version_changed()
    | dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())
)
RERUN_CHANGED = (
    CHANGED.since_last_handled()
    & dg.AutomationCondition.all_deps_blocking_checks_passed()
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
).with_label("rerun_changed")
"""Unlike eager(): a parent that reran and came out the same reruns nothing, and a new code version does."""


def with_condition(asset: Any) -> Any:
    """Give an asset's specs the condition; observed folders have none, they are observed by the schedule."""
    if not asset.is_executable or asset.is_observable:
        return asset
    return asset.map_asset_specs(lambda spec: spec.replace_attributes(automation_condition=RERUN_CHANGED))


def automation_sensor(config: GapConfig) -> dg.AutomationConditionSensorDefinition:
    """Evaluates the condition of all assets; off until the config's schedule is enabled or the user switches it on."""
    on = config.schedule.enabled
    return dg.AutomationConditionSensorDefinition(
        "rerun_changed", target=dg.AssetSelection.all(), minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING if on else dg.DefaultSensorStatus.STOPPED,
        description="Reruns assets whose code, config or inputs changed, one level of the graph after the other.",
    )  # fmt: skip
