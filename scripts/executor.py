"""An executor for Airflow 3.0 to 3.3 that knows what it runs, so that short deferrals are not taken for killed tasks.

A task that defers ends its process, and the executor reports that. If the task has come back from its trigger before
the scheduler reads the report, the scheduler asks the executor whether it has the task; Airflow 3.3.2's LocalExecutor
never notes what it runs, says no, and the task fails (apache/airflow#67287, #72716). With waits of a second on a busy
machine that is every tenth. Operations that take so little are for tests; their failures must be our own. That of
Airflow 3.4 notes it itself.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from airflow.executors.local_executor import LocalExecutor

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CountingLocalExecutor"]


def _key(workload: Any) -> Any:
    return workload.ti.key if hasattr(workload, "ti") else workload.key  # below Airflow 3.3 a task's has none


class _CountingLocalExecutor(LocalExecutor):
    """LocalExecutor, with the answer to `has_task` right."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._unfinished: Counter[Any] = Counter()

    if hasattr(LocalExecutor, "_process_workloads"):

        def _process_workloads(self, workload_list: Sequence[Any]) -> None:
            self._unfinished.update(map(_key, workload_list))
            super()._process_workloads(workload_list)  # type: ignore[no-untyped-call]

    else:  # Airflow 3.0

        def queue_workload(self, workload: Any, session: Any) -> None:
            """Note what begins."""
            self._unfinished[_key(workload)] += 1
            super().queue_workload(workload, session)

    def change_state(self, key: Any, state: Any, info: Any = None, *args: Any, **kwargs: Any) -> None:
        """Note an end; what is reported as running goes on."""
        if state != "running":
            self._unfinished[key] -= 1
        super().change_state(key, state, info, *args, **kwargs)

    def has_task(self, task_instance: Any) -> bool:
        """Return True if the task is queued here, or runs, or is about to be resumed, which Airflow 3.2 sees itself."""
        is_resumed = task_instance.state == "scheduled" and task_instance.next_method is not None
        return super().has_task(task_instance) or is_resumed or self._unfinished[task_instance.key] > 0


CountingLocalExecutor = LocalExecutor if hasattr(LocalExecutor, "_finish_dispatch") else _CountingLocalExecutor
