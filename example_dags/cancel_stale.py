"""Cancel an operation that nobody needs any more, and wait for what comes of it: a cancel is a request, not a kill."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_lro.operators import CancelOperationOperator

with DAG("lro_cancel_stale", schedule=None, tags=["lro"]):
    CancelOperationOperator(
        task_id="cancel",
        operation_name="simulations/duration=3600&cancel_delay=3/operations/{{ run_id }}",
        ignore_missing=True,
        wait=True,
        wait_timeout=600,
        interval=4,
        deferrable=True,
    )
