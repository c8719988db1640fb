"""What is seen of a wait: in a terminal one line that changes in place, in a pipe plain lines. Floor 3."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_lro._core.commands import Cancel
from airflow_provider_lro._core.text import one_line
from airflow_provider_lro._messages.progress import describe
from airflow_provider_lro._runner.driver import moment
from airflow_provider_lro.cli.output import STATES, say
from airflow_provider_lro.exceptions import LroError, OperationNotFound

if TYPE_CHECKING:
    from airflow_provider_lro._core.commands import Command, Pause

__all__ = ["Display"]

TICK = 1.0
"""Seconds between two looks of the line in place."""
USUAL_WIDTH = 80
CLEAR = "\r\x1b[K"


class Display:
    """Shows a wait on stderr while it lasts: the journal of its driver, and its way to pause."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._in_place = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._started = time.monotonic()
        self._polls = 0
        self._said = ""

    def __enter__(self) -> Self:
        self._draw()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leave an empty line to what comes next."""
        if self._in_place:
            sys.stderr.write(CLEAR)
            sys.stderr.flush()

    @property
    def summary(self) -> str:
        """How long it has been, and in how many polls."""
        elapsed = timedelta(seconds=int(time.monotonic() - self._started))
        return f"{elapsed} elapsed, {self._polls} poll{'' if self._polls == 1 else 's'}"

    def note(self, command: Command, value: Any) -> None:
        """Hear of what the driver did, and what came of it."""
        if isinstance(command, Cancel):
            self._say("asked to cancel" if value is None else f"could not be asked to cancel: {value}")
        elif isinstance(value, LroError):
            self._polls += 1
            known = "not found so far" if isinstance(value, OperationNotFound) else f"a poll failed: {value}"
            self._say(known)
        elif value is not None:
            self._polls += 1
            progress = describe(value.operation)
            state = STATES[type(value)]
            self._say(f"{state}: {progress}" if progress else state)

    def pause(self, pause: Pause) -> None:
        """Let time pass; the line in place shows it."""
        end = time.monotonic() + moment(pause.window)
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, TICK) if self._in_place else left)
            self._draw()

    def _say(self, text: str) -> None:
        changed, self._said = text != self._said, text
        if self._in_place:
            self._draw()
        elif changed:
            say(f"operation {self._name!r}: {text}")

    def _draw(self) -> None:
        if self._in_place:
            sys.stderr.write(f"{CLEAR}{_cropped(one_line(f'{self.summary}  {self._said or self._name}'), _width())}")
            sys.stderr.flush()


def _width() -> int:
    """Return how many columns stderr has; shutil's function asks stdout, which may be a pipe."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        columns = 0
    return columns or USUAL_WIDTH


def _cropped(text: str, width: int) -> str:
    """Return what fits on a line of that width: a line that wraps cannot be cleared again."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) < width else f"{set_cell_size(text, width - 2)}…"
