"""``OperationLink``: a button in Airflow's UI that leads to the operation.

Floor 1, below the operators that name it. Imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from airflow_provider_lro._core.links import XCOM_KEY
from airflow_provider_lro.version_compat import BaseOperatorLink, BaseXCom, XCom

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey

    from airflow_provider_lro.version_compat import BaseOperator

__all__ = ["OperationLink"]


class OperationLink(BaseOperatorLink):
    """Leads to the operation that a task waits for. The task itself writes it, before it waits."""

    name = "Operation"

    @property
    def xcom_key(self) -> str:
        """Where the link is kept; Airflow 3 looks there by itself."""
        return XCOM_KEY

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002  (Airflow's signature)
        """Return what the task has written; nothing where the connection has no template."""
        return BaseXCom.get_value(key=XCOM_KEY, ti_key=cast("Any", ti_key)) or ""


def write_link(ti: Any, link: str) -> None:
    """Write a link on a worker. Airflow 3 reads links past an XCom backend of the installation, so it is written so."""
    if XCom is BaseXCom:
        ti.xcom_push(key=XCOM_KEY, value=link)
    else:
        BaseXCom.set(XCOM_KEY, link, **_of(ti))


async def awrite_link(ti: Any, link: str) -> None:
    """Write a link in the triggerer of Airflow 3.3, likewise."""
    await BaseXCom.aset(XCOM_KEY, link, **_of(ti))


def _of(ti: Any) -> dict[str, Any]:
    map_index = -1 if ti.map_index is None else ti.map_index
    return {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": map_index}
