"""Which finished operations the next asset event names, so that each is named in one, whatever ends the triggerer.

An event that a trigger yields is on its way for a second or so: through a queue of the trigger's process to its
supervisor, which stores it. If the processes end meanwhile, it may be stored or not, and nothing tells the trigger
which. So the event itself says so: ``_plugin`` stores what it names in the transaction that stores the event. What a
watcher has announced is therefore always the union of two texts in the asset's store: ``seen``, which the trigger
writes, and ``last``, which the last stored event has written. One event is on its way at a time. Floor 1: no I/O of its
own, and the clock is an argument.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_lro.assets._seen import Finished, last_key, pack, seen_key, unpack
from airflow_provider_lro.exceptions import LroError, OperationNotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

__all__ = ["Announcer", "AssetMemory", "Store"]

SETTLE = 10.0
"""Seconds between two events of a watcher. While a run for one event is still to be created, Airflow creates none for
the next: that would wait for the one after it."""
LONGEST_FLIGHT = 60.0
"""Seconds after which an event counts as stored that has left no trace in the store: our plugin is not loaded there."""
MOST_SEEN = 7_000
"""Digests that fit into the 64 KiB that Airflow stores of a value without complaint. Of more, those are dropped that
the service does not list any more."""
LARGEST_EVENT = 60 * 1024
"""Bytes of JSON for the operations of one event."""


log = logging.getLogger(__name__)


class Store(Protocol):
    """What is stored for one asset; Airflow's ``AssetStateStoreAccessor`` is one."""

    async def aget(self, key: str, default: Any = None) -> Any:
        """Return a value."""
        ...

    async def aset(self, key: str, value: Any) -> None:
        """Store a value."""
        ...


class AssetMemory:
    """What was announced, as the stores of all assets that a trigger serves have it; without any, nothing is."""

    def __init__(self, stores: Iterable[Store], key: str) -> None:
        self._stores = list(stores)
        self._key = key

    @property
    def lasting(self) -> bool:
        """Whether it outlives this process."""
        return bool(self._stores)

    async def recall(self) -> set[bytes] | None:
        """Return what was announced; None if nothing was ever stored.

        Raises:
            ValueError: what is stored is not ours.
        """
        found: set[bytes] | None = None
        for store in self._stores:
            for key in (seen_key(self._key), last_key(self._key)):
                text = await store.aget(key)
                if text is None:
                    continue
                try:
                    found = (found or set()) | unpack(text)
                except ValueError as error:
                    raise ValueError(
                        f"the asset's state store holds under {key!r} what no watcher has written ({error}); delete it,"
                        " and watching begins anew"
                    ) from error
        return found

    async def save(self, seen: set[bytes]) -> None:
        """Store what was announced."""
        for store in self._stores:
            await store.aset(seen_key(self._key), pack(seen))


