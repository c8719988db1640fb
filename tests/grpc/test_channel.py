"""Endpoints, TLS against real servers with `trustme`'s certificates, and the channels that clients share."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import traceback
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier, Thread
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import trustme
from google.auth.credentials import AnonymousCredentials
from google.longrunning import operations_proto_pb2 as pb
from google.oauth2.credentials import Credentials

from airflow_provider_lro._transport.channel import (
    ChannelConfig,
    fill_location,
    open_channels,
    parse_endpoint,
    read_pem,
)
from airflow_provider_lro._transport.credentials import CredentialsConfig
from airflow_provider_lro.exceptions import Code, CredentialsError, EndpointError, OperationTimeout, RpcError
from airflow_provider_lro.operation import AsyncOperationsClient, OperationsClient
from airflow_provider_lro.simulator import operation_name
from tests.grpc.raw_server import RawServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.grpc.conftest import FakeServer, Shell
    from tests.simulator_fixture import Simulator

    Serve = Callable[..., FakeServer]

PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
CANARY = "c4n4ry"
NOBODY = AnonymousCredentials()


def running(request: pb.GetOperationRequest, context: Any) -> pb.Operation:
    """Answer a Get: not done."""
    return pb.Operation(name=request.name)


def chain_of(certificate: trustme.LeafCert) -> bytes:
    """Return the PEM chain of a certificate."""
    return b"".join(blob.bytes() for blob in certificate.cert_chain_pems)


# ── endpoints ──


@pytest.mark.parametrize(
    ("value", "port", "target"),
    [
        ("us-central1-aiplatform.googleapis.com", None, "us-central1-aiplatform.googleapis.com:443"),
        ("{location}-aiplatform.googleapis.com", None, "{location}-aiplatform.googleapis.com:443"),
        ("  host  ", None, "host:443"),
        ("host", 50051, "host:50051"),
        ("host:1", 50051, "host:1"),
        ("host:00443", None, "host:443"),
        ("host:65535", None, "host:65535"),
        ("127.0.0.1:50051", None, "127.0.0.1:50051"),
        ("service_name.my-namespace.svc", 80, "service_name.my-namespace.svc:80"),
        ("::1", None, "[::1]:443"),
        ("2001:db8::1", 8080, "[2001:db8::1]:8080"),
        ("[::1]", None, "[::1]:443"),
        ("[::1]:50051", 1, "[::1]:50051"),
        ("dns:///host:50051", None, "dns:///host:50051"),
        ("dns://8.8.8.8/host", 1, "dns://8.8.8.8/host"),
        ("unix:/run/lro.sock", None, "unix:/run/lro.sock"),
        ("unix-abstract:lro", None, "unix-abstract:lro"),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", None, "ipv4:127.0.0.1:1,127.0.0.2:1"),
        ("xds:///service", None, "xds:///service"),
    ],
)
def test_an_endpoint(value: str, port: int | None, target: str) -> None:
    """Host and port, with 443 where none is given; a gRPC target stays as it is."""
    assert parse_endpoint(value, port=port) == target


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "no endpoint"),
        ("", "no endpoint"),
        ("  ", "no endpoint"),
        ("https://host", "is a URL"),
        ("http://host:80/v1", "is a URL"),
        ("host/path", "characters that no host has"),
        ("ho st", "characters that no host has"),
        ("me@host", "characters that no host has"),
        ("host?x", "characters that no host has"),
        (":443", "has no host"),
        ("host:", "has the port ''"),
        ("host:0", "has the port '0'"),
        ("host:65536", "has the port '65536'"),
        ("host:-1", "has the port '-1'"),
        ("host:https", "has the port 'https'"),
        ("host:\u0663", "has the port"),
        ("[::1]:", "has the port ''"),
        ("[::1", "'[::1'"),
        ("::1]:80", "'::1]:80'"),
        ("[::1]x", "'[::1]x'"),
        ("[]:443", "'[]:443'"),
        ("[not-an-address]:443", "'[not-an-address]:443'"),
        ("host:443:443", "'host:443:443'"),
        (5, "not text that can be sent"),
        (False, "not text that can be sent"),
        ("host\ud800", r"'host\ud800' is not text that can be sent"),
    ],
)
def test_a_value_that_is_not_an_endpoint(value: Any, says: str) -> None:
    """The error says what is wrong, and what would do."""
    with pytest.raises(EndpointError) as caught:
        parse_endpoint(value)
    assert says in str(caught.value)
    assert "expected host or host:port" in str(caught.value)


@pytest.mark.parametrize(
    "value", ["me:c4n4ry@host:80", "https://me:c4n4ry@host", "c4n4ry@host", "me:c4n4ry@{location}"]
)
def test_a_password_in_an_endpoint_is_not_shown(value: str) -> None:
    """The text that is shown begins behind it."""
    with pytest.raises(EndpointError, match="the endpoint '…@") as caught:
        parse_endpoint(fill_location(value, None))
    assert "c4n4ry" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "filled"),
    [
        ("projects/p/locations/us-central1/operations/o", "us-central1-x.googleapis.com"),
        ("projects/p/regions/europe-west6/operations/o", "europe-west6-x.googleapis.com"),
        ("locations/us/operations/o", "us-x.googleapis.com"),
    ],
)
def test_a_location_is_filled_in(name: str, filled: str) -> None:
    """It comes from the operation's name."""
    assert fill_location("{location}-x.googleapis.com", name) == filled


