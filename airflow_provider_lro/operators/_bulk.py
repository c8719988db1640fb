"""One act on each of several operations: one after the other or some at a time, and what failed only after all.

Floor 2: imports floors 0 and 1; floor ½ inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_lro._core import outcome as outcomes
from airflow_provider_lro._core.text import one_line
from airflow_provider_lro.exceptions import LroError, OperationNotFound, OperationsFailed, UnimplementedError
from airflow_provider_lro.operators._cancelling import ask_to_cancel

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from airflow_provider_lro._transport.client import OperationsClient

__all__ = ["AT_ONCE", "WORDS", "ask", "each", "each_at_once", "one_or_all", "raise_all"]

AT_ONCE = 16
"""Calls on their way at a time: enough to hide the network, too few to be taken for an attack."""
LONGEST = 500
"""Characters of one error in the text of one that stands for several …"""
LINES = 100
"""… and how many are in it; all of them are in its ``errors``."""
WORDS: dict[type[Any], str] = {
    outcomes.Running: "running",
    outcomes.Succeeded: "succeeded",
    outcomes.Failed: "failed",
    outcomes.Cancelled: "cancelled",
}
"""What an operation came to, as the XComs say it."""

T = TypeVar("T")


def ask(
    client: OperationsClient,
    name: str,
    *,
    rpc_timeout: float,
    ignore_missing: bool,
    ignore_unimplemented: bool,
    log: Any,
) -> dict[str, Any]:
    """Ask to cancel an operation that is not done yet.

    Returns:
        ``name``; ``asked``, whether it was asked; ``outcome``: ``running`` when it was, else what it had come to
        before, ``missing`` or ``unimplemented``.
    """

    def result(outcome: str, *, asked: bool) -> dict[str, Any]:
        log.info("operation %r: %s%s", name, "asked to cancel, " if asked else "", outcome)
        return {"name": name, "asked": asked, "outcome": outcome}

    try:
        found = ask_to_cancel(client, name, rpc_timeout=rpc_timeout)
    except OperationNotFound:
        if not ignore_missing:
            raise
        return result("missing", asked=False)
    except UnimplementedError:
        if not ignore_unimplemented:
            raise
        return result("unimplemented", asked=False)
    return result(WORDS[type(found)], asked=isinstance(found, outcomes.Running))


def each(names: Sequence[str], act: Callable[[str], T], *, verb: str) -> list[T]:
    """Act on each name, and raise what went wrong only after all were tried."""
    results: list[T] = []
    errors: dict[str, LroError] = {}
    for name in names:
        try:
            results.append(act(name))
        except LroError as error:
            errors[name] = error
    raise_all(errors, of=len(names), verb=verb, others=f"{len(results)} were")
    return results


def each_at_once(names: Sequence[str], act: Callable[[str], T]) -> Generator[tuple[str, T | LroError]]:
    """Act on each name in threads, and give what came of it, in order.

    To be closed by whoever leaves it early, and Airflow's timeout may leave it anywhere: then the rest is not begun,
    and what has begun comes to its end.
    """

    def tried(name: str) -> T | LroError:
        try:
            return act(name)
        except LroError as error:
            return error

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield from zip(names, pool.map(tried, names), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def raise_all(errors: Mapping[str, LroError], *, of: int, verb: str, others: str, what: str = "operations") -> None:
    """Raise the errors, if there are any, as one; that of an only operation as it is.

    Args:
        errors: by name.
        of: how many there were in all.
        verb: what could not be done to them, as a participle.
        others: what became of the rest.
        what: what they are.
    """
    if not errors:
        return
    if of == 1:
        raise next(iter(errors.values()))
    lines = "".join(f"\n- {one_line(f'{name}: {error}', LONGEST)}" for name, error in islice(errors.items(), LINES))
    if len(errors) > LINES:
        lines += f"\n- … and {len(errors) - LINES} more"
    raise OperationsFailed(f"{len(errors)} of {of} {what} could not be {verb} ({others}):{lines}", errors=errors)


def one_or_all(results: list[dict[str, Any]], given: object) -> Any:
    """For one name its result, for a sequence of names a list."""
    several = isinstance(given, Sequence) and not isinstance(given, str | Mapping)
    return results if several else results[0]
