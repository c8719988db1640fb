"""Commands and questions of tests to an Airflow that runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from airflow_provider_lro.simulator.script import parse_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.stack import AirflowStack, TaskState
    from tests.simulator_fixture import Simulator

_SET_STATE = """
import sys
from airflow.models.taskinstance import TaskInstance, clear_task_instances
from airflow.models.dagbag import DagBag
from airflow.utils.session import create_session

dag_id, run_id, task_id, state = sys.argv[1:]
with create_session() as session:
    found = session.query(TaskInstance).filter_by(dag_id=dag_id, run_id=run_id, task_id=task_id)
    if state:
        found.one().set_state(state, session=session)
    else:
        clear_task_instances(found.all(), session, dag=DagBag().get_dag(dag_id))
"""


def tasks(airflow: AirflowStack, dag: str, run: str) -> dict[tuple[str, int], TaskState]:
    return {(task.task_id, task.map_index): task for task in airflow.task_states(dag, run)}


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < end, f"waited 180 s for {what}"
        time.sleep(0.2)


def cli(airflow: AirflowStack, *arguments: str) -> str:
    """Run `airflow …`, and return what it has said."""
    argv = [sys.executable, "-W", "ignore", "-m", "airflow", *arguments]
    ended = subprocess.run(argv, check=True, env=airflow.env, capture_output=True, text=True, timeout=60)
    return ended.stdout + ended.stderr


def connect(airflow: AirflowStack, name: str, **stored: Any) -> None:
    """Store a connection to a service; nothing in it may be a secret."""
    if airflow.is_3:
        given = {"connection_id": name, "conn_type": "lro", **stored, "extra": json.dumps(stored.get("extra", {}))}
        airflow.request("POST", "connections", given)
    else:
        cli(airflow, "connections", "add", name, "--conn-json", json.dumps({"conn_type": "lro", **stored}))


def resize(airflow: AirflowStack, pool: str, slots: int) -> None:
    """Give a pool that there is a number of slots."""
    if airflow.is_3:
        change = {"pool": pool, "slots": slots, "include_deferred": False}
        airflow.request("PATCH", f"pools/{pool}?update_mask=slots", change)
    else:
        cli(airflow, "pools", "set", pool, str(slots), "changed")


def rows(airflow: AirflowStack, query: str, *values: str) -> list[tuple[Any, ...]]:
    """Ask the database of an Airflow 3 itself."""
    import psycopg2

    with closing(psycopg2.connect(airflow.database.replace("+psycopg2", ""))) as database, database.cursor() as cursor:
        cursor.execute(query, values or None)
        return cursor.fetchall()


def started(service: Simulator, run: str) -> list[str]:
    """The names that a run's calls of Start were given, in order; its operations have the run for a message."""
    names = [call["name"] for call in service.calls("Start")]
    return [name for name in names if parse_name(name).script.message == run]


def mark(airflow: AirflowStack, dag: str, run: str, task: str, state: str) -> None:
    """Give a task a state, as a user does."""
    if airflow.is_3:
        airflow.mark(dag, run, task, state)
    else:
        _set_state(airflow, dag, run, task, state)


def clear(airflow: AirflowStack, dag: str, run: str, task: str) -> None:
    """Clear a task, as a user does."""
    if airflow.is_3:
        airflow.clear(dag, run, task)
    else:
        _set_state(airflow, dag, run, task, "")


def _set_state(airflow: AirflowStack, *arguments: str) -> None:
    argv = [sys.executable, "-W", "ignore", "-c", _SET_STATE, *arguments]
    subprocess.run(argv, check=True, env=airflow.env, capture_output=True, timeout=60)
