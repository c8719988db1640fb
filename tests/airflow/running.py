"""What tests ask of an Airflow that runs."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.stack import AirflowStack, TaskState

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


def cli(airflow: AirflowStack, *arguments: str) -> None:
    """Run `airflow …`."""
    argv = [sys.executable, "-W", "ignore", "-m", "airflow", *arguments]
    subprocess.run(argv, check=True, env=airflow.env, capture_output=True, timeout=60)


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
