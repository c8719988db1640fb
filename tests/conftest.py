"""What every test needs: an Airflow home of its own, made before Airflow is imported."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

HOME = tempfile.mkdtemp(prefix="airflow-provider-lro-tests-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ.update(
    AIRFLOW_HOME=HOME,
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    # Nothing may look for a metadata server: google-auth would ask one for credentials otherwise.
    NO_GCE_CHECK="true",
)
for name in [name for name in os.environ if name.startswith(("AIRFLOW_CONN_", "GOOGLE_"))]:
    del os.environ[name]

with warnings.catch_warnings():
    # Airflow 2.11 warns of its own deprecations while it is imported; what we do later must not warn.
    warnings.simplefilter("ignore")
    import airflow.models
    import airflow.triggers.base  # noqa: F401

    from tests.versions import BaseHook, BaseSensorOperator  # noqa: F401

from tests.shared_airflow import *  # noqa: E402, F403  (its fixtures)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the smoke test first: it takes longest. Put the audit last: it searches what the Airflow of all has left."""

    def place(item: pytest.Item) -> tuple[bool, bool]:
        return "audited" in getattr(item, "fixturenames", ()), item.get_closest_marker("smoke") is None

    items.sort(key=place)
