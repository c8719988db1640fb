"""``LongRunningOperationTrigger``: waits for one operation in the triggerer.

Floor 1: floor ½ is imported inside functions.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_lro._core import kill
from airflow_provider_lro._core.args import row_of
from airflow_provider_lro._core.outcome import Broken
from airflow_provider_lro._core.wait import Start, WaitArgs, wait
from airflow_provider_lro._runner.driver import drive_async, steady_clock
from airflow_provider_lro._runner.telemetry import Watch, reporter
from airflow_provider_lro.exceptions import LroError
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.version_compat import state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._transport.client import AsyncOperationsClient

__all__ = ["LongRunningOperationTrigger"]

AIRFLOW_TELLS_OF_KILLS = hasattr(BaseTrigger, "on_kill")
"""Since Airflow 3.3. Below it a kill looks like a shutdown: the trigger is cancelled, no more."""
NOT_KILLED = frozenset({"deferred", "up_for_retry", "up_for_reschedule"})
"""States that no user puts a task into: another trigger or another try has the operation."""
SECONDS_TO_CANCEL = 20.0
"""How long a cancel may take that a kill asks for."""
SECONDS_TO_KILL = 120.0
"""How long all of it may take. Airflow gives ``on_kill`` 30 s and cancels it then, once more; on a machine that is busy
the first question for a task's state alone has taken longer."""


