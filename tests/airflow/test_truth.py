"""A wait on the worker and a deferred one give the same result for every outcome, down to the fields of its error.

Each row says what must come of an operation. It is run twice, each time with an operation of its own that differs in
nothing but its id: on the worker, and through a trigger whose row and event cross as JSON. The results are compared
whole, after the name and the times are taken out. The rows run side by side, a test each.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import pytest
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import struct_pb2

from airflow_provider_lro._runner.worker import WakeEvent
from airflow_provider_lro.exceptions import (
    Code,
    CredentialsError,
    LroError,
    MalformedOperation,
    OperationCancelled,
    OperationFailed,
    OperationNotFound,
    OperationTimeout,
    PayloadTypeError,
    RpcError,
    UnimplementedError,
)
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.operators import StartOperationOperator
from airflow_provider_lro.sensors import LongRunningOperationSensor
from airflow_provider_lro.simulator import operation_name
from airflow_provider_lro.simulator.script import DETAILS
from tests.airflow import worker
from tests.airflow.worker import FakeStore
from tests.versions import AirflowSkipException, AirflowTaskTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future

    from tests.simulator_fixture import Simulator

CONNECTION, NARROW_CONNECTION = "lro_truth", "lro_truth_narrow"
AT_ONCE = 16
"""Waits that run at the same time."""
INTERVAL = 0.1
DURATION = 0.3
"""Seconds of an operation, if its row says nothing else: the first poll finds it running."""
SHORT = 2.0
"""Seconds until the deadline of a wait that reaches it."""
LONG = 30.0
"""Seconds until the deadline of a wait that must not reach it."""
HUNG = 55.0
"""Seconds after which a row hangs for good."""
FOR_EVER = {"outcome": "never", "duration": 3600}
"""So long that its progress stays at 0 per cent."""
BIG = 200_000
"""Bytes, well above the 64 KiB of an event."""
MANY_DETAILS = ",".join(["ErrorInfo"] * 350)
"""More than the 64 KiB of an event, in a script that is short enough for a header of a call."""
ONE_TRY = {"execution_timeout": timedelta(seconds=SHORT), "poke_interval": 20, "initial_delay": 20}
"""With pauses so long that on the worker Airflow's alarm comes in one, and not in a poll."""

SOFT = {"soft_fail": True}

SENSOR, START = "sensor", "start"
BOTH = (SENSOR, START)
WORKER, DEFERRED = "worker", "deferred"
PATHS = (WORKER, DEFERRED)

Part: TypeAlias = "dict[str, Any]"
"""Some fields of a row, for several rows."""


# ── rows ──


@dataclass(frozen=True, kw_only=True)
class Row:
    """One outcome, and the result that it must have in both paths.

    Attributes:
        title: The name of the test.
        script: What the simulated operation does.
        big: An operation of `BigOperations` instead.
        xcom: What the task must return; anything, if it is None.
        error: What it must raise instead.
        code: The code of that error.
        says: A pattern that its text must have.
        fields: Those of the error's fields that must have these values.
        at_once: The first poll on the worker brings the outcome, so nothing is deferred.
        options: Arguments of the operator.
        timeout: Seconds until the wait's deadline.
        kinds: The operators that have such an outcome.
        meanwhile: What somebody else does to the operation when it has been polled once.
        conn_id: Through which connection.
        unlike: What must differ between the two paths, and why; everything else must not.
    """

    title: str
    script: Mapping[str, Any] = field(default_factory=dict)
    big: str = ""
    xcom: Any = None
    error: type[Exception] | None = None
    code: int | None = None
    says: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    at_once: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = LONG
    kinds: tuple[str, ...] = BOTH
    meanwhile: Callable[[str], None] | None = None
    conn_id: str = CONNECTION
    unlike: Mapping[str, str] = field(default_factory=dict)

    def name(self, operation_id: str) -> str:
        """Return the name of an operation for one run."""
        if self.big:
            return f"big/{self.big}/operations/{operation_id}"
        return operation_name(operation_id, **{"duration": DURATION, **self.script})


