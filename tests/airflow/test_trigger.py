"""The trigger: what crosses to the triggerer, what comes back, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro import hooks, triggers
from airflow_provider_lro._core.names import pack, unpack
from airflow_provider_lro._core.outcome import CallFailed, Cancelled, Succeeded, TimedOut
from airflow_provider_lro._messages.events import outcomes_from_event
from airflow_provider_lro._runner import group
from airflow_provider_lro._transport.channel import open_channels
from airflow_provider_lro.exceptions import CredentialsError, EndpointError
from airflow_provider_lro.triggers import LongRunningOperationTrigger
from airflow_provider_lro.version_compat import triggers_move_without_on_kill
from tests.airflow.worker import fire, inflate
from tests.versions import AirflowNotFoundException, BaseHook

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.simulator_fixture import Simulator

VALUES = {
    "str": st.text(),
    "str | None": st.none() | st.text(),
    "float": st.floats(allow_nan=False),
    "float | None": st.none() | st.floats(allow_nan=False),
    "bool": st.booleans(),
    "int": st.integers(),
    "int | None": st.none() | st.integers(),
    "str | Sequence[str] | None": st.none() | st.lists(st.text()).map(pack),
}
FIELDS = fields(LongRunningOperationTrigger)
KWARGS = st.fixed_dictionaries({}, optional={field.name: VALUES[str(field.type)] for field in FIELDS})


def trigger(operation_name: str, **kwargs: Any) -> LongRunningOperationTrigger:
    now = time.time()
    defaults = {"interval": 0.1, "started_at": now, "deadline": now + 20}
    return LongRunningOperationTrigger(operation_name=operation_name, **{**defaults, **kwargs})


@given(kwargs=KWARGS)
def test_kwargs_survive_the_database(kwargs: dict[str, Any]) -> None:
    """A trigger built from its row is the same trigger, whether its values make sense or not."""
    first = LongRunningOperationTrigger(**kwargs)
    row = json.loads(json.dumps(first.serialize()))
    again = inflate(row)
    for field in FIELDS:
        assert getattr(again, field.name) == getattr(first, field.name)
    assert json.loads(json.dumps(again.serialize())) == row


def test_constructor_raises_nothing_but_type_error() -> None:
    """Values that make no sense are accepted: anything but TypeError would stop the whole triggerer."""
    for field in FIELDS:
        for nonsense in (None, "x", -1, float("nan"), [], {}, object()):
            LongRunningOperationTrigger(**{"operation_name": "o", field.name: nonsense})
    with pytest.raises(TypeError):
        LongRunningOperationTrigger(operation_name="o", of_a_later_version=1)  # type: ignore[call-arg]


def test_subclass_names_itself_in_its_row() -> None:
    """A user's subclass is rebuilt as itself."""

    class Own(LongRunningOperationTrigger):
        pass

    assert Own(operation_name="o").serialize()[0].endswith("test_subclass_names_itself_in_its_row.<locals>.Own")


def test_row_holds_names_packed() -> None:
    """A list of names crosses as one short text, which a trigger takes as well as the list."""
    names = [f"operations/{number}" for number in range(100)]
    row = LongRunningOperationTrigger(operation_names=names, wanted=3).serialize()
    assert row[1].keys() == {"operation_names", "wanted"}
    assert len(row[1]["operation_names"]) < 1000
    assert unpack(row[1]["operation_names"]) == names
    assert inflate(row).serialize() == row


def outcome_of(event: dict[str, Any], operation: str) -> Any:
    (outcome,) = outcomes_from_event(event, [operation])
    return outcome


async def test_retry_info_of_one_operation_is_not_for_the_others(name: Callable[..., str]) -> None:
    """It holds up its own wait for as long as it says, and the others' polls by half an interval at most."""
    told = trigger(name(outcome="never", fault="RESOURCE_EXHAUSTED*9", retry_info=250), initial_delay=0.1)
    others = [trigger(name(duration=2.0), interval=0.2, initial_delay=0.2) for _ in range(5)]
    waiting = asyncio.ensure_future(anext(told.run()))  # type: ignore[call-overload]
    events = await asyncio.gather(*(anext(each.run()) for each in others))  # type: ignore[call-overload]
    assert [event.payload["outcomes"] for event in events] == ["S"] * 5
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


def test_event_holds_the_outcome(name: Callable[..., str]) -> None:
    """The one event names the operation and holds its outcome."""
    operation = name(duration=0.2)
    event = fire(trigger(operation).serialize())
    assert event["name"] == operation
    assert isinstance(outcome_of(event, operation), Succeeded)
    assert len(json.dumps(event)) < 64 * 1024


