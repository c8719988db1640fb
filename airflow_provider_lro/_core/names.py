"""Names: of operations and their parents, in whatever form another task has left them, and of message types."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence

from airflow_provider_lro._core.checks import check_name, is_text

MAX_IN_LOG = 40
"""Letters of a name that a log shows more than once."""
MAX_DEPTH = 10
"""Mappings in one another that ``name_of`` looks into; one that contains itself has no end."""


def name_of(value: object, *, what: str = "operation_name") -> str:
    """Return the operation's name from a name, or from a mapping that holds one, as other operators leave in XCom.

    Raises:
        ValueError: there is none in it. ``what``: the argument's name.
    """
    for _ in range(MAX_DEPTH):
        if not isinstance(value, Mapping):
            return check_name(_rendered(value, what=what), what=what)
        if "name" not in value:
            advice = "give the name, or a mapping that has it as 'name'"
            raise ValueError(f"{what} is a mapping without a 'name' (it has {sorted(map(str, value))}): {advice}")
        value = value["name"]
    raise ValueError(
        f"{what} is a mapping whose 'name' is a mapping, and so on, more than {MAX_DEPTH} deep: give the name"
    )


def names_of(value: object) -> list[str]:
    """Return the names from one of what ``name_of`` takes, or from a sequence of them."""
    return [name_of(item) for item in value] if are_many(value) else [name_of(value)]  # type: ignore[attr-defined]


def check_literal(value: object) -> None:
    """Raise ValueError for a value that cannot name an operation, or several, whatever is rendered later."""
    if are_many(value):
        for each in value:  # type: ignore[attr-defined]
            check_literal(each)
    elif isinstance(value, str):  # the DAG's own environment decides what is a template
        if value.strip() in ("", "None", "null"):
            name_of(value)
    elif isinstance(value, bytes | int | float | set):
        check_name(value)
    elif isinstance(value, Mapping) and "name" not in value:
        name_of(value)


def parent_of(value: object) -> str:
    """Return the parent of a listing.

    Raises:
        ValueError: it is not a name, or a template that went wrong.
    """
    return check_name(_rendered(value, what="parent"), what="parent", example="projects/p/locations/l")


def short_name(name: str) -> str:
    """Return the last part of a long name, for a log that has shown the whole of it before."""
    return name if len(name) <= MAX_IN_LOG else f"…/{name.rpartition('/')[2]}"


def in_short(names: Sequence[str]) -> str:
    """Return in words which operations these are, for a log: the last part of a name, or how many."""
    return f"operation {short_name(names[0])!r}" if len(names) == 1 else f"{len(names):,} operations"


def is_same_operation(one: str, two: str) -> bool:
    """Return True if two names may be of one operation: if their last segments are the same.

    Services answer with a project's number for its id, or with another form of location or parent. A slash at the end
    does not count; upper and lower case, and percent signs, do.
    """
    return one == two or one.rstrip("/").rpartition("/")[2] == two.rstrip("/").rpartition("/")[2]


def parent_in(name: str, list_parent: str | None) -> str:
    """Return the parent to list to find an operation; "" where its name does not say: it is polled by itself."""
    return list_parent or name.rpartition("/operations/")[0]


def _rendered(value: object, *, what: str) -> object:
    """Return a value without space around it; raise ValueError for the remains of a template that went wrong.

    A native template makes a number of a name that is all digits.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return value
    value = value.strip()
    if value in ("None", "null"):
        why = "the XCom or the variable that the template reads has no value"
        raise ValueError(f"{what} is empty: {why}; check its key, and that it is written before this task runs")
    if value.startswith("{{"):
        advice = "give it to the operator in the DAG file, or give the name"
        raise ValueError(f"{what} is a template that was not rendered: {value[:80]!r}; {advice}")
    if value[:1] in ("{", "["):
        raise ValueError(
            f"{what} is the text of a whole value, not a name: {value[:80]!r}; pass the XCom itself"
            f" ({what}=task.output) or the name alone ({{{{ ti.xcom_pull(…)['name'] }}}}), or give the DAG"
            " render_template_as_native_obj=True"
        )
    return value


def are_many(value: object) -> bool:
    """Return True for a sequence of names, or of mappings with one."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def pack(names: Sequence[str]) -> str:
    """Return names as one short text, as names of one service have most of their letters in common."""
    return base64.b64encode(zlib.compress(json.dumps(list(names)).encode(), 9)).decode("ascii")


def unpack(text: str) -> list[str]:
    """Return the names that ``pack`` was given.

    Raises:
        ValueError: ``pack`` has not made this text.
    """
    advice = "give a list of names"
    try:
        names = json.loads(zlib.decompress(base64.b64decode(text, validate=True)))
    except (TypeError, ValueError, zlib.error) as error:
        raise ValueError(
            f"{text!r:.80} is not a text of packed names ({type(error).__name__}: {error}): {advice}"
        ) from error
    if not isinstance(names, list):
        raise ValueError(f"{text!r:.80} is not a text of packed names ({type(names).__name__}): {advice}")  # noqa: TRY004
    return [check_name(name) for name in names]


def type_name(value: object, *, what: str) -> str | None:
    """Return the text for a message type, ``module:Class`` for a class: text is all that crosses to a trigger.

    Raises:
        ValueError: it is neither None, nor a class, nor a text. ``what``: the argument's name.
    """
    if isinstance(value, type) and (hasattr(value, "DESCRIPTOR") or hasattr(value, "pb")):  # protobuf's, proto-plus's
        return f"{value.__module__}:{value.__qualname__}"
    if value is None or (is_text(value) and value.strip()):
        return value if value is None else value.strip()
    raise ValueError(
        f"{what}={value!r}, but it must be a message class, its import path ('google.cloud.dataplex_v1.types.Lake',"
        " 'module:Class') or its full name ('google.cloud.dataplex.v1.Lake')"
    )


def module_names(value: object) -> tuple[str, ...]:
    """Return module paths from one, several with commas between, or a sequence.

    Raises:
        ValueError: it is none of these.
    """
    modules = value.split(",") if isinstance(value, str) else () if value is None else value
    if not isinstance(modules, Sequence) or not all(map(is_text, modules)):
        raise ValueError(
            f"type_modules={value!r}, but it must be module paths such as ['google.cloud.dataplex_v1'], or a text with"
            " commas between them"
        )
    return tuple(module.strip() for module in modules if module.strip())
