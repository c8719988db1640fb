"""Operators that cancel, delete, get and list operations."""

from __future__ import annotations

import sys
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core.checks import check_page_size, check_wait_timeout, is_whole, one_line
from airflow_provider_lro._core.names import module_names, names_of, parent_of
from airflow_provider_lro.exceptions import LroError
from airflow_provider_lro.operators._base import DEFAULT_DEFERRABLE, LroOperator, WaitOperator, arguments
from airflow_provider_lro.operators._bulk import (
    act_on_each,
    ask_to_cancel,
    errors_in,
    failed_entry,
    one_or_all,
    raise_together,
    word_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from airflow.sdk import Context

    from airflow_provider_lro._core.args import WaitArgs
    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._transport.client import OperationsClient

__all__ = [
    "CancelOperationOperator",
    "DeleteOperationOperator",
    "GetOperationOperator",
    "ListOperationsOperator",
]


class CancelOperationOperator(WaitOperator):
    """Asks to cancel operations, and with ``wait=True`` waits until they are done.

    An operation that is done already is left alone. Its XCom is a mapping for one name, a list of them for a sequence:
    ``name``; ``asked``, whether a cancel was asked for; ``outcome``: ``running`` (asked, and not waited for),
    ``cancelled``, ``succeeded`` or ``failed`` (it finished, perhaps in spite of the cancel), ``missing`` or
    ``unimplemented``. All names are asked, and waited for, before an error is raised; the XCom is there then, too, with
    an ``error`` for those that failed.

    :param operation_name: a name, a mapping with a ``name``, or a sequence of them.
    :param wait: wait until each operation is done; deferrable.
    :param wait_timeout: seconds (or timedelta) to wait before failing with ``OperationTimeout``; None: no limit. An
        ``execution_timeout`` that is shorter counts instead.
    :param interval: seconds (or timedelta) between polls once the backoff has reached it; at least 0.1.
    :param ignore_missing: take NOT_FOUND for an outcome instead of an error.
    :param ignore_unimplemented: take a service that cannot cancel for an outcome instead of an error.
    :param deferrable: wait in the triggerer, which takes no worker. Default: ``[operators] default_deferrable``.
    :param initial_delay: seconds (or timedelta) between the first poll and the second.
    :param multiplier: growth of each pause over the one before, until the interval is reached.
    :param jitter: share of each pause that may be left out, 0 to 1, so that waits spread.
    :param rpc_timeout: seconds (or timedelta) that one call may take.
    :param not_found_grace: seconds (or timedelta) from the first poll for which NOT_FOUND means "not yet".
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

    operation_name: Any
    wait: bool
    wait_timeout: float | None
    interval: float
    ignore_missing: bool
    ignore_unimplemented: bool

    template_fields: Sequence[str] = ("operation_name", *LroOperator.template_fields)

    def __init__(
        self,
        *,
        operation_name: Any,
        wait: bool = False,
        wait_timeout: float | timedelta | None = None,
        interval: float | timedelta = 60.0,
        ignore_missing: bool = False,
        ignore_unimplemented: bool = False,
        deferrable: bool = DEFAULT_DEFERRABLE,
        initial_delay: float | timedelta = 1.0,
        multiplier: float = 2.0,
        jitter: float = 0.1,
        rpc_timeout: float | timedelta = 30.0,
        not_found_grace: float | timedelta = 60.0,
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
        self.check_literal(operation_name)
        check_wait_timeout(self.wait_timeout)
        self.check_args()
        if deferrable and not wait and not DEFAULT_DEFERRABLE:
            raise ValueError(
                "deferrable=True, but without wait=True there is nothing to defer for: give wait=True, too"
            )

    @property
    def own_timeout(self) -> float | None:
        """Seconds to wait."""
        return self.wait_timeout

    def execute(self, context: Context) -> Any:
        """Ask to cancel each; then return, or wait."""
        from airflow_provider_lro._core.wait import Start

        results, errors = self._ask_all()
        waiting = [result["name"] for result in results if result.get("outcome") == "running"]
        if not self.wait or not waiting:
            return self._finish(context, results, errors)
        times = self.times_from_now()
        args = self.wait_args(waiting[0], **times)
        kwargs = {"results": results, **times}
        with self.hook() as hook:
            outcomes = self.await_outcomes(context, hook, waiting, args, start=Start.POLL, defer_kwargs=kwargs)
        return self._finish_wait(context, results, errors, outcomes, args)

    def execute_complete(
        self,
        context: Context,
        event: Mapping[str, Any] | None = None,
        *,
        results: list[dict[str, Any]] | None = None,
        started_at: float | None = None,
        deadline: float | None = None,
        **_: Any,
    ) -> Any:
        """Record what the trigger found."""
        if results is None:  # no event, or `airflow dags test` drops the arguments; to ask again changes nothing
            (results, errors), event, deadline = self._ask_all(), None, time.time()
            started_at = deadline - (self.limit or 0.0)
        else:
            errors = errors_in(results)
        waiting = [result["name"] for result in results if result.get("outcome") == "running"]
        times = {"started_at": started_at, "deadline": deadline}
        outcomes = self.outcomes_of(context, event, waiting, **times)
        return self._finish_wait(context, results, errors, outcomes, self.wait_args("", **times))

    def _ask_all(self) -> tuple[list[dict[str, Any]], dict[str, LroError]]:
        names = names_of(self.operation_name)
        with self.hook() as hook:
            clients = {name: hook.get_conn(name) for name in names}
            return act_on_each(names, lambda name: self._ask(clients[name], name))

    def _ask(self, client: OperationsClient, name: str) -> dict[str, Any]:
        try:
            asked, word = ask_to_cancel(client, name, rpc_timeout=self.rpc_timeout)
        except LroError as error:
            asked, word = False, self._ignored(error)
        self.log.info("%s%s [operation %r]", "asked to cancel, " if asked else "", word, name)
        return {"name": name, "asked": asked, "outcome": word}

    def _ignored(self, error: LroError) -> str:
        return word_of(error, ignore_missing=self.ignore_missing, ignore_unimplemented=self.ignore_unimplemented)

    def _finish_wait(
        self,
        context: Context,
        results: list[dict[str, Any]],
        errors: dict[str, LroError],
        outcomes: Sequence[Outcome | None],
        args: WaitArgs,
    ) -> Any:
        """Record the outcomes of those that were waited for; what succeeded stays though others failed."""
        from airflow_provider_lro._core.outcome import Done
        from airflow_provider_lro._runner.group import args_for

        found = iter(outcomes)
        for result in results:
            outcome = next(found) if result.get("outcome") == "running" else None
            if isinstance(outcome, Done):
                result["outcome"] = outcome.word
            elif outcome is not None:
                name = result["name"]
                error = self.error_of(outcome, args_for(args, name))
                try:
                    result["outcome"] = self._ignored(error)
                except LroError:
                    errors[name] = error
                    result.update(outcome=outcome.word, error=failed_entry(name, error)["error"])
        return self._finish(context, results, errors)

    def _finish(self, context: Context, results: list[dict[str, Any]], errors: dict[str, LroError]) -> Any:
        return finish(self, context, results, errors, given=self.operation_name, verb="cancelled")


def finish(
    task: LroOperator, context: Context, results: list[Any], errors: dict[str, LroError], *, given: Any, verb: str
) -> Any:
    """Return the results, or push them and raise the errors."""
    found = one_or_all(results, given)
    if errors:
        task.push_result(context, found)
    done, total = len(results) - len(errors), len(results)
    raise_together(errors, total=total, text=f"{len(errors)} of {total} operations could not be {verb} ({done} were)")
    return found


class DeleteOperationOperator(LroOperator):
    """Tells the service that nobody is interested in the results of operations any more. Does not cancel them.

    Its XCom is a mapping for one name, a list of them for a sequence: ``name``; ``outcome``: ``deleted``, ``missing``
    or ``unimplemented``. All names are tried before an error is raised; the XCom is there then, too, with an ``error``
    for those that failed.

    :param operation_name: a name, a mapping with a ``name``, or a sequence of them.
    :param ignore_missing: take NOT_FOUND for an outcome instead of an error.
    :param ignore_unimplemented: take a service that cannot delete for an outcome instead of an error.
    :param lro_conn_id: connection of type ``lro`` (or ``google_cloud_platform``, then with ``endpoint``).
    :param endpoint: host or host:port of the service, instead of the connection's; may hold ``{location}``.
    :param impersonation_chain: service account to impersonate, or a chain of them (text with commas, or a sequence).
    :param quota_project_id: project that quota and bills go to.
    :param headers: more headers of every call, no secret among them; ``x-goog-request-params`` takes our own's place.
    """

    operation_name: Any
    ignore_missing: bool
    ignore_unimplemented: bool

    template_fields: Sequence[str] = ("operation_name", *LroOperator.template_fields)

    def __init__(
        self,
        *,
        operation_name: Any,
        ignore_missing: bool = False,
        ignore_unimplemented: bool = False,
        lro_conn_id: str = "lro_default",
        endpoint: str | None = None,
        impersonation_chain: str | Sequence[str] | None = None,
        quota_project_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**arguments(locals()))
        self.check_literal(operation_name)

    def execute(self, context: Context) -> Any:
        """Delete each."""
        names = names_of(self.operation_name)
        with self.hook() as hook:
            clients = {name: hook.get_conn(name) for name in names}
            results, errors = act_on_each(names, lambda name: self._delete(clients[name], name))
        return finish(self, context, results, errors, given=self.operation_name, verb="deleted")

    def _delete(self, client: OperationsClient, name: str) -> dict[str, Any]:
        word = "deleted"
        try:
            client.delete_operation(name)
        except LroError as error:
            word = word_of(error, ignore_missing=self.ignore_missing, ignore_unimplemented=self.ignore_unimplemented)
        self.log.info("%s [operation %r]", word, name)
        return {"name": name, "outcome": word}


class GetOperationOperator(LroOperator):
    """Reads operations as they are now; one that failed is a result like any other.

    Its XCom is the operation as JSON for one name, a list of them for a sequence: ``name``, ``done``, and where there
    are any ``metadata``, ``response`` or ``error``. Payloads of types unknown on the worker are
    ``{"@type", "value": base64}``. All names are read before an error is raised; the XCom is there then, too.

    :param operation_name: a name, a mapping with a ``name``, or a sequence of them.
    :param type_modules: module paths to import, such as ``"google.cloud.dataplex_v1"``, so that payloads of their types
        are JSON that can be read.
    :param lro_conn_id: connection of type ``lro`` (or ``google_cloud_platform``, then with ``endpoint``).
    :param endpoint: host or host:port of the service, instead of the connection's; may hold ``{location}``.
    :param impersonation_chain: service account to impersonate, or a chain of them (text with commas, or a sequence).
    :param quota_project_id: project that quota and bills go to.
    :param headers: more headers of every call, no secret among them; ``x-goog-request-params`` takes our own's place.
    """

    operation_name: Any
    type_modules: str | Sequence[str]

    template_fields: Sequence[str] = ("operation_name", *LroOperator.template_fields)

    def __init__(
        self,
        *,
        operation_name: Any,
        type_modules: str | Sequence[str] = (),
        lro_conn_id: str = "lro_default",
        endpoint: str | None = None,
        impersonation_chain: str | Sequence[str] | None = None,
        quota_project_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**arguments(locals()))
        self.check_literal(operation_name)
        module_names(type_modules)

    def execute(self, context: Context) -> Any:
        """Read each."""
        from airflow_provider_lro._messages.encoding import operation_to_json
        from airflow_provider_lro._messages.types import load

        load(type_modules=self.type_modules)
        names = names_of(self.operation_name)
        with self.hook() as hook:
            clients = {name: hook.get_conn(name) for name in names}
            results, errors = act_on_each(names, lambda name: operation_to_json(clients[name].get_operation(name)))
        return finish(self, context, results, errors, given=self.operation_name, verb="read")


class ListOperationsOperator(LroOperator):
    """Lists the operations under a parent.

    Its XCom is a list of operations as JSON, each as ``GetOperationOperator`` gives it; the places that the service
    could not reach are the XCom ``unreachable``.

    :param parent: for example ``projects/p/locations/l``; the form differs from service to service.
    :param filter: the service's own filter language; empty lists all.
    :param page_size: operations a page; None leaves it to the service.
    :param limit: operations to list at most; None lists all.
    :param return_partial_success: list all that can be reached, and report the rest as ``unreachable``.
    :param type_modules: module paths to import, such as ``"google.cloud.dataplex_v1"``, so that payloads of their types
        are JSON that can be read.
    :param lro_conn_id: connection of type ``lro`` (or ``google_cloud_platform``, then with ``endpoint``).
    :param endpoint: host or host:port of the service, instead of the connection's; may hold ``{location}``.
    :param impersonation_chain: service account to impersonate, or a chain of them (text with commas, or a sequence).
    :param quota_project_id: project that quota and bills go to.
    :param headers: more headers of every call, no secret among them; ``x-goog-request-params`` takes our own's place.
    """

    parent: str
    filter: str
    page_size: int | None
    limit: int | None
    return_partial_success: bool
    type_modules: str | Sequence[str]

    template_fields: Sequence[str] = ("parent", "filter", *LroOperator.template_fields)

    def __init__(
        self,
        *,
        parent: str,
        filter: str = "",
        page_size: int | None = None,
        limit: int | None = None,
        return_partial_success: bool = False,
        type_modules: str | Sequence[str] = (),
        lro_conn_id: str = "lro_default",
        endpoint: str | None = None,
        impersonation_chain: str | Sequence[str] | None = None,
        quota_project_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**arguments(locals()))
        module_names(type_modules)
        check_page_size(page_size)
        if limit is not None and not is_whole(limit, most=sys.maxsize):
            raise ValueError(f"limit={limit!r}, but it must be None, for all, or a whole number from 0 to 2**63 - 1")

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """List, page after page, until there are no more or enough."""
        from airflow_provider_lro._messages.encoding import operation_to_json
        from airflow_provider_lro._messages.types import load

        load(type_modules=self.type_modules)
        parent = parent_of(self.parent)
        with self.hook() as hook:
            pager = hook.get_conn(parent).list_operations(
                parent, self.filter, self.page_size, self.return_partial_success
            )
            operations = [operation_to_json(state) for state in islice(pager, self.limit)]
            unreachable = list(pager.unreachable)
        self.log.info("%d operations under %r", len(operations), parent)
        if unreachable:
            self.log.warning("not reached: %s", one_line(", ".join(unreachable)))
        if self.return_partial_success:
            context["ti"].xcom_push(key="unreachable", value=unreachable)
        return operations
