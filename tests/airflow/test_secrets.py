"""An audit: no secret of any connection is found in what a real Airflow leaves behind, logging all that it can log."""

from __future__ import annotations

import base64
import json
import re
import secrets
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import struct_pb2

from tests.airflow.running import rows
from tests.grpc.token_server import send_json
from tests.simulator_fixture import running_simulator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from scripts.stack import AirflowStack

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.timeout(480),
    pytest.mark.skipif(
        version("apache-airflow").startswith("2."),
        reason="SQLite allows 2.11 one task at a time: this many take too long",
    ),
]

DAG_ID = "audited"
LOOPBACK = "127.0.0.1"
SHOWN = 40
"""Characters of a secret that count as a leak: its first characters, or those of any line of a PEM body."""

SUCCEED = {"bearer", "service_account", "configuration", "mutual_tls", "cancels", "leaks", "quoted_response"}
FAIL = {
    **dict.fromkeys(("quoted_status", "quoted_status_here", "quoted_error"), "***"),
    "fails": "FAILED_PRECONDITION",
    "refused": "UNAUTHENTICATED",
    "refused_later": "UNAUTHENTICATED",
    "cancel_refused": "UNAUTHENTICATED",
    "invalid_grant": "invalid_grant",
    "invalid_grant_later": "invalid_grant",
    "unusable_key": "is not a usable service-account key",
    "unusable_configuration": "is not a usable credential configuration",
    "unusable_client_key": "client_key",
    "unusable_token": "no header can carry",
    "client_secret": "",  # with or without the Google provider
    "plaintext": "a token is never sent unencrypted",
}
"""Tasks and what their logs must say: an audit of tasks that failed of something else would show nothing."""


# ── secrets, and the search for them ──


def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, kind, serialization.NoEncryption()).decode()


@dataclass
class Canaries:
    """Secrets of this run by the field that they are in."""

    texts: dict[str, str] = field(default_factory=dict)

    def text(self, where: str) -> str:
        return self.add(where, secrets.token_hex(20))

    def add(self, where: str, secret: str) -> str:
        self.texts[where] = secret
        return secret

    def needles(self) -> Iterator[tuple[str, bytes]]:
        """Give what to search for: the beginning of each secret, and of each line of a PEM, as it is and in base64."""
        for where, secret in self.texts.items():
            lines = [line for line in secret.splitlines() if not line.startswith("-----")]
            for piece in {line[:SHOWN].encode() for line in lines if len(line) >= SHOWN}:
                yield where, piece
                for encoded in encodings(piece):
                    yield f"{where}, in base64", encoded


