"""Operators that cancel, delete, get and list operations of any service.

Floor 2: imports floor 1, and floor ½ inside functions.
"""

from __future__ import annotations

import sys
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core import outcome as outcomes
from airflow_provider_lro._core.checks import is_whole
from airflow_provider_lro._core.names import parent_of
from airflow_provider_lro._core.text import one_line
from airflow_provider_lro._core.wait import Start
from airflow_provider_lro._runner.driver import result_of
from airflow_provider_lro.exceptions import OperationNotFound, UnimplementedError
from airflow_provider_lro.operators._bulk import WORDS, ask, each, one_or_all
from airflow_provider_lro.operators._deferral import WaitingOperator
from airflow_provider_lro.operators._service import (
    ServiceOperator,
    checked_page_size,
    checked_wait_timeout,
    earliest,
    names_of,
    seconds,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_lro._core.commands import Pause
    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._core.wait import WaitArgs
    from airflow_provider_lro._transport.client import OperationsClient
    from airflow_provider_lro.hooks import LongRunningOperationHook

__all__ = [
    "CancelOperationOperator",
    "DeleteOperationOperator",
    "GetOperationOperator",
    "ListOperationsOperator",
]


class CancelOperationOperator(WaitingOperator):
    """Asks to cancel operations, and with ``wait=True`` waits for what comes of it.

    An operation that is done already is left alone. Its XCom is a mapping for one name, a list of them for a sequence:
    ``name``; ``asked``, whether a cancel was asked for; ``outcome``: ``running`` (asked, and not waited for),
    ``cancelled``, ``succeeded`` or ``failed`` (it finished, perhaps in spite of the cancel), ``missing`` or
    ``unimplemented``. All names are asked before an error is raised; the first wait that fails ends the others.

    :param operation_name: a name, a mapping with a ``name``, or a sequence of them.
    :param wait: wait until each operation is done; deferrable.
    :param wait_timeout: seconds (or timedelta) to wait before failing with ``OperationTimeout``; None: no limit. An
        ``execution_timeout`` that is shorter counts instead.
    :param interval: seconds (or timedelta) between polls once the backoff has reached it; at least 0.1.
    :param ignore_missing: take NOT_FOUND for an outcome instead of an error.
    :param ignore_unimplemented: take a service that cannot cancel for an outcome instead of an error.
    """

    template_fields: Sequence[str] = ("operation_name", *ServiceOperator.template_fields)

    def __init__(
        self,
        *,
        operation_name: Any,
        wait: bool = False,
        wait_timeout: float | timedelta | None = None,
        interval: float | timedelta = 60.0,
        ignore_missing: bool = False,
        ignore_unimplemented: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.operation_name = self.checked_literal(operation_name)
        self.wait = wait
        self.wait_timeout = checked_wait_timeout(wait_timeout)
        self.interval = seconds(interval)
        self.ignore_missing = ignore_missing
        self.ignore_unimplemented = ignore_unimplemented
        self.wait_args("to be rendered", impersonation_chain=None).check()

    def execute(self, context: Context) -> Any:
        """Ask to cancel each; then return, or wait."""
        results = self._ask_all()
        if not self.wait:
            return self._xcom(results)
        now = time.time()
        limit = earliest(self.wait_timeout, self.execution_timeout)
        return self._await(context, results, started_at=now, deadline=None if limit is None else now + limit)

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
        """Note what the trigger found, and wait for the operations that are still left."""
        from airflow_provider_lro._messages.events import outcome_from_event

        event = event or {}
        outcome = self.seen(context, outcome_from_event(event), event["name"])
        started_at = time.time() if started_at is None else started_at
        # `airflow dags test` drops the arguments: then each is asked again, which changes nothing.
        results = results if results is not None else self._ask_all()
        args = self.wait_args(event["name"], started_at=started_at, deadline=deadline)
        for result in results:
            if result["name"] == event["name"] and result["outcome"] == "running":
                result["outcome"] = self._word(outcome, args)
        return self._await(context, results, started_at=started_at, deadline=deadline)

    def execute_late(self, context: Context) -> Any:
        """Poll each once on the worker: by the deadline no trigger had told us anything."""
        now = time.time()
        return self._await(context, self._ask_all(), started_at=now - (self.wait_timeout or 0.0), deadline=now)

    def _ask_all(self) -> list[dict[str, Any]]:
        with self.hook() as hook:
            return each(
                names_of(self.operation_name), lambda name: self._ask(hook.get_conn(name), name), verb="cancelled"
            )

    def _ask(self, client: OperationsClient, name: str) -> dict[str, Any]:
        return ask(
            client,
            name,
            rpc_timeout=self.rpc_timeout,
            ignore_missing=self.ignore_missing,
            ignore_unimplemented=self.ignore_unimplemented,
            log=self.log,
        )

    def _await(
        self, context: Context, results: list[dict[str, Any]], *, started_at: float, deadline: float | None
    ) -> Any:
        for result in results:
            if result["outcome"] == "running":
                args = self.wait_args(result["name"], started_at=started_at, deadline=deadline)
                result["outcome"] = self._word(self._wait_for(context, args, results), args)
        return self._xcom(results)

    def _wait_for(self, context: Context, args: WaitArgs, results: list[dict[str, Any]]) -> Outcome:
        def leave(hook: LongRunningOperationHook, _: Pause) -> None:
            if self.deferrable:
                known = {"results": results, "started_at": args.started_at, "deadline": args.deadline}
                self.defer_wait(args, hook, kwargs=known)

        return self.poll(context, args, start=Start.POLL, leave=leave)

    def _word(self, outcome: Outcome, args: WaitArgs) -> str:
        if isinstance(outcome, outcomes.NotFound) and self.ignore_missing:
            return "missing"
        if type(outcome) not in WORDS:
            result_of(outcome, args)
        return WORDS[type(outcome)]

    def _xcom(self, results: list[dict[str, Any]]) -> Any:
        return one_or_all(results, self.operation_name)


class DeleteOperationOperator(ServiceOperator):
    """Tells the service that nobody is interested in the results of operations any more. Does not cancel them.

    Its XCom is a mapping for one name, a list of them for a sequence: ``name``; ``outcome``: ``deleted``, ``missing``
    or ``unimplemented``. All names are tried before an error is raised.

    :param operation_name: a name, a mapping with a ``name``, or a sequence of them.
    :param ignore_missing: take NOT_FOUND for an outcome instead of an error.
    :param ignore_unimplemented: take a service that cannot delete for an outcome instead of an error.
    """

    template_fields: Sequence[str] = ("operation_name", *ServiceOperator.template_fields)

    def __init__(
        self, *, operation_name: Any, ignore_missing: bool = False, ignore_unimplemented: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.operation_name = self.checked_literal(operation_name)
        self.ignore_missing = ignore_missing
        self.ignore_unimplemented = ignore_unimplemented

    def execute(self, context: Context) -> Any:
        """Delete each."""
        with self.hook() as hook:
            results = each(
                names_of(self.operation_name), lambda name: self._delete(hook.get_conn(name), name), verb="deleted"
            )
        return one_or_all(results, self.operation_name)

    def _delete(self, client: OperationsClient, name: str) -> dict[str, Any]:
        outcome = "deleted"
        try:
            client.delete_operation(name)
        except OperationNotFound:
            if not self.ignore_missing:
                raise
            outcome = "missing"
        except UnimplementedError:
            if not self.ignore_unimplemented:
                raise
            outcome = "unimplemented"
        self.log.info("operation %r: %s", name, outcome)
        return {"name": name, "outcome": outcome}


class GetOperationOperator(ServiceOperator):
    """Reads operations as they are now; one that failed is a result like any other.

    Its XCom is the operation as JSON for one name, a list of them for a sequence: ``name``, ``done``, and where there
    are any ``metadata``, ``response`` or ``error``. Payloads of types unknown on the worker are
    ``{"@type", "value": base64}``.

    :param operation_name: a name, a mapping with a ``name``, or a sequence of them.
    """

    template_fields: Sequence[str] = ("operation_name", *ServiceOperator.template_fields)

    def __init__(self, *, operation_name: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.operation_name = self.checked_literal(operation_name)

    def execute(self, context: Context) -> Any:
        """Read each."""
        from airflow_provider_lro._messages.encoding import operation_to_json

        with self.hook() as hook:
            results = each(
                names_of(self.operation_name),
                lambda name: operation_to_json(hook.get_operation(name).proto),
                verb="read",
            )
        return one_or_all(results, self.operation_name)


class ListOperationsOperator(ServiceOperator):
    """Lists the operations under a parent.

    Its XCom is a list of operations as JSON, each as ``GetOperationOperator`` gives it; what the service could not
    reach is the XCom ``unreachable``.

    :param parent: for example ``projects/p/locations/l``; what a service takes differs.
    :param filter: the service's own filter language; empty lists all.
    :param page_size: operations a page; None leaves it to the service.
    :param limit: operations to list at most; None lists all.
    :param return_partial_success: list what can be reached, and report the rest as ``unreachable``.
    """

    template_fields: Sequence[str] = ("parent", "filter", *ServiceOperator.template_fields)

    def __init__(
        self,
        *,
        parent: str,
        filter: str = "",
        page_size: int | None = None,
        limit: int | None = None,
        return_partial_success: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.parent = parent
        self.filter = filter
        self.page_size = checked_page_size(page_size)
        self.limit = limit
        self.return_partial_success = return_partial_success
        if limit is not None and not is_whole(limit, most=sys.maxsize):
            raise ValueError(
                f"limit must be None, for all, or a whole number of at least 0 and below 2**63, not {limit!r}"
            )

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """List, page after page, until there are no more or enough."""
        from airflow_provider_lro._messages.encoding import operation_to_json

        parent = parent_of(self.parent)
        with self.hook() as hook:
            pager = hook.list_operations(parent, self.filter, self.page_size, self.return_partial_success)
            operations = [operation_to_json(operation) for operation in islice(pager, self.limit)]
            unreachable = list(pager.unreachable)
        self.log.info("%d operations under %r", len(operations), parent)
        if unreachable:
            self.log.warning("not reached: %s", one_line(", ".join(unreachable)))
        if self.return_partial_success:
            context["ti"].xcom_push(key="unreachable", value=unreachable)
        return operations
