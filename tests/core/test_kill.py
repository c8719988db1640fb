"""What is asked of a service when the task that waited was killed, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro._core.commands import Answer, Cancel, Pause
from airflow_provider_lro._core.kill import cancel
from airflow_provider_lro._core.wait import SHORTEST_CALL
from airflow_provider_lro.exceptions import Code, CredentialsError
from tests.core.virtual import CLOCK_ERROR, EPOCH, no_such_host, not_found, properties, rpc_error, unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence


def kill(answers: Sequence[Any], *, within: float = 20.0, takes: float = 0.0) -> tuple[bool, int, float]:
    """Cancel against a service that answers in turn, the last for ever; returns outcome, calls and seconds."""
    steps = cancel(now=EPOCH, within=within)
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


def test_asks_once_where_it_is_heard() -> None:
    """An accepted cancel is not repeated."""
    assert kill([None]) == (True, 1, 0.0)


@pytest.mark.parametrize(
    "refusal",
    [not_found(), rpc_error(Code.UNIMPLEMENTED), rpc_error(Code.FAILED_PRECONDITION), CredentialsError("refused")],
    ids=lambda error: type(error).__name__,
)
def test_takes_no_for_an_answer(refusal: Any) -> None:
    """What is gone, done or cannot be cancelled is not asked twice, and nothing is raised."""
    assert kill([refusal]) == (False, 1, 0.0)


@pytest.mark.parametrize("fault", [unavailable(), no_such_host()], ids=lambda error: type(error).__name__)
def test_asks_again_what_could_not_be_heard(fault: Any) -> None:
    """A service that is away for a moment hears of the kill all the same."""
    heard, calls, _ = kill([fault, fault, None])
    assert (heard, calls) == (True, 3)


@properties
@given(within=st.floats(SHORTEST_CALL, 60.0), takes=st.floats(0.0, 100.0))
def test_ends_in_time(within: float, takes: float) -> None:
    """However slow or deaf the service is, a kill does not take longer than it was given."""
    heard, calls, seconds = kill([unavailable()], within=within, takes=takes)
    assert not heard
    assert calls >= 1
    assert seconds <= within + CLOCK_ERROR
