"""A user's own check of a result: whether it can be called, and what its answer means."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core.checks import MAX_LINE, one_line
from airflow_provider_lro.version_compat import AirflowFailException, AirflowSkipException

if TYPE_CHECKING:
    from collections.abc import Callable

EXPECTED = (
    "it must be a function of the response and the metadata, such as"
    " `lambda response, metadata: response.failed_count == 0`"
)


def check_callable(check: object) -> None:
    """Raise ValueError for a check that cannot be called with a response and metadata, as far as that can be known."""
    if not callable(check):
        raise ValueError(f"check={check!r}, but {EXPECTED}")  # noqa: TRY004
    if inspect.iscoroutinefunction(check) or inspect.iscoroutinefunction(getattr(check, "__call__", None)):  # noqa: B004
        raise ValueError(f"check={name_of(check)} is a coroutine function, and nobody awaits it; {EXPECTED}")
    try:
        signature = inspect.signature(check)
    except ValueError:  # one in C may not tell
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise ValueError(f"check={name_of(check)} cannot be called with two arguments ({error}); {EXPECTED}") from None


def name_of(check: Any) -> str:
    """Return the name of a check, for an error."""
    return str(getattr(check, "__name__", type(check).__name__))


def rejection(check: Callable[[Any, Any], Any], response: Any, metadata: Any) -> str | None:
    """Return in words which check rejects a result, why, and what it saw; None if it does not.

    Raises:
        AirflowFailException, AirflowSkipException: the check has raised it, and means it.
        ValueError: the check is a coroutine function after all.
    """
    from airflow_provider_lro._messages.encoding import response_to_json

    reason = None
    try:
        verdict = check(response, metadata)
        if not verdict or isinstance(verdict, str):
            said = one_line(verdict, MAX_LINE) if isinstance(verdict, str) else ""
            reason = said or f"it has returned {verdict!r}"
    except (AirflowFailException, AirflowSkipException):
        raise
    except Exception as error:  # noqa: BLE001  (whatever it is, the result was not found right)
        verdict, reason = None, one_line(f"it has raised {type(error).__name__}: {error}", MAX_LINE)
    if inspect.iscoroutine(verdict):
        verdict.close()
        raise ValueError(f"check={name_of(check)} has returned a coroutine, and nobody awaits it; {EXPECTED}")
    if reason is None:
        return None
    saw = [one_line(json.dumps(response_to_json(each)), MAX_LINE) for each in (response, metadata)]
    return f"rejected by check={name_of(check)}: {reason}; it saw response={saw[0]} metadata={saw[1]}"