@dataclass(kw_only=True, eq=False, repr=False)
class LongRunningOperationTrigger(WaitArgs, BaseTrigger):
    """Polls an operation until it is done, by backoff and then every ``interval``, and fires one event.

    Its arguments are the fields of ``WaitArgs``; each is stored in plain text in Airflow's database, so none is a
    secret. They are checked in ``run``: a constructor that raised would stop the whole triggerer. Every start, first
    or rebuilt, resumes the wait that began at ``started_at``.

    With ``cancel_on_kill`` it asks to cancel the operation when a user has marked or cleared the task; never when the
    triggerer stops, the trigger moves to another one, its time is up, or it has fired.
    """

    def __post_init__(self) -> None:
        BaseTrigger.__init__(self)
        self._fired = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments; what equals its default is left out, so that older code reads it."""
        return row_of(self)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event; see ``_events`` for what it holds."""
        # A task of its own: Airflow knows a kill by what its CancelledError says, and grpc may raise one that says
        # nothing. asyncio.shield() would do as well, for twice the objects.
        loop = asyncio.get_running_loop()
        waiting, over = loop.create_task(self._wait()), loop.create_future()
        waiting.add_done_callback(partial(_come_about, over))
        try:
            await over
        except asyncio.CancelledError:
            waiting.cancel()
            # Airflow cancels a trigger anew once a second until it has ended, as `on_kill` knows, too.
            while not waiting.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([waiting])
            if not AIRFLOW_TELLS_OF_KILLS:
                await self._on_stop()
            raise
        # The channel was given back before the event is fired, not in cleanup(), which `dags test` never calls.
        outcome = waiting.result()
        self._fired = True
        yield await self._event(outcome)

    async def _on_stop(self) -> None:
        try:
            await self.on_kill()
        except Exception:  # it must not take the place of the CancelledError: Airflow would fail the task for it
            self.log.exception("%s: could not be asked to cancel", self._what())

    async def on_kill(self) -> None:
        """Ask to cancel the operation, if a user has taken the task away from it and ``cancel_on_kill`` is set."""
        if not self.cancel_on_kill or self._fired or self._is_overdue():
            return
        killing = asyncio.ensure_future(self._cancel_if_killed())
        # Until a trigger has ended, Airflow cancels it anew at every exchange with its supervisor, once a second: that
        # would end this halfway, and does where several are killed at once, which ask for their states in turn.
        end = steady_clock()() + SECONDS_TO_KILL
        while not killing.done() and (left := end - steady_clock()()) > 0:
            with suppress(asyncio.CancelledError):
                await asyncio.wait([killing], timeout=left)
        if killing.cancel():
            raise TimeoutError(f"{self._what()} could not be asked to cancel in {SECONDS_TO_KILL} s")
        killing.result()

    def _is_overdue(self) -> bool:
        """Tell whether time is up, by our own deadline or by Airflow's, which may be earlier: no user's kill then."""
        now = steady_clock()()
        # Airflow 2 counts execution_timeout from the start of the process.
        ends = getattr(self.task_instance, "trigger_timeout", None)
        theirs = math.inf if ends is None else epoch(ends)
        return now >= min(math.inf if self.deadline is None else self.deadline, theirs)

    async def _cancel_if_killed(self) -> None:
        if await self._was_killed():
            await self._cancel()

    async def _cancel(self) -> None:
        async with self._hook().async_client(self.operation_name) as client:
            clock = steady_clock()
            await drive_async(kill.cancel(now=clock(), within=SECONDS_TO_CANCEL), self, client, clock=clock)

    def _what(self) -> str:
        """Say what is waited for, in a log."""
        return f"operation {self.operation_name!r}"

    async def _was_killed(self) -> bool:
        """Tell a user's kill from a shutdown, a move to another triggerer, and a try that waits already.

        In each of these the task is deferred still, or again: then somebody else looks after the operation.
        """
        if self.task_instance is None:  # `airflow dags test`: no triggerer, and nobody to kill anything
            return False
        from asgiref.sync import sync_to_async

        # Not asyncio.to_thread: below Airflow 3.3 the way to the supervisor leads through asgiref's threads alone.
        state = await sync_to_async(state_of)(self.task_instance)
        killed = state not in NOT_KILLED
        self.log.info(
            "%s: the trigger was stopped, and its task is %s: %s",
            self._what(),
            state or "cleared",
            "killed by a user" if killed else "the operation is left alone",
        )
        return killed

    async def _event(self, outcome: Outcome) -> TriggerEvent:
        """Return the event for what the wait came to."""
        from airflow_provider_lro._messages.events import event_from_outcome

        return TriggerEvent(event_from_outcome(outcome, name=self.operation_name))

    def _first(self) -> Start:
        """Tell how the wait begins in this process."""
        return Start.RESUME

    async def _wait(self) -> Outcome:
        clock, start = steady_clock(), self._first()
        self.check()
        try:
            await self._know_types()
            client = await self._client()
        except LroError as error:  # the connection describes no channel
            return Broken(error=error)
        reports = None
        try:
            reports = reporter()
            # Not before: until there are types and a connection seconds may pass.
            steps = wait(self, now=clock(), start=start)
            with Watch(self, client.config.target, ti=self.task_instance, shared=True) as watch:
                outcome = await drive_async(steps, self, client, clock=clock, shared=True, tally=watch.tally)
                return watch.ends(outcome, asyncio.get_running_loop().time())
        finally:
            await client.close()
            if reports is not None:
                reports.leave()

    async def _client(self) -> AsyncOperationsClient:
        """Return the client to wait with; the hook itself is not kept, as there are thousands of waits."""
        hook = self._hook()
        client = await hook.aget_conn(self.operation_name)
        try:
            await self._show(hook)
        except BaseException:
            await client.close()
            raise
        return client

    async def _know_types(self) -> bool:
        """Make the types known that a line of progress, or the end, needs; without them the wait goes on as well."""
        names = self._type_names()
        if not any(names.values()):
            return True
        from airflow_provider_lro._messages.types import loaded

        return await loaded(**names)

    def _type_names(self) -> dict[str, str | None]:
        return {"metadata_type": self.metadata_type, "type_modules": self.type_modules}

    async def _show(self, hook: LongRunningOperationHook) -> None:
        """Show which operation it is that is waited for; here a worker has done so."""

    def _hook(self) -> LongRunningOperationHook:
        return LongRunningOperationHook.of(self)


def epoch(moment: datetime) -> float:
    """Return epoch seconds of a moment of Airflow's; one that names no zone is in UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _come_about(over: asyncio.Future[None], _: asyncio.Task[Outcome]) -> None:
    if not over.done():  # it was cancelled
        over.set_result(None)
