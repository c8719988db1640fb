"""The DAGs of triggerer.py: a hundred tasks each that the scheduler defers by itself, so that no worker begins them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync

from airflow_provider_lro.sensors import LongRunningOperationSensor

TASKS = 100

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
        target = datetime.now(UTC).replace(microsecond=0, second=0, minute=0, hour=0) + timedelta(days=10)
        DateTimeSensorAsync(task_id=f"wait_{number}", target_time=target.isoformat(), start_from_trigger=True)
