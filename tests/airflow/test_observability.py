"""What can be seen of a wait from outside: its link, Airflow's metrics, and a span."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_lro import links
from airflow_provider_lro._messages import events
from airflow_provider_lro._runner import telemetry
from airflow_provider_lro._runner.telemetry import endpoint_tag
from airflow_provider_lro.exceptions import OperationFailed, OperationsFailed
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.links import XCOM_KEY, OperationLink
from airflow_provider_lro.operators import _base
from airflow_provider_lro.sensors import LongRunningOperationSensor
from airflow_provider_lro.version_compat import AIRFLOW_VERSION, AirflowTaskTerminated
from tests.airflow.telemetry import LOOPBACK, StatsD
from tests.airflow.worker import FakeTaskInstance, run
from tests.versions import DAG, AirflowTaskTimeout, DagSerialization

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.simulator_fixture import Simulator

ROOT = Path(__file__).parent.parent.parent
TEMPLATE = "https://console.example.com/{simulation}/{id}"
METRICS = {
    "lro.polls": ("counter", ("endpoint", "method")),
    "lro.poll_errors": ("counter", ("endpoint", "code")),
    "lro.slow_downs": ("counter", ("endpoint",)),
    "lro.polls_delayed": ("counter", ("endpoint", "reason")),
    "lro.poll_delay_ms": ("counter", ("endpoint", "reason")),
    "lro.waits_ended": ("counter", ("endpoint", "outcome")),
    "lro.wait_duration": ("timer", ("endpoint", "outcome")),
    "lro.detection_lag": ("timer", ("endpoint",)),
    "lro.waits": ("gauge", ("endpoint", "hostname")),
    "lro.poll_spacing": ("gauge", ("endpoint", "hostname")),
    "lro.channels": ("gauge", ("hostname",)),
}
"""Each with its type and its tags."""


def sensor(operation_name: str, **kwargs: Any) -> LongRunningOperationSensor:
    defaults = {"task_id": "wait", "poke_interval": 0.1, "timeout": 20, "deferrable": True}
    return LongRunningOperationSensor(operation_name=operation_name, **{**defaults, **kwargs})


def connection(simulator: Simulator, **extra: Any) -> str:
    stored = {"conn_type": "lro", "host": LOOPBACK, "port": simulator.port, "extra": {"insecure": True, **extra}}
    return json.dumps(stored)


class Log:
    """Stands for Airflow's logger, which is another one in each version."""

    def __init__(self, warnings: list[str]) -> None:
        self._warnings = warnings

    def warning(self, text: str, *values: object) -> None:
        self._warnings.append(text % values)


