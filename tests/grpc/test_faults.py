"""The fault matrix: what a wait makes of everything that can go wrong between it and the service.

Each row says beforehand, in data, what must come of a fault that lasts so long; it is run on a worker (the sensor) and
in a triggerer (the trigger, and the sensor that takes its event), over real gRPC and in real time. The rows run at the
same time, a test each waits for its own. `docs/faults.md` is printed from the rows: `LRO_WRITE_DOCS=1` writes it.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import logging
import math
import os
import queue
import resource
import threading
import time
import uuid
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from airflow_provider_lro import sensors
from airflow_provider_lro._core.names import short_name
from airflow_provider_lro._runner import driver as driver_module
from airflow_provider_lro.exceptions import (
    Code,
    CredentialsError,
    LroError,
    OperationFailed,
    OperationNotFound,
    OperationTimeout,
    RpcError,
    UnimplementedError,
)
from airflow_provider_lro.operators import _base
from airflow_provider_lro.sensors import LongRunningOperationSensor
from airflow_provider_lro.simulator import operation_name
from airflow_provider_lro.triggers import LongRunningOperationTrigger
from tests.airflow.worker import FakeTaskInstance
from tests.core import virtual
from tests.grpc.fault_proxy import CallFault, FaultProxy
from tests.simulator_fixture import running_simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from tests.simulator_fixture import Simulator

DOCS = Path(__file__).parent.parent.parent / "docs" / "faults.md"
CONNECTION = "lro_faults"
AT_ONCE = 24
"""Waits that run at the same time."""

INTERVAL = 0.1
JITTER = 0.1
RPC_TIMEOUT = 1.0
"""Seconds, in place of the 30 of a real wait, where a call hangs."""
LONG_RPC_TIMEOUT = 10.0
"""Seconds, where no call hangs: a machine under load is not to add faults of its own."""
SHORT = 1.5
"""Seconds until the deadline of a wait that reaches it."""
LONG = 40.0
"""Seconds until the deadline of a wait that must not reach it."""
SLACK = 10.0
"""Seconds that a machine under load may add."""
STRAY = 3
"""Failed polls that it may add."""
MOST = 3
"""max_consecutive_errors of the waits without a deadline."""
HUNG = 55.0
"""Seconds after which a row hangs for good."""

MAX_MEMORY = 1500.0
"""MB that the process may have, in which all of these waits run: a fault in gRPC once took gigabytes within seconds."""

ONCE, TEN, FOREVER, NO_DEADLINE = "once", "ten times", "for ever", "for ever, and no deadline"
TIMES = {ONCE: 1, TEN: 10, FOREVER: math.inf, NO_DEADLINE: math.inf}

RESPONSE = {"rows": 3.0}
ENDINGS: dict[str, dict[str, Any]] = {
    "response": {"outcome": "ok", "response": RESPONSE},
    "error": {"outcome": "fail", "code": 9, "message": "its own"},
}
"""The ends of the operation itself; either must come through a fault."""


# ── rows ──


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault, for so long, and what must come of it.

    Attributes:
        fault: In the words of the docs.
        lasts: How long.
        setup: Sets the fault up, and takes it down.
        error: What the wait must raise; None stands for the operation's own outcome.
        code: The code of that error.
        says: What the wait does, in the words of the docs.
        failed: The least and the most polls that fail.
        waited_out: There is no connection: polls wait for one, but for the first on a worker.
        exact: No poll comes before the fault, and the one after it finds the operation done.
        script: What the operation does.
        wait: Arguments of the wait.
        endings: What the operation ends with, in turn.
    """

    fault: str
    lasts: str
    setup: Fault
    error: type[LroError] | None = None
    code: Code | None = None
    says: str = "goes on: the operation's own response or error"
    failed: tuple[float, float]
    waited_out: bool = False
    exact: bool = False
    script: Mapping[str, Any] = field(default_factory=dict)
    wait: Mapping[str, Any] = field(default_factory=dict)
    endings: tuple[str, ...] = ("response", "error")

    @property
    def timeout(self) -> float | None:
        """Seconds until the deadline."""
        return self.wait.get("timeout", LONG)  # type: ignore[no-any-return]

    @property
    def rpc_timeout(self) -> float:
        """Seconds that a call may take."""
        return self.wait.get("rpc_timeout", LONG_RPC_TIMEOUT)  # type: ignore[no-any-return]

    @property
    def longest(self) -> float:
        """Seconds that the wait may take."""
        if self.timeout is None:
            return (MOST + 1) * (self.rpc_timeout + INTERVAL) + SLACK
        if self.error not in (None, OperationTimeout):
            return self.wait.get("not_found_grace", 0.0) + SLACK  # type: ignore[no-any-return]
        return self.timeout + self.rpc_timeout + SLACK

    @property
    def failed_polls(self) -> str:
        """Their number, in the words of the docs."""
        least, most = self.failed
        if self.error is OperationTimeout and math.isinf(most):
            return "all"
        if least == most:
            return f"{least:g}"
        if math.isinf(most):
            return f"{least:g} or more{'; in the triggerer perhaps none' if self.waited_out and least else ''}"
        return f"{least:g} to {most:g}"

    def __str__(self) -> str:
        return f"{self.fault}-{self.lasts}"


