"""The log of a wait: where, as whom and until when at first, the outcome at last, the name at the end of each line."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_lro._core.checks import in_words
from airflow_provider_lro._core.names import in_short, short_name
from airflow_provider_lro.exceptions import LroError, OperationFailed, OperationTimeout
from airflow_provider_lro.sensors import LongRunningOperationSensor
from tests.airflow.worker import fire, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulator_fixture import Simulator

WAYS = pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "poke"])


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """Return the lines that were logged so far. Since Airflow 3 a task's own logger prints them."""
    caplog.set_level(logging.INFO)
    printed = ""

    def lines() -> list[str]:
        nonlocal printed
        printed += capsys.readouterr().out
        return [record.getMessage() for record in caplog.records] + re.findall(r"\[info +\] (.*?) \[", printed)

    return lines


def sensor(operation_name: Any, **kwargs: Any) -> LongRunningOperationSensor:
    return LongRunningOperationSensor(
        **{"task_id": "wait", "poke_interval": 0.1, "timeout": 20, "operation_name": operation_name, **kwargs}
    )


@WAYS
def test_first_and_last_line(
    lines: Callable[[], list[str]], name: Callable[..., str], simulator: Simulator, deferrable: bool
) -> None:
    """Where, by which connection, as whom, how often, until when; then the outcome, how long, and the polls."""
    operation = name(duration=0.3, fault="14*1")
    run(sensor(operation, deferrable=deferrable))
    logged = lines()
    (first,) = [line for line in logged if line.startswith("waiting for ")]
    assert re.fullmatch(
        rf"waiting for operation '{re.escape(operation)}' at {simulator.endpoint} \(connection 'lro_default', in"
        r" plaintext, as nobody\): polled every 0\.1 s after the backoff, until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00"
        r" \(in 20 s\)",
        first,
    )
    (last,) = [line for line in logged if line.startswith("succeeded after ")]
    assert re.fullmatch(rf"succeeded after [\d.]+ s \(\d+ polls here, [01] failed\) \[{in_short([operation])}\]", last)
    assert logged.index(first) < logged.index(last)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ({"outcome": "fail", "code": 9}, "failed after "),
        ({"outcome": "cancelled"}, "cancelled after "),
        ({"outcome": "never"}, "timed out after "),
        ({"fault": "7*forever"}, "call failed after "),
    ],
)
@WAYS
def test_last_line_of_what_does_not_succeed(
    lines: Callable[[], list[str]],
    name: Callable[..., str],
    script: dict[str, Any],
    said: str,
    deferrable: bool,
) -> None:
    """Wherever it ends, there is one."""
    with pytest.raises(LroError):
        run(sensor(name(duration=0.2, **script), deferrable=deferrable, timeout=1))
    assert len([line for line in lines() if line.startswith(said)]) == 1


@WAYS
def test_long_name_is_logged_once_and_the_outcome_stands_before_it(
    lines: Callable[[], list[str]], name: Callable[..., str], deferrable: bool
) -> None:
    """The UI does not wrap lines: what has happened is to be seen without scrolling."""
    operation = name(duration=0.3, outcome="fail", code=9, fault="14*1")
    with pytest.raises(OperationFailed) as failed:
        run(sensor(operation, deferrable=deferrable))
    mentions = {line for line in lines() if operation in line}
    assert [line.partition(operation)[0] for line in mentions] == ["waiting for operation '"]
    short = [line for line in lines() if short_name(operation) in line and operation not in line]
    assert len(short) >= 2
    assert all(line.endswith(f"{short_name(operation)!r}]") or "GetOperation of" in line for line in short)
    assert str(failed.value).startswith("the operation failed with FAILED_PRECONDITION (9)")
    assert str(failed.value).endswith(f"[operation {operation!r}]")


def test_first_line_of_many(lines: Callable[[], list[str]], name: Callable[..., str], simulator: Simulator) -> None:
    """Their number stands for the names."""
    run(sensor([name(duration=0) for _ in range(3)]))
    assert any(line.startswith(f"waiting for 3 operations at {simulator.endpoint} (") for line in lines())


