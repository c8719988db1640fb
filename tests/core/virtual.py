"""The policy of a wait in virtual time: a clock that only pauses and calls move, a service that keeps to a script.

Nothing sleeps: a month of waiting takes milliseconds. All times here are seconds after ``EPOCH``, a round number of
the size that the clock of a real wait shows. Prior art: trio's ``MockClock``.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from hypothesis import settings
from hypothesis import strategies as st

from airflow_provider_lro._core.args import WaitArgs
from airflow_provider_lro._core.outcome import Cancelled, Failed, Succeeded
from airflow_provider_lro._core.state import OperationState, Payload
from airflow_provider_lro._core.wait import Answer, Cancel, Get, Pause, Start, wait
from airflow_provider_lro.exceptions import (
    Code,
    CredentialsError,
    EndpointError,
    LroError,
    OperationNotFound,
    RpcError,
    UnimplementedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._core.schedule import Window

EPOCH = 1_700_000_000.0
"""When every wait begins, in epoch seconds."""
CLOCK_ERROR = 1e-5
"""Seconds: some roundings of a float of epoch seconds, each a quarter of a microsecond."""
MAX_COMMANDS = 100_000
"""A wait that yields more than this goes round in circles."""

properties = settings(deadline=None, max_examples=100)
"""For every property; the profile that hypothesis loads by itself where CI is set makes them repeatable."""

Choice: TypeAlias = "Callable[[Window], float]"
Ending: TypeAlias = type[Succeeded] | type[Failed] | type[Cancelled]
CODES: dict[Ending, int | None] = {Succeeded: None, Failed: Code.FAILED_PRECONDITION, Cancelled: Code.CANCELLED}
"""The code of an operation that has ended so."""
Fault: TypeAlias = "Callable[[int, float], LroError | None]"
"""The error of a poll, if it fails: by its number, from 0, and by when it is asked."""


def earliest(window: Window) -> float:
    """Choose the first moment of a window."""
    return window.shortest


def latest(window: Window) -> float:
    """Choose the last moment of a window."""
    return window.longest


@dataclass
class Seeded:
    """Chooses a random moment of each window, the same ones for the same seed."""

    seed: int

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def __call__(self, window: Window) -> float:
        return self._random.uniform(window.shortest, window.longest)


@dataclass
class Shares:
    """Chooses a moment by shares of the window, 0 its first and 1 its last, over and over."""

    shares: Sequence[float]

    def __post_init__(self) -> None:
        self._shares = itertools.cycle(self.shares)

    def __call__(self, window: Window) -> float:
        return window.shortest + (window.longest - window.shortest) * next(self._shares)


def choices() -> st.SearchStrategy[Choice]:
    """Return ways to choose the moment within each window."""
    shares = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6).map(Shares)
    return st.one_of(st.sampled_from([earliest, latest]), shares, st.integers(0, 2**16).map(Seeded))


def wait_args(*, timeout: float | None = None, **fields: Any) -> WaitArgs:
    """Return the arguments of a wait that began at ``EPOCH`` and may last ``timeout`` seconds."""
    deadline = None if timeout is None else EPOCH + timeout
    return WaitArgs(**{"operation_name": "operations/o", "started_at": EPOCH, "deadline": deadline, **fields})


def rpc_error(code: int, *, retry_after: float | None = None, permanent: bool = False) -> RpcError:
    """Return the error that a call which failed with this code becomes."""
    kinds = {Code.NOT_FOUND: OperationNotFound, Code.UNIMPLEMENTED: UnimplementedError}
    error = kinds.get(Code.of(code), RpcError)(f"a call failed with {code!r}", code=code)
    error.retry_after, error.permanent = retry_after, permanent
    return error


def unavailable(*, retry_after: float | None = None) -> RpcError:
    """Return the error that is most often met."""
    return rpc_error(Code.UNAVAILABLE, retry_after=retry_after)


def no_connection() -> RpcError:
    """Return the error of a call that waited for a connection until its time was up."""
    error = rpc_error(Code.DEADLINE_EXCEEDED)
    error.connected = False
    return error


def no_key() -> CredentialsError:
    """Return the error of credentials that cannot be loaded."""
    error = CredentialsError("there is no key file")
    error.not_loaded = True
    return error


def not_found() -> RpcError:
    """Return the error of a name that the service does not know."""
    return rpc_error(Code.NOT_FOUND)


def no_such_host() -> EndpointError:
    """Return the error of an endpoint that cannot be right."""
    return EndpointError("no such host")


def in_turn(faults: Iterable[LroError | None]) -> Fault:
    """Let the first polls fail with these in turn; None stands for one that does not fail."""
    by_number = dict(enumerate(faults))
    return lambda number, _asked: by_number.get(number)


def over_and_over(faults: Sequence[LroError | None]) -> Fault:
    """Let all polls fail with these in turn, from the start again after the last."""
    return lambda number, _asked: faults[number % len(faults)]


def until(moment: float, make: Callable[[], LroError]) -> Fault:
    """Let every poll that is asked before a moment fail."""
    return lambda _number, asked: make() if asked < moment else None


@dataclass(kw_only=True)
class Service:
    """A service that keeps to its script; it answers with the state of the moment at which it was asked.

    Attributes:
        done_at: when the operation ends by itself.
        ending: its outcome then.
        fault: the errors of polls.
        latency: seconds that calls take, over and over; a call that would take longer than its timeout takes that.
        refusals: the errors of requests to cancel, in turn; when they are used up, one is accepted.
        cancel_takes: seconds from an accepted cancel to the end by it.
    """

    done_at: float = math.inf
    ending: Ending = Succeeded
    fault: Fault = lambda _number, _asked: None
    latency: Sequence[float] = (0.0,)
    refusals: Sequence[LroError] = ()
    cancel_takes: float = math.inf
    calls: int = field(default=0, init=False)
    polls: int = field(default=0, init=False)
    cancelled_at: float = field(default=math.inf, init=False)
    _refused: int = field(default=0, init=False)

    def call(self, command: Get | Cancel, now: float, timeout: float) -> tuple[float, Any]:
        """Answer a call; return how long it took, and its result.

        A call that times out has arrived all the same: what it asked for happens.
        """
        takes = self.latency[self.calls % len(self.latency)]
        self.calls += 1
        value = self.get(now) if isinstance(command, Get) else self.cancel(now)
        return (takes, value) if takes <= timeout else (timeout, rpc_error(Code.DEADLINE_EXCEEDED))

    def get(self, now: float) -> Any:
        """Answer a poll."""
        number, self.polls = self.polls, self.polls + 1
        error = self.fault(number, now)
        if error is not None:
            return error
        read = Payload(value=str(number).encode())  # no two answers are equal
        if now < min(self.done_at, self.cancelled_at):
            return OperationState(name="operations/o", metadata=read)
        ending = self.ending if self.done_at <= self.cancelled_at else Cancelled
        return OperationState(name="operations/o", done=True, code=CODES[ending], metadata=read)

    def cancel(self, now: float) -> LroError | None:
        """Answer a request to cancel."""
        if self._refused < len(self.refusals):
            self._refused += 1
            return self.refusals[self._refused - 1]
        self.cancelled_at = min(self.cancelled_at, now + self.cancel_takes)
        return None


@dataclass(frozen=True, kw_only=True)
class Call:
    """A poll or a request to cancel."""

    asked: float
    answered: float
    value: Any


@dataclass(frozen=True, kw_only=True)
class Paused:
    """A pause, from ``at`` to ``until``."""

    at: float
    until: float
    window: Window
    final: bool
    delayed: float = 0.0
    errors: int = 0


@dataclass(kw_only=True)
class Run:
    """The calls and pauses of a wait. ``outcome`` is None where it was killed."""

    outcome: Outcome | None = None
    ended: float = 0.0
    polls: list[Call] = field(default_factory=list)
    cancels: list[Call] = field(default_factory=list)
    pauses: list[Paused] = field(default_factory=list)

    @property
    def polled_at(self) -> list[float]:
        """When it polled, to a tenth of a millisecond."""
        return [round(call.asked, 4) for call in self.polls]

    @property
    def cancelled_at(self) -> list[float]:
        """When it asked to cancel, to a tenth of a millisecond."""
        return [round(call.asked, 4) for call in self.cancels]

    def latency_after(self, moment: float) -> float:
        """Return the seconds that its calls spent after a moment."""
        return sum(call.answered - max(call.asked, moment) for call in self._calls() if call.answered > moment)

    def _calls(self) -> list[Call]:
        return self.polls + self.cancels


def run(
    args: WaitArgs,
    service: Service,
    *,
    choose: Choice = latest,
    start: Start = Start.FRESH,
    at: float = 0.0,
    kill_at: float = math.inf,
    before: Run | None = None,
    others_reached_at: float = math.inf,
) -> Run:
    """Drive a wait to its outcome, or until it is killed.

    Args:
        args: the wait.
        service: answers its calls.
        choose: picks the moment within a window, in seconds from now.
        start: how the wait begins.
        at: when it begins.
        kill_at: when it is killed: nothing that ends later is seen to end.
        before: the run of an earlier life of this wait, which is continued.
        others_reached_at: when another wait of the same task has its first answer.
    """
    done = before or Run()
    now = EPOCH + at
    steps = wait(args, now=now, start=start, is_reached=lambda: now - EPOCH >= others_reached_at)
    command = next(steps)
    for _ in range(MAX_COMMANDS):
        asked = now - EPOCH
        value: Any = None
        if isinstance(command, Pause):
            chosen = choose(command.window)
            now += min(max(chosen, command.window.shortest), command.window.longest)
            shown = {key: getattr(command, key) for key in ("window", "final", "delayed", "errors")}
            done.pauses.append(Paused(at=asked, until=now - EPOCH, **shown))
        else:
            timeout = command.timeout if isinstance(command, Get) else args.rpc_timeout
            took, value = service.call(command, asked, timeout)
            now += took
            call = Call(asked=asked, answered=now - EPOCH, value=value)
            (done.polls if isinstance(command, Get) else done.cancels).append(call)
        if now - EPOCH > kill_at:
            steps.close()
            done.ended = kill_at
            return done
        done.ended = now - EPOCH
        try:
            command = steps.send(Answer(now=now, value=value))
        except StopIteration as stop:
            done.outcome = stop.value
            return done
    raise AssertionError(f"no outcome after {MAX_COMMANDS} commands, at {done.ended} s")


def run_through(
    args: WaitArgs, service: Service, restarts: Iterable[tuple[float, float]], *, choose: Choice = latest
) -> Run:
    """Drive a wait that is killed and resumed on its way.

    Args:
        args: the wait, as a trigger's row holds it, so it is the same in every life.
        service: answers its calls.
        restarts: pairs of the moment it is killed and the moment it is resumed, in order.
        choose: picks the moment within a window.
    """
    done = Run()
    start, at = Start.FRESH, 0.0
    for killed, resumed in restarts:
        run(args, service, choose=choose, start=start, at=at, kill_at=killed, before=done)
        if done.outcome is not None:
            return done
        start, at = Start.RESUME, resumed
    return run(args, service, choose=choose, start=start, at=at, before=done)
