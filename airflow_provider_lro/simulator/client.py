"""A client of the Start RPC: what a program that begins long-running work calls, in tests and in the demo.

It knows nothing of waiting; that is what the provider is for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc
from google.longrunning import operations_proto_pb2 as operations_pb2
from google.protobuf import json_format, struct_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    _Start = grpc.UnaryUnaryMultiCallable[struct_pb2.Struct, operations_pb2.Operation]

START: Final = "/airflow_provider_lro.simulator.Simulations/Start"

_MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024


class SimulatorClient:
    """Starts simulated operations, over one channel.

    Args:
        endpoint: `host:port` of a simulator.
        token: What the simulator was started with as `--token`.
        root_certificates: PEM of the CA that signed its certificate; None connects in plaintext.
    """

    def __init__(self, endpoint: str, token: str | None = None, root_certificates: bytes | None = None) -> None:
        options = (
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.enable_retries", 0),  # as for the provider's own channels
        )
        if root_certificates is None:
            self._channel = grpc.insecure_channel(endpoint, options=options)
        else:
            credentials = grpc.ssl_channel_credentials(root_certificates=root_certificates)
            self._channel = grpc.secure_channel(endpoint, credentials, options=options)
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._start: _Start = self._channel.unary_unary(
            START,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=operations_pb2.Operation.FromString,
        )

    def start(self, **script: str | float | Mapping[str, object]) -> operations_pb2.Operation:
        """Start an operation.

        Args:
            script: The keys of the package's table, as text or numbers; `response` may be a mapping. And `id`, the
                last part of the name (random without it), and `request_id`: the same one gives the same operation.

        Returns:
            The operation as it starts; its name holds `start=<epoch seconds>`.

        Raises:
            grpc.RpcError: INVALID_ARGUMENT for an unknown key or a bad value; or what the transport says.
        """
        request = json_format.ParseDict(script, struct_pb2.Struct())
        return self._start(request, metadata=self._metadata, timeout=30, wait_for_ready=True)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Give the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the channel."""
        self.close()
