"""The policy of a wait: when to poll, what to make of each answer, when to give up. Written once, here.

A generator that does no I/O and knows no clock, like h11 and h2: it yields what is to be done (``Get``, ``Pause``,
``Cancel``) and is sent an ``Answer`` with the time at which it came; its return value is the outcome. Its two drivers,
sync and aio, are in ``_drivers.py``; the tests drive it in virtual time. Floor 0: imports floor 0.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core.args import WaitArgs
from airflow_provider_lro._core.commands import Cancel, Get, Pause
from airflow_provider_lro._core.outcome import (
    Broken,
    CancelEffect,
    Cancelled,
    Failed,
    NotFound,
    Outcome,
    Running,
    Succeeded,
    TimedOut,
)
from airflow_provider_lro.exceptions import Code, EndpointError, LroError, OperationNotFound, RpcError

if TYPE_CHECKING:
    from collections.abc import Generator

    from airflow_provider_lro._core.commands import Answer, Command
    from airflow_provider_lro._core.schedule import Window

__all__ = ["Start", "WaitArgs", "is_transient", "wait"]

TRANSIENT_CODES = frozenset(
    {
        Code.UNAVAILABLE,
        Code.DEADLINE_EXCEEDED,
        Code.INTERNAL,
        Code.RESOURCE_EXHAUSTED,
        Code.ABORTED,
        Code.UNKNOWN,
        Code.CANCELLED,  # by a proxy: nobody else cancels a poll
    }
)
LONGEST_OUTAGE = 24 * 3600.0
"""Seconds of nothing but errors after which a wait without deadline gives up."""
LONGEST_RETRY_INFO = 300.0
"""Seconds: the most that a server's RetryInfo may delay a poll."""
SHORTEST_CALL = 1.0
"""Seconds: the least a call gets, however near the deadline is."""
LONGEST_HOLD = 60.0
"""Seconds that a server is asked to hold a long poll."""


class Start(Enum):
    """How a wait begins."""

    FRESH = "the first poll is immediate, and an endpoint that cannot be right ends it at once"
    POLL = "the first poll is immediate, the pauses go by the time since started_at"
    POKE = "as POLL, by what has never asked to cancel before"
    RESUME = "a pause comes first, so that waits that restart together do not poll together"


def is_transient(error: LroError) -> bool:
    """Tell whether a later call may succeed where this one failed.

    An endpoint that was right before is a transport fault like any other: name servers and certificates have outages.
    """
    if isinstance(error, RpcError):
        return error.code in TRANSIENT_CODES and not error.permanent
    return isinstance(error, EndpointError)


def wait(args: WaitArgs, *, now: float, start: Start = Start.FRESH) -> Generator[Command, Answer, Outcome]:
    """Wait for one operation.

    Args:
        args: the wait; ``started_at`` None means now.
        now: epoch seconds, by the clock of the answers.
        start: how it begins.

    Returns:
        The outcome, as the generator's return value.

    Raises:
        ValueError: ``args.check()`` failed.
    """
    args.check()
    reading = _Reading(args, started_at=now if args.started_at is None else args.started_at)
    deadline = math.inf if args.deadline is None else args.deadline
    elapsed = max(0.0, now - reading.started_at)
    # A wait that is taken up again after its deadline may have asked to cancel before it was lost: what it finds
    # cancelled then is most likely its own doing.
    own_cancel = start in (Start.POLL, Start.RESUME) and now >= deadline and args.on_timeout == "cancel"
    if start is Start.RESUME:
        windows = args.schedule().windows(elapsed=elapsed)
        window = next(windows)
        listed = _is_listed(args, window)
        if pause := _pause(window, now=now, end=deadline, errors=args.consecutive_errors, listed=listed):
            now, _ = yield pause
    else:
        windows = args.schedule().windows(elapsed=elapsed, polled=True)
        listed = False
    strict = start is Start.FRESH
    late = 0.0
    while True:
        asked = now
        get = _get(args, now=now, end=deadline, late=late, prompt=strict, listed=listed)
        now, value = yield get
        outcome = reading.take(value, now=now, asked=asked, cut=get.timeout < args.rpc_timeout, strict=strict)
        strict = False
        if isinstance(outcome, Cancelled) and own_cancel:
            return TimedOut(operation=outcome.operation, cancel="took effect")
        if outcome is not None:
            return outcome
        if asked >= deadline:
            break
        late = max(0.0, now - deadline)
        window = reading.delay(next(windows))
        listed = _is_listed(args, window)
        if get.hold and isinstance(value, Running):
            window = window.earlier(now - asked)  # the server has done the pausing
        if pause := _pause(
            window, now=now, end=deadline, errors=reading.errors, listed=listed, delayed=reading.delayed
        ):
            now, _ = yield pause
    if args.on_timeout == "cancel":
        return (yield from _cancel(args, reading, now=now))
    return reading.timed_out()