@dataclass
class Trial:
    """One wait of a row, while it runs.

    Attributes:
        name: The operation's.
        failing: Set when the first poll has failed.
        failed: How many polls have failed, as the log counts them when an answer comes again.
        calls: Counts the calls that were made, where the fault knows.
    """

    row: Row
    simulator: Simulator
    name: str
    failing: threading.Event = field(default_factory=threading.Event)
    failed: int = 0
    calls: Callable[[], int] | None = None


@dataclass(frozen=True, kw_only=True)
class Came:
    """The end of a wait: its response or its error, in how many seconds, after polls that arrived at these times.

    ``memory``: MB that the process had then.
    """

    ending: str
    response: Any
    error: LroError | None
    seconds: float
    polled_at: list[float]
    calls: int | None
    failed: int
    memory: float


class Fault:
    """Sets a fault up for one wait; the `with` block gives the endpoint."""

    def __call__(self, trial: Trial) -> AbstractContextManager[str]:
        raise NotImplementedError


class Answers(Fault):
    """The simulator answers by its script."""

    @contextmanager
    def __call__(self, trial: Trial) -> Iterator[str]:
        if trial.row.fault != Code.RESOURCE_EXHAUSTED.name:
            yield trial.simulator.endpoint
            return
        # At an endpoint of its own: such complaints slow down all who poll there, and so all other rows.
        with FaultProxy(trial.simulator.port) as proxy:
            yield proxy.endpoint


@dataclass(frozen=True)
class Hits(Fault):
    """A proxy does this to so many calls."""

    fault: CallFault
    times: float
    slowness: float = 0.0

    @contextmanager
    def __call__(self, trial: Trial) -> Iterator[str]:
        with FaultProxy(trial.simulator.port, slowness=self.slowness) as proxy:
            proxy.switch(self.fault, times=self.times)
            trial.calls = lambda: proxy.calls
            yield proxy.endpoint
            assert proxy.calls >= self.times or math.isinf(self.times), "the fault has not happened so often"


@dataclass(frozen=True)
class Outage(Fault):
    """The port refuses connections, swallows what is sent to it, or turns away, from before the first poll on."""

    how: str
    seconds: float
    """From the first failed poll."""

    @contextmanager
    def __call__(self, trial: Trial) -> Iterator[str]:
        with FaultProxy(trial.simulator.port) as proxy, behind_the_scenes(lambda: self._end(trial, proxy)):
            if self.how == "refuse":
                proxy.refuse()
            elif self.how == "turn away":
                proxy.turn_away(on=True)
            else:
                proxy.black_out()
            yield proxy.endpoint

    def _end(self, trial: Trial, proxy: FaultProxy) -> None:
        assert trial.failing.wait(HUNG)
        if math.isfinite(self.seconds):
            time.sleep(self.seconds)
            if self.how == "refuse":
                proxy.accept()
            elif self.how == "turn away":
                proxy.turn_away(on=False)
            else:
                proxy.lift()


