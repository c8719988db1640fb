"""What the sensor does about many operations: which they are, how a worker waits for them, and what comes of it.

Floor 2: imports floor 1, and floor ½ inside functions.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core.names import are_many, pack, parent_of, unpack
from airflow_provider_lro._core.outcome import Succeeded
from airflow_provider_lro._core.quorum import Enough, wanted_of
from airflow_provider_lro._core.wait import Start
from airflow_provider_lro._many import ManyOperationsTrigger
from airflow_provider_lro._runner.driver import steady_clock
from airflow_provider_lro._runner.group import Gathering, one_of
from airflow_provider_lro._runner.telemetry import report_counts
from airflow_provider_lro._runner.worker import Aside
from airflow_provider_lro.exceptions import LroError, OperationsFailed, OperationTimeout
from airflow_provider_lro.operators._conclusion import SECONDS_TO_READ_AGAIN, OutcomeOperator, truth
from airflow_provider_lro.operators._deferral import LAST_MOMENT, SECONDS_TO_CANCEL, AirflowTaskTerminated, KilledByUser
from airflow_provider_lro.operators._service import names_of
from airflow_provider_lro.version_compat import AirflowTaskTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_lro._core.outcome import Outcome
    from airflow_provider_lro._core.wait import WaitArgs
    from airflow_provider_lro._transport.channel import ChannelConfig
    from airflow_provider_lro.hooks import LongRunningOperationHook

__all__ = ["ManyOperator"]

MOST_LINES = 20
"""Errors in the text of ``OperationsFailed``; all of them are in its ``errors``."""
SECONDS_TO_READ_ONE = 0.1
"""How much longer it may take to read one operation more again; a limit of polls a second may make that more."""
NAMES, RESULTS = "operation_names", "results"
"""Keys of XComs: what a parent has listed, and what there was when the task failed."""


class ManyOperator(OutcomeOperator):
    """A sensor of an operation, or of many of them: a sequence, or what is listed under a parent.

    :param parent: wait for all operations that are listed under it when the task starts (instead of
        ``operation_name``); their names are the XCom ``operation_names``.
    :param filter: which of these, in the service's own filter language; empty for all.
    :param wait_for: of many operations: ``"all"``, each to its end, whatever becomes of the others; ``"any"``; or how
        many must succeed. ``"any"`` and a number end as soon as it is reached, or cannot be any more.
    """

    def __init__(
        self, *, parent: str | None = None, filter: str = "", wait_for: str | int = "all", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.parent = parent
        self.filter = filter
        self.wait_for = wait_for
        wanted_of(wait_for)

    def check_many(self, operation_name: Any, *, reschedules: bool, in_trigger: bool) -> None:
        """Raise ValueError for what makes no sense together; called again when ``operation_name`` is rendered."""
        if (operation_name is None) == (self.parent is None):
            both = "neither" if self.parent is None else "both"
            raise ValueError(
                "give operation_name (a name, or a sequence of them), or a parent to list; one of the two. There is"
                f" {both}, or that is what came of templates"
            )
        if self.filter and self.parent is None:
            raise ValueError("filter says which operations of a parent are waited for, and there is no parent")
        if not self.is_many(operation_name):
            return
        if reschedules:
            raise ValueError("mode='reschedule' waits for one operation; for many use deferrable=True, or mode='poke'")
        if in_trigger:
            raise ValueError("start_from_trigger and end_from_trigger are for one operation; many need a worker")

    def is_many(self, operation_name: Any) -> bool:
        """Tell whether there is more than one operation to wait for, or may be."""
        return self.parent is not None or are_many(operation_name)

    def start_many(self, context: Context, operation_name: Any, *, started_at: float, limit: float) -> Any:
        """Look at each; then return, defer, or wait here for those that are not done."""
        with self.hook() as hook:
            names = self._list(context, hook) if self.parent is not None else names_of(operation_name)
            gathering = self._gathering(names, started_at=started_at, deadline=started_at + limit)
            channels = hook.channels(names)
            if names:
                self._here(context, gathering, channels, gathering.look)
            if not gathering.is_over and self.deferrable:
                self._defer(gathering, hook)
            if not gathering.is_over:
                self.log.info("%d operations are not done yet: waiting for them here", len(gathering.left))
                self._here(context, gathering, channels, partial(gathering.run, start=Start.RESUME))
        return self._verdict(context, gathering.names, gathering.outcomes, gathering.args)

    def take_many(
        self, context: Context, event: Mapping[str, Any], operation_name: Any, *, packed: str | None, limit: float
    ) -> Any:
        """Turn the trigger's event into the results, or into the error."""
        from airflow_provider_lro._messages.many_events import outcomes_from_event

        names = self._names_again(context, operation_name, packed)
        if names is None:
            return self.start_many(context, operation_name, started_at=event["started_at"], limit=limit)
        found = self._read_again(context, names, outcomes_from_event(event, names))
        # The duration is all that a timeout's text takes from these.
        return self._verdict(context, names, found, self.wait_args(names[0], started_at=0.0, deadline=limit))

    def late_many(self, context: Context, operation_name: Any, *, limit: float) -> Any:
        """Poll each once on the worker: by the deadline no trigger had told us anything."""
        names = self._names_again(context, operation_name, None)
        if names is None:
            raise OperationTimeout(
                f"no triggerer has told of the operations under {self.parent!r}, nor which they were"
            )
        now = time.time()
        gathering = self._gathering(names, started_at=now - limit, deadline=now)
        with self.hook() as hook:
            self._here(context, gathering, hook.channels(names), partial(gathering.run, start=Start.POLL))
        return self._verdict(context, names, gathering.outcomes, gathering.args)

    def _gathering(self, names: Sequence[str], **times: float) -> Gathering:
        from airflow_provider_lro._messages.many_events import MOST

        wanted = wanted_of(self.wait_for)
        if len(names) < wanted:
            raise ValueError(f"wait_for={self.wait_for!r} cannot be: there are {len(names)} operations")
        if len(names) > MOST:
            raise ValueError(f"{len(names):,} operations are more than one task can wait for: {MOST:,}")
        if wanted > 1 and len(set(names)) < len(names):
            raise ValueError(
                f"wait_for={self.wait_for!r} counts successes, and of an operation that is named twice there would be"
                " two; name each once"
            )
        args = self.wait_args(names[0] if names else "none", **times)
        for name in names:
            one_of(args, name).check()
        return Gathering(args, names, wanted=wanted, require_result=self.require_result)

    # Which they are

    def _list(self, context: Context, hook: LongRunningOperationHook) -> list[str]:
        from airflow_provider_lro._messages.many_events import MOST

        names: dict[str, None] = {}  # operations come and go between two pages, so that one may be in both
        nameless = 0
        for operation in hook.list_operations(parent_of(self.parent), self.filter):
            if not operation.name.strip():
                nameless += 1
                continue
            names[operation.name] = None
            if len(names) > MOST:
                raise ValueError(
                    f"there are more operations under {self.parent!r} than one task can wait for: {MOST:,}; narrow it"
                    " with filter"
                )
        self.log.info("%d operations under %r", len(names), self.parent)
        if nameless:
            self.log.warning("%d operations have no name, and are not waited for", nameless)
        self._push(context, NAMES, list(names))
        return list(names)

    def _names_again(self, context: Context, operation_name: Any, packed: str | None) -> list[str] | None:
        """Return the names of before the deferral; None if that cannot be told. A listing would find others."""
        if packed is not None:
            return unpack(packed)
        if self.parent is None:
            return names_of(operation_name)
        ti: Any = context["ti"]
        map_index = -1 if ti.map_index is None else ti.map_index
        names = ti.xcom_pull(task_ids=ti.task_id, key=NAMES, map_indexes=map_index)
        return None if names is None else list(names)

    def _push(self, context: Context, key: str, value: Any) -> None:
        if self.do_xcom_push:
            context["ti"].xcom_push(key=key, value=value)

    # How they are waited for

    def _defer(self, gathering: Gathering, hook: LongRunningOperationHook) -> None:
        packed = pack(gathering.names)
        wanted = wanted_of(self.wait_for)
        self.defer_wait(
            gathering.args,
            hook,
            kwargs={"names": packed},
            make=partial(ManyOperationsTrigger, names=packed, wanted=wanted, require_result=self.require_result),
            what=f"{len(gathering.names)} operations are",
        )

    def _here(
        self,
        context: Context,
        gathering: Gathering,
        channels: Sequence[ChannelConfig],
        work: Callable[[Sequence[ChannelConfig]], Coroutine[Any, Any, None]],
        *,
        again: bool = False,
    ) -> None:
        """Do something about them on this worker, and heed kills and ``execution_timeout`` meanwhile, as for one.

        ``again``: these waits have ended already, and are not counted once more.
        """

        async def counted(work: Callable[[Sequence[ChannelConfig]], Coroutine[Any, Any, None]]) -> None:
            try:
                await work(channels)
                if gathering.is_over and not again:
                    gathering.count_ended(channels)
            finally:
                report_counts()

        with _aside(partial(counted, work), self._kill_switch.pull) as aside:
            try:
                killed = self._was_killed_before(aside, context, gathering)
            except AirflowTaskTerminated:  # Airflow 2 raises it out of its signal handler
                aside.stop()
                if self.was_killed(context, gathering.args):
                    self._cancel_here(gathering, channels)
                raise
            except AirflowTaskTimeout:
                aside.stop()
                # Not over yet: a wait taken up after its deadline would take somebody else's cancel for its own.
                gathering.args.deadline = steady_clock()() + LAST_MOMENT
                Aside(partial(counted, partial(gathering.run, start=Start.POLL))).result()
                return
            if not killed:
                aside.result()
                return
            aside.stop()
            self._cancel_here(gathering, channels)
            raise KilledByUser(f"a user has killed the task that waited for {len(gathering.names)} operations")

    def _was_killed_before(self, aside: Aside, context: Context, gathering: Gathering) -> bool:
        """Tell whether a user kills the task before what is done aside has ended."""
        while not aside.is_done():
            if self._kill_switch.wait(1.0) and not aside.is_done() and self.was_killed(context, gathering.args):
                return True
        return False

    def _cancel_here(self, gathering: Gathering, channels: Sequence[ChannelConfig]) -> None:
        Aside(partial(gathering.cancel, channels, within=SECONDS_TO_CANCEL)).result()

    def _read_again(self, context: Context, names: Sequence[str], known: list[Outcome | None]) -> list[Outcome | None]:
        """Read what there was no room for in the event; whatever comes of that, the verdicts stand."""
        from airflow_provider_lro._messages import many_events

        missing = [index for index, outcome in enumerate(known) if many_events.unread(outcome)]
        if not missing:
            return known
        self.log.info("reading the results of %d operations", len(missing))
        with self.hook() as hook:
            asked = [names[index] for index in missing]
            channels = hook.channels(asked)
            paces = (self.max_polls_per_second, *{channel.max_polls_per_second for channel in channels})
            each = max(SECONDS_TO_READ_ONE, *(1.5 / pace for pace in paces if pace), 0.0)
            now = time.time()
            args = self.wait_args(
                asked[0],
                started_at=now,
                deadline=now + SECONDS_TO_READ_AGAIN + each * len(asked),
                on_timeout="fail",
                cancel_on_kill=False,
                poll_method="get",
            )
            gathering = Gathering(args, asked)
            self._here(context, gathering, channels, partial(gathering.run, start=Start.POLL), again=True)
        for index, found in zip(missing, gathering.outcomes, strict=True):
            outcome, name = known[index], names[index]
            if outcome is not None and found is not None:
                known[index] = truth(many_events.told(outcome, found, name), found, name)
        return known

    # What comes of it

    def _verdict(
        self, context: Context, names: Sequence[str], found: Sequence[Outcome | None], args: WaitArgs
    ) -> list[Any]:
        results: list[Any] = []
        errors: dict[str, LroError] = {}
        succeeded = failed = 0
        known = [outcome for outcome in found if outcome is not None]
        if known:
            self.load_types(next((outcome for outcome in known if isinstance(outcome, Succeeded)), known[0]))
        for name, outcome in zip(names, found, strict=True):
            result = None
            if outcome is not None:
                try:
                    result = self.result(outcome, one_of(args, name))
                    succeeded += 1
                except LroError as error:
                    errors[name] = error
                    failed += 1
            results.append(result)
        if not Enough(total=len(names), wanted=wanted_of(self.wait_for)).is_met(succeeded):
            self._push(context, RESULTS, results)
            left = len(names) - succeeded - failed
            others = f"{succeeded} succeeded" + (f", {left} are not waited for any more" if left else "")
            text = f"{failed} of {len(names)} operations failed ({others}):{_lines(errors)}"
            raise OperationsFailed(text, errors=errors)
        if errors:
            self.log.warning("enough have succeeded; of the others:%s", _lines(errors))
        return results


@contextmanager
def _aside(work: Callable[[], Coroutine[Any, Any, None]], then: Callable[[], None]) -> Iterator[Aside]:
    aside = Aside(work, then)
    try:
        yield aside
    finally:
        aside.stop()  # whatever has been raised here, no thread goes on


def _lines(errors: Mapping[str, LroError]) -> str:
    lines = [f"\n- {error}" for _, error in zip(range(MOST_LINES), errors.values(), strict=False)]
    more = len(errors) - len(lines)
    return "".join(lines) + (f"\n… and {more} more" if more > 0 else "")
