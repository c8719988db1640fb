"""A group of waits, 1 to N: each goes by its own policy, and together they end when enough of them have.

The same in the triggerer and on a worker.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_lro._core.checks import in_words
from airflow_provider_lro._core.names import in_short, short_name
from airflow_provider_lro._core.outcome import CallFailed, Quorum, Succeeded
from airflow_provider_lro._core.state import MAX_KEPT_METADATA
from airflow_provider_lro._core.wait import Cancel, Start, cancel_after_kill, wait
from airflow_provider_lro._runner.driver import Drive, LogObserver, steady_clock
from airflow_provider_lro._runner.telemetry import WaitTelemetry
from airflow_provider_lro.exceptions import REPORT_FAULT, CredentialsError, EndpointError, LroError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence

    from airflow_provider_lro._core.args import WaitArgs
    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._core.wait import Command
    from airflow_provider_lro._runner.driver import WaitObserver
    from airflow_provider_lro._transport.channel import ChannelConfig
    from airflow_provider_lro._transport.client import AsyncOperationsClient
    from airflow_provider_lro._transport.poller import AsyncPoller

STEP_SIZE = 50
"""Waits that are begun, or ended, in one step of the event loop, which others need, too."""
FIRST_POLLS_TIMEOUT = 10.0
"""Seconds in which a worker polls all once, before it leaves those that are not done to the triggerer."""
MAX_CONCURRENT_CANCELS = 32
"""Of one task: thousands of operations may be asked to cancel in the same moment."""
MAX_METADATA_OF_MANY = 1024
"""Bytes of metadata of an operation that is not done: more is not kept, for ten thousand of them at the same time."""

log = logging.getLogger(__name__)


def args_for(args: WaitArgs, name: str) -> WaitArgs:
    """Return the arguments for one of the operations of ``args``."""
    if args.operation_name == name:
        return args
    own = copy.copy(args)
    own.operation_name = name
    return own


class WaitGroup:
    """Waits for operations, and keeps the outcome of each. An async context manager.

    Args:
        args: the wait for each; its ``operation_name`` does not matter.
        names: the operations.
        channels: that of each.
        wanted: how many must succeed; 0 for all, and all are waited for.
        require_result: a success without a result does not count, as for the sensor.
        keep: bytes of results of many to keep, of successes and others each; of the rest the verdict is kept.
        ti: the task instance, where there is one.
        is_recheck: of operations whose outcome is known: nothing is counted once more.
        known: outcomes that are known already.
    """

    def __init__(
        self,
        args: WaitArgs,
        names: Sequence[str],
        channels: Sequence[ChannelConfig],
        *,
        wanted: int = 0,
        require_result: bool = False,
        keep: float = math.inf,
        ti: Any = None,
        is_recheck: bool = False,
        known: Sequence[Outcome | None] | None = None,
    ) -> None:
        self.args = args
        self.names = names
        self.outcomes: list[Outcome | None] = [None] * len(names)
        self._channels = channels
        self._quorum = Quorum(total=len(names), wanted=wanted)
        self._require_result = require_result
        self._room = [keep, keep]  # by whether it succeeded
        self._succeeded = 0
        self._failed = 0
        self._unread: dict[int, CallFailed] = {}  # left to a worker, and until then neither succeeded nor failed
        self._is_single = len(names) == 1
        self._is_recheck = is_recheck
        self._may_begin_anew = False  # in the triggerer, which polls all of them once more
        self.reached = False
        """Whether a call has reached the service of any of them."""
        self._drives: dict[int, Drive[Outcome]] = {}
        self._clients: dict[int, AsyncOperationsClient] = {}  # by the identity of their channels, which are thousands
        self._clock = steady_clock()
        self._log: WaitObserver = _log_of(names, args.interval)
        self._telemetry: WaitTelemetry | None = None
        if self._is_single and not is_recheck:
            self._telemetry = WaitTelemetry.of(args_for(args, names[0]), channels[0].target, ti=ti)
        for index, outcome in enumerate(known or ()):
            if outcome is not None:
                self._record(index, outcome)

    async def __aenter__(self) -> Self:
        from airflow_provider_lro._transport.client import AsyncOperationsClient

        for channel in self._channels:
            if id(channel) not in self._clients:
                self._clients[id(channel)] = AsyncOperationsClient(
                    channel, max_concurrent_cancels=MAX_CONCURRENT_CANCELS
                )
        if self._telemetry is not None:
            self._telemetry.__enter__()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._close_drives()
        if self._telemetry is not None:
            self._telemetry.__exit__(*raised)
        while self._clients:
            await self._clients.popitem()[1].close()

    def log_beginning(self, conn_id: str) -> None:
        """Log the first line of a wait: what for, where, as whom, how often, and until when."""
        targets = list(dict.fromkeys(channel.target for channel in self._channels))
        where = targets[0] if len(targets) == 1 else f"{targets[0]} and {len(targets) - 1} other endpoints"
        what = f"operation {self.names[0]!r}" if self._is_single else in_short(self.names)
        until = "without a deadline"
        if self.args.deadline is not None:
            moment = datetime.fromtimestamp(self.args.deadline, UTC).isoformat(" ", timespec="seconds")
            until = f"until {moment} (in {in_words(self.args.deadline - self._clock())})"
        connection = f"connection {conn_id!r}" if conn_id else "no connection stored"
        often = f"polled every {in_words(self.args.interval)} after the backoff"
        whom = self._channels[0].whom
        log.info("waiting for %s at %s (%s, %s): %s, %s", what, where, connection, whom, often, until)

    @property
    def is_over(self) -> bool:
        """Whether enough of them are done. At the deadline each has its end coming, perhaps by a cancel."""
        unread = len(self._unread)
        if self._is_single:
            return self.outcomes[0] is not None or bool(unread)
        ended = self._succeeded + self._failed + unread
        if ended < len(self.names) and self._clock() >= (self.args.deadline or math.inf):
            return False
        return self._quorum.is_over(succeeded=self._succeeded, failed=self._failed, undecided=unread)

    @property
    def remaining(self) -> list[int]:
        """The operations that are not done, as far as is known."""
        return [index for index, outcome in enumerate(self.outcomes) if outcome is None]

    @property
    def next_pause(self) -> Any:
        """The pause before the next poll of the one wait that there is, after ``poll_once``."""
        return next(iter(self._drives.values())).pause

    async def poll_once(self, start: Start = Start.FRESH) -> None:
        """Poll each once, or as many as it takes to know that it is too early.

        Raises:
            EndpointError, CredentialsError: some of many cannot be reached at all, and not enough have succeeded.
        """
        self._may_begin_anew = True
        await self._poll_each_once(start)
        if self.is_over:
            self._count_known()

    async def _poll_each_once(self, start: Start) -> None:
        if self._is_single:
            await self._advance(0, start, to_pause=True)
            return
        first = {id(channel): index for index, channel in reversed(list(enumerate(self._channels)))}
        await self._advance_all(first.values(), start, to_pause=True)
        unreachable = {
            channel: error
            for channel, index in first.items()
            if (error := _unreachable(self.outcomes[index])) is not None
        }
        are_done = all(self.outcomes[index] is not None for index in first.values())
        needs_all = bool(self._quorum.wanted)
        if not self.is_over and (needs_all or (are_done and not unreachable)):
            others = [index for index in self.remaining if id(self._channels[index]) not in unreachable]
            try:
                async with asyncio.timeout(FIRST_POLLS_TIMEOUT):
                    await self._advance_all(others, start, to_pause=True, until_one_runs=not needs_all)
            except TimeoutError:
                text = "not all of %d operations were polled within %g s; the wait goes on"
                log.info(text, len(self.names), FIRST_POLLS_TIMEOUT)
        if unreachable and not self._quorum.is_met(self._succeeded):
            raise next(iter(unreachable.values()))

    async def run(self, start: Start) -> None:
        """Wait until it is over; a wait that was begun goes on where it was, others begin as ``start`` says."""
        if self._may_begin_anew:
            self._count_known()
        if self._is_single:  # a task of its own would cost as much as the poller
            if self.outcomes[0] is None:
                await self._advance(0, start)
        elif not self.is_over:
            await self._advance_all(self.remaining, start)
        if not self._quorum.is_over(succeeded=self._succeeded, failed=self._failed):  # else they do not matter any more
            for index, outcome in self._unread.items():
                self.outcomes[index] = outcome
        if isinstance(self._log, GroupLog):
            self._log.log_now()

    async def poll_last(self) -> None:
        """Poll those that are not done for the last time, as the time is up."""
        await self._close_drives()
        now = self._clock()
        # Before their own deadline they have asked for no cancel: one that is found now is somebody else's.
        start = Start.POLL if now >= (self.args.deadline or math.inf) else Start.POKE
        self.args.deadline = now
        await self.run(start)

    async def cancel(self, *, within: float) -> None:
        """Ask to cancel all that are not done, as their task was killed."""
        remaining = self.remaining

        async def cancel_one(index: int) -> bool:
            poller = self._poller(index, args_for(self.args, self.names[index]), shared=False)
            steps = cancel_after_kill(now=self._clock(), within=within)
            drive = Drive(steps, poller, clock=self._clock, observer=self)
            try:
                await drive.run()
            finally:
                await drive.close()
            return False

        try:
            async with asyncio.timeout(within):
                await run_all(cancel_one, remaining)
        except TimeoutError:
            text = "not all of %d operations could be asked to cancel within %g s: the others may go on"
            log.warning(text, len(remaining), within)
        if isinstance(self._log, GroupLog):
            self._log.log_now()

    async def _advance_all(
        self, which: Iterable[int], start: Start, *, to_pause: bool = False, until_one_runs: bool = False
    ) -> None:
        async def advance(index: int) -> bool:
            done = await self._advance(index, start, to_pause=to_pause)
            return self.is_over if done else until_one_runs

        await run_all(advance, which)

    async def _advance(self, index: int, start: Start, *, to_pause: bool = False) -> bool:
        """Go on with one wait; return True if it has its outcome."""
        drive = self._drives.get(index)
        if drive is None:
            args = args_for(self.args, self.names[index])
            poller = self._poller(index, args)
            steps = wait(args, now=self._clock(), start=start, is_reached=self._is_reached)
            drive = self._drives[index] = Drive(steps, poller, clock=self._clock, observer=self)
        outcome = await drive.run(to_pause=to_pause)
        if outcome is None:
            return False
        if self._telemetry is not None:
            self._telemetry.polls = drive.polls
        del self._drives[index]
        await drive.close()
        self._record(index, outcome)
        return True

    def _poller(self, index: int, args: WaitArgs, *, shared: bool = True) -> AsyncPoller:
        from airflow_provider_lro._transport.poller import AsyncPoller

        client = self._clients[id(self._channels[index])]
        most = MAX_KEPT_METADATA if self._is_single else MAX_METADATA_OF_MANY
        return AsyncPoller(args, client, shared=shared, max_metadata=most)

    def record(self, command: Command, value: Any) -> None:
        """Record what a wait has done, for the log, and whether the service was reached."""
        if isinstance(value, LroError):
            self.reached = self.reached or bool(value.connected)
        elif value is not None:
            self.reached = True
        self._log.record(command, value)

    def _is_reached(self) -> bool:
        return self.reached

    async def _close_drives(self) -> None:
        while self._drives:
            drive = self._drives.popitem()[1]
            if self._telemetry is not None:
                self._telemetry.polls = drive.polls
            await drive.close()

    def _record(self, index: int, outcome: Outcome) -> None:
        if isinstance(outcome, CallFailed) and outcome.is_undecided:
            if not self._is_recheck:  # after a kill it may still have to be cancelled
                self._unread[index] = outcome
                self._log_end("left to a worker")
            return
        succeeded = isinstance(outcome, Succeeded)
        state = outcome.operation
        if succeeded and self._require_result and state is not None and not state.has_result:
            succeeded = False
        if succeeded:
            self._succeeded += 1
        else:
            self._failed += 1
        if self._telemetry is not None:
            self._telemetry.ended(outcome)
        self._log_end(outcome.word.replace("_", " "))
        if not self._may_begin_anew:
            self._count(index, outcome)
        if state is not None and not self._is_single:
            self._room[succeeded] -= state.size
            if self._room[succeeded] < 0:
                self._room[succeeded] += state.size
                outcome = replace(outcome, operation=None)
        self.outcomes[index] = outcome
        if isinstance(self._log, GroupLog):
            self._log.done(failed=not succeeded)

    def _log_end(self, word: str) -> None:
        if isinstance(self._log, LogObserver) and not self._is_recheck:
            began = self.args.started_at
            self._log.log_end(word, after=0.0 if began is None else self._clock() - began)

    def _count_known(self) -> None:
        self._may_begin_anew = False
        for index, outcome in enumerate(self.outcomes):
            if outcome is not None:
                self._count(index, outcome)

    def _count(self, index: int, outcome: Outcome) -> None:
        from airflow_provider_lro._transport.limiter import stats_of

        if self._is_recheck:
            return
        ended = stats_of(self._channels[index].target).ended
        ended[outcome.word] = ended.get(outcome.word, 0) + 1


async def run_group(prepare: Callable[[], Awaitable[WaitGroup]], start: Start) -> list[Outcome | None]:
    """Prepare a group, run it to its end, and return the outcomes."""
    async with await prepare() as group:
        await group.run(start)
    return group.outcomes


def _log_of(names: Sequence[str], interval: float) -> LogObserver | GroupLog:
    if len(names) == 1:
        return LogObserver(names[0], shown=short_name(names[0]))
    return GroupLog(len(names), interval)


def _unreachable(outcome: Outcome | None) -> LroError | None:
    """Return the error of a channel behind which nothing can be reached, if that is the outcome."""
    error = outcome.error if isinstance(outcome, CallFailed) else None
    return error if isinstance(error, EndpointError | CredentialsError) else None


async def run_all(act: Callable[[int], Coroutine[Any, Any, bool]], which: Iterable[int]) -> None:
    """Act on many at the same time; end with the last, or with the first that returns True, and end the others then."""
    tasks = TaskSet()
    try:
        for number, index in enumerate(which, 1):
            tasks.add(act(index))
            if not number % STEP_SIZE:
                await asyncio.sleep(0)
            if tasks.over.done():
                break
        await tasks.wait()
    finally:
        await tasks.cancel()


class TaskSet:
    """Tasks that run together until one of them returns True, raises, or none is left.

    Not asyncio.TaskGroup: it ends all of them in one step of the event loop, which takes seconds for ten thousand.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = self._loop.create_future()
        self._tasks: set[asyncio.Task[bool]] = set()
        self._is_complete = False

    def add(self, work: Coroutine[Any, Any, bool]) -> None:
        """Start a task."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def wait(self) -> None:
        """Wait for the end; raise what a task has raised."""
        self._is_complete = True
        if self._tasks or self.over.done():
            await self.over

    async def cancel(self) -> None:
        """Cancel the tasks that are left, some at a time, and wait until they are gone."""
        self.over.cancel()  # how they end now does not matter
        try:
            while some := list(islice(self._tasks, STEP_SIZE)):
                for task in some:
                    task.cancel()
                await asyncio.wait(some)
        finally:  # cancelled once more: nobody waits for the rest, which must not go on
            for task in self._tasks:
                if not task.cancelling():
                    task.cancel()

    def _ended(self, task: asyncio.Task[bool]) -> None:
        self._tasks.discard(task)
        error: BaseException | None
        if task.cancelled():
            error = RuntimeError(f"a wait was cancelled, and nobody had asked for it; {REPORT_FAULT}")
        else:
            error = task.exception()
        if self.over.done():
            return
        if error is not None:
            self.over.set_exception(error)
        elif task.result() or (self._is_complete and not self._tasks):
            self.over.set_result(None)


class GroupLog:
    """Logs how far many waits are, once an interval at most: a line for each failed poll would be thousands."""

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
        self._logged = ""

    def done(self, *, failed: bool) -> None:
        """Count one that is done."""
        self._done += 1
        self._failed += failed
        self._log_at_times()

    def record(self, command: Command, value: Any) -> None:
        """Count a failure, or a request to cancel."""
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
        self._log_at_times()

    def log_now(self) -> None:
        """Log it now, if there is anything new."""
        line = f"{self._done:,} of {self._total:,} operations are done"
        if self._failed:
            line += f", {self._failed:,} of them failed"
        if self._asked:
            line += f"; {self._asked:,} were asked to cancel"
        if self._refused:
            line += f"; {self._refused:,} cancels were not accepted"
        if self._errors:
            line += f"; {self._errors:,} polls have failed, which says nothing about the operations"
        if line != self._logged:
            self._logged = line
            log.info("%s%s", line, "" if self._last is None else f"; the last error: {self._last}")
            self._last = None

    def _log_at_times(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._next = loop, loop.time() + self._interval
        if loop.time() >= self._next:
            self._next = loop.time() + self._interval
            self.log_now()
