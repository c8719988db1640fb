"""Flows of google-auth that ask more than a token endpoint: the metadata server, and impersonation. All on loopback."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_lro.simulator import operation_name
from tests.grpc.token_server import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_lro._transport.channel import ChannelConfig
    from tests.grpc.conftest import Shell

IMPERSONATED = "robot@p.iam.gserviceaccount.com"


@pytest.fixture
def google() -> Iterator[ThreadingHTTPServer]:
    """Run a stand-in for the metadata server and for the IAM credentials service."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "/token" in self.path:
                self._answer({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})
            elif "/service-accounts/" in self.path:
                self._answer({"email": "vm@p", "scopes": ["s"], "aliases": ["default"]})
            else:
                self._answer("p")

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.server.asked.append((self.path, self.headers["authorization"], asked))  # type: ignore[attr-defined]
            until = datetime.now(tz=UTC) + timedelta(hours=1)
            self._answer({"accessToken": TOKEN, "expireTime": f"{until:%Y-%m-%dT%H:%M:%SZ}"})

        def _answer(self, content: Any) -> None:
            body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(200)
            self.send_header("metadata-flavor", "Google")
            self.send_header("content-type", "application/text" if isinstance(content, str) else "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


async def polled(shell: Shell, config: ChannelConfig) -> Any:
    async with shell.open(config) as client:
        return await shell.do(client.get_operation(operation_name(f"flow{time.monotonic_ns()}")))


async def test_the_metadata_server(
    shell: Shell,
    config: Callable[..., ChannelConfig],
    google: ThreadingHTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    """On a machine of the cloud, application default credentials are the machine's own."""
    host = f"127.0.0.1:{google.server_address[1]}"
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP"):
        monkeypatch.setenv(name, host)
    monkeypatch.delenv("NO_GCE_CHECK", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))  # no gcloud of whoever runs this
    from google.auth.compute_engine import _metadata

    if not hasattr(_metadata, "_NO_GCE_CHECK"):
        pytest.skip("this google-auth reads all of it when it is imported, into the defaults of its functions")
    # What it read of the environment when it was imported.
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", host)
    monkeypatch.setattr(_metadata, "_NO_GCE_CHECK", False)
    assert await polled(shell, config())


@pytest.mark.parametrize("chain", [(IMPERSONATED,), ("one@p", "two@p", IMPERSONATED)])
async def test_an_impersonated_account(
    shell: Shell,
    config: Callable[..., ChannelConfig],
    google: ThreadingHTTPServer,
    keyfile: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    chain: tuple[str, ...],
) -> None:
    """The token of the key buys the token of the last account, through those before it."""
    from google.auth import iam

    url = f"http://127.0.0.1:{google.server_address[1]}/v1/projects/-/serviceAccounts/{{}}:generateAccessToken"
    monkeypatch.setattr(iam, "_IAM_ENDPOINT", url)  # it has no setting for this: the one thing that is not real here
    assert await polled(shell, config(keyfile=keyfile, impersonation_chain=chain))
    ((path, authorization, asked),) = google.asked  # type: ignore[attr-defined]
    assert IMPERSONATED in path
    assert authorization == f"Bearer {TOKEN}"
    assert [delegate.rpartition("/")[2] for delegate in asked.get("delegates") or ()] == list(chain[:-1])
