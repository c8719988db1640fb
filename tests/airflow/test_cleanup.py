"""The operators that cancel what runs for too long and delete what has been done for long."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import struct_pb2

from airflow_provider_lro.exceptions import (
    Code,
    CredentialsError,
    LroError,
    OperationsFailed,
    OperationTimeout,
    RpcError,
    UnimplementedError,
)
from airflow_provider_lro.operators import CancelStaleOperationsOperator, DeleteFinishedOperationsOperator
from airflow_provider_lro.simulator import operation_name
from tests.airflow.fake_service import PARENT, FakeService
from tests.airflow.running import tasks
from tests.airflow.worker import FakeTaskInstance, fire, run
from tests.versions import DAG, AirflowSkipException, AirflowTaskTimeout, needs_partial_success

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.stack import AirflowStack
    from tests.simulator_fixture import Simulator

HOUR = 3600.0


class Log:
    """Stands for Airflow's logger, which is another one in each version."""

    def __init__(self, warnings: list[str]) -> None:
        self._warnings = warnings

    def info(self, text: str, *values: object) -> None:
        pass

    def warning(self, text: str, *values: object) -> None:
        self._warnings.append(text % values)


WAYS = pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "on the worker"])


def canceller(**kwargs: Any) -> CancelStaleOperationsOperator:
    return CancelStaleOperationsOperator(
        **{"task_id": "cancel", "parent": PARENT, "older_than": HOUR, "interval": 0.1, **kwargs}
    )


def deleter(**kwargs: Any) -> DeleteFinishedOperationsOperator:
    return DeleteFinishedOperationsOperator(**{"task_id": "delete", "parent": PARENT, "older_than": HOUR, **kwargs})


def thousand(service: FakeService) -> list[str]:
    """Fill a service with 1,000 operations, of which 100 are stale; returns their names."""
    stale = []
    for number in range(1000):
        kind = number % 10
        if kind == 0:
            stale.append(service.add(f"stale-{number}", age=2 * HOUR + number))
        elif kind < 5:
            service.add(f"done-{number}", age=3 * HOUR, ended=2 * HOUR)
        elif kind < 9:
            service.add(f"young-{number}", age=number / 2)
        else:
            service.add(f"unknown-{number}")
    return stale


# ── the checks ──


def test_exactly_the_stale_are_cancelled_32_at_a_time(fake: FakeService) -> None:
    """Of 1,000 operations 100 are stale: exactly these get one CancelOperation each, and never more than 32 at once."""
    stale = thousand(fake)
    # Comes back when 32 are on their way, so fewer would fail here; a 33rd has time to show up, and is counted.
    full = threading.Barrier(32, action=lambda: time.sleep(0.05))

    def hold(method: str, name: str) -> None:
        if method == "CancelOperation" and fake.acted(method).index(name) < 96:
            full.wait(20)

    fake.before = hold
    report = run(canceller()).result
    assert sorted(fake.acted("CancelOperation")) == sorted(stale)
    assert fake.most_at_once == 32
    assert report["counts"] == {
        **dict.fromkeys(report["counts"], 0),
        "listed": 1000,
        "done": 400,
        "young": 400,
        "unknown_age": 100,
        "asked": 100,
    }
    assert sorted(report["asked"]) == sorted(stale)
    assert len(report["unknown_age"]) == 100


def test_dry_run_only_reads(fake: FakeService) -> None:
    """A dry run says what would be asked and sends nothing but the listing."""
    stale = thousand(fake)
    report = run(canceller(dry_run=True, wait=True)).result
    assert {method for method, _ in fake.calls} == {"ListOperations"}
    assert sorted(report["would_cancel"]) == sorted(stale)
    assert report["counts"]["asked"] == 0


# ── which ──


def test_oldest_first_and_the_rest_remains(fake: FakeService) -> None:
    """With max_cancel the oldest are asked; those that remain are reported, in the order in which they would follow."""
    ages = {fake.add(f"o{age}", age=age * HOUR): age for age in (3, 9, 5, 7)}
    by_age = sorted(ages, key=lambda name: -ages[name])
    report = run(canceller(max_cancel=2)).result
    assert sorted(fake.acted("CancelOperation")) == sorted(by_age[:2])
    assert report["remaining"] == by_age[2:]
    dry = run(canceller(max_cancel=3, dry_run=True)).result
    assert (dry["would_cancel"], dry["remaining"]) == (by_age[:3], by_age[3:])


def test_a_clock_ahead_of_ours(fake: FakeService) -> None:
    """Created in a moment, by a clock a little ahead, is young; far in the future is no age at all."""
    fake.add("ahead", age=-60)
    future = fake.add("future", age=-2 * HOUR)
    report = run(canceller(older_than=1)).result
    assert report["counts"]["young"] == 1
    assert report["unknown_age"] == [future]
    assert fake.acted("CancelOperation") == []


