"""What the commands do, and how they end. Floor 3: loads everything, so only a command that runs imports it."""

from __future__ import annotations

import os
import shlex
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.models.connection import Connection

from airflow_provider_lro._core.outcome import Running
from airflow_provider_lro._core.wait import Start, WaitArgs, wait
from airflow_provider_lro._messages.encoding import response_to_json
from airflow_provider_lro._messages.types import load
from airflow_provider_lro._runner.driver import drive, result_of, steady_clock
from airflow_provider_lro.cli.exit import ExitCode
from airflow_provider_lro.cli.output import STATES, document, named, row, say, show
from airflow_provider_lro.cli.progress import Display
from airflow_provider_lro.exceptions import (
    LroError,
    OperationCancelled,
    OperationFailed,
    OperationNotFound,
    OperationTimeout,
)
from airflow_provider_lro.hooks import LongRunningOperationHook
from airflow_provider_lro.hooks._connection import ConnectionSettings
from airflow_provider_lro.operators._cancelling import ask_to_cancel
from airflow_provider_lro.version_compat import AirflowException

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._transport.client import OperationsClient

__all__ = ["CommandHook", "exit_code", "run"]

SHOWN_NAMES = 10
"""Names in a question."""


class UsageError(Exception):
    """Something that whoever typed the command can put right; its text is the line they get."""


class CommandHook(LongRunningOperationHook):
    """The hook of a command, which finds connections in the database, too; that of a task asks the API server."""

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
                raise UsageError("--insecure needs --endpoint; for a connection, set insecure in its extra")
            self._settings = ConnectionSettings(extra={"insecure": True})

    @classmethod
    def get_connection(cls, conn_id: str) -> Any:
        """Return a connection from wherever Airflow stores them."""
        return Connection.get_connection_from_secrets(conn_id)


def run(command: str, args: argparse.Namespace, *, prog: str) -> NoReturn:
    """Run a command to its end, without Airflow's logs unless they are asked for.

    Raises:
        SystemExit: always, with the exit code.
    """
    from airflow.utils.cli import suppress_logs_and_warning

    def quiet(args: argparse.Namespace) -> None:
        try:
            code = _end(command, args, prog)
        except BrokenPipeError:
            _let_go_of_the_pipe()
            code = ExitCode.BROKEN_PIPE
        sys.exit(code)

    suppress_logs_and_warning(quiet)(args)
    raise AssertionError("unreachable")


def exit_code(error: LroError) -> ExitCode:
    """Return what a script learns of an error."""
    for kind, code in (
        (OperationCancelled, ExitCode.CANCELLED),
        (OperationFailed, ExitCode.FAILED),
        (OperationTimeout, ExitCode.TIMED_OUT),
        (OperationNotFound, ExitCode.NOT_FOUND),
    ):
        if isinstance(error, kind):
            return code
    return ExitCode.NOT_CALLED


def _end(command: str, args: argparse.Namespace, prog: str) -> ExitCode:
    """Do it; an error is one line and an exit code."""
    args.said_by = f"{prog} {command}"
    try:
        _load_types(args.type_module)
        with CommandHook(args) as hook:
            return _COMMANDS[command](args, hook)
    except UsageError as error:
        code, text = ExitCode.USAGE, str(error)
    except LroError as error:
        code, text = exit_code(error), str(error)
    except AirflowException as error:  # of Airflow's secrets backends
        code, text = ExitCode.NOT_CALLED, str(error)
    except KeyboardInterrupt:
        code, text = ExitCode.INTERRUPTED, f"interrupted{_what_goes_on(command, args, prog)}"
    say(f"{args.said_by}: {text}")
    return code


def _what_goes_on(command: str, args: argparse.Namespace, prog: str) -> str:
    if command == "wait":
        given = [(f"--{key.replace('_', '-')}", getattr(args, key)) for key in _SERVICE if getattr(args, key)]
        options = [text for flag, value in given for text in ((flag,) if value is True else (flag, value))]
        if args.conn_id != LongRunningOperationHook.default_conn_name:
            options += ["--conn-id", args.conn_id]
        return f"; the operation goes on. To cancel it: {prog} cancel {shlex.join([args.name, *options])}"
    if command == "cancel":
        return "; what was asked to cancel stays asked"
    return ""


_SERVICE = ("endpoint", "impersonation_chain", "quota_project_id", "insecure")