def _get(args: WaitArgs, *, now: float, end: float, late: float, prompt: bool = False, listed: bool = False) -> Get:
    """Poll, but do not let a server that hangs take the wait far beyond ``end``; the last poll has all its time.

    ``late``: how long the poll before has lasted beyond ``end``; both together last one call beyond it.
    """
    left = end - now
    most = args.rpc_timeout - late if left <= 0 else left
    timeout = min(args.rpc_timeout, max(most, SHORTEST_CALL))
    if left > 0:
        hold = min(left, LONGEST_HOLD) if args.poll_method in ("wait", "auto") and not prompt else 0.0
        return Get(timeout=timeout, queue=left, prompt=prompt, hold=hold, listed=listed)
    return Get(timeout=timeout, queue=timeout, prompt=True)


def _is_listed(args: WaitArgs, window: Window) -> bool:
    """Tell whether the next poll may be a look at a listing: only when the backoff is over is it as early as a poll."""
    return args.poll_method == "list" and window.longest >= args.interval


def _pause(
    window: Window,
    *,
    now: float,
    end: float,
    final: bool = False,
    errors: int = 0,
    listed: bool = False,
    delayed: float = 0.0,
) -> Pause | None:
    """Pause, but not beyond ``end``; a poll asked before it and answered after it is followed by one at once.

    ``delayed``: by how many seconds the window ends after the schedule's own.
    """
    if now >= end or window.longest <= 0.0:
        return None
    if delayed:  # the deadline cuts this first
        delayed = max(0.0, delayed - max(0.0, window.longest - (end - now)))
    return Pause(window=window.at_most(end - now), final=final, errors=errors, listed=listed, delayed=delayed)


def _cancel(args: WaitArgs, reading: _Reading, *, now: float) -> Generator[Command, Answer, Outcome]:
    """Ask to cancel, then poll by a fresh schedule for the truth: it may have finished in spite of the cancel."""
    end = now + args.cancel_grace
    windows = args.schedule().windows()
    effect: CancelEffect = "none"
    late = 0.0
    while True:
        refusal: LroError | None = None
        if effect == "none":
            now, refusal = yield Cancel()
            if refusal is None:
                effect = "asked"
            elif not is_transient(refusal):
                effect = "refused"
        asked = now
        get = _get(args, now=now, end=end, late=late)
        now, value = yield get
        outcome = reading.take(value, now=now, asked=asked, cut=get.timeout < args.rpc_timeout)
        if isinstance(outcome, Cancelled):
            return TimedOut(operation=outcome.operation, cancel="took effect")
        if outcome is not None:
            return outcome
        if effect == "refused" or asked >= end:
            return reading.timed_out(effect=effect if refusal is None else "refused", refusal=refusal)
        late = max(0.0, now - end)
        if pause := _pause(reading.delay(next(windows)), now=now, end=end, final=True, delayed=reading.delayed):
            now, _ = yield pause


class _Reading:
    """What the polls of one wait have said so far."""

    def __init__(self, args: WaitArgs, *, started_at: float) -> None:
        self.started_at = started_at
        self._args = args
        self._last: Running | None = None
        self._error: LroError | None = None
        self.errors = args.consecutive_errors
        self._errors_since = 0.0
        self.delayed = 0.0

    def take(self, value: Any, *, now: float, asked: float, cut: bool, strict: bool = False) -> Outcome | None:
        """Take the answer to a Get; None means: go on.

        ``cut``: the call had less time than the user gave it. ``strict``: an endpoint that cannot be right is the end.
        """
        if isinstance(value, Succeeded | Failed | Cancelled):
            return value
        if isinstance(value, Running):
            self._last, self._error, self.errors = value, None, 0
            return None
        if isinstance(value, OperationNotFound):
            self._error = value
            # Several services create the operation some time after they have named it.
            return None if asked - self.started_at < self._args.not_found_grace else self._lost(NotFound, value)
        if not is_transient(value) or (strict and isinstance(value, EndpointError)):
            return self._lost(Broken, value)
        self._error = value
        if (cut and value.code == Code.DEADLINE_EXCEEDED) or getattr(value, "unsent", False):
            return None  # our own doing, so it counts for nothing
        if not self.errors:
            self._errors_since = asked
        self.errors += 1
        return self._lost(Broken, value) if self._gave_up(now) else None

    def _lost(self, kind: type[NotFound | Broken], error: LroError) -> NotFound | Broken:
        return kind(error=error, operation=None if self._last is None else self._last.operation)

    def _gave_up(self, now: float) -> bool:
        most = self._args.max_consecutive_errors
        if most is not None:
            return self.errors > most
        return self._args.deadline is None and now - self._errors_since >= LONGEST_OUTAGE

    def delay(self, window: Window) -> Window:
        """Push the next poll back as far as the service asked for with its last error."""
        retry_after = getattr(self._error, "retry_after", None)
        if retry_after is None:
            self.delayed = 0.0
            return window
        later = window.at_least(min(retry_after, LONGEST_RETRY_INFO))
        self.delayed = later.longest - window.longest
        return later

    def timed_out(self, *, effect: CancelEffect = "none", refusal: LroError | None = None) -> TimedOut:
        """Return the verdict at the deadline."""
        operation = None if self._last is None else self._last.operation
        return TimedOut(operation=operation, error=self._error, cancel=effect, cancel_error=refusal)
