"""Start an operation and wait for it, in one task that starts it once, whatever dies in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2
    from airflow import DAG

from airflow_provider_lro.operators import StartOperationOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class StartReport(StartOperationOperator):
    """Starts a report at the service of the connection; any client library's call stands where the simulator's does."""

    def __init__(self, *, seconds: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds = seconds

    def start(self, context: Context) -> Any:
        """Start it; a service that takes a request id gives the same operation for the same id."""
        from airflow_provider_lro.simulator import SimulatorClient

        with self.hook() as hook, SimulatorClient(hook.get_conn().config.target) as client:
            return client.start(duration=self.seconds, response={"rows": 5}, request_id=self.request_id)


with DAG("lro_start_once", schedule=None, tags=["lro"]):
    StartReport(task_id="report", seconds=8, interval=4, wait_timeout=600, retries=2, deferrable=True)
