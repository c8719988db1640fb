"""docs/cookbook.md: its tasks with the real clients, in a real Airflow, against services on loopback."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.airflow.running import connect, mark, tasks, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.stack import AirflowStack
    from tests.cookbook.google_cloud import Cloud
    from tests.simulator_fixture import Simulator

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "cookbook.md").read_text()
EXAMPLE = (ROOT / "example_dags" / "cookbook_google.py").read_text()
DAG_ID = "lro_cookbook_google"
FIVE = ("create_lake", "deploy_model", "create_redis", "create_cluster", "run_job")


def missing() -> list[str]:
    """Name the clients that are not installed."""
    names = [f"google-cloud-{name}" for name in ("aiplatform", "alloydb", "dataplex", "redis", "run")]
    return [name for name in names if not list(importlib.metadata.distributions(name=name))]


with_clients = [
    pytest.mark.airflow,
    pytest.mark.timeout(480),
    pytest.mark.skipif(
        importlib.metadata.version("apache-airflow").startswith("2."), reason="the cookbook is for Airflow 3.3"
    ),
    pytest.mark.skipif(bool(missing()), reason=f"the extra `cookbook` is not installed: no {', '.join(missing())}"),
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def example_tasks() -> dict[str, str]:
    """Give the source of each task of the example, by its name."""
    (dag,) = (node for node in ast.parse(EXAMPLE).body if isinstance(node, ast.With))
    lines = EXAMPLE.splitlines()
    found = {}
    for node in dag.body:
        if isinstance(node, ast.FunctionDef):
            source = lines[node.decorator_list[0].lineno - 1 : node.end_lineno]
            found[node.name] = "\n".join(line.removeprefix("    ") for line in source) + "\n"
    return found


def test_the_page_shows_what_runs() -> None:
    """The code on the page is that of the example, task for task."""
    tasks = example_tasks()
    assert set(FIVE) <= set(tasks)
    shown = "\n\n".join(blocks("python"))
    for name, source in tasks.items():
        assert source in shown, f"{name} is not on the page as it is in the example"
    for block in blocks("python"):
        assert block in tasks.values() or "\n\n\n" in block or block.startswith("PARENT"), block
    assert 'PARENT = "projects/my-project/locations/us-central1"\n' in EXAMPLE


def shown_results() -> dict[str, Any]:
    """Give the results on the page, by task: JSON blocks stand in the order of the tasks."""
    return dict(zip(FIVE, map(json.loads, blocks("json")), strict=True))


def holds(whole: Any, part: Any) -> bool:
    """Whether all that is shown of a result is in it."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and holds(whole[key], part[key]) for key in part)
    return bool(whole == part)


@pytest.fixture(scope="module")
def without_connection(airflow: AirflowStack, service: Simulator) -> Iterator[None]:
    """Take the default connection away: what the clients call by themselves is called."""
    airflow.request("DELETE", "connections/lro_default")
    airflow.restart("triggerer")  # which keeps what it has read of a connection
    yield
    connect(airflow, "lro_default", host="127.0.0.1", port=service.port, extra={"insecure": True})


@pytest.mark.usefixtures("without_connection")
class TestWithRealClients:
    """In an Airflow without any connection for them: application default credentials, and the clients' endpoints."""

    pytestmark = with_clients

    def test_five_blocking_operators_wait_in_the_triggerer(self, airflow: AirflowStack, cloud: Cloud) -> None:
        """Each is started once, polled by the triggerer at the endpoint of its client, and its XCom is the response."""
        run = airflow.trigger(DAG_ID, timeout=90)
        state = airflow.wait_for_run(DAG_ID, run, timeout=240)
        assert {task: state.state for (task, _), state in tasks(airflow, DAG_ID, run).items()} == dict.fromkeys(
            (*FIVE, "check_execution"), "success"
        )
        assert state == "success"
        for task, result in shown_results().items():
            service = cloud.services[task]
            assert len(service.created) == 1, task
            assert service.polls_by_triggerer(service.last_operation) == 2, task
            assert service.refused == [], task
            xcom = airflow.xcom(DAG_ID, run, task)
            assert holds(xcom, result), f"{task}: {json.dumps(xcom)}"
        assert cloud.proxy.refused == []
        (request,) = cloud.services["create_cluster"].created
        assert uuid.UUID(request.request_id).version == 4

    def test_kill_cancels_at_the_endpoint_of_the_client(self, airflow: AirflowStack, cloud: Cloud) -> None:
        """A user who marks the deferred tasks as failed has each operation cancelled, once, where it runs."""
        for service in cloud.services.values():
            service.ends = False
        before = {task: len(service.created) for task, service in cloud.services.items()}
        run = airflow.trigger(DAG_ID)

        def all_wait() -> bool:
            return all(
                len(service.created) > before[task] and service.polls_by_triggerer(service.last_operation)
                for task, service in cloud.services.items()
            )

        until(all_wait, "the triggerer to poll all")
        for task in FIVE:
            mark(airflow, DAG_ID, run, task, "failed")
        until(lambda: all(service.cancelled() for service in cloud.services.values()), "the cancels")
        assert airflow.wait_for_run(DAG_ID, run) == "failed"
        for task, service in cloud.services.items():
            assert service.cancelled() == [service.last_operation], task
            assert len(service.created) == before[task] + 1, task
