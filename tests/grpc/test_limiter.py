"""When polls may go: shared wake-ups, calls in flight, polls a second; in virtual time where it can be."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections import Counter
from concurrent import futures
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.longrunning import operations_proto_pb2 as pb

from airflow_provider_lro._core.schedule import Window
from airflow_provider_lro._core.wait import Start, WaitArgs, wait
from airflow_provider_lro._runner.driver import drive_async, steady_clock
from airflow_provider_lro._transport import limiter
from airflow_provider_lro._transport.channel import ChannelConfig
from airflow_provider_lro._transport.client import AsyncOperationsClient
from airflow_provider_lro._transport.credentials import CredentialsConfig
from airflow_provider_lro._transport.limiter import CALLS_IN_FLIGHT, CROWD, TICK, Pace, pace_of, pause
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


@pytest.mark.parametrize(("shortest", "most"), [(0.0, 1.5 * CROWD), (27.0, 1.25 * 1000 / 12)])
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
    crowds = Counter(round(moment / TICK) for moment in woken).values()
    assert max(crowds) <= most
    fewest = math.ceil(min(1000 / CROWD, (30.0 - shortest) / TICK))
    assert 0.9 * fewest <= len(crowds) <= fewest


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


def test_crowd_that_wakes_does_not_hold_up_the_others() -> None:
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
            while turns.count("sleeper") < CROWD:
                turns.append("other")
                await asyncio.sleep(0)

        await asyncio.gather(other(), *(sleeper() for _ in range(CROWD)))
        return turns

    turns = in_virtual_time(work)
    together = [pair for pair in pairwise(turns) if pair == ("sleeper", "sleeper")]
    assert len(together) <= 2, "the first ones, until the other knows that they wake"
    assert turns.count("sleeper") == CROWD


def test_polls_a_second_are_shared_fairly() -> None:
    """Of several limits the lowest holds, no ten seconds see more than it allows, and every wait has its turns."""

    async def work(loop: VirtualTime) -> tuple[list[float], list[int]]:
        pace = Pace(loop)
        pace.hold([50.0, 5.0])
        polls: list[float] = []
        turns = [0] * 100

        async def one(number: int) -> None:
            while loop.time() < 1200.0:
                await pace.turn()
                polls.append(loop.time())
                turns[number] += 1
                await asyncio.sleep(1.0)

        await asyncio.gather(*(one(number) for number in range(100)))
        pace.let_go([5.0])
        assert pace.spacing == pytest.approx(0.02)
        return polls, turns

    polls, turns = in_virtual_time(work)
    for moment in polls:
        assert sum(moment <= other < moment + 10.0 for other in polls) <= 51
    assert max(turns) - min(turns) <= 1


def test_without_limits_nobody_waits() -> None:
    """The ordinary case costs no time at all."""

    async def work(loop: VirtualTime) -> None:
        pace = Pace(loop)
        for _ in range(1000):
            await pace.turn()
            pace.heard(None)
        assert loop.time() == 1000.0

    in_virtual_time(work)


def test_complaints_slow_everybody_down_and_pass() -> None:
    """RESOURCE_EXHAUSTED halves the rate at most once a second; polls that succeed bring it back."""

    async def work(loop: VirtualTime) -> None:
        pace = Pace(loop)
        for _ in range(200):
            await asyncio.sleep(0.1)
            await pace.turn()
        for _ in range(50):  # on their way at once: one complaint
            pace.heard(throttled())
        assert pace.spacing == pytest.approx(0.2, rel=0.1)
        for _ in range(4):
            await asyncio.sleep(1.5)
            pace.heard(throttled())
        assert pace.spacing == pytest.approx(1.6, rel=0.1)
        for _ in range(20):
            await asyncio.sleep(6.0)
            pace.heard(throttled())
        assert pace.spacing == limiter.LONGEST_SPACING
        for _ in range(200):
            pace.heard(None)
        assert pace.spacing == 0.0

    in_virtual_time(work)


def test_retry_info_holds_everybody() -> None:
    """What the service asks for is waited by all, five minutes at most; other errors slow nobody down."""

    async def work(loop: VirtualTime) -> None:
        pace = Pace(loop)
        for error in (throttled(Code.UNAVAILABLE), RpcError("no", code=Code.PERMISSION_DENIED), ValueError("other")):
            pace.heard(error)
        await pace.turn()
        assert loop.time() == 1000.0
        pace.heard(throttled(Code.UNAVAILABLE, retry_after=40.0))
        await pace.turn()
        assert loop.time() == pytest.approx(1040.0)
        pace.heard(throttled(retry_after=1e9))
        await pace.turn()
        assert loop.time() <= 1345.0

    in_virtual_time(work)


def test_response_that_is_too_large_slows_nobody_down() -> None:
    """It comes as RESOURCE_EXHAUSTED from our own side, and says nothing about the service's quota."""

    async def work(loop: VirtualTime) -> None:
        pace = Pace(loop)
        oversized = throttled()
        oversized.permanent = True
        pace.heard(oversized)
        assert pace.spacing == 0.0

    in_virtual_time(work)


