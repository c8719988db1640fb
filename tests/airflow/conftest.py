"""A simulator for the whole session, reached through the connection ``lro_default``."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING

import pytest

from tests.airflow.fake_service import FakeService, serving
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


@pytest.fixture
def name() -> Callable[..., str]:
    """Make an operation's name that no other test has."""
    from airflow_provider_lro.simulator import operation_name

    def make(**script: object) -> str:
        return operation_name(f"airflow-{next(_ids)}", **script)

    return make
