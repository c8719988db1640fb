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
from airflow_provider_lro._core.schedule import Window
from airflow_provider_lro._core.wait import Get, Start
from airflow_provider_lro._runner.group import WaitGroup
from airflow_provider_lro._transport import limiter
from airflow_provider_lro._transport.channel import MAX_CALLS_IN_FLIGHT, ChannelConfig
from airflow_provider_lro._transport.client import AsyncOperationsClient
from airflow_provider_lro._transport.credentials import CredentialsConfig
from airflow_provider_lro._transport.limiter import (
    BATCH_SIZE,
    MAX_SPACING,
    TICK,
    EndpointStats,
    RateLimiter,
    endpoints,
    limiter_of,
    pause,
    stats_of,
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
    """No ten seconds see more than the limit allows, and every wait has its turns."""

    async def work(loop: VirtualTime) -> tuple[list[float], list[int]]:
        limiter = RateLimiter(loop, EndpointStats(), 5.0)
        polls: list[float] = []
        turns = [0] * 100

        async def one(number: int) -> None:
            while loop.time() < 1200.0:
                await limiter.acquire()
                polls.append(loop.time())
                turns[number] += 1
                await asyncio.sleep(1.0)

        await asyncio.gather(*(one(number) for number in range(100)))
        return polls, turns

    polls, turns = in_virtual_time(work)
    for moment in polls:
        assert sum(moment <= other < moment + 10.0 for other in polls) <= 51
    assert max(turns) - min(turns) <= 1


def test_poll_that_gets_no_turn_in_time_gives_its_place_back() -> None:
    """It is told so when its time is up, and those behind it come earlier for it."""

    async def work(loop: VirtualTime) -> None:
        limiter = RateLimiter(loop, EndpointStats(), 0.1)
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
        limiter = RateLimiter(loop, EndpointStats())
        for _ in range(1000):
            await limiter.acquire()
            limiter.record(None)
        assert loop.time() == 1000.0

    in_virtual_time(work)


def test_complaints_slow_everybody_down_and_pass() -> None:
    """RESOURCE_EXHAUSTED halves the rate at most once a second; polls that succeed bring it back."""

    async def work(loop: VirtualTime) -> None:
        limiter = RateLimiter(loop, EndpointStats())
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


def test_retry_info_does_not_hold_the_others() -> None:
    """It is for its own wait, which heeds it; the others are slowed down as by any complaint."""

    async def work(loop: VirtualTime) -> None:
        limiter = RateLimiter(loop, EndpointStats())
        for error in (throttled(Code.UNAVAILABLE), RpcError("no", code=Code.PERMISSION_DENIED), ValueError("other")):
            limiter.record(error)
        assert limiter.spacing == 0.0
        limiter.record(throttled(Code.UNAVAILABLE, retry_after=40.0))
        assert limiter.spacing > 0.0
        await limiter.acquire()
        await limiter.acquire()
        assert loop.time() < 1000.0 + MAX_SPACING

    in_virtual_time(work)


@pytest.mark.parametrize("limit", [None, 20.0])
def test_complaints_delay_nobody_by_more_than_half_an_interval(limit: float | None) -> None:
    """One operation that does nothing but complain slows the polls of the others, and starves none of them.

    One that is in no hurry has its turns, too, while they overtake it; and the connection's own limit is kept.
    """

    async def work(loop: VirtualTime) -> None:
        limiter = RateLimiter(loop, EndpointStats(), limit)
        gaps: list[float] = []
        polls: list[float] = []
        patient = 0
        end = loop.time() + 120.0

        async def complaining() -> None:
            while loop.time() < end:
                await limiter.acquire(max_slow_down=0.05)
                polls.append(loop.time())
                limiter.record(throttled(retry_after=300.0))
                await asyncio.sleep(0.1)

        async def one() -> None:
            last = loop.time()
            while loop.time() < end:
                await asyncio.sleep(2.0)
                await limiter.acquire(max_slow_down=1.0)
                polls.append(loop.time())
                gaps.append(loop.time() - last)
                last = loop.time()
                limiter.record(None)

        async def without_hurry() -> None:
            nonlocal patient
            while loop.time() < end:
                await limiter.acquire()
                polls.append(loop.time())
                patient += 1

        await asyncio.gather(complaining(), without_hurry(), *(one() for _ in range(10)))
        most = 3.0 if limit is None else 3.0 + 12 / limit  # in the queue of the limit
        assert max(gaps) <= most + 1e-6
        assert max(gaps) > 2.5, "they are slowed down"
        assert patient > 120.0 / MAX_SPACING / 2
        polls.sort()
        assert limit is None or min(later - earlier for earlier, later in pairwise(polls)) >= 1 / limit - 1e-6

    in_virtual_time(work)


def test_response_that_is_too_large_slows_nobody_down() -> None:
    """It comes as RESOURCE_EXHAUSTED from our own side, and says nothing about the service's quota."""

    async def work(loop: VirtualTime) -> None:
        limiter = RateLimiter(loop, EndpointStats())
        oversized = throttled()
        oversized.permanent = True
        limiter.record(oversized)
        assert limiter.spacing == 0.0

    in_virtual_time(work)


def as_config(target: str = "a:1", **values: Any) -> ChannelConfig:
    """Return a channel with credentials."""
    given = {"token": "t", **{key: values.pop(key) for key in ("token", "quota_project_id") if key in values}}
    return ChannelConfig(target=target, credentials=CredentialsConfig(**given), **values)


@pytest.mark.parametrize(
    "other",
    [
        {"target": "b:1"},
        {"token": "u"},
        {"quota_project_id": "q"},
        {"headers": (("x-goog-user-project", "q"),)},
        {"headers": (("x-goog-api-key", "k"),)},
        {"max_polls_per_second": 5.0},
    ],
    ids=str,
)
async def test_quotas_have_a_limiter_of_their_own(other: dict[str, Any]) -> None:
    """Endpoint, credentials and project make a quota, with the limit of the connection; nothing else does."""
    here = limiter_of(as_config())
    assert limiter_of(as_config(**other)) is not here
    assert limiter_of(as_config(max_message_mb=5, headers=(("x-goog-request-params", "location=l"),))) is here


async def test_numbers_are_the_endpoints_whoever_polls_it() -> None:
    """Limiters of one endpoint count together, and of their spacings the longest is shown, while somebody uses it."""
    target = "numbers.example:443"
    free, limited = limiter_of(as_config(target)), limiter_of(as_config(target, max_polls_per_second=2.0))
    assert free.stats is limited.stats is stats_of(target)

    def spacing() -> float:
        return next(spacing for each, _, spacing in endpoints() if each == target)

    assert spacing() == 0.5
    del limited
    assert spacing() == 0.0


async def test_limit_of_one_connection_leaves_others_alone(busy: Any) -> None:
    """A connection that may poll once in eleven days, and is told to come back later, starves nobody else."""
    handler, client = busy
    handler.go.set()
    slow = replace(client.config, max_polls_per_second=1e-6)
    async with AsyncOperationsClient(slow) as slow_client:
        pollers = [AsyncPoller(WaitArgs(operation_name="operations/slow"), slow_client, shared=True) for _ in range(2)]
        await pollers[0].get(Get(timeout=5.0))
        with pytest.raises(RpcError, match="rate limited, not sent"):
            await pollers[1].get(Get(timeout=5.0, queue=0.1))
        limiter_of(slow).record(throttled(retry_after=300.0))
        free = AsyncPoller(WaitArgs(operation_name="operations/x"), client, shared=True)
        for _ in range(10):
            assert (await free.get(Get(timeout=5.0, queue=5.0))).done


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
        return pb.Operation(done=True).SerializeToString()

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


async def test_limit_holds_while_a_group_waits(busy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`max_polls_per_second` of a connection holds for all its waits together."""
    monkeypatch.setattr(limiter, "TICK", 0)
    handler, client = busy
    args = WaitArgs(operation_name="operations/x", interval=0.1)
    names = ["operations/x", "operations/y", "operations/z"]
    config = replace(client.config, max_polls_per_second=50.0)
    async with WaitGroup(args, names, [config] * len(names)) as group:
        waiting = asyncio.ensure_future(group.run(Start.RESUME))
        await handler.until(len(names))
        assert limiter_of(config).spacing == pytest.approx(0.02)
        assert stats_of(config.target).waits == len(names)
        handler.go.set()
        await waiting
    assert stats_of(config.target).waits == 0
