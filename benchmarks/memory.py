"""Memory and connections of a wait: ours in Airflow's real TriggerRunner, a bare loop, Google's triggers.

Each system and number of waits in a fresh process. Its resident memory is taken when one wait has polled, so that all
is imported and connected, and again when all have polled; the difference is divided by the waits. Connections are
counted by the service.

    python benchmarks/memory.py [--quick]
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Check, Children, begin, plot, publish, run, service, service_counts, spread, table, verdicts
from runner import ALONE, RIVALS
from systems import running

if TYPE_CHECKING:
    import argparse

OURS, BARE, CAPPED = "ours", "bare loop", "bare loop, capped at 100"
SIZES = (100, 1_000, 5_000, 10_000)
INTERVAL = 20.0
LIMIT = 30.0
"""KB a wait, Airflow's own share included."""
CLOUD_RUN, DATAPROC, _ = RIVALS
MOST_OF_A_RIVAL = 1_000
"""Waits: CloudRunJobFinishedTrigger opens a connection for each, DataprocOperationTrigger for each poll."""
POLLS_EACH = 2


def resident(*, collect: bool = True) -> float:
    """Return the resident memory of this process, in KB; to collect garbage first blocks the event loop."""
    if collect:
        gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


async def child(spec: dict[str, Any]) -> dict[str, Any]:
    """Begin one wait, then all others, and wait until each has polled twice."""
    loop = asyncio.get_running_loop()
    async with running(spec) as system:
        await system.start(0)
        await begin(spec)
        # At most as long as an interval: our first pause.
        while spec["system"] != ALONE and not service_counts(spec)["calls"]:  # noqa: ASYNC110  (in another process)
            await asyncio.sleep(0.1)
        before = resident()
        origin = loop.time()
        ramp = spec["interval"]
        for number in range(1, spec["waits"] + 1):
            await asyncio.sleep(max(0.0, origin + number * ramp / spec["waits"] - loop.time()))
            await system.start(number)
        wanted, until = POLLS_EACH * spec["waits"] if spec["system"] != ALONE else 0, loop.time() + 60.0
        while service_counts(spec)["calls"] < wanted and loop.time() < until:  # noqa: ASYNC110  (in another process)
            await asyncio.sleep(0.2)
        after = resident()
        seen = service_counts(spec)
    return {"kb": (after - before) / spec["waits"], "connections": seen["connections"], "polls": seen["calls"]}


def measure(sizes: tuple[int, ...], rounds: int, *, interval: float) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Run all systems of one size at the same time, size by size."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    children = Children(__file__)
    for _ in range(rounds):
        for waits in sizes:
            rivals = (CLOUD_RUN, DATAPROC) if waits <= MOST_OF_A_RIVAL else ()
            with service() as server:
                for system in (OURS, ALONE, BARE, CAPPED, *rivals):
                    spec = {"system": system, "waits": waits, "interval": interval, "jitter": 0.1, **server.address}
                    children.start(spec)
                for result in children.results():
                    found.setdefault((result["system"], waits), []).append(result)
    return found


def main(arguments: argparse.Namespace) -> None:
    """Measure, print, plot, and check the limits."""
    rounds = arguments.rounds or 1
    sizes = SIZES[:2] if arguments.quick else SIZES
    found = measure(sizes, rounds, interval=6.0 if arguments.quick else INTERVAL)
    systems = list(dict.fromkeys(system for system, _ in found))
    kb = {key: [result["kb"] for result in results] for key, results in found.items()}
    connections = {key: [result["connections"] for result in results] for key, results in found.items()}
    header = ("KB a wait; waits:", *(f"{waits:,}" for waits in sizes))
    memory = [(system, *(spread(kb.get((system, waits), []), 1) for waits in sizes)) for system in systems]
    opened = [(system, *(spread(connections.get((system, waits), [])) for waits in sizes)) for system in systems]
    checks = [
        Check(what=f"KB a wait at {waits:,}", value=statistics.median(kb[OURS, waits]), limit=LIMIT)
        for waits in sizes
        if waits in (1_000, 10_000)
    ]
    most = max(max(connections[OURS, waits]) for waits in sizes)
    checks.append(Check(what="connections, whatever the number of waits", value=most, limit=1))
    publish(
        arguments.output,
        "memory",
        "## Memory and connections of a wait",
        f"Resident memory in a fresh process; with all waits polled at least twice on average. Rounds: {rounds}. "
        f"“{ALONE}” is a trigger that only sleeps: what Airflow itself takes, in ours and in Google's too.",
        table(header, memory),
        table(("connections; waits:", *header[1:]), opened),
        verdicts(checks),
        "![](memory.png)",
    )
    with plot(arguments.output, "memory") as (axes,):
        for system in systems:
            had = [waits for waits in sizes if (system, waits) in kb]
            style = {"linewidth": 2.5} if system == OURS else {"linewidth": 1}
            axes.plot(had, [statistics.median(kb[system, waits]) for waits in had], "o-", label=system, **style)
        axes.axhline(LIMIT, color="grey", linestyle=":")
        axes.set(xscale="log", yscale="log", xlabel="waits", ylabel="KB a wait")
        axes.set_title("Memory of a wait (dotted: what is wanted of ours)", fontsize=9)
        axes.legend(fontsize=7)


if __name__ == "__main__":
    run(__file__, main, child)
