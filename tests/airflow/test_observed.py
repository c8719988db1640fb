"""In a real Airflow: the link that its API gives, the metrics that its triggerer sends, the spans of its tasks."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from airflow_provider_lro._runner.telemetry import endpoint_tag
from scripts.stack import AirflowError
from tests.airflow.running import connect, tasks, until
from tests.simulator_fixture import running_simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.stack import AirflowStack
    from tests.airflow.telemetry import Collector, StatsD
    from tests.simulator_fixture import Simulator

AIRFLOW = tuple(int(part) for part in importlib.metadata.version("apache-airflow").split(".")[:2])
pytestmark = [
    pytest.mark.airflow,
    pytest.mark.timeout(480),
    pytest.mark.skipif(AIRFLOW < (3, 3), reason="traces in the triggerer, and tasks that it ends"),
]

TEMPLATE = "https://console.example.com/{simulation}/{id}"


@pytest.fixture(scope="module")
def observed(airflow: AirflowStack) -> Iterator[Simulator]:
    """Run a service that only this DAG calls: metrics are told apart by their endpoint."""
    with running_simulator() as running:
        for connection, link in (("linked", {"link_template": TEMPLATE}), ("unlinked", {})):
            connect(airflow, connection, host="127.0.0.1", port=running.port, extra={"insecure": True, **link})
        yield running


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def way_of(span: Any) -> str:
    """The task of a wait's span."""
    return str(attributes(span)["lro.operation"].rpartition("-")[2])


def test_what_a_real_airflow_shows(
    airflow: AirflowStack, observed: Simulator, metrics: StatsD, collector: Collector
) -> None:
    """Links are there while the tasks wait; metrics and spans of all of it arrive."""
    run = airflow.trigger("observed")
    name = f"simulations/duration=40/operations/{run}-"

    def polls(way: str) -> int:
        return len(observed.calls("GetOperation", name + way))

    def link(way: str) -> str | None:
        path = f"dags/observed/dagRuns/{quote(run)}/taskInstances/{way}/links"
        found: dict[str, str | None] = airflow.request("GET", path)["extra_links"]
        assert list(found) == ["Operation"]
        return found["Operation"]

    linked = f"https://console.example.com/duration%3D40/{quote(run, safe='')}-"
    for way, url in (("deferred", f"{linked}deferred"), ("ended", f"{linked}ended"), ("unlinked", None)):
        until(lambda way=way: polls(way) >= 3, "the triggerer to poll")  # type: ignore[misc]
        assert link(way) == url
        assert tasks(airflow, "observed", run)[way, -1].state == "deferred"

    assert airflow.wait_for_run("observed", run, timeout=240) == "success"
    # What the end of the task on a worker does to the link: nothing.
    assert link("deferred") == f"{linked}deferred"
    with pytest.raises(AirflowError):
        airflow.xcom("observed", run, "unlinked", key="_link_OperationLink")

    where = endpoint_tag(observed.endpoint)
    made = sum(polls(way) for way in ("deferred", "ended", "unlinked"))
    until(lambda: metrics.total("lro.polls", endpoint=where) >= made, "the triggerer to report its polls")
    assert metrics.total("lro.polls", endpoint=where) == made
    assert metrics.total("lro.waits_ended", outcome="succeeded", endpoint=where) == 3
    assert metrics.total("lro.waits_ended", endpoint=where) == 3
    gauges = [(name, tags) for name, tags, value, _ in metrics.received() if value >= 1]
    assert [tags for name, tags in gauges if name == "lro.waits" and tags["endpoint"] == where]

    def waits() -> list[Any]:
        found = [span for span in collector.spans() if span.name == "lro.wait"]
        return [span for span in found if attributes(span)["lro.operation"].startswith(name)]

    until(lambda: len(waits()) >= 6, "the spans of three workers and three triggers")
    came = sorted((way_of(span), attributes(span)["lro.outcome"]) for span in waits())
    assert came == [(way, end) for way in ("deferred", "ended", "unlinked") for end in ("succeeded", "unfinished")]
    assert sum(attributes(span)["lro.polls"] for span in waits()) == made
    # A span is sent when it ends, and the one around it ends later.
    until(
        lambda: {span.parent_span_id for span in waits()} <= {span.span_id for span in collector.spans()},
        "the spans around them",
    )
    by_id = {span.span_id: span for span in collector.spans()}
    for span in waits():
        parent = by_id[span.parent_span_id]
        assert parent.trace_id == span.trace_id
        kind = "worker" if attributes(span)["lro.outcome"] == "unfinished" else "trigger"
        way = way_of(span)
        # A worker's span may have finer ones of Airflow's in between.
        # Airflow names a trigger's by its task, or by the whole task instance where the scheduler has made it.
        assert kind == "worker" or (parent.name.startswith("trigger.") and way in parent.name)
