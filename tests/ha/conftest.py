"""Two triggerers of one Airflow, on PostgreSQL. Keeps a plain ``pytest`` out of this folder. ``make test-ha``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scripts.environment import as_variables
from tests.shared_airflow import running_airflow
from tests.simulator_fixture import running_simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.stack import AirflowStack
    from tests.simulator_fixture import Simulator

collect_ignore_glob = [] if os.environ.get("LRO_HA_TESTS") == "1" else ["test_*.py"]

#: Seconds without a heartbeat after which a triggerer counts as dead; they beat every 2 s.
DEAD_AFTER = 15


@pytest.fixture(scope="session")
def service() -> Iterator[Simulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="session")
def stack(service: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    """One scheduler, and the triggerers ``triggerer-1`` and ``triggerer-2``."""
    from cryptography.fernet import Fernet

    env = as_variables(
        {
            "core": {"fernet_key": Fernet.generate_key().decode()},
            "triggerer": {"triggerer_health_check_threshold": DEAD_AFTER},
        }
    )
    stored = {"conn_type": "lro", "host": "127.0.0.1", "port": service.port, "extra": {"insecure": True}}
    home, dags = tmp_path_factory.mktemp("airflow"), Path(__file__).parent / "dags"
    with running_airflow(home, dags, env=env, triggerers=2) as running:
        add = ["connections", "add", "lro_default", "--conn-json", json.dumps(stored)]
        subprocess.run([sys.executable, "-m", "airflow", *add], check=True, env=running.env, capture_output=True)
        yield running


@pytest.fixture
def airflow(stack: AirflowStack) -> AirflowStack:
    """Both triggerers run, whatever the test before has left."""
    stack.start(*(name for name in stack.triggerers if not stack.children.alive(name)))
    return stack
