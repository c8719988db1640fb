"""The rate limiters, and the timer wheel that all waits of an event loop share.

Nearly all of the cost of a lone poll is waking up: the same call takes 44 µs of CPU at full load and 1,300 µs at 22 a
second. So pauses end on ticks that all waits of a process share. All of this is per event loop.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from airflow_provider_lro.exceptions import Code, RpcError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterator

    from airflow_provider_lro._core.schedule import Window
    from airflow_provider_lro._messages.protocol import Call
    from airflow_provider_lro._transport.channel import ChannelConfig

T = TypeVar("T")

TICK = 0.25
"""Seconds between the wake-ups that waits share; 0 turns them off."""
BATCH_SIZE = 48
"""Sleepers that share a wake-up before another one is opened. With 12, 16, 20, 32, 48 and 64 a poll of 1,000 waits of
30 s was measured at 447, 420, 411, 393, 383 and 380 µs of CPU, Airflow's 165 included."""
CHOICES = 4
"""Ticks that are looked at where all are full: the emptiest of a few is nearly as good as the emptiest of all."""
MAX_SPACING = 5.0
"""Seconds between the polls of all waits: the slowest that an endpoint is ever polled because it complained."""
MIN_SPACING = 0.01
MAX_SLOW_DOWN = 0.5
"""The share of its interval by which complaints delay a wait's next poll at most; its own RetryInfo may do more."""
MAX_NAP = 0.5
"""Seconds until the next in line checks again whether the spacing has changed."""
RECOVERY = 0.95
"""The share of the spacing after a complaint that each poll that succeeds leaves."""
MIN_DELAY = 0.001
"""Seconds: less is not a delay, only the way through the queue."""
MAX_STEP = 0.01
"""Seconds of CPU that work on a listing may take before everything else in the event loop has a turn."""


def forget_closed(kept: dict[Any, Any]) -> None:
    """Delete the values of closed event loops; a key is the loop, or a tuple that begins with it."""
    for key in list(kept):
        loop: asyncio.AbstractEventLoop = key[0] if isinstance(key, tuple) else key
        if loop.is_closed():
            del kept[key]


def of_loop(kept: dict[asyncio.AbstractEventLoop, T], make: Callable[[], T]) -> T:
    """Return what is kept for the running event loop, made where there is nothing yet."""
    loop = asyncio.get_running_loop()
    if loop not in kept:
        forget_closed(kept)
        kept[loop] = make()
    return kept[loop]


class TimerWheel:
    """The sleepers of one event loop, by the tick at which they wake.

    One tick is filled before another one is opened, like a bus that leaves when it is full: so the number of wake-ups
    follows the number of polls, not of waits. Where all are full, the emptier one is taken.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sleepers: dict[int, list[asyncio.Future[None]]] = {}
        self._open: set[int] = set()

    def one_of(self, first: int, last: int) -> asyncio.Future[None]:
        """Return a future that is done at some tick of a range."""
        tick = self._pick(first, last)
        sleepers = self._sleepers.get(tick)
        if sleepers is None:
            sleepers = self._sleepers[tick] = []
            self._open.add(tick)
            self._loop.call_at(tick * TICK, self._wake, tick)
        sleeper = self._loop.create_future()
        sleepers.append(sleeper)
        if len(sleepers) == BATCH_SIZE:
            self._open.remove(tick)
        return sleeper

    def _pick(self, first: int, last: int) -> int:
        open_ones = [tick for tick in self._open if first <= tick <= last]
        if open_ones:
            return random.choice(open_ones)
        return min((random.randint(first, last) for _ in range(CHOICES)), key=self._fill)

    def _fill(self, tick: int) -> int:
        return len(self._sleepers.get(tick, ()))

    def _wake(self, tick: int) -> None:
        self._open.discard(tick)
        self._wake_next(iter(self._sleepers.pop(tick)))

    def _wake_next(self, sleepers: Iterator[asyncio.Future[None]]) -> None:
        """Wake one, and the next in the next step of the event loop: all at once would hold up everything else."""
        for sleeper in sleepers:
            if not sleeper.done():  # one that was cancelled is
                sleeper.set_result(None)
                self._loop.call_soon(self._wake_next, sleepers)
                return


class Slices:
    """Long work in slices, which together take half of the event loop's time at most, whoever does them.

    Time is CPU time of the loop's thread: what is waited for in between, such as the next page, is no work.
    """

    def __init__(self) -> None:
        self._until = time.thread_time() + MAX_STEP

    async def next(self) -> None:
        """Go on with the work; once the slice has lasted for ``MAX_STEP``, when it is its turn again."""
        if time.thread_time() >= self._until:
            async with _here().turns:
                await asyncio.sleep(2.0 * MAX_STEP)  # another slice may run in half of it
            self._until = time.thread_time() + MAX_STEP


class _OfLoop:
    """The wheel, the limiters and the numbers of one event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.wheel = TimerWheel(self.loop)
        self.turns = asyncio.Lock()  # of long work
        self.stats: dict[str, EndpointStats] = {}  # by target
        # By ChannelConfig.quota_key, for as long as somebody polls by it: a key may hold a token, and they change.
        self.limiters: WeakValueDictionary[tuple[str, Hashable], RateLimiter] = WeakValueDictionary()


