"""``@task.lro``: a function of a user's, called once, whose operation is waited for at its own client's endpoint."""

from __future__ import annotations

import inspect
import json
import uuid
import warnings
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from google.longrunning import operations_proto_pb2 as pb

from airflow_provider_lro import decorators
from airflow_provider_lro.decorators import lro_task
from airflow_provider_lro.exceptions import EndpointError, OperationFailed
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.simulator import SimulatorClient
from airflow_provider_lro.starting import StartOperationOperator
from tests.airflow.worker import FakeStore, FakeTaskInstance, run

with warnings.catch_warnings(action="ignore"):  # it would like grpcio-status, and a newer Python
    from google.api_core import operation as api_core
    from google.api_core import operations_v1
    from google.api_core.operations_v1 import OperationsClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulator_fixture import Simulator

FAST = {"interval": 0.1, "jitter": 0.0}
WAYS = pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "on the worker"])


def operator(decorated: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the task that a decorated function makes."""
    return decorated(*args, **kwargs).operator


@pytest.fixture
def ti() -> FakeTaskInstance:
    """Give a task instance of a run that no other test has."""
    return FakeTaskInstance(run_id=uuid.uuid4().hex)


@pytest.fixture
def store() -> FakeStore:
    """Give an empty store."""
    return FakeStore()


@pytest.fixture
def start(simulator: Simulator) -> Callable[..., pb.Operation]:
    """Start an operation, as any client library's call does."""

    def make(**script: Any) -> pb.Operation:
        with SimulatorClient(simulator.endpoint) as client:
            return client.start(**script)

    return make


class TellNothing(grpc.UnaryUnaryClientInterceptor):
    """What every client library puts around its channel: to log, to measure."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details, request)


def gapic(channel: grpc.Channel, message: pb.Operation) -> Any:
    """Wrap an operation as a generated client does."""
    return api_core.from_gapic(message, OperationsClient(channel), pb.Operation)


# What the function is given, and what becomes of what it returns.


@WAYS
def test_calls_once_and_waits(
    start: Callable[..., pb.Operation], ti: FakeTaskInstance, store: FakeStore, deferrable: bool
) -> None:
    """Bare decorator or not, the function is called once, and the response is the XCom."""
    calls = []

    def report(rows: int, *, name: str) -> pb.Operation:
        calls.append(name)
        return start(duration=0.3, response={"rows": rows})

    task = operator(lro_task(deferrable=deferrable, **FAST)(report), 5, name="r")
    done = run(task, ti=ti, store=store)
    assert (done.result, done.deferrals, calls) == ({"rows": 5.0}, int(deferrable), ["r"])
    bare = operator(lro_task(report), 6, name="bare")
    assert bare.task_id == "report"
    assert run(bare, ti=FakeTaskInstance(run_id=uuid.uuid4().hex)).result == {"rows": 6.0}


# Where to poll.


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a connection that allows plaintext and has no host."""
    monkeypatch.setenv("AIRFLOW_CONN_NAMELESS", json.dumps({"conn_type": "lro", "extra": {"insecure": True}}))
    return "nameless"


@WAYS
@pytest.mark.parametrize("stored", [True, False], ids=["store", "no store"])
def test_endpoint_is_that_of_the_functions_own_client(
    start: Callable[..., pb.Operation],
    simulator: Simulator,
    nameless: str,
    ti: FakeTaskInstance,
    deferrable: bool,
    stored: bool,
) -> None:
    """It reaches the trigger and the worker that resumes, over a channel that is intercepted and closed by then."""

    def report() -> Any:
        with grpc.insecure_channel(simulator.endpoint) as channel:
            intercepted = grpc.intercept_channel(channel, TellNothing(), TellNothing())
            return gapic(intercepted, start(duration=0.3, response={"rows": 5}))

    store = FakeStore() if stored else None
    task = operator(lro_task(lro_conn_id=nameless, deferrable=deferrable, **FAST)(report))
    done = run(task, ti=ti, store=store)
    assert done.result == {"rows": 5.0}
    if store is not None:
        assert store.get("lro_operation")["endpoint"] == simulator.endpoint
    for _, kwargs in done.rows:
        assert kwargs["endpoint"] == simulator.endpoint
