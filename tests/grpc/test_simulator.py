"""The simulator: its grammar and its clock in virtual time, its server as the process that others talk to."""

from __future__ import annotations

import itertools
import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import trustme
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import any_pb2, empty_pb2, json_format, struct_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro.simulator import SimulatorClient, operation_name
from airflow_provider_lro.simulator.__main__ import main
from airflow_provider_lro.simulator.behaviour import CallError, Facts, answer, snapshot
from airflow_provider_lro.simulator.listing import list_page, parse_filter
from airflow_provider_lro.simulator.script import KEYS, FaultRun, Script, ScriptError, parse_name, parse_script
from airflow_provider_lro.simulator.state import StateError, Store
from tests.simulator_fixture import REPOSITORY, Simulator, SimulatorError, running_simulator
from tests.versions import needs_partial_success

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ids = itertools.count()


def fresh(**script: Any) -> str:
    """Name an operation that no other test has seen."""
    return operation_name(f"op{next(_ids)}", **script)


class Stub:
    """The five methods, straight on a channel."""

    def __init__(self, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self.channel = channel
        self.metadata = metadata

    def call(self, method: str, request: Any, kind: Any, timeout: float = 10) -> Any:
        """Call one method."""
        rpc: Any = self.channel.unary_unary(
            f"/google.longrunning.Operations/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=kind.FromString,
        )
        return rpc(request, timeout=timeout, metadata=self.metadata, wait_for_ready=True)

    def get(self, name: str, timeout: float = 10) -> pb.Operation:
        """Call GetOperation."""
        request = pb.GetOperationRequest(name=name)
        answer: pb.Operation = self.call("GetOperation", request, pb.Operation, timeout)
        return answer

    def wait(self, name: str, seconds: float | None = None, timeout: float = 10) -> pb.Operation:
        """Call WaitOperation."""
        request = pb.WaitOperationRequest(name=name)
        if seconds is not None:
            request.timeout.FromMilliseconds(int(seconds * 1000))
        answer: pb.Operation = self.call("WaitOperation", request, pb.Operation, timeout)
        return answer

    def cancel(self, name: str) -> None:
        """Call CancelOperation."""
        self.call("CancelOperation", pb.CancelOperationRequest(name=name), empty_pb2.Empty)

    def delete(self, name: str) -> None:
        """Call DeleteOperation."""
        self.call("DeleteOperation", pb.DeleteOperationRequest(name=name), empty_pb2.Empty)

    def list(self, name: str, **fields: Any) -> pb.ListOperationsResponse:
        """Call ListOperations."""
        request = pb.ListOperationsRequest(name=name, **fields)
        answer: pb.ListOperationsResponse = self.call("ListOperations", request, pb.ListOperationsResponse)
        return answer


def struct(packed: any_pb2.Any) -> dict[str, Any]:
    """Unpack an Any that must hold a Struct."""
    message = struct_pb2.Struct()
    assert packed.Unpack(message)
    return json_format.MessageToDict(message)


def trailers(error: Any) -> dict[str, Any]:
    """Return the trailing metadata of a failed call."""
    return dict(error.trailing_metadata())


def code_of(call: Any, *args: Any, **kwargs: Any) -> int:
    """Return the status of a call: 0, or what it failed with."""
    try:
        call(*args, **kwargs)
    except grpc.RpcError as error:
        return error.code().value[0]
    return 0


@pytest.fixture(scope="session")
def simulator(shared_simulator: Simulator) -> Simulator:
    """Return the simulator of the whole session; names are fresh, so tests do not meet."""
    return shared_simulator


@pytest.fixture(scope="module")
def stub(simulator: Simulator) -> Iterator[Stub]:
    """Connect to that simulator."""
    options = [("grpc.max_receive_message_length", 64 * 1024 * 1024)]
    with grpc.insecure_channel(simulator.endpoint, options=options) as channel:
        yield Stub(channel)


@pytest.fixture(scope="module")
def client(simulator: Simulator) -> Iterator[SimulatorClient]:
    """Connect the start RPC's client to that simulator."""
    with SimulatorClient(simulator.endpoint) as connected:
        yield connected


# ── the grammar ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_name_without_a_script_has_the_documented_defaults() -> None:
    """A name built from nothing does what the table's defaults say."""
    parsed = parse_name(operation_name("a1"))
    assert (parsed.id, parsed.script) == ("a1", Script())
    assert (parsed.script.duration, parsed.script.outcome, parsed.script.code) == (1, "ok", 9)


@pytest.mark.parametrize("operation_id", ["a1", "a.b", "a:b", "a+b", "ü x", "a/b", "%41"])
def test_an_id_is_any_text(operation_id: str) -> None:
    """Dots, colons, plus signs, slashes and percent signs stay in an id as they are."""
    assert parse_name(operation_name(operation_id)).id == operation_id


def test_any_prefix_may_stand_before_a_name() -> None:
    """A project and a location before the name change nothing."""
    assert parse_name("projects/p/locations/l/" + operation_name("a", duration=7)).script.duration == 7


@given(message=st.text(st.characters(codec="utf-8")), operation_id=st.text(st.characters(codec="utf-8"), min_size=1))
def test_every_text_survives_the_name(message: str, operation_id: str) -> None:
    """A name parses to what it was built from, whatever the text."""
    parsed = parse_name(operation_name(operation_id, message=message, response={"text": message}))
    assert (parsed.id, parsed.script.message) == (operation_id, message)
    assert json.loads(parsed.script.response or "") == {"text": message}


@pytest.mark.parametrize("name", ["", "operations/a", "simulations/operations/a", "simulations/duration=1/operations/"])
def test_a_name_of_another_grammar_is_refused(name: str) -> None:
    """The error shows the grammar."""
    with pytest.raises(ScriptError, match="simulations/<key=value&key=value>/operations/<id>"):
        parse_name(name)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("", "is not key=value"),
        ("duration", "is not key=value"),
        ("wat=1", "unknown key 'wat'; accepted keys: duration, start"),
        ("duration=1&duration=2", "given twice"),
        ("message=100%", "write a percent sign as %25"),
        ("message=%ff", "bad value message"),
        ("fault=14*forever,8", "CODE\\*forever"),
    ],
)
def test_a_bad_script_is_refused(script: str, says: str) -> None:
    """The error says what was wrong and what is accepted."""
    with pytest.raises(ScriptError, match=says):
        parse_name(f"simulations/{script}/operations/a")


