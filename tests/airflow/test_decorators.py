"""``@task.lro``: a function of a user's, called once, whose operation is waited for at its own client's endpoint."""

from __future__ import annotations

import inspect
import json
import socket
import sys
import uuid
import warnings
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_overloads

import grpc
import pytest
from google.longrunning import operations_pb2_grpc
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import struct_pb2, wrappers_pb2

from airflow_provider_lro.decorators import lro_task
from airflow_provider_lro.exceptions import CredentialsError, EndpointError, OperationFailed, RpcError
from airflow_provider_lro.links import XCOM_KEY
from airflow_provider_lro.operation import Operation, OperationsClient
from airflow_provider_lro.operators import StartOperationOperator
from airflow_provider_lro.operators.start import endpoint_of
from airflow_provider_lro.simulator import SimulatorClient
from airflow_provider_lro.version_compat import AirflowTaskTerminated
from tests.airflow.worker import FakeStore, FakeTaskInstance, run
from tests.plus import Lake
from tests.versions import DAG, AirflowFailException, DagSerialization, task

with warnings.catch_warnings(action="ignore"):  # it would like grpcio-status, and a newer Python
    from google.api_core import operation as api_core
    from google.api_core import operation_async, operations_v1
    from google.api_core.operations_v1.transports.rest import OperationsRestTransport
    from google.auth.credentials import AnonymousCredentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

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


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a connection that allows plaintext and has no host."""
    monkeypatch.setenv("AIRFLOW_CONN_NAMELESS", json.dumps({"conn_type": "lro", "extra": {"insecure": True}}))
    return "nameless"


@pytest.fixture
def nobody_home() -> str:
    """Give an endpoint of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


class PassOn(grpc.UnaryUnaryClientInterceptor):
    """What every client library puts around its channel: to log, to measure."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details, request)


@pytest.fixture
def instrumented() -> Iterator[None]:
    """Let OpenTelemetry instrument gRPC, as ``opentelemetry-instrument airflow …`` does."""
    grpc_client = pytest.importorskip("opentelemetry.instrumentation.grpc").GrpcInstrumentorClient()
    grpc_client.instrument()
    yield
    grpc_client.uninstrument()


def generated(endpoint: str, message: pb.Operation, *, interceptors: int = 1) -> Any:
    """Wrap an operation as a generated client does, whose channel is closed when its function returns."""
    with grpc.insecure_channel(endpoint) as channel:
        for _ in range(interceptors):
            channel = grpc.intercept_channel(channel, PassOn())  # noqa: PLW2901
        return api_core.from_gapic(message, operations_v1.OperationsClient(channel), struct_pb2.Struct)


# What the function is given, and what becomes of what it returns.


@WAYS
def test_calls_once_and_waits(
    start: Callable[..., pb.Operation], ti: FakeTaskInstance, store: FakeStore, deferrable: bool
) -> None:
    """Bare decorator or not, the function is called once, and the response is the XCom."""
    calls = []

    def report(rows: int, *, name: str = "bare") -> pb.Operation:
        calls.append(name)
        return start(duration=1, response={"rows": rows})

    task = operator(lro_task(deferrable=deferrable, **FAST)(report), 5, name="r")
    done = run(task, ti=ti, store=store)
    assert (done.result, done.deferrals, calls) == ({"rows": 5.0}, int(deferrable), ["r"])
    bare = operator(lro_task(report), 6)
    assert bare.task_id == "report"
    assert run(bare).result == {"rows": 6.0}


def test_is_registered() -> None:
    """`@task.lro` is `lro_task`."""

    @task.lro(interval=7)
    def report() -> str:
        return "operations/1"

    made = report().operator
    assert isinstance(made, StartOperationOperator)
    assert made.interval == 7


def test_override_and_expand(start: Callable[..., pb.Operation], ti: FakeTaskInstance, store: FakeStore) -> None:
    """A decorated function can be given other arguments, and be mapped over its own."""

    @lro_task(deferrable=True, **FAST)
    def report(rows: int, request_id: str, unit: str = "") -> pb.Operation:
        assert uuid.UUID(request_id)
        return start(duration=0.2, response={"rows": rows, "unit": unit})

    other = report.override(task_id="other", interval=timedelta(seconds=2), wait_timeout=30)
    made = operator(other, 1, request_id="")
    assert (made.task_id, made.interval, made.wait_timeout, made.jitter) == ("other", 2.0, 30.0, 0.0)
    mapped = report.partial(unit="k").expand(rows=[3, 4]).operator
    one = mapped.unmap({"op_kwargs": {"rows": 4}})
    assert one.interval == 0.1
    assert run(one, ti=ti, store=store).result == {"rows": 4.0, "unit": "k"}


def test_arguments_are_templates(start: Callable[..., pb.Operation], ti: FakeTaskInstance) -> None:
    """`op_args`, `op_kwargs` and the connection's arguments are rendered."""

    @lro_task(lro_conn_id="{{ which }}", **FAST)
    def report(first: str, second: str) -> pb.Operation:
        return start(duration=0, response={"both": first + second})

    task = operator(report, "{{ a }}", second="{{ b }}")
    task.render_template_fields({"a": "x", "b": "y", "which": "lro_default"})
    assert run(task, ti=ti).result == {"both": "xy"}


