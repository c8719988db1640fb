"""What the operators share: the arguments of a connection and of a wait, and how a wait is deferred and resumed.

The bases derive from BaseOperator, not from object: ``default_args``, ``.partial()``, templating and editors read
their signatures. Floor 2: imports floor 1, and floor ½ inside functions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import BaseOperator, conf

from airflow_provider_lro._connection import chain_of
from airflow_provider_lro._drivers import drive, steady_clock
from airflow_provider_lro._wait import WaitArgs, check_name, wait
from airflow_provider_lro.hooks import LongRunningOperationHook

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_lro._outcome import Outcome
    from airflow_provider_lro._wait import Pause, Start

__all__ = ["ServiceOperator", "WaitingOperator", "name_of", "names_of", "seconds"]

TRIGGER_TIMEOUTS = ("Trigger timeout", "Trigger/execution timeout")
"""What Airflow 3 and Airflow 2.11 say when ``defer(timeout=…)`` has run out."""
BACKSTOP_SLACK = 60.0
"""Seconds by which Airflow's own timeout is later than our last event can be: it acts only if no triggerer does."""


def name_of(value: object) -> str:
    """Return the operation's name from a name, or from a mapping that holds one, as other operators leave in XCom.

    Raises:
        ValueError: there is none in it.
    """
    if isinstance(value, Mapping):
        if "name" not in value:
            raise ValueError(f"operation_name is a mapping without a 'name': it has {sorted(map(str, value))}")
        return name_of(value["name"])
    value = value.strip() if isinstance(value, str) else value
    if value in ("None", "null"):
        raise ValueError("operation_name is empty: the XCom or the variable that the template reads has no value")
    if isinstance(value, str) and value.startswith("{{"):
        raise ValueError(f"operation_name is a template that was not rendered: {value[:80]!r}")
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        raise ValueError(
            f"operation_name is the text of a whole value, not a name: {value[:80]!r}; pass the XCom itself"
            " (operation_name=task.output) or the name alone ({{ ti.xcom_pull(…)['name'] }}), or give the DAG"
            " render_template_as_native_obj=True"
        )
    return check_name(value)


def names_of(value: object) -> list[str]:
    """Return the names from one of what ``name_of`` takes, or from a sequence of them."""
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        return [name_of(value)]
    return [name_of(item) for item in value]


