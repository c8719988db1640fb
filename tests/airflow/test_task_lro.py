"""``@task.lro`` in a real Airflow: mapped, retried, killed, always at the endpoint that its client has told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.airflow.running import mark, started, tasks, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.stack import AirflowStack
    from tests.simulator_fixture import Simulator

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(480)]


@pytest.mark.needs_run("task_lro")
def test_mapped_tasks_and_their_retries(
    airflow: AirflowStack, service: Simulator, run_of: Callable[[str], str]
) -> None:
    """Each response is split into XComs; on 3.3 a retry finds the operation of a try that failed, or that died."""
    run = run_of("task_lro")
    assert airflow.wait_for_run("task_lro", run, timeout=400) == "success"
    names = started(service, run)
    for index in range(3):
        assert airflow.xcom("task_lro", run, "export", map_index=index) == {"table": run, "rows": 5.0}
        assert airflow.xcom("task_lro", run, "export", key="table", map_index=index) == run
    assert airflow.xcom("task_lro", run, "add") == 15.0
    tries = {index: state.try_number for (task, index), state in tasks(airflow, "task_lro", run).items() if index >= 0}
    assert tries == {0: 1, 1: 2, 2: 2}
    if airflow.is_3:
        # Who died before the name was stored asked again, with the same request id.
        assert (len(names), len(set(names))) == (4, 3)


def test_kill_cancels_at_the_clients_endpoint(airflow: AirflowStack, service: Simulator) -> None:
    """The trigger knows it; a function whose client cannot tell it is not called."""
    run = airflow.trigger("task_lro_killed")
    until(lambda: tasks(airflow, "task_lro_killed", run)["killed", -1].state == "deferred", "the task to defer")
    (name,) = started(service, run)
    until(lambda: len(service.calls("GetOperation", name)) >= 2, "the triggerer to poll")
    mark(airflow, "task_lro_killed", run, "killed", "failed")
    until(lambda: len(service.calls("CancelOperation", name)) == 1, "the cancel")
    until(lambda: tasks(airflow, "task_lro_killed", run)["asynchronous", -1].state == "failed", "the other to fail")
    assert "no endpoint" in airflow.task_log("task_lro_killed", run, "asynchronous")
    assert started(service, run) == [name]
