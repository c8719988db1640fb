"""An HTTP/2 server on loopback that does what no sane one does, and counts what its clients let it do.

    async with Server(says(b"…")) as server:
        ...  # at server.port

A script is a coroutine function that is given each call, or with `Server(connected=…)` each connection as it comes. It
is awaited beside all others, and ended when its client resets the call or goes away. All is written by hand, so that a
script may send whatever it likes, and because answers of 60 MB to a hundred clients must not be copied.
Frames: RFC 9113; headers: RFC 7541, each a literal without indexing. Clients are told to keep no table of headers, so
theirs are literals, too, which gRPC does not compress.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from google.longrunning import operations_proto_pb2 as pb

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Coroutine

PREFACE = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
ACK = END_STREAM = 1
END_HEADERS = 4
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 4, 5
FRAME = 16 * 1024
"""Bytes of a frame that every client takes."""
REQUESTS = {"GetOperation": pb.GetOperationRequest, "ListOperations": pb.ListOperationsRequest}

Script: TypeAlias = "Callable[[Call], Awaitable[None]]"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def _text(value: bytes) -> bytes:
    """Return a literal of HPACK: its length in seven bits, or more of them, and its bytes."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    length, rest = bytearray([127]), len(value) - 127
    while rest >= 128:
        length.append(rest & 127 | 128)
        rest >>= 7
    return bytes(length) + bytes([rest]) + value


class Connection:
    """A client's connection, and the calls on it."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.windows: Counter[int] = Counter({0: 65_535})
        """How much each stream, and the connection as 0, may still be sent."""
        self.widened = asyncio.Condition()
        self.settings = {INITIAL_WINDOW_SIZE: 65_535, MAX_FRAME_SIZE: FRAME}
        self._calls: dict[int, Call] = {}
        self._answers: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Serve it until the client goes away."""
        await self.reader.readexactly(PREFACE)
        self.writer.write(frame(SETTINGS, 0, 0, struct.pack("!HI", HEADER_TABLE_SIZE, 0)))
        try:
            while True:
                high, low, kind, flags, stream = struct.unpack("!HBBBI", await self.reader.readexactly(9))
                await self._take(kind, flags, stream, await self.reader.readexactly(high << 8 | low))
        finally:
            for answer in self._answers.values():
                answer.cancel()

    async def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            await self._set(payload)
        elif kind == PING and not flags & ACK:
            self.writer.write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            await self._widen(stream, struct.unpack("!I", payload)[0])
        elif kind == HEADERS:
            self.windows[stream] = self.settings[INITIAL_WINDOW_SIZE]
            self._calls[stream] = Call(self, stream, payload)
        elif kind == DATA and stream in self._calls:
            self._ask(self._calls[stream], payload, ends=bool(flags & END_STREAM))
        elif kind == RST_STREAM and stream in self._answers:
            self._answers[stream].cancel()

    async def _set(self, payload: bytes) -> None:
        for key, value in struct.iter_unpack("!HI", payload):
            if key == INITIAL_WINDOW_SIZE:
                for stream in self._calls:
                    self.windows[stream] += value - self.settings[key]
            self.settings[key] = value
        self.writer.write(frame(SETTINGS, ACK, 0, b""))
        await self._widen()

    def _ask(self, call: Call, payload: bytes, *, ends: bool) -> None:
        call.body += payload
        if ends:
            self._answers[call.stream] = asyncio.create_task(self._answer(call))
        for stream in (0, call.stream) if payload else ():  # a request may be larger than its window
            self.writer.write(frame(WINDOW_UPDATE, 0, stream, struct.pack("!I", len(payload))))

    async def _widen(self, stream: int = 0, by: int = 0) -> None:
        async with self.widened:
            self.windows[stream] += by
            self.widened.notify_all()

    async def _answer(self, call: Call) -> None:
        server = self.server
        server.first_call = server.first_call or asyncio.get_running_loop().time()
        server.calls[call.method] += 1
        server.in_flight += 1
        server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            with suppress(ConnectionError):
                await server.script(call)
        finally:
            server.in_flight -= 1
            del self._calls[call.stream], self._answers[call.stream], self.windows[call.stream]


