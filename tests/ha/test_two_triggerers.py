"""100 waits over two triggerers, one killed and then the other: what it costs, which must be nothing but time.

Three of four start their own operation, the fourth is a sensor; each would cancel its operation if a user killed it.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_lro.exceptions import Code
from airflow_provider_lro.simulator import operation_name
from tests.ha.trigger_rows import read_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.stack import AirflowStack, TaskState
    from tests.simulator_fixture import Simulator

pytestmark = [pytest.mark.ha, pytest.mark.timeout(900)]

DAG = "hundred"
WAITS = 100
#: Seconds from an operation's start: all tasks are deferred and both triggerers killed before the first ends.
ENDS = 220
#: As in the DAG, and the default.
INTERVAL, JITTER = 16.0, 0.1
#: Seconds after which the backoff of 1, 2, 4 and 8 s is over for sure: the deferral itself delays it, by one window.
BACKOFF = 30.0
#: Seconds that two busy cores may delay a poll, or its way to the simulator.
LATE = 10.0
UNITS = {"min": 60.0, "s": 1.0}
FAILURES = (Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.INTERNAL)
STATES = {"ok": "success", "fail": "failed", "cancelled": "skipped", "never": "failed"}


@dataclass
class Wait:
    """One of them: what was asked for, and what came of it."""

    index: int
    task: str
    map_index: int
    outcome: str
    script: dict[str, Any] = field(default_factory=dict)
    code: Code = Code.OK
    name: str = ""
    seen: str = ""
    state: str | None = None
    ended: float = 0.0
    starts: int = 0
    polls: list[float] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)  # before the kills, between them, after
    takeovers: list[float] = field(default_factory=list)  # the kills that this wait's triggerer died of

    @classmethod
    def make(cls, index: int) -> Wait:
        """The outcomes of 100: 40 succeed, 20 fail, 20 are cancelled, 20 are never done; of each, a quarter senses."""
        senses = index % 4 == 3
        task, map_index = ("senses", index // 4) if senses else ("starts", index - index // 4)
        outcome = ("ok", "fail", "cancelled", "ok", "never")[index % 5]
        script: dict[str, Any] = {"outcome": outcome, "duration": ENDS + index % 10}
        code = Code.OK
        if outcome == "ok":
            script["response"] = {"wait": index, "text": f"the result of wait {index}"}
        elif outcome == "fail":
            code = FAILURES[index // 5 % len(FAILURES)]
            script["code"] = code.value
        name = operation_name(f"wait-{index}", **script) if senses else ""  # known before its clock starts
        return cls(index=index, task=task, map_index=map_index, outcome=outcome, script=script, code=code, name=name)

    @property
    def asked(self) -> dict[str, Any]:
        """The arguments of the task."""
        if self.task == "senses":
            return {"operation_name": self.name, "timeout": self.timeout}
        return {"script": self.script, "wait_timeout": self.timeout}

    @property
    def key(self) -> tuple[str, int]:
        return self.task, self.map_index

    @property
    def timeout(self) -> float:
        """Of the wait: only an operation that is never done meets it."""
        return ENDS if self.outcome == "never" else ENDS + 600

    @property
    def started_at(self) -> float:
        return float(self.rows[0]["kwargs"]["started_at"])

    @property
    def deadline(self) -> float:
        return float(self.rows[0]["kwargs"]["deadline"])

    @property
    def steady_gaps(self) -> list[float]:
        """The pauses after the backoff, without those in which the triggerer died and the one that a deadline cuts."""
        return [
            later - earlier
            for earlier, later in pairwise(self.polls)
            if earlier >= self.started_at + BACKOFF
            and not any(earlier <= killed <= later for killed in self.takeovers)
            and later < self.deadline - LATE
        ]

    @property
    def longest_gap(self) -> float:
        return max((later - earlier for earlier, later in pairwise(self.polls)), default=0.0)


def until(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> float:
    """Wait, and tell when it came true. Every 2 s: the API server shares the cores."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(2)
    return time.time()


def deferred(airflow: AirflowStack, run: str) -> int:
    return Counter(task.state for task in airflow.task_states(DAG, run))["deferred"]


def owners(airflow: AirflowStack, run: str) -> Counter[str | None]:
    """How many waits each triggerer has, as the API tells it."""
    return Counter(task.triggerer for task in airflow.task_states(DAG, run) if task.state == "deferred")


def outcome_of(airflow: AirflowStack, run: str, wait: Wait, came: TaskState) -> str:
    """What a task says became of its wait, in the words of the simulator; anything else as it is."""
    state, log = came.state, airflow.task_log(DAG, run, wait.task, map_index=wait.map_index)
    if came.try_number != 1:
        return f"{state} after {came.try_number} tries"
    if state == "success":
        response = airflow.xcom(DAG, run, wait.task, map_index=wait.map_index)
        return "ok" if response == wait.script.get("response") else f"another's response: {response}"
    if state == "skipped":
        return "cancelled" if "was cancelled" in log else "skipped"
    if late := re.search(r"was not done within (.*?):", log):
        # Of an operation that the task has started the text counts from there, and the timeout a moment later.
        within = sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+) (min|s)", late[1]))
        return "never" if wait.timeout - 0.5 <= within < wait.timeout + LATE else f"timed out after {within:g} s"
    return "fail" if f"{wait.code.name} ({wait.code.value})" in log else f"{state}"


