"""Starting and ending in the triggerer: what is refused, what comes of it, and when it counts from."""

from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowException,
    AirflowSkipException,
    BaseOperator,
    Param,
    TaskDeferred,
)
from airflow.triggers.base import TaskSkippedEvent, TaskSuccessEvent

from airflow_provider_lro import _from_trigger, _workerless, hooks, links
from airflow_provider_lro._from_trigger import AIRFLOW
from airflow_provider_lro._workerless import WorkerlessTrigger
from airflow_provider_lro.exceptions import (
    EndpointError,
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

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.stack import AirflowStack
    from tests.simulator_fixture import Simulator

SINCE_3_3 = pytest.mark.skipif(AIRFLOW < (3, 3), reason="needs Airflow 3.3")
BELOW_3_3 = pytest.mark.skipif(AIRFLOW >= (3, 3), reason="is about Airflow below 3.3")
PULL = "{{ ti.xcom_pull(task_ids='up', map_indexes=-1) }}"


def sensor(operation_name: Any = "operations/x", **kwargs: Any) -> LongRunningOperationSensor:
    defaults = {"task_id": "wait", "poke_interval": 0.1, "timeout": 20, "not_found_grace": 0, "deferrable": True}
    return LongRunningOperationSensor(operation_name=operation_name, **{**defaults, **kwargs})


def started(operation_name: Any = "operations/x", **kwargs: Any) -> LongRunningOperationSensor:
    return sensor(operation_name, start_from_trigger=True, **kwargs)


class Pushed(Exception):
    """Stands for whatever may go wrong when an XCom is written."""


class XComs:
    """What would be in Airflow's database, in memory; may refuse to write."""

    def __init__(self, *, broken: bool = False, hangs: bool = False) -> None:
        self.values: dict[tuple[str, str, str, int, str], Any] = {}
        self.broken = broken
        self.hangs = hangs

    async def aset(self, key: str, value: Any, *, dag_id: str, task_id: str, run_id: str, map_index: int) -> None:
        if self.hangs:
            await asyncio.sleep(3600)
        if self.broken:
            raise Pushed("no API server")
        self.values[dag_id, run_id, task_id, map_index, key] = json.loads(json.dumps(value))


@pytest.fixture
def xcoms(monkeypatch: pytest.MonkeyPatch) -> XComs:
    """Airflow's edge: the class through which a trigger writes XComs."""
    if AIRFLOW < (3, 3):
        pytest.skip("needs Airflow 3.3")
    from airflow.sdk.bases import xcom as bases
    from airflow.sdk.execution_time import xcom

    store = XComs()
    store.XCOM_RETURN_KEY = "return_value"  # type: ignore[attr-defined]
    monkeypatch.setattr(xcom, "XCom", store)
    monkeypatch.setattr(bases, "BaseXCom", store)
    monkeypatch.setattr(links, "BaseXCom", store)
    return store


def fire(row: tuple[str, dict[str, Any]], *, ago: float = 0.0, task: Any = None, **ti: Any) -> Any:
    """Run a trigger to its one event, for a task that started so many seconds ago."""

    async def events() -> list[Any]:
        trigger = inflate(json.loads(json.dumps(row)))
        instance: Any = FakeTaskInstance(**ti)
        if task is not None:
            instance.task = task
        if AIRFLOW < (3,):
            instance.start_date = datetime.now(tz=UTC) - timedelta(seconds=ago)
        trigger._task_instance = instance
        if AIRFLOW < (3,):
            trigger.task_instance = instance
        if trigger.backstop is not None:
            trigger.timeout_after = datetime.now(tz=UTC) + timedelta(seconds=trigger.backstop - ago)
        return [event async for event in trigger.run()]

    (event,) = asyncio.run(events())
    return event


def row_of(task: LongRunningOperationSensor) -> tuple[str, dict[str, Any]]:
    """What the scheduler makes the trigger from."""
    args = task.start_trigger_args
    assert args is not None
    assert task.start_from_trigger is True
    return args.trigger_cls, args.trigger_kwargs or {}


def resume(task: LongRunningOperationSensor, event: Any) -> Any:
    return task.resume_execution("execute_complete", {"event": json.loads(json.dumps(event.payload))}, {})


def deferred(task: LongRunningOperationSensor) -> tuple[str, dict[str, Any]]:
    with pytest.raises(TaskDeferred) as raised:
        task.execute({"ti": FakeTaskInstance()})
    kind, kwargs = raised.value.trigger.serialize()
    return kind, kwargs


# Refused where Airflow would do the wrong thing in silence


@pytest.mark.parametrize("version", [(3, 1), (3, 2)])
def test_start_is_refused_where_airflow_ignores_it(version: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow 3.1 and 3.2 would run the task on a worker without a word."""
    monkeypatch.setattr(_from_trigger, "AIRFLOW", version)
    with pytest.raises(ValueError, match=r"3\.1 and 3\.2"):
        started()


@pytest.mark.parametrize("version", [(2, 11), (3, 2)])
def test_end_is_refused_below_3_3(version: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A trigger can neither write an XCom there nor end a task well."""
    monkeypatch.setattr(_from_trigger, "AIRFLOW", version)
    with pytest.raises(ValueError, match=r"needs Airflow 3\.3"):
        sensor(end_from_trigger=True)


@pytest.mark.parametrize(
    "way", [{"start_from_trigger": True}, pytest.param({"end_from_trigger": True}, marks=SINCE_3_3)]
)
def test_a_task_that_does_not_defer_is_refused(way: dict[str, Any]) -> None:
    """Without a deferral there is no trigger."""
    with pytest.raises(ValueError, match="needs deferrable=True"):
        sensor(deferrable=False, **way)


def test_reschedule_is_refused() -> None:
    """Two ways to wait are one too many."""
    with pytest.raises(ValueError, match="reschedule"):
        started(mode="reschedule")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (None, "give operation_name"),
        ({"name": "operations/x"}, "must be a text"),
        (lambda context, jinja_env: "operations/x", "must be a text"),
        ("", "non-empty"),
        ("None", "is empty"),
    ],
)
def test_what_is_no_name_is_refused_at_parse_time(value: Any, complaint: str) -> None:
    """No worker looks at the name before the trigger has it."""
    with pytest.raises(ValueError, match=complaint):
        started(value)


