"""The protocol, Google's over gRPC: a call as method and bytes, and an answer as an ``OperationState``.

Pure functions: no I/O, no clock, no credentials. An answer's name, ``done`` and kind of result are read without a look
at its payloads: its envelope has the same field numbers as ``google.longrunning.Operation``, and so the same wire
format, but its payloads are bytes (17 times faster on an error of a million empty details).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, json_format, message_factory, text_format
from google.protobuf.message import DecodeError, EncodeError, Message
from google.rpc import error_details_pb2, status_pb2

from airflow_provider_lro._core.checks import MAX_NAME, check_name, is_text, is_whole, one_line, storable, storable_json
from airflow_provider_lro._core.names import is_same_operation
from airflow_provider_lro._core.state import JsonPayload, OperationState, Payload
from airflow_provider_lro.exceptions import Code, RpcError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DEFAULT_SERVER_WAIT = 60.0
"""Seconds that WaitOperation asks the server to hold the call."""
LONG_POLL_MARGIN = 10.0
"""Seconds that a WaitOperation may take beyond those for which the server was asked to hold it."""
MAX_TRAILER = 256 * 1024
"""Bytes of an error's text and details. gRPC's own limit is 16 KiB, and makes a RESOURCE_EXHAUSTED of more, whatever
the service has said."""
MAX_ERROR = 64 * 1024
"""Bytes of an error's details that are parsed in an event loop …"""
MAX_ERROR_DETAILS = 100
"""… and how many of them: a million empty ones are 2 MB, and take six seconds."""
MAX_EMPTY_PAGES = 1000
"""Pages in a row without an operation: a filter may leave many, but a listing of nothing else never ends."""
MAX_TOKEN = 16 * 1024
"""Characters of a page's token. Over HTTP it is part of a URL, which most servers take up to 8 or 16 KiB."""
MAX_PLACES = 1000
"""Places that could not be reached, of a whole listing; a service has some dozens of locations."""
SERVICE = "/google.longrunning.Operations/"
METHODS = tuple(
    SERVICE + name for name in ("GetOperation", "ListOperations", "CancelOperation", "DeleteOperation", "WaitOperation")
)
PARTIAL_SUCCESS = b"\x28\x01"
"""``return_partial_success = true`` of a request (field 5): googleapis-common-protos below 1.76 has no name for it."""
UNREADABLE = (DecodeError, UnicodeDecodeError)
"""What protobuf raises for bytes that do not parse; the second comes from its implementation in Python."""
_UNPARSABLE = (*UNREADABLE, EncodeError, json_format.Error, AttributeError, TypeError, ValueError, RecursionError)
"""What json_format raises for JSON that is not the message."""
_FIELDS = ("name", "done", "error", "response", "metadata")
STATUS_URL = "type.googleapis.com/google.rpc.Status"


_ENVELOPES = """
name: "lro_envelope.proto" package: "lro" syntax: "proto3"
message_type {
  name: "Operation"
  field { name: "name" number: 1 type: TYPE_STRING }
  field { name: "metadata" number: 2 type: TYPE_BYTES oneof_index: 1 proto3_optional: true }
  field { name: "done" number: 3 type: TYPE_BOOL }
  field { name: "error" number: 4 type: TYPE_BYTES oneof_index: 0 }
  field { name: "response" number: 5 type: TYPE_BYTES oneof_index: 0 }
  oneof_decl { name: "result" } oneof_decl { name: "_metadata" }
}
message_type {
  name: "Status"
  field { name: "code" number: 1 type: TYPE_INT32 } field { name: "message" number: 2 type: TYPE_STRING }
  field { name: "details" number: 3 type: TYPE_BYTES label: LABEL_REPEATED }
}
message_type {
  name: "Page"
  field { name: "operations" number: 1 type: TYPE_BYTES label: LABEL_REPEATED }
  field { name: "next_page_token" number: 2 type: TYPE_STRING }
  field { name: "unreachable" number: 3 type: TYPE_STRING label: LABEL_REPEATED }
}
"""
"""Operation, google.rpc.Status and ListOperationsResponse. An error's details stay unparsed, and so do a page's
operations, as unknown fields: a page of 4 MiB may hold two million."""
_pool = descriptor_pool.DescriptorPool()
_pool.Add(text_format.Parse(_ENVELOPES, descriptor_pb2.FileDescriptorProto()))
_Operation: Any
_Status: Any
_Page: Any
_Operation, _Status, _Page = (
    message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"lro.{name}"))
    for name in ("Operation", "Status", "Page")
)