@pytest.mark.parametrize("name", ["operations/o", "projects/p/allocations/x/operations/o", "locations/", "", None])
def test_a_location_that_is_not_there(name: str | None) -> None:
    """The error shows the endpoint and the name."""
    with pytest.raises(EndpointError, match=r"\{location\}-x.*locations/….*endpoint with the location"):
        fill_location("{location}-x", name)


# ── PEM ──


def test_pem_is_text_or_a_path(tmp_path: Path) -> None:
    """Both give the same bytes; nothing gives nothing."""
    path = tmp_path / "ca.pem"
    path.write_text(PEM)
    for value in (PEM, PEM.encode(), str(path), str(path).encode(), path):
        assert read_pem(value, what="root_certificates") == PEM.encode()
    assert [read_pem(value, what="x") for value in (None, "", b"")] == [None] * 3


def test_a_value_that_is_not_pem(tmp_path: Path) -> None:
    """The error names the option, and the file where it is one."""
    path = tmp_path / "ca.der"
    path.write_bytes(b"\x30\x82\xff")
    with pytest.raises(EndpointError, match=r"client_key: .*/no/such/file"):
        read_pem("/no/such/file", what="client_key")
    for value in (str(path), str(tmp_path), "a\0b", b"\xff\xfe", "x" * 5000):
        with pytest.raises(EndpointError, match=r"root_certificates: .*PEM"):
            read_pem(value, what="root_certificates")


def test_a_key_without_its_first_line_is_not_quoted() -> None:
    """A text that was meant to be a key, and is taken for a path, does not get into a log."""
    body = f"MIIEvQIBADANBgkqhkiG9w0BAQEFAASC{CANARY}\n-----END PRIVATE KEY-----"
    with pytest.raises(EndpointError, match="client_key") as caught:
        read_pem(body, what="client_key")
    assert CANARY not in "".join(traceback.format_exception(caught.value))


# ── what contradicts itself ──


