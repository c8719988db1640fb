"""Nothing that a service says is rendered as a template, read as a class, or taken for a format."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import struct_pb2

from airflow_provider_lro._messages.events import outcomes_from_event
from airflow_provider_lro.exceptions import LroError
from airflow_provider_lro.links import XCOM_KEY
from airflow_provider_lro.operators import GetOperationOperator, ListOperationsOperator, StartOperationOperator
from airflow_provider_lro.sensors import LongRunningOperationSensor
from airflow_provider_lro.version_compat import AIRFLOW_VERSION
from tests.airflow.fake_service import PARENT
from tests.airflow.worker import FakeTaskInstance, fire
from tests.versions import DAG, TaskDeferred, task

try:
    from airflow.sdk.serde import deserialize, serialize
except ImportError:  # below Airflow 3.2
    from airflow.serialization.serde import deserialize, serialize

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.airflow.fake_service import FakeService

EVIL = "{{ conn.victim.password }}{{ macros.evil() }}{% set x = macros.evil() %}{# #}${x} {0} {x!r} %s %(x)d"
NATIVE = pytest.mark.parametrize("native", [True, False], ids=["native", "text"])
WAYS = pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "on the worker"])


class Trap:
    """What a template would look into."""

    def __init__(self) -> None:
        self.looked_into: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.looked_into.append(name)
        return self

    def __call__(self) -> str:
        return "evaluated"

    def __str__(self) -> str:
        return "evaluated"


class World:
    """The context of a task, and Airflow's steps around it: rendering, deferral, and rendering once more."""

    def __init__(self, *, native: bool) -> None:
        self.trap = Trap()
        self.ti = FakeTaskInstance()
        self.native = native
        self.crossed: list[Any] = []
        """Rows, arguments and events: all that is stored between two processes."""

    def context(self, **more: Any) -> Any:
        return {"ti": self.ti, "conn": self.trap, "macros": self.trap, **more}

    def run(self, make: Callable[[], Any], **more: Any) -> Any:
        """Run a task to its end: a copy of its own, rendered anew, in each process."""
        context = self.context(**more)
        try:
            return self._rendered(make, context).execute(context)
        except TaskDeferred as deferred:
            row, kwargs = json.loads(json.dumps([deferred.trigger.serialize(), deferred.kwargs]))
            event = fire(row)
            self.crossed = [row, kwargs, event]
            again = deserialize(json.loads(json.dumps(serialize({**kwargs, "event": event}))))
            context = self.context(**more)
            return self._rendered(make, context).resume_execution(deferred.method_name, again, context)

    def _rendered(self, make: Callable[[], Any], context: Any) -> Any:
        with DAG("dag", schedule=None, render_template_as_native_obj=self.native):
            task = make()
        task.render_template_fields(context)
        return task

    def check(self) -> None:
        """Nothing was looked into; each XCom is stored, and read as it was."""
        assert self.trap.looked_into == []
        for value in self.ti.xcoms.values():
            assert deserialize(json.loads(json.dumps(serialize(value)))) == value


