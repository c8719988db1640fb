"""Names of operations and of their parents, in whatever another task has left them. Floor 0: imports floor 0."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence

from airflow_provider_lro._core.checks import check_name

__all__ = ["are_many", "check_literal", "name_of", "pack", "parent_of", "unpack"]


DEEPEST = 10
"""Mappings in one another that ``name_of`` looks into; one that contains itself has no end."""


def name_of(value: object, *, what: str = "operation_name") -> str:
    """Return the operation's name from a name, or from a mapping that holds one, as other operators leave in XCom.

    Args:
        value: the one or the other.
        what: what it is called where it was given, for the error.

    Raises:
        ValueError: there is none in it.
    """
    for _ in range(DEEPEST):
        if not isinstance(value, Mapping):
            return check_name(_rendered(value, what=what), what=what)
        if "name" not in value:
            raise ValueError(f"{what} is a mapping without a 'name': it has {sorted(map(str, value))}")
        value = value["name"]
    raise ValueError(f"{what} is a mapping whose 'name' is a mapping, and so on, more than {DEEPEST} deep")


def check_literal(value: object) -> None:
    """Raise ValueError for what can be no name of an operation, nor a sequence of them, whatever is rendered later."""
    if are_many(value):
        for each in value:  # type: ignore[attr-defined]
            check_literal(each)
    elif isinstance(value, str):  # what is a template, the DAG's own environment says
        if value.strip() in ("", "None", "null"):
            name_of(value)
    elif isinstance(value, bytes | int | float | set) or (isinstance(value, Mapping) and "name" not in value):
        name_of(value)


def parent_of(value: object) -> str:
    """Return the parent of a listing.

    Raises:
        ValueError: it is none, or what a template leaves that went wrong.
    """
    return check_name(_rendered(value, what="parent"), what="parent", example="projects/p/locations/l")


def _rendered(value: object, *, what: str) -> object:
    """Return a value without space around it; raises ValueError for what a template leaves that went wrong."""
    if not isinstance(value, str):
        return value
    value = value.strip()
    if value in ("None", "null"):
        raise ValueError(f"{what} is empty: the XCom or the variable that the template reads has no value")
    if value.startswith("{{"):
        raise ValueError(f"{what} is a template that was not rendered: {value[:80]!r}")
    if value[:1] in ("{", "["):
        raise ValueError(
            f"{what} is the text of a whole value, not a name: {value[:80]!r}; pass the XCom itself"
            f" ({what}=task.output) or the name alone ({{{{ ti.xcom_pull(…)['name'] }}}}), or give the DAG"
            " render_template_as_native_obj=True"
        )
    return value


def are_many(value: object) -> bool:
    """Tell whether a value is a sequence of what ``name_of`` takes, rather than one of it."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def pack(names: Sequence[str]) -> str:
    """Return names as one short text, as names of one service have most of their letters in common."""
    return base64.b64encode(zlib.compress(json.dumps(list(names)).encode(), 9)).decode("ascii")


def unpack(text: str) -> list[str]:
    """Return the names that ``pack`` was given.

    Raises:
        ValueError: it is no such text.
    """
    try:
        names = json.loads(zlib.decompress(base64.b64decode(text, validate=True)))
    except (TypeError, ValueError, zlib.error) as error:
        raise ValueError(f"these are no packed names ({type(error).__name__}: {error}): {text!r:.80}") from error
    return [check_name(name) for name in names]
