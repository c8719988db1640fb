"""When an operation was created and when it ended, read from metadata of all kinds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2, timestamp_pb2
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro._core.args import WaitArgs
from airflow_provider_lro._core.outcome import Succeeded
from airflow_provider_lro._core.state import JsonPayload, OperationState, Payload
from airflow_provider_lro._messages.encoding import type_of_payload
from airflow_provider_lro._messages.metadata import (
    CREATED,
    ENDED,
    FINISHED,
    MAX_METADATA,
    as_seconds,
    time_at,
    time_in,
)
from airflow_provider_lro._runner.telemetry import WaitTelemetry

if TYPE_CHECKING:
    from collections.abc import Callable

LAST_SECOND = 253402300799
PREFIX = "type.googleapis.com/"


def _message_types() -> dict[str, Any]:
    """Make the types of a service: times, texts and numbers, and a message that several kinds of metadata share."""
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/age.proto", package="tests.age", syntax="proto3", dependency=["google/protobuf/timestamp.proto"]
    )
    timestamp = ".google.protobuf.Timestamp"
    shapes: dict[str, dict[str, tuple[int, str]]] = {
        "Shared": dict.fromkeys(("create_time", "update_time", "start_time"), (11, timestamp)),
        "Metadata": {
            **dict.fromkeys(("create_time", "start_time", "end_time", "queued_at"), (11, timestamp)),
            "generic_metadata": (11, ".tests.age.Shared"),
            "progress": (11, ".tests.age.Shared"),
            "request_time": (9, ""),
            "insert_time": (3, ""),
        },
        "Several": {"create_time": (11, timestamp)},
    }
    for name, fields in shapes.items():
        message = file.message_type.add(name=name)
        for number, (field, (kind, type_name)) in enumerate(fields.items(), start=1):
            message.field.add(
                name=field, number=number, type=kind, type_name=type_name or None, label=3 if name == "Several" else 1
            )
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tests.age.{name}")) for name in shapes}


TYPES = _message_types()


def at(seconds: float) -> timestamp_pb2.Timestamp:
    return timestamp_pb2.Timestamp(seconds=int(seconds))


def operation(metadata: Any = None, *, done: bool = False) -> OperationState:
    payload = None
    if metadata is not None:
        payload = Payload(type_url=PREFIX + metadata.DESCRIPTOR.full_name, value=metadata.SerializeToString())
    return OperationState(name="operations/o", done=done, metadata=payload)


def raw(name: str, value: bytes) -> OperationState:
    return OperationState(name="operations/o", metadata=Payload(type_url=PREFIX + name, value=value))


def typed(**fields: Any) -> OperationState:
    return operation(TYPES["Metadata"](**fields))


def struct(**fields: Any) -> OperationState:
    metadata = struct_pb2.Struct()
    metadata.update(fields)
    return operation(metadata)


@pytest.mark.parametrize(
    ("made", "created", "finished"),
    [
        (typed(create_time=at(100), start_time=at(200), end_time=at(300)), 100, 300),
        (typed(start_time=at(200)), 200, None),
        (typed(generic_metadata=TYPES["Shared"](create_time=at(100), update_time=at(150))), 100, 150),
        (typed(start_time=at(200), generic_metadata=TYPES["Shared"](create_time=at(100))), 100, None),
        (typed(progress=TYPES["Shared"](start_time=at(100))), 100, None),
        (typed(request_time="1970-01-01T00:01:40Z"), 100, None),
        (struct(create_time="1970-01-01T00:01:40Z", end_time="1970-01-01T02:03:20.5+02:00"), 100, 200.5),
        (struct(createTime="1970-01-01T00:01:40Z", genericMetadata={"updateTime": "1970-01-01T00:03:20Z"}), 100, 200),
    ],
)
def test_the_usual_fields(made: OperationState, created: float | None, finished: float | None) -> None:
    """Typed or a Struct, at the top or in what kinds of metadata share: the first of the usual names counts."""
    assert (time_in(made, CREATED), time_in(made, FINISHED)) == (created, finished)


@pytest.mark.parametrize(
    "made",
    [
        operation(),
        operation(TYPES["Metadata"]()),
        raw("nobody.knows.This", b"\x0a\x01x"),
        raw("tests.age.Metadata", b"\x0a\x7fx"),
        OperationState(name="operations/o", metadata=JsonPayload(json={"other": 1})),
        typed(create_time=at(0)),
        typed(create_time=at(-5)),
        typed(create_time=at(LAST_SECOND + 1)),
        typed(request_time="yesterday"),
        typed(request_time="2024-01-01T00:00:00"),
        typed(insert_time=1_700_000_000),
        operation(TYPES["Several"](create_time=[at(100)])),
        struct(create_time=1_700_000_000),
        struct(create_time={"seconds": 5}),
        struct(create_time=""),
        struct(create_time=None),
    ],
    ids=str,
)
def test_no_time_where_there_is_none(made: OperationState) -> None:
    """A field that is unset, unknown, not a time, without zone or beyond the year 9999 is never taken for an age."""
    assert time_in(made, CREATED) is None
    assert time_at(made, "create_time") is None


def test_what_makes_no_sense_is_passed_over() -> None:
    """A create_time that was never set does not hide the start_time."""
    assert time_in(typed(create_time=at(0), start_time=at(200)), CREATED) == 200


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("queued_at", 7),
        ("progress.start_time", 9),
        ("progress", None),
        ("progress.nothing", None),
        ("no.such.path", None),
        ("queued_at.seconds", None),
    ],
)
def test_a_path_of_ones_own(path: str, found: float | None) -> None:
    """A dotted path leads to one field; one that leads nowhere tells nothing."""
    assert time_at(typed(queued_at=at(7), progress=TYPES["Shared"](start_time=at(9))), path) == found


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, None),
        (datetime(1970, 1, 1, 1, 1, 40, tzinfo=timezone(timedelta(hours=1))), 100),
        (100, 100),
        (100.5, 100.5),
        (0, None),
        (float("nan"), None),
        (1_700_000_000_000, None),
        (at(100), 100),
        ("1970-01-01T00:01:40Z", 100),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
    ],
)
def test_what_a_function_may_return(value: object, found: float | None) -> None:
    """Whatever is a point in time is one; milliseconds are beyond the year 9999."""
    assert as_seconds(value) == found


@pytest.mark.parametrize(
    "value",
    [True, datetime(2024, 1, 1), timedelta(hours=1), struct_pb2.Struct(), [1], "soon", " "],  # noqa: DTZ001
)
def test_what_a_function_may_not_return(value: object) -> None:
    """A value that is not a point in time is an error that says so, and not an age."""
    with pytest.raises(ValueError, match="time_of"):
        as_seconds(value)


def test_large_metadata_is_not_decoded() -> None:
    """An event loop may wait for it."""
    assert time_in(struct(end_time="1970-01-01T00:01:40Z", more="x" * MAX_METADATA), ENDED) is None
    assert time_in(struct(end_time="1970-01-01T00:01:40Z", more="x" * (MAX_METADATA // 2)), ENDED) == 100


@pytest.mark.parametrize("field", ENDED)
@pytest.mark.parametrize("nest", [lambda fields: fields, lambda fields: {"common_metadata": fields}])
def test_all_readers_find_the_same_end(field: str, nest: Callable[[Any], Any]) -> None:
    """Cleanup, telemetry and watcher agree on when an operation ended."""
    metadata = struct_pb2.Struct()
    metadata.update(nest({field: "2001-09-09T01:46:40.25Z"}))
    made = operation(metadata, done=True)
    assert time_in(made, FINISHED) == 1e9 + 0.25
    telemetry = WaitTelemetry(WaitArgs(operation_name="o", started_at=1.0), "host_1", None)
    sent = {name: value for _, name, value, _ in telemetry._timers(Succeeded(operation=made), 1e9 + 10.0)}
    assert sent["lro.detection_lag"] == 9750.0
    stream = pytest.importorskip(
        "airflow_provider_lro.assets._stream", reason="asset watchers came with Airflow 3.0", exc_type=ImportError
    )
    assert stream._read(made, "o").end_time == "2001-09-09T01:46:40.250000Z"


def test_type_of_metadata() -> None:
    """The type is named, so that a user can make it known."""
    assert type_of_payload(typed().metadata) == "tests.age.Metadata"
    assert type_of_payload(JsonPayload(json={"@type": PREFIX + "tests.age.Metadata"})) == "tests.age.Metadata"
    assert [type_of_payload(payload) for payload in (None, JsonPayload(json=[]), Payload())] == ["", "", ""]


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9999, 12, 31)))  # noqa: DTZ001
def test_every_way_to_say_a_time_says_the_same(naive: datetime) -> None:
    """Timestamp, text, datetime and seconds of one moment are one moment."""
    moment = naive.replace(tzinfo=UTC)
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(moment)
    ways = [
        time_in(typed(create_time=stamp), CREATED),
        time_in(struct(create_time=stamp.ToJsonString()), CREATED),
        as_seconds(stamp),
        as_seconds(moment),
    ]
    assert max(ways) - min(ways) < 1e-3
