"""One wait, shown: a simulated service, a real Airflow, and every poll beside the moment the schedule allows for it.

`python -m scripts.demo` runs `example_dags/start_wait_use.py` and ends by itself: 0 when the run succeeded and every
poll of the trigger came in its window. `--up` then keeps Airflow's UI running until Ctrl-C. Everything happens on
127.0.0.1 and in a temporary directory; neither a process nor a file is left behind. Standard library only, but for the
schedule, which is the provider's own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from datetime import datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_lro._core.schedule import Schedule, Window
from scripts.children import ChildEnded, Children
from scripts.stack import FINAL_STATES, AirflowError, AirflowStack

if TYPE_CHECKING:
    from collections.abc import Sequence

REPOSITORY: Final = Path(__file__).resolve().parent.parent
DAG_ID: Final = "lro_start_wait_use"
TASK_ID: Final = "wait"
#: As in the DAG file, with the sensor's defaults for the rest.
SCHEDULE: Final = Schedule(interval=4.0)

#: Seconds that a poll may come late: the call itself, and a busy machine.
LATE: Final = 0.5
#: Seconds that it may seem early: two clock readings, rounded.
EARLY: Final = 0.05
#: Seconds by which a trigger's start can only be guessed from the log; its backoff goes on from there.
START_UNKNOWN: Final = 0.75
RUN_TIMEOUT: Final = 120.0

_LISTENING: Final = "simulator: listening on "
_TRIGGER_STARTS: Final = re.compile(r'"timestamp":\s*"([^"]+)".*"event":\s*"trigger [^"]* starting"')


class DemoError(RuntimeError):
    """What the demo shows did not happen."""


class Polls:
    """The polls of the one operation, as the simulator logged them: the worker's first one, then the trigger's."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.trigger_start: float | None = None
        self.out_of_window = 0

    def add(self, call: dict[str, Any]) -> str:
        """Take the next poll; returns what to say about it."""
        self.calls.append(call)
        number = len(self.calls)
        answer = f"code {call['code']}" if call["code"] else "done" if call["done"] else "not done"
        if number == 1:
            return f"poll 1   by the worker:    {answer}"
        gap = call["time"] - self.calls[-2]["time"]
        if number == 2:  # noqa: PLR2004 - the second poll
            return f"poll 2   by the triggerer: {answer:<9} handover from worker to triggerer: {gap:.2f} s"
        window = self._windows()[-1]
        fits = _fits(gap, window)
        self.out_of_window += not fits
        verdict = "in its window" if fits else "OUT OF ITS WINDOW"
        allowed = f"[{window.shortest:.1f} s, {window.longest:.1f} s]"
        return f"poll {number:<3} by the triggerer: {answer:<9} {gap:.2f} s later, window {allowed}: {verdict}"

    def _windows(self) -> list[Window]:
        """The windows of the gaps since the trigger's first poll.

        The backoff goes on from the time that the wait had lasted when the trigger started, and that is known up to
        START_UNKNOWN: of the two schedules that this may make, the one that fits.
        """
        if self.trigger_start is None:
            raise DemoError("polls came from a trigger of which the task's log knows nothing")
        times = [call["time"] for call in self.calls]
        gaps = [later - earlier for earlier, later in pairwise(times[1:])]
        elapsed = self.trigger_start - times[0]
        candidates = [
            # The first window is that of the trigger's first poll, which begins somewhere in the handover.
            list(islice(SCHEDULE.windows(elapsed=max(0.0, seconds)), 1, len(gaps) + 1))
            for seconds in (elapsed, elapsed + START_UNKNOWN)
        ]
        return max(candidates, key=lambda windows: [_fits(*pair) for pair in zip(gaps, windows, strict=True)])


class Demo:
    """One run of the DAG, told as it happens."""

    def __init__(self, airflow: AirflowStack, calls: Path) -> None:
        self._airflow = airflow
        self._calls = calls
        self._read = 0
        self._states: dict[str, str | None] = {}
        self.polls = Polls()
        self.run_id = ""

    def run(self) -> str:
        """Run it to its end; returns the run's state."""
        self.run_id = self._airflow.trigger(DAG_ID)
        say(f"{DAG_ID} runs: a task starts a job of 15 s, a sensor waits for it, a task uses its result")
        until = time.monotonic() + RUN_TIMEOUT
        while True:
            state = self._airflow.run_state(DAG_ID, self.run_id)
            for moment, text in sorted([*self._new_states(), *self._new_calls()]):
                say(text, moment)
            if state in FINAL_STATES:
                return state
            if time.monotonic() > until:
                raise DemoError(f"the run is still {state} after {RUN_TIMEOUT:.0f} s")
            time.sleep(0.25)

    def _new_states(self) -> list[tuple[float, str]]:
        news = []
        for task in self._airflow.task_states(DAG_ID, self.run_id):
            if task.state is not None and self._states.get(task.task_id) != task.state:
                self._states[task.task_id] = task.state
                ended = task.state in FINAL_STATES and task.end is not None
                moment = task.end.timestamp() if ended and task.end else time.time()
                free = "   (no worker is taken from here on)" if task.state == "deferred" else ""
                news.append((moment, f"task {task.task_id:<6} {task.state}{free}"))
        return news

    def _new_calls(self) -> list[tuple[float, str]]:
        lines = self._calls.read_text(encoding="utf-8").splitlines(keepends=True) if self._calls.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        new, self._read = whole[self._read :], len(whole)
        news = []
        for call in map(json.loads, new):
            if call["method"] == "Start":
                news.append((call["time"], f"service     job started: {call['name']}"))
            elif call["method"] == "GetOperation":
                self._look_for_trigger()
                news.append((call["time"], f"service     {self.polls.add(call)}"))
        return news

    def _look_for_trigger(self) -> None:
        if self.polls.trigger_start is None and len(self.polls.calls) > 1:
            started = _TRIGGER_STARTS.search(self._airflow.task_log(DAG_ID, self.run_id, TASK_ID))
            self.polls.trigger_start = started and datetime.fromisoformat(started[1]).timestamp()


