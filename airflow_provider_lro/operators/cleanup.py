"""Operators that cancel what runs for too long, and delete what has been done for long.

Floor 2: imports floor 1, and floor ½ inside functions.
"""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_lro._core import outcome as outcomes
from airflow_provider_lro._core.wait import Start, is_transient
from airflow_provider_lro.exceptions import (
    Code,
    LroError,
    OperationNotFound,
    OperationTimeout,
    RpcError,
    UnimplementedError,
)
from airflow_provider_lro.operators._bulk import ask, each_at_once, raise_all
from airflow_provider_lro.operators._deferral import WaitingOperator
from airflow_provider_lro.operators._report import Report
from airflow_provider_lro.operators._service import checked_wait_timeout, earliest, seconds
from airflow_provider_lro.operators._sweep import SweepOperator, checked_flag, checked_most
from airflow_provider_lro.version_compat import AirflowTaskTimeout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_lro._core.commands import Pause
    from airflow_provider_lro._transport.client import OperationsClient
    from airflow_provider_lro.hooks import LongRunningOperationHook

__all__ = ["CancelStaleOperationsOperator", "DeleteFinishedOperationsOperator"]

NAMED = 20
"""Operations in the text of a timeout; the report has more of them."""
ENDED: dict[type[Any], str] = {
    outcomes.Cancelled: "cancelled",
    outcomes.Succeeded: "finished",
    outcomes.Failed: "finished",
    outcomes.NotFound: "gone",
}
"""The kind of what was asked to cancel, by what it came to."""


