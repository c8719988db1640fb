"""How late the end of an operation is seen, against the polls that were spent: on a virtual clock, and for real.

On a virtual clock the same operations for all: lognormal durations, median 5 minutes. "At equal polls" is the schedule
with its interval (or what stands for it) tuned until it spends as many polls on them as ours with its defaults does.

For real, against the simulator, what needs a service is there, too: long polls by WaitOperation, and one listing for
all. These operations take seconds, and the intervals fit them; all systems wait at the same time.

    python benchmarks/detection.py [--quick]
"""

from __future__ import annotations

import argparse  # noqa: TC003  (its siblings need it at run time)
import asyncio
import itertools
import math
import random
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common import Check, plot, publish, run, table, verdicts

from airflow_provider_lro._core.schedule import Schedule
from tests.simulator_fixture import running_simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MEDIAN, SIGMA = 300.0, 1.0
"""Seconds, and the spread: 95 % of the operations take from 42 s to 36 min."""
OURS, GO, API_CORE, FIXED = "ours", "Go's full jitter (gax-go)", "google-api-core", "fixed"


def ours(interval: float, source: random.Random) -> Iterator[float]:
    """Give the pauses of our schedule, each to a random moment of its window."""
    for window in Schedule(interval=interval).windows():
        yield source.uniform(window.shortest, window.longest)


def go(interval: float, source: random.Random) -> Iterator[float]:
    """Give the pauses of ``longrunning.WaitWithInterval``: gax-go's ``Backoff.Pause``, uniform in (0, bound]."""
    for window in Schedule(interval=interval).windows():
        yield source.uniform(0.0, window.longest)


def api_core(interval: float, source: random.Random) -> Iterator[float]:
    """Give the pauses of google-api-core's ``DEFAULT_POLLING`` without its timeout; ``interval`` is its maximum."""
    for window in Schedule(interval=interval, multiplier=1.5).windows():
        yield source.uniform(0.0, window.longest)


def fixed(interval: float, source: random.Random) -> Iterator[float]:
    """Give always the same pause, as most of the Google provider's triggers do."""
    _ = source
    return itertools.repeat(interval)


SCHEDULES: dict[str, tuple[Callable[[float, random.Random], Iterator[float]], float]] = {
    OURS: (ours, 60.0),
    GO: (go, 60.0),
    API_CORE: (api_core, 20.0),
    FIXED: (fixed, 10.0),
}
"""Each with the interval it has by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a schedule did with the operations."""

    schedule: str
    interval: float
    polls: float
    lags: Sequence[float]

    @property
    def lag(self) -> float:
        """Mean seconds from an operation's end to the poll that saw it."""
        return statistics.fmean(self.lags)


def wait(schedule: str, interval: float, durations: Sequence[float]) -> Found:
    """Wait for each operation; the first poll is immediate, the last is the one that finds it done."""
    pauses_of = SCHEDULES[schedule][0]
    source = random.Random(5)
    polls, lags = 0, []
    for duration in durations:
        now = 0.0
        polls += 1
        for pause in pauses_of(interval, source):
            now += pause
            polls += 1
            if now >= duration:
                break
        lags.append(now - duration)
    return Found(schedule=schedule, interval=interval, polls=polls / len(durations), lags=lags)


def at_equal_polls(schedule: str, polls: float, durations: Sequence[float]) -> Found:
    """Tune the interval until a schedule spends that many polls, within half a percent."""
    low, high = 1.0, 10_000.0
    while True:
        found = wait(schedule, math.sqrt(low * high), durations)
        if abs(found.polls / polls - 1) < 0.005 or high / low < 1.0001:  # noqa: PLR2004
            return found
        low, high = (found.interval, high) if found.polls > polls else (low, found.interval)


def row(found: Found, reference: Found) -> tuple[str, ...]:
    """Return a line of a table."""
    nearest = sorted(found.lags)
    late = nearest[int(0.95 * len(nearest))]
    if found.polls > 1.02 * reference.polls and found.interval > 60.0:  # noqa: PLR2004
        # Its backoff alone spends more, however long the interval is.
        return (found.schedule, "any", f"at least {found.polls:.1f}", "-", "-", "-")
    figures = (f"{found.interval:.1f}", f"{found.polls:.1f}", f"{found.lag:.1f}", f"{late:.1f}")
    return (found.schedule, *figures, f"{found.lag / reference.lag:.2f}")


