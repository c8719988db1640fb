"""Between ``Operation`` messages, results and JSON: outcomes, payloads and error details.

An ``Any`` is unpacked where its type is known to the process; where it is not, or its bytes do not parse, it stays
``{"@type": …, "value": base64}`` and never becomes an exception. Floor ½.
"""

from __future__ import annotations

import base64
import logging
import uuid
from typing import TYPE_CHECKING, Any

from google.protobuf import any_pb2, descriptor_pool, empty_pb2, json_format, message_factory, struct_pb2
from google.protobuf.message import DecodeError, Message

from airflow_provider_lro._core.outcome import Cancelled, Failed, Running, Succeeded
from airflow_provider_lro._core.text import LONGEST_SAID, one_line
from airflow_provider_lro._messages.types import message_type as type_of
from airflow_provider_lro._messages.types import plain
from airflow_provider_lro.exceptions import (
    Code,
    MalformedOperation,
    NoMetadataError,
    OperationCancelled,
    OperationFailed,
    PayloadTypeError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from google.longrunning import operations_proto_pb2 as pb

    from airflow_provider_lro._messages.types import MessageType

__all__ = [
    "any_to_json",
    "details_to_json",
    "failure",
    "is_repeated",
    "metadata",
    "opaque_to_json",
    "operation_to_json",
    "read",
    "response",
    "response_to_json",
]

_LONGEST_DETAILS = 1000
"""Characters of error details in the text of an error; the whole of them is in its ``details``."""

_UNSAYABLE = (ValueError, TypeError, DecodeError, json_format.Error, RecursionError)
"""What json_format raises for an unknown Any, for bytes that do not parse, for a value that ProtoJSON cannot say, such
as a timestamp beyond the year 9999, and for messages in messages without end."""

log = logging.getLogger(__name__)


# ── what an operation came to ──


def read(operation: pb.Operation) -> Running | Succeeded | Failed | Cancelled:
    """Tell what a poll found. The error field decides, set or not; its message may well be empty."""
    if not operation.done:
        return Running(operation=operation)
    if operation.WhichOneof("result") != "error":
        return Succeeded(operation=operation)
    if operation.error.code == Code.CANCELLED:
        return Cancelled(operation=operation)
    return Failed(operation=operation)


def failure(operation: pb.Operation) -> OperationFailed:
    """Return the error of an operation that failed or was cancelled."""
    code = Code.of(operation.error.code)
    number = f"{code.name} ({code.value})" if isinstance(code, Code) else f"code {code}"
    details = details_to_json(operation.error.details)
    said = one_line(operation.error.message, LONGEST_SAID) or "the service gave no message"
    verb = "was cancelled" if code == Code.CANCELLED else f"failed with {number}"
    text = f"operation {operation.name!r} {verb}: {said}"
    if details:
        shown = str(details)
        text += f" {shown if len(shown) <= _LONGEST_DETAILS else shown[:_LONGEST_DETAILS] + '…'}"
    kind = OperationCancelled if code == Code.CANCELLED else OperationFailed
    return kind(
        text,
        code=operation.error.code,
        message=operation.error.message,
        details=details,
        operation=operation_to_json(operation),
    )


def response(operation: pb.Operation, response_type: Any = None, *, require_result: bool = False) -> Any:
    """Return the response of an operation that succeeded.

    Args:
        operation: done, without error.
        response_type: the message class that is expected, or its name, as ``_types.message_type`` takes it; None for
            the one that the payload names.
        require_result: take "done with neither response nor error", which is legal, for a fault.

    Returns:
        The unpacked response; an ``Any`` if its type is not known here; ``response_type()`` or ``Empty()`` if there is
        none. A proto-plus class makes it one of its own.

    Raises:
        PayloadTypeError: the response is of another type than ``response_type``.
        MalformedOperation: there is none, and one is required.
        ValueError: there is no such type here.
    """
    expected = type_of(response_type)
    if operation.WhichOneof("result") == "response":
        return _unpack(operation.response, expected, what=f"the response of operation {operation.name!r}")
    if require_result:
        raise MalformedOperation(
            f"operation {operation.name!r} is done with neither response nor error, and require_result asks for a"
            " result; some services never give one",
            operation=operation_to_json(operation),
        )
    log.warning("operation %r is done with neither response nor error: taken for an empty response", operation.name)
    return empty_pb2.Empty() if expected is None else expected.empty()


def metadata(operation: pb.Operation, message_type: Any = None) -> Any:
    """Return the metadata of an operation, unpacked; an ``Any`` if its type is not known here.

    ``message_type`` is as in ``response``.

    Raises:
        NoMetadataError: the operation has none.
        PayloadTypeError: it is of another type than ``message_type``.
        ValueError: there is no such type here.
    """
    expected = type_of(message_type, what="message_type")
    if not operation.HasField("metadata"):
        raise NoMetadataError(f"operation {operation.name!r} has no metadata")
    return _unpack(operation.metadata, expected, what=f"the metadata of operation {operation.name!r}")


def _unpack(payload: any_pb2.Any, expected: MessageType | None, *, what: str) -> Any:
    if expected is None:
        known = _parse(payload)
        return payload if known is None else known
    name = expected.full_name
    if payload.TypeName() != name:
        raise PayloadTypeError(f"{what} is a {payload.TypeName()!r}, not the {name!r} that was asked for")
    try:
        return expected.parse(payload.value)
    except DecodeError as error:
        raise PayloadTypeError(f"{what} calls itself {name!r}, but its bytes do not parse as one") from error


def _parse(payload: any_pb2.Any) -> Message | None:
    """Return the message inside, or None when its type is not known here or its bytes do not parse."""
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(payload.TypeName())
        return message_factory.GetMessageClass(descriptor).FromString(payload.value)
    except (KeyError, DecodeError):
        return None


# ── JSON for people and XComs ──


def response_to_json(payload: Any) -> Any:
    """Return a response as JSON: ProtoJSON, snake_case, without a top-level ``@type``; ``{}`` for Empty."""
    payload = plain(payload)
    if isinstance(payload, any_pb2.Any):
        return opaque_to_json(payload)
    try:
        return _message_to_json(payload)
    except _UNSAYABLE:
        wrapped = any_pb2.Any()
        wrapped.Pack(payload)
        return opaque_to_json(wrapped)


def any_to_json(payload: any_pb2.Any) -> dict[str, Any]:
    """Return an Any as ProtoJSON with its ``@type``; opaque where its type is not known here."""
    try:
        return _message_to_json(payload)  # type: ignore[no-any-return]
    except _UNSAYABLE:
        return opaque_to_json(payload)


def details_to_json(details: Iterable[any_pb2.Any]) -> list[dict[str, Any]]:
    """Return ``google.rpc`` error details (ErrorInfo, RetryInfo, BadRequest, …) as JSON."""
    return [any_to_json(detail) for detail in details]


def operation_to_json(
    operation: pb.Operation, payload_to_json: Callable[[any_pb2.Any], dict[str, Any]] = any_to_json
) -> dict[str, Any]:
    """Return an operation as JSON, its payloads unpacked where their types are known here."""
    result: dict[str, Any] = {"name": operation.name, "done": operation.done}
    if operation.HasField("metadata"):
        result["metadata"] = payload_to_json(operation.metadata)
    kind = operation.WhichOneof("result")
    if kind == "response":
        result["response"] = payload_to_json(operation.response)
    elif kind == "error":
        result["error"] = {
            "code": operation.error.code,
            "message": operation.error.message,
            "details": [payload_to_json(detail) for detail in operation.error.details],
        }
    return result


def opaque_to_json(payload: any_pb2.Any) -> dict[str, Any]:
    """Return an Any as ``{"@type", "value"}`` with its bytes in base64, whatever they are."""
    return {"@type": payload.type_url, "value": base64.b64encode(payload.value).decode("ascii")}


def _message_to_json(message: Message) -> Any:
    try:
        return _rebuild(_plain_to_json(message), {})
    except (TypeError, DecodeError):
        # Somewhere inside is an Any that cannot be unpacked. json_format has no way round one, so each such Any is
        # exchanged for a text that cannot occur otherwise, and put back as opaque JSON.
        copy = type(message)()
        copy.CopyFrom(message)
        hidden: dict[str, dict[str, Any]] = {}  # by the text that stands for it
        _hide_unknown(copy, hidden)
        return _rebuild(_plain_to_json(copy), hidden)


def _plain_to_json(message: Message) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _hide_unknown(message: Message, hidden: dict[str, dict[str, Any]]) -> None:
    if isinstance(message, any_pb2.Any):
        known = _parse(message)
        if known is None:
            mark = uuid.uuid4().hex
            hidden[mark] = opaque_to_json(message)
            message.Pack(struct_pb2.Value(string_value=mark))
        else:
            _hide_unknown(known, hidden)
            message.value = known.SerializeToString()
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
    """Tell whether a field of a descriptor holds many values."""
    # protobuf 6 brought is_repeated and protobuf 7 took label away.
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


def _rebuild(value: Any, hidden: dict[str, dict[str, Any]]) -> Any:
    """Put the hidden back, and make plain dicts of the ordered ones that json_format makes of an Any."""
    if isinstance(value, dict):
        inner = value.get("value")
        if isinstance(inner, str) and inner in hidden:
            return hidden[inner]
        return {key: _rebuild(item, hidden) for key, item in value.items()}
    if isinstance(value, list):
        return [_rebuild(item, hidden) for item in value]
    return value
