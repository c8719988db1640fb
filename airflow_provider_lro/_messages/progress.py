"""How far an operation is, as one line: what its metadata says in the fields that services commonly have.

Of 734 public metadata messages 141 have a ``target``, 129 a ``verb``, 102 a ``status_message``, and 34 a percentage.
Floor ½.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any

from google.protobuf import any_pb2, struct_pb2

from airflow_provider_lro._core.text import one_line
from airflow_provider_lro._messages.encoding import is_repeated, metadata
from airflow_provider_lro.exceptions import NoMetadataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.longrunning import operations_proto_pb2 as pb
    from google.protobuf.message import Message

__all__ = ["describe", "readable_metadata"]

LONGEST_PART = 200
"""Characters of one text in it, so that a long target leaves room for the message."""
DEEPEST = 2
"""How far below the metadata itself to look: ``common_metadata.progress.progress_percent``."""
LARGEST = 1024 * 1024
"""Bytes of metadata that are decoded for a line; the event loop of a triggerer waits meanwhile."""
MOST_FIELDS = 200
"""Fields of one message to look at: a Struct may have any number."""
NESTED = ("metadata", "progress", "common", "status")
"""What the name of a nested message holds that tells of the operation; others tell of a request or a resource."""

PERCENTAGES = ("progress_percent", "progress_percentage", "percent_complete")
STATES = ("state", "operation_state", "status")
VERBS = ("verb", "operation_type")
TARGETS = ("target", "resource")
MESSAGES = ("status_message", "status_detail", "state_message")
CANCELS = ("requested_cancellation", "cancel_requested")
WORK = (("work_completed", "work_estimated"), ("completed_work", "estimated_work"))
"""How Datastore and Firestore count; the estimate may be exceeded, so this is no percentage."""
COUNTED = "work done"
"""Where such a count is noted: a name that no field has."""


def describe(operation: pb.Operation) -> str | None:
    """Return one line of progress, such as ``42 %, RUNNING, create projects/p/lakes/l: copying``.

    Percentages are whole, and rounded down. A ``progress`` that is a float of at most 1 may be a share or a percentage:
    it is shown as it is (``progress 0.42``). A number that is 0 and an enum's first value are as good as unset where
    the message does not tell them apart.

    Returns:
        At most ``LONGEST_LINE`` printable characters; None where there is nothing to say: no metadata, a type that is
        not known here, none of the usual fields, or more than ``LARGEST``.
    """
    message = readable_metadata(operation)
    if message is None:
        return None
    found: dict[str, Any] = {}
    _gather(message, found, depth=0)
    action = " ".join(filter(None, (_text(found, VERBS), _text(found, TARGETS))))
    cancels = any(found.get(name) is True for name in CANCELS)
    parts = (_how_far(found), _text(found, STATES), action, "asked to cancel" if cancels else "")
    line = ": ".join(filter(None, (", ".join(filter(None, parts)), _text(found, MESSAGES))))
    return one_line(line) or None


def readable_metadata(operation: pb.Operation) -> Message | None:
    """Return the metadata of an operation; None where there is none, of an unknown type, or more than ``LARGEST``."""
    if len(operation.metadata.value) > LARGEST:
        return None
    try:
        message = metadata(operation)
    except NoMetadataError:
        return None
    return None if isinstance(message, any_pb2.Any) else message


def _gather(message: Message, found: dict[str, Any], *, depth: int) -> None:
    """Collect the fields of a message and of what is nested in it; the outermost of a name counts."""
    nested = []
    for name, value in islice(_fields(message), MOST_FIELDS):
        if hasattr(value, "DESCRIPTOR"):
            if any(part in name for part in NESTED):
                nested.append((name, value))
        else:
            found.setdefault(name, value)
    for name, value in nested:
        _count(name, value, found)
        if depth < DEEPEST:
            _gather(value, found, depth=depth + 1)


def _fields(message: Message) -> Iterator[tuple[str, Any]]:
    """Yield what is set in a message, or in a Struct; of a list only what stands there alone."""
    if isinstance(message, struct_pb2.Struct):
        for name in message.fields:  # not items(), which makes a list of all
            value = message.fields[name]
            kind = value.WhichOneof("kind")
            if kind not in (None, "null_value", "list_value"):
                yield name, getattr(value, kind)
        return
    for field, value in message.ListFields():
        only: Any = value
        if is_repeated(field):
            if len(value) != 1 or (field.message_type and field.message_type.GetOptions().map_entry):
                continue
            only = value[0]  # Spanner has a progress for each of its statements
        if field.enum_type is not None:
            known = field.enum_type.values_by_number.get(only)
            only = str(only) if known is None else known.name
        yield field.name, only


def _count(name: str, message: Message, found: dict[str, Any]) -> None:
    """Note ``progress_entities {work_completed: 1200, work_estimated: 5000}`` as a text."""
    numbers = {field: value for field, value in islice(_fields(message), MOST_FIELDS) if isinstance(value, int | float)}
    for done, estimated in WORK:
        if numbers.get(estimated):
            of = name.removeprefix("progress").strip("_")
            found.setdefault(COUNTED, f"{numbers.get(done, 0):.0f} of {numbers[estimated]:.0f} {of}".rstrip())


def _how_far(found: dict[str, Any]) -> str:
    numbers = {name: _number(found.get(name)) for name in ("progress", *PERCENTAGES)}
    progress = numbers["progress"]
    share = isinstance(progress, float) and 0 <= progress <= 1
    for name in PERCENTAGES if share else (*PERCENTAGES, "progress"):
        if 0 <= numbers[name] <= 100:  # noqa: PLR2004  (per cent)
            return f"{math.floor(numbers[name])} %"
    if share:
        return f"progress {math.floor(progress * 100) / 100:g}"
    return _text(found, ("progress", *PERCENTAGES, COUNTED))


def _number(value: Any) -> Any:
    """Return a number as it is, and NaN for all else, which is in no range."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _text(found: dict[str, Any], names: tuple[str, ...]) -> str:
    """Return the first text among some fields."""
    texts = (one_line(found[name], LONGEST_PART) for name in names if isinstance(found.get(name), str))
    return next(filter(None, texts), "")
