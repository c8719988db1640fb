"""What the operators share: the arguments of a connection and of a wait, and how a wait is deferred, resumed, killed.

The bases derive from BaseOperator, not from object: ``default_args``, ``.partial()``, templating and editors read
their signatures. Floor 2: imports floor 1, and floor ½ inside functions.
"""

from __future__ import annotations

import math
import time
from dataclasses import fields, replace
from datetime import timedelta
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout, BaseOperator, conf

from airflow_provider_lro import _kill
from airflow_provider_lro._connection import chain_of
from airflow_provider_lro._drivers import drive, moment, result_of, steady_clock, timeout_error
from airflow_provider_lro._links import XCOM_KEY, others
from airflow_provider_lro._names import are_many, name_of
from airflow_provider_lro._outcome import Broken, Cancelled, Failed, Succeeded, TimedOut
from airflow_provider_lro._task_state import state_of
from airflow_provider_lro._type_names import module_names, type_name
from airflow_provider_lro._wait import Start, WaitArgs, is_number, is_whole, wait
from airflow_provider_lro._watch import Watch
from airflow_provider_lro.exceptions import OperationTimeout, PayloadTypeError, RpcError
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.links import OperationLink, write_link

try:
    from airflow.sdk.exceptions import AirflowTaskTerminated
except ImportError:  # Airflow 2
    from airflow.exceptions import AirflowTaskTerminated  # type: ignore[no-redef]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow.providers.common.compat.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from airflow_provider_lro._client import OperationsClient
    from airflow_provider_lro._outcome import Outcome
    from airflow_provider_lro._wait import Pause
    from airflow_provider_lro.exceptions import LroError

__all__ = [
    "AirflowTaskTerminated",
    "ExecutionTimeout",
    "KilledByUser",
    "OutcomeOperator",
    "ServiceOperator",
    "WaitingOperator",
    "backstop",
    "checked_page_size",
    "checked_wait_timeout",
    "earliest",
    "name_of",
    "names_of",
    "retyped",
    "seconds",
    "truth",
]

TRIGGER_TIMEOUTS = ("Trigger timeout", "Trigger/execution timeout")
"""What Airflow 3 and Airflow 2.11 say when ``defer(timeout=…)`` has run out."""
BACKSTOP_SLACK = 60.0
"""Seconds by which Airflow's own timeout is later than our last event can be: it acts only if no triggerer does."""
SECONDS_TO_CANCEL = 4.0
"""How long a cancel may take that a kill on a worker asks for: Airflow 3 ends the process 5 s after its signal."""
USERS_STATES = frozenset({None, "failed", "success", "skipped", "restarting", "removed"})
"""States that a user puts a running task into. In the others it runs on, or another try has it: leave it alone."""
LAST_MOMENT = 0.001
"""Seconds that are left when ``execution_timeout`` is over, for the policy to see the deadline come."""
SECONDS_TO_READ_AGAIN = 300.0
"""How long to try to read an operation again that was too large for the trigger's event."""
ON_CANCELLED = ("fail", "skip")


class ExecutionTimeout(OperationTimeout, AirflowTaskTimeout):
    """``execution_timeout`` is over: the time of this try, so that Airflow's retries apply."""


class KilledByUser(AirflowTaskTerminated):
    """A user has killed the task, and its operation was asked to cancel."""


class FinalPayloadTypeError(PayloadTypeError, AirflowFailException):
    """The operation has succeeded, and its response stays of the type that it is of.

    A retry of a sensor would find the same, and one of a task that starts operations might do the work once more.
    """


class KillSwitch:
    """A flag that a signal handler may raise, and that wakes who sleeps on it."""

    def __init__(self) -> None:
        # Unlike threading.Event, whose lock the interrupted sleeper may hold, its put may be called from a handler.
        self._pulls: SimpleQueue[None] = SimpleQueue()

    def pull(self) -> None:
        self._pulls.put(None)

    def wait(self, seconds: float) -> bool:
        """Sleep; returns early, and True, when it was pulled. Each pull wakes once."""
        try:
            self._pulls.get(timeout=seconds)
        except Empty:
            return False
        return True


