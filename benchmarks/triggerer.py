"""Ten thousand waits in one real triggerer: is its heartbeat ever missed?

A real scheduler on this machine defers the sensors of as many DAG runs as it takes, and one triggerer has all of their
triggers, each polling by the default schedule, 1 s to 60 s. Twice a second the age of the triggerer's last heartbeat is
read from Airflow's database, from the moment before the first one until long after the last has begun. Airflow gives a
triggerer up, and its triggers to another one, when that is more than 30 s.

    python benchmarks/triggerer.py [--quick]
"""

from __future__ import annotations

import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Check, plot, publish, run, service, table, told, verdicts
from dags.triggerer import TASKS
from one_wait import TICKS, child, descendants, stat

from scripts.stack import AirflowStack

if TYPE_CHECKING:
    import argparse

THRESHOLD = 30.0
"""Seconds: Airflow's ``[triggerer] triggerer_health_check_threshold``."""
SYSTEM = "triggerer"
LONGEST_START = 900.0


def ask(airflow: AirflowStack, query: str) -> Any:
    """Return the one value that a query of Airflow's database gives."""
    with closing(sqlite3.connect(f"file:{airflow.home / 'airflow.db'}?mode=ro", uri=True, timeout=30.0)) as database:
        return database.execute(query).fetchone()[0]


def age(airflow: AirflowStack) -> float:
    """Return the seconds since the triggerer's last heartbeat."""
    last = ask(airflow, "SELECT max(latest_heartbeat) FROM job WHERE job_type = 'TriggererJob'")
    return (datetime.now(UTC) - datetime.fromisoformat(last).replace(tzinfo=UTC)).total_seconds()


def cpu(airflow: AirflowStack) -> float:
    """Return the CPU seconds of the triggerer, its supervisor and its runner."""
    pid = airflow.pid("triggerer")
    return sum(int(value) for each in (pid, *descendants(pid)) for value in stat(each)[11:13]) / TICKS


def measure(waits: int, watch: float) -> dict[str, Any]:
    """Begin all waits, watch the triggerer, and return what was seen."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)  # a file each
    with service() as server, tempfile.TemporaryDirectory(prefix="lro-bench-") as home:
        spec = {"system": SYSTEM, **server.address}
        stored = {
            "conn_type": "lro",
            "host": "localhost",
            "port": server.port,
            "password": f"bench-{SYSTEM}",
            "extra": {"root_certificates": server.roots},
        }
        options = {"AIRFLOW__TRIGGERER__CAPACITY": str(2 * waits)}
        with AirflowStack(Path(home), Path(__file__).parent / "dags", env=options) as airflow:
            command = [sys.executable, "-W", "ignore", "-m", "airflow", "connections", "add", "lro_default"]
            subprocess.run([*command, "--conn-json", json.dumps(stored)], check=True, env=airflow.env, timeout=120)
            ages: list[tuple[float, float]] = []
            began = time.monotonic()

            def look() -> None:
                ages.append((time.monotonic() - began, age(airflow)))
                time.sleep(0.5)

            for _ in range(waits // TASKS):
                airflow.trigger("triggerer")
                look()
            while ask(airflow, "SELECT count(*) FROM trigger WHERE triggerer_id IS NOT NULL") < waits:
                assert time.monotonic() < began + LONGEST_START, "the scheduler does not get through"
                look()
            begun, calls, used = time.monotonic(), told(spec)["calls"], cpu(airflow)
            while time.monotonic() < begun + watch:
                look()
            seconds = time.monotonic() - begun
            said = (airflow.log_dir / "triggerer.log").read_text(errors="replace")
            return {
                "ages": ages,
                "begun": begun - began,
                "waiting": ask(airflow, "SELECT count(*) FROM task_instance WHERE state = 'deferred'"),
                "rate": (told(spec)["calls"] - calls) / seconds,
                "cpu": 100.0 * (cpu(airflow) - used) / seconds,
                "connections": told(spec)["connections"],
                "blocked": said.count("async thread was blocked"),
            }


def main(arguments: argparse.Namespace) -> None:
    """Measure, print, plot, and check."""
    waits, watch = (300, 30.0) if arguments.quick else (10_000, 180.0)
    found = measure(waits, watch)
    worst = max(seconds for _, seconds in found["ages"])
    rows = [
        ("waits, all deferred at the end", f"{found['waiting']:,}"),
        ("seconds until the last of them had begun", f"{found['begun']:,.0f}"),
        ("polls a second after that", f"{found['rate']:,.0f}"),
        ("% of a core, the triggerer's supervisor and runner", f"{found['cpu']:,.0f}"),
        ("connections", f"{found['connections']:,}"),
        ("times that Airflow found the event loop blocked for 0.2 s or more", f"{found['blocked']:,}"),
        ("longest age of the heartbeat, s", f"{worst:.1f}"),
    ]
    checks = [
        Check(what="oldest heartbeat / the age at which Airflow gives it up", value=worst / THRESHOLD, limit=1),
        Check(what="waits that did not go on / all", value=1.0 - found["waiting"] / waits, limit=0),
    ]
    title = f"## {waits:,} waits in a real triggerer"
    publish(arguments.output, "triggerer", title, table(("", ""), rows), verdicts(checks), "![](triggerer.png)")
    with plot(arguments.output, "triggerer", height=2.4) as axes:
        axes[0].plot(*zip(*found["ages"], strict=True), linewidth=0.8)
        axes[0].axhline(THRESHOLD, color="tab:red", linewidth=0.8)
        axes[0].axvline(found["begun"], color="silver", linewidth=0.8)
        axes[0].set_title("Age of the triggerer's heartbeat, s", fontsize=9)
        axes[0].set_xlabel("s; grey: all waits have begun, red: Airflow gives it up", fontsize=8)


if __name__ == "__main__":
    run(__file__, main, child)
