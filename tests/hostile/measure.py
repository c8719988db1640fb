"""What hostile servers do to a trigger runner and to a bystander in it: measured, printed, and written for the docs.

    python -m tests.hostile.measure [--only goaway,million] [--seconds 20] [--together 300] [--write]

Each row has a runner in a process of its own, whose memory is limited, and at the end one runner has all rows, whose
waits begin again when they are over. The hostile servers are in this process, the bystander's service is the simulator.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import os
import signal
import ssl
import sys
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trustme

from airflow_provider_lro._transport.channel import MAX_CALLS_IN_FLIGHT
from airflow_provider_lro.simulator import operation_name
from tests.grpc.token_server import service_account_key
from tests.hostile.rows import GOES_ON, PAGES_TIME, ROWS, SECRET, SUCCEEDED
from tests.hostile.server import Server
from tests.hostile.triggerer import BYSTANDER, megabytes
from tests.simulator_fixture import REPOSITORY, running_simulator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.hostile.rows import Row
    from tests.hostile.triggerer import Trigger
    from tests.simulator_fixture import Simulator

DOCS = REPOSITORY / "docs" / "hostile.md"
INTERVAL = 1.0
"""Seconds between polls."""
MAX_GAP, MAX_STEP, MAX_MEMORY = INTERVAL + 0.5, 0.1, 300.0
"""Wanted at most: seconds between two polls of the bystander, seconds of a step of the event loop, MB above its own."""
MAX_TAKEN = 16 * 1024 * 1024
"""Bytes of an answer that may come before it is known to be too large: gRPC's window, and what it adds."""
LIMIT = 2_000.0
"""MB above its own that a runner may take before it dies, so that the machine does not."""
AGAIN = 20.0
"""Seconds after which waits that are over begin again, where all rows run together."""
START = 60.0
"""Seconds that a runner may take to start."""
HANGS = 3.0
"""Times its length after which a run is taken to hang."""
NEIGHBOUR = "-neighbour"
WAIT = "airflow_provider_lro.triggers.LongRunningOperationTrigger"
WATCHER = "airflow_provider_lro.assets.LongRunningOperationEventTrigger"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a run has shown.

    Attributes:
        came: By row, how many of its waits have ended how, or go on; empty if the runner has died.
        died: How the runner ended before it was time, in words; "" if it did not.
        polls: How often the bystander has polled.
        gap: The longest time from one of these polls to the next, or to the end, in seconds.
        step: The longest step of the event loop, in seconds; infinite if the runner has died.
        ran: What that step ran.
        memory: The most that the runner had above its own, in MB.
        log: What the runner has logged and printed.
        servers: The servers of the rows, with what they have counted.
        seconds: How long the bystander was to wait.
    """

    came: Mapping[str, Mapping[str, int]]
    died: str
    polls: int
    gap: float
    step: float
    cpu: float
    ran: str
    memory: float
    log: str
    servers: Mapping[str, Server]
    seconds: float

    def outcome(self, key: str) -> str:
        """Return what came of a row's waits, or of the bystander, in words."""
        came = self.came[key]
        return ", ".join(word if len(came) == 1 else f"{came[word]} {word}" for word in sorted(came)) or "nothing"

    def faults(self, row: Row) -> list[str]:
        """Return what must not be, of all that a busy machine cannot change."""
        if self.died:
            return [f"the triggerer {self.died}"]
        server = self.servers[row.key]
        pages = server.calls["ListOperations"]
        wanted = [
            (f"its waits: {self.outcome(row.key)}", self.outcome(row.key) == row.comes),
            (f"the bystander: {self.outcome(BYSTANDER)}", self.outcome(BYSTANDER) == SUCCEEDED),
            (f"{self.polls} polls of the bystander", self.polls > 1),
            (f"{server.most_in_flight} calls at a time", server.most_in_flight <= MAX_CALLS_IN_FLIGHT),
            (f"{server.sent:,} bytes", server.sent <= MAX_TAKEN * max(1, server.calls.total())),
            (f"{pages} pages", pages <= row.pages * math.ceil(self.seconds / PAGES_TIME)),
            ("the log holds the secret", SECRET not in self.log),
        ]
        if row.has_neighbour:
            its = self.outcome(row.key + NEIGHBOUR)
            wanted.append((f"its neighbour: {its}", its == SUCCEEDED))
        return [fault for fault, is_well in wanted if not is_well]


