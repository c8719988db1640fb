"""Every form of credentials that a connection can hold: each authenticates, over TLS, where a token is demanded."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_lro.exceptions import CredentialsError, EndpointError
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.hooks._connection import ConnectionSettings, TaskSettings, chain_of
from airflow_provider_lro.simulator import operation_name
from tests.grpc.token_server import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.grpc.token_server import Clock, TokenServer
    from tests.simulator_fixture import Simulator

PREFIX = "extra__google_cloud_platform__"


@pytest.fixture
def subject(tmp_path: Path) -> Path:
    """Write the identity token of a workload."""
    path = tmp_path / "subject.jwt"
    path.write_text("an identity")
    return path


@pytest.fixture
def federation(tokens: TokenServer, subject: Path) -> dict[str, Any]:
    """Return a credential configuration whose token service is on loopback."""
    return {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/p",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"http://127.0.0.1:{tokens.port}/v1/token",
        "credential_source": {"file": str(subject)},
    }


@pytest.fixture
def forms(keyfile: str, key_path: str, federation: dict[str, Any], tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Return each form of a connection that holds credentials."""
    path = tmp_path / "federation.json"
    path.write_text(json.dumps(federation))
    return {
        "token": {"conn_type": "lro", "password": TOKEN},
        "key path": {"conn_type": "lro", "extra": {"key_path": key_path}},
        "key text": {"conn_type": "lro", "extra": {"keyfile_dict": keyfile}},
        "key mapping": {"conn_type": "lro", "extra": {"keyfile_dict": json.loads(keyfile)}},
        "key escaped twice": {"conn_type": "lro", "extra": {"keyfile_dict": keyfile.replace("\\n", "\\\\n")}},
        "federation path": {"conn_type": "lro", "extra": {"credential_config_file": str(path)}},
        "federation text": {"conn_type": "lro", "extra": {"credential_config_file": json.dumps(federation)}},
        "google form": {
            "conn_type": "google_cloud_platform",
            "extra": {"keyfile_dict": keyfile, "project": "p", "num_retries": 5, "scope": "a,b", "key_path": ""},
        },
        "old google form": {
            "conn_type": "google_cloud_platform",
            "extra": {f"{PREFIX}key_path": key_path, f"{PREFIX}project": "p", f"{PREFIX}keyfile_dict": ""},
        },
    }


FORMS = [
    "token",
    "key path",
    "key text",
    "key mapping",
    "key escaped twice",
    "federation path",
    "federation text",
    "google form",
    "old google form",
]


@pytest.fixture
def hook(
    monkeypatch: pytest.MonkeyPatch, guarded: Simulator, trusted: bytes
) -> Callable[..., LongRunningOperationHook]:
    """Return a function from a connection to a hook that uses it for the service that demands a token."""

    def make(connection: dict[str, Any], **task: Any) -> LongRunningOperationHook:
        extra = {
            **connection.get("extra", {}),
            "root_certificates": trusted.decode(),
            "allowed_endpoints": guarded.endpoint,
        }
        monkeypatch.setenv("AIRFLOW_CONN_STORED", json.dumps({**connection, "extra": extra}))
        return LongRunningOperationHook("stored", endpoint=guarded.endpoint, **task)

    return make


def unseen() -> str:
    return operation_name(f"connection{time.monotonic_ns()}")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_authenticates(
    form: str, forms: dict[str, dict[str, Any]], hook: Callable[..., LongRunningOperationHook]
) -> None:
    """The secret in the form is exchanged for a token that the service takes; the connection's type does not matter."""
    with hook(forms[form]) as asked:
        assert not asked.get_operation(unseen()).done


@pytest.mark.parametrize("form", FORMS)
def test_credentials_for_another_client_are_the_same(
    form: str, forms: dict[str, dict[str, Any]], hook: Callable[..., LongRunningOperationHook]
) -> None:
    """A client that is given them calls as whom the polls do, and for the same project's quota."""
    from google.auth.transport.requests import Request

    credentials = hook(forms[form], quota_project_id="payer").get_credentials()
    if not credentials.valid:
        credentials.refresh(Request())
    headers: dict[str, str] = {}
    credentials.before_request(Request(), "POST", "https://h.example", headers)
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["x-goog-user-project"] == "payer"


