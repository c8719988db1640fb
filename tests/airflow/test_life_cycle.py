"""Tasks that are killed, cleared, stopped or take too long, in a real Airflow: the effect on their operations."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from airflow_provider_lro.version_compat import triggers_move_without_on_kill
from tests.airflow.running import clear, cli, mark, resize, started, tasks, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scripts.stack import AirflowStack
    from tests.simulator_fixture import Simulator

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(480)]

IS_3_4 = triggers_move_without_on_kill()


def cancels(service: Simulator, name: str) -> int:
    return len(service.calls("CancelOperation", name))


@contextmanager
def stalled(airflow: AirflowStack, component: str) -> Iterator[None]:
    """Stop all processes of a component in their tracks for a while."""
    group = os.getpgid(airflow.pid(component))
    os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(group, signal.SIGCONT)


@contextmanager
def no_slots(airflow: AirflowStack) -> Iterator[None]:
    """Keep the tasks of the pool from running: the next try of what is cleared must not outrun the triggerer."""
    resize(airflow, "narrow", 0)
    try:
        yield
    finally:
        resize(airflow, "narrow", 4)


@pytest.fixture(autouse=True, scope="module")
def pool(airflow: AirflowStack) -> None:
    """Make the pool of the tasks that are cleared."""
    cli(airflow, "pools", "set", "narrow", "4", "of the cleared")


def polls(service: Simulator, name: str) -> int:
    return len(service.calls("GetOperation", name))


def test_users_kill_of_a_deferred_task_cancels_once(airflow: AirflowStack, service: Simulator) -> None:
    """Marked or cleared, with `cancel_on_kill`: one cancel; without it, or on a triggerer's restart: none."""
    run = airflow.trigger("killed")

    def name(task: str) -> str:
        return f"simulations/outcome=never/operations/{run}-{task}"

    everything = ("failed", "success", "cleared", "waits_again", "left_alone", "restarted")
    until(lambda: all(polls(service, name(task)) >= 2 for task in everything), "the triggerer to poll all")

    airflow.restart("triggerer")
    before = polls(service, name("restarted"))
    until(lambda: polls(service, name("restarted")) >= before + 2, "the restarted triggerer to poll")
    assert {task: cancels(service, name(task)) for task in everything} == dict.fromkeys(everything, 0)

    # A triggerer that hears of the clear only when the next try waits already: that one owns the operation.
    # Since 3.4, which tells a clear from a trigger that moves, it is cancelled all the same.
    with stalled(airflow, "triggerer"):
        clear(airflow, "killed", run, "waits_again")
        until(lambda: tasks(airflow, "killed", run)["waits_again", -1].try_number == 2, "the second try")
        until(lambda: tasks(airflow, "killed", run)["waits_again", -1].state == "deferred", "the second try to defer")
    if IS_3_4:
        until(lambda: tasks(airflow, "killed", run)["waits_again", -1].state == "failed", "the second try to end")
    else:
        before = polls(service, name("waits_again"))
        until(lambda: polls(service, name("waits_again")) >= before + 3, "the second try to wait")
    assert cancels(service, name("waits_again")) == IS_3_4

    mark(airflow, "killed", run, "failed", "failed")
    mark(airflow, "killed", run, "success", "success")
    mark(airflow, "killed", run, "left_alone", "failed")
    with no_slots(airflow):
        clear(airflow, "killed", run, "cleared")
        killed = ("failed", "success", "cleared")
        until(lambda: all(cancels(service, name(task)) for task in killed), "the cancels")
    # What was cleared runs again, and finds its operation cancelled.
    until(lambda: tasks(airflow, "killed", run)["cleared", -1].state == "failed", "the second try to end")
    assert {task: cancels(service, name(task)) for task in everything} == {
        "failed": 1,
        "success": 1,
        "cleared": 1,
        "waits_again": int(IS_3_4),
        "left_alone": 0,
        "restarted": 0,
    }
    assert tasks(airflow, "killed", run)["success", -1].state == "success"
    for task in ("restarted",) if IS_3_4 else ("waits_again", "restarted"):
        mark(airflow, "killed", run, task, "failed")