def test_output_of_a_task_is_refused() -> None:
    """An XComArg would arrive as `_XComRef(…)`; what works is said where there is something."""
    with DAG("d", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC)):
        up = BaseOperator(task_id="up")
        with pytest.raises(ValueError, match="output of task 'up'") as raised:
            started(up.output)
    assert (PULL in str(raised.value)) is (AIRFLOW >= (3, 3))


@BELOW_3_3
def test_templates_are_refused_where_nothing_renders_them() -> None:
    """Below 3.3 the triggerer would poll for `{{ … }}`."""
    with pytest.raises(ValueError, match="does not render"):
        started("operations/{{ run_id }}")
    with pytest.raises(ValueError, match=r"endpoint.*does not render"):
        started(endpoint="{{ var.value.host }}")


@SINCE_3_3
@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ ti.xcom_pull('up') }}", "would hang.*map_indexes=-1"),
        ("{{ task_instance.xcom_pull(task_ids='up')['name'] }}", "would hang"),
        ("operations/{{ my_project }}", "my_project, which a triggerer does not know"),
        ("operations/{{ my_macro() }}", "my_macro"),
        ("{{ prev_start_date_success }}", "prev_start_date_success"),
        ("operations/{{ ti.start_date }}", r"ti\.start_date"),
        ("operations/{{ task.mine }}", r"task\.mine"),
        ("operations/{{ run_id | mine }}", "mine"),
        ("operations/{{ run_id", "does not render"),
    ],
)
def test_template_that_would_come_out_wrong_is_refused(template: str, complaint: str) -> None:
    """What hangs in the triggerer, or renders as nothing there, does not even parse."""
    with pytest.raises(ValueError, match=complaint):
        started(template)


@SINCE_3_3
@pytest.mark.parametrize(
    "template",
    [
        PULL,
        "operations/{{ run_id }}-{{ ts_nodash }}",
        "{% set x = ti.try_number %}operations/{{ x }}",
        "operations/{{ dag_run.conf['id'] }}-{{ params.p }}-{{ var.value.v }}-{{ macros.ds_add(ds, 1) }}",
    ],
)
def test_plain_template_crosses_as_it_is(template: str) -> None:
    """The triggerer renders it; until then it is text like any other."""
    kwargs = row_of(started(template, impersonation_chain=["a@b", "{{ var.value.sa }}"]))[1]
    assert kwargs["operation_name"] == template
    assert kwargs["impersonation_chain"] == "a@b,{{ var.value.sa }}"


