"""Runs an operator as a worker and a triggerer would, without either: execute, defer, trigger, event, resume.

What crosses between the two crosses as JSON here as well. Airflow's own parts come in only at the edge (a task
instance that is a stand-in); the rest is real, down to gRPC.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tests.versions import AirflowRescheduleException, TaskDeferred

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@dataclass
class FakeTaskInstance:
    """The little that our operators ask of a task instance; reschedules count from the first, as Airflow's do."""

    first_reschedule: datetime | None = None
    xcoms: dict[str, Any] = field(default_factory=dict)
    dag_id: str = "dag"
    run_id: str = "run"
    task_id: str = "task"
    map_index: int = -1
    try_number: int = 1
    max_tries: int = 0

    def get_first_reschedule_date(self, context: Any) -> datetime | None:
        return self.first_reschedule

    def xcom_push(self, key: str, value: Any) -> None:
        json.dumps(value)
        self.xcoms[key] = value

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: int) -> Any:
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.xcoms.get(key)


class FakeStore:
    """Airflow 3.3's `task_state_store`, in memory; its keys survive tries and clears, and hold JSON."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        assert value is not None
        self.values[key] = json.dumps(value)

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


@dataclass
class Run:
    """The result of a task's run, and the deferrals and reschedules before it."""

    ti: FakeTaskInstance
    result: Any = None
    deferrals: int = 0
    reschedules: int = 0
    reschedule_dates: list[datetime] = field(default_factory=list)
    rows: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    timeouts: list[Any] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)


def run(
    operator: Any,
    *,
    ti: FakeTaskInstance | None = None,
    store: FakeStore | None = None,
    before_resume: Callable[[], None] = lambda: None,
) -> Run:
    """Run a task to its end; raises what the task raises.

    Args:
        operator: the task.
        ti: its task instance.
        store: the task state store, which survives its tries, where there is one.
        before_resume: called between the trigger's event and the worker that resumes with it.
    """
    outcome = Run(ti=ti or FakeTaskInstance())
    context: dict[str, Any] = {"ti": outcome.ti, **({} if store is None else {"task_state_store": store})}
    step = lambda: operator.execute(context)  # noqa: E731
    while True:
        try:
            outcome.result = step()
        except TaskDeferred as deferred:
            outcome.deferrals += 1
            row = json.loads(json.dumps(deferred.trigger.serialize()))
            outcome.rows.append(row)
            outcome.timeouts.append(deferred.timeout)
            event = json.loads(json.dumps(fire(row)))
            outcome.events.append(event)
            before_resume()
            kwargs = {**json.loads(json.dumps(deferred.kwargs or {})), "event": event}
            step = lambda m=deferred.method_name, k=kwargs: operator.resume_execution(m, k, context)  # noqa: E731
        except AirflowRescheduleException as reschedule:
            outcome.reschedules += 1
            outcome.reschedule_dates.append(reschedule.reschedule_date)
            outcome.ti.first_reschedule = outcome.ti.first_reschedule or datetime.now(tz=UTC)
        else:
            json.dumps(outcome.result)
            return outcome


def inflate(row: tuple[str, dict[str, Any]]) -> Any:
    """Build a trigger from its row, as a triggerer does."""
    module, _, name = row[0].rpartition(".")
    return getattr(import_module(module), name)(**row[1])


def fire(row: tuple[str, dict[str, Any]]) -> Any:
    """Run a trigger to its one event, in an event loop of its own."""

    async def events() -> list[Any]:
        return [event async for event in inflate(row).run()]

    (event,) = asyncio.run(events())
    return event.payload


async def longest_step(work: Awaitable[Any]) -> float:
    """Return the longest time, in seconds of CPU, for which nothing else had a turn in the event loop meanwhile.

    Without the garbage collector, which takes as long as the tests before have left objects.
    """
    gc.disable()
    try:
        working, longest, last = asyncio.ensure_future(work), 0.0, time.thread_time()
        while not working.done():
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, last = max(longest, now - last), now
        await working
    finally:
        gc.enable()
    return longest
