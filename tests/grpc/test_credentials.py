"""Credentials from every source, over TLS, with a token server on loopback; nothing leaves it."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.auth import jwt
from google.longrunning import operations_proto_pb2 as pb
from google.oauth2.credentials import Credentials
from google.protobuf import struct_pb2
from google.rpc import status_pb2

from airflow_provider_lro._transport.channel import ChannelConfig
from airflow_provider_lro._transport.credentials import CLOUD_PLATFORM, CredentialsConfig
from airflow_provider_lro._transport.tokens import MAX_MARGIN, MAX_START, PAUSE_AFTER_FAILURE, Tokens
from airflow_provider_lro.exceptions import Code, CredentialsError, EndpointError, OperationTimeout, RpcError
from airflow_provider_lro.operation import AsyncOperationsClient, OperationsClient
from airflow_provider_lro.simulator import operation_name
from tests.grpc.token_server import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import trustme

    from tests.grpc.conftest import FakeServer, Shell
    from tests.grpc.token_server import Clock, TokenServer
    from tests.simulator_fixture import Simulator

    Serve = Callable[..., FakeServer]

CANARY = "c4n4ry"
LIFE = 3600.0
"""Seconds for which the token server's tokens hold."""
JSON_OF_A_REFUSAL = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}


async def polled(shell: Shell, config: ChannelConfig) -> Any:
    """Poll an operation that nobody has seen, which the simulator lets nobody do without the token."""
    async with shell.open(config, rpc_timeout=10) as client:
        return await shell.do(client.get_operation(operation_name(f"credentials{time.monotonic_ns()}")))


async def refused(shell: Shell, config: ChannelConfig, kind: type[Exception] = CredentialsError) -> Any:
    """Poll in vain; the error, whose traceback has no secret in it."""
    with pytest.raises(kind) as caught:
        await polled(shell, config)
    shown = "".join(traceback.format_exception(caught.value))
    assert CANARY not in shown
    assert TOKEN not in shown
    return caught.value


# ── the sources ──


async def test_a_bearer_token(shell: Shell, config: Callable[..., ChannelConfig]) -> None:
    """The right one is accepted, another is refused for good, and neither is in the error."""
    assert await polled(shell, config(token=TOKEN))
    error = await refused(shell, config(token=CANARY))
    assert (error.code, error.is_transient) == (Code.UNAUTHENTICATED, False)
    assert "the credentials were refused" in str(error)


