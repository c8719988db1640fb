"""Answers that are not the service's: a proxy or a load balancer gives an HTTP status, and gRPC makes a code of it."""

from __future__ import annotations

import gzip
import json
import struct
from typing import TYPE_CHECKING, Any

import pytest
from google.longrunning import operations_proto_pb2 as pb

from airflow_provider_lro._transport.channel import ChannelConfig
from airflow_provider_lro._transport.client import AsyncOperationsClient
from airflow_provider_lro.exceptions import Code, EndpointError, RpcError
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.triggers import LongRunningOperationTrigger
from tests.grpc.raw_server import RawServer, data, headers, message, reset

if TYPE_CHECKING:
    from tests.grpc.conftest import Shell

DONE = message(pb.Operation(name="operations/1", done=True).SerializeToString())


def refusal(status: str) -> Any:
    """Return a proxy's answer: a status, and a page for a browser that nobody reads."""
    return [headers({":status": status, "content-type": "text/html"}, ends=True)]


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        ("400", Code.INTERNAL, "check host and port"),
        ("401", Code.UNAUTHENTICATED, "check host, port and credentials"),
        ("403", Code.PERMISSION_DENIED, "check host, port and credentials"),
        ("404", Code.UNIMPLEMENTED, "check host and port"),
        ("405", Code.UNKNOWN, "check host and port"),
    ],
)
async def test_http_status_is_not_the_services_word(shell: Shell, status: str, code: Code, advice: str) -> None:
    """It is the endpoint that is wrong, perhaps for a moment only, whatever code gRPC has made of it."""
    with RawServer(refusal(status)) as server:
        async with shell.connect(server.endpoint, insecure=True) as client:
            for call in (client.get_operation, client.cancel_operation, client.delete_operation):
                with pytest.raises(
                    EndpointError, match=rf"is not a gRPC service \(HTTP {status}\): {advice}"
                ) as caught:
                    await shell.do(call("operations/1"))
                assert (caught.value.code, caught.value.is_transient) == (code, True)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        *((status, Code.UNKNOWN) for status in ("302", "408", "500")),
        *((status, Code.UNAVAILABLE) for status in ("429", "502", "503", "504")),
    ],
)
async def test_http_status_that_passes(shell: Shell, status: str, code: Code) -> None:
    """An outage or an overload before the service is one like the service's own."""
    with RawServer(refusal(status)) as server:
        async with shell.connect(server.endpoint, insecure=True) as client:
            with pytest.raises(RpcError) as caught:
                await shell.do(client.get_operation("operations/1"))
    assert (caught.value.code, caught.value.is_transient) == (code, True)


async def test_reset_for_its_tls_is_not_a_permission_denied(shell: Shell) -> None:
    """GRPC makes that code of HTTP/2's INADEQUATE_SECURITY."""
    with RawServer([reset(12)]) as server:
        async with shell.connect(server.endpoint, insecure=True) as client:
            with pytest.raises(EndpointError, match="refuses the TLS of this connection") as caught:
                await shell.do(client.get_operation("operations/1"))
    assert (caught.value.code, caught.value.is_transient) == (Code.PERMISSION_DENIED, True)


@pytest.mark.parametrize("code", [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 13])
async def test_reset_of_a_call_passes(shell: Shell, code: int) -> None:
    """Whatever HTTP/2 has to say about one stream, the next may do."""
    with RawServer([reset(code)]) as server:
        async with shell.connect(server.endpoint, insecure=True) as client:
            with pytest.raises(RpcError) as caught:
                await shell.do(client.get_operation("operations/1", rpc_timeout=1.0))
    assert caught.value.is_transient


def pages(client: Any) -> Any:
    """Return the operations of a listing, or an awaitable of them."""
    pager = client.list_operations("p")
    if hasattr(pager, "__iter__"):
        return list(pager)

    async def read() -> list[Any]:
        return [each async for each in pager]

    return read()


