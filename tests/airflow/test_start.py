"""The operator that starts an operation: once per start that is meant, whatever dies in between."""

from __future__ import annotations

import json
import os
import uuid
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2

from airflow_provider_lro.exceptions import (
    EndpointError,
    LroError,
    MalformedOperation,
    OperationCancelled,
    OperationFailed,
    OperationNotFound,
    OperationTimeout,
    RpcError,
)
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.operation import Operation, OperationsClient
from airflow_provider_lro.operators import StartOperationOperator, _base
from airflow_provider_lro.operators._task_store import TaskStore
from airflow_provider_lro.simulator import SimulatorClient
from tests.airflow.worker import FakeStore, FakeTaskInstance, fire, run
from tests.plus import Counts
from tests.versions import AirflowFailException, AirflowSkipException, TaskDeferred

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.airflow.fake_service import FakeService
    from tests.simulator_fixture import Simulator

WAYS = pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "on the worker"])


TYPES = "type.googleapis.com"


class Died(BaseException):
    """What a SIGKILL does to the process, for a test that lives in it."""


class FullStore(FakeStore):
    """A store that takes so many values, and no more."""

    def __init__(self, *, room: int) -> None:
        super().__init__()
        self.room = room

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        if not self.room:
            raise RuntimeError("the disk is full")
        self.room -= 1
        super().set(key, value)


class StartSimulation(StartOperationOperator):
    """Starts what it is told to, and counts."""

    def __init__(self, *, endpoint: str, script: dict[str, Any], dies_after_start: bool = False, **kwargs: Any) -> None:
        super().__init__(task_id="start", interval=0.1, jitter=0, **kwargs)
        self.server = endpoint
        self.script = script
        self.starts: list[str] = []
        self.request_ids: list[str] = []
        self.dies_after_start = dies_after_start

    def start(self, context: Any) -> Any:
        with SimulatorClient(self.server) as client:
            script = self.script.pop(0) if isinstance(self.script, list) else self.script
            operation = client.start(request_id=self.request_id, **script)
        self.starts.append(operation.name)
        self.request_ids.append(self.request_id)
        if self.dies_after_start:
            raise Died
        return operation


@pytest.fixture
def start(simulator: Simulator) -> Callable[..., StartSimulation]:
    """Make a task that starts operations; several scripts are started one after the other."""

    def make(*scripts: dict[str, Any], **kwargs: Any) -> StartSimulation:
        return StartSimulation(endpoint=simulator.endpoint, script=list(scripts), **kwargs)  # type: ignore[arg-type]

    return make


@pytest.fixture
def ti() -> FakeTaskInstance:
    """Give a task instance of a run that no other test has."""
    return FakeTaskInstance(run_id=uuid.uuid4().hex)


@pytest.fixture
def store() -> FakeStore:
    """Give an empty store."""
    return FakeStore()


@WAYS
@pytest.mark.parametrize("stored", [True, False], ids=["store", "no store"])
def test_starts_and_waits(
    start: Callable[..., StartSimulation],
    ti: FakeTaskInstance,
    store: FakeStore,
    deferrable: bool,
    stored: bool,
) -> None:
    """The response is the XCom; with a store or, as below Airflow 3.3, without."""
    task = start({"duration": 1, "response": {"rows": 5}}, deferrable=deferrable)
    done = run(task, ti=ti, store=store if stored else None)
    assert done.result == {"rows": 5.0}
    assert len(task.starts) == 1
    assert done.deferrals == (1 if deferrable else 0)


def test_name_is_stored_before_anything_else(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore
) -> None:
    """When the task defers, and when its first poll fails, the name is in the store."""
    task = start({"duration": 5}, deferrable=True)
    with pytest.raises(TaskDeferred):
        task.execute({"ti": ti, "task_state_store": store})
    assert store.get("lro_operation")["name"] == task.starts[0]
    broken = start({"duration": 5, "fault": "PERMISSION_DENIED*forever"})
    with pytest.raises(RpcError):
        run(broken, store=(other := FakeStore()))
    assert other.get("lro_operation")["name"] == broken.starts[0]


@WAYS
def test_retry_goes_on_waiting(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore, deferrable: bool
) -> None:
    """A try that was lost, or could not reach the service, is continued by the next, which starts nothing."""
    first = start({"duration": 0.6, "fault": "PERMISSION_DENIED*1"}, deferrable=deferrable)
    with pytest.raises(RpcError):
        run(first, ti=ti, store=store)
    second = start({}, deferrable=deferrable)
    assert "id" in run(second, ti=ti, store=store).result
    assert second.starts == []


