"""What Airflow's metrics and OpenTelemetry are told of waits: from time to time, and when one ends; never in a poll.

Floor 1: floor ½ is imported inside functions.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from functools import cache
from typing import TYPE_CHECKING, Any, Self, TypeVar

from airflow_provider_lro._core import outcome as outcomes
from airflow_provider_lro._core.counters import Counts, Tally, endpoint_tag
from airflow_provider_lro._core.loops import forget_closed
from airflow_provider_lro.exceptions import Code
from airflow_provider_lro.version_compat import conf, stats

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._core.wait import WaitArgs

__all__ = ["OUTCOMES", "Watch", "report_counts", "reporter"]

PERIOD = 10.0
"""Seconds between two reports of the waits of a triggerer."""
SWITCHES = ("statsd_on", "statsd_datadog_enabled", "otel_on")
OUTCOMES: dict[type[Any], str] = {
    outcomes.Succeeded: "succeeded",
    outcomes.Failed: "failed",
    outcomes.Cancelled: "cancelled",
    outcomes.TimedOut: "timed_out",
    outcomes.NotFound: "not_found",
    outcomes.Broken: "broken",
}

T = TypeVar("T", bound="Outcome")

log = logging.getLogger(__name__)


@cache
def metrics_are_on() -> bool:
    """Tell whether Airflow sends metrics anywhere."""
    return any(conf.getboolean("metrics", switch, fallback=False) for switch in SWITCHES)


class Watch:
    """One wait, or the part of it that this process does: a span of tracing, and what it came to is counted.

    A context manager of its own making: there are thousands at a time, and each of contextlib's takes four objects.

    Args:
        args: the wait.
        target: the endpoint.
        ti: the task instance, where there is one.
        shared: one of many waits of this event loop, whose polls ``reporter`` reports.
        again: a wait that has ended already, of which something is read once more: its polls are all that is told.
    """

    __slots__ = ("_again", "_args", "_began", "_endpoint", "_scope", "_span", "bound", "ended_at", "outcome", "tally")

    def __init__(
        self, args: WaitArgs, target: str, *, ti: Any = None, shared: bool = False, again: bool = False
    ) -> None:
        self.tally = Tally()
        if not shared:
            self.tally.counts = Counts()
        self.outcome: Outcome | None = None
        self.ended_at = 0.0
        self.bound: float | None = None
        self._again = again
        self._args = args
        self._began = time.time()
        self._endpoint = endpoint_tag(target)
        self._span = None if again else _span(args, self._endpoint, ti)
        self._scope: Any = None

    def __enter__(self) -> Self:
        if self._span is not None:
            from opentelemetry import trace

            self._scope = trace.use_span(self._span, record_exception=False, set_status_on_exception=False)
            self._scope.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        if metrics_are_on():
            _send(_of_wait(self, {"endpoint": self._endpoint}))
        if self._span is not None:
            self._scope.__exit__(*raised)
            _end_span(self._span, self.outcome, polls=self.tally.polls)

    def ends(self, outcome: T, now: float | None = None) -> T:
        """Note the outcome. ``now``: by the clock of the tally; None for the monotonic one."""
        if self._again:
            return outcome
        self.outcome = outcome
        self.ended_at = time.time()
        self.bound = self.tally.bound(time.monotonic() if now is None else now)
        return outcome

    @property
    def began(self) -> float:
        """Epoch seconds at which the whole wait began, as far as is known."""
        return self._began if self._args.started_at is None else self._args.started_at

    def lag(self) -> float | None:
        """Return for how long the end went unseen, in seconds; None where the service does not say when it ended."""
        operation = getattr(self.outcome, "operation", None)
        if operation is None or not operation.done:
            return None
        from airflow_provider_lro._messages.times import ENDED, time_in

        ended = time_in(operation, ENDED)
        return None if ended is None else max(0.0, self.ended_at - max(ended, self.began))


def _of_wait(watch: Watch, tags: dict[str, str]) -> Iterator[tuple[str, str, float, dict[str, str]]]:
    if watch.tally.counts is not None:
        watch.tally.counts.gets = watch.tally.polls
        yield from (("incr", name, number, tags | more) for name, number, more in watch.tally.counts.take())
    if watch.outcome is None:
        return
    came = tags | {"outcome": OUTCOMES[type(watch.outcome)]}
    yield "incr", "lro.waits_ended", 1, came
    yield "timing", "lro.wait_duration", _milliseconds(watch.ended_at - watch.began), came
    if isinstance(watch.outcome, outcomes.Succeeded | outcomes.Failed | outcomes.Cancelled):
        if watch.bound is not None:
            yield "timing", "lro.detection_lag_bound", _milliseconds(watch.bound), tags
        if (lag := watch.lag()) is not None:
            yield "timing", "lro.detection_lag", _milliseconds(lag), tags


def _milliseconds(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000.0, 1)


# ── all waits of an event loop ──


class _Reporter:
    """Reports what the waits of one event loop do, for as long as there are any."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waits = 0
        self._timer: asyncio.TimerHandle | None = None
        self._hostname = socket.gethostname()

    def join(self) -> None:
        """Count one wait more."""
        self._waits += 1
        if self._timer is None:
            self._timer = self._loop.call_later(PERIOD, self._tick)

    def leave(self) -> None:
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
        from airflow_provider_lro._transport.limiter import paces

        host = {"hostname": endpoint_tag(self._hostname)}
        yield from _counters()
        for target, pace in paces().items():
            tags = {"endpoint": endpoint_tag(target)}
            yield "gauge", "lro.waits", pace.counts.waits, tags | host
            yield "gauge", "lro.poll_spacing", round(pace.spacing, 3), tags | host
        yield "gauge", "lro.channels", open_channels(), host


