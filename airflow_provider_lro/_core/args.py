"""``WaitArgs``: what there is to know of a wait before it begins. Floor 0: imports floor 0."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from airflow_provider_lro._core.checks import check_name, is_number, is_whole
from airflow_provider_lro._core.schedule import MAXIMUM_INTERVAL, MINIMUM_INTERVAL, Schedule

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["LATEST", "SLOWEST_PACE", "WaitArgs", "row_of"]

POLL_METHODS = ("get", "wait", "auto", "list")
SLOWEST_PACE = 1e-6
"""Polls a second: one in eleven days."""
LATEST = 1e11
"""Epoch seconds, in the year 5138: no time beyond it makes sense."""
ON_TIMEOUT = ("fail", "cancel")


@dataclass(kw_only=True, eq=False, repr=False)
class WaitArgs:
    """What crosses from an operator to its trigger: JSON scalars, stored in plain text, so never a secret.

    Fields are only ever added, with a default; an old row must still inflate. Times are epoch seconds, durations
    seconds. ``check()`` says whether the values make sense: the constructor must not (a trigger whose constructor
    raises stops its whole triggerer).
    """

    operation_name: str
    lro_conn_id: str = "lro_default"
    endpoint: str | None = None
    interval: float = 60.0
    initial_delay: float = 1.0
    multiplier: float = 2.0
    jitter: float = 0.1
    rpc_timeout: float = 30.0
    not_found_grace: float = 60.0
    max_consecutive_errors: int | None = None
    on_timeout: str = "fail"
    cancel_grace: float = 60.0
    started_at: float | None = None
    deadline: float | None = None
    impersonation_chain: str | None = None
    quota_project_id: str | None = None
    cancel_on_kill: bool = False
    consecutive_errors: int = 0
    max_polls_per_second: float | None = None
    poll_method: str = "get"
    list_parent: str | None = None
    metadata_type: str | None = None
    type_modules: str | None = None

    def schedule(self) -> Schedule:
        """Return the schedule; raises ValueError for values that make none."""
        return Schedule(
            interval=self.interval, initial=self.initial_delay, multiplier=self.multiplier, jitter=self.jitter
        )

    def parent(self) -> str:
        """Return what to list to find the operation; "" where its name does not tell: it is asked for singly."""
        return self.list_parent or self.operation_name.rpartition("/operations/")[0]

    def check(self) -> None:
        """Raise ValueError, saying which value is wrong and what would do."""
        check_name(self.operation_name)
        fastest = self.max_polls_per_second
        if fastest is not None and not is_number(fastest, least=SLOWEST_PACE):
            raise ValueError(f"max_polls_per_second must be None or a number above {SLOWEST_PACE:g}, not {fastest!r}")
        # The schedule has other names for these.
        for name, remark in (("interval", " (of a sensor: poke_interval)"), ("initial_delay", "")):
            value = getattr(self, name)
            if not is_number(value, least=MINIMUM_INTERVAL):
                raise ValueError(
                    f"{name} must be a number of seconds from {MINIMUM_INTERVAL:g} to {MAXIMUM_INTERVAL:g}{remark}, not"
                    f" {value!r}"
                )
        self.schedule()
        for name, exclusive in (("rpc_timeout", True), ("not_found_grace", False), ("cancel_grace", False)):
            value = getattr(self, name)
            if not is_number(value, least=0) or (exclusive and value == 0):
                expected = "above 0" if exclusive else "of at least 0"
                raise ValueError(f"{name} must be a number of seconds {expected}, not {value!r}")
        for name in ("started_at", "deadline"):
            value = getattr(self, name)
            if value is not None and not is_number(value, most=LATEST):
                raise ValueError(f"{name} must be None or epoch seconds up to {LATEST:g}, not {value!r}")
        most = self.max_consecutive_errors
        if most is not None and not is_whole(most):
            raise ValueError(f"max_consecutive_errors must be None or a whole number of at least 0, not {most!r}")
        self._check_texts()

    def _check_texts(self) -> None:
        if not isinstance(self.cancel_on_kill, bool):
            raise ValueError(f"cancel_on_kill must be True or False, not {self.cancel_on_kill!r}")  # noqa: TRY004
        if self.list_parent is not None:
            check_name(self.list_parent, what="list_parent")
        for name in ("metadata_type", "type_modules"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{name} must be None or a text, not {value!r}")
        if self.poll_method not in POLL_METHODS:
            known = ", ".join(map(repr, POLL_METHODS))
            raise ValueError(f"poll_method must be one of {known}, not {self.poll_method!r}")
        if self.on_timeout not in ON_TIMEOUT:
            raise ValueError(f"on_timeout must be one of {', '.join(map(repr, ON_TIMEOUT))}, not {self.on_timeout!r}")


def row_of(trigger: DataclassInstance) -> tuple[str, dict[str, Any]]:
    """Return the class path and the arguments; what equals its default is left out, so that older code reads it."""
    kind = type(trigger)
    values = {field.name: getattr(trigger, field.name) for field in fields(trigger)}
    defaults = {field.name: field.default for field in fields(trigger) if field.default is not MISSING}
    kept = {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}
    return f"{kind.__module__}.{kind.__qualname__}", kept
