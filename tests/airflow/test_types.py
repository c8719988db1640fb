"""Types of a task's messages, and the lines of progress that they make readable: on the worker and in the triggerer."""

from __future__ import annotations

import json
import logging
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from google.longrunning import operations_proto_pb2 as pb

from airflow_provider_lro._core.names import short_name
from airflow_provider_lro.exceptions import OperationFailed, OperationTimeout, PayloadTypeError
from airflow_provider_lro.operators import GetOperationOperator, ListOperationsOperator, StartOperationOperator
from airflow_provider_lro.sensors import LongRunningOperationSensor
from tests.airflow import worker
from tests.airflow.fake_service import PARENT, FakeService
from tests.airflow.running import tasks
from tests.airflow.test_end_from_trigger import CAN_END, SINCE_3_3, XComs, fire, xcoms  # noqa: F401  (a fixture)
from tests.airflow.worker import FakeStore, FakeTaskInstance, run
from tests.grpc.conftest import serve  # noqa: F401  (a fixture)
from tests.late_types import LateModule, late_module
from tests.plus import Lake, Metadata, State
from tests.versions import AirflowFailException, AirflowSkipException, TaskDeferred

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scripts.stack import AirflowStack
    from tests.grpc.conftest import FakeServer
    from tests.simulator_fixture import Simulator

WAYS = pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "on the worker"])
TRIGGER = "airflow_provider_lro.triggers.LongRunningOperationTrigger"
ROW = {"operation_name": "operations/fill", "lro_conn_id": "late", "interval": 0.1}
VERBS = ["plan", "plan", "dig", "fill", "fill", "plan"]
"""The verbs of the metadata, poll by poll; then the operation is done."""


@pytest.fixture
def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LateModule:
    """Give types that this process does not know yet."""
    return late_module(tmp_path, monkeypatch)


@pytest.fixture
def server(late: LateModule, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch) -> FakeServer:  # noqa: F811
    """Serve operations of late types: `operations/fill` is done at the seventh poll, `…/fail` fails then."""
    polls: dict[str, int] = {}

    def get(request: Any, context: Any) -> pb.Operation:
        poll = polls[request.name] = polls.get(request.name, -1) + 1
        operation = pb.Operation(name=request.name)
        over = poll >= len(VERBS)
        never = request.name.endswith("never")
        operation.metadata.CopyFrom(late.metadata(VERBS[-1 if over or never else poll]))
        if over and not never:
            operation.done = True
            if request.name.endswith("fail"):
                operation.error.code = 9
            else:
                operation.response.CopyFrom(late.response("erie"))
        return operation

    fake = serve(GetOperation=get)
    stored = {"conn_type": "lro", "host": "127.0.0.1", "port": fake.port, "extra": {"insecure": True}}
    monkeypatch.setenv("AIRFLOW_CONN_LATE", json.dumps(stored))
    return fake


def sensor(operation_name: str = "operations/fill", **kwargs: Any) -> LongRunningOperationSensor:
    defaults = {"task_id": "wait", "lro_conn_id": "late", "poke_interval": 0.1, "timeout": 20}
    return LongRunningOperationSensor(operation_name=operation_name, **{**defaults, **kwargs})


class Fill(StartOperationOperator):
    """Starts `operations/fill`, and counts."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(task_id="fill", lro_conn_id="late", interval=0.1, **kwargs)
        self.starts = 0

    def start(self, context: Any) -> str:
        self.starts += 1
        return "operations/fill"


def deferred(task: Any) -> tuple[str, dict[str, Any]]:
    with pytest.raises(TaskDeferred) as raised:
        task.execute({"ti": FakeTaskInstance()})
    row: tuple[str, dict[str, Any]] = raised.value.trigger.serialize()
    return row


def lines(caplog: pytest.LogCaptureFixture, name: str = "operations/fill") -> list[str]:
    """Return what was logged of an operation's progress."""
    messages = [record.getMessage() for record in caplog.records if record.name.endswith(".driver")]
    progress = [message for message in messages if " polls here, " not in message and " poll here, " not in message]
    return [message.removesuffix(f" [operation {short_name(name)!r}]") for message in progress]


# ── types ──