async def test_success_without_a_message(shell: Shell) -> None:
    """It is not an operation; gRPC returns None for it."""
    nothing = [headers({":status": "200", "content-type": "application/grpc", "grpc-status": "0"}, ends=True)]
    with RawServer(nothing) as server:
        async with shell.connect(server.endpoint, insecure=True) as client:
            calls = (client.get_operation, client.wait_operation, client.cancel_operation, client.delete_operation)
            for call in calls:
                with pytest.raises(RpcError, match="the answer is not a message") as caught:
                    await shell.do(call("operations/1"))
                assert caught.value.is_transient
            with pytest.raises(RpcError, match="the answer is not a message"):
                await shell.do(pages(client))


@pytest.mark.parametrize("in_triggerer", [False, True])
async def test_answer_that_is_too_large_only_when_decompressed(in_triggerer: bool) -> None:
    """It is not the service that is exhausted: nothing is slowed down, and the extra that raises the limit is named."""
    zipped = gzip.compress(bytes(3_000_000))
    start = headers({":status": "200", "content-type": "application/grpc", "grpc-encoding": "gzip"})
    answer = [start, data(b"\1" + struct.pack("!I", len(zipped)) + zipped), headers({"grpc-status": "0"}, ends=True)]
    extra = "max_triggerer_message_mb" if in_triggerer else "max_message_mb"
    with RawServer(answer) as server:
        config = ChannelConfig(target=server.endpoint, insecure=True, max_message_mb=1, in_triggerer=in_triggerer)
        async with AsyncOperationsClient(config) as client:
            for call in (client.get_operation, client.cancel_operation, client.wait_operation):
                with pytest.raises(RpcError, match=f"the answer is too large.*raise {extra} in") as caught:
                    await call("operations/1")
                assert (caught.value.is_transient, caught.value.too_large) == (False, in_triggerer)
            with pytest.raises(RpcError, match=f"the answer is too large.*raise {extra} in"):
                _ = [each async for each in client.list_operations("p")]


async def test_fresh_wait_ends_at_once(shell: Shell) -> None:
    """Nothing was reached yet, so host or port is wrong."""
    with RawServer(refusal("404"), DONE) as server:
        async with shell.connect(server.endpoint, insecure=True) as client:
            with pytest.raises(EndpointError, match="HTTP 404"):
                await shell.do(shell.operation_type.from_name(client, "operations/1").wait())
        assert server.calls == 1


@pytest.mark.parametrize("status", ["401", "403", "404"])
async def test_deferred_wait_goes_on(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that refuses a poll in the middle says nothing about the operation."""
    with RawServer(refusal(status), refusal(status), DONE) as server:
        host, _, port = server.endpoint.partition(":")
        stored = {"conn_type": "lro", "host": host, "port": int(port), "extra": {"insecure": True}}
        monkeypatch.setenv("AIRFLOW_CONN_PROXIED", json.dumps(stored))
        trigger = LongRunningOperationTrigger(
            operation_name="operations/1", lro_conn_id="proxied", interval=0.1, initial_delay=0.1
        )
        (event,) = [event async for event in trigger.run()]
    assert (event.payload["outcomes"], server.calls) == ("S", 3)


@pytest.mark.parametrize("status", ["403", "404"])
def test_test_connection_says_that_it_is_not_the_service(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such an answer is neither "answers Operations" nor "does not implement Operations"."""
    with RawServer(refusal(status)) as server:
        stored = {"conn_type": "lro", "host": server.endpoint, "extra": {"insecure": True}}
        monkeypatch.setenv("AIRFLOW_CONN_PROXIED", json.dumps(stored))
        with LongRunningOperationHook("proxied") as hook:
            works, text = hook.test_connection()
    assert not works
    assert (
        f"Cannot connect: the endpoint '{server.endpoint}' is answered by something that is not a gRPC service" in text
    )
