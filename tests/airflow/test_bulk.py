"""One act on each of several operations."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from airflow_provider_lro.exceptions import LroError, OperationsFailed
from airflow_provider_lro.operators._bulk import MAX_CONCURRENT_CALLS, act_on_each, for_each, raise_together

NAMES = [f"o{number}" for number in range(100)]


def act(name: str) -> str:
    if name == "o3":
        raise LroError("no")
    if name == "o5":
        raise KeyError(name)
    return name.upper()


def test_results_and_errors_come_in_order() -> None:
    """An LroError is the result of one; any other error ends it where it came."""
    found = []
    with pytest.raises(KeyError), closing(for_each(NAMES, act)) as each:
        found.extend((name, str(result)) for name, result in each)
    with closing(for_each(NAMES[:5], act)) as each:
        assert [(name, str(result)) for name, result in each] == [
            ("o0", "O0"),
            ("o1", "O1"),
            ("o2", "O2"),
            ("o3", "no"),
            ("o4", "O4"),
        ]


def test_no_result_is_lost_by_an_error() -> None:
    """There is an entry for each name, in order, and the errors by name."""
    results, errors = act_on_each(NAMES[2:5], act)
    assert results == ["O2", {"name": "o3", "error": {"code": None, "message": "no"}}, "O4"]
    assert {name: str(error) for name, error in errors.items()} == {"o3": "no"}
    assert act_on_each([], act) == ([], {})


def test_the_rest_is_not_begun_when_it_is_closed() -> None:
    """When it is closed early, what has begun has come to its end, and the rest is never begun."""
    begun: list[str] = []
    ended: list[str] = []
    closing_now = threading.Event()

    def hold(name: str) -> None:
        begun.append(name)
        if name != "o0":
            closing_now.wait(20)
        ended.append(name)

    results = for_each(NAMES, hold)
    assert next(results) == ("o0", None)
    threading.Timer(0.05, closing_now.set).start()
    results.close()
    assert len(begun) <= 1 + 2 * MAX_CONCURRENT_CALLS
    assert sorted(begun) == sorted(ended)


def test_errors_of_many_are_one() -> None:
    """Without errors none is raised, that of an only operation is itself; the text is bounded, the errors are not."""
    raise_together({}, total=3, text="none")
    error = LroError("no")
    for errors in ({"o": error}, {"o": error, "p": error}):
        with pytest.raises(LroError) as raised:
            raise_together(errors, total=len(errors), text="all")
        assert raised.value is error
    errors = {f"o{number}": LroError("no") for number in range(300)}
    with pytest.raises(OperationsFailed, match=r"^300 of 400 could not be read:\n- no") as failed:
        raise_together(errors, total=400, text="300 of 400 could not be read")
    assert failed.value.errors == errors
    assert str(failed.value).count("\n- no") == 20
    assert str(failed.value).endswith("and 280 more")
    with pytest.raises(OperationsFailed) as failed:
        raise_together({"o": LroError("n\x1b[31mo\n- q: " + "x" * 10_000)}, total=2, text="1 of 2")
    assert "1 of 2:\n- n [31mo - q: xxx" in str(failed.value)
    assert len(str(failed.value)) < 600
