"""Text that comes from elsewhere: whether it can be sent, and how it is fit to be shown.

Floor 0: the standard library alone.
"""

from __future__ import annotations

from typing import TypeGuard

__all__ = ["LONGEST_LINE", "LONGEST_SAID", "is_text", "one_line", "without_user"]

LONGEST_LINE = 400
"""Characters of a line."""
LONGEST_SAID = 2000
"""Characters of what a service said in the text of an error; its ``message`` has all of them."""


def is_text(value: object) -> TypeGuard[str]:
    """Tell whether a value is text that can be sent: UTF-8 has no lone surrogates."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def without_user(text: str) -> str:
    """Return how an address that is wrong is shown: without a user and a password that stand before its host."""
    before, at, host = text.rpartition("@")
    return f"{'…@' if before else at}{host}"


def one_line(text: str, longest: int = LONGEST_LINE) -> str:
    """Return a text fit for a log: one line, printable (no control or direction characters), of bounded length."""
    text = text[: 4 * longest]  # the rest cannot be seen, however much of this is space
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else " " for letter in text)
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