@pytest.mark.parametrize("older_than", [1800, 1800.0, timedelta(minutes=30), "1800", " 1.8e3 "])
def test_ways_to_say_an_age(fake: FakeService, older_than: Any) -> None:
    """Seconds, a timedelta, or the text that a template leaves."""
    old, _ = fake.add("old", age=1900), fake.add("young", age=1700)
    assert run(canceller(older_than=older_than)).result["asked"] == [old]


def test_where_to_find_the_time(fake: FakeService) -> None:
    """A path or a function says where the time is; what a function cannot tell is not touched."""
    done = fake.add("x", age=2 * HOUR, ended=2 * HOUR)
    fake.operations[done].done = False
    bare = fake.add("bare", age=2 * HOUR)
    fake.operations[bare].ClearField("metadata")
    assert run(canceller(time_of="end_time")).result["asked"] == [done]

    def queued_at(operation: Any) -> float:
        assert operation.metadata(struct_pb2.Struct)["create_time"]
        return time.time() - 2 * HOUR

    report = run(canceller(time_of=queued_at)).result
    assert (report["asked"], report["unknown_age"]) == ([done], [bare])
    with pytest.raises(ValueError, match=r"time_of has returned .*, but it must be"):
        run(canceller(time_of=lambda operation: [1]))


