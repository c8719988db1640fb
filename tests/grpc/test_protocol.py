"""The protocol: an answer as the real messages have it, and nothing in it parsed before its time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import any_pb2, descriptor_pb2
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro._core.checks import storable
from airflow_provider_lro._core.outcome import Failed, Succeeded
from airflow_provider_lro._core.state import JsonPayload, OperationState, Payload
from airflow_provider_lro._core.wait import outcome_of
from airflow_provider_lro._messages.encoding import operation_to_json
from airflow_provider_lro._messages.protocol import (
    STATUS_URL,
    Call,
    Listing,
    Page,
    cancel_call,
    delete_call,
    get_call,
    read_answer,
    state_from_json,
    state_from_message,
    state_to_message,
    wait_call,
)
from airflow_provider_lro.exceptions import Code, RpcError

GET = get_call("operations/o")
MANY = 100_000
BROKEN_ANY = b"\x0a\x7f"
"""The bytes of an Any whose type is cut short: who parses it fails."""

PROTO2 = "type.googleapis.com/google.protobuf.FileOptions"
"""A type of which the parts have required fields."""
DEEP: list[Any] = []
for _ in range(300):
    DEEP = [DEEP]

texts = st.text(max_size=20).filter(lambda text: "\0" not in text)
names = st.sampled_from(["operations/o", "projects/7/locations/l/operations/o", "o"])
anys = st.builds(any_pb2.Any, type_url=texts, value=st.binary(max_size=40))
statuses = st.builds(
    status_pb2.Status, code=st.integers(-(2**31), 2**31 - 1), message=texts, details=st.lists(anys, max_size=3)
)


@st.composite
def operations(draw: st.DrawFn) -> pb.Operation:
    """Make an operation with any of its fields, of which each may be there and empty."""
    operation = pb.Operation(name=draw(names), done=draw(st.booleans()))
    if draw(st.booleans()):
        operation.metadata.CopyFrom(draw(anys))
        operation.metadata.SetInParent()
    result = draw(st.sampled_from(["error", "response", None]))
    if result is not None:
        getattr(operation, result).CopyFrom(draw(statuses if result == "error" else anys))
        getattr(operation, result).SetInParent()
    return operation


def read(raw: bytes) -> Any:
    """Read the answer to a Get."""
    return read_answer(GET, raw, target="host:1")


def result_in(state: OperationState) -> str | None:
    """Return the kind of result that a state has, in the words of the proto."""
    if state.code is not None:
        return "error"
    return None if state.response is None else "response"


@given(operations())
def test_state_has_all_that_the_message_has(operation: pb.Operation) -> None:
    """There and back an operation is the same, whatever is set in it, and set to nothing."""
    state = read(operation.SerializeToString())
    assert state_from_message(operation) == state
    assert state_to_message(state) == operation
    assert (state.name, state.done, result_in(state)) == (
        operation.name,
        operation.done,
        operation.WhichOneof("result"),
    )
    assert (state.metadata is not None) is operation.HasField("metadata")
    if operation.WhichOneof("result") == "error":
        assert (state.code, state.message) == (operation.error.code, operation.error.message)


@given(operations(), operations())
def test_result_that_comes_last_counts(first: pb.Operation, second: pb.Operation) -> None:
    """On the wire a message may have both results: the last is the one, as for the real message."""
    raw = first.SerializeToString() + second.SerializeToString()
    state = read(raw)
    real = pb.Operation.FromString(raw)
    assert (state.name, state.done, result_in(state)) == (real.name, real.done, real.WhichOneof("result"))


@given(st.binary(max_size=60))
def test_bytes_are_refused_only_where_the_real_message_refuses_them(raw: bytes) -> None:
    """Bytes that are not an Operation on the outside are an RpcError; nothing else is raised."""
    try:
        real = pb.Operation.FromString(raw)
    except DecodeError:
        with suppress(RpcError):
            read(raw)
    else:
        if real.name in ("", "o"):
            assert result_in(read(raw)) == real.WhichOneof("result")


def test_many_details_are_read_unparsed() -> None:
    """An error with 100,000 details is read as it came, and is whole when it is asked for."""
    details = [any_pb2.Any(type_url="x/y", value=b"1")] * MANY
    operation = pb.Operation(name="o", done=True, error=status_pb2.Status(code=9, message="m", details=details))
    state = read(operation.SerializeToString())
    assert (state.code, state.message) == (9, "m")
    assert state.details == Payload(
        type_url=STATUS_URL, value=status_pb2.Status(details=details).SerializeToString(deterministic=True)
    )
    assert state_to_message(state) == operation


@pytest.mark.parametrize("call", [GET, wait_call("operations/o", 1.0)])
def test_payload_that_does_not_parse_does_not_hide_the_result(call: Any) -> None:
    """Whatever is inside a detail, a response or metadata: name, ``done`` and the kind of result are known."""
    broken_detail = b"\x1a" + bytes([len(BROKEN_ANY)]) + BROKEN_ANY
    failed = pb.Operation(name="o", done=True).SerializeToString() + b"\x22" + bytes([len(broken_detail)])
    state = read_answer(call, failed + broken_detail, target="host:1")
    assert isinstance(outcome_of(state), Failed)
    assert state.details == Payload(type_url=STATUS_URL, value=broken_detail)
    inside = any_pb2.Any(type_url="type.googleapis.com/google.protobuf.Struct", value=b"\x0a\x7f")
    done = pb.Operation(name="o", done=True, response=inside, metadata=inside)
    state = read_answer(call, done.SerializeToString(), target="host:1")
    assert state.response == state.metadata == Payload(type_url=inside.type_url, value=inside.value)


@given(st.lists(operations(), max_size=3), texts, st.lists(texts, max_size=2))
def test_page_holds_the_states_of_its_operations(
    listed: list[pb.Operation], token: str, unreachable: list[str]
) -> None:
    """Each as a Get would give it, with the next page and the places that could not be reached."""
    response = pb.ListOperationsResponse(operations=listed, next_page_token=token).SerializeToString()
    # Old protos do not know field 3; this message has repeated strings there, too.
    response += descriptor_pb2.FileDescriptorProto(dependency=unreachable).SerializeToString()
    call = Listing("p", "", None, return_partial_success=False).call("")
    page = read_answer(call, response, target="host:1")
    assert list(page.states()) == [state_from_message(each) for each in listed]
    assert (page.next_page_token, list(page.unreachable)) == (token, unreachable)


NAMED = {
    "projects/123/locations/l/operations/o": True,
    "operations/o": True,
    "projects/p/locations/other/operations/o": True,
    "": True,
    "projects/p/locations/l/operations/other": False,
    "projects/p/locations/l/operations": False,
    "x" * 4097 + "/o": False,
}
"""What services answer, and whether it is about ``projects/p/locations/l/operations/o``."""


@pytest.mark.parametrize("answered", NAMED)
@pytest.mark.parametrize("make", [get_call, lambda name: wait_call(name, 1.0)], ids=["get", "wait"])
def test_answer_is_about_the_operation_that_was_asked_for(answered: str, make: Any) -> None:
    """By the last segment of its name; without a name it counts as the one asked for. All else says nothing."""
    asked = "projects/p/locations/l/operations/o"
    raw = pb.Operation(name=answered, done=True).SerializeToString()
    if NAMED[answered]:
        assert read_answer(make(asked), raw, target="host:1") == OperationState(name=answered or asked, done=True)
    else:
        with pytest.raises(RpcError, match=r"another one|has a name of 4,099 characters") as failed:
            read_answer(make(asked), raw, target="host:1")
        assert (failed.value.code, failed.value.is_transient) == (Code.INTERNAL, True)
        assert len(str(failed.value)) < 1000


def test_names_of_a_listing_stay_as_they_are() -> None:
    """They are compared in full, as two databases may each have an operation of that id; none spoils the others."""
    names = ["a/operations/mig_42", "b/operations/mig_42", "", "x" * 5000]
    listed = pb.ListOperationsResponse(operations=[pb.Operation(name=name) for name in names]).SerializeToString()
    call = Listing("p", "", None, return_partial_success=False).call("")
    assert [state.name for state in read_answer(call, listed, target="host:1").states()] == names


@pytest.mark.parametrize("call", [GET, wait_call("o", 1.0), cancel_call("o"), delete_call("o")])
def test_ok_without_a_message_is_not_an_answer(call: Any) -> None:
    """For it gRPC gives None; that something has answered does not mean that it was asked to cancel."""
    with pytest.raises(RpcError, match=r"is not a message of google\.longrunning") as failed:
        read_answer(call, None, target="host:1")
    assert failed.value.is_transient


def test_partial_success_is_asked_for_on_every_page() -> None:
    """Also where the messages that are installed do not know that field."""
    asked, plain = (Listing("p", "f", 7, return_partial_success=each).call("t").request for each in (True, False))
    assert pb.ListOperationsRequest.FromString(plain) == pb.ListOperationsRequest(
        name="p", filter="f", page_size=7, page_token="t"
    )
    assert asked == plain + b"\x28\x01"


def test_texts_that_no_database_takes(caplog: pytest.LogCaptureFixture) -> None:
    """U+0000 becomes U+FFFD wherever a text of an answer leaves us, and a warning says where it was."""
    operation = pb.Operation(name="\0/o", done=True, error=status_pb2.Status(code=13, message="row 7: F\0o is no date"))
    operation.metadata.type_url = "x/\0"
    state = read(operation.SerializeToString())
    assert (state.name, state.message) == ("\ufffd/o", "row 7: F\ufffdo is no date")
    assert state.metadata == Payload(type_url="x/\ufffd")
    assert "an operation's error message has U+0000" in caplog.text
    assert storable("F\0o\ud800") == "F\ufffdo\ufffd"


def test_details_that_do_not_parse_are_left_out_of_the_message() -> None:
    """The raw operation has all else, and its details are not a bare DecodeError."""
    state = OperationState(
        name="o", done=True, code=9, message="m", details=Payload(type_url=STATUS_URL, value=b"\x1a\x02" + BROKEN_ANY)
    )
    assert state_to_message(state) == pb.Operation(name="o", done=True, error=status_pb2.Status(code=9, message="m"))


@pytest.mark.parametrize(
    ("given_", "state"),
    [
        ({"error": {"code": 2**40, "message": {"a": 1}}}, OperationState(name="o", code=2, message="{'a': 1}")),
        ({"error": "text"}, OperationState(name="o", code=2, message="text")),
        ({"error": [1]}, OperationState(name="o", code=2, message="[1]")),
        (
            {"response": {1: (2.0, float("nan"))}},
            OperationState(name="o", response=JsonPayload(json={"1": [2.0, "NaN"]})),
        ),
        ({"metadata": "text"}, OperationState(name="o", metadata=JsonPayload(json="text"))),
        ({"response": {"@type": 5}, "metadata": {"__type": 1}}, {"response": {}, "metadata": {"___type": 1}}),
        ({"response": {"@type": PROTO2, "optimize_for": "SPEED", "uninterpreted_option": [{}]}}, None),
        (
            {"response": {"value": datetime(2026, 1, 31, tzinfo=UTC)}},
            {"response": {"value": "2026-01-31 00:00:00+00:00"}},
        ),
    ],
)
def test_operation_as_json_that_is_odd(given_: dict[str, Any], state: Any) -> None:
    """It stays JSON that can be stored, whatever is in it."""
    found = state_from_json({"name": "o", "done": True, **given_})
    if isinstance(state, dict):
        state = OperationState(name="o", **{key: JsonPayload(json=value) for key, value in state.items()})
    if state is not None:
        assert found == replace(state, done=True)
    assert found.done
    json.dumps(operation_to_json(found), allow_nan=False)


@pytest.mark.parametrize("value", [DEEP, 10**5000, {("a", "b"): 1}], ids=["deep", "long number", "key"])
def test_operation_that_is_not_json(value: Any) -> None:
    """It is said so."""
    with pytest.raises(ValueError, match="is not JSON that can be stored"):
        state_from_json({"name": "o", "done": True, "response": {"value": value}})


PURE = r"""
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf.internal import api_implementation
from airflow_provider_lro._messages.encoding import details_to_json, payload_to_json
from airflow_provider_lro._messages.protocol import get_call, read_answer, read_error
from airflow_provider_lro._core.state import Payload
from airflow_provider_lro.exceptions import RpcError