BAD_VALUES = {
    "duration": ["x", "-1", "nan", "inf", "1e300"],
    "start": ["yesterday"],
    "outcome": ["both", ""],
    "code": ["WAT", "2147483648", "1.5"],
    "details": ["ErrorInfo,Wat"],
    "response": ["[]", "{", "1", '{"x":NaN}', '{"x":"\\ud800"}'],
    "response_type": ["list"],
    "response_bytes": ["-1", "99999999999"],
    "metadata": ["yes"],
    "latency": ["-0.1"],
    "fault": ["0", "17", "14*0", "14*-1", "14*x", "14,,8", ""],
    "fault_after": ["-1"],
    "retry_info": ["soon"],
    "not_found": ["1.5"],
    "not_found_for": ["-1"],
    "expire": ["never"],
    "unimplemented": ["get,start"],
    "cancel": ["maybe"],
    "cancel_delay": ["-1"],
}


def test_every_key_has_a_bad_value_but_free_texts() -> None:
    """A key that is added gets its line in the table of bad values."""
    assert KEYS.keys() - BAD_VALUES.keys() == {"message", "unreachable"}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD_VALUES.items() for value in values])
def test_a_bad_value_is_refused(key: str, value: str) -> None:
    """The error names the key and what it accepts."""
    with pytest.raises(ScriptError, match=f"bad value {key}=.*accepted: "):
        operation_name("a", **{key: value})


def test_values_that_are_no_text_and_no_number_are_refused() -> None:
    """A list or a boolean is a mistake, not a text."""
    with pytest.raises(ScriptError, match="text or a number"):
        operation_name("a", details=["ErrorInfo"])  # type: ignore[arg-type]
    with pytest.raises(ScriptError, match="text or a number"):
        operation_name("a", duration=True)


def test_every_key_is_documented() -> None:
    """The package's table has a line for each key."""
    import airflow_provider_lro.simulator as package

    assert package.__doc__ is not None
    assert [key for key in KEYS if f"\n`{key}`" not in package.__doc__] == []


