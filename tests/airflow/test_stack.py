"""A real scheduler, triggerer and database: outcomes, an outage of the service, and endpoints that are not there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from scripts.children import free_ports
from tests.airflow.running import cli, connect, tasks, until
from tests.simulator_fixture import running_simulator

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.stack import AirflowStack
    from tests.simulator_fixture import Simulator

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(480)]


@pytest.mark.needs_run("outcomes")
def test_outcomes(airflow: AirflowStack, service: Simulator, run_of: Callable[[str], str]) -> None:
    """Each outcome reaches the task as its state, its XCom or its error, without a retry that cannot help."""
    run = run_of("outcomes")
    airflow.wait_for_run("outcomes", run, timeout=400)
    came = tasks(airflow, "outcomes", run)
    assert {key: task.state for key, task in came.items()} == {
        ("succeeds", -1): "success",
        ("on_worker", -1): "success",
        ("rescheduled", -1): "success",
        ("fails", -1): "failed",
        ("times_out", -1): "failed",
        ("skips", -1): "skipped",
        ("mapped", 0): "success",
        ("mapped", 1): "success",
        ("cancels", -1): "success",
    }
    again = {key: airflow.task_log("outcomes", run, key[0]) for key, task in came.items() if task.try_number != 1}
    assert again == {}
    assert airflow.xcom("outcomes", run, "succeeds") == {"id": f"{run}-succeeds"}
    assert airflow.xcom("outcomes", run, "mapped", map_index=1) == {"id": f"{run}-1"}
    stale = f"simulations/outcome=never&cancel_delay=2/operations/{run}-stale"
    assert airflow.xcom("outcomes", run, "cancels") == {"name": stale, "asked": True, "outcome": "cancelled"}
    assert "FAILED_PRECONDITION (9)" in airflow.task_log("outcomes", run, "fails")
    assert "is cancelled" in airflow.task_log("outcomes", run, "times_out")
    never = f"simulations/outcome=never/operations/{run}-never"
    assert len(service.calls("CancelOperation", never)) == 1


def test_test_commands_find_a_connection_of_the_database(airflow: AirflowStack, service: Simulator) -> None:
    """`airflow dags test` and `airflow tasks test` run the trigger in their own process, without a triggerer."""
    connect(airflow, "stored", host="127.0.0.1", port=service.port, extra={"insecure": True})
    for command in (("dags", "test", "stored"), ("tasks", "test", "stored", "waits")):
        before = len(service.calls("GetOperation"))
        said = cli(airflow, *command)
        assert "succeeded after" in said
        assert "judged: 5.0" in said
        assert command[0] == "tasks" or "skipped: the operation has succeeded, and its result is rejected" in said
        # The first poll is that before the deferral.
        assert len(service.calls("GetOperation")) - before >= 2


def test_outage_of_the_service_costs_no_retry(airflow: AirflowStack) -> None:
    """A service that is gone for five seconds in the middle of a deferred wait is waited for."""
    with running_simulator() as service:
        run = airflow.trigger("outage", {"port": service.port})
        name = f"simulations/duration=12/operations/{run}"
        # The first poll is the worker's; from the second on the triggerer polls.
        until(lambda: len(service.calls("GetOperation", name)) >= 2, "the triggerer to poll")
        service.kill()
        before = len(service.calls("GetOperation", name))
        time.sleep(5)  # the outage itself
        service.start()
        assert airflow.wait_for_run("outage", run, timeout=240) == "success"
        survived = tasks(airflow, "outage", run)["survives", -1]
        assert survived.try_number == 1
        assert len(service.calls("GetOperation", name)) > before


def test_endpoints_that_are_not_there(airflow: AirflowStack) -> None:
    """A mistyped host fails on the worker, saying so; a port that refuses defers until a server is there."""
    (port,) = free_ports(1)
    run = airflow.trigger("endpoints", {"port": port})

    def state(task: str) -> str | None:
        return tasks(airflow, "endpoints", run)[task, -1].state

    until(lambda: (state("mistyped"), state("not_up_yet")) == ("failed", "deferred"), "one failure and one deferral")
    log = airflow.task_log("endpoints", run, "mistyped")
    assert "no-such-host.invalid" in log
    assert "does not resolve" in log
    with running_simulator("--port", str(port)):
        until(lambda: state("not_up_yet") == "success", "the wait for the late server to end")
