"""What a poll or a whole wait came to. Values only: floor 0, standard library alone.

``operation`` is whatever the caller wraps (here an ``Operation`` message); nothing on this floor looks inside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from airflow_provider_lro.exceptions import LroError

__all__ = ["Broken", "CancelEffect", "Cancelled", "Failed", "NotFound", "Outcome", "Running", "Succeeded", "TimedOut"]

CancelEffect: TypeAlias = Literal["none", "took effect", "asked", "refused"]
"""What a cancel at the deadline did: none was asked for, it took effect, it was accepted without effect so far, or
the service refused it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Not done yet."""

    operation: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """Done, with a response or (which is legal) with neither response nor error."""

    operation: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Done, with an error."""

    operation: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """Done, with the error CANCELLED (1)."""

    operation: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOut:
    """Not done at the deadline; it may still succeed.

    ``operation`` is its last known state, if any poll ever answered; ``error`` what the last poll failed with, if it
    did; ``cancel`` what asking to cancel did, and ``cancel_error`` what the service answered if it refused.
    """

    operation: Any = None
    error: LroError | None = None
    cancel: CancelEffect = "none"
    cancel_error: LroError | None = None

    @property
    def is_unseen(self) -> bool:
        """Whether the last poll had no turn, so that nobody has looked what had become of it by the deadline."""
        return bool(getattr(self.error, "unsent", False))


@dataclass(frozen=True, slots=True, kw_only=True)
class NotFound:
    """The service does not know the name (any more). ``operation`` is its last known state, if there was one."""

    error: LroError
    operation: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """The operation could not be read: what became of it is not known. ``operation`` is its last known state."""

    error: LroError
    operation: Any = None


Outcome: TypeAlias = Succeeded | Failed | Cancelled | TimedOut | NotFound | Broken
