"""The command: `python -m airflow_provider_lro.simulator --port N`. The package's docstring documents it."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import ssl
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

import grpc

from airflow_provider_lro.simulator.script import KEYS
from airflow_provider_lro.simulator.server import Gate, build_server
from airflow_provider_lro.simulator.service import Service
from airflow_provider_lro.simulator.state import StateError, Store

if TYPE_CHECKING:
    from collections.abc import Sequence

# In-flight calls get this long at the end: enough for a Get, too short for a Wait.
_GRACE = 0.2
# And the server's own tasks this long to notice that their call is over: milliseconds, but on a busy machine.
_LAST_TASKS = 5.0


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 2**16:
        raise ValueError(text)
    return port


# argparse names the type in "invalid ... value".
_port.__name__ = "port"


def _epilog() -> str:
    keys = textwrap.fill(", ".join(KEYS), width=80, initial_indent="  ", subsequent_indent="  ")
    return f"""\
names: simulations/<key=value&key=value>/operations/<any id>, with these keys, which
`python -m pydoc airflow_provider_lro.simulator` explains:
{keys}

for example, with --port 50051, an error after 3 seconds:
  python -m airflow_provider_lro wait 'simulations/duration=3&outcome=fail/operations/a' \\
      --endpoint 127.0.0.1:50051 --insecure
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_lro.simulator",
        description="A real gRPC server of google.longrunning.Operations; an operation's name says what it does.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=_port, required=True, help="0 picks a free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--state", type=Path, metavar="FILE", help="remember over restarts, in this file")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM certificate chain: serve TLS")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM key of --tls-cert")
    parser.add_argument("--tls-client-ca", type=Path, metavar="FILE", help="PEM: demand client certificates of this CA")
    parser.add_argument("--token", help="demand `authorization: Bearer TOKEN` of every call")
    parser.add_argument("--log", type=Path, metavar="FILE", help="append one JSON line a call to this file")
    parser.add_argument(
        "--unimplemented-service",
        action="store_true",
        help="answer every call of google.longrunning.Operations with UNIMPLEMENTED",
    )
    return parser


class _UsageError(Exception):
    """Something the caller can put right; its text is the one line they get."""


def _credentials(args: argparse.Namespace) -> grpc.ServerCredentials | None:
    if (args.tls_cert is None) != (args.tls_key is None):
        raise _UsageError("--tls-cert and --tls-key go together")
    if args.tls_cert is None:
        if args.tls_client_ca is not None:
            raise _UsageError("--tls-client-ca needs --tls-cert and --tls-key")
        return None
    # grpc says nothing useful about a bad PEM file; the ssl module does, so it reads them first.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(args.tls_cert, args.tls_key)
        if args.tls_client_ca is not None:
            context.load_verify_locations(args.tls_client_ca)
    except OSError as error:
        raise _UsageError(f"cannot use --tls-cert, --tls-key or --tls-client-ca: {error}") from error
    return grpc.ssl_server_credentials(
        [(args.tls_key.read_bytes(), args.tls_cert.read_bytes())],
        root_certificates=args.tls_client_ca.read_bytes() if args.tls_client_ca else None,
        require_client_auth=args.tls_client_ca is not None,
    )


def _check_address(host: str, port: int) -> None:
    # grpc's own error has no reason in it, and its C core writes lines of its own to stderr; the kernel's answer is
    # one clear line.
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise _UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from error


async def _serve(args: argparse.Namespace, store: Store, log: IO[bytes] | None) -> None:
    credentials = _credentials(args)
    _check_address(args.host, args.port)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = build_server(Service(store), Gate(token=args.token, log=log, closed=args.unimplemented_service))
    host = f"[{args.host}]" if ":" in args.host else args.host
    address = f"{host}:{args.port}"
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise _UsageError(f"cannot listen on {address}: {error}") from error
    await server.start()
    sys.stdout.write(f"simulator: listening on {host}:{port}\n")
    sys.stdout.flush()
    await stopped.wait()
    await server.stop(_GRACE)
    # stop() does not await the tasks of its calls (grpc/grpc#37239); one that asyncio.run() cancels prints a traceback.
    if calls := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(calls, timeout=_LAST_TASKS)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        The exit code: 0 after a signal, 2 for arguments, files or a port that cannot be used.
    """
    args = _parser().parse_args(argv)
    try:
        with ExitStack() as stack:
            store = Store(args.state)
            stack.callback(store.close)
            log = None if args.log is None else stack.enter_context(args.log.open("ab", buffering=0))
            asyncio.run(_serve(args, store, log))
    except (_UsageError, StateError, OSError) as error:
        sys.stderr.write(f"simulator: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
