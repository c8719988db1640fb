"""Each finished operation announced at least once, whenever the triggerer is killed: in virtual time, against a model.

The model has a service, the asset state stores of a database, and one triggerer at a time, whose supervisor stores
events once a second, as Airflow's does. A kill loses the events that are not stored yet.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_lro.exceptions import LroError, OperationNotFound, RpcError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from airflow_provider_lro.assets._seen import Finished

assets: Any = pytest.importorskip(
    "airflow_provider_lro.assets", reason="asset watchers came with Airflow 3.0", exc_type=ImportError
)
from airflow_provider_lro.assets import _seen  # noqa: E402  (cannot be imported on Airflow 2)

SYNC = 1.0
"""Seconds between two looks of the supervisor."""


class VirtualSelector(selectors.DefaultSelector):
    """A selector that lets virtual seconds pass where others wait."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everybody waits for somebody else"
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on whose clock a month passes in milliseconds."""

    def __init__(self) -> None:
        self.virtual = VirtualSelector()
        super().__init__(self.virtual)

    def time(self) -> float:
        return self.virtual.now


class Store:
    """The asset state store of one asset."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.fails_in: int | None = None

    async def aget(self, key: str, default: Any = None) -> Any:
        self._count()
        return self.values.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        self._count()
        self.values[key] = value

    def _count(self) -> None:
        if self.fails_in is not None:
            self.fails_in -= 1
            if self.fails_in < 0:
                self.fails_in = None
                raise RuntimeError("the database is away")


