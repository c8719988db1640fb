"""What a watcher remembers of the finished operations it has announced. Floor 0: standard library alone.

Of each it keeps six bytes of a hash of its name, so that thousands fit into what Airflow stores for an asset. That two
of 10,000 agree by chance has a probability of two in ten million.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Finished", "digest_of", "key_of", "last_key", "pack", "seen_key", "unpack"]

SIZE = 6
"""Bytes of a digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A finished operation, as an asset event names it.

    ``outcome`` is ``"Succeeded"``, ``"Failed"`` or ``"Cancelled"``, or None where the listing does not tell;
    ``code`` the code of its error; ``end_time`` what its metadata calls so, if it has and we can read it.
    """

    name: str
    outcome: str | None
    code: int | None = None
    end_time: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as it is in an event."""
        values = {"code": self.code, "end_time": self.end_time}
        return {
            "name": self.name,
            "outcome": self.outcome,
            **{key: value for key, value in values.items() if value is not None},
        }


def digest_of(name: str) -> bytes:
    """Return what is remembered of an operation's name."""
    return blake2b(name.encode(errors="surrogatepass"), digest_size=SIZE).digest()


def pack(digests: Iterable[bytes]) -> str:
    """Return digests as text: eight characters for each."""
    return base64.b64encode(b"".join(sorted(digests))).decode("ascii")


def unpack(text: object) -> set[bytes]:
    """Return the digests of a text that ``pack`` has made.

    Raises:
        ValueError: it has not.
    """
    if not isinstance(text, str):
        raise ValueError(f"a text of packed digests was expected, not {type(text).__name__}")  # noqa: TRY004
    packed = base64.b64decode(text, validate=True)
    if len(packed) % SIZE:
        raise ValueError(f"{len(packed)} bytes are no whole number of digests")
    return {packed[start : start + SIZE] for start in range(0, len(packed), SIZE)}


def key_of(*watched: object) -> str:
    """Return the part of the store's keys that tells one watcher of an asset from another, by what it watches."""
    return blake2b(repr(watched).encode(errors="surrogatepass"), digest_size=8).hexdigest()


def seen_key(key: str) -> str:
    """Return the key of what was announced; the trigger writes it."""
    return f"lro:{key}:seen"


def last_key(key: str) -> str:
    """Return the key of what the last event has named; written with that event, in one transaction."""
    return f"lro:{key}:last"