def test_building_a_name_loads_neither_grpc_nor_protobuf() -> None:
    """A DAG file may build names."""
    program = (
        "import sys; before = set(sys.modules);"  # some libraries make their namespaces as Python starts
        "from airflow_provider_lro.simulator import operation_name; operation_name('a', duration=1);"
        "print([m for m in set(sys.modules) - before if m.split('.')[0] in ('grpc', 'google', 'airflow')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout == "[]\n"


# ── the clock, in virtual time ───────────────────────────────────────────────────────────────────────────────────────


def test_an_operation_ends_after_its_duration_from_first_sight() -> None:
    """Without a start, the clock runs from the first sight."""
    script, facts = parse_script("duration=10"), Facts(first_seen=100)
    assert [snapshot(script, facts, now).done for now in (100, 109.9, 110)] == [False, False, True]


def test_a_start_in_the_name_beats_the_first_sight() -> None:
    """With a start, who sees it first does not matter."""
    assert snapshot(parse_script("duration=10&start=50"), Facts(first_seen=100), 100).done


def test_progress_grows_to_100_only_at_the_end() -> None:
    """An operation that runs is never at 100 percent."""
    facts = Facts(first_seen=0)
    progress = [snapshot(parse_script("duration=10"), facts, now).progress for now in (0, 5, 9.999, 10)]
    assert progress == [0, 50, 99, 100]
    assert snapshot(parse_script("duration=10&outcome=never"), facts, 1e6).progress == 99


def test_an_accepted_cancel_ends_it_after_the_delay() -> None:
    """The end of a cancelled operation is the cancel's time and the delay."""
    script = parse_script("duration=10&cancel_delay=2")
    facts = Facts(first_seen=0, cancelled_at=3)
    assert [snapshot(script, facts, now).outcome for now in (4.9, 5)] == [None, "cancelled"]


def test_an_end_before_the_cancel_takes_effect_wins() -> None:
    """A cancel that is slower than the work changes nothing."""
    facts = Facts(first_seen=0, cancelled_at=9)
    assert snapshot(parse_script("duration=10&cancel_delay=2"), facts, 12).outcome == "ok"


def test_an_ignored_cancel_shows_only_in_the_metadata() -> None:
    """It was asked for, and nothing came of it."""
    seen = snapshot(parse_script("duration=10&cancel=ignore"), Facts(first_seen=0, cancelled_at=1), 10)
    assert (seen.outcome, seen.requested_cancellation) == ("ok", True)


def test_faults_come_in_their_order() -> None:
    """Not found first, then the Gets that pass, then each fault as often as it says, then the operation."""
    script = parse_script("not_found=1&fault_after=1&fault=14*2,RESOURCE_EXHAUSTED")
    assert script.fault == (FaultRun(code=14, count=2), FaultRun(code=8))

    def code(gets: int) -> int:
        try:
            answer("n", script, Facts(first_seen=0, gets=gets), 0)
        except CallError as error:
            return error.code
        return 0

    assert [code(gets) for gets in range(7)] == [5, 0, 14, 14, 8, 0, 0]
    assert script.counted_gets == 5


def test_a_fault_for_ever_never_stops() -> None:
    """Forever is forever, and needs no counting."""
    script = parse_script("fault=13,14*forever")
    with pytest.raises(CallError, match="UNAVAILABLE"):
        answer("n", script, Facts(first_seen=0, gets=10**6), 0)
    assert script.counted_gets == 1


@pytest.mark.parametrize(
    ("script", "facts", "now", "says"),
    [
        ("not_found_for=5", Facts(first_seen=10), 14.9, "not visible yet"),
        ("duration=1&expire=5", Facts(first_seen=10), 16, "expired"),
        ("expire=5&outcome=never", Facts(first_seen=10, cancelled_at=20), 25, "expired"),
        ("duration=1", Facts(first_seen=10, deleted=True), 10, "deleted"),
    ],
)
def test_absence_has_a_reason(script: str, facts: Facts, now: float, says: str) -> None:
    """NOT_FOUND says which of the script's reasons it has."""
    with pytest.raises(CallError, match=says) as caught:
        answer("n", parse_script(script), facts, now)
    assert caught.value.code == 5


def test_absence_ends_and_begins_on_time() -> None:
    """Just after not_found_for and just before expire, the operation is there."""
    answer("n", parse_script("not_found_for=5"), Facts(first_seen=10), 15)
    answer("n", parse_script("duration=1&expire=5"), Facts(first_seen=10), 15.9)
    answer("n", parse_script("outcome=never&expire=5"), Facts(first_seen=10), 1e9)


# ── Get, over gRPC ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_get_shows_an_operation_grow_and_end(stub: Stub) -> None:
    """A running operation has metadata that grows; a done one has its response and an end time."""
    name = fresh(duration=0.3)
    before = stub.get(name)
    time.sleep(0.35)
    after = stub.get(name)
    old, new = struct(before.metadata), struct(after.metadata)
    assert (before.name, before.done, before.WhichOneof("result")) == (name, False, None)
    assert (after.name, after.done, after.WhichOneof("result")) == (name, True, "response")
    assert old["progress_percent"] < new["progress_percent"] == 100
    assert old["verb"] == "simulate"
    assert old["create_time"] == new["create_time"] < new["end_time"]
    assert "end_time" not in old


def test_start_in_the_name_decides(stub: Stub) -> None:
    """An operation that started an hour ago is done at first sight."""
    assert stub.get(fresh(duration=60, start=time.time() - 3600)).done


def test_the_default_response_holds_the_id(stub: Stub) -> None:
    """Without a response of its own, an operation answers with its id."""
    operation = stub.get(operation_name("my.id:1+2", duration=0))
    assert struct(operation.response) == {"id": "my.id:1+2"}


def test_fail_carries_code_message_and_details(stub: Stub) -> None:
    """A failure has the code, the message, and each of the details that were asked for, in order."""
    details = [
        "ErrorInfo", "RetryInfo", "BadRequest", "Help", "LocalizedMessage", "QuotaFailure", "PreconditionFailure",
        "DebugInfo", "RequestInfo", "ResourceInfo", "Unknown",
    ]  # fmt: skip
    name = fresh(duration=0, outcome="fail", code=77, message="50% of /a&b=c", details=",".join(details))
    operation = stub.get(name)
    assert (operation.done, operation.WhichOneof("result")) == (True, "error")
    assert (operation.error.code, operation.error.message) == (77, "50% of /a&b=c")
    for kind, packed in zip(details[:-1], operation.error.details, strict=False):
        message = getattr(error_details_pb2, kind)()
        assert packed.Unpack(message)
        assert message.ByteSize() > 0
    with pytest.raises(TypeError, match="Can not find message descriptor"):
        json_format.MessageToDict(operation.error.details[-1])


@pytest.mark.parametrize(("code", "number"), [("NOT_FOUND", 5), (0, 0), (None, 9)])
def test_a_code_is_a_name_or_a_number(stub: Stub, code: str | int | None, number: int) -> None:
    """Even an error of code 0 without a message is an error: the oneof says so."""
    operation = stub.get(fresh(duration=0, outcome="fail", **({} if code is None else {"code": code})))
    assert (operation.WhichOneof("result"), operation.error.code) == ("error", number)


def test_the_other_outcomes(stub: Stub) -> None:
    """Cancelled is an error of code 1, neither is done with nothing, never is not done."""
    cancelled = stub.get(fresh(duration=0, outcome="cancelled"))
    neither = stub.get(fresh(duration=0, outcome="neither"))
    never = stub.get(fresh(duration=0, outcome="never"))
    assert (cancelled.done, cancelled.error.code) == (True, 1)
    assert (neither.done, neither.WhichOneof("result")) == (True, None)
    assert (never.done, never.WhichOneof("result")) == (False, None)


def test_a_response_of_ones_own(stub: Stub) -> None:
    """The JSON object of the name comes back as a Struct."""
    given_response = {"uri": "gs://b/o?a=1&b=2", "list": [1, None, {"x": True}], "ü": "100%"}
    assert struct(stub.get(fresh(duration=0, response=given_response)).response) == given_response


def test_response_types(stub: Stub) -> None:
    """Empty, an unknown type, a known one with an unknown inside, and bytes that do not parse."""
    packed = {
        kind: stub.get(fresh(duration=0, response_type=kind)).response
        for kind in ("empty", "unknown", "nested_unknown", "malformed")
    }
    assert packed["empty"].Is(empty_pb2.Empty.DESCRIPTOR)
    assert packed["unknown"].type_url.startswith("type.googleapis.com/simulations.unknown.")
    status = status_pb2.Status()
    assert packed["nested_unknown"].Unpack(status)
    assert isinstance(status.details[0], any_pb2.Any)
    assert status.details[0].type_url.startswith("type.googleapis.com/simulations.unknown.")
    assert packed["malformed"].Is(struct_pb2.Struct.DESCRIPTOR)
    with pytest.raises(DecodeError):
        packed["malformed"].Unpack(struct_pb2.Struct())


@pytest.mark.parametrize("size", [1000, 20_000_000])
def test_response_bytes_pads(stub: Stub, size: int) -> None:
    """A response is about as large as asked for, beyond grpc's own limit of 4 MiB too."""
    assert abs(stub.get(fresh(duration=0, response_bytes=size)).ByteSize() - size) < 600


def test_metadata_may_be_missing_or_unknown(stub: Stub) -> None:
    """None leaves the field out; unknown is a type nobody knows."""
    assert not stub.get(fresh(metadata="none")).HasField("metadata")
    assert "unknown" in stub.get(fresh(metadata="unknown")).metadata.type_url


def test_latency_delays_each_get_and_no_other_call(stub: Stub) -> None:
    """A Get takes as long as its latency; two at once do not add up; and its deadline can strike first."""
    name = fresh(latency=1.5)
    started = time.monotonic()
    stub.cancel(name)
    assert time.monotonic() - started < 1.5
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(stub.get, [name] * 4))
    assert 1.5 <= time.monotonic() - started < 5
    assert code_of(stub.get, name, timeout=0.1) == 4


