"""The five RPCs in both shells: their headers, their listing, and what their errors say."""

from __future__ import annotations

import inspect
import itertools
import re
import uuid
import warnings
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import any_pb2, duration_pb2, empty_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_lro import __version__
from airflow_provider_lro._core.state import OperationState
from airflow_provider_lro._messages.protocol import MAX_EMPTY_PAGES, MAX_ERROR_DETAILS, routing_header
from airflow_provider_lro.exceptions import (
    Code,
    CredentialsError,
    EndpointError,
    LroError,
    OperationNotFound,
    RpcError,
    UnimplementedError,
)
from airflow_provider_lro.operation import AsyncOperationsClient, OperationsClient
from tests.versions import needs_partial_success

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.grpc.conftest import Client, FakeServer, Shell

    Serve = Callable[..., FakeServer]

with warnings.catch_warnings():
    # It would like grpcio-status to be there, which says nothing about a header.
    warnings.simplefilter("ignore", ImportWarning)
    from google.api_core.gapic_v1.routing_header import to_routing_header

METHODS = ("get_operation", "wait_operation", "cancel_operation", "delete_operation", "list_operations")


async def call(shell: Shell, client: Any, method: str, name: str, **options: Any) -> Any:
    """Call one of the five, a listing to its end."""
    answer = getattr(client, method)(name, **options)
    return await shell.listed(answer) if method == "list_operations" else await shell.do(answer)


def fine(method: str) -> Callable[[Any, Any], Any]:
    """Answer a method with an empty message."""
    kinds: dict[str, Any] = {"GetOperation": pb.Operation, "WaitOperation": pb.Operation}
    kind = pb.ListOperationsResponse if method == "ListOperations" else kinds.get(method, empty_pb2.Empty)
    return lambda request, context: kind()


def test_both_clients_have_the_same_surface() -> None:
    """Both clients have the same methods, with the same arguments and defaults."""

    def public(kind: type) -> dict[str, list[str]]:
        members = inspect.getmembers(kind, callable)
        return {
            name: [str(each) for each in inspect.signature(member).parameters.values()]
            for name, member in members
            if not name.startswith("_")
        }

    assert public(OperationsClient) == public(AsyncOperationsClient)
    assert {*METHODS, "close", "connect", "send"} == set(public(OperationsClient))


# ── the five ──


async def test_get(client: Client) -> None:
    """It returns the latest state."""
    name = client.name(duration=0, response={"a": 1})
    operation = await client.do(client.api.get_operation(name))
    assert isinstance(operation, OperationState)
    assert (operation.name, operation.done) == (name, True)


async def test_wait_returns_when_done_or_when_the_server_has_held_it_long_enough(client: Client) -> None:
    """One call each; being early is no error."""
    soon, never = client.name(duration=0.2), client.name(outcome="never")
    assert (await client.do(client.api.wait_operation(soon))).done
    assert not (await client.do(client.api.wait_operation(never, timeout=0.2))).done
    assert [call["method"] for call in client.simulator.calls(name=soon)] == ["WaitOperation"]


async def test_cancel_and_delete(client: Client) -> None:
    """They return nothing; a Get tells what they did."""
    name = client.name(outcome="never")
    assert await client.do(client.api.cancel_operation(name)) is None
    assert (await client.do(client.api.get_operation(name))).code == Code.CANCELLED
    assert await client.do(client.api.delete_operation(name)) is None
    with pytest.raises(OperationNotFound):
        await client.do(client.api.get_operation(name))


@pytest.mark.parametrize("method", METHODS)
async def test_a_method_that_the_service_does_not_have(client: Client, method: str) -> None:
    """The error is its own class, and names the method."""
    name = client.name(unimplemented="get,wait,cancel,delete,list")
    rpc = method.title().replace("_", "")
    with pytest.raises(UnimplementedError, match=rpc) as caught:
        await call(client.shell, client.api, method, name)
    assert caught.value.code is Code.UNIMPLEMENTED


@pytest.mark.parametrize("method", METHODS)
async def test_an_empty_name_is_refused_before_anything_is_sent(shell: Shell, serve: Serve, method: str) -> None:
    """A ValueError, and the server has not been called."""
    rpc = method.title().replace("_", "")
    fake = serve(**{rpc: fine(rpc)})
    async with shell.connect(fake.endpoint, insecure=True) as client:
        with pytest.raises(ValueError, match="must be a non-empty text"):
            await call(shell, client, method, "")
        assert fake.calls == []
        await call(shell, client, method, "operations/o")
    assert len(fake.calls) == 1


