"""``end_from_trigger``: which ends are the triggerer's, which a worker's, and that their results are the same."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from airflow.triggers.base import BaseTrigger

from airflow_provider_lro import sensors, triggers
from airflow_provider_lro.exceptions import (
    MalformedOperation,
    OperationCancelled,
    OperationFailed,
    OperationNotFound,
    OperationTimeout,
)
from airflow_provider_lro.sensors import LongRunningOperationSensor
from scripts.stack import AirflowError
from tests.airflow.running import clear, mark, tasks, until
from tests.airflow.worker import FakeTaskInstance, inflate, run
from tests.versions import DAG, AirflowException, AirflowSkipException, TaskDeferred

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.stack import AirflowStack
    from tests.simulator_fixture import Simulator

CAN_END = hasattr(BaseTrigger, "on_kill")
"""Whether triggers of this Airflow can write XComs, and so end tasks: since 3.3."""
SINCE_3_3 = pytest.mark.skipif(not CAN_END, reason="needs Airflow 3.3")
ENDED = {"end_from_trigger": True}


def sensor(operation_name: Any = "operations/x", **kwargs: Any) -> LongRunningOperationSensor:
    defaults = {"task_id": "wait", "poke_interval": 0.1, "timeout": 20, "not_found_grace": 0, "deferrable": True}
    return LongRunningOperationSensor(operation_name=operation_name, **{**defaults, **kwargs})


class Pushed(Exception):
    """Stands for whatever may go wrong when an XCom is written."""


class XComs:
    """The XComs of Airflow's database, in memory; may refuse to write."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str, str, int, str], Any] = {}
        self.broken = False
        self.hangs = False

    async def aset(self, key: str, value: Any, *, dag_id: str, task_id: str, run_id: str, map_index: int) -> None:
        if self.hangs:
            await asyncio.sleep(3600)
        if self.broken:
            raise Pushed("no API server")
        self.values[dag_id, run_id, task_id, map_index, key] = json.loads(json.dumps(value))


@pytest.fixture
def xcoms(monkeypatch: pytest.MonkeyPatch) -> XComs:
    """Airflow's edge: the class through which a trigger writes XComs."""
    if not CAN_END:
        pytest.skip("needs Airflow 3.3")
    from airflow.sdk.execution_time import xcom

    store = XComs()
    monkeypatch.setattr(xcom, "XCom", store)
    return store


def fire(row: tuple[str, dict[str, Any]], **ti: Any) -> Any:
    """Run a trigger of a task to its one event."""

    async def events() -> list[Any]:
        trigger = inflate(json.loads(json.dumps(row)))
        trigger._task_instance = FakeTaskInstance(**ti)
        return [event async for event in trigger.run()]

    (event,) = asyncio.run(events())
    return event


def resume(task: LongRunningOperationSensor, event: Any) -> Any:
    return task.resume_execution(
        "execute_complete", {"event": json.loads(json.dumps(event.payload))}, {"ti": FakeTaskInstance()}
    )


def deferred(task: LongRunningOperationSensor) -> tuple[str, dict[str, Any]]:
    with pytest.raises(TaskDeferred) as raised:
        task.execute({"ti": FakeTaskInstance()})
    kind, kwargs = raised.value.trigger.serialize()
    return kind, kwargs


