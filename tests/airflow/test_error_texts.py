"""Every text of an error that a user can meet: one call for each, and all texts in `tests/golden/error_texts.txt`.

The texts are there to be read: what was given, what was expected, what to do. `LRO_WRITE_GOLDEN=1` writes the file
anew. An error that is added to the package fails `test_every_error_has_a_case` until it has a case here.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import io
import json
import os
import sys
import threading
import zlib
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import requests
from airflow.triggers import base as airflow_triggers
from google.auth import exceptions as google_errors
from google.auth.credentials import Credentials
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import struct_pb2
from google.rpc import error_details_pb2, status_pb2

from airflow_provider_lro import decorators, links, operation, triggers
from airflow_provider_lro.__main__ import main
from airflow_provider_lro._core import args as wait_arguments
from airflow_provider_lro._core import outcome as outcomes
from airflow_provider_lro._core.args import WaitArgs
from airflow_provider_lro._core.state import OperationState, Payload
from airflow_provider_lro._core.wait import Answer, Start, wait
from airflow_provider_lro._messages import protocol, results
from airflow_provider_lro._messages.events import event_from_outcomes
from airflow_provider_lro._transport import channel, rpc
from airflow_provider_lro._transport import listing as shared
from airflow_provider_lro._transport import tokens as tokens_module
from airflow_provider_lro._transport.channel import ChannelConfig
from airflow_provider_lro._transport.credentials import CredentialsConfig
from airflow_provider_lro.exceptions import LroError, RpcError
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.operation import AsyncOperationsClient, Operation, OperationsClient
from airflow_provider_lro.operators import (
    CancelOperationOperator,
    CancelStaleOperationsOperator,
    DeleteFinishedOperationsOperator,
    GetOperationOperator,
    ListOperationsOperator,
    StartOperationOperator,
    _base,
)
from airflow_provider_lro.sensors import REFUSED, LongRunningOperationSensor
from airflow_provider_lro.triggers import LongRunningOperationTrigger
from airflow_provider_lro.version_compat import AIRFLOW_VERSION, AirflowTaskTerminated
from tests.airflow.error_places import Place, places, traced
from tests.airflow.fake_service import PARENT, FakeService, serving
from tests.airflow.worker import FakeStore, FakeTaskInstance, fire, run
from tests.grpc.token_server import running_token_server
from tests.versions import AirflowTaskTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        version("apache-airflow").startswith(("2.", "3.0.", "3.1.", "3.2.")),
        reason="our texts are the same there, and those of Airflow and of gRPC in them are not",
    ),
]

GOLDEN = Path(__file__).parent.parent / "golden" / "error_texts.txt"
HEAD = """\
Every text of an error that a user can meet, by what leads to it. LRO_WRITE_GOLDEN=1 python -m pytest
tests/airflow/test_error_texts.py writes this file. <port>, <tmp> and <version> stand for what changes.
"""
PEM = "-----BEGIN CERTIFICATE-----\n"
NAME = "projects/p/operations/o"

OURS = "a fault of ours: nothing that a user does leads to it"
NOT_MET = {
    ("_core/checks.py", "too deep for JSON"): "caught where it is called: the payload stays opaque",
    ("_messages/results.py", "its state was not kept"): OURS,
    ("_runner/driver.py", "the poller of a blocking wait has waited"): OURS,
    ("_runner/group.py", "nobody had asked for it"): OURS,
    ("cli/__init__.py", "run() always exits"): OURS,
    ("operators/_base.py", "defer() returned"): OURS,
    ("operators/_base.py", "is not an error"): OURS,
    ("operators/start.py", "the wait ended without an outcome"): OURS,
    ("sensors.py", "the wait ended without an outcome"): OURS,
    ("sensors.py", "AirflowRescheduleException"): "has no text: it is how a task leaves its worker",
}
"""The places without a case, by a part of their source, and the reason."""


# ── the world of a case ──


@dataclass
class Here:
    """A service, a connection to it, and what a case may change for its own time."""

    fake: FakeService
    patch: pytest.MonkeyPatch
    tmp: Path

    def connect(self, conn_id: str = "lro_default", **stored: Any) -> str:
        """Store a connection, by default the one to the service."""
        default = {"host": "127.0.0.1", "port": self.fake.port, "extra": {"insecure": True}}
        self.patch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({"conn_type": "lro", **(stored or default)}))
        return conn_id

    def hook(self, conn_id: str = "mine", **stored: Any) -> LongRunningOperationHook:
        """Return the hook of a connection of this case's own."""
        return LongRunningOperationHook(self.connect(conn_id, **stored))

    def running(self, name: str = "o") -> str:
        """Add an operation that does not end."""
        return self.fake.add(name, age=5000)

    def done(self, name: str = "o", **content: Any) -> str:
        """Add one that is done."""
        full = self.fake.add(name, age=5000, ended=4000)
        state = self.fake.operations[full]
        if "message" in content:
            state.error.code, state.error.message = content["code"], content["message"]
        elif "response" in content:
            state.response.Pack(content["response"])
        return full

    def fails(self, method: str, code: grpc.StatusCode, text: str = "said the service", name: str = "") -> None:
        """Let a method fail."""
        self.fake.faults[method, name] = (code, text)

    @contextmanager
    def client(self) -> Iterator[OperationsClient]:
        """Connect to the service."""
        with OperationsClient.connect(f"127.0.0.1:{self.fake.port}", insecure=True) as client:
            yield client

    def file(self, content: str) -> str:
        """Write a file, and return its path."""
        path = self.tmp / "file"
        path.write_text(content)
        return str(path)


FAST: dict[str, Any] = {"initial_delay": 0.1, "jitter": 0, "not_found_grace": 0}


def sensor(operation_name: Any = NAME, **kwargs: Any) -> LongRunningOperationSensor:
    return LongRunningOperationSensor(
        **{"task_id": "wait", "operation_name": operation_name, "timeout": 0, "poke_interval": 0.1, **FAST, **kwargs}
    )


def cancel(operation_name: Any = NAME, **kwargs: Any) -> CancelOperationOperator:
    return CancelOperationOperator(
        **{"task_id": "cancel", "operation_name": operation_name, "interval": 0.1, **FAST, **kwargs}
    )


def stale(**kwargs: Any) -> CancelStaleOperationsOperator:
    return CancelStaleOperationsOperator(
        **{"task_id": "stale", "parent": PARENT, "older_than": 60, "interval": 0.1, "initial_delay": 0.1, **kwargs}
    )


def finished(**kwargs: Any) -> DeleteFinishedOperationsOperator:
    return DeleteFinishedOperationsOperator(**{"task_id": "finished", "parent": PARENT, "older_than": 60, **kwargs})


def start(returned: Any = NAME, **kwargs: Any) -> StartOperationOperator:
    """Return a task that starts an operation."""

    class Starting(StartOperationOperator):
        def start(self, context: Any) -> Any:
            return returned

    return Starting(**{"task_id": "start", "wait_timeout": 0, "interval": 0.1, **FAST, **kwargs})


