"""The drivers of the policy, sync and aio: they carry out its commands, and send it the result and the time."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from airflow_provider_lro._core.checks import in_words
from airflow_provider_lro._core.wait import Answer, Cancel, Get, Pause
from airflow_provider_lro.exceptions import LroError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from airflow_provider_lro._core.state import OperationState
    from airflow_provider_lro._core.wait import Command

LOOK_EVERY = 1.0
"""Seconds between two looks at whether an event loop moves."""
AFTERMATH = 60.0
"""Seconds after a standstill in which Airflow's supervisor tells the process what has become of its triggers."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class WaitObserver(Protocol):
    """A listener to everything that a driver does."""

    def record(self, command: Command, value: Any) -> None:
        """Record a command that was carried out, and its result: a value as ``Answer`` has it."""


def steady_clock() -> Callable[[], float]:
    """Return a clock of epoch seconds that does not jump when the system's is set."""
    origin = time.time() - time.monotonic()
    return lambda: origin + time.monotonic()


class LoopWatch:
    """Knows whether an event loop has stood still lately, as it does in a process that was stopped. A context manager.

    Another triggerer has taken the triggers over by then, and may have ended their tasks: that a trigger is cancelled
    says nothing any more. One watch serves all waits of a loop, and ticks while there are any.
    """

    def __init__(self, threshold: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._threshold = threshold
        self._users = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ticked_at = self._loop.time()
        self._moved_at = -math.inf

    def __enter__(self) -> Self:
        self._users += 1
        if self._users == 1:
            self._ticked_at = self._loop.time()
            self._timer = self._loop.call_later(LOOK_EVERY, self._tick)
        return self

    def __exit__(self, *raised: object) -> None:
        self._users -= 1
        self._look()
        if not self._users and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stood_still(self) -> bool:
        """Return True if it stood still for longer than the threshold, until now or a moment ago."""
        if self._users:
            self._look()
        return self._loop.time() - self._moved_at < AFTERMATH

    def _tick(self) -> None:
        self._look()
        self._timer = self._loop.call_later(LOOK_EVERY, self._tick)

    def _look(self) -> None:
        now = self._loop.time()
        if now - self._ticked_at > self._threshold:
            self._moved_at = now
        self._ticked_at = now


class Drive(Generic[T]):
    """A policy on its way: its commands are carried out, and their results and times sent to it.

    It can stop at a pause, and go on later where it was.

    Args:
        steps: from ``wait`` or ``cancel_after_kill``.
        poller: does the I/O.
        clock: epoch seconds; never steps back.
        observer: records all that is done.
    """

    __slots__ = ("_clock", "_observer", "_poller", "_steps", "command")

    def __init__(
        self,
        steps: Generator[Command, Answer, T],
        poller: Any,
        *,
        clock: Callable[[], float],
        observer: WaitObserver,
    ) -> None:
        self._steps = steps
        self._poller = poller
        self._clock = clock
        self._observer = observer
        self.command: Command = next(steps)

    async def run(self, *, to_pause: bool = False) -> T | None:
        """Go on until there is an outcome. ``to_pause``: or to the next pause that others may wait out; then None."""
        while True:
            command = self.command
            value: Any = None
            try:
                if isinstance(command, Get):
                    value = await self._poller.get(command)
                elif isinstance(command, Cancel):
                    await self._poller.cancel(command)
                elif to_pause and not command.final:
                    return None
                else:
                    await self._poller.pause(command)
            except LroError as error:
                # The wait keeps it through its pause, and by these the frames of the call, a few kilobytes each.
                value = error.with_traceback(None)
                value.__context__ = None
            self._observer.record(command, value)
            try:
                self.command = self._steps.send(Answer(now=self._clock(), value=value))
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]

    @property
    def pause(self) -> Pause | None:
        """The pause that it stands at, if it does."""
        return self.command if isinstance(self.command, Pause) else None

    @property
    def polls(self) -> int:
        """The number of polls that it has made."""
        return int(self._poller.polls)

    async def close(self) -> None:
        """Give back what is shared."""
        await self._poller.close()


def drive(
    steps: Generator[Command, Answer, T], poller: Any, *, clock: Callable[[], float], observer: WaitObserver
) -> T:
    """Do what a policy says until it has its outcome, blocking: by a poller whose coroutines never wait."""
    try:
        Drive(steps, poller, clock=clock, observer=observer).run().send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise RuntimeError("the poller of a blocking wait has waited")


class LogObserver:
    """Logs the events of one wait, sparingly: a line costs as much as a poll, and an outage meets all waits at once.

    ``shown``: what stands for a name that the log has shown before.
    """

    __slots__ = ("_errors", "_failed", "_line", "_logged", "_metadata", "_name", "_polls", "_shown")

    def __init__(self, name: str, *, shown: str = "") -> None:
        self._name = name
        self._shown = shown or name
        self._polls = 0
        self._errors = 0
        self._failed = 0  # in a row
        self._logged: tuple[type[Any], Any] | None = None
        self._metadata = hash(b"")  # of the last; the bytes may be many, and there are thousands of waits
        self._line: str | None = None

    def record(self, command: Command, value: Any) -> None:
        """Log a failure that is not the same as the last one, and progress."""
        if isinstance(command, Cancel):
            if value is None:
                log.info("asked to cancel, as %s [operation %r]", command.because, self._shown)
            else:
                log.warning("could not be asked to cancel: %s", self._in_short(value))
        elif isinstance(value, LroError):
            self._polls += 1
            self._errors += 1
            self._failed += 1
            kind = (type(value), value.code)
            if kind != self._logged:
                what = "there is no connection" if value.connected is False else "a poll failed"
                log.warning("%s, which says nothing about the operation: %s", what, self._in_short(value))
            self._logged = kind
        elif value is not None:
            self._polls += 1
            if self._failed:
                log.info("answers again after %s [operation %r]", _counted(self._failed, "failed poll"), self._shown)
                self._failed, self._logged = 0, None
            self._log_progress(value)

    def log_end(self, outcome: str, *, after: float) -> None:
        """Log an outcome, and the polls that this process has made; ``after``: seconds since the wait began."""
        polls = f"{_counted(self._polls, 'poll')} here, {self._errors} failed"
        log.info("%s after %s (%s) [operation %r]", outcome, in_words(after), polls, self._shown)

    def _in_short(self, error: LroError) -> str:
        return str(error).replace(self._name, self._shown)

    def _log_progress(self, state: OperationState) -> None:
        """Log how far it is, when its metadata has changed and says something new."""
        digest = hash(getattr(state.metadata, "value", None) or repr(getattr(state.metadata, "json", "")).encode())
        if state.metadata is None or digest == self._metadata:
            return
        from airflow_provider_lro._messages.metadata import describe

        self._metadata = digest
        line = describe(state)
        if line is not None and line != self._line:
            log.info("%s [operation %r]", line, self._shown)
            self._line = line


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
