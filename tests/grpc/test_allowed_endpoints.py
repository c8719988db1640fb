"""Where a task may have the credentials of a connection sent to, and extras of a connection that cannot be right."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from airflow.triggers import base

from airflow_provider_lro.exceptions import EndpointError, LroError
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.hooks._connection import KNOWN_EXTRAS, ConnectionSettings, TaskSettings
from airflow_provider_lro.triggers import LongRunningOperationTrigger
from tests.grpc.token_server import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    import trustme

    from tests.grpc.conftest import FakeServer

NAME = "projects/p/locations/eu/operations/o"


def target(endpoint: str | None, host: str | None = "lro.example.org", *, port: int | None = None, **extra: Any) -> str:
    """Return where a task that names this endpoint has the connection's token sent to."""
    settings = ConnectionSettings(conn_id="mine", host=host, port=port, password="secret-token", extra=extra)
    found: str = settings.channel_config(TaskSettings(endpoint=endpoint), name=NAME).target
    return found


ALLOWED = [
    # endpoint of the task, host of the connection, its allowed endpoints
    (None, "lro.example.org", None),
    ("", "lro.example.org", None),
    ("lro.example.org", "lro.example.org", None),
    ("LRO.Example.ORG:443", "lro.example.org", None),
    ("lro.example.org.", "lro.example.org", None),
    ("eu-lro.example.org", "{location}-lro.example.org", None),
    ("{location}-lro.example.org", "{location}-lro.example.org", None),
    ("lro.example.org:8443", "lro.example.org:8443", None),
    ("[::1]:443", "::1", None),
    ("[0:0::1]", "[::1]", None),
    ("dns:///lro.example.org", "dns:///lro.example.org", None),
    ("redis.googleapis.com", None, None),
    ("us-central1-aiplatform.googleapis.com:443", None, None),
    ("a.b.c.googleapis.com", None, ""),
    ("REDIS.GoogleApis.com.", None, []),
    ("{location}-run.googleapis.com", None, None),
    ("a.example", None, "b.example, a.example"),
    ("a.example", None, ["b.example", " a.example "]),
    ("x.y.a.example", None, "*.a.example"),
    ("x.a.example", None, "*.A.example."),
    ("a.x.y.example", None, "a.*.example"),
    ("a.example:7", None, "a.example:*"),
    ("x.a.example:7", None, "*.a.example:*"),
    ("x.a.example:7", None, "*.a.example:7"),
    ("eu-a.example", None, "{location}-a.example"),
    ("anything.example", None, "*"),
    ("10.1.2.3:7", None, "10.1.2.3:7"),
    ("[::1]:7", None, "[::1]:*"),
    ("unix:/run/lro.sock", None, ["unix:/run/lro.sock"]),
    ("ipv4:10.0.0.1:80,10.0.0.2:80", None, ["ipv4:10.0.0.1:80,10.0.0.2:80"]),
]
REFUSED = [
    ("evil.example", "lro.example.org", None),
    ("lro.example.org:8443", "lro.example.org", None),
    ("lro.example.org", "lro.example.org:8443", None),
    ("x.lro.example.org", "lro.example.org", None),
    ("example.org", "lro.example.org", None),
    ("evil-x.example.org", "{location}.lro.example.org", None),
    ("eu.evil-lro.example.org", "{location}-lro.example.org", None),
    ("-lro.example.org", "{location}-lro.example.org", None),
    ("googleapis.com", None, None),
    ("evilgoogleapis.com", None, None),
    ("redis.googleapis.com:8443", None, None),
    ("redis.googleapis.com.evil.example", None, None),
    ("redis.googleapis.com-evil.example", None, None),
    (".googleapis.com", None, None),
    ("a..googleapis.com", None, None),
    ("redis.googleapis.com..", None, None),
    ("evil.example%2f.googleapis.com", None, None),
    ("evil.example%3a443%2f.googleapis.com", None, None),
    ("evil.example\\.googleapis.com", None, None),
    ("evil.example;.googleapis.com", None, None),
    ("evil.example,redis.googleapis.com", None, None),
    ("evil.example&.googleapis.com", None, None),
    ("redis.g\u043e\u043egleapis.com", None, None),
    ("redis.googleapis\u3002com", None, None),
    ("redis\uff0egoogleapis.com", None, None),
    ("xn--ggleapis-c2a.com", None, None),
    ("boo\u212a.example", None, "book.example"),
    ("{location}.evil.example", None, None),
    ("dns:redis.googleapis.com", None, None),
    ("dns:///redis.googleapis.com", None, None),
    ("dns://evil.example/redis.googleapis.com", None, None),
    ("DNS:evil.example", None, "*"),
    ("unix:/tmp/evil.googleapis.com", None, None),
    ("unix:443", None, "*"),
    ("UNIX:443", None, "*:*"),
    ("ipv4:10.0.0.1:443", None, "10.0.0.1"),
    ("ipv6:[::1]:443", None, "[::1]"),
    ("xds:///redis.googleapis.com", None, None),
    ("google-c2p:///redis.googleapis.com", None, None),
    ("127.0.0.1", None, None),
    ("[::1]", None, "*"),
    ("[::ffff:10.0.0.1]", None, "10.0.0.1"),
    ("2130706433", None, None),
    ("0x7f.0.0.1", None, "127.0.0.1"),
    ("redis.googleapis.com", None, "a.example"),
    ("a.example", None, "*.a.example"),
    ("xa.example", None, "*.example.org, a.example"),
    ("a.example:7", None, "a.example"),
    ("a.example:7", None, "a.example:70"),
    ("x.y.example", None, "x.*.y.example"),
    ("a-example", None, "a.example"),
    ("eu.x-a.example", None, "{location}-a.example"),
]
NO_ENDPOINT = [
    "evil.example@redis.googleapis.com",
    "user:password@redis.googleapis.com",
    "redis.googleapis.com:443@evil.example",
    "redis.googleapis.com#.evil.example",
    "evil.example/.googleapis.com",
    "evil.example?.googleapis.com",
    "https://evil.example/.googleapis.com",
    "evil.example\n.googleapis.com",
    "evil.example\t.googleapis.com",
    "evil.example .googleapis.com",
    "evil.example\0.googleapis.com:x",
    "evil.example:443:redis.googleapis.com",
    "[evil.example].googleapis.com",
    "evil.example:\u0664\u0664\u0663",
]  # fmt: skip


