"""Two assets that watch one parent, and a DAG on each."""

from __future__ import annotations

from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_provider_lro.assets import LongRunningOperationEventTrigger

PARENT = "projects/watched"

every = LongRunningOperationEventTrigger(parent=PARENT, interval=1)
failures = LongRunningOperationEventTrigger(parent=PARENT, interval=1, outcomes="Failed")
WATCHED = {
    "every": Asset("every", watchers=[AssetWatcher(name="every", trigger=every)]),
    "failures": Asset("failures", watchers=[AssetWatcher(name="failures", trigger=failures)]),
}

for name, asset in WATCHED.items():
    with DAG(f"reacts_to_{name}", schedule=[asset], catchup=False, max_active_runs=4):

        @task
        def react(triggering_asset_events: dict[Asset, list] | None = None) -> list[str]:
            events = [event for each in (triggering_asset_events or {}).values() for event in each]
            return [operation["name"] for event in events for operation in event.extra["payload"]["operations"]]

        react()
