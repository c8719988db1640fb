"""Operators that cancel operations that run for too long, and delete those that have been done for long."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_lro._core.checks import check_flag, check_wait_timeout
from airflow_provider_lro._core.names import unpack
from airflow_provider_lro.exceptions import Code, LroError, OperationNotFound, OperationTimeout, UnimplementedError
from airflow_provider_lro.operators._base import DEFAULT_DEFERRABLE, WaitOperator, arguments
from airflow_provider_lro.operators._bulk import ask_to_cancel, raise_together, word_of
from airflow_provider_lro.operators._cleanup import CleanupOperator, Report
from airflow_provider_lro.version_compat import AirflowTaskTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import timedelta

    from airflow.sdk import Context

    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._core.state import OperationState
    from airflow_provider_lro._transport.client import OperationsClient
    from airflow_provider_lro.operation import Operation

__all__ = ["CancelStaleOperationsOperator", "DeleteFinishedOperationsOperator"]

MAX_NAMED = 20
"""Operations in the text of a timeout; the report has more of them."""


class CancelStaleOperationsOperator(CleanupOperator, WaitOperator):
    """Asks to cancel the operations under a parent that are not done and were created too long ago.

    The age counts from ``create_time``, ``start_time``, ``insert_time`` or ``request_time`` in the metadata, or in its
    ``generic_metadata`` and the like. An operation without such a time is never touched. Each is looked at once more
    before it is asked. At most 32 calls are on their way at a time; all are tried before an error is raised.

    Its XCom, which is there when the task fails, too: ``counts`` by kind, of ``listed``, ``done`` and ``young`` (left
    alone), and with names (the first 200 of a kind) ``would_cancel`` (by a dry run), ``asked`` (and not known to be
    done), ``cancelled``, ``finished`` (before it was asked, or in spite of it), ``gone`` (NOT_FOUND meanwhile),
    ``unimplemented``, ``refused`` and ``unreadable`` since (with ``code`` and ``message``), ``unknown_age``,
    ``remaining`` (beyond ``max_cancel``, or when told to stop) and ``unreachable``.

    :param parent: for example ``projects/p/locations/l``, or a sequence of such; the form differs between services.
    :param older_than: seconds (or timedelta, or a number as text) above 0.
    :param filter: the service's own filter language, passed on as it is; empty lists all.
    :param max_cancel: ask as many at most, the oldest; None: all.
    :param wait: wait until each is done; deferrable.
    :param wait_timeout: seconds (or timedelta) to wait before failing with ``OperationTimeout``; None: no limit. An
        ``execution_timeout`` that is shorter counts instead.
    :param time_of: where the time is, for metadata without the usual fields: the path of a field, such as
        ``"progress.start_time"``, or a function that is given an ``Operation`` and returns a datetime, epoch seconds, a
        Timestamp, a text as in RFC 3339, or None where it cannot tell.
    :param type_modules: module paths to import, such as ``"google.cloud.dataplex_v1"``, so that metadata of their types
        can be unpacked.
    :param dry_run: find and report, and do nothing.
    :param on_unimplemented: about a service that cannot list, or cannot cancel: ``"fail"``; or ``"skip"`` the task if
        there was nothing else to do, and only report it if there was.
    :param page_size: operations a page; None leaves it to the service.
    :param return_partial_success: list all that can be reached, and report the rest as ``unreachable``.
    :param interval: seconds (or timedelta) between polls once the backoff has reached it; at least 0.1.
    :param deferrable: wait in the triggerer, which takes no worker. Default: ``[operators] default_deferrable``.
    :param initial_delay: seconds (or timedelta) between the first poll and the second.
    :param multiplier: growth of each pause over the one before, until the interval is reached.
    :param jitter: share of each pause that may be left out, 0 to 1, so that waits spread.
    :param rpc_timeout: seconds (or timedelta) that one call may take.
    :param max_consecutive_errors: failed polls in a row that are tolerated; None goes on until the deadline.
    :param connect_timeout: seconds (or timedelta) after which a wait ends, with ``EndpointError``, that has had no
        connection to the service since its first poll; None goes on until the deadline.
    :param poll_method: ``"get"``, ``"wait"``, ``"auto"`` or ``"list"``, as for the sensor.
    :param list_parent: parent to list then.
    :param lro_conn_id: connection of type ``lro`` (or ``google_cloud_platform``, then with ``endpoint``).
    :param endpoint: host or host:port of the service, instead of the connection's; may hold ``{location}``.
    :param impersonation_chain: service account to impersonate, or a chain of them (text with commas, or a sequence).
    :param quota_project_id: project that quota and bills go to.
    :param headers: more headers of every call, no secret among them; ``x-goog-request-params`` takes our own's place.
    """

    max_cancel: int | None
    wait: bool
    wait_timeout: float | None
    interval: float
    not_found_grace = 0.0
    """An operation that has been listed is not to appear."""

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
        "remaining",
    )
    verb = "cancelled"
    would = "would_cancel"
    max_argument = "max_cancel"
    kinds: ClassVar[dict[str, str]] = {
        "cancelled": "cancelled",
        "succeeded": "finished",
        "failed": "finished",
        "not_found": "gone",
        "call_failed": "unreadable",
    }
    """By the word of their outcome, the kinds of those that were asked."""

    def __init__(
        self,
        *,
        parent: str | Sequence[str],
        older_than: float | timedelta | str,
        filter: str = "",
        max_cancel: int | None = None,
        wait: bool = False,
        wait_timeout: float | timedelta | None = None,
        time_of: str | Callable[[Operation], Any] | None = None,
        type_modules: str | Sequence[str] = (),
        dry_run: bool = False,
        on_unimplemented: str = "fail",
        page_size: int | None = None,
        return_partial_success: bool = False,
        interval: float | timedelta = 60.0,
        deferrable: bool = DEFAULT_DEFERRABLE,
        initial_delay: float | timedelta = 1.0,
        multiplier: float = 2.0,
        jitter: float = 0.1,
        rpc_timeout: float | timedelta = 30.0,
        max_consecutive_errors: int | None = None,
        connect_timeout: float | timedelta | None = 600.0,
        poll_method: str = "get",
        list_parent: str | None = None,
        lro_conn_id: str = "lro_default",
        endpoint: str | None = None,
        impersonation_chain: str | Sequence[str] | None = None,
        quota_project_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**arguments(locals()))
        check_flag(wait, what="wait")
        check_wait_timeout(self.wait_timeout)
        self.check_args()

    @property
    def own_timeout(self) -> float | None:
        """Seconds to wait."""
        return self.wait_timeout

    @property
    def times(self) -> Sequence[str]:
        """Those of creation."""
        from airflow_provider_lro._messages.metadata import CREATED

        return CREATED

    def left_alone(self, operation: OperationState) -> str | None:
        """Leave an operation alone that is done."""
        return "done" if operation.done else None

    def act(self, client: OperationsClient, name: str) -> str:
        """Ask to cancel it, unless it is done by now."""
        try:
            asked, word = ask_to_cancel(client, name, rpc_timeout=self.rpc_timeout)
            kind = "asked" if asked else "finished"  # also one that somebody else has cancelled
        except LroError as error:
            word = word_of(error, ignore_missing=True, ignore_unimplemented=self.on_unimplemented == "skip")
            asked, kind = False, "gone" if word == "missing" else word
        else:
            self.log.info("%s%s [operation %r]", "asked to cancel, " if asked else "", word, name)
        return kind

    def execute(self, context: Context) -> Any:
        """List, ask to cancel; then return, or wait."""
        from airflow_provider_lro._core.wait import Start

        report = self.clean_up(context)
        waiting = report.names("asked")
        if not self.wait or not waiting:
            return report.as_json()
        times = self.times_from_now()
        self.push_result(context, report.as_json())
        args, kwargs = self.wait_args(waiting[0], **times), {"report": report.as_json(), **times}
        with self._published_on_failure(context, report), self.hook() as hook:
            outcomes = self.await_outcomes(context, hook, waiting, args, start=Start.POLL, defer_kwargs=kwargs)
            return self._finish(report, waiting, outcomes)

    def execute_complete(
        self,
        context: Context,
        event: Mapping[str, Any] | None = None,
        *,
        report: dict[str, Any] | None = None,
        names: str | None = None,
        started_at: float | None = None,
        deadline: float | None = None,
        **_: Any,
    ) -> Any:
        """Report the outcomes that the trigger found."""
        from airflow_provider_lro._messages.events import check_event

        # `airflow dags test` drops the arguments. Nothing is asked again: max_cancel would not hold.
        published = self.pull_result(context) if report is None else report
        if published:
            known = Report.of(published)
        else:
            if event is None:
                raise OperationTimeout(
                    "the triggerer has not reported by the deadline, and the XCom 'return_value' does not say which"
                    " operations were asked to cancel: check whether a triggerer runs; a retry lists again"
                )
            known = self.empty_report()
            check_event(event)
            known.add("asked", event.get("name", "…"))
        if names is not None:
            known.restore("asked", unpack(names))
        waiting = known.names("asked")
        with self._published_on_failure(context, known):
            event = None if names is None else event  # without them it is not known which operations it is about
            outcomes = self.outcomes_of(context, event, waiting, started_at=started_at, deadline=deadline)
            return self._finish(known, waiting, outcomes)

    @contextmanager
    def _published_on_failure(self, context: Context, report: Report) -> Iterator[None]:
        """Make the report the XCom of a task that fails, too."""
        try:
            yield
        except (Exception, AirflowTaskTimeout):
            self.push_result(context, report.as_json())
            raise

    def _finish(self, report: Report, waiting: Sequence[str], outcomes: Sequence[Outcome | None]) -> Any:
        """Return the report; raise where it does not say of all that were asked how they ended."""
        from airflow_provider_lro._core.outcome import CallFailed

        errors: dict[str, LroError] = {}
        for name, outcome in zip(waiting, outcomes, strict=True):
            kind = None if outcome is None else self.kinds.get(outcome.word)
            if kind is not None:
                self.log.info("asked to cancel, %s [operation %r]", kind, name)
                if isinstance(outcome, CallFailed):
                    errors[name] = outcome.error
                report.move(name, "asked", kind, errors.get(name))
        remaining = report.counts["asked"]
        if remaining:
            some = ", ".join(map(repr, report.names("asked")[:MAX_NAMED])) + (", …" if remaining > MAX_NAMED else "")
            raise OperationTimeout(
                f"{remaining} operations were asked to cancel and are not known to be done; they may still end: {some}",
                code=Code.DEADLINE_EXCEEDED,
            )
        total = len(waiting)
        raise_together(errors, total=total, text=f"{len(errors)} of {total} operations could not be read ({report})")
        return report.as_json()


class DeleteFinishedOperationsOperator(CleanupOperator):
    """Deletes the operations under a parent that have been done for long: their results can be read no more.

    The age counts from ``end_time``, ``finish_time``, ``complete_time``, ``completion_time``, ``update_time`` or
    ``last_update_time`` in the metadata, or in its ``generic_metadata`` and the like. An operation without such a time
    is never touched: a time of creation says nothing about the end. At most 32 calls are on their way at a time; all
    are tried before an error is raised.

    Its XCom is as that of ``CancelStaleOperationsOperator``: ``counts`` of ``listed``, ``running``, ``kept`` and
    ``young``, and with names ``would_delete``, ``deleted``, ``gone``, ``unimplemented``, ``refused``, ``unknown_age``,
    ``remaining`` and ``unreachable``.

    :param parent: for example ``projects/p/locations/l``, or a sequence of such; the form differs between services.
    :param older_than: seconds (or timedelta, or a number as text) above 0.
    :param filter: the service's own filter language, passed on as it is; empty lists all.
    :param max_delete: delete as many at most, the oldest; None: all.
    :param keep_failed: keep those that have failed (a cancelled one has not), for somebody to look at; each is
        read once more before it is deleted, but not by a dry run.
    :param time_of: where the time is, for metadata without the usual fields: the path of a field, such as
        ``"progress.end_time"``, or a function that is given an ``Operation`` and returns a datetime, epoch seconds, a
        Timestamp, a text as in RFC 3339, or None where it cannot tell.
    :param type_modules: module paths to import, such as ``"google.cloud.dataplex_v1"``, so that metadata of their types
        can be unpacked.
    :param dry_run: find and report, and do nothing.
    :param on_unimplemented: about a service that cannot list, or cannot delete: ``"fail"``; or ``"skip"`` the task if
        there was nothing else to do, and only report it if there was.
    :param page_size: operations a page; None leaves it to the service.
    :param return_partial_success: list all that can be reached, and report the rest as ``unreachable``.
    :param lro_conn_id: connection of type ``lro`` (or ``google_cloud_platform``, then with ``endpoint``).
    :param endpoint: host or host:port of the service, instead of the connection's; may hold ``{location}``.
    :param impersonation_chain: service account to impersonate, or a chain of them (text with commas, or a sequence).
    :param quota_project_id: project that quota and bills go to.
    :param headers: more headers of every call, no secret among them; ``x-goog-request-params`` takes our own's place.
    """

    max_delete: int | None
    keep_failed: bool

    counted = ("running", "kept", "young")
    named = ("deleted", "gone", "unimplemented", "refused", "unknown_age", "remaining")
    verb = "deleted"
    would = "would_delete"
    max_argument = "max_delete"

    def __init__(
        self,
        *,
        parent: str | Sequence[str],
        older_than: float | timedelta | str,
        filter: str = "",
        max_delete: int | None = None,
        keep_failed: bool = False,
        time_of: str | Callable[[Operation], Any] | None = None,
        type_modules: str | Sequence[str] = (),
        dry_run: bool = False,
        on_unimplemented: str = "fail",
        page_size: int | None = None,
        return_partial_success: bool = False,
        lro_conn_id: str = "lro_default",
        endpoint: str | None = None,
        impersonation_chain: str | Sequence[str] | None = None,
        quota_project_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**arguments(locals()))
        check_flag(keep_failed, what="keep_failed")

    @property
    def times(self) -> Sequence[str]:
        """Those of the end, or of the last change."""
        from airflow_provider_lro._messages.metadata import FINISHED

        return FINISHED

    def left_alone(self, operation: OperationState) -> str | None:
        """Leave an operation alone that is not done, or that has failed if those are to be kept."""
        if not operation.done:
            return "running"
        has_failed = operation.code is not None and operation.code != Code.CANCELLED
        return "kept" if self.keep_failed and has_failed else None

    def act(self, client: OperationsClient, name: str) -> str:
        """Delete it, unless it has failed and failures are kept: some services list less of one than Get gives."""
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
        self.log.info("%s [operation %r]", kind, name)
        return kind

    def execute(self, context: Context) -> Any:
        """List, and delete."""
        return self.clean_up(context).as_json()
