"""The event of a trigger that has waited for many operations: a letter for each, and what there is room for.

What an operation has come to fits always; what it has brought, the worker reads again where it does not. Floor ½.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from google.longrunning import operations_proto_pb2 as pb
from google.rpc import status_pb2

from airflow_provider_lro._core import outcome as outcomes
from airflow_provider_lro._messages.events import LARGEST_EVENT, event_from_outcome, must_read_again, outcome_from_event
from airflow_provider_lro.exceptions import Code, OperationNotFound, RpcError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_lro._core.outcome import CancelEffect, Outcome

__all__ = ["MOST", "event_from_outcomes", "outcomes_from_event", "told", "unread"]

MOST = 50_000
"""Operations of one task, whose letters leave room in an event."""
LONGEST_ENTRY = 4096
"""Bytes of JSON for one operation that did not succeed: the others want to say something, too."""
LONGEST_TEXT = 300
MOST_MISFITS = 100
"""Entries in a row that have no place, after which no more are made: each takes time of the event loop."""
NOT_DONE = "."

_LETTERS: dict[type[Any], str] = {
    outcomes.Succeeded: "S",
    outcomes.Failed: "F",
    outcomes.Cancelled: "C",
    outcomes.NotFound: "N",
    outcomes.Broken: "B",
}
_TIMED_OUT: dict[CancelEffect, str] = {"none": "T", "took effect": "K", "asked": "A", "refused": "R"}
_EFFECTS = {letter: effect for effect, letter in _TIMED_OUT.items()}
_DONE = {letter: kind for kind, letter in _LETTERS.items() if letter in "SFC"}


def event_from_outcomes(found: Sequence[Outcome | None], names: Sequence[str], *, started_at: float) -> dict[str, Any]:
    """Return the event, at most 64 KiB: ``{"outcomes": letters, "known": {index: event of one}, "started_at"}``.

    What cannot be read again comes first: how a call failed, then errors of operations, then results.
    """
    event: dict[str, Any] = {"outcomes": "".join(map(_letter, found)), "known": {}, "started_at": started_at}
    room = LARGEST_EVENT - len(json.dumps(event))
    ranks: tuple[list[int], ...] = ([], [], [])
    for index, outcome in enumerate(found):
        if not _is_bare(outcome):
            ranks[_rank(outcome)].append(index)
    for rank in ranks:
        misfits = 0
        for index in rank:
            entry = _entry(found[index], names[index])
            size = len(json.dumps({index: entry}))  # its braces stand for the comma and the blank
            if entry is not None and size <= room:
                event["known"][str(index)] = entry
                room -= size
                misfits = 0
                continue
            misfits += 1
            if misfits == MOST_MISFITS:
                break
    return event


def outcomes_from_event(event: Mapping[str, Any], names: Sequence[str]) -> list[Outcome | None]:
    """Return what became of each operation; see ``unread`` for those that are done and whose result is not in it.

    Raises:
        ValueError: it is no event of this provider, or one about other operations.
    """
    letters, known = event["outcomes"], event["known"]
    if len(letters) != len(names):
        raise ValueError(f"the trigger's event is about {len(letters)} operations, and this task about {len(names)}")
    found: list[Outcome | None] = []
    for index, letter in enumerate(letters):
        entry = known.get(str(index))
        outcome = _bare(letter, names[index])
        if entry is not None:
            outcome = outcome_from_event({**entry, "name": names[index]})
            if _letter(outcome) != letter:
                raise ValueError(f"the trigger's event says {letter!r} of operation {names[index]!r}, and {outcome!r}")
        found.append(outcome)
    return found


def unread(outcome: Outcome | None) -> bool:
    """Tell whether an operation is done, and what it has brought is not known."""
    return type(outcome) in _DONE.values() and outcome.operation is None  # type: ignore[union-attr]


def told(outcome: Outcome, found: Outcome, name: str) -> Outcome:
    """Return an outcome that is ``unread`` with what its letter tells, where it could not be read again."""
    if isinstance(outcome, outcomes.Succeeded):
        return outcome
    why = f"what the service said of it could not be read again: {getattr(found, 'error', None)}"
    code = Code.CANCELLED if isinstance(outcome, outcomes.Cancelled) else Code.UNKNOWN
    error = status_pb2.Status(code=code, message=why)
    return replace(outcome, operation=pb.Operation(name=name, done=True, error=error))


def _letter(outcome: Outcome | None) -> str:
    if outcome is None:
        return NOT_DONE
    if isinstance(outcome, outcomes.TimedOut):
        return _TIMED_OUT[outcome.cancel]
    return _LETTERS[type(outcome)]


def _is_bare(outcome: Outcome | None) -> bool:
    """Tell whether the letter says all that there is."""
    if isinstance(outcome, outcomes.TimedOut):
        return outcome == outcomes.TimedOut(cancel=outcome.cancel)
    return outcome is None or unread(outcome)


def _rank(outcome: Outcome | None) -> int:
    if isinstance(outcome, outcomes.Succeeded):
        return 2
    return 1 if type(outcome) in _DONE.values() else 0


def _entry(outcome: Any, name: str) -> dict[str, Any] | None:
    """Return the event for one operation as far as it has a place; None where it is to be read again."""
    entry = event_from_outcome(outcome, name=name)
    del entry["name"]
    if must_read_again(entry):
        return None
    if isinstance(outcome, outcomes.Succeeded) or len(json.dumps(entry)) <= LONGEST_ENTRY:
        return entry if len(entry) > 1 else None
    if type(outcome) in _DONE.values():
        return None
    entry.pop("operation", None)
    for key in ("error", "cancel_error"):
        if error := entry.get(key):
            error["details"] = []
            error.update({text: error[text][:LONGEST_TEXT] for text in ("text", "message")})
    return entry


def _bare(letter: str, name: str) -> Outcome | None:
    """Return the outcome that a letter alone stands for."""
    if letter == NOT_DONE:
        return None
    if letter in _DONE:
        return _DONE[letter](operation=None)  # type: ignore[no-any-return]
    if letter in _EFFECTS:
        return outcomes.TimedOut(cancel=_EFFECTS[letter])
    why = "there was no room in the trigger's event for what was said of it; the triggerer's log has the last errors"
    if letter == "N":
        return outcomes.NotFound(error=OperationNotFound(why))
    if letter == "B":
        return outcomes.Broken(error=RpcError(f"operation {name!r} could not be read: {why}"))
    raise ValueError(f"the trigger's event says {letter!r} of operation {name!r}, which this version does not know")
