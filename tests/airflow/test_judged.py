"""An execution that has succeeded although a task of it failed, in a real Airflow: who can tell, what a retry does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_lro.version_compat import triggers_have_on_kill
from tests.airflow.running import started, tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.stack import AirflowStack
    from tests.simulator_fixture import Simulator

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.timeout(480),
    pytest.mark.skipif(not triggers_have_on_kill(), reason="below 3.3 each try starts an operation of its own"),
]


@pytest.mark.needs_run("judged")
def test_only_a_check_makes_a_retry_start_another(
    airflow: AirflowStack, service: Simulator, run_of: Callable[[str], str]
) -> None:
    """All else that raises after the result finds the same at its retry, and is never green."""
    run = run_of("judged")
    assert airflow.wait_for_run("judged", run, timeout=400) == "failed"
    came = {task: (each.state, each.try_number) for (task, _), each in tasks(airflow, "judged", run).items()}
    assert came == {
        "checked": ("success", 2),
        "died": ("success", 2),
        "in_a_subclass": ("failed", 2),
        "in_post_execute": ("failed", 2),
        "before": ("success", 1),
        "after": ("failed", 2),
    }
    starts = {task: len(set(started(service, f"{run} {task}"))) for task in came}
    assert starts == {"checked": 2, "died": 2, "in_a_subclass": 1, "in_post_execute": 1, "before": 1, "after": 0}
    for task in ("checked", "died"):
        assert airflow.xcom("judged", run, task) == {"failed_count": 0.0}
        (name,) = set(started(service, f"{run} {task}")[1:])
        assert airflow.xcom("judged", run, task, key="operation_name") == name
        assert airflow.xcom("judged", run, task, key="metadata")["value"]["progress_percent"] == 100.0
    assert "rejected by check=all_succeeded: 1 of its tasks failed" in airflow.task_log("judged", run, "checked")
