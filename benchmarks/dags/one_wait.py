"""The DAGs of one_wait.py: the same wait, three ways."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow_provider_lro.sensors import LongRunningOperationSensor
from tests.versions import DAG

WAYS: dict[str, dict[str, Any]] = {
    "blocking": {},
    "deferred": {"deferrable": True},
    "ends_in_triggerer": {"deferrable": True, "end_from_trigger": True},
}

for way, arguments in WAYS.items():
    with DAG(f"one_wait_{way}", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC)):
        LongRunningOperationSensor(
            task_id="wait",
            operation_name="simulations/duration=4/operations/{{ run_id }}-" + way,
            poke_interval=2,
            timeout=300,
            **arguments,
        )
