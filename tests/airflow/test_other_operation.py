"""Answers, listings and events that are about another operation, or take back what was said before."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_lro._core.names import pack
from airflow_provider_lro.exceptions import Code, LroError, RpcError
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.operators import StartOperationOperator, _base
from airflow_provider_lro.sensors import LongRunningOperationSensor
from airflow_provider_lro.triggers import LongRunningOperationTrigger
from tests.airflow.fake_service import PARENT
from tests.airflow.worker import FakeStore, FakeTaskInstance, fire, run
from tests.versions import AirflowFailException

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.airflow.fake_service import FakeService

OTHER_FORMS = ("projects/123/operations/o", "operations/o", f"{PARENT}/locations/l/operations/o", "")
OTHERS = (f"{PARENT}/operations/other", "x" * 5000 + "/o")


def sensor(**kwargs: Any) -> LongRunningOperationSensor:
    waiting = {"poke_interval": 0.1, "initial_delay": 0.1, "timeout": 30, **kwargs}
    return LongRunningOperationSensor(task_id="wait", **waiting)


def trigger(name: str, **kwargs: Any) -> LongRunningOperationTrigger:
    now = time.time()
    times = {"interval": 0.1, "initial_delay": 0.1, "started_at": now - 10, "deadline": now + 30}
    return LongRunningOperationTrigger(operation_name=name, **{**times, **kwargs})


def after_polls(fake: FakeService, number: int, change: Callable[[], None]) -> None:
    """Change something before the n-th poll from now."""
    polls = 0

    def count(method: str, _: str) -> None:
        nonlocal polls
        polls += method == "GetOperation"
        if polls == number:
            change()

    fake.before = count


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_another_form_of_the_name_is_the_same_operation(fake: FakeService, form: str) -> None:
    """A project's number for its id, flat for nested, another parent; no name counts as the one asked for."""
    name = fake.add("o", ended=1)
    fake.operations[name].name = form
    with LongRunningOperationHook() as hook:
        assert hook.get_operation(name).name == (form or name)
        assert hook.get_operation(name).poll() is not None
    assert run(sensor(operation_name=name)).result == {}
    assert fire(trigger(name).serialize())["outcomes"] == "S"


