"""What one call of ``google.longrunning.Operations`` is: its request, its headers, and what its error means.

Everything that the sync and the aio shell in ``_client.py`` would otherwise decide twice. Floor ½.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import urlencode

import grpc
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import empty_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from airflow_provider_lro import __version__
from airflow_provider_lro._core.checks import check_name, is_whole
from airflow_provider_lro._core.text import LONGEST_SAID, is_text, one_line
from airflow_provider_lro._messages.encoding import details_to_json
from airflow_provider_lro.exceptions import (
    Code,
    CredentialsError,
    EndpointError,
    LroError,
    OperationNotFound,
    RpcError,
    UnimplementedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.message import Message

    from airflow_provider_lro._transport.credentials import Headers

__all__ = [
    "DEFAULT_RPC_TIMEOUT",
    "DEFAULT_SERVER_WAIT",
    "WAIT_MARGIN",
    "Call",
    "CallOptions",
    "Listing",
    "cancel_call",
    "delete_call",
    "get_call",
    "headers",
    "make_stubs",
    "no_turn",
    "parse",
    "routing_header",
    "rpc_error",
    "wait_call",
]

DEFAULT_RPC_TIMEOUT = 30.0
"""Seconds a call may take."""
DEFAULT_SERVER_WAIT = 60.0
"""Seconds that WaitOperation asks the server to hold the call."""
WAIT_MARGIN = 10.0
"""Seconds that a WaitOperation may take beyond what the server was asked to hold it."""
MOST_EMPTY_PAGES = 1000
"""Pages in a row without an operation: a filter may leave many, but a listing that brings nothing else is none."""

_HEADER_KEY = re.compile(r"[0-9a-z_.-]+")
_HEADER_VALUE = re.compile(r"[ -~]*")
_SERVICE = "/google.longrunning.Operations/"
_RESPONSES: dict[str, type[Message]] = {
    "GetOperation": pb.Operation,
    "ListOperations": pb.ListOperationsResponse,
    "CancelOperation": empty_pb2.Empty,
    "DeleteOperation": empty_pb2.Empty,
    "WaitOperation": pb.Operation,
}
_API_CLIENT = (
    "x-goog-api-client",
    (
        f"gl-python/{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
        f" grpc/{grpc.__version__} airflow-provider-lro/{__version__}"
    ),
)


def make_stubs(channel: Any) -> dict[str, Callable[..., Any]]:
    """Return the callables of a channel; each takes the bytes of a request and returns those of the answer."""
    return {method: channel.unary_unary(_SERVICE + method) for method in _RESPONSES}


def parse(raw: bytes, call: Call, *, target: str) -> Any:
    """Return the message that came back. Not left to grpc, whose aio side makes None of what does not parse.

    Raises:
        RpcError: the bytes are no such message.
    """
    kind = _RESPONSES[call.method]
    try:
        return kind.FromString(raw)
    except DecodeError:
        text = f"{call.method} of {call.name!r} at {target}: the answer is no {kind.DESCRIPTOR.full_name}"
        raise RpcError(text, code=Code.INTERNAL) from None


def routing_header(name: str) -> tuple[str, str]:
    """Return the header that routes a call by the resource it names.

    Without it some services answer PERMISSION_DENIED or route to the wrong region. Source: google-api-core's
    ``gapic_v1.routing_header``, which keeps "/" as it is.
    """
    return ("x-goog-request-params", urlencode({"name": name}, safe="/"))


class CallOptions(TypedDict, total=False):
    """What every method that calls takes besides its own arguments."""

    rpc_timeout: float | None
    """Seconds this call may take; None: the client's."""
    metadata: Sequence[tuple[str, str | bytes]]
    """More headers."""
    wait_for_ready: bool
    """Wait for a connection, as long as the call may last, instead of failing where there is none."""
    queue: float
    """asyncio: seconds that the call may wait for its turn when too many are on their way, before ``rpc_timeout``."""


