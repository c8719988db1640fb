"""Start a job, wait until it is done without taking a worker slot, and use its result."""

from __future__ import annotations

from typing import Any

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.sensors import LongRunningOperationSensor

with DAG("lro_start_wait_use", schedule=None, tags=["lro"]):

    @task
    def start() -> str:
        # Your service's client goes here; all that the sensor needs is the operation's name.
        from airflow_provider_lro.simulator import SimulatorClient

        connection = LongRunningOperationHook.get_connection("lro_default")
        with SimulatorClient(f"{connection.host}:{connection.port}") as client:
            return client.start(duration=15, response={"rows": 42}).name

    wait = LongRunningOperationSensor(
        task_id="wait",
        operation_name=start(),
        poke_interval=4,
        timeout=600,
        deferrable=True,
    )

    @task
    def use(result: dict[str, Any]) -> str:
        return f"the job wrote {result['rows']:.0f} rows"

    use(wait.output)
