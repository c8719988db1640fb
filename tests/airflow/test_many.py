"""Many operations in one task: which are waited for, when it is over, and what comes of it."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import uuid
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro import sensors, triggers
from airflow_provider_lro._core.names import name_of, pack, unpack
from airflow_provider_lro._core.outcome import CallFailed, Failed
from airflow_provider_lro._core.state import OperationState
from airflow_provider_lro._messages import events
from airflow_provider_lro._messages.events import MAX_OPERATIONS, event_from_outcomes
from airflow_provider_lro._runner import group
from airflow_provider_lro._runner.worker import KilledByUser, WakeEvent
from airflow_provider_lro._transport.channel import open_channels
from airflow_provider_lro.exceptions import (
    EndpointError,
    MalformedOperation,
    OperationCancelled,
    OperationFailed,
    OperationNotFound,
    OperationsFailed,
    OperationTimeout,
    RpcError,
)
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.operators import CancelOperationOperator, _base
from airflow_provider_lro.sensors import LongRunningOperationSensor
from airflow_provider_lro.simulator import operation_name
from airflow_provider_lro.triggers import LongRunningOperationTrigger
from airflow_provider_lro.version_compat import TRIGGER_TIMEOUTS, AirflowTaskTerminated
from tests.airflow.fake_service import PARENT, FakeService
from tests.airflow.worker import FakeTaskInstance, fire, inflate, run
from tests.versions import (
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.simulator_fixture import Simulator

_parents = count()
MODES = {"deferrable": {"deferrable": True}, "poke": {"mode": "poke"}}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODES[request.param]


@pytest.fixture
def parent() -> str:
    """Give a parent that no other test has."""
    return f"projects/many{next(_parents)}"


@pytest.fixture(autouse=True)
def no_channel_is_left() -> Any:
    yield
    assert open_channels() == 0


def sensor(operation_name: Any = None, **kwargs: Any) -> LongRunningOperationSensor:
    defaults = {"task_id": "wait", "poke_interval": 0.1, "initial_delay": 0.1, "timeout": 20, "not_found_grace": 0}
    return LongRunningOperationSensor(operation_name=operation_name, **{**defaults, **kwargs})


def failure(waiting: LongRunningOperationSensor, ti: FakeTaskInstance | None = None) -> OperationsFailed:
    with pytest.raises(OperationsFailed) as raised:
        run(waiting, ti=ti)
    return raised.value


def gets(simulator: Simulator, names: Sequence[str]) -> list[int]:
    polled = [call["name"] for call in simulator.calls("GetOperation")]
    return [polled.count(name) for name in names]


# Which, and until when


def test_results_are_in_the_order_of_the_names(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """The XCom is the list of the responses, whatever the order in which the operations end."""
    names = [name(duration=0.6 - number / 10, response={"n": number}) for number in range(6)]
    waited = run(sensor([names[0], {"name": names[1]}, *names[2:]], **mode))
    assert waited.result == [{"n": float(number)} for number in range(6)]
    assert waited.deferrals == (1 if "deferrable" in mode else 0)


def test_one_in_a_list_is_a_list(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """A sequence of one gives a list of one result."""
    assert run(sensor([name(duration=0.2, response={"n": 1})], **mode)).result == [{"n": 1.0}]


def test_name_that_is_there_twice_counts_twice(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """A name may be repeated: it has as many places in the list, and one in the errors."""
    good, bad = name(duration=0.2, response={"n": 1}), name(duration=0.2, outcome="fail")
    assert run(sensor([good, good], **mode)).result == [{"n": 1.0}, {"n": 1.0}]
    error = failure(sensor([good, bad, bad], **mode))
    assert list(error.errors) == [bad]
    assert "2 of 3 operations failed (1 succeeded):" in str(error)


def test_none_to_wait_for_is_success(mode: dict[str, Any], parent: str) -> None:
    """All of no operations have succeeded; one of none cannot."""
    assert run(sensor([], **mode)).result == []
    assert run(sensor(parent=parent, **mode)).result == []
    with pytest.raises(ValueError, match="wait_for='any', but there are no operations"):
        run(sensor([], wait_for="any", **mode))


def test_any_ends_with_the_first(mode: dict[str, Any], name: Callable[..., str], simulator: Simulator) -> None:
    """wait_for="any" ends with the first success; the others go on, and have no result."""
    names = [name(outcome="never"), name(duration=0.1, outcome="fail"), name(duration=0.4, response={"n": 2})]
    assert run(sensor(names, wait_for="any", cancel_on_kill=True, **mode)).result == [None, None, {"n": 2.0}]
    assert simulator.calls("CancelOperation", names[0]) == []


def test_number_ends_when_it_is_reached(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """wait_for=2 ends with the second success."""
    names = [name(duration=0.2), name(outcome="never"), name(duration=0.4)]
    first, second, third = run(sensor(names, wait_for=2, **mode)).result
    assert (bool(first), second, bool(third)) == (True, None, True)


def test_number_that_cannot_be_reached_fails_at_once(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """When too many have failed, nobody waits for the others; with "all" everybody does."""
    names = [name(duration=0.2, outcome="fail"), name(outcome="never"), name(duration=0.2, outcome="fail")]
    began = time.monotonic()
    error = failure(sensor(names, wait_for=2, **mode))
    assert time.monotonic() - began < 10
    assert set(error.errors) == {names[0], names[2]}
    assert "2 of 3 operations failed (0 succeeded, 1 are not waited for any more)" in str(error)


def test_done_at_once_neither_defers_nor_is_polled_twice(
    mode: dict[str, Any], name: Callable[..., str], simulator: Simulator
) -> None:
    """Operations that are done already cost a poll each."""
    names = [name(duration=0) for _ in range(120)]
    done = run(sensor(names, **mode))
    assert done.deferrals == 0
    assert len(done.result) == 120
    assert set(gets(simulator, names)) == {1}


def test_worker_polls_no_more_than_it_must(name: Callable[..., str], simulator: Simulator) -> None:
    """The first that is not done is enough to know that all of them are not."""
    names = [name(duration=0), *(name(duration=30) for _ in range(300))]
    with pytest.raises(TaskDeferred):
        sensor(names, deferrable=True).execute({"ti": FakeTaskInstance()})
    assert sum(gets(simulator, names)) < 300
    with pytest.raises(TaskDeferred):
        sensor(names[1:], deferrable=True).execute({"ti": FakeTaskInstance()})
    assert gets(simulator, names[1:2]) >= [1]


def test_parent_is_listed_once(mode: dict[str, Any], parent: str, simulator: Simulator) -> None:
    """The operations that parent and filter list when the task starts are waited for; their names are an XCom."""
    from airflow_provider_lro._transport.client import OperationsClient

    names = [f"{parent}/{operation_name(f'o{number}', duration=0.7, response={'n': number})}" for number in range(4)]
    with OperationsClient.connect(simulator.endpoint, insecure=True) as client:
        for each in names:
            client.get_operation(each)
    waited = run(sensor(parent=parent, filter="done=false", **mode))
    order = waited.ti.xcoms["operation_names"]
    assert sorted(order) == names
    assert waited.result == [{"n": float(names.index(each))} for each in order]
    assert len(simulator.calls("ListOperations", parent)) == 1
    assert run(sensor(parent=parent, filter="done=false", **mode)).result == []


def test_listing_that_repeats_itself_counts_each_once(mode: dict[str, Any], fake: FakeService) -> None:
    """An operation that moves to the next page while a service lists is one, and one success."""
    done, runs = fake.add("a", ended=1), fake.add("b")
    fake.operations[f"{PARENT}/operations/moved"] = fake.operations[done]
    ti = FakeTaskInstance()
    assert [
        type(error) for error in failure(sensor(parent=PARENT, wait_for=2, timeout=0.5, **mode), ti).errors.values()
    ] == [OperationTimeout]
    assert ti.xcoms["operation_names"] == [done, runs]


def test_listing_of_nameless_operations(mode: dict[str, Any], fake: FakeService) -> None:
    """An operation without a name cannot be polled, and is not waited for."""
    fake.operations[fake.add("blank")].name = " "
    done = fake.add("a", ended=1)
    ti = FakeTaskInstance()
    assert run(sensor(parent=PARENT, **mode), ti=ti).result == [{}]
    assert ti.xcoms["operation_names"] == [done]


def test_listing_of_too_many_is_refused_in_time(fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is read than is needed to know, and no XCom is written."""
    monkeypatch.setattr(events, "MAX_OPERATIONS", 3)
    for number in range(1000):
        fake.add(f"o{number}")
    ti = FakeTaskInstance()
    with pytest.raises(
        ValueError, match=r"4 operations are more than one task can wait for \(3\): narrow them with filter"
    ):
        run(sensor(parent=PARENT), ti=ti)
    assert ti.xcoms == {}
    assert fake.acted("ListOperations") == [PARENT]


