"""More headers: of a connection and of a task, with every call, on the worker and in the triggerer."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_lro import operators
from airflow_provider_lro.decorators import lro_task
from airflow_provider_lro.exceptions import CredentialsError, EndpointError
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.hooks._connection import ConnectionSettings
from airflow_provider_lro.sensors import LongRunningOperationSensor
from airflow_provider_lro.simulator import operation_name
from tests.airflow.worker import run
from tests.versions import DAG

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulator_fixture import Simulator

ROUTING = "x-goog-request-params"
ROUTED = {ROUTING: "location=us-central1"}
SECRETS = ["authorization", "x-goog-api-key", "cookie", "proxy-authorization", "x-auth-token"]
FAST = {"jitter": 0.0, "initial_delay": 0.1}


@pytest.fixture
def connect(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that stores a connection to the simulator, with these headers, and returns its id."""

    def store(headers: Any, **extra: Any) -> str:
        stored = {"insecure": True, **extra, "headers": headers}
        connection = {"conn_type": "lro", "host": simulator.endpoint, "extra": stored}
        monkeypatch.setenv("AIRFLOW_CONN_ROUTED", json.dumps(connection))
        return "routed"

    return store


def sent(simulator: Simulator, name: str) -> list[tuple[str, str, str | None]]:
    """Return each call for an operation: its method, its routing header and the project that pays."""
    calls = simulator.calls(None, name)
    return [(call["method"], call["headers"][ROUTING], call["headers"].get("x-goog-user-project")) for call in calls]


def name_of(**script: Any) -> str:
    """Return a name that nobody has seen."""
    return operation_name(uuid.uuid4().hex, **script)


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "on the worker"])
def test_headers_of_a_task_go_with_every_poll(simulator: Simulator, deferrable: bool) -> None:
    """The routing header takes the place of ours, on the worker, in the triggerer and in its row as JSON."""
    name = name_of(duration=0.2)
    done = run(
        LongRunningOperationSensor(
            task_id="wait", operation_name=name, headers=ROUTED, deferrable=deferrable, poke_interval=0.1, **FAST
        )
    )
    assert [row[1]["headers"] for row in done.rows] == [json.dumps(ROUTED)] * deferrable
    polls = sent(simulator, name)
    assert len(polls) > 1
    assert set(polls) == {("GetOperation", ROUTED[ROUTING], None)}


@pytest.mark.parametrize("as_text", [True, False], ids=["text, as of the form", "JSON"])
def test_headers_of_a_connection_go_with_every_call(
    simulator: Simulator, connect: Callable[..., str], as_text: bool
) -> None:
    """A task's of the same name goes before them, and the others stay."""
    headers = {**ROUTED, "x-goog-user-project": "payer"}
    conn_id = connect(json.dumps(headers) if as_text else headers)
    name = name_of(duration=0.2)
    task = {"lro_conn_id": conn_id, "operation_name": name}
    run(LongRunningOperationSensor(task_id="wait", deferrable=True, poke_interval=0.1, **task, **FAST))
    run(operators.DeleteOperationOperator(task_id="delete", headers={ROUTING: "location=eu"}, **task))
    *polls, delete = sent(simulator, name)
    assert set(polls) == {("GetOperation", "location=us-central1", "payer")}
    assert delete == ("DeleteOperation", "location=eu", "payer")


def test_headers_of_a_decorated_function(simulator: Simulator) -> None:
    """They are of the polls; the function's own client sends what it sends."""
    name = name_of(duration=0.2)

    @lro_task(interval=0.1, headers=ROUTED, deferrable=True, **FAST)
    def begin() -> str:
        return name

    run(begin().operator)
    assert {routing for _, routing, _ in sent(simulator, name)} == {ROUTED[ROUTING]}


def test_headers_are_templates(simulator: Simulator) -> None:
    """Each value is rendered."""
    name = name_of(duration=0)
    task = operators.GetOperationOperator(task_id="get", operation_name=name, headers={ROUTING: "location={{ place }}"})
    task.render_template_fields({"place": "asia"})
    run(task)
    assert sent(simulator, name) == [("GetOperation", "location=asia", None)]


@pytest.mark.parametrize("key", SECRETS)
def test_secret_header_of_a_task_is_refused(key: str) -> None:
    """A row is plain text; the error names the header and the place for it, and not the secret."""
    for kind in (LongRunningOperationSensor, operators.GetOperationOperator):
        with pytest.raises(ValueError, match=rf"{key}.*plain text: put it into headers in the connection") as caught:
            kind(task_id="wait", operation_name="operations/x", headers={key: "c4n4ry"})
        assert "c4n4ry" not in str(caught.value)
    with (
        LongRunningOperationHook(endpoint="a.example", headers=json.dumps({key: "c4n4ry"})) as hook,
        pytest.raises(EndpointError, match="plain text"),
    ):
        hook.get_conn()


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"X-Upper": "x"}, "the header 'X-Upper' cannot be sent"),
        ({"x": "two\nlines"}, "the header 'x' cannot be sent"),
        ({"x-bin": "text"}, "the header 'x-bin' cannot be sent"),
        ({"x": 7}, "headers=…, but it must be a JSON object of texts"),
        ([("x", "y")], "headers=…, but it must be a JSON object of texts"),
    ],
)
def test_wrong_headers_of_a_task_are_refused_when_the_dag_is_read(headers: Any, says: str) -> None:
    """The error says what is wrong."""
    with pytest.raises(ValueError, match=says):
        operators.GetOperationOperator(task_id="get", operation_name="operations/x", headers=headers)


def test_headers_of_another_task_are_not_known_when_the_dag_is_read() -> None:
    """All of them, or the value of one, may be the XCom of another task."""

    @lro_task
    def begin() -> str:
        return "operations/x"

    with DAG("headers", schedule=None):
        place = begin()
        for headers in (place, {ROUTING: place}):
            operators.GetOperationOperator(task_id=uuid.uuid4().hex, operation_name="operations/x", headers=headers)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ("c4n4ry", "headers=… in the connection's extra, but it must be a JSON object of texts"),
        (["c4n4ry"], "headers=… in the connection's extra, but it must be a JSON object of texts"),
        ({"x": 7}, "headers=… in the connection's extra, but it must be a JSON object of texts"),
        ({"x": "c4n4ry\n"}, "headers in the connection's extra: the header 'x' cannot be sent"),
    ],
)
def test_wrong_headers_of_a_connection(connect: Callable[..., str], headers: Any, says: str) -> None:
    """The error says what is wrong, and shows no value."""
    with LongRunningOperationHook(connect(headers)) as hook, pytest.raises(EndpointError, match=says) as caught:
        hook.get_conn()
    assert "c4n4ry" not in str(caught.value)


@pytest.mark.parametrize("key", SECRETS)
def test_secret_header_of_a_connection(connect: Callable[..., str], key: str) -> None:
    """It is for TLS only, and no log shows it; a header that is not one is not hidden."""
    extra = {"headers": json.dumps({key: "c4n4ry", **ROUTED})}
    assert ConnectionSettings(extra=extra).secrets() == ["c4n4ry"]
    with (
        LongRunningOperationHook(connect(extra["headers"])) as hook,
        pytest.raises(CredentialsError, match="plaintext"),
    ):
        hook.get_conn()
    conn_id = connect(extra["headers"], insecure=False, is_anonymous=True)
    with LongRunningOperationHook(conn_id) as hook:
        assert "c4n4ry" not in repr(hook.get_conn().config)
