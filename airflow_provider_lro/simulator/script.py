"""The grammar of a simulated operation's name: parse it, and build it.

`<anything>/simulations/<key=value&…>/operations/<id>` becomes a frozen `Simulation` and back. The table of keys is in
the package's docstring. Standard library only: a DAG file that calls `operation_name` must not load grpc or protobuf.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote

# google.rpc.Code by number; spelled out because importing it would load protobuf.
CODES: Final = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)

DETAILS: Final = (
    "ErrorInfo",
    "RetryInfo",
    "BadRequest",
    "Help",
    "LocalizedMessage",
    "QuotaFailure",
    "PreconditionFailure",
    "DebugInfo",
    "RequestInfo",
    "ResourceInfo",
    "Unknown",
)

GRAMMAR: Final = "simulations/<key=value&key=value>/operations/<id>, with any prefix before simulations/"

# The server's own message limit is 64 MiB; a response beyond it would never leave the process.
MAX_RESPONSE_BYTES: Final = 60 * 1024 * 1024

# 317 years: sums of two stay within what a timestamp can say.
_MAX_SECONDS: Final = 1e10

_T = TypeVar("_T")

_NAME: Final = re.compile(r"(?:.*?/)?simulations/([^/]*)/operations/(.+)", re.DOTALL)
_PARENT: Final = re.compile(r"(?:.*?/)?simulations/([^/]+)(?:/.*)?", re.DOTALL)
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Kept readable in a name: none of these ends a value, and none of them means something to `unquote`.
_SAFE: Final = "*,:+~@!$()"


class ScriptError(ValueError):
    """A name that is not of the grammar, an unknown key, or a bad value; the text says what is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRun:
    """One item of `fault`: `count` Gets in a row answer `code`; None is for ever."""

    code: int
    count: int | None = 1


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= _MAX_SECONDS:  # also turns NaN away
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def _size(text: str) -> int:
    value = _count(text)
    if value > MAX_RESPONSE_BYTES:
        raise ValueError(text)
    return value


def _code(text: str) -> int:
    value = CODES.index(text.upper()) if text.upper() in CODES else int(text)
    if not -(2**31) <= value < 2**31:
        raise ValueError(text)
    return value


