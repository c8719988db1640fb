"""The finished operations under a parent, listing after listing, for as long as somebody listens. Floor ½."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_provider_lro._core.outcome import Running
from airflow_provider_lro._messages.encoding import read
from airflow_provider_lro._messages.times import ENDED, time_in
from airflow_provider_lro._transport.limiter import pace_of
from airflow_provider_lro._transport.listing import Watched
from airflow_provider_lro.assets._seen import Finished, digest_of
from airflow_provider_lro.exceptions import LroError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from google.longrunning import operations_proto_pb2 as pb

    from airflow_provider_lro._transport.channel import ChannelConfig
    from airflow_provider_lro._transport.client import AsyncOperationsClient

__all__ = ["finished_one", "snapshots"]

RETRY = 60.0
"""Seconds, at least, until a connection that describes no channel is looked at again."""
LONGEST_NAME = 4096
"""Characters of a name: as JSON, twelve bytes each at most, it fits into an event."""

log = logging.getLogger(__name__)


async def snapshots(
    parent: str, filter: str, interval: float, configure: Callable[[], Awaitable[ChannelConfig]]
) -> AsyncGenerator[Mapping[bytes, Finished]]:
    """Give all finished operations that a listing has, by their digests, once an interval, without end.

    Nothing ends it: Airflow would start the trigger again at once, and again. What fails is logged, once, and tried
    again in due time: after the interval, but after a refusal, and what nobody has foreseen, not before a minute.

    Args:
        parent: as in ``ListOperations``.
        filter: the same.
        interval: seconds between two listings.
        configure: tells the channel; asked before each listing, as connections change in the life of a watcher.
    """
    watch: Watched | None = None
    known: Mapping[bytes, Finished] = {}
    complaint = _Complaint(parent)
    try:
        while True:
            asked = False
            try:
                config = await configure()
                if watch is None or watch.config != config:
                    if watch is not None:
                        watch.leave()
                    watch = Watched(config, parent, filter, interval)
                asked = True
                listed = await watch.next()
                named = [operation for operation in listed if _is_name(operation.name)]
                complaint.left_out(len(listed) - len(named))
                known = _finished(named, known)
            except Exception as error:  # noqa: BLE001
                complaint.about(error)
                if not asked or not isinstance(error, LroError):  # else the next listing comes in due time
                    await asyncio.sleep(max(interval, RETRY))
            else:
                complaint.over()
                yield known
    finally:
        if watch is not None:
            watch.leave()


class _Complaint:
    """Says what is wrong once, however often it is tried."""

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._said = ""
        self._left_out = 0

    def left_out(self, number: int) -> None:
        """Say so when there are more finished operations than before that cannot be announced."""
        if number > self._left_out:
            log.warning(
                "%d finished operations under %r are not announced: their names are blank, or longer than %d"
                " characters",
                number,
                self._parent,
                LONGEST_NAME,
            )
        self._left_out = number

    def about(self, error: Exception) -> None:
        said = f"{type(error).__name__} {getattr(error, 'code', '')}"
        if said != self._said:
            surprise = None if isinstance(error, LroError) else error
            log.error("operations under %r cannot be watched now: %s", self._parent, error, exc_info=surprise)
        self._said = said

    def over(self) -> None:
        if self._said:
            log.info("operations under %r are watched again", self._parent)
        self._said = ""


def _finished(operations: list[pb.Operation], known: Mapping[bytes, Finished]) -> dict[bytes, Finished]:
    """Read what was not read from the listing before."""
    found = {}
    for operation in operations:
        digest = digest_of(operation.name)
        found[digest] = known.get(digest) or _read(operation, operation.name, listed=True)
    return found


def _is_name(name: str) -> bool:
    return bool(name.strip()) and len(name) <= LONGEST_NAME


def _read(operation: pb.Operation, name: str, *, listed: bool) -> Finished:
    # Some services list less of an operation than they give of it singly.
    if listed and operation.WhichOneof("result") is None:
        return Finished(name=name, outcome=None)
    code = operation.error.code if operation.WhichOneof("result") == "error" else None
    return Finished(name=name, outcome=type(read(operation)).__name__, code=code, end_time=_end_time(operation))


def _end_time(operation: pb.Operation) -> str | None:
    """Return the end that the metadata tells, as text; what a service calls so may be no time, and of any length."""
    moment = time_in(operation, ENDED)
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


async def finished_one(client: AsyncOperationsClient, name: str) -> Finished | None:
    """Return a finished operation, asked for singly; None if that is contradicted.

    Raises:
        LroError: it cannot be read.
    """
    pace = pace_of(client.config.target)
    await pace.turn()
    try:
        operation = await client.get_operation(name)
    except LroError as error:
        pace.heard(error)
        raise
    pace.heard(None)
    return None if isinstance(read(operation), Running) else _read(operation, name, listed=False)