_of_loops: dict[asyncio.AbstractEventLoop, _OfLoop] = {}


def _here() -> _OfLoop:
    return of_loop(_of_loops, _OfLoop)


# Neither is a coroutine: a wait sleeps nearly all of its time, and all that it holds then is there thousands of times.


def sleep(window: Window) -> Awaitable[None]:
    """Sleep, when awaited, to a random moment of a window."""
    return asyncio.sleep(random.uniform(window.shortest, window.longest))


def pause(window: Window) -> Awaitable[None]:
    """Sleep, when awaited, to one of the ticks in a window; if it is narrower than a tick, to a random moment of it."""
    if TICK <= 0 or window.longest - window.shortest < TICK:
        return sleep(window)
    here = _here()
    now = here.loop.time()
    return here.wheel.one_of(math.ceil((now + window.shortest) / TICK), math.floor((now + window.longest) / TICK))


class EndpointStats:
    """Numbers of one endpoint since they were sent the last time. Not for several threads."""

    __slots__ = ("delays", "ended", "errors", "gets", "lists", "long_polls", "slow_downs", "waits")

    def __init__(self) -> None:
        self.waits = 0  # how many there are; all others are since the last time
        self.gets = 0
        self.long_polls = 0
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

    def drain(self) -> Iterator[tuple[str, int, dict[str, str]]]:
        """Yield the numbers as counters, with their tags, and begin anew."""
        for method, number in (("get", self.gets), ("wait", self.long_polls), ("list", self.lists)):
            if number:
                yield "lro.polls", number, {"method": method}
        if self.slow_downs:
            yield "lro.slow_downs", self.slow_downs, {}
        self.gets = self.long_polls = self.lists = self.slow_downs = 0
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


