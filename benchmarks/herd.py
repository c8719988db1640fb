"""Many waits at once: resumed together, over a restart of the service, and ten thousand polling side by side.

Counts the RPCs that fail, when the first polls come, and how late the event loop is: a task in it sleeps a few
milliseconds at a time. In the first two parts the service takes 100 calls at a time on a connection and holds each for
10 ms; in the first a call has one second, else as many as a wait would have.

    python benchmarks/herd.py [--quick]
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from common import Check, Children, Service, begin, plot, publish, run, service, service_counts, spread, table, verdicts
from runner import ALONE, BARE_TRIGGER
from systems import running

if TYPE_CHECKING:
    import argparse

OURS, YOUNG = "ours", "ours, deferred just now"
BARE, CAPPED = "bare loop", "bare loop, capped at 100"
SERVICE = ("--streams", "100", "--hold", "0.01", "--first")
NAP = 0.005
UNLIMITED = ("--first",)
DOWN = 3.0
"""Seconds that the service is away."""
SLICE = 0.5
"""Seconds; two of the ticks that our waits share."""


class Sleeper:
    """Measures how late an event loop is."""

    def __init__(self) -> None:
        self._lags: list[float] = []
        self._task = asyncio.create_task(self._nap())

    async def _nap(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            until = clock() + NAP
            await asyncio.sleep(NAP)
            self._lags.append(max(0.0, clock() - until))

    def lag(self) -> dict[str, float]:
        """Return the lag in ms: p99 of the naps, p99 over time (a stall counts as long as it lasts), and the worst."""
        self._task.cancel()
        lags = sorted(self._lags, reverse=True)
        left = 0.01 * sum(lag + NAP for lag in lags)
        for over_time in lags:
            left -= over_time + NAP
            if left <= 0:
                break
        return {"p99": lags[len(lags) // 100] * 1e3, "over time": over_time * 1e3, "max": lags[0] * 1e3}


def count_failures() -> list[str]:
    """Return a list that grows with every RPC that fails from now on, whoever made it."""
    from grpc.aio import AioRpcError

    failed: list[str] = []
    made = AioRpcError.__init__

    def counted(self: AioRpcError, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        failed.append(self.code().name)

    AioRpcError.__init__ = counted  # type: ignore[method-assign]
    return failed


async def child(spec: dict[str, Any]) -> dict[str, Any]:
    """Begin all waits, at once or evenly, and watch."""
    loop = asyncio.get_running_loop()
    failed = count_failures()
    waits, over = spec["waits"], spec["over"]
    if spec["system"] == YOUNG:
        spec["fresh"] = True
    async with running(spec) as system:
        await system.start(0)
        await asyncio.sleep(1.0)
        if not over:
            system.prepare(range(1, waits + 1))
        await begin(spec)
        sleeper, started, origin, cpu = Sleeper(), time.time(), loop.time(), time.process_time()
        if over:
            for number in range(1, waits + 1):
                await asyncio.sleep(max(0.0, origin + number * over / waits - loop.time()))
                await system.start(number)
        else:
            await system.herd()
        begun = loop.time() - origin
        await asyncio.sleep(max(0.0, origin + spec["watch"] - loop.time()))
        lag, cpu = sleeper.lag(), time.process_time() - cpu
        seen, why = service_counts(spec), dict(Counter(failed))
    first = [moment - started for moment in seen.pop("first")]
    return {**seen, **lag, "cpu": cpu, "begun": begun, "first": first, "failed": sum(why.values()), "why": why}


def resume(arguments: argparse.Namespace) -> tuple[dict[str, list[dict[str, Any]]], int, float]:
    """Resume all waits at once, system by system."""
    waits, interval = (1_000, 4.0) if arguments.quick else (5_000, 10.0)
    rounds = arguments.rounds or (1 if arguments.quick else 2)
    systems = (OURS, YOUNG, BARE, CAPPED, BARE_TRIGGER, ALONE)
    found: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    children = Children(__file__)
    for number in range(rounds):
        for system in systems if number % 2 == 0 else systems[::-1]:
            with service(*SERVICE) as server:
                children.start(
                    {
                        "system": system,
                        "waits": waits,
                        "interval": interval,
                        "jitter": 0.1,
                        "rpc_timeout": 1.0,
                        "over": 0.0,
                        "watch": interval + 2.0,
                        **server.address,
                    }
                )
                found[system] += children.results()
    return found, waits, interval


def side_by_side(
    systems: tuple[str, ...],
    spec: dict[str, Any],
    options: tuple[str, ...] = SERVICE,
    restart: tuple[float, float] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Run systems at the same time; restart the service after some seconds, away for some."""

    def restarted(server: Service) -> None:
        if restart is not None:
            time.sleep(restart[0])
            server.stop(kill=True)
            time.sleep(restart[1])
            server.start()

    children = Children(__file__)
    with service(*options) as server:
        for system in systems:
            children.start({"system": system, "jitter": 0.1, **spec, **server.address})
        return {result["system"]: [result] for result in children.results(lambda: restarted(server))}


