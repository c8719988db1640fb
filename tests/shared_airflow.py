"""The one real Airflow that the tests share: all their DAGs, and the environment that each of them needs.

What only some tests need is there when one of them runs. Tests with an Airflow of their own: `test_watched.py`, whose
DAGs run for whatever the service has, and `tests/ha` and `tests/browser`, for which there are other targets of `make`.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scripts.children import Children
from scripts.environment import as_variables
from scripts.postgres import start_postgres
from scripts.stack import AirflowError, AirflowStack
from tests.airflow.running import connect
from tests.airflow.telemetry import Collector, StatsD, collecting
from tests.simulator_fixture import running_simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.cookbook.google_cloud import Cloud
    from tests.simulator_fixture import Simulator

__all__ = ["GoogleCloud", "airflow", "cloud", "collector", "google", "metrics", "run_of", "service"]

ROOT = Path(__file__).parent.parent
DEAD_AFTER = 10
"""Seconds without a heartbeat after which a triggerer counts as dead; it beats every 2 s."""


def items_to_run(request: pytest.FixtureRequest) -> list[pytest.Item]:
    """Return the tests of this session, without those that this environment skips."""
    skipped = [any(mark.args[:1] == (True,) for mark in item.iter_markers("skipif")) for item in request.session.items]
    return [item for item, is_skipped in zip(request.session.items, skipped, strict=True) if not is_skipped]


def is_used(request: pytest.FixtureRequest, fixture: str) -> bool:
    """Return True if a test of this session uses a fixture."""
    return any(fixture in getattr(item, "fixturenames", ()) for item in items_to_run(request))


@pytest.fixture(scope="session")
def service() -> Iterator[Simulator]:
    """Give the simulator that the running Airflow calls."""
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="session")
def metrics() -> Iterator[StatsD]:
    """Give the StatsD server that the running Airflow sends to."""
    with StatsD() as server:
        yield server


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Give the OpenTelemetry collector that the running Airflow sends to."""
    with collecting() as server:
        yield server


@contextlib.contextmanager
def running_airflow(home: Path, dags: Path, *, env: Mapping[str, str], triggerers: int = 1) -> Iterator[AirflowStack]:
    """Run an Airflow on PostgreSQL; 2.11, of which the scripts know SQLite only, on that.

    SQLite lets one write at a time, and a scheduler of Airflow 3 that finds it locked on a busy machine ends.
    """
    with Children() as children:
        database = None if version("apache-airflow").startswith("2.") else start_postgres(children)
        with AirflowStack(
            home, dags, env=env, database=database, triggerers=triggerers, timeout=240, children=children
        ) as running:
            yield running


@dataclass(frozen=True, slots=True, kw_only=True)
class GoogleCloud:
    """A Google Cloud on loopback, and the environment for which there is no other."""

    cloud: Cloud
    env: dict[str, str]


@contextlib.contextmanager
def running_google(home: Path) -> Iterator[GoogleCloud]:
    """Run a Google Cloud on loopback, with its certificates and a key in a folder."""
    import trustme
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    from tests.cookbook.google_cloud import LOOPBACK, running_cloud
    from tests.cookbook.services import SERVICES
    from tests.grpc.token_server import TOKEN, running_token_server, service_account_key

    authority = trustme.CA()
    pair = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoding = serialization.Encoding.PEM
    private = pair.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    public = pair.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    authority.cert_pem.write_to_path(str(home / "ca.pem"))
    with (
        running_cloud(SERVICES, authority=authority, token=TOKEN, public_key=public) as running,
        running_token_server() as tokens,
    ):
        (home / "key.json").write_text(service_account_key(private, tokens))
        env = {
            "GOOGLE_APPLICATION_CREDENTIALS": str(home / "key.json"),
            "NO_GCE_CHECK": "true",
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(home / "ca.pem"),
            "grpc_proxy": f"http://{LOOPBACK}:{running.proxy.server_address[1]}",
            # What is on this machine, or nowhere, is looked for without the proxy.
            "no_grpc_proxy": f"{LOOPBACK},localhost,.invalid",
        }
        yield GoogleCloud(cloud=running, env=env)


@pytest.fixture(scope="session")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoogleCloud]:
    with running_google(tmp_path_factory.mktemp("google")) as running:
        yield running


@pytest.fixture(scope="session")
def cloud(google: GoogleCloud) -> Cloud:
    return google.cloud


@pytest.fixture(scope="session")
def airflow(
    request: pytest.FixtureRequest, service: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowStack]:
    """Airflow, with the connection where most have theirs: in the database."""
    home = tmp_path_factory.mktemp("airflow")
    shutil.copytree(ROOT / "tests" / "airflow" / "dags", home / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    env = as_variables(
        {
            "core": {"fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()},
            "triggerer": {"triggerer_health_check_threshold": DEAD_AFTER},
        }
    )
    if is_used(request, "metrics"):
        env |= request.getfixturevalue("metrics").env
    if is_used(request, "collector"):
        env |= request.getfixturevalue("collector").env
    if is_used(request, "audited"):
        env |= as_variables({"logging": {"logging_level": "DEBUG"}})
    if is_used(request, "cloud"):
        env |= request.getfixturevalue("google").env
        env |= as_variables({"core": {"default_task_retry_delay": 1}})  # a result is rejected there
        shutil.copy(ROOT / "example_dags" / "cookbook_google.py", home / "dags")
    with running_airflow(home / "home", home / "dags", env=env) as running:
        connect(running, "lro_default", host="127.0.0.1", port=service.port, extra={"insecure": True})
        connect(running, "nameless", extra={"insecure": True})
        yield running


@pytest.fixture(scope="session")
def run_of(request: pytest.FixtureRequest, airflow: AirflowStack) -> Callable[[str], str]:
    """Give the run of a DAG of which a test needs only the end: on Airflow 3 all of them run side by side.

    Such a test says `@pytest.mark.needs_run("its_dag")`. On 2.11, where one task runs at a time, each begins with its
    test.
    """
    runs: dict[str, str] = {}

    def start(dag: str, conf: Mapping[str, Any] | None = None) -> str:
        if dag not in runs:
            runs[dag] = airflow.trigger(dag, conf)
        return runs[dag]

    if airflow.is_3:
        for item in items_to_run(request):
            for marker in item.iter_markers("needs_run"):
                with contextlib.suppress(AirflowError):  # its own test will say so
                    start(*marker.args)
    return start
