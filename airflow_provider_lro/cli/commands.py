"""The work of the commands, and their exit codes; only a command that runs imports it."""

from __future__ import annotations

import os
import shlex
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.models.connection import Connection

from airflow_provider_lro._core.args import WaitArgs
from airflow_provider_lro._core.outcome import Done
from airflow_provider_lro._core.wait import Start, wait
from airflow_provider_lro._messages.encoding import operation_to_json, response_to_json
from airflow_provider_lro._messages.results import result_of
from airflow_provider_lro._messages.types import load
from airflow_provider_lro._runner.driver import drive, steady_clock
from airflow_provider_lro._transport.poller import Poller
from airflow_provider_lro.cli.exit_codes import ExitCode
from airflow_provider_lro.cli.output import Display, print_line, print_result, row
from airflow_provider_lro.exceptions import (
    LroError,
    OperationCancelled,
    OperationFailed,
    OperationNotFound,
    OperationTimeout,
)
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.hooks._connection import ConnectionSettings
from airflow_provider_lro.operators._bulk import ask_to_cancel
from airflow_provider_lro.version_compat import AirflowException

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from airflow_provider_lro._core.outcome import Outcome

__all__ = ["CommandHook", "UsageError", "run"]

EXIT_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (OperationCancelled, ExitCode.CANCELLED),
    (OperationFailed, ExitCode.FAILED),
    (OperationTimeout, ExitCode.TIMED_OUT),
    (OperationNotFound, ExitCode.NOT_FOUND),
    (LroError, ExitCode.CALL_FAILED),
)
"""The first class that an error is of decides."""
MAX_NAMES_IN_QUESTION = 10


class UsageError(Exception):
    """An error that a change of the command's arguments corrects; its text is the line on stderr."""


class CommandHook(LongRunningOperationHook):
    """The hook of a command: it finds connections in the database, too, while a task's hook asks the API server."""

    _no_host = "give --endpoint"

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(
            args.conn_id,
            endpoint=args.endpoint,
            impersonation_chain=args.impersonation_chain,
            quota_project_id=args.quota_project_id,
        )
        if args.insecure:
            if not args.endpoint:
                raise UsageError(
                    "--insecure was given without --endpoint: give both, or set insecure in the connection's extra"
                )
            self._settings = ConnectionSettings(extra={"insecure": True})

    @classmethod
    def get_connection(cls, conn_id: str) -> Any:
        """Return a connection from wherever Airflow stores them."""
        return Connection.get_connection_from_secrets(conn_id)


def run(command: str, args: argparse.Namespace, *, prog: str) -> NoReturn:
    """Run a command to its end.

    Raises:
        SystemExit: always, with the exit code.
    """
    try:
        code = _execute(command, args, prog)
    except BrokenPipeError:
        _discard_output()
        code = ExitCode.BROKEN_PIPE
    sys.exit(code)


def _execute(command: str, args: argparse.Namespace, prog: str) -> ExitCode:
    """Run a command, print its error as one line, and return its exit code."""
    args.label = f"{prog} {command}"
    try:
        _import_types(args.type_module)
        with CommandHook(args) as hook:
            return _COMMANDS[command](args, hook)
    except UsageError as error:
        code, text = ExitCode.USAGE, str(error)
    except LroError as error:
        code, text = _exit_code(error), str(error)
    except AirflowException as error:  # of Airflow's secrets backends
        code, text = ExitCode.CALL_FAILED, str(error)
    except KeyboardInterrupt:
        code, text = ExitCode.INTERRUPTED, f"interrupted{_advice_on_interrupt(command, args, prog)}"
    print_line(f"{args.label}: {text}")
    return code


def _exit_code(error: LroError) -> ExitCode:
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def _advice_on_interrupt(command: str, args: argparse.Namespace, prog: str) -> str:
    if command == "cancel":
        return "; operations that were asked to cancel stay asked"
    if command != "wait":
        return ""
    words = [args.name, *(["--insecure"] if args.insecure else [])]
    for key in ("endpoint", "impersonation_chain", "quota_project_id", "conn_id"):
        if (value := getattr(args, key)) not in (None, LongRunningOperationHook.default_conn_name):
            words += [f"--{key.replace('_', '-')}", value]
    return f"; the operation goes on. To cancel it: {prog} cancel {shlex.join(words)}"


