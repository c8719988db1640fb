"""The commands as processes: in a terminal, in a pipe, and inside a real Airflow."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import airflow
import pytest

from airflow_provider_lro.cli import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.simulator_fixture import Simulator

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

MODULE = [sys.executable, "-m", "airflow_provider_lro"]
IS_IN_AIRFLOW = tuple(map(int, airflow.__version__.split(".")[:2])) >= (3, 2)
CLEAR = "\r\x1b[K"


class Terminal:
    """A command in a terminal of its own, whose stdout may be a pipe."""

    def __init__(self, argv: list[str], *, stdout: str = "", env: dict[str, str] | None = None, columns: int) -> None:
        self._screen, keyboard = pty.openpty()
        termios.tcsetwinsize(keyboard, (24, columns))
        # The first terminal that a session's leader opens is its own, so that Ctrl-C reaches it.
        tty = os.ttyname(keyboard)
        shell = f"exec {shlex.join(argv)} <{tty} >{stdout or tty} 2>{tty}"
        environment = {**(os.environ if env is None else env), "TERM": "xterm"}
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", shell], stdin=keyboard, start_new_session=True, env=environment
        )
        os.close(keyboard)
        self.text = ""

    def read_until(self, pattern: str) -> None:
        """Read what the screen shows until that is on it."""
        end = time.monotonic() + 150
        while not re.search(pattern, self.text):
            assert time.monotonic() < end, self.text
            assert self._read(1.0), f"{pattern!r} is not in {self.text!r}"

    def type(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    def end(self) -> int:
        """Read to the end; returns the exit code."""
        while self._read(150.0):
            pass
        return self.process.wait(150)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._screen], [], [], seconds)[0]:
            return seconds == 1.0
        try:
            more = os.read(self._screen, 65536)
        except OSError:  # Linux says so when nobody has the terminal open any more
            return False
        self.text += more.decode()
        return bool(more)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._screen)


@contextmanager
def terminal(
    argv: list[str], *, stdout: str = "", env: dict[str, str] | None = None, columns: int = 100
) -> Iterator[Terminal]:
    running = Terminal(argv, stdout=stdout, env=env, columns=columns)
    try:
        yield running
    finally:
        running.close()


def frames(text: str) -> list[str]:
    """What the line in place has shown, one after the other."""
    return [frame for frame in text.split(CLEAR)[1:] if "elapsed" in frame and "\n" not in frame]


def test_progress_in_place(name: Callable[..., str], tmp_path: Path) -> None:
    """In a terminal one line changes in place and never wraps; the response alone goes where stdout goes."""
    waited = name(duration=2.5)
    argv = [*MODULE, "wait", waited, "--interval=0.5", "-o", "json"]
    with terminal(argv, stdout=str(tmp_path / "out"), columns=40) as screen:
        assert screen.end() == ExitCode.DONE, screen.text
    shown = frames(screen.text)
    assert len(set(shown)) >= 3, screen.text
    assert all(len(frame) < 40 for frame in shown)
    # After the line in place is cleared, one line says how long it has been: the only one.
    assert screen.text.count("\n") == 1
    assert json.loads((tmp_path / "out").read_text()) == {"id": waited.rpartition("/")[2]}


@pytest.fixture
def heard() -> Iterator[None]:
    """Let children hear Ctrl-C, also where the tests themselves were started in the background, deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_ends_the_wait_alone(name: Callable[..., str], simulator: Simulator) -> None:
    """Ctrl-C exits with 130, cancels nothing, and prints the command that does, which works."""
    waited = name(outcome="never")
    with terminal([*MODULE, "wait", waited], columns=1000) as screen:
        screen.read_until("running")
        screen.type("\x03")
        assert screen.end() == ExitCode.INTERRUPTED, screen.text
    assert "Traceback" not in screen.text
    assert "the operation goes on" in screen.text
    assert simulator.calls("CancelOperation", waited) == []
    told = screen.text.rpartition("To cancel it: ")[2].strip()
    assert told == f"python -m airflow_provider_lro cancel {shlex.quote(waited)}"
    subprocess.run([sys.executable, *shlex.split(told)[1:]], check=True, timeout=150, capture_output=True)
    assert len(simulator.calls("CancelOperation", waited)) == 1


def test_delete_asks_in_a_terminal(name: Callable[..., str], simulator: Simulator) -> None:
    """Who is asked, and says anything but yes, keeps the operation."""
    kept = name(duration=0)
    with terminal([*MODULE, "delete", kept]) as screen:
        screen.read_until(r"\[y/N\]")
        screen.type("\n")
        assert screen.end() == ExitCode.OTHER, screen.text
    assert simulator.calls("DeleteOperation", kept) == []


def test_a_broken_pipe_is_quiet(name: Callable[..., str]) -> None:
    """A reader that has seen enough is no error worth a word."""
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
    env = {**os.environ, "AIRFLOW_HOME": str(tmp_path / "home")}
    admin = [sys.executable, "-W", "ignore", "-m", "airflow"]
    stored = {"conn_type": "lro", "host": "127.0.0.1", "port": simulator.port, "extra": {"insecure": True}}
    add = ["connections", "add", "service", "--conn-json", json.dumps(stored)]
    for arguments in (["db", "migrate"], add):
        subprocess.run([*admin, *arguments], env=env, check=True, timeout=150, capture_output=True)
    commands = [*admin, "lro"] if IS_IN_AIRFLOW else MODULE
    prog = "airflow lro" if IS_IN_AIRFLOW else "python -m airflow_provider_lro"

    failing = name(duration=1.5, outcome="fail", code=8, message="no quota", latency=0.004)
    with terminal([*commands, "wait", failing, "--conn-id", "service"], env=env, columns=500) as screen:
        assert screen.end() == ExitCode.FAILED, screen.text
    assert len(set(frames(screen.text))) >= 2, screen.text
    last = screen.text.splitlines()[-1]
    assert last.startswith(f"{prog} wait: operation '{failing}' failed with RESOURCE_EXHAUSTED (8): no quota")

    fine = name(duration=0.3)
    argv = [*commands, "wait", fine, "--conn-id", "service", "-o", "json"]
    piped = subprocess.run(argv, env=env, check=True, timeout=150, capture_output=True, text=True)
    assert json.loads(piped.stdout) == {"id": fine.rpartition("/")[2]}
    assert "\r" not in piped.stderr
    assert f"operation '{fine}': succeeded" in piped.stderr
