"""Child processes that never outlive their parent, whatever ends it. Standard library only; POSIX.

Each child leads a session of its own, so a Ctrl-C in the terminal reaches only the parent, which then ends its
children in order. Airflow moves its grandchildren into new process groups but not into new sessions, so a session
(and what descends from it) is what is ended. If the parent itself is killed, a small guardian process, which holds
the other end of a pipe, sees the pipe close and does the same, at once and without asking.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import FrameType, TracebackType

__all__ = ["ChildEnded", "Children", "Terminated", "free_ports"]

#: Seconds that a child has after SIGINT, and then after SIGTERM, before the next signal.
GRACE_INTERRUPT = 6.0
GRACE_TERMINATE = 2.0

_PROC = Path("/proc")


class ChildEnded(RuntimeError):
    """A child process ended that should still run; the message holds the end of its log."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived. A KeyboardInterrupt, so that whatever respects Ctrl-C (pytest does) respects it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def free_ports(count: int) -> list[int]:
    """Ports on 127.0.0.1 that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


class Children:
    """Starts, watches and ends processes; as a context manager it leaves none of them behind.

    Args:
        grace_interrupt: Seconds between SIGINT and SIGTERM.
        grace_terminate: Seconds between SIGTERM and SIGKILL.
    """

    def __init__(self, *, grace_interrupt: float = GRACE_INTERRUPT, grace_terminate: float = GRACE_TERMINATE) -> None:
        self._grace_interrupt = grace_interrupt
        self._grace_terminate = grace_terminate
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, Path] = {}
        self._directories: list[Path] = []
        self._guardian: subprocess.Popen[str] | None = None
        self._replaced: dict[signal.Signals, signal.Handlers] = {}

    def __enter__(self) -> Self:
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._replaced[number] = signal.SIG_DFL
                    signal.signal(number, _raise_terminated)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def temporary_directory(self, prefix: str) -> Path:
        """A new directory that is removed with the children."""
        path = Path(tempfile.mkdtemp(prefix=prefix))
        self._directories.append(path)
        self._tell("directory", str(path))
        return path

    def start(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path, user: str | None = None
    ) -> int:
        """Start a process whose output goes to `log`, appended; returns its process id. Root may give it a `user`."""
        if self.alive(name):
            raise RuntimeError(f"{name} runs already")
        if self.owns(name):  # it ended by itself; what it started may not have
            self.kill(name)
        with log.open("ab") as output:
            child = subprocess.Popen(
                list(argv),
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=None if user is None else pwd.getpwnam(user).pw_gid,
                extra_groups=None if user is None else [],
            )
        self._children[name] = child
        self._logs[name] = log
        self._tell("session", str(child.pid))
        return child.pid

    def pid(self, name: str) -> int:
        """The process id of a child that was started."""
        return self._children[name].pid

    def owns(self, name: str) -> bool:
        """Whether a child was started and not yet ended by us."""
        return name in self._children

    def alive(self, name: str) -> bool:
        """Whether a child was started and has not ended."""
        child = self._children.get(name)
        return child is not None and child.poll() is None

    def check(self) -> None:
        """Raise when a child ended by itself.

        Raises:
            ChildEnded: With its exit code and the last lines of its log.
        """
        for name, child in self._children.items():
            if child.poll() is not None:
                tail = "\n".join(self._logs[name].read_text(errors="replace").splitlines()[-30:])
                raise ChildEnded(f"{name} ended with exit code {child.returncode}:\n{tail}")

    def wait(self, name: str, timeout: float) -> int:
        """Wait for a child that ends by itself; returns its exit code."""
        code = self._children[name].wait(timeout)
        self._forget(name)
        return code

    def kill(self, name: str) -> None:
        """SIGKILL a child and everything it started, as a machine that loses its power would."""
        self._signal([name], signal.SIGKILL)
        self._wait_until_gone([name], 5.0)
        self._forget(name)

    def stop(self, *names: str) -> None:
        """End children and all that they started: SIGINT, then SIGTERM, then SIGKILL; all of them at the same time."""
        try:
            for name in names:
                with contextlib.suppress(ProcessLookupError):
                    self._children[name].send_signal(signal.SIGINT)
            if not self._wait_until_gone(names, self._grace_interrupt):
                self._signal(names, signal.SIGTERM)
                self._wait_until_gone(names, self._grace_terminate)
        finally:  # a second Ctrl-C comes here at once
            self._signal(names, signal.SIGKILL)
            self._wait_until_gone(names, 5.0)
            for name in names:
                self._forget(name)

    def close(self) -> None:
        """End all children, remove the temporary directories, and give the signals back."""
        try:
            self.stop(*self._children)
        finally:
            for path in self._directories:
                shutil.rmtree(path, ignore_errors=True)
            if self._guardian is not None and self._guardian.stdin is not None:
                self._guardian.stdin.close()
                self._guardian.wait(10)
            self._guardian = None
            for number, handler in self._replaced.items():
                signal.signal(number, handler)
            self._replaced.clear()

    def _signal(self, names: Iterable[str], number: signal.Signals) -> None:
        _signal_all(_members({self._children[name].pid for name in names}), number)

    def _wait_until_gone(self, names: Iterable[str], seconds: float) -> bool:
        leaders = [self._children[name] for name in names]
        until = time.monotonic() + seconds
        while True:
            running = [child for child in leaders if child.poll() is None]
            if not running and not _members({child.pid for child in leaders}):
                return True
            if time.monotonic() > until:
                return False
            time.sleep(0.05)

    def _forget(self, name: str) -> None:
        child = self._children.pop(name)
        self._tell("forget", str(child.pid))

    def _tell(self, word: str, value: str) -> None:
        if self._guardian is None or self._guardian.stdin is None:
            raise RuntimeError("use Children as a context manager")
        # A guardian that somebody killed is no reason to fail: it is the second line.
        with contextlib.suppress(BrokenPipeError):
            self._guardian.stdin.write(f"{word} {value}\n")
            self._guardian.stdin.flush()


def _raise_terminated(number: int, _frame: FrameType | None) -> None:
    raise Terminated(number)


def _processes() -> dict[int, tuple[int, int]]:
    """Every living process: its parent and its session."""
    found: dict[int, tuple[int, int]] = {}
    if _PROC.is_dir():
        for entry in _PROC.iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # it ended while we looked
                    # pid (a name with any character in it) state parent group session …
                    state, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                    if state not in {"Z", "X"}:
                        found[int(entry.name)] = (int(parent), int(session))
        return found
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,state="],  # noqa: S607 - wherever this system keeps it
        capture_output=True,
        text=True,
        check=True,
    )
    for line in listing.stdout.splitlines():
        pid, parent, state = line.split(None, 2)
        if not state.startswith("Z"):
            with contextlib.suppress(OSError):
                found[int(pid)] = (int(parent), os.getsid(int(pid)))
    return found


def _members(leaders: set[int]) -> set[int]:
    """Who belongs to the leaders' sessions, and whatever descends from those."""
    if not leaders:
        return set()
    processes = _processes()
    members = {pid for pid, (_, session) in processes.items() if session in leaders}
    grown = True
    while grown:
        more = {pid for pid, (parent, _) in processes.items() if parent in members} - members
        members |= more
        grown = bool(more)
    return members - {os.getpid()}


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _guard(orders: IO[str]) -> None:
    """Note what the parent starts; when the pipe closes, for whatever reason, end what is left of it."""
    leaders: set[int] = set()
    directories: list[str] = []
    for line in orders:
        word, _, value = line.rstrip("\n").partition(" ")
        if word == "session":
            leaders.add(int(value))
        elif word == "forget":
            leaders.discard(int(value))
        elif word == "directory":
            directories.append(value)
    until = time.monotonic() + 10
    while (members := _members(leaders)) and time.monotonic() < until:
        _signal_all(members, signal.SIGKILL)
        time.sleep(0.05)
    for path in directories:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    _guard(sys.stdin)
