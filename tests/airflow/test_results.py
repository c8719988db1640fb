"""Results: judged by the task's own check on every path, and handed out whole."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import any_pb2, duration_pb2, struct_pb2

from airflow_provider_lro.exceptions import (
    LroError,
    OperationFailed,
    OperationsFailed,
    OperationTimeout,
    PayloadTypeError,
    ResultRejected,
)
from airflow_provider_lro.operators import StartOperationOperator
from airflow_provider_lro.sensors import LongRunningOperationSensor
from airflow_provider_lro.simulator import SimulatorClient
from airflow_provider_lro.version_compat import triggers_have_on_kill
from tests.airflow.worker import FakeStore, FakeTaskInstance, fire, run
from tests.versions import AirflowFailException, AirflowSkipException, TaskDeferred

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.airflow.fake_service import FakeService
    from tests.simulator_fixture import Simulator

WAYS = pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "on the worker"])
AT_ONCE = pytest.mark.parametrize("duration", [0, 0.2], ids=["done at once", "later"])


def sensor(operation_name: Any, **kwargs: Any) -> LongRunningOperationSensor:
    return LongRunningOperationSensor(
        **{"task_id": "task", "poke_interval": 0.1, "timeout": 20, "operation_name": operation_name, **kwargs}
    )


class Starting(StartOperationOperator):
    """Starts one simulated operation after the other."""

    def __init__(self, *, server: str, scripts: list[dict[str, Any]], **kwargs: Any) -> None:
        super().__init__(task_id="task", interval=0.1, **kwargs)
        self.server = server
        self.scripts = scripts
        self.starts: list[str] = []

    def start(self, context: Any) -> Any:
        with SimulatorClient(self.server) as client:
            operation = client.start(**self.scripts.pop(0))
        self.starts.append(operation.name)
        return operation


@pytest.fixture
def start(simulator: Simulator) -> Callable[..., Starting]:
    return lambda *scripts, **kwargs: Starting(server=simulator.endpoint, scripts=list(scripts), **kwargs)


@pytest.fixture
def ti() -> FakeTaskInstance:
    """Give a task instance of a run that no other test has."""
    return FakeTaskInstance(run_id=uuid.uuid4().hex)


def has_rows(response: Any, _metadata: Any) -> Any:
    """Check a Struct."""
    return response["rows"] > 0 or "it has no rows"


def refused(result: Any) -> Any:
    """Return the result of a task, if it has rows."""
    if not result["rows"]:
        raise RuntimeError("no rows")
    return result


# ── the check ──


@AT_ONCE
@WAYS
def test_check_that_accepts_changes_nothing(name: Callable[..., str], duration: float, deferrable: bool) -> None:
    """The result is the response."""
    operation = name(duration=duration, response={"rows": 5})
    assert run(sensor(operation, deferrable=deferrable, check=has_rows)).result == {"rows": 5.0}


@AT_ONCE
@WAYS
def test_sensor_does_not_retry_what_is_rejected(name: Callable[..., str], duration: float, deferrable: bool) -> None:
    """The text says which check, why, what it saw, and what comes next."""
    operation = name(duration=duration, response={"rows": 0})
    with pytest.raises(ResultRejected) as raised:
        run(sensor(operation, deferrable=deferrable, check=has_rows))
    assert isinstance(raised.value, AirflowFailException)
    assert isinstance(raised.value, OperationFailed)
    assert str(raised.value).startswith(
        "the operation has succeeded, and its result is rejected by check=has_rows: it has no rows; it saw"
        ' response={"rows": 0.0} metadata='
    )
    assert str(raised.value).endswith(f"no retry is made, as the operation stays as it is [operation {operation!r}]")
    assert raised.value.operation is not None
    assert raised.value.operation["done"]


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (lambda response, metadata: False, "check=<lambda>: it has returned False"),
        (lambda response, metadata: None, "check=<lambda>: it has returned None"),
        (lambda response, metadata: 0, "check=<lambda>: it has returned 0"),
        (lambda response, metadata: "", "check=<lambda>: it has returned ''"),
        (lambda response, metadata: "no\nrows", "check=<lambda>: no rows"),
        (lambda response, metadata: response["gone"], "check=<lambda>: it has raised ValueError"),
    ],
    ids=["False", "None", "0", "empty", "text", "an exception"],
)
def test_what_rejects(name: Callable[..., str], verdict: Any, said: str) -> None:
    """Whatever is falsy, a text, and an exception."""
    with pytest.raises(ResultRejected) as raised:
        run(sensor(name(duration=0, response={"rows": 1}), check=verdict))
    assert said in str(raised.value)


@WAYS
@pytest.mark.parametrize("kind", [AirflowFailException, AirflowSkipException])
def test_exceptions_of_airflow_keep_their_meaning(
    start: Callable[..., Starting], ti: FakeTaskInstance, kind: type[Exception], deferrable: bool
) -> None:
    """A check may fail or skip the task itself; after a clear there is another operation."""

    def check(_response: Any, _metadata: Any) -> Any:
        raise kind("as I say")

    store = FakeStore()
    task = start({"duration": 0.1}, {"duration": 0}, deferrable=deferrable, check=check)
    for _ in range(2):
        with pytest.raises(kind, match="as I say"):
            run(task, ti=ti, store=store)
    assert len(task.starts) == 1
    ti.max_tries += 1  # what a clear does
    with pytest.raises(kind):
        run(task, ti=ti, store=store)
    assert len(task.starts) == 2


@AT_ONCE
@WAYS
@pytest.mark.parametrize("stored", [True, False], ids=["store", "no store"])
def test_retry_after_a_rejection_starts_another_operation(
    start: Callable[..., Starting], ti: FakeTaskInstance, duration: float, *, deferrable: bool, stored: bool
) -> None:
    """A run with a failed task, then one without: the second's result is the XCom."""
    task = start(
        {"duration": duration, "response": {"rows": 0}},
        {"duration": duration, "response": {"rows": 3}},
        deferrable=deferrable,
        check=has_rows,
    )
    store = FakeStore() if stored else None
    with pytest.raises(ResultRejected, match="the next try starts another operation") as raised:
        run(task, ti=ti, store=store)
    assert not isinstance(raised.value, AirflowFailException)
    ti.try_number += 1
    assert run(task, ti=ti, store=store).result == {"rows": 3.0}
    assert len(task.starts) == 2


