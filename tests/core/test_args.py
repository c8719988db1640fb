"""The arguments of a wait, the table that checks them, and the checks of single values."""

from __future__ import annotations

import dataclasses
import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro._core.args import WaitArgs
from airflow_provider_lro._core.checks import (
    check_choice,
    check_flag,
    check_name,
    check_wait_timeout,
    is_number,
    is_whole,
    one_line,
    storable_json,
    without_user,
)
from airflow_provider_lro._core.outcome import TimedOut
from airflow_provider_lro._core.wait import Start
from tests.core.virtual import EPOCH, Service, run, wait_args

NOT_NUMBERS = [math.nan, math.inf, -math.inf, True, False, "5", [5], 10**400]
NOT_NAMES = ["", "  ", 5, b"operations/o", ["o"], "operations/\ud800"]


def test_every_argument_but_the_name_has_a_default() -> None:
    """These cross from operator to trigger, with the defaults of the documentation."""
    fields = {field.name: field.default for field in dataclasses.fields(WaitArgs)}
    assert fields.pop("operation_name") is dataclasses.MISSING
    assert fields == {
        "lro_conn_id": "lro_default",
        "endpoint": None,
        "interval": 60.0,
        "initial_delay": 1.0,
        "multiplier": 2.0,
        "jitter": 0.1,
        "rpc_timeout": 30.0,
        "not_found_grace": 60.0,
        "max_consecutive_errors": None,
        "on_timeout": "fail",
        "cancel_grace": 60.0,
        "started_at": None,
        "deadline": None,
        "impersonation_chain": None,
        "quota_project_id": None,
        "cancel_on_kill": False,
        "consecutive_errors": 0,
        "connect_timeout": 600.0,
        "reached": True,
        "poll_method": "get",
        "list_parent": None,
        "metadata_type": None,
        "type_modules": None,
        "headers": None,
    }
    assert all(field.kw_only for field in dataclasses.fields(WaitArgs))


def test_a_name_alone_is_enough_to_wait() -> None:
    """The defaults make sense."""
    WaitArgs(operation_name="operations/o").check()


def test_arguments_are_compared_by_identity_and_not_shown() -> None:
    """Airflow puts triggers into sets, and a trigger's own repr is not for a dataclass to write."""
    args, other = wait_args(), wait_args()
    assert args != other
    assert len({args, other}) == 2
    assert "operations/o" not in repr(args)
    args.deadline = EPOCH
    assert args.deadline == EPOCH


def test_the_constructor_takes_anything() -> None:
    """A trigger whose constructor raises stops its whole triggerer."""
    nonsense = {field.name: object() for field in dataclasses.fields(WaitArgs)}
    args = WaitArgs(**nonsense)
    assert all(getattr(args, name) is value for name, value in nonsense.items())


PAUSE = r"a number of seconds from 0\.1 to 1e\+09"
AT_LEAST_0 = "a number of seconds of at least 0"
MOMENT = r"None or epoch seconds up to 1e\+11"
WRONG: dict[str, tuple[str, list[Any]]] = {
    # The argument; what it must be; values that it cannot have.
    "interval": (rf"{PAUSE} \(a sensor calls it poke_interval\)", [*NOT_NUMBERS, None, 0, 0.09, -1, 1.1e9]),
    "initial_delay": (PAUSE, [*NOT_NUMBERS, None, 0, 0.09, -1, 1.1e9]),
    "multiplier": ("a number from 1 to 1000", [*NOT_NUMBERS, None, 0, 0.9, -1, 1000.1]),
    "jitter": ("a number from 0 to 1", [*NOT_NUMBERS, None, -0.1, 1.1]),
    "rpc_timeout": ("a number of seconds above 0", [*NOT_NUMBERS, None, 0, 0.0, -1, 1.1e9]),
    "not_found_grace": (AT_LEAST_0, [*NOT_NUMBERS, None, -0.1, 1.1e9]),
    "cancel_grace": (AT_LEAST_0, [*NOT_NUMBERS, None, -0.1, 1.1e9]),
    "started_at": (MOMENT, [*NOT_NUMBERS, -1.1e9, 1e11 + 1, -sys.float_info.max]),
    "deadline": (MOMENT, [*NOT_NUMBERS, -1.1e9, 1e11 + 1, -sys.float_info.max]),
    "max_consecutive_errors": ("None or a whole number of at least 0", [-1, 1.0, "1", True, False, math.nan]),
    "consecutive_errors": ("a whole number of at least 0", [-1, 1.0, "1", True, False, math.nan, None]),
    "connect_timeout": ("None or a number of seconds above 0", [*NOT_NUMBERS, 0, -1, 1.1e9]),
    "reached": ("True or False", [None, 0, 1, "no"]),
    "on_timeout": ("one of 'fail', 'cancel'", [None, "", "Cancel", "skip", 1, True, ["fail"]]),
    "poll_method": ("one of 'get', 'wait', 'auto', 'list'", [None, "", "poll", 1, ["get"]]),
    "cancel_on_kill": ("True or False", [None, 0, 1, "no"]),
    "list_parent": ("None or a non-empty text in UTF-8", NOT_NAMES),
    "metadata_type": ("None or a text in UTF-8", [1, ["a"], b"a", "\ud800"]),
    "type_modules": ("None or a text in UTF-8", [1, ["a"], b"a", "\ud800"]),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, id=f"{name}={str(value)[:20]!a}")
        for name, (_, values) in WRONG.items()
        for value in values
    ],
)
def test_a_wrong_argument_is_refused(name: str, value: Any) -> None:
    """Each wrong value is a ValueError that says what was given and what it must be."""
    with pytest.raises(ValueError, match=rf"^{name}=.*, but it must be {WRONG[name][0]}$") as refused:
        wait_args(**{name: value}).check()
    assert repr(value) in str(refused.value)


