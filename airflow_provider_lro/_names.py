"""An operation's name, in whatever another task has left it. Floor 0: imports ``_wait``."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_provider_lro._wait import check_name

__all__ = ["name_of"]


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
