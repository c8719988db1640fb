"""The cancel after a kill, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro._core.wait import MIN_CALL, Answer, Cancel, Pause, cancel_after_kill
from airflow_provider_lro.exceptions import Code, CredentialsError
from tests.core.virtual import CLOCK_ERROR, EPOCH, no_such_host, not_found, properties, rpc_error, unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence


def kill(answers: Sequence[Any], *, within: float = 20.0, takes: float = 0.0) -> tuple[bool, int, float]:
    """Cancel against a service that answers in turn, the last for ever; return the result, the calls and seconds."""
    steps = cancel_after_kill(now=EPOCH, within=within)
    now, calls = EPOCH, 0
    command = next(steps)
    while True:
        value = None
        if isinstance(command, Pause):
            now += command.window.longest
        else:
            assert isinstance(command, Cancel)
            assert command.timeout is not None
            value = answers[min(calls, len(answers) - 1)]
            now += min(takes, command.timeout)
            calls += 1
        try:
            command = steps.send(Answer(now=now, value=value))
        except StopIteration as stop:
            return stop.value, calls, now - EPOCH


def test_asks_once_where_it_is_accepted() -> None:
    """An accepted cancel is not repeated."""
    assert kill([None]) == (True, 1, 0.0)


@pytest.mark.parametrize(
    "refusal",
    [not_found(), rpc_error(Code.UNIMPLEMENTED), rpc_error(Code.FAILED_PRECONDITION), CredentialsError("refused")],
    ids=lambda error: type(error).__name__,
)
def test_a_refusal_is_not_asked_for_again(refusal: Any) -> None:
    """An operation that is gone, done or cannot be cancelled is not asked for twice, and nothing is raised."""
    assert kill([refusal]) == (False, 1, 0.0)


@pytest.mark.parametrize("fault", [unavailable(), no_such_host()], ids=lambda error: type(error).__name__)
def test_asks_again_after_an_error_that_passes(fault: Any) -> None:
    """A service that is away for a moment hears of the kill all the same."""
    accepted, calls, _ = kill([fault, fault, None])
    assert (accepted, calls) == (True, 3)


@pytest.mark.parametrize(("within", "timeout"), [(20.0, 20.0), (0.25, 1.0)])
def test_a_call_has_the_time_that_is_left_and_never_less_than_a_second(within: float, timeout: float) -> None:
    """A service that answers is heard, also where next to no time is left."""
    steps = cancel_after_kill(now=EPOCH, within=within)
    assert next(steps) == Cancel(because="its task was killed", timeout=timeout)


@properties
@given(within=st.floats(MIN_CALL, 60.0), takes=st.floats(0.0, 100.0))
def test_ends_in_time(within: float, takes: float) -> None:
    """A service may be slow or unreachable: a kill does not take longer than it was given."""
    accepted, calls, seconds = kill([unavailable()], within=within, takes=takes)
    assert not accepted
    assert calls >= 1
    assert seconds <= within + CLOCK_ERROR