def delete(name: str) -> None:
    with LongRunningOperationHook(CONNECTION) as hook:
        hook.delete_operation(name)


def cancel(name: str) -> None:
    with LongRunningOperationHook(CONNECTION) as hook:
        hook.cancel_operation(name)


def successes() -> Iterator[Row]:
    """Operations that succeed."""
    rows = {"rows": 3.0, "nested": {"list": [1.0, None, "zwölf"]}}
    yield Row(title="success", script={"response": rows}, xcom=rows)
    yield Row(title="success at once", script={"response": rows, "duration": 0}, xcom=rows, at_once=True)
    yield Row(title="empty response", script={"response_type": "empty"}, xcom={})
    yield Row(title="neither", script={"outcome": "neither"}, xcom={})
    opaque = {"@type": "type.googleapis.com/simulations.unknown.v1.Response", "value": "CgZvcGFxdWU="}
    yield Row(title="unknown response", script={"response_type": "unknown"}, xcom=opaque)
    nested = {
        "code": 0,
        "message": "nested",
        "details": [{"@type": "type.googleapis.com/simulations.unknown.v1.Nested", "value": "CgZvcGFxdWU="}],
    }
    yield Row(title="unknown inside the response", script={"response_type": "nested_unknown"}, xcom=nested)
    malformed = {"@type": "type.googleapis.com/google.protobuf.Struct", "value": "Cn9icm9rZW4="}
    yield Row(title="malformed response", script={"response_type": "malformed"}, xcom=malformed)
    for metadata in ("none", "unknown"):
        yield Row(title=f"success, metadata {metadata}", script={"response": rows, "metadata": metadata}, xcom=rows)
    yield Row(title="not found early", script={"response": rows, "not_found": 2}, xcom=rows)
    faults = {"response": rows, "duration": 0, "fault": "14*2,13*1,4*1,8*1,10*1,2*1,1*1"}
    yield Row(title="faults that pass", script=faults, xcom=rows)
    named: Part = {"script": {"response": rows}, "xcom": rows}
    for kind in ("google.protobuf.Struct", "google.protobuf.struct_pb2:Struct", struct_pb2.Struct):
        yield Row(title=f"of the type asked for, {kind}", options={"response_type": kind}, **named)
    yield Row(title="success of more than an event holds", script={"response_bytes": BIG})
    yield Row(title="success of more than 4 MB", script={"response_bytes": 4_500_000})


