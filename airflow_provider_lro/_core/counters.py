"""What waits cost and meet, counted in plain numbers; ``_watch.py`` hands them to Airflow from time to time.

A poll that finds nothing new adds to a number or two, and does no more. Floor 0: no clock, no Airflow, no I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from airflow_provider_lro.exceptions import Code

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["METRICS", "Counts", "Metric", "Tally", "endpoint_tag"]

SHORTEST_DELAY = 0.001
"""Seconds: what is less is no delay, only the way through the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric, as docs/observability.md lists it; in Airflow its name has Airflow's prefix, too."""

    name: str
    kind: Literal["counter", "timer", "gauge"]
    tags: tuple[str, ...]


METRICS = (
    Metric(name="lro.polls", kind="counter", tags=("endpoint", "method")),
    Metric(name="lro.poll_errors", kind="counter", tags=("endpoint", "code")),
    Metric(name="lro.slow_downs", kind="counter", tags=("endpoint",)),
    Metric(name="lro.polls_delayed", kind="counter", tags=("endpoint", "reason")),
    Metric(name="lro.poll_delay_ms", kind="counter", tags=("endpoint", "reason")),
    Metric(name="lro.waits_ended", kind="counter", tags=("endpoint", "outcome")),
    Metric(name="lro.wait_duration", kind="timer", tags=("endpoint", "outcome")),
    Metric(name="lro.detection_lag", kind="timer", tags=("endpoint",)),
    Metric(name="lro.detection_lag_bound", kind="timer", tags=("endpoint",)),
    Metric(name="lro.waits", kind="gauge", tags=("endpoint", "hostname")),
    Metric(name="lro.poll_spacing", kind="gauge", tags=("endpoint", "hostname")),
    Metric(name="lro.channels", kind="gauge", tags=("hostname",)),
)
"""All there are. Tags hold nothing of which there are many, and no name of an operation or a project."""


def endpoint_tag(target: str) -> str:
    """Return an endpoint as the value of a tag; the signs that StatsD uses itself would break its lines."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", target.removesuffix(":443"))


class Counts:
    """What has happened at one endpoint since it was told the last time. Not for several threads."""

    __slots__ = ("delays", "ended", "errors", "gets", "held", "lists", "slow_downs", "waits")

    def __init__(self) -> None:
        self.waits = 0  # how many there are; all others are since the last time
        self.gets = 0
        self.held = 0
        self.lists = 0
        self.slow_downs = 0
        self.ended: dict[str, int] = {}  # by outcome; of many in one task, as others tell it themselves
        self.errors: dict[str, int] = {}
        self.delays: dict[str, tuple[int, float]] = {}

    def failed(self, error: Exception) -> None:
        """Count a call that failed; one that was never sent was none."""
        if getattr(error, "unsent", False):
            return
        code = getattr(error, "code", None)
        label = code.name if isinstance(code, Code) else type(error).__name__ if code is None else "OTHER"
        self.errors[label] = self.errors.get(label, 0) + 1

    def delayed(self, reason: str, seconds: float) -> None:
        """Count a poll that was to come earlier."""
        if seconds >= SHORTEST_DELAY:
            number, total = self.delays.get(reason, (0, 0.0))
            self.delays[reason] = (number + 1, total + seconds)

    def take(self) -> Iterator[tuple[str, int, dict[str, str]]]:
        """Give what has come together as counters, with their tags, and begin anew."""
        for method, number in (("get", self.gets), ("wait", self.held), ("list", self.lists)):
            if number:
                yield "lro.polls", number, {"method": method}
        if self.slow_downs:
            yield "lro.slow_downs", self.slow_downs, {}
        self.gets = self.held = self.lists = self.slow_downs = 0
        ended, self.ended = self.ended, {}
        for outcome, number in ended.items():
            yield "lro.waits_ended", number, {"outcome": outcome}
        errors, self.errors = self.errors, {}
        for code, number in errors.items():
            yield "lro.poll_errors", number, {"code": code}
        delays, self.delays = self.delays, {}
        for reason, (number, seconds) in delays.items():
            yield "lro.polls_delayed", number, {"reason": reason}
            yield "lro.poll_delay_ms", round(seconds * 1000), {"reason": reason}


class Tally:
    """What one wait has done, as far as this process knows."""

    __slots__ = ("_asked", "_before", "counts", "polls")

    def __init__(self) -> None:
        self.polls = 0
        self.counts: Counts | None = None  # where the wait shares them with no other
        self._asked: float | None = None
        self._before: float | None = None

    def asks(self, now: float) -> None:
        """Note a poll that is about to be made."""
        self.polls += 1
        self._before, self._asked = self._asked, now

    def fails(self, error: Exception) -> None:
        """Note that the poll that was about to be made has failed, and so has not found it running."""
        self._asked = self._before
        if self.counts is not None:
            self.counts.failed(error)

    def sees(self, now: float) -> None:
        """Note that it was found running in another way than by a poll."""
        self._asked = now

    def was_held(self) -> None:
        """Note that the server has held the answer until the end, so that the time of the call says nothing."""
        self._before = None

    def bound(self, now: float) -> float | None:
        """Return the most seconds for which the end can have gone unseen; None if none has found it running.

        The last before it that has not failed, by the clock of ``asks``, has found it running.
        """
        return None if self._before is None else max(0.0, now - self._before)