# ── one run ──


def wait(name: str, connection: str, **kwargs: Any) -> Trigger:
    """Return the trigger of a wait, as the database holds it."""
    pace = {"interval": INTERVAL, "jitter": 0.0, "rpc_timeout": 5.0, "started_at": time.time()}
    return WAIT, {**pace, "operation_name": name, "lro_conn_id": connection, **kwargs}


def waits_of(row: Row) -> Iterator[Trigger]:
    """Yield the triggers of a row."""
    for number in range(row.waits):
        if row.is_watcher:
            yield WATCHER, {"parent": f"hostile/{row.key}", "interval": INTERVAL, "lro_conn_id": row.key}
        else:
            yield wait(f"hostile/{row.key}/operations/{number}", row.key, **row.wait)


class Run:
    """One runner, with the waits of some rows, and their servers.

    Args:
        rows: The rows.
        directory: For all its files.
        simulator: The bystander's service.
        authority: That of the servers with TLS.
        seconds: How long the bystander waits.
        again: Seconds after which waits that are over begin again; 0: never.
        patience: Seconds for waits that must end and have not when the bystander has.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        directory: Path,
        simulator: Simulator,
        authority: trustme.CA,
        seconds: float,
        again: float = 0.0,
        patience: float = 0.0,
    ) -> None:
        self._rows = rows
        self._directory = Path(tempfile.mkdtemp(dir=directory))
        self._simulator = simulator
        self._authority = authority
        self._seconds = seconds
        self._longest = START + HANGS * seconds + patience
        self._bystander = operation_name(self._directory.name, duration=seconds)
        self._ends = {"again": again, "patience": patience, "limit": LIMIT}

    async def found(self) -> Found:
        """Run it, and return what was found."""
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.set_alpn_protocols(["h2"])
        self._authority.issue_cert("127.0.0.1").configure_cert(tls)
        async with AsyncExitStack() as stack:
            servers = {
                row.key: await stack.enter_async_context(
                    Server(row.script, connected=row.connected, tls=tls if row.has_token else None)
                )
                for row in self._rows
            }
            spec = self._directory / "spec.json"
            spec.write_text(json.dumps(self._spec(servers)), encoding="utf-8")
            with (self._directory / "said").open("w") as said:
                argv = [sys.executable, "-W", "ignore", "-m", "tests.hostile.triggerer", str(spec)]
                runner = await asyncio.create_subprocess_exec(*argv, stdout=said, stderr=said, env=environment())
                try:
                    died, most = await self._watch(runner)
                finally:
                    if runner.returncode is None:
                        runner.kill()
                        await runner.wait()
        return self._read(died, most, servers)

    def _spec(self, servers: Mapping[str, Server]) -> dict[str, Any]:
        roots = self._directory / "roots.pem"
        self._authority.cert_pem.write_to_path(roots)
        key = self._authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA).private_key_pem.bytes().decode()
        plain = {"conn_type": "lro", "host": "127.0.0.1"}
        connections: dict[str, Any] = {}
        waits: dict[str, Sequence[Trigger]] = {}

        def connect(name: str, port: int, *, password: str | None = None, **extra: Any) -> None:
            connections[name] = {**plain, "port": port, "password": password, "extra": json.dumps(extra)}

        for row in self._rows:
            server = servers[row.key]
            waits[row.key] = list(waits_of(row))
            if row.has_key:
                connect(row.key, server.port, keyfile_dict=json.loads(service_account_key(key, server)))
            elif row.has_token:
                connect(row.key, server.port, password=SECRET, root_certificates=str(roots))
            else:
                connect(row.key, server.port, insecure=True)
            if row.has_neighbour:
                name = row.key + NEIGHBOUR
                connect(name, server.port, password=name, root_certificates=str(roots))
                waits[name] = [wait(f"neighbour/{row.key}/operations/0", name, quota_project_id="neighbour")]
        connect(BYSTANDER, self._simulator.port, insecure=True)
        scripts = ({}, {"outcome": "fail", "details": "ErrorInfo", "message": "as expected"})
        names = [operation_name(f"{self._directory.name}-{n}", duration=0, **each) for n, each in enumerate(scripts)]
        return {
            **{name: str(self._directory / name) for name in ("begun", "result")},
            "directory": str(self._directory),
            "log": str(self._directory / "log.jsonl"),
            "roots": str(roots),
            "connection": plain,
            "connections": connections,
            "warm_up": [wait(name, BYSTANDER, poll_method="list") for name in names],
            "bystander": wait(self._bystander, BYSTANDER),
            "waits": waits,
            "ending": [name for name in waits if name not in ROWS or ROWS[name].comes != GOES_ON],
            **self._ends,
        }

    async def _watch(self, runner: asyncio.subprocess.Process) -> tuple[str, float]:
        """Wait for the end of the runner; return how it has died, and the most memory that it had, in MB."""
        most, end = 0.0, time.monotonic() + self._longest
        while runner.returncode is None and time.monotonic() < end:
            with suppress(OSError, StopIteration):  # it may end while it is looked at
                most = max(most, megabytes("VmHWM", runner.pid))
            await asyncio.sleep(0.1)
        code = runner.returncode
        if code is None:
            return "hangs", most
        how = signal.Signals(-code).name if code < 0 else f"code {code}"
        return "" if code == 0 else f"dies ({how})", most

    def _read(self, died: str, most: float, servers: Mapping[str, Server]) -> Found:
        ended = time.time()
        log = "".join((self._directory / name).read_text(errors="replace") for name in ("log.jsonl", "said"))
        begun, result = self._directory / "begun", self._directory / "result"
        if not begun.exists():
            raise RuntimeError(f"the runner {died} before it has begun: {log[-3000:]}")
        start = json.loads(begun.read_text())
        found = {"came": {}, "step": float("inf"), "cpu": 0.0, "ran": "", "memory": most - start["own"]}
        if not died:
            found = json.loads(result.read_text())
        polls = [call["time"] for call in self._simulator.calls("GetOperation", self._bystander)]
        moments = [at for at in polls if at > start["at"] - INTERVAL] + ([ended] if died else [])
        gap = max((later - earlier for earlier, later in itertools.pairwise(moments)), default=ended - start["at"])
        return Found(**found, died=died, polls=len(polls), gap=gap, log=log, servers=servers, seconds=self._seconds)


def environment() -> dict[str, str]:
    """Return an environment without the caller's Airflow, and without a way off this machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "GOOGLE_"))}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "NO_GCE_CHECK": "true", "no_proxy": "*", "GRPC_VERBOSITY": "NONE"}


