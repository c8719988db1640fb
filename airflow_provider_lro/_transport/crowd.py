"""The clients of many waits in one task: one for each channel, and considerate of it. Floor ½."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from google.longrunning import operations_proto_pb2 as pb

from airflow_provider_lro._transport.client import AsyncOperationsClient
from airflow_provider_lro._transport.rpc import no_turn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from airflow_provider_lro._transport.channel import ChannelConfig
    from airflow_provider_lro._transport.rpc import Call, CallOptions

__all__ = ["Considerate", "considerate"]

CANCELS_IN_FLIGHT = 32
"""Of one task: thousands of operations may be asked to cancel in the same moment."""
LARGEST_METADATA = 1024
"""Bytes of an operation that is not done: what is beyond is not kept, for ten thousand of them at the same time."""


class Considerate(AsyncOperationsClient):
    """A client whose cancels take turns, as its polls do, and that keeps little of what is not done yet."""

    def __init__(self, config: ChannelConfig) -> None:
        super().__init__(config)
        self._turns = asyncio.Semaphore(CANCELS_IN_FLIGHT)

    async def send(self, call: Call, options: CallOptions) -> Any:
        """Make a call that was prepared."""
        if call.method == "CancelOperation":
            return await self._cancel(call, options)
        found = await super().send(call, options)
        return self.trimmed(found) if isinstance(found, pb.Operation) else found

    def trimmed(self, operation: pb.Operation) -> pb.Operation:
        """Return an operation, without its metadata where it is not done and these are large."""
        if operation.done or operation.ByteSize() <= LARGEST_METADATA:
            return operation
        return pb.Operation(name=operation.name)  # not cleared: that gives no memory back

    async def _cancel(self, call: Call, options: CallOptions) -> Any:
        try:
            async with asyncio.timeout(options.get("rpc_timeout")):
                await self._turns.acquire()
        except TimeoutError:
            raise no_turn(call, self.config.target) from None
        try:
            return await super().send(call, options)
        finally:
            self._turns.release()


@asynccontextmanager
async def considerate(channels: Sequence[ChannelConfig]) -> AsyncIterator[list[Considerate]]:
    """Give a client for each channel; channels that are the same have the same."""
    async with AsyncExitStack() as stack:
        clients: dict[int, Considerate] = {}  # by identity: to hash ten thousand of them takes its time
        for channel in channels:
            if id(channel) not in clients:
                clients[id(channel)] = await stack.enter_async_context(Considerate(channel))
        yield [clients[id(channel)] for channel in channels]
