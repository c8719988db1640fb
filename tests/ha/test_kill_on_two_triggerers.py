"""Who may cancel an operation when two triggerers share its wait: a user who kills the task, and nobody else."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.airflow.running import mark, tasks, until
from tests.ha.trigger_rows import read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.stack import AirflowStack
    from tests.simulator_fixture import Simulator

pytestmark = [pytest.mark.ha, pytest.mark.timeout(300)]

DAG = "pair"
TASKS = ("starts", "senses")


class Pair:
    """A run of two tasks, deferred, each with ``cancel_on_kill`` and an operation that is never done."""

    def __init__(self, airflow: AirflowStack, service: Simulator) -> None:
        self._airflow, self._service = airflow, service
        self.run = airflow.trigger(DAG)
        until(lambda: self.states() == ["deferred"] * 2, "both tasks to be deferred")
        rows = read_rows(airflow, DAG, self.run)
        self.names = {task: rows[task, -1]["kwargs"]["operation_name"] for task in TASKS}
        assert all(rows[task, -1]["kwargs"]["cancel_on_kill"] for task in TASKS)
        self.go_on("the first triggerer")

    def states(self) -> list[str | None]:
        return [task.state for task in tasks(self._airflow, DAG, self.run).values()]

    def owner(self, task: str) -> str | None:
        return tasks(self._airflow, DAG, self.run)[task, -1].triggerer

    def polls(self, task: str) -> int:
        return len(self._service.calls("GetOperation", self.names[task]))

    def cancels(self) -> dict[str, int]:
        """How often each operation was asked to cancel."""
        return {task: len(self._service.calls("CancelOperation", name)) for task, name in self.names.items()}

    def left_alone(self, task: str) -> int:
        """Return the number of times that a trigger of a task ignored a kill that was not one."""
        return self._airflow.task_log(DAG, self.run, task).count("the operation is left alone")

    def go_on(self, who: str) -> None:
        """Wait until both are polled some more, which is about once a second, and nobody has asked to cancel."""
        enough = {task: self.polls(task) + 4 for task in TASKS}
        until(
            lambda: any(self.cancels().values()) or all(self.polls(task) >= enough[task] for task in TASKS),
            f"{who} to poll",
        )
        assert self.cancels() == {"starts": 0, "senses": 0}
        assert self.states() == ["deferred"] * 2

    def move(self, heir: str) -> None:
        """Wait until a triggerer has both."""
        until(lambda: {self.owner(task) for task in TASKS} == {heir}, f"{heir} to have both")

    def kill(self, *killed: str) -> None:
        """Kill tasks as a user does, and wait for the cancels, and then for a second one that must not come."""
        for task in killed:
            mark(self._airflow, DAG, self.run, task, "failed")
        until(lambda: all(self.cancels()[task] for task in killed), f"the cancels of {killed}")
        time.sleep(3)


def other(airflow: AirflowStack, triggerer: str) -> str:
    (name,) = set(airflow.triggerers) - {triggerer}
    return name


@contextmanager
def stalled(airflow: AirflowStack, triggerer: str) -> Iterator[None]:
    """Stop all processes of a triggerer in their tracks for a while; they are one process group."""
    group = os.getpgid(airflow.pid(triggerer))
    os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(group, signal.SIGCONT)


def stop(airflow: AirflowStack, triggerer: str, number: signal.Signals) -> None:
    """Send the triggerer's first process a signal, as a container's runtime does, and wait until it has heeded it."""
    os.kill(airflow.pid(triggerer), number)
    until(lambda: not airflow.children.alive(triggerer), f"{triggerer} to end by {number.name}")
    airflow.stop(triggerer)  # it is expected to be gone, from here on


def test_stalled_triggerer_cancels_nothing(airflow: AirflowStack, service: Simulator) -> None:
    """One that comes to when another has its waits is told of kills and cancels nothing; a user's kill does, once."""
    pair = Pair(airflow, service)
    victim, before = pair.owner("starts"), pair.left_alone("starts")
    assert victim is not None
    with stalled(airflow, victim):
        pair.move(other(airflow, victim))
        pair.go_on("the other triggerer")
    # Airflow calls on_kill in the one that was stalled: its triggers are gone from its list, as if killed.
    until(lambda: pair.left_alone("starts") > before, "the stalled triggerer to let go")
    pair.go_on("the other triggerer")

    seen = pair.polls("senses")
    pair.kill("starts")
    until(lambda: pair.polls("senses") >= seen + 4, "the wait that was not killed to go on")
    assert pair.cancels() == {"starts": 1, "senses": 0}
    pair.kill("senses")
    assert pair.cancels() == {"starts": 1, "senses": 1}


def test_stopped_triggerer_cancels_nothing(airflow: AirflowStack, service: Simulator) -> None:
    """One that is told to stop, by either signal, hands over and cancels nothing; a user's kill does, once."""
    pair = Pair(airflow, service)
    for number in (signal.SIGINT, signal.SIGTERM):
        victim = pair.owner("starts")
        assert victim is not None
        stop(airflow, victim, number)
        pair.move(other(airflow, victim))
        pair.go_on("the other triggerer")
        airflow.start(victim)

    pair.kill("starts", "senses")
    assert pair.cancels() == {"starts": 1, "senses": 1}
