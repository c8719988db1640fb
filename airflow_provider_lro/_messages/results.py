"""Results: the response that an outcome brings, or the error that it is."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from google.protobuf import any_pb2, empty_pb2

from airflow_provider_lro._core import outcome as outcomes
from airflow_provider_lro._core.checks import MAX_SAID, in_words, one_line
from airflow_provider_lro._core.names import short_name
from airflow_provider_lro._core.state import OperationState
from airflow_provider_lro._messages.encoding import (
    details_to_json,
    operation_to_json,
    payload_to_json,
    response_to_json,
    unpack,
)
from airflow_provider_lro._messages.metadata import describe
from airflow_provider_lro._messages.partial import in_a_line, partial_failures
from airflow_provider_lro._messages.types import message_type as type_of
from airflow_provider_lro.exceptions import (
    REPORT_FAULT,
    Code,
    MalformedOperation,
    NoMetadataError,
    OperationCancelled,
    OperationFailed,
    OperationNotFound,
    OperationTimeout,
    PayloadTypeError,
    ResultGone,
    RpcError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_lro._core.args import WaitArgs
    from airflow_provider_lro._core.outcome import Outcome

MAX_DETAILS = 1000
"""Characters of error details in the text of an error; the whole of them is in its ``details``."""
MAX_LOGGED = 20
"""Failed parts of one operation that are logged."""
MAX_HANDED_OUT = 64 * 1024
"""Bytes of JSON of the metadata that a task hands out, of all its operations together."""
MAX_PROGRESS = 500
"""Characters of an operation's metadata in the text of a timeout."""

log = logging.getLogger(__name__)


def result_of(outcome: Outcome, args: WaitArgs, response_type: Any = None, *, require_result: bool = False) -> Any:
    """Return the response that an outcome brings.

    Raises:
        OperationFailed: and the others that ``Operation.wait_with_interval`` names, for every other outcome.
    """
    if isinstance(outcome, outcomes.TimedOut):
        raise timeout_error(outcome, args)
    if isinstance(outcome, outcomes.NotFound):
        raise OperationNotFound(
            "the service does not know the operation (any more): it has expired, was deleted, or belongs to another"
            f" service or location; check name and endpoint: {outcome.error}",
            code=outcome.error.code,
            message=outcome.error.message,
            details=outcome.error.details,
        )
    if isinstance(outcome, outcomes.CallFailed):
        raise outcome.error
    if outcome.operation is None:
        raise AssertionError(f"its state was not kept; {REPORT_FAULT} [operation {args.operation_name!r}]")
    if isinstance(outcome, outcomes.Succeeded):
        return response(outcome.operation, response_type, require_result=require_result)
    raise failure(outcome.operation)


def for_check(state: OperationState, response: Any, metadata_type: Any = None) -> tuple[Any, Any]:
    """Return response and metadata as a check is given them: messages where their types are known, else JSON."""
    return _readable(response), None if state.metadata is None else _readable(_metadata(state, metadata_type))


def _readable(value: Any) -> Any:
    return response_to_json(value) if isinstance(value, any_pb2.Any) else value


def _metadata(state: OperationState, metadata_type: Any) -> Any:
    """Return the metadata, of the class that is named if it is of that type; whatever it is, it is not refused."""
    try:
        return metadata(state, metadata_type)
    except PayloadTypeError:
        return metadata(state)


def handed_out(names: Sequence[str], ended: Sequence[Outcome | None], *, is_many: bool) -> dict[str, Any]:
    """Return what a task hands out besides its result, by the keys of XComs: of many, lists in the order of the names.

    Metadata is JSON; None where there is none, or no room for it in ``MAX_HANDED_OUT``.
    """
    room, left_out = MAX_HANDED_OUT, 0
    kept: list[Any] = []
    failures: list[list[Any]] = []
    for outcome in ended:
        state = None if outcome is None else outcome.operation
        value = None if state is None or state.metadata is None else payload_to_json(state.metadata)
        size = 0 if value is None else len(json.dumps(value))
        if size > room:
            value, size, left_out = None, 0, left_out + 1
        room -= size
        kept.append(value)
        failures.append(partial_failures(state) if isinstance(outcome, outcomes.Succeeded) and state else [])
    if left_out:
        log.info("metadata of %d is no XCom, as all may have %d bytes of JSON together", left_out, MAX_HANDED_OUT)
    own_names = [name or None for name in names]
    keys: dict[str, list[Any]] = {"operation_name": own_names, "metadata": kept, "partial_failures": failures}
    for name, entries in zip(names, failures, strict=True):
        for entry in entries[:MAX_LOGGED]:
            log.warning("a part has failed: %s [operation %r]", in_a_line(entry), short_name(name))
        if len(entries) > MAX_LOGGED:
            log.warning("… and %d more [operation %r]", len(entries) - MAX_LOGGED, short_name(name))
    return {key: values if is_many else values[0] for key, values in keys.items()}


