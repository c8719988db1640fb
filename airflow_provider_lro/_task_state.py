"""What Airflow thinks of a task instance at this moment: whether a user has acted on it.

Workers are also told to stop when their machine goes away, and triggers when they move to another triggerer. Only the
task's state in the database tells these apart from a user's kill. Floor 1.
"""

from __future__ import annotations

from typing import Any

__all__ = ["state_of"]


def state_of(ti: Any) -> str | None:
    """Return the state of a task instance; None also for one that was cleared. Blocks, and asks Airflow.

    Args:
        ti: the task instance, as a task's context or a trigger has it.
    """
    map_index = -1 if ti.map_index is None else int(ti.map_index)
    try:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    except ImportError:  # Airflow 2
        return _state_in_database(ti, map_index)
    states: dict[str, dict[str, Any]] = RuntimeTaskInstance.get_task_states(
        dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=map_index
    )
    key = ti.task_id if map_index < 0 else f"{ti.task_id}_{map_index}"
    state = states.get(ti.run_id, {}).get(key)
    return None if state is None else str(getattr(state, "value", state))


def _state_in_database(ti: Any, map_index: int) -> str | None:
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    key = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": map_index}
    with create_session() as session:
        state = session.query(TaskInstance.state).filter_by(**key).scalar()
    return None if state is None else str(getattr(state, "value", state))