def _choice(*accepted: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in accepted:
            raise ValueError(text)
        return text

    return parse


def _items(*accepted: str) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        items = tuple(item.strip() for item in text.split(",") if item.strip())
        if accepted and not set(items) <= set(accepted):
            raise ValueError(text)
        return items

    return parse


def _faults(text: str) -> tuple[FaultRun, ...]:
    runs: list[FaultRun] = []
    for item in text.split(","):
        code, _, count = item.strip().partition("*")
        run = FaultRun(code=_code(code), count=None if count == "forever" else int(count or 1))
        after_forever = bool(runs) and runs[-1].count is None
        if not 0 < run.code < len(CODES) or run.count == 0 or (run.count or 1) < 0 or after_forever:
            raise ValueError(text)
        runs.append(run)
    return tuple(runs)


def _json_object(text: str) -> str:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError(text)
    # What a Struct cannot hold fails here and not while an answer is built: NaN, infinity, half a surrogate pair.
    return json.dumps(value, allow_nan=False, ensure_ascii=False).encode().decode()


def _key(default: _T, parse: Callable[[str], _T], accepted: str) -> _T:
    # Typed as dataclasses.field is: as the value, though a Field is what it gives.
    return field(default=default, metadata={"parse": parse, "accepted": accepted})


_SECONDS: Final = "seconds, a number from 0 to 1e10"
_COUNT: Final = "a whole number of 0 or more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The behaviour of an operation, one field a key; every field says how its text is read and what it accepts."""

    duration: float = _key(1.0, _seconds, _SECONDS)
    start: float | None = _key(None, _seconds, "epoch seconds, a number from 0 to 1e10")
    outcome: str = _key(
        "ok", _choice("ok", "fail", "cancelled", "neither", "never"), "ok, fail, cancelled, neither or never"
    )
    code: int = _key(9, _code, "a whole number or a name of google.rpc.Code")
    message: str = _key("", str, "any text")
    details: tuple[str, ...] = _key((), _items(*DETAILS), f"a comma list of {', '.join(DETAILS)}")
    response: str | None = _key(None, _json_object, "a JSON object")
    response_type: str = _key(
        "struct",
        _choice("struct", "empty", "unknown", "nested_unknown", "malformed"),
        "struct, empty, unknown, nested_unknown or malformed",
    )
    response_bytes: int = _key(0, _size, f"a whole number from 0 to {MAX_RESPONSE_BYTES}")
    metadata: str = _key("struct", _choice("struct", "none", "unknown"), "struct, none or unknown")
    latency: float = _key(0.0, _seconds, _SECONDS)
    fault: tuple[FaultRun, ...] = _key(
        (), _faults, "a comma list of CODE, CODE*N or (last) CODE*forever; CODE a number 1 to 16 or its name"
    )
    fault_after: int = _key(0, _count, _COUNT)
    retry_info: float | None = _key(None, _seconds, _SECONDS)
    not_found: int = _key(0, _count, _COUNT)
    not_found_for: float = _key(0.0, _seconds, _SECONDS)
    expire: float | None = _key(None, _seconds, _SECONDS)
    unimplemented: tuple[str, ...] = _key(
        (), _items("get", "list", "cancel", "delete", "wait"), "a comma list of get, list, cancel, delete, wait"
    )
    cancel: str = _key("accept", _choice("accept", "ignore"), "accept or ignore")
    cancel_delay: float = _key(0.0, _seconds, _SECONDS)
    unreachable: tuple[str, ...] = _key((), _items(), "a comma list of locations")

    @property
    def counted_gets(self) -> int:
        """The number of Gets of an operation that must be counted to know the answer to the next one."""
        return self.not_found + self.fault_after + sum(run.count or 0 for run in self.fault)


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """A parsed name."""

    name: str
    id: str
    script: Script


KEYS: Final = {key.name: key.metadata for key in fields(Script)}


@lru_cache(maxsize=4096)
def parse_script(text: str) -> Script:
    """Read `key=value&key=value`.

    Raises:
        ScriptError: An unknown, repeated or badly valued key; names it and what is accepted.
    """
    values: dict[str, Any] = {}
    for pair in text.split("&"):
        key, equals, raw = pair.partition("=")
        if not equals:
            raise ScriptError(f"{pair!r} is not key=value; accepted keys: {', '.join(KEYS)}")
        if key not in KEYS:
            raise ScriptError(f"unknown key {key!r}; accepted keys: {', '.join(KEYS)}")
        if key in values:
            raise ScriptError(f"key {key!r} is given twice")
        if _BROKEN_ESCAPE.search(raw):
            raise ScriptError(f"{key}={raw!r} has a broken percent escape; write a percent sign as %25")
        try:
            values[key] = KEYS[key]["parse"](unquote(raw, errors="strict"))
        except (ValueError, TypeError, OverflowError) as error:
            raise ScriptError(f"bad value {key}={raw!r}; accepted: {KEYS[key]['accepted']}") from error
    return Script(**values)


@lru_cache(maxsize=65536)
def parse_name(name: str) -> Simulation:
    """Read an operation's name.

    Raises:
        ScriptError: The name is not of the grammar, or its script is bad.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ScriptError(f"{name!r} is not the name of a simulated operation; accepted: {GRAMMAR}")
    return Simulation(name=name, id=match[2], script=parse_script(match[1]))


def parse_parent(parent: str) -> Script | None:
    """Read the script out of what a List is asked for, if the parent reaches that far."""
    match = _PARENT.fullmatch(parent)
    return parse_script(match[1]) if match else None


def _to_text(key: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and key == "response":
        return json.dumps(value, separators=(",", ":"))
    if isinstance(value, bool) or not isinstance(value, int | float):
        accepted = "text, a number or an object" if key == "response" else "text or a number"
        raise ScriptError(f"bad value {key}={value!r}; accepted: {accepted}")
    # Every number of a google.protobuf.Struct is a double: 3.0 is how a 3 arrives.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else repr(value)


def operation_name(operation_id: str, /, **script: str | float | Mapping[str, object]) -> str:
    """Build the name of an operation that does what `script` says.

    Args:
        operation_id: The last part of the name; any text that is not empty.
        script: The keys of the package's table; `response` may be a mapping.

    Returns:
        `simulations/<script>/operations/<operation_id>`, percent-encoded where needed.

    Raises:
        ScriptError: An unknown key, a bad value, or an empty id. It is a ValueError.
    """
    pairs = (f"{key}={quote(_to_text(key, value), safe=_SAFE)}" for key, value in script.items())
    return parse_name(f"simulations/{'&'.join(pairs) or 'duration=1'}/operations/{operation_id}").name