def main(arguments: argparse.Namespace) -> None:
    """Simulate, print, plot, and check the ratio."""
    source = random.Random(1)
    number = 500 if arguments.quick else 10_000
    durations = [source.lognormvariate(math.log(MEDIAN), SIGMA) for _ in range(number)]
    defaults = [wait(schedule, interval, durations) for schedule, (_, interval) in SCHEDULES.items()]
    reference = defaults[0]
    equal = [reference, *(at_equal_polls(schedule, reference.polls, durations) for schedule in list(SCHEDULES)[1:])]
    real = {found.schedule: found for found in asyncio.run(for_real(100 if arguments.quick else 400))}
    header = ("schedule", "interval, s", "polls", "mean lag, s", "p95 lag, s", "lag against ours")
    wanted = Check(
        what="ours / Go's full jitter, mean lag at equal polls", value=reference.lag / equal[1].lag, limit=0.75
    )
    publish(
        arguments.output,
        "detection",
        "## How late an end is seen, against the polls spent",
        f"{number:,} operations of lognormal duration (median 5 min, sigma {SIGMA:g}), on a virtual clock.",
        "### With each one's defaults",
        table(header, [row(found, reference) for found in defaults]),
        "### At equal polls",
        table(header, [row(found, reference) for found in equal]),
        "### For real",
        f"{len(real[OURS].lags):,} operations of lognormal duration (median {REAL_MEDIAN:g} s, sigma {REAL_SIGMA:g})"
        " for each, against the simulator. A listing counts as a poll, however many waits it is for.",
        table(header, [row(found, real[OURS]) for found in real.values()]),
        verdicts([wanted, *real_checks(real)]),
        "![](detection.png)",
    )
    draw(arguments.output, durations[: number // 5], defaults)


def real_checks(real: dict[str, Found]) -> list[Check]:
    """Return what is wanted of long polls and of listings."""
    long_polled, listed, plain = real[LONG_POLLED], real[LISTED], real[OURS]
    return [
        Check(what="WaitOperation: mean lag / interval", value=long_polled.lag / REAL_INTERVAL, limit=0.01),
        # The first poll, and a call for each minute begun: none of these operations takes a whole one.
        Check(what="WaitOperation: calls a wait, the first poll included", value=long_polled.polls, limit=2.0),
        Check(what="ListOperations / GetOperation, mean lag", value=listed.lag / plain.lag, limit=1.1),
        Check(what="ListOperations / GetOperation, polls", value=listed.polls / plain.polls, limit=1.0),
    ]


REAL_MEDIAN, REAL_SIGMA, REAL_INTERVAL = 10.0, 0.5, 4.0
"""Seconds, and the spread: 95 % of the operations take from 4 s to 27 s."""
LONG_POLLED, LISTED = 'ours, `poll_method="wait"`', 'ours, `poll_method="list"`'
METHODS = {OURS: "get", LONG_POLLED: "wait", LISTED: "list"}


async def for_real(number: int) -> list[Found]:
    """Wait for as many operations by each system, all at the same time."""
    from airflow_provider_lro.operation import AsyncOperationsClient

    source = random.Random(2)
    durations = [min(source.lognormvariate(math.log(REAL_MEDIAN), REAL_SIGMA), 45.0) for _ in range(number)]
    with running_simulator() as simulator:
        async with AsyncOperationsClient.connect(simulator.endpoint, insecure=True) as client:
            # The first long poll of an endpoint is a probe, and for a second the others' polls are ordinary ones.
            await real_wait(client, LONG_POLLED, "projects/first/simulations/duration=1.5/operations/first")
            systems = (OURS, LONG_POLLED, LISTED, GO, FIXED)
            lags = await asyncio.gather(*(real_waits(client, system, durations) for system in systems))
        calls = [call["name"] for call in simulator.calls()]
    return [
        Found(
            schedule=system,
            interval=interval_of(system),
            polls=sum(name.startswith(parent_of(system)) for name in calls) / number,
            lags=found,
        )
        for system, found in zip(systems, lags, strict=True)
    ]


def interval_of(system: str) -> float:
    """Return the interval of a system; that of a fixed pause is in proportion to what it is by default."""
    return REAL_INTERVAL / 6 if system == FIXED else REAL_INTERVAL


def parent_of(system: str) -> str:
    """Return a parent that no other system has operations under."""
    return f"projects/{(*METHODS, GO, FIXED).index(system)}"


async def real_waits(client: Any, system: str, durations: Sequence[float]) -> list[float]:
    """Begin the waits evenly over an interval; returns by how much each has seen the end too late."""

    async def one(index: int, duration: float) -> float:
        await asyncio.sleep(index * REAL_INTERVAL / len(durations))
        began = time.time()
        script = f"simulations/duration={duration:.6f}&start={began:.6f}"
        await real_wait(client, system, f"{parent_of(system)}/{script}/operations/{index}")
        return time.time() - began - duration

    return list(await asyncio.gather(*(one(index, duration) for index, duration in enumerate(durations))))


async def real_wait(client: Any, system: str, name: str) -> None:
    """Wait for one operation, as a trigger or as one of the others does."""
    from airflow_provider_lro._core.args import WaitArgs
    from airflow_provider_lro._core.outcome import Succeeded
    from airflow_provider_lro._core.wait import Start
    from airflow_provider_lro._runner.group import WaitGroup

    if system not in METHODS:
        pauses = SCHEDULES[system][0](interval_of(system), random.Random(name))
        while not (await client.get_operation(name)).done:  # noqa: ASYNC110  (that is what is measured)
            await asyncio.sleep(next(pauses))
        return
    args = WaitArgs(
        operation_name=name, interval=REAL_INTERVAL, poll_method=METHODS[system], list_parent=parent_of(system)
    )
    async with WaitGroup(args, [name], [client.config]) as group:
        await group.run(Start.FRESH)
    assert isinstance(group.outcomes[0], Succeeded), group.outcomes


def draw(output: Any, durations: Sequence[float], defaults: Sequence[Found]) -> None:
    """Draw each schedule's curve of lag against polls, with its defaults marked."""
    with plot(output, "detection", height=3.6) as (axes,):
        for found in defaults:
            curve = [wait(found.schedule, interval, durations) for interval in (5, 7, 10, 14, 20, 30, 45, 60, 90, 120)]
            style = {"linewidth": 2.5} if found.schedule == OURS else {"linewidth": 1}
            (line,) = axes.plot(
                [each.polls for each in curve], [each.lag for each in curve], label=found.schedule, **style
            )
            axes.plot([found.polls], [found.lag], "o", color=line.get_color())
        axes.set(xscale="log", yscale="log", xlabel="polls an operation", ylabel="mean lag, s")
        axes.set_title("Lag against polls, intervals of 5 s to 120 s (dots: defaults)", fontsize=9)
        axes.legend(fontsize=8)


async def child(spec: dict[str, Any]) -> None:
    """Be nothing: all of it is arithmetic."""
    await asyncio.sleep(0)
    raise AssertionError(spec)


if __name__ == "__main__":
    run(__file__, main, child)
