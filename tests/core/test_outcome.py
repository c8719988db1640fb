"""The outcome of a wait, of many waits together, and the state of an operation: values, and nothing but values."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, get_args

import pytest

from airflow_provider_lro._core.outcome import (
    CallFailed,
    CancelEffect,
    Cancelled,
    Done,
    Failed,
    NotFound,
    Outcome,
    Quorum,
    Succeeded,
    TimedOut,
)
from airflow_provider_lro._core.state import JsonPayload, OperationState, Payload, size_of
from airflow_provider_lro._core.wait import outcome_of
from airflow_provider_lro.exceptions import RpcError

DONE = [Succeeded, Failed, Cancelled]
STATE = OperationState(name="operations/o", done=True)
ERROR = RpcError("a call failed")
VALUES = [*[kind(operation=STATE) for kind in DONE], TimedOut(), NotFound(error=ERROR), CallFailed(error=ERROR)]


def test_a_wait_has_one_of_six_outcomes() -> None:
    """Code that handles outcomes handles these, and never meets one that is still running."""
    assert set(get_args(Outcome)) == {*DONE, TimedOut, NotFound, CallFailed}
    assert set(get_args(Done)) == set(DONE)


def test_an_outcome_carries_its_word() -> None:
    """The words of reports, events for assets and the metrics' tags; each is another."""
    words = [value.word for value in VALUES]
    assert words == ["succeeded", "failed", "cancelled", "timed_out", "not_found", "call_failed"]


def test_a_cancel_at_the_deadline_has_one_of_four_effects() -> None:
    """An event can hold these, so they change only by additions."""
    assert get_args(CancelEffect) == ("none", "took effect", "asked", "refused")


@pytest.mark.parametrize(
    "value", [*VALUES, STATE, Payload(), JsonPayload(json=1), Quorum(total=1)], ids=lambda value: type(value).__name__
)
def test_values_are_frozen_and_slotted(value: Any) -> None:
    """No field can be changed and none can be added."""
    for field in dataclasses.fields(value):
        assert field.kw_only
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, "other")
    assert not hasattr(value, "__dict__")


@pytest.mark.parametrize("kind", DONE)
def test_a_done_operation_is_held_itself(kind: Any) -> None:
    """The state is handed on as it is; where it was too large to be kept, None is given, never left out."""
    assert kind(operation=STATE).operation is STATE
    assert kind(operation=None).operation is None
    with pytest.raises(TypeError):
        kind()


@pytest.mark.parametrize("kind", [NotFound, CallFailed])
def test_an_operation_that_could_not_be_read_has_its_error(kind: Any) -> None:
    """The error is handed on as it is, and is not optional; the last known state is."""
    assert kind(error=ERROR).error is ERROR
    assert kind(error=ERROR).operation is None
    assert kind(error=ERROR, operation=STATE).operation is STATE
    with pytest.raises(TypeError):
        kind()


def test_a_timeout_may_know_nothing() -> None:
    """A wait that was never answered times out all the same, and has cancelled nothing."""
    timed_out = TimedOut()
    assert (timed_out.operation, timed_out.error, timed_out.cancel_error) == (None, None, None)
    assert timed_out.cancel == "none"


def test_a_timeout_whose_last_poll_was_not_sent_says_so() -> None:
    """Only then may the operation have ended long before."""
    not_sent = RpcError("rate limited, not sent", code=14)
    not_sent.not_sent = True
    assert [TimedOut(error=error).is_undecided for error in (None, ERROR, not_sent)] == [False, False, True]


def test_outcomes_of_different_kinds_are_different() -> None:
    """The same operation, succeeded and failed, is not the same outcome."""
    found = [kind(operation=STATE) for kind in DONE]
    assert [[one == other for other in found].count(True) for one in found] == [1, 1, 1]
    assert copy.deepcopy(found) == found


@pytest.mark.parametrize(
    ("code", "kind"), [(None, Succeeded), (0, Failed), (1, Cancelled), (2, Failed), (16, Failed), (99, Failed)]
)
@pytest.mark.parametrize("message", ["", "m"])
def test_the_error_decides(code: int | None, kind: type[Any], message: str) -> None:
    """An error with the code 0 and without a message is a failure; neither error nor response is a success."""
    state = OperationState(name="operations/o", done=True, code=code, message=message)
    outcome = outcome_of(state)
    assert type(outcome) is kind
    assert outcome.operation is state


