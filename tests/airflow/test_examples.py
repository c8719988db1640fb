"""The example DAGs in a real Airflow, all of them at once, while the triggerer is killed: on every version."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_lro.operation import OperationsClient
from airflow_provider_lro.simulator import operation_name
from scripts.environment import as_variables
from tests.airflow.running import connect, until
from tests.shared_airflow import running_airflow

if TYPE_CHECKING:
    from tests.simulator_fixture import Simulator

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

EXAMPLES = Path(__file__).parent.parent.parent / "example_dags"
IS_2 = version("apache-airflow").startswith("2.")
LEFT_OUT = ["__pycache__", "cookbook_google.py", *(["react_to_finished.py"] if IS_2 else [])]
"""The cookbook needs Google's clients, and runs in `tests/cookbook`; asset watchers came with Airflow 3.0."""
WATCHING, WATCHED = "lro_react_to_finished", "projects/example"


def test_example_dags_outlive_their_triggerer(service: Simulator, tmp_path: Path) -> None:
    """Each run is a success although the triggerer dies while they wait; a watcher announces what has finished."""
    dags = tmp_path / "dags"
    shutil.copytree(EXAMPLES, dags, ignore=shutil.ignore_patterns(*LEFT_OUT))
    started = sorted(f"lro_{path.stem}".replace("lro_task_lro", "lro_task") for path in dags.glob("*.py"))
    env = as_variables({"triggerer": {"triggerer_health_check_threshold": 10}})
    with running_airflow(tmp_path / "home", dags, env=env) as airflow:
        connect(airflow, "lro_default", host="127.0.0.1", port=service.port, extra={"insecure": True})
        runs = {dag: airflow.trigger(dag) for dag in started if dag != WATCHING}

        def waiting() -> set[str]:
            states = {(dag, task.state) for dag, run in runs.items() for task in airflow.task_states(dag, run)}
            return {dag for dag, state in states if state == "deferred"}

        until(lambda: bool(waiting()), "a task to be deferred")
        airflow.kill("triggerer")
        listed = len(service.calls("ListOperations", WATCHED))
        airflow.start("triggerer")
        assert {dag: airflow.wait_for_run(dag, run, timeout=300) for dag, run in runs.items()} == dict.fromkeys(
            runs, "success"
        )
        if not IS_2:
            # Below Airflow 3.3 nothing remembers what was finished: the first listing is where a watcher begins.
            until(lambda: len(service.calls("ListOperations", WATCHED)) > listed, "the watcher to list again")
            with OperationsClient.connect(service.endpoint, insecure=True) as client:
                client.get_operation(f"{WATCHED}/{operation_name('finished', duration=0.1)}")
            found = f"dags/{WATCHING}/dagRuns"
            until(
                lambda: any(run["state"] == "success" for run in airflow.request("GET", found)["dag_runs"]),
                "a run for the operation that has finished",
            )
