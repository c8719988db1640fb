"""A Google Cloud on loopback: a gRPC server for each service, with TLS and tokens, behind a proxy for their names.

So nothing of a DAG has to know that it is not the real one. Clients and this provider call ``dataplex.googleapis.com``,
and gRPC asks the proxy (``grpc_proxy``) to connect it; the proxy knows the names of the services here, and no way out.
google-auth asks it (``HTTPS_PROXY``) for the service that gives out tokens of impersonated accounts.
"""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import grpc
from google.auth import jwt
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import empty_pb2
from google.rpc import code_pb2

from tests.grpc.token_server import send_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import trustme

    from tests.cookbook.services import Service

LOOPBACK = "127.0.0.1"
IAM = "iamcredentials.googleapis.com"
IMPERSONATED = "an-impersonated-account's-token"
OPERATIONS = "google.longrunning.Operations"


class RunningService(grpc.GenericRpcHandler):
    """One service: its method that creates, and Operations for what that has started.

    Args:
        spec: Which service.
        tokens: What the token endpoints give out.
        public_key: PEM, of the tokens that a client makes itself and signs with its key.

    Attributes:
        ends: Whether operations end: at the second poll by a triggerer, so that no worker sees it, however slow it is.
        created: The requests of the method that creates.
        responses: What the next operations come to, instead of what the specification says.
        calls: Of Operations: the method and the operation's name.
        admitted: The tokens of the calls that were not turned away.
        refused: What was wrong with the tokens of calls that were turned away.
    """

    def __init__(self, spec: Service, *, tokens: Collection[str], public_key: str) -> None:
        self.spec = spec
        self.ends = True
        self.created: list[Any] = []
        self.responses: list[Any] = []
        self.calls: list[tuple[str, str]] = []
        self.admitted: list[str] = []
        self.refused: list[str] = []
        self._tokens = tokens
        self._public_key = public_key
        self._done: dict[str, pb.Operation] = {}  # as they will be
        self._methods = {
            f"/{spec.method}": (spec.request_type.deserialize, self._create),
            f"/{OPERATIONS}/GetOperation": (pb.GetOperationRequest.FromString, self._get),
            f"/{OPERATIONS}/CancelOperation": (pb.CancelOperationRequest.FromString, self._cancel),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Find the handler of a call; what is not here is UNIMPLEMENTED."""
        if handler_call_details.method not in self._methods:
            return None
        deserialize, answer = self._methods[handler_call_details.method]

        def admitted(request: Any, context: grpc.ServicerContext) -> Any:
            headers = dict(context.invocation_metadata())
            token = str(headers.get("authorization", "no token")).removeprefix("Bearer ")
            if problem := self._problem_with(token):
                self.refused.append(problem)
                context.abort(grpc.StatusCode.UNAUTHENTICATED, problem)
            self.admitted.append(token)
            return answer(request, context)

        return grpc.unary_unary_rpc_method_handler(admitted, deserialize, serialized)

    @property
    def operations(self) -> list[str]:
        """The names of all operations, in the order of their start."""
        return list(self._done)

    @property
    def last_operation(self) -> str:
        """The name of what was started last."""
        return self.operations[-1]

    def polls_by_triggerer(self, name: str) -> int:
        """How often an operation was polled after the first time, by which its worker has deferred."""
        return max(0, self.calls.count(("Get", name)) - 1)

    def cancelled(self) -> list[str]:
        """The operations that were asked to cancel, as often as they were."""
        return [name for method, name in self.calls if method == "Cancel"]

    def _problem_with(self, token: str) -> str:
        if token in self._tokens:
            return ""
        try:
            # What a client signs itself with the key of a service account is good for one service alone.
            jwt.decode(token, certs=self._public_key, audience=self.spec.audience)
        except ValueError as error:
            return str(error)
        return ""

    def _create(self, request: Any, context: grpc.ServicerContext) -> pb.Operation:
        self.created.append(request)
        return self.start(self.responses.pop(0) if self.responses else self.spec.response(request))

    def start(self, response: Any) -> pb.Operation:
        """Start an operation that comes to a response."""
        operation = pb.Operation(name=f"{self.spec.parent}/operations/{uuid.uuid4()}")
        operation.metadata.Pack(raw(self.spec.metadata))
        done = pb.Operation(name=operation.name, done=True, metadata=operation.metadata)
        done.response.Pack(raw(response))
        self._done[operation.name] = done
        return operation

    def _get(self, request: Any, context: grpc.ServicerContext) -> pb.Operation:
        self.calls.append(("Get", request.name))
        done = self._found(request.name, context)
        is_over = self.ends and self.polls_by_triggerer(request.name) > 1
        return done if is_over or done.HasField("error") else pb.Operation(name=done.name, metadata=done.metadata)

    def _cancel(self, request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self.calls.append(("Cancel", request.name))
        self._found(request.name, context).error.code = code_pb2.CANCELLED
        return empty_pb2.Empty()

    def _found(self, name: str, context: grpc.ServicerContext) -> pb.Operation:
        if name not in self._done:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{self.spec.host} knows no operation {name}")
        return self._done[name]


def raw(message: Any) -> Any:
    """Return a message without proto-plus around it."""
    return getattr(message, "_pb", message)


def serialized(message: Any) -> bytes:
    """Serialise an answer."""
    return raw(message).SerializeToString()  # type: ignore[no-any-return]


class Iam(ThreadingHTTPServer):
    """The service that gives out tokens of impersonated accounts, over HTTPS.

    Attributes:
        asked: The account, and the token of whoever has asked.
    """

    def __init__(self, certificate: trustme.LeafCert) -> None:
        super().__init__((LOOPBACK, 0), _Iam)
        self.asked: list[tuple[str, str]] = []
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(tls)
        self.socket = tls.wrap_socket(self.socket, server_side=True)


class _Iam(BaseHTTPRequestHandler):
    server: Iam

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        account = self.path.rpartition("/")[2].removesuffix(":generateAccessToken")
        self.server.asked.append((account, self.headers["authorization"].removeprefix("Bearer ")))
        until = datetime.now(tz=UTC) + timedelta(hours=1)
        send_json(self, {"accessToken": IMPERSONATED, "expireTime": f"{until:%Y-%m-%dT%H:%M:%SZ}"})

    def log_message(self, *args: Any) -> None:
        pass


class Proxy(socketserver.ThreadingTCPServer):
    """An HTTP proxy that connects to what it knows by name.

    Args:
        ports: On loopback, by the name that a client asks for, `host:port`.

    Attributes:
        refused: The names that were asked for and are not known.
    """

    daemon_threads = True

    def __init__(self, ports: Mapping[str, int]) -> None:
        super().__init__((LOOPBACK, 0), _Tunnel)
        self.ports = ports
        self.refused: list[str] = []


class _Tunnel(socketserver.StreamRequestHandler):
    server: Proxy
    rbufsize = 0  # what follows the request is the tunnel's

    def handle(self) -> None:
        _, target, _ = self.rfile.readline().decode().split()
        while self.rfile.readline().strip():
            pass
        if target not in self.server.ports:
            self.server.refused.append(target)
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        with socket.create_connection((LOOPBACK, self.server.ports[target])) as service:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_pump, args=(service, self.connection), daemon=True)
            back.start()
            _pump(self.connection, service)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what comes until one side is gone; so must the other be, then."""
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """The services that run, by the task that calls them, and the proxy that leads to them."""

    services: dict[str, Any]
    iam: Iam
    proxy: Proxy


@contextmanager
def running_cloud(
    services: Mapping[str, Service], *, authority: trustme.CA, token: str, public_key: str
) -> Iterator[Cloud]:
    """Run services, each with a certificate for its own name, and the proxy that leads to them."""
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(8))
        running, ports = {}, {}
        for task, spec in services.items():
            running[task] = spec.kind(spec, tokens=(token, IMPERSONATED), public_key=public_key)
            leaf = authority.issue_cert(spec.host)
            chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
            server = grpc.server(threads, handlers=[running[task]], options=[("grpc.so_reuseport", 0)])
            tls = grpc.ssl_server_credentials([(leaf.private_key_pem.bytes(), chain)])
            ports[f"{spec.host}:443"] = server.add_secure_port(f"{LOOPBACK}:0", tls)
            server.start()
            stack.callback(lambda server=server: server.stop(None).wait())
        iam = stack.enter_context(_serving(Iam(authority.issue_cert(IAM))))
        ports[f"{IAM}:443"] = iam.server_address[1]
        yield Cloud(services=running, iam=iam, proxy=stack.enter_context(_serving(Proxy(ports))))


@contextmanager
def _serving(server: Any) -> Iterator[Any]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