def test_check_runs_in_the_retry_of_a_worker_that_died_with_the_event(
    start: Callable[..., Starting], ti: FakeTaskInstance
) -> None:
    """Nobody has seen that the result is none, so another operation is started at once."""
    store = FakeStore()
    task = start({"duration": 1, "response": {"rows": 0}}, {"duration": 0, "response": {"rows": 3}}, check=has_rows)
    task.deferrable = True
    with pytest.raises(TaskDeferred) as deferred:
        task.execute({"ti": ti, "task_state_store": store})
    fire(deferred.value.trigger.serialize())
    assert run(task, ti=ti, store=store).result == {"rows": 3.0}
    assert len(task.starts) == 2


@WAYS
def test_each_of_many_is_checked(name: Callable[..., str], deferrable: bool) -> None:
    """One that is rejected is one that failed; the others' results stay."""
    names = [name(duration=0.2, response={"rows": rows}) for rows in (1, 0, 2)]
    with pytest.raises(OperationsFailed) as raised:
        run(sensor(names, deferrable=deferrable, check=has_rows))
    assert list(raised.value.errors) == [names[1]]
    assert isinstance(raised.value, AirflowFailException)
    with pytest.raises(ValueError, match="wait_for=2 and end_from_trigger=False, but a check"):
        sensor(names, deferrable=deferrable, check=has_rows, wait_for=2)


def test_check_of_a_response_that_did_not_fit_into_the_event(name: Callable[..., str]) -> None:
    """It is read again, and judged then; the metadata that did not fit, too."""
    operation = name(duration=0.2, response_bytes=200_000)
    seen: list[Any] = []
    task = sensor(operation, deferrable=True, check=lambda *given: seen.append(given) or True)
    assert "id" in run(task).result or seen
    ((response, metadata),) = seen
    assert metadata is not None
    assert response is not None


def test_check_is_given_messages_and_of_unknown_types_json(fake: FakeService) -> None:
    """Zeros are there, and numbers of 64 bits are numbers; JSON leaves that to whoever has written it."""
    seen: list[Any] = []

    def check(response: Any, metadata: Any) -> bool:
        seen.append((response, metadata))
        return True

    operation = fake.operations[fake.add("o", ended=0)]
    operation.metadata.Pack(duration_pb2.Duration(seconds=2**40))
    operation.response.Pack(duration_pb2.Duration())
    run(sensor(operation.name, check=check))
    unknown = any_pb2.Any(type_url="type.googleapis.com/no.such.Type", value=b"1")
    operation.metadata.CopyFrom(unknown)
    operation.response.CopyFrom(unknown)
    run(sensor(operation.name, check=check))
    opaque = {"@type": unknown.type_url, "value": "MQ=="}
    assert seen == [(duration_pb2.Duration(), duration_pb2.Duration(seconds=2**40)), (opaque, opaque)]


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (5, "check=5, but it must be a function of the response and the metadata"),
        (lambda response: True, "cannot be called with two arguments"),
        (lambda a, b, c: True, "cannot be called with two arguments"),
    ],
)
def test_check_that_cannot_be_called_is_refused_when_the_dag_is_read(check: Any, said: str) -> None:
    """The text says what it must be."""
    with pytest.raises(ValueError, match=said):
        sensor("operations/o", check=check)


