"""Signatures: each public class and decorator shows, documents and heeds all of its arguments, however given."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import Any

import pytest

from airflow_provider_lro import operators
from airflow_provider_lro._core.args import WaitArgs
from airflow_provider_lro.decorators import lro_task
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.sensors import LongRunningOperationSensor
from airflow_provider_lro.triggers import LongRunningOperationTrigger
from airflow_provider_lro.version_compat import AIRFLOW_VERSION
from tests.versions import DAG

OPERATORS = [LongRunningOperationSensor, *(getattr(operators, name) for name in operators.__all__)]
CLASSES = [*OPERATORS, LongRunningOperationTrigger, LongRunningOperationHook]
if not AIRFLOW_VERSION.startswith("2."):
    from airflow_provider_lro.assets import LongRunningOperationEventTrigger

    CLASSES.append(LongRunningOperationEventTrigger)
REQUIRED = {
    "CancelOperationOperator": {"operation_name"},
    "DeleteOperationOperator": {"operation_name"},
    "GetOperationOperator": {"operation_name"},
    "ListOperationsOperator": {"parent"},
    "CancelStaleOperationsOperator": {"parent", "older_than"},
    "DeleteFinishedOperationsOperator": {"parent", "older_than"},
    "LongRunningOperationEventTrigger": {"parent"},
}
"""The arguments without a default; a name or its parent, mostly."""
VALUES: dict[str, Any] = {
    "connect_timeout": 5.0,
    "cancel_grace": 11.0,
    "cancel_on_kill": True,
    "check": min,
    "deferrable": True,
    "dry_run": True,
    "endpoint": "127.0.0.1:1",
    "fail_on_partial": True,
    "filter": "done=false",
    "headers": {"x-goog-request-params": "location=us-central1"},
    "ignore_missing": True,
    "ignore_unimplemented": True,
    "impersonation_chain": "a@b",
    "initial_delay": 2.0,
    "interval": 7.0,
    "jitter": 0.5,
    "keep_failed": True,
    "limit": 3,
    "list_parent": "projects/p",
    "lro_conn_id": "mine",
    "max_cancel": 5,
    "max_consecutive_errors": 4,
    "max_delete": 5,
    "metadata_type": "tests.plus:Metadata",
    "mode": "reschedule",
    "multiplier": 3.0,
    "never_fail": True,
    "not_found_grace": 12.0,
    "older_than": 172800.0,
    "on_cancelled": "skip",
    "on_timeout": "cancel",
    "on_unimplemented": "skip",
    "operation_name": "operations/x",
    "outcomes": ("succeeded",),
    "page_size": 6,
    "parent": "projects/p",
    "poke_interval": 13.0,
    "poll_method": "list",
    "quota_project_id": "q",
    "require_result": True,
    "response_type": "tests.plus:Lake",
    "return_partial_success": True,
    "rpc_timeout": 14.0,
    "soft_fail": True,
    "time_of": "create_time",
    "timeout": 15.0,
    "type_modules": "json",
    "wait": True,
    "wait_for": "any",
    "wait_timeout": 16.0,
}
"""A value for each argument, and not its default."""
EXCLUSIVE = (
    {"operation_name", "soft_fail", "wait_for"},
    {"parent", "filter", "never_fail", "check", "fail_on_partial"},
)
"""Arguments of the sensor that exclude each other; it is made without the ones, and without the others."""
ELSEWHERE = {"end_from_trigger"}
"""Needs Airflow 3.3: see test_end_from_trigger.py."""
ATTRIBUTES = {"dry_run": "is_dry"}
"""Where an argument has another name on the task, as Airflow has a method of its own."""


def own(kind: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters that a class shows, without those that it leaves to Airflow."""
    shown = inspect.signature(kind).parameters
    return {name: each for name, each in shown.items() if each.kind is not each.VAR_KEYWORD}


def documented(kind: Any) -> list[str]:
    return re.findall(r"^ *:param (\w+):", inspect.getdoc(kind) or "", re.MULTILINE)


def values_for(kind: Any) -> list[dict[str, Any]]:
    """Return arguments of an operator, each of them in one mapping or another."""
    every = {name: VALUES[name] for name in own(kind) if name not in ELSEWHERE}
    if kind is not LongRunningOperationSensor:
        return [every]
    return [{name: value for name, value in every.items() if name not in without} for without in EXCLUSIVE]


