"""``StartOperationOperator``: starts an operation once, whichever process dies, and waits for it."""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core.checks import MAX_NAME, check_wait_timeout, is_grpc_target, storable_json
from airflow_provider_lro._core.names import in_short, name_of, short_name, unpack
from airflow_provider_lro.exceptions import (
    REPORT_FAULT,
    EndpointError,
    LroError,
    MalformedOperation,
    OperationFailed,
    OperationNotFound,
    ResultGone,
)
from airflow_provider_lro.operators._base import (
    DEFAULT_DEFERRABLE,
    ResultOperator,
    arguments,
    as_airflows,
)
from airflow_provider_lro.operators._task_store import StartedOperation, TaskStore
from airflow_provider_lro.version_compat import AirflowFailException, AirflowSkipException, AirflowTaskTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import timedelta

    from airflow.sdk import Context

    from airflow_provider_lro._core.args import WaitArgs
    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._core.state import OperationState
    from airflow_provider_lro.hooks import LongRunningOperationHook

__all__ = ["StartOperationOperator"]

OVER = (OperationFailed, OperationNotFound, MalformedOperation)
"""Errors of an operation that will never bring a result: a retry starts another one."""
CANCELLING = ("asked", "took effect")
"""The effects of a timeout's cancel by which the operation ends, sooner or later."""
MAX_CONTEXT = 4096
"""Bytes of JSON that ``start`` may leave in the context, and that are still there at the end."""
NAMELESS = "without a name"
"""In place of the name of an operation that was done when it was started, and needs none."""
NO_RETRY = "no retry is made, as it would start another"