@pytest.mark.parametrize("other", OTHERS, ids=["other", "long"])
def test_answer_about_another_operation_is_not_its_end(
    fake: FakeService, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a failed poll, INTERNAL, and the wait goes on; a call of its own raises it."""
    name = fake.add("o", ended=1)
    operation = fake.operations[name]
    operation.name = other
    with (
        LongRunningOperationHook() as hook,
        pytest.raises(RpcError, match=r"the answer (is about|has a name of)") as failed,
    ):
        hook.get_operation(name)
    assert failed.value.code == Code.INTERNAL
    after_polls(fake, 3, lambda: setattr(operation, "name", name))
    event = fire(trigger(name).serialize())
    assert event["outcomes"] == "S"
    assert len(fake.acted("GetOperation")) == 4
    assert "a poll failed, which says nothing about the operation: the answer" in caplog.text
    assert all(len(record.getMessage()) < 1000 for record in caplog.records)


def test_answer_about_another_operation_for_ever(fake: FakeService) -> None:
    """Its wait ends as by any call that fails."""
    name = fake.add("o", ended=1)
    fake.operations[name].name = OTHERS[0]
    with pytest.raises(RpcError, match=r"the answer is about 'projects/p/operations/other', whose last segment"):
        run(sensor(operation_name=name, max_consecutive_errors=1, deferrable=True))


def test_two_databases_may_each_have_an_operation_of_that_id(fake: FakeService) -> None:
    """In a listing names are compared in full; one that is listed by another form of its name is polled."""
    mine = fake.add("databases/a/operations/mig_42")
    fake.add("databases/b/operations/mig_42", ended=1)
    after_polls(fake, 2, lambda: setattr(fake.operations[mine], "done", True))
    event = fire(trigger(mine, poll_method="list", list_parent=PARENT).serialize())
    assert event["outcomes"] == "S"
    assert set(fake.acted("GetOperation")) == {mine}
    assert len(fake.acted("GetOperation")) == 2


def test_listed_as_done_and_not_done(fake: FakeService, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the wait goes on until Get says so, too."""
    name = fake.add("o", ended=1)

    def flip(method: str, _: str) -> None:
        polls = len(fake.acted("GetOperation"))
        fake.operations[name].done = method == "ListOperations" or polls >= 3

    fake.before = flip
    event = fire(trigger(name, poll_method="list", list_parent=PARENT).serialize())
    assert event["outcomes"] == "S"
    assert len(fake.acted("GetOperation")) == 3
    assert f"listed as done, but Get says that it is not: the wait goes on [operation {name!r}]" in caplog.text


@pytest.mark.parametrize(
    ("letter", "text"),
    [
        ("S", "the operation has succeeded, but its result could not be read again: the service says now that it is"),
        ("F", "its error could not be read again: the service says now that it is not done"),
    ],
)
def test_done_in_the_event_and_not_done_for_the_worker(
    fake: FakeService, monkeypatch: pytest.MonkeyPatch, letter: str, text: str
) -> None:
    """The worker says what it was told, and what it sees."""
    monkeypatch.setattr(_base, "READ_AGAIN_TIMEOUT", 0.3)
    name = fake.add("o")
    event = {"name": name, "outcomes": letter, "known": {}, "started_at": 5.0}
    with pytest.raises(LroError, match=text):
        sensor(operation_name=name).execute_complete({"ti": FakeTaskInstance()}, event)


def test_returned_by_an_earlier_try_and_running(
    fake: FakeService, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    """A retry after a result was known waits again, and says why."""
    name, store = fake.add("o"), FakeStore()
    store.set("lro_operation", {"name": name, "started_at": time.time(), "returned": True, "max_tries": 0})
    after_polls(fake, 3, lambda: setattr(fake.operations[name], "done", True))
    assert run(StartOperationOperator(task_id="start", interval=0.1), store=store).result == {}
    assert (
        "it was done, as an earlier try saw, and is not any more: it is waited for again"
        in caplog.text + capsys.readouterr().out
    )


# ── events ──


def event_of(name: str, /, **entry: Any) -> dict[str, Any]:
    known = {"0": {"operation": {"done": True, **entry}}}
    return {"name": name, "outcomes": "S", "known": known, "started_at": 5.0}


NAME = f"{PARENT}/operations/o"
EVENTS = {
    "same": (event_of(NAME), True),
    "another form": (event_of("projects/123/operations/o"), True),
    "another form in its state": (event_of(NAME, name="operations/o"), True),
    "other": (event_of(f"{PARENT}/operations/other"), False),
    "other in its state": (event_of(NAME, name=f"{PARENT}/operations/other"), False),
}


@pytest.mark.parametrize("which", EVENTS)
@pytest.mark.parametrize("kind", [LongRunningOperationSensor, StartOperationOperator])
def test_another_operations_event_is_refused(fake: FakeService, kind: Any, which: str) -> None:
    """By the last segment of the names in it; with or without the arguments of the deferral."""
    event, is_same = EVENTS[which]
    if kind is LongRunningOperationSensor:
        resume = lambda: sensor(operation_name=NAME).execute_complete({"ti": FakeTaskInstance()}, event)  # noqa: E731
    else:
        task = StartOperationOperator(task_id="start")
        resume = lambda: task.execute_complete({"ti": FakeTaskInstance()}, event, names=pack([NAME]))  # noqa: E731
    if is_same:
        assert resume() == {}
    else:
        with pytest.raises(ValueError, match=r"event is about 'projects/p/operations/other', but this task waits for"):
            resume()
    assert fake.calls == []


# ── names that are too long ──


def test_listed_name_that_is_too_long(fake: FakeService) -> None:
    """A sensor that waits for all under a parent cannot leave it out, and says so."""
    fake.add("o")
    fake.add("x" * 5000)
    with pytest.raises(RpcError, match=r"lists an operation whose name has 5,022 characters.*leave it out by filter"):
        run(sensor(parent=PARENT))


def test_started_name_that_is_too_long(fake: FakeService) -> None:
    """It could not cross to the triggerer; what runs goes on, and no other is started."""
    operation = fake.operations[fake.add("x" * 5000)]

    class Start(StartOperationOperator):
        def start(self, context: Any) -> Any:
            return operation

    store = FakeStore()
    with pytest.raises(AirflowFailException, match=r"whose name has 5,022 characters.*what it has started goes on"):
        run(Start(task_id="start"), store=store)
    assert store.values.keys() <= {"lro_request"}
    assert fake.calls == []


def test_row_with_a_name_that_is_too_long() -> None:
    """Its trigger says so, and calls nobody."""
    with pytest.raises(ValueError, match=r"operation_name='xxx.*has 5,000 characters"):
        fire(trigger("x" * 5000).serialize())