def test_context_is_given_to_who_asks(start: Callable[..., pb.Operation], ti: FakeTaskInstance) -> None:
    """By parameter, as to any `@task`, or all of it by `**kwargs`, where the function's own arguments go first."""
    got = {}

    @lro_task(**FAST)
    def report(ti: Any = None, **kwargs: Any) -> pb.Operation:
        got.update(kwargs, ti=ti)
        return start(duration=0)

    task = operator(report, mine=1)
    run(task, ti=ti)
    assert got["ti"] is ti
    assert got["mine"] == 1
    assert uuid.UUID(got["request_id"])


def test_request_id_of_a_retry_is_the_same(
    start: Callable[..., pb.Operation], ti: FakeTaskInstance, store: FakeStore
) -> None:
    """A function that dies between the start and its return is given the same id again."""
    ids = []

    @lro_task(**FAST)
    def report(request_id: str = "") -> pb.Operation:
        ids.append(request_id)
        operation = start(duration=0.1, request_id=request_id)
        if len(ids) == 1:
            raise ConnectionError("after the start")
        return operation

    with pytest.raises(ConnectionError):
        run(operator(report), ti=ti, store=store)
    run(operator(report), ti=ti, store=store)
    assert len(ids) == 2
    assert len(set(ids)) == 1


@pytest.mark.parametrize(("args", "kwargs"), [(("mine",), {}), ((), {"request_id": "mine"})])
def test_own_request_id_goes_first(
    start: Callable[..., pb.Operation], ti: FakeTaskInstance, args: tuple[str, ...], kwargs: dict[str, str]
) -> None:
    """Who gives the function a request id, by name or by place, has it used."""
    got = []

    @lro_task(**FAST)
    def report(request_id: str = "") -> pb.Operation:
        got.append(request_id)
        return start(duration=0)

    run(operator(report, *args, **kwargs), ti=ti)
    assert got == ["mine"]


def test_request_id_with_a_default_of_its_own_is_refused() -> None:
    """It would never be used."""

    @lro_task
    def report(request_id: str = "always the same") -> None: ...

    with pytest.raises(ValueError, match="give it the default"):
        report()


def test_missing_argument_is_known_as_the_dag_is_read() -> None:
    """What Airflow checks of a decorated function is checked here, too."""

    @lro_task
    def report(rows: int, request_id: str = "") -> None: ...

    with pytest.raises(TypeError, match="rows"):
        report()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="too many"):
        report(1, "id", 3)  # type: ignore[call-arg]