@pytest.mark.parametrize(
    ("extra", "password", "said"),
    [
        ({}, None, "with application default credentials"),
        ({"is_anonymous": True}, None, "as nobody"),
        ({"key_path": "/keys/k.json"}, None, "with the key '/keys/k.json'"),
        ({"keyfile_dict": "{}"}, None, "with keyfile_dict"),
        ({"key_path": "/k", "impersonation_chain": "a@x,b@x"}, None, "as b@x, by the key '/k'"),
        ({}, "secret", "with a bearer token"),
    ],
)
def test_as_whom(
    monkeypatch: pytest.MonkeyPatch,
    lines: Callable[[], list[str]],
    extra: dict[str, Any],
    password: str | None,
    said: str,
) -> None:
    """The first line says whose credentials are used, and no secret."""
    stored = {"conn_type": "lro", "host": "127.0.0.1:1", "extra": extra, "password": password}
    monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps(stored))
    with pytest.raises(LroError):
        run(sensor("operations/o", lro_conn_id="mine", timeout=0))
    (first,) = [line for line in lines() if line.startswith("waiting for ")]
    assert f"(connection 'mine', {said}): " in first
    assert "secret" not in first


@WAYS
def test_unknown_types_are_told_once_with_what_makes_them_readable(
    lines: Callable[[], list[str]], name: Callable[..., str], deferrable: bool
) -> None:
    """Of many operations of a type, too."""
    names = [name(duration=0.2, metadata="unknown", response_type="unknown") for _ in range(2)]
    run(sensor(names, deferrable=deferrable))
    told = [line for line in lines() if " is not known here" in line]
    assert len(set(told)) == 2
    assert [line.partition(":")[2] for line in dict.fromkeys(told)] == [
        " response_type= or type_modules= would make it readable",
        " metadata_type= or type_modules= would make it readable",
    ]


@pytest.mark.parametrize(
    ("script", "kwargs", "shown"),
    [
        ({"outcome": "fail", "code": 9}, {}, "OperationFailed"),
        ({"outcome": "cancelled"}, {}, "OperationCancelled"),
        ({"outcome": "never"}, {"timeout": 0.1}, "OperationTimeout"),
        ({}, {"response_type": "google.protobuf.Duration"}, "PayloadTypeError"),
    ],
)
def test_errors_are_shown_by_their_documented_names(
    name: Callable[..., str], script: dict[str, Any], kwargs: dict[str, Any], shown: str
) -> None:
    """Whatever Airflow is to do with them, and without another error that they came of."""
    with pytest.raises(LroError) as raised:
        run(sensor(name(duration=0, **script), **kwargs))
    assert (
        f"{type(raised.value).__module__}.{type(raised.value).__qualname__}"
        == f"airflow_provider_lro.exceptions.{shown}"
    )
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_timeout_is_told_in_whole_seconds(name: Callable[..., str]) -> None:
    """Nobody has asked for 2.00714 s."""
    with pytest.raises(OperationTimeout, match="not done within 2 s: "):
        run(sensor(name(outcome="never"), timeout=2.004, deferrable=True))


def test_trigger_that_is_built_later_logs_no_first_line_again(
    lines: Callable[[], list[str]], name: Callable[..., str]
) -> None:
    """The worker has logged it, and its log is the same task's."""
    fire(
        (
            "airflow_provider_lro.triggers.LongRunningOperationTrigger",
            {"operation_name": name(duration=0), "interval": 0.1},
        )
    )
    assert not any(line.startswith("waiting for ") for line in lines())


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0 s"),
        (0.04, "0.04 s"),
        (0.3, "0.3 s"),
        (8.07214, "8 s"),
        (75, "1 min 15 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (7 * 86400.2, "7 d"),
        (90_061, "1 d 1 h"),
        (86_405, "1 d"),
    ],
)
def test_duration_in_words(seconds: float, said: str) -> None:
    """No more than two units."""
    assert in_words(seconds) == said
