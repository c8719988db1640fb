"""``WorkerlessTrigger``: does what a sensor's worker does otherwise: begins a wait, and ends its task.

Rows in Airflow's database name this class: it stays where it is. Floor 1: floor ½ is imported inside functions.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TaskSkippedEvent, TaskSuccessEvent, TriggerEvent

from airflow_provider_lro._core.links import others
from airflow_provider_lro._core.names import name_of
from airflow_provider_lro._core.outcome import TimedOut
from airflow_provider_lro._core.skip import is_skip
from airflow_provider_lro._core.wait import Start
from airflow_provider_lro._runner.driver import result_of, steady_clock
from airflow_provider_lro.exceptions import LroError
from airflow_provider_lro.links import awrite_link
from airflow_provider_lro.triggers import LongRunningOperationTrigger, epoch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro.hooks import LongRunningOperationHook

__all__ = ["WorkerlessTrigger", "is_template", "needs_worker"]

FRESH_FOR = 30.0
"""Seconds from the task's start in which its trigger is taken for the first, and not for one that was rebuilt."""
SECONDS_TO_WRITE = 30.0
"""How long the XCom may take; then a worker writes it. Less than the slack of Airflow's own timeout."""
SECONDS_TO_SHOW = 10.0
"""How long the link may take; then there is none."""
TRIGGERS_WRITE_XCOMS = hasattr(BaseTrigger, "on_kill")
"""Since Airflow 3.3, as the hook for kills."""
LONGEST_REASON = 500


@dataclass(kw_only=True, eq=False, repr=False)
class WorkerlessTrigger(LongRunningOperationTrigger):
    """Waits like its parent; may be where the task starts, and where it ends.

    With ``timeout`` the scheduler has made it: what a worker makes sure of before it defers, this does. With ``ends``
    a success or a skip ends the task here; all else, and whatever is in doubt, goes on in ``execute_complete``.

    Its own arguments, beside those of a wait:

    * ``timeout``: seconds from the task's start to the deadline, where nobody knew the time of either.
    * ``backstop``: seconds from the task's start to Airflow's own timeout, which is how 3.x tells when it started.
    * ``ends``: end the task here.
    * ``worker_for``: what else the task has that only a worker does, so that it cannot end here.
    * ``on_cancelled``, ``soft_fail``, ``never_fail``, ``require_result``, ``do_xcom_push``, ``response_type``: the
      sensor's.
    """

    timeout: float | None = None
    backstop: float | None = None
    ends: bool = False
    worker_for: str | None = None
    on_cancelled: str = "fail"
    soft_fail: bool = False
    never_fail: bool = False
    require_result: bool = False
    do_xcom_push: bool = True
    response_type: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._unrendered: Exception | None = None

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Render what the scheduler could not; a failure is kept for ``run``, as here it would crash the trigger."""
        try:
            super().render_template_fields(context, jinja_env)
        except Exception as error:  # noqa: BLE001  (a template may raise anything; a worker is told)
            self._unrendered = error

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event; what a worker would refuse before it waits is left for a worker to refuse."""
        if self.timeout is not None:
            try:
                self._start()
            except Exception as error:  # noqa: BLE001  (whatever it is, a worker meets it again, and says it properly)
                self._fired = True
                reason = f"{type(error).__name__}: {error}"[:LONGEST_REASON]
                yield TriggerEvent({"name": None, "not_started": reason, "started_at": self.started_at})
                return
        async for event in super().run():
            yield event

    async def on_kill(self) -> None:
        """Do as the parent does, once it is known which operation it is."""
        if self.timeout is None or self.deadline is not None:
            await super().on_kill()

    # How it begins

    def _start(self) -> None:
        now = steady_clock()()
        if self.started_at is None:
            started = self._task_started()
            self.started_at = now if started is None else started
        if self._unrendered is not None:
            raise self._unrendered
        for name in ("lro_conn_id", "endpoint", "impersonation_chain", "quota_project_id"):
            value = getattr(self, name)
            if isinstance(value, str) and is_template(value):  # Airflow has no DAG for it
                raise ValueError(f"{name} is a template that was not rendered: {value!r}")
        self.operation_name = name_of(self.operation_name)
        self.check()
        # At last, as it says that all is well.
        self.deadline = self.started_at + (self.timeout or 0.0)

    def _task_started(self) -> float | None:
        """Return when the task started: the same in every triggerer, whatever became of the one before."""
        started = getattr(self.task_instance, "start_date", None)
        if started is not None:  # Airflow 2
            return float(started.timestamp())
        # Airflow 3 tells a trigger nothing but its timeout, which was counted from the start.
        ends = getattr(self, "timeout_after", None)
        if ends is None or self.backstop is None:
            return None
        return epoch(ends) - self.backstop

    def _first(self) -> Start:
        if self.timeout is None or self.started_at is None:
            return super()._first()
        return Start.FRESH if steady_clock()() - self.started_at < FRESH_FOR else super()._first()

    async def _show(self, hook: LongRunningOperationHook) -> None:
        """Write the link, where no worker has: once, so not in a trigger that was rebuilt."""
        if self.timeout is None or self.task_instance is None or self._first() is not Start.FRESH:
            return
        link = hook.link(self.operation_name)
        if link is None or not TRIGGERS_WRITE_XCOMS:
            return
        try:
            await asyncio.wait_for(awrite_link(self.task_instance, link), SECONDS_TO_SHOW)
        except Exception:  # what it is does not matter: a wait is worth more than a link to it
            self.log.warning("operation %r: its link could not be written", self.operation_name, exc_info=True)

    # How it ends

    async def _event(self, outcome: Outcome) -> TriggerEvent:
        from airflow_provider_lro._messages.events import must_read_again

        event = await super()._event(outcome)
        ends = self.ends and self.task_instance is not None and not must_read_again(event.payload)
        if not ends or (isinstance(outcome, TimedOut) and outcome.is_unseen) or await self._left_undecoded():
            return event
        try:
            response = result_of(outcome, self, self.response_type, require_result=self.require_result)
        except LroError as error:
            if not is_skip(error, on_cancelled=self.on_cancelled, soft_fail=self.soft_fail, never_fail=self.never_fail):
                return event
            if self._left_to_a_worker():
                return event
            self.log.info("skipped: %s", error)
            return TaskSkippedEvent()
        if self._left_to_a_worker() or not await self._pushed(response):
            return event
        return TaskSuccessEvent()

    def _type_names(self) -> dict[str, str | None]:
        return {**super()._type_names(), "response_type": self.response_type if self.ends else None}

    async def _left_undecoded(self) -> bool:
        known = await self._know_types()
        if not known:
            self.log.info("operation %r: a worker ends the task, as it may know its types", self.operation_name)
        return not known

    def _left_to_a_worker(self) -> bool:
        reason = self.worker_for
        # Only a trigger that the scheduler has made knows its task; for the others a worker has looked at it.
        task = getattr(self.task_instance, "task", None)
        if reason is None and self.timeout is not None:
            reason = "only a worker knows its DAG" if task is None else needs_worker(task, from_start=True)
            if reason is None and getattr(self.task_instance, "try_number", 1) > 1:
                # Airflow would keep the end of the try before, and its XComs.
                reason = "this is not its first try"
        if reason is not None:
            self.log.info("operation %r: a worker ends the task, as %s", self.operation_name, reason)
        return reason is not None

    async def _pushed(self, response: Any) -> bool:
        """Push the result as a worker would; False leaves it to one."""
        import json

        from airflow_provider_lro._messages.encoding import response_to_json
        from airflow_provider_lro._messages.events import LARGEST_EVENT

        result = response_to_json(response)
        if result is None or not self.do_xcom_push:
            return True
        if _has_opaque(result) or len(json.dumps(result)) > LARGEST_EVENT:
            self.log.info(
                "operation %r: a worker ends the task, as it may know more of the result", self.operation_name
            )
            return False
        try:
            await asyncio.wait_for(self._push(_return_key(), result), SECONDS_TO_WRITE)
        except Exception:  # what it is does not matter: a worker writes the same again
            self.log.warning("operation %r: a worker ends the task", self.operation_name, exc_info=True)
            return False
        return True

    async def _push(self, key: str, value: Any) -> None:
        from airflow.sdk.execution_time.xcom import XCom

        ti: Any = self.task_instance
        # Not the event's own `xcoms`: Airflow 3.3 would encode them twice.
        await XCom.aset(
            key,
            value,
            dag_id=ti.dag_id,
            task_id=ti.task_id,
            run_id=ti.run_id,
            map_index=-1 if ti.map_index is None else ti.map_index,
        )


