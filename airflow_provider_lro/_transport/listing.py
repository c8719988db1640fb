"""Shared listings: one ``ListOperations`` an interval for all who wait under a parent, instead of a poll for each."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_provider_lro._core.schedule import Window
from airflow_provider_lro._core.state import size_of
from airflow_provider_lro._messages.protocol import Listing
from airflow_provider_lro._transport.limiter import MAX_SLOW_DOWN, Slices, forget_closed, limiter_of, pause
from airflow_provider_lro.exceptions import Code, LroError, RpcError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_lro._core.state import OperationState
    from airflow_provider_lro._messages.protocol import Call, Page
    from airflow_provider_lro._transport.channel import ChannelConfig

PAGE_SIZE = 1000
"""Operations a page, for a server that lets us choose: each page is a call. A tenth of it where a page does not fit."""
JITTER = 0.1
"""Share of an interval that may be left out between two listings."""
MARGIN = 0.05
"""Share that is left out always: a listing that takes a little longer than the one before must not be too late for all
waits, which would then poll by themselves."""
RETRY_REFUSED = 300.0
"""Seconds, at least, until a refused listing is tried again for watchers; waits poll by themselves then."""
MAX_LISTING_SIZE = 128 * 1024 * 1024
"""Bytes that are kept of one listing: the operations that are waited for, or, for a watcher, all that are finished."""
OVERHEAD = 1024
"""Bytes of an operation in memory besides its name and metadata, roughly."""

log = logging.getLogger(__name__)

_Key: TypeAlias = "tuple[asyncio.AbstractEventLoop, ChannelConfig, str, str]"


class SharedListing:
    """Lists the operations under one parent, for as long as there are subscriptions."""

    def __init__(
        self, make_client: Callable[[ChannelConfig], Any], config: ChannelConfig, parent: str, filter: str
    ) -> None:
        self._make_client = make_client
        self._config = config.for_listings()
        self._parent = parent
        self._filter = filter
        self._task: asyncio.Task[None] | None = None
        self._interval = 0.0
        self._hurry = asyncio.Event()
        self._page_size: int | None = PAGE_SIZE
        self._limiter = limiter_of(config)
        self.subscriptions: dict[Subscription, None] = {}
        self.refused = False

    def add(self, subscription: Subscription) -> None:
        """Add a subscription; one that wants to know earlier than the others hurries the next listing."""
        if subscription not in self.subscriptions:
            self.subscriptions[subscription] = None
            if subscription.is_watcher or subscription.interval < self._interval:
                self._hurry.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._ended)

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscription; the last one ends the listing."""
        self.subscriptions.pop(subscription, None)
        if not self.subscriptions and self._task is not None:
            self._task.cancel()
            self._task = None

    def _watchers(self) -> list[Subscription]:
        return [each for each in self.subscriptions if each.is_watcher]

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Tell the watchers of a surprise that has ended the listing; waits poll by themselves."""
        if not task.cancelled() and (surprise := task.exception()) is not None:
            log.error("the listing of operations under %r has ended", self._parent, exc_info=surprise)
            for watcher in self._watchers():
                watcher.notify({}, surprise)

    async def _run(self) -> None:
        async with self._make_client(self._config) as client:
            now = asyncio.get_running_loop().time
            while not self.refused or self._watchers():
                began = now()
                self._hurry.clear()
                await self._once(client)
                await self._pause(now() - began)

    async def _once(self, client: Any) -> None:
        """List, and notify all; only those who were notified keep what was found."""
        notified = list(self.subscriptions)
        names = {each.name for each in notified}
        finished = any(each.is_watcher for each in notified)
        found: dict[str, OperationState] = {}
        failed: LroError | None = None
        if self._page_size is not None:  # what did not fit may be gone
            self._page_size = PAGE_SIZE
        try:
            found = await self._list(client, lambda name, done: (finished and done) or name in names)
        except LroError as error:
            failed = error.with_traceback(None)  # else it keeps the frames of the call
        if failed is None:
            self.refused = False
        elif not failed.is_transient:
            if not self.refused and not all(each.is_watcher for each in notified):
                log.warning("operations under %r cannot be listed, so each is polled: %s", self._parent, failed)
            self.refused = True
        for each in notified:
            each.notify(found, failed)
            await asyncio.sleep(0)  # one wakes after another: all at once would hold up everything else

    async def _pause(self, took: float) -> None:
        """Pause until the next listing, so that an interval goes from the beginning of one to that of the next."""
        if self.refused and not self._watchers():
            return
        interval = min((each.interval for each in self.subscriptions), default=0.0)
        if self.refused:
            interval = max(interval, RETRY_REFUSED)
        self._interval = interval
        window = Window(shortest=interval * (1.0 - JITTER), longest=interval * (1.0 - MARGIN)).earlier(took)
        pausing = asyncio.ensure_future(pause(window))
        hurry = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait({pausing, hurry}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pausing.cancel()
            hurry.cancel()

    async def _list(self, client: Any, is_wanted: Callable[[str, bool], bool]) -> dict[str, OperationState]:
        try:
            return await self._read(client, is_wanted)
        except LroError as error:
            self._limiter.stats.failed(error)
            self._limiter.record(error)
            if error.code == Code.INVALID_ARGUMENT and self._page_size is not None:
                self._page_size = None  # one that is too large, perhaps
                return await self._list(client, is_wanted)
            if error.too_large and self._page_size is not None and self._page_size > 1:
                self._page_size //= 10
                return await self._list(client, is_wanted)
            raise

    async def _read(self, client: Any, is_wanted: Callable[[str, bool], bool]) -> dict[str, OperationState]:
        listing = Listing(self._parent, self._filter, self._page_size, max_pages=self._config.max_triggerer_pages)
        token: str | None = listing.restart()
        found: dict[str, OperationState] = {}
        kept, slices = 0, Slices()
        while token is not None:
            page = await self._page(client, listing.call(token))
            token = listing.next_token(page)
            for state in page.summaries(is_wanted):
                await slices.next()
                if state is None:
                    continue
                found[state.name] = state
                kept += OVERHEAD + len(state.name) + size_of(state.metadata)
                if kept > MAX_LISTING_SIZE:
                    raise self._too_large()
        return found

    async def _page(self, client: Any, call: Call) -> Page:
        interval = min((each.interval for each in self.subscriptions), default=0.0)
        await self._limiter.acquire(max_slow_down=MAX_SLOW_DOWN * interval)
        self._limiter.stats.lists += 1
        page: Page = await client.send(call, {})
        self._limiter.record(None)
        return page

    def _too_large(self) -> RpcError:
        text = f"the listed operations take more than the {MAX_LISTING_SIZE >> 20} MiB that a triggerer keeps of a"
        text += f" listing: give a filter that fewer pass [ListOperations of {self._parent!r}]"
        error = RpcError(text, code=Code.INTERNAL)
        error.permanent = True
        return error


_listings: dict[_Key, SharedListing] = {}


class Subscription:
    """One wait's, or one watcher's, share in the listing of a parent.

    ``name``: the operation that is waited for; empty for a watcher, who wants all that are finished. ``interval``:
    seconds between two listings, at most.
    """

    __slots__ = ("_arrived", "_failed", "_found", "_key", "_listing", "_make_client", "config", "interval", "name")

    def __init__(
        self,
        make_client: Callable[[ChannelConfig], Any],
        config: ChannelConfig,
        parent: str,
        *,
        interval: float,
        name: str = "",
        filter: str = "",
    ) -> None:
        self.config = config
        self.name = name
        self.interval = interval
        self._make_client = make_client
        self._key: _Key = (asyncio.get_running_loop(), config, parent, filter)
        self._listing: SharedListing | None = None
        self._arrived = asyncio.Event()
        self._found: list[OperationState] = []
        self._failed: BaseException | None = None

    @property
    def is_watcher(self) -> bool:
        """Whether all finished operations are wanted."""
        return not self.name

    def notify(self, found: dict[str, OperationState], failed: BaseException | None) -> None:
        """Keep a listing until the next one, and wake the coroutine that waits for it."""
        if self.is_watcher:
            self._found = [state for state in found.values() if state.done]
        else:
            self._found = [found[self.name]] if self.name in found else []
        self._failed = failed
        self._arrived.set()

    async def pause(self, window: Window) -> None:
        """Sleep until the next listing, but not beyond the window by more than a listing may take."""
        if self._listing is None:
            self._listing = self._shared()
            if not self._listing.refused:
                self._listing.add(self)
        if self._listing.refused:
            await pause(window)
            return
        try:
            async with asyncio.timeout(window.longest):
                await self._arrived.wait()
        except TimeoutError:
            return

    def pop(self) -> OperationState | None:
        """Return the operation as the last listing has it; None where it is not in it, or the listing has failed."""
        found, _ = self._drain()
        return found[0] if found else None

    async def next(self) -> list[OperationState]:
        """Return the finished operations of the next listing.

        Raises:
            LroError: it has failed; the next comes in due time.
        """
        if self._listing is None:
            self._listing = self._shared()
        self._listing.add(self)
        await self._arrived.wait()
        found, failed = self._drain()
        if failed is not None:
            raise failed
        return found

    def _drain(self) -> tuple[list[OperationState], BaseException | None]:
        self._arrived.clear()
        found, failed = self._found, self._failed
        self._found, self._failed = [], None
        return found, failed

    def unsubscribe(self) -> None:
        """Leave the listing."""
        listing, self._listing = self._listing, None
        if listing is None:
            return
        listing.remove(self)
        # That a listing is refused is remembered.
        if not listing.subscriptions and not listing.refused and _listings.get(self._key) is listing:
            del _listings[self._key]

    def _shared(self) -> SharedListing:
        listing = _listings.get(self._key)
        if listing is None:
            forget_closed(_listings)
            listing = _listings[self._key] = SharedListing(self._make_client, *self._key[1:])
        return listing