def differences(task: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return those attributes of a task that are not the values that it was given."""
    found = {name: getattr(task, ATTRIBUTES.get(name, name)) for name in values}
    return {name: value for name, value in found.items() if value != values[name]}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_argument_is_shown_and_documented(kind: Any) -> None:
    """`help()` and `inspect.signature` show each with type and default, and the docstring says what it means."""
    shown = own(kind)
    assert {*documented(kind)} == {*shown}
    assert len(documented(kind)) == len(shown)
    required = {name for name, each in shown.items() if each.default is each.empty}
    assert required == REQUIRED.get(kind.__name__, set())
    assert [name for name, each in shown.items() if each.annotation is each.empty] == []


def test_decorator_shows_the_operators_arguments() -> None:
    """Its own are documented in place; the others have the operator's types and defaults, and its docstring."""
    own_names = {"python_callable", "multiple_outputs"}
    shown = own(lro_task)
    assert {*documented(lro_task)} == {*own_names, "kwargs"}
    assert {name: each for name, each in shown.items() if name not in own_names} == own(
        operators.StartOperationOperator
    )
    assert own_names < {*shown}


def test_operators_that_wait_have_the_arguments_of_a_wait() -> None:
    """By the same names and with the same defaults."""
    wait = {field.name: field.default for field in fields(WaitArgs)}
    # The times are the operator's to know. The interval has its own test of names, as a sensor calls it poke_interval.
    for name in ("operation_name", "started_at", "deadline", "consecutive_errors", "reached"):
        del wait[name]
    wait["type_modules"] = ()  # a sequence; it crosses as one text
    left_out = {
        LongRunningOperationSensor: {"interval"},
        operators.StartOperationOperator: {"cancel_on_kill"},
        operators.CancelOperationOperator: {
            *("on_timeout", "cancel_grace", "cancel_on_kill", "metadata_type", "type_modules"),
        },
        operators.CancelStaleOperationsOperator: {
            *("on_timeout", "cancel_grace", "cancel_on_kill", "metadata_type", "not_found_grace"),
        },
    }
    for kind, names in left_out.items():
        shown = own(kind)
        expected = {name: default for name, default in wait.items() if name not in names}
        assert {name: shown[name].default for name in expected} == expected, kind
    assert own(LongRunningOperationSensor)["poke_interval"].default == wait["interval"]
    assert own(operators.StartOperationOperator)["cancel_on_kill"].default is True


@pytest.mark.parametrize("kind", OPERATORS, ids=lambda kind: kind.__name__)
def test_every_argument_is_heeded(kind: Any) -> None:
    """Given to the operator, by the DAG's ``default_args``, or by ``partial()``: the task has it."""
    for number, values in enumerate(values_for(kind)):
        assert differences(kind(task_id="given", **values), values) == {}
        with DAG(f"defaults_{number}", schedule=None, default_args=values):
            assert differences(kind(task_id="by_default"), values) == {}
            differs = {**values, "endpoint": "other:1"}
            assert differences(kind(task_id="given", endpoint="other:1"), differs) == {}
        with DAG(f"mapped_{number}", schedule=None):
            partial = {name: value for name, value in values.items() if name != "endpoint"}
            mapped = kind.partial(task_id="mapped", **partial).expand(endpoint=["first:1", "second:1"])
            one = mapped.unmap({"endpoint": "second:1"})
            assert differences(one, {**values, "endpoint": "second:1"}) == {}


@pytest.mark.parametrize("kind", OPERATORS, ids=lambda kind: kind.__name__)
def test_template_fields_are_arguments_and_rendered(kind: Any) -> None:
    """Each template field can be given, and is what its template comes to."""
    assert {*kind.template_fields} <= {*own(kind)}
    for number, values in enumerate(values_for(kind)):
        templates = {name: f"{{{{ {name}_value }}}}" for name in kind.template_fields if name in values}
        with DAG(f"templates_{number}", schedule=None):
            task = kind(task_id="templated", **{**values, **templates})
        task.render_template_fields({f"{name}_value": f"rendered/{name}" for name in templates})
        assert differences(task, {name: f"rendered/{name}" for name in templates}) == {}


def test_decorators_arguments_are_heeded() -> None:
    """Given to the decorator, by ``default_args``, by ``override()`` or by ``partial()``."""

    def begin(number: int = 0) -> str:
        return f"operations/{number}"

    (values,) = values_for(operators.StartOperationOperator)
    with DAG("given", schedule=None):
        task = lro_task(**values)(begin)
        assert differences(task().operator, values) == {}
        assert task.override(interval=8.0)().operator.interval == 8.0
        mapped = task.override(task_id="mapped").partial().expand(number=[1, 2]).operator
        assert differences(mapped.unmap({"op_kwargs": {"number": 2}}), values) == {}
    with DAG("defaults", schedule=None, default_args=values):
        assert differences(lro_task(begin)().operator, values) == {}
        assert differences(lro_task(interval=8.0)(begin)().operator, {**values, "interval": 8.0}) == {}
