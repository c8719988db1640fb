"""`poll_method="list"`: one listing an interval for all waits under one parent."""

from __future__ import annotations

import asyncio
import json
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import struct_pb2

from airflow_provider_lro._core.args import WaitArgs
from airflow_provider_lro._core.schedule import Window
from airflow_provider_lro._core.wait import Get, Start, wait
from airflow_provider_lro._runner.driver import Drive, steady_clock
from airflow_provider_lro._transport import listing
from airflow_provider_lro._transport.channel import ChannelConfig, open_channels
from airflow_provider_lro._transport.client import AsyncOperationsClient
from airflow_provider_lro._transport.credentials import CredentialsConfig
from airflow_provider_lro._transport.limiter import stats_of
from airflow_provider_lro._transport.listing import Subscription
from airflow_provider_lro._transport.poller import AsyncPoller
from airflow_provider_lro.exceptions import RpcError
from airflow_provider_lro.sensors import LongRunningOperationSensor
from airflow_provider_lro.simulator import operation_name
from airflow_provider_lro.triggers import LongRunningOperationTrigger
from tests.airflow.fake_service import PARENT
from tests.airflow.worker import longest_step, run

if TYPE_CHECKING:
    from tests.airflow.fake_service import FakeService
    from tests.simulator_fixture import Simulator

_parents = count()


@pytest.fixture
def parent() -> str:
    """Give a parent that no other test has."""
    return f"projects/listed{next(_parents)}"


def name(parent: str, number: int, **script: object) -> str:
    return f"{parent}/{operation_name(f'o{number}', **script)}"


def trigger(parent: str, operation: str, **kwargs: Any) -> LongRunningOperationTrigger:
    now = time.time()
    times = {"interval": 0.4, "initial_delay": 0.4, "started_at": now - 10, "deadline": now + 40}
    wait = {"poll_method": "list", "list_parent": parent, **times, **kwargs}
    return LongRunningOperationTrigger(operation_name=operation, **wait)


async def outcome(waiting: LongRunningOperationTrigger) -> str:
    event = await anext(waiting.run())  # type: ignore[call-overload]
    return str(event.payload["outcomes"])


async def test_many_waits_cost_one_listing_an_interval(fake: FakeService) -> None:
    """Two hundred waits: one listing an interval in all, one poll of each for its end, each with its own outcome."""
    interval, codes, listed = 0.4, {"S": None, "F": 9, "C": 1}, 0
    outcomes = [list(codes)[number % 3] for number in range(200)]
    names = [fake.add(f"o{number}", error=codes[each]) for number, each in enumerate(outcomes)]

    def end(method: str, name: str) -> None:
        nonlocal listed
        if method == "ListOperations":
            listed += 1
            for operation in fake.operations.values() if listed == 4 else ():
                if not operation.HasField("error"):
                    operation.response.Pack(struct_pb2.Struct())
                operation.done = True

    fake.before = end
    began = time.monotonic()
    assert await asyncio.gather(*(outcome(trigger(PARENT, each, interval=interval)) for each in names)) == outcomes
    assert set(fake.acted("ListOperations")) == {PARENT}
    # A slow machine has more time, and makes no more of it; a wait whose listing is late polls, as without one.
    intervals = (time.monotonic() - began) / interval
    assert 4 <= listed <= 1.25 * intervals + 2
    assert set(fake.acted("GetOperation")) == set(names)
    assert len(fake.acted("GetOperation")) <= len(names) * (1 + intervals / 2)
    assert open_channels() == 0
    assert not listing._listings


