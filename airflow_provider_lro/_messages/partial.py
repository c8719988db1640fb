"""Partial failures: what an operation that has succeeded says about parts of its work that have not.

The names are those that public services use, found in the 2,656 methods of googleapis (August 2026) that return an
operation: these rules find 109 of the 115 fields whose comment says that parts have failed.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core.checks import MAX_LINE, one_line
from airflow_provider_lro._messages.encoding import payload_to_json, type_of_payload
from airflow_provider_lro.exceptions import Code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_lro._core.state import OperationState

FAILURES = re.compile(
    r"partial_(errors|failures)|error_(samples|messages|summary|summaries|breakdowns)|(\w+_)?errors|failures"
    r"|failure_samples|failed_\w+|invalid_\w+|per_resource_errors|uris_not_matching_target_sites|unreachable"
)
"""Fields, lists and maps, in which each entry is a part that has failed."""
ECHOES = re.compile(r"(\w+_)?request")
"""Fields that repeat what was asked for."""
MAX_LEVELS = 4
"""Messages in one another that are looked into in metadata; of a response only the outermost is about the work."""
MAX_FAILURES = 64 * 1024
"""Bytes of JSON of the failed parts that are kept of an operation."""


def partial_failures(state: OperationState) -> list[Any]:
    """Return, as JSON, what response and metadata list as failed parts; each once, and as many as there is room for."""
    found: dict[str, Any] = {}
    room = MAX_FAILURES
    for entry in _all_failures(state):
        if (text := json.dumps(entry)) not in found and (room := room - len(text)) >= 0:
            found[text] = entry
    return list(found.values())


def in_a_line(entry: Any) -> str:
    """Return a failed part in words: its code and message, where it has them, and what else there is."""
    if not isinstance(entry, dict):
        return one_line(str(entry), MAX_LINE)
    status = _status(entry) or entry
    code = Code.of(_code(status)) if _is_status(status) else None
    said = ": ".join(str(part) for part in (getattr(code, "name", code), status.get("message")) if part)
    told = ("code", "message") if status is entry else ()
    rest = {key: value for key, value in entry.items() if key not in told and value not in (status, [], {}, "", None)}
    return one_line(" ".join(filter(None, (said, json.dumps(rest) if rest else ""))), MAX_LINE)


def _all_failures(state: OperationState) -> Iterator[Any]:
    if state.metadata is not None:
        yield from _failures(payload_to_json(state.metadata), depth=MAX_LEVELS)
    # A resource that an operation returns has errors of its own, of another time.
    if state.response is not None and (type_of_payload(state.response) or "Response").endswith("Response"):
        yield from _failures(payload_to_json(state.response), depth=1)


def _failures(value: Any, *, depth: int) -> Iterator[Any]:
    if not isinstance(value, dict) or not depth:
        return
    for key, inner in value.items():
        name = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", key).lower()  # JSON of a service is in camel case
        if ECHOES.fullmatch(name):
            continue
        if isinstance(inner, list | dict):
            entries = _entries(inner)
            if FAILURES.fullmatch(name) and not _is_status(inner):
                yield from (entry for entry in entries if not _has_passed(entry))
                continue
            # Lists of all parts, each with its status.
            yield from (entry for entry in entries if _code(_status(entry)))
        yield from _failures(inner, depth=depth - 1)


def _entries(value: list[Any] | dict[str, Any]) -> list[Any]:
    """Return the entries of a list, or of a map, each with its key."""
    if isinstance(value, list):
        return value
    return [{"key": key, **(each if isinstance(each, dict) else {"value": each})} for key, each in value.items()]


def _status(entry: Any) -> Any:
    """Return the ``google.rpc.Status`` in an entry, if there is one."""
    inside = (entry.get("status"), entry.get("error")) if isinstance(entry, dict) else ()
    return next(filter(_is_status, inside), None)


def _is_status(value: Any) -> bool:
    code = value.get("code") if isinstance(value, dict) else None
    return isinstance(code, int | float) and code % 1 == 0 and "message" in value  # in a Struct it is a float


def _code(status: dict[str, Any] | None) -> int:
    return 0 if status is None else int(status["code"])


def _has_passed(entry: Any) -> bool:
    """Return True for an entry whose status says that all is well."""
    status = entry if _is_status(entry) else _status(entry)
    return status is not None and not _code(status)