def names_of(value: object) -> list[str]:
    """Return the names from one of what ``name_of`` takes, or from a sequence of them."""
    return [name_of(item) for item in value] if are_many(value) else [name_of(value)]  # type: ignore[attr-defined]


def seconds(value: float | timedelta) -> float:
    """Return a duration in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def checked_wait_timeout(value: float | timedelta | None) -> float | None:
    """Return the ``wait_timeout`` of an operator in seconds; raises ValueError where it is none."""
    timeout = None if value is None else seconds(value)
    if timeout is not None and not is_number(timeout, least=0):
        raise ValueError(f"wait_timeout must be None or a number of seconds of at least 0, not {value!r}")
    return timeout


def checked_page_size(value: int | None) -> int | None:
    """Return the ``page_size`` of an operator; raises ValueError for a number that is none."""
    if isinstance(value, int | float) and not is_whole(value, least=1, most=2**31 - 1):
        raise ValueError(f"page_size must be None or a whole number from 1 to 2147483647, not {value!r}")
    return value


def earliest(*limits: float | timedelta | None) -> float | None:
    """Return the shortest of some limits in seconds; None where there is none."""
    return min((seconds(limit) for limit in limits if limit is not None), default=None)


def retyped(error: LroError, kind: type[LroError]) -> LroError:
    """Return an error with all its fields as one of another class."""
    other = kind(str(error))
    vars(other).update(vars(error))
    return other


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

    def hook(self, *, endpoint: str | None = None) -> LongRunningOperationHook:
        """Return the hook for the connection; a context manager.

        :param endpoint: where the task itself names none.
        """
        return LongRunningOperationHook(
            self.lro_conn_id,
            endpoint=self.endpoint or endpoint,
            impersonation_chain=self.impersonation_chain,
            quota_project_id=self.quota_project_id,
        )


class WaitingOperator(ServiceOperator):
    """An operator that waits for operations; its arguments are those of ``WaitArgs``.

    :param initial_delay: seconds (or timedelta) between the first poll and the second.
    :param multiplier: growth of each pause over the one before, until the interval is reached.
    :param jitter: share of each pause that may be left out, 0 to 1, so that waits spread.
    :param rpc_timeout: seconds (or timedelta) that one call may take.
    :param not_found_grace: seconds (or timedelta) from the first poll for which NOT_FOUND means "not yet".
    :param max_consecutive_errors: failed polls in a row that are tolerated; None goes on until the deadline.
    :param max_polls_per_second: polls of this endpoint by all deferred waits of a triggerer together, at most; of
        several limits (the connection has one, too) the lowest holds.
    :param poll_method: ``"get"``; or, while deferred or of many, and where the service can do that, ``"wait"`` or
        ``"auto"``, which have the server hold the answer until the operation is done, or ``"list"``, by which all waits
        under one parent share one listing an interval.
    :param list_parent: what to list then; None: what is before ``/operations/`` in the operation's name.
    :param deferrable: wait in the triggerer, which takes no worker. Default: ``[operators] default_deferrable``.
    """

    def __init__(
        self,
        *,
        initial_delay: float | timedelta = 1.0,
        multiplier: float = 2.0,
        jitter: float = 0.1,
        rpc_timeout: float | timedelta = 30.0,
        not_found_grace: float | timedelta = 60.0,
        max_consecutive_errors: int | None = None,
        max_polls_per_second: float | None = None,
        poll_method: str = "get",
        list_parent: str | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.initial_delay = seconds(initial_delay)
        self.multiplier = multiplier
        self.jitter = jitter
        self.rpc_timeout = seconds(rpc_timeout)
        self.not_found_grace = seconds(not_found_grace)
        self.max_consecutive_errors = max_consecutive_errors
        self.max_polls_per_second = max_polls_per_second
        self.poll_method = poll_method
        self.list_parent = list_parent
        self.deferrable = deferrable

    def wait_args(self, name: str, **more: Any) -> WaitArgs:
        """Return the wait for one operation; ``more`` is what the kind of operator adds."""
        known = {field.name for field in fields(WaitArgs)} - {"operation_name"}
        own = {name: getattr(self, name) for name in known if hasattr(self, name)}
        if "impersonation_chain" not in more:
            own["impersonation_chain"] = ",".join(chain_of(self.impersonation_chain)) or None  # only scalars cross
        return WaitArgs(**{**own, "operation_name": name, **more})

    def poll(
        self,
        context: Context,
        args: WaitArgs,
        *,
        start: Start,
        leave: Callable[[LongRunningOperationHook, Pause], None] | None = None,
        again: bool = False,
    ) -> Outcome:
        """Wait here and now until there is an outcome; ``again``, when there was one, and nobody is told of this.

        Before each pause but the short ones after a cancel ``leave`` is called, which may leave the worker by an
        exception: a deferral, a reschedule.

        Raises:
            KilledByUser: a user has killed the task, which ``cancel_on_kill`` heeds.
            ExecutionTimeout: ``execution_timeout`` is over, and so the operation was looked at for the last time.
        """
        clock = steady_clock()
        with (
            self.hook(endpoint=args.endpoint) as hook,
            Watch(args, hook.get_conn(args.operation_name).config.target, ti=context.get("ti"), again=again) as watch,
        ):
            client = hook.get_conn(args.operation_name)
            tally = watch.tally

            def rest(pause: Pause) -> None:
                if self._kill_switch.wait(0.0):
                    self._heed_kill(context, args, client)
                if leave is not None and not pause.final:
                    args.consecutive_errors = 0 if args.max_consecutive_errors is None else pause.errors
                    leave(hook, pause)
                if self._kill_switch.wait(moment(pause.window)):
                    self._heed_kill(context, args, client)

            try:
                if not again:
                    self.show(context, hook, args.operation_name)
                steps = wait(args, now=clock(), start=start)
                return watch.ends(drive(steps, args, client, clock=clock, pause=rest, tally=tally))
            except KilledByUser:
                raise
            except AirflowTaskTerminated:  # Airflow 2 raises it out of its signal handler
                self._cancel_if_killed(context, args, client)
                raise
            except AirflowTaskTimeout:
                # Not over yet: a wait taken up after its deadline would take somebody else's cancel for its own.
                now = clock()
                args.deadline = now + LAST_MOMENT
                steps = wait(args, now=now, start=Start.POLL)
                outcome = watch.ends(drive(steps, args, client, clock=clock, tally=tally))
        if isinstance(outcome, TimedOut):
            raise retyped(timeout_error(outcome, args), ExecutionTimeout)
        return outcome

    def show(self, context: Context, hook: LongRunningOperationHook, name: str) -> None:
        """Show which operation it is that is waited for, before the wait; raises nothing, as that may run already."""

    def defer_wait(
        self,
        args: WaitArgs,
        hook: LongRunningOperationHook,
        *,
        kwargs: dict[str, Any] | None = None,
        make: Callable[..., BaseTrigger] | None = None,
        what: str | None = None,
    ) -> NoReturn:
        """Hand a wait over to the triggerer; ``execute_complete`` is called with its event and ``kwargs``.

        ``make`` makes the trigger of the wait's arguments; ``what`` says what it waits for, where that is not one
        operation.
        """
        from airflow_provider_lro.triggers import LongRunningOperationTrigger

        # Whether the connection is stored is known here; a triggerer that fails to read it must not go on without.
        args.lro_conn_id = hook.stored_conn_id
        what = what or f"operation {args.operation_name!r} is"
        self.log.info("%s not done yet: the triggerer waits from here on", what)
        make = make or LongRunningOperationTrigger
        self.defer(
            trigger=make(**{field.name: getattr(args, field.name) for field in fields(args)}),
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

    @cached_property
    def _kill_switch(self) -> KillSwitch:
        return KillSwitch()

    def on_kill(self) -> None:
        """Wake the wait. Called from a signal handler, and not by a user's kill alone, so no more is done here."""
        self._kill_switch.pull()

    def was_killed(self, context: Context, args: WaitArgs) -> bool:
        """Tell whether a user has killed the task, and ``cancel_on_kill`` is to heed it."""
        if not args.cancel_on_kill:
            return False
        if state_of(context["ti"]) not in USERS_STATES:
            self.log.info("operation %r: the worker is told to stop; the operation is left alone", args.operation_name)
            return False
        return True

    def _heed_kill(self, context: Context, args: WaitArgs, client: OperationsClient) -> None:
        if self._cancel_if_killed(context, args, client):
            raise KilledByUser(f"a user has killed the task that waited for operation {args.operation_name!r}")

    def _cancel_if_killed(self, context: Context, args: WaitArgs, client: OperationsClient) -> bool:
        if not self.was_killed(context, args):
            return False
        clock = steady_clock()
        drive(_kill.cancel(now=clock(), within=SECONDS_TO_CANCEL), args, client, clock=clock)
        return True


