"""What is measured, each to be started wait by wait in a process of its own: ours, bare loops, Google's triggers."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import runner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class System(Protocol):
    """Something that waits for operations."""

    async def start(self, number: int) -> None:
        """Begin one more wait."""

    def prepare(self, numbers: range) -> None:
        """Make all ready to begin many waits at once."""

    async def herd(self) -> None:
        """Begin all that was prepared, at once."""


@asynccontextmanager
async def running(spec: dict[str, Any]) -> AsyncIterator[System]:
    """Give a system; leaving ends its waits.

    Args:
        spec: ``system``, ``port``, ``roots`` (path of the authority's PEM), and of the schedule ``interval``,
            ``jitter`` and ``fresh`` (begin with the backoff, as a wait that began just now).
    """
    if spec["system"].startswith("bare") and spec["system"] != runner.BARE_TRIGGER:
        async with _bare(spec) as bare:
            yield bare
    else:
        async with _triggers(spec) as triggers:
            yield triggers


class _Bare:
    """A loop for each wait, on one shared channel, with the token as metadata: the least that polling can be."""

    def __init__(self, spec: dict[str, Any], get: Callable[..., Any]) -> None:
        self._spec = spec
        self._get = get
        self._metadata = (("authorization", f"Bearer bench-{spec['system']}"),)
        self._gate = asyncio.Semaphore(100) if "capped" in spec["system"] else None
        self._prepared = range(0)
        self.tasks: set[asyncio.Task[None]] = set()

    def prepare(self, numbers: range) -> None:
        self._prepared = numbers

    async def herd(self) -> None:
        for number in self._prepared:
            await self.start(number)

    async def start(self, number: int) -> None:
        self.tasks.add(asyncio.create_task(self.wait(runner.OPERATION.format(number=number))))

    async def wait(self, name: str) -> None:
        """Poll for ever."""
        import grpc
        from google.longrunning import operations_proto_pb2 as pb

        from airflow_provider_lro._core.schedule import Schedule

        spec, gate = self._spec, self._gate
        request = pb.GetOperationRequest(name=name)
        if spec.get("fresh"):
            bounds = (window.longest for window in Schedule(interval=spec["interval"]).windows())
        else:
            bounds = iter(lambda: spec["interval"], None)
        timeout = spec.get("rpc_timeout", runner.RPC_TIMEOUT)
        while True:
            try:
                if gate is None:
                    await self._get(request, timeout=timeout, metadata=self._metadata)
                else:
                    async with gate:
                        await self._get(request, timeout=timeout, metadata=self._metadata)
            except grpc.RpcError:
                pass  # counted by whoever wants to know
            bound = next(bounds)
            await asyncio.sleep(random.uniform(bound * (1 - spec["jitter"]), bound))


@asynccontextmanager
async def _bare(spec: dict[str, Any]) -> AsyncIterator[_Bare]:
    import grpc
    from google.longrunning import operations_proto_pb2 as pb

    with open(spec["roots"], "rb") as file:  # noqa: ASYNC230, PTH123  (before anything is measured)
        credentials = grpc.ssl_channel_credentials(file.read())
    options = [("grpc.keepalive_time_ms", 10_000), ("grpc.max_reconnect_backoff_ms", 10_000)]
    async with grpc.aio.secure_channel(f"localhost:{spec['port']}", credentials, options=options) as channel:
        bare = _Bare(
            spec,
            channel.unary_unary(
                "/google.longrunning.Operations/GetOperation",
                request_serializer=pb.GetOperationRequest.SerializeToString,
                response_deserializer=pb.Operation.FromString,
            ),
        )
        yield bare
        for task in bare.tasks:
            task.cancel()
        await asyncio.gather(*bare.tasks, return_exceptions=True)


@asynccontextmanager
async def _triggers(spec: dict[str, Any]) -> AsyncIterator[System]:
    if spec["system"] == runner.BARE_TRIGGER:
        async with _bare(spec) as bare, runner.running(spec) as triggers:
            runner.polls_bare.append(bare.wait)
            yield triggers
    else:
        async with runner.running(spec) as triggers:
            yield triggers
