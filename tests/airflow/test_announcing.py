"""Each finished operation in exactly one event, whenever the triggerer is killed: in virtual time, against a model."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_lro.assets import _announcing
from airflow_provider_lro.assets._announcing import LARGEST_EVENT, LONGEST_FLIGHT, SETTLE, Announcer, AssetMemory
from airflow_provider_lro.assets._seen import Finished, digest_of, last_key, pack, seen_key
from airflow_provider_lro.exceptions import LroError, OperationNotFound, RpcError

KEY = "watched"


class Away(Exception):
    """The store does not answer; or, which is the same to it, its caller is dead."""


class Values:
    """One asset's store."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.fails_in: int | None = None

    async def aget(self, key: str, default: Any = None) -> Any:
        self._called()
        return self.values.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        self._called()
        self.values[key] = value

    def _called(self) -> None:
        if self.fails_in is not None:
            self.fails_in -= 1
            if self.fails_in < 0:
                self.fails_in = None
                raise Away


class World:
    """The service, the database, and one process of a triggerer at a time.

    Events wait in the process until ``sync``; a kill loses them.
    """

    def __init__(self, *, assets: int = 1, plugin: bool = True, **kwargs: Any) -> None:
        self.now = 0.0
        self.listed: dict[bytes, Finished] = {}
        self.stores = [Values() for _ in range(assets)]
        self.plugin = plugin
        self.kwargs = kwargs
        self.events: list[list[str]] = []
        self.at: list[float] = []
        self.singly: dict[str, Finished] = {}
        self.errors: dict[str, LroError] = {}
        self.asked: list[str] = []
        self.kill()

    def kill(self) -> None:
        self.queue: list[list[dict[str, Any]]] = []
        given = {"outcomes": frozenset({"Succeeded", "Failed"}), "existing": False, **self.kwargs}
        self.announcer = Announcer(
            AssetMemory(self.stores, KEY), **given, read=self.read, clock=lambda: self.now, sleep=self.sleep
        )

    async def read(self, name: str) -> Finished | None:
        self.asked.append(name)
        if name in self.errors:
            raise self.errors[name]
        return self.singly.get(name)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.sync()  # Airflow takes what was yielded once a second

    def finish(self, *names: str, outcome: str | None = "Succeeded") -> None:
        self.listed |= {digest_of(name): Finished(name=name, outcome=outcome) for name in names}

    def look(self, *, lands: bool = True) -> None:
        """One listing, and what the trigger makes of it; the last event may stay on its way."""

        async def yield_all() -> None:
            while operations := await self.announcer.next(dict(self.listed)):
                self.queue.append(operations)
                self.at.append(self.now)

        asyncio.run(yield_all())
        if lands:
            self.sync()

    def sync(self) -> None:
        """Store the events, each in one transaction with what the plugin notes."""
        for operations in self.queue:
            names = [operation["name"] for operation in operations]
            self.events.append(names)
            for store in self.stores if self.plugin else ():
                store.values[last_key(KEY)] = pack({digest_of(name) for name in names})
        self.queue = []

    @property
    def named(self) -> list[str]:
        return sorted(name for event in self.events for name in event)


STEPS = st.lists(
    st.sampled_from(
        [
            ("finish", 1),
            ("finish", 3),
            ("look", True),
            ("look", False),
            ("kill", True),
            ("kill", False),
            *(("die", calls) for calls in range(6)),
            *(("fail", calls) for calls in range(6)),
            ("wait", 0.3),
            ("wait", 12.0),
        ]
    ),
    min_size=3,
    max_size=40,
)


@given(STEPS, st.integers(1, 2))
@settings(deadline=None, max_examples=300)
def test_each_is_named_once_whenever_it_is_killed(steps: list[tuple[str, Any]], assets: int) -> None:
    """Before an event is stored or after, with another on its way or none: none is lost, none is named twice."""
    world = World(assets=assets)
    world.finish("before")
    world.look()
    finished = 0
    for step, how in steps:
        if step == "finish":
            world.finish(*(f"o{finished + number}" for number in range(how)))
            finished += how
        elif step == "look":
            world.look(lands=how)
        elif step == "wait":
            world.sync()  # whoever lives that long has handed over what it had
            world.now += how
        elif step in ("die", "fail"):
            world.stores[-1].fails_in = how
            try:
                world.look()
            except Away:
                if step == "die":
                    world.kill()
            world.stores[-1].fails_in = None
        else:
            if how:
                world.sync()
            world.kill()
    for _ in range(3):
        world.now += 60.0
        world.look()
    assert world.named == sorted(f"o{number}" for number in range(finished))