def failures() -> Iterator[Row]:
    """Operations that fail, are cancelled, or are gone."""
    failed: Part = {"error": OperationFailed, "code": 9}
    says = r"failed with FAILED_PRECONDITION \(9\): the service gave no message \[operation "
    yield Row(title="code alone", script={"outcome": "fail", "code": 9}, says=says, **failed)
    script = {"outcome": "fail", "code": 9, "message": "Die Festplatte ist voll: 100 %"}
    yield Row(title="failed", script=script, says="Festplatte", fields={"message": script["message"]}, **failed)
    yield Row(title="failed at once", script={**script, "duration": 0}, at_once=True, **failed)
    for metadata in ("none", "unknown"):
        yield Row(title=f"failed, metadata {metadata}", script={**script, "metadata": metadata}, **failed)
    for code in (999, -1, 0):
        row: Part = {"script": {"outcome": "fail", "code": code}, "error": OperationFailed, "code": code}
        yield Row(title=f"code {code}", **row)
    all_details = {"outcome": "fail", "code": 9, "details": ",".join(DETAILS)}
    yield Row(title="every kind of details", script=all_details, says="RATE_LIMIT_EXCEEDED", **failed)
    many = {"outcome": "fail", "code": 9, "message": "too much", "details": MANY_DETAILS}
    yield Row(title="details of more than an event holds", script=many, says="too much", **failed)
    yield Row(title="message of more than an event holds", big="message", says="ö{1000}", **failed)
    yield Row(title="failed, metadata of more than an event holds", big="metadata", **failed)
    malformed: Part = {"error": MalformedOperation, "options": {"require_result": True}, "says": "require_result"}
    yield Row(title="neither, but required", script={"outcome": "neither"}, **malformed)

    kind = {"response_type": "google.protobuf.Duration"}
    says = r"is a 'google\.protobuf\.Struct', but 'google\.protobuf\.Duration' was asked for: correct the type"
    other: Part = {"error": PayloadTypeError, "says": says, "options": kind}
    yield Row(title="of another type", **other)
    yield Row(title="of another type, at once", script={"duration": 0}, at_once=True, **other)
    yield Row(title="of another type, more than an event holds", script={"response_bytes": BIG}, **other)
    yield Row(title="failed, with a type asked for", script=script, **{**failed, "options": kind})
    asked = {"response_type": "google.protobuf.Struct"}
    says = "do not parse as one: install the version"
    broken: Part = {"script": {"response_type": "malformed"}, "options": asked, "says": says}
    yield Row(title="of the type asked for, malformed", error=PayloadTypeError, **broken)

    cancelled: Part = {"error": OperationCancelled, "code": 1, "says": "was cancelled"}
    yield Row(title="cancelled", script={"outcome": "cancelled", "message": "by an operator"}, **cancelled)
    yield Row(title="cancelled meanwhile", script={"duration": 3600}, meanwhile=cancel, **cancelled)
    skipped: Part = {
        "error": AirflowSkipException,
        "options": {"on_cancelled": "skip"},
        "says": "skipped: .*was cancelled",
    }
    yield Row(title="cancelled, skip", script={"outcome": "cancelled"}, **skipped)

    gone: Part = {"error": OperationNotFound, "code": 5, "options": {"not_found_grace": 0}}
    yield Row(title="never there", script={"not_found_for": 60}, at_once=True, **gone)
    grace: Part = {**gone, "options": {"not_found_grace": SHORT}}
    yield Row(title="never there, grace", script={"not_found_for": 60}, says="not visible yet", **grace)
    yield Row(title="expired", script={"expire": 0}, says="it expired", **gone)
    yield Row(title="deleted", script={"duration": 3600}, meanwhile=delete, says="it was deleted", **gone)


