"""Random answers, rows and events: nothing but an LroError comes out, and never a success that is none.

10,000 cases a run, each with a seed of its own, which stands in a failure: ``LRO_RANDOM_SEED=<seed>`` runs it alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf.message import DecodeError

from airflow_provider_lro._core import outcome as outcomes
from airflow_provider_lro._core.names import is_same_operation, pack
from airflow_provider_lro._core.wait import outcome_of
from airflow_provider_lro._messages import encoding, metadata, partial, protocol, results
from airflow_provider_lro._messages.events import MAX_EVENT, event_from_outcomes, outcomes_from_event
from airflow_provider_lro._transport.rpc import rpc_error
from airflow_provider_lro.exceptions import LroError, RpcError
from airflow_provider_lro.operators import StartOperationOperator
from airflow_provider_lro.sensors import LongRunningOperationSensor
from airflow_provider_lro.triggers import LongRunningOperationTrigger
from tests.airflow.random_messages import RandomMessages
from tests.airflow.worker import FakeTaskInstance
from tests.versions import AirflowFailException

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._core.state import OperationState

pytestmark = pytest.mark.timeout(300)

ANSWERS, EVENTS, ROWS = 5500, 3500, 1000
NAME = "projects/p/locations/l/operations/o"
GET = protocol.get_call(NAME)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """Keep thousands of warnings out of the way."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def each(number: int, check: Callable[[random.Random], None]) -> None:
    """Check so many cases."""
    given = os.environ.get("LRO_RANDOM_SEED")
    first = time.time_ns() if given is None else int(given)
    for seed in range(first, first + (number if given is None else 1)):
        try:
            check(random.Random(seed))
        except BaseException as error:
            error.add_note(f"LRO_RANDOM_SEED={seed} is this case alone")
            raise


# ── answers ──


class Refusal(grpc.RpcError):
    """A call that a service has refused, with a message and details by chance."""

    def __init__(self, chance: RandomMessages) -> None:
        self._code = chance.random.choice(list(grpc.StatusCode))
        self._details = chance.random.choice([None, "", "%s {0} {{ x }}", "a\0\ud800", "x" * 5000])
        raw = chance.random.choice([chance.status, chance.noise])()
        self._trailer = chance.random.choice([None, (), (("grpc-status-details-bin", raw),)])

    def code(self) -> grpc.StatusCode:
        """Return the code."""
        return self._code

    def details(self) -> str | None:
        """Return the message."""
        return self._details

    def trailing_metadata(self) -> Any:
        """Return the trailer."""
        return self._trailer


def use(state: OperationState) -> None:
    """Do with a state all that a wait, a worker and a user do."""
    metadata.describe(state)
    metadata.time_in(state, (*metadata.CREATED, *metadata.FINISHED))
    metadata.time_at(state, "progress.start_time")
    json.dumps(encoding.operation_to_json(state), allow_nan=False)
    json.dumps(results.handed_out([NAME], [outcome_of(state)], is_many=False), allow_nan=False)
    for entry in partial.partial_failures(state):
        assert partial.in_a_line(entry).isprintable()
    protocol.state_to_message(state)
    if state.metadata is not None:
        results.for_check(state, None)
    if state.code is not None:
        assert str(results.failure(state))
    else:
        json.dumps(encoding.response_to_json(results.response(state)), allow_nan=False)


@pytest.mark.no_cover  # which would take most of its time
def test_answers() -> None:
    """Whatever a service answers: it is decoded, or an LroError; a success is one by protobuf's own reading, too."""

    def check(source: random.Random) -> None:
        chance = RandomMessages(source)
        raw = chance.operation(NAME.encode()) if source.random() < 0.95 else chance.noise()
        try:
            state = protocol.read_answer(GET, raw, target="host:1")
        except RpcError:
            assert isinstance(rpc_error(Refusal(chance), GET, "host:1"), LroError)
            return
        assert is_same_operation(state.name, NAME)
        use(state)
        outcome = outcome_of(state)
        event = event_from_outcomes([outcome], [NAME], started_at=5.0)
        text = json.dumps(event, allow_nan=False)
        assert len(text) <= MAX_EVENT
        if not state.done:
            return
        assert type(outcomes_from_event(json.loads(text), [NAME])[0]) is type(outcome)
        try:
            real = pb.Operation.FromString(raw)
        except (DecodeError, UnicodeDecodeError):  # something inside does not parse
            return
        assert real.done
        assert isinstance(outcome, outcomes.Succeeded) is (real.WhichOneof("result") != "error")

    each(ANSWERS, check)


# ── events ──


class Sensor(LongRunningOperationSensor):
    """A sensor that cannot read anything again."""

    def recheck(self, context: Any, names: Any, known: Any, which: Any, **_: Any) -> None:
        """Fail."""
        for index in which:
            known[index] = outcomes.CallFailed(error=RpcError("not read again", code=14))