def resume(task: Any, event: Any, *, store: FakeStore | None = None, **kwargs: Any) -> Any:
    """Go on after a trigger's event."""
    context = {"ti": FakeTaskInstance(), **({} if store is None else {"task_state_store": store})}
    return task.execute_complete(context, event, **kwargs)


def stored_operation(**values: Any) -> FakeStore:
    """Return a store that holds an operation of an earlier try."""
    store = FakeStore()
    store.set("lro_operation", {"name": NAME, "started_at": 1.0, **values})
    return store


def event(*found: Any, names: tuple[str, ...] = (NAME,)) -> dict[str, Any]:
    """Return the event of a trigger that has found some outcomes."""
    return event_from_outcomes(found, names, started_at=0.0)


def event_that_says(letters: str, entry: Any = None) -> dict[str, Any]:
    """Return an event of one operation, whatever stands in it."""
    return {"name": NAME, "outcomes": letters, "known": {} if entry is None else {"0": entry}, "started_at": 0.0}


def fire_row(**kwargs: Any) -> Any:
    """Run the trigger of a row."""
    return fire(LongRunningOperationTrigger(**kwargs).serialize())


def taken_back(here: Here) -> Any:
    """Go on after an event that says of an operation that it is done, which is not so any more."""
    here.patch.setattr(_base, "READ_AGAIN_TIMEOUT", 0.2)
    return resume(sensor(here.running()), event_that_says("S"))


def done_state(**values: Any) -> OperationState:
    return OperationState(name=NAME, done=True, **values)


def packed(message: Any) -> Payload:
    return Payload(type_url=f"type.googleapis.com/{message.DESCRIPTOR.full_name}", value=message.SerializeToString())


def rows(number: int = 5) -> struct_pb2.Struct:
    message = struct_pb2.Struct()
    message.update({"rows": number})
    return message


def with_content(here: Here, field: str, **content: Any) -> str:
    """Add an operation that has succeeded, with nothing but this response or metadata."""
    name = here.done()
    operation = here.fake.operations[name]
    message = struct_pb2.Struct()
    message.update(content)
    operation.ClearField("metadata")
    getattr(operation, field).Pack(message)
    return name


def unknown_metadata(here: Here) -> str:
    name = with_content(here, "response", rows=1)
    here.fake.operations[name].metadata.type_url = "type.googleapis.com/no.such.Type"
    return name


PARTS = [{"code": 3, "message": "row 7 is no date"}, {"code": 5, "message": "row 9"}]


def has_rows(response: Any, _metadata: Any) -> Any:
    return response["rows"] > 0 or "it has no rows"


async def judged_later(_response: Any, _metadata: Any) -> bool:
    return True


def awaited_by_nobody(response: Any, metadata: Any) -> Any:
    return judged_later(response, metadata)


class GrpcError(grpc.RpcError):
    """An error as gRPC raises it, in the words of its version 1.85."""

    def __init__(self, code: grpc.StatusCode, details: str, trailer: Any = ()) -> None:
        self.code = lambda: code
        self.details = lambda: details
        self.trailing_metadata = lambda: trailer


def by_grpc(code: str, details: str, *, trailer: Any = (), **more: Any) -> LroError:
    """Return our error for gRPC's."""
    error = GrpcError(grpc.StatusCode[code], details, trailer)
    return rpc.rpc_error(error, protocol.get_call(NAME), "h.example:443", **more)


def too_large() -> LroError:
    """Return the error of an answer that is too large for the triggerer."""
    said = "CLIENT: Received message larger than max (1500000 vs. 1048576)"
    return by_grpc("RESOURCE_EXHAUSTED", said, in_triggerer=True)


def left_to_worker(here: Here) -> Any:
    """Resume with an operation whose answer was too large, and that still runs."""
    here.running("o")
    resume(sensor(), event(outcomes.CallFailed(error=too_large())))


def details_trailer() -> Any:
    """Return the trailer of an error with details."""
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="QUOTA", domain="example.com"))
    return (("grpc-status-details-bin", status.SerializeToString()),)


