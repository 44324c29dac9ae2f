"""Rerun what changed: a loop over the graph's levels, since staleness reaches one hop at a time.

Belongs here: choosing what is ready, running it, minding failures and blocking checks.
Does not: how folders are looked at (`observation.py`) and staleness is resolved (`staleness.py`), what is printed
(`cli.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from socket import gethostname
from typing import Any

import dagster as dg

from pipelines.observation import observe
from pipelines.staleness import Status, resolve

ERROR = dg.AssetCheckSeverity.ERROR
ATTEMPTS = 2
"""How often an asset is made whose check did not run."""
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
Listener = Callable[[str, Sequence[dg.AssetKey]], None]
"""Called with 'observe' or 'run' and the assets, before each run."""


PID_TAG, HOST_TAG = "domain_gap/pid", "domain_gap/host"
STAGES_TAG = "domain_gap/stages"
"""What a run makes, in words: the list of runs shows tags, and the first few assets."""


def release_dead_runs(instance: dg.DagsterInstance) -> None:
    """Mark runs of killed processes as failed and free their places in pools, which would be waited for without end.

    Other machines may share the instance: of their processes nothing is known here, so their runs stay as they are.
    """
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
    for run in instance.get_runs(filters=started):
        pid = run.tags.get(PID_TAG)
        here = run.tags.get(HOST_TAG, gethostname()) == gethostname()
        if pid is not None and here and not _is_alive(int(pid)):
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            instance.report_run_failed(run, "its process was killed")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass
class Outcome:
    """What a loop did."""

    ran: list[dg.AssetKey] = field(default_factory=list)
    failed: dict[dg.AssetKey, str] = field(default_factory=dict)
    blocked: dict[dg.AssetKey, str] = field(default_factory=dict)
    failed_checks: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """One line."""
        text = f"{len(self.ran)} assets run"
        if self.failed:
            text += f"; failed: {', '.join(_name(key) for key in self.failed)}"
        if self.blocked:
            text += f"; not run because of these: {', '.join(_name(key) for key in self.blocked)}"
        return text

    def as_values(self) -> dict[str, Any]:
        """JSON-like: assets by name, reasons, counts of rows."""
        return {
            "ran": [_name(key) for key in self.ran],
            "failed": {_name(key): why for key, why in self.failed.items()},
            "blocked": {_name(key): why for key, why in self.blocked.items()},
            "failed_checks": self.failed_checks,
            "rows": self.rows,
        }


@dataclass(frozen=True)
class _Instance:
    """What the instance says between two runs: states of assets, and the latest record of every blocking check."""

    statuses: dict[dg.AssetKey, Status]
    checks: Mapping[dg.AssetCheckKey, Any]


class Rerun:
    """One pass of the loop over some assets (all of them without `targets`)."""

    def __init__(
        self,
        defs: dg.Definitions,
        instance: dg.DagsterInstance,
        *,
        targets: Sequence[str] | None = None,
        tags: Mapping[str, str] | None = None,
        listener: Listener = lambda _what, _keys: None,
    ) -> None:
        self.defs = defs
        self.instance = instance
        self.job = defs.resolve_implicit_global_asset_job_def()
        self.graph = defs.resolve_asset_graph()
        self.tags = {**(tags or {}), PID_TAG: str(os.getpid()), HOST_TAG: gethostname()}
        release_dead_runs(instance)
        self.listener = listener
        groups = None if targets is None else {"source", *targets}
        scope = [key for key in self.graph.get_all_asset_keys() if groups is None or key.path[0] in groups]
        self.sources = sorted(key for key in scope if self.graph.get(key).is_observable)
        self.keys = sorted(key for key in scope if self.graph.get(key).is_materializable)
        made = set(self.keys)
        self.checks = [
            check for check in self.graph.asset_check_keys
            if check.asset_key in made and self.graph.get_check_spec(check).blocking
        ]  # fmt: skip
        self._seen: _Instance | None = None

    def observe(self) -> None:
        """Look at the folders: a source that was never observed leaves its children fresh."""
        if self.sources:
            self.listener("observe", self.sources)
            if observe(self.instance, self.defs, self.sources):
                self._seen = None

    def statuses(self) -> dict[dg.AssetKey, Status]:
        """State of every asset in scope; one whose blocking check was planned and never ran is stale."""
        found = dict(self._look().statuses)
        for check in self._pending():
            status = found[check.asset_key]
            if status.state != "missing":
                reasons = (*status.reasons, f"its check {check.name} has not run")
                found[check.asset_key] = Status(check.asset_key, "stale", reasons)
        return found

    def _look(self) -> _Instance:
        """The instance as the last run of this loop left it: it is asked once between two runs."""
        if self._seen is None:
            records = self.instance.event_log_storage.get_latest_asset_check_execution_by_key(self.checks)
            checks = {check: records[check] for check in self.checks if check in records}
            self._seen = _Instance(resolve(self.instance, self.graph, self.keys), checks)
        return self._seen

    def run(self, *, everything: bool = False) -> Outcome:
        """Observe, then run level by level what is stale (or everything); a failure stops only what depends on it."""
        self.observe()
        outcome = Outcome()
        while ready := self._ready(outcome, everything=everything):
            self.listener("run", ready)
            self._note(self._execute(ready), ready, outcome)
        return outcome

    def run_job(self, name: str) -> None:
        """Run one of the definitions' jobs by name, whatever is stale; what fails in it is in its run's log."""
        self.defs.resolve_job_def(name).execute_in_process(
            instance=self.instance, run_config=QUIET, tags=self.tags, raise_on_error=False
        )

    def _ready(self, outcome: Outcome, *, everything: bool) -> list[dg.AssetKey]:
        done = set(outcome.ran)
        if everything:
            due = {key for key in self.keys if key not in done}
        else:
            due = {key for key, status in self.statuses().items() if status.state != "fresh"} - done
        due |= self._unchecked(outcome)
        due -= outcome.failed.keys()
        stopped = set(outcome.failed) | self._blocking(outcome, due)
        for key in sorted(due & self.below(stopped)):
            outcome.blocked.setdefault(key, "an asset that it depends on failed, or a blocking check of it")
        due -= outcome.blocked.keys()
        return sorted(key for key in due if not (self._above(key) & due))

    def _blocking(self, outcome: Outcome, due: set[dg.AssetKey]) -> set[dg.AssetKey]:
        """Assets whose latest blocking check failed with ERROR: a failed check does not undo the materialisation.

        An asset that is due blocks nothing yet: its checks run anew with it.
        """
        stopped = set()
        for check, record in self._look().checks.items():
            found = record.evaluation
            if check.asset_key in due or not isinstance(found, dg.AssetCheckEvaluation):
                continue
            if not found.passed and found.severity == ERROR:
                stopped.add(check.asset_key)
                outcome.failed_checks[_check_name(check)] = found.description or "failed"
        return stopped

    def _unchecked(self, outcome: Outcome) -> set[dg.AssetKey]:
        """Assets that were made, while their blocking checks did not run: they are made again, in vain only once."""
        found = set()
        for check in self._pending():
            key = check.asset_key
            if 0 < outcome.ran.count(key) < ATTEMPTS:
                found.add(key)
            elif outcome.ran.count(key):
                outcome.failed.setdefault(key, f"its check {check.name} could not be run")
        return found

    def _pending(self) -> list[dg.AssetCheckKey]:
        """Blocking checks whose run is over and did not come to them: a step beside them failed, or it was killed."""
        found = []
        for check, record in self._look().checks.items():
            if not isinstance(record.evaluation, dg.AssetCheckEvaluation):
                run = self.instance.get_run_by_id(record.run_id)
                found += [check] if run is None or run.is_finished else []
        return found

    def below(self, keys: Iterable[dg.AssetKey]) -> set[dg.AssetKey]:
        """All that this loop makes and that depends on some assets, at any distance."""
        found: set[dg.AssetKey] = set()
        waiting = [child for key in keys for child in self.graph.get(key).child_keys]
        while waiting:
            child = waiting.pop()
            if child not in found:
                found.add(child)
                waiting.extend(self.graph.get(child).child_keys)
        return found & set(self.keys)

    def _above(self, key: dg.AssetKey) -> set[dg.AssetKey]:
        return set(self.graph.get_ancestor_asset_keys(key)) - {key}

    def _execute(self, keys: Sequence[dg.AssetKey]) -> dg.ExecuteInProcessResult:
        self._seen = None
        tags = {**self.tags, STAGES_TAG: ", ".join(sorted({key.path[1] for key in keys}))}
        return self.job.execute_in_process(
            instance=self.instance, asset_selection=list(keys), run_config=QUIET, tags=tags, raise_on_error=False
        )

    def _note(self, result: dg.ExecuteInProcessResult, ready: Sequence[dg.AssetKey], outcome: Outcome) -> None:
        made = {}
        for event in result.get_asset_materialization_events():
            materialization = event.step_materialization_data.materialization
            made[materialization.asset_key] = materialization
            for name in ("new", "changed", "removed"):
                count: Any = materialization.metadata.get(f"rows_{name}")
                outcome.rows[name] = outcome.rows.get(name, 0) + (count.value if count is not None else 0)
        errors = {event.step_key: _cause(event) for event in result.all_events if event.is_step_failure}
        for key in ready:
            if key in made:
                outcome.ran.append(key)
            else:
                outcome.failed[key] = next(iter(errors.values()), "it was not materialised")
        for evaluation in result.get_asset_check_evaluations():
            if not evaluation.passed and evaluation.severity == dg.AssetCheckSeverity.ERROR:
                outcome.failed_checks[_check_name(evaluation.asset_check_key)] = evaluation.description or "failed"


def _cause(event: Any) -> str:
    """The innermost error of a step's failure, in one line."""
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return " ".join((error.message if error is not None else event.message or "").split())


def _name(key: dg.AssetKey) -> str:
    return "/".join(key.path)


def _check_name(check: dg.AssetCheckKey) -> str:
    return f"{_name(check.asset_key)}: {check.name}"
