"""The commands ``airflow lro …`` (Airflow 3.2 and newer) and ``python -m airflow_provider_lro …`` (every version).

Airflow imports this module for every command of its own, too: its top imports the standard library alone, and the code
of a command is loaded when that command runs.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_lro.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow.cli.cli_config import CLICommand

__all__ = ["COMMANDS", "COMMON_OPTIONS", "Command", "Option", "build_parser", "get_cli_commands"]

MODULE_PROG = "python -m airflow_provider_lro"
HELP = "Get, list, wait for, cancel and delete long-running operations"
MIN_OPTION_INTERVAL = 0.1
"""Seconds."""
MAX_OPTION_SECONDS = 1e9
"""31 years."""


EPILOG = "exit codes:\n" + "\n".join(f"  {code.value:<4} {code.text}" for code in ExitCode)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An argument, as both Airflow's ``Arg`` and argparse take it."""

    flags: tuple[str, ...]
    keywords: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command: its name, its help in one line, the details that its own help adds, and its arguments."""

    name: str
    help: str
    details: str
    options: tuple[Option, ...]


def get_cli_commands() -> list[CLICommand]:
    """Return the group of commands that Airflow shows as ``airflow lro``."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

    commands = [
        ActionCommand(
            name=command.name,
            help=command.help,
            description=f"{command.help}.\n{command.details}",
            func=partial(_run, command.name, "airflow lro"),
            args=tuple(Arg(flags=option.flags, **option.keywords) for option in command.options),
            epilog=EPILOG,
        )
        for command in COMMANDS
    ]
    return [GroupCommand(name="lro", help=HELP, subcommands=commands)]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m airflow_provider_lro``."""
    parser = argparse.ArgumentParser(prog=MODULE_PROG, description=f"{HELP}, by an Airflow connection or an endpoint.")
    commands = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = commands.add_parser(
            command.name,
            help=command.help,
            description=f"{command.help}.\n{command.details}",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for option in command.options:
            subparser.add_argument(*option.flags, **option.keywords)
        subparser.set_defaults(func=partial(_run, command.name, MODULE_PROG))
    return parser


def _run(command: str, prog: str, args: argparse.Namespace) -> NoReturn:
    """Run a command; Airflow's logs and warnings, also those of its import, are shown only with ``--verbose``."""
    from airflow.utils.cli import suppress_logs_and_warning

    def execute(args: argparse.Namespace) -> None:
        from airflow_provider_lro.cli.commands import run

        run(command, args, prog=prog)

    suppress_logs_and_warning(execute)(args)
    raise AssertionError("run() always exits")


# ── the types of arguments ──


def _seconds(text: str, *, minimum: float = 0.0) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not minimum <= value <= MAX_OPTION_SECONDS:
        valid = f"from {minimum:g} to {MAX_OPTION_SECONDS:g}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds {valid}: give one, such as 10 or 0.5")
    return value


def _text(text: str) -> str:
    from airflow_provider_lro._core.checks import is_text

    if not is_text(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not text in UTF-8: give it in UTF-8")
    return text


def _name(text: str) -> str:
    if not _text(text).strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not a name: give one such as projects/p/operations/o")
    return text.strip()


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {2**31 - 1}: give one, such as 100")
    return int(text)


# ── the commands and their arguments ──


def _option(
    flag: str, metavar: str | None, help: str, *, type: Callable[[str], Any] = _text, **keywords: Any
) -> Option:
    return Option(flags=(flag,), keywords={"metavar": metavar, "type": type, "help": help, **keywords})


def _switch(*flags: str, help: str) -> Option:
    return Option(flags=flags, keywords={"action": "store_true", "help": help})


def _interval(help: str) -> Option:
    seconds = partial(_seconds, minimum=MIN_OPTION_INTERVAL)
    return _option("--interval", "SECONDS", help, type=seconds, default=10.0)


NAMES = _option("names", "NAME", "the operation's full name", type=_name, nargs="+")
OUTPUTS = ("table", "json", "yaml", "plain")

COMMON_OPTIONS = (
    _option("--conn-id", "ID", "Airflow connection (default: lro_default)", default="lro_default"),
    _option("--endpoint", "HOST:PORT", "the service, instead of the connection's host; may contain {location}"),
    _option("--impersonation-chain", "ACCOUNTS", "service account to impersonate, or a chain, separated by commas"),
    _option("--quota-project-id", "PROJECT", "project that pays for the calls, and whose quota they use"),
    _switch("--insecure", help="call --endpoint in plaintext, without credentials; no connection is read"),
    _option(
        "--type-module",
        "MODULE",
        "Python module to import, so that responses and metadata of its types can be shown; may be repeated",
        action="append",
        default=[],
    ),
    Option(
        flags=("-o", "--output"),
        keywords={"choices": OUTPUTS, "default": "table", "help": "output format (default: table)"},
    ),
    _switch("-v", "--verbose", help="show Airflow's logs and warnings"),
)

COMMANDS = (
    Command(
        name="get",
        help="Show operations as they are now",
        details="An operation that failed is shown like any other.",
        options=(NAMES, *COMMON_OPTIONS),
    ),
    Command(
        name="list",
        help="List the operations under a parent",
        details="It reads page after page, until the last one or until --limit is reached.",
        options=(
            _option("parent", "PARENT", "such as projects/p/locations/l; the form depends on the service", type=_name),
            _option("--filter", "FILTER", "a filter in the service's own language", default=""),
            _option("--page-size", "N", "operations in a page (default: the service decides)", type=_count),
            _option("--limit", "N", "maximum number of operations (default: all)", type=_count),
            _switch(
                "--return-partial-success",
                help="list what the service can reach, and name on stderr the places that it cannot reach",
            ),
            *COMMON_OPTIONS,
        ),
    ),
    Command(
        name="wait",
        help="Wait until an operation is done, and show its response",
        details="Progress goes to stderr. Ctrl-C ends the wait, not the operation.",
        options=(
            _option("name", "NAME", "the operation's full name", type=_name),
            _interval("maximum seconds between two polls; the first pauses are shorter (default: 10)"),
            _option("--timeout", "SECONDS", "maximum seconds to wait (default: no limit)", type=_seconds),
            Option(
                flags=("--on-timeout",),
                keywords={
                    "choices": ("fail", "cancel"),
                    "default": "fail",
                    "help": "at the timeout, let the operation go on, or ask to cancel it (default: fail)",
                },
            ),
            _option(
                "--not-found-grace",
                "SECONDS",
                "seconds during which the service may not know a new operation yet (default: 60)",
                type=_seconds,
                default=60.0,
            ),
            *COMMON_OPTIONS,
        ),
    ),
    Command(
        name="cancel",
        help="Ask to cancel operations",
        details="An operation that is done is left alone.",
        options=(
            NAMES,
            _switch("--wait", help="wait until each operation is done, with any outcome"),
            _interval("with --wait: maximum seconds between two polls (default: 10)"),
            _option(
                "--timeout",
                "SECONDS",
                "with --wait: maximum seconds to wait for all operations together (default: no limit)",
                type=_seconds,
            ),
            *COMMON_OPTIONS,
        ),
    ),
    Command(
        name="delete",
        help="Tell the service that the results of operations are not needed any more",
        details="This does not cancel an operation.",
        options=(
            NAMES,
            _switch("-y", "--yes", help="do not ask; required where stdin is not a terminal"),
            *COMMON_OPTIONS,
        ),
    ),
)
