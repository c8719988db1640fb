"""A TCP proxy on loopback that does to a gRPC connection what networks and servers do; its fault can be switched.

It reads HTTP/2 frames and forwards them one by one, so that a fault hits exactly the calls it is meant for: a call is
a HEADERS frame that the client sends (RFC 9113; one request of a unary call is one such frame). Standard library only.

    with FaultProxy(simulator.port) as proxy:
        proxy.switch(CallFault.RESET, times=10)  # the next ten calls; all others pass
        ...
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

__all__ = ["CallFault", "FaultProxy"]

HOST = "127.0.0.1"
PREFACE = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
FRAME_HEADER = 9
DATA, HEADERS, SETTINGS, GOAWAY = 0, 1, 4, 7
END_STREAM = 1
ENHANCE_YOUR_CALM = 11
PIECES = 20
"""The pieces in which a dripping frame comes; a frame of an answer has some 10 to 200 bytes."""


class CallFault(Enum):
    """The thing that is done to a call that is hit."""

    NONE = "it passes"
    RESET = "the connection is reset (RST) when half of the answer is through"
    BLACK_HOLE = "nothing comes through in either direction until a call that is not hit, as if TCP sent it again then"
    DRIP = "the answer comes a few bytes at a time, until a call that is not hit"
    HALF_OPEN = "its connection stays open, and nothing comes through it ever again; the next call is the first lost"
    GOAWAY_AFTER = "GOAWAY comes behind the answer, and the connection takes no more calls"
    GOAWAY_UNSEEN = "GOAWAY says that the server has not seen the call"
    GOAWAY_SEEN = "GOAWAY says that the server has seen the call, and the connection is closed without the answer"


@dataclass(frozen=True, slots=True)
class _Frame:
    kind: int
    flags: int
    stream: int
    raw: bytes

    @property
    def ends_stream(self) -> bool:
        return self.kind in (DATA, HEADERS) and bool(self.flags & END_STREAM)


class _Loop:
    """One event loop in one thread, for all proxies of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._users = 0
        self._thread: threading.Thread | None = None

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxies", daemon=True)
                self._thread.start()

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users or self._loop is None or self._thread is None:
                return
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = self._thread = None

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)


_loop = _Loop()


class FaultProxy:
    """Listens on a free port of loopback while its `with` block lasts.

    Args:
        upstream: The server's port.
        slowness: Seconds that each frame of a dripping answer takes; an answer has three.
        on_call: Called with the number of each call, from 1, before anything else is done about it.

    Attributes:
        calls: How many calls have come in.
        connections: How many connections.
    """

    def __init__(self, upstream: int, *, slowness: float = 0.0, on_call: Callable[[int], None] | None = None) -> None:
        self.upstream = upstream
        self.slowness = slowness
        self.on_call = on_call or (lambda _number: None)
        self.calls = 0
        self.connections = 0
        # Keeps the port ours while nothing listens there: connections are refused then.
        self._guard = socket.socket()
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.turns_away = False
        self._fault = CallFault.NONE
        self._left = 0.0
        self.flowing = asyncio.Event()
        """Set while no black hole is."""
        self.flowing.set()

    def __enter__(self) -> Self:
        self._guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._guard.bind((HOST, 0))
        _loop.enter()
        self.accept()
        return self

    def __exit__(self, *exc_info: object) -> None:
        _loop.run(self._close())
        _loop.leave()
        self._guard.close()

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"{HOST}:{self._guard.getsockname()[1]}"

    def switch(self, fault: CallFault, *, times: float = math.inf) -> None:
        """Do this to the next calls, so many of them."""

        async def switch() -> None:
            self._fault, self._left = fault, times
            self.flowing.set()

        _loop.run(switch())

    def black_out(self) -> None:
        """Let nothing through from now on, not even a new connection's first bytes; `lift` ends it."""

        async def black_out() -> None:
            self.flowing.clear()

        _loop.run(black_out())

    def lift(self) -> None:
        """End a black-out; what was held back arrives now, as if TCP sent it again."""

        async def lift() -> None:
            self.flowing.set()

        _loop.run(lift())

    def turn_away(self, *, on: bool) -> None:
        """Answer each new connection with SETTINGS and GOAWAY, before any call; or stop that, and close them."""

        async def turn_away() -> None:
            self.turns_away = on
            for connection in self._open:
                connection.stopped.set()

        _loop.run(turn_away())

    def refuse(self) -> None:
        """Stop listening, so that connections are refused, and reset those that there are."""

        async def refuse() -> None:
            self._stop_listening()
            for connection in self._open:
                connection.reset()

        _loop.run(refuse())

    def accept(self) -> None:
        """Listen, after `refuse` again."""

        async def accept() -> None:
            port = self._guard.getsockname()[1]
            self._server = await asyncio.start_server(self._serve, HOST, port, reuse_port=True)

        _loop.run(accept())

    def hits(self) -> CallFault:
        """Count a call, and say what is to be done about it."""
        self.calls += 1
        self.on_call(self.calls)
        if self._left < 1:
            return CallFault.NONE
        self._left -= 1
        return self._fault

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = _Connection(self, reader, writer)
        self._open.add(connection)
        try:
            await connection.run()
        finally:
            self._open.discard(connection)
            self._tasks.discard(task)

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _close(self) -> None:
        self._stop_listening()
        for connection in self._open:
            connection.stopped.set()
        await asyncio.gather(*self._tasks)


