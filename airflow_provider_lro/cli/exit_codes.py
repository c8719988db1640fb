"""The exit codes of the commands, with their texts; the standard library alone."""

from __future__ import annotations

from enum import IntEnum
from typing import Self

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """The end of a command; ``text`` says it.

    1 is Python's and Airflow's own code for any error, so no outcome has it. 4 and 5 are the numbers of
    DEADLINE_EXCEEDED and NOT_FOUND; 130 and 141 are a shell's for SIGINT and SIGPIPE.
    """

    text: str

    def __new__(cls, number: int, text: str) -> Self:
        """Make a member of its number and its text."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.text = text
        return member

    DONE = 0, "done"
    OTHER = 1, "an unexpected error, or the answer No to the question of delete"
    USAGE = 2, "wrong usage"
    FAILED = 3, "the operation failed"
    TIMED_OUT = 4, "the operation was not done in time; the error says whether it was cancelled"
    NOT_FOUND = 5, "the service does not know the operation, or does not know it any more"
    CANCELLED = 6, "the operation was cancelled"
    CALL_FAILED = 7, "a call failed: service, endpoint, credentials or connection"
    INTERRUPTED = 130, "Ctrl-C; the operation goes on"
    BROKEN_PIPE = 141, "the program that reads the output has ended"
