"""Payloads as messages, and messages as JSON.

A payload is unpacked where its type is known to the process; where it is not, or its bytes do not parse, it stays
``{"@type": …, "value": base64}`` and never becomes an exception.
"""

from __future__ import annotations

import base64
import inspect
import math
import uuid
from typing import TYPE_CHECKING, Any

from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory, struct_pb2
from google.protobuf.message import Message
from google.rpc import status_pb2

from airflow_provider_lro._core.checks import as_finite, storable, storable_json
from airflow_provider_lro._core.state import JsonPayload, Payload
from airflow_provider_lro._messages.protocol import UNREADABLE
from airflow_provider_lro.exceptions import PayloadTypeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_lro._core.state import OperationState
    from airflow_provider_lro._messages.types import MessageType

_UNSAYABLE = (ValueError, TypeError, OverflowError, *UNREADABLE, json_format.Error, RecursionError)
"""The errors of json_format for an unknown Any, for bytes that do not parse, for a value that ProtoJSON cannot say (a
timestamp beyond the year 9999), and for messages in messages without end."""
# protobuf 4 has another word for it, and prints the absent optional fields of proto2, too.
_PRINT_DEFAULTS: dict[str, Any] = {
    "always_print_fields_with_no_presence"
    if "always_print_fields_with_no_presence" in inspect.signature(json_format.MessageToDict).parameters
    else "including_default_value_fields": True
}
_JSON = (dict, list, str, int, float, bool, type(None))


def unpack(payload: Payload | JsonPayload, expected: MessageType | None, *, what: str, of: str) -> Any:
    """Return a payload as a message; the raw ``Any`` if its type is not known here, JSON as it is.

    ``expected`` None stands for the type that the payload names; ``what`` it is, and ``of`` which operation, for an
    error.

    Raises:
        PayloadTypeError: it is of another type than ``expected``.
    """
    if isinstance(payload, JsonPayload):
        return storable_json(payload.json)
    if expected is None:
        known = parse_payload(payload)
        return _any(payload) if known is None else known
    name = expected.full_name
    if (found := type_of_payload(payload)) != name:
        advice = "correct the type, or leave it out"
        raise PayloadTypeError(f"{what} is a {found!r}, but {name!r} was asked for: {advice} [operation {of!r}]")
    try:
        return expected.parse(payload.value)
    except UNREADABLE as error:
        advice = "install the version of its library that the service uses"
        why = f"{what} says it is a {name!r}, but its bytes do not parse as one"
        raise PayloadTypeError(f"{why}: {advice} [operation {of!r}]") from error


def parse_payload(payload: Payload | JsonPayload | None) -> Message | None:
    """Return the message inside, or None where there is none that can be read here."""
    return _parse(type_of_payload(payload), payload.value) if isinstance(payload, Payload) else None


def type_of_payload(payload: Payload | JsonPayload | None) -> str:
    """Return the full name of the type that a payload names; empty where it names none."""
    named: Any = payload.type_url if isinstance(payload, Payload) else None
    if isinstance(payload, JsonPayload) and isinstance(payload.json, dict):
        named = payload.json.get("@type")
    return named.rpartition("/")[2] if isinstance(named, str) else ""


def unknown_types(state: OperationState | None) -> list[tuple[str, str]]:
    """Return the full names of the types that cannot be read here, each after the argument that would name it."""
    payloads = () if state is None else (("response_type", state.response), ("metadata_type", state.metadata))
    opaque = ((key, each) for key, each in payloads if isinstance(each, Payload) and parse_payload(each) is None)
    return [(key, name) for key, each in opaque if (name := type_of_payload(each))]


def _parse(name: str, value: bytes) -> Message | None:
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
        return message_factory.GetMessageClass(descriptor).FromString(value)
    except (KeyError, *UNREADABLE):
        return None


def _any(payload: Payload) -> any_pb2.Any:
    return any_pb2.Any(type_url=payload.type_url, value=payload.value)


def response_to_json(response: Any) -> Any:
    """Return a response as JSON: ProtoJSON, snake_case, without a top-level ``@type``; ``{}`` for Empty."""
    if isinstance(response, _JSON):
        return response
    # A proto-plus message holds a protobuf one.
    message: Message = response if isinstance(response, Message) else type(response).pb(response)
    if isinstance(message, any_pb2.Any):
        return _opaque(message.type_url, message.value)
    try:
        return _message_to_json(message)
    except _UNSAYABLE:
        return _opaque(f"type.googleapis.com/{message.DESCRIPTOR.full_name}", message.SerializePartialToString())


