"""Calls over gRPC: their options and headers, and their failures as errors of ours."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, TypedDict

import grpc

from airflow_provider_lro import __version__
from airflow_provider_lro._core.checks import MAX_SAID, hide, hide_in_bytes, one_line, secret_texts, storable
from airflow_provider_lro._messages.encoding import details_to_json
from airflow_provider_lro._messages.protocol import MAX_TRAILER, read_error
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
    from collections.abc import Sequence

    from airflow_provider_lro._messages.protocol import Call

DEFAULT_RPC_TIMEOUT = 30.0
"""Seconds a call may take."""

API_CLIENT = (
    "x-goog-api-client",
    (
        f"gl-python/{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
        f" grpc/{grpc.__version__} airflow-provider-lro/{__version__}"
    ),
)


class CallOptions(TypedDict, total=False):
    """The options of every method that calls, besides its own arguments."""

    rpc_timeout: float | None
    """Seconds this call may take; None: the client's."""
    metadata: Sequence[tuple[str, str | bytes]]
    """More headers; one of a name that there is already takes its place."""
    wait_for_ready: bool
    """Wait for a connection, as long as the call may last, instead of failing where there is none."""
    queue: float
    """asyncio: seconds that the call may wait for its turn when too many are on their way, before ``rpc_timeout``."""


def rpc_error(
    error: grpc.RpcError,
    call: Call,
    target: str,
    sent: Sequence[tuple[str, str | bytes]] = (),
    *,
    in_triggerer: bool = False,
) -> LroError:
    """Return our error for one that grpc raised, without the secrets in the headers that were sent.

    Sources: ``google/rpc/code.proto``; the ``grpc-status-details-bin`` trailer; where UNAVAILABLE or RESOURCE_EXHAUSTED
    stand for something else, the texts of grpcio 1.85, each seen in a test.
    """
    code = Code.of(error.code().value[0])
    secrets = list(secret_texts(sent))
    said = storable(hide(error.details() or "", secrets), what="the text of a call's error")
    number = f"{code.name} ({code.value})" if isinstance(code, Code) else str(code)
    shown = one_line(said, MAX_SAID)
    text, at = f"{number}{': ' if shown else ''}{shown}", call.at(target)
    trailer: Any = error.trailing_metadata() or ()
    packed = next((value for key, value in trailer if key == "grpc-status-details-bin"), b"")
    payload, retry_after = read_error(hide_in_bytes(packed, secrets))
    details = details_to_json(payload)
    if code == Code.UNAVAILABLE and _PROXY_WANTS_LOGIN in said:
        cure = "put them into the URL of https_proxy, or name the endpoint in no_proxy"
        why = f"the proxy on the way wants a user and a password: {cure} [{shown}]"
        return CredentialsError(why, code=code, message=said)
    if code == Code.UNAVAILABLE and (advice := _endpoint_fault(said)):
        return EndpointError(f"the endpoint {target!r} {advice} [{shown}]", code=code, message=said)
    if advice := _foreign_answer(said):
        return EndpointError(f"the endpoint {target!r} {advice} [{text}]", code=code, message=said)
    if code == Code.UNAUTHENTICATED:
        advice = "check that the key or the token is still valid, and that its scope is right for this service"
        why = f"the credentials were refused: {text}; {advice} {at}"
        return CredentialsError(why, code=code, message=said, details=details)
    kind = RpcError
    if code == Code.UNIMPLEMENTED:
        kind = UnimplementedError
    elif code == Code.NOT_FOUND and call.rpc != "ListOperations":
        kind = OperationNotFound
    # gRPC itself has made these two out of what the service has said.
    is_oversized = code == Code.RESOURCE_EXHAUSTED and _OVERSIZED.search(said) is not None
    is_cut = code == Code.RESOURCE_EXHAUSTED and "received metadata size exceeds" in said
    if is_oversized:
        extra, where = ("max_triggerer_message_mb", " for the triggerer") if in_triggerer else ("max_message_mb", "")
        text = f"the answer is too large{where} ({shown}): raise {extra} in the connection's extra"
        if in_triggerer and call.rpc != "ListOperations":
            text += ", or wait on a worker with deferrable=False"
    elif is_cut:
        text += f"; the service has refused the call, and its error is larger than {MAX_TRAILER // 1024} KiB"
    result = kind(f"{text} {at}", code=code, message=said, details=details)
    result.permanent = is_oversized or is_cut
    result.too_large = is_oversized and in_triggerer
    result.retry_after = retry_after
    return result


def _endpoint_fault(said: str) -> str | None:
    """Return in words why an endpoint cannot be right, where a failed connection shows it."""
    for sign, advice in _ENDPOINT_FAULTS:
        if sign in said:
            return advice
    return None


def _foreign_answer(said: str) -> str | None:
    """Return in words who has answered, where gRPC itself has made the code: it is not the service's word then.

    An HTTP status that passes with time is an outage. Source: gRPC's ``doc/http-grpc-status-mapping.md``, and
    ``grpc_http2_error_to_grpc_status``, which makes PERMISSION_DENIED of INADEQUATE_SECURITY.
    """
    if "Received RST_STREAM with error code 12" in said:
        return "refuses the TLS of this connection (HTTP/2: INADEQUATE_SECURITY): check the proxy on the way, if any"
    found = _HTTP_STATUS.search(said)
    if found is None or found[1] in _PASSING_HTTP:
        return None
    what = "host, port and credentials" if found[1] in ("401", "403") else "host and port"
    return f"is answered by something that is not a gRPC service (HTTP {found[1]}): check {what}"


_OVERSIZED = re.compile("(Received|Decompressed) message larger than max")
_HTTP_STATUS = re.compile(r"Received http2 header with status: (4\d\d)")
_PASSING_HTTP = ("408", "429")
"""Request Timeout, Too Many Requests."""
_PROXY_WANTS_LOGIN = "HTTP proxy returned response code 407"
_CERTIFICATE = "shows a certificate that"
_OTHER_NAME = f"{_CERTIFICATE} is for another name; check the host, or set authority"
_ENDPOINT_FAULTS = (
    ("Domain name not found", "has a host name that does not resolve; check its spelling"),
    ("Name or service not known", "has a host name that does not resolve; check its spelling"),
    ("Misformatted domain name", "has a host name that cannot be one; correct it"),
    ("WRONG_VERSION_NUMBER", "does not speak TLS; for a plaintext server the connection needs insecure"),
    ("certificate has expired", f"{_CERTIFICATE} has expired; whoever runs the service must renew it"),
    ("certificate is not yet valid", f"{_CERTIFICATE} is not valid yet; check the clock here and there"),
    ("Hostname Verification Check failed", _OTHER_NAME),
    ("is not in peer certificate", _OTHER_NAME),  # below gRPC 1.78
    ("CERTIFICATE_VERIFY_FAILED", f"{_CERTIFICATE} no trusted authority has signed; set root_certificates"),
    ("handshake failed", "refuses the TLS handshake; check whether it wants a client_certificate"),
    (
        "Failed to create security handshaker",
        (
            "cannot be called with these certificates: root_certificates, client_certificate or client_key is not"
            " usable PEM, or the key is another certificate's; correct them"
        ),
    ),
)