@WAYS
@pytest.mark.parametrize("spelling", ["path", "colon", "full name", "module"])
def test_late_type_is_known_when_it_is_named(
    server: FakeServer, late: LateModule, spelling: str, deferrable: bool
) -> None:
    """By its import path, by its full name with its module, or by the module alone: the XCom is the response."""
    kwargs: dict[str, Any] = {
        "path": {"response_type": f"{late.module}.Lake"},
        "colon": {"response_type": f"{late.module}:Lake"},
        "full name": {"response_type": late.lake, "type_modules": [late.module]},
        "module": {"type_modules": (late.module,)},
    }[spelling]
    assert run(sensor(deferrable=deferrable, **kwargs)).result == {"name": "erie"}


def test_class_itself_is_a_type(server: FakeServer) -> None:
    """A response of another type than the class is an error; a class crosses as its import path."""
    task = sensor(response_type=Lake, metadata_type=Metadata, deferrable=True)
    assert deferred(task)[1]["metadata_type"] == "tests.plus:Metadata"
    with pytest.raises(PayloadTypeError, match=r"but 'lro_tests\.plus\.Lake'"):
        run(task)


@WAYS
@pytest.mark.parametrize(
    "kwargs",
    [{"response_type": "nowhere.Lake"}, {"metadata_type": "nowhere:Lake"}, {"type_modules": ["nowhere"]}],
    ids=str,
)
def test_type_that_is_not_there_is_known_before_anything_happens(
    server: FakeServer, kwargs: dict[str, Any], deferrable: bool
) -> None:
    """Nothing is polled, and nothing started; the error names the argument, and may be gone on another worker."""
    starter = Fill(deferrable=deferrable, **kwargs)
    for task in (sensor(deferrable=deferrable, **kwargs), starter):
        with pytest.raises(ValueError, match=f"{next(iter(kwargs))}.*No module named 'nowhere'") as caught:
            run(task, store=FakeStore())
        assert not isinstance(caught.value, AirflowFailException)
    assert starter.starts == 0
    assert server.calls == []


@pytest.mark.parametrize(
    "kwargs", [{"response_type": 5}, {"metadata_type": ""}, {"type_modules": 5}, {"type_modules": [5]}], ids=str
)
def test_value_that_cannot_be_a_type_is_refused_at_parse_time(kwargs: dict[str, Any]) -> None:
    """The constructor checks the form of a type, and imports nothing."""
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        sensor(**kwargs)
    sensor(response_type="nowhere.Lake", type_modules="nowhere")


@WAYS
def test_another_type_is_never_retried(server: FakeServer, late: LateModule, deferrable: bool) -> None:
    """The operation has succeeded: a retry of a sensor would find the same, one of a starter might start it again."""
    store = FakeStore()
    starter = Fill(deferrable=deferrable, response_type="tests.plus.Lake")
    for task in (sensor(deferrable=deferrable, response_type=Lake, soft_fail=True), starter):
        with pytest.raises(PayloadTypeError, match=rf"is a '{late.lake}', but 'lro_tests\.plus\.Lake'") as caught:
            run(task, store=store)
        assert isinstance(caught.value, AirflowFailException)
    # Once it is corrected, and the task cleared, the result of that very operation is the task's.
    corrected = Fill(deferrable=deferrable, response_type=f"{late.module}:Lake")
    cleared = FakeTaskInstance(max_tries=1)
    assert run(corrected, store=store, ti=cleared).result == {"name": "erie"}
    assert (starter.starts, corrected.starts) == (1, 0)


def test_never_fail_skips_another_type(server: FakeServer) -> None:
    """A wrong type is a skip like any other error."""
    with pytest.raises(AirflowSkipException, match="asked for"):
        run(sensor(response_type=Lake, never_fail=True))


def on_another_worker(task: Any) -> Callable[[], None]:
    """Return a function that makes a task resume where one of its modules is missing."""
    return partial(setattr, task, "type_modules", ["nowhere"])


@pytest.mark.parametrize("stored", [True, False], ids=["store", "no store"])
def test_worker_without_the_type_does_not_start_again(server: FakeServer, stored: bool) -> None:
    """A worker that cannot decode the result of what is done says so; a retry is made only where it starts nothing."""
    task = Fill(deferrable=True)
    with pytest.raises((ValueError, AirflowFailException), match="No module named 'nowhere'") as caught:
        run(task, store=FakeStore() if stored else None, before_resume=on_another_worker(task))
    assert isinstance(caught.value, AirflowFailException) is not stored


