"""Responses, metadata and error details as JSON: what an XCom, an error and a log hold of them."""

from __future__ import annotations

import base64
import gc
import json
from typing import TYPE_CHECKING, Any

import pytest
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.rpc import error_details_pb2 as details_pb2
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro._core.outcome import CallFailed, Cancelled, Failed, Succeeded
from airflow_provider_lro._core.state import JsonPayload, OperationState, Payload
from airflow_provider_lro._core.wait import outcome_of
from airflow_provider_lro._messages.encoding import (
    details_to_json,
    opaque_to_json,
    operation_to_json,
    payload_to_json,
    response_to_json,
    unpack,
)
from airflow_provider_lro._messages.events import event_from_outcomes
from airflow_provider_lro._messages.protocol import STATUS_URL, state_from_message
from airflow_provider_lro._messages.results import failure, response
from airflow_provider_lro.exceptions import LroError, OperationCancelled, OperationFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

PREFIX = "type.googleapis.com/"
UNKNOWN = any_pb2.Any(type_url=PREFIX + "no.such.Type", value=b"\x0a\x02hi")
OPAQUE = {"@type": PREFIX + "no.such.Type", "value": "CgJoaQ=="}
MALFORMED = any_pb2.Any(type_url=PREFIX + "google.protobuf.Struct", value=b"\x0a\x7fbroken")
OPAQUE_MALFORMED = {"@type": MALFORMED.type_url, "value": base64.b64encode(MALFORMED.value).decode()}
TOO_LATE = timestamp_pb2.Timestamp(seconds=2**40)
"""Beyond the year 9999, which ProtoJSON cannot say."""


def _holder() -> Any:
    """Make a message class with every kind of field that matters; the pool of this process knows it."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="lro_tests/holder.proto",
        package="lro_tests",
        syntax="proto3",
        dependency=["google/protobuf/any.proto", "google/protobuf/timestamp.proto"],
    )
    color = file.enum_type.add(name="Color")
    for number, name in enumerate(("COLOR_UNSPECIFIED", "RED")):
        color.value.add(name=name, number=number)
    message = file.message_type.add(name="Holder")
    fields = (
        ("one_any", kinds.TYPE_MESSAGE, False, ".google.protobuf.Any"),
        ("many_anys", kinds.TYPE_MESSAGE, True, ".google.protobuf.Any"),
        ("anys_by_name", kinds.TYPE_MESSAGE, True, ".lro_tests.Holder.AnysByNameEntry"),
        ("texts_by_name", kinds.TYPE_MESSAGE, True, ".lro_tests.Holder.TextsByNameEntry"),
        ("child", kinds.TYPE_MESSAGE, False, ".lro_tests.Holder"),
        ("when", kinds.TYPE_MESSAGE, False, ".google.protobuf.Timestamp"),
        ("big_number", kinds.TYPE_INT64, False, None),
        ("small_number", kinds.TYPE_INT32, False, None),
        ("color", kinds.TYPE_ENUM, False, ".lro_tests.Color"),
        ("plain_text", kinds.TYPE_STRING, False, None),
        ("raw", kinds.TYPE_BYTES, False, None),
        ("flag", kinds.TYPE_BOOL, False, None),
    )
    for number, (name, kind, repeated, type_name) in enumerate(fields, start=1):
        label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
        message.field.add(name=name, number=number, type=kind, label=label, type_name=type_name)
    for entry, kind, type_name in (
        ("AnysByNameEntry", kinds.TYPE_MESSAGE, ".google.protobuf.Any"),
        ("TextsByNameEntry", kinds.TYPE_STRING, None),
    ):
        nested = message.nested_type.add(name=entry)
        nested.options.map_entry = True
        nested.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
        nested.field.add(name="value", number=2, type=kind, label=kinds.LABEL_OPTIONAL, type_name=type_name)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("lro_tests.Holder"))


Holder = _holder()
EMPTY_HOLDER = {
    "many_anys": [],
    "anys_by_name": {},
    "texts_by_name": {},
    "big_number": "0",
    "small_number": 0,
    "color": "COLOR_UNSPECIFIED",
    "plain_text": "",
    "raw": "",
    "flag": False,
}


def packed(message: Message) -> any_pb2.Any:
    """Wrap a message."""
    wrapped = any_pb2.Any()
    wrapped.Pack(message)
    return wrapped


def payload_of(wrapped: any_pb2.Any) -> Payload:
    """Return an Any as a state has it."""
    return Payload(type_url=wrapped.type_url, value=wrapped.value)


def details_of(*details: any_pb2.Any) -> Payload:
    """Return the details of an error as a state has them."""
    return Payload(type_url=STATUS_URL, value=status_pb2.Status(details=details).SerializeToString())


def done(**result: Any) -> OperationState:
    """Return the state of a done operation."""
    return state_from_message(pb.Operation(name="o", done=True, **result))


def plain(value: Any) -> bool:
    """Return True if a value is JSON as Python's own types, and not a subclass of theirs."""
    if type(value) is dict:
        return all(type(key) is str and plain(item) for key, item in value.items())
    if type(value) is list:
        return all(plain(item) for item in value)
    return value is None or type(value) in (str, int, float, bool)


