"""What a type checker makes of ``lro_task``: read by mypy alone (`make lint`), run by nobody.

An ignored error is one that must be there: mypy reports an ignore that is not needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

from airflow.sdk.bases.decorator import Task
from airflow.sdk.definitions.xcom_arg import XComArg

from airflow_provider_lro.decorators import lro_task

if TYPE_CHECKING:
    from google.longrunning.operations_pb2 import Operation


def start(table: str, *, rows: int = 0, request_id: str = "") -> Operation:
    raise NotImplementedError(table, rows, request_id)


@lro_task
def bare(table: str, /) -> str:
    return table


@lro_task(interval=5, wait_timeout=600, lro_conn_id="lro_default", retries=2, deferrable=True)
def configured(table: str, /) -> str:
    return table


@lro_task()
async def asynchronous(table: str, /) -> str:
    return table


assert_type(bare, Task[[str], str])
assert_type(configured, Task[[str], str])
assert_type(bare("t"), XComArg)
assert_type(configured("t"), XComArg)
assert_type(asynchronous("t"), XComArg)
assert_type(bare.expand(table=["a", "b"]), XComArg)
assert_type(configured.override(interval=1).partial(rows=1), Task[[str], str])
assert_type(bare.function("t"), str)
assert_type(lro_task(start)("t", rows=1), XComArg)
assert_type(lro_task(multiple_outputs=True)(start).function("t"), "Operation")

bare(1)  # type: ignore[arg-type]
configured()  # type: ignore[call-arg, misc]
lro_task(interval="a minute")  # type: ignore[call-overload]
lro_task("not a function")  # type: ignore[call-overload]