@SINCE_3_3
def test_environment_of_a_dag_is_refused() -> None:
    """Delimiters of the DAG's own mean nothing to the triggerer."""
    when = datetime(2024, 1, 1, tzinfo=UTC)
    with (
        DAG("d", schedule=None, start_date=when, jinja_environment_kwargs={"trim_blocks": True}),
        pytest.raises(ValueError, match="jinja_environment_kwargs"),
    ):
        started("operations/{{ run_id }}")


# What crosses


def test_what_a_policy_changes_reaches_the_trigger() -> None:
    """A cluster policy sees a task when it is made, and Airflow stores it later."""
    task = started(timeout=1000, execution_timeout=None, on_timeout="cancel")
    task.timeout, task.execution_timeout, task.poke_interval = 600, timedelta(seconds=60), 7.0
    row = row_of(task)[1]
    assert (row["timeout"], row["interval"], row["backstop"]) == (60.0, 7.0, 60.0)
    assert LongRunningOperationSensor.start_trigger_args is None
    assert sensor().start_trigger_args is None
    task.execution_timeout, task.endpoint = None, 7
    with pytest.raises(ValueError, match="endpoint must be a text"):
        row_of(task)


@SINCE_3_3
@pytest.mark.parametrize("param", [Param(type="string"), Param("a", type="string"), Param()], ids=repr)
def test_param_of_its_own_is_refused(param: Param) -> None:
    """Airflow checks it in the triggerer, before anything of ours runs, and ends if it will not do."""
    with pytest.raises(ValueError, match="the task's own Param 'need'"):
        started(params={"need": param})
    assert started(params={"plain": 1}).start_trigger_args
    with DAG("of_the_dag", schedule=None, params={"need": Param("a", type="string")}):
        assert started("{{ params.need }}").start_trigger_args


@SINCE_3_3
def test_native_templates_are_refused_but_for_the_name() -> None:
    """The triggerer makes texts of them: a None that stands for the connection's host would be a host."""
    with DAG("native", schedule=None, render_template_as_native_obj=True):
        with pytest.raises(ValueError, match="the triggerer makes a text"):
            started(endpoint="{{ params.where }}")
        assert started("{{ params.name }}", task_id="name").start_trigger_args


@SINCE_3_3
def test_field_that_nobody_has_rendered_is_left_to_a_worker() -> None:
    """Where the triggerer finds no DAG for a run."""
    event = fire(row_of(started(endpoint="{{ params.where }}")))
    assert "endpoint is a template that was not rendered" in event.payload["not_started"]


@SINCE_3_3
def test_result_of_the_dag_is_left_to_a_worker() -> None:
    """What the scheduler knows of a task does not tell that it is one, so the row does."""
    with DAG("with_result", schedule=None) as dag:
        task = started(end_from_trigger=True)
    assert "worker_for" not in row_of(task)[1]
    dag.add_result(task.output)
    assert row_of(task)[1]["worker_for"] == "it has the DAG's result"


def test_class_is_untouched_and_instances_differ() -> None:
    """Arguments of the class would start every index of a mapped task alike, so the class has none."""
    one, other = started("operations/1"), started("operations/2")
    assert LongRunningOperationSensor.start_trigger_args is None
    assert LongRunningOperationSensor.start_from_trigger is False
    assert row_of(one)[1]["operation_name"] == "operations/1"
    assert row_of(other)[1]["operation_name"] == "operations/2"
    assert (sensor().start_trigger_args, sensor().start_from_trigger) == (None, False)


def test_row_is_json_and_holds_no_time() -> None:
    """Absolute times are not known when the DAG is parsed, and the same DAG parses to the same row."""
    first, second = (row_of(started(timeout=timedelta(hours=1), soft_fail=True)) for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(first[1])) == first[1]
    assert first[1] == {
        "operation_name": "operations/x",
        "interval": 0.1,
        "not_found_grace": 0,
        "timeout": 3600.0,
        "backstop": 3690.0,
    }
    assert inflate(first).serialize() == first


def test_backstop_comes_after_every_event_of_ours() -> None:
    """Airflow's own timeout, also counted from the start, never comes before the last event can."""
    waiting = started(timeout=100, rpc_timeout=7, on_timeout="cancel", cancel_grace=40)
    assert waiting.start_trigger_args is not None
    assert waiting.start_trigger_args.timeout is not None
    assert waiting.start_trigger_args.timeout > timedelta(seconds=100 + 7 + 40 + 7 + 7)
    assert row_of(waiting)[1]["backstop"] == waiting.start_trigger_args.timeout.total_seconds()


