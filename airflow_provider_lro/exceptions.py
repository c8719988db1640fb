"""The errors that this provider raises.

::

    LroError(AirflowException)
    ├── OperationFailed            the operation is done, with an error
    │   ├── OperationCancelled     … and the error is CANCELLED (1)
    │   └── ResultRejected         … no: it succeeded, and a check of the task rejects its result
    ├── OperationTimeout           not done at the deadline; it may still succeed
    ├── OperationsFailed           several operations of one call; carries an error for each
    ├── MalformedOperation         done without a result, where a result is required
    ├── NoMetadataError            metadata asked for, none there (Go's ErrNoMetadata)
    ├── PayloadTypeError           metadata or response of another type than the one asked for
    ├── RpcError                   a call failed; says nothing about the operation
    │   ├── OperationNotFound      … the service does not know the name (any more)
    │   ├── ResultGone             … the operation has succeeded, and its response cannot be read any more
    │   └── UnimplementedError     … the service does not have the method
    ├── CredentialsError           credentials missing, unusable or refused
    └── EndpointError              no such host, not TLS, wrong certificate, or a value that is not an endpoint
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_lro.version_compat import AirflowException

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "Code",
    "CredentialsError",
    "EndpointError",
    "LroError",
    "MalformedOperation",
    "NoMetadataError",
    "OperationCancelled",
    "OperationFailed",
    "OperationNotFound",
    "OperationTimeout",
    "OperationsFailed",
    "PayloadTypeError",
    "ResultGone",
    "ResultRejected",
    "RpcError",
    "UnimplementedError",
]

E = TypeVar("E", bound="LroError")

REPORT_FAULT = "this is a fault of airflow-provider-lro: please report it with the log of this task"


class Code(IntEnum):
    """The canonical status codes. Source: ``google/rpc/code.proto``."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @classmethod
    def of(cls, number: int) -> Code | int:
        """Return the code for a number; a number without a code stays an int."""
        try:
            return cls(number)
        except ValueError:
            return number


TRANSIENT_CODES = frozenset(
    {
        Code.UNAVAILABLE,
        Code.DEADLINE_EXCEEDED,
        Code.INTERNAL,
        Code.RESOURCE_EXHAUSTED,
        Code.ABORTED,
        Code.UNKNOWN,
        Code.CANCELLED,  # by a proxy: nobody else cancels a poll
    }
)


class LroError(AirflowException):
    """Any error of this provider.

    Args:
        text: the whole sentence that a log shows.
        code: the status code, where a service gave one; a number without a ``Code`` stays an int.
        message: the service's own text, unchanged; without it, ``text``.
        details: decoded ``google.rpc`` error details, each a JSON mapping with its ``@type``.
        operation: the operation as JSON, where one was read.

    Attributes:
        connected: whether the service could be connected to, where a call failed; None where that is not known.
        not_sent: no call was made, as there was no turn for it, or no connection in Airflow.
        too_large: the answer is larger than a triggerer reads, so that a worker is to read it.
    """

    connected: bool | None = None
    not_sent: bool = False
    too_large: bool = False

    def __init__(
        self,
        text: str,
        *,
        code: int | None = None,
        message: str | None = None,
        details: Sequence[Mapping[str, Any]] = (),
        operation: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(text)
        self.code = None if code is None else Code.of(code)
        self.message = text if message is None else message
        self.details = [dict(detail) for detail in details]
        self.operation = None if operation is None else dict(operation)

    @property
    def is_transient(self) -> bool:
        """Whether a later call may succeed where this one failed."""
        return False

    def as_type(self, kind: type[E], *, text: str | None = None) -> E:
        """Return the error, with all its fields, as one of another class, or with another text."""
        other = kind(text or str(self))
        vars(other).update(vars(self))
        return other


class OperationFailed(LroError):
    """The operation is done, with an error: ``code``, ``message`` and ``details`` are the operation's own."""


class OperationCancelled(OperationFailed):
    """The operation is done, with the error CANCELLED (1)."""


class ResultRejected(OperationFailed):
    """The operation has succeeded, but a check of the task says that its result is none. ``code`` is None."""


class OperationTimeout(LroError):
    """The operation was not done at the deadline. It goes on, and may still succeed, unless a cancel took effect.

    Attributes:
        cancel: the effect of asking to cancel: ``"none"`` (nobody asked), ``"asked"`` (accepted, without effect so
            far), ``"took effect"`` or ``"refused"``.
    """

    cancel: str = "none"


class OperationsFailed(LroError):
    """Several operations of one call failed.

    Args:
        text: the whole sentence that a log shows.
        errors: the error of each, by the operation's name.
    """

    def __init__(self, text: str, *, errors: Mapping[str, LroError] | None = None) -> None:
        super().__init__(text)
        self.errors = dict(errors or {})


class MalformedOperation(LroError):
    """The operation is done with neither response nor error, and a result was required."""


class NoMetadataError(LroError):
    """The operation has no metadata. Go's ``ErrNoMetadata``."""


class PayloadTypeError(LroError):
    """The metadata or the response is of another type than the one asked for."""


class RpcError(LroError):
    """A call failed. It says nothing about the operation, which may be running, done or gone.

    Attributes:
        retry_after: seconds that the service asked to wait before the next call (its ``RetryInfo``), or None.
        permanent: a repeat cannot help, although the code is one that usually passes.
    """

    retry_after: float | None = None
    permanent: bool = False

    @property
    def is_transient(self) -> bool:
        """Whether a later call may succeed where this one failed."""
        return self.code in TRANSIENT_CODES and not self.permanent


class OperationNotFound(RpcError):
    """The service does not know the name: never created, expired, deleted, or another service's."""


class ResultGone(RpcError):
    """The operation has succeeded, and the service does not know it any more, so that its response is lost."""


class UnimplementedError(RpcError):
    """The service does not have this method of google.longrunning.Operations."""


class CredentialsError(LroError):
    """Credentials are missing, cannot be used, or were refused; a repeat does not help.

    Attributes:
        not_loaded: this process could not load any; one that could before may again.
    """

    not_loaded: bool = False


class EndpointError(LroError):
    """The endpoint cannot be right: no such host, no TLS, a wrong certificate, or a value that is not an endpoint."""

    @property
    def is_transient(self) -> bool:
        """An endpoint that was right before may be again: name servers and certificates have outages."""
        return True