# ── the state ──


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"metadata": Payload()}, False),
        ({"message": "m"}, False),
        ({"code": 0}, True),
        ({"response": Payload()}, True),
        ({"response": JsonPayload(json=None)}, True),
    ],
)
def test_a_state_has_a_result_with_an_error_or_a_response(fields: dict[str, Any], expected: bool) -> None:
    """An empty one counts: it is there."""
    assert OperationState(name="o", **fields).has_result is expected


def test_a_state_knows_how_large_it_is() -> None:
    """Text, details, response and metadata count, bytes as they are and JSON as it travels."""
    assert OperationState(name="operations/o").size == 0
    state = OperationState(
        name="o", message="four", details=Payload(value=b"two"), response=JsonPayload(json={"a": 1}), metadata=Payload()
    )
    assert state.size == 4 + 3 + len('{"a": 1}')
    assert size_of(None) == 0


# ── many ──


@pytest.mark.parametrize(("wait_for", "wanted"), [("all", 0), ("any", 1), (1, 1), (50, 50)])
def test_wait_for_says_how_many_must_succeed(wait_for: Any, wanted: int) -> None:
    """0 are all of them, and each is waited for."""
    assert Quorum.wanted_by(wait_for) == wanted


@pytest.mark.parametrize("wait_for", [0, -1, 1.0, True, False, "", "none", "1", None, ["all"], "ALL"])
def test_a_wrong_wait_for_is_refused(wait_for: Any) -> None:
    """The error shows the value and the choice."""
    expected = r'^wait_for=.*, but it must be "all", "any" or a whole number of at least 1$'
    with pytest.raises(ValueError, match=expected) as refused:
        Quorum.wanted_by(wait_for)
    assert repr(wait_for) in str(refused.value)


@pytest.mark.parametrize(
    ("wanted", "succeeded", "failed", "is_over", "is_met"),
    [
        # All of three: each is waited for, come what may.
        (0, 0, 0, False, False),
        (0, 2, 0, False, False),
        (0, 3, 0, True, True),
        (0, 0, 1, False, False),
        (0, 2, 1, True, False),
        (0, 0, 3, True, False),
        # Any of three.
        (1, 0, 2, False, False),
        (1, 1, 0, True, True),
        (1, 1, 2, True, True),
        (1, 0, 3, True, False),
        # Two of three: over as soon as nothing can change the verdict.
        (2, 1, 0, False, False),
        (2, 2, 0, True, True),
        (2, 1, 1, False, False),
        (2, 0, 2, True, False),
        (2, 1, 2, True, False),
        # Three of three by number: one failure is enough to know.
        (3, 0, 1, True, False),
        (3, 2, 0, False, False),
        (3, 3, 0, True, True),
    ],
)
def test_a_quorum_is_over_when_its_verdict_is_final(
    wanted: int, succeeded: int, failed: int, is_over: bool, is_met: bool
) -> None:
    """Of three operations, by how many must succeed, and how many have succeeded and failed."""
    quorum = Quorum(total=3, wanted=wanted)
    assert quorum.is_over(succeeded=succeeded, failed=failed) is is_over
    assert quorum.is_met(succeeded) is is_met


def test_what_is_left_to_a_worker_is_undecided() -> None:
    """It is neither a success nor a failure, and nothing is waited for when only such are left."""
    large = RpcError("too large", code=8)
    large.too_large = True
    undecided = (CallFailed(error=large), TimedOut(error=large), CallFailed(error=ERROR))
    assert [each.is_undecided for each in undecided] == [True, True, False]
    for wanted in (0, 1, 2):
        quorum = Quorum(total=3, wanted=wanted)
        assert not quorum.is_over(succeeded=0, failed=1, undecided=1)
        assert quorum.is_over(succeeded=0, failed=1, undecided=2)
        assert not quorum.is_over(succeeded=0, failed=1)
