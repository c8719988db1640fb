"""`python -m airflow_provider_lro` in this process, against the simulator: what it prints and how it ends."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from google.longrunning import operations_proto_pb2 as pb
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_lro import cli
from airflow_provider_lro.__main__ import main
from airflow_provider_lro._core.commands import Get
from airflow_provider_lro._core.outcome import Running
from airflow_provider_lro.cli import completion, output, progress
from airflow_provider_lro.cli.exit import ExitCode
from airflow_provider_lro.exceptions import Code, OperationNotFound, RpcError
from tests.airflow.test_provider import HEAVY

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulator_fixture import Simulator

DOCS = Path(__file__).parent.parent.parent / "docs" / "cli.md"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Give a function that runs a command, with its output in pipes."""

    def run(*arguments: str) -> Ended:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        captured = capsys.readouterr()
        return Ended(end.value.code, captured.out, captured.err)

    return run


# ── exit codes ──

NEVER_THERE = "--not-found-grace=0"


@pytest.mark.parametrize(
    ("script", "options", "code", "says"),
    [
        ({}, [], ExitCode.DONE, "succeeded"),
        ({"outcome": "neither"}, [], ExitCode.DONE, "succeeded"),
        ({"outcome": "fail", "code": 8, "message": "quota"}, [], ExitCode.FAILED, "RESOURCE_EXHAUSTED (8): quota"),
        ({"outcome": "cancelled"}, [], ExitCode.CANCELLED, "was cancelled"),
        ({"outcome": "never"}, ["--timeout=0.2"], ExitCode.TIMED_OUT, "goes on, and may still succeed"),
        ({"outcome": "never"}, ["--timeout=0.2", "--on-timeout=cancel"], ExitCode.TIMED_OUT, "and is cancelled"),
        ({"not_found": 9}, [NEVER_THERE], ExitCode.NOT_FOUND, "is not known to the service"),
        ({"unimplemented": "get"}, [], ExitCode.NOT_CALLED, "UNIMPLEMENTED"),
        ({"fault": "14*2"}, [], ExitCode.DONE, "a poll failed"),
    ],
)
def test_a_wait_ends_with_the_code_of_its_outcome(  # noqa: PLR0917  (a row of the table)
    script: dict[str, Any],
    options: list[str],
    code: ExitCode,
    says: str,
    call: Callable[..., Ended],
    name: Callable[..., str],
) -> None:
    """Each outcome has its own exit code; the result alone is on stdout, all words are lines on stderr."""
    waited = name(**{"duration": 0.2, **script})
    ended = call("wait", waited, "--interval=0.2", "-o", "json", *options)
    assert ended.code == code
    assert says in ended.err
    assert "Traceback" not in ended.err
    if code:
        assert ended.out == ""
    else:
        assert json.loads(ended.out) == (
            {} if script.get("outcome") == "neither" else {"id": waited.rpartition("/")[2]}
        )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["wait"], ExitCode.USAGE, "NAME"),
        (["wait", " "], ExitCode.USAGE, "a name cannot be empty"),
        (["wait", "n", "--timeout", "soon"], ExitCode.USAGE, "'soon' is no number of seconds"),
        (["wait", "n", "--timeout", "nan"], ExitCode.USAGE, "'nan' is no number of seconds"),
        (["wait", "n", "--interval", "0.05"], ExitCode.USAGE, "less than 0.1 seconds"),
        (["list", "p", "--limit", "0"], ExitCode.USAGE, "no whole number above 0"),
        (["get", "n\udcff"], ExitCode.USAGE, r"'n\udcff' is no text in UTF-8"),
        (["list", "p\udcff"], ExitCode.USAGE, "no text in UTF-8"),
        (["list", "p", "--filter", "\udcff"], ExitCode.USAGE, "no text in UTF-8"),
        (["get", "n", "--endpoint", "\udcff"], ExitCode.USAGE, "no text in UTF-8"),
        (["get", "n", "--insecure"], ExitCode.USAGE, "--insecure needs --endpoint"),
        (["get", "n", "--type-module", "no_such_module_at_all"], ExitCode.USAGE, "no_such_module_at_all"),
        (["get", "n", "--conn-id", "nowhere"], ExitCode.NOT_CALLED, "'nowhere' is not stored"),
        (["get", "n", "--endpoint", "127.0.0.1:1:1"], ExitCode.NOT_CALLED, "127.0.0.1:1:1"),
        (["delete", "n"], ExitCode.USAGE, "--yes"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    arguments: list[str], code: ExitCode, says: str, call: Callable[..., Ended]
) -> None:
    """Wrong usage and connections that are not there end at once, without a traceback."""
    ended = call(*arguments)
    assert ended.code == code
    assert says in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err
    assert ended.out == ""


