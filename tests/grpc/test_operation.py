"""`Operation` and `AsyncOperation`, row by row of what semantics promise of one, over real gRPC."""

from __future__ import annotations

import asyncio
import inspect
import math
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import any_pb2, duration_pb2, empty_pb2, struct_pb2
from google.rpc import status_pb2

from airflow_provider_lro.exceptions import (
    Code,
    CredentialsError,
    MalformedOperation,
    NoMetadataError,
    OperationCancelled,
    OperationFailed,
    OperationNotFound,
    OperationTimeout,
    PayloadTypeError,
    RpcError,
    UnimplementedError,
)
from airflow_provider_lro.operation import DEFAULT_WAIT_INTERVAL, AsyncOperation, AsyncOperationsClient, Operation
from airflow_provider_lro.simulator import operation_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.grpc.conftest import Client, FakeServer, Shell
    from tests.simulator_fixture import Simulator

    Serve = Callable[..., FakeServer]


def public(kind: type) -> dict[str, Any]:
    """Give the public names of a class, and how each is called."""
    members = {name: member for name, member in inspect.getmembers(kind) if not name.startswith("_")}
    return {
        name: [str(each) for each in inspect.signature(member).parameters.values()] if callable(member) else None
        for name, member in members.items()
    }


def test_both_classes_have_the_same_surface() -> None:
    """Both classes have the same methods, with the same arguments and defaults."""
    assert public(Operation) == public(AsyncOperation)
    assert {"poll", "wait", "wait_with_interval", "cancel", "delete", "metadata", "done", "name"} <= set(
        public(Operation)
    )


# ── name, done, metadata ──


async def test_a_bare_name_is_enough(client: Client) -> None:
    """An operation made from a name has it, is not done, and has asked nobody."""
    operation = client.operation(duration=60)
    assert operation.name.startswith("simulations/")
    assert not operation.done
    assert client.calls(operation) == []
    assert await client.do(operation.poll()) is None
    assert client.polls(operation) == 1


async def test_done_reads_the_last_poll_and_never_the_network(client: Client) -> None:
    """It stays false although the work has ended, until a poll says so, and makes no call."""
    operation = client.operation(duration=0)
    assert not operation.done
    assert client.calls(operation) == []
    await client.do(operation.poll())
    assert [operation.done, operation.done] == [True, True]
    assert len(client.calls(operation)) == 1


@pytest.mark.parametrize("name", ["", "   ", None, 5])
def test_an_empty_name_is_refused(shell: Shell, name: Any) -> None:
    """`from_name` refuses it at once."""
    with pytest.raises(ValueError, match=r"name=.*, but it must be a non-empty text"):
        shell.operation_type.from_name(None, name)


async def test_metadata_is_that_of_the_last_poll(client: Client) -> None:
    """It is unpacked into the type it names, or into the one that is asked for."""
    operation = client.operation(duration=60)
    with pytest.raises(NoMetadataError, match=operation.name):
        operation.metadata()
    await client.do(operation.poll())
    assert operation.metadata()["verb"] == "simulate"
    assert operation.metadata(struct_pb2.Struct)["progress_percent"] < 100
    assert len(client.calls(operation)) == 1


async def test_metadata_of_another_type_names_both(client: Client) -> None:
    """The error says what was there and what was asked for."""
    operation = client.operation(duration=60)
    await client.do(operation.poll())
    with pytest.raises(PayloadTypeError, match=r"google\.protobuf\.Struct.*google\.protobuf\.Duration"):
        operation.metadata(duration_pb2.Duration)


async def test_metadata_of_an_unknown_type_is_the_raw_any(client: Client) -> None:
    """What this process does not know comes as it is; what the service does not give is an error."""
    operation = client.operation(metadata="unknown")
    await client.do(operation.poll())
    assert isinstance(operation.metadata(), any_pb2.Any)
    assert operation.metadata().type_url.endswith("simulations.unknown.v1.Metadata")
    without = client.operation(metadata="none")
    await client.do(without.poll())
    with pytest.raises(NoMetadataError):
        without.metadata()