def test_kill_of_a_task_that_waits_on_a_worker(airflow: AirflowStack, service: Simulator) -> None:
    """Marked failed while a worker waits: one cancel. Told to stop by anybody else: none."""
    run = airflow.trigger("on_worker")

    def name(task: str) -> str:
        return f"simulations/outcome=never/operations/{run}-{task}"

    if airflow.is_3:
        until(lambda: all(polls(service, name(task)) >= 2 for task in ("failed", "evicted")), "the workers to poll")
        pid = tasks(airflow, "on_worker", run)["evicted", -1].pid
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        killed, other = "failed", "evicted"
    else:  # where one task runs at a time, and a signal ends it
        until(lambda: bool(polls(service, name("failed")) or polls(service, name("evicted"))), "a worker to poll")
        killed, other = ("failed", "evicted") if polls(service, name("failed")) else ("evicted", "failed")
    mark(airflow, "on_worker", run, killed, "failed")
    until(lambda: cancels(service, name(killed)) > 0, "the cancel")
    before = polls(service, name(other))
    until(lambda: polls(service, name(other)) >= before + 2, "the other worker to poll")
    assert (cancels(service, name(killed)), cancels(service, name(other))) == (1, 0)
    if airflow.is_3:
        assert "no user has killed it, so the operation is left alone" in airflow.task_log("on_worker", run, other)
    mark(airflow, "on_worker", run, other, "failed")


@pytest.mark.needs_run("too_long")
def test_execution_timeout_is_heeded(airflow: AirflowStack, service: Simulator, run_of: Callable[[str], str]) -> None:
    """Deferred or not, `execution_timeout` ends the try, and `on_timeout="cancel"` asks to cancel, once."""
    run = run_of("too_long")
    airflow.wait_for_run("too_long", run, timeout=240)
    assert {task: state.state for (task, _), state in tasks(airflow, "too_long", run).items()} == {
        "deferred": "failed",
        "on_worker": "failed",
    }
    for deferrable in (True, False):
        assert cancels(service, f"simulations/outcome=never/operations/{run}-{deferrable}") == 1
    assert "is cancelled" in airflow.task_log("too_long", run, "on_worker")


def test_task_that_is_cleared_while_it_waits_starts_anew(airflow: AirflowStack, service: Simulator) -> None:
    """The kill cancels the operation of the first try; the second starts another, on 3.3 when the first has ended."""
    if not airflow.is_3:
        pytest.skip("below Airflow 3.3 nothing remembers the first try")
    run = airflow.trigger("started")
    until(lambda: tasks(airflow, "started", run)["cleared", -1].state == "deferred", "the first try to defer")
    (first,) = started(service, run)
    # A trigger that no triggerer has begun is deleted by the clear, and cancels nothing.
    until(lambda: polls(service, first) >= 2, "the triggerer to poll the first")
    with no_slots(airflow):
        clear(airflow, "started", run, "cleared")
        until(lambda: cancels(service, first) == 1, "the cancel of the first")
    until(lambda: len(started(service, run)) == 2, "the second start")
    second = started(service, run)[-1]
    assert first != second
    # The second try has waited for its end; since 3.4, which empties the store, it knows of none.
    assert service.calls("GetOperation", first)[-1]["done"] or IS_3_4
    until(lambda: polls(service, second) >= 2, "the triggerer to poll the second")
    assert cancels(service, second) == 0
    mark(airflow, "started", run, "cleared", "failed")
    until(lambda: cancels(service, second) == 1, "the cancel of the second")


def test_task_that_is_cleared_after_its_end_starts_anew(airflow: AirflowStack, service: Simulator) -> None:
    """Airflow 3.4 empties the store by the clear unless told to keep it, 3.3 never does: a new operation each time."""
    if not airflow.is_3:
        pytest.skip("below Airflow 3.3 each try starts anew")
    run = airflow.trigger("done")
    assert airflow.wait_for_run("done", run, timeout=120) == "success"
    clears = [{}, {"keep_task_state": True}] if IS_3_4 else [{}]
    for number, how in enumerate(clears, start=2):
        airflow.clear("done", run, "cleared", **how)
        assert airflow.wait_for_run("done", run, timeout=120) == "success"
        assert len(set(started(service, run))) == len(started(service, run)) == number


@pytest.mark.needs_run("dies")
def test_worker_that_dies_after_the_start_starts_nothing_twice(
    airflow: AirflowStack, service: Simulator, run_of: Callable[[str], str]
) -> None:
    """Twenty tasks are SIGKILLed after their start, half of them before its name is stored: twenty operations."""
    if not airflow.is_3:
        pytest.skip("below Airflow 3.3 nothing remembers the first try")
    run = run_of("dies")
    assert airflow.wait_for_run("dies", run, timeout=400) == "success"
    names = started(service, run)
    assert len(set(names)) == 20
    # Those that died before the name was stored asked again, with the same request id.
    assert len(names) == 30
    came = tasks(airflow, "dies", run)
    assert {state.try_number for state in came.values()} == {2}
    for index in range(20):
        assert airflow.xcom("dies", run, "dies", map_index=index) == {"index": float(index)}
