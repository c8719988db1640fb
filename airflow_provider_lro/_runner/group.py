"""Many waits at once: each is one of ``_wait.py``, and together they end when enough of them have.

The same in the triggerer and on a worker. Floor 1: floor ½ is imported inside functions.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
from dataclasses import fields, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core import kill
from airflow_provider_lro._core.commands import Cancel
from airflow_provider_lro._core.outcome import Broken, Succeeded
from airflow_provider_lro._core.quorum import Enough, until_pause
from airflow_provider_lro._core.wait import Start, WaitArgs, wait
from airflow_provider_lro._runner.driver import drive_async, steady_clock
from airflow_provider_lro._runner.telemetry import OUTCOMES
from airflow_provider_lro.exceptions import CredentialsError, EndpointError, LroError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence

    from airflow_provider_lro._core.commands import Answer, Command
    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._transport.channel import ChannelConfig

__all__ = ["Gathering", "one_of"]

AT_ONCE = 50
"""Waits that are begun, or ended, in one step of the event loop, which others need, too."""
SECONDS_TO_LOOK = 10.0
"""How long a worker looks which operations are done already, before it leaves the others to the triggerer."""

log = logging.getLogger(__name__)


def one_of(args: WaitArgs, name: str) -> WaitArgs:
    """Return the wait for one of the operations of ``args``."""
    own = copy.copy(args)
    own.operation_name = name
    return own


class Gathering:
    """Waits for many operations, and keeps what became of each.

    Args:
        args: the wait for each; its ``operation_name`` counts for nothing.
        names: the operations.
        wanted: how many must succeed; 0 for all, and all are waited for.
        require_result: as the sensor's: a success without a result is none.
        keep: bytes of results to keep, of those that succeeded and of the others each; what is beyond is dropped, and
            only the verdict kept.
    """

    def __init__(
        self,
        args: WaitArgs,
        names: Sequence[str],
        *,
        wanted: int = 0,
        require_result: bool = False,
        keep: float = math.inf,
    ) -> None:
        # Plain arguments, whoever holds them: a trigger is one of them, too.
        self.args = WaitArgs(**{field.name: getattr(args, field.name) for field in fields(WaitArgs)})
        self.names = names
        self.outcomes: list[Outcome | None] = [None] * len(names)
        self._enough = Enough(total=len(names), wanted=wanted)
        self._require_result = require_result
        self._room = {True: keep, False: keep}
        self._succeeded = 0
        self._failed = 0
        self._clock = steady_clock()
        self._report = _Report(len(names), self.args.interval)

    @property
    def is_over(self) -> bool:
        """Whether enough of them are done. At the deadline each has its end coming, perhaps by a cancel."""
        if self._succeeded + self._failed < len(self.names) and self._clock() >= (self.args.deadline or math.inf):
            return False
        return self._enough.is_over(succeeded=self._succeeded, failed=self._failed)

    @property
    def left(self) -> list[int]:
        """Which of them are not done, as far as is known."""
        return [index for index, outcome in enumerate(self.outcomes) if outcome is None]

    async def look(self, channels: Sequence[ChannelConfig]) -> None:
        """Poll each once, or as many as it takes to know that it is too early.

        Raises:
            EndpointError, CredentialsError: some cannot be reached at all, and not enough have succeeded already.
        """
        first = {id(channel): index for index, channel in reversed(list(enumerate(channels)))}
        await self._poll_once(channels, first.values(), all_of_them=True)
        unreachable = {
            channel: error
            for channel, index in first.items()
            if (error := _unreachable(self.outcomes[index])) is not None
        }
        are_done = all(self.outcomes[index] is not None for index in first.values())
        if not self.is_over and (self._enough.wanted or (are_done and not unreachable)):
            others = [index for index in self.left if id(channels[index]) not in unreachable]
            try:
                async with asyncio.timeout(SECONDS_TO_LOOK):
                    await self._poll_once(channels, others, all_of_them=bool(self._enough.wanted))
            except TimeoutError:
                log.info("not all of %d operations could be polled in %g s", len(self.names), SECONDS_TO_LOOK)
        if unreachable and not self._enough.is_met(self._succeeded):
            raise next(iter(unreachable.values()))

    async def run(self, channels: Sequence[ChannelConfig], *, start: Start) -> None:
        """Wait until it is over."""
        if not self.is_over:
            await self._wait(channels, self.left, lambda args: wait(args, now=self._clock(), start=start))
        self._report.say()

    def count_ended(self, channels: Sequence[ChannelConfig]) -> None:
        """Count what the waits have come to, for whoever reports this event loop; once, when it is over."""
        from airflow_provider_lro._transport.limiter import pace_of

        for channel, outcome in zip(channels, self.outcomes, strict=True):
            if outcome is not None:
                ended = pace_of(channel.target).counts.ended
                kind = OUTCOMES[type(outcome)]
                ended[kind] = ended.get(kind, 0) + 1

    async def cancel(self, channels: Sequence[ChannelConfig], *, within: float) -> None:
        """Ask to cancel all that are not done, as their task was killed."""
        from airflow_provider_lro._transport.crowd import considerate

        left = self.left
        async with considerate(channels) as clients:

            async def one(index: int) -> bool:
                args = one_of(self.args, self.names[index])
                steps = kill.cancel(now=self._clock(), within=within)
                await drive_async(steps, args, clients[index], clock=self._clock, journal=self._report)
                return False

            try:
                async with asyncio.timeout(within):
                    await _all(one, left)
            except TimeoutError:
                log.warning("not all of %d operations could be asked to cancel in %g s", len(left), within)
        self._report.say()

    async def _poll_once(self, channels: Sequence[ChannelConfig], which: Iterable[int], *, all_of_them: bool) -> None:
        """Poll each up to its first pause; ``all_of_them``: though one is not done."""
        await self._wait(
            channels,
            which,
            lambda args: until_pause(wait(args, now=self._clock(), start=Start.FRESH)),
            goes_on=all_of_them,
        )

    async def _wait(
        self,
        channels: Sequence[ChannelConfig],
        which: Iterable[int],
        steps_of: Callable[[WaitArgs], Generator[Command, Answer, Outcome | None]],
        *,
        goes_on: bool = True,
    ) -> None:
        from airflow_provider_lro._transport.crowd import considerate

        async with considerate(channels) as clients:

            async def one(index: int) -> bool:
                args = one_of(self.args, self.names[index])
                outcome = await drive_async(
                    steps_of(args), args, clients[index], clock=self._clock, shared=True, journal=self._report
                )
                if outcome is None:
                    return not goes_on
                self._took(index, outcome)
                return self.is_over

            await _all(one, which)

    def _took(self, index: int, outcome: Outcome) -> None:
        succeeded = isinstance(outcome, Succeeded)
        if succeeded and self._require_result and outcome.operation.WhichOneof("result") is None:
            succeeded = False
        if succeeded:
            self._succeeded += 1
        else:
            self._failed += 1
        size = 0 if outcome.operation is None else outcome.operation.ByteSize()
        self._room[succeeded] -= size
        if size and self._room[succeeded] < 0:
            self._room[succeeded] += size
            outcome = replace(outcome, operation=None)
        self.outcomes[index] = outcome
        self._report.done(failed=not succeeded)


def _unreachable(outcome: Outcome | None) -> LroError | None:
    """Return why nothing of a channel can be reached, if that is what an outcome says."""
    error = outcome.error if isinstance(outcome, Broken) else None
    return error if isinstance(error, EndpointError | CredentialsError) else None


async def _all(act: Callable[[int], Coroutine[Any, Any, bool]], which: Iterable[int]) -> None:
    """Act on many at the same time; ends with the last, or with the first that says so, and ends the others then."""
    crew = _Crew()
    try:
        for number, index in enumerate(which, 1):
            crew.add(act(index))
            if not number % AT_ONCE:
                await asyncio.sleep(0)
            if crew.over.done():
                break
        await crew.last()
    finally:
        await crew.dismiss()


class _Crew:
    """Tasks that run together until one of them says that it is over, raises, or none is left."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = self._loop.create_future()
        self._tasks: set[asyncio.Task[bool]] = set()
        self._complete = False

    def add(self, work: Coroutine[Any, Any, bool]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def last(self) -> None:
        self._complete = True
        if self._tasks or self.over.done():
            await self.over

    async def dismiss(self) -> None:
        self.over.cancel()  # how they end now says nothing
        try:
            while some := list(islice(self._tasks, AT_ONCE)):
                for task in some:
                    task.cancel()
                await asyncio.wait(some)
        finally:  # cancelled once more: nobody waits for the rest, which must not go on
            for task in self._tasks:
                if not task.cancelling():
                    task.cancel()

    def _ended(self, task: asyncio.Task[bool]) -> None:
        self._tasks.discard(task)
        error = RuntimeError("a wait was cancelled from inside") if task.cancelled() else task.exception()
        if self.over.done():
            return
        if error is not None:
            self.over.set_exception(error)
        elif task.result() or (self._complete and not self._tasks):
            self.over.set_result(None)


class _Report:
    """Logs how far many waits are, once an interval at most: a line for each poll that fails would be thousands."""

    def __init__(self, total: int, interval: float) -> None:
        self._total = total
        self._interval = interval
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next = 0.0
        self._done = 0
        self._failed = 0
        self._asked = 0
        self._refused = 0
        self._errors = 0
        self._last: LroError | None = None
        self._said = ""

    def done(self, *, failed: bool) -> None:
        """Take note of one that is done."""
        self._done += 1
        self._failed += failed
        self._say_at_times()

    def note(self, command: Command, value: Any) -> None:
        """Take note of what one of them has met."""
        if isinstance(command, Cancel) and value is None:
            self._asked += 1
        elif isinstance(command, Cancel):
            self._refused += 1
            self._last = value
        elif isinstance(value, LroError):
            self._errors += 1
            self._last = value
        else:
            return
        self._say_at_times()

    def say(self) -> None:
        """Log it now, if there is something that was not said."""
        line = f"{self._done:,} of {self._total:,} operations are done"
        if self._failed:
            line += f", {self._failed:,} of them failed"
        if self._asked:
            line += f"; {self._asked:,} were asked to cancel"
        if self._refused:
            line += f"; {self._refused:,} cancels were not accepted"
        if self._errors:
            line += f"; {self._errors:,} polls have failed, which says nothing about the operations"
        if line != self._said:
            self._said = line
            log.info("%s%s", line, "" if self._last is None else f"; the last error: {self._last}")
            self._last = None

    def _say_at_times(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._next = loop, loop.time() + self._interval
        if loop.time() >= self._next:
            self._next = loop.time() + self._interval
            self.say()
