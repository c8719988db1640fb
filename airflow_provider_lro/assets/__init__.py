"""``LongRunningOperationEventTrigger``: an asset event when operations finish. Needs Airflow 3.0 or newer.

Floor 3: floor ½ is imported inside functions.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.triggers import base
from airflow.triggers.base import TriggerEvent

from airflow_provider_lro._core.args import row_of
from airflow_provider_lro._core.checks import check_name, is_number
from airflow_provider_lro._core.schedule import MAXIMUM_INTERVAL
from airflow_provider_lro.assets._announcing import Announcer, AssetMemory
from airflow_provider_lro.assets._seen import key_of
from airflow_provider_lro.hooks import LongRunningOperationHook

try:
    BaseEventTrigger = base.BaseEventTrigger
except AttributeError:
    from airflow import __version__

    raise ImportError(
        "airflow_provider_lro.assets needs the asset watchers of Airflow 3.0 or newer, and this is Airflow"
        f" {__version__}; the rest of the provider works without them"
    ) from None

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Mapping

    from airflow_provider_lro._transport.channel import ChannelConfig
    from airflow_provider_lro.assets._seen import Finished

__all__ = ["LongRunningOperationEventTrigger"]

OUTCOMES = ("Succeeded", "Failed", "Cancelled")
SHORTEST_INTERVAL = 1.0
"""Seconds: Airflow's triggerer takes events once a second."""
LONGEST_SILENCE = 3600.0
"""Seconds between two reminders of a wrong argument."""

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False, repr=False)
class LongRunningOperationEventTrigger(BaseEventTrigger):
    """Fires an asset event when operations under a parent have finished; for an ``AssetWatcher``.

    The event's ``extra["payload"]["operations"]`` lists what has finished since the event before: ``name``,
    ``outcome``, and, where there is one, the ``code`` of the error and an ``end_time``. All watchers of one parent in
    a triggerer share one listing an interval.

    The arguments are stored in plain text, so none is a secret. They are checked when Airflow reads the DAG file; what
    goes wrong afterwards is logged by the triggerer and tried again, without end.

    :param parent: what to list: ``projects/p/locations/l``, say.
    :param filter: of the service's own syntax; which operations to watch.
    :param outcomes: which of ``Succeeded``, ``Failed``, ``Cancelled`` to announce, with commas between.
    :param interval: seconds between two listings.
    :param announce_existing: announce also what has finished before the parent was watched for the first time.
    :param lro_conn_id: connection of type ``lro``.
    :param endpoint: host or host:port of the service, instead of the connection's.
    :param impersonation_chain: service account to impersonate, or several with commas between.
    :param quota_project_id: project that quota and bills go to.
    """

    parent: str
    filter: str = ""
    outcomes: str = ",".join(OUTCOMES)
    interval: float = 60.0
    announce_existing: bool = False
    lro_conn_id: str = "lro_default"
    endpoint: str | None = None
    impersonation_chain: str | None = None
    quota_project_id: str | None = None

    def __post_init__(self) -> None:
        BaseEventTrigger.__init__(self)

    def check(self) -> None:
        """Raise ValueError, saying which value is wrong and what would do."""
        check_name(self.parent, what="parent", example="projects/p/locations/l")
        if not isinstance(self.filter, str):
            raise ValueError(f"filter must be text, not {self.filter!r}")  # noqa: TRY004
        if not is_number(self.interval, least=SHORTEST_INTERVAL, most=MAXIMUM_INTERVAL):
            raise ValueError(
                f"interval must be a number of seconds from {SHORTEST_INTERVAL:g} to {MAXIMUM_INTERVAL:g}, not"
                f" {self.interval!r}"
            )
        if not isinstance(self.announce_existing, bool):
            raise ValueError(f"announce_existing must be True or False, not {self.announce_existing!r}")  # noqa: TRY004
        for name in ("lro_conn_id", "endpoint", "impersonation_chain", "quota_project_id"):
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name == "lro_conn_id"):
                raise ValueError(f"{name} must be text, not {value!r}")
        self._outcomes()

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, by which Airflow tells watchers apart.

        Raises:
            ValueError: an argument is wrong. Airflow shows it as an error of the DAG file.
        """
        self.check()
        return row_of(self)

    async def run(self) -> AsyncGenerator[TriggerEvent]:
        """Watch, without end: below Airflow 3.3, and to say what is wrong with an argument."""
        while True:
            try:
                self.check()
            except ValueError:
                log.exception("asset watcher: an argument is wrong, and nothing is watched")
                await asyncio.sleep(LONGEST_SILENCE)
            else:
                break
        async with aclosing(self._snapshots()) as stream, aclosing(self.filter_shared_stream(stream)) as events:
            async for event in events:
                yield event

    def shared_stream_key(self) -> Hashable | None:
        """Tell who shares a stream: all that list the same, as often, with the same credentials."""
        try:
            self.check()
        except ValueError:
            return None  # run() says so
        return ("airflow_provider_lro", *self._watched(), self.interval)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncGenerator[Any]:
        """List, for all triggers of one key."""
        async with aclosing(cls(**kwargs)._snapshots()) as stream:  # noqa: SLF001  (its own class)
            async for finished in stream:
                yield finished

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncGenerator[TriggerEvent]:
        """Announce, of what is listed as finished, what this trigger has not announced yet."""
        loop = asyncio.get_running_loop()
        announcer = Announcer(
            self._memory(),
            outcomes=self._outcomes(),
            existing=self.announce_existing,
            read=self._read,
            clock=loop.time,
            sleep=asyncio.sleep,
        )
        async for finished in shared_stream:
            while operations := await self._next(announcer, finished):
                yield TriggerEvent({"parent": self.parent, "watch": self._key(), "operations": operations})

    async def _next(self, announcer: Announcer, finished: Mapping[bytes, Finished]) -> list[dict[str, Any]]:
        try:
            return await announcer.next(finished)
        except Exception:
            # Of Airflow's store, mostly, while its database is away. A trigger that ended would be started again at
            # once, and again; nothing is lost by another try after the next listing.
            log.exception("operations under %r: what has finished cannot be announced now", self.parent)
            return []

    def _snapshots(self) -> AsyncGenerator[Mapping[bytes, Finished]]:
        from airflow_provider_lro.assets._stream import snapshots

        return snapshots(self.parent, self.filter, self.interval, self._configure)

    async def _configure(self) -> ChannelConfig:
        async with self._hook().async_client(self.parent) as client:
            return client.config

    async def _read(self, name: str) -> Finished | None:
        from airflow_provider_lro.assets._stream import finished_one

        async with self._hook().async_client(self.parent) as client:
            return await finished_one(client, name)

    def _memory(self) -> AssetMemory:
        """Return what outlives this process: since Airflow 3.3, the stores of the assets that are watched."""
        accessors = getattr(self, "asset_state_store", None)
        if accessors is None:
            return AssetMemory([], self._key())
        # One trigger may serve several assets, and is not told which: the accessors' own methods refuse that.
        each = [*getattr(accessors, "_by_name", {}).values(), *getattr(accessors, "_by_uri", {}).values()]
        return AssetMemory(each or [accessors], self._key())

    def _key(self) -> str:
        return key_of(*self._watched(), sorted(self._outcomes()))

    def _watched(self) -> tuple[str | None, ...]:
        """What is listed, and with whose eyes."""
        return (
            self.parent,
            self.filter,
            self.lro_conn_id,
            self.endpoint,
            self.impersonation_chain,
            self.quota_project_id,
        )

    def _outcomes(self) -> frozenset[str]:
        given: object = self.outcomes
        parts = given.split(",") if isinstance(given, str) else []
        outcomes = frozenset(part.strip() for part in parts if part.strip())
        if not outcomes or not outcomes <= set(OUTCOMES):
            raise ValueError(f"outcomes must be text, one or more of {', '.join(OUTCOMES)}, not {self.outcomes!r}")
        return outcomes

    def _hook(self) -> LongRunningOperationHook:
        return LongRunningOperationHook.of(self)
