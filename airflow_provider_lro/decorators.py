"""``@task.lro``: a function that starts an operation, as a task that waits for it."""

from __future__ import annotations

import asyncio
import inspect
import sys
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from airflow_provider_lro._core.names import type_name
from airflow_provider_lro.operators._base import DEFAULT_DEFERRABLE
from airflow_provider_lro.operators.start import StartOperationOperator
from airflow_provider_lro.version_compat import DecoratedOperator, KeywordParameters, task_decorator_factory

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import timedelta

    from airflow.sdk import Context
    from airflow.sdk.bases.decorator import Task

__all__ = ["lro_task"]

P = ParamSpec("P")
R = TypeVar("R")

REQUEST_ID = "request_id"
"""The parameter that is filled with the request id, if the function has it and its caller does not."""


class _LroDecoratedOperator(DecoratedOperator, StartOperationOperator):
    """Calls a function that starts an operation, once, and waits for it.

    :param python_callable: the function.
    :param op_args: its positional arguments; templated.
    :param op_kwargs: its keyword arguments; templated.
    """

    custom_operator_name = "@task.lro"
    template_fields: Sequence[str] = ("op_args", "op_kwargs", *StartOperationOperator.template_fields)
    if not hasattr(DecoratedOperator, "xcom_push"):
        xcom_push: Any = None
        """Airflow 3.0 looks it up on operators, which do not have it, and makes no use of it."""

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        op_args, op_kwargs = op_args or (), op_kwargs or {}
        self._wants_request_id = _is_left_out(REQUEST_ID, python_callable, op_args, op_kwargs)
        if self._wants_request_id:
            # Airflow checks the arguments now, when the id is not known.
            op_kwargs = {**op_kwargs, REQUEST_ID: ""}
        # An async client closes its channel whenever it is collected, and a closed one tells nothing.
        self.infers_endpoint = not inspect.iscoroutinefunction(inspect.unwrap(python_callable))
        super().__init__(python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, **kwargs)

    @property
    def _starter(self) -> str:
        """The name of what starts the operation, for messages."""
        return f"the function {getattr(self.python_callable, '__name__', self.python_callable)!r} of @task.lro"

    def start(self, context: Context) -> Any:
        """Call the function, with the parts of the context that it asks for; its own arguments go first."""
        parameters = inspect.signature(self.python_callable).parameters
        takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        there: Mapping[str, Any] = context
        # Below Airflow 3 each of a dozen names of the context warns when it is only touched.
        asked = there if takes_all else {name: there[name] for name in parameters if name in there}
        given: dict[str, Any] = {**asked, **self.op_kwargs}
        if self._wants_request_id:
            given[REQUEST_ID] = self.request_id
        elif REQUEST_ID not in parameters:
            given.setdefault(REQUEST_ID, self.request_id)  # for functions that take **kwargs
        kwargs = KeywordParameters.determine(self.python_callable, self.op_args, given).unpacking()
        started = self.python_callable(*self.op_args, **kwargs)
        return asyncio.run(started) if inspect.iscoroutine(started) else started


def _is_left_out(
    name: str, function: Callable[..., Any], op_args: Collection[Any], op_kwargs: Mapping[str, Any]
) -> bool:
    """Return True if a function has a parameter to which its caller gives no value."""
    signature = inspect.signature(function)
    parameter = signature.parameters.get(name)
    if parameter is None or parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        return False
    if parameter.default not in (parameter.empty, "", None):
        given = f"the parameter {name!r} has the default {parameter.default!r}"
        raise ValueError(f"{given}, but @task.lro fills it: give it the default '' or None")
    try:
        return name not in signature.bind_partial(*op_args, **op_kwargs).arguments
    except TypeError:  # Airflow says what is wrong with the arguments
        return False


def _as_text(kind: Any, *, what: str) -> Any:
    """Return a class of messages as the text that leads to it; all else, and a class that none leads to, as it is."""
    found: Any = sys.modules.get(getattr(kind, "__module__", ""))
    for part in getattr(kind, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return type_name(kind, what=what) if isinstance(kind, type) and found is kind else kind


@overload
def lro_task(python_callable: Callable[P, R], /) -> Task[P, R]: ...


@overload
def lro_task(
    *,
    interval: float | timedelta = 60.0,
    wait_timeout: float | timedelta | None = None,
    deferrable: bool = DEFAULT_DEFERRABLE,
    on_timeout: str = "fail",
    cancel_grace: float | timedelta = 60.0,
    on_cancelled: str = "fail",
    cancel_on_kill: bool = True,
    require_result: bool = False,
    response_type: Any = None,
    metadata_type: Any = None,
    type_modules: str | Sequence[str] = (),
    check: Callable[[Any, Any], Any] | None = None,
    fail_on_partial: bool = False,
    initial_delay: float | timedelta = 1.0,
    multiplier: float = 2.0,
    jitter: float = 0.1,
    rpc_timeout: float | timedelta = 30.0,
    not_found_grace: float | timedelta = 60.0,
    max_consecutive_errors: int | None = None,
    connect_timeout: float | timedelta | None = 600.0,
    poll_method: str = "get",
    list_parent: str | None = None,
    lro_conn_id: str = "lro_default",
    endpoint: str | None = None,
    impersonation_chain: str | Sequence[str] | None = None,
    quota_project_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    multiple_outputs: bool = False,
    **kwargs: Any,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...


def lro_task(
    python_callable: Callable[..., Any] | None = None, *, multiple_outputs: bool | None = None, **kwargs: Any
) -> Any:
    """Make a task of a function that starts a long-running operation; also ``@task.lro``.

    The function calls any client and returns the answer: google-api-core's ``Operation`` or ``AsyncOperation``, a
    ``google.longrunning.Operation``, a mapping with a ``name``, or the name. It is called once; the task then waits,
    and its XCom is the response, as JSON. A parameter named ``request_id`` that its caller leaves out is filled with an
    id that is the same as long as the same start is meant; declare it ``request_id: str = ""``.

    Where to poll: the task's ``endpoint``; else that of the client behind google-api-core's ``Operation``; else the
    connection's host, as for an ``async def`` function.

    :param python_callable: the function.
    :param multiple_outputs: give each key of the response an XCom of its own, too. The function's annotation of its
        return value is about the operation, so nothing is inferred from it.
    :param kwargs: the arguments of ``StartOperationOperator``, and of every operator.
    """
    # Airflow stores the arguments of a mapped task with its DAG, and cannot store a class.
    kwargs.update(
        {what: _as_text(kwargs[what], what=what) for what in kwargs.keys() & {"response_type", "metadata_type"}}
    )

    def decorate(function: Callable[..., Any]) -> Any:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"the function {function.__name__!r} of @task.lro yields; it must start one operation, and return it"
            )
        return task_decorator_factory(
            python_callable=function,
            multiple_outputs=bool(multiple_outputs),
            decorated_operator_class=_LroDecoratedOperator,
            **kwargs,
        )

    return decorate if python_callable is None else decorate(python_callable)


def _full_signature() -> inspect.Signature:
    """Return the signature for ``help()``.

    The function itself takes ``**kwargs``: a default that it passed on would hide one of the DAG's ``default_args``.
    """
    own = inspect.signature(lro_task).parameters
    operator = inspect.signature(StartOperationOperator).parameters
    both = {**operator, **own, "kwargs": operator["kwargs"]}
    each = [both.pop("python_callable"), *(value for name, value in both.items() if name != "kwargs"), both["kwargs"]]
    return inspect.Signature(each, return_annotation=Any)


lro_task.__signature__ = _full_signature()  # type: ignore[attr-defined]
