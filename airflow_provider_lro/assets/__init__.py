"""A trigger for asset watchers: an asset event when operations finish. Needs Airflow 3.0 or newer."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, Any

from airflow.triggers import base
from airflow.triggers.base import TriggerEvent

from airflow_provider_lro._core.args import row_of
from airflow_provider_lro._core.checks import (
    MAX_SECONDS,
    Rule,
    between,
    check_name,
    check_rules,
    is_flag,
    is_text,
    or_none,
)
from airflow_provider_lro.assets._seen import EventDeduplicator, SeenStore
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.version_compat import AIRFLOW_VERSION, asset_state_stores, triggers_have_queues

try:
    BaseEventTrigger = base.BaseEventTrigger
except AttributeError:
    raise ImportError(
        "airflow_provider_lro.assets needs the asset watchers of Airflow 3.0 or newer, and this is Airflow"
        f" {AIRFLOW_VERSION}; the rest of the provider works without them"
    ) from None

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Mapping

    from airflow_provider_lro._transport.channel import ChannelConfig
    from airflow_provider_lro.assets._seen import Finished

__all__ = ["LongRunningOperationEventTrigger"]

OUTCOMES = ("Succeeded", "Failed", "Cancelled")
MIN_LISTING_INTERVAL = 1.0
"""Seconds: more often, Airflow's triggerer does not take events."""

RULES: tuple[Rule, ...] = (
    ("filter", is_text, 'a text in UTF-8, "" for all operations'),
    ("interval", between(MIN_LISTING_INTERVAL), f"seconds, from {MIN_LISTING_INTERVAL:g} to {MAX_SECONDS:g}"),
    ("announce_existing", is_flag, "True or False"),
    ("lro_conn_id", is_text, "the id of a connection, as text"),
    *((name, or_none(is_text), "None or a text") for name in ("endpoint", "impersonation_chain", "quota_project_id")),
)

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False, repr=False)
class LongRunningOperationEventTrigger(BaseEventTrigger):
    """A trigger that fires an asset event when operations under a parent have finished; for an ``AssetWatcher``.

    The event's ``extra["payload"]["operations"]`` lists the operations that have finished since the last event, each
    with its ``name`` and ``outcome`` and, where there is one, the ``code`` of its error and its ``end_time``. On
    Airflow 3.3 or newer each operation is announced at least once: after a triggerer has died, the same operations may
    come again. All watchers of one parent in a triggerer share one listing an interval.

    The arguments are stored in plain text, so give no secret. They are checked when Airflow reads the DAG file. The
    triggerer logs later errors and tries again, without end.

    :param parent: the parent of the operations to list, such as ``projects/p/locations/l``.
    :param filter: which operations to watch, in the service's own syntax.
    :param outcomes: which of ``Succeeded``, ``Failed``, ``Cancelled`` to announce, with commas between.
    :param interval: seconds between two listings.
    :param announce_existing: also announce the operations that had finished before the parent was watched first.
    :param lro_conn_id: connection of type ``lro``.
    :param endpoint: host or host:port of the service, instead of the connection's.
    :param impersonation_chain: service account to impersonate, or several with commas between.
    :param quota_project_id: project that quota and bills go to.
    :param queue: queue of the triggerers that watch; since Airflow 3.4.
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

    queue: InitVar[str | None] = None

    def __post_init__(self, queue: str | None) -> None:
        if queue is not None and not triggers_have_queues():
            raise ValueError(f"queue={queue!r} needs Airflow 3.4 or newer, and this is {AIRFLOW_VERSION}: leave it out")
        BaseEventTrigger.__init__(self, **({} if queue is None else {"queue": queue}))

    def check(self) -> None:
        """Raise a ValueError that says which argument is wrong and what to give instead."""
        check_name(self.parent, what="parent", example="projects/p/locations/l")
        check_rules(self, RULES)
        if not set() < self._outcomes() <= {*OUTCOMES}:
            known = f"a text with one or more of {', '.join(OUTCOMES)}, with commas between"
            raise ValueError(f"outcomes={self.outcomes!r}, but it must be {known}")

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, by which Airflow tells watchers apart.

        Raises:
            ValueError: an argument is wrong. Airflow shows it as an error of the DAG file.
        """
        self.check()
        return row_of(self)

    async def run(self) -> AsyncGenerator[TriggerEvent]:
        """Watch, without end: below Airflow 3.3, and to log that an argument is wrong."""
        try:
            self.check()
        except ValueError:
            log.exception("an argument of the watcher of %r is wrong, so that nothing is watched", self.parent)
            await asyncio.Event().wait()  # a trigger that ended would be started again at once, and again
        async with aclosing(self._snapshots()) as stream, aclosing(self.filter_shared_stream(stream)) as events:
            async for event in events:
                yield event

    def shared_stream_key(self) -> Hashable | None:
        """Return the key of a stream: equal for all that list the same, as often, with the same credentials."""
        try:
            self.check()
        except ValueError:
            return None  # run() logs it
        return ("airflow_provider_lro", *self._watched(), self.interval)

    @classmethod
    def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncGenerator[Any]:
        """List, for all triggers of one key."""
        return cls(**kwargs)._snapshots()  # noqa: SLF001  (its own class)

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncGenerator[TriggerEvent]:
        """Announce those of the listed operations that this trigger has not announced yet."""
        deduplicator = EventDeduplicator(
            SeenStore(asset_state_stores(self), (*self._watched(), sorted(self._outcomes()))),
            outcomes=self._outcomes(),
            announce_existing=self.announce_existing,
            read=self._read,
            # Listings that come meanwhile wait in a queue of Airflow's, which ends the trigger when it is full. So what
            # is new in each listing must not take longer than until the next one.
            max_sleep=self.interval / 2.0,
        )
        async for finished in shared_stream:
            while operations := await self._next_event(deduplicator, finished):
                yield TriggerEvent({"parent": self.parent, "operations": operations})

    async def _next_event(
        self, deduplicator: EventDeduplicator, finished: Mapping[bytes, Finished]
    ) -> list[dict[str, Any]]:
        try:
            return await deduplicator.next_event(finished)
        except Exception:
            # Of Airflow's store, mostly, while its database is away. A trigger that ended would be started again at
            # once, and again; nothing is lost by another try after the next listing.
            log.exception("operations under %r: what has finished cannot be announced now", self.parent)
            return []

    def _snapshots(self) -> AsyncGenerator[Mapping[bytes, Finished]]:
        from airflow_provider_lro.assets._stream import snapshots

        return snapshots(self.parent, self.filter, self.interval, self._configure)

    async def _configure(self) -> ChannelConfig:
        (config,) = await LongRunningOperationHook.of(self).async_channels([self.parent], is_stored=False)
        return config

    async def _read(self, name: str) -> Finished | None:
        from airflow_provider_lro._transport.client import AsyncOperationsClient
        from airflow_provider_lro.assets._stream import read_finished

        async with AsyncOperationsClient(await self._configure()) as client:
            return await read_finished(client, name)

    def _watched(self) -> tuple[str | None, ...]:
        """Return the arguments of the listing: where, which operations, and with whose credentials."""
        who = (self.lro_conn_id, self.endpoint, self.impersonation_chain, self.quota_project_id)
        return (self.parent, self.filter, *who)

    def _outcomes(self) -> frozenset[str]:
        given: object = self.outcomes
        parts = given.split(",") if isinstance(given, str) else []
        return frozenset(part.strip() for part in parts if part.strip())
