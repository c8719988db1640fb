"""The DAG of test_judged.py: executions of which the first has succeeded, and a task of it has failed."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_lro.operators import StartOperationOperator
from tests.versions import DAG, task

START = datetime(2024, 1, 1, tzinfo=UTC)
OPTIONS: dict[str, Any] = {"interval": 1, "deferrable": True, "retries": 1, "retry_delay": timedelta(seconds=0.1)}


def all_succeeded(execution: Any, _metadata: Any) -> Any:
    return execution["failed_count"] == 0 or f"{execution['failed_count']:g} of its tasks failed"


def refuse(_context: Any, execution: Any) -> None:
    verdict = all_succeeded(execution, None)
    if verdict is not True:
        raise RuntimeError(verdict)


class RunJob(StartOperationOperator):
    """Starts an execution; in the task's first try a task of it fails."""

    def start(self, context: Any) -> Any:
        from airflow_provider_lro.simulator import SimulatorClient

        response = {"failed_count": int(context["ti"].try_number == 1)}
        with self.hook() as hook, SimulatorClient(hook.get_conn().config.target) as client:
            return client.start(duration=2, response=response, message=f"{context['run_id']} {self.task_id}")


class Judging(RunJob):
    """Raises after the result."""

    def execute_complete(self, context: Any, event: Any = None, **kwargs: Any) -> Any:
        execution = super().execute_complete(context, event, **kwargs)
        refuse(context, execution)
        return execution


class Dying(RunJob):
    """Dies between the event and the check."""

    def execute_complete(self, context: Any, event: Any = None, **kwargs: Any) -> Any:
        if context["ti"].try_number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().execute_complete(context, event, **kwargs)


with DAG("judged", schedule=None, start_date=START):
    RunJob(task_id="checked", check=all_succeeded, **OPTIONS)
    Dying(task_id="died", check=all_succeeded, **OPTIONS)
    Judging(task_id="in_a_subclass", **OPTIONS)
    RunJob(task_id="in_post_execute", post_execute=refuse, **OPTIONS)

    @task(retries=1, retry_delay=timedelta(seconds=0.1))
    def after(execution: dict[str, Any]) -> None:
        refuse(None, execution)

    after(RunJob(task_id="before", **OPTIONS).output)