@pytest.fixture(autouse=True)
def _link(fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"insecure": True, "link_template": "https://console.example.com/{project}/{id}?name={name}"}
    stored = {"conn_type": "lro", "host": "127.0.0.1", "port": fake.port, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", json.dumps(stored))


def evil(fake: FakeService, *, fails: bool = False, polls: int = 2) -> str:
    """Add an operation of which each text is a template; it is done with its n-th poll."""
    name = fake.add(f"a{EVIL}")
    operation = fake.operations[name]
    operation.metadata.Pack(struct_pb2.Struct())
    operation.metadata.type_url += EVIL
    left = {name: polls}

    def end(method: str, name_: str) -> None:
        left[name_] = left.get(name_, 1) - (method == "GetOperation")
        if name_ != name or left[name_] > 0:
            return
        operation.done = True
        inside = struct_pb2.Struct()
        inside.update({EVIL: EVIL, "__classname__": "airflow.models.Variable", "x": {"__type": "dict", "__var": {}}})
        operation.metadata.Pack(inside)
        if fails:
            operation.error.code, operation.error.message = 9, EVIL
            operation.error.details.add().Pack(inside)
            operation.error.details.add(type_url=EVIL, value=b"x")
        else:
            operation.response.Pack(inside)

    fake.before = end
    return name


INSIDE = {EVIL: EVIL, "___classname__": "airflow.models.Variable", "x": {"___type": "dict", "___var": {}}}


def starter(name: Any, **kwargs: Any) -> Any:
    """Make a task that starts an operation, and leaves something in the context."""

    class Start(StartOperationOperator):
        def start(self, context: Any) -> Any:
            context["left"] = EVIL
            return name

    return Start(task_id="start", interval=0.1, wait_timeout=30, map_index_template="{{ left }}", **kwargs)


@NATIVE
@WAYS
def test_what_was_started(fake: FakeService, native: bool, deferrable: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Its name, metadata, response and link, and what `start` has left for `map_index_template`."""
    caplog.set_level(logging.DEBUG)
    name, world = evil(fake), World(native=native)
    assert world.run(lambda: starter(name, deferrable=deferrable)) == INSIDE
    world.check()
    assert world.ti.xcoms["operation_name"] == name
    assert world.ti.xcoms["metadata"]["value"] == INSIDE
    assert "{" not in world.ti.xcoms[XCOM_KEY]
    if deferrable:
        row, kwargs, event = world.crossed
        assert (row[1]["operation_name"], kwargs["left_in_context"], event["name"]) == (name, {"left": EVIL}, name)


@NATIVE
@WAYS
def test_error_of_what_was_started(fake: FakeService, native: bool, deferrable: bool) -> None:
    """Its message and its details arrive as they are."""
    name, world = evil(fake, fails=True), World(native=native)
    with pytest.raises(LroError) as failed:
        world.run(lambda: starter(name, deferrable=deferrable))
    world.check()
    assert (failed.value.message, failed.value.details[0]["value"]) == (EVIL, INSIDE)
    assert failed.value.details[1]["@type"] == EVIL
    assert EVIL in str(failed.value)
    if deferrable:
        (outcome,) = outcomes_from_event(world.crossed[2], [name])
        assert outcome is not None
        assert outcome.operation is not None
        assert outcome.operation.message == EVIL


@NATIVE
@WAYS
def test_names_of_a_listing(fake: FakeService, native: bool, deferrable: bool) -> None:
    """Those that a sensor finds under a parent are waited for by the names that they have."""
    name, world = evil(fake, polls=3), World(native=native)

    def make() -> Any:
        waiting = {"poke_interval": 0.1, "timeout": 30, "deferrable": deferrable}
        return LongRunningOperationSensor(task_id="wait", parent="{{ given }}", **waiting)

    assert world.run(make, given=PARENT) == [INSIDE]
    world.check()
    assert world.ti.xcoms["operation_names"] == [name]
    assert set(fake.acted("GetOperation")) == {name}


@NATIVE
def test_name_that_another_task_has_left(fake: FakeService, native: bool) -> None:
    """A template that reads it is rendered once, and what comes of it is not rendered again."""
    name, world = evil(fake), World(native=native)

    def make() -> Any:
        waiting = {"poke_interval": 0.1, "timeout": 30, "deferrable": True}
        return LongRunningOperationSensor(task_id="wait", operation_name="{{ given['name'] }}", **waiting)

    assert world.run(make, given={"name": name}) == INSIDE
    world.check()
    assert world.crossed[0][1]["operation_name"] == name


@NATIVE
def test_what_operators_read_and_list(fake: FakeService, native: bool) -> None:
    """The operation as JSON, and the places that could not be reached."""
    name, world = evil(fake, polls=1), World(native=native)
    fake.unreachable = [EVIL]
    found = world.run(
        lambda: GetOperationOperator(task_id="get", operation_name="{{ given }}", type_modules=()), given=name
    )
    assert (found["name"], found["response"]["value"]) == (name, INSIDE)
    listed = world.run(lambda: ListOperationsOperator(task_id="list", parent=PARENT, return_partial_success=True))
    assert [each["name"] for each in listed] == [name]
    world.check()


# ── mapped tasks ──


class MappedTaskInstance(FakeTaskInstance):
    """The task instance of one of a mapped task's, whose only upstream has left an XCom."""

    left: Any = None

    def xcom_pull(self, **_: Any) -> Any:
        """Return it."""
        return self.left


def expanded(how: str, left: Any, given: Any, *, native: bool) -> tuple[Any, list[str]]:
    """Return the arguments of one of a mapped task's, rendered, and what was looked into."""
    trap, ti = Trap(), MappedTaskInstance(map_index=0)
    ti.left = [left]
    with DAG("dag", schedule=None, render_template_as_native_obj=native) as dag:
        upstream = GetOperationOperator(task_id="upstream", operation_name="o").output
        partial: Any = lambda: LongRunningOperationSensor.partial(task_id="wait", endpoint="{{ given }}")  # noqa: E731
        mapped: Any
        if how == "expand":
            mapped = partial().expand(operation_name=upstream)
        elif how == "expand_kwargs":
            mapped = partial().expand_kwargs(upstream.map(lambda each: {"operation_name": each}))
        elif how == "expand_kwargs of a list":
            mapped = partial().expand_kwargs([{"operation_name": "{{ given }}", "quota_project_id": "{{ given }}"}])
        else:

            @task.lro
            def start(name: Any, same: Any) -> Any:
                return name, same

            arguments = upstream.map(lambda each: {"name": each})
            mapped = start.partial(same="{{ given }}").expand_kwargs(arguments).operator
    dag_run = SimpleNamespace(conf={}, run_id="run")
    context: Any = {"ti": ti, "task_instance": ti, "task": mapped, "dag": dag, "dag_run": dag_run, "params": {}}
    context |= {"conn": trap, "macros": trap, "given": given, "run_id": "run"}
    ti.task = mapped  # type: ignore[attr-defined]
    mapped.render_template_fields(context)
    return context["task"], trap.looked_into


IN_AIRFLOW_3 = pytest.mark.skipif(AIRFLOW_VERSION.startswith("2."), reason="XComs are read from the database there")


@IN_AIRFLOW_3
@NATIVE
@pytest.mark.parametrize("left", [EVIL, {"name": EVIL}, [EVIL]], ids=["text", "mapping", "list"])
@pytest.mark.parametrize("how", ["expand", "expand_kwargs"])
def test_name_that_a_task_is_mapped_over(how: str, left: Any, native: bool) -> None:
    """Airflow itself would render what `expand_kwargs` takes out of an XCom; the DAG file's templates are rendered."""
    made, looked_into = expanded(how, left, "host.example", native=native)
    assert (made.operation_name, made.endpoint, looked_into) == (left, "host.example", [])


@IN_AIRFLOW_3
@NATIVE
def test_argument_that_a_decorated_task_is_mapped_over(native: bool) -> None:
    """So it is with the arguments of a function."""
    made, looked_into = expanded("@task.lro", EVIL, "host.example", native=native)
    assert (made.op_kwargs, looked_into) == ({"name": EVIL, "same": "host.example"}, [])


def test_templates_that_stand_in_a_mapped_tasks_dag_file() -> None:
    """They are rendered."""
    made, _ = expanded("expand_kwargs of a list", None, "given", native=False)
    assert (made.operation_name, made.quota_project_id, made.endpoint) == ("given", "given", "given")
