"""What is done about an operation whose task was killed: ask to cancel it, in bounded time.

A generator like the wait, for the same two drivers. Floor 0: imports floor 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_lro._core.commands import Cancel, Pause
from airflow_provider_lro._core.schedule import Window
from airflow_provider_lro._core.wait import SHORTEST_CALL, is_transient

if TYPE_CHECKING:
    from collections.abc import Generator

    from airflow_provider_lro._core.commands import Answer, Command

__all__ = ["cancel"]

BETWEEN_TRIES = Window(shortest=0.25, longest=0.5)
"""Seconds: a kill waits for nobody."""


def cancel(*, now: float, within: float) -> Generator[Command, Answer, bool]:
    """Ask to cancel until the service has heard it, refused it, or the time is over.

    What the service answers is logged by the driver; an operation that is gone or done, or a service that cannot
    cancel, is nothing to fail over.

    Args:
        now: epoch seconds, by the clock of the answers.
        within: seconds that all of it may take.

    Returns:
        Whether the service has accepted it, as the generator's return value.
    """
    end = now + within
    while True:
        now, refusal = yield Cancel(because="its task was killed", timeout=max(SHORTEST_CALL, end - now))
        if refusal is None:
            return True
        if not is_transient(refusal) or now + BETWEEN_TRIES.longest + SHORTEST_CALL > end:
            return False
        now, _ = yield Pause(window=BETWEEN_TRIES)