class StartOperationOperator(ResultOperator):
    """Starts a long-running operation and waits for it; its response, as JSON, is the XCom.

    Override ``start``. On Airflow 3.3 and newer the operation's name is stored before anything else is done, so that a
    retry, or a worker that takes over from one that died, goes on waiting for it instead of starting another. A retry
    starts anew after an operation that failed, was cancelled, or is not known any more.

    :param interval: seconds (or timedelta) between polls once the backoff has reached it; at least 0.1.
    :param wait_timeout: seconds (or timedelta) to wait before failing with ``OperationTimeout``; None: no limit. An
        ``execution_timeout`` that is shorter counts instead.
    :param deferrable: wait in the triggerer, which takes no worker. Default: ``[operators] default_deferrable``.
    :param on_timeout: ``"fail"`` leaves an operation alone that takes too long; ``"cancel"`` asks to cancel it, and
        waits up to ``cancel_grace`` for its end.
    :param cancel_grace: seconds (or timedelta) that a cancel may take.
    :param on_cancelled: about an operation that somebody cancelled: ``"fail"`` or ``"skip"``.
    :param cancel_on_kill: ask to cancel the operation when a user marks or clears the task while it waits.
    :param require_result: fail when the operation is done with neither response nor error.
    :param response_type: the type that the response must be of: import path, full name or class, as for the sensor.
    :param metadata_type: the type of the metadata, likewise, so that its progress can be read; no other is refused.
    :param type_modules: module paths to import, so that responses and metadata of their types can be unpacked.
    :param check: a function of response and metadata that says whether the result is one: falsy, or a text that says
        what is wrong, makes ``ResultRejected`` of the success, and the next try starts another operation. It is given
        messages where their types are known here, else their JSON. ``AirflowFailException`` and
        ``AirflowSkipException`` go through; any other exception rejects, too.
    :param fail_on_partial: reject a result in which parts are said to have failed (XCom ``partial_failures``).
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

    interval: float
    wait_timeout: float | None
    AFTER_REJECTION = "the next try starts another operation"
    infers_endpoint = True
    """Whether the client that ``start`` has used may tell the endpoint, where the task names none. It goes before the
    connection's host, and need not be known before the start."""
    request_id: str = ""
    """For ``start``: the same text as long as the same start is meant, for APIs that take a request id (a UUID)."""

    def __init__(
        self,
        *,
        interval: float | timedelta = 60.0,
        wait_timeout: float | timedelta | None = None,
        deferrable: bool = DEFAULT_DEFERRABLE,
        on_timeout: str = "fail",
        cancel_grace: float | timedelta = 60.0,
        on_cancelled: str = "fail",
        cancel_on_kill: bool = True,
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
        check_wait_timeout(self.wait_timeout)
        self.check_args()

    @property
    def _starter(self) -> str:
        """The name of what starts the operation, for messages."""
        return "start()"

    @property
    def own_timeout(self) -> float | None:
        """Seconds to wait."""
        return self.wait_timeout

    def start(self, context: Context) -> Any:
        """Start the operation. ``self.request_id`` is for APIs that take one.

        Returns:
            The client's answer: a ``google.longrunning.Operation`` (the message, google-api-core's or this provider's
            ``Operation``), a mapping with a ``name``, or the name.
        """
        raise NotImplementedError(f"{type(self).__name__} must override start(context) and return the operation")

    def execute(self, context: Context) -> Any:
        """Start, or find what an earlier try has started; then return, defer, or wait."""
        self.load_types()
        store = TaskStore(context)
        known = store.operation()
        if known is None:
            return self._start(context, store)
        if known.returned and store.was_cleared(known):
            store.forget()
            return self._start(context, store)
        self.log.info("started by an earlier try, so it is not started again [%s]", in_short([known.name]))
        return self._wait_for(context, store, known, found=True)

    def execute_complete(
        self,
        context: Context,
        event: Mapping[str, Any] | None = None,
        *,
        names: str | None = None,
        started_at: float | None = None,
        deadline: float | None = None,
        found: bool = False,
        was_over: bool = False,
        endpoint: str | None = None,
        left_in_context: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> Any:
        """Turn the trigger's event into the result, or into the error."""
        from airflow_provider_lro._messages.events import check_event

        context.update(left_in_context or {})  # type: ignore[typeddict-item]
        store = TaskStore(context)
        known = store.operation()
        if event is None:
            if known is None:
                advice = "find it in the log of this task, and check whether a triggerer runs"
                raise LroError(f"no triggerer has reported in time, and the operation's name is not stored: {advice}")
            deadline = time.time()
        else:
            check_event(event)
            began = time.time() if started_at is None else started_at
            name = event.get("name", "") if names is None else unpack(names)[0]
            known = known or StartedOperation(name=name, started_at=began, endpoint=endpoint)
            check_event(event, [known.name])
        args = self._args(known, deadline=deadline)
        outcome = self._outcome_in(context, store, event, args)
        anew = found and (was_over or self._is_ours(outcome, store, known))
        return self._conclude(context, store, outcome, args, anew=anew)

    def _outcome_in(
        self, context: Context, store: TaskStore, event: Mapping[str, Any] | None, args: WaitArgs
    ) -> Outcome:
        """Return the outcome in an event; the next try must not take one that succeeded for a failure."""
        from airflow_provider_lro._core.outcome import CallFailed

        name, has_succeeded = args.operation_name, event is not None and event["outcomes"] == "S"
        try:
            (outcome,) = self.outcomes_of(context, event, [name], endpoint=args.endpoint)
            problem: Exception | None = outcome.error if isinstance(outcome, CallFailed) else None
        except (LroError, ValueError, AirflowTaskTimeout) as error:
            if not has_succeeded:
                raise
            outcome, problem = None, error  # type: ignore[assignment]
        if has_succeeded and problem is not None:
            store.record_return()
            if not store.keeps:
                why = f"the operation has succeeded, and its result could not be read; {NO_RETRY}"
                raise AirflowFailException(f"{why}: {problem} [operation {name!r}]") from None
            if outcome is None:
                raise problem
        if outcome is None:
            advice = "install the same version of airflow-provider-lro on the workers and the triggerer"
            raise LroError(f"the trigger's event has no outcome: {advice} [operation {name!r}]")
        return outcome

    def _start(self, context: Context, store: TaskStore) -> Any:
        from airflow_provider_lro._core.wait import outcome_of

        with self.hook() as hook:  # a problem of the connection must be known before anything runs
            reachable = hook.check(endpoint_follows=self.infers_endpoint)
        self.request_id = store.request_id()
        before = frozenset(context)
        started = self.start(context)
        operation = _operation_of(started, self._starter)
        if not operation.name and not operation.done:
            raise AirflowFailException(
                f"{self._starter} has returned an operation that is not done and has no name to poll it by; what it has"
                f" started, if anything, goes on, and {NO_RETRY}"
            )
        if len(operation.name) > MAX_NAME:
            raise AirflowFailException(
                f"{self._starter} has returned an operation whose name has {len(operation.name):,} characters, but it"
                f" must have at most {MAX_NAME:,}; what it has started goes on, and {NO_RETRY}"
            )
        endpoint = self._endpoint_of(started) if self.infers_endpoint and not self.endpoint else None
        known = StartedOperation(
            name=operation.name, started_at=time.time(), endpoint=endpoint, context=self._left_in(context, before)
        )
        if known.name:
            store.keep(known)
            self.log.info("started [operation %r]", known.name if operation.done else short_name(known.name))
        if operation.done:  # `validate_only`, perhaps: there may be nothing to poll
            if self.has_own_end:
                name = known.name or NAMELESS
                return self.end_as_deferred(context, [name], [outcome_of(operation)], started_at=known.started_at)
            return self._conclude(context, store, outcome_of(operation), self._args(known), anew=False)
        if not (reachable or endpoint):
            why = f"what {self._starter} has returned does not tell where"
            raise self._unreachable(store, known, f"{why}; give the task endpoint=, or the connection a host")
        try:
            return self._wait_for(context, store, known, found=False)
        except EndpointError as error:
            raise self._unreachable(store, known, str(error)) from None

    def _left_in(self, context: Context, before: Collection[str]) -> dict[str, Any]:
        """Return what ``start`` has left in the context, for ``map_index_template`` perhaps: a deferral loses it."""
        left = {key: context[key] for key in context if key not in before}  # type: ignore[literal-required]
        try:
            if len(json.dumps(left, allow_nan=False)) <= MAX_CONTEXT:
                return dict(storable_json(left))
            why = f"it is larger than {MAX_CONTEXT} bytes"
        except (TypeError, ValueError, RecursionError) as error:
            why = f"it is not JSON: {error}"
        self.log.warning("what %s has left in the context (%s) is not kept: %s", self._starter, ", ".join(left), why)
        return {}

    def _endpoint_of(self, started: Any) -> str | None:
        try:
            return endpoint_of(started)
        except Exception:  # whatever a foreign client does when it is looked into: the name is not stored yet
            self.log.warning("what %s has returned does not tell its endpoint", self._starter, exc_info=True)
            return None

    def _unreachable(self, store: TaskStore, known: StartedOperation, why: str) -> Exception:
        what, which = f"the operation is started, and cannot be polled: {why}", f"[operation {known.name!r}]"
        if store.operation() is not None:
            return EndpointError(f"{what}; a retry then waits for this operation {which}")
        return AirflowFailException(f"{what}; the operation goes on, and {NO_RETRY} {which}")

    def _wait_for(self, context: Context, store: TaskStore, known: StartedOperation, *, found: bool) -> Any:
        from airflow_provider_lro._core.outcome import NotFound
        from airflow_provider_lro._core.wait import Start
        from airflow_provider_lro._runner.worker import KilledByUser

        args = self._args(known)
        was_running = False
        if known.left:
            store.record_found()

        def note_running(_: object) -> None:
            nonlocal was_running
            was_running = True
            if found:
                self._note_running(hook, store, known)

        context.update(known.context)  # type: ignore[typeddict-item]
        kwargs: dict[str, Any] = {"started_at": args.started_at, "deadline": args.deadline, "found": found}
        if known.context:
            kwargs["left_in_context"] = known.context
        if known.endpoint:
            kwargs["endpoint"] = known.endpoint
        start = Start.POLL if found else Start.FRESH
        try:
            with self.hook(endpoint=args.endpoint) as hook:
                (outcome,) = self.await_outcomes(
                    context, hook, [known.name], args, start=start, defer_kwargs=kwargs, on_pause=note_running
                )
        except KilledByUser:
            store.record_kill()
            raise
        if outcome is None:
            raise AssertionError(f"the wait ended without an outcome; {REPORT_FAULT} [operation {known.name!r}]")
        if known.returned and isinstance(outcome, NotFound):
            why = "the operation is over, as an earlier try saw, and the service does not know it any more"
            raise outcome.error.as_type(as_airflows(ResultGone), text=f"{why}; {NO_RETRY}: {outcome.error}") from None
        # An operation that was over before this try's first poll is an earlier try's failure; this one is to do better.
        was_failure = not (was_running or self._is_to_skip(outcome))
        if self.has_own_end:
            return self.end_as_deferred(context, [known.name], [outcome], **kwargs, was_over=found and was_failure)
        anew = found and (was_failure or self._is_ours(outcome, store, known))
        return self._conclude(context, store, outcome, args, anew=anew)

    def _note_running(self, hook: LongRunningOperationHook, store: TaskStore, known: StartedOperation) -> None:
        """Cancel an operation that is running still, if its try was cleared."""
        if known.returned:
            text = "it was done, as an earlier try saw, and is not any more: it is waited for again [%s]"
            self.log.warning(text, in_short([known.name]))
        if self._was_killed_by_clear(store, known):
            self._cancel_first(hook, known.name)

    def _was_killed_by_clear(self, store: TaskStore, known: StartedOperation) -> bool:
        """Return True if a user has cleared the task while it waited, and the trigger may not have heard of it."""
        return self.cancel_on_kill and store.was_cleared(known) and not (known.killed or known.left)

    def _cancel_first(self, hook: LongRunningOperationHook, name: str) -> None:
        text = "the operation is of a try that was cleared: it is asked to cancel, then another is started [%s]"
        self.log.info(text, in_short([name]))
        try:
            hook.cancel_operation(name)
        except LroError as error:
            self.log.warning("could not be asked to cancel, so its end is waited for: %s", error)

    def _is_ours(self, outcome: Outcome, store: TaskStore, known: StartedOperation) -> bool:
        """Return True if an operation was cancelled by this task's own kill or timeout, in an earlier try."""
        from airflow_provider_lro._core.outcome import Cancelled

        own = known.timed_out or (self.cancel_on_kill and (known.killed or store.was_cleared(known)))
        return own and isinstance(outcome, Cancelled)

    def _is_to_skip(self, outcome: Outcome) -> bool:
        from airflow_provider_lro._core.outcome import Cancelled

        return isinstance(outcome, Cancelled) and self.on_cancelled == "skip"

    def _conclude(self, context: Context, store: TaskStore, outcome: Outcome, args: WaitArgs, *, anew: bool) -> Any:
        from airflow_provider_lro._core.outcome import TimedOut

        if isinstance(outcome, TimedOut) and outcome.cancel in CANCELLING:
            store.record_timeout()
        self.hand_out(context, ["" if args.operation_name == NAMELESS else args.operation_name], [outcome])
        try:
            result = self.result(outcome, args)
        except OVER as error:
            if self._is_to_skip(outcome) and not anew:
                store.record_return()  # where Airflow does not hear of the skip, a retry finds it again
                raise AirflowSkipException(f"skipped: {error}") from error
            store.forget()
            if anew:
                self.log.info("the operation of an earlier try is over, so another one is started: %s", error)
                return self._start(context, store)
            raise
        except LroError:
            store.record_left()
            raise
        except (AirflowFailException, AirflowSkipException):  # of a check: the result is known
            store.record_return()
            raise
        store.record_return()
        return result

    def _args(self, known: StartedOperation, *, deadline: float | None = None) -> WaitArgs:
        if deadline is None and self.limit is not None:
            deadline = time.time() + self.limit
        # Without a name it is done, and nothing is polled.
        return self.wait_args(
            known.name or NAMELESS,
            started_at=known.started_at,
            deadline=deadline,
            endpoint=self.endpoint or known.endpoint,
        )


def _operation_of(started: Any, starter: str) -> OperationState:
    """Return the operation in the value that ``starter`` has returned.

    Raises:
        AirflowFailException: there is none in it.
    """
    from airflow_provider_lro._core.state import OperationState
    from airflow_provider_lro._messages.protocol import is_operation, state_from_json, state_from_message

    # google-api-core's Operation and AsyncOperation hold it as `operation`, ours as `proto`, proto-plus as `_pb`.
    for message in (started, *(getattr(started, attribute, None) for attribute in ("operation", "proto", "_pb"))):
        if is_operation(message):
            return state_from_message(message)
    goes_on = f"what it has started goes on, and {NO_RETRY}"
    if other := _other_kind(started):
        raise AirflowFailException(
            f"{starter} has returned an operation of another kind ({other}): only those of google.longrunning are"
            f" supported; {goes_on}"
        )
    if isinstance(started, str | Mapping):
        try:
            if isinstance(started, Mapping) and started.get("done") and not isinstance(started.get("name"), Mapping):
                return state_from_json(started)  # it need not have a name
            return OperationState(name=name_of(started, what="the returned name"))
        except ValueError as error:
            raise AirflowFailException(f"{starter} has not returned an operation: {error}; {goes_on}") from None
    if started is None:
        raise AirflowFailException(f"{starter} has returned nothing; it must return the operation; {goes_on}")
    raise AirflowFailException(
        f"{starter} has returned a value of type {type(started).__name__}, but it must return an operation (a"
        " google.longrunning.Operation, google-api-core's Operation), a mapping with a 'name', or its name;"
        f" {goes_on}"
    )


def _other_kind(started: Any) -> str | None:
    """Return what kind of operation it is that a value holds, where it is one that is not google.longrunning's."""
    if isinstance(started, Mapping):
        kind = started.get("kind")  # of Compute and Cloud SQL; GKE's has none
        if isinstance(kind, str) and kind.endswith("#operation"):
            return kind
        return "one of GKE's API" if "operationType" in started and "selfLink" in started else None
    # Compute's clients return an ExtendedOperation, which is about such a message; proto-plus has it as `_pb`.
    for message in (started, getattr(started, "_extended_operation", None)):
        own = getattr(message, "_pb", message)
        full_name = getattr(getattr(own, "DESCRIPTOR", None), "full_name", "")
        if isinstance(full_name, str) and full_name.rpartition(".")[2] == "Operation":
            return full_name
    return None


# ── where an operation came from ──

_HOST = re.compile(r"(?P<host>\w[\w.-]*|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?", re.ASCII)


def endpoint_of(started: Any) -> str | None:
    """Return the ``host:port`` that an operation's own client talks to; None where that is not certain.

    A token will be sent there, so nothing is guessed: only objects whose making is known are looked into, and their
    attributes are read, nothing in them is called. Of a gRPC channel that is the target as it was given; to ask the
    channel itself (``target()``) takes the process down when it is closed, as after ``with Client() as client: …``.

    Args:
        started: google-api-core's ``Operation``, made by a client over gRPC or REST; or this provider's.
    """
    from airflow_provider_lro.operation import Operation

    if isinstance(started, Operation):
        return _of_target(getattr(getattr(started._client, "config", None), "target", None))  # noqa: SLF001
    api_core = sys.modules.get("google.api_core.operation")
    refresh = getattr(started, "_refresh", None)
    if api_core is None or not isinstance(started, api_core.Operation) or not isinstance(refresh, functools.partial):
        return None
    if refresh.func is getattr(api_core, "_refresh_grpc", None):
        return _of_stub(refresh.args[0] if refresh.args else None)
    client = getattr(refresh.func, "__self__", None)
    if not type(client).__module__.startswith("google.api_core.operations_v1."):
        return None
    stub = getattr(client, "operations_stub", None)
    return _of_stub(stub) if stub is not None else _of_url(getattr(getattr(client, "_transport", None), "_host", None))


_KNOWN_LAYERS = ("grpc.", "opentelemetry.instrumentation.grpc.")
"""The modules whose channels and methods are looked into: gRPC's own, with its interceptors, and OpenTelemetry's."""


def _of_stub(stub: Any) -> str | None:
    """Return the endpoint of gRPC's generated stub, whose callables know their channel, below all interceptors."""
    layer: Any = getattr(stub, "GetOperation", None)
    while type(layer).__module__.startswith(_KNOWN_LAYERS):
        target = getattr(layer, "_target", None)
        if target is not None:
            return _of_target(target.decode() if isinstance(target, bytes) else target)
        # A method that gRPC intercepts knows how to make the next, out of the channel below; OpenTelemetry's has the
        # next. A channel has the one below.
        thunk = getattr(layer, "_thunk", None)
        if inspect.isfunction(thunk):
            layer = inspect.getclosurevars(thunk).nonlocals.get("self")
        else:
            layer = getattr(layer, "_base_callable", None) or getattr(layer, "_channel", None)
    return None


def _of_url(host: Any) -> str | None:
    """Return the endpoint of a REST transport; one without TLS does not answer gRPC beside it, so it has none."""
    return _of_target(host.removeprefix("https://").removesuffix("/")) if isinstance(host, str) else None


def _of_target(target: Any) -> str | None:
    """Return the endpoint in a gRPC target; only a host is one that another machine can reach, too."""
    text = target.removeprefix("dns:///") if isinstance(target, str) else ""
    found = None if is_grpc_target(text) else _HOST.fullmatch(text)
    return f"{found['host']}:{found['port'] or 443}" if found else None
