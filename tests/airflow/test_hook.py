"""The hook: from a connection to a channel, and what "Test connection" says."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_lro import hooks
from airflow_provider_lro._transport.channel import open_channels
from airflow_provider_lro.exceptions import Code, CredentialsError, EndpointError, OperationFailed
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.hooks._connection import ConnectionSettings
from airflow_provider_lro.operation import Operation
from tests.simulator_fixture import running_simulator
from tests.versions import BaseHook

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.simulator_fixture import Simulator


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Callable[..., LongRunningOperationHook]:
    """Store a connection, and return a hook that uses it."""

    def make(**connection: Any) -> LongRunningOperationHook:
        monkeypatch.setenv("AIRFLOW_CONN_STORED", json.dumps({"conn_type": "lro", **connection}))
        return LongRunningOperationHook("stored")

    return make


@pytest.mark.parametrize(
    ("connection", "target"),
    [
        ({"host": "a.example"}, "a.example:443"),
        ({"host": "a.example:8443"}, "a.example:8443"),
        ({"host": "a.example", "port": 8443}, "a.example:8443"),
        ({"host": "{location}-a.example"}, "us-east1-a.example:443"),
        ({"host": "::1", "port": 5}, "[::1]:5"),
        ({"host": "unix:/run/lro.sock"}, "unix:/run/lro.sock"),
    ],
)
def test_endpoint_of_the_connection(
    store: Callable[..., LongRunningOperationHook], connection: dict[str, Any], target: str
) -> None:
    """Host and port make the endpoint; the operation's name fills in the location."""
    with store(**connection, extra={"insecure": True}) as hook:
        assert hook.get_conn("projects/p/locations/us-east1/operations/o").config.target == target


def test_endpoint_of_the_task_goes_before_the_connections(simulator: Simulator) -> None:
    """endpoint= on the task wins, and the rest of the connection still applies."""
    with LongRunningOperationHook(endpoint=f"localhost:{simulator.port}") as hook:
        config = hook.get_conn().config
    assert config.target == f"localhost:{simulator.port}"
    assert config.insecure


