"""Wait for an operation, then delete this and all others under its parent that are done."""

from __future__ import annotations

from typing import Any

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

from airflow_provider_lro.operators import DeleteOperationOperator, ListOperationsOperator
from airflow_provider_lro.sensors import LongRunningOperationSensor

PARENT = "projects/clean-up/simulations/duration=3"

with DAG("lro_clean_up", schedule=None, tags=["lro"]):
    wait = LongRunningOperationSensor(
        task_id="wait",
        operation_name=PARENT + "/operations/{{ run_id }}",
        poke_interval=4,
        timeout=600,
        deferrable=True,
    )
    found = ListOperationsOperator(task_id="list", parent=PARENT)

    @task
    def done(operations: list[dict[str, Any]]) -> list[str]:
        return [operation["name"] for operation in operations if operation.get("done")]

    delete = DeleteOperationOperator(
        task_id="delete",
        operation_name=done(found.output),
        ignore_missing=True,  # somebody else may clean up at the same time
    )

    wait >> found