# ── calls ──


def routing_header(name: str) -> tuple[str, str]:
    """Return the header that routes a call by the resource it names.

    Without it some services answer PERMISSION_DENIED or route to the wrong region. Source: google-api-core's
    ``gapic_v1.routing_header``, which keeps "/" as it is.
    """
    return ("x-goog-request-params", urlencode({"name": name}, safe="/"))


class Call:
    """One call, before anything is sent; may be sent again and again.

    ``timeout``: seconds that it takes by its nature; None for those of the client.
    """

    __slots__ = ("headers", "method", "name", "request", "rpc", "timeout")

    def __init__(self, method: str, request: Message, *, name: str, timeout: float | None = None) -> None:
        self.rpc = method
        self.method = SERVICE + method
        self.request = request.SerializeToString()
        self.name = name
        self.timeout = timeout
        self.headers = (routing_header(name),)

    def at(self, target: str) -> str:
        """Return which call it is, and where, for the end of an error's text."""
        return f"[{self.rpc} of {self.name!r} at {target}]"


def get_call(name: str) -> Call:
    """Return the call of GetOperation; raise ValueError for an empty name."""
    return Call("GetOperation", pb.GetOperationRequest(name=check_name(name)), name=name)


def cancel_call(name: str) -> Call:
    """Return the call of CancelOperation; raise ValueError for an empty name."""
    return Call("CancelOperation", pb.CancelOperationRequest(name=check_name(name)), name=name)


def delete_call(name: str) -> Call:
    """Return the call of DeleteOperation; raise ValueError for an empty name."""
    return Call("DeleteOperation", pb.DeleteOperationRequest(name=check_name(name)), name=name)


def wait_call(name: str, timeout: float) -> Call:
    """Return the call of WaitOperation, held for ``timeout`` seconds; raise ValueError for an empty name."""
    request = pb.WaitOperationRequest(name=check_name(name))
    request.timeout.FromNanoseconds(round(timeout * 1e9))
    return Call("WaitOperation", request, name=name, timeout=timeout + LONG_POLL_MARGIN)


class Page:
    """One page of a listing, of which each operation is parsed when it is reached."""

    __slots__ = ("_call", "_target", "next_page_token", "operations", "unreachable")

    def __init__(self, raw: bytes | None, call: Call, target: str) -> None:
        page = _Page.FromString(raw)
        self.operations: Sequence[bytes] = page.operations
        self.next_page_token: str = page.next_page_token
        self.unreachable: Sequence[str] = page.unreachable
        self._call = call
        self._target = target

    def states(self) -> Iterator[OperationState]:
        """Yield the operations; raise RpcError for one that is none."""
        return (self._read(raw, _state) for raw in self.operations)

    def summaries(self, is_wanted: Callable[[str, bool], bool]) -> Iterator[OperationState | None]:
        """Yield the operations that are wanted, by name and ``done``, and None for each other; raise as ``states``.

        A summary has neither a response's bytes nor an error's details.
        """

        def read(envelope: Any) -> OperationState | None:
            return _summary(envelope) if is_wanted(envelope.name, envelope.done) else None

        return (self._read(raw, read) for raw in self.operations)

    def _read(self, raw: bytes, read: Callable[[Any], Any]) -> Any:
        try:
            return read(_Operation.FromString(raw))
        except UNREADABLE:
            raise _unreadable(self._call, self._target) from None