# ── poll ──


async def test_a_failed_call_leaves_the_operation_unmodified(client: Client) -> None:
    """The error is raised; state, metadata and name are those of the poll before."""
    operation = client.operation(duration=60, fault_after=1, fault=14)
    await client.do(operation.poll())
    before = pb.Operation.FromString(operation.proto.SerializeToString())
    with pytest.raises(RpcError) as caught:
        await client.do(operation.poll())
    assert caught.value.code is Code.UNAVAILABLE
    assert operation.proto == before
    assert not operation.done


async def test_a_done_operation_is_not_asked_again(client: Client) -> None:
    """Its response comes again without a call, from poll and from wait."""
    operation = client.operation(duration=0, response={"a": "b"})
    first = await client.do(operation.poll())
    assert (operation.done, dict(first)) == (True, {"a": "b"})
    assert await client.do(operation.poll()) == first
    assert await client.do(operation.wait(timeout=5)) == first
    assert await client.do(operation.poll(struct_pb2.Struct)) == first
    assert client.polls(operation) == 1


async def test_a_failure_is_raised_again_without_a_call(client: Client) -> None:
    """The operation is done, and its error carries code, message, details and the operation."""
    operation = client.operation(duration=0, outcome="fail", code=5, message="no bucket", details="ErrorInfo,Unknown")
    caught = []
    for attempt in (operation.poll, operation.poll, operation.wait):
        with pytest.raises(OperationFailed) as info:
            await client.do(attempt())
        assert type(info.value) is OperationFailed
        caught.append((info.value.code, info.value.message, info.value.details, info.value.operation, str(info.value)))
    assert caught[1:] == caught[:1] * 2
    code, message, details, as_json, text = caught[0]
    assert (operation.done, code, message) == (True, Code.NOT_FOUND, "no bucket")
    assert details[0]["reason"] == "RATE_LIMIT_EXCEEDED"
    assert details[1]["@type"].endswith("simulations.unknown.v1.ErrorDetail")
    assert (as_json["name"], as_json["done"], as_json["error"]["code"]) == (operation.name, True, 5)
    assert all(part in text for part in (operation.name, "NOT_FOUND (5)", "no bucket"))
    assert client.polls(operation) == 1


@pytest.mark.parametrize("code", [9, 77, 0])
async def test_the_error_field_decides_not_its_message(client: Client, code: int) -> None:
    """A code alone is a failure, be it one that nobody knows or even that of OK."""
    operation = client.operation(duration=0, outcome="fail", code=code)
    with pytest.raises(OperationFailed) as caught:
        await client.do(operation.poll())
    assert caught.value.code == code
    assert isinstance(caught.value.code, Code) is (code != 77)
    assert caught.value.message == ""


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ({"response": {"x": 1}}, struct_pb2.Struct),
        ({"response_type": "empty"}, empty_pb2.Empty),
        ({"response_type": "nested_unknown"}, status_pb2.Status),
        ({"response_type": "unknown"}, any_pb2.Any),
        ({"response_type": "malformed"}, any_pb2.Any),
    ],
)
async def test_a_response_is_unpacked_into_the_type_it_names(
    client: Client, script: dict[str, Any], expected: type
) -> None:
    """A type that is not known, or bytes that do not parse, leave the raw Any."""
    operation = client.operation(duration=0, **script)
    response = await client.do(operation.poll())
    assert type(response) is expected
    assert await client.do(operation.wait()) == response
    if expected is any_pb2.Any:
        assert response == operation.proto.response