def test_listing_finds_them(parent: str, simulator: Simulator) -> None:
    """poll_method="list": one listing an interval for all of them."""
    names = [f"{parent}/{operation_name(f'o{number}', duration=2)}" for number in range(100)]
    lists = {"poll_method": "list", "list_parent": parent, "poke_interval": 0.4, "initial_delay": 0.4}
    began = time.monotonic()
    assert len(run(sensor(names, deferrable=True, **lists)).result) == 100
    assert 1 <= len(simulator.calls("ListOperations", parent)) <= (time.monotonic() - began) / 0.36 + 2
    # Where the listing before did not know of it yet, and for the end: without a listing it would be seven each.
    assert sum(gets(simulator, names)) <= 4 * len(names)


def test_locations_have_channels_of_their_own(simulator: Simulator, mode: dict[str, Any]) -> None:
    """With {location} in the endpoint each operation is asked for where it is; a name without one is refused."""
    places = ("here", "there", "here")
    names = [
        f"projects/p/locations/{place}/{operation_name(f'there{next(_parents)}', duration=0.3, response={'n': place})}"
        for place in places
    ]
    endpoint = f"{{location}}.localhost:{simulator.port}"
    assert run(sensor(names, endpoint=endpoint, **mode)).result == [{"n": place} for place in places]
    with pytest.raises(EndpointError, match="has no"):
        run(sensor([names[0], "simulations/duration=1/operations/nowhere"], endpoint=endpoint, **mode))
    nowhere = f"projects/p/locations/nowhere/{operation_name('a')}"
    with pytest.raises(EndpointError, match="does not resolve"):
        run(
            sensor(
                [nowhere.replace("nowhere", "localhost"), nowhere], endpoint=f"{{location}}:{simulator.port}", **mode
            )
        )
    targets = {channel.target for channel in sensor(endpoint=endpoint, parent="p").hook().channels(names)}
    assert targets == {f"{place}.localhost:{simulator.port}" for place in places}


