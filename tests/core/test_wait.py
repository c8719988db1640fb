"""The policy of a wait, in virtual time (semantics, sections 2 to 4)."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_lro._core.outcome import CallFailed, Cancelled, Failed, NotFound, Succeeded, TimedOut
from airflow_provider_lro._core.schedule import Schedule, Window
from airflow_provider_lro._core.state import OperationState
from airflow_provider_lro._core.wait import Answer, Cancel, Get, Pause, Start, wait
from airflow_provider_lro.exceptions import (
    Code,
    CredentialsError,
    EndpointError,
    LroError,
    MalformedOperation,
    OperationNotFound,
    RpcError,
)
from tests.core.virtual import (
    CLOCK_ERROR,
    EPOCH,
    Choice,
    Run,
    Seeded,
    Service,
    choices,
    earliest,
    in_turn,
    latest,
    no_connection,
    no_key,
    no_such_host,
    not_found,
    over_and_over,
    properties,
    rpc_error,
    run,
    run_through,
    unavailable,
    until,
    wait_args,
)

if TYPE_CHECKING:
    from airflow_provider_lro._core.args import WaitArgs

MINUTE, HOUR, DAY = 60.0, 3600.0, 24 * 3600.0

GOES_ON = {
    Code.CANCELLED,
    Code.UNKNOWN,
    Code.DEADLINE_EXCEEDED,
    Code.RESOURCE_EXHAUSTED,
    Code.ABORTED,
    Code.INTERNAL,
    Code.UNAVAILABLE,
}
AT_ONCE = {
    Code.UNIMPLEMENTED,
    Code.PERMISSION_DENIED,
    Code.UNAUTHENTICATED,
    Code.INVALID_ARGUMENT,
    Code.OUT_OF_RANGE,
    Code.FAILED_PRECONDITION,
    # No row has these: nothing says that time heals them.
    Code.OK,
    Code.ALREADY_EXISTS,
    Code.DATA_LOSS,
}
LATE = {Code.NOT_FOUND}

transient_errors = st.builds(
    rpc_error, st.sampled_from(sorted(GOES_ON)), retry_after=st.none() | st.floats(0.0, 1e4) | st.just(0.1)
)
latencies = st.lists(st.just(0.0) | st.floats(0.0, 40.0), min_size=1, max_size=5)
# Full jitter may choose pauses of no length for ever, and a clock that stands still ends nothing.
policies = st.fixed_dictionaries(
    {
        "interval": st.floats(1.0, 120.0),
        "initial_delay": st.floats(1.0, 30.0),
        "multiplier": st.floats(1.0, 5.0),
        "jitter": st.floats(0.0, 0.8),
    }
)


def seconds(moment: float | None) -> float:
    """Return what the clock of the tests shows at a moment."""
    assert moment is not None
    return moment - EPOCH


def last_known(done: Run) -> Any:
    """Return the operation of the last poll that was answered."""
    known = [call.value for call in done.polls if isinstance(call.value, OperationState)]
    return known[-1] if known else None


def has_ended(value: Any, *codes: int | None) -> bool:
    """Return True for the answer of a poll that has found the operation done, with one of these codes."""
    return isinstance(value, OperationState) and value.done and value.code in codes


def codes(codes: set[Code]) -> Any:
    """Parametrise over codes, in their order."""
    return pytest.mark.parametrize("code", [pytest.param(code, id=code.name) for code in sorted(codes)])


# When it polls.


def test_a_fresh_wait_polls_at_once_and_then_by_the_schedule() -> None:
    """Polls come 0, 1, 3, 7, … seconds after the start, and from a minute on every minute."""
    done = run(wait_args(), Service(done_at=200.0))
    assert done.polled_at == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]
    assert isinstance(done.outcome, Succeeded)


def test_an_operation_that_is_done_costs_one_poll() -> None:
    """An operation that is done at the start is known without a pause."""
    done = run(wait_args(timeout=HOUR), Service(done_at=0.0))
    assert (done.polled_at, done.pauses, done.cancels) == ([0], [], [])
    assert isinstance(done.outcome, Succeeded)


def test_the_arguments_make_the_schedule() -> None:
    """Interval, initial delay, multiplier and jitter of the arguments are the schedule's."""
    args = wait_args(interval=30, initial_delay=5, multiplier=3, jitter=0.5)
    assert args.schedule() == Schedule(interval=30, initial=5, multiplier=3, jitter=0.5)
    done = run(args, Service(done_at=100.0), choose=earliest)
    assert [paused.window for paused in done.pauses[:4]] == [
        Window(shortest=2.5, longest=5),
        Window(shortest=7.5, longest=15),
        Window(shortest=15, longest=30),
        Window(shortest=15, longest=30),
    ]
    assert done.polled_at[:5] == [0, 2.5, 10, 25, 40]


@pytest.mark.parametrize("start", [Start.FRESH, Start.POLL, Start.POKE])
def test_pauses_of_a_wait_that_polls_first_go_by_the_time_since_it_started(start: Start) -> None:
    """A thousand seconds after the start, the first poll is immediate and the backoff is over."""
    done = run(wait_args(), Service(done_at=1090.0), start=start, at=1000.0, choose=earliest)
    assert done.polled_at == [1000, 1054, 1108]
    assert done.pauses[0].window == Window(shortest=54.0, longest=60.0)


def test_a_resumed_wait_pauses_first_for_any_part_of_its_bound() -> None:
    """Waits that are rebuilt together spread their first polls over the whole bound."""
    done = run(wait_args(), Service(done_at=1100.0), start=Start.RESUME, at=1000.0)
    assert done.pauses[0].window == Window(shortest=0.0, longest=60.0)
    assert done.pauses[1].window == Window(shortest=54.0, longest=60.0)
    assert done.polled_at == [1060, 1120]


def test_a_resumed_wait_goes_on_where_its_backoff_was() -> None:
    """Ten seconds after the start, the bounds of 1, 2 and 4 s are used up."""
    done = run(wait_args(), Service(done_at=60.0), start=Start.RESUME, at=10.0)
    assert [paused.window.longest for paused in done.pauses] == [8, 16, 32]


def test_without_a_start_time_the_wait_starts_now() -> None:
    """Where no started_at is given, nothing has elapsed and the grace for NOT_FOUND begins."""
    args = wait_args(started_at=None)
    done = run(args, Service(fault=until(1030.0, not_found), done_at=1040.0), start=Start.RESUME, at=1000.0)
    assert [paused.window.longest for paused in done.pauses[:4]] == [1, 2, 4, 8]
    assert isinstance(done.outcome, Succeeded)


def test_a_start_time_in_the_future_counts_as_now() -> None:
    """Clocks of two machines differ; a wait that seems not to have begun yet starts its backoff."""
    done = run(wait_args(), Service(done_at=0.0), start=Start.RESUME, at=-7.0, choose=earliest)
    assert done.pauses[0].window == Window(shortest=0.0, longest=1.0)


@properties
@given(policy=policies, choose=choices(), started=st.floats(0.0, 30 * DAY), start=st.sampled_from(Start))
@pytest.mark.no_cover  # which would take most of its time
def test_the_schedule_alone_never_exceeds_its_bound(
    policy: dict[str, float], choose: Choice, started: float, start: Start
) -> None:
    """No pause without errors is longer than the interval, or follows a longer one."""
    done = run(wait_args(**policy), Service(done_at=started + 900.0), start=start, at=started, choose=choose)
    longest = [paused.window.longest for paused in done.pauses]
    assert longest == sorted(longest)
    assert max(longest) <= policy["interval"]
    first = 1 if start is Start.RESUME else 0
    for paused in done.pauses[first:]:
        assert paused.window.shortest == pytest.approx(paused.window.longest * (1 - policy["jitter"]))
        assert not paused.final