def test_a_token_is_never_sent_in_plaintext(shell: Shell, shared_simulator: Simulator) -> None:
    """Credentials of any kind for a plaintext channel are refused when it is made."""
    with pytest.raises(CredentialsError, match="plaintext"):
        shell.client_type.connect(shared_simulator.endpoint, insecure=True, credentials=Credentials(CANARY))
    kinds = ({"token": CANARY}, {"key_path": "/k.json"}, {"keyfile": CANARY}, {"given": Credentials(CANARY)})
    for kind in kinds:
        with pytest.raises(CredentialsError, match="plaintext") as caught:
            ChannelConfig(target="h:1", insecure=True, credentials=CredentialsConfig(**kind))  # type: ignore[arg-type]
        assert CANARY not in str(caught.value)
    for nobody in (CredentialsConfig(anonymous=True), CredentialsConfig(given=AnonymousCredentials())):
        assert ChannelConfig(target="h:1", insecure=True, credentials=nobody)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"insecure": True, "root_certificates": PEM}, "root_certificates and insecure"),
        ({"client_certificate": PEM}, "client_certificate is given, but .* go together"),
        ({"client_key": PEM}, "client_key is given, but .* go together"),
        ({"max_message_mb": 0}, "max_message_mb"),
        ({"max_message_mb": 2048}, "max_message_mb"),
        ({"max_message_mb": True}, "max_message_mb"),
        ({"max_message_mb": "64"}, "max_message_mb"),
    ],
)
def test_options_that_contradict_each_other(shell: Shell, options: dict[str, Any], says: str) -> None:
    """They are refused when the client is made, and leave no channel open."""
    before = open_channels()
    with pytest.raises(EndpointError, match=says):
        shell.client_type.connect("h", **options)
    assert open_channels() == before


def test_no_repr_shows_a_secret() -> None:
    """Neither a token, nor a key, nor what google-auth credentials say of themselves."""

    class Talkative(Credentials):
        def __repr__(self) -> str:
            return CANARY

    for kind in ({"token": CANARY}, {"keyfile": CANARY}, {"given": Talkative(CANARY)}):
        credentials = CredentialsConfig(**kind)  # type: ignore[arg-type]
        config = ChannelConfig(
            target="h:1", credentials=credentials, client_certificate=b"cert", client_key=CANARY.encode()
        )
        for text in (repr(credentials), str(credentials), repr(config), f"{config}"):
            assert CANARY not in text
        assert "h:1" in repr(config)


# ── shared channels ──


async def test_equal_clients_share_a_channel(shell: Shell, shared_simulator: Simulator) -> None:
    """It serves them all, is closed with the last of them, and not before; closing twice is harmless."""
    before = open_channels()
    endpoint, name = shared_simulator.endpoint, operation_name(uuid.uuid4().hex, duration=60)
    options = {"insecure": True, "max_message_mb": 3}
    clients = [shell.client_type.connect(endpoint, rpc_timeout=10 + index, **options) for index in range(3)]
    assert open_channels() == before + 1
    for client in clients[:2]:
        await shell.do(client.close())
        await shell.do(client.close())
    assert open_channels() == before + 1
    assert (await shell.do(clients[2].get_operation(name))).name == name
    await shell.do(clients[2].close())
    await shell.do(clients[2].close())
    assert open_channels() == before
    with pytest.raises((ValueError, grpc.aio.UsageError), match=r"(?i)closed"):
        await shell.do(clients[2].get_operation(name))
    async with shell.connect(endpoint, **options) as again:
        assert (await shell.do(again.get_operation(name))).name == name


async def test_clients_that_differ_do_not_share(shell: Shell, trusted: bytes) -> None:
    """Endpoint, credentials, TLS and limits each make a channel of their own."""
    before = open_channels()
    given = Credentials("a")
    common: dict[str, Any] = {"endpoint": "localhost:1", "credentials": given}
    variants = [
        common,
        common | {"endpoint": "localhost:2"},
        common | {"credentials": Credentials("a")},
        common | {"credentials": None},
        common | {"credentials": None, "insecure": True},
        common | {"root_certificates": trusted},
        common | {"authority": "other.example"},
        common | {"max_message_mb": 65},
    ]
    clients = [shell.client_type.connect(**variant) for variant in [*variants, *variants]]
    assert open_channels() == before + len(variants)
    for client in clients:
        await shell.do(client.close())
    assert open_channels() == before