def test_faults_are_counted_per_operation(stub: Stub) -> None:
    """Each operation gives its own faults, in order, and then its state."""
    one, two = fresh(fault="14*2,8", fault_after=1), fresh(fault="UNAVAILABLE*forever")
    assert [code_of(stub.get, one) for _ in range(6)] == [0, 14, 14, 8, 0, 0]
    assert [code_of(stub.get, two) for _ in range(3)] == [14, 14, 14]


def test_retry_info_travels_in_the_trailers(stub: Stub) -> None:
    """A fault with retry_info has a google.rpc.Status with a RetryInfo; one without has none."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.get(fresh(fault="8", retry_info=1.5))
    status = status_pb2.Status.FromString(trailers(caught.value)["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    assert (status.code, retry.retry_delay.ToMilliseconds()) == (8, 1500)
    assert status.message == caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        stub.get(fresh(fault="8"))
    assert "grpc-status-details-bin" not in trailers(caught.value)


def test_not_found_by_count_and_by_time(stub: Stub) -> None:
    """The first Gets, or the first seconds, are NOT_FOUND; the seconds use up no fault."""
    counted, timed = fresh(not_found=2), fresh(not_found_for=0.3, fault="14")
    assert [code_of(stub.get, counted) for _ in range(3)] == [5, 5, 0]
    assert [code_of(stub.get, timed) for _ in range(2)] == [5, 5]
    time.sleep(0.35)
    assert [code_of(stub.get, timed) for _ in range(2)] == [14, 0]


def test_expire_hides_what_ended(stub: Stub) -> None:
    """Some time after its end an operation is NOT_FOUND."""
    name = fresh(duration=0, expire=0.3)
    assert stub.get(name).done
    time.sleep(0.35)
    assert code_of(stub.get, name) == 5


def test_bad_names_are_invalid_arguments(stub: Stub) -> None:
    """The status says what was wrong and what is accepted, for every method."""
    for call in (stub.get, stub.wait, stub.cancel, stub.delete):
        with pytest.raises(grpc.RpcError) as caught:
            call("simulations/duration=x/operations/a")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "accepted: seconds" in str(caught.value.details())
    assert code_of(stub.list, "simulations/wat=1") == 3


def test_unimplemented_methods(stub: Stub) -> None:
    """Each method that the name lists is UNIMPLEMENTED, and no other is."""
    name = fresh(unimplemented="get,wait,cancel,list")
    calls = (stub.get, stub.wait, stub.cancel, stub.delete)
    assert [code_of(call, name) for call in calls] == [12, 12, 12, 0]
    assert code_of(stub.list, name.partition("/operations/")[0]) == 12
    assert code_of(stub.delete, fresh(unimplemented="delete")) == 12


# ── Wait, Cancel, Delete ─────────────────────────────────────────────────────────────────────────────────────────────


def test_wait_answers_when_done_or_at_its_timeout(stub: Stub) -> None:
    """A Wait ends with the operation, or with the latest state of one that runs on."""
    started = time.monotonic()
    assert stub.wait(fresh(duration=0.3), seconds=30).done
    assert 0.3 <= time.monotonic() - started < 15
    assert not stub.wait(fresh(duration=60), seconds=0.2).done
    assert stub.wait(fresh(duration=0.2)).done


def test_wait_answers_before_the_deadline_of_the_call(stub: Stub) -> None:
    """The latest state arrives, and no DEADLINE_EXCEEDED."""
    assert not stub.wait(fresh(duration=60), seconds=60, timeout=0.5).done


def test_wait_has_the_faults_of_a_get(stub: Stub) -> None:
    """The same counters serve both methods."""
    name = fresh(duration=0, not_found=1, fault="14")
    assert [code_of(stub.wait, name), code_of(stub.get, name), code_of(stub.wait, name)] == [5, 14, 0]


@pytest.mark.parametrize(("method", "code"), [("cancel", 0), ("delete", 5)])
def test_wait_sees_a_cancel_and_a_deletion_at_once(stub: Stub, method: str, code: int) -> None:
    """A Wait does not sleep over what ends its operation."""
    name = fresh(outcome="never")
    stub.get(name)
    started = time.monotonic()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(code_of, stub.wait, name, seconds=30)
        time.sleep(0.2)
        getattr(stub, method)(name)
        assert waiting.result() == code
    assert time.monotonic() - started < 15


def test_cancel_ends_an_operation_with_code_1(stub: Stub) -> None:
    """An accepted cancel shows after its delay, and at once without one."""
    now, later = fresh(outcome="never"), fresh(outcome="never", cancel_delay=0.3)
    stub.cancel(now)
    stub.cancel(later)
    assert (stub.get(now).error.code, stub.get(now).error.message) == (1, "Cancelled by request.")
    assert not stub.get(later).done
    time.sleep(0.35)
    assert stub.get(later).error.code == 1


def test_an_ignored_cancel_is_answered_with_ok(stub: Stub) -> None:
    """The operation goes on to its own outcome; only its metadata tells."""
    name = fresh(duration=0.2, cancel="ignore")
    stub.cancel(name)
    operation = stub.wait(name)
    requested = struct(operation.metadata)["requested_cancellation"]
    assert (operation.WhichOneof("result"), requested) == ("response", True)


def test_cancel_of_a_done_operation_has_no_effect(stub: Stub) -> None:
    """It answers OK, and the outcome stays."""
    name = fresh(duration=0)
    stub.get(name)
    stub.cancel(name)
    assert stub.get(name).WhichOneof("result") == "response"


def test_delete_hides_an_operation(stub: Stub) -> None:
    """Later Gets, Cancels and Deletes are NOT_FOUND."""
    name = fresh()
    stub.delete(name)
    assert [code_of(call, name) for call in (stub.get, stub.wait, stub.cancel, stub.delete)] == [5, 5, 5, 5]


def test_cancel_and_delete_of_what_is_not_found(stub: Stub) -> None:
    """Where a Get says NOT_FOUND, they do too."""
    for script in ({"not_found": 1}, {"not_found_for": 60}, {"duration": 0, "expire": 0}):
        assert [code_of(call, fresh(**script)) for call in (stub.cancel, stub.delete)] == [5, 5]


# ── List ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_list_holds_what_was_seen_or_started_below_its_parent(stub: Stub, client: SimulatorClient) -> None:
    """By start; without what was deleted, and without what only has the same beginning."""
    parent = "projects/p1/locations/l"
    late = f"{parent}/" + operation_name("late", duration=0, start=2000)
    early = f"{parent}/" + operation_name("early", duration=0, start=1000)
    gone = f"{parent}/" + operation_name("gone", start=1500)
    other = f"{parent}2/" + operation_name("other")
    for name in (late, early, gone, other):
        stub.get(name)
    stub.delete(gone)
    listed = stub.list(parent)
    assert [operation.name for operation in listed.operations] == [early, late]
    assert [operation.WhichOneof("result") for operation in listed.operations] == ["response", "response"]
    started = client.start(duration=60).name
    assert {early, late, other, started} <= {each.name for each in stub.list("simulations", page_size=1000).operations}


def test_list_leaves_out_what_a_get_would_not_find(stub: Stub) -> None:
    """An expired operation is not listed."""
    parent = "projects/hidden"
    stub_name = f"{parent}/" + operation_name("a", duration=0, expire=0)
    assert code_of(stub.get, stub_name) == 5
    assert not stub.list(parent).operations


def test_list_filters(stub: Stub) -> None:
    """Done, not done, a part of the name, and all of it joined."""
    parent = "projects/filters"
    done, running = (f"{parent}/" + operation_name(f"{each}-x", duration=each, start=1) for each in (0, 1e10))
    stub.get(done)
    stub.get(running)

    def listed(text: str) -> list[str]:
        return [operation.name for operation in stub.list(parent, filter=text).operations]

    assert listed("") == [done, running]
    assert listed("done=true") == listed("done:true") == listed("done = true") == [done]
    assert listed("done=false") == [running]
    assert listed('name:"-x" AND done=false') == [running]
    assert listed("done=true AND name:nothing") == []
    for bad in ("state=RUNNING", "done=maybe", "done=true OR done=false", "AND"):
        assert code_of(stub.list, parent, filter=bad) == 3


def test_list_pages(stub: Stub) -> None:
    """Pages follow each other without a gap, also when an operation goes away in between."""
    parent = "projects/pages"
    names = [f"{parent}/" + operation_name(f"{index:03}", start=1000 + index) for index in range(105)]
    for name in names:
        stub.get(name)
    first = stub.list(parent, page_size=2)
    assert [operation.name for operation in first.operations] == names[:2]
    stub.delete(names[0])
    second = stub.list(parent, page_size=2, page_token=first.next_page_token)
    assert [operation.name for operation in second.operations] == names[2:4]
    default = stub.list(parent)
    assert len(default.operations) == 100
    rest = stub.list(parent, page_token=default.next_page_token)
    assert (len(rest.operations), rest.next_page_token) == (4, "")
    assert len(stub.list(parent, page_size=10**6).operations) == 104


def test_a_page_holds_a_thousand_at_most() -> None:
    """A larger page size is cut, not refused."""
    known = {operation_name(f"{index}"): Facts(first_seen=0) for index in range(1001)}
    page = list_page(known, 0, pb.ListOperationsRequest(name="simulations", page_size=5000))
    assert len(page.operations) == 1000
    assert page.next_token
    assert parse_filter(" ").lets_through("any", done=True)


def test_list_refuses_bad_pages(stub: Stub) -> None:
    """A negative size, a token of nobody's, and a token of another List are INVALID_ARGUMENT."""
    parent = "projects/badpages"
    for index in range(2):
        stub.get(f"{parent}/" + operation_name(f"{index}"))
    token = stub.list(parent, page_size=1).next_page_token
    assert code_of(stub.list, parent, page_size=-1) == 3
    assert code_of(stub.list, parent, page_token="wat") == 3
    assert code_of(stub.list, parent, page_token=token, filter="done=true") == 3
    assert code_of(stub.list, "") == 3


