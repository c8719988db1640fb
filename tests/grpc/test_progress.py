"""One line of progress from an operation's metadata."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro._core.checks import MAX_LINE, one_line
from airflow_provider_lro._core.state import JsonPayload, OperationState, Payload
from airflow_provider_lro._messages.metadata import MAX_FIELDS, MAX_METADATA, _gather, describe
from tests.plus import Metadata, ShareMetadata, State


def running(metadata: Any) -> OperationState:
    """Return an operation with this metadata: a mapping makes a Struct."""
    if isinstance(metadata, Payload | JsonPayload):
        return OperationState(name="operations/o", metadata=metadata)
    message: Any = struct_pb2.Struct()
    if isinstance(metadata, dict):
        message.update(metadata)
    else:
        message = type(metadata).pb(metadata)
    type_url = f"type.googleapis.com/{message.DESCRIPTOR.full_name}"
    return running(Payload(type_url=type_url, value=message.SerializeToString()))


TYPED = [
    ({"percent_complete": 42}, "42 %"),
    ({"progress_percentage": 99.99}, "99 %"),
    ({"progress_percentage": 0.5}, "0 %"),
    ({"progress": 1}, "1 %"),
    ({"progress_percent": 0}, "0 %"),
    ({"progress": 100, "state": State.RUNNING}, "100 %, RUNNING"),
    ({"progress": -1, "state": State.RUNNING}, "RUNNING"),
    ({"percent_complete": 101}, None),
    ({"verb": "create", "target": "projects/p/lakes/l"}, "create projects/p/lakes/l"),
    ({"target": "projects/p/lakes/l"}, "projects/p/lakes/l"),
    (
        {"percent_complete": 42, "verb": "create", "target": "projects/p/lakes/l", "status_message": "copying"},
        "42 %, create projects/p/lakes/l: copying",
    ),
    ({"status_message": "copying"}, "copying"),
    ({"status_detail": "mixing", "status_message": "  \n"}, "mixing"),
    ({"verb": "create", "requested_cancellation": True}, "create, asked to cancel"),
    ({"generic_metadata": {"progress": {"progress_percent": 7}}}, "7 %"),
    ({"generic_metadata": {"state": State.RUNNING, "state_message": "copying"}}, "RUNNING: copying"),
    ({"state": 7, "generic_metadata": {"state": State.RUNNING}}, "7"),
    ({"statements_progress": [{"progress_percent": 7}]}, "7 %"),
    ({"statements_progress": [{"progress_percent": 7}, {"progress_percent": 9}]}, None),
    ({"progress_entities": {"work_completed": 1200, "work_estimated": 5000}}, "1200 of 5000 entities"),
    ({"progress_entities": {"work_completed": 1200}}, None),
    ({"request": {"state": State.RUNNING, "progress_percent": 7}}, None),
    ({"sure_percent": 12, "create_time": "2026-01-01T00:00:00Z", "labels": {"verb": "no"}}, None),
    ({}, None),
]


@pytest.mark.parametrize(("fields", "line"), TYPED)
def test_fields_that_services_have(fields: dict[str, Any], line: str | None) -> None:
    """A percentage where there is one, what is done to what, and what the service says of it; else nothing."""
    assert describe(running(Metadata(fields))) == line


@pytest.mark.parametrize(
    ("progress", "line"), [(0.42, "progress 0.42"), (1.0, "progress 1"), (1.5, "1 %"), (42.9, "42 %"), (-0.1, None)]
)
def test_share_is_not_taken_for_a_percentage(progress: float, line: str | None) -> None:
    """0.42 may be 42 % or less than 1 %: what is not clear is shown as it is."""
    assert describe(running(ShareMetadata(progress=progress))) == line


@pytest.mark.parametrize("progress", [float("nan"), float("inf"), float("-inf")])
def test_nan_is_not_progress(progress: float) -> None:
    """NaN and infinity are not shown, and does not raise."""
    assert describe(running(ShareMetadata(progress=progress))) is None


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"verb": "simulate", "progress_percent": 0, "requested_cancellation": False}, "0 %, simulate"),
        ({"progress": "half way", "state": "RUNNING"}, "half way, RUNNING"),
        ({"common_metadata": {"progress": {"percent_complete": 7}}}, "7 %"),
        ({"progress": {"progress": {"progress": {"progress": {"progress": 7}}}}}, None),
        ({"verb": None, "target": ["a"], "state": True}, None),
    ],
)
def test_struct_is_metadata_as_well(fields: dict[str, Any], line: str | None) -> None:
    """A Struct's keys are read as fields, of whatever kind their values are; it says of a zero that it is one."""
    assert describe(running(fields)) == line


def test_nothing_to_say() -> None:
    """No metadata, a type that is not known here, bytes that do not parse: None, never an exception."""
    assert describe(OperationState(name="operations/o")) is None
    for payload in (
        Payload(type_url="type.googleapis.com/no.such.Type", value=b"\x0a\x02hi"),
        Payload(type_url="type.googleapis.com/google.protobuf.Struct", value=b"\x0a\x7fbroken"),
        Payload(type_url="nonsense"),
        Payload(),
        JsonPayload(json={"value": [1]}),
        JsonPayload(json=None),
    ):
        assert describe(running(payload)) is None


def test_metadata_without_end_takes_no_time() -> None:
    """Only so many fields are looked at, and metadata that would take long to decode is left alone."""
    found: dict[str, Any] = {}
    struct = struct_pb2.Struct()
    struct.update({f"key_{number}": "x" for number in range(10 * MAX_FIELDS)})
    _gather(struct, found, depth=0)
    assert len(found) == MAX_FIELDS
    assert describe(running(Metadata(verb="x" * (MAX_METADATA - 100)))) is not None
    assert describe(running(Metadata(verb="x" * MAX_METADATA))) is None


def test_line_cannot_forge_a_log() -> None:
    """What a service says stays one line of printable text, and a long target leaves room for the message."""
    said = "copying\n[2026-01-01] ERROR forged\r\x1b[31m\u2028\u202eright to left\x00"
    line = describe(running(Metadata(target="x" * 10_000, status_message=said)))
    assert line is not None
    assert line.isprintable()
    assert line.endswith("…: copying [2026-01-01] ERROR forged [31m right to left")


@given(fields=st.dictionaries(st.sampled_from([field.name for field in Metadata.pb().DESCRIPTOR.fields]), st.text()))
def test_any_text_makes_one_line(fields: dict[str, str]) -> None:
    """Whatever the texts: None, or one printable line of bounded length."""
    line = describe(running(fields))
    assert line is None or (line.isprintable() and 0 < len(line) <= MAX_LINE and line == line.strip())


@given(text=st.text(), longest=st.integers(min_value=1, max_value=20))
def test_one_line_is_bounded(text: str, longest: int) -> None:
    """A line is never longer than it may be, and says when it was cut."""
    line = one_line(text, longest)
    assert len(line) <= longest
    assert line.isprintable()
