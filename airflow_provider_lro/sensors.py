"""``LongRunningOperationSensor``: waits for an operation of any service, or for many.

Floor 2: imports floor 1, and floor ½ inside functions.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core.names import name_of
from airflow_provider_lro._core.skip import is_skip
from airflow_provider_lro._core.wait import Start, WaitArgs
from airflow_provider_lro._runner.driver import moment
from airflow_provider_lro.exceptions import (
    LroError,
    MalformedOperation,
    OperationCancelled,
    OperationFailed,
    OperationNotFound,
    OperationsFailed,
    OperationTimeout,
)
from airflow_provider_lro.operators._deferral import retyped
from airflow_provider_lro.operators._many_waits import ManyOperator
from airflow_provider_lro.operators._service import ServiceOperator
from airflow_provider_lro.version_compat import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    first_poke,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context
    from airflow.triggers.base import BaseTrigger, StartTriggerArgs

    from airflow_provider_lro._core.commands import Pause
    from airflow_provider_lro.hooks import LongRunningOperationHook

__all__ = ["LongRunningOperationSensor"]

SHORTEST_RESCHEDULE = 10.0
"""Seconds: in reschedule mode each poll is the start of a process on a worker."""
REFUSED = {
    "exponential_backoff": "the schedule backs off already: initial_delay, multiplier and poke_interval shape it",
    "max_wait": "poke_interval is the longest pause already",
    "silent_fail": "a failed poll never fails the wait already: max_consecutive_errors says how many in a row may",
}


class FinalOperationFailed(OperationFailed, AirflowFailException):
    """A failed operation stays failed: no retry of the sensor can help."""


class FinalOperationCancelled(OperationCancelled, AirflowFailException):
    """A cancelled operation stays cancelled: no retry of the sensor can help."""


class FinalOperationNotFound(OperationNotFound, AirflowFailException):
    """An operation that is gone stays gone: no retry of the sensor can help."""


class FinalMalformedOperation(MalformedOperation, AirflowFailException):
    """An operation that is done without a result gets none: no retry of the sensor can help."""


class FinalOperationTimeout(OperationTimeout, AirflowSensorTimeout):
    """The time is up for the sensor, not for one try of it."""


class FinalOperationsFailed(OperationsFailed, AirflowFailException):
    """What became of each of these operations stays so: no retry of the sensor can help."""


FINAL: dict[type[LroError], type[LroError]] = {
    OperationFailed: FinalOperationFailed,
    OperationCancelled: FinalOperationCancelled,
    OperationNotFound: FinalOperationNotFound,
    MalformedOperation: FinalMalformedOperation,
    OperationTimeout: FinalOperationTimeout,
}
"""What says something about the operation itself, and so is never retried."""


class _Planned:
    """Makes ``start_trigger_args`` when Airflow reads them: a cluster policy may change a task that was made before."""

    def __get__(self, sensor: LongRunningOperationSensor | None, owner: type) -> StartTriggerArgs | None:
        return sensor.plan_start() if sensor is not None and sensor.start_from_trigger else None


class LongRunningOperationSensor(ManyOperator, BaseSensorOperator):
    """Waits until an operation is done, or many are; its response, as JSON, is the XCom.

    Of many it is the list of their responses, in their order, with None where there is none (``wait_for``). Their
    failures are one ``OperationsFailed``; what has succeeded is the XCom ``results`` then.

    Polls once on the worker, then by exponential backoff up to ``poke_interval``: in the triggerer
    (``deferrable=True``), on the worker (``mode="poke"``), or in one short run per poll (``mode="reschedule"``).

    :param operation_name: name of the operation, or a mapping with a ``name``, as other operators leave in XCom; or a
        sequence of these.
    :param poke_interval: seconds (or timedelta) between polls once the backoff has reached it; at least 0.1.
    :param timeout: seconds (or timedelta) until the sensor fails with ``OperationTimeout``, without a retry. An
        ``execution_timeout`` that is shorter counts instead, for each try.
    :param soft_fail: skip instead of failing when the operation failed, was cancelled, is not found or took too long;
        not when it could not be reached.
    :param never_fail: skip instead of failing, whatever went wrong.
    :param start_from_trigger: begin in the triggerer, without a worker; needs ``deferrable``, texts and templates that
        render there, and Airflow 2.11, 3.0 or 3.3 (for templates 3.3). A mapped task begins on a worker all the same.
    :param end_from_trigger: end in the triggerer on a success or a skip, where nothing is lost by it; needs
        ``deferrable`` and Airflow 3.3.
    """

    start_trigger_args = _Planned()
    template_fields: Sequence[str] = ("operation_name", "parent", "filter", *ServiceOperator.template_fields)

    def __init__(
        self,
        *,
        operation_name: Any = None,
        start_from_trigger: bool = False,
        end_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.operation_name = self.checked_literal(operation_name)
        self.end_from_trigger = end_from_trigger
        refused = [f"{name}: {why}" for name, why in REFUSED.items() if getattr(self, name)]
        if refused:
            raise ValueError(f"{type(self).__name__} does not take {'; '.join(refused)}")
        if self._reschedules and self.max_consecutive_errors:
            raise ValueError(
                "max_consecutive_errors cannot be counted in mode='reschedule', where each poll is a process of its"
                " own; use deferrable=True, or 0 to tolerate none"
            )
        self.check_many(
            operation_name, reschedules=self._reschedules, in_trigger=start_from_trigger or end_from_trigger
        )
        self.wait_args("to/be/operations/rendered", impersonation_chain=None).check()
        if start_from_trigger or end_from_trigger:
            self._go_without_worker(start=start_from_trigger, end=end_from_trigger)

    def _go_without_worker(self, *, start: bool, end: bool) -> None:
        from airflow_provider_lro import _from_trigger

        if end:
            _from_trigger.check_end(self)
        if start:
            _from_trigger.check_start(self)
        # One of a mapped task has been begun by a worker, which knows its values; the scheduler does not.
        if start and not self.is_one_of_mapped:
            self.start_from_trigger = True
            self.plan_start()

    def plan_start(self) -> StartTriggerArgs:
        """Return what the scheduler makes the trigger from; raises ValueError for what would come there otherwise."""
        from airflow_provider_lro import _from_trigger

        chain = _from_trigger.joined(self.impersonation_chain)
        args = self.wait_args(self.operation_name, impersonation_chain=chain)
        ends = self._ending(from_start=True) if self.end_from_trigger else {}
        return _from_trigger.start_trigger_args(self, args, timeout=self._limit, ends=ends)

    def _ending(self, *, from_start: bool) -> dict[str, Any]:
        from airflow_provider_lro._from_trigger import ending

        return ending(self, LongRunningOperationSensor, from_start=from_start)

    @property
    def interval(self) -> float:
        """The pause between polls, by the name that the wait knows it by."""
        return float(self.poke_interval)

    def execute(self, context: Context) -> Any:
        """Poll once; then return, defer, reschedule, or go on polling."""
        return self._settle(lambda: self._start(context))

    def execute_complete(
        self, context: Context, event: Mapping[str, Any] | None = None, *, names: str | None = None, **_: Any
    ) -> Any:
        """Turn the trigger's event into the result, or into the error."""
        return self._settle(lambda: self._take(context, event or {}, names))

    def execute_late(self, context: Context) -> Any:
        """Poll once on the worker: by the deadline no trigger had told us anything."""
        self.load_types()
        if self.is_many(self.operation_name):
            return self.late_many(context, self.operation_name, limit=self._limit)
        now = time.time()
        args = self.wait_args(name_of(self.operation_name), started_at=now - self._limit, deadline=now)
        return self.result(self.poll(context, args, start=Start.POLL), args)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume, by the same rules for skipping where no event came: a trigger that crashed, or none that ran."""
        if self.start_from_trigger and (ti := context.get("ti")) is not None:
            from airflow_provider_lro._from_trigger import forget_xcoms

            forget_xcoms(ti)
        return self._settle(
            lambda: super(LongRunningOperationSensor, self).resume_execution(next_method, next_kwargs, context)
        )

    def _start(self, context: Context, started_at: float | None = None) -> Any:
        self.load_types()
        started_at, start = time.time() if started_at is None else started_at, Start.FRESH
        if self._reschedules and (first := first_poke(context, self)) is not None:
            started_at, start = first, Start.POKE  # a cancel, and what comes of it, is the matter of one poke
        self.check_many(self.operation_name, reschedules=self._reschedules, in_trigger=self.start_from_trigger)
        if self.is_many(self.operation_name):
            return self.start_many(context, self.operation_name, started_at=started_at, limit=self._limit)
        args = self.wait_args(name_of(self.operation_name), started_at=started_at, deadline=started_at + self._limit)
        outcome = self.poll(context, args, start=start, leave=lambda hook, pause: self._leave(args, hook, pause))
        return self.result(outcome, args)

    @property
    def _reschedules(self) -> bool:
        return self.reschedule and not self.deferrable

    @property
    def own_timeout(self) -> float:
        """The sensor's ``timeout``, in seconds."""
        return float(self.timeout)

    @property
    def _limit(self) -> float:
        """Seconds to the deadline. Airflow itself does not look at ``execution_timeout`` while a task is deferred."""
        if not self.deferrable or self.execution_timeout is None:
            return float(self.timeout)
        return min(float(self.timeout), self.execution_timeout.total_seconds())

    def _leave(self, args: WaitArgs, hook: LongRunningOperationHook, pause: Pause) -> None:
        """Leave the worker until the next poll, unless this sensor waits there."""
        if self.deferrable:
            self.defer_wait(args, hook, make=self._ending_trigger())
        if self.reschedule:
            later = max(SHORTEST_RESCHEDULE, moment(pause.window))
            raise AirflowRescheduleException(datetime.now(tz=UTC) + timedelta(seconds=later))

    def _ending_trigger(self) -> Callable[..., BaseTrigger] | None:
        """Return what makes a trigger that ends the task, if one may."""
        if not self.end_from_trigger:
            return None
        ends = self._ending(from_start=False)
        if ends["worker_for"] is not None:
            self.log.info("a worker ends the task, as %s", ends["worker_for"])
            return None
        from airflow_provider_lro._workerless import WorkerlessTrigger

        return partial(WorkerlessTrigger, **ends)

    def _take(self, context: Context, event: Mapping[str, Any], names: str | None) -> Any:
        from airflow_provider_lro._messages import events

        if "outcomes" in event:
            return self.take_many(context, event, self.operation_name, packed=names, limit=self._limit)
        if "not_started" in event:
            self.log.info("the wait did not begin in the triggerer, but does here: %s", event["not_started"])
            return self._start(context, event.get("started_at"))
        outcome = events.outcome_from_event(event)
        self.load_types(outcome)
        if events.must_read_again(event):
            outcome = self.read_again(context, outcome, event["name"])
        outcome = self.seen(context, outcome, event["name"])
        # The duration is all that a timeout's text takes from these.
        args = self.wait_args(event["name"], started_at=0.0, deadline=self._limit)
        return self.result(outcome, args)

    def _settle(self, attempt: Callable[[], Any]) -> Any:
        """Make a skip, a failure for good or one worth a retry of what went wrong; the same in all modes.

        Airflow's own two paths, poke and deferred, differ in this, and neither knows what a broken connection is.
        """
        try:
            return attempt()
        except (AirflowSkipException, AirflowRescheduleException):
            raise
        except AirflowTaskTimeout as timeout:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"skipped, as execution_timeout is over: {timeout}") from timeout
            raise
        except LroError as error:
            if is_skip(error, on_cancelled=self.on_cancelled, soft_fail=self.soft_fail, never_fail=self.never_fail):
                raise AirflowSkipException(f"skipped: {error}") from error
            kind = _final(error)
            if kind is None:
                raise
            raise retyped(error, kind) from None
        except Exception as error:
            if self.never_fail:
                raise AirflowSkipException(f"skipped: {error}") from error
            raise


def _final(error: LroError) -> type[LroError] | None:
    """Return the class of an error that no retry can help; None where one may."""
    if type(error) is OperationsFailed and error.errors and all(map(_is_final, error.errors.values())):
        return FinalOperationsFailed
    return FINAL.get(type(error))


def _is_final(error: LroError) -> bool:
    return type(error) in FINAL or isinstance(error, AirflowFailException)