# ── headers and deadlines ──


@given(st.text(min_size=1))
@example("projects/p/locations/l/operations/o")
@example("simulations/duration=1&outcome=ok/operations/a b+c%20ü~*'()")
def test_the_routing_header_is_byte_for_byte_that_of_google_api_core(name: str) -> None:
    """Whatever the name holds."""
    assert routing_header(name) == ("x-goog-request-params", to_routing_header([("name", name)]))


@pytest.mark.parametrize("prefix", ["projects/p/locations/l/", "ü & x=+%/", ""])
@pytest.mark.parametrize("method", METHODS)
async def test_the_headers_arrive_with_every_call(client: Client, method: str, prefix: str) -> None:
    """Routing, user agent and API client, as the simulator's log has them; no authorization on plaintext."""
    name = prefix + client.name(duration=0)
    await call(client.shell, client.api, method, name)
    (sent,) = (each["headers"] for each in client.simulator.calls(name=name))
    assert sent["x-goog-request-params"] == to_routing_header([("name", name)])
    assert sent["user-agent"].startswith(f"airflow-provider-lro/{__version__} grpc-python")
    assert re.fullmatch(
        rf"gl-python/3\.\d+\.\d+ grpc/{re.escape(grpc.__version__)} airflow-provider-lro/{re.escape(__version__)}",
        sent["x-goog-api-client"],
    )
    assert sent["authorization"] is False


@pytest.mark.parametrize("method", METHODS)
async def test_rpc_timeout_and_metadata_reach_the_server(shell: Shell, serve: Serve, method: str) -> None:
    """The client's timeout holds where a call has none of its own."""
    rpc = method.title().replace("_", "")
    fake = serve(**{rpc: fine(rpc)})
    async with shell.connect(fake.endpoint, insecure=True, rpc_timeout=20) as client:
        await call(shell, client, method, "o")
        await call(shell, client, method, "o", rpc_timeout=5, metadata=[("x-mine", "yes")])
    plain, given_ = fake.calls
    expected = 70 if method == "wait_operation" else 20
    assert expected - 3 < plain.seconds < expected + 1  # gRPC rounds a deadline up on the wire
    assert 3 < given_.seconds < 6
    assert ("x-mine" in plain.headers, given_.headers["x-mine"]) == (False, "yes")


async def test_wait_asks_the_server_to_hold_it_and_allows_a_margin(shell: Shell, serve: Serve) -> None:
    """60 seconds by default, the call's deadline is ten later."""
    fake = serve(WaitOperation=fine("WaitOperation"))
    async with shell.connect(fake.endpoint, insecure=True) as client:
        await shell.do(client.wait_operation("o"))
        await shell.do(client.wait_operation("o", timeout=2.5))
        await shell.do(client.wait_operation("o", timeout=0))
    asked = [sent.request.timeout.ToMilliseconds() / 1000 for sent in fake.calls]
    assert asked == [60, 2.5, 0]
    for seconds, sent in zip(asked, fake.calls, strict=True):
        assert seconds + 8 < sent.seconds < seconds + 11


async def test_a_header_that_cannot_be_sent(shell: Shell, serve: Serve) -> None:
    """It is an error of ours in both shells, not one of grpc's inside."""
    fake = serve(GetOperation=fine("GetOperation"))
    async with shell.connect(fake.endpoint, insecure=True) as client:
        with pytest.raises((ValueError, LroError)):
            await shell.do(client.get_operation("o", metadata=(("Bad Key", "x"),)))


# ── listing ──


async def family(client: Client, count: int, **script: Any) -> tuple[str, list[str]]:
    """Make some operations under a parent of their own."""
    parent = f"projects/{uuid.uuid4().hex}"
    names = [f"{parent}/" + client.name(start=1000 + index, **script) for index in range(count)]
    for name in names:
        await client.do(client.api.get_operation(name))
    return parent, names


async def test_a_listing_has_all_pages_lazily(client: Client) -> None:
    """No call before the first operation is asked for, then one a page; a second loop begins again."""
    parent, names = await family(client, 3)
    pager = client.api.list_operations(parent, page_size=1)
    assert client.simulator.calls("ListOperations", parent) == []
    assert [each.name for each in await client.shell.listed(pager, most=2)] == names[:2]
    assert len(client.simulator.calls("ListOperations", parent)) == 2
    assert [each.name for each in await client.shell.listed(pager)] == names
    assert len(client.simulator.calls("ListOperations", parent)) == 5
    assert [each.name for each in await client.shell.listed(client.api.list_operations(parent))] == names
    assert len(client.simulator.calls("ListOperations", parent)) == 6