def test_unknown_types_are_named_and_can_be_made_known(
    fake: FakeService,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Metadata of a type that the process does not know has no age, until type_modules brings the type."""
    (tmp_path / "stale_types.py").write_text(
        "from google.protobuf import descriptor_pb2, descriptor_pool\n"
        "file = descriptor_pb2.FileDescriptorProto(name='stale_types.proto', package='stale.types', syntax='proto3')\n"
        "message = file.message_type.add(name='Metadata')\n"
        "message.field.add(name='create_time', number=1, type=9, label=1)\n"
        "descriptor_pool.Default().AddSerializedFile(file.SerializeToString())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = b"2020-01-01T00:00:00Z"
    name = fake.add("typed")
    fake.operations[name].metadata.type_url = "type.googleapis.com/stale.types.Metadata"
    fake.operations[name].metadata.value = bytes([10, len(text)]) + text
    assert run(canceller()).result["unknown_age"] == [name]
    assert "stale.types.Metadata" in caplog.text + capsys.readouterr().out
    assert run(canceller(type_modules="stale_types")).result["asked"] == [name]
    assert run(canceller(type_modules=["stale_types"])).result["asked"] == [name]
    with pytest.raises(ValueError, match=r"type_modules: 'no\.such\.module' cannot be imported"):
        run(canceller(type_modules=["no.such.module"]))


@needs_partial_success
def test_listing_is_as_given(fake: FakeService) -> None:
    """Filter and page size reach the service unchanged; what it could not reach is reported."""
    fake.unreachable = ["projects/p/locations/eu"]
    report = run(canceller(filter='status = "RUNNING"', page_size=7, return_partial_success=True)).result
    (request,) = fake.requests
    assert (request.name, request.filter, request.page_size) == (PARENT, 'status = "RUNNING"', 7)
    assert report["unreachable"] == ["projects/p/locations/eu"]


@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_an_operation_without_a_name(fake: FakeService, blank: str) -> None:
    """It cannot be asked for, so it is left alone; all others are cleaned up."""
    fake.operations[fake.add("blank", age=3 * HOUR)].name = blank
    stale = fake.add("stale", age=2 * HOUR)
    report = run(canceller()).result
    assert (report["unknown_age"], report["asked"]) == ([blank], [stale])


@needs_partial_success
def test_texts_of_the_service_are_bounded_in_the_log(fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a service calls its types and places, it forges no line of the log and fills none."""
    for number in range(1000):
        odd = fake.operations[fake.add(f"o{number}")]
        odd.metadata.type_url = f"type.googleapis.com/x{number}\n[ERROR] forged{'x' * 1000}"
    fake.unreachable = ["a\n[ERROR] forged", *("y" * 1000 for _ in range(1000))]
    cleaning = canceller(return_partial_success=True)
    lines: list[str] = []
    monkeypatch.setattr(type(cleaning), "log", Log(lines))
    run(cleaning)
    lines = [line for line in lines if "left alone" in line or "not reached" in line]
    assert len(lines) == 2
    assert all("\n" not in line and "forged" in line and len(line) < 5000 for line in lines)


def test_overlapping_parents(fake: FakeService) -> None:
    """Each operation is asked once, however many of the parents list it."""
    old = fake.add("old", age=2 * HOUR)
    assert run(canceller(parent=["projects", PARENT, PARENT])).result["asked"] == [old]
    assert fake.acted("CancelOperation") == [old]
    assert fake.acted("ListOperations") == ["projects", PARENT]


# ── what a service may answer ──


def test_all_are_tried_before_an_error(fake: FakeService) -> None:
    """One refusal keeps no other from being asked; the error has every name, and the report is left behind."""
    names = [fake.add(f"o{number}", age=2 * HOUR) for number in range(5)]
    fake.faults["CancelOperation", names[0]] = (grpc.StatusCode.PERMISSION_DENIED, "not yours")
    fake.faults["CancelOperation", names[1]] = (grpc.StatusCode.FAILED_PRECONDITION, "x" * 2000)
    fake.faults["CancelOperation", names[2]] = (grpc.StatusCode.UNIMPLEMENTED, "never")
    ti = FakeTaskInstance()
    with pytest.raises(OperationsFailed, match="3 of 5 operations could not be cancelled") as raised:
        run(canceller(wait=True), ti=ti)
    assert {name: error.code for name, error in raised.value.errors.items()} == {
        names[0]: Code.PERMISSION_DENIED,
        names[1]: Code.FAILED_PRECONDITION,
        names[2]: Code.UNIMPLEMENTED,
    }
    report = ti.xcoms["return_value"]
    assert sorted(report["asked"]) == names[3:]
    assert report["unimplemented"] == [names[2]]
    refused = {one["name"]: one for one in report["refused"]}
    assert refused[names[0]] == {"name": names[0], "code": 7, "message": "not yours"}
    assert len(refused[names[1]]["message"]) == 500


def test_an_only_failure_is_raised_as_it_is(fake: FakeService) -> None:
    """With one stale operation there is no summary around its error."""
    fake.add("only", age=2 * HOUR)
    fake.faults["CancelOperation", ""] = (grpc.StatusCode.PERMISSION_DENIED, "not yours")
    with pytest.raises(RpcError, match="not yours"):
        run(canceller())


def test_what_ended_meanwhile_is_no_error(fake: FakeService) -> None:
    """Done or gone since the listing, or done when the service refuses: each is reported for what it is."""
    ended, gone, refused = (fake.add(name, age=2 * HOUR) for name in ("ended", "gone", "refused"))
    fake.faults["CancelOperation", refused] = (grpc.StatusCode.FAILED_PRECONDITION, "it is done")

    def meanwhile(method: str, name: str) -> None:
        if method == "GetOperation" and name == ended:
            fake.operations[ended].done = True
        elif method == "GetOperation" and name == gone:
            fake.operations.pop(gone, None)
        elif method == "CancelOperation":
            fake.operations[refused].done = True

    fake.before = meanwhile
    report = run(canceller()).result
    assert (sorted(report["finished"]), report["gone"], report["asked"]) == ([ended, refused], [gone], [])
    assert fake.acted("CancelOperation") == [refused]


@pytest.mark.parametrize("make", [canceller, deleter])
def test_a_service_that_cannot(fake: FakeService, make: Callable[..., Any]) -> None:
    """UNIMPLEMENTED fails the task, or skips it where there was nothing else to do."""
    verb = "CancelOperation" if make is canceller else "DeleteOperation"
    stale = [fake.add(f"o{number}", age=2 * HOUR, ended=2 * HOUR if make is deleter else None) for number in range(3)]
    fake.faults[verb, ""] = (grpc.StatusCode.UNIMPLEMENTED, "never")
    with pytest.raises(OperationsFailed):
        run(make())
    ti = FakeTaskInstance()
    with pytest.raises(AirflowSkipException):
        run(make(on_unimplemented="skip"), ti=ti)
    assert sorted(ti.xcoms["return_value"]["unimplemented"]) == stale
    assert callable(getattr(make(), "dry_run", print))  # Airflow's own, where there is one
    fake.faults = {(verb, stale[0]): (grpc.StatusCode.UNIMPLEMENTED, "not this")}
    report = run(make(on_unimplemented="skip")).result
    assert (report["unimplemented"], len(report["asked" if make is canceller else "deleted"])) == ([stale[0]], 2)
    fake.faults = {("ListOperations", ""): (grpc.StatusCode.UNIMPLEMENTED, "no lists")}
    with pytest.raises(UnimplementedError):
        run(make())
    with pytest.raises(AirflowSkipException, match="no lists"):
        run(make(on_unimplemented="skip"))


def test_a_parent_that_cannot_be_listed(fake: FakeService) -> None:
    """The others are cleaned up, then the task fails; a listing that breaks off is not acted on."""
    old = fake.add("old", age=2 * HOUR)
    fake.faults["ListOperations", "projects/q"] = (grpc.StatusCode.PERMISSION_DENIED, "not yours")
    with pytest.raises(OperationsFailed, match="1 of 2 parents and operations") as raised:
        run(canceller(parent=["projects/q", PARENT]))
    assert list(raised.value.errors) == ["projects/q"]
    assert fake.acted("CancelOperation") == [old]
    fake.add("another", age=2 * HOUR)

    def break_off(method: str, name: str) -> None:
        if len(fake.acted("ListOperations")) > 3:
            fake.faults["ListOperations", PARENT] = (grpc.StatusCode.UNAVAILABLE, "down")

    fake.before = break_off
    with pytest.raises(RpcError, match="down"):
        run(canceller(page_size=1))
    assert fake.acted("CancelOperation") == [old]


def test_refused_credentials_stop_it(fake: FakeService) -> None:
    """A thousand more calls would be refused, too; those that were not tried remain."""
    for number in range(200):
        fake.add(f"o{number}", age=2 * HOUR)
    fake.faults["GetOperation", ""] = (grpc.StatusCode.UNAUTHENTICATED, "who are you")
    ti = FakeTaskInstance()
    with pytest.raises(OperationsFailed) as raised:
        run(canceller(), ti=ti)
    assert all(isinstance(error, CredentialsError) for error in raised.value.errors.values())
    counts = ti.xcoms["return_value"]["counts"]
    assert counts["remaining"] > 0
    assert counts["remaining"] + counts["refused"] == 200
    assert len(fake.acted("GetOperation")) == counts["refused"]


def test_report_is_bounded(fake: FakeService) -> None:
    """However many there are, an XCom names 200 of a kind; the numbers and the error are of all."""
    names = [fake.add(f"o{number}", age=2 * HOUR) for number in range(300)]
    report = run(canceller(dry_run=True)).result
    assert (report["counts"]["would_cancel"], len(report["would_cancel"])) == (300, 200)
    fake.faults["CancelOperation", ""] = (grpc.StatusCode.PERMISSION_DENIED, "not yours")
    with pytest.raises(OperationsFailed, match="and 280 more") as raised:
        run(canceller())
    assert sorted(raised.value.errors) == sorted(names)


@pytest.mark.parametrize("make", [canceller, deleter])
def test_a_kill_begins_nothing_new(fake: FakeService, make: Callable[..., Any]) -> None:
    """Once told to stop, what is on its way ends, and no other is begun; a retry can take up the rest."""
    for number in range(300):
        fake.add(f"o{number}", age=2 * HOUR, ended=2 * HOUR if make is deleter else None)
    operator = make()
    verb = "CancelOperation" if make is canceller else "DeleteOperation"

    def kill(method: str, name: str) -> None:
        if method == verb and len(fake.acted(verb)) == 20:
            operator.on_kill()

    fake.before = kill
    ti = FakeTaskInstance()
    with pytest.raises(LroError, match="told to stop"):
        run(operator, ti=ti)
    assert 20 <= len(fake.acted(verb)) <= 20 + 2 * 32
    counts = ti.xcoms["return_value"]["counts"]
    assert counts["remaining"] == 300 - len(fake.acted(verb))


@pytest.mark.parametrize("moment", [20, 300])
def test_an_execution_timeout_begins_nothing_new(fake: FakeService, moment: int) -> None:
    """Airflow raises its timeout wherever the main thread is: what is on its way ends, and no other is begun."""
    for number in range(300):
        fake.add(f"o{number}", age=2 * HOUR)

    class OutOfTime(BaseException):
        pass

    def out_of_time(*_: Any) -> None:
        raise OutOfTime

    def interrupt(method: str, name: str) -> None:
        if method == "CancelOperation" and len(fake.acted(method)) == moment:
            os.kill(os.getpid(), signal.SIGUSR1)

    fake.before = interrupt
    before = signal.signal(signal.SIGUSR1, out_of_time)
    try:
        with pytest.raises(OutOfTime) as raised:  # its traceback keeps what is left of the loop from being collected
            run(canceller())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert raised.value
    asked = len(fake.acted("CancelOperation"))
    assert moment <= asked <= min(300, moment + 2 * 32)


# ── waiting for the outcomes ──

_parents = count()


@pytest.fixture
def start(simulator: Simulator) -> Callable[..., str]:
    """Make the simulator know an operation that has run for two hours, below a parent of this test's own."""
    from airflow_provider_lro.operation import OperationsClient

    parent = f"projects/stale-{next(_parents)}"
    ids = count()

    def make(**script: Any) -> str:
        started = {"start": int(time.time() - 2 * HOUR), "outcome": "never", **script}
        name = f"{parent}/{operation_name(f'o{next(ids)}', **started)}"
        with OperationsClient.connect(simulator.endpoint, insecure=True) as client:
            client.get_operation(name)
        return name

    make.parent = parent  # type: ignore[attr-defined]
    return make


@WAYS
def test_waits_for_the_outcomes(start: Any, simulator: Simulator, deferrable: bool) -> None:
    """Cancelled, or finished in spite of the cancel: what each came to is what is reported."""
    in_a_moment = time.time() - 2 * HOUR
    cancelled = [start(cancel_delay=delay) for delay in (0.1, 0.5, 0.2)]
    stubborn = start(outcome="ok", cancel="ignore", start=in_a_moment, duration=2 * HOUR + 2)
    waited = run(canceller(parent=start.parent, wait=True, deferrable=deferrable))
    assert sorted(waited.result["cancelled"]) == sorted(cancelled)
    assert waited.result["finished"] == [stubborn]
    assert waited.result["asked"] == []
    assert (waited.deferrals > 0) is deferrable
    for name in (*cancelled, stubborn):
        assert len(simulator.calls("CancelOperation", name)) == 1
    if deferrable:
        left = waited.ti.xcoms["return_value"]
        assert left["counts"]["asked"] > 0


@WAYS
def test_what_does_not_end_times_out(start: Any, deferrable: bool) -> None:
    """wait_timeout ends the wait; what had ended by then is in the report that is left behind."""
    cancelled, stubborn = start(), start(cancel="ignore")
    ti = FakeTaskInstance()
    with pytest.raises(OperationTimeout, match="1 operations were asked to cancel") as raised:
        run(canceller(parent=start.parent, wait=True, wait_timeout=0.5, deferrable=deferrable), ti=ti)
    assert stubborn in str(raised.value)
    assert ti.xcoms["return_value"]["cancelled"] == [cancelled]
    assert ti.xcoms["return_value"]["asked"] == [stubborn]


@WAYS
def test_what_cannot_be_read_any_more(fake: FakeService, deferrable: bool) -> None:
    """Gone is gone; one that may not be read any more is an error, after all others were waited for."""
    gone, ended, hidden, last = (fake.add(name, age=2 * HOUR) for name in ("a", "b", "c", "d"))

    def meanwhile(method: str, name: str) -> None:
        polled = fake.acted("GetOperation")
        if polled.count(last) == 3:
            fake.operations.pop(gone, None)
            fake.faults["GetOperation", hidden] = (grpc.StatusCode.PERMISSION_DENIED, "not any more")
            fake.operations[last].done = True
        if polled.count(ended) == 2:
            fake.operations[ended].done = True
            fake.operations[ended].error.code = 1

    fake.before = meanwhile
    ti = FakeTaskInstance()
    with pytest.raises(OperationsFailed, match="1 of 4 operations could not be read") as raised:
        run(canceller(wait=True, deferrable=deferrable), ti=ti)
    assert {name: error.code for name, error in raised.value.errors.items()} == {hidden: Code.PERMISSION_DENIED}
    report = ti.xcoms["return_value"]
    assert (report["gone"], report["cancelled"], report["finished"]) == ([gone], [ended], [last])
    assert report["unreadable"] == [{"name": hidden, "code": 7, "message": "not any more"}]
    assert report["counts"]["asked"] == 0


@WAYS
def test_names_that_do_not_tell_what_to_list(fake: FakeService, deferrable: bool) -> None:
    """Polled one at a time where poll_method="list" cannot be: nothing is lost once the cancels are sent."""
    name = f"{PARENT}/jobs/j"
    fake.operations[name] = fake.operations.pop(fake.add("j", age=2 * HOUR))
    fake.operations[name].name = name

    def end(method: str, _: str) -> None:
        if method == "GetOperation" and fake.acted("CancelOperation") and len(fake.acted("GetOperation")) > 3:
            fake.operations[name].done = True

    fake.before = end
    report = run(canceller(wait=True, poll_method="list", deferrable=deferrable)).result
    assert (report["finished"], report["counts"]["asked"]) == ([name], 0)


def test_report_outlives_whatever_ends_the_wait(fake: FakeService) -> None:
    """Whatever is raised once the cancels are sent, what was asked is the XCom."""
    name = fake.add("o", age=2 * HOUR)
    ti = FakeTaskInstance()
    waiting = canceller(wait=True)

    def spoil(method: str, _: str) -> None:
        if method == "CancelOperation":
            waiting.multiplier = "many"

    fake.before = spoil
    with pytest.raises((TypeError, ValueError)):
        run(waiting, ti=ti)
    assert ti.xcoms["return_value"]["asked"] == [name]


def test_a_wait_survives_an_outage(fake: FakeService) -> None:
    """A service that is down for a moment says nothing about the operations; refused credentials are an error."""
    names = [fake.add(name, age=2 * HOUR) for name in ("a", "b")]

    def meanwhile(method: str, name: str) -> None:
        polls = len(fake.acted("GetOperation"))
        if polls == 3:
            fake.faults["GetOperation", ""] = (grpc.StatusCode.UNAVAILABLE, "down")
        if polls == 5:
            del fake.faults["GetOperation", ""]
            fake.operations[names[1]].done = True
            fake.faults["GetOperation", names[0]] = (grpc.StatusCode.UNAVAILABLE, "down")
        if polls == 7:
            fake.faults["GetOperation", names[0]] = (grpc.StatusCode.UNAUTHENTICATED, "who are you")

    fake.before = meanwhile
    ti = FakeTaskInstance()
    with pytest.raises(OperationsFailed) as raised:
        run(canceller(wait=True), ti=ti)
    assert {name: type(error) for name, error in raised.value.errors.items()} == {names[0]: CredentialsError}
    report = ti.xcoms["return_value"]
    assert (report["asked"], report["finished"]) == ([], [names[1]])
    assert report["unreadable"] == [{"name": names[0], "code": 16, "message": "who are you"}]


def deferred(operator: CancelStaleOperationsOperator, ti: FakeTaskInstance) -> tuple[Any, dict[str, Any]]:
    """Run a task to its first deferral; gives its trigger's event and what else would cross."""
    from tests.versions import TaskDeferred

    with pytest.raises(TaskDeferred) as raised:
        operator.execute({"ti": ti})
    row = json.loads(json.dumps(raised.value.trigger.serialize()))
    return fire(row), json.loads(json.dumps(raised.value.kwargs))


def test_survives_dropped_arguments(start: Any, simulator: Simulator) -> None:
    """`airflow dags test` drops what crosses beside the event: nothing more is asked, max_cancel holds."""
    for _ in range(2):
        start(cancel_delay=0.2)
    ti = FakeTaskInstance()
    operator = canceller(parent=start.parent, wait=True, deferrable=True, max_cancel=1)
    event, _ = deferred(operator, ti)
    report = operator.execute_complete({"ti": ti}, event)
    assert (report["counts"]["cancelled"], report["counts"]["remaining"]) == (1, 1)
    sent = [call for call in simulator.calls("CancelOperation") if call["name"].startswith(f"{start.parent}/")]
    assert len(sent) == 1


def test_nothing_is_made_up_without_the_report(start: Any) -> None:
    """With no XCom and no arguments, what the event tells is all that is reported; without one it is a timeout."""
    names = [start(cancel_delay=0.5), start(cancel_delay=0.5)]
    ti = FakeTaskInstance()
    operator = canceller(parent=start.parent, wait=True, deferrable=True, do_xcom_push=False)
    event, _ = deferred(operator, ti)
    assert ti.xcoms == {}
    assert operator.execute_complete({"ti": ti}, event)["cancelled"] == names[:1]
    with pytest.raises(OperationTimeout, match="the triggerer has not reported"):
        operator.resume_execution("__fail__", {"error": "Trigger timeout"}, {"ti": ti})


def test_airflow_timeout_polls_once(start: Any) -> None:
    """Where no triggerer has reported in time, the worker polls: done is done, else it is a timeout."""
    start(cancel_delay=0.1)
    ti = FakeTaskInstance()
    operator = canceller(parent=start.parent, wait=True, deferrable=True)
    deferred(operator, ti)
    report = operator.resume_execution("__fail__", {"error": "Trigger timeout"}, {"ti": ti})
    assert report["counts"]["cancelled"] == 1
    start(cancel="ignore")
    deferred_ti = FakeTaskInstance()
    operator = canceller(parent=start.parent, wait=True, wait_timeout=0.1, deferrable=True)
    deferred(operator, deferred_ti)
    with pytest.raises(OperationTimeout):
        operator.resume_execution("__fail__", {"error": "Trigger timeout"}, {"ti": deferred_ti})


# ── deleting ──


def test_deletes_what_ended_long_ago(fake: FakeService) -> None:
    """The end counts, not the beginning; without an end that is known nothing is deleted."""
    old = fake.add("old", age=3 * HOUR, ended=2 * HOUR)
    fake.add("late", age=3 * HOUR, ended=60)
    fake.add("running", age=3 * HOUR)
    unknown = fake.add("unknown", age=3 * HOUR)
    fake.operations[unknown].done = True
    failed = fake.add("failed", ended=2 * HOUR, error=9)
    cancelled = fake.add("cancelled", ended=2 * HOUR, error=1)
    dry = run(deleter(dry_run=True, keep_failed=True)).result
    assert sorted(dry["would_delete"]) == sorted([old, cancelled])
    assert fake.acted("DeleteOperation") == []
    report = run(deleter(keep_failed=True)).result
    assert sorted(report["deleted"]) == sorted([old, cancelled])
    assert report["unknown_age"] == [unknown]
    assert {kind: report["counts"][kind] for kind in ("listed", "running", "kept", "young")} == {
        "listed": 6,
        "running": 1,
        "kept": 1,
        "young": 1,
    }
    assert run(deleter()).result["deleted"] == [failed]


def test_delete_oldest_first_and_gone_is_no_error(fake: FakeService) -> None:
    """max_delete takes those that ended first; one that somebody else has deleted meanwhile is gone."""
    names = [fake.add(f"o{age}", ended=age * HOUR) for age in (9, 7, 5)]
    fake.before = lambda method, name: fake.operations.pop(names[0], None) if method == "DeleteOperation" else None
    report = run(deleter(max_delete=2)).result
    assert (report["gone"], report["deleted"], report["remaining"]) == ([names[0]], [names[1]], [names[2]])


# ── the operators in a DAG ──


@pytest.mark.parametrize("operator", [CancelStaleOperationsOperator, DeleteFinishedOperationsOperator])
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"older_than": 0}, "older_than=0, but it must be a timedelta, or a number of seconds above 0"),
        ({"older_than": -1}, "older_than"),
        ({"older_than": timedelta(0)}, "older_than"),
        ({"older_than": True}, "older_than"),
        ({"older_than": float("nan")}, "older_than"),
        ({"older_than": float("inf")}, "older_than"),
        ({"older_than": None}, "older_than"),
        ({"older_than": 10**400}, "older_than"),
        ({"time_of": 5}, "time_of"),
        ({"time_of": " "}, "time_of"),
        *(({"dry_run": value}, "dry_run=.*, but it must be True or False") for value in (None, 0, "", "false")),
        ({"return_partial_success": 1}, "return_partial_success=1, but it must be True or False"),
        ({"page_size": 0}, "page_size"),
        ({"page_size": 2**31}, "page_size"),
        ({"type_modules": 5}, "type_modules"),
        ({"on_unimplemented": "ignore"}, "on_unimplemented='ignore', but it must be one of 'fail', 'skip'"),
    ],
)
def test_bad_argument_is_refused(operator: Any, arguments: dict[str, Any], complaint: str) -> None:
    """A value that makes no sense is a ValueError that names it, when the DAG is read."""
    with pytest.raises(ValueError, match=complaint):
        operator(**{"task_id": "x", "parent": PARENT, "older_than": 1, **arguments})


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: canceller(max_cancel=0), "max_cancel"),
        (lambda: canceller(max_cancel=True), "max_cancel"),
        (lambda: deleter(max_delete=-1), "max_delete"),
        (lambda: canceller(wait=None), "wait=None, but it must be True or False"),
        (lambda: deleter(keep_failed=None), "keep_failed=None, but it must be True or False"),
        (lambda: canceller(interval=0), "interval"),
        (lambda: canceller(wait_timeout=-1), "wait_timeout"),
        (lambda: run(canceller(older_than="{{ unrendered }}")), "older_than"),
        (lambda: run(canceller(older_than="-5")), "older_than"),
        (lambda: run(canceller(parent="")), "parent"),
        (lambda: run(canceller(parent=[PARENT, None])), "parent"),
        (lambda: run(canceller(parent={"name": PARENT})), "parent"),
        (lambda: run(canceller(parent=[{"name": PARENT}])), "parent"),
        (lambda: run(canceller(parent="None")), "parent is empty"),
        (lambda: run(canceller(parent="['projects/p']")), "parent is the text of a whole value"),
        (lambda: run(canceller(parent="{{ p }}")), "parent is a template that was not rendered"),
        (lambda: run(canceller(parent=" ")), "such as 'projects/p/locations/l'"),
        (lambda: run(canceller(page_size="9")), "page_size"),
    ],
)
def test_bad_value_is_refused(make: Callable[[], Any], complaint: str) -> None:
    """The same for what one of them has, or what only rendering shows."""
    with pytest.raises(ValueError, match=complaint):
        make()


