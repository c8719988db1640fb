"""When a wait for many operations is over. Floor 0: imports floor 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_lro._core.checks import is_whole
from airflow_provider_lro._core.commands import Pause

if TYPE_CHECKING:
    from collections.abc import Generator

    from airflow_provider_lro._core.commands import Answer, Command
    from airflow_provider_lro._core.outcome import Outcome

__all__ = ["Enough", "until_pause", "wanted_of"]


def wanted_of(wait_for: object) -> int:
    """Return how many successes ``wait_for`` asks for; 0 stands for all, to the end.

    Raises:
        ValueError: it is none of what it may be.
    """
    if wait_for == "all":
        return 0
    if wait_for == "any":
        return 1
    if is_whole(wait_for, least=1):
        return int(wait_for)  # type: ignore[call-overload,no-any-return]
    raise ValueError(f"wait_for must be 'all', 'any' or a whole number of at least 1, not {wait_for!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enough:
    """How many of ``total`` operations must succeed. ``wanted`` 0: all, and each is waited for, come what may."""

    total: int
    wanted: int = 0

    def is_met(self, succeeded: int) -> bool:
        """Tell whether so many successes are enough."""
        return succeeded >= (self.wanted or self.total)

    def is_over(self, *, succeeded: int, failed: int) -> bool:
        """Tell whether nothing that is still to come can change the verdict."""
        if succeeded + failed >= self.total:
            return True
        return bool(self.wanted) and (succeeded >= self.wanted or self.total - failed < self.wanted)


def until_pause(steps: Generator[Command, Answer, Outcome]) -> Generator[Command, Answer, Outcome | None]:
    """Do what a wait says up to its first pause; returns its outcome, or None where it would go on."""
    try:
        command = next(steps)
        while not isinstance(command, Pause):
            command = steps.send((yield command))
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    return None
