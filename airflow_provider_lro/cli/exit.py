"""The exit codes, and what each says. Floor 3: the standard library alone."""

from __future__ import annotations

from enum import IntEnum
from typing import Self

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """How a command ended; ``text`` says it.

    1 is Python's and Airflow's own for whatever goes wrong, so no outcome has it. Those for a timeout and for a name
    that is not known are the numbers of DEADLINE_EXCEEDED and NOT_FOUND, the last two a shell's for SIGINT and SIGPIPE.
    """

    text: str

    def __new__(cls, number: int, text: str) -> Self:
        """Make a member of its number and its text."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.text = text
        return member

    DONE = 0, "done"
    OTHER = 1, "anything unforeseen, or No to the question of delete"
    USAGE = 2, "wrong usage"
    FAILED = 3, "the operation failed"
    TIMED_OUT = 4, "it was not done in time; its message says what a cancel has done, if one was asked for"
    NOT_FOUND = 5, "the service does not know the name (any more)"
    CANCELLED = 6, "the operation was cancelled"
    NOT_CALLED = 7, "a call failed: service, endpoint, credentials or connection"
    INTERRUPTED = 130, "Ctrl-C; the operation goes on"
    BROKEN_PIPE = 141, "nobody reads the output any more"