@properties
@given(choose=choices(), multiplier=st.floats(1.0, 8.0), share=st.floats(0.0, 1.0), data=st.data())
def test_each_resume_costs_at_most_one_poll(
    choose: Choice, multiplier: float, share: float, data: st.DataObject
) -> None:
    """With multiplier * (1 - jitter) >= 1, k resumes add at most k polls to the most that an unbroken wait makes."""
    horizon = 600.0
    args = wait_args(
        timeout=horizon,
        multiplier=multiplier,
        jitter=share * (1.0 - 1.0 / multiplier) * (1.0 - 1e-9),
        initial_delay=data.draw(st.floats(1.0, 100.0)),
        interval=data.draw(st.floats(5.0, 200.0)),
    )
    moments = sorted(data.draw(st.lists(st.floats(0.0, horizon), max_size=12)))
    restarts = list(zip(moments[::2], moments[1::2], strict=False))
    service = Service(latency=[data.draw(st.sampled_from([0.0, 0.5, 20.0]))])
    broken = run_through(args, service, restarts, choose=choose)
    unbroken = run(args, dataclasses.replace(service), choose=earliest)
    assert isinstance(broken.outcome, TimedOut)
    assert len(broken.polls) <= len(unbroken.polls) + len(restarts)


def test_resumes_do_not_start_the_backoff_again() -> None:
    """A wait that is resumed every ten minutes for a day makes at most one poll more for each time."""
    restarts = [(600.0 * n, 600.0 * n) for n in range(1, 144)]
    broken = run_through(wait_args(timeout=DAY), Service(), restarts, choose=earliest)
    unbroken = run(wait_args(timeout=DAY), Service(), choose=earliest)
    assert len(unbroken.polls) < len(broken.polls) <= len(unbroken.polls) + 143


# The end in time.


@pytest.mark.parametrize("ending", [Succeeded, Failed, Cancelled])
@pytest.mark.parametrize("start", Start)
def test_the_answer_of_the_service_is_the_outcome(ending: Any, start: Start) -> None:
    """The outcome of a done operation has the very state that was read, and nothing is polled after it."""
    done = run(wait_args(timeout=HOUR, on_timeout="cancel"), Service(done_at=100.0, ending=ending), start=start)
    assert type(done.outcome) is ending
    assert done.outcome.operation is done.polls[-1].value
    assert done.cancels == []


# The deadline.


@properties
@given(
    policy=policies,
    choose=choices(),
    latency=latencies,
    timeout=st.floats(0.0, 300.0),
    faults=st.lists(st.none() | transient_errors, min_size=1, max_size=5),
    start=st.sampled_from(Start),
    at=st.floats(0.0, 400.0),
)
def test_one_poll_is_made_at_the_deadline_and_none_after_it(
    *,
    policy: dict[str, float],
    choose: Choice,
    latency: list[float],
    timeout: float,
    faults: list[LroError | None],
    start: Start,
    at: float,
) -> None:
    """A timeout is declared after exactly one poll at or after the deadline, and takes no more than the calls do."""
    args = wait_args(timeout=timeout, **policy)
    done = run(args, Service(latency=latency, fault=over_and_over(faults)), choose=choose, start=start, at=at)
    assert isinstance(done.outcome, TimedOut)
    assert done.outcome.cancel == "none"
    deadline = seconds(args.deadline)
    assert [call.asked >= deadline for call in done.polls] == [False] * (len(done.polls) - 1) + [True]
    assert all(paused.at + paused.window.longest <= deadline + CLOCK_ERROR for paused in done.pauses)
    late = max(deadline, at)
    assert done.ended <= late + done.latency_after(late) + CLOCK_ERROR
    assert done.ended <= late + 1.0 + args.rpc_timeout + CLOCK_ERROR


def test_an_operation_that_is_done_at_the_deadline_is_not_a_timeout() -> None:
    """The poll at the deadline counts: an end in the last pause is the outcome."""
    done = run(wait_args(timeout=100.0), Service(done_at=99.9))
    assert isinstance(done.outcome, Succeeded)
    assert done.polled_at == [0, 1, 3, 7, 15, 31, 63, 100]


def test_a_poll_that_straddles_the_deadline_is_followed_by_one_more_at_once() -> None:
    """A slow answer says what was before the deadline, so one more poll is made without a pause."""
    done = run(wait_args(timeout=15.5), Service(latency=[0.0] * 4 + [0.75], done_at=15.25))
    assert done.polled_at == [0, 1, 3, 7, 15, 15.75]
    assert isinstance(done.outcome, Succeeded)
    done = run(wait_args(timeout=15.5), Service(latency=[0.0] * 4 + [0.75, 10.0]))
    assert (done.polled_at, done.ended) == ([0, 1, 3, 7, 15, 15.75], 25.75)
    assert isinstance(done.outcome, TimedOut)
    assert len(done.pauses) == 4


def test_a_poll_that_is_answered_at_the_deadline_is_followed_by_one_more_at_once() -> None:
    """A poll from before the deadline is not the one at it, and there is no time left for a pause."""
    done = run(wait_args(timeout=10.0), Service(latency=[10.0]))
    assert (done.polled_at, done.pauses, done.ended) == ([0, 10], [], 20)


@pytest.mark.parametrize("start", Start)
@pytest.mark.parametrize("rpc_timeout", [0.5, 5.0, 30.0])
@pytest.mark.parametrize("on_timeout", ["fail", "cancel"])
def test_a_service_that_hangs_holds_a_wait_no_longer_than_its_last_calls_may_take(
    start: Start, rpc_timeout: float, on_timeout: str
) -> None:
    """Where nothing is ever answered, the wait still ends: a call's time after the deadline, or its grace's end."""
    args = wait_args(timeout=100.0, rpc_timeout=rpc_timeout, on_timeout=on_timeout)
    done = run(args, Service(latency=[math.inf]), start=start)
    assert isinstance(done.outcome, TimedOut)
    assert (done.outcome.operation, done.outcome.error) == (None, done.polls[-1].value)
    assert done.outcome.error.code is Code.DEADLINE_EXCEEDED
    calls = 1 if on_timeout == "fail" else 3
    assert 100.0 + rpc_timeout <= done.ended <= 100.0 + 1.0 + calls * rpc_timeout + (61.0 if calls == 3 else 0.0)
    assert done.outcome.cancel == ("none" if on_timeout == "fail" else "refused")


@pytest.mark.parametrize("on_timeout", ["fail", "cancel"])
@pytest.mark.parametrize("latency", [2.0, 5.0, 20.0])
@pytest.mark.parametrize("timeout", [90.0, 95.0, 96.0, 99.0])
def test_a_poll_that_the_deadline_cuts_short_is_not_held_against_the_service(
    on_timeout: str, latency: float, timeout: float
) -> None:
    """A service that is slow but never fails has made no error, so none is counted where none is tolerated."""
    args = wait_args(timeout=timeout, max_consecutive_errors=0, rpc_timeout=30.0, on_timeout=on_timeout)
    assert isinstance(run(args, Service(latency=[latency])).outcome, TimedOut)
    assert isinstance(run(args, Service(latency=[latency], done_at=timeout)).outcome, Succeeded)


def test_a_poll_asked_at_the_deadline_is_the_last() -> None:
    """A poll that is asked at the very deadline and answered later is not followed by another."""
    done = run(wait_args(timeout=3.0), Service(latency=[0.0, 0.0, 5.0]))
    assert (done.polled_at, done.ended) == ([0, 1, 3], 8)


@pytest.mark.parametrize("start", Start)
def test_a_wait_that_begins_after_its_deadline_polls_once_without_a_pause(start: Start) -> None:
    """A wait that comes too late still polls, once, and at once."""
    done = run(wait_args(timeout=100.0), Service(), start=start, at=500.0)
    assert (done.polled_at, done.pauses, done.ended) == ([500], [], 500)
    assert isinstance(done.outcome, TimedOut)
    done = run(wait_args(timeout=100.0), Service(done_at=400.0), start=start, at=500.0)
    assert isinstance(done.outcome, Succeeded)


