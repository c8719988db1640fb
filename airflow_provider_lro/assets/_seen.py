"""The store of announced operations, so that each finished operation is announced at least once.

An event that a trigger yields is not stored at once: the supervisor of the triggerer takes events from the trigger's
process about once a second. Nothing tells the trigger when that has happened. So an operation is stored as announced
only some time after its event was yielded. A triggerer that dies in between announces the operation again.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from airflow_provider_lro.exceptions import LroError, OperationNotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

EVENT_SPACING = 10.0
"""Seconds from one event of a watcher to the next, and until an event counts as stored.

Airflow 3.3 still needs the distance: while an asset is queued for a run (``AssetDagRunQueue``), a second event does not
queue it again, and the run takes only events up to the moment of the first. The second one would then wait for a third.
It is also ten times what the supervisor needs to store an event."""
DIGEST_SIZE = 6
"""Bytes. The probability that two of 10,000 names have the same digest is two in ten million."""
MAX_SEEN = 7_000
"""Digests that fit into the 64 KiB up to which Airflow stores a value without a warning. If there are more, those are
dropped that the service does not list any more."""
MAX_OPERATIONS_SIZE = 60 * 1024
"""Bytes of JSON for the operations of one event."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A finished operation, as an asset event describes it.

    ``outcome`` is ``"Succeeded"``, ``"Failed"`` or ``"Cancelled"``, or None where the listing does not say; ``code`` is
    the code of its error; ``end_time`` is in the metadata of some operations.
    """

    name: str
    outcome: str | None
    code: int | None = None
    end_time: str | None = None


def digest_of(name: str) -> bytes:
    """Return the digest of an operation's name."""
    return blake2b(name.encode(errors="surrogatepass"), digest_size=DIGEST_SIZE).digest()


class SeenStore:
    """The digests of announced operations, in the stores of all assets that a trigger serves.

    Args:
        stores: Airflow's ``AssetStateStoreAccessor`` of each; none below Airflow 3.3, where nothing is remembered.
        watched: the arguments that make a watcher another one, with a store of its own.
    """

    def __init__(self, stores: Iterable[Any], watched: Iterable[object]) -> None:
        self._stores = list(stores)
        text = repr(tuple(watched)).encode(errors="surrogatepass")
        self._key = f"lro:{blake2b(text, digest_size=8).hexdigest()}:seen"

    async def load(self) -> set[bytes] | None:
        """Return the digests of the announced operations; None if nothing was ever stored.

        Raises:
            ValueError: something else is stored under our key.
        """
        texts = [text for store in self._stores if (text := await store.aget(self._key)) is not None]
        return set().union(*map(self._unpack, texts)) if texts else None

    async def save(self, seen: set[bytes]) -> None:
        """Store the digests of the announced operations: eight characters for each."""
        text = base64.b64encode(b"".join(sorted(seen))).decode("ascii")
        for store in self._stores:
            await store.aset(self._key, text)

    def _unpack(self, text: Any) -> set[bytes]:
        packed = b"?"
        with suppress(TypeError, ValueError):
            packed = base64.b64decode(text, validate=True)
        if len(packed) % DIGEST_SIZE:
            raise ValueError(
                f"the asset's state store holds {str(text)[:80]!r} under {self._key!r}, but a text in Base64 that a"
                " watcher has written was expected: delete this key, and watching begins anew"
            )
        return {packed[start : start + DIGEST_SIZE] for start in range(0, len(packed), DIGEST_SIZE)}


