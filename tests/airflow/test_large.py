"""Answers that are too large for a triggerer, which all its waits share: a worker reads them."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import any_pb2, struct_pb2

from airflow_provider_lro._core.state import MAX_KEPT_METADATA
from airflow_provider_lro._transport.listing import Subscription
from airflow_provider_lro.exceptions import Code, OperationsFailed, OperationTimeout, RpcError
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.sensors import LongRunningOperationSensor
from tests.airflow.fake_service import PARENT
from tests.airflow.worker import run

if TYPE_CHECKING:
    from tests.airflow.fake_service import FakeService

LARGE = 1_500_000
"""Bytes that are more than a triggerer reads, and less than a page of its listings may have."""


def padding(size: int) -> any_pb2.Any:
    """Return an Any of so many bytes."""
    packed = any_pb2.Any()
    packed.Pack(struct_pb2.Struct(fields={"padding": struct_pb2.Value(string_value="x" * size)}))
    return packed


class Ending:
    """Ends operations, each at a GetOperation of its own; and counts those."""

    def __init__(self, fake: FakeService) -> None:
        self._fake = fake
        self._ends: dict[str, tuple[int, Any]] = {}
        fake.before = self._act

    def add(self, name: str, *, at: int, size: int = 0, error: int | None = None, done: bool = True) -> str:
        """Add an operation that ends at such a poll, with a response of so many bytes, or an error."""
        full = self._fake.add(name)
        change = pb.Operation(done=done)
        if error is not None:
            change.error.code = error
        elif done:
            change.response.CopyFrom(padding(size))
        else:
            change.metadata.CopyFrom(padding(size))
        self._ends[full] = at, change
        return full

    def polls(self, name: str) -> int:
        return self._fake.acted("GetOperation").count(name)

    def _act(self, method: str, name: str) -> None:
        at, change = self._ends.get(name, (0, None))
        if method == "GetOperation" and change is not None and self.polls(name) >= at:
            operation = self._fake.operations[name]
            if change.HasField("metadata"):
                operation.ClearField("metadata")
            if not operation.done:
                operation.MergeFrom(change)


@pytest.fixture
def ending(fake: FakeService) -> Ending:
    return Ending(fake)


def waiting(names: Any, **more: Any) -> LongRunningOperationSensor:
    more = {"poke_interval": 0.2, "initial_delay": 0.1, "timeout": 40, "deferrable": True, **more}
    return LongRunningOperationSensor(task_id="wait", operation_name=names, **more)


def test_large_answer_is_read_by_the_worker(ending: Ending) -> None:
    """The event says so in a few bytes, the worker reads it once, and its response is the result."""
    name = ending.add("o", at=3, size=LARGE)
    done = run(waiting(name))
    (event,) = done.events
    assert event["outcomes"] == "L"
    assert len(json.dumps(event)) < 2000
    assert len(done.result["padding"]) == LARGE
    assert ending.polls(name) == 4


def test_large_error_is_read_by_the_worker(ending: Ending, fake: FakeService) -> None:
    """It is the operation's failure, with its own code."""
    name = ending.add("o", at=2, error=9)
    fake.operations[name].metadata.CopyFrom(padding(LARGE))
    with pytest.raises(Exception, match="failed with FAILED_PRECONDITION") as caught:
        run(waiting(name, end_from_trigger=False))
    assert caught.value.code is Code.FAILED_PRECONDITION  # type: ignore[attr-defined]


def test_operation_that_still_runs_is_an_error(ending: Ending) -> None:
    """It names the size, the extra, and the way without; Airflow may retry it; one poll on the worker was enough."""
    name = ending.add("o", at=2, size=LARGE, done=False)
    said = r"still runs, and .* too large .*15\d{5} vs. 1048576.*raise max_triggerer_message_mb.*deferrable=False"
    with pytest.raises(RpcError, match=said) as caught:
        run(waiting(name, never_fail=False))
    assert type(caught.value) is RpcError
    assert ending.polls(name) == 3


def test_extra_raises_the_limit(ending: Ending, monkeypatch: pytest.MonkeyPatch, fake: FakeService) -> None:
    """With room in the triggerer its event has the outcome."""
    extra = {"insecure": True, "max_triggerer_message_mb": 2}
    monkeypatch.setenv(
        "AIRFLOW_CONN_LRO_DEFAULT",
        json.dumps({"conn_type": "lro", "host": "127.0.0.1", "port": fake.port, "extra": extra}),
    )
    done = run(waiting(ending.add("o", at=2, size=LARGE)))
    assert done.events[0]["outcomes"] == "S"
    assert len(done.result["padding"]) == LARGE


