"""docs/cookbook.md: its tasks with the real clients, against services on loopback, most of it in a real Airflow."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import multiprocessing
import re
import textwrap
import uuid
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.airflow.running import connect, mark, tasks, until
from tests.shared_airflow import running_google

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scripts.stack import AirflowStack
    from tests.cookbook.google_cloud import Cloud
    from tests.simulator_fixture import Simulator

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "cookbook.md").read_text()
EXAMPLE = (ROOT / "example_dags" / "cookbook_google.py").read_text()
DAG_ID = "lro_cookbook_google"
STARTERS = ("create_lake", "deploy_model", "create_redis", "create_cluster", "run_job", "use_cluster")
OTHERS = ("redis_url", "delete_if_broken")


def missing() -> list[str]:
    """Name the clients that are not installed."""
    names = [f"google-cloud-{name}" for name in ("aiplatform", "alloydb", "dataplex", "dataproc", "redis", "run")]
    return [name for name in names if not list(importlib.metadata.distributions(name=name))]


with_clients = [
    pytest.mark.skipif(
        importlib.metadata.version("apache-airflow").startswith("2."), reason="the cookbook is for Airflow 3.3"
    ),
    pytest.mark.skipif(bool(missing()), reason=f"the extra `cookbook` is not installed: no {', '.join(missing())}"),
]
in_airflow = [*with_clients, pytest.mark.airflow, pytest.mark.timeout(480)]
in_process = [*with_clients, pytest.mark.timeout(180)]  # most of it for the import of Google's clients


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def example_functions() -> list[str]:
    """Give the source of each function of the example."""
    lines = EXAMPLE.splitlines()
    found = []
    for node in ast.walk(ast.parse(EXAMPLE)):
        if isinstance(node, ast.FunctionDef):
            first = (*node.decorator_list, node)[0].lineno
            found.append(textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno])))
    return found


def test_the_page_shows_what_runs() -> None:
    """The code on the page is that of the example, every function of it."""
    inside = "\n".join(line.removeprefix("    ") for line in EXAMPLE.splitlines())
    shown = "\n\n".join(blocks("python"))
    for source in example_functions():
        assert source in shown, f"not on the page as it is in the example: {source}"
    for block in blocks("python"):
        for part in block.strip().split("\n\n\n"):
            assert part in EXAMPLE or part in inside, f"not in the example as it is on the page: {part}"


def shown_results() -> dict[str, Any]:
    """Give the results on the page, by task: JSON blocks stand in the order of the tasks."""
    return dict(zip(STARTERS, map(json.loads, blocks("json")), strict=True))


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

    pytestmark = in_airflow

    def test_blocking_operators_wait_in_the_triggerer(self, airflow: AirflowStack, cloud: Cloud) -> None:
        """Each is started once, polled by the triggerer at the endpoint of its client, and its XCom is the response.

        An execution that is not a success is followed by another one, and a broken cluster is deleted before a new one
        is created.
        """
        from google.cloud.run_v2 import Execution

        log = "https://console.cloud.google.com/logs"
        failed = Execution(task_count=4, succeeded_count=3, failed_count=1, log_uri=log)
        cloud.services["run_job"].responses.append(failed)
        cloud.services["use_cluster"].has("ERROR")
        run = airflow.trigger(DAG_ID, timeout=90)
        state = airflow.wait_for_run(DAG_ID, run, timeout=240)
        states = {task: state.state for (task, _), state in tasks(airflow, DAG_ID, run).items()}
        assert states == dict.fromkeys((*STARTERS, *OTHERS), "success")
        assert state == "success"
        for task, result in shown_results().items():
            service = cloud.services[task]
            assert len(service.created) == (2 if task == "run_job" else 1), task
            assert {service.polls_by_triggerer(name) for name in service.operations} == {2}, task
            assert service.refused == [], task
            xcom = airflow.xcom(DAG_ID, run, task)
            assert holds(xcom, result), f"{task}: {json.dumps(xcom)}"
        assert cloud.proxy.refused == []
        for task in ("create_cluster", "use_cluster"):
            (request,) = cloud.services[task].created
            assert uuid.UUID(request.request_id).version == 4
        assert len(cloud.services["use_cluster"].operations) == 2  # one of them has deleted the broken cluster
        assert cloud.services["use_cluster"].cluster.status.state.name == "RUNNING"
        assert airflow.xcom(DAG_ID, run, "redis_url") == "redis://10.0.0.3:6379"

    def test_kill_cancels_at_the_endpoint_of_the_client(self, airflow: AirflowStack, cloud: Cloud) -> None:
        """A user who marks the deferred tasks as failed has each operation cancelled, once, where it runs."""
        cloud.services["use_cluster"].cluster = None
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
        for task in STARTERS:
            mark(airflow, DAG_ID, run, task, "failed")
        until(lambda: all(service.cancelled() for service in cloud.services.values()), "the cancels")
        assert airflow.wait_for_run(DAG_ID, run) == "failed"
        for task, service in cloud.services.items():
            assert service.cancelled() == [service.last_operation], task
            assert len(service.created) == before[task] + 1, task


@pytest.fixture(scope="module")
def google_of_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give a Google Cloud of its own to the tests below."""
    with running_google(tmp_path_factory.mktemp("google")) as running:
        yield running