class Announcer:
    """Tells what to announce next.

    Args:
        memory: what was announced.
        outcomes: those that are announced.
        existing: announce also what was finished when the parent was first looked at, ever.
        read: what to ask for an operation of which the listing does not tell the outcome; None, or an LroError, if it
            cannot be told now.
        clock: seconds; never steps back.
        sleep: lets seconds pass.
    """

    def __init__(
        self,
        memory: AssetMemory,
        *,
        outcomes: frozenset[str],
        existing: bool,
        read: Callable[[str], Awaitable[Finished | None]],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._memory = memory
        self._outcomes = outcomes
        self._existing = existing
        self._read = read
        self._clock = clock
        self._sleep = sleep
        self._begun = False
        self._seen: set[bytes] = set()
        self._saved: set[bytes] | None = None
        self._waiting: dict[bytes, Finished] = {}
        self._unread: set[bytes] = set()
        self._gone: set[bytes] = set()
        self._flying: frozenset[bytes] = frozenset()
        self._quiet_until = 0.0

    async def next(self, finished: Mapping[bytes, Finished]) -> list[dict[str, Any]]:
        """Return the operations of the next event, [] for none; to be asked again until there is none.

        What is returned must be yielded.

        Args:
            finished: the finished operations that the service lists, by their digests.

        Raises:
            ValueError: what is stored is not ours. This and what the store raises leave everything as it was.
        """
        if not self._begun:
            await self._begin(finished)
        for digest, operation in finished.items():  # what is deleted before its turn is announced, too
            known = digest in self._seen or digest in self._flying
            if not known and (operation.outcome is None or operation.outcome in self._outcomes):
                self._waiting.setdefault(digest, operation)
        now = self._clock()
        if now < self._quiet_until:
            if not self._waiting:
                return []
            await self._sleep(self._quiet_until - now)
        if self._flying and not await self._landed(finished):
            return []
        batch = await self._batch(finished) if self._waiting else {}
        self._flying = frozenset(batch)
        if batch:
            self._quiet_until = self._clock() + SETTLE
        return list(batch.values())

    async def _begin(self, finished: Mapping[bytes, Finished]) -> None:
        stored = await self._memory.recall()
        if stored is None:
            stored = set() if self._existing else set(finished)
            # This also fails, and all begins again, where the store only seemed to be empty.
            await self._memory.save(stored)
            self._saved = set(stored)
        else:
            # What this trigger yielded in another process, or before it was started anew, may be on its way.
            self._quiet_until = self._clock() + SETTLE
        self._seen = stored
        self._begun = True

    async def _landed(self, finished: Mapping[bytes, Finished]) -> bool:
        """Tell whether the event on its way is stored, and remember what it has named."""
        stored = await self._memory.recall() or set()
        if self._memory.lasting and not self._flying <= stored:
            if self._clock() < self._quiet_until - SETTLE + LONGEST_FLIGHT:
                return False
            log.warning("an asset event has left no trace: does the triggerer load the plugin of airflow-provider-lro?")
        seen = _pruned(self._seen | stored | self._flying, finished)
        await self._remember(seen)
        self._flying = frozenset()
        return True

    async def _batch(self, finished: Mapping[bytes, Finished]) -> dict[bytes, dict[str, Any]]:
        """Take from those that wait as many as fit into an event."""
        # Another triggerer may have had this trigger meanwhile: this one stalled, and its triggers were given away.
        seen = self._seen | (await self._memory.recall() or set())
        batch: dict[bytes, dict[str, Any]] = {}
        size = 0
        for digest, listed in self._waiting.items():
            if digest in seen:
                continue
            operation = listed if listed.outcome is not None else await self._asked(digest, listed.name)
            if operation is None:
                if digest in self._gone and digest not in finished:
                    seen.add(digest)
                continue
            if operation.outcome not in self._outcomes:
                seen.add(digest)
                continue
            named = operation.to_json()
            size += len(json.dumps(named)) + 2
            if batch and size > LARGEST_EVENT:
                break
            batch[digest] = named
        # The next event overwrites what the last one has noted.
        await self._remember(_pruned(seen, finished))
        self._waiting = {
            digest: operation
            for digest, operation in self._waiting.items()
            if digest not in seen and digest not in batch
        }
        self._gone &= self._waiting.keys()
        self._unread &= self._waiting.keys()
        return batch

    async def _asked(self, digest: bytes, name: str) -> Finished | None:
        """Ask for an operation; None while its outcome cannot be told, which is logged once."""
        try:
            return await self._read(name)
        except LroError as error:
            if isinstance(error, OperationNotFound):
                self._gone.add(digest)
            if digest not in self._unread:
                log.warning("operation %r is listed as done, and cannot be read: %s", name, error)
            self._unread.add(digest)
            return None

    async def _remember(self, seen: set[bytes]) -> None:
        if seen != self._saved:
            await self._memory.save(seen)
        self._seen, self._saved = seen, set(seen)


def _pruned(seen: set[bytes], finished: Mapping[bytes, Finished]) -> set[bytes]:
    return seen if len(seen) <= MOST_SEEN else seen & finished.keys()
