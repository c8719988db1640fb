"""The sensor: every outcome, the same in all three ways of waiting."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_lro._core.args import WaitArgs
from airflow_provider_lro._core.outcome import TimedOut
from airflow_provider_lro._messages import events
from airflow_provider_lro.exceptions import (
    Code,
    CredentialsError,
    EndpointError,
    LroError,
    MalformedOperation,
    OperationCancelled,
    OperationFailed,
    OperationNotFound,
    OperationTimeout,
    RpcError,
    UnimplementedError,
)
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.operators import (
    CancelOperationOperator,
    DeleteOperationOperator,
    GetOperationOperator,
    _base,
)
from airflow_provider_lro.sensors import LongRunningOperationSensor
from tests.airflow.worker import FakeTaskInstance, run
from tests.versions import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulator_fixture import Simulator

MODES = {
    "deferrable": {"deferrable": True},
    "poke": {"mode": "poke"},
    "reschedule": {"mode": "reschedule"},
}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODES[request.param]


def sensor(operation_name: Any, **kwargs: Any) -> LongRunningOperationSensor:
    defaults = {"task_id": "wait", "poke_interval": 0.1, "timeout": 20, "not_found_grace": 0}
    return LongRunningOperationSensor(operation_name=operation_name, **{**defaults, **kwargs})


def test_success_gives_the_response_as_json(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """The XCom of a sensor is the operation's response."""
    assert run(sensor(name(duration=0.5, response={"rows": 3}), **mode)).result == {"rows": 3.0}


def test_done_at_once_neither_defers_nor_reschedules(
    mode: dict[str, Any], name: Callable[..., str], simulator: Simulator
) -> None:
    """An operation that the first poll finds done costs that one poll."""
    operation = name(duration=0)
    done = run(sensor(operation, **mode))
    assert (done.deferrals, done.reschedules) == (0, 0)
    assert len(simulator.calls("GetOperation", operation)) == 1


def test_deferred_wait_polls_once_on_the_worker(name: Callable[..., str], simulator: Simulator) -> None:
    """The worker polls once, then the triggerer alone does."""
    operation = name(duration=0.6)
    waited = run(sensor(operation, deferrable=True))
    assert waited.deferrals == 1
    assert waited.rows[0][1]["operation_name"] == operation
    assert len(simulator.calls("GetOperation", operation)) >= 3


# script, further arguments of the sensor → the error, its code, and whether Airflow may retry it
FAILURES: dict[str, tuple[dict[str, Any], dict[str, Any], type[LroError], int | None, bool]] = {
    "failed": ({"outcome": "fail", "code": 9, "message": "disk full"}, {}, OperationFailed, 9, False),
    "failed without message": ({"outcome": "fail", "code": 9}, {}, OperationFailed, 9, False),
    "failed with unknown code": ({"outcome": "fail", "code": 77}, {}, OperationFailed, 77, False),
    "cancelled": ({"outcome": "cancelled"}, {}, OperationCancelled, 1, False),
    "not found": ({"not_found": 99}, {}, OperationNotFound, 5, False),
    "no result": ({"outcome": "neither"}, {"require_result": True}, MalformedOperation, None, False),
    "timeout": ({"outcome": "never"}, {"timeout": 0.5}, OperationTimeout, 4, False),
    "timeout and cancel": (
        {"outcome": "never"},
        {"timeout": 0.5, "on_timeout": "cancel"},
        OperationTimeout,
        4,
        False,
    ),
    "permission denied": ({"fault": "7*forever", "fault_after": 1}, {}, RpcError, 7, True),
    "unauthenticated": ({"fault": "16*forever", "fault_after": 1}, {}, CredentialsError, 16, True),
    "unimplemented": ({"unimplemented": "get"}, {}, UnimplementedError, 12, True),
    "too many errors": ({"fault": "14*forever", "fault_after": 1}, {"max_consecutive_errors": 0}, RpcError, 14, True),
}


@pytest.fixture(params=FAILURES)
def failing(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any], type[LroError], int | None, bool]:
    return FAILURES[request.param]


