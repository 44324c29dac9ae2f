"""Jobs: everything, one target, the frozen slice tests, and the nightly check.

Belongs here: named selections of assets, and the job that the schedule starts. Does not: the loop itself (`rerun.py`).
"""

from typing import Any

import dagster as dg

from assets.diagnosis import checks
from resources.config import GapConfig

NIGHTLY = "nightly_gap_check"
SLICE_TESTS = "slice_tests"


def build_jobs(config: GapConfig) -> list[Any]:
    """`gap_check` for all targets, `gap_check_<target>` for each, and the nightly check."""
    everything = dg.define_asset_job(
        "gap_check", selection=dg.AssetSelection.all(), description="Every stage of every target, changed or not."
    )
    single = [
        dg.define_asset_job(
            f"gap_check_{target.name}",
            selection=dg.AssetSelection.groups("source", target.name),
            description=f"Every stage that {target.name} needs, changed or not.",
        )
        for target in config.targets
    ]
    return [everything, *single, *_slice_tests(config), _nightly(config)]


def _slice_tests(config: GapConfig) -> list[Any]:
    """The frozen slice tests alone, where there are any: they run although nothing has changed."""
    frozen = [check for target in config.targets for check in checks.build(config, target.name)]
    if not frozen:
        return []
    found = dg.AssetSelection.checks(*frozen)
    return [dg.define_asset_job(SLICE_TESTS, selection=found, description="The slice tests of checks.slice_tests.")]


def _nightly(config: GapConfig) -> dg.JobDefinition:
    @dg.op(name="rerun_changed_stages", description="Observes the folders, then reruns what changed, level by level.")
    def rerun_changed_stages(context: dg.OpExecutionContext) -> None:
        from pipelines.definitions import build_defs
        from pipelines.nights import check
        from pipelines.rerun import Rerun

        loop = Rerun(build_defs(config), context.instance, tags={"domain_gap/night": context.run_id})
        outcome = check(loop, config)
        context.log.info(outcome.summary())
        if _slice_tests(config):
            loop.run_job(SLICE_TESTS)
        if outcome.failed:
            raise dg.Failure(description=outcome.summary())

    @dg.job(name=NIGHTLY, description="The nightly check: observe the folders, rerun only what changed.")
    def nightly() -> None:
        rerun_changed_stages()

    return nightly
