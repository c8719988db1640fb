"""The base of the operators that clean up: list, judge the age of each operation, act on the oldest, and report."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from airflow_provider_lro._core.checks import check_choice, check_flag, check_page_size, is_name, is_whole, one_line
from airflow_provider_lro._core.names import module_names, parent_of
from airflow_provider_lro.exceptions import CredentialsError, EndpointError, LroError, UnimplementedError
from airflow_provider_lro.operators._base import LroOperator, seconds
from airflow_provider_lro.operators._bulk import for_each, raise_together
from airflow_provider_lro.version_compat import AirflowSkipException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from airflow.sdk import Context

    from airflow_provider_lro._core.state import OperationState
    from airflow_provider_lro._transport.client import OperationsClient
    from airflow_provider_lro.hooks import LongRunningOperationHook
    from airflow_provider_lro.operation import Operation

MAX_SKEW = 300.0
"""Seconds by which a service's clock may be ahead of ours; a later time does not count."""
MAX_LISTED = 200
"""Operations of one kind that an XCom names; the numbers are of all."""
MAX_MESSAGE = 500
"""Characters of an error in it."""


class Report:
    """The number of operations of each kind, ``counted`` or ``named``, and the names of those of a ``named`` kind."""

    def __init__(self, *, counted: Iterable[str] = (), named: Iterable[str] = ()) -> None:
        self._named: dict[str, list[Any]] = {kind: [] for kind in named}
        self.counts = dict.fromkeys((*counted, *self._named), 0)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Self:
        """Return the report that ``as_json`` gave."""
        report = cls()
        report.counts.update(value["counts"])
        report._named.update({kind: list(value[kind]) for kind in report.counts if kind in value})
        return report

    def add(self, kind: str, name: str = "", error: Any = None) -> None:
        """Add one operation, and where it met an error its ``code`` and its ``message``."""
        self.counts[kind] += 1
        if kind in self._named:
            met = {} if error is None else {"code": error.code, "message": error.message[:MAX_MESSAGE]}
            self._named[kind].append({"name": name, **met} if met else name)

    def move(self, name: str, kind: str, to: str, error: Any = None) -> None:
        """Move one of a kind, by name or one of those that ``as_json`` left out, to another."""
        if name in self._named[kind]:
            self._named[kind].remove(name)
        self.counts[kind] -= 1
        self.add(to, name, error)

    def names(self, kind: str) -> list[Any]:
        """Return the names of a kind; name, code and message of each of a kind that met errors."""
        return list(self._named[kind])

    def as_json(self) -> dict[str, Any]:
        """Return it for an XCom, with at most ``MAX_LISTED`` names a kind."""
        return {"counts": dict(self.counts), **{kind: names[:MAX_LISTED] for kind, names in self._named.items()}}

    def restore(self, kind: str, names: Iterable[str]) -> None:
        """Set the names of a kind, of which ``as_json`` had room for the first only."""
        self._named[kind] = list(names)

    def __str__(self) -> str:
        return ", ".join(f"{number} {kind}" for kind, number in self.counts.items() if number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An operation that is old enough: its time in epoch seconds, and the client that has listed it."""

    time: float
    name: str
    client: OperationsClient


class CleanupOperator(LroOperator):
    """An operator that acts on all operations under a parent that are old enough."""

    template_fields: Sequence[str] = ("parent", "filter", "older_than", *LroOperator.template_fields)

    parent: str | Sequence[str]
    filter: str
    older_than: Any
    time_of: str | Callable[[Operation], Any] | None
    type_modules: Any
    on_unimplemented: str
    page_size: int | None
    return_partial_success: bool

    counted: ClassVar[tuple[str, ...]]
    """Kinds of operations that are left alone, and counted."""
    named: ClassVar[tuple[str, ...]]
    """Kinds that are reported by name."""
    verb: ClassVar[str]
    """The act, as a participle."""
    would: ClassVar[str]
    """The kind of those that a dry run leaves alone."""
    max_argument: ClassVar[str]
    """The name of the argument for the maximum number of operations to act on; None: all."""

    def __init__(self, **kwargs: Any) -> None:
        dry_run = kwargs.pop("dry_run")
        super().__init__(**kwargs)
        self.is_dry = check_flag(dry_run, what="dry_run")  # BaseOperator has a method dry_run
        self.type_modules = ",".join(module_names(self.type_modules)) or None  # as text, which may cross to a trigger
        self._is_stopping = False
        most = getattr(self, self.max_argument)
        if most is not None and not is_whole(most, least=1):
            what = f"{self.max_argument}={most!r}"
            raise ValueError(
                f"{what}, but it must be None or a whole number above 0; to act on none, give dry_run=True"
            )
        check_choice(self.on_unimplemented, ("fail", "skip"), what="on_unimplemented")
        check_page_size(self.page_size)
        check_flag(self.return_partial_success, what="return_partial_success")
        # A text with anything else in it may be a template.
        if isinstance(self.older_than, int | float | None) or re.fullmatch(r"[\w .+-]*", str(self.older_than)):
            _age(self.older_than)
        path = self.time_of.strip() if isinstance(self.time_of, str) else self.time_of
        if path is not None and not (path and (isinstance(path, str) or callable(path))):
            raise ValueError(f"time_of={self.time_of!r}, but it must be None, the path of a field or a function")

    @property
    def times(self) -> Sequence[str]:
        """Fields of the metadata, of which the first that is set says from when an age counts."""
        raise NotImplementedError

    def left_alone(self, operation: OperationState) -> str | None:
        """Return the kind of an operation that is not to be touched, whatever its age; None of one that may be."""
        raise NotImplementedError

    def act(self, client: OperationsClient, name: str) -> str:
        """Act on one operation; return the kind that it is now."""
        raise NotImplementedError

    def on_kill(self) -> None:
        """Begin nothing new; called from a signal handler."""
        self._is_stopping = True
        super().on_kill()

    def clean_up(self, context: Context) -> Report:
        """List, judge, act and report.

        Raises:
            OperationsFailed: some could not be served, or not be listed; all were tried.
            AirflowSkipException: the service cannot do that, and ``on_unimplemented`` is ``"skip"``.
            LroError: the worker was told to stop before all were tried.
        """
        from airflow_provider_lro._messages.types import load

        load(type_modules=self.type_modules)
        report = self.empty_report()
        errors: dict[str, LroError] = {}
        with self.hook() as hook:
            found = self._find(hook, report, errors)
            chosen = found[: getattr(self, self.max_argument)]
            for one in found[len(chosen) :]:
                report.add("remaining", one.name)
            unlisted = len(errors)
            for one in chosen if self.is_dry else ():
                report.add(self.would, one.name)
                self.log.info("would be %s [operation %r]", self.verb, one.name)
            if not self.is_dry:
                self._act_on(chosen, report, errors)
        self.log.info("%s", report)
        unsupported = chosen and report.counts["unimplemented"] == len(chosen)
        if errors or self._is_stopping or unsupported:
            self.push_result(context, report.as_json())
        if self._is_stopping:
            what = f"{report.counts['remaining']} operations were not {self.verb}; a retry lists again"
            raise LroError(f"the worker was told to stop (a kill, or a machine that goes away): {what}")
        what, verb = ("parents and operations", f"listed or {self.verb}") if unlisted else ("operations", self.verb)
        total = unlisted + len(chosen)
        raise_together(errors, total=total, text=f"{len(errors)} of {total} {what} could not be {verb} ({report})")
        if unsupported:
            raise AirflowSkipException(
                "skipped, as on_unimplemented says: the service does not have the call by which operations"
                f" are {self.verb} (there were {len(chosen)} to be {self.verb})"
            )
        return report

    def empty_report(self) -> Report:
        """Return a report with all kinds that there are."""
        return Report(counted=("listed", *self.counted), named=(self.would, *self.named, "unreachable"))

    def _find(self, hook: LongRunningOperationHook, report: Report, errors: dict[str, LroError]) -> list[Found]:
        """Return those that are old enough, the oldest first; none of a parent whose listing breaks off."""
        latest = time.time() - _age(self.older_than)
        found: dict[str, Found] = {}  # by name: parents may overlap
        unknown: set[str] = set()
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
                    if (moment := self._judged(operation, latest, report, unknown)) is not None
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
            raise AirflowSkipException(
                f"skipped, as on_unimplemented says: the service cannot list operations: {unlistable}"
            ) from unlistable
        if unknown:
            self.log.warning(
                "%d operations are left alone, as their age is not known; their metadata: %s. type_modules makes types"
                " known, time_of says where to look",
                report.counts["unknown_age"],
                one_line(", ".join(sorted(unknown))),
            )
        if report.counts["unreachable"]:
            self.log.warning("not reached: %s", one_line(", ".join(report.names("unreachable"))))
        return sorted(found.values(), key=lambda one: (one.time, one.name))

    def _judged(self, operation: OperationState, latest: float, report: Report, unknown: set[str]) -> float | None:
        """Return the time of an operation that is to be acted on; report any other, and return None."""
        from airflow_provider_lro._messages.encoding import type_of_payload

        report.add("listed")
        kind = self.left_alone(operation)
        moment = self._time(operation) if kind is None and is_name(operation.name) else None
        if kind is None and moment is None:
            kind = "unknown_age"
            unknown.add(type_of_payload(operation.metadata) or "none")
        elif moment is not None and moment > latest:
            kind = "young"
        if kind is not None:
            report.add(kind, operation.name)
            return None
        return moment

    def _time(self, operation: OperationState) -> float | None:
        """Return the time from which the age of an operation counts; None if it is not known."""
        from airflow_provider_lro._messages.metadata import as_seconds, time_at, time_in
        from airflow_provider_lro.operation import Operation

        if self.time_of is None:
            moment = time_in(operation, self.times)
        elif isinstance(self.time_of, str):
            moment = time_at(operation, self.time_of)
        else:
            try:
                moment = as_seconds(self.time_of(Operation(None, operation)))
            except LroError:  # no metadata, or another type than the function has asked for
                return None
        return None if moment is None or moment > time.time() + MAX_SKEW else moment

    def _act_on(self, chosen: Sequence[Found], report: Report, errors: dict[str, LroError]) -> None:
        clients = {one.name: one.client for one in chosen}
        is_blocked = False

        def act(name: str) -> str:
            return "remaining" if self._is_stopping or is_blocked else self.act(clients[name], name)

        with closing(for_each(list(clients), act)) as outcomes:
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
                is_blocked = is_blocked or isinstance(outcome, CredentialsError | EndpointError)


def _age(value: object) -> float:
    """Return ``older_than`` in seconds."""
    try:
        age = float("nan" if isinstance(value, bool) else seconds(value))
    except (TypeError, ValueError, OverflowError):
        age = math.nan
    if not 0 < age < math.inf:
        raise ValueError(
            f"older_than={value!r}, but it must be a timedelta, or a number of seconds above 0, which may be a text"
        )
    return age


def _parents(value: object) -> list[str]:
    given = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return list(dict.fromkeys(map(parent_of, given)))