def failure(mode: dict[str, Any], operation: str, **kwargs: Any) -> LroError:
    with pytest.raises(LroError) as raised:
        run(sensor(operation, **{**kwargs, **mode}))
    return raised.value


def test_every_failure_is_the_same_in_all_modes(
    mode: dict[str, Any], name: Callable[..., str], failing: tuple[Any, ...]
) -> None:
    """Class, code, operation's name and "no retry" do not depend on the way in which a sensor waits."""
    script, kwargs, kind, code, retryable = failing
    operation = name(**{"duration": 0.2, **script})
    error = failure(mode, operation, **kwargs)
    assert isinstance(error, kind)
    assert error.code == code
    assert operation in str(error)
    assert isinstance(error, AirflowException)
    assert isinstance(error, AirflowFailException | AirflowSensorTimeout) is not retryable
    if kind is OperationTimeout:
        assert isinstance(error, AirflowSensorTimeout)


DENIED = {"fault": "7*forever", "fault_after": 1}


# The rule itself is in tests/core/test_skip.py, error by error.
@pytest.mark.parametrize(
    ("script", "how", "end"),
    [
        ({"outcome": "fail"}, {"soft_fail": True}, (AirflowSkipException, "skipped: the operation failed")),
        (DENIED, {"soft_fail": True}, (RpcError, "PERMISSION_DENIED")),
        (DENIED, {"never_fail": True}, (AirflowSkipException, "skipped: .*PERMISSION_DENIED")),
        ({"outcome": "cancelled"}, {"on_cancelled": "skip"}, (AirflowSkipException, "was cancelled")),
    ],
)
def test_skips_by_the_rule(
    mode: dict[str, Any],
    name: Callable[..., str],
    script: dict[str, Any],
    how: dict[str, Any],
    end: tuple[type[Exception], str],
) -> None:
    """Each of the three options reaches the rule in each mode, and a skip says what went wrong."""
    with pytest.raises(end[0], match=end[1]):
        run(sensor(name(**{"duration": 0.2, **script}), **how, **mode))


