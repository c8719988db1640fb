"""One listing for all who want to know: ``ListOperations`` once an interval, not a poll for each wait. Floor ½."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeAlias

from airflow_provider_lro._core.loops import forget_closed
from airflow_provider_lro._core.schedule import Window
from airflow_provider_lro._core.wait import is_transient
from airflow_provider_lro._transport.client import AsyncOperationsClient
from airflow_provider_lro._transport.limiter import pace_of, pause
from airflow_provider_lro.exceptions import Code, LroError

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.longrunning import operations_proto_pb2 as pb

    from airflow_provider_lro._transport.channel import ChannelConfig

__all__ = ["Listed", "Watched"]

PAGE = 1000
"""Operations a page, for a server that lets us choose: each page is a call."""
JITTER = 0.1
"""Share of an interval that may be left out between two listings."""
MARGIN = 0.05
"""Share that is left out always: a listing that takes a little longer than the one before is not to be too late for
all waits, which would then poll singly."""
RETRY = 300.0
"""Seconds, at least, until what is refused is listed again for those who watch a parent; waits poll singly then."""

log = logging.getLogger(__name__)


class _Lister:
    """Lists the operations under one parent, for as long as somebody wants to know of them."""

    def __init__(self, config: ChannelConfig, parent: str, filter: str = "") -> None:
        self._config = config
        self._parent = parent
        self._filter = filter
        self._task: asyncio.Task[None] | None = None
        self._interval = 0.0
        self._hurry = asyncio.Event()
        self.waits: dict[Listed, None] = {}
        self.watches: dict[Watched, None] = {}
        self._page: int | None = PAGE
        self.refused = False

    def join(self, wait: Listed) -> None:
        self.waits[wait] = None
        if wait.interval < self._interval:
            self._hurry.set()
        self._start()

    def watch(self, watch: Watched) -> None:
        if watch not in self.watches:
            self.watches[watch] = None
            self._hurry.set()
        self._start()

    def leave(self, wait: Listed) -> None:
        self.waits.pop(wait, None)
        self._end_if_idle()

    def unwatch(self, watch: Watched) -> None:
        self.watches.pop(watch, None)
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self.idle and self._task is not None:
            self._task.cancel()
            self._task = None

    @property
    def idle(self) -> bool:
        """Whether nobody wants to know."""
        return not self.waits and not self.watches

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Whatever surprise has ended the listing, those who watch must hear of it; waits poll singly."""
        if not task.cancelled() and (surprise := task.exception()) is not None:
            log.error("the listing of operations under %r has ended", self._parent, exc_info=surprise)
            for watch in self.watches:
                watch.tell([], surprise)

    async def _run(self) -> None:
        async with AsyncOperationsClient(self._config) as client:
            now = asyncio.get_running_loop().time
            while not self.refused or self.watches:
                began = now()
                self._hurry.clear()
                await self._once(client)
                await self._pause(now() - began)

    async def _once(self, client: AsyncOperationsClient) -> None:
        """List, and tell all; what was found is not kept through the pause, but by whoever was told of it."""
        joined, watching = list(self.waits), list(self.watches)
        found: dict[str, pb.Operation] = {}
        failed: LroError | None = None
        try:
            found = await self._list(client, _wanted({wait.name for wait in joined}, finished=bool(watching)))
        except LroError as error:
            failed = error.with_traceback(None)  # kept by those who are told, and with it the frames of the call
        if failed is None:
            self.refused = False
        elif not is_transient(failed):
            if joined and not self.refused:
                log.warning("operations under %r cannot be listed, so each is polled: %s", self._parent, failed)
            self.refused = True
        for wait in joined:
            wait.tell(found.get(wait.name), failed)
        finished = [operation for operation in found.values() if operation.done]
        for watch in watching:
            watch.tell(finished, failed)

    async def _pause(self, took: float) -> None:
        """Pause until the next listing, so that an interval goes from one's beginning to that of the next."""
        if self.refused and not self.watches:
            return
        intervals = [wait.interval for wait in self.waits] + [watch.interval for watch in self.watches]
        interval = min(intervals, default=0.0)
        if self.refused:
            interval = max(interval, RETRY)
        self._interval = interval
        window = Window(shortest=interval * (1.0 - JITTER), longest=interval * (1.0 - MARGIN)).earlier(took)
        pausing = asyncio.ensure_future(pause(window))
        hurry = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait({pausing, hurry}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pausing.cancel()
            hurry.cancel()

    async def _list(
        self, client: AsyncOperationsClient, wanted: Callable[[pb.Operation], bool]
    ) -> dict[str, pb.Operation]:
        pace = pace_of(self._config.target)
        await pace.turn()
        try:
            pages = client.list_operations(self._parent, self._filter, page_size=self._page)
            found = {operation.name: operation async for operation in pages if wanted(operation)}
        except LroError as error:
            pace.counts.lists += 1
            pace.counts.failed(error)
            pace.heard(error)
            if error.code == Code.INVALID_ARGUMENT and self._page is not None:
                self._page = None  # one that is too large, perhaps
                return await self._list(client, wanted)
            raise
        pace.counts.lists += 1
        pace.heard(None)
        return found


def _wanted(names: set[str], *, finished: bool) -> Callable[[pb.Operation], bool]:
    return lambda operation: (finished and operation.done) or operation.name in names


_Key: TypeAlias = "tuple[asyncio.AbstractEventLoop, ChannelConfig, str, str]"
_listers: dict[_Key, _Lister] = {}


def _lister_of(key: _Key) -> _Lister:
    lister = _listers.get(key)
    if lister is None:
        forget_closed(_listers)
        lister = _listers[key] = _Lister(*key[1:])
    return lister


def _left(key: _Key, lister: _Lister) -> None:
    if lister.idle and not lister.refused and _listers.get(key) is lister:  # that it is refused is remembered
        del _listers[key]


class Listed:
    """What one wait hears from the listing of its parent."""

    def __init__(self, config: ChannelConfig, name: str, parent: str, interval: float) -> None:
        self.name = name
        self.interval = interval
        self._key: _Key = (asyncio.get_running_loop(), config, parent, "")
        self._lister: _Lister | None = None
        self._told = asyncio.Event()
        self._found: pb.Operation | None = None
        self._failed: LroError | None = None

    def tell(self, found: pb.Operation | None, failed: LroError | None) -> None:
        """Hear of a listing, and wake the wait."""
        self._found, self._failed = found, failed
        self._told.set()

    async def pause(self, window: Window) -> None:
        """Sleep until the next listing, but not beyond the window by more than a listing may take."""
        if self._lister is None:
            self._join()
        if self._lister is None or self._lister.refused:
            await pause(window)
            return
        try:
            async with asyncio.timeout(window.longest):
                await self._told.wait()
        except TimeoutError:
            return

    def look(self) -> pb.Operation | None:
        """Return the operation as the last listing has it; None where it is to be asked for singly.

        What a listing calls done is asked for, too: some list less of an operation than they give of it singly.

        Raises:
            LroError: the listing has failed, and may succeed the next time.
        """
        self._told.clear()
        found, failed = self._found, self._failed
        self._found = self._failed = None
        if failed is not None and self._lister is not None and not self._lister.refused:
            raise failed
        return None if found is None or found.done else found

    def leave(self) -> None:
        """Want to know no more."""
        if self._lister is not None:
            self._lister.leave(self)
            _left(self._key, self._lister)
            self._lister = None

    def _join(self) -> None:
        self._lister = _lister_of(self._key)
        if not self._lister.refused:
            self._lister.join(self)


class Watched:
    """What one watcher hears from the listing of a parent: all that is finished."""

    def __init__(self, config: ChannelConfig, parent: str, filter: str, interval: float) -> None:
        self.config = config
        self.interval = interval
        self._key: _Key = (asyncio.get_running_loop(), config, parent, filter)
        self._lister: _Lister | None = None
        self._told = asyncio.Event()
        self._finished: list[pb.Operation] = []
        self._failed: BaseException | None = None

    def tell(self, finished: list[pb.Operation], failed: BaseException | None) -> None:
        """Hear of a listing; one that was not asked for before the next has come is forgotten."""
        self._finished, self._failed = finished, failed
        self._told.set()

    async def next(self) -> list[pb.Operation]:
        """Return the finished operations of the next listing, as it has them.

        Raises:
            LroError: it has failed; the next comes in due time.
        """
        if self._lister is None:
            self._lister = _lister_of(self._key)
        self._lister.watch(self)
        await self._told.wait()
        self._told.clear()
        finished, failed = self._finished, self._failed
        self._finished, self._failed = [], None
        if failed is not None:
            raise failed
        return finished

    def leave(self) -> None:
        """Want to know no more."""
        if self._lister is not None:
            self._lister.unwatch(self)
            _left(self._key, self._lister)
            self._lister = None