def test_no_secret_is_printed(
    call: Callable[..., Ended], simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that cannot be right is refused without its token being shown, logs included."""
    stored = {"conn_type": "lro", "host": simulator.endpoint, "password": "tok-3n-s3cret", "extra": {"insecure": True}}
    monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", json.dumps(stored))
    ended = call("get", "n", "--verbose")
    assert ended.code == ExitCode.NOT_CALLED
    assert "never sent unencrypted" in ended.err
    assert "s3cret" not in ended.out + ended.err


# ── get and list ──


def test_get_shows_all_that_can_be_read(call: Callable[..., Ended], name: Callable[..., str]) -> None:
    """A failed operation is a result like any other; one that is missing is said, and makes the exit code."""
    failed = name(duration=0, outcome="fail", code=7, message="not yours")
    missing = name(not_found=9)
    running = name(outcome="never")
    ended = call("get", failed, missing, running, "-o", "json")
    assert ended.code == ExitCode.NOT_FOUND
    assert missing in ended.err
    assert all(line.startswith("python -m airflow_provider_lro get: ") for line in ended.err.splitlines())
    shown = json.loads(ended.out)
    assert [(each["name"], each["done"]) for each in shown] == [(failed, True), (running, False)]
    assert shown[0]["error"] == {"code": 7, "message": "not yours", "details": []}


def test_get_speaks_yaml_and_tables(call: Callable[..., Ended], name: Callable[..., str]) -> None:
    """YAML is the same document as JSON, tables have a row an operation, with its state and what tells most."""
    one, other = name(duration=0, outcome="fail", code=7, message="not [b]yours[/b] :smile:"), name(outcome="never")
    documents = json.loads(call("get", one, "-o", "json").out)
    assert yaml.safe_load(call("get", one, "-o", "yaml").out) == documents
    header, first, second = call("get", one, other, "-o", "plain").out.splitlines()
    assert header.split() == ["name", "state", "detail"]
    assert first.split(maxsplit=2) == [one, "failed", "PERMISSION_DENIED: not [b]yours[/b] :smile:"]
    assert second.split()[:2] == [other, "running"]
    table = call("get", one).out
    assert "not [b]yours[/b] :smile:" in table
    assert "===" in table


def test_list(call: Callable[..., Ended], name: Callable[..., str]) -> None:
    """A listing goes on over its pages until there is enough, and says what the service could not reach."""
    script = {"outcome": "never", "unreachable": "eu-west9", "latency": 0.001}
    names = [name(**script) for _ in range(4)]
    parent = names[0].rpartition("/operations/")[0]
    assert call("get", *names).code == ExitCode.DONE
    ended = call("list", parent, "--filter", "done=false", "--page-size", "2", "--return-partial-success", "-o", "json")
    assert ended.code == ExitCode.DONE
    assert sorted(each["name"] for each in json.loads(ended.out)) == sorted(names)
    assert "not reached: eu-west9" in ended.err
    few = call("list", parent, "--page-size", "2", "--limit", "3", "-o", "json")
    assert len(json.loads(few.out)) == 3
    assert call("list", parent, "--filter", "done=true", "-o", "json").out == "[]\n"
    assert call("list", parent, "--filter", "done=true").out == "No data found\n"


# ── cancel and delete ──


def test_cancel_and_wait(call: Callable[..., Ended], name: Callable[..., str], simulator: Simulator) -> None:
    """What runs is asked once and waited for; what is done is left alone; both are the command's success."""
    running, done = name(outcome="never", cancel_delay=0.2), name(duration=0)
    ended = call("cancel", running, done, "--wait", "--interval=0.2", "-o", "json")
    assert ended.code == ExitCode.DONE
    assert json.loads(ended.out) == [
        {"name": running, "asked": True, "outcome": "cancelled"},
        {"name": done, "asked": False, "outcome": "succeeded"},
    ]
    assert len(simulator.calls("CancelOperation", running)) == 1
    assert simulator.calls("CancelOperation", done) == []


def test_a_cancel_that_has_no_effect(call: Callable[..., Ended], name: Callable[..., str]) -> None:
    """Without --wait a cancel says "asked"; with it, no end in time is a timeout."""
    running = name(outcome="never", cancel="ignore")
    assert json.loads(call("cancel", running, "-o", "json").out) == [
        {"name": running, "asked": True, "outcome": "running"}
    ]
    ended = call("cancel", running, "--wait", "--timeout=0.3", "--interval=0.1", "-o", "json")
    assert ended.code == ExitCode.TIMED_OUT
    assert json.loads(ended.out) == [{"name": running, "asked": True, "outcome": "unknown"}]


def test_a_cancel_that_the_service_refuses(call: Callable[..., Ended], name: Callable[..., str]) -> None:
    """One that cannot be asked does not keep the others from being asked, and waited for."""
    refused, running = name(outcome="never", unimplemented="cancel"), name(outcome="never", cancel_delay=0.2)
    ended = call("cancel", refused, running, "--wait", "--interval=0.1", "-o", "json")
    assert ended.code == ExitCode.NOT_CALLED
    assert json.loads(ended.out) == [{"name": running, "asked": True, "outcome": "cancelled"}]


def test_delete_asks_or_is_told(call: Callable[..., Ended], name: Callable[..., str], simulator: Simulator) -> None:
    """Where nobody can be asked, only --yes deletes."""
    gone = name(duration=0)
    assert call("delete", gone).code == ExitCode.USAGE
    assert simulator.calls("DeleteOperation", gone) == []
    ended = call("delete", gone, "--yes", "-o", "json")
    assert (ended.code, json.loads(ended.out)) == (ExitCode.DONE, [{"name": gone, "outcome": "deleted"}])
    assert call("get", gone).code == ExitCode.NOT_FOUND


# ── where the service is ──


def test_endpoint_without_a_connection(
    call: Callable[..., Ended], name: Callable[..., str], simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--endpoint with --insecure needs no connection, and reads none that could bring credentials."""
    monkeypatch.setenv("AIRFLOW_CONN_LRO_DEFAULT", '{"conn_type": "lro", "host": "elsewhere", "password": "secret"}')
    ended = call("get", name(), "--endpoint", simulator.endpoint, "--insecure")
    assert ended.code == ExitCode.DONE


def test_endpoint_goes_before_the_connections(call: Callable[..., Ended], name: Callable[..., str]) -> None:
    """--endpoint alone is used with the connection's other settings."""
    ended = call("get", name(), "--endpoint", "127.0.0.1:1")
    assert ended.code == ExitCode.NOT_CALLED
    assert "127.0.0.1:1" in ended.err


# ── what is printed ──


def test_piped_progress_is_a_line_when_something_changes(
    call: Callable[..., Ended], name: Callable[..., str], simulator: Simulator
) -> None:
    """Ten polls that say the same are one line; no control character is in a pipe."""
    waited = name(duration=1.2, metadata="none")
    ended = call("wait", waited, "--interval=0.1", "-o", "json")
    assert len(simulator.calls("GetOperation", waited)) >= 3
    lines = ended.err.splitlines()
    assert [line.rpartition(": ")[2] for line in lines[:2]] == ["running", "succeeded"]
    assert len(lines) == 3
    assert all(character.isprintable() or character == "\n" for character in ended.err)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_documents_keep_their_types(value: Any) -> None:
    """What is printed as JSON or YAML reads back as what it was, whatever a service says."""
    with pytest.MonkeyPatch.context() as patch:
        for form, read in (("json", json.loads), ("yaml", yaml.safe_load)):
            patch.setattr(sys, "stdout", printed := _Stream())
            output.show(value, [], form)
            assert read(printed.text) == value


class _Stream:
    def __init__(self, *, terminal: bool = False) -> None:
        self.text = ""
        self.terminal = terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return self.terminal

    def fileno(self) -> int:
        raise OSError


@given(st.text())
def test_a_row_is_one_line_that_moves_no_cursor(message: str) -> None:
    """Whatever a service says, a row of a plain table is a line of printable characters."""
    operation = pb.Operation(name="o", done=True)
    operation.error.code, operation.error.message = 7, message
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", printed := _Stream())
        output.show([], [output.row(operation)], "plain")
    assert len(printed.text.splitlines()) == 2
    assert all(line.isprintable() for line in printed.text.splitlines())


@given(st.text(min_size=1))
def test_a_line_in_place_never_wraps(text: str) -> None:
    """A line that wraps could not be cleared: wide characters count twice, control characters not at all."""
    from rich.cells import cell_len

    operation = pb.Operation(name="o")
    operation.metadata.Pack(struct_pb2.Struct(fields={"status_message": struct_pb2.Value(string_value=text * 40)}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", printed := _Stream(terminal=True))
        patch.setenv("TERM", "xterm")
        display = progress.Display("o")
        display.note(Get(timeout=1), Running(operation=operation))
    shown = printed.text.removeprefix(progress.CLEAR)
    assert shown.isprintable()
    assert cell_len(shown) < progress.USUAL_WIDTH


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no cursor can be moved, progress is lines; polls that fail are told from names that are not known."""
    monkeypatch.setattr(sys, "stderr", printed := _Stream(terminal=True))
    monkeypatch.setenv("TERM", "dumb")
    with progress.Display("o") as display:
        for _ in range(2):
            display.note(Get(timeout=1), RpcError("no answer", code=Code.UNAVAILABLE))
        display.note(Get(timeout=1), OperationNotFound("never heard of it", code=Code.NOT_FOUND))
    assert printed.text == "operation 'o': a poll failed: no answer\noperation 'o': not found so far\n"


# ── completion ──


def arguments(**given: Any) -> argparse.Namespace:
    return cli.build_parser().parse_args(["get", "n", *(f"--{key}={value}" for key, value in given.items())])


def test_names_complete(call: Callable[..., Ended], name: Callable[..., str]) -> None:
    """What the service lists, as far as it begins with what has been typed."""
    known = name(outcome="never", latency=0.002)
    other = known.rpartition("/")[0] + "/other"
    call("get", known, other, f"{other}\x1b[31m")  # the last would move the cursor
    parent = known.rpartition("/")[0]
    assert completion.complete(f"{parent}/", arguments()) == sorted([known, other])
    assert completion.complete(f"{parent}/oth", arguments()) == [other]
    assert completion.complete("simulations/", arguments()) == []


@pytest.mark.parametrize("given", [{"endpoint": "127.0.0.1:1"}, {"conn-id": "nowhere"}, {"endpoint": "::::"}])
def test_completion_fails_in_silence(given: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    """A line that is being typed is no place for an error."""
    assert completion.complete("simulations/duration=1/operations/", arguments(**given)) == []
    assert capfd.readouterr() == ("", "")


def test_completion_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch, name: Callable[..., str]) -> None:
    """A service that hangs costs the patience of whoever holds the key down, and no more."""
    import socket
    import time

    monkeypatch.setattr(completion, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        assert completion.complete(name(), arguments(endpoint=endpoint)) == []
        assert time.monotonic() - started < 2


# ── what Airflow loads, and what the docs say ──


def test_a_command_of_airflows_own_pays_nothing() -> None:
    """Airflow asks for our commands whichever it runs: that loads neither grpc, protobuf, google-auth nor our hooks."""
    program = f"""
import json, sys, warnings
warnings.simplefilter("ignore")
import airflow_provider_lro.cli
alone = sorted(name for name in sys.modules if name.startswith(("airflow.", "airflow_provider_lro.")))
heavy = [name for name in sys.modules if name.startswith({HEAVY!r})]
import airflow.cli.cli_config
before = set(sys.modules)
(group,) = airflow_provider_lro.cli.get_cli_commands()
new = set(sys.modules) - before
print(json.dumps([alone, sorted(new), heavy, [command.name for command in group.subcommands]]))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=50)
    alone, new, heavy, names = json.loads(done.stdout.splitlines()[-1])
    assert alone == ["airflow_provider_lro.cli.exit", "airflow_provider_lro.cli"]
    assert new == []
    assert heavy == []
    assert names == ["get", "list", "wait", "cancel", "delete"]


def test_airflow_takes_the_arguments_as_they_are() -> None:
    """Airflow's own parser of `airflow lro` and ours take the same, with the same defaults."""
    from airflow.cli.cli_config import GroupCommand

    (group,) = cli.get_cli_commands()
    assert isinstance(group, GroupCommand)
    for command in group.subcommands:
        parser = argparse.ArgumentParser()
        for arg in command.args:
            arg.add_to_parser(parser)
        given = parser.parse_args(["x"])
        ours = cli.build_parser().parse_args([command.name, "x"])
        assert vars(given) == {key: value for key, value in vars(ours).items() if key not in ("func", "subcommand")}


def table(command: cli.Command) -> str:
    """Print what a command takes, but for what they all take."""
    lines = ["| argument | meaning |", "|---|---|"]
    for option in command.options:
        if option in cli.SERVICE:
            continue
        lines.append(line(option))
    return "\n".join(lines)


def line(option: cli.Option) -> str:
    choices = option.keywords.get("choices")
    value = option.keywords.get("metavar") or (f"{{{','.join(choices)}}}" if choices else "")
    flags = [flag if not flag.startswith("-") else f"{flag} {value}".strip() for flag in option.flags]
    shown = value if not option.flags[0].startswith("-") else ", ".join(flags)
    return f"| `{shown}` | {option.keywords['help']} |"


def test_the_docs_say_what_the_commands_take() -> None:
    """Each command, each argument with its help and each exit code is on the page, and nothing that is not there."""
    page = DOCS.read_text(encoding="utf-8")
    for command in cli.COMMANDS:
        assert f"### `{command.name}`\n" in page
        assert table(command) in page, table(command)
    common = "\n".join(["| argument | meaning |", "|---|---|", *map(line, cli.SERVICE)])
    assert common in page, common
    codes = "\n".join(
        ["| exit code | meaning |", "|---|---|", *(f"| {code.value} | {code.text} |" for code in ExitCode)]
    )
    assert codes in page, codes
    assert page.count("\n### `") == len(cli.COMMANDS)
    known = {line(option) for command in cli.COMMANDS for option in command.options}
    assert set(re.findall(r"^\| `.*\|$", page, re.MULTILINE)) == known


def test_a_listed_operation_whose_end_is_not_told_is_no_success() -> None:
    """Some services list less of an operation than they give of it singly."""
    operation = pb.Operation(name="o", done=True)
    assert output.row(operation, listed=True) == {"name": "o", "state": "done", "detail": ""}
    assert output.row(operation)["state"] == "succeeded"


@pytest.mark.parametrize("how", ["ascii", "closed"])
def test_what_cannot_be_printed_makes_no_failure_of_what_was_done(
    name: Callable[..., str], simulator: Simulator, how: str
) -> None:
    """A name that the terminal's alphabet lacks is shown escaped; a closed stdout shows nothing."""
    operation = f"projects/é/{name()}"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"} if how == "ascii" else None
    options = ["--endpoint", simulator.endpoint, "--insecure", "--conn-id", "", "--output", "plain"]
    command = shlex.join([sys.executable, "-m", "airflow_provider_lro", "get", operation, *options])
    shell = ["sh", "-c", command + (" >&-" if how == "closed" else "")]
    done = subprocess.run(shell, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert ("\\xe9" in done.stdout) is (how == "ascii")
