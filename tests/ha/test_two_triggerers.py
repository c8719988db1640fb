"""100 waits over two triggerers, one killed and then the other: what it costs, which must be nothing but time."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_lro.exceptions import Code
from tests.ha.trigger_rows import read_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.stack import AirflowStack
    from tests.simulator_fixture import Simulator

pytestmark = [pytest.mark.ha, pytest.mark.timeout(900)]

DAG = "hundred"
WAITS = 100
#: Seconds from the operations' start: all tasks are deferred and both triggerers killed before.
ENDS = 260
#: As in the DAG, and the default.
INTERVAL, JITTER = 16.0, 0.1
#: Seconds after which the backoff of 1, 2, 4 and 8 s is over for sure: the deferral itself delays it, by one window.
BACKOFF = 30.0
#: Seconds that two busy cores may delay a poll, or its way to the simulator.
LATE = 2.0
FAILURES = (Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.INTERNAL)
STATES = {"ok": "success", "fail": "failed", "cancelled": "skipped", "never": "failed"}


@dataclass
class Wait:
    """One of them: what was asked for, and what came of it."""

    index: int
    outcome: str
    script: dict[str, Any] = field(default_factory=dict)
    code: Code = Code.OK
    name: str = ""
    seen: str = ""
    ended: float = 0.0
    starts: int = 0
    polls: list[float] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)  # before the kills, between them, after
    takeovers: list[float] = field(default_factory=list)  # the kills that this wait's triggerer died of

    @classmethod
    def make(cls, index: int) -> Wait:
        """The outcomes of 100: 40 succeed, 20 fail, 20 are cancelled, 20 are never done."""
        outcome = ("ok", "fail", "cancelled", "ok", "never")[index % 5]
        script: dict[str, Any] = {"outcome": outcome, "duration": ENDS + index % 10}
        code = Code.OK
        if outcome == "ok":
            script["response"] = {"wait": index, "text": f"the result of wait {index}"}
        elif outcome == "fail":
            code = FAILURES[index // 5 % len(FAILURES)]
            script["code"] = code.value
        return cls(index=index, outcome=outcome, script=script, code=code)

    @property
    def timeout(self) -> float:
        """Of the task, from its own start: only an operation that is never done meets it."""
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
        return max(later - earlier for earlier, later in pairwise(self.polls))


def until(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> float:
    """Wait, and tell when it came true. Every 2 s: the API server shares the cores."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(2)
    return time.time()


def states(airflow: AirflowStack, run: str) -> Counter[str | None]:
    return Counter(task.state for task in airflow.task_states(DAG, run) if task.task_id == "waits")


def holders(airflow: AirflowStack, run: str) -> Counter[str | None]:
    """How many waits each triggerer has, as the API tells it."""
    return Counter(task.triggerer for task in airflow.task_states(DAG, run) if task.state == "deferred")


def outcome_of(airflow: AirflowStack, run: str, wait: Wait, state: str | None, tries: int) -> str:
    """What a task says became of its wait, in the words of the simulator; anything else as it is."""
    log = airflow.task_log(DAG, run, "waits", map_index=wait.index)
    if tries != 1:
        return f"{state} after {tries} tries"
    if state == "success":
        response = airflow.xcom(DAG, run, "waits", map_index=wait.index)
        return "ok" if response == wait.script.get("response") else f"another's response: {response}"
    if state == "skipped":
        return "cancelled" if "was cancelled" in log else "skipped"
    if f"was not done within {wait.timeout:g} s" in log:
        return "never"
    return "fail" if f"{wait.code.name} ({wait.code.value})" in log else f"{state}"