def test_a_timeout_carries_the_last_known_state() -> None:
    """The operation of a timeout is the last one that was read, and there is no error."""
    done = run(wait_args(timeout=10.0), Service())
    assert done.outcome == TimedOut(operation=done.polls[-1].value)
    assert isinstance(done.outcome, TimedOut)
    assert done.outcome.operation is done.polls[-1].value


def test_a_timeout_among_errors_carries_the_last_state_and_the_last_error() -> None:
    """Errors after the last answer do not make it forgotten, and the last of them is reported."""
    errors = [unavailable() for _ in range(4)]
    done = run(wait_args(timeout=10.0), Service(fault=in_turn([errors[0], None, *errors[1:]])))
    assert done.polled_at == [0, 1, 3, 7, 10]
    assert isinstance(done.outcome, TimedOut)
    assert done.outcome.operation is done.polls[1].value
    assert done.outcome.error is errors[3]


def test_an_error_that_has_passed_is_not_reported_with_a_timeout() -> None:
    """A poll that was answered after an error makes the error forgotten."""
    done = run(wait_args(timeout=10.0), Service(fault=in_turn([None, unavailable()])))
    assert isinstance(done.outcome, TimedOut)
    assert done.outcome.error is None


def test_a_wait_that_was_never_answered_times_out_without_a_state() -> None:
    """Where no poll ever succeeded there is no operation to report, only the last error."""
    done = run(wait_args(timeout=10.0), Service(fault=until(math.inf, not_found)))
    assert isinstance(done.outcome, TimedOut)
    assert done.outcome.operation is None
    assert done.outcome.error is done.polls[-1].value


def test_without_a_deadline_a_wait_goes_on() -> None:
    """A month is no reason to give up on an operation that answers."""
    done = run(wait_args(interval=HOUR), Service(done_at=30 * DAY), choose=Seeded(0))
    assert isinstance(done.outcome, Succeeded)
    assert 30 * DAY <= done.ended <= 30 * DAY + HOUR


# A poll that fails is not an operation that failed.


@codes(set(Code))
def test_every_code_has_one_row(code: Code) -> None:
    """Each of the 17 codes goes on, ends the wait, or does either by the time."""
    assert [code in row for row in (GOES_ON, AT_ONCE, LATE)].count(True) == 1
    assert len(Code) == 17


@codes(GOES_ON)
@pytest.mark.parametrize("start", Start)
def test_a_transient_code_goes_on_by_the_schedule(code: Code, start: Start) -> None:
    """Errors that pass change neither when the next poll is made nor what becomes of the operation."""
    fault = in_turn([rpc_error(code) for _ in range(5)])
    done = run(wait_args(), Service(fault=fault, done_at=40.0, ending=Failed), start=start)
    calm = run(wait_args(), Service(done_at=40.0, ending=Failed), start=start)
    assert isinstance(done.outcome, Failed)
    assert done.polled_at == calm.polled_at
    assert rpc_error(code).is_transient


@codes(AT_ONCE)
@pytest.mark.parametrize("start", Start)
@pytest.mark.parametrize("before", [0, 2])
def test_any_other_code_ends_the_wait_at_once(code: Code, start: Start, before: int) -> None:
    """Errors that time does not heal end the wait where they are met, and say nothing of the operation."""
    error = rpc_error(code)
    done = run(wait_args(), Service(fault=in_turn([None] * before + [error]), done_at=20.0), start=start)
    assert done.outcome == CallFailed(error=error, operation=last_known(done))
    assert (done.outcome.operation is None) == (before == 0)
    assert len(done.polls) == before + 1
    assert not error.is_transient


@codes(LATE)
@pytest.mark.parametrize("start", Start)
def test_not_found_goes_on_early_and_ends_the_wait_late(code: Code, start: Start) -> None:
    """Several services create an operation late; a name that is not known after a minute is gone."""
    done = run(wait_args(), Service(fault=until(50.0, lambda: rpc_error(code)), done_at=100.0), start=start)
    assert isinstance(done.outcome, Succeeded)
    done = run(wait_args(), Service(fault=until(math.inf, lambda: rpc_error(code))), start=start)
    assert isinstance(done.outcome, NotFound)
    assert done.outcome.error is done.polls[-1].value
    assert [call.asked >= MINUTE for call in done.polls[-2:]] == [False, True]


@pytest.mark.parametrize("code", [17, 99, -1])
def test_a_code_that_nobody_knows_ends_the_wait(code: int) -> None:
    """A number that google.rpc.Code does not have is not taken for one that passes."""
    done = run(wait_args(), Service(fault=in_turn([rpc_error(code)]), done_at=0.0))
    assert isinstance(done.outcome, CallFailed)
    assert done.outcome.error.code == code


@codes(GOES_ON)
def test_a_permanent_error_ends_the_wait_whatever_its_code(code: Code) -> None:
    """An answer that is too large for the channel is RESOURCE_EXHAUSTED, and will be so for ever."""
    error = rpc_error(code, permanent=True)
    done = run(wait_args(), Service(fault=in_turn([None, error]), done_at=20.0))
    assert isinstance(done.outcome, CallFailed)
    assert done.outcome.error is error
    assert len(done.polls) == 2


@pytest.mark.parametrize("error", [CredentialsError("revoked"), MalformedOperation("odd"), LroError("odd")])
@pytest.mark.parametrize("start", Start)
@pytest.mark.parametrize("before", [0, 3])
def test_credentials_and_other_errors_that_are_not_rpc_errors_end_the_wait(
    error: LroError, start: Start, before: int
) -> None:
    """Credentials that are refused for good are refused for good, at any poll."""
    done = run(wait_args(timeout=HOUR), Service(fault=in_turn([None] * before + [error])), start=start)
    assert isinstance(done.outcome, CallFailed)
    assert done.outcome.error is error
    assert len(done.polls) == before + 1


def test_an_endpoint_that_cannot_be_right_ends_a_fresh_wait() -> None:
    """A wrong host name fails on the worker, at once."""
    error = no_such_host()
    done = run(wait_args(timeout=HOUR), Service(fault=in_turn([error])))
    assert isinstance(done.outcome, CallFailed)
    assert done.outcome.error is error
    assert (done.polled_at, done.pauses) == ([0], [])


@pytest.mark.parametrize("start", [Start.POLL, Start.RESUME])
def test_an_endpoint_that_was_right_before_is_a_transport_fault(start: Start) -> None:
    """Name servers and certificates have outages: a wait that goes on does not die of them."""
    done = run(wait_args(), Service(fault=in_turn([no_such_host(), no_such_host()]), done_at=5.0), start=start)
    assert isinstance(done.outcome, Succeeded)
    assert [isinstance(call.value, EndpointError) for call in done.polls[:3]] == [True, True, False]


@pytest.mark.parametrize("first", [None, unavailable(), not_found()])
def test_only_the_first_poll_of_a_fresh_wait_is_strict_with_the_endpoint(first: LroError | None) -> None:
    """After any result of the first poll, an endpoint error is one that may pass."""
    done = run(wait_args(), Service(fault=in_turn([first, no_such_host(), no_such_host()]), done_at=5.0))
    assert isinstance(done.outcome, Succeeded)
    assert no_such_host().is_transient


def test_credentials_that_cannot_be_loaded_again_are_an_outage() -> None:
    """A worker has loaded them a moment ago; on the worker, before anything was polled, they are missing."""
    service = Service(fault=until(2 * HOUR, no_key), done_at=5.0)
    assert isinstance(run(wait_args(), service, start=Start.RESUME).outcome, Succeeded)
    at_once = run(wait_args(), service)
    assert isinstance(at_once.outcome, CallFailed)
    assert isinstance(at_once.outcome.error, CredentialsError)
    assert at_once.polled_at == [0]


# A service that was never reached.


