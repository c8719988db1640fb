"""The trigger of asset watchers, in this process: what it lists, what it survives, and who shares a listing."""

from __future__ import annotations

import asyncio
import importlib
import json
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from airflow.triggers import base
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import struct_pb2

from airflow_provider_lro._transport import listing
from airflow_provider_lro._transport.channel import open_channels
from airflow_provider_lro.operation import OperationsClient
from airflow_provider_lro.simulator import operation_name
from tests.airflow.fake_service import PARENT
from tests.airflow.worker import longest_step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.airflow.fake_service import FakeService
    from tests.simulator_fixture import Simulator

HAS_WATCHERS = hasattr(base, "BaseEventTrigger")
needs_watchers = pytest.mark.skipif(not HAS_WATCHERS, reason="asset watchers came with Airflow 3.0")

_parents = count()


@pytest.fixture
def parent() -> str:
    """Give a parent that no other test has."""
    return f"projects/assets{next(_parents)}"


def trigger(parent: str, **kwargs: Any) -> Any:
    from airflow_provider_lro.assets import LongRunningOperationEventTrigger

    return LongRunningOperationEventTrigger(parent=parent, **{"interval": 1, "announce_existing": True, **kwargs})


def start(simulator: Simulator, parent: str, *scripts: dict[str, Any]) -> list[str]:
    """Make operations known to the simulator."""
    names = [f"{parent}/{operation_name(f'o{number}', **script)}" for number, script in enumerate(scripts)]
    with OperationsClient.connect(simulator.endpoint, insecure=True) as client:
        for name in names:
            client.get_operation(name)
    return names


async def first_event(events: AsyncIterator[Any]) -> dict[str, dict[str, Any]]:
    """The operations of the first event, by name."""
    event = await asyncio.wait_for(anext(events), 20)
    await events.aclose()  # type: ignore[attr-defined]
    return {operation["name"]: operation for operation in event.payload["operations"]}


