"""The outcome of a wait, of many waits together, and the rule that makes a skip of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from airflow_provider_lro._core.checks import is_whole
from airflow_provider_lro.exceptions import (
    LroError,
    MalformedOperation,
    OperationCancelled,
    OperationFailed,
    OperationNotFound,
    OperationsFailed,
    OperationTimeout,
)

if TYPE_CHECKING:
    from airflow_provider_lro._core.state import OperationState

CancelEffect: TypeAlias = Literal["none", "took effect", "asked", "refused"]
"""The effect of a cancel at the deadline: nobody asked, it took effect, it was accepted without effect so far, or the
service refused it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """Done, with a response or (which is legal) with neither response nor error.

    ``operation`` is None where it was too large to be kept, here and in the other two that are done.
    """

    word: ClassVar[str] = "succeeded"
    operation: OperationState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Done, with an error."""

    word: ClassVar[str] = "failed"
    operation: OperationState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """Done, with the error CANCELLED (1)."""

    word: ClassVar[str] = "cancelled"
    operation: OperationState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOut:
    """Not done at the deadline; it may still succeed.

    ``operation`` is its last known state, if any poll ever answered; ``error`` that of the last poll, if it failed;
    ``cancel`` the effect of asking to cancel, and ``cancel_error`` the service's refusal.
    """

    word: ClassVar[str] = "timed_out"
    operation: OperationState | None = None
    error: LroError | None = None
    cancel: CancelEffect = "none"
    cancel_error: LroError | None = None

    @property
    def is_undecided(self) -> bool:
        """Whether the poll at the deadline was never sent, or not read: the operation may have ended long before."""
        return self.error is not None and (self.error.not_sent or self.error.too_large)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotFound:
    """The service does not know the name (any more). ``operation`` is its last known state, if there was one."""

    word: ClassVar[str] = "not_found"
    error: LroError
    operation: OperationState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFailed:
    """The operation could not be read: whether it is done is not known. ``operation`` is its last known state."""

    word: ClassVar[str] = "call_failed"
    error: LroError
    operation: OperationState | None = None

    @property
    def is_undecided(self) -> bool:
        """Whether it is left to a worker, as the answer is larger than a triggerer reads."""
        return self.error.too_large


Done: TypeAlias = Succeeded | Failed | Cancelled
Outcome: TypeAlias = Succeeded | Failed | Cancelled | TimedOut | NotFound | CallFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """The number of ``total`` operations that must succeed. ``wanted`` 0: all, and each is waited for to its end."""

    total: int
    wanted: int = 0

    @staticmethod
    def wanted_by(wait_for: object) -> int:
        """Return how many successes ``wait_for`` asks for; 0 for all, to the end.

        Raises:
            ValueError: it is not "all", "any" or a whole number of at least 1.
        """
        if wait_for == "all":
            return 0
        if wait_for == "any":
            return 1
        if is_whole(wait_for, least=1):
            return int(wait_for)  # type: ignore[call-overload,no-any-return]
        raise ValueError(f'wait_for={wait_for!r}, but it must be "all", "any" or a whole number of at least 1')

    def is_met(self, succeeded: int) -> bool:
        """Return True if so many successes are enough."""
        return succeeded >= (self.wanted or self.total)

    def is_over(self, *, succeeded: int, failed: int, undecided: int = 0) -> bool:
        """Return True if nothing that is still to come can change the verdict; ``undecided`` are left to a worker."""
        if succeeded + failed + undecided >= self.total:
            return True
        return bool(self.wanted) and (succeeded >= self.wanted or self.total - failed < self.wanted)


ABOUT_OPERATION = (OperationFailed, OperationNotFound, MalformedOperation, OperationTimeout)
"""Errors that say something about the operation itself; all others are about reaching it."""


def is_skip(error: Exception, *, on_cancelled: str, soft_fail: bool, never_fail: bool) -> bool:
    """Return True if an error of a wait is a skip; the arguments are the sensor's."""
    if never_fail or (isinstance(error, OperationCancelled) and on_cancelled == "skip"):
        return True
    if isinstance(error, OperationsFailed):  # one that is not a skip makes a failure of all
        return bool(error.errors) and all(
            is_skip(each, on_cancelled=on_cancelled, soft_fail=soft_fail, never_fail=never_fail)
            for each in error.errors.values()
        )
    return soft_fail and isinstance(error, ABOUT_OPERATION)
