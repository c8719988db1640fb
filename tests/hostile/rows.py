"""The rows: what a server does, and what must come of a wait at it."""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import random
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import any_pb2, duration_pb2, struct_pb2
from google.rpc import error_details_pb2, status_pb2

from tests.hostile.server import GOAWAY, PREFACE, SETTINGS, frame, serve_http2

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    from google.protobuf.message import Message

    from tests.hostile.server import Call, Connection, Script

MB = 1_000_000
SECRET = "h0stile-t0ken-of-a-connection"
PAGES_TIME = 20.0
"""Seconds."""
NEIGHBOUR_ENDS = 2.0
"""Seconds from the first call until the operation of a row's neighbour ends."""

GOES_ON, SUCCEEDED, FAILED, TO_WORKER = "goes on", "succeeded", "failed", "left to a worker"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A hostile server, and waits at it.

    Attributes:
        key: Short, for the command line, and in the names of its operations.
        does: What the server does, in the words of the docs.
        comes: What must come of each wait.
        script: Answers a call.
        connected: Serves a connection, where that is not as usual.
        waits: How many there are.
        wait: Arguments of each.
        is_watcher: It is an asset watcher's trigger instead.
        has_token: The connection is TLS, with `SECRET` for a bearer token.
        has_key: The connection has a service account's key, whose token endpoint is the server.
        has_neighbour: Beside it, at the same host, one wait with other credentials and for another project succeeds.
        pages: ListOperations that may be asked for in PAGES_TIME.
    """

    key: str
    does: str
    comes: str = GOES_ON
    script: Script | None = None
    connected: Callable[[Connection], Coroutine[Any, Any, None]] = serve_http2
    waits: int = 1
    wait: Mapping[str, Any] = field(default_factory=dict)
    is_watcher: bool = False
    has_token: bool = False
    has_key: bool = False
    has_neighbour: bool = False
    pages: int = 0


# ── answers ──


def length_delimited(number: int, value: bytes) -> bytes:
    """Return a field of a protobuf message; a repeated one may be multiplied."""
    length, head = len(value), bytearray([number << 3 | 2])
    while length >= 128:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes(head) + bytes([length]) + value


def unknown(size: int) -> bytes:
    """Return an Any of a type that nobody knows, and so many bytes."""
    return any_pb2.Any(type_url="type.googleapis.com/hostile.v1.Unknown", value=bytes(size)).SerializeToString()


def says(rest: Callable[[], bytes] = lambda: b"", *, done: bool = True, name: str | None = None) -> Script:
    """Answer with the operation that is asked for, and the rest of its fields, made once."""
    rest = cache(rest)

    async def script(call: Call) -> None:
        start = pb.Operation(name=call.request.name if name is None else name, done=done)
        await call.answer(start.SerializeToString(), rest())

    return script


still_running = says(done=False)


def lists(page: Callable[[Call, int], list[bytes]], otherwise: Script = still_running) -> Script:
    """Answer ListOperations with the parts of a page, by the number of the call."""

    async def script(call: Call) -> None:
        if call.method == "ListOperations":
            await call.answer(*page(call, call.connection.server.calls["ListOperations"]))
        else:
            await otherwise(call)

    return script


def page_of(*operations: pb.Operation, token: str = "") -> list[bytes]:
    """Return a page."""
    return [pb.ListOperationsResponse(operations=operations, next_page_token=token).SerializeToString()]


def finished(call: Call, _: int) -> list[bytes]:
    """Return a page of 50,000 finished operations, as a sane service would."""
    start = int(call.request.page_token or 0)
    stop = min(start + (call.request.page_size or 100), 50_000)
    return [b"".join(_fifty_thousand()[start:stop]), *page_of(token=str(stop) if stop < 50_000 else "")]


@cache
def _fifty_thousand() -> list[bytes]:
    metadata = struct_pb2.Struct()
    metadata.update({"create_time": "2026-01-01T00:00:00Z", "end_time": "2026-01-01T00:10:00Z", "target": "a table"})
    result = []
    for number in range(50_000):
        operation = pb.Operation(name=f"hostile/finished/operations/{number}", done=True)
        operation.metadata.Pack(metadata)
        operation.response.Pack(struct_pb2.Struct())
        result.append(pb.ListOperationsResponse(operations=[operation]).SerializeToString())
    return result


def fails(status: int, text: str = "", *details: Message | any_pb2.Any) -> Script:
    """Answer each call with an error, but not the neighbour's."""
    packed = [each if isinstance(each, any_pb2.Any) else _packed(each) for each in details]
    payload = status_pb2.Status(code=status, message=text, details=packed).SerializeToString()
    trailer = {"grpc-status-details-bin": base64.b64encode(payload).decode()} if details else {}

    async def script(call: Call) -> None:
        if "neighbour" in call.request.name:
            age = asyncio.get_running_loop().time() - call.connection.server.first_call
            await says(done=age >= NEIGHBOUR_ENDS)(call)
        else:
            await call.fail(status, text, **trailer)

    return script