@pytest.mark.parametrize("nonsense", [None, 7, {"id": 1}, []], ids=repr)
def test_function_that_returns_no_operation(nonsense: Any, ti: FakeTaskInstance, store: FakeStore) -> None:
    """The error names the function and says what to return; there is no retry, which would start another."""

    @lro_task
    def report() -> Any:
        return nonsense

    with pytest.raises(AirflowFailException, match=r"'report' of @task\.lro .*operation.*no retry is made"):
        run(operator(report), ti=ti, store=store)
    assert store.get("lro_operation") is None


def test_none_is_a_forgotten_return(ti: FakeTaskInstance) -> None:
    """The most likely mistake has its own words."""

    @lro_task
    def report() -> None: ...

    with pytest.raises(AirflowFailException, match="return the operation"):
        run(operator(report), ti=ti)


def test_generators_are_refused_as_the_dag_is_read() -> None:
    """A generator's body would never run."""

    def report() -> Any:
        yield "operations/1"

    async def areport() -> Any:
        yield "operations/1"

    for function in (report, areport):
        with pytest.raises(TypeError, match="it must start one operation, and return it"):
            lro_task(function)
        with pytest.raises(TypeError, match="yields"):
            lro_task(interval=5)(function)


def test_what_the_function_raises_is_raised(ti: FakeTaskInstance, store: FakeStore) -> None:
    """Nothing is stored, and Airflow's retries apply."""

    @lro_task
    def report() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(operator(report), ti=ti, store=store)
    assert store.get("lro_operation") is None


@pytest.mark.parametrize("failed", [True, False])
def test_operation_that_is_done_already(ti: FakeTaskInstance, simulator: Simulator, failed: bool) -> None:
    """It has its outcome: nothing is polled, and no endpoint is needed."""
    before = len(simulator.calls())

    @lro_task
    def report() -> pb.Operation:
        done = pb.Operation(done=True)
        if failed:
            done.error.code = 3
        return done

    if failed:
        with pytest.raises(OperationFailed):
            run(operator(report), ti=ti)
    else:
        assert run(operator(report), ti=ti).result == {}
    assert len(simulator.calls()) == before


def test_proto_plus_is_unwrapped(start: Callable[..., pb.Operation], ti: FakeTaskInstance) -> None:
    """proto-plus keeps the message in `_pb`."""

    @lro_task(**FAST)
    def report() -> Any:
        return SimpleNamespace(_pb=start(duration=0.2, response={"rows": 5}))

    assert run(operator(report), ti=ti).result == {"rows": 5.0}


@WAYS
def test_async_function(simulator: Simulator, ti: FakeTaskInstance, store: FakeStore, deferrable: bool) -> None:
    """It is run to its end, in a loop of its own, and may return google-api-core's AsyncOperation."""

    @lro_task(deferrable=deferrable, **FAST)
    async def report(rows: int, request_id: str = "") -> Any:
        async with grpc.aio.insecure_channel(simulator.endpoint) as channel:
            with SimulatorClient(simulator.endpoint) as client:
                message = client.start(duration=0.2, response={"rows": rows}, request_id=request_id)
            message = await operations_pb2_grpc.OperationsStub(channel).GetOperation(
                pb.GetOperationRequest(name=message.name)
            )
            client = operations_v1.OperationsAsyncClient(channel)
            return operation_async.from_gapic(message, client, pb.Operation)

    assert run(operator(report, 5), ti=ti, store=store).result == {"rows": 5.0}


def test_annotation_does_not_split_the_response() -> None:
    """A function that returns a mapping with a name says nothing of the response's keys; `multiple_outputs` does."""

    def report() -> dict[str, Any]:
        return {"name": "operations/1"}

    assert not operator(lro_task(report)).multiple_outputs
    assert operator(lro_task(multiple_outputs=True)(report)).multiple_outputs


def done_with(payload: Message) -> pb.Operation:
    """Make an operation that has succeeded."""
    operation = pb.Operation(name="operations/1", done=True)
    operation.response.Pack(payload)
    return operation