def test_default_args_and_mapping_reach_every_argument() -> None:
    """default_args and partial() know the arguments of all the bases."""
    defaults = {"older_than": 60, "endpoint": "host:1", "rpc_timeout": 7, "max_cancel": 3, "on_unimplemented": "skip"}
    with DAG("stale_defaults", schedule=None, default_args=defaults):
        task = CancelStaleOperationsOperator(task_id="cancel", parent=PARENT)
        mapped = DeleteFinishedOperationsOperator.partial(task_id="delete", older_than=60, endpoint="host:1").expand(
            parent=[PARENT]
        )
    assert (task.older_than, task.endpoint, task.rpc_timeout) == (60, "host:1", 7)
    assert (task.max_cancel, task.on_unimplemented) == (3, "skip")
    assert mapped.partial_kwargs["endpoint"] == "host:1"


def test_templates() -> None:
    """Parent, filter and age may come from the run."""
    for operator in (CancelStaleOperationsOperator, DeleteFinishedOperationsOperator):
        assert {"parent", "filter", "older_than", "endpoint"} <= set(operator.template_fields)
    task = canceller(parent="projects/{{ p }}", older_than="{{ hours * 3600 }}")
    task.render_template_fields({"p": "x", "hours": 2})
    assert (task.parent, task.older_than) == ("projects/x", "7200")