def _packed(message: Message) -> any_pb2.Any:
    result = any_pb2.Any()
    result.Pack(message)
    return result


async def echoes(call: Call) -> None:
    """Answer with an error that says what was sent."""
    said = "".join(letter if letter.isprintable() else " " for letter in call.headers.decode("latin-1"))
    await call.fail(14, quote(f"these are wrong: {said}"), **{"x-echo": quote(said)})


async def says_nothing(call: Call) -> None:
    """End a call that has succeeded, without a message."""
    await call.head()
    await call.end(0)


@cache
def _bomb() -> bytes:
    return gzip.compress(length_delimited(2, unknown(256 * 1024 * 1024)))


async def is_a_bomb(call: Call) -> None:
    """Answer with what is small and becomes large."""
    await call.answer(_bomb(), flag=1, grpc_encoding="gzip")


async def is_random(call: Call) -> None:
    """Answer with no message at all."""
    number = call.connection.server.calls.total()
    await call.answer(random.Random(number).randbytes(300))


async def never_answers(call: Call) -> None:
    """Take a call, and say nothing."""
    await asyncio.Event().wait()


async def drips(call: Call) -> None:
    """Answer with a byte a second."""
    await call.head()
    await call.send(b"\0\0\0\1\0")
    while True:
        await call.send(b"\n")
        await asyncio.sleep(1.0)


def flips(call: Call, _: int) -> list[bytes]:
    """List as done what a GetOperation gives as not done."""
    operation = pb.Operation(name=f"{call.request.name}/operations/0", done=True)
    operation.response.Pack(struct_pb2.Struct())
    return page_of(operation)


# ── connections ──


def goes_away(*, closes: bool) -> Callable[[Connection], Coroutine[Any, Any, None]]:
    """Answer each connection with SETTINGS and GOAWAY."""

    async def connected(connection: Connection) -> None:
        await connection.reader.readexactly(PREFACE)
        connection.writer.write(frame(SETTINGS, 0, 0, b"") + frame(GOAWAY, 0, 0, bytes(8)))
        await connection.writer.drain()
        if not closes:
            await connection.reader.read(-1)

    return connected


async def says_what_it_likes(connection: Connection) -> None:
    """Answer a connection with random bytes."""
    connection.writer.write(os.urandom(64 * 1024))
    await connection.writer.drain()
    await connection.reader.read(-1)


async def accepts_only(connection: Connection) -> None:
    """Accept a connection, and say nothing."""
    await connection.reader.read(-1)


TOKEN_ANSWERS = {
    "html": ("HTML", "<html>Please log in</html>"),
    "null": ("null", "null"),
    "cut": ("JSON that is cut", '{"access_token": "t'),
    "unsendable": ("a token that cannot be sent", '{"access_token": "t\\nwo", "expires_in": 3600}'),
    "expires": ("an odd expires_in", '{"access_token": "token", "expires_in": {}}'),
}


def gives_token(body: str) -> Callable[[Connection], Coroutine[Any, Any, None]]:
    """Be a token endpoint, with this answer."""
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"

    async def connected(connection: Connection) -> None:
        await connection.reader.readuntil(b"\r\n\r\n")
        connection.writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        await connection.writer.drain()

    return connected


# ── the table ──

LIST = {"poll_method": "list"}
GIVES_UP = {"max_consecutive_errors": 1}
HOURS = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=7200))
# Of proto2, with required fields, and so no message without them.
WITHOUT_REQUIRED = any_pb2.Any(type_url="type.googleapis.com/google.protobuf.UninterpretedOption.NamePart")