def table(waits: list[Wait]) -> str:
    """A line for each. The gaps are those between polls; in the longest a triggerer died."""
    gaps = ("steady gaps", "longest gap")
    lines = [("wait", "expected", "seen", "starts", "polls", "triggerers", "deadline moved", "last poll", *gaps)]
    for wait in waits:
        moved = max(abs(row["kwargs"]["deadline"] - wait.deadline) for row in wait.rows)
        path = " > ".join(row["triggerer"].removeprefix("triggerer-") for row in wait.rows)
        last = f"deadline {wait.polls[-1] - wait.deadline:+.3f} s" if wait.outcome == "never" else ""
        steady = f"{min(wait.steady_gaps):.1f} to {max(wait.steady_gaps):.1f} s"
        counts = (str(wait.starts), str(len(wait.polls)), path, f"{moved:.3f} s")
        lines.append((str(wait.index), wait.outcome, wait.seen, *counts, last, steady, f"{wait.longest_gap:.1f} s"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def test_triggerers_die_and_no_wait_notices(
    airflow: AirflowStack, service: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wait outlives its triggerer, twice: outcome, deadline and schedule stay, and nothing is started again."""
    waits = [Wait.make(index) for index in range(WAITS)]
    asked = [{"script": wait.script, "timeout": wait.timeout} for wait in waits]
    run = airflow.trigger(DAG, {"simulator": service.endpoint, "waits": asked})
    deferred = until(lambda: states(airflow, run)["deferred"] == WAITS, "all tasks to be deferred", 240)
    until(lambda: holders(airflow, run)[None] == 0, "all triggers to be taken")

    def note_rows() -> None:
        rows = read_rows(airflow, DAG, run)
        for wait in waits:
            wait.rows.append(rows["waits", wait.index])

    def kill(victim: str) -> float:
        for wait in waits:
            if wait.rows[-1]["triggerer"] == victim:
                wait.takeovers.append(time.time())
        airflow.kill(victim)
        (heir,) = set(airflow.triggerers) - {victim}
        return until(lambda: holders(airflow, run) == {heir: WAITS}, f"{heir} to take over from {victim}")

    note_rows()
    assert {row["triggerer"] for wait in waits for row in wait.rows} == set(airflow.triggerers)
    first = kill("triggerer-1")
    note_rows()
    airflow.start("triggerer-1")
    second = kill("triggerer-2")
    note_rows()
    earliest = min(*(wait.deadline for wait in waits), service.calls("Start")[0]["time"] + ENDS)
    assert time.time() + INTERVAL < earliest, "this machine is too slow: operations end while triggerers are killed"
    airflow.start("triggerer-2")
    airflow.wait_for_run(DAG, run, timeout=500)

    starts, polls = Counter(call["name"] for call in service.calls("Start")), service.calls("GetOperation")
    came = {task.map_index: task for task in airflow.task_states(DAG, run) if task.task_id == "waits"}
    for wait in waits:
        task = came[wait.index]
        assert task.end is not None
        wait.name, wait.ended = wait.rows[0]["kwargs"]["operation_name"], task.end.timestamp()
        wait.starts = starts[wait.name]
        wait.polls = sorted(call["time"] for call in polls if call["name"] == wait.name)
        wait.seen = outcome_of(airflow, run, wait, task.state, task.try_number)
    began = service.calls("Start")[0]["time"]
    verdicts = [wait.ended - wait.deadline for wait in waits if wait.outcome == "never"]
    with capsys.disabled():
        print(f"\n\n{table(waits)}\n")
        moments = [f"{moment - began:.0f} s" for moment in (deferred, first, second, earliest)]
        print("after the operations' start: all deferred {}, taken over {} and {}, first end {}".format(*moments))
        print(f"tasks failed {min(verdicts):.1f} to {max(verdicts):.1f} s after their deadlines")

    assert {wait.index: wait.seen for wait in waits} == {wait.index: wait.outcome for wait in waits}
    assert {wait.index: came[wait.index].state for wait in waits} == {w.index: STATES[w.outcome] for w in waits}
    assert starts == {wait.name: 1 for wait in waits}
    assert len(starts) == WAITS
    assert service.calls("CancelOperation") == []
    for wait in waits:
        # The very same rows: no task was deferred a second time, no start or deadline moved by a digit.
        assert all((row["id"], row["kwargs"]) == (wait.rows[0]["id"], wait.rows[0]["kwargs"]) for row in wait.rows)
        if wait.outcome == "never":
            assert -0.1 < wait.polls[-1] - wait.deadline < LATE, wait
        # Whoever began its backoff again would poll after 1, 2, 4 and 8 s.
        assert min(wait.steady_gaps) > INTERVAL * (1 - JITTER) - 0.1, wait
        assert max(wait.steady_gaps) < INTERVAL + LATE, wait