class Stubborn(Credentials):  # type: ignore[misc]
    """Credentials whose refresh does what it is told to."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.act = act

    def refresh(self, request: Any) -> None:
        self.act()


def refreshed(error: Exception) -> None:
    """Refresh a token, which fails."""

    def fail() -> None:
        raise error

    tokens_module.Tokens(CredentialsConfig(given=Stubborn(fail))).refresh(10)


def call_without_token(here: Here) -> None:
    """Call while the token is still being refreshed."""
    gate = threading.Event()
    try:
        with OperationsClient.connect("h.example", credentials=Stubborn(lambda: gate.wait(30))) as client:
            client.get_operation(NAME, rpc_timeout=0.01)
    finally:
        gate.set()


def late_thread(here: Here) -> None:
    """Begin a refresh whose thread never runs, and another one."""
    tokens = tokens_module.Tokens(CredentialsConfig(given=Stubborn(lambda: None)))
    here.patch.setattr(tokens_module, "MAX_START", 0.0)
    with here.patch.context() as patch:
        patch.setattr("threading.Thread.start", lambda thread: None)
        first = tokens._join_refresh()
        tokens._join_refresh()
    first.result(0)


def no_thread(here: Here) -> None:
    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    here.patch.setattr("threading.Thread.start", full)
    tokens_module.Tokens(CredentialsConfig(given=Stubborn(lambda: None))).refresh(10)


def google_provider(here: Here, extra: dict[str, Any], secret: Exception | None = None, token: Any = None) -> Any:
    """Load credentials by a Google provider that fails as it is told to."""
    where = "airflow.providers.google.cloud.utils"
    provider, suppliers = ModuleType(f"{where}.credentials_provider"), ModuleType(f"{where}.external_token_supplier")

    def get(**kwargs: Any) -> Any:
        raise secret or AssertionError

    class Supplier:
        def __init__(self, **kwargs: Any) -> None:
            vars(self).update(kwargs)

        def get_subject_token(self, context: Any, request: Any) -> str:
            answer = requests.Response()
            answer.status_code = 401
            try:
                raise requests.HTTPError(response=answer)  # noqa: TRY301
            except requests.HTTPError:
                raise google_errors.RefreshError("the issuer says no")  # noqa: B904  (as the Google provider does)

    provider.get_credentials_and_project_id = get  # type: ignore[attr-defined]
    suppliers.ClientCredentialsGrantFlowTokenSupplier = Supplier  # type: ignore[attr-defined]
    here.patch.setitem(sys.modules, provider.__name__, provider)
    here.patch.setitem(sys.modules, suppliers.__name__, suppliers)
    with here.hook(host="h.example", extra=extra) as hook:
        config = hook.get_conn().config.credentials
    return tokens_module.Tokens(config).refresh(10) if token else config.load()


def answered(*answer: Any) -> Callable[[Here], Any]:
    """Return the case of a token endpoint that answers so."""

    def act(here: Here) -> Any:
        with running_token_server() as endpoint:
            endpoint.always = answer
            where = {"token_url": f"http://127.0.0.1:{endpoint.port}/t", "credential_source": {"file": here.file("me")}}
            config = CredentialsConfig(config_file=json.dumps({**FEDERATION, **where}))
            return tokens_module.Tokens(config).refresh(10)

    return act


IDP = {"idp_issuer_url": "https://idp.example", "client_id": "c", "client_secret": "s"}
FEDERATION = {
    "type": "external_account",
    "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/p",
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    "token_url": "https://sts.googleapis.com/v1/token",
}


def with_extra(extra: Any = None, **stored: Any) -> Callable[[Here], Any]:
    """Return the case of a connection with this extra."""

    def act(here: Here) -> Any:
        extras = {} if extra is None else {"extra": extra}
        with here.hook(**{"host": "h.example", **stored, **extras}) as hook:
            hook.get_conn(NAME)

    return act


def loaded(**extra: Any) -> Callable[[Here], Any]:
    """Return the case of a connection whose credentials are loaded."""

    def act(here: Here) -> Any:
        with here.hook(host="h.example", extra=extra) as hook:
            hook.check()

    return act


def default_credentials(here: Here, value: str | None) -> None:
    if value is None:
        here.patch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    else:
        here.patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", value)
    here.patch.setenv("CLOUDSDK_CONFIG", str(here.tmp / "gcloud"))
    here.patch.setenv("NO_GCE_CHECK", "true")
    with here.hook(host="h.example") as hook:
        hook.check()


def connect(**options: Any) -> Callable[[Here], Any]:
    """Return the case of a client without Airflow."""
    return lambda here: OperationsClient.connect(**{"endpoint": "h.example", **options})


def probe(here: Here, conn_id: str = "mine", **stored: Any) -> str:
    """Return what "Test connection" says."""
    with here.hook(conn_id, **stored) as hook:
        return hook.test_connection()[1]


def command(*arguments: str, stored: bool = True) -> Callable[[Here], Any]:
    """Return the case of a command: the last line that it writes to stderr."""

    def act(here: Here) -> str:
        if not stored:
            here.patch.delenv("AIRFLOW_CONN_LRO_DEFAULT")
        here.patch.setattr("sys.stdin", io.StringIO())
        with redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit) as end:
            main(arguments)
        return f"{said.getvalue().splitlines()[-1]} (exit code {int(end.value.code)})"

    return act


def waits(first: Any, **args: Any) -> Callable[[Here], Any]:
    """Return the case of a wait whose polls all have this result, a minute apart."""

    def act(here: Here) -> Any:
        steps = wait(WaitArgs(operation_name=NAME, started_at=0.0, **args), now=0.0, start=Start.FRESH)
        now = 0.0
        next(steps)
        try:
            while True:
                now += 60.0
                steps.send(Answer(now=now, value=first))
        except StopIteration as stop:
            return results.result_of(stop.value, WaitArgs(operation_name=NAME, started_at=0.0, **args))

    return act


def not_connected() -> RpcError:
    error = RpcError(f"UNAVAILABLE (14): connection refused [GetOperation of {NAME!r} at h.example:443]", code=14)
    error.connected = False
    return error


def rate_limited(here: Here) -> Any:
    """Poll where as many calls are on their way as a channel takes."""
    here.patch.setattr(channel, "MAX_CALLS_IN_FLIGHT", 0)

    async def poll() -> None:
        async with AsyncOperationsClient.connect(f"127.0.0.1:{here.fake.port}", insecure=True) as client:
            await client.get_operation(NAME, queue=0.01)

    asyncio.run(poll())


def killed_on_worker(here: Here) -> Any:
    here.patch.setattr(_base, "state_of", lambda ti: "failed")
    waiting = sensor(here.running(), mode="poke", timeout=20, cancel_on_kill=True)
    here.fake.before = lambda method, name: waiting.on_kill()
    run(waiting)


def killed_in_triggerer(here: Here) -> Any:
    """Kill a trigger that cannot learn the state of its task in time."""
    state = threading.Event()
    here.patch.setattr(triggers, "KILL_TIMEOUT", 0.01)
    here.patch.setattr(triggers, "state_of", lambda ti: state.wait(30) and "failed")

    async def kill() -> None:
        killed = LongRunningOperationTrigger(operation_name=NAME, cancel_on_kill=True)
        killed.task_instance = FakeTaskInstance()  # type: ignore[assignment]
        try:
            await killed.on_kill()
        finally:
            state.set()

    asyncio.run(kill())


def stopped_cleanup(here: Here) -> Any:
    here.done("a")
    here.done("b")
    task = finished()
    here.fake.before = lambda method, name: task.on_kill() if method == "ListOperations" else None
    run(task)


def over_time(task: Any, here: Here) -> Any:
    """Let Airflow's own timeout strike a task while it polls."""

    def strike(*args: Any, **kwargs: Any) -> None:
        raise AirflowTaskTimeout("Timeout, PID: 1")

    here.patch.setattr(LongRunningOperationHook, "channels", strike)
    run(task)


def listing(here: Here, **page: Any) -> Any:
    """List where each page is this one."""
    here.patch.setattr(protocol, "MAX_EMPTY_PAGES", 2)
    here.fake.ListOperations = lambda request, context: pb.ListOperationsResponse(  # type: ignore[method-assign]
        next_page_token=page["token"](request.page_token), operations=page.get("operations", ())
    )
    try:
        run(ListOperationsOperator(task_id="list", parent=PARENT))
    finally:
        del here.fake.ListOperations


def shared_listing(here: Here, *, kept: int = shared.MAX_LISTING_SIZE, **limits: Any) -> Any:
    """Watch a parent, in a triggerer, whose listing is longer than that."""
    here.patch.setattr(shared, "MAX_LISTING_SIZE", kept)
    here.fake.ListOperations = lambda request, context: pb.ListOperationsResponse(  # type: ignore[method-assign]
        next_page_token=f"{request.page_token}a", operations=[pb.Operation(name=NAME, done=True)] * 600
    )

    async def watch() -> None:
        config = ChannelConfig(target=f"127.0.0.1:{here.fake.port}", insecure=True, **limits)
        watching = shared.Subscription(AsyncOperationsClient, config, PARENT, interval=60.0)
        try:
            await watching.next()
        finally:
            watching.unsubscribe()

    try:
        asyncio.run(watch())
    finally:
        del here.fake.ListOperations


def unreadable(here: Here, method: str = "GetOperation", answer: bytes = b"\xff") -> Any:
    """Get what is not an operation, or list it."""
    raw = type("Raw", (), {"SerializeToString": lambda self: answer})
    here.patch.setattr(here.fake, method, lambda request, context: raw(), raising=False)
    with here.client() as client:
        return client.get_operation(NAME) if method == "GetOperation" else list(client.list_operations(PARENT))


def without_watchers(here: Here) -> Any:
    """Import the module of the watchers on an Airflow that has none."""
    from airflow_provider_lro import assets

    here.patch.delattr(airflow_triggers, "BaseEventTrigger")
    spec = importlib.util.spec_from_file_location("assets_again", assets.__file__)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def watcher(**kwargs: Any) -> Any:
    from airflow_provider_lro.assets import LongRunningOperationEventTrigger

    return LongRunningOperationEventTrigger(**{"parent": PARENT, **kwargs}).serialize()


