"""What a sensor checks when it is to start, or to end, in the triggerer.

Refused is what Airflow would get wrong in silence. Floor 2: imports floor 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from airflow import __version__
from airflow.triggers.base import StartTriggerArgs

from airflow_provider_lro._core.names import name_of
from airflow_provider_lro._core.type_names import type_name
from airflow_provider_lro._workerless import WorkerlessTrigger, is_template, needs_worker
from airflow_provider_lro.operators._deferral import backstop

if TYPE_CHECKING:
    from airflow_provider_lro._core.wait import WaitArgs

__all__ = ["check_end", "check_start", "ending", "forget_xcoms", "joined", "start_trigger_args"]

AIRFLOW = tuple(int(part) for part in __version__.split(".")[:2])
RENDERS = (3, 3)
"""The first Airflow that renders templates in the triggerer, lets a trigger write XComs, and ends tasks there well."""
IGNORES_START = ((3, 1), (3, 2))
KNOWN_NAMES = frozenset(
    [
        "conn",
        "dag",
        "dag_run",
        "data_interval_end",
        "data_interval_start",
        "ds",
        "ds_nodash",
        "logical_date",
        "macros",
        "params",
        "partition_date",
        "partition_key",
        "run_id",
        "task",
        "task_instance",
        "task_instance_key_str",
        "task_reschedule_count",
        "ti",
        "ts",
        "ts_nodash",
        "ts_nodash_with_tz",
        "var",
    ]
)
"""What a template may use. Airflow knows more names on a worker; in a triggerer some of them hang, and a name that is
not known renders as nothing at all."""
_TI = frozenset({"dag_id", "map_index", "queue", "run_id", "task_id", "try_number", "xcom_pull"})
KNOWN_ATTRIBUTES = {
    "dag": frozenset({"dag_id", "timezone"}),
    "task": frozenset({"dag_id", "owner", "queue", "task_id"}),
    "task_instance": _TI,
    "ti": _TI,
}
"""What is the same of them on a worker. What a triggerer does not have renders as nothing, ``ti.start_date`` too."""
WORKERS_METHODS = ("execute_complete", "post_execute", "resume_execution", "result")
STARTERS_METHODS = ("execute", "pre_execute")


def check_end(sensor: Any) -> None:
    """Raise ValueError where a task cannot end in the triggerer."""
    if AIRFLOW < RENDERS:
        raise ValueError(f"end_from_trigger=True needs Airflow 3.3 or newer, and this is {__version__}")
    if not sensor.deferrable:
        raise ValueError("end_from_trigger=True needs deferrable=True")


def check_start(sensor: Any) -> None:
    """Raise ValueError where a task cannot start in the triggerer."""
    if AIRFLOW in IGNORES_START:
        raise ValueError(
            f"start_from_trigger=True is ignored by Airflow 3.1 and 3.2, without a word, and this is {__version__}; it"
            " works on 2.11, 3.0, and from 3.3 on"
        )
    if not sensor.deferrable:
        raise ValueError("start_from_trigger=True needs deferrable=True")
    if sensor.reschedule:
        raise ValueError("start_from_trigger=True does not go with mode='reschedule'")


def ending(sensor: Any, base: type, *, from_start: bool) -> dict[str, Any]:
    """Return the arguments of a trigger that ends its task.

    Args:
        sensor: the task.
        base: the class whose methods a trigger stands for.
        from_start: the trigger starts the task, too.
    """
    return {
        "ends": True,
        "worker_for": _own_methods(sensor, base, from_start=from_start)
        or (_lost_in_the_scheduler(sensor) if from_start else needs_worker(sensor, from_start=False)),
        **{
            name: getattr(sensor, name)
            for name in ("on_cancelled", "soft_fail", "never_fail", "require_result", "do_xcom_push")
        },
        "response_type": type_name(sensor.response_type, what="response_type"),
    }


def _own_methods(sensor: Any, base: type, *, from_start: bool) -> str | None:
    """Return what of Python a task has that a trigger would pass over."""
    for name in WORKERS_METHODS + (STARTERS_METHODS if from_start else ()):
        if getattr(type(sensor), name) is not getattr(base, name):
            return f"its class has its own {name}"
    if sensor._post_execute_hook is not None or (from_start and sensor._pre_execute_hook is not None):  # noqa: SLF001
        return "it has a pre_execute or post_execute"
    return None


def _lost_in_the_scheduler(sensor: Any) -> str | None:
    """Return what needs a worker, and cannot be seen in what the scheduler knows of a task."""
    return "it has the DAG's result" if getattr(sensor, "returns_dag_result", False) else None


def start_trigger_args(sensor: Any, args: WaitArgs, *, timeout: float, ends: dict[str, Any]) -> StartTriggerArgs:
    """Return what the scheduler makes the trigger from.

    Args:
        sensor: the task.
        args: its wait, with fields that may be templates.
        timeout: seconds from the task's start to its deadline.
        ends: from ``ending``, or nothing.

    Raises:
        ValueError: it would not come to the triggerer as it is meant.
    """
    for name in sensor.template_fields:
        _check_value(sensor, name, getattr(sensor, name))
    _check_params(sensor)
    allowance = backstop(args, left=timeout)
    # Airflow takes the earlier of the two, for a task that starts in the triggerer.
    limits = [allowance.total_seconds()]
    if sensor.execution_timeout is not None:
        limits.append(sensor.execution_timeout.total_seconds())
    values = {field.name: getattr(args, field.name) for field in fields(args)}
    trigger = WorkerlessTrigger(**values, timeout=timeout, backstop=min(limits), **ends)
    kind, kwargs = trigger.serialize()
    return StartTriggerArgs(
        trigger_cls=kind, trigger_kwargs=kwargs, next_method="execute_complete", next_kwargs={}, timeout=allowance
    )


def joined(chain: Any) -> Any:
    """Return an impersonation chain as one text, templates and all."""
    if isinstance(chain, Sequence) and not isinstance(chain, str) and all(isinstance(each, str) for each in chain):
        return ",".join(chain) or None
    return chain


def forget_xcoms(ti: Any) -> None:
    """Delete what an earlier try has left, as Airflow does for a task that a worker begins, and for no other."""
    if ti.try_number == 1:
        return
    if hasattr(ti, "clear_xcom_data"):  # Airflow 2
        ti.clear_xcom_data()
        return
    from airflow.sdk.bases.xcom import BaseXCom
    from airflow.sdk.execution_time.xcom import XCom

    XCom.delete(
        key=BaseXCom.XCOM_RETURN_KEY, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index
    )


def _check_value(sensor: Any, name: str, value: Any) -> None:
    if name == "impersonation_chain":
        value = joined(value)
    if value is None and name != "operation_name":
        return
    if not isinstance(value, str):
        raise ValueError(_not_text(name, value))  # noqa: TRY004  (a DAG that is refused, like all others here)
    if is_template(value):
        _check_template(sensor, name, value)
    elif name == "operation_name":
        name_of(value)


def _check_params(sensor: Any) -> None:
    """Refuse what would end a triggerer: it looks at params before anything of ours runs, and survives no bad one."""
    if AIRFLOW < RENDERS:
        return
    dag = sensor.get_dag()
    for name in sensor.params:
        if dag is not None and name in dag.params:  # checked when a run is made
            continue
        param = sensor.params.get_param(name)
        if param.schema or not param.has_value:
            raise ValueError(
                f"start_from_trigger=True: the task's own Param {name!r} is checked in the triggerer, where a value"
                " that will not do would end all of its triggers; give it to the DAG, whose params are checked when a"
                " run is made"
            )


def _not_text(name: str, value: Any) -> str:
    upstream = getattr(getattr(value, "operator", None), "task_id", None)
    if upstream is None:
        return f"start_from_trigger=True: {name} must be a text, as nothing else reaches the triggerer; not {value!r}"
    text = f"start_from_trigger=True: {name} is the output of task {upstream!r}, which only a worker can read"
    if AIRFLOW < RENDERS:
        return text
    return (
        f"{text}; give {{{{ ti.xcom_pull(task_ids={upstream!r}, map_indexes=-1) }}}} instead, and set the dependency"
        " yourself"
    )


def _renders_natively(sensor: Any, dag: Any) -> bool:
    own = getattr(sensor, "render_template_as_native_obj", None)
    return bool(getattr(dag, "render_template_as_native_obj", False) if own is None else own)


def _check_template(sensor: Any, name: str, text: str) -> None:
    where = _where(name, text)
    if AIRFLOW < RENDERS:
        raise ValueError(f"{where} is a template, which the triggerer of Airflow {__version__} does not render")
    dag = sensor.get_dag()
    if dag is not None and dag.jinja_environment_kwargs:
        raise ValueError(f"{where} is a template, and the triggerer does not know the DAG's jinja_environment_kwargs")
    if name != "operation_name" and _renders_natively(sensor, dag):
        raise ValueError(
            f"{where} is a template, of which the triggerer makes a text, whatever render_template_as_native_obj says"
        )
    _check_rendering(name, text)


def _where(name: str, text: str) -> str:
    return f"start_from_trigger=True: {name}={text!r}"


@lru_cache(maxsize=1024)  # Airflow asks six times for each task, and the tasks of a DAG are alike
def _check_rendering(name: str, text: str) -> None:
    """Refuse a template that says something else in the triggerer than on a worker, whatever its DAG is."""
    from jinja2 import TemplateSyntaxError, meta, nodes

    where = _where(name, text)
    environment = WorkerlessTrigger(operation_name=text).get_template_env()
    try:
        environment.from_string(text)
        tree = environment.parse(text)
    except TemplateSyntaxError as error:  # also for filters of the DAG's own
        raise ValueError(f"{where} does not render in the triggerer: {error}") from error
    unknown = meta.find_undeclared_variables(tree) - KNOWN_NAMES - set(environment.globals)
    if unknown:
        raise ValueError(f"{where} uses {', '.join(sorted(unknown))}, which a triggerer does not know")
    for part in tree.find_all(nodes.Getattr):
        of = part.node.name if isinstance(part.node, nodes.Name) else ""
        if part.attr not in KNOWN_ATTRIBUTES.get(of, {part.attr}):
            raise ValueError(f"{where} uses {of}.{part.attr}, which a triggerer does not know")
    for call in tree.find_all(nodes.Call):
        pulls = isinstance(call.node, nodes.Getattr) and call.node.attr == "xcom_pull"
        if pulls and "map_indexes" not in {argument.key for argument in call.kwargs}:
            raise ValueError(
                f"{where} would hang in the triggerer until the timeout: xcom_pull needs map_indexes there, as in"
                " {{ ti.xcom_pull(task_ids='up', map_indexes=-1) }}"
            )
