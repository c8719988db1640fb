"""Wait for many operations in one task: all that another task names, and any of some."""

from __future__ import annotations

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

from airflow_provider_lro.sensors import LongRunningOperationSensor

with DAG("lro_wait_for_many", schedule=None, tags=["lro"]):

    @task
    def start() -> list[str]:
        from uuid import uuid4

        return [f"simulations/duration={3 + number % 7}/operations/{uuid4()}" for number in range(100)]

    @task
    def count(results: list[dict[str, object]]) -> int:
        return len(results)

    everything = LongRunningOperationSensor(
        task_id="everything",
        operation_name=start(),
        poke_interval=4,
        timeout=600,
        deferrable=True,
    )
    LongRunningOperationSensor(
        task_id="any_of_three",
        operation_name=[
            "simulations/duration=9/operations/{{ run_id }}-slow",
            "simulations/duration=3/operations/{{ run_id }}-quick",
            "simulations/outcome=fail/operations/{{ run_id }}-broken",
        ],
        wait_for="any",
        poke_interval=4,
        timeout=600,
        deferrable=True,
    )
    count(everything.output)