def test_what_was_finished_before_is_announced_if_asked_for() -> None:
    """The first look of all is what `announce_existing` is about; a restart is no first look."""
    for existing in (True, False):
        world = World(existing=existing)
        world.finish("old")
        world.look()
        world.kill()
        world.now += 60.0
        world.finish("new")
        world.look()
        assert world.named == (["new", "old"] if existing else ["new"])


def test_events_keep_their_distance_and_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into one event is in the next ones, ten seconds apart; a name too long for any has its own."""
    world = World()
    world.look()
    names = [f"{number:04}-{'x' * 500}" for number in range(300)] + ["y" * (LARGEST_EVENT + 1)]
    world.finish(*names)
    world.look()
    assert world.named == sorted(names)
    assert len(world.events) >= 4
    assert min(later - earlier for earlier, later in zip(world.at, world.at[1:], strict=False)) >= SETTLE


def test_restart_keeps_the_distance_too() -> None:
    """The event before the kill may still be waiting for its run."""
    world = World()
    world.look()
    world.finish("a")
    world.look()
    world.kill()
    world.finish("b")
    world.look()
    assert world.named == ["a", "b"]
    assert world.at[1] - world.at[0] >= SETTLE


def test_without_the_plugin_all_are_named() -> None:
    """An event that leaves no trace is taken for stored after a minute; what comes meanwhile waits for that."""
    world = World(plugin=False)
    world.look()
    world.finish("a")
    world.look()
    world.now += SETTLE
    world.finish("b")
    world.look()
    assert world.named == ["a"]
    world.now += LONGEST_FLIGHT
    world.look()
    world.now += LONGEST_FLIGHT + SETTLE
    world.look()
    world.kill()
    world.now += SETTLE
    world.look()
    assert world.named == ["a", "b"]


def test_without_a_store_nothing_outlives_the_process() -> None:
    """Below Airflow 3.3: each is named once, and a restart begins anew."""
    world = World(assets=0)
    world.look()
    for name in ("a", "b"):
        world.finish(name)
        world.look()
        world.now += SETTLE
    world.kill()
    world.finish("c")
    world.look()
    assert world.named == ["a", "b"]


def test_only_wanted_outcomes_are_named() -> None:
    """Where the listing does not tell the outcome, the operation does; while it cannot, it waits."""
    world = World()
    world.look()
    world.finish("cancelled", outcome="Cancelled")
    world.finish("untold", "secretly-cancelled", outcome=None)
    world.singly["secretly-cancelled"] = Finished(name="secretly-cancelled", outcome="Cancelled")
    world.look()
    assert world.named == []
    world.singly["untold"] = Finished(name="untold", outcome="Failed", code=3)
    world.look()
    assert world.named == ["untold"]


def test_what_is_deleted_before_its_turn_is_named() -> None:
    """An operation that finishes while an event is on its way, and is deleted then, is in the next event."""
    world = World()
    world.look()
    world.finish("a")
    world.look(lands=False)
    world.finish("b")
    world.sync()
    world.look()
    world.listed.clear()
    world.now += SETTLE
    world.look()
    assert world.named == ["a", "b"]


def test_digests_of_what_is_gone_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what fits, those go that are listed no more; a kill after that still names none twice."""
    monkeypatch.setattr(_announcing, "MOST_SEEN", 5)
    world = World()
    world.look()
    for number in range(20):
        world.listed.clear()
        world.finish(*(f"o{each}" for each in range(max(0, number - 2), number + 1)))
        world.now += SETTLE
        world.look()
        world.kill()
    world.now += SETTLE
    world.look()
    assert world.named == sorted(f"o{number}" for number in range(20))
    assert len(world.stores[0].values[seen_key(KEY)]) <= 8 * 7


def test_foreign_value_is_an_error_that_says_what_to_do() -> None:
    """What is not ours is not overwritten, and not taken for nothing."""
    world = World()
    world.stores[0].values[seen_key(KEY)] = {"not": "ours"}
    with pytest.raises(ValueError, match="delete it"):
        world.look()
    assert world.stores[0].values == {seen_key(KEY): {"not": "ours"}}


def test_what_is_gone_before_it_is_read_is_given_up() -> None:
    """What is listed as done, and then neither listed nor known, has no outcome that could ever be told."""
    world = World()
    world.look()
    world.finish("gone", outcome=None)
    world.errors["gone"] = OperationNotFound("gone")
    world.finish("away", outcome=None)
    world.errors["away"] = RpcError("away")
    world.look()
    world.look()
    assert world.asked.count("gone") == world.asked.count("away") == 2
    world.listed.clear()
    world.look()
    asked = len(world.asked)
    world.look()
    assert world.asked[asked:] == ["away"]
    del world.errors["away"]
    world.singly["away"] = Finished(name="away", outcome="Succeeded")
    world.look()
    assert world.named == ["away"]