@pytest.mark.parametrize("start", Start)
def test_a_service_without_a_connection_from_the_first_poll_on_is_given_up(start: Start) -> None:
    """A wrong port does not become right in seven days."""
    done = run(wait_args(timeout=7 * DAY, reached=False), Service(fault=until(math.inf, no_connection)), start=start)
    assert isinstance(done.outcome, CallFailed)
    assert isinstance(done.outcome.error, EndpointError)
    assert "no connection for 600 s" in str(done.outcome.error)
    assert 600 <= done.ended <= 600 + 2 * MINUTE


@pytest.mark.parametrize(
    "more",
    [{"reached": True}, {"connect_timeout": None}, {"connect_timeout": 2 * HOUR}],
    ids=["a worker has reached it", "no limit", "a longer limit"],
)
def test_a_wait_that_may_be_healthy_goes_on_without_a_connection(more: dict[str, Any]) -> None:
    """It ends by its deadline alone."""
    args = wait_args(**{"timeout": HOUR, "reached": False, **more})
    assert isinstance(run(args, Service(fault=until(math.inf, no_connection))).outcome, TimedOut)


def test_a_wait_that_is_taken_up_later_goes_on_without_a_connection() -> None:
    """Whether an earlier trigger had an answer is not known any more."""
    args = wait_args(timeout=DAY, reached=False)
    resumed = run(args, Service(fault=until(math.inf, no_connection)), start=Start.RESUME, at=MINUTE)
    assert isinstance(resumed.outcome, TimedOut)


@pytest.mark.parametrize("answer", [None, unavailable(), rpc_error(Code.INTERNAL)])
def test_one_answer_shows_that_the_service_is_there(answer: RpcError | None) -> None:
    """An outage later, however long, does not end the wait before its time."""
    if answer is not None:
        answer.connected = True

    def fault(number: int, _asked: float) -> LroError | None:
        return answer if number == 3 else no_connection()

    assert isinstance(run(wait_args(timeout=DAY, reached=False), Service(fault=fault)).outcome, TimedOut)


def test_another_operations_answer_shows_that_the_service_is_there() -> None:
    """Of many operations one that is reached speaks for all."""
    args, service = wait_args(timeout=DAY, reached=False), Service(fault=until(math.inf, no_connection))
    assert isinstance(run(args, service, others_reached_at=HOUR).outcome, CallFailed)
    assert isinstance(run(args, service, others_reached_at=300).outcome, TimedOut)


def test_time_without_a_token_does_not_count() -> None:
    """Nobody has tried to connect then."""

    def fault(number: int, asked: float) -> LroError:
        return no_key() if 300 <= asked < 500 else no_connection()

    done = run(wait_args(timeout=DAY, reached=False), Service(fault=fault), start=Start.RESUME)
    assert isinstance(done.outcome, CallFailed)
    assert 1100 <= done.ended <= 1100 + 3 * MINUTE


@pytest.mark.parametrize("start", Start)
@pytest.mark.parametrize("errors", [1, 5])
def test_errors_before_a_start_do_not_end_a_wait_at_its_first(start: Start, errors: int) -> None:
    """Without a limit and a deadline the day of errors counts from this start: when they began is not stored."""
    args = wait_args(consecutive_errors=errors)
    done = run(args, Service(fault=in_turn([unavailable()]), done_at=5.0), start=start)
    assert isinstance(done.outcome, Succeeded)
    done = run(args, Service(fault=until(math.inf, unavailable)), start=start)
    assert isinstance(done.outcome, CallFailed)
    assert DAY <= done.ended <= DAY + 2 * MINUTE


@pytest.mark.parametrize("timeout", [None, HOUR])
def test_errors_before_a_start_are_tolerated_together_with_those_after_it(timeout: float | None) -> None:
    """Each poke of a sensor is a start: three errors in a row are three, in whichever processes they were."""
    args = wait_args(timeout=timeout, max_consecutive_errors=2, consecutive_errors=1)
    done = run(args, Service(fault=in_turn([unavailable(), None]), done_at=2.0), start=Start.POKE)
    assert isinstance(done.outcome, Succeeded)
    assert done.pauses[0].errors == 2, "it is stored until the next start"
    done = run(args, Service(fault=in_turn([unavailable(), unavailable()])), start=Start.POKE)
    assert isinstance(done.outcome, CallFailed)
    assert len(done.polls) == 2
    resumed = run(args, Service(done_at=0.0), start=Start.RESUME)
    assert [pause.errors for pause in resumed.pauses] == [1]
    answered = run(args, Service(fault=in_turn([None, unavailable()]), done_at=3.0), start=Start.POKE)
    assert [pause.errors for pause in answered.pauses] == [0, 1]


def test_a_poll_that_was_not_sent_counts_for_nothing() -> None:
    """A poll that this process itself kept back says nothing about the service; the timeout reports it."""
    kept_back = unavailable()
    kept_back.not_sent = True
    args = wait_args(timeout=10.0, max_consecutive_errors=0)
    done = run(args, Service(fault=lambda number, _asked: kept_back if number else None))
    assert done.outcome == TimedOut(operation=done.polls[0].value, error=kept_back)
    assert isinstance(done.outcome, TimedOut)
    assert done.outcome.is_undecided


@pytest.mark.parametrize("most", [0, 1, 3])
@pytest.mark.parametrize("timeout", [None, HOUR])
@pytest.mark.parametrize("start", Start)
def test_so_many_errors_in_a_row_are_tolerated_and_one_more_is_not(
    most: int, timeout: float | None, start: Start
) -> None:
    """max_consecutive_errors is how many errors in a row a wait outlives."""
    args = wait_args(timeout=timeout, max_consecutive_errors=most)
    errors = [unavailable() for _ in range(most + 1)]
    done = run(args, Service(fault=in_turn([None, *errors[:most]]), done_at=2.0), start=start)
    assert isinstance(done.outcome, Succeeded)
    done = run(args, Service(fault=in_turn([None, *errors]), done_at=2.0), start=start)
    assert isinstance(done.outcome, CallFailed)
    assert done.outcome.error is errors[most]
    assert len(done.polls) == most + 2


def test_an_answer_makes_the_errors_before_it_forgotten() -> None:
    """Only errors in a row count, so a success between them starts the count again."""
    args = wait_args(max_consecutive_errors=2)
    two = [unavailable(), unavailable()]
    done = run(args, Service(fault=in_turn([*two, None, *two, None, *two]), done_at=40.0))
    assert isinstance(done.outcome, Succeeded)
    done = run(args, Service(fault=in_turn([*two, None, *two, unavailable()]), done_at=40.0))
    assert isinstance(done.outcome, CallFailed)
    assert len(done.polls) == 6


def test_errors_of_different_kinds_count_together() -> None:
    """An outage that shows itself by turns as one code, another, and no host is one outage."""
    faults = [unavailable(), rpc_error(Code.INTERNAL), no_such_host()]
    args = wait_args(max_consecutive_errors=2)
    done = run(args, Service(fault=in_turn(faults), done_at=0.0), start=Start.POLL)
    assert isinstance(done.outcome, CallFailed)
    assert done.outcome.error is faults[2]


def test_an_early_not_found_is_not_counted_as_an_error() -> None:
    """An operation that is created late is expected, also where no error is tolerated."""
    done = run(wait_args(max_consecutive_errors=0), Service(fault=until(50.0, not_found), done_at=55.0))
    assert isinstance(done.outcome, Succeeded)


def test_without_a_deadline_a_day_of_nothing_but_errors_ends_the_wait() -> None:
    """Nothing else would ever end it."""
    done = run(wait_args(), Service(fault=until(math.inf, unavailable)), choose=Seeded(1))
    assert isinstance(done.outcome, CallFailed)
    assert done.outcome.error is done.polls[-1].value
    assert DAY <= done.ended <= DAY + MINUTE


def test_a_day_of_errors_is_over_at_its_last_second() -> None:
    """Where it is polled every hour, the 25th error is the last."""
    done = run(wait_args(interval=HOUR, initial_delay=HOUR, jitter=0), Service(fault=until(math.inf, unavailable)))
    assert isinstance(done.outcome, CallFailed)
    assert (len(done.polls), done.ended) == (25, DAY)