# ── the page ──

HEADER = ("the server", "waits", "what comes of them", "gap, s", "step, ms", "memory, MB")
TOGETHER = "all of these together"
INTRODUCTION = f"""\
# What a hostile server does to others

One triggerer serves many DAGs. Each line is a server that is broken, or means harm, and waits at it, in Airflow's real
trigger runner, for {{seconds:g}} seconds. Beside them a bystander waits at a healthy service, with a poll each second.
The figures are the longest time between two polls of the bystander, the longest step of the event loop, and the memory
that the process takes above what it has with the bystander alone. What Airflow itself has loaded is kept from the
garbage collector: each walk over it is a step of some 80 ms, without any server.

Wanted are at most {MAX_GAP:g} s, {1000 * MAX_STEP:g} ms and {MAX_MEMORY:g} MB; what is not as wanted stands in bold. A
triggerer that takes {LIMIT / 1000:g} GB above its own dies, so that the machine does not. In the last line all rows run
in one for {{together:g}} seconds, and waits that are over begin again every {AGAIN:g} seconds, a hundred a second.

"Left to a worker" is a wait whose answer is too large for the triggerer: a worker reads it. "Goes on" is one that
polls until its deadline, which is far off here.

`tests/hostile` has the servers, and its tests check what a busy machine cannot change. This page is printed from a
measurement, on {{machine}}: `make hostile`.

"""