@needs_partial_success
def test_list_reports_the_unreachable_only_when_asked(stub: Stub) -> None:
    """With return_partial_success, each location once; without it, none."""
    parent = "projects/partial"
    for each in ("us-east1,us-east2", "us-east2"):
        stub.get(f"{parent}/" + fresh(unreachable=each))
    partial = stub.list(parent, return_partial_success=True)
    assert list(partial.unreachable) == ["us-east1", "us-east2"]
    assert len(partial.operations) == 2
    assert not stub.list(parent).unreachable
    assert stub.list("simulations/unreachable=x", return_partial_success=True).unreachable == ["x"]


# ── Start ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_start_names_an_operation_whose_clock_runs(stub: Stub, client: SimulatorClient) -> None:
    """The name holds the start and the script; any other server would agree on it."""
    operation = client.start(id="s.1", duration=0.3, response={"a": [1]}, message="x y")
    parsed = parse_name(operation.name)
    assert abs((parsed.script.start or 0) - time.time()) < 5
    assert (parsed.id, parsed.script.duration, parsed.script.message) == ("s.1", 0.3, "x y")
    assert not operation.done
    assert stub.wait(operation.name).done
    assert parse_name(client.start().name).id != parse_name(client.start().name).id


def test_the_same_request_id_gives_the_same_operation(client: SimulatorClient) -> None:
    """A repeated start is no second start."""
    first = client.start(request_id="r1", duration=60)
    assert client.start(request_id="r1", duration=60).name == first.name
    assert client.start(request_id="r2", duration=60).name != first.name