def test_end_is_refused_below_3_3(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trigger can neither write an XCom there nor end a task well."""
    monkeypatch.setattr(sensors, "triggers_have_on_kill", lambda: False)
    with pytest.raises(ValueError, match=r"needs Airflow 3\.3"):
        sensor(**ENDED)


@SINCE_3_3
def test_task_that_does_not_defer_is_refused() -> None:
    """Without a deferral there is no trigger."""
    with pytest.raises(ValueError, match="needs deferrable=True"):
        sensor(deferrable=False, **ENDED)


def ended(task: LongRunningOperationSensor, **ti: Any) -> Any:
    return fire(deferred(task), **ti)


def test_success_ends_the_task(name: Callable[..., str], xcoms: XComs) -> None:
    """The XCom is a worker's, under the task's own key."""
    operation = name(duration=0.2, response={"rows": 3})
    event = ended(sensor(operation, **ENDED), map_index=4)
    assert type(event).__name__ == "TaskSuccessEvent"
    assert not event.xcoms
    place = ("dag", "run", "task", 4)
    assert xcoms.values[*place, "return_value"] == {"rows": 3.0}
    assert xcoms.values[*place, "operation_name"] == operation
    assert xcoms.values[*place, "metadata"]["value"]["progress_percent"] == 100.0
    by_worker = run(sensor(operation))
    assert by_worker.result == {"rows": 3.0}
    assert by_worker.ti.xcoms == {key[-1]: value for key, value in xcoms.values.items() if key[-1] != "return_value"}


def test_without_xcom_push_none_is_written(name: Callable[..., str], xcoms: XComs) -> None:
    """`do_xcom_push=False` holds."""
    assert type(ended(sensor(name(duration=0.2), do_xcom_push=False, **ENDED))).__name__ == "TaskSuccessEvent"
    assert xcoms.values == {}


SKIPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "on_cancelled": ({"outcome": "cancelled"}, {"on_cancelled": "skip"}),
    "soft_fail": ({"outcome": "fail"}, {"soft_fail": True}),
    "soft_fail of a timeout": ({"outcome": "never"}, {"soft_fail": True, "timeout": 0.5}),
    "soft_fail of no result": ({"outcome": "neither"}, {"soft_fail": True, "require_result": True}),
    "never_fail": ({"fault": "7*forever", "fault_after": 1}, {"never_fail": True}),
}


@pytest.mark.parametrize("case", SKIPS)
def test_skip_ends_the_task(case: str, name: Callable[..., str], xcoms: XComs) -> None:
    """A worker's skip is a skip, with the same XComs, and no result."""
    script, kwargs = SKIPS[case]
    event = ended(sensor(name(**{"duration": 0.2, **script}), **ENDED, **kwargs))
    assert type(event).__name__ == "TaskSkippedEvent"
    assert {key[-1] for key in xcoms.values} == {"operation_name", "metadata", "partial_failures"}
    ti = FakeTaskInstance()
    with pytest.raises(AirflowSkipException):
        run(sensor(name(**{"duration": 0.2, **script}), **kwargs), ti=ti)
    assert set(ti.xcoms) == {"operation_name", "metadata", "partial_failures"}


FAILURES: dict[str, tuple[dict[str, Any], dict[str, Any], type[AirflowException]]] = {
    "failed": ({"outcome": "fail"}, {}, OperationFailed),
    "cancelled": ({"outcome": "cancelled"}, {}, OperationCancelled),
    "not found": ({"not_found": 99}, {}, OperationNotFound),
    "timeout": (
        {"outcome": "never"},
        {"timeout": 0.5, "on_cancelled": "skip", "on_timeout": "cancel"},
        OperationTimeout,
    ),
    "no result": ({"outcome": "neither"}, {"require_result": True}, MalformedOperation),
    "call failed": ({"fault": "7*forever", "fault_after": 1}, {"soft_fail": True}, AirflowException),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failure_goes_on_on_a_worker(case: str, name: Callable[..., str], xcoms: XComs) -> None:
    """There its error has a class, fields, and "no retry"."""
    script, kwargs, kind = FAILURES[case]
    task = sensor(name(**{"duration": 0.2, **script}), **ENDED, **kwargs)
    if case == "not found":
        task.not_found_grace = 0.3
    event = ended(task)
    assert type(event).__name__ == "TriggerEvent"
    with pytest.raises(kind):
        resume(task, event)
    assert xcoms.values == {}


@pytest.mark.parametrize("how", [{"broken": True}, {"hangs": True}])
def test_xcom_that_cannot_be_written_is_left_to_a_worker(
    how: dict[str, bool], name: Callable[..., str], xcoms: XComs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No success is reported whose result is not there."""
    vars(xcoms).update(how)
    monkeypatch.setattr(triggers, "XCOM_TIMEOUT", 0.2)
    task = sensor(name(duration=0.2, response={"rows": 3}), **ENDED)
    assert resume(task, ended(task)) == {"rows": 3.0}


@pytest.mark.parametrize(
    "script",
    [
        {"response_bytes": 200_000},
        {"response_bytes": 60_000},
        {"response_type": "unknown"},
        {"response_type": "nested_unknown"},
    ],
    ids=str,
)
def test_result_that_a_worker_may_know_better_is_left_to_it(
    script: dict[str, Any], name: Callable[..., str], xcoms: XComs
) -> None:
    """Too large, or of a type that only the DAG's imports bring."""
    task = sensor(name(duration=0.2, **script), **ENDED)
    assert resume(task, ended(task)) is not None
    assert xcoms.values == {}


@SINCE_3_3
@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"on_success_callback": print}, "on_success_callback"),
        ({"on_skipped_callback": print}, "on_skipped_callback"),
        ({"outlets": ["asset"]}, "outlets"),
        ({"multiple_outputs": True}, "multiple_outputs"),
        ({"post_execute": print}, "post_execute"),
    ],
)
def test_duties_of_a_worker_keep_the_end_there(kwargs: dict[str, Any], reason: str, name: Callable[..., str]) -> None:
    """Callbacks would not be called, outlets get no event: the worker says why it ends the task itself."""
    if "outlets" in kwargs:
        from airflow.sdk import Asset

        kwargs = {"outlets": [Asset("a")]}
    assert reason in why_on_a_worker(sensor(name(duration=20), **ENDED, **kwargs))


