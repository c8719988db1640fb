"""CPU time of a poll that finds nothing new: ours in Airflow's real TriggerRunner, bare loops, Google's triggers.

All systems of a group poll at the same time, each in a process of its own, against one local service with TLS and
tokens; so whatever else the machine does meets all of them alike. The waits of each begin evenly over one interval;
then, for one interval more, counts the CPU time of the process, Airflow's included, and the polls that arrived.
Some time after so many waits have begun Python's garbage collector walks the whole heap once, in a quarter of a second:
each process has that done before it is measured, not by chance inside of it or outside.

    python benchmarks/poll_cost.py [--quick] [--rounds 2] [--one-by-one]
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from typing import TYPE_CHECKING, Any

from common import Check, Children, bars, begin, plot, publish, run, service, service_counts, spread, table, verdicts
from runner import ALONE, BARE_TRIGGER, RIVALS
from systems import running

if TYPE_CHECKING:
    import argparse

BARE, CAPPED = "bare loop", "bare loop, capped at 100"
OURS, LONE = "ours", "ours without tick"
CLOUD_RUN, DATAPROC, _ = RIVALS
GROUPS: dict[str, tuple[int, float, tuple[str, ...]]] = {
    "1,000 waits of 30 s": (1000, 30.0, (BARE, CAPPED, BARE_TRIGGER, OURS, LONE, ALONE)),
    "5,000 waits of 30 s": (5000, 30.0, (BARE, CAPPED, BARE_TRIGGER, OURS, LONE, ALONE)),
    "1,000 waits of 15 s": (1000, 15.0, (BARE, BARE_TRIGGER, OURS, ALONE, *RIVALS)),
}


async def child(spec: dict[str, Any]) -> dict[str, Any]:
    """Begin the waits evenly over one interval, and measure the next."""
    loop = asyncio.get_running_loop()
    waits, interval = spec["waits"], spec["interval"]
    async with running(spec) as system:
        # The first one alone, and done with: it reads the connection, and imports.
        await system.start(0)
        await asyncio.sleep(1.0)
        await begin(spec)
        origin = loop.time()
        for number in range(1, waits):
            await asyncio.sleep(max(0.0, origin + number * interval / waits - loop.time()))
            await system.start(number)
        await asyncio.sleep(max(0.0, origin + interval - loop.time()))
        gc.collect()
        calls, cpu, wall = service_counts(spec)["calls"], time.process_time(), time.monotonic()
        await asyncio.sleep(interval)
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        seen = service_counts(spec)
    return {"polls": seen["calls"] - calls, "cpu": cpu, "wall": wall, "connections": seen["connections"]}


def measure(name: str, *, rounds: int, one_by_one: bool, quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Run a group; returns the rounds of each system."""
    waits, interval, systems = GROUPS[name]
    if quick:
        interval, waits = interval / 5, waits // 5
    found: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    children = Children(__file__)
    for number in range(rounds):
        with service() as server:
            # Whoever is first in one round is last in the next.
            for system in systems if number % 2 == 0 else systems[::-1]:
                spec = {"system": system, "waits": waits, "interval": interval, "jitter": 0.1, **server.address}
                children.start(spec)
                if one_by_one:
                    found[system] += children.results()
            for result in children.results():
                found[result["system"]].append(result)
    return found


def per_poll(results: list[dict[str, Any]]) -> list[float]:
    """Return the microseconds of CPU time of a poll, round by round."""
    return [result["cpu"] / max(result["polls"], 1) * 1e6 for result in results]


def ratio(found: dict[str, list[dict[str, Any]]], ours: str, theirs: str) -> float:
    """Return one system's cost over another's, the median over the rounds."""
    pairs = zip(per_poll(found[ours]), per_poll(found[theirs]), strict=True)
    return statistics.median(mine / other for mine, other in pairs)


def section(name: str, found: dict[str, list[dict[str, Any]]]) -> str:
    """Return a group's table."""
    rows = []
    for system, results in found.items():
        costs = per_poll(results) if system != ALONE else []
        shares = [result["cpu"] / result["wall"] * 100 for result in results]
        polls = spread([result["polls"] / result["wall"] for result in results], 1)
        against = f"{ratio(found, system, BARE):.2f}" if costs else "-"
        connections = spread([result["connections"] for result in results])
        rows.append((system, spread(costs), against, spread(shares, 1), polls, connections))
    header = ("", "µs CPU a poll", "against the bare loop", "% of a core", "polls a second", "connections")
    return f"### {name}\n\n{table(header, rows)}"


def main(arguments: argparse.Namespace) -> None:
    """Measure, print, plot, and check the ratios."""
    rounds = arguments.rounds or (1 if arguments.quick else 2)
    groups = {
        name: measure(name, rounds=rounds, one_by_one=arguments.one_by_one, quick=arguments.quick)
        for name in GROUPS
        if arguments.only in name
    }
    checks: list[Check] = []
    for name, limit in (("1,000 waits of 30 s", 0.5), ("5,000 waits of 30 s", 0.3)):
        if name in groups:
            checks += [
                Check(what=f"{mine} / {other}, {name}", value=ratio(groups[name], mine, other), limit=most)
                for mine, most in ((OURS, limit), (LONE, 1.2))
                for other in (BARE, BARE_TRIGGER)
            ]
    if found := groups.get("1,000 waits of 15 s", {}):
        checks += [
            Check(what=f"ours / {rival}, 1,000 waits of 15 s", value=ratio(found, OURS, rival), limit=limit)
            for rival, limit in ((CLOUD_RUN, 0.25), (DATAPROC, 0.1))
        ]
    title = "CPU time of a poll that finds nothing new"
    how = f"Median of {rounds} rounds (and their range); all systems of a table polled at the same time."
    sections = [section(name, found) for name, found in groups.items()]
    publish(arguments.output, "poll_cost", f"## {title}\n\n{how}", *sections, verdicts(checks), "![](poll_cost.png)")
    with plot(arguments.output, "poll_cost", columns=len(groups)) as axes:
        for each, (name, found) in zip(axes, groups.items(), strict=True):
            figures = {system: per_poll(results) for system, results in found.items() if system != ALONE}
            bars(each, f"{name}: µs CPU a poll", figures)


if __name__ == "__main__":
    run(
        __file__, main, child, lambda each: each.add_argument("--one-by-one", action="store_true", help="one at a time")
    )
