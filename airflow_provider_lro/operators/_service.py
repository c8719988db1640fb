"""What every operator shares: the arguments of a connection, and how values of arguments are read.

The base derives from BaseOperator, not from object: ``default_args``, ``.partial()``, templating and editors read its
signature. Floor 2: imports floor 1.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core.checks import is_number, is_whole
from airflow_provider_lro._core.names import are_many, check_literal, name_of
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.version_compat import BaseOperator, is_mapped_copy

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ServiceOperator", "checked_page_size", "checked_wait_timeout", "earliest", "names_of", "seconds"]


class ServiceOperator(BaseOperator):
    """An operator that calls a service.

    :param lro_conn_id: connection of type ``lro`` (or ``google_cloud_platform``, then with ``endpoint``).
    :param endpoint: host or host:port of the service, instead of the connection's; may hold ``{location}``.
    :param impersonation_chain: service account to impersonate, or a chain of them (text with commas, or a sequence).
    :param quota_project_id: project that quota and bills go to.
    """

    template_fields: Sequence[str] = ("lro_conn_id", "endpoint", "impersonation_chain", "quota_project_id")
    ui_color = "#d9e7ff"

    def __init__(
        self,
        *,
        lro_conn_id: str = LongRunningOperationHook.default_conn_name,
        endpoint: str | None = None,
        impersonation_chain: str | Sequence[str] | None = None,
        quota_project_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.lro_conn_id = lro_conn_id
        self.endpoint = endpoint
        self.impersonation_chain = impersonation_chain
        self.quota_project_id = quota_project_id

    @property
    def is_one_of_mapped(self) -> bool:
        """Whether it is one of a mapped task's, which is made on a worker, of values that are rendered already."""
        return is_mapped_copy(self)

    def checked_literal(self, operation_name: Any) -> Any:
        """Return ``operation_name`` as it is given; raises ValueError for what no template can make a name of.

        What is wrong with one of a mapped task's, ``execute`` says, where an error may be a skip. None is for who takes
        something else instead.
        """
        if not self.is_one_of_mapped:
            check_literal(operation_name)
        return operation_name

    def hook(self, *, endpoint: str | None = None) -> LongRunningOperationHook:
        """Return the hook for the connection; a context manager.

        :param endpoint: where the task itself names none.
        """
        return LongRunningOperationHook(
            self.lro_conn_id,
            endpoint=self.endpoint or endpoint,
            impersonation_chain=self.impersonation_chain,
            quota_project_id=self.quota_project_id,
        )


def names_of(value: object) -> list[str]:
    """Return the names from one of what ``name_of`` takes, or from a sequence of them."""
    return [name_of(item) for item in value] if are_many(value) else [name_of(value)]  # type: ignore[attr-defined]


def seconds(value: float | timedelta) -> float:
    """Return a duration in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def checked_wait_timeout(value: float | timedelta | None) -> float | None:
    """Return the ``wait_timeout`` of an operator in seconds; raises ValueError where it is none."""
    timeout = None if value is None else seconds(value)
    if timeout is not None and not is_number(timeout, least=0):
        raise ValueError(f"wait_timeout must be None or a number of seconds of at least 0, not {value!r}")
    return timeout


def checked_page_size(value: int | None) -> int | None:
    """Return the ``page_size`` of an operator; raises ValueError for a number that is none."""
    if isinstance(value, int | float) and not is_whole(value, least=1, most=2**31 - 1):
        raise ValueError(f"page_size must be None or a whole number from 1 to 2147483647, not {value!r}")
    return value


def earliest(*limits: float | timedelta | None) -> float | None:
    """Return the shortest of some limits in seconds; None where there is none."""
    return min((seconds(limit) for limit in limits if limit is not None), default=None)