# Failures


def test_failures_come_together(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """All are waited for, one error has them all by name, no retry, and what has succeeded is an XCom."""
    names = [
        name(duration=0.1, outcome="fail", code=9, message="disk full", details="ErrorInfo"),
        name(duration=0.5, response={"n": 1}),
        name(duration=0.3, outcome="cancelled"),
        name(duration=0.2, not_found=99),
        name(duration=0.2, outcome="neither"),
    ]
    ti = FakeTaskInstance()
    error = failure(sensor(names, require_result=True, **mode), ti)
    kinds = {names[0]: OperationFailed, names[2]: OperationCancelled, names[3]: OperationNotFound}
    kinds[names[4]] = MalformedOperation
    assert {each: type(found) for each, found in error.errors.items()} == kinds
    assert error.errors[names[0]].code == 9
    assert error.errors[names[0]].details[0]["@type"].endswith("ErrorInfo")
    assert isinstance(error, AirflowFailException)
    assert "4 of 5 operations failed (1 succeeded)" in str(error)
    assert "disk full" in str(error)
    assert ti.xcoms["results"] == [None, {"n": 1.0}, None, None, None]


def test_operation_that_could_not_be_reached_may_be_retried(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """One operation of which nothing is known makes a retry worth it, and is not a reason to skip."""
    names = [name(duration=0.1, outcome="fail"), name(duration=0.1, fault="7*forever", fault_after=1)]
    names = names if "deferrable" in mode else [names[0], name(fault="7*forever")]
    error = failure(sensor(names, soft_fail=True, **mode))
    assert not isinstance(error, AirflowFailException)
    assert isinstance(error.errors[names[1]], RpcError)


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ({"outcome": "fail"}, {"soft_fail": True}),
        ({"outcome": "cancelled"}, {"on_cancelled": "skip"}),
        ({"fault": "7*forever"}, {"never_fail": True}),
    ],
)
def test_skips_by_the_rules_for_one(
    mode: dict[str, Any], name: Callable[..., str], script: dict[str, Any], how: dict[str, Any]
) -> None:
    """Each error that would be a skip alone is one together with others that would be, too; results are kept."""
    names = [name(duration=0.2, response={"n": 0}), name(duration=0.2, **script)]
    ti = FakeTaskInstance()
    with pytest.raises(AirflowSkipException, match="1 of 2 operations failed"):
        run(sensor(names, **how, **mode), ti=ti)
    assert ti.xcoms["results"] == [{"n": 0.0}, None]