def merge_outcomes(known: Outcome, found: Outcome, name: str) -> Outcome:
    """Return the outcome of an operation whose outcome was ``known``, and that was then read again.

    A verdict stands, whatever comes of reading it again: only its result may be missing.
    """
    if isinstance(known, outcomes.TimedOut | outcomes.CallFailed):
        return _timed_out_or(known, found) if isinstance(known, outcomes.TimedOut) else _left_or(known, found)
    if isinstance(found, outcomes.Succeeded | outcomes.Failed | outcomes.Cancelled):
        return found
    problem = getattr(found, "error", None)
    why_not = problem or "the service says now that it is not done"
    if isinstance(known, outcomes.Failed | outcomes.Cancelled):
        if known.operation is not None:
            return known  # the beginning of its message came with the event
        code = Code.CANCELLED if isinstance(known, outcomes.Cancelled) else Code.UNKNOWN
        why = f"its error could not be read again: {why_not}"
        return replace(known, operation=OperationState(name=name, done=True, code=code, message=why))
    why = "the operation has succeeded, but its result could not be read again"
    if problem is None:
        text = f"{why}: {why_not} [operation {name!r}]"
        return outcomes.CallFailed(error=RpcError(text), operation=found.operation)
    kind = ResultGone if isinstance(problem, OperationNotFound) else type(problem)
    return outcomes.CallFailed(error=problem.as_type(kind, text=f"{why}: {problem}"), operation=found.operation)


def _timed_out_or(known: outcomes.TimedOut, found: Outcome) -> Outcome:
    """Return the outcome of an operation whose poll at the deadline was never sent, and that was polled since.

    Or of one whose cancel took effect, and whose state did not fit into the event.
    """
    if known.cancel == "none":
        return found
    if known.cancel == "took effect" and not isinstance(found, outcomes.Cancelled):
        return known
    if isinstance(found, outcomes.Cancelled):  # the trigger has asked to cancel, and waited for the effect
        return outcomes.TimedOut(operation=found.operation, cancel="took effect")
    if isinstance(found, outcomes.TimedOut):
        return replace(found, cancel=known.cancel, cancel_error=known.cancel_error)
    return found


def _left_or(known: outcomes.CallFailed, found: Outcome) -> Outcome:
    """Return the outcome of an operation that was left to a worker; still so where its poll has failed."""
    if not isinstance(found, outcomes.TimedOut):
        return found
    if found.operation is None and found.error is not None:
        found.error.too_large = True
        return replace(known, error=found.error)
    error = known.error.as_type(type(known.error), text=f"the operation still runs, and {known.error}")
    error.too_large = False
    return outcomes.CallFailed(error=error, operation=found.operation)


def failure(state: OperationState) -> OperationFailed:
    """Return the error of an operation that failed or was cancelled."""
    code = Code.of(state.code or 0)
    number = f"{code.name} ({code.value})" if isinstance(code, Code) else f"code {code}"
    details = details_to_json(state.details)
    said = one_line(state.message, MAX_SAID) or "the service gave no message"
    verb = "was cancelled" if code == Code.CANCELLED else f"failed with {number}"
    text = f"the operation {verb}: {said}"
    if details:
        shown = str(details)
        text += f" {shown if len(shown) <= MAX_DETAILS else shown[:MAX_DETAILS] + '…'}"
    text += f" [operation {state.name!r}]"
    kind = OperationCancelled if code == Code.CANCELLED else OperationFailed
    return kind(text, code=code, message=state.message, details=details, operation=operation_to_json(state))


def response(state: OperationState, response_type: Any = None, *, require_result: bool = False) -> Any:
    """Return the response of an operation that succeeded, as ``Operation.poll`` does.

    Raises:
        PayloadTypeError: the response is of another type than ``response_type``.
        MalformedOperation: there is none, and one is required.
        ValueError: the type is not known here.
    """
    expected = None if response_type is None else type_of(response_type)
    if state.response is not None:
        return unpack(state.response, expected, what="the response", of=state.name)
    if require_result:
        raise MalformedOperation(
            "the operation is done with neither response nor error, but require_result asks for a result: leave it out"
            f" if the service never gives one [operation {state.name!r}]",
            operation=operation_to_json(state),
        )
    if state.name:  # one without, which no service has given, says so itself
        log.warning("done with neither response nor error: taken for an empty response [operation %r]", state.name)
    return empty_pb2.Empty() if expected is None else expected.empty()


def metadata(state: OperationState, message_type: Any = None) -> Any:
    """Return the metadata of an operation, unpacked; see ``Operation.metadata``."""
    expected = type_of(message_type, what="message_type")
    if state.metadata is None:
        raise NoMetadataError(
            f"the last poll found no metadata: poll again later, or do without [operation {state.name!r}]"
        )
    return unpack(state.metadata, expected, what="the metadata", of=state.name)


_CANCEL_TEXTS = {
    "none": "it goes on, and may still succeed",
    "took effect": "it was asked to cancel then, and is cancelled",
    "asked": "it was asked to cancel then, which has had no effect so far: it may still succeed",
    "refused": "it could not be cancelled and goes on; it may still succeed",
}


def timeout_error(outcome: outcomes.TimedOut, args: WaitArgs) -> OperationTimeout:
    """Return the error of a wait whose time is up: whether it was cancelled, how far it was, which call failed last."""
    operation = None if outcome.operation is None else operation_to_json(outcome.operation)
    within = ""
    if args.started_at is not None and args.deadline is not None:
        within = f" within {in_words(args.deadline - args.started_at)}"
    text = f"the operation was not done{within}: {_CANCEL_TEXTS.get(outcome.cancel, _CANCEL_TEXTS['asked'])}."
    if outcome.cancel_error is not None:
        text += f" The cancel failed: {outcome.cancel_error}."
    if outcome.operation is not None and operation and operation.get("metadata"):
        progress = describe(outcome.operation) or json.dumps(operation["metadata"])[:MAX_PROGRESS]
        text += f" Its last known progress: {progress}."
    if outcome.error is not None:
        text += f" The last poll failed: {outcome.error}."
    text += f" [operation {args.operation_name!r}]"
    error = OperationTimeout(text, code=Code.DEADLINE_EXCEEDED, operation=operation)
    error.cancel = outcome.cancel
    return error
