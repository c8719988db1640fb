"""Cancel what has been running for too long; once it is known to have ended, delete what is old.

A cancel is a request, not a kill: the first task waits for what comes of it, and its XCom says so for each operation.
"""

from __future__ import annotations

from datetime import timedelta

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2
    from airflow import DAG

from airflow_provider_lro.operators import (
    CancelStaleOperationsOperator,
    DeleteFinishedOperationsOperator,
    GetOperationOperator,
)

PARENT = "projects/nobody-needs"

with DAG("lro_cancel_stale", schedule=None, tags=["lro"]):
    # To have something to cancel: the simulator knows of an operation once it was asked for it.
    forgotten = GetOperationOperator(
        task_id="forgotten",
        operation_name=PARENT + "/simulations/start=1700000000&outcome=never&cancel_delay=3/operations/{{ run_id }}",
    )
    cancel = CancelStaleOperationsOperator(
        task_id="cancel",
        parent=PARENT,
        older_than=timedelta(minutes=10),
        max_cancel=100,  # whatever goes wrong, not everything is gone at once
        wait=True,
        wait_timeout=600,
        interval=4,
        deferrable=True,
    )
    delete = DeleteFinishedOperationsOperator(
        task_id="delete",
        parent=PARENT,
        older_than=timedelta(days=7),
        keep_failed=True,
    )

    forgotten >> cancel >> delete
