"""Operators that start, wait for, cancel, delete, get and list operations of any service."""

from __future__ import annotations

from airflow_provider_lro.operators.cleanup import CancelStaleOperationsOperator, DeleteFinishedOperationsOperator
from airflow_provider_lro.operators.manage import (
    CancelOperationOperator,
    DeleteOperationOperator,
    GetOperationOperator,
    ListOperationsOperator,
)
from airflow_provider_lro.operators.start import StartOperationOperator

__all__ = [
    "CancelOperationOperator",
    "CancelStaleOperationsOperator",
    "DeleteFinishedOperationsOperator",
    "DeleteOperationOperator",
    "GetOperationOperator",
    "ListOperationsOperator",
    "StartOperationOperator",
]
