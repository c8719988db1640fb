"""Token endpoints that answer nonsense: a fault that passes, once for all waits, whatever it does to google-auth."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_lro._transport.credentials import CredentialsConfig
from airflow_provider_lro._transport.tokens import MAX_ANSWER, MAX_HEADER, PAUSE_WITHOUT_TOKEN, Tokens
from airflow_provider_lro.exceptions import Code, CredentialsError, EndpointError, LroError, RpcError
from airflow_provider_lro.operation import AsyncOperation, AsyncOperationsClient
from airflow_provider_lro.simulator import operation_name
from tests.grpc.token_server import TOKEN, running_token_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_lro._transport.channel import ChannelConfig
    from tests.grpc.token_server import Answer, Clock, TokenServer


def token(**changed: Any) -> dict[str, Any]:
    """Return an answer that is right, but for this."""
    return {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer", **changed}


HTML = b"<html>log in at the portal</html>"
NO_TOKEN: dict[str, Answer] = {
    "HTML": (200, HTML, {"content-type": "text/html"}),
    "HTML that says JSON": (200, HTML),
    "cut JSON": (200, json.dumps(token()).encode()[:-9]),
    "null": (200, None),
    "a list": (200, [token()]),
    "a text": (200, "token"),
    "a number": (200, 7),
    "an empty object": (200, {}),
    "an empty body": (200, b""),
    "no UTF-8": (200, b"\xff\xfe\x00"),
    "deep JSON": (200, b"[" * 100_000),
    "no content": (204, b""),
    "a wrong encoding": (200, b"no gzip", {"content-encoding": "gzip"}),
    "too large an answer": (200, b" " * (MAX_ANSWER + 1) + json.dumps(token()).encode()),
    "token: null": (200, token(access_token=None)),
    "token: a number": (200, token(access_token=7)),
    "token: true": (200, token(access_token=True)),
    "token: a list": (200, token(access_token=[TOKEN])),
    "token: an object": (200, token(access_token={"a": 1})),
    "token: empty": (200, token(access_token="")),
    "token: blank": (200, token(access_token="  ")),
    "token: a line end": (200, token(access_token=f"{TOKEN}\n")),
    "token: two lines": (200, token(access_token=f"{TOKEN}\r\nx: y")),
    "token: not ASCII": (200, token(access_token="t\u00f6ken")),
    "token: half a surrogate": (200, token(access_token="\ud800")),
    "token: NUL": (200, token(access_token="a\0b")),
    "token: too large": (200, token(access_token="x" * MAX_HEADER)),
    "expires_in: a text": (200, token(expires_in="soon")),
    "expires_in: empty": (200, token(expires_in="")),
    "expires_in: negative": (200, token(expires_in=-1)),
    "expires_in: 0": (200, token(expires_in=0)),
    "expires_in: NaN": (200, token(expires_in=float("nan"))),
    "expires_in: infinite": (200, token(expires_in=float("inf"))),
    "expires_in: huge": (200, token(expires_in=10**30)),
    "expires_in: huge text": (200, token(expires_in="9" * 5000)),
    "expires_in: a list": (200, token(expires_in=[3600])),
    "expires_in: an object": (200, token(expires_in={})),
}
NOT_ONE: dict[str, Answer] = {
    "not found": (404, HTML),
    "gone": (410, {"error": "gone"}),
    "not allowed": (405, b""),
    "a redirect": (302, b"", {"location": "http://127.0.0.1:1/token"}),
    "a redirect that keeps the request": (307, b"", {"location": "http://127.0.0.1:1/token"}),
}
DOWN: dict[str, Answer] = {"an error without JSON": (500, HTML), "an error that is null": (502, None)}
ALL = {**NO_TOKEN, **NOT_ONE, **DOWN}
LEGAL: dict[str, Answer] = {
    "expires_in: missing": (200, {"access_token": TOKEN}),
    "expires_in: null": (200, token(expires_in=None)),
    "expires_in: as text": (200, token(expires_in="3600")),
    "expires_in: half a second more": (200, token(expires_in=3600.5)),
    "a wrong content type": (200, json.dumps(token()).encode(), {"content-type": "text/plain"}),
    "more than was asked for": (200, token(more={"x": [1] * 100})),
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let google-auth itself try no more than once, as its pauses between tries are seconds."""
    from google.auth import _exponential_backoff

    monkeypatch.setattr(_exponential_backoff, "_DEFAULT_RETRY_TOTAL_ATTEMPTS", 1, raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture(params=["key", "federation", "application default"])
def source(
    request: pytest.FixtureRequest, keyfile: str, tokens: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CredentialsConfig:
    """Return credentials of each flow that asks a token endpoint."""
    if request.param == "key":
        return CredentialsConfig(keyfile=keyfile)
    if request.param == "application default":
        (tmp_path / "key.json").write_text(keyfile)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
        return CredentialsConfig()
    (tmp_path / "subject.jwt").write_text("an identity")
    return CredentialsConfig(config_file=json.dumps(federation(tokens, tmp_path)))


def federation(tokens: TokenServer, path: Path, **more: Any) -> dict[str, Any]:
    (path / "subject.jwt").write_text("an identity")
    return {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/p",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"http://127.0.0.1:{tokens.port}/v1/token",
        "credential_source": {"file": str(path / "subject.jwt")},
        **more,
    }


def failed(tokens: Tokens) -> LroError:
    with pytest.raises(LroError) as caught:
        tokens.refresh(20)
    assert TOKEN not in str(caught.value)
    return caught.value


def test_an_answer_that_is_not_a_token_passes(source: CredentialsConfig, tokens: TokenServer) -> None:
    """Each is told as an outage; after it the same credentials are given a token, and it is the one that is sent."""
    kinds = {
        **dict.fromkeys(NO_TOKEN, RpcError),
        **dict.fromkeys(NOT_ONE, EndpointError),
        **dict.fromkeys(DOWN, RpcError),
    }
    mine = Tokens(source)
    for what, answer in ALL.items():
        mine._failed_until = 0.0
        tokens.always = answer
        error = failed(mine)
        assert (what, type(error), error.code, error.is_transient) == (what, kinds[what], Code.UNAVAILABLE, True)
        assert "to refresh the credentials" in str(error)
    mine._failed_until, tokens.always = 0.0, None
    assert dict(mine.refresh(20))["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("what", LEGAL)
def test_an_answer_that_is_odd_and_can_be_used(source: CredentialsConfig, tokens: TokenServer, what: str) -> None:
    """A token is a token, whatever else is said; but google-auth's federation does without no ``expires_in``."""
    if source.config_file and what in ("expires_in: missing", "expires_in: null"):
        pytest.skip("google-auth takes it for a fault")
    tokens.always = LEGAL[what]
    assert dict(Tokens(source).refresh(20))["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("content", [{"error": "invalid_grant"}, None, [], 7, HTML, b"", {"error": 7}])
def test_a_no_is_for_good(source: CredentialsConfig, tokens: TokenServer, status: int, content: Any) -> None:
    """However it is said."""
    tokens.always = (status, content)
    assert isinstance(failed(Tokens(source)), CredentialsError)


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>", b"null", b"[]", b"{}", b"\xff",
        {"accessToken": None}, {"accessToken": 7}, {"accessToken": "a\nb"}, {"accessToken": ""},
        {"expireTime": None}, {"expireTime": 7}, {"expireTime": "soon"}, {"expireTime": "2001-01-01T00:00:00Z"},
    ],
    ids=str,
)  # fmt: skip
def test_an_impersonation_that_is_answered_with_nonsense(
    keyfile: str, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    """The second of the two answers may be as odd as the first."""
    from google.auth import iam

    with running_token_server() as second:
        monkeypatch.setattr(iam, "_IAM_ENDPOINT", f"http://127.0.0.1:{second.port}/{{}}:generateAccessToken")
        until = datetime.now(tz=UTC) + timedelta(hours=1)
        right = {"accessToken": "impersonated", "expireTime": f"{until:%Y-%m-%dT%H:%M:%SZ}"}
        second.always = (200, answer if isinstance(answer, bytes) else {**right, **answer})
        mine = Tokens(CredentialsConfig(keyfile=keyfile, impersonation_chain=("robot@p",)))
        assert failed(mine).is_transient
        mine._failed_until, second.always = 0.0, (200, right)
        assert dict(mine.refresh(20))["authorization"] == "Bearer impersonated"
        assert second.requests


def test_a_secret_is_not_sent_where_a_redirect_says(source: CredentialsConfig, tokens: TokenServer) -> None:
    """A redirect that keeps the request would give a signed assertion, or an identity, to another host."""
    with running_token_server() as elsewhere:
        tokens.always = (307, b"", {"location": f"http://127.0.0.1:{elsewhere.port}/token"})
        assert failed(Tokens(source)).is_transient
        assert elsewhere.requests == []


def test_what_was_sent_is_not_in_the_error(tokens: TokenServer, keyfile: str, tmp_path: Path) -> None:
    """An endpoint may quote the request: an assertion is good for an hour, a client's secret for longer."""
    secret = "s3cret & more of it"
    quoting = federation(tokens, tmp_path, client_id="me", client_secret=secret)
    user = {
        "type": "external_account_authorized_user",
        "audience": "//iam.googleapis.com/locations/global/workforcePools/p/providers/p",
        "client_id": "me",
        "client_secret": secret,
        "refresh_token": "r3fresh-token",
        "token_url": f"http://127.0.0.1:{tokens.port}/v1/token",
        "token_info_url": f"http://127.0.0.1:{tokens.port}/v1/introspect",
    }
    for config in ({"keyfile": keyfile}, {"config_file": json.dumps(quoting)}, {"config_file": json.dumps(user)}):
        tokens.echoes = True
        text = str(failed(Tokens(CredentialsConfig(**config))))
        assert "***" in text
        sent = [value for form in tokens.requests for name, value in form.items() if name in SECRET_FIELDS]
        assert sent
        assert not [value for value in (*sent, secret, "an identity", "s3cret") if value in text]


SECRET_FIELDS = ("assertion", "subject_token", "client_secret", "refresh_token")


async def test_nonsense_is_one_fault_for_all_waits(
    config: Callable[..., ChannelConfig], keyfile: str, tokens: TokenServer
) -> None:
    """Two hundred waits that poll in turn ask it once a second together, and all end well after it has healed."""
    tokens.always = (200, HTML)
    async with AsyncOperationsClient(config(keyfile=keyfile)) as client:
        names = [operation_name(f"waits{number}", duration=0) for number in range(200)]
        for name in names[:50]:
            with pytest.raises(RpcError, match="no usable token"):
                await client.get_operation(name)
        assert len(tokens.requests) <= 3
        waits = [
            asyncio.ensure_future(AsyncOperation.from_name(client, name).wait_with_interval(0.1, timeout=60))
            for name in names
        ]
        asked = len(tokens.requests)
        while len(tokens.requests) < asked + 2:  # noqa: ASYNC110  (of another thread's)
            await asyncio.sleep(0.05)
        tokens.always = None
        assert len(await asyncio.gather(*waits)) == 200


def test_an_error_without_a_token_is_shared_for_a_second(keyfile: str, tokens: TokenServer, clock: Clock) -> None:
    """Then the next call asks again."""
    tokens.always = (200, None)
    mine = Tokens(CredentialsConfig(keyfile=keyfile))
    errors = {id(failed(mine)) for _ in range(5)}
    assert (len(errors), len(tokens.requests)) == (1, 1)
    clock.ahead += PAUSE_WITHOUT_TOKEN
    tokens.always = None
    assert mine.refresh(20)