def payload_to_json(payload: Payload | JsonPayload) -> Any:
    """Return a payload as ProtoJSON with its ``@type``; opaque where its type is not known here."""
    return storable_json(payload.json) if isinstance(payload, JsonPayload) else _any_to_json(_any(payload))


def _any_to_json(payload: any_pb2.Any) -> dict[str, Any]:
    try:
        return _message_to_json(payload)  # type: ignore[no-any-return]
    except _UNSAYABLE:
        return _opaque(payload.type_url, payload.value)


def details_to_json(details: Payload | JsonPayload | None) -> list[dict[str, Any]]:
    """Return the ``google.rpc`` details of an error (ErrorInfo, RetryInfo, BadRequest, …) as JSON."""
    if details is None:
        return []
    if isinstance(details, JsonPayload):
        found = storable_json(details.json)
        listed = found if isinstance(found, list) else [found]
        return [each if isinstance(each, dict) else {"value": each} for each in listed]
    try:
        status = status_pb2.Status.FromString(details.value)
    except UNREADABLE:
        return [opaque_to_json(details)]
    return [_any_to_json(detail) for detail in status.details]


def operation_to_json(
    state: OperationState, to_json: Callable[[Payload | JsonPayload], Any] = payload_to_json
) -> dict[str, Any]:
    """Return an operation as JSON, its payloads unpacked where their types are known here."""
    result: dict[str, Any] = {"name": state.name, "done": state.done}
    if state.metadata is not None:
        result["metadata"] = to_json(state.metadata)
    if state.code is not None:
        result["error"] = {"code": state.code, "message": state.message, "details": details_to_json(state.details)}
    elif state.response is not None:
        result["response"] = to_json(state.response)
    return result


def opaque_to_json(payload: Payload | JsonPayload) -> Any:
    """Return a payload without a look inside it: ``{"@type", "value"}`` with its bytes in base64, or its JSON."""
    return storable_json(payload.json) if isinstance(payload, JsonPayload) else _opaque(payload.type_url, payload.value)


def _opaque(type_url: str, value: bytes) -> dict[str, Any]:
    return {
        "@type": storable(type_url, what="the type of a payload"),
        "value": base64.b64encode(value).decode("ascii"),
    }


def _message_to_json(message: Message) -> Any:
    try:
        return storable_json(_plain_to_json(message))
    except (TypeError, ValueError, *UNREADABLE, json_format.Error):
        # Somewhere inside is an Any that cannot be unpacked, or in a Struct a number that JSON does not have. There
        # json_format has no way round, so each such Any is exchanged for a text that cannot occur otherwise, and put
        # back as opaque JSON.
        copy = type(message)()
        copy.CopyFrom(message)
        hidden: dict[str, dict[str, Any]] = {}  # by the text that stands for it
        _hide_unknown(copy, hidden)
        return storable_json(_plain_to_json(copy), hidden)


def _plain_to_json(message: Message) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True, **_PRINT_DEFAULTS)


def _hide_unknown(message: Any, hidden: dict[str, dict[str, Any]]) -> None:
    """Exchange what json_format cannot say."""
    kind = message.DESCRIPTOR.full_name
    if kind == "google.protobuf.Value":
        if message.WhichOneof("kind") == "number_value" and not math.isfinite(message.number_value):
            message.string_value = as_finite(message.number_value)
            return
    elif isinstance(message, any_pb2.Any):
        known = _parse(message.TypeName(), message.value)
        if known is None:
            mark = uuid.uuid4().hex
            hidden[mark] = _opaque(message.type_url, message.value)
            message.Pack(struct_pb2.Value(string_value=mark))
        else:
            _hide_unknown(known, hidden)
            message.value = known.SerializePartialToString()  # a service may leave out what proto2 requires
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            values = list(value.values()) if field.message_type.fields_by_name["value"].message_type else []
        else:
            values = list(value) if is_repeated(field) else [value]
        for item in values:
            _hide_unknown(item, hidden)


def is_repeated(field: Any) -> bool:
    """Return True if a field of a descriptor holds many values."""
    # protobuf 6 brought is_repeated and protobuf 7 took label away.
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
