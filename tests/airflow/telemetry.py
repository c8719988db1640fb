"""What receives Airflow's metrics and spans."""

from __future__ import annotations

import re
import select
import socket
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = "127.0.0.1"


class StatsD:
    """A StatsD server that keeps what it is sent.

    Reads all the time: what does not fit into the socket's buffer would be lost.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self._socket.bind((LOOPBACK, 0))
        self._socket.settimeout(0)
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read)
        self._closing = threading.Event()
        self.env = {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": LOOPBACK,
            "AIRFLOW__METRICS__STATSD_PORT": str(self._socket.getsockname()[1]),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
        }
        self.text = ""

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        self._reader.join()
        self._socket.close()

    def _read(self) -> None:
        while not self._closing.is_set():
            select.select([self._socket], [], [], 0.2)
            self._drain()

    def _drain(self) -> None:
        with self._lock, suppress(BlockingIOError):
            while True:
                self.text += self._socket.recv(65536).decode() + "\n"

    def received(self) -> list[tuple[str, dict[str, str], float, str]]:
        """What has come so far of ours, as ``(name, tags, value, type)``."""
        self._drain()
        found = []
        for line in self.text.splitlines():
            if not line.startswith("airflow.lro."):
                continue
            parts = re.fullmatch(r"airflow\.(lro\.[a-z_]+)((?:,[a-z]+=[A-Za-z0-9_.-]+)*):([0-9.]+)\|(c|g|ms)", line)
            assert parts, line
            tags = dict(tag.split("=") for tag in parts[2].split(",")[1:])
            found.append((parts[1], tags, float(parts[3]), parts[4]))
        return found

    def total(self, name: str, **tags: str) -> float:
        """The sum of a metric's values with these tags."""
        return sum(value for said, has, value, _ in self.received() if said == name and tags.items() <= has.items())


class Collector(ThreadingHTTPServer):
    """An OpenTelemetry collector that keeps the spans it is sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__((LOOPBACK, 0), _Handler)
        self.env = {
            "AIRFLOW__TRACES__OTEL_ON": "True",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://{LOOPBACK}:{self.server_port}/v1/traces",
            "OTEL_TRACES_EXPORTER": "otlp_proto_http",
            "OTEL_BSP_SCHEDULE_DELAY": "500",
        }

    def spans(self) -> list[Any]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        requests = [ExportTraceServiceRequest.FromString(body) for body in list(self.bodies)]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector."""
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
