"""Every difference between the versions of Airflow, and every private attribute of Airflow that this provider reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import airflow

try:
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowRescheduleException,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTerminated,
        AirflowTaskTimeout,
    )
except ImportError:  # below Airflow 3.2
    from airflow.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowRescheduleException,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTerminated,
        AirflowTaskTimeout,
    )

try:
    from airflow.sdk.bases.decorator import KeywordParameters
    from airflow.sdk.configuration import conf
except ImportError:  # below Airflow 3.2
    from airflow.configuration import conf
    from airflow.utils.operator_helpers import KeywordParameters

try:
    from airflow.sdk import BaseHook
except ImportError:  # below Airflow 3.1
    from airflow.hooks.base import BaseHook

try:
    from airflow.sdk import BaseOperator, BaseOperatorLink, BaseSensorOperator
    from airflow.sdk.bases.decorator import DecoratedOperator, task_decorator_factory
    from airflow.sdk.bases.xcom import BaseXCom
    from airflow.sdk.execution_time.xcom import XCom
    from airflow.sdk.log import mask_secret
except ImportError:  # Airflow 2
    from airflow.decorators.base import DecoratedOperator, task_decorator_factory
    from airflow.models import BaseOperator, BaseOperatorLink, XCom
    from airflow.sensors.base import BaseSensorOperator
    from airflow.utils.log.secrets_masker import mask_secret

    BaseXCom = XCom  # type: ignore[misc]  # it reads links by way of the backend, if there is one

try:
    from airflow.sdk.execution_time.context import NEVER_EXPIRE
except ImportError:  # below Airflow 3.3, which has no store either
    FOR_EVER: dict[str, Any] = {}
else:
    FOR_EVER = {"retention": NEVER_EXPIRE}
"""Keyword arguments that make the task state store keep a value for ever."""

if TYPE_CHECKING:
    from airflow.sdk import Context

AIRFLOW_VERSION: str = airflow.__version__
TRIGGER_TIMEOUTS = ("Trigger timeout", "Trigger/execution timeout")
"""The errors of Airflow 3 and of Airflow 2.11 when ``defer(timeout=…)`` has run out."""


def task_id_of(ti: Any) -> dict[str, Any]:
    """Return the key of a task instance, as keyword arguments of ``XCom.set`` and the like."""
    map_index = -1 if ti.map_index is None else int(ti.map_index)
    return {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": map_index}


def state_of(ti: Any) -> str | None:
    """Return the state of a task instance in the database; None also for one that was cleared. Blocks.

    Airflow also stops workers when their machine goes away, and triggers when they move to another triggerer. Only this
    state distinguishes these cases from a user's kill.
    """
    key = task_id_of(ti)
    try:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    except ImportError:  # Airflow 2
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session

        with create_session() as session:
            state = session.query(TaskInstance.state).filter_by(**key).scalar()
    else:
        states: dict[str, dict[str, Any]] = RuntimeTaskInstance.get_task_states(
            dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=key["map_index"]
        )
        name = ti.task_id if key["map_index"] < 0 else f"{ti.task_id}_{key['map_index']}"
        state = states.get(ti.run_id, {}).get(name)
    return None if state is None else str(getattr(state, "value", state))


def is_mapped_copy(task: Any) -> bool:
    """Return True for one of a mapped task's, which is made on a worker, of values that are rendered already."""
    return bool(getattr(task, "_BaseOperator__from_mapped", False))


def mapped_from_xcom(task: Any, context: Context) -> list[Any]:
    """Return the arguments of one of a mapped task's that ``expand_kwargs`` has taken out of an XCom.

    Airflow renders them as templates, whoever has written them; those of ``expand`` it does not (2.11 to 3.4).
    """
    if not is_mapped_copy(task) or not task.has_dag():
        return []
    mapped = task.get_dag().get_task(task.task_id)
    index = context["ti"].map_index
    source = getattr(mapped, mapped._expand_input_attr).value  # noqa: SLF001
    is_list = isinstance(source, list | tuple)
    if is_list:
        source = source[index]
    if not hasattr(source, "resolve"):  # it stands in the DAG file, or is that of expand()
        return []
    found = source.resolve(context)
    names = found if is_list else found[index]
    if mapped._expand_input_attr == "op_kwargs_expand_input":  # noqa: SLF001  (of a decorated task)
        return [task.op_kwargs[name] for name in names]
    return [getattr(task, name, None) for name in names]


