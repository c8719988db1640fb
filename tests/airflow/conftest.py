"""A simulator for the whole session, reached through the connection ``lro_default``."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scripts.stack import AirflowStack
from tests.airflow.fake_service import FakeService, serving
from tests.airflow.running import cli
from tests.simulator_fixture import running_simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.simulator_fixture import Simulator

_ids = count()


@pytest.fixture(scope="session")
def simulator() -> Iterator[Simulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture(autouse=True)
def connection(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = {"conn_type": "lro", "host": "127.0.0.1", "port": simulator.port, "extra": {"insecure": True}}
    monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", json.dumps(stored))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    """Give a service of a test's own."""
    service = FakeService()
    with serving(service):
        stored = {"conn_type": "lro", "host": "127.0.0.1", "port": service.port, "extra": {"insecure": True}}
        monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", json.dumps(stored))
        yield service


@pytest.fixture(scope="session")
def service() -> Iterator[Simulator]:
    """Give the simulator that the running Airflow calls; a test may kill it, and starts it again."""
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="session")
def airflow(service: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    """Airflow, with the connection where most have theirs: in the database."""
    stored = {"conn_type": "lro", "host": "127.0.0.1", "port": service.port, "extra": {"insecure": True}}
    with AirflowStack(tmp_path_factory.mktemp("airflow"), Path(__file__).parent / "dags") as running:
        cli(running, "connections", "add", "lro_default", "--conn-json", json.dumps(stored))
        yield running


@pytest.fixture
def name() -> Callable[..., str]:
    """Make an operation's name that no other test has."""
    from airflow_provider_lro.simulator import operation_name

    def make(**script: object) -> str:
        return operation_name(f"airflow-{next(_ids)}", **script)

    return make
