"""The answers of a simulated operation: pure functions of (script, facts, now).

No clock, no I/O, no grpc, no protobuf: tests pass any `now` they like.
"""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_lro.simulator.script import CODES, Script

CANCELLED = 1
UNKNOWN = 2
INVALID_ARGUMENT = 3
NOT_FOUND = 5
UNIMPLEMENTED = 12
UNAUTHENTICATED = 16


class CallError(Exception):
    """A call that ends with a status instead of a message.

    Attributes:
        code: The number of the gRPC status.
        message: Its text.
        retry_info: Seconds for a google.rpc.RetryInfo in the status, or None for none.
    """

    def __init__(self, code: int, message: str, *, retry_info: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_info = retry_info


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The past of one operation, all that its name cannot say. Times are epoch seconds."""

    first_seen: float
    gets: int = 0
    cancelled_at: float | None = None
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """An operation at one moment.

    Attributes:
        started_at: When its clock started, epoch seconds.
        ends_at: When it ends or ended, None when it never does.
        done: Whether it ended.
        outcome: ok, fail, cancelled or neither; None until done.
        by_request: The outcome is that of a cancel.
        progress: 0 to 100.
        requested_cancellation: A cancel was asked for, heeded or not.
    """

    started_at: float
    ends_at: float | None
    done: bool
    outcome: str | None
    by_request: bool
    progress: int
    requested_cancellation: bool


def started_at(script: Script, facts: Facts) -> float:
    """Return the time at which the operation's clock started, in epoch seconds."""
    return facts.first_seen if script.start is None else script.start


def snapshot(script: Script, facts: Facts, now: float) -> Snapshot:
    """Look at an operation, whatever a Get of it would answer."""
    began = started_at(script, facts)
    ends_at = None if script.outcome == "never" else began + script.duration
    by_request = False
    if facts.cancelled_at is not None and script.cancel == "accept":
        stops_at = facts.cancelled_at + script.cancel_delay
        # A slow cancel loses against the operation's own end, as it does in real services.
        if ends_at is None or stops_at < ends_at:
            ends_at, by_request = stops_at, True
    done = ends_at is not None and now >= ends_at
    share = (now - began) / script.duration if script.duration else 1.0
    return Snapshot(
        started_at=began,
        ends_at=ends_at,
        done=done,
        outcome=("cancelled" if by_request else script.outcome) if done else None,
        by_request=by_request,
        progress=100 if done and not by_request else max(0, min(99, int(100 * share))),
        requested_cancellation=facts.cancelled_at is not None,
    )


def hidden(script: Script, facts: Facts, now: float) -> str | None:
    """Say why the operation is not to be found at this moment, or None when it is there."""
    if facts.deleted:
        return "it was deleted"
    if now < facts.first_seen + script.not_found_for:
        return "it is not visible yet"
    if script.expire is not None:
        ends_at = snapshot(script, facts, now).ends_at
        if ends_at is not None and now >= ends_at + script.expire:
            return "it expired"
    return None


def refusal(script: Script, gets: int) -> CallError | None:
    """Give the scripted fault of a Get that `gets` counted ones came before, or None."""
    index = gets - script.not_found
    if index < 0:
        return CallError(NOT_FOUND, f"Simulated NOT_FOUND: after {gets} Gets, and the first {script.not_found} say so.")
    index -= script.fault_after
    if index < 0:
        return None
    for run in script.fault:
        if run.count is None or index < run.count:
            text = f"Simulated {CODES[run.code]}: {index + 1} of {run.count or 'infinitely many'}."
            return CallError(run.code, text, retry_info=script.retry_info)
        index -= run.count
    return None


def present(name: str, script: Script, facts: Facts, now: float) -> Snapshot:
    """Look at an operation that must be there.

    Raises:
        CallError: NOT_FOUND, with the reason.
    """
    reason = hidden(script, facts, now)
    if reason is not None:
        text = f"Operation {name!r} was not found: {reason}."
        raise CallError(NOT_FOUND, text)
    return snapshot(script, facts, now)


def answer(name: str, script: Script, facts: Facts, now: float) -> Snapshot:
    """Answer one Get: absence first, then the scripted faults, then the operation.

    Raises:
        CallError: The Get ends with a status.
    """
    seen = present(name, script, facts, now)
    fault = refusal(script, facts.gets)
    if fault is not None:
        raise fault
    return seen
