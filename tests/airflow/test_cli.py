"""`python -m airflow_provider_lro` in this process, against the simulator: what it prints and how it ends."""

from __future__ import annotations

import argparse
import io
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import yaml
from google.protobuf import json_format, struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_lro import cli
from airflow_provider_lro.__main__ import main
from airflow_provider_lro.cli import ExitCode
from tests.versions import needs_partial_success

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.airflow.fake_service import FakeService
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
        ({"not_found": 9}, [NEVER_THERE], ExitCode.NOT_FOUND, "the service does not know the operation"),
        ({"unimplemented": "get"}, [], ExitCode.CALL_FAILED, "UNIMPLEMENTED"),
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
        (["wait", " "], ExitCode.USAGE, "' ' is not a name"),
        (["wait", "n", "--timeout", "soon"], ExitCode.USAGE, "'soon' is not a number of seconds from 0 to 1e+09"),
        (["wait", "n", "--timeout", "nan"], ExitCode.USAGE, "'nan' is not a number of seconds"),
        (["wait", "n", "--interval", "0.05"], ExitCode.USAGE, "from 0.1 to 1e+09: give one"),
        (["list", "p", "--limit", "0"], ExitCode.USAGE, "not a whole number from 1"),
        (["get", "n\udcff"], ExitCode.USAGE, r"'n\udcff' is not text in UTF-8"),
        (["list", "p\udcff"], ExitCode.USAGE, "not text in UTF-8"),
        (["list", "p", "--filter", "\udcff"], ExitCode.USAGE, "not text in UTF-8"),
        (["get", "n", "--endpoint", "\udcff"], ExitCode.USAGE, "not text in UTF-8"),
        (["get", "n", "--insecure"], ExitCode.USAGE, "give both, or set insecure in the connection's extra"),
        (["get", "n", "--type-module", "no_such_module_at_all"], ExitCode.USAGE, "no_such_module_at_all"),
        (["get", "n", "--conn-id", "nowhere"], ExitCode.CALL_FAILED, "'nowhere' is not stored"),
        (["get", "n", "--endpoint", "127.0.0.1:1:1"], ExitCode.CALL_FAILED, "127.0.0.1:1:1"),
        (["delete", "n"], ExitCode.USAGE, "--yes"),
    ],
)
def test_an_error_is_one_line(arguments: list[str], code: ExitCode, says: str, call: Callable[..., Ended]) -> None:
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
    assert ended.code == ExitCode.CALL_FAILED
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
    """A listing goes on over its pages until there is enough."""
    names = [name(outcome="never", latency=0.001) for _ in range(4)]
    parent = names[0].rpartition("/operations/")[0]
    assert call("get", *names).code == ExitCode.DONE
    ended = call("list", parent, "--filter", "done=false", "--page-size", "2", "-o", "json")
    assert ended.code == ExitCode.DONE
    assert sorted(each["name"] for each in json.loads(ended.out)) == sorted(names)
    few = call("list", parent, "--page-size", "2", "--limit", "3", "-o", "json")
    assert len(json.loads(few.out)) == 3
    assert call("list", parent, "--filter", "done=true", "-o", "json").out == "[]\n"
    assert call("list", parent, "--filter", "done=true").out == "No data found\n"


@needs_partial_success
def test_list_says_what_the_service_could_not_reach(call: Callable[..., Ended], name: Callable[..., str]) -> None:
    """On stderr, as the operations are the output."""
    one = name(outcome="never", unreachable="eu-west9")
    assert call("get", one).code == ExitCode.DONE
    ended = call("list", one.rpartition("/operations/")[0], "--return-partial-success", "-o", "json")
    assert [each["name"] for each in json.loads(ended.out)] == [one]
    assert "not reached: eu-west9" in ended.err


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
    assert json.loads(ended.out) == [{"name": running, "asked": True, "outcome": "timed_out"}]


def test_a_cancel_that_the_service_refuses(call: Callable[..., Ended], name: Callable[..., str]) -> None:
    """One that cannot be asked does not keep the others from being asked, and waited for."""
    refused, running = name(outcome="never", unimplemented="cancel"), name(outcome="never", cancel_delay=0.2)
    ended = call("cancel", refused, running, "--wait", "--interval=0.1", "-o", "json")
    assert ended.code == ExitCode.CALL_FAILED
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
    assert ended.code == ExitCode.CALL_FAILED
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


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
"""Texts that a database takes; the others change."""


def test_documents_keep_their_types(call: Callable[..., Ended], fake: FakeService) -> None:
    """JSON and YAML read back as the value that the service sent, whatever it is."""
    name = fake.add("o", ended=0)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
            lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
            max_leaves=8,
        )
    )
    @settings(deadline=None)
    def check(value: Any) -> None:
        fake.operations[name].response.Pack(json_format.ParseDict(value, struct_pb2.Value()))
        for output, read in (("json", json.loads), ("yaml", yaml.safe_load)):
            assert read(call("wait", name, "--output", output).out) == value

    check()


def test_a_row_is_one_line_that_moves_no_cursor(call: Callable[..., Ended], fake: FakeService) -> None:
    """A row of a plain table is a line of printable characters, whatever the service says."""
    name = fake.add("o", ended=0, error=7)

    @given(st.text())
    @settings(deadline=None)
    def check(message: str) -> None:
        fake.operations[name].error.message = message
        lines = call("get", name, "--output", "plain").out.splitlines()
        assert len(lines) == 2
        assert all(line.isprintable() for line in lines)

    check()


