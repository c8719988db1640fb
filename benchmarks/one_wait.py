"""What one wait costs a worker, in a real Airflow: blocking, deferred, and without a worker at its end.

A real scheduler with a LocalExecutor, triggerer and API server on this machine wait for operations of four seconds, one
way after the other, round by round. The executor's processes, and what they have started, count as the worker: the
task's own processes and Airflow's supervision of them. What the executor's processes use while nothing is done is taken
off. The wall time is from the run's start to its end, without the operation's four seconds.

    python benchmarks/one_wait.py [--quick]
"""

from __future__ import annotations

import json
import os
import re
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Check, bars, plot, publish, run, spread, table, verdicts

from scripts.stack import AirflowStack
from tests.airflow.running import cli
from tests.simulator_fixture import running_simulator

if TYPE_CHECKING:
    import argparse

WAYS = {
    "blocking": "blocking",
    "deferred": "deferred",
    "ends_in_triggerer": "`end_from_trigger`",
}
DURATION = 4.0
TICKS = os.sysconf("SC_CLK_TCK")


def descendants(parent: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    found, new = [], [parent]
    while new:
        new = [pid for pid, above in parents.items() if above in new]
        found += new
    return found


def stat(pid: int) -> list[str]:
    """Return what the kernel says of a process, from its state on; nothing of one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def workers_cpu(scheduler: int) -> float:
    """Return the CPU seconds of the executor's processes and of all that they have started, ended or not."""
    ticks = 0
    for pid in descendants(scheduler):
        if fields := stat(pid):
            ticks += sum(int(value) for value in fields[11:15])  # its own, and its ended children's
    return ticks / TICKS


def starts(airflow: AirflowStack, dag: str, run_id: str) -> int:
    """Count the times that the executor was given a task of a run."""
    said = (airflow.log_dir / "scheduler.log").read_text(errors="replace")
    return len(re.findall(rf"Received executor event.*dag_id='{dag}'[^)]*run_id='{re.escape(run_id)}'", said))


def once(airflow: AirflowStack, way: str, idle: float) -> dict[str, Any]:
    """Run one wait, and measure it."""
    dag = f"one_wait_{way}"
    scheduler = airflow.pid("scheduler")
    before, began = workers_cpu(scheduler), time.monotonic()
    run_id = airflow.trigger(dag)
    state = airflow.wait_for_run(dag, run_id)
    assert state == "success", airflow.task_log(dag, run_id, "wait")
    time.sleep(2.0)  # for the last process to end
    cpu = workers_cpu(scheduler) - before - idle * (time.monotonic() - began)
    found = airflow.request("GET", f"dags/{dag}/dagRuns/{run_id}")
    wall = (datetime.fromisoformat(found["end_date"]) - datetime.fromisoformat(found["start_date"])).total_seconds()
    return {"cpu": max(cpu, 0.0), "wall": wall - DURATION, "run": run_id}


def measure(rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run each way in turn, after a round that only warms up."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with running_simulator() as simulator, tempfile.TemporaryDirectory(prefix="lro-bench-") as home:
        stored = {"conn_type": "lro", "host": "127.0.0.1", "port": simulator.port, "extra": {"insecure": True}}
        with AirflowStack(Path(home), Path(__file__).parent / "dags") as airflow:
            cli(airflow, "connections", "add", "lro_default", "--conn-json", json.dumps(stored))
            for way in WAYS:
                once(airflow, way, 0.0)
            idle = idle_cpu(airflow)
            for number in range(rounds):
                for way in list(WAYS) if number % 2 == 0 else list(WAYS)[::-1]:
                    found[way].append(once(airflow, way, idle))
            time.sleep(10.0)  # for the executor to have reported all
            for way, results in found.items():
                for each in results:
                    each["starts"] = starts(airflow, f"one_wait_{way}", each["run"])
    return found


def idle_cpu(airflow: AirflowStack) -> float:
    """Return the CPU seconds a second that the executor's processes use for nothing."""
    before, began = workers_cpu(airflow.pid("scheduler")), time.monotonic()
    time.sleep(5.0)
    return (workers_cpu(airflow.pid("scheduler")) - before) / (time.monotonic() - began)


def main(arguments: argparse.Namespace) -> None:
    """Measure, print, plot, and check."""
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    found = measure(rounds)
    figures = {
        WAYS[way]: {key: [each[key] for each in results] for key in ("starts", "cpu", "wall")}
        for way, results in found.items()
    }
    rows = [
        (way, spread(each["starts"]), spread(each["cpu"], 2), spread(each["wall"], 1)) for way, each in figures.items()
    ]
    header = ("", "processes on a worker", "CPU of the worker, s", "wall time beyond the operation's, s")
    ends, deferred = figures[WAYS["ends_in_triggerer"]], figures[WAYS["deferred"]]
    checks = [
        Check(what="processes on a worker, without one at the end", value=max(ends["starts"]), limit=1),
        Check(
            what="CPU of the worker, without one at the end / deferred",
            value=statistics.median(ends["cpu"]) / statistics.median(deferred["cpu"]),
            limit=0.75,
        ),
    ]
    how = f"Medians of {rounds} waits each (and their range), in turn, warm; the operation takes {DURATION:g} s."
    title = "## What one wait costs a worker"
    publish(
        arguments.output, "one_wait", f"{title}\n\n{how}", table(header, rows), verdicts(checks), "![](one_wait.png)"
    )
    with plot(arguments.output, "one_wait", columns=2, height=2.4) as axes:
        plain = {way.replace("`", ""): each for way, each in figures.items()}
        bars(axes[0], "CPU of the worker, s", {way: each["cpu"] for way, each in plain.items()}, digits=2)
        bars(
            axes[1], "Wall time beyond the operation's, s", {way: each["wall"] for way, each in plain.items()}, digits=1
        )


async def child(spec: dict[str, Any]) -> None:
    """Be nothing: what is measured is Airflow."""
    raise AssertionError(spec)


if __name__ == "__main__":
    run(__file__, main, child)