def test_a_day_of_errors_is_counted_from_the_first_of_them() -> None:
    """An outage is as long as the time since the last answer, whenever the wait began."""
    errors = until(math.inf, unavailable)
    service = Service(fault=lambda number, asked: None if asked < 10 * HOUR else errors(number, asked))
    done = run(wait_args(), service)
    assert isinstance(done.outcome, CallFailed)
    assert done.outcome.operation is last_known(done)
    assert 34 * HOUR <= done.ended <= 34 * HOUR + 2 * MINUTE


def test_one_answer_in_a_day_of_errors_is_enough() -> None:
    """A service that answers now and then is waited for."""
    service = Service(fault=lambda number, _asked: None if number % 1000 == 999 else unavailable(), done_at=3 * DAY)
    done = run(wait_args(), service)
    assert isinstance(done.outcome, Succeeded)
    assert done.ended >= 3 * DAY


def test_a_deadline_is_waited_for_through_any_outage() -> None:
    """A user who gave a deadline has said for how long to bear errors."""
    done = run(wait_args(timeout=2 * DAY), Service(fault=until(math.inf, unavailable)))
    assert isinstance(done.outcome, TimedOut)
    assert done.ended == pytest.approx(2 * DAY)


def test_a_number_of_errors_that_is_given_replaces_the_day() -> None:
    """A user who gave a number of errors has said how many to bear."""
    args = wait_args(max_consecutive_errors=10_000)
    done = run(args, Service(fault=until(2 * DAY, unavailable), done_at=2 * DAY))
    assert isinstance(done.outcome, Succeeded)


@pytest.mark.parametrize(("grace", "polls"), [(0, 1), (0.5, 2), (1, 2), (3, 3), (3.1, 4), (60, 7), (1000, 23)])
def test_the_grace_for_not_found_is_an_argument(grace: float, polls: int) -> None:
    """A NOT_FOUND that is asked for when the grace is over ends the wait, and 0 gives none."""
    done = run(wait_args(not_found_grace=grace), Service(fault=until(math.inf, not_found)))
    assert isinstance(done.outcome, NotFound)
    assert len(done.polls) == polls


def test_the_grace_for_not_found_is_over_by_when_the_poll_was_asked() -> None:
    """A slow answer to an early poll is still an early answer."""
    fault = in_turn([not_found()])
    done = run(wait_args(rpc_timeout=100.0), Service(fault=fault, latency=[61.0, 2.0], done_at=0.0))
    assert isinstance(done.polls[0].value, OperationNotFound)
    assert isinstance(done.outcome, Succeeded)


def test_a_resume_does_not_start_the_grace_for_not_found_again() -> None:
    """The grace counts from started_at: a rebuilt wait takes NOT_FOUND for what it is."""
    gone = Service(fault=until(math.inf, not_found))
    done = run(wait_args(), gone, start=Start.RESUME, at=100.0)
    assert isinstance(done.outcome, NotFound)
    assert len(done.polls) == 1
    done = run_through(wait_args(), Service(fault=until(math.inf, not_found)), [(30.0, 40.0)])
    assert isinstance(done.outcome, NotFound)
    assert [call.asked >= MINUTE for call in done.polls[-2:]] == [False, True]


def test_a_name_that_is_gone_after_it_was_known_is_gone() -> None:
    """An operation that was deleted under a wait ends it as not found."""
    service = Service(fault=lambda _number, asked: not_found() if asked > 500.0 else None)
    done = run(wait_args(), service)
    assert done.outcome == NotFound(error=done.polls[-1].value, operation=last_known(done))
    assert done.outcome.operation is done.polls[-2].value


@pytest.mark.parametrize(
    ("retry_after", "next_poll"), [(None, 1), (0.0, 1), (0.5, 1), (20.0, 20), (300.0, 300), (1e6, 300), (math.inf, 300)]
)
def test_the_service_may_ask_to_be_left_alone_for_five_minutes(retry_after: float | None, next_poll: float) -> None:
    """A RetryInfo delays the next poll, by five minutes at most, and hastens none."""
    fault = in_turn([unavailable(retry_after=retry_after)])
    done = run(wait_args(), Service(fault=fault, done_at=0.0))
    assert done.polled_at == [0, next_poll]


def test_retry_info_delays_the_earliest_moment_too() -> None:
    """No moment that can be chosen in the window is before the one that the service asked for."""
    fault = in_turn([unavailable(retry_after=0.95), unavailable(retry_after=30.0)])
    done = run(wait_args(), Service(fault=fault, done_at=0.0), choose=earliest)
    assert done.pauses[0].window == Window(shortest=0.95, longest=1.0)
    assert done.pauses[1].window == Window(shortest=30.0, longest=30.0)


def test_retry_info_counts_once() -> None:
    """After an answer, or an error without it, polls come by the schedule again."""
    fault = in_turn([unavailable(retry_after=100.0), unavailable(), unavailable(retry_after=100.0), None])
    done = run(wait_args(), Service(fault=fault, done_at=300.0))
    assert done.polled_at == [0, 100, 102, 202, 210, 226, 258, 318]


def test_the_deadline_cuts_retry_info() -> None:
    """A service cannot ask for more time than the wait has."""
    done = run(wait_args(timeout=10.0), Service(fault=in_turn([unavailable(retry_after=60.0)])))
    assert done.polled_at == [0, 10]
    assert isinstance(done.outcome, TimedOut)
    assert [pause.delayed for pause in done.pauses] == [pytest.approx(9.0)], "beyond the schedule's second"


def test_delay_by_retry_info_is_reported() -> None:
    """By how much a pause is longer than the schedule's own, also after a cancel; nothing where it is not."""
    fault = in_turn([unavailable(retry_after=20.0), None, unavailable(retry_after=2.0), unavailable(retry_after=30.0)])
    done = run(wait_args(), Service(fault=fault, done_at=70.0))
    assert [pause.delayed for pause in done.pauses] == [19.0, 0.0, 0.0, 22.0, 0.0]
    late = run(
        wait_args(timeout=1.0, on_timeout="cancel"),
        Service(fault=in_turn([None, None, unavailable(retry_after=5.0)]), done_at=50.0),
    )
    assert next(pause.delayed for pause in late.pauses if pause.final) == pytest.approx(4.0)


# Nothing but the service says that an operation is done.

faults = (
    st.none()
    | transient_errors
    | st.builds(not_found)
    | st.builds(no_such_host)
    | st.builds(rpc_error, st.sampled_from(sorted(AT_ONCE)))
    | st.builds(CredentialsError, st.just("revoked"))
)
# Most errors end a wait; what these do is more than the first of them.
healing_faults = st.none() | transient_errors | st.builds(not_found)