class OutcomeOperator(WaitingOperator):
    """An operator whose own outcome is that of an operation; its XCom is the response, as JSON.

    :param on_timeout: ``"fail"`` leaves an operation alone that takes too long; ``"cancel"`` asks to cancel it, and
        waits up to ``cancel_grace`` for the truth.
    :param cancel_grace: seconds (or timedelta) that a cancel may take.
    :param on_cancelled: what to do about an operation that somebody cancelled: ``"fail"`` or ``"skip"``.
    :param cancel_on_kill: ask to cancel the operation when a user marks or clears the task while it waits.
    :param require_result: fail when the operation is done with neither response nor error.
    :param response_type: the type that the response must be of: import path (``google.cloud.dataplex_v1.types.Lake``,
        ``module:Class``), full name (``google.cloud.dataplex.v1.Lake``), or a class, protobuf or proto-plus. Airflow
        cannot store a class in the DAG's ``default_args``, nor for a mapped task: there only a text will do.
    :param metadata_type: the type of the metadata, likewise, so that its progress can be read; no other is refused.
    :param type_modules: module paths to import, so that responses and metadata of their types can be unpacked.
    """

    operator_extra_links = (OperationLink(),)

    def __init__(
        self,
        *,
        on_timeout: str = "fail",
        cancel_grace: float | timedelta = 60.0,
        on_cancelled: str = "fail",
        cancel_on_kill: bool = False,
        require_result: bool = False,
        response_type: Any = None,
        metadata_type: Any = None,
        type_modules: str | Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.on_timeout = on_timeout
        self.cancel_grace = seconds(cancel_grace)
        self.on_cancelled = on_cancelled
        self.cancel_on_kill = cancel_on_kill
        self.require_result = require_result
        self.response_type = response_type
        self.metadata_type = metadata_type
        self.type_modules = type_modules
        type_name(response_type, what="response_type")
        if getattr(self, "_BaseOperator__from_mapped", False):  # for this no copy is made that is executed
            self.operator_extra_links = others(self.operator_extra_links)
        if on_cancelled not in ON_CANCELLED:
            raise ValueError(f"on_cancelled must be one of {', '.join(map(repr, ON_CANCELLED))}, not {on_cancelled!r}")

    def prepare_for_execution(self) -> Any:
        """Return the copy that is executed; it writes its link itself, and Airflow 3 none, empty or not, at its end."""
        task: Any = super().prepare_for_execution()
        task.operator_extra_links = others(task.operator_extra_links)
        return task

    def show(self, context: Context, hook: LongRunningOperationHook, name: str) -> None:
        """Write the link to the operation, where the connection has a template for it."""
        if (link := hook.link(name)) is None:
            return
        try:
            write_link(context["ti"], link)
        except Exception:  # what it is does not matter: a failed task would start a second operation
            self.log.warning("operation %r: its link could not be written", name, exc_info=True)

    @property
    def own_timeout(self) -> float | None:
        """Seconds that the wait may take, without a look at ``execution_timeout``; None: any time."""
        raise NotImplementedError

    def wait_args(self, name: str, **more: Any) -> WaitArgs:
        """Return the wait for one operation, as the parent does; types cross as text."""
        types = {
            "metadata_type": type_name(self.metadata_type, what="metadata_type"),
            "type_modules": ",".join(module_names(self.type_modules)) or None,
        }
        return super().wait_args(name, **{**types, **more})

    def load_types(self, outcome: Outcome | None = None) -> None:
        """Import the types of this task's messages, before anything is started, waited for or decoded.

        With an outcome, it is raised only where a type is needed: a failure is not to be hidden by another one.

        Raises:
            ValueError: a module cannot be imported, or there is no such type.
        """
        if self.response_type is self.metadata_type is None and not self.type_modules:
            return
        from airflow_provider_lro._types import load

        try:
            load(response_type=self.response_type, metadata_type=self.metadata_type, type_modules=self.type_modules)
        except ValueError as error:
            if outcome is None or isinstance(outcome, Succeeded):
                raise
            self.log.warning("%s", error)

    def result(self, outcome: Outcome, args: WaitArgs) -> Any:
        """Return the response as JSON, or raise what the outcome is instead."""
        from airflow_provider_lro._encoding import response_to_json

        try:
            found = response_to_json(result_of(outcome, args, self.response_type, require_result=self.require_result))
        except PayloadTypeError as error:
            raise retyped(error, FinalPayloadTypeError) from None
        except OperationTimeout as error:
            one_try = math.inf if self.execution_timeout is None else self.execution_timeout.total_seconds()
            if one_try < (math.inf if self.own_timeout is None else self.own_timeout):
                raise retyped(error, ExecutionTimeout) from None
            raise
        return self._splittable(found, args) if self.multiple_outputs and self.do_xcom_push else found

    def _splittable(self, found: Any, args: WaitArgs) -> dict[str, Any]:
        """Return a response that Airflow can make an XCom of each key of, and that leaves the link as it is.

        Raises:
            AirflowFailException: it has no keys; Airflow's own error would have a retry start another operation.
        """
        if not isinstance(found, dict):
            raise AirflowFailException(
                f"operation {args.operation_name!r} has succeeded, and multiple_outputs cannot split its response,"
                f" which is no mapping (a {type(found).__name__}): take multiple_outputs out; no retry is made, as"
                " it would find the same, or start another"
            )
        if XCOM_KEY in found:
            self.log.warning("the response's key %r is left out: the link to the operation is the XCom of it", XCOM_KEY)
        return {key: value for key, value in found.items() if key != XCOM_KEY}

    def read_again(self, context: Context, known: Outcome, name: str, **more: Any) -> Outcome:
        """Read an operation again that was too large for the event; whatever comes of that, the verdict stands."""
        now = time.time()
        args = self.wait_args(name, started_at=now, deadline=now + SECONDS_TO_READ_AGAIN, on_timeout="fail", **more)
        return truth(known, self.poll(context, args, start=Start.POLL, again=True), name)


def truth(known: Outcome, found: Outcome, name: str) -> Outcome:
    """Return what is true of an operation whose outcome was ``known``, and that was then read again."""
    if isinstance(known, TimedOut):
        return replace(known, operation=found.operation or known.operation)
    if isinstance(found, Succeeded | Failed | Cancelled):
        return found
    if isinstance(known, Failed | Cancelled):
        return known  # the beginning of its message came with the event
    why = f"operation {name!r} has succeeded, but its response could not be read again"
    return Broken(error=found.error or RpcError(why), operation=found.operation)


def _backstop(args: WaitArgs) -> timedelta | None:
    return None if args.deadline is None else backstop(args, left=max(0.0, args.deadline - time.time()))


def backstop(args: WaitArgs, *, left: float) -> timedelta:
    """Return Airflow's own timeout for a wait that has ``left`` seconds to its deadline."""
    last_event = left + args.rpc_timeout
    if args.on_timeout == "cancel":
        last_event += args.cancel_grace + 2 * args.rpc_timeout
    return timedelta(seconds=last_event + BACKSTOP_SLACK)