def test_age_of_another_task() -> None:
    """An age may be another task's XCom, and each mapped instance may have its own; it is checked when it is known."""
    with DAG("stale_ages", schedule=None):
        task = canceller(older_than=deleter(task_id="age").output)
        CancelStaleOperationsOperator.partial(task_id="each", parent=PARENT).expand(older_than=["{{ params.age }}", 60])
    assert task.upstream_task_ids == {"age"}
    task.older_than = "soon"
    with pytest.raises(ValueError, match="older_than"):
        run(task)


@pytest.mark.airflow
@pytest.mark.timeout(480)
def test_in_a_real_airflow(airflow: AirflowStack, service: Simulator) -> None:
    """What is stale is cancelled, waited for in the triggerer, and deleted; a failing task leaves its report, too."""
    from airflow_provider_lro.operation import OperationsClient

    parent = "projects/sweep"
    started = {"start": int(time.time() - 2 * HOUR), "outcome": "never"}
    stale = sorted(f"{parent}/accept/{operation_name(f's{index}', **started, cancel_delay=2)}" for index in range(20))
    young = f"{parent}/accept/{operation_name('young', outcome='never')}"
    stubborn = f"{parent}/refuse/{operation_name('stubborn', **started, unimplemented='cancel')}"
    with OperationsClient.connect(service.endpoint, insecure=True) as client:
        for name in (*stale, young, stubborn):
            client.get_operation(name)
    run_id = airflow.trigger("sweep", {"parent": parent, "age": 3600})
    airflow.wait_for_run("sweep", run_id, timeout=400)
    assert {task: state.state for (task, _), state in tasks(airflow, "sweep", run_id).items()} == {
        "cancel": "success",
        "delete": "success",
        "fails": "failed",
        "skips": "skipped",
    }
    cancelled = airflow.xcom("sweep", run_id, "cancel")
    assert sorted(cancelled["cancelled"]) == stale
    assert (cancelled["asked"], cancelled["counts"]["young"]) == ([], 1)
    assert sorted(airflow.xcom("sweep", run_id, "delete")["deleted"]) == stale
    for task in ("fails", "skips"):
        assert airflow.xcom("sweep", run_id, task)["unimplemented"] == [stubborn]
    assert [len(service.calls("CancelOperation", name)) for name in (*stale, young)] == [1] * 20 + [0]
    assert "the triggerer waits from here on" in airflow.task_log("sweep", run_id, "cancel")