@dataclass(frozen=True)
class Restarts(Fault):
    """The server is killed, and started so many times; the operation is done when the last one answers."""

    times: float

    @contextmanager
    def __call__(self, trial: Trial) -> Iterator[str]:
        with running_simulator() as simulator, behind_the_scenes(lambda: self._run(trial, simulator)):
            trial.simulator = simulator
            yield simulator.endpoint

    def _run(self, trial: Trial, simulator: Simulator) -> None:
        until = time.monotonic() + HUNG
        while not simulator.calls("GetOperation"):
            assert time.monotonic() < until
            time.sleep(0.02)
        if math.isinf(self.times):
            simulator.kill()
            return
        for left in reversed(range(int(self.times))):
            simulator.kill()
            if not left:
                with simulator.state.open("a") as state:
                    state.write(json.dumps({"event": "seen", "name": trial.name, "time": 0.0}) + "\n")
            simulator.start()


@dataclass(frozen=True)
class Jumps(Fault):
    """The system's clock is set by so many seconds, in the middle of so many polls."""

    seconds: float
    times: float

    @contextmanager
    def __call__(self, trial: Trial) -> Iterator[str]:
        clock = WallClock()
        token = WALL_CLOCK.set(clock)

        def jump(number: int) -> None:
            if number <= self.times:
                clock.ahead += self.seconds

        try:
            with FaultProxy(trial.simulator.port, on_call=jump) as proxy:
                trial.calls = lambda: proxy.calls
                yield proxy.endpoint
                assert proxy.calls >= self.times or math.isinf(self.times), "the clock has not jumped so often"
        finally:
            WALL_CLOCK.reset(token)


@dataclass
class WallClock:
    """Seconds by which the system's clock is ahead of the true one, for one wait."""

    ahead: float = 0.0


WALL_CLOCK: ContextVar[WallClock | None] = ContextVar("WALL_CLOCK", default=None)


