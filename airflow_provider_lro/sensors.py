"""``LongRunningOperationSensor``: waits until an operation is done, or many are."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_lro._core.checks import MAX_NAME, one_line
from airflow_provider_lro._core.names import are_many, names_of, parent_of, unpack
from airflow_provider_lro.exceptions import (
    REPORT_FAULT,
    Code,
    LroError,
    MalformedOperation,
    OperationCancelled,
    OperationFailed,
    OperationNotFound,
    OperationsFailed,
    OperationTimeout,
    ResultRejected,
    RpcError,
)
from airflow_provider_lro.operators._base import DEFAULT_DEFERRABLE, LroOperator, ResultOperator, arguments, as_airflows
from airflow_provider_lro.operators._bulk import error_lines, raise_together
from airflow_provider_lro.version_compat import (
    AIRFLOW_VERSION,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    conf,
    first_poke,
    triggers_have_on_kill,
    why_worker_is_needed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow.sdk import Context

    from airflow_provider_lro._core.args import WaitArgs
    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro.hooks import LongRunningOperationHook

__all__ = ["LongRunningOperationSensor"]

DEFAULT_TIMEOUT: float = conf.getfloat("sensors", "default_timeout")
MIN_RESCHEDULE = 10.0
"""Seconds: in reschedule mode each poll is the start of a process on a worker."""
REFUSED = {
    "exponential_backoff": "the pauses grow already, as initial_delay, multiplier and poke_interval say",
    "max_wait": "give poke_interval, which is the longest pause",
    "silent_fail": "a failed poll fails no wait, and max_consecutive_errors limits how many may fail in a row",
}
NAMES, RESULTS = "operation_names", "results"
"""Keys of XComs: the names that were listed under a parent, and the results that there were when the task failed."""
WORKERS_METHODS = ("execute_complete", "post_execute", "resume_execution", "result")
"""Methods that a subclass may have of its own, and that a trigger that ends the task would pass over."""


FINAL: dict[type[LroError], Any] = {
    OperationFailed: AirflowFailException,
    OperationCancelled: AirflowFailException,
    OperationNotFound: AirflowFailException,
    ResultRejected: AirflowFailException,
    MalformedOperation: AirflowFailException,
    OperationTimeout: AirflowSensorTimeout,  # the time is up for the sensor, not for one try of it
}
"""Errors about the operation itself, which no retry of the sensor can change, and what they are for Airflow."""


class LongRunningOperationSensor(ResultOperator, BaseSensorOperator):
    """Waits until an operation is done, or many are; its response, as JSON, is the XCom.

    Of many it is the list of their responses, in their order, with None where there is none (``wait_for``). Their
    failures are one ``OperationsFailed``; the responses of those that succeeded are the XCom ``results`` then.

    Polls once on the worker, then by exponential backoff up to ``poke_interval``: in the triggerer
    (``deferrable=True``), on the worker (``mode="poke"``), or in one short run per poll (``mode="reschedule"``).

    :param operation_name: name of the operation, or a mapping with a ``name``, as other operators leave in XCom; or a
        sequence of these.
    :param parent: wait for all operations that are listed under it when the task starts (instead of
        ``operation_name``); their names are the XCom ``operation_names``.
    :param filter: which of these, in the service's own filter language; empty for all.
    :param wait_for: of many operations: ``"all"``, each to its end, whatever the outcome of the others; ``"any"``; or
        how many must succeed. ``"any"`` and a number end as soon as it is reached, or cannot be any more.
    :param deferrable: wait in the triggerer, which takes no worker. Default: ``[operators] default_deferrable``.
    :param poke_interval: seconds (or timedelta) between polls once the backoff has reached it; at least 0.1.
    :param timeout: seconds (or timedelta) until the sensor fails with ``OperationTimeout``, without a retry. An
        ``execution_timeout`` that is shorter counts instead, for each try.
    :param mode: ``"poke"`` or ``"reschedule"``, where it does not defer.
    :param soft_fail: skip instead of failing when the operation failed, was cancelled, is not found or took too long;
        not when it could not be reached.
    :param never_fail: skip instead of failing, whatever went wrong.
    :param end_from_trigger: end in the triggerer on a success or a skip, where nothing is lost by it; needs
        ``deferrable`` and Airflow 3.3.
    :param on_timeout: ``"fail"`` leaves an operation alone that takes too long; ``"cancel"`` asks to cancel it, and
        waits up to ``cancel_grace`` for its end.
    :param cancel_grace: seconds (or timedelta) that a cancel may take.
    :param on_cancelled: about an operation that somebody cancelled: ``"fail"`` or ``"skip"``.
    :param cancel_on_kill: ask to cancel the operation when a user marks or clears the task while it waits.
    :param require_result: fail when the operation is done with neither response nor error.
    :param response_type: the type that the response must be of: import path (``google.cloud.dataplex_v1.types.Lake``,
        ``module:Class``), full name (``google.cloud.dataplex.v1.Lake``), or a class, protobuf or proto-plus. Airflow
        cannot store a class in the DAG's ``default_args``, nor for a mapped task: there only a text will do.
    :param metadata_type: the type of the metadata, likewise, so that its progress can be read; no other is refused.
    :param type_modules: module paths to import, so that responses and metadata of their types can be unpacked.
    :param check: a function of response and metadata that says whether the result is one: falsy, or a text that says
        what is wrong, makes ``ResultRejected`` of the success, without a retry. It is given messages where their types
        are known here, else their JSON. ``AirflowFailException`` and ``AirflowSkipException`` go through; any other
        exception rejects, too.
    :param fail_on_partial: reject a result in which parts are said to have failed (XCom ``partial_failures``).
    :param initial_delay: seconds (or timedelta) between the first poll and the second.
    :param multiplier: growth of each pause over the one before, until the interval is reached.
    :param jitter: share of each pause that may be left out, 0 to 1, so that waits spread.
    :param rpc_timeout: seconds (or timedelta) that one call may take.
    :param not_found_grace: seconds (or timedelta) from the first poll for which NOT_FOUND means "not yet".
    :param max_consecutive_errors: failed polls in a row that are tolerated; None goes on until the deadline.
    :param connect_timeout: seconds (or timedelta) after which a wait ends, with ``EndpointError``, that has had no
        connection to the service since its first poll; None goes on until the deadline.
    :param poll_method: ``"get"``; or, while deferred or of many, and where the service can do that, ``"wait"`` or
        ``"auto"``, which have the server hold the answer until the operation is done, or ``"list"``, by which all waits
        under one parent share one listing an interval.
    :param list_parent: parent to list then; None: the part before ``/operations/`` in the operation's name. An
        operation whose name has no such part is polled.
    :param lro_conn_id: connection of type ``lro`` (or ``google_cloud_platform``, then with ``endpoint``).
    :param endpoint: host or host:port of the service, instead of the connection's; may hold ``{location}``.
    :param impersonation_chain: service account to impersonate, or a chain of them (text with commas, or a sequence).
    :param quota_project_id: project that quota and bills go to.
    :param headers: more headers of every call, no secret among them; ``x-goog-request-params`` takes our own's place.
    """

    AFTER_REJECTION = "no retry is made, as the operation stays as it is"
    operation_name: Any
    parent: str | None
    filter: str
    wait_for: str | int
    end_from_trigger: bool

    template_fields: Sequence[str] = ("operation_name", "parent", "filter", *LroOperator.template_fields)

    def __init__(
        self,
        *,
        operation_name: Any = None,
        parent: str | None = None,
        filter: str = "",
        wait_for: str | int = "all",
        deferrable: bool = DEFAULT_DEFERRABLE,
        poke_interval: float | timedelta = 60.0,
        timeout: float | timedelta = DEFAULT_TIMEOUT,
        mode: str = "poke",
        soft_fail: bool = False,
        never_fail: bool = False,
        end_from_trigger: bool = False,
        on_timeout: str = "fail",
        cancel_grace: float | timedelta = 60.0,
        on_cancelled: str = "fail",
        cancel_on_kill: bool = False,
        require_result: bool = False,
        response_type: Any = None,
        metadata_type: Any = None,
        type_modules: str | Sequence[str] = (),
        check: Callable[[Any, Any], Any] | None = None,
        fail_on_partial: bool = False,
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
        refused = [f"{name}: {why}" for name, why in REFUSED.items() if getattr(self, name)]
        if refused:
            raise ValueError(f"{type(self).__name__} does not take {'; '.join(refused)}")
        if self._reschedules and self.max_consecutive_errors:
            raise ValueError(
                f"max_consecutive_errors={self.max_consecutive_errors} cannot be counted in mode='reschedule', where"
                " each poll is a process of its own; use deferrable=True, or 0 to tolerate none"
            )
        if end_from_trigger and not deferrable:
            raise ValueError("end_from_trigger=True needs deferrable=True: give both, or leave it out")
        if (check is not None or fail_on_partial) and (wait_for != "all" or end_from_trigger):
            raise ValueError(
                f"wait_for={wait_for!r} and end_from_trigger={end_from_trigger}, but a check sees each success on a"
                " worker: take it out, or let them be 'all' and False"
            )
        if end_from_trigger and not triggers_have_on_kill():  # which came with the XComs of triggers
            raise ValueError(
                f"end_from_trigger=True needs Airflow 3.3 or newer, and this is {AIRFLOW_VERSION}: leave it out"
            )
        self._wanted()
        self._check_names(operation_name)
        self.check_args()

    # ── arguments ──

    MEANT: ClassVar[Mapping[str, str]] = {
        "interval": "poke_interval",
        "wait_timeout": "timeout",
        **{name: ResultOperator.MEANT[name] for name in ("gcp_conn_id", "max_polls_per_second")},
    }

    @property
    def interval(self) -> float:
        """The pause between polls, by the name that the wait knows it by."""
        return float(self.poke_interval)

    @property
    def own_timeout(self) -> float:
        """The sensor's ``timeout``, in seconds."""
        return float(self.timeout)

    @property
    def limit(self) -> float:
        """Seconds to the deadline. Airflow itself does not look at ``execution_timeout`` while a task is deferred."""
        if not self.deferrable or self.execution_timeout is None:
            return self.own_timeout
        return min(self.own_timeout, self.execution_timeout.total_seconds())

    @property
    def _reschedules(self) -> bool:
        return self.reschedule and not self.deferrable

    @property
    def _is_many(self) -> bool:
        """Whether there is more than one operation to wait for, or may be."""
        return self.parent is not None or are_many(self.operation_name)

    def _wanted(self) -> int:
        from airflow_provider_lro._core.outcome import Quorum

        return Quorum.wanted_by(self.wait_for)

    def _check_names(self, operation_name: Any) -> None:
        """Raise ValueError for arguments that contradict each other; called again when the name is rendered."""
        if (operation_name is None) == (self.parent is None):
            both = "neither" if self.parent is None else "both"
            raise ValueError(
                f"there is {both} of operation_name and parent, perhaps after rendering: give operation_name (a name"
                " or a sequence of them), or a parent to list"
            )
        if self.filter and self.parent is None:
            raise ValueError(f"filter={self.filter!r}, but it chooses from the operations of a parent: give parent")
        if not self._is_many:
            return
        if self._reschedules:
            raise ValueError("mode='reschedule' waits for one operation; for many use deferrable=True, or mode='poke'")
        if self.end_from_trigger:
            raise ValueError("end_from_trigger=True is for one operation; many need a worker: leave it out")

    def _check_count(self, names: Sequence[str], wanted: int) -> None:
        """Raise ValueError where so many operations cannot be waited for."""
        from airflow_provider_lro._messages.events import MAX_OPERATIONS

        if len(names) < wanted:
            there = f'only {len(names)} operations: give a number from 1 to {len(names)}, "all" or "any"'
            if not names:
                there = f'no operations (filter={self.filter!r}): give "all" if none are a success, or widen the filter'
            raise ValueError(f"wait_for={self.wait_for!r}, but there are {there}")
        if len(names) > MAX_OPERATIONS:
            raise ValueError(
                f"{len(names):,} operations are more than one task can wait for ({MAX_OPERATIONS:,}): narrow them with"
                " filter, or use several tasks"
            )
        if wanted > 1 and len(set(names)) < len(names):
            raise ValueError(
                f"wait_for={self.wait_for!r} counts successes, and an operation that is named twice would count twice:"
                " name each once"
            )

    # ── execution ──

    def execute(self, context: Context) -> Any:
        """Poll once; then return, defer, reschedule, or go on polling."""
        return self._map_errors(lambda: self._start(context, time.time()))

    def execute_complete(
        self, context: Context, event: Mapping[str, Any] | None = None, *, names: str | None = None, **_: Any
    ) -> Any:
        """Turn the trigger's event into the result, or into the error."""
        return self._map_errors(lambda: self._resume(context, event, names))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume, by the same rules for skipping where no event came: a trigger that crashed, or none that ran."""
        return self._map_errors(
            lambda: super(LongRunningOperationSensor, self).resume_execution(next_method, next_kwargs, context)
        )

    def _start(self, context: Context, started_at: float) -> Any:
        from airflow_provider_lro._core.wait import Start

        self.load_types()
        start = Start.FRESH
        if self._reschedules and (first := first_poke(context, self)) is not None:
            started_at, start = first, Start.POKE  # a cancel, and its effect, is the matter of one poke
        self._check_names(self.operation_name)
        with self.hook() as hook:
            names = self._list(context, hook) if self.parent is not None else names_of(self.operation_name)
            wanted = self._wanted() if len(names) > 1 or self._is_many else 0
            self._check_count(names, wanted)
            if not names:
                return self._result(context, names, [])
            args = self.wait_args(names[0], started_at=started_at, deadline=started_at + self.limit)
            outcomes = self.await_outcomes(
                context,
                hook,
                names,
                args,
                start=start,
                wanted=wanted,
                trigger_kwargs=self._trigger_kwargs(),
                on_pause=_reschedule if self._reschedules else None,
            )
        if self.has_own_end:
            return self.end_as_deferred(context, names, outcomes, started_at=started_at)
        return self._result(context, names, outcomes, args)

    def _resume(self, context: Context, event: Mapping[str, Any] | None, packed: str | None) -> Any:
        from airflow_provider_lro._messages.events import check_event

        if event is not None:
            check_event(event)
        names = self._names_again(context, packed)
        if names is None and event is not None:  # `airflow dags test` drops the arguments, and the listing was not kept
            return self._start(context, event["started_at"])
        if names is None:
            raise OperationTimeout(
                f"the triggerer has not reported by the deadline, and the XCom {NAMES!r} of the operations under"
                f" {self.parent!r} is missing: check whether a triggerer runs, then clear the task"
            )
        return self._result(context, names, self.outcomes_of(context, event, names))

    def _names_again(self, context: Context, packed: str | None) -> list[str] | None:
        """Return the names that were waited for before the deferral; None: not known. A new listing finds others."""
        if packed is not None:
            return unpack(packed)
        if self.parent is None:
            return names_of(self.operation_name)
        names = self.pull_result(context, key=NAMES)
        return None if names is None else list(names)

    def _list(self, context: Context, hook: LongRunningOperationHook) -> list[str]:
        from airflow_provider_lro._messages.events import MAX_OPERATIONS

        parent = parent_of(self.parent)
        names: dict[str, None] = {}  # operations come and go between two pages, so that one may be in both
        nameless = 0
        for state in hook.get_conn(parent).list_operations(parent, self.filter):
            if not state.name.strip():
                nameless += 1
                continue
            if len(state.name) > MAX_NAME:
                raise RpcError(
                    f"the service lists an operation whose name has {len(state.name):,} characters, but it must have at"
                    f" most {MAX_NAME:,}: leave it out by filter [ListOperations of {parent!r}]",
                    code=Code.INTERNAL,
                )
            names[state.name] = None
            if len(names) > MAX_OPERATIONS:
                self._check_count(list(names), 0)
        self.log.info("%d operations under %r", len(names), parent)
        if nameless:
            self.log.warning("%d operations have no name, and are not waited for", nameless)
        self.push_result(context, list(names), key=NAMES)
        return list(names)

    def _trigger_kwargs(self) -> dict[str, Any]:
        """Return the arguments of a trigger that ends the task, if one may."""
        from airflow_provider_lro._core.names import type_name

        if not self.end_from_trigger:
            return {}
        own = [
            name
            for name in WORKERS_METHODS
            if getattr(type(self), name) is not getattr(LongRunningOperationSensor, name)
        ]
        reason = f"its class has its own {own[0]}" if own else why_worker_is_needed(self)
        if reason is not None:
            self.log.info("a worker ends the task, as %s", reason)
            return {}
        own_values = ("on_cancelled", "soft_fail", "never_fail", "require_result", "do_xcom_push")
        return {
            "end_from_trigger": True,
            "response_type": type_name(self.response_type, what="response_type"),
            **{name: getattr(self, name) for name in own_values},
        }

    # ── the end ──

    def _result(
        self, context: Context, names: Sequence[str], outcomes: Sequence[Outcome | None], args: WaitArgs | None = None
    ) -> Any:
        """Return the result, or raise the error, of one operation or many."""
        if args is None:  # the duration is all that a timeout's text takes from these
            args = self.wait_args(names[0] if names else "none", started_at=0.0, deadline=self.limit)
        self.hand_out(context, names, outcomes, is_many=self._is_many)
        if self._is_many:
            return self._results(context, names, outcomes, args)
        if outcomes[0] is None:
            raise AssertionError(f"the wait ended without an outcome; {REPORT_FAULT} [operation {names[0]!r}]")
        return self.result(outcomes[0], args)

    def _results(
        self, context: Context, names: Sequence[str], outcomes: Sequence[Outcome | None], args: WaitArgs
    ) -> list[Any]:
        from airflow_provider_lro._core.outcome import Quorum
        from airflow_provider_lro._runner.group import args_for

        results: list[Any] = [None] * len(names)
        errors: dict[str, LroError] = {}
        done = succeeded = 0
        self.load_types(outcomes)
        for index, outcome in enumerate(outcomes):
            if outcome is None:
                continue
            done += 1
            try:
                results[index] = self.result(outcome, args_for(args, names[index]))
                succeeded += 1
            except LroError as error:
                errors[names[index]] = error
        if not Quorum(total=len(names), wanted=self._wanted()).is_met(succeeded):
            self.push_result(context, results, key=RESULTS)
            remaining = len(names) - done
            others = f"{succeeded} succeeded" + (f", {remaining} are not waited for any more" if remaining else "")
            text = f"{done - succeeded} of {len(names)} operations failed ({others})"
            # One of a sequence of one comes with its name, like one of many.
            raise_together(errors, total=max(len(names), 2), text=text)
        if errors:
            self.log.warning("%d have succeeded: enough; of the others:%s", succeeded, error_lines(errors.values()))
        return results

    def _map_errors(self, attempt: Callable[[], Any]) -> Any:
        """Turn an error into a skip, a failure without a retry, or one with; the same in all modes.

        Airflow's own two paths, poke and deferred, differ in this, and neither distinguishes a connection that fails.
        """
        from airflow_provider_lro._core.outcome import is_skip

        try:
            return attempt()
        except (AirflowSkipException, AirflowRescheduleException):
            raise
        except AirflowTaskTimeout as timeout:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"skipped, as execution_timeout is over: {timeout}") from timeout
            raise
        except LroError as error:
            if is_skip(error, on_cancelled=self.on_cancelled, soft_fail=self.soft_fail, never_fail=self.never_fail):
                raise AirflowSkipException(f"skipped: {error}") from error
            kind = _final(error)
            if kind is None:
                raise error.with_traceback(None)  # noqa: B904  (without our frames below)
            raise error.as_type(kind) from None
        except Exception as error:
            if self.never_fail:
                raise AirflowSkipException(f"skipped: {one_line(str(error))}") from error
            raise


def _final(error: LroError) -> type[LroError] | None:
    """Return the class of an error that no retry can help; None where one may."""
    if type(error) is OperationsFailed and error.errors and all(map(_is_final, error.errors.values())):
        return as_airflows(OperationsFailed)
    airflows = FINAL.get(type(error))
    return None if airflows is None else as_airflows(type(error), airflows)


def _is_final(error: LroError) -> bool:
    return type(error) in FINAL or isinstance(error, AirflowFailException)


def _reschedule(pause: Any) -> None:
    """Leave the worker until the next poll."""
    later = max(MIN_RESCHEDULE, random.uniform(pause.window.shortest, pause.window.longest))
    raise AirflowRescheduleException(datetime.now(tz=UTC) + timedelta(seconds=later))