def test_split_leaves_the_link_alone(ti: FakeTaskInstance) -> None:
    """A response whose key is that of the link's XCom would decide where a click leads."""
    payload = struct_pb2.Struct()
    payload.update({XCOM_KEY: "javascript:alert(1)", "return_value": 1, "rows": 2})
    split = lro_task(multiple_outputs=True, task_id="split")(lambda: done_with(payload))
    assert run(operator(split), ti=ti).result == {"return_value": 1.0, "rows": 2.0}
    whole = lro_task(task_id="whole")(lambda: done_with(payload))
    assert XCOM_KEY in run(operator(whole)).result


@pytest.mark.parametrize("payload", [wrappers_pb2.StringValue(value="x"), struct_pb2.ListValue()], ids=["text", "list"])
def test_response_that_cannot_be_split(payload: Message, ti: FakeTaskInstance) -> None:
    """It fails for good: below Airflow 3.3 the retry after Airflow's own error would start another operation."""

    def report() -> pb.Operation:
        return done_with(payload)

    with pytest.raises(AirflowFailException, match="the operation has succeeded, and multiple_outputs cannot split"):
        run(operator(lro_task(multiple_outputs=True)(report)), ti=ti)
    unsplit = operator(lro_task(multiple_outputs=True, do_xcom_push=False)(report))
    assert run(unsplit).result in ("x", [])


def test_mapped_task_with_a_class_can_be_stored() -> None:
    """Airflow keeps the arguments of a mapped task with its DAG, as text."""
    with DAG("mapped", schedule=None) as dag:

        @lro_task(response_type=struct_pb2.Struct, metadata_type=Lake)
        def report(rows: int) -> None: ...

        report.expand(rows=[1, 2])
    stored = json.dumps(DagSerialization.to_dict(dag))
    assert "google.protobuf.struct_pb2:Struct" in stored
    assert "tests.plus:Lake" in stored

    class Lost(Lake):
        """Nothing can import it."""

    assert operator(lro_task(response_type=Lost)(report.function), 1).response_type is Lost


def test_overload_spells_the_operators_arguments() -> None:
    """What editors offer is what the operator takes."""
    offered = {name for each in get_overloads(lro_task) for name in inspect.signature(each).parameters}
    taken = set()
    for kind in StartOperationOperator.__mro__:
        if kind.__module__.startswith("airflow_provider_lro."):
            taken |= set(inspect.signature(kind.__init__).parameters)
    assert offered - {"python_callable", "multiple_outputs"} == taken - {"self"}


# Where to poll.


@WAYS
@pytest.mark.parametrize("interceptors", [0, 1, 3])
@pytest.mark.parametrize("stored", [True, False], ids=["store", "no store"])
def test_endpoint_is_that_of_the_functions_own_client(
    *,
    start: Callable[..., pb.Operation],
    simulator: Simulator,
    nameless: str,
    ti: FakeTaskInstance,
    deferrable: bool,
    stored: bool,
    interceptors: int,
) -> None:
    """It reaches the trigger and the worker that resumes, though the client is closed by then."""

    @lro_task(lro_conn_id=nameless, deferrable=deferrable, **FAST)
    def report() -> Any:
        message = start(duration=1, response={"rows": 5})
        return generated(simulator.endpoint, message, interceptors=interceptors)

    store = FakeStore() if stored else None
    done = run(operator(report), ti=ti, store=store)
    assert done.result == {"rows": 5.0}
    assert [kwargs["endpoint"] for _, kwargs in done.rows] == [simulator.endpoint] * deferrable
    if store is not None:
        assert store.get("lro_operation")["endpoint"] == simulator.endpoint


