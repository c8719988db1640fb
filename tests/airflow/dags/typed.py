"""The DAG of test_types.py: tasks that say of what types their operation's messages are."""

from __future__ import annotations

import importlib.metadata
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_lro.sensors import LongRunningOperationSensor
from tests.versions import DAG

AIRFLOW = tuple(int(part) for part in importlib.metadata.version("apache-airflow").split(".")[:2])
STRUCT = "google.protobuf.struct_pb2.Struct"
TASKS: dict[str, dict[str, Any]] = {
    "right": {"response_type": STRUCT},
    "wrong": {"response_type": "google.protobuf.Duration", "retries": 3, "retry_delay": timedelta(seconds=1)},
    "missing": {"type_modules": ["no_such_module"]},
}
if AIRFLOW >= (3, 3):
    TASKS["ended"] = {"response_type": STRUCT, "end_from_trigger": True}

with DAG("typed", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC)):
    for task, arguments in TASKS.items():
        LongRunningOperationSensor(
            task_id=task,
            operation_name=f"simulations/duration=5/operations/{{{{ run_id }}}}-{task}",
            poke_interval=1,
            timeout=120,
            deferrable=True,
            **{"retries": 0, "metadata_type": STRUCT, **arguments},
        )
