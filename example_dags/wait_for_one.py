"""Wait for one operation that somebody else has started; while it runs, no worker slot is taken.

The operation is one of the simulator's, whose names say what they do: this one takes three seconds. Any other service's
name does as well.
"""

from __future__ import annotations

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2
    from airflow import DAG

from airflow_provider_lro.sensors import LongRunningOperationSensor

with DAG("lro_wait_for_one", schedule=None, tags=["lro"]):
    LongRunningOperationSensor(
        task_id="wait",
        operation_name="simulations/duration=3/operations/{{ run_id }}",
        poke_interval=4,
        timeout=600,
        deferrable=True,
    )
