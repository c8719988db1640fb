"""The DAGs of triggerer.py: tasks that the scheduler defers by itself, so that no worker has to begin them.

As many as the benchmark says; none for the other benchmarks, which read this file, too.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync

from airflow_provider_lro.sensors import LongRunningOperationSensor

TASKS = int(os.environ.get("LRO_BENCH_TASKS", "0"))

options: dict[str, Any] = {
    "start_date": datetime(2024, 1, 1, tzinfo=UTC),
    "max_active_runs": 1000,
    "max_active_tasks": 1000 * TASKS,
}

with DAG("ours", schedule=None, **options):
    for number in range(TASKS):
        LongRunningOperationSensor(
            task_id=f"wait_{number}",
            operation_name=f"projects/bench/locations/us-central1/operations/{{{{ run_id }}}}-{number}",
            deferrable=True,
            start_from_trigger=True,
        )

with DAG("idle", schedule=None, **options):
    for number in range(TASKS):
        DateTimeSensorAsync(task_id=f"wait_{number}", target_time="2100-01-01T00:00:00+00:00", start_from_trigger=True)