class RateLimiter:
    """The rate at which all waits of one event loop may poll that share a quota (``ChannelConfig.quota_key``).

    Polls take their turns in the order in which they ask, so that none starves. The endpoint's complaints
    (RESOURCE_EXHAUSTED, RetryInfo) slow all of them down, and polls that succeed speed them up again.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, stats: EndpointStats, max_polls_per_second: float | None = None
    ) -> None:
        self._loop = loop
        self.stats = stats
        self._least = 1.0 / (max_polls_per_second or math.inf)
        self._order = asyncio.Lock()  # first come, first served; who is cancelled gives it back
        self._slow_order = asyncio.Lock()  # the same, while a complaint slows polls down
        self.is_slowed = False  # by a complaint, from which polls that succeed recover
        self._slow = 0.0
        self._slow_from = 0.0
        self._slowed_at = -math.inf
        self._last = -math.inf  # the first poll waits for no other
        self._last_slow = -math.inf
        self._gap = 0.0

    @property
    def spacing(self) -> float:
        """Seconds from one poll to the next, at the moment."""
        return max(self._least, self._slow)

    async def acquire(self, *, within: float = math.inf, max_slow_down: float = math.inf) -> None:
        """Wait for the turn of one poll.

        Args:
            within: seconds in which it must come.
            max_slow_down: seconds by which complaints may delay it.

        Raises:
            TimeoutError: it has not come.
        """
        if self.spacing:
            asked, reason = self._loop.time(), "slow_down" if self._slow > self._least else "quota"
            try:
                async with asyncio.timeout(within):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(max_slow_down), self._slow_order:
                            await self._sleep_until(lambda: self._last_slow + self._slow)
                            self._last_slow = self._loop.time()
                    async with self._order:
                        await self._sleep_until(lambda: self._last + self._least)
                        self._polls()
            finally:
                self.stats.delayed(reason, self._loop.time() - asked)
        else:
            self._polls()

    async def _sleep_until(self, turn: Callable[[], float]) -> None:
        """Sleep until a turn comes; the spacing may change meanwhile, so none is booked ahead."""
        while (left := turn() - self._loop.time()) > 0.0:  # noqa: ASYNC110  (it sleeps for as long as it knows)
            await asyncio.sleep(min(left, MAX_NAP))

    def _polls(self) -> None:
        now = self._loop.time()
        # With a spacing, the pace itself would be taken for the demand, and a few complaints stop it all.
        if not self.spacing and self._last > -math.inf:
            self._gap += 0.05 * (now - self._last - self._gap)
        self._last = now

    def record(self, error: Exception | None) -> None:
        """Record the result of a poll: its error, or None."""
        if error is None:
            if self._slow:
                self._slow *= RECOVERY
                if self._slow < self._slow_from / 4:
                    self._slow, self.is_slowed = 0.0, False
            return
        if not isinstance(error, RpcError) or error.permanent:
            return
        if error.retry_after is not None or error.code == Code.RESOURCE_EXHAUSTED:
            self._complained()

    def _complained(self) -> None:
        now = self._loop.time()
        if now - self._slowed_at < max(1.0, self._slow):
            return  # the answers to polls that were on their way are one complaint
        self._slowed_at = now
        self.stats.slow_downs += 1
        wanted = 2.0 * (self._slow or self._gap)
        self._slow = min(max(wanted, MIN_SPACING), MAX_SPACING)
        self._slow_from, self.is_slowed = self._slow, True


def not_sent_error(call: Call, target: str) -> RpcError:
    """Return the error of a call that was rate limited, and never sent."""
    error = RpcError(f"rate limited, not sent {call.at(target)}", code=Code.DEADLINE_EXCEEDED)
    error.not_sent = True
    return error


def limiter_of(config: ChannelConfig) -> RateLimiter:
    """Return the limiter, in the running event loop, of all that share a quota with a channel."""
    limiters = _here().limiters
    limiter = limiters.get(config.quota_key)
    if limiter is None:
        loop, limit = asyncio.get_running_loop(), config.max_polls_per_second
        limiter = limiters[config.quota_key] = RateLimiter(loop, stats_of(config.target), limit)
    return limiter


def stats_of(target: str) -> EndpointStats:
    """Return the numbers of an endpoint in the running event loop, whoever polls it."""
    stats = _here().stats
    if target not in stats:
        stats[target] = EndpointStats()
    return stats[target]


def endpoints() -> Iterator[tuple[str, EndpointStats, float]]:
    """Yield the endpoints of the running event loop, with their numbers and the longest spacing of their limiters."""
    here = _here()
    spacings: defaultdict[str, float] = defaultdict(float)
    for (target, _), limiter in here.limiters.items():
        spacings[target] = max(spacings[target], limiter.spacing)
    for target, stats in here.stats.items():
        yield target, stats, spacings[target]
