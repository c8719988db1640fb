"""Asset events of finished operations in a real Airflow, over kills and restarts of its triggerer."""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_lro.operation import OperationsClient
from airflow_provider_lro.simulator import operation_name
from scripts.environment import as_variables
from tests.airflow.running import cli, rows, until
from tests.shared_airflow import running_airflow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.stack import AirflowStack
    from tests.simulator_fixture import Simulator

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(version("apache-airflow").startswith("2."), reason="asset watchers came with Airflow 3.0"),
]

PARENT = "projects/watched"
FIRED = "Trigger fired event"


@pytest.fixture(scope="module")
def watching(service: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    """An Airflow of its own: its triggerer is killed, and dead after 10 s without a heartbeat."""
    env = as_variables({"triggerer": {"triggerer_health_check_threshold": 10}})
    stored = {"conn_type": "lro", "host": "127.0.0.1", "port": service.port, "extra": {"insecure": True}}
    home, dags = tmp_path_factory.mktemp("watching"), Path(__file__).parent / "dags_watched"
    with OperationsClient.connect(service.endpoint, insecure=True) as client:
        client.get_operation(f"{PARENT}/{operation_name('before', duration=0)}")
    with running_airflow(home, dags, env=env) as running:
        cli(running, "connections", "add", "lro_default", "--conn-json", json.dumps(stored))
        yield running


def stored(airflow: AirflowStack, asset: str) -> list[dict[str, Any]]:
    """The operations that the events of an asset name, in order."""
    query = "select e.extra::text from asset_event e join asset a on a.id = e.asset_id where a.name = %s order by e.id"
    extras = [json.loads(extra) for (extra,) in rows(airflow, query, asset)]
    return [operation for extra in extras for operation in extra["payload"]["operations"]]


def fired(airflow: AirflowStack) -> int:
    return (airflow.log_dir / "triggerer.log").read_text(errors="replace").count(FIRED)


def reacted(airflow: AirflowStack, dag: str) -> set[str]:
    """The operations that successful runs of a DAG were given."""
    runs = rows(airflow, "select run_id from dag_run where state = 'success' and dag_id = %s", dag)
    return {name for (run,) in runs for name in airflow.xcom(dag, run, "react")}


def remembered(airflow: AirflowStack) -> int:
    """Return how many operations the watcher of all outcomes has stored as announced."""
    values = rows(airflow, "select value from asset_state_store where key like 'lro:%:seen'")
    return max((len(json.loads(value)) // 8 for (value,) in values), default=0)


def test_none_is_lost_over_kills_and_restarts(watching: AirflowStack, service: Simulator) -> None:
    """Killed with an event on its way, between event and store, and restarted: fifty, each announced, all run."""
    names: list[str] = []
    failing: list[str] = []

    def finish(client: OperationsClient) -> None:
        for number in range(len(names), len(names) + 10):
            outcome = "fail" if number % 5 == 0 else "ok"
            name = f"{PARENT}/{operation_name(f'o{number}', duration=0.1, outcome=outcome, code=9)}"
            client.get_operation(name)
            names.append(name)
            if outcome == "fail":
                failing.append(name)

    def count() -> Counter[str]:
        return Counter(operation["name"] for operation in stored(watching, "every"))

    def all_announced() -> bool:
        return set(count()) >= set(names)

    with OperationsClient.connect(service.endpoint, insecure=True) as client:
        watermark = "select count(*) from asset_state_store where key like 'lro:%:seen'"
        until(lambda: rows(watching, watermark) == [(2,)], "both watchers to have looked")
        old = remembered(watching)

        before = fired(watching)
        finish(client)
        until(lambda: fired(watching) > before, "an event to be on its way")
        watching.kill("triggerer")
        finish(client)  # while nobody looks
        watching.start("triggerer")

        until(all_announced, "the events of both bursts")
        assert remembered(watching) < old + len(names)
        watching.kill("triggerer")  # between event and store
        watching.start("triggerer")
        finish(client)

        until(all_announced, "the event of the third burst")
        assert min(count()[name] for name in names[10:20]) == 2  # again, but for what was stored
        until(lambda: remembered(watching) >= old + len(names), "the store to have all of them")
        first = count()
        watching.kill("triggerer")
        watching.start("triggerer")
        finish(client)
        finish(client)
        until(all_announced, "the events of the last bursts")
        assert {name: count()[name] for name in first} == first  # a kill after the store repeats nothing

    assert len(names) == 50
    until(lambda: reacted(watching, "reacts_to_every") >= set(names), "the runs for all")
    until(lambda: reacted(watching, "reacts_to_failures") >= set(failing), "the runs for the failures")
    every, failures = stored(watching, "every"), stored(watching, "failures")
    assert {operation["name"] for operation in every} == set(names)
    assert {operation["name"] for operation in failures} == set(failing)
    assert {(operation["outcome"], operation.get("code")) for operation in every} == {
        ("Succeeded", None),
        ("Failed", 9),
    }
    assert {(operation["outcome"], operation.get("code")) for operation in failures} == {("Failed", 9)}
    ends = {(operation["name"], operation["end_time"]) for operation in every}
    assert len(ends) == len(names)  # so that a DAG can tell a repeat