class Call:
    """One call, before anything is sent; may be sent again and again."""

    __slots__ = ("headers", "method", "name", "request", "timeout")

    def __init__(self, *, method: str, request: Message, name: str, timeout: float | None = None) -> None:
        self.method = method
        self.request = request.SerializeToString()
        self.name = name
        self.timeout = timeout
        self.headers = (routing_header(name), _API_CLIENT)


def wait_call(name: str, timeout: float) -> Call:
    request = pb.WaitOperationRequest(name=check_name(name))
    request.timeout.FromNanoseconds(round(timeout * 1e9))
    return Call(method="WaitOperation", request=request, name=name, timeout=timeout + WAIT_MARGIN)


def get_call(name: str) -> Call:
    return Call(method="GetOperation", request=pb.GetOperationRequest(name=check_name(name)), name=name)


def cancel_call(name: str) -> Call:
    return Call(method="CancelOperation", request=pb.CancelOperationRequest(name=check_name(name)), name=name)


def delete_call(name: str) -> Call:
    return Call(method="DeleteOperation", request=pb.DeleteOperationRequest(name=check_name(name)), name=name)


class Listing:
    """The calls of one listing, and what its pages bring besides operations."""

    def __init__(self, parent: str, filter: str, page_size: int | None, return_partial_success: bool) -> None:  # noqa: FBT001
        if page_size is not None and not is_whole(page_size, least=1, most=2**31 - 1):
            raise ValueError(f"page_size must be None or a whole number above 0, not {page_size!r}")
        if not is_text(filter):
            raise ValueError(f"filter must be text, in UTF-8, not {filter!r}")
        self.unreachable: list[str] = []
        self._tokens: set[str] = set()
        self._empty = 0
        self._parent = check_name(parent, what="the parent of a listing", example="projects/p/locations/l")
        self._first = pb.ListOperationsRequest(
            name=parent, filter=filter, page_size=page_size or 0, return_partial_success=return_partial_success
        )

    def restart(self) -> str:
        """Begin again; returns the token of the first page."""
        self.unreachable.clear()
        self._tokens.clear()
        self._empty = 0
        return ""

    def call(self, token: str) -> Call:
        """Return the call for the page of that token."""
        request = pb.ListOperationsRequest()
        request.CopyFrom(self._first)
        request.page_token = token
        return Call(method="ListOperations", request=request, name=self._parent)

    def next_token(self, page: pb.ListOperationsResponse) -> str | None:
        """Take a page; returns the token of the next, or None after the last.

        Raises:
            RpcError: the next page is one that was there already, or too many were empty.
        """
        self._empty = 0 if page.operations else self._empty + 1
        self.unreachable.extend(page.unreachable)
        if page.next_page_token in self._tokens:
            raise RpcError(
                f"ListOperations of {self._parent!r} names a page it has given before as the next one; stopped, as it"
                " would never end",
                code=Code.INTERNAL,
            )
        if self._empty >= MOST_EMPTY_PAGES and page.next_page_token:
            raise RpcError(
                f"ListOperations of {self._parent!r} has given {self._empty} pages in a row without an operation, and"
                " names another; stopped, as it would never end",
                code=Code.INTERNAL,
            )
        self._tokens.add(page.next_page_token)
        return page.next_page_token or None


def headers(call: Call, tokens: Headers, options: CallOptions) -> tuple[tuple[str, str | bytes], ...]:
    """Return all headers of a call.

    Raises:
        ValueError: one of the caller's own cannot be sent.
    """
    more = options.get("metadata", ())
    for key, value in more:
        binary = key.endswith("-bin")
        sendable = isinstance(value, bytes) if binary else isinstance(value, str) and _HEADER_VALUE.fullmatch(value)
        if not _HEADER_KEY.fullmatch(key) or not sendable:
            raise ValueError(
                f"metadata: {key!r} is no header that can be sent; expected a lower-case name, and printable ASCII text"
                " (bytes for a name that ends in '-bin')"
            )
    return (*call.headers, *tokens, *more)