def why_on_a_worker(task: LongRunningOperationSensor) -> str:
    """Return the reason for which a task that is to end in the triggerer does not."""
    from structlog.testing import capture_logs

    with capture_logs() as logs:
        kind, row = deferred(task)
    assert kind.endswith(".LongRunningOperationTrigger")
    assert "end_from_trigger" not in row
    lines = [str(entry["event"]) for entry in logs]
    (reason,) = [line for line in lines if line.startswith("a worker ends the task, as ")]
    return reason


@SINCE_3_3
def test_task_that_is_mapped_over_ends_on_a_worker(name: Callable[..., str]) -> None:
    """Only a worker says how long the result is, from which the other task expands."""
    with DAG("d", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC)):
        up = sensor(name(duration=20), **ENDED)
        LongRunningOperationSensor.partial(task_id="each").expand(operation_name=up.output)
    assert "mapped over" in why_on_a_worker(up)


@SINCE_3_3
def test_result_of_the_dag_ends_on_a_worker(name: Callable[..., str]) -> None:
    """Only a worker makes the DAG's result of a task's."""
    with DAG("with_result", schedule=None) as dag:
        task = sensor(name(duration=20), **ENDED)
    dag.add_result(task.output)
    assert "the DAG's result" in why_on_a_worker(task)


@SINCE_3_3
def test_class_with_an_end_of_its_own_ends_on_a_worker(name: Callable[..., str]) -> None:
    """A trigger would pass over a subclass's own ``execute_complete``."""

    class Own(LongRunningOperationSensor):
        def execute_complete(self, context: Any, event: Any = None, **_: Any) -> Any:
            return 1

    own = Own(task_id="own", operation_name=name(duration=20), deferrable=True, **ENDED)
    assert "its class has its own execute_complete" in why_on_a_worker(own)


@SINCE_3_3
def test_listener_needs_a_worker(name: Callable[..., str]) -> None:
    """A plugin that listens to the ends of tasks is called on workers alone."""
    from airflow.listeners import hookimpl
    from airflow.sdk.listener import get_listener_manager

    class Listener:
        @hookimpl
        def on_task_instance_success(self, previous_state: Any, task_instance: Any) -> None:
            pass

    manager, listener = get_listener_manager(), Listener()
    manager.pm.register(listener)
    try:
        reason = why_on_a_worker(sensor(name(duration=20), **ENDED))
    finally:
        manager.pm.unregister(listener)
    assert "a plugin listens to on_task_instance_success" in reason


@SINCE_3_3
def test_row_holds_the_arguments_of_the_end_and_no_more(name: Callable[..., str]) -> None:
    """Without `end_from_trigger` none of them crosses."""
    given = {"soft_fail": True, "require_result": True, "do_xcom_push": False}
    row = deferred(sensor(name(duration=20), **given, **ENDED))[1]
    assert {key: row[key] for key in (*ENDED, *given)} == {**ENDED, **given}
    assert not {"never_fail", "on_cancelled", "response_type"} & set(row)
    plain = deferred(sensor(name(duration=20), on_cancelled="skip", **given))[1]
    assert not {*ENDED, *given, "on_cancelled"} & set(plain)


@SINCE_3_3
def test_without_a_task_a_worker_ends_it(name: Callable[..., str]) -> None:
    """`airflow dags test` runs triggers that know no task, and so could not write its XCom."""
    waited = run(sensor(name(duration=0.2, response={"rows": 3}), **ENDED))
    assert (waited.deferrals, waited.result) == (1, {"rows": 3.0})


# In a real Airflow

OPERATION = "simulations/outcome=never/operations/{}-steady-{}"
ENDS = ("succeeds", "silent", "skips", "soft_fails", "soft_times_out")
GOES_ON = ("fails", "cancelled", "times_out")


def reported(airflow: AirflowStack, dag: str, run: str) -> Counter[str]:
    """Return how often the executor has reported each task back: at most once for each time that it ran on a worker."""
    log = (airflow.log_dir / "scheduler.log").read_text(errors="replace")
    found = re.findall(
        r"Received executor event.*TaskInstanceKey\(dag_id='([^']*)', task_id='([^']*)', run_id='([^']*)'", log
    )
    return Counter(task for in_dag, task, in_run in found if (in_dag, in_run) == (dag, run))


def ends_of(airflow: AirflowStack, dag: str, run: str) -> dict[str, tuple[str | None, int, Any]]:
    """State, tries and XCom of each task."""
    came: dict[str, tuple[str | None, int, Any]] = {}
    for (task, _), state in tasks(airflow, dag, run).items():
        try:
            left = airflow.xcom(dag, run, task)
        except AirflowError:
            left = None
        # The operation's id, which the response holds, has the run and the way in it.
        came[task] = (state.state, state.try_number, left and sorted(left))
    return came


