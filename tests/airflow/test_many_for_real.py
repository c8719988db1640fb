"""Many operations in one task of a real Airflow: over a restart of the triggerer, from one task to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.airflow.running import mark, tasks, until

if TYPE_CHECKING:
    from scripts.stack import AirflowStack
    from tests.simulator_fixture import Simulator

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(480)]


def test_two_hundred_operations_over_a_restart(airflow: AirflowStack, service: Simulator) -> None:
    """One task waits for all of them and one on a worker for some; a kill cancels each of forty, a restart none."""
    run = airflow.trigger("many")
    waiting = ("all", "killed")
    until(lambda: all(tasks(airflow, "many", run)[task, -1].state == "deferred" for task in waiting), "the deferrals")
    never = [f"simulations/outcome=never/operations/{run}-never-{each}" for each in range(40)]
    until(lambda: bool(service.calls("GetOperation", never[-1])), "the triggerer to poll")
    airflow.restart("triggerer")
    before = len(service.calls("GetOperation", never[-1]))
    until(lambda: len(service.calls("GetOperation", never[-1])) >= before + 2, "the restarted triggerer to poll")
    assert not {each["name"] for each in service.calls("CancelOperation")} & set(never)
    mark(airflow, "many", run, "killed", "failed")
    until(
        lambda: len(set(never) & {each["name"] for each in service.calls("CancelOperation")}) == len(never),
        "the cancels",
    )
    until(lambda: tasks(airflow, "many", run)["count", -1].state in ("success", "failed", "upstream_failed"), "the end")
    until(lambda: tasks(airflow, "many", run)["some", -1].state in ("success", "failed"), "the end on the worker")
    ids = [f"{run}-{number:03}" for number in range(200)]
    assert airflow.xcom("many", run, "count") == ids
    assert sum(each is not None for each in airflow.xcom("many", run, "some")) >= 50
    asked = [each["name"] for each in service.calls("CancelOperation")]
    assert sorted(each for each in asked if run in each) == sorted(never)