class Recorder:
    """The observer of a wait that keeps the answer to each poll and to each look into a listing."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def record(self, command: Any, value: Any) -> None:
        if isinstance(command, Get):
            self.values.append(value)


async def answers(simulator: Simulator, args: WaitArgs, *, max_metadata: int | None = None) -> tuple[list[Any], int]:
    """Return the answers that a wait gets, and how many polls it has made."""
    recorder, clock = Recorder(), steady_clock()
    channel = ChannelConfig(target=simulator.endpoint, credentials=CredentialsConfig(), insecure=True)
    async with AsyncOperationsClient(channel) as client:
        poller = AsyncPoller(args, client, shared=True, max_metadata=max_metadata)
        drive = Drive(wait(args, now=clock(), start=Start.FRESH), poller, clock=clock, observer=recorder)
        await drive.run()
        await drive.close()
    return recorder.values, poller.polls


async def test_many_keep_as_little_of_a_listing_as_of_polls(parent: str, simulator: Simulator) -> None:
    """Metadata that is too large for thousands is not kept, whether it was polled or listed."""
    operation = name(parent, 0, outcome="never", metadata="struct", message="x")
    times = {"interval": 0.1, "initial_delay": 0.1, "deadline": time.time() + 0.8}
    args = WaitArgs(operation_name=operation, poll_method="list", list_parent=parent, **times)  # type: ignore[arg-type]
    found, polls = await answers(simulator, args, max_metadata=10)
    assert len(found) > polls
    assert [state.name for state in found if state.metadata is not None] == []
    kept, _ = await answers(simulator, args)
    assert all(state.metadata is not None for state in kept)


async def test_failed_polls_keep_no_frames(parent: str, simulator: Simulator) -> None:
    """A wait holds the error through its pause, as thousands do, without the frames of the call."""
    operation = name(parent, 0, duration=0.2, fault="UNAVAILABLE*4")
    args = WaitArgs(operation_name=operation, interval=0.1, initial_delay=0.1)
    (*failed, done), polls = await answers(simulator, args)
    assert done.done
    assert [(each.__traceback__, each.__context__) for each in failed] == [(None, None)] * 4
    assert polls == 5


async def test_backoff_polls_each(parent: str, simulator: Simulator) -> None:
    """A short operation is found as soon as by Get, and nothing is listed for it."""
    operation = name(parent, 0, duration=0.3)
    waiting = trigger(parent, operation, interval=30.0, initial_delay=0.1, started_at=time.time())
    assert await outcome(waiting) == "S"
    assert simulator.calls("ListOperations", parent) == []


@pytest.mark.parametrize("script", [{"unimplemented": "list"}])
async def test_service_that_does_not_list_is_polled(simulator: Simulator, script: dict[str, Any]) -> None:
    """A service that cannot list is polled for each operation; all waits together ask it to list once."""
    parent = f"simulations/duration=1.5&unimplemented=list&message={next(_parents)}"
    names = [f"{parent}/operations/o{number}" for number in range(5)]
    came = await asyncio.gather(*(outcome(trigger(parent, each)) for each in names))
    assert set(came) == {"S"}
    assert len(simulator.calls("ListOperations", parent)) == 1


@pytest.mark.parametrize("code", ["INTERNAL", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNKNOWN"])
async def test_listing_that_always_fails_says_nothing_about_get(fake: FakeService, code: str) -> None:
    """Its waits are polled each, so that an end is seen when it comes, and not at the deadline."""
    operation = fake.add("o")
    fake.faults["ListOperations", ""] = (grpc.StatusCode[code], "always")

    def end(method: str, _: str) -> None:
        if method == "GetOperation" and len(fake.acted(method)) == 3:
            fake.operations[operation].response.Pack(struct_pb2.Struct())
            fake.operations[operation].done = True

    fake.before = end
    assert await outcome(trigger(PARENT, operation, interval=0.2, deadline=time.time() + 300)) == "S"
    assert fake.acted("ListOperations")


async def test_operation_that_is_not_listed_is_polled(parent: str, simulator: Simulator) -> None:
    """A name that the listing does not have is polled by itself."""
    elsewhere = name(f"{parent}-elsewhere", 0, duration=1.0)
    assert await outcome(trigger(parent, elsewhere)) == "S"
    assert simulator.calls("ListOperations", parent)


async def test_deadline_holds(parent: str, simulator: Simulator) -> None:
    """One ordinary poll has the last word, at the deadline."""
    operation = name(parent, 0, outcome="never")
    began = time.monotonic()
    assert await outcome(trigger(parent, operation, deadline=time.time() + 1.0)) == "T"
    assert 0.9 < time.monotonic() - began < 15.0
    assert simulator.calls("GetOperation", operation)


async def test_wait_that_is_stopped_leaves_nothing(parent: str) -> None:
    """The listing ends with the last of its waits."""
    waits = [asyncio.ensure_future(outcome(trigger(parent, name(parent, each, outcome="never")))) for each in range(3)]
    await asyncio.sleep(1.0)
    for waiting in waits:
        waiting.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    await asyncio.sleep(0.1)
    assert open_channels() == 0
    assert not listing._listings


@pytest.mark.parametrize("bare", ["abc", "operations/7", "operations/build/7"])
@pytest.mark.parametrize("many", [False, True], ids=["one", "of many"])
@pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "on the worker"])
def test_name_that_does_not_say_its_parent_is_polled_by_itself(
    fake: FakeService, bare: str, many: bool, deferrable: bool
) -> None:
    """It may be that of an operation that was just started; the others are listed all the same."""
    listed = fake.add("listed")
    names = [listed, bare] if many else [bare]
    fake.operations[bare] = pb.Operation(name=bare)

    def end(method: str, name: str) -> None:
        # What is listed ends in the second listing: who polls it as well would wait until the deadline.
        ended = {"GetOperation": bare, "ListOperations": listed}[method]
        if fake.acted(method).count(name) > 1 and name in (bare, PARENT):
            fake.operations[ended].response.Pack(struct_pb2.Struct())
            fake.operations[ended].done = True

    fake.before = end
    wait = {"poll_method": "list", "poke_interval": 0.2, "initial_delay": 0.2, "deferrable": deferrable, "timeout": 20}
    waiting = LongRunningOperationSensor(task_id="wait", operation_name=names if many else bare, **wait)
    assert run(waiting).result == ([{}, {}] if many else {})
    assert "" not in fake.acted("ListOperations")


# ── listings that are larger than they should be ──


def subscription(fake: FakeService, *, name: str = "", **limits: Any) -> Subscription:
    config = ChannelConfig(target=f"127.0.0.1:{fake.port}", insecure=True, **limits)
    return Subscription(AsyncOperationsClient, config, PARENT, interval=60.0, name=name)


@pytest.mark.no_cover  # which would take most of its time
async def test_page_of_tiny_operations_does_not_hold_up_the_loop(fake: FakeService) -> None:
    """A page is read in slices, between which everything else has a turn."""
    page = pb.ListOperationsResponse.FromString(b"\x0a\x00" * 200_000)
    fake.ListOperations = lambda request, context: page  # type: ignore[method-assign]
    waiting = subscription(fake, name=f"{PARENT}/operations/o")
    assert await longest_step(waiting.pause(Window(shortest=60.0, longest=60.0))) < 0.5
    assert waiting.pop() is None
    waiting.unsubscribe()


async def test_waits_of_a_listing_wake_one_after_another(fake: FakeService) -> None:
    """Everything else has a turn between two of them."""
    names = [fake.add(f"o{number}") for number in range(100)]
    turns, woken = 0, []

    async def one(name: str) -> None:
        waiting = subscription(fake, name=name)
        await waiting.pause(Window(shortest=60.0, longest=60.0))
        woken.append(turns)
        assert waiting.pop() is not None
        waiting.unsubscribe()

    waits = asyncio.gather(*map(one, names))
    while not waits.done():
        turns += 1
        await asyncio.sleep(0)
    await waits
    assert len(set(woken)) > len(names) * 0.9


async def test_each_page_is_a_call_of_the_rate_limit(fake: FakeService) -> None:
    """`max_polls_per_second` holds for pages as it does for polls, and each counts."""
    pages = 6
    fake.ListOperations = lambda request, context: pb.ListOperationsResponse(  # type: ignore[method-assign]
        operations=[pb.Operation(name=f"{PARENT}/operations/o")],
        next_page_token=f"{request.page_token}a" if len(request.page_token) + 1 < pages else "",
    )
    waiting = subscription(fake, name=f"{PARENT}/operations/o", max_polls_per_second=20.0)
    began = time.monotonic()
    await waiting.pause(Window(shortest=60.0, longest=60.0))
    assert time.monotonic() - began > (pages - 1) / 20.0 - 0.01
    assert waiting.pop() is not None
    waiting.unsubscribe()
    assert len(fake.calls) == pages
    assert stats_of(waiting.config.target).lists == pages


async def test_listing_has_an_end(fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `max_triggerer_pages` a watcher is told which extra raises them, and waits are polled by themselves."""
    operation = fake.add("o")
    fake.ListOperations = lambda request, context: pb.ListOperationsResponse(  # type: ignore[method-assign]
        operations=[pb.Operation(name=operation)], next_page_token=f"{request.page_token}a"
    )

    def end(method: str, _: str) -> None:
        if method == "GetOperation" and len(fake.acted(method)) == 3:
            fake.operations[operation].done = True

    fake.before = end
    extra = {"insecure": True, "max_triggerer_pages": 4}
    stored = {"conn_type": "lro", "host": "127.0.0.1", "port": fake.port, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SHORT", json.dumps(stored))
    assert await outcome(trigger(PARENT, operation, interval=0.2, lro_conn_id="short")) == "S"
    assert len(fake.acted("ListOperations")) == 4, "once, then it is known"
    watching = subscription(fake, max_triggerer_pages=5)
    with pytest.raises(RpcError, match=r"has given 5 pages, and names another: .* max_triggerer_pages") as caught:
        await watching.next()
    assert not caught.value.is_transient
    watching.unsubscribe()


async def test_listing_keeps_no_more_than_it_may(fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is listed only what somebody wants takes memory, and of this there is a limit."""
    monkeypatch.setattr(listing, "MAX_LISTING_SIZE", 20 * listing.OVERHEAD, raising=False)
    for number in range(100):
        fake.add(f"o{number}", ended=1.0)
    waiting = subscription(fake, name=fake.add("waited"))
    await waiting.pause(Window(shortest=60.0, longest=60.0))
    assert waiting.pop() is not None
    waiting.unsubscribe()
    watching = subscription(fake)
    with pytest.raises(RpcError, match=r"more than the .* that a triggerer keeps of a listing: give a filter"):
        await watching.next()
    watching.unsubscribe()
