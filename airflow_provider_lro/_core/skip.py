"""Which errors a sensor turns into a skip: written once, for the worker and for the triggerer.

Floor 0: imports ``exceptions``.
"""

from __future__ import annotations

from airflow_provider_lro.exceptions import (
    MalformedOperation,
    OperationCancelled,
    OperationFailed,
    OperationNotFound,
    OperationsFailed,
    OperationTimeout,
)

__all__ = ["ABOUT_OPERATION", "is_skip"]

ABOUT_OPERATION = (OperationFailed, OperationNotFound, MalformedOperation, OperationTimeout)
"""What says something about the operation itself; all other errors are about reaching it."""


def is_skip(error: Exception, *, on_cancelled: str, soft_fail: bool, never_fail: bool) -> bool:
    """Tell whether an error of a wait is a skip; the arguments are the sensor's."""
    if never_fail or (isinstance(error, OperationCancelled) and on_cancelled == "skip"):
        return True
    if isinstance(error, OperationsFailed):  # that one of them is none makes a failure of all
        return bool(error.errors) and all(
            is_skip(each, on_cancelled=on_cancelled, soft_fail=soft_fail, never_fail=never_fail)
            for each in error.errors.values()
        )
    return soft_fail and isinstance(error, ABOUT_OPERATION)
