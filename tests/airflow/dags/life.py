"""The DAGs of test_life_cycle.py: tasks that are killed, and the operations that they leave behind."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_lro.operators import StartOperationOperator
from airflow_provider_lro.sensors import LongRunningOperationSensor
from tests.versions import DAG

START = datetime(2024, 1, 1, tzinfo=UTC)
RUN = "{{ run_id }}"
SOON = {"poke_interval": 1, "timeout": 120, "retries": 0}


class StartSimulation(StartOperationOperator):
    """Starts an operation of the simulator; dies in its first try where it is told to."""

    template_fields = ("script", *StartOperationOperator.template_fields)

    def __init__(self, *, script: dict[str, Any], dies: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.script = script
        self.dies = dies

    def start(self, context: Any) -> Any:
        from airflow_provider_lro.simulator import SimulatorClient

        with self.hook() as hook, SimulatorClient(hook.get_conn().config.target) as client:
            operation = client.start(request_id=self.request_id, **self.script)
        self._die(context, "before the name is stored")
        return operation

    def await_outcomes(self, context: Any, *args: Any, **kwargs: Any) -> Any:
        self._die(context, "before the deferral")
        return super().await_outcomes(context, *args, **kwargs)

    def _die(self, context: Any, moment: str) -> None:
        if self.dies == moment and context["ti"].try_number == 1:
            os.kill(os.getpid(), signal.SIGKILL)


with DAG("killed", schedule=None, start_date=START):
    for killed in ("failed", "success", "cleared", "waits_again", "left_alone", "restarted"):
        LongRunningOperationSensor(
            task_id=killed,
            operation_name=f"simulations/outcome=never/operations/{{{{ run_id }}}}-{killed}",
            deferrable=True,
            cancel_on_kill=killed != "left_alone",
            pool="narrow" if killed == "cleared" else "default_pool",
            **SOON,
        )

with DAG("on_worker", schedule=None, start_date=START):
    for killed in ("failed", "evicted"):
        LongRunningOperationSensor(
            task_id=killed,
            operation_name=f"simulations/outcome=never/operations/{{{{ run_id }}}}-{killed}",
            deferrable=False,
            cancel_on_kill=True,
            **SOON,
        )

with DAG("too_long", schedule=None, start_date=START):
    for deferrable in (True, False):
        LongRunningOperationSensor(
            task_id="deferred" if deferrable else "on_worker",
            operation_name=f"simulations/outcome=never/operations/{{{{ run_id }}}}-{deferrable}",
            execution_timeout=timedelta(seconds=20),  # on a busy machine a worker imports for some of them
            on_timeout="cancel",
            deferrable=deferrable,
            **SOON,
        )

with DAG("started", schedule=None, start_date=START):
    StartSimulation(
        task_id="cleared",
        script={"outcome": "never", "cancel_delay": 3, "message": RUN},
        interval=1,
        deferrable=True,
        pool="narrow",
    )

with DAG("done", schedule=None, start_date=START):
    StartSimulation(task_id="cleared", script={"duration": 2, "message": RUN}, interval=1, deferrable=True)

with DAG("dies", schedule=None, start_date=START):
    StartSimulation.partial(
        task_id="dies",
        interval=1,
        deferrable=True,
        retries=2,
        retry_delay=timedelta(seconds=0.1),
    ).expand_kwargs(
        [
            {"script": {"duration": 5, "response": {"index": index}, "message": RUN}, "dies": moment}
            for index, moment in enumerate(["before the name is stored", "before the deferral"] * 10)
        ]
    )
