"""What only an installed Google provider can make credentials of: an identity provider's, and a key in Secret Manager.

Here because this is where it is installed (extra ``browser``); no browser takes part. All is real but the services,
which are on loopback. Secret Manager's client is sent there by its own environment: the universe ``localhost:<port>``,
whose ``secretmanager.localhost`` gRPC resolves to loopback, and the authorities that gRPC trusts.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.cloud.secretmanager_v1 import AccessSecretVersionRequest, AccessSecretVersionResponse

from airflow_provider_lro.exceptions import Code, CredentialsError, RpcError
from airflow_provider_lro.hooks import LongRunningOperationHook
from tests.browser.untouched import GOOGLE_FORM
from tests.grpc.conftest import _loopback_only, authority, chain_of, leaf, trusted  # noqa: F401  (fixtures)
from tests.grpc.token_server import TOKEN, guarded, key_path, keyfile, private_key, tokens  # noqa: F401  (fixtures)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import trustme

    from tests.grpc.token_server import TokenServer
    from tests.simulator_fixture import Simulator

pytestmark = [
    # google-auth is about to warn of its function that loads any configuration; the Google provider calls it.
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::DeprecationWarning"),
    pytest.mark.timeout(120),
]

OPERATION = "simulations/outcome=never/operations/google"


# ── client credentials of an identity provider ──


@pytest.fixture
def idp(tokens: TokenServer) -> dict[str, Any]:  # noqa: F811
    """Give the extra of a connection whose identity provider and token service are that server, in this order."""
    tokens.token = lambda number: ("an identity", TOKEN)[number - 1]
    return GOOGLE_FORM | {
        "idp_issuer_url": f"http://127.0.0.1:{tokens.port}/idp",
        "client_id": "a client",
        "client_secret": "c4n4ry",
        "credential_config_file": json.dumps(
            {
                "type": "external_account",
                "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/p",
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": f"http://127.0.0.1:{tokens.port}/sts",
            }
        ),
    }


@pytest.fixture
def hook(
    monkeypatch: pytest.MonkeyPatch,
    guarded: Simulator,  # noqa: F811
    trusted: bytes,  # noqa: F811
) -> Callable[[dict[str, Any]], LongRunningOperationHook]:
    """Give a function from an extra to a hook that uses it for the service that demands a token."""

    def make(extra: dict[str, Any]) -> LongRunningOperationHook:
        connection = {
            "conn_type": "google_cloud_platform",
            "extra": extra | {"root_certificates": trusted.decode()},
        }
        monkeypatch.setenv("AIRFLOW_CONN_GOOGLE", json.dumps(connection))
        return LongRunningOperationHook("google", endpoint=guarded.endpoint)

    return make


@pytest.mark.parametrize("configuration", ["text", "path", "mapping"])
@pytest.mark.parametrize("more", [None, '{"audience": "lro"}', {"audience": "lro"}])
def test_client_credentials_authenticate(
    *,
    configuration: str,
    more: Any,
    idp: dict[str, Any],
    hook: Callable[[dict[str, Any]], LongRunningOperationHook],
    tokens: TokenServer,  # noqa: F811
    tmp_path: Path,
) -> None:
    """The identity that client and secret are given is exchanged for a token that the service takes."""
    text = idp["credential_config_file"]
    path = tmp_path / "configuration.json"
    path.write_text(text)
    written = {"text": text, "path": str(path), "mapping": json.loads(text)}[configuration]
    with hook(idp | {"credential_config_file": written, "idp_extra_parameters": more}) as asked:
        assert not asked.get_operation(OPERATION).done
    for_identity, for_token = tokens.requests
    assert for_identity["grant_type"] == "client_credentials"
    assert (for_identity["client_id"], for_identity["client_secret"]) == ("a client", "c4n4ry")
    assert for_identity.get("audience") == ("lro" if more else None)
    assert for_token["grant_type"] == "urn:ietf:params:oauth:grant-type:token-exchange"
    assert for_token["subject_token"] == "an identity"


async def test_client_credentials_authenticate_in_the_triggerer(
    idp: dict[str, Any], hook: Callable[[dict[str, Any]], LongRunningOperationHook]
) -> None:
    """The async client takes them, too."""
    async with hook(idp).async_client() as client:
        assert not (await client.get_operation(OPERATION)).done


def test_a_client_that_is_refused(
    idp: dict[str, Any],
    hook: Callable[[dict[str, Any]], LongRunningOperationHook],
    tokens: TokenServer,  # noqa: F811
) -> None:
    """It is refused for good, by the connection's name and without its secret."""
    tokens.refusals = [(401, {"error": "invalid_client"})]
    with hook(idp) as asked, pytest.raises(CredentialsError, match=r"'google'.*401") as caught:
        asked.get_operation(OPERATION)
    assert "c4n4ry" not in str(caught.value)