async def test_a_listing_is_filtered_by_the_service(client: Client) -> None:
    """The filter goes through as it is; what the service does not understand is its error."""
    parent, names = await family(client, 2, duration=0)
    listed = client.shell.listed
    assert [each.name for each in await listed(client.api.list_operations(parent, "done=true"))] == names
    assert await listed(client.api.list_operations(parent, filter="done=false")) == []
    with pytest.raises(RpcError) as caught:
        await listed(client.api.list_operations(parent, "wat"))
    assert caught.value.code is Code.INVALID_ARGUMENT


@needs_partial_success
async def test_a_listing_surfaces_the_unreachable(client: Client) -> None:
    """Only where partial success was asked for, and once although the listing is read twice."""
    parent, names = await family(client, 1, unreachable="us-east1")
    pager = client.api.list_operations(parent, return_partial_success=True)
    assert pager.unreachable == []
    for _ in range(2):
        assert [each.name for each in await client.shell.listed(pager)] == names
        assert pager.unreachable == ["us-east1"]
    whole = client.api.list_operations(parent)
    await client.shell.listed(whole)
    assert whole.unreachable == []


@needs_partial_success
async def test_a_listing_asks_for_what_it_was_given(shell: Shell, serve: Serve) -> None:
    """Filter, page size and partial success stand in every page's request; pages may be empty."""

    def page(request: pb.ListOperationsRequest, context: Any) -> pb.ListOperationsResponse:
        following = {"": "two", "two": "three", "three": ""}[request.page_token]
        operations = [] if request.page_token == "two" else [pb.Operation(name=following or "last")]
        return pb.ListOperationsResponse(operations=operations, next_page_token=following, unreachable=["x"])

    fake = serve(ListOperations=page)
    async with shell.connect(fake.endpoint, insecure=True) as client:
        pager = client.list_operations("p", "f", 7, return_partial_success=True)
        assert [each.name for each in await shell.listed(pager)] == ["two", "last"]
    requests = [sent.request for sent in fake.calls]
    assert [request.page_token for request in requests] == ["", "two", "three"]
    assert all((each.name, each.filter, each.page_size) == ("p", "f", 7) for each in requests)
    assert all(each.return_partial_success for each in requests)


async def test_a_page_that_names_itself_as_the_next_is_not_read_for_ever(shell: Shell, serve: Serve) -> None:
    """It is an error after the second page."""
    fake = serve(ListOperations=lambda request, context: pb.ListOperationsResponse(next_page_token="again"))
    async with shell.connect(fake.endpoint, insecure=True) as client:
        with pytest.raises(RpcError, match="would never end"):
            await shell.listed(client.list_operations("p"))
    assert len(fake.calls) == 2


async def test_pages_in_a_circle_are_not_read_for_ever(shell: Shell, serve: Serve) -> None:
    """A page that was there already ends the listing with an error, however far back it was."""
    circle = {"": "a", "a": "b", "b": "c", "c": "a"}
    fake = serve(
        ListOperations=lambda request, context: pb.ListOperationsResponse(next_page_token=circle[request.page_token])
    )
    async with shell.connect(fake.endpoint, insecure=True) as client:
        with pytest.raises(RpcError, match="would never end"):
            await shell.listed(client.list_operations("p"))
    assert len(fake.calls) == 4


@pytest.mark.no_cover  # which would take most of its time
async def test_empty_pages_are_not_read_for_ever(shell: Shell, serve: Serve) -> None:
    """A filter may leave many of them; a service that gives nothing else is stopped, and one that does is not."""
    page = itertools.count(1)
    often = True

    def give(request: Any, context: Any) -> pb.ListOperationsResponse:
        number = next(page)
        found = [pb.Operation(name="o")] if often and number % MAX_EMPTY_PAGES == 0 else []
        last = often and number == 2 * MAX_EMPTY_PAGES
        return pb.ListOperationsResponse(operations=found, next_page_token="" if last else str(number))

    fake = serve(ListOperations=give)
    async with shell.connect(fake.endpoint, insecure=True) as client:
        listing = client.list_operations("p")
        assert len(await shell.listed(listing)) == 2
        often = False
        with pytest.raises(RpcError, match=r"1000 pages in a row without an operation.*would never end"):
            await shell.listed(listing)
    assert len(fake.calls) == 3 * MAX_EMPTY_PAGES


