"""Values that are kept for each event loop, and forgotten when the loop is closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = ["forget_closed"]


def forget_closed(kept: dict[Any, Any]) -> None:
    """Delete the values of closed event loops.

    Args:
        kept: by the loop, or by a tuple that begins with it.
    """
    for key in list(kept):
        loop: asyncio.AbstractEventLoop = key[0] if isinstance(key, tuple) else key
        if loop.is_closed():
            del kept[key]
