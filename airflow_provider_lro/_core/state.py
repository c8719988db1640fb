"""The state of an operation as a service returns it, whatever its protocol: policy, events, operators see only it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

MAX_KEPT_METADATA = 256 * 1024
"""Bytes of metadata that are kept of an operation that is not done: more than any that is handed out, as JSON of at
most 64 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A message as it travels: its type and its bytes, like ``google.protobuf.Any``. Nothing inside it is parsed."""

    type_url: str = ""
    value: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonPayload:
    """A payload that a service gives as JSON, with or without a type in it."""

    json: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationState:
    """An operation as the last answer has it.

    Args:
        name: given by the service; unique only within it.
        done: whether it has ended.
        code: that of its error; None where it has none. An error may have the code 0, and no message.
        message: that of its error.
        details: those of its error, unparsed: a ``google.rpc.Status`` with nothing else in it, or a JSON list.
        response: its result, where it has one; a done operation may have neither error nor response.
        metadata: its metadata, where it has any.
    """

    name: str
    done: bool = False
    code: int | None = None
    message: str = ""
    details: Payload | JsonPayload | None = None
    response: Payload | JsonPayload | None = None
    metadata: Payload | JsonPayload | None = None

    @property
    def has_result(self) -> bool:
        """Whether there is a response or an error."""
        return self.code is not None or self.response is not None

    @property
    def size(self) -> int:
        """Bytes of all that it holds, roughly."""
        return len(self.message) + sum(map(size_of, (self.details, self.response, self.metadata)))


def size_of(payload: Payload | JsonPayload | None) -> int:
    """Return the bytes of a payload, as it travels."""
    if payload is None:
        return 0
    return len(payload.value) if isinstance(payload, Payload) else len(json.dumps(payload.json))