class Starter(StartOperationOperator):
    """The same of what has started an operation."""

    recheck = Sensor.recheck


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 5, -1, 2**70, 0.5, 1e300, "", "S", "F", "B", "T", ".", "o", NAME, "a/other", "\0", "%s"),
    *([], [1], {}, {"0": 1}, {"@type": "x", "value": "AA=="}, {"json": {"__classname__": 1}}, {"type": "LroError"}),
)


def some_outcome(chance: RandomMessages) -> Outcome | None:
    """Return an outcome with what a service may have said."""
    state = None
    while state is None:
        try:
            state = protocol.read_answer(GET, chance.operation(NAME.encode()), target="host:1")
        except RpcError:
            continue
    error = rpc_error(Refusal(chance), GET, "host:1")
    if state.done and chance.random.random() < 0.8:
        return outcome_of(state)
    others: tuple[Outcome | None, ...] = (
        outcomes.TimedOut(operation=state, error=error, cancel=chance.random.choice(["none", "asked", "took effect"])),
        outcomes.NotFound(error=error, operation=state),
        outcomes.CallFailed(error=error),
        None,
    )
    return chance.random.choice(others)


def changed(value: Any, source: random.Random) -> Any:
    """Return JSON of which one part is another, or gone."""
    if isinstance(value, dict) and value and source.random() < 0.85:
        key = source.choice(list(value))
        if source.random() < 0.1:
            return {other: each for other, each in value.items() if other != key}
        if source.random() < 0.1:
            return {
                **value,
                source.choice(["0", "1", "done", "code", "error", "name", "is_transient"]): source.choice(ODD),
            }
        return {**value, key: changed(value[key], source)}
    return source.choice(ODD)


def is_borne_out(event: Any) -> bool:
    """Return True for an event that says of the one operation that it is done, without an error."""
    operation = event["known"]["0"]["operation"]
    said = [name for name in (event["name"], operation.get("name")) if name]
    return (
        event["outcomes"] == "S"
        and operation["done"] is True
        and operation.get("code") is None
        and all(is_same_operation(name, NAME) for name in said)
    )


@pytest.mark.no_cover  # which would take most of its time
def test_events() -> None:
    """Whatever has become of an event: an LroError, or the ValueError that says that it is none; or it is a success."""
    sensor = Sensor(task_id="wait", operation_name=NAME, deferrable=True)
    starter = Starter(task_id="start", deferrable=True)

    def check(source: random.Random) -> None:
        found = some_outcome(RandomMessages(source))
        event = json.loads(json.dumps(event_from_outcomes([found], [NAME], started_at=5.0)))
        for _ in range(source.randrange(4)):
            event = changed(event, source)
        context: Any = {"ti": FakeTaskInstance()}
        try:
            if source.random() < 0.5:
                sensor.execute_complete(context, event, names=source.choice([None, pack([NAME])]))
            else:
                starter.execute_complete(context, event, names=pack([NAME]), started_at=5.0)
        except (LroError, AirflowFailException):  # the second is of a success that could not be read
            return
        except ValueError as refusal:
            if "the trigger's event" not in str(refusal):
                raise
        except AssertionError:  # nothing is known of it, which no trigger says of an only one
            if event["outcomes"] != ".":
                raise
        else:
            assert event is None or is_borne_out(event)

    each(EVENTS, check)


# ── rows ──

VALUES: tuple[Any, ...] = (
    *ODD,
    float("nan"),
    float("inf"),
    "{{ x }}",
    "{location}",
    "http://x",
    "a b",
    "127.0.0.1:1",
    "[::1",
)
FIELDS = [field.name for field in fields(LongRunningOperationTrigger) if field.name != "deadline"]


def test_rows() -> None:
    """Whatever stands in a row: its trigger can be made; run, it fires one event, or says what is wrong."""

    async def fire(trigger: LongRunningOperationTrigger) -> Any:
        return [event.payload async for event in trigger.run()]

    def check(source: random.Random) -> None:
        now = time.time()
        kwargs: dict[str, Any] = {"operation_name": NAME, "interval": 0.1, "started_at": now - 90, "rpc_timeout": 1.0}
        kwargs.update({source.choice(FIELDS): source.choice(VALUES) for _ in range(source.randrange(1, 3))})
        trigger = LongRunningOperationTrigger(**kwargs, deadline=now - 60)
        try:
            trigger.serialize()
            ((event),) = asyncio.run(fire(trigger))
        except (LroError, ValueError):
            return
        else:
            assert "S" not in event["outcomes"]
            assert len(json.dumps(event)) <= MAX_EVENT

    each(ROWS, check)