class Time:
    """Stands in for the module `time` where the package reads the system's clock.

    Only there: grpc takes a call's deadline from the system's clock in Python, and turns it into one of the monotonic
    clock in C at once, where no test can set a clock.
    """

    def time(self) -> float:
        clock = WALL_CLOCK.get()
        return time.time() + (clock.ahead if clock else 0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextmanager
def behind_the_scenes(work: Callable[[], None]) -> Iterator[None]:
    """Do this while the wait runs; what it raises is raised."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (it is the test's)
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, daemon=True).start()
    yield
    done.result(HUNG)


# ── the matrix ──

GOES_ON_TO_THE_DEADLINE: dict[str, Any] = {
    "error": OperationTimeout,
    "code": Code.DEADLINE_EXCEEDED,
    "says": "goes on: `OperationTimeout` at the deadline",
    "endings": ("response",),
}
TRANSIENT = (
    Code.UNAVAILABLE,
    Code.DEADLINE_EXCEEDED,
    Code.INTERNAL,
    Code.RESOURCE_EXHAUSTED,
    Code.ABORTED,
    Code.UNKNOWN,
    Code.CANCELLED,
)
PERMANENT: dict[Code, type[LroError]] = {
    Code.INVALID_ARGUMENT: RpcError,
    Code.ALREADY_EXISTS: RpcError,
    Code.PERMISSION_DENIED: RpcError,
    Code.FAILED_PRECONDITION: RpcError,
    Code.OUT_OF_RANGE: RpcError,
    Code.DATA_LOSS: RpcError,
    Code.UNIMPLEMENTED: UnimplementedError,
    Code.UNAUTHENTICATED: CredentialsError,
}


def fails_for_too_long(code: Code) -> dict[str, Any]:
    """Return how a wait without a deadline ends."""
    return {
        "error": RpcError,
        "code": code,
        "says": f"`RpcError` with the last poll's code, as `max_consecutive_errors={MOST}` is exceeded",
        "failed": (MOST + 1, MOST + 1),
        "endings": ("response",),
    }


def answers(code: Code, lasts: str, /, **fields: Any) -> Row:
    """Let polls be answered with a code."""
    script = {"duration": 0, "fault": f"{code.value}*{'forever' if math.isinf(TIMES[lasts]) else TIMES[lasts]}"}
    return Row(**{"fault": code.name, "lasts": lasts, "setup": Answers(), "script": script, "exact": True, **fields})


def codes() -> Iterator[Row]:
    """Every gRPC code."""
    for code in TRANSIENT:
        for lasts in (ONCE, TEN):
            yield answers(code, lasts, failed=(TIMES[lasts], TIMES[lasts]))
        yield answers(code, FOREVER, failed=(1, math.inf), wait={"timeout": SHORT}, **GOES_ON_TO_THE_DEADLINE)
        most = {"timeout": None, "max_consecutive_errors": MOST}
        yield answers(code, NO_DEADLINE, wait=most, **fails_for_too_long(code))
    for (code, error), lasts in itertools.product(PERMANENT.items(), (ONCE, TEN, FOREVER)):
        says = f"`{error.__name__}` at once"
        yield answers(code, lasts, failed=(1, 1), error=error, code=code, says=says, endings=("response",))
    within = {"fault": "NOT_FOUND, from the first poll"}
    for lasts in (ONCE, TEN):
        yield answers(Code.NOT_FOUND, lasts, failed=(TIMES[lasts], TIMES[lasts]), **within)
    gone = {"error": OperationNotFound, "code": Code.NOT_FOUND, "endings": ("response",)}
    says = "goes on: `OperationNotFound` when `not_found_grace` is over"
    grace = {"not_found_grace": SHORT}
    yield answers(Code.NOT_FOUND, FOREVER, failed=(2, math.inf), wait=grace, says=says, **gone, **within)
    for lasts in (ONCE, TEN, FOREVER):
        says, fault = "`OperationNotFound` at once", "NOT_FOUND, when `not_found_grace` is over"
        grace = {"not_found_grace": 0.0}
        yield answers(Code.NOT_FOUND, lasts, failed=(1, 1), wait=grace, says=says, fault=fault, **gone)


def hits(words: str, fault: CallFault, code: Code, *, hangs: bool = False, slowness: float = 0.0) -> Iterator[Row]:
    """Do something to calls that makes each of them fail."""
    rpc_timeout = RPC_TIMEOUT if hangs else LONG_RPC_TIMEOUT
    for lasts, times in TIMES.items():
        row: dict[str, Any] = {"fault": words, "lasts": lasts, "setup": Hits(fault, times, slowness)}
        row |= {"script": {"duration": 0}, "wait": {"rpc_timeout": rpc_timeout}, "exact": True}
        if lasts == FOREVER:
            # Two calls that hang reach just beyond it.
            timeout = 2 * RPC_TIMEOUT + INTERVAL / 2 if hangs else SHORT
            row |= {"failed": (1, math.inf), "wait": {**row["wait"], "timeout": timeout}, **GOES_ON_TO_THE_DEADLINE}
        elif lasts == NO_DEADLINE:
            most = {**row["wait"], "timeout": None, "max_consecutive_errors": MOST}
            row |= {"wait": most, **fails_for_too_long(code)}
        else:
            row |= {"failed": (times, times)}
        yield Row(**row)


def harmless(words: str, fault: CallFault, *, slowness: float = 0.0, longest: float) -> Iterator[Row]:
    """Do something to calls that makes none of them fail.

    Ten of them have several times the time that they take: a machine under load polls later.
    """
    for lasts, duration in ((ONCE, 0.3), (TEN, longest), (FOREVER, 1.0)):
        setup = Hits(fault, TIMES[lasts], slowness)
        yield Row(fault=words, lasts=lasts, setup=setup, failed=(0, 0), script={"duration": duration})


def outages(
    words: str, how: str, code: Code, *, rpc_timeout: float, ten: float, waited_out: bool = True
) -> Iterator[Row]:
    """Let no connection be made, or none that takes a call."""
    wait = {"rpc_timeout": rpc_timeout}
    row: dict[str, Any] = {"fault": words, "script": {"duration": 0}, "waited_out": waited_out}
    for lasts, seconds in ((ONCE, 0.0), (TEN, ten)):  # as long as ten polls that do not wait for a connection
        yield Row(**row, lasts=lasts, setup=Outage(how, seconds), wait=wait, failed=(1, math.inf))
    for_ever = Outage(how, math.inf)
    timeout = 2 * RPC_TIMEOUT + INTERVAL / 2 if how == "black hole" else SHORT
    reached = {**wait, "timeout": timeout}
    yield Row(**row, lasts=FOREVER, setup=for_ever, wait=reached, failed=(1, math.inf), **GOES_ON_TO_THE_DEADLINE)
    most = {**wait, "timeout": None, "max_consecutive_errors": MOST}
    yield Row(**row, lasts=NO_DEADLINE, setup=for_ever, wait=most, **fails_for_too_long(code))


def restarts() -> Iterator[Row]:
    """Kill the server."""
    row: dict[str, Any] = {"fault": "server killed and restarted", "script": {"duration": 3600}, "waited_out": True}
    yield Row(**row, lasts=ONCE, setup=Restarts(1), failed=(0, math.inf))
    yield Row(**row, lasts=TEN, setup=Restarts(10), failed=(0, math.inf), endings=("response",))
    row["fault"] = "server killed"
    timeout = {"timeout": SHORT + 0.5}
    setup = Restarts(math.inf)
    yield Row(**row, lasts=FOREVER, setup=setup, wait=timeout, failed=(1, math.inf), **GOES_ON_TO_THE_DEADLINE)


def jumps() -> Iterator[Row]:
    """Set the system's clock."""
    for words, seconds in (("clock set an hour ahead", 3600.0), ("clock set back an hour", -3600.0)):
        for lasts, duration in ((ONCE, 0.5), (TEN, 8.0)):
            setup = Jumps(seconds, TIMES[lasts])
            yield Row(fault=words, lasts=lasts, setup=setup, failed=(0, 0), script={"duration": duration})
        ending = {**GOES_ON_TO_THE_DEADLINE, "says": "goes on: `OperationTimeout` at the deadline, as if nothing was"}
        row: dict[str, Any] = {"fault": f"{words}, at each poll", "lasts": FOREVER, "script": {"duration": 3600}}
        yield Row(**row, setup=Jumps(seconds, math.inf), wait={"timeout": SHORT}, failed=(0, 0), **ending)


def rows() -> Iterator[Row]:
    """The matrix."""
    yield from codes()
    yield from outages("connection refused", "refuse", Code.UNAVAILABLE, rpc_timeout=LONG_RPC_TIMEOUT, ten=SHORT)
    yield from hits("connection reset in the middle of the answer", CallFault.RESET, Code.UNAVAILABLE)
    late = Code.DEADLINE_EXCEEDED
    yield from hits("black hole: nothing comes through a connection", CallFault.BLACK_HOLE, late, hangs=True)
    ten = 16 * (RPC_TIMEOUT + INTERVAL)  # some more, as a machine under load polls later
    yield from outages("black hole: no connection comes up", "black hole", late, rpc_timeout=RPC_TIMEOUT, ten=ten)
    slowly = "slow drip: an answer takes longer than `rpc_timeout`"
    yield from hits(slowly, CallFault.DRIP, late, hangs=True, slowness=0.6 * RPC_TIMEOUT)
    yield from harmless("slow drip: an answer comes in time", CallFault.DRIP, slowness=0.05, longest=20.0)
    yield from harmless("GOAWAY between two calls", CallFault.GOAWAY_AFTER, longest=8.0)
    yield from hits("GOAWAY: the server has not seen the call", CallFault.GOAWAY_UNSEEN, Code.UNAVAILABLE)
    away = {"rpc_timeout": LONG_RPC_TIMEOUT, "ten": SHORT, "waited_out": False}
    yield from outages("GOAWAY on each connection, before any call", "turn away", Code.UNAVAILABLE, **away)
    yield from hits("GOAWAY, then closed without the answer", CallFault.GOAWAY_SEEN, Code.UNAVAILABLE)
    yield from restarts()
    yield from jumps()
    yield Row(
        fault="half-open: the connection stays and is dead, a new one would do",
        lasts=ONCE,
        setup=Hits(CallFault.HALF_OPEN, 1),
        failed=(1, math.inf),
        script={"duration": 0.3},
        # Time enough for pings to find out: 10 s of silence, and 10 s without an answer.
        wait={"rpc_timeout": 2.0, "timeout": 25.0},
    )


ROWS = list(rows())


# ── running them ──


class Log(logging.Handler):
    """Tells each trial what its wait logs about its polls."""

    def __init__(self) -> None:
        super().__init__()
        self.trials: dict[str, Trial] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        for name, trial in list(self.trials.items()):
            if short_name(name) not in text and name not in text:
                continue
            if " failed poll" in text:
                trial.failed += int(text.split()[3])
            elif "says nothing about the operation" in text:
                trial.failing.set()


class Runner:
    """Runs waits in threads and in one event loop, as a worker and a triggerer would."""

    drivers: ClassVar = ("worker", "triggerer")

    def __init__(self, simulator: Simulator, log: Log) -> None:
        self._simulator = simulator
        self._log = log
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        # Daemons: a wait that hangs for good must not keep the tests from ending.
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(AT_ONCE)]
        self._triggerer = threading.Thread(target=self._loop.run_forever, daemon=True)
        for thread in (*self._threads, self._triggerer):
            thread.start()

    def close(self) -> None:
        while not self._jobs.empty():
            self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(HUNG)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._triggerer.join(HUNG)
        self._loop.close()

    def submit(self, row: Row, driver: str, ending: str) -> Future[Came]:
        future: Future[Came] = Future()

        def job() -> None:
            try:
                future.set_result(self._run(row, driver, ending))
            except BaseException as error:  # noqa: BLE001  (it is the test's)
                future.set_exception(error)

        self._jobs.put(job)
        return future

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _run(self, row: Row, driver: str, ending: str) -> Came:
        trial = Trial(row, self._simulator, operation_name(uuid.uuid4().hex, **row.script, **ENDINGS[ending]))
        self._log.trials[trial.name] = trial
        with row.setup(trial) as endpoint:
            came = self._wait(row, driver, trial, endpoint)
            # Where the fault ends with a failed poll, and none has failed, it need not wait for one.
            trial.failing.set()
            polled_at = [call["time"] for call in calls(trial)]
        asked = trial.calls() if trial.calls is not None else len(polled_at)
        more = {"calls": asked, "failed": trial.failed, "memory": memory()}
        return Came(ending=ending, **came, polled_at=polled_at, **more)

    def _wait(self, row: Row, driver: str, trial: Trial, endpoint: str) -> dict[str, Any]:
        where = {"operation_name": trial.name, "lro_conn_id": CONNECTION, "endpoint": endpoint}
        how = {"initial_delay": INTERVAL, "jitter": JITTER, "rpc_timeout": row.rpc_timeout}
        how |= {name: value for name, value in row.wait.items() if name != "timeout"}
        # A sensor cannot do without a deadline: that of a week, its default, stands for none.
        deadline = {} if row.timeout is None else {"timeout": row.timeout}
        sensor = LongRunningOperationSensor(task_id="wait", poke_interval=INTERVAL, **where, **how, **deadline)
        response = error = None
        started = time.monotonic()
        try:
            if driver == "worker":
                # Airflow 2.11 lets no thread but the first call an operator's execute.
                response = inspect.unwrap(type(sensor).execute)(sensor, {"ti": FakeTaskInstance()})
            else:
                waiting = in_triggerer({**where, **how, "interval": INTERVAL}, row.timeout)
                event = asyncio.run_coroutine_threadsafe(waiting, self._loop).result(HUNG)
                response = sensor.execute_complete({"ti": FakeTaskInstance()}, event)
        except LroError as raised:
            error = raised
        return {"response": response, "error": error, "seconds": time.monotonic() - started}


