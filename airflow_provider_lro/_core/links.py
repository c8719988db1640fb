"""The link to an operation: a template of the connection, filled from the operation's name, kept as an XCom.

Floor 0: imports ``_text``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_lro._core.text import without_user

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["XCOM_KEY", "check_template", "fill_template", "others"]

XCOM_KEY = "_link_OperationLink"
"""Where Airflow 3 looks for the link of a class of this name."""
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]+)?([/?#][!-\[\]-~]*)?")
"""Visible ASCII without a backslash, which browsers take for a slash; no user and no password before the host."""
_EXPECTED = (
    "an http or https URL with a host that is written out, such as"
    " 'https://console.example.com/{project}/{location}/{id}'"
)


def others(links: Iterable[Any]) -> tuple[Any, ...]:
    """Return the links that are not ours, also of an operator that Airflow has read from its database."""
    return tuple(link for link in links if getattr(link, "xcom_key", None) != XCOM_KEY)


def check_template(template: object) -> str:
    """Return a template of links.

    Raises:
        ValueError: it is none; says what is wrong with it, and what would do.
    """
    if not isinstance(template, str):
        raise ValueError(f"link_template must be text, not a {type(template).__name__}: {_EXPECTED}")  # noqa: TRY004
    text = template.strip()
    shown = without_user(text)
    if re.search(r"[{}]", _PLACEHOLDER.sub("", text)):
        raise ValueError(f"link_template {shown!r} has a brace that belongs to no placeholder such as {{project}}")
    # What fills a placeholder may come from anywhere: it must never decide where a click leads.
    if not _URL.fullmatch(text):
        raise ValueError(f"link_template {shown!r} is refused: expected {_EXPECTED}")
    return text


def fill_template(template: object, name: str) -> str:
    """Return the link to an operation: a template filled with what its name says, URL-quoted.

    Raises:
        ValueError: the template is none, or asks for what the name does not have.
    """
    text = check_template(template)
    values = _values(name)
    missing = sorted(set(_PLACEHOLDER.findall(text)) - set(values))
    if missing:
        raise ValueError(
            f"link_template asks for {', '.join(f'{{{key}}}' for key in missing)}, and the name {name!r} has"
            f" {', '.join(f'{{{key}}}' for key in values)}"
        )
    return _PLACEHOLDER.sub(lambda found: values[found[1]], text)


def _values(name: str) -> dict[str, str]:
    """Return the placeholders that an operation's name fills: ``name``, ``id``, and each of its collections."""
    segments = [segment for segment in name.split("/") if segment]
    if any(segment in (".", "..") for segment in segments):
        raise ValueError(f"the name {name!r} has segments that would lead a link elsewhere")
    values = {"name": quote("/".join(segments), safe="/"), "id": quote(segments[-1] if segments else "", safe="")}
    for collection, value in zip(segments[::2], segments[1::2], strict=False):
        key = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", collection).lower()
        values.setdefault(key.removesuffix("s"), quote(value, safe=""))
    if "region" in values:
        values.setdefault("location", values["region"])
    return values
