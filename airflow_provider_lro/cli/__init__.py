"""What there is to type: ``airflow lro …`` (Airflow 3.2 and newer), ``python -m airflow_provider_lro …`` (everywhere).

Airflow asks this module for every command that it runs, whichever it is: its top imports the standard library alone,
and what a command needs is loaded when that command runs. Floor 3.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_lro.cli.exit import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow.cli.cli_config import CLICommand

__all__ = ["COMMANDS", "SERVICE", "Command", "Option", "build_parser", "get_cli_commands"]

AIRFLOW = "airflow lro"
MODULE = "python -m airflow_provider_lro"
HELP = "Get, list, wait for, cancel and delete long-running operations"
SHORTEST_INTERVAL = 0.1
"""Seconds."""
DEFAULT_INTERVAL = 10.0
"""Seconds between the polls of a wait that somebody watches."""
LONGEST = 1e9
"""Seconds that an option may say: 31 years."""
EPILOG = "exit codes:\n" + "\n".join(f"  {code.value:<4} {code.text}" for code in ExitCode)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One argument, as both Airflow's ``Arg`` and argparse take it."""

    flags: tuple[str, ...]
    keywords: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command: its name, what it does in a line and at length, and what it takes."""

    name: str
    help: str
    description: str
    options: tuple[Option, ...]


class OperationName(argparse.Action):
    """An operation's name, which a shell completes with what the service lists.

    ``completer`` is what argcomplete looks for; an action's class is the one thing of it that ``Arg`` lets through.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002  (argparse hands them over)
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        """Keep the value, as every ordinary argument does."""
        setattr(namespace, self.dest, values)

    def completer(self, prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
        """Return the names that begin with what has been typed."""
        from airflow_provider_lro.cli.completion import complete

        return complete(prefix, parsed_args)


def get_cli_commands() -> list[CLICommand]:
    """Return what Airflow shows as ``airflow lro``."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

    commands = [
        ActionCommand(
            name=command.name,
            help=command.help,
            description=command.description,
            func=partial(_run, command.name, AIRFLOW),
            args=tuple(Arg(flags=option.flags, **option.keywords) for option in command.options),
            epilog=EPILOG,
        )
        for command in COMMANDS
    ]
    return [GroupCommand(name="lro", help=HELP, subcommands=commands)]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m airflow_provider_lro``."""
    parser = argparse.ArgumentParser(prog=MODULE, description=f"{HELP}, by an Airflow connection or an endpoint.")
    commands = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    for command in COMMANDS:
        one = commands.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for option in command.options:
            one.add_argument(*option.flags, **option.keywords)
        one.set_defaults(func=partial(_run, command.name, MODULE))
    return parser


def _run(command: str, prog: str, args: argparse.Namespace) -> NoReturn:
    from airflow_provider_lro.cli.commands import run

    run(command, args, prog=prog)


def _option(*flags: str, **keywords: Any) -> Option:
    return Option(flags=flags, keywords=keywords)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to {LONGEST:g}")
    return value


def _interval(text: str) -> float:
    value = _seconds(text)
    if value < SHORTEST_INTERVAL:
        raise argparse.ArgumentTypeError(f"{text!r} is less than {SHORTEST_INTERVAL:g} seconds")
    return value


def _text(text: str) -> str:
    from airflow_provider_lro._core.text import is_text

    if not is_text(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no text in UTF-8")
    return text


def _name(text: str) -> str:
    if not _text(text).strip():
        raise argparse.ArgumentTypeError("a name cannot be empty")
    return text.strip()


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


SERVICE = (
    _option(
        "--conn-id", metavar="ID", type=_text, default="lro_default", help="Airflow connection (default: lro_default)"
    ),
    _option(
        "--endpoint",
        metavar="HOST:PORT",
        type=_text,
        help="the service, instead of the connection's host; may hold {location}",
    ),
    _option(
        "--impersonation-chain",
        metavar="ACCOUNTS",
        type=_text,
        help="service account to impersonate, or a chain with commas",
    ),
    _option("--quota-project-id", metavar="PROJECT", type=_text, help="project that quota and bills go to"),
    _option(
        "--insecure",
        action="store_true",
        help="plaintext and without credentials, to --endpoint; no connection is read",
    ),
    _option(
        "--type-module",
        metavar="MODULE",
        type=_text,
        action="append",
        default=[],
        help="Python module to import so that responses and metadata of its types are shown; may be repeated",
    ),
    _option(
        "-o",
        "--output",
        metavar="(table, json, yaml, plain)",
        choices=("table", "json", "yaml", "plain"),
        default="table",
        help="output format (default: table)",
    ),
    _option("-v", "--verbose", action="store_true", help="show Airflow's logs and warnings"),
)


def _names(help: str) -> Option:
    return _option("names", metavar="NAME", nargs="+", type=_name, action=OperationName, help=help)


def _waiting(*, interval: str, timeout: str) -> Iterable[Option]:
    return (
        _option("--interval", metavar="SECONDS", type=_interval, default=DEFAULT_INTERVAL, help=interval),
        _option("--timeout", metavar="SECONDS", type=_seconds, help=timeout),
    )


COMMANDS = (
    Command(
        name="get",
        help="Show operations as they are now",
        description="Show operations as they are now. One that failed is shown like any other.",
        options=(_names("the operation's full name"), *SERVICE),
    ),
    Command(
        name="list",
        help="List the operations under a parent",
        description="List the operations under a parent, page after page, until there are no more or enough.",
        options=(
            _option(
                "parent",
                metavar="PARENT",
                type=_name,
                help="for example projects/p/locations/l; what a service takes differs",
            ),
            _option("--filter", type=_text, default="", help="in the service's own filter language"),
            _option("--page-size", metavar="N", type=_count, help="operations a page (default: the service's)"),
            _option("--limit", metavar="N", type=_count, help="operations at most (default: all)"),
            _option(
                "--return-partial-success",
                action="store_true",
                help="list what can be reached, and name on stderr what cannot",
            ),
            *SERVICE,
        ),
    ),
    Command(
        name="wait",
        help="Wait until an operation is done, and show its response",
        description="Wait until an operation is done, and show its response. Progress goes to stderr. Ctrl-C ends the"
        "\nwait, not the operation.",
        options=(
            _option("name", metavar="NAME", type=_name, action=OperationName, help="the operation's full name"),
            *_waiting(
                interval=f"most seconds between polls, after a backoff from 1 (default: {DEFAULT_INTERVAL:g})",
                timeout="seconds to wait before giving up (default: as long as it takes)",
            ),
            _option(
                "--on-timeout",
                choices=("fail", "cancel"),
                default="fail",
                help="leave the operation alone at the timeout, or ask to cancel it (default: fail)",
            ),
            _option(
                "--not-found-grace",
                metavar="SECONDS",
                type=_seconds,
                default=60.0,
                help="seconds for which a name that is not known may still appear (default: 60)",
            ),
            *SERVICE,
        ),
    ),
    Command(
        name="cancel",
        help="Ask to cancel operations",
        description="Ask to cancel operations. One that is done is left alone.",
        options=(
            _names("the operation's full name"),
            _option("--wait", action="store_true", help="wait until each is done, whatever it came to"),
            *_waiting(
                interval=f"with --wait: most seconds between polls (default: {DEFAULT_INTERVAL:g})",
                timeout="with --wait: seconds to wait, for all together (default: as long as it takes)",
            ),
            *SERVICE,
        ),
    ),
    Command(
        name="delete",
        help="Tell the service that nobody needs operations' results any more",
        description="Tell the service that nobody needs operations' results any more. Does not cancel them.",
        options=(
            _names("the operation's full name"),
            _option("-y", "--yes", action="store_true", help="do not ask; needed where nobody can be asked"),
            *SERVICE,
        ),
    ),
)
