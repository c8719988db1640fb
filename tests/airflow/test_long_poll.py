"""`poll_method="wait"`: the server holds the answer until the operation is done, where it can."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_lro._transport.channel import open_channels
from airflow_provider_lro._transport.poller import LongPoller
from airflow_provider_lro.triggers import LongRunningOperationTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.airflow.fake_service import FakeService
    from tests.simulator_fixture import Simulator


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test know what another has found out about the simulator."""
    monkeypatch.setattr(LongPoller, "_support", {})


def trigger(operation_name: str, **kwargs: Any) -> LongRunningOperationTrigger:
    # Without started_at: on a busy machine the first pause would be over before the wait begins.
    defaults = {"interval": 30.0, "initial_delay": 0.1, "multiplier": 300.0, "deadline": time.time() + 40}
    return LongRunningOperationTrigger(operation_name=operation_name, **{**defaults, "poll_method": "wait", **kwargs})


async def outcome(waiting: LongRunningOperationTrigger) -> str:
    event = await anext(waiting.run())  # type: ignore[call-overload]
    return str(event.payload["outcomes"])


@pytest.mark.parametrize("method", ["wait", "auto"])
async def test_end_is_seen_at_once(name: Callable[..., str], simulator: Simulator, method: str) -> None:
    """One call, however long the interval is; the end is seen when it comes."""
    operation = name(duration=0.6)
    began = time.monotonic()
    assert await outcome(trigger(operation, poll_method=method)) == "S"
    assert time.monotonic() - began < 20.0  # the interval is 30 s
    assert len(simulator.calls("WaitOperation", operation)) == 1
    assert simulator.calls("GetOperation", operation) == []


async def test_service_without_it_is_polled(name: Callable[..., str], simulator: Simulator) -> None:
    """UNIMPLEMENTED costs no poll and no pause, and is asked for once by all waits of the process."""
    first, second = name(duration=0.3, unimplemented="wait"), name(duration=0.3)
    assert await outcome(trigger(first, interval=2.0)) == "S"
    assert len(simulator.calls("WaitOperation", first)) == 1
    asked = [call["time"] for call in simulator.calls() if call["name"] == first]
    assert asked[1] - asked[0] < 1.5
    assert await outcome(trigger(second, interval=0.1)) == "S"
    assert simulator.calls("WaitOperation", second) == []


async def test_failed_long_poll_is_not_a_reason_to_poll_more_often(
    name: Callable[..., str], simulator: Simulator
) -> None:
    """A long poll that fails is followed by an ordinary one, and then the schedule counts."""
    operation = name(duration=0.5, fault="14*6")
    assert await outcome(trigger(operation, interval=0.3, jitter=0.0)) == "S"
    asked = [call["time"] for call in simulator.calls() if call["name"] == operation]
    steps = [later for earlier, later in pairwise(asked) if later - earlier > 0.2]
    assert len(steps) >= 3
    assert len(asked) <= 2 * (len(steps) + 1)


@pytest.mark.parametrize("code", [5, 7, 3])
async def test_refused_long_poll_is_not_a_verdict(name: Callable[..., str], simulator: Simulator, code: int) -> None:
    """Only an ordinary poll decides: the right to wait may be another than the right to get."""
    operation = name(duration=0.2, fault=f"{code}*1")
    assert await outcome(trigger(operation, interval=2.0, not_found_grace=0.0)) == "S"
    first, second = [call for call in simulator.calls() if call["name"] == operation][:2]
    assert (first["method"], first["code"], second["method"]) == ("WaitOperation", code, "GetOperation")
    assert second["time"] - first["time"] < 1.5


async def test_deadline_holds(name: Callable[..., str], simulator: Simulator) -> None:
    """The server is asked to hold no longer than to the deadline, where one ordinary poll has the last word."""
    operation = name(outcome="never")
    began = time.monotonic()
    assert await outcome(trigger(operation, deadline=time.time() + 1.0)) == "T"
    assert 0.9 < time.monotonic() - began < 20.0
    assert len(simulator.calls("GetOperation", operation)) == 1


@pytest.mark.parametrize("is_first", [True, False], ids=["on the channel of polls", "on one of its own"])
async def test_kill_does_not_wait_for_the_server(fake: FakeService, is_first: bool) -> None:
    """A trigger that is stopped in the middle of a long poll is gone at once, with its channels."""
    if not is_first:
        assert await outcome(trigger(fake.add("done", ended=1.0))) == "S"
    asked, over = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold(method: str, name: str) -> None:
        if method == "WaitOperation":
            loop.call_soon_threadsafe(asked.set)
            over.wait(30)

    fake.before = hold
    waiting = asyncio.ensure_future(outcome(trigger(fake.add("running"))))
    await asked.wait()
    assert open_channels() == (1 if is_first else 2)
    began = time.monotonic()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert time.monotonic() - began < 10.0
    assert open_channels() == 0
    over.set()


async def test_many_ask_a_service_without_it_once(name: Callable[..., str], simulator: Simulator) -> None:
    """Waits that begin together ask once, and are polled meanwhile."""
    names = [name(duration=0.5, unimplemented="wait") for _ in range(50)]
    came = await asyncio.gather(*(outcome(trigger(each, interval=0.2)) for each in names))
    assert set(came) == {"S"}
    assert sum(call["name"] in names for call in simulator.calls("WaitOperation")) == 1


async def test_many_long_polls_have_connections_enough(name: Callable[..., str]) -> None:
    """Eighty to a connection, none of them the one for ordinary polls; all are closed again."""
    assert await outcome(trigger(name(duration=0))) == "S"  # the service has the method
    waits = [asyncio.ensure_future(outcome(trigger(name(duration=3)))) for _ in range(170)]
    most = 0
    while not all(wait.done() for wait in waits):
        most = max(most, open_channels())
        await asyncio.sleep(0.05)
    assert {wait.result() for wait in waits} == {"S"}
    assert most == 1 + 3
    assert open_channels() == 0