def test_coroutine_is_no_check(name: Callable[..., str]) -> None:
    """Nobody would await it; its coroutine is true."""

    async def check(_response: Any, _metadata: Any) -> bool:
        return False

    with pytest.raises(ValueError, match="check=check is a coroutine function"):
        sensor("operations/o", check=check)

    def wrapped(*given: Any) -> Any:
        return check(*given)

    with pytest.raises(ValueError, match="has returned a coroutine"):
        run(sensor(name(duration=0), check=wrapped))


@pytest.mark.skipif(not triggers_have_on_kill(), reason="end_from_trigger is refused there")
@pytest.mark.parametrize("more", [{"check": has_rows}, {"fail_on_partial": True}], ids=["check", "fail_on_partial"])
def test_check_needs_a_worker(more: dict[str, Any]) -> None:
    """So the triggerer does not end the task."""
    with pytest.raises(ValueError, match="a check sees each success on a worker"):
        sensor("operations/o", deferrable=True, end_from_trigger=True, **more)


# ── a check in a subclass ──


@AT_ONCE
@WAYS
def test_subclass_that_raises_after_the_result_is_not_green_at_the_retry(
    start: Callable[..., Starting], ti: FakeTaskInstance, duration: float, *, deferrable: bool
) -> None:
    """Its `execute_complete` sees the result on every path: deferred, on a worker, and found again by a retry."""

    class Judging(Starting):
        def execute_complete(self, context: Any, event: Any = None, **kwargs: Any) -> Any:
            return refused(super().execute_complete(context, event, **kwargs))

    store = FakeStore()
    task = Judging(
        server=start().server, scripts=[{"duration": duration, "response": {"rows": 0}}], deferrable=deferrable
    )
    for _ in range(3):
        with pytest.raises(RuntimeError, match="no rows"):
            run(task, ti=ti, store=store)
        ti.try_number += 1
    assert len(task.starts) == 1


@AT_ONCE
def test_execute_of_a_subclass_sees_the_result_of_a_worker_at_each_retry(
    start: Callable[..., Starting], ti: FakeTaskInstance, duration: float
) -> None:
    """What is behind `super().execute()` runs again, as it does in any operator that does not defer."""

    class Judging(Starting):
        def execute(self, context: Any) -> Any:
            return refused(super().execute(context))

    store = FakeStore()
    task = Judging(server=start().server, scripts=[{"duration": duration, "response": {"rows": 0}}], deferrable=False)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="no rows"):
            run(task, ti=ti, store=store)
        ti.try_number += 1
    assert len(task.starts) == 1


def test_subclass_ends_what_has_no_name(ti: FakeTaskInstance) -> None:
    """`validate_only`, perhaps: its end is the subclass's, too."""

    class Validating(StartOperationOperator):
        def start(self, context: Any) -> Any:
            return {"done": True, "response": {"rows": 0}}

        def execute_complete(self, context: Any, event: Any = None, **kwargs: Any) -> Any:
            return refused(super().execute_complete(context, event, **kwargs))

    with pytest.raises(RuntimeError, match="no rows"):
        run(Validating(task_id="task", endpoint="127.0.0.1:1"), ti=ti)


@AT_ONCE
@WAYS
def test_sensor_whose_subclass_raises_is_not_green_at_the_retry(
    name: Callable[..., str], duration: float, deferrable: bool
) -> None:
    """One and many."""

    class Judging(LongRunningOperationSensor):
        def execute_complete(self, context: Any, event: Any = None, **kwargs: Any) -> Any:
            super().execute_complete(context, event, **kwargs)
            raise RuntimeError("no rows")

    for names in (name(duration=duration), [name(duration=duration), name(duration=duration)]):
        task = Judging(task_id="task", poke_interval=0.1, operation_name=names, deferrable=deferrable)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no rows"):
                run(task)


# ── what is handed out ──


