"""The policy of a wait: when to poll, how to read each answer, when to give up; and of the cancel after a kill.

Generators that do no I/O and know no clock, like h11 and h2: they yield what is to be done (``Get``, ``Pause``,
``Cancel``) and are sent an ``Answer`` with the time at which it came; the return value is the outcome. The driver
does the I/O; the tests drive them in virtual time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from airflow_provider_lro._core.outcome import (
    CallFailed,
    CancelEffect,
    Cancelled,
    Done,
    Failed,
    NotFound,
    Outcome,
    Succeeded,
    TimedOut,
)
from airflow_provider_lro._core.schedule import MAX_RETRY_INFO, Window
from airflow_provider_lro.exceptions import Code, CredentialsError, EndpointError, LroError, OperationNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from airflow_provider_lro._core.args import WaitArgs
    from airflow_provider_lro._core.state import OperationState

MAX_OUTAGE = 24 * 3600.0
"""Seconds of nothing but errors after which a wait without deadline gives up."""
NEW_FOR = 60.0
"""Seconds for which a wait is new: whoever takes it up later cannot know whether the service was ever reached."""
MIN_CALL = 1.0
"""Seconds: the least a call gets, however near the deadline is."""
MAX_LONG_POLL = 60.0
"""Seconds that a server is asked to hold a long poll."""
_BETWEEN_TRIES = Window(shortest=0.25, longest=0.5)
"""Seconds between two requests to cancel after a kill, which waits for nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Get:
    """Poll the operation, within ``timeout`` seconds.

    ``queue``: seconds that it may wait for its turn besides, as many waits share a channel. ``prompt``: fail at once
    where nobody answers. ``long_poll``: seconds for which the server may be asked to hold the answer until the
    operation is done; 0 for an ordinary poll. ``listed``: a listing will do, if it is as fresh as a poll would be. The
    answer's value: the OperationState, or an LroError.
    """

    timeout: float
    queue: float = math.inf
    prompt: bool = False
    long_poll: float = 0.0
    listed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Let time pass, to any moment of the window.

    ``final`` pauses are short ones, after a cancel at the deadline. ``errors`` counts the polls that failed in a row.
    ``listed``: the backoff is over, so the next listing will do. ``delayed``: seconds by which a server's RetryInfo
    makes it longer than the schedule would.
    """

    window: Window
    final: bool = False
    errors: int = 0
    listed: bool = False
    delayed: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Ask to cancel, within ``timeout`` seconds (None: those of a call). The answer's value: None, or an LroError."""

    because: str = "its time is up"
    timeout: float | None = None


Command: TypeAlias = Get | Pause | Cancel


class Answer(NamedTuple):
    """The result of a command, and when it came: epoch seconds by one clock that never steps back.

    A tuple, so that the policy takes it apart as it comes: a sleeping wait keeps nothing that it does not need.
    """

    now: float
    value: Any = None


class Start(Enum):
    """The ways to begin a wait."""

    FRESH = "the first poll is immediate, and an endpoint that cannot be right ends it at once"
    POLL = "the first poll is immediate, the pauses go by the time since started_at"
    POKE = "as POLL; no earlier try of this wait has asked to cancel"
    RESUME = "a pause comes first, so that waits that restart together do not poll together"


def outcome_of(state: OperationState) -> Done:
    """Return the outcome of a done operation. The error decides, whatever is in it; its message may well be empty."""
    if state.code is None:
        return Succeeded(operation=state)
    return Cancelled(operation=state) if state.code == Code.CANCELLED else Failed(operation=state)


def wait(
    args: WaitArgs, *, now: float, start: Start = Start.FRESH, is_reached: Callable[[], bool] = lambda: False
) -> Generator[Command, Answer, Outcome]:
    """Wait for one operation: yield the commands, and return the outcome.

    Args:
        args: the wait, checked; ``started_at`` None means now.
        now: epoch seconds, by the clock of the answers.
        start: how it begins.
        is_reached: says whether another operation of the same task was reached.
    """
    reading = _Reading(args, now=now, is_reached=is_reached)
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
    first = start is not Start.RESUME  # somebody waits for its answer: it is never a long poll
    late = 0.0
    while True:
        asked = now
        get = _get(args, now=now, end=deadline, late=late, prompt=first, listed=listed)
        now, value = yield get
        strict = first and start is Start.FRESH
        outcome = reading.judge(value, now=now, asked=asked, cut=get.timeout < args.rpc_timeout, strict=strict)
        first = False
        if isinstance(outcome, Cancelled) and own_cancel:
            return TimedOut(operation=outcome.operation, cancel="took effect")
        if outcome is not None:
            return outcome
        if asked >= deadline:
            break
        late = max(0.0, now - deadline)
        window = reading.delay(next(windows))
        listed = _is_listed(args, window)
        if get.long_poll and not isinstance(value, LroError):
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
    timeout = min(args.rpc_timeout, max(most, MIN_CALL))
    if left > 0:
        long_poll = min(left, MAX_LONG_POLL) if args.poll_method in ("wait", "auto") and not prompt else 0.0
        return Get(timeout=timeout, queue=left, prompt=prompt, long_poll=long_poll, listed=listed)
    return Get(timeout=timeout, queue=timeout, prompt=True)


def _is_listed(args: WaitArgs, window: Window) -> bool:
    """Return True if a listing will do for the next poll: only when the backoff is over is it as early as a poll."""
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
    cut = window if window.longest <= end - now else window.at_most(end - now)
    return Pause(window=cut, final=final, errors=errors, listed=listed, delayed=delayed)