def test_on_cancelled_skips_nothing_but_cancels(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """A failure beside a cancelled operation is a failure."""
    names = [name(duration=0.1, outcome="cancelled"), name(duration=0.1, outcome="fail")]
    assert len(failure(sensor(names, on_cancelled="skip", **mode)).errors) == 2


def test_endpoint_that_cannot_be_right_fails_at_once(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """A fault of the connection is one error, and not one for each operation."""
    with pytest.raises(EndpointError):
        run(sensor([name() for _ in range(50)], endpoint="nosuchhost.invalid:1", **mode))


def test_text_of_many_failures_is_short(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """A thousand failures are in the error, and twenty in its text."""
    names = [name(duration=0.1, outcome="fail") for _ in range(300)]
    error = failure(sensor(names, **mode))
    assert list(error.errors) == names
    assert str(error).count("\n- ") == 20
    assert "… and 280 more" in str(error)


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "on the worker"])
def test_cancels_and_their_errors_come_together(name: Callable[..., str], deferrable: bool) -> None:
    """All are asked, and waited for, before the errors are raised; the XCom has what became of each."""
    names = {
        "cancelled": name(outcome="never"),
        "refused": name(outcome="never", unimplemented="cancel"),
        "late": name(outcome="never", cancel="ignore"),
        "succeeded": name(duration=0),
    }
    how = {"interval": 0.1, "initial_delay": 0.1, "wait_timeout": 1.0, "deferrable": deferrable}
    ti = FakeTaskInstance()
    with pytest.raises(OperationsFailed, match="2 of 4 operations could not be cancelled") as raised:
        run(CancelOperationOperator(task_id="cancel", operation_name=[*names.values()], wait=True, **how), ti=ti)
    errors = raised.value.errors
    assert {each: error.code for each, error in errors.items()} == {names["refused"]: 12, names["late"]: 4}
    cancelled, refused, late, succeeded = ti.xcoms["return_value"]
    assert cancelled == {"name": names["cancelled"], "asked": True, "outcome": "cancelled"}
    assert (refused["name"], refused["error"]["code"]) == (names["refused"], 12)
    assert (late["asked"], late["outcome"], late["error"]["code"]) == (True, "timed_out", 4)
    assert succeeded == {"name": names["succeeded"], "asked": False, "outcome": "succeeded"}


# Time


def test_timeout_names_those_that_are_not_done(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """At the timeout each that is not done is an OperationTimeout, and the others have their results."""
    names = [name(duration=0.1, response={"n": 0}), name(outcome="never")]
    ti = FakeTaskInstance()
    error = failure(sensor(names, timeout=0.8, **mode), ti)
    (timeout,) = error.errors.values()
    assert isinstance(timeout, OperationTimeout)
    assert "was not done within 0.8 s: it goes on" in str(timeout)
    assert isinstance(error, AirflowFailException)
    assert ti.xcoms["results"] == [{"n": 0.0}, None]


def test_on_timeout_cancels_all_that_are_left(
    mode: dict[str, Any], name: Callable[..., str], simulator: Simulator
) -> None:
    """Each operation that runs at the timeout is asked to cancel, a few at a time, and its end is waited for."""
    names = [name(outcome="never") for _ in range(100)] + [name(duration=0.1)]
    error = failure(sensor(names, timeout=1.5, on_timeout="cancel", wait_for=99, **mode))
    assert len(error.errors) == 100
    assert all("and is cancelled" in str(each) for each in error.errors.values())
    asked = [call["name"] for call in simulator.calls("CancelOperation")]
    assert sorted(each for each in asked if each in set(names)) == sorted(names[:100])


def test_execution_timeout_may_be_retried(name: Callable[..., str]) -> None:
    """An execution_timeout that is shorter than the timeout ends a try of the deferred wait, not the sensor."""
    names = [name(outcome="never") for _ in range(2)]
    error = failure(sensor(names, execution_timeout=timedelta(seconds=0.5), deferrable=True))
    assert all(isinstance(each, AirflowTaskTimeout) for each in error.errors.values())
    assert not isinstance(error, AirflowFailException)


def test_worker_polls_where_no_trigger_has_reported(name: Callable[..., str]) -> None:
    """When Airflow's own timeout ends the deferral, the worker polls itself."""
    waiting = sensor([name(duration=0, response={"n": 0})] * 2, deferrable=True)
    late = {"error": TRIGGER_TIMEOUTS[0]}
    assert waiting.resume_execution("__fail__", late, {"ti": FakeTaskInstance()}) == [{"n": 0.0}] * 2


def test_parent_is_not_listed_again_where_no_trigger_has_reported(name: Callable[..., str], parent: str) -> None:
    """A parent is not listed again, as it would list others: the names come from the XCom, or it is a timeout."""
    late = {"error": TRIGGER_TIMEOUTS[0]}
    waiting = sensor(parent=parent, deferrable=True)
    ti = FakeTaskInstance(xcoms={"operation_names": [name(duration=0, response={"n": 0})]})
    assert waiting.resume_execution("__fail__", late, {"ti": ti}) == [{"n": 0.0}]
    with pytest.raises(OperationTimeout, match="the XCom 'operation_names' of the operations under"):
        waiting.resume_execution("__fail__", late, {"ti": FakeTaskInstance()})


# What crosses


def deferred(waiting: LongRunningOperationSensor) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as raised:
        waiting.execute({"ti": FakeTaskInstance()})
    return raised.value


def test_row_is_small(name: Callable[..., str]) -> None:
    """Ten thousand names take little of a row, and come back as they were."""
    names = [name(duration=60, message=str(uuid.uuid4())) for _ in range(10_000)]
    waiting = deferred(sensor(names, deferrable=True))
    row = json.dumps(waiting.trigger.serialize())
    assert len(row) < 400 * 1024
    assert unpack(json.loads(row)[1]["operation_names"]) == names
    assert waiting.kwargs == {"names": json.loads(row)[1]["operation_names"]}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), max_size=50))
def test_names_come_back_as_they_were(names: list[str]) -> None:
    """The text that crosses to the trigger is plain, and has all names, of any letters and number."""
    packed = pack(names)
    assert packed.isascii()
    assert unpack(json.loads(json.dumps(packed))) == names


def test_event_leaves_out_results_without_room(name: Callable[..., str], simulator: Simulator) -> None:
    """Results beyond 64 KiB are read again by the worker, each once, and none is lost; so are failures."""
    scripts = [{"response_bytes": 3000} if number % 2 else {"outcome": "fail"} for number in range(200)]
    names = [name(duration=1, message=f"{number}-{'x' * 300}", **script) for number, script in enumerate(scripts)]
    ti = FakeTaskInstance()
    event = fire(trigger(names, started_at=time.time()).serialize())
    error = failure(sensor(names, deferrable=True), ti)
    assert len(json.dumps(event)) <= 64 * 1024
    assert event["outcomes"] == "FS" * 100
    assert 0 < len(event["known"]) < 200
    assert [len(json.dumps(each)) > 3000 for each in ti.xcoms["results"]] == [False, True] * 100
    assert [each.message[:4] for each in error.errors.values()] == [f"{number}-xxxx"[:4] for number in range(0, 200, 2)]