def say(text: str, moment: float | None = None) -> None:
    """Print a line with the time of day."""
    local = datetime.fromtimestamp(time.time() if moment is None else moment).astimezone()
    print(f"{local:%H:%M:%S}.{local.microsecond // 100_000}  {text}", flush=True)


def _fits(gap: float, window: Window) -> bool:
    return window.shortest - EARLY <= gap <= window.longest + LATE


def start_simulator(children: Children, folder: Path) -> tuple[int, Path]:
    """Start the service; returns its port and the file of its calls."""
    output, calls = folder / "simulator.log", folder / "calls.jsonl"
    argv = [sys.executable, "-m", "airflow_provider_lro.simulator", "--port", "0"]
    argv += ["--state", str(folder / "state.jsonl"), "--log", str(calls)]
    children.start("simulator", argv, env=os.environ, cwd=REPOSITORY, log=output)
    until = time.monotonic() + 30
    while _LISTENING not in (said := output.read_text()):
        children.check()
        if time.monotonic() > until:
            raise DemoError(f"the simulator did not start:\n{said}")
        time.sleep(0.05)
    return int(said.partition(_LISTENING)[2].split()[0].rpartition(":")[2]), calls


def show(demo: Demo, airflow: AirflowStack, state: str) -> bool:
    """Print what came of the run; returns whether all went as promised."""
    print()
    for task in airflow.task_states(DAG_ID, demo.run_id):
        if task.state == "failed":
            print(f"The log of {task.task_id}:\n{airflow.task_log(DAG_ID, demo.run_id, task.task_id)}")
    polls = demo.polls
    judged = max(0, len(polls.calls) - 2)
    print(f"The run ended as {state}.")
    if state == "success":
        for task_id in (TASK_ID, "use"):
            print(f"XCom of {task_id}: {json.dumps(airflow.xcom(DAG_ID, demo.run_id, task_id))}")
    print(f"Polls: {len(polls.calls)}, of which the worker made the first. ", end="")
    print(f"Of {judged} gaps, {judged - polls.out_of_window} lay in their windows.", flush=True)
    return state == "success" and judged > 0 and not polls.out_of_window


def stay(airflow: AirflowStack, children: Children, parent: int) -> None:
    """Keep Airflow running until Ctrl-C."""
    print(f"\nAirflow's UI: {airflow.url}  user: {airflow.user}  password: {airflow.password}")
    print(f"Its DAGs are those of {REPOSITORY / 'example_dags'}. Ctrl-C ends it.", flush=True)
    try:
        while os.getppid() == parent:  # a `make` that was killed cannot pass a Ctrl-C on
            children.check()
            time.sleep(1)
    except KeyboardInterrupt:
        print(flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--up", action="store_true", help="keep Airflow's UI running until Ctrl-C")
    up = parser.parse_args(arguments).up
    parent = os.getppid()
    began = time.monotonic()
    with Children() as children:
        try:
            folder = children.temporary_directory("airflow-provider-lro-demo-")
            port, calls = start_simulator(children, folder)
            say(f"a simulated service listens on 127.0.0.1:{port}")
            connection = {"conn_type": "lro", "host": "127.0.0.1", "port": port, "extra": {"insecure": True}}
            airflow = AirflowStack(
                folder / "airflow",
                REPOSITORY / "example_dags",
                env={"AIRFLOW_CONN_LRO_DEFAULT": json.dumps(connection)},
                serve_logs=up,
                with_ui=up,
                children=children,
            )
            say(f"Airflow {airflow.version} starts in a temporary home; that takes 20 to 40 s")
            with airflow:
                say(f"Airflow is up; its UI, while it runs: {airflow.url}  ({airflow.user} / {airflow.password})")
                try:
                    demo = Demo(airflow, calls)
                    shown = show(demo, airflow, demo.run())
                    if up:
                        stay(airflow, children, parent)
                finally:
                    say("ending all processes")
        except (AirflowError, ChildEnded, DemoError) as error:
            print(f"\n{error}", file=sys.stderr)
            shown = False
        except KeyboardInterrupt:
            say("interrupted")
            raise
    say(f"ended, after {time.monotonic() - began:.0f} s; nothing is left behind")
    return 0 if shown else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt as interrupt:
        sys.exit(getattr(interrupt, "exit_code", 130))
