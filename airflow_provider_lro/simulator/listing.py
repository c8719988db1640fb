"""ListOperations: filter, order, pages. Pure functions over the facts; protos are built by the caller."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from airflow_provider_lro.simulator.behaviour import (
    INVALID_ARGUMENT,
    CallError,
    Facts,
    Snapshot,
    hidden,
    snapshot,
    started_at,
)
from airflow_provider_lro.simulator.script import Simulation, parse_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.longrunning import operations_proto_pb2 as operations_pb2

DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1000

_DONE: Final = re.compile(r"done\s*[=:]\s*(true|false)", re.IGNORECASE)
_NAME_HAS: Final = re.compile(r'name\s*:\s*(?:"([^"]+)"|([^\s"]+))')
_AND: Final = re.compile(r"\s+AND\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A parsed `filter`: None and the empty tuple let everything through."""

    done: tuple[bool, ...] = ()
    substrings: tuple[str, ...] = ()

    def lets_through(self, name: str, *, done: bool) -> bool:
        """Return True if an operation belongs to the answer."""
        return all(wanted == done for wanted in self.done) and all(text in name for text in self.substrings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page: the operations in order, and the token of the next page or ""."""

    operations: tuple[tuple[Simulation, Snapshot], ...]
    next_token: str


def parse_filter(text: str) -> Filter:
    """Read a `filter`.

    Raises:
        CallError: INVALID_ARGUMENT for anything that is not of the supported terms.
    """
    done: list[bool] = []
    substrings: list[str] = []
    for term in _AND.split(text.strip()) if text.strip() else ():
        if match := _DONE.fullmatch(term):
            done.append(match[1].lower() == "true")
        elif match := _NAME_HAS.fullmatch(term):
            substrings.append(match[1] or match[2])
        else:
            raise CallError(
                INVALID_ARGUMENT,
                f"Filter term {term!r} is not supported; accepted: done=true, done=false, name:<substring>, and AND.",
            )
    return Filter(done=tuple(done), substrings=tuple(substrings))


def is_below(name: str, parent: str) -> bool:
    """Return True if a List of `parent` covers `name`; `simulations` covers every name, whatever its prefix."""
    return parent == "simulations" or name.startswith(parent + "/")


def list_page(known: Mapping[str, Facts], now: float, request: operations_pb2.ListOperationsRequest) -> Page:
    """Give one page of the operations that are there, by start and then by name.

    Raises:
        CallError: INVALID_ARGUMENT for a bad filter, page size or page token.
    """
    parent, filter_text = request.name, request.filter
    if request.page_size < 0:
        raise CallError(
            INVALID_ARGUMENT, f"page_size is {request.page_size}; accepted: 0 (which means {DEFAULT_PAGE}) or more."
        )
    wanted = parse_filter(filter_text)
    after = _decode(request.page_token, parent, filter_text) if request.page_token else None
    found: list[tuple[tuple[float, str], Simulation, Snapshot]] = []
    for name, facts in known.items():
        if not is_below(name, parent):
            continue
        simulation = parse_name(name)
        position = (started_at(simulation.script, facts), name)
        if (after is not None and position <= after) or hidden(simulation.script, facts, now):
            continue
        seen = snapshot(simulation.script, facts, now)
        if wanted.lets_through(name, done=seen.done):
            found.append((position, simulation, seen))
    found.sort(key=lambda item: item[0])
    size = min(request.page_size or DEFAULT_PAGE, MAX_PAGE)
    token = _encode(found[size - 1][0], parent, filter_text) if len(found) > size else ""
    return Page(operations=tuple((item[1], item[2]) for item in found[:size]), next_token=token)


# A token names the last operation of its page, not an offset: what starts or is deleted between two pages shifts
# nothing.
def _encode(position: tuple[float, str], parent: str, filter_text: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([parent, filter_text, *position]).encode()).decode()


def _decode(token: str, parent: str, filter_text: str) -> tuple[float, str]:
    try:
        token_parent, token_filter, start, name = json.loads(base64.urlsafe_b64decode(token.encode()))
        position = (float(start), str(name))
    except (ValueError, TypeError) as error:
        raise CallError(INVALID_ARGUMENT, "page_token was not made by this service.") from error
    if (token_parent, token_filter) != (parent, filter_text):
        raise CallError(INVALID_ARGUMENT, "page_token belongs to a List with another name or filter.")
    return position