def _cancel(args: WaitArgs, reading: _Reading, *, now: float) -> Generator[Command, Answer, Outcome]:
    """Ask to cancel, then poll by a fresh schedule for the outcome: it may have finished in spite of the cancel."""
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
            elif not refusal.is_transient:
                effect = "refused"
        asked = now
        get = _get(args, now=now, end=end, late=late)
        now, value = yield get
        outcome = reading.judge(value, now=now, asked=asked, cut=get.timeout < args.rpc_timeout)
        if isinstance(outcome, Cancelled):
            return TimedOut(operation=outcome.operation, cancel="took effect")
        if isinstance(outcome, CallFailed) and outcome.is_undecided:  # by a worker, that must know of the cancel
            return TimedOut(operation=outcome.operation, error=outcome.error, cancel=effect, cancel_error=refusal)
        if outcome is not None:
            return outcome
        if effect == "refused" or asked >= end:
            return reading.timed_out(effect=effect if refusal is None else "refused", refusal=refusal)
        late = max(0.0, now - end)
        if pause := _pause(reading.delay(next(windows)), now=now, end=end, final=True, delayed=reading.delayed):
            now, _ = yield pause


class _Reading:
    """The answers to the polls of one wait so far."""

    def __init__(self, args: WaitArgs, *, now: float, is_reached: Callable[[], bool]) -> None:
        self.started_at = now if args.started_at is None else args.started_at
        self._args = args
        self._is_reached = is_reached
        self._was_reached = args.reached or now - self.started_at >= NEW_FOR
        self._refused_since: float | None = None
        self._last: OperationState | None = None
        self._error: LroError | None = None
        self.errors = args.consecutive_errors
        self._errors_since = now
        self.delayed = 0.0

    def judge(self, value: Any, *, now: float, asked: float, cut: bool, strict: bool = False) -> Outcome | None:
        """Return the outcome by the answer to a Get; None means: go on.

        ``cut``: the call had less time than the user gave it. ``strict``: an endpoint or credentials that cannot be
        right are the end; later they have been right before.
        """
        if not isinstance(value, LroError):
            self._last, self._error, self.errors = value, None, 0
            self._was_reached = True
            return outcome_of(value) if value.done else None
        if isinstance(value, OperationNotFound):
            self._error = value
            # Several services create the operation some time after they have named it.
            return None if asked - self.started_at < self._args.not_found_grace else self._lost(NotFound, value)
        may_heal = value.is_transient or getattr(value, "not_loaded", False)
        if not may_heal or (strict and isinstance(value, EndpointError | CredentialsError)):
            return self._lost(CallFailed, value)
        self._error = value
        if self._is_unreachable(value, now=now, asked=asked):
            why = f"no connection for {self._args.connect_timeout:g} s, since the first poll (connect_timeout)"
            advice = "check the endpoint and the network, and whether the service runs"
            return self._lost(CallFailed, EndpointError(f"{why}: {advice} [{value}]", code=value.code))
        if (cut and value.code == Code.DEADLINE_EXCEEDED) or value.not_sent:
            return None  # our own doing, so it does not count
        if not self.errors:
            self._errors_since = asked
        self.errors += 1
        return self._lost(CallFailed, value) if self._gave_up(now) else None

    def _lost(self, kind: type[NotFound | CallFailed], error: LroError) -> NotFound | CallFailed:
        return kind(error=error, operation=self._last)

    def _is_unreachable(self, error: LroError, *, now: float, asked: float) -> bool:
        """Return True if nobody has ever had a connection to the service, for long enough."""
        if error.connected is None:  # it was not tried: there was no token, or no turn
            self._refused_since = None
        elif error.connected:
            self._was_reached = True
        elif self._refused_since is None:
            self._refused_since = asked
        if self._was_reached or self._refused_since is None or self._args.connect_timeout is None:
            return False
        return now - self._refused_since >= self._args.connect_timeout and not self._is_reached()

    def _gave_up(self, now: float) -> bool:
        most = self._args.max_consecutive_errors
        if most is not None:
            return self.errors > most
        return self._args.deadline is None and now - self._errors_since >= MAX_OUTAGE

    def delay(self, window: Window) -> Window:
        """Push the next poll back as far as the service asked for with its last error."""
        retry_after = getattr(self._error, "retry_after", None)
        if retry_after is None:
            self.delayed = 0.0
            return window
        later = window.at_least(min(retry_after, MAX_RETRY_INFO))
        self.delayed = later.longest - window.longest
        return later

    def timed_out(self, *, effect: CancelEffect = "none", refusal: LroError | None = None) -> TimedOut:
        """Return the verdict at the deadline."""
        return TimedOut(operation=self._last, error=self._error, cancel=effect, cancel_error=refusal)


def cancel_after_kill(*, now: float, within: float) -> Generator[Command, Answer, bool]:
    """Ask to cancel until the service accepts or refuses it, or ``within`` seconds are over; return True if it accepts.

    The driver logs the service's answer; an operation that is gone or done, or a service that cannot cancel, is
    nothing to fail over. ``now``: epoch seconds, by the clock of the answers.
    """
    end = now + within
    while True:
        now, refusal = yield Cancel(because="its task was killed", timeout=max(MIN_CALL, end - now))
        if refusal is None:
            return True
        if not refusal.is_transient or now + _BETWEEN_TRIES.longest + MIN_CALL > end:
            return False
        now, _ = yield Pause(window=_BETWEEN_TRIES)
