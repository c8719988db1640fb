"""The DAG of test_google_connection.py: one wait, on the worker and in the triggerer."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow_provider_lro.sensors import LongRunningOperationSensor
from tests.versions import DAG

with DAG("one_wait", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC)):
    LongRunningOperationSensor(
        task_id="waits",
        operation_name="simulations/duration=2/operations/{{ run_id }}",
        lro_conn_id="{{ dag_run.conf['connection'] }}",
        endpoint="{{ dag_run.conf['endpoint'] }}",
        deferrable=True,
        poke_interval=1,
        timeout=60,
        retries=0,
    )
