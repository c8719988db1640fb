"""Rows and events that a release has stored: they must work with every later version.

Nothing is released yet: until then the files are made anew whenever a format changes. From the first release on, a
file gets no more changes, and a later version adds one of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import struct_pb2
from google.rpc import error_details_pb2, status_pb2

from airflow_provider_lro._core.names import unpack
from airflow_provider_lro._core.outcome import CallFailed, Cancelled, Failed, NotFound, Succeeded, TimedOut
from airflow_provider_lro._core.state import JsonPayload, OperationState, Payload
from airflow_provider_lro._messages.events import event_from_outcomes, outcomes_from_event, to_read_again
from airflow_provider_lro.exceptions import (
    Code,
    LroError,
    OperationFailed,
    OperationNotFound,
    OperationsFailed,
    OperationTimeout,
    RpcError,
)
from airflow_provider_lro.sensors import LongRunningOperationSensor
from airflow_provider_lro.triggers import LongRunningOperationTrigger
from tests.airflow.worker import FakeTaskInstance, inflate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from airflow_provider_lro._core.outcome import Outcome

HERE = Path(__file__).parent
STARTED_AT = 1795237200.25
NAME = "projects/p/locations/l/operations/o"


def golden(file: str) -> dict[str, Any]:
    """Return the entries of a golden file, by their titles."""
    return {entry["title"]: entry for entry in json.loads((HERE / file).read_text())}


ROWS = golden("trigger_rows_0.1.json")


@pytest.mark.parametrize("title", ROWS)
def test_rows_of_the_first_version_inflate_unchanged(title: str) -> None:
    """A row that 0.1 wrote is the same trigger to this version, makes sense to it, and is written again as it was."""
    row = ROWS[title]
    rebuilt = inflate((row["classpath"], row["kwargs"]))
    assert type(rebuilt) is LongRunningOperationTrigger
    rebuilt.check()
    assert rebuilt.serialize() == (row["classpath"], row["kwargs"])
    packed = rebuilt.operation_names
    assert row["names"] == ([rebuilt.operation_name] if packed is None else unpack(packed))


def test_rows_hold_every_argument() -> None:
    """An argument that is added gets a row, of the version that brings it."""
    names = {name for row in ROWS.values() for name in row["kwargs"]}
    assert names == {field.name for field in fields(LongRunningOperationTrigger)}


def test_a_row_of_defaults_holds_the_name_alone() -> None:
    """A value that equals its default stays out of the row, so that older code reads what newer code wrote."""
    (_, kwargs) = LongRunningOperationTrigger(operation_name="operations/x").serialize()
    assert kwargs == {"operation_name": "operations/x"}


# ── events ──


def payload(message: Message) -> Payload:
    """Return a message as it travels in an operation."""
    return Payload(
        type_url=f"type.googleapis.com/{message.DESCRIPTOR.full_name}",
        value=message.SerializeToString(deterministic=True),
    )


def struct(**values: Any) -> struct_pb2.Struct:
    """Return a Struct."""
    message = struct_pb2.Struct()
    message.update(values)
    return message


def details(*messages: Message) -> Payload:
    """Return the details of an operation's error, as a state has them."""
    status = status_pb2.Status()
    for message in messages:
        status.details.add().Pack(message)
    return Payload(value=status.SerializeToString(deterministic=True))


def done(name: str = NAME, **more: Any) -> OperationState:
    """Return the state of a done operation."""
    return OperationState(name=name, done=True, **more)


def unavailable() -> RpcError:
    """Return the error of a poll, with all its fields."""
    error = RpcError(
        "GetOperation failed with UNAVAILABLE (14): connection refused",
        code=14,
        message="connection refused",
        details=[{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "7s"}],
    )
    error.retry_after = 7.0
    return error


@dataclass(frozen=True, kw_only=True)
class Event:
    """The outcomes in a golden event, and the end of a sensor that resumes with it: its XCom or its error."""

    outcomes: Sequence[Outcome | None]
    names: Sequence[str] = (NAME,)
    xcom: Any = None
    error: type[LroError] | None = None
    text: str = ""