assert api_implementation.Type() == "python"
try:
    read_answer(get_call("o"), b"\x0a\x01\xff", target="host:1")
except RpcError as error:
    assert "is not a message" in str(error)
else:
    raise AssertionError("it was read")
assert read_error(b"\x12\x01\xff") == (None, None)
broken = Payload(type_url="t/google.rpc.ErrorInfo", value=b"\x0a\x01\xff")
assert payload_to_json(broken) == {"@type": "t/google.rpc.ErrorInfo", "value": "CgH/"}
assert details_to_json(Payload(type_url="t/google.rpc.Status", value=b"\x12\x01\xff"))
"""


@pytest.mark.no_cover  # which would take most of its time
def test_bytes_that_do_not_parse_in_python() -> None:
    """Protobuf's implementation in Python raises another error for a text that is not UTF-8."""
    env = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", PURE], check=True, env=env, timeout=60)


def listed(raw: bytes, call: Call) -> Page:
    """Read a page."""
    page = read_answer(call, raw, target="host:1")
    assert isinstance(page, Page)
    return page


def test_places_of_a_listing_are_bounded() -> None:
    """A service may name any number of places that it could not reach; the first thousand of a listing are kept."""
    listing = Listing("p", "", None, return_partial_success=True)
    first, last = b"\x1a\x01a" * 800 + b"\x12\x01t", b"\x1a\x01b" * 800
    assert listing.next_token(listed(first, listing.call(listing.restart()))) == "t"
    assert listing.next_token(listed(last, listing.call("t"))) is None
    assert listing.unreachable == ["a"] * 800 + ["b"] * 200