@pytest.mark.parametrize("kind", ["struct", "unknown"])
async def test_a_response_of_another_type_names_both(client: Client, kind: str) -> None:
    """It is an error, the operation is done, and asking for the right type works without a call."""
    operation = client.operation(duration=0, response_type=kind)
    with pytest.raises(PayloadTypeError) as caught:
        await client.do(operation.poll(duration_pb2.Duration))
    assert "'google.protobuf.Duration'" in str(caught.value)
    assert ("'google.protobuf.Struct'" if kind == "struct" else "'simulations.unknown.v1.Response'") in str(
        caught.value
    )
    assert operation.done
    assert await client.do(operation.poll()) is not None
    assert client.polls(operation) == 1


async def test_a_malformed_response_of_the_type_asked_for(client: Client) -> None:
    """The error says that the bytes do not parse."""
    operation = client.operation(duration=0, response_type="malformed")
    with pytest.raises(PayloadTypeError, match=r"google\.protobuf\.Struct.*do not parse"):
        await client.do(operation.poll(struct_pb2.Struct))


async def test_neither_response_nor_error_is_an_empty_success(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """It is Empty, or an empty message of the type asked for, with a warning that names the operation."""
    operation = client.operation(duration=0, outcome="neither")
    assert await client.do(operation.poll()) == empty_pb2.Empty()
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert any(operation.name in record.getMessage() for record in warnings)
    assert await client.do(operation.poll(struct_pb2.Struct)) == struct_pb2.Struct()
    assert isinstance(await client.do(operation.wait(duration_pb2.Duration)), duration_pb2.Duration)


async def test_an_error_of_an_operation_that_is_not_done_is_not_its_outcome(shell: Shell, serve: Serve) -> None:
    """`done` decides whether there is an outcome at all, whatever else the answer has."""
    running = pb.Operation(name="o", error=status_pb2.Status(code=5))
    fake = serve(GetOperation=lambda request, context: running)
    async with shell.connect(fake.endpoint, insecure=True) as client:
        operation = shell.operation_type.from_name(client, "o")
        assert await shell.do(operation.poll()) is None
        with pytest.raises(OperationTimeout):
            await shell.do(operation.wait(timeout=0))
    assert not operation.done
    assert operation.proto == running


async def test_a_result_can_be_required(client: Client) -> None:
    """Then done with neither is a fault, in poll and in wait; a response is none."""
    for method, options in (("poll", {}), ("wait", {"timeout": 5})):
        operation = client.operation(duration=0, outcome="neither")
        with pytest.raises(MalformedOperation, match=operation.name) as caught:
            await client.do(getattr(operation, method)(require_result=True, **options))
        assert operation.done
        assert caught.value.operation["done"] is True
    assert await client.do(client.operation(duration=0).poll(require_result=True)) is not None


async def test_the_name_stays_when_the_service_leaves_it_out(shell: Shell, serve: Serve) -> None:
    """An answer without a name does not make the operation nameless."""
    fake = serve(GetOperation=lambda request, context: pb.Operation(done=False))
    async with shell.connect(fake.endpoint, insecure=True) as client:
        operation = shell.operation_type.from_name(client, "operations/mine")
        assert [await shell.do(operation.poll()) for _ in range(2)] == [None, None]
    assert [sent.request.name for sent in fake.calls] == ["operations/mine"] * 2


# ── an empty name ──


async def test_an_empty_name_is_refused_before_anything_is_sent(shell: Shell, serve: Serve) -> None:
    """No call is made for an operation without a name that is not done."""
    methods = ("GetOperation", "CancelOperation", "DeleteOperation")
    fake = serve(**{method: lambda request, context: empty_pb2.Empty() for method in methods})
    async with shell.connect(fake.endpoint, insecure=True) as client:
        operation = shell.operation_type(client, pb.Operation())
        for method in ("poll", "wait", "cancel", "delete"):
            with pytest.raises(ValueError, match=r"name=.*, but it must be a non-empty text"):
                await shell.do(getattr(operation, method)())
    assert fake.calls == []


async def test_a_done_operation_needs_no_name(shell: Shell, serve: Serve) -> None:
    """What a validate_only call returns has its outcome already; it cannot be cancelled either."""
    fake = serve(GetOperation=lambda request, context: pb.Operation())
    done = pb.Operation(done=True)
    done.response.Pack(duration_pb2.Duration(seconds=7))
    failed = pb.Operation(done=True, error=status_pb2.Status(code=3))
    async with shell.connect(fake.endpoint, insecure=True) as client:
        operation = shell.operation_type(client, done)
        assert (operation.name, operation.done) == ("", True)
        assert await shell.do(operation.poll(duration_pb2.Duration)) == duration_pb2.Duration(seconds=7)
        assert await shell.do(operation.wait()) == duration_pb2.Duration(seconds=7)
        for method in ("cancel", "delete"):
            with pytest.raises(ValueError, match="name"):
                await shell.do(getattr(operation, method)())
        with pytest.raises(OperationFailed):
            await shell.do(shell.operation_type(client, failed).wait())
    assert fake.calls == []


# ── cancel, delete, what a service does not have ──


async def test_a_cancel_is_asked_once_and_a_poll_tells(client: Client) -> None:
    """Success means "asked": the operation changes by a poll alone, and ends as cancelled."""
    operation = client.operation(outcome="never")
    assert await client.do(operation.cancel()) is None
    assert not operation.done
    with pytest.raises(OperationCancelled) as caught:
        await client.do(operation.poll())
    assert caught.value.code is Code.CANCELLED
    assert isinstance(caught.value, OperationFailed)
    assert operation.done
    assert [call["method"] for call in client.calls(operation)] == ["CancelOperation", "GetOperation"]


async def test_an_operation_may_succeed_despite_a_cancel(client: Client) -> None:
    """A cancel that is not heeded changes nothing about the outcome."""
    operation = client.operation(duration=0.2, cancel="ignore")
    await client.do(operation.cancel())
    assert (await client.do(operation.wait_with_interval(0.1, timeout=10)))["id"]
    assert operation.done


async def test_a_delete_does_not_cancel(client: Client) -> None:
    """It makes one call; the service knows the operation no more."""
    operation = client.operation(outcome="never")
    assert await client.do(operation.delete()) is None
    assert [call["method"] for call in client.calls(operation)] == ["DeleteOperation"]
    with pytest.raises(OperationNotFound) as caught:
        await client.do(operation.poll())
    assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize(("method", "rpc"), [("poll", "get"), ("cancel", "cancel"), ("delete", "delete")])
async def test_a_method_that_the_service_does_not_have(client: Client, method: str, rpc: str) -> None:
    """The error says which, is its own class, and the operation is as it was."""
    operation = client.operation(unimplemented=rpc)
    with pytest.raises(UnimplementedError, match=f"(?i){rpc}Operation") as caught:
        await client.do(getattr(operation, method)())
    assert caught.value.code is Code.UNIMPLEMENTED
    assert not operation.done


# ── wait ──


async def test_wait_polls_at_once_then_backs_off(client: Client) -> None:
    """A short operation is found early although the interval is a minute; a finished one by a single call."""
    assert DEFAULT_WAIT_INTERVAL == 60
    finished = client.operation(duration=0)
    await client.do(finished.wait())
    assert client.polls(finished) == 1
    operation = client.operation(duration=0.25, response={"x": "y"})
    response = await client.do(operation.wait(struct_pb2.Struct, initial_delay=0.1))
    assert (dict(response), operation.done) == ({"x": "y"}, True)
    assert 3 <= client.polls(operation) <= 4  # at 0, 0.1, 0.3 and, by jitter, 0.7 s
    assert await client.do(operation.poll()) == response
    assert client.polls(operation) <= 4


async def test_an_interval_below_the_backoff_rules(client: Client) -> None:
    """Every tenth of a second means that."""
    operation = client.operation(duration=0.55)
    await client.do(operation.wait_with_interval(0.1, jitter=0))
    times = [call["time"] for call in client.calls(operation)]
    assert 4 <= len(times) <= 7
    assert times[-1] - times[0] < 2


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ({"outcome": "fail", "code": 9}, OperationFailed),
        ({"outcome": "cancelled"}, OperationCancelled),
        ({"response_type": "unknown"}, PayloadTypeError),
    ],
)
async def test_wait_raises_as_poll_does(client: Client, script: dict[str, Any], error: type[Exception]) -> None:
    """What the operation came to is raised, and known from then on without a call."""
    operation = client.operation(duration=0.15, **script)
    with pytest.raises(error):
        await client.do(operation.wait_with_interval(0.1, struct_pb2.Struct, timeout=10))
    polls = client.polls(operation)
    assert (operation.done, polls > 1) == (True, True)
    with pytest.raises(error):
        await client.do(operation.poll(struct_pb2.Struct))
    assert client.polls(operation) == polls


