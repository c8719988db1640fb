"""The DAGs of test_stack.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_lro.operators import CancelOperationOperator
from airflow_provider_lro.sensors import LongRunningOperationSensor
from tests.versions import DAG

START = datetime(2024, 1, 1, tzinfo=UTC)
SOON = {"poke_interval": 1, "timeout": 60, "retries": 1, "retry_delay": timedelta(seconds=1)}
DEFERRED = {**SOON, "deferrable": True}

with DAG("outcomes", schedule=None, start_date=START, default_args=DEFERRED):
    LongRunningOperationSensor(
        task_id="succeeds", operation_name="simulations/duration=2/operations/{{ run_id }}-succeeds"
    )
    LongRunningOperationSensor(
        task_id="on_worker",
        operation_name="simulations/duration=1/operations/{{ run_id }}-poke",
        deferrable=False,
    )
    LongRunningOperationSensor(
        task_id="rescheduled",
        operation_name="simulations/duration=2/operations/{{ run_id }}-reschedule",
        deferrable=False,
        mode="reschedule",
    )
    LongRunningOperationSensor(
        task_id="fails", operation_name="simulations/duration=2&outcome=fail&code=9/operations/{{ run_id }}-fails"
    )
    LongRunningOperationSensor(
        task_id="times_out",
        operation_name="simulations/outcome=never/operations/{{ run_id }}-never",
        timeout=4,
        on_timeout="cancel",
    )
    LongRunningOperationSensor(
        task_id="skips",
        operation_name="simulations/duration=2&outcome=cancelled/operations/{{ run_id }}-cancelled",
        on_cancelled="skip",
    )
    LongRunningOperationSensor.partial(task_id="mapped").expand(
        operation_name=[f"simulations/duration={1 + index}/operations/{{{{ run_id }}}}-{index}" for index in range(2)]
    )
    CancelOperationOperator(
        task_id="cancels",
        operation_name="simulations/outcome=never&cancel_delay=2/operations/{{ run_id }}-stale",
        wait=True,
        interval=1,
    )


def judge(response: Any, _metadata: Any) -> bool:
    print("judged:", response["rows"])
    return bool(response["rows"])


with DAG("stored", schedule=None, start_date=START, default_args=DEFERRED):
    LongRunningOperationSensor(
        task_id="waits",
        operation_name='simulations/duration=2&response={"rows":5}/operations/{{ run_id }}',
        lro_conn_id="stored",
        check=judge,
    )
    LongRunningOperationSensor(
        task_id="rejects",
        operation_name='simulations/duration=1&response={"rows":0}/operations/{{ run_id }}',
        lro_conn_id="stored",
        check=judge,
        soft_fail=True,
    )

with DAG("outage", schedule=None, start_date=START, default_args=DEFERRED):
    LongRunningOperationSensor(
        task_id="survives",
        operation_name="simulations/duration=12/operations/{{ run_id }}",
        endpoint="127.0.0.1:{{ dag_run.conf['port'] }}",
    )

with DAG("endpoints", schedule=None, start_date=START):
    LongRunningOperationSensor(
        task_id="mistyped",
        operation_name="operations/{{ run_id }}",
        endpoint="no-such-host.invalid",
        deferrable=True,
    )
    LongRunningOperationSensor(
        task_id="not_up_yet",
        operation_name="simulations/duration=1/operations/{{ run_id }}",
        endpoint="127.0.0.1:{{ dag_run.conf['port'] }}",
        deferrable=True,
        **SOON,
    )