def timeouts() -> Iterator[Row]:
    """Operations that are not done in time."""
    late: Part = {"error": OperationTimeout, "code": 4, "timeout": SHORT}
    goes_on = r"not done within 2 s: it goes on, and may still succeed\."
    yield Row(
        title="timeout",
        script=FOR_EVER,
        says=rf"{goes_on} Its last known progress: 0 %, simulate\. \[operation ",
        **late,
    )
    yield Row(
        title="timeout, no metadata", script={**FOR_EVER, "metadata": "none"}, says=rf"{goes_on} \[operation ", **late
    )
    yield Row(title="timeout, unknown metadata", script={**FOR_EVER, "metadata": "unknown"}, says="CgZv", **late)
    yield Row(title="no time at all", script=FOR_EVER, at_once=True, **{**late, "timeout": 0.0})
    why = "an event holds 64 KiB, metadata counts least in it, and that of an operation which goes on changes"
    cut = dict.fromkeys(("text", "message", "operation"), why)
    yield Row(title="timeout, metadata of more than an event holds", big="never", unlike=cut, **late)
    yield Row(title="timeout, no answer ever", script={"fault": "14*forever"}, says="poll failed: UNAVAILABLE", **late)
    script = {**FOR_EVER, "fault": "14*forever", "fault_after": 1}
    why = "only JSON scalars go to the trigger: what the poll on the worker saw of the progress stays there"
    unseen = dict.fromkeys(("text", "message", "operation", "operation's type"), why)
    yield Row(title="timeout, one answer", script=script, says="last poll failed: UNAVAILABLE", unlike=unseen, **late)
    script = {**FOR_EVER, "fault": "14*1", "fault_after": 1}
    yield Row(title="timeout, one fault", script=script, says=goes_on, **late)
    yield Row(title="timeout, never there", script={"not_found_for": 60}, says="last poll failed: NOT_FOUND", **late)

    cancels = {"on_timeout": "cancel", "cancel_grace": LONG}
    takes_effect: Part = {"options": cancels, "says": "is cancelled", **late}
    yield Row(title="timeout, cancelled", script=FOR_EVER, **takes_effect)
    yield Row(title="timeout, cancelled slowly", script={**FOR_EVER, "cancel_delay": 0.3}, **takes_effect)
    skips: Part = {**takes_effect, "options": {**cancels, "on_cancelled": "skip"}}
    yield Row(title="timeout, cancelled, skip", script=FOR_EVER, **skips)
    script = {**FOR_EVER, "details": MANY_DETAILS}
    title = "timeout, cancelled, details of more than an event holds"
    yield Row(title=title, script=script, **takes_effect)
    ignored: Part = {"options": {**cancels, "cancel_grace": 0.3}, "says": "has had no effect so far", **late}
    yield Row(title="timeout, cancel ignored", script={**FOR_EVER, "cancel": "ignore"}, **ignored)
    refused: Part = {"options": cancels, "says": "could not be cancelled.*cancel failed: .*UNIMPLEMENTED", **late}
    yield Row(title="timeout, cancel unimplemented", script={**FOR_EVER, "unimplemented": "cancel"}, **refused)
    anyway: Part = {"options": cancels, "timeout": SHORT}
    script = {"duration": SHORT + 2, "cancel": "ignore"}
    yield Row(
        title="success despite a cancel", script={**script, "response": {"rows": 1.0}}, xcom={"rows": 1.0}, **anyway
    )
    failed: Part = {**script, "outcome": "fail", "code": 9}
    yield Row(title="failure despite a cancel", script=failed, error=OperationFailed, code=9, **anyway)

    over: Part = {"script": FOR_EVER, "error": AirflowTaskTimeout, "code": 4}
    yield Row(title="execution_timeout", options=ONE_TRY, says=r"not done within \d+(\.\d+)? s", **over)
    yield Row(title="execution_timeout, cancelled", options={**ONE_TRY, **cancels}, says="is cancelled", **over)


def failed_calls() -> Iterator[Row]:
    """Operations that cannot be reached."""
    for code, kind in (
        (Code.PERMISSION_DENIED, RpcError),
        (Code.UNIMPLEMENTED, UnimplementedError),
        (Code.UNAUTHENTICATED, CredentialsError),
    ):
        row: Part = {"error": kind, "code": code, "says": code.name}
        yield Row(title=code.name, script={"fault": f"{code.value}*forever", "fault_after": 1}, **row)
    details: Part = {
        "script": {"fault": "7*forever", "fault_after": 1, "retry_info": 1.5},
        "fields": {"retry_after": 1.5},
    }
    yield Row(title="details of a call", error=RpcError, code=7, **details)
    at_once: Part = {"error": UnimplementedError, "code": 12, "at_once": True}
    yield Row(title="no Get", script={"unimplemented": "get"}, **at_once)
    most: Part = {"error": RpcError, "code": 14, "options": {"max_consecutive_errors": 2}}
    third: Part = {"says": "Simulated UNAVAILABLE: 3 of 9", **most}
    yield Row(title="too many errors", script={"fault": "14*9", "fault_after": 1}, **third)
    yield Row(title="too many errors from the first poll on", script={"fault": "14*9"}, **third)
    script = {"fault": "14*2", "duration": 0}
    yield Row(title="just not too many errors", script=script, options={"max_consecutive_errors": 2})
    narrow: Part = {"conn_id": NARROW_CONNECTION, "error": RpcError, "code": 8, "fields": {"permanent": True}}
    yield Row(title="more than max_message_mb", script={"response_bytes": 2_000_000}, says="max_message_mb", **narrow)