@pytest.mark.parametrize(
    ("script", "kwargs", "ends"),
    [
        ({}, {}, None),
        ({"outcome": "fail"}, {}, OperationFailed),
        ({"outcome": "never"}, {"timeout": 0.4}, OperationTimeout),
        ({"outcome": "cancelled"}, {"on_cancelled": "skip"}, AirflowSkipException),
    ],
    ids=["success", "failure", "timeout", "skip"],
)
@WAYS
def test_name_and_metadata_are_handed_out_whatever_the_outcome(
    name: Callable[..., str], script: dict[str, Any], kwargs: dict[str, Any], ends: Any, *, deferrable: bool
) -> None:
    """For the next task, as XComs."""
    operation = name(duration=0.2, **script)
    done = FakeTaskInstance()
    task = sensor(operation, deferrable=deferrable, **kwargs)
    if ends is None:
        run(task, ti=done)
    else:
        with pytest.raises(ends):
            run(task, ti=done)
    assert done.xcoms["operation_name"] == operation
    assert done.xcoms["metadata"]["@type"].endswith("google.protobuf.Struct")


@WAYS
def test_of_many_they_are_lists(name: Callable[..., str], deferrable: bool) -> None:
    """In the order of the names."""
    names = [name(duration=0.1), name(duration=0.2, metadata="none")]
    done = run(sensor(names, deferrable=deferrable)).ti
    assert done.xcoms["operation_name"] == names
    assert [each is None for each in done.xcoms["metadata"]] == [False, True]


@WAYS
def test_failed_parts_are_handed_out_logged_and_may_reject(
    fake: FakeService, caplog: pytest.LogCaptureFixture, capsys: Any, deferrable: bool
) -> None:
    """All of them are in the XCom, twenty in the log."""
    parts = [{"code": 5.0, "message": f"row {number}"} for number in range(30)]
    operation = fake.operations[fake.add("o", ended=0)]
    content = struct_pb2.Struct()
    content.update({"partial_failures": parts})
    operation.metadata.Pack(content)
    assert run(sensor(operation.name, deferrable=deferrable)).ti.xcoms["partial_failures"] == parts
    log = caplog.text + capsys.readouterr().out
    assert "a part has failed: NOT_FOUND: row 19" in log
    assert "row 20" not in log
    assert "… and 10 more" in log
    with pytest.raises(ResultRejected, match="30 of its parts have failed, the first: NOT_FOUND: row 0"):
        run(sensor(operation.name, deferrable=deferrable, fail_on_partial=True))


@pytest.mark.parametrize("field", ["response", "metadata"])
def test_failed_parts_of_an_unknown_type_are_not_taken_for_none(fake: FakeService, field: str) -> None:
    """Who asks to fail on them is told which type to name; without that they are none."""
    operation = fake.operations[fake.add("o", ended=0)]
    getattr(operation, field).CopyFrom(any_pb2.Any(type_url="type.googleapis.com/no.such.Type", value=b"1"))
    with pytest.raises(PayloadTypeError, match=f"cannot read the type 'no.such.Type': give {field}_type="):
        run(sensor(operation.name, fail_on_partial=True))
    assert run(sensor(operation.name)).ti.xcoms["partial_failures"] == []


def test_large_metadata_is_not_handed_out(fake: FakeService) -> None:
    """64 KiB of JSON is the limit: XComs are in Airflow's database."""
    operation = fake.operations[fake.add("o", ended=0)]
    operation.metadata.Pack(struct_pb2.Value(string_value="x" * 1_000_000))
    assert run(sensor(operation.name)).ti.xcoms["metadata"] is None


def test_tasks_that_push_nothing_hand_out_nothing(name: Callable[..., str]) -> None:
    """`do_xcom_push=False` is for these, too."""
    assert run(sensor(name(duration=0), do_xcom_push=False)).ti.xcoms == {}


def test_key_of_the_response_goes_before_ours(
    start: Callable[..., Starting], ti: FakeTaskInstance, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    """With `multiple_outputs` the response's own `metadata` is the XCom, and a warning says so."""
    task = start({"duration": 0, "response": {"metadata": "its own", "rows": 1}}, multiple_outputs=True)
    assert run(task, ti=ti).result["metadata"] == "its own"
    assert "the response has metadata, which takes the place" in caplog.text + capsys.readouterr().out


def test_operations_without_a_name_hand_out_none(ti: FakeTaskInstance) -> None:
    """`validate_only`, perhaps."""

    class Validating(StartOperationOperator):
        def start(self, context: Any) -> pb.Operation:
            return pb.Operation(done=True)

    task = Validating(task_id="task", endpoint="127.0.0.1:1")
    assert run(task, ti=ti).ti.xcoms["operation_name"] is None


def test_rejected_result_can_be_skipped_by_soft_fail(name: Callable[..., str]) -> None:
    """It says something about the operation itself, as every failure does."""
    with pytest.raises(AirflowSkipException):
        run(sensor(name(duration=0, response={"rows": 0}), check=has_rows, soft_fail=True))
    with pytest.raises(LroError):
        run(sensor(name(duration=0, response={"rows": 0}), check=has_rows))
