"""The operators whose own outcome is that of an operation: its types, its result as JSON, its link.

Floor 2: imports floor 1, and floor ½ inside functions.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core.links import XCOM_KEY, others
from airflow_provider_lro._core.outcome import Broken, Cancelled, Failed, Succeeded, TimedOut
from airflow_provider_lro._core.type_names import module_names, type_name
from airflow_provider_lro._core.wait import Start
from airflow_provider_lro._runner.driver import result_of
from airflow_provider_lro.exceptions import OperationNotFound, OperationTimeout, PayloadTypeError, RpcError
from airflow_provider_lro.links import OperationLink, write_link
from airflow_provider_lro.operators._deferral import ExecutionTimeout, WaitingOperator, retyped
from airflow_provider_lro.operators._service import seconds
from airflow_provider_lro.version_compat import AirflowFailException

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._core.wait import WaitArgs
    from airflow_provider_lro.hooks import LongRunningOperationHook

__all__ = ["SECONDS_TO_READ_AGAIN", "FinalResultGone", "OutcomeOperator", "truth"]

SECONDS_TO_READ_AGAIN = 300.0
"""How long to try to read an operation again that was too large for the trigger's event."""
ON_CANCELLED = ("fail", "skip")


class FinalPayloadTypeError(PayloadTypeError, AirflowFailException):
    """The operation has succeeded, and its response stays of the type that it is of.

    A retry of a sensor would find the same, and one of a task that starts operations might do the work once more.
    """


class FinalResultGone(RpcError, AirflowFailException):
    """The operation has succeeded, and the service does not know it any more: what is true of it stays so."""


