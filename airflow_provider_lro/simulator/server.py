"""The gRPC side: generic handlers, the token and the call log; ports and TLS are the command's.

Handlers are built from the messages alone, so no generated stub is needed; see `service.py` for what they answer.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from google.longrunning import operations_proto_pb2 as operations_pb2
from google.protobuf import struct_pb2

from airflow_provider_lro.simulator.behaviour import CANCELLED, UNAUTHENTICATED, UNIMPLEMENTED, UNKNOWN, CallError
from airflow_provider_lro.simulator.payloads import status_details

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from airflow_provider_lro.simulator.service import Service

OPERATIONS: Final = "google.longrunning.Operations"
SIMULATIONS: Final = "airflow_provider_lro.simulator.Simulations"
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024

_OPTIONS: Final = (
    # With SO_REUSEPORT a second server would share the port in silence and take half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Tests ping often and kill connections; the server must not answer that with GOAWAY "too many pings".
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
)
_LOGGED_HEADERS: Final = frozenset({"x-goog-request-params", "user-agent", "x-goog-api-client", "x-goog-user-project"})
_STATUS: Final = {status.value[0]: status for status in grpc.StatusCode}

_Context = grpc.aio.ServicerContext[Any, Any]
_Behaviour = Callable[[Any, _Context], Awaitable["Message"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The checks and the log that every call passes, whatever its method.

    Attributes:
        token: The bearer token every call needs, or None.
        log: Where one JSON line a call goes, unbuffered, or None.
        closed: Answer every call of Operations with UNIMPLEMENTED.
    """

    token: str | None = None
    log: IO[bytes] | None = None
    closed: bool = False

    def admit(self, authorization: str | bytes | None, *, service: str) -> None:
        """Turn away who has no token, and everybody when the service is not there."""
        if self.token is not None and authorization != f"Bearer {self.token}":
            raise CallError(
                UNAUTHENTICATED,
                "The simulator was started with --token: metadata needs authorization: Bearer <that token>.",
            )
        if self.closed and service == OPERATIONS:
            raise CallError(UNIMPLEMENTED, f"The service {OPERATIONS} is not implemented here.")

    def write(self, entry: dict[str, Any]) -> None:
        """Log one call."""
        if self.log is not None:
            self.log.write(json.dumps(entry).encode() + b"\n")


def _handler(
    gate: Gate,
    service: str,
    method: str,
    request_type: type[Message],
    behaviour: _Behaviour,
) -> grpc.RpcMethodHandler[Any, Any]:
    async def call(request: Message, context: _Context) -> Message:
        received = time.time()
        headers = dict(context.invocation_metadata() or ())

        # Each call writes its line before its caller can have the answer: who has it finds the line.
        def log(code: int, answer: Message | None = None) -> None:
            named = answer if method == "Start" else request
            entry = {"time": received, "method": method, "name": getattr(named, "name", ""), "code": code}
            if isinstance(answer, operations_pb2.Operation):
                entry["done"] = answer.done
            # Whether there was a token, never what it was.
            logged = {key: value for key, value in headers.items() if key in _LOGGED_HEADERS}
            gate.write({**entry, "headers": {**logged, "authorization": "authorization" in headers}})

        try:
            gate.admit(headers.get("authorization"), service=service)
            answer = await behaviour(request, context)
        except CallError as error:
            log(error.code)
            trailing = () if error.retry_info is None else (("grpc-status-details-bin", status_details(error)),)
            await context.abort(_STATUS[error.code], error.message, trailing)
        except asyncio.CancelledError:
            # The client went away, or its deadline came.
            log(CANCELLED)
            raise
        except Exception:
            log(UNKNOWN)
            raise
        log(0, answer)
        return answer

    return grpc.unary_unary_rpc_method_handler(
        call,
        request_deserializer=request_type.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )


def build_server(service: Service, gate: Gate) -> grpc.aio.Server:
    """Make a server with both services, without a port yet."""
    pb = operations_pb2
    methods: dict[str, tuple[type[Message], _Behaviour]] = {
        "GetOperation": (pb.GetOperationRequest, lambda request, _: service.get(request)),
        "ListOperations": (pb.ListOperationsRequest, lambda request, _: service.list(request)),
        "CancelOperation": (pb.CancelOperationRequest, lambda request, _: service.cancel(request)),
        "DeleteOperation": (pb.DeleteOperationRequest, lambda request, _: service.delete(request)),
        "WaitOperation": (
            pb.WaitOperationRequest,
            lambda request, context: service.wait(request, context.time_remaining()),
        ),
    }
    operations = {name: _handler(gate, OPERATIONS, name, *how) for name, how in methods.items()}
    start = _handler(gate, SIMULATIONS, "Start", struct_pb2.Struct, lambda request, _: service.start(request))
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(OPERATIONS, operations),
            grpc.method_handlers_generic_handler(SIMULATIONS, {"Start": start}),
        )
    )
    return server