def test_start_can_answer_with_a_done_operation(client: SimulatorClient) -> None:
    """No time at all is done at once, and whole numbers arrive as such."""
    operation = client.start(duration=0, outcome="fail", code=5)
    assert (operation.done, operation.error.code) == (True, 5)


@pytest.mark.parametrize("script", [{"wat": 1}, {"duration": "x"}, {"id": 5}, {"id": ""}, {"request_id": 5}])
def test_start_refuses_what_a_name_cannot_say(client: SimulatorClient, script: dict[str, Any]) -> None:
    """An unknown key and a bad value are INVALID_ARGUMENT, as they are in a name."""
    assert code_of(client.start, **script) == 3


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run the command, which must refuse its arguments and say why, and nothing else; gives what it says."""
    try:
        code = main(args)
    except SystemExit as error:  # argparse's
        code = error.code
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    return said.err


def command(*args: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "airflow_provider_lro.simulator", *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        cwd=REPOSITORY,
    )


def test_a_restarted_server_agrees_with_itself() -> None:
    """Sights, starts, cancels, deletions, counters and request ids outlive a SIGKILL, and a line cut off by it."""
    with running_simulator() as simulator:
        seen, cancelled, deleted = fresh(duration=60), fresh(outcome="never"), fresh()
        faulty = fresh(fault="14*3")
        with grpc.insecure_channel(simulator.endpoint) as channel, SimulatorClient(simulator.endpoint) as client:
            stub = Stub(channel)
            first = stub.get(seen)
            stub.cancel(cancelled)
            stub.delete(deleted)
            assert [code_of(stub.get, faulty) for _ in range(2)] == [14, 14]
            started = client.start(request_id="r", duration=60).name
        assert simulator.kill() == -signal.SIGKILL
        with simulator.state.open("a", encoding="utf-8") as state:
            state.write('{"event": "cancel", "na')
        simulator.restart()
        with grpc.insecure_channel(simulator.endpoint) as channel, SimulatorClient(simulator.endpoint) as client:
            stub = Stub(channel)
            assert struct(stub.get(seen).metadata)["create_time"] == struct(first.metadata)["create_time"]
            assert stub.get(cancelled).error.code == 1
            assert code_of(stub.get, deleted) == 5
            assert [code_of(stub.get, faulty) for _ in range(2)] == [14, 0]
            assert client.start(request_id="r", duration=60).name == started
            assert {each.name for each in stub.list("simulations").operations} == {seen, cancelled, faulty, started}
        simulator.restart()
        assert simulator.stderr() == ""


def test_a_foreign_state_file_is_an_error(tmp_path: Path) -> None:
    """It names the line instead of starting with half a memory."""
    path = tmp_path / "state"
    for line in ("wat", "[]", '{"event": "wat", "name": "n"}'):
        path.write_text('{"event": "seen", "name": "n", "time": 1}\n' + line + "\n")
        with pytest.raises(StateError, match="state:2 is not a line"):
            Store(path)
    done = command("--port", "0", "--state", str(path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_token_is_demanded() -> None:
    """Without it, or with another, a call is UNAUTHENTICATED; the log knows only whether there was one."""
    with running_simulator("--token", "t0ps3cret") as simulator:
        with grpc.insecure_channel(simulator.endpoint) as channel:
            name = fresh()
            assert code_of(Stub(channel).get, name) == 16
            assert code_of(Stub(channel, (("authorization", "Bearer no"),)).get, name) == 16
            assert code_of(Stub(channel, (("authorization", "Bearer t0ps3cret"),)).get, name) == 0
        with SimulatorClient(simulator.endpoint) as nobody, SimulatorClient(simulator.endpoint, "t0ps3cret") as client:
            assert code_of(nobody.start) == 16
            assert client.start().name
        assert [call["headers"]["authorization"] for call in simulator.calls("GetOperation")] == [False, True, True]
        assert "t0ps3cret" not in simulator.log.read_text()


def test_the_log_has_a_line_a_call(simulator: Simulator, client: SimulatorClient) -> None:
    """Time, method, name, code, done and the headers of interest; also of a call whose client went away."""
    name, slow = fresh(duration=0, fault="14"), fresh(latency=5)
    headers = {
        "x-goog-request-params": "name=x",
        "x-goog-api-client": "gl-python/3",
        "x-goog-user-project": "p",
        "x-other": "no",
    }
    with grpc.insecure_channel(simulator.endpoint) as channel:
        stub = Stub(channel, tuple(headers.items()))
        codes = [code_of(stub.get, name), code_of(stub.get, name), code_of(stub.cancel, name)]
        assert code_of(stub.get, slow, timeout=0.2) == 4
    calls = simulator.calls(name=name)
    assert [call["code"] for call in calls] == codes == [14, 0, 0]
    assert [call.get("done") for call in calls] == [None, True, None]
    assert [call["method"] for call in calls] == ["GetOperation", "GetOperation", "CancelOperation"]
    assert abs(calls[0]["time"] - time.time()) < 10
    assert calls[0]["headers"].pop("user-agent").startswith("grpc-python/")
    assert calls[0]["headers"] == {key: headers[key] for key in headers if key != "x-other"} | {"authorization": False}
    until = time.monotonic() + 5
    while not simulator.calls(name=slow) and time.monotonic() < until:
        time.sleep(0.02)
    assert [call["code"] for call in simulator.calls(name=slow)] == [1]
    started = client.start().name
    assert [call["method"] for call in simulator.calls(name=started)] == ["Start"]


def test_a_service_without_operations() -> None:
    """Every call of Operations is UNIMPLEMENTED; Start still works."""
    with (
        running_simulator("--unimplemented-service") as simulator,
        grpc.insecure_channel(simulator.endpoint) as channel,
    ):
        stub, name = Stub(channel), fresh()
        calls = (stub.get, stub.wait, stub.cancel, stub.delete, stub.list)
        assert [code_of(call, name) for call in calls] == [12] * 5
        with SimulatorClient(simulator.endpoint) as client:
            assert client.start().name


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a CA, a server's certificate and key, and a client's."""
    directory = tmp_path_factory.mktemp("pem")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(directory / "ca.pem"))
    for name, issued in (("server", ca.issue_cert("localhost")), ("client", ca.issue_cert("me@example.org"))):
        (directory / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(directory / f"{name}.key"))
    return directory