def test_execution_timeout_is_the_deadline_when_it_is_shorter() -> None:
    """Airflow cuts its own timeout to it, which tells when the task started."""
    kwargs = row_of(started(timeout=100, execution_timeout=timedelta(seconds=30)))[1]
    assert (kwargs["timeout"], kwargs["backstop"]) == (30.0, 30.0)
    assert row_of(started(timeout=100, execution_timeout=timedelta(seconds=120)))[1]["backstop"] == 120.0


def test_constructor_raises_nothing_but_type_error() -> None:
    """Values that make no sense are accepted: anything but TypeError would stop the whole triggerer."""
    for field in ("timeout", "backstop", "ends", "worker_for", "on_cancelled", "operation_name"):
        for nonsense in (None, "x", -1, float("nan"), [], {}):
            WorkerlessTrigger(**{"operation_name": "o", field: nonsense})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        WorkerlessTrigger(operation_name="o", of_a_later_version=1)  # type: ignore[call-arg]


def test_user_defined_and_unmapped_tasks_begin_on_a_worker() -> None:
    """What a worker has unmapped is on a worker already: nothing is refused there, and nothing assigned."""
    with DAG("d", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC)):
        mapped = LongRunningOperationSensor.partial(task_id="each", deferrable=True, start_from_trigger=True).expand(
            operation_name=[{"name": "operations/x"}]
        )
    unmapped = mapped.unmap({"operation_name": {"name": "operations/x"}})
    assert (unmapped.start_trigger_args, unmapped.start_from_trigger) == (None, False)


# Started in the triggerer


def test_first_poll_is_immediate(name: Callable[..., str], simulator: Simulator) -> None:
    """A task that has just started polls at once, as its worker would have."""
    operation = name(duration=0)
    before = time.time()
    event = fire(row_of(started(operation, poke_interval=10, initial_delay=10)))
    (poll,) = simulator.calls("GetOperation", operation)
    assert poll["time"] - before < 5
    assert resume(sensor(operation), event) == {"id": operation.rsplit("/", 1)[1]}


def test_rebuilt_trigger_resumes(name: Callable[..., str], simulator: Simulator) -> None:
    """Of a task that started a while ago the trigger is a second one: it does not poll at once."""
    operation = name(duration=0)
    before = time.time()
    fire(row_of(started(operation, poke_interval=4, jitter=0, timeout=600)), ago=300)
    (poll,) = simulator.calls("GetOperation", operation)
    assert before < poll["time"] <= before + 4.5


@pytest.mark.parametrize("ago", [5.0, 40.0])
def test_deadline_counts_from_the_start_of_the_task(name: Callable[..., str], ago: float) -> None:
    """However late the triggerer comes to it: never from the moment it does."""
    operation = name(outcome="never")
    task = started(operation, timeout=ago + 1)
    before = time.time()
    event = fire(row_of(task), ago=ago)
    assert 0.5 < time.time() - before < 3
    with pytest.raises(OperationTimeout, match=f"within {ago + 1:g} s"):
        resume(task, event)


def test_without_a_task_instance_it_counts_from_now(name: Callable[..., str]) -> None:
    """Where nobody knows when the task started, as in `airflow dags test`."""
    row = row_of(started(name(outcome="never"), timeout=0.6))

    async def events() -> list[Any]:
        return [event async for event in inflate(row).run()]

    (event,) = asyncio.run(events())
    assert event.payload["outcome"] == "TimedOut"


def test_endpoint_that_cannot_be_right_fails_at_once() -> None:
    """Without the worker's first poll, the trigger's own is as strict; the worker raises what it found."""
    task = started(endpoint="no-such-host.invalid", timeout=3600)
    before = time.time()
    event = fire(row_of(task))
    assert time.time() - before < 20
    with pytest.raises(EndpointError, match="does not resolve"):
        resume(task, event)


def test_endpoint_of_a_rebuilt_trigger_is_waited_for() -> None:
    """It was right before: an outage of the name servers is one like any other."""
    task = started(endpoint="no-such-host.invalid", timeout=41)
    with pytest.raises(OperationTimeout):
        resume(task, fire(row_of(task), ago=40))


