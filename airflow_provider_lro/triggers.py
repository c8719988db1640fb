"""``LongRunningOperationTrigger``: waits for one operation in the triggerer.

Floor 1: floor ½ is imported inside functions.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_lro._drivers import drive_async, steady_clock
from airflow_provider_lro._outcome import Broken
from airflow_provider_lro._wait import Start, WaitArgs, wait
from airflow_provider_lro.exceptions import LroError
from airflow_provider_lro.hooks import LongRunningOperationHook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_provider_lro._outcome import Outcome

__all__ = ["LongRunningOperationTrigger"]


@dataclass(kw_only=True, eq=False, repr=False)
class LongRunningOperationTrigger(WaitArgs, BaseTrigger):
    """Polls an operation until it is done, by backoff and then every ``interval``, and fires one event.

    Its arguments are the fields of ``WaitArgs``; each is stored in plain text in Airflow's database, so none is a
    secret. They are checked in ``run``: a constructor that raised would stop the whole triggerer. Every start, first
    or rebuilt, resumes the wait that began at ``started_at``.
    """

    def __post_init__(self) -> None:
        BaseTrigger.__init__(self)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments; what equals its default is left out, so that older code reads it."""
        kind = type(self)
        values = {field.name: getattr(self, field.name) for field in fields(WaitArgs)}
        defaults = {field.name: field.default for field in fields(WaitArgs) if field.default is not MISSING}
        kept = {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}
        return f"{kind.__module__}.{kind.__qualname__}", kept

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event; see ``_events`` for what it holds."""
        from airflow_provider_lro._events import event_from_outcome

        # The channel is given back before the event is fired, not in cleanup(), which `airflow dags test` never calls.
        yield TriggerEvent(event_from_outcome(await self._wait(), name=self.operation_name))

    async def _wait(self) -> Outcome:
        clock = steady_clock()
        try:
            steps = wait(self, now=clock(), start=Start.RESUME)
            hook = LongRunningOperationHook(
                self.lro_conn_id,
                endpoint=self.endpoint,
                impersonation_chain=self.impersonation_chain,
                quota_project_id=self.quota_project_id,
            )
            async with hook.async_client(self.operation_name) as client:
                return await drive_async(steps, self, client, clock=clock)
        except LroError as error:  # the connection describes no channel
            return Broken(error=error)