def test_endpoint_is_that_of_the_client_of_an_operator(
    start: Callable[..., pb.Operation], simulator: Simulator, nameless: str, ti: FakeTaskInstance
) -> None:
    """Of a StartOperationOperator, too, no connection needs a host, where what `start` returns tells it."""
    message = start(duration=0.2, response={"rows": 5})

    class Start(StartOperationOperator):
        def start(self, context: Any) -> Any:
            return generated(simulator.endpoint, message)

    assert run(Start(task_id="start", lro_conn_id=nameless, deferrable=True, **FAST), ti=ti).result == {"rows": 5.0}


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("interceptors", [0, 1, 3])
def test_endpoint_of_an_instrumented_client(
    start: Callable[..., pb.Operation], simulator: Simulator, nameless: str, ti: FakeTaskInstance, interceptors: int
) -> None:
    """OpenTelemetry's channel is around gRPC's, and the interceptors of the client library are around both."""

    @lro_task(lro_conn_id=nameless, deferrable=True, **FAST)
    def report() -> Any:
        message = start(duration=1, response={"rows": 5})
        return generated(simulator.endpoint, message, interceptors=interceptors)

    done = run(operator(report), ti=ti)
    assert done.result == {"rows": 5.0}
    assert done.rows[0][1]["endpoint"] == simulator.endpoint


def test_endpoint_of_a_client_that_is_instrumented_by_hand() -> None:
    """OpenTelemetry's channel may be around the others, too, and any number of times."""
    otel = pytest.importorskip("opentelemetry.instrumentation.grpc")
    with grpc.insecure_channel("example.com:444") as channel:
        wrapped: Any = grpc.intercept_channel(channel, PassOn())
        for interceptor in (otel.client_interceptor(), otel.client_interceptor()):
            wrapped = otel.intercept_channel(wrapped, interceptor)
        operation = api_core.from_gapic(MESSAGE, operations_v1.OperationsClient(wrapped), struct_pb2.Struct)
    assert endpoint_of(operation) == "example.com:444"


def test_endpoint_goes_before_the_connections_and_after_the_tasks(
    start: Callable[..., pb.Operation],
    simulator: Simulator,
    nobody_home: str,
    monkeypatch: pytest.MonkeyPatch,
    ti: FakeTaskInstance,
) -> None:
    """The task's, then the client's, then the connection's."""
    elsewhere = {"conn_type": "lro", "host": nobody_home, "extra": {"insecure": True}}
    monkeypatch.setenv("AIRFLOW_CONN_ELSEWHERE", json.dumps(elsewhere))

    def report(endpoint: str) -> Any:
        return generated(endpoint, start(duration=0.2, response={"rows": 5}))

    by_client = lro_task(lro_conn_id="elsewhere", **FAST)(report)
    assert run(operator(by_client, simulator.endpoint), ti=ti).result == {"rows": 5.0}
    by_task = by_client.override(endpoint=simulator.endpoint)
    assert run(operator(by_task, nobody_home), ti=ti).result == {"rows": 5.0}


def test_retry_knows_the_endpoint(
    start: Callable[..., pb.Operation], simulator: Simulator, nameless: str, ti: FakeTaskInstance, store: FakeStore
) -> None:
    """Another process takes it from the store, and calls no function; an `endpoint` that was added since goes first."""
    calls = []

    @lro_task(lro_conn_id=nameless, deferrable=True, **FAST)
    def report() -> Any:
        calls.append(1)
        return generated(simulator.endpoint, start(duration=0.4, fault="PERMISSION_DENIED*1", response={"rows": 5}))

    with pytest.raises(RpcError):
        run(operator(report), ti=ti, store=store)
    known = store.get("lro_operation")
    assert run(operator(report), ti=ti, store=store).result == {"rows": 5.0}
    assert len(calls) == 1
    store.set("lro_operation", {**known, "endpoint": "endpoint.invalid"})
    assert run(operator(report.override(endpoint=simulator.endpoint)), ti=ti, store=store).result == {"rows": 5.0}