def checked(value: Any) -> Any:
    """Return JSON back, after a look at it: plain, and the same after a round trip."""
    assert plain(value)
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    return value


def xcom(message: Message) -> Any:
    """Return what an operation with this response leaves in XCom."""
    return checked(response_to_json(response(done(response=packed(message)))))


# ── what an operation came to ──


def test_the_result_field_decides() -> None:
    """Done, and which of the two is set; a code alone is an error, even OK's, and 1 is cancelled."""
    assert isinstance(outcome_of(done()), Succeeded)
    assert isinstance(outcome_of(done(response=UNKNOWN)), Succeeded)
    for code, kind in ((0, Failed), (5, Failed), (77, Failed), (1, Cancelled)):
        assert type(outcome_of(done(error=status_pb2.Status(code=code)))) is kind


def test_the_text_of_a_failure_is_short() -> None:
    """It has name, code, message and the beginning of the details; all of them are in `details`."""
    info = details_pb2.DebugInfo(detail="x" * 5000)
    status = status_pb2.Status(code=5, message="gone", details=[packed(info)])
    error = failure(done(error=status))
    assert str(error).startswith("the operation failed with NOT_FOUND (5): gone [{'@type'")
    assert len(str(error)) < 1200
    assert len(error.details[0]["detail"]) == 5000
    bare = failure(done(error=status_pb2.Status(code=77)))
    assert str(bare) == "the operation failed with code 77: the service gave no message [operation 'o']"
    cancelled = failure(done(error=status_pb2.Status(code=1, message="by me")))
    assert (type(bare), type(cancelled)) == (OperationFailed, OperationCancelled)
    assert str(cancelled) == "the operation was cancelled: by me [operation 'o']"


def test_what_a_service_says_forges_no_line_of_a_log() -> None:
    """In the text it is one printable line of bounded length; `message` has it all."""
    said = "no\n[2026-01-01] ERROR forged\x1b[31m\u2028" + "x" * 10_000
    error = failure(done(error=status_pb2.Status(code=5, message=said)))
    assert str(error).startswith("the operation failed with NOT_FOUND (5): no [2026-01-01] ERROR forged [31m x")
    assert str(error).isprintable()
    assert len(str(error)) < 2100
    assert error.message == said


# ── responses ──


def test_nothing_is_an_empty_object() -> None:
    """Empty, an empty Struct, and done with neither."""
    assert xcom(empty_pb2.Empty()) == {}
    assert xcom(struct_pb2.Struct()) == {}
    assert response_to_json(response(done())) == {}


def test_fields_are_as_the_proto_spells_them() -> None:
    """snake_case, no @type on top, enum names, int64 as text, bytes in base64, fields without presence included."""
    assert xcom(Holder()) == EMPTY_HOLDER
    message = Holder(big_number=2**53 + 1, small_number=7, color=1, raw=b"\xff", plain_text="ü", flag=True)
    message.when.seconds = 1
    message.texts_by_name["k_k"] = "v"
    message.child.big_number = -1
    assert xcom(message) == EMPTY_HOLDER | {
        "big_number": "9007199254740993",
        "small_number": 7,
        "color": "RED",
        "raw": "/w==",
        "plain_text": "ü",
        "flag": True,
        "when": "1970-01-01T00:00:01Z",
        "texts_by_name": {"k_k": "v"},
        "child": EMPTY_HOLDER | {"big_number": "-1"},
    }
    assert xcom(Holder(color=5))["color"] == 5


