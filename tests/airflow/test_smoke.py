"""Deferred waits through a real scheduler, worker and triggerer: the one such test that `make test` runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.airflow.running import tasks, until

if TYPE_CHECKING:
    from scripts.stack import AirflowStack
    from tests.simulator_fixture import Simulator

pytestmark = [pytest.mark.airflow, pytest.mark.smoke, pytest.mark.timeout(480)]


def test_deferred_waits_outlive_their_triggerer(airflow: AirflowStack, service: Simulator) -> None:
    """Two waits whose triggerer is killed: a success with its response and a failure with its reason, at first try."""
    run = airflow.trigger("smoke")
    scripts = {"succeeds": "duration=15", "fails": "duration=15&outcome=fail&code=9"}
    names = [f"simulations/{script}/operations/{run}-{task}" for task, script in scripts.items()]
    # The first poll is the worker's; from the second on the triggerer polls.
    until(lambda: all(len(service.calls("GetOperation", name)) >= 2 for name in names), "the triggerer to poll")
    airflow.kill("triggerer")
    polls = [len(service.calls("GetOperation", name)) for name in names]
    airflow.start("triggerer")
    assert airflow.wait_for_run("smoke", run) == "failed"
    assert all(len(service.calls("GetOperation", name)) > before for name, before in zip(names, polls, strict=True))
    came = {task: (state.state, state.try_number) for (task, _), state in tasks(airflow, "smoke", run).items()}
    assert came == {"succeeds": ("success", 1), "fails": ("failed", 1)}
    assert airflow.xcom("smoke", run, "succeeds") == {"id": f"{run}-succeeds"}
    assert "FAILED_PRECONDITION (9)" in airflow.task_log("smoke", run, "fails")
    assert [service.calls("CancelOperation", name) for name in names] == [[], []]