def test_operation_that_replaces_a_failed_one_has_its_own_endpoint(
    start: Callable[..., pb.Operation], simulator: Simulator, nameless: str, ti: FakeTaskInstance, store: FakeStore
) -> None:
    """What an earlier try's client told is forgotten with its operation."""
    failed = start(outcome="fail", duration=0)
    store.set("lro_operation", {"name": failed.name, "started_at": 1.0, "endpoint": simulator.endpoint})
    also = simulator.endpoint.replace("127.0.0.1", "localhost")

    @lro_task(lro_conn_id=nameless, deferrable=True, **FAST)
    def report() -> Any:
        return generated(also, start(duration=1))

    (row,) = run(operator(report), ti=ti, store=store).rows
    assert row[1]["endpoint"] == also


def test_large_response_is_read_again_at_the_same_endpoint(
    start: Callable[..., pb.Operation], simulator: Simulator, nameless: str, ti: FakeTaskInstance
) -> None:
    """The worker that resumes knows it without a store, too."""

    @lro_task(lro_conn_id=nameless, deferrable=True, **FAST)
    def report() -> Any:
        return generated(simulator.endpoint, start(duration=0.2, response_bytes=100_000))

    done = run(operator(report), ti=ti)
    assert len(json.dumps(done.events[0])) < 70_000
    assert len(json.dumps(done.result)) > 100_000


def test_kill_on_a_worker_cancels_at_the_clients_endpoint(
    start: Callable[..., pb.Operation],
    simulator: Simulator,
    nameless: str,
    ti: FakeTaskInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cancel goes where the polls go."""
    monkeypatch.setattr("airflow_provider_lro.operators._base.state_of", lambda ti: "failed")
    names = []

    @lro_task(lro_conn_id=nameless, deferrable=False, **FAST)
    def report() -> Any:
        names.append(start(outcome="never").name)
        return generated(simulator.endpoint, pb.Operation(name=names[0]))

    task = operator(report)
    task.on_kill()
    with pytest.raises(AirflowTaskTerminated, match="a user has killed"):
        run(task, ti=ti)
    assert len(simulator.calls("CancelOperation", names[0])) == 1


@pytest.mark.parametrize("stored", [True, False], ids=["store", "no store"])
def test_endpoint_that_nothing_tells(
    start: Callable[..., pb.Operation], simulator: Simulator, nameless: str, ti: FakeTaskInstance, stored: bool
) -> None:
    """A name does not tell: without a host in the connection a retry waits for it later, or none is made."""
    calls = []

    @lro_task(lro_conn_id=nameless, **FAST)
    def report() -> str:
        calls.append(1)
        return start(duration=0.1, response={"rows": 5}).name

    store = FakeStore() if stored else None
    with pytest.raises(EndpointError if stored else AirflowFailException, match="give the task endpoint="):
        run(operator(report), ti=ti, store=store)
    if stored:
        mended = report.override(endpoint=simulator.endpoint)
        assert run(operator(mended), ti=ti, store=store).result == {"rows": 5.0}
        assert len(calls) == 1


@pytest.mark.parametrize("stored", [True, False], ids=["store", "no store"])
def test_endpoint_of_a_client_in_an_unknown_wrapper(
    start: Callable[..., pb.Operation], simulator: Simulator, nameless: str, ti: FakeTaskInstance, stored: bool
) -> None:
    """What has been started is not lost: its name is stored or, without a store, in the error, and no retry is made."""
    names: list[str] = []

    @lro_task(lro_conn_id=nameless, **FAST)
    def report() -> Any:
        names.append((message := start(duration=0.1, response={"rows": 5})).name)
        with Balancer(simulator.endpoint) as balancer:
            channel = grpc.intercept_channel(balancer, PassOn())
            return api_core.from_gapic(message, operations_v1.OperationsClient(channel), struct_pb2.Struct)

    store = FakeStore() if stored else None
    with pytest.raises(EndpointError if stored else AirflowFailException, match="give the task endpoint=") as caught:
        run(operator(report), ti=ti, store=store)
    assert names[0] in str(caught.value)
    if stored:
        mended = report.override(endpoint=simulator.endpoint)
        assert run(operator(mended), ti=ti, store=store).result == {"rows": 5.0}
        assert len(names) == 1


def test_async_function_needs_an_endpoint_before_it_runs(nameless: str, ti: FakeTaskInstance) -> None:
    """Its client may be closed, and then tells nothing, so that it is never asked."""

    @lro_task(lro_conn_id=nameless)
    async def report() -> None:
        raise AssertionError("must not run")

    with pytest.raises(EndpointError, match="no endpoint"):
        run(operator(report), ti=ti)


@pytest.mark.parametrize(
    ("connection", "error"),
    [
        (None, EndpointError),
        ({"host": "https://example.com/"}, EndpointError),
        ({"extra": {"insecure": "perhaps"}}, EndpointError),
        ({"extra": {"client_key": "-----BEGIN"}}, EndpointError),
        ({"extra": {"root_certificates": "/not/there"}}, EndpointError),
        ({"password": "secret", "extra": {"insecure": True}}, CredentialsError),
        ({"extra": {"key_path": "/not/there"}}, CredentialsError),
        ({"extra": {"keyfile_dict": {"type": "service_account"}}}, CredentialsError),
        ({}, CredentialsError),
    ],
    ids=["not stored", "host", "insecure", "mutual TLS", "authorities", "plaintext", "key file", "key", "no default"],
)
def test_what_can_be_known_is_known_before_the_start(
    connection: dict[str, Any] | None,
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    ti: FakeTaskInstance,
) -> None:
    """With no endpoint yet, all else of the connection is checked before the function is called."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/not/there")
    if connection is not None:
        monkeypatch.setenv("AIRFLOW_CONN_CHECKED", json.dumps({"conn_type": "lro", **connection}))

    @lro_task(lro_conn_id="checked")
    def report() -> None:
        raise AssertionError("must not run")

    with pytest.raises(error):
        run(operator(report), ti=ti)