async def test_a_timeout_is_declared_after_a_poll_at_the_deadline(client: Client) -> None:
    """It says that the operation may still succeed, names it, and tells its progress; nothing is cancelled."""
    operation = client.operation(duration=60)
    started = time.time()
    with pytest.raises(OperationTimeout, match="may still succeed") as caught:
        await client.do(operation.wait(initial_delay=30, timeout=0.3))
    calls = client.calls(operation)
    assert [call["method"] for call in calls] == ["GetOperation"] * 2
    assert 0.29 <= calls[-1]["time"] - started < 2
    assert operation.name in str(caught.value)
    assert re.search(r"Its last known progress: \d+ %, simulate\.", str(caught.value))
    assert caught.value.operation["metadata"]["value"]["verb"] == "simulate"
    assert not operation.done


async def test_no_time_at_all_is_one_poll(client: Client) -> None:
    """A timeout of zero finds what is finished, and gives up on what is not."""
    assert await client.do(client.operation(duration=0).wait(timeout=0)) is not None
    operation = client.operation(duration=60)
    with pytest.raises(OperationTimeout):
        await client.do(operation.wait(timeout=0))
    assert client.polls(operation) == 1


@pytest.mark.parametrize(
    ("script", "options", "done"),
    [
        ({}, {"timeout": 0}, False),
        ({}, {"timeout": 0, "on_timeout": "cancel"}, True),
        ({"fault_after": 1, "fault": 7}, {"timeout": 5}, False),
    ],
)
async def test_the_state_after_a_wait_is_the_last_polled(
    client: Client, script: dict[str, Any], options: dict[str, Any], *, done: bool
) -> None:
    """As after Go's Wait: what the polls have read is not forgotten when the wait itself ends with an error."""
    operation = client.operation(outcome="never", **script)
    with pytest.raises((OperationTimeout, RpcError)):
        await client.do(operation.wait_with_interval(0.1, **options))
    assert operation.done is done
    assert operation.metadata()["verb"] == "simulate"


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ({}, "was asked to cancel then, and is cancelled"),
        ({"cancel": "ignore"}, "has had no effect so far: it may still succeed"),
        ({"unimplemented": "cancel"}, "could not be cancelled and goes on.*UNIMPLEMENTED"),
    ],
)
async def test_a_cancel_at_the_deadline(client: Client, script: dict[str, Any], text: str) -> None:
    """It stays a timeout, whose text says whether the cancel took effect."""
    operation = client.operation(outcome="never", **script)
    with pytest.raises(OperationTimeout, match=text):
        await client.do(operation.wait_with_interval(0.1, timeout=0.1, on_timeout="cancel", cancel_grace=0.2))
    assert len(client.calls(operation, "CancelOperation")) == 1
    assert client.calls(operation)[-1]["method"] == "GetOperation"