def memory() -> float:
    """Return the MB that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


async def in_triggerer(kwargs: dict[str, Any], timeout: float | None) -> Any:
    """Run a trigger to its one event, which crosses as JSON."""
    now = time.time()
    deadline = None if timeout is None else now + timeout
    trigger = LongRunningOperationTrigger(**kwargs, started_at=now, deadline=deadline)
    (event,) = [event async for event in trigger.run()]
    return json.loads(json.dumps(event.payload))


def calls(trial: Trial) -> list[dict[str, Any]]:
    """Read what the simulator has logged of an operation; most of the log is about others."""
    lines = trial.simulator.log.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if trial.name in line]


@pytest.fixture(scope="module")
def came(request: pytest.FixtureRequest) -> Iterator[Callable[[Row, str], list[Came]]]:
    """Run the rows of all selected tests, side by side; the function gives what came of one."""
    selected = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    pairs = [(params["row"], params["driver"]) for params in selected if isinstance(params.get("row"), Row)]
    stored = json.dumps({"conn_type": "lro", "extra": {"insecure": True}})
    logger, log = logging.getLogger(driver_module.__name__), Log()
    level, propagate = logger.level, logger.propagate
    with pytest.MonkeyPatch.context() as patch, running_simulator() as simulator:
        patch.setenv(f"AIRFLOW_CONN_{CONNECTION.upper()}", stored)
        for module in (driver_module, sensors, _base):
            patch.setattr(module, "time", Time())
        logger.addHandler(log)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        runner = Runner(simulator, log)
        running: dict[tuple[int, str], list[Future[Came]]] = {}
        # The longest first.
        for row, driver in sorted(pairs, key=lambda pair: -pair[0].longest):
            running[id(row), driver] = [runner.submit(row, driver, ending) for ending in row.endings]
        try:
            yield lambda row, driver: [future.result(HUNG) for future in running[id(row), driver]]
        finally:
            runner.close()
            logger.removeHandler(log)
            logger.setLevel(level)
            logger.propagate = propagate


def params() -> Iterator[Any]:
    for row in ROWS:
        yield pytest.param(row, id=str(row))


@pytest.mark.timeout(2 * HUNG)
@pytest.mark.parametrize("driver", Runner.drivers)
@pytest.mark.parametrize("row", list(params()))
def test_the_fault_matrix(row: Row, driver: str, came: Callable[[Row, str], list[Came]]) -> None:
    """No false success, no false failure, and no hang beyond the deadline and one call more."""
    # Where calls have little time, a machine under load may add a late answer of its own, or a call that nobody sees.
    stray = STRAY if row.rpc_timeout < LONG_RPC_TIMEOUT else 0
    for one in came(row, driver):
        if row.error is None:
            assert_own(one)
            may_be_none = row.waited_out and driver == "triggerer"
            assert (0 if may_be_none else row.failed[0]) <= one.failed <= row.failed[1] + stray
        else:
            assert isinstance(one.error, row.error), f"came: {one.error or one.response!r}"
            assert one.error.code == (Code.DEADLINE_EXCEEDED if row.waited_out else row.code)
        if row.error is OperationTimeout:
            assert row.timeout is not None
            assert one.seconds >= row.timeout
        elif row.exact and row.failed[0] == row.failed[1] and one.calls is not None:
            most = one.failed + 1 if row.error is None else row.failed[0]
            assert most - stray <= one.calls <= most
        assert one.seconds <= row.longest
        assert one.memory <= MAX_MEMORY
        # However the polls fail, they keep to the schedule.
        assert len(one.polled_at) <= one.seconds / (INTERVAL * (1 - JITTER)) + 2


def assert_own(one: Came) -> None:
    """Assert that the operation's own outcome came, and nothing else."""
    if one.ending == "response":
        assert (one.error, one.response) == (None, RESPONSE)
    else:
        assert isinstance(one.error, OperationFailed), f"came: {one.error or one.response!r}"
        expected = ENDINGS["error"]
        assert (one.error.code, one.error.message) == (expected["code"], expected["message"])