def test_no_connection_is_needed_for_googles_endpoints(
    start: Callable[..., pb.Operation], monkeypatch: pytest.MonkeyPatch, ti: FakeTaskInstance, simulator: Simulator
) -> None:
    """With none stored, those are called with application default credentials; no other host is sent them."""
    monkeypatch.delenv("AIRFLOW_CONN_LRO_DEFAULT")
    monkeypatch.setattr("google.auth.default", lambda scopes: (AnonymousCredentials(), None))

    @lro_task(**FAST)
    def report() -> Any:
        return generated(simulator.endpoint, start(duration=1))

    with pytest.raises(AirflowFailException, match=r"cannot be polled: the credentials of this machine are not sent"):
        run(operator(report), ti=ti)


MESSAGE = pb.Operation(name="operations/1")


@pytest.mark.parametrize(
    ("target", "endpoint"),
    [
        ("127.0.0.1:50051", "127.0.0.1:50051"),
        ("dns:///a-b.example.com:444", "a-b.example.com:444"),
        ("example.com", "example.com:443"),
        ("my_service:1", "my_service:1"),
        ("[::1]:5", "[::1]:5"),
        ("dns://8.8.8.8/example.com:443", None),
        ("ipv4:1.2.3.4:5,1.2.3.4:6", None),
        ("unix:/tmp/socket", None),
        ("unix:80", None),
        ("xds:///example.com", None),
        ("google-c2p:///example.com", None),
        ("google-c2p-experimental:80", None),
    ],
)
def test_target_of_a_grpc_channel(target: str, endpoint: str | None) -> None:
    """A host is told, and with its port; what only this machine, or another resolver, can make something of is not."""
    assert endpoint_of(generated(target, MESSAGE)) == endpoint
    with grpc.insecure_channel(target) as channel:
        stub = operations_pb2_grpc.OperationsStub(channel)
    assert endpoint_of(api_core.from_grpc(MESSAGE, stub, pb.Operation)) == endpoint