class Call:
    """A call, and all that may be said to it.

    Attributes:
        headers: Its headers, as they came: literals, so a token can be found in them.
    """

    def __init__(self, connection: Connection, stream: int, headers: bytes) -> None:
        self.connection = connection
        self.stream = stream
        self.headers = headers
        self.body = bytearray()

    @cached_property
    def method(self) -> str:
        """Its method: no call but those of `REQUESTS` is expected."""
        return next((each for each in REQUESTS if each.encode() in self.headers), "other")

    @cached_property
    def request(self) -> Any:
        """Its request."""
        return REQUESTS[self.method].FromString(bytes(self.body[5:]))

    async def head(self, **fields: str) -> None:
        """Send the headers of an answer."""
        await self._headers({":status": "200", "content-type": "application/grpc", **fields})

    async def send(self, *parts: bytes) -> None:
        """Send bytes, as fast as the client lets us."""
        connection, stream = self.connection, self.stream
        for part in parts:
            view = memoryview(part)
            while view:
                async with connection.widened:
                    await connection.widened.wait_for(lambda: min(self._windows()) > 0)
                    size = min(len(view), connection.settings[MAX_FRAME_SIZE], *self._windows())
                    connection.windows[0] -= size
                    connection.windows[stream] -= size
                connection.writer.write(struct.pack("!I", size)[1:] + struct.pack("!BBI", DATA, 0, stream))
                connection.writer.write(view[:size])
                connection.server.sent += size
                view = view[size:]
                await connection.writer.drain()

    def _windows(self) -> tuple[int, int]:
        return self.connection.windows[0], self.connection.windows[self.stream]

    async def end(self, status: int = 0, **fields: str) -> None:
        """Send the trailers, and end the call."""
        await self._headers({"grpc-status": str(status), **fields}, ends=True)

    async def answer(self, *parts: bytes, flag: int = 0, **fields: str) -> None:
        """Answer with a message, whole; `flag` 1 says that it is compressed."""
        await self.head(**fields)
        await self.send(struct.pack("!BI", flag, sum(map(len, parts))), *parts)
        await self.end()

    async def fail(self, status: int, text: str = "", **fields: str) -> None:
        """Answer with an error."""
        await self._headers(
            {
                ":status": "200",
                "content-type": "application/grpc",
                "grpc-status": str(status),
                "grpc-message": text,
                **fields,
            },
            ends=True,
        )

    async def _headers(self, fields: dict[str, str], *, ends: bool = False) -> None:
        block = b"".join(
            b"\x00" + _text(name.replace("_", "-").encode()) + _text(value.encode()) for name, value in fields.items()
        )
        blocks = [block[at : at + FRAME] for at in range(0, len(block), FRAME)]
        frames = []
        for number, each in enumerate(blocks):
            flags = END_HEADERS if number == len(blocks) - 1 else 0
            kind = CONTINUATION if number else HEADERS
            frames.append(frame(kind, flags | (END_STREAM if ends and not number else 0), self.stream, each))
        self.connection.server.sent += len(block)
        self.connection.writer.write(b"".join(frames))  # in one piece: no other frame may come between them
        await self.connection.writer.drain()


async def serve_http2(connection: Connection) -> None:
    """Serve a connection as HTTP/2, each call by the server's script."""
    await connection.run()


class Server:
    """Listens on a free port of loopback while its `async with` block lasts.

    Args:
        script: Answers a call.
        connected: Serves a connection, where that is not to be HTTP/2 as usual.
        tls: Serves TLS.

    Attributes:
        port: Where it listens.
        connections: How many there have been.
        calls: How many calls have come in, by method.
        in_flight: How many calls are on their way now; the most so far is `most_in_flight`.
        sent: Bytes of answers that clients have taken, or that are on their way to them.
        first_call: When the first call came, by the clock of the event loop.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        connected: Callable[[Connection], Coroutine[Any, Any, None]] = serve_http2,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.script: Script = script or (lambda call: call.fail(12))
        self.port = 0
        self.connections = 0
        self.calls: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = 0
        self.sent = 0
        self.first_call = 0.0
        self._connected = connected
        self._tls = tls

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._connected(Connection(self, reader, writer))
        with suppress(Exception):  # whatever the client has left of it
            writer.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
