"""``StartOperationOperator``: starts an operation once, whatever dies, and waits for it.

Floor 2: imports floor 1, and floor ½ inside functions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core import outcome as outcomes
from airflow_provider_lro._core.names import name_of
from airflow_provider_lro._core.wait import Start
from airflow_provider_lro.exceptions import (
    EndpointError,
    LroError,
    MalformedOperation,
    OperationFailed,
    OperationNotFound,
)
from airflow_provider_lro.operators._conclusion import FinalResultGone, OutcomeOperator
from airflow_provider_lro.operators._deferral import ExecutionTimeout, KilledByUser, retyped
from airflow_provider_lro.operators._origin import endpoint_of
from airflow_provider_lro.operators._service import checked_wait_timeout, earliest, seconds
from airflow_provider_lro.operators._task_store import Memory, Started
from airflow_provider_lro.version_compat import AirflowFailException, AirflowSkipException, AirflowTaskTimeout

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context
    from google.longrunning import operations_proto_pb2 as pb

    from airflow_provider_lro._core.commands import Pause
    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._core.wait import WaitArgs
    from airflow_provider_lro.hooks import LongRunningOperationHook

__all__ = ["StartOperationOperator"]

OVER = (OperationFailed, OperationNotFound, MalformedOperation)
"""Errors of an operation that will never bring a result: a retry starts another one."""
CANCELLING = ("asked", "took effect")
"""What a timeout's cancel has done where the operation ends by it, sooner or later."""
NO_RETRY = "no retry is made, as it would start another"


