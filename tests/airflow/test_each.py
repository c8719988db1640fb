"""One act on each of several operations."""

from __future__ import annotations

import time

import pytest

from airflow_provider_lro.exceptions import LroError, OperationsFailed
from airflow_provider_lro.operators._bulk import AT_ONCE, each_at_once, raise_all

NAMES = [f"o{number}" for number in range(100)]


def test_each_at_once_gives_results_and_errors_in_order() -> None:
    """An error of ours is what came of one; any other ends the loop, where it came."""

    def act(name: str) -> str:
        if name == "o3":
            raise LroError("no")
        if name == "o5":
            raise KeyError(name)
        return name.upper()

    came = []
    with pytest.raises(KeyError):
        came.extend(each_at_once(NAMES, act))
    came = []
    for one in each_at_once(NAMES[:5], act):
        came.append(one)
    assert [(name, str(outcome)) for name, outcome in came] == [
        ("o0", "O0"),
        ("o1", "O1"),
        ("o2", "O2"),
        ("o3", "no"),
        ("o4", "O4"),
    ]


def test_whoever_leaves_early_leaves_the_rest_undone() -> None:
    """When it is closed, what has begun has come to its end, and the rest is never begun."""
    begun: list[str] = []
    ended: list[str] = []

    def act(name: str) -> None:
        begun.append(name)
        time.sleep(0.02)
        ended.append(name)

    outcomes = each_at_once(NAMES, act)
    assert next(outcomes) == ("o0", None)
    outcomes.close()
    assert len(begun) <= 3 * AT_ONCE
    assert sorted(begun) == sorted(ended)


def test_errors_of_many_are_one() -> None:
    """None is none, that of an only operation is itself, and of many the text is bounded and the errors are not."""
    raise_all({}, of=3, verb="read", others="3 were")
    error = LroError("no")
    with pytest.raises(LroError) as raised:
        raise_all({"o": error}, of=1, verb="read", others="0 were")
    assert raised.value is error
    with pytest.raises(OperationsFailed, match=r"^300 of 400 operations could not be read \(100 were\):") as failed:
        raise_all({f"o{number}": error for number in range(300)}, of=400, verb="read", others="100 were")
    assert len(failed.value.errors) == 300
    assert str(failed.value).count("\n- o") == 100
    assert str(failed.value).endswith("and 200 more")
    with pytest.raises(OperationsFailed) as failed:
        raise_all({"o\x1b[31m\n- p": LroError("no\n- q: " + "x" * 10_000)}, of=2, verb="read", others="1 was")
    assert "):\n- o [31m - p: no - q: xxx" in str(failed.value)
    assert len(str(failed.value)) < 600