def seconds(value: float | timedelta) -> float:
    """Return a duration in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else value


class ServiceOperator(BaseOperator):
    """An operator that calls a service.

    :param lro_conn_id: connection of type ``lro`` (or ``google_cloud_platform``, then with ``endpoint``).
    :param endpoint: host or host:port of the service, instead of the connection's; may hold ``{location}``.
    :param impersonation_chain: service account to impersonate, or a chain of them (text with commas, or a sequence).
    :param quota_project_id: project that quota and bills go to.
    """

    template_fields: Sequence[str] = ("lro_conn_id", "endpoint", "impersonation_chain", "quota_project_id")
    ui_color = "#d9e7ff"

    def __init__(
        self,
        *,
        lro_conn_id: str = LongRunningOperationHook.default_conn_name,
        endpoint: str | None = None,
        impersonation_chain: str | Sequence[str] | None = None,
        quota_project_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.lro_conn_id = lro_conn_id
        self.endpoint = endpoint
        self.impersonation_chain = impersonation_chain
        self.quota_project_id = quota_project_id

    def hook(self) -> LongRunningOperationHook:
        """Return the hook for the connection; a context manager."""
        return LongRunningOperationHook(
            self.lro_conn_id,
            endpoint=self.endpoint,
            impersonation_chain=self.impersonation_chain,
            quota_project_id=self.quota_project_id,
        )


class WaitingOperator(ServiceOperator):
    """An operator that waits for operations; its arguments are those of ``WaitArgs``.

    :param operation_name: name of the operation, or a mapping with a ``name``.
    :param initial_delay: seconds (or timedelta) between the first poll and the second.
    :param multiplier: growth of each pause over the one before, until the interval is reached.
    :param jitter: share of each pause that may be left out, 0 to 1, so that waits spread.
    :param rpc_timeout: seconds (or timedelta) that one call may take.
    :param not_found_grace: seconds (or timedelta) from the first poll for which NOT_FOUND means "not yet".
    :param max_consecutive_errors: failed polls in a row that are tolerated; None goes on until the deadline.
    :param deferrable: wait in the triggerer, which takes no worker. Default: ``[operators] default_deferrable``.
    """

    template_fields: Sequence[str] = ("operation_name", *ServiceOperator.template_fields)

    def __init__(
        self,
        *,
        operation_name: Any,
        initial_delay: float | timedelta = 1.0,
        multiplier: float = 2.0,
        jitter: float = 0.1,
        rpc_timeout: float | timedelta = 30.0,
        not_found_grace: float | timedelta = 60.0,
        max_consecutive_errors: int | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.operation_name = operation_name
        self.initial_delay = seconds(initial_delay)
        self.multiplier = multiplier
        self.jitter = jitter
        self.rpc_timeout = seconds(rpc_timeout)
        self.not_found_grace = seconds(not_found_grace)
        self.max_consecutive_errors = max_consecutive_errors
        self.deferrable = deferrable

    def wait_args(self, name: str, **more: Any) -> WaitArgs:
        """Return the wait for one operation; ``more`` is what the kind of operator adds."""
        own = {field.name: getattr(self, field.name) for field in fields(WaitArgs) if hasattr(self, field.name)}
        if "impersonation_chain" not in more:
            own["impersonation_chain"] = ",".join(chain_of(self.impersonation_chain)) or None  # only scalars cross
        return WaitArgs(**{**own, "operation_name": name, **more})

    def poll(
        self,
        args: WaitArgs,
        *,
        start: Start,
        pause: Callable[[LongRunningOperationHook, Pause], None] | None = None,
    ) -> Outcome:
        """Wait here and now until there is an outcome; ``pause`` may leave by a deferral."""
        clock = steady_clock()
        with self.hook() as hook:
            client = hook.get_conn(args.operation_name)
            steps = wait(args, now=clock(), start=start)
            return drive(steps, args, client, clock=clock, pause=None if pause is None else partial(pause, hook))

    def defer_wait(
        self, args: WaitArgs, hook: LongRunningOperationHook, *, kwargs: dict[str, Any] | None = None
    ) -> NoReturn:
        """Hand a wait over to the triggerer; ``execute_complete`` is called with its event and ``kwargs``."""
        from airflow_provider_lro.triggers import LongRunningOperationTrigger

        # Whether the connection is stored is known here; a triggerer that fails to read it must not go on without.
        args.lro_conn_id = hook.stored_conn_id
        self.log.info("operation %r is not done yet: the triggerer waits for it from here on", args.operation_name)
        self.defer(
            trigger=LongRunningOperationTrigger(**{field.name: getattr(args, field.name) for field in fields(args)}),
            method_name="execute_complete",
            kwargs=kwargs,
            timeout=_backstop(args),
        )
        raise AssertionError("defer() returned")  # it never does; type checkers of Airflow 2 do not know

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume, unless Airflow's own timeout ended the deferral: then no triggerer told us, and we look ourselves."""
        if next_method == "__fail__" and (next_kwargs or {}).get("error") in TRIGGER_TIMEOUTS:
            return self.execute_late(context)
        # Not super(): BaseSensorOperator's would apply soft_fail to a broken connection, too.
        return BaseOperator.resume_execution(self, next_method, next_kwargs, context)

    def execute_late(self, context: Context) -> Any:
        """Read the truth on the worker, after the deadline."""
        raise NotImplementedError


def _backstop(args: WaitArgs) -> timedelta | None:
    if args.deadline is None:
        return None
    last_event = max(0.0, args.deadline - time.time()) + args.rpc_timeout
    if args.on_timeout == "cancel":
        last_event += args.cancel_grace + 2 * args.rpc_timeout
    return timedelta(seconds=last_event + BACKSTOP_SLACK)