def test_failures_are_kept_that_a_listing_does_not_tell(fake: FakeService) -> None:
    """Some services list less of an operation than Get gives; one that cannot be read is not deleted."""
    fake.lists_results = False
    failed = fake.add("failed", ended=2 * HOUR, error=9)
    cancelled = fake.add("cancelled", ended=2 * HOUR, error=1)
    unreadable = fake.add("unreadable", ended=2 * HOUR, error=9)
    fake.faults["GetOperation", unreadable] = (grpc.StatusCode.PERMISSION_DENIED, "not yours")
    ti = FakeTaskInstance()
    with pytest.raises(OperationsFailed, match="not yours"):
        run(deleter(keep_failed=True), ti=ti)
    assert fake.acted("DeleteOperation") == [cancelled]
    assert set(fake.operations) == {failed, unreadable}
    assert ti.xcoms["return_value"]["counts"]["kept"] == 1
    assert [each["name"] for each in ti.xcoms["return_value"]["refused"]] == [unreadable]


@pytest.mark.parametrize("order", ["ahead", "behind"])
def test_a_parent_that_cannot_list_is_passed_over(fake: FakeService, order: str) -> None:
    """With on_unimplemented="skip" there is still what the others have, be it work or an error."""
    old = fake.add("old", age=2 * HOUR)
    fake.faults["ListOperations", "projects/r"] = (grpc.StatusCode.UNIMPLEMENTED, "no lists")
    parents = ["projects/r", PARENT] if order == "ahead" else [PARENT, "projects/r"]
    assert run(canceller(parent=parents, on_unimplemented="skip")).result["asked"] == [old]
    assert fake.acted("CancelOperation") == [old]
    fake.faults["ListOperations", "projects/q"] = (grpc.StatusCode.PERMISSION_DENIED, "not yours")
    with pytest.raises(RpcError, match="not yours"):
        run(canceller(parent=["projects/r", "projects/q"], on_unimplemented="skip"))
    with pytest.raises(AirflowSkipException, match="no lists"):
        run(canceller(parent=["projects/r", "projects/none"], on_unimplemented="skip"))


def test_report_outlives_an_execution_timeout_of_the_wait(fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked to cancel is in the XCom, although no more is known of it."""
    names = [fake.add(f"o{number}", age=2 * HOUR) for number in range(3)]

    def out_of_time(*_: object, **__: object) -> None:
        raise AirflowTaskTimeout("execution_timeout")

    monkeypatch.setattr(CancelStaleOperationsOperator, "await_outcomes", out_of_time)
    fake.before = lambda method, name: (
        setattr(fake.operations[name], "done", True) if method == "CancelOperation" and name == names[-1] else None
    )
    ti = FakeTaskInstance()
    with pytest.raises(AirflowTaskTimeout):
        run(canceller(wait=True, deferrable=False), ti=ti)
    assert ti.xcoms["return_value"]["counts"]["asked"] >= 2