def test_equal_credentials_share() -> None:
    """Compared by what they say, not by which object says it."""
    for kind in ({"token": "t"}, {"key_path": "/k"}, {"keyfile": "{}"}, {"anonymous": True}):
        one, two = (ChannelConfig(target="localhost:1", credentials=CredentialsConfig(**kind)) for _ in range(2))  # type: ignore[arg-type]
        before = open_channels()
        with OperationsClient(one), OperationsClient(two):
            assert open_channels() == before + 1


async def test_event_loops_do_not_share(shared_simulator: Simulator) -> None:
    """An aio channel belongs to its loop; a sync one to none."""
    options: dict[str, Any] = {"endpoint": shared_simulator.endpoint, "insecure": True}
    name = operation_name("loops")

    async def elsewhere() -> int:
        async with AsyncOperationsClient.connect(**options) as client:
            await client.get_operation(name)
            return open_channels()

    before = open_channels()
    async with AsyncOperationsClient.connect(**options) as here:
        await here.get_operation(name)
        assert await asyncio.to_thread(asyncio.run, elsewhere()) == before + 2
        with OperationsClient.connect(**options):
            assert open_channels() == before + 2
        assert (await here.get_operation(name)).name == name
    assert open_channels() == before


def test_a_client_is_used_from_threads(shared_simulator: Simulator) -> None:
    """Calls at the same time each get their own answer."""
    names = [operation_name(f"threads{index}") for index in range(40)]
    with (
        OperationsClient.connect(shared_simulator.endpoint, insecure=True) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        assert [operation.name for operation in pool.map(client.get_operation, names)] == names


def test_clients_come_and_go_in_threads(shared_simulator: Simulator, hasty_threads: None) -> None:
    """However they interleave: those that are there share one channel, which is open for all and closed after all."""
    before = open_channels()
    together = Barrier(8)

    def visit(index: int) -> tuple[str, int]:
        together.wait(10)
        with OperationsClient.connect(shared_simulator.endpoint, insecure=True, max_message_mb=2) as client:
            name = client.get_operation(operation_name(f"visit{index}")).name
            together.wait(10)
            return name, open_channels()

    with ThreadPoolExecutor(8) as pool:
        visits = list(pool.map(visit, range(80)))
    assert visits == [(operation_name(f"visit{index}"), before + 1) for index in range(80)]
    assert open_channels() == before


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads take turns as often as can be, so that what is not locked goes wrong."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


# ── TLS ──


async def tls_error(shell: Shell, endpoint: str, **options: Any) -> Any:
    """Call once over TLS; the error that it must end with."""
    async with shell.connect(endpoint, credentials=NOBODY, **options) as client:
        with pytest.raises((EndpointError, RpcError)) as caught:
            await shell.do(client.get_operation("o"))
    return caught.value


async def test_a_trusted_server(
    shell: Shell, serve: Serve, leaf: trustme.LeafCert, trusted: bytes, tmp_path: Path
) -> None:
    """The authority may be given as text, bytes or a path; the name or the address is in the certificate."""
    fake = serve(tls=leaf, GetOperation=running)
    path = tmp_path / "ca.pem"
    path.write_bytes(trusted)
    for host, roots in (("localhost", trusted), ("127.0.0.1", trusted.decode()), ("127.0.0.1", str(path))):
        async with shell.connect(f"{host}:{fake.port}", credentials=NOBODY, root_certificates=roots) as client:
            assert (await shell.do(client.get_operation("o"))).name == "o"
    assert len(fake.calls) == 3
    assert all("authorization" not in sent.headers for sent in fake.calls)


async def test_an_unknown_authority(shell: Shell, serve: Serve, leaf: trustme.LeafCert) -> None:
    """Neither the system nor another authority vouches for it."""
    fake = serve(tls=leaf, GetOperation=running)
    other = trustme.CA().cert_pem.bytes()
    for options in ({}, {"root_certificates": other}):
        error = await tls_error(shell, fake.endpoint, **options)
        assert type(error) is EndpointError
        assert f"{fake.endpoint}' shows a certificate that no trusted authority has signed" in str(error)
    assert fake.calls == []


@pytest.mark.parametrize(
    ("validity", "says"),
    [
        ({"not_after": datetime(2020, 1, 2, tzinfo=UTC)}, "shows a certificate that has expired"),
        (
            {"not_before": datetime(2090, 1, 1, tzinfo=UTC), "not_after": datetime(2091, 1, 1, tzinfo=UTC)},
            "shows a certificate that is not valid yet",
        ),
    ],
)
async def test_a_certificate_out_of_its_time(
    shell: Shell, serve: Serve, *, authority: trustme.CA, trusted: bytes, validity: dict[str, datetime], says: str
) -> None:
    """The error says so."""
    fake = serve(tls=authority.issue_cert("127.0.0.1", **validity), GetOperation=running)
    error = await tls_error(shell, fake.endpoint, root_certificates=trusted)
    assert (type(error), says in str(error)) == (EndpointError, True)


async def test_a_certificate_for_another_name(
    shell: Shell, serve: Serve, authority: trustme.CA, trusted: bytes
) -> None:
    """The error says so; `authority` is the name to expect instead of the host."""
    fake = serve(tls=authority.issue_cert("other.example"), GetOperation=running)
    for options in ({}, {"authority": "third.example"}):
        error = await tls_error(shell, fake.endpoint, root_certificates=trusted, **options)
        assert type(error) is EndpointError
        assert "shows a certificate that is for another name" in str(error)
    async with shell.connect(
        fake.endpoint, credentials=NOBODY, root_certificates=trusted, authority="other.example"
    ) as client:
        assert (await shell.do(client.get_operation("o"))).name == "o"


async def test_tls_to_a_plaintext_port(shell: Shell, shared_simulator: Simulator, trusted: bytes) -> None:
    """The error says that nobody speaks TLS there."""
    error = await tls_error(shell, shared_simulator.endpoint, root_certificates=trusted)
    assert (type(error), "does not speak TLS" in str(error)) == (EndpointError, True)


async def test_proxy_that_wants_a_password(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """No time heals it: it is no outage, but credentials that are missing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            while True:
                try:
                    with server.accept()[0] as client:
                        client.recv(4096)
                        client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                except OSError:  # the test is over
                    return

        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        thread = Thread(target=refuse, daemon=True)
        thread.start()
        async with shell.connect("service.example:443", insecure=True) as client:
            with pytest.raises(CredentialsError, match=r"wants a user and a password.*https_proxy") as caught:
                await shell.do(client.get_operation("o"))
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert not caught.value.is_transient


@pytest.mark.parametrize("size", [20_000, 200_000, 400_000])
async def test_error_with_a_long_text(shell: Shell, serve: Serve, size: int) -> None:
    """It has its own code; a text that is too large for gRPC is not "try again later" of the service."""

    def refuse(request: Any, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "x" * size)

    fake = serve(GetOperation=refuse)
    async with shell.connect(fake.endpoint, insecure=True) as client:
        with pytest.raises(RpcError) as caught:
            await shell.do(client.get_operation("o"))
    if size < 256 * 1024:
        assert (caught.value.code, len(caught.value.message)) == (Code.PERMISSION_DENIED, size)
    else:
        assert "its error is larger than 256 KiB" in str(caught.value)
    assert not caught.value.is_transient


async def test_mutual_tls(
    shell: Shell, serve: Serve, *, authority: trustme.CA, leaf: trustme.LeafCert, trusted: bytes, tmp_path: Path
) -> None:
    """A client with a certificate of the server's authority gets through, one without or of another does not."""
    fake = serve(tls=leaf, client_ca=trusted, GetOperation=running)
    mine, foreign = authority.issue_cert("me@example.org"), trustme.CA().issue_cert("me@example.org")
    key = tmp_path / "client.key"
    mine.private_key_pem.write_to_path(str(key))
    async with shell.connect(
        fake.endpoint,
        credentials=NOBODY,
        root_certificates=trusted,
        client_certificate=chain_of(mine),
        client_key=str(key),
    ) as client:
        assert (await shell.do(client.get_operation("o"))).name == "o"
    await tls_error(shell, fake.endpoint, root_certificates=trusted)
    pair = {"client_certificate": chain_of(foreign), "client_key": foreign.private_key_pem.bytes()}
    await tls_error(shell, fake.endpoint, root_certificates=trusted, **pair)
    assert len(fake.calls) == 1


@pytest.mark.parametrize("broken", ["root_certificates", "client_key", "a key of another certificate"])
async def test_pem_that_cannot_be_used(
    shell: Shell, serve: Serve, *, authority: trustme.CA, leaf: trustme.LeafCert, trusted: bytes, broken: str
) -> None:
    """A repeat does not help: it is an EndpointError that points to the options, not an outage.

    Older gRPC says no more than "empty address list", which an outage of name servers may cause, too.
    """
    fake = serve(tls=leaf, GetOperation=running)
    mine, other = authority.issue_cert("me@example.org"), authority.issue_cert("you@example.org")
    options: dict[str, Any] = {
        "root_certificates": trusted,
        "client_certificate": chain_of(mine),
        "client_key": (other if broken.startswith("a key") else mine).private_key_pem.bytes(),
    }
    if broken in options:
        options[broken] = PEM.replace("CERTIFICATE", "PRIVATE KEY") if broken == "client_key" else PEM
    error = await tls_error(shell, fake.endpoint, **options)
    if tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 78):
        assert type(error) is RpcError
        return
    assert type(error) is EndpointError
    assert "root_certificates" in str(error)
    assert "client_key" in str(error)


# ── what cannot be reached ──


async def test_a_host_that_does_not_exist(shell: Shell) -> None:
    """It is an EndpointError that says so, and ends a fresh wait at once."""
    async with shell.connect("no-such-host.invalid", insecure=True) as client:
        with pytest.raises(EndpointError, match=r"no-such-host\.invalid:443' has a host name that does not resolve"):
            await shell.do(client.get_operation("o"))
        operation = shell.operation_type.from_name(client, "o")
        with pytest.raises(EndpointError, match="does not resolve"):
            await shell.do(operation.wait(timeout=20))


async def test_a_port_that_refuses(shell: Shell) -> None:
    """A server may be on its way: it is an RpcError, and a wait goes on."""
    async with shell.connect("127.0.0.1:1", insecure=True) as client:
        with pytest.raises(RpcError, match=r"^UNAVAILABLE \(14\): .*127\.0\.0\.1:1") as caught:
            await shell.do(client.get_operation("o"))
        assert caught.value.code is Code.UNAVAILABLE
        assert caught.value.is_transient
        operation = shell.operation_type.from_name(client, "o")
        with pytest.raises(OperationTimeout, match=r"The last poll failed: .*UNAVAILABLE"):
            await shell.do(operation.wait_with_interval(0.1, timeout=0.2))


# ── what a server may do to the process ──

WAITING = """
import asyncio, os, resource, sys, time
from airflow_provider_lro._transport.client import AsyncOperationsClient
from airflow_provider_lro.exceptions import LroError

def memory():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6

async def wait(client):
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        try:
            await client.get_operation("o", rpc_timeout=2.0, wait_for_ready=True)
        except LroError:
            await asyncio.sleep(0.1)

async def main():
    async with AsyncOperationsClient.connect(sys.argv[1], insecure=True) as client:
        before, waiting = memory(), asyncio.create_task(wait(client))
        while not waiting.done() and memory() < before + 300.0:
            await asyncio.sleep(0.02)
        print(memory() - before, flush=True)
        os._exit(0)  # with gigabytes to free, it would not end

asyncio.run(main())
"""


@pytest.mark.parametrize("then", ["close", "keep"])
def test_server_that_turns_each_connection_away_takes_no_memory(then: str) -> None:
    """Of a process of its own: with gRPC's retries it had gigabytes within seconds, and was aborted then."""
    with RawServer(turns_away=then) as server:
        command = [sys.executable, "-c", WAITING, server.endpoint]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert float(done.stdout) < 150.0
