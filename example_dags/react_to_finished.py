"""Run a DAG when operations have finished, whoever started them. Needs Airflow 3.0; loses nothing since 3.3.

The watcher lists what is under ``projects/example`` twice a minute, in the triggerer; all watchers of that parent share
the listing. Each run is told what has finished since the run before.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_provider_lro.assets import LongRunningOperationEventTrigger

finished = Asset(
    "finished_operations",
    watchers=[
        AssetWatcher(
            name="finished_operations",
            trigger=LongRunningOperationEventTrigger(parent="projects/example", interval=30),
        )
    ],
)

with DAG("lro_react_to_finished", schedule=[finished], catchup=False, tags=["lro"]):

    @task
    def react(triggering_asset_events: dict[Asset, list[Any]] | None = None) -> list[str]:
        events = [event for each in (triggering_asset_events or {}).values() for event in each]
        operations = [operation for event in events for operation in event.extra["payload"]["operations"]]
        return [f"{operation['name']}: {operation['outcome']}" for operation in operations]

    react()
