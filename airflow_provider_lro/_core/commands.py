"""What a wait wants done, and what it is told of it. Values only: floor 0, imports floor 0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from airflow_provider_lro._core.schedule import Window

__all__ = ["Answer", "Cancel", "Command", "Get", "Pause"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Get:
    """Poll the operation, within ``timeout`` seconds.

    ``queue``: seconds that it may wait for its turn besides, where many waits share what they poll through.
    ``prompt``: that nobody is there is worth an answer at once. ``hold``: seconds for which the server may be asked to
    hold the answer until the operation is done; 0 for an ordinary poll. ``listed``: a listing will do, if it is as
    fresh as a poll would be. The answer's value: Running, Succeeded, Failed, Cancelled or an LroError.
    """

    timeout: float
    queue: float = math.inf
    prompt: bool = False
    hold: float = 0.0
    listed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Let time pass, to any moment of the window.

    ``final`` pauses are short ones, after a cancel at the deadline. ``errors`` counts the polls that failed in a row.
    ``listed``: the backoff is over, so the next listing will do. ``delayed``: seconds by which a server's RetryInfo
    makes it longer than the schedule would.
    """

    window: Window
    final: bool = False
    errors: int = 0
    listed: bool = False
    delayed: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Ask to cancel, within ``timeout`` seconds (None: those of a call). The answer's value: None, or an LroError."""

    because: str = "its time is up"
    timeout: float | None = None


Command: TypeAlias = Get | Pause | Cancel


class Answer(NamedTuple):
    """What came of a command, and when: epoch seconds by one clock that never steps back.

    A tuple, so that the policy takes it apart as it comes: a sleeping wait keeps nothing that it does not need.
    """

    now: float
    value: Any = None
