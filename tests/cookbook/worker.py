"""Runs tasks of the cookbook as workers and a triggerer would, in a process of their own.

gRPC reads the certificates that it trusts once for each process, and that of the tests has others.
"""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.airflow.worker import FakeStore, run

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLE = Path(__file__).parent.parent.parent / "example_dags" / "cookbook_google.py"

_stores: dict[tuple[str, str], FakeStore] = defaultdict(FakeStore)


def begin(env: Mapping[str, str]) -> None:
    """Take over an environment, before anything is called."""
    os.environ.update(env)


def run_task(run_id: str, *task_ids: str) -> list[Any]:
    """Run tasks, one after the other, and return their results; a run's tries of a task share their state store."""
    return [run(_tasks()[task_id], store=_stores[run_id, task_id]).result for task_id in task_ids]


@functools.cache
def _tasks() -> dict[str, Any]:
    from airflow.dag_processing.dagbag import DagBag

    return {task.task_id: task for dag in DagBag(str(EXAMPLE)).dags.values() for task in dag.tasks}
