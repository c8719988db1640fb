"""The schedule of the polls: exponential backoff up to an interval, then that interval for ever.

The schedule of Go's ``longrunning.WaitWithInterval``, as it is documented. Pure arithmetic: no clock, no I/O, no
random source; whoever sleeps picks the moment inside a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_RETRY_INFO = 300.0
"""Seconds: the most that a server's RetryInfo may delay a poll."""
_MAX_ELAPSED = 1e15
"""Seconds; any backoff that these arguments allow is over long before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A pause that ends at any moment from ``shortest`` to ``longest`` seconds from now."""

    shortest: float
    longest: float

    def at_least(self, seconds: float) -> Window:
        """Return the window pushed back so that it does not end before ``seconds``."""
        shortest = max(self.shortest, seconds)
        return Window(shortest=shortest, longest=max(self.longest, shortest))

    def earlier(self, seconds: float) -> Window:
        """Return the window moved ``seconds`` towards now, as so much of the pause is over."""
        return Window(shortest=max(0.0, self.shortest - seconds), longest=max(0.0, self.longest - seconds))

    def at_most(self, seconds: float) -> Window:
        """Return the window cut so that it ends ``seconds`` from now at the latest."""
        if self.longest <= seconds:
            return self
        longest = min(self.longest, seconds)
        return Window(shortest=min(self.shortest, longest), longest=longest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The pauses between polls: ``initial``, ``initial * multiplier``, … until ``interval``, then ``interval``.

    Args:
        interval: seconds between polls once the backoff has reached it; 0.1 to 1e9.
        initial: seconds before the second poll; the first is immediate. 0.1 to 1e9. An ``interval`` below it rules.
        multiplier: growth of each pause over the one before it; 1 to 1000.
        jitter: the share of a pause that may be left out, 0 to 1. 1 is gax-go's "full jitter", 0 is none.

    ``WaitArgs`` checks the ranges.

    Source: ``cloud.google.com/go/longrunning``, ``WaitWithInterval``.
    """

    interval: float = 60.0
    initial: float = 1.0
    multiplier: float = 2.0
    jitter: float = 0.1

    def windows(self, *, elapsed: float | None = None, polled: bool = False) -> Iterator[Window]:
        """Yield the pauses of a wait, without end.

        Args:
            elapsed: None for a wait that has just made its first poll. Else the wait is resumed, that many seconds
                after it began: the backoff goes on where it was, and the first window is ``[0, bound]``, so that
                thousands of waits that restart together do not poll together.
            polled: the resumed wait has polled a moment ago; its first window is one like all others.

        For schedules with ``multiplier * (1 - jitter) >= 1`` (the default's is 1.8) a resume adds at most one poll
        to the most that an unbroken wait makes.
        """
        bound = self._first_bound(elapsed or 0.0)
        if elapsed is not None and not polled:
            yield Window(shortest=0.0, longest=bound)
            bound = self._next_bound(bound)
        while True:
            yield Window(shortest=bound * (1.0 - self.jitter), longest=bound)
            bound = self._next_bound(bound)

    def _first_bound(self, elapsed: float) -> float:
        return min(self.initial * self.multiplier ** self._used_up(elapsed), self.interval)

    def _next_bound(self, bound: float) -> float:
        return min(bound * self.multiplier, self.interval)

    def _used_up(self, elapsed: float) -> int:
        """Count the backoff bounds whose sum fits into ``elapsed``; closed form, as ``elapsed`` may be a month."""
        if elapsed <= 0.0 or self.initial >= self.interval or self.multiplier == 1.0:
            return 0
        rate = math.log(self.multiplier)
        to_reach_interval = math.ceil(math.log(self.interval / self.initial) / rate)
        # n bounds last initial * (multiplier**n - 1) / (multiplier - 1). Capped, lest an absurd time overflow.
        growth = math.log1p(min(elapsed, _MAX_ELAPSED) * (self.multiplier - 1.0) / self.initial)
        # The rounding error of two logarithms must not hide a bound that is used up to the very second.
        return min(math.floor(growth / rate + 1e-9), to_reach_interval)