def said(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@needs_watchers
@pytest.mark.no_cover  # which would take most of its time
async def test_many_finished_operations_do_not_hold_up_the_loop(fake: FakeService) -> None:
    """Neither their listing does, nor what is made of it, nor the choice of what is announced."""
    metadata = struct_pb2.Struct()
    metadata["end_time"] = "2026-01-01T00:00:00Z"
    operation = pb.Operation(done=True)
    operation.metadata.Pack(metadata)
    operation.response.Pack(struct_pb2.Struct())
    page = pb.ListOperationsResponse(operations=[operation] * 6_000)
    for number, each in enumerate(page.operations):
        each.name = f"{PARENT}/operations/{number}"
    fake.ListOperations = lambda request, context: page  # type: ignore[method-assign]
    events: list[dict[str, dict[str, Any]]] = []

    async def watch() -> None:
        events.append(await first_event(trigger(PARENT).run()))

    assert await longest_step(watch()) < 0.25
    assert len(events[0]) > 100
    assert {each["end_time"] for each in events[0].values()} == {"2026-01-01T00:00:00Z"}


@needs_watchers
async def test_event_names_what_has_finished(parent: str, simulator: Simulator) -> None:
    """Outcome, code and end of each; what runs still is not named. An event is plain JSON."""
    names = start(
        simulator,
        parent,
        {"duration": 0},
        {"duration": 0, "outcome": "fail", "code": 9},
        {"duration": 0, "outcome": "cancelled"},
        {"outcome": "never"},
    )
    named = await first_event(trigger(parent).run())
    assert json.loads(json.dumps(named)) == named
    assert [(name, each["outcome"], each.get("code")) for name, each in sorted(named.items())] == sorted(
        [(names[0], "Succeeded", None), (names[1], "Failed", 9), (names[2], "Cancelled", 1)]
    )
    assert all(each["end_time"].startswith("20") for each in named.values())
    await until(lambda: open_channels() == 0)
    assert not listing._listings


@needs_watchers
async def test_odd_operations_neither_end_it_nor_fill_the_event(
    fake: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    """A blank name, a name without end and an end that is none: the others are announced, and the log says so."""
    for number in range(3):
        fake.operations[fake.add(f"blank{number}", ended=1)].name = " " * number
    huge = f"{PARENT}/operations/{'x' * 70_000}"
    fake.operations[huge] = pb.Operation(name=huge, done=True)
    names = {fake.add("odd"), fake.add("good", ended=1)}
    odd = fake.operations[f"{PARENT}/operations/odd"]
    odd.done = True
    metadata = struct_pb2.Struct()
    metadata["end_time"] = "x" * 70_000
    odd.metadata.Pack(metadata)
    for each in names:
        fake.operations[each].response.Pack(struct_pb2.Struct())
    watcher = trigger(PARENT)
    events = watcher.run()
    event = await asyncio.wait_for(anext(events), 20)
    assert len(json.dumps(event.payload)) < 1000
    assert {operation["name"]: "end_time" in operation for operation in event.payload["operations"]} == {
        f"{PARENT}/operations/odd": False,
        f"{PARENT}/operations/good": True,
    }
    await events.aclose()
    await until(lambda: open_channels() == 0)
    assert len(said(caplog, "4 finished operations under 'projects/p' are not announced")) == 1


@needs_watchers
async def test_only_what_is_asked_for_is_named(parent: str, simulator: Simulator) -> None:
    """`outcomes` and the service's own filter."""
    names = start(simulator, parent, {"duration": 0}, *[{"duration": 0, "outcome": "fail"}] * 2)
    watcher = trigger(parent, outcomes="Failed, Cancelled", filter="name:o2")
    assert list(await first_event(watcher.run())) == [names[2]]


@needs_watchers
async def test_watchers_of_one_parent_share_a_listing(parent: str, simulator: Simulator) -> None:
    """Twenty triggers, each for itself as below Airflow 3.3: one listing an interval."""
    (name,) = start(simulator, parent, {"duration": 2.5})
    named = await asyncio.gather(*(first_event(trigger(parent).run()) for _ in range(20)))
    assert all(list(each) == [name] for each in named)
    assert 3 <= len(simulator.calls("ListOperations", parent)) <= 6
    assert not listing._listings


@needs_watchers
async def test_watchers_of_one_parent_share_a_stream(parent: str, simulator: Simulator) -> None:
    """The same through Airflow's own manager of shared streams, with different outcomes for each."""
    shared = pytest.importorskip("airflow.triggers.shared_stream")
    names = start(simulator, parent, {"duration": 1.5}, {"duration": 1.5, "outcome": "fail"})
    triggers = [trigger(parent), trigger(parent, outcomes="Failed")]
    keys = [each.shared_stream_key() for each in triggers]
    assert keys[0] == keys[1] != trigger(parent, filter="x").shared_stream_key()
    manager = shared.SharedStreamManager()
    streams = [
        each.filter_shared_stream(manager.subscribe(trigger_id=number, trigger=each, key=keys[0]))
        for number, each in enumerate(triggers)
    ]
    named = await asyncio.gather(*map(first_event, streams))
    assert [sorted(each) for each in named] == [sorted(names), [names[1]]]
    for number in range(2):
        await manager.unsubscribe(number, keys[0])
    assert len(simulator.calls("ListOperations", parent)) <= 4
    await until(lambda: open_channels() == 0)
    assert not listing._listings


@needs_watchers
async def test_listing_that_is_shared_with_waits(parent: str, simulator: Simulator) -> None:
    """A wait that is polled by listing and a watcher of the same parent share one listing."""
    from airflow_provider_lro.triggers import LongRunningOperationTrigger

    (name,) = start(simulator, parent, {"duration": 2.0})
    waiting = LongRunningOperationTrigger(
        operation_name=name, poll_method="list", list_parent=parent, interval=1.0, initial_delay=1.0, started_at=1.0
    )
    named, event = await asyncio.gather(first_event(trigger(parent).run()), anext(aiter(waiting.run())))
    assert list(named) == [name]
    assert event.payload["outcomes"] == "S"
    assert len(simulator.calls("ListOperations", parent)) <= 5
    assert not listing._listings


@needs_watchers
async def test_outage_is_outlived(parent: str, simulator: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    """An error is logged once, however long it lasts, and what finished meanwhile is announced."""
    start(simulator, parent, {"duration": 1.0})
    simulator.stop()
    event = asyncio.ensure_future(first_event(trigger(parent).run()))
    await until(lambda: said(caplog, "cannot be watched now"))
    await asyncio.sleep(2.5)
    simulator.start()
    assert await event
    assert len(said(caplog, "cannot be watched now")) == 1
    assert len(said(caplog, "are watched again")) == 1


@needs_watchers
async def test_refusal_does_not_end_it(
    simulator: Simulator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that does not list is asked again, seldom; the log says so once, as an error."""
    refused = f"simulations/unimplemented=list&message={next(_parents)}"
    event = asyncio.ensure_future(first_event(trigger(refused).run()))
    await until(lambda: said(caplog, "cannot be watched now"))
    await asyncio.sleep(2.5)
    assert len(simulator.calls("ListOperations", refused)) == 1
    monkeypatch.setattr(listing, "RETRY_REFUSED", 0.2)
    assert not event.done()
    event.cancel()
    await asyncio.wait([event])
    listing._listings.clear()  # that it is refused is remembered

    event = asyncio.ensure_future(first_event(trigger(refused).run()))
    await until(lambda: len(simulator.calls("ListOperations", refused)) >= 3)
    assert len(said(caplog, "cannot be watched now")) == 2
    event.cancel()
    await asyncio.wait([event])
    listing._listings.clear()


@needs_watchers
async def test_connection_that_is_wrong_does_not_end_it(
    parent: str, simulator: Simulator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once, and when the connection is right again, watching goes on."""
    from airflow_provider_lro import hooks
    from airflow_provider_lro.assets import _stream

    monkeypatch.setattr(_stream, "MIN_PAUSE", 0.2)
    monkeypatch.setattr(hooks, "CONNECTION_LIFETIME", 0.0)
    start(simulator, parent, {"duration": 0})
    monkeypatch.setenv("AIRFLOW_CONN_WATCHED", json.dumps({"conn_type": "lro", "host": "https://a.example"}))
    event = asyncio.ensure_future(first_event(trigger(parent, lro_conn_id="watched").run()))
    await until(lambda: said(caplog, "is a URL"))
    await asyncio.sleep(1.5)
    good = {"conn_type": "lro", "host": "127.0.0.1", "port": simulator.port, "extra": {"insecure": True}}
    monkeypatch.setenv("AIRFLOW_CONN_WATCHED", json.dumps(good))
    assert await event
    assert len(said(caplog, "cannot be watched now")) == 1


@needs_watchers
async def test_store_that_is_away_does_not_end_it(
    parent: str, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    """What Airflow's store raises is logged, and the next listing announces."""

    class Store:
        fails = 2

        async def aget(self, key: str, default: Any = None) -> Any:
            self.fails -= 1
            if self.fails >= 0:
                raise RuntimeError("the database is away")
            return default

        async def aset(self, key: str, value: Any) -> None: ...

    (name,) = start(simulator, parent, {"duration": 0})
    watcher = trigger(parent)
    watcher.asset_state_store = Store()
    assert list(await first_event(watcher.run())) == [name]
    assert len(said(caplog, "cannot be announced now")) == 2


WRONG = [
    ({"parent": ""}, "parent='', but it must be"),
    ({"filter": None}, "filter=None, but it must be a text"),
    ({"interval": 0.5}, "interval=0.5, but it must be seconds, from 1 to"),
    ({"interval": True}, "interval=True, but"),
    ({"announce_existing": "yes"}, "announce_existing='yes', but it must be True or False"),
    ({"outcomes": "Succeeded,Done"}, "but it must be a text with one or more of Succeeded, Failed, Cancelled"),
    ({"outcomes": ["Failed"]}, "outcomes=.*'Failed'.*, but"),
    ({"outcomes": ""}, "outcomes='', but"),
    ({"lro_conn_id": None}, "lro_conn_id=None, but it must be the id of a connection"),
    ({"endpoint": 443}, "endpoint=443, but it must be None or a text"),
]


@needs_watchers
@pytest.mark.parametrize(("wrong", "text"), WRONG)
async def test_wrong_argument(wrong: dict[str, Any], text: str, caplog: pytest.LogCaptureFixture) -> None:
    """Serializing says what is wrong, which makes it an error of the DAG file; a triggerer logs it and lives."""
    watcher = trigger(**{"parent": "p", **wrong})
    with pytest.raises(ValueError, match=text):
        watcher.serialize()
    assert watcher.shared_stream_key() is None
    running = asyncio.ensure_future(anext(watcher.run()))
    await until(lambda: said(caplog, "an argument of the watcher of"))
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])


@needs_watchers
def test_row_is_plain_and_stable() -> None:
    """Only what differs from its default is stored, and the same arguments make the same trigger."""
    from airflow_provider_lro.assets import LongRunningOperationEventTrigger as Trigger

    path, kwargs = Trigger(parent="p", interval=5).serialize()
    assert (path, kwargs) == (
        "airflow_provider_lro.assets.LongRunningOperationEventTrigger",
        {"parent": "p", "interval": 5},
    )
    again = Trigger(**json.loads(json.dumps(kwargs)))
    assert again.serialize() == (path, kwargs)
    assert Trigger.hash(path, kwargs) == Trigger.hash(*again.serialize())


@needs_watchers
async def test_store_belongs_to_what_is_watched() -> None:
    """Another interval keeps it; another parent, filter, connection or choice of outcomes has its own."""

    class Store(dict[str, Any]):
        async def aget(self, key: str, default: Any = None) -> Any:
            return self.get(key, default)

        async def aset(self, key: str, value: Any) -> None:
            self[key] = value

    async def one_listing() -> AsyncIterator[dict[bytes, Any]]:
        yield {}

    async def keys_of(parent: str, **kwargs: Any) -> tuple[str, ...]:
        watcher = trigger(parent, **kwargs)
        watcher.asset_state_store = store = Store()
        assert [event async for event in watcher.filter_shared_stream(one_listing())] == []
        return tuple(store)

    keys = await keys_of("p")
    assert len(keys) == 1
    assert await keys_of("p", interval=300, announce_existing=False) == keys
    others = [{"filter": "f"}, {"lro_conn_id": "c"}, {"endpoint": "e"}, {"outcomes": "Failed"}]
    assert len({keys, await keys_of("q"), *[await keys_of("p", **other) for other in others]}) == 6
    assert await keys_of("p", outcomes="Failed,Cancelled") == await keys_of("p", outcomes="Cancelled, Failed")


@pytest.mark.skipif(HAS_WATCHERS, reason="for Airflow 2")
def test_airflow_2_says_what_is_missing() -> None:
    """The import says which Airflow it needs."""
    with pytest.raises(ImportError, match=r"Airflow 3\.0 or newer, and this is Airflow 2\."):
        importlib.import_module("airflow_provider_lro.assets")
