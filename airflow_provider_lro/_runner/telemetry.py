"""Metrics of Airflow and spans of OpenTelemetry: sent from time to time, and when a wait ends; never in a poll."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
from functools import cache
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_lro._core import outcome as outcomes
from airflow_provider_lro.exceptions import Code
from airflow_provider_lro.version_compat import conf, stats

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_provider_lro._core.args import WaitArgs
    from airflow_provider_lro._core.outcome import Outcome

PERIOD = 10.0
"""Seconds between two reports of the waits of a triggerer."""
SWITCHES = ("statsd_on", "statsd_datadog_enabled", "otel_on")

log = logging.getLogger(__name__)


@cache
def metrics_are_on() -> bool:
    """Return True if Airflow sends metrics anywhere."""
    return any(conf.getboolean("metrics", switch, fallback=False) for switch in SWITCHES)


def endpoint_tag(target: str) -> str:
    """Return an endpoint as the value of a tag; the signs that StatsD uses itself would break its lines."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", target.removesuffix(":443"))


class WaitTelemetry:
    """The span and the timers of one wait, or of the part of it that this process does.

    A context manager of its own making: there are thousands at a time, and each of contextlib's takes four objects.
    """

    __slots__ = ("_args", "_began", "_endpoint", "_outcome", "_scope", "_span", "polls")

    def __init__(self, args: WaitArgs, endpoint: str, span: Any) -> None:
        self.polls = 0
        self._outcome: Outcome | None = None
        self._args = args
        self._began = time.time()
        self._endpoint = endpoint
        self._span = span
        self._scope: Any = None

    @classmethod
    def of(cls, args: WaitArgs, target: str, *, ti: Any) -> Self | None:
        """Return the telemetry of a wait; None where nothing is measured and nothing traced."""
        endpoint = endpoint_tag(target)
        span = _span(args, endpoint, ti)
        return None if span is None and not metrics_are_on() else cls(args, endpoint, span)

    def __enter__(self) -> Self:
        if self._span is not None:
            from opentelemetry import trace

            self._scope = trace.use_span(self._span, record_exception=False, set_status_on_exception=False)
            self._scope.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._span is not None:
            self._scope.__exit__(*raised)
            _end_span(self._span, self._outcome, polls=self.polls)

    def ended(self, outcome: Outcome) -> None:
        """Record the outcome, and send how long it took."""
        self._outcome = outcome
        if metrics_are_on():
            _send(self._timers(outcome, time.time()))

    def _timers(self, outcome: Outcome, now: float) -> Iterator[tuple[str, str, float, dict[str, str]]]:
        began = self._began if self._args.started_at is None else self._args.started_at
        tags = {"endpoint": self._endpoint}
        yield "timing", "lro.wait_duration", _milliseconds(now - began), tags | {"outcome": outcome.word}
        if outcome.operation is None or not outcome.operation.done:
            return
        from airflow_provider_lro._messages.metadata import ENDED, time_in

        ended = time_in(outcome.operation, ENDED)
        if ended is not None:  # for how long the end went unseen
            yield "timing", "lro.detection_lag", _milliseconds(now - max(ended, began)), tags


def _milliseconds(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000.0, 1)


# ── all waits of an event loop ──


class _Reporter:
    """Reports the waits of one event loop, for as long as there are any."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waits = 0
        self._timer: asyncio.TimerHandle | None = None
        self._hostname = socket.gethostname()

    def add_wait(self) -> None:
        """Count one wait more."""
        self._waits += 1
        if self._timer is None:
            self._timer = self._loop.call_later(PERIOD, self._tick)

    def remove_wait(self) -> None:
        """Count one wait less; with the last, report."""
        self._waits -= 1
        if not self._waits and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            _send(self._report())

    def _tick(self) -> None:
        self._timer = self._loop.call_later(PERIOD, self._tick)
        _send(self._report())

    def _report(self) -> Iterator[tuple[str, str, float, dict[str, str]]]:
        from airflow_provider_lro._transport.channel import open_channels
        from airflow_provider_lro._transport.limiter import endpoints

        host = {"hostname": endpoint_tag(self._hostname)}
        yield from _counters()
        for target, numbers, spacing in endpoints():
            tags = {"endpoint": endpoint_tag(target)}
            yield "gauge", "lro.waits", numbers.waits, tags | host
            yield "gauge", "lro.poll_spacing", round(spacing, 3), tags | host
        yield "gauge", "lro.channels", open_channels(), host


def _counters() -> Iterator[tuple[str, str, float, dict[str, str]]]:
    from airflow_provider_lro._transport.limiter import endpoints

    for target, numbers, _ in endpoints():
        tags = {"endpoint": endpoint_tag(target)}
        yield from (("incr", name, number, tags | more) for name, number, more in numbers.drain())


def send_counters() -> None:
    """Send the counters of this event loop: at its end on a worker, whose gauges would say nothing."""
    if metrics_are_on():
        _send(_counters())


_reporters: dict[asyncio.AbstractEventLoop, _Reporter] = {}


def reporter() -> _Reporter | None:
    """Have the waits of this event loop reported, until the caller leaves; None where metrics are off."""
    if not metrics_are_on():
        return None
    from airflow_provider_lro._transport.limiter import of_loop

    found = of_loop(_reporters, _Reporter)
    found.add_wait()
    return found


def _send(values: Iterable[tuple[str, str, float, dict[str, str]]]) -> None:
    try:
        backend = stats()
        for method, name, value, tags in values:
            getattr(backend, method)(name, value, tags=tags)
    except Exception:  # whatever a backend for metrics may raise, no wait ends by it
        log.warning("metrics could not be sent; no wait is affected", exc_info=True)


# ── tracing ──


def _span(args: WaitArgs, endpoint: str, ti: Any) -> Any:
    """Return the span of a wait, a child of the task's or the trigger's, or linked to the task's where that is unknown.

    None where nothing is traced.
    """
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    links = [] if trace.get_current_span().get_span_context().is_valid else _links(ti)
    span = trace.get_tracer(__name__).start_span("lro.wait", links=links)
    if not span.is_recording():
        return None
    span.set_attributes({"lro.operation": args.operation_name, "lro.endpoint": endpoint})
    return span


def _end_span(span: Any, outcome: Outcome | None, *, polls: int) -> None:
    from opentelemetry import trace

    # Without an outcome it goes on elsewhere: in the triggerer, in another one, in another try.
    word = "unfinished" if outcome is None else outcome.word
    code = None if outcome is None else _code_of(outcome)
    span.set_attributes({"lro.polls": polls, "lro.outcome": word})
    if code is not None:  # texts stay out, as they may hold anything
        span.set_attribute("lro.code", getattr(code, "name", str(code)))
    if outcome is not None and not isinstance(outcome, outcomes.Succeeded):
        span.set_status(trace.StatusCode.ERROR, word)
    span.end()


def _links(ti: Any) -> list[Any]:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = getattr(ti, "context_carrier", None)
    if not carrier:
        return []
    of_task = trace.get_current_span(TraceContextTextMapPropagator().extract(carrier)).get_span_context()
    return [trace.Link(of_task)] if of_task.is_valid else []


def _code_of(outcome: Outcome) -> Code | int | None:
    if isinstance(outcome, outcomes.TimedOut):
        return Code.DEADLINE_EXCEEDED
    if isinstance(outcome, outcomes.NotFound | outcomes.CallFailed):
        return outcome.error.code
    code = None if outcome.operation is None else outcome.operation.code
    return Code.OK if code is None else Code.of(code)
