"""When polls may go: shared wake-ups, calls in flight, polls a second; in virtual time where it can be."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections import Counter
from concurrent import futures
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.longrunning import operations_proto_pb2 as pb

from airflow_provider_lro._core.args import WaitArgs
from airflow_provider_lro._core.schedule import MAX_RETRY_INFO, Window
from airflow_provider_lro._core.wait import Start
from airflow_provider_lro._runner.group import WaitGroup
from airflow_provider_lro._transport import limiter
from airflow_provider_lro._transport.channel import MAX_CALLS_IN_FLIGHT, ChannelConfig
from airflow_provider_lro._transport.client import AsyncOperationsClient
from airflow_provider_lro._transport.credentials import CredentialsConfig
from airflow_provider_lro._transport.limiter import (
    BATCH_SIZE,
    MAX_SPACING,
    TICK,
    RateLimiter,
    limiter_of,
    pause,
)
from airflow_provider_lro._transport.poller import AsyncPoller
from airflow_provider_lro.exceptions import Code, RpcError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__(Jumping(self))
        self.now = 1000.0
        self.wake_ups: set[float] = set()

    def time(self) -> float:
        return self.now


class Jumping(selectors.SelectSelector):
    """Lets time pass at once."""

    def __init__(self, loop: VirtualTime) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout:
            self._loop.now += timeout
        return super().select(0)


def in_virtual_time(work: Callable[[VirtualTime], Coroutine[Any, Any, Any]]) -> Any:
    loop = VirtualTime()
    try:
        return loop.run_until_complete(work(loop))
    finally:
        loop.close()


def throttled(code: Code = Code.RESOURCE_EXHAUSTED, *, retry_after: float | None = None) -> RpcError:
    error = RpcError("slow down", code=code)
    error.retry_after = retry_after
    return error


@pytest.mark.parametrize(("shortest", "most"), [(0.0, 1.5 * BATCH_SIZE), (27.0, 1.25 * 1000 / 12)])
def test_sleepers_share_wake_ups(shortest: float, most: float) -> None:
    """Each wakes within its window, on a tick; one is filled before another is opened, and then all fill evenly."""

    async def work(loop: VirtualTime) -> list[float]:
        async def one(delay: float) -> float:
            await asyncio.sleep(delay)
            began = loop.time()
            await pause(Window(shortest=shortest, longest=30.0))
            assert shortest - 1e-6 <= loop.time() - began <= 30.0 + 1e-6
            return loop.time()

        return list(await asyncio.gather(*(one(number * 1e-5) for number in range(1, 1001))))

    woken = in_virtual_time(work)
    assert all(abs(moment / TICK - round(moment / TICK)) < 1e-3 for moment in woken)
    sizes = Counter(round(moment / TICK) for moment in woken).values()
    assert max(sizes) <= most
    fewest = math.ceil(min(1000 / BATCH_SIZE, (30.0 - shortest) / TICK))
    assert 0.9 * fewest <= len(sizes) <= fewest


def test_narrow_windows_are_left_alone() -> None:
    """A window without room for a tick is slept through by itself, and nothing ends later than its bound."""

    async def work(loop: VirtualTime) -> None:
        for window in (Window(shortest=0.1, longest=0.2), Window(shortest=1.0, longest=1.0)):
            began = loop.time()
            await pause(window)
            assert window.shortest - 1e-6 <= loop.time() - began <= window.longest + 1e-6

    in_virtual_time(work)


def test_sleeper_that_is_cancelled_wakes_nobody_else() -> None:
    """A trigger that is cancelled in its pause leaves the others of its tick asleep until then."""

    async def work(loop: VirtualTime) -> None:
        window = Window(shortest=5.0, longest=5.25)
        sleepers = [asyncio.ensure_future(pause(window)) for _ in range(10)]
        await asyncio.sleep(1)
        sleepers[3].cancel()
        done = await asyncio.gather(*sleepers, return_exceptions=True)
        assert [isinstance(each, asyncio.CancelledError) for each in done] == [at == 3 for at in range(10)]
        assert loop.time() >= 1005.0

    in_virtual_time(work)


def test_batch_that_wakes_does_not_hold_up_the_others() -> None:
    """Between two of those that share a wake-up whoever else waits for the event loop has a turn."""

    async def work(_: VirtualTime) -> list[str]:
        turns: list[str] = []
        awake = asyncio.Event()

        async def sleeper() -> None:
            await pause(Window(shortest=5.0, longest=5.25))
            turns.append("sleeper")
            awake.set()

        async def other() -> None:
            await awake.wait()
            while turns.count("sleeper") < BATCH_SIZE:
                turns.append("other")
                await asyncio.sleep(0)

        await asyncio.gather(other(), *(sleeper() for _ in range(BATCH_SIZE)))
        return turns

    turns = in_virtual_time(work)
    together = [pair for pair in pairwise(turns) if pair == ("sleeper", "sleeper")]
    assert len(together) <= 2, "the first ones, until the other knows that they wake"
    assert turns.count("sleeper") == BATCH_SIZE


def test_polls_a_second_are_shared_fairly() -> None:
    """Of several limits the lowest holds, no ten seconds see more than it allows, and every wait has its turns."""

    async def work(loop: VirtualTime) -> tuple[list[float], list[int]]:
        limiter = RateLimiter(loop)
        limiter.add_limits([50.0, 5.0])
        polls: list[float] = []
        turns = [0] * 100

        async def one(number: int) -> None:
            while loop.time() < 1200.0:
                await limiter.acquire()
                polls.append(loop.time())
                turns[number] += 1
                await asyncio.sleep(1.0)

        await asyncio.gather(*(one(number) for number in range(100)))
        limiter.remove_limits([5.0])
        assert limiter.spacing == pytest.approx(0.02)
        return polls, turns

    polls, turns = in_virtual_time(work)
    for moment in polls:
        assert sum(moment <= other < moment + 10.0 for other in polls) <= 51
    assert max(turns) - min(turns) <= 1


def test_poll_that_gets_no_turn_in_time_gives_its_place_back() -> None:
    """It is told so when its time is up, and those behind it come earlier for it."""

    async def work(loop: VirtualTime) -> None:
        limiter = RateLimiter(loop)
        limiter.add_limits([0.1])
        await limiter.acquire()
        with pytest.raises(TimeoutError):
            await limiter.acquire(within=4.0)
        assert loop.time() == pytest.approx(1004.0)
        await limiter.acquire(within=20.0)
        assert loop.time() == pytest.approx(1010.0)
        assert limiter.stats.delays == {"quota": (2, pytest.approx(10.0))}

    in_virtual_time(work)


def test_without_limits_nobody_waits() -> None:
    """The ordinary case costs no time at all."""

    async def work(loop: VirtualTime) -> None:
        limiter = RateLimiter(loop)
        for _ in range(1000):
            await limiter.acquire()
            limiter.record(None)
        assert loop.time() == 1000.0

    in_virtual_time(work)


def test_complaints_slow_everybody_down_and_pass() -> None:
    """RESOURCE_EXHAUSTED halves the rate at most once a second; polls that succeed bring it back."""

    async def work(loop: VirtualTime) -> None:
        limiter = RateLimiter(loop)
        for _ in range(200):
            await asyncio.sleep(0.1)
            await limiter.acquire()
        for _ in range(50):  # on their way at once: one complaint
            limiter.record(throttled())
        assert limiter.spacing == pytest.approx(0.2, rel=0.1)
        for _ in range(4):
            await asyncio.sleep(1.5)
            limiter.record(throttled())
        assert limiter.spacing == pytest.approx(1.6, rel=0.1)
        for _ in range(20):
            await asyncio.sleep(6.0)
            limiter.record(throttled())
        assert limiter.spacing == MAX_SPACING
        for _ in range(200):
            limiter.record(None)
        assert limiter.spacing == 0.0

    in_virtual_time(work)


def test_retry_info_holds_everybody() -> None:
    """All wait as long as the service asks for, five minutes at most; other errors slow nobody down."""

    async def work(loop: VirtualTime) -> None:
        limiter = RateLimiter(loop)
        for error in (throttled(Code.UNAVAILABLE), RpcError("no", code=Code.PERMISSION_DENIED), ValueError("other")):
            limiter.record(error)
        await limiter.acquire()
        assert loop.time() == 1000.0
        limiter.record(throttled(Code.UNAVAILABLE, retry_after=40.0))
        await limiter.acquire()
        assert loop.time() == pytest.approx(1040.0)
        limiter.record(throttled(retry_after=1e9))
        await limiter.acquire()
        assert loop.time() == pytest.approx(1040.0 + MAX_RETRY_INFO, abs=5.0)

    in_virtual_time(work)


def test_response_that_is_too_large_slows_nobody_down() -> None:
    """It comes as RESOURCE_EXHAUSTED from our own side, and says nothing about the service's quota."""

    async def work(loop: VirtualTime) -> None:
        limiter = RateLimiter(loop)
        oversized = throttled()
        oversized.permanent = True
        limiter.record(oversized)
        assert limiter.spacing == 0.0

    in_virtual_time(work)


