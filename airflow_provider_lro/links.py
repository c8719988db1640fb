"""``OperationLink``: a button in Airflow's UI that leads to the operation, by a template of the connection."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from airflow_provider_lro._core.checks import without_user
from airflow_provider_lro.version_compat import BaseOperatorLink, BaseXCom, XCom, task_id_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.sdk.types import TaskInstanceKey

    from airflow_provider_lro.version_compat import BaseOperator

__all__ = ["OperationLink"]

XCOM_KEY = "_link_OperationLink"
"""Where Airflow 3 looks for the link of a class of this name."""
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]+)?([/?#][!-\[\]-~]*)?")
"""Visible ASCII without a backslash, which browsers take for a slash; no user and no password before the host."""
_EXPECTED_URL = (
    "an http or https URL with a host that is written out, such as"
    " 'https://console.example.com/{project}/{location}/{id}'"
)


class OperationLink(BaseOperatorLink):
    """Leads to the operation that a task waits for. The task itself writes it, before it waits."""

    name = "Operation"

    @property
    def xcom_key(self) -> str:
        """Where the link is kept; Airflow 3 looks there by itself."""
        return XCOM_KEY

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002  (Airflow's signature)
        """Return the link that the task has written; empty where the connection has no template."""
        return BaseXCom.get_value(key=XCOM_KEY, ti_key=cast("Any", ti_key)) or ""


def write_link(ti: Any, link: str) -> None:
    """Write a link on a worker. Airflow 3 reads links past an XCom backend of the installation, so it is written so."""
    if XCom is BaseXCom:
        ti.xcom_push(key=XCOM_KEY, value=link)
    else:
        BaseXCom.set(XCOM_KEY, link, **task_id_of(ti))


def other_links(links: Iterable[Any]) -> tuple[Any, ...]:
    """Return the links that are not ours, also of an operator that Airflow has read from its database."""
    return tuple(link for link in links if getattr(link, "xcom_key", None) != XCOM_KEY)


def check_template(template: object) -> str:
    """Return a template of links.

    Raises:
        ValueError: it is not one; says why, and what would do.
    """
    if not isinstance(template, str):
        raise ValueError(f"link_template={template!r}, but it must be {_EXPECTED_URL}")  # noqa: TRY004
    text = template.strip()
    shown = without_user(text)
    if re.search(r"[{}]", _PLACEHOLDER.sub("", text)):
        raise ValueError(
            f"link_template {shown!r} has a brace that belongs to no placeholder such as {{project}}: take it out"
        )
    # A placeholder's value may come from anywhere: it must never decide where a click leads.
    if not _URL.fullmatch(text):
        raise ValueError(f"link_template {shown!r} is refused: expected {_EXPECTED_URL}")
    return text


def fill_template(template: object, name: str) -> str:
    """Return the link to an operation: a template filled from its name, URL-quoted.

    Raises:
        ValueError: the template is not one, or asks for a part that the name does not have.
    """
    text = check_template(template)
    values = _values(name)
    missing = sorted(set(_PLACEHOLDER.findall(text)) - set(values))
    if missing:
        raise ValueError(
            f"link_template asks for {', '.join(f'{{{key}}}' for key in missing)}, but the name has only"
            f" {', '.join(f'{{{key}}}' for key in values)}: use these [operation {name!r}]"
        )
    return _PLACEHOLDER.sub(lambda found: values[found[1]], text)


def _values(name: str) -> dict[str, str]:
    """Return the placeholders that an operation's name fills: ``name``, ``id``, and each of its collections."""
    segments = [segment for segment in name.split("/") if segment]
    if any(segment in (".", "..") for segment in segments):
        raise ValueError(f"the name has a part '.' or '..', which would lead the link elsewhere [operation {name!r}]")
    values = {"name": quote("/".join(segments), safe="/"), "id": quote(segments[-1] if segments else "", safe="")}
    for collection, value in zip(segments[::2], segments[1::2], strict=False):
        key = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", collection).lower()
        values.setdefault(key.removesuffix("s"), quote(value, safe=""))
    if "region" in values:
        values.setdefault("location", values["region"])
    return values
