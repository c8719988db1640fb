"""A process with Airflow's real trigger runner, in which waits at hostile servers run beside a bystander.

    python -m tests.hostile.triggerer <file>

The file is JSON: `directory`, `roots`, `log`, `connection` and `connections` as `benchmarks/runner.py` has them; rows
of triggers, as the database holds them: of `warm_up`, of the `bystander`, and of `waits` by their keys; `begun`
and `result`, the paths of what it writes; `limit`, MB of memory that it may take beyond what it has when the waits
begin; `again`, seconds after which waits that are over begin again, or 0; `ending`, the rows whose waits must end, and
`patience`, seconds for which it waits for them after the bystander.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import resource
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.runner import running
from tests.hostile.rows import FAILED, GOES_ON, SUCCEEDED, TO_WORKER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Trigger = tuple[str, Mapping[str, Any]]

LETTERS = {"S": SUCCEEDED, "F": FAILED, "C": "cancelled", "N": "not found", "T": "timed out"}
BYSTANDER = "bystander"
WARM_UP = "warm-up"
LOADED = (
    "airflow_provider_lro.assets",
    "airflow_provider_lro.assets._stream",
    "google.auth.transport.requests",
    "google.oauth2.service_account",
    "google.rpc.error_details_pb2",
)
"""What is imported once, by whoever needs it first: not what a server has done."""
PAUSE = 0.1
"""Seconds between two looks at what has happened."""
PACE = 0.01
"""Seconds from one wait's beginning to the next one's: a herd is no server's doing, and `benchmarks/herd.py` has it."""


class Steps:
    """The longest step of the event loop, in seconds; the CPU time that its thread has used in it; and what it ran."""

    def __init__(self) -> None:
        self.longest = self.cpu = 0.0
        self.ran = ""
        run = asyncio.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            began, cpu = time.perf_counter(), time.thread_time()
            run(handle)
            took = time.perf_counter() - began
            if took > self.longest:
                self.longest, self.cpu = took, time.thread_time() - cpu
                self.ran = f"{getattr(handle._callback, '__self__', handle)!r}"[:500]

        asyncio.Handle._run = timed


class Waits:
    """The triggers that run, by the key of the row that each belongs to, and what came of those that have ended."""

    def __init__(self, triggers: Any) -> None:
        self.running: dict[int, str] = {}
        self.came: dict[str, Counter[str]] = {}
        self.began: dict[str, float] = {}
        self._triggers = triggers
        self._ids = count(1)

    async def begin(self, key: str, rows: Iterable[Trigger]) -> None:
        """Begin the triggers of a row."""
        self.began[key] = time.monotonic()
        self.came.setdefault(key, Counter())
        for row in rows:
            number = next(self._ids)
            self.running[number] = key
            await self._triggers.begin(number - 1, row)
            await asyncio.sleep(PACE)

    def look(self) -> None:
        """Take what has ended since the last time."""
        fired, failed = self._triggers.fired, self._triggers.failed
        while fired:
            entry = fired.pop()
            if "outcomes" in entry.event.payload:  # else it is a watcher's, which goes on
                self.came[self.running.pop(entry.trigger_id)][outcome_of(entry.event.payload)] += 1
        while failed:
            number, error = failed.pop()
            if number in self.running:
                self.came[self.running.pop(number)][f"ended by {type(error).__name__}"] += 1

    def are_over(self, key: str) -> bool:
        """Return True if all triggers of a row have ended."""
        self.look()
        return key not in self.running.values()


def outcome_of(event: Mapping[str, Any]) -> str:
    """Return what an event says of its one operation, in the words of the rows."""
    letter = event["outcomes"]
    if letter == "B":
        return str((event.get("error") or event["known"]["0"]["error"])["type"])
    return LETTERS.get(letter, TO_WORKER)


def megabytes(what: str, pid: int | str = "self") -> float:
    """Return a figure of a process, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) * 1024 / 1e6


def keep_below(limit: float) -> None:
    """Let the process end where it takes so many MB more than now; forget the most that it has had so far."""
    data = int((megabytes("VmData") + limit) * 1e6)
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


async def run(spec: Mapping[str, Any]) -> None:
    """Run the waits, and write what came of them when the bystander has ended."""
    for module in LOADED:
        importlib.import_module(module)
    async with running(dict(spec)) as triggers:
        steps, waits = Steps(), Waits(triggers)
        await waits.begin(WARM_UP, spec["warm_up"])
        await until_over(waits, [WARM_UP])
        await waits.begin(BYSTANDER, [spec["bystander"]])
        await asyncio.sleep(1.5)  # until it has polled
        gc.collect()
        gc.freeze()  # else each walk over all that Airflow has loaded is a step of some 80 ms
        keep_below(spec["limit"])
        own = megabytes("VmRSS")
        await asyncio.sleep(0.5)  # all this was a long step, of which Airflow's watchdog logs something
        steps.longest = 0.0
        _write(spec["begun"], {"at": time.time(), "own": own})
        rows: dict[str, Sequence[Trigger]] = spec["waits"]
        for key, its in rows.items():
            await waits.begin(key, its)
        while not waits.are_over(BYSTANDER):
            await asyncio.sleep(PAUSE)
            for key, its in rows.items() if spec["again"] else ():
                if waits.are_over(key) and time.monotonic() > waits.began[key] + spec["again"]:
                    await waits.begin(key, its)
        await until_over(waits, spec["ending"], within=spec["patience"])
        came = {key: dict(each) for key, each in waits.came.items()}
        for key in waits.running.values():
            came[key][GOES_ON] = came[key].get(GOES_ON, 0) + 1
        most = megabytes("VmHWM")
        found = {"came": came, "memory": most - own, "step": steps.longest, "cpu": steps.cpu, "ran": steps.ran}
        _write(spec["result"], found)
        os._exit(0)  # what still runs is none of the figures


async def until_over(waits: Waits, keys: Sequence[str], *, within: float = 60.0) -> None:
    """Wait until the triggers of rows have ended."""
    end = time.monotonic() + within
    while not all(map(waits.are_over, keys)) and time.monotonic() < end:  # noqa: ASYNC110  (nobody tells)
        await asyncio.sleep(PAUSE)


def _write(path: str, content: Mapping[str, Any]) -> None:
    Path(f"{path}.new").write_text(json.dumps(content), encoding="utf-8")
    Path(f"{path}.new").replace(path)


if __name__ == "__main__":
    asyncio.run(run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
