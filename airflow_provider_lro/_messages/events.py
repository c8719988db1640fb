"""The event of a trigger: the outcomes of one operation or many, as JSON on their way to the worker.

An event is stored in the database and logged, so it is small and holds no secret. There is a letter for each operation,
and of results and errors as much as there is room for; the worker reads the rest again. Payloads travel opaque and are
decoded on the worker, where the user's protobuf classes are.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from airflow_provider_lro import exceptions
from airflow_provider_lro._core import outcome as outcomes
from airflow_provider_lro._core.args import MAX_EPOCH
from airflow_provider_lro._core.checks import is_flag, is_number, is_whole, storable_json
from airflow_provider_lro._core.names import is_same_operation
from airflow_provider_lro._core.state import JsonPayload, OperationState, Payload
from airflow_provider_lro._core.wait import outcome_of
from airflow_provider_lro.exceptions import LroError, OperationNotFound, RpcError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from airflow_provider_lro._core.outcome import CancelEffect, Outcome

MAX_EVENT = 64 * 1024
"""Bytes of JSON."""
MAX_OPERATIONS = 50_000
"""Operations of one task, whose letters leave room in an event."""
MAX_ENTRY = 4096
"""Bytes of JSON for one operation of many that did not succeed: the others need room, too."""
MAX_TEXT = 8 * 1024
"""Bytes of JSON for one text of an operation that is alone …"""
MAX_TEXT_OF_MANY = 300
"""… and for one of many."""
MAX_MISFITS = 100
"""Entries in a row without room, after which no more are made: each takes time of the event loop."""
NOT_DONE = "."
LEFT_TO_WORKER = "L"

_LETTERS: dict[type[Any], str] = {
    outcomes.Succeeded: "S",
    outcomes.Failed: "F",
    outcomes.Cancelled: "C",
    outcomes.NotFound: "N",
    outcomes.CallFailed: "B",
}
_TIMED_OUT: dict[CancelEffect, str] = {"none": "T", "took effect": "K", "asked": "A", "refused": "R"}
_EFFECTS = {letter: effect for effect, letter in _TIMED_OUT.items()}
_DONE = {letter: kind for kind, letter in _LETTERS.items() if letter in "SFC"}


def _is_code(value: object) -> bool:
    return value is None or is_whole(value, least=-(2**31), most=2**31 - 1)


_ERROR_FIELDS: dict[str, Callable[[Any], bool]] = {
    "code": _is_code,
    "message": lambda value: isinstance(value, str),
    "details": lambda value: isinstance(value, list) and all(isinstance(each, dict) for each in value),
    "operation": lambda value: isinstance(value, dict),
    "retry_after": is_number,
    "cancel": lambda value: value in _EFFECTS.values(),
    **dict.fromkeys(("connected", "not_sent", "too_large", "permanent", "not_loaded"), is_flag),
}
"""The fields of an error that travel, each with its check."""


def event_from_outcomes(found: Sequence[Outcome | None], names: Sequence[str], *, started_at: float) -> dict[str, Any]:
    """Return the event, at most 64 KiB: ``{"name", "outcomes": letters, "known": {index: entry}, "started_at"}``.

    ``name`` is that of the first operation. An entry has the fields of its outcome, and ``cut`` if the event does not
    hold all of a done operation. An error that is the same for all stands once, as ``error``. The order of what goes in
    first: how a call failed (it cannot be read again), then errors of operations, then results. Of very many operations
    the name of the first is left out where it is so long that it has no room beside the letters.
    """
    letters = "".join(map(_letter, found))
    event: dict[str, Any] = {"name": names[0], "outcomes": letters, "known": {}, "started_at": started_at}
    if len(names) > 1 and len(json.dumps(event)) > MAX_EVENT - MAX_ENTRY:
        del event["name"]
    room = MAX_EVENT - len(json.dumps(event))
    if len(names) > 1 and (error := _error_of_all(found)) is not None:
        wire = _error_to_wire(error)
        if len(json.dumps({"error": wire})) > room:
            _cut_error(wire, MAX_TEXT_OF_MANY)
        return {**event, "error": wire}
    for rank in _ranked(found):
        misfits = 0
        for index in rank:
            for entry in _entries(found[index], names[index], alone=len(names) == 1):
                size = _size(index, entry)
                is_modest = len(names) == 1 or letters[index] == "S" or size <= MAX_ENTRY
                if is_modest and size <= room:
                    event["known"][str(index)] = entry
                    room -= size
                    misfits = 0
                    break
            else:
                misfits += 1
            if misfits == MAX_MISFITS:
                break
    return event


def _ranked(found: Sequence[Outcome | None]) -> tuple[list[int], ...]:
    """Return the operations of which there is more to tell than the letter, in the order in which it goes in."""
    ranks: tuple[list[int], ...] = ([], [], [])
    for index, outcome in enumerate(found):
        if outcome is not None and not _is_bare(outcome):
            ranks[2 if isinstance(outcome, outcomes.Succeeded) else _letter(outcome) in _DONE].append(index)
    return ranks


def check_event(event: Any, names: Sequence[str] | None = None) -> None:
    """Raise ValueError for what is not an event of this provider, or is one about other operations than ``names``."""
    problem = _problem(event)
    if not problem and names is not None and len(event["outcomes"]) != len(names):
        problem = f"it has {len(event['outcomes'])} outcomes, but this task waits for {len(names)}"
    if problem:
        raise _not_understood(problem)
    for index, name in enumerate(names or ()):
        said = [event.get("name")] if index == 0 else []
        if isinstance(operation := event["known"].get(str(index), {}).get("operation"), Mapping):
            said.append(operation.get("name"))
        for other in said:
            if isinstance(other, str) and other and not is_same_operation(other, name):
                advice = "what is stored about it was changed meanwhile; clear the task to wait again"
                raise ValueError(f"the trigger's event is about {other!r}, but this task waits for {name!r}: {advice}")


def _problem(event: Any) -> str:
    """Return why something has not the form of an event; empty where it has."""
    if not isinstance(event, Mapping):
        return f"it is a {type(event).__name__}"
    known, letters = event.get("known"), event.get("outcomes")
    if not isinstance(letters, str) or not isinstance(known, Mapping):
        return "it has no 'outcomes', or no 'known'"
    if not all(isinstance(entry, Mapping) for entry in known.values()):
        return "an entry in 'known' is not a mapping"
    is_named = isinstance(event.get("name"), str) or (len(letters) != 1 and "name" not in event)
    is_timed = is_number(event.get("started_at"), most=MAX_EPOCH)
    return "" if is_named and is_timed else "its 'name' or its 'started_at' is not one"


def _not_understood(problem: str) -> ValueError:
    return ValueError(
        f"the trigger's event is not one that this version understands ({problem}): install the same version of"
        " airflow-provider-lro on the workers and the triggerer"
    )


def outcomes_from_event(event: Mapping[str, Any], names: Sequence[str]) -> list[Outcome | None]:
    """Return the outcome of each operation; see ``to_read_again`` for those that it does not hold completely.

    Raises:
        ValueError: it is not an event of this provider, or one about other operations.
    """
    check_event(event, names)
    letters, known = event["outcomes"], event["known"]
    try:
        error = _error_from_wire(event["error"]) if "error" in event else None
        return [_outcome(letter, known.get(str(index)), names[index], error) for index, letter in enumerate(letters)]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise _not_understood(f"{type(error).__name__}: {error}") from error


def to_read_again(event: Mapping[str, Any], *, with_metadata: bool = False) -> list[int]:
    """Return the operations that are done, and of which the event does not hold everything.

    ``with_metadata``: also successes of which only the metadata is missing.
    """
    known = event["known"]
    missing = {"cut", "bare"} if with_metadata else {"cut"}
    return [
        index
        for index, letter in enumerate(event["outcomes"])
        if any(known.get(str(index), {"cut": letter in _DONE}).get(what) for what in missing)
    ]


def _size(index: int, entry: Mapping[str, Any]) -> int:
    """Return the bytes of an entry; those of a message that cannot fit are only its own."""
    message = entry.get("operation", {}).get("message", "")
    # Its braces stand for the comma and the blank.
    return len(message) if len(message) > MAX_EVENT else len(json.dumps({index: entry}))


def _letter(outcome: Outcome | None) -> str:
    if outcome is None:
        return NOT_DONE
    if isinstance(outcome, outcomes.TimedOut):
        return _TIMED_OUT[outcome.cancel]
    if isinstance(outcome, outcomes.CallFailed) and outcome.is_undecided:
        return LEFT_TO_WORKER
    return _LETTERS[type(outcome)]


def _is_bare(outcome: Outcome) -> bool:
    """Return True if the letter says everything, or nothing more is known."""
    if isinstance(outcome, outcomes.TimedOut):
        return outcome == outcomes.TimedOut(cancel=outcome.cancel)
    return _letter(outcome) in _DONE and outcome.operation is None


def _error_of_all(found: Sequence[Outcome | None]) -> LroError | None:
    error = getattr(found[0], "error", None)
    return error if all(isinstance(one, outcomes.CallFailed) and one.error is error for one in found) else None


def _outcome(letter: str, entry: Mapping[str, Any] | None, name: str, error: LroError | None) -> Outcome | None:
    if letter == NOT_DONE:
        return None
    if letter in _DONE:
        if entry is None:
            return _DONE[letter](operation=None)  # type: ignore[no-any-return]
        state = _state_from_wire(entry["operation"], name)
        found = outcome_of(state)
        # The last gate: no outcome is taken from an operation that does not bear it out.
        if not state.done or type(found) is not _DONE[letter]:
            word = found.word if state.done else "running"
            raise ValueError(f"it says {letter!r} of operation {name!r}, which is {word}")
        return found
    values: dict[str, Any] = {
        key: _state_from_wire(value, name) if key == "operation" else _error_from_wire(value)
        for key, value in (entry or {}).items()
        if key in ("operation", "error", "cancel_error")
    }
    if letter in _EFFECTS:
        return outcomes.TimedOut(cancel=_EFFECTS[letter], **values)
    why = "there was no room in the trigger's event for its error; the triggerer's log has the last errors"
    if letter == "N":
        return outcomes.NotFound(**{"error": OperationNotFound(f"{why} [operation {name!r}]"), **values})
    if letter in ("B", LEFT_TO_WORKER):
        unread = error or RpcError(f"the operation could not be read: {why} [operation {name!r}]")
        failed = outcomes.CallFailed(**{"error": unread, **values})
        if letter == LEFT_TO_WORKER:
            failed.error.too_large = True
        return failed
    raise ValueError(f"it says {letter!r} of operation {name!r}")


def _entries(outcome: Any, name: str, *, alone: bool) -> Iterator[dict[str, Any]]:
    """Yield the entry of an outcome, whole, and then with less and less in it."""
    entry: dict[str, Any] = {}
    for field in fields(outcome):
        value = getattr(outcome, field.name)
        if field.name == "operation" and value is not None:
            entry["operation"] = _state_to_wire(value, name)
        elif isinstance(value, LroError):
            entry[field.name] = _error_to_wire(value)
    yield entry
    operation = entry.get("operation", {})
    if operation.pop("metadata", None):
        if operation["done"]:  # it is part of a failure; of a success it is needed by a check alone
            entry["bare" if operation.get("code") is None else "cut"] = True
        yield entry
    longest = MAX_TEXT if alone else MAX_TEXT_OF_MANY
    if isinstance(outcome, outcomes.Succeeded):
        return
    if isinstance(outcome, outcomes.Failed | outcomes.Cancelled):
        operation.pop("details", None)
        operation.pop("name", None)
        operation["message"] = _shortened(operation.get("message", ""), longest)
        entry["cut"] = True
    else:  # an error that cannot be read again: its beginning must do
        entry["cut"] = bool(entry.pop("operation", {}).get("done"))  # if a cancel has ended it, it can
        for key in ("error", "cancel_error"):
            if error := entry.get(key):
                _cut_error(error, longest)
    yield entry


def _cut_error(error: dict[str, Any], longest: int) -> None:
    error.pop("operation", None)
    error["details"] = []
    error.update({text: _shortened(error[text], longest) for text in ("text", "message")})


def _shortened(text: str, longest: int) -> str:
    """Return as much of the beginning as fits; a letter takes one to twelve bytes of JSON."""
    while len(json.dumps(text)) > longest:
        text = text[: min(longest, len(text) * 3 // 4)]
    return text


# ── operations and errors as JSON ──


def _state_to_wire(state: OperationState, name: str) -> dict[str, Any]:
    wire: dict[str, Any] = {"done": state.done}
    if state.name != name:
        wire["name"] = state.name
    if state.code is not None:
        wire.update(code=state.code, message=state.message)
    for key in ("details", "response", "metadata"):
        payload = getattr(state, key)
        if payload is not None:
            wire[key] = _wire(payload)
    return wire


def _state_from_wire(wire: Mapping[str, Any], name: str) -> OperationState:
    said, code, message = wire.get("name", name), wire.get("code"), wire.get("message", "")
    if not (is_flag(wire["done"]) and _is_code(code) and isinstance(said, str) and isinstance(message, str)):
        raise ValueError(f"the state of operation {name!r} is not one")
    return OperationState(
        name=said,
        done=wire["done"],
        code=code,
        message=message,
        **{key: _payload(wire[key]) for key in ("details", "response", "metadata") if key in wire},
    )


def _wire(payload: Payload | JsonPayload) -> dict[str, Any]:
    if isinstance(payload, JsonPayload):
        return {"json": storable_json(payload.json)}
    return {"@type": payload.type_url, "value": base64.b64encode(payload.value).decode("ascii")}


def _payload(wire: Mapping[str, Any]) -> Payload | JsonPayload:
    if "json" in wire:
        return JsonPayload(json=storable_json(wire["json"]))
    if not isinstance(wire["@type"], str):
        raise TypeError("the type of a payload is not a text")
    return Payload(type_url=wire["@type"], value=base64.b64decode(wire["value"]))


def _error_to_wire(error: LroError) -> dict[str, Any]:
    state = {name: value for name, value in vars(error).items() if name in _ERROR_FIELDS and value is not None}
    return {**state, "type": type(error).__name__, "text": str(error)}


def _error_from_wire(wire: Mapping[str, Any]) -> LroError:
    found, text = getattr(exceptions, wire["type"], None), wire["text"]
    if not isinstance(text, str):
        raise TypeError("the text of an error is not a text")
    kind = found if isinstance(found, type) and issubclass(found, LroError) else LroError
    error: LroError = kind(text)
    for name, is_right in _ERROR_FIELDS.items():  # what a newer version adds is passed over
        if name not in wire:
            continue
        value = wire[name]
        if not is_right(value):
            raise ValueError(f"the {name} of an error is not one")
        setattr(error, name, exceptions.Code.of(value) if name == "code" and value is not None else value)
    return error
