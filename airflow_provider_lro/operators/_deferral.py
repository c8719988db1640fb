"""What the operators that wait share: the arguments of a wait, and how it is deferred, resumed, killed.

Floor 2: imports floor 1, and floor ½ inside functions.
"""

from __future__ import annotations

import time
from dataclasses import fields, replace
from datetime import timedelta
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from airflow_provider_lro._core import kill
from airflow_provider_lro._core.outcome import Cancelled, TimedOut
from airflow_provider_lro._core.wait import Start, WaitArgs, wait
from airflow_provider_lro._runner.driver import drive, moment, steady_clock, timeout_error
from airflow_provider_lro._runner.telemetry import Watch
from airflow_provider_lro.exceptions import OperationTimeout
from airflow_provider_lro.hooks._connection import chain_of
from airflow_provider_lro.operators._service import ServiceOperator, seconds
from airflow_provider_lro.version_compat import AirflowTaskTerminated, AirflowTaskTimeout, BaseOperator, conf, state_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.providers.common.compat.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from airflow_provider_lro._core.commands import Pause
    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._transport.client import OperationsClient
    from airflow_provider_lro.exceptions import LroError
    from airflow_provider_lro.hooks import LongRunningOperationHook

__all__ = [
    "LAST_MOMENT",
    "SECONDS_TO_CANCEL",
    "AirflowTaskTerminated",
    "ExecutionTimeout",
    "KilledByUser",
    "WaitingOperator",
    "backstop",
    "retyped",
]

E = TypeVar("E", bound="LroError")

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


class ExecutionTimeout(OperationTimeout, AirflowTaskTimeout):
    """``execution_timeout`` is over: the time of this try, so that Airflow's retries apply."""


class KilledByUser(AirflowTaskTerminated):
    """A user has killed the task, and its operation was asked to cancel."""


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


def retyped(error: LroError, kind: type[E], *, text: str | None = None) -> E:
    """Return an error with all its fields as one of another class, or with another text."""
    other = kind(text or str(error))
    vars(other).update(vars(error))
    return other


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
    :param list_parent: what to list then; None: what is before ``/operations/`` in the operation's name. An operation
        whose name has no such part is asked for singly.
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

    def seen(self, context: Context, outcome: Outcome, name: str, **more: Any) -> Outcome:
        """Look here, once, where the trigger's poll at the deadline had no turn: it may have ended long before."""
        if not (isinstance(outcome, TimedOut) and outcome.is_unseen):
            return outcome
        now = time.time()
        args = self.wait_args(name, started_at=now, deadline=now, not_found_grace=0.0, **more)
        if outcome.cancel == "none":
            return self.poll(context, args, start=Start.POLL, again=True)
        args.on_timeout = "fail"  # the trigger has asked to cancel, and has waited for what comes of it
        found = self.poll(context, args, start=Start.POLL, again=True)
        if isinstance(found, Cancelled):
            return TimedOut(operation=found.operation, cancel="took effect")
        if isinstance(found, TimedOut):
            return replace(found, cancel=outcome.cancel, cancel_error=outcome.cancel_error)
        return found

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
        if args.poll_method == "list" and not args.parent():
            self.log.warning("%r does not tell under what it is listed, so it is asked for singly", args.operation_name)
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
        drive(kill.cancel(now=clock(), within=SECONDS_TO_CANCEL), args, client, clock=clock)
        return True


def _backstop(args: WaitArgs) -> timedelta | None:
    return None if args.deadline is None else backstop(args, left=max(0.0, args.deadline - time.time()))


def backstop(args: WaitArgs, *, left: float) -> timedelta:
    """Return Airflow's own timeout for a wait that has ``left`` seconds to its deadline."""
    last_event = left + args.rpc_timeout
    if args.on_timeout == "cancel":
        last_event += args.cancel_grace + 2 * args.rpc_timeout
    return timedelta(seconds=last_event + BACKSTOP_SLACK)