def test_every_start_is_a_resume(name: Callable[..., str], simulator: Simulator) -> None:
    """A trigger does not poll at once: its first poll falls somewhere into the pause that is due."""
    operation = name(duration=0)
    started = time.time()
    fire(trigger(operation, interval=0.5, started_at=started - 60).serialize())
    (poll,) = simulator.calls("GetOperation", operation)
    assert started < poll["time"] <= started + 0.5 + 0.5


def test_deadline_outlives_a_restart(name: Callable[..., str]) -> None:
    """The deadline is absolute: a trigger rebuilt after it polls once and gives its verdict."""
    for script, kind in (({"outcome": "never"}, TimedOut), ({"duration": 0}, Succeeded)):
        operation = name(**script)
        late = trigger(operation, started_at=time.time() - 100, deadline=time.time() - 1)
        assert isinstance(outcome_of(fire(late.serialize()), operation), kind)


def test_cancelled_by_somebody_is_cancelled(name: Callable[..., str]) -> None:
    """CANCELLED before the deadline is its own outcome."""
    operation = name(duration=0.1, outcome="cancelled")
    event = fire(trigger(operation, on_timeout="cancel").serialize())
    assert isinstance(outcome_of(event, operation), Cancelled)


def test_missing_connection_is_an_event() -> None:
    """A connection that is away until the deadline is a timeout, after which a worker polls once more."""
    row = trigger("operations/x", lro_conn_id="gone", deadline=time.time() + 0.3).serialize()
    outcome = outcome_of(fire(row), "operations/x")
    assert isinstance(outcome, TimedOut)
    assert isinstance(outcome.error, EndpointError)
    assert outcome.is_undecided