async def test_a_success_in_the_grace_after_a_cancel_is_the_outcome(client: Client) -> None:
    """The operation finished in spite of being asked to stop."""
    operation = client.operation(duration=0.3, cancel="ignore")
    response = await client.do(operation.wait_with_interval(0.1, timeout=0.1, on_timeout="cancel", cancel_grace=10))
    assert response["id"]
    assert len(client.calls(operation, "CancelOperation")) == 1


# ── what a poll may fail with ──


@pytest.mark.parametrize("fault", ["14*3", "4", "13", "8", "10", "2", "1", "14,8,14"])
async def test_a_passing_fault_is_survived(client: Client, fault: str) -> None:
    """It says nothing about the operation: the wait goes on to the outcome."""
    operation = client.operation(duration=0, fault=fault)
    assert await client.do(operation.wait_with_interval(0.1, timeout=20)) is not None
    codes = [call["code"] for call in client.calls(operation)]
    assert codes[-1] == 0
    assert 0 not in codes[:-1]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (12, UnimplementedError),
        (7, RpcError),
        (16, CredentialsError),
        (3, RpcError),
        (11, RpcError),
        (9, RpcError),
    ],
)
async def test_a_fault_that_stays_ends_the_wait_at_once(client: Client, code: int, error: type[Exception]) -> None:
    """What time does not heal is raised after one call."""
    operation = client.operation(duration=0, fault=code)
    with pytest.raises(error) as caught:
        await client.do(operation.wait_with_interval(0.1, timeout=20))
    assert caught.value.code == code
    assert client.polls(operation) == 1