def test_the_last_two_polls_take_one_call_together() -> None:
    """In a black hole no wait ends later than its deadline and one call, wherever between two polls the deadline is."""
    hole = virtual.Service(latency=(math.inf,))
    for timeout in range(300, 3000):
        args = virtual.wait_args(timeout=timeout / 10, rpc_timeout=30.0)
        assert virtual.run(args, hole).ended <= timeout / 10 + args.rpc_timeout + virtual.CLOCK_ERROR


# ── the table in the docs ──

INTRODUCTION = f"""\
# What a wait makes of faults

A failed poll says nothing about the operation. So a wait goes on through whatever may pass, gives up at once where time
does not help, and ends at its deadline: at the latest one call after it (`rpc_timeout`, but two seconds at least).
It never takes a fault for the operation's success, nor for its failure.

Each line was run on a worker (the sensor, on its own) and in the triggerer (the trigger, then the sensor that takes its
event), against a real gRPC server: the codes are what the server answered; the rest was done to the connection by a
proxy, to the server's process, or to the clock. Where the operation's own outcome comes through, it was run with an
operation that succeeds and with one that fails. "No deadline" was run with `max_consecutive_errors={MOST}`; without it,
such a wait ends after 24 hours of nothing but errors. Memory was measured, too: no fault takes more of it than another.
A connection that is dead without a word is found out by pings, in twenty seconds of a call. Where there is no
connection, a poll waits for one as long as it may last, so that an outage costs a wait a call or two; only the first
poll on a worker says at once that nobody is there. A service that was never reached, from the first poll on, is given
up after ten minutes (`connect_timeout`), with `EndpointError`. A connection of Airflow's, a key or a secrets backend
that is away when a triggerer begins is waited for, too.

A code that gRPC itself has made is not the service's word: the HTTP status of a proxy or a load balancer on the way,
401, 403 or 404 for example, ends only the first poll on a worker, with `EndpointError`; a wait goes on through it.

`tests/grpc/test_faults.py` holds these lines as data and checks them; this page is printed from it
(`LRO_WRITE_DOCS=1 python -m pytest tests/grpc/test_faults.py -k docs`).

"""