@pytest.fixture
def template(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", connection(simulator, link_template=TEMPLATE))


# ── the link ──


@pytest.mark.usefixtures("template")
@pytest.mark.parametrize("deferrable", [True, False])
def test_link_is_written_before_the_wait(name: Callable[..., str], deferrable: bool) -> None:
    """Deferred or not, it is there while the task waits, and it leads to this operation."""
    operation = name(outcome="never")
    ti = FakeTaskInstance()
    task = sensor(operation, deferrable=deferrable, mode="reschedule")
    with pytest.raises(BaseException) as left:  # noqa: PT011  (a deferral, or a reschedule)
        task.execute({"ti": ti})
    assert type(left.value).__name__ == ("TaskDeferred" if deferrable else "AirflowRescheduleException")
    assert ti.xcoms == {XCOM_KEY: f"https://console.example.com/outcome%3Dnever/{operation.rpartition('/')[2]}"}


def test_without_a_template_nothing_is_written(name: Callable[..., str]) -> None:
    """Nor does Airflow 3 write an empty one at the end of the task: the copy that runs names no link."""
    ran = run(sensor(name(duration=0.2)))
    assert XCOM_KEY not in ran.ti.xcoms
    task = sensor("operations/x")
    assert [type(link) for link in task.operator_extra_links] == [OperationLink]
    assert task.prepare_for_execution().operator_extra_links == ()


def test_link_of_a_mapped_task_is_left_to_it_too() -> None:
    """Airflow makes no copy of what it unmaps to run it."""
    with DAG("mapped", schedule=None):
        mapped = LongRunningOperationSensor.partial(task_id="mapped").expand(operation_name=["operations/x"])
    assert [type(link) for link in mapped.operator_extra_links] == [OperationLink]
    unmapped = mapped.unmap({"operation_name": "operations/x"})
    assert unmapped.operator_extra_links == ()


def test_links_of_a_subclass_stay(name: Callable[..., str]) -> None:
    """Only ours is taken out of the copy that runs."""

    class Other(OperationLink):
        name = "Other"
        xcom_key = "other"

    class Own(LongRunningOperationSensor):
        operator_extra_links = (OperationLink(), Other())

    (left,) = Own(task_id="own", operation_name="operations/x").prepare_for_execution().operator_extra_links
    assert isinstance(left, Other)


class Refusing(FakeTaskInstance):
    """Writes no link: there is no way to the database, or Airflow interrupts it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def xcom_push(self, key: str, value: Any) -> None:
        if key == XCOM_KEY:
            raise self.error


@pytest.mark.usefixtures("template")
def test_link_that_cannot_be_written_costs_no_wait(name: Callable[..., str]) -> None:
    """A task that failed for it would start a second operation."""
    task = sensor(name(duration=0.2), deferrable=False)
    assert run(task, ti=Refusing(OSError("no way to the database"))).result


@pytest.mark.usefixtures("template")
@pytest.mark.skipif(AIRFLOW_VERSION.startswith("2."), reason="Airflow 2 reads a link by way of the backend")
def test_link_goes_past_a_backend_of_xcoms(name: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow 3 shows what the database has: a backend that keeps values elsewhere would be shown its address."""
    written: dict[str, Any] = {}

    class Base:
        @classmethod
        def set(cls, key: str, value: Any, **of: Any) -> None:
            assert of == {"dag_id": "dag", "task_id": "task", "run_id": "run", "map_index": -1}
            written[key] = value

    class Backend(Base):
        @classmethod
        def set(cls, key: str, value: Any, **of: Any) -> None:
            written[key] = "s3://elsewhere"

    monkeypatch.setattr(links, "BaseXCom", Base)
    monkeypatch.setattr(links, "XCom", Backend)
    operation = name(duration=0)
    ran = run(sensor(operation, deferrable=False))
    assert XCOM_KEY not in ran.ti.xcoms
    assert written == {XCOM_KEY: f"https://console.example.com/duration%3D0/{operation.rpartition('/')[2]}"}


@pytest.mark.usefixtures("template")
def test_kill_and_timeout_are_heeded_while_the_link_is_written(
    name: Callable[..., str], simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal of Airflow's then does what it does later: the operation is polled for the last time, or cancelled."""
    assert run(sensor(name(duration=0), deferrable=False), ti=Refusing(AirflowTaskTimeout("over"))).result
    operation = name(outcome="never")
    monkeypatch.setattr(_base, "state_of", lambda _: "failed")
    killed = Refusing(AirflowTaskTerminated("killed"))
    with pytest.raises(AirflowTaskTerminated):
        run(sensor(operation, deferrable=False, cancel_on_kill=True), ti=killed)
    assert len(simulator.calls("CancelOperation", operation)) == 1


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("javascript:alert('{id}')", "is refused: expected an http or https URL"),
        ("https://c.example.com/{zone}", "asks for {zone}"),
    ],
)
def test_template_that_is_wrong_costs_the_link_alone(
    name: Callable[..., str], simulator: Simulator, monkeypatch: pytest.MonkeyPatch, template: str, said: str
) -> None:
    """The wait goes on, and the log says what is wrong."""
    monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", connection(simulator, link_template=template))
    warnings: list[str] = []
    monkeypatch.setattr(LongRunningOperationHook, "log", Log(warnings))
    ran = run(sensor(name(duration=0.2)))
    assert ran.result
    assert XCOM_KEY not in ran.ti.xcoms
    (warning,) = warnings
    assert "no link to the operation" in warning
    assert said in warning


