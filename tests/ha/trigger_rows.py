"""Prints Airflow's rows of triggers, decrypted, as JSON: one object for each deferred task instance.

A process of its own, in the environment of the Airflow that is asked: ``read_rows`` starts it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.stack import AirflowStack


def read_rows(airflow: AirflowStack, dag_id: str, run_id: str) -> dict[tuple[str, int], dict[str, Any]]:
    """The rows of a run, by task and map index: ``id``, ``triggerer`` (its name, or None) and ``kwargs``."""
    done = subprocess.run(
        [sys.executable, __file__, dag_id, run_id], env=airflow.env, check=True, capture_output=True, text=True
    )
    rows = json.loads(done.stdout.splitlines()[-1])
    return {(row["task_id"], row["map_index"]): row for row in rows}


def main(dag_id: str, run_id: str) -> None:
    from airflow.jobs.job import Job
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session
    from sqlalchemy import select

    asked = (
        select(TaskInstance.task_id, TaskInstance.map_index, Trigger, Job.unixname)
        .join(Trigger, TaskInstance.trigger_id == Trigger.id)
        .outerjoin(Job, Trigger.triggerer_id == Job.id)
        .where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
    )
    with create_session() as session:
        rows = [
            {"task_id": task, "map_index": index, "id": trigger.id, "triggerer": name, "kwargs": trigger.kwargs}
            for task, index, trigger, name in session.execute(asked)
        ]
    print(json.dumps(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