def rows() -> Iterator[Row]:
    """The rows, in the order of the docs."""
    yield Row(key="alone", does="none: the bystander alone", waits=0, comes="nothing")
    yield Row(key="goaway", does="answers each connection with GOAWAY, and closes it", connected=goes_away(closes=True))
    yield Row(
        key="goaway-open", does="answers each connection with GOAWAY, and keeps it", connected=goes_away(closes=False)
    )
    yield Row(
        key="million",
        does="an error of a million empty details (2 MB)",
        script=says(lambda: length_delimited(4, b"\x08\x09" + b"\x1a\x00" * MB)),
        comes=TO_WORKER,
    )
    yield Row(
        key="details",
        does="an error of 400,000 empty details (0.8 MB)",
        script=says(lambda: length_delimited(4, b"\x08\x09" + b"\x1a\x00" * 400_000)),
        comes=FAILED,
    )
    yield Row(
        key="long-error",
        does="an error with a text of 64 KiB",
        script=says(lambda: pb.Operation(error=status_pb2.Status(code=9, message="e" * 65_536)).SerializeToString()),
        comes=FAILED,
        waits=10,
    )
    yield Row(
        key="trailers",
        does="a call's error of 256 KiB",
        script=lambda call: call.fail(3, "e" * 256 * 1024),
        comes="RpcError",
        waits=10,
    )
    for key, waits in (("response", 1), ("responses", 100)):
        script = says(lambda: length_delimited(5, unknown(60 * MB)))
        yield Row(key=key, does="a response of 60 MB", script=script, comes=TO_WORKER, waits=waits)
    yield Row(
        key="four",
        does="a response of 4 MB",
        script=says(lambda: length_delimited(5, unknown(4 * MB))),
        comes=TO_WORKER,
        waits=200,
    )
    yield Row(
        key="metadata",
        does="metadata of 30 MB, not done",
        script=says(lambda: length_delimited(2, unknown(30 * MB)), done=False),
        comes=TO_WORKER,
        waits=30,
    )
    yield Row(
        key="kept",
        does="metadata of 1 MB, not done",
        script=says(lambda: length_delimited(2, unknown(MB)), done=False),
        waits=200,
    )
    yield Row(key="long-name", does="a name of 30 MB", script=says(name="n" * 30 * MB), comes=TO_WORKER)
    yield Row(
        key="name",
        does="a name of 5,000 characters",
        script=says(name=f"n/{'n' * 5000}"),
        comes="RpcError",
        wait=GIVES_UP,
    )
    yield Row(
        key="other",
        does="another operation's success",
        script=says(name="some/other"),
        comes="RpcError",
        wait=GIVES_UP,
    )
    yield Row(key="flips", does="lists as done what Get gives as not done", script=lists(flips), wait=LIST, pages=100)
    yield Row(
        key="endless",
        does="pages without end",
        script=lists(lambda call, number: page_of(pb.Operation(name=f"o/{number}"), token=str(number))),
        wait=LIST,
        pages=1000,
    )
    yield Row(
        key="watched",
        does="pages without end, for a watcher",
        script=lists(lambda call, number: page_of(pb.Operation(name=f"o/{number}"), token=str(number))),
        is_watcher=True,
        pages=1000,
    )
    yield Row(
        key="again",
        does="the same page token again and again",
        script=lists(lambda call, number: page_of(pb.Operation(name=f"o/{number}"), token="again")),
        wait=LIST,
        pages=100,
    )
    yield Row(
        key="token",
        does="page tokens of 1 MB, without end",
        script=lists(lambda call, number: page_of(pb.Operation(name="o"), token=f"{number:01000000}")),
        wait=LIST,
        pages=1000,
    )
    yield Row(
        key="tiny",
        does="a page of 800,000 operations (4 MB)",
        script=lists(lambda call, number: [b"\x0a\x03\x0a\x01o" * 800_000]),
        wait=LIST,
        pages=100,
    )
    yield Row(
        key="finished",
        does="50,000 finished operations, for a watcher (nothing hostile)",
        script=lists(finished),
        is_watcher=True,
        pages=2000,
    )
    yield Row(
        key="retry",
        does="RetryInfo of two hours, for one project",
        script=fails(14, "later", HOURS),
        has_token=True,
        has_neighbour=True,
    )
    yield Row(
        key="exhausted",
        does="RESOURCE_EXHAUSTED with RetryInfo, for one project",
        script=fails(8, "too many", HOURS),
        waits=50,
        has_token=True,
        has_neighbour=True,
    )
    yield Row(key="echo", does="echoes the headers in its errors", script=echoes, waits=10, has_token=True)
    yield Row(
        key="nothing",
        does="status OK without a message",
        script=says_nothing,
        comes="RpcError",
        waits=10,
        wait=GIVES_UP,
    )
    yield Row(
        key="required",
        does="details without required fields",
        script=fails(14, "", WITHOUT_REQUIRED),
        comes="RpcError",
        waits=10,
        wait=GIVES_UP,
    )
    yield Row(key="bomb", does="256 MiB in 256 KiB of gzip", script=is_a_bomb, comes=TO_WORKER, waits=10)
    yield Row(
        key="random",
        does="random bytes for an answer",
        script=is_random,
        comes="RpcError",
        waits=10,
        wait=GIVES_UP,
    )
    yield Row(key="noise", does="random bytes instead of HTTP/2", connected=says_what_it_likes)
    yield Row(key="accepts", does="accepts connections, and never says a word", connected=accepts_only, waits=10)
    yield Row(key="silent", does="takes calls, and never answers", script=never_answers, waits=100)
    yield Row(key="drips", does="answers with a byte a second", script=drips, waits=100)
    for key, (what, body) in TOKEN_ANSWERS.items():
        yield Row(
            key=f"token-{key}",
            does=f"a token endpoint that answers with {what}",
            connected=gives_token(body),
            waits=20,
            has_key=True,
        )


ROWS = {row.key: row for row in rows()}