def test_result_that_was_not_returned_is_found(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore
) -> None:
    """A worker that dies with the result in its hands costs a poll, not a second operation."""
    first = start({"duration": 1}, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        first.execute({"ti": ti, "task_state_store": store})
    fire(deferred.value.trigger.serialize())
    second = start({}, deferrable=True)
    done = run(second, ti=ti, store=store)
    assert (second.starts, done.deferrals) == ([], 0)


def test_cleared_task_starts_anew(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore
) -> None:
    """What has returned its outcome is over: the same task instance, cleared, starts another, with another id."""
    task = start({"duration": 0}, {"duration": 0})
    run(task, ti=ti, store=store)
    ti.max_tries += 1  # what a clear does
    run(task, ti=ti, store=store)
    assert len(set(task.starts)) == 2
    assert len(set(task.request_ids)) == 2


def test_retry_after_the_result_was_returned_returns_it_again(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore
) -> None:
    """Airflow may fail to take a result (an XCom backend that is down): its retry starts nothing."""
    task = start({"duration": 0, "response": {"rows": 5}}, {"duration": 0})
    assert run(task, ti=ti, store=store).result == {"rows": 5.0}
    assert run(task, ti=ti, store=store).result == {"rows": 5.0}
    assert len(task.starts) == 1


@WAYS
@pytest.mark.parametrize(
    ("script", "error"),
    [
        ({"outcome": "fail", "code": 9}, OperationFailed),
        ({"outcome": "cancelled"}, OperationCancelled),
        ({"not_found_for": 60}, OperationNotFound),
        ({"outcome": "neither"}, MalformedOperation),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_retry_after_a_failed_operation_starts_anew(
    start: Callable[..., StartSimulation],
    ti: FakeTaskInstance,
    script: dict[str, Any],
    error: type[Exception],
    deferrable: bool,
) -> None:
    """An operation that will never bring a result fails the try, retryably, and the next starts another."""
    store = FakeStore()
    options = {"deferrable": deferrable, "not_found_grace": 0, "require_result": True}
    first = start({"duration": 0.2, **script}, **options)
    with pytest.raises(error) as failed:
        run(first, ti=ti, store=store)
    assert "AirflowFailException" not in {kind.__name__ for kind in type(failed.value).__mro__}
    second = start({"duration": 0}, **options)
    assert "id" in run(second, ti=ti, store=store).result
    assert len(second.starts) == 1
    assert first.request_ids != second.request_ids


def test_failure_that_nobody_saw_does_not_cost_the_retry(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore
) -> None:
    """A retry that finds the lost try's operation failed long ago starts another at once."""
    first = start({"duration": 1, "outcome": "fail"}, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        first.execute({"ti": ti, "task_state_store": store})
    fire(deferred.value.trigger.serialize())
    second = start({"duration": 0}, deferrable=True)
    assert "id" in run(second, ti=ti, store=store).result
    assert len(second.starts) == 1


@WAYS
def test_timed_out_operation_is_found_again(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore, deferrable: bool
) -> None:
    """An operation that took too long may still succeed: the retry waits for it."""
    first = start({"duration": 0.8}, wait_timeout=0.2, deferrable=deferrable)
    with pytest.raises(OperationTimeout, match=first.task_id and r"was not done within 0\.2"):
        run(first, ti=ti, store=store)
    second = start({}, deferrable=deferrable)
    assert "id" in run(second, ti=ti, store=store).result
    assert second.starts == []


@WAYS
def test_operation_that_its_own_kill_is_cancelling_is_waited_for_and_replaced(
    start: Callable[..., StartSimulation],
    ti: FakeTaskInstance,
    store: FakeStore,
    deferrable: bool,
) -> None:
    """After a clear the next try waits for the end of what the kill cancelled, and starts another."""
    first = start({"outcome": "never", "cancel_delay": 1}, deferrable=True)
    with pytest.raises(TaskDeferred):
        first.execute({"ti": ti, "task_state_store": store})
    with LongRunningOperationHook() as hook:
        hook.cancel_operation(first.starts[0])
    ti.max_tries += 1  # what a clear does
    second = start({"duration": 1}, deferrable=deferrable)
    done = run(second, ti=ti, store=store)
    assert "id" in done.result
    assert len(second.starts) == 1
    assert done.deferrals == (2 if deferrable else 0)


def test_operation_that_somebody_cancelled_fails_the_try_that_started_it(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore
) -> None:
    """Only what an earlier try left behind is replaced within a try; `on_cancelled="skip"` skips."""
    task = start({"outcome": "cancelled", "duration": 0.2}, deferrable=True)
    with pytest.raises(OperationCancelled):
        run(task, ti=ti, store=store)
    assert len(task.starts) == 1
    assert store.get("lro_operation") is None


@WAYS
def test_skip_that_airflow_did_not_hear_of_is_found_again(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore, deferrable: bool
) -> None:
    """A worker may die with the skip on its tongue: the retry skips, too. After a clear another one is started."""
    kwargs = {"deferrable": deferrable, "on_cancelled": "skip"}
    first = start({"outcome": "cancelled", "duration": 0.2}, **kwargs)
    with pytest.raises(AirflowSkipException):
        run(first, ti=ti, store=store)
    again = start({}, **kwargs)
    with pytest.raises(AirflowSkipException):
        run(again, ti=ti, store=store)
    assert (len(first.starts), again.starts) == (1, [])
    ti.max_tries += 1  # what a clear does
    anew = start({"duration": 0}, **kwargs)
    assert "id" in run(anew, ti=ti, store=store).result
    assert len(anew.starts) == 1


def test_skip_that_a_lost_try_did_not_come_to_is_no_failure(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore
) -> None:
    """A worker that dies with a cancelled operation leaves the skip to the retry, which starts no other."""
    kwargs = {"deferrable": True, "on_cancelled": "skip"}
    with pytest.raises(TaskDeferred) as deferred:
        start({"outcome": "cancelled", "duration": 0.2}, **kwargs).execute({"ti": ti, "task_state_store": store})
    fire(deferred.value.trigger.serialize())
    second = start({}, **kwargs)
    with pytest.raises(AirflowSkipException):
        run(second, ti=ti, store=store)
    assert second.starts == []


def test_request_id_is_the_same_until_the_operation_is_over(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore, simulator: Simulator
) -> None:
    """A worker that dies between the start and the store has its retry ask for the very same operation."""
    for _ in range(3):
        with pytest.raises(Died):
            run(start({"duration": 0.1}, dies_after_start=True), ti=ti, store=store)
    last = start({"duration": 0.1})
    run(last, ti=ti, store=store)
    started = [call for call in simulator.calls("Start") if call["name"] == last.starts[0]]
    assert len(started) == 4
    assert uuid.UUID(last.request_id)


def test_request_ids_differ_by_everything_that_makes_a_start_another(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance
) -> None:
    """Without a store: another DAG, run, task, map index, or try, another id."""
    ids = set()
    for change in ({}, {"dag_id": "d"}, {"run_id": "r"}, {"task_id": "t"}, {"map_index": 0}, {"try_number": 2}):
        task = start({"duration": 0})
        run(task, ti=FakeTaskInstance(**{**vars(ti), **change, "xcoms": {}}))
        ids.update(task.request_ids)
    assert len(ids) == 6


def test_store_that_fails_does_not_lose_the_operation(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, caplog: pytest.LogCaptureFixture
) -> None:
    """The operation runs: failing now would have the retry start a second one; the log has its name."""
    task = start({"duration": 0.2}, deferrable=True)
    store = FullStore(room=1)  # for the request id
    assert "id" in run(task, ti=ti, store=store).result
    assert task.starts[0] in caplog.text
    assert "the disk is full" in caplog.text


def test_nothing_is_started_with_an_id_that_cannot_be_stored(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance
) -> None:
    """A retry would have another id, and so start another operation."""
    task = start({"duration": 0.2})
    with pytest.raises(RuntimeError, match="the disk is full"):
        run(task, ti=ti, store=FullStore(room=0))
    assert task.starts == []


def test_store_that_was_emptied_is_a_new_life(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore
) -> None:
    """Airflow 3.4 empties it when a user clears the task, whatever else a clear leaves as it was."""
    task = start({"duration": 0}, {"duration": 0})
    run(task, ti=ti, store=store)
    store.values.clear()
    run(task, ti=ti, store=store)
    assert len(set(task.starts)) == len(set(task.request_ids)) == 2


def forms(message: pb.Operation) -> dict[str, Any]:
    with warnings.catch_warnings(action="ignore"):  # it would like grpcio-status, and a newer Python
        from google.api_core import operation as api_core
    return {
        "name": message.name,
        "mapping": {"name": message.name, "done": False},
        "message": message,
        "api-core": api_core.Operation(message, lambda: message, lambda: None, pb.Operation),
        "ours": Operation.from_name(None, message.name),
    }


@pytest.mark.parametrize("form", ["name", "mapping", "message", "api-core", "ours"])
def test_takes_what_clients_return(form: str, name: Callable[..., str], ti: FakeTaskInstance) -> None:
    """A name, a mapping, the message, google-api-core's Operation or ours."""
    operation = forms(pb.Operation(name=name(duration=0.1)))[form]

    class Start(StartOperationOperator):
        def start(self, context: Any) -> Any:
            return operation

    assert "id" in run(Start(task_id="start", interval=0.1), ti=ti).result


def test_client_that_cannot_be_looked_into_costs_no_name(
    name: Callable[..., str], ti: FakeTaskInstance, store: FakeStore
) -> None:
    """Its endpoint stays unknown; the operation is stored, and waited for."""

    class Odd:
        operation = pb.Operation(name=name(duration=0.1))

        @property
        def _refresh(self) -> Any:
            raise RuntimeError("closed")

    class Start(StartOperationOperator):
        def start(self, context: Any) -> Any:
            return Odd()

    api_core = pytest.importorskip("google.api_core.operation")
    assert api_core
    assert "id" in run(Start(task_id="start", interval=0.1), ti=ti, store=store).result
    assert store.get("lro_operation")["name"] == Odd.operation.name


def test_outcome_that_comes_with_the_start(ti: FakeTaskInstance, simulator: Simulator) -> None:
    """A done operation without a name (`validate_only`) is an outcome, and nothing is polled."""
    before = len(simulator.calls())

    class Start(StartOperationOperator):
        def start(self, context: Any) -> Any:
            done = pb.Operation(done=True)
            done.error.code = 3
            return done

    with pytest.raises(OperationFailed):
        run(Start(task_id="start"), ti=ti)
    assert len(simulator.calls()) == before


@pytest.mark.parametrize(
    ("returned", "result"),
    [
        ({"name": "o", "done": True, "response": {"rows": 5}}, {"rows": 5}),
        ({"name": "o", "done": True, "response": {"@type": f"{TYPES}/no.such.Type", "rows": 5}}, {"rows": 5}),
        ({"done": True, "response": {"@type": f"{TYPES}/google.protobuf.Struct", "value": {"a": 1}}}, {"a": 1.0}),
        ({"done": True, "metadata": {"@type": f"{TYPES}/no.such.Type"}, "response": {"F\0": 1}}, {"F\ufffd": 1}),
        ({"done": True, "response": struct_pb2.Struct(fields={"a": struct_pb2.Value(bool_value=True)})}, {"a": True}),
        ({"done": True, "response": Counts(work_completed=5)}, {"work_completed": "5", "work_estimated": "0"}),
        ({"name": "o", "done": True, "error": {"code": 9, "message": "no"}}, (9, "no", [])),
        ({"done": True, "error": {"code": 9, "message": "no", "details": [{"@type": "t/no.such.Type", "a": 1}]}},
         (9, "no", [{"@type": "t/no.such.Type", "a": 1}])),
        ({"done": True, "error": "broken"}, (2, "broken", [])),
    ],
)  # fmt: skip
def test_done_operation_as_json(
    returned: dict[str, Any], result: Any, ti: FakeTaskInstance, simulator: Simulator
) -> None:
    """As REST clients have it, with types that nobody knows here: its outcome is read, and nothing is polled."""
    before = len(simulator.calls())

    class Start(StartOperationOperator):
        def start(self, context: Any) -> Any:
            return returned

    if isinstance(result, dict):
        assert run(Start(task_id="start"), ti=ti).result == result
    else:
        with pytest.raises(OperationFailed) as raised:
            run(Start(task_id="start"), ti=ti)
        assert (raised.value.code, raised.value.message, raised.value.details) == result
    assert len(simulator.calls()) == before


class ExtendedOperation:
    """Compute's, as its client returns it."""

    def __init__(self, message: Any) -> None:
        self._extended_operation = message


def other_kind(full_name: str) -> Any:
    package, _, name = full_name.rpartition(".")
    file = descriptor_pb2.FileDescriptorProto(name=f"{full_name}.proto", package=package)
    file.message_type.add(name=name)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(full_name))()


@pytest.mark.parametrize(
    ("returned", "kind"),
    [
        (other_kind("google.container.v1.Operation"), "google.container.v1.Operation"),
        (ExtendedOperation(other_kind("google.cloud.compute.v1.Operation")), "google.cloud.compute.v1.Operation"),
        ({"kind": "compute#operation", "name": "operation-1", "status": "RUNNING"}, "compute#operation"),
        ({"name": "operation-1", "operationType": "CREATE_CLUSTER", "selfLink": "https://x"}, "one of GKE's API"),
    ],
)
def test_operation_of_another_kind(returned: Any, kind: str, ti: FakeTaskInstance, store: FakeStore) -> None:
    """It says which one it is, and that it is not supported, instead of polling a name that nobody knows."""

    class Start(StartOperationOperator):
        def start(self, context: Any) -> Any:
            return returned

    with pytest.raises(AirflowFailException, match=r"only those of google\.longrunning are") as raised:
        run(Start(task_id="start"), ti=ti, store=store)
    assert f"({kind})" in str(raised.value)
    assert store.get("lro_operation") is None


@pytest.mark.parametrize("nonsense", [None, 7, pb.Operation(), "", {"id": 1}], ids=repr)
def test_start_that_returns_no_operation(nonsense: Any, ti: FakeTaskInstance, store: FakeStore) -> None:
    """What cannot be waited for says what was expected, and stores nothing."""

    class Start(StartOperationOperator):
        def start(self, context: Any) -> Any:
            return nonsense

    with pytest.raises(AirflowFailException, match="no retry is made") as raised:
        run(Start(task_id="start"), ti=ti, store=store)
    assert "operation_name" not in str(raised.value)  # which is another operator's argument
    assert store.get("lro_operation") is None


@WAYS
def test_operation_that_somebody_else_cancels_is_not_replaced(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore, deferrable: bool
) -> None:
    """A retry that waits on for an operation takes its cancellation as any other: it was not the task's own kill."""
    first = start({"outcome": "never", "cancel_delay": 0.3}, deferrable=True)
    with pytest.raises(TaskDeferred):
        first.execute({"ti": ti, "task_state_store": store})
    with LongRunningOperationHook() as hook:
        hook.cancel_operation(first.starts[0])
    second = start({"duration": 0}, deferrable=deferrable)
    with pytest.raises(OperationCancelled):
        run(second, ti=ti, store=store)
    assert second.starts == []


def test_connection_that_is_not_stored_is_known_before_the_start(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance
) -> None:
    """What cannot be waited for is not started."""
    task = start({"duration": 0}, lro_conn_id="not_stored")
    with pytest.raises(EndpointError, match="not_stored"):
        run(task, ti=ti)
    assert task.starts == []


@pytest.mark.parametrize("garbage", ["a name", {"id": 1}, [], {"name": ""}], ids=repr)
def test_garbage_in_the_store_starts_nothing(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore, garbage: Any
) -> None:
    """What is stored is not understood: the error names the key, and nothing is started over it."""
    store.set("lro_operation", garbage)
    task = start({"duration": 0})
    with pytest.raises(ValueError, match="lro_operation"):
        run(task, ti=ti, store=store)
    assert task.starts == []


def test_clear_before_the_result_does_not_count_after_it(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore
) -> None:
    """A task that was cleared while it waited, and whose result Airflow then failed to take, starts nothing again."""
    first = start({"duration": 1}, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        first.execute({"ti": ti, "task_state_store": store})
    fire(deferred.value.trigger.serialize())
    ti.max_tries += 1  # what a clear does
    second = start({})
    assert run(second, ti=ti, store=store).result == run(second, ti=ti, store=store).result
    assert second.starts == []


@pytest.mark.parametrize("stored", [True, False], ids=["store", "no store"])
def test_what_start_leaves_in_the_context_outlives_the_deferral(
    simulator: Simulator,
    ti: FakeTaskInstance,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    *,
    stored: bool,
) -> None:
    """A `map_index_template` reads it when all is over, on a worker that has not called `start`; a retry, too."""

    class Start(StartSimulation):
        odd = False

        def start(self, context: Any) -> Any:
            context["lake"], context["client"] = "sales\0", object() if self.odd else 7
            return super().start(context)

    def task() -> Start:
        return Start(endpoint=simulator.endpoint, script={"duration": 1}, deferrable=True)

    there = {"task_state_store": FakeStore()} if stored else {}
    with pytest.raises(TaskDeferred) as deferred:
        task().execute({"ti": ti, **there})
    kwargs = json.loads(json.dumps(deferred.value.kwargs))
    context: dict[str, Any] = {"ti": ti, **there}
    event = fire(deferred.value.trigger.serialize())
    task().resume_execution("execute_complete", {**kwargs, "event": event}, context)
    assert (context["lake"], context["client"]) == ("sales\ufffd", 7)
    if stored:
        retry: dict[str, Any] = {"ti": ti, **there}
        task().execute(retry)
        assert retry["lake"] == "sales\ufffd"
    odd = task()
    odd.odd = True
    with pytest.raises(TaskDeferred) as deferred:
        odd.execute({"ti": FakeTaskInstance(run_id=uuid.uuid4().hex)})
    assert "left_in_context" not in deferred.value.kwargs
    assert "(lake, client) is not kept: it is not JSON" in capfd.readouterr().out + caplog.text


@WAYS
def test_clear_while_it_waits_cancels_and_starts_anew(
    start: Callable[..., StartSimulation],
    ti: FakeTaskInstance,
    store: FakeStore,
    simulator: Simulator,
    *,
    deferrable: bool,
) -> None:
    """The next try may wait before the triggerer has heard of the clear; then the trigger leaves it alone."""
    first = start({"outcome": "never"}, deferrable=True)
    with pytest.raises(TaskDeferred):
        first.execute({"ti": ti, "task_state_store": store})
    ti.max_tries += 1  # what a clear does
    second = start({"duration": 0.2, "response": {"rows": 5}}, deferrable=deferrable)
    assert run(second, ti=ti, store=store).result == {"rows": 5.0}
    assert len(simulator.calls("CancelOperation", first.starts[0])) == 1
    assert simulator.calls("CancelOperation", second.starts[0]) == []
    assert first.request_ids != second.request_ids


def test_clear_after_a_failed_try_goes_on(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore, simulator: Simulator
) -> None:
    """An operation that a try has left running was killed by nobody, and neither by the retries after the clear."""
    first = start({"duration": 1, "response": {"rows": 5}}, wait_timeout=0.1)
    with pytest.raises(OperationTimeout):
        run(first, ti=ti, store=store)
    ti.max_tries += 1  # what a clear does
    with pytest.raises(OperationTimeout):
        run(start({}, wait_timeout=0.1), ti=ti, store=store)
    assert run(start({}), ti=ti, store=store).result == {"rows": 5.0}
    assert simulator.calls("CancelOperation", first.starts[0]) == []


def test_clear_without_cancel_on_kill_goes_on(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore, simulator: Simulator
) -> None:
    """Nobody wants it cancelled, and two of them at the same time would be worse."""
    first = start({"duration": 1, "response": {"rows": 5}}, deferrable=True)
    with pytest.raises(TaskDeferred):
        first.execute({"ti": ti, "task_state_store": store})
    ti.max_tries += 1  # what a clear does
    assert run(start({}, cancel_on_kill=False), ti=ti, store=store).result == {"rows": 5.0}
    assert simulator.calls("CancelOperation", first.starts[0]) == []


def test_kill_is_recorded_and_nothing_is_forgotten(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore
) -> None:
    """What a clear is told by stays stored: a task that was killed, had its result and is cleared later starts anew."""
    task = start({"duration": 0}, {"duration": 0})
    run(task, ti=ti, store=store)
    before = store.get("lro_operation")
    TaskStore({"ti": ti, "task_state_store": store}).record_kill()  # type: ignore[typeddict-item]
    assert store.get("lro_operation") == {**before, "killed": True}
    ti.max_tries += 1
    run(task, ti=ti, store=store)
    assert len(task.starts) == 2


def test_record_of_an_older_version_is_understood(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore, name: Callable[..., str]
) -> None:
    """A name is enough."""
    store.set("lro_operation", {"name": name(duration=0.1), "of_a_later_version": 1})
    assert "id" in run(start({}), ti=ti, store=store).result


def test_event_of_another_operation_is_refused(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore
) -> None:
    """It says nothing about the operation that this task has started, which stays stored."""
    task = start({"duration": 5}, deferrable=True)
    context = {"ti": ti, "task_state_store": store}
    with pytest.raises(TaskDeferred):
        task.execute(context)
    event = {
        "name": "other",
        "outcomes": "F",
        "known": {"0": {"operation": {"done": True, "code": 5}}},
        "started_at": 1,
    }
    with pytest.raises(ValueError, match="this task waits for"):
        task.execute_complete(context, event)
    assert store.get("lro_operation")["name"] == task.starts[0]


def test_start_must_be_overridden(ti: FakeTaskInstance) -> None:
    """The base by itself starts nothing, and says so."""
    with pytest.raises(NotImplementedError, match="must override start"):
        run(StartOperationOperator(task_id="start"), ti=ti)


def test_kill_cancels_unless_turned_off() -> None:
    """Who starts the work is asked to stop it; the trigger's row says so."""
    assert StartOperationOperator(task_id="start").cancel_on_kill
    assert not StartOperationOperator(task_id="start", cancel_on_kill=False).cancel_on_kill


@pytest.mark.parametrize("wrong", [{"wait_timeout": -1}, {"interval": 0}, {"on_timeout": "?"}, {"on_cancelled": "?"}])
def test_nonsense_is_refused_as_the_dag_is_read(wrong: dict[str, Any]) -> None:
    """Arguments are checked where the DAG's author sees it."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StartOperationOperator(task_id="start", **wrong)


@WAYS
@pytest.mark.parametrize("made", ["transferOperations/{}", "operations/build/{}", "{}"])
def test_name_that_does_not_tell_what_to_list_is_waited_for(
    fake: FakeService, ti: FakeTaskInstance, made: str, deferrable: bool
) -> None:
    """Only the start tells it, so it is too late for an error: the operation is polled by itself."""

    class Starting(StartOperationOperator):
        def start(self, context: Any) -> str:
            name = made.format(len(fake.operations))
            fake.operations[name] = pb.Operation(name=name)
            return name

    def end(method: str, name: str) -> None:
        if method == "GetOperation" and fake.acted(method).count(name) > 1:
            fake.operations[name].done = True

    fake.before = end
    task = Starting(task_id="start", poll_method="list", interval=0.1, initial_delay=0.1, deferrable=deferrable)
    run(task, ti=ti)
    assert len(fake.operations) == 1


@pytest.mark.parametrize("stored", [True, False], ids=["store", "no store"])
def test_endpoint_that_the_name_spoils_starts_no_second(
    ti: FakeTaskInstance, store: FakeStore, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """A {location} that the operation's name turns out not to have: without a store no retry may start another."""
    stored_connection = '{"conn_type": "lro", "host": "{location}.example", "port": 1, "extra": {"insecure": true}}'
    monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", stored_connection)
    starts: list[str] = []

    class Starting(StartOperationOperator):
        def start(self, context: Any) -> str:
            starts.append(f"operations/{len(starts)}")
            return starts[-1]

    kind = EndpointError if stored else AirflowFailException
    with pytest.raises(kind, match=r"the operation is started, and cannot be polled: .*location"):
        run(Starting(task_id="start"), ti=ti, store=store if stored else None)
    if stored:
        with pytest.raises(EndpointError):
            run(Starting(task_id="start"), ti=ti, store=store)
    assert starts == ["operations/0"]


@pytest.mark.parametrize("stored", [True, False], ids=["store", "no store"])
def test_inferred_endpoint_that_is_not_allowed_starts_no_second(
    fake: FakeService, ti: FakeTaskInstance, store: FakeStore, monkeypatch: pytest.MonkeyPatch, *, stored: bool
) -> None:
    """The token is not sent where a client happens to call; a retry waits for the same one, once it may."""
    monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", '{"conn_type": "lro", "password": "a-token"}')
    name = fake.add("o", age=5000, ended=4000)
    starts: list[str] = []

    class Starting(StartOperationOperator):
        def start(self, context: Any) -> Any:
            starts.append(name)
            with OperationsClient.connect(f"127.0.0.1:{fake.port}", insecure=True) as client:
                return Operation.from_name(client, name)

    kind = EndpointError if stored else AirflowFailException
    line = rf'cannot be polled: .*"allowed_endpoints": \[.*"127.0.0.1:{fake.port}"\].*{name}'
    with pytest.raises(kind, match=line):
        run(Starting(task_id="start"), ti=ti, store=store if stored else None)
    if stored:
        with pytest.raises(EndpointError, match="are not sent to"):
            run(Starting(task_id="start"), ti=ti, store=store)
        assert fake.acted("GetOperation") == []
        monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", '{"conn_type": "lro", "extra": {"insecure": true}}')
        ti.try_number = 2
        run(Starting(task_id="start"), ti=ti, store=store)
        assert fake.acted("GetOperation") == [name]
    assert starts == [name]


@pytest.mark.parametrize("how", ["gone", "unreachable", "no connection"])
@pytest.mark.parametrize("stored", [True, False], ids=["store", "no store"])
def test_success_that_cannot_be_read_again_is_not_done_again(
    start: Callable[..., StartSimulation],
    ti: FakeTaskInstance,
    store: FakeStore,
    monkeypatch: pytest.MonkeyPatch,
    *,
    how: str,
    stored: bool,
) -> None:
    """The trigger has seen it succeed: whatever its response has come to, no retry starts another one."""
    monkeypatch.setattr(_base, "READ_AGAIN_TIMEOUT", 0.5)
    connection = os.environ["AIRFLOW_CONN_LRO_DEFAULT"]
    task = start({"duration": 1, "response_bytes": 200_000}, deferrable=True, not_found_grace=0, rpc_timeout=1)

    def spoil() -> None:
        if how == "gone":
            with LongRunningOperationHook() as hook:
                hook.delete_operation(task.starts[0])
        elif how == "no connection":
            monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", '{"conn_type": "lro", "host": "http://x"}')
        else:
            nobody = '{"conn_type": "lro", "host": "127.0.0.1", "port": 9, "extra": {"insecure": true}}'
            monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", nobody)

    text = "has succeeded, " if how != "no connection" or not stored else "host"
    with pytest.raises((LroError, AirflowFailException), match=text) as raised:
        run(task, ti=ti, store=store if stored else None, before_resume=spoil)
    assert isinstance(raised.value, AirflowFailException) is (how == "gone" or not stored)
    if stored:  # the next try finds it, and does not take it for one that never was when it has gone by then
        monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", connection)
        if how != "gone":
            with LongRunningOperationHook() as hook:
                hook.delete_operation(task.starts[0])
        ti.try_number = 2
        again = start({"duration": 0.2}, deferrable=True, not_found_grace=0)
        with pytest.raises(AirflowFailException, match="is over, as an earlier try saw, and the service does not"):
            run(again, ti=ti, store=store)
        assert again.starts == []


@pytest.mark.parametrize("on_timeout", ["fail", "cancel"])
def test_somebody_elses_cancel_is_not_taken_for_that_of_a_timeout(
    start: Callable[..., StartSimulation], ti: FakeTaskInstance, store: FakeStore, on_timeout: str
) -> None:
    """Only an earlier try that took too long makes it so; one that lost its connection does not."""
    kwargs = {"deferrable": True, "on_cancelled": "skip", "on_timeout": on_timeout}
    first = start({"duration": 5, "fault": "PERMISSION_DENIED*1"}, **kwargs)
    with pytest.raises(RpcError):
        run(first, ti=ti, store=store)
    ti.try_number = 2
    second = start({"duration": 0.2}, **kwargs)

    context = {"ti": ti, "task_state_store": store}
    with pytest.raises(TaskDeferred) as deferral:
        second.execute(context)
    with LongRunningOperationHook() as hook:
        hook.cancel_operation(first.starts[0])
    event = fire(deferral.value.trigger.serialize())
    with pytest.raises(AirflowSkipException):
        second.execute_complete(context, event, **deferral.value.kwargs)
    assert second.starts == []


def test_request_id_of_what_has_no_name_changes_with_a_clear(ti: FakeTaskInstance, store: FakeStore) -> None:
    """An API that knows a request id again would make nothing of the cleared run; a retry is the same start."""
    ids: list[str] = []

    class Starting(StartOperationOperator):
        def start(self, context: Any) -> pb.Operation:
            ids.append(self.request_id)
            return pb.Operation(done=True)

    for try_number, max_tries in ((1, 0), (2, 0), (3, 2), (4, 2), (5, 4)):
        ti.try_number, ti.max_tries = try_number, max_tries
        run(Starting(task_id="start"), ti=ti, store=store)
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert len(set(ids)) == 3
