"""The DAG of test_smoke.py: deferred waits."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow_provider_lro.sensors import LongRunningOperationSensor
from tests.versions import DAG

WAYS = {"succeeds": "duration=15", "fails": "duration=15&outcome=fail&code=9"}

with DAG("smoke", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC)):
    for task, script in WAYS.items():
        LongRunningOperationSensor(
            task_id=task,
            operation_name=f"simulations/{script}/operations/{{{{ run_id }}}}-{task}",
            deferrable=True,
            poke_interval=1,
            timeout=120,
            retries=1,
        )