async def test_endpoints_have_a_limiter_of_their_own() -> None:
    """The complaints of one service do not slow another down."""
    assert limiter_of("a:1") is limiter_of("a:1")
    assert limiter_of("a:1") is not limiter_of("b:1")


class BusyServer:
    """A server that takes its time, and counts how many calls it has at once."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.calls = 0
        self.go = asyncio.Event()
        self.asked = asyncio.Condition()

    async def get(self, request: bytes, context: Any) -> bytes:
        self.calls += 1
        self.now += 1
        self.most = max(self.most, self.now)
        async with self.asked:
            self.asked.notify_all()
        try:
            await self.go.wait()
        finally:
            self.now -= 1
        return pb.Operation(name="operations/x", done=True).SerializeToString()

    async def wait(self, request: bytes, context: Any) -> bytes:
        return pb.Operation(name="operations/x").SerializeToString()

    async def until(self, calls: int) -> None:
        """Wait until so many calls have come."""
        async with self.asked:
            await self.asked.wait_for(lambda: self.calls >= calls)


@pytest.fixture
async def busy() -> Any:
    """Return the server and a client of it."""
    handler = BusyServer()
    server = grpc.aio.server(futures.ThreadPoolExecutor(1))
    methods = {
        "GetOperation": grpc.unary_unary_rpc_method_handler(handler.get),
        "WaitOperation": grpc.unary_unary_rpc_method_handler(handler.wait),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("google.longrunning.Operations", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    config = ChannelConfig(target=f"127.0.0.1:{port}", insecure=True, credentials=CredentialsConfig())
    async with AsyncOperationsClient(config) as client:
        yield handler, client
    await server.stop(None)


async def test_calls_in_flight_are_capped(busy: Any) -> None:
    """Of three hundred at once the server has as many as a channel takes; no deadline runs for the others."""
    handler, client = busy
    calls = [asyncio.ensure_future(client.get_operation("operations/x", rpc_timeout=20.0)) for _ in range(300)]
    await handler.until(MAX_CALLS_IN_FLIGHT)
    assert not (await client.wait_operation("operations/x")).done  # by now the server has all that was sent
    assert handler.calls == MAX_CALLS_IN_FLIGHT
    handler.go.set()
    assert all(operation.done for operation in await asyncio.gather(*calls))
    assert (handler.calls, handler.most) == (300, MAX_CALLS_IN_FLIGHT)


async def test_call_that_gets_no_turn_says_so(busy: Any) -> None:
    """A wait whose deadline comes while others hold all the places is told, and takes no place with it."""
    handler, client = busy
    full = range(MAX_CALLS_IN_FLIGHT)
    calls = [asyncio.ensure_future(client.get_operation("operations/x", rpc_timeout=20.0)) for _ in full]
    await handler.until(MAX_CALLS_IN_FLIGHT)
    with pytest.raises(RpcError, match="rate limited, not sent") as caught:
        await client.get_operation("operations/x", queue=0.1)
    assert (caught.value.code, caught.value.not_sent) == (Code.DEADLINE_EXCEEDED, True)
    handler.go.set()
    await asyncio.gather(*calls)
    assert (await client.get_operation("operations/x")).done


async def test_clients_share_the_places_of_their_channel(busy: Any) -> None:
    """Two clients of one channel have no more calls on their way than one: a thousand waits have a client each."""
    handler, client = busy
    async with AsyncOperationsClient(client.config) as other:
        clients = [client, other] * (MAX_CALLS_IN_FLIGHT // 2 + 8)
        calls = [asyncio.ensure_future(each.get_operation("operations/x", rpc_timeout=20.0)) for each in clients]
        await handler.until(MAX_CALLS_IN_FLIGHT)
        assert not (await client.wait_operation("operations/x")).done  # by now the server has all that was sent
        assert handler.calls == MAX_CALLS_IN_FLIGHT
        handler.go.set()
        await asyncio.gather(*calls)
    assert (handler.calls, handler.most) == (len(calls), MAX_CALLS_IN_FLIGHT)


@pytest.mark.parametrize(
    ("of_wait", "of_connection", "spacing"),
    [(50.0, None, 0.02), (None, 50.0, 0.02), (50.0, 20.0, 0.05), (20.0, 50.0, 0.05)],
)
async def test_limit_holds_while_a_group_waits(
    busy: Any, monkeypatch: pytest.MonkeyPatch, of_wait: float | None, of_connection: float | None, spacing: float
) -> None:
    """`max_polls_per_second`, of the task or of its connection, holds for the endpoint as long as the waits last.

    Of both the lower one holds.
    """
    monkeypatch.setattr(limiter, "TICK", 0)
    handler, client = busy
    of_endpoint = limiter_of(client.config.target)
    args = WaitArgs(operation_name="operations/x", interval=0.1, max_polls_per_second=of_wait)
    names = ["operations/x", "operations/y", "operations/z"]
    config = replace(client.config, max_polls_per_second=of_connection)
    async with WaitGroup(args, names, [config] * len(names)) as group:
        waiting = asyncio.ensure_future(group.run(Start.RESUME))
        await handler.until(len(names))
        assert of_endpoint.spacing == pytest.approx(spacing)
        assert of_endpoint.stats.waits == len(names)
        handler.go.set()
        await waiting
    assert (of_endpoint.spacing, of_endpoint.stats.waits) == (0.0, 0)


async def test_wait_that_ends_leaves_the_limit_to_the_others() -> None:
    """A limit that several waits hold is kept until the last of them has ended."""
    config = ChannelConfig(target="127.0.0.1:1", insecure=True, max_polls_per_second=50.0)
    limited = WaitArgs(operation_name="operations/x", max_polls_per_second=20.0)
    free = WaitArgs(operation_name="operations/x")
    of_endpoint = limiter_of(config.target)
    async with AsyncOperationsClient(config) as client:
        waits = [AsyncPoller(each, client, shared=True) for each in (limited, limited, free)]
        spacings = [of_endpoint.spacing]
        for each in waits:
            await each.close()
            spacings.append(of_endpoint.spacing)
    assert spacings == pytest.approx([0.05, 0.05, 0.02, 0.0])
