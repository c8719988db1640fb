"""How a wait in an event loop polls, pauses and asks to cancel: by itself, or together with the others. Floor ½."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core.counters import Tally
from airflow_provider_lro._messages.encoding import read
from airflow_provider_lro._transport.limiter import doze, pace_of, pause
from airflow_provider_lro._transport.listing import Listed
from airflow_provider_lro._transport.long_poll import Holder
from airflow_provider_lro._transport.rpc import cancel_call, get_call, no_turn
from airflow_provider_lro.exceptions import LroError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from google.longrunning import operations_proto_pb2 as pb

    from airflow_provider_lro._core.commands import Cancel, Get, Pause
    from airflow_provider_lro._core.wait import WaitArgs
    from airflow_provider_lro._transport.client import AsyncOperationsClient
    from airflow_provider_lro._transport.rpc import CallOptions

__all__ = ["Poller"]


class Poller:
    """Does what the policy of one wait says.

    Args:
        args: the wait.
        client: who makes the calls.
        metadata: more headers for each.
        shared: one of many waits of this process: they share wake-ups, and polls wait for a connection.
        tally: what the wait does is noted there.
    """

    def __init__(
        self,
        args: WaitArgs,
        client: AsyncOperationsClient,
        *,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        shared: bool = False,
        tally: Tally | None = None,
    ) -> None:
        self._args = args
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._metadata = metadata
        self._shared = shared
        self._call = get_call(args.operation_name)
        self._tally = tally or Tally()
        self._pace = pace_of(client.config.target)
        self._counts = self._pace.counts
        limits = (args.max_polls_per_second, client.config.max_polls_per_second)
        self._limits = tuple(limit for limit in limits if limit is not None)
        method = args.poll_method if shared else "get"
        self._holder = Holder(client, args.operation_name) if method in ("wait", "auto") else None
        self._listed: Listed | None = None
        if method == "list" and (parent := args.parent()):
            self._listed = Listed(client.config, args.operation_name, parent, args.interval)
        self._pace.hold(self._limits)
        self._counts.waits += 1

    async def get(self, command: Get) -> Any:
        """Poll; returns what was found.

        Raises:
            LroError: the poll has failed.
        """
        if self._listed is not None and command.listed and (seen := self._listed.look()) is not None:
            self._tally.sees(self._loop.time())
            return read(self._client.trimmed(seen))
        began = self._loop.time()
        self._tally.asks(began)
        try:
            await self._pace.turn(within=command.queue)
        except TimeoutError:
            error = no_turn(self._call, self._client.config.target)
            self._tally.fails(error)
            raise error from None
        options: CallOptions = {
            "rpc_timeout": command.timeout,
            "metadata": self._metadata,
            "wait_for_ready": self._shared and not command.prompt,
            "queue": max(0.0, command.queue - (self._loop.time() - began)),
        }
        found: pb.Operation | None = None
        try:
            if self._holder is not None and command.hold:
                found = await self._holder.send(command.hold, options)
            if found is not None:
                self._tally.was_held()
                found = self._client.trimmed(found)  # the holder's own client keeps all of it
            else:
                self._counts.gets += 1
                found = await self._client.send(self._call, options)
        except LroError as error:
            self._counts.failed(error)
            self._tally.fails(error)
            self._pace.heard(error)
            raise
        self._pace.heard(None)
        return read(found)

    def pause(self, command: Pause) -> Awaitable[None]:
        """Let time pass, when awaited, to some moment of the window."""
        if command.delayed:
            self._counts.delayed("retry_info", command.delayed)
        if self._listed is not None and command.listed:
            return self._listed.pause(command.window)
        return pause(command.window) if self._shared else doze(command.window)

    async def cancel(self, command: Cancel) -> None:
        """Ask to cancel.

        Raises:
            LroError: it was not accepted.
        """
        timeout = self._args.rpc_timeout if command.timeout is None else command.timeout
        await self._client.send(
            cancel_call(self._args.operation_name), {"rpc_timeout": timeout, "metadata": self._metadata}
        )

    async def close(self) -> None:
        """Give back what is shared."""
        self._counts.waits -= 1
        self._pace.let_go(self._limits)
        if self._listed is not None:
            self._listed.leave()
        if self._holder is not None:
            await self._holder.close()
