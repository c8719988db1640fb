"""What the two operators in ``stale.py`` share: list, judge the age of each, act on the oldest, and report.

Floor 2: imports floor 1, and floor ½ inside functions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_lro._core.checks import is_whole
from airflow_provider_lro._core.names import parent_of
from airflow_provider_lro._core.text import one_line
from airflow_provider_lro._core.type_names import module_names
from airflow_provider_lro.exceptions import CredentialsError, EndpointError, LroError, UnimplementedError
from airflow_provider_lro.operation import Operation
from airflow_provider_lro.operators._bulk import each_at_once, raise_all
from airflow_provider_lro.operators._report import Report
from airflow_provider_lro.operators._service import ServiceOperator, checked_page_size, seconds
from airflow_provider_lro.version_compat import AirflowSkipException

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_lro._transport.client import OperationsClient
    from airflow_provider_lro.hooks import LongRunningOperationHook

__all__ = ["SweepOperator", "checked_flag", "checked_most"]

SKEW = 300.0
"""Seconds by which a service's clock may be ahead of ours; a time later than that is none."""
ON_UNIMPLEMENTED = ("fail", "skip")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An operation that is old enough, by its time in epoch seconds, and who has listed it."""

    time: float
    name: str
    client: OperationsClient


class SweepOperator(ServiceOperator):
    """An operator that acts on all operations under a parent that are old enough.

    :param parent: for example ``projects/p/locations/l``, or a sequence of such; what a service takes differs.
    :param filter: the service's own filter language, passed on as it is; empty lists all.
    :param older_than: seconds (or timedelta, or a number as text) above 0.
    :param time_of: where the time is, for metadata without the usual fields: the path of a field, such as
        ``"progress.start_time"``, or a function that is given an ``Operation`` and returns a datetime, epoch seconds, a
        Timestamp, a text as in RFC 3339, or None where it cannot tell.
    :param type_modules: module paths to import, such as ``"google.cloud.dataplex_v1"``, so that metadata of their types
        can be unpacked.
    :param dry_run: find and report, and do nothing.
    :param on_unimplemented: about a service that cannot list, or cannot do this: ``"fail"``; or ``"skip"`` the task if
        there was nothing else to do, and only report it if there was.
    :param page_size: operations a page; None leaves it to the service.
    :param return_partial_success: list what can be reached, and report the rest as ``unreachable``.
    """

    template_fields: Sequence[str] = ("parent", "filter", "older_than", *ServiceOperator.template_fields)

    counted: ClassVar[tuple[str, ...]]
    """Kinds of operations that are left alone without further ado."""
    named: ClassVar[tuple[str, ...]]
    """Kinds that are reported by name."""
    verb: ClassVar[str]
    """What is done to them, as a participle."""
    would: ClassVar[str]
    """The kind of those that a dry run leaves alone."""

    def __init__(
        self,
        *,
        parent: str | Sequence[str],
        filter: str = "",
        older_than: float | timedelta | str,
        time_of: str | Callable[[Operation], Any] | None = None,
        type_modules: str | Sequence[str] = (),
        dry_run: bool = False,
        on_unimplemented: str = "fail",
        page_size: int | None = None,
        return_partial_success: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.parent = parent
        self.filter = filter
        self.older_than = older_than
        self.time_of = time_of
        self.type_modules = ",".join(module_names(type_modules)) or None  # as text, which may cross to a trigger
        self.is_dry = checked_flag(dry_run, what="dry_run")  # BaseOperator has a method dry_run
        self.on_unimplemented = on_unimplemented
        self.page_size = checked_page_size(page_size)
        self.return_partial_success = checked_flag(return_partial_success, what="return_partial_success")
        self._told_to_stop = False
        if isinstance(older_than, int | float | timedelta | None):  # not what is rendered later
            _age(older_than)
        blank = isinstance(time_of, str) and not time_of.strip()
        if blank or (time_of is not None and not isinstance(time_of, str) and not callable(time_of)):
            raise ValueError(f"time_of must be None, the path of a field or a function, not {time_of!r}")
        if on_unimplemented not in ON_UNIMPLEMENTED:
            known = ", ".join(map(repr, ON_UNIMPLEMENTED))
            raise ValueError(f"on_unimplemented must be one of {known}, not {on_unimplemented!r}")

    @property
    def most(self) -> int | None:
        """How many operations to act on at most; None: all."""
        raise NotImplementedError

    @property
    def times(self) -> Sequence[str]:
        """Fields of the metadata, of which the first that is set says from when an age counts."""
        raise NotImplementedError

    def left_alone(self, operation: Any) -> str | None:
        """Return the kind of an operation that is not to be touched, whatever its age; None of one that may be."""
        raise NotImplementedError

    def act(self, client: OperationsClient, name: str) -> str:
        """Do it to one operation; returns the kind that it is now."""
        raise NotImplementedError

    def on_kill(self) -> None:
        """Begin nothing new; called from a signal handler."""
        self._told_to_stop = True
        super().on_kill()

    def sweep(self, context: Context) -> Report:
        """List, judge, act and report.

        Raises:
            OperationsFailed: some could not be served, or not be listed; all were tried.
            AirflowSkipException: the service cannot do that, and ``on_unimplemented`` is ``"skip"``.
            LroError: the worker was told to stop before all were tried.
            ValueError: a module cannot be imported, or an argument makes no sense once it is rendered.
        """
        from airflow_provider_lro._messages.types import load

        load(type_modules=self.type_modules)
        report = self.empty_report()
        errors: dict[str, LroError] = {}
        with self.hook() as hook:
            found = self._find(hook, report, errors)
            chosen = found[: self.most]
            for one in found[len(chosen) :]:
                report.add("left_over", one.name)
            unlisted = len(errors)
            for one in chosen if self.is_dry else ():
                report.add(self.would, one.name)
                self.log.info("operation %r would be %s", one.name, self.verb)
            if not self.is_dry:
                self._act_on(chosen, report, errors)
        self.log.info("%s", report)
        helpless = chosen and report.counts["unimplemented"] == len(chosen)
        if errors or self._told_to_stop or helpless:
            self.publish(context, report)
        if self._told_to_stop:
            raise LroError(f"told to stop: {report.counts['left_over']} operations are left over")
        what, verb = ("parents and operations", f"listed or {self.verb}") if unlisted else ("operations", self.verb)
        raise_all(errors, of=unlisted + len(chosen), what=what, verb=verb, others=str(report))
        if helpless:
            raise AirflowSkipException(f"the service does not let operations be {self.verb}")
        return report

    def empty_report(self) -> Report:
        """Return a report with all kinds that there are."""
        return Report(counted=("listed", *self.counted), named=(self.would, *self.named, "unreachable"))

    def publish(self, context: Context, report: Report) -> None:
        """Leave the report as the task's XCom, where the task is not about to return it."""
        if self.do_xcom_push:
            context["ti"].xcom_push(key="return_value", value=report.as_json())

    def _find(self, hook: LongRunningOperationHook, report: Report, errors: dict[str, LroError]) -> list[Found]:
        """Return what is old enough, the oldest first; of a parent whose listing breaks off, nothing."""
        latest = time.time() - _age(self.older_than)
        found: dict[str, Found] = {}  # by name: parents may overlap
        untold: set[str] = set()
        unlistable: UnimplementedError | None = None
        timeout = getattr(self, "rpc_timeout", None)
        for parent in _parents(self.parent):
            client = hook.get_conn(parent)
            pager = client.list_operations(
                parent, self.filter, self.page_size, self.return_partial_success, rpc_timeout=timeout
            )
            try:
                here = {
                    operation.name: Found(time=moment, name=operation.name, client=client)
                    for operation in pager
                    if (moment := self._judged(operation, latest, report, untold)) is not None
                }
            except LroError as error:
                if isinstance(error, UnimplementedError) and self.on_unimplemented == "skip":
                    self.log.warning("operations under %r cannot be listed: %s", parent, error)
                    unlistable = error
                else:
                    errors[parent] = error
            else:
                found.update(here)
            for place in pager.unreachable:
                report.add("unreachable", place)
        if unlistable is not None and not (found or errors):
            raise AirflowSkipException(f"the service cannot list operations: {unlistable}") from unlistable
        if untold:
            self.log.warning(
                "%d operations are left alone, as their age is not known; their metadata: %s. type_modules makes types"
                " known, time_of says where to look",
                report.counts["unknown_age"],
                one_line(", ".join(sorted(untold))),
            )
        if report.counts["unreachable"]:
            self.log.warning("not reached: %s", one_line(", ".join(report.names("unreachable"))))
        return sorted(found.values(), key=lambda one: (one.time, one.name))

    def _judged(self, operation: Any, latest: float, report: Report, untold: set[str]) -> float | None:
        """Return the time of an operation that is to be acted on; of any other, note why it is not."""
        from airflow_provider_lro._messages.times import metadata_type

        report.add("listed")
        kind = self.left_alone(operation)
        moment = self._time(operation) if kind is None and operation.name.strip() else None
        if kind is None and moment is None:
            kind = "unknown_age"
            untold.add(metadata_type(operation) or "none")
        elif moment is not None and moment > latest:
            kind = "young"
        if kind is not None:
            report.add(kind, operation.name)
            return None
        return moment

    def _time(self, operation: Any) -> float | None:
        """Return the time that an operation's age counts from; None where it cannot be told."""
        from airflow_provider_lro._messages.times import as_seconds, time_at, time_in

        if self.time_of is None:
            moment = time_in(operation, self.times)
        elif isinstance(self.time_of, str):
            moment = time_at(operation, self.time_of)
        else:
            try:
                moment = as_seconds(self.time_of(Operation(None, operation)))
            except LroError:  # no metadata, or another type than the function has asked for
                return None
        return None if moment is None or moment > time.time() + SKEW else moment

    def _act_on(self, chosen: Sequence[Found], report: Report, errors: dict[str, LroError]) -> None:
        clients = {one.name: one.client for one in chosen}
        barred = False

        def act(name: str) -> str:
            return "left_over" if self._told_to_stop or barred else self.act(clients[name], name)

        with closing(each_at_once(list(clients), act)) as outcomes:
            for name, outcome in outcomes:
                if isinstance(outcome, str):
                    report.add(outcome, name)
                    continue
                errors[name] = outcome
                if isinstance(outcome, UnimplementedError):
                    report.add("unimplemented", name)
                else:
                    report.add("refused", name, outcome)
                # Neither is about the operation: a thousand more calls would be refused, too.
                barred = barred or isinstance(outcome, CredentialsError | EndpointError)


def checked_flag(value: bool, *, what: str) -> bool:  # noqa: FBT001
    """Return True or False; raises ValueError for all else: a None that was meant for "dry" would delete."""
    if not isinstance(value, bool):
        raise ValueError(f"{what} must be True or False, not {value!r}")  # noqa: TRY004
    return value


def checked_most(value: int | None, *, what: str) -> int | None:
    """Return how many operations to act on at most; raises ValueError for what is no such number."""
    if value is not None and not is_whole(value, least=1):
        raise ValueError(f"{what} must be None or a whole number above 0, not {value!r}; dry_run=True does nothing")
    return value


def _age(value: object) -> float:
    """Return ``older_than`` in seconds."""
    try:
        age = float("nan" if isinstance(value, bool) else seconds(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        age = math.nan
    if not 0 < age < math.inf:
        raise ValueError(
            f"older_than must be a number of seconds above 0, as such or as text, or a timedelta, not {value!r}"
        )
    return age


def _parents(value: object) -> list[str]:
    given = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return list(dict.fromkeys(map(parent_of, given)))