def first_poke(context: Context, task: Any) -> float | None:
    """Return when a rescheduled sensor first poked, in epoch seconds, by Airflow's own rule; None on the first time."""
    ti: Any = context["ti"]
    if hasattr(ti, "get_first_reschedule_date"):
        first = ti.get_first_reschedule_date(context)
    else:  # Airflow 2
        from airflow.sensors.base import _orig_start_date

        first_try = (ti.max_tries or 0) - (task.retries or 0) + 1
        first = _orig_start_date(ti.dag_id, ti.task_id, ti.run_id, ti.map_index, first_try)
    return None if first is None else float(first.timestamp())


def asset_state_stores(trigger: Any) -> list[Any]:
    """Return the stores of all assets that an event trigger serves; none below Airflow 3.3.

    One trigger may serve several assets, and does not know which: the accessors' own methods refuse that.
    """
    accessors = getattr(trigger, "asset_state_store", None)
    if accessors is None:
        return []
    each = [*getattr(accessors, "_by_name", {}).values(), *getattr(accessors, "_by_uri", {}).values()]
    return each or [accessors]


def stats() -> Any:
    """Return what sends Airflow's metrics; imported when they are sent."""
    try:
        import airflow.sdk.serde  # since Airflow 3.4 this sets them up where a process has not
        from airflow.sdk.observability.stats import Stats
    except ImportError:  # below Airflow 3.2
        from airflow.stats import Stats
    return Stats


def triggers_have_queues() -> bool:
    """Return True where an event trigger can be given a queue, since 3.4."""
    from airflow.triggers.base import BaseTrigger

    return hasattr(BaseTrigger, "trigger_queue_inherited_from_task")


# ── ending a task from the triggerer ──


def triggers_have_on_kill() -> bool:
    """Return True where Airflow calls a trigger's ``on_kill``, since 3.3; below, a kill looks like a shutdown."""
    from airflow.triggers.base import BaseTrigger

    return hasattr(BaseTrigger, "on_kill")


def triggers_move_without_on_kill() -> bool:
    """Return True where ``on_kill`` is not called for a trigger that has moved to another triggerer, since 3.4."""
    return tuple(map(int, AIRFLOW_VERSION.split(".")[:2])) >= (3, 4)


def takeover_time() -> float:
    """Return the seconds of silence after which another triggerer may have taken over the triggers of this one.

    Half of Airflow's own, which it counts from the last heartbeat before the silence.
    """
    return float(conf.getfloat("triggerer", "triggerer_health_check_threshold", fallback=30.0)) / 2


def why_worker_is_needed(task: Any) -> str | None:
    """Return the reason for which only a worker can end a task; None if there is none."""
    has: dict[str, bool] = {
        "outlets": bool(task.outlets),
        "an on_success_callback": bool(getattr(task, "has_on_success_callback", False)),
        "an on_skipped_callback": bool(getattr(task, "has_on_skipped_callback", False)),
        "multiple_outputs": bool(getattr(task, "multiple_outputs", False)),
        "the DAG's result": bool(getattr(task, "returns_dag_result", False)),
        "a post_execute": task._post_execute_hook is not None,  # noqa: SLF001
    }
    for what, there in has.items():
        if there:
            return f"it has {what}"
    if task.get_dag() is not None and next(iter(task.iter_mapped_dependants()), None) is not None:
        return "another task is mapped over its result"
    from airflow.sdk.listener import get_listener_manager

    if XCom is not BaseXCom:
        return "an XCom backend is configured, which may block"
    hooks = get_listener_manager().hook
    for heard in ("success", "skipped"):
        if getattr(hooks, f"on_task_instance_{heard}").get_hookimpls():
            return f"a plugin listens to on_task_instance_{heard}"
    return None
