"""Which errors a sensor turns into a skip: each kind of error against each of its three options."""

from __future__ import annotations

import inspect

import pytest

from airflow_provider_lro import exceptions
from airflow_provider_lro._core.outcome import is_skip
from airflow_provider_lro.exceptions import (
    CredentialsError,
    EndpointError,
    LroError,
    MalformedOperation,
    NoMetadataError,
    OperationCancelled,
    OperationFailed,
    OperationNotFound,
    OperationsFailed,
    OperationTimeout,
    PayloadTypeError,
    ResultGone,
    ResultRejected,
    RpcError,
    UnimplementedError,
)


def several(*errors: LroError) -> OperationsFailed:
    """Return the error of several operations."""
    return OperationsFailed("several", errors={f"operations/{number}": error for number, error in enumerate(errors)})


failed, cancelled, denied = OperationFailed("x"), OperationCancelled("x"), RpcError("x", code=7)
TABLE: list[tuple[str, Exception, bool, bool]] = [
    # what it is, the error; is it a skip with soft_fail=True, and with on_cancelled="skip"?
    ("failed", failed, True, False),
    ("cancelled", cancelled, True, True),
    ("not found", OperationNotFound("x"), True, False),
    ("done without a result", MalformedOperation("x"), True, False),
    ("rejected by a check", ResultRejected("x"), True, False),
    ("too late", OperationTimeout("x"), True, False),
    ("call refused", denied, False, False),
    ("succeeded, and the response is gone", ResultGone("x"), False, False),
    ("no credentials", CredentialsError("x"), False, False),
    ("no such method", UnimplementedError("x"), False, False),
    ("no such host", EndpointError("x"), False, False),
    ("no metadata", NoMetadataError("x"), False, False),
    ("of another type", PayloadTypeError("x"), False, False),
    ("any of ours", LroError("x"), False, False),
    ("not one of ours", ValueError("x"), False, False),
    ("several, all failed", several(failed, OperationNotFound("x")), True, False),
    ("several, all cancelled", several(cancelled, cancelled), True, True),
    ("several, failed and cancelled", several(failed, cancelled), True, False),
    ("several, one call refused", several(failed, cancelled, denied), False, False),
    ("several, and none named", several(), False, False),
    ("several of several", several(several(failed), failed), True, False),
    ("several of several, one call refused", several(several(denied), failed), False, False),
]


@pytest.mark.parametrize(("error", "soft", "cancels"), [pytest.param(*row[1:], id=row[0]) for row in TABLE])
def test_a_skip_is_by_error_and_options(error: Exception, soft: bool, cancels: bool) -> None:
    """soft_fail skips what is about the operation, on_cancelled a cancel by others, never_fail everything."""

    def skips(*, on_cancelled: str = "fail", soft_fail: bool = False, never_fail: bool = False) -> bool:
        return is_skip(error, on_cancelled=on_cancelled, soft_fail=soft_fail, never_fail=never_fail)

    assert skips() is False
    assert skips(soft_fail=True) is soft
    assert skips(on_cancelled="skip") is cancels
    assert skips(soft_fail=True, on_cancelled="skip") is (soft or cancels)
    assert skips(never_fail=True) is skips(never_fail=True, on_cancelled="skip") is True


def test_every_error_has_a_row() -> None:
    """An error that is added gets its row in the table."""
    kinds = {kind for kind in vars(exceptions).values() if inspect.isclass(kind) and issubclass(kind, LroError)}
    assert kinds == {type(error) for _, error, _, _ in TABLE if isinstance(error, LroError)}
