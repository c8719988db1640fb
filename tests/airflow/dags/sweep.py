"""The DAG of test_cleanup.py: stale operations are cancelled and waited for, then deleted; the run says where."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow_provider_lro.operators import CancelStaleOperationsOperator, DeleteFinishedOperationsOperator
from tests.versions import DAG

PARENT = "{{ dag_run.conf['parent'] }}"

with DAG("sweep", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC), default_args={"retries": 0}):
    cancel = CancelStaleOperationsOperator(
        task_id="cancel",
        parent=PARENT + "/accept",
        older_than="{{ dag_run.conf['age'] }}",
        wait=True,
        wait_timeout=60,
        interval=1,
        deferrable=True,
    )
    delete = DeleteFinishedOperationsOperator(task_id="delete", parent=PARENT + "/accept", older_than=0.001)
    CancelStaleOperationsOperator(task_id="fails", parent=PARENT + "/refuse", older_than=60)
    CancelStaleOperationsOperator(
        task_id="skips", parent=PARENT + "/refuse", older_than=60, on_unimplemented="skip", deferrable=True
    )
    cancel >> delete
