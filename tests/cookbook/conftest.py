"""A Google Cloud on loopback, and a real Airflow for which there is no other."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from scripts.stack import AirflowStack
from tests.cookbook.google_cloud import LOOPBACK, running_cloud
from tests.grpc.token_server import TOKEN, private_key, running_token_server, service_account_key  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cookbook.google_cloud import Cloud

EXAMPLE = Path(__file__).parent.parent.parent / "example_dags" / "cookbook_google.py"


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def cloud(authority: trustme.CA, private_key: str) -> Iterator[Cloud]:  # noqa: F811
    from tests.cookbook.services import SERVICES

    key = serialization.load_pem_private_key(private_key.encode(), None).public_key()
    encoding, kind = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    public_key = key.public_bytes(encoding, kind).decode()
    with running_cloud(SERVICES, authority=authority, token=TOKEN, public_key=public_key) as running:
        yield running


@pytest.fixture(scope="session")
def airflow(
    cloud: Cloud,
    authority: trustme.CA,
    private_key: str,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AirflowStack]:
    """Airflow without any connection: application default credentials, and whatever the clients call by themselves."""
    home = tmp_path_factory.mktemp("cookbook")
    (home / "dags").mkdir()
    shutil.copy(EXAMPLE, home / "dags")
    authority.cert_pem.write_to_path(str(home / "ca.pem"))
    with running_token_server() as tokens:
        (home / "key.json").write_text(service_account_key(private_key, tokens))
        env = {
            "GOOGLE_APPLICATION_CREDENTIALS": str(home / "key.json"),
            "NO_GCE_CHECK": "true",
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(home / "ca.pem"),
            "grpc_proxy": f"http://{LOOPBACK}:{cloud.proxy.server_address[1]}",
        }
        with AirflowStack(home / "home", home / "dags", env=env) as running:
            yield running