@pytest.mark.parametrize(
    ("rendered", "complaint"),
    [
        ("None", "is empty"),
        ("", "non-empty"),
        ("{'name': 'operations/x'}", "text of a whole value"),
        ("{{ run_id }}", "not rendered"),
    ],
)
def test_name_that_is_none_is_refused_by_a_worker(rendered: str, complaint: str, simulator: Simulator) -> None:
    """What `execute` refuses is an event, and the worker refuses it in its own words; nothing is sent."""
    before = len(simulator.calls())
    kind, kwargs = row_of(started())
    event = fire((kind, {**kwargs, "operation_name": rendered}))
    assert complaint.split(maxsplit=1)[0] in event.payload["not_started"]
    failing, skipping = sensor("{{ name }}"), sensor("{{ name }}", never_fail=True)
    failing.operation_name = skipping.operation_name = rendered
    with pytest.raises(ValueError, match=complaint):
        resume(failing, event)
    with pytest.raises(AirflowSkipException):
        resume(skipping, event)
    assert len(simulator.calls()) == before


def test_worker_takes_over_what_only_it_can_render(name: Callable[..., str]) -> None:
    """A name that comes out right on the worker is waited for, and its time counts from the task's start."""
    kind, kwargs = row_of(started())
    event = fire((kind, {**kwargs, "operation_name": "None"}), ago=5)
    done = sensor(name(duration=0))
    assert resume(done, event)
    kwargs = deferred_after(sensor(name(outcome="never"), timeout=20), event)
    assert kwargs["started_at"] == pytest.approx(time.time() - 5, abs=3)
    assert kwargs["deadline"] == kwargs["started_at"] + 20


def deferred_after(task: LongRunningOperationSensor, event: Any) -> dict[str, Any]:
    with pytest.raises(TaskDeferred) as raised:
        resume(task, event)
    found: dict[str, Any] = raised.value.trigger.serialize()[1]
    return found


@SINCE_3_3
def test_template_that_raises_is_left_to_a_worker() -> None:
    """A rendering that fails would crash the trigger; it becomes an event."""
    trigger = inflate(row_of(started("{{ params.a.b.c }}")))
    trigger.template_fields = ("operation_name",)
    trigger.render_template_fields({"params": {}})

    async def events() -> list[Any]:
        return [event async for event in trigger.run()]

    (event,) = asyncio.run(events())
    assert event.payload["not_started"].startswith("UndefinedError")


@SINCE_3_3
def test_templates_render_in_the_triggerer() -> None:
    """Airflow renders the fields that the operator, the row and the trigger share."""
    task = started("operations/{{ run_id }}", endpoint="{{ var_host }}".replace("var_host", "params.host"))
    trigger = inflate(row_of(task))
    trigger.task_instance = SimpleNamespace(task=task, task_id="wait")
    assert set(trigger.template_fields) == {"operation_name", "endpoint"}
    trigger.render_template_fields({"run_id": "r", "params": {"host": "h"}})
    assert (trigger.operation_name, trigger.endpoint) == ("operations/r", "h")


def test_missing_connection_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker has seen the connection before."""
    monkeypatch.setattr(hooks, "PAUSES_TO_FIND", (0.01,))
    task = started(lro_conn_id="gone")
    with pytest.raises(EndpointError, match="gone"):
        resume(task, fire(row_of(task)))


def test_kill_before_the_start_cancels_nothing(name: Callable[..., str], simulator: Simulator) -> None:
    """Before it is known which operation it is, there is none to cancel."""
    operation = name(outcome="never")
    trigger = inflate(row_of(started(operation, cancel_on_kill=True)))
    asyncio.run(trigger.on_kill())
    assert simulator.calls("CancelOperation", operation) == []


def test_the_same_task_works_where_the_start_is_ignored(name: Callable[..., str]) -> None:
    """`airflow dags test` begins it on a worker."""
    waited = run(started(name(duration=0.3)))
    assert (waited.deferrals, waited.rows[0][0].rsplit(".", 1)[1]) == (1, "LongRunningOperationTrigger")


# Ended in the triggerer

ENDED = {"end_from_trigger": True}


def ended(task: LongRunningOperationSensor, **ti: Any) -> Any:
    return fire(deferred(task), **ti)


def test_success_ends_the_task(name: Callable[..., str], xcoms: XComs) -> None:
    """The XCom is what a worker would have left, under the task's own key."""
    operation = name(duration=0.2, response={"rows": 3})
    event = ended(sensor(operation, **ENDED), map_index=4)
    assert type(event) is TaskSuccessEvent
    assert not event.xcoms
    assert xcoms.values == {("dag", "run", "task", 4, "return_value"): {"rows": 3.0}}
    assert run(sensor(name(duration=0.2, response={"rows": 3}))).result == {"rows": 3.0}