@pytest.fixture(scope="module")
def run_task(google_of_worker: Any) -> Iterator[Callable[..., list[Any]]]:
    """Give a worker for that cloud; the Google provider's default connection is stored there."""
    from tests.cookbook.worker import begin, run_task

    key = google_of_worker.env["GOOGLE_APPLICATION_CREDENTIALS"]
    stored = {"conn_type": "google_cloud_platform", "extra": {"key_path": key}}
    env = google_of_worker.env | {
        "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps(stored),
        "HTTPS_PROXY": google_of_worker.env["grpc_proxy"],
        "REQUESTS_CA_BUNDLE": google_of_worker.env["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"],
    }
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=begin, initargs=(env,)) as pool:
        yield lambda *given: pool.submit(run_task, *given).result()


class TestWithoutAirflow:
    """The DAG file's own tasks, run as a worker and a triggerer would."""

    pytestmark = in_process

    @pytest.fixture
    def dataproc(self, google_of_worker: Any) -> Any:
        service = google_of_worker.cloud.services["use_cluster"]
        service.cluster = None
        return service

    def test_a_cluster_that_is_missing_is_created(self, run_task: Any, dataproc: Any) -> None:
        """Nothing is deleted, and the response of the operation is the result."""
        before = len(dataproc.operations)
        nothing, cluster = run_task("missing", "delete_if_broken", "use_cluster")
        assert nothing == {}
        assert holds(cluster, shown_results()["use_cluster"])
        assert len(dataproc.operations) == before + 1

    def test_a_cluster_that_runs_is_used(self, run_task: Any, dataproc: Any) -> None:
        """No operation is started."""
        before = len(dataproc.operations)
        dataproc.has("RUNNING")
        _, cluster = run_task("running", "delete_if_broken", "use_cluster")
        assert (cluster["cluster_name"], cluster["status"]["state"]) == ("etl", "RUNNING")
        assert len(dataproc.operations) == before

    def test_a_cluster_that_somebody_else_creates_is_looked_at_again(self, run_task: Any, dataproc: Any) -> None:
        """The try fails at once; the next one uses the cluster, which is running by then."""
        before = len(dataproc.operations)
        dataproc.has("CREATING")
        with pytest.raises(RuntimeError, match="the cluster etl exists, and its state is CREATING"):
            run_task("creating", "delete_if_broken", "use_cluster")
        dataproc.has("RUNNING")
        (cluster,) = run_task("creating", "use_cluster")
        assert cluster["status"]["state"] == "RUNNING"
        assert len(dataproc.operations) == before

    def test_start_and_polls_call_as_the_impersonated_account(self, run_task: Any, google_of_worker: Any) -> None:
        """The key of the connection is only there to ask for the tokens of that account."""
        from tests.cookbook.google_cloud import IMPERSONATED
        from tests.grpc.token_server import TOKEN

        service = google_of_worker.cloud.services["create_lake"]
        (lake,) = run_task("impersonation", "create_lake_as_deployer")
        assert lake["name"].endswith("/lakes/stock")
        assert service.polls_by_triggerer(service.last_operation) == 2
        assert service.admitted == [IMPERSONATED] * 4  # the start, the worker's poll, and two of the triggerer
        deployer = ("deployer@my-project.iam.gserviceaccount.com", TOKEN)
        assert set(google_of_worker.cloud.iam.asked) == {deployer}
