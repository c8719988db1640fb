"""The DAG of test_observed.py: a task that begins on a worker, and one that needs none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_lro.sensors import LongRunningOperationSensor

WAYS: dict[str, dict[str, Any]] = {
    "deferred": {},
    "workerless": {"start_from_trigger": True, "end_from_trigger": True},
    "unlinked": {"lro_conn_id": "unlinked"},
}

with DAG("observed", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC)):
    for way, arguments in WAYS.items():
        LongRunningOperationSensor(
            task_id=way,
            operation_name=f"simulations/duration=40/operations/{{{{ run_id }}}}-{way}",
            poke_interval=1,
            timeout=120,
            retries=0,
            deferrable=True,
            **arguments,
        )
