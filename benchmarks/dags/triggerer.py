"""The DAGs of triggerer.py: tasks that the scheduler defers by itself, so that no worker has to begin them.

As many as the benchmark says; none for the other benchmarks, which read this file, too.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.triggers.base import StartTriggerArgs

from tests.versions import DAG, BaseOperator

TASKS = int(os.environ.get("LRO_BENCH_TASKS", "0"))

options: dict[str, Any] = {
    "start_date": datetime(2024, 1, 1, tzinfo=UTC),
    "max_active_runs": 1000,
    "max_active_tasks": 1000 * TASKS,
}


class Wait(BaseOperator):
    """A wait that the scheduler defers: our sensor's would begin on a worker."""

    start_from_trigger = True

    def __init__(self, *, operation_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls="airflow_provider_lro.triggers.LongRunningOperationTrigger",
            trigger_kwargs={"operation_name": operation_name},
            next_method="execute_complete",
            next_kwargs=None,
            timeout=None,
        )

    def execute_complete(self, context: Any, event: Any = None) -> None:
        """Do nothing: the service's operations never end."""


with DAG("ours", schedule=None, **options):
    for number in range(TASKS):
        name = f"projects/bench/locations/us-central1/operations/{number}"
        Wait(task_id=f"wait_{number}", operation_name=name)

with DAG("idle", schedule=None, **options):
    for number in range(TASKS):
        DateTimeSensorAsync(task_id=f"wait_{number}", target_time="2100-01-01T00:00:00+00:00", start_from_trigger=True)
