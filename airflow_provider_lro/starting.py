"""``StartOperationOperator``: starts an operation once, whatever dies, and waits for it.

Floor 2: imports floor 1, and floor ½ inside functions.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_lro import _outcome as outcomes
from airflow_provider_lro._deferral import OutcomeOperator, name_of, seconds
from airflow_provider_lro._wait import Start, is_number
from airflow_provider_lro.exceptions import LroError, MalformedOperation, OperationFailed, OperationNotFound

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context
    from google.longrunning import operations_proto_pb2 as pb

    from airflow_provider_lro._outcome import Outcome
    from airflow_provider_lro._wait import Pause, WaitArgs
    from airflow_provider_lro.hooks import LongRunningOperationHook

__all__ = ["StartOperationOperator"]

OVER = (OperationFailed, OperationNotFound, MalformedOperation)
"""Errors of an operation that will never bring a result: a retry starts another one."""
REQUEST_NAMESPACE = uuid.UUID("5b6c8a57-3f0e-4d0c-9d6e-1f3b0c1d2a77")
"""Of the request ids, and of nothing else."""

log = logging.getLogger(__name__)


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
        self.wait_timeout = None if wait_timeout is None else seconds(wait_timeout)
        if self.wait_timeout is not None and not is_number(self.wait_timeout, least=0):
            raise ValueError(f"wait_timeout must be None or a number of seconds of at least 0, not {wait_timeout!r}")
        self.wait_args("to be started", impersonation_chain=None).check()

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
        memory = _Memory(context)
        known = memory.operation()
        if known is None:
            return self._start(context, memory)
        self.log.info("operation %r was started by an earlier try: it is not started again", known["name"])
        return self._wait_for(context, memory, known, found=True)

    def execute_complete(
        self,
        context: Context,
        event: Mapping[str, Any] | None = None,
        *,
        started_at: float | None = None,
        deadline: float | None = None,
        found: bool = False,
        **_: Any,
    ) -> Any:
        """Turn the trigger's event into the result, or into the error."""
        from airflow_provider_lro import _events

        event = event or {}
        outcome = _events.outcome_from_event(event)
        memory = _Memory(context)
        known = {"name": event["name"], "started_at": time.time() if started_at is None else started_at}
        args = self._args(known, deadline=deadline)
        if _events.must_read_again(event):
            outcome = self.read_again(context, outcome, event["name"])
        return self._conclude(context, memory, outcome, args, anew=found and self._is_ours(outcome))

    def execute_late(self, context: Context) -> Any:
        """Look on the worker: by the deadline no trigger had told us anything."""
        memory = _Memory(context)
        known = memory.operation()
        if known is None:
            raise LroError("no triggerer has reported in time, and the name of the operation is not stored")
        args = self._args(known, deadline=time.time())
        return self._conclude(context, memory, self.poll(context, args, start=Start.POLL), args, anew=False)

    def _start(self, context: Context, memory: _Memory) -> Any:
        from airflow_provider_lro._encoding import read

        self.request_id = memory.request_id()
        operation = _operation_of(self.start(context))
        if not operation.name and not operation.done:
            raise ValueError("start() has returned an operation that is not done and has no name to poll it by")
        now = time.time()
        known: dict[str, Any] = {"name": operation.name, "started_at": now}
        if operation.name:
            memory.keep(known)
            self.log.info("operation %r is started", operation.name)
        outcome = read(operation)
        if not isinstance(outcome, outcomes.Running):  # `validate_only`, perhaps: there may be nothing to poll
            return self._conclude(context, memory, outcome, self._args(known), anew=False)
        return self._wait_for(context, memory, known, found=False)

    def _wait_for(self, context: Context, memory: _Memory, known: Mapping[str, Any], *, found: bool) -> Any:
        args = self._args(known)
        waited = False

        def leave(hook: LongRunningOperationHook, _: Pause) -> None:
            nonlocal waited
            waited = True
            if self.deferrable:
                times = {"started_at": args.started_at, "deadline": args.deadline}
                self.defer_wait(args, hook, kwargs={**times, "found": found})

        outcome = self.poll(context, args, start=Start.POLL if found else Start.FRESH, leave=leave)
        # What was over before this try has looked is an earlier try's failure; this one is there to do better.
        anew = found and (not waited or self._is_ours(outcome))
        return self._conclude(context, memory, outcome, args, anew=anew)

    def _is_ours(self, outcome: Outcome) -> bool:
        """Whether an operation was most likely cancelled by this task's own kill or timeout, in an earlier try."""
        cancels = self.cancel_on_kill or self.on_timeout == "cancel"
        return cancels and isinstance(outcome, outcomes.Cancelled)

    def _conclude(self, context: Context, memory: _Memory, outcome: Outcome, args: WaitArgs, *, anew: bool) -> Any:
        try:
            result = self.result(outcome, args)
        except OVER as error:
            memory.forget()
            if anew:
                self.log.info("the operation of an earlier try is over, so another one is started: %s", error)
                return self._start(context, memory)
            if isinstance(outcome, outcomes.Cancelled) and self.on_cancelled == "skip":
                from airflow.providers.common.compat.sdk import AirflowSkipException

                raise AirflowSkipException(f"skipped: {error}") from error
            raise
        memory.forget()
        return result

    def _args(self, known: Mapping[str, Any], *, deadline: float | None = None) -> WaitArgs:
        limits = [seconds(limit) for limit in (self.wait_timeout, self.execution_timeout) if limit is not None]
        if deadline is None and limits:
            deadline = time.time() + min(limits)
        return self.wait_args(known["name"], started_at=known["started_at"], deadline=deadline)


