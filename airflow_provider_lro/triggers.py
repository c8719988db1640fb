"""``LongRunningOperationTrigger``: waits for one operation or many in the triggerer."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_lro._core.args import WaitArgs, row_of
from airflow_provider_lro._core.checks import Rule, check_name, check_rules, is_flag, is_text, is_whole, one_of, or_none
from airflow_provider_lro._core.names import in_short, pack, unpack
from airflow_provider_lro._core.outcome import CallFailed, TimedOut, is_skip
from airflow_provider_lro._core.schedule import Window
from airflow_provider_lro._core.wait import MAX_OUTAGE, Start
from airflow_provider_lro._runner.driver import LoopWatch, steady_clock
from airflow_provider_lro._runner.group import WaitGroup, run_group
from airflow_provider_lro._runner.telemetry import reporter
from airflow_provider_lro.exceptions import LroError
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.version_compat import (
    state_of,
    takeover_time,
    task_id_of,
    triggers_have_on_kill,
    triggers_move_without_on_kill,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from airflow_provider_lro._core.outcome import Outcome

__all__ = ["LongRunningOperationTrigger"]

AIRFLOW_CALLS_ON_KILL = triggers_have_on_kill()
NOT_KILLED = frozenset({"up_for_retry", "up_for_reschedule"}) | (
    frozenset() if triggers_move_without_on_kill() else {"deferred"}
)
"""States that no user puts a task into: another try has the operation, or another triggerer, where a trigger that moves
is stopped as by a kill. Since Airflow 3.4 ``deferred`` is a cleared task's next try, with an operation of its own."""
CANCEL_TIMEOUT_IN_TRIGGERER = 20.0
"""Seconds that a cancel may take that a kill asks for."""
RECHECK_TIMEOUT = 5.0
"""Seconds in which to find out whether what is to be cancelled is over already."""
KILL_TIMEOUT = 120.0
"""Seconds that all of it may take. Airflow gives ``on_kill`` 30 s and cancels it then, once more; on a machine that is
busy the first question for a task's state alone has taken longer."""
MAX_KEPT = 48 * 1024
"""Bytes of results of many operations that are kept for the event; all of them would be the memory of a triggerer."""
PAUSE_TO_CONNECT = 10.0
"""Seconds until a connection is read again that could not be read."""
IMPORT_TIMEOUT = 10.0
"""Seconds that a wait lets its types be imported before it begins without them."""
XCOM_TIMEOUT = 30.0
"""Seconds that the XCom may take; then a worker writes it. Less than the slack of Airflow's own timeout."""

