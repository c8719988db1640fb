"""An event loop beside the main thread of a worker. Floor 1: imports nothing of this package."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Aside"]


class Aside:
    """Runs a coroutine in an event loop of a thread of its own.

    Airflow's signal handlers raise exceptions in the main thread (``execution_timeout``, and in Airflow 2 a kill); in
    the callback of an event loop there, such an exception is logged and lost.

    Args:
        work: makes the coroutine, in the loop.
        then: called in the thread when it has ended.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], then: Callable[[], None] = lambda: None) -> None:
        self._work = work
        self._then = then
        self._begun = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._done = False
        self._thread = threading.Thread(target=self._body, name="lro-loop", daemon=True)
        self._thread.start()

    def is_done(self) -> bool:
        """Tell whether it has ended."""
        return self._done

    def stop(self) -> None:
        """Cancel it, and wait until it is gone."""
        self._begun.wait()
        if self._loop is not None and self._task is not None and not self._done:
            with suppress(RuntimeError):  # it may just have ended by itself
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def result(self) -> None:
        """Wait for its end, and raise what it has raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _body(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # noqa: BLE001  (it is raised where it is waited for)
            self._error = error
        finally:
            self._begun.set()
            self._done = True
            self._then()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._begun.set()
        await self._work()
