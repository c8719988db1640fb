"""Ten thousand operations in one task: memory of the triggerer for each, and how late the end is seen.

One trigger in Airflow's real TriggerRunner, in a fresh process, and the simulator in another. Resident memory is taken
when a trigger with one operation has polled, so that all is imported and connected, and then twice a second: the
highest figure counts, with the row, the names, all that the event is made from, and what the allocator keeps. The
operations end evenly over two intervals; the end is late by the time from the last one's end to the event.

    python benchmarks/many.py [--quick]
"""

from __future__ import annotations

import asyncio
import collections
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any

from common import Check, Children, begin, publish, run, spread, table, verdicts
from memory import resident
from runner import OURS, running

from tests.simulator_fixture import running_simulator

if TYPE_CHECKING:
    import argparse

SIZES = (1_000, 10_000)
INTERVAL = 20.0
LIMIT = 10.0
"""KB an operation."""
METHODS = ("get", "list")


def names_of(number: int, *, start: float, ends: tuple[float, float]) -> list[str]:
    """Return operations that end evenly between two times from ``start``."""
    from airflow_provider_lro.simulator import operation_name

    first, last = ends
    step = (last - first) / max(1, number - 1)
    return [
        "projects/bench/" + operation_name(f"o{each:06}", start=round(start, 3), duration=round(first + each * step, 3))
        for each in range(number)
    ]


async def child(spec: dict[str, Any]) -> dict[str, Any]:
    """Wait for one operation, then for many; look at the memory all the time."""
    from airflow_provider_lro._core.names import pack

    times = {"interval": spec["interval"], "poll_method": spec["method"], "list_parent": "projects/bench"}

    def row(names: list[str], *, started_at: float) -> tuple[str, dict[str, Any]]:
        return OURS, {"operation_names": pack(names), "started_at": started_at, **times}

    async with running(spec) as triggers:
        spec["row"] = row(names_of(1, start=time.time(), ends=(0.0, 0.0)), started_at=time.time())
        await triggers.start(0)
        while not triggers.fired:  # noqa: ASYNC110  (the runner has no event for it)
            await asyncio.sleep(0.1)
        await begin(spec)
        before = resident()
        start, interval = time.time(), spec["interval"]
        names = names_of(spec["waits"], start=start, ends=(2 * interval, 4 * interval))
        spec["row"] = row(names, started_at=start)
        kwargs = len(str(spec["row"][1]))
        del names
        await triggers.start(1)
        del spec["row"]
        peak = lag = 0.0
        while len(triggers.fired) < 2:  # noqa: PLR2004  (the first was for the one)
            asked = time.monotonic()
            await asyncio.sleep(0.5)
            lag = max(lag, time.monotonic() - asked - 0.5)
            peak = max(peak, resident(collect=False))
            assert time.time() < start + 20 * interval, "it does not end"
        late = time.time() - start - 4 * interval
        letters = collections.Counter(triggers.fired[1].event.payload["outcomes"])
        assert letters == {"S": spec["waits"]}, letters
    return {"kb": (peak - before) / spec["waits"], "late": late, "row": kwargs / 1024, "lag": lag}


def main(arguments: argparse.Namespace) -> None:
    """Measure, print, and check the limits."""
    sizes = SIZES[:1] if arguments.quick else SIZES
    interval = 5.0 if arguments.quick else INTERVAL
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(arguments.rounds or 1):
        for waits in sizes:
            for method in (arguments.only,) if arguments.only else METHODS:
                children = Children(__file__)
                with running_simulator() as simulator, tempfile.TemporaryDirectory(prefix="lro-bench-") as directory:
                    spec = {"system": "many", "waits": waits, "method": method, "interval": interval}
                    connection = {"host": "127.0.0.1", "port": simulator.port, "extra": '{"insecure": true}'}
                    spec |= {"connection": {"conn_type": "lro", **connection}, "directory": directory, "roots": ""}
                    children.start(spec)
                    for result in children.results():
                        found.setdefault((method, waits), []).append(result)
    figures = ("kb", "late", "lag", "row")
    rows = [
        (
            f'poll_method="{method}"',
            f"{waits:,}",
            *(spread([each[figure] for each in results], 2) for figure in figures),
        )
        for (method, waits), results in found.items()
    ]
    checks = []
    for (method, waits), results in found.items():
        kb, late = (statistics.median(each[figure] for each in results) for figure in ("kb", "late"))
        checks.append(Check(what=f"KB an operation, {waits:,}, {method}", value=kb, limit=LIMIT))
        checks.append(Check(what=f"seconds late, {waits:,}, {method}", value=late, limit=interval))
    publish(
        arguments.output,
        "many",
        "## Many operations in one task",
        f"One trigger, an interval of {interval:g} s; all operations succeed. Rounds: {arguments.rounds or 1}.",
        table(("", "operations", "KB an operation", "late, s", "longest blocking, s", "row, KB"), rows),
        verdicts(checks),
    )


if __name__ == "__main__":
    run(__file__, main, child)