@pytest.mark.parametrize(
    ("connection", "error", "complaint"),
    [
        ({}, EndpointError, "no endpoint"),
        ({"host": "https://a.example/v1"}, EndpointError, "is a URL"),
        ({"host": "a.example", "port": 70000}, EndpointError, "70000"),
        ({"host": "a.example", "extra": {"insecure": "maybe"}}, EndpointError, "insecure.*'maybe'"),
        ({"host": "a.example", "extra": {"max_message_mb": "big"}}, EndpointError, "max_message_mb.*'big'"),
        ({"host": "a.example", "extra": {"max_message_mb": 4096}}, EndpointError, "max_message_mb.*2047"),
        ({"host": "a.example", "extra": {"max_triggerer_message_mb": 0}}, EndpointError, "max_triggerer_message.*2047"),
        ({"host": "a.example", "extra": {"max_triggerer_pages": 0}}, EndpointError, "max_triggerer_pages=0.*above 0"),
        ({"host": "a.example", "extra": {"root_certificates": "/no/such"}}, EndpointError, "root_certificates"),
        (
            {"host": "a.example", "extra": {"client_key": "-----BEGIN x"}},
            EndpointError,
            "client_key is given, but .* go together",
        ),
        ({"host": "{location}-a.example"}, EndpointError, "location"),
        ({"host": "a.example", "password": "t", "extra": {"insecure": True}}, CredentialsError, "unencrypted"),
        ({"host": "a.example", "password": "t", "extra": {"key_path": "/k"}}, CredentialsError, "several kinds"),
    ],
)
def test_connection_that_cannot_be_right_says_why(
    store: Callable[..., LongRunningOperationHook], connection: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    """Each mistake in a connection is named before anything is sent."""
    with pytest.raises(error, match=complaint), store(**connection) as hook:
        hook.get_conn("operations/x")


def test_booleans_may_be_text(store: Callable[..., LongRunningOperationHook]) -> None:
    """A connection URI can only give text where JSON gives a boolean."""
    for text, plaintext in (("true", True), ("1", True), ("False", False), ("no", False), ("", False)):
        with store(host="a.example", extra={"insecure": text, "is_anonymous": True}) as hook:
            assert hook.get_conn().config.insecure is plaintext


@pytest.mark.parametrize(
    ("extra", "stored", "limit"),
    [
        ("max_polls_per_second", 5, 5.0),
        ("max_polls_per_second", "0.5", 0.5),
        ("max_polls_per_second", None, None),
        ("max_triggerer_pages", 3, 3),
        ("max_triggerer_pages", "20", 20),
        ("max_triggerer_pages", None, 1000),
    ],
)
async def test_limit_of_the_connection_goes_to_its_channels(
    store: Callable[..., LongRunningOperationHook], extra: str, stored: Any, limit: float | None
) -> None:
    """A limit in the extra holds for every wait, on a worker and in a triggerer, whatever the task."""
    hook = store(host="a.example", extra={"insecure": True, extra: stored})
    with hook:
        assert getattr(hook.get_conn("operations/x").config, extra) == limit
    for endpoint in (None, "b.example"):
        hook = LongRunningOperationHook("stored", endpoint=endpoint)
        for channel in (*hook.channels(["operations/x"]), *await hook.async_channels(["operations/x"])):
            assert getattr(channel, extra) == limit


@pytest.mark.parametrize(
    ("uri", "target", "insecure", "token"),
    [
        ("lro://127.0.0.1:50051/?insecure=true", "127.0.0.1:50051", True, None),
        ("lro://:ya29.token@a.example", "a.example:443", False, "ya29.token"),
    ],
)
def test_connection_as_uri(
    monkeypatch: pytest.MonkeyPatch, uri: str, target: str, insecure: bool, token: str | None
) -> None:
    """The URIs of the documentation mean what it says."""
    monkeypatch.setenv("AIRFLOW_CONN_STORED", uri)
    with LongRunningOperationHook("stored") as hook:
        config = hook.get_conn().config
    assert (config.target, config.insecure, config.credentials.token) == (target, insecure, token)


def test_missing_connection_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is asked for by name must be stored; so must the default without an endpoint."""
    for asked in (LongRunningOperationHook("nowhere", endpoint="a.example"), LongRunningOperationHook("nowhere")):
        with pytest.raises(EndpointError, match=r"'nowhere' is not stored; add it") as raised:
            asked.get_conn()
        assert "correct the id" in str(raised.value)
        assert "endpoint=" not in str(raised.value)  # which would not help
    monkeypatch.delenv("AIRFLOW_CONN_LRO_DEFAULT")
    with pytest.raises(EndpointError, match=r"'lro_default' is not stored; add it, .* or give the task endpoint="):
        LongRunningOperationHook().get_conn()


def test_default_connection_need_not_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """With endpoint= on the task and no lro_default, TLS and application default credentials apply."""
    monkeypatch.delenv("AIRFLOW_CONN_LRO_DEFAULT")
    with LongRunningOperationHook(endpoint="a.googleapis.com") as hook:
        config = hook.get_conn().config
    assert (config.target, config.insecure, config.credentials.explicit, config.credentials.anonymous) == (
        "a.googleapis.com:443",
        False,
        False,
        False,
    )
    with pytest.raises(EndpointError, match="not stored"):
        LongRunningOperationHook().get_conn()


def test_google_connection_needs_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection of the Google provider has no endpoint of its own."""
    monkeypatch.setenv("AIRFLOW_CONN_GCP", json.dumps({"conn_type": "google_cloud_platform", "host": "ignored"}))
    with pytest.raises(EndpointError, match="no endpoint"):
        LongRunningOperationHook("gcp").get_conn()
    with LongRunningOperationHook("gcp", endpoint="run.googleapis.com") as hook:
        assert hook.get_conn().config.target == "run.googleapis.com:443"


def test_secrets_are_in_no_repr(store: Callable[..., LongRunningOperationHook]) -> None:
    """A channel's configuration can be logged."""
    with store(host="a.example", password="canary-token") as hook:
        assert "canary" not in repr(hook.get_conn().config) + repr(vars(hook))


@pytest.mark.parametrize("extra", ["keyfile_dict", "key_path", "key_secret_name"])
def test_a_key_is_secret_wherever_it_stands(extra: str) -> None:
    """Airflow's masker gets to know it, whole and its private part, also where a path or a name belongs."""
    key = json.dumps({"type": "service_account", "private_key": "canary"})
    assert set(ConnectionSettings(extra={extra: key}).secrets()) == {key, "canary"}
    assert ConnectionSettings(extra={"key_path": "/keys/a.json", "key_secret_name": "a"}).secrets() == []


NESTED = {
    "type": "impersonated_service_account",
    "service_account_impersonation_url": "https://iam.example/v1",
    "source_credentials": {"type": "authorized_user", "client_id": "i", "client_secret": "s1", "refresh_token": "s2"},
    "credential_source": {"url": "https://idp.example", "headers": {"Authorization": "s3", "Accept": "text"}},
}
PEM = "-----BEGIN PRIVATE KEY-----\nAAAA\nBBBB\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("as_text", [True, False])
def test_a_secret_is_one_at_any_depth(as_text: bool) -> None:
    """Those of nested credentials, every value for an identity provider, and a PEM also as JSON writes it."""

    def secrets(**extra: Any) -> set[str]:
        stored = {name: json.dumps(value) if as_text else value for name, value in extra.items()}
        return set(ConnectionSettings(extra=stored).secrets())

    assert {"s1", "s2", "s3"} <= secrets(credential_config_file=NESTED)
    assert not {"i", "text"} & secrets(credential_config_file=NESTED)
    assert {"p1", "p2"} <= secrets(idp_extra_parameters={"password": "p1", "more": [{"any": "p2"}]})
    assert {PEM, PEM.replace("\n", "\\n")} <= secrets(keyfile_dict={"private_key": PEM})
    assert {PEM, PEM.replace("\n", "\\n")} <= set(ConnectionSettings(extra={"client_key": PEM}).secrets())
    bearer = {"headers": {"authorization": "Bearer canary-token", "x-goog-request-params": "location=eu"}}
    assert secrets(**bearer) == {"Bearer canary-token", "canary-token"}


def test_methods_of_the_contract(name: Callable[..., str]) -> None:
    """The hook gives operations to poll, lists, cancels, deletes and waits."""
    operation = name(duration=0.2, cancel="ignore")
    with LongRunningOperationHook() as hook:
        assert hook.operation(operation).wait_with_interval(0.1) is not None
        got = hook.get_operation(operation)
        (listed,) = (
            each for each in hook.list_operations(operation.rpartition("/operations/")[0]) if each.name == operation
        )
        for each in (got, listed, hook.wait_operation(operation, 1.0), hook.operation(got.proto)):
            assert isinstance(each, Operation)
            assert (each.name, each.done, each.state.done, each.proto.done) == (operation, True, True, True)
        hook.cancel_operation(operation)
        hook.delete_operation(operation)
        assert open_channels() == 1
    assert open_channels() == 0


def test_get_operation_returns_a_failed_one(name: Callable[..., str]) -> None:
    """Reading an operation that failed is not a failure; asking it for its result is."""
    with LongRunningOperationHook() as hook:
        failed = hook.get_operation(name(duration=0, outcome="fail", code=9))
        assert (failed.done, failed.state.code) == (True, Code.FAILED_PRECONDITION)
        with pytest.raises(OperationFailed):
            failed.poll()


async def test_waits_share_a_channel_and_one_read_of_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand waits that start together read the connection once and open one channel."""
    reads = 0

    def counted(conn_id: str) -> Any:
        nonlocal reads
        reads += 1
        return BaseHook.get_connection(conn_id)

    monkeypatch.setattr(LongRunningOperationHook, "get_connection", staticmethod(counted))
    everybody = asyncio.Barrier(1000)

    async def one() -> int:
        async with LongRunningOperationHook().async_client():
            await everybody.wait()
            return open_channels()

    assert set(await asyncio.gather(*(one() for _ in range(1000)))) == {1}
    assert (reads, open_channels()) == (1, 0)


async def test_failed_read_of_a_connection_is_not_kept(monkeypatch: pytest.MonkeyPatch, simulator: Simulator) -> None:
    """A connection that is added after the first wait failed is found by the next, seconds later."""
    monkeypatch.setattr(hooks, "FAILURE_LIFETIME", 0.0)
    hook = LongRunningOperationHook("late")
    with pytest.raises(EndpointError):
        async with hook.async_client():
            pass
    stored = {"conn_type": "lro", "host": simulator.endpoint, "extra": {"insecure": True}}
    monkeypatch.setenv("AIRFLOW_CONN_LATE", json.dumps(stored))
    async with hook.async_client() as client:
        assert client.config.insecure


async def test_waits_share_that_a_connection_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of waits that look for it again do not ask a secrets backend thousands of times."""
    asked = 0

    def away(_conn_id: str) -> Any:
        nonlocal asked
        asked += 1
        raise ConnectionError("the secrets backend is away")

    monkeypatch.setattr(LongRunningOperationHook, "get_connection", staticmethod(away))
    for _ in range(50):
        with pytest.raises(EndpointError, match=r"'lro_default' cannot be read: ConnectionError: the secrets"):
            await LongRunningOperationHook().async_channels(["operations/x"])
    assert asked == 1


async def test_connection_that_a_worker_has_read_is_not_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A triggerer that does not find the default connection goes on with no other credentials."""
    monkeypatch.delenv("AIRFLOW_CONN_LRO_DEFAULT")
    with pytest.raises(EndpointError, match="'lro_default' is not stored"):
        await LongRunningOperationHook(endpoint="a.example").async_channels(["operations/x"])


@pytest.mark.parametrize(
    "location", ["dns:127.0.0.1:1#", "ipv4:127.0.0.1:1?", "evil.example%2F", "-", "a.b", "A", "", "a_b"]
)
def test_location_of_a_name_cannot_turn_a_call_elsewhere(
    store: Callable[..., LongRunningOperationHook], location: str
) -> None:
    """Whoever writes the operation's name must not choose the host that gets the token."""
    with (
        store(host="{location}-x.googleapis.com", extra={"insecure": True}) as hook,
        pytest.raises(EndpointError, match="location"),
    ):
        hook.get_conn(f"projects/p/locations/{location}/operations/o")


async def test_waits_with_and_without_an_endpoint_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no lro_default stored, the one that has an endpoint works and the other says what it lacks."""
    monkeypatch.delenv("AIRFLOW_CONN_LRO_DEFAULT")

    async def target(endpoint: str | None) -> str:
        async with LongRunningOperationHook(endpoint=endpoint).async_client() as client:
            return str(client.config.target)

    got = await asyncio.gather(target(None), target("a.googleapis.com"), target(None), return_exceptions=True)
    assert [type(each) for each in got] == [EndpointError, str, EndpointError]


async def test_waits_without_a_connection_share_their_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one and the same object, of which thousands of waits need no copy."""
    monkeypatch.delenv("AIRFLOW_CONN_LRO_DEFAULT", raising=False)
    first, second = [
        await LongRunningOperationHook("", endpoint="lro.googleapis.com").async_channels(["operations/x"])
        for _ in range(2)
    ]
    assert first[0] is second[0]


def test_stored_connection_is_remembered_for_the_triggerer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A triggerer that cannot read a connection that is stored must not go on with other credentials."""
    with LongRunningOperationHook(endpoint="a.googleapis.com") as hook:
        hook.get_conn()
        assert hook.stored_conn_id == "lro_default"
    monkeypatch.delenv("AIRFLOW_CONN_LRO_DEFAULT")
    with LongRunningOperationHook(endpoint="a.googleapis.com") as hook:
        hook.get_conn()
        assert hook.stored_conn_id == ""
    with LongRunningOperationHook("", endpoint="a.googleapis.com") as hook:
        assert hook.get_conn().config.target == "a.googleapis.com:443"


class TestTestConnection:
    """The four answers of the connection form's button."""

    def test_reached(self) -> None:
        """A service that answers is reached, although it does not know the operation."""
        with LongRunningOperationHook() as hook:
            assert hook.test_connection()[0] is True
            assert "answers google.longrunning.Operations" in hook.test_connection()[1]

    def test_not_implemented(self, store: Callable[..., LongRunningOperationHook]) -> None:
        """A server without the service is reached, and not what was looked for."""
        with running_simulator("--unimplemented-service") as other:
            hook = store(host=other.endpoint, extra={"insecure": True})
            with hook:
                worked, said = hook.test_connection()
        assert (worked, "does not implement" in said) == (False, True)

    def test_credentials_refused(self, store: Callable[..., LongRunningOperationHook], tmp_path: Path) -> None:
        """Credentials that are refused, or that cannot be used, are told from a failed connection."""
        with (
            running_simulator("--token", "right") as other,
            store(host=other.endpoint, extra={"insecure": True}) as hook,
        ):
            worked, said = hook.test_connection()
        assert (worked, "The credentials do not work" in said) == (False, True)
        key = tmp_path / "key.json"
        key.write_text('{"type": "service_account", "private_key": "canary"}')
        with store(host="a.example", extra={"key_path": str(key)}) as hook:
            worked, said = hook.test_connection()
        assert (worked, "The credentials do not work" in said, "canary" in said) == (False, True, False)

    @pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid", ""])
    def test_cannot_connect(self, store: Callable[..., LongRunningOperationHook], host: str) -> None:
        """A port that refuses, a host that does not exist and no host at all cannot be connected to."""
        with store(host=host, extra={"insecure": True}) as hook:
            worked, said = hook.test_connection()
        assert (worked, said.startswith("Cannot connect")) == (False, True)

    @pytest.mark.parametrize(
        ("extra", "remark"),
        [
            ({"insecure": True}, None),
            ({"insecure": "true", "is_anonymous": "False", "project": "p", "num_retries": 5, "client_id": ""}, None),
            ({"extra__google_cloud_platform__project": "p", "insecure": True}, None),
            ({"insecure": "yes"}, "insecure='yes' should be true or false"),
            ({"insecure": True, "is_anonymous": "0"}, "is_anonymous='0' should be true or false"),
            ({"insecure": True, "is_anonymus": "no"}, "unknown extra 'is_anonymus' (did you mean 'is_anonymous'?)"),
            ({"insecure": True, "colour": "red"}, "unknown extra 'colour'"),
        ],
    )
    def test_extra_that_works_and_is_not_as_it_should_be(
        self, store: Callable[..., LongRunningOperationHook], simulator: Simulator, extra: Any, remark: str | None
    ) -> None:
        """It is told behind the answer, and the texts of a URI are not."""
        with store(host=simulator.endpoint, extra=extra) as hook:
            worked, said = hook.test_connection()
        assert worked
        assert said.partition("; ")[2] == (remark or "")

    def test_misspelt_extra_of_a_connection_that_fails(
        self, store: Callable[..., LongRunningOperationHook], simulator: Simulator
    ) -> None:
        """Without `insecure` the call has TLS: the text says both."""
        with store(host=simulator.endpoint, extra={"inscure": True, "is_anonymous": True}) as hook:
            worked, said = hook.test_connection()
        assert not worked
        assert said.startswith("Cannot connect: ")
        assert said.endswith("; unknown extra 'inscure' (did you mean 'insecure'?)")

    @pytest.mark.parametrize(
        ("key", "is_told"), [("inscure", True), ("instance_name", False), ("location", False), ("project_id", False)]
    )
    def test_extra_of_a_google_connection(
        self, key: str, is_told: bool, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its other hooks have extras that are not known here, so that only a misspelt one is told."""
        stored = {"conn_type": "google_cloud_platform", "extra": {"insecure": True, key: "x"}}
        monkeypatch.setenv("AIRFLOW_CONN_GOOGLE", json.dumps(stored))
        with LongRunningOperationHook("google", endpoint=simulator.endpoint) as hook:
            worked, said = hook.test_connection()
        assert (worked, "unknown extra" in said) == (True, is_told)