class _Connection:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = (reader, writer)
        self.stopped = asyncio.Event()
        self._hit: dict[int, CallFault] = {}
        self._lost = False
        self._dripping = False
        self._last_seen = 0
        self._to_server: asyncio.Queue[bytes] = asyncio.Queue()

    async def run(self) -> None:
        """Forward until one side has closed, or a fault has, or the proxy is to end."""
        to_server: asyncio.StreamWriter | None = None
        tasks: list[asyncio.Task[Any]] = []
        if self._proxy.turns_away:
            self._client[1].write(struct.pack("!HBBBI", 0, 0, SETTINGS, 0, 0))
            self._go_away(last=0)
        try:
            if self._proxy.turns_away:
                tasks = [asyncio.ensure_future(each) for each in (self._client[0].read(-1), self.stopped.wait())]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                return
            from_server, to_server = await asyncio.open_connection(HOST, self._proxy.upstream)
            pumps = [self._from_client(), self._forward(to_server), self._from_server(from_server)]
            tasks = [asyncio.ensure_future(each) for each in (*pumps, self.stopped.wait())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            self.reset()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if to_server is not None:
                to_server.transport.abort()
            self._client[1].close()

    def reset(self) -> None:
        """Close with RST: what SO_LINGER 0 makes of a close."""
        transport = self._client[1].transport
        raw = transport.get_extra_info("socket")
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    async def _from_client(self) -> None:
        reader = self._client[0]
        self._to_server.put_nowait(await reader.readexactly(PREFACE))
        while (frame := await _read(reader)) is not None:
            if frame.kind == HEADERS and frame.stream not in self._hit and not self._call(frame):
                return
            if not self._lost:
                self._to_server.put_nowait(frame.raw)

    async def _forward(self, to_server: asyncio.StreamWriter) -> None:
        while True:
            raw = await self._to_server.get()
            await self._proxy.flowing.wait()
            to_server.write(raw)
            await to_server.drain()

    def _call(self, frame: _Frame) -> bool:
        """Take a new call; False ends the connection."""
        if self._lost:
            return True
        fault = self._hit[frame.stream] = self._proxy.hits()
        if fault is CallFault.BLACK_HOLE:
            self._proxy.flowing.clear()
        elif fault is CallFault.NONE:
            self._proxy.flowing.set()
        self._dripping = fault is CallFault.DRIP
        if fault is CallFault.GOAWAY_UNSEEN:
            self._go_away(last=self._last_seen, code=ENHANCE_YOUR_CALM)
            return False
        self._last_seen = frame.stream
        return True

    async def _from_server(self, reader: asyncio.StreamReader) -> None:
        writer = self._client[1]
        while (frame := await _read(reader)) is not None:
            await self._proxy.flowing.wait()
            fault = self._hit.get(frame.stream, CallFault.NONE)
            if self._lost:
                continue
            if fault is CallFault.RESET and (frame.kind == DATA or frame.ends_stream):
                writer.write(frame.raw[: len(frame.raw) // 2])
                await writer.drain()
                self.reset()
                return
            if fault is CallFault.GOAWAY_SEEN:
                self._go_away(last=frame.stream)
                return
            if fault is CallFault.DRIP:
                await self._drip(frame.raw)
            else:
                writer.write(frame.raw)
                await writer.drain()
            if fault is CallFault.GOAWAY_AFTER and frame.ends_stream:
                self._go_away(last=frame.stream)
            self._lost = fault is CallFault.HALF_OPEN and frame.ends_stream

    async def _drip(self, raw: bytes) -> None:
        writer = self._client[1]
        size = max(1, len(raw) // PIECES)
        pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if self._dripping:
                await asyncio.sleep(self._proxy.slowness / len(pieces))

    def _go_away(self, *, last: int, code: int = 0) -> None:
        self._client[1].write(struct.pack("!HBBBI", 0, 8, GOAWAY, 0, 0) + struct.pack("!II", last, code))


async def _read(reader: asyncio.StreamReader) -> _Frame | None:
    """Read a frame; None at the end."""
    try:
        header = await reader.readexactly(FRAME_HEADER)
        high, low, kind, flags, stream = struct.unpack("!HBBBI", header)
        return _Frame(kind, flags, stream & 0x7FFFFFFF, header + await reader.readexactly(high << 8 | low))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