async def test_a_token_of_any_size_is_not_kept(shell: Shell, serve: Serve) -> None:
    """One that is longer than a page's token may be is an error, and is not sent back."""
    fake = serve(ListOperations=lambda request, context: pb.ListOperationsResponse(next_page_token="x" * 20_000))
    async with shell.connect(fake.endpoint, insecure=True) as client:
        with pytest.raises(RpcError, match="names the next page by 20,000 characters: stopped, as 16,384 are the most"):
            await shell.listed(client.list_operations("p"))
    assert len(fake.calls) == 1


@pytest.mark.parametrize("size", [0, -1, True, 1.5, 2**31])
def test_a_value_that_is_not_a_page_size(shared_client: OperationsClient, size: Any) -> None:
    """It is refused where it is given."""
    with pytest.raises(ValueError, match=r"page_size=.*, but it must be None or a whole number"):
        shared_client.list_operations("p", page_size=size)


@pytest.mark.parametrize("filter", [5, ["x"], True, b"x", "\ud800"])
def test_a_value_that_is_not_a_filter(shared_client: OperationsClient, filter: Any) -> None:
    """So is it."""
    with pytest.raises(ValueError, match=r"filter=.*, but it must be a text"):
        shared_client.list_operations("p", filter)


@pytest.fixture
def shared_client() -> Any:
    """Make a client that calls nobody."""
    with OperationsClient.connect("127.0.0.1:1", insecure=True) as client:
        yield client


async def test_a_parent_that_is_not_there_is_no_missing_operation(shell: Shell, serve: Serve) -> None:
    """NOT_FOUND of a List says nothing about any operation."""
    fake = serve(ListOperations=lambda request, context: context.abort(grpc.StatusCode.NOT_FOUND, "no such parent"))
    async with shell.connect(fake.endpoint, insecure=True) as client:
        with pytest.raises(RpcError) as caught:
            await shell.listed(client.list_operations("p"))
    assert (type(caught.value), caught.value.code) == (RpcError, Code.NOT_FOUND)


# ── errors ──

KINDS = {
    Code.NOT_FOUND: OperationNotFound,
    Code.UNIMPLEMENTED: UnimplementedError,
    Code.UNAUTHENTICATED: CredentialsError,
}


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.UNAUTHENTICATED, Code.NOT_FOUND])
@pytest.mark.parametrize("fault", ["", "Domain name not found"])
async def test_what_a_service_says_forges_no_line_of_a_log(shell: Shell, serve: Serve, code: Code, fault: str) -> None:
    """In the text it is one printable line of bounded length; `message` has it all."""
    said = f"{fault}\n[2026-01-01] ERROR forged\x1b[31m" + "x" * 5_000
    status = getattr(grpc.StatusCode, code.name)
    fake = serve(GetOperation=lambda request, context: context.abort(status, said))
    async with shell.connect(fake.endpoint, insecure=True) as client:
        with pytest.raises(LroError, match=r"\[2026-01-01\] ERROR forged \[31mx") as caught:
            await shell.do(client.get_operation("operations/o"))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2200
    assert caught.value.message == said


@pytest.mark.parametrize("code", [code for code in Code if code])
async def test_every_status_code_has_its_error(client: Client, code: Code) -> None:
    """Class, code, message unchanged, and a sentence with method, name, endpoint and code."""
    name = client.name(fault=int(code))
    with pytest.raises(LroError) as caught:
        await client.do(client.api.get_operation(name))
    error = caught.value
    assert type(error) is KINDS.get(code, RpcError)
    assert error.code is code
    assert error.message == f"Simulated {code.name}: 1 of 1."
    text = str(error)
    assert all(
        part in text for part in ("GetOperation", name, client.simulator.endpoint, f"{code.name} ({code.value})")
    )
    assert error.is_transient is (code in {1, 2, 4, 8, 10, 13, 14})


async def test_a_retry_info_is_read(client: Client) -> None:
    """From the status details that the simulator sends along; without them there is none."""
    with pytest.raises(RpcError) as caught:
        await client.do(client.api.get_operation(client.name(fault=14, retry_info=2.5)))
    assert caught.value.retry_after == 2.5
    assert caught.value.details == [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "2.500s"}]
    with pytest.raises(RpcError) as caught:
        await client.do(client.api.get_operation(client.name(fault=14)))
    assert (caught.value.retry_after, caught.value.details) == (None, [])