@pytest.mark.parametrize("deferrable", [True, False])
def test_worker_has_its_own_limit(
    ending: Ending, fake: FakeService, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    """What is larger than `max_message_mb` is an error at once, that names this extra."""
    extra = {"insecure": True, "max_message_mb": 1}
    monkeypatch.setenv(
        "AIRFLOW_CONN_LRO_DEFAULT",
        json.dumps({"conn_type": "lro", "host": "127.0.0.1", "port": fake.port, "extra": extra}),
    )
    with pytest.raises(RpcError, match="raise max_message_mb in"):
        run(waiting(ending.add("o", at=2, size=LARGE), deferrable=deferrable))


@pytest.mark.parametrize("wanted", ["all", "any", 2, 3])
def test_group_waits_for_the_others_first(ending: Ending, wanted: Any) -> None:
    """One that is left to a worker is neither a success nor a failure; the worker's answer decides."""
    names = [ending.add("large", at=2, size=LARGE), *(ending.add(f"o{each}", at=6 + 4 * each) for each in range(2))]
    done = run(waiting(names, wait_for=wanted))
    letters = done.events[0]["outcomes"]
    assert letters == {"all": "LSS", "any": ".S.", 2: ".SS", 3: "LSS"}[wanted]
    assert [len((each or {}).get("padding", "")) for each in done.result] == [LARGE if "L" in letters else 0, 0, 0]
    assert ending.polls(names[0]) == (3 if "L" in letters else 2)


def test_group_without_enough_successes_asks_the_worker(ending: Ending) -> None:
    """It fails only where what the worker reads is not a success, either."""
    names = [ending.add("large", at=2, size=LARGE), ending.add("failed", at=3, error=9)]
    assert len(run(waiting(names, wait_for="any")).result[0]["padding"]) == LARGE
    names = [ending.add("running", at=2, size=LARGE, done=False), ending.add("also", at=3, error=9)]
    with pytest.raises(OperationsFailed) as caught:
        run(waiting(names, wait_for="any"))
    assert "still runs" in str(caught.value.errors[names[0]])


@pytest.mark.no_cover  # which would take most of its time
def test_very_many_large_answers_are_all_read(ending: Ending) -> None:
    """Of those whose error has no room in the event the letter says enough."""
    names = [ending.add(f"o{each}", at=2, size=LARGE) for each in range(150)]
    done = run(waiting(names, rpc_timeout=120))
    assert done.events[0]["outcomes"] == "L" * len(names)
    assert len(done.events[0]["known"]) < len(names)
    assert all(len(each["padding"]) == LARGE for each in done.result)


def test_failed_poll_on_the_worker_is_made_again(ending: Ending, fake: FakeService) -> None:
    """A call that fails there says nothing about the operation, either."""
    name = ending.add("o", at=2, size=LARGE)
    act, failed = fake.before, []

    def fail_once(method: str, called: str) -> None:
        act(method, called)
        if ending.polls(name) == 3:
            failed.append(called)
            raise RuntimeError("a fault of the service")

    fake.before = fail_once
    assert len(run(waiting(name)).result["padding"]) == LARGE
    assert failed


def test_cancel_at_the_deadline_stays_a_timeout(ending: Ending, fake: FakeService) -> None:
    """What the worker finds cancelled then is the doing of the trigger."""
    name = fake.add("o")

    def cancel(method: str, called: str) -> None:
        if method == "CancelOperation":
            fake.operations[name].error.code = 1
            fake.operations[name].done = True
            fake.operations[name].metadata.CopyFrom(padding(LARGE))

    fake.before = cancel
    with pytest.raises(OperationTimeout, match="asked to cancel then, and is cancelled"):
        run(waiting(name, timeout=1, on_timeout="cancel", on_cancelled="skip"))


@pytest.mark.parametrize("size", [300_000, 5_000_000], ids=["smaller pages", "each by itself"])
def test_page_that_does_not_fit_is_asked_for_by_tenths(ending: Ending, fake: FakeService, size: int) -> None:
    """Down to one operation; where that is too large, too, the operation is polled."""
    name = fake.add("o")
    for each in range(20):
        fake.operations[fake.add(f"other{each}")].metadata.CopyFrom(padding(size))
    act = fake.before

    def end(method: str, called: str) -> None:
        act(method, called)
        sizes = [each.page_size for each in fake.requests if hasattr(each, "page_size")]
        if method == "GetOperation" and 10 in sizes and (size < LARGE or 1 in sizes):
            fake.operations[name].response.Pack(struct_pb2.Struct())
            fake.operations[name].done = True

    fake.before = end
    assert run(waiting(name, poll_method="list", poke_interval=0.3)).result == {}
    sizes = [each.page_size for each in fake.requests if hasattr(each, "page_size")]
    assert sizes[:3] == [1000, 100, 10]
    assert (1 in sizes) == (size > LARGE)


async def test_watcher_says_which_extra_raises_the_limit(fake: FakeService) -> None:
    """A listing that cannot be read is an error that names it."""
    from airflow_provider_lro._transport.client import AsyncOperationsClient

    fake.operations[fake.add("o", ended=1)].response.CopyFrom(padding(5_000_000))
    (config,) = await LongRunningOperationHook().async_channels([PARENT], is_stored=False)
    watcher = Subscription(AsyncOperationsClient, config, PARENT, interval=10.0)
    try:
        with pytest.raises(RpcError, match=r"raise max_triggerer_message_mb in the \S+ extra \[ListO"):
            await asyncio.wait_for(watcher.next(), 30)
    finally:
        watcher.unsubscribe()


@pytest.mark.parametrize("deferrable", [True, False])
def test_large_metadata_of_what_still_runs_is_not_kept(
    ending: Ending, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    """Neither in the triggerer nor on a worker; what may be handed out as XCom is."""
    for size in (40_000, 2 * MAX_KEPT_METADATA):
        name = ending.add(f"o{size}", at=1, size=size, done=False)
        task = waiting(name, timeout=0.5, deferrable=deferrable, on_timeout="fail")
        began = time.monotonic()
        with pytest.raises(OperationTimeout) as caught:
            run(task)
        assert time.monotonic() - began < 30
        assert caught.value.operation is not None
        assert ("metadata" in caught.value.operation) == (size < MAX_KEPT_METADATA)