RULES: tuple[Rule, ...] = (
    ("wanted", is_whole, "a whole number of at least 0"),
    ("lro_conn_id", is_text, "the id of a connection, as text"),
    *(
        (name, or_none(is_text), "None or a text in UTF-8")
        for name in ("endpoint", "impersonation_chain", "quota_project_id", "headers", "response_type")
    ),
    ("on_cancelled", *one_of("fail", "skip")),
    *(
        (name, is_flag, "True or False")
        for name in ("require_result", "end_from_trigger", "soft_fail", "never_fail", "do_xcom_push")
    ),
)
"""The arguments that are the trigger's own, and the connection's, as they cross to a trigger: each with its check."""

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False, repr=False)
class LongRunningOperationTrigger(WaitArgs, BaseTrigger):
    """Polls operations until enough are done, by backoff and then every ``interval``, and fires one event.

    Each argument is stored in plain text in Airflow's database, so none is a secret. They are checked in ``run``: a
    constructor that raised would stop the whole triggerer. Every start, first or rebuilt, resumes the wait that began
    at ``started_at``.

    With ``cancel_on_kill`` it asks to cancel the operations when a user has marked or cleared the task; never when the
    triggerer stops, the trigger moves to another one, its time is up, or it has fired.

    With ``end_from_trigger`` a success or a skip ends the task here; all else, and whatever is in doubt, goes on in
    ``execute_complete``.

    :param operation_name: the operation's name.
    :param operation_names: several operations instead: a list of names (stored packed, as one text).
    :param wanted: how many of several must succeed; 0: all, and all are waited for.
    :param lro_conn_id: connection of type ``lro``; empty: none is stored, and none is needed.
    :param endpoint: host or host:port of the service, instead of the connection's; may hold ``{location}``.
    :param impersonation_chain: service account to impersonate, or several with commas between.
    :param quota_project_id: project that quota and bills go to.
    :param headers: more headers of every call, as a JSON object.
    :param interval: seconds between polls once the backoff has reached it; at least 0.1.
    :param initial_delay: seconds between the first poll and the second.
    :param multiplier: growth of each pause over the one before, until the interval is reached.
    :param jitter: share of each pause that may be left out, 0 to 1.
    :param rpc_timeout: seconds that one call may take.
    :param not_found_grace: seconds from ``started_at`` for which NOT_FOUND means "not yet".
    :param max_consecutive_errors: failed polls in a row that are tolerated; None goes on until the deadline.
    :param connect_timeout: seconds after which a wait ends that has had no connection since its first poll.
    :param reached: a poll of the worker has reached the service.
    :param consecutive_errors: failed polls in a row so far.
    :param on_timeout: ``"fail"``, or ``"cancel"``: ask to cancel at the deadline, and wait up to ``cancel_grace``.
    :param cancel_grace: seconds that a cancel may take.
    :param started_at: epoch seconds at which the wait began; None: now.
    :param deadline: epoch seconds at which its time is up; None: never.
    :param cancel_on_kill: ask to cancel when a user marks or clears the task.
    :param poll_method: ``"get"``, ``"wait"``, ``"auto"`` or ``"list"``, as for the sensor.
    :param list_parent: parent to list, for ``poll_method="list"``.
    :param metadata_type: type of the metadata, as text, so that progress can be logged.
    :param type_modules: module paths to import, with commas between, so that types are known.
    :param require_result: a success without a result is not one.
    :param end_from_trigger: end the task here, where nothing is lost by it.
    :param response_type: type of the response, as text; for ``end_from_trigger``, as the others below.
    :param on_cancelled: ``"fail"`` or ``"skip"``.
    :param soft_fail: the sensor's.
    :param never_fail: the sensor's.
    :param do_xcom_push: the task's.
    """

    operation_name: str = ""
    operation_names: str | Sequence[str] | None = None
    wanted: int = 0
    require_result: bool = False
    end_from_trigger: bool = False
    response_type: str | None = None
    on_cancelled: str = "fail"
    soft_fail: bool = False
    never_fail: bool = False
    do_xcom_push: bool = True

    def __post_init__(self) -> None:
        BaseTrigger.__init__(self)
        self._fired = False
        self._unpacked: list[str] | None = None
        self._outcomes: Sequence[Outcome | None] | None = None
        self._watch: LoopWatch | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments as JSON scalars; what equals its default is left out."""
        path, kwargs = row_of(self)
        if not isinstance(kwargs.get("operation_names"), str | None):
            kwargs["operation_names"] = pack(self._names())
        return path, kwargs

    def check(self) -> None:
        """Raise ValueError for the first wrong value: what it is, and what it must be."""
        WaitArgs.check(self)
        check_rules(self, RULES)
        self._names()

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event; see ``_messages.events`` for its form."""
        outcomes = await self._wait()
        self._fired = True
        yield await self._event(outcomes)

    async def _wait(self) -> Sequence[Outcome | None]:
        self.check()
        self._watch = _watch_of_loop()
        reports = reporter()
        # A task of its own: Airflow knows a kill by the text of its CancelledError, and grpc may raise one without a
        # text. asyncio.shield() would do as well, for twice the objects.
        loop = asyncio.get_running_loop()
        waiting, over = loop.create_task(run_group(self._group, Start.RESUME)), loop.create_future()
        waiting.add_done_callback(partial(_set_done, over))
        try:
            with self._watch:
                await over
        except asyncio.CancelledError:
            waiting.cancel()
            # Airflow cancels a trigger anew once a second until it has ended, as `on_kill` knows, too.
            while not waiting.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([waiting])
            if not AIRFLOW_CALLS_ON_KILL:
                await self._on_stop()
            raise
        finally:
            if reports is not None:
                reports.remove_wait()
        # The channel was given back before the event is fired, not in cleanup(), which `dags test` never calls.
        try:
            return waiting.result()
        except LroError as error:  # there was no channel until the deadline
            return [self._never_polled(error)] * len(self._names())

    def _never_polled(self, error: LroError) -> Outcome:
        if self.deadline is None:
            return CallFailed(error=error)
        error.not_sent = True  # a worker polls once more
        return TimedOut(error=error)

    async def _on_stop(self) -> None:
        try:
            await self.on_kill()
        except Exception:  # it must not take the place of the CancelledError: Airflow would fail the task for it
            advice = "if a user has killed the task: `python -m airflow_provider_lro cancel NAME`"
            self.log.exception("could not be asked to cancel; %s [%s]", advice, self._what())

    async def on_kill(self) -> None:
        """Ask to cancel, if a user has taken the task away and ``cancel_on_kill`` is set."""
        if not self.cancel_on_kill or self._fired or self._is_overdue():
            return
        killing = asyncio.ensure_future(self._cancel_if_killed())
        # Until a trigger has ended, Airflow cancels it anew at every exchange with its supervisor, once a second: that
        # would end this halfway, and does where several are killed at once, which ask for their states in turn.
        end = steady_clock()() + KILL_TIMEOUT
        while not killing.done() and (left := end - steady_clock()()) > 0:
            with suppress(asyncio.CancelledError):
                await asyncio.wait([killing], timeout=left)
        if killing.cancel():
            why = f"could not be asked to cancel within {KILL_TIMEOUT:g} s, and may go on"
            raise TimeoutError(f"{why}: run `python -m airflow_provider_lro cancel NAME` [{self._what()}]")
        killing.result()

    def _is_overdue(self) -> bool:
        """Return True if time is up, by our own deadline or by Airflow's, which may be earlier: not a user's kill."""
        now = steady_clock()()
        # Airflow 2 counts execution_timeout from the start of the process.
        ends = getattr(self.task_instance, "trigger_timeout", None)
        theirs = math.inf if ends is None else _epoch(ends)
        return now >= min(math.inf if self.deadline is None else self.deadline, theirs)

    async def _cancel_if_killed(self) -> None:
        if not await self._may_be_killed():
            return
        group = await self._make_group(is_recheck=True)
        async with group:
            if await self._went_on(group):
                self.log.info("over already, so nothing is cancelled [%s]", self._what())
                return
            await group.cancel(within=CANCEL_TIMEOUT_IN_TRIGGERER)

    async def _went_on(self, group: WaitGroup) -> bool:
        """Return True if the wait is over by now, so that its task went on, and nobody has killed it.

        One that was killed is not over; and what the state of a task says of both may be the same.
        """
        try:
            async with asyncio.timeout(RECHECK_TIMEOUT):
                await group.poll_once(Start.POLL)
        except (LroError, TimeoutError) as error:
            self.log.debug("not known whether it is over: %s", error)
        return group.is_over

    async def _may_be_killed(self) -> bool:
        """Return False after a shutdown, a move to another triggerer, or where another try waits already.

        In each of these the task is deferred still, or again: then somebody else looks after the operation. After a
        standstill of this process another triggerer has it, whatever the state.
        """
        if self.task_instance is None:  # `airflow dags test`: no triggerer, and nobody to kill anything
            return False
        if self._watch is not None and self._watch.stood_still():
            self.log.warning(
                "the trigger was stopped, but this process had stood still before, so that its task may have gone on"
                " elsewhere: the operation is left alone [%s]",
                self._what(),
            )
            return False
        from asgiref.sync import sync_to_async

        # Not asyncio.to_thread: below Airflow 3.3 the way to the supervisor leads through asgiref's threads alone.
        state = await sync_to_async(state_of)(self.task_instance)
        killed = state not in NOT_KILLED
        self.log.info(
            "the trigger was stopped, and the state of its task is %s: the operation is %s [%s]",
            state or "none",
            "cancelled, unless it is over" if killed else "left alone",
            self._what(),
        )
        return killed

    def _what(self) -> str:
        return in_short(self._names())

    def _names(self) -> list[str]:
        if self._unpacked is None:
            names = self.operation_names
            if names is None:
                self._unpacked = [check_name(self.operation_name)]
            elif isinstance(names, str):
                self._unpacked = unpack(names)
            elif isinstance(names, list | tuple):
                self._unpacked = [check_name(name) for name in names]
            if not self._unpacked:
                raise ValueError(f"operation_names={names!r:.80}, but it must be a list of at least one name")
        return self._unpacked

    def _args(self) -> WaitArgs:
        """Return the arguments of the waits: the trigger's own for one, plain ones to copy for each of many."""
        if self.operation_names is None:
            return self
        values = {field.name: getattr(self, field.name) for field in fields(WaitArgs)}
        return WaitArgs(**{**values, "operation_name": self._names()[0]})

    def _hook(self) -> LongRunningOperationHook:
        return LongRunningOperationHook.of(self)

    async def _group(self) -> WaitGroup:
        """Prepare the wait, and try again where the connection cannot be read now: a worker has read it before.

        Raises:
            LroError: it could not be read until the deadline.
        """
        from airflow_provider_lro._transport.limiter import pause

        await self._load_types()
        clock, logged = steady_clock(), ""
        end = clock() + MAX_OUTAGE if self.deadline is None else self.deadline
        while True:
            try:
                group = await self._make_group()
            except LroError as error:
                left = end - clock()
                if left <= 0:
                    raise error.with_traceback(None) from None
                if str(error) != logged:
                    logged = str(error)
                    self.log.warning("no poll can be made, and this is tried again until the deadline: %s", error)
                await pause(Window(shortest=0.0, longest=min(PAUSE_TO_CONNECT, self.interval, left)))
            else:
                self._outcomes = group.outcomes
                return group

    async def _make_group(self, *, is_recheck: bool = False) -> WaitGroup:
        names = self._names()
        return WaitGroup(
            self._args(),
            names,
            await self._hook().async_channels(names),
            wanted=self.wanted,
            require_result=self.require_result,
            keep=MAX_KEPT,
            ti=self.task_instance,
            is_recheck=is_recheck,
            known=self._outcomes if is_recheck else None,
        )

    async def _load_types(self) -> bool:
        """Import the types that a line of progress, or the end, needs; without them the wait still goes on."""
        response_type = self.response_type if self.end_from_trigger else None
        if response_type is self.metadata_type is self.type_modules is None:
            return True
        loop = asyncio.get_running_loop()
        key = (loop, response_type, self.metadata_type, self.type_modules)
        if key not in _type_loads:  # once for all waits that need the same
            from airflow_provider_lro._transport.limiter import forget_closed

            forget_closed(_type_loads)
            _type_loads[key] = loop.create_task(_load_in_thread(*key[1:]))
        # Not wait_for: a wait that is cancelled must not take the import from all others.
        await asyncio.wait([_type_loads[key]], timeout=IMPORT_TIMEOUT)
        return _type_loads[key].done() and _type_loads[key].result()

    async def _event(self, outcomes: Sequence[Outcome | None]) -> TriggerEvent:
        from airflow_provider_lro._messages.events import event_from_outcomes, to_read_again

        started_at = steady_clock()() if self.started_at is None else self.started_at
        event = event_from_outcomes(outcomes, self._names(), started_at=started_at)
        may_end = self.end_from_trigger and self.task_instance is not None and len(outcomes) == 1
        if may_end and not to_read_again(event) and outcomes[0] is not None:
            return await self._end(outcomes[0]) or TriggerEvent(event)
        return TriggerEvent(event)

    # ── ending the task ──

    async def _end(self, outcome: Outcome) -> TriggerEvent | None:
        """Return the event that ends the task; None leaves that to a worker."""
        import json

        from airflow.sdk.bases.xcom import BaseXCom
        from airflow.triggers.base import TaskSkippedEvent, TaskSuccessEvent

        from airflow_provider_lro._messages.encoding import response_to_json
        from airflow_provider_lro._messages.events import MAX_EVENT
        from airflow_provider_lro._messages.protocol import has_many_details
        from airflow_provider_lro._messages.results import handed_out, result_of

        if isinstance(outcome, TimedOut | CallFailed) and outcome.is_undecided:
            return None
        if outcome.operation is not None and has_many_details(outcome.operation.details):
            self._log_left_to_worker("its error has many details")
            return None
        if not await self._load_types():
            self._log_left_to_worker("it may know its types")
            return None
        response: Any = None
        end: TriggerEvent = TaskSuccessEvent()
        try:
            response = result_of(outcome, self, self.response_type, require_result=self.require_result)
        except LroError as error:
            if not is_skip(error, on_cancelled=self.on_cancelled, soft_fail=self.soft_fail, never_fail=self.never_fail):
                return None
            self.log.info("skipped: %s", error)
            end = TaskSkippedEvent()
        result = response_to_json(response)
        if self.do_xcom_push and (_has_opaque(result) or len(json.dumps(result)) > MAX_EVENT):
            self._log_left_to_worker("it may know more of the result")
            return None
        xcoms = handed_out(self._names(), [outcome], is_many=False)
        if result is not None:
            xcoms[str(BaseXCom.XCOM_RETURN_KEY)] = result
        return end if not self.do_xcom_push or await self._pushed(xcoms) else None

    async def _pushed(self, xcoms: Mapping[str, Any]) -> bool:
        """Push what a worker would; return False to leave it to one."""
        from airflow.sdk.execution_time.xcom import XCom

        try:
            async with asyncio.timeout(XCOM_TIMEOUT):
                for key, value in xcoms.items():  # not the event's own `xcoms`: Airflow 3.3 would encode them twice
                    await XCom.aset(key, value, **task_id_of(self.task_instance))
        except Exception:  # what it is does not matter: a worker writes the same again
            self.log.warning("the result could not be written; a worker does it", exc_info=True)
            return False
        return True

    def _log_left_to_worker(self, why: str) -> None:
        self.log.info("a worker ends the task, as %s", why)