RANGES: dict[str, tuple[float, float]] = {
    "interval": (0.1, 1e9),
    "initial_delay": (0.1, 1e9),
    "multiplier": (1.0, 1000.0),
    "jitter": (0.0, 1.0),
    "rpc_timeout": (math.nextafter(0.0, 1.0), 1e9),
    "not_found_grace": (0.0, 1e9),
    "cancel_grace": (0.0, 1e9),
    "started_at": (-1e9, 1e11),
    "deadline": (-1e9, 1e11),
    "connect_timeout": (math.nextafter(0.0, 1.0), 1e9),
}
ALLOWED: dict[str, list[Any]] = {
    "interval": [1],
    "multiplier": [1],
    "jitter": [0, 1],
    "started_at": [None],
    "deadline": [None],
    "max_consecutive_errors": [None, 0, 10**30],
    "consecutive_errors": [0, 10**30],
    "on_timeout": ["fail", "cancel"],
    "poll_method": ["get", "wait", "auto", "list"],
    "connect_timeout": [None],
    "cancel_on_kill": [True, False],
    "reached": [True, False],
    "list_parent": [None, "p"],
    "metadata_type": [None, "", "module:Class"],
    "type_modules": [None, "", "a,b"],
}


@pytest.mark.parametrize("name", RANGES)
def test_the_ends_of_each_range_are_allowed_and_no_more(name: str) -> None:
    """The least and the most are allowed, the next float beyond is not."""
    least, most = RANGES[name]
    for value in (least, most):
        wait_args(**{name: value}).check()
    for value in (math.nextafter(least, -math.inf), math.nextafter(most, math.inf)):
        with pytest.raises(ValueError, match=f"^{name}="):
            wait_args(**{name: value}).check()


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ALLOWED.items() for value in values])
def test_a_right_argument_is_allowed(name: str, value: Any) -> None:
    """Whole numbers are numbers, and None is right where it has a meaning."""
    wait_args(**{name: value}).check()


def test_every_argument_is_checked_but_those_of_the_connection() -> None:
    """An argument that is added gets its rows in the tables here."""
    elsewhere = {"operation_name", "lro_conn_id", "endpoint", "impersonation_chain", "quota_project_id", "headers"}
    assert (
        WRONG.keys()
        == ALLOWED.keys() | RANGES.keys()
        == {field.name for field in dataclasses.fields(WaitArgs)} - elsewhere
    )


@pytest.mark.parametrize("started_at", [-1e9, 0.0, 1e9, EPOCH + 1.0, 1e11])
@pytest.mark.parametrize("start", Start)
def test_any_start_time_that_is_allowed_can_be_waited_from(started_at: float, start: Start) -> None:
    """A row that holds an odd time makes a wait like any other, not a crash of its trigger."""
    args = wait_args(started_at=started_at, timeout=10.0, multiplier=3)
    assert isinstance(run(args, Service(), start=start).outcome, TimedOut)


@pytest.mark.parametrize("value", [None, *NOT_NAMES])
def test_a_value_that_is_not_a_name_is_refused(value: Any) -> None:
    """The value is shown, and an example of a name."""
    with pytest.raises(ValueError, match=r"^operation_name=.*, but it must be a non-empty text in UTF-8, such as 'pro"):
        check_name(value)
    with pytest.raises(ValueError, match=r"^parent=.*, but it must be .*, such as 'projects/p'"):
        check_name(value, what="parent", example="projects/p")


def test_a_name_that_makes_sense_is_returned() -> None:
    """The check returns the value that it has checked."""
    assert check_name(" operations/o") == " operations/o"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, False),
        (1, True),
        (5, True),
        (6, False),
        (-3, False),
        (2.0, False),
        (True, False),
        ("2", False),
        (None, False),
    ],
)
def test_a_whole_number_in_a_range_is_an_int_in_it(value: Any, expected: bool) -> None:
    """True is 1 to Python, but never what was meant."""
    assert is_whole(value, least=1, most=5) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-1.5, True),
        (2, True),
        (2.5, True),
        (2.6, False),
        (-1.6, False),
        (True, False),
        (False, False),
        (math.nan, False),
        (math.inf, False),
        (10**400, False),
        ("2", False),
        (None, False),
    ],
)
def test_a_number_in_a_range_is_an_int_or_a_float_in_it(value: Any, expected: bool) -> None:
    """NaN is in no range, and a whole number that no float holds is compared all the same."""
    assert is_number(value, least=-1.5, most=2.5) is expected


