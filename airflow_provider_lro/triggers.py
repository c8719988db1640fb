"""``LongRunningOperationTrigger``: waits for one operation in the triggerer.

Floor 1: floor ½ is imported inside functions.
"""

from __future__ import annotations

import asyncio
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_lro import _kill
from airflow_provider_lro._drivers import drive_async, steady_clock
from airflow_provider_lro._outcome import Broken
from airflow_provider_lro._task_state import state_of
from airflow_provider_lro._wait import Start, WaitArgs, wait
from airflow_provider_lro._watch import reported, watched
from airflow_provider_lro.exceptions import LroError
from airflow_provider_lro.hooks import LongRunningOperationHook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_provider_lro._outcome import Outcome

__all__ = ["LongRunningOperationTrigger"]

AIRFLOW_TELLS_OF_KILLS = hasattr(BaseTrigger, "on_kill")
"""Since Airflow 3.3. Below it a kill looks like a shutdown: the trigger is cancelled, no more."""
NOT_KILLED = frozenset({"deferred", "up_for_retry", "up_for_reschedule"})
"""States that no user puts a task into: another trigger or another try has the operation."""
SECONDS_TO_CANCEL = 20.0
"""How long a cancel may take that a kill asks for; Airflow gives ``on_kill`` 30 s."""


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
        kind = type(self)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        defaults = {field.name: field.default for field in fields(self) if field.default is not MISSING}
        kept = {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}
        return f"{kind.__module__}.{kind.__qualname__}", kept

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event; see ``_events`` for what it holds."""
        # A task of its own: Airflow knows a kill by what its CancelledError says, and grpc may raise one that says
        # nothing.
        waiting = asyncio.ensure_future(self._wait())
        try:
            # The channel is given back before the event is fired, not in cleanup(), which `dags test` never calls.
            outcome = await asyncio.shield(waiting)
        except asyncio.CancelledError:
            waiting.cancel()
            await asyncio.wait([waiting])
            if not AIRFLOW_TELLS_OF_KILLS:
                await self._on_stop()
            raise
        self._fired = True
        yield await self._event(outcome)

    async def _on_stop(self) -> None:
        try:
            await self.on_kill()
        except Exception:  # it must not take the place of the CancelledError: Airflow would fail the task for it
            self.log.exception("operation %r: could not be asked to cancel", self.operation_name)

    async def on_kill(self) -> None:
        """Ask to cancel the operation, if a user has taken the task away from it and ``cancel_on_kill`` is set."""
        overdue = self.deadline is not None and steady_clock()() >= self.deadline
        if self.cancel_on_kill and not self._fired and not overdue and await self._was_killed():
            async with self._hook().async_client(self.operation_name) as client:
                clock = steady_clock()
                await drive_async(_kill.cancel(now=clock(), within=SECONDS_TO_CANCEL), self, client, clock=clock)

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
            "operation %r: the trigger was stopped, and its task is %s: %s",
            self.operation_name,
            state or "cleared",
            "killed by a user" if killed else "the operation is left alone",
        )
        return killed

    async def _event(self, outcome: Outcome) -> TriggerEvent:
        """Return the event for what the wait came to."""
        from airflow_provider_lro._events import event_from_outcome

        return TriggerEvent(event_from_outcome(outcome, name=self.operation_name))

    def _first(self) -> Start:
        """Tell how the wait begins in this process."""
        return Start.RESUME

    async def _wait(self) -> Outcome:
        clock = steady_clock()
        try:
            steps = wait(self, now=clock(), start=self._first())
            hook = self._hook()
            with reported():
                async with hook.async_client(self.operation_name) as client:
                    await self._show(hook)
                    with watched(self, client.config.target, ti=self.task_instance, shared=True) as watch:
                        outcome = await drive_async(steps, self, client, clock=clock, shared=True, tally=watch.tally)
                        return watch.ends(outcome, asyncio.get_running_loop().time())
        except LroError as error:  # the connection describes no channel
            return Broken(error=error)

    async def _show(self, hook: LongRunningOperationHook) -> None:
        """Show which operation it is that is waited for; here a worker has done so."""

    def _hook(self) -> LongRunningOperationHook:
        return LongRunningOperationHook(
            self.lro_conn_id,
            endpoint=self.endpoint,
            impersonation_chain=self.impersonation_chain,
            quota_project_id=self.quota_project_id,
        )