def test_test_connection_knows_templates(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody looks at the form, what is wrong with it is said at once."""
    monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", connection(simulator, link_template=TEMPLATE))
    with LongRunningOperationHook() as hook:
        assert hook.test_connection()[0] is True
    monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", connection(simulator, link_template="javascript:x"))
    with LongRunningOperationHook() as hook:
        good, text = hook.test_connection()
    assert good is False
    assert "link_template 'javascript:x' is refused" in text


def test_link_survives_airflows_serialization() -> None:
    """The webserver finds the link of a task, mapped or not, in what the database has of its DAG."""
    with DAG("linked", schedule=None) as dag:
        sensor("operations/x")
        LongRunningOperationSensor.partial(task_id="mapped").expand(operation_name=["operations/x"])
    read = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    for task in ("wait", "mapped"):
        (link,) = read.get_task(task).operator_extra_links
        assert (link.name, link.xcom_key) == ("Operation", XCOM_KEY)


# ── metrics ──

PROGRAM = """
import asyncio, json, sys, warnings
warnings.simplefilter("ignore")
from airflow_provider_lro._runner import telemetry
from airflow_provider_lro.exceptions import LroError
from airflow_provider_lro.sensors import LongRunningOperationSensor
from tests.airflow.worker import inflate, run

telemetry.PERIOD = 0.2
ran, together = json.loads(sys.argv[1])
common = {"task_id": "wait", "timeout": 30, "poke_interval": 0.1}

for arguments in ran:
    try:
        run(LongRunningOperationSensor(**common, **arguments))
    except LroError:
        pass

async def all_of_them():
    await asyncio.gather(*(anext(inflate(["airflow_provider_lro.triggers.LongRunningOperationTrigger", row]).run())
                           for row in together))

if together:
    asyncio.run(all_of_them())
"""


@pytest.fixture
def statsd() -> Iterator[StatsD]:
    with StatsD() as server:
        yield server


def in_a_process_of_its_own(statsd: StatsD, ran: list[dict[str, Any]], together: list[dict[str, Any]]) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    argv = [sys.executable, "-c", PROGRAM, json.dumps([ran, together])]
    subprocess.run(argv, check=True, env={**os.environ, **statsd.env, "PYTHONPATH": path}, timeout=50)


def test_metrics_reach_a_real_statsd(
    name: Callable[..., str], simulator: Simulator, statsd: StatsD, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every poll, error and delay of workers and triggers is counted once; tags hold no operation's name.

    The numbers of an endpoint are those of all its connections, of which each has a limit of its own.
    """
    monkeypatch.setenv("AIRFLOW_CONN_LIMITED", connection(simulator, max_polls_per_second=20))
    deferred, polled = name(duration=0.3), name(duration=0.3)
    ran = [
        {"operation_name": deferred, "deferrable": True, "initial_delay": 0.1},
        {"operation_name": polled, "deferrable": False, "initial_delay": 0.1},
        {"operation_name": name(outcome="fail", code=9, duration=0), "deferrable": False},
    ]
    quota = [name(duration=0.4) for _ in range(4)]
    faulty = name(duration=0.3, fault="UNAVAILABLE*2,RESOURCE_EXHAUSTED", retry_info=0.4)
    long_polled = name(duration=0.4)
    listed = name(duration=0.5)
    short = {"interval": 0.1, "initial_delay": 0.1}
    together = [
        *({"operation_name": each, "lro_conn_id": "limited", **short} for each in quota),
        {"operation_name": faulty, **short},
        {"operation_name": long_polled, "poll_method": "wait", **short},
        {"operation_name": listed, "poll_method": "list", **short},
    ]
    before = Counter(call["method"] for call in simulator.calls())
    in_a_process_of_its_own(statsd, ran, together)
    calls = Counter(call["method"] for call in simulator.calls())
    calls.subtract(before)

    where = endpoint_tag(simulator.endpoint)
    for method, called in (("get", "GetOperation"), ("wait", "WaitOperation"), ("list", "ListOperations")):
        assert calls[called] >= 1
        assert statsd.total("lro.polls", endpoint=where, method=method) == calls[called]
    assert statsd.total("lro.poll_errors", endpoint=where, code="UNAVAILABLE") == 2
    assert statsd.total("lro.poll_errors", endpoint=where, code="RESOURCE_EXHAUSTED") == 1
    assert statsd.total("lro.poll_errors") == 3
    assert statsd.total("lro.slow_downs", endpoint=where) >= 1
    assert statsd.total("lro.polls_delayed", reason="quota") >= 5
    assert statsd.total("lro.polls_delayed", reason="retry_info") >= 1
    assert statsd.total("lro.poll_delay_ms", reason="retry_info") >= 200
    assert statsd.total("lro.waits_ended", outcome="succeeded") == 2 + 7
    assert statsd.total("lro.waits_ended", outcome="failed") == 1

    received = statsd.received()
    signs = {"counter": "c", "timer": "ms", "gauge": "g"}
    for metric, tags, _, kind in received:
        assert (kind, set(tags)) == (signs[METRICS[metric][0]], set(METRICS[metric][1])), metric
    assert {metric for metric, *_ in received} == set(METRICS), "each of them was seen"
    lags = [value for metric, _, value, _ in received if metric == "lro.detection_lag"]
    assert len(lags) == 10
    durations = [
        value for metric, tags, value, _ in received if metric == "lro.wait_duration" and "succ" in tags["outcome"]
    ]
    assert all(250 <= value < 20_000 for value in durations), durations
    gauges = {metric: value for metric, _, value, _ in received if metric in ("lro.waits", "lro.channels")}
    assert gauges == {"lro.waits": 0, "lro.channels": 0}, "the last that is sent, when no wait is left"
    assert max(value for metric, _, value, _ in received if metric == "lro.waits") >= 7
    assert "operations/" not in statsd.text
    assert "simulations" not in statsd.text


@pytest.mark.parametrize("room", [10**6, 10], ids=["all in the event", "read again"])
@pytest.mark.parametrize("deferrable", [True, False])
def test_many_are_counted_as_well(
    name: Callable[..., str], simulator: Simulator, monkeypatch: pytest.MonkeyPatch, deferrable: bool, room: int
) -> None:
    """Each wait that has ended once, by whatever process, and every poll; the gauges are a triggerer's."""
    sent: list[Any] = []
    monkeypatch.setattr(telemetry, "metrics_are_on", lambda: True)
    monkeypatch.setattr(telemetry, "_send", sent.extend)
    monkeypatch.setattr(events, "MAX_EVENT", room)
    names = [name(duration=0), name(duration=0.3), name(duration=0.3, outcome="cancelled")]
    with pytest.raises(OperationsFailed):
        run(sensor(names, initial_delay=0.1, deferrable=deferrable))
    sums = Counter[str]()
    for _, metric, value, tags in sent:
        assert tags.get("endpoint", "") in ("", endpoint_tag(simulator.endpoint))
        sums[f"{metric} {tags['outcome']}" if "outcome" in tags else metric] += value
    # The first polls end with the first answer that says "not done"; the other's poll may be on its way then.
    given_up = sums["lro.polls"] - sum(len(simulator.calls("GetOperation", each)) for each in names)
    assert given_up in (0, 1)
    assert (sums["lro.waits_ended succeeded"], sums["lro.waits_ended cancelled"]) == (2, 1)
    assert any(metric == "lro.waits" for _, metric, *_ in sent) == deferrable


@pytest.mark.usefixtures("template")
def test_result_that_is_read_again_is_no_second_wait(
    name: Callable[..., str], simulator: Simulator, spans: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too large for the event, it is polled on the worker: that poll is counted, and nothing else."""
    sent: list[Any] = []
    links: list[str] = []

    class Listening(FakeTaskInstance):
        def xcom_push(self, key: str, value: Any) -> None:
            links.append(key)

    monkeypatch.setattr(telemetry, "metrics_are_on", lambda: True)
    monkeypatch.setattr(telemetry, "_send", sent.extend)
    monkeypatch.setattr(events, "MAX_EVENT", 10)
    operation = name(duration=0.2, response={"rows": 3})
    ran = run(sensor(operation, initial_delay=0.1), ti=Listening())
    assert ran.result == {"rows": 3.0}
    assert (ran.events[0]["outcomes"], ran.events[0]["known"]) == ("S", {})
    sums = Counter[str]()
    for _, metric, value, _ in sent:
        sums[metric] += value
    assert sums["lro.polls"] == len(simulator.calls("GetOperation", operation))
    assert sums["lro.waits_ended"] == 1
    assert [span.attributes["lro.outcome"] for span in spans.get_finished_spans()] == ["unfinished", "succeeded"]
    assert links.count(XCOM_KEY) == 1


def test_where_no_metrics_are_sent_there_is_no_timer(name: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody reads costs nothing."""
    telemetry.metrics_are_on.cache_clear()
    monkeypatch.setattr(telemetry, "_send", lambda values: pytest.fail("nobody asked for it"))
    assert run(sensor(name(duration=0.2))).result
    assert telemetry.metrics_are_on() is False


def test_backend_that_breaks_breaks_no_wait(name: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Airflow's metrics raise, the wait has its outcome."""

    class Broken:
        def __getattr__(self, method: str) -> Any:
            raise OSError(method)

    monkeypatch.setattr(telemetry, "metrics_are_on", lambda: True)
    monkeypatch.setattr(telemetry, "stats", Broken)
    assert run(sensor(name(duration=0.2))).result


# ── spans ──


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Any:
    """OpenTelemetry's own SDK, which keeps spans in memory, in the place of the process-wide one."""
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


def test_each_part_of_a_wait_is_a_span(name: Callable[..., str], simulator: Simulator, spans: Any) -> None:
    """The worker's part ends unfinished, the triggerer's with the outcome; each has its polls, all are those made."""
    operation = name(duration=0.3)
    run(sensor(operation, initial_delay=0.1))
    worker, triggerer = spans.get_finished_spans()
    where = endpoint_tag(simulator.endpoint)
    common = {"lro.operation": operation, "lro.endpoint": where}
    assert worker.name == triggerer.name == "lro.wait"
    assert dict(worker.attributes) == {**common, "lro.polls": 1, "lro.outcome": "unfinished"}
    polls = len(simulator.calls("GetOperation", operation))
    ended = {"lro.polls": polls - 1, "lro.outcome": "succeeded", "lro.code": "OK"}
    assert dict(triggerer.attributes) == {**common, **ended}
    assert triggerer.status.status_code.name == "UNSET"


@pytest.mark.parametrize(
    ("script", "outcome", "code"),
    [
        ({"outcome": "fail", "code": 9, "details": "ErrorInfo", "duration": 0}, "failed", "FAILED_PRECONDITION"),
        ({"outcome": "cancelled", "duration": 0}, "cancelled", "CANCELLED"),
        ({"outcome": "never"}, "timed_out", "DEADLINE_EXCEEDED"),
        ({"fault": "NOT_FOUND*forever"}, "not_found", "NOT_FOUND"),
        ({"fault": "PERMISSION_DENIED"}, "call_failed", "PERMISSION_DENIED"),
    ],
)
def test_span_tells_how_a_wait_ended(
    name: Callable[..., str], spans: Any, script: dict[str, Any], outcome: str, code: str
) -> None:
    """An error has its code, and no text of the service's."""
    with pytest.raises(Exception):  # noqa: B017, PT011  (each its own: other tests hold us to them)
        run(sensor(name(**script), deferrable=False, timeout=0.3, not_found_grace=0))
    (span,) = spans.get_finished_spans()
    assert (span.attributes["lro.outcome"], span.attributes["lro.code"]) == (outcome, code)
    assert span.status.status_code.name == "ERROR"
    assert "RATE_LIMIT_EXCEEDED" not in span.to_json()


def test_span_has_its_tasks_as_parent_or_link(name: Callable[..., str], spans: Any) -> None:
    """Inside a task's span it is a child; where none is current it links to the one that Airflow names."""
    from opentelemetry import trace

    with trace.get_tracer("airflow").start_as_current_span("task") as task:
        run(sensor(name(duration=0), deferrable=False))
    child = spans.get_finished_spans()[0]
    assert child.parent.span_id == task.get_span_context().span_id
    spans.clear()
    ti = FakeTaskInstance()
    ti.context_carrier = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}  # type: ignore[attr-defined]
    with pytest.raises(OperationFailed):
        run(sensor(name(outcome="fail", duration=0), deferrable=False), ti=ti)
    (alone,) = spans.get_finished_spans()
    assert alone.parent is None
    assert [link.context.trace_id for link in alone.links] == [int("ab" * 16, 16)]


def test_without_opentelemetry_there_is_no_span(name: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow 2.11 does not always bring it."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert run(sensor(name(duration=0.2))).result


# ── the page ──


def test_page_lists_exactly_the_metrics_there_are() -> None:
    """Names, types and tags in docs/observability.md are those that are sent, and each has a query for Grafana."""
    page = (ROOT / "docs" / "observability.md").read_text()
    rows = re.findall(r"^\| `(lro\.[a-z_]+)` \| (\w+) \| ([^|]*) \|", page, re.MULTILINE)
    listed = {name: (kind, tuple(re.findall(r"`(\w+)`", tags))) for name, kind, tags in rows}
    assert listed == METRICS
    for metric in METRICS:
        assert f"airflow_{metric.replace('.', '_')}" in page, metric