def verdict(row: Row | None, found: Found) -> tuple[str, bool]:
    """Return what came of a row, or of all of them, in words, and whether that is as wanted."""
    if row is not None:
        faults = found.faults(row)
        return "; ".join(faults) or found.outcome(row.key), not faults
    if found.died:
        return f"the triggerer {found.died}", False
    bad = [key for key in found.servers if found.faults(ROWS[key])]
    return f"not as above: {', '.join(bad)}" if bad else "as above", not bad


def line(row: Row | None, found: Found) -> str:
    """Return a row of the table, where what is not as wanted stands in bold."""
    cells = (
        verdict(row, found),
        (f"{found.gap:.1f}", found.gap <= MAX_GAP),
        ("-" if found.died else f"{1000 * found.step:,.0f}", found.step <= MAX_STEP),
        (f"{max(0.0, found.memory):,.0f}", found.memory <= MAX_MEMORY),
    )
    shown = [text if is_well else f"**{text}**" for text, is_well in cells]
    return f"| {' | '.join([row.does if row else TOGETHER, str(row.waits) if row else '', *shown])} |"


def machine() -> str:
    """Return what the figures were made with."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("apache-airflow", "grpcio", "protobuf"))
    return f"{os.cpu_count()} cores with {packages}"


async def measure(arguments: argparse.Namespace) -> None:
    """Run the rows, print them, and write the page if that is asked for."""
    lines = [f"| {' | '.join(HEADER)} |", "|---|---:|---|---:|---:|---:|"]
    print("\n".join(lines), flush=True)
    keys = arguments.only.split(",") if arguments.only else list(ROWS)
    with tempfile.TemporaryDirectory(prefix="hostile-") as directory, running_simulator() as simulator:
        where: Any = {"directory": Path(directory), "simulator": simulator, "authority": trustme.CA()}

        async def add(row: Row | None, run: Run) -> None:
            found = await run.found()
            lines.append(line(row, found))
            print(lines[-1], flush=True)
            if arguments.verbose:
                more = f"    {found.polls} polls; of the longest step {1000 * found.cpu:,.0f} ms CPU: {found.ran}"
                print(more, file=sys.stderr, flush=True)

        for key in keys if arguments.seconds else ():
            await add(ROWS[key], Run([ROWS[key]], seconds=arguments.seconds, **where))
        if arguments.together:
            rows = [ROWS[key] for key in keys]
            await add(None, Run(rows, seconds=arguments.together, again=AGAIN, patience=AGAIN, **where))
    if arguments.write:
        about = {"seconds": arguments.seconds, "together": arguments.together, "machine": machine()}
        DOCS.write_text(INTRODUCTION.format(**about) + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Read the arguments, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"rows, with commas between, of {', '.join(ROWS)}")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each row; 0 leaves them out")
    parser.add_argument("--together", type=float, default=300.0, help="of all rows in one runner; 0 leaves it out")
    parser.add_argument("--write", action="store_true", help=f"write {DOCS.relative_to(REPOSITORY)}")
    parser.add_argument("--verbose", action="store_true", help="also print what the longest step ran")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