@properties
@given(
    script=st.lists(healing_faults, max_size=10) | st.lists(faults, max_size=10),
    choose=choices(),
    ending=st.sampled_from([Succeeded, Failed, Cancelled]),
    done_at=st.floats(0.0, 300.0) | st.just(math.inf),
    timeout=st.none() | st.floats(0.0, 300.0),
    on_timeout=st.sampled_from(["fail", "cancel"]),
    refusals=st.lists(transient_errors | st.builds(rpc_error, st.just(Code.UNIMPLEMENTED)), max_size=3),
    cancel_takes=st.sampled_from([0.0, 5.0, math.inf]),
    latency=latencies,
    restarts=st.lists(st.tuples(st.floats(0.0, 50.0), st.floats(0.0, 50.0)), max_size=3),
)
@example(
    script=[],
    choose=latest,
    ending=Succeeded,
    done_at=math.inf,
    timeout=10.0,
    on_timeout="cancel",
    refusals=[],
    cancel_takes=0.0,
    latency=[0.0],
    restarts=[],
)
def test_an_outcome_of_the_operation_was_read_from_the_service(
    *,
    script: list[LroError | None],
    choose: Choice,
    ending: Any,
    done_at: float,
    timeout: float | None,
    on_timeout: str,
    refusals: list[LroError],
    cancel_takes: float,
    latency: list[float],
    restarts: list[tuple[float, float]],
) -> None:
    """No mix of faults, restarts and cancels ends in a success, a failure or a cancellation that was not read."""
    service = Service(
        fault=in_turn(script),
        ending=ending,
        # Without a deadline only its end ends the wait.
        done_at=300.0 if timeout is None and math.isinf(done_at) else done_at,
        refusals=refusals,
        cancel_takes=cancel_takes,
        latency=latency,
    )
    moments, now = [], 0.0
    for alive, dead in restarts:
        moments.append((now + alive, now + alive + dead))
        now += alive + dead
    args = wait_args(timeout=timeout, on_timeout=on_timeout, jitter=0.5)
    done = run_through(args, service, moments, choose=choose)

    answers = [call.value for call in done.polls]
    last, outcome = answers[-1], done.outcome
    result_of = {Succeeded: None, Failed: Code.FAILED_PRECONDITION, Cancelled: Code.CANCELLED}
    assert not any(has_ended(answer, None, Code.FAILED_PRECONDITION) for answer in answers[:-1]) or restarts
    if has_ended(last, None, Code.FAILED_PRECONDITION):
        assert isinstance(outcome, Succeeded | Failed)
    if isinstance(outcome, Succeeded | Failed | Cancelled):
        assert outcome.operation is last
        assert has_ended(last, result_of[type(outcome)])
    elif isinstance(outcome, CallFailed | NotFound):
        assert outcome.error is last
        assert outcome.operation is None or outcome.operation is last_known(done)
    else:
        assert isinstance(outcome, TimedOut)
        assert outcome.operation is None or outcome.operation is last_known(done)
        assert (outcome.cancel == "none") <= (not done.cancels)
        assert (outcome.cancel == "took effect") == has_ended(last, Code.CANCELLED)
        if outcome.cancel == "refused":
            assert any(outcome.cancel_error is call.value for call in done.cancels)


# The cancel at the deadline.


def cancelling(service: Service, **changes: Any) -> Run:
    """Run a wait of 100 s that cancels, and then waits for another 60 s."""
    return run(wait_args(timeout=100.0, on_timeout="cancel"), service, **changes)


def test_a_cancel_is_asked_for_after_the_poll_at_the_deadline() -> None:
    """The deadline is polled first, then one cancel is asked for, and its effect is polled for by a fresh schedule."""
    done = cancelling(Service())
    assert done.polled_at == [0, 1, 3, 7, 15, 31, 63, 100, 100, 101, 103, 107, 115, 131, 160]
    assert done.cancelled_at == [100]
    assert [paused.final for paused in done.pauses] == [paused.at >= 100 for paused in done.pauses]
    assert next(paused.window for paused in done.pauses if paused.final) == Window(shortest=0.9, longest=1.0)


@pytest.mark.parametrize("refused", [False, True])
def test_answer_that_is_left_to_a_worker_after_a_cancel_stays_a_timeout(refused: bool) -> None:
    """The worker must know that it was asked to cancel: what it finds cancelled then is no doing of anybody else."""
    large = rpc_error(Code.RESOURCE_EXHAUSTED, permanent=True)
    large.too_large = True
    faults = in_turn([*[None] * 8, large])  # the first poll after the one at the deadline
    done = cancelling(Service(fault=faults, refusals=[rpc_error(9)] if refused else []))
    assert isinstance(done.outcome, TimedOut)
    assert (done.outcome.error, done.outcome.is_undecided) == (large, True)
    assert done.outcome.cancel == ("refused" if refused else "asked")
    assert len(done.polled_at) == 9


def test_what_is_done_at_the_deadline_is_not_cancelled() -> None:
    """An operation that ends in the last pause is left alone."""
    done = cancelling(Service(done_at=99.0))
    assert isinstance(done.outcome, Succeeded)
    assert done.cancels == []


@pytest.mark.parametrize("ending", [Succeeded, Failed])
def test_an_operation_that_ends_in_spite_of_a_cancel_has_its_own_outcome(ending: Any) -> None:
    """A success in the grace is a success, a failure is a failure."""
    done = cancelling(Service(done_at=120.0, ending=ending, cancel_takes=30.0))
    assert type(done.outcome) is ending
    assert done.outcome.operation is done.polls[-1].value
    assert done.ended == pytest.approx(131)


@pytest.mark.parametrize("takes", [0.0, 10.0, 60.0])
def test_a_cancel_that_takes_effect_is_a_timeout(takes: float) -> None:
    """CANCELLED in the grace is the timeout, never a cancellation, and says so."""
    done = cancelling(Service(cancel_takes=takes))
    assert has_ended(done.polls[-1].value, Code.CANCELLED)
    assert done.outcome == TimedOut(operation=done.polls[-1].value, cancel="took effect")


def test_a_cancel_without_effect_is_a_timeout_that_says_so() -> None:
    """An operation that still runs after the grace was asked to cancel, no more."""
    done = cancelling(Service(cancel_takes=61.0))
    assert done.outcome == TimedOut(operation=done.polls[-1].value, cancel="asked")
    assert done.ended == pytest.approx(160)


@codes(AT_ONCE | LATE)
def test_a_cancel_that_is_refused_is_reported_after_one_more_poll(code: Code) -> None:
    """A service that cannot cancel is not asked again, and not waited for."""
    refusal = rpc_error(code)
    done = cancelling(Service(refusals=[refusal]))
    assert done.outcome == TimedOut(operation=done.polls[-1].value, cancel="refused", cancel_error=refusal)
    assert done.cancelled_at == [100]
    assert done.polled_at[-3:] == [63, 100, 100]


def test_credentials_that_may_not_cancel_refuse() -> None:
    """An error that is not an RpcError refuses as well."""
    refusal = CredentialsError("revoked")
    done = cancelling(Service(refusals=[refusal]))
    assert isinstance(done.outcome, TimedOut)
    assert (done.outcome.cancel, done.outcome.cancel_error) == ("refused", refusal)


@pytest.mark.parametrize("ending", [Succeeded, Failed])
def test_a_cancel_that_comes_too_late_is_refused_and_the_operation_has_its_outcome(ending: Any) -> None:
    """An operation that ends between the last poll and the cancel is found by the poll after it."""
    service = Service(done_at=100.5, ending=ending, latency=[0.0] * 8 + [1.0], refusals=[rpc_error(9)])
    done = cancelling(service)
    assert type(done.outcome) is ending
    assert done.outcome.operation is done.polls[-1].value


@codes(GOES_ON)
def test_a_cancel_that_fails_for_now_is_asked_for_again(code: Code) -> None:
    """A cancel that was lost on its way is repeated before each poll until it is accepted, and then no more."""
    done = cancelling(Service(refusals=[rpc_error(code), rpc_error(code)]))
    assert done.cancelled_at == [100, 101, 103]
    assert done.polled_at[-7:] == [100, 101, 103, 107, 115, 131, 160]
    assert done.outcome == TimedOut(operation=done.polls[-1].value, cancel="asked")


def test_an_endpoint_that_cannot_be_reached_for_now_is_asked_again_to_cancel() -> None:
    """Errors of the endpoint pass for a cancel as they do for a poll."""
    done = cancelling(Service(refusals=[no_such_host()]))
    assert done.cancelled_at == [100, 101]


def test_a_cancel_that_fails_all_the_time_counts_as_refused() -> None:
    """A cancel that could never be asked for was refused, and the last reason is reported."""
    refusals = [unavailable() for _ in range(20)]
    done = cancelling(Service(refusals=refusals))
    assert done.cancelled_at == [100, 101, 103, 107, 115, 131, 160]
    assert isinstance(done.outcome, TimedOut)
    assert done.outcome.cancel == "refused"
    assert done.outcome.cancel_error is refusals[6]