def test_missing_type_does_not_hide_a_failure(server: FakeServer) -> None:
    """An operation that failed has failed, whatever its response would have been."""
    task = sensor("operations/fail", deferrable=True)
    with pytest.raises(OperationFailed):
        run(task, before_resume=on_another_worker(task))
    task = sensor(deferrable=True)
    with pytest.raises(ValueError, match="No module named 'nowhere'"):
        run(task, before_resume=on_another_worker(task))


def test_row_holds_texts_and_only_where_they_are_given(server: FakeServer) -> None:
    """Types cross as plain text; without them the row is that of the first version."""
    assert not {"metadata_type", "type_modules", "response_type"} & set(deferred(sensor(deferrable=True))[1])
    row = deferred(sensor(deferrable=True, metadata_type=Metadata, type_modules=["tests.plus", "json"]))[1]
    assert (row["metadata_type"], row["type_modules"]) == ("tests.plus:Metadata", "tests.plus,json")


# ── ended in the triggerer ──


def ended(late: LateModule, **types: str) -> Any:
    """Run a trigger that ends its task, in a process that no worker has imported anything into."""
    return fire((TRIGGER, {**ROW, "end_from_trigger": True, **types}))


@SINCE_3_3
def test_triggerer_decodes_as_a_worker_does(server: FakeServer, late: LateModule, xcoms: XComs) -> None:  # noqa: F811
    """The type that the task names is imported in the triggerer, and the XCom is a worker's."""
    assert type(ended(late, response_type=f"{late.module}:Lake")).__name__ == "TaskSuccessEvent"
    assert [value for key, value in xcoms.values.items() if key[-1] == "return_value"] == [{"name": "erie"}]
    assert run(sensor(response_type=late.lake, end_from_trigger=True, deferrable=True)).result == {"name": "erie"}


@SINCE_3_3
@pytest.mark.parametrize("types", [{"response_type": "tests.plus:Lake"}, {"type_modules": "nowhere"}, {}], ids=str)
def test_triggerer_leaves_to_a_worker_what_it_cannot_decode(
    server: FakeServer,
    late: LateModule,
    xcoms: XComs,  # noqa: F811
    types: dict[str, str],
) -> None:
    """Another type is an error, which a worker raises; a type that is not there may be there on a worker."""
    event = ended(late, **types)
    assert type(event).__name__ == "TriggerEvent"
    assert event.payload["outcomes"] == "S"
    assert xcoms.values == {}


@SINCE_3_3
def test_row_of_the_end_holds_the_type(server: FakeServer) -> None:
    """A trigger that ends its task knows what is asked of the response."""
    row = deferred(sensor(deferrable=True, end_from_trigger=True, response_type=Lake))[1]
    assert row["response_type"] == "tests.plus:Lake"


# ── progress ──