class OutcomeOperator(WaitingOperator):
    """An operator whose own outcome is that of an operation; its XCom is the response, as JSON.

    :param on_timeout: ``"fail"`` leaves an operation alone that takes too long; ``"cancel"`` asks to cancel it, and
        waits up to ``cancel_grace`` for the truth.
    :param cancel_grace: seconds (or timedelta) that a cancel may take.
    :param on_cancelled: what to do about an operation that somebody cancelled: ``"fail"`` or ``"skip"``.
    :param cancel_on_kill: ask to cancel the operation when a user marks or clears the task while it waits.
    :param require_result: fail when the operation is done with neither response nor error.
    :param response_type: the type that the response must be of: import path (``google.cloud.dataplex_v1.types.Lake``,
        ``module:Class``), full name (``google.cloud.dataplex.v1.Lake``), or a class, protobuf or proto-plus. Airflow
        cannot store a class in the DAG's ``default_args``, nor for a mapped task: there only a text will do.
    :param metadata_type: the type of the metadata, likewise, so that its progress can be read; no other is refused.
    :param type_modules: module paths to import, so that responses and metadata of their types can be unpacked.
    """

    operator_extra_links = (OperationLink(),)

    def __init__(
        self,
        *,
        on_timeout: str = "fail",
        cancel_grace: float | timedelta = 60.0,
        on_cancelled: str = "fail",
        cancel_on_kill: bool = False,
        require_result: bool = False,
        response_type: Any = None,
        metadata_type: Any = None,
        type_modules: str | Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.on_timeout = on_timeout
        self.cancel_grace = seconds(cancel_grace)
        self.on_cancelled = on_cancelled
        self.cancel_on_kill = cancel_on_kill
        self.require_result = require_result
        self.response_type = response_type
        self.metadata_type = metadata_type
        self.type_modules = type_modules
        type_name(response_type, what="response_type")
        if self.is_one_of_mapped:  # for this no copy is made that is executed
            self.operator_extra_links = others(self.operator_extra_links)
        if on_cancelled not in ON_CANCELLED:
            raise ValueError(f"on_cancelled must be one of {', '.join(map(repr, ON_CANCELLED))}, not {on_cancelled!r}")

    def prepare_for_execution(self) -> Any:
        """Return the copy that is executed; it writes its link itself, and Airflow 3 none, empty or not, at its end."""
        task: Any = super().prepare_for_execution()
        task.operator_extra_links = others(task.operator_extra_links)
        return task

    def show(self, context: Context, hook: LongRunningOperationHook, name: str) -> None:
        """Write the link to the operation, where the connection has a template for it."""
        if (link := hook.link(name)) is None:
            return
        try:
            write_link(context["ti"], link)
        except Exception:  # what it is does not matter: a failed task would start a second operation
            self.log.warning("operation %r: its link could not be written", name, exc_info=True)

    @property
    def own_timeout(self) -> float | None:
        """Seconds that the wait may take, without a look at ``execution_timeout``; None: any time."""
        raise NotImplementedError

    def wait_args(self, name: str, **more: Any) -> WaitArgs:
        """Return the wait for one operation, as the parent does; types cross as text."""
        types = {
            "metadata_type": type_name(self.metadata_type, what="metadata_type"),
            "type_modules": ",".join(module_names(self.type_modules)) or None,
        }
        return super().wait_args(name, **{**types, **more})

    def load_types(self, outcome: Outcome | None = None) -> None:
        """Import the types of this task's messages, before anything is started, waited for or decoded.

        With an outcome, it is raised only where a type is needed: a failure is not to be hidden by another one.

        Raises:
            ValueError: a module cannot be imported, or there is no such type.
        """
        if self.response_type is self.metadata_type is None and not self.type_modules:
            return
        from airflow_provider_lro._messages.types import load

        try:
            load(response_type=self.response_type, metadata_type=self.metadata_type, type_modules=self.type_modules)
        except ValueError as error:
            if outcome is None or isinstance(outcome, Succeeded):
                raise
            self.log.warning("%s", error)

    def result(self, outcome: Outcome, args: WaitArgs) -> Any:
        """Return the response as JSON, or raise what the outcome is instead."""
        from airflow_provider_lro._messages.encoding import response_to_json

        try:
            found = response_to_json(result_of(outcome, args, self.response_type, require_result=self.require_result))
        except PayloadTypeError as error:
            raise retyped(error, FinalPayloadTypeError) from None
        except OperationTimeout as error:
            one_try = math.inf if self.execution_timeout is None else self.execution_timeout.total_seconds()
            if one_try < (math.inf if self.own_timeout is None else self.own_timeout):
                raise retyped(error, ExecutionTimeout) from None
            raise
        return self._splittable(found, args) if self.multiple_outputs and self.do_xcom_push else found

    def _splittable(self, found: Any, args: WaitArgs) -> dict[str, Any]:
        """Return a response that Airflow can make an XCom of each key of, and that leaves the link as it is.

        Raises:
            AirflowFailException: it has no keys; Airflow's own error would have a retry start another operation.
        """
        if not isinstance(found, dict):
            raise AirflowFailException(
                f"operation {args.operation_name!r} has succeeded, and multiple_outputs cannot split its response,"
                f" which is no mapping (a {type(found).__name__}): take multiple_outputs out; no retry is made, as"
                " it would find the same, or start another"
            )
        if XCOM_KEY in found:
            self.log.warning("the response's key %r is left out: the link to the operation is the XCom of it", XCOM_KEY)
        return {key: value for key, value in found.items() if key != XCOM_KEY}

    def read_again(self, context: Context, known: Outcome, name: str, **more: Any) -> Outcome:
        """Read an operation again that was too large for the event; whatever comes of that, the verdict stands."""
        now = time.time()
        args = self.wait_args(name, started_at=now, deadline=now + SECONDS_TO_READ_AGAIN, on_timeout="fail", **more)
        return truth(known, self.poll(context, args, start=Start.POLL, again=True), name)


def truth(known: Outcome, found: Outcome, name: str) -> Outcome:
    """Return what is true of an operation whose outcome was ``known``, and that was then read again."""
    if isinstance(known, TimedOut):
        return replace(known, operation=found.operation or known.operation)
    if isinstance(found, Succeeded | Failed | Cancelled):
        return found
    if isinstance(known, Failed | Cancelled):
        return known  # the beginning of its message came with the event
    why = f"operation {name!r} has succeeded, but its response could not be read again"
    if found.error is None:
        return Broken(error=RpcError(why), operation=found.operation)
    kind = FinalResultGone if isinstance(found.error, OperationNotFound) else type(found.error)
    return Broken(error=retyped(found.error, kind, text=f"{why}: {found.error}"), operation=found.operation)