class Listing:
    """The calls of one listing, page after page, and the places that the service could not reach.

    ``max_pages``: None for any number.
    """

    def __init__(
        self,
        parent: str,
        filter: str,
        page_size: int | None,
        *,
        return_partial_success: bool = False,
        max_pages: int | None = None,
    ) -> None:
        if page_size is not None and not is_whole(page_size, least=1, most=2**31 - 1):
            raise ValueError(f"page_size={page_size!r}, but it must be None or a whole number from 1 to 2147483647")
        if not is_text(filter):
            raise ValueError(f"filter={filter!r}, but it must be a text in UTF-8")
        self.unreachable: list[str] = []
        self._tokens: set[str] = set()
        self._empty = 0
        self._max_pages = max_pages
        self._parent = check_name(parent, what="parent", example="projects/p/locations/l")
        self._first = pb.ListOperationsRequest(name=parent, filter=filter, page_size=page_size or 0)
        if return_partial_success:
            self._first.MergeFromString(PARTIAL_SUCCESS)

    def restart(self) -> str:
        """Begin again; return the token of the first page."""
        self.unreachable.clear()
        self._tokens.clear()
        self._empty = 0
        return ""

    def call(self, token: str) -> Call:
        """Return the call for the page of that token."""
        request = pb.ListOperationsRequest()
        request.CopyFrom(self._first)
        request.page_token = token
        return Call("ListOperations", request, name=self._parent)

    def next_token(self, page: Page) -> str | None:
        """Take a page; return the token of the next, or None after the last.

        Raises:
            RpcError: the next page is one that was there already, or too many came, or too many empty ones, or its
                token is too long.
        """
        self._empty = 0 if page.operations else self._empty + 1
        places = islice(page.unreachable, MAX_PLACES - len(self.unreachable))
        self.unreachable.extend(storable(place, what="a place that could not be reached") for place in places)
        token = page.next_page_token
        problem, advice = "", "as it would never end; try another filter"
        if token in self._tokens:
            problem = "names a page as the next one that it has given before"
        elif self._empty >= MAX_EMPTY_PAGES and token:
            problem = f"has given {self._empty} pages in a row without an operation, and names another"
        elif len(token) > MAX_TOKEN:
            problem = f"names the next page by {len(token):,} characters"
            advice = f"as {MAX_TOKEN:,} are the most; try another filter, or another page size"
        elif token and len(self._tokens) + 1 == self._max_pages:
            problem = f"has given {self._max_pages:,} pages, and names another"
            advice = "give a filter that fewer operations pass, or raise max_triggerer_pages in the connection's extra"
        if problem:
            text = f"the service {problem}: stopped, {advice} [ListOperations of {self._parent!r}]"
            error = RpcError(text, code=Code.INTERNAL)
            error.permanent = token not in self._tokens  # what comes twice may not, the next time
            raise error
        self._tokens.add(token)
        return token or None


# ── answers ──


def read_answer(call: Call, raw: bytes | None, *, target: str) -> Any:
    """Return an answer: an OperationState that has a name, a Page, or None for an empty one.

    Raises:
        RpcError: the bytes are not such an answer, or one about another operation. It is INTERNAL, as it says nothing
            about the operation, and the next poll may have another one.
    """
    try:
        if raw is None:  # gRPC's own for an OK without a message
            raise DecodeError
        if call.rpc == "ListOperations":
            return Page(raw, call, target)
        if call.rpc not in ("GetOperation", "WaitOperation"):
            return None
        envelope = _Operation.FromString(raw)
        if not envelope.name:
            envelope.name = call.name
        if len(envelope.name) > MAX_NAME:
            problem = f"has a name of {len(envelope.name):,} characters, but it must have at most {MAX_NAME:,}"
        elif not is_same_operation(envelope.name, call.name):
            other = one_line(envelope.name)
            problem = f"is about {other!r}, whose last segment is another one: check the name, and any proxy on the way"
        else:
            return _state(envelope)
    except UNREADABLE:
        raise _unreadable(call, target) from None
    raise RpcError(f"the answer {problem} {call.at(target)}", code=Code.INTERNAL)


def _unreadable(call: Call, target: str) -> RpcError:
    text = f"the answer is not a message of google.longrunning: check host and port {call.at(target)}"
    return RpcError(text, code=Code.INTERNAL)


def read_error(raw: bytes) -> tuple[Payload | None, float | None]:
    """Return the details of the ``google.rpc.Status`` that came with an error, and its RetryInfo in seconds.

    Both are None where none came, none that can be read, or too much: an event loop may wait meanwhile.
    """
    status, retry_after = status_pb2.Status(), None
    info = error_details_pb2.RetryInfo()
    try:
        if len(raw) > MAX_ERROR or has_many_details(Payload(value=raw)):
            return None, None
        status.ParseFromString(raw)
    except UNREADABLE:
        return None, None
    for detail in status.details:
        try:
            if retry_after is None and detail.Unpack(info):
                retry_after = max(0.0, info.retry_delay.ToTimedelta().total_seconds())
        except (*UNREADABLE, OverflowError):  # it asks for nothing
            continue
    return (Payload(type_url=STATUS_URL, value=raw) if status.details else None), retry_after


def has_many_details(details: Payload | JsonPayload | None) -> bool:
    """Return True for the details of an error that are more than are parsed in an event loop."""
    found = _Status.FromString(details.value).details if isinstance(details, Payload) else getattr(details, "json", ())
    return len(found) > MAX_ERROR_DETAILS


