"""Snapshots of the finished operations under a parent, listing after listing."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_provider_lro._core.checks import MAX_NAME, is_name
from airflow_provider_lro._core.wait import outcome_of
from airflow_provider_lro._messages.metadata import ENDED, time_in
from airflow_provider_lro._transport.client import AsyncOperationsClient
from airflow_provider_lro._transport.limiter import Slices, limiter_of
from airflow_provider_lro._transport.listing import Subscription
from airflow_provider_lro.assets._seen import Finished, digest_of
from airflow_provider_lro.exceptions import LroError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping

    from airflow_provider_lro._core.state import OperationState
    from airflow_provider_lro._transport.channel import ChannelConfig

MIN_PAUSE = 60.0
"""Seconds, at least, until a connection that cannot be used is read again."""

log = logging.getLogger(__name__)


async def snapshots(
    parent: str, filter: str, interval: float, configure: Callable[[], Awaitable[ChannelConfig]]
) -> AsyncGenerator[Mapping[bytes, Finished]]:
    """Yield all finished operations that a listing has, by their digests, once an interval, without end.

    Nothing ends it: Airflow would start the trigger again at once, and again. A failure is logged once and tried again:
    after the interval, but not before a minute if the connection cannot be used or the error is a surprise.

    Args:
        parent: as in ``ListOperations``.
        filter: the same.
        interval: seconds between two listings.
        configure: returns the channel to use; called before each listing, as a connection may change.
    """
    subscription: Subscription | None = None
    known: Mapping[bytes, Finished] = {}
    problems = _Problems(parent)
    try:
        while True:
            listing = False
            try:
                config = await configure()
                if subscription is None or subscription.config != config:
                    if subscription is not None:
                        subscription.unsubscribe()
                    subscription = Subscription(AsyncOperationsClient, config, parent, interval=interval, filter=filter)
                listing = True
                known, left_out = await _finished(await subscription.next(), known)
            except Exception as error:  # noqa: BLE001
                problems.log_error(error)
                if not listing or not isinstance(error, LroError):  # else the next listing comes in due time
                    await asyncio.sleep(max(interval, MIN_PAUSE))
            else:
                problems.log_error(None)
                problems.log_left_out(left_out)
                yield known
    finally:
        if subscription is not None:
            subscription.unsubscribe()


async def _finished(
    listed: Iterable[OperationState], known: Mapping[bytes, Finished]
) -> tuple[dict[bytes, Finished], int]:
    """Return the listed operations, by their digests, and how many have a name that cannot be used."""
    found: dict[bytes, Finished] = {}
    left_out, slices = 0, Slices()
    for each in listed:
        await slices.next()
        if not is_name(each.name):
            left_out += 1
            continue
        digest = digest_of(each.name)
        found[digest] = known.get(digest) or _listed(each)
    return found, left_out


class _Problems:
    """A log of what is wrong, each problem once, however often it is met."""

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._error = ""
        self._left_out = 0

    def log_error(self, error: Exception | None) -> None:
        met = f"{type(error).__name__} {getattr(error, 'code', '')}" if error else ""
        if met != self._error and error is None:
            log.info("operations under %r are watched again", self._parent)
        elif met != self._error:
            surprise = None if isinstance(error, LroError) else error
            log.error("operations under %r cannot be watched now: %s", self._parent, error, exc_info=surprise)
        self._error = met

    def log_left_out(self, number: int) -> None:
        if number > self._left_out:
            text = "%d finished operations under %r are not announced: their names are blank, or longer than %d letters"
            log.warning(text, number, self._parent, MAX_NAME)
        self._left_out = number


async def read_finished(client: AsyncOperationsClient, name: str) -> Finished | None:
    """Return a finished operation as the service has it; None if the service says that it is still running.

    Raises:
        LroError: it cannot be read.
    """
    limiter = limiter_of(client.config)
    await limiter.acquire()
    try:
        operation = await client.get_operation(name)
    except LroError as error:
        limiter.record(error)
        raise
    limiter.record(None)
    return _read(operation, name) if operation.done else None


def _listed(operation: OperationState) -> Finished:
    # Some services list less of an operation than they return when it is asked for by name.
    if not operation.has_result:
        return Finished(name=operation.name, outcome=None)
    return _read(operation, operation.name)


def _read(operation: OperationState, name: str) -> Finished:
    # A service may call something "end_time" that is not a time, of any length: only a time is passed on.
    moment = time_in(operation, ENDED)
    end_time = None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
    return Finished(name=name, outcome=type(outcome_of(operation)).__name__, code=operation.code, end_time=end_time)