def test_each_change_is_a_line(call: Callable[..., Ended], fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change is a line; a failed poll is not "not found"."""
    monkeypatch.setattr(sys, "stderr", printed := io.StringIO())
    name = fake.add("o", ended=0)
    unavailable, not_found = (grpc.StatusCode.UNAVAILABLE, "no answer"), (grpc.StatusCode.NOT_FOUND, "never heard of")
    faults = [unavailable, unavailable, not_found]
    fake.before = lambda method, _: fake.faults.update({(method, ""): faults.pop(0)}) if faults else fake.faults.clear()
    assert call("wait", name, "--interval=0.1").code == ExitCode.DONE
    failed, missing, succeeded, _ = printed.getvalue().splitlines()
    assert failed.startswith(f"operation '{name}': a poll failed: ")
    assert "no answer" in failed
    assert missing == f"operation '{name}': not found so far"
    assert succeeded == f"operation '{name}': succeeded"


def test_a_listing_without_results_says_done(call: Callable[..., Ended], fake: FakeService) -> None:
    """Some services list no results: then nobody knows whether a listed operation succeeded."""
    name = fake.add("o", ended=0)
    fake.lists_results = False
    assert call("list", "projects/p", "--output", "plain").out.splitlines()[1].split() == [name, "done"]
    assert call("get", name, "--output", "plain").out.splitlines()[1].split() == [name, "succeeded"]


@pytest.mark.parametrize("encoding", ["ascii", None])
def test_output_that_cannot_be_printed_is_not_an_error(
    encoding: str | None, call: Callable[..., Ended], name: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A character that the terminal's encoding lacks is escaped; a closed stdout, which is None, shows nothing."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", printed if encoding else None)
    ended = call("get", f"projects/é/{name()}", "--output", "plain")
    assert (ended.code, ended.out, ended.err) == (ExitCode.DONE, "", "")
    printed.seek(0)
    assert ("\\xe9" in printed.read()) is bool(encoding)


@pytest.mark.parametrize(
    ("command", "options", "advice"),
    [
        ("wait", [], "the operation goes on. To cancel it: python -m airflow_provider_lro cancel {name}"),
        ("wait", ["--insecure"], "cancel {name} --insecure --endpoint {endpoint}"),
        ("wait", ["--insecure", "--conn-id="], "cancel {name} --insecure --endpoint {endpoint} --conn-id ''"),
        ("cancel", ["--wait"], "operations that were asked to cancel stay asked"),
    ],
)
def test_an_interrupt_says_how_to_go_on(  # noqa: PLR0917  (a row of the table)
    command: str,
    options: list[str],
    advice: str,
    call: Callable[..., Ended],
    name: Callable[..., str],
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C prints the command that cancels the operation, at the same service."""

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    waited = name(outcome="never", cancel="ignore")
    endpoint = [] if "--insecure" not in options else ["--endpoint", simulator.endpoint]
    ended = call(command, waited, *options, *endpoint)
    assert (ended.code, ended.out) == (ExitCode.INTERRUPTED, "")
    expected = advice.format(name=shlex.quote(waited), endpoint=simulator.endpoint)
    assert ended.err.endswith(f"{expected}\n")


# ── what Airflow loads, and what the docs say ──


def test_a_command_of_airflows_own_pays_nothing() -> None:
    """Airflow asks for our commands whichever it runs: that loads this wing's top and the standard library alone.

    Airflow's own module has a stand-in here, as loading it takes seconds; the next test uses the real one.
    """
    program = """
import json, sys, types
stand_in = types.ModuleType("airflow.cli.cli_config")
stand_in.ActionCommand = stand_in.Arg = stand_in.GroupCommand = types.SimpleNamespace
sys.modules[stand_in.__name__] = stand_in
import airflow_provider_lro.cli
(group,) = airflow_provider_lro.cli.get_cli_commands()
foreign = {name for name in sys.modules if name.partition(".")[0] not in sys.stdlib_module_names}
print(json.dumps([sorted(foreign), [command.name for command in group.subcommands]]))
"""
    done = subprocess.run([sys.executable, "-S", "-c", program], check=True, capture_output=True, text=True, timeout=50)
    foreign, names = json.loads(done.stdout)
    ours = ["airflow_provider_lro", "airflow_provider_lro.cli", "airflow_provider_lro.cli.exit_codes"]
    assert foreign == ["__main__", "airflow.cli.cli_config", *ours]
    assert names == ["get", "list", "wait", "cancel", "delete"]


def test_an_error_under_airflow_says_airflow_lro(capsys: pytest.CaptureFixture[str]) -> None:
    """Airflow's group runs the same code, under its own name."""
    (group,) = cli.get_cli_commands()
    command = next(iter(group.subcommands))
    args = cli.build_parser().parse_args([command.name, "n", "--conn-id", "nowhere"])
    with pytest.raises(SystemExit) as end:
        command.func(args)
    assert end.value.code == ExitCode.CALL_FAILED
    assert capsys.readouterr().err.startswith("airflow lro get: the connection 'nowhere' is not stored")


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
        if option in cli.COMMON_OPTIONS:
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
    common = "\n".join(["| argument | meaning |", "|---|---|", *map(line, cli.COMMON_OPTIONS)])
    assert common in page, common
    codes = "\n".join(
        ["| exit code | meaning |", "|---|---|", *(f"| {code.value} | {code.text} |" for code in ExitCode)]
    )
    assert codes in page, codes
    assert page.count("\n### `") == len(cli.COMMANDS)
    known = {line(option) for command in cli.COMMANDS for option in command.options}
    assert set(re.findall(r"^\| `.*\|$", page, re.MULTILINE)) == known
