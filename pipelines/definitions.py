"""The one place that binds everything: a config becomes Dagster definitions.

Belongs here: which stages exist for source and targets, with which resources. Does not: what they do, or when.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets.adaptation import assets as adaptation
from assets.diagnosis import assets as diagnosis
from assets.diagnosis import checks as diagnosis_checks
from assets.experiments import assets as experiments
from assets.experiments.registry import Experiment, load_experiments
from assets.inference import assets as inference
from assets.ingestion import assets as ingestion
from assets.ingestion import checks as ingestion_checks
from assets.model_parts import assets as model_parts
from assets.report import assets as report
from assets.report import checks as report_checks
from assets.scoring import assets as scoring
from assets.traits import assets as traits
from assets.traits.table import catalogue
from pipelines.automation import automation_sensor, with_condition
from pipelines.jobs import build_jobs
from pipelines.nights import build_checks, night_specs, watch_sensor
from pipelines.notify import failure_sensor
from pipelines.schedules import nightly_schedule
from resources.clock import Clock
from resources.config import GapConfig, find_config, load_config, user_code_allowed
from resources.engine import open_engine
from resources.notifications import Notifier
from resources.sample_store import open_store
from resources.tracking import Tracker


def build_defs(
    config: GapConfig,
    resource_overrides: Mapping[str, Any] | None = None,
    executor: dg.ExecutorDefinition = dg.in_process_executor,
) -> dg.Definitions:
    """Definitions of a config: assets, checks, jobs, schedule, sensors and resources (overridable by name).

    `executor`: where the steps of a job run; in its own process they share one loaded model.
    """
    tried = list(load_experiments(config, catalogue(config).traits).values())
    definitions = [with_condition(asset) for asset in _source_assets(config, tried) + _target_assets(config, tried)]
    resources = {
        "store": open_store(config),
        "engine": open_engine(config),
        "notifier": Notifier(config.alerts.addresses),
        "clock": Clock(),
        "tracker": Tracker(config.tracking.mlflow, config.tracking.experiment),
    }
    return dg.Definitions(
        assets=[*definitions, *night_specs(config)],
        asset_checks=[*_checks(config), *build_checks(config)],
        jobs=build_jobs(config),
        schedules=[nightly_schedule(config)],
        sensors=[automation_sensor(config), failure_sensor(config), watch_sensor(config)],
        resources={**resources, **(resource_overrides or {})},
        executor=executor,
    )


def load_definitions(path: Path, executor: dg.ExecutorDefinition = dg.in_process_executor) -> dg.Definitions:
    """Definitions of a `gap.yaml`; modules of the user's own are found beside it."""
    allow_user_modules(path)
    return build_defs(load_config(path, store=os.environ.get("GAP_STORE")), executor=executor)


def allow_user_modules(path: Path) -> None:
    """Let `traits.modules`, `experiments.modules` and `model.factory` be found in the config's folder.

    Not where user code is off: a file there could stand in for a package that is not installed.
    """
    folder = str(path.resolve().parent)
    if folder not in sys.path and user_code_allowed():
        sys.path.append(folder)


def _checks(config: GapConfig) -> list[dg.AssetChecksDefinition]:
    found = [check for key in _keys(config) for check in ingestion_checks.build(config, key)]
    found += [check for target in config.targets for check in diagnosis_checks.build(config, target.name)]
    return found + [check for target in config.targets for check in report_checks.build(config, target.name)]


def _keys(config: GapConfig) -> list[str]:
    return ["source", *(target.name for target in config.targets)]


def _source_assets(config: GapConfig, tried: list[Experiment]) -> list[Any]:
    made = ingestion.build_checkpoint(config) + inference.build_model(config)
    made += _measured(config, "source") + experiments.build_source(config, tried)
    return made + model_parts.build_source(config)


def _target_assets(config: GapConfig, tried: list[Experiment]) -> list[Any]:
    hypotheses = [experiment.hypothesis for experiment in tried]
    found: list[Any] = []
    for target in config.targets:
        found += _measured(config, target.name)
        found += scoring.build(config, target.name)
        found += diagnosis.build(config, target.name, hypotheses)
        found += experiments.build(config, target.name, tried)
        found += adaptation.build(config, target.name)
        found += model_parts.build(config, target.name)
        found += report.build(config, target.name, tried)
    return found


def _measured(config: GapConfig, key: str) -> list[Any]:
    """What is made of every data set."""
    return ingestion.build(config, key) + inference.build(config, key) + traits.build(config, key)


@dg.definitions
def defs() -> dg.Definitions:
    """What `workspace.yaml` loads: the config that `find_config` finds. Read when loaded, not when imported."""
    return load_definitions(find_config())