def watcher_with_queue(here: Here) -> Any:
    from airflow_provider_lro import assets

    here.patch.setattr(assets, "triggers_have_queues", lambda: False)
    return watcher(queue="q")


def seen(here: Here) -> Any:
    from airflow_provider_lro.assets._seen import SeenStore

    class Store:
        async def aget(self, key: str) -> Any:
            return "what somebody else has written"

    asyncio.run(SeenStore([Store()], ("watched",)).load())


def ages(value: Any) -> Callable[[Here], Any]:
    """Return the case of a function of the user's that gives this for the time of an operation."""

    def act(here: Here) -> Any:
        here.done()
        run(finished(time_of=lambda operation: value))

    return act


def polled(here: Here, found: str, message_type: Any = None, **poll: Any) -> Any:
    """Poll an operation through the public class."""
    with here.client() as client:
        return Operation.from_name(client, found).poll(message_type, **poll)


def lro_task(function: Any, here: Here, **kwargs: Any) -> Any:
    decorated = decorators.lro_task(**{**FAST, "interval": 0.1, "wait_timeout": 0, **kwargs})(function)
    run(decorated().operator)


def yields() -> Any:
    yield "operations/1"


def with_default(request_id: str = "mine") -> Any:
    return request_id


def several(here: Here, *, mode: str = "poke") -> Any:
    """Wait for three: one fails, one is not found, one succeeds."""
    names = [here.done("a", code=9, message="not now"), f"{PARENT}/operations/b", here.done("c", response=rows())]
    run(sensor(names, mode=mode, timeout=20))


def same_for_all(here: Here) -> Any:
    here.fails("GetOperation", grpc.StatusCode.PERMISSION_DENIED)
    run(GetOperationOperator(task_id="get", operation_name=[here.running("a"), here.running("b")]))


def canceled_later(here: Here) -> Any:
    """Resume a cancel of many, of which one was refused before the deferral."""
    asked = {"name": NAME, "asked": True, "outcome": "running"}
    other = {"name": f"{PARENT}/operations/b", "error": {"code": 7, "message": "said the service"}}
    found = event(outcomes.Cancelled(operation=done_state(code=1)))
    resume(cancel([NAME, other["name"]], wait=True), found, results=[asked, other])


def stale_timeout(here: Here) -> Any:
    here.running("a")
    here.running("b")
    run(stale(wait=True, wait_timeout=0))


def unreachable_start(here: Here, *, stored: bool) -> Any:
    here.connect(host="{location}.example", port=1, extra={"insecure": True})
    run(start(), store=FakeStore() if stored else None)


def read_again(here: Here, *, stored: bool) -> Any:
    """Resume with a success that was too large for the event, and cannot be read again."""
    here.fails("GetOperation", grpc.StatusCode.PERMISSION_DENIED)
    resume(start(), event(outcomes.Succeeded(operation=None)), store=stored_operation() if stored else None)


def timed_out(**values: Any) -> Callable[[Here], Any]:
    """Return the case of a timeout, as a sensor resumes with it."""
    return lambda here: resume(sensor(timeout=3600), event(outcomes.TimedOut(**values)))


CANCEL_REFUSED = RpcError(f"UNIMPLEMENTED (12): no [CancelOperation of {NAME!r} at h.example:443]", code=12)
POLL_FAILED = RpcError(f"UNAVAILABLE (14): away [GetOperation of {NAME!r} at h.example:443]", code=14)

# ── the cases ──

