"""A group of waits on a worker: it runs in an event loop of a thread of its own, and the main thread heeds signals.

Airflow's signal handlers raise exceptions in the main thread (``execution_timeout``, and in Airflow 2 a kill); in the
callback of an event loop there, such an exception is logged and lost.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_lro._core.names import in_short
from airflow_provider_lro._runner.telemetry import send_counters
from airflow_provider_lro.version_compat import AirflowTaskTerminated, AirflowTaskTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from airflow_provider_lro._core.wait import Start
    from airflow_provider_lro._runner.group import WaitGroup

CANCEL_TIMEOUT_ON_WORKER = 4.0
"""Seconds that a cancel may take that a kill on a worker asks for: Airflow 3 ends the process 5 s after its signal."""


class KilledByUser(AirflowTaskTerminated):
    """A user has killed the task, and its operation was asked to cancel."""


class WakeEvent:
    """A flag that a signal handler may set, and that wakes the thread that waits for it."""

    def __init__(self) -> None:
        # Unlike threading.Event, whose lock the interrupted thread may hold, its put may be called from a handler.
        self._set: SimpleQueue[bool] = SimpleQueue()

    def set(self) -> None:
        """Wake the thread that waits, once."""
        self._set.put(True)  # noqa: FBT003

    def nudge(self) -> None:
        """End the sleep early, without being set: one that comes too late for it is not taken for a kill."""
        self._set.put(False)  # noqa: FBT003

    def wait(self, seconds: float) -> bool:
        """Sleep; return True, and early, when it was set."""
        try:
            return self._set.get(timeout=seconds)
        except Empty:
            return False


class BackgroundLoop:
    """An event loop in a thread of its own, which runs one coroutine at a time. A context manager."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None
        self._ready = threading.Event()
        self._task: asyncio.Task[Any] | None = None
        self._context = contextvars.copy_context()  # where tracing finds the task's span
        self._thread = threading.Thread(target=self._body, name="lro-loop", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._loop is not None and self._stopped is not None:
            with suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def start(self, work: Coroutine[Any, Any, Any], then: Callable[[], None]) -> Future[Any]:
        """Start a coroutine; ``then`` is called when it has ended."""
        done: Future[Any] = Future()
        done.add_done_callback(lambda _: then())
        assert self._loop is not None  # noqa: S101  (it was entered)
        self._loop.call_soon_threadsafe(self._start, work, done)
        return done

    def stop(self, done: Future[Any]) -> None:
        """Cancel the coroutine that was started, and wait until it is gone; its result does not matter any more."""
        assert self._loop is not None  # noqa: S101
        self._loop.call_soon_threadsafe(lambda: self._task is not None and self._task.cancel())
        with suppress(CancelledError):
            done.exception()

    def _start(self, work: Coroutine[Any, Any, Any], done: Future[Any]) -> None:
        assert self._loop is not None  # noqa: S101
        self._task = self._loop.create_task(work, context=self._context)

        def ended(task: asyncio.Task[Any]) -> None:
            if task.cancelled():
                done.cancel()
            elif (error := task.exception()) is not None:
                done.set_exception(error)
            else:
                done.set_result(task.result())

        self._task.add_done_callback(ended)

    def _body(self) -> None:
        try:
            asyncio.run(self._run())
        finally:
            self._ready.set()

    async def _run(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._stopped.wait()


class WorkerWait:
    """A group of waits on a worker. A context manager.

    Args:
        group: the waits.
        wake: set when Airflow tells the task to stop.
        was_killed: asked then whether a user has killed it.
    """

    def __init__(self, group: WaitGroup, *, wake: WakeEvent, was_killed: Callable[[], bool]) -> None:
        self._group = group
        self._wake = wake
        self._was_killed = was_killed
        self._loop = BackgroundLoop()

    def __enter__(self) -> Self:
        self._loop.__enter__()
        self._finish(self._group.__aenter__())
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self._finish(self._close())
        finally:
            self._loop.__exit__(*raised)

    def poll_once(self, start: Start, *, meanwhile: Callable[[], None]) -> None:
        """Poll each once, as ``WaitGroup.poll_once`` does; ``meanwhile`` is called here, where signals are heeded."""
        self._do(self._group.poll_once(start), meanwhile)

    def run(self, start: Start) -> None:
        """Wait until it is over, as ``WaitGroup.run`` does.

        When ``execution_timeout`` is over, those that are not done are polled for the last time.

        Raises:
            KilledByUser: a user has killed the task; the operations were asked to cancel.
        """
        self._do(self._group.run(start))

    def _do(self, work: Coroutine[Any, Any, None], meanwhile: Callable[[], None] = lambda: None) -> None:
        done, killed = self._loop.start(work, self._wake.nudge), False
        try:
            meanwhile()
            while not (done.done() or killed):
                killed = self._wake.wait(1.0) and self._was_killed()
        except AirflowTaskTimeout:
            self._loop.stop(done)
            self._finish(self._group.poll_last())
        except AirflowTaskTerminated:  # Airflow 2 raises it out of its signal handler
            if self._was_killed():
                self._cancel(done)
            raise
        else:
            if not killed:
                done.result()
                return
            self._cancel(done)
            asked = "a user has killed the task, so its wait has asked to cancel"
            what = in_short(self._group.names)
            raise KilledByUser(f"{asked}; the log above says what the service answered [{what}]")

    def _cancel(self, done: Future[None]) -> None:
        self._loop.stop(done)
        self._finish(self._group.cancel(within=CANCEL_TIMEOUT_ON_WORKER))

    def _finish(self, work: Coroutine[Any, Any, Any]) -> None:
        self._loop.start(work, lambda: None).result()

    async def _close(self) -> None:
        await self._group.__aexit__(None, None, None)
        send_counters()
