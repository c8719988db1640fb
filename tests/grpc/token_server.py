"""An OAuth token endpoint on loopback, a key whose tokens come from it, and a simulator that demands them."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from airflow_provider_lro._transport import tokens as tokens_module
from airflow_provider_lro._transport.channel import ChannelConfig
from airflow_provider_lro._transport.credentials import CredentialsConfig
from tests.simulator_fixture import running_simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import trustme

    from tests.simulator_fixture import Simulator

TOKEN = "t0ps3cret-t0ken"
Answer: TypeAlias = "tuple[Any, ...] | None"


def _open() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


@dataclass
class TokenServer:
    """An OAuth token endpoint on loopback. `refusals` are used up first, then it answers as is `always` or with tokens.

    Each is a status and JSON, or bytes as they are, and perhaps more headers; or None to hang up. While its `gate` is
    shut, it answers nobody.
    """

    port: int = 0
    token: Callable[[int], str] = lambda number: TOKEN
    seconds: int = 3600
    delay: float = 0.0
    refusals: list[Answer] = field(default_factory=list)
    always: Answer = None
    echoes: bool = False
    """Refuse all requests, and quote them."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=_open)

    def answer(self, body: str) -> Answer:
        """Answer one request."""
        form = {key: values[0] for key, values in parse_qs(body).items()}
        self.requests.append(form)
        self.asked.set()
        self.gate.wait(30)
        time.sleep(self.delay)
        if self.refusals:
            return self.refusals.pop(0)
        if self.echoes:
            return 400, {"error": "invalid_grant", "error_description": f"{body} {form}"}
        if self.always is not None:
            return self.always
        return 200, {
            "access_token": self.token(len(self.requests)),
            "expires_in": self.seconds,
            "token_type": "Bearer",
        }


@contextmanager
def running_token_server() -> Iterator[TokenServer]:
    """Run a token server."""
    state = TokenServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer = state.answer(self.rfile.read(int(self.headers["content-length"])).decode())
            if answer is None:
                return
            status, content, *more = answer
            send_json(self, content, status, *more)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield state
    finally:
        state.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()


def send_json(
    handler: BaseHTTPRequestHandler, content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    """Answer an HTTP request with JSON, or with bytes as they are."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    for header, value in {"content-type": "application/json", **(headers or {})}.items():
        handler.send_header(header, value)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def service_account_key(private_key: str, tokens: TokenServer) -> str:
    """Return the text of a service-account key whose tokens come from a token server."""
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "p",
            "private_key_id": "k",
            "private_key": private_key,
            "client_email": "me@p.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"http://127.0.0.1:{tokens.port}/token",
        }
    )


class Clock:
    """The module ``time`` as the tokens of a channel see it: a test lets time pass by setting it ahead."""

    ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock by which tokens expire."""
    clock = Clock()
    monkeypatch.setattr(tokens_module, "time", clock)
    return clock


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    """Run a token server."""
    with running_token_server() as running:
        yield running


@pytest.fixture(scope="session")
def private_key() -> str:
    """Make the private key of nobody."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, kind, serialization.NoEncryption()).decode()


@pytest.fixture
def keyfile(private_key: str, tokens: TokenServer) -> str:
    """Return the text of a service-account key whose tokens come from that server."""
    return service_account_key(private_key, tokens)


@pytest.fixture
def key_path(keyfile: str, tmp_path: Path) -> str:
    """Return its path."""
    path = tmp_path / "key.json"
    path.write_text(keyfile)
    return str(path)


@pytest.fixture(scope="module")
def guarded(leaf: trustme.LeafCert, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """Run a simulator with TLS that demands the token."""
    directory = tmp_path_factory.mktemp("pem")
    (directory / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(str(directory / "key.pem"))
    tls = ("--tls-cert", directory / "cert.pem", "--tls-key", directory / "key.pem")
    with running_simulator("--token", TOKEN, *tls) as running:
        yield running


@pytest.fixture
def config(guarded: Simulator, trusted: bytes) -> Callable[..., ChannelConfig]:
    """Return a function from kinds of credentials to the configuration of a channel to that simulator."""

    def make(**kind: Any) -> ChannelConfig:
        return ChannelConfig(target=guarded.endpoint, credentials=CredentialsConfig(**kind), root_certificates=trusted)

    return make