def _counters() -> Iterator[tuple[str, str, float, dict[str, str]]]:
    from airflow_provider_lro._transport.limiter import paces

    for target, pace in paces().items():
        tags = {"endpoint": endpoint_tag(target)}
        yield from (("incr", name, number, tags | more) for name, number, more in pace.counts.take())


def report_counts() -> None:
    """Report what the waits of this event loop have done: at its end on a worker, whose gauges would say nothing."""
    if metrics_are_on():
        _send(_counters())


_reporters: dict[asyncio.AbstractEventLoop, _Reporter] = {}


def reporter() -> _Reporter | None:
    """Have what the waits of this event loop do reported, until the caller leaves; None where nobody wants to know."""
    if not metrics_are_on():
        return None
    loop = asyncio.get_running_loop()
    if loop not in _reporters:
        forget_closed(_reporters)
        _reporters[loop] = _Reporter(loop)
    _reporters[loop].join()
    return _reporters[loop]


def _send(values: Iterable[tuple[str, str, float, dict[str, str]]]) -> None:
    try:
        for method, name, value, tags in values:
            getattr(stats(), method)(name, value, tags=tags)
    except Exception:  # whatever a backend for metrics may raise, no wait ends by it
        log.warning("metrics could not be sent", exc_info=True)


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

    span.set_attributes({"lro.polls": polls, **_attributes(outcome)})
    if outcome is not None and not isinstance(outcome, outcomes.Succeeded):
        span.set_status(trace.StatusCode.ERROR, OUTCOMES[type(outcome)])
    span.end()


def _links(ti: Any) -> list[Any]:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = getattr(ti, "context_carrier", None)
    if not carrier:
        return []
    of_task = trace.get_current_span(TraceContextTextMapPropagator().extract(carrier)).get_span_context()
    return [trace.Link(of_task)] if of_task.is_valid else []


def _attributes(outcome: Outcome | None) -> Mapping[str, str]:
    """Return what a span says of an outcome; texts stay out, as they may hold anything."""
    if outcome is None:  # it goes on elsewhere: in the triggerer, in another one, in another try
        return {"lro.outcome": "unfinished"}
    said = {"lro.outcome": OUTCOMES[type(outcome)]}
    code: Any = Code.OK
    if isinstance(outcome, outcomes.Failed | outcomes.Cancelled):
        code = Code.of(outcome.operation.error.code)
    elif isinstance(outcome, outcomes.TimedOut):
        code = Code.DEADLINE_EXCEEDED
    elif isinstance(outcome, outcomes.NotFound | outcomes.Broken):
        code = outcome.error.code
    return said if code is None else {**said, "lro.code": getattr(code, "name", str(code))}
