"""The DAGs of test_task_lro.py: functions whose clients tell where to poll, as their connection does not."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_lro.decorators import lro_task
from tests.versions import DAG, BaseHook, task

START = datetime(2024, 1, 1, tzinfo=UTC)
OPTIONS: dict[str, Any] = {"lro_conn_id": "nameless", "interval": 1, "deferrable": True}


def start(**script: Any) -> Any:
    """Start an operation, and return what a generated client does, whose channel is closed by then."""
    import warnings

    with warnings.catch_warnings(action="ignore"):
        from google.api_core import operation, operations_v1
    import grpc
    from google.protobuf import struct_pb2

    from airflow_provider_lro.simulator import SimulatorClient

    stored = BaseHook.get_connection("lro_default")
    endpoint = f"{stored.host}:{stored.port}"
    with SimulatorClient(endpoint) as client, grpc.insecure_channel(endpoint) as channel:
        operations = operations_v1.OperationsClient(channel)
        return operation.from_gapic(client.start(**script), operations, struct_pb2.Struct)


with DAG("task_lro", schedule=None, start_date=START):

    @task.lro(multiple_outputs=True, retries=2, retry_delay=timedelta(seconds=0.1), **OPTIONS)
    def export(table: str, fault: str, dies: bool, ti: Any = None, request_id: str = "") -> Any:
        first = ti.try_number == 1  # below Airflow 3.3 the next is a start of its own
        faults = {"fault": fault} if fault and first else {}
        response = {"table": table, "rows": 5}
        operation = start(duration=4, response=response, request_id=request_id, message=table, **faults)
        if dies and first:
            os.kill(os.getpid(), signal.SIGKILL)
        return operation

    @task
    def add(rows: list[float]) -> float:
        return sum(rows)

    exported = export.partial(table="{{ run_id }}").expand_kwargs(
        [
            {"fault": "", "dies": False},
            {"fault": "PERMISSION_DENIED*1", "dies": False},  # the try fails, and its retry knows where to ask again
            {"fault": "", "dies": True},
        ]
    )
    add(exported["rows"])

with DAG("task_lro_killed", schedule=None, start_date=START):

    @lro_task(**OPTIONS)
    async def asynchronous() -> str:
        raise AssertionError("must not run: nothing tells where to poll")

    @lro_task(**OPTIONS)
    def killed(run_id: Any = None) -> Any:
        return start(outcome="never", message=run_id)

    killed()
    asynchronous()
