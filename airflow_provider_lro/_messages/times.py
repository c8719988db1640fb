"""When an operation was created and when it ended, as its metadata tells; None wherever it does not. Floor ½.

Of 734 public metadata messages 297 have a ``create_time`` and 199 an ``end_time``, some of them in a message that
several kinds of operations share, such as Vertex AI's ``generic_metadata``.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from google.protobuf import timestamp_pb2
from google.protobuf.message import Message

from airflow_provider_lro._messages.progress import readable_metadata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.longrunning import operations_proto_pb2 as pb

__all__ = ["CREATED", "ENDED", "FINISHED", "as_seconds", "metadata_type", "time_at", "time_in"]

CREATED = ("create_time", "start_time", "insert_time", "request_time")
"""The first of these that has a value counts. A later one makes an operation younger, never older."""
ENDED = ("end_time", "finish_time", "complete_time", "completion_time")
"""What services call the moment at which an operation ended."""
FINISHED = (*ENDED, "update_time", "last_update_time")
"""By when it had ended. A time of the last change is no earlier than the end; one of creation says nothing about it."""

SHARED = ("generic_metadata", "common_metadata", "operation_metadata", "common", "progress")
"""What a nested message is called that services put into all their kinds of metadata."""
LATEST = 253402300799.0
"""Epoch seconds: the last second of the year 9999, with which the range of Timestamp ends."""


def time_in(operation: pb.Operation, fields: Sequence[str]) -> float | None:
    """Return the first of some times that an operation's metadata has, in epoch seconds.

    None, too, where the metadata is larger than ``LARGEST``: an event loop may wait meanwhile.
    """
    message = readable_metadata(operation)
    places = [message, *(_field(message, name) for name in SHARED)]
    for field in fields:
        for place in places:
            if (found := _moment(_field(place, field))) is not None:
                return found
    return None


def time_at(operation: pb.Operation, path: str) -> float | None:
    """Return the time in one field of an operation's metadata, such as ``progress.start_time``."""
    value: Any = readable_metadata(operation)
    for name in path.split("."):
        value = _field(value, name)
    return _moment(value)


def as_seconds(value: object) -> float | None:
    """Return what a user's own function has found, in epoch seconds.

    Raises:
        ValueError: it is no point in time.
    """
    if value is None:
        return None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"time_of has returned {value!r}, which has no time zone")
        return _sound(value.timestamp())
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _sound(value)
    if isinstance(value, str) and value:
        stamp = _parsed(value)
        if stamp is None:
            raise ValueError(f"time_of has returned {value[:80]!r}, which is no time as in RFC 3339, with a time zone")
        return _moment(stamp)
    if value == "" or _is(value, timestamp_pb2.Timestamp):  # a field that is not set
        return _moment(value)
    raise ValueError(
        "time_of must return a datetime with a time zone, epoch seconds, a Timestamp, text as in RFC 3339, or None"
        f" where it cannot tell; not {value!r}"
    )


def metadata_type(operation: pb.Operation) -> str:
    """Return the full name of the metadata's type; "" where there is no metadata."""
    return operation.metadata.TypeName() if operation.HasField("metadata") else ""


def _field(message: Any, name: str) -> Any:
    """Return a message or a text in a message or a Struct; None for what is not there, or not set."""
    if not isinstance(message, Message):
        return None
    if message.DESCRIPTOR.full_name == "google.protobuf.Struct":
        return _entry(message, name)
    if name not in message.DESCRIPTOR.fields_by_name:
        return None
    try:
        present = message.HasField(name)
    except ValueError:  # a field that is always there
        present = True
    value = getattr(message, name) if present else None
    return value if isinstance(value, Message | str) else None


def _entry(struct: Any, name: str) -> Any:
    head, *tail = name.split("_")
    for key in (name, head + "".join(map(str.capitalize, tail))):
        if key in struct.fields:
            value = struct.fields[key]
            return value.struct_value if value.WhichOneof("kind") == "struct_value" else value.string_value or None
    return None


def _moment(value: Any) -> float | None:
    if isinstance(value, str):
        value = _parsed(value)
    if not _is(value, timestamp_pb2.Timestamp):
        return None
    return _sound(value.seconds + value.nanos / 1e9)


def _parsed(text: str) -> timestamp_pb2.Timestamp | None:
    stamp = timestamp_pb2.Timestamp()
    try:
        stamp.FromJsonString(text)
    except ValueError:
        return None
    return stamp


def _sound(seconds: float) -> float | None:
    """Return a time, unless it is what a field holds that was never set, or out of the range of Timestamp."""
    return float(seconds) if 0 < seconds <= LATEST else None


def _is(value: object, kind: type[Message]) -> bool:
    return isinstance(value, Message) and value.DESCRIPTOR.full_name == kind.DESCRIPTOR.full_name