@pytest.mark.parametrize(("endpoint", "host", "allowed"), ALLOWED, ids=repr)
def test_an_endpoint_that_is_allowed(endpoint: str | None, host: str | None, allowed: Any) -> None:
    """The connection's own, and those that its extra allows; by default those of Google."""
    assert target(endpoint, host, allowed_endpoints=allowed)


@pytest.mark.parametrize(("endpoint", "host", "allowed"), REFUSED, ids=repr)
def test_an_endpoint_that_is_refused(endpoint: str, host: str | None, allowed: Any) -> None:
    """No spelling of another host, and of what is not a host, passes for one that is allowed."""
    with pytest.raises(EndpointError, match=r"^the credentials of connection 'mine' are not sent to"):
        target(endpoint, host, allowed_endpoints=allowed)


@pytest.mark.parametrize("endpoint", NO_ENDPOINT)
def test_an_endpoint_that_is_none(endpoint: str) -> None:
    """A user before the host, a path behind it and other tricks are refused for what they are."""
    with pytest.raises(EndpointError):
        target(endpoint)


@pytest.mark.parametrize(("endpoint", "host", "allowed"), [case for case in REFUSED if case[0].count(":") < 2][:20])
def test_the_line_that_the_error_gives_is_the_one_that_helps(endpoint: str, host: str | None, allowed: Any) -> None:
    """Whoever puts it into the extra has the endpoint, and keeps what was allowed before."""
    with pytest.raises(EndpointError) as caught:
        target(endpoint, host, allowed_endpoints=allowed)
    line = str(caught.value).partition("put into the connection's extra: ")[2]
    extra = json.loads(f"{{{line}}}")
    with suppress(EndpointError):  # some are not endpoints at all, which is said now
        assert target(endpoint, host, **extra)
    assert target("redis.googleapis.com", host, **extra) or allowed


def test_another_universe_takes_the_place_of_googles() -> None:
    """An endpoint of Google's is one of the universe's then."""
    assert target("redis.googleapis.com", None, universe_domain="apis.example") == "redis.apis.example:443"
    assert target("redis.apis.example", None, universe_domain=".apis.example.") == "redis.apis.example:443"
    for endpoint in ("dns:///redis.googleapis.com", "apis.example", "redis.apis.example.evil.example"):
        with pytest.raises(EndpointError, match="not among its endpoints"):
            target(endpoint, None, universe_domain="apis.example")


@pytest.mark.parametrize(
    "wrong", ["*a.example", "a*", "https://a.example", "a b", "a:x", 5, {"a": 1}, [5], True, "a@b"]
)
def test_a_value_that_does_not_allow_anything(wrong: Any) -> None:
    """It is refused, also where no task names an endpoint: else it would be found out late."""
    for endpoint in (None, "redis.googleapis.com"):
        with pytest.raises(EndpointError, match=r"^allowed_endpoints"):
            target(endpoint, allowed_endpoints=wrong)