@pytest.mark.parametrize("names", [{"metadata_type": "{}:Metadata"}, {"type_modules": "{}"}], ids=str)
def test_progress_is_logged_when_it_changes(
    server: FakeServer, late: LateModule, names: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """A line for each change, none for a repetition; a line may come back later."""
    caplog.set_level(logging.INFO)
    run(sensor(**{key: text.format(late.module) for key, text in names.items()}))
    assert lines(caplog) == ["plan", "dig", "fill", "plan"]


def test_triggerer_logs_progress_as_well(
    server: FakeServer, late: LateModule, caplog: pytest.LogCaptureFixture
) -> None:
    """It imports the metadata's type itself, and says at most once more what the worker has said."""
    caplog.set_level(logging.INFO)
    event = worker.fire((TRIGGER, {**ROW, "metadata_type": f"{late.module}.Metadata"}))
    assert event["outcomes"] == "S"
    assert lines(caplog) == ["plan", "dig", "fill", "plan"]


def test_wait_goes_on_without_types(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    """A triggerer where a module is missing waits all the same; it says so, and there is no progress to read."""
    caplog.set_level(logging.INFO)
    assert worker.fire((TRIGGER, {**ROW, "type_modules": "nowhere"}))["outcomes"] == "S"
    assert lines(caplog) == []
    assert [record.levelname for record in caplog.records if "nowhere" in record.getMessage()] == ["WARNING"]


def test_percentages_of_the_simulator(name: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    """The simulator's progress is logged in order, each percentage once."""
    caplog.set_level(logging.INFO)
    operation = name(duration=0.5)
    run(sensor(operation, lro_conn_id="lro_default"))
    said = lines(caplog, operation)
    assert said[-1] == "100 %, simulate"
    assert len(set(said)) == len(said) >= 2
    assert said == sorted(said, key=lambda line: int(line.split()[0]))


def test_unknown_progress_is_not_logged(name: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    """No metadata, and metadata of a type that nobody knows: no line."""
    caplog.set_level(logging.INFO)
    for metadata in ("none", "unknown"):
        operation = name(duration=0.2, metadata=metadata)
        run(sensor(operation, lro_conn_id="lro_default"))
        assert lines(caplog, operation) == []


@WAYS
def test_timeout_has_the_last_progress(server: FakeServer, late: LateModule, deferrable: bool) -> None:
    """As the line of the log where there is one, else as JSON."""
    kwargs: dict[str, Any] = {"timeout": 0.3, "deferrable": deferrable}
    with pytest.raises(OperationTimeout, match=r'progress: \{"@type": .*Metadata'):
        run(sensor("operations/never", **kwargs))
    with pytest.raises(OperationTimeout, match=r"Its last known progress: plan\. \[operation "):
        run(sensor("operations/never", metadata_type=f"{late.module}:Metadata", **kwargs))


def test_line_of_a_service_is_one_line_in_the_log(
    serve: Callable[..., FakeServer],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A status message cannot write lines of its own, neither into the log nor into an error."""
    operation = pb.Operation()
    said = Metadata(state=State.RUNNING, status_message="copying\n[ERROR] forged\x1b[2J")
    operation.metadata.Pack(Metadata.pb(said))
    fake = serve(GetOperation=lambda request, context: operation)
    stored = {"conn_type": "lro", "host": "127.0.0.1", "port": fake.port, "extra": {"insecure": True}}
    monkeypatch.setenv("AIRFLOW_CONN_LATE", json.dumps(stored))
    caplog.set_level(logging.INFO)
    with pytest.raises(OperationTimeout) as caught:
        run(sensor(timeout=0))
    assert lines(caplog) == ["RUNNING: copying [ERROR] forged [2J"]
    assert str(caught.value).isprintable()


# ── in a real Airflow ──


@pytest.mark.airflow
@pytest.mark.timeout(480)
@pytest.mark.needs_run("typed")
def test_types_in_a_real_airflow(airflow: AirflowStack, service: Simulator, run_of: Callable[[str], str]) -> None:
    """Progress is in the task's log of all; a wrong type fails without a retry, a missing one before any poll."""
    run_id = run_of("typed")
    airflow.wait_for_run("typed", run_id, timeout=400)
    came = {task: (state.state, state.try_number) for (task, _), state in tasks(airflow, "typed", run_id).items()}
    ended_too = {"ended": ("success", 1)} if CAN_END else {}
    assert came == {"right": ("success", 1), "wrong": ("failed", 1), "missing": ("failed", 1), **ended_too}
    for task in ("right", *ended_too):
        said = re.findall(r"(\d+) %%, simulate \[operation .*-%s'" % task, airflow.task_log("typed", run_id, task))  # noqa: UP031
        assert (int(said[0]) < 100, said[-1]) == (True, "100")
        assert airflow.xcom("typed", run_id, task) == {"id": f"{run_id}-{task}"}
    assert "'google.protobuf.Duration' was asked for" in airflow.task_log("typed", run_id, "wrong")
    assert "type_modules: 'no_such_module' cannot be imported" in airflow.task_log("typed", run_id, "missing")
    assert service.calls(name=f"simulations/duration=5/operations/{run_id}-missing") == []


def test_types_that_a_task_names_are_read(fake: FakeService, late: LateModule) -> None:
    """Without `type_modules` the process does not know them, and the JSON holds bytes."""
    name = fake.add("o", ended=0)
    fake.operations[name].metadata.CopyFrom(late.metadata("create"))

    def metadata(**kwargs: Any) -> Any:
        got = run(GetOperationOperator(task_id="get", operation_name=name, **kwargs)).result
        (listed,) = run(ListOperationsOperator(task_id="list", parent=PARENT, **kwargs)).result
        assert got == listed
        return got["metadata"]

    assert set(metadata()) == {"@type", "value"}
    assert metadata(type_modules=late.module)["verb"] == "create"
    with pytest.raises(ValueError, match="type_modules"):
        metadata(type_modules=5)
