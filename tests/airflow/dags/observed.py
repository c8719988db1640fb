"""The DAG of test_observed.py: a task that ends on a worker, and one that the triggerer ends."""

from __future__ import annotations

import importlib.metadata
from datetime import UTC, datetime
from typing import Any

from airflow_provider_lro.sensors import LongRunningOperationSensor
from tests.versions import DAG

AIRFLOW = tuple(int(part) for part in importlib.metadata.version("apache-airflow").split(".")[:2])
WAYS: dict[str, dict[str, Any]] = {
    "deferred": {"lro_conn_id": "linked"},
    "unlinked": {"lro_conn_id": "unlinked"},
}
if AIRFLOW >= (3, 3):
    WAYS["ended"] = {"lro_conn_id": "linked", "end_from_trigger": True}

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
