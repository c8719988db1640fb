"""An HTTP/2 server on loopback that answers calls with the frames that it is given. Standard library only.

    with RawServer([headers({":status": "403"}, ends=True)], message(b"…")) as server:
        ...  # at server.endpoint; the second answer is that of all other calls

For what no gRPC server does, and a proxy or a load balancer on the way may. Frames: RFC 9113; headers: RFC 7541, each a
literal without indexing.
"""

from __future__ import annotations

import socketserver
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["RawServer", "data", "headers", "message", "reset"]

PREFACE = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK = END_STREAM = 1
END_HEADERS = 4


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def headers(fields: Mapping[str, str], *, ends: bool = False) -> Callable[[int], bytes]:
    """Return a HEADERS frame, for a stream that is known when it is sent."""
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    return lambda stream: _frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), stream, block)


def data(payload: bytes, *, ends: bool = False) -> Callable[[int], bytes]:
    """Return a DATA frame."""
    return lambda stream: _frame(DATA, END_STREAM if ends else 0, stream, payload)


def reset(code: int) -> Callable[[int], bytes]:
    """Return a RST_STREAM frame."""
    return lambda stream: _frame(RST_STREAM, 0, stream, struct.pack("!I", code))


def message(payload: bytes) -> list[Callable[[int], bytes]]:
    """Return the frames of a gRPC service's answer."""
    start = headers({":status": "200", "content-type": "application/grpc"})
    body = data(b"\0" + struct.pack("!I", len(payload)) + payload)
    return [start, body, headers({"grpc-status": "0"}, ends=True)]


class _Handler(socketserver.StreamRequestHandler):
    server: RawServer

    def handle(self) -> None:
        with suppress(ConnectionError):
            self.rfile.read(PREFACE)
            self.wfile.write(_frame(SETTINGS, 0, 0, b""))
            if self.server.turns_away:
                self.wfile.write(_frame(GOAWAY, 0, 0, struct.pack("!II", 0, 0)))
            if self.server.turns_away == "close":
                return
            while len(head := self.rfile.read(9)) == 9:
                high, low, kind, flags, stream = struct.unpack("!HBBBI", head)
                payload = self.rfile.read(high << 8 | low)
                if kind in (SETTINGS, PING) and not flags & ACK:
                    self.wfile.write(_frame(kind, ACK, 0, payload if kind == PING else b""))
                elif kind == HEADERS:
                    self.wfile.write(b"".join(each(stream) for each in self.server.next_answer()))


class RawServer(socketserver.ThreadingTCPServer):
    """Listens on a free port of loopback while its `with` block lasts.

    Args:
        answers: The frames for each call; the last are for all others.
        turns_away: Answer each connection with GOAWAY, and then "close" it or "keep" it.

    Attributes:
        calls: How many calls have come in.
    """

    daemon_threads = True

    def __init__(self, *answers: Sequence[Callable[[int], bytes]], turns_away: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.turns_away = turns_away
        self.answers = answers
        self.calls = 0
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.server_address[1]}"

    def next_answer(self) -> Sequence[Callable[[int], bytes]]:
        """Count a call, and return the frames for it."""
        self.calls += 1
        return self.answers[min(self.calls, len(self.answers)) - 1] if self.answers else ()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