class _Memory:
    """What outlives a try: the operation that is not over yet, and how many were.

    Below Airflow 3.3 there is no place for it: nothing is kept, and each try is a start of its own.
    """

    OPERATION = "lro_operation"
    OVER = "lro_operations_over"

    def __init__(self, context: Context) -> None:
        self._ti: Any = context["ti"]
        self._store: Any = context.get("task_state_store")

    def operation(self) -> dict[str, Any] | None:
        """Return the operation that an earlier try has started, if it is not over."""
        return None if self._store is None else self._store.get(self.OPERATION)

    def keep(self, known: Mapping[str, Any]) -> None:
        """Store an operation that was just started."""
        if self._store is None:
            return
        try:
            self._store.set(self.OPERATION, dict(known))
        except Exception:
            # It runs, whatever became of its name here. To fail now would have a retry start a second one.
            log.exception("operation %r is started, but its name could not be stored", known["name"])

    def forget(self) -> None:
        """Take note that the operation is over. The count rises first, lest a later start look like this one."""
        if self._store is not None and self._store.get(self.OPERATION) is not None:
            self._store.set(self.OVER, self._count() + 1)
            self._store.delete(self.OPERATION)

    def request_id(self) -> str:
        """Return an id that is the same until the operation that it starts is over (without a store: for this try)."""
        ti = self._ti
        number = ti.try_number if self._store is None else self._count()
        which = (ti.dag_id, ti.run_id, ti.task_id, ti.map_index, number)
        return str(uuid.uuid5(REQUEST_NAMESPACE, "\n".join(map(str, which))))

    def _count(self) -> int:
        return int(self._store.get(self.OVER, 0))


def _operation_of(started: Any) -> pb.Operation:
    """Return the operation in what ``start`` has returned.

    Raises:
        TypeError: there is none in it.
    """
    from google.longrunning import operations_proto_pb2 as pb

    # google-api-core's Operation and AsyncOperation hold the message as `operation`, ours as `proto`.
    for attribute in ("operation", "proto"):
        held = getattr(started, attribute, None)
        if isinstance(held, pb.Operation):
            return held
    if isinstance(started, pb.Operation):
        return started
    if isinstance(started, str | Mapping):
        return pb.Operation(name=name_of(started))
    raise TypeError(
        f"start() must return an operation (a google.longrunning.Operation, google-api-core's Operation), a mapping"
        f" with a 'name', or its name, not {type(started).__name__}"
    )