@pytest.mark.parametrize("asked_first", [True, False], ids=["identity provider", "token service"])
@pytest.mark.parametrize("answer", [(503, {}), (429, {}), None], ids=str)
def test_a_service_that_is_down_is_asked_again(
    answer: tuple[int, Any] | None,
    asked_first: bool,
    idp: dict[str, Any],
    hook: Callable[[dict[str, Any]], LongRunningOperationHook],
    tokens: TokenServer,  # noqa: F811
) -> None:
    """An identity provider or a token service that is down or overloaded costs a poll, not the wait."""
    identity = (200, {"access_token": "an identity", "expires_in": 3600})
    # Its transport tries a connection again that was hung up on.
    tokens.refusals = [*([] if asked_first else [identity]), *[answer] * 9]
    with hook(idp) as asked:
        with pytest.raises(RpcError, match=r"token endpoint cannot be reached.*'google'") as caught:
            asked.get_operation(OPERATION)
        assert caught.value.code is Code.UNAVAILABLE
        tokens.refusals.clear()
        tokens.token = lambda number: TOKEN
        assert not asked.get_operation(OPERATION).done


@pytest.mark.parametrize(
    ("mistake", "why"),
    [
        ({"client_id": None}, "idp_issuer_url is given without client_id"),
        ({"client_secret": ""}, "idp_issuer_url is given without client_secret"),
        ({"credential_config_file": None}, "idp_issuer_url is given without credential_config_file"),
        ({"credential_config_file": "/c4n4ry"}, "credential_config_file cannot be read"),
        ({"credential_config_file": '{"type": "c4n4ry"}'}, "credential_config_file is no usable"),
        ({"idp_extra_parameters": "c4n4ry"}, "idp_extra_parameters=…, but it must be"),
        ({"idp_extra_parameters": '["c4n4ry"]'}, "idp_extra_parameters=…, but it must be"),
        ({"idp_extra_parameters": '{"client_id": "c4n4ry"}'}, "idp_extra_parameters=…, but it must be"),
    ],
)
def test_what_no_credentials_can_be_made_of(
    mistake: dict[str, Any],
    why: str,
    idp: dict[str, Any],
    hook: Callable[[dict[str, Any]], LongRunningOperationHook],
    tokens: TokenServer,  # noqa: F811
) -> None:
    """The error names the field to mend and quotes nothing of it; nobody is asked."""
    with hook(idp | mistake) as asked, pytest.raises(CredentialsError, match=why) as caught:
        asked.get_operation(OPERATION)
    assert "c4n4ry" not in str(caught.value)
    assert tokens.requests == []


def test_identities_are_kept_apart_by_their_parameters(
    idp: dict[str, Any],
    hook: Callable[[dict[str, Any]], LongRunningOperationHook],
    tokens: TokenServer,  # noqa: F811
) -> None:
    """Two connections that differ in a parameter alone each send their own identity to the token service."""
    tokens.token = lambda number: ("one", TOKEN, "other", TOKEN)[number - 1]
    for audience in ("one", "other"):
        with hook(idp | {"idp_extra_parameters": json.dumps({"audience": audience})}) as asked:
            asked.get_operation(OPERATION)
    assert [asked["subject_token"] for asked in tokens.requests[1::2]] == ["one", "other"]


# ── a key in Secret Manager ──


@dataclass
class SecretManager(grpc.GenericRpcHandler):
    """Secret Manager on loopback; an answer is the text of a secret, or the code of an error."""

    answers: dict[str, str | grpc.StatusCode] = field(default_factory=dict)
    callers: list[str] = field(default_factory=list)
    port: int = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        assert handler_call_details.method == "/google.cloud.secretmanager.v1.SecretManagerService/AccessSecretVersion"

        def access(request: AccessSecretVersionRequest, context: grpc.ServicerContext) -> AccessSecretVersionResponse:
            self.callers.append(dict(context.invocation_metadata())["authorization"])
            answer = self.answers.get(request.name, grpc.StatusCode.NOT_FOUND)
            if isinstance(answer, grpc.StatusCode):
                context.abort(answer, "said no")
            return AccessSecretVersionResponse(name=request.name, payload={"data": answer.encode()})

        return grpc.unary_unary_rpc_method_handler(
            access,
            request_deserializer=AccessSecretVersionRequest.deserialize,
            response_serializer=AccessSecretVersionResponse.serialize,
        )


