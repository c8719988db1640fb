"""Ten thousand waits in one real triggerer: is its heartbeat ever missed?

A real scheduler on this machine, with PostgreSQL, defers the sensors of as many DAG runs as it takes, and one triggerer
has all of their triggers, each polling by the default schedule, 1 s to 60 s. Twice a second the age of the triggerer's
last heartbeat is read from Airflow's database, from before the first one until long after the last has begun. Airflow
gives a triggerer up, and its triggers to another one, when that is more than 30 s. Then the same once more, with as
many of Airflow's own sensors that wait for a day far off, and do nothing.

    python benchmarks/triggerer.py [--quick]
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Check, plot, publish, run, service, service_counts, table, verdicts
from one_wait import TICKS, child, descendants, stat

from scripts.children import Children
from scripts.postgres import start_postgres
from scripts.stack import AirflowStack
from tests.airflow.running import cli

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

THRESHOLD = 30.0
"""Seconds: Airflow's ``[triggerer] triggerer_health_check_threshold``."""
TASKS = 100
"""Of each DAG run."""
SYSTEM = "triggerer"
SYSTEMS = {"ours": "ours", "Airflow's own, idle": "idle"}
LONGEST_START = 900.0


def ask(database: Any, query: str) -> Any:
    """Return the one value that a query of Airflow's database gives."""
    with database.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def age(database: Any) -> float:
    """Return the seconds since the triggerer's last heartbeat."""
    last = ask(database, "SELECT max(latest_heartbeat) FROM job WHERE job_type = 'TriggererJob'")
    return float((datetime.now(UTC) - last).total_seconds())


def cpu(airflow: AirflowStack) -> float:
    """Return the CPU seconds of the triggerer, its supervisor and its runner."""
    pid = airflow.pid("triggerer")
    return sum(int(value) for each in (pid, *descendants(pid)) for value in stat(each)[11:13]) / TICKS


@contextmanager
def airflow_for(waits: int, spec: dict[str, Any]) -> Iterator[tuple[AirflowStack, Any]]:
    """Run an Airflow whose triggerer takes so many triggers; gives it, and a connection to its database."""
    import psycopg2
    from cryptography.fernet import Fernet

    stored = {
        "conn_type": "lro",
        "host": "localhost",
        "port": spec["port"],
        "password": f"bench-{SYSTEM}",
        "extra": {"root_certificates": spec["roots"]},
    }
    options = {
        "AIRFLOW__TRIGGERER__CAPACITY": str(2 * waits),
        "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
        "LRO_BENCH_TASKS": str(TASKS),
    }
    dags = Path(__file__).parent / "dags"
    with tempfile.TemporaryDirectory(prefix="lro-bench-") as home, Children() as children:
        url = start_postgres(children)
        with (
            AirflowStack(Path(home), dags, env=options, database=url, children=children) as airflow,
            closing(psycopg2.connect(url.replace("+psycopg2", ""))) as database,
        ):
            database.autocommit = True
            cli(airflow, "connections", "add", "lro_default", "--conn-json", json.dumps(stored))
            yield airflow, database


def measure(dag: str, waits: int, watch: float) -> dict[str, Any]:
    """Begin all waits of a DAG, watch the triggerer, and return what was seen."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # Airflow's supervisor has a log open for each trigger
    with service() as server:
        spec = {"system": SYSTEM, **server.address}
        with airflow_for(waits, spec) as (airflow, database):
            ages: list[tuple[float, float]] = []
            began = time.monotonic()

            def look() -> None:
                ages.append((time.monotonic() - began, age(database)))
                time.sleep(0.5)

            for _ in range(waits // TASKS):
                airflow.trigger(dag)
                look()
            while ask(database, "SELECT count(*) FROM trigger WHERE triggerer_id IS NOT NULL") < waits:
                assert time.monotonic() < began + LONGEST_START, "the scheduler does not get through"
                look()
            begun, calls, used = time.monotonic(), service_counts(spec)["calls"], cpu(airflow)
            while time.monotonic() < begun + watch:
                look()
            seconds = time.monotonic() - begun
            said = (airflow.log_dir / "triggerer.log").read_text(errors="replace")
            return {
                "ages": ages,
                "worst": max(seconds for _, seconds in ages),
                "begun": begun - began,
                "waiting": ask(database, "SELECT count(*) FROM task_instance WHERE state = 'deferred'"),
                "rate": (service_counts(spec)["calls"] - calls) / seconds,
                "cpu": 100.0 * (cpu(airflow) - used) / seconds,
                "connections": service_counts(spec)["connections"],
                "blocked": said.count("async thread was blocked"),
            }


FIGURES = {
    "waits, all deferred at the end": ("waiting", 0),
    "seconds until the last of them had begun": ("begun", 0),
    "polls a second after that": ("rate", 0),
    "% of a core after that, supervisor and runner": ("cpu", 0),
    "connections": ("connections", 0),
    "times that Airflow found the event loop blocked": ("blocked", 0),
    "oldest heartbeat, s": ("worst", 1),
}


def main(arguments: argparse.Namespace) -> None:
    """Measure, print, plot, and check."""
    waits, watch = (300, 30.0) if arguments.quick else (10_000, 90.0)
    found = {name: measure(dag, waits, watch) for name, dag in SYSTEMS.items()}
    rows = [(what, *(f"{each[key]:,.{digits}f}" for each in found.values())) for what, (key, digits) in FIGURES.items()]
    ours = found["ours"]
    checks = [
        Check(what="oldest heartbeat / the age at which Airflow gives it up", value=ours["worst"] / THRESHOLD, limit=1),
        Check(what="waits that did not go on / all", value=1.0 - ours["waiting"] / waits, limit=0),
    ]
    title = f"## {waits:,} waits in a real triggerer"
    publish(arguments.output, "triggerer", title, table(("", *found), rows), verdicts(checks), "![](triggerer.png)")
    with plot(arguments.output, "triggerer", columns=len(found), height=2.4) as axes:
        for each, (name, seen) in zip(axes, found.items(), strict=True):
            each.plot(*zip(*seen["ages"], strict=True), linewidth=0.8)
            each.axhline(THRESHOLD, color="tab:red", linewidth=0.8)
            each.axvline(seen["begun"], color="silver", linewidth=0.8)
            each.set_title(f"Age of the heartbeat, s: {name}", fontsize=9)
            each.set_xlabel("s; grey: all have begun, red: Airflow gives it up", fontsize=8)


if __name__ == "__main__":
    run(__file__, main, child)