def test_tls(pem: Path) -> None:
    """It serves TLS, and plaintext does not get through."""
    ca = (pem / "ca.pem").read_bytes()
    with running_simulator("--tls-cert", pem / "server.pem", "--tls-key", pem / "server.key") as simulator:
        with SimulatorClient(f"localhost:{simulator.port}", root_certificates=ca) as client:
            assert client.start().name
        with grpc.insecure_channel(simulator.endpoint) as channel, pytest.raises(grpc.FutureTimeoutError):
            grpc.channel_ready_future(channel).result(0.5)


def test_mutual_tls(pem: Path) -> None:
    """With a client CA, only a client with a certificate of it gets through."""
    files = {name: (pem / name).read_bytes() for name in ("ca.pem", "client.pem", "client.key")}
    args = ("--tls-cert", pem / "server.pem", "--tls-key", pem / "server.key", "--tls-client-ca", pem / "ca.pem")
    with running_simulator(*args) as simulator:
        known = grpc.ssl_channel_credentials(files["ca.pem"], files["client.key"], files["client.pem"])
        with grpc.secure_channel(f"localhost:{simulator.port}", known) as channel:
            assert Stub(channel).get(fresh()).name
        unknown = grpc.ssl_channel_credentials(files["ca.pem"])
        with grpc.secure_channel(f"localhost:{simulator.port}", unknown) as channel:
            assert code_of(Stub(channel).get, fresh(), timeout=0.5) in {4, 14}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "--port"),
        (("--port", "x"), "invalid port value: 'x'"),
        (("--port", "65536"), "invalid port value"),
        (("--port", "0", "--tls-cert", "c.pem"), "--tls-cert and --tls-key go together"),
        (("--port", "0", "--tls-client-ca", "c.pem"), "--tls-client-ca needs"),
        (("--port", "0", "--tls-cert", "no.pem", "--tls-key", "no.pem"), "cannot use --tls-cert"),
        (("--port", "0", "--log", "no/such/dir/log"), "no/such/dir/log"),
        (("--port", "0", "--host", "192.0.2.1"), "cannot listen on 192.0.2.1:0"),
    ],
)
def test_bad_arguments_are_clear_errors(capsys: pytest.CaptureFixture[str], args: tuple[str, ...], says: str) -> None:
    """Exit code 2, the reason in the last line, and no traceback."""
    said = refused(capsys, *args)
    assert says in said.splitlines()[-1]
    assert "Traceback" not in said


def test_a_busy_port_is_one_line(simulator: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    """A second server does not share the port of the first, be that a simulator or not."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for port in (simulator.port, taken.getsockname()[1]):
            said = refused(capsys, "--port", str(port))
            assert said.count("\n") == 1
            assert f"127.0.0.1:{port}" in said


def test_it_ends_cleanly_on_sigterm_and_sigint() -> None:
    """Exit code 0 and nothing on stderr, in the middle of many a Wait too."""
    with running_simulator() as simulator:
        with grpc.insecure_channel(simulator.endpoint) as channel, ThreadPoolExecutor(32) as pool:
            waiting = [pool.submit(code_of, Stub(channel).wait, fresh(outcome="never")) for _ in range(32)]
            time.sleep(0.2)
            assert simulator.stop() == 0
            assert {each.result() for each in waiting} <= {1, 14}
        assert simulator.stderr() == ""
        simulator.restart()
        assert simulator.stop(signal.SIGINT) == 0
        assert simulator.stop() is None
        assert simulator.stderr() == ""


def test_the_fixture_says_why_there_is_no_simulator() -> None:
    """The error has the text that the command wrote to stderr."""
    with pytest.raises(SimulatorError, match="unrecognized arguments: --wat"), running_simulator("--wat"):
        pass