@pytest.fixture
def secret_manager(authority: trustme.CA) -> Iterator[SecretManager]:  # noqa: F811
    certificate = authority.issue_cert("secretmanager.localhost")
    fake = SecretManager()
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, handlers=[fake], options=[("grpc.so_reuseport", 0)])
        pair = (certificate.private_key_pem.bytes(), chain_of(certificate))
        fake.port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        server.start()
        yield fake
        server.stop(None).wait()


@pytest.fixture
def ask(
    secret_manager: SecretManager,
    guarded: Simulator,  # noqa: F811
    private_key: str,  # noqa: F811
    trusted: bytes,  # noqa: F811
    tmp_path: Path,
) -> Callable[[dict[str, Any]], str]:
    """Give a function that asks for an operation with a connection as the Google form made it; gives what came of it.

    In a process of its own, as gRPC reads once a process whom to trust.
    """
    (tmp_path / "roots.pem").write_bytes(trusted)
    universe = f"localhost:{secret_manager.port}"
    default = {
        "type": "service_account",
        "project_id": "default-project",
        "private_key_id": "k",
        "private_key": private_key,
        "client_email": "worker@default-project.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": "http://127.0.0.1:1/never-asked",
        "universe_domain": universe,
    }
    (tmp_path / "default.json").write_text(json.dumps(default))
    child = """if True:
        import sys
        from airflow_provider_lro.exceptions import LroError
        from airflow_provider_lro.hooks import LongRunningOperationHook
        with LongRunningOperationHook("google", endpoint=sys.argv[1]) as hook:
            try:
                print("done" if hook.get_operation(sys.argv[2]).done else "running")
            except LroError as error:
                print(type(error).__name__, error)
    """

    def run(extra: dict[str, Any]) -> str:
        env = os.environ | {
            "AIRFLOW_CONN_GOOGLE": json.dumps({"conn_type": "google_cloud_platform", "extra": GOOGLE_FORM | extra}),
            "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "default.json"),
            "GOOGLE_CLOUD_UNIVERSE_DOMAIN": universe,
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(tmp_path / "roots.pem"),
            "GRPC_DNS_RESOLVER": "ares",
        }
        command = [sys.executable, "-c", child, guarded.endpoint, OPERATION]
        ended = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()[-1]

    return run


@pytest.mark.parametrize("project", [None, "another-project"])
def test_a_key_in_secret_manager_authenticates(
    project: str | None,
    ask: Callable[[dict[str, Any]], str],
    secret_manager: SecretManager,
    keyfile: str,  # noqa: F811
    tokens: TokenServer,  # noqa: F811
) -> None:
    """Application default credentials fetch the key, of their own project or a given one, and the key a token."""
    secret = f"projects/{project or 'default-project'}/secrets/airflow-key/versions/latest"
    secret_manager.answers[secret] = keyfile
    assert ask({"key_secret_name": "airflow-key", "key_secret_project_id": project}) == "running"
    assert all(caller.startswith("Bearer ") for caller in secret_manager.callers)
    assert len(secret_manager.callers) == len(tokens.requests) == 1


@pytest.mark.parametrize(
    ("answer", "error", "why"),
    [
        (grpc.StatusCode.NOT_FOUND, "CredentialsError", "Failed getting value of secret airflow-key"),
        (grpc.StatusCode.FAILED_PRECONDITION, "CredentialsError", "'airflow-key' gives no key .FailedPrecondition"),
        (grpc.StatusCode.INTERNAL, "RpcError", "Secret Manager cannot be reached"),
        ("c4n4ry", "CredentialsError", "not valid JSON"),
    ],
)
def test_a_key_that_secret_manager_does_not_give_out(
    answer: str | grpc.StatusCode,
    error: str,
    why: str,
    ask: Callable[[dict[str, Any]], str],
    secret_manager: SecretManager,
) -> None:
    """A secret that is not there or not usable is an error for good; a service that is down is one that passes."""
    secret_manager.answers["projects/p/secrets/airflow-key/versions/latest"] = answer
    came = ask({"key_secret_name": "airflow-key", "key_secret_project_id": "p"})
    assert re.match(f"{error} the credentials of connection 'google': .*{why}", came), came
    assert "c4n4ry" not in came
