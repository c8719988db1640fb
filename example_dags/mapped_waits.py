"""Wait for several operations at the same time, each in a mapped task of its own."""

from __future__ import annotations

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2
    from airflow import DAG

from airflow_provider_lro.sensors import LongRunningOperationSensor

with DAG("lro_mapped_waits", schedule=None, tags=["lro"]):
    LongRunningOperationSensor.partial(
        task_id="wait",
        poke_interval=4,
        timeout=600,
        deferrable=True,
    ).expand(
        operation_name=[
            "simulations/duration=3/operations/{{ run_id }}-first",
            "simulations/duration=6/operations/{{ run_id }}-second",
            "simulations/duration=9/operations/{{ run_id }}-third",
        ]
    )