NOT_NAMES = base64.b64encode(zlib.compress(b"5")).decode()
WRONG = {"list_parent": " ", "metadata_type": 5, "type_modules": 5}
"""Values that are wrong for an argument of a wait, where "x" is not."""
CASES: dict[str, Callable[[Here], Any]] = {
    # Arguments, as the DAG file is read.
    **{
        f"argument of a wait: {name}": lambda here, name=name: LongRunningOperationTrigger(  # type: ignore[misc]
            operation_name=NAME, **{name: WRONG.get(name, "x")}
        ).check()
        for name, *_ in wait_arguments.RULES
    },
    "sensor: poke_interval": lambda here: sensor(poke_interval=0.01),
    "sensor: on_cancelled": lambda here: sensor(on_cancelled="ignore"),
    "sensor: response_type": lambda here: sensor(response_type=5),
    "sensor: type_modules": lambda here: sensor(type_modules=5),
    "sensor: interval": lambda here: sensor(interval=5),
    "sensor: wait_timeout": lambda here: sensor(wait_timeout=5),
    "sensor: gcp_conn_id": lambda here: sensor(gcp_conn_id="google"),
    "sensor: max_polls_per_second": lambda here: sensor(max_polls_per_second=5),
    **{
        f"sensor: {name}": lambda here, name=name: sensor(**{name: 60 if name == "max_wait" else True})  # type: ignore[misc]
        for name in REFUSED
    },
    "sensor: max_consecutive_errors in mode reschedule": lambda here: sensor(
        mode="reschedule", max_consecutive_errors=3
    ),
    "sensor: end_from_trigger without deferrable": lambda here: sensor(end_from_trigger=True, deferrable=False),
    "sensor: end_from_trigger on an old Airflow": lambda here: (
        here.patch.setattr("airflow_provider_lro.sensors.triggers_have_on_kill", lambda: False),
        sensor(end_from_trigger=True, deferrable=True),
    ),
    "sensor: end_from_trigger of many": lambda here: sensor([NAME], end_from_trigger=True, deferrable=True),
    "sensor: many in mode reschedule": lambda here: sensor([NAME], mode="reschedule"),
    "sensor: neither name nor parent": lambda here: sensor(None),
    "sensor: a check with end_from_trigger": lambda here: sensor(check=min, end_from_trigger=True, deferrable=True),
    "sensor: a check with wait_for": lambda here: sensor([NAME] * 3, fail_on_partial=True, wait_for=2),
    "sensor: a check that is none": lambda here: sensor(check="rows > 0"),
    "sensor: a check that is a coroutine function": lambda here: sensor(check=judged_later),
    "sensor: a check of one argument": lambda here: sensor(check=lambda response: response),
    "sensor: a check that returns a coroutine": lambda here: run(sensor(here.done(), check=awaited_by_nobody)),
    "sensor: a result that a check rejects": lambda here: run(
        sensor(with_content(here, "response", rows=0), check=has_rows)
    ),
    "start: a result that a check rejects": lambda here: run(
        start(with_content(here, "response", rows=0), check=has_rows)
    ),
    "start: a result with partial failures": lambda here: run(
        start(with_content(here, "metadata", partial_failures=PARTS), fail_on_partial=True)
    ),
    "sensor: partial failures of a type that is not known": lambda here: run(
        sensor(unknown_metadata(here), fail_on_partial=True)
    ),
    "sensor: both name and parent": lambda here: sensor(parent=PARENT),
    "sensor: filter without parent": lambda here: sensor(filter="done"),
    "sensor: wait_for": lambda here: sensor(wait_for="most"),
    "sensor: wait_for too many": lambda here: run(sensor([NAME], wait_for=3)),
    "sensor: wait_for one of none": lambda here: run(sensor(None, parent=PARENT, wait_for="any")),
    "sensor: more operations than one task can wait for": lambda here: run(sensor([NAME] * 50_001)),
    "sensor: the same name twice": lambda here: run(sensor([NAME, NAME], wait_for=2)),
    "sensor: endpoint that is a URL": lambda here: sensor(endpoint="https://me:secret@h.example/v1"),
    "operator: poke_interval": lambda here: start(poke_interval=5),
    "operator: timeout": lambda here: start(timeout=5),
    "operator: wait_timeout": lambda here: start(wait_timeout="6h"),
    "operator: headers that are not a mapping": lambda here: start(headers=["a", "b"]),
    "operator: header with a wrong name": lambda here: start(headers={"X-Region": "eu"}),
    "operator: header with a secret": lambda here: start(headers={"authorization": "Bearer t"}),
    "operator: no start()": lambda here: run(StartOperationOperator(task_id="start")),
    "cancel: deferrable without wait": lambda here: cancel(deferrable=True),
    "list: limit": lambda here: ListOperationsOperator(task_id="list", parent=PARENT, limit=-1),
    "list: page_size": lambda here: ListOperationsOperator(task_id="list", parent=PARENT, page_size=0),
    "list: page_size as a text": lambda here: run(
        ListOperationsOperator(task_id="list", parent=PARENT, page_size="many")  # type: ignore[arg-type]
    ),
    "list: filter": lambda here: run(ListOperationsOperator(task_id="list", parent=PARENT, filter="\ud800")),
    "list: parent": lambda here: run(ListOperationsOperator(task_id="list", parent=" ")),
    "clean up: max_cancel": lambda here: stale(max_cancel=0),
    "clean up: max_delete": lambda here: finished(max_delete=0),
    "clean up: older_than": lambda here: stale(older_than="-5"),
    "clean up: time_of": lambda here: stale(time_of=5),
    "clean up: dry_run": lambda here: stale(dry_run=None),
    "clean up: on_unimplemented": lambda here: stale(on_unimplemented="ignore"),
    "clean up: time_of gives a time without a zone": ages(datetime(2026, 1, 2)),  # noqa: DTZ001
    "clean up: time_of gives another text": ages("yesterday"),
    "clean up: time_of gives something else": ages([5]),
    "@task.lro: a generator": lambda here: decorators.lro_task(yields),
    "@task.lro: request_id with a default": lambda here: decorators.lro_task(with_default)(),
    "watcher: parent": lambda here: watcher(parent=""),
    "watcher: filter": lambda here: watcher(filter=5),
    "watcher: interval": lambda here: watcher(interval=0.5),
    "watcher: announce_existing": lambda here: watcher(announce_existing=1),
    "watcher: lro_conn_id": lambda here: watcher(lro_conn_id=5),
    "watcher: endpoint": lambda here: watcher(endpoint=5),
    "watcher: outcomes": lambda here: watcher(outcomes="Succeeded,Lost"),
    "watcher: queue on an old Airflow": watcher_with_queue,
    "watcher: on an Airflow without watchers": without_watchers,
    "watcher: something else in the asset's store": seen,
    # Names, and what templates make of them.
    "name: empty": lambda here: sensor(""),
    "name: a number": lambda here: sensor(1.5),
    "name: None as a text": lambda here: sensor("None"),
    "name: a mapping without one": lambda here: sensor({"id": "o"}),
    "name: a mapping in a mapping": lambda here: run(sensor(nested(11))),
    "name: a template that was not rendered": lambda here: run(sensor("{{ ti.xcom_pull('start') }}")),
    "name: the text of a mapping": lambda here: run(sensor("{'name': 'operations/o'}")),
    "name: of a client's call": lambda here: Operation.from_name(None, ""),
    "names: not packed": lambda here: resume(sensor(), None, names="no"),
    "names: not a list": lambda here: resume(sensor(), None, names=NOT_NAMES),
    # Types of messages.
    "type: unknown": lambda here: run(sensor(response_type="Lake")),
    "type: a module that is not there": lambda here: run(sensor(response_type="no_such_module.Lake")),
    "type: a class that its module does not have": lambda here: run(sensor(response_type="json:Lake")),
    "type: a class that is not one of messages": lambda here: run(sensor(response_type="json:JSONDecoder")),
    "type: a class that fails": lambda here: run(sensor(response_type=f"{__name__}:Odd")),
    "type: a module that fails": lambda here: (
        here.patch.syspath_prepend(str(here.tmp)),
        (here.tmp / "lro_broken_types.py").write_text("1 / 0\n"),
        run(sensor(type_modules=["lro_broken_types"])),
    ),
    # Endpoints.
    "endpoint: none": with_extra(host=""),
    "endpoint: not UTF-8": connect(endpoint="\ud800"),
    "endpoint: a URL": with_extra(host="https://me:secret@h.example/v1"),
    "endpoint: with a path": with_extra(host="h.example/v1"),
    "endpoint: with more colons": with_extra(host="h.example:1:2"),
    "endpoint: without a host": with_extra(host=":443"),
    "endpoint: with a wrong port": with_extra(host="h.example", port=70000),
    "endpoint: with a location that the name does not have": with_extra(host="{location}-h.example"),
    "endpoint: not a text": lambda here: run(sensor(endpoint=1.5)),
    # Connections.
    "connection: not stored": lambda here: run(sensor(lro_conn_id="nowhere")),
    "connection: not stored, with an endpoint": lambda here: run(sensor(lro_conn_id="nowhere", endpoint="h.example")),
    "connection: the default not stored": lambda here: (
        here.patch.delenv("AIRFLOW_CONN_LRO_DEFAULT"),
        run(sensor()),
    ),
    "connection: cannot be read": lambda here: (
        here.patch.setattr(LongRunningOperationHook, "get_connection", staticmethod(away)),
        run(sensor(lro_conn_id="mine")),
    ),
    "connection: extra that is a list": with_extra(["a"]),
    "connection: extra that is not a text": with_extra({"key_path": 5}),
    "connection: extra that is not a boolean": with_extra({"insecure": "maybe"}),
    "connection: extra that is not a number": with_extra({"max_message_mb": "big"}),
    "connection: max_polls_per_second": with_extra({"max_polls_per_second": 0}),
    "connection: max_message_mb": with_extra({"max_message_mb": 4096}),
    "connection: max_triggerer_message_mb": with_extra({"max_triggerer_message_mb": 4096}),
    "connection: max_triggerer_message_mb that is not a number": with_extra({"max_triggerer_message_mb": "big"}),
    "connection: scope": with_extra({"scope": [5]}),
    "connection: authority": with_extra({"authority": "a b"}),
    "connection: allowed_endpoints": with_extra({"allowed_endpoints": 5}),
    "connection: allowed_endpoints with a * beside letters": with_extra({"allowed_endpoints": "*a.example"}),
    "connection: endpoint that is not allowed": lambda here: run(
        sensor(endpoint="evil.example", lro_conn_id=here.connect("mine", host="h.example", password="secret"))
    ),
    "connection: endpoint that is not allowed, none stored": lambda here: (
        here.patch.delenv("AIRFLOW_CONN_LRO_DEFAULT"),
        run(sensor(endpoint="evil.example:8443")),
    ),
    "connection: max_triggerer_pages": with_extra({"max_triggerer_pages": 0}),
    "connection: headers": with_extra({"headers": "x"}),
    "connection: header with a line end": with_extra({"headers": {"x-region": "a\n"}}),
    "connection: impersonation_chain": with_extra({"impersonation_chain": 5}),
    "connection: root_certificates without a file": with_extra({"root_certificates": "/no/such/file"}),
    "connection: client_key that is not a path": with_extra({"client_key": "half of a key", "client_certificate": PEM}),
    "connection: root_certificates of a file without PEM": lambda here: with_extra(
        {"root_certificates": here.file("no PEM")}
    )(here),
    "connection: insecure and certificates": with_extra({"insecure": True, "root_certificates": PEM}),
    "connection: client_certificate alone": with_extra({"client_certificate": PEM}),
    "connection: insecure with a token": with_extra({"insecure": True}, password="t"),
    "task: rendered header with a secret": lambda here: LongRunningOperationHook(
        headers='{"authorization": "Bearer t"}'
    ).get_conn(NAME),
    "task: quota_project_id": lambda here: run(sensor(quota_project_id=1.5)),
    "client: insecure": connect(insecure="false"),
    "client: header of a call": lambda here: polled(here, NAME, metadata=[("X-Region", "eu")]),
    # Credentials.
    "credentials: an answer that is not a token": answered(200, b"<html>"),
    "credentials: a token that cannot be sent": answered(200, {"access_token": "a\nb", "expires_in": 3600}),
    "credentials: a token that has expired": answered(200, {"access_token": "secret", "expires_in": -1}),
    "credentials: too large an answer": answered(200, b" " * 2**21),
    "credentials: not a token endpoint": answered(404, b"not here"),
    "credentials: key in key_path": loaded(key_path="{"),
    "credentials: several kinds": with_extra({"key_path": "/k", "keyfile_dict": "{}"}, password="t"),
    "credentials: token and anonymous": with_extra({"is_anonymous": True}, password="t"),
    "credentials: impersonation with a token": with_extra({"impersonation_chain": "a@p"}, password="t"),
    "credentials: token with a line end": with_extra(password="t\n2"),
    "credentials: quota project that is not a text": lambda here: CredentialsConfig(quota_project_id=5),  # type: ignore[arg-type]
    "credentials: quota project with a line end": with_extra({"quota_project_id": "a\nb"}),
    "credentials: no key file": loaded(key_path="/no/such/key.json"),
    "credentials: key file that is not a key": lambda here: loaded(key_path=here.file("{}"))(here),
    "credentials: keyfile_dict that is not a key": loaded(keyfile_dict="{}"),
    "credentials: no configuration file": loaded(credential_config_file="/no/such/file"),
    "credentials: not a configuration": loaded(credential_config_file="{}"),
    "credentials: none": lambda here: default_credentials(here, None),
    "credentials: unusable default ones": lambda here: default_credentials(here, here.file('{"type": "x"}')),
    "credentials: key in the variable for a path": lambda here: default_credentials(here, "{"),
    "credentials: no Google provider": lambda here: (
        here.patch.setitem(sys.modules, "airflow.providers.google.cloud.utils.credentials_provider", None),
        loaded(key_secret_name="name", key_secret_project_id="p")(here),
    ),
    "credentials: key in key_secret_name": lambda here: google_provider(here, {"key_secret_name": "{"}),
    "credentials: Secret Manager is away": lambda here: google_provider(
        here, {"key_secret_name": "name"}, secret=service_unavailable()
    ),
    "credentials: secret without a key": lambda here: google_provider(
        here, {"key_secret_name": "name"}, secret=ValueError("a secret")
    ),
    "credentials: idp_issuer_url without a configuration": lambda here: google_provider(here, IDP),
    "credentials: idp_issuer_url without client_id": lambda here: google_provider(
        here, {"idp_issuer_url": "https://idp.example", "credential_config_file": json.dumps(FEDERATION)}
    ),
    "credentials: idp_extra_parameters": lambda here: google_provider(
        here, {**IDP, "idp_extra_parameters": "[", "credential_config_file": json.dumps(FEDERATION)}
    ),
    "credentials: the issuer refuses": lambda here: google_provider(
        here, {**IDP, "credential_config_file": json.dumps(FEDERATION)}, token=True
    ),
    "token: refused": lambda here: refreshed(google_errors.RefreshError("invalid_grant: Account not found")),
    "token: endpoint away": lambda here: refreshed(google_errors.TransportError("no route to host")),
    "token: not in time": call_without_token,
    "token: its thread has not started": late_thread,
    "token: no thread": no_thread,
    # Calls, in the words of gRPC and of the service.
    "call: UNAVAILABLE": lambda here: by_grpc("UNAVAILABLE", "failed to connect"),
    "call: an error without a text": lambda here: by_grpc("PERMISSION_DENIED", ""),
    "call: UNAUTHENTICATED": lambda here: by_grpc("UNAUTHENTICATED", "said the service"),
    "call: NOT_FOUND": lambda here: by_grpc("NOT_FOUND", "said the service"),
    "call: UNIMPLEMENTED": lambda here: by_grpc("UNIMPLEMENTED", "said the service"),
    "call: response too large": lambda here: by_grpc(
        "RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (9 vs. 4)"
    ),
    "call: response too large for the triggerer": lambda here: too_large(),
    "call: left to a worker, and still running": left_to_worker,
    "call: error too large": lambda here: by_grpc("RESOURCE_EXHAUSTED", "received metadata size exceeds hard limit"),
    "call: proxy that wants a password": lambda here: by_grpc("UNAVAILABLE", "HTTP proxy returned response code 407"),
    **{
        f"call: {sign}": lambda here, sign=sign: by_grpc("UNAVAILABLE", f"… {sign} …")  # type: ignore[misc]
        for sign, _ in rpc._ENDPOINT_FAULTS
    },
    "call: HTTP 403": lambda here: by_grpc("PERMISSION_DENIED", "Received http2 header with status: 403"),
    "call: HTTP 404": lambda here: by_grpc("UNIMPLEMENTED", "Received http2 header with status: 404"),
    "call: INADEQUATE_SECURITY": lambda here: by_grpc("PERMISSION_DENIED", "Received RST_STREAM with error code 12"),
    "call: another answer": unreadable,
    "listing: another answer in a page": lambda here: unreadable(here, "ListOperations", b"\x0a\x01\xff"),
    "call: rate limited": rate_limited,
    "listing: the same page again": lambda here: listing(here, token=lambda token: "a"),
    "listing: nothing but empty pages": lambda here: listing(here, token=lambda token: f"{token}a"),
    "listing: a token that is too long": lambda here: listing(here, token=lambda token: "a" * 20_000),
    "listing: more pages than a triggerer reads": lambda here: shared_listing(here, max_triggerer_pages=2),
    "listing: more than a triggerer keeps": lambda here: shared_listing(here, kept=1 << 20),
    # The outcome of a wait.
    "wait: failed": lambda here: run(sensor(here.done(code=9, message="not now"))),
    "wait: failed, with details": lambda here: results.failure(
        done_state(
            code=8,
            message="",
            details=Payload(type_url=protocol.STATUS_URL, value=details_trailer()[0][1]),
        )
    ),
    "wait: cancelled": lambda here: run(sensor(here.done(code=1, message="by a user"))),
    "wait: cancelled, which is a skip": lambda here: run(
        sensor(here.done(code=1, message="by a user"), on_cancelled="skip")
    ),
    "wait: not found": lambda here: run(sensor()),
    "wait: call failed": lambda here: (
        here.fails("GetOperation", grpc.StatusCode.PERMISSION_DENIED),
        run(sensor(here.running())),
    ),
    "wait: timeout": timed_out(),
    "wait: timeout, cancelled": timed_out(cancel="took effect"),
    "wait: timeout, asked to cancel": timed_out(cancel="asked"),
    "wait: timeout, cancel refused": timed_out(
        cancel="refused",
        cancel_error=CANCEL_REFUSED,
        error=POLL_FAILED,
        operation=OperationState(name=NAME, metadata=packed(rows())),
    ),
    "wait: timeout of a try": lambda here: resume(
        sensor(timeout=3600, execution_timeout=timedelta(minutes=1), deferrable=True), event(outcomes.TimedOut())
    ),
    "wait: never a connection": waits(not_connected(), reached=False),
    "wait: Airflow's timeout, which is a skip": lambda here: over_time(sensor(soft_fail=True), here),
    "wait: any error, which is a skip": lambda here: run(sensor("{{ x }}", never_fail=True)),
    "wait: no result": lambda here: run(sensor(here.done(), require_result=True)),
    "wait: another type of response": lambda here: run(
        sensor(here.done(response=rows()), response_type="google.protobuf.Duration")
    ),
    "wait: response that does not parse": lambda here: resume(
        sensor(response_type="google.protobuf.Struct"),
        event(
            outcomes.Succeeded(
                operation=done_state(
                    response=Payload(type_url="type.googleapis.com/google.protobuf.Struct", value=b"\xff")
                )
            )
        ),
    ),
    "wait: response that is gone": lambda here: resume(sensor(), event(outcomes.Succeeded(operation=None))),
    "wait: response that cannot be read again": lambda here: (
        here.fails("GetOperation", grpc.StatusCode.PERMISSION_DENIED),
        resume(sensor(), event(outcomes.Succeeded(operation=None))),
    ),
    "wait: response that is not there when read again": lambda here: (
        here.patch.setattr(_base, "READ_AGAIN_TIMEOUT", 0.0),
        resume(sensor(here.running()), event(outcomes.Succeeded(operation=None))),
    ),
    "wait: error that cannot be read again": lambda here: resume(sensor(), event(outcomes.Failed(operation=None))),
    "wait: killed by a user": killed_on_worker,
    "wait: killed by a user in the triggerer": killed_in_triggerer,
    "wait: several fail": several,
    "wait: several, with one error": same_for_all,
    "wait: several, and no triggerer reports": lambda here: resume(sensor(None, parent=PARENT), None),
    "wait: the trigger's event without room for an error": lambda here: resume(sensor(), event_that_says("N")),
    "wait: the trigger's event without room for a call's error": lambda here: resume(sensor(), event_that_says("B")),
    "wait: the trigger's event with an error": lambda here: resume(
        sensor(), event(outcomes.CallFailed(error=POLL_FAILED))
    ),
    "wait: the trigger's event of another version": lambda here: resume(sensor(), {"status": "done"}),
    "wait: the trigger's event of another number": lambda here: resume(sensor(), event_that_says("SS")),
    "wait: the trigger's event with another letter": lambda here: resume(sensor(), event_that_says("X")),
    "wait: the trigger's event of another operation": lambda here: resume(
        sensor(), event(outcomes.Succeeded(operation=None), names=("operations/other",))
    ),
    **{
        f"wait: the trigger's event with {what}": (
            lambda here, letter=letter, entry=entry: resume(sensor(), event_that_says(letter, entry))  # type: ignore[misc]
        )
        for what, letter, entry in (
            ("another outcome", "S", {"operation": {"done": False}}),
            ("a state that is not one", "S", {"operation": {"done": "yes"}}),
            ("a type that is not a text", "S", {"operation": {"done": True, "response": {"@type": 5}}}),
            ("an error that is not one", "B", {"error": {"type": "RpcError", "text": 5}}),
            ("an error whose code is not one", "B", {"error": {"type": "RpcError", "text": "x", "code": "14"}}),
        )
    },
    "wait: the trigger's event that the service takes back": taken_back,
    "wait: a listed name that is too long": lambda here: (
        here.running("x" * 5000),
        run(sensor(None, parent=PARENT)),
    ),
    "wait: another operation's answer": lambda here: (
        here.fake.operations.__setitem__(NAME, pb.Operation(name="operations/other")),
        run(sensor(max_consecutive_errors=0)),
    ),
    "wait: an answer whose name is too long": lambda here: (
        here.fake.operations.__setitem__(NAME, pb.Operation(name="x" * 5000)),
        run(sensor(max_consecutive_errors=0)),
    ),
    "trigger: no names": lambda here: fire_row(operation_names=5),
    "trigger: a name that is too long": lambda here: fire_row(operation_name="x" * 5000),
    "Operation: metadata that is not there": lambda here: Operation(None, pb.Operation(name=NAME)).metadata(),
    "Operation: metadata of a class that is not one of messages": lambda here: Operation(
        None, pb.Operation(name=NAME)
    ).metadata(dict),
    "Operation: failed": lambda here: polled(here, here.done(code=5, message="no table")),
    "Operation: timeout": lambda here: Operation.from_name(None, NAME).wait(timeout=-1),
    "Operation: argument of a wait": lambda here: Operation.from_name(None, NAME).wait(deferrable=True),
    "Operation: attribute of the module": lambda here: operation.Client,
    # Several at a time.
    "cancel: some fail": lambda here: (
        here.fails("CancelOperation", grpc.StatusCode.PERMISSION_DENIED, name=here.running("a")),
        run(cancel([here.running("a"), here.running("b")])),
    ),
    "cancel: some have failed before the deferral": canceled_later,
    "delete: not found": lambda here: run(finished_one()),
    "clean up: some fail": lambda here: (
        here.fails("DeleteOperation", grpc.StatusCode.PERMISSION_DENIED, name=here.done("a")),
        here.done("b"),
        run(finished()),
    ),
    "clean up: told to stop": stopped_cleanup,
    "clean up: nothing can be deleted, which is a skip": lambda here: (
        here.fails("DeleteOperation", grpc.StatusCode.UNIMPLEMENTED, name=here.done("a")),
        run(finished(on_unimplemented="skip")),
    ),
    "clean up: no listing, which is a skip": lambda here: (
        here.fails("ListOperations", grpc.StatusCode.UNIMPLEMENTED),
        run(finished(on_unimplemented="skip")),
    ),
    "clean up: some do not end": stale_timeout,
    "clean up: no triggerer reports": lambda here: resume(stale(), None),
    # The operator that starts.
    "start: returns nothing": lambda here: run(start(None)),
    "start: returns something else": lambda here: run(start(5)),
    "start: returns a mapping without a name": lambda here: run(start({"id": "o"})),
    "start: returns a mapping that is not JSON": lambda here: run(
        start({"done": True, "response": {"rows": 10**5000}})
    ),
    "start: returns a name that is too long": lambda here: run(start(pb.Operation(name="x" * 5000))),
    "start: returns an operation of another kind": lambda here: run(start({"kind": "compute#operation"})),
    "start: returns an operation without a name": lambda here: run(start(pb.Operation())),
    "@task.lro: returns nothing": lambda here: lro_task(report, here),
    "@task.lro: no endpoint": lambda here: (
        here.connect(extra={"insecure": True}),
        lro_task(report_by_name, here),
    ),
    "start: cannot be polled, and a retry finds it": lambda here: unreachable_start(here, stored=True),
    "start: cannot be polled, and no retry would find it": lambda here: unreachable_start(here, stored=False),
    "start: something else in the store": lambda here: run(start(), store=stored_operation(name="")),
    "start: gone, after its result was returned": lambda here: run(start(), store=stored_operation(returned=True)),
    "start: no triggerer reports": lambda here: resume(start(), None),
    "start: the event of another operation": lambda here: resume(
        start(), event(outcomes.TimedOut(), names=("operations/other",)), store=stored_operation()
    ),
    "start: the event without an outcome": lambda here: resume(start(), event_that_says(".")),
    "start: result that cannot be read": lambda here: read_again(here, stored=False),
    "start: result that cannot be read, and a retry finds it": lambda here: read_again(here, stored=True),
    "start: multiple_outputs of a list": lambda here: run(
        start(here.done(response=list_of(1, 2)), multiple_outputs=True)
    ),
    "start: cancelled, which is a skip": lambda here: run(
        start(here.done(code=1, message="by a user"), on_cancelled="skip")
    ),
    # Links.
    "link: not a text": lambda here: links.check_template(5),
    "link: a brace": lambda here: links.check_template("https://h.example/{id"),
    "link: not a URL": lambda here: links.check_template("h.example/{id}"),
    "link: a part that the name does not have": lambda here: links.fill_template("https://h.example/{region}", NAME),
    "link: a name that leads elsewhere": lambda here: links.fill_template("https://h.example/{name}", "a/../b"),
    # "Test connection".
    "test connection: works": probe,
    "test connection: no Operations": lambda here: (
        here.fails("GetOperation", grpc.StatusCode.UNIMPLEMENTED),
        probe(here),
    )[-1],
    "test connection: no endpoint": lambda here: probe(here, host=""),
    "test connection: wrong credentials": lambda here: probe(here, host="h.example", extra={"key_path": "{"}),
    "test connection: remarks": lambda here: probe(
        here, host="127.0.0.1", port=here.fake.port, extra={"insecure": "yes", "key_pth": "/k"}
    ),
    # Commands.
    "command: seconds": command("wait", "o", "--timeout", "soon"),
    "command: not UTF-8": command("get", "o\udcff"),
    "command: name": command("get", " "),
    "command: number": command("list", "p", "--limit", "0"),
    "command: type module": command("get", "o", "--type-module", "no_such_module"),
    "command: insecure without an endpoint": command("get", "o", "--insecure"),
    "command: connection not stored": command("get", "o", "--conn-id", "nowhere"),
    "command: default connection not stored": command("get", "o", stored=False),
    "command: delete without a question": command("delete", "o"),
    "command: not found": command("wait", "o", "--not-found-grace", "0"),
}


