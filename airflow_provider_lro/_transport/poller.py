"""The I/O of one wait: polls, pauses and requests to cancel, blocking or in an event loop."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_lro._core.names import parent_in
from airflow_provider_lro._core.state import size_of
from airflow_provider_lro._messages.protocol import LONG_POLL_MARGIN, cancel_call, get_call, wait_call
from airflow_provider_lro._transport.limiter import (
    MAX_SLOW_DOWN,
    limiter_of,
    not_sent_error,
    pause,
    sleep,
    stats_of,
)
from airflow_provider_lro._transport.listing import Subscription
from airflow_provider_lro.exceptions import LroError, UnimplementedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from airflow_provider_lro._core.args import WaitArgs
    from airflow_provider_lro._core.state import OperationState
    from airflow_provider_lro._core.wait import Cancel, Get, Pause
    from airflow_provider_lro._transport.client import AsyncOperationsClient, OperationsClient
    from airflow_provider_lro._transport.rpc import CallOptions

MAX_LONG_POLLS = 80
"""Long polls on one channel; they come and go so rarely that more of them fit than of polls."""
PROBE_TIME = 1.0
"""Seconds after which a service that has not refused its first long poll is taken to have the method."""

log = logging.getLogger(__name__)


class Poller:
    """The I/O of a wait that blocks, in coroutines that never wait; ``metadata`` are more headers for each call."""

    def __init__(
        self, args: WaitArgs, client: OperationsClient, *, metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> None:
        self._args = args
        self._client = client
        self._metadata = metadata

    async def get(self, command: Get) -> OperationState:
        """Poll; return the OperationState, or raise LroError."""
        name = self._args.operation_name
        return self._client.get_operation(name, rpc_timeout=command.timeout, metadata=self._metadata)

    async def pause(self, command: Pause) -> None:
        """Let time pass, to a random moment of the window."""
        time.sleep(random.uniform(command.window.shortest, command.window.longest))  # noqa: ASYNC251  (it blocks)

    async def cancel(self, command: Cancel) -> None:
        """Ask to cancel; raise LroError where it was not accepted."""
        timeout = self._args.rpc_timeout if command.timeout is None else command.timeout
        self._client.cancel_operation(self._args.operation_name, rpc_timeout=timeout, metadata=self._metadata)


class AsyncPoller:
    """The I/O of a wait in an event loop.

    ``shared``: one of many waits of this process, which share wake-ups, and whose polls wait for a connection.
    ``max_metadata``: bytes of metadata to keep of an operation that is not done; None: all.
    """

    __slots__ = (
        "_args",
        "_call",
        "_client",
        "_limiter",
        "_long_poller",
        "_loop",
        "_max_metadata",
        "_metadata",
        "_shared",
        "_subscription",
        "polls",
    )

    def __init__(
        self,
        args: WaitArgs,
        client: AsyncOperationsClient,
        *,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        shared: bool = False,
        max_metadata: int | None = None,
    ) -> None:
        self._args = args
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._metadata = metadata
        self._shared = shared
        self.polls = 0
        self._max_metadata = max_metadata
        self._call = get_call(args.operation_name)
        self._limiter = limiter_of(client.config)
        method = args.poll_method if shared else "get"
        self._long_poller = LongPoller(client, args.operation_name) if method in ("wait", "auto") else None
        self._subscription: Subscription | None = None
        if method == "list" and (parent := parent_in(args.operation_name, args.list_parent)):
            self._subscription = Subscription(
                type(client), client.config, parent, interval=args.interval, name=args.operation_name
            )
        self._limiter.stats.waits += 1

    async def get(self, command: Get) -> OperationState:
        """Poll; return the OperationState, or raise LroError.

        One that is listed as done is polled, too: some services list less of an operation than Get gives.
        """
        listed = self._subscription.pop() if self._subscription is not None and command.listed else None
        if listed is not None and not listed.done:
            return self._read(listed)
        began = self._loop.time()
        self.polls += 1
        try:
            await self._limiter.acquire(within=command.queue, max_slow_down=MAX_SLOW_DOWN * self._args.interval)
        except TimeoutError:
            raise not_sent_error(self._call, self._client.config.target) from None
        options: CallOptions = {
            "rpc_timeout": command.timeout,
            "metadata": self._metadata,
            "wait_for_ready": self._shared and not command.prompt,
            "queue": max(0.0, command.queue - (self._loop.time() - began)),
        }
        found: OperationState | None = None
        try:
            if self._long_poller is not None and command.long_poll:
                found = await self._long_poller.send(command.long_poll, options)
            if found is None:
                self._limiter.stats.gets += 1
                found = await self._client.send(self._call, options)
        except LroError as error:
            self._limiter.stats.failed(error)
            self._limiter.record(error)
            raise
        if self._limiter.is_slowed:
            self._limiter.record(None)
        if listed is not None and not found.done:
            log.warning("listed as done, but Get says that it is not: the wait goes on [operation %r]", found.name)
        return found if self._max_metadata is None else self._read(found)

    def pause(self, command: Pause) -> Awaitable[None]:
        """Return an awaitable that lets time pass, to some moment of the window."""
        if command.delayed:
            self._limiter.stats.delayed("retry_info", command.delayed)
        if self._subscription is not None and command.listed:
            return self._subscription.pause(command.window)
        return pause(command.window) if self._shared else sleep(command.window)

    async def cancel(self, command: Cancel) -> None:
        """Ask to cancel; raise LroError where it was not accepted."""
        timeout = self._args.rpc_timeout if command.timeout is None else command.timeout
        await self._client.send(
            cancel_call(self._args.operation_name), {"rpc_timeout": timeout, "metadata": self._metadata}
        )

    async def close(self) -> None:
        """Give back what is shared."""
        self._limiter.stats.waits -= 1
        if self._subscription is not None:
            self._subscription.unsubscribe()
        if self._long_poller is not None:
            await self._long_poller.close()

    def _read(self, state: OperationState) -> OperationState:
        if self._max_metadata is not None and not state.done and size_of(state.metadata) > self._max_metadata:
            state = replace(state, metadata=None)
        return state


class LongPoller:
    """The long polls of one wait, ``WaitOperation``, on channels of their own: there they starve no other polls."""

    _support: dict[str, bool | float] = {}  # noqa: RUF012  (of the process: one answer is for all waits)
    """By endpoint: whether it has the method, or until when the first long poll is a probe for it."""

    __slots__ = ("_failed", "_long_client", "_name", "_own_client", "_stats", "_target")

    def __init__(self, client: AsyncOperationsClient, name: str) -> None:
        self._own_client = client
        self._long_client: AsyncOperationsClient | None = None
        self._target = client.config.target
        self._stats = stats_of(self._target)
        self._name = name
        self._failed = False

    async def send(self, seconds: float, options: CallOptions) -> OperationState | None:
        """Ask the server to hold the answer; return None where an ordinary poll must follow.

        A failed long poll decides nothing: some services have another permission for this method, and some proxies cut
        calls that last long. An endpoint without the method is remembered for all waits of the process.
        """
        support = self._support.get(self._target)
        now = time.monotonic()
        is_probe = support is None
        if is_probe:  # on the channel that is there: a service without the method needs no other
            self._support[self._target] = now + PROBE_TIME
        elif support is False or (isinstance(support, float) and now < support):
            return None
        elif self._failed:  # once; then it may try again
            self._failed = False
            return None
        if not is_probe and self._long_client is None:
            self._long_client = type(self._own_client)(self._own_client.config, max_users=MAX_LONG_POLLS)
        long_options: CallOptions = {**options, "rpc_timeout": seconds + LONG_POLL_MARGIN}
        self._stats.long_polls += 1
        try:
            found = await (self._long_client or self._own_client).send(wait_call(self._name, seconds), long_options)
        except UnimplementedError:
            if self._support.get(self._target) is not False:
                log.info("%s does not have WaitOperation: it is polled by GetOperation from here on", self._target)
            self._support[self._target] = False
            await self.close()
        except LroError as error:
            self._failed = True
            log.debug("a long poll has failed: %s", error)
        else:
            self._support[self._target] = True
            return found  # type: ignore[no-any-return]
        return None

    async def close(self) -> None:
        """Give the channel back."""
        client, self._long_client = self._long_client, None
        if client is not None:
            await client.close()