class CancelStaleOperationsOperator(SweepOperator, WaitingOperator):
    """Asks to cancel the operations under a parent that are not done and were created too long ago.

    The age counts from ``create_time``, ``start_time``, ``insert_time`` or ``request_time`` in the metadata, or in its
    ``generic_metadata`` and the like. An operation without such a time is never touched. Each is looked at once more
    before it is asked. At most 16 calls are on their way at a time; all are tried before an error is raised.

    Its XCom, which is there when the task fails, too: ``counts`` by kind, of ``listed``, ``done`` and ``young`` (left
    alone), and with names (the first 200 of a kind) ``would_cancel`` (by a dry run), ``asked`` (and not known to be
    done), ``cancelled``, ``finished`` (before it was asked, or in spite of it), ``gone`` (NOT_FOUND meanwhile),
    ``unimplemented``, ``refused`` and ``unreadable`` since (with ``code`` and ``message``), ``unknown_age``,
    ``left_over`` (beyond ``max_cancel``, or when told to stop) and ``unreachable``.

    :param max_cancel: ask as many at most, the oldest; None: all.
    :param wait: wait until each is done; deferrable.
    :param wait_timeout: seconds (or timedelta) to wait before failing with ``OperationTimeout``; None: no limit. An
        ``execution_timeout`` that is shorter counts instead.
    :param interval: seconds (or timedelta) between polls once the backoff has reached it; at least 0.1.
    """

    counted = ("done", "young")
    named = (
        "asked",
        "cancelled",
        "finished",
        "gone",
        "unimplemented",
        "refused",
        "unreadable",
        "unknown_age",
        "left_over",
    )
    verb = "cancelled"
    would = "would_cancel"
    kinds: ClassVar[dict[str, str]] = {"running": "asked", "missing": "gone", "unimplemented": "unimplemented"}
    """By what came of asking; the others are ``finished``, also those that somebody else has cancelled."""

    def __init__(
        self,
        *,
        max_cancel: int | None = None,
        wait: bool = False,
        wait_timeout: float | timedelta | None = None,
        interval: float | timedelta = 60.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_cancel = checked_most(max_cancel, what="max_cancel")
        self.wait = checked_flag(wait, what="wait")
        self.wait_timeout = checked_wait_timeout(wait_timeout)
        self.interval = seconds(interval)
        self.wait_args("to be listed", impersonation_chain=None).check()

    @property
    def most(self) -> int | None:
        """``max_cancel``."""
        return self.max_cancel

    @property
    def times(self) -> Sequence[str]:
        """Those of creation."""
        from airflow_provider_lro._messages.times import CREATED

        return CREATED

    def left_alone(self, operation: Any) -> str | None:
        """Leave what is done alone."""
        return "done" if operation.done else None

    def act(self, client: OperationsClient, name: str) -> str:
        """Ask to cancel it, unless it is done by now."""
        skip, timeout = self.on_unimplemented == "skip", self.rpc_timeout
        asked = ask(client, name, rpc_timeout=timeout, ignore_missing=True, ignore_unimplemented=skip, log=self.log)
        return self.kinds.get(asked["outcome"], "finished")

    def execute(self, context: Context) -> Any:
        """List, ask to cancel; then return, or wait."""
        report = self.sweep(context)
        if not self.wait:
            return report.as_json()
        now, limit = time.time(), earliest(self.wait_timeout, self.execution_timeout)
        deadline = None if limit is None else now + limit
        with self._left_behind(context, report):
            return self._await(context, report, started_at=now, deadline=deadline)

    def execute_complete(
        self,
        context: Context,
        event: Mapping[str, Any],
        *,
        report: dict[str, Any] | None = None,
        started_at: float | None = None,
        deadline: float | None = None,
        **_: Any,
    ) -> Any:
        """Look at all that are left, now that one of them has ended, and wait for those that have not."""
        from airflow_provider_lro._messages.events import outcome_from_event

        # `airflow dags test` drops the arguments. Nothing is asked again: max_cancel would not hold.
        known = Report.of(report) if report is not None else self._published(context)
        if known is None:
            known = self.empty_report()
            known.add("asked", event["name"])
        started_at = time.time() if started_at is None else started_at
        with self._left_behind(context, known):
            self._note(known, event["name"], outcome_from_event(event))
            self._look(known)
            return self._await(context, known, started_at=started_at, deadline=deadline)

    def execute_late(self, context: Context) -> Any:
        """Look at each once on the worker: by the deadline no trigger had told us anything."""
        report = self._published(context)
        if report is None:
            raise OperationTimeout("no triggerer told in time what the operations came to that were asked to cancel")
        with self._left_behind(context, report):
            self._look(report)
            return self._ended(report)

    def _await(self, context: Context, report: Report, *, started_at: float, deadline: float | None) -> Any:
        """Wait for one after the other; each time one is done, look at the others, which mostly are, too."""

        def leave(hook: LongRunningOperationHook, _: Pause) -> None:
            if self.deferrable:
                self.publish(context, report)
                known = {"report": report.as_json(whole="asked"), "started_at": started_at, "deadline": deadline}
                self.defer_wait(args, hook, kwargs=known)

        while waiting := report.names("asked"):
            # The last that was asked is likely to be the last that ends. Having been listed, it is not to appear.
            args = self.wait_args(waiting[-1], not_found_grace=0.0, started_at=started_at, deadline=deadline)
            outcome = self.poll(context, args, start=Start.POLL, leave=leave)
            self._note(report, waiting[-1], outcome)
            self._look(report)
            if isinstance(outcome, outcomes.TimedOut):
                break
        return self._ended(report)

    @contextmanager
    def _left_behind(self, context: Context, report: Report) -> Iterator[None]:
        """Leave the report as the XCom of a task that fails, too."""
        try:
            yield
        except (Exception, AirflowTaskTimeout):
            self.publish(context, report)
            raise

    def _ended(self, report: Report) -> Any:
        """Return the report; raises where it does not say of all that were asked what they came to."""
        if not report.counts["asked"]:
            waited_for = sum(report.counts[kind] for kind in ("cancelled", "finished", "gone", "unreadable"))
            errors = {one["name"]: RpcError(one["message"], code=one["code"]) for one in report.entries("unreadable")}
            raise_all(errors, of=waited_for, verb="read", others=str(report))
            return report.as_json()
        some = ", ".join(map(repr, report.names("asked")[:NAMED]))
        raise OperationTimeout(
            f"{report.counts['asked']} operations were asked to cancel and are not known to be done: {some}"
            f"{', …' if report.counts['asked'] > NAMED else ''}; they may end yet, in any way",
            code=Code.DEADLINE_EXCEEDED,
        )

    def _note(self, report: Report, name: str, outcome: Any) -> None:
        """Note what became of an operation that was asked."""
        if isinstance(outcome, outcomes.Broken):
            error = outcome.error
            if not isinstance(error, RpcError) or is_transient(error):
                raise error  # not about this operation: the others could not be read, either
            self.log.warning("operation %r: asked to cancel, and could not be read since: %s", name, error)
            report.move(name, "asked", "unreadable", error)
        elif (kind := ENDED.get(type(outcome))) is not None:
            self.log.info("operation %r: asked to cancel, %s", name, kind)
            report.move(name, "asked", kind)

    def _look(self, report: Report) -> None:
        """Poll all that were asked once, and note which are done."""
        from airflow_provider_lro._messages.encoding import read

        waiting = report.names("asked")
        with self.hook() as hook:
            clients = {name: hook.get_conn(name) for name in waiting}

            def look(name: str) -> Any:
                return read(clients[name].get_operation(name, rpc_timeout=self.rpc_timeout))

            with closing(each_at_once(waiting, look)) as looks:
                for name, found in looks:
                    if isinstance(found, OperationNotFound):
                        self._note(report, name, outcomes.NotFound(error=found))
                    elif not isinstance(found, LroError):
                        self._note(report, name, found)
                    elif not is_transient(found):
                        self._note(report, name, outcomes.Broken(error=found))

    def _published(self, context: Context) -> Report | None:
        """Return the report that was left before the deferral."""
        ti = context["ti"]
        left = ti.xcom_pull(task_ids=ti.task_id, key="return_value", map_indexes=ti.map_index)
        return Report.of(left) if left else None


class DeleteFinishedOperationsOperator(SweepOperator):
    """Deletes the operations under a parent that have been done for long: their results can be read no more.

    The age counts from ``end_time``, ``finish_time``, ``complete_time``, ``completion_time``, ``update_time`` or
    ``last_update_time`` in the metadata, or in its ``generic_metadata`` and the like. An operation without such a time
    is never touched: when it was created says nothing about when it ended. At most 16 calls are on their way at a time;
    all are tried before an error is raised.

    Its XCom is as that of ``CancelStaleOperationsOperator``: ``counts`` of ``listed``, ``running``, ``kept`` and
    ``young``, and with names ``would_delete``, ``deleted``, ``gone``, ``unimplemented``, ``refused``, ``unknown_age``,
    ``left_over`` and ``unreachable``.

    :param max_delete: delete as many at most, the oldest; None: all.
    :param keep_failed: keep those that have failed (a cancelled one has not), for somebody to look at; each is
        read once more before it is deleted, but not by a dry run.
    """

    counted = ("running", "kept", "young")
    named = ("deleted", "gone", "unimplemented", "refused", "unknown_age", "left_over")
    verb = "deleted"
    would = "would_delete"

    def __init__(self, *, max_delete: int | None = None, keep_failed: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_delete = checked_most(max_delete, what="max_delete")
        self.keep_failed = checked_flag(keep_failed, what="keep_failed")

    @property
    def most(self) -> int | None:
        """``max_delete``."""
        return self.max_delete

    @property
    def times(self) -> Sequence[str]:
        """Those of the end, or of the last change."""
        from airflow_provider_lro._messages.times import FINISHED

        return FINISHED

    def left_alone(self, operation: Any) -> str | None:
        """Leave what is not done alone, and what has failed if that is to be kept."""
        from airflow_provider_lro._messages.encoding import read

        if not operation.done:
            return "running"
        return "kept" if self.keep_failed and isinstance(read(operation), outcomes.Failed) else None

    def act(self, client: OperationsClient, name: str) -> str:
        """Delete it, unless it has failed and failures are kept: some services list less than they give singly."""
        kind = "deleted"
        try:
            if self.keep_failed and self.left_alone(client.get_operation(name)):
                return "kept"
            client.delete_operation(name)
        except OperationNotFound:
            kind = "gone"
        except UnimplementedError:
            if self.on_unimplemented != "skip":
                raise
            kind = "unimplemented"
        self.log.info("operation %r: %s", name, kind)
        return kind

    def execute(self, context: Context) -> Any:
        """List, and delete."""
        return self.sweep(context).as_json()
