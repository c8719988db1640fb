"""The common parts of the tests of messages and transport: a simulator, a fake server, one way to drive both shells.

Everything is real gRPC on loopback. A test that takes `shell` (or `client`) runs twice, with the sync and with the aio
classes, and says the same of both; `do` awaits what the one returns and passes through what the other does.
"""

from __future__ import annotations

import inspect
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import trustme
from google.longrunning import operations_proto_pb2 as pb

from airflow_provider_lro.operation import AsyncOperation, AsyncOperationsClient, Operation, OperationsClient
from airflow_provider_lro.simulator import operation_name
from tests.grpc.token_server import (  # noqa: F401  (fixtures)
    clock,
    config,
    guarded,
    key_path,
    keyfile,
    private_key,
    tokens,
)
from tests.simulator_fixture import running_simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from airflow_provider_lro._core.state import OperationState
    from tests.simulator_fixture import Simulator

LOOPBACK = "127.0.0.1"


@pytest.fixture(scope="module", autouse=True)
def _loopback_only() -> Iterator[None]:
    """Keep google-auth from finding credentials of this machine, or a metadata server, and gRPC from any proxy."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.lower().endswith("_proxy") or name == "GOOGLE_APPLICATION_CREDENTIALS":
                patch.delenv(name)
        patch.setenv("NO_GCE_CHECK", "true")
        patch.setenv("CLOUDSDK_CONFIG", "/nonexistent/gcloud")
        yield


# ── the two shells ──


@dataclass(frozen=True)
class Shell:
    """The sync or the aio classes."""

    client_type: Any
    operation_type: Any

    async def do(self, answer: Any) -> Any:
        """Await what has to be awaited."""
        return await answer if inspect.isawaitable(answer) else answer

    @asynccontextmanager
    async def entered(self, client: Any) -> AsyncIterator[Any]:
        """Enter a client's own context manager."""
        if hasattr(client, "__aenter__"):
            async with client as entered:
                yield entered
        else:
            with client as entered:
                yield entered

    @asynccontextmanager
    async def connect(self, endpoint: str, **options: Any) -> AsyncIterator[Any]:
        """Connect as a user does."""
        async with self.entered(self.client_type.connect(endpoint, **options)) as client:
            yield client

    @asynccontextmanager
    async def open(self, made: Any, **options: Any) -> AsyncIterator[Any]:
        """Connect as the hook does."""
        async with self.entered(self.client_type(made, **options)) as client:
            yield client

    async def listed(self, pager: Any, most: int | None = None) -> list[OperationState]:
        """Take the operations of a listing, and not more pages than `most` of them need."""
        found: list[OperationState] = []
        if hasattr(pager, "__aiter__"):
            async for operation in pager:
                found.append(operation)
                if len(found) == most:
                    break
        else:
            for operation in pager:
                found.append(operation)
                if len(found) == most:
                    break
        return found


@pytest.fixture(params=["sync", "aio"])
def shell(request: pytest.FixtureRequest) -> Shell:
    """Run the test with both."""
    if request.param == "sync":
        return Shell(OperationsClient, Operation)
    return Shell(AsyncOperationsClient, AsyncOperation)


# ── the simulator ──


@pytest.fixture(scope="session")
def shared_simulator() -> Iterator[Simulator]:
    """Run one simulator for the whole session; names are fresh, so tests do not meet."""
    with running_simulator() as running:
        yield running


@dataclass(frozen=True)
class Client:
    """A client of one shell, connected to the simulator."""

    shell: Shell
    api: Any
    simulator: Simulator

    async def do(self, answer: Any) -> Any:
        """Await what has to be awaited."""
        return await self.shell.do(answer)

    def name(self, **script: Any) -> str:
        """Name an operation that nobody has seen."""
        return operation_name(uuid.uuid4().hex, **script)

    def operation(self, **script: Any) -> Any:
        """Wrap an operation that nobody has seen, by its name."""
        return self.shell.operation_type.from_name(self.api, self.name(**script))

    def calls(self, operation: Any, method: str | None = None) -> list[dict[str, Any]]:
        """Read the simulator's log of the calls for an operation."""
        return self.simulator.calls(method, operation.name)

    def polls(self, operation: Any) -> int:
        """Count the Gets for an operation."""
        return len(self.calls(operation, "GetOperation"))


@pytest.fixture
async def client(shell: Shell, shared_simulator: Simulator) -> AsyncIterator[Client]:
    """Connect the shell to the simulator."""
    async with shell.connect(shared_simulator.endpoint, insecure=True) as api:
        yield Client(shell, api, shared_simulator)


# ── a fake server ──


@dataclass(frozen=True)
class Sent:
    """One call, as a client sent it."""

    method: str
    request: Any
    headers: dict[str, Any]
    seconds: float
    """Until the call's deadline."""


@dataclass
class FakeServer(grpc.GenericRpcHandler):
    """A server of Operations that answers as the test says, and keeps what it was sent."""

    answers: dict[str, Callable[[Any, grpc.ServicerContext], Any]]
    calls: list[Sent] = field(default_factory=list)
    port: int = 0

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"{LOOPBACK}:{self.port}"

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Find the answer to a method; none is UNIMPLEMENTED."""
        method = handler_call_details.method.rpartition("/")[2]
        if method not in self.answers:
            return None

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            headers = dict(context.invocation_metadata())
            self.calls.append(Sent(method, request, headers, context.time_remaining()))
            return self.answers[method](request, context)

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=getattr(pb, f"{method}Request").FromString,
            response_serializer=lambda reply: reply if isinstance(reply, bytes) else reply.SerializeToString(),
        )


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    """Return a function that starts fake servers: `serve(GetOperation=…)`, with `tls=` a leaf certificate."""
    running: list[grpc.Server] = []
    threads = ThreadPoolExecutor(8)

    def start(*, tls: trustme.LeafCert | None = None, client_ca: bytes | None = None, **answers: Any) -> FakeServer:
        fake = FakeServer(answers)
        server = grpc.server(threads, handlers=[fake], options=[("grpc.so_reuseport", 0)])
        if tls is None:
            fake.port = server.add_insecure_port(f"{LOOPBACK}:0")
        else:
            pair = (tls.private_key_pem.bytes(), chain_of(tls))
            credentials = grpc.ssl_server_credentials([pair], client_ca, require_client_auth=client_ca is not None)
            fake.port = server.add_secure_port(f"{LOOPBACK}:0", credentials)
        server.start()
        running.append(server)
        return fake

    yield start
    for server in running:
        server.stop(None).wait()
    threads.shutdown()


# ── certificates ──


def chain_of(leaf: trustme.LeafCert) -> bytes:
    """Return the PEM chain of a certificate."""
    return b"".join(blob.bytes() for blob in leaf.cert_chain_pems)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Make a certificate authority that no system trusts."""
    return trustme.CA()


@pytest.fixture(scope="session")
def trusted(authority: trustme.CA) -> bytes:
    """Return its certificate, as PEM."""
    return authority.cert_pem.bytes()


@pytest.fixture(scope="session")
def leaf(authority: trustme.CA) -> trustme.LeafCert:
    """Issue a certificate for loopback."""
    return authority.issue_cert("localhost", LOOPBACK)
