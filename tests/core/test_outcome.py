"""What a wait comes to: values, and nothing but values."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, get_args

import pytest

from airflow_provider_lro._core import outcome
from airflow_provider_lro._core.outcome import (
    Broken,
    CancelEffect,
    Cancelled,
    Failed,
    NotFound,
    Outcome,
    Running,
    Succeeded,
    TimedOut,
)
from airflow_provider_lro.exceptions import RpcError

READ = [Running, Succeeded, Failed, Cancelled]
ERROR = RpcError("a call failed")
VALUES = [*[kind(operation="o") for kind in READ], TimedOut(), NotFound(error=ERROR), Broken(error=ERROR)]


def test_a_wait_comes_to_one_of_six_outcomes() -> None:
    """Whatever handles outcomes handles these, and never meets one that is still running."""
    assert set(get_args(Outcome)) == {Succeeded, Failed, Cancelled, TimedOut, NotFound, Broken}


def test_everything_public_is_declared() -> None:
    """The module declares all of its values."""
    kinds = {name for name, value in vars(outcome).items() if dataclasses.is_dataclass(value)}
    assert set(outcome.__all__) == kinds | {"Outcome", "CancelEffect"}


def test_a_cancel_at_the_deadline_has_one_of_four_effects() -> None:
    """These are what an event can hold, so they change only by additions."""
    assert get_args(CancelEffect) == ("none", "took effect", "asked", "refused")


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_outcomes_are_frozen_and_slotted(value: Any) -> None:
    """No field can be changed and none can be added."""
    for field in dataclasses.fields(value):
        assert field.kw_only
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, "other")
    assert not hasattr(value, "__dict__")


@pytest.mark.parametrize("kind", READ)
def test_what_was_read_holds_the_operation_itself(kind: Any) -> None:
    """The operation is handed on as it is, and is not optional."""
    operation = object()
    assert kind(operation=operation).operation is operation
    with pytest.raises(TypeError):
        kind()


@pytest.mark.parametrize("kind", [NotFound, Broken])
def test_what_could_not_be_read_holds_its_error(kind: Any) -> None:
    """The error is handed on as it is, and is not optional; the last known state is."""
    operation = object()
    assert kind(error=ERROR).error is ERROR
    assert kind(error=ERROR).operation is None
    assert kind(error=ERROR, operation=operation).operation is operation
    with pytest.raises(TypeError):
        kind()


def test_a_timeout_may_know_nothing() -> None:
    """A wait that was never answered times out all the same, and has cancelled nothing."""
    timed_out = TimedOut()
    assert (timed_out.operation, timed_out.error, timed_out.cancel_error) == (None, None, None)
    assert timed_out.cancel == "none"


def test_outcomes_of_different_kinds_are_different() -> None:
    """The same operation, succeeded and failed, is not the same outcome."""
    found = [kind(operation="o") for kind in READ]
    assert [[one == other for other in found].count(True) for one in found] == [1, 1, 1, 1]
    assert copy.deepcopy(found) == found