O1, O2, O3, O4, O5 = NAMES = [f"{NAME}{number}" for number in range(1, 6)]
EVENTS: dict[str, Event] = {
    "a success": Event(
        outcomes=[Succeeded(operation=done(response=payload(struct(rows=7)), metadata=payload(struct(share=100))))],
        xcom={"rows": 7.0},
    ),
    "a success of a type that no process knows": Event(
        outcomes=[Succeeded(operation=done(response=Payload(type_url="type.googleapis.com/x.Y", value=b"\x01\xff")))],
        xcom={"@type": "type.googleapis.com/x.Y", "value": "Af8="},
    ),
    "a success without a response": Event(outcomes=[Succeeded(operation=done())], xcom={}),
    "a success with JSON": Event(
        outcomes=[
            Succeeded(
                operation=done(
                    response=JsonPayload(json={"@type": "type.example.com/Table", "rows": [1, 2.5, None, "three"]}),
                    metadata=JsonPayload(json={"progress": 100}),
                )
            )
        ],
        xcom={"@type": "type.example.com/Table", "rows": [1, 2.5, None, "three"]},
    ),
    "a failure": Event(
        outcomes=[
            Failed(
                operation=done(
                    code=8,
                    message="quota exceeded",
                    details=details(error_details_pb2.ErrorInfo(reason="QUOTA", domain="example.com")),
                    metadata=payload(struct(share=42)),
                )
            )
        ],
        error=OperationFailed,
        text=r"failed with RESOURCE_EXHAUSTED \(8\): quota exceeded .*'reason': 'QUOTA'",
    ),
    "a failure with JSON": Event(
        outcomes=[Failed(operation=done(code=5, message="no table", details=JsonPayload(json=[{"reason": "GONE"}])))],
        error=OperationFailed,
        text=r"failed with NOT_FOUND \(5\): no table .*'reason': 'GONE'",
    ),
    "a timeout": Event(
        outcomes=[
            TimedOut(
                operation=OperationState(name=NAME, metadata=payload(struct(share=42))),
                error=unavailable(),
                cancel="refused",
                cancel_error=RpcError("CancelOperation failed with UNIMPLEMENTED (12): no", code=12, message="no"),
            )
        ],
        error=OperationTimeout,
        text=r"could not be cancelled .*The cancel failed: .*UNIMPLEMENTED.*The last poll failed: .*connection refused",
    ),
    "a group": Event(
        names=NAMES,
        outcomes=[
            Succeeded(operation=done(O1, response=payload(struct(rows=7)))),
            Failed(operation=done(O2, code=9, message="not now")),
            Cancelled(operation=done(O3, code=1, message="by a user")),
            NotFound(error=OperationNotFound("GetOperation failed with NOT_FOUND (5): o4", code=5, message="o4")),
            None,
        ],
        error=OperationsFailed,
        text=r"3 of 5 operations failed \(1 succeeded, 1 are not waited for any more\)",
    ),
    "a group, by how each timed out": Event(
        names=NAMES[:4],
        outcomes=[
            TimedOut(),
            TimedOut(cancel="asked"),
            TimedOut(operation=OperationState(name=NAMES[2], done=True, code=1), cancel="took effect"),
            TimedOut(cancel="refused"),
        ],
        error=OperationsFailed,
        text=r"4 of 4 operations failed \(0 succeeded\)",
    ),
    "a group, with one error for all": Event(
        names=NAMES[:2],
        outcomes=[CallFailed(error=(error := unavailable()))] * 2,
        error=RpcError,
        text="connection refused",
    ),
}
GOLDEN = golden("events_0.1.json")


def comparable(value: Any) -> Any:
    """Return outcomes in a form that can be compared: errors by class, text and fields."""
    if isinstance(value, list | tuple):
        return [comparable(each) for each in value]
    if isinstance(value, LroError):
        return (type(value), str(value), vars(value))
    if isinstance(value, Succeeded | Failed | Cancelled | TimedOut | NotFound | CallFailed):
        return (type(value), {field.name: comparable(getattr(value, field.name)) for field in fields(value)})
    return value


def test_every_golden_event_has_its_outcomes_here() -> None:
    """A file that is added gets its table."""
    assert EVENTS.keys() == GOLDEN.keys()


@pytest.mark.parametrize("title", EVENTS)
def test_events_of_the_first_version_are_read(title: str) -> None:
    """An event that 0.1 wrote has the same outcomes for this version, whole, and is written again as it was."""
    case, event = EVENTS[title], GOLDEN[title]["event"]
    assert GOLDEN[title]["names"] == list(case.names)
    assert comparable(outcomes_from_event(event, case.names)) == comparable(case.outcomes)
    assert to_read_again(event) == []
    assert event_from_outcomes(case.outcomes, case.names, started_at=STARTED_AT) == event


@pytest.mark.parametrize("title", EVENTS)
def test_a_sensor_resumes_with_an_event_of_the_first_version(title: str) -> None:
    """It has the result, or the error, of the operation or the operations, without a call to any service."""
    case = EVENTS[title]
    name = case.names[0] if len(case.names) == 1 else list(case.names)
    sensor = LongRunningOperationSensor(task_id="s", operation_name=name, lro_conn_id="", endpoint="127.0.0.1:1")
    resume = lambda: sensor.execute_complete({"ti": FakeTaskInstance()}, GOLDEN[title]["event"])  # noqa: E731
    if case.error is None:
        assert resume() == case.xcom
        return
    with pytest.raises(case.error, match=case.text) as raised:
        resume()
    if isinstance(raised.value, OperationsFailed):
        failed = [
            name
            for name, outcome in zip(case.names, case.outcomes, strict=True)
            if not isinstance(outcome, Succeeded | None)
        ]
        assert list(raised.value.errors) == failed
    elif isinstance(raised.value, OperationFailed):
        assert raised.value.code == case.outcomes[0].operation.code  # type: ignore[union-attr]
        assert len(raised.value.details) == 1
    else:
        assert raised.value.code is (Code.DEADLINE_EXCEEDED if case.error is OperationTimeout else Code.UNAVAILABLE)