def test_well_known_types_are_what_protojson_makes_of_them() -> None:
    """A Struct is its object, a wrapper its value, a duration a text."""
    struct = struct_pb2.Struct()
    struct.update({"a": [1, "x", None, {"b": True}], "value": "v", "@type": "mine"})
    assert xcom(struct) == {"a": [1, "x", None, {"b": True}], "value": "v", "@type": "mine"}
    assert xcom(wrappers_pb2.Int64Value(value=5)) == "5"
    assert xcom(duration_pb2.Duration(seconds=3)) == "3s"
    assert xcom(timestamp_pb2.Timestamp()) == "1970-01-01T00:00:00Z"
    assert xcom(field_mask_pb2.FieldMask(paths=["a_b", "c"])) == "aB,c"


def test_a_nested_any_keeps_its_type() -> None:
    """Wherever it stands, and Anys inside Anys."""
    struct = struct_pb2.Struct()
    struct["x"] = "y"
    message = Holder(one_any=packed(details_pb2.RequestInfo(request_id="r")), many_anys=[packed(struct)])
    message.anys_by_name["k"].Pack(Holder(one_any=packed(wrappers_pb2.StringValue(value="deep"))))
    result = xcom(message)
    request_info = {"@type": PREFIX + "google.rpc.RequestInfo", "request_id": "r", "serving_data": ""}
    assert result["one_any"] == request_info
    assert result["many_anys"] == [{"@type": PREFIX + "google.protobuf.Struct", "value": {"x": "y"}}]
    deep = {"@type": PREFIX + "google.protobuf.StringValue", "value": "deep"}
    assert result["anys_by_name"] == {"k": {"@type": PREFIX + "lro_tests.Holder"} | EMPTY_HOLDER | {"one_any": deep}}