def no_turn(call: Call, target: str) -> RpcError:
    """Return the error of a call that was never sent, as too many others were before it."""
    error = RpcError(f"{call.method} of {call.name!r} at {target}: had no turn", code=Code.DEADLINE_EXCEEDED)
    error.unsent = True
    return error


def rpc_error(error: grpc.RpcError, call: Call, *, target: str) -> LroError:
    """Return our error for one that grpc raised.

    Sources: ``google/rpc/code.proto``; the ``grpc-status-details-bin`` trailer; for what arrives as UNAVAILABLE or
    RESOURCE_EXHAUSTED without a code of its own, the texts of grpcio 1.85, each seen in a test.
    """
    code = Code.of(error.code().value[0])
    said = error.details() or ""
    number = f"{code.name} ({code.value})" if isinstance(code, Code) else str(code)
    shown = one_line(said, LONGEST_SAID)
    text = f"{call.method} of {call.name!r} at {target}: {number}{': ' if shown else ''}{shown}"
    status = _status(error)
    details = details_to_json(status.details)
    if code == Code.UNAVAILABLE and (advice := _endpoint_fault(said)):
        return EndpointError(f"the endpoint {target!r} {advice} [{shown}]", code=code, message=said)
    if code == Code.UNAUTHENTICATED:
        return CredentialsError(f"the credentials were refused: {text}", code=code, message=said, details=details)
    kind = RpcError
    if code == Code.UNIMPLEMENTED:
        kind = UnimplementedError
    elif code == Code.NOT_FOUND and call.method != "ListOperations":
        kind = OperationNotFound
    oversized = code == Code.RESOURCE_EXHAUSTED and "Received message larger than max" in said
    if oversized:
        text += "; raise max_message_mb in the connection's extra"
    result = kind(text, code=code, message=said, details=details)
    result.permanent = oversized
    result.retry_after = _retry_after(status)
    return result


def _endpoint_fault(said: str) -> str | None:
    """Return in words what is wrong with an endpoint, if a failed connection shows that it cannot be right."""
    for sign, advice in _ENDPOINT_FAULTS:
        if sign in said:
            return advice
    return None


_CERTIFICATE = "shows a certificate that"
_ENDPOINT_FAULTS = (
    ("Domain name not found", "has a host name that does not resolve; check its spelling"),
    ("Name or service not known", "has a host name that does not resolve; check its spelling"),
    ("Misformatted domain name", "has a host name that cannot be one"),
    ("WRONG_VERSION_NUMBER", "does not speak TLS; for a plaintext server the connection needs insecure"),
    ("certificate has expired", f"{_CERTIFICATE} has expired"),
    ("certificate is not yet valid", f"{_CERTIFICATE} is not valid yet"),
    ("Hostname Verification Check failed", f"{_CERTIFICATE} is for another name; check the host, or set authority"),
    ("CERTIFICATE_VERIFY_FAILED", f"{_CERTIFICATE} no trusted authority has signed; set root_certificates"),
    ("handshake failed", "refuses the TLS handshake"),
    (
        "Failed to create security handshaker",
        (
            "cannot be called with these certificates: root_certificates, client_certificate or client_key is no"
            " usable PEM, or the key is another certificate's"
        ),
    ),
)


def _status(error: grpc.RpcError) -> status_pb2.Status:
    """Return the google.rpc.Status that came with an error; an empty one if none did, or none that can be read."""
    status = status_pb2.Status()
    trailer: Any = error.trailing_metadata() or ()
    for key, value in trailer:
        if key == "grpc-status-details-bin":
            try:
                status.ParseFromString(value)
            except DecodeError:
                status.Clear()
    return status


def _retry_after(status: status_pb2.Status) -> float | None:
    info = error_details_pb2.RetryInfo()
    for detail in status.details:
        try:
            if detail.Unpack(info):
                return max(0.0, info.retry_delay.ToTimedelta().total_seconds())
        except (DecodeError, OverflowError):  # what cannot be read asks for nothing
            continue
    return None
