"""The DAG of test_two_triggerers.py: starts the operations that its run is given, and waits for them all."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_lro.sensors import LongRunningOperationSensor

with DAG("hundred", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC), max_active_tasks=100):

    @task(retries=0)
    def start(**context: Any) -> list[dict[str, Any]]:
        from airflow_provider_lro.simulator import SimulatorClient

        conf, run_id = context["dag_run"].conf, context["run_id"]
        with SimulatorClient(conf["simulator"]) as client:
            operations = [
                client.start(**wait["script"], id=f"{run_id}-{index}", request_id=f"{run_id}-{index}")
                for index, wait in enumerate(conf["waits"])
            ]
        return [
            {"operation_name": operation.name, "timeout": wait["timeout"]}
            for operation, wait in zip(operations, conf["waits"], strict=True)
        ]

    LongRunningOperationSensor.partial(
        task_id="waits",
        deferrable=True,
        poke_interval=16,
        on_cancelled="skip",
        retries=0,
    ).expand_kwargs(start())
