"""``OperationLink``: a button in Airflow's UI that leads to the operation.

Floor 1, below the operators that name it. Imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

from airflow_provider_lro._links import XCOM_KEY

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

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
        return XCom.get_value(key=XCOM_KEY, ti_key=ti_key) or ""
