"""An operation's name, in whatever another task has left it, and many of them. Floor 0: imports ``_wait``."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence

from airflow_provider_lro._wait import check_name

__all__ = ["are_many", "name_of", "pack", "unpack"]


def name_of(value: object) -> str:
    """Return the operation's name from a name, or from a mapping that holds one, as other operators leave in XCom.

    Raises:
        ValueError: there is none in it.
    """
    if isinstance(value, Mapping):
        if "name" not in value:
            raise ValueError(f"operation_name is a mapping without a 'name': it has {sorted(map(str, value))}")
        return name_of(value["name"])
    value = value.strip() if isinstance(value, str) else value
    if value in ("None", "null"):
        raise ValueError("operation_name is empty: the XCom or the variable that the template reads has no value")
    if isinstance(value, str) and value.startswith("{{"):
        raise ValueError(f"operation_name is a template that was not rendered: {value[:80]!r}")
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        raise ValueError(
            f"operation_name is the text of a whole value, not a name: {value[:80]!r}; pass the XCom itself"
            " (operation_name=task.output) or the name alone ({{ ti.xcom_pull(…)['name'] }}), or give the DAG"
            " render_template_as_native_obj=True"
        )
    return check_name(value)


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