@pytest.mark.airflow
@pytest.mark.timeout(480)
def test_triggerer_ends_tasks_as_a_worker_does(airflow: AirflowStack) -> None:
    """State, tries and XCom do not depend on who ends a task; the executor runs it once for the triggerer's ends."""
    ways = ["plain", *(["ended"] if CAN_END else [])]
    runs = {way: airflow.trigger(f"same_{way}") for way in ways}
    came = {}
    for way, run_id in runs.items():
        airflow.wait_for_run(f"same_{way}", run_id, timeout=400)
        came[way] = ends_of(airflow, f"same_{way}", run_id)
    assert came["plain"] == {
        "succeeds": ("success", 1, ["id"]),
        "silent": ("success", 1, None),
        "skips": ("skipped", 1, None),
        "soft_fails": ("skipped", 1, None),
        "soft_times_out": ("skipped", 1, None),
        "fails": ("failed", 1, None),
        "cancelled": ("failed", 1, None),
        "times_out": ("failed", 1, None),
    }
    for way in ways[1:]:
        assert came[way] == came["plain"], way
        assert "FAILED_PRECONDITION (9)" in airflow.task_log(f"same_{way}", runs[way], "fails")
        assert "is cancelled" in airflow.task_log(f"same_{way}", runs[way], "times_out")
    if "ended" not in runs:
        return
    # Two reports of one task that come close together are one: it is enough that one of them was reported twice.
    until(lambda: max(reported(airflow, "same_plain", runs["plain"])[task] for task in ENDS) == 2, "the executor")
    until(lambda: max(reported(airflow, "same_ended", runs["ended"])[task] for task in GOES_ON) == 2, "the executor")
    on_workers = reported(airflow, "same_ended", runs["ended"])
    assert {task: on_workers[task] for task in ENDS} == dict.fromkeys(ENDS, 1)


@pytest.mark.airflow
@pytest.mark.timeout(480)
@SINCE_3_3
def test_duties_of_a_worker_are_done(airflow: AirflowStack) -> None:
    """A task with outlets or callbacks, or that is mapped over, ends on a worker; mapped tasks have their XComs."""
    run_id = airflow.trigger("duties")
    airflow.wait_for_run("duties", run_id, timeout=400)
    came = {key: task.state for key, task in tasks(airflow, "duties", run_id).items()}
    assert set(came.values()) == {"success"}
    assert ("maps", 0) in came
    assert "the callback was called" in airflow.task_log("duties", run_id, "callback")
    for index in range(2):
        assert airflow.xcom("duties", run_id, "ended_each", map_index=index) == {"id": f"{run_id}-ended-{index}"}
    events = airflow.request("GET", "assets/events")["asset_events"]
    assert "outlet" in {event["source_task_id"] for event in events}
    # The XCom of a first try is gone, whatever the result of the second is.
    assert airflow.xcom("duties", run_id, "tried_twice") == {"id": f"{run_id}-1"}
    clear(airflow, "duties", run_id, "tried_twice")
    until(lambda: tasks(airflow, "duties", run_id)["tried_twice", -1].state == "failed", "the second try to fail")
    with pytest.raises(AirflowError):
        airflow.xcom("duties", run_id, "tried_twice")


@pytest.mark.airflow
@pytest.mark.timeout(480)
def test_deadline_does_not_move(airflow: AirflowStack, service: Simulator) -> None:
    """The triggerer is SIGKILLed in the middle of the waits: the deadline and kills hold for the next one."""
    run_id = airflow.trigger("steady")

    def calls(method: str, task: str) -> list[dict[str, Any]]:
        return service.calls(method, OPERATION.format(run_id, task))

    def state(task: str) -> str | None:
        return tasks(airflow, "steady", run_id)[task, -1].state

    until(lambda: len(calls("GetOperation", "keeps_its_deadline")) >= 4, "the triggerer to poll")
    started_at = calls("GetOperation", "keeps_its_deadline")[0]["time"]
    airflow.kill("triggerer")
    time.sleep(3)
    before = {task: len(calls("GetOperation", task)) for task in ("keeps_its_deadline", "killed")}
    airflow.start("triggerer")
    until(lambda: all(len(calls("GetOperation", task)) > polls for task, polls in before.items()), "the next triggerer")
    assert calls("CancelOperation", "killed") == []
    mark(airflow, "steady", run_id, "killed", "failed")
    until(lambda: len(calls("CancelOperation", "killed")) == 1, "the cancel")
    until(lambda: state("keeps_its_deadline") == "failed", "the deadline")
    last = calls("GetOperation", "keeps_its_deadline")[-1]["time"]
    assert last - started_at == pytest.approx(75, abs=3)
    assert "within 1 min 15 s" in airflow.task_log("steady", run_id, "keeps_its_deadline")
