"""In a real Airflow: the link that its API gives, the metrics that its triggerer sends, the spans of its tasks."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from airflow_provider_lro._core.counters import endpoint_tag
from airflow_provider_lro._from_trigger import AIRFLOW
from scripts.stack import AirflowError, AirflowStack
from tests.airflow.running import tasks, until
from tests.airflow.test_from_trigger import worker_logs
from tests.airflow.test_observability import LOOPBACK, TEMPLATE, connection, statsd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.airflow.test_observability import StatsD
    from tests.simulator_fixture import Simulator

__all__ = ["statsd"]
pytestmark = [
    pytest.mark.airflow,
    pytest.mark.timeout(480),
    pytest.mark.skipif(AIRFLOW < (3, 3), reason="traces in the triggerer, and tasks without a worker"),
]


class Collector(ThreadingHTTPServer):
    """An OpenTelemetry collector that keeps the spans it is sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__((LOOPBACK, 0), Handler)

    def spans(self) -> list[Any]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def way_of(span: Any) -> str:
    """The task of a wait's span."""
    return str(attributes(span)["lro.operation"].rpartition("-")[2])


def test_what_a_real_airflow_shows(
    service: Simulator, statsd: StatsD, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Links are there while the tasks wait, also without a worker; metrics and spans of all of it arrive."""
    env = {
        **statsd.env,
        "AIRFLOW_CONN_LRO_DEFAULT": connection(service, link_template=TEMPLATE),
        "AIRFLOW_CONN_UNLINKED": connection(service),
        "AIRFLOW__TRACES__OTEL_ON": "True",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://{LOOPBACK}:{collector.server_port}/v1/traces",
        "OTEL_TRACES_EXPORTER": "otlp_proto_http",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
    }
    folder = Path(__file__).parent / "dags_observed"
    with AirflowStack(tmp_path_factory.mktemp("observed"), folder, env=env) as airflow:
        run = airflow.trigger("observed")

        def polls(way: str) -> int:
            return len(service.calls("GetOperation", f"simulations/duration=40/operations/{run}-{way}"))

        def link(way: str) -> str | None:
            path = f"dags/observed/dagRuns/{quote(run)}/taskInstances/{way}/links"
            found: dict[str, str | None] = airflow.request("GET", path)["extra_links"]
            assert list(found) == ["Operation"]
            return found["Operation"]

        linked = f"https://console.example.com/duration%3D40/{quote(run, safe='')}-"
        for way, url in (("deferred", f"{linked}deferred"), ("workerless", f"{linked}workerless"), ("unlinked", None)):
            until(lambda way=way: polls(way) >= 3, "the triggerer to poll")  # type: ignore[misc]
            assert link(way) == url
            assert tasks(airflow, "observed", run)[way, -1].state == "deferred"

        assert airflow.wait_for_run("observed", run, timeout=240) == "success"
        # What the end of the task on a worker does to the link: nothing.
        assert link("deferred") == f"{linked}deferred"
        with pytest.raises(AirflowError):
            airflow.xcom("observed", run, "unlinked", key="_link_OperationLink")
        assert worker_logs(airflow, "observed", run, "workerless") == []

        where = endpoint_tag(service.endpoint)
        made = sum(polls(way) for way in ("deferred", "workerless", "unlinked"))
        until(lambda: statsd.total("lro.polls", endpoint=where) >= made, "the triggerer to report its polls")
        assert statsd.total("lro.polls", endpoint=where) == made
        assert statsd.total("lro.waits_ended", outcome="succeeded") == 3
        assert max(value for name, _, value, _ in statsd.heard() if name == "lro.waits") >= 1

        def waits() -> list[Any]:
            return [span for span in collector.spans() if span.name == "lro.wait"]

        until(lambda: len(waits()) >= 5, "the spans of two workers and three triggers")
    by_id = {span.span_id: span for span in collector.spans()}
    came = sorted((way_of(span), attributes(span)["lro.outcome"]) for span in waits())
    both = [(way, outcome) for way in ("deferred", "unlinked") for outcome in ("succeeded", "unfinished")]
    assert came == [*both, ("workerless", "succeeded")]
    assert sum(attributes(span)["lro.polls"] for span in waits()) == made
    for span in waits():
        parent = by_id[span.parent_span_id]
        assert parent.trace_id == span.trace_id
        kind = "worker" if attributes(span)["lro.outcome"] == "unfinished" else "trigger"
        way = way_of(span)
        # A worker's span may have finer ones of Airflow's in between.
        # Airflow names a trigger's by its task, or by the whole task instance where the scheduler has made it.
        assert kind == "worker" or (parent.name.startswith("trigger.") and way in parent.name)