def failing(*trailers: bytes) -> Callable[[Any, grpc.ServicerContext], Any]:
    """Answer UNAVAILABLE with such `grpc-status-details-bin` trailers."""

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata([("grpc-status-details-bin", trailer) for trailer in trailers])
        context.abort(grpc.StatusCode.UNAVAILABLE, "said")

    return answer


def retry(seconds: int) -> any_pb2.Any:
    """Pack a RetryInfo, sensible or not."""
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds)))
    return packed


async def test_details_of_a_failed_call_are_decoded(shell: Shell, serve: Serve) -> None:
    """Those that are known as their fields, those that are not as they came."""
    known = any_pb2.Any()
    known.Pack(error_details_pb2.ErrorInfo(reason="R", domain="d", metadata={"k": "v"}))
    unknown = any_pb2.Any(type_url="type.googleapis.com/no.such.Type", value=b"\x01")
    status = status_pb2.Status(code=14, message="said", details=[known, unknown, retry(3)])
    fake = serve(GetOperation=failing(status.SerializeToString()))
    async with shell.connect(fake.endpoint, insecure=True) as client:
        with pytest.raises(RpcError) as caught:
            await shell.do(client.get_operation("o"))
    assert caught.value.details == [
        {"@type": known.type_url, "reason": "R", "domain": "d", "metadata": {"k": "v"}},
        {"@type": unknown.type_url, "value": "AQ=="},
        {"@type": retry(3).type_url, "retry_delay": "3s"},
    ]
    assert (caught.value.retry_after, caught.value.message) == (3, "said")


@pytest.mark.parametrize(
    ("trailers", "retry_after"),
    [
        ([b""], None),
        ([b"\x1a\x7fgarbage"], None),
        ([b"\xff" * 100], None),
        (
            [
                status_pb2.Status(
                    details=[any_pb2.Any(type_url=retry(1).type_url, value=b"\x0a\x7f")]
                ).SerializeToString()
            ],
            None,
        ),
        ([status_pb2.Status(details=[retry(-5)]).SerializeToString()], 0),
        ([status_pb2.Status(details=[retry(2**62)]).SerializeToString()], None),
        ([status_pb2.Status(details=[retry(2)]).SerializeToString(), b"\x1a\x7fgarbage"], 2),
        ([b"\x1a\x7fgarbage", status_pb2.Status(details=[retry(2)]).SerializeToString()], None),
    ],
)
async def test_garbage_in_the_status_details_is_survived(
    shell: Shell, serve: Serve, trailers: list[bytes], retry_after: float | None
) -> None:
    """The call's own code and message are what counts; of several trailers the first, as for grpcio-status."""
    fake = serve(GetOperation=failing(*trailers))
    async with shell.connect(fake.endpoint, insecure=True) as client:
        with pytest.raises(RpcError) as caught:
            await shell.do(client.get_operation("o"))
    assert (caught.value.code, caught.value.message) == (Code.UNAVAILABLE, "said")
    assert caught.value.retry_after == retry_after


async def test_a_response_that_does_not_parse_is_an_error(shell: Shell, serve: Serve) -> None:
    """An answer that is not an Operation never passes for one."""
    fake = serve(GetOperation=lambda request, context: b"\x0a\x7fgarbage")
    async with shell.connect(fake.endpoint, insecure=True) as client:
        with pytest.raises(RpcError) as caught:
            await shell.do(client.get_operation("o"))
    assert caught.value.code is Code.INTERNAL


@pytest.mark.parametrize("insecure", ["false", "True", 0, None])
def test_tls_is_not_turned_off_by_accident(insecure: Any) -> None:
    """The text "false" is true to Python."""
    with pytest.raises(EndpointError, match=r"insecure=.*, but it must be True or False"):
        OperationsClient.connect("127.0.0.1:1", insecure=insecure)


@pytest.mark.parametrize("number", [MAX_ERROR_DETAILS, MAX_ERROR_DETAILS + 1, 30_000, 100_000])
async def test_details_without_end_are_not_parsed(shell: Shell, serve: Serve, number: int) -> None:
    """A hundred are; of more, and of more bytes than an event loop may parse, code and message have to do."""
    fake = serve(GetOperation=failing(b"\x08\x0e" + b"\x1a\x00" * number))
    async with shell.connect(fake.endpoint, insecure=True) as client:
        with pytest.raises(RpcError) as caught:
            await shell.do(client.get_operation("o"))
    assert (caught.value.code, caught.value.message) == (Code.UNAVAILABLE, "said")
    assert len(caught.value.details) == (number if number <= MAX_ERROR_DETAILS else 0)