def encodings(piece: bytes) -> set[bytes]:
    """Give what base64 makes of bytes wherever they stand in a longer text, without what their neighbours decide."""
    found = set()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for before in range(3):
            encoded = encode(bytes(before) + piece)
            found.add(encoded[-(-before * 8 // 6) : (before + len(piece)) * 8 // 6])
    return found


LONG_WORDS = re.compile(rb"[A-Za-z0-9+/=_-]{%d,}" % SHOWN)
"""Where alone a needle can be: in words of its own signs that are as long, of which a log has few."""


def search(places: Iterable[tuple[str, bytes]], canaries: Canaries) -> set[tuple[str, str]]:
    """Give (secret, place) for each secret that is in a place."""
    needles = list(canaries.needles())
    assert all(LONG_WORDS.fullmatch(needle) for _, needle in needles)
    words = [(place, b" ".join(LONG_WORDS.findall(content))) for place, content in places]
    return {(where, place) for place, content in words for where, needle in needles if needle in content}


def places(airflow: AirflowStack) -> Iterator[tuple[str, bytes]]:
    """Give all that Airflow left: each file, and the values of each table of its database."""
    for file in airflow.home.rglob("*"):
        if file.is_file():
            yield str(file.relative_to(airflow.home)), file.read_bytes()
    for (table,) in rows(airflow, "select tablename from pg_tables where schemaname = 'public'"):
        values = [value for row in rows(airflow, f'select * from "{table}"') for value in row]  # noqa: S608  (its own)
        yield f"table {table}", b"\n".join(v if isinstance(v, bytes) else str(v).encode() for v in values)


# ── the services ──


@pytest.fixture(scope="module")
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def token_server(canaries: Canaries) -> Iterator[str]:
    """Run a token endpoint: `/token` gives one, `/refused` never does, `/once` only once."""
    token = canaries.text("access token")
    asked: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
            asked[self.path] += 1
            if "assertion" in form:  # whoever has it is that service account, for an hour
                _, _, signature = form["assertion"][0].rpartition(".")
                canaries.add(f"assertion {asked[self.path]} for {self.path}", signature)
            status: int = 200
            content: dict[str, Any] = {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}
            if self.path == "/refused" or (self.path == "/once" and asked[self.path] > 1):
                status, content = 400, {"error": "invalid_grant", "error_description": "Invalid JWT signature."}
            send_json(self, content, status)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://{LOOPBACK}:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


class Echo(grpc.GenericRpcHandler):
    """A service whose operations run for two polls, and then quote the headers of the call where their names say."""

    def __init__(self) -> None:
        self.polls: Counter[str] = Counter()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            self.get, pb.GetOperationRequest.FromString, pb.Operation.SerializeToString
        )

    def get(self, request: pb.GetOperationRequest, context: grpc.ServicerContext) -> pb.Operation:
        self.polls[request.name] += 1
        quoted = json.dumps([[name, str(value)] for name, value in context.invocation_metadata()])
        how = request.name.partition("/")[0]
        operation = pb.Operation(name=request.name, done=self.polls[request.name] > 2)
        operation.metadata.Pack(struct_of(progress=quoted))
        if not operation.done:
            return operation
        if how == "status":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, quoted)
        elif how == "error":
            operation.error.code, operation.error.message = 9, quoted
            operation.error.details.add().Pack(struct_of(headers=quoted))
        else:
            operation.response.Pack(struct_of(headers=quoted))
        return operation


def struct_of(**content: str) -> struct_pb2.Struct:
    message = struct_pb2.Struct()
    message.update(content)
    return message


@pytest.fixture(scope="module")
def echo(authority: trustme.CA) -> Iterator[int]:
    """Run the service that quotes all that it is sent."""
    leaf = authority.issue_cert("localhost", LOOPBACK)
    pair = (leaf.private_key_pem.bytes(), b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    server = grpc.server(ThreadPoolExecutor(8), handlers=[Echo()])
    port = server.add_secure_port(f"{LOOPBACK}:0", grpc.ssl_server_credentials([pair]))
    server.start()
    yield port
    server.stop(None).wait()


@pytest.fixture(scope="module")
def ports(
    canaries: Canaries, authority: trustme.CA, token_server: str, echo: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, int]]:
    """Run the services: two that demand a token each, one that demands a client certificate, one that quotes all."""
    pem = tmp_path_factory.mktemp("pem")
    leaf = authority.issue_cert("localhost", LOOPBACK)
    (pem / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(str(pem / "key.pem"))
    authority.cert_pem.write_to_path(str(pem / "ca.pem"))
    tls = ("--tls-cert", pem / "cert.pem", "--tls-key", pem / "key.pem")
    with (
        running_simulator(*tls, "--token", canaries.text("password")) as bearer,
        running_simulator(*tls, "--token", canaries.texts["access token"]) as refreshed,
        running_simulator(*tls, "--tls-client-ca", pem / "ca.pem") as mutual,
    ):
        yield {"bearer": bearer.port, "refreshed": refreshed.port, "mutual": mutual.port, "echo": echo}


@pytest.fixture(scope="module")
def connections(
    canaries: Canaries,
    authority: trustme.CA,
    token_server: str,
    ports: dict[str, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, Any]]:
    """Give each kind of credentials a connection of its own, with secrets of its own."""
    trusted = authority.cert_pem.bytes().decode()
    client = authority.issue_cert("client.example")
    chain = b"".join(blob.bytes() for blob in client.cert_chain_pems).decode()
    subject = tmp_path_factory.mktemp("workload") / "subject.jwt"
    subject.write_text(canaries.text("the workload's identity"))

    def connection(service: str, *, password: str | None = None, **extra: Any) -> dict[str, Any]:
        tls = {} if extra.get("insecure") else {"root_certificates": trusted}
        stored = {"conn_type": "lro", "host": LOOPBACK, "port": ports[service], "extra": {**tls, **extra}}
        return stored if password is None else {**stored, "password": password}

    def key(where: str, path: str = "/token", secret: str | None = None) -> str:
        return json.dumps(
            {
                "type": "service_account",
                "project_id": "p",
                "private_key_id": "k",
                "private_key": canaries.add(where, secret or private_key()),
                "client_email": "me@p.iam.gserviceaccount.com",
                "client_id": "1",
                "token_uri": f"{token_server}{path}",
            }
        )

    federation = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/locations/global/workforcePools/p/providers/p",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{token_server}/token",
        "client_id": "1",
        "client_secret": canaries.text("credential_config_file"),
        "credential_source": {"file": str(subject)},
    }
    broken_pem = "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n"
    return {
        "bearer": connection("bearer", password=canaries.texts["password"]),
        "service_account": connection("refreshed", keyfile_dict=key("keyfile_dict")),
        "configuration": connection("refreshed", credential_config_file=json.dumps(federation)),
        "echo_bearer": connection(
            "echo",
            password=canaries.text("quoted password"),
            headers={"x-goog-api-key": canaries.text("quoted header")},
        ),
        "echo_refreshed": connection("echo", keyfile_dict=key("keyfile_dict of a quoted token")),
        "mutual_tls": connection(
            "mutual",
            is_anonymous=True,
            client_certificate=chain,
            client_key=canaries.add("client_key", client.private_key_pem.bytes().decode()),
        ),
        "refused": connection("bearer", password=canaries.text("refused password")),
        "invalid_grant": connection("refreshed", keyfile_dict=json.loads(key("refused keyfile_dict", "/refused"))),
        "invalid_grant_later": connection(
            "refreshed", credential_config_file=key("credential_config_file with a key", "/once")
        ),
        "unusable_key": connection(
            "refreshed", keyfile_dict=key("unusable keyfile_dict", secret=broken_pem.format(secrets.token_hex(32)))
        ),
        "unusable_configuration": connection(
            "refreshed", credential_config_file='{"refresh_token": "' + canaries.text("unusable configuration")
        ),
        "unusable_client_key": connection(
            "mutual",
            is_anonymous=True,
            client_certificate=chain,
            client_key=canaries.add("unusable client_key", broken_pem.format(secrets.token_hex(32))),
        ),
        "unusable_token": connection("bearer", password=canaries.text("unusable password") + "\n2"),
        "client_secret": connection(
            "refreshed",
            idp_issuer_url=f"{token_server}/refused",
            client_id="1",
            client_secret=canaries.text("client_secret"),
        ),
        "plaintext": connection("bearer", password=canaries.text("plaintext password"), insecure=True),
    }


# ── the audit ──


@dataclass(frozen=True)
class Audited:
    """The findings after one run of the DAG; those of the canary that was planted apart."""

    expected: Mapping[str, str]
    states: Mapping[str, str | None]
    logs: Mapping[str, str]
    found: set[tuple[str, str]]
    planted: set[tuple[str, str]]


@pytest.fixture(scope="module")
def audited(
    airflow: AirflowStack,
    canaries: Canaries,
    connections: dict[str, dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Audited:
    """Run the DAG, logging everything, and search what there is when Airflow has ended: after all other tests."""
    planted = Canaries()
    stored = {**connections, "planted": {"conn_type": "lro", "host": f"{planted.text('host')}.invalid"}}
    file = tmp_path_factory.mktemp("stored") / "connections.json"
    file.write_text(json.dumps(stored))
    # Not `connections add`: of a command line Airflow keeps all but the password in its table `log`.
    command = [sys.executable, "-m", "airflow", "connections", "import", str(file)]
    with (airflow.log_dir / "connections-import.log").open("wb") as output:
        subprocess.run(command, check=True, env=airflow.env, stdout=output, stderr=subprocess.STDOUT)
    run = airflow.trigger(DAG_ID)
    airflow.wait_for_run(DAG_ID, run, timeout=300)
    states = {task.task_id: task.state for task in airflow.task_states(DAG_ID, run)}
    logs = {task: airflow.task_log(DAG_ID, run, task) for task in states}
    airflow.close()
    expected = dict.fromkeys(SUCCEED, "success") | dict.fromkeys(FAIL, "failed")
    left = dict(places(airflow))
    return Audited(expected, states, logs, search(left.items(), canaries), search(left.items(), planted))


def test_each_kind_of_credentials_was_used_and_refused(audited: Audited) -> None:
    """Every task came to the end that it was made for, and logged as much as Airflow can log."""
    assert audited.states == audited.expected
    assert {task for task, log in audited.logs.items() if FAIL.get(task, "") not in log} == set()
    assert {task for task, log in audited.logs.items() if "debug" not in log.lower()} == set()


def test_no_secret_is_left_anywhere(audited: Audited) -> None:
    """Logs, database, rendered fields, XComs and the output of the components hold none of the secrets."""
    assert audited.found == set()


def test_the_audit_finds_what_is_leaked(audited: Audited) -> None:
    """A text of the same kind that a task logs is found where it was logged, encoded or not, and in the database."""
    secrets_in_log = {where for where, place in audited.planted if "task_id=leaks" in place}
    assert secrets_in_log == {"host", "host, in base64"}
    assert ("host", "table connection") in audited.planted