def note_what_came(airflow: AirflowStack, run: str, waits: list[Wait], calls: list[dict[str, Any]]) -> None:
    """Complete the waits of a run that is over, from its tasks and from the simulator's log."""
    came = {(task.task_id, task.map_index): task for task in airflow.task_states(DAG, run)}
    for wait in waits:
        task = came[wait.key]
        assert task.end is not None
        wait.state, wait.ended = task.state, task.end.timestamp()
        wait.name = wait.rows[0]["kwargs"]["operation_name"]
        own = [call for call in calls if call["name"] == wait.name]
        wait.starts = sum(call["method"] == "Start" for call in own)
        wait.polls = sorted(call["time"] for call in own if call["method"] == "GetOperation")
        wait.seen = outcome_of(airflow, run, wait, task)


def table(waits: list[Wait]) -> str:
    """A line for each. The gaps are those between polls; in the longest a triggerer died."""
    titles = ("starts", "polls", "triggerers", "deadline moved", "last poll", "steady gaps", "longest gap")
    lines = [("wait", "task", "expected", "seen", *titles)]
    for wait in waits:
        moved = max(abs(row["kwargs"]["deadline"] - wait.deadline) for row in wait.rows)
        path = " > ".join(row["triggerer"].removeprefix("triggerer-") for row in wait.rows)
        last = f"deadline {wait.polls[-1] - wait.deadline:+.3f} s" if wait.outcome == "never" and wait.polls else ""
        gaps = wait.steady_gaps  # of a wait that ended too early there may be none
        steady = f"{min(gaps):.1f} to {max(gaps):.1f} s" if gaps else ""
        counts = (str(wait.starts), str(len(wait.polls)), path, f"{moved:.3f} s")
        words = (str(wait.index), wait.task, wait.outcome, wait.seen)
        lines.append((*words, *counts, last, steady, f"{wait.longest_gap:.1f} s"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def test_triggerers_die_and_no_wait_notices(
    airflow: AirflowStack, service: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wait outlives its triggerer, twice: outcome, deadline and schedule stay, and nothing is started again."""
    waits = [Wait.make(index) for index in range(WAITS)]
    asked = {kind: [wait.asked for wait in waits if wait.task == kind] for kind in ("starts", "senses")}
    earlier = len(service.calls())  # of other tests
    run = airflow.trigger(DAG, asked)
    all_deferred = until(lambda: deferred(airflow, run) == WAITS, "all tasks to be deferred", 240)
    until(lambda: owners(airflow, run)[None] == 0, "all triggers to be taken")

    def note_rows() -> None:
        rows = read_rows(airflow, DAG, run)
        for wait in waits:
            wait.rows.append(rows[wait.key])

    def kill(victim: str, heir: str) -> float:
        for wait in waits:
            if wait.rows[-1]["triggerer"] == victim:
                wait.takeovers.append(time.time())
        airflow.kill(victim)
        return until(lambda: owners(airflow, run) == {heir: WAITS}, f"{heir} to take over from {victim}")

    note_rows()
    # They share as chance has it, often unevenly: whoever has more dies first, and then its heir, who has all.
    heir, victim = sorted(airflow.triggerers, key=lambda name: owners(airflow, run)[name])
    first = kill(victim, heir)
    note_rows()
    airflow.start(victim)
    second = kill(heir, victim)
    note_rows()
    began = service.calls()[earlier]["time"]
    earliest = min(began + ENDS, *(wait.deadline for wait in waits))
    assert time.time() + INTERVAL < earliest, "this machine is too slow: operations end while triggerers are killed"
    airflow.start(heir)
    airflow.wait_for_run(DAG, run, timeout=500)
    over = time.time()

    calls = service.calls()[earlier:]
    note_what_came(airflow, run, waits, calls)
    verdicts = [wait.ended - wait.deadline for wait in waits if wait.outcome == "never"]
    with capsys.disabled():
        print(f"\n\n{table(waits)}\n")
        moments = [f"{moment - began:.0f} s" for moment in (all_deferred, first, second, earliest, over)]
        print("after the first poll: all deferred {}, taken over {} and {}, first end {}, all over {}".format(*moments))
        print(f"tasks failed {min(verdicts):.1f} to {max(verdicts):.1f} s after their deadlines")

    assert {wait.index: wait.seen for wait in waits} == {wait.index: wait.outcome for wait in waits}
    assert {wait.index: wait.state for wait in waits} == {wait.index: STATES[wait.outcome] for wait in waits}
    # Each starter has called Start once, and nobody has started anything else.
    started = Counter(call["name"] for call in calls if call["method"] == "Start")
    assert started == {wait.name: 1 for wait in waits if wait.task == "starts"}
    assert len({wait.name for wait in waits}) == WAITS
    assert [call for call in calls if call["method"] == "CancelOperation"] == []
    for wait in waits:
        assert wait.rows[0]["kwargs"]["cancel_on_kill"] is True, wait
        # The very same rows: no task was deferred a second time, no start or deadline moved by a digit.
        assert all((row["id"], row["kwargs"]) == (wait.rows[0]["id"], wait.rows[0]["kwargs"]) for row in wait.rows)
        if wait.outcome == "never":
            assert -0.1 < wait.polls[-1] - wait.deadline < LATE, wait
        # Whoever began its backoff again would poll after 1, 2, 4 and 8 s.
        assert min(wait.steady_gaps) > INTERVAL * (1 - JITTER) - 0.1, wait
        assert max(wait.steady_gaps) < INTERVAL + LATE, wait