def test_without_xcom_push_none_is_written(name: Callable[..., str], xcoms: XComs) -> None:
    """`do_xcom_push=False` holds."""
    assert type(ended(sensor(name(duration=0.2), do_xcom_push=False, **ENDED))) is TaskSuccessEvent
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
    """What the worker would skip is skipped, and leaves no XCom."""
    script, kwargs = SKIPS[case]
    event = ended(sensor(name(**{"duration": 0.2, **script}), **ENDED, **kwargs))
    assert type(event) is TaskSkippedEvent
    assert xcoms.values == {}
    with pytest.raises(AirflowSkipException):
        run(sensor(name(**{"duration": 0.2, **script}), **kwargs))


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
    "broken": ({"fault": "7*forever", "fault_after": 1}, {"soft_fail": True}, AirflowException),
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
    monkeypatch.setattr(_workerless, "SECONDS_TO_WRITE", 0.2)
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
def test_what_only_a_worker_does_keeps_the_end_there(
    kwargs: dict[str, Any], reason: str, name: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """Callbacks would not be called, outlets get no event: the worker says why it ends the task itself."""
    if "outlets" in kwargs:
        from airflow.sdk import Asset

        kwargs = {"outlets": [Asset("a")]}
    task = sensor(name(duration=0.2), **ENDED, **kwargs)
    kind, row = deferred(task)
    assert kind.endswith(".LongRunningOperationTrigger")
    assert "ends" not in row
    # A task that starts in the triggerer too learns of it there.
    kwargs_of_start = row_of(started(**ENDED, **kwargs))[1]
    found = kwargs_of_start.get("worker_for") or _workerless.needs_worker(started(**ENDED, **kwargs), from_start=True)
    assert reason in found


@SINCE_3_3
def test_task_that_is_mapped_over_ends_on_a_worker() -> None:
    """Only a worker says how long the result is, from which the other task expands."""
    with DAG("d", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC)):
        up = sensor(**ENDED)
        LongRunningOperationSensor.partial(task_id="each").expand(operation_name=up.output)
    assert "mapped over" in (_workerless.needs_worker(up, from_start=False) or "")


@SINCE_3_3
def test_class_with_an_end_of_its_own_ends_on_a_worker() -> None:
    """A trigger would pass over what a subclass does in `execute_complete`."""

    class Own(LongRunningOperationSensor):
        def execute_complete(self, context: Any, event: Any = None, **_: Any) -> Any:
            return 1

    own = Own(task_id="own", operation_name="operations/x", deferrable=True, start_from_trigger=True, **ENDED)
    assert "execute_complete" in row_of(own)[1]["worker_for"]


@SINCE_3_3
def test_row_holds_what_the_end_depends_on_and_no_more() -> None:
    """Without `end_from_trigger` none of it crosses."""
    kwargs = row_of(started(soft_fail=True, require_result=True, do_xcom_push=False, **ENDED))[1]
    assert {key: kwargs[key] for key in ("ends", "soft_fail", "require_result", "do_xcom_push")} == {
        "ends": True,
        "soft_fail": True,
        "require_result": True,
        "do_xcom_push": False,
    }
    assert not {"never_fail", "on_cancelled", "worker_for"} & set(kwargs)


def test_both_together_need_no_worker(name: Callable[..., str], xcoms: XComs) -> None:
    """Started and ended in the triggerer; the second try ends on a worker, which clears up after the first."""
    task = sensor(name(duration=0.2), start_from_trigger=True, **ENDED)
    assert type(fire(row_of(task), task=task)) is TaskSuccessEvent
    assert len(xcoms.values) == 1
    event = fire(row_of(task), task=task, try_number=2)
    assert type(event).__name__ == "TriggerEvent"
    assert type(fire(row_of(task))).__name__ == "TriggerEvent", "of a DAG that is not known nothing is known"