def test_a_number_without_a_range_is_one_that_leaves_room_for_arithmetic() -> None:
    """Without a range, numbers up to 31 years of seconds either way are right."""
    assert is_number(1e9)
    assert is_number(-1e9)
    assert not is_number(1.1e9)
    assert not is_number(-1.1e9)


def test_a_whole_number_may_be_0_and_has_no_end() -> None:
    """Without a range any int that is not negative is right."""
    assert is_whole(0)
    assert is_whole(10**30)
    assert not is_whole(-1)


@pytest.mark.parametrize("value", [None, 0, 1, "True", "{{ x }}"])
def test_a_flag_is_true_or_false(value: Any) -> None:
    """A None that was meant for a dry run would delete."""
    assert [check_flag(flag, what="dry_run") for flag in (True, False)] == [True, False]
    with pytest.raises(ValueError, match=r"^dry_run=.*, but it must be True or False$") as refused:
        check_flag(value, what="dry_run")
    assert repr(value) in str(refused.value)


@pytest.mark.parametrize("value", [None, "", "Fail", ["fail"]])
def test_a_choice_is_one_of_its_texts(value: Any) -> None:
    """The error lists them all."""
    assert check_choice("skip", ("fail", "skip"), what="on_cancelled") == "skip"
    with pytest.raises(ValueError, match=r"^on_cancelled=.*, but it must be one of 'fail', 'skip'$") as refused:
        check_choice(value, ("fail", "skip"), what="on_cancelled")
    assert repr(value) in str(refused.value)


@pytest.mark.parametrize("value", [*NOT_NUMBERS, -0.1, 1.1e9])
def test_a_time_limit_is_a_number_of_seconds_or_none(value: Any) -> None:
    """0 polls once; None is no limit."""
    for right in (None, 0, 2.5, 1e9):
        check_wait_timeout(right)
    with pytest.raises(ValueError, match=r"^wait_timeout=.*, but it must be None or a number of seconds of at"):
        check_wait_timeout(value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("host:443", "host:443"), ("me:pass@host", "…@host"), ("me:p@ss@host/x", "…@host/x")],
)
def test_an_address_is_shown_without_a_user(text: str, shown: str) -> None:
    """Neither a user nor a password is in an error."""
    assert without_user(text) == shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (" two\n lines\t", "two lines"),
        ("a\x00b\x1b[31m\u202ec", "a b [31m c"),
        ("1234567890", "1234567890"),
        ("12345678901", "123456789…"),
        ("", ""),
    ],
)
def test_text_of_a_service_is_one_line_in_a_log(text: str, line: str) -> None:
    """It has no control and direction characters, and says when it was cut."""
    assert one_line(text, 10) == line


@given(text=st.text(), longest=st.integers(1, 20))
def test_a_line_is_bounded(text: str, longest: int) -> None:
    """Any text makes one printable line that is never longer than it may be."""
    line = one_line(text, longest)
    assert len(line) <= longest
    assert line.isprintable()
    assert line == line.strip()


def test_json_that_is_too_deep_is_refused() -> None:
    """Whoever serializes it would fail later, and worse."""
    value: list[Any] = []
    for _ in range(200):
        value = [value]
    assert storable_json(value) == value
    with pytest.raises(RecursionError, match="too deep for JSON"):
        storable_json([value])


def test_hidden_mappings_come_back(caplog: pytest.LogCaptureFixture) -> None:
    """By the text that stands for them; all other texts become storable, and the first field is named."""
    value = {"a": [{"value": "mark"}, {"value": "other"}], "b\0": "\ud800", "c": 1}
    mended = {"a": [{"@type": "x"}, {"value": "other"}], "b\ufffd": "\ufffd", "c": 1}
    assert storable_json(value, {"mark": {"@type": "x"}}) == mended
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "(of 2 texts)" in caplog.text


def test_keys_that_airflow_keeps_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    """With them Airflow would refuse the XCom or the event, or make an object of a class that a service names."""
    value = {"__classname__": "a.B", "x": [{"__type": "c", "__var": {"__id__": 1}}], "__version__": 1}
    mended = {"___classname__": "a.B", "x": [{"___type": "c", "___var": {"___id__": 1}}], "__version__": 1}
    assert storable_json(value) == mended
    assert storable_json(mended) == mended
    assert "'__classname__' has a name that Airflow keeps for itself" in caplog.text


def test_values_that_json_does_not_have() -> None:
    """They are texts, as in ProtoJSON: a database takes no NaN; so is a text that is not UTF-8."""
    assert storable_json([math.nan, math.inf, -math.inf, 0.5]) == ["NaN", "Infinity", "-Infinity", 0.5]
    assert storable_json({"a": b"b\xff"}) == {"a": "b\ufffd"}