async def test_google_auth_credentials_of_the_caller(
    shell: Shell, guarded: Simulator, trusted: bytes, serve: Serve, leaf: trustme.LeafCert
) -> None:
    """They are used as they are, with the quota project they name."""
    async with shell.connect(guarded.endpoint, credentials=Credentials(TOKEN), root_certificates=trusted) as client:
        assert (await shell.do(client.get_operation(operation_name("given")))).name
    fake = serve(tls=leaf, GetOperation=lambda request, context: pb.Operation())
    paying = Credentials(TOKEN, quota_project_id="payer")
    async with shell.connect(fake.endpoint, credentials=paying, root_certificates=trusted) as client:
        await shell.do(client.get_operation("o"))
    assert fake.calls[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert fake.calls[0].headers["x-goog-user-project"] == "payer"


@pytest.mark.parametrize("source", ["key_path", "keyfile", "adc"])
async def test_a_service_account_key(
    shell: Shell,
    config: Callable[..., ChannelConfig],
    *,
    source: str,
    key_path: str,
    keyfile: str,
    tokens: TokenServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By path, by its text, or as application default credentials: one token is fetched, for the scopes asked for."""
    kinds: dict[str, dict[str, Any]] = {"key_path": {"key_path": key_path}, "keyfile": {"keyfile": keyfile}, "adc": {}}
    if source == "adc":
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", key_path)
    made = config(**kinds[source])
    async with shell.open(made) as client:
        assert tokens.requests == []
        for _ in range(3):
            await shell.do(client.get_operation(operation_name("key")))
    (request,) = tokens.requests
    claims = jwt.decode(request["assertion"], verify=False)
    assert (claims["iss"], claims["scope"]) == ("me@p.iam.gserviceaccount.com", CLOUD_PLATFORM)
    assert await polled(shell, config(**kinds[source], scopes=("scope-a", "scope-b")))
    assert jwt.decode(tokens.requests[1]["assertion"], verify=False)["scope"] == "scope-a scope-b"


async def test_anonymous_sends_nothing(
    shell: Shell, config: Callable[..., ChannelConfig], guarded: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No header, even where application default credentials could be had, and the server says no."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/file")
    assert (await refused(shell, config(anonymous=True))).code is Code.UNAUTHENTICATED
    assert guarded.calls()[-1]["headers"]["authorization"] is False


class Rotating(Credentials):
    """Credentials whose tokens are good in turn, and that count their refreshes."""

    def __init__(self, *tokens: str) -> None:
        super().__init__(tokens[0])
        self.tokens = iter(tokens[1:])

    def refresh(self, request: object) -> None:
        """Take the next."""
        self.token = next(self.tokens)


@pytest.mark.parametrize(
    ("says", "error"),
    [("who are you", CredentialsError), ("Received http2 header with status: 401", EndpointError)],
    ids=["the service", "a proxy"],
)
async def test_token_that_is_refused_is_refreshed_once(
    *, shell: Shell, serve: Serve, leaf: trustme.LeafCert, trusted: bytes, says: str, error: type[Exception]
) -> None:
    """A key may be rotated, or a token revoked, before its time: one more poll with another token, and no third."""

    def get(request: Any, context: grpc.ServicerContext) -> pb.Operation:
        if ("authorization", "Bearer new") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, says)
        return pb.Operation(name="o")

    fake = serve(tls=leaf, GetOperation=get)
    async with shell.connect(fake.endpoint, credentials=Rotating("old", "new"), root_certificates=trusted) as client:
        for _ in range(2):
            assert (await shell.do(client.get_operation("o"))).name == "o"
    assert len(fake.calls) == 3
    async with shell.connect(
        fake.endpoint, credentials=Rotating("old", "older", "new"), root_certificates=trusted
    ) as client:
        with pytest.raises(error):
            await shell.do(client.get_operation("o"))
    assert len(fake.calls) == 5


# ── a service that quotes what it is sent ──


def quoted(context: grpc.ServicerContext) -> str:
    """Return all headers of a call, as JSON and behind text that fills a line."""
    headers = [[name, str(value)] for name, value in context.invocation_metadata()]
    return f"{'x' * 350}: {json.dumps(headers)}"


@pytest.mark.parametrize("where", ["status", "details", "error", "metadata", "response", "listing"])
async def test_a_service_that_quotes_the_secrets_that_it_was_sent(
    shell: Shell, serve: Serve, leaf: trustme.LeafCert, trusted: bytes, *, where: str
) -> None:
    """Whatever it makes of them, they are not in it, and all the rest of it is as it was."""

    def get(_: Any, context: grpc.ServicerContext) -> pb.Operation:
        text = struct_pb2.Value(string_value=quoted(context))
        operation = pb.Operation(name="o", done=where in ("error", "response"))
        if where == "status":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, quoted(context))
        elif where == "details":
            status = status_pb2.Status(code=9, message="quoted below")
            status.details.add().Pack(text)
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no")
        elif where == "error":
            operation.error.code, operation.error.message = 9, quoted(context)
            operation.error.details.add().Pack(text)
        else:
            (operation.response if where == "response" else operation.metadata).Pack(text)
        return operation

    def list_(_: Any, context: grpc.ServicerContext) -> pb.ListOperationsResponse:
        return pb.ListOperationsResponse(operations=[get(_, context)])

    fake = serve(tls=leaf, GetOperation=get, ListOperations=list_)
    made = ChannelConfig(
        target=fake.endpoint,
        credentials=CredentialsConfig(token=f"{CANARY}-token"),
        root_certificates=trusted,
        headers=(("x-goog-api-key", f"{CANARY}-key"), ("x-goog-request-params", "location=eu")),
    )
    async with shell.open(made) as client:
        try:
            if where == "listing":
                (state,) = await shell.listed(client.list_operations("p"))
            else:
                state = await shell.do(client.get_operation("o"))
            shown = repr(state)
            assert state.name == "o"
        except RpcError as error:
            shown = repr((error.args, vars(error)))
    assert fake.calls[0].headers["authorization"] == f"Bearer {CANARY}-token"
    assert CANARY not in shown
    assert "***" in shown
    assert "location=eu" in shown


# ── what is no use ──


@pytest.mark.parametrize(
    "text",
    [
        CANARY + "{",
        f'["{CANARY}"]',
        f'"{CANARY}"',
        "{}",
        json.dumps({"type": "service_account", "private_key": CANARY}),
        json.dumps({"type": "service_account", "private_key": CANARY, "client_email": "a", "token_uri": "b"}),
        json.dumps({"type": "service_account", "private_key": None, "client_email": "a", "token_uri": CANARY}),
        json.dumps({"type": "authorized_user", "client_secret": CANARY, "refresh_token": CANARY, "client_id": "i"}),
    ],
)
async def test_a_value_that_is_not_a_key(
    shell: Shell, config: Callable[..., ChannelConfig], tmp_path: Path, text: str
) -> None:
    """The error says which key is no use, without quoting it, and does not talk of other kinds of credentials."""
    path = tmp_path / "key.json"
    path.write_text(text)
    for kind, named in (({"key_path": str(path)}, str(path)), ({"keyfile": text}, "keyfile_dict")):
        error = await refused(shell, config(**kind))
        assert "is not a usable service-account key" in str(error)
        assert named in str(error)
        assert "application default" not in str(error)


async def test_a_key_file_that_cannot_be_read(
    shell: Shell, config: Callable[..., ChannelConfig], tmp_path: Path
) -> None:
    """The error names the file; it comes with the first call, as that is when the file is read."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in ("/no/such/key.json", str(tmp_path), str(binary)):
        assert path in str(await refused(shell, config(key_path=path)))


async def test_a_key_in_the_place_of_its_path_is_not_shown(
    shell: Shell, config: Callable[..., ChannelConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever pastes it there is told where it belongs, and no log gets it."""
    for key in (f' {{"private_key": "{CANARY}"}}', f"-----BEGIN PRIVATE KEY-----{CANARY}", f"{CANARY}\n{CANARY}"):
        with pytest.raises(CredentialsError, match=r"^key_path holds a key, not a path: put it in keyfile_dict$"):
            CredentialsConfig(key_path=key)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", key)
        assert "holds a key, not a path" in str(await refused(shell, config()))


async def test_no_application_default_credentials(shell: Shell, config: Callable[..., ChannelConfig]) -> None:
    """The error says so, and what to give the connection instead."""
    error = await refused(shell, config())
    text = str(error)
    assert "there are no application default credentials" in text
    assert all(advice in text for advice in ("key_path", "keyfile_dict", "bearer token", "is_anonymous"))
    assert not error.is_transient


@pytest.mark.parametrize("content", [None, CANARY, f'["{CANARY}"]', f'{{"type": "{CANARY}"}}', "a directory"])
async def test_application_default_credentials_that_cannot_be_used(
    shell: Shell,
    config: Callable[..., ChannelConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
) -> None:
    """The error speaks of them, not of a key that nobody gave."""
    path = tmp_path / "adc.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path if content == "a directory" else path))
    with pytest.raises(CredentialsError) as caught:
        await polled(shell, config())
    assert "application default credentials" in str(caught.value)
    assert not str(caught.value).startswith(("keyfile_dict", "the service-account key"))


def test_a_configuration_that_makes_no_sense() -> None:
    """Two kinds at once, and a token that no header can carry, are refused when they are given."""
    with pytest.raises(CredentialsError, match=r"several kinds.*a key, a bearer token"):
        CredentialsConfig(key_path="/k", token=CANARY)
    with pytest.raises(CredentialsError, match="several kinds"):
        CredentialsConfig(anonymous=True, token=CANARY)
    for token in (f"{CANARY}\n", f"{CANARY}\r\nx-evil: 1", "t\u00f6ken"):
        with pytest.raises(CredentialsError, match="no header can carry") as caught:
            CredentialsConfig(token=token)
        assert CANARY not in str(caught.value)


# ── refreshing ──


def test_threads_share_one_refresh(config: Callable[..., ChannelConfig], keyfile: str, tokens: TokenServer) -> None:
    """Calls at the same time, of clients that share a channel, fetch one token."""
    tokens.delay = 0.2
    with (
        OperationsClient(config(keyfile=keyfile)) as one,
        OperationsClient(config(keyfile=keyfile)) as two,
        ThreadPoolExecutor(8) as pool,
    ):
        names = [operation_name(f"flight{index}") for index in range(8)]
        calls = [pool.submit((one, two)[index % 2].get_operation, name) for index, name in enumerate(names)]
        assert [call.result().name for call in calls] == names
    assert len(tokens.requests) == 1


async def test_tasks_share_one_refresh(config: Callable[..., ChannelConfig], keyfile: str, tokens: TokenServer) -> None:
    """So do tasks, and the event loop goes on meanwhile."""
    tokens.gate.clear()
    async with (
        AsyncOperationsClient(config(keyfile=keyfile)) as one,
        AsyncOperationsClient(config(keyfile=keyfile)) as two,
    ):
        names = [operation_name(f"tasks{index}") for index in range(8)]
        calls = asyncio.gather(*((one, two)[index % 2].get_operation(name) for index, name in enumerate(names)))
        assert await asyncio.to_thread(tokens.asked.wait, 10)
        assert not calls.done()
        tokens.gate.set()
        assert [operation.name for operation in await calls] == names
    assert len(tokens.requests) == 1


async def test_a_task_that_gives_up_does_not_take_the_refresh_with_it(
    config: Callable[..., ChannelConfig], keyfile: str, tokens: TokenServer
) -> None:
    """The others get the token that it had asked for."""
    tokens.delay = 0.2
    async with AsyncOperationsClient(config(keyfile=keyfile)) as client:
        first = asyncio.create_task(client.get_operation(operation_name("gives-up")))
        assert await asyncio.to_thread(tokens.asked.wait, 10)
        second = asyncio.create_task(client.get_operation(operation_name("goes-on")))
        first.cancel()
        assert (await second).name == operation_name("goes-on")
        assert first.cancelled()
    assert len(tokens.requests) == 1


async def test_a_token_is_renewed_before_it_expires(
    shell: Shell,
    serve: Serve,
    *,
    leaf: trustme.LeafCert,
    trusted: bytes,
    keyfile: str,
    tokens: TokenServer,
    clock: Clock,
) -> None:
    """One that has time left is sent again; one that is about to expire is exchanged for another before it does."""
    tokens.token = "token-{}".format
    fake = serve(tls=leaf, GetOperation=lambda request, context: pb.Operation())
    made = ChannelConfig(
        target=fake.endpoint, credentials=CredentialsConfig(keyfile=keyfile), root_certificates=trusted
    )
    async with shell.open(made) as client:

        async def sent() -> str:
            await shell.do(client.get_operation("o"))
            token: str = fake.calls[-1].headers["authorization"]
            return token

        assert [await sent(), await sent()] == ["Bearer token-1"] * 2
        clock.ahead = LIFE - MAX_MARGIN - 60
        assert await sent() == "Bearer token-1"
        assert len(tokens.requests) == 1
        clock.ahead = LIFE - MAX_MARGIN + 1
        while (token := await sent()) == "Bearer token-1":
            pass  # it holds, and the next one is on its way
        assert (token, len(tokens.requests)) == ("Bearer token-2", 2)
        clock.ahead += LIFE
        assert await sent() == "Bearer token-3"
    assert len(tokens.requests) == 3


async def test_a_token_endpoint_that_is_down(
    shell: Shell, config: Callable[..., ChannelConfig], keyfile: str, tokens: TokenServer
) -> None:
    """It is worth another try: the error is transient, the next call works, and a wait survives it."""
    made = config(keyfile=keyfile)
    tokens.refusals = [None]
    error = await refused(shell, made, RpcError)
    assert (error.code, error.is_transient) == (Code.UNAVAILABLE, True)
    assert "the token endpoint cannot be reached" in str(error)
    assert await polled(shell, made)
    tokens.refusals = [None, None]
    async with shell.open(made) as client:
        operation = shell.operation_type.from_name(client, operation_name("survivor", duration=0))
        assert await shell.do(operation.wait_with_interval(0.1, timeout=20)) is not None
    gone = keyfile.replace(f":{tokens.port}/", ":1/")
    assert (await refused(shell, config(keyfile=gone), RpcError)).code is Code.UNAVAILABLE


async def test_a_token_endpoint_that_never_answers(
    shell: Shell, config: Callable[..., ChannelConfig], keyfile: str, tokens: TokenServer
) -> None:
    """It costs a call no more time than a call has, and a wait no more than one call beyond its deadline."""
    tokens.gate.clear()
    made = config(keyfile=keyfile)
    async with shell.open(made, rpc_timeout=0.5) as client:
        operation = shell.operation_type.from_name(client, operation_name("silent", duration=0))
        with pytest.raises(
            OperationTimeout, match=r"no token after .* s, as the credentials are still being refreshed"
        ):
            await shell.do(operation.wait_with_interval(0.1, timeout=0.3, rpc_timeout=0.5))
    assert len(tokens.requests) <= 1


def test_nobody_waits_for_the_next_token_while_one_holds(keyfile: str, tokens: TokenServer, clock: Clock) -> None:
    """A refresh ahead of expiry costs no call anything; the next call has what came of it."""
    tokens.token = "token-{}".format
    mine = Tokens(CredentialsConfig(keyfile=keyfile))
    first = mine.refresh(10)
    clock.ahead = LIFE - MAX_MARGIN + 1
    tokens.gate.clear()
    assert mine.headers() is None
    assert mine.refresh(10) == mine.headers() == first
    refresh = mine._join_refresh()
    tokens.gate.set()
    assert dict(refresh.result(10))["authorization"] == "Bearer token-2"
    assert mine.headers() == refresh.result()
    assert len(tokens.requests) == 2


def test_refresh_that_fails_while_a_token_holds_costs_nothing(keyfile: str, tokens: TokenServer, clock: Clock) -> None:
    """Calls go on with the token that they have, and the refresh is tried again in due time."""
    mine = Tokens(CredentialsConfig(keyfile=keyfile))
    first = mine.refresh(10)
    tokens.refusals = [(400, JSON_OF_A_REFUSAL)]
    clock.ahead = LIFE - MAX_MARGIN + 1
    assert mine._join_refresh().result(10) == mine.headers() == first
    assert len(tokens.requests) == 2
    clock.ahead += PAUSE_AFTER_FAILURE
    assert mine.headers() is None
    mine._join_refresh().result(10)
    assert len(tokens.requests) == 3
    clock.ahead += LIFE
    tokens.refusals = [(400, JSON_OF_A_REFUSAL)]
    with pytest.raises(CredentialsError, match="invalid_grant"):
        mine.refresh(10)


# ── signals ──


class OutOfTime(BaseException):
    """Airflow's own of these is raised by a signal handler, wherever the main thread is."""


@pytest.fixture
def alarm() -> Iterator[None]:
    """Let SIGALRM raise OutOfTime."""

    def out_of_time(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, out_of_time)
    yield
    signal.signal(signal.SIGALRM, before)


def test_what_a_signal_raises_during_a_refresh_is_raised(keyfile: str, tokens: TokenServer, alarm: None) -> None:
    """An execution_timeout comes but once; the refresh goes on, and is there for who comes next."""

    def ring() -> None:
        assert tokens.asked.wait(30)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    tokens.gate.clear()
    mine = Tokens(CredentialsConfig(keyfile=keyfile))
    with ThreadPoolExecutor(1) as bell:
        rung = bell.submit(ring)
        with pytest.raises(OutOfTime):
            mine.refresh()
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        rung.result()
    tokens.gate.set()
    assert mine.refresh(10)
    assert len(tokens.requests) == 1


START = threading.Thread.start


def interrupted(refreshes: list[threading.Thread], *, begins: bool) -> Callable[[threading.Thread], None]:
    """Return a ``Thread.start`` in the middle of which a signal arrives, when the first refresh is started.

    Args:
        refreshes: is given the threads of all refreshes.
        begins: whether that thread has begun by then.
    """

    def start(thread: threading.Thread) -> None:
        is_first = thread.name == "lro-token" and not refreshes
        refreshes.extend([thread] * (thread.name == "lro-token"))
        if begins or not is_first:
            START(thread)
        if is_first:
            signal.raise_signal(signal.SIGALRM)

    return start


def test_signal_in_the_start_of_a_refresh_begins_no_second_one(
    *, keyfile: str, tokens: TokenServer, clock: Clock, alarm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that was started goes on, and whoever comes next waits for it, however long it takes."""
    refreshes: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", interrupted(refreshes, begins=True))
    tokens.gate.clear()
    mine = Tokens(CredentialsConfig(keyfile=keyfile))
    with pytest.raises(OutOfTime):
        mine.refresh(10)
    assert tokens.asked.wait(10)
    clock.ahead = 10 * MAX_START
    refresh = mine._join_refresh()
    tokens.gate.set()
    assert mine.refresh(10) == refresh.result(10)
    assert (len(refreshes), len(tokens.requests)) == (1, 1)


async def test_refresh_whose_thread_never_began_is_begun_anew(
    *, keyfile: str, tokens: TokenServer, clock: Clock, alarm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For some seconds it may still come; then another one is begun, and a thread that comes later does nothing."""
    refreshes: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", interrupted(refreshes, begins=False))
    mine = Tokens(CredentialsConfig(keyfile=keyfile))
    with pytest.raises(OutOfTime):
        mine.refresh(10)
    clock.ahead = MAX_START / 2
    waiting = asyncio.ensure_future(mine.arefresh())
    await asyncio.sleep(0)
    assert (waiting.done(), len(refreshes)) == (False, 1)
    clock.ahead = MAX_START + 1
    assert await mine.arefresh() == mine.headers()
    with pytest.raises(RpcError) as caught:
        await waiting
    assert caught.value.is_transient
    late = refreshes[0]
    START(late)
    late.join(10)
    assert not late.is_alive()
    assert (len(refreshes), len(tokens.requests)) == (2, 1)
    assert mine.headers()


def test_refresh_that_cannot_begin_is_tried_again(
    keyfile: str, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has no thread left may have one later."""

    def full(_: object) -> None:
        raise RuntimeError("can't start new thread")

    mine = Tokens(CredentialsConfig(keyfile=keyfile))
    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", full)
        with pytest.raises(RpcError, match="can't start new thread") as caught:
            mine.refresh(10)
    assert caught.value.is_transient
    assert mine.refresh(10)


def test_a_token_endpoint_that_is_overloaded(keyfile: str, tokens: TokenServer) -> None:
    """Its 503 says nothing about the credentials, however often google-auth has asked."""
    tokens.refusals = [(503, {"error": "temporarily_unavailable"})] * 10
    with pytest.raises(RpcError) as caught:
        Tokens(CredentialsConfig(keyfile=keyfile)).refresh()
    assert caught.value.code is Code.UNAVAILABLE


async def test_a_key_that_was_revoked(
    shell: Shell, config: Callable[..., ChannelConfig], keyfile: str, tokens: TokenServer, guarded: Simulator
) -> None:
    """invalid_grant is for good: a wait ends at once, and the service has not been called."""
    tokens.refusals = [(400, JSON_OF_A_REFUSAL)] * 2
    made = config(keyfile=keyfile)
    error = await refused(shell, made)
    assert all(part in str(error) for part in ("refused by the token endpoint", "invalid_grant"))
    assert not error.is_transient
    async with shell.open(made) as client:
        operation = shell.operation_type.from_name(client, operation_name(f"revoked{time.monotonic_ns()}"))
        with pytest.raises(CredentialsError, match="invalid_grant"):
            await shell.do(operation.wait_with_interval(0.1, timeout=20))
    assert len(tokens.requests) == 2
    assert guarded.calls(name=operation.name) == []
