"""The DAG of triggerer.py: a hundred waits that the scheduler defers by itself, so that no worker has to begin them."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_lro.sensors import LongRunningOperationSensor

TASKS = 100

with DAG(
    "triggerer",
    schedule=None,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    max_active_runs=1000,
    max_active_tasks=1000 * TASKS,
):
    for number in range(TASKS):
        LongRunningOperationSensor(
            task_id=f"wait_{number}",
            operation_name=f"projects/bench/locations/us-central1/operations/{{{{ run_id }}}}-{number}",
            deferrable=True,
            start_from_trigger=True,
        )
