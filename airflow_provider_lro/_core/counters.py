"""Plain numbers of what waits cost and meet; the telemetry hands them to Airflow from time to time.

A poll that finds nothing new adds to a number or two, and does no more: no clock, no Airflow, no I/O.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_lro.exceptions import Code

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["METRICS", "EndpointStats", "Metric", "WaitStats", "endpoint_tag"]

MIN_DELAY = 0.001
"""Seconds: less is not a delay, only the way through the queue."""


class Metric(NamedTuple):
    """One metric, as docs/observability.md lists it; in Airflow its name has Airflow's prefix, too."""

    name: str
    kind: str
    tags: tuple[str, ...]


METRICS = (
    Metric("lro.polls", "counter", ("endpoint", "method")),
    Metric("lro.poll_errors", "counter", ("endpoint", "code")),
    Metric("lro.slow_downs", "counter", ("endpoint",)),
    Metric("lro.polls_delayed", "counter", ("endpoint", "reason")),
    Metric("lro.poll_delay_ms", "counter", ("endpoint", "reason")),
    Metric("lro.waits_ended", "counter", ("endpoint", "outcome")),
    Metric("lro.wait_duration", "timer", ("endpoint", "outcome")),
    Metric("lro.detection_lag", "timer", ("endpoint",)),
    Metric("lro.waits", "gauge", ("endpoint", "hostname")),
    Metric("lro.poll_spacing", "gauge", ("endpoint", "hostname")),
    Metric("lro.channels", "gauge", ("hostname",)),
)
"""All there are. Tags hold nothing of which there are many, and no name of an operation or a project."""


def endpoint_tag(target: str) -> str:
    """Return an endpoint as the value of a tag; the signs that StatsD uses itself would break its lines."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", target.removesuffix(":443"))


class EndpointStats:
    """Numbers of one endpoint since they were sent the last time. Not for several threads."""

    __slots__ = ("delays", "ended", "errors", "gets", "held", "lists", "slow_downs", "waits")

    def __init__(self) -> None:
        self.waits = 0  # how many there are; all others are since the last time
        self.gets = 0
        self.held = 0
        self.lists = 0
        self.slow_downs = 0
        self.ended: dict[str, int] = {}  # by outcome
        self.errors: dict[str, int] = {}
        self.delays: dict[str, tuple[int, float]] = {}

    def failed(self, error: Exception) -> None:
        """Count a call that failed; one that was never sent does not count."""
        if getattr(error, "not_sent", False):
            return
        code = getattr(error, "code", None)
        label = code.name if isinstance(code, Code) else type(error).__name__ if code is None else "OTHER"
        self.errors[label] = self.errors.get(label, 0) + 1

    def delayed(self, reason: str, seconds: float) -> None:
        """Count a poll that came later than its schedule."""
        if seconds >= MIN_DELAY:
            number, total = self.delays.get(reason, (0, 0.0))
            self.delays[reason] = (number + 1, total + seconds)

    def take(self) -> Iterator[tuple[str, int, dict[str, str]]]:
        """Yield the numbers as counters, with their tags, and begin anew."""
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


class WaitStats:
    """Numbers of one wait, as far as this process knows them."""

    __slots__ = ("failed_polls", "polls")

    def __init__(self) -> None:
        self.polls = 0
        self.failed_polls = 0