async def test_so_many_errors_in_a_row_are_too_many(client: Client) -> None:
    """Two are tolerated, the third is raised."""
    operation = client.operation(fault="14*forever")
    with pytest.raises(RpcError) as caught:
        await client.do(operation.wait_with_interval(0.1, timeout=20, max_consecutive_errors=2))
    assert caught.value.code is Code.UNAVAILABLE
    assert client.polls(operation) == 3


async def test_a_service_that_asks_for_time_gets_it(client: Client) -> None:
    """A RetryInfo delays the next poll beyond the interval."""
    operation = client.operation(duration=0, fault=14, retry_info=0.5)
    await client.do(operation.wait_with_interval(0.1))
    first, second = (call["time"] for call in client.calls(operation))
    assert second - first >= 0.49


async def test_not_found_at_first_may_mean_not_yet(client: Client) -> None:
    """It is survived within the grace; without one it is an error that says what it means."""
    early = client.operation(duration=0, not_found=2)
    assert await client.do(early.wait_with_interval(0.1, timeout=20)) is not None
    assert [call["code"] for call in client.calls(early)] == [5, 5, 0]
    gone = client.operation(duration=0, not_found=2)
    with pytest.raises(OperationNotFound, match="expired, was deleted") as caught:
        await client.do(gone.wait_with_interval(0.1, timeout=20, not_found_grace=0))
    assert caught.value.code is Code.NOT_FOUND
    assert client.polls(gone) == 1


async def test_a_response_that_is_too_large_is_not_asked_for_again(client: Client, shell: Shell) -> None:
    """The error comes at once and names what raises the limit; the default of 64 MiB takes it."""
    operation = client.operation(duration=0, response_bytes=2_000_000)
    async with shell.connect(client.simulator.endpoint, insecure=True, max_message_mb=1) as small:
        limited = shell.operation_type.from_name(small, operation.name)
        for method in (limited.poll, limited.wait):
            with pytest.raises(RpcError, match=r"larger than max \(20\d+ vs. 1048576\).*max_message_mb") as caught:
                await client.do(method())
            assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert client.polls(operation) == 2
    assert len((await client.do(operation.wait()))["padding"]) > 1_900_000


# ── the arguments ──


async def test_rpc_timeout_ends_a_slow_call(client: Client) -> None:
    """A poll that is too slow is DEADLINE_EXCEEDED, which a wait survives until its own deadline."""
    operation = client.operation(latency=20)
    with pytest.raises(RpcError) as caught:
        await client.do(operation.poll(rpc_timeout=0.1))
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    with pytest.raises(OperationTimeout, match=r"The last poll failed: .*DEADLINE_EXCEEDED"):
        await client.do(operation.wait_with_interval(0.1, timeout=0.2, rpc_timeout=0.1))