def _return_key() -> str:
    from airflow.sdk.bases.xcom import BaseXCom

    return str(BaseXCom.XCOM_RETURN_KEY)


def is_template(text: str) -> bool:
    """Tell whether there is something to render in a text, in Airflow's own environment."""
    return any(mark in text for mark in ("{{", "{%", "{#"))


def needs_worker(task: Any, *, from_start: bool) -> str | None:
    """Return what a task has that Airflow does on a worker alone, when the task ends; None if there is nothing.

    Args:
        task: the operator, or what Airflow has serialized of it.
        from_start: no worker has begun it either.
    """
    kinds = ("on_success", "on_skipped", *(["on_execute"] if from_start else []))
    has: dict[str, bool] = {
        "outlets": bool(task.outlets),
        **{f"an {kind}_callback": bool(getattr(task, f"has_{kind}_callback", False)) for kind in kinds},
        "multiple_outputs": bool(getattr(task, "multiple_outputs", False)),
        "the DAG's result": bool(getattr(task, "returns_dag_result", False)),
        # Ours is written by the trigger, too.
        "links of its operator": from_start and bool(others(getattr(task, "operator_extra_links", ()))),
    }
    for what, there in has.items():
        if there:
            return f"it has {what}"
    if task.get_dag() is not None and next(iter(task.iter_mapped_dependants()), None) is not None:
        return "another task is mapped over its result"
    return _installation_needs_worker(from_start=from_start)


def _installation_needs_worker(*, from_start: bool) -> str | None:
    from airflow.sdk.bases.xcom import BaseXCom
    from airflow.sdk.execution_time.xcom import XCom
    from airflow.sdk.listener import get_listener_manager

    if XCom is not BaseXCom:
        return "an XCom backend is configured, which may block"
    hooks = get_listener_manager().hook
    for heard in ("success", "skipped", *(["running"] if from_start else [])):
        if getattr(hooks, f"on_task_instance_{heard}").get_hookimpls():
            return f"a plugin listens to on_task_instance_{heard}"
    return None


def _has_opaque(value: Any) -> bool:
    """Tell whether something in a result looks like a payload of a type that is not known here."""
    if isinstance(value, dict):
        if value.keys() == {"@type", "value"} and isinstance(value["value"], str):
            return True
        return any(map(_has_opaque, value.values()))
    return isinstance(value, list) and any(map(_has_opaque, value))
