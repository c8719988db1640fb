"""The two drivers of the policy in ``_wait.py``, sync and aio, and what its outcome means to a caller.

A driver does what the policy says (poll, pause, ask to cancel) and tells it what came of it and when. Floor 1: floor ½
is imported inside functions.
"""

from __future__ import annotations

import json
import logging
import random
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from airflow_provider_lro._core import outcome as outcomes
from airflow_provider_lro._core.commands import Answer, Cancel, Get
from airflow_provider_lro.exceptions import Code, LroError, OperationNotFound, OperationTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from google.longrunning import operations_proto_pb2 as pb

    from airflow_provider_lro._core.commands import Command, Pause
    from airflow_provider_lro._core.counters import Tally
    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._core.schedule import Window
    from airflow_provider_lro._core.wait import WaitArgs
    from airflow_provider_lro._transport.client import AsyncOperationsClient, OperationsClient

__all__ = ["Journal", "WaitGenerator", "drive", "drive_async", "moment", "result_of", "steady_clock", "timeout_error"]

LONGEST_PROGRESS = 500
"""Characters of an operation's metadata in the text of a timeout."""

WaitGenerator: TypeAlias = "Generator[Command, Answer, Outcome]"
T = TypeVar("T")

log = logging.getLogger(__name__)


class Journal(Protocol):
    """Who hears of everything that a driver does."""

    def note(self, command: Command, value: Any) -> None:
        """Take a command that was carried out, and what came of it: a value as ``Answer`` has it."""


def steady_clock() -> Callable[[], float]:
    """Return a clock of epoch seconds that does not jump when the system's is set."""
    origin = time.time() - time.monotonic()
    return lambda: origin + time.monotonic()


def drive(
    steps: Generator[Command, Answer, T],
    args: WaitArgs,
    client: OperationsClient,
    *,
    clock: Callable[[], float],
    pause: Callable[[Pause], None] | None = None,
    journal: Journal | None = None,
    metadata: Sequence[tuple[str, str | bytes]] = (),
    progress: bool = True,
    tally: Tally | None = None,
) -> T:
    """Do what a wait says until it has its outcome, blocking.

    Args:
        steps: from ``_wait.wait`` or ``_kill.cancel``.
        args: what it was made from.
        client: who makes the calls.
        clock: epoch seconds; never steps back.
        pause: lets time pass, or leaves by an exception of its own; None sleeps to a random moment of the window.
        journal: hears of all that is done; None logs what is worth a line.
        metadata: more headers for each call.
        progress: log what the operation's metadata says, when it changes.
        tally: what the wait does is noted there.
    """
    from airflow_provider_lro._messages.encoding import read

    journal = _Journal(args.operation_name, progress=progress) if journal is None else journal
    command = next(steps)
    while True:
        value: Any = None
        try:
            if isinstance(command, Get):
                if tally is not None:
                    tally.asks(time.monotonic())
                value = read(client.get_operation(args.operation_name, rpc_timeout=command.timeout, metadata=metadata))
            elif isinstance(command, Cancel):
                timeout = args.rpc_timeout if command.timeout is None else command.timeout
                client.cancel_operation(args.operation_name, rpc_timeout=timeout, metadata=metadata)
            elif pause is not None:
                pause(command)
            else:
                time.sleep(moment(command.window))
        except LroError as error:
            value = error
            if tally is not None and isinstance(command, Get):
                tally.fails(error)
        journal.note(command, value)
        try:
            command = steps.send(Answer(now=clock(), value=value))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


async def drive_async(
    steps: Generator[Command, Answer, T],
    args: WaitArgs,
    client: AsyncOperationsClient,
    *,
    clock: Callable[[], float],
    metadata: Sequence[tuple[str, str | bytes]] = (),
    shared: bool = False,
    progress: bool = True,
    journal: Journal | None = None,
    tally: Tally | None = None,
) -> T:
    """Do as ``drive`` does, without blocking.

    Args:
        steps: from ``_wait.wait`` or ``_kill.cancel``.
        args: what it was made from.
        client: who makes the calls.
        clock: epoch seconds; never steps back.
        metadata: more headers for each call.
        shared: one of many waits of this process: they share wake-ups, and polls wait for a connection.
        progress: as in ``drive``; a line costs about as much CPU as a poll.
        journal: hears of all that is done; None logs what is worth a line.
        tally: what the wait does is noted there.
    """
    from airflow_provider_lro._transport.poller import Poller

    journal = _Journal(args.operation_name, progress=progress) if journal is None else journal
    args.check()
    poller = Poller(args, client, metadata=metadata, shared=shared, tally=tally)
    try:
        command = next(steps)
        while True:
            value: Any = None
            try:
                if isinstance(command, Get):
                    value = await poller.get(command)
                elif isinstance(command, Cancel):
                    await poller.cancel(command)
                else:
                    await poller.pause(command)
            except LroError as error:
                # The wait keeps it through its pause, and by these the frames of the call, a few kilobytes each.
                value = error.with_traceback(None)
                value.__context__ = None
            journal.note(command, value)
            try:
                command = steps.send(Answer(now=clock(), value=value))
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
    finally:
        await poller.close()


