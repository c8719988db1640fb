"""``ManyOperationsTrigger``: waits for many operations in the triggerer, and fires one event.

Rows in Airflow's database name this class: it stays where it is. Floor 1: floor ½ is imported inside functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TriggerEvent

from airflow_provider_lro._core.names import unpack
from airflow_provider_lro._core.outcome import Broken
from airflow_provider_lro._runner.driver import steady_clock
from airflow_provider_lro._runner.group import Gathering
from airflow_provider_lro._runner.telemetry import reporter
from airflow_provider_lro.exceptions import LroError
from airflow_provider_lro.triggers import SECONDS_TO_CANCEL, LongRunningOperationTrigger

if TYPE_CHECKING:
    from airflow_provider_lro._core.outcome import Outcome

__all__ = ["ManyOperationsTrigger"]

KEPT = 48 * 1024
"""Bytes of results that are kept for the event; all of them would be the memory of a triggerer."""


@dataclass(kw_only=True, eq=False, repr=False)
class ManyOperationsTrigger(LongRunningOperationTrigger):
    """Waits for many operations as its parent does for one; each has a wait of its own, and all have one client.

    Its own arguments, beside those of a wait (whose ``operation_name`` is the first of them):

    * ``names``: the operations, packed (see ``_names.pack``).
    * ``wanted``: how many must succeed; 0 for all, and all are waited for.
    * ``require_result``: the sensor's.
    """

    names: str = ""
    wanted: int = 0
    require_result: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._gathering: Gathering | None = None

    async def _wait(self) -> Any:
        """Wait until enough are done; returns all that became of them, or why there is no channel."""
        reports = reporter()
        try:
            self._gathering = self._gather()
            channels = await self._hook().async_channels(self._gathering.names)
            await self._gathering.run(channels, start=self._first())
            self._gathering.count_ended(channels)
        except LroError as error:  # the connection describes no channel
            return Broken(error=error)
        finally:
            if reports is not None:
                reports.leave()
        return self._gathering

    async def _event(self, outcome: Outcome | Gathering) -> TriggerEvent:
        from airflow_provider_lro._messages.many_events import event_from_outcomes

        if not isinstance(outcome, Gathering):
            return await super()._event(outcome)
        started_at = steady_clock()() if self.started_at is None else self.started_at
        return TriggerEvent(event_from_outcomes(outcome.outcomes, outcome.names, started_at=started_at))

    async def _cancel(self) -> None:
        gathering = self._gathering or self._gather()
        channels = await self._hook().async_channels(gathering.names)
        await gathering.cancel(channels, within=SECONDS_TO_CANCEL)

    def _gather(self) -> Gathering:
        return Gathering(self, unpack(self.names), wanted=self.wanted, require_result=self.require_result, keep=KEPT)

    def _what(self) -> str:
        return f"many operations, of which the first is {self.operation_name!r}"