def is_operation(value: object) -> bool:
    """Return True for a raw ``google.longrunning.Operation``."""
    return isinstance(value, pb.Operation)


def state_from_message(operation: pb.Operation) -> OperationState:
    """Return the state in a raw ``google.longrunning.Operation``."""
    return _state(_Operation.FromString(operation.SerializeToString()))


def state_from_json(operation: Mapping[str, Any]) -> OperationState:
    """Return the state in an operation as JSON; of types that are not known here response and metadata stay JSON.

    Both may also be messages, of protobuf or proto-plus.

    Raises:
        ValueError: it is not JSON, or too deep.
    """
    given = {key: operation[key] for key in _FIELDS if operation.get(key) is not None}
    try:
        for key in ("response", "metadata"):
            message = getattr(given.get(key), "_pb", given.get(key))
            if isinstance(message, Message):
                (packed := any_pb2.Any()).Pack(message)
                given[key] = json_format.MessageToDict(packed)
        given = storable_json(json.loads(json.dumps(given, default=str)))
    except (TypeError, ValueError, RecursionError, EncodeError, json_format.Error) as surprise:
        why = f"{type(surprise).__name__}: {surprise}"
        raise ValueError(f"the operation is not JSON that can be stored ({why})") from None
    with suppress(*_UNPARSABLE):
        return state_from_message(json_format.ParseDict(given, pb.Operation()))
    error = given.get("error")
    code, details = (error.get("code"), error.get("details")) if isinstance(error, Mapping) else (None, None)
    state = OperationState(
        name=storable(str(given.get("name", "")), what="an operation's name"),
        done=given.get("done") is True,
        metadata=JsonPayload(json=given["metadata"]) if "metadata" in given else None,
    )
    if error is None:
        response = given.get("response")
        if isinstance(response, Mapping):
            response = {key: value for key, value in response.items() if key != "@type"}
        return replace(state, response=None if response is None else JsonPayload(json=response))
    return replace(
        state,
        code=code if is_whole(code, most=2**31 - 1) else Code.UNKNOWN,
        message=storable(str(error.get("message", "")) if isinstance(error, Mapping) else str(error)),
        details=JsonPayload(json=details) if isinstance(details, list) else None,
    )


def state_to_message(state: OperationState) -> pb.Operation:
    """Return the raw ``google.longrunning.Operation`` of a state."""
    operation = pb.Operation(name=state.name, done=state.done)
    if state.metadata is not None:
        operation.metadata.CopyFrom(_any(state.metadata))
    if state.code is not None:
        operation.error.SetInParent()
        if state.details is not None:
            with suppress(*UNREADABLE):  # details that do not parse are left out
                operation.error.CopyFrom(status_pb2.Status.FromString(_any(state.details).value))
        operation.error.code, operation.error.message = state.code, state.message
    elif state.response is not None:
        operation.response.CopyFrom(_any(state.response))
    return operation


def _any(payload: Any) -> any_pb2.Any:
    return any_pb2.Any(type_url=payload.type_url, value=payload.value)


def _state(envelope: Any) -> OperationState:
    result = envelope.WhichOneof("result")
    code, message, details = None, "", None
    if result == "error":
        status = _Status.FromString(envelope.error)
        code, message = status.code, storable(status.message, what="an operation's error message")
        status.ClearField("code")
        status.ClearField("message")
        if rest := status.SerializeToString():
            details = Payload(type_url=STATUS_URL, value=rest)
    return OperationState(
        name=storable(envelope.name, what="an operation's name"),
        done=envelope.done,
        code=code,
        message=message,
        details=details,
        response=_payload(envelope.response) if result == "response" else None,
        metadata=_payload(envelope.metadata) if envelope.HasField("metadata") else None,
    )


def _summary(envelope: Any) -> OperationState:
    has_response = envelope.WhichOneof("result") == "response"
    envelope.ClearField("response")
    return replace(_state(envelope), details=None, response=_NO_BYTES if has_response else None)


_NO_BYTES = Payload()
"""Stands for the response in a summary: one object for all, as a listing may have fifty thousand."""


def _payload(raw: bytes) -> Payload:
    wrapped = any_pb2.Any.FromString(raw)
    return Payload(type_url=storable(wrapped.type_url, what="a payload's type"), value=wrapped.value)