def test_a_cancel_that_was_lost_but_came_through_took_effect() -> None:
    """A cancel whose answer was lost may have arrived: what the poll finds is what counts."""
    service = Service(refusals=[rpc_error(Code.DEADLINE_EXCEEDED)], done_at=100.0, ending=Cancelled)
    service.fault = in_turn([None] * 7 + [unavailable()])
    done = cancelling(service)
    assert done.cancelled_at == [100]
    assert isinstance(done.outcome, TimedOut)
    assert done.outcome.cancel == "took effect"


def test_errors_in_the_grace_are_borne() -> None:
    """A poll that fails after the cancel says nothing about the operation."""
    service = Service(fault=in_turn([None] * 8 + [unavailable()] * 3), cancel_takes=0.0)
    done = cancelling(service)
    assert done.polled_at[-4:] == [100, 101, 103, 107]
    assert isinstance(done.outcome, TimedOut)
    assert done.outcome.cancel == "took effect"


def test_an_outage_in_the_grace_is_reported_with_the_timeout() -> None:
    """A service that fails from the deadline on leaves the state of before and the error of now."""
    service = Service(fault=lambda _number, asked: unavailable() if asked >= 100.0 else None)
    done = cancelling(service)
    assert isinstance(done.outcome, TimedOut)
    assert done.outcome.cancel == "asked"
    assert done.outcome.operation is done.polls[6].value
    assert done.outcome.error is done.polls[-1].value


def test_an_error_in_the_grace_that_time_does_not_heal_ends_the_wait() -> None:
    """A wait that may not read any more does not know how the operation ended."""
    error = rpc_error(Code.PERMISSION_DENIED)
    done = cancelling(Service(fault=in_turn([None] * 8 + [error])))
    assert isinstance(done.outcome, CallFailed)
    assert done.outcome.error is error


def test_an_operation_that_is_gone_after_the_cancel_is_not_found() -> None:
    """Some services delete what is cancelled; that is not reported as cancelled, for nobody said so."""
    done = cancelling(Service(fault=lambda _number, asked: not_found() if asked > 100.0 else None))
    assert isinstance(done.outcome, NotFound)


def test_retry_info_in_the_grace_is_obeyed_and_cut() -> None:
    """A service that asks for time after the cancel has it, up to the end of the grace."""
    fault = in_turn([None] * 8 + [unavailable(retry_after=20.0), unavailable(retry_after=200.0)])
    done = cancelling(Service(fault=fault))
    assert done.polled_at[-3:] == [100, 120, 160]


def test_without_grace_the_effect_of_a_cancel_is_asked_for_once() -> None:
    """A grace of 0 polls once after the cancel."""
    args = wait_args(timeout=100.0, on_timeout="cancel", cancel_grace=0)
    done = run(args, Service())
    assert done.polled_at[-2:] == [100, 100]
    assert done.outcome == TimedOut(operation=done.polls[-1].value, cancel="asked")
    assert isinstance(run(args, Service(cancel_takes=0.0)).outcome, TimedOut)


@properties
@given(
    policy=policies,
    choose=choices(),
    latency=latencies,
    timeout=st.floats(0.0, 100.0),
    grace=st.floats(0.0, 100.0),
    faults=st.lists(st.none() | transient_errors, min_size=1, max_size=5),
    refusals=st.lists(transient_errors, max_size=5),
)
def test_a_wait_that_cancels_ends_after_its_grace(
    *,
    policy: dict[str, float],
    choose: Choice,
    latency: list[float],
    timeout: float,
    grace: float,
    faults: list[LroError | None],
    refusals: list[LroError],
) -> None:
    """It polls at the end of the grace, and exceeds it by no more than the calls take."""
    args = wait_args(timeout=timeout, on_timeout="cancel", cancel_grace=grace, **policy)
    service = Service(latency=latency, fault=over_and_over(faults), refusals=refusals)
    done = run(args, service, choose=choose)
    assert isinstance(done.outcome, TimedOut)
    assert done.outcome.cancel in ("asked", "refused")
    deadline, cancelled = seconds(args.deadline), done.cancels[0].asked
    assert any(deadline <= call.asked <= cancelled for call in done.polls)
    assert done.polls[-1].asked >= cancelled + grace - CLOCK_ERROR
    assert done.ended <= deadline + grace + done.latency_after(deadline) + CLOCK_ERROR
    assert all(paused.final == (paused.at >= cancelled) for paused in done.pauses)
    accepted = [call.value is None for call in done.cancels]
    assert accepted.count(True) <= 1
    assert not any(accepted[:-1])


@pytest.mark.parametrize("on_timeout", ["fail", "cancel"])
@pytest.mark.parametrize("start", Start)
def test_an_operation_that_somebody_else_cancels_in_time_is_cancelled(on_timeout: str, start: Start) -> None:
    """Before the deadline a wait asks nobody to cancel, so that it was somebody else."""
    args = wait_args(timeout=100.0, on_timeout=on_timeout)
    for at in (0.0, 80.0):
        done = run(args, Service(done_at=90.0, ending=Cancelled), start=start, at=at)
        assert isinstance(done.outcome, Cancelled)
        assert done.outcome.operation is done.polls[-1].value
        assert done.cancels == []


@pytest.mark.parametrize("start", [Start.FRESH, Start.POKE])
def test_a_wait_that_was_not_lost_has_not_cancelled_before(start: Start) -> None:
    """Only a wait that is taken up again can have asked to cancel in an earlier life."""
    done = cancelling(Service(done_at=0.0, ending=Cancelled), start=start, at=150.0)
    assert isinstance(done.outcome, Cancelled)


def test_a_worker_that_rechecks_after_the_deadline_may_find_its_own_cancel() -> None:
    """A trigger or a worker that was lost after it had asked is no reason to take a timeout for a cancellation."""
    done = cancelling(Service(done_at=0.0, ending=Cancelled), start=Start.POLL, at=150.0)
    assert isinstance(done.outcome, TimedOut)


@pytest.mark.parametrize("resumed", [100.0, 130.0, DAY])
def test_what_a_resumed_wait_finds_cancelled_after_its_deadline_is_its_own_doing(resumed: float) -> None:
    """A wait that was lost in its grace finds the effect of its own cancel, and reports the timeout."""
    service = Service(cancel_takes=20.0, done_at=math.inf)
    args = wait_args(timeout=100.0, on_timeout="cancel")
    done = run_through(args, service, [(100.0, resumed)])
    assert done.cancelled_at[0] == 100
    assert has_ended(done.polls[-1].value, Code.CANCELLED)
    assert done.outcome == TimedOut(operation=done.polls[-1].value, cancel="took effect")


def test_a_wait_that_is_resumed_at_the_very_deadline_may_have_cancelled() -> None:
    """At the deadline a wait asks to cancel, so that what is resumed at that moment has perhaps done so."""
    done = cancelling(Service(done_at=0.0, ending=Cancelled), start=Start.RESUME, at=100.0)
    assert isinstance(done.outcome, TimedOut)
    assert done.outcome.cancel == "took effect"


def test_without_cancel_a_resumed_wait_that_finds_cancelled_takes_it_for_somebody_elses() -> None:
    """A wait that never cancels has not cancelled."""
    done = run(wait_args(timeout=100.0), Service(done_at=0.0, ending=Cancelled), start=Start.RESUME, at=150.0)
    assert isinstance(done.outcome, Cancelled)


@pytest.mark.parametrize("ending", [Succeeded, Failed])
def test_a_wait_that_is_resumed_after_its_deadline_finds_what_came_of_the_operation(ending: Any) -> None:
    """A success or a failure that came while nobody was looking is the outcome, and nothing is cancelled."""
    done = cancelling(Service(done_at=120.0, ending=ending), start=Start.RESUME, at=150.0)
    assert type(done.outcome) is ending
    assert done.cancels == []