@pytest.mark.parametrize(
    ("extra", "free"),
    [
        ({"insecure": True}, True),
        ({"is_anonymous": True}, True),
        ({"is_anonymous": True, "headers": {"x-goog-request-params": "a=b"}}, True),
        ({"is_anonymous": True, "headers": {"x-goog-api-key": "secret"}}, False),
        ({"headers": {"authorization": "Bearer secret"}}, False),
        ({"key_path": "/k.json"}, False),
        ({}, False),
    ],
)
def test_who_sends_no_secret_is_free(extra: dict[str, Any], free: bool) -> None:
    """Application default credentials are a secret, too, also without a connection."""
    for settings in (ConnectionSettings(conn_id="mine", host="h", extra=extra), ConnectionSettings(extra=extra)):
        task = TaskSettings(endpoint="evil.example")
        if free:
            assert settings.channel_config(task).target == "evil.example:443"
        else:
            with pytest.raises(EndpointError, match="are not sent to"):
                settings.channel_config(task)


async def test_no_process_sends_a_token_elsewhere(
    serve: Callable[..., FakeServer], leaf: trustme.LeafCert, trusted: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a worker, nor the triggerer by a row or a watcher: none has a connection to that server."""
    fake = serve(tls=leaf)
    stored = {"conn_type": "lro", "host": "lro.example.org", "password": TOKEN}
    extra = {"root_certificates": trusted.decode()}
    monkeypatch.setenv("AIRFLOW_CONN_ELSEWHERE", json.dumps({**stored, "extra": extra}))
    where = {"lro_conn_id": "elsewhere", "endpoint": fake.endpoint}
    hook = LongRunningOperationHook(**where)
    trigger = LongRunningOperationTrigger(operation_name=NAME, **where)
    for ask in (hook.get_conn, hook.check, hook.get_credentials, lambda: hook.channels([NAME])):
        with pytest.raises(EndpointError, match="are not sent to"):
            ask()
    waits: list[Any] = [trigger._make_group, lambda: hook.async_channels([NAME])]
    if hasattr(base, "BaseEventTrigger"):
        from airflow_provider_lro.assets import LongRunningOperationEventTrigger

        waits.append(LongRunningOperationEventTrigger(parent="projects/p", **where)._configure)
    for wait in waits:
        with pytest.raises(EndpointError, match="are not sent to"):
            await wait()
    assert fake.calls == []


# ── extras of wrong types ──

ODD: list[Any] = [
    5, 0, -1, 1.5, True, False, 10**30, math.inf, -math.inf, math.nan, "x", " ", "a b", "\n", "\0", "\ud800", "\u00e9",
    "~nosuchuser/x", "[" * 100_000, "{", "Infinity", "NaN", "true", [], [5], [None], [["a"]], ["a", 5], {}, {"a": 1},
    {"a": {"b": [None]}}, {"a": "\ud800"},
]  # fmt: skip


@pytest.mark.parametrize("extra", [*KNOWN_EXTRAS, "unknown"])
def test_an_extra_of_any_type(extra: str) -> None:
    """It is taken, or refused by an error of ours that names it; never by one that nobody expects."""
    for value in ODD:
        settings = ConnectionSettings(conn_id="mine", host="h.example", extra={extra: value})
        settings.secrets()
        list(settings.remarks())
        try:
            config = settings.channel_config(TaskSettings(), name=NAME)
        except LroError as error:
            assert extra in str(error), value  # noqa: PT017  (most values are right)
        else:
            if config.credentials.explicit:
                with suppress(LroError):
                    config.credentials.load()


@pytest.mark.parametrize(
    ("extra", "value"),
    [
        ("scope", [5]), ("scope", 5), ("scope", {"a": "b"}), ("scope", True),
        ("max_message_mb", math.inf), ("max_message_mb", math.nan), ("max_message_mb", True), ("max_message_mb", 1.5),
        ("max_polls_per_second", math.inf), ("max_polls_per_second", math.nan), ("max_polls_per_second", True),
        ("authority", "a b"), ("universe_domain", "a/b"), ("root_certificates", "~nosuchuser/x"),
        ("client_key", "\ud800"), ("headers", "[" * 100_000), ("insecure", [True]), ("key_path", {"a": 1}),
    ],
)  # fmt: skip
def test_an_extra_that_is_refused(extra: str, value: Any) -> None:
    """The text names it."""
    with pytest.raises(LroError, match=extra):
        ConnectionSettings(conn_id="mine", host="h.example", extra={extra: value}).channel_config(TaskSettings())
