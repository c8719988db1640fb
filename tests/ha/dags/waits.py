"""The DAGs of the tests here: waits whose triggerers are killed, stalled and stopped, all with ``cancel_on_kill``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow_provider_lro.operators import StartOperationOperator
from airflow_provider_lro.sensors import LongRunningOperationSensor
from tests.versions import DAG, task

START = datetime(2024, 1, 1, tzinfo=UTC)


class StartSimulation(StartOperationOperator):
    """Starts an operation of the simulator."""

    def __init__(self, *, script: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.script = script

    def start(self, context: Any) -> Any:
        from airflow_provider_lro.simulator import SimulatorClient

        with self.hook() as hook, SimulatorClient(hook.get_conn().config.target) as client:
            return client.start(request_id=self.request_id, **self.script)


with DAG("hundred", schedule=None, start_date=START, max_active_tasks=100):

    @task(retries=0)
    def asked(kind: str, **context: Any) -> list[dict[str, Any]]:
        """Tell what the run was given for tasks of a kind."""
        waits: list[dict[str, Any]] = context["dag_run"].conf[kind]
        return waits

    StartSimulation.partial(
        task_id="starts",
        deferrable=True,
        interval=16,
        on_cancelled="skip",
        retries=0,
    ).expand_kwargs(asked("starts"))

    LongRunningOperationSensor.partial(
        task_id="senses",
        deferrable=True,
        poke_interval=16,
        on_cancelled="skip",
        cancel_on_kill=True,
        retries=0,
    ).expand_kwargs(asked("senses"))

with DAG("pair", schedule=None, start_date=START):
    StartSimulation(
        task_id="starts",
        script={"outcome": "never"},
        deferrable=True,
        interval=1,
        retries=0,
    )

    LongRunningOperationSensor(
        task_id="senses",
        operation_name="simulations/outcome=never/operations/{{ run_id }}",
        deferrable=True,
        poke_interval=1,
        cancel_on_kill=True,
        retries=0,
    )