class StartOperationOperator(OutcomeOperator):
    """Starts a long-running operation and waits for it; its response, as JSON, is the XCom.

    Override ``start``. On Airflow 3.3 and newer the operation's name is stored before anything else is done, so that a
    retry, or a worker that takes over from one that died, goes on waiting for it instead of starting another. A retry
    starts anew after an operation that failed, was cancelled, or is not known any more.

    :param interval: seconds (or timedelta) between polls once the backoff has reached it; at least 0.1.
    :param wait_timeout: seconds (or timedelta) to wait before failing with ``OperationTimeout``; None: no limit. An
        ``execution_timeout`` that is shorter counts instead.
    :param cancel_on_kill: as in the sensor, but on unless turned off.
    """

    request_id: str = ""
    """For ``start``: the same text as long as the same start is meant, for APIs that take a request id (a UUID)."""

    def __init__(
        self,
        *,
        interval: float | timedelta = 60.0,
        wait_timeout: float | timedelta | None = None,
        cancel_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(cancel_on_kill=cancel_on_kill, **kwargs)
        self.interval = seconds(interval)
        self.wait_timeout = checked_wait_timeout(wait_timeout)
        self.wait_args("to be started", impersonation_chain=None).check()

    @property
    def infers_endpoint(self) -> bool:
        """Whether the client that ``start`` has used may tell the endpoint, where the task names none.

        It goes before the connection's host; none need be known before the start.
        """
        return False

    @property
    def _starter(self) -> str:
        """What starts the operation, for messages."""
        return "start()"

    @property
    def own_timeout(self) -> float | None:
        """Seconds to wait."""
        return self.wait_timeout

    def start(self, context: Context) -> Any:
        """Start the operation. ``self.request_id`` is for APIs that take one.

        Returns:
            What the client gave: a ``google.longrunning.Operation`` (the message, google-api-core's or this provider's
            ``Operation``), a mapping with a ``name``, or the name.
        """
        raise NotImplementedError(f"{type(self).__name__} must override start()")

    def execute(self, context: Context) -> Any:
        """Start, or find what an earlier try has started; then return, defer, or wait."""
        self.load_types()
        memory = Memory(context)
        known = memory.operation()
        if known is None:
            memory.renew()
            return self._start(context, memory)
        if known.returned and memory.was_cleared(known):
            memory.forget()
            return self._start(context, memory)
        self.log.info("operation %r was started by an earlier try: it is not started again", known.name)
        return self._wait_for(context, memory, known, found=True)

    def execute_complete(
        self,
        context: Context,
        event: Mapping[str, Any] | None = None,
        *,
        started_at: float | None = None,
        deadline: float | None = None,
        found: bool = False,
        endpoint: str | None = None,
        **_: Any,
    ) -> Any:
        """Turn the trigger's event into the result, or into the error."""
        from airflow_provider_lro._messages import events

        event = event or {}
        outcome = events.outcome_from_event(event)
        memory = Memory(context)
        known = memory.operation() or Started(
            name=event["name"], started_at=time.time() if started_at is None else started_at, endpoint=endpoint
        )
        if known.name != event["name"]:
            raise ValueError(
                f"the trigger tells of operation {event['name']!r}, and this task waits for {known.name!r}"
            )
        args = self._args(known, deadline=deadline)
        try:
            self.load_types(outcome)
        except ValueError as error:
            if memory.keeps:
                raise
            raise AirflowFailException(
                f"operation {known.name!r} has succeeded, and cannot be decoded: {error}; {NO_RETRY}"
            ) from error
        if events.must_read_again(event):
            outcome = self._read_again(context, memory, outcome, args)
        outcome = self.seen(context, outcome, event["name"], endpoint=args.endpoint)
        anew = found and self._is_ours(outcome, memory, known)
        return self._conclude(context, memory, outcome, args, anew=anew)

    def _read_again(self, context: Context, memory: Memory, known: Outcome, args: WaitArgs) -> Outcome:
        """Read an operation again; whatever comes of that, the next try must not take one that succeeded for none."""
        if not isinstance(known, outcomes.Succeeded):
            return self.read_again(context, known, args.operation_name, endpoint=args.endpoint)
        try:
            outcome = self.read_again(context, known, args.operation_name, endpoint=args.endpoint)
        except (LroError, AirflowTaskTimeout) as error:
            memory.note_return()
            if memory.keeps:
                raise
            why = f"operation {args.operation_name!r} has succeeded, and its response could not be read: {error}"
            raise AirflowFailException(f"{why}; {NO_RETRY}") from error
        if isinstance(outcome, outcomes.Broken):
            memory.note_return()
            if not memory.keeps:
                raise AirflowFailException(f"{outcome.error}; {NO_RETRY}") from outcome.error
        return outcome

    def execute_late(self, context: Context) -> Any:
        """Look on the worker: by the deadline no trigger had told us anything."""
        memory = Memory(context)
        known = memory.operation()
        if known is None:
            raise LroError("no triggerer has reported in time, and the name of the operation is not stored")
        self.load_types()
        args = self._args(known, deadline=time.time())
        return self._conclude(context, memory, self.poll(context, args, start=Start.POLL), args, anew=False)

    def _start(self, context: Context, memory: Memory) -> Any:
        from airflow_provider_lro._messages.encoding import read

        with self.hook() as hook:  # what is wrong with the connection is to be known before anything runs
            reachable = hook.check(endpoint_follows=self.infers_endpoint)
        self.request_id = memory.request_id()
        started = self.start(context)
        operation = _operation_of(started, self._starter)
        if not operation.name and not operation.done:
            raise AirflowFailException(
                f"{self._starter} has returned an operation that is not done and has no name to poll it by; what it has"
                f" started, if anything, goes on, and {NO_RETRY}"
            )
        endpoint = self._endpoint_of(started) if self.infers_endpoint and not self.endpoint else None
        known = Started(name=operation.name, started_at=time.time(), endpoint=endpoint)
        if known.name:
            memory.keep(known)
            self.log.info("operation %r is started%s", known.name, f" at {endpoint}" if endpoint else "")
        outcome = read(operation)
        if not isinstance(outcome, outcomes.Running):  # `validate_only`, perhaps: there may be nothing to poll
            result = self._conclude(context, memory, outcome, self._args(known), anew=False)
            if not known.name:
                memory.note_nameless()
            return result
        if not (reachable or endpoint):
            why = f"what {self._starter} has returned does not tell where"
            raise self._unreachable(memory, known, f"{why}; give the task endpoint=, or the connection a host")
        try:
            return self._wait_for(context, memory, known, found=False)
        except EndpointError as error:
            raise self._unreachable(memory, known, str(error)) from error

    def _endpoint_of(self, started: Any) -> str | None:
        try:
            return endpoint_of(started)
        except Exception:  # whatever a foreign client does when it is looked into: the name is not stored yet
            self.log.warning("what %s has returned does not tell its endpoint", self._starter, exc_info=True)
            return None

    def _unreachable(self, memory: Memory, known: Started, why: str) -> Exception:
        what = f"operation {known.name!r} is started, and cannot be polled: {why}"
        if memory.operation() is not None:
            return EndpointError(f"{what}; a retry then waits for this operation")
        return AirflowFailException(f"{what}; the operation goes on, and {NO_RETRY}")

    def _wait_for(self, context: Context, memory: Memory, known: Started, *, found: bool) -> Any:
        args = self._args(known)
        waited = False

        def leave(hook: LongRunningOperationHook, _: Pause) -> None:
            nonlocal waited
            waited = True
            if self.deferrable:
                kwargs: dict[str, Any] = {"started_at": args.started_at, "deadline": args.deadline, "found": found}
                if known.endpoint:
                    kwargs["endpoint"] = known.endpoint
                self.defer_wait(args, hook, kwargs=kwargs)

        try:
            outcome = self.poll(context, args, start=Start.POLL if found else Start.FRESH, leave=leave)
        except KilledByUser:
            memory.note_kill()
            raise
        except ExecutionTimeout as error:
            if error.cancel in CANCELLING:
                memory.note_timeout()
            raise
        if known.returned and isinstance(outcome, outcomes.NotFound):
            why = f"operation {known.name!r} has succeeded, and the service does not know it any more: {outcome.error}"
            raise retyped(outcome.error, FinalResultGone, text=f"{why}; {NO_RETRY}") from outcome.error
        # What was over before this try has looked is an earlier try's failure; this one is there to do better.
        anew = found and (not waited or self._is_ours(outcome, memory, known))
        return self._conclude(context, memory, outcome, args, anew=anew)

    def _is_ours(self, outcome: Outcome, memory: Memory, known: Started) -> bool:
        """Whether an operation was cancelled by this task's own kill or timeout, in an earlier try."""
        own = known.timed_out or (self.cancel_on_kill and (known.killed or memory.was_cleared(known)))
        return own and isinstance(outcome, outcomes.Cancelled)

    def _conclude(self, context: Context, memory: Memory, outcome: Outcome, args: WaitArgs, *, anew: bool) -> Any:
        if isinstance(outcome, outcomes.TimedOut) and outcome.cancel in CANCELLING:
            memory.note_timeout()
        try:
            result = self.result(outcome, args)
        except OVER as error:
            memory.forget()
            if anew:
                self.log.info("the operation of an earlier try is over, so another one is started: %s", error)
                return self._start(context, memory)
            if isinstance(outcome, outcomes.Cancelled) and self.on_cancelled == "skip":
                raise AirflowSkipException(f"skipped: {error}") from error
            raise
        memory.note_return()
        return result

    def _args(self, known: Started, *, deadline: float | None = None) -> WaitArgs:
        limit = earliest(self.wait_timeout, self.execution_timeout)
        if deadline is None and limit is not None:
            deadline = time.time() + limit
        # Without a name it is done, and nothing is polled.
        return self.wait_args(
            known.name or "without a name",
            started_at=known.started_at,
            deadline=deadline,
            endpoint=self.endpoint or known.endpoint,
        )


def _operation_of(started: Any, starter: str) -> pb.Operation:
    """Return the operation in what ``starter`` has returned.

    Raises:
        AirflowFailException: there is none in it.
    """
    from google.longrunning import operations_proto_pb2 as pb

    # google-api-core's Operation and AsyncOperation hold it as `operation`, ours as `proto`, proto-plus as `_pb`.
    for attribute in ("operation", "proto", "_pb"):
        held = getattr(started, attribute, None)
        if isinstance(held, pb.Operation):
            return held
    if isinstance(started, pb.Operation):
        return started
    goes_on = f"what it has started goes on, and {NO_RETRY}"
    if isinstance(started, str | Mapping):
        try:
            return pb.Operation(name=name_of(started, what="what it has returned"))
        except ValueError as error:
            raise AirflowFailException(f"{starter} has returned no operation: {error}; {goes_on}") from None
    if started is None:
        raise AirflowFailException(f"{starter} has returned nothing; it must return the operation; {goes_on}")
    raise AirflowFailException(
        f"{starter} must return an operation (a google.longrunning.Operation, google-api-core's Operation), a mapping"
        f" with a 'name', or its name, not {type(started).__name__}; {goes_on}"
    )