class EventDeduplicator:
    """The choice of the operations that the next event announces.

    Args:
        store: the announced operations.
        outcomes: those that are announced.
        announce_existing: also announce the operations that had finished at the first listing ever.
        read: gets an operation whose outcome the listing does not say; returns None, or raises an LroError, if that
            is not possible now.
        max_sleep: seconds that ``next_event`` may sleep to keep events apart.
    """

    def __init__(
        self,
        store: SeenStore,
        *,
        outcomes: frozenset[str],
        announce_existing: bool,
        read: Callable[[str], Awaitable[Finished | None]],
        max_sleep: float,
    ) -> None:
        self._store = store
        self._outcomes = outcomes
        self._announce_existing = announce_existing
        self._read = read
        self._max_sleep = max_sleep
        self._clock = asyncio.get_running_loop().time
        self._seen: set[bytes] | None = None
        self._announced: set[bytes] = set()  # by the last event, and not stored yet
        self._waiting: dict[bytes, Finished] = {}
        self._unreadable: set[bytes] = set()
        self._quiet_until = 0.0

    async def next_event(self, finished: Mapping[bytes, Finished]) -> list[dict[str, Any]]:
        """Return the operations of the next event, [] for no event; to be called until there is none.

        The caller must yield what is returned. Without a call, the last event is never stored as announced.

        Args:
            finished: the finished operations that the service lists, by their digests.

        Raises:
            ValueError: what is stored is not ours. After this, and after what the store raises, the next call tries
                the same again.
        """
        if self._seen is None:
            self._seen = await self._begin(finished)
        from airflow_provider_lro._transport.limiter import Slices

        slices = Slices()
        for digest, operation in finished.items():  # an operation that is deleted before its turn is announced, too
            await slices.next()
            known = digest in self._seen or digest in self._announced
            if not known and (operation.outcome is None or operation.outcome in self._outcomes):
                self._waiting.setdefault(digest, operation)
        quiet = self._quiet_until - self._clock()
        if not (self._waiting or self._announced) or quiet > self._max_sleep:
            return []
        if quiet > 0.0:
            await asyncio.sleep(quiet)
        # Another triggerer may have had this trigger meanwhile: this one stalled, and its triggers were given away.
        seen = self._seen | self._announced | (await self._store.load() or set())
        event = await self._choose(seen, finished)
        waiting = {key: each for key, each in self._waiting.items() if key not in seen and key not in event}
        if len(seen) > MAX_SEEN:
            seen &= finished.keys()
        if seen != self._seen:
            await self._store.save(seen)
        self._seen, self._announced, self._waiting = seen, set(event), waiting
        self._unreadable &= self._waiting.keys()
        if event:
            self._quiet_until = self._clock() + EVENT_SPACING
        return list(event.values())

    async def _begin(self, finished: Mapping[bytes, Finished]) -> set[bytes]:
        stored = await self._store.load()
        if stored is None:
            stored = set() if self._announce_existing else set(finished)
            # So that the next start is not taken for the first one. It also fails where the store only seems empty.
            await self._store.save(stored)
        else:  # the last event of another process may have been yielded a moment ago
            self._quiet_until = self._clock() + EVENT_SPACING
        return stored

    async def _choose(self, seen: set[bytes], finished: Mapping[bytes, Finished]) -> dict[bytes, dict[str, Any]]:
        """Return as many of those that wait as fit into an event; add to ``seen`` those that are never announced."""
        event: dict[bytes, dict[str, Any]] = {}
        size = 0
        for digest, operation in self._waiting.items():
            if digest in seen:
                continue
            if operation.outcome is None:
                try:
                    read = await self._read(operation.name)
                except LroError as error:
                    if digest not in self._unreadable:
                        log.warning("listed as done, but cannot be read: %s [operation %r]", error, operation.name)
                    self._unreadable.add(digest)
                    if isinstance(error, OperationNotFound) and digest not in finished:
                        seen.add(digest)  # deleted: nobody can say any more how it ended
                    continue
                if read is None:
                    continue
                operation = read  # noqa: PLW2901
            if operation.outcome not in self._outcomes:
                seen.add(digest)
                continue
            described = {key: value for key, value in asdict(operation).items() if value is not None}
            size += len(json.dumps(described)) + 2
            if event and size > MAX_OPERATIONS_SIZE:
                break
            event[digest] = described
        return event
