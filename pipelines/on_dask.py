"""Steps on Dask: dagster-dask's executor, for jobs whose steps are in pools.

Belongs here: the one thing that dagster-dask lacks, with the Dagster internals that it takes. Does not: clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster_dask import dask_executor as theirs
from dagster_dask.executor import DaskExecutor


class PoolessDaskExecutor(DaskExecutor):
    """Runs are submitted without the names of their pools, which dagster-dask minds nowhere.

    Dask walks through the arguments of a task, and refuses the record in which Dagster keeps those names.
    """

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        """See `dagster.Executor`."""
        run = plan_context.dagster_run._replace(run_op_concurrency=None)
        data = plan_context.plan_data._replace(dagster_run=run)
        context = PlanOrchestrationContext(data, plan_context.log, self, plan_context.output_capture)
        yield from super().execute(context, execution_plan)


def _made(context: dg.InitExecutorContext) -> PoolessDaskExecutor:
    cluster: Any = context.executor_config["cluster"]
    ((kind, settings),) = cluster.items()
    return PoolessDaskExecutor(kind, settings)  # type: ignore[no-untyped-call]


dask_executor = dg.ExecutorDefinition(
    name="dask", config_schema=theirs.config_schema,  # type: ignore[arg-type]
    requirements=dg.multiple_process_executor_requirements(),
    executor_creation_fn=_made, description="dagster-dask's executor, with its config.",
)  # fmt: skip