def test_cancel_at_the_timeout_is_never_on_cancelled(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """An operation that the sensor itself cancelled is a timeout; the text says that the cancel took effect."""
    error = failure(mode, name(outcome="never"), timeout=0.4, on_timeout="cancel", on_cancelled="skip")
    assert isinstance(error, OperationTimeout)
    assert "is cancelled" in str(error)


def test_success_in_spite_of_a_cancel_is_success(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """An operation that completes although it was asked to cancel has succeeded."""
    operation = name(duration=1, cancel="ignore")
    assert run(sensor(operation, timeout=0.4, on_timeout="cancel", **mode)).result


def test_timeout_without_cancel_leaves_the_operation_alone(
    mode: dict[str, Any], name: Callable[..., str], simulator: Simulator
) -> None:
    """on_timeout="fail" says that the operation may still succeed, and what it was last seen doing."""
    operation = name(outcome="never")
    error = failure(mode, operation, timeout=0.4)
    assert "may still succeed" in str(error)
    assert "%, simulate" in str(error)
    assert simulator.calls("CancelOperation", operation) == []


def test_details_reach_the_error(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """google.rpc error details arrive decoded, and the operation as JSON, whichever way the error came."""
    error = failure(mode, name(duration=0.2, outcome="fail", code=8, details="ErrorInfo,RetryInfo"))
    assert [detail["@type"].rsplit(".")[-1] for detail in error.details] == ["ErrorInfo", "RetryInfo"]
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert error.operation is not None
    assert error.operation["error"]["code"] == 8


def test_neither_is_an_empty_result(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """Done with neither response nor error is a legal success."""
    assert run(sensor(name(duration=0.2, outcome="neither"), **mode)).result == {}


def test_faults_are_survived(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """A failed poll is not a failed operation."""
    assert run(sensor(name(duration=0.5, fault="14*1,13*1,4*1"), **mode)).result


def test_late_creation_is_survived(mode: dict[str, Any], name: Callable[..., str]) -> None:
    """NOT_FOUND within the grace means: not yet."""
    assert run(sensor(name(duration=0.2, not_found=2), not_found_grace=60, **mode)).result


def test_response_too_large_for_an_event_is_read_again(name: Callable[..., str]) -> None:
    """A response of 200 kB stays out of the event and still reaches the XCom whole."""
    waited = run(sensor(name(duration=0.2, response_bytes=200_000), deferrable=True))
    assert len(json.dumps(waited.events[0])) < 64 * 1024
    assert len(str(waited.result)) >= 200_000


def test_result_that_cannot_be_read_again_is_not_a_success(name: Callable[..., str]) -> None:
    """A response that was left out of the event and is gone now is an error, not an empty success."""
    operation = name(duration=0.2, response_bytes=200_000)

    def delete() -> None:
        with LongRunningOperationHook() as hook:
            hook.delete_operation(operation)

    with pytest.raises(RpcError, match="has succeeded, but its result could not be read again") as raised:
        run(sensor(operation, deferrable=True, soft_fail=True), before_resume=delete)
    assert not isinstance(raised.value, OperationNotFound)
    assert isinstance(raised.value, AirflowFailException)  # a retry would find the same


@pytest.mark.parametrize("on_timeout", ["fail", "cancel"])
def test_poll_that_was_rate_limited_until_the_deadline_is_made_on_the_worker(
    name: Callable[..., str], simulator: Simulator, monkeypatch: pytest.MonkeyPatch, on_timeout: str
) -> None:
    """A quota that holds back all polls of a connection does not make a timeout of what is done."""
    operation = name(duration=1.0, response={"rows": 3})
    extra = {"insecure": True, "max_polls_per_second": 0.02}
    stored = {"conn_type": "lro", "host": "127.0.0.1", "port": simulator.port, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_LIMITED", json.dumps(stored))
    args = {"timeout": 2, "cancel_grace": 0.3, "rpc_timeout": 0.5, "lro_conn_id": "limited"}
    done = run(sensor(operation, deferrable=True, on_timeout=on_timeout, **args))
    (outcome,) = events.outcomes_from_event(done.events[0], [operation])
    assert isinstance(outcome, TimedOut)
    assert outcome.is_undecided
    assert done.result == {"rows": 3.0}


@pytest.mark.parametrize("script", [{"cancel": "ignore"}, {}], ids=["no effect", "took effect"])
def test_cancel_of_the_trigger_is_not_asked_for_again(
    name: Callable[..., str], simulator: Simulator, script: dict[str, Any]
) -> None:
    """The worker that polls once more says that the trigger has asked, and whether it took effect."""
    operation = name(outcome="never", **script)
    with LongRunningOperationHook() as hook:
        hook.cancel_operation(operation)  # as the trigger has
    error = RpcError("rate limited, not sent")
    error.not_sent = True
    outcome = TimedOut(error=error, cancel="asked")
    event = events.event_from_outcomes([outcome], [operation], started_at=0.0)
    waiting = sensor(operation, deferrable=True, on_timeout="cancel", cancel_grace=30)
    with pytest.raises(OperationTimeout, match="no effect so far" if script else "and is cancelled"):
        waiting.execute_complete({"ti": FakeTaskInstance()}, event)
    assert len(simulator.calls("CancelOperation", operation)) == 1


def test_reschedule_takes_no_cancel_for_its_own(name: Callable[..., str], simulator: Simulator) -> None:
    """A poke that comes after the deadline, as the last one mostly does, has never asked for one before."""
    operation = name(outcome="never")
    with LongRunningOperationHook() as hook:
        hook.cancel_operation(operation)  # a user does, between the last poke and the deadline
    ti = FakeTaskInstance(first_reschedule=datetime.now(tz=UTC) - timedelta(seconds=61))
    with pytest.raises(AirflowSkipException):
        run(sensor(operation, mode="reschedule", timeout=60, on_timeout="cancel", on_cancelled="skip"), ti=ti)
    assert len(simulator.calls("CancelOperation", operation)) == 1


@pytest.mark.parametrize("soft", [False, True])
def test_worker_polls_where_the_triggerer_is_gone(name: Callable[..., str], soft: bool) -> None:
    """Airflow's own timeout makes the sensor poll once itself: done is done, not done is a timeout."""
    done = sensor(name(duration=0), soft_fail=soft)
    for said in ("Trigger timeout", "Trigger/execution timeout"):
        assert done.resume_execution("__fail__", {"error": said}, {"ti": FakeTaskInstance()}) is not None
    late = sensor(name(outcome="never"), soft_fail=soft)
    with pytest.raises(AirflowSkipException if soft else OperationTimeout):
        late.resume_execution("__fail__", {"error": "Trigger timeout"}, {"ti": FakeTaskInstance()})


def test_airflow_timeout_comes_after_every_event_of_ours(name: Callable[..., str]) -> None:
    """Airflow's timeout is later than deadline, last call, grace and its last call together."""
    plain = run(sensor(name(duration=0.2), deferrable=True, timeout=100, rpc_timeout=7))
    cancelling = run(
        sensor(name(duration=0.2), deferrable=True, timeout=100, rpc_timeout=7, on_timeout="cancel", cancel_grace=40)
    )
    assert plain.timeouts[0] > timedelta(seconds=107)
    assert cancelling.timeouts[0] > timedelta(seconds=100 + 7 + 40 + 7 + 7)


def test_crashed_trigger_is_an_error_and_never_fail_skips_it() -> None:
    """A trigger that raised is Airflow's TaskDeferralError, which may be retried."""
    with pytest.raises(AirflowException, match="boom"):
        sensor("operations/x").resume_execution("__fail__", {"error": "boom"}, {})
    with pytest.raises(AirflowSkipException):
        sensor("operations/x", never_fail=True).resume_execution("__fail__", {"error": "boom"}, {})


@pytest.mark.parametrize("endpoint", ["no-such-host.invalid", "no-such-host.invalid:50051"])
def test_mistyped_host_fails_at_once(mode: dict[str, Any], endpoint: str) -> None:
    """A host that does not exist fails on the worker, naming the value."""
    error = failure(mode, "operations/x", endpoint=endpoint)
    assert isinstance(error, EndpointError)
    assert "no-such-host.invalid" in str(error)
    assert "does not resolve" in str(error)


def test_refused_port_defers() -> None:
    """A server that is not up yet is waited for; the timeout says what the last poll met."""
    waiting = sensor("operations/x", endpoint="127.0.0.1:1", deferrable=True, timeout=0.5)
    with pytest.raises(TaskDeferred) as deferred:
        waiting.execute({})
    assert deferred.value.trigger.serialize()[1]["reached"] is False
    with pytest.raises(OperationTimeout, match="refused"):
        run(waiting)


def test_trigger_knows_that_the_worker_has_reached_the_service(name: Callable[..., str]) -> None:
    """Then no outage is long enough to give the service up."""
    for operations in (name(), [name(), name()]):
        with pytest.raises(TaskDeferred) as deferred:
            sensor(operations, deferrable=True).execute({})
        assert "reached" not in deferred.value.trigger.serialize()[1]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("", "non-empty"),
        ("   ", "non-empty"),
        (None, "neither of operation_name and parent, perhaps after rendering: give operation_name"),
        (7.5, "non-empty"),
        ({}, "without a 'name'"),
        ({"name": ""}, "non-empty"),
        ("{'name': 'operations/x'}", "render_template_as_native_obj"),
        ("[1]", "render_template_as_native_obj"),
    ],
)
def test_bad_name_is_refused_before_anything_is_sent(value: Any, complaint: str, simulator: Simulator) -> None:
    """A value that is not a name, once it is rendered, is refused with what would do."""
    before = len(simulator.calls())
    waiting = sensor("{{ name }}")
    waiting.operation_name = value
    with pytest.raises(ValueError, match=complaint):
        run(waiting)
    assert len(simulator.calls()) == before


@pytest.mark.parametrize(
    ("literal", "complaint"),
    [
        ("", "operation_name='', but it must be a non-empty text"),
        ("  ", "non-empty"),
        (17, "non-empty"),
        (b"operations/x", "non-empty"),
        ({"operations/x"}, "non-empty"),
        ({"id": 1}, "without a 'name'"),
        (["operations/x", ""], "non-empty"),
        ("None", "is empty"),
    ],
    ids=repr,
)
def test_literal_that_cannot_name_an_operation_is_refused_at_parse_time(literal: Any, complaint: str) -> None:
    """A name that is written out wrong does not wait for a worker to say so."""
    kinds = (CancelOperationOperator, DeleteOperationOperator, GetOperationOperator)
    for make in (sensor, *(partial(kind, task_id="other") for kind in kinds)):
        with pytest.raises(ValueError, match=complaint):
            make(operation_name=literal)


@pytest.mark.parametrize(
    "rendered_later",
    [
        "{{ ti.xcom_pull('start') }}",
        "[[ in another environment ]]",
        {"name": "{{ x }}"},
        ["operations/x", "{{ x }}"],
        [],
    ],
    ids=repr,
)
def test_templates_are_left_to_the_worker(rendered_later: Any) -> None:
    """A template may become anything, so nothing is refused before it is rendered."""
    for make in (sensor, partial(CancelOperationOperator, task_id="cancel")):
        assert make(operation_name=rendered_later).operation_name == rendered_later


def test_mapping_with_a_name_is_taken(name: Callable[..., str]) -> None:
    """A mapping with a name, as other operators leave it in XCom, is taken as it is."""
    assert run(sensor({"name": name(duration=0), "done": False})).result


@pytest.mark.parametrize(
    ("kwargs", "complaint"),
    [
        ({"exponential_backoff": True}, "exponential_backoff.*initial_delay"),
        ({"max_wait": 10}, "max_wait.*poke_interval"),
        ({"silent_fail": True}, "silent_fail.*max_consecutive_errors"),
        ({"interval": 10}, "does not take interval: give poke_interval"),
        ({"wait_timeout": 10}, "does not take wait_timeout: give timeout"),
        ({"gcp_conn_id": "g"}, "does not take gcp_conn_id: give lro_conn_id"),
        ({"max_polls_per_second": 5}, "does not take max_polls_per_second: give it in the connection's extra"),
        ({"endpoint": "https://redis.googleapis.com/v1"}, "endpoint='https.*leave out the scheme"),
        ({"response_type": dict}, "response_type=<class 'dict'>, but it must be a message class"),
        ({"poke_interval": 0.01}, "interval=0.01, but it must be .* from 0.1 .*poke_interval"),
        ({"jitter": 2}, "jitter"),
        ({"multiplier": 0.5}, "multiplier"),
        ({"initial_delay": 0}, "initial"),
        ({"rpc_timeout": 0}, "rpc_timeout"),
        ({"not_found_grace": -1}, "not_found_grace"),
        ({"cancel_grace": float("nan")}, "cancel_grace"),
        ({"max_consecutive_errors": -1}, "max_consecutive_errors"),
        ({"on_timeout": "ignore"}, "on_timeout='ignore', but it must be one of 'fail', 'cancel'"),
        ({"on_cancelled": "ignore"}, "on_cancelled.*'fail', 'skip'"),
        ({"mode": "reschedule", "max_consecutive_errors": 3}, "reschedule"),
        ({"soft_fail": True, "never_fail": True}, "mutually exclusive"),
    ],
)
def test_bad_argument_is_refused_at_parse_time(kwargs: dict[str, Any], complaint: str) -> None:
    """A DAG with a value that makes no sense does not even import, and says why."""
    with pytest.raises(ValueError, match=complaint):
        sensor("operations/x", **kwargs)


def test_durations_may_be_timedeltas() -> None:
    """Every duration takes seconds or a timedelta."""
    spelled = sensor(
        "operations/x",
        poke_interval=timedelta(minutes=1),
        timeout=timedelta(hours=1),
        initial_delay=timedelta(seconds=2),
        rpc_timeout=timedelta(seconds=5),
        not_found_grace=timedelta(minutes=2),
        cancel_grace=timedelta(seconds=30),
    )
    args = spelled.wait_args("operations/x")
    assert (args.interval, args.initial_delay, args.rpc_timeout, args.not_found_grace, args.cancel_grace) == (
        60.0,
        2.0,
        5.0,
        120.0,
        30.0,
    )
    assert spelled.timeout == 3600.0


def test_first_poke_counts_from_the_first_try(name: Callable[..., str]) -> None:
    """A rescheduled sensor's deadline is counted from its first poke, by Airflow's own rule."""
    ti = FakeTaskInstance(first_reschedule=datetime.now(tz=UTC) - timedelta(seconds=30))
    with pytest.raises(OperationTimeout):
        run(sensor(name(outcome="never"), mode="reschedule", timeout=20), ti=ti)


def test_defaults_are_those_of_the_contract() -> None:
    """The defaults that the documentation promises are the ones that a trigger would get."""
    plain = LongRunningOperationSensor(task_id="wait", operation_name="operations/x").wait_args("operations/x")
    for name in ("interval", "initial_delay", "multiplier", "jitter", "rpc_timeout", "not_found_grace", "on_timeout"):
        assert getattr(plain, name) == getattr(WaitArgs(operation_name="operations/x"), name), name


@pytest.mark.parametrize("outcome", ["ok", "fail"])
def test_result_that_is_out_of_reach_is_not_a_timeout(
    name: Callable[..., str], outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict of the event stands where the result cannot be read again, and nothing is cancelled."""
    monkeypatch.setattr(_base, "READ_AGAIN_TIMEOUT", 0.3)
    monkeypatch.setattr(events, "MAX_EVENT", 10)
    waiting = sensor(name(duration=0.2, outcome=outcome), deferrable=True, on_timeout="cancel", initial_delay=0.1)

    def cut_off() -> None:
        waiting.endpoint = "127.0.0.1:1"

    with pytest.raises(RpcError if outcome == "ok" else OperationFailed) as raised:
        run(waiting, before_resume=cut_off)
    assert isinstance(raised.value, AirflowFailException) is (outcome == "fail")


@pytest.mark.parametrize("empty", ["None", " null ", "{{ x }}"])
def test_template_without_a_value_is_refused(empty: str) -> None:
    """An XCom that is not there is not an operation called 'None'."""
    with pytest.raises(ValueError, match="operation_name is"):
        run(sensor(empty))


def test_name_may_be_surrounded_by_white_space(name: Callable[..., str]) -> None:
    """Templates over several lines leave it behind."""
    assert run(sensor(f"\n  {name(duration=0)}\n")).result


def test_templated_arguments_are_not_read_at_parse_time() -> None:
    """An impersonation chain may come from another task."""
    from tests.versions import DAG

    with DAG("chain", schedule=None):
        up = sensor("operations/x", task_id="up")
        assert sensor("operations/y", task_id="down", impersonation_chain=up.output).impersonation_chain


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"outcomes": "S"},
        {"outcomes": [], "known": {}},
        {"outcomes": "?", "known": {}},
        {"outcomes": "B", "known": {"0": {"error": {"type": "Code", "text": "x"}}}},
        {"outcomes": "S", "known": {"0": {}}},
        {"outcomes": "S", "known": {"0": {"operation": {"name": "o", "done": False}}}},
        {"outcomes": "S", "known": {"0": {"operation": {"name": "o", "done": True, "code": 5}}}},
    ],
)
def test_event_without_a_valid_outcome_is_not_a_success(event: dict[str, Any]) -> None:
    """An event of another version, or one that contradicts itself, is an error that says so."""
    with pytest.raises((ValueError, LroError)):
        sensor("operations/x").execute_complete({"ti": FakeTaskInstance()}, event)
