"""One act on each of several operations, some at a time, and their errors as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_lro._core.checks import one_line
from airflow_provider_lro.exceptions import (
    Code,
    LroError,
    OperationNotFound,
    OperationsFailed,
    RpcError,
    UnimplementedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from airflow_provider_lro._transport.client import OperationsClient

MAX_CONCURRENT_CALLS = 32
"""Calls on their way at a time: enough to hide the network, too few to be taken for an attack."""
MAX_ERROR_TEXT = 500
"""Characters of one error in the text of one that stands for several …"""
MAX_ERROR_LINES = 20
"""… and how many are in it; all of them are in its ``errors``."""

T = TypeVar("T")


def for_each(names: Sequence[str], act: Callable[[str], T]) -> Generator[tuple[str, T | LroError]]:
    """Act on each name, and yield the results in order; an LroError is a result.

    To be closed by whoever leaves it early, and Airflow's timeout may leave it anywhere: then the rest is not begun,
    and those that have begun come to their end.
    """

    def tried(name: str) -> T | LroError:
        try:
            return act(name)
        except LroError as error:
            return error

    if len(names) == 1:  # in this thread, where a signal ends it at once
        yield names[0], tried(names[0])
        return
    pool = ThreadPoolExecutor(MAX_CONCURRENT_CALLS)
    try:
        yield from zip(names, pool.map(tried, names), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def act_on_each(names: Sequence[str], act: Callable[[str], T]) -> tuple[list[T | dict[str, Any]], dict[str, LroError]]:
    """Act on each name; return the results, in order, with an entry for each that failed, and the errors by name."""
    results: list[T | dict[str, Any]] = []
    errors: dict[str, LroError] = {}
    with closing(for_each(names, act)) as found:
        for name, result in found:
            if isinstance(result, LroError):
                errors[name] = result
                results.append(failed_entry(name, result))
            else:
                results.append(result)
    return results, errors


def failed_entry(name: str, error: LroError) -> dict[str, Any]:
    """Return the entry of an operation in an XCom where something about it failed."""
    return {"name": name, "error": {"code": error.code, "message": one_line(error.message, MAX_ERROR_TEXT)}}


def errors_in(results: Iterable[Mapping[str, Any]]) -> dict[str, LroError]:
    """Return the errors in entries of ``failed_entry``, by name: after a deferral only the entries are left."""
    return {
        one["name"]: RpcError(f"{one['error']['message']} [operation {one['name']!r}]", code=one["error"]["code"])
        for one in results
        if "error" in one
    }


def raise_together(errors: Mapping[str, LroError], *, total: int, text: str) -> None:
    """Raise the errors of ``total`` operations as one; that of an only operation, and one of all of them, as it is.

    ``text``: how many of them failed, at what, and the outcome of the others. Without errors nothing is raised.
    """
    each = list(errors.values())
    if not each:
        return
    if total == 1 or (len(each) == total and all(error is each[0] for error in each)):
        raise each[0]
    raise OperationsFailed(f"{text}:{error_lines(each)}", errors=errors)


def error_lines(errors: Iterable[Exception]) -> str:
    """Return errors as lines of a list, as many as a log should have."""
    each = list(errors)
    more = f"\n… and {len(each) - MAX_ERROR_LINES} more" if len(each) > MAX_ERROR_LINES else ""
    return "".join(f"\n- {one_line(str(error), MAX_ERROR_TEXT)}" for error in each[:MAX_ERROR_LINES]) + more


def one_or_all(results: list[Any], given: object) -> Any:
    """Return the result for one name, a list for a sequence of names."""
    several = isinstance(given, Sequence) and not isinstance(given, str | Mapping)
    return results if several else results[0]


def ask_to_cancel(client: OperationsClient, name: str, *, rpc_timeout: float | None = None) -> tuple[bool, str]:
    """Ask to cancel an operation, unless it is done; return whether it was asked, and the word for its state before.

    Raises:
        LroError: a call failed; it may have been asked.
    """
    from airflow_provider_lro._core.wait import outcome_of

    state = client.get_operation(name, rpc_timeout=rpc_timeout)
    if state.done:
        return False, outcome_of(state).word
    try:
        client.cancel_operation(name, rpc_timeout=rpc_timeout)
    except RpcError as error:
        if error.code != Code.FAILED_PRECONDITION:
            raise
        # Some services refuse to cancel what is done: has it finished since we looked?
        since = client.get_operation(name, rpc_timeout=rpc_timeout)
        if not since.done:
            raise
        return False, outcome_of(since).word
    return True, "running"


def word_of(error: LroError, *, ignore_missing: bool, ignore_unimplemented: bool) -> str:
    """Return the word for an error that is to be ignored; raise all others."""
    if isinstance(error, OperationNotFound) and ignore_missing:
        return "missing"
    if isinstance(error, UnimplementedError) and ignore_unimplemented:
        return "unimplemented"
    raise error