@pytest.mark.parametrize(("inside", "opaque"), [(UNKNOWN, OPAQUE), (MALFORMED, OPAQUE_MALFORMED)])
def test_what_cannot_be_unpacked_is_opaque_and_the_rest_is_not(inside: any_pb2.Any, opaque: dict[str, str]) -> None:
    """On top, in a field, in a list, in a map, inside another Any: type and bytes, and everything else decoded."""
    assert checked(response_to_json(response(done(response=inside)))) == opaque
    known = packed(wrappers_pb2.StringValue(value="ok"))
    message = Holder(plain_text="t", one_any=inside, many_anys=[known, inside])
    message.anys_by_name["bad"].CopyFrom(inside)
    message.anys_by_name["good"].CopyFrom(known)
    message.child.one_any.Pack(Holder(many_anys=[inside], small_number=3))
    message.texts_by_name["bad"] = "text"
    before = message.SerializeToString(deterministic=True)
    decoded = {"@type": PREFIX + "google.protobuf.StringValue", "value": "ok"}
    nested = {"@type": PREFIX + "lro_tests.Holder"} | EMPTY_HOLDER | {"many_anys": [opaque], "small_number": 3}
    assert xcom(message) == EMPTY_HOLDER | {
        "plain_text": "t",
        "one_any": opaque,
        "many_anys": [decoded, opaque],
        "anys_by_name": {"bad": opaque, "good": decoded},
        "texts_by_name": {"bad": "text"},
        "child": EMPTY_HOLDER | {"one_any": nested},
    }
    assert message.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    "message",
    [
        TOO_LATE,
        Holder(when=TOO_LATE),
        Holder(one_any=packed(TOO_LATE)),
        Holder(when=TOO_LATE, one_any=UNKNOWN),
        duration_pb2.Duration(seconds=2**62),
        field_mask_pb2.FieldMask(paths=["camelCase"]),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_protojson_cannot_say_is_opaque(message: Message) -> None:
    """On top or inside, no exception: the whole payload as its bytes."""
    assert xcom(message) == opaque_to_json(payload_of(packed(message)))
    assert checked(payload_to_json(payload_of(packed(message)))) == opaque_to_json(payload_of(packed(message)))


def test_numbers_that_json_does_not_have(caplog: pytest.LogCaptureFixture) -> None:
    """In a Struct they are the texts that ProtoJSON has for them in a double; the rest stays readable."""
    struct = struct_pb2.Struct()
    struct.update({"rows": 5, "mean": float("nan"), "list": [float("inf"), {"low": float("-inf")}]})
    said = {"rows": 5.0, "mean": "NaN", "list": ["Infinity", {"low": "-Infinity"}]}
    assert xcom(struct) == said
    assert checked(payload_to_json(payload_of(packed(struct))))["value"] == said
    assert xcom(Holder(one_any=packed(struct)))["one_any"]["value"] == said


def test_texts_that_no_database_takes(caplog: pytest.LogCaptureFixture) -> None:
    """U+0000 becomes U+FFFD, in keys, too, and one warning names the field of the first."""
    struct = struct_pb2.Struct()
    struct.update({"rows": {"first\0": ["F\0o"]}})
    assert xcom(struct) == {"rows": {"first\ufffd": ["F\ufffdo"]}}
    assert caplog.text.count("U+FFFD") == 1
    assert "field 'rows' (of 2 texts)" in caplog.text


def test_type_of_a_payload_that_no_database_takes() -> None:
    """Wherever a payload of an unknown type is, inside another, too, its type is a text of the service's as any."""
    odd = any_pb2.Any(type_url="x/\0", value=b"1")
    status = status_pb2.Status(code=13, message="F\0o", details=[odd])
    error = LroError("x", details=details_to_json(payload_of(packed(status))))
    outcomes: list[Any] = [
        CallFailed(error=error),
        Failed(operation=state_from_message(pb.Operation(name="o", done=True, error=status))),
        Succeeded(operation=state_from_message(pb.Operation(name="o", done=True, response=packed(status)))),
        Succeeded(operation=OperationState(name="o", done=True, response=JsonPayload(json={"\0": ["\ud800"]}))),
    ]
    written = [
        response_to_json(odd),
        xcom(status),
        operation_to_json(state_from_message(pb.Operation(name="o", metadata=packed(status)))),
        *[event_from_outcomes([outcome], ["o"], started_at=0.0) for outcome in outcomes],
    ]
    for value in written:
        assert "\\u0000" not in json.dumps(value)
        assert "\\ud800" not in json.dumps(value)
    assert sum("\\ufffd" in json.dumps(value) for value in written) == len(written) - 1  # the response's is in base64


@pytest.fixture
def no_garbage() -> Iterator[None]:
    """Keep finalizers of other tests' objects from running at the bottom of a stack that is about to overflow."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_anys_that_are_nested_without_end_are_opaque(no_garbage: None) -> None:
    """A service may nest deeper than Python recurses; that is no exception either."""
    payload = packed(wrappers_pb2.StringValue(value="x"))
    for _ in range(600):
        payload = packed(payload)
    assert checked(payload_to_json(payload_of(payload))) == opaque_to_json(payload_of(payload))


KNOWN = [
    packed(kind()).type_url
    for kind in (
        any_pb2.Any,
        details_pb2.BadRequest,
        duration_pb2.Duration,
        empty_pb2.Empty,
        field_mask_pb2.FieldMask,
        Holder,
        pb.Operation,
        status_pb2.Status,
        struct_pb2.Struct,
        struct_pb2.Value,
        timestamp_pb2.Timestamp,
        wrappers_pb2.BytesValue,
        wrappers_pb2.DoubleValue,
    )
]


@given(st.sampled_from(KNOWN) | st.text(), st.binary(max_size=60))
def test_no_any_is_ever_an_exception(type_url: str, value: bytes) -> None:
    """Whatever its type and its bytes: it becomes JSON, alone, as a response and as a detail."""
    payload = any_pb2.Any(type_url=type_url, value=value)
    checked(payload_to_json(payload_of(payload)))
    checked(response_to_json(response(done(response=payload))))
    checked(details_to_json(details_of(payload)))
    checked(payload_to_json(payload_of(packed(Holder(many_anys=[payload, UNKNOWN])))))


# ── operations and details ──


def test_an_operation_as_json() -> None:
    """Name and done always, the rest where it is there; payloads with their type."""
    assert checked(operation_to_json(OperationState(name="o"))) == {"name": "o", "done": False}
    running = OperationState(name="o", metadata=payload_of(packed(duration_pb2.Duration(seconds=1))))
    metadata = {"@type": PREFIX + "google.protobuf.Duration", "value": "1s"}
    assert checked(operation_to_json(running)) == {"name": "o", "done": False, "metadata": metadata}
    succeeded = done(response=UNKNOWN)
    assert checked(operation_to_json(succeeded)) == {"name": "o", "done": True, "response": OPAQUE}
    failed = done(error=status_pb2.Status(code=77, details=[MALFORMED]))
    assert checked(operation_to_json(failed))["error"] == {"code": 77, "message": "", "details": [OPAQUE_MALFORMED]}


def test_payloads_that_are_json_stay_as_they_are() -> None:
    """A service that speaks JSON has said it already: response, metadata and details, with a type or without."""
    said = {"@type": PREFIX + "no.such.Type", "rows": 3, "more": [None, "x"]}
    state = OperationState(name="o", done=True, response=JsonPayload(json=said), metadata=JsonPayload(json="half"))
    assert checked(operation_to_json(state)) == {"name": "o", "done": True, "metadata": "half", "response": said}
    assert response_to_json(response(state)) == said
    assert unpack(JsonPayload(json=[1]), None, what="it", of="o") == [1]
    for convert in (payload_to_json, opaque_to_json):
        assert convert(JsonPayload(json=said)) == said
    error = failure(OperationState(name="o", done=True, code=5, details=JsonPayload(json=[said])))
    assert (error.code, error.details) == (5, [said])
    assert error.operation == {"name": "o", "done": True, "error": {"code": 5, "message": "", "details": [said]}}


def test_details_that_do_not_parse_are_opaque() -> None:
    """The failure is what counts; its details come as their bytes."""
    broken = Payload(type_url=STATUS_URL, value=b"\x1a\x7fbroken")
    error = failure(OperationState(name="o", done=True, code=5, message="gone", details=broken))
    assert (error.code, error.message) == (5, "gone")
    assert checked(error.details) == [opaque_to_json(broken)]
    assert details_to_json(None) == []


d = details_pb2
DETAILS: list[tuple[Any, dict[str, Any]]] = [
    (
        d.ErrorInfo(reason="R", domain="d", metadata={"someKey": "v"}),
        {"reason": "R", "domain": "d", "metadata": {"someKey": "v"}},
    ),
    (d.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000)), {"retry_delay": "1.500s"}),
    (d.DebugInfo(stack_entries=["a:1"], detail="x"), {"stack_entries": ["a:1"], "detail": "x"}),
    (
        d.QuotaFailure(violations=[d.QuotaFailure.Violation(subject="s", description="x")]),
        {"violations": [{"subject": "s", "description": "x"}]},
    ),
    (
        d.PreconditionFailure(violations=[d.PreconditionFailure.Violation(type="T", subject="s", description="x")]),
        {"violations": [{"type": "T", "subject": "s", "description": "x"}]},
    ),
    (
        d.BadRequest(field_violations=[d.BadRequest.FieldViolation(field="a.b_c", description="x")]),
        {"field_violations": [{"field": "a.b_c", "description": "x"}]},
    ),
    (d.RequestInfo(request_id="r"), {"request_id": "r", "serving_data": ""}),
    (
        d.ResourceInfo(resource_type="t", resource_name="n", description="x"),
        {"resource_type": "t", "resource_name": "n", "owner": "", "description": "x"},
    ),
    (
        d.Help(links=[d.Help.Link(description="x", url="https://example.com")]),
        {"links": [{"description": "x", "url": "https://example.com"}]},
    ),
    (d.LocalizedMessage(locale="de-CH", message="ä"), {"locale": "de-CH", "message": "ä"}),
]


def includes(actual: Any, expected: Any) -> bool:
    """Return True if a JSON value has what is expected of it; later versions of a detail have more fields."""
    if isinstance(expected, dict):
        return all(key in actual and includes(actual[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        return len(actual) == len(expected) and all(map(includes, actual, expected))
    return bool(actual == expected)


@pytest.mark.parametrize(("detail", "expected"), DETAILS, ids=[type(detail).__name__ for detail, _ in DETAILS])
def test_an_error_detail_is_decoded(detail: Message, expected: dict[str, Any]) -> None:
    """Each of google.rpc's, with its type and its fields."""
    (result,) = checked(details_to_json(details_of(packed(detail))))
    assert result["@type"] == f"{PREFIX}google.rpc.{type(detail).__name__}"
    assert includes(result, expected)


def test_details_of_every_kind_stand_together() -> None:
    """In their order, an unknown one between known ones."""
    all_of_them = [packed(detail) for detail, _ in DETAILS]
    result = checked(details_to_json(details_of(*all_of_them, UNKNOWN, *all_of_them)))
    assert result[len(DETAILS)] == OPAQUE
    assert result[: len(DETAILS)] == result[len(DETAILS) + 1 :]
    assert {type(detail).DESCRIPTOR.name for detail, _ in DETAILS} == {
        name for name in d.DESCRIPTOR.message_types_by_name if "." not in name
    }
