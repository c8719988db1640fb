"""How late the end of an operation is seen, against the polls that were spent: schedules on a virtual clock.

The same operations for all: lognormal durations, median 5 minutes. "At equal polls" is the schedule with its interval
(or what stands for it) tuned until it spends as many polls on them as ours with its defaults does.

    python benchmarks/detection.py [--quick]
"""

from __future__ import annotations

import argparse  # noqa: TC003  (its siblings need it at run time)
import asyncio
import itertools
import math
import random
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common import Check, plot, publish, run, table, verdicts

from airflow_provider_lro._schedule import Schedule

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
    for bound in Schedule(interval=interval).bounds():
        yield source.uniform(0.0, bound)


def api_core(interval: float, source: random.Random) -> Iterator[float]:
    """Give the pauses of google-api-core's ``DEFAULT_POLLING`` without its timeout; ``interval`` is its maximum."""
    for bound in Schedule(interval=interval, multiplier=1.5).bounds():
        yield source.uniform(0.0, bound)


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
    # What a real service and a real runner are needed for (WaitOperation, ListOperations) adds its rows here, with
    # its polls and its lags in a Found.
    real: list[Found] = []
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
        table(header, [row(found, reference) for found in (*defaults, *real)]),
        "### At equal polls",
        table(header, [row(found, reference) for found in equal]),
        verdicts([wanted]),
        "![](detection.png)",
    )
    draw(arguments.output, durations[: number // 5], defaults)


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
