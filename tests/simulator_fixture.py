"""The simulator as a subprocess, for tests, benchmarks and the demo. Standard library only.

    with running_simulator("--token", "secret") as simulator:
        channel = grpc.insecure_channel(simulator.endpoint)
        ...
        assert [call["code"] for call in simulator.calls("GetOperation")] == [14, 0]

It listens on a free port of 127.0.0.1, keeps its state and its call log in a temporary directory (unless the arguments
name other files), and never outlives the `with` block.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY: Final = Path(__file__).resolve().parent.parent
LISTENING: Final = "simulator: listening on "
START_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 10.0


class SimulatorError(RuntimeError):
    """The simulator did not come up; the text holds what it said."""


class Simulator:
    """One simulator; made by `running_simulator`.

    Attributes:
        port: The port, the same after every restart.
        endpoint: `host:port`.
        log: The file of calls.
        state: The file of its state.
    """

    def __init__(self, directory: Path, args: tuple[str, ...]) -> None:
        self._args = args
        self._stderr = directory / "stderr.txt"
        self.log = Path(_option(args, "--log") or directory / "calls.jsonl")
        self.state = Path(_option(args, "--state") or directory / "state.jsonl")
        self.port = int(_option(args, "--port") or 0)
        self.endpoint = ""
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running simulator."""
        if self._process is None:
            raise SimulatorError("the simulator is not running")
        return self._process.pid

    def calls(self, method: str | None = None, name: str | None = None) -> list[dict[str, Any]]:
        """Read the call log, oldest first.

        A call is in it before its caller has the answer.

        Args:
            method: Only calls of this method, such as "GetOperation".
            name: Only calls with exactly this name.
        """
        text = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # what follows is a line that is being written
        calls = [json.loads(line) for line in whole.splitlines()]
        return [call for call in calls if method in {None, call["method"]} and name in {None, call["name"]}]

    def stderr(self) -> str:
        """Read what the simulator wrote to stderr, over all restarts."""
        return self._stderr.read_text(encoding="utf-8") if self._stderr.exists() else ""

    def start(self) -> None:
        """Start the process and wait until it listens; `running_simulator` has done it already.

        Raises:
            SimulatorError: It ended, or did not listen within START_TIMEOUT.
        """
        given = {"--port": str(self.port), "--log": str(self.log), "--state": str(self.state)}
        rest = [text for key, value in given.items() if _option(self._args, key) is None for text in (key, value)]
        # The checkout goes first, so that it works without an installation of the provider too.
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        with self._stderr.open("a", encoding="utf-8") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "airflow_provider_lro.simulator", *self._args, *rest],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
            )
        line = self._first_line(self._process)
        if not line.startswith(LISTENING):
            self.kill()
            raise SimulatorError(f"the simulator does not listen; it said: {line}{self.stderr()}")
        self.endpoint = line.removeprefix(LISTENING).strip()
        self.port = int(self.endpoint.rpartition(":")[2])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        """End it with a signal; gives its exit code, 0 when it ended cleanly, or None when it was not running."""
        return self._end(number)

    def kill(self) -> int | None:
        """End it with SIGKILL, as a crash would; gives -9, or None when it was not running."""
        return self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start it again on the same port with the same files; stops it first when it is running."""
        self.stop()
        self.start()

    def _end(self, number: signal.Signals) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        process.send_signal(number)
        try:
            return process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT)
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()

    @staticmethod
    def _first_line(process: subprocess.Popen[str]) -> str:
        if process.stdout is None:
            return ""
        until = time.monotonic() + START_TIMEOUT
        while time.monotonic() < until:
            if select.select([process.stdout], [], [], until - time.monotonic())[0]:
                # The line is written and flushed in one piece, or this is the end of the file.
                return process.stdout.readline()
        return ""


def _option(args: tuple[str, ...], key: str) -> str | None:
    for index, arg in enumerate(args):
        if arg == key:
            return args[index + 1]
        if arg.startswith(key + "="):
            return arg.partition("=")[2]
    return None


@contextmanager
def running_simulator(*args: str | Path) -> Iterator[Simulator]:
    """Run a simulator for the length of a `with` block.

    Args:
        args: More arguments of the command, such as "--token", "secret".

    Yields:
        The simulator, which listens.

    Raises:
        SimulatorError: It did not come up.
    """
    with tempfile.TemporaryDirectory(prefix="simulator-") as directory:
        simulator = Simulator(Path(directory), tuple(str(arg) for arg in args))
        simulator.start()
        try:
            yield simulator
        finally:
            simulator.stop()
