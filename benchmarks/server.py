"""A service that costs next to nothing: TLS, a token, and for every operation much the same answer, "not done yet".

In a process of its own, so that it is in nobody's figures. It knows each system that is measured by its token,
``Bearer bench-<system>``, and tells what that system did to whoever connects to its second port and sends a line.

    python benchmarks/server.py --certificate leaf.pem [--port 0] [--streams 100] [--hold 0.01] [--first]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from typing import Any

import grpc
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import any_pb2

SCHEME = "Bearer bench-"


def metadata() -> bytes:
    """Return an operation's metadata as services have them, of a type that the caller does not know."""
    packed = any_pb2.Any(type_url="type.googleapis.com/bench.v1.OperationMetadata", value=b"\x0a\x06target\x10\x2a")
    return pb.Operation(metadata=packed).SerializeToString()


class Operations(grpc.GenericRpcHandler):
    """Answers GetOperation, whatever is asked, and counts."""

    def __init__(self, *, hold: float, first: bool) -> None:
        self._hold = hold
        self._first = first
        self._metadata = metadata()
        self.counts: dict[str, dict[str, Any]] = {}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Return what answers a call."""
        token = next((value for key, value in details.invocation_metadata or () if key == "authorization"), "")
        if details.method != "/google.longrunning.Operations/GetOperation" or not str(token).startswith(SCHEME):
            return None  # arrives as UNIMPLEMENTED: whoever sends no token is not measured by mistake
        system = str(token).removeprefix(SCHEME)
        count = self.counts.setdefault(system, {"calls": 0, "peers": set(), "first": {}, "most": 0, "now": 0})

        async def get(request: bytes, context: Any) -> bytes:
            count["calls"] += 1
            count["now"] += 1
            count["most"] = max(count["most"], count["now"])
            count["peers"].add(context.peer())
            if self._first:
                count["first"].setdefault(request, time.time())
            if self._hold:
                await asyncio.sleep(self._hold)
            count["now"] -= 1
            return request + self._metadata  # the name is the first field of both

        return grpc.unary_unary_rpc_method_handler(get)

    def report(self) -> dict[str, dict[str, Any]]:
        """Return what each system did, in JSON's types."""
        return {
            system: {
                "calls": count["calls"],
                "connections": len(count["peers"]),
                "most at once": count["most"],
                "first": sorted(count["first"].values()),
            }
            for system, count in self.counts.items()
        }


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM; the first line on stdout names both ports."""
    with open(arguments.certificate, "rb") as file:  # noqa: ASYNC230, PTH123  (nothing is served yet)
        pem = file.read()
    options: list[tuple[str, Any]] = [("grpc.so_reuseport", 0)]
    if arguments.streams:
        options.append(("grpc.max_concurrent_streams", arguments.streams))
    server = grpc.aio.server(options=options)
    operations = Operations(hold=arguments.hold, first=arguments.first)
    server.add_generic_rpc_handlers((operations,))
    credentials = grpc.ssl_server_credentials([(pem, pem)])
    port = server.add_secure_port(f"127.0.0.1:{arguments.port}", credentials)
    await server.start()

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            writer.write(json.dumps(operations.report()).encode() + b"\n")
            await writer.drain()
        writer.close()

    control = await asyncio.start_server(tell, "127.0.0.1", arguments.control)
    print(port, control.sockets[0].getsockname()[1], flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(0)


def main() -> None:
    """Read the arguments, and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--certificate", required=True, help="PEM of the key and its chain")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control", type=int, default=0, help="port that tells what was counted")
    parser.add_argument("--streams", type=int, default=0, help="concurrent streams on a connection; 0: no limit")
    parser.add_argument("--hold", type=float, default=0.0, help="seconds that an answer takes")
    parser.add_argument("--first", action="store_true", help="remember when each operation was first asked for")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