FIGURES = {
    "polls": ("calls", 0),
    "failed RPCs": ("failed", 0),
    "most at once": ("most at once", 0),
    "loop lag p99, ms": ("p99", 1),
    "p99 over time": ("over time", 0),
    "worst": ("max", 0),
    "CPU, s": ("cpu", 1),
    "all begun after, s": ("begun", 1),
}
HEADER = ("", *FIGURES)


def rows(found: dict[str, list[dict[str, Any]]]) -> list[tuple[str, ...]]:
    """Return the lines of a table."""
    return [
        (system, *(spread([result[key] for result in results], digits) for key, digits in FIGURES.values()))
        for system, results in found.items()
    ]


def codes(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return with which codes RPCs failed."""
    counts = {
        system: sum((Counter(result["why"]) for result in results), Counter()) for system, results in found.items()
    }
    said = "; ".join(
        f"{system} {', '.join(f'{code} {number:,}' for code, number in count.items())}"
        for system, count in counts.items()
        if count
    )
    return f"Failed, all rounds together: {said or 'none'}."


def median(found: dict[str, list[dict[str, Any]]], system: str, key: str) -> float:
    """Return the median over the rounds."""
    return float(statistics.median(result[key] for result in found[system]))


def histogram(first: list[float]) -> dict[int, int]:
    """Count the first polls in slices of time."""
    return Counter(int(max(moment, 0.0) / SLICE) for moment in first)


def main(arguments: argparse.Namespace) -> None:
    """Measure, print, plot, and check."""
    sections: list[str] = []
    checks: list[Check] = []
    drawn: dict[str, tuple[list[float], float]] = {}
    if arguments.only in "resume":
        found, waits, interval = resume(arguments)
        sections += [f"### {waits:,} waits resumed at once", table(HEADER, rows(found)), codes(found)]
        drawn = {system: (found[system][0]["first"], interval + 2) for system in (OURS, BARE)}
        busiest = max(histogram(found[OURS][0]["first"]).values()) / (waits * SLICE / interval)
        checks += [
            Check(what=f"RPCs that fail, {system}", value=max(each["failed"] for each in found[system]), limit=0)
            for system in (OURS, YOUNG)
        ]
        checks += [
            Check(what=f"first polls in the busiest {SLICE:g} s of {interval:g} s / even", value=busiest, limit=1.5),
            *(
                Check(
                    what=f"worst loop lag, {system} / {other}",
                    value=median(found, system, "max") / median(found, other, "max"),
                    limit=0.25,
                )
                for system in (OURS, YOUNG)
                for other in (BARE, BARE_TRIGGER)
            ),
        ]
    if arguments.only in "restart":
        waits, interval = (1_000, 4.0) if arguments.quick else (5_000, 10.0)
        spec = {"waits": waits, "interval": interval, "over": interval, "watch": 3 * interval + DOWN}
        found = side_by_side((OURS, BARE, BARE_TRIGGER), spec, restart=(1.5 * interval, DOWN))
        title = f"### {waits:,} waits every {interval:g} s, the service killed and back after {DOWN:g} s"
        sections += [
            title,
            table(HEADER, rows(found)),
            codes(found),
            "Polls and connections are those after the restart.",
        ]
        drawn |= {
            f"{system}, restart": ([m - 1.5 * interval - DOWN for m in found[system][0]["first"]], interval + 2)
            for system in (OURS, BARE)
        }
    if arguments.only in "10,000":
        waits, watch = (2_000, 30.0) if arguments.quick else (10_000, 90.0)
        spec = {"waits": waits, "interval": 60.0, "fresh": True, "over": watch / 3, "watch": watch}
        found = side_by_side((OURS, BARE, BARE_TRIGGER, ALONE), spec, UNLIMITED)
        sections += [f"### {waits:,} waits polling, 1 s to 60 s", table(HEADER, rows(found)), codes(found)]
        checks += [
            Check(
                what=f"loop lag p99, {waits:,} waits, ours / {other}",
                value=median(found, OURS, "p99") / median(found, other, "p99"),
                limit=2.0,
            )
            for other in (BARE, BARE_TRIGGER)
        ]
    publish(arguments.output, "herd", "## Herds", *sections, verdicts(checks), "![](herd.png)")
    if drawn:
        with plot(arguments.output, "herd", columns=len(drawn), height=2.6) as axes:
            for each, (system, (first, end)) in zip(axes, drawn.items(), strict=True):
                counts = histogram(first)
                each.bar([(index + 0.5) * SLICE for index in counts], list(counts.values()), width=SLICE)
                each.set_xlim(0, end)
                each.set_title(f"First polls: {system}", fontsize=9)
                each.set_xlabel("s", fontsize=8)


if __name__ == "__main__":
    run(__file__, main, child)