def test_link_needs_no_worker(
    name: Callable[..., str], xcoms: XComs, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trigger writes it, where it begins the task, and once; one that cannot be written costs no wait."""
    stored = {"conn_type": "lro", "host": "127.0.0.1", "port": simulator.port}
    extra = {"insecure": True, "link_template": "https://c.example.com/{id}"}
    monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", json.dumps({**stored, "extra": extra}))
    operation = name(duration=0.2)
    task = sensor(operation, start_from_trigger=True, **ENDED)
    assert type(fire(row_of(task), task=task)) is TaskSuccessEvent
    link = f"https://c.example.com/{operation.rpartition('/')[2]}"
    assert {key[-1]: value for key, value in xcoms.values.items()}["_link_OperationLink"] == link
    assert len(xcoms.values) == 2

    xcoms.values.clear()
    fire(row_of(task), task=task, ago=100.0)  # a trigger that was rebuilt
    fire(deferred(sensor(name(duration=0.2), **ENDED)))  # a worker has written it
    assert not {key for key in xcoms.values if key[-1] == "_link_OperationLink"}

    xcoms.broken = True
    assert fire(row_of(task), task=task).payload["outcome"] == "Succeeded"


def test_other_links_need_a_worker(xcoms: XComs) -> None:
    """What Airflow writes at the end of a task on a worker is lost without one; ours is not."""
    task = sensor(start_from_trigger=True, **ENDED)
    assert _workerless.needs_worker(task, from_start=True) is None
    task.operator_extra_links = (*task.operator_extra_links, SimpleNamespace(xcom_key="_link_Other"))
    assert _workerless.needs_worker(task, from_start=True) == "it has links of its operator"
    assert _workerless.needs_worker(task, from_start=False) is None


# In a real Airflow

OPERATION = "simulations/outcome=never/operations/{}-steady-{}"
ENDS = ("succeeds", "silent", "skips", "soft_fails", "soft_times_out")
GOES_ON = ("fails", "cancelled", "times_out")


def worker_logs(airflow: AirflowStack, dag: str, run: str, task: str) -> list[str]:
    """The files that workers have logged to; a triggerer's have another name."""
    folder = airflow.home / "logs" / f"dag_id={dag}" / f"run_id={run}" / f"task_id={task}"
    return [path.name for path in folder.glob("**/attempt=*.log") if ".trigger." not in path.name]


def executed(airflow: AirflowStack, dag: str, run: str) -> set[str]:
    """The tasks that the executor has reported back."""
    said = (airflow.log_dir / "scheduler.log").read_text(errors="replace")
    found = re.findall(
        r"Received executor event.*TaskInstanceKey\(dag_id='([^']*)', task_id='([^']*)', run_id='([^']*)'", said
    )
    return {task for in_dag, task, in_run in found if (in_dag, in_run) == (dag, run)}


def what_came(airflow: AirflowStack, dag: str, run: str) -> dict[str, tuple[str | None, int, Any]]:
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
def test_all_ways_come_to_the_same(airflow: AirflowStack) -> None:
    """State, tries and XCom do not depend on where a task starts and ends; with both there is no worker for them."""
    ways = ["plain", "from_trigger", *(["workerless", "ended"] if AIRFLOW >= (3, 3) else [])]
    runs = {way: airflow.trigger(f"same_{way}") for way in ways}
    came = {}
    for way, run_id in runs.items():
        airflow.wait_for_run(f"same_{way}", run_id, timeout=400)
        came[way] = what_came(airflow, f"same_{way}", run_id)
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
    if "workerless" not in runs:
        return
    run_id = runs["workerless"]
    assert {task: worker_logs(airflow, "same_workerless", run_id, task) for task in ENDS} == {task: [] for task in ENDS}
    until(lambda: executed(airflow, "same_plain", runs["plain"]) == {*ENDS, *GOES_ON}, "the executor to report")
    until(lambda: executed(airflow, "same_workerless", run_id) >= set(GOES_ON), "the executor to report")
    assert executed(airflow, "same_workerless", run_id) == set(GOES_ON)
    # A second try, of a task that was cleared, ends on a worker: Airflow would keep the end of the first.
    clear(airflow, "same_workerless", run_id, "succeeds")
    until(lambda: tasks(airflow, "same_workerless", run_id)["succeeds", -1].try_number == 2, "the second try")
    until(lambda: tasks(airflow, "same_workerless", run_id)["succeeds", -1].state == "success", "its success")
    assert worker_logs(airflow, "same_workerless", run_id, "succeeds") == ["attempt=2.log"]
    assert "not its first try" in airflow.task_log("same_workerless", run_id, "succeeds", try_number=2)


@pytest.mark.airflow
@pytest.mark.timeout(480)
@SINCE_3_3
def test_templates_and_what_only_a_worker_does(airflow: AirflowStack) -> None:
    """Names come out of XComs in the triggerer; what has outlets, callbacks or is mapped over ends on a worker."""
    run_id = airflow.trigger("templates")
    airflow.wait_for_run("templates", run_id, timeout=400)
    came = {key: task.state for key, task in tasks(airflow, "templates", run_id).items()}
    assert came.pop(("pulls_nothing", -1)) == "failed"
    assert set(came.values()) == {"success"}
    assert ("maps", 0) in came
    assert "operation_name is empty" in airflow.task_log("templates", run_id, "pulls_nothing")
    assert "TaskDeferralError" not in airflow.task_log("templates", run_id, "pulls_nothing")
    assert "the callback was called" in airflow.task_log("templates", run_id, "callback")
    assert airflow.xcom("templates", run_id, "pulls") == {"id": run_id}
    for index in range(2):
        assert airflow.xcom("templates", run_id, "ended_each", map_index=index) == {"id": f"{run_id}-ended-{index}"}
    # Mapped tasks have one log a try; those that the triggerer ended had a worker only to begin with.
    assert not {"pulls"} & executed(airflow, "templates", run_id)
    worked = {"outlet", "callback", "mapped_over"}
    until(lambda: worked <= executed(airflow, "templates", run_id), "the executor to report")
    events = airflow.request("GET", "assets/events")["asset_events"]
    assert "outlet" in {event["source_task_id"] for event in events}
    # What a first try has left is gone, whatever the second comes to.
    assert airflow.xcom("templates", run_id, "tried_twice") == {"id": f"{run_id}-1"}
    clear(airflow, "templates", run_id, "tried_twice")
    until(lambda: tasks(airflow, "templates", run_id)["tried_twice", -1].state == "failed", "the second try to fail")
    with pytest.raises(AirflowError):
        airflow.xcom("templates", run_id, "tried_twice")


@pytest.mark.airflow
@pytest.mark.timeout(480)
def test_mapped_task_begins_on_a_worker(airflow: AirflowStack) -> None:
    """Each index waits for its own operation."""
    run_id = airflow.trigger("mapped")
    assert airflow.wait_for_run("mapped", run_id, timeout=300) == "success"
    for index in range(2):
        assert airflow.xcom("mapped", run_id, "each", map_index=index) == {"id": f"mapped-{index}"}


@pytest.mark.airflow
@pytest.mark.timeout(480)
def test_deadline_does_not_move(airflow: AirflowStack, service: Simulator) -> None:
    """The triggerer is SIGKILLed in the middle of the waits: the deadline, kills and `execution_timeout` hold."""
    run_id = airflow.trigger("steady")
    prefix = run_id if AIRFLOW >= (3, 3) else "only"

    def calls(method: str, task: str) -> list[dict[str, Any]]:
        return service.calls(method, OPERATION.format(prefix, task))

    def state(task: str) -> str | None:
        return tasks(airflow, "steady", run_id)[task, -1].state

    until(lambda: len(calls("GetOperation", "keeps_its_deadline")) >= 3, "the triggerer to poll")
    until(lambda: state("execution_timeout") == "failed", "execution_timeout")
    assert len(calls("CancelOperation", "execution_timeout")) >= 1
    until(lambda: state("mistyped") == "failed", "the endpoint that is none")
    assert "does not resolve" in airflow.task_log("steady", run_id, "mistyped")

    started_at = tasks(airflow, "steady", run_id)["keeps_its_deadline", -1].start
    assert started_at is not None
    airflow.kill("triggerer")
    time.sleep(3)
    before = len(calls("GetOperation", "keeps_its_deadline"))
    airflow.start("triggerer")
    until(lambda: len(calls("GetOperation", "keeps_its_deadline")) > before, "the next triggerer to poll")
    assert calls("CancelOperation", "killed") == []
    until(lambda: len(calls("GetOperation", "killed")) > 0, "the next triggerer to poll")
    mark(airflow, "steady", run_id, "killed", "failed")
    until(lambda: len(calls("CancelOperation", "killed")) == 1, "the cancel")
    until(lambda: state("keeps_its_deadline") == "failed", "the deadline")
    last = calls("GetOperation", "keeps_its_deadline")[-1]["time"]
    assert last - started_at.timestamp() == pytest.approx(75, abs=3)
    assert "within 75 s" in airflow.task_log("steady", run_id, "keeps_its_deadline")