def moment(window: Window) -> float:
    """Return a random moment of a window, in seconds from now."""
    return random.uniform(window.shortest, window.longest)


class _Journal:
    """Logs what a wait meets, sparingly: a line costs as much as a poll, and an outage meets every wait at once."""

    def __init__(self, name: str, *, progress: bool) -> None:
        self._name = name
        self._failed = 0
        self._said: tuple[type[Any], Any] | None = None
        self._progress = progress
        self._metadata = hash(b"")  # as they were seen last; the bytes may be many, and there are thousands of waits
        self._line: str | None = None

    def note(self, command: Command, value: Any) -> None:
        if isinstance(command, Cancel):
            if value is None:
                log.info("operation %r: asked to cancel, as %s", self._name, command.because)
            else:
                log.warning("operation %r: could not be asked to cancel: %s", self._name, value)
        elif isinstance(value, LroError):
            self._failed += 1
            said = (type(value), value.code)
            if said != self._said:
                log.warning(
                    "operation %r: a poll failed, which says nothing about the operation: %s", self._name, value
                )
            self._said = said
        elif value is not None:
            if self._failed:
                log.info("operation %r: answers again after %d failed polls", self._name, self._failed)
                self._failed, self._said = 0, None
            if self._progress and (seen := hash(value.operation.metadata.value)) != self._metadata:
                self._metadata = seen
                self._note_progress(value.operation)

    def _note_progress(self, operation: pb.Operation) -> None:
        """Log how far it is: not the line before once more; one from long ago may be, as the last is to be true."""
        from airflow_provider_lro._messages.progress import describe

        line = describe(operation)
        if line is not None and line != self._line:
            log.info("operation %r: %s", self._name, line)
            self._line = line


def result_of(outcome: Outcome, args: WaitArgs, response_type: Any = None, *, require_result: bool = False) -> Any:
    """Return the response that an outcome brings.

    Raises:
        OperationFailed: and the others that ``Operation.wait_with_interval`` names, for every other outcome.
    """
    from airflow_provider_lro._messages import encoding

    if isinstance(outcome, outcomes.Succeeded):
        return encoding.response(outcome.operation, response_type, require_result=require_result)
    if isinstance(outcome, outcomes.Failed | outcomes.Cancelled):
        raise encoding.failure(outcome.operation)
    if isinstance(outcome, outcomes.TimedOut):
        raise timeout_error(outcome, args)
    if isinstance(outcome, outcomes.NotFound):
        raise OperationNotFound(
            f"operation {args.operation_name!r} is not known to the service (any more): it has expired, was deleted, or"
            f" belongs to another service or location [{outcome.error}]",
            code=outcome.error.code,
            message=outcome.error.message,
            details=outcome.error.details,
        )
    raise outcome.error


_CANCEL_TEXTS = {
    "none": "It goes on, and may still succeed.",
    "took effect": "It was asked to cancel then, and is cancelled.",
    "asked": "It was asked to cancel then, which has had no effect so far: it may still succeed.",
    "refused": "It could not be cancelled and goes on; it may still succeed.",
}


def timeout_error(outcome: outcomes.TimedOut, args: WaitArgs) -> OperationTimeout:
    """Return the error of a wait whose time is up: whether it was cancelled, how far it was, what failed last."""
    from airflow_provider_lro._messages.encoding import operation_to_json
    from airflow_provider_lro._messages.progress import describe

    operation = None if outcome.operation is None else operation_to_json(outcome.operation)
    within = ""
    if args.started_at is not None and args.deadline is not None:
        within = f" within {args.deadline - args.started_at:.6g} s"
    effect = _CANCEL_TEXTS.get(outcome.cancel, _CANCEL_TEXTS["asked"])
    text = f"operation {args.operation_name!r} was not done{within}. {effect}"
    if outcome.cancel_error is not None:
        text += f" The cancel failed: {outcome.cancel_error}."
    if outcome.operation is not None and operation and operation.get("metadata"):
        progress = describe(outcome.operation) or json.dumps(operation["metadata"])[:LONGEST_PROGRESS]
        text += f" Its last known progress: {progress}."
    if outcome.error is not None:
        text += f" The last poll failed: {outcome.error}."
    error = OperationTimeout(text, code=Code.DEADLINE_EXCEEDED, operation=operation)
    error.cancel = outcome.cancel
    return error