def skips() -> Iterator[Row]:
    """Let the sensor skip what it would fail for."""
    soft: Part = {"kinds": (SENSOR,), "error": AirflowSkipException}
    flags: Part = {"options": SOFT}
    yield Row(title="soft_fail, failed", script={"outcome": "fail", "details": "ErrorInfo"}, **flags, **soft)
    yield Row(title="soft_fail, cancelled", script={"outcome": "cancelled"}, **flags, **soft)
    yield Row(title="soft_fail, timeout", script=FOR_EVER, timeout=SHORT, **flags, **soft)
    options = {"soft_fail": True, "not_found_grace": 0}
    yield Row(title="soft_fail, expired", script={"expire": 0}, options=options, **soft)
    options = {"soft_fail": True, "require_result": True}
    yield Row(title="soft_fail, neither", script={"outcome": "neither"}, options=options, **soft)
    for flag in ("soft_fail", "never_fail"):
        yield Row(title=f"{flag}, execution_timeout", script=FOR_EVER, options={flag: True, **ONE_TRY}, **soft)
    denied: Part = {"script": {"fault": "7*forever", "fault_after": 1}, "kinds": (SENSOR,)}
    yield Row(title="soft_fail, PERMISSION_DENIED", error=RpcError, code=7, **flags, **denied)
    kind = {"response_type": "google.protobuf.Duration"}
    yield Row(title="soft_fail, of another type", error=PayloadTypeError, kinds=(SENSOR,), options={**kind, **SOFT})
    flags = {"options": {"never_fail": True}}
    yield Row(title="never_fail, of another type", **{**soft, "options": {**kind, **flags["options"]}})
    yield Row(title="never_fail, PERMISSION_DENIED", error=AirflowSkipException, **flags, **denied)
    yield Row(title="never_fail, failed", script={"outcome": "fail"}, **flags, **soft)
    narrow: Part = {"script": {"response_bytes": 2_000_000}, "conn_id": NARROW_CONNECTION}
    yield Row(title="never_fail, more than max_message_mb", says="max_message_mb", **narrow, **flags, **soft)


ROWS = [*successes(), *failures(), *timeouts(), *failed_calls(), *skips()]


# ── running them ──