def page() -> str:
    """Print the rows; faults with the same lines share them, and so do lengths with the same cells."""
    of_faults: dict[str, list[tuple[str, str, str]]] = {}
    for row in ROWS:
        lines = of_faults.setdefault(row.fault, [])
        lasts = row.lasts
        if lines and lines[-1][1:] == (row.says, row.failed_polls):
            lasts = f"{lines.pop()[0]}, {lasts}"
        lines.append((lasts, row.says, row.failed_polls))
    alike: dict[tuple[tuple[str, str, str], ...], list[str]] = {}
    for fault, lines in of_faults.items():
        alike.setdefault(tuple(lines), []).append(fault)
    table = ["| fault | for how long | the wait | failed polls |", "|---|---|---|---|"]
    for same, faults in alike.items():
        first = [f" {'; '.join(faults)} ", *[" "] * (len(same) - 1)]
        table.extend(f"|{fault}| {' | '.join(cells)} |" for fault, cells in zip(first, same, strict=True))
    return INTRODUCTION + "\n".join(table) + "\n"


def test_the_docs_say_what_the_rows_say() -> None:
    """The table in the docs is the one that the rows print."""
    if os.environ.get("LRO_WRITE_DOCS") == "1":
        DOCS.write_text(page(), encoding="utf-8")
    assert DOCS.read_text(encoding="utf-8") == page()
