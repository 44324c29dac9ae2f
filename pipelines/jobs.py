"""Jobs: everything, one target, its experiments alone, the frozen slice tests, and the nightly check.

Belongs here: named selections of assets, and the job that the schedule starts. Does not: the loop itself (`rerun.py`).
"""

from typing import Any

import dagster as dg

from assets.diagnosis import checks
from resources.config import GapConfig

NIGHTLY = "nightly_gap_check"
SLICE_TESTS = "slice_tests"
TARGET_TAG = "domain_gap/target"
"""Tag of the runs of one target, to find them by in the list of runs."""
AFTER_EXPERIMENTS = ("verdicts", "recipe_files", "gap_report")


def build_jobs(config: GapConfig) -> list[Any]:
    """`gap_check`, `gap_check_<target>` and `experiments_<target>` for each, slice tests, and the nightly check."""
    everything = dg.define_asset_job(
        "gap_check", selection=dg.AssetSelection.all(), description="Every stage of every target, changed or not."
    )
    names = [target.name for target in config.targets]
    return [everything, *map(_recheck, names), *map(_experiments, names), *_slice_tests(config), _nightly(config)]


def _recheck(target: str) -> Any:
    return dg.define_asset_job(
        f"gap_check_{target}",
        selection=dg.AssetSelection.key_prefixes(["source"], [target]),
        description=f"Recheck {target}: every stage that it needs, changed or not.",
        tags={TARGET_TAG: target},
    )


def _experiments(target: str) -> Any:
    """What the experiments are judged by comes with them; what they read has to be there."""
    after = [[target, name] for name in AFTER_EXPERIMENTS]
    return dg.define_asset_job(
        f"experiments_{target}",
        selection=dg.AssetSelection.key_prefixes([target, "experiments"]) | dg.AssetSelection.assets(*after),
        description=f"Only the experiments on {target}, with verdicts, recipe and report, changed or not.",
        tags={TARGET_TAG: target},
    )


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