async def test_endpoints_have_a_pace_of_their_own() -> None:
    """What one service complains about does not slow another down."""
    assert pace_of("a:1") is pace_of("a:1")
    assert pace_of("a:1") is not pace_of("b:1")


class Crowded:
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

    async def until(self, calls: int) -> None:
        """Wait until so many calls have come."""
        async with self.asked:
            await self.asked.wait_for(lambda: self.calls >= calls)


@pytest.fixture
async def crowded() -> Any:
    """Give the server and a client of it."""
    handler = Crowded()
    server = grpc.aio.server(futures.ThreadPoolExecutor(1))
    methods = {"GetOperation": grpc.unary_unary_rpc_method_handler(handler.get)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("google.longrunning.Operations", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    config = ChannelConfig(target=f"127.0.0.1:{port}", insecure=True, credentials=CredentialsConfig())
    async with AsyncOperationsClient(config) as client:
        yield handler, client
    await server.stop(None)


async def test_calls_in_flight_are_capped(crowded: Any) -> None:
    """Three hundred calls at once are eighty at the server; the others wait where their deadline does not run."""
    handler, client = crowded
    calls = [asyncio.ensure_future(client.get_operation("operations/x", rpc_timeout=5.0)) for _ in range(300)]
    await handler.until(CALLS_IN_FLIGHT)
    await asyncio.sleep(0.1)
    assert handler.calls == CALLS_IN_FLIGHT
    handler.go.set()
    assert all(operation.done for operation in await asyncio.gather(*calls))
    assert (handler.calls, handler.most) == (300, CALLS_IN_FLIGHT)


async def test_call_that_gets_no_turn_says_so(crowded: Any) -> None:
    """A wait whose deadline comes while others hold all the places is told, and takes no place with it."""
    handler, client = crowded
    full = range(CALLS_IN_FLIGHT)
    calls = [asyncio.ensure_future(client.get_operation("operations/x", rpc_timeout=5.0)) for _ in full]
    await handler.until(CALLS_IN_FLIGHT)
    with pytest.raises(RpcError, match="had no turn") as caught:
        await client.get_operation("operations/x", queue=0.1)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    handler.go.set()
    await asyncio.gather(*calls)
    assert (await client.get_operation("operations/x")).done


async def test_limit_of_a_wait_ends_with_it(crowded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`max_polls_per_second` holds while its wait lasts, for everybody, and no longer."""
    monkeypatch.setattr(limiter, "TICK", 0)
    handler, client = crowded
    clock = steady_clock()
    pace = pace_of(client.config.target)
    args = WaitArgs(operation_name="operations/x", interval=0.1, max_polls_per_second=50.0, started_at=clock())
    steps = wait(args, now=clock(), start=Start.RESUME)
    waiting = asyncio.ensure_future(drive_async(steps, args, client, clock=clock, shared=True))
    await handler.until(1)
    assert pace.spacing == pytest.approx(0.02)
    handler.go.set()
    await waiting
    assert pace.spacing == 0.0
