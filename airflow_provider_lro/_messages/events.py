"""The event of a trigger: an outcome as JSON on its way from the triggerer to the worker.

An event is stored in the database and logged, so it is small and holds no secret; payloads travel opaque and are
decoded on the worker, where the user's protobuf classes are. Floor ½.
"""

from __future__ import annotations

import base64
import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import any_pb2
from google.rpc import status_pb2

from airflow_provider_lro import exceptions
from airflow_provider_lro._core import outcome as outcomes
from airflow_provider_lro._messages.encoding import opaque_to_json, operation_to_json, read
from airflow_provider_lro.exceptions import LroError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_lro._core.outcome import Outcome

__all__ = ["LARGEST_EVENT", "event_from_outcome", "must_read_again", "outcome_from_event"]

LARGEST_EVENT = 64 * 1024
"""Bytes of JSON. A larger event leaves payloads out, and the worker reads the operation again."""
LONGEST_TEXT = 8 * 1024
"""Bytes of JSON for one message in an event that is too large."""

_DONE = (outcomes.Succeeded, outcomes.Failed, outcomes.Cancelled)
_BY_NAME: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        outcomes.Succeeded,
        outcomes.Failed,
        outcomes.Cancelled,
        outcomes.TimedOut,
        outcomes.NotFound,
        outcomes.Broken,
    )
}


def event_from_outcome(outcome: Outcome, *, name: str) -> dict[str, Any]:
    """Return the event for an operation's outcome: ``{"name", "outcome", …its fields}``, at most 64 KiB."""
    event: dict[str, Any] = {"name": name, "outcome": type(outcome).__name__}
    for field in fields(outcome):
        value = getattr(outcome, field.name)
        if value is not None and value != field.default:
            event[field.name] = _ENCODE.get(field.name, _unchanged)(value)
    _cut(event)
    return event


def outcome_from_event(event: Mapping[str, Any]) -> Outcome:
    """Return the outcome that an event holds.

    Raises:
        ValueError: it is no event of this provider.
    """
    try:
        kind = _BY_NAME[event["outcome"]]
        values = {field.name: event[field.name] for field in fields(kind) if field.name in event}
        outcome: Outcome = kind(**{name: _DECODE.get(name, _unchanged)(value) for name, value in values.items()})
        # The last gate: no outcome is taken from an operation that does not bear it out.
        if isinstance(outcome, _DONE) and _failed(read(outcome.operation)) is not _failed(outcome):
            raise ValueError(f"an operation that is no {kind.__name__}")  # noqa: TRY301
        _ = event["name"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"the trigger's event is none that this version understands ({type(error).__name__}: {error}); do the"
            " workers and the triggerer have the same version of airflow-provider-lro?"
        ) from error
    return outcome


def _failed(outcome: Any) -> bool | None:
    """Whether an operation is done with an error; None while it is not done."""
    return isinstance(outcome, outcomes.Failed | outcomes.Cancelled) if isinstance(outcome, _DONE) else None


def must_read_again(event: Mapping[str, Any]) -> bool:
    """Tell whether the event was too large for the operation's result, so that the worker must read it again."""
    return bool(event.get("read_again"))


def _unchanged(value: Any) -> Any:
    return value


def _operation_to_wire(operation: pb.Operation) -> dict[str, Any]:
    return operation_to_json(operation, opaque_to_json)


def _operation_from_wire(wire: Mapping[str, Any]) -> pb.Operation:
    operation = pb.Operation(name=wire["name"], done=wire["done"])
    if "metadata" in wire:
        operation.metadata.CopyFrom(_any(wire["metadata"]))
    if "response" in wire:
        operation.response.CopyFrom(_any(wire["response"]))
    elif "error" in wire:
        status = wire["error"]
        details = [_any(detail) for detail in status["details"]]
        operation.error.CopyFrom(status_pb2.Status(code=status["code"], message=status["message"], details=details))
    return operation


def _any(wire: Mapping[str, str]) -> any_pb2.Any:
    return any_pb2.Any(type_url=wire["@type"], value=base64.b64decode(wire["value"]))


def _error_to_wire(error: LroError) -> dict[str, Any]:
    state = {name: value for name, value in vars(error).items() if value is not None}
    return {**state, "type": type(error).__name__, "text": str(error)}


def _error_from_wire(wire: Mapping[str, Any]) -> LroError:
    state = dict(wire)
    name = state.pop("type")
    kind = getattr(exceptions, name) if name in exceptions.__all__ and name != "Code" else LroError
    error: LroError = kind(state.pop("text"))
    for name, value in state.items():
        setattr(error, name, exceptions.Code.of(value) if name == "code" else value)
    return error


_ENCODE: dict[str, Callable[[Any], Any]] = {
    "operation": _operation_to_wire,
    "error": _error_to_wire,
    "cancel_error": _error_to_wire,
}
_DECODE: dict[str, Callable[[Any], Any]] = {
    "operation": _operation_from_wire,
    "error": _error_from_wire,
    "cancel_error": _error_from_wire,
}


def _cut(event: dict[str, Any]) -> None:
    """Leave out what makes the event too large, the least needed first."""
    operation = event.get("operation", {})
    for cut in (_cut_metadata, _cut_errors, _cut_result):
        if len(json.dumps(event)) <= LARGEST_EVENT:
            return
        cut(event, operation)


def _cut_metadata(event: dict[str, Any], operation: dict[str, Any]) -> None:
    if operation.pop("metadata", None) and operation["done"] and "response" not in operation:
        event["read_again"] = True  # it is part of what a failure tells


def _cut_errors(event: dict[str, Any], _: dict[str, Any]) -> None:
    """What a call failed with cannot be read again: its beginning must do."""
    for name in ("error", "cancel_error"):
        if error := event.get(name):
            error["details"] = []
            for key in ("text", "message"):
                error[key] = _shortened(error[key])


def _cut_result(event: dict[str, Any], operation: dict[str, Any]) -> None:
    if operation.pop("response", None):
        event["read_again"] = True
    if error := operation.get("error"):
        event["read_again"] = True
        error["details"] = []
        error["message"] = _shortened(error["message"])


def _shortened(text: str) -> str:
    """Return as much of the beginning as fits; a letter takes one to twelve bytes of JSON."""
    while len(json.dumps(text)) > LONGEST_TEXT:
        text = text[: min(LONGEST_TEXT, len(text) * 3 // 4)]
    return text