def _discard_output() -> None:
    """Keep Python from writing an error at its exit, when it cannot flush to a reader that has ended."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            os.dup2(null, stream.fileno())


def _import_types(modules: list[str]) -> None:
    try:
        load(type_modules=modules)
    except ValueError as error:
        raise UsageError(str(error)) from None


# ── the commands ──


def _get(args: argparse.Namespace, hook: CommandHook) -> ExitCode:
    states, code = _for_each(args, args.names, lambda name: hook.get_operation(name).state)
    if states:
        print_result(list(map(operation_to_json, states)), list(map(row, states)), args.output)
    return code


def _list(args: argparse.Namespace, hook: CommandHook) -> ExitCode:
    client = hook.get_conn(args.parent)
    pager = client.list_operations(args.parent, args.filter, args.page_size, args.return_partial_success)
    states = list(islice(pager, args.limit))
    if pager.unreachable:
        print_line(f"not reached: {', '.join(pager.unreachable)}")
    print_result(list(map(operation_to_json, states)), [row(each, listed=True) for each in states], args.output)
    return ExitCode.DONE


def _wait(args: argparse.Namespace, hook: CommandHook) -> ExitCode:
    options = {"on_timeout": args.on_timeout, "not_found_grace": args.not_found_grace}
    wait_args, outcome = _wait_for(hook, args.name, timeout=args.timeout, interval=args.interval, **options)
    response = response_to_json(result_of(outcome, wait_args))
    print_result(response, [] if outcome.operation is None else [row(outcome.operation)], args.output)
    return ExitCode.DONE


def _cancel(args: argparse.Namespace, hook: CommandHook) -> ExitCode:
    clock = steady_clock()
    deadline = None if args.timeout is None else clock() + args.timeout

    def ask(name: str) -> dict[str, Any]:
        asked, word = ask_to_cancel(hook.get_conn(name), name)
        return {"name": name, "asked": asked, "outcome": word}

    def await_end(result: dict[str, Any]) -> None:
        timeout = None if deadline is None else max(0.0, deadline - clock())
        wait_args, outcome = _wait_for(hook, result["name"], timeout=timeout, start=Start.POLL, interval=args.interval)
        result["outcome"] = outcome.word
        if not isinstance(outcome, Done):
            result_of(outcome, wait_args)

    results, code = _for_each(args, args.names, ask)
    if args.wait:
        _, wait_code = _for_each(args, [result for result in results if result["asked"]], await_end)
        code = code or wait_code
    if results:
        print_result(results, results, args.output)
    return code


def _delete(args: argparse.Namespace, hook: CommandHook) -> ExitCode:
    if not args.yes and not _confirm(args.names):
        print_line("nothing was deleted")
        return ExitCode.OTHER

    def delete(name: str) -> dict[str, Any]:
        hook.delete_operation(name)
        return {"name": name, "outcome": "deleted"}

    results, code = _for_each(args, args.names, delete)
    if results:
        print_result(results, results, args.output)
    return code


_COMMANDS: dict[str, Callable[[argparse.Namespace, CommandHook], ExitCode]] = {
    "get": _get,
    "list": _list,
    "wait": _wait,
    "cancel": _cancel,
    "delete": _delete,
}


def _for_each(args: argparse.Namespace, items: list[Any], act: Callable[[Any], Any]) -> tuple[list[Any], ExitCode]:
    """Act on each item, print each error, and return the results and the exit code of the first error."""
    results = []
    code = ExitCode.DONE
    for item in items:
        try:
            results.append(act(item))
        except LroError as error:
            print_line(f"{args.label}: {error}")
            code = code or _exit_code(error)
    return results, code


def _wait_for(
    hook: CommandHook, name: str, *, timeout: float | None, start: Start = Start.FRESH, **options: Any
) -> tuple[WaitArgs, Outcome]:
    client, clock = hook.get_conn(name), steady_clock()
    now = clock()
    deadline = None if timeout is None else now + timeout
    args = WaitArgs(operation_name=name, started_at=now, deadline=deadline, **options)
    display = Display(name)
    outcome = drive(wait(args, now=now, start=start), Poller(args, client), clock=clock, observer=display)
    print_line(f"operation {name!r}: {display.summary}")
    return args, outcome


def _confirm(names: list[str]) -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("stdin is not a terminal, so nobody can be asked: give --yes to delete without a question")
    for name in names[:MAX_NAMES_IN_QUESTION]:
        print_line(name)
    if len(names) > MAX_NAMES_IN_QUESTION:
        print_line(f"… and {len(names) - MAX_NAMES_IN_QUESTION} more")
    # Not input(): that would ask on stdout, where the result goes.
    sys.stderr.write("Their results will be lost; operations that run go on. Delete? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