class Odd:
    """Looks like a proto-plus class of messages, and fails."""

    @classmethod
    def pb(cls) -> Any:
        raise RuntimeError("not ready")


def away(conn_id: str) -> Any:
    raise ConnectionError("the secrets backend is away")


def report() -> None:
    """Start an operation, and forget to return it."""


def report_by_name() -> str:
    return NAME


def nested(depth: int) -> dict[str, Any]:
    return {"name": nested(depth - 1) if depth > 1 else NAME}


def finished_one() -> Any:
    from airflow_provider_lro.operators import DeleteOperationOperator

    return DeleteOperationOperator(task_id="delete", operation_name=NAME)


def list_of(*values: float) -> struct_pb2.ListValue:
    message = struct_pb2.ListValue()
    message.extend(values)
    return message


def service_unavailable() -> Exception:
    from google.api_core.exceptions import ServiceUnavailable

    return ServiceUnavailable("away")


# ── the texts ──


@dataclass(frozen=True)
class Told:
    """All that the cases have told, and the places that they came through."""

    texts: dict[str, str]
    met: set[Place]


def tell(act: Callable[[Here], Any], here: Here) -> str:
    """Return the class and the text of the error that a case ends with."""
    try:
        found = act(here)
    except (Exception, AirflowTaskTimeout, AirflowTaskTerminated, SystemExit) as error:  # noqa: BLE001  (it is shown)
        found = error
    if isinstance(found, str):
        return found
    assert isinstance(found, BaseException), "a case without an error"
    return f"{type(found).__name__}: {found}"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Run all cases, once."""
    fake, texts = FakeService(), {}
    with serving(fake), traced(list(places())) as met:
        for title, act in CASES.items():
            for kept in (fake.operations, fake.faults, fake.calls):
                kept.clear()
            fake.before = lambda method, name: None
            tmp = tmp_path_factory.mktemp("case")
            with pytest.MonkeyPatch.context() as patch:
                here = Here(fake, patch, tmp)
                here.connect()
                text = tell(act, here)
            text = text.replace(str(tmp), "<tmp>").replace(f"127.0.0.1:{fake.port}", "127.0.0.1:<port>")
            texts[title] = text.replace(AIRFLOW_VERSION, "<version>")
    assert channel.open_channels() == 0
    return Told(texts, met)


def read_golden() -> dict[str, str]:
    blocks = (block.split("\n", 1) for block in GOLDEN.read_text().strip().split("\n\n")[1:])
    return {title.removeprefix("# "): text for title, text in blocks}


@pytest.mark.no_cover  # which would take most of its time
def test_texts(told: Told) -> None:
    """Each text is as it stands in the golden file, which somebody has read."""
    if os.environ.get("LRO_WRITE_GOLDEN") == "1":
        blocks = (f"# {title}\n{text}" for title, text in told.texts.items())
        GOLDEN.write_text("\n\n".join([HEAD.strip(), *blocks]) + "\n")
    assert told.texts == read_golden()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a trace sees each instruction in Python 3.11, not in 3.13")
def test_every_error_has_a_case(told: Told) -> None:
    """Every place that makes an error is come through by a case, or says above why not."""
    missed = [place for place in places() if place not in told.met]
    excused = {place: key for place in missed for key in NOT_MET if place.file == key[0] and key[1] in place.source}
    assert "\n".join(str(place) for place in missed if place not in excused) == ""
    assert sorted(excused.values()) == sorted(NOT_MET), "met after all, or gone: take it out of NOT_MET"