async def test_rpc_timeout_and_metadata_reach_the_server(shell: Shell, serve: Serve) -> None:
    """Every method that calls passes them on; without them the call has 30 seconds and no such header."""

    def done(request: Any, context: Any) -> pb.Operation:
        return pb.Operation(name=request.name, done=len(fake.calls) > 3)

    def fine(request: Any, context: Any) -> empty_pb2.Empty:
        return empty_pb2.Empty()

    fake = serve(GetOperation=done, CancelOperation=fine, DeleteOperation=fine)
    options = {"rpc_timeout": 5, "metadata": (("x-mine", "yes"), ("x-raw-bin", b"\x00\xff"))}
    async with shell.connect(fake.endpoint, insecure=True) as client:
        operation = shell.operation_type.from_name(client, "operations/o")
        await shell.do(operation.poll())
        for method in (operation.poll, operation.cancel, operation.delete, operation.wait):
            await shell.do(method(**options))
    plain, *given = fake.calls
    assert 25 < plain.seconds < 31  # gRPC rounds a deadline up on the wire
    assert "x-mine" not in plain.headers
    assert [sent.method[:3] for sent in given] == ["Get", "Can", "Del", "Get"]
    assert all(4 < sent.seconds < 6 for sent in given)
    assert all((sent.headers["x-mine"], sent.headers["x-raw-bin"]) == ("yes", b"\x00\xff") for sent in given)


async def test_the_rpc_timeout_of_the_client_holds_in_a_wait(shell: Shell, serve: Serve) -> None:
    """Without one of its own a wait takes the client's, as poll does."""
    fake = serve(GetOperation=lambda request, context: pb.Operation(name=request.name, done=len(fake.calls) > 1))
    async with shell.connect(fake.endpoint, insecure=True, rpc_timeout=5) as client:
        operation = shell.operation_type.from_name(client, "operations/o")
        await shell.do(operation.poll())
        await shell.do(operation.wait())
    assert [4 < sent.seconds < 6 for sent in fake.calls] == [True, True]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("interval", 0.05),
        ("interval", math.nan),
        ("interval", "60"),
        ("initial_delay", 0),
        ("multiplier", 0.5),
        ("jitter", 1.5),
        ("rpc_timeout", 0),
        ("not_found_grace", -1),
        ("cancel_grace", math.inf),
        ("max_consecutive_errors", -1),
        ("max_consecutive_errors", 1.5),
        ("on_timeout", "wat"),
        ("timeout", math.nan),
        ("timeout", "5"),
    ],
)
async def test_an_argument_that_makes_no_sense(client: Client, argument: str, value: Any) -> None:
    """The error names the argument, and nothing has been sent."""
    operation = client.operation()
    with pytest.raises(ValueError, match=f"{argument}={re.escape(repr(value))}, but it must be"):
        await client.do(operation.wait_with_interval(**{"interval": 1, argument: value}))
    assert client.calls(operation) == []


async def test_a_wait_can_be_abandoned(shared_simulator: Simulator) -> None:
    """A cancelled asyncio task stops waiting, and does not cancel the operation."""
    async with AsyncOperationsClient.connect(shared_simulator.endpoint, insecure=True) as client:
        operation = AsyncOperation.from_name(client, operation_name("abandoned", outcome="never"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(operation.wait_with_interval(0.1), 0.3)
    assert {call["method"] for call in shared_simulator.calls(name=operation.name)} == {"GetOperation"}


async def test_an_argument_that_a_wait_does_not_have(client: Client) -> None:
    """What would be ignored is refused, with what there is."""
    with pytest.raises(TypeError, match="does not take endpoint; it takes cancel_grace"):
        await client.do(client.operation(duration=0).wait(endpoint="elsewhere"))