@pytest.mark.parametrize(
    ("host", "endpoint"),
    [
        ("dataplex.example.com", "dataplex.example.com:443"),
        ("https://dataplex.example.com", "dataplex.example.com:443"),
        ("https://dataplex.example.com:8443", "dataplex.example.com:8443"),
        ("http://127.0.0.1:80", None),
    ],
)
def test_host_of_a_rest_transport(host: str, endpoint: str | None) -> None:
    """The same service answers gRPC there, unless the transport has no TLS."""
    transport = OperationsRestTransport(host=host, credentials=AnonymousCredentials())
    client = operations_v1.AbstractOperationsClient(transport=transport)
    assert endpoint_of(api_core.from_gapic(MESSAGE, client, pb.Operation)) == endpoint


def test_own_operation_tells_its_client() -> None:
    """This provider's operation knows its client; one without knows nothing."""
    with OperationsClient.connect("example.com:444") as client:
        assert endpoint_of(Operation(client, MESSAGE)) == "example.com:444"
    assert endpoint_of(Operation.from_name(None, "operations/1")) is None  # type: ignore[arg-type]


class Balancer(grpc.Channel):
    """A channel of somebody else's, that may send a call to any of its own."""

    def __init__(self, *targets: str) -> None:
        self._channel, *_ = self.channels = [grpc.insecure_channel(target) for target in targets]

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._channel.unary_unary(*args, **kwargs)

    unary_stream = stream_unary = stream_stream = subscribe = unsubscribe = unary_unary

    def close(self) -> None:
        for channel in self.channels:
            channel.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def test_channel_of_somebody_else_tells_nothing() -> None:
    """What an unknown channel does with a call cannot be known, whatever it holds."""
    with Balancer("one.example.com", "two.example.com") as balancer:
        channel = grpc.intercept_channel(balancer, PassOn())
        operation = api_core.from_gapic(MESSAGE, operations_v1.OperationsClient(channel), struct_pb2.Struct)
    assert endpoint_of(operation) is None


class Impostor:
    """Looks like a client, and is none that is known."""

    operations_stub = SimpleNamespace(GetOperation=SimpleNamespace(_target=b"evil.example.com:443"))
    _transport = SimpleNamespace(_host="https://evil.example.com")

    def get_operation(self, name: str, **options: Any) -> None: ...

    cancel_operation = get_operation


def test_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not made by google-api-core's own clients tells nothing, whatever it looks like."""
    impostor = Impostor()
    refresh = partial(impostor.get_operation, "operations/1")
    for unknown in (
        None,
        "evil.example.com:443",
        MESSAGE,
        SimpleNamespace(operation=MESSAGE, _refresh=refresh),
        api_core.from_gapic(MESSAGE, impostor, pb.Operation),
        api_core.from_grpc(MESSAGE, impostor.operations_stub, pb.Operation),
        api_core.from_http_json({"name": "operations/1"}, impostor.get_operation, pb.Operation),
        api_core.Operation(MESSAGE, lambda: MESSAGE, lambda: None, pb.Operation),
        api_core.Operation(MESSAGE, partial(lambda: MESSAGE), lambda: None, pb.Operation),
    ):
        assert endpoint_of(unknown) is None
    monkeypatch.delitem(sys.modules, "google.api_core.operation")
    assert endpoint_of(generated("example.com", MESSAGE)) is None


def test_stored_operation_of_an_older_version_has_no_endpoint(
    start: Callable[..., pb.Operation], ti: FakeTaskInstance, store: FakeStore
) -> None:
    """Neither has one whose endpoint is no text: the connection's host it is."""

    @lro_task(**FAST)
    def report() -> None:
        raise AssertionError("must not run")

    for more in ({}, {"endpoint": 7}, {"endpoint": None}):
        store.set("lro_operation", {"name": start(duration=0, response={"rows": 5}).name, "started_at": 1.0, **more})
        assert run(operator(report), ti=ti, store=store).result == {"rows": 5.0}
