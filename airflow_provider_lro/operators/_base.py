"""The bases of all operators: connection, waiting, results.

They derive from BaseOperator, not from object: ``default_args``, ``.partial()``, templating and editors read its
signature.
"""

from __future__ import annotations

import json
import math
import time
from datetime import timedelta
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_lro._core.args import WaitArgs
from airflow_provider_lro._core.checks import check_choice, check_flag, check_not_url, read_task_headers
from airflow_provider_lro._core.names import check_literal, in_short, module_names, pack, parent_in, type_name
from airflow_provider_lro.exceptions import (
    REPORT_FAULT,
    E,
    LroError,
    OperationTimeout,
    PayloadTypeError,
    ResultGone,
    ResultRejected,
)
from airflow_provider_lro.links import XCOM_KEY, OperationLink, other_links, write_link
from airflow_provider_lro.operators._check import check_callable, rejection
from airflow_provider_lro.version_compat import (
    TRIGGER_TIMEOUTS,
    AirflowFailException,
    AirflowTaskTimeout,
    BaseOperator,
    conf,
    is_mapped_copy,
    mapped_from_xcom,
    state_of,
    task_id_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow.sdk import Context

    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._core.state import OperationState
    from airflow_provider_lro._core.wait import Start
    from airflow_provider_lro._runner.group import WaitGroup
    from airflow_provider_lro._runner.worker import WakeEvent
    from airflow_provider_lro.hooks import LongRunningOperationHook

_MISSING = object()
_TEXTS = ("lro_conn_id", "endpoint", "quota_project_id", "parent", "filter", "list_parent")
"""Arguments that are texts, and may be templates."""
DEFAULT_DEFERRABLE: bool = conf.getboolean("operators", "default_deferrable", fallback=False)
TIMEOUT_SLACK = 60.0
"""Seconds by which Airflow's own timeout is later than our last event can be: it acts only if no triggerer does."""
USERS_STATES = frozenset({None, "failed", "success", "skipped", "restarting", "removed"})
"""States that a user puts a running task into. In the others it runs on, or another try has it: leave it alone."""
READ_AGAIN_TIMEOUT = 300.0
"""Seconds in which to read operations again that were too large for the trigger's event …"""
READ_ONE_TIMEOUT = 0.1
"""… and how many more for each; a limit of polls a second may make that more."""


def as_airflows(kind: type[E], airflows: Any = AirflowFailException) -> type[E]:
    """Return a class of errors that is one of Airflow's, too, by default one that it never retries.

    A log shows it by the name that it has in the documentation.
    """
    return type(kind.__name__, (kind, airflows), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def seconds(value: Any) -> Any:
    """Return a duration in seconds; a value that is not a timedelta as it is."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def arguments(scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an ``__init__`` from its ``locals()``, to be passed on."""
    own = {name: value for name, value in scope.items() if name not in ("self", "__class__", "kwargs")}
    return {**own, **scope["kwargs"]}


@cache
def _argument_names(kind: type) -> tuple[str, ...]:
    """Return the annotated attributes without a value of an operator's classes of this package."""
    return tuple(
        name
        for base in kind.__mro__
        if base.__module__.startswith("airflow_provider_lro.")
        for name, annotation in vars(base).get("__annotations__", {}).items()
        if name not in vars(base) and not annotation.startswith("ClassVar")
    )


class LroOperator(BaseOperator):
    """An operator that calls a service.

    Its arguments, and those of the classes below, are their annotated attributes without a value: each public class has
    all of them in its signature, and ``LroOperator`` assigns them.
    """

    lro_conn_id: str
    endpoint: str | None
    impersonation_chain: str | Sequence[str] | None
    quota_project_id: str | None
    headers: Mapping[str, str] | None

    template_fields: Sequence[str] = ("lro_conn_id", "endpoint", "impersonation_chain", "quota_project_id", "headers")
    ui_color = "#d9e7ff"
    MEANT: ClassVar[Mapping[str, str]] = {
        "poke_interval": "interval",
        "timeout": "wait_timeout",
        "gcp_conn_id": "lro_conn_id, which may be the id of a Google Cloud connection, then with endpoint",
        "max_polls_per_second": "it in the connection's extra, as it holds for all tasks of the connection together",
    }
    """What others call an argument, and what it is called here."""

    def __init__(self, **kwargs: Any) -> None:
        for given, meant in self.MEANT.items():
            if given in kwargs:
                raise ValueError(f"{type(self).__name__} does not take {given}: give {meant}")
        own = {name: kwargs.pop(name) for name in _argument_names(type(self)) if name in kwargs}
        super().__init__(**kwargs)
        for name, value in own.items():
            setattr(self, name, seconds(value))
        check_not_url(getattr(self, "endpoint", None), what="endpoint")
        headers = getattr(self, "headers", None)
        if isinstance(headers, dict):  # else a template, or another task's XCom, as its values may be
            read_task_headers({key: value for key, value in headers.items() if not hasattr(value, "resolve")})
        elif isinstance(headers, list | tuple):
            read_task_headers(headers)

    def _do_render_template_fields(
        self, parent: Any, template_fields: Any, context: Context, jinja_env: Any, seen_oids: set[int]
    ) -> None:
        """Render the templates, as Airflow does, of the DAG file alone: an XCom may be what a service has said."""
        seen_oids.update(map(id, mapped_from_xcom(self, context)))
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)

    def check_literal(self, operation_name: Any) -> None:
        """Raise ValueError where no template can make a name of ``operation_name``, as it is given.

        An error of one of a mapped task's comes from ``execute``, where it may be a skip.
        """
        if not is_mapped_copy(self):
            check_literal(operation_name)

    def hook(self, *, endpoint: str | None = None) -> LongRunningOperationHook:
        """Return the hook for the connection; a context manager. ``endpoint``: where the task itself names none."""
        from airflow_provider_lro.hooks import LongRunningOperationHook

        self.digits_to_text()
        return LongRunningOperationHook.of(self, endpoint=endpoint)

    def digits_to_text(self) -> None:
        """Make texts of the numbers that native templates make of digits, such as a project's."""
        for name in _TEXTS:
            value = getattr(self, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                setattr(self, name, str(value))

    def push_result(self, context: Context, value: Any, key: str = "return_value") -> None:
        """Push an XCom, unless the task pushes none; for a task that fails, or has several."""
        if self.do_xcom_push:
            context["ti"].xcom_push(key=key, value=value)

    def pull_result(self, context: Context, key: str = "return_value") -> Any:
        """Return an XCom that this task pushed before its deferral; None without one."""
        own = task_id_of(context["ti"])
        return context["ti"].xcom_pull(task_ids=own["task_id"], key=key, map_indexes=own["map_index"])


class WaitOperator(LroOperator):
    """An operator that waits for operations; its arguments are those of a wait."""

    WAIT_FIELDS: ClassVar[tuple[str, ...]] = tuple(
        name for name in WaitArgs.__annotations__ if name != "operation_name"
    )

    initial_delay: float
    multiplier: float
    jitter: float
    rpc_timeout: float
    not_found_grace: float
    max_consecutive_errors: int | None
    connect_timeout: float | None
    poll_method: str
    list_parent: str | None
    deferrable: bool
    needs_metadata = False
    """Whether the metadata of each operation is needed at the end."""

    # ── arguments ──

    def wait_args(self, name: str, **more: Any) -> WaitArgs:
        """Return the wait for one operation; ``more`` is added by the kind of operator."""
        from airflow_provider_lro.hooks._connection import chain_of

        own = self._wait_fields()
        own["impersonation_chain"] = ",".join(chain_of(self.impersonation_chain)) or None  # only scalars cross
        own["headers"] = json.dumps(read_task_headers(self.headers)) if self.headers else None
        return WaitArgs(**{**own, "operation_name": name, **more})

    def check_args(self) -> None:
        """Raise ValueError for a wrong argument of a wait, when the DAG file is read."""
        own = self._wait_fields()
        WaitArgs(**{**own, "operation_name": "", **self.types_as_text()}).check()

    def _wait_fields(self) -> dict[str, Any]:
        self.digits_to_text()
        values = ((name, getattr(self, name, _MISSING)) for name in self.WAIT_FIELDS)
        return {name: value for name, value in values if value is not _MISSING}

    def types_as_text(self) -> dict[str, str | None]:
        """Return the types of messages as they cross to a trigger."""
        return {}

    # ── waiting ──

    def await_outcomes(
        self,
        context: Context,
        hook: LongRunningOperationHook,
        names: Sequence[str],
        args: WaitArgs,
        *,
        start: Start,
        wanted: int = 0,
        defer_kwargs: Mapping[str, Any] | None = None,
        trigger_kwargs: Mapping[str, Any] | None = None,
        on_pause: Callable[[Any], None] | None = None,
    ) -> list[Outcome | None]:
        """Wait for operations, and return the outcome of each; None for those that need not be waited for.

        Polls each once; then it goes on here, or (``deferrable``) in the triggerer, with ``defer_kwargs`` for
        ``execute_complete`` and ``trigger_kwargs`` for the trigger. ``on_pause`` is called before that, with the pause
        of an only operation, and may raise, to leave.

        Raises:
            KilledByUser: a user has killed the task, and ``cancel_on_kill`` heeds it.
        """
        args.reached = False
        group = self._group(context, names, args, hook, wanted=wanted)
        group.log_beginning(hook.stored_conn_id)
        with self._on_worker(context, group) as worker:
            worker.poll_once(start, meanwhile=lambda: self.before_wait(context, hook, names))
            if group.is_over:
                return group.outcomes
            pause = group.next_pause if len(names) == 1 else None
            if on_pause is not None:
                on_pause(pause)
            if not self.deferrable:
                if len(names) > 1:
                    self.log.info("%d operations are not done yet: waiting for them here", len(group.remaining))
                worker.run(start)
                return group.outcomes
        if pause is not None and args.max_consecutive_errors is not None:
            args.consecutive_errors = pause.errors
        args.reached = group.reached
        self._defer(names, args, hook, wanted=wanted, kwargs=defer_kwargs or {}, trigger_kwargs=trigger_kwargs or {})
        raise AssertionError(f"defer() returned; {REPORT_FAULT}")  # for the type checkers of Airflow 2

    def before_wait(self, context: Context, hook: LongRunningOperationHook, names: Sequence[str]) -> None:
        """Prepare the wait for operations that may run already; raises nothing."""

    def _group(
        self, context: Context, names: Sequence[str], args: WaitArgs, hook: LongRunningOperationHook, **more: Any
    ) -> WaitGroup:
        from airflow_provider_lro._runner.group import WaitGroup

        require_result = getattr(self, "require_result", False)
        ti = context.get("ti")
        return WaitGroup(args, names, hook.channels(names), require_result=require_result, ti=ti, **more)

    def _on_worker(self, context: Context, group: WaitGroup) -> Any:
        from airflow_provider_lro._runner.worker import WorkerWait

        return WorkerWait(group, wake=self._wake, was_killed=lambda: self._was_killed(context, group.args))

    def _defer(
        self,
        names: Sequence[str],
        args: WaitArgs,
        hook: LongRunningOperationHook,
        *,
        wanted: int,
        kwargs: Mapping[str, Any],
        trigger_kwargs: Mapping[str, Any],
    ) -> None:
        from airflow_provider_lro.triggers import LongRunningOperationTrigger

        values = {name: getattr(args, name) for name in self.WAIT_FIELDS}
        # Whether the connection is stored is known here; a triggerer that fails to read it must not go on without.
        values["lro_conn_id"] = hook.stored_conn_id
        packed = pack(names)
        if len(names) == 1:
            values["operation_name"] = names[0]
        else:
            values.update(operation_names=packed, wanted=wanted, require_result=getattr(self, "require_result", False))
        self.log.info("not done yet: the triggerer waits from here on [%s]", in_short(names))
        if args.poll_method == "list" and not parent_in(names[0], args.list_parent):
            self.log.warning(
                "the name has no /operations/ in it, by which its parent is known, so that it is polled by"
                " itself: give list_parent"
            )
        self.defer(
            trigger=LongRunningOperationTrigger(**values, **trigger_kwargs),
            method_name="execute_complete",
            kwargs={**kwargs, "names": packed},
            timeout=_airflow_timeout(args),
        )

    # ── after the event ──

    def outcomes_of(
        self, context: Context, event: Mapping[str, Any] | None, names: Sequence[str], **args: Any
    ) -> list[Outcome | None]:
        """Return the outcomes in the trigger's event; with ``args``, recheck those that it does not hold completely."""
        from airflow_provider_lro._core.outcome import CallFailed
        from airflow_provider_lro._messages.events import outcomes_from_event, to_read_again

        if event is None:  # each is polled once
            self.load_types()
            unknown: list[Outcome | None] = [None] * len(names)
            if names:
                more = {**args, "not_found_grace": 0.0}
                self.recheck(context, names, unknown, range(len(names)), limit=0.0, **more)
            return unknown
        known = outcomes_from_event(event, names)
        self.load_types(known)
        cut = to_read_again(event, with_metadata=self.needs_metadata)
        undecided = [index for index, outcome in enumerate(known) if getattr(outcome, "is_undecided", False)]
        if cut:
            self.log.info("reading %d operations again", len(cut))
            self.recheck(context, names, known, cut, limit=READ_AGAIN_TIMEOUT, on_timeout="fail", **args)
        if undecided:
            self.recheck(context, names, known, undecided, limit=0.0, not_found_grace=0.0, **args)
        failed = [index for index in undecided if isinstance(one := known[index], CallFailed) and one.is_undecided]
        if failed:
            self.recheck(context, names, known, failed, limit=READ_AGAIN_TIMEOUT, on_timeout="fail", **args)
        return known

    def load_types(self, outcomes: Sequence[Outcome | None] = ()) -> None:
        """Import the types of this task's messages, where it has any."""

    def recheck(
        self,
        context: Context,
        names: Sequence[str],
        known: list[Outcome | None],
        which: Sequence[int],
        *,
        limit: float,
        **more: Any,
    ) -> None:
        """Poll some operations again on the worker, and merge the answers into the known outcomes.

        ``which`` of ``names`` are polled, for at most ``limit`` seconds (0: once each); ``more``: arguments of waits.
        """
        from airflow_provider_lro._core.outcome import TimedOut
        from airflow_provider_lro._core.wait import Start
        from airflow_provider_lro._messages.results import merge_outcomes

        asked = [names[index] for index in which]
        now = time.time()
        args = self.wait_args(asked[0], **{**more, "started_at": now, "poll_method": "get"})
        with self.hook(endpoint=args.endpoint) as hook:
            if limit:
                rates = {one.max_polls_per_second for one in hook.channels(asked)}
                each = max(READ_ONE_TIMEOUT, *(1.5 / rate for rate in rates if rate), 0.0)
                limit += each * (len(asked) - 1)
            args.deadline = now + limit
            if all(isinstance(known[index], TimedOut) and known[index].cancel != "none" for index in which):  # type: ignore[union-attr]
                args.on_timeout = "fail"  # the trigger has asked to cancel, and has waited for the effect
            group = self._group(context, asked, args, hook, is_recheck=True)
            with self._on_worker(context, group) as worker:
                worker.run(Start.POLL)
        for index, found in zip(which, group.outcomes, strict=True):
            outcome = known[index]
            if found is not None:
                known[index] = found if outcome is None else merge_outcomes(outcome, found, names[index])

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume; if Airflow's own timeout has ended the deferral, no event has come, so poll on the worker."""
        if next_method == "__fail__" and (next_kwargs or {}).get("error") in TRIGGER_TIMEOUTS:
            return self.execute_complete(context)
        # Not super(): BaseSensorOperator's would apply soft_fail to a failed connection, too.
        return BaseOperator.resume_execution(self, next_method, next_kwargs, context)

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None, **_: Any) -> Any:
        """Go on after the event; without one, none has come by the deadline, so poll each once."""
        raise NotImplementedError

    # ── kills and timeouts ──

    @cached_property
    def _wake(self) -> WakeEvent:
        from airflow_provider_lro._runner.worker import WakeEvent

        return WakeEvent()

    def on_kill(self) -> None:
        """Wake the wait. Called from a signal handler, and not by a user's kill alone, so no more is done here."""
        self._wake.set()

    def _was_killed(self, context: Context, args: WaitArgs) -> bool:
        """Return True if a user has killed the task, and ``cancel_on_kill`` is to heed it."""
        if not args.cancel_on_kill:
            return False
        if (state := state_of(context["ti"])) not in USERS_STATES:
            text = "the worker stops, but the task is %s: no user has killed it, so the operation is left alone"
            self.log.info(text, state)
            return False
        return True

    @property
    def own_timeout(self) -> float | None:
        """Seconds that the wait may take, whatever ``execution_timeout`` is; None: any time."""
        raise NotImplementedError

    @property
    def limit(self) -> float | None:
        """Seconds to the deadline. Airflow itself does not look at ``execution_timeout`` while a task is deferred."""
        limits = (self.own_timeout, seconds(self.execution_timeout))
        return min((limit for limit in limits if limit is not None), default=None)

    def times_from_now(self) -> dict[str, float | None]:
        """Return beginning and deadline, in epoch seconds, of a wait that begins now."""
        now = time.time()
        return {"started_at": now, "deadline": None if self.limit is None else now + self.limit}

    def timeout_error(self, error: OperationTimeout) -> OperationTimeout:
        """Return a timeout as Airflow's own of a try where ``execution_timeout`` is the shorter one: retries apply."""
        one_try = math.inf if self.execution_timeout is None else self.execution_timeout.total_seconds()
        is_of_try = one_try < (math.inf if self.own_timeout is None else self.own_timeout)
        return error.as_type(as_airflows(OperationTimeout, AirflowTaskTimeout)) if is_of_try else error

    def error_of(self, outcome: Outcome, args: WaitArgs) -> LroError:
        """Return the error of an outcome that is not a success."""
        from airflow_provider_lro._messages.results import result_of

        try:
            result_of(outcome, args)
        except OperationTimeout as error:
            return self.timeout_error(error)
        except LroError as error:
            return error
        raise AssertionError(f"{outcome.word} is not an error; {REPORT_FAULT}")


def _airflow_timeout(args: WaitArgs) -> timedelta | None:
    """Return Airflow's own timeout of a deferral."""
    if args.deadline is None:
        return None
    last_event = max(0.0, args.deadline - time.time()) + args.rpc_timeout
    if args.on_timeout == "cancel":
        last_event += args.cancel_grace + 2 * args.rpc_timeout
    return timedelta(seconds=last_event + TIMEOUT_SLACK)


class ResultOperator(WaitOperator):
    """An operator whose own outcome is that of its operations; its XCom is the response, as JSON."""

    operator_extra_links = (OperationLink(),)

    on_timeout: str
    cancel_grace: float
    on_cancelled: str
    cancel_on_kill: bool
    require_result: bool
    response_type: Any
    metadata_type: Any
    type_modules: str | Sequence[str]
    check: Callable[[Any, Any], Any] | None
    fail_on_partial: bool

    AFTER_REJECTION: ClassVar[str]
    """What comes after a result that was rejected."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.check is not None:
            check_callable(self.check)
        check_flag(self.fail_on_partial, what="fail_on_partial")
        self.needs_metadata = self.check is not None or self.fail_on_partial
        self._unknown_types: set[str] = set()
        check_choice(self.on_cancelled, ("fail", "skip"), what="on_cancelled")
        type_name(self.response_type, what="response_type")
        if is_mapped_copy(self):  # for this no copy is made that is executed
            self.operator_extra_links = other_links(self.operator_extra_links)

    def prepare_for_execution(self) -> Any:
        """Return the copy that is executed; it writes its link itself, and Airflow 3 none, empty or not, at its end."""
        task: Any = super().prepare_for_execution()
        task.operator_extra_links = other_links(task.operator_extra_links)
        return task

    @property
    def has_own_end(self) -> bool:
        """Whether a subclass has its own ``execute_complete``, which may be a check that nothing is to go past."""
        return not type(self).execute_complete.__module__.startswith("airflow_provider_lro.")

    def end_as_deferred(
        self,
        context: Context,
        names: Sequence[str],
        outcomes: Sequence[Outcome | None],
        *,
        started_at: float,
        **kwargs: Any,
    ) -> Any:
        """End a wait that was not deferred by ``execute_complete``, as one that was."""
        from airflow_provider_lro._messages.events import event_from_outcomes

        event = event_from_outcomes(outcomes, names, started_at=started_at)
        return self.execute_complete(context, event, **{**kwargs, "names": pack(names), "started_at": started_at})

    def before_wait(self, context: Context, hook: LongRunningOperationHook, names: Sequence[str]) -> None:
        """Write the link to the operation, where the connection has a template for it."""
        if len(names) != 1 or (link := hook.link(names[0])) is None:
            return
        try:
            write_link(context["ti"], link)
        except Exception:  # what it is does not matter: a failed task would start a second operation
            self.log.warning("the link to the operation could not be written", exc_info=True)

    def types_as_text(self) -> dict[str, str | None]:
        """Return the types of messages as they cross to a trigger."""
        return {
            "metadata_type": type_name(self.metadata_type, what="metadata_type"),
            "type_modules": ",".join(module_names(self.type_modules)) or None,
        }

    def wait_args(self, name: str, **more: Any) -> WaitArgs:
        """Return the wait for one operation, as the parent does; types cross as text."""
        return super().wait_args(name, **{**self.types_as_text(), **more})

    def load_types(self, outcomes: Sequence[Outcome | None] = ()) -> None:
        """Import the types of this task's messages, before anything is started, waited for or decoded.

        With outcomes, it is raised only where a type is needed: a failure is not to be hidden by another one.

        Raises:
            ValueError: a module cannot be imported, or the type is not known.
        """
        if self.response_type is self.metadata_type is None and not self.type_modules:
            return
        from airflow_provider_lro._core.outcome import Succeeded
        from airflow_provider_lro._messages.types import load

        try:
            load(response_type=self.response_type, metadata_type=self.metadata_type, type_modules=self.type_modules)
        except ValueError as error:
            if not any(outcomes) or any(isinstance(outcome, Succeeded) for outcome in outcomes):
                raise
            self.log.warning("%s", error)

    def result(self, outcome: Outcome, args: WaitArgs) -> Any:
        """Return the response as JSON, or raise the error that the outcome is."""
        from airflow_provider_lro._messages.encoding import response_to_json
        from airflow_provider_lro._messages.results import result_of

        self._log_unknown_types(outcome)
        try:
            response = result_of(outcome, args, self.response_type, require_result=self.require_result)
        except (PayloadTypeError, ResultGone) as error:
            # It has succeeded: a retry would find the same, or do the work once more.
            raise error.as_type(as_airflows(type(error))) from None
        except OperationTimeout as error:
            raise self.timeout_error(error) from None
        except LroError as error:  # without our frames, and what it came of: its text says it all
            raise error.with_traceback(None) from None
        assert outcome.operation is not None  # noqa: S101  (it has a result)
        self._judge(response, outcome.operation)
        found = response_to_json(response)
        return self._splittable(found, args) if self.multiple_outputs and self.do_xcom_push else found

    def _judge(self, response: Any, state: OperationState) -> None:
        """Raise ResultRejected where the task's own check, or a partial failure, makes a failure of a success."""
        from airflow_provider_lro._messages.encoding import operation_to_json, unknown_types
        from airflow_provider_lro._messages.partial import in_a_line, partial_failures
        from airflow_provider_lro._messages.results import for_check

        why = None
        if self.fail_on_partial:
            if unknown := unknown_types(state):
                argument, name = unknown[0]
                text = (
                    f"succeeded, but fail_on_partial cannot read the type {name!r}: give {argument}= or type_modules="
                )
                raise as_airflows(PayloadTypeError)(f"{text} [operation {state.name!r}]")
            if failures := partial_failures(state):
                first = in_a_line(failures[0])
                why = f"rejected by fail_on_partial=True: {len(failures)} of its parts have failed, the first: {first}"
        if why is None and self.check is not None:
            why = rejection(self.check, *for_check(state, response, self.metadata_type))
        if why is not None:
            text = f"the operation has succeeded, and its result is {why}; {self.AFTER_REJECTION}"
            raise ResultRejected(f"{text} [operation {state.name!r}]", operation=operation_to_json(state))

    def hand_out(
        self, context: Context, names: Sequence[str], outcomes: Sequence[Outcome | None], *, is_many: bool = False
    ) -> None:
        """Push what the next tasks may want to know besides the result, whatever the outcome."""
        from airflow_provider_lro._messages.results import handed_out

        if self.do_xcom_push:
            for key, value in handed_out(names, outcomes, is_many=is_many).items():
                self.push_result(context, value, key=key)

    def _log_unknown_types(self, outcome: Outcome) -> None:
        """Say once of each type that is not known here which argument would make JSON of it."""
        from airflow_provider_lro._messages.encoding import unknown_types

        for argument, name in unknown_types(outcome.operation):
            if name not in self._unknown_types:
                self._unknown_types.add(name)
                text = "the type %r of the %s is not known here: %s= or type_modules= would make it readable"
                self.log.info(text, name, argument.removesuffix("_type"), argument)

    def _splittable(self, found: Any, args: WaitArgs) -> dict[str, Any]:
        """Return a response of which Airflow can make an XCom for each key, and that leaves the link as it is.

        Raises:
            AirflowFailException: it has no keys; Airflow's own error would have a retry start another operation.
        """
        if not isinstance(found, dict):
            raise AirflowFailException(
                "the operation has succeeded, and multiple_outputs cannot split its response, which is not a mapping (a"
                f" {type(found).__name__}): take multiple_outputs out; no retry is made, as it would find the same, or"
                f" start another [operation {args.operation_name!r}]"
            )
        if XCOM_KEY in found:
            self.log.warning("the response's key %r is left out: it is the XCom of the link to the operation", XCOM_KEY)
        if own := sorted({"operation_name", "metadata", "partial_failures"} & found.keys()):
            self.log.warning("the response has %s, which takes the place of the XCom of that name", ", ".join(own))
        return {key: value for key, value in found.items() if key != XCOM_KEY}