@pytest.mark.parametrize("size", [10, 100_000])
def test_event_of_many_errors_costs_little(size: int) -> None:
    """Once there is no room, errors are not made into entries any more: an event loop waits meanwhile."""
    made = 0

    class Counted(RpcError):
        def __str__(self) -> str:
            nonlocal made
            made += 1
            return "x" * size

    names = [f"operations/{number}" for number in range(MAX_OPERATIONS)]
    failed = CallFailed(error=Counted("never shown", code=3))
    event = event_from_outcomes([failed, None] * (MAX_OPERATIONS // 2), names, started_at=0.0)
    assert len(json.dumps(event)) <= 64 * 1024
    assert event["outcomes"] == "B." * (MAX_OPERATIONS // 2)
    assert 0 < len(event["known"]) <= made < 1000


def test_event_holds_first_what_cannot_be_read_again() -> None:
    """A thousand failures of operations take no room from one call that failed, nor does any that is too large."""
    names = [f"operations/{number}" for number in range(1001)]
    failed = Failed(operation=OperationState(name="o", done=True, code=9, message="m" * 5000))
    found = [*[failed] * 1000, CallFailed(error=RpcError("why", code=3))]
    event = event_from_outcomes(found, names, started_at=0.0)
    assert "why" in json.dumps(event["known"]["1000"])


def test_result_that_cannot_be_read_again_is_not_a_success(
    name: Callable[..., str], simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verdict stands whose result has no room in the event and is gone since; it is not a result."""
    monkeypatch.setattr(triggers, "MAX_KEPT", 0)
    from airflow_provider_lro._transport.client import OperationsClient

    names = [name(duration=0.5), name(duration=0.5, outcome="fail"), name(duration=0.5, outcome="cancelled")]

    def forget() -> None:
        with OperationsClient.connect(simulator.endpoint, insecure=True) as client:
            for each in names:
                client.delete_operation(each)

    with pytest.raises(OperationsFailed) as raised:
        run(sensor(names, deferrable=True), before_resume=forget)
    names_of_errors = [type(each).__name__ for each in raised.value.errors.values()]
    assert names_of_errors == ["ResultGone", "OperationFailed", "OperationCancelled"]
    assert "has succeeded, but its result could not be read again" in str(raised.value.errors[names[0]])
    assert "could not be read again" in str(raised.value.errors[names[1]])


def test_dags_test_drops_the_names(name: Callable[..., str], parent: str) -> None:
    """Without the names that were deferred, the task's own are taken; a parent's are in the XCom."""
    names = [name(duration=0.3, response={"n": number}) for number in range(3)]
    waiting = sensor(names, deferrable=True)
    event = json.loads(json.dumps(fire(deferred(waiting).trigger.serialize())))
    expected = [{"n": float(number)} for number in range(3)]
    assert waiting.execute_complete({"ti": FakeTaskInstance()}, event) == expected
    of_parent = sensor(parent=parent, deferrable=True)
    known = FakeTaskInstance(xcoms={"operation_names": names})
    assert of_parent.execute_complete({"ti": known}, event) == expected
    assert of_parent.execute_complete({"ti": FakeTaskInstance()}, event) == []


def test_event_about_others_is_refused(name: Callable[..., str]) -> None:
    """An event that has not one letter for each name is not understood."""
    event = {"outcomes": "SS", "known": {}, "started_at": 0.0}
    with pytest.raises(ValueError, match="it has 2 outcomes, but this task waits for 1"):
        sensor([name()], deferrable=True).execute_complete({"ti": FakeTaskInstance()}, event, names=pack(["a"]))
    event = {"name": "a", "outcomes": "?", "known": {}, "started_at": 0.0}
    with pytest.raises(ValueError, match="it says"):
        sensor([name()], deferrable=True).execute_complete({"ti": FakeTaskInstance()}, event, names=pack(["a"]))


def test_connection_that_is_gone_is_one_error(name: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A trigger without a channel fires one error for all."""
    names = [name(duration=9) for _ in range(3)]
    waiting = deferred(sensor(names, deferrable=True, timeout=1.5))
    monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", '{"conn_type": "lro", "host": "https://wrong"}')
    event = fire(waiting.trigger.serialize())
    with pytest.raises(EndpointError, match="is a URL"):
        sensor(names, deferrable=True).execute_complete({"ti": FakeTaskInstance()}, event, names=pack(names))


# In the triggerer


def trigger(names: Sequence[str], **kwargs: Any) -> LongRunningOperationTrigger:
    now = time.time()
    times = {"interval": 0.2, "initial_delay": 0.2, "started_at": now - 10, "deadline": now + 40}
    return LongRunningOperationTrigger(operation_names=names, **{**times, **kwargs})


async def test_rebuilt_trigger_finds_what_is_done(name: Callable[..., str]) -> None:
    """A trigger that is stopped and built again from its row misses nothing."""
    names = [name(duration=0.1 * (number % 10), response={"n": number}) for number in range(50)]
    first = trigger(names)
    running = asyncio.ensure_future(anext(first.run()))  # type: ignore[arg-type]
    await asyncio.sleep(0.5)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert open_channels() == 0
    event = await anext(inflate(json.loads(json.dumps(first.serialize()))).run())
    assert event.payload["outcomes"] == "S" * 50


async def test_log_has_few_lines(name: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    """A thousand operations, of which each fails some polls, make a line an interval."""
    caplog.set_level("INFO")
    names = [name(duration=0.5, fault="14*1", outcome="fail" if number % 2 else "ok") for number in range(400)]
    await anext(trigger(names, interval=0.5).run())  # type: ignore[arg-type]
    lines = [record.getMessage() for record in caplog.records]
    assert 0 < len(lines) < 10
    assert lines[-1].startswith("400 of 400 operations are done, 200 of them failed; 400 polls have failed")


@pytest.mark.parametrize("method", ["get", "wait"])
async def test_large_metadata_of_many_is_not_kept(
    fake: FakeService, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Of operations that run it is dropped where it is large, however they were polled; of one alone it is kept."""
    names = [fake.add("a", age=1.0), fake.add("b", age=1.0)]

    async def kept(names: Sequence[str]) -> list[bool]:
        short = trigger(names, poll_method=method, deadline=time.time() + 0.6)
        event = (await anext(short.run())).payload  # type: ignore[call-overload]
        return ["metadata" in entry["operation"] for entry in event["known"].values()]

    assert await kept(names) == [True, True]
    monkeypatch.setattr(group, "MAX_METADATA_OF_MANY", 10)
    assert await kept(names) == [False, False]
    assert await kept(names[:1]) == [True]
    assert bool(fake.acted("WaitOperation")) is (method == "wait")


async def test_kill_cancels_what_is_not_done(
    name: Callable[..., str], simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's kill asks to cancel each operation that is not done, and no other; a shutdown asks none."""
    names = [name(duration=0), *(name(outcome="never") for _ in range(80))]
    for state, asked in (("up_for_retry", set()), ("failed", set(names[1:]))):
        monkeypatch.setattr("airflow_provider_lro.triggers.state_of", lambda ti, state=state: state)
        waiting = trigger(names, cancel_on_kill=True)
        waiting.task_instance = FakeTaskInstance()
        running = asyncio.ensure_future(anext(waiting.run()))  # type: ignore[arg-type]
        before = sum(gets(simulator, names[1:]))
        # By then the first, which is done, was polled, too. (A trigger has no event for it.)
        while sum(gets(simulator, names[1:])) < before + 3 * len(names):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await waiting.on_kill()
        assert {call["name"] for call in simulator.calls("CancelOperation")} & set(names) == asked


async def test_second_cancel_leaves_no_wait_behind() -> None:
    """The waits that were not cancelled yet are, too, though nobody waits for them any more."""
    ended = 0

    async def act(index: int) -> bool:
        nonlocal ended
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.2)
            ended += 1
        return False

    waiting = asyncio.ensure_future(group.run_all(act, range(3 * group.STEP_SIZE)))
    for _ in range(2):
        await asyncio.sleep(0.1)
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()}, timeout=5)
    assert ended == 3 * group.STEP_SIZE


async def test_wait_that_was_cancelled_from_inside_ends_none_of_the_others() -> None:
    """It is an error, and means neither that enough are done nor that the task was killed."""

    async def act(index: int) -> bool:
        await asyncio.sleep(0.01)
        if not index:
            raise asyncio.CancelledError
        return False

    with pytest.raises(RuntimeError, match="nobody had asked for it"):
        await group.run_all(act, range(3))


def test_failure_without_errors_may_be_retried() -> None:
    """Where no operation says anything, none says that it stays so."""
    assert sensors._final(OperationsFailed("", errors={})) is None
    final = sensors._final(OperationsFailed("", errors={"x": OperationFailed("")}))
    assert final is not None
    assert issubclass(final, AirflowFailException)


# On a worker, where signals and kills strike into the main thread


@pytest.fixture(params=[1, 20], ids=["one", "many"])
def running(request: pytest.FixtureRequest, name: Callable[..., str]) -> list[str]:
    """Give operations that never end by themselves."""
    return [name(outcome="never") for _ in range(request.param)]


@contextmanager
def alarm(error: type[BaseException], seconds: float) -> Iterator[None]:
    """Raise an error in the main thread in some seconds, as Airflow's signal handlers do."""

    def strike(*_: Any) -> None:
        raise error("Timeout, PID: 1")

    before = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def cancelled(simulator: Simulator, names: Sequence[str]) -> list[str]:
    return sorted(call["name"] for call in simulator.calls("CancelOperation") if call["name"] in names)


@pytest.fixture(params=[1, 20], ids=["one", "many"])
def killed(request: pytest.FixtureRequest, fake: FakeService) -> Any:
    """Give a sensor's maker whose operations never end; it is told to stop when all are polled once, and thrice."""
    names = [fake.add(f"o{number}") for number in range(request.param)]

    def make(given: Any, **kwargs: Any) -> LongRunningOperationSensor:
        waiting = sensor(given, mode="poke", **kwargs)
        rounds = [1, 3]

        def stop(method: str, name: str) -> None:
            polled = fake.acted("GetOperation")
            if rounds and min(map(polled.count, names)) >= rounds[0]:
                del rounds[0]
                waiting.on_kill()

        fake.before = stop
        return waiting

    make.names = names  # type: ignore[attr-defined]
    return make


def test_kill_on_a_worker_cancels_what_is_not_done(
    killed: Any, fake: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop that no user has asked for changes nothing; in a user's state all that are not done are cancelled."""
    states = iter(["running", "failed"])
    monkeypatch.setattr(_base, "state_of", lambda ti: next(states))
    is_one = len(killed.names) == 1
    names = killed.names[0] if is_one else [fake.add("done", ended=1.0), *killed.names]
    with pytest.raises(
        KilledByUser, match=rf"has asked to cancel; .*\[operation '{names}'\]" if is_one else r"\[21 operations\]"
    ):
        run(killed(names, cancel_on_kill=True))
    assert next(states, None) is None
    assert sorted(fake.acted("CancelOperation")) == sorted(killed.names)


def test_kill_that_the_end_of_a_poll_overtakes_is_heeded(fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time at which the task's thread has woken for it, the first poll is over, and its end has been told."""
    wait = WakeEvent.wait

    def overtaken(wake: WakeEvent, seconds: float) -> bool:
        return wait(wake, seconds) and not wait(wake, 10)

    monkeypatch.setattr(WakeEvent, "wait", overtaken)
    monkeypatch.setattr(_base, "state_of", lambda ti: "failed")
    name = fake.add("o")
    waiting = sensor(name, mode="poke", cancel_on_kill=True, timeout=2)
    fake.before = lambda method, name: waiting.on_kill() if len(fake.calls) == 1 else None
    with pytest.raises(KilledByUser):
        run(waiting)
    assert fake.acted("CancelOperation") == [name]


def test_kill_without_cancel_on_kill_leaves_the_operations_alone(
    killed: Any, fake: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks for the task's state, and the wait goes on to its deadline."""
    monkeypatch.setattr(_base, "state_of", {}.popitem)
    assert all(isinstance(each, OperationTimeout) for each in failure(killed(killed.names, timeout=2)).errors.values())
    assert fake.acted("CancelOperation") == []


@pytest.mark.parametrize(("state", "is_kill"), [("failed", True), ("running", False)])
def test_kill_by_an_exception_cancels_in_a_users_state(
    running: list[str], simulator: Simulator, monkeypatch: pytest.MonkeyPatch, state: str, is_kill: bool
) -> None:
    """Airflow 2 raises out of its signal handler: the exception goes on, after the cancels."""
    monkeypatch.setattr(_base, "state_of", lambda ti: state)
    with alarm(AirflowTaskTerminated, 1.0), pytest.raises(AirflowTaskTerminated, match="PID"):
        run(sensor(running, mode="poke", cancel_on_kill=True))
    assert cancelled(simulator, running) == (sorted(running) if is_kill else [])


@pytest.mark.parametrize("on_timeout", ["fail", "cancel"])
def test_execution_timeout_on_a_worker_polls_once_more(
    running: list[str], name: Callable[..., str], simulator: Simulator, on_timeout: str
) -> None:
    """Airflow's exception ends the wait: what is not done is polled for the last time, and ``on_timeout`` is obeyed."""
    done = [name(duration=0.1, response={"n": 0})] * (len(running) > 1)
    ti = FakeTaskInstance()
    waiting = sensor(
        [*done, *running],
        mode="poke",
        on_timeout=on_timeout,
        execution_timeout=timedelta(seconds=1),
        poke_interval=30,
        initial_delay=0.5,
        multiplier=60,
    )
    with alarm(AirflowTaskTimeout, 2.0):
        error = failure(waiting, ti)
    assert list(error.errors) == running
    assert all(isinstance(each, AirflowTaskTimeout) for each in error.errors.values())
    assert not isinstance(error, AirflowFailException)
    effect = "is cancelled" if on_timeout == "cancel" else "it goes on"
    assert all(effect in str(each) for each in error.errors.values())
    assert ti.xcoms["results"] == [{"n": 0.0}] * len(done) + [None] * len(running)
    assert cancelled(simulator, running) == (sorted(running) if on_timeout == "cancel" else [])
    assert min(gets(simulator, running)) >= 2


def test_execution_timeout_finds_what_is_done_by_then(running: list[str], name: Callable[..., str]) -> None:
    """An operation that has ended in a pause is a success, though nobody has polled it in time."""
    names = [name(duration=0.5, response={"n": number}) for number in range(len(running))]
    waiting = sensor(names, mode="poke", poke_interval=30, initial_delay=30, execution_timeout=timedelta(seconds=1))
    with alarm(AirflowTaskTimeout, 3.0):
        assert run(waiting).result == [{"n": float(number)} for number in range(len(names))]


class Alarm(WakeEvent):
    """Airflow's alarm of `execution_timeout`, which comes in a pause, right after something has happened in it.

    It stands in for the operator's wake event.
    """

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self._happens = happens
        self._polled = False

    def nudge(self) -> None:
        """Learn that all were polled once."""
        self._polled = True
        super().nudge()

    def wait(self, seconds: float) -> bool:
        if not self._polled:
            return super().wait(seconds)
        self._happens()
        raise AirflowTaskTimeout("Timeout, PID: 1")


def test_cancel_before_execution_timeout_is_somebody_elses(running: list[str], simulator: Simulator) -> None:
    """What the last poll finds cancelled was not cancelled by the wait, which asks only after that poll."""

    def happens() -> None:
        with LongRunningOperationHook() as hook:
            for operation in running:
                hook.cancel_operation(operation)

    waiting = sensor(running, mode="poke", on_timeout="cancel", poke_interval=30, initial_delay=30)
    waiting._wake = Alarm(happens)
    assert [type(each) for each in failure(waiting).errors.values()] == [OperationCancelled] * len(running)
    assert cancelled(simulator, running) == sorted(running)


def test_cancel_before_execution_timeout_is_our_own_after_the_deadline(
    name: Callable[..., str], simulator: Simulator
) -> None:
    """An alarm in ``cancel_grace`` finds the effect of the cancel that the wait has asked for."""
    operation = name(outcome="never", cancel_delay=0.2)

    def happens() -> None:
        with LongRunningOperationHook() as hook:
            while not hook.get_operation(operation).done:
                time.sleep(0.05)

    waiting = sensor(
        operation, mode="poke", timeout=0.1, on_timeout="cancel", cancel_grace=60, poke_interval=30, initial_delay=30
    )
    waiting._wake = Alarm(happens)
    with pytest.raises(OperationTimeout, match="is cancelled"):
        run(waiting)
    assert cancelled(simulator, [operation]) == [operation]


def test_end_of_the_work_is_not_a_stop() -> None:
    """The thread that waits is woken by both, and heeds a kill only when it is told to stop."""
    wake = WakeEvent()
    wake.nudge()
    wake.set()
    assert [wake.wait(1.0), wake.wait(1.0), wake.wait(0.0)] == [False, True, False]


# What is refused

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "give operation_name"),
    "both": ({"operation_name": "a", "parent": "b"}, "there is both of operation_name and parent"),
    "filter of nothing": ({"operation_name": "a", "filter": "done=true"}, "give parent"),
    "wait_for": ({"operation_name": ["a"], "wait_for": "some"}, "wait_for=.*, but it must be"),
    "wait_for 0": ({"operation_name": ["a"], "wait_for": 0}, "wait_for=.*, but it must be"),
    "wait_for True": ({"operation_name": ["a"], "wait_for": True}, "wait_for=.*, but it must be"),
    "reschedule": ({"operation_name": ["a", "b"], "mode": "reschedule"}, "for many use deferrable=True"),
    "end": ({"parent": "a", "end_from_trigger": True, "deferrable": True}, "many need a worker|needs Airflow 3.3"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refused_at_construction(why: str) -> None:
    """Arguments that make no sense are refused where the DAG is parsed, with what to do instead."""
    kwargs, text = REFUSED[why]
    with pytest.raises(ValueError, match=text):
        LongRunningOperationSensor(task_id="wait", **kwargs)


@pytest.mark.parametrize(
    ("rendered", "kwargs", "text"),
    [
        (["operations/a", None], {}, "must be a non-empty text"),
        (["operations/a", "None"], {}, "has no value"),
        (None, {}, "there is neither of operation_name and parent, perhaps after rendering: give operation_name"),
        (["a", "b"], {"wait_for": 3}, "wait_for=3, but there are only 2 operations: give a number from 1 to 2"),
        ([], {"wait_for": "any"}, 'there are no operations .*: give "all" if none are a success'),
        (["a", "a", "b"], {"wait_for": 2}, "an operation that is named twice would count twice"),
        (["a", "b"], {"mode": "reschedule"}, "for many use deferrable=True"),
    ],
)
def test_refused_when_rendered(rendered: Any, kwargs: dict[str, Any], text: str) -> None:
    """A value that is wrong once it is rendered is refused before anything is polled."""
    waiting = sensor("{{ a template }}", **kwargs)
    waiting.operation_name = rendered
    with pytest.raises(ValueError, match=text):
        run(waiting)


@pytest.mark.parametrize(
    ("rendered", "text"),
    [
        (None, "there is neither of operation_name and parent, perhaps after rendering"),
        ("None", "parent is empty"),
        ("['projects/p']", "parent is the text of a whole value"),
        ("{{ unrendered }}", "parent is a template that was not rendered"),
        (["projects/p"], "such as 'projects/p/locations/l'"),
    ],
)
def test_parent_that_a_template_has_spoiled(simulator: Simulator, rendered: Any, text: str) -> None:
    """It is an error, instead of a success with nothing listed."""
    waiting = sensor(parent="{{ a template }}")
    waiting.parent = rendered
    before = len(simulator.calls("ListOperations"))
    with pytest.raises(ValueError, match=text):
        run(waiting)
    assert len(simulator.calls("ListOperations")) == before


def test_mapping_that_contains_itself_has_no_name() -> None:
    """It is a clear error, at any depth; one mapping in another is not."""
    endless: dict[str, Any] = {}
    endless["name"] = endless
    with pytest.raises(ValueError, match="a mapping whose 'name' is a mapping"):
        name_of(endless)
    assert name_of({"name": {"name": "operations/a"}}) == "operations/a"


def test_more_than_there_is_room_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event has a letter for each operation, so there is a limit."""
    monkeypatch.setattr(events, "MAX_OPERATIONS", 2)
    with pytest.raises(ValueError, match="more than one task can wait for"):
        run(sensor(["a", "b", "c"]))


@pytest.mark.parametrize("delay", [0.0, 0.5])
@pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "on the worker"])
def test_any_that_is_done_needs_no_other_host(
    fake: FakeService, monkeypatch: pytest.MonkeyPatch, delay: float, deferrable: bool
) -> None:
    """A location whose host is wrong is an error, unless enough are done without it."""
    stored = {"conn_type": "lro", "host": "{location}", "port": fake.port, "extra": {"insecure": True}}
    monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", json.dumps(stored))
    running, done = "p/locations/localhost/operations/a", "p/locations/localhost/operations/b"
    nowhere = "p/locations/no-such-host-invalid/operations/c"
    fake.operations[running] = pb.Operation(name=running)
    fake.operations[done] = pb.Operation(name=done, done=True)
    fake.operations[done].response.Pack(struct_pb2.Struct())
    fake.before = lambda method, name: time.sleep(delay)
    for names in ([running, done, nowhere], [nowhere, running, done]):
        found = run(sensor(names, wait_for="any", deferrable=deferrable)).result
        assert found == [{} if each == done else None for each in names]
    for names, wait_for in (([done, nowhere], "all"), ([running, nowhere], "any"), ([done, nowhere, running], 2)):
        with pytest.raises(EndpointError, match="does not resolve"):
            run(sensor(names, wait_for=wait_for, deferrable=deferrable))