class World:
    """The service, the database, and one process of a triggerer at a time."""

    def __init__(self, *, stores: int = 1, **arguments: Any) -> None:
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.listed: dict[bytes, Finished] = {}
        self.stores = [Store() for _ in range(stores)]
        self.arguments = {"outcomes": "Succeeded,Failed", **arguments}
        self.events: list[list[dict[str, Any]]] = []  # that the database has
        self.yielded_at: list[float] = []
        self.most_snapshots = 0
        self.readable: dict[str, Finished] = {}
        self.errors: dict[str, LroError] = {}
        self.read: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.start()

    def start(self) -> None:
        """Start a triggerer; one that is killed takes with it what it has not stored."""
        self.unstored: list[list[dict[str, Any]]] = []
        self.snapshots: asyncio.Queue[dict[bytes, Finished]] = asyncio.Queue()
        loop = self.runner.get_loop()
        self.tasks = [loop.create_task(self._watch()), loop.create_task(self._supervise())]

    def kill(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.runner.run(asyncio.wait(self.tasks))
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for task in self.tasks:
            task.cancel()
        self.runner.close()

    async def _watch(self) -> None:
        world = self

        class Trigger(assets.LongRunningOperationEventTrigger):
            """The trigger, with a service that answers without a network."""

            async def _read(self, name: str) -> Finished | None:
                world.read.append(name)
                if name in world.errors:
                    raise world.errors[name]
                return world.readable.get(name)

        trigger = Trigger(parent="projects/p", **self.arguments)
        if self.stores:
            by_name = {f"asset{number}": store for number, store in enumerate(self.stores)}
            trigger.asset_state_store = SimpleNamespace(_by_name=by_name, _by_uri={})
        async for event in trigger.filter_shared_stream(self._stream()):
            self.yielded_at.append(asyncio.get_running_loop().time())
            self.unstored.append(event.payload["operations"])

    async def _stream(self) -> AsyncIterator[dict[bytes, Finished]]:
        while True:
            self.most_snapshots = max(self.most_snapshots, self.snapshots.qsize())
            yield await self.snapshots.get()

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(SYNC)
            self.events += self.unstored
            self.unstored.clear()

    def finish(self, *names: str, outcome: str | None = "Succeeded") -> None:
        self.listed |= {_seen.digest_of(name): _seen.Finished(name=name, outcome=outcome) for name in names}

    def look(self, *, wait: float = 60.0) -> None:
        """Give the trigger one listing, and some time."""
        self.snapshots.put_nowait(dict(self.listed))
        self.wait(wait)

    def wait(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    @property
    def named(self) -> list[str]:
        return sorted(operation["name"] for event in self.events for operation in event)

    def keeps_distance(self) -> bool:
        pairs = zip(self.yielded_at, self.yielded_at[1:], strict=False)
        return all(later - earlier > _seen.EVENT_SPACING - 1e-6 for earlier, later in pairs)


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(**getattr(request, "param", {})) as made:
        yield made


def with_arguments(**arguments: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("world", [arguments], indirect=True, ids=["world"])


def each_interval(*seconds: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "world", [{"interval": each} for each in seconds], indirect=True, ids=map(str, seconds)
    )


def test_dead_between_event_and_store_announces_again(world: World) -> None:
    """Killed before its event is stored as announced: the operation comes once more; killed afterwards: it does not."""
    world.look()
    world.finish("a")
    world.look(wait=0.5)
    assert (world.named, len(world.unstored)) == ([], 1)
    world.kill()  # and its event never reaches the database

    world.finish("b")
    world.look(wait=_seen.EVENT_SPACING + 2 * SYNC)
    assert world.named == ["a", "b"]
    world.kill()  # the database has the event, but the asset's store does not say so yet

    world.look()
    assert world.named == ["a", "a", "b", "b"]
    world.kill()
    world.look()
    assert world.named == ["a", "a", "b", "b"]
    again = [operation for event in world.events for operation in event if operation["name"] == "a"]
    assert again[0] == again[1]
    assert world.keeps_distance()


def test_triggerer_that_stalled_respects_what_another_announced(world: World) -> None:
    """What the other one has stored meanwhile is neither announced again nor overwritten."""
    world.look()
    with World() as other:
        other.stores = world.stores
        for each in (other, world):
            each.finish("a")
        other.look()
        assert other.named == ["a"]
    world.finish("b")
    world.look()
    world.kill()
    world.look()
    assert world.named == ["b"]


STEPS = st.lists(
    st.sampled_from(
        [
            ("finish", 1),
            ("finish", 3),
            *(("look", seconds) for seconds in (0.0, 0.5, 2.0, 12.0, 60.0)),
            ("wait", 0.5),
            ("wait", 12.0),
            ("kill", 0),
            *(("die", calls) for calls in range(5)),
            *(("fail", calls) for calls in range(5)),
        ]
    ),
    min_size=3,
    max_size=40,
)


@given(STEPS, st.integers(1, 2), st.sampled_from([1, 7, 10, 15, 60]))
@settings(deadline=None, max_examples=200)
@pytest.mark.no_cover  # which would take most of its time
def test_none_is_lost_whenever_it_is_killed(steps: list[tuple[str, Any]], stores: int, interval: float) -> None:
    """Each is announced, and again only because of a kill; events keep their distance, also over a restart."""
    with World(stores=stores, interval=interval) as world:
        world.finish("before")
        world.look()
        finished = kills = 0
        for step, how in steps:
            if step == "finish":
                world.finish(*(f"o{finished + number}" for number in range(how)))
                finished += how
            elif step == "look":
                world.look(wait=how)
            elif step == "wait":
                world.wait(how)
            elif step == "fail":
                world.stores[-1].fails_in = how
                world.look(wait=12.0)
                world.stores[-1].fails_in = None
            else:
                if step == "die":
                    world.stores[-1].fails_in = how
                    world.look(wait=0.0)
                    world.stores[-1].fails_in = None
                world.kill()
                kills += 1
        for _ in range(5):
            world.look(wait=9.9)
        world.look()
        counts = Counter(world.named)
        assert counts.keys() == {f"o{number}" for number in range(finished)}
        assert max(counts.values(), default=1) <= 1 + kills
        assert world.keeps_distance()


@pytest.mark.parametrize("existing", [True, False])
def test_what_was_finished_before_is_announced_if_asked_for(*, existing: bool) -> None:
    """The first listing ever is what `announce_existing` is about; a restart is not the first."""
    with World(announce_existing=existing) as world:
        world.finish("old")
        world.look()
        world.kill()
        world.finish("new")
        world.look()
        assert world.named == (["new", "old"] if existing else ["new"])


@each_interval(1, 10, 60)
def test_events_keep_their_distance_and_their_size(world: World) -> None:
    """What does not fit into one event is in the next ones, ten seconds apart; a huge name has an event of its own."""
    interval = world.arguments["interval"]
    world.look()
    names = [f"{number:04}-{'x' * 500}" for number in range(300)] + ["y" * (_seen.MAX_OPERATIONS_SIZE + 1)]
    world.finish(*names)
    for _ in range(60 // interval):
        world.look(wait=interval)
    assert world.named == sorted(names)
    assert len(world.events) == 4
    assert world.keeps_distance()


@each_interval(1, 9, 10, 11, 20, 60)
@pytest.mark.no_cover  # which would take most of its time
def test_busy_parent_does_not_leave_it_behind(world: World) -> None:
    """Something new in every listing, for an hour: listings do not pile up, as Airflow would end a slow trigger."""
    interval = world.arguments["interval"]
    world.look(wait=interval)
    for number in range(3600 // interval):
        world.finish(f"o{number}")
        world.look(wait=interval * 0.9)  # listings come a little early
    for _ in range(2):
        world.look()
    assert world.most_snapshots <= 2
    assert world.named == sorted(f"o{number}" for number in range(3600 // interval))
    assert world.keeps_distance()


@with_arguments(stores=0)
def test_without_a_store_nothing_outlives_the_process(world: World) -> None:
    """Below Airflow 3.3: each is announced once, and a restart begins anew."""
    world.look()
    for name in ("a", "b"):
        world.finish(name)
        world.look()
    world.kill()
    world.finish("c")
    world.look()
    assert world.named == ["a", "b"]


def test_only_wanted_outcomes_are_named(world: World) -> None:
    """Where the listing does not say the outcome, the operation is read; while that fails, it waits."""
    world.look()
    world.finish("cancelled", outcome="Cancelled")
    world.finish("unclear", "cancelled-too", outcome=None)
    world.readable["cancelled-too"] = _seen.Finished(name="cancelled-too", outcome="Cancelled")
    world.look()
    assert world.named == []
    world.readable["unclear"] = _seen.Finished(
        name="unclear", outcome="Failed", code=3, end_time="2026-01-01T00:00:00Z"
    )
    world.look()
    assert world.events == [
        [{"name": "unclear", "outcome": "Failed", "code": 3, "end_time": "2026-01-01T00:00:00Z"}],
    ]


@with_arguments(interval=1)
def test_what_is_deleted_before_its_turn_is_named(world: World) -> None:
    """An operation that finishes shortly after an event, and is deleted then, is in the next event."""
    world.look()
    world.finish("a")
    world.look(wait=1.0)
    world.finish("b")
    world.look(wait=1.0)
    world.listed.clear()
    world.look(wait=10.0)
    world.look()
    assert world.named == ["a", "b"]


def test_what_is_gone_before_it_is_read_is_given_up(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """What is listed as done, and then neither listed nor known, has no outcome that could ever be read."""
    world.look()
    world.finish("gone", outcome=None)
    world.errors["gone"] = OperationNotFound("gone")
    world.finish("away", outcome=None)
    world.errors["away"] = RpcError("away")
    world.look()
    world.look()
    assert world.read.count("gone") == world.read.count("away") == 2
    assert sum("cannot be read" in record.getMessage() for record in caplog.records) == 2
    world.listed.clear()
    world.look()
    read = len(world.read)
    world.look()
    assert world.read[read:] == ["away"]
    del world.errors["away"]
    world.readable["away"] = _seen.Finished(name="away", outcome="Succeeded")
    world.look()
    assert world.named == ["away"]


def test_digests_of_what_is_gone_make_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what fits, those go that are not listed any more; nothing is announced again because of it."""
    monkeypatch.setattr(_seen, "MAX_SEEN", 5)
    world.look()
    for number in range(20):
        world.listed.clear()
        world.finish(*(f"o{each}" for each in range(max(0, number - 2), number + 1)))
        world.look()
        world.kill()
    world.look()
    assert world.named == sorted(f"o{number}" for number in range(20))
    (value,) = world.stores[0].values.values()
    assert len(value) <= 8 * 7


@given(st.sets(st.text(st.characters(), min_size=1, max_size=40), max_size=30))
@settings(deadline=None, max_examples=25)
def test_any_name_is_remembered(names: set[str]) -> None:
    """Any names, surrogates among them: a restart knows them, and each takes eight characters."""
    with World() as world:
        world.finish(*names)
        world.look()
        world.kill()
        world.look()
        assert world.events == []
        (value,) = world.stores[0].values.values()
        assert len(value) == 8 * len(names)


@pytest.mark.parametrize("foreign", [3, {"not": "ours"}, "no base64!", "AAAA", "AAAAAAAAAA=="])
def test_foreign_value_is_an_error_that_says_what_to_do(
    world: World, foreign: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What is not ours is neither overwritten nor taken for nothing; without it, watching begins."""
    world.look()
    (key,) = world.stores[0].values
    world.stores[0].values[key] = foreign
    world.kill()
    world.look()
    assert world.stores[0].values == {key: foreign}
    (record,) = [record for record in caplog.records if "cannot be announced now" in record.getMessage()]
    assert record.exc_info is not None
    assert "delete this key, and watching begins anew" in str(record.exc_info[1])
    assert repr(key) in str(record.exc_info[1])
    del world.stores[0].values[key]
    world.look()
    world.finish("a")
    world.look()
    assert world.named == ["a"]
