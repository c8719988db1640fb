"""One listing for many waits: ``ListOperations`` once an interval, instead of a poll for each. Floor ½."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from airflow_provider_lro._client import AsyncOperationsClient
from airflow_provider_lro._pacing import pace_of, pause
from airflow_provider_lro._schedule import Window
from airflow_provider_lro._wait import is_transient
from airflow_provider_lro.exceptions import Code, LroError

if TYPE_CHECKING:
    from google.longrunning import operations_proto_pb2 as pb

    from airflow_provider_lro._channel import ChannelConfig

__all__ = ["Listed"]

PAGE = 1000
"""Operations a page, for a server that lets us choose: each page is a call."""
JITTER = 0.1
"""Share of an interval that may be left out between two listings."""

log = logging.getLogger(__name__)


class _Lister:
    """Lists the operations under one parent, for as long as there are waits that want to know of theirs."""

    def __init__(self, config: ChannelConfig, parent: str) -> None:
        self._config = config
        self._parent = parent
        self._task: asyncio.Task[None] | None = None
        self.waits: dict[Listed, None] = {}
        self._page: int | None = PAGE
        self.refused = False

    def join(self, wait: Listed) -> None:
        self.waits[wait] = None
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def leave(self, wait: Listed) -> None:
        self.waits.pop(wait, None)
        if not self.waits and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        async with AsyncOperationsClient(self._config) as client:
            while not self.refused:
                joined = list(self.waits)
                found: dict[str, pb.Operation] = {}
                failed: LroError | None = None
                try:
                    found = await self._list(client, {wait.name for wait in joined})
                except LroError as error:
                    failed = error
                    self.refused = not is_transient(error)
                if self.refused:
                    log.warning("operations under %r cannot be listed, so each is polled: %s", self._parent, failed)
                for wait in joined:
                    wait.tell(found.get(wait.name), failed)
                interval = min((wait.interval for wait in self.waits), default=0.0)
                await pause(Window(shortest=interval * (1.0 - JITTER), longest=interval))

    async def _list(self, client: AsyncOperationsClient, wanted: set[str]) -> dict[str, pb.Operation]:
        pace = pace_of(self._config.target)
        await pace.turn()
        try:
            pages = client.list_operations(self._parent, page_size=self._page)
            found = {operation.name: operation async for operation in pages if operation.name in wanted}
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


_listers: dict[tuple[asyncio.AbstractEventLoop, ChannelConfig, str], _Lister] = {}


class Listed:
    """What one wait hears from the listing of its parent."""

    def __init__(self, config: ChannelConfig, name: str, parent: str, interval: float) -> None:
        self.name = name
        self.interval = interval
        self._key = (asyncio.get_running_loop(), config, parent)
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
            if not self._lister.waits and not self._lister.refused:  # that it is refused is remembered
                _listers.pop(self._key, None)
            self._lister = None

    def _join(self) -> None:
        lister = _listers.get(self._key)
        if lister is None:
            for stale in [key for key in _listers if key[0].is_closed()]:
                del _listers[stale]
            lister = _listers[self._key] = _Lister(self._key[1], self._key[2])
        if not lister.refused:
            lister.join(self)
        self._lister = lister