def test_summary_leaves_out_what_nobody_needs_of_a_listing() -> None:
    """The outcome is in it, with the metadata; a response and an error's details are not even parsed or kept."""
    succeeded = pb.Operation(name="s", done=True)
    succeeded.response.value = b"x" * 1000
    succeeded.metadata.value = b"m"
    failed = pb.Operation(name="f", done=True)
    failed.error.code = 9
    failed.error.details.add(value=b"x" * 1000)
    runs = pb.Operation(name="r")
    call = Listing("p", "", None).call("")
    page = listed(pb.ListOperationsResponse(operations=[succeeded, failed, runs]).SerializeToString(), call)
    summaries = list(page.summaries(lambda name, done: done))
    assert summaries == [
        OperationState(name="s", done=True, response=Payload(), metadata=Payload(value=b"m")),
        OperationState(name="f", done=True, code=9),
        None,
    ]
    assert [state.name for state in page.states()] == ["s", "f", "r"]
    assert [type(outcome_of(state)) for state in summaries if state] == [Succeeded, Failed]


def test_operation_of_a_page_that_is_none() -> None:
    """It is an error of its listing when it is reached, by whichever way."""
    call = Listing("p", "", None).call("")
    page = listed(b"\x0a\x02\x0a\x7f", call)
    for read_one in (page.states(), page.summaries(lambda name, done: True)):
        with pytest.raises(RpcError, match=r"is not a message of google\.longrunning"):
            next(read_one)