def _let_go_of_the_pipe() -> None:
    """Keep Python from complaining, at its exit, that nobody reads what is still to be flushed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())


def _load_types(modules: list[str]) -> None:
    try:
        load(type_modules=modules)
    except ValueError as error:
        raise UsageError(str(error)) from None


# ── the commands ──


def _get(args: argparse.Namespace, hook: CommandHook) -> ExitCode:
    found, code = _each(args, args.names, lambda name: named(hook.get_operation(name).proto, name))
    if found:
        show([document(operation) for operation in found], [row(operation) for operation in found], args.output)
    return code


def _list(args: argparse.Namespace, hook: CommandHook) -> ExitCode:
    pager = hook.list_operations(args.parent, args.filter, args.page_size, args.return_partial_success)
    found = list(islice(pager, args.limit))
    if pager.unreachable:
        say(f"not reached: {', '.join(pager.unreachable)}")
    rows = [row(operation, listed=True) for operation in found]
    show([document(operation) for operation in found], rows, args.output)
    return ExitCode.DONE


def _wait(args: argparse.Namespace, hook: CommandHook) -> ExitCode:
    waited = WaitArgs(
        operation_name=args.name,
        interval=args.interval,
        on_timeout=args.on_timeout,
        not_found_grace=args.not_found_grace,
    )
    waited, outcome = _await(hook.get_conn(args.name), waited, timeout=args.timeout)
    response = response_to_json(result_of(outcome, waited))
    show(response, [row(named(outcome.operation, args.name))], args.output)
    return ExitCode.DONE


def _cancel(args: argparse.Namespace, hook: CommandHook) -> ExitCode:
    def ask(name: str) -> dict[str, Any]:
        found = ask_to_cancel(hook.get_conn(name), name)
        return {"name": name, "asked": isinstance(found, Running), "outcome": STATES[type(found)]}

    clock = steady_clock()
    end = None if args.timeout is None else clock() + args.timeout

    def see(result: dict[str, Any]) -> None:
        if not result["asked"]:
            return
        waited = WaitArgs(operation_name=result["name"], interval=args.interval)
        left = None if end is None else max(0.0, end - clock())
        waited, outcome = _await(hook.get_conn(result["name"]), waited, timeout=left, start=Start.POLL)
        result["outcome"] = STATES.get(type(outcome), "unknown")
        if result["outcome"] == "unknown":
            result_of(outcome, waited)

    results, code = _each(args, args.names, ask)
    if args.wait:
        _, late = _each(args, results, see)
        code = code or late
    if results:
        show(results, results, args.output)
    return code


def _delete(args: argparse.Namespace, hook: CommandHook) -> ExitCode:
    if not args.yes and not _agreed(args.names):
        say("nothing is deleted")
        return ExitCode.OTHER

    def delete(name: str) -> dict[str, Any]:
        hook.delete_operation(name)
        return {"name": name, "outcome": "deleted"}

    results, code = _each(args, args.names, delete)
    if results:
        show(results, results, args.output)
    return code


_COMMANDS: dict[str, Callable[[argparse.Namespace, CommandHook], ExitCode]] = {
    "get": _get,
    "list": _list,
    "wait": _wait,
    "cancel": _cancel,
    "delete": _delete,
}


def _each(args: argparse.Namespace, things: list[Any], act: Callable[[Any], Any]) -> tuple[list[Any], ExitCode]:
    """Act on each; say what went wrong with which, and return the exit code of the first."""
    results = []
    code = ExitCode.DONE
    for thing in things:
        try:
            results.append(act(thing))
        except LroError as error:
            say(f"{args.said_by}: {error}")
            code = code or exit_code(error)
    return results, code


def _await(
    client: OperationsClient, args: WaitArgs, *, timeout: float | None, start: Start = Start.FRESH
) -> tuple[WaitArgs, Outcome]:
    clock = steady_clock()
    args.started_at = clock()
    args.deadline = None if timeout is None else args.started_at + timeout
    with Display(args.operation_name) as display:
        steps = wait(args, now=args.started_at, start=start)
        outcome = drive(steps, args, client, clock=clock, pause=display.pause, journal=display)
    say(f"operation {args.operation_name!r}: {display.summary}")
    return args, outcome


def _agreed(names: list[str]) -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("give --yes where nobody can be asked")
    for name in names[:SHOWN_NAMES]:
        say(name)
    if len(names) > SHOWN_NAMES:
        say(f"… and {len(names) - SHOWN_NAMES} more")
    # Not input(): that would ask on stdout, where the result goes.
    sys.stderr.write("Their results are gone then; what runs goes on. Delete? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