def test_a_wait_that_is_resumed_after_its_deadline_cancels() -> None:
    """A triggerer that was down at the deadline cancels when it is back, and then gives the whole grace."""
    done = cancelling(Service(cancel_takes=30.0), start=Start.RESUME, at=DAY)
    assert done.cancelled_at == [DAY]
    assert isinstance(done.outcome, TimedOut)
    assert done.outcome.cancel == "took effect"
    assert done.polled_at[:2] == [DAY, DAY]


# Commands and answers.


def test_a_wait_yields_values() -> None:
    """Two commands that say the same are equal, so that drivers and tests can compare them."""
    assert next(wait(wait_args(rpc_timeout=7.0), now=EPOCH)) == Get(timeout=7.0, prompt=True)
    assert Get(timeout=7.0) != Cancel()
    window = Window(shortest=1.0, longest=2.0)
    assert Pause(window=window) == Pause(window=window, final=False)
    assert Answer(now=EPOCH) == Answer(now=EPOCH, value=None)


@pytest.mark.parametrize(
    "value", [Get(timeout=7.0), Cancel(), Pause(window=Window(shortest=1.0, longest=2.0))], ids=repr
)
def test_commands_are_frozen_slotted_and_spelled_out(value: Any) -> None:
    """No field can be changed, none can be added, and each is given by name."""
    assert not hasattr(value, "__dict__")
    assert type(value).__dataclass_params__.frozen
    for field in dataclasses.fields(value):
        assert field.kw_only
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)


def test_an_answer_is_taken_apart_as_it_comes() -> None:
    """An answer is its time and its value, in this order, and cannot be changed."""
    answer = Answer(now=EPOCH, value="running")
    assert tuple(answer) == (EPOCH, "running")
    assert Answer(now=EPOCH).value is None
    with pytest.raises(AttributeError):
        answer.now = 0.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("left", "rpc_timeout", "expected"), [(100.0, 30.0, 30.0), (12.0, 30.0, 12.0), (0.3, 30.0, 1.0), (0.3, 0.5, 0.5)]
)
def test_a_poll_before_the_deadline_does_not_outlast_it(left: float, rpc_timeout: float, expected: float) -> None:
    """A server that hangs cannot hold a wait far beyond its deadline, and no poll gets less than a second for that."""
    args = wait_args(deadline=EPOCH + left, rpc_timeout=rpc_timeout)
    assert next(wait(args, now=EPOCH)) == Get(timeout=expected, queue=EPOCH + left - EPOCH, prompt=True)


def test_the_poll_at_the_deadline_has_all_its_time() -> None:
    """The last word is not cut short."""
    args = wait_args(deadline=EPOCH, rpc_timeout=30.0)
    assert next(wait(args, now=EPOCH)) == Get(timeout=30.0, queue=30.0, prompt=True)


def test_the_last_two_polls_together_last_one_call_beyond_the_deadline() -> None:
    """The time by which the poll before it was late is taken from the one at the deadline; after a cancel as well."""
    slow = RpcError("slow", code=Code.DEADLINE_EXCEEDED)
    steps = wait(wait_args(deadline=EPOCH + 0.25, on_timeout="cancel", cancel_grace=0.25), now=EPOCH)
    assert next(steps) == Get(timeout=1.0, queue=0.25, prompt=True)
    assert steps.send(Answer(now=EPOCH + 1.0, value=slow)) == Get(timeout=29.25, queue=29.25, prompt=True)
    assert steps.send(Answer(now=EPOCH + 30.0, value=slow)) == Cancel()
    assert steps.send(Answer(now=EPOCH + 30.0)) == Get(timeout=1.0, queue=0.25)
    assert steps.send(Answer(now=EPOCH + 31.0, value=slow)) == Get(timeout=29.25, queue=29.25, prompt=True)


def test_a_call_that_we_cut_ourselves_counts_for_nothing() -> None:
    """A poll that had less time than the user gave it is not one of the errors in a row."""
    args = wait_args(deadline=EPOCH + 5.0, rpc_timeout=30.0, max_consecutive_errors=0)
    steps = wait(args, now=EPOCH)
    assert next(steps) == Get(timeout=5.0, queue=5.0, prompt=True)
    slow = RpcError("slow", code=Code.DEADLINE_EXCEEDED)
    assert steps.send(Answer(now=EPOCH + 5.0, value=slow)) == Get(timeout=30.0, queue=30.0, prompt=True)


# Long polls and listings.


def commands(args: WaitArgs, *, start: Start = Start.FRESH, polls: int, took: float = 0.0) -> list[Any]:
    """Return what a wait says, with an operation that runs; each poll takes so long."""
    now = EPOCH
    steps = wait(args, now=now, start=start)
    said = [next(steps)]
    while sum(isinstance(command, Get) for command in said) < polls:
        command = said[-1]
        now += took if isinstance(command, Get) else command.window.longest
        value = OperationState(name="operations/o") if isinstance(command, Get) else None
        said.append(steps.send(Answer(now=now, value=value)))
    return said


@pytest.mark.parametrize("start", [Start.FRESH, Start.POLL, Start.POKE])
def test_a_first_poll_that_is_immediate_holds_nobody_up(start: Start) -> None:
    """A worker waits for its answer: the server is not asked to hold it, and no connection is waited for."""
    args = wait_args(poll_method="wait", started_at=EPOCH - 60)
    assert next(wait(args, now=EPOCH, start=start)) == Get(timeout=30.0, prompt=True)


@pytest.mark.parametrize("method", ["wait", "auto"])
def test_every_poll_but_the_first_is_a_long_poll(method: str) -> None:
    """The first poll finds out at once whether anybody is there; no long poll goes beyond the deadline."""
    gets = [each for each in commands(wait_args(poll_method=method, timeout=90.0), polls=4) if isinstance(each, Get)]
    assert [get.long_poll for get in gets][:2] == [0.0, 60.0]
    assert all(get.long_poll <= 90.0 for get in gets)
    late = wait(wait_args(poll_method=method, timeout=5.0), now=EPOCH, start=Start.RESUME)
    next(late)
    long_poll = late.send(Answer(now=EPOCH + 1.0))
    assert isinstance(long_poll, Get)
    assert long_poll.long_poll == pytest.approx(4.0)


def test_a_long_poll_is_a_pause() -> None:
    """The time of a long poll is not paused again; after one that took all of the pause the next follows at once."""
    args = wait_args(poll_method="wait", initial_delay=60.0, jitter=0.0)
    assert [type(each) for each in commands(args, polls=4, took=60.0)[2:]] == [Get, Get, Get]
    (pause,) = [each for each in commands(args, polls=3, took=15.0)[2:] if isinstance(each, Pause)]
    assert pause.window.longest == pytest.approx(45.0)


def test_a_long_poll_that_fails_is_not_a_pause() -> None:
    """The server did not hold it, in whatever time it failed, so the pause is a whole one."""
    steps = wait(wait_args(poll_method="wait", initial_delay=60.0, jitter=0.0), now=EPOCH)
    next(steps)
    steps.send(Answer(now=EPOCH, value=OperationState(name="operations/o")))
    long_poll = steps.send(Answer(now=EPOCH + 60.0))
    assert isinstance(long_poll, Get)
    assert long_poll.long_poll == 60.0
    pause = steps.send(Answer(now=EPOCH + 75.0, value=unavailable()))
    assert pause == Pause(window=Window(shortest=60.0, longest=60.0), errors=1)


def test_a_listing_will_do_when_the_backoff_is_over() -> None:
    """Until then each poll is one of its own; a wait that is resumed late begins with the listing."""
    name = "projects/p/operations/o"
    args = wait_args(operation_name=name, poll_method="list", interval=4.0)
    said = commands(args, polls=6)
    assert [each.listed for each in said if isinstance(each, Get)] == [False, False, False, True, True, True]
    assert [each.listed for each in said if isinstance(each, Pause)] == [False, False, True, True, True]
    later = wait_args(operation_name=name, poll_method="list", interval=4.0, started_at=EPOCH - 60)
    resumed = commands(later, start=Start.RESUME, polls=1)
    assert [each.listed for each in resumed] == [True, True]