@pytest.mark.parametrize("how", ["not found", "away"])
def test_connection_that_cannot_be_read_for_a_while_is_an_outage(
    how: str, name: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has read it a moment ago; "not found" may only mean that a backend did not answer."""
    error = AirflowNotFoundException("it isn't defined") if how == "not found" else ConnectionError("away")
    failures = [error] * 5

    def late(conn_id: str) -> Any:
        if failures:
            raise failures.pop()
        return BaseHook.get_connection(conn_id)

    monkeypatch.setattr(hooks.LongRunningOperationHook, "get_connection", staticmethod(late))
    monkeypatch.setattr(hooks, "FAILURE_LIFETIME", 0.0)
    operation = name(duration=0)
    assert isinstance(outcome_of(fire(trigger(operation).serialize()), operation), Succeeded)
    assert not failures


def test_key_that_cannot_be_read_for_a_while_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a key may be mounted late."""
    stored = {"conn_type": "lro", "host": "127.0.0.1:1", "extra": {"key_path": str(tmp_path / "key.json")}}
    monkeypatch.setenv("AIRFLOW_CONN_KEYED", json.dumps(stored))
    row = trigger("operations/x", lro_conn_id="keyed", deadline=time.time() + 0.5).serialize()
    outcome = outcome_of(fire(row), "operations/x")
    assert isinstance(outcome, TimedOut)
    assert isinstance(outcome.error, CredentialsError)


def test_service_that_was_never_reached_is_given_up() -> None:
    """Its port refuses every connection, from the first poll on: no wait of seven days makes it right."""
    row = trigger("operations/x", endpoint="127.0.0.1:1", connect_timeout=0.5, rpc_timeout=0.2, reached=False)
    outcome = outcome_of(fire(row.serialize()), "operations/x")
    assert isinstance(outcome, CallFailed)
    assert isinstance(outcome.error, EndpointError)
    assert "no connection for 0.5 s, since the first poll" in str(outcome.error)


def test_service_that_hangs_was_reached(name: Callable[..., str]) -> None:
    """A connection without an answer is another matter: the service may only be slow."""
    operation = name(duration=0, latency=5)
    row = trigger(operation, deadline=time.time() + 1, connect_timeout=0.1, rpc_timeout=0.1, reached=False)
    assert isinstance(outcome_of(fire(row.serialize()), operation), TimedOut)


async def test_cancelled_trigger_gives_its_channel_back(name: Callable[..., str]) -> None:
    """A triggerer that shuts down leaves no channel, and cancels no operation."""
    run = trigger(name(outcome="never")).run()
    waiting = asyncio.ensure_future(anext(run))  # type: ignore[arg-type]
    while open_channels() == 0:  # noqa: ASYNC110  (the trigger tells nobody when it has its channel)
        await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert open_channels() == 0


async def test_many_triggers_share_one_channel(name: Callable[..., str]) -> None:
    """Two hundred waits are one channel."""
    most = 0

    async def one(waiting: LongRunningOperationTrigger) -> Any:
        nonlocal most
        event = await anext(waiting.run())  # type: ignore[call-overload]
        most = max(most, open_channels())
        return event.payload["outcomes"]

    operations = [name(duration=0.5) for _ in range(200)]
    came = await asyncio.gather(*(one(trigger(operation)) for operation in operations))
    assert set(came) == {"S"}
    assert (most <= 1, open_channels()) == (True, 0)


async def test_kill_is_known_during_an_outage() -> None:
    """Airflow knows a kill by what its CancelledError says; it says so still while a poll waits for a connection."""
    run = trigger("operations/x", endpoint="127.0.0.1:1", initial_delay=0.1).run()
    waiting = asyncio.ensure_future(anext(run))  # type: ignore[arg-type]
    await asyncio.sleep(0.5)
    waiting.cancel("a user's action")
    with pytest.raises(asyncio.CancelledError) as caught:
        await waiting
    assert caught.value.args == ("a user's action",)
    assert open_channels() == 0


async def test_wait_begins_when_there_is_a_connection(
    name: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that a connection takes is not part of the first pause, which would reach beyond the deadline."""
    happened: list[str] = []
    read, begin = hooks.LongRunningOperationHook.async_channels, group.wait

    async def slow(*args: Any) -> Any:
        channels = await read(*args)
        happened.append("connected")
        return channels

    def recorded(args: Any, **how: Any) -> Any:
        happened.append("begun")
        return begin(args, **how)

    monkeypatch.setattr(hooks.LongRunningOperationHook, "async_channels", slow)
    monkeypatch.setattr(group, "wait", recorded)
    await anext(trigger(name(duration=0)).run())  # type: ignore[call-overload]
    assert happened == ["connected", "begun"]


async def test_surprise_leaves_no_channel(name: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A surprise before the first poll gives the channel back."""
    monkeypatch.setattr(triggers, "reporter", {}.popitem)
    with pytest.raises(KeyError):
        await anext(trigger(name(duration=0)).run())  # type: ignore[call-overload]
    assert open_channels() == 0


class Killed:
    """A task instance, as a trigger has it."""

    dag_id, run_id, task_id, map_index, try_number = "dag", "run", "task", -1, 1


@pytest.mark.parametrize(
    "case",
    [
        ("failed", {}, 1),
        ("success", {}, 1),
        (None, {}, 1),
        ("scheduled", {}, 1),
        ("failed", {"cancel_on_kill": False}, 0),
        ("failed", {"deadline": 1.0}, 0),
        # A trigger that moves; since 3.4, where those are told apart, the next try of a task that was cleared.
        ("deferred", {}, int(triggers_move_without_on_kill())),
        ("up_for_retry", {}, 0),
    ],
)
async def test_only_a_users_kill_cancels(
    name: Callable[..., str],
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[str | None, dict[str, Any], int],
) -> None:
    """A kill differs from a shutdown, a move, a retry and a timeout by the task's state."""
    state, change, cancels = case
    operation = name(outcome="never")
    monkeypatch.setattr(triggers, "state_of", lambda _: state)
    killed = trigger(operation, **{"cancel_on_kill": True, **change})
    killed.task_instance = Killed()  # type: ignore[assignment]
    await killed.on_kill()
    assert len(simulator.calls("CancelOperation", operation)) == cancels


@pytest.mark.parametrize(("left", "cancels"), [(-1.0, 0), (60.0, 1)])
async def test_airflows_own_timeout_is_not_a_kill(
    name: Callable[..., str], simulator: Simulator, monkeypatch: pytest.MonkeyPatch, left: float, cancels: int
) -> None:
    """Airflow 2 counts execution_timeout from the process's start, so that it is over before our deadline is."""
    operation = name(outcome="never")
    monkeypatch.setattr(triggers, "state_of", lambda _: "scheduled")
    late = trigger(operation, cancel_on_kill=True, deadline=time.time() + 60)
    late.task_instance = Killed()  # type: ignore[assignment]
    late.task_instance.trigger_timeout = datetime.now(tz=UTC) + timedelta(seconds=left)
    await late.on_kill()
    assert len(simulator.calls("CancelOperation", operation)) == cancels


async def test_kill_outlives_further_cancels(
    name: Callable[..., str], simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow cancels a trigger once a second until it has ended; the operation is asked to cancel all the same."""
    answer = threading.Event()
    monkeypatch.setattr(triggers, "state_of", lambda _: answer.wait(10) and "failed")
    operation = name(outcome="never")
    killed = trigger(operation, cancel_on_kill=True)
    killed.task_instance = Killed()  # type: ignore[assignment]
    killing = asyncio.ensure_future(killed.on_kill())
    for _ in range(3):
        await asyncio.sleep(0.01)
        killing.cancel("a user's action")
    answer.set()
    await killing
    assert len(simulator.calls("CancelOperation", operation)) == 1


async def test_kill_outlives_a_slow_tear_down(
    name: Callable[..., str], simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below Airflow 3.3 a kill is known only after the wait has ended, and cancels come all the time."""

    class SlowGroup(group.WaitGroup):
        async def __aexit__(self, *raised: object) -> None:
            await super().__aexit__(*raised)
            await asyncio.sleep(0.3)

    monkeypatch.setattr(triggers, "WaitGroup", SlowGroup)
    monkeypatch.setattr(triggers, "AIRFLOW_CALLS_ON_KILL", False)
    monkeypatch.setattr(triggers, "state_of", lambda _: "failed")
    operation = name(outcome="never")
    killed = trigger(operation, interval=0.1, cancel_on_kill=True)
    killed.task_instance = Killed()  # type: ignore[assignment]
    running = asyncio.ensure_future(anext(killed.run()))  # type: ignore[arg-type]
    while not simulator.calls("GetOperation", operation):  # noqa: ASYNC110  (it tells nobody)
        await asyncio.sleep(0.01)
    for number in range(4):
        running.cancel(f"cancel {number}")
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError) as caught:
        await running
    assert caught.value.args == ("cancel 0",)
    assert len(simulator.calls("CancelOperation", operation)) == 1


async def test_kill_ends_in_time(
    name: Callable[..., str], simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A triggerer that stops is not held up by a state that cannot be read."""
    answer = threading.Event()
    monkeypatch.setattr(triggers, "KILL_TIMEOUT", 0.1)
    monkeypatch.setattr(triggers, "state_of", lambda _: answer.wait(10) and "failed")
    operation = name(outcome="never")
    killed = trigger(operation, cancel_on_kill=True)
    killed.task_instance = Killed()  # type: ignore[assignment]
    with pytest.raises(TimeoutError, match="could not be asked to cancel"):
        await killed.on_kill()
    answer.set()
    assert simulator.calls("CancelOperation", operation) == []


async def test_kill_after_the_event_cancels_nothing(
    name: Callable[..., str], simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trigger that has fired is over, and so is `airflow dags test`, where there is no task to kill."""
    monkeypatch.setattr(triggers, "state_of", lambda _: "failed")
    operation = name(duration=0)
    fired = trigger(operation, cancel_on_kill=True)
    await fired.on_kill()
    fired.task_instance = Killed()  # type: ignore[assignment]
    await anext(fired.run())  # type: ignore[call-overload]
    await fired.on_kill()
    assert simulator.calls("CancelOperation", operation) == []


@pytest.mark.parametrize(
    ("scripts", "wanted", "cancels"),
    [
        ([{"duration": 0}], 0, 0),
        ([{"outcome": "fail", "duration": 0}], 0, 0),
        ([{"duration": 0}, {"outcome": "never"}], 1, 0),
        ([{"duration": 0}, {"outcome": "never"}], 2, 1),
    ],
    ids=["succeeded", "failed", "any of two", "both of two"],
)
async def test_task_that_went_on_elsewhere_was_not_killed(
    name: Callable[..., str],
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    *,
    scripts: list[dict[str, Any]],
    wanted: int,
    cancels: int,
) -> None:
    """Another triggerer had it, and fired: its task is queued as a cleared one is; what runs on is not cancelled."""
    names = [name(**script) for script in scripts]
    monkeypatch.setattr(triggers, "state_of", lambda _: "queued")
    many = {"operation_names": names, "wanted": wanted} if len(names) > 1 else {}
    stopped = trigger("" if many else names[0], cancel_on_kill=True, **many)
    stopped.task_instance = Killed()  # type: ignore[assignment]
    await stopped.on_kill()
    assert sum(len(simulator.calls("CancelOperation", each)) for each in names) == cancels


@pytest.mark.parametrize(("stall", "cancels"), [(0.0, 1), (0.5, 0)])
async def test_process_that_stood_still_concludes_nothing(
    name: Callable[..., str],
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    stall: float,
    cancels: int,
) -> None:
    """After SIGSTOP another triggerer has its triggers, and their tasks may be in any state, or killed, or neither."""
    monkeypatch.setattr(triggers, "state_of", lambda _: "queued")
    monkeypatch.setattr(triggers, "takeover_time", lambda: 0.7 if stall else 30.0)
    operation = name(outcome="never")
    stopped = trigger(operation, interval=0.1, initial_delay=0.1, cancel_on_kill=True)
    stopped.task_instance = Killed()  # type: ignore[assignment]
    running = asyncio.ensure_future(anext(stopped.run()))  # type: ignore[arg-type]
    await asyncio.sleep(0.3)
    time.sleep(stall)  # noqa: ASYNC251  (it is what the test is about)
    running.cancel("a user's action")
    with pytest.raises(asyncio.CancelledError):
        await running
    if triggers.AIRFLOW_CALLS_ON_KILL:
        await stopped.on_kill()
    assert len(simulator.calls("CancelOperation", operation)) == cancels