@pytest.mark.parametrize("extra", [{"insecure": True}, {"is_anonymous": True}], ids=["insecure", "is_anonymous"])
def test_credentials_of_nobody(extra: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """They send nothing; neither the connection nor the hook needs an endpoint for them."""
    monkeypatch.setenv("AIRFLOW_CONN_STORED", json.dumps({"conn_type": "lro", "extra": extra}))
    headers: dict[str, str] = {}
    LongRunningOperationHook("stored").get_credentials().before_request(None, "POST", "https://h.example", headers)
    assert headers == {}


def test_impersonated_credentials_for_another_client(keyfile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain is the task's, else the connection's."""
    extra = {"keyfile_dict": keyfile, "impersonation_chain": "a,b"}
    monkeypatch.setenv("AIRFLOW_CONN_STORED", json.dumps({"conn_type": "google_cloud_platform", "extra": extra}))
    for task, chain in ({}, ("b", ["a"])), ({"impersonation_chain": ["c", "d"]}, ("d", ["c"])):
        credentials: Any = LongRunningOperationHook("stored", **task).get_credentials()
        assert (credentials._target_principal, credentials._delegates) == chain


async def test_a_trigger_authenticates_with_the_same(
    forms: dict[str, dict[str, Any]], hook: Callable[..., LongRunningOperationHook]
) -> None:
    """The async client of the triggerer takes each form, too."""
    for number, form in enumerate(FORMS):
        asked = hook(forms[form])
        asked.lro_conn_id = f"stored{number}"  # a name of its own, as what is read of a connection is shared
        with pytest.MonkeyPatch.context() as patch:
            import os

            patch.setenv(f"AIRFLOW_CONN_STORED{number}", os.environ["AIRFLOW_CONN_STORED"])
            async with asked.async_client() as client:
                assert not (await client.get_operation(unseen())).done


@pytest.mark.parametrize(
    ("on_task", "in_connection"),
    [(None, "a@p, b@p"), ("a@p,b@p", None), (["a@p", "b@p"], "c@p"), (("a@p", "b@p"), None)],
)
def test_impersonation_chain_of_task_or_connection(on_task: Any, in_connection: str | None) -> None:
    """Text, text with commas or a sequence; the task goes before the connection, the last account is the one."""
    settings = ConnectionSettings(host="h", extra={"impersonation_chain": in_connection})
    config = settings.channel_config(TaskSettings(impersonation_chain=on_task)).credentials
    assert config.impersonation_chain == ("a@p", "b@p")
    assert config.explicit


def test_impersonated_credentials_name_principal_and_delegates(keyfile: str) -> None:
    """google-auth is told who is to be impersonated, through whom, and for which scopes."""
    settings = ConnectionSettings(
        host="h", extra={"keyfile_dict": keyfile, "scope": "s", "impersonation_chain": "a,b,c"}
    )
    credentials: Any = settings.channel_config(TaskSettings()).credentials.load()
    assert (credentials._target_principal, credentials._delegates, credentials._target_scopes) == (
        "c",
        ["a", "b"],
        ["s"],
    )


@pytest.mark.parametrize("nonsense", [7, {"a": 1}, [1], b"x"])
def test_a_value_that_is_not_a_chain(nonsense: Any) -> None:
    """It is refused with what would do."""
    with pytest.raises(CredentialsError, match=r"impersonation_chain=.*, but it must be"):
        chain_of(nonsense)


@pytest.mark.parametrize("stands", ["task", "connection"])
def test_quota_project(
    stands: str,
    forms: dict[str, dict[str, Any]],
    hook: Callable[..., LongRunningOperationHook],
    guarded: Simulator,
) -> None:
    """It is sent as x-goog-user-project, also beside a bearer token."""
    for form in ("token", "key text"):
        connection = forms[form]
        if stands == "connection":
            connection = {**connection, "extra": {**connection.get("extra", {}), "quota_project_id": "payer"}}
        name = unseen()
        with hook(connection, **({"quota_project_id": "payer"} if stands == "task" else {})) as asked:
            asked.get_operation(name)
        (call,) = guarded.calls("GetOperation", name)
        assert call["headers"]["x-goog-user-project"] == "payer"


@pytest.mark.parametrize("project", [5, False, ["payer"], "payer\nx: y", "\u017bubr", "\ud800"])
def test_a_value_that_is_not_a_quota_project(project: Any) -> None:
    """It is refused, as gRPC would take it for an outage, and the wait would poll to its deadline."""
    settings = ConnectionSettings(host="a.example")
    for ask in (settings.channel_config, lambda task: list(settings.channel_configs(task, ["operations/o"]))):
        with pytest.raises(CredentialsError, match="quota_project_id"):
            ask(TaskSettings(quota_project_id=project))
    with pytest.raises((CredentialsError, EndpointError), match="quota_project_id"):
        ConnectionSettings(host="a.example", extra={"quota_project_id": project}).channel_config(TaskSettings())


def test_a_quota_project_is_sent_without_what_surrounds_it() -> None:
    """As whoever pastes it does not see that."""
    for text, project in ((" payer\n", "payer"), (" ", None)):
        config = ConnectionSettings(host="a.example").channel_config(TaskSettings(quota_project_id=text))
        assert config.credentials.quota_project_id == project


@pytest.mark.parametrize("endpoint", [5, True, ["a.example"], b"a.example"])
def test_an_endpoint_of_a_task_that_is_not_text(endpoint: Any) -> None:
    """The error names the argument."""
    settings = ConnectionSettings(host="a.example", extra={"universe_domain": "b.example"})
    with pytest.raises(EndpointError, match=r"endpoint=.*, but it must be None or a text"):
        settings.channel_config(TaskSettings(endpoint=endpoint))
    with pytest.raises(EndpointError, match=r"endpoint=.*, but it must be None or a text"):
        list(settings.channel_configs(TaskSettings(endpoint=endpoint), ["operations/o"]))


def test_universe_domain_takes_the_place_of_googleapis() -> None:
    """Only in hosts that end in googleapis.com, and before the location is filled in."""
    settings = ConnectionSettings(host="{location}-run.googleapis.com:8443", extra={"universe_domain": "example.cloud"})
    name = "projects/p/locations/eu/operations/o"
    assert settings.channel_config(TaskSettings(), name=name).target == "eu-run.example.cloud:8443"
    own = ConnectionSettings(host="lro.example.org", extra={"universe_domain": "example.cloud"})
    for anyone in (None, "", "operations/o"):  # no location is asked for, so no name need have one
        assert own.channel_config(TaskSettings(), name=anyone).target == "lro.example.org:443"


@pytest.mark.parametrize(
    "extra",
    [
        {"key_secret_name": "airflow-key", "key_secret_project_id": "p"},
        {"idp_issuer_url": "https://idp.example", "client_id": "c", "client_secret": "c4n4ry"},
    ],
)
def test_what_only_the_google_provider_can_do_says_what_to_install(
    extra: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the error names the extras and the package, and no secret."""
    monkeypatch.setitem(sys.modules, "airflow.providers.google.cloud.utils.credentials_provider", None)
    config = ConnectionSettings(conn_id="mine", host="h", extra=extra).channel_config(TaskSettings()).credentials
    with pytest.raises(CredentialsError, match="install apache-airflow-providers-google") as caught:
        config.load()
    assert next(iter(extra)) in str(caught.value)
    assert "c4n4ry" not in str(caught.value) + repr(config)


@pytest.mark.parametrize("content", ["{}", '{"type": "external_account"}', "/no/such/file", "[1]"])
def test_a_text_that_is_not_a_configuration(content: str) -> None:
    """It is refused for good, without quoting it."""
    config = ConnectionSettings(host="h", extra={"credential_config_file": content}).channel_config(TaskSettings())
    with pytest.raises(CredentialsError, match="credential_config_file"):
        config.credentials.load()


def test_a_revoked_key_names_connection_and_cause(
    forms: dict[str, dict[str, Any]], hook: Callable[..., LongRunningOperationHook], tokens: TokenServer
) -> None:
    """Whoever reads the log knows which connection to mend, and why."""
    tokens.refusals = [(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})]
    with hook(forms["key text"]) as asked, pytest.raises(CredentialsError, match=r"'stored'.*invalid_grant"):
        asked.get_operation(unseen())


@pytest.mark.parametrize(
    ("status", "permanent"), [(400, True), (401, True), (403, True), (408, False), (429, False), (503, False)]
)
def test_the_status_of_the_token_service_decides(
    federation: dict[str, Any], tokens: TokenServer, status: int, permanent: bool
) -> None:
    """google-auth marks few of its errors as passing; a no is for good and an overload is not, in every flow."""
    from airflow_provider_lro._transport.tokens import Tokens
    from airflow_provider_lro.exceptions import RpcError

    tokens.refusals = [(status, {"error": "said no"})] * 9
    settings = ConnectionSettings(host="h", extra={"credential_config_file": json.dumps(federation)})
    with pytest.raises(CredentialsError if permanent else RpcError):
        Tokens(settings.channel_config(TaskSettings()).credentials).refresh()


async def test_two_hundred_waits_over_an_expiry_share_one_refresh(
    *,
    forms: dict[str, dict[str, Any]],
    hook: Callable[..., LongRunningOperationHook],
    tokens: TokenServer,
    clock: Clock,
) -> None:
    """While one call fetches the next token, all others go on with the one that is still valid."""
    name = operation_name("shared", outcome="never")
    asked = hook(forms["key text"])
    async with asked.async_client() as client:
        await client.get_operation(name)
        clock.ahead = tokens.seconds - 60.0
        tokens.gate.clear()
        for _ in range(4):
            polls = await asyncio.gather(*(client.get_operation(name) for _ in range(200)))
            assert not any(poll.done for poll in polls)
        tokens.gate.set()
        clock.ahead = tokens.seconds + 60.0
        await asyncio.gather(*(client.get_operation(name) for _ in range(200)))
    assert len(tokens.requests) == 2
