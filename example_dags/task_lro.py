"""Any client's call as a task: the function starts the operation, and the task waits for it without a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

from airflow_provider_lro.decorators import lro_task
from airflow_provider_lro.hooks import LongRunningOperationHook

if TYPE_CHECKING:
    from google.longrunning.operations_pb2 import Operation

with DAG("lro_task", schedule=None, tags=["lro"]):

    @lro_task(interval=4, wait_timeout=600, retries=2, deferrable=True)  # or @task.lro(…)
    def export(table: str, request_id: str = "") -> Operation:
        # Your service's client goes here; return what it gives you.
        from airflow_provider_lro.simulator import SimulatorClient

        connection = LongRunningOperationHook.get_connection("lro_default")
        with SimulatorClient(f"{connection.host}:{connection.port}") as client:
            return client.start(duration=8, response={"table": table, "rows": 5}, request_id=request_id)

    @task
    def use(results: list[dict[str, Any]]) -> int:
        return sum(int(result["rows"]) for result in results)

    use(export.expand(table=["orders", "customers"]))