_watches: dict[asyncio.AbstractEventLoop, LoopWatch] = {}


def _watch_of_loop() -> LoopWatch:
    from airflow_provider_lro._transport.limiter import of_loop

    return of_loop(_watches, lambda: LoopWatch(takeover_time()))


_type_loads: dict[tuple[Any, ...], asyncio.Task[bool]] = {}


async def _load_in_thread(response_type: str | None, metadata_type: str | None, type_modules: str | None) -> bool:
    """Import types; return False where that fails, which is logged once: no wait ends by it."""
    from airflow_provider_lro._messages.types import load

    try:
        await asyncio.to_thread(
            load, response_type=response_type, metadata_type=metadata_type, type_modules=type_modules
        )
    except Exception as error:
        surprise = None if isinstance(error, ValueError) else error
        log.warning("types are not known in this process; the worker decodes them: %s", error, exc_info=surprise)
        return False
    return True


def _epoch(moment: datetime) -> float:
    """Return epoch seconds of a moment of Airflow's; one that names no zone is in UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _set_done(over: asyncio.Future[None], _: asyncio.Task[Any]) -> None:
    if not over.done():  # it was cancelled
        over.set_result(None)


def _has_opaque(value: Any) -> bool:
    """Return True if something in a result looks like a payload of a type that is not known here."""
    if isinstance(value, dict):
        if value.keys() == {"@type", "value"} and isinstance(value["value"], str):
            return True
        return any(map(_has_opaque, value.values()))
    return isinstance(value, list) and any(map(_has_opaque, value))
