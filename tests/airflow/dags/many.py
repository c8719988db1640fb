"""The DAG of test_many_for_real.py: many operations in one task, from upstream to downstream."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow_provider_lro.sensors import LongRunningOperationSensor
from tests.versions import DAG, task

with DAG("many", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC)):

    @task
    def start(run_id: str | None = None) -> list[str]:
        return [
            f"simulations/duration={20 + number / 10}&response_bytes=1000/operations/{run_id}-{number:03}"
            for number in range(200)
        ]

    @task
    def count(results: Any) -> list[str]:
        return [each["id"] for each in results]

    names = start()
    ends = LongRunningOperationSensor(
        task_id="all", operation_name=names, deferrable=True, poke_interval=2, timeout=200, retries=0
    )
    LongRunningOperationSensor(
        task_id="some",
        operation_name=names,
        wait_for=50,
        deferrable=False,
        cancel_on_kill=True,
        poke_interval=2,
        timeout=200,
        retries=0,
    )
    LongRunningOperationSensor(
        task_id="killed",
        operation_name=[f"simulations/outcome=never/operations/{{{{ run_id }}}}-never-{each}" for each in range(40)],
        deferrable=True,
        cancel_on_kill=True,
        poke_interval=2,
        timeout=200,
        retries=0,
    )
    count(ends.output)