class BigOperations(grpc.GenericRpcHandler):
    """A server of operations with more in them than fits into a name; the second poll finds them done, or no poll."""

    def __init__(self) -> None:
        self._polls: dict[str, itertools.count[int]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        return grpc.unary_unary_rpc_method_handler(
            self._get,
            request_deserializer=pb.GetOperationRequest.FromString,
            response_serializer=pb.Operation.SerializeToString,
        )

    def _get(self, request: pb.GetOperationRequest, context: grpc.ServicerContext) -> pb.Operation:
        polls = self._polls.setdefault(request.name, itertools.count())
        kind = request.name.split("/")[1]
        operation = pb.Operation(name=request.name, done=kind != "never" and next(polls) > 0)
        metadata = struct_pb2.Struct()
        metadata["verb"] = "fill" + ("x" * BIG if kind != "message" else "")
        operation.metadata.Pack(metadata)
        if operation.done:
            operation.error.code = 9
            operation.error.message = "ö" * BIG if kind == "message" else "too much metadata"
        return operation


class Alarm(WakeEvent):
    """Airflow's alarm of `execution_timeout` on a worker, which no thread but the first can have.

    It stands in for the operator's wake event, as it comes in a pause of the wait.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._at = time.monotonic() + seconds

    def wait(self, seconds: float) -> bool:
        is_set = super().wait(max(0.0, min(seconds, self._at - time.monotonic())))
        if time.monotonic() >= self._at:
            raise AirflowTaskTimeout("Timeout, PID: 1")
        return is_set


class Start(StartOperationOperator):
    """Has started what it was told to."""

    def __init__(self, *, started: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.started = started

    def start(self, context: Any) -> Any:
        return self.started


def task(row: Row, kind: str, name: str, **options: Any) -> Any:
    """Make the operator of a row."""
    options = {"task_id": "wait", "lro_conn_id": row.conn_id, "poke_interval": INTERVAL, **row.options, **options}
    if kind == SENSOR:
        return LongRunningOperationSensor(operation_name=name, timeout=row.timeout, **options)
    return Start(started=name, interval=options.pop("poke_interval"), wait_timeout=row.timeout, **options)


class Runner:
    """Runs the tasks in threads, as workers would, and their triggers in one event loop, as a triggerer would."""

    def __init__(self, simulator: Simulator, big: str) -> None:
        self._simulator = simulator
        self._big = big
        self._ids = itertools.count()
        self._threads = ThreadPoolExecutor(AT_ONCE)
        self._loop = asyncio.new_event_loop()
        self._triggerer = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._triggerer.start()

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._triggerer.join(HUNG)
        self._loop.close()

    def fire(self, row: tuple[str, dict[str, Any]]) -> Any:
        """Run a trigger to its one event; stands in for `worker.fire`, which has an event loop for each."""

        async def events() -> list[Any]:
            return [event async for event in worker.inflate(row).run()]

        (event,) = asyncio.run_coroutine_threadsafe(events(), self._loop).result(HUNG)
        return event.payload

    def submit(self, row: Row, kind: str, path: str) -> Future[Came]:
        """Run a row's task in one path."""
        return self._threads.submit(self._run, row, kind, path)

    def _run(self, row: Row, kind: str, path: str) -> Came:
        operation_id = f"truth-{next(self._ids):06}"
        name = row.name(operation_id)
        options = {"endpoint": self._big if row.big else self._simulator.endpoint, "deferrable": path == DEFERRED}
        operator = task(row, kind, name, **options)
        # Airflow 2.11 lets no thread but the first call an operator's execute.
        operator.execute = partial(inspect.unwrap(type(operator).execute), operator)
        if operator.execution_timeout is not None and path == WORKER:
            operator._wake = Alarm(operator.execution_timeout.total_seconds())
        others = threading.Thread(target=self._meanwhile, args=(row, name), daemon=True)
        others.start()
        came = Came(name=name, operation_id=operation_id)
        try:
            came.result = worker.run(operator, store=came.store, before_resume=came.count).result
        except Exception as error:  # noqa: BLE001  (it is compared)
            came.error = error
        others.join(HUNG)
        return came

    def _meanwhile(self, row: Row, name: str) -> None:
        if row.meanwhile is None:
            return
        until = time.monotonic() + HUNG
        while name not in self._simulator.log.read_text(encoding="utf-8"):
            assert time.monotonic() < until
            time.sleep(0.02)
        row.meanwhile(name)


# ── the results, and their comparison ──


@dataclass
class Came:
    """The end of one task: its result or its error."""

    name: str
    operation_id: str
    store: FakeStore = field(default_factory=FakeStore)
    result: Any = None
    error: Exception | None = None
    deferrals: int = 0

    def count(self) -> None:
        """Count a deferral."""
        self.deferrals += 1

    def comparable(self) -> dict[str, Any]:
        """Return all of it as JSON, without what is of this one run."""
        seen: dict[str, Any] = {"xcom": self.result, "left in the store": self.store.values}
        seen |= {"error": None} if self.error is None else fields_of(self.error)
        if self.error is not None and self.error.__cause__ is not None:
            seen |= {f"cause's {part}": value for part, value in fields_of(self.error.__cause__).items()}
        return {part: self._without_times(value) for part, value in seen.items()}

    def _without_times(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._without_times(key): self._without_times(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._without_times(item) for item in value]
        if not isinstance(value, str):
            return value
        value = value.replace(self.name, "<name>").replace(self.operation_id, "<id>")
        for pattern, word in NOT_COMPARED.items():
            value = re.sub(pattern, word, value)
        return value


NOT_COMPARED = {
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z": "<time>",
    r'(?<="started_at": )[\d.]+': "<time>",
    r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b": "<request id>",
    # How long Airflow's alarm took, and what lies between a start and the wait for it.
    r"(?<=not done within )[\d.e-]+(?= s)": "<seconds>",
}
"""Patterns of the times of one run."""


def fields_of(error: BaseException) -> dict[str, Any]:
    """Return all that an error says: its class, its text, and each field with the type of its value."""
    kind = type(error)
    # The two that are on the class while they say nothing.
    fields = {name: getattr(error, name) for name in ("retry_after", "permanent") if hasattr(error, name)}
    fields |= vars(error)
    found = {"error": f"{kind.__module__}.{kind.__qualname__}", "text": str(error)}
    for name, value in fields.items():
        found |= {name: value, f"{name}'s type": type(value).__name__}
    return found


def assert_right(came: Came, row: Row, *, deferred: bool) -> None:
    """Assert that the result is the row's, so that two paths with the same fault do not pass."""
    assert came.deferrals == int(deferred)
    if row.error is None:
        if came.error is not None:
            raise came.error
        assert came.result is not None
        assert row.xcom is None or came.result == row.xcom
        return
    assert isinstance(came.error, row.error), f"came: {came.error!r} {str(came.result)[:1000]}"
    assert re.search(row.says, str(came.error), re.DOTALL), str(came.error)[:3000]
    if isinstance(came.error, LroError):
        assert came.error.code == row.code
        assert came.name in str(came.error)
    for name, value in row.fields.items():
        assert getattr(came.error, name) == value


@contextmanager
def big_operations() -> Iterator[str]:
    """Serve `BigOperations`; gives the endpoint."""
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads, handlers=[BigOperations()], options=[("grpc.so_reuseport", 0)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


@pytest.fixture(scope="module")
def came(request: pytest.FixtureRequest, simulator: Simulator) -> Iterator[Callable[[Row, str], list[Came]]]:
    """Run the rows of all selected tests, side by side; the function gives the results of one, in both paths."""
    selected = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    pairs = [(params["row"], params["kind"]) for params in selected if isinstance(params.get("row"), Row)]
    with pytest.MonkeyPatch.context() as patch, big_operations() as big:
        for conn_id, extra in {CONNECTION: {}, NARROW_CONNECTION: {"max_message_mb": 1}}.items():
            stored = {"conn_type": "lro", "host": simulator.endpoint, "extra": {"insecure": True, **extra}}
            patch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(stored))
        runner = Runner(simulator, big)
        patch.setattr(worker, "fire", runner.fire)
        running = {(id(row), kind): [runner.submit(row, kind, path) for path in PATHS] for row, kind in pairs}
        try:
            # Else what they log would come between two tests, where pytest does not catch it.
            wait(itertools.chain(*running.values()), timeout=HUNG)
            yield lambda row, kind: [future.result(HUNG) for future in running[id(row), kind]]
        finally:
            runner.close()


def params() -> Iterator[Any]:
    for row in ROWS:
        for kind in row.kinds:
            yield pytest.param(row, kind, id=f"{row.title}-{kind}")


@pytest.mark.timeout(2 * HUNG)
@pytest.mark.parametrize(("row", "kind"), list(params()))
def test_both_paths_give_the_same_result(row: Row, kind: str, came: Callable[[Row, str], list[Came]]) -> None:
    """XCom, class, text and fields of the error do not depend on where an operation is waited for."""
    on_worker, deferred = came(row, kind)
    assert_right(on_worker, row, deferred=False)
    assert_right(deferred, row, deferred=not row.at_once)
    expected, actual = on_worker.comparable(), deferred.comparable()
    different = {part for part in {*expected, *actual} if expected.get(part) != actual.get(part)}
    assert different == set(row.unlike), {part: (expected.get(part), actual.get(part)) for part in different}
