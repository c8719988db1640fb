"""The commands as processes: in a terminal, in a pipe, and inside a real Airflow."""

from __future__ import annotations

import json
import multiprocessing
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

import airflow
import pytest
from airflow.models.connection import Connection
from sqlalchemy import create_engine

from airflow_provider_lro.__main__ import main
from airflow_provider_lro.cli import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.simulator_fixture import Simulator

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

MODULE = [sys.executable, "-m", "airflow_provider_lro"]
IS_IN_AIRFLOW = tuple(map(int, airflow.__version__.split(".")[:2])) >= (3, 2)
FORKS = multiprocessing.get_context("forkserver")
# Loading Airflow takes seconds: one process does it, and the commands are forks of it.
FORKS.set_forkserver_preload(["airflow_provider_lro.cli.commands"])


def run_in_terminal(argv: list[str], terminal: str, stdout: str, environment: dict[str, str]) -> None:
    """Run a command's arguments in this process, or a whole command line as another program."""
    os.setsid()
    # The first terminal that a session's leader opens is its own, so that Ctrl-C reaches it.
    keyboard = os.open(terminal, os.O_RDWR)
    screen = os.open(stdout, os.O_WRONLY | os.O_CREAT) if stdout else keyboard
    for number, descriptor in enumerate((keyboard, screen, keyboard)):
        os.dup2(descriptor, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if argv[0] == sys.executable:
        os.execve(argv[0], argv, environment)  # noqa: S606  (there is no shell in it)
    os.environ.update(environment)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  (multiprocessing has closed it)
    main(argv)


class Terminal:
    """A command in a terminal of its own, whose stdout may be a file."""

    def __init__(self, argv: list[str], *, stdout: str, env: dict[str, str] | None, columns: int) -> None:
        self._screen, self._keyboard = pty.openpty()
        termios.tcsetwinsize(self._keyboard, (24, columns))
        environment = {**(os.environ if env is None else env), "TERM": "xterm"}
        self.process = FORKS.Process(
            target=run_in_terminal, args=(argv, os.ttyname(self._keyboard), stdout, environment)
        )
        self.process.start()
        self.text = ""

    def read_until(self, pattern: str) -> None:
        """Read the screen until the pattern is on it."""
        end = time.monotonic() + 150
        while not re.search(pattern, self.text):
            assert time.monotonic() < end, self.text
            assert self._read(), f"{pattern!r} is not in {self.text!r}"

    def type(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    def end(self) -> int | None:
        """Read to the end, and return the exit code."""
        while self._read():
            pass
        self.process.join(150)
        return self.process.exitcode

    def _read(self) -> bool:
        """Read more; return False at the end of the process."""
        if self._screen not in wait([self._screen, self.process.sentinel], 150):
            return False
        self.text += os.read(self._screen, 65536).decode()
        return True

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        os.close(self._screen)
        os.close(self._keyboard)


@contextmanager
def terminal(
    argv: list[str], *, stdout: str = "", env: dict[str, str] | None = None, columns: int = 100
) -> Iterator[Terminal]:
    running = Terminal(argv, stdout=stdout, env=env, columns=columns)
    try:
        yield running
    finally:
        running.close()


def test_progress_in_lines(name: Callable[..., str], tmp_path: Path) -> None:
    """In a terminal each change is a line, and the last says how long it took; the response alone goes to stdout."""
    waited = name(duration=1.5)
    argv = ["wait", waited, "--interval=0.5", "-o", "json"]
    with terminal(argv, stdout=str(tmp_path / "out"), columns=500) as screen:
        assert screen.end() == ExitCode.DONE, screen.text
    *progress, succeeded, last = screen.text.splitlines()
    assert progress, screen.text
    assert all(line.startswith(f"operation '{waited}': running: ") for line in progress), screen.text
    assert succeeded == f"operation '{waited}': succeeded: 100 %, simulate"
    assert last.startswith(f"operation '{waited}': 0:00:0"), screen.text
    assert json.loads((tmp_path / "out").read_text()) == {"id": waited.rpartition("/")[2]}


def test_ctrl_c_ends_the_wait_alone(name: Callable[..., str], simulator: Simulator) -> None:
    """Ctrl-C exits with 130, cancels nothing, and prints the command that does, which works."""
    waited = name(outcome="never")
    with terminal(["wait", waited], columns=1000) as screen:
        screen.read_until("running")
        screen.type("\x03")
        assert screen.end() == ExitCode.INTERRUPTED, screen.text
    assert "Traceback" not in screen.text
    assert "the operation goes on" in screen.text
    assert simulator.calls("CancelOperation", waited) == []
    advice = screen.text.rpartition("To cancel it: ")[2].strip()
    assert advice == f"python -m airflow_provider_lro cancel {shlex.quote(waited)}"
    with pytest.raises(SystemExit, match="0"):
        main(shlex.split(advice)[3:])
    assert len(simulator.calls("CancelOperation", waited)) == 1


def test_delete_asks_in_a_terminal(name: Callable[..., str], simulator: Simulator) -> None:
    """Any answer but yes keeps the operation."""
    kept = name(duration=0)
    with terminal(["delete", kept]) as screen:
        screen.read_until(r"\[y/N\]")
        screen.type("\n")
        assert screen.end() == ExitCode.OTHER, screen.text
    assert simulator.calls("DeleteOperation", kept) == []


def test_a_broken_pipe_is_quiet(name: Callable[..., str]) -> None:
    """A reader that ends early is not an error worth a line."""
    big = name(duration=0, response_bytes=1_000_000)
    shell = f'({shlex.join([*MODULE, "get", big, "-o", "json"])}; echo "code $?" >&2) | head -c 10'
    # An unbuffered stdout takes a write that was cut short for a whole one.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(["/bin/sh", "-c", shell], check=False, capture_output=True, text=True, env=env, timeout=150)
    assert (done.stdout, done.stderr) == ('[{"name": ', f"code {ExitCode.BROKEN_PIPE}\n")


def test_in_a_real_airflow(
    name: Callable[..., str], simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a connection in the database: `airflow lro` from Airflow 3.2 on, the module below."""
    monkeypatch.delenv("AIRFLOW_CONN_LRO_DEFAULT")
    engine = create_engine(f"sqlite:///{tmp_path / 'airflow.db'}")
    with engine.begin() as database:
        Connection.__table__.create(database)
        stored = {"conn_id": "service", "conn_type": "lro", "host": "127.0.0.1", "port": simulator.port}
        plain = {"extra": '{"insecure": true}', "is_encrypted": False, "is_extra_encrypted": False}
        database.execute(Connection.__table__.insert().values(stored | plain))
    engine.dispose()
    env = {**os.environ, "AIRFLOW_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-m", "airflow", "lro"] if IS_IN_AIRFLOW else MODULE

    waited = name(duration=1.5)
    argv = [*command, "wait", waited, "--conn-id", "service", "-o", "json"]
    with terminal(argv, stdout=str(tmp_path / "out"), env=env, columns=500) as screen:
        assert screen.end() == ExitCode.DONE, screen.text
    assert f"operation '{waited}': running: " in screen.text
    assert f"operation '{waited}': 0:00:0" in screen.text
    assert json.loads((tmp_path / "out").read_text()) == {"id": waited.rpartition("/")[2]}
